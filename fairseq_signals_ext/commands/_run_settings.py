"""What is made of the arguments that commands share which run models over recordings, see `_run_arguments`."""

import argparse
from pathlib import Path
from typing import Any, Dict, List, Sequence

from fairseq_signals_ext.inference.inputs import Inputs, find_inputs
from fairseq_signals_ext.inference.running import RunOptions

# options that say what files do not
SAID = ("input_rate", "input_unit", "input_leads")


def inputs_of(options: argparse.Namespace) -> Inputs:
    """The recordings that `add_inputs` asked for."""
    return find_inputs(options.inputs, options.input_rate, options.input_leads, options.input_unit, options.subset)


def run_options(options: argparse.Namespace) -> RunOptions:
    """What `add_run` asked for."""
    at_once = None if options.threads is None else min(RunOptions().batches_at_once, options.threads)
    return RunOptions(options.batch_size, options.jobs, at_once)


def settings_of(options: argparse.Namespace, inputs: Inputs, names: Sequence[str]) -> Dict[str, Any]:
    """What the results of a run depend on, so that it goes on with --resume only with the same.

    Args:
        names: of the command's own options that count, beside models, inputs and how these are read.
    """
    return {
        "checkpoint": identity([options.checkpoint, *getattr(options, "ensemble", ())]),
        "list of recordings": inputs.fingerprint(),
        **{name: getattr(options, name) for name in (*names, "labels", "bf16", *SAID)},
    }


def identity(sources: Sequence[str]) -> List[Any]:
    """Which models a run is with: names, and size and time of files."""
    found = []
    for source in sources:
        facts = Path(source).stat() if Path(source).exists() else None
        found.append([source, facts and facts.st_size, facts and facts.st_mtime_ns])
    return found
