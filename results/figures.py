"""Figures of campaigns and of one run: detection, availability, and a time line."""

from __future__ import annotations

import math
import textwrap
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from results.look import (
    ALARM,
    GRID,
    INK,
    LEVELS,
    MUTED,
    PAPER,
    UNLEVELED,
    WARNING,
    bare,
    settled,
    sheet,
    short,
    style,
    text_width,
)
from results.rows import FUNCTIONS, NO_ATTACK, Row
from results.statistics import by_cell, detection_curve, mean_interval, median_time

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
_TIME_TICKS: Final = (
    (0, "0"),
    (1, "1 s"),
    (10, "10 s"),
    (60, "1 min"),
    (600, "10 min"),
    (3_600, "1 h"),
    (21_600, "6 h"),
    (86_400, "1 d"),
    (604_800, "7 d"),
)
_PANELS_PER_FIGURE: Final = 8  # four rows of two fill an A4 page


CAPTIONS: Final[Mapping[str, str]] = {
    "detection-times": "Time from the attack's first action to detection. Large marker: median with its 95 % "
    "interval; small marks: single runs, open where the run ended undetected. An arrow: the interval, or with an "
    "open marker the median itself, lies beyond observation. Numbers: detected of attacked runs.",
    "detection-curves": "Share of runs detected by a time after the attack's first action (Kaplan-Meier with its "
    "95 % band). An upright tick: runs that ended undetected.",
    "availability": "Availability of the essential functions: mean and 95 % interval; small marks: single runs.",
    "levels-by-maturity": "Seconds outside the safe envelope, mean of a run, by security level and by maturity level "
    "of the practices that keep the controls at work; darker is worse. Perfect: no practice fails.",
    "control-by-maturity": "Share of the time without control of the process, mean of a run in percent, by security "
    "level and by maturity level; darker is worse. Perfect: no practice fails.",
}


def standard(rows: Sequence[Row]) -> dict[str, Figure]:
    """Return the figures every report shows, by names fit for files; none without the runs to fill it.

    Names are the keys of ``CAPTIONS``, with ``-2`` and so on for further pages of many scenarios.
    """
    attacked = _pages([row for row in rows if row.attacked])
    # Of one maturity there is nothing to compare.
    axis = attacked if len({row.maturity for row in rows if row.attacked}) > 1 else []
    drawn = {
        "detection-times": [detection_times(page) for page in attacked],
        "detection-curves": [detection_curves(page) for page in attacked],
        "availability": [availability(page) for page in _pages(rows)],
        "levels-by-maturity": [levels_by_maturity(page) for page in axis],
        "control-by-maturity": [levels_by_maturity(page, _control_lost) for page in axis],
    }
    return {
        name if number == 1 else f"{name}-{number}": figure
        for name, pages in drawn.items()
        for number, figure in enumerate(pages, 1)
    }


def detection_times(rows: Sequence[Row]) -> Figure:
    """Draw the median time to detection with its interval, a panel per scenario and a line per profile."""
    groups = {name: runs for name, runs in by_cell(rows).items() if any(row.attacked for row in runs)}
    panels = _panels(groups)
    looks = _looks(rows)
    horizon = max((row.observed for row in rows if row.attacked), default=0.0)
    with style():
        heights = [0.5 + 0.25 * profiles for profiles in _tallest(panels)]
        figure, axes = _grid(panels, 0.55 + sum(heights), heights)
        for (title, profiles), ax in zip(panels.items(), axes, strict=False):
            _head(ax, title)
            _time_axis(ax, horizon)
            ax.set_ylim(len(profiles) - 0.45, -0.55)
            ax.set_yticks(range(len(profiles)), [short(name, 22) for name in profiles])
            ax.tick_params(axis="y", length=0)
            for place, (profile, runs) in enumerate(profiles.items()):
                _median_line(ax, place, runs, looks[profile], horizon)
        _label_bottom(axes, len(panels), "Time from the attack's first action to detection")
        return settled(figure)


def detection_curves(rows: Sequence[Row]) -> Figure:
    """Draw the share of runs detected by each time, a panel per scenario and a curve per profile."""
    groups = {name: runs for name, runs in by_cell(rows).items() if any(row.attacked for row in runs)}
    panels = _panels(groups)
    looks = _looks(rows)
    horizon = max((row.observed for row in rows if row.attacked), default=0.0)
    with style():
        lines = math.ceil(len(panels) / 2)
        figure, axes = _grid(panels, 0.75 + 2.0 * max(lines, 1))
        for (title, profiles), ax in zip(panels.items(), axes, strict=False):
            _head(ax, title)
            _time_axis(ax, horizon)
            ax.set_ylim(-4, 104)
            ax.set_yticks([0, 25, 50, 75, 100], ["0 %", "25 %", "50 %", "75 %", "100 %"])
            ends = [_curve_line(ax, runs, looks[profile], horizon) for profile, runs in profiles.items()]
            _end_labels(ax, ends, list(profiles), looks)
        _label_bottom(axes, len(panels), "Time from the attack's first action")
        return settled(figure)


def availability(rows: Sequence[Row]) -> Figure:
    """Draw the mean availability of each essential function, a panel per scenario and a marker per profile."""
    groups = by_cell(rows)
    panels = _panels(groups)
    looks = _looks(rows)
    lowest = min((share for row in rows for share in row.availability.values()), default=0.0)
    with style():
        lines = math.ceil(len(panels) / 2)
        figure, axes = _grid(panels, 0.75 + 1.9 * max(lines, 1))
        for (title, profiles), ax in zip(panels.items(), axes, strict=False):
            _head(ax, title)
            _share_axis(ax, lowest)
            ax.set_xlim(-0.5, len(FUNCTIONS) - 0.5)
            ax.set_xticks(range(len(FUNCTIONS)), FUNCTIONS)
            ax.tick_params(axis="x", length=0)
            for edge in range(1, len(FUNCTIONS)):
                ax.axvline(edge - 0.5, color=GRID, linewidth=0.8)
            step = 0.8 / max(len(profiles), 1)
            for place, (profile, runs) in enumerate(profiles.items()):
                shift = (place - (len(profiles) - 1) / 2) * step
                _availability_points(ax, runs, looks[profile], shift, step)
        _legend(figure, looks)
        return settled(figure)


def levels_by_maturity(
    rows: Sequence[Row], outcome: Callable[[Row], float] = lambda row: row.unsafe_seconds
) -> Figure:
    """Draw the mean ``outcome`` of a run as a heat map of profile by maturity level, a panel per scenario.

    The best practice is on top. A cell without a run stays empty.
    """
    attacked = [row for row in rows if row.attacked]
    panels = _panels(by_cell(attacked))
    maturities = sorted({row.maturity or 5 for row in attacked}, reverse=True)
    profiles = list(dict.fromkeys(_without_maturity(row) for row in sorted(attacked, key=_level_order)))
    means = {
        title: {key: math.fsum(map(outcome, runs)) / len(runs) for key, runs in _by_maturity(cells).items()}
        for title, cells in panels.items()
    }
    most = max((value for cells in means.values() for value in cells.values()), default=0.0)
    with style():
        lines = max(1, math.ceil(len(panels) / 2))
        figure, axes = _grid(panels, 0.5 + lines * (0.6 + 0.27 * len(maturities)))
        for (title, cells), ax in zip(means.items(), axes, strict=False):
            _head(ax, title)
            ax.set_xlim(-0.5, len(profiles) - 0.5)
            ax.set_ylim(len(maturities) - 0.5, -0.5)
            ax.set_xticks(range(len(profiles)), [short(name, 14) for name in profiles])
            ax.set_yticks(range(len(maturities)), ["perfect" if m == 5 else f"ML {m}" for m in maturities])
            ax.tick_params(length=0)
            for x, profile in enumerate(profiles):
                for y, maturity in enumerate(maturities):
                    if (profile, maturity) in cells:
                        _heat_cell(ax, x, y, cells[profile, maturity], most)
        return settled(figure)


def _control_lost(row: Row) -> float:
    return 100 * (1 - row.availability.get("control", 1.0))


def _by_maturity(cells: Mapping[str, Sequence[Row]]) -> dict[tuple[str, int], list[Row]]:
    """The runs of one panel under (profile without its maturity, maturity level or 5 for perfect)."""
    return {(_without_maturity(runs[0]), runs[0].maturity or 5): list(runs) for runs in cells.values()}


