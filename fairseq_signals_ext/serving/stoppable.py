"""Functions that run in a process which can be stopped, whatever they do, and in bounded memory."""

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

# of the kernel's -1000 to 1000: where memory ends, this process goes and not the one that serves
_EXPENDABLE = "500"
_SECONDS_TO_END = 5
_SECONDS_OF_REST = 2
_GIVING_WAY = 15

# how a library that is there says that it cannot be loaded
_NO_MEMORY = re.compile(r"failed to map segment|allocate memory")

_log = logging.getLogger(__name__)


class ProcessEnded(Exception):
    """The process ended before it had a result: it was stopped, or what it ran ended it."""


class ProcessGone(ProcessEnded):
    """It had ended before the call, whose fault it is not."""


class StoppableProcess:
    """A process that runs one function after the other; it ends with the one that started it.

    It is not a fork, so what it does not import it does not have, and no threads are in its way.

    Args:
        memory: bytes that a call may need, where the system can limit them.
        niceness: by how much it gives way to others that want the processor.
        modules: that are imported while there is nothing to do; those that are not installed are left out.

    Attributes:
        gives_way: whether it was told to.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, memory: int, niceness: int = 0, modules: Sequence[str] = ()):
        # its processes need no guarded main module
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
        """What a function of a module gives, or raises.

        Raises:
            ProcessEnded: see there.
            MemoryError: it needs more than it may.
        """
        self._used_before = None
        try:
            self._connection.send((function, arguments))
            # it may still be importing, which is not the fault of this call either
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
        """Time of the processor that the call in work has taken; None where the system does not report it."""
        used = self._processor_seconds()
        return None if used is None or self._used_before is None else used - self._used_before

    def _processor_seconds(self) -> Optional[float]:
        with contextlib.suppress(OSError):
            # user's and the system's, after a name that may have blanks
            times = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
            return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
        return None

    def give_way(self) -> None:
        """Let others that want the processor go first from now on; the system lets nobody take that back."""
        if not self.gives_way and hasattr(os, "setpriority"):
            self.gives_way = True
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, self._process.pid, _GIVING_WAY)

    def stop(self) -> None:
        """End it at once; a call that it is in raises `ProcessEnded`."""
        # loky's processes cannot be killed, only asked to end
        if self._process.is_alive():
            os.kill(self._process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))

    def close(self) -> None:
        """End it and wait until it is gone."""
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
        # not while there is much to do, as when others like this one were just stopped
        if connection.poll(_SECONDS_OF_REST):
            break
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    # the other end is closed when that process has no more to do, or is gone
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
        # without its traceback, which holds what fills the memory
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
    except Exception:  # noqa: BLE001 - a library's error may fail at this in any way
        return RuntimeError(f"{type(error).__name__}: {shown(error)}")
    return error


def _limit_memory(memory: int) -> None:
    """Let this process have so many bytes more than it has now, where the system can say and limit it."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        most = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
