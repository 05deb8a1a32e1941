"""The one exception for what a user can mend, and how it reaches a terminal."""

import functools
from typing import Any, Callable, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


class UserError(ValueError):
    """Bad input or settings. The message is one line: file, item, what is wrong, and the cure."""


def exits_on_user_error(function: Function) -> Function:
    """Turn a `UserError` of an entry point, or a missing optional package, into one line on stderr and exit status 1.

    fairseq and hydra print a traceback for every exception; only `SystemExit` passes them unchanged.
    """

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except UserError as error:
            raise SystemExit(f"error: {error}") from error
        except ModuleNotFoundError as error:
            from fairseq_signals_ext.requirements import how_to_install

            cure = how_to_install(error.name or "")
            if cure is None:
                raise
            raise SystemExit(f"error: {cure}") from error

    return wrapped  # type: ignore[return-value]
