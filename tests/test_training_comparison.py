"""The arithmetic of the comparison of training speed, and what counts as waiting for the device."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import _shared  # noqa: E402
import fast_learning  # noqa: E402
import training_command  # noqa: E402
import training_comparison  # noqa: E402
from host_syncs import HostSyncs  # noqa: E402
from training_comparison import Measured  # noqa: E402

X = torch.arange(6.0)


def copy_in_place(x):
    x.clone()[torch.tensor([0, 2])] = 1.0


@pytest.mark.parametrize(
    "name, operation",
    [
        ("_local_scalar_dense", lambda x: x[0].item()),
        ("_local_scalar_dense", lambda x: bool((x > 1).any())),
        ("index", lambda x: x[x > 1]),
        ("index_put_", lambda x: x.clone().__setitem__(x > 1, torch.zeros(4))),
        ("nonzero", lambda x: x.nonzero()),
        ("masked_select", lambda x: x.masked_select(x > 1)),
        ("_unique2", lambda x: x.unique()),
    ],
)
def test_waits(name, operation):
    with HostSyncs() as syncs:
        operation(X)
    assert syncs.total == 1
    assert syncs.found == {name: 1}


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x.gather(0, torch.tensor([0, 2])),
        lambda x: x[torch.tensor([0, 2])],
        copy_in_place,
        lambda x: x.masked_fill(x > 1, 0),
        lambda x: torch.where(x > 1, x, 0).sum(),
        lambda x: x.double(),
    ],
)
def test_does_not_wait(operation):
    with HostSyncs() as syncs:
        operation(X)
    assert syncs.total == 0


def test_counts_the_backward_pass():
    class Asks(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, gradient):
            return gradient * gradient.sum().item()

    x = X.clone().requires_grad_()
    with HostSyncs() as syncs:
        Asks.apply(x).sum().backward()
    assert syncs.found == {"_local_scalar_dense": 1}


def test_memory_is_what_lives_at_once():
    mega = 2**20

    def work():
        first = torch.zeros(mega)  # 4 MiB
        second = first + 1  # 4 MiB more
        del first, second
        torch.zeros(mega // 2)

    found = training_comparison.rise_of_memory(work)
    assert 8 * mega <= found < 9 * mega


def test_memory_of_the_state_counts_a_storage_once():
    model = torch.nn.Linear(100, 10)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.zeros(1, 100)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    trainer = SimpleNamespace(model=model, optimizer=SimpleNamespace(optimizer=optimizer))
    # weights and Adam's two averages; the number of updates is a tensor of 4 bytes for each of two parameters
    assert training_comparison._bytes_of_state(trainer) == 3 * 4 * 1010 + 2 * 4


def test_rows_of_the_comparison():
    measured = {
        "stock": Measured("fp32", [2.0, 4.0, 2.0], [3.0, 2.0, 9.0], "0 / 2", 1.25, 9.5),
        "quick": Measured("bf16", [1.0, 1.0, 0.5], [31.0, 2.0, 9.0], "0 / 1", 0.5, 9.25),
    }
    given = {"segments": 16, "operations": 1e12, "peaks": {"fp32": 1.0, "bf16": 4.0}}
    rows = training_comparison.table(measured, **given, paper=True)
    assert rows[2] == "| stock | 8.00 | 1.00 [1.00, 1.00] | 50 % of fp32 | 0 / 2 | 1.25 | 1 | 9.500 | 11,714 |"
    assert rows[3] == "| quick | 16.00 | 2.00 [2.00, 4.00] | 25 % of bf16 | 0 / 1 | 0.50 | 31 | 9.250 | 5,857 |"
    assert {row.count("|") for row in rows} == {10}
    rows = training_comparison.table(measured, **given, paper=False)
    assert rows[3].endswith("| 31 | 9.250 |")
    assert {row.count("|") for row in rows} == {9}


def test_all_switches_is_each_of_them():
    found = training_comparison.arrangements(checkpointing=True)
    alone = [override for name in _shared.SWITCHES for override in found[name]]
    assert found["stock"] == []
    assert found["all switches"] == alone
    assert "++model.checkpoint_activations=true" not in alone


def test_all_switches_is_the_fast_config():
    config = OmegaConf.load(_shared.CONFIGS / "ecg_fm_fast.yaml")
    switches = [f"++model.{key}={str(value).lower()}" for key, value in config.model.items()]
    assert sorted([*switches, f"optimizer._name={config.optimizer._name}"]) == sorted(_shared.FAST)


def test_rate_of_a_log():
    line = '[2026-11-24 23:59:{}][train_inner][INFO] - {{"epoch": 1, "num_updates": "{}"}}'
    said = [("01,000", 2), ("09,000", 4), ("10,500", 6), ("11,000", 8)]
    log = "\n".join(line.format(second, update) for second, update in said)
    times = training_command.read_times("other line\n" + log)
    assert [update for update, _ in times] == [2, 4, 6, 8]
    assert training_command.seconds_an_update(times) == pytest.approx([0.75, 0.25])
    rows = training_command.table({"stock": [2.0, 2.0], "fast": [0.75, 0.25]}, segments=10)
    assert rows[3] == "| fast | 20.0 [13.3, 40.0] | 4.00 |"


def test_largest_difference():
    stock, other = np.full(11, 2.0), np.full(11, 2.0)
    other[3], other[4] = 2.1, 1.94
    assert fast_learning.largest_difference(stock, other, 10) == pytest.approx(5.0)
    assert fast_learning.largest_difference(stock, other, 50) == pytest.approx(0.4)


def test_syncs_inside_of_a_step_are_told_from_those_around_it():
    warned = [1]
    grown = training_comparison._Grown(warned)
    with grown:
        warned += [2, 3]
    warned.append(4)
    assert grown.number == 2
