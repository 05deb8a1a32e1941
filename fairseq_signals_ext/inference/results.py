"""Results of a run on many recordings: rows of tables and arrays, kept in parts until all recordings are done.

During a run, `OUT/.unfinished` has a part per thousand recordings or so: `START-END.jsonl` with a row per line,
`START-END.npy` with arrays and `START-END.NAME.npy` with named arrays; `settings.json` has the settings of the run.
The last line of a part has the checksums of its rows and arrays; from a damaged part on, the work is done again.
At the end the parts are combined into the files for the user.
"""

import contextlib
import csv
import json
import math
import operator
import re
import shutil
import time
import zlib
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Type

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import atomic, check_free, remove_unfinished
from fairseq_signals_ext.prepared.table import arrow_type
from fairseq_signals_ext.sources.text_tables import as_cell

UNFINISHED = ".unfinished"
REJECTED_FILE = "rejected.csv"
_REJECTED, _SEVERAL = "rejected", "several"
_SETTINGS = "settings.json"
_WHOLE = ""
_PART_RECORDINGS, _PART_SECONDS, _PART_BYTES = 1000, 30.0, 2**26
_ROWS_AT_ONCE = 10_000
_PIECE_BYTES = 2**20

# type of each column by its name, as pyarrow names types
Columns = Mapping[str, str]


class _Rows:
    """Rows of the next part, and rows of a recording that is not counted yet."""

    def __init__(self) -> None:
        self.counted: List[Any] = []
        self.of_this: List[Any] = []

    def count(self) -> None:
        self.counted += self.of_this
        self.of_this = []


class Kept:
    """Rows and arrays of a run in parts on the disk; the files for the user are made from them.

    Args:
        out: folder of the results.
        folder: folder of the parts, removed at the end.
        files: names of the files that a finished run leaves in `out`.
    """

    def __init__(self, out: Path, folder: Path, files: Sequence[str]):
        self._out, self._folder = out, folder
        # a file that the run replaces gets another inode
        self._earlier = {path: path.stat().st_ino for path in (out / name for name in files) if path.exists()}

    def _parts(self) -> Sequence[Path]:
        """Files with rows, in order."""
        raise NotImplementedError

    def several(self) -> List[Tuple[int, int]]:
        """The pairs that `note_several` recorded, in order."""
        return [(row["number"], row["ecgs"]) for row in self.rows(_SEVERAL)]

    def rows(self, table: str) -> Iterator[Dict[str, Any]]:
        """All rows of a table, in order."""
        for part in self._parts():
            with open(part, encoding="utf-8") as file:
                for line in file:
                    name, row = json.loads(line)
                    if name == table:  # the last line belongs to no table
                        yield row

    def arrays(self, name: str = "") -> Iterator[np.ndarray]:
        """All rows of the array, or of a named array, in order, in memory-mapped pieces."""
        for part in self._parts():
            array = _array_of(part, name)
            if array.exists():
                yield np.load(array, mmap_mode="r")

    def finish(self) -> int:
        """Write `rejected.csv` when all other files are written; returns the number of rejected recordings.

        The parts are removed, and files of an earlier run that this one has not replaced.
        """
        rejected = self.write_table(REJECTED_FILE, _REJECTED, {"file": "string", "reason": "string"})
        self.clean()
        return rejected

    def clean(self) -> None:
        """Remove the parts, and files of an earlier run that this one has not replaced."""
        for path, number in self._earlier.items():
            if path.exists() and path.stat().st_ino == number:
                path.unlink()
        shutil.rmtree(self._folder)

    def write_table(self, name: str, table: str, columns: Columns) -> int:
        """Write a table as `OUT/NAME`, CSV or Parquet by its suffix; returns the number of its rows."""
        write = write_parquet if name.endswith(".parquet") else write_csv
        return write(self._out / name, columns, self.rows(table))


