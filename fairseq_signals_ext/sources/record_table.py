"""Read tables about recordings: of public collections, and from the user."""

import dataclasses
import re
import warnings
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Sequence, Tuple

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.readers.facts import age_of, patient_of, sex_of, shown
from fairseq_signals_ext.sources.column_names import notes_on_columns
from fairseq_signals_ext.sources.source import Item
from fairseq_signals_ext.sources.table_problems import TableProblems
from fairseq_signals_ext.sources.text_tables import UNREADABLE, as_id, separator_of
from fairseq_signals_ext.sources.times import not_a_time, time_of

if TYPE_CHECKING:
    import pandas as pd

# columns of a user's table that name the file or the recording; the first existing one is used
_KEYS = ("source_file", "file", "path", "record_id")
# columns with metadata for reading a file, if the file does not contain them
_READING = ("sample_rate", "unit", "leads")
_UNKNOWN = ("unknown", "u", "other", "o", "nan", "n/a", "na", "none", "-", "?")
_SEPARATOR = re.compile(r"[;,|]")
# whole numbers above this are no longer exact as float64
_EXACT = 2**53


def read_csv(path: Path, columns: Sequence[str]) -> "pd.DataFrame":
    """Read a table of a public collection, with types as pandas infers them.

    Raises:
        UserError: it is missing, cannot be read, or lacks a column.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the collection's own folder, with its tables")
    try:
        table = _csv(path, low_memory=False)
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read ({shown(error)}); get the file again") from error
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise UserError(f"{path}: no column {missing[0]!r}; get the collection's own file")
    return table


def _csv(path: Path, **how: Any) -> "pd.DataFrame":
    """Read a CSV file; a line with more values than columns is a ValueError (pandas would shift the columns)."""
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return pd.read_csv(path, index_col=False, sep=separator_of(path), **how)
        except UnicodeDecodeError as error:
            raise ValueError("it is not UTF-8; save it as UTF-8") from error
        except pd.errors.ParserWarning as error:
            raise ValueError("the first line of values has more of them than there are columns") from error


def text(value: Any) -> Optional[str]:
    """Return a value of a table as text, whole numbers without a point; None if it is empty or missing."""
    if value is None or value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None


def texts(value: Any) -> Tuple[str, ...]:
    """Return one value or a list of values as texts, without empty or missing ones."""
    from pandas.api.types import is_list_like

    found = map(text, value if is_list_like(value) else [value])
    return tuple(one for one in found if one is not None)


def number(value: Any) -> Optional[float]:
    """Return a value of a table as a number; None if it is no number."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if found == found else None


def time(value: Any, where: str) -> Optional[datetime]:
    """Return a value of a table as a time without time zone; None if it is empty.

    Raises:
        UserError: it is no time, or its day and month cannot be distinguished; the message begins with `where`.
    """
    written = text(value)
    if written is None:
        return None
    found = time_of(written)
    if found is None:
        raise UserError(f"{where}: {shown(written)!r} is not a time; write it as 2024-12-31 23:59:59")
    return found.replace(tzinfo=None)


@dataclasses.dataclass
class _Reading:
    """Reads values of a user's table, and collects problems and notes.

    Attributes:
        time_format: of its times, see `time_of`.
        problems: values that cannot be used.
        zoned: times that had a time zone, which was dropped.
    """

    time_format: Optional[str] = None
    problems: TableProblems = dataclasses.field(default_factory=TableProblems)
    zoned: List[str] = dataclasses.field(default_factory=list)

    def time(self, value: Any, where: str) -> Optional[datetime]:
        """Return a time like the function `time`, but in the user's format if given."""
        written = text(value)
        if written is None:
            return None
        found = time_of(written, self.time_format)
        if found is None:
            raise UserError(f"{where}: {not_a_time(written, self.time_format)}")
        if found.tzinfo is not None:
            self.zoned.append(written)
        return found.replace(tzinfo=None)

    def notes(self, table: Path, columns: Sequence[str]) -> List[str]:
        """Return the notes for the user, one line each."""
        found = [f"{table}: {note}" for note in notes_on_columns(columns, _KNOWN)]
        if self.zoned:
            count, first = len(self.zoned), shown(self.zoned[0])
            found.append(
                f"{table}: time zones of {count} start times (such as {first!r}) are dropped; times stay as written"
            )
        return found


