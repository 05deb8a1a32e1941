"""In what two models differ, by their descriptions."""

from typing import List

from fairseq_signals_ext.checkpoints.description import ModelDescription, Preprocessing
from fairseq_signals_ext.errors import UserError


def differences_of_inputs(there: Preprocessing, here: Preprocessing) -> List[str]:
    """In what the input of a model that takes it as `here` differs from that as `there`: what its encoder learned from.

    The length of segments is not among it.
    """
    pairs = (
        ("sample rate", f"{there.sample_rate:g} Hz", f"{here.sample_rate:g} Hz"),
        ("leads", ",".join(there.leads), ",".join(here.leads)),
        ("standardisation by", there.standardization, here.standardization),
    )
    return [f"{what} {one} there and {other} here" for what, one, other in pairs if one != other]


def seconds_of(preprocessing: Preprocessing) -> float:
    """From the start of a segment to that of the next."""
    return preprocessing.stride_samples / preprocessing.sample_rate


def check_ensemble(first: ModelDescription, other: ModelDescription, pair: str) -> None:
    """See that the scores of two models have a mean.

    Args:
        pair: what a message calls them.

    Raises:
        UserError: kinds, labels, how probabilities come about, or lengths of segments differ.
    """
    if other.kind != first.kind:
        raise UserError(f"{pair}: one is a {other.kind}, the other a {first.kind}")
    if other.activation != first.activation:
        ways = f"{other.activation}, not {first.activation}"
        raise UserError(f"{pair}: its probabilities are by {ways}; take models of one criterion")
    differing = sorted({*other.label_names} ^ {*first.label_names})
    if differing or len(other.label_names) != len(first.label_names):
        raise UserError(f"{pair}: only one has label {next(iter(differing), '')!r}; take models of the same labels")
    lengths = [seconds_of(description.preprocessing) for description in (other, first)]
    if lengths[0] != lengths[1]:
        raise UserError(
            f"{pair}: its segments are of {lengths[0]:g} s, not {lengths[1]:g} s; take models of one length"
        )
