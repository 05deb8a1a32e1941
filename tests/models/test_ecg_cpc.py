"""What contrastive predictive coding computes: its state-space kernels, which frames see what, and the loss."""

import math

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from scipy.signal import cont2discrete
from torch.utils.flop_counter import FlopCounterMode

from fairseq_signals_ext import configs_dir

SMALL = {
    "conv_feature_layers": "[(16, 10, 5), (24, 4, 2)]",
    "encoder_layers": 3,
    "encoder_embed_dim": 32,
    "state_size": 6,
    "prediction_steps": 3,
    "num_negatives": 10,
}
SAMPLES, FRAMES, HOP, FIELD = 500, 48, 10, 25


def cpc(**options):
    from fairseq_signals_ext.models.ecg_cpc import EcgCpcConfig, EcgCpcModel

    torch.manual_seed(0)
    return EcgCpcModel(EcgCpcConfig(**{**SMALL, **options}))


def source(segments=3):
    return torch.randn(segments, 12, SAMPLES, generator=torch.Generator().manual_seed(1))


def no_padding(x):
    return torch.zeros(x[:, 0].shape).bool()


def convolution(dimensions=5, state_size=6):
    """With learned values other than those at the start."""
    from fairseq_signals_ext.models.state_space import StateSpaceConvolution

    torch.manual_seed(0)
    layer = StateSpaceConvolution(dimensions, state_size)
    with torch.no_grad():
        for value in (layer.log_step, layer.log_decay, layer.frequency):
            value.normal_(std=0.3)
    return layer.double()


