"""Somebody who installed the wheel, and has no clone, prepares, pretrains, fine-tunes and predicts."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from made_up import RATE, made_up_counts
from made_up_wfdb import write_wfdb
from running import ROOT, SMALL

pytestmark = pytest.mark.slow

SMALL_RUN = [option for option in SMALL if not option.startswith("++model.")]
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, of a copy: building leaves files beside setup.py, and takes over those that an earlier one left."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    shutil.copytree(
        ROOT / "fairseq_signals_ext", copy / "fairseq_signals_ext", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    # without isolation pip needs no network
    build = [*PIP, "wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run(build, cwd=copy, check=True, timeout=300)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bin_folder(wheel, tmp_path_factory):
    """The commands of an environment with the wheel, and with what it needs, but without this clone."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    subprocess.run([*PIP, "--python", python, "install", "--no-deps", "--no-index", wheel], check=True, timeout=300)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    # a path from such a file is searched last, and its own .pth files, of which one leads to the clone, are not read
    (site_packages / "needed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "bin"


@pytest.fixture()
def run_there(bin_folder, tmp_path):
    """Run a command line of that environment in an empty folder; returns what it printed."""
    # a clone may be named by these
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    environment = {**kept, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "2"}

    def run(command):
        shell = ["bash", "-euo", "pipefail", "-c", command]
        options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "timeout": 300}
        done = subprocess.run(shell, check=False, **options)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
        return done.stdout.strip()

    return run


def write_records(folder):
    for number in range(12):
        counts = made_up_counts(np.random.default_rng(number), 10 * RATE)
        dx = (426177001, 426783006)[number % 2]
        write_wfdb(folder / f"rec{number:02d}", counts, rate=RATE, comments=[f"Dx: {dx}"])


def test_wheel_has_all_data(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "fairseq_signals_ext"
    there = {
        path.relative_to(ROOT).as_posix() for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"
    }
    assert {f"fairseq_signals_ext/configs/{kind}/tiny.yaml" for kind in ("pretraining", "fine_tuning")} <= there
    assert there - names == set()


def test_from_recordings_to_predictions_without_a_clone(run_there, bin_folder, tmp_path):
    write_records(tmp_path / "records")
    package = Path(run_there("fairseq-signals-ext user-dir"))
    assert bin_folder.parent in package.parents
    assert run_there("fairseq-signals-ext configs pretraining") == str(package / "configs" / "pretraining")
    on_path = run_there("python -c 'import sys; print(*sys.path)'").split()
    assert str(ROOT) not in on_path
    run_there("fairseq-signals-ext prepare wfdb records --out data")
    run_there("fairseq-signals-ext split data --name s --fractions 0.5 0.25 0.25")
    run_there("fairseq-signals-ext label data --name l --codes cinc2021")
    train = "python -m fairseq_cli.hydra_train --config-name tiny"
    data = "common.user_dir=$(fairseq-signals-ext user-dir) task.data=$PWD/data/splits/s ++optimization.max_update=2"
    small, small_run = (" ".join(f'"{option}"' for option in options) for options in (SMALL, SMALL_RUN))
    configs = "--config-dir $(fairseq-signals-ext configs pretraining)"
    run_there(f"{train} {configs} {data} hydra.run.dir=$PWD/pretrained {small}")
    configs = "--config-dir $(fairseq-signals-ext configs fine_tuning)"
    labels = "task.label_file=$PWD/data/labels/l criterion.pos_weight=$PWD/data/labels/l/pos_weight.txt"
    start = "model.model_path=$PWD/pretrained/checkpoints/checkpoint_last.pt"
    run_there(f"{train} {configs} {data} {labels} {start} hydra.run.dir=$PWD/finetuned {small_run}")
    run_there("fairseq-signals-ext predict finetuned/checkpoints/checkpoint_last.pt records --out predictions")
    assert len((tmp_path / "predictions" / "predictions.csv").read_text().splitlines()) == 1 + 12
