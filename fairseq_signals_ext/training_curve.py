"""The course of a training, read from fairseq's log and drawn."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Tuple

from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.files import atomic

# fairseq's lines with numbers: while training, at the end of an epoch, and of validation
_LINE = re.compile(r"\[(train_inner|train|valid[^\[\]]*)\]\[INFO\] - (\{.*\})\s*$")

_PARTS = {
    "loss_0": "contrastive (InfoNCE)",
    "loss_1": "codebook diversity",
    "loss_2": "feature penalty",
    "loss_3": "CMSC",
}


@dataclass
class Curves:
    """Values by update: `train` and `valid` map a quantity's name to {update: value}."""

    train: Dict[str, Dict[int, float]] = field(default_factory=dict)
    valid: Dict[str, Dict[int, float]] = field(default_factory=dict)


def read_log(log: Path) -> Curves:
    """Curves from `hydra_train.log`, or from the folder that it is in.

    A run that was resumed appends to its log; what it logs again for an update replaces the earlier value.

    Raises:
        UserError: there is no log, or it has no numbers.
    """
    path = log / "hydra_train.log" if log.is_dir() else log
    if not path.is_file():
        raise UserError(f"{path}: no such log; give the folder that was hydra.run.dir of the training")
    curves = Curves()
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        match = _LINE.search(line)
        if match:
            _add(curves, match.group(1), json.loads(match.group(2)))
    if not curves.train:
        cure = "train with common.log_format=json and a common.log_interval below the number of updates"
        raise UserError(f"{path}: no numbers of a training in this log; {cure}")
    return curves


def _add(curves: Curves, kind: str, entry: Dict[str, Any]) -> None:
    if kind == "train":  # means over epochs, of what train_inner has in more detail
        return
    prefix = "" if kind == "train_inner" else f"{kind}_"
    update = int(float(entry[f"{prefix}num_updates"]))
    target = curves.train if kind == "train_inner" else curves.valid
    for key, value in entry.items():
        try:
            target.setdefault(key[len(prefix) :], {})[update] = float(value)
        except (TypeError, ValueError):
            continue


def draw_curve(curves: Curves, out: Path) -> None:
    """Draw losses above and what they are for below (accuracies, areas, errors) over updates, into a `.png` or `.svg`.

    Raises:
        UserError: matplotlib cannot write this kind of file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.75), layout="constrained")
    losses, results = figure.subplots(2, 1, sharex=True)
    _draw(losses, curves, [("loss", "total"), *((key, name) for key, name in _PARTS.items())], scale=1.0)
    if "loss_0" in curves.train:
        losses.set(ylabel="loss (bits a masked frame)", yscale="log", title="Pretraining (dashed: validation)")
        _draw(results, curves, [("accuracy", "masked frame"), ("cmsc_accuracy", "CMSC retrieval")], scale=100.0)
        results.set(ylabel="accuracy (%)", ylim=(0, None))
    elif "mae" in curves.valid:
        losses.set(ylabel="loss (of standardised labels)", title="Regression (dashed: validation)")
        _draw(results, curves, [("mae", "mean absolute error"), ("rmse", "root mean squared error")], scale=1.0)
        results.set(ylabel="error (unit of the label)", ylim=(0, None))
    else:
        losses.set(ylabel="loss (bits a label)", title="Fine-tuning (dashed: validation)")
        _draw(results, curves, [("auroc", "AUROC"), ("auprc", "AUPRC"), ("f1", "F1")], scale=1.0)
        results.set(ylabel="macro average (F1: pooled)", ylim=(0, 1.02))
    results.set_xlabel("update")
    for axes in (losses, results):
        axes.grid(True, color="0.9")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic(out) as temporary:
            figure.savefig(temporary, format=out.suffix[1:], dpi=133)
    except ValueError as error:
        raise UserError(f"{out}: {error}") from None


def _draw(axes: Any, curves: Curves, quantities: List[Tuple[str, str]], scale: float) -> None:
    for number, (key, name) in enumerate(quantities):
        dashed: Dict[str, Any] = {"linestyle": "--", "marker": "o", "markersize": 4}
        plain: Dict[str, Any] = {}
        styles = ((curves.train, plain), (curves.valid, dashed))
        drawn = [(values[key], style) for values, style in styles if key in values]
        for position, (values, style) in enumerate(drawn):
            label = {} if position else {"label": name}
            updates = sorted(values)
            axes.plot(updates, [scale * values[at] for at in updates], color=f"C{number}", **label, **style)
