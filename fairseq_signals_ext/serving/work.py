"""Answer an upload that has arrived: order of requests for the model, and where each step runs."""

import asyncio
import contextlib
import threading
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, AsyncIterator, Callable, Generic, Iterator, Optional, TypeVar

import numpy as np
from starlette.responses import Response

from fairseq_signals_ext.inference.backends import Outputs
from fairseq_signals_ext.inference.model import LoadedModel
from fairseq_signals_ext.inference.reading_ahead import reason_of
from fairseq_signals_ext.serving.answers import refusal_of
from fairseq_signals_ext.serving.limits import Limits, UploadError
from fairseq_signals_ext.serving.reading import MODULES, OutOfTime, Readers, ReadUpload
from fairseq_signals_ext.serving.stoppable import ProcessEnded
from fairseq_signals_ext.serving.upload import Upload

# reading has a lower priority than the model, and slow reading the lowest
_NICENESS, _SLOW_NICENESS = 5, 15
# clock seconds per second of processor time: other processes use it too, and a process that only waits must also end
_QUICK_CLOCK, _SLOW_CLOCK = 10, 3
Read = Callable[[Upload, Limits, float], ReadUpload]
ReadShort = Callable[[Upload, Limits, float], Optional[ReadUpload]]
Result = TypeVar("Result")
ModelResult = TypeVar("ModelResult")


class Ended(Exception):
    """The result is no longer needed."""


class Turns:
    """A lock with priority for short work."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_taken = False
        self._in_a_hurry = 0

    @contextlib.contextmanager
    def short(self) -> Iterator[None]:
        """Hold the lock for short work."""
        with self._changed:
            self._in_a_hurry += 1
            self._changed.wait_for(lambda: not self._is_taken)
            self._in_a_hurry -= 1
            self._is_taken = True
        yield from self._taken()

    @contextlib.contextmanager
    def long(self) -> Iterator[None]:
        """Hold the lock for long work, after all waiting short work."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_taken and not self._in_a_hurry)
            self._is_taken = True
        yield from self._taken()

    def _taken(self) -> Iterator[None]:
        try:
            yield
        finally:
            with self._changed:
                self._is_taken = False
                self._changed.notify_all()


class _GivingWay:
    """A backend that waits for its turn before each batch.

    Args:
        backend: see `inference.backends`.
        turns: shared by all users of the backend.
        is_over: set when the result is no longer needed.
    """

    def __init__(self, backend: Any, turns: Turns, is_over: threading.Event):
        self._backend = backend
        self._turns = turns
        self._is_over = is_over

    def __call__(self, source: np.ndarray, padding_mask: np.ndarray) -> Outputs:
        with self._turn():
            return self._backend(source, padding_mask)

    def run(self, function: Callable[..., Any], source: np.ndarray, padding_mask: np.ndarray) -> Outputs:
        with self._turn():
            return self._backend.run(function, source, padding_mask)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        with self._turns.long():
            if self._is_over.is_set():
                raise Ended
            yield

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def giving_way(model: LoadedModel, turns: Turns, is_over: threading.Event) -> LoadedModel:
    """The same model for long work: others go first before each batch; raises `Ended` once `is_over` is set."""
    return LoadedModel(model.description, _GivingWay(model.backend, turns, is_over), model.source)


@dataclass(frozen=True)
class AnswerSteps(Generic[ModelResult]):
    """The two steps of an answer; both run in a thread.

    Attributes:
        run_model: runs the model, which may wait for others meanwhile.
        respond: makes the answer from the recording and the result of `run_model`; only one runs at a time.
    """

    run_model: Callable[[LoadedModel, Upload, ReadUpload], ModelResult]
    respond: Callable[[ReadUpload, ModelResult], Response]


