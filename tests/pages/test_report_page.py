"""Contents of a report, and what an anonymous one leaves out."""

import dataclasses
import datetime
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from fairseq_signals_ext.analysis.neighbours import KnownRecording
from fairseq_signals_ext.analysis.saliency import explain
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.inference.ensemble import Ensemble
from fairseq_signals_ext.pages.recording_report import report_html, write_report
from fairseq_signals_ext.pages.report_findings import ReportOptions
from fairseq_signals_ext.pages.saliency_bands import drawn_values
from fairseq_signals_ext.prepared.quality import FLAGS

_VOID = {"meta", "br", "img", "link"}


class Parsed(HTMLParser):
    """Elements of a page: tag and attributes, and its text outside the style."""

    def __init__(self, html):
        super().__init__()
        self.elements, self._open, self.words = [], [], []
        self.feed(html)
        assert self._open == [], "elements that are not closed"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" not in self._open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def rows_of(html):
    """Cells of the table rows in the scores, as text."""
    scores = html[html.index('class="scores"') : html.index('class="side"')]
    rows = re.findall(r"<tr[^>]*><th scope=\"row\">.*?</tr>", scores)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]
    return [[" ".join(re.sub("<[^>]+>", "", cell).split()) for cell in row] for row in cells]


def test_facts_of_patient_recording_and_model(made_up_model, recording):
    known = recording(
        record_id="A0001",
        patient="p-17",
        age=61.0,
        sex="female",
        start_time=datetime.datetime(2020, 2, 3, 4, 5, 6),
        statements=("Sinus rhythm", "Normal ECG"),
    )
    day = datetime.date(2024, 5, 6)
    html = report_html(made_up_model(), known, name="some/folder/A0001.hea", options=ReportOptions(date=day))
    text = Parsed(html).text
    for words in (
        *("ECG report: A0001", "Patient p-17", "Age 61 years", "Sex female", "Recorded 2020-02-03 04:05:06"),
        *("File A0001.hea", "Length 10 s at 500 Hz", "Sinus rhythm; Normal ECG", "Checkpoint made_up.pt"),
        *("2 layers, 32 dimensions, 2 heads", "Input 12 leads, 500 Hz, 1 s", "Report of 2024-05-06"),
        *("ECG with attention of layer 2 of 2", "where the model looked, not a diagnosis", "f1 on valid"),
        *("2 segments (1 s of every 5 s) were used", "not calibrated", "nothing is flagged, no lead is missing"),
    ):
        assert words in text
    assert "some/folder" not in html and "folder/" not in html
    assert text.count("For research use only. Not a medical device.") == 2
    assert len(html.encode()) < 1_500_000


def test_the_same_bytes_from_the_same(made_up_model, recording, options, tmp_path):
    pages = [report_html(made_up_model(), recording(), options=options(saliency="attention")) for _ in range(2)]
    assert pages[0] == pages[1]
    write_report(made_up_model(), recording(), tmp_path / "new" / "page.html", options=options(saliency="attention"))
    assert (tmp_path / "new" / "page.html").read_bytes() == pages[0].encode()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]


def test_scores_are_sorted_and_positive_from_the_threshold_on(saying, recording, options):
    said = {"low": 0.2, "at": 0.5, "high": 0.9, "below": 0.49}
    model = saying(said, thresholds=(0.1, 0.5, 0.95, 0.5), threshold_rule="youden on tuning")
    html = report_html(model, recording(), options=options())
    assert rows_of(html) == [
        ["high", "0.900", "0.950"],
        ["at ▲ positive", "0.500", "0.500"],
        ["below", "0.490", "0.500"],
        ["low ▲ positive", "0.200", "0.100"],
    ]
    assert re.findall(r'<i style="width:([\d.]+)%"></i><b style="left:([\d.]+)%"', html) == [
        *(("90.0", "95.0"), ("50.0", "50.0"), ("49.0", "50.0"), ("20.0", "10.0"))
    ]
    assert "youden on tuning" in html
    assert "2 segments of 5 s were used; a label's score is the mean of theirs." in Parsed(html).text


