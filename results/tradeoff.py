"""Sets of controls weighed against each other: which of them no other beats, and what one step from a set changes.

Everything is to be made small: risk (harm that attacks do), lost availability without an attack, the delay of operators
in emergencies, and cost. Sets share their run seeds, so that differences are paired.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from results.rows import Row
from results.statistics import Estimate, mean_interval, paired_difference

#: Objective -> its unit, in the order of every table.
OBJECTIVES: Final[Mapping[str, str]] = {
    "risk": "% of the time after an attack's first action",
    "availability lost": "% of the time without an attack",
    "operators' delay": "s from alarm to action",
    "cost": "units",
}
Verdict = Literal["take it", "leave it", "a trade", "no difference seen"]


@dataclass(frozen=True, slots=True)
class Point:
    """One measured set: ``values[objective][seed]``; cost is the same for every seed. ``key`` tells sets apart."""

    key: str
    values: Mapping[str, Mapping[int, float]]
    #: attack scenario -> harm in percent, mean over the seeds
    harm: Mapping[str, float]

    def mean(self, objective: str) -> float:
        """Mean over the seeds."""
        found = self.values[objective]
        return math.fsum(found.values()) / len(found)

    def estimate(self, objective: str) -> Estimate:
        """Mean with its bootstrap interval; none where all seeds are equal or there is one."""
        return mean_interval([value for _, value in sorted(self.values[objective].items())])


def harm(row: Row, quiet: Row) -> float:
    """Percent of the time after the attack's first action that it took of what it hit hardest.

    That is an essential function's availability beyond what the same controls cost without an attack, or the time
    outside the safe envelope; 0 where nothing was lost, or nobody acted.
    """
    if row.attack_start is None or row.observed <= 0:
        return 0.0
    losses = [
        quiet.availability[name] - share
        for name, share in row.availability.items()
        if name in quiet.availability
    ]
    unsafe = row.unsafe_seconds / row.observed - quiet.unsafe_seconds / quiet.duration
    return 100 * min(1.0, max(0.0, unsafe, *losses))


def availability_lost(quiet: Row) -> float:
    """Percent of the time of an attack-free run without the essential function that is there least."""
    return 100 * (1 - min(quiet.availability.values(), default=1.0))


def delay(row: Row) -> float:
    """Seconds from an emergency's alarm to the operator's action; all of the run where it was not done."""
    return row.duration if row.operator_delay is None else row.operator_delay


def dominates(one: Point, other: Point) -> bool:
    """Whether ``one`` is nowhere worse and somewhere better than ``other``, by the means."""
    pairs = [(one.mean(name), other.mean(name)) for name in one.values]
    return all(a <= b + 1e-9 for a, b in pairs) and any(a < b - 1e-9 for a, b in pairs)


def front(points: Iterable[Point]) -> list[Point]:
    """The points that none dominates, by risk, each set of values once (the first of them)."""
    found = list(
        {tuple(round(p.mean(name), 9) for name in p.values): p for p in reversed(list(points))}.values()
    )
    best = [one for one in found if not any(dominates(other, one) for other in found)]
    return sorted(best, key=lambda p: (*(round(p.mean(name), 9) for name in p.values), p.key))


def balanced(points: Sequence[Point], limits: Mapping[str, float] | None = None) -> Point | None:
    """The point of a front that is nearest to the best of each objective, each scaled by the front's own range.

    ``limits`` are the largest means allowed; None where no point keeps them.
    """
    kept = [p for p in points if all(p.mean(name) <= most + 1e-9 for name, most in (limits or {}).items())]
    if not kept:
        return None
    spans = {}
    for name in points[0].values:
        means = [p.mean(name) for p in points]
        spans[name] = (min(means), (max(means) - min(means)) or 1.0)
    return min(
        kept,
        key=lambda p: (
            round(math.fsum(((p.mean(name) - low) / span) ** 2 for name, (low, span) in spans.items()), 12),
            p.key,
        ),
    )


@dataclass(frozen=True, slots=True)
class Change:
    """What one step from a set does: differences to it by objective, paired by seed, and where harm changes most."""

    step: str
    differences: Mapping[str, Estimate]
    verdict: Verdict
    why: str


def change(step: str, after: Point, before: Point, names: Sequence[str]) -> Change:
    """Judge a step; ``names`` are the requirements or countermeasures that it puts in force or takes away."""
    found = {name: paired_difference(after.values[name], before.values[name]) for name in before.values}
    better = [name for name, one in found.items() if _sure(one) < 0]
    worse = [name for name, one in found.items() if _sure(one) > 0]
    verdict: Verdict = (
        "a trade"
        if better and worse
        else "take it"
        if better
        else "leave it"
        if worse
        else "no difference seen"
    )
    moved = sorted(
        ((after.harm[name] - before.harm[name], name) for name in before.harm),
        key=lambda item: (-abs(item[0]), item[1]),
    )
    told = [f"better: {', '.join(better)}"] if better else []
    told += [f"worse: {', '.join(worse)}"] if worse else []
    told += [f"harm by {name} {amount:+.1f} points" for amount, name in moved[:2] if abs(amount) >= 0.05]
    told += [", ".join(names)] if names else []
    return Change(step, found, verdict, "; ".join(told))


def _sure(one: Estimate) -> int:
    """-1 or 1 where the interval lies on one side of zero, or where all pairs agree; else 0."""
    if one.value is None or abs(one.value) < 1e-9:
        return 0
    if one.low is None or one.high is None:
        return -1 if one.value < 0 else 1
    return -1 if one.high < 0 else 1 if one.low > 0 else 0
