"""Going on in mid-epoch with batches, or GPUs, that are others than before: the same share of the epoch is done."""

import math
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_signals_ext.tasks._position import keep_position, scaled, step_of
from fairseq_signals_ext.tasks._starting import StartingPoint

SAMPLES = 2500


class Items:
    """Items of one length, as a dataset for fairseq's iterator."""

    def __init__(self, number):
        self.sizes = np.full(number, SAMPLES)


def config(batch_size=4, gpus=1, update_freq=(1,), max_tokens=None):
    return {
        "dataset": {"batch_size": batch_size, "max_tokens": max_tokens},
        "distributed_training": {"distributed_world_size": gpus},
        "optimization": {"update_freq": list(update_freq)},
    }


class Iterator:
    """Of fairseq's all that counts here."""

    def __init__(self, items, batch_size, gpus):
        self.length = math.ceil(math.ceil(items / batch_size) / gpus)
        self.state = None

    def __len__(self):
        return self.length

    def load_state_dict(self, state):
        self.state = state


def go_on(items, before, now, done, epoch=1):
    """Batches that are taken for done, and the iterator."""
    iterator = Iterator(items, now["dataset"]["batch_size"], now["distributed_training"]["distributed_world_size"])
    checkpoint = types.SimpleNamespace(config=before, path=Path("checkpoint_last.pt"))
    keep_position(iterator, Items(items), StartingPoint(checkpoint, True), now)
    iterator.load_state_dict({"epoch": epoch, "iterations_in_epoch": done, "version": 2})
    assert iterator.state["epoch"] == epoch and iterator.state["version"] == 2
    return iterator.state["iterations_in_epoch"], iterator


@settings(deadline=None)
@given(st.data())
def test_any_change(data):
    items = data.draw(st.integers(1, 500))
    before, now = (
        config(data.draw(st.integers(1, 40)), data.draw(st.integers(1, 4)), [data.draw(st.integers(1, 4))])
        for _ in range(2)
    )
    length = math.ceil(items / step_of(before, Items(items), 1).items)
    frequency = before["optimization"]["update_freq"][0]
    done = data.draw(st.integers(0, (length - 1) // frequency)) * frequency
    position, iterator = go_on(items, before, now, done)
    step_before, step_now = step_of(before, Items(items), 1), step_of(now, Items(items), 1)
    # nothing is left out beyond one update, and fairseq can go on from there
    assert position * step_now.items <= done * step_before.items
    assert (position + step_now.batches) * step_now.items > done * step_before.items
    assert position % step_now.batches == 0 and (position < len(iterator) or not position)
    if step_before == step_now:
        assert position == done


@pytest.mark.parametrize(
    "now, expected",
    [
        (config(8), 3),
        (config(64), 0),
        (config(2), 14),
        (config(4, gpus=2), 3),
        (config(4, update_freq=[2]), 6),
        (config(4, update_freq=[1, 3]), 6),
        (config(None, max_tokens=8 * SAMPLES), 3),
        (config(8, max_tokens=2 * SAMPLES), 14),
        (config(4), 7),
    ],
)
def test_changes(now, expected):
    assert scaled(7, step_of(config(), Items(99), 2), step_of(now, Items(99), 2)) == expected


def test_nothing_is_said_where_nothing_changes(caplog):
    assert go_on(99, config(), config(), 7)[0] == 7 and not caplog.text
    assert go_on(99, config(), config(8), 7)[0] == 3 and "epoch 1 continues after 3 of 13 batches" in caplog.text


@pytest.mark.parametrize(
    "before", [{}, {**config(), "dataset": None}, config(update_freq=[]), config(update_freq=["x"]), config(None)]
)
def test_a_checkpoint_that_does_not_tell(before, caplog):
    assert go_on(99, before, config(8), 7)[0] == 7 and not caplog.text


def test_data_that_have_become_fewer():
    with pytest.raises(SystemExit, match="checkpoint_last.pt: was saved after 7 batches of epoch 1, .* 5 now"):
        go_on(20, config(), config(), 7)
