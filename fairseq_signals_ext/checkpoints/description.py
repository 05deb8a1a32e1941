"""Description of a model for its use, the same for checkpoints and exports; exports contain it as JSON.

Needs neither torch nor fairseq.
"""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Type

from fairseq_signals_ext.checkpoints.architecture import geometry_of
from fairseq_signals_ext.checkpoints.plain_configs import check_plain
from fairseq_signals_ext.common.errors import UserError, first_line
from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.common.values import as_json
from fairseq_signals_ext.data.standardising import STANDARDIZATIONS
from fairseq_signals_ext.evaluation.decisions import Calibration, calibration_of
from fairseq_signals_ext.evaluation.kinds import KINDS, Kind, kind_of

AGGREGATION_WAYS = ("mean", "max")
ACTIVATIONS = ("sigmoid", "softmax")
CONFIG_FILE = "config.json"
_FORMAT, _VERSION = "fairseq-signals-ext", 1
_PIECE = 2**20
# far above any real ECG: recordings are resampled to the rate, and segments are held in memory
_MOST = {"sample_rate": 100_000, "segment_samples": 1_000_000, "stride_samples": 1_000_000_000}
_MOST_FRAMES = 10_000
_MOST_LABELS = 100_000
_LONGEST_NAME = 1000
_LARGEST_CONFIG = 2**24
_NOT_OURS = "not of an export of this version"


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of a recording to the model's input.

    Attributes:
        sample_rate: Hz of the input.
        leads: names of the input's rows, in order.
        loaded_leads: leads that are read from a recording; other leads, and leads that a recording lacks, are zeros.
        segment_samples: samples per segment.
        stride_samples: samples between the starts of consecutive segments.
        standardization: one of `data.standardising.STANDARDIZATIONS`.
    """

    sample_rate: float = 500.0
    leads: Tuple[str, ...] = LEADS
    loaded_leads: Tuple[str, ...] = LEADS
    segment_samples: int = 2500
    stride_samples: int = 2500
    standardization: str = "lead"

    def check(self) -> None:
        """Check the values.

        Raises:
            UserError: a value has the wrong type, or a lead is unknown, repeated, or loaded but not in the input.
        """
        _checked("sample_rate", self.sample_rate, Real, "use a rate in Hz")
        for name in ("segment_samples", "stride_samples"):
            _checked(name, getattr(self, name), Integral, "use a whole number")
        if not (self.sample_rate > 0 and self.segment_samples > 0 and self.stride_samples > 0):
            raise UserError("sample_rate, segment_samples and stride_samples must be above 0")
        for name, most in _MOST.items():
            if getattr(self, name) > most:
                raise UserError(f"{name} {getattr(self, name)}: use at most {most:,}")
        if self.segment_samples > self.stride_samples:
            raise UserError("segment_samples must not be above stride_samples: segments follow each other")
        if self.standardization not in STANDARDIZATIONS:
            raise UserError(f"standardization {self.standardization!r}: use one of {', '.join(STANDARDIZATIONS)}")
        for name, known in (("leads", LEADS), ("loaded_leads", self.leads)):
            hint = f"use each once of {', '.join(known)}"
            leads = _checked_each(name, getattr(self, name), str, hint)
            if not leads:
                raise UserError(f"{name}: none; {hint}")
            for place, lead in enumerate(leads):
                if lead not in known or lead in leads[:place]:
                    raise UserError(f"{name} {lead!r}: {hint}")


@dataclass(frozen=True)
class ModelDescription:
    """A model's outputs, inputs and origin.

    Attributes:
        kind: kind of its outputs, see `evaluation.kinds`; "pretraining": embeddings only.
        architecture: the model's config, plain values.
        preprocessing: from recordings to inputs.
        label_names: names of its outputs.
        thresholds: for each label, predicted positive at this probability or above; None if none were chosen.
        threshold_rule: how they were chosen, such as "f1 on valid".
        aggregation: for each label "mean" or "max", over the probabilities of segments.
        target_mean, target_std: of a regression's labels, in their own unit; empty otherwise.
        activation: "sigmoid": each logit gives its label's probability; "softmax": the labels are mutually exclusive
            classes, all logits together give the probabilities, and the most probable class is positive, without
            thresholds.
        names_are_known: False if the checkpoint has no label names, and `label_names` are placeholders.
        calibration: probabilities, decisions and refusal; None if it was not calibrated.
        provenance: checkpoint's file name, updates, epoch, package versions, data, ...
    """

    kind: str
    architecture: Dict[str, Any]
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    label_names: Tuple[str, ...] = ()
    thresholds: Optional[Tuple[float, ...]] = None
    threshold_rule: Optional[str] = None
    aggregation: Tuple[str, ...] = ()
    target_mean: Tuple[float, ...] = ()
    target_std: Tuple[float, ...] = ()
    activation: str = "sigmoid"
    names_are_known: bool = True
    calibration: Optional[Calibration] = None
    provenance: Dict[str, Any] = field(default_factory=dict)

    @property
    def of_kind(self) -> Kind:
        """Kind of its outputs."""
        return kind_of(self.kind)

    @property
    def output_name(self) -> Optional[str]:
        """Name of an export's output: "logits", or "values" for a regression, in its unit; None without labels."""
        return self.of_kind.output_name

    @property
    def output_names(self) -> List[str]:
        """Names of all outputs of a network and its exports, in order."""
        return [name for name in (self.output_name, "embedding") if name is not None]

    @property
    def is_exclusive(self) -> bool:
        """Whether a recording has exactly one of the labels."""
        return self.of_kind.has_classes and self.activation == "softmax"

    def check(self) -> None:
        """Check that the description is consistent.

        Raises:
            UserError: a value has the wrong type, lists of labels differ in length, or a model without probabilities
                has thresholds.
        """
        if self.kind not in KINDS:
            raise UserError(f"kind {self.kind!r}: use one of {', '.join(KINDS)}")
        if not self.of_kind.has_classes and self.thresholds is not None:
            raise UserError(f"thresholds: a model of kind {self.kind!r} has none; use null")
        if self.activation not in ACTIVATIONS:
            raise UserError(f"activation {self.activation!r}: use one of {', '.join(ACTIVATIONS)}")
        if self.is_exclusive and self.thresholds is not None:
            raise UserError("thresholds: classes that exclude one another have none; use null")
        if self.calibration is not None:
            if not self.of_kind.has_classes or self.is_exclusive:
                raise UserError("calibration: only a model with a probability for each label has one; use null")
            self.calibration.check(len(self.label_names))
        for name in ("architecture", "provenance"):
            _checked(name, getattr(self, name), dict, "use values by names")
        self.preprocessing.check()
        self._check_frames()
        self._check_names()
        lists: Dict[str, Any] = {"aggregation": self.aggregation}
        if self.thresholds is not None:
            lists["thresholds"] = _checked_each("thresholds", self.thresholds, Real, "use a list of numbers, or null")
        if self.of_kind.is_scaled:
            for name in ("target_mean", "target_std"):
                lists[name] = _checked_each(name, getattr(self, name), Real, "use a list of numbers")
        ways = f"use a list of {' or '.join(AGGREGATION_WAYS)}"
        for way in _checked_each("aggregation", self.aggregation, str, ways):
            if way not in AGGREGATION_WAYS:
                raise UserError(f"aggregation {way!r}: {ways}")
        for name, values in lists.items():
            if len(values) != len(self.label_names):
                raise UserError(f"{name}: {len(values)} values, but there are {len(self.label_names)} labels")

    def _check_frames(self) -> None:
        """Check that a segment has at least one frame, and not too many for attention to fit in memory."""
        geometry = geometry_of(self.architecture)
        if geometry is None:
            return
        frames = geometry.frames(self.preprocessing.segment_samples)
        if not 0 < frames <= _MOST_FRAMES:
            problem = f"segment_samples {self.preprocessing.segment_samples}: {max(0, frames):,} frames by the encoder"
            raise UserError(f"{problem}; use a length of 1 to {_MOST_FRAMES:,} frames")

    def _check_names(self) -> None:
        names = _checked_each("label_names", self.label_names, str, "use a list of texts")
        if len(names) > _MOST_LABELS:
            raise UserError(f"label_names: there are {len(names):,}; use at most {_MOST_LABELS:,}")
        for name in names:
            if len(name) > _LONGEST_NAME or not name.isprintable():
                raise UserError(f"label_names {name!r:.60}: use up to {_LONGEST_NAME} characters that can be printed")


