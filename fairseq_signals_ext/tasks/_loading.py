"""Checks that fairseq lacks when it loads a checkpoint: that the file is one, and that its data match.

With another sample rate, order of leads or standardisation than in its training, an encoder gives meaningless features.
No number shows it: the training runs, and is only worse. So such data are refused unless allowed by an option. Other
lengths of segments and absent leads are possible, and only reported.
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
    """Make fairseq report a wrong file in one line, and never run code in it.

    fairseq shows torch's traceback, torch before 2.6 runs code in a pickle, and fairseq evaluates options of its own
    models as Python. A file that one of our tasks loads may only name what `checkpoints.allowed` lists. Checkpoints of
    other plugins load as before, unless such an option calls something. Calling this again is harmless.
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
    """Whether a value from a file is the name of one of our tasks."""
    return isinstance(task, str) and task in KINDS_BY_TASK


@contextlib.contextmanager
def in_one_line(source: Any) -> Iterator[None]:
    """End with one line if fairseq, torch or OmegaConf cannot use a file that was checked before."""
    try:
        with _named(source):
            yield
    except Exception as error:  # AssertionError of fairseq, own errors of the others, for wrong options
        raise SystemExit(f"{_ERROR}{source}: cannot be loaded ({first_line(error)}); give another file") from error


@contextlib.contextmanager
def _named(source: Any) -> Iterator[None]:
    """Add the file's name to the line that ends the program, if it is missing there."""
    try:
        yield
    except SystemExit as error:
        message = str(error.code)
        if str(source) in message or not message.startswith(_ERROR):
            raise
        raise SystemExit(f"{_ERROR}{source}: {message[len(_ERROR) :]}") from error


def _make_sendable(state: Dict[str, Any]) -> None:
    """Turn the config of a state into plain values, in place; the trainer sends it to all ranks without using it.

    Ranks receive it with torch's loader, which accepts only data since torch 2.6, so that no run on several ranks could
    continue.
    """
    if isinstance(state.get("cfg"), DictConfig):
        state["cfg"] = OmegaConf.to_container(state["cfg"])


def _receive_what_is_sent() -> None:
    """Let torch's loader accept fairseq's placeholder for a tensor that is sent separately."""
    if hasattr(torch.serialization, "add_safe_globals"):  # torch 2.4
        torch.serialization.add_safe_globals([distributed_utils._TensorPlaceholder])


def _patch_model_loading() -> None:
    """The same where fairseq builds models: for missing files and wrong options."""

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
    """Refuse files that contain code, and files that are not ours if one of our tasks loads them or is named in them.

    Returns:
        Whether the file is for one of our tasks.

    Raises:
        SystemExit: the file is for one of our tasks, and wrong.
        UserError: the file is for another task and contains more than data. Not raised if the user trusts all files,
            or if fairseq downloads it.
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
    """Return the task's name in the content of a file, from its config or the options of an old fairseq."""
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
    """Check from its config that a file is a checkpoint of one of our tasks."""
    checkpoint = read_checkpoint(path)
    if not (checkpoint.config.get("criterion") or {}).get("_name"):
        raise UserError(f"{path}: contains no criterion; give the checkpoint as it was saved")
    if checkpoint.state.get("args") is not None:  # fairseq would replace the config by these
        raise UserError(f"{path}: has options of an old fairseq beside its config; give the checkpoint as it was saved")


@exits_on_user_error
def _complete_ecg_fm(path: Path, state: Dict[str, Any]) -> None:
    """Add, in place, what ECG-FM's checkpoints lack: names of labels, and aggregation of segments."""
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
    """Set, in place, missing options that our tasks' options link to, to fairseq's defaults."""
    with open_dict(config):
        for section in _LINKED:
            defaults = OmegaConf.structured(FairseqConfig.__dataclass_fields__[section].type)
            options: Any = OmegaConf.to_container(defaults, enum_to_str=True)
            given: Any = OmegaConf.to_container(config[section]) if config.get(section) else {}
            config[section] = {**options, **given}


def _drop_unknown_options(config: Any) -> None:
    """Drop, in place, options that our tasks and criterions do not have: of ECG-FM, or of another version.

    fairseq does this itself for models, and after 0.12.2 for tasks. Sections that are not ours are not changed.
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


class KnownInputs(NamedTuple):
    """The kind of input of a model, or of the first data set of a training.

    Attributes:
        source: the file that defines it.
        inputs: the preprocessing.
    """

    source: str
    inputs: Preprocessing

    @classmethod
    def by(cls, checkpoint: Checkpoint) -> "KnownInputs":
        """Return the inputs that the model of a checkpoint was trained with."""
        return cls(str(checkpoint.path), preprocessing_of(checkpoint))

    @classmethod
    def of(cls, source: Any, facts: Mapping[str, Any]) -> "KnownInputs":
        """Return the inputs in a task's state."""
        values = {name: facts[name] for name in Preprocessing.__dataclass_fields__}
        leads = {name: tuple(values[name]) for name in ("leads", "loaded_leads")}
        return cls(str(source), Preprocessing(**{**values, **leads}))


def inputs_of(dataset: EcgDataset) -> Dict[str, Any]:
    """Return facts on the training data and versions: plain values for the task's state in checkpoints."""
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


def check_same_inputs(there: Optional[KnownInputs], here: KnownInputs, is_meant: bool) -> None:
    """Check that inputs are the same as in the model's training; report differences in one line.

    Args:
        there: inputs of the training; None for an untrained model.
        here: inputs now.
        is_meant: differences are allowed.

    Raises:
        UserError: sample rate, order of leads or standardisation differ.
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
