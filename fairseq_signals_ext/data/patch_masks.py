"""Draw visible and masked patches of segments from seed, epoch and item; a model predicts the masked ones."""

from dataclasses import dataclass
from typing import Tuple

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.data.randomness import PATCH_MASKS, VISIBLE_SHARE, item_draws


@dataclass(frozen=True)
class PatchMaskSettings:
    """Settings of patch masks.

    Attributes:
        patch_size: samples of a patch.
        visible: smallest and largest share of visible patches; one share is drawn for each batch.
        block: smallest number of consecutive masked patches.
        masks: number of masks per segment.
    """

    patch_size: int
    visible: Tuple[float, float]
    block: int
    masks: int = 1

    def __post_init__(self) -> None:
        low, high = self.visible
        if not 0 < low <= high < 1:
            raise UserError(
                f"model.visible_min={low:g} and visible_max={high:g} are shares of patches: give numbers between 0 and "
                f"1, the smaller one first"
            )
        for option, value in (("patch_size", self.patch_size), ("mask_block", self.block)):
            if value < 1:
                raise UserError(f"model.{option}={value}: give 1 or more")
        if self.masks < 1:
            raise UserError(f"model.masks_per_target={self.masks}: give 1 or more")


def draw_patch_masks(
    settings: PatchMaskSettings, samples: int, rows: np.ndarray, seed: int, epoch: int
) -> Tuple[np.ndarray, np.ndarray]:
    """Return the numbers of visible and of masked patches, each row in ascending order.

    A mask consists of blocks with at least one patch between them; the number of blocks is between half the possible
    number and this number. A block that exceeds the end continues at the beginning, so that each patch is masked
    equally often. All masks of a batch have the same number of visible patches, so that only these are computed.

    Args:
        settings: of the masks.
        samples: of a segment.
        rows: integer, N; a number for each segment; with seed and epoch it determines the segment's masks, and the
            first one the share of the batch.
        seed: of the run.
        epoch: of the training.

    Returns:
        int64, N x masks x V and N x masks x H, with V + H patches in a segment.

    Raises:
        UserError: a segment has too few patches for a block.
    """
    patches = samples // settings.patch_size
    if patches <= settings.block:
        raise UserError(
            f"a segment of {samples} samples has {patches} patches of {settings.patch_size}, which blocks of "
            f"model.mask_block={settings.block} would hide; lower mask_block or patch_size, or use longer segments"
        )
    low, high = settings.visible
    share = low + (high - low) * item_draws(seed, epoch, rows[:1].tolist(), 1, VISIBLE_SHARE)[0, 0]
    shown = int(np.clip(round(share * patches), 1, patches - settings.block))
    most = min((patches - shown) // settings.block, shown)
    draws = item_draws(seed, epoch, rows.tolist(), settings.masks * 2 * most, PATCH_MASKS)
    hidden = np.stack(
        [_blocks(patches, shown, settings.block, most, numbers) for numbers in draws.reshape(-1, 2 * most)]
    )
    shape = (len(rows), settings.masks, -1)
    return np.nonzero(~hidden)[1].reshape(shape), np.nonzero(hidden)[1].reshape(shape)


def _blocks(patches: int, shown: int, block: int, most: int, draws: np.ndarray) -> np.ndarray:
    """Return which patches are masked: bool, of `patches`.

    Args:
        draws: in [0, 1); for number and place of blocks, then for their lengths and distances.
    """
    fewest = (most + 1) // 2
    blocks = fewest + int(draws[0] * (most - fewest + 1))
    runs = np.empty(2 * blocks, np.int64)
    runs[::2] = 1 + _parts(shown - blocks, draws[1:blocks])
    runs[1::2] = block + _parts(patches - shown - blocks * block, draws[most : most + blocks - 1])
    return np.roll(np.repeat(np.arange(len(runs)) % 2 == 1, runs), int(draws[-1] * patches))


def _parts(total: int, draws: np.ndarray) -> np.ndarray:
    """Divide `total` into one part more than there are draws; int64, each 0 or more."""
    cuts = np.sort((draws * (total + 1)).astype(np.int64))
    return np.diff(cuts, prepend=0, append=total)