def test_the_kernel_is_the_impulse_response_of_its_systems():
    """Computed step by step, with scipy's discretisation of each system by zero-order hold."""
    layer = convolution()
    found = layer.kernel(torch.zeros(1, 5, 40, dtype=torch.double))
    for feature in range(5):
        step = math.exp(float(layer.first_log_step[feature] + layer.log_step[feature].detach()))
        decay = 0.5 * layer.log_decay[feature].exp().detach().numpy()
        poles = -decay + 1j * (layer.first_frequency + layer.frequency[feature]).detach().numpy()
        output = layer.output[feature].detach().numpy() @ [1, 1j]
        system = (np.diag(poles), np.ones((3, 1)), output[None], np.zeros((1, 1)))
        a, b, c, _, _ = cont2discrete(system, step, method="zoh")
        state, expected = b, []
        for _ in range(40):
            expected.append(2 * (c @ state).real.item())
            state = a @ state
        np.testing.assert_allclose(found[feature].detach().numpy(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("frames", [1, 2, 37, 250])
def test_training_and_use_compute_the_same(frames):
    """By Fourier transform and as a plain convolution, against a sum in numpy."""
    layer = convolution().float()
    x = torch.randn(2, 5, frames)
    kernel, values = layer.kernel(x).detach().numpy(), x.numpy()
    expected = np.stack(
        [
            [np.convolve(values[row, e], kernel[e])[:frames] + values[row, e] * layer.skip[e].item() for e in range(5)]
            for row in range(2)
        ]
    )
    for mode in (True, False):
        np.testing.assert_allclose(layer.train(mode)(x).detach().numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("training", [True, False])
def test_frames_depend_on_the_past_only(training):
    """Gradients of frame 20 are 0 for all samples after it; up to rounding where a Fourier transform is between."""
    model, x = cpc().train(training), source().requires_grad_()
    found, _ = model.frames(x, no_padding(x))
    assert found.shape == (3, FRAMES, 32)
    (gradient,) = torch.autograd.grad(found[:, 20].square().sum(), x)
    last = 20 * HOP + FIELD
    assert gradient[..., last:].abs().max() <= (1e-5 if training else 0) * gradient.abs().max()
    assert gradient[..., last - HOP : last].abs().min() > 0 and gradient[..., :HOP].abs().max() > 0


def test_the_predictor_sees_nothing_of_what_it_predicts():
    model, x = cpc().eval(), source().requires_grad_()
    outputs = model.encoder.outputs(x)
    predicted = model.predictor(model.encoder.norm(outputs[-1]))[:, :-3]
    (gradient,) = torch.autograd.grad(predicted[:, 10].square().sum(), x)
    # the first samples of frame 13 are the last of frame 10, as convolutions overlap; all others are unseen
    assert not gradient[..., 10 * HOP + FIELD :].any()


def test_the_loss_is_the_cross_entropy_among_frames_of_the_segment(monkeypatch):
    """Written out frame by frame, with chosen negatives."""
    from fairseq_signals_ext.models import ecg_cpc

    model, x = cpc().eval(), source()
    drawn = torch.stack([torch.randperm(FRAMES - 3)[:10] for _ in range(3 * (FRAMES - 3))]).view(3, FRAMES - 3, 10)
    monkeypatch.setattr(ecg_cpc, "draw_negatives", lambda *args: drawn.permute(2, 0, 1))
    result = model(x)
    outputs = model.encoder.outputs(x)
    predicted = model.predictor(model.encoder.norm(outputs[-1])).detach().numpy()
    features = outputs[0].detach().numpy()
    loss = correct = 0
    for row in range(3):
        for frame in range(FRAMES - 3):
            choices = features[row, 3:][[frame, *drawn[row, frame].tolist()]]
            cosines = choices @ predicted[row, frame] / np.linalg.norm(choices, axis=1)
            scores = cosines / np.linalg.norm(predicted[row, frame]) / 0.1
            loss += np.log(np.exp(scores).sum()) - scores[0]
            correct += scores[0] > scores[1:].max()
    assert float(result["losses"]["contrast"].detach()) == pytest.approx(loss, rel=1e-4)
    assert int(result["correct"]) == correct and int(result["sample_size"]) == 3 * (FRAMES - 3)


def test_padding_is_neither_predicted_nor_a_choice():
    """The loss of a padded recording is that of the recording alone, when no choice is padding."""
    model, x = cpc(num_negatives=400).eval(), source(1)
    padding = torch.arange(SAMPLES)[None] >= 300
    x[..., 300:] = 0
    noise = torch.where(padding.unsqueeze(1), torch.randn_like(x), x)
    torch.manual_seed(3)
    found = model(x, padding)
    torch.manual_seed(3)
    other = model(noise, padding)
    assert int(found["sample_size"]) == (300 - FIELD) // HOP + 1 - 3
    # frames before the padding do not depend on it, and padded frames are no choices
    assert float(found["losses"]["contrast"]) == float(other["losses"]["contrast"]) > 0
    nothing = model(x, torch.ones_like(padding))
    assert float(nothing["losses"]["contrast"]) == 0 == int(nothing["sample_size"])


@pytest.mark.parametrize("layer", [None, 0, 2])
def test_padding_changes_no_frame(layer):
    model, x = cpc().eval(), source()
    padding = torch.arange(SAMPLES) >= torch.tensor([SAMPLES, 300, 211])[:, None]
    frames, padded = model.frames(x.masked_fill(padding.unsqueeze(1), 0), padding, layer)
    assert (~padded).sum(1).tolist() == [48, 28, 19]
    for row, length in enumerate((SAMPLES, 300, 211)):
        alone, none = model.frames(x[row : row + 1, :, :length], torch.zeros(1, length).bool(), layer)
        assert not none.any()
        torch.testing.assert_close(frames[row : row + 1, : alone.size(1)], alone, atol=1e-5, rtol=0)


def test_all_layers_in_one_pass():
    model, x = cpc().eval(), source()
    found, _ = model.all_frames(x, no_padding(x))
    assert len(found) == 5
    for layer, frames in zip((0, 1, 2, 3, None), found):
        torch.testing.assert_close(frames, model.frames(x, no_padding(x), layer)[0], atol=1e-6, rtol=0)
    names = [name for name, _ in model.named_parameters() if name.startswith("encoder.")]
    assert {model.layer_of(name) for name in names} == {-1, 0, 1, 2, 3}


def test_weight_decay_pulls_kernels_to_where_they_began():
    """With nothing but weight decay, time steps, decays and frequencies return to their first values."""
    from fairseq_signals_ext.models.state_space import StateSpaceConvolution

    torch.manual_seed(0)
    first = StateSpaceConvolution(5, 6)
    layer = convolution().float()
    with torch.no_grad():
        for value in (layer.log_step, layer.log_decay, layer.frequency):
            value.mul_(0)
        layer.output.copy_(first.output)
    x = torch.zeros(1, 5, 100)
    torch.testing.assert_close(layer.kernel(x), first.kernel(x))
    steps = first.first_log_step.exp()
    assert float(steps[0]) == pytest.approx(0.001) and float(steps[-1]) == pytest.approx(0.1)
    assert not [name for name in first.state_dict() if name.startswith("first_")]


def test_bf16_autocast():
    model, in_bf16, x = cpc().train(), cpc(bf16_autocast=True).train(), source()
    losses = []
    for one in (model, in_bf16):
        torch.manual_seed(1)
        losses.append(one(x)["losses"]["contrast"])
    losses[1].backward()
    assert in_bf16.encoder.projection.weight.grad.dtype == torch.float32
    assert float(losses[1].detach()) == pytest.approx(float(losses[0].detach()), rel=0.02)
    assert float(losses[1].detach()) != float(losses[0].detach())


def test_it_learns_what_comes_next():
    """Segments with a rhythm of their own: within 150 updates most predicted frames are found among eleven."""
    model = cpc(prediction_steps=2).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    times = torch.arange(SAMPLES) / SAMPLES
    for _ in range(150):
        rates = 3 + 6 * torch.rand(8, 1, generator=generator)
        waves = torch.sin(2 * math.pi * (rates * times + torch.rand(8, 1, generator=generator)))
        result = model(waves.unsqueeze(1).expand(8, 12, SAMPLES))
        optimizer.zero_grad()
        (result["losses"]["contrast"] / result["sample_size"]).backward()
        optimizer.step()
    assert int(result["correct"]) / int(result["sample_size"]) > 0.5


def test_parameters_and_operations_of_the_full_size(capsys):
    """Counted by hand and by torch: matrix products for 10 s; Fourier transforms are not counted."""
    config = OmegaConf.load(f"{configs_dir('pretraining')}/ecg_cpc.yaml").model
    options = {key: value for key, value in config.items() if key not in ("_name", "bf16_autocast")}
    model = cpc(**options).train()
    width, frames, ahead = 512, (5000 - 5) // 4 + 1, 14
    convolutions = 12 * 5 * width + 3 * width**2
    kernels = width * (1 + 2 * 4 + 2 * 4 + 1)  # steps, decays, frequencies, outputs and the input's weights
    layer = 2 * width + kernels + 2 * width**2 + 2 * width
    encoder = convolutions + 4 * 2 * width + width**2 + width + 4 * layer + 2 * width
    found = sum(value.numel() for value in model.encoder.parameters())
    assert found == encoder and sum(value.numel() for value in model.predictor.parameters()) == width**2 + width
    products = frames * (convolutions + width**2 + 4 * 2 * width**2 + width**2) + (frames - ahead) ** 2 * width
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 12, 5000))
    assert counter.get_total_flops() == 2 * products
    with capsys.disabled():
        print(f"\necg_cpc: encoder {encoder / 1e6:.1f} M parameters, training {6 * products / 1e9:.1f} GFLOP for 10 s")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state_size": 7}, "model.state_size=7: must be even"),
        ({"prediction_steps": 0}, "model.prediction_steps=0: must be at least 1"),
        ({"num_negatives": 0}, "model.num_negatives=0: must be at least 1"),
        ({"logit_temp": 0.0}, "model.logit_temp=0: must be above 0"),
    ],
)
def test_mistakes(options, message):
    from fairseq_signals_ext.common.errors import UserError

    with pytest.raises(UserError, match=message):
        cpc(**options)


def test_a_segment_that_is_too_short():
    from fairseq_signals_ext.common.errors import UserError

    with pytest.raises(UserError, match="segments have 48 frames, 52 are needed"):
        cpc(prediction_steps=50)(source())
