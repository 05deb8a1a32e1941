"""Batches of several recordings: full where possible, in order, and only as many as are worked on."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import plain_recording

from fairseq_signals_ext.checkpoints.description import Preprocessing
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.inference.inputs import InputRecording
from fairseq_signals_ext.inference.reading_ahead import ReadingPlan, Rejected
from fairseq_signals_ext.inference.running import RecordingOutputs, RunOptions, run_recordings

SMALL = Preprocessing(sample_rate=10.0, segment_samples=4, stride_samples=4, standardization="segment")
SLOW = Preprocessing(sample_rate=5.0, segment_samples=2, stride_samples=2, standardization="segment")


class NumberedInputs:
    """Recordings with these numbers of segments; samples contain the numbers; 0: a rejected recording."""

    def __init__(self, segments):
        self.segments = segments
        self.read_so_far = 0

    def __len__(self):
        return len(self.segments)

    def name(self, number):
        return f"file{number}"

    def known(self, number):
        return {}

    def read(self, number):
        self.read_so_far = number + 1
        if not self.segments[number]:
            raise UserError("none")
        samples = 4 * self.segments[number] + number % 3
        return InputRecording(plain_recording(np.arange(12 * samples).reshape(12, -1) % 97 + number, 10))


def first_samples(sizes):
    """A network that returns the first and the last sample of lead V6."""

    def run(source, padding_mask):
        sizes.append(len(source))
        return source[:, 11, :1].copy(), source[:, 11, -1:].copy()

    return run


@given(
    st.lists(st.integers(0, 9), max_size=10),
    st.integers(1, 6),
    st.integers(1, 3),
    st.lists(st.sampled_from([SMALL, SLOW]), min_size=1, max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_each_recording_has_the_outputs_of_its_segments(segments, batch_size, at_once, kinds):
    inputs, sizes = NumberedInputs(segments), []
    work = ReadingPlan(inputs, list(dict.fromkeys(kinds)))
    runs = [(kind, first_samples(sizes)) for kind in kinds]
    found = list(run_recordings(runs, work, RunOptions(batch_size, at_once=at_once)))
    assert [one.number if isinstance(one, Rejected) else one.read.number for one in found] == list(range(len(segments)))
    for number, one in enumerate(found):
        if isinstance(one, Rejected):
            assert not segments[number]
            continue
        for kind, outputs in zip(kinds, one.outputs):
            source, _ = one.read.segments[kind].batch(0, len(one.read.segments[kind]))
            for output, column in zip(outputs, (0, -1)):
                np.testing.assert_array_equal(output[:, 0], source[:, 11, column])
    # a batch holds at most one segment more than asked for, where rates differ
    assert all(size <= batch_size + (SLOW in kinds) * len(segments) for size in sizes)


def test_a_recording_is_divided_only_if_it_is_longer_than_a_batch():
    sizes = []
    work = ReadingPlan(NumberedInputs([3, 3, 3, 0, 2, 9, 1]), [SMALL])
    list(run_recordings([(SMALL, first_samples(sizes))], work, RunOptions(4, at_once=1)))
    # 3 | 3 | 3 | 2 | 4, 4 of 9 | its last with the next
    assert sizes == [3, 3, 3, 2, 4, 4, 2]


def test_reading_is_only_a_little_ahead():
    inputs = NumberedInputs([2] * 50)
    for done, _ in enumerate(
        run_recordings([(SMALL, first_samples([]))], ReadingPlan(inputs, [SMALL]), RunOptions(2, at_once=3))
    ):
        # one batch is being filled, seven wait or run
        assert inputs.read_so_far <= done + 1 + 8


def test_batches_run_at_the_same_time():
    """Each waits for the other."""
    both = threading.Barrier(2, timeout=20)

    def run(source, padding_mask):
        both.wait()
        return (source[:, 0, :1],)

    found = list(
        run_recordings([(SMALL, run)], ReadingPlan(NumberedInputs([1] * 4), [SMALL]), RunOptions(1, at_once=2))
    )
    assert len(found) == 4


def test_who_stops_listening_does_not_wait_for_all():
    result = []

    def run(source, padding_mask):
        time.sleep(0.01)
        result.append(len(source))
        return (source[:, 0, :1],)

    found = run_recordings([(SMALL, run)], ReadingPlan(NumberedInputs([1] * 1000), [SMALL]), RunOptions(1, at_once=2))
    assert isinstance(next(found), RecordingOutputs)
    found.close()
    assert len(result) < 10


def test_an_error_of_the_network_is_raised():
    def run(source, padding_mask):
        raise UserError("its weights are damaged")

    with pytest.raises(UserError, match="weights are damaged"):
        list(run_recordings([(SMALL, run)], ReadingPlan(NumberedInputs([1]), [SMALL]), RunOptions()))
