"""What every figure has in common: colors, sheet, type, and how it becomes a file.

matplotlib is imported only here and in the modules of figures, and only once a figure is asked for; never pyplot:
figures are drawn by Agg and the SVG writer directly, so no window system is looked for and no global state is changed.
Equal input gives equal bytes: no dates, a fixed salt for ids, glyphs as outlines of the font matplotlib ships.

Widths are for A4 with 16 mm margins. Security levels 0 to 4 are one hue from light to dark, every step apart from
the next in lightness (read the same with any color vision and in gray), and each profile has its own marker.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK: Final = "#1b1f24"
MUTED: Final = "#5b6470"
GRID: Final = "#d9dee5"
PAPER: Final = "#ffffff"
# OKLCH hue 250; the lightest keeps a contrast of 3:1 on white (WCAG 2.2, 1.4.11).
LEVELS: Final = ("#4a95dd", "#0078cf", "#005a9d", "#003d6e", "#001d3d")
UNLEVELED: Final = "#6b7280"
ALARM: Final = "#b3261e"
WARNING: Final = "#9a5b00"

WIDTH: Final = 7.0  # in; 178 mm


def svg(figure: Figure) -> str:
    """Return the figure as an SVG document; equal figures give equal text."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue().decode()


def png(figure: Figure, dpi: int = 200) -> bytes:
    """Return the figure as a PNG file's bytes; 200 dots an inch is enough for print."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def sheet(height: float) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06, wspace=0.02, hspace=0.03)
    return Figure(figsize=(WIDTH, height), dpi=200, layout=layout, facecolor=PAPER)


def bare(ax: Axes) -> None:
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.set_axisbelow(True)


def short(text: str, length: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= length else flat[: length - 1] + "…"


@lru_cache(maxsize=4096)  # an outline takes milliseconds, and labels of a run repeat
def text_width(text: str, size: float = 7.0) -> float:
    """Return the width in inches of ``text`` in the figure's font."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath, text_to_path

    font = FontProperties(family="DejaVu Sans")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        # matplotlib fails to make a path of nothing: spaces, a soft hyphen.
        if not len(text_to_path.get_text_path(font, text)[1]):
            return 0.0
        outline = TextPath((0, 0), text, size=size, prop=font)
        return float(outline.get_extents().x1) / 72


def settled(figure: Figure) -> Figure:
    """Lay the figure out once and for good: a second pass of the layout could shift a line by a hair."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


@contextmanager
def style() -> Iterator[None]:
    import matplotlib

    with (
        matplotlib.rc_context(
            {
                "font.family": "DejaVu Sans",  # shipped with matplotlib: the same outlines on every machine
                "font.size": 8,
                "axes.titlesize": 8.5,
                "axes.labelsize": 8,
                "axes.labelcolor": INK,
                "axes.edgecolor": MUTED,
                "axes.linewidth": 0.7,
                "axes.facecolor": "none",
                "text.color": INK,
                "text.hinting": "no_hinting",  # a text is as wide in print as where the layout was measured
                "text.parse_math": False,  # a dollar sign in a user's name is a dollar sign
                "xtick.labelsize": 7.5,
                "ytick.labelsize": 7.5,
                "xtick.color": MUTED,
                "ytick.color": MUTED,
                "xtick.labelcolor": INK,
                "ytick.labelcolor": INK,
                "legend.fontsize": 7.5,
                "legend.frameon": False,
                "svg.fonttype": "path",
                "svg.hashsalt": "otlab",
                "path.simplify": True,
            }
        ),
        warnings.catch_warnings(),
    ):
        # A character the font lacks is drawn as a box; that is no reason to fail or to warn on every figure.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield
