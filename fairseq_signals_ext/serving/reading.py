"""Read the files of an upload as a recording, in processes that can be stopped, without access to other files.

The processes, see `Readers`, import this module, so it imports only what reading needs.
"""

import asyncio
import contextlib
import errno
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional, Sequence, Set, Union

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.readers import Recording, read_ecg
from fairseq_signals_ext.readers.facts import shown
from fairseq_signals_ext.readers.formats import format_of, our_formats
from fairseq_signals_ext.readers.wfdb_claims import read_header
from fairseq_signals_ext.readers.wfdb_header import has_segments
from fairseq_signals_ext.serving.limits import Limits, UploadError
from fairseq_signals_ext.serving.stoppable import ProcessEnded, ProcessGone, StoppableProcess
from fairseq_signals_ext.serving.upload import Upload

# modules that file readers import on demand, and the processes in advance
MODULES = tuple(dict.fromkeys(module for one in our_formats() for module in one.imports))
# number of checks during the time limit of a call
_LOOKS = 6
# processor seconds; a recording that takes longer than an ordinary one gets a lower priority
_ORDINARY_SECONDS = 0.1
# s before a process is replaced, while there are others
_SECONDS_OF_REST = 4
_ONE = "send one recording at a time"


class OutOfTime(Exception):
    """A call took longer than its limit."""


