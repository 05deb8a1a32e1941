"""Arguments that the commands share which run models over recordings."""

import argparse
from pathlib import Path
from typing import Any, Dict, List, Sequence

from fairseq_signals_ext.commands._parts import add_parts
from fairseq_signals_ext.inference.inputs import Inputs, find_inputs
from fairseq_signals_ext.inference.running import RunOptions

# options that say what files do not
SAID = ("input_rate", "input_unit", "input_leads")


def add_inputs(parser: argparse.ArgumentParser, are_needed: bool = True) -> None:
    """What is run, and how files are read that do not say all."""
    parser.add_argument(
        "inputs",
        metavar="FILE",
        nargs="+" if are_needed else "*",
        help="ECG files of any mixture of formats, folders of such, prepared folders, or manifests (.tsv)",
    )
    group = parser.add_argument_group("files that do not say it")
    group.add_argument("--input-rate", metavar="HZ", type=float, help="sample rate")
    group.add_argument("--input-unit", metavar="UNIT", help="unit such as uV")
    group.add_argument("--input-leads", metavar="LEADS", help="leads such as I,II,V1")


def add_model(parser: argparse.ArgumentParser, is_needed: bool = True) -> None:
    """Which model, and on what it runs."""
    parser.add_argument(
        "checkpoint",
        metavar="CKPT",
        nargs=None if is_needed else "?",
        help="checkpoint, folder of an export, or hf:OWNER/REPO/FILE.pt",
    )
    group = parser.add_argument_group("model")
    group.add_argument(
        "--labels",
        metavar="FILE",
        help="label_def.csv, or ecg-fm, if the checkpoint does not hold its label names",
    )
    group.add_argument(
        "--device",
        default="auto",
        help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)",
    )
    group.add_argument("--threads", metavar="N", type=int, help="on a CPU (default: one a core)")
    group.add_argument("--bf16", action="store_true", help="bfloat16: faster on a GPU, scores differ by about 0.01")


def add_run(parser: argparse.ArgumentParser) -> None:
    """How a run over many recordings is done."""
    group = parser.add_argument_group("run")
    group.add_argument("--batch-size", metavar="N", type=int, default=32, help="segments in a batch (default 32)")
    group.add_argument("--jobs", metavar="N", type=int, default=0, help="processes that read (default 0: a thread)")
    add_parts(group)
    add_restart(group)


def add_restart(group: Any) -> None:
    """What is done with results that are there."""
    group.add_argument("--resume", action="store_true", help="go on with a run that was interrupted")
    group.add_argument("--overwrite", action="store_true", help="replace results that are there")


def inputs_of(options: argparse.Namespace) -> Inputs:
    """The recordings that `add_inputs` asked for."""
    return find_inputs(options.inputs, options.input_rate, options.input_leads, options.input_unit)


def model_options(options: argparse.Namespace) -> Dict[str, Any]:
    """What `add_model` asked for, as `fairseq_signals_ext.load` takes it."""
    names = ("labels", "device", "threads", "bf16")
    return {name: getattr(options, name) for name in names}


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
