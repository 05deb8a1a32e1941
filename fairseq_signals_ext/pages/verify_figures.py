"""Figures of the verification's page, as data URIs: counts, heart rates, and a recording of each source."""

import base64
import contextlib
import io
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.leads import LEADS, mask_to_leads
from fairseq_signals_ext.common.palette import PALETTE, PLOT_STYLE
from fairseq_signals_ext.data.shards import open_shard, read_counts
from fairseq_signals_ext.pages.ecg_paper import draw_ecg
from fairseq_signals_ext.pages.excerpt import PAPER_SECONDS
from fairseq_signals_ext.prepared.verify import read_compact
from fairseq_signals_ext.readers import Recording

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure

_STYLE = {**PLOT_STYLE, "svg.hashsalt": "verify", "font.size": 8}
_LONGEST_NAME = 22
# five pixels per mm, so that all lines of the mm grid are equally thick
_PNG_DPI, _PNG_COLOURS = 127, 64
# largest number of recordings per source for heart rates, and s of each
HEART_RATE_SAMPLE, _HEART_RATE_SECONDS = 500, 60
# QRS complexes have most of their energy here (Hz); as in Pan and Tompkins 1985, doi:10.1109/TBME.1985.325532
_QRS_HZ = (5.0, 20.0)
_QRS_SECONDS, _REFRACTORY_SECONDS = 0.1, 0.25
_FEWEST_BEATS = 3


class Axis(NamedTuple):
    """The axis of a histogram.

    Attributes:
        label: quantity and unit.
        edges: of the bins; values beyond them count in the outermost.
        ticks: positions of numbers.
        plausible: range that is marked.
        log: logarithmic.
    """

    label: str
    edges: np.ndarray
    ticks: Sequence[float]
    plausible: Optional[Tuple[float, float]] = None
    log: bool = False


