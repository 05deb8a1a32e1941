"""Make labels from the recordings' diagnostic codes, with a map from codes to labels.

A map is a CSV file with the columns `code`, `label` and, optionally, `description`. Several codes may map to one label,
and one code to several labels. The maps of this package are in the folder `maps/`.
"""

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.labelling.labels import Labels, in_sources
from fairseq_signals_ext.prepared.table import read_table
from fairseq_signals_ext.sources.code15 import WITHOUT as CODE15_WITHOUT

if TYPE_CHECKING:
    import pandas as pd

_FOLDER = Path(__file__).parent / "maps"

# name: description
CODE_MAPS = {
    "cinc2021": "the 26 scored classes of the PhysioNet/CinC Challenge 2021 (SNOMED CT or abbreviations)",
    "cinc2021-all": "all 133 diagnoses of the Challenge, each its own label (SNOMED CT)",
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
_SMALLEST_SHARE = 0.5  # share of a source's codes that must be in the map's vocabulary
_LISTED = 10  # unknown codes in messages


@dataclass(frozen=True)
class CodeMap:
    """A map from codes to labels.

    Attributes:
        name: of the map, or of its file.
        labels: names of the labels, in order.
        labels_of: code -> its labels; codes as returned by `key`.
        ignores_case: whether upper and lower case are equal.
        others: further codes of the vocabulary without a label; as returned by `key`.
        is_snomed: whether its codes are SNOMED CT's, so that any SNOMED CT code is in its vocabulary.
    """

    name: str
    labels: Tuple[str, ...]
    labels_of: Dict[str, Tuple[str, ...]]
    ignores_case: bool = False
    others: FrozenSet[str] = frozenset()
    is_snomed: bool = False

    @property
    def knows_its_vocabulary(self) -> bool:
        """Whether it can distinguish codes without a label from codes of another vocabulary."""
        return bool(self.others) or self.is_snomed

    def speaks(self, code: str) -> bool:
        """Return whether a code is in the map's vocabulary, with or without a label."""
        return bool(self[code]) or self.key(code) in self.others or (self.is_snomed and _is_snomed(code))

    def key(self, code: str) -> str:
        """Return a code for comparison: trimmed, and in lower case if the map ignores case."""
        return code.strip().casefold() if self.ignores_case else code.strip()

    def __getitem__(self, code: str) -> Tuple[str, ...]:
        """Return the labels of a code; empty for an unknown code."""
        return self.labels_of.get(self.key(code), ())


def read_code_map(name: Union[str, Path]) -> CodeMap:
    """Return the map of this name (see `CODE_MAPS`), or read it from a CSV file.

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
    """Return line, code and label of each row."""
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
                    raise UserError(f"{path}: line {reader.line_num}: code or label is empty; fix or delete the line")
                rows.append((reader.line_num, code, label))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a CSV file in UTF-8 ({error})") from error
    if not rows:
        raise UserError(f"{path}: the code map is empty; give a line for each code")
    return rows


def labels_from_codes(
    out: Union[str, Path],
    code_map: CodeMap,
    *,
    sources: Optional[Sequence[str]] = None,
    min_likelihood: float = 0.0,
    no_codes_are_negative: bool = False,
) -> Labels:
    """Return labels from the recordings' diagnostic codes (column `codes` of the table).

    A recording with codes has every label of the map, 1 or 0. A recording without codes is unlabelled, and so are
    recordings of a source with another vocabulary, unless it is named in `sources`.

    Args:
        out: prepared folder.
        sources: only their recordings are labelled.
        min_likelihood: %; codes with a smaller likelihood do not count; codes without a likelihood always count.
            PTB-XL uses 0 for "unknown", as for all statements on form and rhythm.
        no_codes_are_negative: a recording without codes has label 0 for all labels instead of being unlabelled.

    Raises:
        UserError: no prepared data in `out`, or an unknown source.
    """
    table = read_table(out, ["idx", "source", "codes"])
    inside = in_sources(out, table, sources)
    codes = _codes(table["codes"].where(inside, None))
    foreign = _foreign_sources(table["source"], codes, code_map) if sources is None else {}
    inside &= ~table["source"].isin(list(foreign)).to_numpy()
    codes = codes[inside[codes["recording"]]]
    values = np.full((len(table), len(code_map.labels)), np.nan)
    values[inside if no_codes_are_negative else codes["recording"].unique()] = 0
    unlikely = (codes["likelihood"] < min_likelihood).to_numpy()
    _set_ones(values, codes[~unlikely], code_map)
    labels = Labels(list(code_map.labels), table["idx"].to_numpy(np.int64), values)
    for code, made in code_map.labels_of.items():
        for label in made:
            labels.codes.setdefault(label, []).append(code)
    labels.settings = {"code_map": code_map.name, "min_likelihood": min_likelihood, "sources": sources}
    labels.settings["no_codes_are_negative"] = no_codes_are_negative
    _warn_of_foreign(labels, foreign, table["source"])
    _count_codes(labels, codes, code_map, int(inside.sum()), int(unlikely.sum()))
    return labels


def _set_ones(values: np.ndarray, codes: "pd.DataFrame", code_map: CodeMap) -> None:
    """Set the labels of the recordings' codes to 1, in place."""
    column = {label: number for number, label in enumerate(code_map.labels)}
    for code, recordings in codes.groupby("code")["recording"]:
        for label in code_map[code]:
            values[recordings, column[label]] = 1


def _warn_of_foreign(labels: Labels, foreign: Mapping[str, str], sources: "pd.Series") -> None:
    """Count and note the recordings of sources with another vocabulary; `foreign`: source -> one of its codes."""
    labels.counts["other_vocabulary"] = {source: int((sources == source).sum()) for source in foreign}
    for source, example in foreign.items():
        labels.notes.append(
            f"source {source!r} has codes of another vocabulary, such as {example}: its "
            f"{labels.counts['other_vocabulary'][source]} recordings are unlabelled; label them by a map for it"
        )


def _foreign_sources(source: "pd.Series", codes: "pd.DataFrame", code_map: CodeMap) -> Dict[str, str]:
    """Return sources with another vocabulary than the map's, with an example of their codes."""
    spoken = {code: code_map.speaks(code) for code in codes["code"].unique()}
    known = codes["code"].map(spoken).astype(bool)
    share = known.groupby(source.to_numpy()[codes["recording"]]).mean()
    # a user's map may lack most codes of its vocabulary
    foreign = share.index[share < _SMALLEST_SHARE] if code_map.knows_its_vocabulary else share.index[share == 0]
    return {name: codes["code"][~known & (source.to_numpy()[codes["recording"]] == name)].iloc[0] for name in foreign}


def _codes(lists: "pd.Series") -> "pd.DataFrame":
    """Return one row per code of a recording: recording (row of the table), code, likelihood (NaN if there is none)."""
    import pandas as pd

    text = lists.explode().dropna().astype(str)
    parts = text.str.extract(r"^\s*(?P<code>.*?)\s*(?::\s*(?P<likelihood>\d+(?:\.\d*)?)\s*)?$")
    parts = parts.assign(recording=parts.index, likelihood=pd.to_numeric(parts["likelihood"]))
    return parts[parts["code"] != ""].reset_index(drop=True)


def _count_codes(labels: Labels, codes: "pd.DataFrame", code_map: CodeMap, recordings: int, unlikely: int) -> None:
    unknown = [code for code in codes["code"].unique() if not code_map[code]]
    of_unknown = codes[codes["code"].isin(unknown)].groupby("code")["recording"].nunique()
    frequent = sorted(of_unknown.items(), key=lambda item: (-item[1], item[0]))
    without = recordings - codes["recording"].nunique()
    labels.counts.update(recordings=recordings, without_codes=without, below_min_likelihood=unlikely)
    labels.counts["unknown_codes"] = {code: int(count) for code, count in frequent}
    if without:
        what = "negative" if labels.settings["no_codes_are_negative"] else "unlabelled"
        labels.notes.append(f"{without} of {recordings} recordings have no codes: {what}")
    if unlikely:
        labels.notes.append(f"{unlikely} codes are below the minimum likelihood and do not count")
    if frequent:
        listed = ", ".join(f"{code} ({count})" for code, count in frequent[:_LISTED])
        more = ", ..." if len(frequent) > _LISTED else ""
        labels.notes.append(f"{len(frequent)} codes are not in the map (recordings that have them): {listed}{more}")
