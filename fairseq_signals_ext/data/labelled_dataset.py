"""The dataset that fine-tuning reads: segments with what is known of their recordings."""

from typing import Any, Dict, List, Optional

import numpy as np
import torch

from fairseq_signals_ext.data.ecg_dataset import EcgDataset
from fairseq_signals_ext.data.label_table import LabelTable
from fairseq_signals_ext.data.segments import Item
from fairseq_signals_ext.errors import UserError


class LabelledEcgDataset(EcgDataset):
    """Segments with labels, joined by the recording's `idx`.

    Args:
        labels: the table; None: labels are stored beside the signals, as `label` in a `.mat` file.
        num_labels: L, how many there are to be.
        others: of `EcgDataset`.
    """

    def __init__(self, *args: Any, labels: Optional[LabelTable], num_labels: int, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.labels = labels
        self.num_labels = num_labels

    def collater(self, items: List[Item]) -> Dict[str, Any]:
        """A batch of `EcgDataset` with `idx` (int64, N) and `label` (float64, N x L; NaN where not known).

        fairseq rounds float32 of a batch where it trains with fp16 or bf16; labels are left as they are.

        Raises:
            UserError: a recording has no label.
        """
        batch = super().collater(items)
        if items:
            idx = np.array([item.signal.idx for item in items], np.int64)
            batch["idx"] = torch.from_numpy(idx)
            batch["label"] = torch.from_numpy(self._labels(items, idx))
        return batch

    def _labels(self, items: List[Item], idx: np.ndarray) -> np.ndarray:
        if self.labels is None:
            return self._stored(items)
        if idx.min() < 0:
            name = items[int(idx.argmin())].signal.name
            raise UserError(f"{name}: does not say its idx, the row of its label; make it again with idx")
        return self.labels.rows(idx)

    def _stored(self, items: List[Item]) -> np.ndarray:
        for item in items:
            label, name = item.signal.label, item.signal.name
            if label is None:
                raise UserError(f"{name}: no label; set task.label_file (fairseq-validate: --label-file) to a y.npy")
            if len(label) != self.num_labels:
                raise UserError(f"{name}: {len(label)} labels where model.num_labels={self.num_labels}; set one right")
        return np.array([item.signal.label for item in items], np.float64)
