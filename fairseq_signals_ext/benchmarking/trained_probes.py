"""Train probes by gradients: a linear layer on the mean, or an attention head on the frames.

As in the protocol iclr2026: AdamW, a constant rate, the best epoch on the validation set, and scores of a recording's
crops averaged after the sigmoid.
"""

import copy
from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple

import numpy as np

from fairseq_signals_ext.benchmarking.cross_fitting import fast_auroc, r2
from fairseq_signals_ext.benchmarking.folds import TEST, TRAIN, VALID
from fairseq_signals_ext.benchmarking.targets import Known
from fairseq_signals_ext.evaluation.metrics import macro


@dataclass(frozen=True)
class Training:
    """Settings for training a probe; the defaults are for iclr2026."""

    epochs: int = 100
    batch: int = 64
    rate: float = 1e-3
    weight_decay: float = 1e-3
    heads: int = 16


@dataclass(frozen=True)
class Crops:
    """Input of probes for N recordings.

    Attributes:
        x: M x E vectors, or M x T x E frames, one row per crop; any float type, memory-mapped or not.
        recording: int64, M: number of the recording of a crop, from 0.
        lengths: int64, M: number of frames without padding; None: all.
    """

    x: np.ndarray
    recording: np.ndarray
    lengths: Optional[np.ndarray] = None


def train_probe(
    crops: Crops, known: Known, part: np.ndarray, seed: int, how: Training = Training()
) -> Tuple[np.ndarray, Dict[str, Any]]:
    """Train and return scores of the tested recordings (float64, N x L; NaN for others), and facts of the training.

    Scores are probabilities, or numbers in their unit, as means over the crops of a recording.

    Args:
        crops: crops of the N recordings.
        known: targets of the recordings.
        part: int64, N: train, valid or test, see `folds`, or -1.
        seed: seed of the weights and the order of batches.
    """
    import torch

    center, scale = _scale(known, part)
    targets = torch.from_numpy(((known.targets - center) / scale).astype(np.float32))
    training = np.flatnonzero(part[crops.recording] == TRAIN)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = _probe(crops, known, how)
        optimizer = torch.optim.AdamW(probe.parameters(), lr=how.rate, weight_decay=how.weight_decay)
        best = (-np.inf, 0, copy.deepcopy(probe.state_dict()))
        for epoch in range(1, how.epochs + 1):
            probe.train()
            for rows in torch.randperm(len(training)).split(how.batch):
                chosen = training[rows.numpy()]
                loss = _loss(probe(*_batch(crops, chosen)), targets[crops.recording[chosen]], known.task.is_regression)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            value = _value(_scores(probe, crops, known, part == VALID) * scale + center, known, part == VALID)
            if value > best[0]:
                best = (value, epoch, copy.deepcopy(probe.state_dict()))
        probe.load_state_dict(best[2])
        scores = _scores(probe, crops, known, part == TEST) * scale + center
    return scores, {"epoch": best[1], "valid": None if np.isinf(best[0]) else round(best[0], 6)}


def _scale(known: Known, part: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation of the training numbers; 0 and 1 for labels."""
    zeros, ones = np.zeros(known.targets.shape[1]), np.ones(known.targets.shape[1])
    if not known.task.is_regression:
        return zeros, ones
    trained = known.targets[part == TRAIN]
    deviation = np.nanstd(trained, axis=0)
    return np.nanmean(trained, axis=0), np.where(deviation > 0, deviation, 1.0)


def _probe(crops: Crops, known: Known, how: Training) -> Any:
    """Return a module that computes logits or numbers, M x L, from the result of `_batch`."""
    from torch import nn

    dimensions, labels = crops.x.shape[-1], len(known.label_names)
    if crops.x.ndim == 2:
        return nn.Linear(dimensions, labels)
    from fairseq_signals_ext.benchmarking.attention_probe import AttentionProbe

    return AttentionProbe(dimensions, labels, how.heads)


def _batch(crops: Crops, rows: np.ndarray) -> Tuple[Any, ...]:
    """Return arguments of the probe for these crops: vectors, or frames and their padding."""
    import torch

    rows = np.asarray(rows)
    x = torch.from_numpy(np.ascontiguousarray(crops.x[rows])).float()
    if x.ndim == 2:
        return (x,)
    if crops.lengths is None:
        return x, None
    return x, torch.arange(x.shape[1]) >= torch.from_numpy(crops.lengths[rows])[:, None]


def _loss(found: Any, targets: Any, is_regression: bool) -> Any:
    import torch

    known = ~torch.isnan(targets)
    compare = torch.nn.functional.mse_loss if is_regression else torch.nn.functional.binary_cross_entropy_with_logits
    each = compare(found, torch.where(known, targets, 0.0), reduction="none")
    return (each * known).sum() / known.sum().clamp(min=1)


def _scores(probe: Any, crops: Crops, known: Known, chosen: np.ndarray) -> np.ndarray:
    """Return means over crops for chosen recordings; NaN for others (N x L)."""
    import torch

    rows = np.flatnonzero(chosen[crops.recording])
    total, count = np.zeros(known.targets.shape), np.zeros((len(chosen), 1))
    probe.eval()
    with torch.no_grad():
        for some in np.array_split(rows, max(1, -(-len(rows) // 256))):
            found = probe(*_batch(crops, some))
            found = found if known.task.is_regression else torch.sigmoid(found)
            np.add.at(total, crops.recording[some], found.double().numpy())
            np.add.at(count, crops.recording[some], 1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _value(scores: np.ndarray, known: Known, chosen: np.ndarray) -> float:
    measure = r2 if known.task.is_regression else fast_auroc
    return macro(measure(scores[chosen], known.targets[chosen]))
