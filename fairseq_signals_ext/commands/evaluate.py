"""Evaluate fine-tuned models: metrics with intervals, predictions and plots.

examples:
  fairseq-signals-ext evaluate run/checkpoints/checkpoint_best.pt \\
      --data DIR/splits/S --subset test --labels DIR/labels/L --out evaluation
  fairseq-signals-ext evaluate pretrained.pt random.pt \\
      --names pretrained random --data DIR/splits/S --subset test \\
      --labels DIR/labels/L --out comparison --aggregate max \\
      --thresholds sensitivity=0.9 --thresholds-from valid
  fairseq-signals-ext evaluate --ensemble seed1.pt seed2.pt \\
      --data DIR/splits/S --subset test --out evaluation

Writes metrics.json, per_label.csv, predictions.parquet, segments.parquet (if
recordings have several segments) and plots to OUT; for several subsets to
OUT/SUBSET; for several checkpoints to OUT/NAME, with a comparison of them in
OUT/comparison.csv, .md and .png.

With --ensemble, all checkpoints are one model with the means of their scores,
as in predict --ensemble.

With --selective also selective.csv, risk_coverage.csv and selective.png: the
error rates of a calibrated model's decisions, also by group of patients, and
the quality of its probabilities before and after calibration.

CKPT is a checkpoint or an export. Parts of a run, several devices and clusters
work as in predict. If a part is interrupted, run it again; it continues.

Metrics are computed on segments and on recordings, whose scores are aggregated
from their segments. Without --thresholds, the thresholds with the best F1 on
the subset valid are used, if its manifest exists and valid itself is not
evaluated; otherwise 0.5. The results state if thresholds were chosen on the
data that are evaluated.
"""

import argparse
import logging
import warnings
from pathlib import Path
from typing import List, Optional

from fairseq_signals_ext.commands._entry import run_command
from fairseq_signals_ext.commands._metric_arguments import add_metric_arguments
from fairseq_signals_ext.commands._run_arguments import add_device, add_jobs, add_parts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to a parser."""
    parser.usage = "%(prog)s CKPT [CKPT ...] --data DIR --subset NAME\n           --out DIR [options]"
    parser.add_argument("checkpoints", metavar="CKPT", nargs="*", type=Path, help="fine-tuned model")
    parser.add_argument(
        "--ensemble",
        metavar="CKPT",
        nargs="*",
        type=Path,
        help="use all checkpoints, named here or before, as one model; scores are means",
    )
    parser.add_argument("--data", metavar="DIR", type=Path, required=True, help="split, a folder with manifests")
    parser.add_argument("--subset", metavar="NAME", required=True, help="manifests to evaluate on, such as test,valid")
    parser.add_argument(
        "--labels", metavar="DIR", type=Path, help="DIR/labels/NAME, or a y.npy (default: as in the training)"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the results")
    parser.add_argument(
        "--names", metavar="NAME", nargs="+", help="names of the checkpoints (default: from their paths)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing results")
    parser.add_argument("--batch-size", metavar="N", type=int, default=64, help="segments per batch (default 64)")
    parser.add_argument(
        "--selective", action="store_true", help="evaluate the decisions and refusals of a calibrated model, too"
    )
    add_jobs(parser, has_backend=True)
    add_device(parser)
    add_parts(parser.add_argument_group("parts of a run"))
    add_metric_arguments(parser.add_argument_group("metrics"))


def run(args: argparse.Namespace) -> int:
    """Evaluate, write and print; returns the exit status.

    Raises:
        UserError: options do not fit together, or results exist already; see also `predict_subset` and `evaluate`.
    """
    # first, because importing fairseq would make every library log to the terminal
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("fairseq_signals_ext").setLevel(logging.INFO)
    # these come from fairseq's use of torch; a user cannot change them
    warnings.filterwarnings("ignore", module=r"torch\.(nn\.utils\.weight_norm|utils\.data)")
    # imported here, so that --help is fast
    from fairseq_signals_ext.commands._evaluating import evaluate_models

    return evaluate_models(args)


def main(argv: Optional[List[str]] = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    return run_command(run, parser.parse_args(argv))
