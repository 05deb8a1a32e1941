"""What a training starts from: a run that was stopped, or another model's checkpoint as a whole.

fairseq's trainer loads parameters and optimizer, but not the task's state: label names, and the scale of a regression.
And it says little of a file that it cannot use.
"""

from pathlib import Path
from typing import Any, Optional

from fairseq_signals_ext.checkpoints.parameter_names import is_ecg_fm
from fairseq_signals_ext.checkpoints.reading import Checkpoint, read_checkpoint
from fairseq_signals_ext.errors import UserError

_LAST = "checkpoint_last.pt"
_RESETS = "checkpoint.reset_optimizer=true checkpoint.reset_lr_scheduler=true checkpoint.reset_meters=true"


def starting_point(cfg: Any) -> Optional[Checkpoint]:
    """The checkpoint that fairseq's trainer will load; None if it will load none.

    Args:
        cfg: of the task, with fairseq's options `save_dir`, `restore_file`, `finetune_from_model`, `reset_optimizer`.

    Raises:
        UserError: it cannot be used.
    """
    path = Path(cfg.save_dir) / _LAST if cfg.restore_file == _LAST else Path(cfg.restore_file)
    option = "checkpoint.restore_file"
    if not path.is_file() and cfg.finetune_from_model:
        path, option = Path(cfg.finetune_from_model), "checkpoint.finetune_from_model"
    if not path.is_file() and option == "checkpoint.restore_file":
        return None
    checkpoint = read_checkpoint(path, f"mend {option}")
    if option == "checkpoint.restore_file":
        _check_optimizer(checkpoint, cfg)
    return checkpoint


def check_fits(checkpoint: Checkpoint, model: Any) -> None:
    """Raise a `UserError` unless the model can load the checkpoint's parameters; names what differs."""
    problem = model.difference_from(checkpoint.parameters)
    if problem:
        cure = "set the model's options as there"
        if hasattr(model, "load_pretrained"):
            cure = "to start from its encoder only, give it as model.model_path"
        raise UserError(f"{checkpoint.path}: is of another model than {type(model).__name__} here: {problem}; {cure}")


def _check_optimizer(checkpoint: Checkpoint, cfg: Any) -> None:
    has_optimizer = checkpoint.state.get("last_optimizer_state") is not None
    if has_optimizer and is_ecg_fm(checkpoint.parameters) and not cfg.reset_optimizer:
        raise UserError(
            f"{checkpoint.path}: is of ECG-FM's framework, whose optimizer state is of another order of parameters; "
            f"add {_RESETS}, or give the file as checkpoint.finetune_from_model"
        )
