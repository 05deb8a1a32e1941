"""Shuffling in windows: every item once, uniform, and yet each block read once while its window lasts."""

import collections
import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, chisquare

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.data.batch_order import cut_blocks, shuffle_in_windows, window_bytes

MB = 10**6


def collection(rng, recordings, shards, smallest=50_000, largest=150_000):
    """Recordings of a manifest in any order, some between recordings that are not in the manifest."""
    shard = rng.integers(0, shards, recordings)
    size = rng.integers(smallest, largest, recordings)
    start = np.empty(recordings, np.int64)
    for number in range(shards):
        (members,) = np.nonzero(shard == number)
        members = rng.permutation(members)
        start[members] = np.cumsum(size[members] + rng.integers(0, 2, len(members)) * smallest)
    return shard, start, size


def epoch_of(seed=0, recordings=3000, shards=7, window=32 * MB, items=None):
    """Blocks, and an epoch's order of items (by default one a recording)."""
    rng = np.random.default_rng(seed)
    shard, start, size = collection(rng, recordings, shards)
    blocks = cut_blocks(shard, start, size, window)
    of_item = blocks.block if items is None else np.repeat(blocks.block, items)
    return blocks, of_item, shuffle_in_windows(of_item, blocks.size, window, rng)


def reads(blocks_in_order, size, capacity):
    """Return how often each block is read into an LRU cache."""
    cache, used, count = collections.OrderedDict(), 0, collections.Counter()
    for block in blocks_in_order:
        if block in cache:
            cache.move_to_end(block)
            continue
        count[block] += 1
        cache[block] = None
        used += size[block]
        while used > capacity:
            dropped, _ = cache.popitem(last=False)
            used -= size[dropped]
    return count


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 400), st.integers(1, 9), st.integers(10, 80), st.integers(1, 3))
def test_an_epoch_has_every_item_once_and_every_block_once(seed, recordings, shards, megabytes, per_recording):
    window = megabytes * MB
    blocks, of_item, order = epoch_of(seed, recordings, shards, window, per_recording)
    assert sorted(order.items) == list(range(recordings * per_recording))
    count = reads(of_item[order.items], blocks.size, window)
    assert set(count) == set(range(len(blocks.size))) and set(count.values()) == {1}
    assert order.bounds[0] == 0 and order.bounds[-1] == len(order.items)
    of_window = [set(of_item[order.items[first:stop]]) for first, stop in zip(order.bounds, order.bounds[1:])]
    assert sum(map(len, of_window)) == len(blocks.size)
    assert all(blocks.size[list(members)].sum() <= window for members in of_window)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 400), st.integers(1, 9), st.integers(10, 800))
def test_blocks_are_neighbours_in_one_shard(seed, recordings, shards, megabytes):
    shard, start, size = collection(np.random.default_rng(seed), recordings, shards)
    blocks = cut_blocks(shard, start, size, megabytes * MB)
    assert sorted(blocks.recordings) == list(range(recordings))
    stored = sorted(range(recordings), key=lambda number: (shard[number], start[number]))
    assert blocks.recordings.tolist() == stored
    assert blocks.first[0] == 0 and blocks.first[-1] == recordings
    for number, (first, stop) in enumerate(zip(blocks.first, blocks.first[1:])):
        members = blocks.recordings[first:stop]
        assert len(members) and len(set(shard[members])) == 1
        assert (blocks.block[members] == number).all()
        assert blocks.size[number] == size[members].sum() <= min(megabytes * MB / 64, 4 << 20) + size.max()


def test_all_items_shuffled_together_read_blocks_again_and_again():
    """Counterexample without windows: the same cache, the same blocks, one permutation."""
    blocks, of_item, order = epoch_of(window=32 * MB)
    assert blocks.size.sum() > 9 * 32 * MB
    permuted = np.random.default_rng(1).permutation(len(of_item))
    assert sum(reads(of_item[order.items], blocks.size, 32 * MB).values()) == len(blocks.size)
    assert sum(reads(of_item[permuted], blocks.size, 32 * MB).values()) > 4 * len(blocks.size)


