"""Find P waves, QRS complexes and T waves of a recording with neurokit2."""

import warnings
from typing import Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from fairseq_signals_ext.inference.preprocessing import SegmentedRecording

# neurokit2's names for their edges
_NAMES = {"P": "P", "QRS": "R", "T": "T"}
# leads with usually the clearest waves
_FIRST_LEADS = ("II", "I", "V5", "V2")
# This method of neurokit2 finds both edges of the most complexes: of all complexes in twelve of twelve recordings of
# five sources, "dwt" only in four. It assumes that P and QRS last at most 0.1 s, and T 0.2 s.
_METHOD = "prominence"

Regions = Dict[str, List[Tuple[int, int]]]


class Waves(NamedTuple):
    """Positions of the waves of a recording.

    Attributes:
        lead: the lead used to find them.
        regions: for "P", "QRS" and "T": first and last sample of each wave, in samples of the model's input.
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
    """Find waves in lead II, otherwise in the first of I, V5, V2 and the others with QRS complexes; None if none has.

    Noise can also give waves.

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
        except Exception:  # neurokit2 raises many types of errors for short signals or signals without beats
            return None
    return {wave: _pairs(edges, name, len(signal)) for wave, name in _NAMES.items()}


def _pairs(edges: Dict[str, List[float]], name: str, samples: int) -> List[Tuple[int, int]]:
    """First and last sample of waves with both edges found."""
    pairs = zip(edges[f"ECG_{name}_Onsets"], edges[f"ECG_{name}_Offsets"])
    # NaN if an edge was not found; comparisons with NaN are false
    return [(int(first), int(last)) for first, last in pairs if 0 <= first < last < samples]
