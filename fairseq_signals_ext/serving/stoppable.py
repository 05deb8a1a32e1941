"""Run functions in a process that can be stopped at any time, with limited memory."""

import contextlib
import errno
import importlib
import logging
import os
import pickle
import re
import signal
from pathlib import Path
from typing import Any, Callable, Optional, Sequence, Tuple

from fairseq_signals_ext.common.errors import MissingPackageError, UserError
from fairseq_signals_ext.common.processes import end_with
from fairseq_signals_ext.readers.facts import shown

# of the kernel's -1000 to 1000: without free memory the kernel ends this process, not the service
_EXPENDABLE = "500"
_SECONDS_TO_END = 5
_SECONDS_OF_REST = 2
_GIVING_WAY = 15

# messages of an installed library that cannot be loaded
_NO_MEMORY = re.compile(r"failed to map segment|allocate memory")

_log = logging.getLogger(__name__)


class ProcessEnded(Exception):
    """The process ended before it had a result: it was stopped, or its function ended it."""


class ProcessGone(ProcessEnded):
    """The process had ended before the call."""


class StoppableProcess:
    """A process that runs one function after the other; it ends with its parent process.

    It is not a fork, so it shares no memory and no threads with its parent.

    Args:
        memory: limit in bytes for a call, if the system supports it.
        niceness: by how much `give_way` lowers its priority.
        modules: imported while there is nothing to do; missing ones are left out.

    Attributes:
        gives_way: whether its priority was lowered.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, memory: int, niceness: int = 0, modules: Sequence[str] = ()):
        # loky's processes need no guarded main module
        from loky.backend import get_context

        context: Any = get_context("loky")
        self._connection, theirs = context.Pipe()
        arguments = (theirs, os.getpid(), memory, niceness, modules)
        self._process = context.Process(target=_work, args=arguments, daemon=True)
        self._used_before: Optional[float] = None
        self.gives_way = False
        self._process.start()
        theirs.close()
        try:
            self._connection.recv()
        except EOFError as error:
            raise OSError(errno.EAGAIN, "a process ended while it was started") from error

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a module-level function; returns its result or raises its error.

        Raises:
            ProcessEnded: see there.
            MemoryError: it needs more memory than its limit.
        """
        self._used_before = None
        try:
            self._connection.send((function, arguments))
            # the process may still be importing, so an error here is not caused by this call
            self._connection.recv()
        except (EOFError, OSError) as error:
            raise ProcessGone from error
        self._used_before = self._processor_seconds()
        try:
            is_result, found = self._connection.recv()
        except (EOFError, OSError) as error:
            raise ProcessEnded from error
        if is_result:
            return found
        raise found

    @property
    def processor_seconds(self) -> Optional[float]:
        """Processor time of the current call; None if the system does not report it."""
        used = self._processor_seconds()
        return None if used is None or self._used_before is None else used - self._used_before

    def _processor_seconds(self) -> Optional[float]:
        with contextlib.suppress(OSError):
            # user and system time, after a name that may contain blanks
            times = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
            return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
        return None

    def give_way(self) -> None:
        """Lower the priority of the process; the system does not allow to raise it again."""
        if not self.gives_way and hasattr(os, "setpriority"):
            self.gives_way = True
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, self._process.pid, _GIVING_WAY)

    def stop(self) -> None:
        """End the process at once; a running call raises `ProcessEnded`."""
        # loky's processes cannot be killed, only asked to end
        if self._process.is_alive():
            os.kill(self._process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))

    def close(self) -> None:
        """End the process and wait for its end."""
        self.stop()
        self._process.join(_SECONDS_TO_END)
        self._connection.close()


def _work(connection: Any, parent: int, memory: int, niceness: int, modules: Sequence[str]) -> None:
    # a terminal's Ctrl-C reaches all processes; the first one ends the others
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with(parent)
    if hasattr(os, "nice"):
        os.nice(niceness)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_EXPENDABLE)
    connection.send(None)
    for module in modules:
        # not during high load, such as when other processes were just stopped
        if connection.poll(_SECONDS_OF_REST):
            break
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    # the other end is closed when the parent has no more work, or has ended
    with contextlib.suppress(EOFError, OSError):
        while True:
            function, arguments = connection.recv()
            connection.send(None)
            _limit_memory(memory)
            try:
                connection.send(_outcome(function, arguments))
            except MemoryError:
                connection.send((False, MemoryError()))


def _outcome(function: Callable[..., Any], arguments: Tuple[Any, ...]) -> Tuple[bool, Any]:
    try:
        return True, function(*arguments)
    except MemoryError:
        # without its traceback, which keeps the data that fill the memory
        return False, MemoryError()
    except Exception as error:
        is_import = isinstance(error, (ImportError, MissingPackageError)) and _NO_MEMORY.search(str(error))
        if is_import or getattr(error, "errno", None) == errno.ENOMEM:
            return False, MemoryError()
        if not isinstance(error, (UserError, ImportError, OSError)):
            _log.exception("a file that cannot be read ended in an error that is not documented")
        return False, _that_travels(error)


def _that_travels(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - pickling a library's error can fail in any way
        return RuntimeError(f"{type(error).__name__}: {shown(error)}")
    return error


def _limit_memory(memory: int) -> None:
    """Limit this process to its current memory plus this many bytes, if the system supports it."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        most = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
