"""Many recordings, one or several models: the same predictions as one by one, for any batches."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up import made_up_counts, plain_recording, write_shards
from made_up_checkpoints import LABELS, saved_checkpoint

import fairseq_signals_ext
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.inference.ensemble import Ensemble, Predicted, Rejected, load_ensemble
from fairseq_signals_ext.inference.export import export
from fairseq_signals_ext.inference.inputs import Inputs, find_inputs
from fairseq_signals_ext.inference.model import LoadedModel
from fairseq_signals_ext.inference.preprocessing import SegmentedRecording
from fairseq_signals_ext.inference.running import RunOptions

LENGTHS = [500, 5100, 300, 2600, 12000, 500, 2500, 700, 800, 2500, 25000, 500]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Recordings of 1 to 80 segments; two are too short to give numbers, and one is no ECG."""
    folder = tmp_path_factory.mktemp("inputs")
    write_shards(folder, LENGTHS)
    np.save(folder / "zeros.npy", np.zeros((12, 1000)))
    return find_inputs([folder / "train.tsv", folder / "zeros.npy"], sample_rate=500)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return fairseq_signals_ext.load(saved_checkpoint(tmp_path_factory.mktemp("model") / "a.pt"))


def other(model, seed, **description):
    """The same model with outputs of its own."""

    def backend(source, padding_mask):
        output, embedding = model.backend(source, padding_mask)
        return output * np.float32(1 + seed / 10) + np.float32(seed), embedding

    return LoadedModel(replace(model.description, **description), backend, f"m{seed}")


