"""What is made of the arguments that commands share which run models over recordings, see `_run_arguments`."""

import argparse
from pathlib import Path
from typing import Any, Dict, List, Sequence

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.inference.inputs import Inputs, find_inputs
from fairseq_signals_ext.inference.running import RunOptions, cores

_MODELS = (".pt", ".onnx", ".safetensors", ".json")
# options that say what files do not
METADATA_OPTIONS = ("input_rate", "input_unit", "input_leads")


def inputs_of(options: argparse.Namespace) -> Inputs:
    """The recordings that `add_inputs` asked for.

    Raises:
        UserError: see `find_inputs`, or the model is among them.
    """
    _check_order(options)
    return find_inputs(options.inputs, options.input_rate, options.input_leads, options.input_unit, options.subset)


def _check_order(options: argparse.Namespace) -> None:
    """Raise a `UserError` where an ECG is given first, and then the checkpoint."""
    first, model = Path(options.checkpoint or ""), next((one for one in options.inputs if one.endswith(".pt")), None)
    if model is not None and first.is_file() and first.suffix not in _MODELS:
        command = f"{options.command} {model} {first}"
        raise UserError(f"{first}: is in the place of the model; give the checkpoint first: {command} ...")


def run_options(options: argparse.Namespace) -> RunOptions:
    """What `add_run` asked for."""
    at_once = None if options.threads is None else min(RunOptions().batches_at_once, options.threads)
    return RunOptions(options.batch_size, worker_processes(options), at_once)


def worker_processes(options: argparse.Namespace) -> int:
    """The number that `--jobs` stands for; 0: none."""
    return cores() if options.jobs == -1 else int(options.jobs)


def settings_of(options: argparse.Namespace, inputs: Inputs, names: Sequence[str]) -> Dict[str, Any]:
    """What the results of a run depend on, so that it continues with --resume only with the same.

    Args:
        names: of the command's own options that count, beside models, inputs and how these are read.
    """
    return {
        "checkpoint": identity([options.checkpoint, *getattr(options, "ensemble", ())]),
        "list of recordings": inputs.fingerprint(),
        **{name: getattr(options, name) for name in (*names, "labels", "bf16", *METADATA_OPTIONS)},
    }


def identity(sources: Sequence[str]) -> List[Any]:
    """Which models a run is with: names, and size and time of files."""
    found = []
    for source in sources:
        facts = Path(source).stat() if Path(source).exists() else None
        found.append([source, facts and facts.st_size, facts and facts.st_mtime_ns])
    return found
