"""A config from a file as what it may be: plain values, not too many, with no text that OmegaConf would compute.

Needs neither torch nor fairseq.
"""

import argparse
import math
from typing import Any, Callable, Collection, Dict, List, Mapping, Tuple

import numpy as np

from fairseq_signals_ext.checkpoints.allowed import PLAIN_LINK, short

# a config of fairseq has some 400 values, 4 deep; weights of labels, and configs inside it, make more
_MOST_VALUES = 100_000
_DEEPEST = 32
_LONGEST_TEXT = 10_000
_FINITE = ("task", "model", "criterion")
_LARGEST = 2**63
_LONGEST_CHAIN = 10


def check_size(value: Any, parts: Callable[[Any], Collection[Any]]) -> None:
    """Raise a `ValueError` unless a nested value has at most as many parts, and levels, as a config may have.

    Something that is there twice counts twice: OmegaConf makes a copy each time.

    Args:
        parts: of a value.
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
    """Raise a `ValueError` unless a config holds plain values only, and as many as a config may have."""
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
    """See that a single value is plain and of a plausible size."""
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
    """Raise a `ValueError` if a text of a plain config is one that OmegaConf would compute, such as `${oc.env:HOME}`.

    Links to other options are harmless: fairseq-train saves them, fairseq-hydra-train what they lead to.
    """
    _, unresolved = resolve_links(config, targets=config)
    if unresolved:
        key, text = next(iter(unresolved.items()))
        raise ValueError(f"its option {short(key)} {short(text)} is to be computed, not a value")


def resolve_links(config: Mapping[str, Any], targets: Mapping[str, Any]) -> Tuple[Dict[str, Any], Dict[str, str]]:
    """A plain config whose links to other options, such as `${optimization.lr}`, are replaced by what these are.

    Args:
        config: as `check_plain` allows it.
        targets: where links lead to, by sections; usually the config itself.

    Returns:
        The config, and by its place each text that is another kind of link, or leads nowhere; these are still there.
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
    """What a link leads to, perhaps by others: a plain value, or a list of these.

    Raises:
        KeyError: it is more than a link, leads nowhere, or to whole sections.
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
