"""What one must know of a model to use it: the same for checkpoints and exports, and as JSON beside exports.

Needs neither torch nor fairseq.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.leads import LEADS

KINDS = ("classification", "regression", "pretraining")
STANDARDIZATIONS = ("lead", "segment")
AGGREGATION_WAYS = ("mean", "max")
CONFIG_FILE = "config.json"
_FORMAT, _VERSION = "fairseq-signals-ext", 1
_NOT_OURS = "not of an export of this version"


@dataclass(frozen=True)
class Preprocessing:
    """How a recording becomes the model's input.

    Attributes:
        sample_rate: Hz of the input.
        leads: names of the input's rows, in order.
        loaded_leads: those of `leads` that are taken from a recording; the others are zeros, and so are those that a
            recording lacks.
        segment_samples: samples of a segment.
        stride_samples: from the start of a segment to that of the next.
        standardization: "lead": each lead by its mean and deviation over the whole recording; "segment": each segment
            as a whole.
    """

    sample_rate: float = 500.0
    leads: Tuple[str, ...] = LEADS
    loaded_leads: Tuple[str, ...] = LEADS
    segment_samples: int = 2500
    stride_samples: int = 2500
    standardization: str = "lead"


@dataclass(frozen=True)
class ModelDescription:
    """A model as its user sees it.

    Attributes:
        kind: "classification", "regression", or "pretraining" (no labels, embeddings only).
        architecture: the model's config, plain values.
        preprocessing: how a recording becomes its input.
        label_names: of its outputs.
        thresholds: for each label the probability from which it is called positive; None if none were chosen.
        threshold_rule: how they were chosen, such as "f1 on valid".
        aggregation: for each label "mean" or "max": how segments' probabilities become a recording's.
        target_mean, target_std: of a regression's labels, in their own unit; empty otherwise.
        names_are_known: False where the checkpoint does not say its label names, and `label_names` are placeholders.
        provenance: where it is from: checkpoint's file name, updates, epoch, package versions, data, ...
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
    names_are_known: bool = True
    provenance: Dict[str, Any] = field(default_factory=dict)

    @property
    def output_name(self) -> Optional[str]:
        """Name of an export's output: "logits", or "values" of a regression, in its unit; None without labels."""
        return {"classification": "logits", "regression": "values"}.get(self.kind)

    def check(self) -> None:
        """See that it is consistent.

        Raises:
            UserError: a value is not of its kind, or lists of labels differ in length.
        """
        labels, inputs = len(self.label_names), self.preprocessing
        if self.kind not in KINDS:
            raise UserError(f"kind {self.kind!r}: use one of {', '.join(KINDS)}")
        if inputs.standardization not in STANDARDIZATIONS:
            raise UserError(f"standardization {inputs.standardization!r}: use one of {', '.join(STANDARDIZATIONS)}")
        unknown = sorted({*inputs.leads, *inputs.loaded_leads} - set(LEADS))
        if unknown:
            raise UserError(f"lead {unknown[0]!r}: use names of {', '.join(LEADS)}")
        if not (inputs.sample_rate > 0 and inputs.segment_samples > 0 and inputs.stride_samples > 0):
            raise UserError("sample_rate, segment_samples and stride_samples must be above 0")
        lists = {"aggregation": self.aggregation}
        if self.thresholds is not None:
            lists["thresholds"] = self.thresholds  # type: ignore[assignment]
        if self.kind == "regression":
            lists.update(target_mean=self.target_mean, target_std=self.target_std)  # type: ignore[arg-type]
        for name, values in lists.items():
            if len(values) != labels:
                raise UserError(f"{name}: {len(values)} values, but there are {labels} labels")
        wrong = [way for way in self.aggregation if way not in AGGREGATION_WAYS]
        if wrong:
            raise UserError(f"aggregation {wrong[0]!r}: use {' or '.join(AGGREGATION_WAYS)}")


def write_description(
    description: ModelDescription, weights: str, folder: Path, training: Optional[Dict[str, Any]] = None
) -> Path:
    """Write `config.json` of an export.

    Args:
        weights: name of the file in `folder` that holds the model.
        training: what a checkpoint holds beside its parameters, `cfg` and `task_state`, from which one can go back.
    """
    facts = {"format": _FORMAT, "version": _VERSION, "weights": weights, **dataclasses.asdict(description)}
    if training is not None:
        facts["training"] = training
    path = folder / CONFIG_FILE
    path.write_text(json.dumps(facts, indent=2, sort_keys=True, default=_plain) + "\n", encoding="utf-8")
    return path


def _plain(value: Any) -> Any:
    """What JSON has no word for, but a checkpoint may hold: numpy's numbers, and a `Namespace` of old options."""
    return value.tolist() if hasattr(value, "tolist") else vars(value)


def read_description(folder: Path) -> Tuple[ModelDescription, Path]:
    """What `write_description` wrote, and the path of the weights.

    Raises:
        UserError: no such file, or it is not one of an export of ours; names what is wrong.
    """
    path = folder / CONFIG_FILE
    facts = _facts(path)
    try:
        facts.pop("training", None)
        weights = facts.pop("weights")
        inputs = _of(Preprocessing, facts.pop("preprocessing"))
        description = _of(ModelDescription, {**facts, "preprocessing": inputs})
        description.check()
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: {_NOT_OURS} ({error}); export again") from None
    file = folder / weights
    if Path(weights).name != weights or not file.is_file():
        raise UserError(f"{path}: its weights {weights!r} are not in this folder; copy the whole folder")
    return description, file


def read_training(folder: Path) -> Dict[str, Any]:
    """What was given to `write_description` as `training`.

    Raises:
        UserError: as `read_description`, or the export has none.
    """
    path = folder / CONFIG_FILE
    training = _facts(path).get("training")
    if not isinstance(training, dict) or not isinstance((training.get("cfg") or {}).get("model"), dict):
        raise UserError(f"{path}: does not hold the config of the training; export the checkpoint to safetensors again")
    return training


def _facts(path: Path) -> Dict[str, Any]:
    """What is in a `config.json`, less its format and version."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a folder that fairseq-signals-ext export made, or a checkpoint")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if facts.pop("format") != _FORMAT or facts.pop("version") != _VERSION:
            raise KeyError("format, version")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: {_NOT_OURS} ({error}); export again") from None
    return facts


def _of(kind: Any, facts: Dict[str, Any]) -> Any:
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()})
