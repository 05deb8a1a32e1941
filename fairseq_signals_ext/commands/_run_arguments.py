"""Arguments shared by the commands that run models on recordings; importing this is fast."""

import argparse
from typing import Any, Dict

from fairseq_signals_ext.common.processes import BACKENDS

TABLE_FORMATS = ("csv", "parquet")
DEFAULT_LABEL = "default: the most probable label among those that reach their threshold, or among all if none does"


def add_inputs(parser: argparse.ArgumentParser, are_needed: bool = True) -> None:
    """Add options for the recordings, and for metadata missing from files."""
    parser.add_argument(
        "inputs",
        metavar="FILE",
        nargs="+" if are_needed else "*",
        help="ECG files in any formats, folders of them, prepared folders, folders of splits, or manifests (.tsv)",
    )
    parser.add_argument("--subset", metavar="NAME", help="of a split's folder, such as test (default: all of them)")
    group = parser.add_argument_group("metadata missing from the input files")
    group.add_argument("--input-rate", metavar="HZ", type=float, help="sample rate in Hz")
    group.add_argument("--input-unit", metavar="UNIT", help="unit of the values, such as uV")
    group.add_argument("--input-leads", metavar="LEADS", help="names of the leads in their order, such as I,II,V1")


def add_model(parser: argparse.ArgumentParser, is_needed: bool = True) -> None:
    """Add options for the model and its device."""
    parser.add_argument(
        "checkpoint",
        metavar="CKPT",
        nargs=None if is_needed else "?",
        help="checkpoint, folder of an export, or hf:OWNER/REPO/FILE.pt",
    )
    group = parser.add_argument_group("model")
    group.add_argument(
        "--labels",
        metavar="LABELS",
        help="label names, if missing from the checkpoint: DIR/labels/NAME, a label_def.csv, or ecg-fm",
    )
    add_device(group)
    group.add_argument("--threads", metavar="N", type=int, help="threads on a CPU (default: one per core)")
    group.add_argument("--bf16", action="store_true", help="use bfloat16: faster on a GPU, scores differ by about 0.01")


def add_device(group: Any) -> None:
    """Add options for the device."""
    group.add_argument(
        "--device",
        metavar="NAME",
        default="auto",
        help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)",
    )


def add_jobs(group: Any, has_backend: bool = False) -> None:
    """Add the number of processes that read."""
    of_backend = "; with --backend dask or ray, parts of the run" if has_backend else ""
    group.add_argument(
        "--jobs",
        metavar="N",
        type=int,
        default=0,
        help=f"worker processes that read (-1: one per core; default 0: a thread){of_backend}",
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add options for a run on many recordings."""
    group = parser.add_argument_group("run")
    group.add_argument("--batch-size", metavar="N", type=int, default=32, help="segments per batch (default 32)")
    add_jobs(group, has_backend=True)
    add_parts(group)
    add_restart(group)


def add_restart(group: Any) -> None:
    """Add options for existing results."""
    group.add_argument("--resume", action="store_true", help="continue an interrupted run")
    group.add_argument("--overwrite", action="store_true", help="replace existing results")


def add_parts(group: Any) -> None:
    """Add options for runs in parts."""
    group.add_argument(
        "--part",
        metavar="N/OF",
        help="run one part only, such as 3/16; the part that ends last merges them all",
    )
    group.add_argument(
        "--backend",
        choices=BACKENDS,
        default="processes",
        help="processes on this machine (default), or an existing dask or ray cluster, which runs --jobs parts",
    )


def is_divided(options: argparse.Namespace) -> bool:
    """Whether a run is one part of several, or done in parts."""
    return options.part is not None or is_done_elsewhere(options)


def is_done_elsewhere(options: argparse.Namespace) -> bool:
    """Whether a run is divided over several devices or a cluster."""
    return "," in options.device or options.backend != BACKENDS[0]


def model_options(options: argparse.Namespace) -> Dict[str, Any]:
    """Options of `add_model` as arguments of `fairseq_signals_ext.load`."""
    names = ("labels", "device", "threads", "bf16")
    return {name: getattr(options, name) for name in names}
