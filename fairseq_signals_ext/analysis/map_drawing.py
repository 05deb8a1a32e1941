"""Draw a map of embeddings, coloured by values of the recordings."""

import os
import textwrap
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional, Sequence

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.palette import CATEGORIES, PALETTE, PLOT_STYLE
from fairseq_signals_ext.data.checksums import check
from fairseq_signals_ext.evaluation.plots import save_png
from fairseq_signals_ext.prepared.table import TABLE_NAME, read_table
from fairseq_signals_ext.sources.text_tables import as_keys, as_texts, check_columns, columns_of, place, read_chunks

if TYPE_CHECKING:
    import pandas as pd

# columns that identify a recording; the first one in a table is used
KEYS = ("file", "record_id", "idx")
_OTHER_COLOUR, _UNKNOWN_COLOUR = "#89939a", "#d3d8db"
_NUMBERS = "viridis"
_OTHER, _UNKNOWN = "other", "unknown"
_WIDEST_NAME = 26
_STYLE = {**PLOT_STYLE, "font.size": 8, "axes.linewidth": 0.6}


def check_column(table: Path, column: str) -> None:
    """Check that a table can be joined, before embeddings are computed.

    Raises:
        UserError: it cannot be read, or the column or a column that identifies recordings is missing.
    """
    check_columns(table, [column])
    _key_of(table)


def values_for(recordings: "pd.DataFrame", column: str, table: Optional[Path] = None) -> np.ndarray:
    """The value of each recording in a column, as text; empty if unknown.

    Args:
        recordings: `Embeddings.recordings`.
        column: its name.
        table: CSV or Parquet with one row per recording, joined by its first column of these: `file` (as it was
            embedded), `record_id` (equal ids get the same value), `idx` (`labels.csv` of a folder with embedded
            shards). The table of a prepared folder is joined by shard and row. None: use a column of `recordings`.

    Raises:
        UserError: see `check_column`; two rows have different values for a recording, or no row matches a recording.
    """
    if table is None:
        if column not in recordings.columns:
            present = ", ".join(recordings.columns)
            raise UserError(f"no column {column!r} beside the embeddings ({present}); name one, or give --table")
        return as_texts(recordings[column]).to_numpy()
    key = _key_of(table)
    known, own = _known_values(table, key, column), _own_names(recordings, key)
    if key == "shard" and not any(one in known for one in own):  # the files themselves were embedded
        key = "record_id"
        known, own = _known_values(table, key, column), _own_names(recordings, key)
    if not any(one in known for one in own):
        raise UserError(f"{table}: none of its {key} is of the embedded recordings, such as {own[0]!r}; correct them")
    return np.array([known.get(one, "") for one in own], object)


def _own_names(recordings: "pd.DataFrame", key: str) -> List[Optional[str]]:
    """Keys of the embedded recordings, like `_keys` of a table."""
    if key == "record_id":
        return list(as_keys(recordings["record_id"]))
    return [os.path.abspath(file) for file in recordings["file"]]


def _known_values(table: Path, key: str, column: str) -> Dict[Optional[str], str]:
    """Values by key of their recording."""
    known: Dict[Optional[str], str] = {}
    for chunk in read_chunks(table, ["shard", "row", column] if key == "shard" else [key, column]):
        texts = as_texts(chunk[column])
        for one, text, row in zip(_keys(chunk, key, table), texts, chunk.index):
            if one is not None and known.setdefault(one, text) != text:
                raise UserError(f"{table}: {place(table, row)}: another {column} of {key} {one!r}; keep one of them")
    return known


def _key_of(table: Path) -> str:
    check(table)
    present = columns_of(table)
    if table.name == TABLE_NAME and {"shard", "row"} <= {*present}:
        return "shard"
    key = next((name for name in KEYS if name in present), None)
    if key is None:
        raise UserError(f"{table}: it has none of the columns {', '.join(KEYS)}; its columns are {', '.join(present)}")
    if key == "idx" and not (_prepared_folder(table) / TABLE_NAME).is_file():
        raise UserError(f"{table}: has idx, but is not DIR/labels/NAME/labels.csv; add a column record_id or file")
    return key


def _prepared_folder(labels: Path) -> Path:
    return Path(os.path.abspath(labels)).parent.parent.parent


def _keys(rows: "pd.DataFrame", key: str, table: Path) -> List[Optional[str]]:
    """The key of each row's recording."""
    if key == "shard":
        return _shard_names(rows, table.parent)
    if key == "file":
        return [name if name is None else os.path.abspath(name) for name in as_keys(rows["file"])]
    if key == "record_id":
        return list(as_keys(rows["record_id"]))
    folder = _prepared_folder(table)
    prepared = read_table(folder, ["idx", "shard", "row"])
    names = dict(zip(prepared["idx"].astype(str), _shard_names(prepared, folder)))
    return [names.get(idx) for idx in as_keys(rows["idx"])]


def _shard_names(rows: "pd.DataFrame", folder: Path) -> List[Optional[str]]:
    """Names of recordings of a prepared folder, as in `inference.inputs`."""
    top = os.path.abspath(folder)
    return [os.path.join(top, f"{shard}#{row}") for shard, row in zip(rows["shard"], rows["row"])]


