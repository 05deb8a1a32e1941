"""The console command, as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fairseq_signals_ext
from fairseq_signals_ext.errors import UserError, exits_on_user_error
from fairseq_signals_ext.requirements import require_fairseq

COMMAND = Path(sys.executable).parent / "fairseq-signals-ext"


def run(*arguments, command=(str(COMMAND),)):
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", [(str(COMMAND),), (sys.executable, "-m", "fairseq_signals_ext")])
def test_user_dir(command):
    done = run("user-dir", command=command)
    assert done.returncode == 0
    folder = Path(done.stdout.strip())
    assert (folder / "tasks" / "ecg_pretraining.py").is_file() and done.stdout.count("\n") == 1


def test_version_and_help():
    assert run("--version").stdout.strip() == fairseq_signals_ext.__version__
    done = run("--help")
    assert done.returncode == 0 and "examples:" in done.stdout
    assert run().returncode == 2
    for name in ("prepare", "split", "label", "verify", "curve"):
        done = run(name, "--help")
        assert done.returncode == 0 and "example" in done.stdout, done.stderr
    assert run("nosuch").returncode == 2


def test_users_mistake_is_one_line(tmp_path):
    done = run("curve", str(tmp_path / "nosuch.log"))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and "no such log" in done.stderr


def test_importing_is_light():
    code = "import sys, fairseq_signals_ext; print(*{'torch', 'fairseq', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("version, message", [((3, 13), "use Python 3.11 or 3.12"), ((3, 7), "use Python 3.11")])
def test_wrong_interpreter(monkeypatch, version, message):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=message):
        require_fairseq(version)


@pytest.mark.parametrize("package, extra", [("joblib", "formats"), ("matplotlib.figure", "report"), ("torch", "train")])
def test_missing_optional_package(package, extra):
    @exits_on_user_error
    def command():
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    with pytest.raises(SystemExit) as stopped:
        command()
    assert stopped.value.code == f"error: {package} is not installed: pip install 'fairseq-signals-ext[{extra}]'"


def test_other_import_errors_stay_what_they_are():
    @exits_on_user_error
    def command():
        raise ModuleNotFoundError("No module named 'nosuch'", name="nosuch")

    with pytest.raises(ModuleNotFoundError):
        command()


def test_missing_fairseq(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'fairseq-signals-ext\[train\]'"):
        require_fairseq((3, 11))


ORDERS = {
    "register first": "fairseq_signals_ext.register(); import_user_module(args)",
    "user-dir first": "import_user_module(args); fairseq_signals_ext.register()",
    "register twice": "fairseq_signals_ext.register(); fairseq_signals_ext.register()",
    "user-dir alone": "import_user_module(args)",
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_registering_in_any_order(order):
    lines = [
        "from argparse import Namespace",
        "from fairseq.utils import import_user_module",
        "import fairseq_signals_ext" if "fairseq_signals_ext" in order else "",
        f"args = Namespace(user_dir={fairseq_signals_ext.user_dir()!r})",
        order,
        "from fairseq.tasks import TASK_REGISTRY",
        "from fairseq.models import MODEL_REGISTRY",
        "from fairseq.criterions import CRITERION_REGISTRY",
        "print(TASK_REGISTRY['ecg_pretraining'].__module__, MODEL_REGISTRY['wav2vec2_cmsc'].__module__)",
        "print(MODEL_REGISTRY['ecg_wav2vec2'].__module__, CRITERION_REGISTRY['wav2vec2_with_cmsc'].__module__)",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {
        "fairseq_signals_ext.tasks.ecg_pretraining",
        "fairseq_signals_ext.models.ecg_wav2vec2",
        "fairseq_signals_ext.criterions.wav2vec2_with_cmsc",
    }
