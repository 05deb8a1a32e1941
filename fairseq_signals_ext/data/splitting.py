"""Splits: which recordings are for training, validation and testing; a patient is in one of them only."""

from pathlib import Path
from typing import Dict, List, Sequence, Union

import numpy as np

from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.files import atomic


def split_manifest(
    out: Union[str, Path],
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    names: Sequence[str] = ("train", "valid", "test"),
    seed: int = 1,
    name: str = "random",
) -> Dict[str, int]:
    """Split `out/all.tsv` by patient at random into `out/splits/NAME/{train,valid,test}.tsv`.

    A recording whose patient is unknown counts as a patient of its own. The fractions are of recordings, and met as
    closely as whole patients allow. The same data, fractions and seed give the same split.

    Args:
        out: folder that `prepare` left.
        fractions: one a split, adding up to 1; no file is written for 0.
        names: names of the splits.

    Returns:
        Recordings by split.

    Raises:
        UserError: fractions that do not fit, no prepared data in `out`, or a split that would be empty.
    """
    out = Path(out)
    check_fractions(fractions, names)
    lines = _recording_lines(out)
    part = _part_of_recordings(_patients(out, len(lines)), np.cumsum(fractions), seed)
    members = [np.flatnonzero(part == number) for number in range(len(names))]
    for split, fraction, rows in zip(names, fractions, members):
        if fraction > 0 and not len(rows):
            raise UserError(f"{out / 'all.tsv'}: split {split!r} would be empty; change the fractions, or add patients")
    folder = out / "splits" / name
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in zip(names, members):
        if len(rows):
            with atomic(folder / f"{split}.tsv") as path, open(path, "w", encoding="utf-8", newline="\n") as file:
                file.write("../..\n")
                file.writelines(f"{lines[row]}\n" for row in rows)
    return {split: len(rows) for split, rows in zip(names, members)}


def check_fractions(fractions: Sequence[float], names: Sequence[str] = ("train", "valid", "test")) -> None:
    """Raises `UserError` unless there is one fraction a name, none below 0, and they add up to 1."""
    text = " ".join(f"{fraction:g}" for fraction in fractions)
    if len(fractions) != len(names) or not all(fraction >= 0 for fraction in fractions):
        raise UserError(f"fractions {text}: give one a split ({', '.join(names)}), none below 0")
    if abs(sum(fractions) - 1) > 1e-6:
        raise UserError(f"fractions {text}: they add up to {sum(fractions):g}; they must add up to 1")


def _recording_lines(out: Path) -> List[str]:
    try:
        return (out / "all.tsv").read_text(encoding="utf-8").splitlines()[1:]
    except OSError as error:
        raise UserError(f"{out / 'all.tsv'}: {error.strerror}; run manifests/prepare.py first") from error


def _patients(out: Path, recordings: int) -> np.ndarray:
    """Number of each recording's patient, in the order of the manifest, which is that of the table."""
    import pandas as pd

    path = out / "recordings.parquet"
    try:
        table = pd.read_parquet(path, columns=["patient", "source_file"])
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); run manifests/prepare.py again") from error
    if len(table) != recordings:
        raise UserError(f"{path}: {len(table)} recordings, all.tsv has {recordings}; prepare again with --resume")
    known = table["patient"].notna()
    key = ("patient " + table["patient"]).where(known, "file " + table["source_file"])
    return pd.factorize(key)[0]


def _part_of_recordings(patients: np.ndarray, ends: np.ndarray, seed: int) -> np.ndarray:
    """The split of each recording: shuffled patients laid side by side, each in the split where its middle lies."""
    sizes = np.bincount(patients)
    order = np.random.default_rng(seed).permutation(len(sizes))
    middle = (np.cumsum(sizes[order]) - sizes[order] / 2) / max(1, len(patients))
    part_of_patient = np.empty(len(sizes), np.int64)
    part_of_patient[order] = np.minimum(np.searchsorted(ends, middle, side="right"), len(ends) - 1)
    return part_of_patient[patients]
