"""Find the position in an epoch where a training continues with another batch size or number of GPUs.

fairseq counts batches: with larger ones the epoch may have fewer than are done, which ends in a traceback. Otherwise it
would skip, or repeat, a part of the data.
"""

import functools
import logging
import math
from typing import Any, Dict, List, NamedTuple, Optional

from omegaconf import DictConfig

from fairseq_signals_ext.common.errors import UserError, exits_on_user_error
from fairseq_signals_ext.data.ecg_dataset import EcgDataset
from fairseq_signals_ext.tasks._starting import StartingPoint

logger = logging.getLogger(__name__)


class Step(NamedTuple):
    """Sizes of a batch and of an update.

    Attributes:
        items: per batch, over all GPUs.
        batches: per update.
    """

    items: int
    batches: int


def keep_position(iterator: Any, dataset: EcgDataset, start: StartingPoint, options: DictConfig) -> None:
    """Make an iterator over batches continue at the same fraction of the epoch.

    Args:
        iterator: fairseq's, new.
        dataset: data of the iterator.
        start: the checkpoint to continue from.
        options: of all sections.
    """
    load = iterator.load_state_dict

    @functools.wraps(load)
    @exits_on_user_error
    def load_state_dict(state: Dict[str, Any]) -> None:
        done, epoch = state.get("iterations_in_epoch", 0), state["epoch"]
        before, now = _step_before(start, dataset, epoch), step_of(options, dataset, epoch)
        position = done if before is None or before == now else scaled(done, before, now)
        if position >= len(iterator) > 0:
            raise UserError(
                f"{start.checkpoint.path}: was saved after {done} batches of epoch {epoch}, which is over after "
                f"{len(iterator)} now: the training data are others; set checkpoint.reset_dataloader=true to begin "
                f"with the data again"
            )
        if position != done:
            logger.warning(
                f"the number of batches or GPUs has changed: epoch {epoch} continues after {position} of "
                f"{len(iterator)} batches, the same share as {done} were; a few recordings are used twice or not at "
                f"all in this epoch"
            )
        load({**state, "iterations_in_epoch": position})

    iterator.load_state_dict = load_state_dict


def _step_before(start: StartingPoint, dataset: EcgDataset, epoch: int) -> Optional[Step]:
    """Return the step of the checkpoint's config; None if it has none, as in configs of other frameworks."""
    try:
        step = step_of(start.checkpoint.config, dataset, epoch)
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError):
        return None
    return step if min(step) > 0 else None


def scaled(done: int, before: Step, now: Step) -> int:
    """Return the number of batches, in whole updates, for the same fraction of an epoch."""
    return done * before.items // now.items // now.batches * now.batches


def step_of(config: Any, dataset: EcgDataset, epoch: int) -> Step:
    """Return the step of a config, of this training or of a checkpoint."""
    data, distributed = config["dataset"], config["distributed_training"]
    frequencies: List[Any] = list(config["optimization"]["update_freq"])
    items = _items(data.get("batch_size"), data.get("max_tokens"), int(dataset.sizes.max()))
    gpus = int(distributed.get("distributed_world_size") or 1)
    return Step(items * gpus, int(frequencies[min(epoch, len(frequencies)) - 1]))


def _items(batch_size: Optional[int], max_tokens: Optional[int], samples: int) -> int:
    """Return the items per batch; the same for all batches but the last, because segments have one length."""
    return max(int(min(batch_size or math.inf, max_tokens // samples if max_tokens else math.inf)), 1)
