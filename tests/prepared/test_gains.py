"""The factor of a source whose gain is wrong: the header's own gain proposes it, amplitudes confirm it."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import RATE

from fairseq_signals_ext.prepared.counts import Processing, to_counts
from fairseq_signals_ext.prepared.pipeline import RunOptions, prepare
from fairseq_signals_ext.prepared.quality import assess, gain_of, likely_factor
from fairseq_signals_ext.prepared.table import read_table
from fairseq_signals_ext.prepared.verify import verify
from fairseq_signals_ext.readers import read_ecg
from fairseq_signals_ext.sources import open_source


def amplitude(recording):
    return assess(to_counts(recording, Processing()), RATE, 5.0).amplitude_mv


@pytest.fixture(scope="module")
def sources(ecg_data):
    folders = {name: ecg_data / "cinc2021" / name for name in ("georgia", "cpsc_2018", "ptb-xl")}
    return {name: [read_ecg(path) for path in sorted(folder.glob("*.hea"))] for name, folder in folders.items()}


def test_real_sources_are_plausible(sources):
    for recordings in sources.values():
        assert likely_factor([*map(amplitude, recordings)], [*map(gain_of, recordings)]) is None


@pytest.mark.parametrize("written", [4880.0, 2e6, 200.0, 4.88e6, 1.0, 1e6, 1e9])
def test_a_wrong_gain_gives_the_factor(sources, written):
    """Measured in early releases of the Challenge: Georgia 4880, PTB 2,000,000, PTB-XL 200, all 1000 in truth."""
    for recordings in sources.values():
        right = [*map(amplitude, recordings)]
        assert {*map(gain_of, recordings)} == {1000.0}
        factor = likely_factor([one * 1000 / written for one in right], [written] * len(right))
        assert factor == pytest.approx(written / 1000, rel=1e-6)


@pytest.mark.parametrize(("true", "written"), [(200.0, 0.2), (200.0, 2e5), (204.8, 0.2048), (1 / 4.88e-3, 1 / 4.88)])
def test_other_common_gains_with_a_wrong_unit(sources, true, written):
    for recordings in sources.values():
        amplitudes = [amplitude(one) * true / written for one in recordings]
        assert likely_factor(amplitudes, [written] * len(amplitudes)) == pytest.approx(written / true, rel=1e-3)


def test_amplitudes_alone_if_gains_are_unknown_or_not_round(sources):
    for recordings in sources.values():
        right = [*map(amplitude, recordings)]
        for factor in (4.88, 10, 1000, 1e6, 0.1, 0.001, 1 / 4.88):
            for gains in ((), [None] * len(right), [327.675 * factor] * len(right), [*range(1, len(right) + 1)]):
                found = likely_factor([one / factor for one in right], gains)
                assert found == pytest.approx(factor), (factor, gains[:1])


def test_no_recordings_give_no_factor():
    assert likely_factor([]) is None
    assert likely_factor([0.0, 0.0], [200.0, 200.0]) is None


@given(median=st.floats(1e-9, 1e9), gain=st.one_of(st.none(), st.floats(1e-9, 1e9)))
def test_plausible_amplitudes_give_no_factor(median, gain):
    factor = likely_factor([median], [gain])
    assert (factor is None) == (0.5 <= median <= 4)
    assert factor is None or factor > 0


@pytest.mark.parametrize(("source", "written"), [("georgia", 4880), ("ptb-xl", 200), ("cpsc_2018", 2000000)])
def test_gain_fix_auto_and_its_report(tmp_path, ecg_data, source, written):
    folder = tmp_path / "wrong" / source
    folder.mkdir(parents=True)
    for path in sorted((ecg_data / "cinc2021" / source).glob("*.*")):
        content = path.read_bytes()
        if path.suffix == ".hea":
            content = re.sub(rb" 1000(\.0)?(\(0\))?/m[vV] ", b" %d/mV " % written, content)
        (folder / path.name).write_bytes(content)
    quiet = RunOptions(progress=False)
    as_it_is = prepare(open_source("wfdb", folder), tmp_path / "as-it-is", options=quiet)
    assert as_it_is.likely_factors == {source: written / 1000}
    notes = " ".join(verify(tmp_path / "as-it-is", progress=False).notes)
    assert f"the likely factor is {written / 1000:g} (--gain-fix)" in notes
    fixed = prepare(open_source("wfdb", folder), tmp_path / "fixed", options=quiet, gain_fix="auto")
    assert fixed.likely_factors == {}
    table = read_table(tmp_path / "fixed")
    assert set(table["gain_fix"]) == {written / 1000} and set(table["counts_per_mv"]) == {float(written)}
    right = [amplitude(read_ecg(ecg_data / "cinc2021" / source / name)) for name in table["source_file"]]
    np.testing.assert_allclose(table["amplitude_mv"], right, rtol=1e-9)
