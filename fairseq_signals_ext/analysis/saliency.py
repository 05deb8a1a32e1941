"""Saliency maps: `explain`, the map that it returns, and the map's files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional, Tuple

import numpy as np

from fairseq_signals_ext.analysis import attribution
from fairseq_signals_ext.analysis.attribution import attention_map
from fairseq_signals_ext.analysis.occlusion import Occlusions, chosen_label
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import atomic
from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.inference.model import LoadedModel
from fairseq_signals_ext.inference.preprocessing import SegmentedRecording
from fairseq_signals_ext.inference.recordings import AnyRecording, Leads, recording_of
from fairseq_signals_ext.inference.results import write_csv
from fairseq_signals_ext.readers import Recording

ATTENTION, ROLLOUT, OCCLUSION = "attention", "rollout", "occlusion"
_GRADIENTS = (attribution.INTEGRATED, attribution.PLAIN, attribution.TIMES_INPUT)
METHODS = (ATTENTION, ROLLOUT, *_GRADIENTS, OCCLUSION)
# segments at a time; each step of an integral needs as much memory as a training step
_BATCH = 8


@dataclass(frozen=True, eq=False)
class Saliency:
    """Importance of each sample of a recording for a model.

    Attributes:
        method: one of `METHODS`.
        label: the explained label; None if the method explains no label.
        values: float32, leads x samples, or samples if the method gives one value for all leads; NaN for samples that
            the model did not use, such as an incomplete segment at the end. Gradients and occlusion have signs.
        leads: names of the rows; empty if there are none.
        sample_rate: Hz, of the model's input.
        duration: s, from the recording's first sample to its last; the map has the same first and last sample.
    """

    method: str
    label: Optional[str]
    values: np.ndarray
    leads: Tuple[str, ...]
    sample_rate: float
    duration: float

    @property
    def seconds(self) -> np.ndarray:
        """Time of each sample in the recording, s, float64.

        The times are exact: resampling keeps the first and the last sample, so steps can differ slightly from
        `1 / sample_rate`, in total by less than a sample.
        """
        return np.linspace(0, self.duration, self.values.shape[-1])

    @property
    def peak(self) -> Tuple[str, float]:
        """Lead ("" for a map without leads) and time (s) of the sample with the largest magnitude."""
        magnitudes = np.abs(self.values)
        place = np.unravel_index(np.nanargmax(magnitudes), magnitudes.shape)
        return self.leads[place[0]] if self.leads else "", float(self.seconds[place[-1]])

    def at(self, recording: Recording) -> np.ndarray:
        """Magnitudes at the recording's own samples, for drawing.

        Values are interpolated between samples; if several belong to one sample of the recording, the largest counts.

        Args:
            recording: the one that was explained.

        Returns:
            float32, its leads x its samples, or its samples for a map without leads; 0 or more, NaN for leads and times
            that the model did not use.

        Raises:
            UserError: the recording has another length.
        """
        samples = recording.samples
        duration = (samples - 1) / recording.sample_rate
        if abs(duration - self.duration) > 1 / recording.sample_rate:
            hint = f"lasts {duration:.3f} s, the map {self.duration:.3f} s; give the recording that was explained"
            raise UserError(f"recording {recording.record_id!r}: {hint}")
        rows = np.atleast_2d(np.abs(self.values))
        if self.values.shape[-1] > samples:
            rows = _largest_at(rows, samples)
        elif self.values.shape[-1] < samples:
            times = np.arange(samples) / recording.sample_rate
            rows = np.stack([np.interp(times, self.seconds, row) for row in rows])
        if not self.leads:
            return rows[0].astype(np.float32)
        found = np.full((len(recording.leads), samples), np.nan, np.float32)
        for row, lead in enumerate(recording.leads):
            if LEADS[lead] in self.leads:
                found[row] = rows[self.leads.index(LEADS[lead])]
        return found


def _largest_at(rows: np.ndarray, samples: int) -> np.ndarray:
    """Reduce rows to fewer samples: each gets the largest of the values nearest to it."""
    nearest = np.rint(np.linspace(0, samples - 1, rows.shape[1])).astype(int)
    starts = np.searchsorted(nearest, np.arange(samples))
    return np.fmax.reduceat(rows, starts, axis=1)


@dataclass(frozen=True)
class MapOptions:
    """Options of a map.

    Attributes:
        method: "attention" (the maximum over queries, ECG-FM's saliency), "rollout", "gradient" (integrated gradients),
            "gradient:saliency", "gradient:input-x-gradient" or "occlusion" (of windows of time); see `attention_map`,
            `gradient_map` and `window_map`.
        layer: of attention and rollout, 1 to the number of layers; None: the last.
        steps: of integrated gradients.
        window: of occlusion, s.
    """

    method: str = ATTENTION
    layer: Optional[int] = None
    steps: int = 50
    window: float = 0.2

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"method {self.method!r}: use one of {', '.join(METHODS)}")
        if self.layer is not None and not self.is_attention:
            raise UserError(f"layer {self.layer}: the method {self.method} uses the whole model; leave the layer out")
        if self.steps < 1:
            raise UserError(f"steps {self.steps}: give at least 1")
        if not 0 < self.window < np.inf:
            raise UserError(f"window {self.window}: give a length in s above 0")

    @property
    def is_attention(self) -> bool:
        """Whether it uses attention, which is the same for all labels."""
        return self.method in (ATTENTION, ROLLOUT)


def explain(
    model: LoadedModel,
    recording: AnyRecording,
    label: Optional[str] = None,
    method: str = ATTENTION,
    *,
    layer: Optional[int] = None,
    steps: int = 50,
    window: float = 0.2,
    sample_rate: Optional[float] = None,
    leads: Leads = None,
    unit: Optional[str] = None,
) -> Saliency:
    """Compute a saliency map: where in a recording the model looked. It shows the model, not a cause in the patient.

    Args:
        recording, sample_rate, leads, unit: a file, a `Recording` or an array, see `recordings.recording_of`.
        label: the label to explain; None: the most probable, see `chosen_label`. Not for attention.
        method, layer, steps, window: see `MapOptions`.

    Raises:
        UserError: the model cannot be explained (an export to ONNX or TorchScript), the label or the layer does not
            exist, or the recording cannot be used.

    Examples:
        >>> import fairseq_signals_ext
        >>> model = fairseq_signals_ext.load("checkpoint_best.pt")
        >>> saliency = fairseq_signals_ext.explain(model, "ecgs/one.hea", label="A", method="gradient")
        >>> saliency.values.shape  # leads x samples
        (12, 5000)
        >>> lead, second = saliency.peak
    """
    options = MapOptions(method, layer, steps, window)
    name, found = recording_of(recording, sample_rate, leads, unit)
    return explain_segments(model, SegmentedRecording.of(found, model.preprocessing, name), label, options)


def explain_segments(
    model: LoadedModel, segments: SegmentedRecording, label: Optional[str], options: MapOptions
) -> Saliency:
    """As `explain`, for a recording that is already preprocessed."""
    if options.is_attention and label is not None:
        hint = "leave the label out, or use the method gradient"
        raise UserError(f"label {label!r}: {options.method} is the same for all labels; {hint}")
    if label is None and not options.is_attention:
        label = chosen_label(model, segments)
    values = _over_time(segments, way_to_look(model, label, options))
    facts = segments.facts
    if not np.isfinite(values).any():
        length = f"{facts.seconds:.3g} s"
        raise UserError(
            f"recording {facts.record_id!r}: no numbers come out of the model; give a recording longer than {length}"
        )
    names = tuple(segments.preprocessing.leads[column] for column in segments.columns) if values.ndim == 2 else ()
    duration = facts.seconds - 1 / facts.sample_rate
    return Saliency(options.method, label, values, names, model.sample_rate, duration)


def way_to_look(model: LoadedModel, label: Optional[str], options: MapOptions) -> Callable[..., np.ndarray]:
    """Return the function that maps source and padding mask to N x samples or N x leads x samples.

    Raises:
        UserError: the model does not support the method.
    """
    if options.is_attention:
        return attention_map(model, options.layer, roll_out=options.method == ROLLOUT)
    if options.method == OCCLUSION:
        return attribution.window_map(model, label or "", options.window)
    return attribution.gradient_map(model, label or "", options.method, options.steps)


def _over_time(segments: SegmentedRecording, look: Callable[..., np.ndarray]) -> np.ndarray:
    """The map of a recording at the samples of its counts, for available leads."""
    inputs, samples = segments.preprocessing, segments.counts.shape[1]
    values = np.empty(0)
    for start in range(0, len(segments), _BATCH):
        numbers = range(start, min(start + _BATCH, len(segments)))
        found = look(*segments.batch(numbers.start, numbers.stop))
        found = found[:, segments.columns] if found.ndim == 3 else found
        if start == 0:
            values = np.full((*found.shape[1:-1], samples), np.nan, np.float32)
        for number, one in zip(numbers, found):
            first = number * inputs.stride_samples
            room = values[..., first : first + inputs.segment_samples]
            room[...] = one[..., : room.shape[-1]]
    return values


def write_saliency(saliency: Saliency, path: Path) -> None:
    """Write a map as `.npz`, which `numpy.load` reads without pickle.

    Arrays: `saliency` (its `values`), `seconds` (of each sample), `sample_rate`, `leads` (names of the rows, empty if
    there are none), `method`, `label` (empty if there is none).
    """
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file,
            saliency=saliency.values,
            seconds=saliency.seconds,
            sample_rate=np.float64(saliency.sample_rate),
            leads=np.array(saliency.leads, np.str_),
            method=np.str_(saliency.method),
            label=np.str_(saliency.label or ""),
        )


def write_occlusions(occlusions: Occlusions, path: Path, score: str) -> None:
    """Write a table with the columns region, lead, `score` and drop; the first row is for the whole recording."""
    rows = [("none", "none", occlusions.score, 0.0), *occlusions.rows]
    columns = {"region": "string", "lead": "string", score: "float64", "drop": "float64"}
    write_csv(path, columns, iter([dict(zip(columns, map(_plain, row))) for row in rows]))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
