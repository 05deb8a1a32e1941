"""An ONNX export needs numpy and onnxruntime alone: no torch, no fairseq, and any Python."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fairseq_signals_ext
from fairseq_signals_ext.common.errors import install_command
from fairseq_signals_ext.inference.export import export

ROOT = Path(__file__).resolve().parents[2]
# folders of packages that are missing in an installation with [onnx]
ABSENT = ("torch", "fairseq", "pandas", "scipy", "hydra", "omegaconf", "wfdb", "pydicom", "ecgdatakit", "safetensors")
# arguments: packages that cannot be imported, the export, a WFDB record; prints scores and embedding of both
SCRIPT = """
import importlib.abc, json, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocked())
import fairseq_signals_ext
light = not {"numpy", "onnxruntime"} & set(sys.modules)
import numpy as np
model = fairseq_signals_ext.load(sys.argv[2])
array = np.random.default_rng(0).normal(size=(12, 7000))
of_array, of_file = model.predict(array, sample_rate=500), model.predict(sys.argv[3])
print(json.dumps({
    "light": light,
    "array": of_array.segment_scores.tolist(),
    "file": of_file.as_dict(),
    "embedding": model.embed(sys.argv[3]).tolist(),
    "python": sys.version.split()[0],
    "loaded": sorted({name.split(".")[0] for name in sys.modules}),
}))
"""


@pytest.fixture(scope="module")
def exported(golden_folder, tmp_path_factory):
    """ECG-FM's classifier as ONNX."""
    out = tmp_path_factory.mktemp("onnx") / "model"
    return export(golden_folder / "tiny_finetuned.pt", "onnx", out, labels="ecg-fm").folder


@pytest.fixture(scope="module")
def record(ecg_data):
    """A WFDB record at 400 Hz."""
    return str(sorted((ecg_data / "code15_wfdb").glob("*.hea"))[0])


@pytest.fixture(scope="module")
def expected(golden_folder, record):
    """Predictions of the torch model for the script's array and for the record."""
    model = fairseq_signals_ext.load(golden_folder / "tiny_finetuned.pt", labels="ecg-fm")
    array = np.random.default_rng(0).normal(size=(12, 7000))
    return model.predict(array, sample_rate=500), model.predict(record), model.embed(record)


def check(done, expected):
    """Compare the script's output; returns all of it."""
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    of_array, of_file, embedding = expected
    assert found["light"] and not set(ABSENT) & set(found["loaded"])
    np.testing.assert_allclose(found["array"], of_array.segment_scores, rtol=0, atol=1e-5)
    assert found["file"] == pytest.approx(of_file.as_dict(), abs=1e-5)
    np.testing.assert_allclose(found["embedding"], embedding, rtol=0, atol=1e-5)
    return found


def test_with_all_else_blocked(exported, record, expected):
    command = [sys.executable, "-c", SCRIPT, ",".join(ABSENT), str(exported), record]
    check(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120), expected)


COMMANDS = """
import sys
with_these = {*sys.stdlib_module_names, "fairseq_signals_ext", "numpy", "filelock", "onnxruntime", "packaging"}
with_these |= {"coloredlogs", "google", "flatbuffers", "humanfriendly", "ml_dtypes", "mpmath", "sympy"}
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in with_these and not name.startswith("_"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
from fairseq_signals_ext.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("command", ["predict", "embed", "inspect"])
def test_commands_with_only_this_extra(exported, record, tmp_path, command):
    """Only the packages of `[onnx]` and their dependencies."""
    given = [] if command == "inspect" else [record, "--out", str(tmp_path / "out")]
    command = [sys.executable, "-c", COMMANDS, command, str(exported), *given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    found = done.stdout if not given else (tmp_path / "out" / "rejected.csv").read_text()
    assert "onnx" in found if not given else found == "file,reason\n"


def test_missing_packages_are_named(exported, ecg_data):
    """DICOM is read by packages of the extra `formats`."""
    file = str(ecg_data / "formats" / "dicom_12lead_1000hz.dcm")
    command = [sys.executable, "-c", SCRIPT, ",".join(ABSENT), str(exported), file]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"fairseq_signals_ext.common.errors.MissingPackageError: {file}: ")
    assert last.endswith(install_command("formats"))


def python_3_13():
    """Of the PATH or of pyenv, asked for its own path."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for python in (shutil.which("python3.13"), *map(str, sorted(versions.glob("3.13.*/bin/python")))):
        ask = [python, "-c", "import sys; print(sys.executable if sys.version_info[:2] == (3, 13) else '')"]
        done = subprocess.run(ask, capture_output=True, text=True, check=False) if python else None
        if done is not None and done.returncode == 0 and done.stdout.strip():
            return done.stdout.strip()
    return pytest.skip("no Python 3.13 on this machine")


@pytest.mark.slow
def test_in_an_environment_of_python_3_13(exported, record, expected, tmp_path):
    """`pip install .[onnx]` from a copy of the sources, then the same script with nothing blocked."""
    interpreter = python_3_13()
    sources, environment = tmp_path / "sources", tmp_path / "environment"
    shutil.copytree(ROOT / "fairseq_signals_ext", sources / "fairseq_signals_ext")
    for name in ("setup.py", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, sources / name)
    subprocess.run([interpreter, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    done = subprocess.run([*pip, "install", "-q", f"{sources}[onnx]"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    listed = json.loads(subprocess.run([*pip, "list", "--format=json"], capture_output=True, check=True).stdout)
    names = {package["name"].lower() for package in listed}
    assert {"numpy", "onnxruntime", "fairseq-signals-ext"} <= names
    assert not {*ABSENT, "ve-fairseq", "hydra-core"} & names
    command = [python, "-c", SCRIPT, "", str(exported), record]
    found = check(
        subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120), expected
    )
    assert found["python"].startswith("3.13")
    print(f"Python {found['python']}: {', '.join(sorted(names))}")
