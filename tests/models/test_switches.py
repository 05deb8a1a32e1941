"""Switches for speed: those that claim it give the same numbers, values and gradients; bf16 stays near."""

import numpy as np
import pytest
import torch
from made_up_checkpoints import SMALL
from omegaconf import OmegaConf

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.criterions.wav2vec2_with_cmsc import Wav2Vec2WithCmscCriterion
from fairseq_signals_ext.models.ecg_wav2vec2 import EcgWav2Vec2Config, Wav2Vec2CmscModel
from fairseq_signals_ext.models.faster_parts import FftConv1d, Fp32Quantizer, FusedSelfAttention, MatrixQuantizer

EXACT = ["fused_qkv", "fft_pos_conv", "fused_contrast", "checkpoint_activations"]
SIZES = {**SMALL, "encoder_ffn_embed_dim": 64, "encoder_attention_heads": 4, "num_negatives": 6}


def small(**options):
    torch.manual_seed(0)
    return Wav2Vec2CmscModel(EcgWav2Vec2Config(**{**SIZES, **options})).train()


def batch(padded=False):
    generator = torch.Generator().manual_seed(1)
    mask = torch.zeros(8, 31, dtype=torch.bool)
    mask[:, 4:19] = True
    masks = {"mask_indices": mask, "masked_frames": mask.nonzero()[:, 1].view(8, 15)}
    source = torch.randn(8, 12, 500, generator=generator)
    if padded:
        masks["padding_mask"] = torch.zeros(8, 500, dtype=torch.bool)
        masks["padding_mask"][3, 400:] = True
    return {
        "id": torch.arange(4).repeat_interleave(2),
        "patient_id": torch.arange(4).repeat_interleave(2),
        "segment": torch.tensor([0, 1] * 4),
        "net_input": {"source": source, **masks},
    }


