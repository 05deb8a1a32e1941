"""Draw an ECG on ECG paper, true to scale: 25 mm/s and 10 mm/mV.

This uses matplotlib directly: `plot_12lead` of ecgdatakit, our library for files, is not true to scale and cannot draw
saliency.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from fairseq_signals_ext.analysis.saliency import Saliency
from fairseq_signals_ext.common.leads import LEADS, lead_index
from fairseq_signals_ext.common.palette import PALETTE
from fairseq_signals_ext.inference.recordings import FileOrRecording, recording_of
from fairseq_signals_ext.pages import figures
from fairseq_signals_ext.pages.ecg_layout import (
    MM_A_MILLIVOLT,
    MM_A_SECOND,
    MOST_MILLIVOLTS,
    Row,
    Trace,
    arrange,
    moved_together,
    overlap,
)
from fairseq_signals_ext.pages.excerpt import PAPER_SECONDS, Excerpt, cut_excerpt
from fairseq_signals_ext.pages.saliency_bands import LEVELS, UNKNOWN, bands, by_level, drawn_values
from fairseq_signals_ext.readers import Recording

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# opacity of the highest saliency
_DENSEST = 0.6
# mm: margins around the paper, and room on it for the calibration pulse before the traces
_SIDE, _TOP, _BOTTOM, _PULSE = 2.5, 9.0, 12.0, 15.0
_PAPER = _PULSE + MM_A_SECOND * PAPER_SECONDS
# 1 mV for 0.2 s, with its ends (s, mV)
_PULSE_SHAPE = np.array([(0, 0), (0.1, 0), (0.1, 1), (0.3, 1), (0.3, 0), (0.4, 0)])
# font sizes in points
_NAME, _NOTE, _SMALL, _TITLE = 9.0, 6.0, 7.0, 11.0
_CLIPPED = f"Red: beyond {MOST_MILLIVOLTS:g} mV, clipped."
_CLIPPED_AT_EDGE = f"Red: beyond {MOST_MILLIVOLTS:g} mV or the paper, clipped."
_LAYERS = {"paper": 0, "saliency": 1, "grid": 2, "separator": 3, "trace": 4, "text": 5}


class _Page(NamedTuple):
    """The axes to draw on, and the places of rows.

    Attributes:
        axes: of matplotlib; one unit is 1 mm, from the lower left corner of the picture.
        rows: from top to bottom.
        baselines: heights of the rows' baselines.
        top, bottom: of the paper.
    """

    axes: Any
    rows: Sequence[Row]
    baselines: Sequence[float]
    top: float
    bottom: float

    @property
    def placed(self) -> List[Tuple[float, Row]]:
        """The rows with their baselines."""
        return list(zip(self.baselines, self.rows))


def draw_ecg(
    recording: FileOrRecording,
    saliency: Union[None, Saliency, np.ndarray] = None,
    *,
    start: float = 0.0,
    layout: str = "3x4",
    rhythm_leads: Sequence[str] = ("II",),
    title: str = "",
    notes: Mapping[str, str] = {},
    most_height: Optional[float] = None,
) -> "Figure":
    """Draw ten seconds of a recording in a clinical format: 270 mm wide, 25 mm/s, 10 mm/mV, without filters.

    `"3x4"`: four columns of 2.5 s, each continuing the one before, and rhythm strips of the whole time below. For a
    recording under 10 s, each column has a quarter of it; one of up to 2.5 s is shown whole in each column; the paper
    has the same width. `"12x1"`: every lead over the whole time, one below the other. The median of a lead's ten
    seconds is on the baseline of its row. Rows are as far apart as the traces need, so the height varies; with
    `most_height` they come closer if necessary, as on an ECG machine's paper, and a note at the bottom tells if traces
    of different rows cross. Values over 10 mV from the median are clipped at the edge of their row, in red and with a
    note. Above 1000 Hz only the lowest and highest values of every few samples are drawn.

    Args:
        recording: a file or a `Recording`; missing leads have an empty box with "not recorded"; NaN samples are gaps.
        saliency: from `explain`; or leads x samples, or samples with the same values for all leads, at the recording's
            own samples, 0 or more, NaN: unknown. The colour starts at the lowest value of the whole recording and is
            scaled by the highest, so a map that is nearly constant stays pale.
        start: s, start of the ten seconds.
        layout: `"3x4"` or `"12x1"`.
        rhythm_leads: strips below the 3 x 4; if none of them was recorded, the recording's first lead.
        title: one line at the top.
        notes: text beside the name of a lead, such as `{"V1": "constant"}`. Derived leads have their own note.
        most_height: mm, of the picture, 91 or more for one rhythm strip. Traces that need more height even with
            baselines 15 mm apart are clipped at the edge of the paper, in red and with a note.

    Returns:
        The figure, for `save_figure` and `svg_text`; it is not registered with pyplot, so it need not be closed.

    Raises:
        UserError: the file cannot be read, `start` is outside the recording, the saliency does not fit, or a layout or
            lead is unknown.

    Examples:
        >>> import fairseq_signals_ext
        >>> fairseq_signals_ext.draw_ecg("ecgs/one.hea", title="one").savefig("one.png")
        >>> model = fairseq_signals_ext.load("checkpoint_best.pt")
        >>> saliency = fairseq_signals_ext.explain(model, "ecgs/one.hea")
        >>> picture = fairseq_signals_ext.draw_ecg("ecgs/one.hea", saliency)
    """
    recording = recording_of(recording)[1]
    values = drawn_values(saliency, recording) if isinstance(saliency, Saliency) else saliency
    excerpt = cut_excerpt(recording, values, start)
    names = _names(recording, notes)
    widths = [_name_width(*name) for name in names]
    rows = arrange(excerpt, layout, rhythm_leads, widths)
    warning = _CLIPPED
    if most_height is not None and _height(rows) > most_height:
        rows, warning = moved_together(rows, most_height - _TOP - _BOTTOM, widths), _CLIPPED_AT_EDGE
    page = _page(rows, title, warning)
    _draw_grid(page)
    _draw_time(page, start, excerpt.seconds)
    for number, (baseline, row) in enumerate(page.placed):
        _draw_row(page.axes, baseline, row, names, f"row-{number}")
    if values is not None:
        _draw_saliency(page, excerpt, values)
    _write_facts(page, recording, start)
    return page.axes.figure


def draw_saliency(saliency: Saliency, recording: Recording, path: Path, title: str) -> None:
    """Draw a recording with the map under its traces: ten seconds around the map's peak, or all of a shorter one.

    Maps with different values per lead are drawn as 12 x 1; others as 3 x 4.

    Raises:
        UserError: the picture cannot be written.
    """
    latest = max(0.0, recording.samples / recording.sample_rate - PAPER_SECONDS)
    start = min(max(0.0, saliency.peak[1] - PAPER_SECONDS / 2), latest)
    layout = "12x1" if saliency.leads else "3x4"
    figures.save_figure(draw_ecg(recording, saliency, start=start, layout=layout, title=title), path)


def _names(recording: Recording, notes: Mapping[str, str]) -> List[Tuple[str, str]]:
    """Name and note of each lead in `LEADS`."""
    texts = {lead: "derived" for lead in recording.derived}
    texts.update({lead_index(name): figures.cleaned(note) for name, note in notes.items()})
    absent = set(range(len(LEADS))) - set(recording.leads)
    return [(name, "" if lead in absent else texts.get(lead, "")) for lead, name in enumerate(LEADS)]


def _name_width(name: str, note: str) -> float:
    return figures.width(f"{name} ", _NAME, "bold") + figures.width(note, _NOTE) + 1.5


def _height(rows: Sequence[Row]) -> float:
    return _TOP + sum(row.above + row.below for row in rows) + _BOTTOM


def _page(rows: Sequence[Row], title: str, warning: str) -> _Page:
    """A picture in true size with only the title, and the warning if anything is clipped."""
    from matplotlib.figure import Figure

    width, height = _PAPER + 2 * _SIDE, _height(rows)
    figure = Figure(figsize=(width / 25.4, height / 25.4), facecolor="white", layout=None)
    heading = figures.cleaned(title)
    figure.set_label(f"ECG: {heading}" if heading else "ECG")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height), autoscale_on=False)
    axes.set_axis_off()
    at, room = height - 0.55 * _TOP, _PAPER
    if any(trace.beyond is not None for row in rows for trace in row.traces):
        room -= figures.width(warning, _SMALL, "bold") + 5
        style = figures.style(_SMALL, "bold")
        axes.text(_SIDE + _PAPER, at, warning, va="center", ha="right", color=PALETTE.warning, **style)
    shown = figures.fitting(heading, room, _TITLE, "bold")
    axes.text(_SIDE, at, shown, va="center", color=PALETTE.ink, **figures.style(_TITLE, "bold"))
    baselines, top = [], height - _TOP
    for row in rows:
        baselines.append(top - row.above)
        top -= row.above + row.below
    return _Page(axes, rows, baselines, height - _TOP, top)


def _add_lines(axes: Any, lines: np.ndarray, layer: str, **how: Any) -> None:
    """Draw lines (lines x points x 2, mm) as one path, which makes much smaller files than one path each."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    count, points, _ = lines.shape
    codes = np.tile([Path.MOVETO, *[Path.LINETO] * (points - 1)], count)
    path = Path(lines.reshape(-1, 2), codes)
    path.should_simplify = False
    axes.add_patch(PathPatch(path, zorder=_LAYERS[layer], **how))


