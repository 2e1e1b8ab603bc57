"""What an assessment prints: the specification as a PDF, and the trend of assessments by date."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from results.look import ALARM, INK, LEVELS, MUTED, WIDTH, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Style of a line of print -> size (points), weight, indent (in), room above (points)
_PRINT: Final = {
    "title": (15, "bold", 0.0, 0),
    "head": (11.5, "bold", 0.0, 12),
    "sub": (9.5, "bold", 0.0, 7),
    "text": (8.5, "normal", 0.0, 2),
    "item": (8.5, "normal", 0.18, 1),
}


def print_pages(lines: Sequence[tuple[str, str]], foot: str) -> bytes:
    """An A4 PDF of (style, text) lines, wrapped and numbered; styles are title, head, sub, text and item.

    Equal lines give equal bytes. The writer is matplotlib's own: one document is not worth a second library.
    """
    from matplotlib.backends.backend_pdf import PdfPages

    buffer = io.BytesIO()
    with style():
        pages = _broken(lines)
        with PdfPages(buffer, metadata={"CreationDate": None, "Creator": None, "Producer": None}) as file:
            for number, page in enumerate(pages, 1):
                file.savefig(_print_page(page, f"{foot}   {number} / {len(pages)}"))
    return buffer.getvalue()


def _broken(lines: Sequence[tuple[str, str]]) -> list[list[tuple[str, str, float]]]:
    """Lines broken to the page's width, as pages of (style, text, height in points from the page's foot)."""
    top, bottom = 842 - 50.0, 56.0
    pages: list[list[tuple[str, str, float]]] = [[]]
    y = top
    for kind, text in lines:
        size, _, indent, above = _PRINT[kind]
        room = int((7.0 - indent) * 72 / (size * 0.56))  # DejaVu: 0.56 of its size wide at the mean
        for number, piece in enumerate(textwrap.wrap(text, room) or [""]):
            step = size * 1.35 + (above if number == 0 else 0)
            keep = 40 if kind in ("head", "sub") else 0  # no heading at the foot of a page
            if y - step - keep < bottom:
                pages.append([])
                y = top
            y -= step
            pages[-1].append((kind, piece, y))
    return pages


def _print_page(page: Sequence[tuple[str, str, float]], foot: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(595 / 72, 842 / 72))
    left = 0.63
    for kind, text, y in [*page, ("text", foot, 28.0)]:
        size, weight, indent, _ = _PRINT[kind]
        figure.text(
            (left + indent) * 72 / 595,
            y / 842,
            text,
            fontsize=size,
            fontweight=weight,
            color=MUTED if y == 28.0 else INK,
            parse_math=False,
        )
    return figure


def trend(points: Sequence[tuple[str, float, float | None, float | None, int, int]]) -> Figure:
    """Assessments by date: expected loss with its interval, and the highest rank beside the largest gap of SL-A.

    Each point is (date, points a year, low, high, rank, gap in levels).
    """
    with style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        where = range(len(points))
        values = [one[1] for one in points]
        ends = [
            (value if low is None else low, value if high is None else high)
            for _, value, low, high, _, _ in points
        ]
        below_, above_ = zip(
            *((v - low, high - v) for v, (low, high) in zip(values, ends, strict=True)), strict=True
        )
        above.errorbar(where, values, yerr=[below_, above_], color=LEVELS[1], marker="o", capsize=3)
        above.set_ylabel("points a year")
        above.set_ylim(bottom=0)
        below.plot(where, [one[4] for one in points], color=ALARM, marker="s", label="highest residual rank")
        below.plot(
            where, [one[5] for one in points], color=LEVELS[3], marker="^", label="largest gap SL-T to SL-A"
        )
        most = max(max(one[4], one[5]) for one in points)
        below.set_ylim(0, most + 0.5)
        below.set_yticks(range(most + 1))
        below.set_xticks(list(where))
        below.set_xticklabels([one[0] for one in points])
        below.legend(loc="best", fontsize=7)
    return figure