class Readers:
    """A pool of processes with one call each at a time; a process that was stopped or crashed is replaced.

    It belongs to an event loop.

    Args:
        number: of processes; further calls wait.
        seconds: limit of processor time for a call, if the system reports it.
        clock_seconds: limit of a call by the clock.
        memory, niceness, modules: as `StoppableProcess`.
    """

    def __init__(
        self,
        number: int,
        seconds: float,
        clock_seconds: float,
        memory: int,
        niceness: int = 0,
        modules: Sequence[str] = (),
    ):
        self._seconds, self._clock_seconds = seconds, clock_seconds
        self._start = lambda: StoppableProcess(memory, niceness, modules)
        self._number = number
        # idle processes, or errors of processes that could not be started
        self._idle: "asyncio.Queue[Union[StoppableProcess, BaseException]]" = asyncio.Queue()
        self._all: Set[StoppableProcess] = set()
        # number of running and starting processes; number of waiting calls
        self._started = self._waiting = 0
        self._is_warm = self._is_ending = False
        self._rests_until = 0.0
        self._callers = ThreadPoolExecutor(number, "reader")
        # one after the other, so that the first is ready soon
        self._starter = ThreadPoolExecutor(1, "starter")

    def warm(self) -> None:
        """Start all processes now, before they are needed."""
        self._is_warm = True
        for _ in range(0 if self._is_ending else self._number - self._started):
            self._add()

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a module-level function in one of the processes; returns its result or raises its error.

        Raises:
            OutOfTime: it took too long.
            ProcessEnded: it ended the process.
            OSError: no process can be started.
            MemoryError: it needs more memory than its limit.
        """
        for _ in range(self._number + 1):
            with contextlib.suppress(ProcessGone):
                return await self._call(function, *arguments)
        raise OSError(errno.EAGAIN, "processes end before they are used")

    async def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        process = await self._take()
        running = _in_thread(self._callers, process.call, function, *arguments)
        is_sound = False
        try:
            await self._wait(process, running)
            is_sound = not isinstance(running.exception(), (ProcessEnded, MemoryError))
            return running.result()
        finally:
            if is_sound and not (process.gives_way and self._idle.qsize()):
                self._idle.put_nowait(process)
            else:
                self._replace(process)

    def end(self) -> None:
        """End the processes, even during a call."""
        self._is_ending = True
        for process in list(self._all):
            process.stop()
        for process in list(self._all):
            process.close()
        # a process that is starting ends after its start, or with this process
        for threads in (self._callers, self._starter):
            threads.shutdown(wait=False)

    async def _take(self) -> StoppableProcess:
        if self._idle.empty():
            self._add_if_needed()
        self._waiting += 1
        try:
            found = await self._idle.get()
        finally:
            self._waiting -= 1
        if isinstance(found, BaseException):
            raise found
        return found

    async def _wait(self, process: StoppableProcess, running: "asyncio.Future[Any]") -> None:
        end = time.monotonic() + self._clock_seconds
        while not (await asyncio.wait([running], timeout=self._seconds / _LOOKS))[0]:
            used = process.processor_seconds or 0
            if used > self._seconds or time.monotonic() > end:
                raise OutOfTime
            if used > _ORDINARY_SECONDS:
                process.give_way()

    def _replace(self, process: StoppableProcess) -> None:
        process.stop()
        self._all.discard(process)
        self._started -= 1
        if not self._is_ending:
            _in_thread(self._starter, process.close)
            if self._is_warm:
                self._rests_until = time.monotonic() + _SECONDS_OF_REST
                asyncio.get_running_loop().call_later(_SECONDS_OF_REST, self.warm)
            if self._waiting:
                self._add_if_needed()

    def _add_if_needed(self) -> None:
        # a start takes as much time as dozens of uploads, and the remaining processes can read these
        if not self._started or (self._rests_until <= time.monotonic() and self._started < self._number):
            self._add()

    def _add(self) -> None:
        self._started += 1
        _in_thread(self._starter, self._start).add_done_callback(self._added)

    def _added(self, starting: "asyncio.Future[StoppableProcess]") -> None:
        error = None if starting.cancelled() else starting.exception()
        if starting.cancelled() or error is not None:
            self._started -= 1
            if error is not None and self._waiting:
                self._idle.put_nowait(error)
        elif self._is_ending:
            starting.result().stop()
        else:
            self._all.add(starting.result())
            self._idle.put_nowait(starting.result())


def _in_thread(threads: ThreadPoolExecutor, function: Callable[..., Any], *arguments: Any) -> "asyncio.Future[Any]":
    future = asyncio.get_running_loop().run_in_executor(threads, function, *arguments)
    # mark errors as seen, even if nobody awaits the future
    future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    return future


class ReadUpload(NamedTuple):
    """A recording that was uploaded.

    Attributes:
        name: the sender's name of its main file.
        recording: read from it.
    """

    name: str
    recording: Recording


def read_short_upload(upload: Upload, limits: Limits, sample_rate: float) -> Optional[ReadUpload]:
    """As `read_upload`; None if the recording lasts longer than `limits.short_seconds`."""
    found = read_upload(upload, limits, sample_rate)
    is_short = found.recording.samples <= limits.short_seconds * found.recording.sample_rate
    return found if is_short else None


def read_upload(upload: Upload, limits: Limits, sample_rate: float) -> ReadUpload:
    """Read the recording.

    Args:
        sample_rate: Hz, of the model.

    Raises:
        UploadError: the files are not one recording, of no supported kind, name files that were not sent, or hold or
            claim more than the limits.
        UserError: see `read_ecg`.
    """
    main = main_file(upload)
    path = upload.folder / main
    if path.suffix == ".hea":
        _check_headers(upload, path, limits)
    else:
        _check_kind(path, limits)
    recording = read_ecg(path, sample_rate=upload.sample_rate, leads=upload.leads, unit=upload.unit, number=1)
    if recording.ecgs > 1:
        raise UploadError(f"{path}: contains {recording.ecgs} ECGs; send each as a file of its own", 422)
    seconds = recording.samples / recording.sample_rate
    if seconds > 3600 * limits.hours:
        raise UploadError(f"{path}: lasts {seconds / 3600:.1f} h, more than {limits.hours:g} h; send a part of it", 422)
    if seconds * sample_rate * len(recording.leads) > limits.resampled:
        problem = f"lasts {seconds / 3600:.1f} h, too long for the memory of its {len(recording.leads)} leads"
        raise UploadError(f"{path}: {problem} at the model's {sample_rate:g} Hz; send a part of it", 422)
    return ReadUpload(upload.names[main], recording)


def main_file(upload: Upload) -> str:
    """The main file of an upload; of several headers the one that the others are segments of.

    Raises:
        UploadError: there is no main file, or there are several.
    """
    names = list(upload.names)
    if len(names) == 1:
        return names[0]
    headers = [name for name in names if name.endswith(".hea")]
    if not headers:
        raise UploadError(f"upload: {len(names)} files, but no WFDB header (.hea) among them; {_ONE}", 400)
    if len(headers) > 1:
        headers = [name for name in headers if has_segments((upload.folder / name).read_bytes())]
    if len(headers) != 1:
        raise UploadError(f"upload: has the headers of several recordings; {_ONE}", 400)
    return headers[0]


def _check_headers(upload: Upload, main: Path, limits: Limits) -> None:
    """Check that all files named in headers were sent, so that no other file is opened, and that all are needed."""
    needed: Set[str] = set()
    for path in [upload.folder / name for name in upload.names if name.endswith(".hea")]:
        header = read_header(path)
        if (header.frames or 0) * header.width > limits.samples:
            raise _too_many_samples(path, limits)
        for name in header.files:
            if name not in upload.names:
                hint = "send it together with the header, under this name"
                raise UploadError(f"{path}: its file {shown(name, 60)!r} was not sent; {hint}", 422)
            needed.add(name)
    for name in upload.names:
        if name not in needed and Path(name).stem != main.stem:
            raise UploadError(f"{upload.folder / name}: does not belong to {main}; {_ONE}", 400)


def _check_kind(path: Path, limits: Limits) -> None:
    try:
        found = format_of(path)
    except UserError as error:
        raise UploadError(str(error), 415 if path.stat().st_size else 422) from None
    if found.largest is not None and found.largest(path) > limits.samples:
        raise _too_many_samples(path, limits)


def _too_many_samples(path: Path, limits: Limits) -> UploadError:
    return UploadError(f"{path}: claims more than {limits.samples:.2g} samples, the limit here; send a part of it", 413)
