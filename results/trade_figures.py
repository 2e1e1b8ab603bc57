"""Figures of choices: levels of identification, sets of controls that none beats, and what matters most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from results.look import ALARM, GRID, LEVELS, MUTED, WARNING, WIDTH, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from results.mfa import ArmResult

_DEADLINE_ARMS: Final = (
    ("SL 0", LEVELS[0], "-"),
    ("SL 2", LEVELS[2], "-"),
    ("SL 4", LEVELS[4], "-"),
    ("SL 4, dual, no procedure", ALARM, "--"),
    ("SL 4, compensating set", WARNING, "-."),
)


def missed_deadlines(
    results: Sequence[ArmResult], marks: Sequence[tuple[str, float]], rates: tuple[float, float]
) -> Figure:
    """Share of emergencies missed, and events a year that end badly, over the time from alarm to limit.

    ``marks`` are shipped emergencies and what they leave (s); ``rates`` intrusions and emergencies a year.
    """
    from results.mfa import GRID as TIMES

    with style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH, 6.6), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        by_name = {one.name: one for one in results}
        for name, color, line in _DEADLINE_ARMS:
            if name not in by_name:
                continue
            for axes, estimates in (
                (above, [by_name[name].missed(within) for within in TIMES]),
                (below, [by_name[name].total(within, *rates) for within in TIMES]),
            ):
                axes.plot(TIMES, [one.value for one in estimates], color=color, linestyle=line, label=name)
                low, high = ([getattr(one, end) for one in estimates] for end in ("low", "high"))
                axes.fill_between(TIMES, low, high, color=color, alpha=0.12, linewidth=0)
        for number, (name, within) in enumerate(marks):
            above.axvline(within, color=GRID, zorder=0)
            below.axvline(within, color=GRID, zorder=0)
            above.annotate(
                name,
                (within, 1.0),
                xytext=(0, 5 + 11 * (number % 3)),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="center",
                fontsize=7,
                color=MUTED,
            )
        below.set_xscale("log")
        below.set_xticks([60, 120, 300, 600, 1800, 3600, 14_400])
        below.set_xticklabels(["1 min", "2 min", "5 min", "10 min", "30 min", "1 h", "4 h"])
        below.minorticks_off()
        above.set_ylabel("emergencies missed")
        below.set_ylabel("bad ends a year")
        below.set_xlabel("time from alarm to limit")
        above.set_ylim(0, 1)
        below.set_ylim(bottom=0)
        above.legend(loc="upper center", bbox_to_anchor=(0.71, 1.0), fontsize=8)
    return figure
