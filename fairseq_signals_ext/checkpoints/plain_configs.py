"""Check configs from files: plain values, not too many, without text that OmegaConf would evaluate.

Needs neither torch nor fairseq.
"""

import argparse
import math
from typing import Any, Callable, Collection, Dict, List, Mapping, Tuple

import numpy as np

from fairseq_signals_ext.checkpoints.allowed import PLAIN_LINK, short

# a config of fairseq has about 400 values in 4 levels; weights of labels and nested configs add more
_MOST_VALUES = 100_000
_DEEPEST = 32
_LONGEST_TEXT = 10_000
_FINITE = ("task", "model", "criterion")
_LARGEST = 2**63
_LONGEST_CHAIN = 10


def check_size(value: Any, parts: Callable[[Any], Collection[Any]]) -> None:
    """Raise a `ValueError` if a nested value has more parts, or levels, than a config may have.

    A repeated object counts each time, because OmegaConf copies it each time.

    Args:
        parts: returns the parts of a value.
    """
    left: List[Tuple[Any, int]] = [(value, 0)]
    number = 0
    while left:
        value, depth = left.pop()
        inner = parts(value)
        number += 1
        if number + len(left) + len(inner) > _MOST_VALUES:
            raise ValueError(f"its config has more than {_MOST_VALUES:,} values")
        if inner and depth >= _DEEPEST:
            raise ValueError(f"its config is more than {_DEEPEST} levels deep, or goes in a circle")
        left += [(part, depth + 1) for part in inner]


def check_plain(config: Any) -> None:
    """Raise a `ValueError` if a config contains other than plain values, or too many of them."""
    check_size(config, _parts)
    left: List[Tuple[Any, str]] = [(config, "")]
    while left:
        value, place = left.pop()
        if isinstance(value, argparse.Namespace):
            value = vars(value)
        if isinstance(value, Mapping):
            left += [(inner, _place(place, key)) for key, inner in value.items()]
        elif isinstance(value, (list, tuple)):
            left += [(inner, _place(place, number)) for number, inner in enumerate(value)]
        else:
            _check_value(value, place)


def _parts(value: Any) -> Collection[Any]:
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, (list, tuple)) else ()


def _place(above: str, key: Any) -> str:
    if not isinstance(key, (str, int)) or len(str(key)) > 200:
        raise ValueError(f"its config has an option that is called {short(key)}")
    if key == "_target_":
        raise ValueError(f"its config has {above}.{key}, which would run code")
    return f"{above}.{key}" if above else str(key)


def _check_value(value: Any, place: str) -> None:
    """Check that a single value is plain and of a plausible size."""
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, (int, np.integer)):
        if not -_LARGEST <= value < _LARGEST:
            raise ValueError(f"its option {short(place)} is a whole number of more than 64 bits")
    elif isinstance(value, (float, np.floating)):
        if not math.isfinite(value) and place.split(".")[0] in _FINITE:
            raise ValueError(f"its option {short(place)} is {float(value)}, not a finite number")
    elif not isinstance(value, (str, np.bool_)):
        raise ValueError(f"its option {short(place)} is of type {type(value).__name__}, not a plain value")
    elif isinstance(value, str) and len(value) > _LONGEST_TEXT:
        raise ValueError(f"its option {short(place)} is a text of {len(value):,} characters")


def check_links(config: Any) -> None:
    """Raise a `ValueError` if OmegaConf would evaluate a text of a plain config, such as `${oc.env:HOME}`.

    Links to other options are harmless: fairseq-train saves them, fairseq-hydra-train saves their values.
    """
    _, unresolved = resolve_links(config, targets=config)
    if unresolved:
        key, text = next(iter(unresolved.items()))
        raise ValueError(f"its option {short(key)} {short(text)} is to be computed, not a value")


def resolve_links(config: Mapping[str, Any], targets: Mapping[str, Any]) -> Tuple[Dict[str, Any], Dict[str, str]]:
    """Replace links to other options, such as `${optimization.lr}`, in a plain config by the values of these.

    Args:
        config: as `check_plain` allows it.
        targets: options that links may name, by sections; usually the config itself.

    Returns:
        The config, and, by place, each text that is another kind of link or has no target; these are not replaced.
    """
    unresolved: Dict[str, str] = {}

    def resolved(value: Any, place: str) -> Any:
        if isinstance(value, Mapping):
            return {key: resolved(inner, f"{place}.{key}" if place else str(key)) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [resolved(inner, f"{place}.{number}") for number, inner in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        try:
            return _target(value, targets)
        except KeyError:
            unresolved[place] = value
            return value

    return resolved(config, ""), unresolved


def _target(text: str, targets: Mapping[str, Any]) -> Any:
    """Return the target of a link, also through other links: a plain value, or a list of plain values.

    Raises:
        KeyError: the text is not only a link, or its target is missing or a whole section.
    """
    value: Any = text
    for _ in range(_LONGEST_CHAIN):
        found = PLAIN_LINK.fullmatch(value)
        if found is None:
            raise KeyError(text)
        value = targets
        for key in found.group(1).split("."):
            if not isinstance(value, Mapping):
                raise KeyError(text)
            value = value[key]
        if isinstance(value, str) and "${" in value:
            continue
        parts = value if isinstance(value, (list, tuple)) else [value]
        if any(isinstance(part, (Mapping, list, tuple)) or "${" in str(part) for part in parts):
            raise KeyError(text)
        return value
    raise KeyError(text)
