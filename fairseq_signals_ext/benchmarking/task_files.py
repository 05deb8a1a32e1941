"""Tasks as YAML files: targets to predict from features, their recordings, and their split in iclr2026.

A task has one of

* `codes`: a code map of `label --codes`, by name or as a CSV file; each of its labels that `min_positives` recordings
  or more have is used;
* `labels`: a name for each, with a `column` of the table, the `values` that make it and those that do not (`others`);
  where the table has none, `measure` and the range `above` to `below`;
* `folder`: name of labels that `label` made, `DIR/labels/NAME`; with `regression: true` they are numbers;
* `numbers`: a name for each, with a `column`, else a `measure`, and a `unit`.

`sources`, `records` (`first` and `last` record id) and `min_seconds` choose the recordings. `split` is for the protocol
iclr2026: a `column` of the table, or a number of stratified `folds`, with ranges for `train`, `valid`, `test`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import List, Mapping, Optional, Tuple

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.hints import did_you_mean
from fairseq_signals_ext.labelling.yaml_places import Node, read_yaml
from fairseq_signals_ext.prepared.split_settings import SUBSETS

_FOLDER = Path(__file__).parent / "tasks"
_INFINITE = float("inf")


@dataclass(frozen=True)
class Target:
    """A label or number that is not defined by codes.

    Attributes:
        name: of it.
        column: of the table.
        values, others: for a label: texts of the column for positive and for negative; any other text is unknown.
        measure: hand-made measure, used if the table has no such column or no value.
        above, below: for a label: range of the measure.
        unit: of a number.
    """

    name: str
    column: str
    values: Tuple[str, ...] = ()
    others: Tuple[str, ...] = ()
    measure: str = ""
    above: float = -_INFINITE
    below: float = _INFINITE
    unit: str = ""


@dataclass(frozen=True)
class GivenSplit:
    """Recordings for training, choosing and testing with iclr2026.

    Attributes:
        values: values of the column, or numbers of folds such as `0-7`, for each of train, valid and test.
        column: column of the table; None: `folds` are used.
        folds: number of random stratified folds.
        by_patient: a fold contains all recordings of a patient or none.
    """

    values: Tuple[Tuple[str, ...], ...]
    column: Optional[str] = None
    folds: int = 0
    by_patient: bool = False


@dataclass(frozen=True)
class Task:
    """Targets to predict from features.

    Attributes:
        name, description: of it.
        codes: name of a code map, or its file; None if `targets` are given.
        folder: name of labels of the prepared folder; None if `codes` or `targets` define them.
        targets: labels or numbers.
        is_regression: whether the targets, or the labels of the folder, are numbers.
        min_positives: labels with fewer positives are omitted.
        sources: names of the sources to use; empty: all.
        records: first and last record id to use; None: all.
        min_seconds: shorter recordings are omitted.
        split: split of iclr2026; None: the task cannot be run with it.
    """

    name: str
    description: str
    codes: Optional[str] = None
    folder: Optional[str] = None
    targets: Tuple[Target, ...] = ()
    is_regression: bool = False
    min_positives: int = 1
    sources: Tuple[str, ...] = ()
    records: Optional[Tuple[str, str]] = None
    min_seconds: float = 0.0
    split: Optional[GivenSplit] = field(default=None)


def shipped_tasks() -> List[str]:
    """Return the names of the tasks that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def read_task(name: str) -> Task:
    """Read the task with this name, or from a YAML file.

    Raises:
        UserError: there is no such task (with similar names), or its file is malformed (with the line).
    """
    shipped = name in shipped_tasks()
    path = _FOLDER / f"{name}.yaml" if shipped else Path(name)
    if not path.is_file():
        meant = did_you_mean(name, shipped_tasks(), f"there are {', '.join(shipped_tasks())}", most=3, cutoff=0.5)
        raise UserError(f"task {name!r}: no such task or YAML file; {meant}")
    return _task(path.stem, read_yaml(path))


def _task(name: str, file: Node) -> Task:
    ways = ("codes", "labels", "numbers", "folder")
    file.only("description", *ways, "regression", "sources", "records", "min_positives", "min_seconds", "split")
    entries = dict(file.entries())
    given = [way for way in ways if way in entries]
    if len(given) != 1:
        raise UserError(f"{file.place}: {' and '.join(given) or 'nothing to predict'}: give one of {', '.join(ways)}")
    if "regression" in entries and given != ["folder"]:
        raise UserError(f"{entries['regression'].place}: regression: goes with folder only; leave it out")
    are_numbers = given == ["numbers"]
    named = file.entries(given[0]) if given[0] in ("labels", "numbers") else []
    return Task(
        name,
        file.required_text("description").text,
        codes=entries["codes"].text if "codes" in entries else None,
        folder=entries["folder"].text if "folder" in entries else None,
        targets=tuple(_target(key, node, are_numbers) for key, node in named),
        is_regression=are_numbers or file.truth("regression"),
        min_positives=int(file.number("min_positives", 1, 1, 1e9)),
        sources=tuple(one.text for one in file.texts("sources")),
        records=_records(entries["records"]) if "records" in entries else None,
        min_seconds=file.number("min_seconds", 0, 0, 1e6),
        split=_split(entries["split"]) if "split" in entries else None,
    )


def _target(name: str, node: Node, is_number: bool) -> Target:
    node.only("column", "measure", *(["unit"] if is_number else ["values", "others", "above", "below"]))
    entries = dict(node.entries())
    column, measure, unit = (entries[key].text if key in entries else "" for key in ("column", "measure", "unit"))
    if not column and not measure:
        raise UserError(f"{node.place}: {name!r}: give the column of the table, or a measure")
    if is_number:
        return Target(name, column, measure=measure, unit=unit)
    values, others = (tuple(one.text for one in node.texts(key)) for key in ("values", "others"))
    if column and not values:
        raise UserError(f"{node.place}: {name!r}: give the values of the column that make this label")
    above, below = node.number("above", -_INFINITE, -1e9, 1e9), node.number("below", _INFINITE, -1e9, 1e9)
    return Target(name, column, values, others, measure, above, below)


def _records(node: Node) -> Tuple[str, str]:
    node.only("first", "last")
    return node.required_text("first").text, node.required_text("last").text


def _split(node: Node) -> GivenSplit:
    node.only("column", "folds", "by", *SUBSETS)
    values = tuple(_values(node, subset) for subset in SUBSETS)
    entries = dict(node.entries())
    if ("column" in entries) == ("folds" in entries):
        raise UserError(f"{node.place}: give a column, or a number of folds")
    if "column" in entries:
        return GivenSplit(values, column=entries["column"].text)
    folds = int(node.number("folds", 0, 3, 1000))
    return GivenSplit(values, folds=folds, by_patient=node.choice("by", ("record", "patient"), "record") == "patient")


def _values(node: Node, subset: str) -> Tuple[str, ...]:
    value: Mapping[str, Node] = dict(node.entries())
    if subset in value and value[subset].is_list:
        return tuple(one.text for one in node.texts(subset))
    return (node.required_text(subset).text,)
