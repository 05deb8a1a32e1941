"""The verification's report: one HTML file that needs nothing else, with what was found and what the recordings are.

All text that comes from files is escaped. The same folder gives the same bytes.
"""

from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, Dict, Iterable, Iterator, List, Mapping, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.data.shards import open_shard, read_counts
from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.files import atomic
from fairseq_signals_ext.leads import LEADS, mask_to_leads
from fairseq_signals_ext.plotting.excerpt import PAPER_SECONDS
from fairseq_signals_ext.preparation.plan import read_plan
from fairseq_signals_ext.preparation.quality import FLAGS, PLAUSIBLE_RECORDING_MV
from fairseq_signals_ext.readers import Recording
from fairseq_signals_ext.verification.checks import Findings, read_compact, read_flags
from fairseq_signals_ext.verification.figures import Axis, distributions, printed_ecg
from fairseq_signals_ext.verification.heart_rate import heart_rate
from fairseq_signals_ext.verification.page import PAGE

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = (
    *("idx", "source", "source_file", "patient", "sample_rate", "samples", "amplitude_mv", "shard", "row"),
    *("leads", "derived_leads", "filled_leads", "constant_leads"),
)
_HEART_RATE_SAMPLE, _HEART_RATE_SECONDS = 500, 60
_MOST_EXAMPLES = 12
_LINES_SHOWN = 20


def write_report(findings: Findings, path: Path) -> None:
    """Write the report on a prepared folder.

    Args:
        findings: of `verify`.
        path: the HTML file.

    Raises:
        UserError: the table lacks a column, or the file cannot be written.
    """
    rate = read_plan(findings.out)[0].settings.processing.rate
    table = read_compact(findings.out, _COLUMNS)
    sources = {str(name): group for name, group in sorted(_by(table, "source"))}
    rates = {name: _heart_rates(findings.out, group) for name, group in sources.items()}
    content = Template(PAGE).substitute(
        title=escape(f"{findings.out.resolve().name}: verification"),
        result=_result(findings),
        checked=_checked(findings),
        totals=_totals(findings, table),
        sources=_source_table(sources, rates, rate),
        distributions=_distributions(sources, rates, rate),
        leads=_lead_tables(sources),
        flags=_flag_table(findings.out, sources, table),
        examples="\n".join(_examples(findings.out, sources)),
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary:
            temporary.write_bytes(content.encode())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; give another --out") from error


def _by(table: "pd.DataFrame", column: str) -> Any:
    return table.groupby(column, sort=False, observed=True)


def _result(findings: Findings) -> str:
    problems, notes = findings.problems, findings.notes
    parts = []
    if problems:
        parts.append(f'<div class="result bad"><strong>{len(problems)} wrong</strong>{_lines(problems)}</div>')
    else:
        parts.append('<div class="result good"><strong>OK</strong> Nothing is wrong.</div>')
    if notes:
        parts.append(f'<div class="result note"><strong>Notes</strong>{_lines(notes)}</div>')
    return "\n".join(parts)


def _lines(lines: Sequence[str]) -> str:
    def items(some: Iterable[str]) -> str:
        return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in some)}</ul>"

    if len(lines) <= _LINES_SHOWN:
        return items(lines)
    rest = lines[_LINES_SHOWN:]
    more = f"<details><summary>{len(rest)} more</summary>{items(rest)}</details>"
    return items(lines[:_LINES_SHOWN]) + more


def _checked(findings: Findings) -> str:
    counts = "the checksum, mean and deviation of every recording's counts"
    lines = [
        f"{findings.shards:,} shard(s) of the plan: complete, with an index that fits counts, plan and table",
        f"not checked (--quick): {counts}" if findings.quick else counts,
        f"{findings.recordings:,} row(s) of the table; every planned item is there or among the rejected",
        f"{findings.manifests:,} manifest(s): each line is a recording, no line twice; train, valid and test are apart",
        f"{findings.labels:,} set(s) of labels: a row for each recording, a column for each label",
    ]
    return "".join(f"<li>{escape(line)}</li>" for line in lines)