def _checked_each(name: str, values: Any, kind: Type[Any], hint: str) -> Sequence[Any]:
    """Return the list `name` after checking the type of each value."""
    for place, value in enumerate(_checked(name, values, tuple, hint)):
        _checked(f"{name}[{place}]", value, kind, hint)
    return tuple(values)


def _checked(name: str, value: Any, kind: Type[Any], hint: str) -> Any:
    """Return the value of `name` after checking its type; a number must be finite, and not a bool."""
    is_kind = isinstance(value, kind)
    if is_kind and issubclass(kind, Real):
        is_kind = not isinstance(value, bool) and math.isfinite(value)
    if not is_kind:
        given = repr(list(value) if isinstance(value, tuple) else value)
        raise UserError(f"{name} {given:.60}: {hint}")
    return value


def write_description(
    description: ModelDescription, weights: str, folder: Path, training: Optional[Dict[str, Any]] = None
) -> Path:
    """Write `config.json` of an export.

    Args:
        weights: name of the file in `folder` that contains the model; it must exist.
        training: other parts of a checkpoint than parameters, `cfg` and `task_state`, to convert the export back.

    A number that is not finite, such as the best loss of a run without validation, is written as null.
    """
    facts = {"format": _FORMAT, "version": _VERSION, "weights": weights, **dataclasses.asdict(description)}
    facts["sha256"] = _sums(folder, weights)
    if training is not None:
        facts["training"] = training
    path = folder / CONFIG_FILE
    path.write_text(json.dumps(as_json(facts), indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
    return path


def read_description(folder: Path) -> Tuple[ModelDescription, Path]:
    """Read the output of `write_description`, and return it with the path of the weights.

    Raises:
        UserError: the file is missing, or not from an export of ours; names the problem.
    """
    path = folder / CONFIG_FILE
    facts = _facts(path)
    try:
        for other in ("training", "sha256"):
            facts.pop(other, None)
        weights = _checked("weights", facts.pop("weights"), str, "use the name of a file")
        inputs = _of(Preprocessing, facts.pop("preprocessing"))
        calibration = calibration_of(facts.pop("calibration", None))
        description = _of(ModelDescription, {**facts, "preprocessing": inputs, "calibration": calibration})
        description.check()
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{path}: {_NOT_OURS} ({first_line(error)}); export again") from None
    file = folder / weights
    if Path(weights).name != weights or not file.is_file():
        raise UserError(f"{path}: its weights {weights!r} are not in this folder; copy the whole folder")
    return description, file


def check_weights(folder: Path, weights: Path) -> None:
    """Raise a `UserError` unless the weights of an export have their original checksums."""
    path = folder / CONFIG_FILE
    expected = _facts(path).get("sha256")
    found = _sums(folder, weights.name)
    for name in sorted({*found, *(expected if isinstance(expected, dict) else {weights.name: None})}):
        if found.get(name) != (expected or {}).get(name):
            raise UserError(
                f"{folder / name}: is not the file that {path} was written for; copy the whole folder again"
            )


def _sums(folder: Path, weights: str) -> Dict[str, str]:
    """Return SHA-256 of the model's files, by name; a large model has its data in a separate file."""
    sums = {}
    for file in sorted(folder.glob(f"{weights}*")):
        digest = hashlib.sha256()
        with open(file, "rb") as opened:
            for piece in iter(lambda: opened.read(_PIECE), b""):  # noqa: B023
                digest.update(piece)
        sums[file.name] = digest.hexdigest()
    return sums


def read_training(folder: Path) -> Dict[str, Any]:
    """Read the argument `training` of `write_description`.

    Raises:
        UserError: as for `read_description`, or the export has none.
    """
    path = folder / CONFIG_FILE
    training = _facts(path).get("training")
    if not isinstance(training, dict) or not isinstance((training.get("cfg") or {}).get("model"), dict):
        raise UserError(f"{path}: does not hold the config of the training; export the checkpoint to safetensors again")
    return training


def _facts(path: Path) -> Dict[str, Any]:
    """Read a `config.json`, and return it without format and version."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a folder that fairseq-signals-ext export made, or a checkpoint")
    if path.stat().st_size > _LARGEST_CONFIG:
        raise UserError(f"{path}: {_NOT_OURS} (it has {path.stat().st_size:,} bytes); export again")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        check_plain(facts)
        if facts.pop("format") != _FORMAT or facts.pop("version") != _VERSION:
            raise KeyError("format, version")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: {_NOT_OURS} ({first_line(error)}); export again") from None
    return facts


def _of(kind: Any, facts: Dict[str, Any]) -> Any:
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()})
