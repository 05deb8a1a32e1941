"""A map must change with the weights of the model."""

import numpy as np
import pytest
import torch
from made_up import made_up_counts, stored_recording
from scipy.stats import spearmanr

from fairseq_signals_ext.analysis.saliency import Saliency, explain
from fairseq_signals_ext.analysis.sanity import map_correlation, sanity_check, with_random_weights

RECORDING = stored_recording(made_up_counts(np.random.default_rng(0), 1700))


def map_of(values):
    return Saliency("gradient", "A", np.asarray(values, np.float32), (), 500.0, 1.0)


def test_correlation_is_spearmans_of_magnitudes_where_both_are_known():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 300)).round(1)
    expected = spearmanr(np.abs(one[10:-20]), np.abs(other[10:-20])).statistic
    one[:10], other[-20:] = np.nan, np.nan
    assert map_correlation(map_of(one), map_of(other)) == pytest.approx(expected, abs=1e-6)
    assert np.isnan(map_correlation(map_of(np.ones(5)), map_of(np.arange(5))))


@pytest.mark.parametrize("method", ["attention", "rollout", "gradient:saliency"])
def test_same_weights_are_one_and_random_weights_are_near_zero(made_up_model, method):
    model = made_up_model()
    saliency = explain(model, RECORDING, method=method)
    assert map_correlation(saliency, explain(model, RECORDING, method=method)) == pytest.approx(1)
    found = [sanity_check(model, RECORDING, method=method, seed=seed) for seed in range(4)]
    assert len(set(found)) == 4 and abs(np.mean(found)) < 0.5 and max(np.abs(found)) < 0.8
    assert sanity_check(model, RECORDING, method=method, seed=2) == found[2]


def test_a_map_that_is_not_of_the_model_is_found_out(planted):
    # it has no weights, so always looks at the same place
    assert sanity_check(planted(2, 100), RECORDING, "A", "gradient:saliency") == pytest.approx(1)


def test_the_model_stays_as_it_was(made_up_model):
    model = made_up_model()
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    other = with_random_weights(model, seed=1)
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, before[name]), name
    changed = other.network.state_dict()
    for name, value in changed.items():  # the same values in another order
        assert torch.equal(value.flatten().sort().values, before[name].flatten().sort().values), name
    assert not all(torch.equal(value, before[name]) for name, value in changed.items())
    assert other.network is not model.network
    model.predict(RECORDING)
