"""Shuffling in windows by the dataset: order, and time of reading ahead."""

import numpy as np
import pytest
from made_up import open_dataset, write_mat, write_shards

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.data.manifest import find_manifests, read_manifests
from fairseq_signals_ext.data.stores import open_store

RECORDINGS, PAIRS = 800, 5  # of each recording
WINDOW = 800_000  # bytes, a fifth of the recordings as flac, a twelfth raw


@pytest.fixture()
def windowed(tmp_path, request, monkeypatch):
    """A dataset in windows, and the blocks that it asks for, each an array of recordings."""
    write_shards(tmp_path, [500] * RECORDINGS, shard_size=100, storage=getattr(request, "param", "raw"))
    dataset = open_dataset(tmp_path, segment_seconds=0.1, pairs="fixed", checksum="never")
    dataset.shuffle_in_windows(WINDOW / 1e9)
    asked = []
    monkeypatch.setattr(dataset.store, "read_ahead", asked.append)
    np.random.seed(4)
    return dataset, asked


@pytest.mark.parametrize("windowed", ["raw", "flac"], indirect=True)
def test_each_block_of_a_window_is_read_ahead_once_an_epoch(windowed):
    dataset, asked = windowed
    sizes = dataset.store.places(np.arange(RECORDINGS))[1]
    assert sizes.sum() > 5 * WINDOW
    orders = []
    for seed in (1, 2, 1):
        np.random.seed(seed)
        orders.append(dataset.ordered_indices())
        assert sorted(orders[-1]) == list(range(RECORDINGS * PAIRS))
        left, held, seen = {}, 0, 0
        for item in orders[-1].tolist():
            dataset[item]
            for recording in np.concatenate([[], *asked[seen:]]).astype(int).tolist():
                assert recording not in left
                left[recording] = PAIRS
                held += sizes[recording]
            seen = len(asked)
            assert held <= 2 * WINDOW  # of what is asked for and not yet read as a whole
            left[item // PAIRS] -= 1
            held -= 0 if left[item // PAIRS] else sizes[item // PAIRS]
        assert len(left) == RECORDINGS and held == 0
        asked.clear()
    assert np.array_equal(orders[0], orders[2]) and not np.array_equal(orders[0], orders[1])


def late_positions(dataset, asked, items):
    """Positions in `items` at which a block was not asked for before its first item is read."""
    late, known, seen = [], set(), 0
    for position, item in enumerate(items.tolist()):
        known.update(*(block.tolist() for block in asked[seen:]))
        seen = len(asked)
        late += [] if item // PAIRS in known else [position]
        dataset[item]
    return np.array(late)


def test_blocks_after_the_first_window_are_requested_before_their_first_item(windowed):
    dataset, asked = windowed
    order = dataset.ordered_indices()
    starts = dataset._windows._bounds.numpy()
    assert (starts < len(order)).sum() >= 12
    late = late_positions(dataset, asked, order)
    assert len(late) and (late < starts[1]).all()


@pytest.mark.parametrize("first_batch", [False, True])  # which fairseq collates before it goes on
@pytest.mark.parametrize("part", [0.1, 0.5, 0.95])
def test_a_run_that_continues_within_a_window_requests_the_next(windowed, part, first_batch):
    dataset, asked = windowed
    order = dataset.ordered_indices()
    starts = dataset._windows._bounds.numpy()
    for item in order[:16] if first_batch else []:
        dataset[item]
    asked.clear()
    resumed = int(starts[4] + part * (starts[5] - starts[4]))
    dataset[order[resumed]]
    at_once = set(np.concatenate(asked).tolist())
    assert at_once.isdisjoint(order[: starts[4]] // PAIRS) and at_once.isdisjoint(order[starts[6] :] // PAIRS)
    late = late_positions(dataset, asked, order[resumed + 1 :])
    assert len(late) and (resumed + 1 + late < starts[5]).all()


def test_a_rank_requests_due_blocks_before_its_first_item(windowed):
    dataset, asked = windowed
    order = dataset.ordered_indices()
    starts = dataset._windows._bounds.numpy()
    positions = np.arange(len(order)).reshape(-1, 16)[1::2].ravel()  # the second of two ranks
    late = positions[late_positions(dataset, asked, order[positions])]
    # what is due where the other rank reads the end of a window is asked for as the next begins
    begins = positions[np.searchsorted(positions, starts[starts < len(order)])]
    assert set(late[late >= starts[1]]) <= set(begins)


@pytest.mark.parametrize("training", [True, False])
def test_without_windows_the_order_is_fairseqs(tmp_path, training):
    write_shards(tmp_path, [5000] * 9)
    dataset = open_dataset(tmp_path, training=training, pairs="fixed")
    np.random.seed(3)
    order = dataset.ordered_indices()
    np.random.seed(3)
    assert np.array_equal(order, np.random.permutation(9) if training else np.arange(9))


def resident_pages(array):
    """Pages of a memory-mapped array that are in the page cache."""
    import ctypes
    import mmap

    pages = -(-array.nbytes // mmap.PAGESIZE)
    states = (ctypes.c_ubyte * pages)()
    address = array.ctypes.data // mmap.PAGESIZE * mmap.PAGESIZE
    if ctypes.CDLL(None).mincore(ctypes.c_void_p(address), ctypes.c_size_t(array.nbytes), states):
        pytest.skip("this system does not tell what is in the page cache")
    return sum(state & 1 for state in states)


@pytest.mark.parametrize("storage", ["raw", "flac"])
def test_reading_ahead_fills_the_page_cache(tmp_path, storage):
    import os
    import time

    write_shards(tmp_path, [5000] * 40, shard_size=40, storage=storage)
    with open(tmp_path / "shards" / "00000.npy", "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    store = open_store(read_manifests(find_manifests(tmp_path, "train")))
    array = store._counts[0]
    before = resident_pages(array)
    if before > 100:
        pytest.skip("this file system does not drop pages from its cache")
    wanted = store.places(np.arange(10, 30))[1].sum() // 4096
    store.read_ahead(np.arange(10, 30))
    deadline = time.monotonic() + 5
    while resident_pages(array) < before + wanted and time.monotonic() < deadline:
        time.sleep(0.01)
    assert before + wanted <= resident_pages(array) <= before + wanted + 100


def test_windows_need_shards_and_room(tmp_path):
    write_shards(tmp_path, [5000] * 4)
    with pytest.raises(UserError, match="shuffle_window_gb=0.001: too small"):
        open_dataset(tmp_path, pairs="fixed").shuffle_in_windows(0.001)
    write_mat(tmp_path / "a.mat", np.zeros((12, 2500)), idx=1)
    (tmp_path / "train.tsv").write_text(".\na.mat\t2500\n")
    with pytest.raises(UserError, match="train: task.shuffle_window_gb is for shards"):
        open_dataset(tmp_path).shuffle_in_windows(1)
