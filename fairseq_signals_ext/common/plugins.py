"""Find objects that other installed packages announce through entry points.

Packages announce file formats (`fairseq_signals_ext.formats`), kinds of source (`fairseq_signals_ext.sources`), and
modules with objectives, kinds of task and encoders (`fairseq_signals_ext.training`). A checkpoint never causes an
import: only packages that the user installed, or named as `--user-dir`, are imported.
"""

import functools
import logging
from importlib import metadata
from typing import Any, Iterator, List, Set, Tuple, Type, TypeVar

from fairseq_signals_ext.common.errors import first_line

logger = logging.getLogger(__name__)

TRAINING = "fairseq_signals_ext.training"  # a group of entry points, which name modules

Kind = TypeVar("Kind")


def from_others(group: str, kind: Type[Kind]) -> List[Tuple[str, Kind]]:
    """Return the objects that installed packages announce in a group, each with the name of its package.

    An object that cannot be imported, or is of another kind, is left out with a warning of one line. The search takes
    some 10 ms, plus the imports, so it should be the last resort.

    Args:
        group: of entry points, such as `fairseq_signals_ext.formats`.
        kind: class of the objects.

    Returns:
        Pairs in the order of their names.
    """
    found: List[Tuple[str, Kind]] = []
    for package, name, announced in _loaded(group):
        if isinstance(announced, kind):
            found.append((package, announced))
        else:
            _warn(group, package, name, f"is not a {kind.__name__}")
    return found


@functools.lru_cache(maxsize=1)
def import_installed() -> None:
    """Import the modules of packages that register something for training, once."""
    for _ in _loaded(TRAINING):
        pass


def _loaded(group: str) -> Iterator[Tuple[str, str, Any]]:
    """Return name of the package, name of the entry point, and its object, in the order of the names."""
    for package, point in sorted(_points(group), key=lambda pair: (pair[1].name, pair[0])):
        try:
            yield package, point.name, point.load()
        except Exception as error:  # importing a package may raise anything
            _warn(group, package, point.name, f"cannot be imported ({type(error).__name__}: {first_line(error)})")


def _points(group: str) -> Iterator[Tuple[str, metadata.EntryPoint]]:
    """Return the entry points of a group with the names of their packages; the first one if a package occurs twice."""
    seen: Set[Tuple[str, str]] = set()
    for package in metadata.distributions():
        points = [point for point in package.entry_points if point.group == group]
        for point in points:
            name = _name(package, point)
            if (name, point.name) not in seen:
                seen.add((name, point.name))
                yield name, point


def _name(package: metadata.Distribution, point: metadata.EntryPoint) -> str:
    """Return a package's name, or the name of its module if it has none."""
    try:
        name = package.metadata["Name"]
    except Exception:  # a damaged package may raise anything
        name = None
    return name or point.value.split(":")[0].split(".")[0]


def _warn(group: str, package: str, name: str, reason: str) -> None:
    logger.warning("%s: %s: %r %s; update or remove that package", package, group, name, reason)
