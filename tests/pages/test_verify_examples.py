"""The example recordings on the page of `verify` equal those in the shards, with notes on their leads."""

import numpy as np
import pytest
from made_up_wfdb import write_wfdb

from fairseq_signals_ext.pages import verify_page
from fairseq_signals_ext.prepared.counts import Processing
from fairseq_signals_ext.prepared.pipeline import RunOptions, prepare
from fairseq_signals_ext.prepared.verify import verify
from fairseq_signals_ext.sources import SourceOptions, open_source


@pytest.fixture()
def prepared(tmp_path):
    """A folder with one recording, of leads II, I and V1, which is constant, and the signals that it has."""
    counts = np.random.default_rng(0).integers(-900, 900, (6000, 3))
    counts[:, 2] = 5
    write_wfdb(tmp_path / "records" / "r0", counts.T, ["II", "I", "V1"])
    source = open_source("wfdb", tmp_path / "records", SourceOptions())
    prepare(source, tmp_path / "out", Processing(fill_leads=True), options=RunOptions(progress=False))
    return tmp_path / "out", counts


def test_leads_that_were_filled_are_not_drawn_and_others_have_their_note(prepared, tmp_path, monkeypatch):
    out, counts = prepared
    drawn = []
    monkeypatch.setattr(
        verify_page, "printed_ecg", lambda recording, notes: drawn.append((recording, notes)) or "data:,"
    )
    verify_page.write_verify_page(verify(out, progress=False), tmp_path / "verify.html")
    ((recording, notes),) = drawn
    assert recording.leads == (0, 1, 2, 3, 4, 5, 6) and recording.derived == (2, 3, 4, 5)
    assert notes == {"V1": "constant"} and recording.sample_rate == 500
    np.testing.assert_allclose(recording.signal[[1, 0, 6]], counts[:5000].T / 1000, atol=1e-9)
    assert '<img src="data:,"' in (tmp_path / "verify.html").read_text()


def test_narrow_windows_do_not_scroll_sideways(prepared, browser, tmp_path):
    findings = verify(prepared[0], progress=False)
    findings.problems.append("a" * 300)
    verify_page.write_verify_page(findings, tmp_path / "verify.html")
    browser.messages.clear()
    browser.open((tmp_path / "verify.html").as_uri())
    for width in (1280, 390):
        browser.call("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=False)
        assert browser.value("document.documentElement.scrollWidth") == width
    browser.call("Emulation.clearDeviceMetricsOverride")
    assert browser.messages == []
