"""Compare pretraining recipes by their frozen features, at equal processor time, on a small scale.

    ECG_DATA=FOLDER python benchmarks/recipes.py [--work FOLDER] [--seconds 240] [--seeds 1 2 3 4 5] [--jobs 2]
        [--out FILE.md]

Pretraining uses the Challenge's records, CODE-15 % and PTB-XL's folds 1 to 9 of FOLDER; probes use its `ptbxl_fold10`
with the protocol `strict`. Each recipe gets the same processor seconds (user and system, one thread); the number of
updates is measured first, with as many trainings at the same time. A quarter of the patients of
`ptbxl_fold10` chooses the learning rate of each recipe, from the same three; the others compare the recipes. A recipe's
value is the mean over its seeds; a resample draws patients, the same for all recipes, and seeds. With --work, an
interrupted run continues.

Recipes: ECG-FM's objective with its own input (each lead standardised), the same with amplitudes kept (`fixed`), its
encoder with data2vec's regression instead of its contrast or in addition to it, a JEPA, and contrastive predictive
coding with a state-space encoder (CPC). All have the same number of parameters within 12 %. Controls: random weights
of each, and hand-made measures. The last table gives features of the first two pretrainings after a quarter and a half
of the updates.
"""

import argparse
import contextlib
import hashlib
import io
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Sequence

import numpy as np
import pandas as pd
from _shared import hand_over, machine
from recipes_pretraining import PARTS, RATES, RECIPES, Pretrainings, Run

import fairseq_signals_ext
from fairseq_signals_ext.benchmarking.comparing import Measured, difference, measure, metrics_of
from fairseq_signals_ext.benchmarking.computing import MEASURES, measures_of
from fairseq_signals_ext.benchmarking.features import Features
from fairseq_signals_ext.benchmarking.protocols import BenchmarkSettings
from fairseq_signals_ext.benchmarking.running import prepare_task
from fairseq_signals_ext.benchmarking.score_files import Unit, read_scores
from fairseq_signals_ext.benchmarking.targets import Known
from fairseq_signals_ext.benchmarking.task_files import read_task
from fairseq_signals_ext.cli import main as command_line
from fairseq_signals_ext.common.errors import UserError, exits_on_user_error
from fairseq_signals_ext.common.files import safe_name
from fairseq_signals_ext.evaluation.comparison import holm

TASKS = ("ptbxl-super", "ptbxl-rhythm", "sex", "age", "heart-rate", "axis")
PROBES = ("last", "layer")
_SOURCES = {"cinc2021": "physionet2021", "code15_wfdb": "wfdb", "code15_wfdb_more": "wfdb", "ptbxl": "ptbxl"}
_TUNED_BY = "ptbxl-super"
_TUNING, _COMPARING = "tuning", "comparing"
_TUNING_SEED = 0  # not one of the compared seeds
_SETTINGS = BenchmarkSettings(fold_seeds=(1,))
_EARLY = (1, 2)  # features are also compared after these parts of a pretraining
_EARLY_SEEDS = 2  # of so many pretrainings of each recipe
_OF_CURVE = ("ptbxl-super", "last")  # task and probe
_FIRST = next(iter(RECIPES))


