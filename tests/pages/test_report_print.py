"""The page in a real browser: printed on A4 at its true scale, and in narrow windows; `PAGE_PICTURES` keeps prints."""

import base64
import io
import os
import re
from pathlib import Path

import numpy as np
import pytest
from pypdf import PdfReader
from test_report_page import Index

from fairseq_signals_ext.pages.calibration import Calibration
from fairseq_signals_ext.pages.recording_report import report_html
from fairseq_signals_ext.readers import read_ecg

_POINTS_A_MM = 72 / 25.4
LABELS_17 = {f"A label with a name of usual length {number}": 0.05 * number + 0.05 for number in range(17)}
LABELS_71 = {f"CODE{number}": (number + 1) / 72 for number in range(71)}


@pytest.fixture()
def show(browser, tmp_path):
    """Opens a page; returns the browser."""

    def opens(html):
        path = tmp_path / "page.html"
        path.write_text(html, encoding="utf-8")
        browser.messages.clear()
        browser.open(path.as_uri())
        assert browser.messages == []
        return browser

    return opens


def printed(page):
    content = base64.b64decode(page.call("Page.printToPDF", preferCSSPageSize=True)["data"])
    if os.environ.get("PAGE_PICTURES"):
        name = os.environ["PYTEST_CURRENT_TEST"].split("::")[1].split(" ")[0]
        (Path(os.environ["PAGE_PICTURES"]) / f"{name}.pdf").write_bytes(content)
    return PdfReader(io.BytesIO(content)).pages


def places(sheet):
    """Where each text begins on a printed sheet, mm from the left."""
    found = {}

    def visit(text, matrix, text_matrix, font, size):
        x = text_matrix[4] * matrix[0] + text_matrix[5] * matrix[2] + matrix[4]
        found.setdefault(text.strip(), []).append(x / _POINTS_A_MM)

    sheet.extract_text(visitor_text=visit)
    return found


def check_sheet(page):
    """One sheet of A4 landscape with seconds at their true distance; its text."""
    (sheet,) = printed(page)
    assert [float(side) / _POINTS_A_MM for side in sheet.mediabox[2:]] == pytest.approx([297, 210], abs=0.5)
    seconds = places(sheet)
    # digits are equally wide, so seconds are as far apart as they begin
    starts = [seconds[str(second)][0] for second in range(1, 10)]
    assert np.diff(starts) == pytest.approx([25.0] * 8, abs=0.02)
    text = " ".join(sheet.extract_text().split())
    assert text.count("For research use only. Not a medical device.") == 2
    return text


def check_print_is_readable(page):
    """No text beside the ECG, which has its own sizes, is under 7 points; nor is a page seen on a screen only."""
    page.call("Emulation.setEmulatedMedia", media="print")
    elements = "[...document.querySelectorAll('h1, h2, p, dt, dd, th, td, figcaption, footer')]"
    seen = f"{elements}.filter(one => one.offsetHeight > 2)"
    sizes = page.value(f"{seen}.map(one => parseFloat(getComputedStyle(one).fontSize))")
    page.call("Emulation.setEmulatedMedia", media="")
    assert len(sizes) > 30 and min(sizes) * 72 / 96 >= 7 - 1e-3


@pytest.mark.parametrize("labels", [LABELS_17, pytest.param(LABELS_71, marks=pytest.mark.slow)], ids=["17", "71"])
def test_one_sheet_of_a4_at_true_scale(show, saying, recording, options, labels):
    # the mark of positive ones takes room that 71 do not have
    thresholds = (0.3,) * 17 if labels is LABELS_17 else None
    model = saying(labels, thresholds=thresholds, threshold_rule="f1 on valid")
    page = show(report_html(model, recording(patient="p-1", age=50.0), name="ecg.hea", options=options()))
    text = check_sheet(page)
    assert all(label in text for label in labels) and "On paper" not in text
    check_print_is_readable(page)


def test_of_very_many_labels_paper_has_the_positive_and_the_most_probable(show, saying, recording, options):
    said = {f"C{number} of many labels with long names": (number + 1) / 72 for number in range(71)}
    thresholds = tuple(0.01 if number % 9 == 0 else 0.99 for number in range(71))
    model = saying(said, thresholds=thresholds, threshold_rule="f1 on valid")
    page = show(report_html(model, recording(), options=options()))
    text = check_sheet(page)
    (count,) = re.findall(r"On paper (\d+) of 71 labels", text)
    on_paper = {int(number) for number in re.findall(r"C(\d+) of many", text)}
    positive = set(range(0, 71, 9))
    assert 24 <= len(on_paper) == int(count) < 71 and positive <= on_paper
    most_probable = sorted(set(range(71)) - positive, reverse=True)
    assert on_paper - positive == set(most_probable[: len(on_paper) - len(positive)])
    on_screen = "[...document.querySelectorAll('.scores tbody th')].filter(one => one.offsetHeight)"
    assert page.value(f"{on_screen}.length") == 71
    check_print_is_readable(page)


