"""The six-stage plant: published fill and drain times, balances, what its later stages do, and determinism."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.errors import OtlabError, UnknownNameError
from testbed.swat import COMMANDS, ORP_LIMIT, STEP, TANK_AREA, SwatPlant

#: Everything on as in normal operation of stages 4 to 6.
DUTY = dict.fromkeys(("P401", "P501", "P403", "UV401", "MV501", "MV502"), 1.0)


def plant(seed: int = 1, **initial: float) -> SwatPlant:
    named = {key.replace("__", "."): value for key, value in initial.items()}
    return SwatPlant(stream=random.Random(seed), initial=named)


def advance(model: SwatPlant, seconds: float) -> None:
    for _ in range(round(seconds / STEP)):
        model.advance()


def until(model: SwatPlant, signal: str, level: float) -> float:
    rising = model.value(signal) < level
    while (model.value(signal) < level) == rising:
        model.advance()
        assert model.value("elapsed") < 5000
    return model.value("elapsed")


@pytest.mark.parametrize(
    ("begin", "end", "on", "seconds"),
    [
        (0.5, 0.8, ("MV101",), 635),
        (0.8, 1.2, ("MV101",), 847),
        (0.8, 0.5, ("P101", "MV201"), 661),
        (0.5, 0.25, ("P101", "MV201"), 551),
    ],
)
def test_t101_fills_and_drains_in_the_published_times(
    begin: float, end: float, on: tuple[str, ...], seconds: float
) -> None:
    model = plant(T101__level=begin, **dict.fromkeys(on, 1.0))
    assert until(model, "T101.level", end) == pytest.approx(seconds, rel=0.01)


def stored(model: SwatPlant) -> float:
    return sum(TANK_AREA * model.value(f"{tank}.level") for tank in ("T101", "T301", "T401", "T601", "T602"))


def gone(model: SwatPlant) -> float:
    spilled = sum(model.value(f"{tank}.overflow_volume") for tank in ("T101", "T301", "T401", "T601", "T602"))
    return (
        spilled
        + model.value("waste_volume")
        + model.value("RO.drained_volume")
        + model.value("backwash_volume")
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sets(st.sampled_from(COMMANDS)), min_size=1, max_size=4), st.floats(0.0, 1.6))
def test_water_is_neither_made_nor_lost_and_levels_stay_in_the_tanks(
    phases: list[set[str]], level: float
) -> None:
    model = plant(T101__level=level, T401__level=1.6 - level, T602__level=level)
    before = stored(model)
    for on in phases:
        for name in COMMANDS:
            model.command(name, float(name in on))
        advance(model, 120.0)
        for tank in ("T101", "T301", "T401", "T601", "T602"):
            assert -0.001 <= model.value(f"{tank}.level") <= 1.6
    # Fed by MV101 alone; a flush or a return only moves water between tanks.
    assert stored(model) + gone(model) == pytest.approx(before + model.value("inflow_volume"), abs=1e-6)


def test_in_duty_the_membranes_split_the_feed_as_published() -> None:
    model = plant(**DUTY)
    advance(model, 300.0)
    entering = model.value("RO.permeate_flow") + model.value("RO.reject_flow")
    assert model.value("RO.permeate_flow") / entering == pytest.approx(0.60, abs=0.01)
    assert model.value("RO.feed_pressure") == pytest.approx(250_000, rel=0.01)
    assert model.value("RO.permeate_conductivity") < 0.002
    assert model.value("RO.orp") == pytest.approx(0.155, abs=0.01)
    assert model.value("RO.chlorine_time") == 0.0


def test_without_light_and_bisulfite_chlorine_reaches_the_membranes() -> None:
    model = plant(**DUTY | {"UV401": 0.0, "P403": 0.0})
    advance(model, 120.0)
    assert model.value("RO.orp") > ORP_LIMIT
    assert model.value("RO.chlorine_time") > 60.0


@pytest.mark.parametrize("shut", ["MV501", "MV502"])
def test_a_shut_line_behind_the_membranes_raises_their_pressure(shut: str) -> None:
    model = plant(**DUTY | {shut: 0.0})
    advance(model, 60.0)
    assert model.value("RO.feed_pressure") > 350_000
    assert model.value("PSHH501") == 1.0


def test_without_the_booster_little_is_made_and_it_is_salty() -> None:
    model = plant(**DUTY | {"P501": 0.0})
    advance(model, 60.0)
    assert model.value("RO.permeate_flow") < 0.25 * 1.2 / 3600
    assert model.value("RO.permeate_conductivity") > 0.002


def test_backwash_needs_the_pump_and_its_tank() -> None:
    washing = {"MV301": 1.0, "MV303": 1.0}
    resting, running, empty = (
        plant(**washing, P602=float(on), T602__level=level) for on, level in ((0, 0.5), (1, 0.5), (1, 0.0))
    )
    for model in (resting, running, empty):
        advance(model, 45.0)
    assert resting.value("backwash_volume") == empty.value("backwash_volume") == 0.0
    assert running.value("backwash_volume") == pytest.approx(3.0 / 3600 * 45, rel=0.03)
    assert running.value("T602.level") == pytest.approx(0.5 - 0.025, abs=0.001)
    assert empty.value("P602.dry_time") > 40.0


def test_permeate_can_be_returned_to_the_raw_water_tank() -> None:
    model = plant(P601=1.0, T601__level=0.5)
    advance(model, 60.0)
    assert model.value("T101.level") - 0.505 == pytest.approx(0.5 - model.value("T601.level"), abs=1e-9)


@pytest.mark.parametrize(("duty", "standby"), [("P201", "P202"), ("P203", "P204"), ("P205", "P206")])
def test_a_standby_doses_what_its_duty_pump_doses(duty: str, standby: str) -> None:
    found = []
    for pump in (duty, standby):
        model = plant(**{"MV201": 1.0, "P101": 1.0, pump: 1.0})
        advance(model, 200.0)
        found.append([model.value(f"line.{what}") for what in ("conductivity", "ph", "orp")])
    assert found[0] == pytest.approx(found[1], rel=2e-3)


def test_the_same_seed_gives_the_same_run() -> None:
    def run(seed: int) -> list[float]:
        model = plant(seed, **DUTY, MV101=1.0, P101=1.0, MV201=1.0, P201=1.0, P302=1.0, MV302=1.0)
        advance(model, 600.0)
        return [model.value(name) for name in model.signals]

    assert run(3) == run(3)
    assert run(3) != run(4)


def test_what_does_not_exist_is_told() -> None:
    model = plant()
    with pytest.raises(UnknownNameError):
        model.value("T999.level")
    with pytest.raises(UnknownNameError):
        model.command("P999", 1.0)
    with pytest.raises(UnknownNameError):
        plant(T999__level=1.0)
    with pytest.raises(OtlabError, match=r"T401\.level"):
        plant(T401__level=3.0)
