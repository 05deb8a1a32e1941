"""Many ECGs in one array (N x samples x leads or N x leads x samples), with an optional table of their metadata."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Union, overload

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.readers.facts import age_of, patient_of, sex_of, shown
from fairseq_signals_ext.readers.recording import Recording
from fairseq_signals_ext.readers.sizes import check_size

_SUFFIXES = (".csv", ".tsv", ".parquet")
_LONGEST_HEADER = 2**16  # letters


def _time(value: Any) -> Optional[datetime]:
    try:
        return datetime.fromisoformat(str(value))
    except ValueError:
        return None


_FACTS: Dict[str, Callable[[Any], Any]] = {
    "record_id": lambda value: shown(value) or None,
    "patient": patient_of,
    "age": age_of,
    "sex": sex_of,
    "start_time": _time,
}


class Batch(Sequence[Recording]):
    """The ECGs of one array, each read on access.

    Args:
        path: the file.
        number: of ECGs.
        read: index of an ECG in the array -> the ECG.

    Raises:
        UserError: the array is empty, or the table beside it cannot be read or has another number of rows.
    """

    def __init__(self, path: Path, number: int, read: Callable[[int], Recording]):
        if not number:
            raise UserError(f"{path}: its array is of 0 ECGs; get it again")
        self._number, self._read = number, read
        self._facts = _facts(path, number)

    def __len__(self) -> int:
        return self._number

    @overload
    def __getitem__(self, place: int) -> Recording: ...

    @overload
    def __getitem__(self, place: slice) -> List[Recording]: ...

    def __getitem__(self, place: Union[int, slice]) -> Union[Recording, List[Recording]]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(self._number))]
        number = range(self._number)[place]
        recording = self._read(number)
        known = {name: values[number] for name, values in self._facts.items() if values[number] is not None}
        return replace(recording, **known) if known else recording


def table_beside(path: Path) -> Optional[Path]:
    """Return the metadata table of a batch: same name, but `.csv`, `.tsv` or `.parquet`, a row per ECG in their order.

    It has at least one of the columns `record_id`, `patient`, `age`, `sex` and `start_time`. None if there is no table.
    """
    for suffix in _SUFFIXES:
        table = path.with_suffix(suffix)
        if table.is_file() and set(_columns(table)) & set(_FACTS):
            return table
    return None


def _columns(table: Path) -> Sequence[str]:
    if table.suffix == ".parquet":
        import pyarrow.parquet as pq

        try:
            return list(pq.read_schema(table).names)
        except (OSError, ValueError):
            return ()
    with open(table, encoding="utf-8-sig", errors="replace") as file:
        line = file.readline(_LONGEST_HEADER).strip()
    return [cell.strip().strip('"') for cell in line.split(_separator(line))]


def _separator(line: str) -> str:
    return max(",;\t", key=line.count)


def _facts(path: Path, number: int) -> Dict[str, List[Any]]:
    """Return the metadata of each ECG of a batch from the table beside it."""
    table = table_beside(path)
    if table is None:
        return {}
    import pandas as pd

    check_size(table, copies=20)
    try:
        if table.suffix == ".parquet":
            rows = pd.read_parquet(table)
        else:
            with open(table, encoding="utf-8-sig") as file:
                separator = _separator(file.readline(_LONGEST_HEADER))
            rows = pd.read_csv(table, sep=separator, dtype=str, encoding="utf-8-sig", index_col=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{table}: cannot be read as a table ({type(error).__name__}); correct or move it") from error
    if len(rows) != number:
        raise UserError(
            f"{table}: it has {len(rows)} rows for {number} ECGs of {path.name}; give each one row in order"
        )
    columns = [name for name in _FACTS if name in rows.columns]
    plain = rows[columns].astype(object).where(rows[columns].notna(), None)
    return {name: [None if value is None else _FACTS[name](value) for value in plain[name]] for name in columns}
