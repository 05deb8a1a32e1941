"""Read recordings ahead of a model, in order, and each only once.

Only a fixed number is in memory at a time, so memory does not grow with the number of recordings.
"""

import dataclasses
import errno
import functools
import itertools
import os
import signal
from collections import deque
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Deque, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from fairseq_signals_ext.checkpoints.description import Preprocessing
from fairseq_signals_ext.common.errors import NO_SPACE, MissingPackageError, PlaceError, UserError
from fairseq_signals_ext.common.processes import end_with
from fairseq_signals_ext.inference.inputs import Recordings
from fairseq_signals_ext.inference.preprocessing import SegmentedRecording
from fairseq_signals_ext.inference.recordings import RecordingFacts
from fairseq_signals_ext.readers.facts import shown

# the disk is full or read-only, or too many files are open
_NOT_ITS_FAULT = (*NO_SPACE, errno.EROFS, errno.EMFILE, errno.ENFILE)
_FACTS = {attribute.name for attribute in dataclasses.fields(RecordingFacts)}
# recordings of this many inputs may share batches; parts of a run begin at a multiple
GROUP = 64
# largest number of recordings sent to another process at once, and the size in bytes after which no more are added
_CHUNK, _CHUNK_BYTES = 16, 2**25
# number of waiting chunks, beyond one per process
_AHEAD = 2


@dataclass(frozen=True, eq=False)
class ReadRecording:
    """A recording that is ready for models.

    Attributes:
        number: its number in the inputs.
        name: its file, as in messages and tables.
        segments: for each preprocessing that models need.
        ecgs: how many ECGs its file contains, if it is the first of them.
        group: see `ReadingPlan.group`.
        beside: further data read with its signal.
    """

    number: int
    name: str
    segments: Dict[Preprocessing, SegmentedRecording]
    ecgs: int = 1
    group: Tuple[int, int] = (0, 0)
    beside: Any = None

    @property
    def facts(self) -> RecordingFacts:
        """Facts about the recording."""
        return next(iter(self.segments.values())).facts


@dataclass(frozen=True)
class Rejected:
    """A recording that cannot be used.

    Attributes:
        number: its number in the inputs.
        name: its file.
        reason: why, with a hint, in one line.
        ecgs: how many ECGs its file contains, if it is the first of them.
        group: see `ReadingPlan.group`.
        ends_batch: see `running.RecordingOutputs`.
    """

    number: int
    name: str
    reason: str
    ecgs: int = 1
    group: Tuple[int, int] = (0, 0)
    ends_batch: bool = True

    @property
    def error(self) -> UserError:
        """The same as an error, for runs in which all recordings must be usable."""
        return UserError(self.reason if self.name in self.reason else f"{self.name}: {self.reason}")


Read = Union[ReadRecording, Rejected]


@dataclass(frozen=True)
class ReadingPlan:
    """Which recordings are read, and how they are preprocessed; it can be sent to other processes.

    Attributes:
        inputs: the recordings.
        preprocessings: the different ones of the models.
        several: (number, ECGs) of inputs that are known to contain several ECGs, ascending. The second and further
            ECGs have numbers after all inputs.
    """

    inputs: Recordings
    preprocessings: Sequence[Preprocessing]
    several: Sequence[Tuple[int, int]] = ()

    def __len__(self) -> int:
        return len(self.inputs) + sum(ecgs - 1 for _, ecgs in self.several)

    @functools.cached_property
    def _later(self) -> np.ndarray:
        """For each file in `several`, the number after its last later ECG."""
        return len(self.inputs) + np.cumsum([ecgs - 1 for _, ecgs in self.several])

    def _place(self, number: int) -> Tuple[int, ...]:
        """The number in the inputs, and for a later ECG its number in the file."""
        if number < len(self.inputs):
            return (number,)
        file = int(np.searchsorted(self._later, number, side="right"))
        of_input, ecgs = self.several[file]
        return of_input, ecgs + 1 - int(self._later[file] - number)

    def group(self, number: int) -> Tuple[int, int]:
        """Group of a recording: only recordings of one group share a batch, so parts of a run have the same batches.

        The last digits of outputs depend on the rest of the batch. A group is some inputs that follow each other, or
        all later ECGs of these.
        """
        return int(number >= len(self.inputs)), self._place(number)[0] // GROUP

    def name(self, number: int) -> str:
        """A recording's name in messages and tables."""
        return self.inputs.name(*self._place(number))

    def read(self, number: int) -> Read:
        """Read a recording; its errors give a `Rejected`, except for a missing package, see `reason_of`."""
        name, ecgs = self.name(number), 1
        try:
            recording = self.inputs.read(*self._place(number))
            ecgs = recording.ecgs
            segments = {one: recording.segmented(one, name) for one in self.preprocessings}
            return ReadRecording(number, name, segments, ecgs, self.group(number), recording.beside)
        except Exception as error:  # noqa: BLE001 - one file must never stop the millions that follow
            ecgs = getattr(error, "ecgs", ecgs)
            return Rejected(number, name, reason_of(error, name), ecgs, self.group(number))


