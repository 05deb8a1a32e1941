"""Handle the state of a training that fairseq keeps in functions and modules, not in checkpoints.

Without this, the next training of a sweep would continue with the best score, the patience and the logs of the previous
one, and a resumed training would count `patience` from 0.
"""

import atexit
import contextlib
import hashlib
import logging
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, Optional

from fairseq import checkpoint_utils
from fairseq.distributed.utils import get_global_rank
from fairseq.logging import progress_bar
from fairseq.optim.lr_scheduler.reduce_lr_on_plateau import ReduceLROnPlateauLRSchedule
from fairseq.trainer import Trainer
from omegaconf import DictConfig

from fairseq_signals_ext.checkpoints.reading import Checkpoint
from fairseq_signals_ext.common.files import only_one
from fairseq_signals_ext.data.ecg_dataset import EcgDataset
from fairseq_signals_ext.tasks._starting import StartingPoint
from fairseq_signals_ext.tasks._wrapping import wrapping

logger = logging.getLogger(__name__)

_OWNED = contextlib.ExitStack()  # the lock of the folder that this process trains into
_KEY = "run"  # in a checkpoint's `extra_state`
_LOGS = ("fairseq_cli.train", "fairseq.logging.progress_bar")  # loggers to which fairseq adds `common.log_file`
_CHOICE = {
    "metric": "checkpoint.best_checkpoint_metric",
    "maximize": "checkpoint.maximize_best_checkpoint_metric",
    "subset": "dataset.valid_subset",
    "data": "the validation recordings or their labels",
}


class Run:
    """One training of a task.

    Attributes:
        options: of all sections; None until it begins, and for a task without other sections.
        start: the checkpoint it starts from; None: no checkpoint. Once model and criterion are built, only its
            config.
        choice: metric, direction and data of the best score; None without validation.
    """

    def __init__(self) -> None:
        self.options: Optional[DictConfig] = None
        self.start: Optional[StartingPoint] = None
        self.choice: Optional[Dict[str, Any]] = None

    def begin(self, options: Optional[DictConfig], start: Optional[StartingPoint]) -> None:
        """Reset fairseq's state of an earlier training in this process; call it before anything is loaded."""
        _patch()
        self.options, self.start = options, start
        _forget_scores()
        if options is not None:
            _close_logs(options.common.log_file)
            _own_folder(None if options.checkpoint.no_save else Path(options.checkpoint.save_dir))

    def is_built(self) -> None:
        """Release the checkpoint: its tensors are mapped, so the file would use disk space after it is replaced."""
        if self.start is not None:
            checkpoint = self.start.checkpoint
            self.start = self.start._replace(checkpoint=Checkpoint(checkpoint.path, {"cfg": checkpoint.config}))

    def validates(self, dataset: EcgDataset, labels: bytes = b"") -> None:
        """Store metric, direction and data that choose the best checkpoint.

        Args:
            dataset: the first validation subset.
            labels: of its recordings, if it has any.
        """
        content = hashlib.sha256(dataset.store.fingerprint())
        content.update(labels)
        self.choice = {**_choice_of(self.options), "data": content.hexdigest()}

    def state(self) -> Dict[str, Any]:
        """Return the state that a checkpoint contains in addition to fairseq's: plain values."""
        stop, patience = _should_stop(), None
        if hasattr(stop, "best"):
            patience = {"best": float(stop.best), "num_runs": int(stop.num_runs)}
        return {"patience": patience, "choice": self.choice}

    def continue_from(self, trainer: Any, extra_state: Dict[str, Any], epoch: int) -> None:
        """Restore the state after fairseq has loaded the checkpoint, as if the run had not been stopped.

        Args:
            trainer: fairseq's.
            extra_state: of the checkpoint.
            epoch: the next one.
        """
        if self.start is None or not self.start.continues:
            return
        # a checkpoint of stock fairseq has none
        saved = extra_state.get(_KEY) or {"choice": _choice_of(self.start.checkpoint.config), "patience": None}
        before = saved["choice"]
        if self.choice is None:  # nothing is validated
            self.choice = before
        changed = before and self.choice and _difference(before, self.choice)
        if changed:
            logger.warning(f"the best score so far is forgotten: {changed} changed since the checkpoint")
            _forget_scores()
            _forget_plateau(trainer)
            _set_aside_best(trainer.cfg.checkpoint)
            return
        stop = _should_stop()
        patience = saved["patience"]
        if patience is None and "best" in extra_state:
            patience = {"best": extra_state["best"], "num_runs": 0}
        if patience is not None:
            stop.best, stop.num_runs = patience["best"], patience["num_runs"]
        is_end = extra_state["train_iterator"].get("iterations_in_epoch", 0) == 0
        if is_end and extra_state.get("val_loss") is not None and not trainer.cfg.checkpoint.reset_lr_scheduler:
            # fairseq saves at the end of an epoch before the scheduler gets the metric of that epoch
            trainer.lr_step(epoch, extra_state["val_loss"])