def test_every_block_after_the_first_window_is_requested_in_time():
    blocks, of_item, order = epoch_of(recordings=3000, items=2)
    read = of_item[order.items]
    first, last = {}, {}
    for position, block in enumerate(read.tolist()):
        first.setdefault(block, position)
        last[block] = position
    asked = dict(zip(order.ahead.tolist(), order.due.tolist()))
    assert len(asked) == len(order.ahead) and (np.diff(order.due) >= 0).all()
    assert all(due < first[block] for block, due in asked.items())
    # two windows are enough to keep what was asked for until it is read
    held = [block for block in asked if asked[block] <= len(read) // 2 <= last[block]]
    assert blocks.size[held].sum() <= 2 * 32 * MB
    in_first_window = set(range(len(blocks.size))) - set(asked)
    assert set(read[: len(read) // 20].tolist()) <= in_first_window
    assert blocks.size[list(in_first_window)].sum() <= 32 * MB


EPOCHS, RECORDINGS, WINDOW = 3000, 512, 10**6


@pytest.fixture(scope="module")
def positions():
    """Of each item in many epochs: 512 recordings in 256 blocks, of which 64 make a window; epochs x items."""
    size = np.full(RECORDINGS, WINDOW // 130)
    blocks = cut_blocks(np.arange(RECORDINGS) // 64, np.arange(RECORDINGS) % 64 * 10**4, size, WINDOW)
    assert np.bincount(blocks.block).tolist() == [2] * 256
    rng = np.random.default_rng(5)
    found = np.empty((EPOCHS, RECORDINGS), np.int64)
    for epoch in range(EPOCHS):
        items = shuffle_in_windows(blocks.block, blocks.size, WINDOW, rng).items
        found[epoch, items] = np.arange(RECORDINGS)
    return found


def test_positions_are_uniform(positions):
    for item in (0, 100, 511):
        counts = np.bincount(positions[:, item] * 32 // RECORDINGS, minlength=32)
        assert chisquare(counts).pvalue > 0.01
    every = np.apply_along_axis(np.bincount, 0, positions * 32 // RECORDINGS, None, 32)
    statistic = ((every - EPOCHS / 32) ** 2 / (EPOCHS / 32)).sum(axis=0)
    assert 0.005 < (statistic > chi2.ppf(0.99, 31)).mean() < 0.03  # 1 % of all items are beyond the 1 % point


def test_neighbours_in_batches_are_those_of_a_permutation(positions):
    """For items of different blocks within 1 - 1/m, m = 64; for those of one block W = 4 times as often."""
    batch = positions // 16
    windows = -(-RECORDINGS * (WINDOW // 130) // (WINDOW - 2 * (WINDOW // 130)))
    expected = EPOCHS * 15 / (RECORDINGS - 1)
    others = np.array([(batch[:, 0] == batch[:, item]).sum() for item in range(2, RECORDINGS)])
    blocks_of_window = 256 / windows
    assert expected * (1 - 1 / blocks_of_window) * 0.99 < others.mean() < expected * 1.01
    assert chisquare(others).pvalue > 0.01
    neighbours = sum((batch[:, item] == batch[:, item + 1]).sum() for item in range(0, RECORDINGS, 2)) / 256
    assert neighbours == pytest.approx(expected * windows, rel=0.05)


def test_a_window_that_holds_all_is_one_permutation():
    blocks, _, order = epoch_of(recordings=100, window=10**9)
    assert len(order.ahead) == 0
    assert (np.diff(blocks.block[order.items]) != 0).mean() > 0.6


@pytest.mark.parametrize("gigabytes", [0, -1, float("nan"), float("inf")])
def test_invalid_sizes(gigabytes):
    with pytest.raises(UserError, match="task.shuffle_window_gb=.*above 0"):
        window_bytes(gigabytes, 1000)


def test_the_least_size_is_in_the_message():
    with pytest.raises(UserError, match="shuffle_window_gb=0.001: too small.*set 0.007680 or more.*120,000 bytes"):
        window_bytes(0.001, 120_000)
    assert window_bytes(0.00768, 120_000) == 7_680_000


@given(st.integers(1, 10**10))
@example(993_375)  # 0.063576 GB, which is less as a float
def test_the_size_in_the_message_is_accepted(largest):
    with pytest.raises(UserError) as error:
        window_bytes(1e-9, largest)
    said = re.search(r"set (\S+) or more", str(error.value)).group(1)
    assert 64 * largest <= window_bytes(float(said), largest) < 64 * largest + 1000
