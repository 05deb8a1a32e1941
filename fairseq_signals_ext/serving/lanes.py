"""Whose turn it is to use the model: short work goes before long work, which gives way between its batches."""

import contextlib
import threading
from typing import Any, Callable, Iterator

import numpy as np

from fairseq_signals_ext.inference.backends import Outputs
from fairseq_signals_ext.inference.model import LoadedModel


class Ended(Exception):
    """Nobody waits for the result any more."""


class Turns:
    """One at a time; those in a hurry go first."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_taken = False
        self._in_a_hurry = 0

    @contextlib.contextmanager
    def short(self) -> Iterator[None]:
        """A turn of one in a hurry."""
        with self._changed:
            self._in_a_hurry += 1
            self._changed.wait_for(lambda: not self._is_taken)
            self._in_a_hurry -= 1
            self._is_taken = True
        yield from self._taken()

    @contextlib.contextmanager
    def long(self) -> Iterator[None]:
        """A turn of one that can wait."""
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
    """A backend that takes a turn for each batch.

    Args:
        backend: see `inference.backends`.
        turns: of all that use it.
        is_over: set when nobody waits for the result any more.
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
    """The same model for long work: it lets others ahead before each batch, and raises `Ended` once that is set."""
    return LoadedModel(model.description, _GivingWay(model.backend, turns, is_over), model.source)
