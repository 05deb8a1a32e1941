"""Filter the recordings of a prepared folder for a split, and count the reasons for leaving others out."""

import operator
import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.leads import LEADS, leads_to_mask, parse_leads
from fairseq_signals_ext.data.shards import index_path
from fairseq_signals_ext.prepared.quality import FLAGS
from fairseq_signals_ext.prepared.table import TABLE_NAME

if TYPE_CHECKING:
    import pandas as pd

_COMPARISONS: Dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
OPERATORS = (*_COMPARISONS, "in")
_CONDITION = re.compile(r"\s*([^<>=!]+?)\s*(==|!=|<=|>=|<|>|(?<=\s)in(?=\s))\s*([^<>=!].*?)\s*")
_SHOWN = 10  # values of a column in a message


def parse_condition(words: Sequence[str]) -> Tuple[str, str, str]:
    """Column, operator and value of a condition, given as these three words or in one, such as `age>=43`.

    Raises:
        UserError: it has other parts.
    """
    if len(words) == 3:
        return words[0], words[1], words[2]
    text = " ".join(words)
    found = _CONDITION.fullmatch(text) if len(words) < 3 else None
    if found is None:
        raise UserError(f"where {text}: give one column, operator and value, in quotes, such as 'age >= 18'")
    return found[1], found[2], found[3]


@dataclass(frozen=True)
class Filters:
    """Conditions for recordings.

    Leads count if the source has them or they were computed from I and II; leads filled with zeros do not count.

    Attributes:
        without_flags: none of these flags, names of `quality.FLAGS`.
        with_leads: smallest number of leads.
        needs_leads: required leads, such as `"I,II,V1"`.
        min_seconds: smallest duration, as stored.
        where: conditions (column, operator of `OPERATORS`, value), all of which must be met. Numbers compare as
            numbers, times as times (ISO 8601), texts by `==`, `!=` and `in` (values separated by commas). An unknown
            value meets no condition.
    """

    without_flags: Tuple[str, ...] = ()
    with_leads: int = 0
    needs_leads: str = ""
    min_seconds: float = 0.0
    where: Tuple[Tuple[str, str, str], ...] = ()

    def check(self) -> None:
        """Raise a `UserError` for unknown names and invalid numbers."""
        for flag in self.without_flags:
            if flag not in FLAGS:
                raise UserError(f"flag {flag!r}: no such flag; flags are {', '.join(FLAGS)}")
        if not 0 <= self.with_leads <= len(LEADS):
            raise UserError(f"with leads {self.with_leads}: give a number of leads up to {len(LEADS)}")
        if not 0 <= self.min_seconds < float("inf"):
            raise UserError(f"min seconds {self.min_seconds:g}: give a length in s, 0 or more")
        parse_leads(self.needs_leads)
        for column, operation, value in self.where:
            if operation not in OPERATORS:
                condition = f"where {column} {operation} {value}"
                raise UserError(f"{condition}: no such operator; operators are {' '.join(OPERATORS)}")

    @property
    def columns(self) -> List[str]:
        """Return the columns of the table that these filters read."""
        names = [column for column, _, _ in self.where]
        names += ["flags"] if self.without_flags else []
        names += ["leads", "filled_leads"] if self.with_leads or self.needs_leads else []
        return names


@dataclass
class Selection:
    """The kept recordings; each other recording is counted once, for the first reason.

    Attributes:
        kept: bool, one per recording of the table.
        left_out: reason -> recordings.
    """

    kept: np.ndarray
    left_out: Dict[str, int] = field(default_factory=dict)

    def leave_out(self, unwanted: np.ndarray, reason: str) -> None:
        """Leave out those of the kept recordings that are `unwanted` (bool)."""
        now = self.kept & unwanted
        if now.any():
            self.left_out[reason] = self.left_out.get(reason, 0) + int(now.sum())
            self.kept = self.kept & ~unwanted

    def require_some(self, out: Path) -> None:
        """Raise a `UserError` if nothing is kept."""
        if not self.kept.any():
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
            left_out = f"left out: {reasons}" if reasons else "it has none"
            raise UserError(f"{out / TABLE_NAME}: no recording is left ({left_out}); use fewer or wider filters")


def select(out: Path, table: "pd.DataFrame", filters: Filters) -> Selection:
    """Apply filters.

    Args:
        out: prepared folder; the indices of its shards are read for the sample rates if there is a smallest duration.
        table: columns of `filters`, and `shard`, `row`, `samples` for a length.

    Raises:
        UserError: a condition that does not suit its column, or an index that cannot be read.
    """
    selection = Selection(np.ones(len(table), bool))
    for unwanted, reason in _unwanted(out, table, filters):
        selection.leave_out(unwanted, reason)
    return selection


