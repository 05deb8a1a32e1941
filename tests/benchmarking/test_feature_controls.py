"""Controls: measures of made-up ECGs whose rate and axis are known, and the name of the data set."""

import numpy as np
import pandas as pd
import pytest
from made_up import RATE, write_shards

from fairseq_signals_ext.benchmarking.controls import source_alone
from fairseq_signals_ext.benchmarking.extraction import ExtractionOptions, extract
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.data.shards import ShardWriter
from fairseq_signals_ext.inference.running import RunOptions

SCALE, ZERO = 0.002, 5.0


def ecg(beats, seconds, rate, axis=60.0, noise=0.02):
    """Leads I to aVF and six more in mV: a QRS complex at each of `beats` (s), and a T wave after it."""
    time = np.arange(round(seconds * rate)) / rate
    rng = np.random.default_rng(0)
    wave = sum(
        1.2 * np.exp(-(((time - beat) / 0.015) ** 2) / 2) + 0.3 * np.exp(-(((time - beat - 0.28) / 0.05) ** 2) / 2)
        for beat in beats
    )
    one, avf = np.cos(np.radians(axis)), np.sin(np.radians(axis)) * np.sqrt(3) / 2
    two = avf + one / 2
    factors = [one, two, two - one, -(one + two) / 2, one - two / 2, avf, 0.5, 0.7, 1, 1, 0.8, -0.3]
    drift = 0.3 * np.sin(2 * np.pi * 0.2 * time)
    return np.outer(factors, wave) + drift + rng.normal(0, noise, (12, len(time)))


def measured(folder, signals, rate=RATE, leads=tuple(range(12)), **options):
    """A table of the hand-made features of signals, each 12 x samples, mV."""
    lines = [".\n"]
    with ShardWriter(folder / "shards" / "00000.npy") as writer:
        for idx, signal in enumerate(signals):
            counts = (signal[list(leads)] / SCALE + ZERO).round().astype(np.int16)
            scale, zero = np.full(len(leads), SCALE), np.full(len(leads), ZERO)
            writer.add(counts, leads=leads, scale=scale, zero=zero, sample_rate=rate, idx=idx, patient=f"p{idx}")
            lines.append(f"shards/00000.npy\t{idx}\t{counts.shape[1]}\n")
    (folder / "all.tsv").write_text("".join(lines))
    found = extract("hand-made", folder / "all.tsv", folder / "features", ExtractionOptions(**options))
    assert found.layers == ("hand-made",) and not found.has_deviation
    return pd.DataFrame(found.matrix(0), columns=found.facts["measures"])


@pytest.mark.parametrize("rate", [250, 500])
def test_rate_and_rhythm(tmp_path, rate):
    regular = [np.arange(0.4, 10, 60 / beats) for beats in (45, 75, 120, 170)]
    intervals = np.array([0.8, 1.1, 0.7, 0.9, 1.2, 0.6, 0.8, 1.0])
    irregular = 0.5 + np.cumsum([0, *intervals])
    found = measured(tmp_path, [ecg(beats, 10, rate) for beats in (*regular, irregular)], rate)
    np.testing.assert_allclose(found["heart rate (1/min)"][:4], [45, 75, 120, 170], rtol=0.01)
    assert (found["RR deviation (ms)"][:4] < 5).all()
    assert found["heart rate (1/min)"][4] == pytest.approx(60 / np.median(intervals), rel=0.01)
    assert found["RR deviation (ms)"][4] == pytest.approx(1000 * np.std(intervals), abs=5)


def test_beats_from_the_ventricles_do_not_hide_the_others(tmp_path):
    beats = np.arange(0.4, 10, 0.8)
    signal = ecg(beats, 10, RATE)
    signal += 1.5 * ecg(beats[3::4], 10, RATE, axis=-60)
    assert measured(tmp_path, [signal])["heart rate (1/min)"][0] == pytest.approx(75, rel=0.02)


def test_axis(tmp_path):
    axes = [-150, -60, -30, 0, 45, 60, 90, 120, 180]
    beats = np.arange(0.4, 10, 0.8)
    found = measured(tmp_path, [ecg(beats, 10, RATE, axis) for axis in axes])
    degrees = np.degrees(np.arctan2(found["sine of the axis"], found["cosine of the axis"]))
    assert np.abs((degrees - axes + 180) % 360 - 180).max() < 4


def test_amplitudes_are_those_in_mv(tmp_path):
    signal = ecg(np.arange(0.4, 10, 0.8), 10, RATE)
    found = measured(tmp_path, [signal])
    stored = ((signal / SCALE + ZERO).round() - ZERO) * SCALE
    for lead, row in zip(("I", "aVR", "V6"), stored[[0, 3, 11]]):
        assert found[f"deviation of {lead} (mV)"][0] == pytest.approx(row.std(), rel=1e-5)
        assert found[f"peak to peak of {lead} (mV)"][0] == pytest.approx(np.ptp(row), rel=1e-5)


def test_what_is_not_there_is_zero(tmp_path):
    nothing = np.zeros((12, 5000))
    short = ecg([0.2], 0.6, RATE)
    found = measured(tmp_path / "a", [nothing, short])
    assert not found.iloc[0].any()
    assert found["heart rate (1/min)"][1] == 0 < found["deviation of II (mV)"][1]
    signal = ecg(np.arange(0.4, 10, 0.8), 10, RATE, axis=30)
    two = measured(tmp_path / "b", [signal], leads=(0, 1))
    assert np.degrees(np.arctan2(two["sine of the axis"], two["cosine of the axis"]))[0] == pytest.approx(30, abs=4)
    alone = measured(tmp_path / "c", [signal], leads=(1,), how=RunOptions(jobs=1))
    assert alone["heart rate (1/min)"][0] == pytest.approx(75, rel=0.01)
    assert not alone[["cosine of the axis", "sine of the axis", "deviation of I (mV)"]].to_numpy().any()


def test_the_source_alone(tmp_path):
    write_shards(tmp_path, [2500] * 6, split="all")
    table = pd.DataFrame({"idx": [5, 4, 3, 2, 1, 0], "source": ["b", "b", "a", "c", "a", "b"]})
    table.to_parquet(tmp_path / "recordings.parquet")
    found = source_alone(tmp_path)
    assert (found.name, found.layers, found.dimensions, found.idx.tolist()) == ("source", ("source",), 3, [*range(6)])
    assert found.matrix(0).tolist() == np.eye(3)[[1, 0, 2, 0, 1, 1]].tolist()
    table.assign(source="a").to_parquet(tmp_path / "recordings.parquet")
    assert source_alone(tmp_path) is None
    table[1:].to_parquet(tmp_path / "recordings.parquet")
    with pytest.raises(UserError, match="recording idx 5"):
        source_alone(tmp_path)
