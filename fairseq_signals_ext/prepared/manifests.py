"""Which manifests the recordings of a folder are in."""

from pathlib import Path
from typing import List, Optional

from fairseq_signals_ext.data.manifest import find_manifests, subsets_of
from fairseq_signals_ext.prepared.table import MANIFEST_NAME, TABLE_NAME


def manifests_of(path: Path, subset: Optional[str] = None) -> List[Path]:
    """Manifests of all recordings of a prepared folder or of a split, or the one that is given; none of other folders.

    Args:
        subset: of a split; None: all of them.

    Raises:
        UserError: a subset is not there, or not whole.
    """
    if not path.is_dir():
        return [path]
    if is_prepared(path):
        return [path / MANIFEST_NAME]
    names = subsets_of(path) if subset is None else [subset]
    return [manifest for name in names for manifest in find_manifests(path, name)] if is_split(path) else []


def is_prepared(folder: Path) -> bool:
    """Whether it is a prepared folder."""
    return (folder / MANIFEST_NAME).is_file() and (folder / TABLE_NAME).is_file()


def is_split(folder: Path) -> bool:
    """Whether it is the folder of a split, with a manifest for each subset."""
    return folder.is_dir() and not is_prepared(folder) and bool(subsets_of(folder))
