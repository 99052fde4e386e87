"""Figures as files for a paper: SVG with text that stays text, PDF with its fonts inside, PNG; the same bytes again."""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from finer_ray.errors import QueryError

# By suffix, what a file would otherwise say of when and by what it was made.
UNSAID: dict[str, dict[str, Any]] = {
    ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    ".png": {"Software": None},
}
STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "finer_ray", "pdf.fonttype": 42}
# Of what is not drawn in lines: for the screen, and for print.
PNG_DPI, PRINT_DPI = 220, 300


def check_figure(path: Path) -> None:
    """Refuse a file that no figure can be, before any work.

    Raises:
        QueryError: its suffix is none of .svg, .pdf and .png.
    """
    if path.suffix.lower() not in UNSAID:
        raise QueryError(f"{path.name}: a figure is an .svg, .pdf or .png file, by its name's end")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as its file's suffix says; folders on the way are made.

    Args:
        figure: drawn already.
        path: ending in .svg, .pdf or .png.

    Raises:
        QueryError: it has another suffix.
    """
    check_figure(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.suffix.lower()
    with matplotlib.rc_context(STYLE):
        dpi = PNG_DPI if suffix == ".png" else PRINT_DPI
        figure.savefig(path, format=suffix[1:], dpi=dpi, metadata=UNSAID[suffix], bbox_inches="tight", pad_inches=0.05)
