"""Pictures of an evaluation: one panel per label, the same bytes from the same predictions."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.common.files import atomic
from fairseq_signals_ext.common.palette import PALETTE, PLOT_STYLE
from fairseq_signals_ext.evaluation.text import lacking, with_interval

if TYPE_CHECKING:
    import pandas as pd

    from fairseq_signals_ext.evaluation.predictions import Predictions

_INK, _ACCENT, _MARK, _FAINT = PALETTE.ink, PALETTE.accent, PALETTE.mark, PALETTE.faint
STYLE = {**PLOT_STYLE, "font.size": 7, "axes.linewidth": 0.6, "xtick.labelsize": 6.5, "ytick.labelsize": 6.5}
_MOST_PANELS = 80
# (largest number of panels, panels per row, width of a panel in inches)
_LAYOUTS = ((1, 1, 3.6), (4, 2, 2.6), (9, 3, 2.2), (20, 5, 1.8), (42, 6, 1.6), (_MOST_PANELS, 8, 1.5))
_MARGIN = {"left": 0.7, "right": 0.2, "top": 0.5, "bottom": 0.5}
_NARROWEST = 4.6
_BINS = 10
_UNIT = {0: "0", 0.5: "0.5", 1: "1"}

Row = Mapping[str, Any]
Estimate = Tuple[str, float, float, float]


class Plot(NamedTuple):
    """Description of a picture.

    Attributes:
        heading: heading and explanation.
        axes: names of x and y.
        draw: draws a label's known scores and targets, and returns a line to write below the label's name.
        classes: needs both classes among the targets.
        ticks: position -> text on both axes, which go from 0 to 1 in every panel; None: each panel has its own.
    """

    heading: Tuple[str, str]
    axes: Tuple[str, str]
    draw: Callable[[Any, np.ndarray, np.ndarray, Row], str]
    classes: bool = False
    ticks: Optional[Mapping[float, str]] = _UNIT


def draw_plots(predictions: "Predictions", per_label: "pd.DataFrame", folder: Path) -> List[Path]:
    """Draw the pictures of a classifier or of a regression into a folder.

    `roc.png`, `precision_recall.png`, `calibration.png` and `confusion.png`; for a regression `scatter.png` and
    `bland_altman.png`. With more than 80 labels, the 80 with most positives (regression: known values) are shown.

    Args:
        predictions: of recordings.
        per_label: one row per label, the columns of `metrics.label_metrics` (or `regression.label_metrics`) and, where
            there are intervals, `auroc_low`, `auroc_high`, `auprc_low` and `auprc_high`.

    Returns:
        The files.
    """
    rows = per_label.to_dict("records")
    count = "positives" if predictions.of_kind.has_classes else "known"
    frequent = np.argsort([-row[count] for row in rows], kind="stable")[:_MOST_PANELS]
    shown = [int(label) for label in np.sort(frequent)]
    paths = []
    for name, plot in predictions.of_kind.plots().items():
        paths.append(folder / name)
        _draw_grid(plot, predictions, rows, shown, paths[-1])
    return paths


def _draw_grid(plot: Plot, predictions: "Predictions", rows: Sequence[Row], shown: Sequence[int], path: Path) -> None:
    from matplotlib import rc_context

    heading, explanation = plot.heading
    if len(shown) < len(rows):
        heading += f": the {len(shown)} most frequent of {len(rows)} labels"
    with rc_context(STYLE):
        figure, panels = _grid(len(shown), plot.ticks)
        for axes, label in zip(panels, shown):
            known = ~np.isnan(predictions.targets[:, label])
            scores, targets = predictions.scores[known, label], predictions.targets[known, label]
            note = _draw_panel(plot, axes, scores, targets, rows[label])
            axes.set_title(f"{_wrapped(str(rows[label]['label']), axes)}\n{note}", fontsize=7, linespacing=1.15, pad=4)
        _write_around(figure, heading, explanation, plot.axes)
        save_png(figure, path)


def _draw_panel(plot: Plot, axes: Any, scores: np.ndarray, targets: np.ndarray, row: Row) -> str:
    """Draw a label's panel, or why it is undefined; returns the line below its name."""
    # plots that need only known values are undefined without any
    missing = lacking(len(targets), int((targets == 1).sum())) if plot.classes or not len(targets) else ""
    if not missing:
        return plot.draw(axes, scores, targets, row)
    axes.text(0.5, 0.5, f"undefined:\n{missing}", transform=axes.transAxes, ha="center", va="center", color=_FAINT)
    axes.set_facecolor(PALETTE.panel)
    if plot.ticks is None:
        axes.set(xticks=(), yticks=())
    return " "


