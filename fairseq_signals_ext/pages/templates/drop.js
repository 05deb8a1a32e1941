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

function stem(name) { return name.replace(/\.[^.]*$/, ''); }

// a WFDB header and the files with its name are one recording; any other file is one recording
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
  byId('status').textContent = waiting ? `Working; ${waiting} left.` : 'Done.';
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
    throw new Error('the file cannot be sent; is the service still running, and is it a file, not a folder?');
  }
  if (response.ok) return response;
  const failure = await response.json().catch(() => ({error: `the service answered ${response.status}`}));
  throw Object.assign(new Error(failure.error), {missing: failure.missing});
}

async function ask(files) {
  const bytes = files.reduce((sum, file) => sum + file.size, 0);
  if (bytes > largest) throw new Error(`larger than ${largest / 1e6} MB, the limit here`);
  return (await post('predict', files, {})).json();
}

// browsers may block a tab that is opened after waiting, so the link stays
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

// the bar of the page's template, which has a threshold
function bar(label) {
  const made = byId('bar').content.cloneNode(true).firstChild;
  made.querySelector('i').style.width = `${100 * (label.decision ? label.calibrated : label.probability)}%`;
  const tick = made.querySelector('b');
  if (label.threshold === null || label.decision) tick.remove();
  else tick.style.left = `${100 * Math.min(1, Math.max(0, label.threshold))}%`;
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
  made.append(element('td', number(label.decision ? label.calibrated : label.probability, 3)), drawn);
  if (label.decision) {
    made.className = label.decision === 'positive' ? 'positive' : '';
    made.append(element('td', label.decision));
    return made;
  }
  if (label.threshold !== null) {
    made.append(element('td', number(label.threshold, 3)), element('td', label.positive ? 'positive' : 'negative'));
  }
  return made;
}

function titles(label) {
  if ('value' in label) return ['Label', 'Value'];
  if (label.decision) return ['Label', 'Probability', '0 to 1', 'Decision'];
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
  if (answer.refused) flags.unshift(element('p', `No answer: ${answer.refused}. Do not use the numbers below.`, 'note'));
  if (answer.missing_leads.length) flags.push(element('p', `Missing leads: ${answer.missing_leads.join(', ')}.`));
  if (cutOff) flags.push(element('p', `Cut off as calibration pulse or padding: ${cutOff}.`));
  const report = element('p');
  report.setAttribute('role', 'status');
  report.append(reportButton(files, report));
  show(files, [element('p', facts, 'hint'), ...flags, wide, report], 'answered');
}

// the problem, with a hint for this page instead of the hint for users of the API
function inFields(message, missing) {
  const field = byId(missing);
  const what = `${field.value.trim() ? 'Correct' : 'Fill in'} “${field.labels[0].textContent}” above`;
  return `${message.split('; ')[0]}. ${what}, then try again.`;
}

function showError(files, error) {
  const field = fields.includes(error.missing) ? byId(error.missing) : null;
  const alert = element('p', field ? inFields(error.message, error.missing) : error.message);
  alert.setAttribute('role', 'alert');
  if (!field) {
    show(files, [alert], 'failed');
    return;
  }
  const again = element('button', 'Try again');
  again.type = 'button';
  again.setAttribute('aria-label', `Try ${nameOf(files)} again`);
  again.addEventListener('click', () => {
    again.closest('article').remove();
    enqueue(files);
    status();
  });
  show(files, [alert, again], 'failed');
  byId('more').open = true;
  // do not disturb a user who is filling in fields
  if (!fields.includes(document.activeElement.id)) field.focus();
}

async function one(files) {
  try {
    showAnswer(files, await ask(files));
  } catch (error) {
    showError(files, error);
  }
  waiting -= 1;
  status();
}

function enqueue(recording) {
  waiting += 1;
  queue = queue.then(() => one(recording));
}

function take(files) {
  grouped([...files]).forEach(enqueue);
  if (waiting) status();
}

byId('files').addEventListener('change', event => {
  take(event.target.files);
  event.target.value = '';
});
const drop = byId('drop');
for (const name of ['dragover', 'dragleave', 'drop']) {
  // anywhere on the page, because the browser would open a file that is dropped beside the field
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