@contextlib.contextmanager
def _figure(width: float, height: float) -> Iterator["Figure"]:
    """An empty figure, in inches."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def _data_uri(content: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def distributions(values: Mapping[str, np.ndarray], axis: Axis) -> str:
    """Draw histograms below each other, a row per source, with the median as a line and a number.

    Args:
        values: of the recordings, by source.
    """
    with _figure(3.9, 0.75 + 0.36 * len(values)) as figure:
        axes = figure.subplots()
        if axis.plausible:
            axes.axvspan(*axis.plausible, color=PALETTE.plausible, linewidth=0)
        for row, numbers in enumerate(values.values()):
            _draw_row(axes, len(values) - 1 - row, numbers, axis.edges)
        axes.set(xlabel=axis.label, xlim=(axis.edges[0], axis.edges[-1]), ylim=(-0.15, len(values)))
        axes.set_xscale("log" if axis.log else "linear")
        axes.set_xticks(axis.ticks, [f"{tick:g}" for tick in axis.ticks])
        axes.set_xticks([], minor=True)
        axes.set_yticks([len(values) - 0.7 - row for row in range(len(values))], [_short(name) for name in values])
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "left", "right"]].set_visible(False)
        content = io.BytesIO()
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
        return _data_uri(content.getvalue(), "image/svg+xml")


def _draw_row(axes: Any, base: float, numbers: np.ndarray, edges: np.ndarray) -> None:
    numbers = numbers[np.isfinite(numbers)]
    axes.axhline(base, color=PALETTE.rule, linewidth=0.6)
    end = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 7.5}
    if not len(numbers):
        axes.text(1.02, base + 0.3, "none", **end)
        return
    counts, _ = np.histogram(np.clip(numbers, edges[0], edges[-1]), edges)
    axes.stairs(base + 0.8 * counts / counts.max(), edges, baseline=base, fill=True, color=PALETTE.accent, alpha=0.75)
    median = float(np.median(numbers))
    axes.plot(np.clip([median, median], edges[0], edges[-1]), [base, base + 0.85], color=PALETTE.ink, linewidth=1.2)
    axes.text(1.02, base + 0.3, f"{median:.3g}", **end)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def printed_ecg(recording: Recording, notes: Mapping[str, str]) -> str:
    """Draw the first ten seconds of a recording on ECG paper.

    Args:
        notes: text beside the name of a lead, such as "constant".
    """
    from PIL import Image

    drawn, content = io.BytesIO(), io.BytesIO()
    draw_ecg(recording, notes=notes).savefig(drawn, format="png", dpi=_PNG_DPI)
    # a grid and a trace need few colours; this makes the file four times smaller
    Image.open(drawn).convert("RGB").quantize(_PNG_COLOURS).save(content, format="png", optimize=True)
    return _data_uri(content.getvalue(), "image/png")


class Example(NamedTuple):
    """An example recording of a source.

    Attributes:
        caption: source, record id, file and idx.
        recording: its first seconds, without leads that `prepare` filled with zeros.
        notes: text beside the name of a lead.
    """

    caption: str
    recording: Recording
    notes: Mapping[str, str]


def names_of(leads: Any) -> List[str]:
    """Names of leads in a cell of the table; the cell can be empty."""
    return leads.split(",") if isinstance(leads, str) and leads else []


def heart_rate(signal: np.ndarray, rate: float) -> Optional[float]:
    """Beats per minute, from the median distance of R peaks; None for fewer than three peaks.

    R peaks are peaks of the energy in the band of QRS complexes, averaged over the length of one.

    Args:
        signal: one lead, samples, in any unit.
        rate: Hz.
    """
    from scipy.ndimage import uniform_filter1d
    from scipy.signal import butter, find_peaks, sosfiltfilt

    too_short = len(signal) < _FEWEST_BEATS * _REFRACTORY_SECONDS * rate
    if rate <= 2.5 * _QRS_HZ[1] or too_short or np.ptp(signal) == 0:
        return None
    band = sosfiltfilt(butter(2, _QRS_HZ, "bandpass", fs=rate, output="sos"), signal)
    energy = uniform_filter1d(band**2, max(1, round(_QRS_SECONDS * rate)))
    # a fraction of the energy of the strongest complexes: above T waves and noise, below a small R peak
    threshold = 0.25 * np.percentile(energy, 98)
    peaks, _ = find_peaks(energy, height=threshold, distance=max(1, round(_REFRACTORY_SECONDS * rate)))
    if len(peaks) < _FEWEST_BEATS:
        return None
    return float(60 * rate / np.median(np.diff(peaks)))


def _signals(out: "Path", rows: "pd.DataFrame", seconds: float) -> Iterator[Tuple[Any, float, Dict[int, np.ndarray]]]:
    """Yield a row of the table, Hz, and the first `seconds` of each lead in mV; unreadable recordings are skipped."""
    for shard, group in rows.groupby("shard", sort=False, observed=True):
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


def heart_rates(out: "Path", group: "pd.DataFrame") -> List[float]:
    """Beats per minute of evenly spread recordings, from lead II, or the first available lead."""
    chosen = np.unique(np.linspace(0, len(group) - 1, min(len(group), HEART_RATE_SAMPLE)).astype(int))
    found = [
        heart_rate(signal.get(LEADS.index("II"), next(iter(signal.values()))), rate)
        for _, rate, signal in _signals(out, group.iloc[chosen], _HEART_RATE_SECONDS)
    ]
    return [one for one in found if one is not None]


def examples(out: "Path", sources: Mapping[str, "pd.DataFrame"]) -> Iterator[Example]:
    """The middle one of each source's readable recordings."""
    record_ids = read_compact(out, ["record_id"])["record_id"]
    for name, group in sources.items():
        middle = group.iloc[[len(group) // 2]]
        for row, rate, signal in _signals(out, middle, PAPER_SECONDS):
            recording = _recording(row, rate, signal)
            if not recording.leads:  # only in a damaged table
                continue
            notes = dict.fromkeys(names_of(row.constant_leads), "constant")
            yield Example(f"{name}: {record_ids[row.Index]} ({row.source_file}, idx {row.idx})", recording, notes)


def _recording(row: Any, rate: float, signal: Mapping[int, np.ndarray]) -> Recording:
    filled, derived = (
        {LEADS.index(lead) for lead in names_of(names)} for names in (row.filled_leads, row.derived_leads)
    )
    leads = tuple(lead for lead in signal if lead not in filled)
    physical = np.array([signal[lead] for lead in leads])
    return Recording(str(row.idx), physical, leads, rate, derived=tuple(sorted(derived.intersection(leads))))
