"""CMSC: values against a plain computation, and the same loss and gradient over several ranks as over one."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_signals_ext.criterions.cmsc import cmsc_loss
from fairseq_signals_ext.ranks import gather_from_all_ranks


def plain_loss(features, patients, temp):
    """Directly from the definition, pair by pair."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    first, second = unit[0::2], unit[1::2]
    similarity = np.exp(first @ second.T / temp)
    rows = [
        -np.log(similarity[i, j] / similarity[i].sum())
        for i in range(len(patients))
        for j in range(len(patients))
        if patients[i] == patients[j]
    ]
    columns = [
        -np.log(similarity[i, j] / similarity[:, j].sum())
        for i in range(len(patients))
        for j in range(len(patients))
        if patients[i] == patients[j]
    ]
    return (np.mean(rows) + np.mean(columns)) / 2


@settings(deadline=None, max_examples=40)
@given(patients=st.lists(st.integers(0, 5), min_size=1, max_size=9), seed=st.integers(0, 100))
def test_value(patients, seed):
    features = np.random.default_rng(seed).normal(size=(2 * len(patients), 6))
    result = cmsc_loss(
        torch.from_numpy(features),
        torch.tensor(np.repeat(patients, 2)),
        torch.tensor([0, 1] * len(patients)),
        temp=0.3,
    )
    assert float(result.loss) == pytest.approx(plain_loss(features, patients, 0.3), rel=1e-9)
    assert result.count == 2 * len(patients)


def test_retrieval_counts_both_directions():
    eye = torch.eye(4)
    patient, segment = torch.arange(4).repeat_interleave(2), torch.tensor([0, 1] * 4)
    perfect = cmsc_loss(eye.repeat_interleave(2, dim=0), patient, segment)
    assert int(perfect.correct) == perfect.count == 8
    second_of_the_next = torch.stack([eye, eye.roll(1, 0)], dim=1).flatten(0, 1)
    assert int(cmsc_loss(second_of_the_next, patient, segment).correct) == 0


def test_order_of_segments_does_not_matter():
    features, patient = torch.randn(8, 5), torch.tensor([1, 1, 2, 2, 3, 3, 1, 1])
    segment = torch.tensor([0, 1] * 4)
    order = torch.randperm(8)
    expected = cmsc_loss(features, patient, segment).loss
    torch.testing.assert_close(cmsc_loss(features[order], patient[order], segment[order]).loss, expected)


def small_model():
    from fairseq_signals_ext.models.ecg_wav2vec2 import EcgWav2Vec2Config, Wav2Vec2CmscModel

    torch.manual_seed(0)
    config = EcgWav2Vec2Config(
        conv_feature_layers="[(8, 2, 2)] * 4",
        encoder_layers=1,
        encoder_embed_dim=16,
        encoder_ffn_embed_dim=16,
        encoder_attention_heads=2,
        conv_pos=8,
        conv_pos_groups=2,
        final_dim=8,
        latent_vars=8,
        num_negatives=5,
        feature_grad_mult=1.0,
    )
    return Wav2Vec2CmscModel(config).eval()


def batch(pairs):
    generator = torch.Generator().manual_seed(1)
    mask = torch.zeros(2 * pairs, 31, dtype=torch.bool)
    mask[:, 5:20] = True
    return {
        "source": torch.randn(2 * pairs, 12, 500, generator=generator),
        "mask": mask,
        "patient_id": torch.tensor([7, 8, 9, 7, 5, 8, 3, 2])[:pairs].repeat_interleave(2),
        "segment": torch.tensor([0, 1] * pairs),
    }


def gradients_of_cmsc(rows, gather):
    """Gradient that a data-parallel trainer would apply: summed over ranks, divided by all frames."""
    model, sample = small_model(), {key: value[rows] for key, value in batch(8).items()}
    features = model.get_features(model(sample["source"], mask_indices=sample["mask"]), aggregate=True)
    inputs = [features, sample["patient_id"], sample["segment"]]
    result = cmsc_loss(*(gather(value) for value in inputs))
    frames = int(sample["mask"].sum())
    (result.loss * frames).backward()
    return float(result.loss), frames, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def one_of_two(rank, meeting, target, split):
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    rows = slice(0, split) if rank == 0 else slice(split, 16)
    loss, frames, gradients = gradients_of_cmsc(rows, gather_from_all_ranks)
    total = torch.tensor(frames)
    dist.all_reduce(total)
    for gradient in gradients.values():
        dist.all_reduce(gradient)
        gradient /= total
    torch.save((loss, gradients), f"{target}{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("split", [8, 4], ids=["4 and 4 pairs", "2 and 6 pairs"])
def test_gathering_over_two_ranks_equals_one_rank(tmp_path, split):
    mp.spawn(one_of_two, (str(tmp_path / "meeting"), str(tmp_path / "rank"), split), nprocs=2)
    expected_loss, frames, expected = gradients_of_cmsc(slice(0, 16), lambda value: value)
    assert max(float(gradient.abs().max()) for gradient in expected.values()) / frames > 1e-3
    for rank in (0, 1):
        loss, found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert loss == pytest.approx(expected_loss, abs=1e-6)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient / frames, atol=1e-5, rtol=1e-4, msg=name)


def test_without_gathering_ranks_see_their_own_pairs_only():
    """So the test above can fail."""
    whole, *_ = gradients_of_cmsc(slice(0, 16), lambda value: value)
    half, *_ = gradients_of_cmsc(slice(0, 8), lambda value: value)
    assert abs(whole - half) > 0.1
