"""Damage to any file of a prepared folder is a line of `verify`, and of training and evaluation if they open the file.

`python -m pytest tests/integration/test_flipped_bits.py -m slow -s` prints the table of 20 flipped bits for each file.
"""

import contextlib
import os
import shutil
import sys

import numpy as np
import pytest
import torch
from made_up import made_up_counts, stored_recording
from made_up_checkpoints import LABELS, made_up_checkpoint
from omegaconf import OmegaConf

from fairseq_signals_ext.cli import main
from fairseq_signals_ext.commands import evaluate
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.labelling.labels import Labels, write_labels
from fairseq_signals_ext.prepared import verify
from fairseq_signals_ext.prepared.pipeline import RunOptions, prepare
from fairseq_signals_ext.prepared.split import split_recordings
from fairseq_signals_ext.prepared.split_settings import SplitSettings
from fairseq_signals_ext.sources import Item, Source

RECORDINGS, SAMPLES, SHARD_SIZE = 12, 600, 6
VERIFY, TRAINING, EVALUATE = ("verify",), ("verify", "training"), ("verify", "training", "evaluate")
# file: who opens it, and of how many of the same 20 flips verify, training and evaluate had a line before there were
# checksums; of the others 10 in the index changed what evaluate found, and 10 of table and manifest ended in tracebacks
FILES = {
    "shards/00001.npy": (EVALUATE, "20 20 20"),
    "shards/00001.index.npy": (EVALUATE, "16 6 6"),
    "shards/00001.part.parquet": (VERIFY, "10"),
    "shards/00001.checksums.json": (EVALUATE, "-"),
    "recordings.parquet": (EVALUATE, "7 0 1"),
    "plan.jsonl": (VERIFY, "19"),
    "rejected.csv": (VERIFY, "10"),
    "all.tsv": (VERIFY, "20"),
    "checksums.json": (EVALUATE, "-"),
    "splits/s/train.tsv": (EVALUATE, "20 15 15"),
    "splits/s/split.json": (VERIFY, "16"),
    "splits/s/checksums.json": (EVALUATE, "-"),
    "labels/l/y.npy": (EVALUATE, "8 18 18"),
    "labels/l/label_def.csv": (EVALUATE, "4 7 7"),
    "labels/l/labels.csv": (VERIFY, "0"),
    "labels/l/pos_weight.txt": (TRAINING, "0 15"),
    "labels/l/label.json": (VERIFY, "0"),
    "labels/l/checksums.json": (EVALUATE, "-"),
}


def read_made_up(folder, item):
    number = int(item.name)
    if number == RECORDINGS:
        raise UserError("broken on purpose")
    counts = made_up_counts(np.random.default_rng(number), SAMPLES)
    return stored_recording(counts, record_id=f"r{number}", patient=f"p{number // 2}")


def made_up_source(out, name="made-up"):
    items = [Item(str(number)) for number in range(RECORDINGS + 1)]
    return Source(name, out.parent.absolute(), items, read_made_up)


def write_folder(out, seed=0):
    """A prepared folder of two shards with a split, whose `train` has all recordings, and labels."""
    prepare(made_up_source(out), out, options=RunOptions(shard_size=SHARD_SIZE, progress=False))
    split_recordings(out, SplitSettings(name="s", by="patient", fractions=[1, 0, 0]))
    values = (np.random.default_rng(seed).random((RECORDINGS, len(LABELS))) < 0.5).astype(float)
    values[:2], values[2, 0] = [[0] * 3, [1] * 3], np.nan
    for name, known in (("l", values), ("m", 1 - values)):
        write_labels(out, name, Labels(list(LABELS), np.arange(RECORDINGS), known))
    return out


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("prepared") / "out")


@pytest.fixture
def out(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "out")


@pytest.fixture(scope="session")
def checkpoint(registered, tmp_path_factory):
    """A small classifier with all that fairseq wants of a checkpoint."""
    from fairseq.dataclass.configs import FairseqConfig

    state, path = made_up_checkpoint().state, tmp_path_factory.mktemp("model") / "checkpoint.pt"
    sections = ("common", "checkpoint", "dataset", "optimization", "distributed_training")
    config = OmegaConf.to_container(OmegaConf.structured(FairseqConfig()), enum_to_str=True)
    state["cfg"] = {**{name: config[name] for name in sections}, **state["cfg"]}
    state["cfg"]["task"].update(data="nowhere", label_file=None)
    state["cfg"]["common"]["cpu"] = True
    update = {"criterion_name": "", "optimizer_name": "adam", "lr_scheduler_state": {}, "num_updates": 1}
    state.update(optimizer_history=[update], extra_state={"train_iterator": {"epoch": 1}})
    torch.save(state, path)
    return path


def run_verify(out, checkpoint):
    """The lines that name something wrong; exits with one if there is nothing to look at."""
    if main(["verify", str(out), "--no-report"]):
        raise SystemExit("error: wrong")