def test_without_thresholds_nothing_is_positive(saying, recording, options):
    html = report_html(saying({"a": 0.9, "b": 0.2}), recording(4), options=options())
    assert rows_of(html) == [["a", "0.900"], ["b", "0.200"]]
    assert "no label is called positive" in html and "One segment of 5 s" in html


def test_labels_that_take_the_largest_are_named(saying, recording, options):
    mixed = saying({"a": 0.9, "b": 0.2}, aggregation=("mean", "max"))
    assert "is the mean of theirs, for b the largest." in report_html(mixed, recording(), options=options())
    largest = saying({"a": 0.9, "b": 0.2}, aggregation=("max", "max"))
    assert "score is the largest of theirs." in report_html(largest, recording(), options=options())


def test_ensemble_shows_means_and_all_models(saying, recording, options):
    models = [saying({"a": 0.2, "b": 0.8}, thresholds=(0.3, 0.5)), saying({"b": 0.65, "a": 0.6}, thresholds=(0.9, 0.1))]
    html = report_html(Ensemble(models), recording(), options=options())
    assert rows_of(html) == [["b ▲ positive", "0.725", "0.700"], ["a ▲ positive", "0.400", "0.200"]]
    assert "means over 2 models" in html and "Ensemble with" in html


def test_regression_has_values_in_the_order_of_the_model(made_up_model, recording, options):
    model = made_up_model("regression")
    html = report_html(model, recording(), options=options())
    values = model.predict(recording()).as_dict()
    assert rows_of(html) == [[label, f"{value:.5g}"] for label, value in values.items()]
    assert 'class="bar"' not in html and "pos_weight" not in html and ">Value</th>" in html


def test_pretrained_model_shows_the_ecg_and_where_it_looked(made_up_model, recording, options):
    html = report_html(made_up_model("pretraining"), recording(), options=options(saliency="rollout"))
    assert "only pretrained: it has no labels" in html and "rollout of layer 2 of 2" in html and rows_of(html) == []
    with pytest.raises(UserError, match="has no labels for gradient; use attention, rollout or none"):
        report_html(made_up_model("pretraining"), recording(), options=options(saliency="gradient"))


@pytest.mark.parametrize(("labels", "tables"), [(1, 1), (6, 1), (7, 2), (17, 3), (71, 6)])
def test_many_labels_stand_in_several_tables(saying, recording, options, labels, tables):
    said = {f"label {number}": (number + 1) / (labels + 1) for number in range(labels)}
    html = report_html(saying(said), recording(), options=options())
    assert [row[0] for row in rows_of(html)] == sorted(said, key=said.get, reverse=True)
    scores = html[html.index('class="scores"') : html.index('class="side"')]
    assert scores.count("<table>") == scores.count("<caption") == tables
    assert f"repeat({tables}, minmax(0, 1fr))" in html


def test_flags_and_missing_leads_are_explained(saying, recording, options):
    given = recording(4, leads=(0, 1, 6, 7))
    given.physical[3] = 0.25
    text = Parsed(report_html(saying({"a": 0.5}), given, options=options())).text
    assert f"constant {FLAGS['constant']}" in text and f"short {FLAGS['short']}" in text
    assert "missing leads V3, V4, V5, V6; the model was given zeros for them" in text
    assert FLAGS["filled"] not in text and "nothing is flagged" not in text


def test_of_a_long_recording_the_seconds_around_the_peak_are_shown(made_up_model, recording, options):
    given = recording(30)
    html = report_html(made_up_model(), given, options=options())
    assert "Shown: 0 to 10 s of 30 s." in html
    html = report_html(made_up_model(), given, options=options(saliency="gradient:saliency", label="B"))
    start, end = map(float, re.search(r"Shown: ([\d.]+) to ([\d.]+) s of 30 s", html).groups())
    peak = float(re.search(r"gradient:saliency of B; most at ([\d.]+) s", html).group(1))
    assert end - start == pytest.approx(10) and start <= peak <= end


