"""Processes that read uploads, so that the service goes on whatever a file does to the one that reads it."""

import asyncio
import contextlib
import errno
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Sequence, Set, Union

from fairseq_signals_ext.serving.stoppable import ProcessEnded, ProcessGone, StoppableProcess

__all__ = ["OutOfTime", "ProcessEnded", "Readers"]

# times that one looks in the seconds that a call may take
_LOOKS = 6
# of the processor, that an ordinary recording takes at most; what takes longer gives way to others
_ORDINARY_SECONDS = 0.1
# before a process is replaced, as long as there are others
_SECONDS_OF_REST = 4


class OutOfTime(Exception):
    """A call took longer than it may."""


class Readers:
    """Some processes of one kind, each of which has a call at a time; one that was stopped or died is replaced.

    Belongs to an event loop.

    Args:
        number: of processes; the others wait.
        seconds: of the processor that a call may take, where the system says them.
        clock_seconds: that it may take by the clock.
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
        # processes that wait for a call, or errors of those that could not be started
        self._idle: "asyncio.Queue[Union[StoppableProcess, BaseException]]" = asyncio.Queue()
        self._all: Set[StoppableProcess] = set()
        # those that there are and those that are being started; calls that wait for one
        self._started = self._waiting = 0
        self._is_warm = self._is_ending = False
        self._rests_until = 0.0
        self._callers = ThreadPoolExecutor(number, "reader")
        # one after the other, so that the first is soon there
        self._starter = ThreadPoolExecutor(1, "starter")

    def warm(self) -> None:
        """Have all processes ready from now on, and not when they are needed."""
        self._is_warm = True
        for _ in range(0 if self._is_ending else self._number - self._started):
            self._add()

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function of a module gives, or raises, in one of the processes.

        Raises:
            OutOfTime: it took too long.
            ProcessEnded: it ended the process.
            OSError: no process can be started.
            MemoryError: it needs more than it may.
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
        """End the processes, whatever they do."""
        self._is_ending = True
        for process in list(self._all):
            process.stop()
        for process in list(self._all):
            process.close()
        # one that is being started ends when it has started, or with this process
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
        # starting one takes as much as dozens of uploads, for which those that are left will do
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
    # nobody may be left to ask how it ended
    future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    return future
