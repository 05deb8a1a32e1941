"""A validation set's predictions, batch by batch, from all ranks: what exact metrics need."""

from typing import Any, Dict, List, Tuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from fairseq_signals_ext.evaluation.predictions import Predictions
from fairseq_signals_ext.ranks import gather_from_all_ranks

_COLUMNS = ("id", "idx", "patient_id", "label")


class PredictionCollector:
    """Collects what a model says of segments.

    fairseq's own way, logging outputs, would either sum scores or send them as pickles of at most
    `all_gather_list_size` bytes; here they stay where they are and are gathered as tensors, once.
    """

    def __init__(self) -> None:
        self.batches = 0
        self._rows: Dict[str, List[Tensor]] = {key: [] for key in (*_COLUMNS, "scores")}

    def add(self, sample: Dict[str, Any], scores: Tensor) -> None:
        """Add a batch of `LabelledEcgDataset` and the scores (float64, N x L) of its segments."""
        self.batches += 1
        for key in _COLUMNS:
            self._rows[key].append(sample[key].cpu())
        self._rows["scores"].append(scores.cpu())

    def gather(self, label_names: Tuple[str, ...], **facts: Any) -> Predictions:
        """Predictions of all ranks in order of the data set; all ranks have to call it, each gets all.

        fairseq gives a rank that has run out of batches an earlier one again: each segment is taken once.

        Args:
            facts: more of `Predictions`.
        """
        device = torch.device("cuda") if dist.is_initialized() and dist.get_backend() == "nccl" else torch.device("cpu")
        rows = {key: gather_from_all_ranks(torch.cat(pieces).to(device)).cpu() for key, pieces in self._rows.items()}
        _, first = np.unique(rows["id"].numpy(), return_index=True)
        return Predictions(
            scores=rows["scores"].numpy()[first],
            targets=rows["label"].numpy()[first],
            idx=rows["idx"].numpy()[first],
            patient=rows["patient_id"].numpy()[first],
            label_names=label_names,
            **facts,
        )
