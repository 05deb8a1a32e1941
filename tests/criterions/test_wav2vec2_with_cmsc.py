"""The objective beyond the golden values: its variants, and what it logs."""

import math

import pytest
import torch
from fairseq.logging import metrics
from made_up_checkpoints import SMALL

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.criterions.wav2vec2_with_cmsc import Wav2Vec2WithCmscCriterion
from fairseq_signals_ext.models.ecg_wav2vec2 import EcgWav2Vec2Config, Wav2Vec2CmscModel


def small(**options):
    torch.manual_seed(0)
    config = EcgWav2Vec2Config(**{**SMALL, "encoder_layers": 1, "num_negatives": 6, **options})
    return Wav2Vec2CmscModel(config).eval()


def batch(pairs=4, **others):
    generator = torch.Generator().manual_seed(1)
    mask = torch.zeros(2 * pairs, 31, dtype=torch.bool)
    mask[:, 4:19] = True
    source = torch.randn(2 * pairs, 12, 500, generator=generator)
    return {
        "id": torch.arange(pairs).repeat_interleave(2),
        "patient_id": torch.arange(pairs).repeat_interleave(2),
        "segment": torch.tensor([0, 1] * pairs),
        "sample_size": int(mask.sum()),
        "net_input": {"source": source, "mask_indices": mask},
        **others,
    }


def objective(**options):
    options.setdefault("loss_weights", [0.1, 10.0])
    return Wav2Vec2WithCmscCriterion(None, log_keys=["prob_perplexity", "code_perplexity", "temp"], **options)


def loss_of(criterion, model, sample):
    """What the criterion returns, with all that it logs as plain numbers."""
    torch.manual_seed(3)  # of the negatives
    with torch.no_grad():
        loss, size, log = criterion(model, sample)
    return loss, size, {key: float(value) for key, value in log.items()}


def test_parts_add_up():
    loss, size, log = loss_of(objective(), small(), batch())
    assert size == 120
    assert loss.item() == pytest.approx(sum(log[f"loss_{part}"] for part in range(4)), rel=1e-6)
    assert log["loss"] == loss.item()


def test_weight_of_cmsc():
    model, sample = small(), batch()
    loss, _, log = loss_of(objective(), model, sample)
    half, _, half_log = loss_of(objective(cmsc_weights=0.5), model, sample)
    assert half_log["loss_3"] == pytest.approx(log["loss_3"] / 2, rel=1e-6)
    assert (loss - half).item() == pytest.approx(log["loss_3"] / 2, rel=1e-4)


def test_one_weight_is_for_all_penalties():
    """As hydra gives it."""
    from omegaconf import OmegaConf

    model, sample = small(), batch()
    expected, *_ = loss_of(objective(loss_weights=[0.3, 0.3]), model, sample)
    found, *_ = loss_of(objective(loss_weights=OmegaConf.create([0.3])), model, sample)
    assert torch.equal(found, expected)
    with pytest.raises(UserError, match="loss_weights has 3 values; give one, or 2"):
        loss_of(objective(loss_weights=[1.0, 2.0, 3.0]), model, sample)


def test_binary_cross_entropy_is_refused():
    with pytest.raises(UserError, match="criterion.infonce=false"):
        objective(infonce=False)


def test_continuous_targets_have_no_diversity_loss():
    loss, _, log = loss_of(objective(), small(quantize_targets=False), batch())
    assert "loss_2" not in log and "prob_perplexity" not in log
    assert loss.item() == pytest.approx(log["loss_0"] + log["loss_1"] + log["loss_3"], rel=1e-6)


def test_reconstruction_error_is_that_of_the_signal_under_masked_frames():
    model, original = small(), torch.randn(8, 12, 500)
    model.add_reconstruction_head()
    sample = batch(original=original)
    loss, size, log = loss_of(objective(reconstruction_weight=2.0), model, sample)
    without, *_ = loss_of(objective(), model, sample)
    with torch.no_grad():
        features = model(sample["net_input"]["source"], mask_indices=sample["net_input"]["mask_indices"])["features"]
        errors = [
            (model.reconstruct(features[segment, frame]) - original[segment, :, 16 * frame : 16 * frame + 16]).pow(2)
            for segment in range(8)
            for frame in range(4, 19)
        ]
    expected = torch.stack(errors).mean().item()
    assert log["reconstruction_mse"] == pytest.approx(expected, rel=1e-5)
    assert (loss - without).item() == pytest.approx(2 * expected * size, rel=1e-4)


def test_reduction_over_ranks():
    model = small()
    logs = [loss_of(objective(), model, batch(pairs))[2] for pairs in (4, 2)]
    with metrics.aggregate() as aggregated:
        Wav2Vec2WithCmscCriterion.reduce_metrics(logs)
    values = aggregated.get_smoothed_values()
    size = sum(log["sample_size"] for log in logs)
    assert values["loss_3"] == pytest.approx(sum(log["loss_3"] for log in logs) / size / math.log(2), abs=1e-3)
    retrieved = sum(log["cmsc_correct"] for log in logs) / sum(log["cmsc_count"] for log in logs)
    assert values["cmsc_accuracy"] == pytest.approx(retrieved, abs=1e-5)
    assert values["accuracy"] == pytest.approx(sum(log["correct"] for log in logs) / size, abs=1e-5)
    assert {"prob_perplexity", "code_perplexity", "temp"} <= set(values)
