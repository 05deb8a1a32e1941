"""Whether the fast path learns the same: the small model on real recordings, in fp32 and with all fast switches.

    ECG_DATA=FOLDER python benchmarks/fast_learning.py [--updates 300] [--seeds 1] [--work FOLDER] [--runs NAME ...]
        [--out FILE.md]

FOLDER holds `cinc2021` (WFDB records). All goes through the real commands: prepare, split, and `fairseq-hydra-train`
with `tiny.yaml`, all with the same seeds. Compared is the loss that fairseq logs, in bits, its mean over each 10
updates, with its parts: contrastive (loss_0), diversity of codewords (loss_1), penalty on features (loss_2) and CMSC
(loss_3).

Trainings drift apart by the smallest difference, so there are controls. Two differ from the stock path by rounding of
fp32 only: the stock path on one thread, which adds up in another order, and the switches that claim the same numbers.
In another the learning rate is 0.1 % higher, a change as small as those that bf16 makes. With several seeds, means over
them are compared, which drift less.

With --work, a run that was stopped goes on, and what is done stays done.
"""

import argparse
import contextlib
import logging
import os
import re
import tempfile
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple

import numpy as np
from _shared import CONFIGS, FAST, STOCK, SWITCHES, hand_over, machine
from tqdm import tqdm

from fairseq_signals_ext.analysis.fine_tuning import as_override, run_once, train_command
from fairseq_signals_ext.cli import main as command_line
from fairseq_signals_ext.common.errors import UserError, exits_on_user_error
from fairseq_signals_ext.evaluation.training_curve import read_log

EVERY, WIDTHS = 10, (10, 50, 100)  # updates that a logged mean is of, and those that means are compared over
SHOWN = (10, 50, 100, 200, 300)
QUANTITIES = ("loss", "loss_0", "loss_1", "loss_2", "loss_3")
THREADS = 2
GOAL = 1.0  # per cent


class Run(NamedTuple):
    """Overrides of a training, and its number of threads."""

    overrides: List[str]
    threads: int = THREADS


def without(*names: str) -> List[str]:
    """Return the overrides of the fast path without some switches."""
    return [override for name, overrides in SWITCHES.items() if name not in names for override in overrides]


RUNS: Dict[str, Run] = {
    STOCK: Run([]),
    "fast": Run(FAST),
    "stock, one thread": Run([], threads=1),
    "stock, learning rate + 0.1 %": Run(["optimization.lr=[0.002002]"]),
    "fast, fp32, not compiled": Run(without("compile", "bf16_autocast")),
    "fast, not compiled": Run(without("compile")),
}