def with_table(
    items: Sequence[Item],
    table: Optional[Path],
    time_format: Optional[str] = None,
    notes: Optional[List[str]] = None,
) -> List[Item]:
    """Return the items with their metadata from a user's table.

    The table's column `source_file`, `file` or `path` names a file below the source's folder (or its last part only),
    or `record_id` its name without suffix. `record_id`, `patient`, `start_time`, `age`, `sex`, `codes` (a list, or
    separated by semicolons, commas or `|`), `statements` and `source` replace the metadata of a file; `sample_rate`,
    `unit` and `leads` are used for reading it; any other column is copied to the table of recordings.

    Args:
        time_format: of the table's times, as for `datetime.strptime`; None: see `times.as_iso_time`.
        notes: a list to which notes for the user are appended, one line each.

    Raises:
        UserError: the table cannot be read, has none of these columns, names a file twice, no existing file, or a name
            that occurs in several folders; or values cannot be used (all are counted).
    """
    if table is None:
        return list(items)
    rows, key = _rows(table)
    found: List[Item] = []
    used: Dict[str, str] = {}
    reading = _Reading(time_format)
    whole = {item.name for item in items}
    for item in items:
        # a full name has priority over a short name of another file
        names: Sequence[str] = names_of_file(item.name)
        names = names[-1:] if key == "record_id" else [name for name in names if name == item.name or name not in whole]
        name = next((name for name in names if name in rows), None)
        found.append(item if name is None else _with_row(item, rows[name], reading))
        if name is not None and _folder(used.setdefault(name, item.name)) != _folder(item.name):
            both = f"{used[name]!r} and {item.name!r}"
            raise UserError(f"{table}: {key} {name!r} may be {both}; write them with their folders in a column 'file'")
    reading.problems.check(table)
    if not used:
        raise UserError(f"{table}: none of its {len(rows)} rows names a file of this source by its {key!r}; check them")
    unknown = next((name for name in rows if name not in used), None)
    if unknown is not None:
        raise UserError(
            f"{table}: {len(rows) - len(used)} rows name no file of this source; the first has "
            f"{key} {unknown!r}; correct or remove them"
        )
    if notes is not None:
        notes += reading.notes(table, list(next(iter(rows.values()))))
    return found


def _rows(path: Path) -> Tuple[Dict[str, Dict[str, Any]], str]:
    """Return the rows of a user's table by the file or recording that they name, and the column of these names."""
    table = _read(path)
    key = next((name for name in _KEYS if name in table.columns), None)
    if key is None:
        present = ", ".join(map(str, table.columns))
        raise UserError(
            f"{path}: no column of {', '.join(_KEYS)}; add one that names the file of each row (it has {present})"
        )
    names = [plain_path(text(name)) for name in table[key]]
    if None in names:
        raise UserError(f"{path}: row {names.index(None) + 1} has no {key}; write it or remove the row")
    rows: Dict[str, Dict[str, Any]] = {}
    for name, row in zip(names, table.to_dict("records")):
        if name in rows:
            raise UserError(f"{path}: {key} {name!r} appears twice; remove one of the rows")
        rows[str(name)] = row
    return rows, key


def plain_path(name: Optional[str]) -> Optional[str]:
    """Return a file name with slashes and without leading `./`; None stays None."""
    if name is None:
        return None
    slashes = name.replace("\\", "/")
    return slashes[2:] if slashes.startswith("./") else slashes


