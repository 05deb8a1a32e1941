"""Make labels from events of patients, such as laboratory values, within a time window around the ECG."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Optional, Sequence, Tuple, Union

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.labelling.events import BOUNDS, Events, read_events
from fairseq_signals_ext.labelling.labels import Labels, in_sources
from fairseq_signals_ext.labelling.link_settings import LinkSettings
from fairseq_signals_ext.prepared.table import read_table
from fairseq_signals_ext.sources.text_tables import as_keys, places_of

if TYPE_CHECKING:
    import pandas as pd


def labels_from_events(
    out: Union[str, Path],
    file: Union[str, Path],
    settings: LinkSettings,
    sources: Optional[Sequence[str]] = None,
) -> Labels:
    """Return labels from the event that `settings` select for each recording; unknown if there is none in the window.

    Args:
        out: prepared folder; recordings need a patient and a start time.
        file: table of events: csv, csv.gz or parquet.
        settings: columns, window, choice and thresholds.
        sources: only their recordings are linked; they must be named if patients of several sources have events.

    Raises:
        UserError: a file, column or value cannot be used, or the patients of several sources have events.
    """
    table = read_table(out, ["idx", "source", "patient", "start_time"])
    inside = in_sources(out, table, sources)
    keys = as_keys(table["patient"]).where(inside, None)
    time = table["start_time"].to_numpy("datetime64[us]")
    usable = keys.notna().to_numpy() & ~np.isnat(time)
    if not usable.any():
        raise UserError(f"{out}: no recording has a patient and a start time; linking needs both")
    patients = keys[usable].unique()
    events = read_events(file, settings, patients)
    if sources is None:
        _check_one_source(file, table["source"][usable & keys.isin(patients[np.unique(events.patient)])])
    patient = np.full(len(table), -1)
    patient[usable] = places_of(keys[usable], patients)
    started = np.where(usable, time, np.datetime64(0, "us")).astype(np.int64)
    chosen = choose_events(patient, started, events, settings.offsets, settings.choose)
    labels = Labels(settings.names, table["idx"].to_numpy(np.int64), _values(events, chosen, settings))
    labels.regression = settings.regression
    labels.settings = _as_data(settings, file, sources)
    if settings.keep_value:
        labels.tables["values.csv"] = _details(labels.idx, started, events, chosen)
    _count(labels, events, chosen, usable[inside])
    return labels


def choose_events(
    patient: np.ndarray, time: np.ndarray, events: Events, window: Tuple[int, int], choose: str
) -> np.ndarray:
    """Select an event of the patient for each ECG.

    Events at the same time are in the order of their file. `nearest` selects the earlier of two equally near events;
    `max` and `min` compare the numbers, and select the earliest of equal ones.

    Args:
        patient: int64, of each ECG, as in `events`; -1 if unknown.
        time: int64, start of each ECG in microseconds.
        window: microseconds after the start, from and to, both inclusive.
        choose: nearest, first, last, max or min.

    Returns:
        int64, index of the event; -1 if no event is in the window.
    """
    order = np.lexsort((events.time, events.patient))  # stable
    moments, moment = np.unique(events.time[order], return_inverse=True)
    # patient and time as one ascending number, so that one search finds both
    step = len(moments) + 1
    key = events.patient[order].astype(np.int64) * step + moment

    def first_from(offset: int, side: Any = "left") -> np.ndarray:
        return np.searchsorted(key, patient * step + np.searchsorted(moments, time + offset, side=side))

    start, stop = first_from(window[0]), first_from(window[1], "right")
    chosen = np.full(len(patient), -1)
    found = np.flatnonzero((patient >= 0) & (start < stop))
    start, stop = start[found], stop[found]
    if choose == "nearest":
        place = _nearest(events.time[order], key, time[found], first_from(0)[found], start, stop)
    elif choose in ("max", "min"):
        ahead = -events.value[order] if choose == "max" else events.value[order]
        place = _foremost(np.argsort(ahead, kind="stable"), start, stop)
    else:
        place = start if choose == "first" else stop - 1
    chosen[found] = order[place]
    return chosen


def _nearest(
    event_time: np.ndarray, key: np.ndarray, time: np.ndarray, middle: np.ndarray, start: np.ndarray, stop: np.ndarray
) -> np.ndarray:
    """Return indices of the events nearest to `time`; `middle`: the first event not before it; all sorted by key."""
    after = np.clip(middle, start, stop - 1)
    before = np.clip(middle - 1, start, stop - 1)
    is_before = np.abs(event_time[before] - time) <= np.abs(event_time[after] - time)
    return np.searchsorted(key, key[np.where(is_before, before, after)])  # the first at that time


def _foremost(ranking: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Return for each range [start, stop) the index that is first in `ranking` (a permutation of the indices)."""
    if not len(start):
        return start
    rank = np.empty(len(ranking) + 1, np.int64)
    rank[ranking] = np.arange(len(ranking))
    rank[-1] = len(ranking)  # `stop` may be the end
    sorting = np.argsort(start, kind="stable")  # keeps the gaps between ranges short
    ends = np.stack([start[sorting], stop[sorting]], axis=1).ravel()
    best = np.empty(len(start), np.int64)
    best[sorting] = np.minimum.reduceat(rank, ends)[::2]
    return ranking[best]


