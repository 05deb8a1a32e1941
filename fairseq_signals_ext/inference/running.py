"""Run networks on recordings: segments in batches, outputs per recording.

A batch has the segments of several recordings, or some segments of a long one. Outputs of a segment do not depend on
the rest of its batch. On a CPU several batches run at once, each with its share of the threads: no batch waits for
the slowest of many threads, and recordings are read meanwhile.
"""

import dataclasses
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Callable, Deque, Iterator, List, NamedTuple, Optional, Sequence, Tuple, TypeVar, Union

import numpy as np

from fairseq_signals_ext.checkpoints.description import Preprocessing
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.inference.backends import Outputs
from fairseq_signals_ext.inference.preprocessing import SegmentedRecording
from fairseq_signals_ext.inference.reading_ahead import ReadingPlan, ReadRecording, Rejected, read_all, reason_of

BATCH_SIZE = 32
_MOST_AT_ONCE = 4

# source and padding_mask of N segments -> arrays of N rows
Run = Callable[[np.ndarray, np.ndarray], Outputs]
# changes in place the source (N x leads x samples) of segments; the second argument is the number of the first
Change = Callable[[np.ndarray, int], None]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class RunOptions:
    """Settings of a run; the result does not depend on them.

    Attributes:
        batch_size: segments in a batch.
        jobs: processes that read; 0: the caller's process reads, while other threads run the networks.
        at_once: batches that run at the same time; None: up to four, one per core.
    """

    batch_size: int = BATCH_SIZE
    jobs: int = 0
    at_once: Optional[int] = None

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.jobs < 0 or (self.at_once or 1) < 1:
            raise UserError(f"batch-size {self.batch_size}, jobs {self.jobs}: give at least 1 and 0")

    @property
    def batches_at_once(self) -> int:
        """The number of batches that run at the same time."""
        return self.at_once or min(_MOST_AT_ONCE, cores())


def cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, eq=False)
class RecordingOutputs:
    """Outputs of networks for a recording.

    Attributes:
        read: the recording.
        outputs: for each network its outputs, arrays with one row per segment.
        ends_batch: no later recording shares a batch with it, so a run that continues after it has the same batches
            as an uninterrupted one.
    """

    read: ReadRecording
    outputs: Tuple[Outputs, ...]
    ends_batch: bool = True

    def rejected(self, error: UserError) -> Rejected:
        """The recording as one that cannot be used."""
        read = self.read
        return Rejected(read.number, read.name, reason_of(error, read.name), read.ecgs, read.group, self.ends_batch)


def run_segments(
    run: Run, segments: SegmentedRecording, batch_size: int = BATCH_SIZE, change: Optional[Change] = None
) -> Outputs:
    """Compute a network's outputs for the segments of one recording.

    Args:
        change: applied to the network's input.
    """
    outputs = []
    for start in range(0, len(segments), batch_size):
        source, padding_mask = segments.batch(start, min(start + batch_size, len(segments)))
        if change is not None:
            change(source, start)
        outputs.append(run(source, padding_mask))
    return tuple(map(np.concatenate, zip(*outputs)))


def run_recordings(
    runs: Sequence[Tuple[Preprocessing, Run]], plan: ReadingPlan, options: RunOptions, start: int = 0
) -> Iterator[Union[RecordingOutputs, Rejected]]:
    """Compute the outputs of networks for recordings, in order.

    Args:
        runs: networks, each with one of the preprocessings of `plan`; several threads call them.
        start: number of the first recording.

    Raises:
        MissingPackageError: a format needs a package that is not installed.
    """
    batches = _batches(read_all(plan, start, options.jobs), options.batch_size)
    outputs: List[Tuple[Outputs, ...]] = []
    for batch, of_pieces in _in_order(lambda batch: (batch, _run_batch(runs, batch)), batches, options.batches_at_once):
        for piece, output in zip(batch, of_pieces):
            if isinstance(piece.read, Rejected):
                yield dataclasses.replace(piece.read, ends_batch=piece is batch[-1])
                continue
            outputs.append(output)
            if piece.is_last:
                # a network's outputs are tuples of arrays; each piece has some of their rows
                joined = tuple(tuple(map(np.concatenate, zip(*parts))) for parts in zip(*outputs))
                yield RecordingOutputs(piece.read, joined, piece is batch[-1])
                outputs = []


class _Piece(NamedTuple):
    """Segments of a recording that share a batch; none for a rejected recording."""

    read: Union[ReadRecording, Rejected]
    start: int = 0
    stop: int = 0
    is_last: bool = True

    def segments(self, preprocessing: Preprocessing) -> Tuple[SegmentedRecording, range]:
        """The recording and the numbers of its segments."""
        assert isinstance(self.read, ReadRecording)
        recording = self.read.segments[preprocessing]
        return recording, range(self.start, len(recording) if self.is_last else self.stop)


def _batches(found: Iterator[Union[ReadRecording, Rejected]], size: int) -> Iterator[List[_Piece]]:
    """Pieces that fill a batch, in order; a recording is divided only if it is longer than a batch."""
    batch: List[_Piece] = []
    room = size
    for piece in _pieces(found, size):
        is_of_another = bool(batch) and piece.read.group != batch[-1].read.group
        if is_of_another or piece.stop - piece.start > room or len(batch) >= size:
            yield batch
            batch, room = [], size
        batch.append(piece)
        room -= piece.stop - piece.start
    if batch:
        yield batch


def _pieces(found: Iterator[Union[ReadRecording, Rejected]], size: int) -> Iterator[_Piece]:
    for read in found:
        if isinstance(read, Rejected):
            yield _Piece(read)
            continue
        # if preprocessings give different numbers of segments, the last piece has the rest of each
        segments = min(map(len, read.segments.values()))
        for start in range(0, segments, size):
            yield _Piece(read, start, min(start + size, segments), start + size >= segments)


def _run_batch(runs: Sequence[Tuple[Preprocessing, Run]], batch: Sequence[_Piece]) -> List[Tuple[Outputs, ...]]:
    """Outputs of each network for each piece."""
    pieces = [piece for piece in batch if isinstance(piece.read, ReadRecording)]
    if not pieces:
        return [() for _ in batch]
    inputs = {one: _input([piece.segments(one) for piece in pieces]) for one in dict.fromkeys(one for one, _ in runs)}
    of_networks = []
    for preprocessing, run in runs:
        source, padding, ends = inputs[preprocessing]
        of_networks.append(zip(*(np.split(array, ends) for array in run(source, padding))))
    of_pieces = iter(list(zip(*of_networks)))
    return [next(of_pieces) if isinstance(piece.read, ReadRecording) else () for piece in batch]


def _input(pieces: Sequence[Tuple[SegmentedRecording, range]]) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source and padding mask of all pieces, and the rows at which later pieces begin."""
    ends = np.cumsum([len(numbers) for _, numbers in pieces])
    inputs = pieces[0][0].preprocessing
    source = np.empty((ends[-1], len(inputs.leads), inputs.segment_samples), np.float32)
    padding = np.empty((ends[-1], inputs.segment_samples), bool)
    rows = ((recording, number) for recording, numbers in pieces for number in numbers)
    for row, (recording, number) in enumerate(rows):
        recording.write_segment(number, source[row], padding[row])
    return source, padding, ends[:-1]


def _in_order(function: Callable[[Item], Result], items: Iterator[Item], at_once: int) -> Iterator[Result]:
    """As `map`, with several threads; takes only as many items ahead as keep the threads busy."""
    with ThreadPoolExecutor(at_once) as pool:
        waiting: "Deque[Future[Result]]" = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * at_once:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
