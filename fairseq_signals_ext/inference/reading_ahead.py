"""Recordings read ahead of a model, in order, and each only once.

Only a fixed number waits, so that memory does not grow with the number of recordings.
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

# there is no room for results, or this process has too many files open
_NOT_ITS_FAULT = (*NO_SPACE, errno.EROFS, errno.EMFILE, errno.ENFILE)
_FACTS = {attribute.name for attribute in dataclasses.fields(RecordingFacts)}
# inputs whose recordings may share batches; parts of a run begin at a multiple
GROUP = 64
# recordings that go to another process together, and their size from which on no more do
_CHUNK, _CHUNK_BYTES = 16, 2**25
# such chunks that wait, beyond one per process
_AHEAD = 2


@dataclass(frozen=True, eq=False)
class ReadRecording:
    """A recording that is ready for models.

    Attributes:
        number: in the inputs.
        name: its file, as messages and tables name it.
        segments: for each way of preprocessing that models need.
        ecgs: how many ECGs its file contains, where it is the first of these.
        group: see `ReadingPlan.group`.
        beside: what was read beside its signal.
    """

    number: int
    name: str
    segments: Dict[Preprocessing, SegmentedRecording]
    ecgs: int = 1
    group: Tuple[int, int] = (0, 0)
    beside: Any = None

    @property
    def facts(self) -> RecordingFacts:
        """What is known of it."""
        return next(iter(self.segments.values())).facts


@dataclass(frozen=True)
class Rejected:
    """A recording that cannot be used.

    Attributes:
        number: in the inputs.
        name: its file.
        reason: why, in one line, and what to do.
        ecgs: how many ECGs its file contains, where it is the first of these.
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
        """The same as an error, where each recording must be usable."""
        return UserError(self.reason if self.name in self.reason else f"{self.name}: {self.reason}")


Read = Union[ReadRecording, Rejected]


@dataclass(frozen=True)
class ReadingPlan:
    """Which recordings are read, and how they are preprocessed; it can be sent to other processes.

    Attributes:
        inputs: the recordings.
        preprocessings: of the models, each another.
        several: those of the inputs whose files are known to contain several ECGs, ascending, and how many. The second
            and further ones have numbers after all inputs.
    """

    inputs: Recordings
    preprocessings: Sequence[Preprocessing]
    several: Sequence[Tuple[int, int]] = ()

    def __len__(self) -> int:
        return len(self.inputs) + sum(ecgs - 1 for _, ecgs in self.several)

    @functools.cached_property
    def _later(self) -> np.ndarray:
        """Numbers from which the later ECGs of a file on are those of the next."""
        return len(self.inputs) + np.cumsum([ecgs - 1 for _, ecgs in self.several])

    def _place(self, number: int) -> Tuple[int, ...]:
        """The number in the inputs, and for a later ECG of its file which it is."""
        if number < len(self.inputs):
            return (number,)
        file = int(np.searchsorted(self._later, number, side="right"))
        of_input, ecgs = self.several[file]
        return of_input, ecgs + 1 - int(self._later[file] - number)

    def group(self, number: int) -> Tuple[int, int]:
        """Recordings share a batch only with those of their group, so that parts of a run have its batches.

        Outputs differ in their last digits with what else is in a batch. A group is some inputs that follow each other,
        or all later ECGs of these.
        """
        return int(number >= len(self.inputs)), self._place(number)[0] // GROUP

    def name(self, number: int) -> str:
        """What messages and tables call a recording."""
        return self.inputs.name(*self._place(number))

    def read(self, number: int) -> Read:
        """Read a recording; nothing that is wrong with it is raised, apart from a package that is missing."""
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
    """Why a recording is rejected, in one line; an error that is not its fault is raised again.

    Args:
        name: its file, which the reason need not repeat.
    """
    # a name that cannot be encoded is that of a file that was to be written
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
    """All recordings from number `start` on, in order; last the second and further ECGs of files with several.

    Args:
        plan: knows those with several among the inputs before `start`.
        jobs: processes that read; 0: the caller's own.

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
    """As `map(work.read, numbers)`; a recording that ends the process that reads it is rejected."""
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
                # it may have been the fault of any that were in work: one alone will show
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
    """Processes that read; they can be started again when one of them has died."""

    def __init__(self, plan: ReadingPlan, jobs: int):
        self._plan, self._jobs = plan, jobs
        self._executor: Any = None

    def submit(self, numbers: Sequence[int]) -> "Future[List[Read]]":
        """Read these, or the first of them if they are large."""
        # its processes are not forks, which may stand still where torch has threads, and need no guarded main module
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
    """Some of them, from the first on: what goes to the other process waits there, and must not be much."""
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
