"""Read tables from users, `.csv`, `.csv.gz` or `.parquet`, in pieces and only the columns that are needed."""

import gzip
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Iterator, List, Optional, Sequence, Union

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.hints import did_you_mean
from fairseq_signals_ext.readers.facts import patient_of

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

# errors of pandas, pyarrow and gzip for damaged tables
UNREADABLE = (OSError, ValueError, EOFError, zlib.error)
_LONGEST_HEADER = 2**20  # letters; pandas would take minutes for the columns of a longer one
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # how files of Excel begin
_WHOLE_NUMBER = re.compile(r"(\d+)\.0+")
# cells that spreadsheets interpret as formulas, also after a `'` that was added before
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def separator_of(path: Path) -> str:
    """Return the separator of a text table: the most frequent of `,`, `;` and tab in its first line.

    Raises:
        ValueError: that line is too long for a table, or it is a workbook.
    """
    with open(path, "rb") as file:
        if file.read(4) in _WORKBOOKS:
            raise ValueError("it is an Excel workbook; save it as CSV (UTF-8)")
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
            first = file.readline(_LONGEST_HEADER)
    else:
        with open(path, encoding="utf-8", errors="replace") as file:
            first = file.readline(_LONGEST_HEADER)
    if len(first) == _LONGEST_HEADER:
        raise ValueError(f"its first line has more than {_LONGEST_HEADER:,} letters")
    return max(",;\t", key=first.count)


def columns_of(path: Union[str, Path]) -> List[str]:
    """Return the names of a table's columns.

    Raises:
        UserError: it does not exist or cannot be read.
    """
    import pandas as pd
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a .csv, .csv.gz or .parquet file")
    try:
        if path.suffix == ".parquet":
            return list(pq.read_schema(path).names)
        return list(pd.read_csv(path, dtype=str, nrows=0, encoding="utf-8-sig", sep=separator_of(path)).columns)
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def check_columns(path: Union[str, Path], columns: Sequence[str]) -> None:
    """Raise a `UserError` unless the table has all of these columns."""
    present = columns_of(path)
    missing = [column for column in dict.fromkeys(columns) if column not in present]
    if missing:
        what = f"column{'s' * (len(missing) > 1)} {', '.join(map(repr, missing))}"
        hint = did_you_mean(missing[0], present, f"its columns are {', '.join(present) or 'none'}")
        raise UserError(f"{path}: no {what}; {hint}")


def read_chunks(
    path: Union[str, Path], columns: Sequence[str], rows: int = 500_000, strict: bool = False
) -> Iterator["pd.DataFrame"]:
    """Yield pieces of some columns of a table; their index is the number of the row in the table, from 0.

    Columns of a CSV file are unchanged text, without empty rows; columns of a parquet file have types.

    Args:
        rows: of a piece.
        strict: lines of a CSV file with more fields than columns are an error; this reads all columns into memory.

    Raises:
        UserError: a column is missing, or the file cannot be read.
    """
    path, columns = Path(path), list(dict.fromkeys(columns))
    check_columns(path, columns)
    try:
        if path.suffix == ".parquet":
            yield from _parquet_chunks(path, columns, rows)
            return
        yield from _csv_chunks(path, columns, rows, strict)
    except UserError:
        raise
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def _csv_chunks(path: Path, columns: Sequence[str], rows: int, strict: bool) -> Iterator["pd.DataFrame"]:
    import pandas as pd

    usecols = None if strict else columns
    # without index_col=False, a comma at the end of each line would move every value to the next column
    options = {"dtype": str, "index_col": False, "skip_blank_lines": False, "encoding": "utf-8-sig"}
    with pd.read_csv(path, usecols=usecols, chunksize=rows, sep=separator_of(path), **options) as chunks:
        for chunk in chunks:
            yield chunk[columns].dropna(how="all")  # here, so that rows are counted as lines


def _parquet_chunks(path: Path, columns: Sequence[str], rows: int) -> Iterator["pd.DataFrame"]:
    import pandas as pd
    import pyarrow.parquet as pq

    first = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(rows, columns=list(columns)):
            # otherwise integers with missing values would become floats, and long ids inexact
            chunk = batch.to_pandas(integer_object_nulls=True)
            chunk.index = pd.RangeIndex(first, first + len(chunk))
            first += len(chunk)
            yield chunk


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, UnicodeDecodeError):
        reason = "it is not UTF-8"
    return UserError(f"{path}: cannot be read ({reason[:200]}); give a .csv (UTF-8), .csv.gz or .parquet file")


def place(path: Union[str, Path], row: int) -> str:
    """Return the place of a row (from 0) for messages: `line 2` of a CSV file, `row 1` of another table."""
    return f"row {row + 1}" if Path(path).suffix == ".parquet" else f"line {row + 2}"


def as_id(text: str) -> str:
    """Return an id for comparison: `123.0` (an integer column with gaps) becomes `123`; leading zeros stay."""
    return _WHOLE_NUMBER.sub(r"\1", text) if _WHOLE_NUMBER.fullmatch(text) else text


def as_cell(text: str) -> str:
    """Return a text for a table that we write: with `'` before a text that a spreadsheet would take for a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def of_cell(text: str) -> str:
    """Return the original text of a cell in a table that we wrote, see `as_cell`."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def places_of(keys: "pd.Series", known: Sequence[str]) -> "np.ndarray":
    """Return the index of each key in `known` (int64), -1 for unknown or missing keys."""
    import numpy as np
    import pandas as pd

    codes, different = pd.factorize(keys)  # a key occurs often, as a patient has many events
    return np.append(pd.Index(known).get_indexer(pd.Index(different)), -1)[codes]


def as_keys(values: "pd.Series") -> "pd.Series":
    """Return ids as trimmed text for comparison, see `as_id`; None where missing."""
    return _keys(values, lambda text: as_id(text) or None)


def as_patients(values: "pd.Series") -> "pd.Series":
    """Return patients' ids like `as_keys`; placeholders that many people share become None (`patient_of`)."""
    return _keys(values, lambda text: patient_of(as_id(text), numbered=True))


def _keys(values: "pd.Series", id_of: Callable[[str], Optional[str]]) -> "pd.Series":
    import numpy as np
    import pandas as pd

    codes, different = pd.factorize(values)
    ids = [id_of(text) for text in _trimmed(different)]
    keys = np.array([*ids, None], object)  # the last one is for missing values
    return pd.Series(keys[codes], index=values.index, dtype=object)


def as_texts(values: "pd.Series") -> "pd.Series":
    """Return values as trimmed text; empty where missing."""
    import pandas as pd

    return pd.Series(_trimmed(values.astype(object).where(values.notna(), "")), index=values.index, dtype=object)


def _trimmed(values: Sequence[object]) -> List[str]:
    return [str(value).strip() for value in values]
