"""The classifier: reference values, what is taken from a pretrained file, freezing, pooling, learning rates."""

import copy

import made_up_checkpoints
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from fairseq_signals_ext.checkpoints.reading import read_checkpoint
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.models import ecg_classifier
from fairseq_signals_ext.models.ecg_classifier import (
    EcgTransformerClassifier,
    EcgTransformerClassifierConfig,
    resolve_config,
)
from fairseq_signals_ext.models.ecg_wav2vec2 import EcgWav2Vec2Config, Wav2Vec2CmscModel
from fairseq_signals_ext.models.encoder import Encoder

SMALL = {**made_up_checkpoints.SMALL, "encoder_layers": 3}


def classifier(**options):
    torch.manual_seed(0)
    return EcgTransformerClassifier(EcgTransformerClassifierConfig(**{**SMALL, "num_labels": 5, **options}))


def source(segments=4, leads=12):
    return torch.randn(segments, leads, 500, generator=torch.Generator().manual_seed(1))


def write_pretrained(path, **options):
    """A checkpoint of a pretraining model with random weights, as fairseq writes it."""
    torch.manual_seed(3)
    options = {**SMALL, "final_dim": 8, "latent_vars": 8, **options}
    model = Wav2Vec2CmscModel(EcgWav2Vec2Config(**options))
    config = {**OmegaConf.to_container(OmegaConf.structured(EcgWav2Vec2Config), enum_to_str=True), **options}
    torch.save({"cfg": {"model": {**config, "_name": "wav2vec2_cmsc"}}, "model": model.state_dict()}, path)
    return model


def resolved(**options):
    config = OmegaConf.create({"_name": "ecg_transformer_classifier", "num_labels": 5, **options})
    resolve_config(config)
    return OmegaConf.merge(OmegaConf.structured(EcgTransformerClassifierConfig), {**config, "_name": None})


def test_golden_logits(golden_folder, registered):
    from fairseq.checkpoint_utils import load_model_ensemble_and_task

    golden = np.load(golden_folder / "tiny_golden.npz")
    (model,), _, _ = load_model_ensemble_and_task([str(golden_folder / "tiny_finetuned.pt")])
    model.eval()
    with torch.no_grad():
        found = model.get_logits(model(torch.from_numpy(golden["source"]))).numpy()
    assert np.abs(found - golden["clf_logits"]).max() <= 1e-6


PRETRAININGS = {
    "plain": {},
    "pre-norm": {"layer_norm_first": True},
    "bias and odd conv_pos": {"conv_bias": True, "conv_pos": 15},
    "GLU targets": {"target_glu": True},
    "continuous targets": {"quantize_targets": False},
    "quantized input": {"quantize_input": True},
    "fewer leads": {"in_d": 3},
}


@pytest.mark.parametrize("options", PRETRAININGS.values(), ids=PRETRAININGS.keys())
def test_encoder_of_a_pretrained_file(tmp_path, options):
    pretrained = write_pretrained(tmp_path / "pretrained.pt", **options).eval()
    config = resolved(model_path=str(tmp_path / "pretrained.pt"))
    model = EcgTransformerClassifier(config)
    model.load_pretrained(read_checkpoint(tmp_path / "pretrained.pt"))
    model.eval()
    x = source(leads=options.get("in_d", 12))
    with torch.no_grad():
        torch.testing.assert_close(model(x)["encoder_out"], pretrained.extract_features(x)["x"], rtol=0, atol=0)


def test_golden_encoder_of_ecg_fm(golden_folder):
    for name in ("tiny_pretrained.pt", "tiny_finetuned.pt"):  # another classifier serves as well
        model = EcgTransformerClassifier(resolved(model_path=str(golden_folder / name)))
        model.load_pretrained(read_checkpoint(golden_folder / name))
        state = torch.load(golden_folder / name, weights_only=True)["model"]
        prefix = "encoder." if "proj.weight" in state else ""
        key = f"{prefix}encoder.layers.1.fc1.weight"
        assert torch.equal(model.state_dict()["encoder.encoder.layers.1.fc1.weight"], state[key])


def test_random_start_takes_the_architecture_only(tmp_path):
    pretrained = write_pretrained(tmp_path / "pretrained.pt")
    config = resolved(model_path=str(tmp_path / "pretrained.pt"), no_pretrained_weights=True)
    assert config.encoder_layers == SMALL["encoder_layers"]
    weight = EcgTransformerClassifier(config).state_dict()["encoder.encoder.layers.0.fc1.weight"]
    assert not torch.equal(weight, pretrained.state_dict()["encoder.layers.0.fc1.weight"])


