"""Shards: recordings stored once, as raw counts, in memory-mapped files.

A shard is two files:

* `NNNNN.npy`, one flat int16 array; recording after recording, and in each the leads one after the other:
  `[rec 0: I I I ... II II II ... V6 V6 V6][rec 1: I I I ...]...`
* `NNNNN.index.npy`, a structured array (`INDEX_DTYPE`), a row a recording.

A stored count c of lead k stands for `(c - zero[k]) * scale[k]` mV.
"""

import hashlib
import zlib
from pathlib import Path
from typing import List, Sequence, Union

import numpy as np

from fairseq_signals_ext.files import atomic
from fairseq_signals_ext.leads import LEADS, leads_to_mask

INDEX_DTYPE = np.dtype(
    [
        ("idx", "<i8"),  # number of the recording across all shards and sources
        ("patient", "<i8"),  # see `patient_key`
        ("offset", "<i8"),  # first count of the recording in the shard
        ("samples", "<i4"),  # per lead
        ("sample_rate", "<f4"),  # Hz
        ("leads", "<u2"),  # bit k: lead k of LEADS is stored
        ("crc", "<u4"),  # CRC-32 of the recording's counts
        ("scale", "<f8", len(LEADS)),  # mV per count; by lead of LEADS, 0 where a lead is absent
        ("zero", "<f8", len(LEADS)),  # count at 0 mV
        ("mean", "<f4", len(LEADS)),  # mV, over the whole recording
        ("std", "<f4", len(LEADS)),  # mV, over the whole recording (population)
    ]
)


def index_path(shard: Union[str, Path]) -> Path:
    """`.../00003.index.npy` for `.../00003.npy`."""
    return Path(shard).with_suffix(".index.npy")


def patient_key(patient: str) -> int:
    """A 63-bit number that stands for a patient id, the same on every machine (BLAKE2b)."""
    digest = hashlib.blake2b(patient.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class ShardWriter:
    """Collects recordings and writes them as one shard; both files appear by atomic rename in `close`.

    Args:
        path: the shard's `.npy` file.
    """

    def __init__(self, path: Union[str, Path]):
        self.path = Path(path)
        self._blocks: List[np.ndarray] = []
        self._rows: List[np.ndarray] = []
        self._offset = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(
        self,
        counts: np.ndarray,
        *,
        leads: Sequence[int],
        scale: np.ndarray,
        zero: np.ndarray,
        sample_rate: float,
        idx: int,
        patient: str,
    ) -> None:
        """Add one recording.

        Args:
            counts: leads x samples, int16, leads in standard order.
            leads: positions in `LEADS` of the rows of `counts`, ascending.
            scale: mV per count, one a row.
            zero: the count at 0 mV, one a row.
            sample_rate: Hz.
            idx: the recording's number across sources.
            patient: id of the patient; where it is not known, something unique to the recording.

        Raises:
            ValueError: wrong dtype, shape or order of leads.
        """
        leads = list(leads)
        if counts.dtype != np.int16 or counts.ndim != 2 or len(counts) != len(leads) or leads != sorted(set(leads)):
            raise ValueError(
                f"counts must be int16, leads x samples, in standard lead order; "
                f"got {counts.dtype} {counts.shape} with leads {leads}"
            )
        counts = np.ascontiguousarray(counts)
        row = np.zeros((), INDEX_DTYPE)
        row["idx"], row["patient"] = idx, patient_key(patient)
        row["offset"], row["samples"], row["sample_rate"] = self._offset, counts.shape[1], sample_rate
        row["leads"], row["crc"] = leads_to_mask(leads), zlib.crc32(counts.data)
        row["scale"][leads], row["zero"][leads] = scale, zero
        row["mean"][leads] = (counts.mean(axis=1) - zero) * scale
        row["std"][leads] = counts.std(axis=1) * np.abs(scale)
        self._blocks.append(counts.ravel())
        self._rows.append(row)
        self._offset += counts.size

    def close(self) -> None:
        """Write the shard and its index. The index comes last, so a shard with an index is complete."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        counts = np.concatenate(self._blocks) if self._blocks else np.zeros(0, np.int16)
        _save(self.path, counts)
        _save(index_path(self.path), np.array(self._rows, INDEX_DTYPE))


def _save(path: Path, array: np.ndarray) -> None:
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)
