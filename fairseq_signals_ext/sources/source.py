"""`Source`: a collection of recordings, with the metadata in its tables."""

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

# suffix of the name of an ECG that is not the first in its file
_NUMBERED = re.compile(r"(.+)#([1-9]\d{0,8})", re.DOTALL)
# attributes of `SourceOptions` that not all kinds of source take
TABLE, READING = "table", ("sample_rate", "unit", "leads")
# metadata of a file's first ECG that do not apply to its other ECGs
_OF_FIRST = ("start_time",)


@dataclass(frozen=True)
class Item:
    """One recording of a source, not read yet.

    Attributes:
        name: its file below the source's folder, with `#NAME` if a file holds many recordings; unique in the source.
            If a file contains several ECGs, the second and further ones are `#2`, `#3`, ...
        source: name of its part of the collection; empty: the source's name.
        facts: metadata from the collection's tables, which replace those of the file: attributes of `Recording`
            (`record_id`, `patient`, `age`, `codes`, ...), and further columns for the table (numbers, texts or None).
        reading: arguments of `read_ecg` for its file: `sample_rate` (Hz), `unit`, `leads`.
        defaults: the same, used only if the file does not contain them.
        number: number of the ECG in its file, from 1; None: the first or only one.
    """

    name: str
    source: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    reading: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    number: Optional[int] = None

    @property
    def file(self) -> str:
        """Its name, without the number of the ECG."""
        return self.name if self.number is None else self.name[: -len(f"#{self.number}")]

    def numbered(self, number: int) -> "Item":
        """Return the item of one ECG in this item's file."""
        if number == 1:
            return dataclasses.replace(self, name=f"{self.name}#1", number=1)
        facts = {name: value for name, value in self.facts.items() if name not in _OF_FIRST}
        if facts.get("record_id") is not None:
            facts["record_id"] = f"{facts['record_id']}#{number}"
        return dataclasses.replace(self, name=f"{self.name}#{number}", facts=facts, number=number)


def split_number(name: str) -> Optional[Tuple[str, int]]:
    """Split `NAME#2` into file and number; None for a name without number."""
    numbered = _NUMBERED.fullmatch(name)
    return None if numbered is None else (numbered[1], int(numbered[2]))


def one_person(path: Path) -> bool:
    """Return whether several ECGs of a file without patient are of one person, by its format."""
    return format_of(path).one_person


def read_file(folder: Path, item: Item) -> Recording:
    """Read an item (a file, or one of its ECGs) with rate, unit and leads from the user."""
    reading = dict(item.reading)
    while True:
        try:
            # a string, as joining paths is slow
            recording = read_ecg(os.path.join(folder, item.file), number=item.number or 1, **reading)
        except MissingMetadataError as error:
            if error.argument in reading or error.argument not in item.defaults:
                raise
            reading[error.argument] = item.defaults[error.argument]
            continue
        # values from the user have priority over assumed ones
        assumed = [name for name in recording.assumed if name in item.defaults]
        if not assumed:
            return recording
        reading.update((name, item.defaults[name]) for name in assumed)


@dataclass(frozen=True)
class Source:
    """A collection of recordings.

    Attributes:
        name: of the source, in tables and messages.
        folder: names of items are relative to it.
        items: in the order of their numbers.
        read: (folder, item) -> `Recording`, or `UserError`; called in other processes, so it must be picklable.
        own_patients: whether its patient ids are valid only within it: the same id in another source is another person.
        notes: for the user, one line each.
    """

    name: str
    folder: Path
    items: Sequence[Item]
    read: Callable[[Path, Item], Recording]
    own_patients: bool = False
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Database:
    """A collection on PhysioNet.

    Attributes:
        name: with its version, as `ptb-xl/1.0.3`.
        tables: files beside its records.
        suffixes: of the files of a record.
        is_wanted: (record, wanted rate in Hz) -> whether to download it, for collections with several rates.
    """

    name: str
    tables: Sequence[str]
    suffixes: Sequence[str]
    is_wanted: Callable[[str, float], bool] = lambda record, rate: True


@dataclass(frozen=True)
class SourceKind:
    """A kind of source.

    Attributes:
        name: on the command line.
        holds: content of its folder, in one line for the help.
        open: (folder, options from the user) -> its recordings, or `UserError`; reads only tables and file names.
        takes: options that it takes, of `TABLE` and `READING`.
        database: source for `--download`; None: cannot be downloaded.
        where: other ways to get it, for a message.
    """

    name: str
    holds: str
    open: "Callable[[Path, SourceOptions], Source]"
    takes: Tuple[str, ...] = ()
    database: Optional[Database] = None
    where: str = "it stands for files of your own; leave --download out"


@dataclass(frozen=True)
class SourceOptions:
    """Options from the user for a source.

    Attributes:
        name: of the source; None: that of the kind, or of the folder if the kind is not a particular collection.
        rate: wanted rate in Hz, for collections with several rates.
        table: a table (CSV or Parquet) of metadata, for kinds without their own tables.
        time_format: of the table's times, as for `datetime.strptime`; None: all formats that are unambiguous.
        sample_rate: Hz, if files do not contain it.
        unit: of amplitudes, if files do not contain it.
        leads: of rows or columns, if files do not contain it.
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
