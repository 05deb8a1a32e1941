"""Helpers of the tests of all sources: made-up WFDB records, and the command with its results."""

import csv
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from fairseq_signals_ext import cli
from fairseq_signals_ext.common.leads import LEADS


def main(arguments):
    return cli.main(["prepare", *arguments])


class Prepared(NamedTuple):
    """A prepared folder."""

    out: Path
    table: pd.DataFrame  # by source_file
    rejected: dict  # source_file -> reason
    notes: list  # lines on stderr

    def patients(self):
        """The patient's number of each recording of the first shard."""
        return np.load(self.out / "shards" / "00000.index.npy")["patient"].tolist()

    def signal(self, name):
        """Lead -> mV, from the shard's bytes."""
        row = self.table.loc[name]
        index = np.load(self.out / row["shard"].replace(".npy", ".index.npy"))[row["row"]]
        names = row["leads"].split(",")
        start, samples = int(index["offset"]), int(index["samples"])
        counts = np.load(self.out / row["shard"])[start : start + len(names) * samples].reshape(len(names), samples)
        numbers = [LEADS.index(name) for name in names]
        assert int(index["leads"]) == sum(1 << number for number in numbers)
        mv = (counts - index["zero"][numbers][:, None]) * index["scale"][numbers][:, None]
        return dict(zip(names, mv))


@pytest.fixture
def prepare(tmp_path, capsys):
    """Runs the command; `status` is 1 where files are rejected."""

    def run(kind, source, *arguments, status=0, out="out"):
        assert main([kind, str(source), "--out", str(tmp_path / out), *map(str, arguments)]) == status
        with open(tmp_path / out / "rejected.csv", encoding="utf-8", newline="") as file:
            rejected = {row["source_file"]: row["reason"] for row in csv.DictReader(file)}
        table = pd.read_parquet(tmp_path / out / "recordings.parquet").set_index("source_file")
        printed = capsys.readouterr()
        assert (f"rejected.csv: {len(rejected)} rejected\n" in printed.out) == bool(rejected)
        notes = [line.split(": ", 2)[2] for line in printed.err.splitlines() if line.startswith("note: ")]
        return Prepared(tmp_path / out, table, rejected, notes)

    return run


@pytest.fixture
def refusal(tmp_path):
    """The one line with which the command refuses."""

    def run(kind, source, *arguments):
        with pytest.raises(SystemExit) as caught:
            main([kind, str(source), "--out", str(tmp_path / "out"), *map(str, arguments)])
        text = str(caught.value)
        assert text.startswith("error: ")
        assert "\n" not in text
        assert not (tmp_path / "out" / "all.tsv").exists()
        return text

    return run


@pytest.fixture
def counts():
    """`counts(seed)`: 12 x samples of int16 that no other seed gives."""

    def made(seed, samples=2600):
        return np.random.default_rng(seed).integers(-900, 900, (12, samples)).astype("<i2")

    return made


@pytest.fixture
def write_record():
    """Writes a record in format 16, byte by byte."""

    def write(path, counts, comments=(), names=LEADS, rate=500, mat=False, gain="1000.0(0)/mV", first=""):
        path.parent.mkdir(parents=True, exist_ok=True)
        name = f"{path.name}.mat" if mat else f"{path.name}.dat"
        fmt = "16+24" if mat else "16"
        lines = [f"{path.name} {len(counts)} {rate} {counts.shape[1]}{first}"]
        lines += [f"{name} {fmt} {gain} 16 0 {row[0]} 0 0 {lead}" for row, lead in zip(counts, names)]
        # MATLAB 4: int16 in columns, rows, columns, real, length of the name "val"
        header = struct.pack("<5i", 30, *counts.shape, 0, 4) + b"val\0" if mat else b""
        (path.parent / name).write_bytes(header + counts.T.tobytes())
        path.with_name(f"{path.name}.hea").write_text("\n".join([*lines, *comments, ""]))

    return write
