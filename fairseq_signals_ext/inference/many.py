"""Predictions for many recordings: `predict_many`, and the table of `predict_many` and the command `predict`."""

import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Union

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.progress import Progress
from fairseq_signals_ext.inference.ensemble import Ensemble, Predicted
from fairseq_signals_ext.inference.inputs import InputRecording, Inputs, find_inputs
from fairseq_signals_ext.inference.model import LoadedModel, Prediction
from fairseq_signals_ext.inference.reading_ahead import Rejected
from fairseq_signals_ext.inference.recordings import ORIGIN_COLUMNS, FileOrRecording, Leads, recording_of
from fairseq_signals_ext.inference.running import BATCH_SIZE, RunOptions
from fairseq_signals_ext.readers import Recording

if TYPE_CHECKING:
    import pandas as pd

Models = Union[LoadedModel, Ensemble, Sequence[LoadedModel]]
_FACTS = {
    **{"record_id": "string", "file": "string", **ORIGIN_COLUMNS, "seconds": "float64", "sample_rate": "float64"},
    **{"segments": "int64", "missing_leads": "list<string>", "flags": "list<string>"},
    **{"cut_start": "float64", "cut_end": "float64"},
}
# types of a data frame's columns; rows of recordings that cannot be used have missing values
_FRAME_TYPES = {
    **{"string": "object", "list<string>": "object", "int64": "Int64", "bool": "boolean"},
    "timestamp[us]": "datetime64[us]",
}


class Result(NamedTuple):
    """The prediction for one of many recordings.

    Attributes:
        name: its file, or the record id of a given `Recording`.
        prediction: for it; None if it cannot be used.
        reason: why it cannot be used, and a hint, in one line; otherwise empty.
    """

    name: str
    prediction: Optional[Prediction]
    reason: str = ""


def predict_many(
    model: Models,
    recordings: Union[FileOrRecording, Iterable[FileOrRecording]],
    *,
    as_frame: bool = False,
    progress: bool = True,
    batch_size: int = BATCH_SIZE,
    jobs: int = 0,
    sample_rate: Optional[float] = None,
    leads: Leads = None,
    unit: Optional[str] = None,
    subset: Optional[str] = None,
) -> "Union[Iterator[Result], pd.DataFrame]":
    """Predict labels of many recordings, in order; recordings that cannot be used do not stop the others.

    Recordings are read while the model runs, and segments of several share a batch. As an iterator it needs no more
    memory for a million files than for a hundred.

    Args:
        model: one model, or several with averaged scores; see `load`.
        recordings: ECG files, folders of them, prepared folders, folders of splits, manifests, or `Recording`s; one or
            many, in any mixture.
        as_frame: return a table instead, with a row per recording, the columns of the command's `predictions.csv`,
            and a column `reason`: why a recording has no scores. It contains patients' ids, if they are known.
        progress: show a progress bar on stderr.
        batch_size: segments per batch.
        jobs: processes that read files; 0: a thread of this process.
        sample_rate, leads, unit: for files that do not contain them, see `read_ecg`.
        subset: of folders of splits, such as "test"; None: all subsets.

    Returns:
        An iterator of `Result`s: name, prediction, reason. The second and further ECGs of files come last.

    Raises:
        UserError: nothing is given, a model was only pretrained, or models do not fit each other.
        MissingPackageError: a format needs a package that is not installed.

    Examples:
        >>> import fairseq_signals_ext
        >>> model = fairseq_signals_ext.load("checkpoint_best.pt")
        >>> for name, prediction, reason in fairseq_signals_ext.predict_many(model, ["ecgs/one.hea", "ecgs/rec01.hea"]):
        ...     print(name, reason or prediction.label_names)
        ecgs/one.hea ('A', 'B', 'C')
        ecgs/rec01.hea ('A', 'B', 'C')
        >>> table = fairseq_signals_ext.predict_many(model, "ecgs", as_frame=True)
        >>> table[["file", "probability_A", "reason"]].shape
        (20, 3)
    """
    ensemble = _ensemble_of(model)
    inputs = _inputs_of(recordings, sample_rate, leads, unit, subset)
    found = ensemble.predict_all(inputs, RunOptions(batch_size, jobs))
    shown = Progress("predict", len(inputs), "recording", is_shown=progress).each(found)
    return _frame(ensemble, shown) if as_frame else map(_result, shown)


def _ensemble_of(model: Models) -> Ensemble:
    if isinstance(model, Ensemble):
        return model
    return Ensemble([model] if isinstance(model, LoadedModel) else model)


