"""Figures of the verification's report, as data URIs, the same bytes from the same data."""

import base64
import contextlib
import io
from typing import TYPE_CHECKING, Any, Iterator, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.leads import LEADS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK, _ACCENT, _PLAUSIBLE, _PAPER = "#26323c", "#2a6f97", "#dcefe0", "#f3c9c9"
# names of sources come from outside: a $ in one is no mathematics
_STYLE = {
    "svg.hashsalt": "verify",
    "text.parse_math": False,
    "font.size": 8,
    "text.color": _INK,
    "axes.edgecolor": "#9aa5ad",
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}
# rows and columns of the standard printed ECG, which shows a quarter of the time in each column
_PRINTED = (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"))
_PRINTED_SECONDS = 10.0
_LABEL_BOX = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 1}
_LONGEST_NAME = 22


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


def _data_uri(figure: "Figure", kind: str) -> str:
    content = io.BytesIO()
    if kind == "svg":
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    else:
        figure.savefig(content, format="png", dpi=120, metadata={"Software": None}, pil_kwargs={"optimize": True})
    mime = "image/svg+xml" if kind == "svg" else "image/png"
    return f"data:{mime};base64,{base64.b64encode(content.getvalue()).decode()}"


def distributions(values: Mapping[str, np.ndarray], axis: Axis) -> str:
    """Histograms below each other, a row a source, each with its median as a line and a number.

    Args:
        values: of the recordings, by source.
    """
    with _figure(3.9, 0.75 + 0.36 * len(values)) as figure:
        axes = figure.subplots()
        if axis.plausible:
            axes.axvspan(*axis.plausible, color=_PLAUSIBLE, linewidth=0)
        for row, numbers in enumerate(values.values()):
            _draw_row(axes, len(values) - 1 - row, numbers, axis.edges)
        axes.set(xlabel=axis.label, xlim=(axis.edges[0], axis.edges[-1]), ylim=(-0.15, len(values)))
        axes.set_xscale("log" if axis.log else "linear")
        axes.set_xticks(axis.ticks, [f"{tick:g}" for tick in axis.ticks])
        axes.set_xticks([], minor=True)
        axes.set_yticks([len(values) - 0.7 - row for row in range(len(values))], [_short(name) for name in values])
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "left", "right"]].set_visible(False)
        return _data_uri(figure, "svg")


def _draw_row(axes: Any, base: float, numbers: np.ndarray, edges: np.ndarray) -> None:
    numbers = numbers[np.isfinite(numbers)]
    axes.axhline(base, color="#cfd6da", linewidth=0.6)
    end = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 7.5}
    if not len(numbers):
        axes.text(1.02, base + 0.3, "none", **end)
        return
    counts, _ = np.histogram(np.clip(numbers, edges[0], edges[-1]), edges)
    axes.stairs(base + 0.8 * counts / counts.max(), edges, baseline=base, fill=True, color=_ACCENT, alpha=0.75)
    median = float(np.median(numbers))
    axes.plot(np.clip([median, median], edges[0], edges[-1]), [base, base + 0.85], color=_INK, linewidth=1.2)
    axes.text(1.02, base + 0.3, f"{median:.3g}", **end)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def printed_ecg(signal: Mapping[int, np.ndarray], rate: float, marks: Mapping[int, str]) -> str:
    """A recording as it is printed: four columns of a quarter of its first 10 s each, and lead II as a whole below.

    Args:
        signal: by position in `LEADS`, mV; leads may be absent.
        rate: Hz.
        marks: what to write beside the name of a lead, such as "derived".
    """
    samples = max(1, min(len(next(iter(signal.values()), ())), round(_PRINTED_SECONDS * rate)))
    centred = {lead: values[:samples] - np.median(values[:samples]) for lead, values in signal.items()}
    # without the highest 0.5 %, which may reach into the row above, as on paper
    ranges = [np.ptp(np.percentile(values, [0.5, 99.5])) for values in centred.values() if len(values)]
    spacing = 1.1 * float(max([1.5, *ranges]))
    with _figure(6.6, 3.3) as figure:
        axes = figure.subplots()
        _draw_paper(axes, samples / rate, 4.3 * spacing)
        for row, names in enumerate((*_PRINTED, ("II",))):
            for column, name in enumerate(names):
                stop = (column + 1) * samples // len(names)
                window = slice(column * samples // len(names), stop)
                _draw_lead(axes, centred.get(LEADS.index(name)), window, rate, (3.5 - row) * spacing, spacing)
                note = marks.get(LEADS.index(name), "")
                at = (window.start / rate + 0.04, (3.93 - row) * spacing)
                axes.text(*at, f"{name} {note}".strip(), va="top", fontsize=7, fontweight="bold", bbox=_LABEL_BOX)
        axes.set(xlim=(0, samples / rate), ylim=(0, 4.3 * spacing), yticks=[])
        squares = "squares: 0.2 s, 0.5 mV" if _has_squares(4.3 * spacing) else f"height: {4.3 * spacing:.3g} mV"
        axes.set_xlabel(f"s ({squares})")
        axes.spines[:].set_visible(False)
        return _data_uri(figure, "png")


def _has_squares(height_mv: float) -> bool:
    return height_mv <= 40


def _draw_paper(axes: Any, seconds: float, height_mv: float) -> None:
    style = {"color": _PAPER, "linewidth": 0.5, "zorder": 0}
    axes.vlines(np.arange(0, seconds + 0.01, 0.2), 0, height_mv, **style)
    if _has_squares(height_mv):
        axes.hlines(np.arange(0, height_mv + 0.01, 0.5), 0, seconds, **style)


def _draw_lead(
    axes: Any, values: Optional[np.ndarray], window: slice, rate: float, base: float, spacing: float
) -> None:
    """A piece of a lead around the height `base`, no further from it than the next row."""
    time = np.arange(window.start, window.stop) / rate
    if values is None:
        axes.plot(time[[0, -1]], [base, base], color="#9aa5ad", linewidth=0.6, linestyle=":")
        return
    axes.plot(time, base + np.clip(values[window], -spacing, spacing), color=_INK, linewidth=0.6)
