"""Calibrate a fine-tuned model: calibrated probabilities, decisions with limited
error rates, and refusal of recordings unlike the ECGs of its training.

examples:
  fairseq-signals-ext calibrate run/checkpoints/checkpoint_best.pt \\
      --data DIR/splits/S --subset valid --labels DIR/labels/L \\
      --miss 0.05 --false-alarm 0.10 --out calibrated.pt
  fairseq-signals-ext predict calibrated.pt ecg.dcm --out results
  fairseq-signals-ext export calibrated.pt --to onnx --out model

OUT is a copy of CKPT that works in predict, report, serve, evaluate
--selective and export. For each label they show a calibrated probability, and
whether it is positive, negative or uncertain.

--miss 0.05: at most 5 % of the patients with a label are called negative, on
average over all calibrations, if new patients resemble those of the subset.
--false-alarm: the same for patients without the label who are called positive.
A label is always uncertain if fewer than 30 patients have it or lack it.

Choose a subset that the model was not trained on. For another hospital,
calibrate again on some of its own recordings; about 200 already help.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, List, Sequence

from fairseq_signals_ext.commands._run_arguments import add_device, add_jobs
from fairseq_signals_ext.common.errors import UserError

if TYPE_CHECKING:
    from fairseq_signals_ext.evaluation.decisions import Calibration


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("checkpoint", metavar="CKPT", type=Path, help="fine-tuned model")
    parser.add_argument("--data", metavar="DIR", type=Path, required=True, help="split, a folder with manifests")
    parser.add_argument("--subset", metavar="NAME", default="valid", help="manifest to calibrate on (default valid)")
    parser.add_argument(
        "--labels", metavar="DIR", type=Path, help="DIR/labels/NAME, or a y.npy (default: as in the training)"
    )
    parser.add_argument(
        "--miss", metavar="X", type=float, default=0.05, help="share of positives that may be missed (default 0.05)"
    )
    parser.add_argument(
        "--false-alarm",
        metavar="X",
        type=float,
        default=0.10,
        help="share of negatives that may be called positive (default 0.10)",
    )
    parser.add_argument(
        "--refuse",
        metavar="X",
        type=float,
        default=0.02,
        help="share of recordings like these that may be refused; 0: never refuse (default 0.02)",
    )
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    group = parser.add_argument_group("run")
    group.add_argument("--batch-size", metavar="N", type=int, default=32, help="segments per batch (default 32)")
    group.add_argument(
        "--seed", metavar="N", type=int, default=1, help="which recording of a patient counts (default 1)"
    )
    add_jobs(group)
    add_device(group)


def run(options: argparse.Namespace) -> int:
    """Calibrate, write and print a summary; returns the exit status.

    Raises:
        UserError: an option cannot be used, or see `calibrate`.
    """
    _check(options)
    # imported here, so that --help is fast
    from fairseq_signals_ext.commands._run_settings import worker_processes
    from fairseq_signals_ext.evaluation.calibrating import Wanted
    from fairseq_signals_ext.inference import calibrating
    from fairseq_signals_ext.inference.loading import is_export, load_model
    from fairseq_signals_ext.inference.running import RunOptions

    if is_export(options.checkpoint):
        raise UserError(f"{options.checkpoint}: is an export; calibrate the checkpoint, then export that")
    model = load_model(options.checkpoint, device=options.device)
    asked = calibrating.CalibrationOptions(
        data=options.data,
        subset=options.subset,
        label_file=None if options.labels is None else str(options.labels),
        wanted=Wanted(options.miss, options.false_alarm, options.seed),
        refuse=options.refuse,
        how=RunOptions(options.batch_size, worker_processes(options)),
    )
    found, predictions = calibrating.calibrate(model, asked)
    calibrating.write_calibrated(options.checkpoint, model, predictions.label_names, found, options.out)
    print("\n".join([*_summary(predictions.label_names, found), str(options.out)]))
    return 0


def _check(options: argparse.Namespace) -> None:
    for name in ("miss", "false_alarm", "refuse"):
        value = getattr(options, name)
        if not 0 <= value < 0.5:
            raise UserError(f"--{name.replace('_', '-')} {value:g}: give a share from 0 to below 0.5")
    if options.out.is_dir():
        raise UserError(f"{options.out}: is a folder; give the name of a file")
    if options.out.exists() and not options.overwrite:
        raise UserError(f"{options.out}: is there already; give another file, or --overwrite")


def _summary(names: Sequence[str], found: "Calibration") -> List[str]:
    """Lines for a table of labels and a note on refusal."""
    from fairseq_signals_ext.evaluation.text import aligned

    rows = [["label", "patients with", "without", "probability by", "negative below", "positive from"]]
    for name, one in zip(names, found.labels):
        ends = ["never" if value is None else f"{value:.4f}" for value in (one.low, one.high)]
        rows.append([name, str(one.positives), str(one.negatives), one.method, *ends])
    lines = aligned(rows)
    if found.refusal is not None:
        flags = ", ".join(found.refusal.flags) or "none"
        lines.append(f"refuses at most {found.refusal.share:.1%} of recordings like these, and all with flags {flags}")
    return lines
