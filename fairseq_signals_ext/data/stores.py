"""Read recordings from shards of this project, or from ECG-FM's `.mat` files. Both return a `Signal`."""

import functools
import hashlib
import zlib
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.leads import LEADS, mask_to_leads
from fairseq_signals_ext.data.manifest import FileManifest, Manifest, ShardManifest
from fairseq_signals_ext.data.shards import (
    PREPARE_AGAIN,
    byte_ranges,
    check_index,
    open_shard,
    patient_key,
    read_ahead,
    read_counts,
    read_only_on_request,
)
from fairseq_signals_ext.data.standardising import KEEP_AMPLITUDE, gain_and_offset
from fairseq_signals_ext.readers.facts import patient_of, shown
from fairseq_signals_ext.readers.matlab import MatFile

CHECKSUM_CHOICES = ("once", "always", "never")


class Signal:
    """One recording as stored in its file.

    A stored value c of lead k stands for `(c - zero[k]) * scale[k]` mV; `mean` and `std` are those of the whole
    recording in mV. All four are indexed by position in `leads.LEADS` and zero for absent leads. If the file is already
    standardised, scale and std are 1, zero and mean are 0.

    Attributes:
        counts: leads x samples, integer or float; a view into the shard where possible.
        leads: positions of the rows in `leads.LEADS`, ascending.
        scale, zero, mean, std: float, 12.
        sample_rate: Hz.
        patient: number of the patient.
        pair: number of the patient for CMSC; differs from `patient` if ECG-FM's files contain an `idx`.
        idx: the recording's row in a label file; a unique negative number if the file does not contain it.
        label: float, L: the label stored with the signal; None if there is none.
    """

    __slots__ = (
        *("counts", "leads", "scale", "zero", "mean", "std", "sample_rate", "patient", "pair", "idx", "label"),
        *("_store", "_number"),
    )

    def __init__(
        self,
        counts: np.ndarray,
        leads: Tuple[int, ...],
        scale: np.ndarray,
        zero: np.ndarray,
        mean: np.ndarray,
        std: np.ndarray,
        sample_rate: float,
        patient: int,
        idx: int,
        store: "Store",
        number: int,
        label: Optional[np.ndarray] = None,
        pair: Optional[int] = None,
    ):
        self.counts, self.leads = counts, leads
        self.scale, self.zero, self.mean, self.std = scale, zero, mean, std
        self.sample_rate, self.patient, self.idx, self.label = sample_rate, patient, idx, label
        self.pair = patient if pair is None else pair
        self._store, self._number = store, number

    @property
    def name(self) -> str:
        """Name of the recording in messages."""
        return self._store.name(self._number)

    @property
    def is_standardised(self) -> bool:
        """Whether values are in deviations of each lead, not in mV."""
        return self._store.is_standardised


