"""What training needs of the interpreter."""

import importlib.util
import sys
from typing import Tuple

from fairseq_signals_ext.errors import UserError, how_to_install


def require_fairseq(version: Tuple[int, ...] = tuple(sys.version_info[:2])) -> None:
    """Check that fairseq can be imported.

    Args:
        version: of the interpreter.

    Raises:
        UserError: fairseq is not installed, or there is none for this interpreter.
    """
    if importlib.util.find_spec("fairseq") is not None:
        return
    install = how_to_install("fairseq")
    if not (3, 8) <= tuple(version) < (3, 13):
        here = ".".join(str(number) for number in version)
        raise UserError(f"fairseq does not exist for Python {here}: use Python 3.11 or 3.12; {install}")
    raise UserError(f"{install}")
