"""The recordings of a run from files, folders and manifests; each is read when needed, maybe in another process."""

import dataclasses
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Protocol, Sequence, Set, Tuple, Union

import numpy as np

from fairseq_signals_ext.checkpoints.description import Preprocessing
from fairseq_signals_ext.common.errors import MissingPackageError, OneOfSeveralError, UserError
from fairseq_signals_ext.common.files import is_no_text
from fairseq_signals_ext.common.leads import parse_leads
from fairseq_signals_ext.data.manifest import (
    FileManifest,
    ShardManifest,
    is_manifest,
    read_manifests,
)
from fairseq_signals_ext.data.stores import ShardStore
from fairseq_signals_ext.inference.preprocessing import SegmentedRecording
from fairseq_signals_ext.prepared.manifests import is_split, manifests_of
from fairseq_signals_ext.prepared.table import TABLE_NAME, read_table
from fairseq_signals_ext.readers import Recording, StoredCounts
from fairseq_signals_ext.sources import Item, SourceOptions
from fairseq_signals_ext.sources.files import open_source
from fairseq_signals_ext.sources.source import read_file, split_number
from fairseq_signals_ext.sources.wfdb import belonging_to

MANIFEST_SUFFIX = ".tsv"
# columns of a prepared folder's table, named as attributes of `Recording` and `RecordingFacts`
_KNOWN = ("record_id", "source", "source_file", "patient", "start_time", "age", "sex")
_OF_RECORDING = {attribute.name for attribute in dataclasses.fields(Recording)}


class Recordings(Protocol):
    """Recordings that models can be run on: `Inputs`, some of them, or the recordings of a subset."""

    def __len__(self) -> int: ...

    def name(self, number: int, ecg: Optional[int] = None) -> str:
        """See `Inputs.name`."""

    def read(self, number: int, ecg: Optional[int] = None) -> Any:
        """An `InputRecording`, or an object with its `ecgs`, `beside` and `segmented`."""

    def known(self, number: int) -> Dict[str, Any]:
        """See `Inputs.known`."""


class InputRecording(NamedTuple):
    """A recording from an input file.

    Attributes:
        recording: its signal, and the facts in its file.
        is_standardised: its values are in standard deviations of each lead, as in ECG-FM's manifests.
        ecgs: how many ECGs its file contains, if it is the first of them.
    """

    recording: Recording
    is_standardised: bool = False
    ecgs: int = 1

    @property
    def beside(self) -> None:
        """Further data read with the signal: none."""
        return None

    def segmented(self, preprocessing: Preprocessing, name: str) -> SegmentedRecording:
        """Its segments.

        Args:
            name: its name in messages.

        Raises:
            UserError: see `SegmentedRecording.of`.
        """
        return SegmentedRecording.of(self.recording, preprocessing, name, self.is_standardised)


@dataclass(frozen=True)
class _Files:
    """Files, each a recording; names are as they were given."""

    folder: str
    items: Sequence[Item]

    def __len__(self) -> int:
        return len(self.items)

    def name(self, number: int) -> str:
        return os.path.join(self.folder, self.items[number].name)

    def read(self, number: int, ecg: Optional[int] = None) -> InputRecording:
        item = self.items[number] if ecg is None else self.items[number].numbered(ecg)
        if item.number is None:
            recording = read_file(Path(self.folder), item)
            return InputRecording(recording, ecgs=recording.ecgs)
        try:
            return InputRecording(read_file(Path(self.folder), item))
        except OneOfSeveralError as error:
            file, name = (os.path.join(self.folder, one) for one in (item.file, item.name))
            raise UserError(str(error).replace(file, name, 1)) from error

    def known(self, number: int) -> Dict[str, Any]:
        return {}