def _without_maturity(row: Row) -> str:
    return row.profile.removesuffix(f", ML {row.maturity}")


def _level_order(row: Row) -> tuple[bool, int, str]:
    return row.level is None, row.level or 0, _without_maturity(row)


def _heat_cell(ax: Axes, x: int, y: int, value: float, most: float) -> None:
    from matplotlib.patches import Rectangle

    share = value / most if most > 0 else 0.0
    # From paper to the darkest of the levels; the number turns white where ink would be below 4.5:1.
    color = tuple(1 + share * (int(LEVELS[-1][at : at + 2], 16) / 255 - 1) for at in (1, 3, 5))
    ax.add_patch(Rectangle((x - 0.47, y - 0.46), 0.94, 0.92, facecolor=color, edgecolor=GRID, linewidth=0.6))
    ink = PAPER if share > 0.5 else INK
    ax.text(x, y, f"{value:.0f}", ha="center", va="center", color=ink, fontsize=7.5)


# --- one run ----------------------------------------------------------------------------------------------------

Event = tuple[float, str, str]
"""(time in s, lane, label)"""

_LANES: Final[Mapping[str, tuple[str, str]]] = {
    "attack": (ALARM, "v"),
    "alert": (WARNING, "D"),
    "operator": ("#005a9d", "o"),
}
_LABEL_ROWS: Final = 6
_AXES: Final = 4.9  # in; the axes are at least that wide beside the longest names that short leaves
_ROW: Final = 0.17  # in; one line of event labels


def timeline(
    times: Sequence[float],
    series: Mapping[str, Sequence[float]],
    *,
    units: Mapping[str, str],
    limits: Mapping[str, Mapping[str, float]],
    events: Sequence[Event],
    bands: Mapping[str, Sequence[tuple[float, float]]],
    title: str = "",
) -> Figure:
    """Draw one run: trends of the plant above, a lane a kind of event below, on one time axis (s).

    ``series`` gives each tag one value a time (NaN where there was none), in the unit of ``units``; tags of one
    unit share a panel. ``limits`` gives a tag's alarm limits by their names (HH, H, L, LL). ``bands`` gives spans of
    time to mark: those in which an essential function was not available under its name, others under any name.
    Lanes keep the order in which they first come. Equal labels that follow each other in a lane are told once,
    with their number; labels that find no room in six lines are counted at the end of their lane. Raises
    ValueError for a series that is not as long as ``times``.
    """
    for tag, values in series.items():
        if len(values) != len(times):
            raise ValueError(f"{tag}: {len(values)} values for {len(times)} times")
    ends = [
        *times,
        *(t for t, _, _ in events),
        *(t for spans in bands.values() for span in spans for t in span),
    ]
    start, end = (min(ends), max(ends)) if ends else (0.0, 1.0)
    end = end if end > start else start + 1.0
    by_unit: dict[str, list[str]] = defaultdict(list)
    for tag in series:
        by_unit[units.get(tag, "")].append(tag)
    by_lane: dict[str, list[Event]] = {lane: [] for _, lane, _ in events}
    for event in sorted(events):
        by_lane[event[1]].append(event)
    with style():
        plans = {lane: _placed(lane_events, start, end) for lane, lane_events in by_lane.items()}
        lanes_height = 0.35 + sum(_ROW * (plan.rows + 1) for plan in plans.values()) + 0.22 * len(bands)
        trends = [1.15] * len(by_unit)
        figure = sheet(sum(trends) + lanes_height + (0.75 if title else 0.5))
        grid = figure.subplots(
            len(trends) + 1, 1, sharex=True, squeeze=False, height_ratios=[*trends, lanes_height]
        )
        axes: list[Axes] = list(grid[:, 0])
        for ax, (unit, tags) in zip(axes, by_unit.items(), strict=False):
            _trend(ax, times, {tag: series[tag] for tag in tags}, unit, limits)
        _lanes(axes[-1], plans, bands, start, end)
        for time, lane, _ in events:
            if lane == "attack":
                for ax in axes[:-1]:
                    ax.axvline(time, color=ALARM, linewidth=0.6, alpha=0.35, zorder=1)
        _clock_axis(axes[-1], start, end)
        if title:
            figure.suptitle(short(title, 90), x=0.01, ha="left", fontsize=8.5, fontweight="bold")
        return settled(figure)


