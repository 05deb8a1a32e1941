"""The comparison of `training.py --through-command`: stock and fast, by `fairseq-hydra-train` itself.

The real command trains on made-up shards, which it loads by its own workers, and writes its log every few updates.
The rate is that of the second half of the updates, from the times of the log's lines: by then all is compiled. It holds
all that the first epoch of a training does, also comparing checksums and writing the log, but neither checkpoints nor
validation. The manifest names the same recordings again and again, so that they come from the page cache.
"""

import argparse
import json
import os
import re
import statistics
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Dict, List, Tuple

from _shared import CONFIGS, FAST, ON_GPU, STOCK, noise, write_shards
from tqdm import tqdm

from fairseq_signals_ext.analysis.fine_tuning import as_override, run_once, train_command
from fairseq_signals_ext.common.errors import UserError

RECORDINGS = 2048  # at most: 0.25 GB
_LINE = re.compile(r"\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3})\]\[train_inner\]\[INFO\] - (\{.*\})\s*$")


def paths() -> Dict[str, List[str]]:
    """Overrides by name."""
    found: Dict[str, List[str]] = {STOCK: []}
    if ON_GPU:
        found["common.bf16"] = ["common.bf16=true"]
    return {**found, "fast": FAST}


def write_data(folder: Path, items: int) -> None:
    """Write shards, and a manifest of this number of items, all full pairs."""
    write_shards(folder, min(items, RECORDINGS), noise())
    manifest = folder / "train.tsv"
    root, *lines = manifest.read_text(encoding="utf-8").splitlines()
    lines = (lines * (items // len(lines) + 1))[:items]
    manifest.write_text("\n".join([root, *lines]) + "\n", encoding="utf-8")


def train(data: Path, out: Path, options: argparse.Namespace, updates: int, switches: List[str]) -> Path:
    """Return the log of a training."""
    overrides = [
        as_override("task.data", data),
        f"dataset.batch_size={options.pairs}",
        f"dataset.num_workers={max(1, min(6, (os.cpu_count() or 2) - 1))}",
        "++dataset.disable_validation=true",
        "++checkpoint.no_save=true",
        "++distributed_training.distributed_world_size=1",
        "++optimization.update_freq=[1]",
        f"++optimization.max_update={updates}",
        f"++common.cpu={str(not ON_GPU).lower()}",
        "common.log_format=json",
        f"common.log_interval={max(1, updates // 20)}",
    ]
    run_once(train_command(CONFIGS, options.config, out, [*overrides, *options.override, *switches]), out)
    return out / "hydra_train.log"


def read_times(log: str) -> List[Tuple[int, float]]:
    """Return the updates in fairseq's log, with their times in s."""
    found = []
    for match in filter(None, map(_LINE.search, log.splitlines())):
        time = datetime.strptime(match.group(1), "%Y-%m-%d %H:%M:%S,%f").timestamp()
        found.append((int(float(json.loads(match.group(2))["num_updates"])), time))
    return found


def seconds_an_update(times: List[Tuple[int, float]]) -> List[float]:
    """Return seconds per update between two lines of the log, for the second half of the updates.

    Raises:
        UserError: there are fewer than two lines.
    """
    late = [(update, time) for update, time in times if 2 * update >= times[-1][0]]
    if len(late) < 2:
        raise UserError("--updates: too few to see a rate in the log; give more")
    return [(time - before) / (update - last) for (last, before), (update, time) in zip(late, late[1:])]


def compare_commands(options: argparse.Namespace) -> List[str]:
    """Return the lines of the report."""
    updates = options.updates or (200 if ON_GPU else 16)
    found: Dict[str, List[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        write_data(folder / "data", updates * options.pairs)
        for title, switches in tqdm(paths().items(), desc="training", leave=False):
            log = train(folder / "data", folder / title, options, updates, switches)
            found[title] = seconds_an_update(read_times(log.read_text(encoding="utf-8")))
    config = ", ".join([f"{options.config}.yaml", *options.override])
    about = f"fairseq-hydra-train, {config}, {options.pairs} pairs a batch, {updates} updates, loader included"
    return [f"{about}.", "", *table(found, 2 * options.pairs)]


def table(found: Dict[str, List[float]], segments: int) -> List[str]:
    """Return rows of markdown, from seconds per update by name, including `STOCK`, and segments per batch."""
    rows = ["| path | segments/s [range] | ratio to stock |", "| --- | --- | --- |"]
    for name, seconds in found.items():
        rate, low, high = (segments / value for value in (statistics.mean(seconds), max(seconds), min(seconds)))
        ratio = statistics.mean(found[STOCK]) / statistics.mean(seconds)
        rows.append(f"| {name} | {rate:,.1f} [{low:,.1f}, {high:,.1f}] | {ratio:.2f} |")
    return rows