def _result(found: Union[Predicted, Rejected]) -> Result:
    if isinstance(found, Rejected):
        return Result(found.name, None, found.reason)
    return Result(found.name, found.prediction)


@dataclass(frozen=True)
class _InMemory:
    """Recordings in memory, as `inputs.Recordings`."""

    recordings: Sequence[Recording]

    def __len__(self) -> int:
        return len(self.recordings)

    def name(self, number: int, ecg: Optional[int] = None) -> str:
        return self.recordings[number].record_id

    def read(self, number: int, ecg: Optional[int] = None) -> InputRecording:
        return InputRecording(recording_of(self.recordings[number])[1])

    def known(self, number: int) -> Dict[str, Any]:
        return {}


def _inputs_of(
    given: Union[FileOrRecording, Iterable[FileOrRecording]],
    sample_rate: Optional[float],
    leads: Leads,
    unit: Optional[str],
    subset: Optional[str],
) -> Inputs:
    """Inputs from paths and recordings, in the given order."""
    several = [given] if isinstance(given, (str, os.PathLike, Recording)) else list(given)
    for one in several:
        if not isinstance(one, (str, os.PathLike, Recording)):
            hint = "give paths or Recordings; for an array use the model's predict"
            raise UserError(f"recordings: one of them is a {type(one).__name__}; {hint}")
    names = leads if leads is None or isinstance(leads, str) else ",".join(leads)
    parts: List[Any] = []
    for are_read, group in itertools.groupby(several, lambda one: isinstance(one, Recording)):
        if are_read:
            parts.append(_InMemory(list(group)))  # type: ignore[arg-type]
        else:
            paths = [Path(one) for one in group]  # type: ignore[arg-type]
            parts.extend(find_inputs(paths, sample_rate, names, unit, subset).parts)
    return Inputs(tuple(parts)) if parts else find_inputs([])


def score_columns(ensemble: Ensemble) -> List[str]:
    """Names of the columns with scores, such as `probability_LABEL`; the tables of `evaluate` have the same."""
    return [f"{ensemble.models[0].description.of_kind.score_name}_{name}" for name in ensemble.label_names]


def table_columns(ensemble: Ensemble) -> Dict[str, str]:
    """Columns of a table of predictions with pyarrow's names of their types: facts, scores, decisions if any."""
    decisions = {f"positive_{name}": "bool" for name in ensemble.label_names if ensemble.decides}
    calibration = ensemble.calibration
    if calibration is not None:
        decisions.update({f"calibrated_{name}": "float64" for name in ensemble.label_names})
        decisions.update({f"decision_{name}": "string" for name in ensemble.label_names})
        if calibration.refusal is not None:
            decisions.update(refused="string", refusal_score="float64")
    return {**_FACTS, **dict.fromkeys(score_columns(ensemble), "float64"), **decisions}


def table_row(ensemble: Ensemble, found: Predicted) -> Dict[str, Any]:
    """A recording's row of the table: values by column."""
    prediction = found.prediction
    row = {"file": found.name, **prediction.recording.row}
    row.update(zip(score_columns(ensemble), prediction.scores.tolist()))
    if prediction.positive is not None:
        row.update((f"positive_{name}", bool(one)) for name, one in zip(ensemble.label_names, prediction.positive))
    if prediction.calibrated is not None and prediction.decision is not None:
        for name, probability, decision in zip(ensemble.label_names, prediction.calibrated, prediction.decision):
            row.update({f"calibrated_{name}": float(probability), f"decision_{name}": decision})
        row.update(refused=prediction.refused, refusal_score=prediction.refusal_score)
    return row


def _frame(ensemble: Ensemble, results: Iterable[Union[Predicted, Rejected]]) -> "pd.DataFrame":
    import pandas as pd

    columns = table_columns(ensemble)
    rows = [_frame_row(ensemble, found) for found in results]
    frame = pd.DataFrame(rows, columns=[*columns, "reason"])
    return frame.astype({name: _FRAME_TYPES.get(kind, kind) for name, kind in columns.items()})


def _frame_row(ensemble: Ensemble, found: Union[Predicted, Rejected]) -> Dict[str, Any]:
    if isinstance(found, Rejected):
        return {"file": found.name, "reason": found.reason}
    row = table_row(ensemble, found)
    return {**row, "reason": "", **{name: " ".join(row[name]) for name in ("missing_leads", "flags")}}
