"""Tables that we write: no cell is a formula in a spreadsheet, and our readers restore the original text."""

import csv

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.inference.results import write_csv
from fairseq_signals_ext.sources import Item
from fairseq_signals_ext.sources.record_table import with_table
from fairseq_signals_ext.sources.text_tables import as_cell, columns_of, of_cell

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x","y")', "-r.csv"]


@given(st.text("'=+-@\t\ra1", max_size=6))
@example("'=1")
def test_cells_can_be_turned_back(text):
    assert of_cell(as_cell(text)) == text
    assert as_cell(text)[:1] not in "=+-@\t\r" or not text


@pytest.mark.parametrize("text", ["", "a", "007", "1.5", "'tis", "a=b", "12-lead", "'"])
def test_other_texts_stay_as_they_are(text):
    assert as_cell(text) == text == of_cell(text)


def test_written_tables_hold_no_formulas(tmp_path):
    path = tmp_path / "predictions.csv"
    columns = {"record_id": "string", "=label": "float64", "leads": "list<string>"}
    rows = [{"record_id": text, "=label": -0.5, "leads": ["=x", "I"]} for text in FORMULAS]
    assert write_csv(path, columns, iter(rows)) == len(FORMULAS)
    with open(path, newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    assert header == ["record_id", "'=label", "leads"]
    assert [of_cell(line[0]) for line in lines] == [text.replace("\r", " ") for text in FORMULAS]
    assert all(line[0][0] in "' " and line[1] == "-0.5" and line[2] == "'=x I" for line in lines)


def test_embeddings_of_recordings_with_such_names(tmp_path):
    from fairseq_signals_ext.analysis.embeddings_folder import _read_npy

    names = [text for text in FORMULAS if "\r" not in text]
    columns = {"record_id": "string", "file": "string", "seconds": "float64", "segments": "int64",
               "flags": "list<string>", "first_row": "int64", "rows": "int64"}  # fmt: skip
    rows = [{"record_id": name, "file": f"{name}.csv", "seconds": 10.0, "segments": 1, "flags": [], "first_row": row,
             "rows": 1} for row, name in enumerate(names)]  # fmt: skip
    write_csv(tmp_path / "embeddings.csv", columns, iter(rows))

    np.save(tmp_path / "embeddings.npy", np.zeros((len(names), 2), np.float32))
    _, recordings = _read_npy(tmp_path)
    assert list(recordings["record_id"]) == names
    assert list(recordings["file"]) == [f"{name}.csv" for name in names]


def test_a_header_too_long_for_a_table(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a," * 600_000 + "\n")
    with pytest.raises(UserError, match=r"t\.csv: cannot be read \(its first line has more than") as caught:
        columns_of(path)
    assert str(caught.value).count(str(path)) == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"PK\x03\x04" + bytes(30), "it is an Excel workbook; save it as CSV"),
        (b"\xd0\xcf\x11\xe0" + bytes(30), "it is an Excel workbook; save it as CSV"),
        ("record_id,M\xfcller\n".encode("latin-1"), "it is not UTF-8"),
    ],
)
def test_tables_of_another_kind(tmp_path, content, told):
    """The message is the same for all commands with a table."""
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    for read in (lambda: columns_of(path), lambda: with_table([Item("a.hea")], path)):
        with pytest.raises(UserError, match=rf"t\.csv: cannot be read \({told}"):
            read()
