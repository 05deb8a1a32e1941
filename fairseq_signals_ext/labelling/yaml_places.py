"""Read YAML files with the file and line of each value, for messages about mistakes."""

from pathlib import Path
from typing import List, Sequence, Tuple, Union

from fairseq_signals_ext.common.errors import UserError, first_line

_LARGEST = 10_000_000  # bytes


class Node:
    """A value of a YAML file: a mapping, a list or a text."""

    def __init__(self, path: Path, node: "object") -> None:
        self._path, self._node = path, node

    @property
    def place(self) -> str:
        """File and line."""
        mark = getattr(self._node, "start_mark", None)
        return f"{self._path}: line {mark.line + 1}" if mark is not None else str(self._path)

    @property
    def text(self) -> str:
        """The text.

        Raises:
            UserError: it is no text.
        """
        value = getattr(self._node, "value", None)
        if not isinstance(value, str):
            raise UserError(f"{self.place}: give a text here")
        return value

    def _mapping(self) -> List[Tuple[str, "Node"]]:
        if self._node is None or getattr(self._node, "value", None) == "":
            return []
        if getattr(self._node, "id", "") != "mapping":
            raise UserError(f"{self.place}: give keys and values here")
        found = [(Node(self._path, key).text, Node(self._path, value)) for key, value in self._node.value]  # type: ignore[attr-defined]
        seen = set()
        for key, value in found:
            if key in seen:
                raise UserError(f"{value.place}: {key!r} appears twice; join the two")
            seen.add(key)
        return found

    def get(self, key: str) -> "Node":
        """The value of a key; an empty one if it is missing."""
        return dict(self._mapping()).get(key, Node(self._path, None))

    def only(self, *keys: str) -> None:
        """`UserError` if it has other keys."""
        for key, value in self._mapping():
            if key not in keys:
                raise UserError(f"{value.place}: unknown key {key!r}; known are {', '.join(keys)}")

    @property
    def is_list(self) -> bool:
        """Whether it is a list."""
        return getattr(self._node, "id", "") == "sequence"

    def entries(self, key: str = "") -> List[Tuple[str, "Node"]]:
        """Keys and values of the mapping (under a key); none if it is missing."""
        return (self.get(key) if key else self)._mapping()

    def items(self, key: str = "") -> List["Node"]:
        """Elements of the list (under a key); none if it is missing."""
        value = self.get(key) if key else self
        if value._node is None:
            return []
        if not value.is_list:
            raise UserError(f"{value.place}: give a list here")
        return [Node(self._path, item) for item in value._node.value]  # type: ignore[attr-defined]

    def texts(self, key: str = "") -> List["Node"]:
        """Elements of a list of texts (under a key); none if it is missing."""
        found = self.items(key)
        for one in found:
            one.text  # noqa: B018 - raises where it is no text
        return found

    def one_or_more(self) -> List["Node"]:
        """A text as a list of one, or the elements of a list of texts.

        Raises:
            UserError: there is none, or it is something else.
        """
        found = self.texts() if self.is_list else [self]
        if not found or not all(one.text for one in found):
            raise UserError(f"{self.place}: give a text or a list of texts here")
        return found

    def required_text(self, key: str) -> "Node":
        """The text under a key."""
        value = self.get(key)
        if value._node is None:
            raise UserError(f"{self.place}: no {key}; add it")
        if not value.text:
            raise UserError(f"{value.place}: {key}: give a text here")
        return value

    def choice(self, key: str, choices: Sequence[str], default: str = "") -> str:
        """One of several texts under a key."""
        value = self.get(key)
        text = default if value._node is None else value.text
        if text not in choices:
            place = (self if value._node is None else value).place
            raise UserError(f"{place}: {key}: {text!r}; give one of {', '.join(choices)}")
        return text

    def truth(self, key: str) -> bool:
        """`true` or `false` under a key; false if it is missing."""
        return self.choice(key, ("true", "false"), "false") == "true"

    def number(self, key: str, default: float, low: float, high: float) -> float:
        """A number from low to high under a key."""
        value = self.get(key)
        if value._node is None:
            return default
        try:
            number = float(value.text)
        except ValueError:
            number = float("nan")
        if not low <= number <= high:
            raise UserError(f"{value.place}: {key}: {value.text!r}; give a number from {low:g} to {high:g}")
        return number


def read_yaml(path: Union[str, Path]) -> Node:
    """The content of a YAML file; nothing in it is executed.

    Raises:
        UserError: it cannot be read as YAML.
    """
    import yaml

    path = Path(path)
    try:
        if path.stat().st_size > _LARGEST:
            raise UserError(f"{path}: larger than {_LARGEST} bytes; give settings, a vocabulary or labels")
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        line = f": line {where.line + 1}" if where is not None else ""
        problem = getattr(error, "problem", None) or first_line(error)
        raise UserError(f"{path}{line}: cannot be read as YAML ({problem})") from error
    return Node(path, node)
