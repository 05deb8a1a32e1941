"""Write a page on each ECG: the ECG, predictions, and where the model looked.

examples:
  fairseq-signals-ext report run/checkpoints/checkpoint_best.pt ecg.dcm \\
      records/*.hea --out reports
  fairseq-signals-ext report mimic_iv_ecg_finetuned.pt ecg.xml --labels ecg-fm \\
      --anonymous --out reports
  fairseq-signals-ext report checkpoint_best.pt ecg.dcm --saliency gradient \\
      --label "Atrial fibrillation" --out reports
  fairseq-signals-ext report seed1.pt folder/ --ensemble seed2.pt seed3.pt \\
      --index embeddings/ --calibration evaluation/metrics.json --out reports

Writes to OUT NAME.html for each recording, which opens in any browser without a
network; and rejected.csv with the files that could not be used. The exit status
is 1 if there are any. With --anonymous, pages are named report-1.html and so
on, in the order of the files, and contain nothing that identifies the patient.

Printed, a page is one A4 sheet with the ECG at 25 mm/s and 10 mm/mV; print at
100 %. Tall complexes can overlap the next row, as on the paper of an ECG
machine. If there are many labels, only the positive and the most probable ones
are printed; the screen shows all. For a model without labels (pretrained only),
the page shows the ECG, where the model looked, and the nearest known
recordings.

For research use only; not a medical device.
"""

import argparse
import warnings
from pathlib import Path
from typing import Any, Dict, List, Sequence

from fairseq_signals_ext.analysis.neighbours import open_index
from fairseq_signals_ext.commands import _run_arguments as run_arguments
from fairseq_signals_ext.commands import _run_settings as run_settings
from fairseq_signals_ext.commands._entry import distinct_names, stem_of
from fairseq_signals_ext.commands._finished import finished_status, note_finished, status_of
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import check_free, only_one
from fairseq_signals_ext.common.values import counted
from fairseq_signals_ext.inference.ensemble import load_ensemble
from fairseq_signals_ext.inference.inputs import Inputs
from fairseq_signals_ext.inference.loading import load_model
from fairseq_signals_ext.inference.one_by_one import do_each
from fairseq_signals_ext.inference.reading_ahead import ReadRecording
from fairseq_signals_ext.inference.results import Results, check_results
from fairseq_signals_ext.pages.calibration import read_calibration
from fairseq_signals_ext.pages.recording_report import report_page
from fairseq_signals_ext.pages.rendering import write_page
from fairseq_signals_ext.pages.report_findings import AnyModel, ReportOptions, check_options, find

_NO_SALIENCY = "none"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    run_arguments.add_model(parser)
    run_arguments.add_inputs(parser)
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the pages")
    run_arguments.add_restart(parser)
    parser.add_argument("--anonymous", action="store_true", help="leave out everything that identifies the patient")
    parser.add_argument(
        "--saliency",
        metavar="METHOD",
        default="attention",
        help="attention, rollout, gradient or another method of explain, or none (default attention)",
    )
    parser.add_argument("--layer", metavar="N", type=int, help="layer for attention and rollout (default: the last)")
    parser.add_argument(
        "--label",
        metavar="NAME",
        help=f"label to explain with --saliency gradient ({run_arguments.DEFAULT_LABEL})",
    )
    parser.add_argument(
        "--index", metavar="DIR", type=Path, help="embeddings of known recordings, made with this model"
    )
    parser.add_argument(
        "--neighbours", metavar="K", type=int, default=5, help="number of nearest known recordings to show (default 5)"
    )
    parser.add_argument("--calibration", metavar="FILE", type=Path, help="metrics.json of an evaluation of this model")
    parser.add_argument(
        "--ensemble", metavar="CKPT", nargs="+", default=[], help="further models; scores are means over all models"
    )


def run(options: argparse.Namespace) -> int:
    """Write the pages and print a summary; returns the exit status.

    Raises:
        UserError: a model or option cannot be used, or pages exist already.
    """
    with only_one(options.out):
        return _report(options)


def _report(options: argparse.Namespace) -> int:
    # the browser draws letters that are missing in the picture's font
    warnings.filterwarnings("ignore", message=r"Glyph \d+")
    check_results(options.out, [], options.resume, options.overwrite)
    inputs = run_settings.inputs_of(options)
    settings = _settings(options, inputs)
    status = finished_status(options, settings)
    if status is not None:
        return status
    paths = _paths(inputs, options)
    shown = _report_options(options)
    model = _model(options)
    check_options(model, shown)
    with Results(options.out, [], settings, options.resume, options.overwrite) as results:
        reporter = _Reporter(model, paths, shown)
        do_each(results, inputs, reporter.report, reporter.undo, "report")
        rejected = results.finish()
    note_finished(options, settings)
    made = len(paths) - rejected
    print(f"{options.out}: {counted(made, 'report')}")
    return status_of(options.out)


def _settings(options: argparse.Namespace, inputs: Inputs) -> Dict[str, Any]:
    """Settings that change the pages; a run continues only with equal settings."""
    names = ("anonymous", "saliency", "layer", "label", "neighbours")
    files = {name: str(getattr(options, name)) for name in ("index", "calibration")}
    return {**run_settings.settings_of(options, inputs, names), **files}


def _paths(inputs: Inputs, options: argparse.Namespace) -> List[Path]:
    """The page of each recording; raises `UserError` if one exists already."""
    if options.anonymous:
        names = [f"report-{number}" for number in range(1, len(inputs) + 1)]
    else:
        names = distinct_names([stem_of(inputs.name(number)) for number in range(len(inputs))])
    files = [f"{name}.html" for name in names]
    if not options.resume:
        check_free(options.out, files, options.overwrite)
    return [options.out / file for file in files]


def _report_options(options: argparse.Namespace) -> ReportOptions:
    return ReportOptions(
        anonymous=options.anonymous,
        saliency=None if options.saliency == _NO_SALIENCY else options.saliency,
        layer=options.layer,
        label=options.label,
        index=None if options.index is None else open_index(options.index),
        neighbours=options.neighbours,
        calibration=None if options.calibration is None else read_calibration(options.calibration),
    )


def _model(options: argparse.Namespace) -> AnyModel:
    """The model, or an ensemble; a pretrained model cannot be in an ensemble."""
    how = run_arguments.model_options(options)
    if options.ensemble:
        return load_ensemble([options.checkpoint, *options.ensemble], **how)
    return load_model(options.checkpoint, **how)


class _Reporter:
    """Makes the pages of recordings."""

    def __init__(self, model: AnyModel, paths: Sequence[Path], shown: ReportOptions):
        self._model, self._paths, self._shown = model, paths, shown

    def report(self, read: ReadRecording) -> None:
        """Make and write the page of a recording; a `UserError` if it cannot be drawn."""
        recording, is_standardised, _ = read.beside
        if is_standardised:
            hint = "give the file that it was made from"
            raise UserError(f"{read.name}: is standardised, so it cannot be drawn in mV; {hint}")
        # options were checked once before, because checking an index runs the model
        write_page(self._paths[read.number], report_page(find(self._model, recording, read.name, self._shown)))

    def undo(self, number: int, reason: str) -> None:
        """Remove the page of an earlier run of a recording that is rejected."""
        self._paths[number].unlink(missing_ok=True)
