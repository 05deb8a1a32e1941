"""Attributions per lead and sample: planted samples, completeness, and models without a gradient."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import made_up_counts, plain_recording, stored_recording

from fairseq_signals_ext.analysis.attribution import gradient_map
from fairseq_signals_ext.analysis.saliency import MapOptions, explain, way_to_look
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.inference.model import LoadedModel
from fairseq_signals_ext.inference.preprocessing import segments_of

GRADIENTS = ("gradient", "gradient:saliency", "gradient:input-x-gradient")


def recording_of_noise(samples, rate=500, leads=12):
    return plain_recording(np.random.default_rng(4).standard_normal((leads, samples)), rate)


@settings(deadline=None, max_examples=20)
@given(
    lead=st.integers(0, 11), sample=st.integers(0, 499), method=st.sampled_from(GRADIENTS), segments=st.integers(1, 3)
)
def test_only_the_planted_sample_matters(planted, lead, sample, method, segments):
    recording = recording_of_noise(500 * segments + 77)
    found = explain(planted(lead, sample), recording, "B", method)
    assert found.values.shape == (12, 500 * segments + 77) and found.leads == LEADS and found.label == "B"
    assert np.isnan(found.values[:, 500 * segments :]).all()
    planted_at = [(lead, 500 * segment + sample) for segment in range(segments)]
    assert list(zip(*np.nonzero(np.nan_to_num(found.values)))) == planted_at
    values = found.values[tuple(zip(*planted_at))]
    if method == "gradient:saliency":
        np.testing.assert_allclose(values, 2)
    else:  # the logit is twice the standardised sample
        signal = recording.signal[lead]
        standardised = (signal - signal.mean()) / signal.std()
        np.testing.assert_allclose(values, 2 * standardised[[at for _, at in planted_at]], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("rate", [1000, 400, 250])
def test_a_peak_is_at_its_own_second_at_any_rate(planted, rate):
    recording = recording_of_noise(4 * rate + 3, rate)
    saliency = explain(planted(2, 321), recording, "A", "gradient:saliency")
    second = 821 / 500  # of the second segment
    assert np.flatnonzero(saliency.values[2] == 1)[1] == 821
    assert abs(saliency.seconds[821] - second) <= 1 / 500
    drawn = saliency.at(recording)
    assert drawn.shape == recording.signal.shape
    around = drawn[2, round(rate * (second - 0.1)) : round(rate * (second + 0.1))]
    assert abs((round(rate * (second - 0.1)) + np.nanargmax(around)) / rate - second) <= 1 / min(rate, 500)
    assert np.nanmax(drawn[[0, 1, *range(3, 12)]]) == 0


ARCHITECTURES = {
    "plain": {},
    "pre-norm": {"layer_norm_first": True},
    "layer norm of convolutions": {"extractor_mode": "layer_norm", "conv_bias": True},
    "attention pooling": {"pooling": "attention"},
    "conformer": {"layer_type": "conformer"},
}


def logits(model, source, mask):
    with torch.no_grad():
        return model.network(torch.from_numpy(source), torch.from_numpy(mask))[0].numpy()


@pytest.mark.parametrize("options", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_completeness(made_up_model, options):
    model = made_up_model(**options)
    source = np.random.default_rng(2).standard_normal((3, 12, 500)).astype(np.float32)
    mask = np.arange(500) >= np.array([[500], [500], [320]])
    source[2, :, 320:] = 0
    difference = (logits(model, source, mask) - logits(model, 0 * source, mask))[:, 1]
    for steps, tolerance in ((50, 0.02), (100, 5e-4)):
        found = gradient_map(model, "B", "gradient", steps)(source, mask).sum(axis=(1, 2))
        np.testing.assert_allclose(found, difference, rtol=0, atol=tolerance * np.abs(difference).max())


def test_completeness_of_the_golden_classifier(golden_folder):
    import fairseq_signals_ext

    model = fairseq_signals_ext.load(golden_folder / "tiny_finetuned.pt", labels="ecg-fm")
    source = np.load(golden_folder / "tiny_golden.npz")["source"][:4]
    mask = np.zeros((4, 2500), bool)
    difference = (logits(model, source, mask) - logits(model, 0 * source, mask))[:, 6]
    found = gradient_map(model, "Atrial fibrillation", "gradient", 50)(source, mask).sum(axis=(1, 2))
    assert np.abs(found - difference).max() <= 2e-3 * np.abs(difference).max()


def test_gradient_is_that_of_finite_differences(made_up_model):
    model = made_up_model()
    source = np.random.default_rng(5).standard_normal((1, 12, 500)).astype(np.float32)
    mask = np.zeros((1, 500), bool)
    found = gradient_map(model, "C", "gradient:saliency", 1)(source, mask)
    towards = np.random.default_rng(6).standard_normal(source.shape).astype(np.float32)
    step = 3e-3
    higher, lower = (logits(model, source + sign * step * towards, mask)[0, 2] for sign in (1, -1))
    np.testing.assert_allclose((found * towards).sum(), (higher - lower) / (2 * step), rtol=0.02)
    times_input = gradient_map(model, "C", "gradient:input-x-gradient", 1)(source, mask)
    np.testing.assert_allclose(times_input, found * source, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("method", [*GRADIENTS, "occlusion"])
def test_a_segment_does_not_depend_on_its_batch(made_up_model, method):
    # segments of 1 s, one every 5 s
    recording = stored_recording(made_up_counts(np.random.default_rng(0), 9 * 2500))
    model = made_up_model()
    found = explain(model, recording, "A", method).values
    source, mask = segments_of(recording, model.preprocessing)
    assert len(source) == 9
    for number in (0, 7, 8):
        alone = way_to_look(model, "A", MapOptions(method))(source[number : number + 1], mask[number : number + 1])[0]
        its = found[..., 2500 * number : 2500 * number + 500]
        np.testing.assert_allclose(its, alone, rtol=0, atol=1e-4 * np.abs(alone).max())
        assert np.isnan(found[..., 2500 * number + 500 : 2500 * (number + 1)]).all()


def test_missing_leads_have_no_row(planted):
    recording = recording_of_noise(500, leads=2)
    found = explain(planted(1, 100), recording, "A", "gradient")
    assert found.leads == LEADS[:6] and found.values.shape == (6, 500)  # limb leads are computed
    assert np.abs(found.values[1]).argmax() == 100
    assert found.at(recording).shape == (2, 500)


def test_values_of_a_regression(made_up_model):
    model = made_up_model("regression")
    recording = stored_recording(made_up_counts(np.random.default_rng(0), 1000))
    found = explain(model, recording, method="gradient:saliency")
    assert found.label == "A" and np.nanmax(np.abs(found.values)) > 0


def test_models_that_cannot_be_explained_are_one_line(made_up_model):
    recording = stored_recording(made_up_counts(np.random.default_rng(0), 500))
    model = made_up_model()
    for message, arguments in {
        "^label 'D': made_up.pt has A, B, C; name one of them$": (model, recording, "D", "gradient"),
        "^label 'A': attention is the same for all labels": (model, recording, "A", "attention"),
        "^method 'lime': use one of attention, rollout, gradient,": (model, recording, "A", "lime"),
        "pretrained model without labels; use the method attention or rollout$": (
            *(made_up_model("pretraining"), recording, None, "gradient"),
        ),
        "input is quantized, which has no gradient; use the method attention or occlusion$": (
            *(made_up_model(quantize_input=True), recording, "A", "gradient"),
        ),
    }.items():
        with pytest.raises(UserError, match=message):
            explain(*arguments)
    for options in ({"layer": 1}, {"steps": 0}, {"window": 0.0}, {"window": float("nan")}):
        with pytest.raises(UserError, match=f"^{next(iter(options))} .*; |: give "):
            explain(model, recording, "A", "gradient", **options)


def test_a_recording_that_is_too_short(made_up_model):
    recording = stored_recording(made_up_counts(np.random.default_rng(0), 12))
    for method in ("attention", "rollout", "gradient"):
        with pytest.raises(
            UserError, match=r"^recording 'r': no numbers come out of the model; give a recording longer than 0.024 s$"
        ):
            explain(made_up_model(), recording, method=method)


def test_a_pretrained_model_has_attention(made_up_model):
    recording = stored_recording(made_up_counts(np.random.default_rng(0), 700))
    found = explain(made_up_model("pretraining"), recording)
    assert np.isfinite(found.values[:496]).all() and np.isnan(found.values[496:]).all()


def test_exports_that_only_run_are_refused(made_up_model):
    recording = stored_recording(made_up_counts(np.random.default_rng(0), 500))
    model = made_up_model()
    export = LoadedModel(model.description, lambda source, mask: model.backend(source, mask), "model.onnx")
    for method in ("attention", "rollout", *GRADIENTS, "occlusion"):
        with pytest.raises(
            UserError,
            match="^model.onnx: an ONNX or TorchScript export has only its outputs; give the checkpoint",
        ):
            explain(export, recording, method=method)
