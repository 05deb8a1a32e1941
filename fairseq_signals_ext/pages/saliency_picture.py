"""A recording with a map of where a model looked under its trace."""

from pathlib import Path

import numpy as np

from fairseq_signals_ext.analysis.saliency import Saliency
from fairseq_signals_ext.pages.ecg_paper import draw_ecg
from fairseq_signals_ext.pages.excerpt import PAPER_SECONDS
from fairseq_signals_ext.pages.figures import save_figure
from fairseq_signals_ext.readers import Recording

_SEEN_SECONDS = 0.04


def draw_saliency(saliency: Saliency, recording: Recording, path: Path, title: str) -> None:
    """Draw a recording with the map under its trace: the ten seconds around the peak, of a shorter one all.

    Maps that distinguish leads are drawn with whole leads below each other; others on the standard 3 x 4.

    Raises:
        UserError: the picture cannot be written.
    """
    latest = max(0.0, recording.samples / recording.sample_rate - PAPER_SECONDS)
    start = min(max(0.0, saliency.peak[1] - PAPER_SECONDS / 2), latest)
    layout = "12x1" if saliency.leads else "3x4"
    values = drawn_values(saliency, recording)
    save_figure(draw_ecg(recording, values, start=start, layout=layout, title=title), path)


def drawn_values(saliency: Saliency, recording: Recording) -> np.ndarray:
    """A map as `draw_ecg` takes it: at the recording's samples.

    One that distinguishes leads is given as its means over 40 ms (1 mm), for a single sample could not be seen.
    """
    values = saliency.at(recording)
    return smoothed(values, round(_SEEN_SECONDS * recording.sample_rate)) if saliency.leads else values


def smoothed(rows: np.ndarray, samples: int) -> np.ndarray:
    """Means of the known values around each sample: float64, as many rows and samples; NaN stays.

    Args:
        rows: 0 or more, or NaN.
        samples: that a mean is over, of which those outside are not known.
    """
    from scipy.ndimage import uniform_filter1d

    known = np.isfinite(rows)
    total = uniform_filter1d(np.where(known, rows, 0).astype(np.float64), max(1, samples), mode="constant")
    number = uniform_filter1d(known.astype(np.float64), max(1, samples), mode="constant")
    # a running sum leaves a rounding error, also below zero
    return np.where(known, np.maximum(total, 0) / np.where(known, number, 1), np.nan)
