"""The colours of pages and pictures, by what they are for.

Pages have each as a CSS variable: `error_paper` is `var(--error-paper)`. Inks have a contrast of 4.5 or more on `paper`
and on the papers of notes (WCAG 2.1, 1.4.3).
"""

from typing import Any, Dict, NamedTuple


class _Palette(NamedTuple):
    paper: str = "#ffffff"
    # texts: what is read first, what explains it, the mark of a positive label, a warning
    ink: str = "#1d272f"
    muted: str = "#4b5862"
    mark_ink: str = "#8a4b08"
    warning: str = "#8a1c14"
    # lines: axes and edges of fields, what divides a page, rows of a table; what a bar lies in
    faint: str = "#9aa5ad"
    field: str = "#6b7a86"
    rule: str = "#d3dae0"
    row: str = "#e2e7eb"
    track: str = "#e4e9ed"
    panel: str = "#f4f6f8"
    # values, those that are positive, and what has the keyboard's focus
    accent: str = "#2a6f97"
    mark: str = "#b45309"
    focus: str = "#1f5fa8"
    # how many are of a kind that one should look at
    heat: str = "#c44e28"
    # notes: their edge and their paper
    good: str = "#2b8a4b"
    good_paper: str = "#eaf6ee"
    error: str = "#b3261e"
    error_paper: str = "#fdf1f0"
    note: str = "#c28a16"
    note_paper: str = "#fdf6e5"
    focus_paper: str = "#eaf2fb"
    # a range of values that are plausible
    plausible: str = "#dcefe0"
    # an ECG's paper, and where a model looked or it is not known
    grid_thin: str = "#f7d3d3"
    grid_thick: str = "#e9a3a3"
    saliency: str = "#0b4f9e"
    hatch: str = "#bcc2c7"


PALETTE = _Palette()

# Paul Tol's "muted", made for all kinds of colour vision (personal.sron.nl/~pault), and a tenth
CATEGORIES = (
    *("#332288", "#CC6677", "#DDCC77", "#117733", "#88CCEE", "#882255", "#44AA99", "#999933", "#AA4499"),
    "#1a1a1a",
)

# settings of matplotlib that all plots have; names come from outside: a $ in one is not mathematics
PLOT_STYLE: Dict[str, Any] = {
    "text.parse_math": False,
    "text.color": PALETTE.ink,
    "axes.edgecolor": PALETTE.faint,
    "axes.labelcolor": PALETTE.ink,
    "xtick.color": PALETTE.ink,
    "ytick.color": PALETTE.ink,
}


def css_variables() -> Dict[str, str]:
    """Colour by name of its CSS variable, without the dashes before it."""
    return {name.replace("_", "-"): colour for name, colour in PALETTE._asdict().items()}
