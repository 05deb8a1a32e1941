"""The model beyond the golden settings: sizes, targets, padding, names of parameters, reconstruction."""

import made_up_checkpoints
import pytest
import torch

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.models.ecg_wav2vec2 import EcgWav2Vec2Config, EcgWav2Vec2Model, Wav2Vec2CmscModel

SMALL = {**made_up_checkpoints.SMALL, "num_negatives": 6}


def small(cls=Wav2Vec2CmscModel, **options):
    torch.manual_seed(0)
    return cls(EcgWav2Vec2Config(**{**SMALL, **options}))


def masks(segments, frames=31):
    mask = torch.zeros(segments, frames, dtype=torch.bool)
    mask[:, 4:19] = True
    return mask


def test_base_size():
    model = Wav2Vec2CmscModel(EcgWav2Vec2Config())
    assert sum(parameter.numel() for parameter in model.parameters()) == 90_883_072


VARIANTS = {
    "pre-norm": {"layer_norm_first": True},
    "layer norm in every convolution": {"extractor_mode": "layer_norm"},
    "bias": {"conv_bias": True},
    "odd conv_pos": {"conv_pos": 15},
    "GLU targets": {"target_glu": True},
    "continuous targets": {"quantize_targets": False},
    "quantized input": {"quantize_input": True},
    "same quantizer": {"quantize_input": True, "same_quantizer": True, "latent_dim": 8},
    "fewer leads": {"in_d": 3},
    "same size of convolutions and transformer": {"encoder_embed_dim": 16},
    "frozen convolutions": {"feature_grad_mult": 0.0},
    "negatives from everywhere": {"negatives_from_everywhere": True},
    "negatives of other segments": {"cross_sample_negatives": 3},
    "negatives of the codebook": {"codebook_negatives": 3},
    "masked features": {"mask_channel_prob": 0.5, "mask_channel_length": 4},
    "even number of frames": {"required_seq_len_multiple": 2},
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_variant_trains_and_comes_back_from_its_weights(options):
    model = small(**options)
    source = torch.randn(4, options.get("in_d", 12), 500)
    result = model(source, mask_indices=masks(4))
    negatives = 6 + options.get("cross_sample_negatives", 0) + options.get("codebook_negatives", 0)
    assert result["x"].shape == (1 + negatives, 4, 15)
    assert result["features"].shape == (4, 31, options.get("encoder_embed_dim", 32))
    target = model.get_targets(None, result)
    loss = torch.nn.functional.cross_entropy(model.get_logits(result), target)
    (loss + sum(part for part in model.get_extra_losses(result) if part is not None)).backward()
    trained = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    assert ("feature_extractor.conv_layers.0.0.weight" in trained) == (options.get("feature_grad_mult") != 0)

    again = small(**options)
    again.load_state_dict({key: value.clone() for key, value in model.state_dict().items()})
    expected = model.eval().extract_features(source)["x"]
    assert torch.equal(again.eval().extract_features(source)["x"], expected)


def test_what_comes_back_is_fairseqs():
    from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Model

    assert issubclass(Wav2Vec2CmscModel, EcgWav2Vec2Model) and issubclass(EcgWav2Vec2Model, Wav2Vec2Model)
    model, source = small(EcgWav2Vec2Model).eval(), torch.randn(2, 12, 500)
    result = model(source, mask_indices=masks(2))
    assert set(result) == {
        *("x", "padding_mask", "features_pen", "prob_perplexity", "code_perplexity", "num_vars", "temp", "features")
    }
    assert set(model.extract_features(source)) == {"x", "padding_mask", "features", "layer_results"}
    assert model.extract_features(source, layer=0)["x"].shape == (2, 31, 32)
    assert model._encoder_output is None  # nothing is kept between calls


def test_features_are_the_encoders_output_under_the_mask():
    model, source, mask = small().eval(), torch.randn(2, 12, 500), masks(2)
    with torch.no_grad():
        hidden = model.layer_norm(model.feature_extractor(source).transpose(1, 2))
        hidden = model.post_extract_proj(hidden)
        hidden[mask] = model.mask_emb
        expected, _ = model.encoder(hidden)
        assert torch.equal(model(source, mask_indices=mask)["features"], expected)


def test_mean_over_frames_leaves_padding_out():
    model = small().eval()
    features, padding = torch.randn(2, 31, 32), torch.zeros(2, 31, dtype=torch.bool)
    padding[1, 20:] = True
    output = {"features": features, "padding_mask": padding}
    expected = torch.stack([features[0].mean(dim=0), features[1, :20].mean(dim=0)])
    torch.testing.assert_close(model.get_features(output, aggregate=True), expected)
    assert torch.equal(model.get_features(output), features)


def test_encoder_output_of_a_padded_segment_does_not_depend_on_the_padding():
    model = small(extractor_mode="layer_norm").eval()  # whose normalisation does not span the frames
    source, padding = torch.randn(2, 12, 500), torch.zeros(2, 500, dtype=torch.bool)
    padding[1, 320:] = True
    changed = source.clone()
    changed[1, :, 320:] = 7
    with torch.no_grad():
        one, other = (model.extract_features(value, padding)["x"] for value in (source, changed))
    assert torch.equal(one[1, :20], other[1, :20])


@pytest.mark.parametrize("stored", ["parametrized", "old"])
@pytest.mark.parametrize("theirs", [True, False], ids=["ECG-FM's name", "fairseq's name"])
def test_names_of_the_positional_convolution(stored, theirs):
    model = small()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    names = {
        "old": ("weight_g", "weight_v"),
        "parametrized": ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    }
    own = next(pair for pair in names.values() if f"encoder.pos_conv.0.{pair[0]}" in state)
    for mine, wanted in zip(own, names[stored]):
        state[f"encoder.pos_conv.0.{wanted}"] = state.pop(f"encoder.pos_conv.0.{mine}")
    if theirs:
        for key in [key for key in state if key.startswith("encoder.pos_conv")]:
            state["conv_pos." + key[len("encoder.") :]] = state.pop(key)
    again = small()
    again.load_state_dict(state)
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda state: state.pop("final_proj.bias"), "it lacks final_proj.bias$"),
        (lambda state: state.update(extra=torch.zeros(1)), "it has the unknown extra$"),
        (lambda state: state.update({"mask_emb": torch.zeros(5)}), r"mask_emb is \(5,\) there and \(32,\) here$"),
    ],
)
def test_strictness(change, message):
    state = dict(small().state_dict())
    change(state)
    with pytest.raises(UserError, match=message):
        small().load_state_dict(dict(state))
    with pytest.raises(SystemExit, match=message):
        small().load_state_dict(dict(state), model_cfg=small().cfg)


def test_reconstruction_regresses_the_signal_under_a_frame():
    model = small()
    with pytest.raises(UserError, match="reconstruction_weight"):
        model.reconstruct(torch.zeros(3, 32))
    model.add_reconstruction_head()
    assert model.reconstruct(torch.zeros(2, 5, 32)).shape == (2, 5, 12, 16)
    again = small()
    again.load_state_dict(dict(model.state_dict()))
    assert torch.equal(again.reconstruction_head.weight, model.reconstruction_head.weight)