@pytest.mark.parametrize(
    "options", [RunOptions(1), RunOptions(3), RunOptions(7), RunOptions(64), RunOptions(8, jobs=1)]
)
def test_same_as_one_by_one(model, inputs, options):
    found = list(Ensemble([model]).predict_all(inputs, options))
    assert [one.number for one in found] == list(range(len(LENGTHS) + 1))
    for one in found[:-1]:
        expected = model.predict(inputs.recording(one.number))
        np.testing.assert_allclose(one.prediction.scores, expected.scores, atol=1e-6)
        np.testing.assert_allclose(one.prediction.segment_scores, expected.segment_scores, atol=1e-6)
        assert one.prediction.recording.idx == one.number  # which a recording alone does not know
        assert replace(one.prediction.recording, idx=None) == expected.recording
        assert len(expected.segment_scores) == max(1, LENGTHS[one.number] // 2500)
    assert found[-1] == Rejected(
        len(LENGTHS), inputs.name(12), "its leads never change, so there is no ECG in it; give another recording"
    )


def test_a_run_can_begin_anywhere(model, inputs):
    whole = list(Ensemble([model]).predict_all(inputs, RunOptions(8)))
    for start in (5, 12, 13):
        found = list(Ensemble([model]).predict_all(inputs, RunOptions(8), start))
        assert [one.number for one in found] == [one.number for one in whole[start:]]


def test_flags_show_quality_problems(model):
    signal = made_up_counts(np.random.default_rng(0), 3000) / 1000
    signal[0, 100] = np.nan
    leads = (0, *range(3, 12))
    found = model.predict(plain_recording(signal[:10], leads=leads, rate=250)).recording
    assert (found.seconds, found.sample_rate, found.segments, found.missing_leads) == (12.0, 250, 2, ("II", "III"))
    assert found.flags == ("nan", "filled")
    assert model.predict(plain_recording(signal[1:, :400], leads=tuple(range(1, 12)))).recording.flags == (
        "short",
        "filled",
    )


def test_flags_of_millivolts_say_nothing_of_standardised_values(model):
    values = made_up_counts(np.random.default_rng(0), 3000) / 10
    values[0] = np.clip(values[0], -5, 5)  # so that the limb leads disagree, too
    for is_standardised, flags in ((False, ("clipped", "amplitude", "einthoven")), (True, ())):
        segments = SegmentedRecording.of(plain_recording(values), model.preprocessing, "r", is_standardised)
        assert segments.facts.flags == flags


@pytest.mark.parametrize("stop", [None, 3])
def test_threads_of_torch_are_put_back(model, inputs, stop):
    """Also for threads that begin later, and if the iterator is not read to its end."""

    def threads():
        with ThreadPoolExecutor(1) as pool:
            return torch.get_num_threads(), pool.submit(torch.get_num_threads).result()

    before = threads()
    found = Ensemble([model]).predict_all(inputs, RunOptions(4, at_once=3))
    list(itertools.islice(found, stop))
    found.close()
    assert threads() == before


def test_ensemble_is_the_mean(model, inputs):
    """Labels in another order, another aggregation and other thresholds."""
    order = [2, 0, 1]
    names, ways = tuple(LABELS[place] for place in order), ("max", "mean", "max")

    def backend(source, padding_mask):
        output, embedding = model.backend(source, padding_mask)
        return np.ascontiguousarray(output[:, order]) * 2, embedding

    second = LoadedModel(
        replace(model.description, label_names=names, aggregation=ways, thresholds=(0.9, 0.1, 0.5)), backend, "second"
    )
    third = other(model, 1)
    together = Ensemble([model, second, third])
    np.testing.assert_allclose(
        together.thresholds, np.mean([(0.25, 0.5, 0.75), (0.1, 0.5, 0.9), (0.25, 0.5, 0.75)], axis=0)
    )
    singles = [list(Ensemble([one]).predict_all(inputs)) for one in (model, second, third)]
    for found, *each in zip(together.predict_all(inputs, RunOptions(5)), *singles):
        if isinstance(found, Rejected):
            continue
        scores = [one.prediction.as_dict() for one in each]
        expected = np.array([np.mean([one[label] for one in scores]) for label in LABELS])
        np.testing.assert_allclose(found.prediction.scores, expected, rtol=1e-6)
        assert found.prediction.positive.tolist() == [*(found.prediction.scores >= np.array(together.thresholds))]
        alone = together.predict(inputs.recording(found.number))
        np.testing.assert_allclose(alone.scores, found.prediction.scores, atol=1e-6)
        np.testing.assert_allclose(alone.segment_scores, found.prediction.segment_scores, atol=1e-6)


def test_members_of_other_rates(model):
    inputs = model.preprocessing
    slow = other(model, 2, preprocessing=replace(inputs, sample_rate=250.0, stride_samples=inputs.stride_samples // 2))
    recording = plain_recording(made_up_counts(np.random.default_rng(3), 5000) / 1000)
    found = Ensemble([model, slow]).predict(recording)
    expected = np.mean([one.predict(recording).segment_scores for one in (model, slow)], axis=0)
    np.testing.assert_allclose(found.segment_scores, expected, atol=1e-6)


def test_models_that_do_not_fit(model, tmp_path):
    stride = model.preprocessing.stride_samples
    cases = [
        ({"label_names": ("A", "B", "D")}, "only one has label 'C'"),
        ({"kind": "regression"}, "one is a regression"),
        (
            {"preprocessing": replace(model.preprocessing, stride_samples=2 * stride)},
            "its segments are of 10 s, not 5 s",
        ),
        ({"kind": "pretraining"}, "which has no labels"),
    ]
    for description, told in cases:
        with pytest.raises(UserError, match=told):
            Ensemble([model, other(model, 1, **description)])
    pretrained = saved_checkpoint(tmp_path / "p.pt", "pretraining")
    with pytest.raises(UserError, match="fine-tune it, or use"):
        load_ensemble([pretrained])
    assert Ensemble([model, other(model, 1, thresholds=None)]).thresholds is None


def test_exports_hold_their_labels(tmp_path):
    """Those that are given are for the checkpoints that do not."""
    path = saved_checkpoint(tmp_path / "a.pt")
    state = torch.load(path, weights_only=True)
    del state["task_state"]["label_names"], state["task_state"]["thresholds"]
    torch.save(state, tmp_path / "unnamed.pt")
    (tmp_path / "label_def.csv").write_text("\n".join(["name", *LABELS]) + "\n")
    labels = str(tmp_path / "label_def.csv")
    exported = export(path, "torchscript", tmp_path / "exported").folder
    assert load_ensemble([tmp_path / "unnamed.pt", exported], labels=labels).label_names == LABELS


def test_a_recording_without_numbers_is_rejected_and_a_model_without_them_stops(model, inputs):
    """The first may be the recording's fault, the second is the checkpoint's."""

    def backend(source, padding_mask):
        output, embedding = model.backend(source, padding_mask)
        output[padding_mask[:, -1]] = np.nan
        return output, embedding

    some = Ensemble([LoadedModel(model.description, backend, "some")])
    short = Inputs(inputs.parts[:1])
    # the model's segments are of 1 s
    wrong = [number for number, samples in enumerate(LENGTHS) if samples < 500]
    found = list(some.predict_all(short, RunOptions(4)))
    assert [one.number for one in found if isinstance(one, Rejected)] == wrong
    assert found[wrong[0]].reason == "no numbers come out of the model; give a recording longer than 0.6 s"
    assert all(isinstance(one, Predicted) for one in found if one.number not in wrong)

    def nothing(source, padding_mask):
        return tuple(output * np.float32("nan") for output in model.backend(source, padding_mask))

    with pytest.raises(UserError, match="not finite for any recording"):
        list(Ensemble([LoadedModel(model.description, nothing, "none")]).predict_all(short))


@pytest.mark.parametrize("values", [(0, 0), (1, -1)])
def test_options_that_cannot_be(values):
    with pytest.raises(UserError, match="give at least 1 and 0"):
        RunOptions(*values)
