"""Arguments that the commands share which run models over recordings; importing this is light."""

import argparse
from typing import Any, Dict

from fairseq_signals_ext.common.processes import BACKENDS


def add_inputs(parser: argparse.ArgumentParser, are_needed: bool = True) -> None:
    """What is run, and how files are read that do not say all."""
    parser.add_argument(
        "inputs",
        metavar="FILE",
        nargs="+" if are_needed else "*",
        help="ECG files of any mixture of formats, folders of such, prepared folders, folders of splits, or manifests",
    )
    parser.add_argument("--subset", metavar="NAME", help="of a split's folder, such as test (default: all of them)")
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


def add_parts(group: Any) -> None:
    """What of a run is done, and where."""
    group.add_argument(
        "--part",
        metavar="N/OF",
        help="do one part of the run, such as 3/16; the one that is done last merges the parts",
    )
    group.add_argument(
        "--backend",
        choices=BACKENDS,
        default="processes",
        help="dask, ray: an existing cluster does the run, in as many parts as --jobs (default processes)",
    )


def is_divided(options: argparse.Namespace) -> bool:
    """Whether a run is one part of several, or done in parts."""
    return options.part is not None or is_done_elsewhere(options)


def is_done_elsewhere(options: argparse.Namespace) -> bool:
    """Whether a run is done in parts, by several devices or a cluster."""
    return "," in options.device or options.backend != BACKENDS[0]


def model_options(options: argparse.Namespace) -> Dict[str, Any]:
    """What `add_model` asked for, as `fairseq_signals_ext.load` takes it."""
    names = ("labels", "device", "threads", "bf16")
    return {name: getattr(options, name) for name in names}