def test_picture_has_its_size_in_both_directions_and_closed_parts_are_printed(show, saying, recording, options):
    page = show(report_html(saying(LABELS_17), recording(), options=options()))
    page.call("Emulation.setEmulatedMedia", media="print")
    size = page.value("(box => [box.width, box.height])(document.querySelector('.paper svg').getBoundingClientRect())")
    said = page.value("['width', 'height'].map(side => document.querySelector('.paper svg').getAttribute(side))")
    page.call("Emulation.setEmulatedMedia", media="")
    assert said[0] == "270mm"
    assert [25.4 / 96 * side for side in size] == pytest.approx([float(side[:-2]) for side in said], abs=0.01)
    page.value("document.querySelector('details').open = false")
    (sheet,) = printed(page)
    assert "saying.pt" in sheet.extract_text()


@pytest.mark.parametrize("times", [pytest.param(2.2, marks=pytest.mark.slow), 15])
def test_tall_complexes_are_on_one_sheet_with_the_rhythm_strip(show, saying, recording, options, times):
    high = recording()
    high.physical[:] *= times
    html = report_html(saying(LABELS_17), high, options=options())
    text = check_sheet(show(html))
    assert html.count("-calibration") == 4 and "rows overlap" in text and all(label in text for label in LABELS_17)


@pytest.mark.parametrize("labels", [LABELS_17, LABELS_71], ids=["17", "71"])
def test_narrow_windows_do_not_scroll_sideways(show, saying, recording, options, labels):
    given = recording(record_id="r" * 80, statements=("w" * 200,))
    page = show(report_html(saying(labels, thresholds=(0.5,) * len(labels)), given, name="n" * 90, options=options()))
    for width in (1280, 390):
        metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": False}
        page.call("Emulation.setDeviceMetricsOverride", **metrics)
        assert page.value("document.documentElement.scrollWidth") == width
    paper = page.value("(paper => [paper.scrollWidth, paper.clientWidth])(document.querySelector('.paper'))")
    assert paper[0] > 1000 > paper[1]
    page.call("Emulation.clearDeviceMetricsOverride")


def test_keyboard_reaches_all_controls(show, saying, recording, options):
    page = show(report_html(saying(LABELS_17), recording(), options=options()))
    reached = []
    for _ in range(3):
        page.press("Tab")
        reached.append(page.value("document.activeElement.className || document.activeElement.localName"))
    assert reached == ["skip", "paper", "summary"]


def broken_words(page):
    """Words in names of labels that do not stand in one line."""
    return page.value("""[...document.querySelectorAll('.scores tbody th')].flatMap(cell => {
        const text = cell.firstChild, range = document.createRange();
        return [...text.data.matchAll(/\\S+/g)].filter(word => {
            range.setStart(text, word.index);
            range.setEnd(text, word.index + word[0].length);
            return range.getClientRects().length > 1;
        }).map(word => word[0]);
    })""")


def test_neighbours_measures_and_statements_fit_on_paper_and_phone(show, saying, recording, options):
    labels = {f"Supraventricular tachycardia {number}": 0.05 * number + 0.05 for number in range(17)}
    measures = {label: ("0.93 (0.91 to 0.95)", "0.04") for label in labels}
    calibration = Calibration("classification", "best.pt on test, 2,345 recordings", ("AUROC", "ECE"), measures)
    model = saying(labels, thresholds=(0.5,) * 17, threshold_rule="f1 on valid")
    given = recording(patient="p-1", statements=("Sinus rhythm",) * 20, sex="female", age=50.0)
    html = report_html(model, given, name="ecg.hea", options=options(calibration=calibration, index=Index()))
    page = show(html)
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": False}
    page.call("Emulation.setDeviceMetricsOverride", **metrics)
    assert page.value("document.documentElement.scrollWidth") == 390 and broken_words(page) == []
    page.call("Emulation.clearDeviceMetricsOverride")
    text = check_sheet(page)
    assert "known4" in text and "0.93 (0.91 to 0.95)" in text


def test_real_recordings_fit(show, ecg_data, golden_folder, options):
    import fairseq_signals_ext

    model = fairseq_signals_ext.load(golden_folder / "tiny_finetuned.pt", labels="ecg-fm")
    files = ["ptbxl/records500/00001_hr.hea", "cinc2021/georgia/E00001.hea", "formats/dicom_12lead_1000hz.dcm"]
    for file in files:
        html = report_html(model, read_ecg(ecg_data / file), name=file, options=options(saliency="attention"))
        assert len(html.encode()) < 1_500_000
        assert len(printed(show(html))) == 1