class ShardStore:
    """Recordings in shards, memory-mapped: opening costs the same for any number.

    Raises:
        UserError: a shard is missing, shorter than its index claims, or the manifest names a row it does not have.
    """

    is_standardised = False

    def __init__(self, manifest: ShardManifest, checksum: str = "once"):
        if checksum not in CHECKSUM_CHOICES:
            raise UserError(f"checksum={checksum!r}: use one of {', '.join(CHECKSUM_CHOICES)}")
        self.manifest = manifest
        self.checksum = checksum
        self.samples = manifest.samples
        self._reads_ahead = False
        # recordings, and indices of shards, that were compared with their checksums
        self._shared_checked: Any = None
        if checksum == "once":
            import torch

            # shared, so that worker processes of later epochs do not check them again
            sizes = (len(manifest.row), len(manifest.shards))
            self._shared_checked = [torch.zeros(size, dtype=torch.uint8).share_memory_() for size in sizes]
        self._open()

    def _open(self) -> None:
        self._checked: Optional[np.ndarray] = None
        self._index_checked = np.zeros(len(self.manifest.shards), np.uint8)
        if self._shared_checked is not None:
            self._checked, self._index_checked = (flags.numpy() for flags in self._shared_checked)
        self._counts: List[np.ndarray] = []
        self._index: List[np.ndarray] = []
        for shard in self.manifest.shards:
            counts, index = open_shard(shard)
            self._counts.append(counts)
            self._index.append(index)
        if self._reads_ahead:
            self.expect_read_ahead()
        rows = np.array([len(index) for index in self._index])
        beyond = np.flatnonzero(self.manifest.row >= rows[self.manifest.shard])
        if len(beyond):
            number = self.manifest.shard[beyond[0]]
            raise UserError(
                f"{self.manifest.shards[number]}: the manifest names row {self.manifest.row[beyond[0]]}, but the shard "
                f"has {rows[number]} recordings; manifest and shards are of different runs, prepare again"
            )

    def __getstate__(self) -> Dict[str, Any]:
        # a pickled memory map would carry the waveforms; workers that are not forked open the files themselves
        opened = ("_counts", "_index", "_checked", "_index_checked")
        return {key: value for key, value in self.__dict__.items() if key not in opened}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, number: int) -> str:
        """Return the name of recording `number` of the manifest in messages."""
        shard, row = self.manifest.shard[number], self.manifest.row[number]
        return f"{self.manifest.shards[shard]}: recording idx {self._index[shard][row]['idx']} (row {row})"

    @functools.cached_property
    def idx(self) -> np.ndarray:
        """Return the row of each recording of the manifest in a label file: int64.

        Raises:
            UserError: the checksum of a shard's index differs.
        """
        idx = np.empty(len(self), np.int64)
        for number, index in enumerate(self._index):
            self._check_index(number)
            chosen = self.manifest.shard == number
            idx[chosen] = index["idx"][self.manifest.row[chosen]]
        return idx

    def fingerprint(self) -> bytes:
        """Return a hash of the manifest's recordings in their order, from their index rows (with checksums)."""
        content = hashlib.sha256()
        for shard, row in zip(self.manifest.shard, self.manifest.row):
            content.update(self._index[shard][row].tobytes())
        return content.digest()

    def places(self, numbers: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Return first byte and number of bytes, int64, of recordings in the arrays of their shards."""
        start, stop = np.zeros((2, len(numbers)), np.int64)
        shards = self.manifest.shard[numbers]
        by_shard = np.argsort(shards, kind="stable")
        for chosen in np.split(by_shard, np.flatnonzero(np.diff(shards[by_shard])) + 1):
            shard = shards[chosen[0]]
            rows = self.manifest.row[numbers[chosen]]
            start[chosen], stop[chosen] = byte_ranges(self._counts[shard], self._index[shard], rows)
        return start, stop - start

    def expect_read_ahead(self) -> None:
        """Turn off the system's own read-ahead, as from now on all recordings are requested by `read_ahead`."""
        self._reads_ahead = True
        for array in self._counts:
            read_only_on_request(array)

    def read_ahead(self, numbers: np.ndarray) -> None:
        """Advise the system to read recordings of one shard, in storage order, into the page cache."""
        shard = self.manifest.shard[numbers[0]]
        array, rows = self._counts[shard], self.manifest.row[numbers]
        start, stop = byte_ranges(array, self._index[shard], rows)
        gaps = np.flatnonzero(start[1:] > stop[:-1]) + 1
        for first, last in zip(np.append(0, gaps), np.append(gaps, len(rows)) - 1):
            read_ahead(array, int(start[first]), int(stop[last]))

    def read(self, number: int) -> Signal:
        """Read recording `number` of the manifest.

        Raises:
            UserError: its index row contradicts the manifest or the shard, or a checksum differs.
        """
        shard = self.manifest.shard[number]
        self._check_index(shard)
        row = self._index[shard][self.manifest.row[number]]
        samples, leads = int(row["samples"]), mask_to_leads(int(row["leads"]))
        counts = read_counts(self._counts[shard], self._index[shard], int(self.manifest.row[number]))
        if counts is None or samples != self.samples[number]:
            raise UserError(f"{self.name(number)}: manifest, index and shard do not agree; {PREPARE_AGAIN}")
        self._check(number, counts, int(row["crc"]))
        return Signal(
            counts,
            leads,
            scale=row["scale"],
            zero=row["zero"],
            mean=row["mean"],
            std=row["std"],
            sample_rate=float(row["sample_rate"]),
            patient=int(row["patient"]),
            idx=int(row["idx"]),
            store=self,
            number=number,
        )

    def _check_index(self, shard: int) -> None:
        # when its first recording is read, as reading the index of millions of recordings takes long
        if self.checksum != "never" and not self._index_checked[shard]:
            check_index(self.manifest.shards[shard])
            self._index_checked[shard] = 1

    def _check(self, number: int, counts: np.ndarray, stored: int) -> None:
        if self.checksum == "never" or (self._checked is not None and self._checked[number]):
            return
        found = zlib.crc32(counts.data)
        if found != stored:
            raise UserError(
                f"{self.name(number)}: checksum differs (stored {stored:08x}, read {found:08x}); {PREPARE_AGAIN}"
            )
        if self._checked is not None:
            self._checked[number] = 1


class MatStore:
    """Recordings in ECG-FM's `.mat` files: `feats` (12 x samples), `curr_sample_rate`, `idx`, `patient_id`, `label`.

    `patient_id` is the patient; a recording without it counts as its own patient. CMSC pairs by `idx`, as in ECG-FM.

    Attributes:
        idx: None: the recording's number is known only when the file is read.
        is_standardised: values are in standard deviations of each lead, not in mV.
    """

    idx = None
    is_standardised = True

    def __init__(self, manifest: FileManifest):
        self.manifest = manifest
        self.samples = manifest.samples

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, number: int) -> str:
        """Return the name of recording `number` of the manifest in messages."""
        return str(self.manifest.files[number][0])

    def fingerprint(self) -> bytes:
        """Return a hash of the manifest's recordings in their order, from names and lengths of their files."""
        names = [[path.name for path in files] for files in self.manifest.files]
        return hashlib.sha256(repr((names, self.samples.tolist())).encode()).digest()

    def read(self, number: int) -> Signal:
        """Read recording `number` of the manifest; its values are not converted.

        Raises:
            UserError: a file is missing, unreadable, of another length than in the manifest, or holds NaN.
        """
        files = self.manifest.files[number]
        pieces = [_load_mat(path) for path in files]
        counts = pieces[0]["feats"] if len(pieces) == 1 else np.concatenate([p["feats"] for p in pieces], axis=1)
        if counts.shape[1] != self.samples[number]:
            raise UserError(
                f"{files[0]}: {counts.shape[1]} samples, but the manifest has {self.samples[number]}; make it again"
            )
        ones, zeros = np.ones(len(LEADS)), np.zeros(len(LEADS))
        return Signal(
            counts,
            tuple(range(len(LEADS))),
            scale=ones,
            zero=zeros,
            mean=zeros,
            std=ones,
            sample_rate=pieces[0]["sample_rate"],
            patient=pieces[0]["patient"],
            idx=-1 - number if pieces[0]["idx"] is None else pieces[0]["idx"],
            store=self,
            number=number,
            label=pieces[0]["label"],
            pair=pieces[0]["pair"],
        )


