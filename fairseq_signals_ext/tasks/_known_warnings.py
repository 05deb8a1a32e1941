"""Hide library warnings about fairseq's code, which a user cannot act on."""

import warnings
from typing import Optional

from omegaconf import DictConfig

from fairseq_signals_ext.tasks._options import typed

# each with the module that raises it; other warnings of these modules are shown
_KNOWN = (
    # fairseq's positional convolution uses torch's older version; all checkpoints have its parameters
    (r".*torch\.nn\.utils\.weight_norm", Warning, r"torch\.nn\.utils\.weight_norm"),
    # fairseq's train_step uses the older name of torch's mixed precision
    (r".*torch\.cuda\.amp\.autocast", FutureWarning, r"fairseq\.tasks\.fairseq_task"),
    # fairseq requests pinned memory on a CPU, too
    (r"'pin_memory' argument is set as true but no accelerator", UserWarning, r"torch\.utils\.data\.dataloader"),
)


def hide_known_warnings(options: Optional[DictConfig]) -> None:
    """Hide warnings that are known to be harmless, in a training started on the command line.

    This cannot hide what hydra and fairseq print before they import a user-dir; see docs/pretraining.md for that.

    Args:
        options: of all sections.
    """
    if typed(options) is None:  # another program decides itself
        return
    for message, category, module in _KNOWN:
        warnings.filterwarnings("ignore", message=message, category=category, module=module)
