"""CMSC: values against a plain computation, and the same loss and gradient over several ranks as over one."""

import functools

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_checkpoints import SMALL
from torch.utils._python_dispatch import TorchDispatchMode

from fairseq_signals_ext.criterions.ranks import gather_segments
from fairseq_signals_ext.criterions.wav2vec2_with_cmsc import cmsc_loss


class WaitsForTheDevice(AssertionError):
    """An operation whose result decides what the host does next, or which shape comes next."""


class NothingWaits(TorchDispatchMode):
    """Raises at an operation for which a GPU's host has to wait."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_boolean = name.startswith("index") and any(
            torch.is_tensor(index) and index.dtype == torch.bool
            for argument in args
            if isinstance(argument, (list, tuple))
            for index in argument
        )
        if by_boolean or name in ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal"):
            raise WaitsForTheDevice(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "act", [lambda x: x.item(), lambda x: bool(x > 0), lambda x: x[x > 0], lambda x: (x > 0).nonzero()]
)
def test_waiting_is_noticed(act):
    with pytest.raises(WaitsForTheDevice), NothingWaits():
        act(torch.ones(1))


def plain_loss(features, patients, temp, here=None):
    """Directly from the definition, pair by pair; first and second segments follow each other."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    here = np.ones(len(features), bool) if here is None else here
    first, second = ([row for row in range(side, len(unit), 2) if here[row]] for side in (0, 1))
    similarity = np.exp(unit @ unit.T / temp)
    positive = [(i, j) for i in first for j in second if patients[i // 2] == patients[j // 2]]
    rows = [-np.log(similarity[i, j] / similarity[i, second].sum()) for i, j in positive]
    columns = [-np.log(similarity[i, j] / similarity[first, j].sum()) for i, j in positive]
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
    # a single patient's segments have no others to be told from
    assert result.count == (2 * len(patients) if len(set(patients)) > 1 else 0)


@settings(deadline=None, max_examples=40)
@given(patients=st.lists(st.integers(0, 5), min_size=1, max_size=9), seed=st.integers(0, 1000))
def test_absent_segments_count_for_nothing(patients, seed):
    """Whatever they hold: value as without them, no gradient; also where more first than second ones are absent."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(2 * len(patients), 6))
    here = generator.random(len(features)) < 0.5
    here[:2] = True  # one positive at least
    content = torch.tensor(features)
    content[~torch.from_numpy(here)] *= generator.choice([0.0, 1e30])
    content.requires_grad_()
    patient, segment = torch.tensor(np.repeat(patients, 2)), torch.tensor([0, 1] * len(patients))
    result = cmsc_loss(content, patient, segment, temp=0.3, present=torch.from_numpy(here))
    assert float(result.loss.detach()) == pytest.approx(plain_loss(features, patients, 0.3, here), rel=1e-9)
    rows = np.repeat(patients, 2)
    first, second = (rows[side::2][here[side::2]] for side in (0, 1))
    expected = sum((second != one).any() for one in first) + sum((first != one).any() for one in second)
    assert int(result.count) == expected and 0 <= int(result.correct) <= expected
    result.loss.backward()
    assert torch.isfinite(content.grad).all() and not content.grad[~torch.from_numpy(here)].any()


def test_all_present_equals_none_absent():
    features, patient, segment = torch.randn(8, 5), torch.tensor([1, 1, 2, 2, 3, 3, 1, 1]), torch.tensor([0, 1] * 4)
    expected = cmsc_loss(features, patient, segment)
    found = cmsc_loss(features, patient, segment, present=torch.ones(8, dtype=torch.bool))
    assert torch.equal(found.loss, expected.loss)
    assert int(found.correct) == int(expected.correct) and int(found.count) == expected.count == 8


def test_an_odd_number_of_segments_is_refused():
    with pytest.raises(ValueError, match="3 segments"):
        cmsc_loss(torch.randn(3, 5), torch.zeros(3), torch.tensor([0, 1, 0]))


@pytest.mark.parametrize("present", [None, torch.tensor([True] * 6 + [False] * 2)], ids=["all", "some absent"])
def test_one_graph_of_fixed_shapes_that_waits_for_nothing(present):
    patient, segment = torch.tensor([1, 1, 2, 2, 3, 3, 1, 1]), torch.tensor([0, 1] * 4)
    values = torch.randn(8, 5)

    def loss_and_gradient(function):
        features = values.clone().requires_grad_()
        result = function(features, patient, segment, present=present)
        result.loss.backward()
        return result.loss.detach(), features.grad, result.correct, result.count

    with NothingWaits():
        expected = loss_and_gradient(cmsc_loss)
    found = loss_and_gradient(torch.compile(cmsc_loss, fullgraph=True, backend="eager"))
    for one, other in zip(found, expected):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))


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
    config = EcgWav2Vec2Config(**{**SMALL, "encoder_layers": 1, "num_negatives": 5, "feature_grad_mult": 1.0})
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


def gradients_of_cmsc(rows, gather=None):
    """Gradient that a data-parallel trainer would apply: summed over ranks, divided by all frames."""
    model, sample = small_model(), {key: value[rows] for key, value in batch(8).items()}
    features = model.get_features(model(sample["source"], mask_indices=sample["mask"]), aggregate=True)
    segments = (features, sample["patient_id"], sample["segment"])
    features, patient_id, segment, present = gather(*segments) if gather else (*segments, None)
    result = cmsc_loss(features, patient_id, segment, present=present)
    frames = int(sample["mask"].sum())
    (result.loss * frames).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return float(result.loss.detach()), int(result.count), frames, gradients


# pairs of the first rank (of 8), most segments of a batch
CASES = {
    "4 and 4 pairs": (4, 8),
    "4 and 4 pairs, padded": (4, 12),
    "2 and 6 pairs": (2, 12),
    "2 and 6 pairs, numbers exchanged": (2, None),
}
# all 63 bits and the sign; some are equal in their lowest 21 or 42 bits
PATIENTS = [[0, 1, 2**63 - 1, -1, 5, 5 + 2**21], [5 + 2**42, 5 + 2**62, 2**62, -(2**63)]]


def over_two_ranks(rank, split, most):
    rows = slice(0, 2 * split) if rank == 0 else slice(2 * split, 16)
    gather = functools.partial(gather_segments, most_segments=most)
    loss, count, frames, gradients = gradients_of_cmsc(rows, gather)
    total = torch.tensor(frames)
    dist.all_reduce(total)
    for gradient in gradients.values():
        dist.all_reduce(gradient)
        gradient /= total
    return loss, count, gradients


def gathered_patients(rank, most):
    patients = torch.tensor(PATIENTS[rank])
    features = (torch.arange(len(patients)) + 100.0 * rank).unsqueeze(1).requires_grad_()
    segment = torch.tensor([1, 0] * (len(patients) // 2))
    with NothingWaits():
        gathered = gather_segments(features, patients, segment, most)
        (gathered[0] * 2 ** (10 * rank)).sum().backward()
    return tuple(value.detach() for value in gathered), features.grad


def waits(rank, most):
    try:
        gathered_patients(rank, most)
    except WaitsForTheDevice:
        return True
    return False


def refusal(rows, most):
    try:
        gather_segments(torch.zeros(rows, 1), torch.zeros(rows, dtype=torch.long), torch.zeros(rows), most)
    except ValueError as error:
        return str(error)
    return ""


def one_of_two(rank, meeting, target):
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    found = {name: over_two_ranks(rank, *case) for name, case in CASES.items()}
    found["patients"] = gathered_patients(rank, 8)
    found["waits"] = waits(rank, None)
    found["refusals"] = [refusal(4, 2), refusal(3, 8), refusal(2, 5)]
    torch.save(found, f"{target}{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(one_of_two, (str(folder / "meeting"), str(folder / "rank")), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_gathering_over_two_ranks_equals_one_rank(ranks, case):
    expected_loss, count, frames, expected = gradients_of_cmsc(slice(0, 16))
    assert max(float(gradient.abs().max()) for gradient in expected.values()) / frames > 1e-3
    for rank in ranks:
        loss, counted, found = rank[case]
        assert loss == pytest.approx(expected_loss, abs=1e-6)
        assert counted == count == 16
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient / frames, atol=1e-5, rtol=1e-4, msg=name)


def test_every_bit_of_a_patient_arrives(ranks):
    for number, rank in enumerate(ranks):
        (features, patients, segment, present), gradient = rank["patients"]
        assert patients.tolist() == [*PATIENTS[0], 0, 0, *PATIENTS[1], 0, 0, 0, 0]
        assert features.flatten().tolist() == [*range(6), 0, 0, *range(100, 104), 0, 0, 0, 0]
        assert segment.tolist() == [1, 0] * 3 + [0, 1] + [1, 0] * 2 + [0, 1] * 2
        assert present.tolist() == [True] * 6 + [False] * 2 + [True] * 4 + [False] * 4
        # each rank's gradient of these rows, summed: 1 of rank 0 and 1024 of rank 1
        assert gradient.flatten().tolist() == [1025] * len(PATIENTS[number])


def test_gathering_waits_only_if_it_has_to_ask_for_the_numbers(ranks):
    """With `most_segments` it ran under `NothingWaits` above."""
    assert [rank["waits"] for rank in ranks] == [True, True]


def test_what_cannot_be_padded_is_refused(ranks):
    assert ranks[0]["refusals"] == [
        f"{rows} segments cannot be padded to {most}: pairs are needed, and no more than that"
        for rows, most in [(4, 2), (3, 8), (2, 5)]
    ]


def test_alone_segments_come_back_as_they_are():
    segments = (torch.randn(3, 5), torch.arange(3), torch.zeros(3))
    *found, present = gather_segments(*segments, most_segments=2)
    assert all(one is other for one, other in zip(found, segments)) and present is None


def test_without_gathering_ranks_see_their_own_pairs_only():
    """So the test above can fail."""
    whole, *_ = gradients_of_cmsc(slice(0, 16))
    half, *_ = gradients_of_cmsc(slice(0, 8))
    assert abs(whole - half) > 0.1
