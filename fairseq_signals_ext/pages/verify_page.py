"""The page of `verify`: one self-contained HTML file with the problems and statistics of the recordings.

The same folder gives the same bytes.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.common.values import as_size
from fairseq_signals_ext.labelling.from_reports import STATUSES
from fairseq_signals_ext.pages.rendering import render_page, write_page
from fairseq_signals_ext.pages.verify_figures import (
    HEART_RATE_SAMPLE,
    Axis,
    distributions,
    examples,
    heart_rates,
    names_of,
    printed_ecg,
)
from fairseq_signals_ext.prepared.plan import read_plan
from fairseq_signals_ext.prepared.quality import FLAGS, PLAUSIBLE_RECORDING_MV
from fairseq_signals_ext.prepared.verify import Findings, read_compact, read_flags

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = (
    *("idx", "source", "source_file", "patient", "sample_rate", "samples", "amplitude_mv", "shard", "row"),
    *("leads", "derived_leads", "filled_leads", "constant_leads"),
)
_SOURCE_COLUMNS = (
    *("source", "recordings", "hours", "patients", "Hz in the source", "length s", "amplitude mV", "heart rate"),
)
# for each table of leads: name, columns with names of leads, and whether it counts the leads that are not named
_LEAD_COLUMNS = (
    ("missing", ("leads", "filled_leads"), True),
    ("derived", ("derived_leads",), False),
    ("constant", ("constant_leads",), False),
)
_MOST_EXAMPLES = 12
_LINES_SHOWN = 20


class _Share(NamedTuple):
    """The share of a source's recordings with a property."""

    recordings: int
    total: int

    @property
    def percent(self) -> str:
        """In %; only exactly all is shown as 100, and only none as 0."""
        share = self.recordings / self.total
        if share < 0.001:
            return "<0.1"
        return f"{100 * share:.3g}" if share < 0.9995 or self.recordings == self.total else ">99.9"

    @property
    def in_words(self) -> str:
        return f"{self.recordings:,} of {self.total:,}"


class _Shares(NamedTuple):
    """Shares by source and property: names of the properties; name of each source with its shares."""

    header: List[str]
    rows: List[Tuple[str, List[_Share]]]


def write_verify_page(findings: Findings, path: Path) -> None:
    """Write the page on a prepared folder.

    Args:
        findings: of `verify`.
        path: the HTML file.

    Raises:
        UserError: a column is missing from the table, or the file cannot be written.
    """
    page = verify_page(findings)
    try:
        write_page(path, page)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; give another --out") from error


def verify_page(findings: Findings) -> str:
    """The page on a prepared folder.

    Raises:
        UserError: a column is missing from the table.
    """
    out = findings.out
    rate = read_plan(out)[0].settings.processing.rate
    table = read_compact(out, _COLUMNS)
    sources = {str(name): group for name, group in sorted(table.groupby("source", sort=False, observed=True))}
    rates = {name: heart_rates(out, group) for name, group in sources.items()}
    shown = dict(list(sources.items())[:_MOST_EXAMPLES])
    flags = _flag_counts(out, list(sources), table)
    present = np.sum(list(flags.values()), axis=0) > 0
    return render_page(
        "verify.html.j2",
        title=f"{out.resolve().name}: verification",
        problems=findings.problems,
        remarks=findings.notes,
        lines_shown=_LINES_SHOWN,
        checked=_checked(findings),
        totals=_totals(findings, table),
        source_header=_SOURCE_COLUMNS,
        source_rows=_source_rows(sources, rates, rate),
        distributions=_distributions(sources, rates, rate),
        leads=list(_lead_shares(sources)),
        report_labels=list(_report_labels(out)),
        statuses=STATUSES,
        flags=_shares(FLAGS, flags, sources),
        flag_meanings=[(flag, FLAGS[flag]) for flag, there in zip(FLAGS, present) if there],
        examples=[(one.caption, printed_ecg(one.recording, one.notes)) for one in examples(out, shown)],
        more_sources=len(sources) - len(shown),
    )


def _checked(findings: Findings) -> List[str]:
    counts = "the checksum, mean and deviation of every recording's counts"
    return [
        f"{findings.shards:,} shard(s) of the plan: complete, with an index that fits counts, plan and table",
        f"not checked (--quick): {counts}" if findings.quick else counts,
        f"{findings.recordings:,} row(s) of the table; every planned item is there or among the rejected",
        f"{findings.manifests:,} manifest(s): each line a recording, none twice; train, valid and test do not overlap",
        f"{findings.labels:,} set(s) of labels: a row for each recording, a column for each label",
    ]


class _ReportLabels(NamedTuple):
    """Labels from reports: name of the folder, a sentence, rows of the table, statements that were not understood."""

    name: str
    about: str
    rows: List[Tuple[str, List[str]]]
    unmatched: List[str]


def _report_labels(out: Path) -> Iterator[_ReportLabels]:
    """Counts of each set of labels made from reports; unreadable ones are skipped, as they are among the problems."""
    for path in sorted((out / "labels").glob("*/label.json")):
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            counts, settings = told["counts"], told["settings"]
            if "findings" not in counts:
                continue
            about = (
                f"{counts['recordings'] - counts['without_report']:,} reports, {settings['semantics']} semantics; "
                f"{counts['statements_not_understood']:,} of {counts['statements']:,} statements were not understood"
            )
            of_label = counts["findings"]
            rows = [(name, [f"{of_label[name][status]:,}" for status in STATUSES]) for name in told["labels"]]
            frequent = sorted(counts["most_frequent_not_understood"].items(), key=lambda item: (-item[1], item[0]))
            unmatched = [f"{text} ({count:,})" for text, count in frequent]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        yield _ReportLabels(path.parent.name, about, rows, unmatched)