def _read(path: Path) -> "pd.DataFrame":
    """Read a user's table: None for missing values, columns of numbers as numbers."""
    import pandas as pd

    if not path.is_file():
        raise UserError(f"{path}: no such file; give a table (.csv or .parquet)")
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else _csv(path, dtype=str)
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read ({shown(error)}); give a table (.csv or .parquet)") from error
    for name in table.columns.difference([*_KEYS, "patient", "codes", "statements"]):
        if table[name].map(pd.api.types.is_list_like).any():
            raise UserError(f"{path}: column {name!r} contains lists; write them as text, or remove it")
        table[name] = _numbers(table[name]) if path.suffix != ".parquet" else table[name]
    return table.astype(object).where(table.notna(), None)


def _numbers(column: "pd.Series") -> "pd.Series":
    """Return a column of text as numbers, unless a value is no number or would lose digits, such as leading zeros."""
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce")
    exact = (numbers.abs() <= _EXACT) & ~column.str.match(r"\s*0\d", na=False)
    return numbers if (exact | column.isna()).all() else column


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def names_of_file(file: str) -> List[str]:
    """Return the names of a file in a table: full, without folders, without suffix, without both."""
    last = file.rsplit("/", 1)[-1]
    return [file, last, file.rsplit(".", 1)[0], last.rsplit(".", 1)[0]]


def _with_row(item: Item, row: Dict[str, Any], table: _Reading) -> Item:
    """Return the item with the values of a row; unusable values are noted by column."""

    def read(name: str, how: Callable[[Any, str], Any], value: Any) -> Any:
        try:
            return how(value, f"{item.name}: {name}")
        except UserError as error:
            table.problems.add(name, str(error))
            return None

    facts = {name: value for name, value in row.items() if name not in ("source_file", "file", "path")}
    source = text(facts.pop("source", None))
    reading = {name: facts.pop(name) for name in _READING if text(facts.get(name)) is not None}
    if "sample_rate" in reading:
        reading["sample_rate"] = read("sample_rate", _rate, reading["sample_rate"])
    for name in _READING:
        facts.pop(name, None)
    for name, how in {**_FACTS, "start_time": table.time}.items():
        if name in facts:
            facts[name] = read(name, how, facts[name])
    return dataclasses.replace(
        item, source=source or item.source, facts={**item.facts, **facts}, reading={**item.reading, **reading}
    )


def _rate(value: Any, where: str) -> Any:
    return _known(value, number, where, "a number in Hz")


def _known(value: Any, read: Callable[[Any], Any], where: str, wanted: str, kind: str = "known") -> Any:
    """Return a value; None if it is empty or a word for "unknown". Anything else is an error."""
    written = text(value)
    if written is None or written.lower() in _UNKNOWN:
        return None
    found = read(value)
    if found is None:
        raise UserError(f"{where}: {shown(written)!r} is not {kind}; write {wanted}")
    return found


def _id(value: Any) -> Optional[str]:
    """Return an id as text; None if it is empty or a word for this. `123.0` becomes `123`, as in joining labels."""
    written = text(value)
    if written is None or written.lower() in _UNKNOWN:
        return None
    return as_id(written)


def patient(value: Any, numbered: bool = False) -> Optional[str]:
    """Return the patient's id from a table; None if it is empty or a placeholder, see `patient_of`."""
    written = text(value)
    return None if written is None else patient_of(as_id(written), numbered)


def _codes(value: Any, where: str) -> Tuple[str, ...]:
    return texts([code for codes in texts(value) for code in _SEPARATOR.split(codes)])


_AN_AGE = "years, such as 63 (90+ where the oldest are hidden), or nothing"
_FACTS: Dict[str, Callable[[Any, str], Any]] = {
    "record_id": lambda value, where: _id(value),
    "patient": lambda value, where: patient(value),
    "age": lambda value, where: _known(value, age_of, where, _AN_AGE, "an age"),
    "sex": lambda value, where: _known(value, sex_of, where, "female or male"),
    "codes": _codes,
    "statements": lambda value, where: texts(value),
}
# columns of a user's table that have a meaning here
_KNOWN = (*_KEYS, *_READING, *_FACTS, "start_time", "source")
