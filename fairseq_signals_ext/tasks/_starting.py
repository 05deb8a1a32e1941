"""What a training starts from: a run that was stopped, or another model's checkpoint as a whole.

fairseq's trainer loads parameters and optimizer, but not the task's state: label names, and the scale of a regression.
And its messages on unusable files are unclear.
"""

import logging
import re
from pathlib import Path
from typing import Any, NamedTuple, Optional, Tuple

from fairseq.distributed.utils import get_global_rank
from omegaconf import DictConfig, open_dict

from fairseq_signals_ext.checkpoints.architecture import is_ecg_fm
from fairseq_signals_ext.checkpoints.file_kinds import what_is_wrong_with
from fairseq_signals_ext.checkpoints.reading import Checkpoint, read_checkpoint
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.models.pretrained import different_option
from fairseq_signals_ext.tasks._options import LAST, all_options
from fairseq_signals_ext.tasks._parallel import is_sharded

logger = logging.getLogger(__name__)

RESETS = "checkpoint.reset_optimizer=true checkpoint.reset_lr_scheduler=true checkpoint.reset_meters=true"
# as fairseq names those in the middle of an epoch, by epoch and updates, and those at its end
_REGULAR = re.compile(r"checkpoint_?(\d+)(?:_(\d+))?\.pt")
# they may be older, or copied here from another run
_BEST = "checkpoint[_.]best*.pt"


class StartingPoint(NamedTuple):
    """A checkpoint that fairseq's trainer will load.

    Attributes:
        checkpoint: as it was saved.
        continues: a run continues, with its optimizer; otherwise a new one begins with these parameters.
    """

    checkpoint: Checkpoint
    continues: bool


def starting_point(cfg: Any) -> Optional[StartingPoint]:
    """What fairseq's trainer will load; None if it will load nothing.

    If the run's last checkpoint is damaged, or gone, the newest that is whole takes its place, also in fairseq's
    options.

    Args:
        cfg: of the task, with fairseq's options `save_dir`, `restore_file`, `continue_once`, `finetune_from_model` and
            `reset_optimizer`.

    Raises:
        UserError: it cannot be used.
    """
    _replace_damaged(cfg)
    path, option = _chosen(cfg)
    if path is None:
        return None
    checkpoint = read_checkpoint(path, f"correct {option}")
    continues = option != "checkpoint.finetune_from_model"
    if continues:
        _check_optimizer(checkpoint, cfg)
    return StartingPoint(checkpoint, continues)


def end_if_finished(cfg: Any, start: Optional[StartingPoint]) -> None:
    """End the command, with status 0, where a training has all its updates: fairseq would make one more.

    Args:
        cfg: of the task, see `starting_point`.
        start: what it continues from.

    Raises:
        SystemExit: it is finished; the log has a line about it.
    """
    options = all_options(cfg)
    if options is None or start is None or not start.continues or cfg.reset_optimizer:
        return
    if start.checkpoint.state.get("last_optimizer_state") is None:  # fairseq begins to count again
        return
    most, done = options.optimization.max_update, start.checkpoint.updates
    if most and done is not None and done >= most:
        logger.info(
            f"{start.checkpoint.path}: this training is finished, with {done} updates; to continue it, set "
            "optimization.max_update to more"
        )
        raise SystemExit(0)


def check_criterion(checkpoint: Checkpoint, criterion: Any) -> None:
    """Raise a `UserError` if a checkpoint's optimizer belongs to another criterion, which fairseq refuses."""
    if checkpoint.state.get("last_optimizer_state") is None:
        return
    history = checkpoint.state.get("optimizer_history") or [{}]
    before, now = history[-1].get("criterion_name"), type(criterion).__name__
    if before is not None and before != now:
        raise UserError(
            f"{checkpoint.path}: was trained with criterion {before}, not {now}; add {RESETS}, or set hydra.run.dir to "
            "a new folder"
        )


def _chosen(cfg: Any) -> Tuple[Optional[Path], str]:
    """The file, and the option that names it, in fairseq's order."""
    if cfg.restore_file != LAST:
        options = all_options(cfg)
        suffix = options.checkpoint.checkpoint_suffix if options is not None else ""
        path = Path(cfg.restore_file.replace(".pt", f"{suffix}.pt"))  # as fairseq does
        # each GPU loads its own part, of another name
        in_parts = next(path.parent.glob(f"{path.stem}*-shard0.pt"), None) is not None
        return (None if in_parts and not path.is_file() else path), "checkpoint.restore_file"
    last = Path(cfg.save_dir) / LAST
    if last.is_file():
        return last, "checkpoint.save_dir, so that a new run has a folder of its own"
    if cfg.continue_once:
        return Path(cfg.continue_once), "checkpoint.continue_once"
    if cfg.finetune_from_model:
        return Path(cfg.finetune_from_model), "checkpoint.finetune_from_model"
    return None, ""


