"""Which of several things matters most: attribution over on/off controls, and sensitivity to numbers.

Shapley values share an outcome among the foundational requirements so that the shares add up to what all of them change
together, whatever the order in which they are put in force. Sobol indices share the variance of an outcome among
numbers that are uncertain. A tornado is the plainest: one thing at a time, the rest as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from results.statistics import Estimate

Subset = frozenset[str]
#: outcome by seed
Outcomes = Mapping[int, float]


def subsets(players: Sequence[str]) -> Iterator[Subset]:
    """Every subset, the smallest first."""
    for size in range(len(players) + 1):
        for members in combinations(players, size):
            yield frozenset(members)


def shapley(value: Mapping[Subset, float], players: Sequence[str]) -> dict[str, float]:
    """Return each player's share of ``value[all] - value[none]`` (Shapley 1953), exact over all 2**n subsets.

    Raises KeyError for a subset without a value.
    """
    count = len(players)
    weights = [
        math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
        for size in range(count)
    ]
    shares = dict.fromkeys(players, 0.0)
    for player in players:
        others = [one for one in players if one != player]
        for members in subsets(others):
            shares[player] += weights[len(members)] * (value[members | {player}] - value[members])
    return shares


def shapley_intervals(
    outcomes: Mapping[Subset, Outcomes],
    players: Sequence[str],
    seed: int = 0,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> dict[str, Estimate]:
    """Return each player's share of the mean outcome, with a percentile bootstrap interval over the run seeds.

    Arms share their seeds (common random numbers), so a seed is resampled for all subsets at once. Seeds that any
    subset lacks are left out; with fewer than two there is no interval.
    """
    seeds = sorted(set.intersection(*(set(one) for one in outcomes.values())))
    if not seeds:
        return {player: Estimate() for player in players}
    by_seed = [shapley({subset: one[run] for subset, one in outcomes.items()}, players) for run in seeds]
    table = np.array([[shares[player] for player in players] for shares in by_seed])
    means = table.mean(axis=0)
    if len(seeds) < 2:
        return {player: Estimate(float(mean)) for player, mean in zip(players, means, strict=True)}
    generator = np.random.default_rng(seed)
    drawn = table[generator.integers(0, len(seeds), (resamples, len(seeds)))].mean(axis=1)
    tail = (1 - confidence) / 2 * 100
    low, high = np.percentile(drawn, [tail, 100 - tail], axis=0)
    return {
        player: Estimate(float(means[at]), float(low[at]), float(high[at]))
        for at, player in enumerate(players)
    }


@dataclass(frozen=True, slots=True)
class SobolDesign:
    """Points of Saltelli's scheme in the unit cube: ``a`` and ``b`` (n x d), and ``a`` with each column from ``b``.

    ``points`` are all of them, (d + 2) * n rows, in the order in which ``sobol_indices`` takes outcomes.
    """

    names: tuple[str, ...]
    points: NDArray[np.float64]
    n: int


def sobol_design(names: Sequence[str], n: int, seed: int = 0) -> SobolDesign:
    """Return the points for ``n`` base samples (a power of two) of scrambled Sobol sequences.

    Raises ValueError for another ``n``.
    """
    from scipy.stats import qmc

    if n < 2 or n & (n - 1):
        raise ValueError(f"{n} samples: give a power of two, which a Sobol sequence is balanced for")
    dimensions = len(names)
    sampler = qmc.Sobol(2 * dimensions, rng=np.random.default_rng(seed))
    base = sampler.random(n)
    a, b = base[:, :dimensions], base[:, dimensions:]
    mixed = []
    for column in range(dimensions):
        one = a.copy()
        one[:, column] = b[:, column]
        mixed.append(one)
    return SobolDesign(tuple(names), np.vstack([a, b, *mixed]), n)


def sobol_indices(
    design: SobolDesign, outcomes: Sequence[float], seed: int = 0
) -> dict[str, tuple[Estimate, Estimate]]:
    """Return (first-order, total) indices by name, estimators of Saltelli et al. 2010, with bootstrap intervals.

    ``outcomes`` belong to ``design.points``. All None where the outcome does not vary. Raises ValueError for another
    number of outcomes.
    """
    values = np.asarray(outcomes, dtype=float)
    dimensions = len(design.names)
    if len(values) != design.n * (dimensions + 2):
        raise ValueError(f"{len(values)} outcomes for {design.n * (dimensions + 2)} points")
    split = values.reshape(dimensions + 2, design.n)
    if np.ptp(split[:2]) == 0:
        return {name: (Estimate(), Estimate()) for name in design.names}

    def indices(rows: NDArray[np.intp]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        a, b, mixed = split[0, rows], split[1, rows], split[2:, rows]
        variance = np.concatenate([a, b], axis=-1).var(axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            first = (b * (mixed - a)).mean(axis=-1) / variance
            total = ((a - mixed) ** 2).mean(axis=-1) / (2 * variance)
        return first, total

    first, total = indices(np.arange(design.n))
    generator = np.random.default_rng(seed)
    drawn = [indices(generator.integers(0, design.n, design.n)) for _ in range(500)]
    found = {}
    for at, name in enumerate(design.names):
        pair = []
        for which, value in ((0, first[at]), (1, total[at])):
            sample = np.array([one[which][at] for one in drawn])
            low, high = np.nanpercentile(sample, [2.5, 97.5])
            pair.append(Estimate(float(value), float(low), float(high)))
        found[name] = (pair[0], pair[1])
    return found


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a tornado: the outcome with one thing at its low and at its high value, the rest as it was."""

    name: str
    low: float
    high: float
    base: float

    @property
    def swing(self) -> float:
        """How far the outcome moves between the two."""
        return abs(self.high - self.low)


def tornado(outcome: Callable[[str, str], float], names: Sequence[str], base: float) -> list[Bar]:
    """Return the bars, the widest first; ``outcome(name, "low" or "high")`` is what came of it."""
    bars = [Bar(name, outcome(name, "low"), outcome(name, "high"), base) for name in names]
    return sorted(bars, key=lambda bar: (-bar.swing, bar.name))
