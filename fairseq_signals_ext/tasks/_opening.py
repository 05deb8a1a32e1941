"""`open_dataset`: a task's data set, for programs that use data without fairseq's trainer."""

import os
from dataclasses import fields
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple, Union

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fairseq_signals_ext.common.errors import UserError, first_line
from fairseq_signals_ext.common.hints import did_you_mean
from fairseq_signals_ext.data.ecg_dataset import EcgDataset
from fairseq_signals_ext.data.manifest import find_manifests, subsets_of
from fairseq_signals_ext.tasks._options import EcgPretrainingConfig
from fairseq_signals_ext.tasks.ecg_classification import EcgClassificationConfig, EcgClassificationTask
from fairseq_signals_ext.tasks.ecg_pretraining import EcgPretrainingTask
from fairseq_signals_ext.tasks.ecg_regression import EcgRegressionConfig, EcgRegressionTask

AnyPath = Union[str, "os.PathLike[str]"]
# by the kind of labels
_TASKS: Dict[str, Tuple[Any, Any]] = {
    "none": (EcgPretrainingTask, EcgPretrainingConfig),
    "classification": (EcgClassificationTask, EcgClassificationConfig),
    "regression": (EcgRegressionTask, EcgRegressionConfig),
}


def open_dataset(
    manifest: AnyPath,
    labels: Optional[AnyPath] = None,
    *,
    training: bool = False,
    regression: bool = False,
    seed: int = 1,
    **options: Any,
) -> EcgDataset:
    """Open the recordings of a manifest as a torch dataset of segments, as the tasks do.

    Its `collater` makes batches: a dict with `net_input`, which has `source`, float32, N segments x leads x samples,
    each lead in standard deviations of its recording, and `padding_mask`, bool, N x samples, if a segment is padded;
    `id`, `patient_id` and `segment`, int64, N; with labels also `label`, float64, N x L, NaN where unknown, and
    `idx`, int64, N. Shuffling is torch's.

    Args:
        manifest: `train.tsv` of a split, also if it is in pieces; a prepared folder: all of its recordings.
        labels: output of `fairseq-signals-ext label`, `DIR/labels/NAME` or its `y.npy`; None: without labels.
        training: augment, and draw random segments, if the options say so.
        regression: labels are numbers, not classes.
        seed: for random draws; `set_epoch` of the dataset changes it in each epoch.
        **options: of the task, as after `task.` on the command line: `segment_seconds=10`, `leads_to_load="I,II"`,
            `sample_rate=500`, `pairs="fixed"`, `perturbation_mode=["random_leads_masking"]`, ...

    Raises:
        UserError: a manifest, label file or option is wrong, or they do not fit each other; fairseq is missing.

    Examples:
        >>> import fairseq_signals_ext
        >>> from torch.utils.data import DataLoader
        >>> dataset = fairseq_signals_ext.open_dataset("data/splits/main/train.tsv", labels="data/labels/outcomes")
        >>> batch = next(iter(DataLoader(dataset, batch_size=4, collate_fn=dataset.collater)))
        >>> batch["net_input"]["source"].shape, batch["label"].shape
        (torch.Size([4, 12, 2500]), torch.Size([4, 1]))
    """
    if regression and labels is None:
        raise UserError("regression: needs labels; give labels='DIR/labels/NAME'")
    paths = _manifests(Path(manifest))
    task, options_of_task = _TASKS["none" if labels is None else "regression" if regression else "classification"]
    given = {"pairs": "none", "seed": seed, "data": str(paths[0].parent), **options}
    if labels is not None:
        given["label_file"] = os.fspath(labels)
    return task(_config(options_of_task, given)).opened(paths, training)


def _manifests(path: Path) -> List[Path]:
    if not path.is_dir():
        return find_manifests(path.parent, path.stem)
    names = subsets_of(path)
    folds = sorted(path.glob("fold-*/*.tsv"))
    if not names and folds:
        raise UserError(f"{path}: is a split into folds; give a manifest of one, such as {_for_training(folds)}")
    if not names or "all" in names:
        return find_manifests(path, "all")
    raise UserError(f"{path}: is a folder; give one of its manifests, such as {_for_training(path.glob('*.tsv'))}")


def _for_training(manifests: Iterable[Path]) -> Path:
    """One of manifests, that of a training set if it is there."""
    return min(manifests, key=lambda path: (path.stem != "train", path))


def _config(options_of_task: Any, given: Mapping[str, Any]) -> Any:
    """Return a config of a task, without values from other sections."""
    config = OmegaConf.structured(options_of_task)
    known = [option.name for option in fields(options_of_task) if not option.name.startswith("_")]
    for name, value in given.items():
        if name not in known:
            raise UserError(f"option {name!r}: {_instead(name, known)}")
        try:
            config[name] = value
        except OmegaConfBaseException as error:
            raise UserError(f"option {name}={value!r}: {first_line(error)}") from error
    return config


def _instead(name: str, known: List[str]) -> str:
    """What to give in place of an option that there is none of."""
    if name == "label_file":
        return "give it as labels"
    return f"unknown; {did_you_mean(name, known, 'known are ' + ', '.join(known))}"
