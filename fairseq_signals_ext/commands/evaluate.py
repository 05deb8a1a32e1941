"""Say how good fine-tuned models are: metrics with intervals, predictions, pictures, and a comparison of several.

examples:
  fairseq-signals-ext evaluate run/checkpoints/checkpoint_best.pt --data DIR/splits/S --subset test \\
      --label-file DIR/labels/L --out evaluation
  fairseq-signals-ext evaluate pretrained.pt random.pt --names pretrained random --data DIR/splits/S --subset test \\
      --label-file DIR/labels/L --out comparison --aggregate max --thresholds sensitivity=0.9 --thresholds-from valid

Leaves metrics.json, per_label.csv, predictions.parquet, segments.parquet (if recordings have several) and pictures in
OUT; for several subsets in OUT/SUBSET, for several checkpoints in OUT/NAME, with comparison.csv, .md and .png in OUT.

With --ensemble all checkpoints are one model, whose scores are the means of theirs, as of predict --ensemble:
  fairseq-signals-ext evaluate --ensemble seed1.pt seed2.pt --data DIR/splits/S --subset test --out evaluation

CKPT is a checkpoint or an export. Parts, several devices and clusters are as for predict; a part that was interrupted
is run again, and goes on.

Segments are evaluated as they are, and aggregated to recordings. Without --thresholds, those with the best F1 on the
subset valid are used, if there is a manifest of it and it is not what is evaluated; otherwise 0.5. If they are asked
to be chosen on what is evaluated, the results say so.
"""

import argparse
import logging
import warnings
from pathlib import Path
from typing import List, Optional

from fairseq_signals_ext.commands._entry import run_command
from fairseq_signals_ext.commands._metric_arguments import add_metric_arguments
from fairseq_signals_ext.commands._run_arguments import add_parts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to a parser."""
    parser.add_argument("checkpoints", metavar="CKPT", nargs="*", type=Path, help="fine-tuned model")
    parser.add_argument(
        "--ensemble",
        metavar="CKPT",
        nargs="*",
        type=Path,
        help="take all checkpoints, those named here and before, for one model; scores are means",
    )
    parser.add_argument("--data", metavar="DIR", type=Path, required=True, help="folder with the manifests")
    parser.add_argument("--subset", metavar="NAME", required=True, help="manifests to evaluate, such as test,valid")
    parser.add_argument("--label-file", metavar="FILE", type=Path, help="y.npy or its folder (default: the training's)")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="where the results go")
    parser.add_argument("--names", metavar="NAME", nargs="+", help="of the checkpoints (default: from their paths)")
    parser.add_argument("--overwrite", action="store_true", help="replace results that are there")
    parser.add_argument("--batch-size", metavar="N", type=int, default=64, help="segments (default 64)")
    parser.add_argument(
        *("--num-workers", "--jobs"),
        metavar="N",
        dest="jobs",
        type=int,
        default=0,
        help="processes that read (default 0: a thread); with --backend, parts of the run",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    parser.add_argument("--cpu", action="store_true", help="as --device cpu")
    add_parts(parser.add_argument_group("parts of a run"))
    add_metric_arguments(parser.add_argument_group("metrics"))


def run(args: argparse.Namespace) -> int:
    """Evaluate, write and print; returns the exit status.

    Raises:
        UserError: options that do not go together, results that are there already, or what `predict_subset` and
            `evaluate` raise.
    """
    # first, as importing fairseq would have every library log all it does to the terminal
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("fairseq_signals_ext").setLevel(logging.INFO)
    # of fairseq's use of torch; nothing that a user can change
    warnings.filterwarnings("ignore", module=r"torch\.(nn\.utils\.weight_norm|utils\.data)")
    args.device = "cpu" if args.cpu else args.device
    # what it takes to evaluate is imported here and nowhere else in this module, so that --help does not wait for it
    from fairseq_signals_ext.commands._evaluating import evaluate_models

    return evaluate_models(args)


def main(argv: Optional[List[str]] = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    return run_command(run, parser.parse_args(argv))