def prepare_data(source: Path, data: Path) -> Path:
    """Return the folder with training manifests; make it if it does not exist."""
    manifests = data / "splits" / "random"
    if not (manifests / "train.tsv").is_file():
        for command in (
            ("prepare", "wfdb", source, "--out", data, "--resume"),
            ("split", data, "--name", manifests.name),
        ):
            if command_line([str(argument) for argument in command]):
                raise UserError(f"{data}: some recordings were rejected; see rejected.csv")
    return manifests


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """Commands started inside use this number of threads."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(number)
    try:
        yield
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


def train(manifests: Path, out: Path, run: Run, updates: int, seed: int) -> Dict[str, np.ndarray]:
    """Return logged losses by name, each a mean over 10 updates."""
    overrides = [
        as_override("task.data", manifests.resolve()),
        f"optimization.max_update={updates}",
        f"common.log_interval={EVERY}",
        f"common.seed={seed}",
        "dataset.num_workers=0",
        "++dataset.disable_validation=true",
        *run.overrides,
    ]
    with threads(run.threads):
        command = train_command(CONFIGS, "tiny", out, overrides)
        run_once(command, out, [CONFIGS / "tiny.yaml", manifests / "train.tsv"])
    curves = read_log(out).train
    return {name: np.array([curves[name][update] for update in sorted(curves[name])]) for name in QUANTITIES}


def of_seeds(manifests: Path, out: Path, run: str, options: argparse.Namespace) -> Dict[str, np.ndarray]:
    """Return means over seeds of logged values."""
    found = [train(manifests, out / str(seed), RUNS[run], options.updates, seed) for seed in options.seeds]
    return {name: np.mean([losses[name] for losses in found], axis=0) for name in QUANTITIES}


def largest_difference(stock: np.ndarray, other: np.ndarray, updates: int) -> float:
    """Return the largest difference in percent of the stock loss, over means of this number of updates."""
    together = updates // EVERY
    means = [values[: len(values) // together * together].reshape(-1, together).mean(1) for values in (stock, other)]
    return float(100 * np.max(np.abs(means[1] / means[0] - 1)))


def table_of_losses(losses: Dict[str, Dict[str, np.ndarray]], updates: int) -> List[str]:
    """Return rows with logged values at some updates."""
    shown = [update for update in SHOWN if update <= updates]
    rows = [["run", "bits", *(f"at {update}" for update in shown)], ["---"] * (2 + len(shown))]
    for name in QUANTITIES:
        for run, found in losses.items():
            rows.append([run, name, *(f"{found[name][update // EVERY - 1]:.3f}" for update in shown)])
    return [f"| {' | '.join(row)} |" for row in rows]


def table_of_differences(losses: Dict[str, Dict[str, np.ndarray]]) -> List[str]:
    """Return rows with the largest differences from the stock path, for means over few and many updates."""
    rows = [["largest difference from the stock path", *QUANTITIES], ["---"] * (1 + len(QUANTITIES))]
    for run in (run for run in losses if run != STOCK):
        for width in WIDTHS:
            differences = [largest_difference(losses[STOCK][name], losses[run][name], width) for name in QUANTITIES]
            rows.append([f"{run}, means of {width} updates", *(f"{value:.2f} %" for value in differences)])
    return [f"| {' | '.join(row)} |" for row in rows]


def parse() -> argparse.Namespace:
    """Parse the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder = os.environ.get("ECG_DATA")
    parser.add_argument("--ecg-data", type=Path, default=folder and Path(folder), help="(default: ECG_DATA)")
    parser.add_argument("--updates", type=int, default=300, help="(default 300)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="(default 1)")
    parser.add_argument("--work", type=Path, help="keep data and runs here, and go on with what is there")
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), default=list(RUNS), help="besides stock (default all)")
    parser.add_argument("--out", type=Path, help="write the tables to this file as well")
    options = parser.parse_args()
    if options.ecg_data is None or not (options.ecg_data / "cinc2021").is_dir():
        raise UserError(f"--ecg-data {options.ecg_data}: no cinc2021 there; name the folder with the recordings")
    if options.updates < max(WIDTHS):
        raise UserError(f"--updates {options.updates}: give at least {max(WIDTHS)}")
    return options


@exits_on_user_error
def main() -> None:
    """Prepare, train and print; with --out also write."""
    options = parse()
    logging.disable(logging.INFO)  # importing fairseq lets every library write its log to the terminal
    losses: Dict[str, Dict[str, np.ndarray]] = {}
    chosen = [run for run in RUNS if run in {STOCK, *options.runs}]
    with tempfile.TemporaryDirectory() as name:
        work = (options.work or Path(name)).resolve()
        manifests = prepare_data(options.ecg_data.resolve() / "cinc2021", work / "data")
        for run in tqdm(chosen, desc="training", unit="run"):
            losses[run] = of_seeds(manifests, work / "runs" / re.sub(r"\W+", "-", run), run, options)
    seeds = ", ".join(map(str, options.seeds))
    about = f"tiny.yaml, {options.updates} updates, seeds {seeds}, {THREADS} threads; fast: {' '.join(FAST)}."
    lines = [machine(), "", about, ""]
    lines += [*table_of_losses(losses, options.updates), "", *table_of_differences(losses)]
    lines += ["", f"Goal: less than {GOAL:g} % in the loss."]
    hand_over(lines, options.out)


if __name__ == "__main__":
    main()
