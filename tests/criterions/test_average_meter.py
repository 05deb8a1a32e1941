"""What is logged is a weighted average, read from its device only where it is shown or saved."""

import pytest
import torch
from fairseq.logging import meters, metrics
from hypothesis import given
from hypothesis import strategies as st

from fairseq_signals_ext.criterions.ranks import AverageMeter, log_average
from fairseq_signals_ext.criterions.wav2vec2_with_cmsc import Wav2Vec2WithCmscCriterion

finite = st.floats(-1e6, 1e6)


@given(st.lists(st.tuples(finite, st.integers(1, 1000)), min_size=1, max_size=9), st.booleans())
def test_same_as_fairseqs(values, as_tensors):
    ours, theirs = AverageMeter(round=3), meters.AverageMeter(round=3)
    for value, weight in values:
        ours.update(torch.tensor(value, dtype=torch.float64) if as_tensors else value, weight)
        theirs.update(value, weight)
    assert ours.smoothed_value == pytest.approx(theirs.smoothed_value, abs=1e-9)
    assert isinstance(ours.smoothed_value, float)
    restored = meters.AverageMeter()
    restored.load_state_dict(ours.state_dict())
    assert restored.smoothed_value == pytest.approx(theirs.smoothed_value, abs=1e-9)


def test_empty_after_reset():
    meter = AverageMeter(round=3)
    meter.update(1.0)
    meter.reset()
    assert meter.smoothed_value is None


def test_fairseq_restores_it():
    """As it does of a checkpoint, by the name of the class."""
    with metrics.aggregate() as aggregated:
        log_average("loss", torch.tensor(2.0), 3)
    restored = meters.MetersDict()
    restored.load_state_dict(aggregated.state_dict())
    assert restored["loss"].smoothed_value == 2.0


def test_nothing_is_read_from_a_device():
    """A tensor on the meta device has no value: to ask for one is an error."""
    value = torch.zeros((), device="meta")
    log = {"loss": value, "loss_0": value, "sample_size": 10, "ntokens": 10, "nsentences": 2, "batches": 1}
    log.update(correct=value, count=10, cmsc_correct=value, cmsc_count=2, temp=2.0, prob_perplexity=value)
    with metrics.aggregate() as aggregated:
        Wav2Vec2WithCmscCriterion.reduce_metrics([log, log])
    shown = aggregated.get_smoothed_values()
    assert {key for key, found in shown.items() if torch.is_tensor(found)} == {
        "loss",
        "loss_0",
        "accuracy",
        "cmsc_accuracy",
        "prob_perplexity",
    }
    assert shown["temp"] == 2.0 and shown["ntokens"] == 20
    with pytest.raises(RuntimeError):
        shown["loss"].item()
