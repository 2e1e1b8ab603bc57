"""Missed deadlines against process safety time, from times that operators took to answer an alarm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from results.statistics import Estimate, paired_difference, wilson

#: Seconds from an alarm to the limit: one minute to four hours.
GRID: Final = (
    60.0, 75.0, 90.0, 105.0, 120.0, 150.0, 180.0, 210.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0,
    3600.0, 7200.0, 14_400.0,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ArmResult:
    """What one arm of the study measured: answers (s; None: not in the time watched), and intrusions that acted."""

    name: str
    answers: tuple[float | None, ...]
    acted: int
    tried: int

    def missed(self, within: float) -> Estimate:
        """Share of emergencies not answered ``within`` s, with Wilson's interval."""
        late = sum(1 for one in self.answers if one is None or one > within)
        return wilson(late, len(self.answers))

    @property
    def intruded(self) -> Estimate:
        """Share of intrusions that reached the process, with Wilson's interval."""
        return wilson(self.acted, self.tried)

    def total(self, within: float, intrusions: float, emergencies: float) -> Estimate:
        """Events a year that end badly, at rates a year, with bounds that both shares' uncertainty goes into.

        Bounds as of Zou and Donner (2008, MOVER): each part's distance from its own Wilson bound, squared and added.
        """
        shares = [(emergencies, self.missed(within))]
        if self.tried:
            shares.append((intrusions, self.intruded))
        value = below = above = 0.0
        for rate, one in shares:
            if one.value is None or one.low is None or one.high is None:
                return Estimate()
            value += rate * one.value
            below += (rate * (one.value - one.low)) ** 2
            above += (rate * (one.high - one.value)) ** 2
        return Estimate(value, value - math.sqrt(below), value + math.sqrt(above))


def slower(ours: ArmResult, theirs: ArmResult) -> Estimate:
    """By how many seconds answers of ``ours`` come later, paired by seed, over those that both gave.

    Bootstrap interval as of ``results.statistics.paired_difference``; no bounds where fewer than two differ.
    """
    return paired_difference(_timed(ours), _timed(theirs))


def _timed(arm: ArmResult) -> dict[int, float]:
    return {number: one for number, one in enumerate(arm.answers) if one is not None}


def worse_from(
    low: ArmResult, high: ArmResult, intrusions: float, emergencies: float, grid: Sequence[float] = GRID
) -> list[float]:
    """The process safety times of ``grid`` at which ``high`` has the larger total, by its mean."""
    found = []
    for within in grid:
        ours, theirs = (one.total(within, intrusions, emergencies).value for one in (high, low))
        if ours is not None and theirs is not None and ours > theirs + 1e-9:
            found.append(within)
    return found
