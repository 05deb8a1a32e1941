"""Which pretraining gives the better frozen features, at equal processor time, on a small scale.

    ECG_DATA=FOLDER python benchmarks/recipes.py [--work FOLDER] [--seconds 240] [--seeds 1 2 3 4 5] [--out FILE.md]

Pretrained on what is not probed: the Challenge's records, CODE-15 % and PTB-XL's folds 1 to 9 of FOLDER; probed on its
`ptbxl_fold10` by the protocol `strict`. Each recipe gets the same processor seconds (user and system, of one thread):
how many updates these are, is measured beforehand. A recipe's value is the mean over its seeds; a resample draws
patients, the same for all, and beside them seeds. With --work, a run that was stopped goes on.

Recipes: ECG-FM's objective with its own input (each lead standardised), the same with amplitudes kept (`fixed`), its
encoder with data2vec's objective, and a JEPA. Encoders differ in size by less than a tenth of their parameters, where
the table does not say otherwise. Controls: random weights of each, and measures made by hand.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import resource
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence

import numpy as np
from _shared import hand_over, machine
from tqdm import tqdm

from fairseq_signals_ext import configs_dir
from fairseq_signals_ext.analysis.fine_tuning import as_override, train_command
from fairseq_signals_ext.benchmarking.comparing import Measured, difference, measure, metrics_of
from fairseq_signals_ext.benchmarking.protocols import BenchmarkSettings
from fairseq_signals_ext.benchmarking.running import prepare_task
from fairseq_signals_ext.benchmarking.score_files import Unit, read_scores
from fairseq_signals_ext.benchmarking.task_files import read_task
from fairseq_signals_ext.cli import main as command_line
from fairseq_signals_ext.common.errors import UserError, exits_on_user_error
from fairseq_signals_ext.evaluation.comparison import holm

TASKS = ("ptbxl-super", "ptbxl-rhythm", "sex", "age", "heart-rate", "axis")
PROBES = ("last", "layer")
_SOURCES = {"cinc2021": "physionet2021", "code15_wfdb": "wfdb", "code15_wfdb_more": "wfdb", "ptbxl": "ptbxl"}
_TRIED = (10, 40)  # updates, of which the difference tells what one takes
_QUIET = ("dataset.num_workers=0", "++dataset.disable_validation=true", "checkpoint.save_interval_updates=0")


class Recipe(NamedTuple):
    """How to pretrain: a config of configs/pretraining, and what differs from it."""

    config: str
    overrides: Sequence[str] = ()


RECIPES: Dict[str, Recipe] = {
    "ECG-FM": Recipe("tiny", ("task.standardize=lead",)),
    "ECG-FM, fixed input": Recipe("tiny", ("task.standardize=fixed",)),
    "data2vec": Recipe("ecg_data2vec_tiny", ("task.standardize=lead",)),
    "data2vec, fixed input": Recipe("ecg_data2vec_tiny", ("task.standardize=fixed",)),
    "JEPA": Recipe("ecg_jepa_tiny", ("task.standardize=fixed",)),
}
_FIRST = next(iter(RECIPES))


def silently(*arguments: Any) -> None:
    """One of our commands, whose output nobody reads; it may leave out some recordings.

    Raises:
        UserError: it failed.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            command_line([str(one) for one in arguments])
    except SystemExit as error:
        raise UserError(f"{' '.join(map(str, arguments))}: failed: {error} {said.getvalue()[-300:]}") from error


def prepare_data(source: Path, work: Path) -> None:
    """`work/pretraining` with all of it in `train.tsv`, and `work/probed`."""
    pretraining, probed = work / "pretraining", work / "probed"
    if not (probed / "all.tsv").is_file():
        silently("prepare", "ptbxl", source / "ptbxl_fold10", "--out", probed, "--resume")
    if (pretraining / "train.tsv").is_file():
        return
    for folder, kind in _SOURCES.items():
        silently("prepare", kind, source / folder, "--out", pretraining, "--resume")
    text = (pretraining / "all.tsv").read_text(encoding="utf-8")
    (pretraining / "train.tsv").write_text(text, encoding="utf-8")


def train(recipe: Recipe, data: Path, out: Path, updates: int, seed: int) -> float:
    """Pretrain; returns processor seconds."""
    overrides = [
        as_override("task.data", data.resolve()),
        f"optimization.max_update={updates}",
        f"common.seed={seed}",
        *_QUIET,
        *recipe.overrides,
    ]
    command = train_command(Path(configs_dir("pretraining")), recipe.config, out, overrides)
    before = _children()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise UserError(f"{out}: the training failed: {(done.stderr or done.stdout)[-500:]}")
    return _children() - before


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def updates_in(recipe: Recipe, data: Path, seconds: float) -> int:
    """How many updates a recipe makes in so many processor seconds, the start of the program not counted."""
    few, more = _TRIED
    with tempfile.TemporaryDirectory() as folder:
        took = [train(recipe, data, Path(folder) / str(number), number, 1) for number in _TRIED]
    return max(more, round(seconds * (more - few) / max(took[1] - took[0], 1e-3)))


