"""Check manifests and splits against the table of a prepared folder."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.data.checksums import check
from fairseq_signals_ext.data.manifest import FileManifest, ShardManifest, find_manifests, read_manifests
from fairseq_signals_ext.prepared.split_settings import SUBSETS
from fairseq_signals_ext.prepared.verify_shards import WRITE_TABLE_AGAIN

if TYPE_CHECKING:
    import pandas as pd

# columns of the table that the checks here need
MANIFEST_COLUMNS = ("idx", "source_file", "patient", "patient_key", "duplicate_of", "shard", "row", "samples")
_PIECE = re.compile(r"-\d+-of-\d+$")
# strategies that may divide a patient's recordings on purpose
_STRATEGIES_THAT_SHARE = ("random", "time")
_SPLIT_AGAIN = "make the split again with fairseq-signals-ext split --overwrite"
_UNKNOWN_SETTINGS: Dict[str, Any] = {"by": None, "shared": False, "sizes": {}}


class Checked(NamedTuple):
    """Problems, notes, and the number of checked files."""

    problems: List[str]
    notes: List[str]
    files: int


class _Recordings:
    """The table with an index for looking up manifest lines; a recording is a position in the table."""

    def __init__(self, out: Path, table: "pd.DataFrame"):
        import pandas as pd

        codes, shards = pd.factorize(table["shard"])
        self._number = {(out / shard).resolve(): number for number, shard in enumerate(shards)}
        self._keys = codes.astype(np.int64) << 32 | table["row"].to_numpy(np.int64)
        self._order = np.argsort(self._keys, kind="stable")
        self.table = table
        self.patient = pd.factorize(table["patient_key"].where(table["patient"].notna()))[0]  # -1: unknown
        self.content = pd.factorize(table["duplicate_of"].fillna(table["idx"]).astype("int64"))[0]

    def __len__(self) -> int:
        return len(self.table)

    def positions(self, manifest: ShardManifest) -> np.ndarray:
        """Return the position of each line's recording; -1 if there is none, -2 if the shard is unknown."""
        number = np.array([self._number.get(shard.resolve(), -1) for shard in manifest.shards], np.int64)
        shard = number[manifest.shard]
        keys = shard << 32 | manifest.row
        at = self._order[np.minimum(np.searchsorted(self._keys, keys, sorter=self._order), len(self) - 1)]
        return np.where(shard < 0, -2, np.where(self._keys[at] == keys, at, -1))

    def name(self, position: int) -> str:
        row = self.table.iloc[int(position)]
        return f"item {row['source_file']!r} (idx {row['idx']})"


def check_manifests(out: Path, table: "pd.DataFrame") -> Checked:
    """Check `all.tsv` and all manifests below `splits`.

    Every line must name a recording of the table with its samples, and no manifest may have one twice. In a split no
    recording, content or patient may be in two of train (with its subsets), valid and test; if `split.json` allows
    shared patients, they are only noted.

    Args:
        out: prepared folder.
        table: the whole table, with `MANIFEST_COLUMNS`.
    """
    recordings = _Recordings(out, table)
    if not (out / "all.tsv").is_file():
        checked = Checked([f"{out / 'all.tsv'}: no such file; {WRITE_TABLE_AGAIN}"], [], 0)
    else:
        checked, members = _check_subset(out, "all", recordings, WRITE_TABLE_AGAIN)
        listed = np.zeros(len(recordings), bool)
        listed[members] = True
        if not (listed.all() or checked.problems):
            more, name = int((~listed).sum()) - 1, recordings.name(int(np.argmin(listed)))
            checked.problems.append(f"{out / 'all.tsv'}: {name} and {more} more are not in it; {WRITE_TABLE_AGAIN}")
    for folder, names in _subsets(out / "splits").items():
        checked = _joined(checked, _check_folder(folder, names, _split_json(folder, out / "splits"), recordings))
    return checked


