"""Wrap functions of fairseq that offer no other way to change them."""

import functools
import inspect
from typing import Any, Callable, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])
_MARK = "_wrapped_by"


def wrapping(owner: Any, name: str) -> Callable[[_Function], _Function]:
    """Decorator: replace `owner.name` by a function that gets the original as its first argument.

    Repeating it is harmless: a function of the same name wraps another one only once.

    Args:
        owner: a module or a class.
        name: of a function, method or static method of it.
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