def test_another_architecture_names_the_first_parameter(tmp_path):
    write_pretrained(tmp_path / "pretrained.pt")
    config = resolved(model_path=str(tmp_path / "pretrained.pt"), encoder_layers=4)
    with pytest.raises(UserError, match=r"pretrained.pt: is of another architecture .* lacks encoder.layers.3"):
        EcgTransformerClassifier(config).load_pretrained(read_checkpoint(tmp_path / "pretrained.pt"))


@pytest.mark.parametrize(
    "option, value", [("encoder_attention_heads", 8), ("activation_fn", "relu"), ("layer_norm_first", True)]
)
def test_another_architecture_of_the_same_shapes(tmp_path, option, value):
    write_pretrained(tmp_path / "pretrained.pt", encoder_attention_heads=2)
    config = resolved(model_path=str(tmp_path / "pretrained.pt"), **{option: value})
    with pytest.raises(UserError, match=f"is of another architecture .*: {option} is .* there and {value} here"):
        EcgTransformerClassifier(config).load_pretrained(read_checkpoint(tmp_path / "pretrained.pt"))


def taking_encoders(tmp_path):
    """A classifier that loads pretrainings, and the parameters of one."""
    pretrained = write_pretrained(tmp_path / "pretrained.pt")
    model = EcgTransformerClassifier(resolved(model_path=str(tmp_path / "pretrained.pt")))
    model.take_encoders()
    return model, pretrained.state_dict()


def test_taking_an_encoder_keeps_the_head(tmp_path):
    model, pretrained = taking_encoders(tmp_path)
    head = model.proj.weight.clone()
    model.load_state_dict(dict(pretrained))
    assert torch.equal(model.proj.weight, head)
    assert torch.equal(model.state_dict()["encoder.layer_norm.weight"], pretrained["layer_norm.weight"])


@pytest.mark.parametrize(
    "name", ["proj.weight", "pooling.score.weight", "encoder.layers.0.fc3.weight", "encoder.layers.9.fc1.weight"]
)
def test_taking_an_encoder_is_strict(tmp_path, name):
    model, pretrained = taking_encoders(tmp_path)
    with pytest.raises(UserError, match=f"it has the unknown encoder.{name}"):
        model.load_state_dict({**pretrained, name: torch.zeros(7, 7)})


def test_pretraining_is_no_classifier(tmp_path):
    pretrained = write_pretrained(tmp_path / "pretrained.pt")
    model = EcgTransformerClassifier(resolved(model_path=str(tmp_path / "pretrained.pt")))
    with pytest.raises(UserError, match="it lacks "):
        model.load_state_dict(pretrained.state_dict())


def test_classifier_has_no_reconstruction_head(tmp_path):
    write_pretrained(tmp_path / "pretrained.pt")
    model = EcgTransformerClassifier(resolved(model_path=str(tmp_path / "pretrained.pt")))
    extra = {
        "encoder.reconstruction_head.weight": torch.zeros(192, 32),
        "encoder.reconstruction_head.bias": torch.zeros(192),
    }
    with pytest.raises(UserError, match="it has the unknown encoder.reconstruction_head.weight"):
        model.load_state_dict({**model.state_dict(), **extra})


def test_audio_wav2vec2_is_refused(tmp_path):
    from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model

    options = {**SMALL, "conv_feature_layers": "[(16, 10, 5)] + [(16, 2, 2)] * 3"}
    state = Wav2Vec2Model(Wav2Vec2Config(**options)).state_dict()
    torch.save({"cfg": {"model": {**options, "_name": "wav2vec2"}}, "model": state}, tmp_path / "audio.pt")
    with pytest.raises(UserError, match="audio.pt: is fairseq.s audio wav2vec 2.0"):
        resolved(model_path=str(tmp_path / "audio.pt"))


def test_unusable_file(tmp_path):
    (tmp_path / "file.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="file.pt: is a text, not a checkpoint; give the .pt"):
        resolved(model_path=str(tmp_path / "file.pt"))


def test_neither_file_nor_random():
    with pytest.raises(UserError, match="set model.model_path"):
        resolved()


def steps(model, updates=3, learn_from=0):
    model.train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.1)
    for update in range(updates):
        model.set_num_updates(update)
        optimizer.zero_grad()
        model(source())["out"].square().mean().backward()
        optimizer.step()


