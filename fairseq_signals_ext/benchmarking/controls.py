"""Controls for features of a model: hand-made measures, and the name of the data set alone.

Random weights of a model's architecture are the third control: `extraction.extract` of `random:CKPT`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, NamedTuple, Optional

import numpy as np

from fairseq_signals_ext.benchmarking.collecting import Row, open_recordings, settings_of
from fairseq_signals_ext.benchmarking.features import Features
from fairseq_signals_ext.benchmarking.hand_made import MEASURES, measures
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.data.standardising import to_millivolts
from fairseq_signals_ext.data.stores import ShardStore, Signal, Store
from fairseq_signals_ext.inference.inputs import Recordings
from fairseq_signals_ext.inference.reading_ahead import ReadingPlan, Rejected, read_all
from fairseq_signals_ext.inference.running import RunOptions
from fairseq_signals_ext.prepared.table import TABLE_NAME, read_table

HAND_MADE, SOURCE = "hand-made", "source"
# increase this when `measures` returns other values
_HAND_MADE_VERSION = 1


class _Measures(NamedTuple):
    """Facts that were read with the signal of a recording."""

    idx: int
    values: np.ndarray


class _MeasuredRecording(NamedTuple):
    """See `inference.inputs.InputRecording`."""

    beside: _Measures
    ecgs: int = 1


@dataclass(frozen=True)
class Measured:
    """Recordings of a store, measured in the process that reads them; see `inputs.Recordings`."""

    store: Store

    def __len__(self) -> int:
        return len(self.store)

    def name(self, number: int, ecg: Optional[int] = None) -> str:
        """Return the name of a recording in messages."""
        return self.store.name(number)

    def read(self, number: int, ecg: Optional[int] = None) -> _MeasuredRecording:
        """Compute the measures of a recording.

        Raises:
            UserError: it cannot be read.
        """
        signal = self.store.read(number)
        return _MeasuredRecording(_Measures(signal.idx, measures(millivolts_of(signal), signal.sample_rate)))

    def known(self, number: int) -> Dict[str, Any]:
        """Return no other facts."""
        return {}


def millivolts_of(signal: Signal) -> np.ndarray:
    """Convert a recording to mV: float64, 12 x samples, zeros for missing leads.

    Recordings in ECG-FM's files have no mV: they stay in standard deviations of each lead.
    """
    leads = list(signal.leads)
    gain, offset = to_millivolts(signal.scale, signal.zero)
    found = np.zeros((len(gain), signal.counts.shape[1]))
    found[leads] = signal.counts * gain[leads, None] + offset[leads, None]
    return found


def hand_made_settings(store: Store) -> Dict[str, Any]:
    """Return everything that hand-made features of these recordings depend on."""
    return settings_of(store, model={HAND_MADE: _HAND_MADE_VERSION})


class HandMade:
    """Hand-made features; see `collecting.Maker`."""

    kept = ()
    facts = {
        **{"name": HAND_MADE, "layers": [HAND_MADE], "statistics": 1, "dimensions": len(MEASURES)},
        "measures": list(MEASURES),
    }

    def rows(self, recordings: Recordings, how: RunOptions, start: int) -> Iterator[Row]:
        """Yield features of `Measured` recordings, in order.

        Raises:
            UserError: one of them cannot be read.
        """
        for read in read_all(ReadingPlan(recordings, []), start, how.jobs):
            if isinstance(read, Rejected):
                raise read.error
            yield Row(read.beside.idx, read.beside.values[None, None], 0, {})


def source_alone(data: Path) -> Optional[Features]:
    """Return the source of each recording in a manifest as features of one layer, with one dimension per source.

    Returns:
        None if all recordings have the same source.

    Raises:
        UserError: manifest or table cannot be read, or the table lacks a recording.
    """
    store = open_recordings(Path(data))
    if not isinstance(store, ShardStore):
        return None
    folder = store.manifest.shards[0].parent.parent
    known = read_table(folder, ["idx", "source"]).set_index("idx")["source"].astype(str)
    missing = np.setdiff1d(store.idx, known.index)
    if len(missing):
        raise UserError(f"{folder / TABLE_NAME}: recording idx {missing[0]} of {data} is not in it; prepare again")
    names, numbers = np.unique(known.loc[store.idx].to_numpy(), return_inverse=True)
    if len(names) < 2:
        return None
    return Features.of_arrays(SOURCE, store.idx, np.eye(len(names), dtype=np.float32)[numbers])
