"""The formats of ECG files, and how the format of a file is recognised by its content.

A format is one object, `Format`, in the module that reads it. Other packages add formats with entry points of the group
`fairseq_signals_ext.formats`.
"""

import functools
import importlib
import logging
import os
import re
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from fairseq_signals_ext.common.errors import UserError, first_line, without_quotes
from fairseq_signals_ext.readers.facts import shown
from fairseq_signals_ext.readers.other_files import what_helps
from fairseq_signals_ext.readers.recording import Recording
from fairseq_signals_ext.readers.wfdb_header import is_record_line

GROUP = "fairseq_signals_ext.formats"

logger = logging.getLogger(__name__)

# our formats in the order in which they are tried: with a magic number, without, texts; tables are last
_OURS = (
    "wfdb:WFDB",
    "arrays:NUMPY",
    "arrays:HDF5",
    "holter:EDF",
    "holter:ISHNE",
    "dicom:DICOM",
    "arrays:MATLAB_7_3",
    "arrays:MATLAB",
    "mfer:MFER",
    "scp:SCP_ECG",
    "arrays:MATLAB_4",
    "dicom:WITHOUT_PREAMBLE",
    "markup:MUSE",
    "markup:PHILIPS",
    "markup:AECG",
    "markup:MORTARA",
    "markup:KARDIA",
)
_LAST = "tables:TABLE"
_HEAD = 8192  # bytes
_XML_HEAD = 1 << 18  # bytes; comments and a document type may precede the root of an XML file
_BLOCK = 1 << 20  # bytes
_BEFORE_TEXT = "\ufeff \t\r\n"
_BEFORE_ROOT = re.compile(r"\s*(?:<!--.*?-->|<\?.*?\?>|<![A-Za-z][^<>\[]*(?:\[[^\]]*\]\s*)?>)", re.DOTALL)
_ROOT = re.compile(r"\s*<(?:[\w.-]+:)?([\w.-]+)")
_NUMBERS = re.compile(r"[\d.eE+\s-]*")


class GivenMetadata(NamedTuple):
    """Metadata that a user gives for a file that lacks them.

    Attributes:
        sample_rate: Hz.
        leads: names of the signals in their order.
        unit: `"mV"`, `"uV"`, `"nV"` or `"V"`.
    """

    sample_rate: Optional[float] = None
    leads: Optional[Sequence[str]] = None
    unit: Optional[str] = None


class Beginning:
    """The beginning of a file, from which formats recognise it; read on first use.

    Attributes:
        path: the file; it need not exist, as a WFDB record may be named without a suffix.
    """

    def __init__(self, path: Union[str, Path]) -> None:
        self.path = path if isinstance(path, Path) else Path(path)  # Path(path) is slow, even for a Path

    @functools.cached_property
    def head(self) -> bytes:
        """The first 8,192 bytes, or all of a smaller file.

        Raises:
            UserError: the file cannot be opened, or is empty.
        """
        head = self._read(_HEAD)
        if not head:
            raise UserError(f"{self.path}: the file is empty; get it again")
        return head

    @functools.cached_property
    def other(self) -> Optional[str]:
        """Kind of the file, with a hint, if it is known to be no ECG; else None."""
        return what_helps(self.path, self.head)

    @functools.cached_property
    def text(self) -> str:
        """Its first characters without byte order mark and spaces; empty if it is known to be no ECG."""
        return "" if self.other else _decoded(self.head).lstrip(_BEFORE_TEXT)

    @functools.cached_property
    def root(self) -> Optional[str]:
        """Name of the root of an XML file without its namespace, empty if it has none; None if it is not XML."""
        if not self.text.startswith("<"):
            return None
        return _root_of(_decoded(self._read(_XML_HEAD)).lstrip(_BEFORE_TEXT))

    @functools.cached_property
    def lines(self) -> List[str]:
        """The lines of `text` that are not empty."""
        return [line for line in self.text.splitlines() if line.strip()]

    @property
    def is_wfdb_header(self) -> bool:
        """Whether it may be the text of a WFDB header, with any name."""
        if self.text.startswith(("<", "{")):
            return False
        first = next((line for line in self.lines if not line.startswith("#")), "")
        return is_record_line(first) and not _NUMBERS.fullmatch(first)

    def contains(self, word: str) -> bool:
        """Return whether a text file contains a word; this may read all of the file."""
        encoding = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}.get(self.head[:2], "utf-8")
        sought, before = word.encode(encoding), b""
        with open(self.path, "rb") as file:
            while block := file.read(_BLOCK):
                if sought in before + block:
                    return True
                before = block[-len(sought) :]
        return False

    def _read(self, size: int) -> bytes:
        if os.path.isdir(self.path):
            raise UserError(f"{self.path}: this is a folder; give one file")
        if not os.path.exists(self.path):
            raise UserError(f"{self.path}: no such file; check the path")
        try:
            with open(self.path, "rb") as file:
                return file.read(size)
        except OSError as error:
            hint = f"cannot be opened ({error.strerror}); check the path and its permissions"
            raise UserError(f"{self.path}: {hint}") from error


def _root_of(text: str) -> str:
    at = 0
    while before := _BEFORE_ROOT.match(text, at):
        at = before.end()
    root = _ROOT.match(text, at)
    return root.group(1) if root else ""


def _decoded(head: bytes) -> str:
    utf_16 = head.startswith((b"\xff\xfe", b"\xfe\xff"))
    return head.decode("utf-16" if utf_16 else "utf-8", errors="replace")


