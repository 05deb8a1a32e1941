"""Read a checkpoint of fairseq, ours or ECG-FM's, without running code in it."""

import argparse
import contextlib
import pickle
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ContextManager, Dict, Mapping, Optional

import numpy as np

from fairseq_signals_ext.checkpoints.allowed import NAMES, NAMES_OF_ECG_FM, check_names
from fairseq_signals_ext.checkpoints.architecture import WAV2VEC2, check_encoder, is_ecg_fm
from fairseq_signals_ext.checkpoints.file_kinds import what_is_wrong_with
from fairseq_signals_ext.checkpoints.plain_configs import check_links, check_plain
from fairseq_signals_ext.checkpoints.sizes import check_limits, check_task, check_tensors, check_updates
from fairseq_signals_ext.common.errors import UserError, first_line
from fairseq_signals_ext.common.plugins import import_installed

# sections of a config that are read or built here
_SECTIONS = (
    *("model", "task", "criterion", "optimizer", "lr_scheduler"),
    *("common", "checkpoint", "dataset", "distributed_training", "optimization"),
)
_FIRST_CONVOLUTION = re.compile(r"(?:.*\.)?feature_extractor\.conv_layers\.0\.0\.weight$")


@dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint of fairseq.

    Attributes:
        path: of the file.
        state: all of it: `model`, `cfg`, `task_state`, `optimizer_history`, `extra_state`, ...; tensors may be mapped
            from the file, so that unused ones need no memory.
    """

    path: Path
    state: Mapping[str, Any]

    @property
    def parameters(self) -> Dict[str, Any]:
        """The model's parameters and buffers (tensors) by the file's own names; a new dict."""
        return dict(self.state["model"])

    @property
    def config(self) -> Dict[str, Any]:
        """The whole config of the training, by sections such as `model` and `task`."""
        return self.state["cfg"]

    @property
    def model_config(self) -> Dict[str, Any]:
        """Section `model` of the config, with the architecture of the parameters."""
        return with_own_architecture(self.config["model"])

    @property
    def task_config(self) -> Dict[str, Any]:
        """Section `task` of the config."""
        return self.config.get("task") or {}

    @property
    def task_state(self) -> Dict[str, Any]:
        """The task's state: label names, sample rate, thresholds, ...; empty for ECG-FM's files."""
        return self.state.get("task_state") or {}

    @property
    def updates(self) -> Optional[int]:
        """Number of updates of the training; None if unknown."""
        return (self.state.get("optimizer_history") or [{}])[-1].get("num_updates")

    @property
    def epoch(self) -> Optional[int]:
        """Epoch with which the training would continue; None if unknown."""
        return ((self.state.get("extra_state") or {}).get("train_iterator") or {}).get("epoch")


def read_checkpoint(path: Path, hint: str = "give another file", to_build: bool = True) -> Checkpoint:
    """Read a checkpoint, with tensors mapped from the file if torch can do this.

    Args:
        hint: for messages: what to do if the file cannot be used.
        to_build: a model may be built from it, so it may only contain permitted names (see `allowed`); False: it is
            only inspected.

    Raises:
        UserError: the file is missing, damaged, not a checkpoint with its config, or from fairseq's audio wav2vec 2.0;
            it contains objects that are not data (these are not created), or impossible values or sizes; or `to_build`
            and it contains names that are not permitted.
    """
    import_installed()
    state = read_safely(path, hint)
    problem = _what_is_wrong(state)
    if problem:
        raise UserError(f"{path}: {problem}; {hint}")
    return checked(Checkpoint(path, state), hint, to_build)


def checked(checkpoint: Checkpoint, hint: str = "give another file", to_build: bool = True) -> Checkpoint:
    """Check the config, parameters and other parts of a checkpoint, and return it.

    Args:
        checkpoint: `model`, `cfg` and the section `model` of `cfg` are dictionaries.
        hint, to_build: as for `read_checkpoint`.

    Raises:
        UserError: a part is wrong; one line.
    """
    try:
        _check(checkpoint, to_build)
    except ValueError as error:
        raise UserError(f"{checkpoint.path}: {error}; {hint}") from None
    return _by_our_names(checkpoint) if to_build else checkpoint


def _check(checkpoint: Checkpoint, to_build: bool) -> None:
    _check_kinds(checkpoint.state)
    check_tensors(checkpoint.state)
    check_plain(checkpoint.config)
    check_plain(checkpoint.task_state)
    model = checkpoint.model_config
    check_limits(model)
    check_task(checkpoint.task_config)
    check_updates(checkpoint.updates)
    if to_build:
        check_links(checkpoint.config)
        check_names(_by_our_names(checkpoint).config)
    name = str(_by_our_names(checkpoint).config["model"].get("_name"))
    if name in NAMES["model"]:
        size = checkpoint.path.stat().st_size if checkpoint.path.is_file() else _size_of(checkpoint)
        check_encoder({**model, "_name": name}, checkpoint.parameters, size)


def _check_kinds(state: Mapping[str, Any]) -> None:
    """Check that the parts of a checkpoint have the types that fairseq gives them."""
    config, history, extra = state["cfg"], state.get("optimizer_history"), state.get("extra_state")
    parts = {f"cfg.{section}": config.get(section) for section in _SECTIONS}
    parts.update(task_state=state.get("task_state"), extra_state=extra)
    if isinstance(extra, dict):
        parts["extra_state.train_iterator"] = extra.get("train_iterator")
    if history:
        parts["optimizer_history[-1]"] = history[-1] if isinstance(history, list) else history
    for name, part in parts.items():
        if part is not None and not isinstance(part, dict):
            raise ValueError(f"its {name} is of type {type(part).__name__}, not a dictionary")


def _size_of(checkpoint: Checkpoint) -> int:
    """Return the bytes of the parameters of a checkpoint that is not in a file."""
    return sum(value.numel() * value.element_size() for value in checkpoint.parameters.values())


def _by_our_names(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint with our names, if ECG-FM's framework wrote it with other names."""
    config = dict(checkpoint.config)
    if is_ecg_fm(checkpoint.parameters):
        for section, names in NAMES_OF_ECG_FM.items():
            chosen = config.get(section) or {}
            ours = names.get(str(chosen.get("_name")))
            if ours:
                config[section] = {**chosen, "_name": ours}
    return Checkpoint(checkpoint.path, {**checkpoint.state, "cfg": config})