class _Shards:
    """Recordings of a prepared folder; its table has more facts about them than its shards."""

    def __init__(self, manifest: ShardManifest):
        # each is read once, so checksums need not be remembered
        self._store, self.shards = ShardStore(manifest, checksum="always"), manifest.shards
        self._table: Any = None
        self._filled = self._filled_leads()

    def __len__(self) -> int:
        return len(self._store)

    def name(self, number: int) -> str:
        manifest = self._store.manifest
        return f"{manifest.shards[manifest.shard[number]]}#{manifest.row[number]}"

    def read(self, number: int) -> InputRecording:
        signal = self._store.read(number)
        rows = [row for row, lead in enumerate(signal.leads) if lead not in self._filled.get(signal.idx, ())]
        leads = [signal.leads[row] for row in rows]
        counts = signal.counts if len(rows) == len(signal.leads) else signal.counts[rows]
        stored = StoredCounts(counts, signal.scale[leads], signal.zero[leads])
        return InputRecording(Recording(f"idx {signal.idx}", None, tuple(leads), signal.sample_rate, stored=stored))

    @property
    def _folder(self) -> Path:
        return self.shards[0].parent.parent

    def _filled_leads(self) -> Dict[int, Set[int]]:
        """Missing leads by idx that `prepare --fill-leads` stored as zeros."""
        if not (self._folder / TABLE_NAME).is_file():
            return {}
        filled = read_table(self._folder, ["idx", "filled_leads"]).set_index("idx")["filled_leads"]
        return {int(idx): {*parse_leads(leads)} for idx, leads in filled.items() if leads}

    def known(self, number: int) -> Dict[str, Any]:
        if self._table is None:
            there = (self._folder / TABLE_NAME).is_file()
            self._table = read_table(self._folder, ["idx", *_KNOWN]).set_index("idx") if there else ()
        idx = int(self._store.idx[number])
        row = self._table.loc[idx] if len(self._table) and idx in self._table.index else {}
        # pandas marks missing values in several ways; NaN is not equal to itself
        return {"idx": idx, **{name: value for name, value in row.items() if value is not None and value == value}}

    def __getstate__(self) -> Dict[str, Any]:
        # the processes that read need no table, which is large
        return {**self.__dict__, "_table": None}


@dataclass(frozen=True)
class _MatFiles:
    """Recordings of ECG-FM's manifests; their files are standardised."""

    manifest: FileManifest

    def __len__(self) -> int:
        return len(self.manifest.files)

    def name(self, number: int) -> str:
        return str(self.manifest.files[number][0])

    def read(self, number: int) -> InputRecording:
        from fairseq_signals_ext.data.stores import MatStore

        signal = MatStore(self.manifest).read(number)
        record_id = self.manifest.files[number][0].stem
        return InputRecording(
            Recording(record_id, signal.counts.astype(np.float64), signal.leads, signal.sample_rate), True
        )

    def known(self, number: int) -> Dict[str, Any]:
        return {}


@dataclass(frozen=True)
class _Unusable:
    """A manifest or folder that cannot be used; it must not stop a run on others."""

    path: str
    reason: str

    def __len__(self) -> int:
        return 1

    def name(self, number: int) -> str:
        return self.path

    def read(self, number: int) -> InputRecording:
        raise UserError(self.reason)

    def known(self, number: int) -> Dict[str, Any]:
        return {}


_Part = Union[_Files, _Shards, _MatFiles, _Unusable, Recordings]


@dataclass(frozen=True)
class Inputs:
    """Recordings in the order in which they were given; it can be sent to other processes.

    Attributes:
        parts: groups of recordings of the same kind.
    """

    parts: Tuple[_Part, ...]
    _starts: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_starts", np.cumsum([0, *map(len, self.parts)]))

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _find(self, number: int) -> Tuple[_Part, int]:
        part = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self.parts[part], number - int(self._starts[part])

    def name(self, number: int, ecg: Optional[int] = None) -> str:
        """The file of a recording, as messages and tables name it; in a shard `NNNNN.npy#ROW`.

        Args:
            ecg: number of the ECG in a file with several, from 1: `NAME#2`; None: the file.
        """
        part, place = self._find(number)
        return _as_text(part.name(place)) + ("" if ecg is None else f"#{ecg}")

    def read(self, number: int, ecg: Optional[int] = None) -> InputRecording:
        """Read a recording from its file alone.

        Args:
            ecg: number of the ECG in a file with several, from 1; None: the first.

        Raises:
            UserError: it cannot be read.
        """
        part, place = self._find(number)
        given = part.read(place, ecg) if isinstance(part, _Files) else part.read(place)
        record_id = given.recording.record_id
        if not is_no_text(record_id):
            return given
        # some formats use the file name as record id
        return given._replace(recording=dataclasses.replace(given.recording, record_id=_as_text(record_id)))

    def known(self, number: int) -> Dict[str, Any]:
        """Facts from a table about a recording: attributes of `Recording` and `RecordingFacts`."""
        part, place = self._find(number)
        return part.known(place)

    @property
    def shards(self) -> List[Path]:
        """Shards of all prepared folders in the inputs."""
        return [shard for part in self.parts if isinstance(part, _Shards) for shard in part.shards]

    def fingerprint(self) -> str:
        """A hash that is equal for the same recording names in the same order."""
        digest = hashlib.blake2b(digest_size=16)
        for number in range(len(self)):
            digest.update(f"{self.name(number)}\n".encode())
        return digest.hexdigest()

    def given(self, number: int) -> InputRecording:
        """As `read`, with all that is known of the recording.

        Raises:
            UserError: it cannot be read, or it is a file with several ECGs and no number is given.
        """
        given = self.read(number)
        if given.ecgs > 1:
            name = self.name(number)
            raise UserError(
                f"{name}: it contains {given.ecgs} ECGs; give those that you want as {name}#1, {name}#2, ..."
            )
        known = {name: value for name, value in self.known(number).items() if name in _OF_RECORDING}
        return given._replace(recording=dataclasses.replace(given.recording, **known))

    def recording(self, number: int) -> Recording:
        """The recording of `given`."""
        return self.given(number).recording


