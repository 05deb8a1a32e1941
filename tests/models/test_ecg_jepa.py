"""What a JEPA computes: who sees what, what is counted, and how large it is."""

import copy

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch.utils.flop_counter import FlopCounterMode

from fairseq_signals_ext import configs_dir
from fairseq_signals_ext.data.patch_masks import draw_patch_masks
from fairseq_signals_ext.models.token_statistics import TokenStatistics

SMALL = {
    "patch_size": 20,
    "encoder_layers": 3,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 48,
    "predictor_layers": 2,
    "predictor_embed_dim": 16,
    "mask_block": 3,
}
SAMPLES, PATCHES = 510, 25  # the last ten samples are part of no patch
BOTH = pytest.mark.parametrize("patching", ["leads_together", "per_lead"])


def jepa(**options):
    from fairseq_signals_ext.models.ecg_jepa import EcgJepaConfig, EcgJepaModel

    torch.manual_seed(0)
    return EcgJepaModel(EcgJepaConfig(**{**SMALL, **options}))


def batch(model, segments=3, lengths=None):
    source = torch.randn(segments, model.cfg.in_d, SAMPLES, generator=torch.Generator().manual_seed(1))
    shown, hidden = map(
        torch.from_numpy, draw_patch_masks(model.mask_settings(), SAMPLES, np.arange(segments), seed=1, epoch=1)
    )
    given = {"source": source, "visible_patches": shown, "masked_patches": hidden}
    if lengths is not None:
        given["padding_mask"] = torch.arange(SAMPLES) >= torch.tensor(lengths)[:, None]
        source.masked_fill_(given["padding_mask"].unsqueeze(1), 0)
    return given


def samples_of(patches):
    """bool, N x S: samples of patches, N x P."""
    inside = torch.zeros(len(patches), SAMPLES, dtype=torch.bool)
    for row, numbers in zip(inside, patches):
        for number in numbers.tolist():
            row[number * 20 : (number + 1) * 20] = True
    return inside


@BOTH
def test_hidden_patches_have_no_influence_on_what_is_shown_or_predicted(patching):
    model = jepa(patching=patching)
    given = batch(model)
    source = given["source"].requires_grad_()
    shown, hidden = given["visible_patches"], given["masked_patches"]
    for found in (model.student.shown(source, shown[:, 0]), model.predictions(source, shown, hidden)):
        (gradient,) = torch.autograd.grad(found.square().sum(), source, retain_graph=True)
        inside = samples_of(shown[:, 0]).unsqueeze(1).expand_as(gradient)
        assert not gradient[~inside].any() and gradient[inside].abs().min() > 0


@BOTH
def test_of_hidden_patches_the_predictor_knows_the_places_alone(patching):
    """In another order it says the same of each hidden place, whatever is there."""
    model = jepa(patching=patching)
    given = batch(model, segments=1)
    source, shown, hidden = given["source"], given["visible_patches"], given["masked_patches"]
    found = model.predictions(source, shown, hidden)
    order = torch.arange(hidden.size(2)).flip(0)
    turned = model.predictions(source, shown, hidden[..., order]).unflatten(1, (hidden.size(2), -1))
    torch.testing.assert_close(turned[:, order].flatten(1, 2), found)
    noise = torch.where(samples_of(hidden[:, 0]).unsqueeze(1), torch.randn_like(source), source)
    assert torch.equal(model.predictions(noise, shown, hidden), found)