def test_gradient_is_of_the_label_it_is_most_certain_of(made_up_model, recording, options):
    model = made_up_model()
    prediction = model.predict(recording())
    positive = [name for name, is_positive in zip(prediction.label_names, prediction.positive) if is_positive]
    expected = max(positive or prediction.label_names, key=prediction.as_dict().get)
    html = report_html(model, recording(), options=options(saliency="gradient:saliency"))
    assert f"ECG with gradient:saliency of {expected} (blue)" in html


def test_gradient_is_drawn_as_means_that_can_be_seen(made_up_model, recording, options):
    model = made_up_model()
    html = report_html(model, recording(), options=options(saliency="gradient:saliency", label="B"))
    saliency = explain(model, recording(), label="B", method="gradient:saliency")
    drawn = drawn_values(saliency, recording())
    assert np.nanmax(drawn) < 0.9 * np.nanmax(saliency.at(recording()))
    least, largest = np.nanmin(drawn), np.nanmax(drawn)
    assert f">saliency {least:.3g}</text>" in html and f">{least + largest:.3g}</text>" in html, "the ends of the key"


HOSTILE = "<script>alert(1)</script>{{ 7 * 7 }}{% raw %}\"'&\x00\udc80"


def test_texts_from_files_are_escaped(saying, recording, options):
    given = recording(record_id=HOSTILE, patient=HOSTILE, sex=HOSTILE, statements=(HOSTILE, "</section>"))
    model = saying({HOSTILE: 0.7, "</table>": 0.2}, thresholds=(0.5, 0.5), threshold_rule=HOSTILE)
    html = report_html(model, given, name=HOSTILE, options=options())
    tags = [tag for tag, _ in Parsed(html).elements]
    assert "script" not in tags and tags.count("main") == 1 and tags.count("table") == 1
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;{{ 7 * 7 }}{% raw %}") >= 6 and "\x00" not in html
    assert Parsed(html).text.count(f"{HOSTILE[:-2]}") >= 6, "a reader sees what the files contain"
    html.encode()


class Index:
    """Two known recordings, and the queries."""

    per, layer = "recording", None

    def check_model(self, model):
        pass

    def query(self, vectors, k, own):
        self.asked = np.shape(vectors), k, own
        return np.array([[0.125, 0.5, np.inf]]), np.array([[4, 2, -1]])

    def facts(self, rows):
        return [KnownRecording(f"known{row}", f"elsewhere/<{row}>.hea") for row in rows]


def test_nearest_known_recordings(made_up_model, recording, options):
    index = Index()
    given = options(index=index, neighbours=3)
    html = report_html(made_up_model(), recording(record_id="mine"), name="a/mine.hea", options=given)
    assert index.asked == ((32,), 3, [KnownRecording("mine", "a/mine.hea")])
    text = Parsed(html).text
    assert "known4 <4>.hea 0.1250 known2 <2>.hea 0.5000" in text and "known-1" not in text
    hidden = report_html(made_up_model(), recording(), options=dataclasses.replace(given, anonymous=True))
    assert "known" not in hidden.replace("Nearest known", "") and ".hea" not in hidden
    assert "1 0.1250 2 0.5000" in Parsed(hidden).text


PLANTED = "Xq7Zplanted"


@pytest.mark.parametrize("saliency", ["attention", "gradient:saliency"])
def test_anonymous_has_no_facts_about_the_patient(made_up_model, recording, options, saliency):
    given = recording(
        record_id=PLANTED,
        patient=PLANTED,
        age=83.25,
        sex=PLANTED,
        start_time=datetime.datetime(1987, 6, 5, 4, 3, 2),
        codes=(PLANTED,),
        statements=(PLANTED,),
    )
    name = f"{PLANTED}/{PLANTED}.hea"
    shown = report_html(made_up_model(), given, name=name, options=options(saliency=saliency))
    assert shown.count(PLANTED) >= 5 and "83.25 years" in shown and "1987-06-05" in shown
    hidden = report_html(made_up_model(), given, name=name, options=options(saliency=saliency, anonymous=True))
    assert PLANTED not in hidden and "83.25 years" not in hidden and "1987-06" not in hidden
    # and nothing else depends on it
    stripped = recording(record_id="other")
    assert hidden == report_html(made_up_model(), stripped, options=options(saliency=saliency, anonymous=True))


