"""Labels of ECG-FM's interpretation task that have another meaning in its training data than their names.

Its 17 labels come from MIMIC-IV-ECG's statements by patterns; `label --reports --semantics ecg-fm` repeats this.
"""

from typing import List, Optional, Sequence

from fairseq_signals_ext.evaluation.predictions import ECG_FM_AGGREGATION

_MEANINGS = {
    "Accessory pathway conduction": "atrial fibrillation or flutter, and a few with WPW",
    "Supraventricular tachycardia with aberrancy": "a bundle branch block or aberrancy with any tachycardia but VT, "
    "atrial fibrillation at any rate among them",
    "Tachycardia": "also every atrial fibrillation or flutter, at any rate",
    "Bradycardia": "also every complete AV block and idioventricular rhythm",
    "Atrioventricular block": "also a block that is not named further, as in intraventricular block",
    "Electronic pacemaker": "also fusion complexes and a wandering pacemaker",
}
_OF_ALL = "findings that the report negates, calls possible, or describes for earlier ECGs are positive, too"
_IN_SHORT = (
    "ECG-FM's labels are not all what they are called: accessory pathway conduction means mostly atrial fibrillation "
    "or flutter, tachycardia also either of them at any rate; fairseq-signals-ext inspect lists the others."
)
_WHOSE = "Labels of ECG-FM's own training, or made with --semantics ecg-fm"


def label_notes(names: Sequence[str]) -> List[str]:
    """Return sentences on the meaning of a model's labels; empty if they are not ECG-FM's 17.

    Args:
        names: of the model's labels.
    """
    if not _are_ecg_fm(names):
        return []
    return [f"{_WHOSE}: {_OF_ALL}.", *(f"{name}: {meaning}." for name, meaning in _MEANINGS.items())]


def short_label_note(names: Sequence[str]) -> Optional[str]:
    """Return the same as one sentence, for pages; None if the labels are not ECG-FM's 17."""
    return _IN_SHORT if _are_ecg_fm(names) else None


def _are_ecg_fm(names: Sequence[str]) -> bool:
    return set(names) == set(ECG_FM_AGGREGATION)