@pytest.mark.parametrize("top", [0, 2])
@BOTH
def test_a_predictor_that_says_what_the_teacher_says_has_no_loss(monkeypatch, patching, top):
    model = jepa(patching=patching, average_top_k_layers=top, masks_per_target=2)
    given = batch(model, lengths=[SAMPLES, SAMPLES, 300])
    padding = model.teacher.padding_of(given["source"], given["padding_mask"])
    targets = model.targets(given["source"], padding).repeat_interleave(2, 0)
    numbers = model.teacher.tokens_of(given["masked_patches"].flatten(0, 1))
    right = torch.stack([row[places] for row, places in zip(targets, numbers)])
    monkeypatch.setattr(model, "predictions", lambda *args: right)
    assert float(model(**given)["losses"]["latent"]) == 0
    # half a unit off: of each token that counts
    monkeypatch.setattr(model, "predictions", lambda *args: right + 0.5)
    result = model(**given)
    hidden = given["masked_patches"]
    counted = int((hidden[:2] >= 0).sum() + (hidden[2] < 300 // 20).sum()) * (12 if patching == "per_lead" else 1)
    assert float(result["sample_size"]) == counted
    assert float(result["losses"]["latent"]) == pytest.approx(0.5 * counted, rel=1e-5)


def test_the_target_is_the_mean_of_the_last_layers():
    model, plain = jepa(average_top_k_layers=2), jepa()
    source = batch(model)["source"]
    layers = [plain.frames(source, torch.zeros(3, SAMPLES).bool(), layer)[0] for layer in (2, 3)]
    expected = sum((x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True, unbiased=False) for x in layers) / 2
    torch.testing.assert_close(model.targets(source), expected, atol=1e-4, rtol=0)


def test_smooth_l1():
    model = jepa(loss="smooth_l1", loss_beta=2.0)
    found = model._distance(torch.tensor([0.0, 1.0, 5.0]), torch.zeros(3))
    torch.testing.assert_close(found, torch.tensor([0.0, 0.25, 4.0]))


def test_several_masks_take_one_pass_of_the_teacher(monkeypatch):
    """The loss is the sum of those of each mask."""
    model, passes = jepa(masks_per_target=3), []
    given, outputs = batch(model), model.teacher.outputs
    monkeypatch.setattr(model.teacher, "outputs", lambda *args: passes.append(1) or outputs(*args))
    together = model(**given)
    assert len(passes) == 1
    shown, hidden = given["visible_patches"], given["masked_patches"]
    alone = [model(given["source"], None, shown[:, [mask]], hidden[:, [mask]]) for mask in range(3)]
    total = sum(result["losses"]["latent"] for result in alone)
    torch.testing.assert_close(together["losses"]["latent"], total)
    assert together["sample_size"] == sum(result["sample_size"] for result in alone) == hidden.numel()


@BOTH
@pytest.mark.parametrize("layer", [None, 0, 1, 3])
def test_padding_changes_nothing(patching, layer):
    """Frames of a recording are those that it has alone, unpadded; and so is what the student makes of it."""
    model = jepa(patching=patching).eval()
    given = batch(model, lengths=[SAMPLES, 300, 211])
    frames, padding = model.frames(given["source"], given["padding_mask"], layer)
    assert frames.shape == (3, PATCHES, 32) and (~padding).sum(1).tolist() == [25, 15, 10]
    for row, length in enumerate((SAMPLES, 300, 211)):
        alone, none = model.frames(given["source"][row : row + 1, :, :length], torch.zeros(1, length).bool(), layer)
        assert not none.any()
        torch.testing.assert_close(frames[row : row + 1, : alone.size(1)], alone, atol=1e-5, rtol=0)


def test_fine_tuning_computes_what_is_used():
    model = jepa().eval()
    model.drop_objective()
    given = batch(jepa(), lengths=[SAMPLES, 300, 211])
    for mask in (None, given["padding_mask"]):
        used, padding = model.frames(given["source"], torch.zeros(3, SAMPLES).bool() if mask is None else mask)
        tuned = model.encode(given["source"], mask)
        torch.testing.assert_close(tuned["x"], used, atol=1e-5, rtol=0)
        assert tuned["padding_mask"] is None if mask is None else torch.equal(tuned["padding_mask"], padding)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"teacher"}


@BOTH
def test_attention_is_of_frames_and_adds_up_to_one(patching):
    model = jepa(patching=patching).eval()
    given = batch(model, lengths=[SAMPLES, 300, 211])
    weights = model.attention(given["source"], given["padding_mask"])
    assert weights.shape == (3, 3, PATCHES, PATCHES)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 3, PATCHES))
    assert not weights[1, :, :, 15:].any() and not weights[2, :, :, 10:].any()


def test_attention_weights_are_those_that_the_layers_use():
    model = jepa(register_tokens=0, encoder_attention_heads=1).eval()
    given = batch(model)
    layer, mask = model.teacher.stack[0], torch.zeros(3, SAMPLES).bool()
    x, _ = model.frames(given["source"], mask, 0)
    value = layer._heads_of(x)[2][:, 0]
    with_attention = x + layer.out(model.attention(given["source"], mask)[:, 0] @ value)
    after = with_attention + layer.fc2(
        torch.nn.functional.gelu(layer.fc1(torch.nn.functional.layer_norm(with_attention, (32,))))
    )
    torch.testing.assert_close(after, model.frames(given["source"], mask, 1)[0], atol=1e-5, rtol=0)


