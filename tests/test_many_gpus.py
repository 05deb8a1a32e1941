"""The arithmetic of benchmarks/many_gpus.py."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

PATH = Path(__file__).parents[1] / "benchmarks" / "many_gpus.py"


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
