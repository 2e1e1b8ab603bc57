"""Figures of choices: levels of identification, sets of controls that none beats, and what matters most."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from results.look import (
    ALARM,
    GRID,
    INK,
    LEVELS,
    MUTED,
    PAPER,
    WARNING,
    WIDTH,
    bare,
    settled,
    sheet,
    short,
    style,
)
from results.tradeoff import Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from results.mfa import ArmResult
    from results.statistics import Estimate

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


def pareto(
    points: Sequence[Point], front: Sequence[Point], chosen: str | None, units: Mapping[str, str]
) -> Figure:
    """Risk against each other objective: every measured set, those that none beats joined by what is best in the panel.

    Uniform levels carry their names; ``chosen`` is marked. ``units`` gives each objective's unit.
    """
    others = [name for name in units if name != "risk"]
    best = {point.key for point in front}
    with style():
        figure = sheet(2.9)
        axes = list(figure.subplots(1, len(others), squeeze=False, sharey=True)[0])
        for ax, name in zip(axes, others, strict=True):
            bare(ax)
            ax.grid(color=GRID, linewidth=0.6)
            for point in sorted(points, key=lambda one: one.key in best):
                on = point.key in best
                ax.plot(
                    point.mean(name),
                    point.mean("risk"),
                    marker="o",
                    markersize=4.5 if on else 3,
                    color=LEVELS[2] if on else GRID,
                    markeredgecolor=PAPER if on else MUTED,
                    markeredgewidth=0.4,
                    linestyle="none",
                    zorder=3 if on else 2,
                )
            line = _lower_left([(one.mean(name), one.mean("risk")) for one in front])
            ax.plot(
                *zip(*line, strict=True), color=LEVELS[2], linewidth=1.0, drawstyle="steps-post", zorder=2
            )
            for point in points:
                if point.key == chosen:
                    ax.plot(
                        point.mean(name),
                        point.mean("risk"),
                        marker="D",
                        markersize=8,
                        color=ALARM,
                        markerfacecolor="none",
                        linestyle="none",
                        zorder=4,
                    )
            _name_levels(ax, [one for one in points if one.key in _UNIFORM], name)
            ax.set_xlabel(f"{name}\n({units[name]})")
            ax.margins(0.12)
        axes[0].set_ylabel("risk\n" + textwrap.fill(f"({units['risk']})", 30))
        return settled(figure)


_UNIFORM: Final = frozenset(f"SL {level}" for level in range(5))


def _lower_left(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The places that are best in two dimensions, from left to right; the first where there is one."""
    found: list[tuple[float, float]] = []
    for x, y in sorted(places):
        if not found or y < found[-1][1]:
            found.append((x, y))
    return found


def _name_levels(ax: Axes, points: Sequence[Point], name: str) -> None:
    """Levels beside their marks; those at one place share a label."""
    places: dict[tuple[float, float], list[str]] = {}
    for point in points:
        place = (round(point.mean(name), 6), round(point.mean("risk"), 6))
        places.setdefault(place, []).append(point.key.removeprefix("SL "))
    for number, ((x, y), names) in enumerate(sorted(places.items())):
        # By turns above and below: neighbors in a row have room for a digit or two.
        ax.annotate(
            ", ".join(names),
            (x, y),
            xytext=(0, 5 if number % 2 == 0 else -11),
            textcoords="offset points",
            ha="center",
            fontsize=6.5,
            color=INK,
            zorder=5,
        )


def importance(parts: Mapping[str, Estimate], label: str) -> Figure:
    """Draw what each part does as bars from zero with their intervals, the largest on top (a tornado)."""
    known = {name: one for name, one in parts.items() if one.value is not None}
    order = sorted(known, key=lambda name: (-abs(known[name].value or 0.0), name))
    with style():
        figure = sheet(0.7 + 0.24 * max(len(order), 1))
        ax = figure.subplots()
        bare(ax)
        ax.grid(axis="x", color=GRID, linewidth=0.6)
        ax.axvline(0, color=MUTED, linewidth=0.8)
        for place, name in enumerate(order):
            one = known[name]
            value = one.value or 0.0
            ax.barh(place, value, height=0.62, color=LEVELS[1] if value < 0 else WARNING, zorder=2)
            if one.low is not None and one.high is not None:
                ax.plot([one.low, one.high], [place, place], color=INK, linewidth=1.2, zorder=3)
        ax.set_yticks(range(len(order)), [short(name, 34) for name in order])
        ax.set_ylim(len(order) - 0.4, -0.6)
        ax.tick_params(axis="y", length=0)
        ax.set_xlabel(label)
        return settled(figure)