class Results(Kept):
    """The results of a run, as a context manager: on exit, also by an exception, finished recordings are kept.

    Args:
        out: folder of the results.
        files: names of the files that a finished run leaves there.
        settings: all settings that change the rows, as plain values.
        resume: continue with existing parts.
        overwrite: replace existing results, finished or not.
        part: name of this part's folder if several processes share the run, see `parts`; None: it does all.
        inputs: number of inputs, after which a file with rows ends; None: it does not matter.

    Attributes:
        done: number of recordings in the parts, from the first on.
        settings: as given, after conversion to JSON.

    Raises:
        UserError: there are results already, parts of an unfinished run, or parts of another run.
    """

    def __init__(
        self,
        out: Path,
        files: Sequence[str],
        settings: Mapping[str, Any],
        resume: bool = False,
        overwrite: bool = False,
        part: Optional[str] = None,
        inputs: Optional[int] = None,
    ):
        folder = out / UNFINISHED if part is None else out / UNFINISHED / part
        super().__init__(out, folder, files)
        check_results(out, files, resume, overwrite, part)
        if not resume and self._folder.exists():
            shutil.rmtree(self._folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(self._folder)
        self.settings = json.loads(json.dumps(settings))
        _agree(self._folder / _SETTINGS, self.settings, out)
        self.done = self._start = _checked(self._parts())
        self._waiting, self._inputs = 0, inputs
        self._lines, self._arrays = _Rows(), _arrays_by_name()
        self._written = time.monotonic()

    def __enter__(self) -> "Results":
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._write_part()

    def add(self, table: str, row: Mapping[str, Any]) -> None:
        """Add a row to a table."""
        # `item` converts numpy's number types
        self._lines.of_this.append(json.dumps([table, row], default=operator.methodcaller("item")))

    def add_array(self, array: np.ndarray, name: str = "") -> None:
        """Add rows to the array, or to a named array: N x ..., each time with the same type and sizes."""
        self._arrays[name].of_this.append(array)

    def reject(self, file: str, reason: str) -> None:
        """Record that a recording cannot be used."""
        self.add(_REJECTED, {"file": file, "reason": reason})

    def note_several(self, number: int, ecgs: int) -> None:
        """Record that the file of a recording contains several ECGs; the recording is the first."""
        if ecgs > 1:
            self.add(_SEVERAL, {"number": number, "ecgs": ecgs})

    def count(self, ends_batch: bool = True) -> None:
        """Call after each recording, when all its rows are added.

        Args:
            ends_batch: an interrupted run can continue after it; others are saved with the next that ends a batch.
        """
        self._waiting += 1
        if not ends_batch:
            return
        self.done, self._waiting = self.done + self._waiting, 0
        self._lines.count()
        for rows in self._arrays.values():
            rows.count()
        is_large = sum(array.nbytes for rows in self._arrays.values() for array in rows.counted) > _PART_BYTES
        is_due = time.monotonic() - self._written > _PART_SECONDS
        is_full = self.done - self._start >= _PART_RECORDINGS or self.done == self._inputs
        if is_due or is_large or is_full:
            self._write_part()

    def write_table(self, name: str, table: str, columns: Columns) -> int:
        """As `Kept.write_table`, with rows that are not on the disk yet."""
        self._write_part()
        return super().write_table(name, table, columns)

    def _parts(self) -> List[Path]:
        # numbers in the names have the same number of digits
        return sorted(self._folder.glob("*.jsonl"))

    def _write_part(self) -> None:
        if self.done > self._start:
            part = self._folder / f"{self._start:010d}-{self.done:010d}.jsonl"
            for name, rows in self._arrays.items():
                if rows.counted:
                    with atomic(_array_of(part, name)) as temporary, open(temporary, "wb") as file:
                        np.save(file, np.concatenate(rows.counted))
            content = "".join(f"{line}\n" for line in self._lines.counted).encode()
            checksums = json.dumps([None, [zlib.crc32(content), *_checksums_of_arrays(part)]])
            with atomic(part) as temporary:
                temporary.write_bytes(content + f"{checksums}\n".encode())
        self._start, self._written = self.done, time.monotonic()
        self._lines, self._arrays = _Rows(), _arrays_by_name()


def _arrays_by_name() -> Dict[str, _Rows]:
    return defaultdict(_Rows)


def _array_of(part: Path, name: str) -> Path:
    return part.with_suffix(f".{name}.npy" if name else ".npy")


def _named_arrays(part: Path) -> List[Path]:
    return sorted(part.parent.glob(f"{part.stem}.*.npy"))


def _checksums_of_arrays(part: Path) -> List[Optional[int]]:
    return [_checksum(path) for path in (_array_of(part, ""), *_named_arrays(part))]


def _checked(parts: Sequence[Path]) -> int:
    """The number of recordings in whole parts from the first on; a damaged part and all later ones are removed."""
    done = 0
    for number, part in enumerate(parts):
        if not _is_whole(part, done):
            for damaged in parts[number:]:
                for path in (damaged, _array_of(damaged, ""), *_named_arrays(damaged)):
                    path.unlink(missing_ok=True)
            break
        done = int(part.stem.split("-")[1])
    return done


def _is_whole(part: Path, start: int) -> bool:
    named = re.fullmatch(r"(\d{10})-(\d{10})", part.stem)
    *lines, checksums = part.read_bytes().splitlines(keepends=True) or [b""]
    recorded = [None, [zlib.crc32(b"".join(lines)), *_checksums_of_arrays(part)]]
    return named is not None and int(named[1]) == start and checksums == f"{json.dumps(recorded)}\n".encode()


def _checksum(path: Path) -> Optional[int]:
    """CRC-32 of a file, read in pieces; None if there is no file."""
    if not path.exists():
        return None
    checksum = 0
    with open(path, "rb") as file:
        while piece := file.read(_PIECE_BYTES):
            checksum = zlib.crc32(piece, checksum)
    return checksum


def check_results(out: Path, files: Sequence[str], resume: bool, overwrite: bool, part: Optional[str] = None) -> None:
    """Check that a run can write its results to a folder, before it begins; see `Results`.

    Raises:
        UserError: there are results already, or parts of an unfinished run.
    """
    begun = _begun(out)
    if begun and (part is None) != (begun == [_WHOLE]) and not overwrite:
        how = "in one part" if begun == [_WHOLE] else "in several parts"
        raise UserError(
            f"{out}: has an unfinished run {how}; continue it in the same way, or remove {out / UNFINISHED} first"
        )
    numbers = {name.split("-of-")[-1] for name in begun} | {part.split("-of-")[-1] if part else _WHOLE}
    if part is not None and len(numbers) > 1:
        raise UserError(f"{out}: has an unfinished run in another number of parts; remove {out / UNFINISHED} first")
    is_unfinished = (part or _WHOLE) in begun
    if is_unfinished and not (resume or overwrite):
        raise UserError(f"{out}: has an unfinished run; continue with --resume, or start again with --overwrite")
    if not (is_unfinished and resume):  # otherwise existing files were made from its parts, and will be again
        check_free(out, files, overwrite)


def _begun(out: Path) -> List[str]:
    """Folders of the parts of a run that were begun; `_WHOLE` for a run that is not divided."""
    found = (out / UNFINISHED).glob(f"*/{_SETTINGS}")
    return ([_WHOLE] if (out / UNFINISHED / _SETTINGS).exists() else []) + sorted(path.parent.name for path in found)


def _agree(path: Path, ours: Mapping[str, Any], out: Path) -> None:
    """Check that existing parts belong to the same run, or save the settings of a new run."""
    if not path.exists():
        with atomic(path) as temporary:
            temporary.write_text(json.dumps(ours, indent=2), encoding="utf-8")
        return
    theirs: Dict[str, Any] = {}
    with contextlib.suppress(ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        theirs = found if isinstance(found, dict) else {}
    differing = [name for name in ours if theirs.get(name) != ours[name]]
    if differing:
        raise UserError(
            f"{out}: its unfinished run had another {differing[0]}; give the same, or start again with --overwrite"
        )


def write_csv(path: Path, columns: Columns, rows: Iterator[Mapping[str, Any]]) -> int:
    """Write rows as CSV; returns their number.

    Numbers have 7 digits, NaN is empty, bools are 1 and 0, lists are joined by spaces. Texts that a spreadsheet would
    take for a formula begin with `'`, see `text_tables.as_cell`.
    """
    number = 0
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(as_cell, columns))
        for row in rows:
            writer.writerow([_as_text(row.get(column)) for column in columns])
            number += 1
    return number


def _as_text(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float):
        return f"{value:.7g}" if math.isfinite(value) else ""
    text = " ".join(value) if isinstance(value, list) else value
    # the csv module does not quote this character, and readers take it for the end of a line
    return as_cell(text.replace("\r", " ")) if isinstance(text, str) else text


def write_parquet(path: Path, columns: Columns, rows: Iterator[Mapping[str, Any]]) -> int:
    """Write rows as Parquet in chunks; returns their number."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, arrow_type(kind)) for name, kind in columns.items()])
    number = 0
    with atomic(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for chunk in _chunks(rows):
            typed = [{name: typed_value(row.get(name), kind) for name, kind in columns.items()} for row in chunk]
            writer.write_table(pa.Table.from_pylist(typed, schema))
            number += len(chunk)
    return number


def typed_value(value: Any, kind: str) -> Any:
    """Convert a value of a row to the type of its column; times are texts in rows."""
    return datetime.fromisoformat(value) if value is not None and kind.startswith("timestamp") else value


def _chunks(rows: Iterator[Mapping[str, Any]]) -> Iterator[List[Mapping[str, Any]]]:
    chunk: List[Mapping[str, Any]] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == _ROWS_AT_ONCE:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
