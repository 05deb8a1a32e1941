"""`manifests/verify.py`, as a user runs it, and its report."""

import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from made_up_wfdb import write_wfdb
from running import script

from fairseq_signals_ext import cli
from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.pages.verify_page import write_verify_page
from fairseq_signals_ext.prepared.pipeline import RunOptions, prepare
from fairseq_signals_ext.prepared.verify import Findings
from fairseq_signals_ext.sources import SourceOptions, open_source


def main(arguments):
    return cli.main(["verify", *arguments])


HOSTILE = "<script>alert('x')</script>{{ 7 * 7 }}\" onerror=\"alert(1)"
# records, leads, Hz in the source, seconds
SOURCES = {"a $x^$ & <b>": (4, LEADS, 500, 10), "few leads": (4, ("I", "II", "V1"), 250, 30)}


def beats(samples, rate, leads):
    time = np.arange(samples) / rate
    r = np.exp(-(((time * 1.2 % 1 - 0.5) / 0.02) ** 2))  # 72 a minute
    return np.outer(r, np.linspace(0.5, 1.5, leads)) + np.random.default_rng(0).normal(0, 0.01, (samples, leads))


def write_source(folder, count, leads, rate, seconds):
    """Records, two per patient; the last lead of the last record is all zeros."""
    folder.mkdir(parents=True)
    for number in range(count):
        signal = (beats(seconds * rate, rate, len(leads)) * 1000 + number).round().astype(int)
        if number == count - 1:
            signal[:, -1] = 0
        comments = [f"Patient: p{number // 2}"]
        write_wfdb(folder / f"r{number}", signal.T, leads, rate=rate, comments=comments)
    quoted = HOSTILE.replace('"', '""')
    names = ["file,record_id", *(f'r{number}.hea,"{quoted}{number}"' for number in range(count))]
    (folder / "names.csv").write_text("\n".join(names) + "\n")


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    base = tmp_path_factory.mktemp("verify")
    for number, (name, how) in enumerate(SOURCES.items()):
        folder = base / str(number)
        write_source(folder, *how)
        source = open_source("wfdb", folder, SourceOptions(name=name, table=folder / "names.csv"))
        prepare(source, base / "out", options=RunOptions(shard_size=3, progress=False))
    return base / "out"


@pytest.fixture
def out(good, tmp_path):
    return shutil.copytree(good, tmp_path / "out")


@pytest.fixture(scope="session")
def report(good, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "below" / "verify.html"
    assert main([str(good), "--out", str(path)]) == 0
    return path.read_text(encoding="utf-8")


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.text += data + "\n"


def test_a_good_folder(out):
    done = script("manifests/verify.py", out, "--jobs", 2)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        f"{out}: 8 recordings, 0.04 h, 4 shard(s), 1 manifest(s), 0 set(s) of labels",
        "no problems found",
        f"report: {out / 'verify.html'}",
    ]
    assert (out / "verify.html").is_file()