def encoder_of(model):
    return copy.deepcopy({**dict(model.encoder.named_parameters()), **dict(model.encoder.named_buffers())})


def test_linear_probe_freezes_bit_for_bit():
    dropouts = {"dropout": 0.3, "attention_dropout": 0.3, "dropout_input": 0.3, "encoder_layerdrop": 0.5}
    model = classifier(linear_probe=True, feature_grad_mult=1.0, **dropouts)
    before, head = encoder_of(model), model.proj.weight.clone()
    model.train()
    with torch.no_grad():
        first, second = model(source())["out"], model(source())["out"]
        model.eval()
        evaluated = model(source())["out"]
    assert torch.equal(first, second) and torch.equal(first, evaluated)
    steps(model)
    after = encoder_of(model)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(head, model.proj.weight)


def test_freeze_finetune_updates():
    model = classifier(freeze_finetune_updates=3, feature_grad_mult=1.0, activation_dropout=0.0)
    before = encoder_of(model)
    steps(model, updates=3)
    assert all(torch.equal(before[name], value) for name, value in encoder_of(model).items())
    steps(model, updates=5)
    changed = [name for name, value in encoder_of(model).items() if not torch.equal(before[name], value)]
    assert "encoder.layers.0.fc1.weight" in changed and "feature_extractor.conv_layers.0.0.weight" in changed


def test_convolutions_do_not_learn_by_default():
    model = classifier()
    before = encoder_of(model)
    steps(model)
    changed = [name for name, value in encoder_of(model).items() if not torch.equal(before[name], value)]
    assert changed and not any(name.startswith("feature_extractor") for name in changed)


def test_layer_decay_scales():
    model = classifier(layer_decay=0.5)
    scales = {name: p.optim_overrides["optimizer"]["lr_scale"] for name, p in model.encoder.named_parameters()}
    layers = [scales[f"encoder.layers.{layer}.fc1.weight"] for layer in range(3)]
    assert layers == [0.125, 0.25, 0.5]
    assert scales["feature_extractor.conv_layers.0.0.weight"] == 0.0625
    assert not hasattr(model.proj.weight, "optim_overrides")


def test_masks_of_the_collater_are_used_while_training_only():
    mask = torch.zeros(4, 31, dtype=torch.bool)
    mask[:, 5:15] = True
    model = classifier(apply_mask=True, activation_dropout=0.0)
    model.train()
    plain = classifier(activation_dropout=0.0)
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if key != "encoder.mask_emb"})
    masked, unmasked = model(source(), mask_indices=mask)["out"], plain.train()(source())["out"]
    assert not torch.allclose(masked, unmasked)
    torch.testing.assert_close(model.eval()(source(), mask_indices=mask)["out"], unmasked)


WITHOUT_CHANCE = {"activation_dropout": 0.0, "feature_grad_mult": 1.0}


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_a_mix_of_one_layer_is_that_layer(norm_first, training):
    """By fairseq's own forward, with padding, a multiple of frames, and gradients."""
    options = {**WITHOUT_CHANCE, "layer_norm_first": norm_first, "required_seq_len_multiple": 4}
    mix = classifier(layers="mix", **options).train(training)
    assert mix.layer_mix.weights.tolist() == [0.0] * (5 if norm_first else 4)
    padding = torch.arange(500) >= torch.tensor([500, 500, 300, 250]).unsqueeze(1)
    for place, layer in enumerate([0, 1, 2, 3, *["last"] * norm_first]):
        one = classifier(layers=layer, **options).train(training)
        one.load_state_dict({name: value for name, value in mix.state_dict().items() if "layer_mix" not in name})
        mix.layer_mix.weights.data = torch.full_like(mix.layer_mix.weights, -1e4)
        mix.layer_mix.weights.data[place] = 0
        mix.zero_grad()
        expected, found = one(source(), padding), mix(source(), padding)
        assert torch.equal(found["out"], expected["out"]), layer
        for logits in (expected["out"], found["out"]):
            logits.square().sum().backward()
        of_mix = dict(mix.named_parameters())
        for name, parameter in one.named_parameters():
            if parameter.grad is not None:
                torch.testing.assert_close(of_mix[name].grad, parameter.grad, msg=name)


def test_the_last_number_is_the_encoders_output():
    first, second = classifier(), classifier(layers=3)
    assert torch.equal(first.eval()(source())["out"], second.eval()(source())["out"])


