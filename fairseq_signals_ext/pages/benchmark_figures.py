"""Figures of a benchmark's page: differences, single labels, and layers."""

from typing import TYPE_CHECKING, Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.common.palette import CATEGORIES, PALETTE, PLOT_STYLE
from fairseq_signals_ext.pages.figures import svg_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = {**PLOT_STYLE, "font.family": ["DejaVu Sans", "sans-serif"], "font.size": 8, "axes.linewidth": 0.6}
# the number of marks does not divide the number of colours, so many models have different pairs of both
_MARKS = ("o", "s", "^", "D", "v", "P", "X")
_LINE, _ABOVE, _LONGEST = 0.2, 0.75, 30


class Estimate(NamedTuple):
    """A value with its interval; None where undefined."""

    name: str
    point: Optional[float]
    low: Optional[float]
    high: Optional[float]


def forest(panels: Mapping[str, Sequence[Estimate]], axis: str) -> str:
    """Draw differences with intervals, one panel below the other; returns an `<svg>`.

    Args:
        panels: heading -> rows.
        axis: label of the axis.
    """
    rows = [max(1, len(one)) for one in panels.values()]
    figure = _figure(6.4, sum(_ABOVE + _LINE * one for one in rows))
    all_axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=[3 + one for one in rows])
    for axes, (heading, estimates) in zip(all_axes.ravel(), panels.items()):
        heights = np.arange(len(estimates))[::-1]
        axes.axvline(0, color=PALETTE.faint, linewidth=0.9)
        for height, one in zip(heights, estimates):
            _draw_estimate(axes, height, one)
        axes.set_yticks(heights, [_short(one.name) for one in estimates])
        axes.set_ylim(-0.6, len(estimates) - 0.4)
        axes.set_title(heading, fontsize=8.5, fontweight="bold", loc="left")
        _tidy(axes, "x")
    all_axes.ravel()[-1].set_xlabel(axis)
    return _svg(figure, f"Differences with intervals: {', '.join(panels)}")


def _draw_estimate(axes: Any, height: float, one: Estimate) -> None:
    if one.point is None or one.low is None or one.high is None:
        axes.text(0, height, "undefined", va="center", ha="center", color=PALETTE.muted, fontsize=7)
        return
    colour = PALETTE.mark if one.high < 0 else PALETTE.accent if one.low > 0 else PALETTE.muted
    axes.plot([one.low, one.high], [height, height], color=colour, linewidth=1.6, solid_capstyle="butt")
    axes.plot([one.point], [height], "o", color=colour, markersize=4.5)


def labels(models: Mapping[str, Sequence[Optional[float]]], names: Sequence[str], axis: str) -> str:
    """Draw each label's value for each model, a row per label; returns an `<svg>`.

    Args:
        models: name -> a value per label.
        names: of the labels, the highest row first.
    """
    figure = _figure(6.4, 0.9 + _LINE * len(names) + 0.16 * len(models))
    axes = figure.subplots()
    heights = np.arange(len(names))[::-1]
    axes.hlines(heights, *_ends(models), color=PALETTE.row, linewidth=0.6, zorder=0)
    for number, (model, values) in enumerate(models.items()):
        known = [(value, height) for value, height in zip(values, heights) if value is not None]
        axes.plot(*zip(*known), linestyle="none", label=_short(model), **_mark(number)) if known else None
    axes.set_yticks(heights, [_short(name) for name in names])
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.set_xlabel(axis)
    _tidy(axes, "x")
    _legend(figure)
    return _svg(figure, f"{axis} of each label")


def _ends(models: Mapping[str, Sequence[Optional[float]]]) -> Tuple[float, float]:
    values = [value for row in models.values() for value in row if value is not None] or [0.0, 1.0]
    return min(values), max(values)


def layers(curves: Mapping[str, Mapping[str, float]], axis: str) -> str:
    """Draw the metric of each layer inside the training folds, a line per model; returns an `<svg>`.

    Args:
        curves: model -> layer -> value, from the input's layer to the last.
    """
    figure = _figure(6.4, 2.6 + 0.16 * len(curves))
    axes = figure.subplots()
    longest: List[str] = max((list(curve) for curve in curves.values()), key=len)
    for number, (model, curve) in enumerate(curves.items()):
        places, values = range(len(curve)), list(curve.values())
        axes.plot(places, values, linewidth=1.2, label=_short(model), **_mark(number))
    axes.set_xticks(range(len(longest)), longest)
    axes.set(xlabel="layer", ylabel=axis)
    _tidy(axes, "both")
    _legend(figure)
    return _svg(figure, f"{axis} of each layer")


def _figure(width: float, height: float) -> "Figure":
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        return Figure(figsize=(width, height), layout="constrained")


def _mark(number: int) -> Dict[str, Any]:
    return {"marker": _MARKS[number % len(_MARKS)], "color": CATEGORIES[number % len(CATEGORIES)], "markersize": 4.5}


def _legend(figure: "Figure") -> None:
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=7.5)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _tidy(axes: Any, grid: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, axis=grid, color=PALETTE.row, linewidth=0.5)
    axes.set_axisbelow(True)


def _svg(figure: "Figure", label: str) -> str:
    from matplotlib import rc_context

    figure.set_label(label)
    with rc_context(_STYLE):
        return svg_text(figure)
