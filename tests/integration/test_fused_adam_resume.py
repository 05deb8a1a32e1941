"""A training begun with `adam` goes on with `fused_adam`, and back, and ends as one with `adam` alone."""

import pytest
import torch
from made_up import write_shards
from running import SMALL, error_line, run, train, train_command, weights

OVERRIDES = [
    *SMALL,
    "++common.log_interval=1",
    "++checkpoint.save_interval_updates=4",
    "++checkpoint.keep_interval_updates=-1",
    "++dataset.disable_validation=true",
    "optimizer.adam_eps=0.001",  # large beside the gradients, so that it matters where it is added
]


def go(data, out, name, updates, *more, start=None):
    """Train with this optimizer up to so many updates, from a checkpoint; returns the last checkpoint."""
    overrides = [*OVERRIDES, f"optimizer._name={name}", f"++optimization.max_update={updates}", *more]
    log = train(data, out, *overrides, *([f"checkpoint.restore_file={start}"] if start else []))
    assert ("Loaded checkpoint" in log) == bool(start)
    return out / "checkpoints" / "checkpoint_last.pt"


def largest_difference(found, expected):
    return max(float((found[key].float() - value.float()).abs().max()) for key, value in expected.items())


def updates_of_parameters(checkpoint):
    """The kind of optimizer that wrote it, and how many updates it counts of each parameter."""
    state = torch.load(checkpoint, weights_only=True)
    steps = [of_parameter["step"] for of_parameter in state["last_optimizer_state"]["state"].values()]
    return state["cfg"]["optimizer"]["_name"], steps


@pytest.mark.slow
def test_adam_then_fused_then_adam(tmp_path):
    write_shards(tmp_path, [9000] * 24)
    dropped = ["++model.encoder_layers=2", "++model.encoder_layerdrop=0.5"]
    expected = go(tmp_path, tmp_path / "unbroken", "adam", 10, *dropped)
    start = expected.parent / "checkpoint_1_4.pt"
    fused = go(tmp_path, tmp_path / "fused", "fused_adam", 8, *dropped, start=start)
    back = go(tmp_path, tmp_path / "back", "adam", 10, *dropped, start=fused)

    assert updates_of_parameters(fused)[0] == "fused_adam"
    assert updates_of_parameters(back) == updates_of_parameters(expected)
    assert len(set(updates_of_parameters(expected)[1])) > 1, "no layer was dropped"
    assert largest_difference(weights(start), weights(expected)) > 1e-3
    assert largest_difference(weights(back), weights(expected)) < 1e-6


@pytest.mark.slow
def test_bf16(tmp_path):
    """From one checkpoint, which holds the weights in bf16, on with either optimizer: the same but for a last bit.

    For one update, as from the second on a last bit of the weights makes other gradients.
    """
    write_shards(tmp_path, [9000] * 24)
    start = go(tmp_path, tmp_path / "start", "adam", 4, "++common.bf16=true")
    ends = [
        go(tmp_path, tmp_path / name, name, 5, "++common.bf16=true", start=start) for name in ("adam", "fused_adam")
    ]
    expected, found = map(weights, ends)
    assert all(torch.equal(value, value.bfloat16().float()) for value in found.values()), "it is not bf16"
    assert largest_difference(weights(start), expected) > 1e-4
    different = sum(int((found[key] != value).sum()) for key, value in expected.items())
    assert different < 0.001 * sum(value.numel() for value in expected.values())
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=2**-7, atol=1e-5)


def test_memory_efficient_bf16_is_refused(tmp_path):
    write_shards(tmp_path, [9000] * 8)
    overrides = [*OVERRIDES, "optimizer._name=fused_adam", "++common.bf16=true", "++common.memory_efficient_bf16=true"]
    assert "memory_efficient_bf16" in error_line(run(train_command(tmp_path, tmp_path / "out", *overrides)))
