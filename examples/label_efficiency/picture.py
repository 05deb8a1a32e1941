"""The curve of label efficiency: macro AUROC and AUPRC over the number of labelled recordings."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq_signals_ext.common.files import atomic

if TYPE_CHECKING:
    import pandas as pd

COLOURS = {"pretrained": "#2a6f97", "random": "#c8553d"}
INK, FAINT = "#26323c", "#9aa5ad"
STYLE = {
    "font.size": 8,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.hashsalt": "label efficiency",  # the same bytes each time
}


def draw(single: "pd.DataFrame", means: "pd.DataFrame", path: Path) -> None:
    """Draw means over seeds with their intervals, and each seed as a dot, into a `.png` or `.svg`.

    Args:
        single: one row per fine-tuning: `recordings`, `start`, `auroc`, `auprc`.
        means: one row per fraction and start: also `fraction`, and `auroc_low`, `auroc_high` and so on.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(8, 3.8), layout="constrained")
        panels = figure.subplots(1, 2)
        for axes, metric in zip(panels, ("auroc", "auprc")):
            for start, colour in COLOURS.items():
                _draw_start(axes, single[single["start"] == start], means[means["start"] == start], metric, colour)
            _label(axes, means, metric)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
        figure.suptitle(_heading(means), fontsize=9, fontweight="bold", x=0.01, ha="left")
        metadata = {"Software": None} if path.suffix == ".png" else {"Date": None}
        with atomic(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:], dpi=150, metadata=metadata)


def _draw_start(axes: Any, single: "pd.DataFrame", means: "pd.DataFrame", metric: str, colour: str) -> None:
    size, start = means["recordings"], means["start"].iloc[0]
    name = "pretrained" if start == "pretrained" else "random weights"
    axes.fill_between(size, means[f"{metric}_low"], means[f"{metric}_high"], color=colour, alpha=0.15, linewidth=0)
    axes.plot(size, means[metric], color=colour, linewidth=1.6, marker="o", markersize=4, label=name)
    axes.plot(single["recordings"], single[metric], ".", color=colour, alpha=0.45, markersize=3.5)


def _label(axes: Any, means: "pd.DataFrame", metric: str) -> None:
    ticks = means.drop_duplicates("recordings")
    axes.set_xscale("log")
    labels = [f"{n}\n{fraction:g} %" for n, fraction in zip(ticks["recordings"], ticks["fraction"])]
    axes.set_xticks(ticks["recordings"], labels)
    axes.minorticks_off()
    axes.set(xlabel="labelled recordings (of the training set)", ylabel=f"macro {metric.upper()}")
    axes.margins(x=0.06)
    axes.grid(True, color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _heading(means: "pd.DataFrame") -> str:
    seeds = int(means["seeds"].max())
    return f"Label efficiency: mean of {seeds} seed{'s' if seeds > 1 else ''} (dots: each), 95 % interval over patients"
