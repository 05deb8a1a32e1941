"""Objectives, kinds of task and encoders of other people: where their code is found.

A checkpoint never makes anything be imported: what is imported is what the user installed or named.
"""

import functools
import importlib.metadata
import logging
from argparse import Namespace
from typing import Any, List

from fairseq_signals_ext.errors import UserError, first_line

logger = logging.getLogger(__name__)

# packages name the modules to import in this group of their entry points
GROUP = "fairseq_signals_ext.training"


@functools.lru_cache(maxsize=1)
def import_installed() -> None:
    """Import what installed packages register, once; one that cannot be imported is told, and left out."""
    for entry in _entry_points():
        try:
            entry.load()
        except Exception as error:  # whatever somebody's package does must not end what does not need it
            logger.warning(f"{entry.value}: an installed extension cannot be imported ({first_line(error)})")


def _entry_points() -> List[Any]:
    found: Any = importlib.metadata.entry_points()
    return list(found.select(group=GROUP) if hasattr(found, "select") else found.get(GROUP, ()))


def import_user_dir(folder: str) -> None:
    """Import a user's own folder as `common.user_dir` of fairseq does.

    Raises:
        UserError: there is no such folder, or it cannot be imported.
    """
    import fairseq_signals_ext

    fairseq_signals_ext.register()
    from fairseq.utils import import_user_module

    try:
        import_user_module(Namespace(user_dir=folder))
    except UserError:
        raise
    except Exception as error:  # of somebody's own code
        raise UserError(f"--user-dir {folder}: cannot be imported ({first_line(error)}); mend it") from error
