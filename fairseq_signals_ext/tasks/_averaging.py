"""The exponential moving average of weights that fairseq keeps beside a model (`ema.store_ema=true`)."""

import logging
from typing import Optional

from omegaconf import DictConfig

from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.tasks._starting import StartingPoint

logger = logging.getLogger(__name__)


def check_average(options: Optional[DictConfig], start: Optional[StartingPoint]) -> None:
    """Say what an average is for, if one is to be kept, and see that there is one to go on with.

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
            f"{start.checkpoint.path}: has no average of weights to go on with; set ema.store_ema=false, or begin a "
            f"new training, which may take this file's encoder as model.model_path"
        )
    logger.info(
        "ema.store_ema: the average is in checkpoints beside the weights, which alone are validated, chosen as the "
        "best, exported and used; fairseq.checkpoint_utils.save_ema_as_checkpoint makes a checkpoint of the average"
    )
