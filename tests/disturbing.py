"""Every command that writes, over small made-up recordings, for tests that disturb it."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, List, Sequence, Tuple

import numpy as np
import torch
from made_up import made_up_counts
from made_up_checkpoints import LABELS, made_up_checkpoint

from fairseq_signals_ext.cli import main

_RATE = ("--input-rate", "500")
_LOG = """\
[2026-01-01 00:00:00,000][train_inner][INFO] - {"epoch": 1, "loss": "3.1", "loss_0": "2.0", "num_updates": "10"}
[2026-01-01 00:00:00,000][train_inner][INFO] - {"epoch": 1, "loss": "3.0", "loss_0": "1.9", "num_updates": "20"}
"""


@dataclass(frozen=True)
class Command:
    """A command that leaves something in a folder.

    Attributes:
        arguments: of the command, from the folder with its inputs and the one to write to.
        prepared: the folder to write to is a prepared one.
        again: arguments with which it goes on.
        lock: file that is locked while it runs.
        left: what a run that is killed may leave beside the lock, unfinished; a folder if it has no suffix.
    """

    arguments: Callable[[Path, Path], List[object]]
    prepared: bool = False
    again: Tuple[str, ...] = ()
    lock: str = "out/.lock"
    left: str = "table.csv"

    def place(self, world: Path, place: Path) -> None:
        """Make what has to be in the folder before the command."""
        if self.prepared:
            shutil.copytree(world / "prepared", place, dirs_exist_ok=True)

    def line(self, name: str, world: Path, place: Path) -> List[str]:
        """The command line."""
        return [name.split()[0], *map(str, self.arguments(world, place))]


def _run(*more: str) -> Callable[[Path, Path], List[object]]:
    """Arguments of a model's run over files."""
    return lambda world, place: [world / "model.pt", world / "files", "--out", place / "out", *_RATE, *more]


def _export(kind: str) -> Command:
    return Command(
        lambda world, place: [world / "model.pt", "--to", kind, "--out", place / "out"], lock=".out.lock", left="out"
    )


_RESUME = ("--resume",)
COMMANDS = {
    "predict": Command(_run("--segments"), again=_RESUME),
    "predict parquet": Command(_run("--format", "parquet"), again=_RESUME),
    "embed": Command(_run("--per", "segment"), again=_RESUME),
    "embed parquet": Command(_run("--format", "parquet"), again=_RESUME),
    "explain": Command(_run(), again=_RESUME),
    "explain png": Command(_run("--picture", "png", "--method", "occlusion"), again=_RESUME),
    "report": Command(_run("--saliency", "none"), again=_RESUME),
    "prepare": Command(
        lambda world, place: ["files", world / "files", "--out", place / "out", *_RATE, "--shard-size", "2"],
        again=_RESUME,
        left="recordings.parquet",
    ),
    "split": Command(
        lambda world, place: [place, "--name", "new", "--fractions", 0.4, 0.3, 0.3],
        prepared=True,
        lock="splits/.new.lock",
        left="new",
    ),
    "label": Command(
        lambda world, place: [place, "--name", "new", "--table", world / "labels.csv"],
        prepared=True,
        again=("--overwrite",),
        lock="labels/.new.lock",
        left="new",
    ),
    "verify": Command(lambda world, place: [place], prepared=True),
    "evaluate": Command(
        lambda world, place: [
            *(world / "model.pt", "--data", world / "prepared" / "splits" / "all", "--subset", "test"),
            *("--labels", world / "prepared" / "labels" / "abc", "--out", place / "out", "--resamples", 5),
            *("--jobs", 0),
        ]
    ),
    "export safetensors": _export("safetensors"),
    "export torchscript": _export("torchscript"),
    "export onnx": _export("onnx"),
    "export ecg-fm": _export("ecg-fm"),
    "config convert": Command(lambda world, place: ["convert", world / "theirs.yaml", "--out", place / "ours.yaml"]),
    "curve": Command(lambda world, place: [world / "hydra_train.log", "--out", place / "loss.png"]),
}


def write_files(folder: Path, names: Sequence[str]) -> Path:
    """Recordings in files of these names, in `folder/files`; returns `folder`."""
    (folder / "files").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in names:
        np.save(folder / "files" / f"{name}.npy", made_up_counts(rng, 5000) / 1000)
    return folder


def make_world(folder: Path, recordings: int = 6, names: Sequence[str] = ()) -> Path:
    """Inputs of all commands.

    Args:
        names: of the recordings.
    """
    names = names or [f"ecg{number}" for number in range(recordings)]
    write_files(folder, names)
    checkpoint = made_up_checkpoint(path=folder / "model.pt").state
    history = [{"criterion_name": "", "optimizer_name": "", "num_updates": 1, "lr_scheduler_state": {}}]
    checkpoint.update(optimizer_history=history, extra_state={"train_iterator": {"epoch": 1}}, args=None)
    prepared = folder / "prepared"
    checkpoint["cfg"]["task"].update(data="data", label_file="labels", train_subset="train", seed=1)
    torch.save(checkpoint, folder / "model.pt")
    (folder / "theirs.yaml").write_text(
        "task: {_name: ecg_pretraining, data: theirs}\nmodel: {_name: wav2vec2_cmsc}\n"
        "criterion: {_name: wav2vec2_with_cmsc, all_gather: true}\n"
    )
    (folder / "hydra_train.log").write_text(_LOG)
    rows = [f"{name},{number % 2},{number // 2 % 2},{number % 3 // 2}" for number, name in enumerate(names)]
    lines = [",".join(["record_id", *LABELS]), *rows]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert main(["prepare", "files", str(folder / "files"), "--out", str(prepared), *_RATE]) == 0
    assert main(["label", str(prepared), "--name", "abc", "--table", str(folder / "labels.csv")]) == 0
    (prepared / "splits" / "all").mkdir(parents=True)
    lines = (prepared / "all.tsv").read_text().splitlines()
    (prepared / "splits" / "all" / "test.tsv").write_text("\n".join(["../..", *lines[1:]]) + "\n")
    return folder
