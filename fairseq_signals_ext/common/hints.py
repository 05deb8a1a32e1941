"""Hints on input: names that were probably meant, and commands that can be copied to a shell."""

from pathlib import Path
from typing import Iterable, List, Union


def close_names(name: str, known: Iterable[str], most: int = 1, cutoff: float = 0.6) -> List[str]:
    """Return the known names most similar to a misspelt one, best first; none below `cutoff` (0 to 1)."""
    import difflib  # only needed for misspelt names

    return difflib.get_close_matches(name, list(known), n=most, cutoff=cutoff)


def did_you_mean(name: str, known: Iterable[str], otherwise: str, most: int = 1, cutoff: float = 0.6) -> str:
    """Return the question whether a known name was meant, or `otherwise` if none is similar."""
    close = close_names(name, known, most, cutoff)
    return f"did you mean {' or '.join(close)}?" if close else otherwise


def command_line(*words: Union[str, Path]) -> str:
    """Return one of our commands with quotes where a shell needs them."""
    import shlex

    return shlex.join(["fairseq-signals-ext", *map(str, words)])
