"""Known labels of recordings as texts, for tables and pages."""

from pathlib import Path
from typing import Optional, Sequence

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.data.label_table import LabelTable, check_same_folder, read_labels

NO_LABEL = "none"


class KnownLabelTexts:
    """Known labels of each recording in a prepared folder, as text."""

    def __init__(self, table: LabelTable):
        self._table = table

    def of(self, idx: Optional[int]) -> Optional[str]:
        """Labels of a recording, such as `AF; LBBB`, or `none`; for a regression such as `LVEF 45`.

        Returns:
            None for a recording without known labels, or one that is not in a prepared folder.
        """
        if idx is None or idx >= len(self._table):
            return None
        values = self._table.rows(np.array([idx]))[0].tolist()
        known = [(name, value) for name, value in zip(self._table.names, values) if value == value]
        there = [name if value == 1 else f"{name} {value:g}" for name, value in known if value != 0]
        return ("; ".join(there) or NO_LABEL) if known else None


def known_labels(path: str, shards: Sequence[Path]) -> KnownLabelTexts:
    """Read the labels of recordings in a prepared folder.

    Args:
        path: a folder of labels or its `y.npy`.
        shards: shards of the recordings.

    Raises:
        UserError: the labels cannot be read or belong to another prepared folder, or no recording is in one.
    """
    if not shards:
        raise UserError(f"{path}: labels are of a prepared folder, but none of the recordings is; leave them out")
    table = read_labels(path)
    for shard in {shard.parent: shard for shard in shards}.values():
        check_same_folder(table, shard)
    return KnownLabelTexts(table)
