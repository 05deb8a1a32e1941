"""Whether pretraining helps: the same small model fine-tuned from pretrained and from random weights, on real ECGs.

    ECG_DATA=FOLDER python benchmarks/transfer.py [--work FOLDER] [--seeds 1 2 3 4 5] [--out FILE.md]
        [--pretrain-override KEY=VALUE ...]

FOLDER holds `cinc2021` (WFDB records of the PhysioNet/CinC Challenge 2021 with their SNOMED codes) and `code15_wfdb`
(CODE-15% exams as WFDB, without labels here). All goes through the real commands:

* both are prepared; the Challenge's recordings are split (half, 15 %, 35 %) and labelled from their codes;
* the tiny model is pretrained on the Challenge's training recordings and all of CODE-15%, never on those that are
  validated or tested on;
* it is fine-tuned on the training recordings with each seed from pretrained and from random weights, with the same
  settings; the epoch with the best AUPRC on the validation set is taken;
* the test recordings are scored. Intervals and p come from 1,000 resamples of the test patients, shared by all models.

With --work, a run that was stopped goes on, and one with other settings does only what they change.
"""

import argparse
import logging
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, Dict, List

from _shared import hand_over, machine
from tqdm import tqdm

from fairseq_signals_ext import configs_dir
from fairseq_signals_ext.analysis.fine_tuning import FineTuning, as_override, run_once, scores_of, train_command
from fairseq_signals_ext.analysis.seeds import SeedComparison, compare_seeds
from fairseq_signals_ext.cli import main as command_line
from fairseq_signals_ext.common.errors import UserError, exits_on_user_error
from fairseq_signals_ext.common.files import atomic
from fairseq_signals_ext.evaluation.predictions import Predictions
from fairseq_signals_ext.evaluation.ranking import WEIGHTED
from fairseq_signals_ext.evaluation.text import with_interval

CONFIGS = Path(configs_dir())
LABELLED, UNLABELLED = "cinc2021", "code15_wfdb"
FRACTIONS, MIN_COUNT = ("0.5", "0.15", "0.35"), "10"
STARTS = ("pretrained", "random")
# the settings that were chosen, as options: name -> default
SETTINGS: Dict[str, Any] = {
    "pretrain_updates": 500,
    "pretrain_lr": 0.002,
    "pretrain_warmup": 100,
    "epochs": 25,
    "lr": 0.001,
    "warmup": 10,
}
PRETRAIN_OVERRIDES = ("task.pairs=random", "dataset.num_workers=0", "++dataset.disable_validation=true")
FINETUNE_OVERRIDES = ("dataset.num_workers=0",)


def prepare_data(source: Path, data: Path) -> None:
    """Shards, split, labels, and the manifest to pretrain on, unless they are there."""
    manifest = data / "splits" / "pretrain" / "train.tsv"
    if manifest.is_file():
        return
    for kind, name in (("physionet2021", LABELLED), ("wfdb", UNLABELLED)):
        _do("prepare", kind, source / name, "--out", data, "--rate", "500", "--resume")
    only = ("--where", "source", "!=", UNLABELLED)
    _do("split", data, "--name", "labelled", *only, "--fractions", *FRACTIONS, "--seed", "1", "--overwrite")
    train = data / "splits" / "labelled" / "train.tsv"
    options = ("--codes", "cinc2021", "--min-count", MIN_COUNT, "--train-manifest", train, "--overwrite")
    _do("label", data, "--name", "codes", *options)
    write_pretraining_manifest(data, manifest)


def _do(command: str, *arguments: object) -> None:
    if command_line([command, *map(str, arguments)]):
        raise UserError(f"{command}: some recordings were rejected; see rejected.csv")


def write_pretraining_manifest(data: Path, path: Path) -> None:
    """All recordings but those for validation and testing."""
    labelled = data / "splits" / "labelled"
    held_out = {*_recordings(labelled / "valid.tsv"), *_recordings(labelled / "test.tsv")}
    lines = [line for line in _recordings(data / "all.tsv") if line not in held_out]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        temporary.write_text("\n".join(["../..", *lines]) + "\n", encoding="utf-8")


def _recordings(manifest: Path) -> List[str]:
    return manifest.read_text(encoding="utf-8").splitlines()[1:]


def pretrain(data: Path, out: Path, options: argparse.Namespace) -> Path:
    """The checkpoint of a pretraining."""
    overrides = (
        as_override("task.data", data / "splits" / "pretrain"),
        f"optimization.max_update={options.pretrain_updates}",
        f"optimization.lr=[{options.pretrain_lr}]",
        f"lr_scheduler.warmup_updates={options.pretrain_warmup}",
        *PRETRAIN_OVERRIDES,
        *options.pretrain_override,
    )
    configs = CONFIGS / "pretraining"
    command = train_command(configs, "tiny", out, overrides)
    run_once(command, out, [configs / "tiny.yaml", data / "splits" / "pretrain" / "train.tsv"])
    return out / "checkpoints" / "checkpoint_last.pt"


