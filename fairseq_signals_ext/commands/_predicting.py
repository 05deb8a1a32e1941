"""Predict: the work of the command, for many recordings."""

import argparse
from typing import TYPE_CHECKING, Any, Dict, Iterator, List

from fairseq_signals_ext.commands import _run_arguments as run_arguments
from fairseq_signals_ext.commands import _run_settings as run_settings
from fairseq_signals_ext.commands._finished import status_of
from fairseq_signals_ext.commands._parts import Job
from fairseq_signals_ext.common.values import counted
from fairseq_signals_ext.inference.inputs import Recordings
from fairseq_signals_ext.inference.parts import Part, SomeInputs
from fairseq_signals_ext.inference.results import REJECTED_FILE, Kept, Results

if TYPE_CHECKING:
    from fairseq_signals_ext.inference.ensemble import Ensemble, Predicted
    from fairseq_signals_ext.inference.running import RunOptions

_SEGMENT_COLUMNS = {"record_id": "string", "file": "string", "segment": "int64", "start": "float64"}


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
        return [*(f"{table}.{suffix}" for table in tables for suffix in run_arguments.TABLE_FORMATS), REJECTED_FILE]

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
