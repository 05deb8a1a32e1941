"""Networks run over recordings: their segments in batches, and the outputs of each recording by itself.

A batch has segments of several recordings, or some of a long one. Segments do not depend on each other, so neither does
an output on what else is in its batch.
"""

import itertools
from dataclasses import dataclass
from typing import Callable, Dict, Iterable, Iterator, List, Sequence, Tuple, Union

import numpy as np

from fairseq_signals_ext.checkpoints.description import Preprocessing
from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.inference.backends import Outputs
from fairseq_signals_ext.inference.preprocessing import SegmentedRecording
from fairseq_signals_ext.inference.reading_ahead import ReadRecording, Rejected, Work, in_background, read_all

BATCH_SIZE = 32
# groups of recordings that are made ready while the model runs one
_GROUPS_AHEAD = 2

# from source and padding_mask of N segments to arrays of N rows
Run = Callable[[np.ndarray, np.ndarray], Outputs]


@dataclass(frozen=True)
class RunOptions:
    """How recordings are run; the result does not depend on it.

    Attributes:
        batch_size: segments in a batch.
        jobs: processes that read; 0: a thread.
    """

    batch_size: int = BATCH_SIZE
    jobs: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.jobs < 0:
            raise UserError(f"batch-size {self.batch_size}, jobs {self.jobs}: give at least 1 and 0")


@dataclass(frozen=True, eq=False)
class Ran:
    """What networks said of a recording.

    Attributes:
        read: the recording.
        outputs: for each network its outputs, arrays with a row a segment.
    """

    read: ReadRecording
    outputs: Tuple[Outputs, ...]


def run_segments(run: Run, segments: Sequence[SegmentedRecording], batch_size: int = BATCH_SIZE) -> List[Outputs]:
    """The outputs for each recording.

    Args:
        run: the network.
        segments: of recordings, preprocessed in the same way.
    """
    return _divided(map(lambda batch: run(*batch), _batches(segments, batch_size)), segments)


def run_recordings(
    runs: Sequence[Tuple[Preprocessing, Run]], work: Work, options: RunOptions, start: int = 0
) -> Iterator[Union[Ran, Rejected]]:
    """What networks say of recordings, in order; reading goes on while they run.

    Args:
        runs: networks, each with its own preprocessing, one of those of `work`.
        start: number of the first recording.

    Raises:
        MissingPackageError: a format needs a package that is not installed.
    """
    size = options.batch_size

    def ready() -> Iterator[_Group]:
        for group in _groups(read_all(work, start, options.jobs), size):
            yield group.made_ready(size)

    for group in in_background(ready, _GROUPS_AHEAD):
        of_networks = [group.outputs(preprocessing, run, size) for preprocessing, run in runs]
        outputs = iter(zip(*of_networks))
        for read in group.members:
            yield read if isinstance(read, Rejected) else Ran(read, next(outputs))


class _Group:
    """Recordings that are run together, with those between that are rejected."""

    def __init__(self, members: Sequence[Union[ReadRecording, Rejected]]):
        self.members = members
        recordings = [member for member in members if isinstance(member, ReadRecording)]
        names = recordings[0].segments if recordings else ()
        self._segments = {name: [recording.segments[name] for recording in recordings] for name in names}
        self._batches: Dict[Preprocessing, List[Tuple[np.ndarray, np.ndarray]]] = {}

    def made_ready(self, batch_size: int) -> "_Group":
        """The same, with its batches made, unless they are many."""
        for name, segments in self._segments.items():
            if sum(map(len, segments)) <= 2 * batch_size:
                self._batches[name] = list(_batches(segments, batch_size))
        return self

    def outputs(self, preprocessing: Preprocessing, run: Run, batch_size: int) -> List[Outputs]:
        """Those of each recording."""
        segments = self._segments.get(preprocessing)
        if not segments:
            return []
        batches = self._batches.get(preprocessing) or _batches(segments, batch_size)
        return _divided(map(lambda batch: run(*batch), batches), segments)


def _groups(found: Iterator[Union[ReadRecording, Rejected]], batch_size: int) -> Iterator[_Group]:
    """Recordings whose segments fill a batch, in order; one that is longer than a batch is alone."""
    members: List[Union[ReadRecording, Rejected]] = []
    segments = 0
    for read in found:
        more = read.facts.segments if isinstance(read, ReadRecording) else 0
        if segments and segments + more > batch_size:
            yield _Group(members)
            members, segments = [], 0
        members.append(read)
        segments += more
        if segments >= batch_size or len(members) >= batch_size:
            yield _Group(members)
            members, segments = [], 0
    if members:
        yield _Group(members)


def _batches(segments: Sequence[SegmentedRecording], size: int) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
    """Source and padding mask of all segments, at most so many at a time."""
    inputs = segments[0].preprocessing
    pieces = ((recording, number) for recording in segments for number in range(len(recording)))
    for batch in iter(lambda: list(itertools.islice(pieces, size)), []):
        source = np.empty((len(batch), len(inputs.leads), inputs.segment_samples), np.float32)
        padding = np.empty((len(batch), inputs.segment_samples), bool)
        for row, (recording, number) in enumerate(batch):
            recording.write_segment(number, source[row], padding[row])
        yield source, padding


def _divided(outputs: Iterable[Outputs], segments: Sequence[SegmentedRecording]) -> List[Outputs]:
    """Outputs of batches as those of recordings."""
    ends = np.cumsum([len(recording) for recording in segments])[:-1]
    whole = (np.concatenate(arrays) for arrays in zip(*outputs))
    return list(zip(*(np.split(array, ends) for array in whole)))