class UploadQueue:
    """Reads uploads and runs the model.

    At most `limits.at_once` are in work. Each is read in a process that can be stopped; the model runs, and reports are
    made, in one thread. Slow or long uploads give their place back and continue separately: in other processes, and in
    another thread that lets the first go ahead between its batches.

    It belongs to an event loop.

    Args:
        model: the model for predictions.
        limits: of requests.
        read_short, read: functions for the processes, see `reading`.
    """

    def __init__(self, model: LoadedModel, limits: Limits, read_short: ReadShort, read: Read):
        self._model, self._limits = model, limits
        self._read_short, self._read = read_short, read
        self._at_once = asyncio.Semaphore(limits.at_once)
        self._slow, self._slow_waiting = asyncio.Semaphore(limits.slow_at_once), 0
        quick = (limits.quick_seconds, _QUICK_CLOCK * limits.quick_seconds, limits.quick_bytes)
        slow = (limits.read_seconds, _SLOW_CLOCK * limits.read_seconds, limits.read_bytes)
        self._readers = Readers(limits.readers, *quick, niceness=_NICENESS, modules=MODULES)
        self._slow_readers = Readers(limits.slow_at_once, *slow, niceness=_SLOW_NICENESS)
        self._runner, self._slow_runner = ThreadPoolExecutor(1, "model"), ThreadPoolExecutor(1, "slow")
        self._turns = Turns()

    def warm(self) -> None:
        """Start the reading processes before the first upload."""
        self._readers.warm()

    def end(self) -> None:
        """End the processes, without waiting for the model."""
        for readers in (self._readers, self._slow_readers):
            readers.end()
        for runner in (self._runner, self._slow_runner):
            runner.shutdown(wait=False)

    async def answer(self, upload: Upload, steps: AnswerSteps[Any], waiting: contextlib.AsyncExitStack) -> Response:
        """Answer an upload.

        Args:
            steps: the steps of the answer.
            waiting: closed when its turn comes.

        Raises:
            UserError: it cannot be read, or not within the limits, or the model cannot use it.
        """
        given = (upload, self._limits, self._model.sample_rate)
        async with contextlib.AsyncExitStack() as turn:
            await turn.enter_async_context(self._at_once)
            await waiting.aclose()
            found = None
            with contextlib.suppress(OutOfTime, MemoryError):
                found = await _read(self._readers, self._read_short, *given)
            if found is not None:
                return await _in_thread(self._runner, self._short, steps, upload, found)
            await turn.aclose()
            await turn.enter_async_context(self._slow_turn())
            found = await self._read_slowly(*given)
            is_over = threading.Event()
            turn.callback(is_over.set)
            return await _in_thread(self._slow_runner, self._long, steps, upload, found, is_over)

    @contextlib.asynccontextmanager
    async def _slow_turn(self) -> AsyncIterator[None]:
        if self._slow_waiting >= self._limits.slow_waiting:
            raise UploadError("upload: the service is busy with other large ones; send it again later", 503)
        self._slow_waiting += 1
        try:
            await self._slow.acquire()
        finally:
            self._slow_waiting -= 1
        try:
            yield
        finally:
            self._slow.release()

    async def _read_slowly(self, upload: Upload, limits: Limits, sample_rate: float) -> ReadUpload:
        try:
            return await _read(self._slow_readers, self._read, upload, limits, sample_rate)
        except OutOfTime:
            needs = f"more than {limits.read_seconds:g} s of the processor"
        except MemoryError:
            needs = f"more than {limits.read_bytes / 1e9:g} GB of memory"
        raise UploadError(f"{upload.name}: reading it takes {needs}; send a part of it, or another format", 422)

    def _short(self, steps: AnswerSteps[Any], upload: Upload, found: ReadUpload) -> Response:
        with self._turns.short():
            return steps.respond(found, steps.run_model(self._model, upload, found))

    def _long(self, steps: AnswerSteps[Any], upload: Upload, found: ReadUpload, is_over: threading.Event) -> Response:
        result = steps.run_model(giving_way(self._model, self._turns, is_over), upload, found)
        with self._turns.long():
            return steps.respond(found, result)


async def _read(readers: Readers, read: Callable[..., Result], upload: Upload, *arguments: Any) -> Result:
    try:
        return await readers.call(read, upload, *arguments)
    except (OutOfTime, MemoryError, ImportError):
        raise
    except ProcessEnded:
        problem = (
            "reading it ended the process that read it (out of memory, or a damaged file); get it again, or cut it"
        )
    except Exception as error:  # noqa: BLE001 - one bad file must not count as a failure of the service
        if refusal_of(error) is not None:
            raise
        problem = reason_of(error, upload.name)
    raise UploadError(f"{upload.name}: {problem}", 422)


async def _in_thread(executor: Executor, function: Callable[..., Result], *arguments: Any) -> Result:
    return await asyncio.get_running_loop().run_in_executor(executor, function, *arguments)
