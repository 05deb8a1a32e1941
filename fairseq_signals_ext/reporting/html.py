"""Pieces of a page; every text in them is escaped."""

from html import escape
from typing import Iterable, Sequence, Tuple

from fairseq_signals_ext.plotting.text import cleaned


def text(value: object) -> str:
    """A text from outside: one line without control characters, escaped."""
    return escape(cleaned(value))


def terms(pairs: Iterable[Tuple[str, object]]) -> str:
    """Names with what is known under them."""
    items = (f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in pairs)
    return f"<dl>{''.join(items)}</dl>"


def table(caption: str, header: Sequence[str], rows: Iterable[str]) -> str:
    """A table.

    Args:
        caption: read aloud, not shown.
        header: of the columns.
        rows: each a whole `<tr>`.
    """
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in header)
    caption = f'<caption class="aloud">{text(caption)}</caption>'
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def notes(lines: Iterable[str]) -> str:
    """Sentences below what they are about."""
    return f'<div class="notes">{" ".join(f"<p>{text(line)}</p>" for line in lines)}</div>'
