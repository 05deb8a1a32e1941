"""The picture of `evaluate --selective`: error rates with limits, risk-coverage curves, and calibration."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fairseq_signals_ext.common.palette import PALETTE
from fairseq_signals_ext.evaluation.plots import STYLE, save_png

if TYPE_CHECKING:
    import pandas as pd

    from fairseq_signals_ext.evaluation.selective import Selective

_COLUMNS = 5
# largest number of labels with a diagram
_MOST = 20
_WIDTH, _ABOVE, _PANEL, _LINE = 9.0, 0.9, 1.9, 0.18


def draw_selective(found: "Selective", path: Path) -> None:
    """Draw the picture into a `.png`."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    labels = list(found.reliability)[:_MOST]
    rows = -(-len(labels) // _COLUMNS)
    above = _ABOVE + _LINE * max(8, len(found.reliability))
    with rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, above + rows * _PANEL), layout="constrained")
        parts: Any = figure.subfigures(2, 1, height_ratios=(above, rows * _PANEL))
        upper, lower = parts
        missed, alarms, curve = upper.subplots(1, 3)
        everybody = found.table[found.table["group"] == "all"]
        _draw_rates(missed, everybody, "miss", "Missed (called negative, of positives)")
        _draw_rates(alarms, everybody, "false_alarm", "False alarms (called positive, of negatives)")
        alarms.tick_params(labelleft=False)
        _draw_curve(curve, found.curve)
        panels = np.ravel(lower.subplots(rows, _COLUMNS, squeeze=False))
        for axes, name in zip(panels, labels):
            _draw_reliability(axes, name, found)
        for axes in panels[len(labels) :]:
            axes.set_axis_off()
        lower.supxlabel("mean predicted probability", fontsize=7)
        lower.supylabel("observed share of positives", fontsize=7)
        lower.suptitle("Calibration before (grey) and after (blue); dashed: perfect", fontsize=8, fontweight="bold")
        save_png(figure, path)


def _draw_rates(axes: Any, table: "pd.DataFrame", name: str, heading: str) -> None:
    heights = np.arange(len(table))[::-1]
    axes.hlines(heights, table[f"{name}_low"], table[f"{name}_high"], color=PALETTE.accent, linewidth=1.4)
    axes.plot(table[name], heights, "o", color=PALETTE.accent, markersize=3.5)
    axes.plot(table[f"{name}_promised"], heights, "|", color=PALETTE.mark, markersize=9, markeredgewidth=1.6)
    axes.set_yticks(heights, [str(label)[:24] for label in table["label"]])
    axes.set_xlim(left=0)
    axes.set_title(f"{heading}\nline: 95 % interval; upright: promised at most", fontsize=7)
    _tidy(axes)


def _draw_curve(axes: Any, curve: "pd.DataFrame") -> None:
    for name, rows in curve.groupby("label", sort=False):
        style = (PALETTE.accent, 1.6, 2) if name == "mean" else (PALETTE.faint, 0.7, 1)
        axes.plot(rows["coverage"], rows["risk"], color=style[0], linewidth=style[1], zorder=style[2])
    axes.set(xlabel="share of recordings answered, the surest first", xlim=(0, 1))
    axes.set_ylim(bottom=0)
    axes.set_title("Wrong among those answered\nblue: mean over labels", fontsize=7)
    _tidy(axes)


def _draw_reliability(axes: Any, name: str, found: "Selective") -> None:
    axes.plot((0, 1), (0, 1), color=PALETTE.faint, linewidth=0.7, linestyle="--")
    for when, color in (("before", PALETTE.muted), ("after", PALETTE.accent)):
        table = found.reliability[name][when]
        axes.plot(table["mean_score"], table["observed"], "o-", color=color, linewidth=1, markersize=2.5)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=(0, 1), yticks=(0, 1))
    axes.set_title(str(name)[:28], fontsize=7)
    _tidy(axes)


def _tidy(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="0.92", linewidth=0.5)
    axes.set_axisbelow(True)