def _grid(count: int, ticks: Optional[Mapping[float, str]]) -> Tuple[Any, List[Any]]:
    """Make a figure with this many square panels; shared ticks have text only at the outer panels."""
    from matplotlib.figure import Figure

    columns, side = next((columns, side) for most, columns, side in _LAYOUTS if count <= most)
    columns, rows = min(columns, count), -(-count // columns)
    gap, row_gap = (0.22, 0.55) if ticks else (0.55, 0.75)
    width = _MARGIN["left"] + columns * side + (columns - 1) * gap + _MARGIN["right"]
    height = _MARGIN["top"] + rows * (side + row_gap) + _MARGIN["bottom"]
    width = max(width, _NARROWEST)
    figure, panels = Figure(figsize=(width, height)), []
    for number in range(count):
        row, column = divmod(number, columns)
        left, bottom = _MARGIN["left"] + column * (side + gap), _MARGIN["bottom"] + (rows - 1 - row) * (side + row_gap)
        axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
        axes.spines[["top", "right"]].set_visible(False)
        if ticks:
            axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
            axes.set_xticks(list(ticks), list(ticks.values()))
            axes.set_yticks(list(ticks), list(ticks.values()))
            axes.grid(True, color="0.92", linewidth=0.5)
            axes.set_axisbelow(True)
            axes.tick_params(labelleft=column == 0, labelbottom=number + columns >= count, length=2)
        panels.append(axes)
    return figure, panels


def _write_around(figure: Any, heading: str, explanation: str, axes: Tuple[str, str]) -> None:
    """Write heading, explanation and the names of the axes around all panels."""
    width, height = figure.get_size_inches()
    corners = np.concatenate([panel.get_position().get_points() for panel in figure.axes])
    middle = (corners.min(axis=0) + corners.max(axis=0)) / 2
    figure.text(0.12 / width, 1 - 0.12 / height, heading, fontsize=10, fontweight="bold", va="top")
    figure.text(0.12 / width, 1 - 0.35 / height, explanation, fontsize=7, va="top", color=PALETTE.muted)
    figure.text(middle[0], 0.1 / height, axes[0], fontsize=8, ha="center")
    figure.text(0.12 / width, middle[1], axes[1], fontsize=8, rotation=90, va="center")


def _wrapped(name: str, axes: Any) -> str:
    """A label's name on at most two lines that fit over its panel."""
    inches = axes.get_position().width * axes.figure.get_size_inches()[0]
    width = int(inches * 18)
    lines = textwrap.wrap(" ".join(name.split()), width)
    return "\n".join(lines if len(lines) <= 2 else [lines[0], f"{lines[1][: width - 1]}…"])


def save_png(figure: Any, path: Path) -> None:
    """Write a figure as PNG, complete or not at all, with the same bytes in each run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130, metadata={"Software": None})


def _draw_roc(axes: Any, scores: np.ndarray, targets: np.ndarray, row: Row) -> str:
    from sklearn.metrics import roc_curve

    false_positive_rate, sensitivity, _ = roc_curve(targets, scores)
    axes.plot((0, 1), (0, 1), color=_FAINT, linewidth=0.7, linestyle="--")
    axes.plot(false_positive_rate, sensitivity, color=_ACCENT, linewidth=1.2)
    _draw_mark(axes, 1 - row["specificity"], row["sensitivity"])
    return with_interval(row, "auroc")


def _draw_precision_recall(axes: Any, scores: np.ndarray, targets: np.ndarray, row: Row) -> str:
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(targets, scores)
    precision[-1] = precision[-2]  # scikit-learn adds 1 at recall 0, which average precision does not use
    axes.axhline(targets.mean(), color=_FAINT, linewidth=0.7, linestyle="--")
    axes.plot(recall, precision, color=_ACCENT, linewidth=1.2, drawstyle="steps-post")
    _draw_mark(axes, row["sensitivity"], row["precision"])
    return with_interval(row, "auprc")


def _draw_mark(axes: Any, x: float, y: float) -> None:
    axes.plot([x], [y], "o", color=_MARK, markersize=3.5, clip_on=False)


def _draw_calibration(axes: Any, scores: np.ndarray, targets: np.ndarray, row: Row) -> str:
    from fairseq_signals_ext.evaluation.calibration import reliability

    table = reliability(scores, targets, bins=_BINS)
    observed, mean = table["observed"].to_numpy(), table["mean_score"].to_numpy()
    bars = np.array([_wilson(int(k), int(n)) for k, n in zip(table["positives"], table["count"])])
    axes.plot((0, 1), (0, 1), color=_FAINT, linewidth=0.7, linestyle="--")
    axes.vlines(mean, bars[:, 0], bars[:, 1], color=_ACCENT, linewidth=0.8, alpha=0.6)
    axes.plot(mean, observed, color=_ACCENT, linewidth=1, marker="o", markersize=3)
    return f"ECE {row['ece']:.3f}, Brier {row['brier']:.3f}"


def _wilson(positives: int, count: int) -> Tuple[float, float]:
    from scipy.stats import binomtest

    interval = binomtest(positives, count).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def _draw_confusion(axes: Any, scores: np.ndarray, targets: np.ndarray, row: Row) -> str:
    counts = np.array([[row["tn"], row["fp"]], [row["fn"], row["tp"]]])
    totals = counts.sum(axis=1, keepdims=True)
    fractions = counts / np.where(totals, totals, 1)
    axes.grid(False)
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1, extent=(0, 1, 0, 1), origin="lower", aspect="auto")
    for (actual, predicted), fraction in np.ndenumerate(fractions):
        percent = f"{100 * fraction:.0f} %" if totals[actual, 0] else "none"
        text = f"{counts[actual, predicted]:.0f}\n{percent}"
        style = {"ha": "center", "va": "center", "color": "white" if fraction > 0.5 else _INK}
        axes.text(0.25 + predicted / 2, 0.25 + actual / 2, text, **style)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    return "most probable" if np.isnan(row["threshold"]) else f"threshold {row['threshold']:.3g}"


def _draw_scatter(axes: Any, scores: np.ndarray, targets: np.ndarray, row: Row) -> str:
    ends = [min(scores.min(), targets.min()), max(scores.max(), targets.max())]
    axes.plot(ends, ends, color=_FAINT, linewidth=0.7, linestyle="--")
    _draw_points(axes, targets, scores)
    return f"MAE {row['mae']:.3g}, r {with_interval(row, 'pearson_r')}"


def _draw_bland_altman(axes: Any, scores: np.ndarray, targets: np.ndarray, row: Row) -> str:
    difference = scores - targets
    _draw_points(axes, (scores + targets) / 2, difference)
    bias = difference.mean()
    if len(difference) < 2:
        return f"bias {bias:.3g}"
    spread = 1.96 * difference.std(ddof=1)
    for height, style in ((bias, "-"), (bias - spread, "--"), (bias + spread, "--")):
        axes.axhline(height, color=_MARK, linewidth=0.9, linestyle=style)
    return f"bias {bias:.3g} [{bias - spread:.3g}, {bias + spread:.3g}]"


def _draw_points(axes: Any, x: np.ndarray, y: np.ndarray) -> None:
    axes.scatter(x, y, s=6, color=_ACCENT, alpha=max(0.1, min(0.6, 100 / len(x))), linewidths=0)
    axes.locator_params(nbins=5)


def draw_comparison(panels: Mapping[str, Sequence[Estimate]], path: Path) -> None:
    """Draw a value with its interval for each model, one panel per quantity, into a `.png`.

    Args:
        panels: heading of a panel -> (name of the model, value, low, high) per model; values may be NaN.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    count = max(map(len, panels.values()))
    rows = -(-len(panels) // 2)
    with rc_context(STYLE):
        figure = Figure(figsize=(8, rows * (0.9 + 0.25 * count)), layout="constrained")
        grid = figure.subplots(rows, 2, squeeze=False).ravel()
        for axes, (heading, estimates) in zip(grid, panels.items()):
            _draw_estimates(axes, estimates)
            axes.set_title(heading, fontsize=8, fontweight="bold")
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        save_png(figure, path)


def _draw_estimates(axes: Any, estimates: Sequence[Estimate]) -> None:
    names, values, low, high = zip(*estimates)
    heights = np.arange(len(names))[::-1]
    axes.hlines(heights, low, high, color=_ACCENT, linewidth=1.6)
    axes.plot(values, heights, "o", color=_ACCENT, markersize=5)
    axes.axvline(values[0], color=_FAINT, linewidth=0.7, linestyle="--", zorder=0)  # the first model's
    axes.set_yticks(heights, [textwrap.shorten(name, 40, placeholder="…") for name in names])
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.margins(x=0.15)
    axes.locator_params(axis="x", nbins=5)
    if np.isnan(values).all():
        axes.set_xticks(())
        axes.text(0.5, 0.5, "undefined", transform=axes.transAxes, ha="center", va="center", color=_FAINT)
    axes.grid(True, axis="x", color="0.92", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


OF_CLASSES: Dict[str, Plot] = {
    "roc.png": Plot(
        ("ROC curves", "AUROC with interval; dot: at the threshold; dashed: chance"),
        ("1 − specificity", "sensitivity"),
        _draw_roc,
        classes=True,
    ),
    "precision_recall.png": Plot(
        ("Precision-recall curves", "AUPRC with interval; dot: at the threshold; dashed: share of positives"),
        ("recall (sensitivity)", "precision (PPV)"),
        _draw_precision_recall,
        classes=True,
    ),
    "calibration.png": Plot(
        ("Calibration", f"{_BINS} bins of equal width (ECE: 15), 95 % Wilson intervals; dashed: perfect"),
        ("mean predicted probability", "observed fraction of positives"),
        _draw_calibration,
    ),
    "confusion.png": Plot(
        ("Confusion at the threshold", "recordings, and percent of their row"),
        ("predicted", "known"),
        _draw_confusion,
        ticks={0.25: "no", 0.75: "yes"},
    ),
}
OF_NUMBERS: Dict[str, Plot] = {
    "scatter.png": Plot(
        ("Predicted and known values", "dashed: equal"), ("known", "predicted"), _draw_scatter, ticks=None
    ),
    "bland_altman.png": Plot(
        ("Bland-Altman", "lines: bias and 95 % limits of agreement (1.96 standard deviations)"),
        ("mean of predicted and known", "predicted − known"),
        _draw_bland_altman,
        ticks=None,
    ),
}
