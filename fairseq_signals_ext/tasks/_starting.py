"""Find the checkpoint that a training starts from: of an interrupted run, or of another model.

fairseq's trainer loads parameters and optimizer, but not the task's state: label names, and the scale of a regression.
Its messages on unusable files are unclear.
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
# fairseq's names: epoch and updates in the middle of an epoch, only the epoch at its end
_REGULAR = re.compile(r"checkpoint_?(\d+)(?:_(\d+))?\.pt")
# these may be older, or copied here from another run
_BEST = "checkpoint[_.]best*.pt"


class StartingPoint(NamedTuple):
    """A checkpoint that fairseq's trainer will load.

    Attributes:
        checkpoint: as it was saved.
        continues: True: the run continues, with its optimizer; False: a new run begins with these parameters.
    """

    checkpoint: Checkpoint
    continues: bool


def starting_point(cfg: Any) -> Optional[StartingPoint]:
    """Return the checkpoint that fairseq's trainer will load; None if it will load nothing.

    If the run's last checkpoint is damaged or missing, the newest complete one replaces it, also in fairseq's options.

    Args:
        cfg: of the task, with fairseq's options `save_dir`, `restore_file`, `continue_once`, `finetune_from_model` and
            `reset_optimizer`.

    Raises:
        UserError: the checkpoint cannot be used.
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
    """End the command, with status 0, if a training has all its updates: fairseq would make one more.

    Args:
        cfg: of the task, see `starting_point`.
        start: the checkpoint to continue from.

    Raises:
        SystemExit: the training is finished; this is logged.
    """
    options = all_options(cfg)
    if options is None or start is None or not start.continues or cfg.reset_optimizer:
        return
    if start.checkpoint.state.get("last_optimizer_state") is None:  # fairseq restarts the count
        return
    most, done = options.optimization.max_update, start.checkpoint.updates
    if most and done is not None and done >= most:
        logger.info(
            f"{start.checkpoint.path}: this training is finished, with {done} updates; to continue it, set "
            "optimization.max_update to more"
        )
        raise SystemExit(0)


def check_criterion(checkpoint: Checkpoint, criterion: Any) -> None:
    """Raise a `UserError` if a checkpoint's optimizer belongs to another criterion: fairseq refuses that."""
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
    """Return the file, and the option that names it, in fairseq's order."""
    if cfg.restore_file != LAST:
        options = all_options(cfg)
        suffix = options.checkpoint.checkpoint_suffix if options is not None else ""
        path = Path(cfg.restore_file.replace(".pt", f"{suffix}.pt"))  # as fairseq does
        # each GPU loads its own part, with another name
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
    """Make fairseq use the newest complete checkpoint of the run if the last one is damaged or missing."""
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
            # fairseq accepts one of these, not both
            section.restore_file, section.finetune_from_model = str(newest), None


def check_fits(checkpoint: Checkpoint, model: Any) -> None:
    """Raise a `UserError` that names the difference unless the checkpoint fits the model and its options."""
    difference = model.difference_from(checkpoint.parameters)
    if is_sharded(model) and get_global_rank() > 0:
        difference = None  # all ranks must join in collecting the parameters; only the first one gets them
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
    """Return the newest complete checkpoint in a run's folder, except `checkpoint_last.pt`; None if there is none.

    Args:
        with_best: include checkpoints that were the best ones when saved.
    """
    regular = sorted(folder.glob("checkpoint*.pt"), key=_position, reverse=True)
    newest = next((path for path in regular if _REGULAR.fullmatch(path.name) and _is_whole(path)), None)
    found = [] if newest is None else [newest]
    if with_best:
        found += filter(_is_whole, sorted(folder.glob(_BEST)))
    return max(found, key=_updates, default=None)


def _position(path: Path) -> Tuple[int, float]:
    """Return epoch and updates; the end of an epoch sorts last."""
    found = _REGULAR.fullmatch(path.name)
    return (int(found[1]), float(found[2] or "inf")) if found else (0, 0.0)


def _is_whole(path: Path) -> bool:
    return what_is_wrong_with(path) is None


def _updates(path: Path) -> int:
    return read_checkpoint(path).updates or 0


def check_average(options: Optional[DictConfig], start: Optional[StartingPoint]) -> None:
    """Log the purpose of a moving average of weights if one is kept, and check that the checkpoint has it.

    Args:
        options: of all sections; None if there are none.
        start: the checkpoint that the training starts from.

    Raises:
        UserError: the checkpoint has none; fairseq would end with a traceback.
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
