"""Training curves: read from fairseq's log and drawn."""

import json
import logging
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import atomic

# fairseq's lines with numbers: during training, at the end of an epoch, and for validation
_LINE = re.compile(r"\[(train_inner|train|valid[^\[\]]*)\]\[INFO\] - (\{.*\})\s*$")

_PAGE = re.compile(r"\[curve\]\[INFO\] - (\{.*\})\s*$")
_MOST_CURVES = 20
_logger = logging.getLogger("curve")


@dataclass(frozen=True)
class CurvePage:
    """Description of a training's picture: the loss and its parts at the top, metrics at the bottom.

    Attributes:
        title: of the picture.
        loss: name and unit of the loss.
        parts: logged parts of the loss: name -> description.
        results: logged metrics: name -> description.
        result: name and unit of the metrics.
        scale: factor for the metrics.
        top: upper end of their axis; None: by their values.
        is_log: the loss is drawn on a logarithmic scale.
    """

    title: str
    loss: str
    parts: Mapping[str, str]
    results: Mapping[str, str]
    result: str
    scale: float = 1.0
    top: Optional[float] = None
    is_log: bool = False


PRETRAINING = CurvePage(
    title="Pretraining",
    loss="loss (bits per masked frame)",
    parts={
        "loss_0": "contrastive (InfoNCE)",
        "loss_1": "codebook diversity",
        "loss_2": "feature penalty",
        "loss_3": "CMSC",
    },
    results={"accuracy": "masked frame", "cmsc_accuracy": "CMSC retrieval"},
    result="accuracy (%)",
    scale=100.0,
    is_log=True,
)
REGRESSION = CurvePage(
    title="Regression",
    loss="loss (of standardised labels)",
    parts={},
    results={"mae": "mean absolute error", "rmse": "root mean squared error"},
    result="error (unit of the label)",
)
CLASSIFICATION = CurvePage(
    title="Fine-tuning",
    loss="loss (bits per label)",
    parts={},
    results={"auroc": "AUROC", "auprc": "AUPRC", "f1": "F1"},
    result="macro average (F1: pooled)",
    top=1.02,
)
# for old logs without a page: a quantity that shows the kind of training, and its page
_OLDER = (("loss_0", PRETRAINING), ("mae", REGRESSION))


def log_page(page: CurvePage) -> None:
    """Write the description of the picture into a training's log."""
    _logger.info(json.dumps(asdict(page)))


@dataclass
class Curves:
    """Values by update.

    Attributes:
        train, valid: name of a quantity -> {update: value}.
        named: the picture's description, if the log has one.
        is_per_epoch: `train` has only the means of epochs.
    """

    train: Dict[str, Dict[int, float]] = field(default_factory=dict)
    valid: Dict[str, Dict[int, float]] = field(default_factory=dict)
    named: Optional[CurvePage] = None
    is_per_epoch: bool = False

    @property
    def page(self) -> CurvePage:
        """The picture's description from the log, or chosen by the logged quantities."""
        if self.named is not None:
            return self.named
        return next((page for key, page in _OLDER if key in self.train or key in self.valid), CLASSIFICATION)


def log_file(log: Path) -> Path:
    """The log in a run's folder, or the log itself."""
    return log / "hydra_train.log" if log.is_dir() else log


def read_log(log: Path) -> Curves:
    """Curves from `hydra_train.log`, or from the folder that it is in.

    A resumed run appends to its log; a value logged again for an update replaces the earlier one.

    Raises:
        UserError: there is no log, or it has no numbers.
    """
    path = log_file(log)
    if not path.is_file():
        raise UserError(f"{path}: no such log; give the folder that was hydra.run.dir of the training")
    curves = Curves()
    targets: Dict[str, Dict[str, Dict[int, float]]] = {
        "train_inner": curves.train,
        "train": {},
    }  # the second: means of epochs
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        match = _LINE.search(line)
        if match:
            kind = match.group(1)
            _add(targets.get(kind, curves.valid), kind, json.loads(match.group(2)))
        elif "[curve]" in line:
            curves.named = _page_in(line) or curves.named
    if curves.train:
        return curves
    if not targets["train"]:
        hint = "train with common.log_format=json, and until the end of an epoch or common.log_interval updates"
        raise UserError(f"{path}: no numbers of a training in this log; {hint}")
    return replace(curves, train=targets["train"], is_per_epoch=True)


def _page_in(line: str) -> Optional[CurvePage]:
    """The picture's description in a line of the log; None for other lines."""
    found = _PAGE.search(line)
    try:
        page = CurvePage(**json.loads(found.group(1))) if found else None
    except (ValueError, TypeError):
        return None
    if page is None or not all(isinstance(names, dict) for names in (page.parts, page.results)):
        return None
    shown = [dict(list(names.items())[:_MOST_CURVES]) for names in (page.parts, page.results)]
    return replace(page, parts=shown[0], results=shown[1])


def _add(target: Dict[str, Dict[int, float]], kind: str, entry: Dict[str, Any]) -> None:
    prefix = "" if kind == "train_inner" else f"{kind}_"
    update = int(float(entry[f"{prefix}num_updates"]))
    for key, value in entry.items():
        try:
            target.setdefault(key[len(prefix) :], {})[update] = float(value)
        except (TypeError, ValueError):
            continue


def draw_curve(curves: Curves, out: Path) -> None:
    """Draw losses (top) and metrics such as accuracies or errors (bottom) over updates, into a `.png` or `.svg`.

    Raises:
        UserError: matplotlib cannot write this kind of file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.75), layout="constrained")
    losses, results = figure.subplots(2, 1, sharex=True)
    page = curves.page
    _draw(losses, curves, [("loss", "total"), *page.parts.items()], scale=1.0)
    losses.set(ylabel=page.loss, title=f"{page.title} (dashed: validation)")
    if page.is_log:
        losses.set_yscale("log")
    _draw(results, curves, list(page.results.items()), scale=page.scale)
    results.set(ylabel=page.result, ylim=(0, page.top))
    results.set_xlabel("update")
    for axes in (losses, results):
        axes.grid(True, color="0.9")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.lines:
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
        plain: Dict[str, Any] = {"marker": "o", "markersize": 3} if curves.is_per_epoch else {}
        styles = ((curves.train, plain), (curves.valid, dashed))
        drawn = [(values[key], style) for values, style in styles if key in values]
        for position, (values, style) in enumerate(drawn):
            label = {} if position else {"label": name}
            updates = sorted(values)
            axes.plot(updates, [scale * values[at] for at in updates], color=f"C{number}", **label, **style)