def _draw_grid(page: _Page) -> None:
    """Draw a line per mm, and a thicker one per 5 mm."""
    left, right = _SIDE, _SIDE + _PAPER
    for distance, colour, thickness in ((1, PALETTE.grid_thin, 0.35), (5, PALETTE.grid_thick, 0.6)):
        x = np.arange(left, right + 0.5, distance)
        y = np.arange(page.bottom, page.top + 0.5, distance)
        upright = np.stack([np.stack([x, 0 * x + page.bottom], 1), np.stack([x, 0 * x + page.top], 1)], 1)
        level = np.stack([np.stack([0 * y + left, y], 1), np.stack([0 * y + right, y], 1)], 1)
        lines = np.concatenate([upright, level])
        _add_lines(page.axes, lines, "grid", fill=False, edgecolor=colour, linewidth=thickness, gid=f"grid-{distance}")


def _draw_time(page: _Page, start: float, seconds: float) -> None:
    """Write seconds of the recording below the paper."""
    for second in range(int(seconds + 1e-6) + 1):
        label = f"{start + second:.10g}" + (" s" if second == 0 else "")
        at = (_SIDE + _PULSE + MM_A_SECOND * second, page.bottom - 0.8)
        align = "right" if second == PAPER_SECONDS else "left" if second == 0 else "center"
        page.axes.text(*at, label, va="top", ha=align, color=PALETTE.muted, **figures.style(_NOTE))


