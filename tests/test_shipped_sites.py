"""Every site that is shipped: in order, quiet when nobody attacks, and what boiler and reactor are there for."""

from __future__ import annotations

import pytest

from controls.catalogue import SecurityLevels
from devices.world import World
from scenarios.actions import check_against
from scenarios.experiment import Experiment, RunRecord, prepare, run, site_of
from scenarios.model import load_scenario
from testbed.figures import load_figures
from testbed.site import site_names
from testbed.trace import Trace

OTHERS = [name for name in site_names() if name != "water"]  # whose own tests ask more


def _run(site: str, level: int, duration: float, scenario: str | None = None) -> tuple[RunRecord, Trace]:
    return run(Experiment.at_level(site, SecurityLevels.uniform(level), scenario, 1, duration))


@pytest.mark.parametrize("name", site_names())
def test_a_site_comes_to_life_with_its_logic(name: str) -> None:
    world = World(site_of(name), 1, load_figures())
    assert set(world.plcs) == set(world.site.controllers())
    world.close()


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize(
    "level", [0, *(pytest.param(level, marks=pytest.mark.slow) for level in (1, 2, 3, 4))]
)
def test_nothing_happens_where_nobody_attacks(name: str, level: int) -> None:
    record, trace = _run(name, level, 900.0)
    assert [one.data for one in trace.events if one.kind == "trip"] == []
    assert [one.data for one in trace.events if one.kind == "alarm"] == []
    assert sum(end - begin for spans in record.unsafe.values() for begin, end in spans) == 0
    assert sum(end - begin for begin, end in record.lost["view"]) == 0


@pytest.mark.parametrize("name", OTHERS)
def test_a_site_makes_what_it_says(name: str) -> None:
    record, _ = _run(name, 0, 900.0)
    expected = site_of(name).essential_functions.production.expected
    made = (record.product[-1] - record.product[0]) / (len(record.product) - 1)
    assert made == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("name", ["boiler", "reactor", "swat"])
@pytest.mark.parametrize("scenario", ["stranger-commands", "wiper"])
def test_scenarios_by_role_find_their_targets_elsewhere(name: str, scenario: str) -> None:
    site = site_of(name)
    check_against(site, load_scenario(scenario, site))


def test_without_feedwater_the_boiler_trips_within_two_minutes_and_before_anybody_acts() -> None:
    world, _ = prepare(Experiment("boiler", (), "test", None, 1, 300.0))
    world.start()
    world.loop.run_to(60.0)
    world.plant.actuators["FEEDWATER"].stick(at=0.0)
    world.loop.run_to(300.0)
    trips = [one.time for one in world.trace.events if one.kind == "trip"]
    acted = [one.time for one in world.trace.events if one.kind == "operator.acted"]
    world.close()
    assert trips
    assert 60.0 < trips[0] < 180.0
    assert not acted or acted[0] > trips[0]


def test_the_reactor_tripped_by_hand_is_fed_no_more() -> None:
    world, _ = prepare(Experiment("reactor", (), "test", None, 1, 300.0))
    world.start()
    world.loop.run_to(60.0)
    world.wiring.command("TRIP_FEED_OPEN", 1.0)
    world.wiring.command("TRIP_VENT_SHUT", 1.0)
    world.loop.run_to(120.0)
    assert world.plant.value("feed1.flow") == pytest.approx(0.0, abs=1e-6)
    assert world.plant.value("vent.flow") > 0.0
    world.close()
