"""Fixtures shared by all tests; `ECG_DATA` names the folder with real recordings, tests that need it skip without."""

import os
import re
from pathlib import Path

# The golden values came from these kernels and two threads: with them the difference is 0.0 on AMD and Intel,
# with a newer processor's own kernels floating-point sums come in another order (about 5e-6).
os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
# without STRICT MKL takes other kernels on Intel's processors, and does not know it on others
_is_intel = Path("/proc/cpuinfo").is_file() and "GenuineIntel" in Path("/proc/cpuinfo").read_text()
os.environ.setdefault("MKL_CBWR", "AVX2,STRICT" if _is_intel else "AVX2")

import pytest  # noqa: E402
import torch  # noqa: E402

import fairseq_signals_ext  # noqa: E402

torch.set_num_threads(2)


@pytest.fixture(scope="session")
def ecg_data() -> Path:
    """Folder with real recordings."""
    folder = os.environ.get("ECG_DATA")
    if not folder:
        pytest.skip("ECG_DATA is not set: real recordings are needed")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def each_kind(ecg_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same folder, as links; of collections of more than 250 records each 40th only, as they are all alike."""
    top = tmp_path_factory.mktemp("each_kind")
    for folder in (path for path in ecg_data.iterdir() if path.is_dir()):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        records = [path.stem for path in files if path.suffix == ".hea"]
        left_out = set(records) - set(records[::40]) if len(records) > 250 else set()
        for path in files:
            signals_of = re.sub(r"_\d$", "", path.stem)
            if path.stem not in left_out and signals_of not in left_out:
                link = top / path.relative_to(ecg_data)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path)
    return top


@pytest.fixture(scope="session")
def golden_folder(ecg_data: Path) -> Path:
    """Folder with the reference values, beside the recordings."""
    folder = ecg_data.parent / "golden"
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist: reference values are needed")
    return folder


@pytest.fixture(scope="session")
def cases(ecg_data: Path) -> Path:
    """Folder with small files that went wrong, beside the recordings."""
    folder = ecg_data.parent / "cases"
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist: the cases are needed")
    return folder


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """An array of three axes, ECGs x leads x samples in mV at 500 Hz, is a file with several ECGs, of one person."""
    import numpy as np

    from fairseq_signals_ext import readers
    from fairseq_signals_ext.sources import source

    read = readers._read_by_content

    def read_batch(path, *said):
        array = np.load(path) if path.suffix == ".npy" else np.zeros(0)
        if array.ndim != 3:
            return read(path, *said)
        return [readers.Recording(path.stem, signal, tuple(range(array.shape[1])), 500.0) for signal in array]

    monkeypatch.setattr(readers, "_read_by_content", read_batch)
    monkeypatch.setattr(source, "_OF_STRANGERS", ())


@pytest.fixture(scope="session")
def registered() -> None:
    """The plugin's tasks, models and criterions, known to fairseq."""
    fairseq_signals_ext.register()
