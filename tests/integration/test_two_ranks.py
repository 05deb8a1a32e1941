"""Data-parallel training gives the gradients of one process."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from made_up import write_shards
from running import SMALL, train_command

RANK = Path(__file__).parent / "rank.py"

NO_DROPOUT = [
    *SMALL,
    "++dataset.disable_validation=true",
    "++optimization.max_update=1",
    "++optimization.clip_norm=0",
    "++model.dropout=0",
    "++model.attention_dropout=0",
    "++model.dropout_input=0",
    "++model.dropout_features=0",
]


def start(data, out, target, *overrides):
    arguments = train_command(data, out, *NO_DROPOUT, *overrides)[1:]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(RANK), str(target), *arguments],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def wait(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-3000:]
    return output


def test_two_ranks_equal_one_with_two_accumulated_batches(tmp_path):
    write_shards(tmp_path, [5000] * 16)
    wait(start(tmp_path, tmp_path / "one", tmp_path / "one.pt", "++optimization.update_freq=[2]"))
    distributed = [
        "++distributed_training.distributed_world_size=2",
        "++distributed_training.ddp_backend=legacy_ddp",
        "++distributed_training.distributed_backend=gloo",
        "++distributed_training.distributed_no_spawn=true",
        f"++distributed_training.distributed_init_method=file://{tmp_path / 'meeting'}",
    ]
    ranks = [
        start(
            tmp_path,
            tmp_path / f"rank{rank}",
            tmp_path / f"rank{rank}.pt",
            *distributed,
            f"++distributed_training.distributed_rank={rank}",
        )
        for rank in (0, 1)
    ]
    for process in ranks:
        wait(process)
    expected = torch.load(tmp_path / "one.pt", weights_only=True)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert largest > 1e-3
    for rank in (0, 1):
        found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert expected.keys() == found.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=0, msg=name)