def run_training(out, checkpoint):
    """What `fairseq-hydra-train` reads: labels and weights when it builds model and criterion, then all batches."""
    from fairseq_signals_ext.criterions.binary_cross_entropy_with_logits import BinaryCrossEntropyWithLogitsConfig
    from fairseq_signals_ext.tasks.ecg_classification import EcgClassificationConfig, EcgClassificationTask

    options = {"data": str(out / "splits" / "s"), "label_file": str(out / "labels" / "l"), "train_subset": "train"}
    settings = {"seed": 1, "valid_subset": "valid", "best_checkpoint_metric": "loss", "segment_seconds": 0.5}
    weights = {"pos_weight": str(out / "labels" / "l" / "pos_weight.txt")}
    task = EcgClassificationTask(EcgClassificationConfig(**options, **settings))
    with exits_on_user_error():
        task._num_labels = len(task.labels.names)
    name = "binary_cross_entropy_with_logits"
    task.build_criterion(OmegaConf.create({**vars(BinaryCrossEntropyWithLogitsConfig(**weights)), "_name": name}))
    task.load_dataset("train")
    batches = task.get_batch_iterator(task.dataset("train"), max_sentences=4, seed=1)
    for batch in batches.next_epoch_itr(shuffle=False):
        if "error" in batch:
            raise SystemExit(f"error: {batch['error']}")


@contextlib.contextmanager
def exits_on_user_error():
    try:
        yield
    except UserError as error:
        raise SystemExit(f"error: {error}") from error


def run_evaluate(out, checkpoint):
    """The command, with another folder for what it leaves."""
    data = ["--data", out / "splits" / "s", "--subset", "train", "--labels", out / "labels" / "l"]
    fast = ["--device", "cpu", "--jobs", 0, "--resamples", 2, "--thresholds", "0.5", "--overwrite"]
    evaluate.main([str(part) for part in (checkpoint, *data, *fast, "--out", out.parent / "evaluated")])


def run_validate(out, checkpoint):
    """`fairseq-validate`, in this process."""
    from fairseq_cli.validate import cli_main

    data = [out / "splits" / "s", "--label-file", out / "labels" / "l", "--valid-subset", "train"]
    options = ["--task", "ecg_classification", "--path", checkpoint, "--cpu", "--num-workers", 0, "--batch-size", 4]
    before = sys.argv
    sys.argv = [str(part) for part in ("fairseq-validate", *data, *options)]
    try:
        cli_main()
    finally:
        sys.argv = before


READERS = {"verify": run_verify, "training": run_training, "evaluate": run_evaluate, "fairseq-validate": run_validate}


def line_of(reader, out, checkpoint, capsys):
    """What a command says of damage, in one line; nothing if it did not notice."""
    capsys.readouterr()
    try:
        READERS[reader](out, checkpoint)
    except SystemExit as exit:
        assert exit.code not in (0, None)
        text = str(exit.code)
        printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith(str(out) + os.sep)]
        lines = printed if text == "error: wrong" else text.splitlines()
        assert lines and (reader == "verify" or len(lines) == 1), lines
        return lines[0]
    return ""