def _check_folder(
    folder: Path, names: Sequence[str], split: Optional[Dict[str, Any]], recordings: _Recordings
) -> Checked:
    """Return the problems of a folder with manifests; `split` as from `_split_json`."""
    checked, subsets = Checked([], [], 0), {}
    sizes = dict(split["sizes"]) if split else {}
    for name in names:
        found, subsets[name] = _check_subset(folder, name, recordings, _SPLIT_AGAIN)
        checked = _joined(checked, found)
        if found.problems:
            sizes.pop(name, None)
    if split is None:
        checked.problems.append(f"{folder}: its split.json cannot be read; {_SPLIT_AGAIN}")
    for name, size in sorted(sizes.items()):
        listed = len(subsets.get(name, ()))
        if listed != size:
            text = f"has {listed} recordings, but split.json has {size}"
            checked.problems.append(f"{folder / name}.tsv: {text}; {_SPLIT_AGAIN}")
    checked.notes.extend(_note_on_missing(folder, subsets, recordings))
    may_share_patients = split is not None and (split["shared"] or split["by"] in _STRATEGIES_THAT_SHARE)
    return _joined(checked, _check_apart(folder, subsets, recordings, may_share_patients))


def _note_on_missing(folder: Path, subsets: Dict[str, np.ndarray], recordings: _Recordings) -> List[str]:
    members = [found for name, found in subsets.items() if name in SUBSETS]
    missing = len(recordings) - len(np.unique(np.concatenate([np.zeros(0, np.int64), *members])))
    if not missing or not any(map(len, members)):
        return []
    why = "left out when it was made, or prepared later"
    return [f"{folder}: {missing} of {len(recordings)} recordings are in none of its subsets ({why})"]


def _joined(one: Checked, other: Checked) -> Checked:
    return Checked(one.problems + other.problems, one.notes + other.notes, one.files + other.files)


def _subsets(splits: Path) -> Dict[Path, List[str]]:
    """Return the names of the manifests by folder, without unfinished folders; pieces of one manifest count as one."""
    found: Dict[Path, List[str]] = {}
    for path in sorted(splits.rglob("*.tsv")):
        name = _PIECE.sub("", path.stem)
        hidden = any(part.startswith(".") for part in path.relative_to(splits).parts)
        if not hidden and name not in found.setdefault(path.parent, []):
            found[path.parent].append(name)
    return found


def _check_subset(folder: Path, name: str, recordings: _Recordings, hint: str) -> Tuple[Checked, np.ndarray]:
    """Return the problems of a manifest (or of its pieces), and the positions of its recordings."""
    checked, members = Checked([], [], 0), []
    try:
        for path in find_manifests(folder, name):
            found, positions = _check_manifest(path, recordings, hint)
            checked = _joined(checked, found)
            members.append(positions)
    except UserError as error:
        checked.problems.append(str(error))
    except (OSError, ValueError) as error:
        checked.problems.append(f"{folder / name}.tsv: cannot be read ({error}); {hint}")
    joined = np.concatenate([np.zeros(0, np.int64), *members])
    unique, times = np.unique(joined, return_counts=True)
    if (times > 1).any():
        twice = recordings.name(unique[np.argmax(times > 1)])
        checked.problems.append(f"{folder / name}.tsv: {twice} is listed {times.max()} times; {hint}")
    return checked, unique


def _check_manifest(path: Path, recordings: _Recordings, hint: str) -> Tuple[Checked, np.ndarray]:
    manifest = read_manifests([path])
    if isinstance(manifest, FileManifest):
        return Checked([], [f"{path}: lists .mat files; what they hold was not checked"], 1), np.zeros(0, np.int64)
    positions = recordings.positions(manifest)
    known = positions >= 0
    samples = np.where(known, recordings.table["samples"].to_numpy()[positions], manifest.samples)
    problems: List[str] = []

    def add(wrong: np.ndarray, what: Callable[[int], str]) -> None:
        if wrong.any():
            first, more = int(np.argmax(wrong)), int(wrong.sum()) - 1
            also = f" (and {more} more such lines)" if more else ""
            problems.append(f"{path}: line {first + 2}: {what(first)}{also}; {hint}")

    add(positions == -2, lambda line: f"{manifest.shards[manifest.shard[line]].name} is not a shard of this folder")
    add(positions == -1, lambda line: f"row {manifest.row[line]} of its shard is not a recording of the table")
    add(
        samples != manifest.samples,
        lambda line: f"{recordings.name(positions[line])} has {samples[line]} samples, not {manifest.samples[line]}",
    )
    return Checked(problems, [], 1), positions[known]


