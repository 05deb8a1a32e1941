"""The page on which one drops ECG files: one answer, with style and script inside it, and nothing from elsewhere."""

import base64
import hashlib
from html import escape

from fairseq_signals_ext.readers.formats import supported
from fairseq_signals_ext.serving.answers import NOTE

_STYLE = """
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem 3rem; color: #1d272f; background: #fff;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0; }
h2 { font-size: 1.15rem; margin: 0; overflow-wrap: anywhere; }
p { margin: .4rem 0; }
.note { border-left: 5px solid #c28a16; border-radius: 4px; background: #fdf6e5; padding: .5rem 1rem; }
.facts, .hint { color: #4b5862; font-size: .9rem; overflow-wrap: anywhere; }
#drop { border: 2px dashed #6b7a86; border-radius: 8px; padding: 1.4rem 1rem; margin: 1rem 0; text-align: center; }
#drop.over { border-color: #1f5fa8; background: #eaf2fb; }
#files { font: inherit; max-width: 100%; }
#files::file-selector-button { font: inherit; }
label { display: block; font-weight: 600; }
details { margin: 0 0 1rem; }
summary { cursor: pointer; }
details div { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: .8rem; margin: .6rem 0; }
details input, details select { font: inherit; width: 100%; box-sizing: border-box; padding: .25rem .4rem; }
:focus-visible { outline: 3px solid #1f5fa8; outline-offset: 2px; }
article { border: 1px solid #d3dae0; border-radius: 8px; padding: .8rem 1rem; margin: 1rem 0; }
button { font: inherit; padding: .25rem .8rem; }
label.choice { display: inline; font-weight: 400; }
article.failed { border-left: 5px solid #b3261e; background: #fdf1f0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: .6rem 0 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: #4b5862; font-size: .9rem; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #e7ecef; }
thead th { color: #4b5862; font-size: .85rem; }
th:first-child, .drawn { text-align: left; }
tr.positive th, tr.positive td { font-weight: 700; background: #fff6e0; }
.bar { position: relative; display: block; width: 10rem; height: .9rem; background: #e4e9ed; border-radius: 2px; }
.bar i { position: absolute; inset: 0 auto 0 0; background: #3b74ad; border-radius: 2px; }
.positive .bar i { background: #b45309; }
.bar b { position: absolute; top: -.15rem; bottom: -.15rem; width: 2px; background: #1d272f; }
@media (max-width: 36rem) { .drawn { display: none; } }
"""

