"""Data-parallel training gives the gradients of one process."""

import torch
from made_up import write_shards
from running import SMALL, one_of_two, start_rank, train_command, wait_for

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
    return start_rank(train_command(data, out, *NO_DROPOUT, *overrides)[1:], target)


def test_two_ranks_equal_one_with_two_accumulated_batches(tmp_path):
    write_shards(tmp_path, [5000] * 16)
    wait_for(start(tmp_path, tmp_path / "one", tmp_path / "one.pt", "++optimization.update_freq=[2]"))
    meeting = tmp_path / "meeting"
    ranks = [
        start(tmp_path, tmp_path / f"rank{rank}", tmp_path / f"rank{rank}.pt", *one_of_two(rank, meeting))
        for rank in (0, 1)
    ]
    for process in ranks:
        wait_for(process)
    expected = torch.load(tmp_path / "one.pt", weights_only=True)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert largest > 1e-3
    for rank in (0, 1):
        found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert expected.keys() == found.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=0, msg=name)