def _as_text(name: str) -> str:
    """A file name as valid text; undecodable bytes are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def find_inputs(
    given: Sequence[Union[str, Path]],
    sample_rate: Optional[float] = None,
    leads: Optional[str] = None,
    unit: Optional[str] = None,
    subset: Optional[str] = None,
) -> Inputs:
    """Find the recordings in files, folders and manifests.

    Args:
        given: ECG files in any mixture of formats; folders with ECG files at any depth; prepared folders; folders of
            splits; manifests of ours or ECG-FM's, which differ from tab-separated ECGs by their content. A signal
            file or a segment of a WFDB header that is also given is left out. `FILE#2` is the second ECG of a file
            that contains several. A manifest or folder that cannot be used counts as one recording that cannot be
            read.
        sample_rate, leads, unit: for files that do not contain them, see `read_ecg`.
        subset: of the folders of splits; None: all subsets.

    Raises:
        UserError: nothing is given, nothing can be used, or a subset is given and no folder is a split.
    """
    options = SourceOptions(sample_rate=sample_rate, leads=leads, unit=unit)
    metadata = {"sample_rate": sample_rate, "leads": None if leads is None else leads.split(","), "unit": unit}
    defaults = {name: value for name, value in metadata.items() if value is not None}
    parts: List[_Part] = []
    files: List[Item] = []
    for path in _without_signal_files([Path(one) for one in given]):
        if not path.is_dir() and not (path.suffix == MANIFEST_SUFFIX and is_manifest(path)):
            files.append(_item(path, defaults))
            continue
        if files:
            parts.append(_Files("", files))
            files = []
        parts.append(_of_folder_or_manifest(path, options, subset))
    if files:
        parts.append(_Files("", files))
    _check_found(given, parts, subset)
    return Inputs(tuple(parts))


def _check_found(given: Sequence[Union[str, Path]], parts: Sequence[_Part], subset: Optional[str]) -> None:
    """Raise a `UserError` if there is nothing to run, or an option has no effect."""
    if not parts:
        raise UserError("no recordings are given; name ECG files, folders or manifests")
    if not any(_is_there(Path(path)) for path in given):
        raise UserError(f"{given[0]}: no such file or folder; check the path")
    first = parts[0]
    if isinstance(first, _Unusable) and all(isinstance(part, _Unusable) for part in parts):
        raise UserError(first.reason)
    if subset is not None and not any(is_split(Path(path)) for path in given):
        raise UserError(f"--subset {subset}: none of the inputs is the folder of a split; leave it out, or give one")


def _item(path: Path, defaults: Mapping[str, Any]) -> Item:
    """A file, or one of several ECGs in a file."""
    numbered = None if path.exists() else split_number(str(path))
    if numbered is None:
        return Item(str(path), defaults=defaults)
    return Item(numbered[0], defaults=defaults).numbered(numbered[1])


def _is_there(path: Path) -> bool:
    """Whether a file, a WFDB record without suffix, or the file of a numbered ECG exists."""
    numbered = None if path.exists() else split_number(str(path))
    path = path if numbered is None else Path(numbered[0])
    return path.exists() or path.with_name(f"{path.name}.hea").exists()


def _without_signal_files(paths: Sequence[Path]) -> List[Path]:
    """Drop signal files and segments of WFDB headers in the list, as `records/*` contains both."""
    belonging = belonging_to(paths)
    return [path for path in paths if not belonging or path.resolve() not in belonging]


def _of_folder_or_manifest(path: Path, options: SourceOptions, subset: Optional[str]) -> _Part:
    try:
        manifests = manifests_of(path, subset)
        if manifests:
            return _of_manifests(manifests)
        source = open_source(path, options)
    except MissingPackageError:
        raise
    except UserError as error:
        return _Unusable(str(path), str(error))
    return _Files(str(source.folder), source.items)


def _of_manifests(paths: Sequence[Path]) -> _Part:
    manifest = read_manifests(paths)
    return _Shards(manifest) if isinstance(manifest, ShardManifest) else _MatFiles(manifest)
