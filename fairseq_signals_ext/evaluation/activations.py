"""From a classifier's logits to probabilities, by the name that its description gives."""

from typing import Any, Callable, Mapping

import numpy as np


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    # this form overflows nowhere
    return 0.5 * (1 + np.tanh(0.5 * logits))


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


# of arrays, float64, N x labels
PROBABILITIES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {"sigmoid": _sigmoid, "softmax": _softmax}


def tensor_probabilities(logits: Any, activation: str) -> Any:
    """The same for a torch tensor, with gradient."""
    return logits.softmax(-1) if activation == "softmax" else logits.sigmoid()