def update(model, padded=False):
    """Loss and gradients, with dropout, Gumbel noise and negatives from the same seed."""
    criterion = Wav2Vec2WithCmscCriterion(None, loss_weights=[0.1, 10.0])
    torch.manual_seed(5)
    loss, frames, log = criterion(model, batch(padded))
    loss.backward()
    gradients = {name: value.grad / frames for name, value in model.named_parameters() if value.grad is not None}
    return float(loss) / frames, gradients, log


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("targets", ["quantized", "continuous"])
@pytest.mark.parametrize("switch", EXACT)
def test_same_update(switch, targets, padded):
    options = {"quantize_targets": targets == "quantized"}
    loss, gradients, _ = update(small(**options), padded)
    fast_loss, fast_gradients, _ = update(small(**options, **{switch: True}), padded)
    assert fast_loss == pytest.approx(loss, rel=1e-6)
    assert fast_gradients.keys() == gradients.keys()
    assert max(float(gradient.abs().max()) for gradient in gradients.values()) > 0.1
    for name, gradient in gradients.items():
        torch.testing.assert_close(fast_gradients[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("switch", EXACT)
def test_same_initial_weights_under_the_same_names(switch):
    expected, found = small().state_dict(), small(**{switch: True}).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_parts_are_exchanged():
    """So the comparisons above compare two things."""
    model = small(fused_qkv=True, fft_pos_conv=True, fused_contrast=True)
    assert all(type(layer.self_attn) is FusedSelfAttention for layer in model.encoder.layers)
    assert [type(module) for module in model.encoder.pos_conv.modules()].count(FftConv1d) == 1
    assert type(model.quantizer) is MatrixQuantizer
    assert type(small(bf16_autocast=True).quantizer) is Fp32Quantizer
    plain = small()
    assert not any(isinstance(layer.self_attn, FusedSelfAttention) for layer in plain.encoder.layers)
    assert not any(isinstance(module, FftConv1d) for module in plain.modules())
    assert not isinstance(plain.quantizer, Fp32Quantizer)


def test_attention_weights_as_before():
    plain, fused = (small(fused_qkv=fused, dropout=0.0, attention_dropout=0.0) for fused in (False, True))
    x = torch.randn(31, 3, 32)
    expected = plain.encoder.layers[0].self_attn(x, x, x, need_weights=True)
    found = fused.encoder.layers[0].self_attn(x, x, x, need_weights=True)
    assert torch.equal(found[1], expected[1])
    without, weights = fused.encoder.layers[0].self_attn(x, x, x, need_weights=False)
    assert weights is None
    torch.testing.assert_close(without, expected[0], rtol=0, atol=1e-6)


def test_codewords_of_fairseq():
    plain, matrix = small().quantizer, small(fused_contrast=True).quantizer
    x = torch.randn(3, 15, 16)
    for mode in (True, False):
        results = []
        for quantizer in (plain, matrix):
            torch.manual_seed(2)
            results.append(quantizer.train(mode)(x, produce_targets=True))
        assert results[0].keys() == results[1].keys()
        assert torch.equal(results[0]["targets"], results[1]["targets"])
        for key in ("x", "prob_perplexity", "code_perplexity"):
            torch.testing.assert_close(results[1][key], results[0][key], rtol=1e-6, atol=1e-6, msg=key)


@pytest.mark.parametrize(
    "option", [{"cross_sample_negatives": 3}, {"negatives_from_everywhere": True}, {"codebook_negatives": 2}]
)
def test_other_negatives_are_refused_with_fused_contrast(option):
    with pytest.raises(UserError, match=f"set model.{next(iter(option))} to its default"):
        small(fused_contrast=True, **option)


@pytest.mark.parametrize(
    "option", [{"cross_sample_negatives": 3}, {"negatives_from_everywhere": True}, {"codebook_negatives": 2}]
)
def test_other_negatives_work_without(option):
    loss, gradients, _ = update(small(**option))
    assert np.isfinite(loss) and all(gradient.isfinite().all() for gradient in gradients.values())


class Dtypes:
    """The dtypes that modules were given and gave, by a hook."""

    def __init__(self, model, names):
        self.seen = {}
        for name in names:
            model.get_submodule(name).register_forward_hook(self.keep(name))

    def keep(self, name):
        def hook(module, inputs, output):
            output = output["x"] if isinstance(output, dict) else output[0] if isinstance(output, tuple) else output
            self.seen[name] = output.dtype

        return hook


@pytest.mark.parametrize("fused", [False, True])
def test_what_bf16_autocast_keeps(fused):
    model = small(bf16_autocast=True, fused_contrast=fused)
    dtypes = Dtypes(model, ["encoder.layers.0.fc1", "quantizer.weight_proj", "quantizer"])
    loss, gradients, log = update(model)
    assert dtypes.seen == {
        "encoder.layers.0.fc1": torch.bfloat16,
        "quantizer.weight_proj": torch.float32,
        "quantizer": torch.float32,
    }
    assert all(gradient.dtype == torch.float32 for gradient in gradients.values())
    assert all(log[f"loss_{part}"].dtype == torch.float32 for part in range(4))
    expected, *_ = update(small(fused_contrast=fused))
    assert 0 < abs(loss - expected) / expected < 0.01


@pytest.mark.parametrize(
    "option",
    [
        {"checkpoint_activations": True},
        {"mask_channel_before": True, "mask_channel_prob": 0.2, "mask_channel_length": 4},
    ],
    ids=lambda option: next(iter(option)),
)
@pytest.mark.parametrize("padded", [False, True])
def test_bf16_autocast_with_other_options(option, padded):
    """That it trains at all; which features fairseq masks is drawn anew each time."""
    loss, gradients, _ = update(small(bf16_autocast=True, **option), padded)
    assert np.isfinite(loss) and all(gradient.isfinite().all() for gradient in gradients.values())


def test_checkpointing_under_autocast_gives_the_same_update():
    """What is recomputed for the backward pass is recomputed in bf16, too."""
    loss, gradients, _ = update(small(bf16_autocast=True))
    again, same, _ = update(small(bf16_autocast=True, checkpoint_activations=True))
    assert again == loss
    assert all(torch.equal(same[name], gradient) for name, gradient in gradients.items())


def test_bf16_autocast_is_of_training_only():
    plain, model = small().eval(), small(bf16_autocast=True).eval()
    source = batch()["net_input"]["source"]
    with torch.no_grad():
        assert torch.equal(model.extract_features(source)["x"], plain.extract_features(source)["x"])


@pytest.mark.parametrize("switches", [[name] for name in EXACT] + [["fused_qkv", "fft_pos_conv", "fused_contrast"]])
def test_golden_values(switches, golden_folder, registered):
    """With a hard quantizer, as in evaluation, but an encoder that trains, without dropout.

    Within the tolerance of the golden tests; a Fourier transform rounds more often, similarities are divided by 0.1.
    """
    checkpoint = torch.load(golden_folder / "tiny_pretrained.pt", weights_only=True)
    golden = np.load(golden_folder / "tiny_golden.npz")
    names = set(EcgWav2Vec2Config.__dataclass_fields__)
    options = {key: value for key, value in checkpoint["cfg"]["model"].items() if key in names}
    without_dropout = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "encoder_layerdrop": 0.0}
    on = dict.fromkeys(switches, True)
    config = OmegaConf.merge(OmegaConf.structured(EcgWav2Vec2Config), options, without_dropout, on)
    model = Wav2Vec2CmscModel(config).eval()
    model.encoder.train()
    model.load_state_dict(checkpoint["model"])
    model.set_num_updates(0)
    source, mask = torch.from_numpy(golden["source"]), torch.from_numpy(golden["mask_indices"])
    negatives = torch.from_numpy(golden["neg_idxs"]) % 65  # within a segment, as all of them are
    places = negatives.view(8, 65, 20).permute(2, 0, 1)
    if not model.cfg.fused_contrast:
        from fairseq_signals_ext.models.faster_parts import targets_at

        model.sample_negatives = lambda y, num, padding_count=None: (targets_at(y, places), places)
    else:
        model.sample_negatives = lambda y, num, padding_count=None: (places, places)
    with torch.no_grad():
        whole = model.extract_features(source)["x"]
        result = model(source, mask_indices=mask, masked_frames=mask.nonzero()[:, 1].view(8, 65))
    tolerance = 5e-6 if "fft_pos_conv" in switches else 1e-6
    for found, key, scale in (
        (whole, "encoder_out", 1),
        (result["features"], "masked_encoder_out", 1),
        (result["x"], "contrastive_logits", 10),
    ):
        expected = torch.from_numpy(golden[key])
        assert torch.equal(found.isinf(), expected.isinf())
        assert (found - expected)[expected.isfinite()].abs().max() <= scale * tolerance, key
    for key in ("prob_perplexity", "code_perplexity", "features_pen"):
        assert float(result[key]) == pytest.approx(float(golden[key]), rel=1e-6)