def _totals(findings: Findings, table: "pd.DataFrame") -> str:
    files = [findings.out / shard for shard in table["shard"].unique()]
    size = sum(file.stat().st_size for file in files if file.is_file())
    leads = table["leads"].map({text: len(_names(text)) for text in table["leads"].unique()}).astype("int64")
    samples = int((table["samples"] * leads).sum())
    totals = {
        "recordings": f"{len(table):,}",
        "hours": f"{findings.hours:,.2f}",
        "patients known": f"{table['patient'].nunique():,}",
        "sources": f"{table['source'].nunique():,}",
        "shards": f"{findings.shards:,}",
        "in shards": _bytes(size),
        "bytes a sample": f"{size / max(1, samples):.2f}",
    }
    return "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in totals.items())


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"


def _names(leads: Any) -> List[str]:
    return leads.split(",") if isinstance(leads, str) and leads else []


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table; `rows` are cells, each a whole `<td>` or `<th>`."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _source_cell(name: str) -> str:
    return f'<th scope="row">{escape(name)}</th>'


def _source_table(sources: Mapping[str, "pd.DataFrame"], rates: Mapping[str, List[float]], rate: float) -> str:
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
        rows.append([_source_cell(name), *(f"<td>{escape(cell)}</td>" for cell in cells)])
    header = ["source", "recordings", "hours", "patients", "Hz in the source", "length s", "amplitude mV", "heart rate"]
    return _table(header, rows)


def _distributions(sources: Mapping[str, "pd.DataFrame"], rates: Mapping[str, List[float]], rate: float) -> str:
    seconds = {name: group["samples"].to_numpy() / rate for name, group in sources.items()}
    amplitudes = {name: group["amplitude_mv"].to_numpy(float) for name, group in sources.items()}
    looked_at = max((min(len(group), _HEART_RATE_SAMPLE) for group in sources.values()), default=0)
    plausible = "–".join(f"{end:g}" for end in PLAUSIBLE_RECORDING_MV)
    figures = (
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
                Axis("beats a minute", np.linspace(20, 220, 41), (40, 80, 120, 160, 200)),
            ),
        ),
    )
    return "".join(_figure(uri, caption) for caption, uri in figures)


def _length_axis(seconds: Mapping[str, np.ndarray]) -> Axis:
    longest = max(values.max() for values in seconds.values())
    if longest <= 60:
        step = 5 if longest <= 30 else 10
        end = max(15, step * np.ceil((longest + 0.01) / step))
        return Axis("s", np.linspace(0, end, 31), np.arange(0, end + 1, step).tolist())
    ticks = [tick for tick in (1, 10, 60, 600, 3600, 86400) if tick <= 10 * longest]
    return Axis("s", np.geomspace(1, max(ticks[-1], longest), 49), ticks, log=True)


def _figure(uri: str, caption: str) -> str:
    return f'<figure><img src="{uri}" alt="{escape(caption)}"><figcaption>{escape(caption)}</figcaption></figure>'


def _lead_tables(sources: Mapping[str, "pd.DataFrame"]) -> str:
    parts = []
    for what, columns, absent in (
        ("missing", ("leads", "filled_leads"), True),
        ("derived", ("derived_leads",), False),
        ("constant", ("constant_leads",), False),
    ):
        counts = {name: _lead_counts(group, columns, absent) for name, group in sources.items()}
        if not any(count.any() for count in counts.values()):
            parts.append(f"<p>No {what} leads.</p>")
            continue
        rows = [_heat_row(name, counts[name], len(group)) for name, group in sources.items()]
        parts.append(f"<h3>{what.capitalize()} leads, % of recordings</h3>" + _table(["source", *LEADS], rows))
    return "\n".join(parts)


def _lead_counts(group: "pd.DataFrame", columns: Sequence[str], absent: bool) -> np.ndarray:
    """Recordings by lead of `LEADS` that the column names; with `absent`: not in the first, or in the others."""
    counts = np.zeros(len(LEADS), np.int64)
    for number, column in enumerate(columns):
        for text, recordings in group[column].value_counts(dropna=False).items():
            named = np.isin(LEADS, _names(text))
            counts += recordings * (~named if absent and number == 0 else named)
    return counts


def _heat_row(name: str, counts: np.ndarray, total: int) -> List[str]:
    return [_source_cell(name), *(_heat_cell(int(count), total) for count in counts)]


def _heat_cell(count: int, total: int) -> str:
    if not count:
        return '<td class="zero">·</td>'
    share = count / total
    percent = "<0.1" if share < 0.001 else f"{100 * share:.3g}" if share < 0.9995 or count == total else ">99.9"
    colour = f"rgba(196,78,40,{0.1 + 0.6 * share:.2f})"
    return f'<td style="background:{colour}" title="{count:,} of {total:,}">{escape(percent)}</td>'