def test_nothing_comes_from_elsewhere(made_up_model, recording, options):
    html = report_html(made_up_model(), recording(), options=options(saliency="attention"))
    page = Parsed(html)
    policies = [
        given["content"] for tag, given in page.elements if given.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert not {"script", "link", "img", "iframe", "object", "base"} & {tag for tag, _ in page.elements}
    for _, given in page.elements:
        places = [value for name, value in given.items() if name in ("src", "href", "xlink:href", "action")]
        assert all(place.startswith("#") for place in places)
        assert not any(name.startswith("on") for name in given)
    # names of XML are no addresses
    assert "http" not in re.sub(r'xmlns(:xlink)?="[^"]*"|http-equiv', "", html)
    assert "@import" not in html and all(place.startswith("#") for place in re.findall(r"url\(([^)]*)\)", html))


def test_page_can_be_read_without_eyes_and_mouse(made_up_model, recording, options):
    html = report_html(made_up_model(), recording(leads=(0, 1)), options=options(saliency="attention"))
    page = Parsed(html)
    tags = [tag for tag, _ in page.elements]
    assert dict(page.elements)["html"] == {"lang": "en"} and tags.count("h1") == 1
    assert {"header", "main", "footer"} <= {*tags}
    ids = [given["id"] for _, given in page.elements if "id" in given]
    assert len(ids) == len({*ids})
    for _, given in page.elements:
        for name in ("aria-labelledby", "href", "xlink:href"):
            assert given.get(name, ids[0]).lstrip("#") in ids
    assert all("scope" in given for tag, given in page.elements if tag == "th")
    drawing = next(given for tag, given in page.elements if tag == "svg")
    assert drawing["role"] == "img" and "leads I, II; 25 mm/s, 10 mm/mV" in drawing["aria-label"]
    scrolled = next(given for _, given in page.elements if given.get("class") == "paper")
    assert scrolled["tabindex"] == "0" and scrolled["role"] == "region" and scrolled["aria-label"]


def test_texts_have_enough_contrast(saying, recording, options):
    html = report_html(saying({"a": 0.5}), recording(), options=options())
    style = html[html.index("<style>") : html.index("</style>")]
    colours = dict(re.findall(r"--([\w-]+): (#\w{6});", style))
    inks = {colours[name] for name in re.findall(r"[{;\s]color: var\(--([\w-]+)\)", style)}
    papers = ("#ffffff", "#fdf6e5")
    assert len(inks) >= 4 and not re.findall(r"[{;\s]color: #", style)

    def luminance(colour):
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for ink in inks:
        assert all((luminance(paper) + 0.05) / (luminance(ink) + 0.05) >= 4.5 for paper in papers)


def test_options_that_cannot_be_used(saying, made_up_model, recording, options, tmp_path):
    with pytest.raises(UserError, match="label 'A': attention is the same for all labels"):
        ReportOptions(label="A")
    with pytest.raises(UserError, match="method 'x': use one of"):
        ReportOptions(saliency="x")
    with pytest.raises(UserError, match="0 neighbours: ask for at least 1"):
        ReportOptions(neighbours=0)
    with pytest.raises(UserError, match=r"saying.pt: an ONNX or TorchScript export has only its outputs"):
        report_html(saying({"a": 0.5}), recording(), options=options(saliency="attention"))
    with pytest.raises(UserError, match=r"label 'D': folder/made_up.pt has A, B, C"):
        report_html(made_up_model(), recording(), options=options(saliency="gradient", label="D"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file: is a file; give a folder"):
        write_report(saying({"a": 0.5}), recording(), tmp_path / "file" / "page.html", options=options())
