"""What a model said of recordings, beside what is known of them."""

from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np

from fairseq_signals_ext.errors import UserError


@dataclass(frozen=True)
class Predictions:
    """Scores and targets of N items, which are segments or whole recordings, for L labels.

    Attributes:
        scores: float64, N x L: probabilities in [0, 1]; for regression, values in the label's own unit.
        targets: float64, N x L: 1, 0, or NaN where it is not known; for regression the known value.
        idx: int64, N: the item's recording, its row in the label file.
        patient: int64, N: number that stands for the recording's patient; what a bootstrap resamples.
        label_names: L names.
        record_id: N strings from the source; None where the data do not say.
        aggregation: how segments' scores become a recording's, unless told otherwise; see `aggregation.to_recordings`.
        kind: "classification", or "regression" where values are numbers to predict.
    """

    scores: np.ndarray
    targets: np.ndarray
    idx: np.ndarray
    patient: np.ndarray
    label_names: Tuple[str, ...]
    record_id: Optional[np.ndarray] = None
    kind: str = "classification"
    aggregation: str = "mean"

    def __len__(self) -> int:
        return len(self.idx)

    def check(self) -> None:
        """See that metrics can be had of these.

        Raises:
            UserError: shapes differ, a score is not finite, or a target of a classification is not 0, 1 or NaN.
        """
        shape = (len(self.idx), len(self.label_names))
        for name, values in (("scores", self.scores), ("targets", self.targets)):
            if values.shape != shape:
                raise UserError(f"{name}: {values.shape}, but there are {shape[0]} items and {shape[1]} labels")
        if self.patient.shape != shape[:1]:
            raise UserError(f"patient: {self.patient.shape}, but there are {shape[0]} items")
        self._refuse(~np.isfinite(self.scores), self.scores, "score", "take a checkpoint from before it diverged")
        if self.kind == "classification":
            odd = ~np.isin(self.targets, (0, 1)) & ~np.isnan(self.targets)
            self._refuse(odd, self.targets, "target", "labels of a classification are 0, 1 or NaN")

    def _refuse(self, bad: np.ndarray, values: np.ndarray, what: str, cure: str) -> None:
        if bad.any():
            item, label = np.argwhere(bad)[0]
            place = f"recording {self.idx[item]}, label {self.label_names[label]!r}"
            raise UserError(f"{place}: {what} {values[item, label]:g} ({bad.sum()} such); {cure}")