def pretrain(work: Path, seconds: float, seeds: Sequence[int]) -> Dict[str, Dict[str, Any]]:
    """Checkpoints of all recipes and seeds, and what they took; what is there is not made again."""
    path = work / "pretrained.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    data = work / "pretraining"
    for name, recipe in tqdm(RECIPES.items(), desc="recipes", leave=False):
        facts = found.setdefault(name, {})
        if facts.get("seconds") != seconds:
            facts.update(seconds=seconds, updates=updates_in(recipe, data, seconds), took={})
        for seed in seeds:
            if str(seed) not in facts["took"]:
                out = work / "runs" / f"{list(RECIPES).index(name)}-seed{seed}"
                facts["took"][str(seed)] = train(recipe, data, out, facts["updates"], seed)
                path.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def checkpoint_of(work: Path, name: str, seed: int) -> Path:
    """That a pretraining left."""
    return work / "runs" / f"{list(RECIPES).index(name)}-seed{seed}" / "checkpoints" / "checkpoint_last.pt"


def probe(work: Path, seeds: Sequence[int]) -> None:
    """Probes of all checkpoints and controls, by the command."""
    models = {f"{name}, seed {seed}": checkpoint_of(work, name, seed) for name in RECIPES for seed in seeds}
    given = ["--data", work / "probed", "--tasks", ",".join(TASKS), "--probes", ",".join(PROBES)]
    given += ["--fold-seeds", 1, "--resume", "--device", "cpu", "--out", work / "benchmark"]
    silently("benchmark", *models.values(), "--names", *models, *given)


def measured(work: Path, task: str, probe_name: str, seeds: Sequence[int]) -> Dict[str, Measured]:
    """Of each recipe over its seeds, of random weights of each, and of measures made by hand."""
    settings = BenchmarkSettings(fold_seeds=(1,))
    known = prepare_task(work / "probed", read_task(task), settings, _measures(work)).known
    found = {}
    for name in RECIPES:
        models = [f"{name}, seed {seed}" for seed in seeds]
        found[name] = _of(work, task, probe_name, models, known, settings)
        random = [f"random ({model})" for model in models]
        found[f"random weights of {name}"] = _of(work, task, probe_name, random, known, settings)
    found["measures made by hand"] = _of(work, task, probe_name, ["hand-made measures"], known, settings)
    return {name: one for name, one in found.items() if one is not None}


def _measures(work: Path) -> Any:
    from fairseq_signals_ext.benchmarking.computing import MEASURES, measures_of
    from fairseq_signals_ext.benchmarking.features import Features
    from fairseq_signals_ext.common.files import safe_name

    features = Features.open(work / "benchmark" / "features" / safe_name(MEASURES))
    return lambda idx: measures_of(features, idx)


def _of(work: Path, task: str, probe_name: str, models: Sequence[str], known: Any, settings: Any) -> Any:
    paths = [Unit(model, task, probe_name, 100.0, 1).path(work / "benchmark") for model in models]
    scores = [read_scores(path).scores for path in paths if path.is_file()]
    return measure(scores, known, settings) if scores else None


def report(work: Path, facts: Dict[str, Dict[str, Any]], seeds: Sequence[int]) -> List[str]:
    """The lines of the report."""
    lines = [f"{machine()}; {len(seeds)} pretrainings of each recipe.", "", *_costs(work, facts, seeds)]
    for task in TASKS:
        metric = metrics_of(prepare_task(work / "probed", read_task(task), BenchmarkSettings(), _measures(work)).known)[
            0
        ]
        lines += ["", f"## {task}, {metric}", ""]
        lines += ["| | last | layer | last, less ECG-FM's | layer, less ECG-FM's | p (Holm) |"]
        lines += ["| --- | --- | --- | --- | --- | --- |"]
        by_probe = {name: measured(work, task, name, seeds) for name in PROBES}
        p = {name: _p_values(of, metric) for name, of in by_probe.items()}
        for name in by_probe["last"]:
            cells = [_value(by_probe[one][name], metric) for one in PROBES]
            cells += [_less(by_probe[one][name], by_probe[one][_FIRST], metric, name) for one in PROBES]
            worst = "-" if name not in p["last"] else f"{max(p[one][name] for one in PROBES):.3g}"
            lines.append(f"| {name} | {' | '.join(cells)} | {worst} |")
    return lines


def _costs(work: Path, facts: Dict[str, Dict[str, Any]], seeds: Sequence[int]) -> List[str]:
    import fairseq_signals_ext

    rows = ["| recipe | parameters in use | updates | processor s |", "| --- | --- | --- | --- |"]
    for name, one in facts.items():
        model = fairseq_signals_ext.load(checkpoint_of(work, name, seeds[0]))
        parameters = sum(weights.numel() for weights in model.network.parameters())
        took = np.mean([one["took"][str(seed)] for seed in seeds])
        rows.append(f"| {name} | {parameters:,} | {one['updates']:,} | {took:.0f} |")
    return rows


def _value(one: Measured, metric: str) -> str:
    low, high = one.ends[metric][-1]
    return f"{one.point[metric][-1]:.3f} [{low:.3f}, {high:.3f}]"


def _less(one: Measured, first: Measured, metric: str, name: str) -> str:
    if name == _FIRST:
        return "-"
    point, low, high, _ = difference(one, first, metric, 0.95)
    return f"{point:+.3f} [{low:+.3f}, {high:+.3f}]"


def _p_values(found: Dict[str, Measured], metric: str) -> Dict[str, float]:
    """Of the recipes against the first, adjusted for their number."""
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
        facts = pretrain(work, args.seconds, args.seeds)
        probe(work, args.seeds)
        hand_over(report(work, facts, args.seeds), args.out)


if __name__ == "__main__":
    main()
