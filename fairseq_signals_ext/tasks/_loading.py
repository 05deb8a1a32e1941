"""What fairseq's loading of a checkpoint lacks: a clear refusal of what is none, and patience with ECG-FM's options."""

import functools
import os
from dataclasses import fields
from pathlib import Path
from typing import Any, Dict, Optional

import torch
from fairseq import checkpoint_utils
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.distributed import utils as distributed_utils
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from omegaconf import DictConfig, OmegaConf, open_dict

from fairseq_signals_ext.checkpoints.describing import KINDS_BY_TASK, describe
from fairseq_signals_ext.checkpoints.parameter_names import is_ecg_fm
from fairseq_signals_ext.checkpoints.reading import only_data, read_checkpoint, read_safely
from fairseq_signals_ext.errors import exits_on_user_error
from fairseq_signals_ext.tasks._freezing import leave_out_frozen

_SECTIONS = {"task": TASK_DATACLASS_REGISTRY, "criterion": CRITERION_DATACLASS_REGISTRY}


def mend_loading_of_checkpoints() -> None:
    """Make fairseq say in one line what is wrong with a file that it is to load, and never run what is in it.

    fairseq shows torch's traceback, and torch before 2.6 runs what a pickle asks for. Checkpoints of other plugins load
    as before. Calling it again is harmless.
    """
    load = checkpoint_utils.load_checkpoint_to_cpu
    if getattr(load, "refuses_clearly", False):
        return

    @functools.wraps(load)
    def load_checkpoint_to_cpu(path: str, arg_overrides: Optional[Dict[str, Any]] = None, **kwargs: Any) -> Any:
        _check(Path(path), for_us=(arg_overrides or {}).get("task") in KINDS_BY_TASK)
        with only_data():
            state = load(path, arg_overrides, **kwargs)
        _drop_unknown_options(state.get("cfg") or {})
        if is_ecg_fm(state.get("model") or {}):
            _complete_ecg_fm(Path(path), state)
        if "load_on_all_ranks" in kwargs:  # said by the trainer only
            leave_out_frozen(state)
        if kwargs.get("load_on_all_ranks") is False:  # said by the trainer only
            _make_sendable(state)
        return state

    load_checkpoint_to_cpu.refuses_clearly = True  # type: ignore[attr-defined]
    checkpoint_utils.load_checkpoint_to_cpu = load_checkpoint_to_cpu
    _mend_missing_files()
    _receive_what_is_sent()


def _make_sendable(state: Dict[str, Any]) -> None:
    """Make the config plain values, in place, of a state that the trainer, which has no use for it, sends to all ranks.

    They receive it by torch's loader, which takes nothing but data since torch 2.6, and so refused every run on several
    ranks that was to go on.
    """
    if isinstance(state.get("cfg"), DictConfig):
        state["cfg"] = OmegaConf.to_container(state["cfg"])


def _receive_what_is_sent() -> None:
    """Let torch's loader take what fairseq puts in the place of a tensor that it sends by itself."""
    if hasattr(torch.serialization, "add_safe_globals"):  # torch 2.4
        torch.serialization.add_safe_globals([distributed_utils._TensorPlaceholder])


def _mend_missing_files() -> None:
    """The same for a file that is not there, of which fairseq makes a traceback before it loads it."""
    load = checkpoint_utils.load_model_ensemble_and_task

    @functools.wraps(load)
    def load_model_ensemble_and_task(filenames: Any, arg_overrides: Any = None, *args: Any, **kwargs: Any) -> Any:
        if (arg_overrides or {}).get("task") in KINDS_BY_TASK:
            for path in map(Path, filenames):
                if not path.exists():
                    raise SystemExit(f"error: {path}: no such checkpoint; give another --path")
        return load(filenames, arg_overrides, *args, **kwargs)

    checkpoint_utils.load_model_ensemble_and_task = load_model_ensemble_and_task


def _check(path: Path, for_us: bool) -> None:
    """Refuse a file that is none of ours, if one of our commands asks for it, and one that is more than data.

    Raises:
        SystemExit: `for_us`.
        UserError: otherwise, unless it is the user's wish to trust all files, or for fairseq to fetch it.
    """
    if for_us:
        exits_on_user_error(read_checkpoint)(path)
    elif path.is_file() and os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "0") not in ("1", "y", "yes", "true"):
        read_safely(path)


@exits_on_user_error
def _complete_ecg_fm(path: Path, state: Dict[str, Any]) -> None:
    """Say, in place, what ECG-FM's checkpoints do not hold: names of labels, and how segments become a recording."""
    (state.get("extra_state") or {}).pop("metrics", None)  # its meters are not fairseq's
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
