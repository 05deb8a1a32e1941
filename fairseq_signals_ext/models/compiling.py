"""Compiling the parts of a model whose shapes stay the same (torch.compile)."""

import os
import shutil
import sys
import sysconfig
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ContextManager, Iterator

import torch
from torch import nn

from fairseq_signals_ext.errors import UserError


def compile_parts(model: Any) -> None:
    """Compile the convolutions, each layer of the transformer by itself, and the quantizer; a second call does nothing.

    One layer's code serves for all of them, and layers may be dropped. Parameters keep their names. A batch of another
    size, as the last one of an epoch, is compiled for as well.

    Raises:
        UserError: there is no C++ compiler, or Python's headers are missing.
    """
    check_compiler()
    model = getattr(model, "encoder", model) if not hasattr(model, "feature_extractor") else model  # of a classifier
    if not hasattr(model, "feature_extractor"):
        raise UserError("model.compile is for ECG-FM's encoder; set model.compile=false")
    for part in _parts_of_one_shape(model):
        if part._compiled_call_impl is None:
            part.compile(dynamic=False)
    # the number of masked frames differs from batch to batch
    if model.quantizer is not None and model.quantizer._compiled_call_impl is None:
        model.quantizer.compile()


def _parts_of_one_shape(model: Any) -> Iterator[nn.Module]:
    yield model.feature_extractor
    if not model.cfg.fft_pos_conv:  # torch compiles no complex numbers
        yield model.encoder.pos_conv
    yield from model.encoder.layers


def without_compiling(model: Any) -> ContextManager[Any]:
    """For validation: so few batches are not worth code for two more sizes, of which torch keeps only some."""
    # torch's compiler takes seconds to import
    if not getattr(model.cfg, "compile", False) or not hasattr(torch.compiler, "set_stance"):
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def check_compiler() -> None:
    """Raise a `UserError` unless torch.compile will find what it needs."""
    compiler = os.environ.get("CXX") or {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    if not shutil.which(compiler):
        raise UserError(
            f"model.compile needs a C++ compiler, and there is no {compiler}: install it (apt install g++), "
            f"name another in the variable CXX, or set model.compile=false"
        )
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        raise UserError(
            "model.compile needs Python's headers, and Python.h is not there: install them "
            "(apt install python3-dev), or set model.compile=false"
        )
