"""Figures of the verification's page, as data URIs, the same bytes from the same data."""

import base64
import contextlib
import io
from typing import TYPE_CHECKING, Any, Iterator, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.pages.ecg_paper import draw_ecg
from fairseq_signals_ext.palette import PALETTE, PLOT_STYLE
from fairseq_signals_ext.readers import Recording

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = {**PLOT_STYLE, "svg.hashsalt": "verify", "font.size": 8}
_LONGEST_NAME = 22
# five pixels a mm, so that lines of a paper in mm are all equally thick
_PNG_DPI, _PNG_COLOURS = 127, 64


class Axis(NamedTuple):
    """What the figure of a distribution shows.

    Attributes:
        label: quantity and unit.
        edges: of the bins; values beyond them count in the outermost.
        ticks: where numbers stand.
        plausible: range that is marked.
        log: logarithmic.
    """

    label: str
    edges: np.ndarray
    ticks: Sequence[float]
    plausible: Optional[Tuple[float, float]] = None
    log: bool = False


@contextlib.contextmanager
def _figure(width: float, height: float) -> Iterator["Figure"]:
    """An empty figure, in inches."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def _data_uri(content: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def distributions(values: Mapping[str, np.ndarray], axis: Axis) -> str:
    """Histograms below each other, a row per source, each with its median as a line and a number.

    Args:
        values: of the recordings, by source.
    """
    with _figure(3.9, 0.75 + 0.36 * len(values)) as figure:
        axes = figure.subplots()
        if axis.plausible:
            axes.axvspan(*axis.plausible, color=PALETTE.plausible, linewidth=0)
        for row, numbers in enumerate(values.values()):
            _draw_row(axes, len(values) - 1 - row, numbers, axis.edges)
        axes.set(xlabel=axis.label, xlim=(axis.edges[0], axis.edges[-1]), ylim=(-0.15, len(values)))
        axes.set_xscale("log" if axis.log else "linear")
        axes.set_xticks(axis.ticks, [f"{tick:g}" for tick in axis.ticks])
        axes.set_xticks([], minor=True)
        axes.set_yticks([len(values) - 0.7 - row for row in range(len(values))], [_short(name) for name in values])
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "left", "right"]].set_visible(False)
        content = io.BytesIO()
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
        return _data_uri(content.getvalue(), "image/svg+xml")


def _draw_row(axes: Any, base: float, numbers: np.ndarray, edges: np.ndarray) -> None:
    numbers = numbers[np.isfinite(numbers)]
    axes.axhline(base, color=PALETTE.rule, linewidth=0.6)
    end = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 7.5}
    if not len(numbers):
        axes.text(1.02, base + 0.3, "none", **end)
        return
    counts, _ = np.histogram(np.clip(numbers, edges[0], edges[-1]), edges)
    axes.stairs(base + 0.8 * counts / counts.max(), edges, baseline=base, fill=True, color=PALETTE.accent, alpha=0.75)
    median = float(np.median(numbers))
    axes.plot(np.clip([median, median], edges[0], edges[-1]), [base, base + 0.85], color=PALETTE.ink, linewidth=1.2)
    axes.text(1.02, base + 0.3, f"{median:.3g}", **end)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def printed_ecg(recording: Recording, notes: Mapping[str, str]) -> str:
    """The first ten seconds of a recording on their paper.

    Args:
        notes: what to write beside the name of a lead, such as "constant".
    """
    from PIL import Image

    drawn, content = io.BytesIO(), io.BytesIO()
    draw_ecg(recording, notes=notes).savefig(drawn, format="png", dpi=_PNG_DPI)
    # a grid and a trace need few colours, and the file is a quarter then
    Image.open(drawn).convert("RGB").quantize(_PNG_COLOURS).save(content, format="png", optimize=True)
    return _data_uri(content.getvalue(), "image/png")
