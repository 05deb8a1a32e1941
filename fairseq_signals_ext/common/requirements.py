"""Check that fairseq is installed, and import it without side effects."""

import contextlib
import importlib.util
import logging
import sys
import warnings
from typing import Iterator, Tuple

from fairseq_signals_ext.common.errors import UserError, how_to_install


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


@contextlib.contextmanager
def quiet_fairseq() -> Iterator[None]:
    """Suppress output and keep the root logger unchanged while fairseq is imported and its models are built.

    Two of fairseq's speech tasks configure logging for the whole process, at level DEBUG, when they are imported, and
    print missing packages; its models use a weight norm that torch warns about.
    """
    root = logging.getLogger()
    level, handlers, disabled = root.level, list(root.handlers), root.manager.disable
    logging.disable(max(disabled, logging.INFO))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"torch\.nn\.utils\.weight_norm", category=FutureWarning)
            yield
    finally:
        logging.disable(disabled)
        root.setLevel(level)
        root.handlers[:] = handlers
