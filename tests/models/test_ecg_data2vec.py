"""data2vec's targets, teacher and loss, against plain torch."""

import copy

import pytest
import torch
import torch.nn.functional as F
from made_up_checkpoints import SMALL

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.models.ecg_data2vec import EcgData2VecConfig, EcgData2VecModel
from fairseq_signals_ext.models.ecg_wav2vec2 import EcgWav2Vec2Config, Wav2Vec2CmscModel

FRAMES = 25
MASKED = (torch.arange(FRAMES) % 3 == 0).expand(4, -1)


def made(seed=0, **options):
    torch.manual_seed(seed)
    return EcgData2VecModel(EcgData2VecConfig(**{**SMALL, "num_negatives": 5, **options}))


def of_golden(golden_folder, config=EcgData2VecConfig, model=EcgData2VecModel, **options):
    """ECG-FM's golden checkpoint as another model, which begins with its weights."""
    saved = torch.load(golden_folder / "tiny_pretrained.pt", weights_only=True, map_location="cpu")
    known = {name for name in config.__dataclass_fields__}
    theirs = {key: value for key, value in saved["cfg"]["model"].items() if key in known}
    found = model(config(**{**theirs, **options}))
    if hasattr(found, "take_encoders"):
        found.take_encoders()
    found.load_state_dict(dict(saved["model"]))
    return found.eval()


def expected_targets(model, source, top):
    """Mean of the last layers of a model of ECG-FM, by its own frames and torch's instance norm."""
    none = torch.zeros(len(source), source.shape[-1], dtype=torch.bool)
    with torch.no_grad():
        layers = [model.frames(source, none, layer)[0] for layer in range(model.layers - top + 1, model.layers + 1)]
        return torch.stack([F.instance_norm(x.transpose(1, 2)).transpose(1, 2) for x in layers]).mean(0)


@pytest.mark.parametrize("top", [1, 2])
def test_targets_of_ecg_fm_are_the_mean_of_its_layers(golden_folder, top):
    source = torch.randn(3, 12, 2500, generator=torch.Generator().manual_seed(0))
    model = of_golden(golden_folder, average_top_k_layers=top)
    plain = of_golden(golden_folder, EcgWav2Vec2Config, Wav2Vec2CmscModel)
    with torch.no_grad(), model._keeping_projected() as kept:
        model.extract_features(source)
        found = model.targets(kept[0])
    torch.testing.assert_close(found, expected_targets(plain, source, top), rtol=0, atol=1e-5)


def test_the_loss_is_the_distance_at_masked_frames():
    for beta in (0.0, 0.5):
        model, source = made(average_top_k_layers=2, loss_beta=beta).eval(), torch.randn(4, 12, 400)
        result = model(source, mask_indices=MASKED)
        predicted = model.regression_head(model(source, mask_indices=MASKED)["features"][MASKED])
        difference = predicted - expected_targets(model, source, 2)[MASKED]
        distance = difference.square()
        if beta:
            small = difference.abs() < beta
            distance = torch.where(small, difference.square() / 2 / beta, difference.abs() - beta / 2)
        assert result["frames"] == int(MASKED.sum())
        torch.testing.assert_close(result["regression"], distance.sum() / 32**0.5, rtol=1e-5, atol=1e-4)


def test_padding_takes_no_part_in_targets():
    model = made().eval()
    source, padding = torch.randn(4, 12, 400), torch.zeros(4, 400, dtype=torch.bool)
    source[:, :, 240:], padding[:, 240:] = 0, True
    with torch.no_grad():
        whole, cut = [], []
        for kept, signal, mask in ((whole, source, padding), (cut, source[..., :240], None)):
            with model._keeping_projected() as projected:
                frames = model.extract_features(signal, mask)["padding_mask"]
            kept.append(model.targets(projected[0], frames))
    # the first norm of the convolutions is over time, so that the inputs of both transformers differ; not by padding
    assert not torch.isnan(whole[0]).any()
    torch.testing.assert_close(whole[0][:, :15].mean(dim=1), torch.zeros(4, 32), rtol=0, atol=1e-5)
    torch.testing.assert_close(cut[0].mean(dim=1), torch.zeros(4, 32), rtol=0, atol=1e-5)


@pytest.mark.parametrize("loss", ["regression", "both"])
def test_the_teacher_is_the_average_of_saved_students(loss):
    model = made(loss=loss, ema_decay=0.5, ema_end_decay=0.9, ema_anneal_updates=4).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    expected = {name: value.clone().double() for name, value in model.teacher.state_dict().items()}
    for update in range(1, 8):
        optimizer.zero_grad()
        result = model(torch.randn(4, 12, 400), mask_indices=MASKED)
        (result["regression"] / result["frames"] + result.get("x", torch.zeros(1))[0].mean()).backward()
        optimizer.step()
        model.after_update(update, 7)
        decay = 0.5 + 0.4 * min((update - 1) / 4, 1)
        for name, value in model.encoder.state_dict().items():
            kept = 0 if name.startswith("pos_conv.") else decay
            expected[name] = kept * expected[name] + (1 - kept) * value.double()
    for name, value in model.teacher.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=0, atol=1e-6, msg=name)
    assert all(parameter.grad is None for parameter in model.teacher.parameters())


def test_what_masks_hide_does_not_reach_the_teacher_and_dropout_neither():
    model, source = made(dropout=0.5, dropout_input=0.5).train(), torch.randn(4, 12, 400)
    targets = []
    model.targets, original = lambda *given: targets.append(original(*given)) or targets[-1], model.targets
    for masked in (MASKED, ~MASKED):
        model(source, mask_indices=masked)
    torch.testing.assert_close(*targets, rtol=0, atol=0)


def test_a_teacher_stays_in_fp32_and_comes_back_by_its_weights():
    model = made().bfloat16()
    assert {value.dtype for value in model.teacher.state_dict().values()} == {torch.float32}
    assert model.regression_head.weight.dtype == torch.bfloat16
    first, second = made(), made(seed=1)
    second.load_state_dict(first.state_dict())
    for name, value in copy.deepcopy(second).teacher.state_dict().items():
        assert torch.equal(value, first.teacher.state_dict()[name])


def test_a_model_without_teacher_is_loaded_only_where_it_is_meant():
    plain = Wav2Vec2CmscModel(EcgWav2Vec2Config(**SMALL, num_negatives=5)).state_dict()
    with pytest.raises(UserError, match="it lacks regression_head.weight"):
        made(loss="both").load_state_dict(dict(plain))
    for loss in ("regression", "both"):
        model = made(loss=loss)
        model.take_encoders()
        model.load_state_dict(dict(plain))
        for name, value in model.teacher.state_dict().items():
            assert torch.equal(value, plain[f"encoder.{name}"])
        assert (loss == "both") == ("quantizer.vars" in model.state_dict())
