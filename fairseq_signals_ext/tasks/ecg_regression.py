"""Task `ecg_regression`: labels that are numbers, such as age or ejection fraction."""

from dataclasses import dataclass
from pathlib import Path
from typing import Tuple

import numpy as np

# importing registers it: fairseq's user-dir mechanism imports tasks and models, but not criterions
import fairseq_signals_ext.criterions.regression  # noqa: F401
from fairseq_signals_ext.data.ecg_dataset import LabelledEcgDataset
from fairseq_signals_ext.evaluation.kinds import REGRESSION
from fairseq_signals_ext.tasks.ecg_classification import EcgClassificationConfig, EcgClassificationTask
from fairseq_signals_ext.tasks.ecg_pretraining import register_ecg_task


@dataclass
class EcgRegressionConfig(EcgClassificationConfig):
    """Options of the task."""


@register_ecg_task("ecg_regression", dataclass=EcgRegressionConfig)
class EcgRegressionTask(EcgClassificationTask):
    """As `ecg_classification`, with labels that are numbers.

    Mean and deviation of the training labels scale the model's outputs; checkpoints contain them as the task's state.
    """

    kind = REGRESSION.name

    def _look_at_labels(self, dataset: LabelledEcgDataset, path: Path, training: bool) -> None:
        # the scale needs all training labels, also from .mat files
        if training or dataset.store.idx is not None:
            values = self._known_labels(dataset, path, training)
            if training:
                self._learn_scale(values)

    def _learn_scale(self, values: np.ndarray) -> None:
        if "target_mean" in self.state.state_dict:  # from the checkpoint that the training continues from
            return
        std = np.nanstd(values, axis=0)
        self.state.merge_state_dict(
            {
                "target_mean": np.nanmean(values, axis=0).tolist(),
                "target_std": np.where(std > 0, std, 1).tolist(),
            }
        )

    def target_scale(self) -> Tuple[Tuple[float, ...], Tuple[float, ...]]:
        """Return mean and deviation of each label in the training set, in its unit."""
        saved, labels = self.state.state_dict, self._num_labels
        return tuple(saved.get("target_mean", [0.0] * labels)), tuple(saved.get("target_std", [1.0] * labels))
