"""Readers that fail in all possible ways; the name of the upload chooses the way."""

import ctypes
import errno
import os
import signal
import time
from pathlib import Path

from fairseq_signals_ext.serving.reading import read_short_upload, read_upload


class _Unpicklable(Exception):
    def __init__(self):
        super().__init__("secret")
        self.function = lambda: None


def _loop():
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    while True:
        pass


def _eat():
    eaten = []
    while True:
        eaten.append(bytearray(20_000_000))


def _recurse():
    return _recurse()


def _raise(error):
    raise error


WAYS = {
    "loops": _loop,
    "sleeps": lambda: time.sleep(3600),
    "eats": _eat,
    "aborts": os.abort,
    "exits": lambda: os._exit(0),
    "crashes": lambda: ctypes.string_at(0),
    "recurses": _recurse,
    "strange": lambda: _raise(_Unpicklable()),
    "index": lambda: _raise(IndexError("list index out of range")),
    "overflow": lambda: _raise(OverflowError("cannot convert float infinity to integer")),
    "full": lambda: _raise(OSError(errno.ENOSPC, "No space left on device")),
    "thread": lambda: _raise(RuntimeError("can't start new thread")),
}


def _go_wrong(upload):
    WAYS.get(Path(upload.name).stem, lambda: None)()


def read_short(upload, limits, sample_rate):
    """As the service's own, for uploads that are called otherwise."""
    _go_wrong(upload)
    return read_short_upload(upload, limits, sample_rate)


def read(upload, limits, sample_rate):
    """The same."""
    _go_wrong(upload)
    return read_upload(upload, limits, sample_rate)
