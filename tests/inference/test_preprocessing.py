"""A file alone and the same file through `prepare`, a data set and its collater: the model sees the same."""

import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_up import plain_recording, stored_recording

from fairseq_signals_ext import cli
from fairseq_signals_ext.checkpoints.description import Preprocessing
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.data.ecg_dataset import LabelledEcgDataset
from fairseq_signals_ext.data.label_table import LabelTable
from fairseq_signals_ext.data.manifest import find_manifests, read_manifests
from fairseq_signals_ext.data.segments import SegmentSettings
from fairseq_signals_ext.data.standardising import STANDARDIZATIONS
from fairseq_signals_ext.data.stores import open_store
from fairseq_signals_ext.inference.preprocessing import SegmentedRecording, segments_of
from fairseq_signals_ext.prepared.counts import Processing
from fairseq_signals_ext.prepared.pipeline import RunOptions, prepare
from fairseq_signals_ext.readers import read_ecg
from fairseq_signals_ext.readers.limb_leads import with_limb_leads
from fairseq_signals_ext.sources import Item, Source


def prepare_command(arguments):
    return cli.main(["prepare", *arguments])


ALL = tuple(range(12))


class Of:
    """A source's reader that gives one recording, as `read_ecg` would."""

    def __init__(self, recording):
        self.recording = recording

    def __call__(self, folder, item):
        return with_limb_leads(self.recording)


def training_input(folder, inputs, name="all"):
    """Source and padding_mask of each recording, by idx, from the real data set and collater."""
    store = open_store(read_manifests(find_manifests(folder, name)))
    settings = SegmentSettings(
        segment_seconds=inputs.stride_samples / inputs.sample_rate,
        max_sample_size=inputs.segment_samples,
        leads=tuple(LEADS.index(lead) for lead in inputs.loaded_leads),
        pad=True,
        pad_leads=inputs.leads == LEADS,
        standardization=inputs.standardization,
    )
    labels = LabelTable("y.npy", np.zeros((int(store.idx.max()) + 1, 1)), ["label"], [[]])
    data = LabelledEcgDataset(store, settings, training=False, labels=labels, num_labels=1, classes=True)
    found = {}
    for index in range(len(data)):
        batch = data.collater([data[index]])
        source = batch["net_input"]["source"]
        none = torch.zeros(len(source), source.shape[-1], dtype=torch.bool)
        mask = batch["net_input"].get("padding_mask", none)
        found.setdefault(int(batch["idx"][0]), []).append((source.numpy(), mask.numpy()))
    return {idx: tuple(map(np.concatenate, zip(*pieces))) for idx, pieces in found.items()}


def prepared_input(recording, inputs, folder):
    source = Source("memory", folder, [Item("one")], Of(recording))
    rate = float(str(np.float32(inputs.sample_rate)))
    prepare(source, folder, Processing(rate), RunOptions(progress=False))
    return training_input(folder, inputs)[0]


def is_constant(source, mask):
    """Whether no lead ever changes, padding apart; where leads are standardised they are zeros then."""
    rows = np.concatenate([segment[:, ~padding] for segment, padding in zip(source, mask)], axis=1)
    return (rows == rows[:, :1]).all()


@pytest.fixture(scope="module")
def real(each_kind, tmp_path_factory):
    """Real recordings of each kind, prepared at 500 Hz."""
    out = tmp_path_factory.mktemp("prepared")
    prepare_command(["files", str(each_kind), "--out", str(out), "--rate", "500", "--input-unit", "mV"])
    table = pd.read_parquet(out / "recordings.parquet")
    suffixes = {name.rsplit(".", 1)[-1] for name in table["source_file"]}
    assert {"hea", "dcm", "scp", "xml", "mat"} <= suffixes
    assert {400, 500, 1000} <= set(table["sample_rate"])
    return out, table


