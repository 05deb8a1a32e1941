"""Draw the loss curve of a training from fairseq's log.

example:
  fairseq-signals-ext curve run --out loss.png

run is the hydra.run.dir of fairseq-hydra-train.
"""

import argparse
from pathlib import Path

from fairseq_signals_ext.evaluation.training_curve import draw_curve, log_file, read_log


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("log", metavar="RUN", type=Path, help="folder of the run, or its hydra_train.log")
    parser.add_argument(
        "--out", metavar="FILE", type=Path, default=Path("loss.png"), help="picture, .png or .svg (default loss.png)"
    )


def run(options: argparse.Namespace) -> int:
    """Draw the curve and print its file name; returns the exit status."""
    curves = read_log(options.log)
    draw_curve(curves, options.out)
    if curves.is_per_epoch:
        hint = "for more points, train with a smaller common.log_interval"
        print(f"{log_file(options.log)}: has only the mean of each epoch; {hint}")
    print(options.out)
    return 0
