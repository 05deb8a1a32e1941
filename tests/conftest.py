"""Fixtures shared by all tests; `ECG_DATA` names the folder with real recordings, tests that need it skip without."""

import os
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
def golden_folder(ecg_data: Path) -> Path:
    """Folder with the reference values, beside the recordings."""
    folder = ecg_data.parent / "golden"
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist: reference values are needed")
    return folder


@pytest.fixture(scope="session")
def registered() -> None:
    """The plugin's tasks, models and criterions, known to fairseq."""
    fairseq_signals_ext.register()
