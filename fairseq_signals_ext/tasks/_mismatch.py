"""Whether a training's data are what the model that it starts from has learned to see.

Another sample rate, order of leads or standardisation makes features of an encoder mean nothing, and no number shows
it: the training runs, and is only worse. So these are refused unless they are meant. Other lengths of segments and
absent leads are what the architecture allows for: they are told.
"""

import logging
from typing import Any, Dict, List, Mapping, NamedTuple, Optional

import fairseq
import torch

import fairseq_signals_ext
from fairseq_signals_ext.checkpoints.comparing import differences_of_inputs
from fairseq_signals_ext.checkpoints.describing import preprocessing_of
from fairseq_signals_ext.checkpoints.description import Preprocessing
from fairseq_signals_ext.checkpoints.reading import Checkpoint
from fairseq_signals_ext.data.ecg_dataset import EcgDataset
from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.leads import LEADS

logger = logging.getLogger(__name__)

_OPTION = "task.allow_mismatch"


class Seen(NamedTuple):
    """What a model, or the first data set of a training, has as its input.

    Attributes:
        source: the file that says so.
        inputs: what it is.
    """

    source: str
    inputs: Preprocessing

    @classmethod
    def by(cls, checkpoint: Checkpoint) -> "Seen":
        """What the model of a checkpoint was trained with."""
        return cls(str(checkpoint.path), preprocessing_of(checkpoint))

    @classmethod
    def of(cls, source: Any, facts: Mapping[str, Any]) -> "Seen":
        """What a task's state says of its data."""
        values = {name: facts[name] for name in Preprocessing.__dataclass_fields__}
        leads = {name: tuple(values[name]) for name in ("leads", "loaded_leads")}
        return cls(str(source), Preprocessing(**{**values, **leads}))


def inputs_of(dataset: EcgDataset) -> Dict[str, Any]:
    """What is trained on, and with which versions: plain values, kept in checkpoints as the task's state."""
    settings = dataset.settings
    return {
        "sample_rate": float(dataset.sample_rate),
        "leads": [LEADS[lead] for lead in settings.leads_of_model],
        "loaded_leads": [LEADS[lead] for lead in settings.leads],
        "segment_samples": int(dataset.segment_samples),
        "stride_samples": int(round(settings.segment_seconds * dataset.sample_rate)),
        "standardization": "segment" if settings.normalize else "lead",
        "package_version": fairseq_signals_ext.__version__,
        "torch_version": str(torch.__version__),
        "fairseq_version": str(getattr(fairseq, "__version__", "")),
    }


def check_same_inputs(there: Optional[Seen], here: Seen, is_meant: bool) -> None:
    """See that data are given to a model as those that it learned from; what differs is told in one line.

    Args:
        there: None if it learned from nothing yet.
        is_meant: it may differ.

    Raises:
        UserError: they are of another sample rate, order of leads or standardisation.
    """
    if there is None:
        return
    severe = differences_of_inputs(there.inputs, here.inputs)
    found = [*severe, *_smaller_differences(there.inputs, here.inputs)]
    told = f"{here.source}: is not what {there.source} is of: {'; '.join(found)}"
    if severe and not is_meant:
        raise UserError(f"{told}; prepare the data, or set the task's options, as there, or mean it: ++{_OPTION}=true")
    if found:
        logger.warning(told)


def _smaller_differences(there: Preprocessing, here: Preprocessing) -> List[str]:
    found = []
    lengths = [inputs.segment_samples / inputs.sample_rate for inputs in (there, here)]
    if abs(lengths[0] - lengths[1]) > 1 / there.sample_rate:
        found.append(f"segments of {lengths[0]:g} s there and {lengths[1]:g} s here")
    absent = [lead for lead in there.loaded_leads if lead not in here.loaded_leads and lead in here.leads]
    if absent:
        found.append(f"zeros here for {','.join(absent)}")
    return found
