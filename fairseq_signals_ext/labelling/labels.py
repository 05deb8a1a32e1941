"""`Labels`: what is known of the recordings of a prepared folder, whatever it was made from."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Union

import numpy as np

from fairseq_signals_ext.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Labels:
    """Labels of all recordings of a prepared folder.

    Attributes:
        names: of the labels.
        idx: int64, of the recordings.
        values: float64, recordings x labels: 1 positive, 0 negative, NaN unknown; with `regression` any number.
        regression: whether the values are numbers to predict, not classes.
        codes: for each label the codes that make it, if codes do.
        settings: how they were made; plain data.
        counts: what was found and left out on the way; plain data.
        notes: the same in sentences, for the user.
        details: a table to keep beside them (`values.csv`).
    """

    names: List[str]
    idx: np.ndarray
    values: np.ndarray
    regression: bool = False
    codes: Dict[str, List[str]] = field(default_factory=dict)
    settings: Dict[str, Any] = field(default_factory=dict)
    counts: Dict[str, Any] = field(default_factory=dict)
    notes: List[str] = field(default_factory=list)
    details: Optional["pd.DataFrame"] = None

    @property
    def recordings(self) -> int:
        """How many recordings have at least one label that is known."""
        return int((~np.isnan(self.values)).any(axis=1).sum())

    @property
    def known(self) -> np.ndarray:
        """Recordings by label of which it is known (int64)."""
        return (~np.isnan(self.values)).sum(axis=0)

    @property
    def positives(self) -> np.ndarray:
        """Recordings by label that have it (int64)."""
        return (self.values == 1).sum(axis=0)


def in_sources(out: Union[str, Path], table: "pd.DataFrame", sources: Optional[Sequence[str]]) -> np.ndarray:
    """Which rows of the table are of these sources (bool); all without `sources`.

    Raises:
        UserError: the folder has no such source.
    """
    if sources is None:
        return np.ones(len(table), bool)
    present = sorted(table["source"].dropna().unique())
    for source in sources:
        if source not in present:
            raise UserError(f"{out}: no source {source!r}; its sources are {', '.join(present) or 'not named'}")
    return table["source"].isin(list(sources)).to_numpy()


def drop_rare(labels: Labels, min_count: int) -> Labels:
    """The labels that at least `min_count` recordings have; the others are named in the notes.

    Raises:
        UserError: none is left.
    """
    kept = np.flatnonzero(labels.positives >= min_count)
    rare = [f"{name} ({count})" for name, count in zip(labels.names, labels.positives) if count < min_count]
    if not len(kept):
        raise UserError(f"no label has {min_count} positive recordings ({', '.join(rare)}); lower --min-count")
    if rare:
        labels.notes.append(f"labels with fewer than {min_count} positives were dropped: {', '.join(rare)}")
    labels.names, labels.values = [labels.names[label] for label in kept], labels.values[:, kept]
    labels.counts["dropped_labels"], labels.settings["min_count"] = rare, min_count
    return labels
