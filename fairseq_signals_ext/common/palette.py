"""The colours of pages and figures, by purpose.

Pages have each as a CSS variable: `error_paper` is `var(--error-paper)`. Inks have a contrast of 4.5 or more on `paper`
and on the papers of notes (WCAG 2.1, 1.4.3).
"""

from typing import Any, Dict, NamedTuple


class _Palette(NamedTuple):
    paper: str = "#ffffff"
    # texts: main text, secondary text, mark of a positive label, warning
    ink: str = "#1d272f"
    muted: str = "#4b5862"
    mark_ink: str = "#8a4b08"
    warning: str = "#8a1c14"
    # lines: axes and borders of fields, dividers of a page, rows of a table; background of a bar
    faint: str = "#9aa5ad"
    field: str = "#6b7a86"
    rule: str = "#d3dae0"
    row: str = "#e2e7eb"
    track: str = "#e4e9ed"
    panel: str = "#f4f6f8"
    # values, positive values, and the element with keyboard focus
    accent: str = "#2a6f97"
    mark: str = "#b45309"
    focus: str = "#1f5fa8"
    # counts that need attention
    heat: str = "#c44e28"
    # notes: border and background
    good: str = "#2b8a4b"
    good_paper: str = "#eaf6ee"
    error: str = "#b3261e"
    error_paper: str = "#fdf1f0"
    note: str = "#c28a16"
    note_paper: str = "#fdf6e5"
    focus_paper: str = "#eaf2fb"
    # range of plausible values
    plausible: str = "#dcefe0"
    # grid of an ECG, and highlights for a model's attention or unknown values
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

# settings of matplotlib for all plots; a $ in a name from the user is not mathematics
PLOT_STYLE: Dict[str, Any] = {
    "text.parse_math": False,
    "text.color": PALETTE.ink,
    "axes.edgecolor": PALETTE.faint,
    "axes.labelcolor": PALETTE.ink,
    "xtick.color": PALETTE.ink,
    "ytick.color": PALETTE.ink,
}


def css_variables() -> Dict[str, str]:
    """Return the colours by the names of their CSS variables, without leading dashes."""
    return {name.replace("_", "-"): colour for name, colour in PALETTE._asdict().items()}
