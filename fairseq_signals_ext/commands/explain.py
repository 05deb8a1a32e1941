"""Show where in ECGs a model looked: maps over time and leads, and occlusion.

examples:
  fairseq-signals-ext explain run/checkpoints/checkpoint_best.pt records/*.hea \\
      --out explanations
  fairseq-signals-ext explain mimic_iv_ecg_finetuned.pt ecg.dcm \\
      --labels ecg-fm --method gradient --label "Atrial fibrillation" \\
      --out explanations --picture png --sanity-check
  fairseq-signals-ext explain checkpoint_best.pt ecg.npy --input-rate 500 \\
      --input-unit mV --method occlusion --out explanations

Methods:
  attention   how much attention each moment receives in one layer (--layer,
              default the last), as in ECG-FM
  rollout     the same, followed through all layers
  gradient    integrated gradients of a label's logit, for each lead and sample.
              Also gradient:saliency (the gradient alone) and
              gradient:input-x-gradient
  occlusion   the drop of a label's probability if 0.2 s of all leads are
              removed; and a table of the drops without each lead, and without
              all P waves, QRS complexes and T waves

Writes to OUT for each recording NAME.npz (saliency, seconds, sample_rate,
leads, method, label), a picture of the ten seconds around its peak, and with
occlusion NAME-occlusion.csv; with several labels NAME-LABEL. Also
explanations.csv, and rejected.csv with the recordings that could not be used;
the exit status is 1 if there are any. A map shows what the model computes, not
what is wrong with the heart. For research use only.
"""

import argparse
import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence

import fairseq_signals_ext
from fairseq_signals_ext.analysis.occlusion import occlude_segments, score_of
from fairseq_signals_ext.analysis.saliency import (
    OCCLUSION,
    MapOptions,
    Saliency,
    explain_segments,
    way_to_look,
    write_occlusions,
    write_saliency,
)
from fairseq_signals_ext.analysis.sanity import check_segments, with_random_weights
from fairseq_signals_ext.commands import _run_arguments as run_arguments
from fairseq_signals_ext.commands import _run_settings as run_settings
from fairseq_signals_ext.commands._entry import distinct_names, stem_of
from fairseq_signals_ext.commands._finished import finished_status, note_finished, status_of
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import check_free, only_one
from fairseq_signals_ext.common.progress import print_line
from fairseq_signals_ext.common.values import counted
from fairseq_signals_ext.inference.inputs import Inputs
from fairseq_signals_ext.inference.model import LoadedModel
from fairseq_signals_ext.inference.one_by_one import do_each
from fairseq_signals_ext.inference.preprocessing import SegmentedRecording
from fairseq_signals_ext.inference.reading_ahead import ReadRecording
from fairseq_signals_ext.inference.results import REJECTED_FILE, Results, check_results
from fairseq_signals_ext.pages.ecg_paper import draw_saliency

_TABLE, _ROWS = "explanations.csv", "explanations"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    run_arguments.add_model(parser)
    run_arguments.add_inputs(parser)
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the results")
    parser.add_argument("--method", metavar="NAME", default="attention", help="see above (default attention)")
    parser.add_argument("--layer", metavar="N", type=int, help="layer for attention and rollout (default: the last)")
    parser.add_argument(
        "--label",
        metavar="NAME",
        nargs="+",
        help=f"labels to explain by gradient and occlusion ({run_arguments.DEFAULT_LABEL})",
    )
    parser.add_argument("--steps", metavar="N", type=int, default=50, help="steps of integrated gradients (default 50)")
    parser.add_argument("--window", metavar="S", type=float, default=0.2, help="window of occlusion in s (default 0.2)")
    parser.add_argument(
        "--sanity-check",
        action="store_true",
        help="also compute the rank correlation with the map of a model with random weights: near 0 is good; near 1, "
        "the map does not depend on what the model learned",
    )
    run_arguments.add_restart(parser)
    parser.add_argument(
        "--picture", choices=("svg", "png", "none"), default="svg", help="format of pictures (default svg)"
    )


def run(options: argparse.Namespace) -> int:
    """Explain, write and print; returns the exit status.

    Raises:
        UserError: the model or the options cannot be used, or results exist already.
    """
    with only_one(options.out):
        return _explain(options)


def _explain(options: argparse.Namespace) -> int:
    how = MapOptions(options.method, options.layer, options.steps, options.window)
    inputs = run_settings.inputs_of(options)
    settings = _settings(options, inputs)
    status = finished_status(options, settings)
    if status is not None:
        return status
    check_results(options.out, [_TABLE, REJECTED_FILE], options.resume, options.overwrite)
    jobs = _jobs(inputs, options)
    model = fairseq_signals_ext.load(options.checkpoint, **run_arguments.model_options(options))
    _check(model, options.label, how)
    with Results(options.out, [_TABLE, REJECTED_FILE], settings, options.resume, options.overwrite) as results:
        explainer = _Explainer(model, how, options, jobs, results)
        do_each(results, inputs, explainer.explain, explainer.undo, "explain", [model.preprocessing])
        number = results.write_table(_TABLE, _ROWS, explainer.columns)
        results.finish()
    note_finished(options, settings)
    print(f"{options.out}: {counted(number, 'explanation')}")
    return status_of(options.out)


def _settings(options: argparse.Namespace, inputs: Inputs) -> Dict[str, Any]:
    """Settings that change the results; a run continues only with equal settings."""
    names = ("method", "layer", "label", "steps", "window", "sanity_check", "picture")
    return run_settings.settings_of(options, inputs, names)


