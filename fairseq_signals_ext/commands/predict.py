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
from typing import TYPE_CHECKING, Any, Dict, Iterator, List

from fairseq_signals_ext.commands import _run_arguments as run_arguments
from fairseq_signals_ext.commands import _run_settings as run_settings
from fairseq_signals_ext.commands._finished import status_of
from fairseq_signals_ext.commands._parts import Job, run_job
from fairseq_signals_ext.common.values import counted
from fairseq_signals_ext.inference.inputs import Recordings
from fairseq_signals_ext.inference.parts import Part, SomeInputs
from fairseq_signals_ext.inference.results import REJECTED_FILE, Kept, Results

if TYPE_CHECKING:
    from fairseq_signals_ext.inference.ensemble import Ensemble, Predicted
    from fairseq_signals_ext.inference.running import RunOptions

_FORMATS = ("csv", "parquet")
_SEGMENT_COLUMNS = {"record_id": "string", "file": "string", "segment": "int64", "start": "float64"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    run_arguments.add_model(parser)
    run_arguments.add_inputs(parser)
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the results")
    parser.add_argument("--format", choices=_FORMATS, default="csv", help="format of the tables (default csv)")
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
        UserError: a model or input cannot be used, or results are there already.
    """
    return run_job(Prediction, options)


class Prediction(Job):
    """The scores of many recordings."""

    name = "predict"

    def __init__(self, options: argparse.Namespace):
        self._options = options
        self._inputs, self._how = run_settings.inputs_of(options), run_settings.run_options(options)
        self._ensemble = _ensemble(options)

    @staticmethod
    def files(options: argparse.Namespace) -> List[str]:
        """Names of the tables in all formats."""
        tables = ("predictions", "segments")
        return [*(f"{table}.{suffix}" for table in tables for suffix in _FORMATS), REJECTED_FILE]

    def settings(self) -> Dict[str, Any]:
        """All settings that change the rows."""
        names = ("labels", "bf16", "aggregate", "segments", *run_settings.METADATA_OPTIONS)
        return {
            "checkpoint": run_settings.identity([self._options.checkpoint, *self._options.ensemble]),
            "list of recordings": self._inputs.fingerprint(),
            **{name: getattr(self._options, name) for name in names},
        }

    def inputs(self, part: Part) -> int:
        """The number of recordings in a part."""
        return len(part.range_of(len(self._inputs)))

    def fill(self, results: Results, part: Part) -> Iterator[None]:
        """Add rows of recordings."""
        inputs = SomeInputs(self._inputs, part.range_of(len(self._inputs)))
        return predict_into(results, self._ensemble, inputs, self._how, self._options.segments)

    def finish(self, results: Kept) -> int:
        """Write the tables."""
        from fairseq_signals_ext.inference import many

        options, ensemble = self._options, self._ensemble
        if options.segments:
            scores = dict.fromkeys(many.score_columns(ensemble), "float64")
            results.write_table(f"segments.{options.format}", "segments", {**_SEGMENT_COLUMNS, **scores})
        name = f"predictions.{options.format}"
        number = results.write_table(name, "predictions", many.table_columns(ensemble))
        results.finish()
        print(f"{options.out / name}: {counted(number, 'recording')}")
        return status_of(options.out)


def predict_into(
    results: Results, ensemble: "Ensemble", inputs: Recordings, how: "RunOptions", segments: bool = False
) -> Iterator[None]:
    """Add predictions to results, from where these end; yields once per recording.

    Args:
        segments: also add rows of segments.
    """
    from fairseq_signals_ext.inference.reading_ahead import Rejected

    for found in ensemble.predict_all(inputs, how, results.done, results.several()):
        results.note_several(found.number, found.ecgs)
        if isinstance(found, Rejected):
            results.reject(found.name, found.reason)
        else:
            _add_rows(results, found, ensemble, segments)
        results.count(found.ends_batch)
        yield


def _ensemble(options: argparse.Namespace) -> "Ensemble":
    from fairseq_signals_ext.inference.ensemble import Ensemble, load_ensemble

    ensemble = load_ensemble([options.checkpoint, *options.ensemble], **run_arguments.model_options(options))
    if options.aggregate is None:
        return ensemble
    return Ensemble([model.aggregating(options.aggregate) for model in ensemble.models])


def _add_rows(results: Results, found: "Predicted", ensemble: "Ensemble", segments: bool) -> None:
    from fairseq_signals_ext.inference.many import score_columns, table_row

    row = table_row(ensemble, found)
    results.add("predictions", row)
    if segments:
        inputs, columns = ensemble.models[0].preprocessing, score_columns(ensemble)
        seconds = inputs.stride_samples / inputs.sample_rate
        for number, scores in enumerate(found.prediction.segment_scores.tolist()):
            place = {"record_id": row["record_id"], "file": found.name, "segment": number, "start": number * seconds}
            results.add("segments", {**place, **dict(zip(columns, scores))})