@dataclass(frozen=True, slots=True)
class _Lane:
    marks: list[float]
    labels: list[tuple[float, int, str]]  # time, line, text
    rows: int
    unsaid: int


def _placed(events: Sequence[Event], start: float, end: float) -> _Lane:
    """Give each run of equal labels one text, on the first line where it does not touch its neighbor."""
    said: list[tuple[float, str, int]] = []
    for time, _, label in events:
        if said and said[-1][1] == label:
            said[-1] = (said[-1][0], label, said[-1][2] + 1)
        else:
            said.append((time, label, 1))
    scale = (end - start) / _AXES  # seconds an inch
    free = [-math.inf] * _LABEL_ROWS
    labels: list[tuple[float, int, str]] = []
    unsaid = 0
    for time, label, count in said:
        for length in (44, 22):  # a cut label says more than none
            text = short(label, length) + (f" ×{count}" if count > 1 else "")
            width = (text_width(text) + 0.16) * scale
            left = min(time, end - width)
            line = next((i for i, edge in enumerate(free) if edge <= left), None)
            if line is not None:
                free[line] = left + width
                labels.append((time, line, text))
                break
        else:
            unsaid += 1
    rows = 1 + max((line for _, line, _ in labels), default=0)
    return _Lane([time for time, _, _ in events], labels, rows, unsaid)


def _trend(
    ax: Axes,
    times: Sequence[float],
    series: Mapping[str, Sequence[float]],
    unit: str,
    limits: Mapping[str, Mapping[str, float]],
) -> None:
    bare(ax)
    ax.grid(axis="y", color=GRID, linewidth=0.6)
    ax.set_ylabel(unit)
    styles = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (5, 1, 1, 1)))
    shades = ("#005a9d", INK, "#4a95dd", MUTED)
    for place, (tag, values) in enumerate(series.items()):
        ax.plot(
            times,
            values,
            color=shades[place % 4],
            linestyle=styles[place % 4],
            linewidth=1.2,
            label=tag,
            zorder=3,
        )
    drawn: dict[float, list[str]] = defaultdict(list)
    for tag in series:
        for name, value in limits.get(tag, {}).items():
            drawn[value].append(name if len(series) == 1 else f"{tag} {name}")
    for value, names in drawn.items():
        severe = any(name.split()[-1] in ("HH", "LL") for name in names)
        ax.axhline(value, color=ALARM if severe else WARNING, linewidth=0.8, linestyle=(0, (4, 2)), zorder=2)
    _limit_labels(ax, drawn)
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=4,
        borderaxespad=0.1,
        handlelength=2.2,
        columnspacing=1.4,
    )


def _limit_labels(ax: Axes, drawn: Mapping[float, Sequence[str]]) -> None:
    if not drawn:
        return
    ax.margins(y=0.08)
    low, high = ax.get_ylim()
    values = sorted(drawn)
    spread = _spread([(value - low) / (high - low) for value in values], 0.13)
    for value, place in zip(values, spread, strict=True):
        severe = any(name.split()[-1] in ("HH", "LL") for name in drawn[value])
        ax.annotate(
            short(", ".join(drawn[value]), 22),
            (1.0, place),
            xytext=(4, 0),
            textcoords="offset points",
            xycoords="axes fraction",
            va="center",
            color=ALARM if severe else WARNING,
            fontsize=7,
            annotation_clip=False,
        )
    ax.set_ylim(low, high)


