"""Work on recordings one by one, for `explain` and `report`; they are read as for runs in batches."""

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
    """Do some work for each recording that is not in the results yet, with a progress bar.

    A recording that cannot be read, or that the work fails for, is listed as rejected; the others continue.

    Args:
        work: called with each recording; its `beside` is the `InputRecording` with all known facts.
        undo: removes files that the work has written for a rejected recording; called with its number and the reason.
        name: of the work, for the progress bar.
        preprocessings: recordings get segments for each of them.

    Raises:
        OSError: an error that no recording causes, such as a full disk, see `reason_of`.
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
    """Do the work; return why it failed, or None."""
    try:
        work(read)
    except Exception as error:  # noqa: BLE001 - one file must not stop those that follow
        return reason_of(error, read.name)
    return None


class _ReadWhole(NamedTuple):
    """A recording that is kept with its segments."""

    beside: InputRecording
    ecgs: int = 1

    def segmented(self, preprocessing: Preprocessing, name: str) -> SegmentedRecording:
        return self.beside.segmented(preprocessing, name)


@dataclass(frozen=True)
class _Whole:
    """`Recordings` with all known facts; a file with several ECGs needs the number of one."""

    inputs: Inputs

    def __len__(self) -> int:
        return len(self.inputs)

    def name(self, number: int, ecg: Optional[int] = None) -> str:
        return self.inputs.name(number, ecg)

    def read(self, number: int, ecg: Optional[int] = None) -> _ReadWhole:
        return _ReadWhole(self.inputs.given(number))

    def known(self, number: int) -> Dict[str, Any]:
        return {}  # `read` already returns all facts
