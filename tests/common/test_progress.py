"""Progress of a command whose output goes to a file: a line every 30 s, and no bar."""

import io
import re
import sys

import numpy as np
import pytest
from made_up import made_up_counts
from made_up_wfdb import write_wfdb

from fairseq_signals_ext import cli
from fairseq_signals_ext.common import progress


class _Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def prepare(tmp_path):
    """A command over four recordings."""
    (tmp_path / "source").mkdir()
    for number in range(4):
        write_wfdb(tmp_path / "source" / str(number), made_up_counts(np.random.default_rng(number), 1000))
    return lambda: cli.main(["prepare", "wfdb", str(tmp_path / "source"), "--out", str(tmp_path / "data")])


def test_a_line_now_and_then(prepare, monkeypatch, capsys):
    """As if each recording took 20 s: after the 2nd and 4th."""
    seconds = iter(range(0, 10000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 15.0)
    assert prepare() == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("prepare: ")]
    assert lines and all(re.fullmatch(r"prepare: \d of 4 items \(\d+ %\), about .* left", line) for line in lines)


def test_nothing_where_it_is_soon_done(prepare, capsys):
    assert prepare() == 0
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(prepare, monkeypatch):
    monkeypatch.setattr("sys.stderr", _Terminal())
    assert prepare() == 0
    assert "4/4" in sys.stderr.getvalue() and "\r" in sys.stderr.getvalue()


def test_a_line_where_the_total_is_unknown(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    assert list(progress.Progress("events", None, "piece").each("ab")) == ["a", "b"]
    assert capsys.readouterr().err == "events: 1 pieces\nevents: 2 pieces\n"