@dataclass(frozen=True)
class Format:
    """A format of ECG files.

    Attributes:
        name: such as `"DICOM"`, for messages and lists.
        suffixes: usual ones, with the point, in lower case; for lists and `belonging`. They do not decide the format.
        sniff: (beginning of a file) -> whether it is of this format; must be fast, as it is called for all files.
        read: (file, metadata from the user) -> its ECGs in order; a long sequence may read each ECG on access. Raises a
            `UserError` if the file is damaged or doubtful, or if metadata is missing or differs from the file's.
            `facts.rows_of_leads` puts the leads in order.
        called: name in lists, if `name` alone is not clear.
        one_person: whether several ECGs of a file are of one person if it contains no patient.
        belonging: (file) -> files that belong to it and are no ECGs themselves, such as its table; only for files with
            one of the suffixes.
        largest: (file) -> size of its largest array as claimed, without reading the values.
        imports: modules that reading imports, so that worker processes can import them first.
    """

    name: str
    suffixes: Tuple[str, ...]
    sniff: Callable[[Beginning], bool]
    read: Callable[[Path, GivenMetadata], Sequence[Recording]]
    called: str = ""
    one_person: bool = True
    belonging: Optional[Callable[[Path], Iterable[Path]]] = None
    largest: Optional[Callable[[Path], int]] = None
    imports: Tuple[str, ...] = ()


def starts_with(mark: bytes) -> Callable[[Beginning], bool]:
    """Return a `Format.sniff` that checks whether a file begins with these bytes."""
    return lambda beginning: beginning.head.startswith(mark)


def format_of(path: Union[str, Path]) -> Format:
    """Return the format of a file, recognised by its content; WFDB records are recognised by their header file.

    Any text with separators or numbers counts as a table; reading its header shows whether it is an ECG. Formats of
    other packages are tried after ours, but before tables.

    Raises:
        UserError: the file is empty, cannot be opened, or its format is not supported.
    """
    beginning = Beginning(path)
    for one in _in_order():
        if one.sniff(beginning):
            return one
    raise UserError(f"{path}: {_refusal(beginning)}")


def _in_order() -> Iterator[Format]:
    yield from map(_object, _OURS)  # imports each module only when it is needed
    yield from _of_others()
    yield _object(_LAST)


@functools.lru_cache(maxsize=None)
def our_formats() -> Tuple[Format, ...]:
    """Return the formats of this package in the order in which they are tried, without tables."""
    return tuple(map(_object, _OURS))


@functools.lru_cache(maxsize=None)
def _object(place: str) -> Format:
    module, name = place.split(":")
    found: Format = getattr(importlib.import_module(f"fairseq_signals_ext.readers.{module}"), name)
    return found


def all_formats() -> List[Format]:
    """Return all formats, also of other packages, in the order in which they are tried; one per name."""
    found: Dict[str, Format] = {}
    for one in _in_order():
        found.setdefault(one.name, one)
    return list(found.values())


def supported() -> str:
    """Return the names of all formats as text, such as `DICOM, EDF or a table`."""
    *formats, table = all_formats()
    names = [one.called or one.name for one in sorted(formats, key=lambda one: one.name.casefold())]
    return f"{', '.join(names)} or {table.called}"


def belonging_to_files(names: Iterable[str], folder: Path) -> Iterator[Path]:
    """Yield files that belong to other files and are no ECGs themselves; the suffix selects the format.

    Args:
        names: of files, relative to `folder`.
        folder: folder of the files.
    """
    known = [(one.suffixes, one.belonging) for one in all_formats() if one.belonging is not None]
    for name in names:
        for suffixes, belonging in known:
            if name.endswith(suffixes):
                yield from belonging(folder / name)


def _refusal(beginning: Beginning) -> str:
    """Return the message for a file of an unsupported format."""
    if beginning.other is not None:
        return beginning.other
    if beginning.root is not None:
        kind = shown(beginning.root, 40)
        what = f"XML of the kind <{kind}>" if kind else "XML without a root element"
        return f"{what} is not supported; give {supported()}"
    if beginning.is_wfdb_header:
        return "this is a WFDB header; give it the suffix .hea, with its signal file beside it"
    return f"this kind of file is not supported; give {supported()}"


@functools.lru_cache(maxsize=None)
def _of_others() -> Tuple[Format, ...]:
    from fairseq_signals_ext.common.plugins import from_others  # slow import (some ms)

    return tuple(_guarded(package, one) for package, one in from_others(GROUP, Format))


def _guarded(package: str, one: Format) -> Format:
    """Return a format of another package that turns any unexpected error into a `UserError` for the file."""

    def sniff(beginning: Beginning) -> bool:
        try:
            return bool(one.sniff(beginning))
        except UserError:
            raise
        except Exception as error:  # another package may raise anything
            _warn_once(package, one.name, type(error).__name__)
            return False

    def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Path, *more: Any) -> Any:
            try:
                found = function(path, *more)
                return found if isinstance(found, (Integral, Sequence)) else list(found)
            except (ImportError, MemoryError, UserError):
                raise
            except Exception as error:
                reason = shown(without_quotes(first_line(error)))
                hint = f"{package} cannot read it as {one.name} ({reason}); ask its authors"
                raise UserError(f"{path}: {hint}") from error

        return call

    further = {name: getattr(one, name) for name in ("read", "belonging", "largest")}
    known: Dict[str, Any] = {name: guarded(function) for name, function in further.items() if function is not None}
    return replace(one, sniff=sniff, **known)


@functools.lru_cache(maxsize=None)
def _warn_once(package: str, name: str, error: str) -> None:
    logger.warning("%s: cannot check whether a file is %s (%s); update or remove that package", package, name, error)
