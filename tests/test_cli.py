"""The console command, as a user runs it."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from made_up import made_up_counts, write_shards
from made_up_checkpoints import saved_checkpoint
from made_up_wfdb import write_wfdb

import fairseq_signals_ext
from fairseq_signals_ext.cli import COMMANDS, main
from fairseq_signals_ext.common.errors import UserError, exits_on_user_error, install_command
from fairseq_signals_ext.common.requirements import require_fairseq

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


COMMANDS_WITH_HELP = ["", *COMMANDS, "label link", "config convert", "user-dir", "configs"]


@pytest.mark.parametrize("name", COMMANDS_WITH_HELP)
def test_help_fits_a_terminal(monkeypatch, capsys, name):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stopped:
        main([*name.split(), "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert stopped.value.code == 0 and lines[0].startswith("usage: ")
    assert [line for line in lines if len(line) > 80] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_have_one_name_for_an_option(capsys, name):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    text = capsys.readouterr().out
    for old in ("--cpu", "--num-workers", "--label-file", "--workers", "--output"):
        assert old not in text


def test_users_mistake_is_one_line(tmp_path):
    done = run("curve", str(tmp_path / "nosuch.log"))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and "no such log" in done.stderr


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["predict", "a.pt", "b.hea", "--ot", "x"], "--ot: did you mean --out?"),
        (["predict", "a.pt", "b.hea", "--out", "x", "--seg"], "--seg: did you mean --segments?"),
        (["predict", "a.pt", "b.hea", "--out=x", "--batchsize=3"], "--batchsize: did you mean --batch-size?"),
        (["prepare", "wfdb", "x", "--output", "y"], "--output: did you mean --out?"),
        (["label", "x", "--name", "l", "--codez", "cinc2021"], "--codez: did you mean --codes?"),
    ],
)
def test_an_option_that_is_not_there(capsys, typed, meant):
    """None is taken for another, and the one that may have been meant is named."""
    with pytest.raises(SystemExit) as ended:
        main(typed)
    assert ended.value.code == 2 and f"; {meant} see fairseq-signals-ext {typed[0]} --help\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["predct"], "'predct' is not known; did you mean predict? see fairseq-signals-ext --help"),
        (["prepare", "ptbx", "x", "--out", "y"], "'ptbx' is not known; did you mean ptbxl?"),
        (["prepare", "wfdb", "x", "--out", "y", "--storage", "/"], "argument --storage: '/' is not known; choose "),
        (["prepare", "/", "--out", "y"], "argument NAME: missing before '/'; choose from code15, files, "),
        (["configs", "pretrainin"], "did you mean pretraining?"),
        (["split", "x"], "arguments are required: --name; see fairseq-signals-ext split --help"),
    ],
)
def test_a_wrong_argument_is_one_line(capsys, typed, meant):
    with pytest.raises(SystemExit) as ended:
        main(typed)
    told = capsys.readouterr().err
    assert ended.value.code == 2 and told.startswith("error: ") and told.count("\n") == 1 and meant in told


def test_nobody_reads_the_output(tmp_path):
    """As after `| head`: no traceback, and the status of other programs."""
    checkpoint = saved_checkpoint(tmp_path / "model.pt")
    reading, writing = os.pipe()
    os.close(reading)
    command = [str(COMMAND), "inspect", str(checkpoint)]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_threads_do_not_spin():
    """Set before torch is imported, unless somebody has chosen otherwise."""
    script = (
        "import os; from fairseq_signals_ext.cli import main; main(['user-dir']); print(os.environ['OMP_WAIT_POLICY'])"
    )
    for given, expected in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
        environment.update({} if given is None else {"OMP_WAIT_POLICY": given})
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert done.stdout.splitlines()[-1] == expected


@pytest.mark.parametrize(
    "command",
    [
        *("prepare wfdb DIR --out SAME", "predict m.pt a.npy DIR --out SAME", "embed m.pt DIR --out SAME"),
        *("explain m.pt DIR --out SAME", "report m.pt DIR --out SAME", "export DIR --to onnx --out SAME"),
        *("evaluate m.pt --data DIR --subset test --out SAME", "evaluate DIR --data d --subset test --out SAME"),
        *("config convert DIR --out SAME", "verify DIR --out SAME", "curve DIR --out SAME"),
    ],
)
def test_results_do_not_go_to_what_they_are_made_from(tmp_path, command):
    same = f"{tmp_path}/../{tmp_path.name}"
    arguments = [{"DIR": str(tmp_path), "SAME": same}.get(one, one) for one in command.split()]
    with pytest.raises(SystemExit, match="is the same folder as the input .*; give the results another"):
        main(arguments)
    assert not any(tmp_path.iterdir())


def test_results_do_not_go_to_a_prepared_folder(tmp_path):
    (tmp_path / "plan.jsonl").touch()
    with pytest.raises(SystemExit, match="is a prepared folder; give the results a folder of their own"):
        main(["predict", "m.pt", str(tmp_path / "all.tsv"), "--out", str(tmp_path)])


def test_importing_is_light():
    code = "import sys, fairseq_signals_ext; print(*{'torch', 'fairseq', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_help_of_commands_is_light():
    """They import what they need when they run."""
    light = ("predict", "inspect", "config", "verify", "evaluate", "calibrate", "benchmark", "serve", "curve", "export")
    for command in light:
        code = f"import sys; from fairseq_signals_ext import cli; cli._parser({command!r}); print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert not {"torch", "fairseq", "numpy", "pandas"} & {*done.stdout.split()}, command


@pytest.mark.parametrize("version, message", [((3, 13), "use Python 3.11 or 3.12"), ((3, 7), "use Python 3.11")])
def test_wrong_interpreter(monkeypatch, version, message):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=message):
        require_fairseq(version)


@pytest.mark.parametrize(
    "package, extra", [("joblib", "formats"), ("matplotlib.figure", "report"), ("jinja2", "report"), ("torch", "train")]
)
def test_missing_optional_package(package, extra):
    @exits_on_user_error
    def command():
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    with pytest.raises(SystemExit) as stopped:
        command()
    assert stopped.value.code == f"error: {package} is not installed: {install_command(extra)}"


def test_other_import_errors_stay_what_they_are():
    @exits_on_user_error
    def command():
        raise ModuleNotFoundError("No module named 'nosuch'", name="nosuch")

    with pytest.raises(ModuleNotFoundError):
        command()


def test_missing_fairseq(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=re.escape("pip install -e '.[train]' in a clone, or pip install ")):
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


@pytest.mark.parametrize("number", ["EACCES", "EPERM", "EROFS", "ENOSPC", "EIO"])
def test_a_place_that_cannot_be_used_is_one_line(monkeypatch, number):
    code = getattr(errno, number)

    def fails(options):
        raise OSError(code, os.strerror(code), "disk/.loss.png.12-ab.tmp")

    monkeypatch.setattr("fairseq_signals_ext.commands.curve.run", fails)
    with pytest.raises(SystemExit) as stopped:
        main(["curve", "run"])
    assert str(stopped.value.code).startswith(f"error: disk: {os.strerror(code)}; ")
    assert "give another place" in str(stopped.value.code)


@pytest.mark.parametrize("command", ["predict", "embed", "explain", "report", "prepare"])
def test_a_file_in_the_place_of_a_folder(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    saved_checkpoint(tmp_path / "model.pt")
    write_shards(tmp_path / "data", [5000])
    write_wfdb(tmp_path / "records" / "r", made_up_counts(np.random.default_rng(0), 1000))
    (tmp_path / "file").write_text("?")
    given = ["wfdb", "records"] if command == "prepare" else ["model.pt", "data/train.tsv", "--device", "cpu"]
    for out, problem in (
        ("file", "is a file; give a folder"),
        ("file/x", "part of this path is a file"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main([command, *given, "--out", out])
        assert problem in str(stopped.value.code) and "\n" not in str(stopped.value.code)


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "No such file", "x"), PermissionError(errno.EACCES, "denied")]
)
def test_other_errors_of_the_system_stay_what_they_are(monkeypatch, error):
    def fails(options):
        raise error

    monkeypatch.setattr("fairseq_signals_ext.commands.curve.run", fails)
    with pytest.raises(type(error)):
        main(["curve", "run"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_in_order(monkeypatch, capsys, number):
    ended = []
    signal.signal(number, signal.SIG_DFL)  # also where pytest itself ignores it, as under nohup

    def waits(options):
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        finally:
            ended.append("in order")

    monkeypatch.setattr("fairseq_signals_ext.commands.curve.run", waits)
    assert main(["curve", "run"]) == 128 + number
    assert ended == ["in order"] and capsys.readouterr().err == "\ninterrupted\n"
    assert signal.getsignal(number) == signal.SIG_DFL


def test_names_of_files_do_not_break_the_line(monkeypatch):
    def fails(options):
        raise UserError("a\nb\x1b[2J\udcff\u2028: no such file")

    monkeypatch.setattr("fairseq_signals_ext.commands.curve.run", fails)
    with pytest.raises(SystemExit) as stopped:
        main(["curve", "run"])
    assert stopped.value.code == r"error: a\nb\x1b[2J\udcff\u2028: no such file"


_LOGGING = """
import logging, sys
from pathlib import Path
root = logging.getLogger()
if sys.argv[2] == "own":
    logging.basicConfig(level=logging.ERROR)
before = root.level, list(root.handlers), root.manager.disable
import fairseq_signals_ext
from fairseq_signals_ext.checkpoints.config_conversion import convert_config
from fairseq_signals_ext.checkpoints.reading import read_checkpoint
from fairseq_signals_ext.inference.export import export
path = Path(sys.argv[1])
if sys.argv[3] == "load":
    fairseq_signals_ext.load(path)
elif sys.argv[3] == "export":
    export(path, "safetensors")
else:
    convert_config(read_checkpoint(path).config)
assert "fairseq.tasks.text_to_speech" in sys.modules
assert (root.level, list(root.handlers), root.manager.disable) == before, (root.level, root.handlers)
"""


@pytest.mark.parametrize("logging_is", ["own", "unset"])
@pytest.mark.parametrize("what", ["load", "export", "convert"])
def test_fairseq_leaves_logging_alone(tmp_path, what, logging_is):
    path = saved_checkpoint(tmp_path / "model.pt")
    command = [sys.executable, "-c", _LOGGING, str(path), logging_is, what]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