@pytest.mark.parametrize(
    "inputs",
    [
        Preprocessing(),
        Preprocessing(standardization="segment"),
        Preprocessing(standardization="recording", loaded_leads=("I", "aVF", "V2", "V5")),
        Preprocessing(standardization="fixed"),
        Preprocessing(loaded_leads=("I", "V2"), segment_samples=1000, stride_samples=1250),
        Preprocessing(segment_samples=10_000, stride_samples=10_000),
        Preprocessing(segment_samples=10_000, stride_samples=10_000, standardization="segment"),
    ],
    ids=["lead", "segment", "recording", "fixed", "two leads", "long lead", "long segment"],
)
def test_real_files(real, each_kind, inputs):
    out, table = real
    expected = training_input(out, inputs)
    largest, padded, compared = 0.0, 0, 0
    for row in table.itertuples():
        source, mask = expected[row.idx]
        if is_constant(source, mask):
            with pytest.raises(UserError, match="never change|its leads are"):
                segments_of(read_ecg(each_kind / row.source_file), inputs)
            continue
        found, found_mask = segments_of(read_ecg(each_kind / row.source_file), inputs)
        assert found.dtype == np.float32 and found.shape == source.shape, row.source_file
        np.testing.assert_array_equal(found_mask, mask)
        largest, padded, compared = max(largest, np.abs(found - source).max()), padded + mask.any(), compared + 1
    assert compared > 240 and (padded > 100) == (inputs.stride_samples == 10_000)
    # by lead the arithmetic is the same to the bit; torch and numpy sum a segment in another order
    assert largest <= (1e-5 if inputs.standardization == "segment" else 0)


@st.composite
def recordings(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    leads = tuple(sorted(draw(st.sets(st.sampled_from(ALL), min_size=1))))
    samples = draw(st.integers(2, 700))
    rate = draw(st.sampled_from([50.0, 100.0, 99.9, 128.0, 250.0, 333.3, 20.0]))
    counts = rng.integers(-3000, 3000, (len(leads), samples)).astype(np.int16)
    counts[draw(st.lists(st.integers(0, len(leads) - 1), max_size=3))] = draw(st.integers(-5000, 5000))
    if draw(st.booleans()):
        scale, zero = draw(st.sampled_from([0.001, 0.00488, -0.002])), draw(st.sampled_from([0.0, 1024.0]))
        return stored_recording(counts, scale, zero, leads=leads, sample_rate=rate)
    signal = counts * rng.uniform(1e-4, 1e-2, (len(leads), 1)) + draw(st.sampled_from([0.0, 3.0, -200.0]))
    signal[rng.random(signal.shape) < draw(st.sampled_from([0.0, 0.1, 0.95]))] = np.nan
    return plain_recording(signal, rate, leads=leads)


@st.composite
def settings_of_models(draw):
    loaded = tuple(draw(st.permutations(LEADS)))[: draw(st.integers(1, 12))]
    stride = draw(st.integers(20, 300))
    return Preprocessing(
        # the rate of a shard, and so of a checkpoint, is a float32
        sample_rate=draw(st.sampled_from([100.0, 99.9, float(np.float32(99.9)), float(np.float32(333.3)), 64.0])),
        leads=draw(st.sampled_from([LEADS, loaded])),
        loaded_leads=loaded,
        segment_samples=draw(st.integers(10, stride)),
        stride_samples=stride,
        standardization=draw(st.sampled_from(STANDARDIZATIONS)),
    )


@settings(max_examples=80, deadline=None)
@given(recordings(), settings_of_models())
def test_made_up_recordings(tmp_path_factory, recording, inputs):
    try:
        expected, mask = prepared_input(recording, inputs, tmp_path_factory.mktemp("one"))
    except UserError as error:
        lacks_a_lead = inputs.leads != LEADS and "no lead" in str(error)
        assert lacks_a_lead or "items were rejected" in str(error)  # nothing is left of it at the model's rate
        expected, mask = None, None
        if lacks_a_lead:
            return  # training refuses it, `segments_of` gives the model zeros for the lead
    try:
        found, found_mask = segments_of(recording, inputs)
    except UserError as error:
        assert re.search("too short|never change|its leads are", str(error))
        assert expected is None or is_constant(expected, mask)
        return
    np.testing.assert_array_equal(found_mask, mask)
    if inputs.standardization != "segment":
        np.testing.assert_array_equal(found, expected)
    else:
        assert (np.abs(found - expected) <= rounding_of_layer_norm(recording, inputs)).all()


def rounding_of_layer_norm(recording, inputs):
    """How far float32 sums may be off: a few units in the last place of the largest value, in deviations; N x 1 x 1."""
    segmented = SegmentedRecording.of(recording, inputs)
    values = segmented.counts * segmented.gain[:, None] + segmented.offset[:, None]
    starts = [number * inputs.stride_samples for number in range(len(segmented))]
    pieces = [values[:, start : start + inputs.segment_samples] for start in starts]
    largest = np.array([np.abs(piece).max() for piece in pieces])
    deviation = np.array([np.sqrt(piece.var() + 1e-5) for piece in pieces])
    return (4 * np.finfo(np.float32).eps * (1 + largest / deviation))[:, None, None]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 400), st.integers(1, 9), st.sampled_from(STANDARDIZATIONS))