def test_a_damaged_folder(out, capsys):
    (out / "shards" / "00001.npy").unlink()
    counts = np.load(out / "shards" / "00002.npy")
    np.save(out / "shards" / "00002.npy", counts ^ 1)
    assert main([str(out)]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[1] == f"{out}/shards/00001.npy: no such file, though the plan has it; prepare again with --resume"
    assert printed[2].startswith(f"{out}/shards/00002.npy: item 'r0.hea' (row 0, idx 4): checksum differs")
    assert printed[3:] == ["wrong: 2", f"report: {out / 'verify.html'}"]
    text = Page((out / "verify.html").read_text()).text
    assert "2 problems" in text and printed[1] in text and printed[2] in text
    assert main([str(out), "--quick", "--no-report"]) == 1, "what is missing is seen without reading counts"
    assert "wrong: 1" in capsys.readouterr().out


def test_a_report_of_a_folder_of_which_no_shard_can_be_read(out):
    for path in (out / "shards").glob("*.npy"):
        path.write_bytes(b"")
    assert main([str(out)]) == 1
    assert "<figure>" in (out / "verify.html").read_text(), "what the table says is still drawn"


def test_no_report(out, capsys):
    assert main([str(out), "--no-report", "--quick"]) == 0
    assert not (out / "verify.html").exists() and "report:" not in capsys.readouterr().out


def test_long_lists_are_cut_on_the_terminal_but_not_in_the_report(out, capsys, monkeypatch):
    lines = [f"file {number}: wrong; fix it" for number in range(60)]
    monkeypatch.setattr(
        "fairseq_signals_ext.prepared.verify.verify",
        lambda folder, *_: Findings(folder, False, 8, 4, 1.0, problems=lines, notes=lines),
    )
    assert main([str(out)]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[50:52] == [lines[49], "and 10 more; the report has them all"]
    assert "and 10 more notes; the report has them all" in printed and len(printed) == 1 + 51 + 51 + 2
    text = Page((out / "verify.html").read_text()).text
    assert all(text.count(line) == 2 for line in lines)


@pytest.mark.parametrize("arguments", [["--jobs", "0"], ["--out", "/dev/null/no/report.html"]])
def test_a_users_mistake_is_one_line(out, arguments):
    with pytest.raises(SystemExit, match=r"^error: [^\n]+; ?[^\n]+$|^error: jobs 0: [^\n]+$"):
        main([str(out), *arguments])


def test_a_folder_that_was_never_prepared(tmp_path):
    with pytest.raises(SystemExit, match=r"plan.jsonl: no such file, or no shards in it; run fairseq-signals-ext"):
        main([str(tmp_path)])


def test_the_report_needs_nothing_else(report):
    page = Page(report)
    assert not {"script", "link", "iframe", "object", "a"} & set(page.tags)
    loaded = [value for name, value in page.attributes if name in ("src", "href", "srcset", "data")]
    assert len(loaded) == 3 + len(SOURCES) and all(value.startswith("data:image/") for value in loaded)
    assert not re.search(r"https?:|url\(|@import|//", re.sub(r"base64,[^\"]*", "", report))
    assert len(report) < 150_000 * len(SOURCES)


def test_text_from_files_is_escaped(report):
    escaped = "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;{{ 7 * 7 }}&#34; onerror=&#34;alert(1)2"
    assert HOSTILE not in report and escaped in report
    page = Page(report)
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert f"a $x^$ & <b>: {HOSTILE}2 (r2.hea, idx 2)" in page.text
    assert page.text.count("a $x^$ & <b>") >= 3 and page.tags.count("b") == 7, "only the totals are bold"


def test_numbers_of_the_report(report, good):
    page = Page(report)
    cells = [line for line in page.text.splitlines() if line]
    at = cells.index("few leads")
    assert cells[at : at + 8] == ["few leads", "4", "0.03", "2", "250", "30", cells[at + 6], "72 (4)"]
    size = sum(path.stat().st_size for path in (good / "shards").glob("?????.npy"))
    assert f"{size / 1e6:.3g} MB" in cells and "2.00" in cells


def test_leads_and_flags_of_the_report(report):
    text = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", report))
    # of I, II and V1, the limb leads are derived; the constant lead of one recording is one in four
    missing, derived, constant = (
        text.split(f"{what} leads, % of recordings")[1] for what in ("Missing", "Derived", "Constant")
    )
    assert re.match(r".*? few leads (· ){7}(100 ){5}", missing)
    assert re.match(r".*? few leads (· ){2}(100 ){4}(· ){6}", derived)
    assert re.match(r".*? few leads (· ){6}25 (· ){5}", constant)
    flags = text.split("Flags, % of recordings")[1]
    assert re.match(r".*? few leads · 25 · · · · · · · constant a lead never changes", flags)


def test_the_same_folder_gives_the_same_bytes(report, good, tmp_path):
    assert main([str(good), "--out", str(tmp_path / "again.html"), "--jobs", "2"]) == 0
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == report


def test_a_report_that_cannot_be_written_leaves_nothing(out, monkeypatch):
    findings = Findings(out, False, 8, 4, 1.0)
    before = sorted(out.rglob("*"))
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(ValueError, match="No space left on device; give another --out"):
        write_verify_page(findings, out / "verify.html")
    assert sorted(out.rglob("*")) == before
