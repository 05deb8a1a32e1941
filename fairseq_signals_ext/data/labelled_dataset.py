"""The dataset that fine-tuning reads: segments with what is known of their recordings."""

from typing import Any, Dict, List, Optional

import numpy as np
import torch

from fairseq_signals_ext.data.ecg_dataset import EcgDataset
from fairseq_signals_ext.data.label_table import LabelTable
from fairseq_signals_ext.data.model_labels import KnownLabels
from fairseq_signals_ext.data.segments import Item


class LabelledEcgDataset(EcgDataset):
    """Segments with labels, joined by the recording's `idx`.

    Args:
        labels: the table; None: labels are stored beside the signals, as `label` in a `.mat` file.
        num_labels: L, how many there are to be.
        classes: labels are 1, 0 or NaN; else any numbers.
        exclusive: exactly one of a recording's labels is 1.
        others: of `EcgDataset`.
    """

    def __init__(
        self,
        *args: Any,
        labels: Optional[LabelTable],
        num_labels: int,
        classes: bool,
        exclusive: bool = False,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.labels = KnownLabels(labels, num_labels, classes, exclusive)

    def known(self) -> np.ndarray:
        """Labels of all recordings, see `KnownLabels.of_store`."""
        return self.labels.of_store(self.store)

    def collater(self, items: List[Item]) -> Dict[str, Any]:
        """A batch of `EcgDataset` with `idx` (int64, N) and `label` (float64, N x L; NaN where not known).

        fairseq rounds float32 of a batch where it trains with fp16 or bf16; labels are left as they are.

        Raises:
            UserError: a recording has no label.
        """
        batch = super().collater(items)
        if items:
            signals = [item.signal for item in items]
            batch["idx"] = torch.tensor([signal.idx for signal in signals])
            batch["label"] = torch.from_numpy(self.labels.of(signals))
        return batch
