"""Predict labels for ECG files in any format, or values of a regression.

examples:
  fairseq-signals-ext predict run/checkpoints/checkpoint_best.pt ecg.dcm \\
      records/*.hea --out results
  fairseq-signals-ext predict mimic_iv_ecg_finetuned.pt data/all.tsv \\
      --out results --format parquet --jobs 4
  fairseq-signals-ext predict seed1.pt folder/ --ensemble seed2.pt seed3.pt \\
      --out results
  fairseq-signals-ext predict model-onnx exports/*.npy --input-rate 500 \\
      --input-unit uV --out results

Recordings are resampled, their leads ordered by name, standardised and cut into
segments as in the model's training. All segments of a recording are used; their
scores are aggregated per label as the checkpoint specifies. Writes to OUT:

  predictions.csv  (or .parquet) one row per recording: record id, file; idx,
                   source and source file in a prepared folder; patient and
                   start time, where they are known; seconds, sample rate,
                   segments, missing leads (the model gets zeros), quality
                   flags, and seconds of calibration pulse or padding cut off at
                   its start and end; then the probability of each label, and
                   whether it reaches the checkpoint's threshold, if there is
                   one. Patients' ids are personal data: share the table only
                   with permission. With a softmax criterion, the most probable
                   class is positive. If a file contains several ECGs, FILE is
                   the first; rows for FILE#2 and so on follow after all files.
                   FILE#2 as an input is this ECG only. For a calibrated model
                   also calibrated_LABEL, decision_LABEL (positive, negative or
                   uncertain), refused (why the prediction is not reliable;
                   empty if it is not refused) and refusal_score.
  segments.csv     (or .parquet) with --segments: one row per segment, with its
                   start in s
  rejected.csv     files that could not be used, with the reason

The exit status is 1 if a file was rejected. --resume continues an interrupted
run.

A scheduler such as a slurm array or make -j can run a job in parts: --part 1/16
to --part 16/16 with the same other options and the same OUT. Each part can be
resumed, too. The part that ends last merges all; the files are byte for byte
the same as from a single run, and its exit status is that of the whole run.
--device cuda:0,cuda:1 divides a run among the GPUs of this machine, --backend
dask or ray with --jobs 16 among the workers of an existing cluster; give
absolute paths then. Other processors, or another OMP_NUM_THREADS, change the
last digit of scores: dask's workers use 1 thread by default.
"""

import argparse
from pathlib import Path

from fairseq_signals_ext.commands import _run_arguments as run_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    run_arguments.add_model(parser)
    run_arguments.add_inputs(parser)
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the results")
    parser.add_argument(
        "--format", choices=run_arguments.TABLE_FORMATS, default="csv", help="format of the tables (default csv)"
    )
    parser.add_argument("--segments", action="store_true", help="also write the scores of segments")
    parser.add_argument(
        "--ensemble",
        metavar="CKPT",
        nargs="+",
        default=[],
        help="further models, given after FILE; scores are means over all models",
    )
    parser.add_argument(
        "--aggregate",
        choices=("mean", "max", "ecg-fm"),
        help="how segment scores are combined per recording; ecg-fm: max for five of its labels, mean for others "
        "(default: as in the checkpoint)",
    )
    run_arguments.add_run(parser)


def run(options: argparse.Namespace) -> int:
    """Predict, write and print a summary; returns the exit status.

    Raises:
        UserError: a model or input cannot be used, or results exist already.
    """
    # imported here, so that --help is fast
    from fairseq_signals_ext.commands._parts import run_job
    from fairseq_signals_ext.commands._predicting import Prediction

    return run_job(Prediction, options)
