"""Putting functions of ours around those of fairseq, which has no other place for what they do."""

import functools
import inspect
from typing import Any, Callable, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])
_MARK = "_wrapped_by"


def wrapping(owner: Any, name: str) -> Callable[[_Function], _Function]:
    """Decorator of a function that takes the place of `owner.name`, which it is given before its other arguments.

    Doing the same again is harmless: a function of one name is put around another once.

    Args:
        owner: a module or a class.
        name: of a function or method of it, or a static one.
    """

    def put(ours: _Function) -> _Function:
        theirs, mark = getattr(owner, name), f"{ours.__module__}.{ours.__qualname__}"
        marks = getattr(theirs, _MARK, ())
        if mark in marks:
            return ours

        @functools.wraps(theirs)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return ours(theirs, *args, **kwargs)

        setattr(wrapped, _MARK, (*marks, mark))
        is_static = isinstance(inspect.getattr_static(owner, name), staticmethod)
        setattr(owner, name, staticmethod(wrapped) if is_static else wrapped)
        return ours

    return put
