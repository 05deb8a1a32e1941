"""`Labels` of the recordings of a prepared folder, and their files in ECG-FM's format."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Union

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import atomic_folder, named_folder
from fairseq_signals_ext.data.checksums import CHECKSUMS_NAME, record_files
from fairseq_signals_ext.data.label_table import DEFINITION_FILE, VALUES_FILE
from fairseq_signals_ext.data.manifest import ShardManifest, find_manifests, read_manifests
from fairseq_signals_ext.prepared.table import read_table

if TYPE_CHECKING:
    import pandas as pd

_FILES = ("labels.csv", VALUES_FILE, DEFINITION_FILE, "pos_weight.txt", "label.json")
_TABLES = ("values.csv", "evidence.parquet", "unmatched.csv")  # of `Labels.tables`


@dataclass
class Labels:
    """Labels of all recordings of a prepared folder.

    Attributes:
        names: of the labels.
        idx: int64, of the recordings.
        values: float64, recordings x labels: 1 positive, 0 negative, NaN unknown; with `regression` any number.
        regression: whether the values are numbers to predict, not classes.
        codes: for each label its codes, if it is made from codes.
        settings: how they were made; plain data.
        counts: numbers of used and left out values; plain data.
        notes: the same in sentences, for the user.
        tables: further tables to write, by file name: of `values.csv`, `evidence.parquet` and `unmatched.csv`.
    """

    names: List[str]
    idx: np.ndarray
    values: np.ndarray
    regression: bool = False
    codes: Dict[str, List[str]] = field(default_factory=dict)
    settings: Dict[str, Any] = field(default_factory=dict)
    counts: Dict[str, Any] = field(default_factory=dict)
    notes: List[str] = field(default_factory=list)
    tables: Dict[str, "pd.DataFrame"] = field(default_factory=dict)

    @property
    def recordings(self) -> int:
        """Number of recordings with at least one known label."""
        return int((~np.isnan(self.values)).any(axis=1).sum())

    @property
    def known(self) -> np.ndarray:
        """Number of recordings with a known value, by label (int64)."""
        return (~np.isnan(self.values)).sum(axis=0)

    @property
    def positives(self) -> np.ndarray:
        """Number of positive recordings, by label (int64)."""
        return (self.values == 1).sum(axis=0)


def in_sources(out: Union[str, Path], table: "pd.DataFrame", sources: Optional[Sequence[str]]) -> np.ndarray:
    """Return which rows of the table are of these sources (bool); all without `sources`.

    Raises:
        UserError: the folder has no such source.
    """
    if sources is None:
        return np.ones(len(table), bool)
    present = sorted(table["source"].dropna().unique())
    for source in sources:
        if source not in present:
            raise UserError(f"{out}: no source {source!r}; its sources are {', '.join(present) or 'not named'}")
    return table["source"].isin(list(sources)).to_numpy()


def drop_rare(labels: Labels, min_count: int) -> Labels:
    """Keep the labels with at least `min_count` positive recordings; the notes name the others.

    Raises:
        UserError: none is left.
    """
    kept = np.flatnonzero(labels.positives >= min_count)
    rare = [f"{name} ({count})" for name, count in zip(labels.names, labels.positives) if count < min_count]
    if not len(kept):
        raise UserError(f"no label has {min_count} positive recordings ({', '.join(rare)}); lower --min-count")
    if rare:
        labels.notes.append(f"labels with fewer than {min_count} positives were dropped: {', '.join(rare)}")
    labels.names, labels.values = [labels.names[label] for label in kept], labels.values[:, kept]
    labels.counts["dropped_labels"], labels.settings["min_count"] = rare, min_count
    return labels


def write_labels(
    out: Union[str, Path],
    name: str,
    labels: Labels,
    *,
    overwrite: bool = False,
    train_manifest: Optional[Union[str, Path]] = None,
) -> Path:
    """Write labels to `out/labels/name`, which appears complete or not at all; return this folder.

    * `labels.csv`: idx and one column per label, 1, 0 or empty; the recordings of which at least one label is known.
    * `y.npy`: float32, (largest idx + 1) x labels; the row is the recording's idx; NaN where unknown.
    * `label_def.csv`: name, pos_count_all, pos_percent_all (in spite of its name a fraction, as in ECG-FM: positives
      of those known), known_count, codes.
    * `pos_weight.txt`: `[12.3,4.5]`, negatives for each positive, for the loss; 1 where there is no positive or no
      negative, with a note. Not for regression.
    * `values.csv`, `evidence.parquet`, `unmatched.csv`: those of `labels.tables`.
    * `label.json`: how they were made.
    * `checksums.json`: of these files.

    Args:
        overwrite: replace these files in a folder of this name; others in it stay.
        train_manifest: `pos_weight.txt` is computed from its recordings only.

    Raises:
        UserError: the name is taken, two labels have one name, no label of any recording is known, or the manifest is
            not of this folder.
    """
    folder = named_folder(Path(out) / "labels", name, overwrite)
    if len({"idx", *labels.names}) <= len(labels.names):
        raise UserError(f"labels {', '.join(labels.names)}: give each a different name, other than idx")
    if not labels.known.any():
        notes = f" ({'; '.join(labels.notes)})" if labels.notes else ""
        raise UserError(f"{out}: not one of {len(labels.idx)} recordings would have a label{notes}")
    weighted = np.ones(len(labels.idx), bool) if train_manifest is None else _in_manifest(out, labels, train_manifest)
    with atomic_folder(folder) as temporary:
        if folder.is_dir():
            ours = shutil.ignore_patterns(*_FILES, *_TABLES, CHECKSUMS_NAME)
            shutil.copytree(folder, temporary, ignore=ours, dirs_exist_ok=True)
        _write_files(temporary, labels, weighted, train_manifest)
    return folder


def _write_files(
    folder: Path, labels: Labels, weighted: np.ndarray, train_manifest: Optional[Union[str, Path]]
) -> None:
    _write_table(folder / "labels.csv", _known_table(labels))
    _write_y(folder / VALUES_FILE, labels)
    _write_table(folder / DEFINITION_FILE, _definition(labels))
    if not labels.regression:
        weights = ",".join(f"{weight:.6g}" for weight in _pos_weights(labels, weighted))
        _write_text(folder / "pos_weight.txt", f"[{weights}]\n")
    for name, table in labels.tables.items():
        (_write_parquet if name.endswith(".parquet") else _write_table)(folder / name, table)
    _write_text(folder / "label.json", _description(labels, train_manifest))
    written = {name: folder / name for name in (*_FILES, *_TABLES) if (folder / name).is_file()}
    record_files(folder / CHECKSUMS_NAME, "label", written)


def _known_table(labels: Labels) -> "pd.DataFrame":
    import pandas as pd

    known = ~np.isnan(labels.values).all(axis=1)
    table = pd.DataFrame(labels.values[known], columns=labels.names)
    if not labels.regression:
        table = table.astype("Int8")  # whole numbers that may be missing
    table.insert(0, "idx", labels.idx[known])
    return table


def _write_y(path: Path, labels: Labels) -> None:
    y = np.full((int(labels.idx.max()) + 1, len(labels.names)), np.nan, np.float32)
    y[labels.idx] = labels.values
    np.save(path, y)


def _definition(labels: Labels) -> "pd.DataFrame":
    import pandas as pd

    definition = pd.DataFrame({"name": labels.names})
    known = labels.known
    if not labels.regression:
        definition["pos_count_all"] = labels.positives
        definition["pos_percent_all"] = labels.positives / np.where(known, known, 1)
    definition["known_count"] = known
    definition["codes"] = [";".join(labels.codes.get(name, [])) for name in labels.names]
    return definition


def _pos_weights(labels: Labels, weighted: np.ndarray) -> List[float]:
    weights = []
    for name, values in zip(labels.names, labels.values[weighted].T):
        positives, negatives = int((values == 1).sum()), int((values == 0).sum())
        if positives and negatives:
            weights.append(negatives / positives)
            continue
        weights.append(1.0)
        lacking = "negatives" if positives else "positives"
        labels.notes.append(f"warning: label {name!r} has no {lacking}; its weight is 1")
    return weights


def _in_manifest(out: Union[str, Path], labels: Labels, manifest: Union[str, Path]) -> np.ndarray:
    """Return which recordings are in a manifest of this folder (bool)."""
    import pandas as pd

    path = Path(manifest)
    lines = read_manifests(find_manifests(path.parent, path.stem))
    if not isinstance(lines, ShardManifest):
        raise UserError(f"{path}: is a manifest of .mat files; give one of {Path(out) / 'splits'}")
    table = read_table(out, ["idx", "shard", "row"])
    shards = {shard: (Path(out) / shard).resolve() for shard in table["shard"].unique()}
    recordings = pd.MultiIndex.from_arrays([table["shard"].map(shards).map(str), table["row"]])
    listed = np.array([str(shard.resolve()) for shard in lines.shards], object)[lines.shard]
    found = recordings.get_indexer(pd.MultiIndex.from_arrays([listed, lines.row]))
    if (found < 0).any():
        line = int(np.flatnonzero(found < 0)[0]) + 2
        raise UserError(f"{path}: line {line}: not a recording of {out}; give a manifest of this folder")
    return np.isin(labels.idx, table["idx"].to_numpy()[found])


def _description(labels: Labels, train_manifest: Optional[Union[str, Path]]) -> str:
    settings = {**labels.settings, "train_manifest": None if train_manifest is None else str(train_manifest)}
    counts = {**labels.counts, "labelled": labels.recordings}
    description = {"labels": labels.names, "settings": settings, "counts": counts, "notes": labels.notes}
    return json.dumps(description, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _write_table(path: Path, table: "pd.DataFrame") -> None:
    table.to_csv(path, index=False, lineterminator="\n", float_format="%.9g", date_format="%Y-%m-%dT%H:%M:%S")


def _write_parquet(path: Path, table: "pd.DataFrame") -> None:
    table.to_parquet(path, index=False)


def _write_text(path: Path, text: str) -> None:
    path.write_bytes(text.encode())
