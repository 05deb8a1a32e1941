"""Shards: recordings stored once, as raw counts, in memory-mapped files.

A shard is two files:

* `NNNNN.npy`, one flat int16 array; recording after recording, and lead after lead within each:
  `[rec 0: I I I ... II II II ... V6 V6 V6][rec 1: I I I ...]...`
  or, compressed, one flat uint8 array: `[rec 0: a FLAC stream of the same counts][rec 1: ...]...`
* `NNNNN.index.npy`, a structured array (`INDEX_DTYPE`), one row per recording; offsets are in elements of the array.

`NNNNN.checksums.json` beside them contains the index's checksum, see `checksums`.

A stored count c of lead k stands for `(c - zero[k]) * scale[k]` mV.
"""

import contextlib
import functools
import hashlib
import io
import mmap
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, List, Optional, Sequence, Tuple, Type, Union

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import atomic
from fairseq_signals_ext.common.leads import LEADS, leads_to_mask, mask_to_leads
from fairseq_signals_ext.data.checksums import check, record_files, record_of_shard

# FLAC needs a whole number of Hz; the recording's rate is in the shard's index
_NOMINAL_RATE = 8000
INDEX_DTYPE = np.dtype(
    [
        ("idx", "<i8"),  # number of the recording across all shards and sources
        ("patient", "<i8"),  # see `patient_key`
        ("offset", "<i8"),  # first element of the recording in the shard
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
# storage: dtype of the shard's array
STORAGES: Dict[str, np.dtype] = {"raw": np.dtype("<i2"), "flac": np.dtype("u1")}
PREPARE_AGAIN = "delete this shard with its index and prepare again with --resume"
_HEADER_BYTES = 128  # of a .npy file with one dimension of any length


def encode_flac(counts: np.ndarray) -> bytes:
    """Encode counts (int16, leads x samples) as a FLAC stream.

    All leads are concatenated to one channel: FLAC has at most eight channels, and encodes more than two independently,
    so twelve channels in two streams would not be smaller.
    """
    import soundfile

    stream = io.BytesIO()
    soundfile.write(stream, counts.ravel(), _NOMINAL_RATE, format="FLAC", subtype="PCM_16")
    return stream.getvalue()


def decode_flac(stream: np.ndarray) -> np.ndarray:
    """Decode a FLAC stream (array of uint8) to counts, int16 and flat.

    Raises:
        RuntimeError: damaged (soundfile's own error is one).
    """
    import soundfile

    counts, _ = soundfile.read(io.BytesIO(stream.data), dtype="int16")
    return counts


def index_path(shard: Union[str, Path]) -> Path:
    """Return `.../00003.index.npy` for `.../00003.npy`."""
    return Path(shard).with_suffix(".index.npy")


@functools.lru_cache(maxsize=1000)  # called for the table and for the shard
def patient_key(patient: str) -> int:
    """Return a 63-bit number for a patient id, the same on every machine (BLAKE2b)."""
    digest = hashlib.blake2b(patient.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class ShardWriter:
    """Writes recordings to one shard, one by one; a context manager.

    All files appear by atomic rename when the block ends without an exception, the index last, so that a shard with
    an index is complete.

    Args:
        path: the shard's `.npy` file.
        storage: "raw" or "flac".
        beside: files in the shard's folder that the block writes; their checksums are recorded as well.
    """

    def __init__(self, path: Union[str, Path], storage: str = "raw", beside: Sequence[Path] = ()):
        self.path = Path(path)
        self.storage = storage
        self.beside = tuple(beside)
        self._rows: List[np.ndarray] = []
        self._length = 0

    def __enter__(self) -> "ShardWriter":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._atomic = atomic(self.path)
        self._file = open(self._atomic.__enter__(), "wb")  # noqa: SIM115 - closed in __exit__
        self._file.seek(_HEADER_BYTES)
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        with self._file as file:
            if error is None:
                file.seek(0)
                file.write(_npy_header(STORAGES[self.storage], self._length))
        self._atomic.__exit__(kind, error, trace)
        if error is None:
            with atomic(index_path(self.path)) as temporary:
                with open(temporary, "wb") as file:
                    np.save(file, np.array(self._rows, INDEX_DTYPE))
                files = {index_path(self.path).name: temporary, **{path.name: path for path in self.beside}}
                record_files(record_of_shard(self.path), "prepare", files)

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
            scale: mV per count, one per row.
            zero: the count at 0 mV, one per row.
            sample_rate: Hz.
            idx: the recording's number across sources.
            patient: id of the patient; if unknown, something unique to the recording.

        Raises:
            ValueError: wrong dtype, shape or order of leads.
        """
        leads = list(leads)
        if counts.dtype != np.int16 or counts.ndim != 2 or len(counts) != len(leads) or leads != sorted(set(leads)):
            raise ValueError(
                f"counts must be int16, leads x samples, in standard lead order; "
                f"got {counts.dtype} {counts.shape} with leads {leads}"
            )
        counts = np.ascontiguousarray(counts, "<i2")
        row = np.zeros((), INDEX_DTYPE)
        row["idx"], row["patient"] = idx, patient_key(patient)
        row["offset"], row["samples"], row["sample_rate"] = self._length, counts.shape[1], sample_rate
        row["leads"], row["crc"] = leads_to_mask(leads), zlib.crc32(counts.data)
        row["scale"][leads], row["zero"][leads] = scale, zero
        mean, std = _mean_and_std(counts)
        row["mean"][leads] = (mean - zero) * scale
        row["std"][leads] = std * np.abs(scale)
        content = encode_flac(counts) if self.storage == "flac" else counts.data
        self._length += self._file.write(content) // STORAGES[self.storage].itemsize
        self._rows.append(row)


def _mean_and_std(counts: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Return mean and population standard deviation of each row; exact to float64, as the sums are exact."""
    # sums of up to 65,536 such numbers fit into 32 bits, which takes half the time
    sums = np.int32 if counts.shape[1] <= 2**16 else np.int64
    mean = counts.sum(axis=1, dtype=sums) / counts.shape[1]
    # numpy converts to int64 piece by piece, which avoids a large temporary array
    square = np.einsum("ij,ij->i", counts, counts, dtype=np.int64, casting="safe") / counts.shape[1]
    return mean, np.sqrt(np.maximum(square - mean**2, 0))


def _npy_header(dtype: np.dtype, length: int) -> bytes:
    header = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(header, description)
    return header.getvalue()


def open_shard(path: Path) -> Tuple[np.ndarray, np.ndarray]:
    """Open a shard: its array, memory-mapped, and its index.

    Raises:
        UserError: a file is missing, truncated, or not of this version.
    """
    arrays = []
    for file in (path, index_path(path)):
        if not file.is_file():
            raise UserError(f"{file}: no such file, though the manifest names the shard; prepare again with --resume")
        try:
            # copy on write, as torch warns about read-only arrays
            array = np.load(file, mmap_mode="c", allow_pickle=False)
        except Exception:  # noqa: BLE001 - numpy may raise any error on a damaged header
            raise UserError(f"{file}: truncated or not a .npy file; {PREPARE_AGAIN}") from None
        # slicing a plain array is several times cheaper than slicing np.memmap
        arrays.append(array.view(np.ndarray))
    array, index = arrays
    if array.dtype not in STORAGES.values() or array.ndim != 1 or index.dtype != INDEX_DTYPE:
        raise UserError(f"{path}: not a shard of this version; prepare the data again")
    return array, index


def has_own_header(path: Path, array: np.ndarray) -> bool:
    """Return whether the file of a shard's array has the header of our writer, and ends with the array."""
    with open(path, "rb") as file:
        begins = file.read(_HEADER_BYTES) == _npy_header(array.dtype, len(array))
    return begins and path.stat().st_size == _HEADER_BYTES + array.nbytes


def check_index(shard: Path) -> None:
    """Raise a `UserError` if the checksum of a shard's index differs; without a record it is not checked."""
    check(index_path(shard), record_of_shard(shard), PREPARE_AGAIN)


def read_counts(array: np.ndarray, index: np.ndarray, row: int) -> Optional[np.ndarray]:
    """Return the counts of a recording, int16, leads x samples: a view into a raw shard, or decoded.

    None if the array does not fit the index.
    """
    start, samples = int(index["offset"][row]), int(index["samples"][row])
    leads = len(mask_to_leads(int(index["leads"][row])))
    if array.dtype == STORAGES["raw"]:
        counts = array[start : start + leads * samples] if start >= 0 else array[:0]
    else:
        stop = int(index["offset"][row + 1]) if row + 1 < len(index) else len(array)
        try:
            counts = decode_flac(array[max(0, start) : stop])
        except RuntimeError:
            return None
    return counts.reshape(leads, samples) if len(counts) == leads * samples else None


def byte_ranges(array: np.ndarray, index: np.ndarray, rows: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Return first byte (and the one after the last) of recordings in a shard's array: int64, one per row."""
    offsets = index["offset"]
    following = np.minimum(rows + 1, len(index) - 1)
    stop = np.where(rows + 1 < len(index), offsets[following], len(array))
    start, stop = np.clip((offsets[rows], stop), 0, len(array)) * array.itemsize
    return start, np.maximum(start, stop)


def read_only_on_request(array: np.ndarray) -> None:
    """Advise the system not to read beyond the needed pages of a shard's array; for use with `read_ahead`.

    By default systems read much around a page (Linux up to a disk's `read_ahead_kb`). In random order these data would
    be dropped before they are used.
    """
    _advise(array, "MADV_RANDOM", 0, array.nbytes)


def read_ahead(array: np.ndarray, start: int, stop: int) -> None:
    """Advise the system to read bytes of a shard's array into the page cache, without waiting; may have no effect."""
    _advise(array, "MADV_WILLNEED", start, stop)


def _advise(array: np.ndarray, advice: str, start: int, stop: int) -> None:
    memory: Any = array
    while isinstance(memory, np.ndarray):
        memory = memory.base
    if hasattr(mmap, advice) and isinstance(memory, mmap.mmap):
        header = len(memory) - array.nbytes
        first = (header + start) // mmap.PAGESIZE * mmap.PAGESIZE
        with contextlib.suppress(OSError, ValueError):
            memory.madvise(getattr(mmap, advice), first, header + stop - first)
