"""The score that is explained: of which label, and what it becomes when the model's input is changed."""

from typing import Optional

from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.inference.model import LoadedModel, Prediction
from fairseq_signals_ext.inference.preprocessing import SegmentedRecording
from fairseq_signals_ext.inference.running import Change, run_segments


def label_position(model: LoadedModel, label: Optional[str]) -> int:
    """Where a label is among the model's outputs.

    Raises:
        UserError: it is not among them, or the model has none.
    """
    _check_has_labels(model)
    if label not in model.label_names:
        raise UserError(f"label {label!r}: {model.source} has {', '.join(model.label_names)}; name one of them")
    return model.label_names.index(label)


def score_of(model: LoadedModel, segments: SegmentedRecording, label: str, change: Optional[Change] = None) -> float:
    """A recording's probability of a label, or value of a regression, as `predict` gives it.

    Args:
        change: of the model's input.

    Raises:
        UserError: as `label_position`, or no number comes out.
    """
    position = label_position(model, label)
    return float(_predict(model, segments, change).scores[position])


def chosen_label(model: LoadedModel, segments: SegmentedRecording) -> str:
    """The most probable label of those that reach their threshold, of all if none does; of a regression the first.

    Raises:
        UserError: the model has no labels, or no number comes out.
    """
    _check_has_labels(model)
    if not model.description.of_kind.has_classes:
        return model.label_names[0]
    return most_certain(_predict(model, segments))


def most_certain(prediction: Prediction) -> str:
    """The most probable label of those that reach their threshold, of all if none does."""
    reached = 0 if prediction.positive is None else prediction.positive
    # no probability is above 1, so those that reach their threshold are ahead
    return prediction.label_names[int((prediction.scores + 2 * reached).argmax())]


def _check_has_labels(model: LoadedModel) -> None:
    if not model.label_names:
        raise UserError(f"{model.source}: is a pretrained model without labels; use the method attention or rollout")


def _predict(model: LoadedModel, segments: SegmentedRecording, change: Optional[Change] = None) -> Prediction:
    outputs = run_segments(model.backend, segments, change=change)
    return model.prediction_of(outputs, f"recording {segments.facts.record_id!r}", segments.facts)
