"""An installation without extras: each command shows its help, and says all that it lacks at once."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from made_up_checkpoints import saved_checkpoint

import fairseq_signals_ext
from fairseq_signals_ext.cli import COMMANDS
from fairseq_signals_ext.inference.export import export

# hides all packages but numpy, as if they were not installed
HIDING = """
import sys
there = {*sys.stdlib_module_names, "fairseq_signals_ext", "numpy"}
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in there and not name.startswith(("_", "sitecustomize", "usercustomize")):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
"""
FORMATS = ["filelock", "joblib", "pandas", "pyarrow", "tqdm", "xxhash"]


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Run the command there."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "sitecustomize.py").write_text(HIDING)
    clone = os.path.dirname(fairseq_signals_ext.user_dir())
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), clone])}

    def run(*arguments):
        command = [sys.executable, "-m", "fairseq_signals_ext", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    return run


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model as ONNX."""
    folder = tmp_path_factory.mktemp("model")
    return export(saved_checkpoint(folder / "a.pt"), "onnx", folder / "onnx").folder


def test_packages_are_hidden(bare, tmp_path):
    assert bare("--help").returncode == 0
    assert bare("user-dir").stdout.strip() == fairseq_signals_ext.user_dir()
    assert bare("configs", "labels").stdout.strip() == fairseq_signals_ext.configs_dir("labels")


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help(bare, command):
    done = bare(command, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: fairseq-signals-ext {command}")


@pytest.mark.parametrize(
    ("arguments", "packages", "extras"),
    [
        (["prepare", "wfdb", "{here}", "--out", "{here}/out"], FORMATS, "formats"),
        (
            ["prepare", "ptbxl", "{here}", "--out", "{here}/out", "--download"],
            [*FORMATS, "wfdb"],
            "formats,download",
        ),
        (["split", "{here}", "--name", "s"], FORMATS, "formats"),
        (["label", "{here}", "--name", "l", "--codes", "cinc2021"], FORMATS, "formats"),
        (["predict", "a.pt", "b.hea", "--out", "{here}/out"], [*FORMATS, "fairseq", "torch"], "formats,train"),
        (["predict", "model", "b.hea", "--out", "{here}/out"], FORMATS, "formats"),
        (["predict", "{here}/onnx", "b.hea", "--out", "{here}/out"], [*FORMATS, "onnxruntime"], "formats,onnx"),
        (
            ["explain", "a.pt", "b.hea", "--out", "{here}/out"],
            [*FORMATS, "torch", "matplotlib"],
            "formats,report,train",
        ),
        (["report", "a.pt", "b.hea", "--out", "{here}/out"], [*FORMATS, "torch", "matplotlib"], "formats,report,train"),
        (["serve", "a.pt"], ["fastapi", "uvicorn", "pandas", "torch"], "formats,report,serve,train"),
        (["export", "a.pt", "--to", "onnx"], ["onnx", "onnxscript", "torch", "fairseq"], "export,train"),
        (["curve", "{here}"], ["matplotlib"], "report"),
        (["inspect", "{here}/a.pt"], ["torch", "safetensors"], "train"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_all_that_is_missing_is_said_at_once(bare, exported, tmp_path, arguments, packages, extras):
    (tmp_path / "hydra_train.log").write_text(
        '[2026-01-01 00:00:00,000][train_inner][INFO] - {"loss": "1", "num_updates": "1"}\n'
    )
    (tmp_path / "r.hea").write_text("r 12 500 5000\n")
    (tmp_path / "a.pt").write_bytes(b"PK\x03\x04")
    shutil.copytree(exported, tmp_path / "onnx")
    done = bare(*(argument.format(here=tmp_path) for argument in arguments))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    found = re.fullmatch(r"error: (.*) (?:is|are) not installed: pip install -e '\.\[(.*)\]' in a clone, or .*", line)
    assert found is not None, line
    assert set(packages) <= set(re.split(r", | and ", found[1])), line
    assert found[2] == extras
