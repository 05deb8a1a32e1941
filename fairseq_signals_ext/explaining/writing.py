"""What an explanation leaves: arrays and tables; `pages.saliency_picture` draws."""

from pathlib import Path
from typing import Any

import numpy as np

from fairseq_signals_ext.explaining.occlusion import Occlusions
from fairseq_signals_ext.explaining.saliency import Saliency
from fairseq_signals_ext.files import atomic
from fairseq_signals_ext.inference.results import write_csv


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
