"""The statistics against scipy's own, against published examples, and against their promise of coverage."""

from __future__ import annotations

import itertools
import math
import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from results import statistics
from results.rows import FUNCTIONS, Row
from results.statistics import (
    Estimate,
    bca,
    compare,
    detection_curve,
    distinct,
    holm,
    logrank,
    mean_interval,
    median_time,
    paired_difference,
    poisson_rate,
    summarize,
    survival_curve,
    wilson,
)
from testbed.errors import RunError

# Remission of leukemia in weeks (Freireich et al. 1963), the example of most texts on survival.
TREATED = [6, 6, 6, 7, 10, 13, 16, 22, 23, 6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
TREATED_EVENT = [True] * 9 + [False] * 12
PLACEBO = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]
PLACEBO_EVENT = [True] * 21

observations = st.lists(st.tuples(st.integers(0, 30).map(float), st.booleans()), min_size=1, max_size=30)


def a_row(
    profile: str = "SL 0",
    seed: int = 1,
    scenario: str = "write",
    found: float | None = None,
    *,
    site: str = "works",
    level: int | None = 0,
    impact: float | None = 50.0,
    observed: float = 1000.0,
    acted: bool = True,
    view: float = 1.0,
    lost: float = 0.0,
    false_alarms: float = 0.0,
    duration: float = 43_200.0,
    rule: str | None = None,
) -> Row:
    quiet = scenario == "none" or not acted
    return Row(
        site=site,
        scenario=scenario,
        profile=profile,
        level=level,
        seed=seed,
        duration=duration,
        attack_start=None if quiet else 100.0,
        detected=found is not None,
        detection_time=found,
        detected_by=rule,
        observed=0.0 if quiet else observed,
        impact_time=None if quiet else impact,
        contained_time=None,
        availability={"view": view, "control": 1.0, "safety": 1.0, "production": 1.0},
        unsafe_seconds=0.0,
        trips_true=0,
        trips_spurious=0,
        production_lost=lost,
        logins=0,
        failed_logins=0,
        lockouts=0,
        operator_delay=None,
        missed_deadlines=0,
        false_alarms=false_alarms,
        attack_blocked=False,
    )


# --- shares and rates -------------------------------------------------------------------------------------------


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(pair: tuple[int, int]) -> None:
    k, n = pair
    theirs = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    ours = wilson(k, n)
    assert ours.value == k / n
    assert ours.low == pytest.approx(theirs.low, abs=1e-12)
    assert ours.high == pytest.approx(theirs.high, abs=1e-12)


def test_wilson_touches_its_ends_exactly_and_knows_nothing_of_no_trials() -> None:
    assert wilson(0, 7).low == 0.0
    assert wilson(7, 7).high == 1.0
    assert wilson(0, 0) == Estimate(None, None, None)


