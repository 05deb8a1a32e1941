"""Use of the arguments that commands share, see `_run_arguments`: inputs, options and settings of a run."""

import argparse
from pathlib import Path
from typing import Any, Dict, List, Sequence

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.inference.inputs import Inputs, find_inputs
from fairseq_signals_ext.inference.running import RunOptions, cores

_MODELS = (".pt", ".onnx", ".safetensors", ".json")
# options for metadata missing from files
METADATA_OPTIONS = ("input_rate", "input_unit", "input_leads")


def inputs_of(options: argparse.Namespace) -> Inputs:
    """Find the recordings given by the options of `add_inputs`.

    Raises:
        UserError: see `find_inputs`, or the model is among the inputs.
    """
    _check_order(options)
    return find_inputs(options.inputs, options.input_rate, options.input_leads, options.input_unit, options.subset)


def _check_order(options: argparse.Namespace) -> None:
    """Raise a `UserError` if an ECG is given before the checkpoint."""
    first, model = Path(options.checkpoint or ""), next((one for one in options.inputs if one.endswith(".pt")), None)
    if model is not None and first.is_file() and first.suffix not in _MODELS:
        command = f"{options.command} {model} {first}"
        raise UserError(f"{first}: is in the place of the model; give the checkpoint first: {command} ...")


def run_options(options: argparse.Namespace) -> RunOptions:
    """Options of `add_run` as `RunOptions`."""
    at_once = None if options.threads is None else min(RunOptions().batches_at_once, options.threads)
    return RunOptions(options.batch_size, worker_processes(options), at_once)


def worker_processes(options: argparse.Namespace) -> int:
    """The number of worker processes given by `--jobs`; 0: none."""
    return cores() if options.jobs == -1 else int(options.jobs)


def settings_of(options: argparse.Namespace, inputs: Inputs, names: Sequence[str]) -> Dict[str, Any]:
    """Settings that change the results of a run; --resume continues only with equal settings.

    Args:
        names: the command's own options that change results, beside models, inputs and their metadata.
    """
    return {
        "checkpoint": identity([options.checkpoint, *getattr(options, "ensemble", ())]),
        "list of recordings": inputs.fingerprint(),
        **{name: getattr(options, name) for name in (*names, "labels", "bf16", *METADATA_OPTIONS)},
    }


def identity(sources: Sequence[str]) -> List[Any]:
    """Identify the models of a run: names, and sizes and times of files."""
    found = []
    for source in sources:
        facts = Path(source).stat() if Path(source).exists() else None
        found.append([source, facts and facts.st_size, facts and facts.st_mtime_ns])
    return found
