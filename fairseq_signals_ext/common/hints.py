"""What to type instead: names that were probably meant, and commands that a shell takes as they are printed."""

from pathlib import Path
from typing import Iterable, List, Union


def close_names(name: str, known: Iterable[str], most: int = 1, cutoff: float = 0.6) -> List[str]:
    """The known names that are nearest to a misspelt one, the nearest first; none below `cutoff` (0 to 1)."""
    import difflib  # not needed where nothing is misspelt

    return difflib.get_close_matches(name, list(known), n=most, cutoff=cutoff)


def did_you_mean(name: str, known: Iterable[str], otherwise: str, most: int = 1, cutoff: float = 0.6) -> str:
    """The question whether a known name was meant, or `otherwise` where none is near."""
    close = close_names(name, known, most, cutoff)
    return f"did you mean {' or '.join(close)}?" if close else otherwise


def command_line(*words: Union[str, Path]) -> str:
    """One of our commands as it can be typed: words with spaces and the like are quoted."""
    import shlex

    return shlex.join(["fairseq-signals-ext", *map(str, words)])
