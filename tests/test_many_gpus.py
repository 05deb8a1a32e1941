"""The arithmetic of benchmarks/many_gpus.py."""

import importlib.util
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PATH = ROOT / "benchmarks" / "many_gpus.py"
RESULTS = ROOT / "benchmarks" / "results" / "many_gpus.md"


@pytest.fixture(scope="module")
def model():
    spec = importlib.util.spec_from_file_location("many_gpus", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look for it
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture()
def update(model):
    return model.Update(seconds=0.3, backward=0.5, pairs=171, parameters=90_000_000, fp32_rate=5e13)


WAYS = [(size, overlaps) for size in (2, 4) for overlaps in (False, True)]


def test_known_ring(model):
    # 4 members, 1 GB at 100 GB/s: 6 steps of 250 MB, 2.5 ms each, and 6 latencies
    assert model.ring_seconds(1e9, 4, 1e11, 1e-3) == pytest.approx(6 * 2.5e-3 + 6 * 1e-3)
    assert model.ring_seconds(1e9, 1, 1e11, 1e-3) == 0


def test_two_machines_send_a_gpus_share_over_the_network(model):
    cluster = model.Cluster(inside=1e11, between=1e10, latency_inside=0, latency_between=0)
    inside = 2 * 7 / 8 * 1e9 / 1e11
    assert model.all_reduce_seconds(1e9, 8, cluster) == pytest.approx(inside)
    assert model.all_reduce_seconds(1e9, 16, cluster) == pytest.approx(inside + 2 * 1 / 2 * 1e9 / 8 / 1e10)
    # 7 others' GB, and 8 times as much from two machines, of which one comes over the network
    assert model.all_gather_seconds(1e9, 8, cluster) == pytest.approx(7e9 / 1e11)
    assert model.all_gather_seconds(1e9, 16, cluster) == pytest.approx(1e9 / 1e10 + 14e9 / 1e11)


@pytest.mark.parametrize("size, overlaps", WAYS)
def test_one_gpu_waits_for_nothing(model, update, size, overlaps):
    assert model.waiting_seconds(update, 1, model.Cluster(), size, overlaps) == 0
    assert model.cmsc_seconds(update, 1, model.Cluster()) == 0
    assert model.cell(update, 1, 0) == f"{342 / 0.3:,.0f}/s, 100 %, {240 * 1_405_625 / (342 / 0.3) / 3600:.1f} h"


@pytest.mark.parametrize("size, overlaps", WAYS)
def test_more_gpus_wait_longer_and_yet_do_more(model, update, size, overlaps):
    for cluster in (model.Cluster(), model.Cluster(between=1e9)):
        waits = [model.waiting_seconds(update, gpus, cluster, size, overlaps) for gpus in (1, 2, 8, 16, 64, 512)]
        assert waits == sorted(waits) and waits[1] > 0
        rates = [gpus / (update.seconds + wait) for gpus, wait in zip((1, 2, 8, 16, 64, 512), waits)]
        assert rates == sorted(rates)


def test_half_the_bytes_and_overlap_never_wait_longer(model, update):
    for gpus in (8, 64, 512):
        slow = model.Cluster(between=1e9)
        fp32, bf16, hidden = (
            model.waiting_seconds(update, gpus, slow, *way) for way in [(4, False), (2, False), (4, True)]
        )
        assert fp32 / 2 <= bf16 < fp32 and hidden < fp32
        # what does not fit into the backward pass is waited for
        hurried = replace(update, seconds=0.001)
        assert model.waiting_seconds(hurried, gpus, slow, 4, True) > hidden


def test_gathering_costs_the_square(model, update):
    immediate = model.Cluster(inside=1e30, between=1e30, latency_inside=0, latency_between=0)
    eight, sixteen = (model.cmsc_seconds(update, gpus, immediate) for gpus in (8, 16))
    assert sixteen / eight == pytest.approx((16**2 - 1) / (8**2 - 1))
    assert model.cmsc_gigabytes(update, 16) == pytest.approx(4 * model.cmsc_gigabytes(update, 8))


def test_the_measured_update_is_read_from_the_benchmarks_table(model, tmp_path):
    table = tmp_path / "measured.md"
    table.write_text(
        "| fp32, 171 pairs, 90,883,072 parameters | |\n| --- | --- |\n| an update | 0.9 s (median of 10) |\n"
        "| share of the peak (51.5 TFLOP/s, a matrix product) | 88 % |\n| backward | 60.0 % |\n\n"
        "| bf16, 64 pairs, 1,000 parameters | |\n| --- | --- |\n| an update | 0.2 s |\n"
        "| share of the peak (800 TFLOP/s, a matrix product) | 17 % |\n| backward | 40.0 % |\n"
    )
    assert model.read_update(table, "bf16") == model.Update(0.2, 0.4, 64, 1000, 5.15e13)
    assert model.read_update(table, "fp32") == model.Update(0.9, 0.6, 171, 90_883_072, 5.15e13)
    table.write_text("nothing")
    with pytest.raises(SystemExit, match="no update in bf16"):
        model.read_update(table, "bf16")


def printed(model, capsys, *arguments):
    model.main(arguments)
    return capsys.readouterr().out


def cells_of(text, first):
    """The rows below the title that begins so, without the name of each row."""
    table = text[text.index(f"| {first}") :].split("\n\n")[0].splitlines()[2:]
    return {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")[1:] for line in table}


def test_an_update_takes_time_for_its_pairs_but_no_less_than_the_shortest(model, update):
    assert update.seconds_of(2 * 171) == pytest.approx(0.6)
    assert update.seconds_of(114) == pytest.approx(0.2)
    assert update.seconds_of(1) == 0.1
    assert replace(update, shortest=0.25).seconds_of(114) == 0.25
    # a measured update is no longer than it was measured, whatever is assumed
    assert replace(update, seconds=0.09).seconds_of(171) == replace(update, seconds=0.09).seconds_of(1) == 0.09


@pytest.mark.parametrize("seconds", [0.02, 0.09, 0.1, 0.3])
def test_both_tables_have_the_same_update(model, update, seconds):
    update, clusters = replace(update, seconds=seconds), [("fast", model.Cluster())]
    alone = cells_of("\n".join(model.growing_batch(update, clusters, model.ALL_WAYS)), "171 pairs")
    spread = cells_of("\n".join(model.papers_batch(update, clusters[0][1])), "513 pairs")
    hours = alone["fast, fp32 gradients, legacy_ddp"][0].split(", ")[2]
    assert spread["1 GPU"][1:] == [f"{3 * seconds:.3f} s", hours, "100 %"]
    shortest = min(0.1, seconds)
    for _, took, _, efficiency in spread.values():
        assert float(took.split()[0]) >= shortest and int(efficiency.split()[0]) <= 100
    three = float(spread["3 GPUs"][1].split()[0])
    assert seconds <= three < seconds + 0.001


def test_a_short_update_is_not_made_longer(model, capsys):
    text = printed(model, capsys, "--update", "0.09", "--goal", "0.08")
    assert "no update takes less than 0.09 s" in text and "no update takes less than 0.08 s" in text
    assert cells_of(text, "513 pairs")["3 GPUs"][1:] == ["0.090 s", "8.2 h", "100 %"]
    assert cells_of(text, "goal, not measured: 513 pairs")["3 GPUs"][1] == "0.080 s"
    assert "Given, not measured" in text and "Measured:" not in text


def test_an_update_shorter_than_the_shortest_is_refused_in_one_line(model):
    with pytest.raises(SystemExit, match=r"^error: --shortest 0\.1: an update takes 0\.09 s[^\n]*$"):
        model.main(["--update", "0.09", "--shortest", "0.1"])


@pytest.mark.parametrize("option", ["--update", "--goal", "--shortest", "--network"])
def test_what_is_not_above_zero_is_refused(model, capsys, option):
    for value in ("0", "-1", "nan", "inf"):
        with pytest.raises(SystemExit):
            model.main([f"{option}={value}"])
        assert f"argument {option}: {value} is no number above 0" in capsys.readouterr().err


def test_a_machine_without_memory_reads_what_all_gpus_train_on(model, update):
    # 342 segments of 12 leads, 2500 samples of 2 bytes, in 0.3 s and on each of 64 GPUs
    assert model.reading_rate(update, 64) == pytest.approx(64 * 342 * 60_000 / 0.3)


def test_results_are_what_the_script_prints_and_name_measured_and_goal(model, capsys, tmp_path):
    out = tmp_path / "out.md"
    text = printed(model, capsys, "--out", str(out))
    assert out.read_text() == RESULTS.read_text() and text.strip() == out.read_text().strip()
    assert "`ecg_fm_fast` could not be measured" in text.splitlines()[0]
    assert "The goal of the project, not measured: 3,600 segments/s" in text
    rates = cells_of(text, "goal, not measured: 171 pairs")
    assert rates["fast network, fp32 gradients, legacy_ddp"][0].startswith("3,600/s, 100 %")


def test_the_plan_concludes_from_figures_that_the_tables_hold(model):
    plan = (ROOT / "docs" / "scaling.md").read_text()
    conclusions = re.sub(r"(?m)^\d\. |[a-z]+\d+|\bfp32\b", "", plan.split("\nResults:\n")[1])
    reading = re.findall(r"[\d.]+(?= and [\d.]+ GB/s| GB/s)", plan.split("last row of the tables")[1].split("\n## ")[0])
    held = set(re.findall(r"\d[\d,.]*\d|\d", RESULTS.read_text()))
    assert len(reading) == 4
    assert set(re.findall(r"\d[\d,.]*\d|\d", conclusions)) | set(reading) <= held