def damaged(content, kind, rng):
    """A file's content after a bit was flipped, or another damage."""
    changed = bytearray(content)
    if kind == "flip":
        changed[rng.integers(len(changed))] ^= 1 << rng.integers(8)
    return bytes({"flip": changed, "cut": changed[: len(changed) * 2 // 3], "empty": b""}[kind])


def check_noticed(out, name, readers, checkpoint, capsys):
    for reader in readers:
        line = line_of(reader, out, checkpoint, capsys)
        named = os.path.basename(name).split(".")[0]
        assert named in line and "; " in line, f"{name}: {reader}: {line or 'not noticed'}"


def check_noticed_after_flip(out, name, readers, checkpoint, capsys):
    content = (out / name).read_bytes()
    (out / name).write_bytes(damaged(content, "flip", np.random.default_rng(0)))
    check_noticed(out, name, readers, checkpoint, capsys)
    (out / name).write_bytes(content)


@pytest.mark.parametrize("name", FILES)
def test_damage_is_noticed(out, checkpoint, capsys, name):
    path, rng = out / name, np.random.default_rng([*name.encode()])
    content = path.read_bytes()
    for kind in ("flip", "flip", "cut", "empty"):
        path.write_bytes(damaged(content, kind, rng))
        check_noticed(out, name, FILES[name][0] if kind == "flip" else VERIFY, checkpoint, capsys)
        path.write_bytes(content)


def test_a_good_folder_is_read(out, checkpoint, capsys):
    for reader in EVALUATE:
        assert line_of(reader, out, checkpoint, capsys) == ""


def swap(first, second):
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


@pytest.mark.parametrize(
    ("first", "second", "readers"),
    [
        ("labels/l/y.npy", "labels/m/y.npy", EVALUATE),
        ("labels/l/pos_weight.txt", "labels/m/pos_weight.txt", TRAINING),
        ("labels/l/labels.csv", "labels/m/labels.csv", VERIFY),
        ("shards/00001.npy", "shards/00000.npy", EVALUATE),
        ("shards/00001.index.npy", "shards/00000.index.npy", EVALUATE),
        ("shards/00001.part.parquet", "shards/00000.part.parquet", VERIFY),
        ("shards/00001.checksums.json", "shards/00000.checksums.json", EVALUATE),
        ("splits/s/train.tsv", "all.tsv", EVALUATE),
    ],
)
def test_swapped_files_are_noticed(out, checkpoint, capsys, first, second, readers):
    swap(out / first, out / second)
    for reader in readers:
        assert line_of(reader, out, checkpoint, capsys)


def test_shards_swapped_as_a_whole_are_noticed(out, checkpoint, capsys):
    for kind in ("npy", "index.npy", "part.parquet", "checksums.json"):
        swap(out / "shards" / f"00000.{kind}", out / "shards" / f"00001.{kind}")
    for reader in ("verify", "training"):
        assert "shards/0000" in line_of(reader, out, checkpoint, capsys)


@pytest.mark.parametrize("name", [name for name in FILES if "checksums" not in name])
def test_missing_files_are_noticed(out, checkpoint, capsys, name):
    (out / name).unlink()
    needed = "" if name == "recordings.parquet" else "training"  # which trains without a table
    for reader in [one for one in TRAINING if one in FILES[name][0] and one in ("verify", needed)]:
        assert os.path.basename(name).split(".")[0] in line_of(reader, out, checkpoint, capsys)


def test_a_change_that_is_meant_is_accepted(out, checkpoint, capsys):
    manifest = out / "splits" / "s" / "train.tsv"
    manifest.write_text("".join(manifest.read_text().splitlines(keepends=True)[:-1]))
    line = line_of("training", out, checkpoint, capsys)
    command = line.split("fairseq-signals-ext verify ")[1].split()
    assert main(["verify", *command]) == 0
    assert "train.tsv: " in capsys.readouterr().out
    assert line_of("training", out, checkpoint, capsys) == ""
    assert "train.tsv: has 11 recordings, but split.json has 12" in line_of("verify", out, checkpoint, capsys)


def notes_on_checksums(out):
    return [note for note in verify.verify(out, progress=False).notes if "checksums" in note]


def test_what_an_older_version_prepared_is_read(out, checkpoint, capsys):
    for record in out.rglob("*checksums.json"):
        record.unlink()
    for reader in EVALUATE:
        assert line_of(reader, out, checkpoint, capsys) == ""
    assert len(notes_on_checksums(out)) == 1 and "3 shard(s), 3 folder(s)" in notes_on_checksums(out)[0]
    prepare(made_up_source(out, "more"), out, options=RunOptions(shard_size=SHARD_SIZE, progress=False))
    assert line_of("training", out, checkpoint, capsys) == ""
    assert "3 shard(s), 3 folder(s)" in notes_on_checksums(out)[0], "those of the new source have checksums"
    main(["verify", str(out), "--no-report", "--update-checksums"])
    assert notes_on_checksums(out) == []
    check_noticed_after_flip(out, "shards/00001.index.npy", EVALUATE, checkpoint, capsys)


@pytest.mark.parametrize("value", [9e-38, 2, -1, np.inf])
def test_labels_that_are_no_classes(out, checkpoint, capsys, value):
    path = out / "labels" / "l" / "y.npy"
    y = np.load(path)
    y[3, 1] = value
    np.save(path, y)
    (path.parent / "checksums.json").unlink()
    for reader in EVALUATE:
        assert "y.npy: idx 3, label 'B': " in line_of(reader, out, checkpoint, capsys)
    with pytest.raises(UserError, match=r"y\.npy: idx 3, label 'B'"):
        split_recordings(out, SplitSettings(name="t", stratify=path.parent))


def test_labels_csv_says_something_else(out, checkpoint, capsys):
    path = out / "labels" / "l" / "y.npy"
    y = np.load(path)
    y[3, 1] = 1 - y[3, 1]
    np.save(path, y)
    (path.parent / "checksums.json").unlink()
    assert "labels.csv: idx 3, label 'B': " in line_of("verify", out, checkpoint, capsys)


@pytest.mark.slow
def test_twenty_flips_of_each_file(out, checkpoint, capsys):
    """All are noticed by those who open the file; prints how many were, and before there were checksums."""
    rows = []
    for name, (readers, before) in FILES.items():
        path, rng = out / name, np.random.default_rng([*name.encode()])
        content, noticed = path.read_bytes(), dict.fromkeys(READERS, 0)
        for _ in range(20):
            path.write_bytes(damaged(content, "flip", rng))
            for reader in READERS:
                if reader.replace("fairseq-validate", "evaluate") in readers:
                    noticed[reader] += bool(line_of(reader, out, checkpoint, capsys))
        path.write_bytes(content)
        opened = [reader for reader in READERS if reader.replace("fairseq-validate", "evaluate") in readers]
        rows.append((name, before, *(noticed[reader] if reader in opened else "-" for reader in READERS)))
        assert all(noticed[reader] == 20 for reader in opened), rows[-1]
    with capsys.disabled():
        print("\n| file | lines of 20 before | " + " | ".join(READERS) + " |\n" + "| --- " * 6 + "|")
        for row in rows:
            print("| " + " | ".join(map(str, row)) + " |")