def _draw_row(axes: Any, baseline: float, row: Row, names: Sequence[Tuple[str, str]], gid: str) -> None:
    """Draw calibration pulse, traces with their names, and lines between leads."""
    pulse = _PULSE_SHAPE * (MM_A_SECOND, MM_A_MILLIVOLT) + (_SIDE + 1, baseline)
    _draw_line(axes, pulse, f"{gid}-calibration")
    for number, trace in enumerate(row.traces):
        left = _SIDE + _PULSE + MM_A_SECOND * trace.cell.left
        _write_name(axes, left, baseline + trace.name, trace, names[trace.cell.lead])
        if len(trace.x):
            _draw_trace(axes, (_SIDE + _PULSE, baseline), trace, f"{gid}-{LEADS[trace.cell.lead]}")
        else:
            style = figures.style(_SMALL)
            axes.text(
                left + 1, baseline, "not recorded", va="center", color=PALETTE.muted, zorder=_LAYERS["text"], **style
            )
        if number:
            ends = np.array([[(left, baseline - row.below + 1), (left, baseline + row.above - 1)]])
            _add_lines(
                axes, ends, "separator", fill=False, edgecolor=PALETTE.muted, linewidth=0.5, linestyle=(0, (3, 2))
            )


def _draw_trace(axes: Any, at: Tuple[float, float], trace: Trace, gid: str) -> None:
    points = np.column_stack([trace.x, trace.y]) + at
    _draw_line(axes, points, gid)
    if trace.beyond is not None:
        points[~trace.beyond] = np.nan
        _draw_line(axes, points, f"{gid}-clipped", PALETTE.warning, 2.0)


def _draw_line(axes: Any, points: np.ndarray, gid: str, colour: str = PALETTE.ink, thickness: float = 0.8) -> None:
    how = {"color": colour, "zorder": _LAYERS["trace"]}
    axes.plot(*points.T, linewidth=thickness, solid_joinstyle="round", solid_capstyle="round", gid=gid, **how)
    # a line cannot show a single sample between two gaps
    known = np.concatenate([[False], np.isfinite(points[:, 1]), [False]])
    alone = points[known[1:-1] & ~known[:-2] & ~known[2:]]
    if len(alone):
        axes.plot(*alone.T, linestyle="none", marker=".", markersize=2.5 * thickness, markeredgewidth=0, **how)


