"""Find the manifests of a folder."""

from pathlib import Path
from typing import List, Optional

from fairseq_signals_ext.data.manifest import find_manifests, subsets_of
from fairseq_signals_ext.prepared.table import MANIFEST_NAME, TABLE_NAME


def manifests_of(path: Path, subset: Optional[str] = None) -> List[Path]:
    """Return the manifests of a prepared folder or a split, or the given manifest; none for other folders.

    Args:
        subset: of a split; None: all of them.

    Raises:
        UserError: a subset is missing or incomplete.
    """
    if not path.is_dir():
        return [path]
    if is_prepared(path):
        return [path / MANIFEST_NAME]
    names = subsets_of(path) if subset is None else [subset]
    return [manifest for name in names for manifest in find_manifests(path, name)] if is_split(path) else []


def is_prepared(folder: Path) -> bool:
    """Return whether it is a prepared folder."""
    return (folder / MANIFEST_NAME).is_file() and (folder / TABLE_NAME).is_file()


def is_split(folder: Path) -> bool:
    """Return whether it is the folder of a split, with a manifest for each subset."""
    return folder.is_dir() and not is_prepared(folder) and bool(subsets_of(folder))
