"""Collect unusable values of a user's table for one message."""

from pathlib import Path
from typing import Dict, List, Union

from fairseq_signals_ext.common.errors import UserError


class TableProblems:
    """Values of a table that cannot be used: for each column the first one and their number."""

    def __init__(self) -> None:
        self._first: Dict[str, str] = {}
        self._counts: Dict[str, int] = {}

    def add(self, column: str, message: str, count: int = 1) -> None:
        """Note values of a column that cannot be used.

        Args:
            message: place of the first value, and its problem.
            count: number of such values.
        """
        self._first.setdefault(column, message)
        self._counts[column] = self._counts.get(column, 0) + count

    def check(self, table: Union[str, Path]) -> None:
        """Raise a `UserError` with all problems, if there are any."""
        if not self._first:
            return
        lines: List[str] = []
        for column, message in self._first.items():
            more = self._counts[column] - 1
            lines.append(f"{message} (and {more} more)" if more else message)
        if len(lines) == 1:
            raise UserError(f"{table}: {lines[0]}")
        total = sum(self._counts.values())
        raise UserError(f"{table}: {total} values in {len(lines)} columns cannot be used: {' | '.join(lines)}")