_SCRIPT = """
'use strict';
const byId = id => document.getElementById(id);
const fields = ['sample_rate', 'leads', 'unit'];
let largest = Infinity;
let queue = Promise.resolve();
let waiting = 0;

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function number(value, digits) {
  return value.toLocaleString('en', {minimumFractionDigits: digits, maximumFractionDigits: digits});
}

function stem(name) { return name.replace(/\\.[^.]*$/, ''); }

// a WFDB header and the files of its name are one recording, any other file is one by itself
function grouped(files) {
  const headers = new Set(files.filter(file => file.name.endsWith('.hea')).map(file => stem(file.name)));
  const recordings = new Map();
  files.forEach((file, place) => {
    const name = stem(file.name);
    const key = headers.has(name) ? name : `${place}`;
    recordings.set(key, [...(recordings.get(key) || []), file]);
  });
  return [...recordings.values()];
}

function status() {
  byId('status').textContent = waiting ? `Working; ${waiting} to go.` : 'Done.';
}

async function post(path, files, more) {
  const form = new FormData();
  files.forEach(file => form.append('file', file, file.name));
  fields.forEach(name => { if (byId(name).value.trim()) form.append(name, byId(name).value); });
  Object.entries(more).forEach(pair => form.append(...pair));
  let response;
  try {
    response = await fetch(path, {method: 'POST', body: form});
  } catch (error) {
    throw new Error('the file cannot be sent; is the service still running, and is it no folder?');
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({error: `the service answered ${response.status}`}));
  throw new Error(said.error);
}

async function ask(files) {
  const bytes = files.reduce((sum, file) => sum + file.size, 0);
  if (bytes > largest) throw new Error(`larger than ${largest / 1e6} MB, the limit here`);
  return (await post('predict', files, {})).json();
}

// a tab that is opened after waiting may be held back by the browser, so the link stays
async function makeReport(files, place) {
  place.replaceChildren(element('span', 'Making the report...'));
  try {
    const response = await post('report', files, {anonymous: byId('anonymous').checked ? '1' : '0'});
    const link = element('a', 'Open the report');
    link.href = URL.createObjectURL(await response.blob());
    link.target = '_blank';
    link.rel = 'noopener';
    place.replaceChildren(link);
    link.focus();
    link.click();
  } catch (error) {
    place.replaceChildren(element('span', error.message), ' ', reportButton(files, place));
  }
}

function reportButton(files, place) {
  const button = element('button', 'Report');
  button.type = 'button';
  button.setAttribute('aria-label', `Report on ${nameOf(files)}, in a new tab`);
  button.addEventListener('click', () => makeReport(files, place));
  return button;
}

function nameOf(files) { return files.map(file => file.name).join(', '); }

function bar(label) {
  const made = element('span', undefined, 'bar');
  made.setAttribute('aria-hidden', 'true');
  made.append(element('i'));
  made.firstChild.style.width = `${100 * label.probability}%`;
  if (label.threshold !== null) {
    made.append(element('b'));
    made.lastChild.style.left = `calc(${100 * Math.min(1, Math.max(0, label.threshold))}% - 1px)`;
  }
  return made;
}

function row(label) {
  const made = element('tr', undefined, label.positive ? 'positive' : '');
  const name = element('th', label.name);
  name.scope = 'row';
  made.append(name);
  if ('value' in label) {
    made.append(element('td', number(label.value, 3)));
    return made;
  }
  const drawn = element('td', undefined, 'drawn');
  drawn.append(bar(label));
  made.append(element('td', number(label.probability, 3)), drawn);
  if (label.threshold !== null) {
    made.append(element('td', number(label.threshold, 3)), element('td', label.positive ? 'positive' : 'negative'));
  }
  return made;
}

function titles(label) {
  if ('value' in label) return ['Label', 'Value'];
  return ['Label', 'Probability', '0 to 1', ...(label.threshold === null ? [] : ['Threshold', 'Decision'])];
}

function table(answer) {
  const made = element('table');
  const segments = answer.segments.length;
  made.append(element('caption', `From ${segments} segment${segments === 1 ? '' : 's'}. ${answer.note}`));
  const head = element('tr');
  for (const title of titles(answer.labels[0])) {
    const cell = element('th', title, title === '0 to 1' ? 'drawn' : '');
    cell.scope = 'col';
    head.append(cell);
  }
  const body = element('tbody');
  body.append(...answer.labels.map(row));
  made.append(element('thead'), body);
  made.tHead.append(head);
  return made;
}

function show(files, content, className) {
  const made = element('article', undefined, className);
  made.append(element('h2', nameOf(files)), ...content);
  byId('results').prepend(made);
}

function showAnswer(files, answer) {
  const rate = number(answer.sample_rate, 0);
  const facts = `${number(answer.seconds, 1)} s at ${rate} Hz; leads ${answer.leads.join(', ')}`;
  const cut = Object.entries(answer.cut).filter(([end, seconds]) => seconds);
  const cutOff = cut.map(([end, seconds]) => `${number(seconds, 2)} s at its ${end}`).join(' and ');
  const wide = element('div', undefined, 'wide');
  wide.append(table(answer));
  const flags = Object.entries(answer.flags).map(([name, meaning]) => element('p', `Check it: ${name}: ${meaning}.`));
  if (answer.missing_leads.length) flags.push(element('p', `Missing leads: ${answer.missing_leads.join(', ')}.`));
  if (cutOff) flags.push(element('p', `Cut off as calibration pulse or padding: ${cutOff}.`));
  const report = element('p');
  report.setAttribute('role', 'status');
  report.append(reportButton(files, report));
  show(files, [element('p', facts, 'facts'), ...flags, wide, report], 'answered');
}

function showError(files, message) {
  const said = element('p', message);
  said.setAttribute('role', 'alert');
  show(files, [said], 'failed');
  if (/sample_rate|leads|unit/.test(message)) byId('more').open = true;
}

async function one(files) {
  try {
    showAnswer(files, await ask(files));
  } catch (error) {
    showError(files, error.message);
  }
  waiting -= 1;
  status();
}

function take(files) {
  for (const recording of grouped([...files])) {
    waiting += 1;
    queue = queue.then(() => one(recording));
  }
  if (waiting) status();
}

byId('files').addEventListener('change', event => {
  take(event.target.files);
  event.target.value = '';
});
const drop = byId('drop');
for (const name of ['dragover', 'dragleave', 'drop']) {
  // anywhere on the page, as the browser would open a file that misses the field
  document.addEventListener(name, event => {
    event.preventDefault();
    drop.classList.toggle('over', name === 'dragover');
    if (name === 'drop') take(event.dataTransfer.files);
  });
}
fetch('model').then(response => response.json()).then(model => {
  largest = model.largest_upload_bytes;
  const labels = `${model.labels.length} label${model.labels.length === 1 ? '' : 's'}`;
  const input = `${model.leads.length} leads at ${number(model.sample_rate, 0)} Hz`;
  const segments = `segments of ${number(model.segment_seconds, 1)} s`;
  let thresholds = model.thresholds ? `thresholds: ${model.threshold_rule || 'chosen'}` : 'no thresholds';
  if (model.activation === 'softmax') thresholds = 'exactly one label is there, the most probable is positive';
  byId('model').textContent = `Model ${model.name}: ${labels}; ${input}, ${segments}; ${thresholds}.`;
}).catch(() => { byId('model').textContent = 'The service does not answer; is it still running?'; });
"""

PAGE = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>ECG to probabilities</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>ECG to probabilities</h1>
<p id="model" class="facts">Model</p>
<p class="note">{NOTE}</p>
<div id="drop">
<label for="files">Drop ECG files here, or choose them</label>
<p><input id="files" type="file" multiple aria-describedby="kinds"></p>
<p id="kinds" class="hint">{escape(supported())}; several files are taken one after the other.</p>
</div>
<p><input id="anonymous" type="checkbox"> <label for="anonymous" class="choice">Reports say nothing of who the patient
is</label></p>
<details id="more">
<summary>For files that do not say their sample rate, leads or unit</summary>
<div>
<p><label for="sample_rate">Sample rate (Hz)</label>
<input id="sample_rate" inputmode="decimal" autocomplete="off"></p>
<p><label for="leads">Leads, in their order</label>
<input id="leads" placeholder="I,II,III,aVR,aVL,aVF,V1" autocomplete="off"></p>
<p><label for="unit">Unit</label>
<select id="unit"><option value="">as the file says</option><option>mV</option><option>uV</option><option>nV</option>
<option>V</option></select></p>
</div>
</details>
<p id="status" role="status" class="facts"></p>
<section id="results" aria-label="Results, newest first"></section>
</main>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _hash_of(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


# this script, requests to the service itself, and nothing else; a report in a tab of its own is under the same policy,
# and its drawing has styles in its elements, which hashes cannot name
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        f"script-src {_hash_of(_SCRIPT)}",
        "connect-src 'self'",
        "img-src data:",
        *("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
    )
)
