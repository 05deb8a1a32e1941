"""Show the progress of long work: a bar on a terminal; elsewhere, such as in a log file, a line every 30 s."""

import sys
import time
from types import TracebackType
from typing import Any, Iterable, Iterator, Optional, Type, TypeVar

from fairseq_signals_ext.common.values import as_time

_SECONDS_BETWEEN_LINES = 30.0

Item = TypeVar("Item")


class Progress:
    """Shows progress on stderr; a context manager, which removes the bar at its end.

    It needs no package: without `tqdm` lines are printed on a terminal as well.

    Args:
        name: of the work.
        total: number of items; None if unknown.
        unit: name of an item, such as "recording".
        done: number of items that were done before.
        is_shown: False: nothing is printed.
        delay: s before the bar appears.
        leave: keep the finished bar.
    """

    def __init__(
        self,
        name: str,
        total: Optional[int],
        unit: str,
        done: int = 0,
        is_shown: bool = True,
        delay: float = 0,
        leave: bool = True,
    ):
        self._name, self._total, self._unit = name, total, unit
        self._done = self._done_before = done
        self._is_shown = is_shown
        self._start = self._last = time.monotonic()
        self._bar = (
            _bar(desc=name, total=total, unit=unit, initial=done, delay=delay, leave=leave) if is_shown else None
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, number: int = 1) -> None:
        """Add a number of finished items."""
        self._done += number
        if self._bar is not None:
            self._bar.update(number)
        elif self._is_shown and time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            print(self._line(), file=sys.stderr, flush=True)

    def each(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items; each counts as done when the next one is requested."""
        with self:
            for item in items:
                yield item
                self.update()

    def _line(self) -> str:
        if self._total is None:
            return f"{self._name}: {self._done} {self._unit}s"
        rate = (self._done - self._done_before) / (self._last - self._start)
        left = f", about {as_time((self._total - self._done) / rate)} left" if rate else ""
        percent = 100 * self._done // max(1, self._total)
        return f"{self._name}: {self._done} of {self._total} {self._unit}s ({percent} %){left}"


def print_line(text: str) -> None:
    """Print a line on stdout, above a bar if there is one."""
    if "tqdm" in sys.modules:
        sys.modules["tqdm"].tqdm.write(text)
    else:
        print(text)


def _bar(**options: Any) -> Any:
    """Return a bar if there is a terminal; else None."""
    if not sys.stderr.isatty():
        return None
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return None
    return tqdm(**options)
