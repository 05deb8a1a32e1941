"""Runs of an experiment: done once, run anew when something else was asked for, with one line when they fail."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from fairseq_signals_ext.analysis import fine_tuning as experiments
from fairseq_signals_ext.analysis.fine_tuning import FineTuning, as_override, run_once
from fairseq_signals_ext.common.errors import MissingPackageError, UserError

# a training that counts how often it was started, and needs two steps
STEP = "import pathlib, sys; f = pathlib.Path(sys.argv[1]); f.write_text(f.read_text() + 'x' if f.exists() else 'x')"


def command_of(out, *more):
    return [sys.executable, "-c", STEP, str(out / "steps"), *more]


def steps(out):
    return len((out / "steps").read_text())


def test_a_run_that_is_done_is_not_run_again(tmp_path):
    out = tmp_path / "runs" / "a"
    for _ in range(3):
        run_once(command_of(out), out)
    assert steps(out) == 1
    assert json.loads((out / "run.json").read_text()) == {"command": command_of(out), "inputs": {}, "done": True}


def test_another_command_starts_in_a_fresh_folder(tmp_path, caplog):
    out = tmp_path / "a"
    run_once(command_of(out), out)
    (out / "checkpoint").write_text("old")
    run_once(command_of(out, "common.seed=2"), out)
    assert steps(out) == 1 and not (out / "checkpoint").exists()
    assert f"{out}: was run with another command or other inputs" in caplog.text


def test_an_input_of_other_content_starts_in_a_fresh_folder(tmp_path):
    out, given_file = tmp_path / "a", tmp_path / "pretrained.pt"
    given_file.write_bytes(b"1" * 100)
    run_once(command_of(out), out, [given_file])
    (out / "checkpoint").write_text("old")
    given_file.write_bytes(b"1" * 100)  # written again, with the same content
    os.utime(given_file, (1, 1))
    run_once(command_of(out), out, [given_file])
    assert (out / "checkpoint").exists()
    given_file.write_bytes(b"1" * 99 + b"2")
    run_once(command_of(out), out, [given_file])
    assert not (out / "checkpoint").exists() and steps(out) == 1


def test_a_run_that_was_killed_continues_in_its_folder(tmp_path):
    out = tmp_path / "a"
    wait = command_of(out)
    wait[2] = STEP + "; import time; f.with_name('started').touch(); time.sleep(60 if len(f.read_text()) == 1 else 0)"
    run = f"run_once({wait!r}, Path({str(out)!r}))"
    script = f"from pathlib import Path; from {experiments.__name__} import run_once; {run}"
    process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    deadline = time.monotonic() + 60
    while not (out / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert json.loads((out / "run.json").read_text())["done"] is False
    run_once(wait, out)
    assert steps(out) == 2 and json.loads((out / "run.json").read_text())["done"] is True


def test_a_run_ends_with_the_one_that_started_it(tmp_path):
    """Also if the parent is killed and cannot end its processes."""
    out = tmp_path / "a"
    wait = [sys.executable, "-c", STEP + "; import time; time.sleep(60)", str(out / "steps")]
    run = f"run_once({wait!r}, Path({str(out)!r}))"
    script = f"from pathlib import Path; from {experiments.__name__} import run_once; {run}"
    process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    deadline = time.monotonic() + 60
    while not (out / "steps").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    with pytest.raises(ProcessLookupError):  # its process group is empty when all have ended
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.1)


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        (
            "error: early; fix it\\nerror: y.npy: too short; make it again\\nand more",
            "y.npy: too short; make it again",
        ),
        ("Traceback\\nRuntimeError: out of memory\\n\\n", "RuntimeError: out of memory"),
        ("", "it printed nothing"),
        (
            "AssertionError: world size is 4 but have 0 available devices",
            "distributed_training.distributed_world_size=4, but this machine has 0 GPUs; set it to their number, or "
            "to 1 with common.cpu=true",
        ),
    ],
)
def test_a_run_that_fails(tmp_path, printed, reason):
    out = tmp_path / "a"
    with pytest.raises(UserError) as caught:
        run_once([sys.executable, "-c", f"print('{printed}'); raise SystemExit(3)"], out)
    assert str(caught.value) == f"{out / 'log.txt'}: the training ended with status 3: {reason}"
    assert json.loads((out / "run.json").read_text())["done"] is False


def test_the_reason_is_that_of_the_last_start(tmp_path):
    command = [sys.executable, "-c", "import sys; sys.exit(open(sys.argv[1]).read())", str(tmp_path / "said")]
    for said, reason in (("error: first", "status 1: first"), ("second", "status 1: second")):
        (tmp_path / "said").write_text(said)
        with pytest.raises(UserError, match=reason):
            run_once(command, tmp_path / "a")
    assert (tmp_path / "a" / "log.txt").read_text() == "error: first\nsecond\n"


def test_a_folder_of_something_else_is_not_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="contains files, but not of a run started here"):
        run_once(command_of(tmp_path), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_missing_input(tmp_path):
    with pytest.raises(UserError, match="nowhere.pt: no such file"):
        run_once(command_of(tmp_path), tmp_path / "a", [tmp_path / "nowhere.pt"])
    assert not (tmp_path / "a").exists()


def fine_tuning(**changes):
    fields = {
        "config_dir": Path("configs"),
        "config_name": "tiny",
        "data": Path("a folder, of mine/splits/s"),
        "train_subset": "train_5",
        "label_file": Path("labels"),
        "pretrained": Path("p=1.pt"),
        "random_start": False,
        "seed": 7,
        "out": Path("out"),
        "overrides": ("common.seed=9", "++model.final_dropout=0.1"),
    }
    return FineTuning(**{**fields, **changes})


def options_of(command):
    """What hydra makes of the overrides of a command line, the last of a key first."""
    start = command.index("--config-name") + 2
    parsed = OverridesParser.create().parse_overrides(command[start:])
    return {override.key_or_group: override.value() for override in parsed}


def test_hydra_gets_absolute_paths_and_the_overrides_last():
    run = fine_tuning()
    assert Path(run.command()[0]).name == "fairseq-hydra-train"
    options = options_of(run.command())
    here = Path.cwd()
    assert options["task.data"] == str(here / "a folder, of mine/splits/s")
    assert options["model.model_path"] == str(here / "p=1.pt")
    assert options["hydra.run.dir"] == str(here / "out")
    assert options["checkpoint.save_dir"] == str(run.checkpoint.parent.resolve())
    assert options["dataset.train_subset"] == "train_5"
    assert (options["common.seed"], options["model.final_dropout"]) == (9, 0.1)


def test_a_random_start_learns_its_convolutions_and_differs_in_nothing_else():
    pretrained, random = (fine_tuning(random_start=start).command() for start in (False, True))
    assert sorted({*pretrained} ^ {*random}) == [
        "++model.feature_grad_mult=1.0",
        "++model.no_pretrained_weights=false",
        "++model.no_pretrained_weights=true",
    ]
    chosen = fine_tuning(random_start=True, overrides=("++model.feature_grad_mult=0.1",))
    assert options_of(chosen.command())["model.feature_grad_mult"] == 0.1


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A fine-tuning with existing inputs, trained by `command_of`."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "labels").mkdir()
    places = "configs/tiny.yaml train_5.tsv valid.tsv dev.tsv labels/y.npy labels/label_def.csv weights.txt p.pt"
    for name in places.split():
        (tmp_path / name).write_text(name)
    folders = {name: tmp_path / name for name in ("labels", "out")}
    monkeypatch.setattr(FineTuning, "command", lambda self: command_of(self.out))
    return fine_tuning(
        config_dir=tmp_path / "configs",
        data=tmp_path,
        label_file=folders["labels"],
        pretrained=tmp_path / "p.pt",
        out=folders["out"],
        overrides=(as_override("criterion.pos_weight", tmp_path / "weights.txt"),),
    )


@pytest.mark.parametrize(
    ("name", "decides"),
    [
        *((name, True) for name in ("configs/tiny.yaml", "train_5.tsv", "valid.tsv", "labels/y.npy", "p.pt")),
        *((name, True) for name in ("labels/label_def.csv", "weights.txt")),
        ("dev.tsv", False),
    ],
)
def test_all_files_that_change_a_run_are_inputs(run, name, decides):
    run.run()
    first = run.out / "of the first"
    first.touch()
    run.run()
    assert first.exists() and steps(run.out) == 1
    (run.data / name).write_text("changed")
    run.run()
    assert first.exists() != decides and steps(run.out) == 1


def test_inputs_are_those_of_the_overrides(run):
    more = dataclasses.replace(run, overrides=("dataset.valid_subset='dev,train_5'",))
    assert run.data / "dev.tsv" in more.inputs() and run.data / "valid.tsv" not in more.inputs()
    with pytest.raises(UserError, match="option for hydra: .*no value; give KEY=VALUE"):
        dataclasses.replace(run, overrides=("no value",)).run()
    for name, hint in (("tinny", "did you mean tiny?"), ("other", "it has tiny")):
        with pytest.raises(UserError, match=f"configs: has no config {name}; {re.escape(hint)}"):
            dataclasses.replace(run, config_name=name).run()
    (run.data / "valid.tsv").unlink()
    with pytest.raises(UserError, match="valid.tsv: no such manifest"):
        run.run()


@given(st.text(st.characters(min_codepoint=32, max_codepoint=0x17F, exclude_characters="$\\"), min_size=1))
def test_a_value_of_nearly_any_characters_reaches_hydra(value):
    (parsed,) = OverridesParser.create().parse_overrides([as_override("task.data", value)])
    assert parsed.value() == value


def test_the_command_is_found_beside_python_or_on_the_path(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(MissingPackageError, match="fairseq is not installed"):
        fine_tuning().command()
    for folder in ("bin", "."):
        program = tmp_path / folder / "fairseq-hydra-train"
        program.parent.mkdir(exist_ok=True)
        program.touch(mode=0o755)
        assert Path(fine_tuning().command()[0]) == program
