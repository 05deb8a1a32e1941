"""A run in parts by several processes, machines or jobs: each does some of the recordings, the last one merges.

The result is byte for byte the same as that from one run: parts begin where one run begins a new batch, see
`ReadingPlan.group`, and rows are merged in the order of one run.
"""

import contextlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, TypeVar

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import BusyError, atomic, only_one
from fairseq_signals_ext.inference import reading_ahead
from fairseq_signals_ext.inference.inputs import Recordings
from fairseq_signals_ext.inference.results import UNFINISHED, Kept, Results

_MOST_PARTS = 10_000
_DONE = "done.json"
_SHORTENED = 100

Result = TypeVar("Result")


class Part(NamedTuple):
    """One of several parts of a run.

    Attributes:
        number: from 1.
        total: how many there are.
    """

    number: int
    total: int

    @classmethod
    def of(cls, text: str) -> "Part":
        """The part that a text such as `3/16` names.

        Raises:
            UserError: it names none.
        """
        found = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text, re.ASCII)
        part = cls(*map(int, found.groups())) if found else cls(0, 0)
        if not 1 <= part.number <= part.total <= _MOST_PARTS:
            raise UserError(f"--part {text:.{_SHORTENED}}: give the number of the part and of all, such as 3/16")
        return part

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return f"part-{self.number:05d}-of-{self.total:05d}"

    @property
    def all(self) -> List["Part"]:
        """All parts, in order."""
        return [Part(number, self.total) for number in range(1, self.total + 1)]

    def range_of(self, inputs: int) -> range:
        """Numbers of the inputs in it; it can be empty if there are fewer groups of inputs than parts."""
        group = reading_ahead.GROUP
        groups = -(-inputs // group)
        start, stop = (groups * number // self.total * group for number in (self.number - 1, self.number))
        return range(min(start, inputs), min(stop, inputs))


@dataclass(frozen=True)
class SomeInputs:
    """A selection of the inputs of a run; see `inputs.Inputs`.

    Attributes:
        inputs: all inputs.
        numbers: numbers of the selected inputs.
    """

    inputs: Recordings
    numbers: range

    def __len__(self) -> int:
        return len(self.numbers)

    def name(self, number: int, ecg: Optional[int] = None) -> str:
        """See `Inputs.name`."""
        return self.inputs.name(self.numbers[number], ecg)

    def read(self, number: int, ecg: Optional[int] = None) -> Any:
        """See `Inputs.read`."""
        return self.inputs.read(self.numbers[number], ecg)

    def known(self, number: int) -> Any:
        """See `Inputs.known`."""
        return self.inputs.known(self.numbers[number])


class Merged(Kept):
    """The results of all parts of a run, in the order of one run.

    Args:
        out: folder of the results.
        files: names of the files that a finished run leaves there.
        total: number of parts.

    Attributes:
        done: number of recordings that the parts hold.

    Raises:
        UserError: a part is not done, or belongs to another run than the first.
    """

    def __init__(self, out: Path, files: Sequence[str], total: int):
        super().__init__(out, out / UNFINISHED, files)
        self.done = 0
        inputs: List[Path] = []
        later: List[Path] = []
        settings = None
        for part in Part(1, total).all:
            facts = _done(out, part)
            if facts is None:
                raise UserError(f"{out}: part {part} is not done; run it again with --resume")
            settings = settings or facts["settings"]
            if facts["settings"] != settings:
                raise UserError(f"{out}: part {part} is of another run than part 1; run all with the same options")
            for piece in sorted((out / UNFINISHED / part.folder).glob("*.jsonl")):
                stop = int(piece.stem.split("-")[1])
                (inputs if stop <= facts["inputs"] else later).append(piece)
            self.done += facts["recordings"]
        self._pieces = inputs + later

    def _parts(self) -> Sequence[Path]:
        return self._pieces


def note_done(out: Path, part: Part, results: Results, inputs: int) -> None:
    """Mark a part as done, after its results are written.

    Args:
        inputs: its number of inputs; a file may contain several recordings.
    """
    facts = {"inputs": inputs, "recordings": results.done, "settings": results.settings}
    with atomic(out / UNFINISHED / part.folder / _DONE) as temporary:
        temporary.write_text(json.dumps(facts), encoding="utf-8")


def merge_if_last(out: Path, part: Part, files: Sequence[str], finish: Callable[[Merged], Result]) -> Optional[Result]:
    """Merge the parts of a run if all are done and no other process merges them.

    Args:
        files: as `Merged`.

    Returns:
        The result of `finish`; None if it was not called.
    """
    if not are_all_done(out, part.total):
        return None
    with contextlib.suppress(BusyError), only_one(out):
        # another part may have merged meanwhile
        if are_all_done(out, part.total):
            return finish(Merged(out, files, part.total))
    return None


def are_all_done(out: Path, total: int) -> bool:
    """Whether all parts of a run are done and not yet merged."""
    return all(_done(out, part) is not None for part in Part(1, total).all)


def _done(out: Path, part: Part) -> Any:
    path = out / UNFINISHED / part.folder / _DONE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        raise UserError(f"{path}: damaged; remove its folder and run part {part} again") from None
