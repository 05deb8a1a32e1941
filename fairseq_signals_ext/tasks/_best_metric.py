"""Check the metric that chooses the best checkpoint: it is logged, it is defined, and its direction is right.

By default fairseq takes the lowest value as the best, and it reports a missing metric only after the first epoch. The
same option is used for `patience`, `keep_best_checkpoints` and the learning rates of `reduce_lr_on_plateau`.
"""

import logging
import re
from pathlib import Path
from typing import Any, Dict, Optional

import numpy as np
import torch
from fairseq.logging import metrics
from omegaconf import DictConfig, open_dict

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.criterions.objective import Better
from fairseq_signals_ext.evaluation.predictions import Predictions
from fairseq_signals_ext.tasks._options import typed

logger = logging.getLogger(__name__)

_MAXIMIZE = "maximize_best_checkpoint_metric"
# metrics of fairseq's own criterions, which do not list what they log
_OF_FAIRSEQ = {
    **dict.fromkeys(("loss", "nll_loss", "ppl"), Better.LOWER),
    "accuracy": Better.HIGHER,
}


def choose_direction(options: DictConfig, criterion: Any, model: Any) -> None:
    """Check that the metric for the best checkpoint is logged, and set its direction, in place.

    Args:
        options: of all sections.
        criterion: built; `logged` lists what it logs.
        model: to train.

    Raises:
        UserError: the metric is not logged, does not measure how good a model is, or the command line sets the wrong
            direction.
    """
    metric = str(options.checkpoint.best_checkpoint_metric)
    better = _better(metric, criterion, model)
    if better is None:
        return
    if options.checkpoint.keep_best_checkpoints > 0 and not re.fullmatch(r"[\w-]+", metric):
        raise UserError(
            f"checkpoint.keep_best_checkpoints writes {metric!r} into names of files, but it is not a valid one; "
            f"leave that option out, or choose the best by another metric"
        )
    highest = better is Better.HIGHER
    if bool(options.checkpoint[_MAXIMIZE]) == highest:
        return
    direction = f"{metric} is better when it is {better.value}: checkpoint.{_MAXIMIZE}={str(highest).lower()}"
    if _is_typed(options):
        raise UserError(f"checkpoint.best_checkpoint_metric={direction} is what fits it; leave the option out")
    logger.warning(f"{direction} is taken instead of {str(not highest).lower()}")
    for section in (options.checkpoint, options.lr_scheduler):
        if _MAXIMIZE in section:
            with open_dict(section):
                section[_MAXIMIZE] = highest


def _better(metric: str, criterion: Any, model: Any) -> Optional[Better]:
    if not hasattr(criterion, "logged"):
        return _OF_FAIRSEQ.get(metric)
    logged: Dict[str, Better] = criterion.logged(model)
    found = logged.get(metric)
    if found in (None, Better.NEITHER):
        problem = "is not logged here" if found is None else "does not measure how good a model is"
        usable = ", ".join(name for name, better in logged.items() if better is not Better.NEITHER)
        raise UserError(f"checkpoint.best_checkpoint_metric={metric} {problem}; use {usable}")
    return found


def _is_typed(options: DictConfig) -> bool:
    """Whether the command line sets the direction, not only a file, which may be for another metric."""
    overrides = typed(options)
    if overrides is None:  # without hydra it is a flag, given or not
        return bool(options.checkpoint[_MAXIMIZE])
    return any(override.startswith(f"checkpoint.{_MAXIMIZE}=") for override in overrides)


def check_defined(metric: str, criterion: Any, targets: np.ndarray, facts: Dict[str, Any], path: Path) -> None:
    """Check from the labels that a metric has a value on a validation set, with a perfect model's scores.

    Args:
        metric: chooses the best checkpoint.
        criterion: a `LabelCriterion`.
        targets: labels of the set's recordings: float64, N x L; NaN where unknown.
        facts: other arguments of `Predictions`.
        path: the set's manifest, for the message.

    Raises:
        UserError: the metric has no value.
    """
    if metric not in criterion.logged(None) or not np.isnan(_value(metric, criterion, targets, facts)):
        return
    known, why = ~np.isnan(targets), "its labels have one class only, are all equal, or too few are known"
    if not known.any():
        why = "no label of any recording is known"
    raise UserError(
        f"{path}: {metric}, which chooses the best checkpoint, is undefined here: {why}; validate on other recordings, "
        f"or choose another checkpoint.best_checkpoint_metric, such as loss"
    )


def _value(metric: str, criterion: Any, targets: np.ndarray, facts: Dict[str, Any]) -> float:
    known = ~np.isnan(targets)
    if not known.any():
        return float("nan")
    # unknown labels get different scores, because a model's outputs are never all equal
    scores = np.where(known, targets, np.linspace(0, 1, targets.size).reshape(targets.shape))
    if metric in criterion.metric_names():
        numbers = np.arange(len(targets))
        return criterion.validation_metrics(Predictions(scores, targets, numbers, numbers, **facts))[metric]
    counts = criterion.counts(torch.from_numpy(scores), torch.from_numpy(targets), torch.from_numpy(known))
    with metrics.aggregate(new_root=True) as found:
        criterion.reduce_metrics([{"loss": 0.0, "sample_size": int(known.sum()), **counts}])
    return float(found.get_smoothed_values().get(metric, float("nan")))