def with_own_architecture(model: Mapping[str, Any]) -> Dict[str, Any]:
    """Return a model's config with the architecture of its pretrained encoder.

    ECG-FM's fine-tuned models are built from their pretrained file: its config, in `args`, determines the architecture.
    """
    pretrained = (model.get("args") or {}).get("model") if isinstance(model.get("args"), Mapping) else None
    taken = {key: pretrained[key] for key in WAV2VEC2.options if key in pretrained} if pretrained else {}
    return {key: value for key, value in {**model, **taken}.items() if key != "args"}


def only_data() -> ContextManager[None]:
    """Within this context, torch's safe loader also accepts numpy's numbers and `Namespace`, which are only data.

    ECG-FM's training and older versions of fairseq may save these in their logs.
    """
    from torch import serialization

    if not hasattr(serialization, "safe_globals"):
        return contextlib.nullcontext()
    numpy_core = getattr(np, "_core", None) or np.core
    numbers = [type(np.dtype(kind)) for kind in ("float64", "float32", "float16", "int64", "int32", "uint8", "bool")]
    scalar = numpy_core.multiarray.scalar
    # the module's name in a file depends on the version of numpy
    names = [(scalar, f"numpy.{module}.multiarray.scalar") for module in ("core", "_core")]
    return serialization.safe_globals([*names, np.dtype, *numbers, argparse.Namespace])


def read_safely(path: Path, hint: str = "give another file") -> Any:
    """Read a file of `torch.save` if it contains only data.

    Raises:
        UserError: the file is missing, damaged, or contains objects that are not data (these are not created).
    """
    import torch

    if path.is_dir():
        raise UserError(f"{path}: is a folder; give a file in it, such as checkpoints/checkpoint_best.pt")
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; {hint}")
    problem = what_is_wrong_with(path)
    if problem:
        raise UserError(f"{path}: {problem}")
    try:
        with only_data(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            try:
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except (RuntimeError, TypeError, ValueError):  # an old format, or an old torch, does not support mapping
                return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: {_foreign(str(error))}; {hint}") from None
    except Exception as error:  # torch raises many types for a damaged file
        raise UserError(f"{path}: not a checkpoint ({first_line(error, 120)}); {hint}") from None


def _foreign(message: str) -> str:
    """Return one line on a pickle that torch refused, from torch's message."""
    found = re.search(r"(?:GLOBAL|Unsupported class) ([\w.]+)", message)  # the second: torch before 2.5
    if found is None:
        return "not a checkpoint, but a pickle that torch did not write and that could run code, so it was not loaded"
    return f"holds more than data ({found.group(1)}), which could run code, so it was not loaded"


def _what_is_wrong(state: Any) -> Optional[str]:
    """Return why this is not a checkpoint of an ECG model; None if it is one."""
    from torch import Tensor

    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        return (
            "not a checkpoint of fairseq or ECG-FM (it has no 'model' with its config; parameters alone are not enough)"
        )
    parameters, config = state["model"], state.get("cfg")
    if not parameters or not all(isinstance(value, Tensor) for value in parameters.values()):
        return "not a checkpoint of fairseq or ECG-FM (its 'model' is not made of tensors)"
    if _is_audio(parameters, config):
        return "is fairseq's audio wav2vec 2.0, whose input is one channel of sound, not an ECG model"
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        return "not a checkpoint of ECG-FM or of this package (it has no config 'cfg' with its model)"
    return None


def _is_audio(parameters: Dict[str, Any], config: Any) -> bool:
    first = next((value for name, value in parameters.items() if _FIRST_CONVOLUTION.match(name)), None)
    model = config.get("model") if isinstance(config, dict) else None
    return first is not None and first.shape[1] == 1 and not (isinstance(model, dict) and model.get("in_d") == 1)
