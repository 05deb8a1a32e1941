"""The page of a report, a `string.Template`; printed on A4 landscape, which is as wide as ten seconds of ECG."""

_STYLE = """
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1058px; padding: 1rem 1.2rem 2rem; color: #1d272f; background: #fff;
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.35rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1rem; margin: 0 0 .35rem; }
p, dl, dd, figure { margin: 0; }
header { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; align-items: baseline; justify-content: space-between;
  border-bottom: 2px solid #1d272f; padding-bottom: .45rem; }
.use { font-weight: 700; color: #8a1c14; }
.aloud { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.skip { position: absolute; left: -99rem; background: #fff; padding: .4rem .8rem; }
.skip:focus { left: .5rem; top: .5rem; }
:focus-visible { outline: 3px solid #1f5fa8; outline-offset: 2px; }
.patient dl { display: flex; flex-wrap: wrap; gap: .3rem 1.8rem; }
.patient { padding: .55rem 0; }
dt, .notes, figcaption { color: #4b5862; font-size: .85rem; }
dd, .statements, .notes, figcaption, .quality { overflow-wrap: anywhere; }
.statements, .quality { font-size: .9rem; margin-top: .3rem; }
.flagged { border-left: 4px solid #c28a16; background: #fdf6e5; padding: .15rem .6rem; }
.paper { overflow-x: auto; }
.paper svg { display: block; }
figcaption { color: #1d272f; }
.below { display: grid; gap: 1.2rem; margin-top: 1rem; border-top: 1px solid #c9d1d7; padding-top: .8rem; }
.side { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem 2rem; }
.tables { display: grid; grid-template-columns: repeat($shown, minmax(0, 1fr)); gap: 0 1.8rem; align-items: start; }
table { border-collapse: collapse; width: 100%; font-size: .87rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem 0 .2rem .6rem; text-align: right; vertical-align: top; border-bottom: 1px solid #e2e7eb; }
th:first-child { padding-left: 0; text-align: left; font-weight: 400; overflow-wrap: anywhere; width: 99%; }
thead th, thead th:first-child { color: #4b5862; font-size: .8rem; font-weight: 600; }
td { white-space: nowrap; }
.near th:first-child { width: auto; }
.near th:nth-last-child(2):not(:first-child) { text-align: left; }
.near .file { width: 60%; overflow-wrap: anywhere; white-space: normal; text-align: left; }
.positive th:first-child, .positive td:nth-child(2) { font-weight: 700; }
.mark { color: #8a4b08; white-space: nowrap; }
.bar { display: block; position: relative; height: 5px; margin: 2px 0 1px; background: #e4e9ed; }
.bar i { position: absolute; left: 0; top: 0; bottom: 0; background: #3b74ad; }
.positive .bar i { background: #b45309; }
.bar b { position: absolute; top: -2px; bottom: -2px; width: 2px; margin-left: -1px; background: #1d272f; }
.on-paper { display: none; }
.notes { margin-top: .5rem; }
summary { cursor: pointer; font-weight: 700; }
.model dl { margin-top: .35rem; font-size: .87rem; }
.model dl div { display: grid; grid-template-columns: 8.5rem 1fr; gap: .6rem; }
footer { margin-top: 1rem; color: #4b5862; font-size: .85rem; }
@media screen and (max-width: 46rem) {
  .tables { grid-template-columns: minmax(0, 1fr); overflow-x: auto; }
  th:first-child { overflow-wrap: break-word; }
  td { white-space: normal; }
  td span { white-space: nowrap; }
  .tables table { font-size: .8rem; }
  .tables td { padding-left: .4rem; }
}
@page { size: 297mm 210mm; margin: 5mm 12mm; }
@media print {
  body { max-width: none; width: 273mm; padding: 0; font-size: 7.5pt; line-height: 1.25; }
  .skip, summary, .on-screen { display: none; }
  .on-paper { display: grid; }
  details::details-content { content-visibility: visible; display: block; }
  h1 { font-size: 11pt; }
  h2 { font-size: 7.5pt; margin: 0 0 .4mm; }
  header { border-bottom-width: .3mm; padding-bottom: .6mm; }
  .patient { padding: .8mm 0 0; }
  .patient dl { gap: 0 5mm; }
  .patient dl div { display: flex; gap: 1mm; }
  .statements, .quality { margin-top: .4mm; font-size: 7pt; }
  .paper { overflow: visible; width: 270mm; margin: -2mm 0 -2.6mm; }
  .paper svg { width: 270mm; }
  figcaption { font-size: 7pt; }
  .below { gap: .8mm 7mm; margin-top: .8mm; padding-top: .8mm; border-top-width: .1mm; }
  .tables { grid-template-columns: repeat($tables, minmax(0, 1fr)); gap: 0 5mm; }
  .side { grid-template-columns: repeat(auto-fit, minmax(100mm, 1fr)); gap: 1mm 7mm; }
  table, .model dl { font-size: 7pt; line-height: 1.15; }
  th, td { padding: .15mm 0 .15mm 1.2mm; border-bottom-width: .1mm; }
  thead th, thead th:first-child, dt, .notes { font-size: 7pt; }
  .notes { margin-top: .6mm; line-height: 1.15; }
  .notes p { display: inline; }
  .bar { height: .9mm; margin: .2mm 0 .1mm; }
  .bar b { top: -.4mm; bottom: -.4mm; width: .4mm; margin-left: -.2mm; }
  .bar, .bar i, .bar b, .flagged { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  .side:has(.near) summary { display: block; font-size: 7.5pt; }
  .flagged { padding: 0 1.5mm; border-left-width: .8mm; }
  .model dl { margin-top: 0; }
  .model dl div { display: inline; }
  .model dt, .model dd { display: inline; }
  .model dt::after { content: ": "; }
  .model dd::after { content: ";  "; }
  .model div:last-child dd::after { content: ""; }
  footer { margin-top: .6mm; font-size: 7pt; }
  .ticks .scores tbody td:nth-child(3), .ticks .scores thead th:nth-child(3) { display: none; }
}
"""

# what it needs is in it, and no script is
CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

PAGE = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{CONTENT_SECURITY_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>{_STYLE}</style>
</head>
<body class="$kind">
<a class="skip" href="#scores">Skip to what the model says</a>
<header>
<h1>$title</h1>
<p class="use">For research use only. Not a medical device.</p>
</header>
<main>
<section class="patient" aria-labelledby="patient">
<h2 id="patient" class="aloud">Patient and recording</h2>$patient</section>
<section aria-labelledby="ecg"><h2 id="ecg" class="aloud">ECG</h2>$ecg</section>
<div class="below">
<section class="scores" aria-labelledby="scores"><h2 id="scores" tabindex="-1">What the model says</h2>$scores</section>
<div class="side">
$neighbours
<section class="model" aria-labelledby="model"><h2 id="model" class="aloud">Model</h2>
<details open><summary>Model</summary>$model</details></section>
</div>
</div>
</main>
<footer>Report of <time datetime="$date">$date</time>. For research use only. Not a medical device.</footer>
</body>
</html>
"""

NEIGHBOURS = """<section class="near" aria-labelledby="neighbours">
<h2 id="neighbours">Nearest known recordings</h2>$table</section>"""
