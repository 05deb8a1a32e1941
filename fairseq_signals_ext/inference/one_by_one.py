"""Recordings looked at one by one, as `explain` and `report` do it, read as for runs in batches."""

from dataclasses import dataclass
from typing import Any, Callable, Dict, NamedTuple, Optional, Sequence

from fairseq_signals_ext.checkpoints.description import Preprocessing
from fairseq_signals_ext.common.progress import Progress
from fairseq_signals_ext.inference.inputs import InputRecording, Inputs
from fairseq_signals_ext.inference.preprocessing import SegmentedRecording
from fairseq_signals_ext.inference.reading_ahead import ReadingPlan, ReadRecording, Rejected, read_all, reason_of
from fairseq_signals_ext.inference.results import Results


def do_each(
    results: Results,
    inputs: Inputs,
    work: Callable[[ReadRecording], None],
    undo: Callable[[int, str], None],
    name: str,
    preprocessings: Sequence[Preprocessing] = (),
) -> None:
    """Do some work for each recording that results do not hold yet, with a bar that shows how far it is.

    A recording that cannot be read, or whose work fails, is noted as rejected, and stops no other.

    Args:
        work: for a recording, of which `beside` is the `InputRecording` with all that is known of it.
        undo: removes what work has left of a recording; with its number and why it was rejected.
        name: of the work, for the bar.
        preprocessings: for which recordings have segments.

    Raises:
        OSError: what is not the fault of a recording, such as a full disk, see `reason_of`.
        MissingPackageError: a format, or the work, needs a package that is not installed.
    """
    found = read_all(ReadingPlan(_Whole(inputs), preprocessings), results.done)
    for read in Progress(name, len(inputs), "recording", results.done).each(found):
        reason = read.reason if isinstance(read, Rejected) else _reason_against(work, read)
        if reason is not None:
            results.reject(read.name, reason)
            undo(read.number, reason)
        results.count()


def _reason_against(work: Callable[[ReadRecording], None], read: ReadRecording) -> Optional[str]:
    """Do the work; why that is not possible, or None."""
    try:
        work(read)
    except Exception as error:  # noqa: BLE001 - one file must not stop those that follow
        return reason_of(error, read.name)
    return None


class _ReadWhole(NamedTuple):
    """A recording that is kept beside its segments."""

    beside: InputRecording
    ecgs: int = 1

    def segmented(self, preprocessing: Preprocessing, name: str) -> SegmentedRecording:
        return self.beside.segmented(preprocessing, name)


@dataclass(frozen=True)
class _Whole:
    """`Recordings` with all that is known of them; a file with several of which none is asked for cannot be read."""

    inputs: Inputs

    def __len__(self) -> int:
        return len(self.inputs)

    def name(self, number: int, ecg: Optional[int] = None) -> str:
        return self.inputs.name(number, ecg)

    def read(self, number: int, ecg: Optional[int] = None) -> _ReadWhole:
        return _ReadWhole(self.inputs.given(number))

    def known(self, number: int) -> Dict[str, Any]:
        return {}  # more than `read` gives
