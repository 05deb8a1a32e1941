"""The reference's values, from its own checkpoint, through fairseq's loader."""

import numpy as np
import pytest
import torch

TOLERANCE = 1e-6
# relative; a few steps of float32, which is what a product of small matrices differs by on other processors
LOSS_TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def golden(golden_folder):
    return np.load(golden_folder / "tiny_golden.npz")


@pytest.fixture(scope="module")
def loaded(golden_folder, registered):
    from fairseq.checkpoint_utils import load_model_ensemble_and_task

    models, cfg, task = load_model_ensemble_and_task([str(golden_folder / "tiny_pretrained.pt")])
    return models[0].eval(), cfg, task


@pytest.fixture()
def model(loaded, golden, monkeypatch):
    """The golden model, with the reference's negatives in place of random ones."""
    model = loaded[0]
    negatives = torch.from_numpy(golden["neg_idxs"])

    def fixed_negatives(y, num, padding_count=None):
        chosen = y.reshape(-1, y.size(-1))[negatives.view(-1)]
        return chosen.view(y.size(0), num, -1, y.size(-1)).permute(2, 0, 1, 3), negatives

    monkeypatch.setattr(model, "sample_negatives", fixed_negatives)
    return model


def close(found, expected):
    found = found.detach().numpy() if torch.is_tensor(found) else np.asarray(found)
    assert found.shape == expected.shape
    finite = np.isfinite(expected)
    assert (np.isfinite(found) == finite).all()
    return np.abs(found[finite] - expected[finite]).max() <= TOLERANCE


def test_features_without_mask(model, golden):
    with torch.no_grad():
        result = model.extract_features(torch.from_numpy(golden["source"]))
    assert close(result["x"], golden["encoder_out"])
    assert close(result["features"], golden["conv_features"])


def test_training_forward(model, golden):
    model.set_num_updates(0)  # the reference's temperature was not set from the checkpoint's 123 updates
    with torch.no_grad():
        result = model(torch.from_numpy(golden["source"]), mask_indices=torch.from_numpy(golden["mask_indices"]))
    assert close(result["features"], golden["masked_encoder_out"])
    assert close(result["x"], golden["contrastive_logits"])
    for key in ("prob_perplexity", "code_perplexity", "num_vars", "temp", "features_pen"):
        assert close(result[key], golden[key]), key
    assert close(model.get_extra_losses(result)[0], golden["diversity_pen"])


@pytest.mark.parametrize("case", ["unique", "shared"])
def test_objective(model, loaded, golden, case):
    _, cfg, task = loaded
    criterion = task.build_criterion(cfg.criterion)
    mask = torch.from_numpy(golden["mask_indices"])
    sample = {
        "id": torch.arange(8),
        "patient_id": torch.from_numpy(golden[f"cmsc_{case}_patient_id"]),
        "segment": torch.from_numpy(golden["segment"]),
        "sample_size": int(mask.sum()),
        "net_input": {"source": torch.from_numpy(golden["source"]), "mask_indices": mask},
    }
    with torch.no_grad():
        loss, sample_size, log = criterion(model, sample)
        log = {key: float(value) for key, value in log.items()}
    assert sample_size == golden["sample_size"]
    assert log["loss_0"] == pytest.approx(float(golden["infonce_sum"]), rel=LOSS_TOLERANCE)
    for part in range(4):
        expected = float(golden[f"cmsc_{case}_loss_{part}"])
        assert log[f"loss_{part}"] == pytest.approx(expected, rel=LOSS_TOLERANCE), part
    assert loss.item() == pytest.approx(float(golden[f"cmsc_{case}_total_loss"]), rel=LOSS_TOLERANCE)


def test_padding_does_not_reach_what_precedes_it(model, golden):
    """A padded segment equals the same segment alone, apart from the first normalisation, which spans all frames."""
    source = torch.from_numpy(golden["source"])[:2].clone()
    padding = torch.zeros(2, 2500, dtype=torch.bool)
    padding[1, 1700:] = True
    source[1, :, 1700:] = 0
    with torch.no_grad():
        by_time = model.extract_features(source, padding)
        by_lead = model.extract_features(source, padding.unsqueeze(1).expand(-1, 12, -1))
        whole = model.extract_features(source[:1])
    assert torch.equal(by_time["x"], by_lead["x"])
    assert by_time["padding_mask"].sum(-1).tolist() == [0, 156 - 106]
    torch.testing.assert_close(by_time["x"][:1], whole["x"], rtol=0, atol=1e-5)