def fine_tunings(work: Path, pretrained: Path, options: argparse.Namespace) -> Dict[str, List[FineTuning]]:
    """For each start a run a seed; they differ in nothing else."""
    data, labels = work / "data", work / "data" / "labels" / "codes"
    overrides = (
        as_override("criterion.pos_weight", labels / "pos_weight.txt"),
        f"optimization.max_epoch={options.epochs}",
        f"optimization.lr=[{options.lr}]",
        f"lr_scheduler.warmup_updates={options.warmup}",
        *FINETUNE_OVERRIDES,
    )
    return {
        start: [
            FineTuning(
                config_dir=CONFIGS / "fine_tuning",
                config_name="tiny",
                data=data / "splits" / "labelled",
                train_subset="train",
                label_file=labels,
                pretrained=pretrained,
                random_start=start == "random",
                seed=seed,
                out=work / "runs" / f"{start}-{seed}",
                overrides=overrides,
            )
            for seed in options.seeds
        ]
        for start in STARTS
    }


def measure(work: Path, options: argparse.Namespace) -> Dict[str, List[Predictions]]:
    """What the fine-tuned models say of the test recordings, by start."""
    with tqdm(total=1 + len(STARTS) * len(options.seeds), desc="training", unit="run") as bar:
        pretrained = pretrain(work / "data", work / "pretrain", options)
        bar.update()
        predicted: Dict[str, List[Predictions]] = {start: [] for start in STARTS}
        runs = fine_tunings(work, pretrained, options)
        for pair in zip(*runs.values()):
            for start, run in zip(STARTS, pair):
                run.run()
                predicted[start].append(scores_of(run, "test"))
                bar.update()
    return predicted


def table(compared: SeedComparison, seeds: List[int]) -> List[str]:
    """Markdown: means over seeds, their difference, and each seed."""
    names = [metric.upper() for metric in WEIGHTED]
    head = [cell for name in names for cell in (f"macro {name} [95 %]", "spread over seeds")]
    rows = [["start", *head], ["---"] * (1 + len(head))]
    for start, found in compared.groups.groupby("group", sort=False):
        values = found.rename(columns={"low": "mean_low", "high": "mean_high"}).to_dict("records")
        rows.append([start, *(cell for row in values for cell in (with_interval(row, "mean"), f"{row['spread']:.3f}"))])
    columns = {"low": "difference_low", "high": "difference_high"}
    values = compared.differences.rename(columns=columns).to_dict("records")
    cells = [cell for row in values for cell in (f"{with_interval(row, 'difference')}, p = {row['p']:.3f}", "")]
    rows += [["**difference**", *cells], []]
    rows.append(["seed", *(f"{name} {start}" for name in names for start in STARTS)])
    rows.append(["---"] * len(rows[-1]))
    for number, found in compared.seeds.groupby("number"):
        of_start = found.set_index("group")
        values = [f"{of_start.loc[start, metric]:.3f}" for metric in WEIGHTED for start in STARTS]
        rows.append([str(seeds[number]), *values])
    return [f"| {' | '.join(row)} |" if row else "" for row in rows]


def about(data: Path, predicted: Predictions, options: argparse.Namespace) -> str:
    """What was trained on what, in a line."""
    counts = [len(_recordings(data / "splits" / name)) for name in ("pretrain/train.tsv", "labelled/train.tsv")]
    settings = ", ".join(f"{name.replace('_', ' ')} {getattr(options, name)}" for name in SETTINGS)
    if options.pretrain_override:
        settings += f"; pretraining with {' '.join(options.pretrain_override)}"
    labels = ", ".join(predicted.label_names)
    return (
        f"Pretrained on {counts[0]} recordings, fine-tuned on {counts[1]}, tested on {len(predicted)}; "
        f"{len(predicted.label_names)} labels ({labels}); {settings}."
    )


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder = os.environ.get("ECG_DATA")
    parser.add_argument("--ecg-data", type=Path, default=folder and Path(folder), help="(default: ECG_DATA)")
    parser.add_argument("--work", type=Path, help="keep data and runs here, and go on with what is there")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5], help="(default 1 2 3 4 5)")
    for name, default in SETTINGS.items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=type(default), default=default, help=f"(default {default})")
    parser.add_argument("--pretrain-override", nargs="*", default=[], help="more of hydra's for the pretraining")
    parser.add_argument("--out", type=Path, help="write the tables to this file as well")
    options = parser.parse_args()
    if options.ecg_data is None or not (options.ecg_data / LABELLED).is_dir():
        raise UserError(f"--ecg-data {options.ecg_data}: no {LABELLED} there; name the folder with the recordings")
    return options


@exits_on_user_error
def main() -> None:
    """Prepare, train, evaluate and print; with --out also write."""
    options = parse()
    warnings.filterwarnings("ignore", module="torch")
    logging.disable(logging.INFO)  # importing fairseq lets every library write its log to the terminal
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        work = (options.work or Path(name)).resolve()
        prepare_data(options.ecg_data.resolve(), work / "data")
        predicted = measure(work, options)
        rows = table(compare_seeds(predicted), options.seeds)
        lines = [machine(), "", about(work / "data", predicted[STARTS[0]][0], options), "", *rows]
    minutes = (time.monotonic() - start) / 60
    hand_over([*lines, "", f"All of it took {minutes:.0f} minutes."], options.out)


if __name__ == "__main__":
    main()