def _own_folder(folder: Optional[Path]) -> None:
    """Keep other processes from training into a folder, until this process ends or trains into another one.

    Raises:
        UserError: another process trains into it.
    """
    _OWNED.close()
    if folder is not None and get_global_rank() == 0:
        _OWNED.enter_context(only_one(folder))
        # register last, so that it is called first: otherwise filelock leaves its file
        atexit.register(_OWNED.close)


def _should_stop() -> Any:
    """Return fairseq's function that counts for `patience`; any object if its command is not running."""
    return getattr(sys.modules.get("fairseq_cli.train"), "should_stop_early", SimpleNamespace())


def _forget_scores() -> None:
    for function in (checkpoint_utils.save_checkpoint, _should_stop()):
        for name in ("best", "num_runs"):
            vars(function).pop(name, None)


def _forget_plateau(trainer: Any) -> None:
    if isinstance(trainer.lr_scheduler, ReduceLROnPlateauLRSchedule):
        scheduler = trainer.lr_scheduler.lr_scheduler
        scheduler.best, scheduler.num_bad_epochs = scheduler.mode_worse, 0


def _set_aside_best(options: Any) -> None:
    """Rename checkpoints of `keep_best_checkpoints`: fairseq would compare the scores in their names."""
    if options.keep_best_checkpoints > 0 and get_global_rank() == 0:
        for path in Path(options.save_dir).glob(f"checkpoint.best_{options.best_checkpoint_metric}_*.pt"):
            path.rename(path.with_name(f"earlier_{path.name}"))


def _choice_of(options: Any) -> Dict[str, Any]:
    checkpoint, dataset = options.get("checkpoint") or {}, options.get("dataset") or {}
    return {
        "metric": checkpoint.get("best_checkpoint_metric"),
        "maximize": checkpoint.get("maximize_best_checkpoint_metric"),
        "subset": str(dataset.get("valid_subset")).split(",")[0],
    }


def _difference(before: Dict[str, Any], now: Dict[str, Any]) -> Optional[str]:
    """Return what has changed in the choice of the best checkpoint; a renamed subset may have the same recordings."""
    compared = ("metric", "maximize", "data" if "data" in before and "data" in now else "subset")
    changed = [_CHOICE[name] for name in compared if before.get(name) != now.get(name)]
    return " and ".join(changed) or None


def _close_logs(log_file: Optional[str]) -> None:
    """Close logs of an earlier training in this process; fairseq would continue to write to them."""
    own = os.path.abspath(log_file) if log_file else None
    for name in _LOGS:
        log = logging.getLogger(name)
        handlers = [handler for handler in log.handlers if isinstance(handler, logging.FileHandler)]
        kept = [handler for handler in handlers if handler.baseFilename == own and name == _LOGS[0]][-1:]
        for handler in handlers:
            if handler not in kept:
                log.removeHandler(handler)
                handler.close()
    for writer in progress_bar._tensorboard_writers.values():
        writer.close()
    progress_bar._tensorboard_writers.clear()


def _patch() -> None:
    """Make fairseq's checkpoints store the state of runs."""

    @wrapping(checkpoint_utils, "load_checkpoint")
    def load_with_run(load: Any, cfg: Any, trainer: Any, **kwargs: Any) -> Any:
        extra_state, epoch_itr = load(cfg, trainer, **kwargs)
        run = getattr(trainer.task, "run", None)
        # as in fairseq's condition for the best score
        if isinstance(run, Run) and extra_state is not None and not (cfg.reset_optimizer or cfg.reset_meters):
            run.continue_from(trainer, extra_state, epoch_itr.epoch)
        return extra_state, epoch_itr

    @wrapping(Trainer, "save_checkpoint")
    def save_with_run(save: Any, self: Any, filename: str, extra_state: Dict[str, Any]) -> Any:
        run = getattr(self.task, "run", None)
        more = {_KEY: run.state()} if isinstance(run, Run) else {}
        return save(self, filename, {**extra_state, **more})

    # fairseq's scheduler does not save for how many epochs the learning rate has waited
    @wrapping(ReduceLROnPlateauLRSchedule, "state_dict")
    def state_with_waiting(state_dict: Any, self: Any) -> Dict[str, Any]:
        return {**state_dict(self), "num_bad_epochs": self.lr_scheduler.num_bad_epochs}

    @wrapping(ReduceLROnPlateauLRSchedule, "load_state_dict")
    def load_waiting(load: Any, self: Any, state: Dict[str, Any]) -> None:
        load(self, state)
        self.lr_scheduler.num_bad_epochs = state.get("num_bad_epochs", 0)
