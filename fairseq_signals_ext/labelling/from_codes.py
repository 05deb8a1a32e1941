"""Labels from the recordings' diagnostic codes."""

from pathlib import Path
from typing import TYPE_CHECKING, Dict, Optional, Sequence, Union

import numpy as np

from fairseq_signals_ext.labelling.code_maps import CodeMap
from fairseq_signals_ext.labelling.labels import Labels, in_sources
from fairseq_signals_ext.preparation.table import read_table

if TYPE_CHECKING:
    import pandas as pd

_SMALLEST_SHARE = 0.5  # of a source's codes that are of the map's vocabulary
_LISTED = 10  # codes that the map does not know, in messages


def labels_from_codes(
    out: Union[str, Path],
    code_map: CodeMap,
    *,
    sources: Optional[Sequence[str]] = None,
    min_likelihood: float = 0.0,
    no_codes_are_negative: bool = False,
) -> Labels:
    """Labels from the recordings' diagnostic codes (column `codes` of the table).

    A recording with codes has every label of the map, 1 or 0. One without any code is unlabelled, and so are those of
    a source whose codes are of another vocabulary than the map's, unless it is named in `sources`.

    Args:
        out: prepared folder.
        sources: only their recordings are labelled.
        min_likelihood: %; codes with a smaller likelihood do not count, those without any always do. PTB-XL writes 0
            for "unknown", and does so for all statements on form and rhythm.
        no_codes_are_negative: a recording without codes has no label of the map, rather than being unlabelled.

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
    column = {label: number for number, label in enumerate(code_map.labels)}
    for code, recordings in codes[~unlikely].groupby("code")["recording"]:
        for label in code_map[code]:
            values[recordings, column[label]] = 1
    labels = Labels(list(code_map.labels), table["idx"].to_numpy(np.int64), values)
    for code, made in code_map.labels_of.items():
        for label in made:
            labels.codes.setdefault(label, []).append(code)
    labels.settings = {"code_map": code_map.name, "min_likelihood": min_likelihood, "sources": sources}
    labels.settings["no_codes_are_negative"] = no_codes_are_negative
    labels.counts["other_vocabulary"] = {source: int((table["source"] == source).sum()) for source in foreign}
    for source, example in foreign.items():
        labels.notes.append(
            f"source {source!r} has codes of another vocabulary, such as {example}: its "
            f"{labels.counts['other_vocabulary'][source]} recordings are unlabelled; label them by a map for it"
        )
    _count_codes(labels, codes, code_map, int(inside.sum()), int(unlikely.sum()))
    return labels


def _foreign_sources(source: "pd.Series", codes: "pd.DataFrame", code_map: CodeMap) -> Dict[str, str]:
    """Sources whose codes are of another vocabulary than the map's, and an example of these."""
    spoken = {code: code_map.speaks(code) for code in codes["code"].unique()}
    known = codes["code"].map(spoken).astype(bool)
    share = known.groupby(source.to_numpy()[codes["recording"]]).mean()
    # a map of somebody's own may leave out most codes of a vocabulary that it does not list
    foreign = share.index[share < _SMALLEST_SHARE] if code_map.knows_its_vocabulary else share.index[share == 0]
    return {name: codes["code"][~known & (source.to_numpy()[codes["recording"]] == name)].iloc[0] for name in foreign}


def _codes(lists: "pd.Series") -> "pd.DataFrame":
    """A row a code of a recording: recording (row of the table), code, likelihood (NaN where there is none)."""
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
