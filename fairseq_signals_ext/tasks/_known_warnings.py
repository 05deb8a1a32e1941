"""Warnings of libraries on what fairseq does, which a user can neither change nor learn from."""

import warnings
from typing import Optional

from omegaconf import DictConfig

from fairseq_signals_ext.tasks._options import typed

# each with the module that it is raised in; what else these modules say is shown
_KNOWN = (
    # fairseq's positional convolution uses the older of torch's two, whose parameters are those of all checkpoints
    (r".*torch\.nn\.utils\.weight_norm", Warning, r"torch\.nn\.utils\.weight_norm"),
    # fairseq's train_step calls torch's mixed precision by its older name
    (r".*torch\.cuda\.amp\.autocast", FutureWarning, r"fairseq\.tasks\.fairseq_task"),
    # fairseq asks for pinned memory on a CPU, too
    (r"'pin_memory' argument is set as true but no accelerator", UserWarning, r"torch\.utils\.data\.dataloader"),
)


def hide_known_warnings(options: Optional[DictConfig]) -> None:
    """Hide what is known to be harmless, in a training that was started on the command line.

    What hydra and fairseq print before they import a user-dir is not reached from here; docs/pretraining.md shows how
    to hide that.

    Args:
        options: of the whole training.
    """
    if typed(options) is None:  # in another program, which decides itself
        return
    for message, category, module in _KNOWN:
        warnings.filterwarnings("ignore", message=message, category=category, module=module)
