"""P waves, QRS complexes and T waves of a recording, by neurokit2."""

import warnings
from typing import Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from fairseq_signals_ext.inference.preprocessing import SegmentedRecording

# as neurokit2 calls the edges of each
_NAMES = {"P": "P", "QRS": "R", "T": "T"}
# where waves are usually clearest
_FIRST_LEADS = ("II", "I", "V5", "V2")
# Of neurokit2's methods the one that finds both edges of most complexes: of all in twelve of twelve recordings of five
# sources, "dwt" in four. It takes P and QRS to last at most 0.1 s, T 0.2 s.
_METHOD = "prominence"

Regions = Dict[str, List[Tuple[int, int]]]


class Waves(NamedTuple):
    """Where the waves of a recording are.

    Attributes:
        lead: in which they were found.
        regions: of "P", "QRS" and "T": first and last sample of each, in samples of the model's input.
    """

    lead: str
    regions: Regions

    def mask(self, wave: str, samples: int) -> np.ndarray:
        """Bool, samples: True where there is such a wave."""
        found = np.zeros(samples, bool)
        for first, last in self.regions[wave]:
            found[first : last + 1] = True
        return found


def find_waves(segments: SegmentedRecording) -> Optional[Waves]:
    """The waves in lead II, or else in the first of I, V5, V2 and the others that has QRS complexes; None if none has.

    In noise, too, something may be found.

    Args:
        segments: a recording at the model's rate.
    """
    names = [segments.preprocessing.leads[column] for column in segments.columns]
    for lead in sorted(names, key=lambda name: (*_FIRST_LEADS, *names).index(name)):
        row = names.index(lead)
        signal = segments.counts[row] * float(segments.gain[row])
        regions = _regions(signal, segments.preprocessing.sample_rate) if np.ptp(signal) > 0 else None
        if regions is not None and regions["QRS"]:
            return Waves(lead, regions)
    return None


def _regions(signal: np.ndarray, rate: float) -> Optional[Regions]:
    import neurokit2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            cleaned = neurokit2.ecg_clean(signal, sampling_rate=rate)
            _, peaks = neurokit2.ecg_peaks(cleaned, sampling_rate=rate)
            _, edges = neurokit2.ecg_delineate(cleaned, peaks["ECG_R_Peaks"], sampling_rate=rate, method=_METHOD)
        except Exception:  # it has errors of many kinds for signals that are short or have no beats
            return None
    return {wave: _pairs(edges, name, len(signal)) for wave, name in _NAMES.items()}


def _pairs(edges: Dict[str, List[float]], name: str, samples: int) -> List[Tuple[int, int]]:
    """First and last sample of the waves of which both were found."""
    pairs = zip(edges[f"ECG_{name}_Onsets"], edges[f"ECG_{name}_Offsets"])
    # not a number where it was not found, and then no comparison holds
    return [(int(first), int(last)) for first, last in pairs if 0 <= first < last < samples]