def _totals(findings: Findings, table: "pd.DataFrame") -> List[Tuple[str, str]]:
    files = [findings.out / shard for shard in table["shard"].unique()]
    size = sum(file.stat().st_size for file in files if file.is_file())
    leads = table["leads"].map({text: len(names_of(text)) for text in table["leads"].unique()}).astype("int64")
    samples = int((table["samples"] * leads).sum())
    return [
        ("recordings", f"{len(table):,}"),
        ("hours", f"{findings.hours:,.2f}"),
        ("patients known", f"{table['patient'].nunique():,}"),
        ("sources", f"{table['source'].nunique():,}"),
        ("shards", f"{findings.shards:,}"),
        ("in shards", as_size(size)),
        ("bytes per sample", f"{size / max(1, samples):.2f}"),
    ]


def _source_rows(
    sources: Mapping[str, "pd.DataFrame"], rates: Mapping[str, List[float]], rate: float
) -> List[Tuple[str, List[str]]]:
    """Name of each source, and the other cells of its row."""
    rows = []
    for name, group in sources.items():
        hz = group["sample_rate"].value_counts().sort_index()
        cells = [
            f"{len(group):,}",
            f"{group['samples'].sum() / rate / 3600:,.2f}",
            f"{group['patient'].nunique():,}" if group["patient"].notna().any() else "unknown",
            ", ".join(f"{key:g}" if len(hz) == 1 else f"{key:g} ({count:,})" for key, count in hz.items()),
            f"{group['samples'].median() / rate:.3g}",
            f"{group['amplitude_mv'].median():.3g}",
            f"{np.median(rates[name]):.0f} ({len(rates[name]):,})" if rates[name] else "none",
        ]
        rows.append((name, cells))
    return rows


def _distributions(
    sources: Mapping[str, "pd.DataFrame"], rates: Mapping[str, List[float]], rate: float
) -> List[Tuple[str, str]]:
    """Captions and figures of the distributions."""
    seconds = {name: group["samples"].to_numpy() / rate for name, group in sources.items()}
    amplitudes = {name: group["amplitude_mv"].to_numpy(float) for name, group in sources.items()}
    looked_at = max((min(len(group), HEART_RATE_SAMPLE) for group in sources.values()), default=0)
    plausible = "–".join(f"{end:g}" for end in PLAUSIBLE_RECORDING_MV)
    return [
        (
            f"Amplitude: largest minus smallest value, median over the leads. Green: plausible, {plausible} mV.",
            distributions(
                amplitudes,
                Axis("mV", np.geomspace(0.01, 100, 49), (0.01, 0.1, 1, 10, 100), PLAUSIBLE_RECORDING_MV, log=True),
            ),
        ),
        ("Length of the recordings.", distributions(seconds, _length_axis(seconds))),
        (
            f"Heart rate in lead II, estimated from up to {looked_at} recordings of each source, evenly spread.",
            distributions(
                {name: np.array(found) for name, found in rates.items()},
                Axis("beats per minute", np.linspace(20, 220, 41), (40, 80, 120, 160, 200)),
            ),
        ),
    ]


def _length_axis(seconds: Mapping[str, np.ndarray]) -> Axis:
    longest = max(values.max() for values in seconds.values())
    if longest <= 60:
        step = 5 if longest <= 30 else 10
        end = max(15, step * np.ceil((longest + 0.01) / step))
        return Axis("s", np.linspace(0, end, 31), np.arange(0, end + 1, step).tolist())
    ticks = [tick for tick in (1, 10, 60, 600, 3600, 86400) if tick <= 10 * longest]
    return Axis("s", np.geomspace(1, max(ticks[-1], longest), 49), ticks, log=True)


def _lead_shares(sources: Mapping[str, "pd.DataFrame"]) -> Iterator[Tuple[str, Optional[_Shares]]]:
    """Tables of leads: name and shares of recordings."""
    for what, columns, absent in _LEAD_COLUMNS:
        counts = {name: _lead_counts(group, columns, absent) for name, group in sources.items()}
        yield what, _shares(LEADS, counts, sources)


def _shares(
    kinds: Iterable[str], counts: Mapping[str, np.ndarray], sources: Mapping[str, "pd.DataFrame"]
) -> Optional[_Shares]:
    """Shares for a table; None if all are zero."""
    if not any(count.any() for count in counts.values()):
        return None
    rows = [(name, [_Share(int(count), len(group)) for count in counts[name]]) for name, group in sources.items()]
    return _Shares(list(kinds), rows)


def _lead_counts(group: "pd.DataFrame", columns: Sequence[str], absent: bool) -> np.ndarray:
    """Recordings per lead of `LEADS` in the columns; with `absent`: missing from the first or in the others."""
    counts = np.zeros(len(LEADS), np.int64)
    for number, column in enumerate(columns):
        for text, recordings in group[column].value_counts(dropna=False).items():
            named = np.isin(LEADS, names_of(text))
            counts += recordings * (~named if absent and number == 0 else named)
    return counts


def _flag_counts(out: Path, names: Sequence[str], table: "pd.DataFrame") -> Dict[str, np.ndarray]:
    """Number of recordings by source and flag of `FLAGS`."""
    import pandas as pd

    rows, flags = read_flags(out)
    flagged = pd.DataFrame({"source": table["source"].to_numpy()[rows], "flag": flags})
    counts = flagged.groupby(["source", "flag"]).size()
    return {name: np.array([counts.get((name, flag), 0) for flag in FLAGS]) for name in names}
