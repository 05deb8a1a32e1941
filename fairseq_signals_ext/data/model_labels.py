"""Labels for training or evaluating a model: from a file, by name, or stored beside signals."""

import logging
from typing import NamedTuple, Optional, Sequence

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.data.label_table import NOT_EXCLUSIVE, LabelTable, are_classes, are_exclusive, meaning_of
from fairseq_signals_ext.data.stores import Signal, Store

logger = logging.getLogger(__name__)


def labels_by_name(table: LabelTable, wanted: Sequence[str]) -> LabelTable:
    """Return a table with the labels of a loaded checkpoint; the given table may lack some, or have another order.

    Raises:
        UserError: it has none of them.
    """
    if table.names == tuple(wanted):
        return table
    if table.names == tuple(f"label_{number}" for number in range(len(wanted))):  # it has no names
        return LabelTable(table.path, table.values, wanted, table.codes)
    common = [name for name in wanted if name in table.names]
    if not common:
        raise UserError(
            f"{table.path}: has none of the checkpoint's labels, {', '.join(wanted)}, but {', '.join(table.names)};"
            f" name its columns so in label_def.csv beside it"
        )
    logger.warning(
        f"{table.path}: {len(common)} of the checkpoint's {len(wanted)} labels, by name: {', '.join(common)}; "
        f"the others are not known, {len(table.names) - len(common)} further ones are left out"
    )
    return table.chosen(wanted)


def check_labels(table: LabelTable, num_labels: int, saved: Optional[Sequence[str]], is_loaded: bool) -> None:
    """Check that a table has the model's labels.

    Args:
        num_labels: of the model.
        saved: label names in the model's checkpoint, if it has them.
        is_loaded: the model is used as it is, not trained.

    Raises:
        UserError: another number of labels, or another order.
    """
    if len(table.names) != num_labels:
        hint = "leave model.num_labels out, or give the file that it is meant for"
        if is_loaded:
            hint = "the checkpoint does not name them: give a file with its columns"
        raise UserError(f"{table.path}: {len(table.names)} labels, but the model has num_labels={num_labels}; {hint}")
    for number, (name, theirs) in enumerate(zip(table.names, saved or ())):
        if name != theirs:
            raise UserError(
                f"{table.path}: label {number} is {name!r}, but the checkpoint was trained with {theirs!r} there; "
                f"give labels in the checkpoint's order: {', '.join(saved or ())}"
            )


class KnownLabels(NamedTuple):
    """Labels of recordings, joined by their `idx`.

    Attributes:
        table: the labels of a file; None: labels are stored beside the signals, as `label` in a `.mat` file.
        number: L, expected number of labels.
        classes: labels are 1, 0 or NaN; else any numbers.
        exclusive: exactly one of a recording's labels is 1.
    """

    table: Optional[LabelTable]
    number: int
    classes: bool
    exclusive: bool = False

    def of_store(self, store: Store) -> np.ndarray:
        """Return the labels of all recordings: float64, recordings x L; reads each `.mat` file, but no shard.

        Raises:
            UserError: a recording has no label.
        """
        if self.table is not None and store.idx is not None:
            return self.table.rows(store.idx)
        return self.of([store.read(number) for number in range(len(store))])

    def of(self, signals: Sequence[Signal]) -> np.ndarray:
        """Return the labels of recordings: float64, n x L; NaN where not known.

        Raises:
            UserError: a recording has no label, or labels of another number or kind.
        """
        if self.table is None:
            return np.array([self._stored(signal) for signal in signals])
        for signal in signals:
            if signal.idx < 0:
                raise UserError(f"{signal.name}: has no idx, the row of its label; write it again with idx")
        return self.table.rows(np.array([signal.idx for signal in signals]))

    def _stored(self, signal: Signal) -> np.ndarray:
        label, name = signal.label, signal.name
        if label is None:
            raise UserError(f"{name}: no label; set task.label_file (fairseq-validate: --label-file) to a y.npy")
        if len(label) != self.number:
            raise UserError(f"{name}: {len(label)} labels where model.num_labels={self.number}; set one right")
        if self.classes and not are_classes(label).all():
            hint = meaning_of(label[~are_classes(label)][0], label) or "see task ecg_regression"
            raise UserError(f"{name}: label {label.tolist()} is not of 0, 1 and NaN; {hint}")
        if self.exclusive and not are_exclusive(label[np.newaxis]).all():
            raise UserError(f"{name}: label {label.tolist()}: {NOT_EXCLUSIVE}")
        return label
