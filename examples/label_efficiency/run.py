"""Label efficiency: what pretraining is worth when few recordings have labels.

Fine-tunes with fairseq-hydra-train on growing parts of the training set,
from pretrained and from random weights, with several seeds, and evaluates all
models on the same recordings.

examples:
  fairseq-signals-ext split DIR --name S --subsets 1 5 10 25 50
  python examples/label_efficiency/run.py --data DIR/splits/S \\
      --labels DIR/labels/L --pretrained run/checkpoints/checkpoint_best.pt \\
      --config-name tiny --out efficiency
  python examples/label_efficiency/run.py --data DIR/splits/S \\
      --labels DIR/labels/L --pretrained ecg_fm.pt \\
      --config-name ecg_interpretation --random-override mode=random_start \\
      --fractions 1 10 100 --seeds 1 2 3 4 5 \\
      --override dataset.batch_size=64 optimization.max_epoch=50 \\
      --out efficiency

Writes to OUT label_efficiency.csv (one row per fine-tuning),
label_efficiency_means.csv (means over seeds with intervals, and differences
with p), label_efficiency.png and .svg, and the fine-tunings to OUT/runs. The
same command continues an interrupted run; with more fractions or seeds, only
the new fine-tunings are run.

Intervals come from resampling the patients of the evaluated subset: they show
how certain a mean over these seeds is for other patients. spread is the
standard deviation over the seeds.
"""

import argparse
import logging
import shlex
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from fairseq_signals_ext import configs_dir
from fairseq_signals_ext.analysis.fine_tuning import FineTuning, as_override, scores_of
from fairseq_signals_ext.analysis.seeds import compare_seeds
from fairseq_signals_ext.common.errors import UserError, exits_on_user_error
from fairseq_signals_ext.common.files import atomic
from fairseq_signals_ext.data.label_table import LabelTable, read_labels
from fairseq_signals_ext.data.manifest import find_manifests, read_manifests
from fairseq_signals_ext.data.stores import Store, open_store
from fairseq_signals_ext.evaluation.predictions import Predictions
from fairseq_signals_ext.evaluation.ranking import WEIGHTED
from fairseq_signals_ext.evaluation.report import aligned

if TYPE_CHECKING:
    import pandas as pd

CONFIGS = Path(configs_dir("fine_tuning"))
STARTS = ("pretrained", "random")
# columns of a comparison of seeds, and what they are called here after the metric's name
MEAN = {"mean": "", "low": "_low", "high": "_high", "spread": "_spread"}
DIFFERENCE = {"difference": "_difference", "low": "_difference_low", "high": "_difference_high", "p": "_p"}


class Run(NamedTuple):
    """One fine-tuning: percent of the training set, how many labelled recordings that are, and where it starts."""

    fraction: float
    recordings: int
    start: str
    training: FineTuning


def parse(argv: Optional[List[str]]) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(
        prog="label_efficiency/run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", metavar="DIR", type=Path, required=True, help="split made with --subsets")
    parser.add_argument("--labels", metavar="DIR", type=Path, required=True, help="labels, DIR/labels/NAME")
    parser.add_argument("--pretrained", metavar="CKPT", type=Path, required=True, help="pretrained checkpoint")
    parser.add_argument("--out", metavar="OUT", type=Path, required=True, help="folder for runs and results")
    parser.add_argument(
        "--config-dir",
        metavar="DIR",
        type=Path,
        default=CONFIGS,
        help="folder of the config (default: fine_tuning of the package)",
    )
    parser.add_argument("--config-name", metavar="NAME", required=True, help="config in that folder, such as tiny")
    parser.add_argument(
        "--fractions",
        metavar="P",
        type=float,
        nargs="+",
        default=[1, 5, 10, 25, 50, 100],
        help="percentages of the training set (default 1 5 10 25 50 100)",
    )
    parser.add_argument(
        "--seeds", metavar="N", type=int, nargs="+", default=[1, 2, 3], help="random seeds (default 1 2 3)"
    )
    parser.add_argument("--subset", metavar="NAME", default="test", help="subset to evaluate on (default test)")
    parser.add_argument(
        "--resamples", metavar="N", type=int, default=1000, help="bootstrap resamples of patients (default 1000)"
    )
    parser.add_argument(
        "--override",
        metavar="KEY=VALUE",
        nargs="+",
        action="extend",
        default=[],
        help="options of fairseq-hydra-train for all runs",
    )
    parser.add_argument(
        "--random-override",
        metavar="KEY=VALUE",
        nargs="+",
        action="extend",
        default=[],
        help="the same for random starts only",
    )
    options = parser.parse_args(argv)
    options.fractions, options.seeds = sorted({*options.fractions}), sorted({*options.seeds})
    if not all(0 < fraction <= 100 for fraction in options.fractions):
        raise UserError(f"--fractions {' '.join(map(_percent, options.fractions))}: give percentages, above 0 to 100")
    if options.resamples < 1:
        raise UserError(f"--resamples {options.resamples}: give 1 or more")
    return options


def _percent(fraction: float) -> str:
    return f"{fraction:g}"