def _lanes(
    ax: Axes,
    plans: Mapping[str, _Lane],
    bands: Mapping[str, Sequence[tuple[float, float]]],
    start: float,
    end: float,
) -> None:
    bare(ax)
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(start, end)
    top, ticks, names = 0.0, [], []
    for lane, plan in plans.items():
        color, marker = _LANES.get(lane, (INK, "o"))
        base = top + _ROW * 0.6
        ax.plot(
            plan.marks,
            [base] * len(plan.marks),
            linestyle="none",
            marker=marker,
            markersize=4.5,
            color=color,
            zorder=4,
            clip_on=False,
        )
        for time, line, text in plan.labels:
            width = (text_width(text) + 0.16) * (end - start) / _AXES
            overrun = time + width > end
            height = base + _ROW * (line + 0.9)
            ax.plot([time, time], [base, height], color=color, linewidth=0.5, alpha=0.6, zorder=2)
            ax.annotate(
                text,
                (end if overrun else time, height),
                xytext=(-1 if overrun else 2.5, 0),
                textcoords="offset points",
                ha="right" if overrun else "left",
                va="center",
                fontsize=7,
                zorder=5,
                bbox={"boxstyle": "square,pad=0.05", "facecolor": PAPER, "edgecolor": "none"},
            )
        ticks.append(base)
        names.append(short(lane, 14) + (f"\n(+{plan.unsaid} more)" if plan.unsaid else ""))
        top += _ROW * (plan.rows + 1)
        ax.axhline(top, color=GRID, linewidth=0.6)
    for lane, spans in bands.items():
        middle = top + 0.11
        ax.broken_barh(
            [(a, max(b - a, (end - start) / 600)) for a, b in spans],
            (middle - 0.065, 0.13),
            facecolor=ALARM,
            edgecolor="none",
            zorder=3,
        )
        ax.axhline(middle, color=GRID, linewidth=0.6, zorder=1)
        ticks.append(middle)
        names.append(f"no {lane}" if lane in FUNCTIONS else short(lane, 14))
        top += 0.22
    ax.set_ylim(max(top, 0.2), 0)
    ax.set_yticks(ticks, names)


def _clock_axis(ax: Axes, start: float, end: float) -> None:
    span = end - start
    unit, name = next(
        (u, n) for u, n in ((1.0, "s"), (60.0, "min"), (3600.0, "h")) if span <= 600 * u or n == "h"
    )
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    # Ticks at round numbers of the unit shown, not of seconds.
    places = MaxNLocator(nbins=10, steps=[1, 2, 3, 5, 6, 10]).tick_values(start / unit, end / unit)
    ax.set_xticks([p * unit for p in places if start <= p * unit <= end])
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / unit:g}"))
    ax.set_xlabel(f"Time in the run ({name})")


# --- parts ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Look:
    color: str
    marker: str


def _looks(rows: Sequence[Row]) -> dict[str, _Look]:
    """Give each profile a color by its level and a marker of its own; 'SL n' alone always gets the same."""
    levels = sorted({(row.level is None, row.level or 0, row.profile) for row in rows})
    looks: dict[str, _Look] = {}
    taken: set[str] = set()
    for unleveled, level, profile in levels:
        wish = _MARKERS[level] if not unleveled and level < len(LEVELS) else _MARKERS[len(LEVELS)]
        spare = [m for m in _MARKERS[len(LEVELS) :] if m not in taken]
        marker = wish if wish not in taken else (spare or [wish])[0]
        taken.add(marker)
        color = UNLEVELED if unleveled else LEVELS[min(level, len(LEVELS) - 1)]
        looks[profile] = _Look(color, marker)
    return looks


def _panels(groups: Mapping[tuple[str, str, str], list[Row]]) -> dict[str, dict[str, list[Row]]]:
    several = len({site for site, _, _ in groups}) > 1
    panels: dict[str, dict[str, list[Row]]] = defaultdict(dict)
    for (site, scenario, profile), runs in groups.items():
        name = "no attack" if scenario == NO_ATTACK else scenario
        panels[f"{site}: {name}" if several else name][profile] = runs
    return dict(panels)


def _pages(rows: Sequence[Row]) -> list[list[Row]]:
    names = list(dict.fromkeys((site, scenario) for site, scenario, _ in by_cell(rows)))
    chunks = [set(names[i : i + _PANELS_PER_FIGURE]) for i in range(0, len(names), _PANELS_PER_FIGURE)]
    return [[row for row in rows if (row.site, row.scenario) in chunk] for chunk in chunks]


def _tallest(panels: Mapping[str, Mapping[str, list[Row]]]) -> list[int]:
    """Return the number of profiles of the fuller panel in each line of panels."""
    counts = [len(profiles) for profiles in panels.values()] or [1]
    return [max(counts[i : i + 2]) for i in range(0, len(counts), 2)]