class Colouring(NamedTuple):
    """Values for the colours of a map.

    Attributes:
        name: of the values.
        values: a text per point; empty if unknown.
    """

    name: str
    values: np.ndarray


def draw_map(points: np.ndarray, method: str, path: Path, colouring: Optional[Colouring] = None) -> None:
    """Draw a map into a `.png`, the same bytes from the same values.

    Numbers with a fraction, or more than ten different numbers, get a colour scale. Other values are categories: up to
    ten have their own colour; of more, only the nine most frequent ones.

    Args:
        points: x and y, N x 2.
        method: method of the projection, see `map.project`.
        colouring: values of the points.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(8.6, 6.2))
        axes = figure.add_axes((0.03, 0.03, 0.68, 0.85))
        axes.set(xticks=(), yticks=())
        _draw_points(figure, axes, points, colouring)
        by = f", coloured by {textwrap.shorten(colouring.name, 60, placeholder='…')}" if colouring else ""
        figure.text(0.03, 0.945, f"Embeddings of ECGs{by}", fontsize=11, fontweight="bold")
        figure.text(0.03, 0.905, _explanation(len(points), method), color=PALETTE.muted)
        save_png(figure, path)


def _explanation(count: int, method: str) -> str:
    if method == "UMAP":
        how = "UMAP, 15 neighbours by cosine: what is near is alike; long distances and sizes mean little"
    else:
        how = "the first two principal components, as there are too few for UMAP"
    return f"{count} point{'s' * (count != 1)}; {how}"


def _draw_points(figure: Any, axes: Any, points: np.ndarray, colouring: Optional[Colouring]) -> None:
    # in random order, otherwise the last source would cover the others
    order = np.random.default_rng(0).permutation(len(points))
    points = points[order]
    if colouring is None:
        _scatter(axes, points, len(points), color=PALETTE.accent)
        return
    values = colouring.values[order].astype(str)
    is_known = values != ""
    numbers = _as_numbers(values[is_known])
    _scatter(axes, points[~is_known], len(points), color=_UNKNOWN_COLOUR)
    if numbers is None:
        entries = _draw_categories(axes, points[is_known], values[is_known], len(points))
    else:
        drawn = _scatter(axes, points[is_known], len(points), c=numbers, cmap=_NUMBERS)
        bar = figure.colorbar(drawn, cax=figure.add_axes((0.735, 0.2, 0.02, 0.55)))
        bar.outline.set_visible(False)
        bar.ax.set_title(textwrap.fill(colouring.name, _WIDEST_NAME), fontsize=8, loc="left", pad=8)
        entries = []
    if not is_known.all():
        entries.append(_Entry(_UNKNOWN, _UNKNOWN_COLOUR, int((~is_known).sum())))
    _draw_legend(axes, entries)


class _Entry(NamedTuple):
    """An entry of a legend."""

    name: str
    colour: str
    points: int


def _draw_categories(axes: Any, points: np.ndarray, values: np.ndarray, total: int) -> List[_Entry]:
    names = _named(values)
    colours = dict(zip(names, CATEGORIES))
    is_other = ~np.isin(values, names)
    _scatter(axes, points[is_other], total, color=_OTHER_COLOUR)
    _scatter(axes, points[~is_other], total, c=[colours[value] for value in values[~is_other]])
    entries = [_Entry(name, colour, int((values == name).sum())) for name, colour in colours.items()]
    return entries + [_Entry(_OTHER, _OTHER_COLOUR, int(is_other.sum()))] * bool(is_other.any())


def _draw_legend(axes: Any, entries: Sequence[_Entry]) -> None:
    if not entries:
        return
    marks = [_mark(entry.colour) for entry in entries]
    names = [textwrap.shorten(entry.name, _WIDEST_NAME, placeholder="…") for entry in entries]
    texts = [f"{name} ({entry.points})" for name, entry in zip(names, entries)]
    place = {"loc": "upper left", "bbox_to_anchor": (1.02, 1), "borderaxespad": 0}
    axes.legend(marks, texts, frameon=False, handletextpad=0.2, **place)


def _named(values: np.ndarray) -> List[str]:
    """The categories with their own colour, the most frequent first."""
    # equally frequent ones are sorted by name, so that the order of points does not matter
    ranked = sorted(Counter(values.tolist()).items(), key=lambda item: (-item[1], item[0]))
    most = len(CATEGORIES) if len(ranked) <= len(CATEGORIES) else len(CATEGORIES) - 1
    return [name for name, _ in ranked[:most]]


def _as_numbers(values: np.ndarray) -> Optional[np.ndarray]:
    """Values as numbers on a scale; None for categories."""
    try:
        numbers = values.astype(np.float64)
    except ValueError:
        return None
    if not len(numbers) or not np.isfinite(numbers).all():
        return None
    is_scale = (numbers % 1 != 0).any() or len(np.unique(numbers)) > len(CATEGORIES)
    return numbers if is_scale else None


def _scatter(axes: Any, points: np.ndarray, total: int, **colours: Any) -> Any:
    size = float(np.clip(20_000 / total, 0.5, 24))
    return axes.scatter(*points.T, s=size, linewidths=0, alpha=0.85 if total < 20_000 else 0.5, **colours)


def _mark(colour: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], marker="o", linestyle="", markersize=5, color=colour)