def test_positions_are_those_of_the_paper():
    model = jepa()
    found = model.teacher.positions(torch.zeros(1), 7)
    for number in range(7):
        angles = number / 10_000 ** (np.arange(16) / 16)
        np.testing.assert_allclose(found[number].numpy(), [*np.sin(angles), *np.cos(angles)], atol=1e-5)
    of_leads = jepa(patching="per_lead").teacher.positions(torch.zeros(1), 7).unflatten(0, (7, 12))
    assert (of_leads[:, 0, :16] == of_leads[:, 5, :16]).all() and (of_leads[2, :, 16:] == of_leads[6, :, 16:]).all()
    assert len({tuple(row.tolist()) for row in of_leads.flatten(0, 1)}) == 84
    assert not [name for name in model.state_dict() if "frequencies" in name]


def test_weights_at_the_start():
    """Truncated normal of 0.02; what is added up is divided by the root of twice the number of layers."""
    model = jepa(encoder_embed_dim=128, encoder_ffn_embed_dim=512)
    layer = model.student.stack[1]
    for weight, std in ((layer.qkv, 0.02), (layer.fc1, 0.02), (layer.out, 0.02 / 6**0.5), (layer.fc2, 0.02 / 6**0.5)):
        # cut at two deviations, a normal distribution has 0.88 of its own
        assert weight.bias is None and float(weight.weight.detach().std()) == pytest.approx(0.88 * std, rel=0.03)
        assert weight.weight.abs().max() <= 2 * std * 1.0001
    for name, value in model.student.state_dict().items():
        assert torch.equal(value, model.teacher.state_dict()[name])


def test_copies_and_casts():
    """A copy has a teacher of its own, which stays in fp32."""
    model = jepa().train()
    other = copy.deepcopy(model).bfloat16()
    assert other.ema.model is other.teacher is not model.teacher
    assert {parameter.dtype for parameter in other.teacher.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in other.student.parameters()} == {torch.bfloat16}
    given = batch(model)
    loss = other(**{**given, "source": given["source"].bfloat16()})["losses"]["latent"]
    torch.testing.assert_close(loss, model(**given)["losses"]["latent"], rtol=0.02, atol=0)
    other.drop_objective()
    assert {parameter.dtype for parameter in other.bfloat16().parameters()} == {torch.bfloat16}


def test_bf16_autocast():
    model, in_bf16 = jepa().train(), jepa(bf16_autocast=True).train()
    given = batch(model)
    loss = in_bf16(**given)["losses"]["latent"]
    loss.backward()
    assert in_bf16.student.embed.weight.grad.dtype == torch.float32
    expected = float(model(**given)["losses"]["latent"].detach())
    loss = loss.detach()
    assert float(loss) == pytest.approx(expected, rel=0.02) and float(loss) != expected


@pytest.mark.parametrize("parts", [1, 3])
def test_the_spread_of_tokens_is_that_around_both_means(parts):
    """Against numpy, in one batch or in several; a mean of each recording and of each place adds nothing."""
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(12, 10, 6)) * [1, 1, 1, 1, 0, 0]
    plus = tokens + 3 * rng.normal(size=(12, 1, 6)) + 2 * rng.normal(size=(1, 10, 6))
    statistics = TokenStatistics()
    for part in np.split(plus, parts):
        statistics.add(torch.from_numpy(part), None, with_rank=True)
    spread = statistics.finish()
    rest = tokens - tokens.mean(1, keepdims=True)
    rest = (rest - rest.mean(0)).reshape(-1, 6)
    assert spread.deviation == pytest.approx(np.sqrt((rest**2).sum() / (11 * 10 * 6)), rel=1e-4)
    shares = np.linalg.eigvalsh(rest.T @ rest)[2:] / (rest**2).sum()
    assert spread.rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-3)
    assert 3.5 < spread.rank < 4 and statistics.finish() is None


def test_padding_and_single_recordings_have_no_spread():
    statistics = TokenStatistics()
    tokens = torch.randn(4, 10, 6)
    padding = torch.zeros(4, 10).bool()
    padding[:, 7:] = True
    statistics.add(tokens, padding, with_rank=False)
    padded = statistics.finish()
    statistics.add(tokens[:, :7], None, with_rank=False)
    assert padded.deviation == pytest.approx(statistics.finish().deviation, rel=1e-5) and padded.rank is None
    statistics.add(tokens[:1], None, with_rank=True)
    assert statistics.finish() is None


