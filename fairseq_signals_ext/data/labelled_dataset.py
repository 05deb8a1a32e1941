"""The dataset that fine-tuning reads: segments with what is known of their recordings."""

from typing import Any, Dict, List, Optional

import numpy as np
import torch

from fairseq_signals_ext.data.ecg_dataset import EcgDataset
from fairseq_signals_ext.data.label_table import NOT_EXCLUSIVE, LabelTable, are_classes, are_exclusive, meaning_of
from fairseq_signals_ext.data.segments import Item
from fairseq_signals_ext.data.stores import Signal
from fairseq_signals_ext.errors import UserError


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
        self.labels = labels
        self.num_labels = num_labels
        self.classes = classes
        self.exclusive = exclusive

    def known(self) -> np.ndarray:
        """Labels of all recordings: float64, recordings x L; reads each `.mat` file, but no shard.

        Raises:
            UserError: a recording has no label.
        """
        if self.labels is not None and self.store.idx is not None:
            return self.labels.rows(self.store.idx)
        signals = [self.store.read(number) for number in range(len(self.store))]
        return self._labels(signals)

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
            batch["label"] = torch.from_numpy(self._labels(signals))
        return batch

    def _labels(self, signals: List[Signal]) -> np.ndarray:
        if self.labels is None:
            return np.array([self._stored(signal) for signal in signals])
        for signal in signals:
            if signal.idx < 0:
                raise UserError(f"{signal.name}: does not say its idx, the row of its label; make it again with idx")
        return self.labels.rows(np.array([signal.idx for signal in signals]))

    def _stored(self, signal: Signal) -> np.ndarray:
        label, name = signal.label, signal.name
        if label is None:
            raise UserError(f"{name}: no label; set task.label_file (fairseq-validate: --label-file) to a y.npy")
        if len(label) != self.num_labels:
            raise UserError(f"{name}: {len(label)} labels where model.num_labels={self.num_labels}; set one right")
        if self.classes and not are_classes(label).all():
            cure = meaning_of(label[~are_classes(label)][0], label) or "see task ecg_regression"
            raise UserError(f"{name}: label {label.tolist()} is not of 0, 1 and NaN; {cure}")
        if self.exclusive and not are_exclusive(label[np.newaxis]).all():
            raise UserError(f"{name}: label {label.tolist()}: {NOT_EXCLUSIVE}")
        return label
