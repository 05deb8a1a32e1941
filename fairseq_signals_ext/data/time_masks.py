"""Draw masks in time when data are loaded, reproducibly from seed, epoch and item."""

import functools
import inspect
import types
from dataclasses import dataclass
from typing import Any, Optional, Sequence

import numpy as np
import torch
from fairseq.data.data_utils import compute_mask_indices, numpy_seed

from fairseq_signals_ext.common.conv_layers import ConvLayer, frames_of, parse_conv_layers
from fairseq_signals_ext.common.errors import UserError

# fairseq 0.12.2 draws from numpy's global generator, so its masks are reproducible per batch, not per item
_IS_SEEDED = "seed" in inspect.signature(compute_mask_indices).parameters


@dataclass(frozen=True)
class MaskSettings:
    """Settings of masks: fairseq's wav2vec 2.0 options (see `Wav2Vec2Config`)."""

    conv_layers: Sequence[ConvLayer]
    embed_dim: int
    prob: float
    length: int
    selection: str
    other: float
    no_overlap: bool
    min_space: int
    require_same_masks: bool
    dropout: float
    channel_prob: float
    channel_length: int
    channel_selection: str
    channel_other: float
    no_channel_overlap: bool
    channel_min_space: int

    @classmethod
    def from_model_config(cls, cfg: Any) -> "MaskSettings":
        """Return settings from the config of a wav2vec 2.0 model."""
        return cls(
            conv_layers=parse_conv_layers(cfg.conv_feature_layers),
            embed_dim=cfg.encoder_embed_dim,
            prob=cfg.mask_prob,
            length=cfg.mask_length,
            selection=str(cfg.mask_selection),
            other=cfg.mask_other,
            no_overlap=cfg.no_mask_overlap,
            min_space=cfg.mask_min_space,
            require_same_masks=cfg.require_same_masks,
            dropout=cfg.mask_dropout,
            channel_prob=cfg.mask_channel_prob,
            channel_length=cfg.mask_channel_length,
            channel_selection=str(cfg.mask_channel_selection),
            channel_other=cfg.mask_channel_other,
            no_channel_overlap=cfg.no_mask_channel_overlap,
            channel_min_space=cfg.mask_channel_min_space,
        )


def mask_frames(
    settings: MaskSettings, samples: np.ndarray, padded_to: int, rows: np.ndarray, seed: int, epoch: int
) -> Optional[np.ndarray]:
    """Return the frames to mask: bool, B x T; None if nothing is masked.

    Args:
        settings: of the masks.
        samples: integer, B; samples of each segment before padding.
        padded_to: samples of each segment after padding, which determine T.
        rows: integer, B; one number per segment; the same number, seed and epoch give the same spans.
        seed: of the run.
        epoch: of the training.

    Raises:
        UserError: the settings would mask a whole segment.
    """
    if settings.prob <= 0:
        return None
    frames = frames_of(samples, settings.conv_layers)
    total = int(frames_of(np.array(padded_to), settings.conv_layers))
    padding = None
    if frames.min() < total:
        padding = torch.from_numpy(np.arange(total) >= frames[:, None])
    return _spans(
        (len(frames), total),
        padding,
        settings.prob,
        settings.length,
        settings.selection,
        settings.other,
        min_masks=2,
        no_overlap=settings.no_overlap,
        min_space=settings.min_space,
        require_same_masks=settings.require_same_masks,
        mask_dropout=settings.dropout,
        seed=seed,
        epoch=epoch,
        indices=rows,
    )


def mask_channels(settings: MaskSettings, rows: np.ndarray, seed: int, epoch: int) -> Optional[np.ndarray]:
    """Return the features to mask: bool, B x E; None if nothing is masked. Arguments as for `mask_frames`."""
    if settings.channel_prob <= 0:
        return None
    return _spans(
        (len(rows), settings.embed_dim),
        None,
        settings.channel_prob,
        settings.channel_length,
        settings.channel_selection,
        settings.channel_other,
        no_overlap=settings.no_channel_overlap,
        min_space=settings.channel_min_space,
        seed=seed + 1,
        epoch=epoch,
        indices=rows,
    )


class _Generator(np.random.Generator):
    """numpy's generator with the old name `randint`, which fairseq calls."""

    def randint(self, low: int, high: int, size: Any = None) -> Any:
        return self.integers(int(low), int(high), size=size)


def _numpy_for_fairseq() -> types.SimpleNamespace:
    # fairseq's masks use `int` and `randint`, which newer versions of numpy lack
    names = {name: getattr(np, name) for name in dir(np) if not name.startswith("__")}
    random = {name: getattr(np.random, name) for name in dir(np.random) if not name.startswith("__")}
    random["default_rng"] = lambda seed=None: _Generator(np.random.PCG64(seed))
    return types.SimpleNamespace(**{**names, "int": int, "random": types.SimpleNamespace(**random)})


@functools.lru_cache(maxsize=1)
def _fairseq_masks() -> Any:
    scope = {**compute_mask_indices.__globals__, "np": _numpy_for_fairseq()}
    patched = types.FunctionType(compute_mask_indices.__code__, scope, "compute_mask_indices")
    patched.__defaults__ = compute_mask_indices.__defaults__
    return patched


def _spans(
    shape: Any, padding: Any, prob: float, length: int, *args: Any, seed: int, epoch: int, indices: Any, **kwargs: Any
) -> np.ndarray:
    draw = functools.partial(_fairseq_masks(), shape, padding, prob, length, *args, **kwargs)
    try:
        if _IS_SEEDED:
            return draw(seed=seed, epoch=epoch, indices=indices)
        with numpy_seed(seed, epoch, *indices.tolist()):
            return draw()
    except ValueError as error:
        raise UserError(
            f"mask_prob={prob:g} and mask_length={length} do not fit {shape[1]} positions ({error}); change them"
        ) from None
