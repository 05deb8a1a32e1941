"""How much a pickle would make, from its opcodes: nothing is made of it.

torch's safe loader makes data only, but of any amount: a tuple of two tuples of two tuples ... as the key of a
dictionary takes hours to hash, and one that is nested 100,000 deep ends the process.
"""

import pickletools
from typing import IO, Any, Dict, List, NamedTuple

# some 35 for each tensor
_MOST_OPCODES = 1_000_000
_LARGEST_TUPLE = 100_000  # values, those of tuples in it included
_DEEPEST_TUPLE = 100


class _Made(NamedTuple):
    """What a value costs to hash: values in it, and levels of tuples; anything but a tuple is one value."""

    values: int = 1
    depth: int = 0


_ONE = _Made()
_MARK = _Made(0)


def check_pickle(file: IO[bytes]) -> None:
    """Raise a `ValueError` unless a pickle, to its end, makes no more than a checkpoint needs.

    Args:
        file: read from where it is, to the end of the pickle.
    """
    stack: List[_Made] = []
    memo: Dict[Any, _Made] = {}
    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if number >= _MOST_OPCODES:
            raise ValueError(f"it makes more than {_MOST_OPCODES:,} values")
        name = opcode.name
        if "PUT" in name or name == "MEMOIZE":
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1] if stack else _ONE
        elif "GET" in name:
            stack.append(memo.get(argument, _ONE))
        elif name == "DUP":
            stack += stack[-1:]
        else:
            _apply(opcode, stack)


def _apply(opcode: Any, stack: List[_Made]) -> None:
    """Take from a stack what an opcode takes, and put there what it makes."""
    before, after = opcode.stack_before, opcode.stack_after
    taken: List[_Made] = []
    if pickletools.markobject in before:
        while stack and stack[-1] is not _MARK:
            taken.append(stack.pop())
        stack[-1:] = []
        before = before[: before.index(pickletools.markobject)]
    for _ in before:
        taken += [stack.pop()] if stack else []
    for made in after:
        if made is pickletools.markobject:
            stack.append(_MARK)
        elif made is pickletools.pytuple:
            stack.append(_tuple_of(taken))
        else:
            stack.append(_ONE)


def _tuple_of(parts: List[_Made]) -> _Made:
    made = _Made(1 + sum(part.values for part in parts), 1 + max((part.depth for part in parts), default=0))
    if made.values > _LARGEST_TUPLE or made.depth > _DEEPEST_TUPLE:
        raise ValueError("it has tuples in tuples without end")
    return made
