"""What fairseq's loading of a checkpoint lacks: refusal of what is none, and whether its data are like these.

Another sample rate, order of leads or standardisation than a model has learned to see makes features of an encoder mean
nothing, and no number shows it: the training runs, and is only worse. So these are refused unless they are meant. Other
lengths of segments and absent leads are what the architecture allows for: they are reported.
"""

import contextlib
import logging
import os
from dataclasses import fields
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional

import fairseq
import torch
from fairseq import checkpoint_utils
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.dataclass.configs import FairseqConfig
from fairseq.distributed import utils as distributed_utils
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from omegaconf import DictConfig, OmegaConf, open_dict

import fairseq_signals_ext
from fairseq_signals_ext.checkpoints.allowed import NAMES_OF_ECG_FM, check_calls
from fairseq_signals_ext.checkpoints.architecture import is_ecg_fm
from fairseq_signals_ext.checkpoints.describing import KINDS_BY_TASK, describe, differences_of_inputs, preprocessing_of
from fairseq_signals_ext.checkpoints.description import Preprocessing
from fairseq_signals_ext.checkpoints.reading import Checkpoint, only_data, read_checkpoint, read_safely
from fairseq_signals_ext.common.errors import UserError, exits_on_user_error, first_line
from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.data.ecg_dataset import EcgDataset
from fairseq_signals_ext.tasks._freezing import leave_out_frozen
from fairseq_signals_ext.tasks._wrapping import wrapping

_LINKED = ("common", "checkpoint", "dataset")
_ERROR = "error: "
_SECTIONS = {"task": TASK_DATACLASS_REGISTRY, "criterion": CRITERION_DATACLASS_REGISTRY}
logger = logging.getLogger(__name__)
_OPTION = "task.allow_mismatch"


def patch_checkpoint_loading() -> None:
    """Make fairseq say in one line what is wrong with a file that it is to load, and never run what is in it.

    fairseq shows torch's traceback, torch before 2.6 runs what a pickle asks for, and fairseq evaluates options of its
    own models as Python. What one of our tasks loads may name what `checkpoints.allowed` lists, nothing else.
    Checkpoints of other plugins load as before, unless such an option calls something. Calling it again is harmless.
    """

    @wrapping(checkpoint_utils, "load_checkpoint_to_cpu")
    def load_checked(load: Any, path: str, arg_overrides: Optional[Dict[str, Any]] = None, **kwargs: Any) -> Any:
        for_us = _check(Path(path), for_us=_is_ours((arg_overrides or {}).get("task")))
        with only_data(), in_one_line(path) if for_us else contextlib.nullcontext():
            state = load(path, arg_overrides, **kwargs)
        _drop_unknown_options(state.get("cfg") or {})
        if for_us:
            _complete_sections(state["cfg"])
        if is_ecg_fm(state.get("model") or {}):
            _complete_ecg_fm(Path(path), state)
        if "load_on_all_ranks" in kwargs:  # given by the trainer only
            leave_out_frozen(state)
        if kwargs.get("load_on_all_ranks") is False:  # given by the trainer only
            _make_sendable(state)
        return state

    _patch_model_loading()
    _receive_what_is_sent()


def _is_ours(task: Any) -> bool:
    """Whether a task's name is one of ours; it may be any value of a file."""
    return isinstance(task, str) and task in KINDS_BY_TASK


@contextlib.contextmanager
def in_one_line(source: Any) -> Iterator[None]:
    """Ends with one line where fairseq, torch or OmegaConf cannot make anything of a file that was checked before."""
    try:
        with _named(source):
            yield
    except Exception as error:  # fairseq asserts, and the others have kinds of their own, for options that do not fit
        raise SystemExit(f"{_ERROR}{source}: cannot be loaded ({first_line(error)}); give another file") from error


@contextlib.contextmanager
def _named(source: Any) -> Iterator[None]:
    """Names the file in a line that ends the program, where who ended it does not know the file."""
    try:
        yield
    except SystemExit as error:
        message = str(error.code)
        if str(source) in message or not message.startswith(_ERROR):
            raise
        raise SystemExit(f"{_ERROR}{source}: {message[len(_ERROR) :]}") from error


def _make_sendable(state: Dict[str, Any]) -> None:
    """Make the config plain values, in place, of a state that the trainer, which has no use for it, sends to all ranks.

    They receive it by torch's loader, which takes nothing but data since torch 2.6, and so refused every run on several
    ranks that was to continue.
    """
    if isinstance(state.get("cfg"), DictConfig):
        state["cfg"] = OmegaConf.to_container(state["cfg"])


def _receive_what_is_sent() -> None:
    """Let torch's loader take what fairseq puts in the place of a tensor that it sends by itself."""
    if hasattr(torch.serialization, "add_safe_globals"):  # torch 2.4
        torch.serialization.add_safe_globals([distributed_utils._TensorPlaceholder])


def _patch_model_loading() -> None:
    """The same where fairseq builds models: a file that is not there, and options that do not fit."""

    @wrapping(checkpoint_utils, "load_model_ensemble_and_task")
    def load_checked(
        load: Any, filenames: Any, arg_overrides: Any = None, task: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        asking = (arg_overrides or {}).get("task"), getattr(getattr(task, "cfg", None), "_name", None)
        for_us = any(map(_is_ours, asking))
        paths = [Path(name) for name in filenames]
        for path in paths:
            if for_us and not path.exists():
                raise SystemExit(f"error: {path}: no such checkpoint; give another --path")
            for_us = _check(path, for_us) or for_us
        if not paths:
            return load(filenames, arg_overrides, task, *args, **kwargs)
        with in_one_line(paths[0]) if for_us else _named(paths[0]):
            return load(filenames, arg_overrides, task, *args, **kwargs)


def _check(path: Path, for_us: bool) -> bool:
    """Refuse a file that is none of ours, if one of our tasks asks for it or is named by it, and one that is code.

    Returns:
        Whether it is for one of our tasks.

    Raises:
        SystemExit: it is.
        UserError: it is not, but the file is more than data, unless it is the user's wish to trust all files, or for
            fairseq to fetch it.
    """
    if not for_us:
        if not path.is_file() or os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "0") in ("1", "y", "yes", "true"):
            return False
        state = read_safely(path)
        for_us = _is_ours(_task_in(state))
        if not for_us:
            _refuse_calls(path, state)
    if for_us:
        _check_ours(path)
    return for_us


