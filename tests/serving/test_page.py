"""The page in a real browser: choosing, dropping, errors, the keyboard; `PAGE_PICTURES` keeps pictures of it."""

import base64
import hashlib
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
from made_up_uploads import csv_file, npy_file, wfdb_files

from fairseq_signals_ext.pages.rendering import drop_page


@pytest.fixture()
def page(browser, served):
    browser.messages.clear()
    browser.open(served.address)
    browser.wait_for("largest < Infinity")
    yield browser
    if os.environ.get("PAGE_PICTURES"):
        name = os.environ["PYTEST_CURRENT_TEST"].split("::")[1].split(" ")[0]
        browser.picture(Path(os.environ["PAGE_PICTURES"]) / f"{name}.png")


def written(folder, files):
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]


def answered(page, number):
    """Heading and text of each result, oldest first, once there are so many."""
    page.wait_for(f"document.querySelectorAll('article').length == {number} && waiting == 0")
    results = "[...document.querySelectorAll('article')].reverse()"
    return page.value(f"{results}.map(one => [one.querySelector('h2').textContent, one.className, one.innerText])")


def test_several_files_chosen(page, served, tmp_path):
    """Out of order, with a pair of WFDB and a bad one."""
    pair = wfdb_files(1, "A0001", samples=5000)
    files = {"A0001.dat": pair["A0001.dat"], **csv_file(2, "B <i>.csv"), "bad.dcm": b"nothing", **pair}
    page.choose("#files", written(tmp_path, files))
    results = answered(page, 3)
    kinds = {heading: kind for heading, kind, _ in results}
    assert kinds == {"A0001.dat, A0001.hea": "answered", "B <i>.csv": "answered", "bad.dcm": "failed"}
    assert "it is not an ECG, as it has neither" in dict((name, text) for name, _, text in results)["bad.dcm"]
    answer = httpx.post(f"{served.address}predict", files=[("f", (name, pair[name])) for name in pair]).json()
    rows = page.value(
        "[...[...document.querySelectorAll('article')].at(-1).querySelectorAll('tbody tr')]"
        ".map(row => [...row.cells].map(cell => cell.textContent))"
    )
    words = {True: "positive", False: "negative"}
    assert rows == [
        [label["name"], f"{label['probability']:.3f}", "", f"{label['threshold']:.3f}", words[label["positive"]]]
        for label in answer["labels"]
    ]
    widths = page.value(
        "[...[...document.querySelectorAll('article')].at(-1).querySelectorAll('i')].map(i => "
        "i.getBoundingClientRect().width / i.parentNode.getBoundingClientRect().width)"
    )
    assert widths == pytest.approx([label["probability"] for label in answer["labels"]], abs=0.01)
    assert page.value("byId('status').textContent") == "Done."


def test_dropped_file(page):
    text = base64.b64encode(csv_file()["a.csv"]).decode()
    page.value(f"""{{
        const data = new DataTransfer();
        data.items.add(new File([Uint8Array.from(atob('{text}'), c => c.charCodeAt(0))], 'dropped.csv'));
        for (const name of ['dragover', 'drop'])
            byId('drop').dispatchEvent(new DragEvent(name, {{dataTransfer: data, bubbles: true, cancelable: true}}));
    }}""")
    assert [one[:2] for one in answered(page, 1)] == [["dropped.csv", "answered"]]


def test_metadata_missing_from_files(page, tmp_path):
    paths = written(tmp_path, npy_file())
    page.choose("#files", paths)
    ((_, kind, text),) = answered(page, 1)
    assert kind == "failed" and page.value("byId('more').open && document.activeElement.id") == "sample_rate"
    told = "its sample rate is missing. Fill in “Sample rate (Hz)” above, then try again."
    assert told in text and "--" not in text and "sample_rate" not in text
    page.value("byId('sample_rate').value = '500'; document.querySelector('article button').click()")
    ((_, kind, text),) = answered(page, 1)
    assert kind == "failed" and "no unit. Fill in “Unit” above, then try again." in text
    page.value("byId('unit').value = 'uV'; document.querySelector('article button').click()")
    assert [one[1] for one in answered(page, 1)] == ["answered"]


def test_long_names_of_labels_cut_nothing_on_a_phone(page):
    """The table of results, with the decision as last column, fits its container."""
    answer = {
        **{"segments": [1], "note": "", "sample_rate": 500, "seconds": 10, "leads": ["I"], "cut": {}, "flags": {}},
        "missing_leads": [],
        "labels": [
            {"name": name, "probability": 0.5, "threshold": 0.25, "positive": True}
            for name in ("Supraventricular tachycardia with aberrancy", "1st degree atrioventricular block")
        ],
    }
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": False}
    page.call("Emulation.setDeviceMetricsOverride", **metrics)
    page.value(f"showAnswer([{{name: 'a.csv'}}], {json.dumps(answer)})")
    right = "getBoundingClientRect().right"
    cells = f"[...document.querySelectorAll('.wide table, .wide td:last-child')].map(one => one.{right})"
    ends, place = page.value(f"[{cells}, document.querySelector('.wide').{right}]")
    page.call("Emulation.clearDeviceMetricsOverride")
    assert max(ends) <= place + 0.5 and place < 390


def test_too_large_files_are_refused_before_they_are_sent(page, tmp_path):
    page.value("largest = 1000")
    page.choose("#files", written(tmp_path, csv_file()))
    assert "larger than 0.001 MB, the limit here" in answered(page, 1)[0][2]


