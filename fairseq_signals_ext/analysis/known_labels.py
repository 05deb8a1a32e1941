"""The labels of recordings as texts, for tables and pages that name known recordings."""

from pathlib import Path
from typing import Optional, Sequence

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.data.label_table import LabelTable, check_same_folder, read_labels

NO_LABEL = "none"


class KnownLabelTexts:
    """What is known of each recording of a prepared folder, as a text."""

    def __init__(self, table: LabelTable):
        self._table = table

    def of(self, idx: Optional[int]) -> Optional[str]:
        """Labels of a recording, `AF; LBBB`, or `none` of them; values of a regression as `LVEF 45`.

        Returns:
            None for a recording of which no label is known, or that is not of a prepared folder.
        """
        if idx is None or idx >= len(self._table):
            return None
        values = self._table.rows(np.array([idx]))[0].tolist()
        known = [(name, value) for name, value in zip(self._table.names, values) if value == value]
        there = [name if value == 1 else f"{name} {value:g}" for name, value in known if value != 0]
        return ("; ".join(there) or NO_LABEL) if known else None


def known_labels(path: str, shards: Sequence[Path]) -> KnownLabelTexts:
    """The labels in a folder of labels of the prepared folder that recordings are from.

    Args:
        path: a labels folder or its `y.npy`.
        shards: those that the recordings are in.

    Raises:
        UserError: the labels cannot be read, are of another prepared folder, or no recording is of one.
    """
    if not shards:
        raise UserError(f"{path}: labels are of a prepared folder, but none of the recordings is; leave them out")
    table = read_labels(path)
    for shard in {shard.parent: shard for shard in shards}.values():
        check_same_folder(table, shard)
    return KnownLabelTexts(table)
