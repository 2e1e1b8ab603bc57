"""From rows to estimates with intervals: every number of a report is computed here.

All intervals are two-sided 95 % unless an argument says otherwise. Nothing is drawn from a generator that is not
seeded by an argument, and no result depends on the order of the rows. Methods, their sources and their measured
coverage are in docs/explanation/statistics.md.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median as plain_median
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import special  # not scipy.stats: its import takes longer than every computation here

from results.rows import FUNCTIONS, NO_ATTACK, Row
from testbed.errors import RunError

CONFIDENCE: Final = 0.95
RESAMPLES: Final = 9_999  # Monte-Carlo error of a 2.5 % tail: sqrt(0.025 * 0.975 / 9999), below 0.2 %
DAY: Final = 86_400.0  # s
_TIE: Final = 1e-9  # a product of quotients reaches 0.5 only to within rounding


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval. ``None`` means not known: no data, or (survival) not reached."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


def wilson(successes: int, trials: int, confidence: float = CONFIDENCE) -> Estimate:
    """Return a share with Wilson's score interval (Wilson 1927); all ``None`` without trials."""
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials cannot be")
    if trials == 0:
        return Estimate()
    z = _z(confidence)
    share = successes / trials
    shrink = 1 + z * z / trials
    center = (share + z * z / (2 * trials)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    # At 0 and n the limit is exactly 0 and 1; the formula misses it by rounding.
    low = 0.0 if successes == 0 else center - half
    high = 1.0 if successes == trials else center + half
    return Estimate(share, low, high)


def poisson_rate(count: float, exposure: float, confidence: float = CONFIDENCE) -> Estimate:
    """Return a rate per unit of ``exposure`` with Garwood's exact interval (Garwood 1936).

    All ``None`` without exposure. The interval supposes that events come singly and independently.
    """
    if count < 0 or exposure < 0:
        raise ValueError(f"a count of {count} in {exposure} cannot be")
    if exposure == 0:
        return Estimate()
    tail = (1 - confidence) / 2
    low = float(special.gammaincinv(count, tail)) if count > 0 else 0.0
    high = float(special.gammaincinv(count + 1, 1 - tail))
    return Estimate(count / exposure, low / exposure, high / exposure)


# --- times that may be censored ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Survival:
    """A Kaplan-Meier curve: the share for which the event has not come by each of ``times``.

    Sequences run over the distinct event times, ascending; before the first of them the share is 1. ``low`` and
    ``high`` are the pointwise band. ``censored`` holds the times at which observation ended without the event,
    ``horizon`` the longest observation of all (0 without data).
    """

    n: int
    times: tuple[float, ...]
    share: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    censored: tuple[float, ...]
    horizon: float


def survival_curve(
    times: Sequence[float], happened: Sequence[bool], confidence: float = CONFIDENCE
) -> Survival:
    """Return the Kaplan-Meier estimate with the log-log Greenwood band.

    ``times[i]`` is when the event came (``happened[i]``) or when observation ended. An event and an end at the
    same time count as event first. Where the share is 0 the log-log band does not exist; the upper limit there
    is the exact binomial one for none left of those seen to have the event, so that ties do not read as no
    knowledge at all.
    """
    duration = np.asarray(times, dtype=float)
    event = np.asarray(happened, dtype=bool)
    if duration.shape != event.shape or duration.ndim != 1:
        raise ValueError("times and happened must be of one length")
    z = _z(confidence)
    share, variance, seen = 1.0, 0.0, 0
    marks = [float(t) for t in np.unique(duration[event])]
    shares, lows, highs = [], [], []
    for mark in marks:
        at_risk = int((duration >= mark).sum())
        events = int((duration[event] == mark).sum())
        seen += events
        share *= 1 - events / at_risk
        if events == at_risk:
            low, high = 0.0, 1 - ((1 - confidence) / 2) ** (1 / seen)
        else:
            variance += events / (at_risk * (at_risk - events))  # Greenwood 1926
            spread = z * math.sqrt(variance) / abs(math.log(share))
            low, high = share ** math.exp(spread), share ** math.exp(-spread)
        shares.append(share)
        lows.append(low)
        highs.append(high)
    return Survival(
        n=len(duration),
        times=tuple(marks),
        share=tuple(shares),
        low=tuple(lows),
        high=tuple(highs),
        censored=tuple(sorted(float(t) for t in duration[~event])),
        horizon=float(duration.max()) if len(duration) else 0.0,
    )


def median_time(curve: Survival) -> Estimate:
    """Return the first time at which half have had the event, with the interval of Brookmeyer & Crowley (1982).

    The interval holds the times whose band contains one half. A part that the curve does not reach within its
    observation is ``None``; of a single observation the whole interval is.
    """
    value = _first_at(curve.times, curve.share)
    if curve.n < 2:
        return Estimate(value)
    return Estimate(value, _first_at(curve.times, curve.low), _first_at(curve.times, curve.high))


def logrank(
    times_a: Sequence[float], happened_a: Sequence[bool], times_b: Sequence[float], happened_b: Sequence[bool]
) -> float | None:
    """Return the two-sided p-value of the log-rank test (Mantel 1966), or None where no event can tell."""
    durations = np.concatenate([np.asarray(times_a, dtype=float), np.asarray(times_b, dtype=float)])
    events = np.concatenate([np.asarray(happened_a, dtype=bool), np.asarray(happened_b, dtype=bool)])
    in_a = np.arange(len(durations)) < len(times_a)
    excess, variance = 0.0, 0.0
    for mark in np.unique(durations[events]):
        risk = durations >= mark
        now = events & (durations == mark)
        n, n_a, d = int(risk.sum()), int((risk & in_a).sum()), int(now.sum())
        excess += int((now & in_a).sum()) - d * n_a / n
        if n > 1:
            variance += d * (n_a / n) * (1 - n_a / n) * (n - d) / (n - 1)
    if variance <= 0:
        return None
    return float(special.chdtrc(1, excess * excess / variance))


# --- means ------------------------------------------------------------------------------------------------------


def mean_interval(values: Sequence[float], seed: int = 0, confidence: float = CONFIDENCE) -> Estimate:
    """Return the mean with an expanded BCa bootstrap interval.

    The interval never leaves the range of ``values``, so the mean of shares stays within 0 and 1. It is None for
    fewer than two values, and for values that are all equal: resampling them says nothing about the spread of
    those not seen.
    """
    ordered = sorted(values)
    if not ordered:
        return Estimate()
    mean = math.fsum(ordered) / len(ordered)
    if ordered[0] == ordered[-1]:
        return Estimate(ordered[0])
    low, high = bca(ordered, seed, _expanded(confidence, len(ordered)))
    return Estimate(mean, low, high)


def paired_difference(
    ours: Mapping[int, float], theirs: Mapping[int, float], seed: int = 0, confidence: float = CONFIDENCE
) -> Estimate:
    """Return the mean of ``ours[s] - theirs[s]`` over the run seeds ``s`` that both have, as ``mean_interval``.

    Runs of one seed share their luck, so the difference is far less noisy than the two means.
    """
    shared = sorted(ours.keys() & theirs.keys())
    return mean_interval([ours[s] - theirs[s] for s in shared], seed, confidence)


def bca(values: Sequence[float], seed: int, confidence: float) -> tuple[float, float]:
    """Return the bias-corrected and accelerated bootstrap interval of the mean (Efron 1987).

    Raises ValueError unless at least two of ``values`` differ.
    """
    sample = np.asarray(values, dtype=float)
    if len(sample) < 2 or sample.min() == sample.max():
        raise ValueError("a bootstrap needs at least two different values")
    deviation = sample - sample.mean()
    deviation /= np.abs(deviation).max()  # the acceleration has no unit; powers of tiny numbers would vanish
    # Jackknife of a mean, written out: leaving out x moves the mean by (mean - x) / (n - 1).
    acceleration = float((deviation**3).sum()) / (6 * float((deviation**2).sum()) ** 1.5)
    means = np.sort(_resampled_means(sample, seed))
    below = (
        np.searchsorted(means, sample.mean(), "left") + np.searchsorted(means, sample.mean(), "right")
    ) / 2
    bias = float(special.ndtri(min(max(below, 0.5), len(means) - 0.5) / len(means)))
    z = _z(confidence)
    shares = []
    for point in (-z, z):
        moved = bias + point
        shares.append(float(special.ndtr(bias + moved / max(1 - acceleration * moved, 1e-12))))
    low, high = np.quantile(means, shares)
    return float(low), float(high)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values adjusted for their number (Holm 1979); None stays None and is not counted."""
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        adjusted[index] = largest
    return adjusted


# --- the summary of a campaign ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cell:
    """What the runs of one scenario under one profile say together.

    Counts are of runs. ``attacked`` is how many of the ``n`` runs an attacker acted in, and the base of
    ``detected``, ``impacted`` and ``contained``; ``forewarned`` is how many were detected no later than their
    first impact (or had none). Times in seconds after the attack's first action; where a ``..._time`` has no
    value it is longer than ``horizon``. ``false_alarms_per_day`` comes from the ``quiet_days`` of attack-free
    runs under the same profile. The plain means (floats) are per run.
    """

    site: str
    scenario: str
    profile: str
    level: int | None
    n: int
    attacked: int
    detected: int
    detection: Estimate
    detection_time: Estimate
    horizon: float
    forewarned: int
    impacted: int
    impact: Estimate
    contained: int
    contained_time: Estimate
    blocked: int
    availability: dict[str, Estimate]
    unsafe_seconds: Estimate
    production_lost: Estimate
    false_alarms_per_day: Estimate
    quiet_days: float
    trips_true: float
    trips_spurious: float
    logins: float
    failed_logins: float
    lockouts: float
    missed_deadlines: float
    operator_delay: float | None
    rules: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One profile against the baseline profile in one scenario, on the ``pairs`` seeds that both ran.

    ``detection_p`` is the log-rank p-value over all runs of both, ``detection_p_adjusted`` the same after Holm
    over every comparison of the campaign. Differences are profile minus baseline.
    """

    site: str
    scenario: str
    profile: str
    baseline: str
    pairs: int
    detection_p: float | None
    detection_p_adjusted: float | None
    availability: dict[str, Estimate]
    unsafe_seconds: Estimate
    production_lost: Estimate


def distinct(rows: Iterable[Row]) -> list[Row]:
    """Return the rows in the order of every table, each run once.

    Attack-free first, then scenarios by name; profiles by level, those without a level last. Raises RunError when
    two different rows claim to be the same run.
    """
    runs: dict[tuple[str, str, str, int], Row] = {}
    for row in rows:
        name = (row.site, row.scenario, row.profile, row.seed)
        if runs.setdefault(name, row) != row:
            raise RunError(
                f"two different results for site {row.site!r}, scenario {row.scenario!r}, "
                f"profile {row.profile!r}, seed {row.seed}: do not mix campaigns in one summary"
            )
    return sorted(runs.values(), key=_table_order)


def by_cell(rows: Iterable[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """Return ``distinct`` rows under (site, scenario, profile), in table order."""
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in distinct(rows):
        groups[row.site, row.scenario, row.profile].append(row)
    return dict(groups)


def detection_curve(rows: Iterable[Row]) -> Survival:
    """Return the curve of not yet being detected over the attacked of ``rows``."""
    return _curve([(row, row.detection_time) for row in rows if row.attacked])


def summarize(rows: Iterable[Row], seed: int = 0) -> list[Cell]:
    """Return one cell for each site, scenario and profile, in table order.

    ``seed`` drives the bootstrap. Raises RunError when two different rows claim to be the same run.
    """
    groups = by_cell(rows)
    return [
        _cell(members, groups.get((site, NO_ATTACK, profile), []), seed)
        for (site, _scenario, profile), members in groups.items()
    ]


def compare(rows: Iterable[Row], seed: int = 0) -> list[Comparison]:
    """Return each profile against the first (lowest) profile of its scenario, in table order."""
    groups = by_cell(rows)
    baselines: dict[tuple[str, str], str] = {}
    for site, scenario, profile in groups:
        baselines.setdefault((site, scenario), profile)
    pairs = [
        (members, groups[site, scenario, baselines[site, scenario]])
        for (site, scenario, profile), members in groups.items()
        if profile != baselines[site, scenario]
    ]
    p_values = [_detection_p(ours, theirs) for ours, theirs in pairs]
    return [
        _comparison(ours, theirs, p, adjusted, seed)
        for (ours, theirs), p, adjusted in zip(pairs, p_values, holm(p_values), strict=True)
    ]


def _cell(rows: Sequence[Row], quiet: Sequence[Row], seed: int) -> Cell:
    first = rows[0]
    attacked = [row for row in rows if row.attacked]
    detected = [row for row in attacked if row.detected]
    impacted = [row for row in attacked if row.impact_time is not None]
    curve = detection_curve(rows)
    quiet_days = math.fsum(row.duration for row in quiet) / DAY
    rules: dict[str, int] = defaultdict(int)
    for row in detected:
        rules[row.detected_by or "not recorded"] += 1
    delays = [row.operator_delay for row in rows if row.operator_delay is not None]
    return Cell(
        site=first.site,
        scenario=first.scenario,
        profile=first.profile,
        level=first.level,
        n=len(rows),
        attacked=len(attacked),
        detected=len(detected),
        detection=wilson(len(detected), len(attacked)),
        detection_time=median_time(curve),
        horizon=curve.horizon,
        forewarned=sum(_forewarned(row) for row in detected),
        impacted=len(impacted),
        impact=wilson(len(impacted), len(attacked)),
        contained=sum(row.contained_time is not None for row in attacked),
        contained_time=median_time(_curve([(row, row.contained_time) for row in attacked])),
        blocked=sum(row.attack_blocked for row in attacked),
        availability={
            name: mean_interval([row.availability[name] for row in rows if name in row.availability], seed)
            for name in FUNCTIONS
        },
        unsafe_seconds=mean_interval([row.unsafe_seconds for row in rows], seed),
        production_lost=mean_interval([row.production_lost for row in rows], seed),
        false_alarms_per_day=poisson_rate(math.fsum(row.false_alarms for row in quiet), quiet_days),
        quiet_days=quiet_days,
        trips_true=_mean([row.trips_true for row in rows]),
        trips_spurious=_mean([row.trips_spurious for row in rows]),
        logins=_mean([row.logins for row in rows]),
        failed_logins=_mean([row.failed_logins for row in rows]),
        lockouts=_mean([row.lockouts for row in rows]),
        missed_deadlines=_mean([row.missed_deadlines for row in rows]),
        operator_delay=plain_median(delays) if delays else None,
        rules=dict(sorted(rules.items(), key=lambda item: (-item[1], item[0]))),
    )


def _comparison(
    ours: Sequence[Row], theirs: Sequence[Row], p: float | None, adjusted: float | None, seed: int
) -> Comparison:
    first = ours[0]
    return Comparison(
        site=first.site,
        scenario=first.scenario,
        profile=first.profile,
        baseline=theirs[0].profile,
        pairs=len({row.seed for row in ours} & {row.seed for row in theirs}),
        detection_p=p,
        detection_p_adjusted=adjusted,
        availability={
            name: paired_difference(_availability(ours, name), _availability(theirs, name), seed)
            for name in FUNCTIONS
        },
        unsafe_seconds=paired_difference(
            {row.seed: row.unsafe_seconds for row in ours},
            {row.seed: row.unsafe_seconds for row in theirs},
            seed,
        ),
        production_lost=paired_difference(
            {row.seed: row.production_lost for row in ours},
            {row.seed: row.production_lost for row in theirs},
            seed,
        ),
    )


def _availability(rows: Iterable[Row], name: str) -> dict[int, float]:
    return {row.seed: row.availability[name] for row in rows if name in row.availability}


def _forewarned(row: Row) -> bool:
    return row.detection_time is not None and (
        row.impact_time is None or row.detection_time <= row.impact_time
    )


def _curve(timed: Sequence[tuple[Row, float | None]]) -> Survival:
    return survival_curve(
        [row.observed if time is None else time for row, time in timed],
        [time is not None for _, time in timed],
    )


def _detection_p(ours: Iterable[Row], theirs: Iterable[Row]) -> float | None:
    arms = [
        ([row.observed if row.detection_time is None else row.detection_time for row in arm], arm)
        for arm in ([row for row in side if row.attacked] for side in (ours, theirs))
    ]
    (times_a, rows_a), (times_b, rows_b) = arms
    if not rows_a or not rows_b:
        return None
    return logrank(times_a, [row.detected for row in rows_a], times_b, [row.detected for row in rows_b])


def _table_order(row: Row) -> tuple[str, bool, str, bool, int, str, int]:
    unleveled = row.level is None
    return (
        row.site,
        row.scenario != NO_ATTACK,
        row.scenario,
        unleveled,
        row.level or 0,
        row.profile,
        row.seed,
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies between 0 and 1, not {confidence}")
    return float(special.ndtri((1 + confidence) / 2))


def _expanded(confidence: float, n: int) -> float:
    """Return the nominal level at which a bootstrap interval is as wide as Student's (Hesterberg 2015).

    A bootstrap takes the n-divisor spread for the true one and a normal quantile for Student's, which makes plain
    intervals of ten values cover about 90 %.
    """
    student = float(special.stdtrit(n - 1, (1 + confidence) / 2))
    # Beyond 1 - 1e-12 the quantile is the extreme resample anyway.
    return min(float(2 * special.ndtr(math.sqrt(n / (n - 1)) * student) - 1), 1 - 1e-12)


def _first_at(times: Sequence[float], share: Sequence[float]) -> float | None:
    return next((t for t, s in zip(times, share, strict=True) if s <= 0.5 + _TIE), None)


def _resampled_means(sample: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    n = len(sample)
    generator = np.random.PCG64(seed)
    means = np.empty(RESAMPLES)
    block = max(1, 1_000_000 // n)  # bounds the memory of a long campaign
    for start in range(0, RESAMPLES, block):
        rows = min(block, RESAMPLES - start)
        # The raw stream is fixed for all releases of numpy (NEP 19); its distributions are not. Taking the top
        # 32 bits times n leaves a bias below n / 2**32.
        raw = generator.random_raw(rows * n) >> np.uint64(32)
        index = (raw * np.uint64(n)) >> np.uint64(32)
        means[start : start + rows] = sample[index.astype(np.intp)].reshape(rows, n).mean(axis=1)
    return means
