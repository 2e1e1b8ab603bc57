"""The trend of assessments by date, as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from results.look import ALARM, LEVELS, WIDTH, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
