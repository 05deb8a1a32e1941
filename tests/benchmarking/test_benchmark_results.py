"""A whole benchmark: its metrics are scikit-learn's, its verdicts right, and interruptions leave no trace."""

import csv
import subprocess
import sys
import time
from pathlib import Path

import made_up_benchmark
import numpy as np
import pytest
from made_up_benchmark import MadeUpFeatures, benchmark, entrants_of, noise, write_labelled
from sklearn.metrics import average_precision_score, r2_score, roc_auc_score

from fairseq_signals_ext.benchmarking.benchmark import begin, prepare_tasks, run_benchmark
from fairseq_signals_ext.benchmarking.comparing import measure
from fairseq_signals_ext.benchmarking.entrants import Entrant
from fairseq_signals_ext.benchmarking.protocols import BenchmarkSettings
from fairseq_signals_ext.benchmarking.results import read_results, results_text
from fairseq_signals_ext.benchmarking.score_files import Unit, read_scores
from fairseq_signals_ext.benchmarking.targets import known_of
from fairseq_signals_ext.benchmarking.task_files import read_task
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.inference.parts import Part


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder of the data, of the results, and the results."""
    top = tmp_path_factory.mktemp("whole")
    has = write_labelled(top / "data")
    return top, benchmark(top / "data", top / "out", has), has


def of_files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_metrics_are_those_of_scikit_learn(whole):
    top, results, _ = whole
    for task, metrics in (
        ("ptbxl-super", {"auroc": roc_auc_score, "auprc": average_precision_score}),
        ("age", {"r2": r2_score}),
    ):
        known = known_of(top / "data", read_task(task))
        runs = [read_scores(Unit("told", task, "layer", 100, seed).path(top / "out")) for seed in (1, 2)]
        for name, metric in metrics.items():
            labels = [[metric(t, s) for t, s in zip(known.targets.T, run.scores.T)] for run in runs]
            (found,) = [
                one
                for one in results.values
                if (one.task, one.probe, one.metric, one.model, one.label) == (task, "layer", name, "told", "")
            ]
            assert found.point == pytest.approx(np.mean(labels), abs=1e-12)
            assert found.of_seeds == pytest.approx(np.mean(labels, axis=1), abs=1e-12)
            assert found.low < found.point < found.high


def test_a_planted_difference_is_found(whole):
    _, results, _ = whole
    verdicts = {one.task: one for one in results.verdicts}
    assert verdicts["ptbxl-super"].better == "told"
    assert verdicts["age"].better is None
    (ours,) = [
        one
        for one in results.choices
        if (one["model"], one["task"], one["probe"], one["seed"]) == ("told", "ptbxl-super", "layer", 1)
    ]
    assert {choice["layer"] for choice in ours["choices"]} == {"1"}
    macro = results.macro("ptbxl-super", "layer")
    assert macro["told"].point > 0.8 > 0.65 > macro["random"].point


def test_files_name_the_protocol_and_read_back(whole):
    top, results, _ = whole
    assert read_results(top / "out") == read_results(top / "out")
    assert results_text(read_results(top / "out")) == results_text(results)
    table = (top / "out" / "table.md").read_text()
    assert table.count("rotocol strict") == 5
    assert "| told | **0." in table
    assert (top / "out" / "table.tex").read_text().count(r"\caption{Protocol strict, probe") == 2
    with open(top / "out" / "differences.csv") as file:
        rows = list(csv.DictReader(file))
    assert {row["protocol"] for row in rows} == {"strict"}
    assert len(rows) == 2 * 2 * 2 * 3  # tasks, probes, metrics, pairs


def test_a_table_follows_from_the_scores_alone(whole, tmp_path):
    top, _, has = whole
    copy = tmp_path / "out"
    for path, content in of_files(top / "out" / "scores").items():
        (copy / "scores" / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / "scores" / path).write_bytes(content)
    benchmark(top / "data", copy, has)
    assert of_files(copy) == of_files(top / "out")


@pytest.mark.parametrize("after", [1, 9, 20])
def test_a_killed_run_continues_to_the_same_bytes(whole, tmp_path, after):
    top, _, has = whole
    script = [sys.executable, made_up_benchmark.__file__, str(tmp_path / "data"), str(tmp_path / "out")]
    process = subprocess.Popen(script, cwd=Path(made_up_benchmark.__file__).parent)
    while len(list((tmp_path / "out").rglob("*.npz"))) < after and process.poll() is None:
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert not (tmp_path / "out" / "table.md").exists()
    benchmark(tmp_path / "data", tmp_path / "out", has)
    assert of_files(tmp_path / "out") == of_files(top / "out")


def test_parts_give_the_same_bytes(whole, tmp_path):
    top, _, has = whole
    how = BenchmarkSettings(**made_up_benchmark.SMALL)
    prepared = prepare_tasks(top / "data", [read_task(task) for task in ("ptbxl-super", "age")], how)
    for number in (2, 1):
        begin(tmp_path, how.as_json(), resume=False, overwrite=False, part=Part(number, 2))
        found = run_benchmark(tmp_path, prepared, entrants_of(has), how, Part(number, 2))
        assert (found is None) == (number == 2)
    assert of_files(tmp_path) == of_files(top / "out")


def test_label_efficiency_and_iclr2026(whole, tmp_path):
    top, _, has = whole
    few = benchmark(top / "data", tmp_path / "few", has, ["ptbxl-super"], percents=(10.0, 100.0), probes=("layer",))
    assert few.macro("ptbxl-super", "layer", 10)["told"].point < few.macro("ptbxl-super", "layer")["told"].point
    assert few.verdicts == ()
    published = benchmark(top / "data", tmp_path / "published", has, ["ptbxl-super"], protocol="iclr2026")
    assert (published.protocol, published.tasks[0].recordings) == ("iclr2026", 24)
    assert published.macro("ptbxl-super", "layer")["told"].point > 0.7
    assert "Protocol iclr2026" in (tmp_path / "published" / "table.md").read_text()


def test_what_does_not_go_together_is_told_in_one_line(whole, tmp_path):
    top, _, has = whole
    how = BenchmarkSettings(**made_up_benchmark.SMALL)
    other = MadeUpFeatures("other", noise(200, 1))
    prepared = prepare_tasks(top / "data", [read_task("age")], how)
    with pytest.raises(UserError, match="features of other: recording 200 of task age is not in them .40 such"):
        run_benchmark(tmp_path, prepared, [Entrant("other", "checkpoint", other)], how)
    changed = [Entrant("told", "checkpoint", MadeUpFeatures("told", noise(240, 7)))]
    with pytest.raises(UserError, match="is of other features"):
        run_benchmark(top / "out", prepared, changed, how)
    with pytest.raises(UserError, match="continue with --resume"):
        begin(top / "out", how.as_json(), resume=False, overwrite=False)
    with pytest.raises(UserError, match=r"another benchmark \(seed differ\)"):
        begin(top / "out", {**how.as_json(), "seed": 2}, resume=True, overwrite=False)
    for settings, told in (
        ({"protocol": "ours"}, "no such protocol; use strict, iclr2026"),
        ({"probes": ("first",)}, "no such probe"),
        ({"percents": (10.0,)}, "the last one 100"),
    ):
        with pytest.raises(UserError, match=told):
            BenchmarkSettings(**settings).check()


def test_within_sources(tmp_path):
    """Scores that tell the source alone are worth nothing, where labels are more frequent in one of two."""
    rng = np.random.default_rng(3)
    source = np.repeat(["a", "b"], 120)
    has = rng.uniform(size=240) < np.where(source == "a", 0.8, 0.2)
    codes = [["NORM:100"] if there else ["IMI:100"] for there in has]
    write_labelled(tmp_path, source=source.tolist(), codes=codes)
    how = BenchmarkSettings(resamples=50)
    known = known_of(tmp_path, read_task("ptbxl-super"))
    scores = np.repeat((source == "a").astype(float)[:, None], len(known.label_names), axis=1)
    found = measure([scores], known, how)
    assert found.point["auroc"][known.label_names.index("NORM")] == 0.5
    one = measure([scores], known, BenchmarkSettings(resamples=50, protocol="iclr2026"))
    assert one.point["auroc"][known.label_names.index("NORM")] > 0.75


@pytest.mark.slow
def test_of_two_copies_none_is_better(tmp_path):
    """Equal information on other axes, with noise of its own: how often one is called better, in 100 repetitions."""
    how, better, single = BenchmarkSettings(resamples=400, fold_seeds=(1,)), 0, 0
    for seed in range(100):
        has = write_labelled(tmp_path / "data", 200, seed=seed)
        rng = np.random.default_rng((seed, 1))
        copies = []
        for name in ("a", "b"):
            values = rng.normal(size=(2, 200, 8))
            values[:, :, :5] += has
            turned = values @ np.linalg.qr(rng.normal(size=(8, 8)))[0]
            copies.append(Entrant(name, "checkpoint", MadeUpFeatures(name, turned), "random"))
        copies.append(Entrant("random", "random", MadeUpFeatures("random", rng.normal(size=(2, 200, 8)))))
        begin(tmp_path / "out", {}, resume=False, overwrite=True)
        results = run_benchmark(
            tmp_path / "out", prepare_tasks(tmp_path / "data", [read_task("ptbxl-super")], how), copies, how
        )
        better += results.verdicts[0].better is not None
        single += sum(
            one.p <= 0.05 for one in results.differences if {one.a, one.b} == {"a", "b"} and one.metric == "auroc"
        )
    print(f"called better: {better} of 100; p <= 0.05 of a single probe: {single} of 200")
    assert better <= 10  # of 5 expected at most; P(more than 10) is 1 %