def test_layers_that_are_dropped_pass_on_what_they_are_given():
    model = classifier(layers="mix", encoder_layerdrop=0.5, layer_norm_first=True, **WITHOUT_CHANCE).train()
    np.random.seed(2)
    equal = []
    for _ in range(8):
        first, *others, output = model.encoder.encode_all(source())["x"]
        equal.append([torch.equal(*pair) for pair in zip([first, *others], others)])
        assert all(x.shape == output.shape for x in (first, *others))
    assert {same for row in equal for same in row} == {False, True}


@pytest.mark.parametrize("norm_first", [False, True])
def test_what_is_above_the_layer_does_not_learn(norm_first):
    model = classifier(layers=1, layer_norm_first=norm_first, **WITHOUT_CHANCE)
    before = encoder_of(model)
    model(source())["out"].sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name
    steps(model)
    changed = {name for name, value in encoder_of(model).items() if not torch.equal(before[name], value)}
    assert "encoder.layers.0.fc1.weight" in changed and not any(
        name.startswith(("encoder.layers.1", "encoder.layers.2")) for name in changed
    )
    assert ("encoder.layer_norm.weight" in changed) == (not norm_first)


def test_layer_decay_begins_at_the_layer():
    model = classifier(layers=2, layer_decay=0.5)
    scales = {name: p.optim_overrides["optimizer"]["lr_scale"] for name, p in model.encoder.named_parameters()}
    assert [scales[f"encoder.layers.{layer}.fc1.weight"] for layer in (0, 1)] == [0.25, 0.5]


HEAD = {"pooling": "query", "layers": "mix", **WITHOUT_CHANCE}


@pytest.mark.parametrize("frozen", [{"linear_probe": True}, {"freeze_finetune_updates": 9}], ids=["probe", "freeze"])
def test_query_and_mix_learn_while_the_encoder_is_frozen(frozen):
    model = classifier(**HEAD, **frozen)
    before, head = encoder_of(model), copy.deepcopy(dict(model.named_parameters()))
    steps(model)
    assert all(torch.equal(before[name], value) for name, value in encoder_of(model).items())
    own = {name for name in head if not name.startswith("encoder.")}
    names = ("pooling.query", "pooling.q.weight", "pooling.k.weight", "pooling.v.weight", "layer_mix.weights")
    assert own == {*names, "proj.weight", "proj.bias"}
    assert not any(torch.equal(head[name], model.get_parameter(name)) for name in own)


def test_a_mix_in_bf16_and_with_saved_memory():
    plain = classifier(**HEAD).train()
    other = classifier(**HEAD, bf16_autocast=True, checkpoint_activations=True).train()
    assert other.encoder.encode_all(source())["x"][1].dtype == torch.float32
    torch.testing.assert_close(other(source())["out"], plain(source())["out"], rtol=0.1, atol=0.1)
    other(source())["out"].sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in other.parameters() if p.grad is not None)


class OneOutput(Encoder, torch.nn.Module):
    """An encoder that can be asked for its output only."""

    dimensions = 32

    def frames(self, source, padding_mask, layer=None):
        return source.new_zeros(len(source), 5, 32), padding_mask[:, :5]


def test_an_encoder_without_layers(monkeypatch):
    monkeypatch.setattr(ecg_classifier, "build_encoder", lambda options: OneOutput())
    with pytest.raises(UserError, match="model.layers=1: this encoder gives no layers of its own; use model.layers=la"):
        classifier(encoder={"_name": "of one output"}, layers=1)
    assert classifier(encoder={"_name": "of one output"})(source())["out"].shape == (4, 5)
    found, _ = OneOutput().all_frames(source(), torch.zeros(4, 500).bool())
    assert [x.shape for x in found] == [(4, 5, 32)]


@pytest.mark.parametrize(
    "options, said",
    [
        ({"layers": 99}, "model.layers=99: the encoder has layers 0 to 3; use one of them, last or mix"),
        ({"layers": -1}, "model.layers=-1: the encoder has layers 0 to 3"),
        ({"layers": "middle"}, "model.layers=middle: the encoder has layers 0 to 3"),
        ({"layers": "mix", "encoder_layers": 0}, "model.layers=mix: this encoder gives no layers of its own"),
        ({"pooling": "query", "pooling_heads": 5}, "pooling_heads=5 does not divide the encoder's 32 dimensions; .* 4"),
    ],
)
def test_heads_that_cannot_be(options, said):
    with pytest.raises(UserError, match=said):
        classifier(**options)
