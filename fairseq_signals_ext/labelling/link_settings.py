"""Settings for linking events to ECGs, and their YAML files."""

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.labelling.yaml_places import Node, read_yaml
from fairseq_signals_ext.sources.times import check_time_format

CHOICES = ("nearest", "first", "last", "max", "min")
_DURATION = re.compile(r"([+-]?\d+(?:\.\d+)?)\s*(s|min|h|d|w)?")
_MICROSECONDS = {"s": 10**6, "min": 60 * 10**6, "h": 3600 * 10**6, "d": 86400 * 10**6, "w": 7 * 86400 * 10**6}
_THRESHOLD = re.compile(r"(<=|>=|<|>|≤|≥)\s*(\S.*)")
_RELATIONS = {"≤": "<=", "≥": ">="}
_WORDS = {"<": "lt", "<=": "le", ">": "gt", ">=": "ge"}


@dataclass(frozen=True)
class Threshold:
    """A condition for values; a value that fulfils it makes the label 1.

    Attributes:
        relation: `<`, `<=`, `>` or `>=`.
        limit: a number, or the name of a column of limits.
    """

    relation: str
    limit: Union[float, str]

    @classmethod
    def parse(cls, text: str) -> "Threshold":
        """Parse a text such as `<= 40` or `> ref_range_upper`; `UserError` if it is invalid."""
        match = _THRESHOLD.fullmatch(str(text).strip())
        if not match:
            raise UserError(f"threshold {text!r}: give a relation and a number or a column, such as '<= 40'")
        relation, limit = _RELATIONS.get(match[1], match[1]), match[2].strip()
        try:
            number = float(limit)
        except ValueError:
            return cls(relation, limit)
        if not np.isfinite(number):
            raise UserError(f"threshold {text!r}: its limit is not finite; give a number")
        return cls(relation, number)

    def name(self, value: str) -> str:
        """Return the name of the label for a column of values: `lvef_le_40`."""
        limit = self.limit if isinstance(self.limit, str) else f"{self.limit:g}"
        return f"{value}_{_WORDS[self.relation]}_{limit}"

    def __str__(self) -> str:
        """Return the threshold in the form for users."""
        return f"{self.relation} {self.limit if isinstance(self.limit, str) else format(self.limit, 'g')}"


@dataclass(frozen=True)
class LinkSettings:
    """Settings for linking events to ECGs; see the help of `fairseq-signals-ext label`.

    Attributes:
        patient_column, time_column, value_column: of the table of events.
        window: start and end relative to the ECG's start: `("-7d", "7d")`; both are included.
        choose: which of several events in the window is used, one of `CHOICES`.
        thresholds: texts, see `Threshold.parse`; one label per threshold.
        label_names: one per threshold; empty: made from column and threshold.
        filter: column -> texts; only events that have one of them are used.
        time_format: of times, as for `datetime.strptime`; None: see `sources.times.as_iso_time`.
        timezone: of the ECGs' clocks, for events whose times have a timezone.
        keep_value: write the selected events as well.
        regression: the value is the only label.
    """

    patient_column: str = "patient"
    time_column: str = "time"
    value_column: str = "value"
    window: Tuple[str, ...] = ("-7d", "7d")
    choose: str = "nearest"
    thresholds: Tuple[str, ...] = ()
    label_names: Tuple[str, ...] = ()
    filter: Dict[str, Tuple[str, ...]] = field(default_factory=dict)
    time_format: Optional[str] = None
    timezone: Optional[str] = None
    keep_value: bool = False
    regression: bool = False

    def __post_init__(self) -> None:
        if self.choose not in CHOICES:
            raise UserError(f"choose {self.choose!r}: give one of {', '.join(CHOICES)}")
        if self.regression == bool(self.thresholds):
            raise UserError("linking needs thresholds such as '<= 40', or regression, and not both")
        number = max(1, len(self.limits))
        if self.label_names and len(self.label_names) != number:
            raise UserError(f"{len(self.label_names)} label names for {number} label(s): give one per threshold")
        _offsets(self.window)
        if self.time_format is not None:
            check_time_format(self.time_format)

    @property
    def limits(self) -> List[Threshold]:
        """The parsed thresholds; `UserError` if one is invalid."""
        return [Threshold.parse(text) for text in self.thresholds]

    @property
    def names(self) -> List[str]:
        """Names of the labels."""
        if self.label_names:
            return list(self.label_names)
        return [self.value_column] if self.regression else [limit.name(self.value_column) for limit in self.limits]

    @property
    def offsets(self) -> Tuple[int, int]:
        """The window in microseconds relative to the ECG's start; `UserError` if it is invalid."""
        return _offsets(self.window)

    @property
    def columns(self) -> List[str]:
        """Columns of the events that are needed."""
        limits = [limit.limit for limit in self.limits if isinstance(limit.limit, str)]
        return [self.patient_column, self.time_column, self.value_column, *limits, *self.filter]


def _offsets(window: Tuple[str, ...]) -> Tuple[int, int]:
    if len(window) != 2:
        raise UserError(f"window {' '.join(window)}: give two times, such as -7d 7d")
    low, high = (_microseconds(text) for text in window)
    if low > high:
        raise UserError(f"window {' '.join(window)}: it ends before it begins; give the earlier time first")
    return low, high


def _microseconds(text: str) -> int:
    match = _DURATION.fullmatch(text.strip())
    if not match or not (match[2] or float(match[1]) == 0):
        raise UserError(f"window {text!r}: give a number with s, min, h, d or w, such as -7d (a year is 365d)")
    duration = float(match[1]) * _MICROSECONDS[match[2] or "s"]
    if abs(duration) > 1000 * 366 * _MICROSECONDS["d"]:
        raise UserError(f"window {text!r}: longer than 1000 years; give a shorter one")
    return round(duration)


def read_link_settings(config: Optional[Union[str, Path]], given: Dict[str, Any]) -> LinkSettings:
    """Read settings from a YAML file, or use the defaults; `given` (attributes of `LinkSettings`) has priority.

    Raises:
        UserError: the file cannot be read, has an unknown key, or a value of the wrong kind.
    """
    settings = {} if config is None else _read_config(Path(config))
    if given.get("thresholds") or given.get("regression"):  # names and thresholds of the file belong together
        for key in ("thresholds", "label_names", "regression"):
            settings.pop(key, None)
    try:
        return LinkSettings(**{**settings, **given})
    except UserError as error:
        raise UserError(f"{config}: {error}" if config else str(error)) from error


def _read_config(path: Path) -> Dict[str, Any]:
    config, known = read_yaml(path), [setting.name for setting in fields(LinkSettings)]
    if not config.entries():
        raise UserError(f"{path}: give keys and values, such as 'window: [-7d, 7d]'")
    config.only(*known)
    return {key: _setting(config, key, value) for key, value in config.entries()}


def _setting(config: Node, key: str, value: Node) -> Any:
    """Convert a value of a config for the settings: numbers become texts, and a single text a list of one."""
    if key == "filter":
        if not value.entries():
            raise UserError(f"{value.place}: {key}: give a column and its values, such as 'itemid: [51003]'")
        return {column: _texts(texts) for column, texts in value.entries()}
    if key in ("keep_value", "regression"):
        return config.truth(key)
    return _texts(value) if key in ("window", "thresholds", "label_names") else config.required_text(key).text


def _texts(value: Node) -> Tuple[str, ...]:
    return tuple(node.text for node in value.one_or_more())