def _unwanted(out: Path, table: "pd.DataFrame", filters: Filters) -> Iterator[Tuple[np.ndarray, str]]:
    for flag in filters.without_flags:
        yield _has_flag(table["flags"], flag), f"flag {flag}"
    if filters.with_leads or filters.needs_leads:
        present = _lead_masks(table["leads"]) & ~_lead_masks(table["filled_leads"])
        number = np.array([bin(mask).count("1") for mask in range(1 << len(LEADS))])[present]
        yield number < filters.with_leads, f"fewer than {filters.with_leads} leads"
        if filters.needs_leads:
            needed = leads_to_mask(parse_leads(filters.needs_leads))
            yield (present & needed) != needed, f"without all of the leads {filters.needs_leads}"
    if filters.min_seconds:
        seconds = table["samples"].to_numpy() / _sample_rates(out, table)
        yield seconds < filters.min_seconds, f"shorter than {filters.min_seconds:g} s"
    for column, operation, value in filters.where:
        yield ~_meets(table[column], operation, value), f"not {column} {operation} {value}"


def _has_flag(flags: "pd.Series", flag: str) -> np.ndarray:
    present = flags.reset_index(drop=True).explode().eq(flag)
    return present.groupby(level=0).any().to_numpy(bool)


def _lead_masks(leads: "pd.Series") -> np.ndarray:
    texts = leads.fillna("")
    masks = {text: leads_to_mask(parse_leads(text)) if text else 0 for text in texts.unique()}
    return texts.map(masks).to_numpy(np.int64)


def _sample_rates(out: Path, table: "pd.DataFrame") -> np.ndarray:
    """Return the stored rate in Hz of each recording, from the index of its shard."""
    rates = np.empty(len(table))
    rows = table["row"].to_numpy()
    for shard, members in table.groupby("shard").indices.items():
        path = index_path(out / shard)
        try:
            rates[members] = np.load(path, mmap_mode="r")["sample_rate"][rows[members]]
        except (OSError, ValueError, IndexError, EOFError) as error:
            raise UserError(f"{path}: cannot be read ({error}); prepare it again with --resume") from error
    return rates


def _meets(column: "pd.Series", operation: str, value: str) -> np.ndarray:
    import pandas as pd

    condition = f"where {column.name} {operation} {value}"
    known = column.notna().to_numpy()
    compare: Callable[[str], Any]
    if pd.api.types.is_numeric_dtype(column):
        values, compare = column.to_numpy(float), lambda text: _number(text, condition)
    elif pd.api.types.is_datetime64_any_dtype(column):
        values, compare = column.to_numpy("datetime64[us]"), lambda text: parse_time(text, condition)
    else:
        refuse_lists(column)
        if operation not in ("==", "!=", "in"):
            raise UserError(f"{condition}: the column contains text, which can be compared by ==, != and in only")
        values, compare = column.to_numpy(object), str
    wanted = [text.strip() for text in value.split(",")] if operation == "in" else [value]
    if values.dtype == object and operation != "!=":
        _check_present(column, wanted, condition)
    if operation == "in":
        found = np.logical_or.reduce([values == compare(text) for text in wanted])
    else:
        found = _COMPARISONS[operation](values, compare(value))
    return known & np.asarray(found, bool)


def _check_present(column: "pd.Series", wanted: List[str], condition: str) -> None:
    """Raise a `UserError` if no text in a column is wanted; the message lists existing texts."""
    present = column.dropna().unique()
    if not set(wanted) & set(present):
        some = ", ".join(map(repr, sorted(present)[:_SHOWN]))
        more = f" and {len(present) - _SHOWN} more" if len(present) > _SHOWN else ""
        raise UserError(f"{condition}: no recording has this; the column's values are {some or 'all unknown'}{more}")


def refuse_lists(column: "pd.Series") -> None:
    """Raise a `UserError` if the values of a column are lists, which cannot be compared."""
    first = column.dropna().iloc[:1]
    if len(first) and not isinstance(first.iloc[0], str):
        raise UserError(f"column {column.name!r}: contains lists; choose one with numbers, times or texts")


def parse_number(text: str) -> Optional[float]:
    """Return the finite number in a text, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def _number(text: str, condition: str) -> float:
    number = parse_number(text)
    if number is None:
        raise UserError(f"{condition}: the column contains numbers, but {text!r} is none")
    return number


def parse_time(text: str, context: str) -> np.datetime64:
    """Parse a time in ISO 8601 without time zone, as in the table.

    Raises:
        UserError: it is no such time; the message begins with `context`.
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is not None:
        raise UserError(f"{context}: {text!r} is not a time; write 2019-12-31 or 2019-12-31T23:59, without zone")
    return np.datetime64(time, "us")
