"""Whether the labels of a file are those of the model."""

import logging
from typing import Optional, Sequence

from fairseq_signals_ext.data.label_table import LabelTable
from fairseq_signals_ext.errors import UserError

logger = logging.getLogger(__name__)


def labels_by_name(table: LabelTable, wanted: Sequence[str]) -> LabelTable:
    """A table for the labels of a loaded checkpoint, which others' labels need not have all, nor in its order.

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
    """See that a table has the model's labels.

    Args:
        num_labels: of the model.
        saved: label names of the checkpoint that the model is from, if it has them.
        is_loaded: the model is used as it is, not trained.

    Raises:
        UserError: another number of labels, or another order.
    """
    if len(table.names) != num_labels:
        cure = "leave model.num_labels out, or give the file that it is meant for"
        if is_loaded:
            cure = "the checkpoint does not name them: give a file with its columns"
        raise UserError(f"{table.path}: {len(table.names)} labels, but the model has num_labels={num_labels}; {cure}")
    for number, (name, theirs) in enumerate(zip(table.names, saved or ())):
        if name != theirs:
            raise UserError(
                f"{table.path}: label {number} is {name!r}, but the checkpoint was trained with {theirs!r} there; "
                f"give labels in the checkpoint's order: {', '.join(saved or ())}"
            )