def _task_in(state: Any) -> Any:
    """Name of the task in what was read from a file, in its config or in the options of an old fairseq."""
    config, options = (state.get(key) if isinstance(state, dict) else None for key in ("cfg", "args"))
    section = config.get("task") if isinstance(config, dict) else None
    name = section.get("_name") if isinstance(section, dict) else section
    return name if _is_ours(name) else getattr(options, "task", name)


def _refuse_calls(path: Path, state: Any) -> None:
    try:
        for key in ("cfg", "args"):
            check_calls(state.get(key) if isinstance(state, dict) else None)
    except ValueError as error:
        raise UserError(f"{path}: {error}, so it was not loaded; give another file") from None


@exits_on_user_error
def _check_ours(path: Path) -> None:
    """See that a file is a checkpoint of one of our tasks, by its config alone."""
    checkpoint = read_checkpoint(path)
    if not (checkpoint.config.get("criterion") or {}).get("_name"):
        raise UserError(f"{path}: contains no criterion; give the checkpoint as it was saved")
    if checkpoint.state.get("args") is not None:  # fairseq would make a config of these, and forget the other
        raise UserError(f"{path}: has options of an old fairseq beside its config; give the checkpoint as it was saved")


@exits_on_user_error
def _complete_ecg_fm(path: Path, state: Dict[str, Any]) -> None:
    """Say, in place, what ECG-FM's checkpoints do not hold: names of labels, and how segments become a recording."""
    (state.get("extra_state") or {}).pop("metrics", None)  # its meters are not fairseq's
    for section, names in NAMES_OF_ECG_FM.items():
        chosen = (state.get("cfg") or {}).get(section)
        if isinstance(chosen, DictConfig) and str(chosen.get("_name")) in names:
            with open_dict(chosen):
                chosen["_name"] = names[chosen["_name"]]
    task = (state.get("cfg") or {}).get("task")
    if not isinstance(task, DictConfig) or task.get("_name") != "ecg_classification":
        return
    description = describe(read_checkpoint(path))
    ways = set(description.aggregation)
    with open_dict(task):
        task.setdefault("aggregate", ways.pop() if len(ways) == 1 else "ecg-fm")
    state.setdefault("task_state", {}).setdefault("sample_rate", description.preprocessing.sample_rate)
    if description.names_are_known:
        state.setdefault("task_state", {}).setdefault("label_names", list(description.label_names))


def _complete_sections(config: DictConfig) -> None:
    """Give, in place, fairseq's defaults to options that our tasks' own are links to, and that a file does not have."""
    with open_dict(config):
        for section in _LINKED:
            defaults = OmegaConf.structured(FairseqConfig.__dataclass_fields__[section].type)
            options: Any = OmegaConf.to_container(defaults, enum_to_str=True)
            given: Any = OmegaConf.to_container(config[section]) if config.get(section) else {}
            config[section] = {**options, **given}


def _drop_unknown_options(config: Any) -> None:
    """Drop, in place, options that our tasks and criterions do not have: ECG-FM's own, and another version's.

    Of a model fairseq does so itself, of a task only after 0.12.2. Sections that are not ours stay as they are.
    """
    for name, registry in _SECTIONS.items():
        section = config.get(name)
        known = registry.get(section.get("_name")) if isinstance(section, DictConfig) else None
        if section is None or known is None or not known.__module__.startswith("fairseq_signals_ext."):
            continue
        names = {option.name for option in fields(known)}
        with open_dict(section):
            for option in [option for option in section if option not in names]:
                del section[option]


class Seen(NamedTuple):
    """What a model, or the first data set of a training, has as its input.

    Attributes:
        source: the file that contains it.
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
        """What a task's state contains about its data."""
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
        "standardization": settings.standardization,
        "package_version": fairseq_signals_ext.__version__,
        "torch_version": str(torch.__version__),
        "fairseq_version": str(getattr(fairseq, "__version__", "")),
    }


def check_same_inputs(there: Optional[Seen], here: Seen, is_meant: bool) -> None:
    """See that data are given to a model as those that it learned from; what differs is reported in one line.

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
    difference = f"{here.source}: is not what {there.source} is of: {'; '.join(found)}"
    if severe and not is_meant:
        raise UserError(
            f"{difference}; prepare the data or set the task's options as there, or confirm this with ++{_OPTION}=true"
        )
    if found:
        logger.warning(difference)


def _smaller_differences(there: Preprocessing, here: Preprocessing) -> List[str]:
    found = []
    lengths = [inputs.segment_samples / inputs.sample_rate for inputs in (there, here)]
    if abs(lengths[0] - lengths[1]) > 1 / there.sample_rate:
        found.append(f"segments of {lengths[0]:g} s there and {lengths[1]:g} s here")
    absent = [lead for lead in there.loaded_leads if lead not in here.loaded_leads and lead in here.leads]
    if absent:
        found.append(f"zeros here for {','.join(absent)}")
    return found
