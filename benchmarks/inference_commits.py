"""Throughput of predict and evaluate in this checkout and in another one, in turns; see `inference.py --before`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any, Dict, List

import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
# runs commands in one process, so that what Python imports is not measured
_WORKER = """
import contextlib, json, os, sys, time
from fairseq_signals_ext.cli import main
for line in sys.stdin:
    start = time.perf_counter()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        status = main(json.loads(line))
    print(json.dumps([status, time.perf_counter() - start]), flush=True)
"""


class Side:
    """A process that uses the package of a checkout."""

    def __init__(self, checkout: Path):
        if not (checkout / "fairseq_signals_ext").is_dir():
            raise SystemExit(f"error: {checkout}: no checkout of this repository; give its folder")
        environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
        pipes: Dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        command = [sys.executable, "-c", _WORKER]
        self._process = subprocess.Popen(command, env=environment, cwd=checkout, text=True, **pipes)

    def seconds(self, *arguments: Any) -> float:
        """Return the seconds of a command."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(one) for one in arguments]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer or json.loads(answer)[0] != 0:
            raise SystemExit(f"error: {arguments[0]} failed; run it by hand: {' '.join(map(str, arguments))}")
        return float(json.loads(answer)[1])

    def end(self) -> None:
        """End the process."""
        self._process.communicate()


def write_checkpoint(path: Path, sizes: Dict[str, Any]) -> Path:
    """Write a classifier with random weights and two labels, as a training does."""
    from omegaconf import OmegaConf

    from fairseq_signals_ext.models.ecg_classifier import EcgTransformerClassifier, EcgTransformerClassifierConfig

    torch.manual_seed(0)
    config = EcgTransformerClassifierConfig(num_labels=2, **sizes)
    options: Dict[str, Any] = OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)  # type: ignore
    sections = {
        "model": {**options, "_name": "ecg_transformer_classifier"},
        "criterion": {"_name": "binary_cross_entropy_with_logits"},
        "task": {"_name": "ecg_classification", "data": ".", "sample_rate": 500.0, "enable_padding_leads": True},
    }
    history = [{"best_loss": 1.0, "optimizer_name": "FairseqAdam", "num_updates": 1, "lr_scheduler_state": {}}]
    state = {
        "model": EcgTransformerClassifier(config).state_dict(),
        "cfg": sections,
        "task_state": {"label_names": ["A", "B"], "sample_rate": 500.0},
        "optimizer_history": history,
        "extra_state": {"train_iterator": {"epoch": 1}, "val_loss": 1.0},
        "last_optimizer_state": None,
    }
    torch.save(state, path)
    return path


def compare(before: Path, records: Path, sizes: Dict[str, Any], rounds: int, folder: Path) -> List[str]:
    """Return rows of a table: recordings per second of both sides, and the ratio of their medians.

    Args:
        before: the other checkout.
        records: folder of WFDB records.
        folder: for what is made.
    """
    from fairseq_signals_ext.prepared.pipeline import RunOptions, prepare
    from fairseq_signals_ext.sources.files import open_source
    from fairseq_signals_ext.sources.source import SourceOptions

    checkpoint = write_checkpoint(folder / "model.pt", sizes)
    data = folder / "data"
    recordings = prepare(open_source(records, SourceOptions()), data, options=RunOptions(progress=False)).recordings
    np.save(folder / "y.npy", np.random.default_rng(0).integers(0, 2, (recordings, 2)).astype(np.float32))
    labels = ["--labels", folder / "y.npy", "--subset", "all", "--thresholds", "0.5", "--resamples", "1"]
    commands = {
        "predict": [checkpoint, records, "--device", "cpu"],
        "evaluate": [checkpoint, "--data", data, *labels, "--device", "cpu", "--jobs", "0"],
    }
    sides = {"before": Side(before), "here": Side(REPOSITORY)}
    rows = ["| command | recordings/s before | here | ratio | of single rounds |", "| --- | --- | --- | --- | --- |"]
    try:
        for command, arguments in commands.items():
            seconds: Dict[str, List[float]] = {name: [] for name in sides}
            for number in range(rounds + 1):  # the first one warms up
                for name in sorted(sides, reverse=bool(number % 2)):
                    out = ["--out", folder / name / command, "--overwrite"]
                    took = sides[name].seconds(command, *arguments, *out)
                    seconds[name] += [took] if number else []
            ratios = sorted(old / new for old, new in zip(seconds["before"], seconds["here"]))
            rates = {name: recordings / median(values) for name, values in seconds.items()}
            ratio = f"**{rates['here'] / rates['before']:.2f}** | {ratios[0]:.2f}-{ratios[-1]:.2f}"
            rows.append(f"| {command} | {rates['before']:.1f} | {rates['here']:.1f} | {ratio} |")
            print(rows[-1])
    finally:
        for side in sides.values():
            side.end()
    return rows
