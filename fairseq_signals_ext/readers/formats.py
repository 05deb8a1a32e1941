"""The formats of ECG files: what each is, and which of them a file is, recognised by its content.

A format is one object, `Format`, in the module that reads it. Formats of other people's packages are found through
entry points of the group `fairseq_signals_ext.formats`.
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

# our formats in the order in which they are tried: those with a mark, those without, texts; tables are last
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
_XML_HEAD = 1 << 18  # bytes; comments and a document type may stand before the root of an XML file
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
    """The beginning of a file, from which formats recognise it; nothing is read before it is asked for.

    Attributes:
        path: the file, which need not be there: a WFDB record may be named without a suffix.
    """

    def __init__(self, path: Union[str, Path]) -> None:
        self.path = path if isinstance(path, Path) else Path(path)  # which takes long, also of a path

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
        """What the file is, if it is known to be something else than an ECG, and what helps."""
        return what_helps(self.path, self.head)

    @functools.cached_property
    def text(self) -> str:
        """Its first characters without a byte order mark and space; empty if it is known to be something else."""
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
        """Whether a word stands anywhere in a text file; all of it may have to be read."""
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
        name: such as `"DICOM"`; messages and lists contain it.
        suffixes: usual ones, with the point, in lower case. A file is recognised by its content, so they serve lists,
            and finding what belongs to a file.
        sniff: whether a file is of this format, from its beginning; cheap, as it is asked for all files.
        read: (file, what the user gives for it) -> its ECGs in their order; one that is read when it is asked for may
            stand in a sequence of many. Raises a `UserError` if the file is damaged or doubtful, or something has to
            be said or differs from what the file contains. Lead names are put in order by `facts.rows_of_leads`.
        called: how lists name it, where its name alone is not clear.
        one_person: whether several ECGs of a file are of one person where it does not say who that is.
        belonging: (file) -> files that belong to it and are no ECGs of their own, such as its table; only for files
            with one of the suffixes.
        largest: (file) -> the most values that an array in it claims, without reading them.
        imports: modules that reading imports, for processes that are to be ready.
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
    """A `Format.sniff`: whether a file begins with these bytes."""
    return lambda beginning: beginning.head.startswith(mark)


def format_of(path: Union[str, Path]) -> Format:
    """The format of a file, recognised by its content; of a WFDB record by the header that is there.

    A table is only recognised as text with separators or numbers: its header decides whether it is an ECG. Other
    people's formats are asked before it, and after all others.

    Raises:
        UserError: the file is empty, cannot be opened, or is of no supported kind.
    """
    beginning = Beginning(path)
    for one in _in_order():
        if one.sniff(beginning):
            return one
    raise UserError(f"{path}: {_refusal(beginning)}")


def _in_order() -> Iterator[Format]:
    yield from map(_object, _OURS)  # whose modules are imported when their turn comes
    yield from _of_others()
    yield _object(_LAST)


@functools.lru_cache(maxsize=None)
def our_formats() -> Tuple[Format, ...]:
    """The formats that this package reads, in the order in which they are asked, without the table."""
    return tuple(map(_object, _OURS))


@functools.lru_cache(maxsize=None)
def _object(place: str) -> Format:
    module, name = place.split(":")
    found: Format = getattr(importlib.import_module(f"fairseq_signals_ext.readers.{module}"), name)
    return found


def all_formats() -> List[Format]:
    """All formats, ours and other people's, in the order in which they are asked; of a name the first."""
    found: Dict[str, Format] = {}
    for one in _in_order():
        found.setdefault(one.name, one)
    return list(found.values())


def supported() -> str:
    """The formats in words, by their names, such as `DICOM, EDF or a table`."""
    *formats, table = all_formats()
    names = [one.called or one.name for one in sorted(formats, key=lambda one: one.name.casefold())]
    return f"{', '.join(names)} or {table.called}"


def belonging_to_files(names: Iterable[str], folder: Path) -> Iterator[Path]:
    """Files that belong to others, which their formats know by their suffix, and are no ECGs of their own.

    Args:
        names: of files.
        folder: that they are below.
    """
    known = [(one.suffixes, one.belonging) for one in all_formats() if one.belonging is not None]
    for name in names:
        for suffixes, belonging in known:
            if name.endswith(suffixes):
                yield from belonging(folder / name)


def _refusal(beginning: Beginning) -> str:
    """What to say of a file that no format takes."""
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
    from fairseq_signals_ext.common.plugins import from_others  # which takes some ms, so only where it is needed

    return tuple(_guarded(package, one) for package, one in from_others(GROUP, Format))


def _guarded(package: str, one: Format) -> Format:
    """A format of another package, of which an error that it does not foresee is that of one file."""

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
