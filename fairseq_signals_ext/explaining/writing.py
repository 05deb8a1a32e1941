"""What an explanation leaves: arrays, tables and pictures."""

from pathlib import Path
from typing import Any

import numpy as np

from fairseq_signals_ext.explaining.occlusion import Occlusions
from fairseq_signals_ext.explaining.saliency import Saliency
from fairseq_signals_ext.files import atomic
from fairseq_signals_ext.inference.results import write_csv
from fairseq_signals_ext.plotting.excerpt import PAPER_SECONDS
from fairseq_signals_ext.readers import Recording

_SEEN_SECONDS = 0.04


def write_saliency(saliency: Saliency, path: Path) -> None:
    """Write a map as `.npz`, which `numpy.load` reads without pickle.

    Arrays: `saliency` (its `values`), `seconds` (of each sample), `sample_rate`, `leads` (names of the rows, empty if
    there are none), `method`, `label` (empty if it is of none).
    """
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file,
            saliency=saliency.values,
            seconds=saliency.seconds,
            sample_rate=np.float64(saliency.sample_rate),
            leads=np.array(saliency.leads, np.str_),
            method=np.str_(saliency.method),
            label=np.str_(saliency.label or ""),
        )


def write_occlusions(occlusions: Occlusions, path: Path, score: str) -> None:
    """Write a table with the columns region, lead, `score` and drop; its first row is the recording as it is."""
    rows = [("none", "none", occlusions.score, 0.0), *occlusions.rows]
    columns = {"region": "string", "lead": "string", score: "float64", "drop": "float64"}
    write_csv(path, columns, iter([dict(zip(columns, map(_plain, row))) for row in rows]))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def draw_saliency(saliency: Saliency, recording: Recording, path: Path, title: str) -> None:
    """Draw a recording with the map under its trace: the ten seconds around the peak, of a shorter one all.

    Maps that tell leads apart are drawn with whole leads below each other; others on the standard 3 x 4.

    Raises:
        UserError: the picture cannot be written.
    """
    from fairseq_signals_ext.plotting.ecg_paper import draw_ecg, save_figure

    latest = max(0.0, recording.samples / recording.sample_rate - PAPER_SECONDS)
    start = min(max(0.0, saliency.peak[1] - PAPER_SECONDS / 2), latest)
    layout = "12x1" if saliency.leads else "3x4"
    values = drawn_values(saliency, recording)
    save_figure(draw_ecg(recording, values, start=start, layout=layout, title=title), path)


def drawn_values(saliency: Saliency, recording: Recording) -> np.ndarray:
    """A map as `draw_ecg` takes it: at the recording's samples.

    One that tells leads apart is given as its means over 40 ms (1 mm), for a single sample could not be seen.
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
