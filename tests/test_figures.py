"""The table of figures says where each number comes from, and lets a user change it safely; units convert both ways."""

from __future__ import annotations

import math
import pickle
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.errors import DocumentError, OtlabError, UnknownNameError
from testbed.figures import load_figures
from testbed.units import UNITS, difference_to_si, from_si, to_si

FIGURES = load_figures()


def test_every_figure_of_an_assumed_distribution_has_both_of_its_parts() -> None:
    means = {key.removesuffix(".mean") for key in FIGURES if key.endswith(".mean")}
    assert means == {key.removesuffix(".sd") for key in FIGURES if key.endswith(".sd")}
    assert means


def test_a_published_figure_is_never_from_memory() -> None:
    for key in FIGURES:
        entry = FIGURES.entry(key)
        assert entry.status != "published" or "from memory" not in entry.source, key


def test_values_come_out_in_si_units() -> None:
    assert FIGURES.entry("network.zone_latency").unit == "ms"
    assert FIGURES["network.zone_latency"] == pytest.approx(0.0002)
    assert FIGURES["plc.scan_time"] == 0.4


@pytest.mark.parametrize(
    ("name", "mu", "sigma"),
    [  # calibrated as mu and sigma of the logarithm of seconds
        ("login.password", 1.805, 0.532),
        ("login.push", 1.856, 0.668),
        ("login.totp", 2.438, 0.505),
        ("login.security_key", 1.456, 0.555),
        ("login.smart_card", 1.968, 0.472),
        ("login.badge", 0.582, 0.472),
        ("hmi.alarm_notice", math.log(20) - 0.32, 0.8),
    ],
)
def test_a_lognormal_follows_from_mean_and_deviation(name: str, mu: float, sigma: float) -> None:
    assert FIGURES.lognormal(name) == pytest.approx((mu, sigma), abs=0.001)


def test_draws_from_a_lognormal_have_the_mean_that_the_table_states() -> None:
    stream = random.Random(3)
    draws = [stream.lognormvariate(*FIGURES.lognormal("login.password")) for _ in range(20_000)]
    assert sum(draws) / len(draws) == pytest.approx(7.0, abs=0.15)  # five standard errors of the mean


def test_an_override_changes_one_value_and_is_remembered() -> None:
    changed = FIGURES.with_overrides({"plc.scan_time": 1}).with_overrides({"network.zone_latency": 5})
    assert changed["plc.scan_time"] == 1.0
    assert changed["network.zone_latency"] == 0.005  # given in the figure's own unit, ms
    assert changed.overrides == {"network.zone_latency": 5, "plc.scan_time": 1}
    assert FIGURES["plc.scan_time"] == 0.4
    assert FIGURES.overrides == {}
    assert {key for key in FIGURES if FIGURES[key] != changed[key]} == set(changed.overrides)


def test_an_override_of_nothing_names_what_was_probably_meant() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean 'plc\.scan_time'"):
        FIGURES.with_overrides({"plc.scantime": 1})


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf])
def test_an_override_outside_the_range_is_refused(value: float) -> None:
    with pytest.raises(OtlabError, match="is not from 0 to 1"):
        FIGURES.with_overrides({"login.push_failure": value})


def test_figures_reach_a_worker_process_unchanged() -> None:
    changed = FIGURES.with_overrides({"plc.scan_time": 1})
    again = pickle.loads(pickle.dumps(changed))
    assert (dict(again), again.overrides) == (dict(changed), changed.overrides)


def test_mistakes_in_a_table_are_told_at_their_place(tmp_path: Path) -> None:
    path = tmp_path / "figures.yaml"
    path.write_text(
        "a.b: {value: 2, unit: parsec, source: x, status: guess}\n"
        "Upper: {value: 1, unit: s, source: x, status: computed}\n"
        "c.d: {value: 2, unit: s, source: x, status: computed, range: [3, 4]}\n"
        "e.f: {value: 2, unit: s, status: computed}\n"
    )
    with pytest.raises(DocumentError) as caught:
        load_figures(path)
    told = [(problem.line, problem.column, problem.key) for problem in caught.value.problems]
    assert told == [
        (1, 23, "a.b.unit"),
        (1, 50, "a.b.status"),
        (2, 1, "Upper"),
        (3, 1, "c.d"),
        (4, 1, "e.f.source"),
    ]


@pytest.mark.parametrize(
    ("value", "unit", "si"),
    [
        (505, "mm", 0.505),
        (2.55, "m3/h", 2.55 / 3600),
        (19, "L/min", 19 / 60_000),
        (255, "uS/cm", 0.0255),
        (460, "mV", 0.46),
        (7.0, "pH", 7.0),
        (40, "kPa", 40_000),
        (25, "%", 0.25),
        (20, "degC", 293.15),
        (100, "kmol/h", 100_000 / 3600),
    ],
)
def test_engineering_units_are_the_si_values_they_stand_for(value: float, unit: str, si: float) -> None:
    assert to_si(value, unit) == pytest.approx(si)


@given(st.floats(-1e6, 1e6), st.sampled_from(sorted(UNITS)))
def test_a_value_comes_back_from_si_as_it_went(value: float, unit: str) -> None:
    assert from_si(to_si(value, unit), unit) == pytest.approx(value, rel=1e-9, abs=1e-9)


def test_a_difference_has_no_zero_point() -> None:
    assert difference_to_si(1, "degC") == 1.0
    assert difference_to_si(3, "mm") == pytest.approx(0.003)


def test_a_unit_that_is_not_in_the_table_names_what_was_probably_meant() -> None:
    for convert in (to_si, from_si, difference_to_si):
        with pytest.raises(UnknownNameError, match="did you mean 'm3/h'"):
            convert(1, "m3/hr")
