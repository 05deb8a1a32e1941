"""Report options that fairseq's dataclasses do not have in one line, instead of a traceback."""

from dataclasses import fields
from types import ModuleType
from typing import Any

from fairseq import models, registry, tasks
from fairseq.dataclass import utils
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from fairseq_signals_ext.common.errors import UserError, exits_on_user_error, first_line
from fairseq_signals_ext.common.hints import close_names
from fairseq_signals_ext.tasks._wrapping import wrapping


def name_wrong_options() -> None:
    """Make fairseq name an option that a task, model, criterion, ... does not have, or that has a wrong value.

    Calling it again is harmless.
    """
    for module in (utils, tasks, models, registry):  # each imports the function by name
        _patch_merging(module)


def _patch_merging(module: ModuleType) -> None:
    @wrapping(module, "merge_with_parent")
    @exits_on_user_error
    def merge_checked(merge: Any, dc: Any, cfg: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return merge(dc, cfg, *args, **kwargs)
        except OmegaConfBaseException as error:
            if cfg._key() is None:  # not a section of a command's options: only a model is built
                raise
            raise UserError(_message(error, dc, cfg)) from error


def _message(error: OmegaConfBaseException, dataclass: Any, config: Any) -> str:
    """Return the message, one line.

    Args:
        dataclass: the section's options.
        config: the section as given.
    """
    section, name = config._key(), str(error.full_key)
    if not isinstance(error, ConfigKeyError):
        return f"{section}.{name}: {first_line(error)}; give another value"
    known = [field.name for field in fields(dataclass) if not field.name.startswith("_")]
    close = close_names(name, known)
    hint = f"did you mean {section}.{close[0]}?" if close else f"it has {', '.join(known)}"
    return f"{section}.{name}: {config.get('_name')} has no such option; {hint}"