def _split_json(folder: Path, splits: Path) -> Optional[Dict[str, Any]]:
    """Return settings of a split from `split.json`: `by`, `shared`, `sizes` of its subsets.

    The file of a fold is in the parent folder. None if it cannot be read; empty if its checksum differs, which is
    reported separately.
    """
    path = next((above / "split.json" for above in (folder, folder.parent) if (above / "split.json").is_file()), None)
    if path is None or splits not in path.parents:
        return dict(_UNKNOWN_SETTINGS)
    try:
        check(path)
    except UserError:
        return dict(_UNKNOWN_SETTINGS)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        below = "" if path.parent == folder else f"{folder.name}/"
        names = {name[len(below) :]: counts for name, counts in found["subsets"].items() if name.startswith(below)}
        sizes = {name: int(counts["recordings"]) for name, counts in names.items() if "/" not in name}
        return {"by": found["by"], "shared": bool(found["settings"].get("allow_shared_patients")), "sizes": sizes}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _check_apart(
    folder: Path, subsets: Dict[str, np.ndarray], recordings: _Recordings, may_share_patients: bool
) -> Checked:
    """Check that train, valid and test of one folder share nothing; `train_10` counts as train."""
    checked = Checked([], [], 0)
    part = np.full(len(recordings), -1)
    for number, subset in enumerate(SUBSETS):
        members = [found for name, found in subsets.items() if name == subset or name.startswith(f"{subset}_")]
        rows = np.unique(np.concatenate([np.zeros(0, np.int64), *members]))
        both = rows[part[rows] >= 0]
        if len(both):
            where, more = f"in {SUBSETS[part[both[0]]]} and in {subset}", len(both) - 1
            text = f"{folder}: {recordings.name(both[0])} is {where} (and {more} more); {_SPLIT_AGAIN}"
            checked.problems.append(text)
        part[rows] = number
    for what, group in (("content", recordings.content), ("patient", recordings.patient)):
        shared = _shared(group, part)
        if len(shared):
            text = f"{folder}: {_shared_example(shared, what, part, recordings)}"
            if what == "patient" and may_share_patients:
                checked.notes.append(f"{text}, as its split.json allows")
            else:
                checked.problems.append(f"{text}; {_SPLIT_AGAIN}")
    return checked


def _shared(group: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Return two positions for each group with recordings in two parts; group and part -1 do not count."""
    rows = np.flatnonzero((part >= 0) & (group >= 0))
    rows = rows[np.lexsort((part[rows], group[rows]))]
    first = np.append(True, np.diff(group[rows]) != 0)
    last = np.append(first[1:], True)
    ends = np.stack([rows[first[: len(rows)]], rows[last[: len(rows)]]], axis=1)
    return ends[part[ends[:, 0]] != part[ends[:, 1]]]


def _shared_example(shared: np.ndarray, what: str, part: np.ndarray, recordings: _Recordings) -> str:
    one, other = shared[0]
    names = (SUBSETS[part[one]], SUBSETS[part[other]])
    if what == "patient":
        patient = recordings.table["patient"].iloc[one]
        return f"patient {patient!r} is in {names[0]} and in {names[1]} (and {len(shared) - 1} more patients)"
    pair = f"{recordings.name(one)} in {names[0]} and {recordings.name(other)} in {names[1]}"
    return f"{pair} have the same content (and {len(shared) - 1} more)"
