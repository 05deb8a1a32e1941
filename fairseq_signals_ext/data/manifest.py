"""Read manifests, the lists of a split's recordings. There are three kinds of tab-separated text:

* ours: the root, then `shards/00000.npy<TAB>row<TAB>samples`, one line per recording in a shard;
* ECG-FM's: the root, then `path<TAB>samples`, one line per `.mat` file;
* ECG-FM's for CMSC: the root, the extension, then `name<TAB>samples<TAB>lead<TAB>0,1`, one line for the files
  `name_0.mat` and `name_1.mat`, adjacent segments of one recording.

A relative root starts at the manifest's folder.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Sequence, Tuple, Union

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.hints import command_line, did_you_mean
from fairseq_signals_ext.data.checksums import check

_SHARD_LINE = re.compile(r"[^\t]+\.npy\t\d{1,9}\t\d{1,9}")
_FILE_LINE = re.compile(r"[^\t]+\t\d{1,9}")
_NUMBER = re.compile(r"[-+]?\d*\.?\d*([eE][-+]?\d+)?")
_PIECE = re.compile(r"-\d+-of-\d+$")
_LONGEST_LINE = 2**16
_CMSC_LINE = re.compile(r"[^\t]+\t\d{1,9}\t\d+\t\d+(,\d+)*")


@dataclass(frozen=True)
class ShardManifest:
    """Recordings in shards.

    Attributes:
        shards: paths of the shards that occur.
        shard: int32, a recording's position in `shards`.
        row: int32, its row in that shard's index.
        samples: int32, its samples per lead.
    """

    shards: Tuple[Path, ...]
    shard: np.ndarray
    row: np.ndarray
    samples: np.ndarray


@dataclass(frozen=True)
class FileManifest:
    """Recordings in `.mat` files of ECG-FM.

    Attributes:
        files: for each recording its files; their signals are consecutive in time.
        samples: int32, samples per lead of all files of a recording together.
    """

    files: Tuple[Tuple[Path, ...], ...]
    samples: np.ndarray


Manifest = Union[ShardManifest, FileManifest]


def find_manifests(data: Union[str, Path], split: str) -> List[Path]:
    """Return `data/split.tsv`, or all of `data/split-00000-of-000NN.tsv` in order.

    Raises:
        UserError: there is none, or a piece of the set is missing.
    """
    folder = Path(data)
    single = folder / f"{split}.tsv"
    if single.is_file():
        return [single]
    pieces = sorted(folder.glob(f"{split}-*-of-*.tsv"))
    if not pieces:
        raise UserError(f"{single}: no such manifest {_how_to_get_manifests(folder, split)}")
    count = re.sub(r".*-of-(\d+)$", r"\1", pieces[0].stem)
    wanted = [folder / f"{split}-{number:05d}-of-{count}.tsv" for number in range(int(count))]
    missing = [path for path in wanted if path not in pieces]
    if missing or len(pieces) != len(wanted):
        named = missing[0] if missing else next(path for path in pieces if path not in wanted)
        found = f"the set of {len(wanted)} manifests is not whole ({len(pieces)} found)"
        raise UserError(f"{named}: {found}; copy them all")
    return pieces


def _how_to_get_manifests(folder: Path, split: str) -> str:
    """Return the content of a folder that lacks the manifest of a subset, with a hint."""
    splits = sorted(path.parent.name for path in folder.glob("splits/*/*.tsv"))
    if splits:
        named = ", ".join(dict.fromkeys(splits))
        return f"(this is a prepared folder, with the splits {named}); give the folder {folder / 'splits' / splits[0]}"
    if (folder / "all.tsv").is_file():
        command = command_line("split", folder, "--name", "main")
        return f"(this is a prepared folder without splits); make one: {command}"
    if any(folder.glob("fold-*/*.tsv")):
        return f"(this is a split into folds); give one of them, such as {folder / 'fold-0'}"
    names = sorted(path.stem for path in folder.glob("*.tsv"))
    present = ", ".join(f"{name}.tsv" for name in names[:8]) or "none"
    how = "give a folder with manifests, which fairseq-signals-ext prepare and split make"
    return f"(manifests in this folder: {present}); {did_you_mean(split, names, how)}"


def is_manifest(path: Path) -> bool:
    """Return whether the content of a file is a manifest, as a tab-separated ECG may be a `.tsv` as well."""
    try:
        with open(path, "rb") as file:
            lines = [file.readline(_LONGEST_LINE).rstrip(b"\r\n").decode("utf-8") for _ in range(3)]
    except (OSError, UnicodeDecodeError):
        return False
    root, first, second = lines
    if not root or "\t" in root:
        return False
    if _SHARD_LINE.fullmatch(first):
        return True
    # two numbers are a row of an ECG, not a line of a manifest
    is_file = _FILE_LINE.fullmatch(first) and not _NUMBER.fullmatch(first.split("\t")[0].strip())
    return bool(is_file or ("\t" not in first and _CMSC_LINE.fullmatch(second)))


def subsets_of(folder: Path) -> List[str]:
    """Return the subsets of a split's folder, such as train, valid and test; none for other folders.

    Parts of the training set, such as `train_10`, are left out if there is a complete training set.
    """
    found = (path for path in sorted(folder.glob("*.tsv")) if is_manifest(path))
    names = list(dict.fromkeys(_PIECE.sub("", path.stem) for path in found))
    return [name for name in names if "train" not in names or not name.startswith("train_")]


def read_manifests(paths: Sequence[Path]) -> Manifest:
    """Read the manifests of one split, which must be of one kind.

    Raises:
        UserError: a file is changed, empty or malformed (with the line's number), or kinds are mixed.
    """
    manifests = [_read_manifest(path) for path in paths]
    if len(manifests) == 1:
        return manifests[0]
    of_files = [manifest for manifest in manifests if isinstance(manifest, FileManifest)]
    of_shards = [manifest for manifest in manifests if isinstance(manifest, ShardManifest)]
    if of_files and of_shards:
        raise UserError(f"{paths[0].parent}: manifests of one split are of different kinds; prepare them again")
    if of_shards:
        return _join_shard_manifests(of_shards)
    files = tuple(files for manifest in of_files for files in manifest.files)
    return FileManifest(files, np.concatenate([manifest.samples for manifest in of_files]))


def _join_shard_manifests(manifests: Sequence[ShardManifest]) -> ShardManifest:
    position: Dict[Path, int] = {}
    for manifest in manifests:
        for shard in manifest.shards:
            position.setdefault(shard, len(position))
    renumbered = [
        np.array([position[shard] for shard in manifest.shards], np.int32)[manifest.shard] for manifest in manifests
    ]
    return ShardManifest(
        tuple(position),
        np.concatenate(renumbered),
        np.concatenate([manifest.row for manifest in manifests]),
        np.concatenate([manifest.samples for manifest in manifests]),
    )


def _read_manifest(path: Path) -> Manifest:
    check(path)
    try:
        with open(path, encoding="utf-8") as file:
            root = file.readline().rstrip("\r\n")
            first = file.readline().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read ({error.reason}, so it is not text); prepare the data again") from None
    if not root or not first:
        raise UserError(f"{path}: the manifest is empty; prepare the data again, or check the split's fractions")
    folder = path.parent / root
    columns = first.count("\t") + 1
    if columns == 3:
        return _read_shard_lines(path, folder)
    if columns == 2:
        lines = _checked_lines(path, _FILE_LINE, skip=1)
        files = tuple((folder / name,) for name, _ in lines)
        return FileManifest(files, np.array([samples for _, samples in lines], np.int32))
    if columns == 1:
        return _read_cmsc_lines(path, folder, extension=first)
    raise UserError(f"{path}: line 2: {columns} columns; a manifest has 'shard, row, samples' or 'path, samples'")


def _read_shard_lines(path: Path, folder: Path) -> ShardManifest:
    import pandas as pd

    try:
        table = pd.read_csv(
            path,
            sep="\t",
            skiprows=1,
            names=["shard", "row", "samples"],
            dtype={"shard": "category", "row": np.int64, "samples": np.int64},  # int32 would overflow silently
            index_col=False,
            quoting=3,
            skip_blank_lines=False,
        )
        numbers = table[["row", "samples"]]
        well_formed = numbers.min().min() >= 0 and numbers.max().max() < 2**31 and table["shard"].notna().all()
    except (ValueError, OverflowError):  # pandas' parser errors are ValueErrors
        well_formed = False
    if not well_formed:
        _checked_lines(path, _SHARD_LINE, skip=1)
        raise UserError(f"{path}: a row or a number of samples is not a 32-bit number; prepare the data again")
    shards = tuple(folder / name for name in table["shard"].cat.categories)
    codes = table["shard"].cat.codes.to_numpy(np.int32)
    return ShardManifest(shards, codes, table["row"].to_numpy(np.int32), table["samples"].to_numpy(np.int32))


def _read_cmsc_lines(path: Path, folder: Path, extension: str) -> FileManifest:
    files, totals = [], []
    for name, samples, _, segments in _checked_lines(path, _CMSC_LINE, skip=2):
        numbers = segments.split(",")
        files.append(tuple(folder / f"{name}_{number}.{extension}" for number in numbers))
        totals.append(int(samples) * len(numbers))
    return FileManifest(tuple(files), np.array(totals, np.int32))


def _checked_lines(path: Path, pattern: "re.Pattern[str]", skip: int) -> List[List[str]]:
    lines = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            text = line.rstrip("\r\n")
            if number > skip:
                if not pattern.fullmatch(text):
                    raise UserError(f"{path}: line {number} is malformed: {text[:80]!r}; fix it or prepare again")
                lines.append(text.split("\t"))
    if not lines:
        raise UserError(f"{path}: the manifest is empty; prepare the data again, or check the split's fractions")
    return lines
