"""The page of the verification's report, a `string.Template`."""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem 1rem 3rem; color: #26323c; background: #fff;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid #dde3e7; padding-bottom: .25rem; }
h3 { font-size: .95rem; margin: 1.2rem 0 .4rem; }
.result { border-left: 5px solid; border-radius: 4px; padding: .7rem 1rem; margin: .6rem 0; overflow-wrap: anywhere; }
.result ul, .checked { margin: .4rem 0 0; padding-left: 1.2rem; }
.good { border-color: #2b8a4b; background: #eaf6ee; }
.bad { border-color: #c0392b; background: #fbecea; }
.note { border-color: #c28a16; background: #fdf6e5; }
.totals { display: grid; grid-template-columns: repeat(auto-fit, minmax(7.5rem, 1fr)); gap: .6rem; }
.totals div { background: #f4f6f8; border-radius: 6px; padding: .6rem .8rem; }
.totals b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
.totals span, figcaption, dd, .hint { color: #55636d; font-size: .85rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #e7ecef; }
thead th { color: #55636d; font-weight: 600; }
th:first-child { text-align: left; position: sticky; left: 0; background: #fff; font-weight: 600; }
tbody th { max-width: 16rem; overflow: hidden; text-overflow: ellipsis; }
.zero { color: #b4bec5; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1rem; }
.examples { display: grid; gap: 1.5rem; }
figure { margin: 0; overflow-x: auto; break-inside: avoid; }
figure img { width: 100%; height: auto; }
.examples img { min-width: 48rem; }
figcaption { overflow-wrap: anywhere; position: sticky; left: 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .8rem; margin: .8rem 0 0; font-size: .87rem; }
dt { font-weight: 600; }
dd { margin: 0; }
@media (max-width: 40rem) { tbody th { max-width: 8rem; } }
@media print { body { max-width: none; padding: 0; } .examples img { min-width: 0; } h2 { break-after: avoid; } }
</style>
</head>
<body>
<h1>$title</h1>
$result
<h2>What was checked</h2>
<ul class="checked">$checked</ul>
<h2>What is there</h2>
<div class="totals">$totals</div>
<h3>By source</h3>
$sources
<p class="hint">Length and amplitude: medians. Heart rate: median, beats a minute, and how many recordings gave one.</p>
<h2>Distributions by source</h2>
<div class="figures">$distributions</div>
<h2>Leads</h2>
$leads
<h2>Flags, % of recordings</h2>
$flags
<h2>One recording of each source</h2>
<div class="examples">$examples</div>
</body>
</html>
"""