@dataclass(frozen=True)
class _Job:
    """A map to make.

    Attributes:
        file: the recording's name in tables.
        label: None: the method chooses it.
        stem: name without suffix for the files that are written.
    """

    file: str
    label: Optional[str]
    stem: Path

    def path(self, ending: str) -> Path:
        """Path of a file to write."""
        return self.stem.with_name(self.stem.name + ending)


def _jobs(inputs: Inputs, options: argparse.Namespace) -> List[List[_Job]]:
    """The maps of each recording; raises `UserError` if results exist already."""
    labels: Sequence[Optional[str]] = list(dict.fromkeys(options.label or [None]))
    files = [inputs.name(number) for number in range(len(inputs))]
    wanted = [name if len(labels) == 1 else f"{name}-{label}" for name in map(stem_of, files) for label in labels]
    stems = iter(distinct_names(wanted))
    jobs = [[_Job(file, label, options.out / next(stems)) for label in labels] for file in files]
    names = [job.path(ending).name for of_input in jobs for job in of_input for ending in _endings(options)]
    if not options.resume:
        check_free(options.out, names, options.overwrite)
    return jobs


def _endings(options: argparse.Namespace) -> Iterator[str]:
    """Endings of the files of a map."""
    yield ".npz"
    if options.picture != "none":
        yield f".{options.picture}"
    if options.method == "occlusion":
        yield "-occlusion.csv"


def _check(model: LoadedModel, labels: Optional[Sequence[str]], how: MapOptions) -> None:
    """Check that the model supports the method, before the recordings are read."""
    if labels and how.is_attention:
        hint = "leave it out, or use --method gradient"
        raise UserError(f"--label {labels[0]}: {how.method} is the same for all labels; {hint}")
    for label in labels or (*model.label_names[:1], None)[:1]:
        way_to_look(model, label, how)


class _Explainer:
    """Makes the maps of recordings, their files, and rows of results."""

    def __init__(
        self,
        model: LoadedModel,
        how: MapOptions,
        options: argparse.Namespace,
        jobs: Sequence[Sequence[_Job]],
        results: Results,
    ):
        self._model, self._how, self._options = model, how, options
        self._jobs, self._results = jobs, results
        self._score = model.description.of_kind.display_name

    @property
    def columns(self) -> Dict[str, str]:
        """Columns of the table."""
        return {
            **{"file": "string", "record_id": "string", "label": "string", self._score: "float64", "method": "string"},
            **{"seconds": "float64", "lead": "string", "sanity_check": "float64", "note": "string"},
            "saliency": "string",
        }

    @functools.cached_property
    def _random(self) -> LoadedModel:
        """The same model with random weights; made once, because a large one takes seconds."""
        return with_random_weights(self._model)

    def explain(self, read: ReadRecording) -> None:
        """Make and write the maps of a recording, and add a row of the table for each."""
        recording, segments = read.beside.recording, read.segments[self._model.preprocessing]
        rows = []
        for job in self._jobs[read.number]:
            saliency = explain_segments(self._model, segments, job.label, self._how)
            row = self._row(job, recording.record_id, segments, saliency)
            write_saliency(saliency, job.path(".npz"))
            if self._options.picture != "none":
                title = " | ".join((recording.record_id, *self._label(row), saliency.method))
                draw_saliency(saliency, recording, job.path(f".{self._options.picture}"), title)
            print_line(f"{job.path('.npz')}: {self._summary(row)}")
            rows.append(row)
        for row in rows:
            self._results.add(_ROWS, row)

    def undo(self, number: int, reason: str) -> None:
        """Remove files of a rejected recording, also from an earlier run."""
        for job in self._jobs[number]:
            for ending in _endings(self._options):
                job.path(ending).unlink(missing_ok=True)

    def _row(self, job: _Job, record_id: str, segments: SegmentedRecording, saliency: Saliency) -> Dict[str, Any]:
        lead, second = saliency.peak
        row: Dict[str, Any] = {"file": job.file, "record_id": record_id, "label": saliency.label or ""}
        row.update({self._score: None, "method": saliency.method, "seconds": second, "lead": lead})
        row.update({"sanity_check": None, "note": ""})
        if saliency.label is not None:
            row.update(self._occluded(job, segments, saliency.label))
        if self._options.sanity_check:
            row["sanity_check"] = check_segments(self._random, segments, saliency, self._how)
        return {**row, "saliency": os.fsencode(job.path(".npz").name).decode("utf-8")}

    def _occluded(self, job: _Job, segments: SegmentedRecording, label: str) -> Dict[str, Any]:
        """The label's score; for occlusion also write its table and return its note."""
        if self._how.method != OCCLUSION:
            return {self._score: score_of(self._model, segments, label)}
        occlusions = occlude_segments(self._model, segments, label)
        write_occlusions(occlusions, job.path("-occlusion.csv"), self._score)
        return {self._score: occlusions.score, "note": occlusions.note}

    def _summary(self, row: Mapping[str, Any]) -> str:
        """A row as text."""
        where = f" in {row['lead']}" if row["lead"] else ""
        words = [*self._label(row), f"{row['method']} highest at {row['seconds']:.3f} s{where}"]
        if row["sanity_check"] is not None:
            words.append(f"correlation with random weights {row['sanity_check']:.2f}")
        return ", ".join([*words, *filter(None, [row["note"]])])

    def _label(self, row: Mapping[str, Any]) -> List[str]:
        return [f"{row['label']} {row[self._score]:.3g}"] if row["label"] else []