Store = Union[ShardStore, MatStore]


def open_store(manifest: Manifest, checksum: str = "once") -> Store:
    """Return the store for a manifest: `ShardStore` or `MatStore`."""
    return ShardStore(manifest, checksum) if isinstance(manifest, ShardManifest) else MatStore(manifest)


def _load_mat(path: Path) -> Dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the root that the manifest's first line gives")
    try:
        with MatFile(path) as file:
            feats = np.asarray(file.read("feats"), np.float32)
            sample_rate = float(file.read("curr_sample_rate").ravel()[0])
            idx = None if file.written("idx") is None else int(file.written("idx"))
            patient = patient_of(file.written("patient_id"))
            label = file.read("label").ravel().astype(float) if "label" in file.names else None
    except Exception as error:  # damaged files may raise any error
        reason = shown(str(error).replace(f"{path}: ", "")) or type(error).__name__
        raise UserError(f"{path}: not a .mat file of ECG-FM ({reason}); make it again") from None
    if feats.ndim != 2 or len(feats) != len(LEADS):
        raise UserError(f"{path}: feats is {feats.shape}, not {len(LEADS)} leads x samples; make it again")
    if not np.isfinite(feats).all():
        raise UserError(f"{path}: NaN or infinity in feats; leave this recording out of the manifest")
    number = _mat_patient(patient, idx, path)
    known = {"patient": number, "pair": number if idx is None else idx, "idx": idx, "label": label}
    return {"feats": feats, "sample_rate": sample_rate, **known}