def _grid(
    panels: Mapping[str, object], height: float, ratios: Sequence[float] | None = None
) -> tuple[Figure, list[Axes]]:
    columns = 2 if len(panels) > 1 else 1
    lines = max(1, math.ceil(len(panels) / columns))
    figure = sheet(height)
    grid = figure.subplots(lines, columns, squeeze=False, height_ratios=ratios)
    axes: list[Axes] = list(grid.flat)
    for ax in axes[max(len(panels), 1) :]:
        ax.set_visible(False)
    if not panels:
        axes[0].set_axis_off()
        axes[0].text(0.5, 0.5, "No run in which an attacker acted.", ha="center", va="center", color=MUTED)
    return figure, axes


def _head(ax: Axes, title: str) -> None:
    bare(ax)
    spec = ax.get_subplotspec()
    room = 38 if spec is not None and spec.get_gridspec().ncols > 1 else 80  # letters above a panel
    ax.set_title("\n".join(textwrap.wrap(title, room)) or " ", loc="left", fontweight="bold")


def _time_axis(ax: Axes, horizon: float) -> None:
    """A logarithmic axis that has a zero: an alert can come in the very instant of the first action."""
    ax.set_xscale("symlog", linthresh=1.0, linscale=0.45)
    right = max(horizon, 1.0)
    ticks = [(at, name) for at, name in _TIME_TICKS if at <= right]
    ax.set_xticks([at for at, _ in ticks], [name for _, name in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlim(-0.12, right * 1.12)
    ax.grid(axis="x", color=GRID, linewidth=0.6)


def _share_axis(ax: Axes, lowest: float) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    bottom = min(100 * lowest, 99.0)
    room = 100 - bottom
    ax.set_ylim(bottom - 0.07 * room, 100 + 0.05 * room)
    ax.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10], prune=None))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %" if value <= 100 else ""))
    ax.grid(axis="y", color=GRID, linewidth=0.6)


