"""Code maps: which diagnostic codes make which label.

A map is a CSV file with the columns `code`, `label` and, optionally, `description`. Several codes may make one label,
and one code several labels. Those that come with the package are in the folder `maps/`.
"""

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, FrozenSet, List, Tuple, Union

from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.sources.code15 import WITHOUT as CODE15_WITHOUT

_FOLDER = Path(__file__).parent / "maps"

# name: what it is
CODE_MAPS = {
    "cinc2021": "the 26 scored classes of the PhysioNet/CinC Challenge 2021 (SNOMED CT or abbreviations)",
    "ptbxl-all": "the 71 SCP-ECG statements of PTB-XL",
    "ptbxl-diagnostic": "the 44 of them that are diagnoses",
    "ptbxl-super": "the 5 diagnostic superclasses of PTB-XL",
    "ptbxl-sub": "the 23 diagnostic subclasses of PTB-XL",
    "ptbxl-form": "the 19 statements on form of PTB-XL",
    "ptbxl-rhythm": "the 12 statements on rhythm of PTB-XL",
    "code15": "the 6 abnormalities of CODE-15%",
}
_IGNORE_CASE = ("cinc2021",)
_SNOMED = re.compile(r"\d{6,18}")


@dataclass(frozen=True)
class CodeMap:
    """Which codes make which label.

    Attributes:
        name: of the map, or of its file.
        labels: names of the labels, in order.
        labels_of: code -> its labels; codes as `key` gives them.
        ignores_case: whether a code may be written in capitals or small letters.
        others: further codes that recordings may have of whom the map knows everything; as `key` gives them.
        is_snomed: whether its codes are SNOMED CT's, so that any other of these is one of these too.
    """

    name: str
    labels: Tuple[str, ...]
    labels_of: Dict[str, Tuple[str, ...]]
    ignores_case: bool = False
    others: FrozenSet[str] = frozenset()
    is_snomed: bool = False

    @property
    def knows_its_vocabulary(self) -> bool:
        """Whether it can tell codes that it leaves out on purpose from those of another vocabulary."""
        return bool(self.others) or self.is_snomed

    def speaks(self, code: str) -> bool:
        """Whether a code is of the map's vocabulary: one of its own, or one that it leaves out on purpose."""
        return bool(self[code]) or self.key(code) in self.others or (self.is_snomed and _is_snomed(code))

    def key(self, code: str) -> str:
        """A code as the map compares it: trimmed, and in small letters if the map ignores case."""
        return code.strip().casefold() if self.ignores_case else code.strip()

    def __getitem__(self, code: str) -> Tuple[str, ...]:
        """The labels of a code; empty if the map does not know it."""
        return self.labels_of.get(self.key(code), ())


def read_code_map(name: Union[str, Path]) -> CodeMap:
    """The map of this name (see `CODE_MAPS`), or that of a CSV file.

    Raises:
        UserError: no such map, or a file that is malformed (with the number of the line).
    """
    shipped = str(name) in CODE_MAPS
    path = _FOLDER / f"{name}.csv" if shipped else Path(name)
    if not path.is_file():
        raise UserError(f"code map {str(name)!r}: no such file; give a CSV file, or one of {', '.join(CODE_MAPS)}")
    rows = _read_rows(path)
    code_map = CodeMap(
        str(name),
        tuple(dict.fromkeys(label for _, _, label in rows)),
        {},
        ignores_case=str(name) in _IGNORE_CASE,
        others=_others(str(name)) if shipped else frozenset(),
        is_snomed=any(_is_snomed(code) for _, code, _ in rows),
    )
    for line, code, label in rows:
        key = code_map.key(code)
        if label in code_map.labels_of.get(key, ()):
            raise UserError(f"{path}: line {line}: code {code!r} has the label {label!r} already; delete the line")
        code_map.labels_of[key] = (*code_map.labels_of.get(key, ()), label)
    return code_map


def _others(name: str) -> FrozenSet[str]:
    if name.startswith("ptbxl-"):
        return frozenset(code for _, code, _ in _read_rows(_FOLDER / "ptbxl-all.csv"))
    return frozenset(CODE15_WITHOUT) if name == "code15" else frozenset()


def _is_snomed(code: str) -> bool:
    return _SNOMED.fullmatch(code.strip()) is not None


def _read_rows(path: Path) -> List[Tuple[int, str, str]]:
    """Line, code and label of each row."""
    rows = []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = reader.fieldnames or []
            if "code" not in columns or "label" not in columns:
                found = ", ".join(columns) or "none"
                raise UserError(f"{path}: a code map needs the columns code and label; its columns are {found}")
            for row in reader:
                code, label = (row["code"] or "").strip(), (row["label"] or "").strip()
                if not code or not label:
                    raise UserError(f"{path}: line {reader.line_num}: code or label is empty; mend or delete the line")
                rows.append((reader.line_num, code, label))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a CSV file in UTF-8 ({error})") from error
    if not rows:
        raise UserError(f"{path}: the code map is empty; give a line for each code")
    return rows