def reason_of(error: Exception, name: str) -> str:
    """Why a recording is rejected, in one line; an error with another cause is raised again.

    Args:
        name: its file, which is removed from the reason.
    """
    # a name that cannot be encoded belongs to an output file
    if isinstance(error, (MissingPackageError, PlaceError, UnicodeEncodeError)):
        raise error
    if getattr(error, "errno", None) in _NOT_ITS_FAULT:
        raise error
    if isinstance(error, UserError):
        return str(error).replace(f"{os.path.join(os.curdir, name)}: ", "", 1).replace(f"{name}: ", "", 1)
    if isinstance(error, MemoryError):
        return "too large for the memory of this machine; cut it into pieces"
    return f"cannot be used ({type(error).__name__}: {shown(error)}); get it again"


def read_all(plan: ReadingPlan, start: int = 0, jobs: int = 0) -> Iterator[Read]:
    """Read all recordings from number `start` on, in order; second and further ECGs of files come last.

    Args:
        plan: includes files with several ECGs among the inputs before `start`.
        jobs: processes that read; 0: the caller's process.

    Raises:
        MissingPackageError: a format needs a package that is not installed.
    """
    several = list(plan.several)
    for read in _read_numbers(plan, range(start, len(plan.inputs)), jobs):
        if read.ecgs > 1:
            several.append((read.number, read.ecgs))
        known = plan.inputs.known(read.number)
        yield _with_known(read, {name: value for name, value in known.items() if name in _FACTS})
    if several:
        plan = dataclasses.replace(plan, several=several)
        yield from _read_numbers(plan, range(max(start, len(plan.inputs)), len(plan)), jobs)


def _read_numbers(plan: ReadingPlan, numbers: range, jobs: int) -> Iterator[Read]:
    return map(plan.read, numbers) if jobs == 0 else _read_in_processes(plan, numbers, jobs)


def _with_known(read: Read, known: Mapping[str, Any]) -> Read:
    if isinstance(read, Rejected) or not known:
        return read
    segments = {
        preprocessing: dataclasses.replace(one, facts=dataclasses.replace(one.facts, **known))
        for preprocessing, one in read.segments.items()
    }
    return dataclasses.replace(read, segments=segments)


def _read_in_processes(plan: ReadingPlan, numbers: Sequence[int], jobs: int) -> Iterator[Read]:
    """As `map(plan.read, numbers)`; a recording that crashes its reading process is rejected."""
    chunks = (numbers[first : first + _CHUNK] for first in range(0, len(numbers), _CHUNK))
    pool = _Pool(plan, jobs)
    waiting: Deque[Sequence[int]] = deque(itertools.islice(chunks, jobs + _AHEAD))
    try:
        pending = deque(map(pool.submit, waiting))
        while waiting:
            chunk, future = waiting.popleft(), pending.popleft()
            try:
                found = future.result()
            except BrokenProcessPool:
                # any recording in work may be the cause: reading one alone shows it
                pool.start_again()
                found = [pool.read_alone(chunk[0])]
                pending = deque(map(pool.submit, waiting))
            yield from found
            if len(found) < len(chunk):
                waiting.appendleft(chunk[len(found) :])
                pending.appendleft(pool.submit(waiting[0]))
            else:
                for following in itertools.islice(chunks, 1):
                    waiting.append(following)
                    pending.append(pool.submit(following))
    finally:
        pool.end()


class _Pool:
    """Processes that read; they can be started again after a crash."""

    def __init__(self, plan: ReadingPlan, jobs: int):
        self._plan, self._jobs = plan, jobs
        self._executor: Any = None

    def submit(self, numbers: Sequence[int]) -> "Future[List[Read]]":
        """Read these recordings, or only the first ones if they are large."""
        # loky's processes are not forks, which can hang after torch started threads, and need no guarded main module
        from loky import ProcessPoolExecutor

        if self._executor is None:
            arguments = (self._plan, os.getpid())
            self._executor = ProcessPoolExecutor(self._jobs, initializer=_start_worker, initargs=arguments)
        try:
            return self._executor.submit(_read_in_worker, numbers)
        except BrokenProcessPool as error:
            failed: "Future[List[Read]]" = Future()
            failed.set_exception(error)
            return failed

    def read_alone(self, number: int) -> Read:
        try:
            return self.submit([number]).result()[0]
        except BrokenProcessPool:
            self.start_again()
            reason = "reading it ended the process (out of memory, or a damaged file); get it again, or cut it"
            return Rejected(number, self._plan.name(number), reason, group=self._plan.group(number))

    def start_again(self) -> None:
        self.end()
        self._executor = None

    def end(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, kill_workers=True)


_worker: Optional[ReadingPlan] = None


def _start_worker(plan: ReadingPlan, parent: int) -> None:
    global _worker
    _worker = plan
    # a terminal's Ctrl-C reaches all processes; the first one ends the others
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with(parent)


def _read_in_worker(numbers: Sequence[int]) -> List[Read]:
    """Read recordings from the first on, until they are too large: results wait in the other process's memory."""
    assert _worker is not None
    found: List[Read] = []
    size = 0
    for number in numbers:
        found.append(_worker.read(number))
        if isinstance(found[-1], ReadRecording):
            size += sum(one.counts.nbytes for one in found[-1].segments.values())
        if size > _CHUNK_BYTES:
            break
    return found
