"""Attribution, sensitivity and numbers of runs against known truth."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from results.sampling import (
    detections_for_ratio,
    enough,
    enough_share,
    runs_for_difference,
    runs_for_share,
    runs_for_shares,
)
from results.sensitivity import (
    shapley,
    shapley_intervals,
    sobol_design,
    sobol_indices,
    subsets,
    tornado,
)
from results.statistics import wilson

FRS = ("IAC", "UC", "SI", "DC", "RDF", "TRE", "RA")


# -- Shapley ---------------------------------------------------------------------------------------------------


def test_what_adds_up_is_attributed_as_it_is() -> None:
    worth = {name: float(number) for number, name in enumerate(FRS)}
    value = {members: sum(worth[name] for name in members) for members in subsets(FRS)}
    assert shapley(value, FRS) == pytest.approx(worth)


def test_the_glove_game_has_its_known_shares() -> None:
    """One left glove and two right ones; a pair is worth 1: 2/3, 1/6, 1/6 (Shapley 1953's standard example)."""
    players = ("left", "right", "spare")
    value = {members: float("left" in members and len(members) > 1) for members in subsets(players)}
    assert shapley(value, players) == pytest.approx({"left": 2 / 3, "right": 1 / 6, "spare": 1 / 6})


@given(st.lists(st.floats(-100, 100), min_size=16, max_size=16))
def test_shares_add_up_to_the_whole(numbers: list[float]) -> None:
    players = FRS[:4]
    value = dict(zip(subsets(players), numbers, strict=True))
    total = value[frozenset(players)] - value[frozenset()]
    assert sum(shapley(value, players).values()) == pytest.approx(total, abs=1e-9)


@pytest.mark.slow
def test_intervals_of_shares_cover_the_truth_about_as_often_as_they_say() -> None:
    players, truth, covered = ("IAC", "UC"), {"IAC": 1.0, "UC": 2.0}, 0
    for trial in range(300):
        stream = random.Random(f"shapley:{trial}")
        outcomes: dict[frozenset[str], dict[int, float]] = {}
        luck = {seed: stream.gauss(0, 1) for seed in range(24)}
        for members in subsets(players):
            worth = sum(truth[name] for name in members)
            outcomes[members] = {seed: worth + luck[seed] + stream.gauss(0, 0.5) for seed in luck}
        found = shapley_intervals(outcomes, players, resamples=400)["UC"]
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 2.0 <= found.high
    assert 0.89 <= covered / 300 <= 0.98


# -- Sobol -----------------------------------------------------------------------------------------------------


def _ishigami(points: np.ndarray) -> list[float]:
    x = -math.pi + 2 * math.pi * points
    found = np.sin(x[:, 0]) + 7 * np.sin(x[:, 1]) ** 2 + 0.1 * x[:, 2] ** 4 * np.sin(x[:, 0])
    return [float(one) for one in found]


def test_indices_of_the_ishigami_function_are_the_known_ones() -> None:
    design = sobol_design(("x1", "x2", "x3"), 4096)
    found = sobol_indices(design, _ishigami(design.points))
    known = {"x1": (0.3139, 0.5576), "x2": (0.4424, 0.4424), "x3": (0.0, 0.2437)}
    for name, (first, total) in known.items():
        assert found[name][0].value == pytest.approx(first, abs=0.03)
        assert found[name][1].value == pytest.approx(total, abs=0.03)


def test_an_outcome_that_does_not_vary_has_no_indices() -> None:
    design = sobol_design(("x",), 4)
    assert sobol_indices(design, [1.0] * len(design.points))["x"][0].value is None


@pytest.mark.parametrize("n", [0, 3, 100])
def test_a_number_of_samples_that_is_no_power_of_two_is_refused(n: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        sobol_design(("x",), n)


def test_a_tornado_has_its_widest_bar_first() -> None:
    ends = {"a": (1.0, 2.0), "b": (-3.0, 5.0), "c": (0.0, 0.5)}
    bars = tornado(lambda name, end: ends[name][end == "high"], tuple(ends), 1.0)
    assert [bar.name for bar in bars] == ["b", "a", "c"]


# -- numbers of runs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", [0.05, 0.1, 0.2])
def test_advice_for_a_share_gives_an_interval_that_narrow(half: float) -> None:
    runs = runs_for_share(half)
    found = wilson(runs // 2, runs)
    assert found.low is not None
    assert found.high is not None
    assert (found.high - found.low) / 2 <= half * 1.01


def test_known_sample_sizes() -> None:
    """Cohen 1988, table 6.4: 0.5 and 0.7 at power 0.8 take 93 runs an arm; Schoenfeld: a ratio of 2 takes 66 events."""
    assert runs_for_shares(0.5, 0.7) == pytest.approx(93, abs=1)
    assert detections_for_ratio(2.0) == 66
    assert runs_for_difference(0.5, 1.0) == pytest.approx(34, abs=1)


@pytest.mark.slow
def test_advice_for_a_difference_gives_the_power_that_it_promises() -> None:
    pairs, shown = runs_for_difference(0.5, 1.0), 0
    for trial in range(600):
        stream = random.Random(f"power:{trial}")
        sample = [stream.gauss(0.5, 1.0) for _ in range(pairs)]
        mean = sum(sample) / pairs
        spread = math.sqrt(sum((one - mean) ** 2 for one in sample) / (pairs - 1))
        shown += abs(mean) / spread * math.sqrt(pairs) > 2.03  # t with 33 degrees of freedom
    assert 0.75 <= shown / 600 <= 0.86


def _until_enough(stream: random.Random, within: float) -> Sequence[float]:
    values: list[float] = []
    while not enough(values, within).enough:
        values.append(stream.gauss(3.0, 1.0))
    return values


@pytest.mark.slow
def test_stopping_when_the_interval_is_narrow_keeps_about_the_coverage() -> None:
    covered = 0
    for trial in range(400):
        values = _until_enough(random.Random(f"stop:{trial}"), 0.25)
        covered += abs(sum(values) / len(values) - 3.0) <= 0.25
    assert 0.90 <= covered / 400 <= 0.985


def test_equal_values_do_not_stop_before_the_least_number() -> None:
    assert not enough([1.0] * 9, 0.1).enough
    assert enough([1.0] * 10, 0.1).enough


def test_a_share_is_enough_when_its_interval_is() -> None:
    assert not enough_share(5, 10, 0.1).enough
    assert enough_share(50, 100, 0.1).enough
    assert enough_share(5, 10, 0.1).more > 50
