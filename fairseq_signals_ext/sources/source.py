"""`Source`: a collection of recordings, and what its own tables contain about them."""

import dataclasses
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence, Tuple

from fairseq_signals_ext.common.errors import MissingMetadataError, UserError
from fairseq_signals_ext.common.leads import parse_leads
from fairseq_signals_ext.readers import Recording, read_ecg
from fairseq_signals_ext.readers.facts import millivolts
from fairseq_signals_ext.readers.formats import format_of
from fairseq_signals_ext.sources.times import check_time_format

# what ends the name of an ECG that is not the first of its file
_NUMBERED = re.compile(r"(.+)#([1-9]\d{0,8})", re.DOTALL)
# attributes of `SourceOptions` that not all kinds of source take
TABLE, READING = "table", ("sample_rate", "unit", "leads")
# what a table knows of a file's first ECG, which is another of a later one
_OF_FIRST = ("start_time",)


@dataclass(frozen=True)
class Item:
    """One recording of a source, not read yet.

    Attributes:
        name: its file below the source's folder, with `#NAME` where a file holds many recordings; unique in the source.
            Later ECGs of a file that turns out to contain several are `#2`, `#3`, ...
        source: name of the part of the collection that it belongs to; empty: the source's own name.
        facts: what the collection's tables contain about it, in place of what the file contains: attributes of
            `Recording` (`record_id`, `patient`, `age`, `codes`, ...), and further columns for the table (numbers, texts
            or None).
        reading: what is known of its file, as `read_ecg` takes it: `sample_rate` (Hz), `unit`, `leads`.
        defaults: the same, for what its file does not say.
        number: which of the ECGs of its file it is, from 1; None: the first, and maybe the only one.
    """

    name: str
    source: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    reading: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    number: Optional[int] = None

    @property
    def file(self) -> str:
        """Its name, without the number of one of several ECGs."""
        return self.name if self.number is None else self.name[: -len(f"#{self.number}")]

    def numbered(self, number: int) -> "Item":
        """One of the ECGs of the file that this item is."""
        if number == 1:
            return dataclasses.replace(self, name=f"{self.name}#1", number=1)
        facts = {name: value for name, value in self.facts.items() if name not in _OF_FIRST}
        if facts.get("record_id") is not None:
            facts["record_id"] = f"{facts['record_id']}#{number}"
        return dataclasses.replace(self, name=f"{self.name}#{number}", facts=facts, number=number)


def split_number(name: str) -> Optional[Tuple[str, int]]:
    """The file and the number that `NAME#2` stands for; None for another name."""
    numbered = _NUMBERED.fullmatch(name)
    return None if numbered is None else (numbered[1], int(numbered[2]))


def one_person(path: Path) -> bool:
    """Whether several ECGs of one file are of one person where it does not say who that is, by its format."""
    return format_of(path).one_person


def read_file(folder: Path, item: Item) -> Recording:
    """Read an item that is a file, or one of the ECGs of a file, with what the user gives for rate, unit and leads."""
    reading = dict(item.reading)
    while True:
        try:
            # a text, as paths take long to put together
            recording = read_ecg(os.path.join(folder, item.file), number=item.number or 1, **reading)
        except MissingMetadataError as error:
            if error.argument in reading or error.argument not in item.defaults:
                raise
            reading[error.argument] = item.defaults[error.argument]
            continue
        # what the user gives comes before what would be assumed
        assumed = [name for name in recording.assumed if name in item.defaults]
        if not assumed:
            return recording
        reading.update((name, item.defaults[name]) for name in assumed)


@dataclass(frozen=True)
class Source:
    """Where recordings come from.

    Attributes:
        name: of the source, as tables and messages call it.
        folder: names of items are relative to it.
        items: in the order in which they get their numbers.
        read: (folder, item) -> `Recording`, or `UserError`; called in other processes, so it must be picklable.
        own_patients: its patient ids are its own, so that the same id in another source is another person.
        notes: what the user should know of what was found, a line each.
    """

    name: str
    folder: Path
    items: Sequence[Item]
    read: Callable[[Path, Item], Recording]
    own_patients: bool = False
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Database:
    """Where PhysioNet has a collection.

    Attributes:
        name: with its version, as `ptb-xl/1.0.3`.
        tables: files beside its records.
        suffixes: of the files of a record.
        is_wanted: (record, Hz that is wanted) -> whether it is of use, where a collection comes in several rates.
    """

    name: str
    tables: Sequence[str]
    suffixes: Sequence[str]
    is_wanted: Callable[[str, float], bool] = lambda record, rate: True


@dataclass(frozen=True)
class SourceKind:
    """A kind of source, as it describes itself.

    Attributes:
        name: on the command line.
        holds: what its folder holds, in one line of help.
        open: (folder, what the user gives) -> its recordings, or `UserError`; nothing is read but tables and names.
        takes: what a user can give, of `TABLE` and `READING`.
        database: where `--download` gets it; None: it cannot.
        where: how to get it otherwise, for a message.
    """

    name: str
    holds: str
    open: "Callable[[Path, SourceOptions], Source]"
    takes: Tuple[str, ...] = ()
    database: Optional[Database] = None
    where: str = "it stands for files of your own; leave --download out"


@dataclass(frozen=True)
class SourceOptions:
    """What a user can give for a source.

    Attributes:
        name: of the source; None: the kind's, or the folder's where a kind stands for no particular collection.
        rate: Hz that is wanted, where a collection comes in several.
        table: a table (CSV or Parquet) with what is known of the recordings, for kinds that have none of their own.
        time_format: of the table's times, as for `datetime.strptime`; None: those that cannot be misread.
        sample_rate: Hz, where files do not contain it.
        unit: of amplitudes, where files do not contain it.
        leads: of rows or columns, where files do not contain it.
    """

    name: Optional[str] = None
    rate: float = 500.0
    table: Optional[Path] = None
    sample_rate: Optional[float] = None
    unit: Optional[str] = None
    leads: Optional[str] = None
    time_format: Optional[str] = None

    def __post_init__(self) -> None:
        if self.time_format is not None:
            if self.table is None:
                raise UserError(f"time format {self.time_format!r}: is of times in a table; give it with --table")
            check_time_format(self.time_format)
        parse_leads(self.leads)
        if self.unit is not None and millivolts(self.unit) is None:
            raise UserError(f"unit {self.unit!r}: is not a voltage; give mV, uV, nV or V")
        if self.sample_rate is not None and not 0 < self.sample_rate < math.inf:
            raise UserError(f"sample rate {self.sample_rate:g}: give Hz above 0")