def _mat_patient(patient: Optional[str], idx: Optional[int], path: Path) -> int:
    """Return a number for the patient; a recording without patient is its own patient, numbered by `idx`."""
    if patient is None:
        return patient_key(f"{path}" if idx is None else f"recording {idx}")
    is_number = patient.isascii() and patient.isdigit() and str(int(patient[:20])) == patient and len(patient) < 19
    return int(patient) if is_number else patient_key(patient)


def coefficients(signals: Sequence[Signal], way: str, leads: Sequence[int]) -> Tuple[np.ndarray, np.ndarray]:
    """Return gain and offset (float64, signals x 12) from counts to a model's input; see `gain_and_offset`.

    Args:
        way: one of `standardising.STANDARDIZATIONS`.
        leads: positions in `leads.LEADS` that are loaded; the result is valid only for these.
    """
    names = ("scale", "zero", "mean", "std")
    scale, zero, mean, std = (np.array([getattr(signal, name) for signal in signals], float) for name in names)
    loaded = np.zeros(len(LEADS), bool)
    loaded[[*leads]] = True
    return gain_and_offset(way, scale, zero, mean, np.where(loaded, std, 0))


def check_has_amplitude(is_standardised: bool, way: str, name: str) -> None:
    """Raise a `UserError` if a way needs values in mV, but they are in standard deviations of each lead.

    Args:
        way: one of `standardising.STANDARDIZATIONS`.
        name: of the values in the message.
    """
    if is_standardised and way in KEEP_AMPLITUDE:
        hint = "use standardize=lead, or prepare the recordings in mV with fairseq-signals-ext prepare"
        raise UserError(f"{name}: its leads are standardised already, which standardize={way} cannot undo; {hint}")


def check_sample_rate(signal: Signal, sample_rate: float) -> None:
    """Raise a `UserError` unless `signal` has this sample rate (Hz)."""
    # a shard's index holds the rate as float32
    if np.float32(signal.sample_rate) != np.float32(sample_rate):
        raise UserError(
            f"{signal.name}: {signal.sample_rate:g} Hz where {sample_rate:g} Hz is wanted; "
            f"prepare with --rate {sample_rate:g}, or set task.sample_rate"
        )


def check_leads(signal: Signal, wanted: Sequence[int]) -> None:
    """Raise a `UserError` unless `signal` has all wanted leads."""
    missing = [LEADS[lead] for lead in wanted if lead not in signal.leads] if len(signal.leads) < len(LEADS) else []
    if missing:
        raise UserError(
            f"{signal.name}: no lead {', '.join(missing)}; "
            f"fill it with zeros (task.enable_padding_leads=true), choose task.leads_to_load, or leave such "
            f"recordings out (fairseq-signals-ext split --needs-leads)"
        )
