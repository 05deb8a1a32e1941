"""Placeholders for a patient's id, in files and tables: each such recording is a separate patient."""

import numpy as np
import pandas as pd
import pytest

from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.sources.text_tables import as_patients

PLACEHOLDERS = (
    "X X X X",
    "X",
    "ANONYMOUS",
    "xxxxxx",
    "unknown",
    "0",
    "123456",
    " ",
    "-",
    "n/a",
    "anonymized",
    "000000",
)


@pytest.fixture
def files(tmp_path):
    """One file for each placeholder, and two more."""
    folder = tmp_path / "files"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(len(PLACEHOLDERS) + 2):
        lines = [",".join(LEADS)] + [",".join(map("{:.3f}".format, row)) for row in rng.normal(0, 0.3, (2500, 12))]
        (folder / f"{number:02}.csv").write_text("\n".join(lines))
    return folder


def test_placeholders_of_a_table(files, tmp_path, prepare):
    patients = [*PLACEHOLDERS, "p1", "p1"]
    names = [path.name for path in sorted(files.iterdir())]
    pd.DataFrame({"file": names, "patient": patients}).to_csv(tmp_path / "t.csv", index=False)
    found = prepare("files", files, "--table", tmp_path / "t.csv", "--input-rate", "500")
    assert found.table["patient"].tolist() == [None] * len(PLACEHOLDERS) + ["p1", "p1"]
    assert len(set(found.patients())) == len(PLACEHOLDERS) + 1


def test_files_with_placeholder_patients(cases, tmp_path, prepare):
    folder = tmp_path / "edf"
    folder.mkdir()
    content = (cases / "edf" / "e01_std.edf").read_bytes()
    for number in range(3):
        (folder / f"{number}.edf").write_bytes(content[:8] + b"X X X X".ljust(80) + content[88:])
    found = prepare("files", folder)
    assert found.table["patient"].isna().all()
    assert len(set(found.patients())) == 3


def test_ids_of_tables_are_compared_without_placeholders():
    values = pd.Series(["X", "7.0", None, "unknown", "123456", "p1"])
    assert as_patients(values).tolist() == [None, "7", None, None, "123456", "p1"]
