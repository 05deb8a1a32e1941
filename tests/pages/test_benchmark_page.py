"""The page of a benchmark: tables and pictures of `results.json`, without external content."""

import dataclasses
import re

import pytest
from made_up_benchmark import benchmark, write_labelled

from fairseq_signals_ext.benchmarking.results import read_results
from fairseq_signals_ext.pages.benchmark_page import benchmark_html, write_benchmark_page


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results of a model that predicts the labels, one that does not, and a control."""
    top = tmp_path_factory.mktemp("page")
    benchmark(top / "data", top / "out", write_labelled(top / "data"))
    return top / "out"


def test_contents_of_the_page(folder):
    results = read_results(folder)
    page = write_benchmark_page(results, folder).read_text(encoding="utf-8")
    assert "told is better than nothing: in both probes, and above random weights." in page
    best = results.macro("ptbxl-super", "layer")["told"]
    assert re.search(rf"<td><b>{best.point:.3f}", page)
    assert page.count("<svg ") == 5  # differences of two tasks, layers of two, labels of one
    for text in ("nothing − told", "random − told", "Probe", "strict", "240 recordings of 120 patients."):
        assert text.lower() in page.lower()
    for model in results.models:
        assert str(model.features)[:16] in page


def test_it_needs_nothing_and_is_the_same_each_time(folder):
    page = benchmark_html(read_results(folder))
    assert page == benchmark_html(read_results(folder))
    assert not re.search(r"(src|href)=\"(?!#)", page)
    assert "<script" not in page


def test_names_are_escaped(folder):
    results = read_results(folder)

    def renamed(rows, names):
        return tuple(
            dataclasses.replace(row, **{name: getattr(row, name).replace("nothing", "<i>x</i>") for name in names})
            for row in rows
        )

    changed = dataclasses.replace(
        results,
        models=renamed(results.models, ["name"]),
        values=renamed(results.values, ["model"]),
        differences=renamed(results.differences, ["a", "b"]),
        verdicts=(),
    )
    page = benchmark_html(changed)
    assert "<i>x</i>" not in page
    assert "&lt;i&gt;x&lt;/i&gt;" in page