def _write_name(axes: Any, left: float, bottom: float, trace: Trace, name: Tuple[str, str]) -> None:
    paper = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.6}
    at, layer = left + 1.0, _LAYERS["text"]
    lead, note = name
    axes.text(
        at, bottom, lead, va="bottom", color=PALETTE.ink, zorder=layer, bbox=paper, **figures.style(_NAME, "bold")
    )
    at += figures.width(f"{lead} ", _NAME, "bold")
    room = left + MM_A_SECOND * trace.cell.seconds - at - 0.5
    if trace.beyond is not None:
        note = "clipped: {:.3g} to {:.3g} mV".format(*trace.reached)
    shown = figures.fitting(note, room, _NOTE)
    colour = PALETTE.muted if trace.beyond is None else PALETTE.warning
    axes.text(at, bottom, shown, va="bottom", color=colour, zorder=layer, bbox=paper, **figures.style(_NOTE))


def _draw_saliency(page: _Page, excerpt: Excerpt, saliency: np.ndarray) -> None:
    known = np.asarray(saliency)[np.isfinite(saliency)]
    least, maximum = float(known.min()) if len(known) else 0.0, float(known.max(initial=0.0))
    found = {
        (baseline - row.below + 0.5, baseline + row.above - 0.5): [
            band for trace in row.traces for band in bands(excerpt, trace.cell, least, maximum)
        ]
        for baseline, row in page.placed
    }
    corners = by_level(found)
    for level, rectangles in corners.items():
        _add_lines(page.axes, rectangles + (_SIDE + _PULSE, 0), "saliency", **_colour(level), gid=f"saliency-{level}")
    _draw_key(page.axes, least, maximum, UNKNOWN in corners)


def _colour(level: int) -> Dict[str, Any]:
    if level == UNKNOWN:
        # hatched, so that it does not look like low saliency in a grey print
        return {"facecolor": "none", "edgecolor": PALETTE.hatch, "hatch": "///", "linewidth": 0}
    return {"facecolor": PALETTE.saliency, "alpha": _DENSEST * level / LEVELS, "linewidth": 0}


def _draw_key(axes: Any, least: float, maximum: float, any_unknown: bool) -> None:
    """Draw the colour scale in the lower right corner."""
    from matplotlib.patches import Rectangle

    middle, side = 0.35 * _BOTTOM, 1.5
    right = _write_foot(axes, f"{least + maximum:.3g}", _SIDE + _PAPER, "right") - 1
    edges = right - side * np.arange(LEVELS, -1, -1)
    for level in range(1, LEVELS + 1):
        box = (edges[level - 1], middle - 1.5), side, 3
        axes.add_patch(Rectangle(*box, **_colour(level), zorder=_LAYERS["saliency"]))
    left = _write_foot(axes, f"saliency {least:.3g}", edges[0] - 1, "right")
    if any_unknown:
        left = _write_foot(axes, "unknown", left - 4, "right") - 1
        axes.add_patch(Rectangle((left - 4, middle - 1.5), 4, 3, **_colour(UNKNOWN), zorder=_LAYERS["saliency"]))


def _write_facts(page: _Page, recording: Recording, start: float) -> None:
    """Write scale, filter and other facts needed to read the picture in the lower left corner."""
    traces = [trace for row in page.rows for trace in row.traces]
    facts = [f"{MM_A_SECOND:g} mm/s", f"{MM_A_MILLIVOLT:g} mm/mV", "no filter", f"{recording.sample_rate:.10g} Hz"]
    if any(trace.cell.left > trace.cell.start for trace in traces):
        facts.append(f"every lead from {start:.10g} s")
    if any(trace.cell.lead in recording.derived for trace in traces):
        facts.append("derived: computed from I and II")
    if overlap(page.rows):
        facts.append("rows overlap")
    # no more than one space, because browsers merge them
    _write_foot(page.axes, " · ".join(facts), _SIDE)


def _write_foot(axes: Any, line: str, at: float, align: str = "left") -> float:
    """Write at the bottom; returns the right end of the text, or its left end if it is aligned to the right."""
    axes.text(at, 0.35 * _BOTTOM, line, va="center", ha=align, color=PALETTE.ink, **figures.style(_SMALL))
    width = figures.width(line, _SMALL)
    return at - width if align == "right" else at + width