@pytest.mark.parametrize(("k", "n"), [(-1, 3), (4, 3), (0, -1)])
def test_wilson_refuses_what_cannot_be(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        wilson(k, n)


def test_a_poisson_interval_is_garwoods() -> None:
    """Ten events: 4.795 to 18.390, as printed in tables since Garwood (1936)."""
    ten = poisson_rate(10, 1)
    assert ten.low == pytest.approx(4.795, abs=5e-4)
    assert ten.high == pytest.approx(18.390, abs=5e-4)
    for count, days in itertools.product((0, 1, 3, 50), (0.5, 20.0)):
        rate = poisson_rate(count, days)
        low = stats.chi2.ppf(0.025, 2 * count) / 2 / days if count else 0.0
        assert rate.low == pytest.approx(low)
        assert rate.high == pytest.approx(stats.chi2.ppf(0.975, 2 * count + 2) / 2 / days)
        assert rate.value == count / days


def test_no_exposure_tells_nothing_and_no_event_still_has_an_upper_limit() -> None:
    assert poisson_rate(0, 0) == Estimate()
    none = poisson_rate(0, 2.0)
    assert (none.value, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(-math.log(0.025) / 2)


def test_the_exact_poisson_interval_covers_at_least_what_it_says() -> None:
    for mean in (0.1, 0.5, 1.0, 2.5, 7.0, 20.0):
        hit = sum(
            stats.poisson.pmf(count, mean)
            for count in range(100)
            if (rate := poisson_rate(count, 1)).low is not None
            and rate.high is not None
            and rate.low <= mean <= rate.high
        )
        assert hit >= 0.95


# --- survival ---------------------------------------------------------------------------------------------------


@settings(deadline=None)  # a loaded machine is no defect
@given(observations)
def test_the_curve_and_its_band_are_scipys(seen: list[tuple[float, bool]]) -> None:
    times, happened = [t for t, _ in seen], [h for _, h in seen]
    curve = survival_curve(times, happened)
    data = stats.CensoredData(uncensored=[t for t, h in seen if h], right=[t for t, h in seen if not h])
    theirs = stats.ecdf(data).sf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # scipy says that the band has no value at 0 and 1
        band = theirs.confidence_interval(0.95, method="log-log")
    assert np.allclose(theirs.evaluate(curve.times), curve.share)
    inside = [
        (t, low, high)
        for t, low, high, s in zip(curve.times, curve.low, curve.high, curve.share, strict=True)
        if s > 1e-9
    ]
    assert np.allclose(band.low.evaluate([t for t, _, _ in inside]), [low for _, low, _ in inside])
    assert np.allclose(band.high.evaluate([t for t, _, _ in inside]), [high for _, _, high in inside])


@given(observations)
def test_a_curve_only_falls_and_stays_within_its_band(seen: list[tuple[float, bool]]) -> None:
    curve = survival_curve([t for t, _ in seen], [h for _, h in seen])
    assert all(a > b for a, b in itertools.pairwise((1.0, *curve.share)))
    assert all(
        0 <= low <= share <= high <= 1
        for low, share, high in zip(curve.low, curve.share, curve.high, strict=True)
    )
    assert curve.horizon == max(t for t, _ in seen)
    assert len(curve.censored) == sum(not h for _, h in seen)


def test_the_published_medians_and_intervals_come_out() -> None:
    """Medians 23 and 8 weeks; 95 % log-log limits 13 to unknown, and 4 to 11."""
    assert median_time(survival_curve(TREATED, TREATED_EVENT)) == Estimate(23.0, 13.0, None)
    assert median_time(survival_curve(PLACEBO, PLACEBO_EVENT)) == Estimate(8.0, 4.0, 11.0)


def test_an_event_at_the_end_of_another_observation_counts_first() -> None:
    assert survival_curve([5.0, 5.0], [True, False]).share == (0.5,)


def test_a_median_that_is_not_reached_is_not_invented() -> None:
    assert median_time(
        survival_curve([10.0, 20.0, 1740.0, 1740.0, 1740.0], [True, True, False, False, False])
    ) == (Estimate(None, 10.0, None))


@pytest.mark.parametrize("happened", [True, False])
def test_one_run_has_no_interval(happened: bool) -> None:
    expected = 12.0 if happened else None
    assert median_time(survival_curve([12.0], [happened])) == Estimate(expected, None, None)


def test_all_censored_gives_no_median_and_no_interval() -> None:
    curve = survival_curve([1740.0] * 10, [False] * 10)
    assert curve.times == ()
    assert median_time(curve) == Estimate()
    assert curve.horizon == 1740.0


def test_no_observation_at_all_is_an_empty_curve() -> None:
    curve = survival_curve([], [])
    assert (curve.n, curve.horizon, median_time(curve)) == (0, 0.0, Estimate())


def test_six_equal_times_bound_the_median_and_five_do_not() -> None:
    """As the sign test: 1 - 2 / 2**n passes 95 % at six."""
    assert median_time(survival_curve([3.0] * 6, [True] * 6)) == Estimate(3.0, 3.0, 3.0)
    assert median_time(survival_curve([3.0] * 5, [True] * 5)) == Estimate(3.0, 3.0, None)


def test_times_and_flags_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        survival_curve([1.0, 2.0], [True])


def test_the_published_log_rank_p_value_comes_out() -> None:
    """Chi-square 16.79 on one degree of freedom."""
    p = logrank(TREATED, TREATED_EVENT, PLACEBO, PLACEBO_EVENT)
    assert p == pytest.approx(stats.chi2.sf(16.79, 1), rel=0.01)


@settings(deadline=None)  # a loaded machine is no defect
@given(observations, observations)
def test_the_log_rank_test_is_scipys_and_symmetric(
    left: list[tuple[float, bool]], right: list[tuple[float, bool]]
) -> None:
    a, b = ([t for t, _ in side] for side in (left, right))
    hit_a, hit_b = ([h for _, h in side] for side in (left, right))
    ours = logrank(a, hit_a, b, hit_b)
    data = [
        stats.CensoredData(uncensored=[t for t, h in side if h], right=[t for t, h in side if not h])
        for side in (left, right)
    ]
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        theirs = stats.logrank(*data).pvalue
    if ours is None:
        assert not np.isfinite(theirs)
    else:
        assert ours == pytest.approx(theirs, abs=1e-9)
        assert ours == pytest.approx(logrank(b, hit_b, a, hit_a), abs=1e-9)


def test_a_log_rank_test_without_events_says_nothing() -> None:
    assert logrank([5.0] * 3, [False] * 3, [9.0] * 3, [False] * 3) is None
    assert logrank([], [], [1.0, 2.0], [True, True]) is None


# --- means ------------------------------------------------------------------------------------------------------


def test_the_bootstrap_is_scipys_bca_within_its_monte_carlo_error() -> None:
    values = [0.91, 0.99, 0.97, 1.0, 0.72, 0.95, 0.88, 1.0, 0.99, 0.60]
    theirs = stats.bootstrap(
        (np.array(values),), np.mean, n_resamples=50_000, method="BCa", rng=np.random.default_rng(5)
    ).confidence_interval
    low, high = bca(values, seed=0, confidence=0.95)
    assert low == pytest.approx(theirs.low, abs=0.004)
    assert high == pytest.approx(theirs.high, abs=0.004)


def test_the_interval_is_wider_than_the_plain_bootstraps_by_about_student_over_normal() -> None:
    values = [float(v) for v in stats.norm.ppf(np.linspace(0.05, 0.95, 10))]
    plain = bca(values, seed=0, confidence=0.95)
    ours = mean_interval(values)
    assert ours.low is not None
    assert ours.high is not None
    expected = math.sqrt(10 / 9) * stats.t.ppf(0.975, 9) / stats.norm.ppf(0.975)
    assert (ours.high - ours.low) / (plain[1] - plain[0]) == pytest.approx(expected, rel=0.05)


def test_few_or_equal_values_have_no_interval() -> None:
    assert mean_interval([]) == Estimate()
    assert mean_interval([0.7]) == Estimate(0.7)
    assert mean_interval([0.7] * 10) == Estimate(0.7)
    with pytest.raises(ValueError, match="different values"):
        bca([1.0, 1.0], 0, 0.95)


@settings(deadline=None)  # a loaded machine is no defect
@given(st.lists(st.floats(0, 1), min_size=2, max_size=12), st.randoms(use_true_random=False))
def test_a_mean_of_shares_stays_within_the_values_in_any_order(
    values: list[float], luck: random.Random
) -> None:
    ours = mean_interval(values)
    shuffled = list(values)
    luck.shuffle(shuffled)
    assert mean_interval(shuffled) == ours
    if ours.low is not None and ours.high is not None:
        slack = 1e-12
        assert min(values) - slack <= ours.low <= ours.high <= max(values) + slack


def test_the_seed_alone_decides_the_resampling() -> None:
    values = [0.1, 0.4, 0.45, 0.8, 0.9]
    assert mean_interval(values, seed=3) == mean_interval(values, seed=3)
    assert mean_interval(values, seed=3) != mean_interval(values, seed=4)


def test_the_resampling_never_changes_between_releases() -> None:
    """Pins the stream: a report of today and one of next year must not differ by their bootstrap."""
    ours = mean_interval([float(n * n) for n in range(12)], seed=1)
    assert (ours.value, ours.low, ours.high) == pytest.approx((506 / 12, 243 / 12, 871 / 12))


def test_a_difference_is_paired_by_seed() -> None:
    """A common luck of ±100 cancels; runs that only one arm has do not count."""
    theirs = {seed: 100.0 * (-1) ** seed for seed in range(10)}
    ours = {seed: value + 1 + seed / 100 for seed, value in theirs.items()} | {99: 1e6}
    difference = paired_difference(ours, theirs)
    assert difference.value == pytest.approx(1.045)
    assert difference.low is not None
    assert difference.high is not None
    assert 1.0 < difference.low < 1.045 < difference.high < 1.1


def test_holm_is_the_textbooks() -> None:
    assert holm([0.01, None, 0.04, 0.03, 0.005]) == [
        pytest.approx(0.03),
        None,
        pytest.approx(0.06),
        pytest.approx(0.06),
        pytest.approx(0.02),
    ]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


# --- the summary ------------------------------------------------------------------------------------------------


def test_a_cell_tells_detection_with_censoring() -> None:
    rows = [a_row(seed=s, found=t) for s, t in enumerate([10.0, 20.0, None, None, None])]
    [cell] = summarize(rows)
    assert (cell.n, cell.attacked, cell.detected) == (5, 5, 2)
    assert cell.detection == wilson(2, 5)
    assert cell.detection_time.value is None
    assert cell.horizon == 1000.0


def test_a_detection_time_is_never_the_mean_of_the_detected() -> None:
    rows = [a_row(seed=s, found=t) for s, t in enumerate([1.0, 2.0, 3.0, None, None])]
    assert summarize(rows)[0].detection_time.value == 3.0


def test_a_run_in_which_no_attacker_acted_is_neither_detected_nor_missed() -> None:
    [cell] = summarize([a_row(seed=1, found=5.0), a_row(seed=2, acted=False)])
    assert (cell.n, cell.attacked, cell.detected) == (2, 1, 1)
    assert cell.detection_time.value == 5.0


def test_detected_before_impact_counts_runs_warned_in_time() -> None:
    rows = [
        a_row(seed=1, found=10.0, impact=50.0),
        a_row(seed=2, found=60.0, impact=50.0),
        a_row(seed=3, found=60.0, impact=None),
        a_row(seed=4, found=None, impact=50.0),
    ]
    [cell] = summarize(rows)
    assert (cell.forewarned, cell.impacted, cell.detected) == (2, 3, 3)


def test_false_alarms_a_day_come_from_the_quiet_runs_of_the_same_profile_and_site() -> None:
    rows = [a_row("SL 1", s, "none", false_alarms=s, level=1) for s in (1, 2, 3)]  # half a day each
    rows += [a_row("SL 1", 1, found=3.0, false_alarms=50, level=1), a_row("SL 2", 1, level=2)]
    rows += [a_row("SL 1", 1, "none", site="other", false_alarms=9, level=1)]
    cells = {(cell.site, cell.scenario, cell.profile): cell for cell in summarize(rows)}
    assert cells["works", "write", "SL 1"].false_alarms_per_day == poisson_rate(6, 1.5)
    assert cells["works", "none", "SL 1"].quiet_days == 1.5
    assert cells["works", "write", "SL 2"].false_alarms_per_day == Estimate()


def test_availability_is_told_for_each_function_even_one_the_site_lacks() -> None:
    rows = [replace(a_row(seed=s), availability={"view": 0.5 + s / 10}) for s in range(3)]
    [cell] = summarize(rows)
    assert list(cell.availability) == list(FUNCTIONS)
    assert cell.availability["view"].value == pytest.approx(0.6)
    assert cell.availability["safety"] == Estimate()


def test_the_rules_that_detected_are_counted() -> None:
    rows = [a_row(seed=s, found=1.0, rule=rule) for s, rule in enumerate(["b", "a", "b", None])]
    assert summarize(rows)[0].rules == {"b": 2, "a": 1, "not recorded": 1}


def test_cells_come_in_table_order() -> None:
    rows = [
        a_row("no remote access", 1, "write", level=None),
        a_row("SL 4", 1, "write", level=4),
        a_row("SL 0", 1, "write", level=0),
        a_row("SL 0", 1, "flood", level=0),
        a_row("SL 0", 1, "none", level=0),
    ]
    assert [(cell.scenario, cell.profile) for cell in summarize(rows)] == [
        ("none", "SL 0"),
        ("flood", "SL 0"),
        ("write", "SL 0"),
        ("write", "SL 4"),
        ("write", "no remote access"),
    ]


@settings(max_examples=25, deadline=None)  # a loaded machine is no defect
@given(st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing(luck: random.Random) -> None:
    rows = [
        a_row(
            f"SL {level}",
            seed,
            scenario,
            7.0 * seed if scenario != "none" and seed % 2 else None,
            level=level,
            view=0.9 + seed / 100,
        )
        for level in range(2)
        for seed in range(4)
        for scenario in ("none", "write")
    ]
    shuffled = list(rows)
    luck.shuffle(shuffled)
    assert summarize(shuffled) == summarize(rows)
    assert compare(shuffled) == compare(rows)


def test_a_run_told_twice_counts_once_and_two_truths_about_it_are_refused() -> None:
    row = a_row(found=5.0)
    assert distinct([row, a_row(found=5.0)]) == [row]
    with pytest.raises(RunError, match=r"two different results .* seed 1"):
        summarize([row, a_row(found=6.0)])


def test_no_rows_are_no_cells() -> None:
    assert summarize([]) == []
    assert compare([]) == []


def test_a_profile_is_compared_with_the_lowest_one_of_its_scenario() -> None:
    rows = [a_row("SL 0", seed, found=None, lost=100.0 + seed) for seed in range(8)]
    rows += [a_row("SL 3", seed, found=5.0 + seed, lost=10.0 + 2 * seed, level=3) for seed in range(8)]
    [other] = compare(rows)
    assert (other.profile, other.baseline, other.pairs) == ("SL 3", "SL 0", 8)
    assert other.detection_p is not None
    assert other.detection_p < 0.001
    assert other.production_lost.value == pytest.approx(-86.5)
    assert other.production_lost.high is not None
    assert other.production_lost.high < 0
    assert other.availability["view"] == Estimate(0.0)


def test_p_values_are_adjusted_over_the_whole_campaign() -> None:
    rows = [
        a_row(f"SL {level}", seed, scenario, found, level=level)
        for scenario in ("flood", "write")
        for level in range(3)
        for seed in range(6)
        for found in [None if level == 0 else 10.0 * seed + level]
    ]
    others = compare(rows)
    raw = [other.detection_p for other in others]
    assert len(others) == 4
    assert [other.detection_p_adjusted for other in others] == holm(raw)


def test_attack_free_runs_have_no_detection_to_compare() -> None:
    rows = [a_row(f"SL {level}", seed, "none", level=level) for level in range(2) for seed in range(3)]
    [other] = compare(rows)
    assert other.detection_p is None


def test_the_curve_of_a_group_leaves_quiet_runs_out() -> None:
    assert detection_curve([a_row(seed=1, scenario="none"), a_row(seed=2, found=4.0)]).n == 1


# --- coverage: does a 95 % interval hold the truth in 95 % of repetitions? ---------------------------------------


def coverage(
    draw: Callable[[], Sequence[float]],
    truth: float,
    method: Callable[[Sequence[float]], Estimate],
    repetitions: int,
) -> float:
    hits = 0
    for _ in range(repetitions):
        ours = method(draw())
        low = -math.inf if ours.low is None else ours.low
        high = math.inf if ours.high is None else ours.high
        hits += low <= truth <= high
    return hits / repetitions


def censored_median(end: float) -> Callable[[Sequence[float]], Estimate]:
    def method(times: Sequence[float]) -> Estimate:
        return median_time(survival_curve([min(t, end) for t in times], [t <= end for t in times]))

    return method


@pytest.mark.parametrize(("n", "end"), [(10, 1740.0), (10, 500.0), (30, 500.0)])
def test_the_median_interval_covers_with_and_without_censoring(n: int, end: float) -> None:
    generator = np.random.default_rng(n)
    hit = coverage(lambda: list(generator.exponential(300, n)), 300 * math.log(2), censored_median(end), 600)
    assert 0.95 - 3.3 * 0.0089 <= hit <= 0.99  # Monte-Carlo error of 600: 0.0089


def test_the_expanded_bootstrap_covers_where_the_plain_one_falls_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 999)
    generator = np.random.default_rng(2)
    samples = [list(generator.normal(0, 1, 8)) for _ in range(400)]
    ours, plain = iter(samples), iter(samples)
    expanded = coverage(lambda: next(ours), 0.0, mean_interval, 400)
    narrow = coverage(lambda: next(plain), 0.0, lambda v: Estimate(0.0, *bca(v, 0, 0.95)), 400)
    assert expanded >= 0.95 - 3.3 * 0.011
    assert narrow < expanded


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "end", "least", "most"),
    # What docs/explanation/statistics.md prints, plus and minus four Monte-Carlo errors of 0.0034.
    [
        (3, 1740.0, 0.86, 0.89),
        (5, 1740.0, 0.955, 0.985),
        (10, 1740.0, 0.93, 0.965),
        (10, 500.0, 0.93, 0.965),
        (20, 500.0, 0.945, 0.98),
        (40, 500.0, 0.925, 0.965),
    ],
)
def test_the_median_intervals_coverage_is_what_the_documentation_says(
    n: int, end: float, least: float, most: float
) -> None:
    generator = np.random.default_rng(n)
    hit = coverage(lambda: list(generator.exponential(300, n)), 300 * math.log(2), censored_median(end), 4000)
    assert least <= hit <= most, hit


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "least"),
    [(3, 0.68), (5, 0.84), (10, 0.90), (20, 0.92)],
)
def test_the_mean_intervals_coverage_is_what_the_documentation_says(
    n: int, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 1_999)
    generator = np.random.default_rng(n)
    shares = coverage(lambda: list(generator.beta(9, 1, n)), 0.9, mean_interval, 2000)
    differences = coverage(lambda: list(generator.normal(0, 1, n)), 0.0, mean_interval, 2000)
    assert least <= shares <= 0.97, shares
    assert least <= differences <= 0.97, differences


@pytest.mark.slow
def test_wilson_covers_on_average_what_it_says() -> None:
    """Of any one share it may miss by a few percent (Brown, Cai & DasGupta 2001); over shares it holds."""
    for n in (5, 10, 30):
        hits = []
        for p in np.linspace(0.01, 0.99, 197):
            limits = [wilson(k, n) for k in range(n + 1)]
            inside = [
                stats.binom.pmf(k, n, p)
                for k, ours in enumerate(limits)
                if ours.low is not None and ours.high is not None and ours.low <= p <= ours.high
            ]
            hits.append(sum(inside))
        assert np.mean(hits) == pytest.approx(0.95, abs=0.015)


@pytest.mark.slow
def test_the_log_rank_test_rejects_equals_at_its_level() -> None:
    generator = np.random.default_rng(9)
    low = 0
    for _ in range(2000):
        a, b = generator.exponential(300, (2, 10))
        p = logrank(np.minimum(a, 500), a <= 500, np.minimum(b, 500), b <= 500)
        low += p is not None and p < 0.05
    # Ten a side make the normal approximation a little generous.
    assert 0.04 <= low / 2000 <= 0.075