def _labelled(store: Store, labels: LabelTable) -> int:
    """How many recordings have a known label; of `.mat` files, which would have to be read for that, all."""
    return len(store) if store.idx is None else int((~np.isnan(labels.rows(store.idx))).any(axis=1).sum())


def count_recordings(options: argparse.Namespace) -> Dict[float, Tuple[str, int]]:
    """For each fraction the name of its manifest and how many recordings with a label it has; all must be there."""
    find_manifests(options.data, options.subset)
    labels = read_labels(options.labels)
    found, missing = {}, []
    for fraction in options.fractions:
        name = "train" if fraction == 100 else f"train_{_percent(fraction)}"
        try:
            manifests = find_manifests(options.data, name)
        except UserError:
            if fraction == 100:
                raise
            missing.append(_percent(fraction))
        else:
            found[fraction] = name, _labelled(open_store(read_manifests(manifests)), labels)
    if missing:
        folder = shlex.quote(str(options.data.resolve().parents[1]))
        command = f"fairseq-signals-ext split {folder} --name {options.data.name} --subsets {' '.join(missing)}"
        hint = f"make them with the split's own options and these: {command} --overwrite"
        raise UserError(f"{options.data}: no train_{missing[0]}.tsv, a part of the training set; {hint}")
    return found


def plan(options: argparse.Namespace) -> List[Run]:
    """All fine-tunings, small ones first."""
    weights = options.labels / "pos_weight.txt"
    common = (as_override("criterion.pos_weight", weights.resolve()),) if weights.is_file() else ()
    runs = []
    for fraction, (subset, recordings) in count_recordings(options).items():
        for seed in options.seeds:
            for start in STARTS:
                own = options.random_override if start == "random" else ()
                training = FineTuning(
                    config_dir=options.config_dir,
                    config_name=options.config_name,
                    data=options.data,
                    train_subset=subset,
                    label_file=options.labels,
                    pretrained=options.pretrained,
                    random_start=start == "random",
                    seed=seed,
                    out=options.out / "runs" / f"{subset}-{start}-{seed}",
                    overrides=(*common, *options.override, *own),
                )
                runs.append(Run(fraction, recordings, start, training))
    return runs


def tables(runs: List[Run], predicted: List[Predictions], resamples: int) -> Tuple["pd.DataFrame", "pd.DataFrame"]:
    """One row per fine-tuning; and one row per fraction and start, with means over seeds and differences."""
    import pandas as pd

    single, means = [], []
    for fraction, recordings in dict.fromkeys((run.fraction, run.recordings) for run in runs):
        pairs = [(run, found) for run, found in zip(runs, predicted) if run.fraction == fraction]
        groups = {start: [found for run, found in pairs if run.start == start] for start in STARTS}
        seeds = [run.training.seed for run, _ in pairs if run.start == STARTS[0]]
        size = {"fraction": fraction, "recordings": recordings}
        compared = compare_seeds(groups, resamples)
        for row in compared.seeds.to_dict("records"):
            values = {metric: row[metric] for metric in WEIGHTED}
            single.append({**size, "start": row["group"], "seed": seeds[row["number"]], **values})
        differences = _flat(compared.differences, DIFFERENCE)
        for start, rows in compared.groups.groupby("group", sort=False):
            more = differences if start == STARTS[0] else {}
            means.append({**size, "start": start, "seeds": len(seeds), **_flat(rows, MEAN), **more})
    return pd.DataFrame(single), pd.DataFrame(means)


def _flat(rows: "pd.DataFrame", columns: Dict[str, str]) -> Dict[str, float]:
    """Rows for the metrics as one: `columns` says what follows the metric's name."""
    values = rows.set_index("metric")
    return {f"{metric}{end}": values.loc[metric, column] for metric in WEIGHTED for column, end in columns.items()}


def as_text(means: "pd.DataFrame") -> str:
    """The means for a terminal."""
    lines = [["recordings", *(f"{metric.upper()} {start}" for metric in WEIGHTED for start in STARTS)]]
    for fraction, rows in means.groupby("fraction"):
        row = rows.set_index("start")
        values = [f"{row.loc[start, metric]:.3f}" for metric in WEIGHTED for start in STARTS]
        lines.append([f"{row['recordings'].iloc[0]} ({_percent(fraction)} %)", *values])
    return "\n".join(aligned(lines))


@exits_on_user_error
def main(argv: Optional[List[str]] = None) -> int:
    """Fine-tune, evaluate, write and draw; returns the exit status."""
    from picture import draw
    from tqdm import tqdm

    warnings.filterwarnings("ignore", module="torch")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # that labels have one class only in a small part is no news here, and said in each run's log
    logging.getLogger("fairseq_signals_ext.tasks").setLevel(logging.ERROR)
    options = parse(argv)
    runs, predicted = plan(options), []
    for run in tqdm(runs, desc="fine-tuning", unit="run"):
        run.training.run()
        predicted.append(scores_of(run.training, options.subset))
    single, means = tables(runs, predicted, options.resamples)
    for name, table in (("label_efficiency", single), ("label_efficiency_means", means)):
        with atomic(options.out / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False, lineterminator="\n")
    for kind in ("png", "svg"):
        draw(single, means, options.out / f"label_efficiency.{kind}")
    print(f"{as_text(means)}\nresults: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