def _flag_table(out: Path, sources: Mapping[str, "pd.DataFrame"], table: "pd.DataFrame") -> str:
    counts = _flag_counts(out, list(sources), table)
    if not any(count.any() for count in counts.values()):
        return "<p>No recording is flagged.</p>"
    rows = [_heat_row(name, counts[name], len(group)) for name, group in sources.items()]
    present = np.sum(list(counts.values()), axis=0) > 0
    meanings = [f"<dt>{flag}</dt><dd>{escape(FLAGS[flag])}</dd>" for flag, there in zip(FLAGS, present) if there]
    return _table(["source", *FLAGS], rows) + f"<dl>{''.join(meanings)}</dl>"


def _flag_counts(out: Path, names: Sequence[str], table: "pd.DataFrame") -> Dict[str, np.ndarray]:
    """Recordings by source and flag of `FLAGS`."""
    import pandas as pd

    rows, flags = read_flags(out)
    flagged = pd.DataFrame({"source": table["source"].to_numpy()[rows], "flag": flags})
    counts = flagged.groupby(["source", "flag"]).size()
    return {name: np.array([counts.get((name, flag), 0) for flag in FLAGS]) for name in names}


def _signals(out: Path, rows: "pd.DataFrame", seconds: float) -> Iterator[Tuple[Any, float, Dict[int, np.ndarray]]]:
    """Row of the table, Hz, and the first `seconds` of each lead in mV; what cannot be read is left out."""
    for shard, group in _by(rows, "shard"):
        try:
            array, index = open_shard(out / str(shard))
        except UserError:  # one of the problems that the report names
            continue
        for row in group[(group["row"] >= 0) & (group["row"] < len(index))].itertuples():
            counts, entry = read_counts(array, index, row.row), index[row.row]
            if counts is None or not counts.size:
                continue
            counts = counts[:, : max(1, int(seconds * entry["sample_rate"]))]
            leads = list(mask_to_leads(int(entry["leads"])))
            signal = (counts - entry["zero"][leads, None]) * entry["scale"][leads, None]
            if np.isfinite(signal).all():
                yield row, float(entry["sample_rate"]), dict(zip(leads, signal))


def _heart_rates(out: Path, group: "pd.DataFrame") -> List[float]:
    """Beats a minute of evenly spread recordings, from lead II, or the first that is there."""
    chosen = np.unique(np.linspace(0, len(group) - 1, min(len(group), _HEART_RATE_SAMPLE)).astype(int))
    found = [
        heart_rate(signal.get(LEADS.index("II"), next(iter(signal.values()))), rate)
        for _, rate, signal in _signals(out, group.iloc[chosen], _HEART_RATE_SECONDS)
    ]
    return [one for one in found if one is not None]


def _examples(out: Path, sources: Mapping[str, "pd.DataFrame"]) -> Iterator[str]:
    """A figure of the middle recording of each source."""
    record_ids = read_compact(out, ["record_id"])["record_id"]
    for name in list(sources)[:_MOST_EXAMPLES]:
        group = sources[name]
        middle = group.iloc[[len(group) // 2]]
        for row, rate, signal in _signals(out, middle, PAPER_SECONDS):
            recording = _recording(row, rate, signal)
            if not recording.leads:  # only in a damaged table
                continue
            notes = dict.fromkeys(_names(row.constant_leads), "constant")
            caption = f"{name}: {record_ids[row.Index]} ({row.source_file}, idx {row.idx})"
            yield _figure(printed_ecg(recording, notes), caption)
    if len(sources) > _MOST_EXAMPLES:
        yield f"<p>{len(sources) - _MOST_EXAMPLES} more sources are not shown here.</p>"


def _recording(row: Any, rate: float, signal: Mapping[int, np.ndarray]) -> Recording:
    """What was recorded: without leads that preparation filled with zeros."""
    filled, derived = ({LEADS.index(lead) for lead in _names(names)} for names in (row.filled_leads, row.derived_leads))
    leads = tuple(lead for lead in signal if lead not in filled)
    physical = np.array([signal[lead] for lead in leads])
    return Recording(str(row.idx), physical, leads, rate, derived=tuple(sorted(derived.intersection(leads))))
