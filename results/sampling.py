"""How many runs: advice before a campaign, and when to stop one.

Every rule states what it supposes. Runs are independent given their seeds; arms that are compared share seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, stdev

from results.statistics import wilson

_NORMAL = NormalDist()


def runs_for_share(half_width: float, guess: float = 0.5, confidence: float = 0.95) -> int:
    """Runs until Wilson's interval of a share near ``guess`` is at most ``half_width`` to either side of its middle."""
    if not 0 < half_width < 1:
        raise ValueError(f"a half width of {half_width:g} is not between 0 and 1")
    runs = 1
    while True:
        found = wilson(round(guess * runs), runs, confidence)
        assert found.low is not None
        assert found.high is not None
        if (found.high - found.low) / 2 <= half_width:
            return runs
        runs = max(runs + 1, math.ceil(runs * 1.02))


def runs_for_difference(effect: float, spread: float, power: float = 0.8, confidence: float = 0.95) -> int:
    """Pairs of runs that show a mean paired difference of ``effect`` where differences spread by ``spread`` (sd).

    Two-sided normal approximation, one pair added for the estimated spread (Guenther 1981).
    """
    if effect <= 0 or spread < 0:
        raise ValueError("an effect is above 0 and a spread not below")
    z = _NORMAL.inv_cdf(0.5 + confidence / 2) + _NORMAL.inv_cdf(power)
    return max(2, math.ceil((z * spread / effect) ** 2 + _NORMAL.inv_cdf(0.5 + confidence / 2) ** 2 / 2))


def runs_for_shares(first: float, second: float, power: float = 0.8, confidence: float = 0.95) -> int:
    """Runs of each arm that tell two shares apart: arcsine approximation (Cohen 1988)."""
    if first == second:
        raise ValueError("two equal shares cannot be told apart")
    distance = abs(2 * math.asin(math.sqrt(first)) - 2 * math.asin(math.sqrt(second)))
    z = _NORMAL.inv_cdf(0.5 + confidence / 2) + _NORMAL.inv_cdf(power)
    return max(2, math.ceil(2 * (z / distance) ** 2))


def detections_for_ratio(ratio: float, power: float = 0.8, confidence: float = 0.95) -> int:
    """Detections in both arms together that show a hazard ratio by the log-rank test (Schoenfeld 1981), equal arms."""
    if ratio <= 0 or ratio == 1:
        raise ValueError("a hazard ratio is above 0 and not 1")
    z = _NORMAL.inv_cdf(0.5 + confidence / 2) + _NORMAL.inv_cdf(power)
    return math.ceil(4 * (z / math.log(ratio)) ** 2)


@dataclass(frozen=True, slots=True)
class Stop:
    """Whether to stop: ``half_width`` is what the interval has come to, ``more`` a guess of runs still to do."""

    enough: bool
    half_width: float | None
    more: int


def enough(values: Sequence[float], within: float, least: int = 10, confidence: float = 0.95) -> Stop:
    """Whether the mean of ``values`` is known to ``within``: the fixed-width rule of Chow and Robbins (1965).

    The variance gets 1/n added, as in the paper, so that a few equal values do not stop at once; never before
    ``least`` runs. The coverage of the interval then approaches ``confidence`` as ``within`` becomes small.
    """
    count = len(values)
    if count < 2:
        return Stop(False, None, max(least - count, 1))
    z = _NORMAL.inv_cdf(0.5 + confidence / 2)
    spread = math.sqrt(stdev(values) ** 2 + 1 / count * within**2)
    half = z * spread / math.sqrt(count)
    wanted = max(least, math.ceil((z * spread / within) ** 2))
    return Stop(half <= within and count >= least, half, max(0, wanted - count))


def enough_share(
    successes: int, trials: int, within: float, least: int = 10, confidence: float = 0.95
) -> Stop:
    """Whether a share is known to ``within``, by Wilson's interval."""
    if trials == 0:
        return Stop(False, None, least)
    found = wilson(successes, trials, confidence)
    assert found.low is not None
    assert found.high is not None
    half = (found.high - found.low) / 2
    wanted = max(least, runs_for_share(within, successes / trials, confidence))
    return Stop(half <= within and trials >= least, half, max(0, wanted - trials))