def fulfils(value: np.ndarray, bound: np.ndarray, relation: str, limit: np.ndarray) -> np.ndarray:
    """Return whether values fulfil a relation to a limit: 1, 0, or NaN if a bound or a missing limit leaves it open.

    Args:
        value: float64.
        bound: int8, see `events.BOUNDS`: `<0.01` is certainly not above 0.01, and may or may not be above 0.005.
        relation: `<`, `<=`, `>` or `>=`.
        limit: float64, one or one per value.
    """
    lowest, highest = np.where(bound < 0, -np.inf, value), np.where(bound > 0, np.inf, value)
    excluded = np.abs(bound) == 2  # the true value is not the number itself
    at_limit = (value == limit) & excluded
    if relation in ("<=", ">"):
        below, above = highest <= limit, (lowest > limit) | (at_limit & (bound > 0))
    else:
        below, above = (highest < limit) | (at_limit & (bound < 0)), lowest >= limit
    positive, negative = (below, above) if relation in ("<", "<=") else (above, below)
    return np.where(positive, 1.0, np.where(negative, 0.0, np.nan))


def _values(events: Events, chosen: np.ndarray, settings: LinkSettings) -> np.ndarray:
    values = np.full((len(chosen), len(settings.names)), np.nan)
    found, places = chosen >= 0, chosen[chosen >= 0]
    value, bound = events.value[places], events.bound[places]
    if settings.regression:
        values[found, 0] = np.where(bound == 0, value, np.nan)
    for number, threshold in enumerate(settings.limits):
        if isinstance(threshold.limit, str):
            limit = events.limits[threshold.limit][places]
        else:
            limit = np.array(threshold.limit)
        values[found, number] = fulfils(value, bound, threshold.relation, limit)
    return values


def _check_one_source(file: Union[str, Path], sources: "pd.Series") -> None:
    named = sorted(sources.fillna("").unique())
    if len(named) > 1:
        raise UserError(
            f"{file}: patients of {', '.join(map(repr, named))} have events; choose one with --sources NAME"
        )


def _details(idx: np.ndarray, started: np.ndarray, events: Events, chosen: np.ndarray) -> "pd.DataFrame":
    """Return the selected events: idx, value, its bound, time, and hours from the ECG's start to the event."""
    import pandas as pd

    found, places = np.flatnonzero(chosen >= 0), chosen[chosen >= 0]
    sign = {number: text for text, number in BOUNDS.items()}
    return pd.DataFrame(
        {
            "idx": idx[found],
            "bound": [sign[number] for number in events.bound[places].tolist()],
            "value": events.value[places],
            "time": events.time[places].astype("datetime64[us]"),
            "hours": (events.time[places] - started[found]) / 3.6e9,
        }
    )


def _as_data(settings: LinkSettings, file: Union[str, Path], sources: Optional[Sequence[str]]) -> Dict[str, Any]:
    return {**asdict(settings), "events": Path(file).name, "sources": sources}


def _count(labels: Labels, events: Events, chosen: np.ndarray, usable: np.ndarray) -> None:
    """Return counts and notes; `usable`: wanted recordings with a patient and a start time."""
    linked = chosen >= 0
    undecided = {name: int((np.isnan(column) & linked).sum()) for name, column in zip(labels.names, labels.values.T)}
    labels.counts = {"events": events.counts, "recordings": len(usable), "linked": int(linked.sum())}
    labels.counts["without_patient_or_time"] = int((~usable).sum())
    labels.counts["undecided"] = undecided
    read = events.counts
    labels.notes.append(
        f"{read['rows']} events, {read['passed']} pass the filter, {read['of_patients']} are of patients with an ECG"
    )
    for reason, text in (
        ("no_time", "have no time that can be read and are left out"),
        ("no_value", "have no value and are left out"),
        ("not_a_number", "have a value that is not a number and are left out"),
        ("bounds", "have a bound such as <0.01 and count where it decides the threshold"),
        ("ranges", "have a range such as 55-60 and count with its middle"),
    ):
        if read[reason]:
            example = f" (such as {events.examples[reason]})" if reason in events.examples else ""
            labels.notes.append(f"{read[reason]} events {text}{example}")
    if (~usable).any():
        labels.notes.append(f"{(~usable).sum()} of {len(usable)} recordings have no patient or no start time")
    labels.notes.append(f"{linked.sum()} of {len(usable)} recordings have an event in the window")
    for name, count in undecided.items():
        if count:
            labels.notes.append(f"{name}: {count} chosen events leave it open (a bound, or no limit)")
