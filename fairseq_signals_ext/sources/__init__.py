"""Collections of recordings: their files, and the metadata in their tables.

A kind of source is a module here with an object `KIND`, or an object of another package, announced as an entry point of
the group `fairseq_signals_ext.sources`.
"""

import functools
import importlib
import pkgutil
from pathlib import Path
from typing import Dict, Iterator, Optional, Union

from fairseq_signals_ext.common.errors import UserError, first_line, without_quotes
from fairseq_signals_ext.sources.source import READING, TABLE, Item, Source, SourceKind, SourceOptions

__all__ = ["Item", "Kinds", "Source", "SourceKind", "SourceOptions", "find_kind", "open_source", "our_kinds"]

GROUP = "fairseq_signals_ext.sources"


@functools.lru_cache(maxsize=None)
def our_kinds() -> Dict[str, SourceKind]:
    """Return the kinds of this package by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = (importlib.import_module(f"{__name__}.{name}") for name in names)
    kinds = (getattr(module, "KIND", None) for module in modules)
    return {kind.name: kind for kind in kinds if kind is not None}


@functools.lru_cache(maxsize=None)
def _of_others() -> Dict[str, "tuple[str, SourceKind]"]:
    """Return name -> (package, kind) for kinds of other packages; names of our kinds are left out."""
    from fairseq_signals_ext.common.plugins import from_others  # slow import (some ms)

    found = from_others(GROUP, SourceKind)
    return {kind.name: (package, kind) for package, kind in reversed(found) if kind.name not in our_kinds()}


class Kinds:
    """Names of all kinds; other packages are searched only for a name that is not ours."""

    def __contains__(self, name: object) -> bool:
        return name in our_kinds() or name in _of_others()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted([*our_kinds(), *_of_others()]))


def find_kind(name: str) -> SourceKind:
    """Return the kind of source with this name.

    Raises:
        UserError: there is none.
    """
    if name not in Kinds():
        raise UserError(f"{name}: no such kind of source; use one of {', '.join(Kinds())}")
    return our_kinds()[name] if name in our_kinds() else _of_others()[name][1]


def open_source(kind: str, folder: Union[str, Path], options: Optional[SourceOptions] = None) -> Source:
    """Return the recordings of a folder in the order of their numbers; only tables and file names are read.

    Args:
        kind: name of the kind, one of `Kinds()`.
        folder: folder of the collection.
        options: see `SourceOptions`.

    Raises:
        UserError: the kind or folder does not exist, the kind does not take an option, a table is missing or wrong, or
            there are no recordings.
    """
    found = find_kind(kind)
    if Path(folder).is_file():
        raise UserError(f"{folder}: is a file; give the folder that it is in")
    if not Path(folder).is_dir():
        raise UserError(f"{folder}: no such folder; give the folder with the recordings")
    options = options or SourceOptions()
    if options.table is not None and TABLE not in found.takes:
        raise UserError(f"{options.table}: {kind} has tables of its own; leave this one out, or prepare it as 'files'")
    if any(getattr(options, name) is not None for name in READING if name not in found.takes):
        raise UserError(f"{folder}: the files of {kind} contain their rate, unit and leads; leave these out")
    if kind in our_kinds():
        return found.open(Path(folder), options)
    try:
        return found.open(Path(folder), options)
    except (ImportError, UserError):
        raise
    except Exception as error:  # another package may raise anything
        package, reason = _of_others()[kind][0], f"{type(error).__name__}: {without_quotes(first_line(error))}"
        raise UserError(f"{folder}: {package} cannot open it as {kind} ({reason}); ask its authors") from error
