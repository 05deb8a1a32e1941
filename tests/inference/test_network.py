"""The network computes what the model's own forward does, for every architecture, with and without padding."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_checkpoints import SAMPLES, made_up_checkpoint

import fairseq_signals_ext
from fairseq_signals_ext.checkpoints.describing import describe
from fairseq_signals_ext.checkpoints.reading import Checkpoint, read_checkpoint
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.inference.network import build_model, build_network
from fairseq_signals_ext.models.encoder import Encoder
from fairseq_signals_ext.models.pooling import mean_over_frames

TOLERANCE = 1e-6
ARCHITECTURES = {
    "plain": {},
    "pre-norm": {"layer_norm_first": True},
    "bias and odd conv_pos": {"conv_bias": True, "conv_pos": 15},
    "layer norm of convolutions": {"extractor_mode": "layer_norm"},
    "attention pooling": {"pooling": "attention"},
    "query pooling": {"pooling": "query"},
    "mean and deviation": {"pooling": "mean_std"},
    "one layer": {"layers": 1},
    "first input": {"layers": 0, "layer_norm_first": True},
    "mix of layers": {"layers": "mix", "pooling": "query", "pooling_heads": 4},
    "pre-norm mix": {"layers": "mix", "layer_norm_first": True, "required_seq_len_multiple": 4},
    "mix of a conformer": {"layers": "mix", "layer_type": "conformer"},
    "deep conv_pos": {"pos_conv_depth": 3},
    "quantized input": {"quantize_input": True},
    "one quantizer": {"quantize_input": True, "same_quantizer": True, "final_dim": 32},
    "conformer": {"layer_type": "conformer"},
    "multiple of frames": {"required_seq_len_multiple": 4},
    "crop": {"crop_seq_to_multiple": 4},
    "long kernels": {"conv_feature_layers": "[(16, 10, 5)] + [(32, 3, 2)] * 2"},
    "fewer leads": {"in_d": 3},
    "saved memory": {"checkpoint_activations": True},
}


def given_to(checkpoint, lengths):
    """Random segments with these numbers of samples that are not padding."""
    return _segments(checkpoint.model_config["in_d"], lengths)


def _segments(leads, lengths):
    source = torch.randn(len(lengths), leads, SAMPLES, generator=torch.Generator().manual_seed(len(lengths)))
    padding = torch.arange(SAMPLES) >= torch.tensor(lengths).unsqueeze(1)
    return source.masked_fill(padding.unsqueeze(1), 0), padding


def largest(found, expected):
    return max(float((ours - theirs).abs().max()) for ours, theirs in zip(found, expected))


@pytest.mark.parametrize("options", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_equals_the_classifiers_own_forward(options):
    checkpoint = made_up_checkpoint(**options)
    model, network = build_model(checkpoint), build_network(checkpoint, describe(checkpoint))
    for lengths in ([SAMPLES], [SAMPLES] * 3, [200], [300, SAMPLES, 211]):
        source, padding = given_to(checkpoint, lengths)
        with torch.no_grad():
            expected = model(source, padding)
            embedding = mean_over_frames(expected["encoder_out"], expected["padding_mask"])
            found = network(source, padding)
        assert [tuple(output.shape) for output in found] == [(len(lengths), 3), (len(lengths), 32)]
        assert largest(found, (expected["out"], embedding)) <= TOLERANCE, lengths


@pytest.mark.parametrize("options", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_all_layers_of_one_pass_equal_those_of_one_each(options):
    checkpoint = made_up_checkpoint(**options)
    encoder = build_model(checkpoint).encoder
    source, padding = given_to(checkpoint, [300, SAMPLES, 211])
    with torch.no_grad():
        found, padded = encoder.all_frames(source, padding)
        in_turn, again = Encoder.all_frames(encoder, source, padding)
        output, _ = encoder.frames(source, padding)
    assert len(found) == len(in_turn) == encoder.layers + 1 + bool(options.get("layer_norm_first"))
    assert all(torch.equal(*pair) for pair in zip(found, in_turn)) and torch.equal(padded, again)
    assert torch.equal(found[-1], output)


@pytest.mark.parametrize("options", [{}, {"layer_norm_first": True, "target_glu": True}, {"quantize_targets": False}])
def test_embedding_of_a_pretrained_model(options):
    checkpoint = made_up_checkpoint("pretraining", **options)
    model, network = build_model(checkpoint), build_network(checkpoint, describe(checkpoint))
    source, padding = given_to(checkpoint, [300, SAMPLES])
    with torch.no_grad():
        expected = model.extract_features(source, padding)
        (found,) = network(source, padding)
    assert largest((found,), (mean_over_frames(expected["x"], expected["padding_mask"]),)) <= TOLERANCE


def test_values_of_a_regression_are_in_the_labels_unit():
    checkpoint = made_up_checkpoint("regression")
    model, network = build_model(checkpoint), build_network(checkpoint, describe(checkpoint))
    source, padding = given_to(checkpoint, [SAMPLES, 300])
    with torch.no_grad():
        standardised, (values, _) = model(source, padding)["out"], network(source, padding)
    assert not network.target_std.requires_grad
    expected = standardised.double() * torch.tensor([17.0, 0.1, 300.0]) + torch.tensor([60.0, -2.0, 1000.0])
    torch.testing.assert_close(values.double(), expected, rtol=1e-6, atol=1e-5)


def test_golden(golden_folder):
    golden = np.load(golden_folder / "tiny_golden.npz")
    whole = torch.zeros(8, 2500, dtype=torch.bool)
    for name in ("tiny_finetuned", "tiny_pretrained"):
        checkpoint = read_checkpoint(golden_folder / f"{name}.pt")
        with torch.no_grad():
            outputs = build_network(checkpoint, describe(checkpoint, labels=None))(
                torch.from_numpy(golden["source"]), whole
            )
        if name == "tiny_finetuned":
            assert np.abs(outputs[0].numpy() - golden["clf_logits"]).max() <= TOLERANCE
        else:
            assert np.abs(outputs[0].numpy() - golden["encoder_out"].mean(axis=1)).max() <= TOLERANCE


@pytest.fixture(scope="module")
def network():
    checkpoint = made_up_checkpoint()
    return build_network(checkpoint, describe(checkpoint))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(SAMPLES // 2, SAMPLES), min_size=1, max_size=4))
def test_a_segment_does_not_depend_on_the_others(network, lengths):
    source, padding = _segments(12, lengths)
    with torch.no_grad():
        together = network(source, padding)
        alone = [network(source[row : row + 1], padding[row : row + 1]) for row in range(len(lengths))]
    for place in (0, 1):
        apart = torch.cat([outputs[place] for outputs in alone])
        # values are up to 3, and their last bits depend on the order of sums
        torch.testing.assert_close(together[place], apart, rtol=TOLERANCE, atol=TOLERANCE)


def test_it_is_ready_to_use(network):
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def changed(checkpoint, **options):
    sections = {**checkpoint.config, "model": {**checkpoint.config["model"], **options}}
    return Checkpoint(checkpoint.path, {**checkpoint.state, "cfg": sections})


def test_options_of_another_framework_are_ignored():
    build_model(changed(made_up_checkpoint(), saliency=True, all_gather=False, in_channels=12))


WRONG = {
    "made_up.pt: model 'clocs'; use one of .*ecg_transformer_classifier": {"_name": "clocs"},
    "made_up.pt: Invalid value 'swish'": {"activation_fn": "swish"},
    "made_up.pt: conv_feature_layers='print": {"conv_feature_layers": "print(1)"},
    r"made_up.pt: .* lacks encoder.encoder.layers.2.self_attn": {"encoder_layers": 3},
    r"made_up.pt: .* is \(3, 32\) there and \(4, 32\) here": {"num_labels": 4},
}


@pytest.mark.parametrize(("message", "options"), WRONG.items(), ids=[next(iter(each)) for each in WRONG.values()])
def test_a_config_that_does_not_fit_is_named(message, options):
    fairseq_signals_ext.register()  # which patches what fairseq says of options
    with pytest.raises(UserError, match=message) as error:
        build_model(changed(made_up_checkpoint(), **options))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", [{"layer_type": "conformer", "pos_enc_type": "rope"}, {"layer_type": "trf_adp"}])
def test_an_encoder_that_fairseq_itself_cannot_run(options):
    checkpoint = changed(made_up_checkpoint(), **options)
    with pytest.raises(UserError, match=f"made_up.pt: .*layer_type={options['layer_type']}"):
        build_network(checkpoint, describe(checkpoint))


def test_attention_of_several_threads(network):
    """They share the layers: none must get another's attention, nor give its own where it only predicts."""
    sources = torch.randn(6, 1, 12, SAMPLES, generator=torch.Generator().manual_seed(0))
    padding = torch.zeros(1, SAMPLES, dtype=torch.bool)
    expected = [network.attention(source, padding) for source in sources]

    def asked(number):
        if number % 3 == 2:
            return len(network(sources[number % 6], padding)) == 2
        return torch.equal(network.attention(sources[number % 6], padding), expected[number % 6])

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(asked, range(90)))