@example(49, 4, "lead")
def test_batches_are_pieces_of_the_whole(samples, size, way):
    signal = np.random.default_rng(samples).normal(size=(2, samples + 1))
    inputs = Preprocessing(100.0, segment_samples=30, stride_samples=50, standardization=way)
    segmented = SegmentedRecording.of(plain_recording(signal, 100), inputs)
    batches = [segmented.batch(at, min(at + size, len(segmented))) for at in range(0, len(segmented), size)]
    for together, pieces in zip(segments_of(plain_recording(signal, 100), inputs), zip(*batches)):
        np.testing.assert_array_equal(together, np.concatenate(pieces))


def test_known_values():
    """Two segments of a lead that alternates around 3 mV; the others are absent, and III is derived from a zero I."""
    up_and_down = np.tile([2.0, 4.0], 25)
    inputs = Preprocessing(10.0, segment_samples=20, stride_samples=20)
    source, mask = segments_of(plain_recording([0 * up_and_down, up_and_down], 10), inputs)
    assert source.shape == (2, 12, 20) and not mask.any()
    np.testing.assert_allclose(source[:, [1, 2, 5]], np.tile([-1, 1], 10) * np.ones((2, 3, 1)), atol=1e-4)
    np.testing.assert_allclose(source[:, [3, 4]], np.tile([1, -1], 10) * np.ones((2, 2, 1)), atol=1e-4)
    assert not source[:, [0, 6, 7, 8, 9, 10, 11]].any()


def test_short_recording_is_padded():
    source, mask = segments_of(plain_recording(np.random.default_rng(0).normal(size=(12, 700))), Preprocessing())
    assert mask.sum() == 1800 and mask[0, 700:].all()
    assert not source[..., 700:].any() and source[..., :700].all(axis=-1).all()


def ones_and(value):
    signal = np.random.default_rng(0).normal(size=(12, 500))
    signal[3, 7] = value
    return plain_recording(signal)


@pytest.mark.parametrize(
    ("recording", "message"),
    [
        (plain_recording(np.zeros((12, 0))), "it has no samples"),
        (ones_and(np.inf), "infinite values; mark invalid samples as NaN"),
        (ones_and(-np.inf), "infinite values"),
        (ones_and(1e300), r"1e\+300 mV, which no ECG has"),
        (ones_and(-2e9), r"2e\+09 mV"),
        (plain_recording(np.full((12, 500), np.nan)), "never change"),
        (plain_recording(np.ones((12, 500))), "never change"),
        (plain_recording(np.ones((12, 500)), rate=0), "sample rate is 0.0 Hz"),
        (plain_recording(np.ones((12, 500)), rate=math.nan), "sample rate is nan"),
        (plain_recording(np.ones((12, 500)), rate=1e-9), "too long"),
        (plain_recording(np.eye(12, 5), rate=1e9), "too short"),
        (
            replace(stored_recording(np.eye(12, 500).astype(np.int16), 1e308), physical=None),
            "its values are impossible for an ECG",
        ),
    ],
)
@pytest.mark.filterwarnings("error")
def test_signals_that_are_no_ecg(recording, message):
    with pytest.raises(UserError, match=message) as error:
        segments_of(recording, Preprocessing())
    assert str(error.value).startswith("recording 'r': ") and "\n" not in str(error.value)


def test_none_of_the_leads():
    inputs = replace(Preprocessing(), loaded_leads=("V1", "V2"))
    with pytest.raises(UserError, match="recording 'r': its leads are I, II, III, aVR, aVL, aVF, .*uses V1, V2"):
        segments_of(plain_recording(np.random.default_rng(0).normal(size=(2, 500))), inputs)
