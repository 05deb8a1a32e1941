"""What training needs, and what to install where it is missing."""

import importlib.util
import sys
from typing import Optional, Tuple

from fairseq_signals_ext.errors import UserError

_INSTALL = "pip install 'fairseq-signals-ext[{}]'"

# which extra brings a package that is imported only where it is needed
_EXTRAS = {
    "formats": ("h5py", "joblib", "pandas", "pyarrow", "scipy", "tqdm", "wfdb"),
    "report": ("matplotlib",),
    "train": ("fairseq", "torch"),
    "demo": ("neurokit2",),
}


def how_to_install(package: str) -> Optional[str]:
    """One line on what to install for a package that is missing; None if it is none of ours."""
    for extra, packages in _EXTRAS.items():
        if package.split(".")[0] in packages:
            return f"{package} is not installed: {_INSTALL.format(extra)}"
    return None


def require_fairseq(version: Tuple[int, ...] = tuple(sys.version_info[:2])) -> None:
    """Check that fairseq can be imported.

    Args:
        version: of the interpreter.

    Raises:
        UserError: fairseq is not installed, or there is none for this interpreter.
    """
    if importlib.util.find_spec("fairseq") is not None:
        return
    here, install = ".".join(str(number) for number in version), _INSTALL.format("train")
    if not (3, 8) <= tuple(version) < (3, 13):
        raise UserError(f"fairseq does not exist for Python {here}: use Python 3.11 or 3.12, and there {install}")
    raise UserError(f"fairseq is not installed in this Python {here}: {install}")
