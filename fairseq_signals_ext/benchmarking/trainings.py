"""Train whole models on a task by fairseq's own command: fine-tuned from a checkpoint, or from random weights.

They are rows of the table like the probes, on the same recordings and folds. Each fold is one resumable training; the
recordings of the next fold choose its best epoch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Tuple

import numpy as np

from fairseq_signals_ext import configs_dir
from fairseq_signals_ext.analysis.fine_tuning import FineTuning, as_override, scores_of
from fairseq_signals_ext.benchmarking.folds import TEST, TRAIN, VALID
from fairseq_signals_ext.benchmarking.targets import Known
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import atomic, safe_name
from fairseq_signals_ext.data.label_table import label_files
from fairseq_signals_ext.labelling.labels import Labels, write_labels
from fairseq_signals_ext.prepared.split_settings import SUBSETS
from fairseq_signals_ext.prepared.table import manifest_lines, read_table

if TYPE_CHECKING:
    import pandas as pd

FOLDER = "trainings"
# mode: whether it starts from random weights
MODES: Dict[str, bool] = {"fine-tune": False, "scratch": True}
_LABELS = "known"


@dataclass(frozen=True)
class TrainingOptions:
    """Settings for training models.

    Attributes:
        data: prepared folder.
        config: a config of `configs/fine_tuning`, such as `classification` or `tiny`.
        overrides: options of hydra, which replace the config's.
    """

    data: Path
    config: str = "classification"
    overrides: Tuple[str, ...] = ()


def train_fold(
    folder: Path, source: str, mode: str, known: Known, part: np.ndarray, seed: int, options: TrainingOptions
) -> np.ndarray:
    """Train a model on one division of the recordings, and score the tested ones.

    Args:
        folder: folder of this training; a finished training is not repeated.
        source: the checkpoint.
        mode: one of `MODES`.
        known: targets of N recordings.
        part: int64, N: `folds.TRAIN`, `VALID`, `TEST`, or -1.

    Returns:
        float64, N x L: probabilities; NaN for recordings that are not tested.

    Raises:
        UserError: the training fails, or the task has numbers, not labels.
    """
    if known.task.is_regression:
        raise UserError(f"task {known.task.name}: has numbers; models are trained here for labels only")
    labels = _write_known(folder, known, part)
    _write_manifests(folder, options.data, known, part)
    run = FineTuning(
        config_dir=Path(configs_dir("fine_tuning")),
        config_name=options.config,
        data=folder,
        train_subset=SUBSETS[TRAIN],
        label_file=labels,
        pretrained=Path(source),
        random_start=MODES[mode],
        seed=seed,
        out=folder / "run",
        overrides=(as_override("criterion.pos_weight", (labels / "pos_weight.txt").resolve()), *options.overrides),
    )
    run.run()
    found = scores_of(run, SUBSETS[TEST])
    rows = np.searchsorted(known.idx, found.idx)
    columns = [found.label_names.index(name) for name in known.label_names]
    scores = np.full(known.targets.shape, np.nan)
    scores[rows] = found.scores[:, columns]
    return scores


def _write_known(folder: Path, known: Known, part: np.ndarray) -> Path:
    """Write labels for fairseq, with weights of positives from the training recordings; existing files are kept."""
    trains = part == TRAIN
    one_class = [
        name
        for name, values in zip(known.label_names, known.targets[trains].T)
        if len(np.unique(values[~np.isnan(values)])) < 2
    ]
    if one_class:
        few = ", ".join(map(repr, one_class[:3]))
        problem = f"{len(one_class)} labels have one class only in a training set ({few})"
        raise UserError(f"task {known.task.name}: {problem}; leave rare labels out with --min-test-positives")
    labels = folder / "labels" / _LABELS
    if not label_files(labels)[0].is_file():
        write_labels(folder, _LABELS, Labels(list(known.label_names), known.idx, known.targets))
    return labels


def _write_manifests(folder: Path, data: Path, known: Known, part: np.ndarray) -> None:
    table: "pd.DataFrame" = read_table(data, ["idx", "shard", "row", "samples"]).set_index("idx").loc[known.idx]
    for number, name in enumerate(SUBSETS):
        with atomic(folder / f"{name}.tsv") as temporary:
            lines = [str(data.resolve()), *manifest_lines(table[part == number])]
            temporary.write_text("\n".join([*lines, ""]), encoding="utf-8")


def divided(fold: np.ndarray, tested: int, trains: np.ndarray) -> np.ndarray:
    """Return the part of each recording (int64, N) for a tested fold: the next fold chooses the epoch, others train.

    Args:
        fold: int64, N, from 0.
        trains: bool, N: recordings allowed for training.
    """
    folds = int(fold.max()) + 1
    part = np.where(fold == tested, TEST, np.where(fold == (tested + 1) % folds, VALID, TRAIN))
    part[(part == TRAIN) & ~trains] = -1
    return part


def training_folder(out: Path, model: str, task: str, name: str, fold: int) -> Path:
    """Return the folder of one training in a benchmark's folder."""
    return out / FOLDER / safe_name(model) / safe_name(task) / name / f"fold{fold}"


def train_all(
    out: Path, unit: Any, source: str, known: Known, parts: Dict[int, np.ndarray], options: TrainingOptions
) -> Tuple[np.ndarray, List[Dict[str, Any]]]:
    """Return scores of all tested recordings, and facts about the trainings.

    Args:
        unit: a `score_files.Unit` with a probe of `MODES`.
        parts: parts of the recordings for each fold, see `divided`.
    """
    scores, choices = np.full(known.targets.shape, np.nan), []
    for fold, part in parts.items():
        folder = training_folder(out, unit.model, unit.task, unit.path(out).stem, fold)
        found = train_fold(folder, source, unit.probe, known, part, unit.seed, options)
        scores[part == TEST] = found[part == TEST]
        choices.append(
            {"fold": fold, "layer": None, "trained_on": int((part == TRAIN).sum()), "config": options.config}
        )
    return scores, choices