def test_keyboard_and_nothing_in_red(page):
    order = []
    for _ in range(3):
        page.press("Tab")
        order.append(page.value("document.activeElement.id || document.activeElement.tagName"))
    assert order == ["files", "anonymous", "SUMMARY"] and page.messages == []
    unlabelled = "[...document.querySelectorAll('input, select')].filter(field => !field.labels.length).length"
    assert page.value(unlabelled) == 0


@pytest.mark.parametrize("anonymous", [False, True])
def test_report_in_a_tab_of_its_own_by_keyboard(page, tmp_path, anonymous):
    page.choose("#files", written(tmp_path, csv_file(name="Xq7Z.csv", samples=5000)))
    answered(page, 1)
    page.value(
        f"byId('anonymous').checked = {str(anonymous).lower()}; document.querySelector('article button').focus()"
    )
    page.press("Enter")
    page.wait_for("document.activeElement.textContent == 'Open the report'")
    link = "document.activeElement"
    assert page.value(f"[{link}.localName, {link}.target, {link}.rel, {link}.protocol]") == [
        *("a", "_blank", "noopener", "blob:"),
    ]
    with page.other(page.value(f"{link}.href")) as report:
        title = "ECG report" if anonymous else "ECG report: Xq7Z"
        report.wait_for("document.readyState == 'complete'")
        assert report.value("[document.title, document.querySelector('h1').textContent]") == [title, title]
        assert report.value("document.body.innerText.includes('Xq7Z')") is not anonymous
        # styles are applied, also in the drawing and in elements
        box = "document.querySelector('.paper svg').getBoundingClientRect()"
        assert report.value(f"{box}.width * 25.4 / 96") == pytest.approx(270, abs=0.1)
        assert report.value("getComputedStyle(document.querySelector('.paper')).overflowX") == "auto"
        assert report.value("document.querySelector('.bar i').getBoundingClientRect().width > 1")
        assert page.messages == []
        report.value("document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))")
        assert report.value("window.ran === undefined")


def test_errors_of_reports_are_shown(page, tmp_path):
    page.choose("#files", written(tmp_path, csv_file()))
    answered(page, 1)
    page.value("byId('sample_rate').value = 'fast'; document.querySelector('article button').click()")
    page.wait_for("document.querySelector('article').innerText.includes('is not a rate')")
    assert page.value("document.querySelectorAll('article button').length") == 1


def test_nothing_of_a_page_from_elsewhere_runs(page):
    """The policy is in force: a script that was put into the page does not run."""
    page.value("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))")
    assert page.value("window.ran === undefined")
    assert page.value("fetch('http://127.0.0.2:9/').then(() => 'sent', error => 'blocked')") == "blocked"
    assert [one for one in page.messages if "Content Security Policy" in str(one)]


HOSTILE = '<img src=x onerror="window.ran = 1"><script>window.ran = 1</script>{{ 7 * 7 }}${7 * 7}\'&'


def test_names_are_texts_and_nothing_in_them_runs(page, tmp_path):
    """Of files, which the sender chose, and of labels and leads, which the model's file has."""
    name = HOSTILE.replace("/", ":") + ".csv"
    page.choose("#files", written(tmp_path, csv_file(name=name)))
    assert answered(page, 1)[0][:2] == [name, "answered"]
    label = {"name": HOSTILE, "probability": 0.5, "threshold": None, "positive": None}
    answer = {
        **{"labels": [label], "segments": [{}], "note": HOSTILE, "sample_rate": 500, "seconds": 1, "leads": [HOSTILE]},
        **{"missing_leads": [HOSTILE], "cut": {}, "flags": {HOSTILE: HOSTILE}},
    }
    page.value(f"showAnswer([new File([], 'x')], {json.dumps(answer)})")
    shown = "document.querySelector('article')"
    assert page.value(f"{shown}.querySelector('tbody th').textContent") == HOSTILE
    assert page.value(f"{shown}.textContent.split({json.dumps(HOSTILE)}).length") == 1 + 6
    assert page.value("document.querySelectorAll('article img, article script').length") == 0
    # a bar of a label without a threshold has no tick
    assert page.value(f"[{shown}.querySelectorAll('.bar i').length, {shown}.querySelectorAll('.bar b').length]") == [
        1,
        0,
    ]
    assert page.value("window.ran === undefined") and page.messages == []


def test_narrow_windows_do_not_scroll_sideways(page, tmp_path):
    page.choose("#files", written(tmp_path, csv_file(name="x" * 90 + ".csv")))
    answered(page, 1)
    for width in (1280, 390):
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=False)
        assert page.value("document.documentElement.scrollWidth") == width
    table = "(table => [table.scrollWidth, table.clientWidth])(document.querySelector('.wide'))"
    scrolled, seen = page.value(table)
    page.call("Emulation.clearDeviceMetricsOverride")
    assert scrolled == seen, "the decision is seen on a phone"


def test_texts_of_the_service_are_escaped():
    html, _ = drop_page(HOSTILE, HOSTILE)
    assert HOSTILE not in html and html.count("&lt;script&gt;window.ran = 1&lt;/script&gt;{{ 7 * 7 }}") == 2


def test_page_is_whole():
    """Its script is the one that the policy allows, and it names no other address."""
    page, policy = drop_page("a note", "formats")
    (script,) = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy and page.count("<style>") == 1
    assert "//" not in re.sub(r"^\s*//.*$", "", page, flags=re.MULTILINE)
    assert policy.count("unsafe") == policy.count("style-src 'unsafe-inline'") == 1
    targets, ids = [], []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            targets.extend(value for name, value in attributes if name in ("for", "aria-describedby"))
            ids.extend(value for name, value in attributes if name == "id")

    Reader().feed(page)
    assert targets and set(targets) <= set(ids) and len(set(ids)) == len(ids)