def _median_line(ax: Axes, place: int, runs: Sequence[Row], look: _Look, horizon: float) -> None:
    curve = detection_curve(runs)
    median = median_time(curve)
    attacked = [row for row in runs if row.attacked]
    for caught in (True, False):
        marks = [
            row.observed if row.detection_time is None else row.detection_time
            for row in attacked
            if row.detected == caught
        ]
        ax.plot(
            marks,
            [place + 0.27] * len(marks),
            linestyle="none",
            marker="o",
            markersize=2.4,
            color=look.color,
            markerfacecolor=look.color if caught else PAPER,
            markeredgewidth=0.5,
            zorder=3,
        )
    if median.low is not None:
        right = median.high if median.high is not None else horizon
        ax.plot([median.low, right], [place, place], color=look.color, linewidth=1.6, zorder=3)
        for edge in (median.low, median.high):
            if edge is not None:
                ax.plot([edge, edge], [place - 0.12, place + 0.12], color=look.color, linewidth=1.2, zorder=3)
    beyond = median.value is None
    if attacked and (beyond or (median.low is not None and median.high is None)):
        ax.annotate(
            "",
            (1.045, place),
            (0.975, place),
            xycoords=("axes fraction", "data"),
            textcoords=("axes fraction", "data"),
            arrowprops={
                "arrowstyle": "-|>",
                "color": look.color,
                "linewidth": 1.4,
                "shrinkA": 0,
                "shrinkB": 0,
            },
            annotation_clip=False,
        )
    if attacked:
        ax.plot(
            curve.horizon if median.value is None else median.value,
            place,
            marker=look.marker,
            markersize=6,
            color=look.color,
            markerfacecolor=PAPER if beyond else look.color,
            markeredgewidth=1.2,
            zorder=5,
            clip_on=False,
        )
    ax.annotate(
        f"{sum(row.detected for row in attacked)}/{len(attacked)}",
        (1.0, place),
        xytext=(16, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center",
        fontsize=7,
        color=MUTED,
        annotation_clip=False,
    )


def _curve_line(ax: Axes, runs: Sequence[Row], look: _Look, horizon: float) -> float:
    """Draw one profile's curve and return the share detected at its end, in percent."""
    curve = detection_curve(runs)
    times = [0.0, *curve.times, max(curve.horizon, *curve.times, 0.0)]
    found = [0.0, *(100 * (1 - s) for s in curve.share)]
    found.append(found[-1])
    upper = [0.0, *(100 * (1 - s) for s in curve.low)]
    lower = [0.0, *(100 * (1 - s) for s in curve.high)]
    ax.fill_between(
        times,
        [*lower, lower[-1]],
        [*upper, upper[-1]],
        step="post",
        color=look.color,
        alpha=0.10,
        linewidth=0,
        zorder=2,
    )
    # Once all are detected they stay so: that part of the line needs no further observation.
    reach = [*times[:-1], max(times[-1], horizon) if found[-1] >= 100 else times[-1]]
    ax.plot(reach, found, drawstyle="steps-post", color=look.color, linewidth=1.4, zorder=3)
    if curve.times:
        ax.plot(
            curve.times,
            found[1:-1],
            linestyle="none",
            marker=look.marker,
            markersize=3.6,
            color=look.color,
            zorder=4,
        )
    for mark in sorted(set(curve.censored)):
        height = found[sum(t <= mark for t in curve.times)]
        ax.plot(mark, height, marker="|", markersize=7, color=look.color, markeredgewidth=1.2, zorder=4)
    return found[-1]


def _end_labels(ax: Axes, ends: Sequence[float], profiles: Sequence[str], looks: Mapping[str, _Look]) -> None:
    """Name each curve at its right end instead of in a legend, moved apart where ends coincide."""
    from matplotlib.transforms import offset_copy

    order = sorted(range(len(ends)), key=lambda i: (ends[i], i))
    spread = _spread([min((ends[i] + 4) / 108, 0.96) for i in order], 0.085, top=0.96)  # below the title
    for place, i in zip(spread, order, strict=True):
        look = looks[profiles[i]]
        ax.plot(
            1.0,
            place,
            transform=offset_copy(ax.transAxes, ax.get_figure(root=True), x=7, units="points"),
            marker=look.marker,
            markersize=4.5,
            color=look.color,
            clip_on=False,
        )
        ax.annotate(
            short(profiles[i], 22),
            (1.0, place),
            xytext=(13, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            fontsize=7,
            annotation_clip=False,
        )


def _availability_points(ax: Axes, runs: Sequence[Row], look: _Look, shift: float, step: float) -> None:
    for at, name in enumerate(FUNCTIONS):
        shares = [100 * row.availability[name] for row in runs if name in row.availability]
        mean = mean_interval(shares)
        if mean.value is None:
            continue
        ax.plot(
            [at + shift + 0.36 * step] * len(shares),
            shares,
            linestyle="none",
            marker="o",
            markersize=1.8,
            markeredgewidth=0,
            color=look.color,
            alpha=0.7,
            zorder=2,
        )
        if mean.low is not None and mean.high is not None:
            ax.plot([at + shift] * 2, [mean.low, mean.high], color=look.color, linewidth=1.3, zorder=3)
        ax.plot(
            at + shift,
            mean.value,
            marker=look.marker,
            markersize=4.4,
            color=look.color,
            markeredgecolor=PAPER,
            markeredgewidth=0.5,
            zorder=4,
        )


def _legend(figure: Figure, looks: Mapping[str, _Look]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [], [], color=look.color, marker=look.marker, markersize=5, linewidth=1.4, label=short(name, 30)
        )
        for name, look in looks.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(max(len(handles), 1), 5))


def _label_bottom(axes: Sequence[Axes], count: int, text: str) -> None:
    if count == 0:
        return
    columns = 2 if count > 1 else 1
    for ax in axes[max(0, count - columns) : count]:
        ax.set_xlabel(text)


def _spread(places: Sequence[float], gap: float, top: float = 1.0) -> list[float]:
    """Move ascending ``places`` (shares of an axis) apart to at least ``gap``, about their middle, up to ``top``."""
    moved = list(places)
    for _ in range(60):
        for i, (below, above) in enumerate(pairwise(moved)):
            lack = gap - (above - below)
            if lack > 1e-6:
                moved[i] -= lack / 2
                moved[i + 1] += lack / 2
        moved = [min(max(p, 0.0), top) for p in moved]
    return moved
