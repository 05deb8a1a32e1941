"""Files with the scores of one probe, written atomically; a benchmark's table is made only from these."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, NamedTuple, Tuple

import numpy as np

from fairseq_signals_ext.common.errors import UserError, first_line
from fairseq_signals_ext.common.files import atomic, safe_name

FOLDER = "scores"
_ARRAYS = ("idx", "tested", "scores", "about")


class Unit(NamedTuple):
    """One run of a probe, the smallest unit of work.

    Attributes:
        model, task: names.
        probe: name from `protocols.PROBES`.
        percent: share of the training patients.
        seed: seed of the folds.
    """

    model: str
    task: str
    probe: str
    percent: float
    seed: int

    def path(self, out: Path) -> Path:
        """Return its file in a benchmark's folder."""
        name = f"{self.probe}-{self.percent:g}-seed{self.seed}.npz"
        return out / FOLDER / safe_name(self.model) / safe_name(self.task) / name


@dataclass(frozen=True)
class Scores:
    """Scores of N recordings that were not used for training.

    Attributes:
        idx: int64, N: rows of the prepared folder's table.
        tested: int64, N: fold in which the recording was tested; -1: it was not tested.
        scores: float64, N x L; NaN if not tested.
        about: the unit, labels, choices and origin, as plain values.
    """

    idx: np.ndarray
    tested: np.ndarray
    scores: np.ndarray
    about: Dict[str, Any]

    @property
    def label_names(self) -> Tuple[str, ...]:
        """L names."""
        return tuple(self.about["labels"])


def write_scores(path: Path, scores: Scores) -> None:
    """Write a file; equal scores give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    about = np.array(json.dumps(scores.about, sort_keys=True, ensure_ascii=False))
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, idx=scores.idx, tested=scores.tested, scores=scores.scores, about=about)


def read_scores(path: Path) -> Scores:
    """Read a file.

    Raises:
        UserError: it is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as found:
            idx, tested, scores, about = (found[name] for name in _ARRAYS)
        return Scores(idx, tested, scores, json.loads(str(about)))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        hint = "remove it and run the benchmark again with --resume"
        raise UserError(f"{path}: cannot be read as scores ({first_line(error)}); {hint}") from error