def _replace_damaged(cfg: Any) -> None:
    """Have fairseq take the newest whole checkpoint of the run for its last one, if that is damaged or gone."""
    last, options = Path(cfg.save_dir) / LAST, all_options(cfg)
    if cfg.restore_file != LAST or options is None or options.checkpoint.no_last_checkpoints:
        return
    there = last.is_file()
    problem = what_is_wrong_with(last) if there else "is not there"
    newest = None if problem is None else newest_whole(last.parent, with_best=there)
    if problem is None or newest is None:
        return
    what = problem.split(";")[0]
    logger.warning(f"{last}: {what}; the training continues from {newest}, the newest checkpoint here that is whole")
    for section in (cfg, options.task, options.checkpoint):
        with open_dict(section):
            # fairseq takes either, not both
            section.restore_file, section.finetune_from_model = str(newest), None


def check_fits(checkpoint: Checkpoint, model: Any) -> None:
    """Raise a `UserError` unless the model can load the checkpoint and is what it was; names what differs."""
    difference = model.difference_from(checkpoint.parameters)
    if is_sharded(model) and get_global_rank() > 0:
        difference = None  # all ranks take part in collecting the parameters, which only the first one is given
    problem = difference or different_option(checkpoint.model_config, model.cfg)
    if problem:
        hint = "set the model's options as there, or give a new run a checkpoint.save_dir of its own"
        if hasattr(model, "load_pretrained"):
            hint = "to start from its encoder only, give it as model.model_path, and the run a folder of its own"
        raise UserError(
            f"{checkpoint.path}: belongs to another model than {type(model).__name__} here: {problem}; {hint}"
        )


def _check_optimizer(checkpoint: Checkpoint, cfg: Any) -> None:
    has_optimizer = checkpoint.state.get("last_optimizer_state") is not None
    if has_optimizer and is_ecg_fm(checkpoint.parameters) and not cfg.reset_optimizer:
        raise UserError(
            f"{checkpoint.path}: is of ECG-FM's framework, whose optimizer state is of another order of parameters; "
            f"add {RESETS}, or give the file as checkpoint.finetune_from_model"
        )


def newest_whole(folder: Path, with_best: bool) -> Optional[Path]:
    """The newest checkpoint of a run's folder, but `checkpoint_last.pt`, that is whole; None if there is none.

    Args:
        with_best: also those that were the best of their time.
    """
    regular = sorted(folder.glob("checkpoint*.pt"), key=_position, reverse=True)
    newest = next((path for path in regular if _REGULAR.fullmatch(path.name) and _is_whole(path)), None)
    found = [] if newest is None else [newest]
    if with_best:
        found += filter(_is_whole, sorted(folder.glob(_BEST)))
    return max(found, key=_updates, default=None)


def _position(path: Path) -> Tuple[int, float]:
    """Epoch and updates; the end of an epoch comes last."""
    found = _REGULAR.fullmatch(path.name)
    return (int(found[1]), float(found[2] or "inf")) if found else (0, 0.0)


def _is_whole(path: Path) -> bool:
    return what_is_wrong_with(path) is None


def _updates(path: Path) -> int:
    return read_checkpoint(path).updates or 0


def check_average(options: Optional[DictConfig], start: Optional[StartingPoint]) -> None:
    """Say what a moving average of weights is for, if one is to be kept, and see that there is one to continue with.

    Args:
        options: of the whole training; None where there are none.
        start: what the training starts from.

    Raises:
        UserError: the checkpoint has none, of which fairseq makes a traceback.
    """
    if options is None or not options.ema.store_ema:
        return
    if start is not None and "ema" not in (start.checkpoint.state.get("extra_state") or {}):
        raise UserError(
            f"{start.checkpoint.path}: has no average of weights to continue with; set ema.store_ema=false, or begin a "
            f"new training, which may take this file's encoder as model.model_path"
        )
    logger.info(
        "ema.store_ema: the average is in checkpoints beside the weights, which alone are validated, chosen as the "
        "best, exported and used; fairseq.checkpoint_utils.save_ema_as_checkpoint makes a checkpoint of the average"
    )
