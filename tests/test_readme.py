"""The README's commands run as written, it is short, and its figures are those of the benchmarks."""

import re

import pytest
from made_up_checkpoints import saved_checkpoint
from snippets import ECGS, ROOT, Reader, blocks

README = ROOT / "README.md"


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    reader = Reader(tmp_path_factory.mktemp("readme") / "reader")
    saved_checkpoint(reader.folder / "mimic_iv_ecg_finetuned.pt")
    return reader


def test_commands(reader):
    """Predicting with a checkpoint, then from files to an evaluated model."""
    printed = reader.follow(README)
    assert len(printed) == len(blocks(README)) == 3
    folder = reader.folder
    assert len((folder / "predictions" / "predictions.csv").read_text().splitlines()) == 1 + ECGS
    assert (folder / "reports" / "one.html").stat().st_size > 10_000
    assert re.search(r"'A': 0\.\d+, 'B': 0\.\d+", printed[1])
    for name in ("metrics.json", "per_label.csv", "predictions.parquet", "roc.png", "confusion.png"):
        assert (folder / "evaluation" / name).stat().st_size > 0


def test_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 200


def test_figures_are_those_of_the_benchmarks():
    rows = re.findall(r"^\| (.+\(benchmarks/results/(\w+)\.md\).+) \|$", README.read_text(encoding="utf-8"), re.M)
    assert len(rows) == 5
    for row, name in rows:
        table = (ROOT / "benchmarks" / "results" / f"{name}.md").read_text()
        figures = re.findall(r"\d[\d,]*\.\d+|\d,\d{3}", row.split(" | ")[1].partition("(")[0])
        assert figures and [figure for figure in figures if figure not in table] == [], row
