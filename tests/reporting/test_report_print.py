"""The page in a real browser: printed on A4 at its true scale, and in narrow windows; `PAGE_PICTURES` keeps prints."""

import base64
import io
import os
from pathlib import Path

import numpy as np
import pytest
from pypdf import PdfReader
from serving.browser import find_browser, opened
from test_report_page import Index

from fairseq_signals_ext.readers import read_ecg
from fairseq_signals_ext.reporting.calibration import Calibration
from fairseq_signals_ext.reporting.report import report_html

_POINTS_A_MM = 72 / 25.4
LABELS_17 = {f"A label with a name of usual length {number}": 0.05 * number + 0.05 for number in range(17)}
LABELS_71 = {f"CODE{number}": (number + 1) / 72 for number in range(71)}


@pytest.fixture(scope="module")
def browser():
    found = find_browser()
    if found is None:
        pytest.skip("no Chromium is installed: the page is not tried in a browser")
    with opened(found) as page:
        yield page


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


@pytest.mark.parametrize("labels", [LABELS_17, LABELS_71], ids=["17", "71"])
@pytest.mark.parametrize("with_thresholds", [False, True])
def test_one_sheet_of_a4_at_true_scale(show, saying, recording, options, labels, with_thresholds):
    thresholds = (0.3,) * len(labels) if with_thresholds else None
    model = saying(labels, thresholds=thresholds, threshold_rule="f1 on valid")
    page = show(report_html(model, recording(patient="p-1", age=50.0), name="ecg.hea", options=options()))
    (sheet,) = printed(page)
    assert [float(side) / _POINTS_A_MM for side in sheet.mediabox[2:]] == pytest.approx([297, 210], abs=0.5)
    seconds = places(sheet)
    # digits are equally wide, so seconds are as far apart as they begin
    starts = [seconds[str(second)][0] for second in range(1, 10)]
    assert np.diff(starts) == pytest.approx([25.0] * 8, abs=0.02)
    text = sheet.extract_text()
    assert "For research use only. Not a medical device." in text and "positive" in text
    assert all(label in " ".join(text.split()) for label in labels)


def test_printed_picture_has_its_size_in_both_directions(show, saying, recording, options):
    page = show(report_html(saying(LABELS_17), recording(), options=options()))
    page.call("Emulation.setEmulatedMedia", media="print")
    size = page.value("(box => [box.width, box.height])(document.querySelector('.paper svg').getBoundingClientRect())")
    said = page.value("['width', 'height'].map(side => document.querySelector('.paper svg').getAttribute(side))")
    page.call("Emulation.setEmulatedMedia", media="")
    assert said[0] == "270mm"
    assert [25.4 / 96 * side for side in size] == pytest.approx([float(side[:-2]) for side in said], abs=0.01)


def test_closed_parts_are_printed(show, saying, recording, options):
    page = show(report_html(saying(LABELS_17), recording(), options=options()))
    page.value("document.querySelector('details').open = false")
    (sheet,) = printed(page)
    assert "saying.pt" in sheet.extract_text()


def test_what_is_too_high_for_one_sheet_takes_two(show, saying, recording, options):
    high = recording()
    high.physical[:] *= 2.2
    page = show(report_html(saying(LABELS_17), high, options=options()))
    first, second = printed(page)
    assert "What the model says" in second.extract_text() and "25 mm/s" in first.extract_text()


def test_what_is_too_high_for_a4_has_a_larger_sheet(show, saying, recording, options):
    high = recording()
    high.physical[:] *= 5
    html = report_html(saying(LABELS_17), high, options=options())
    (sheet,) = printed(show(html))
    height = float(sheet.mediabox[3]) / _POINTS_A_MM
    assert height > 220 and f"The ECG is too high for A4: the printed page is 297 x {height:.0f} mm" in html


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


def test_keyboard_reaches_what_can_be_used(show, saying, recording, options):
    page = show(report_html(saying(LABELS_17), recording(), options=options()))
    reached = []
    for _ in range(3):
        page.press("Tab")
        reached.append(page.value("document.activeElement.className || document.activeElement.localName"))
    assert reached == ["skip", "paper", "summary"]


def test_rhythm_strip_is_left_out_where_it_has_no_room(show, saying, recording, options):
    lower, higher = recording(), recording()
    higher.physical[:] *= 1.75
    pages = [report_html(saying(LABELS_17), one, options=options()) for one in (lower, higher)]
    assert ["No rhythm strip" in html for html in pages] == [False, True]
    assert [html.count("-calibration") for html in pages] == [4, 3]
    assert len(printed(show(pages[1]))) == 1


def test_neighbours_measures_and_statements_fit_on_paper_and_phone(show, saying, recording, options):
    measures = {label: ("0.93 (0.91 to 0.95)", "0.04") for label in LABELS_17}
    calibration = Calibration("classification", "best.pt on test, 2,345 recordings", ("AUROC", "ECE"), measures)
    model = saying(LABELS_17, thresholds=(0.5,) * 17, threshold_rule="f1 on valid")
    given = recording(patient="p-1", statements=("Sinus rhythm",) * 20, sex="female", age=50.0)
    html = report_html(model, given, name="ecg.hea", options=options(calibration=calibration, index=Index()))
    page = show(html)
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": False}
    page.call("Emulation.setDeviceMetricsOverride", **metrics)
    assert page.value("document.documentElement.scrollWidth") == 390
    page.call("Emulation.clearDeviceMetricsOverride")
    (sheet,) = printed(page)
    assert "known4" in sheet.extract_text() and "0.93 (0.91 to 0.95)" in sheet.extract_text()


def test_real_recordings_fit(show, ecg_data, golden_folder, options):
    import fairseq_signals_ext

    model = fairseq_signals_ext.load(golden_folder / "tiny_finetuned.pt", labels="ecg-fm")
    files = ["ptbxl/records500/00001_hr.hea", "cinc2021/georgia/E00001.hea", "formats/dicom_12lead_1000hz.dcm"]
    for file in files:
        html = report_html(model, read_ecg(ecg_data / file), name=file, options=options(saliency="attention"))
        assert len(html.encode()) < 1_500_000
        assert len(printed(show(html))) == 1
