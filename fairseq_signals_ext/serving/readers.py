"""Processes that read uploads, so that the service goes on whatever a file does to the one that reads it."""

import asyncio
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, List, Sequence, Set

from fairseq_signals_ext.serving.stoppable import ProcessEnded, StoppableProcess

__all__ = ["OutOfTime", "ProcessEnded", "Readers"]

# times that one looks in the seconds that a call may take
_LOOKS = 4


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
        self._places = asyncio.Semaphore(number)
        self._idle: List[StoppableProcess] = []
        self._all: Set[StoppableProcess] = set()
        self._is_ending = False
        # a process may have a call while others are ended and started
        self._threads = ThreadPoolExecutor(2 * number + 1, "readers")

    def warm(self) -> None:
        """Start the processes now, and not when they are needed."""
        for _ in range(self._number - len(self._all)):
            self._in_thread(self._add_idle)

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function of a module gives, or raises, in one of the processes.

        Raises:
            OutOfTime: it took too long.
            ProcessEnded: it ended the process.
            OSError: no process can be started.
            MemoryError: it needs more than it may.
        """
        async with self._places:
            process = await self._in_thread(self._take)
            running = self._in_thread(process.call, function, *arguments)
            is_sound = False
            try:
                await self._wait(process, running)
                is_sound = not isinstance(running.exception(), (ProcessEnded, MemoryError))
                return running.result()
            finally:
                if is_sound:
                    self._idle.append(process)
                else:
                    process.stop()
                    self._in_thread(self._replace, process)

    async def _wait(self, process: StoppableProcess, running: "asyncio.Future[Any]") -> None:
        end = time.monotonic() + self._clock_seconds
        while not (await asyncio.wait([running], timeout=self._seconds / _LOOKS))[0]:
            if (process.processor_seconds or 0) > self._seconds or time.monotonic() > end:
                raise OutOfTime

    def end(self) -> None:
        """End the processes, whatever they do."""
        self._is_ending = True
        for process in list(self._all):
            process.stop()
        for process in list(self._all):
            process.close()
        # one that is being started ends when it has started, or with this process
        self._threads.shutdown(wait=False)

    def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> "asyncio.Future[Any]":
        future = asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
        # nobody may be left to ask how it ended
        future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        return future

    def _take(self) -> StoppableProcess:
        with contextlib.suppress(IndexError):
            return self._idle.pop()
        process = self._start()
        self._all.add(process)
        if self._is_ending:
            process.close()
        return process

    def _add_idle(self) -> None:
        if len(self._all) < self._number:
            self._idle.append(self._take())

    def _replace(self, process: StoppableProcess) -> None:
        self._all.discard(process)
        process.close()
        self._add_idle()
