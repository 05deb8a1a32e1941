"""The ways to standardise, against plain numpy on the values in mV; the default unchanged to the bit."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import open_dataset, write_mat

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.data.augmentations import AugmentationSettings
from fairseq_signals_ext.data.shards import ShardWriter
from fairseq_signals_ext.data.standardising import FIXED_DEVIATIONS, STANDARDIZATIONS

LARGEST = 5


def write_recording(folder, counts, leads, scale, zero):
    """A prepared recording at 100 Hz, of int16 counts."""
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    with ShardWriter(folder / "shards/00000.npy", "raw") as writer:
        writer.add(counts, leads=leads, scale=scale, zero=zero, sample_rate=100, idx=0, patient="p")
    (folder / "train.tsv").write_text(f".\nshards/00000.npy\t0\t{counts.shape[1]}\n")


def inputs_of(folder, way, **options):
    """Segments of the real data set and collater: N x 12 x 50."""
    options = {"pad_leads": True, "pad": True, "segment_seconds": 0.5, "training": False, **options}
    data = open_dataset(folder, standardization=way, **options)
    return data.collater([data[index] for index in range(len(data))])["net_input"]["source"].numpy()


def reference(way, signal, leads, loaded):
    """The same in float64, of mV: whole recording x 12."""
    kept = [row for row, lead in enumerate(leads) if lead in loaded and np.ptp(signal[row]) > 0]
    source = np.zeros((12, signal.shape[1]))
    for row in kept:
        values = signal[row]
        if way == "lead":
            values = (values - values.mean()) / values.std()
        elif way == "recording":
            values = (values - signal[kept].mean()) / signal[kept].std()
        else:
            values = np.clip(values / FIXED_DEVIATIONS[leads[row]], -LARGEST, LARGEST)
        source[leads[row]] = values
    return source


@st.composite
def recordings(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    leads = sorted(draw(st.sets(st.integers(0, 11), min_size=1)))
    counts = rng.integers(-2000, 2000, (len(leads), draw(st.integers(50, 260)))).astype(np.int16)
    counts[draw(st.lists(st.integers(0, len(leads) - 1), max_size=3))] = draw(st.integers(-900, 900))
    scale = rng.uniform(2e-4, 2e-3, len(leads)).astype(np.float32)
    zero = rng.integers(-500, 500, len(leads)).astype(np.float32)
    return counts, leads, scale, zero


@settings(max_examples=40, deadline=None)
@given(recordings(), st.sets(st.integers(0, 11), min_size=1), st.sampled_from(["lead", "recording", "fixed"]))
def test_each_way_equals_numpy(tmp_path_factory, recording, loaded, way):
    counts, leads, scale, zero = recording
    folder = tmp_path_factory.mktemp("one")
    write_recording(folder, counts, leads, scale, zero)
    signal = (counts - zero[:, None].astype(float)) * scale[:, None].astype(float)
    expected = reference(way, signal, leads, loaded)
    found = inputs_of(folder, way, leads=tuple(sorted(loaded)))
    whole = len(found) * 50
    np.testing.assert_allclose(found.transpose(1, 0, 2).reshape(12, whole), expected[:, :whole], rtol=0, atol=1e-4)


def test_a_recording_keeps_how_large_its_leads_are_and_fixed_the_voltage(tmp_path):
    wave = np.tile([-100, 100], 50)
    counts = np.array([wave, 3 * wave, np.full(100, 700)], np.int16)  # the last is constant
    write_recording(tmp_path, counts, [0, 6, 7], np.full(3, 0.001), np.zeros(3))
    by_recording, fixed = (inputs_of(tmp_path, way)[:, [0, 6, 7]] for way in ("recording", "fixed"))
    np.testing.assert_allclose(np.abs(by_recording[:, :2, 0]), [[1 / 5**0.5, 3 / 5**0.5]] * 2, rtol=1e-5)
    np.testing.assert_allclose(np.abs(fixed[:, :2, 0]), [[0.1 / 0.191, 0.3 / 0.235]] * 2, rtol=1e-5)
    assert not by_recording[:, 2].any() and not fixed[:, 2].any()


def test_fixed_is_clipped_and_padding_is_zero(tmp_path):
    counts = np.array([np.linspace(-3000, 3000, 30)], np.int16)
    write_recording(tmp_path, counts, [1], [0.001], [0.0])
    (source,) = inputs_of(tmp_path, "fixed")
    assert source.min() == -LARGEST and source.max() == LARGEST
    assert not source[:, 30:].any() and not np.delete(source, 1, axis=0).any()


# made before there was another way; integers alone decide them
DIGESTS = {"lead": "4d3fc6b58d098d9b", "segment": "d0ab9eff51338155"}


@pytest.mark.parametrize("way", DIGESTS)
def test_inputs_are_bit_identical_to_before(tmp_path, way):
    counts = (np.arange(12 * 230).reshape(12, 230) * 7919 % 4001 - 2000).astype(np.int16)
    counts[4] = 12
    write_recording(tmp_path, counts, range(12), np.full(12, 0.0049), np.arange(12.0))
    masking = AugmentationSettings(perturbation_mode=("random_leads_masking",))
    source = inputs_of(tmp_path, way, training=True, augmentations=masking)
    assert hashlib.sha256(source.tobytes()).hexdigest()[:16] == DIGESTS[way]


@pytest.mark.parametrize("way", STANDARDIZATIONS)
def test_standardised_files_of_ecg_fm_have_no_amplitude_to_keep(tmp_path, way):
    write_mat(tmp_path / "a.mat", np.random.default_rng(0).normal(size=(12, 100)), 0, 100)
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\na.mat\t100\n")
    if way in ("lead", "segment"):
        assert inputs_of(tmp_path, way).any()
        return
    with pytest.raises(UserError, match=f"^train: its leads are standardised already, .*standardize={way} cannot"):
        inputs_of(tmp_path, way)