def of_size(size):
    config = OmegaConf.load(f"{configs_dir('pretraining')}/ecg_jepa_{size}.yaml").model
    shared = OmegaConf.load(f"{configs_dir('pretraining')}/options/ecg_jepa.yaml").model
    return {key: value for key, value in {**shared, **config}.items() if key != "_name"}


SIZES = {"xs": (8, 192, 4, 96), "s": (8, 384, 6, 192), "b": (12, 768, 12, 384)}


@pytest.mark.parametrize("size", SIZES)
def test_parameters_and_operations_of_the_published_sizes(size, capsys):
    """Counted by hand and by torch: matrix products of a forward pass for 10 s with 40 of 200 patches shown."""
    layers, width, heads, narrow = SIZES[size]
    with torch.device("meta"):
        model = jepa(**of_size(size))
    assert model.cfg.encoder_attention_heads == heads and model.cfg.predictor_layers == layers
    encoder = 12 * 25 * width + width + layers * 12 * width**2
    predictor = 2 * width * narrow + narrow + layers * 12 * narrow**2
    counts = [sum(value.numel() for value in part.parameters()) for part in (model.teacher, model.predictor)]
    assert counts == [encoder, predictor]

    def stack(tokens, dimensions):
        return layers * tokens * (12 * dimensions**2 + 2 * tokens * dimensions)

    def embedding(patches):
        return patches * 300 * width

    teacher = embedding(200) + stack(201, width)
    student = embedding(40) + stack(41, width)
    predicting = 41 * width * narrow + stack(201, narrow) + 160 * narrow * width
    source, places = torch.empty(1, 12, 5000, device="meta"), torch.arange(200, device="meta")[None, None]
    found = []
    for run in (
        lambda: model.teacher.outputs(source),
        lambda: model.predictions(source, places[..., :40], places[..., 40:]),
    ):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run()
        found.append(counter.get_total_flops())
    assert found == [2 * teacher, 2 * (student + predicting)]
    with capsys.disabled():
        of_update = teacher + 3 * (student + predicting)
        print(
            f"\n{size}: encoder {encoder / 1e6:.1f} M, predictor {predictor / 1e6:.1f} M parameters; "
            f"encoding {2 * teacher / 1e9:.2f}, training {2 * of_update / 1e9:.2f} GFLOP for 10 s"
        )


def test_hidden_patches_cost_nothing():
    """With a fifth shown the student takes less than a fifth of what it takes for all."""
    model = jepa()
    source, places = torch.randn(1, 12, 2000), torch.arange(100)[None]
    costs = []
    for shown in (places[:, :20], places):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.student.shown(source, shown)
        costs.append(counter.get_total_flops())
    assert costs[0] < 0.21 * costs[1]


@BOTH
def test_all_layers_in_one_pass_are_those_that_are_asked_for_one_by_one(patching):
    model = jepa(patching=patching).eval()
    source, padding = batch(model, lengths=[SAMPLES, 300, 40])["source"], torch.arange(SAMPLES) >= 300
    padding = padding.expand(3, -1)
    found, of_frames = model.all_frames(source, padding)
    assert len(found) == model.layers + 2 and model.ends_with_norm
    for layer, x in zip([*range(model.layers + 1), None], found):
        expected, same = model.frames(source, padding, layer)
        torch.testing.assert_close(x, expected, rtol=0, atol=0)
        torch.testing.assert_close(of_frames, same)
        torch.testing.assert_close(model.encode(source, padding, layer=layer)["x"], expected, rtol=0, atol=0)
        torch.testing.assert_close(model.for_use().frames(source, padding, layer)[0], expected, rtol=0, atol=0)
    assert all(torch.equal(a, b) for a, b in zip(model.encode_all(source, padding)["x"], found))


def test_a_mix_learns_from_what_is_shown():
    model = jepa()
    given = batch(model)
    masks = {name: given[name] for name in ("visible_patches", "masked_patches")}
    found = model.encode_all(given["source"], mask=True, **masks)["x"]
    shown = given["visible_patches"].size(2)
    assert [x.size(1) for x in found] == [shown] * (model.layers + 2)
    expected = model.encode(given["source"], mask=True, **masks)["x"]
    torch.testing.assert_close(found[-1], expected, rtol=0, atol=0)
