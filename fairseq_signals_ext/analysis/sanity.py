"""Sanity check of maps: a map must change with the model's weights (Adebayo et al. 2018, arXiv 1810.03292)."""

import copy
from typing import Any, Optional

import numpy as np

from fairseq_signals_ext.analysis.saliency import ATTENTION, MapOptions, Saliency, explain_segments
from fairseq_signals_ext.inference.model import LoadedModel
from fairseq_signals_ext.inference.preprocessing import SegmentedRecording
from fairseq_signals_ext.inference.recordings import AnyRecording, Leads, recording_of


def sanity_check(
    model: LoadedModel,
    recording: AnyRecording,
    label: Optional[str] = None,
    method: str = ATTENTION,
    *,
    layer: Optional[int] = None,
    steps: int = 50,
    window: float = 0.2,
    sample_rate: Optional[float] = None,
    leads: Leads = None,
    seed: int = 0,
) -> float:
    """Spearman correlation of a map with the map of the same model with random weights.

    Near 0 is good; near 1, the map does not depend on what the model learned.

    Args:
        seed: of the random weights.
        others: see `explain`.

    Returns:
        -1 to 1; NaN if a map is constant.

    Raises:
        UserError: as `explain`.
    """
    options = MapOptions(method, layer, steps, window)
    name, found = recording_of(recording, sample_rate, leads)
    segments = SegmentedRecording.of(found, model.preprocessing, name)
    saliency = explain_segments(model, segments, label, options)
    return check_segments(with_random_weights(model, seed), segments, saliency, options)


def check_segments(random: LoadedModel, segments: SegmentedRecording, saliency: Saliency, options: MapOptions) -> float:
    """As `sanity_check`, for a preprocessed recording with its map and a model with random weights."""
    return map_correlation(saliency, explain_segments(random, segments, saliency.label, options))


def map_correlation(first: Saliency, second: Saliency) -> float:
    """Spearman correlation of the magnitudes of two maps of a recording; NaN if one is constant."""
    from scipy.stats import rankdata

    one, other = np.abs(first.values), np.abs(second.values)
    known = np.isfinite(one) & np.isfinite(other)
    ranks = [rankdata(values[known]) for values in (one, other)]
    if not all(np.ptp(rank) > 0 for rank in ranks):
        return float("nan")
    return float(np.corrcoef(ranks)[0, 1])


def with_random_weights(model: LoadedModel, seed: int = 0) -> LoadedModel:
    """A copy of a model with the values of each weight tensor in random order.

    So the magnitudes of weights stay the same for any architecture. The model itself does not change.

    Raises:
        UserError: the model cannot be explained.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    network = copy.deepcopy(model.network)
    with torch.no_grad():
        for weights in network.parameters():
            order = torch.randperm(weights.numel(), generator=generator).to(weights.device)
            weights.copy_(weights.flatten()[order].view_as(weights))
    backend: Any = copy.copy(model.backend)
    backend.network = network
    return LoadedModel(model.description, backend, model.source)