def silently(*arguments: Any) -> None:
    """Run one of our commands without its output; it may skip some recordings.

    Raises:
        UserError: it failed.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            command_line([str(one) for one in arguments])
    except SystemExit as error:
        raise UserError(f"{' '.join(map(str, arguments))}: failed: {error} {printed.getvalue()[-300:]}") from error


def prepare_data(source: Path, work: Path) -> None:
    """Make `work/pretraining`, all in `train.tsv`, and `work/tuning` and `work/comparing`, which share no patient."""
    _divide(source / "ptbxl_fold10", work)
    for name in (_TUNING, _COMPARING):
        if not (work / name / "all.tsv").is_file():
            silently("prepare", "ptbxl", work / "sources" / name, "--out", work / name, "--resume")
    pretraining = work / "pretraining"
    if (pretraining / "train.tsv").is_file():
        return
    for folder, kind in _SOURCES.items():
        silently("prepare", kind, source / folder, "--out", pretraining, "--resume")
    text = (pretraining / "all.tsv").read_text(encoding="utf-8")
    (pretraining / "train.tsv").write_text(text, encoding="utf-8")


def _divide(source: Path, work: Path) -> None:
    """Make two folders like `source`: one with a quarter of its patients, one with the others."""
    table = pd.read_csv(source / "ptbxl_database.csv", dtype=str, keep_default_na=False)
    digests = table["patient_id"].map(lambda patient: hashlib.sha256(patient.encode()).digest()[0])
    for name, chosen in ((_TUNING, digests % 4 == 0), (_COMPARING, digests % 4 != 0)):
        out = work / "sources" / name
        if (out / "ptbxl_database.csv").is_file():
            continue
        (out / "records500").mkdir(parents=True, exist_ok=True)
        for number in table.loc[chosen, "ecg_id"]:
            for file in (source / "records500").glob(f"**/{int(number):05d}_hr*"):
                shutil.copy(file, out / "records500")
        shutil.copy(source / "scp_statements.csv", out)
        table[chosen].to_csv(out / "ptbxl_database.csv", index=False)


def tune(pretrainings: Pretrainings) -> Dict[str, float]:
    """Return the best learning rate of each recipe, by the mean of both probes on the patients for tuning."""
    runs = [Run(name, rate, _TUNING_SEED) for name in RECIPES for rate in RATES]
    pretrainings.run(runs, "learning rates")
    work = pretrainings.work
    probe(work, _TUNING, runs, [_TUNED_BY], pretrainings.jobs)
    task = prepare_task(work / _TUNING, read_task(_TUNED_BY), _SETTINGS)
    values: Dict[str, Dict[float, float]] = {name: {} for name in RECIPES}
    for run in runs:
        found = [_of(work / _TUNING, _TUNED_BY, one, [str(run)], task.known) for one in PROBES]
        values[run.recipe][run.rate] = float(np.mean([one.point["auroc"][-1] for one in found]))
    (work / "tuned.json").write_text(json.dumps(values, indent=1), encoding="utf-8")
    return {name: max(of_rates, key=of_rates.__getitem__) for name, of_rates in values.items()}


def probe(work: Path, data: str, runs: Sequence[Run], tasks: Sequence[str], jobs: int) -> None:
    """Run probes of checkpoints and controls with the command `benchmark`."""
    checkpoints = [run.checkpoint(work) for run in runs]
    given = ["--tasks", ",".join(tasks), "--probes", ",".join(PROBES), "--out", work / data / "benchmark"]
    _benchmark(checkpoints, [str(run) for run in runs], work / data, jobs, given)


def probe_early(work: Path, runs: Sequence[Run], jobs: int) -> None:
    """Run probes of checkpoints saved during the pretrainings, on the patients for comparing."""
    task, one_probe = _OF_CURVE
    checkpoints = [run.checkpoint(work, parts) for run in runs for parts in _EARLY]
    names = [run.early(parts) for run in runs for parts in _EARLY]
    given = [
        "--tasks",
        task,
        "--probes",
        one_probe,
        "--out",
        work / _COMPARING / "early" / "benchmark",
    ]
    _benchmark(checkpoints, names, work / _COMPARING, jobs, given)


def _benchmark(checkpoints: Sequence[Path], names: Sequence[str], data: Path, jobs: int, given: Sequence[Any]) -> None:
    shared = ["--data", data, "--jobs", jobs, "--fold-seeds", 1, "--resume", "--device", "cpu"]
    silently("benchmark", *checkpoints, "--names", *names, *shared, *given)


def measured(folder: Path, task: str, probe_name: str, runs: Sequence[Run], known: Known) -> Dict[str, Measured]:
    """Measure each recipe over its runs, random weights of each, and hand-made measures."""
    found = {}
    for name in RECIPES:
        models = [str(run) for run in runs if run.recipe == name]
        found[name] = _of(folder, task, probe_name, models, known)
        # the benchmark has one such control per architecture, under the name of the first checkpoint of it
        random = f"random ({models[0]})"
        if Unit(random, task, probe_name, 100.0, 1).path(folder / "benchmark").is_file():
            found[f"random weights of {name}"] = _of(folder, task, probe_name, [random], known)
    found["hand-made measures"] = _of(folder, task, probe_name, ["hand-made measures"], known)
    return found


def _of(folder: Path, task: str, probe_name: str, models: Sequence[str], known: Known) -> Measured:
    units = [Unit(model, task, probe_name, 100.0, 1) for model in models]
    return measure([read_scores(unit.path(folder / "benchmark")).scores for unit in units], known, _SETTINGS)


def report(work: Path, facts: Dict[str, Dict[str, Any]], runs: Sequence[Run]) -> List[str]:
    """Return the lines of the report."""
    folder = work / _COMPARING
    seeds = len({run.seed for run in runs})
    lines = [f"{machine()}; {seeds} pretrainings of each recipe.", "", *_costs(work, facts, runs)]
    features = Features.open(folder / "benchmark" / "features" / safe_name(MEASURES))
    for task in TASKS:
        known = prepare_task(folder, read_task(task), _SETTINGS, lambda idx: measures_of(features, idx)).known
        metric = metrics_of(known)[0]
        lines += ["", f"## {task}, {metric}, {len(known.targets)} recordings", ""]
        lines += ["| | last | layer | last, less ECG-FM's | layer, less ECG-FM's | p (Holm) |"]
        lines += ["| --- | --- | --- | --- | --- | --- |"]
        by_probe = {name: measured(folder, task, name, runs, known) for name in PROBES}
        p = {name: _p_values(of, metric) for name, of in by_probe.items()}
        for name in by_probe["last"]:
            cells = [_value(by_probe[one][name], metric) for one in PROBES]
            cells += [_less(by_probe[one][name], by_probe[one][_FIRST], metric, name) for one in PROBES]
            worst = "-" if name not in p["last"] else f"{max(p[one][name] for one in PROBES):.3g}"
            lines.append(f"| {name} | {' | '.join(cells)} | {worst} |")
    return [*lines, *_curve(work, _first_seeds(runs))]


def _first_seeds(runs: Sequence[Run]) -> List[Run]:
    seeds = list(dict.fromkeys(run.seed for run in runs))[:_EARLY_SEEDS]
    return [run for run in runs if run.seed in seeds]


def _curve(work: Path, runs: Sequence[Run]) -> List[str]:
    """Return lines about features during the pretrainings."""
    (task, one_probe), folder = _OF_CURVE, work / _COMPARING
    known = prepare_task(folder, read_task(task), _SETTINGS).known
    metric = metrics_of(known)[0]
    titles = [f"{parts} of {PARTS}" for parts in (*_EARLY, PARTS)]
    lines = ["", f"## {task}, {metric}, probe {one_probe}, after parts of the updates"]
    lines += ["", f"Of the first {len({run.seed for run in runs})} pretrainings of each recipe.", ""]
    lines += [f"| recipe | {' | '.join(titles)} |", f"| --- {'| --- ' * len(titles)}|"]
    for name in RECIPES:
        own = [run for run in runs if run.recipe == name]
        found = [_of(folder / "early", task, one_probe, [run.early(parts) for run in own], known) for parts in _EARLY]
        found.append(_of(folder, task, one_probe, [str(run) for run in own], known))
        lines.append(f"| {name} | {' | '.join(_value(one, metric) for one in found)} |")
    return lines


def _costs(work: Path, facts: Dict[str, Dict[str, Any]], runs: Sequence[Run]) -> List[str]:
    tuned = json.loads((work / "tuned.json").read_text(encoding="utf-8"))
    rates = " | ".join(f"tuning, rate {rate:g}" for rate in RATES)
    lines = [f"| recipe | parameters in use | updates | processor s | rate | {rates} |"]
    lines.append(f"{'| --- ' * (5 + len(RATES))}|")
    for name, one in facts.items():
        own = [run for run in runs if run.recipe == name]
        model = fairseq_signals_ext.load(own[0].checkpoint(work))
        parameters = sum(weights.numel() for weights in model.network.parameters())
        took = np.mean([one["took"][str(run)] for run in own])
        values = " | ".join(f"{tuned[name][str(rate)]:.3f}" for rate in RATES)
        lines.append(f"| {name} | {parameters:,} | {one['updates']:,} | {took:.0f} | {own[0].rate:g} | {values} |")
    return lines


def _value(one: Measured, metric: str) -> str:
    low, high = one.ends[metric][-1]
    return f"{one.point[metric][-1]:.3f} [{low:.3f}, {high:.3f}]"


def _less(one: Measured, first: Measured, metric: str, name: str) -> str:
    if name == _FIRST:
        return "-"
    point, low, high, _ = difference(one, first, metric, 0.95)
    return f"{point:+.3f} [{low:+.3f}, {high:+.3f}]"


def _p_values(found: Dict[str, Measured], metric: str) -> Dict[str, float]:
    """Return p values of the recipes against the first, adjusted for their number."""
    names = [name for name in RECIPES if name != _FIRST and name in found]
    plain = np.array([difference(found[name], found[_FIRST], metric, 0.95)[3] for name in names])
    return dict(zip(names, holm(plain).tolist()))


@exits_on_user_error
def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for all that is made, kept (default: a temporary one)")
    parser.add_argument("--seconds", type=float, default=240, help="processor seconds per pretraining (default 240)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5], help="default 1 to 5")
    parser.add_argument("--jobs", type=int, default=2, help="pretrainings at the same time (default 2)")
    parser.add_argument("--out", type=Path, help="write the report to this file as well")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    source = os.environ.get("ECG_DATA")
    if source is None:
        raise UserError("ECG_DATA: is not set; give the folder with the recordings, see above")
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        prepare_data(Path(source), work)
        pretrainings = Pretrainings(work, args.seconds, args.jobs)
        pretrainings.measure_updates()
        rates = tune(pretrainings)
        runs = [Run(name, rates[name], seed) for seed in args.seeds for name in RECIPES]
        pretrainings.run(runs, "pretrainings")
        probe(work, _COMPARING, runs, TASKS, args.jobs)
        probe_early(work, _first_seeds(runs), args.jobs)
        hand_over(report(work, pretrainings.facts, runs), args.out)


if __name__ == "__main__":
    main()
