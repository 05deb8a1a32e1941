"""Which patches are hidden: as many in each row, in blocks, and the same again for seed, epoch and item."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.data.patch_masks import PatchMaskSettings, draw_patch_masks

number = st.integers(0, 2**31)
shares = st.tuples(st.floats(0.01, 0.9), st.floats(0.01, 0.9)).map(sorted)


def runs(hidden):
    """Lengths of stretches of True on a ring that begins, and ends, with False."""
    hidden = np.roll(hidden, -int(np.argmin(hidden)))
    edges = np.flatnonzero(np.diff(hidden.astype(int), prepend=0, append=0))
    return edges[1::2] - edges[::2]


@settings(deadline=None)
@given(
    share=shares,
    block=st.integers(1, 20),
    masks=st.integers(1, 3),
    more=st.integers(1, 200),
    rows=st.lists(number, min_size=1, max_size=4),
    seed=number,
    epoch=number,
)
def test_each_row_shows_as_many_patches_and_hides_blocks(share, block, masks, more, rows, seed, epoch):
    chosen, patches = PatchMaskSettings(7, tuple(share), block, masks), block + more
    visible, masked = draw_patch_masks(chosen, patches * 7 + 3, np.array(rows), seed, epoch)
    assert visible.shape[:2] == masked.shape[:2] == (len(rows), masks) and visible.dtype == masked.dtype == np.int64
    both = np.concatenate([visible, masked], axis=2)
    assert (np.sort(both, axis=2) == np.arange(patches)).all()
    assert (np.diff(visible, axis=2) > 0).all() and (np.diff(masked, axis=2) > 0).all()
    least, most = (min(max(round(value * patches), 1), patches - block) for value in share)
    assert least <= visible.shape[2] <= most
    for row in masked.reshape(-1, masked.shape[2]):
        hidden = np.zeros(patches, bool)
        hidden[row] = True
        assert (runs(hidden) >= block).all()
    again = draw_patch_masks(chosen, patches * 7, np.array(rows), seed, epoch)
    assert np.array_equal(again[0], visible) and np.array_equal(again[1], masked)


def test_a_row_is_the_same_beside_others_of_its_batch():
    """The share is that of the first; which patches are shown does not depend on the others."""
    chosen = PatchMaskSettings(25, (0.2, 0.2), 10, 2)
    together = draw_patch_masks(chosen, 5000, np.array([3, 9]), 1, 1)[0]
    assert np.array_equal(together[1:], draw_patch_masks(chosen, 5000, np.array([9]), 1, 1)[0])
    others = [draw_patch_masks(chosen, 5000, np.array([9]), seed, epoch)[0] for seed, epoch in ((2, 1), (1, 2))]
    assert not any(np.array_equal(other, together[1:]) for other in others)
    assert not np.array_equal(together[1, 0], together[1, 1])


def test_published_masks():
    """10 s in 200 patches: 15-25 % are shown, each about as often, and batches differ in how many."""
    chosen = PatchMaskSettings(25, (0.15, 0.25), 10)
    batches = [draw_patch_masks(chosen, 5000, np.arange(64) + 64 * batch, 1, 1)[0] for batch in range(32)]
    numbers = {batch.shape[2] for batch in batches}
    assert min(numbers) >= 30 and max(numbers) <= 50 and len(numbers) > 8
    often = np.bincount(np.concatenate([batch.ravel() for batch in batches]), minlength=200) / (64 * 32)
    assert often.min() > 0.15 and often.max() < 0.25


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((0, (0.1, 0.2), 10, 1), "model.patch_size=0"),
        ((25, (0.3, 0.2), 10, 1), "visible_min=0.3"),
        ((25, (0.0, 0.2), 10, 1), "visible_min=0 "),
        ((25, (0.1, 1.0), 10, 1), "visible_max=1 "),
        ((25, (0.1, 0.2), 0, 1), "mask_block=0"),
        ((25, (0.1, 0.2), 10, 0), "masks_per_target=0"),
    ],
)
def test_mistakes(options, told):
    with pytest.raises(UserError, match=told):
        PatchMaskSettings(*options)


def test_a_segment_that_a_block_would_hide():
    with pytest.raises(UserError, match="a segment of 250 samples has 10 patches of 25"):
        draw_patch_masks(PatchMaskSettings(25, (0.1, 0.2), 10), 250, np.array([0]), 1, 1)
