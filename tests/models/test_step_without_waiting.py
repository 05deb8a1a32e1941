"""Forward, losses and backward never wait for the device, and their shapes depend on no values."""

import sys
from pathlib import Path

import pytest
import torch
from made_up_checkpoints import SMALL
from torch._dynamo.testing import CompileCounter

from fairseq_signals_ext.criterions.wav2vec2_with_cmsc import Wav2Vec2WithCmscCriterion
from fairseq_signals_ext.models.ecg_wav2vec2 import EcgWav2Vec2Config, Wav2Vec2CmscModel

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from host_syncs import HostSyncs  # noqa: E402

PAIRS, FRAMES = 3, 31
FAST = {"fused_qkv": True, "fft_pos_conv": True, "fused_contrast": True, "bf16_autocast": True}


def small(**options):
    torch.manual_seed(0)
    config = EcgWav2Vec2Config(**{**SMALL, "encoder_layers": 1, "num_negatives": 6, **options})
    model = Wav2Vec2CmscModel(config).train()
    model.add_reconstruction_head()
    return model


def batch(masked=15):
    mask = torch.zeros(2 * PAIRS, FRAMES, dtype=torch.bool)
    mask[:, 4 : 4 + masked] = True
    source = torch.randn(2 * PAIRS, 12, 500)
    channels = torch.zeros(2 * PAIRS, 32, dtype=torch.bool)
    channels[:, :3] = True
    return {
        "id": torch.arange(PAIRS).repeat_interleave(2),
        "patient_id": torch.arange(PAIRS).repeat_interleave(2),
        "segment": torch.tensor([0, 1] * PAIRS),
        "sample_size": int(mask.sum()),
        "original": source,
        "net_input": {
            "source": source,
            "mask_indices": mask,
            "mask_channel_indices": channels,
            "masked_frames": mask.nonzero()[:, 1].view(2 * PAIRS, masked),
        },
    }


def objective(**options):
    log_keys = ["prob_perplexity", "code_perplexity", "temp"]
    return Wav2Vec2WithCmscCriterion(None, loss_weights=[0.1, 10.0], log_keys=log_keys, **options)


VARIANTS = {
    "quantized": ({}, {}),
    "continuous": ({"quantize_targets": False}, {}),
    "fast": (FAST, {}),
    "fast, continuous": ({**FAST, "quantize_targets": False}, {}),
    "reconstruction and masked features": ({"mask_channel_prob": 0.1}, {"reconstruction_weight": 0.5}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_waits(variant):
    options, of_criterion = VARIANTS[variant]
    model, criterion, sample = small(**options), objective(**of_criterion), batch()
    with HostSyncs() as syncs:
        loss, _, log = criterion(model, sample)
        loss.backward()
    assert not syncs.found
    assert all(not value.requires_grad for value in log.values() if torch.is_tensor(value))


def test_a_mask_without_numbers_waits():
    """So the test above can fail."""
    model, sample = small(), batch()
    del sample["net_input"]["masked_frames"]
    with HostSyncs() as syncs:
        objective()(model, sample)
    assert syncs.found["index"]


@pytest.mark.parametrize("variant", ["quantized", "continuous", "fast"])
def test_one_graph_that_is_compiled_few_times(variant):
    """The temperature changes with each update, the number of masked frames with each batch."""
    options, of_criterion = VARIANTS[variant]
    model, criterion, counter = small(**options), objective(**of_criterion), CompileCounter()
    torch._dynamo.reset()
    step = torch.compile(criterion.forward, fullgraph=True, backend=counter)
    compiled = []
    for update in range(7):
        model.set_num_updates(1000 * update)
        loss, *_ = step(model, batch(masked=15 + update % 3))
        loss.backward()
        compiled.append(counter.frame_count)
    assert compiled[-1] == compiled[2], compiled
    if model.quantizer is not None:
        assert model.quantizer.curr_temp < 1.99  # it did change
