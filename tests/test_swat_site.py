"""The six-stage site and the published attacks on it: quiet without an attacker, and what each of the 36 does."""

from __future__ import annotations

import pytest

from devices.wiring import Wiring
from devices.world import World
from scenarios.actions import check_against
from scenarios.experiment import Experiment, RunRecord, prepare, run, site_of
from scenarios.goals import GoalWatch
from scenarios.model import load_scenario, scenario_names
from scenarios.steps.cables import ActuatorAttack
from testbed.errors import UnknownNameError
from testbed.plants import plant_named
from testbed.randomness import Randomness
from testbed.trace import Trace

ATTACKS = tuple(name for name in scenario_names() if name.startswith("swat-"))
#: Published seconds of each attack, by its published number: ipal_datasets, SWaT.
PUBLISHED = {
    1: 939, 2: 442, 3: 382, 4: 389, 6: 195, 7: 428, 8: 963, 10: 160, 11: 560, 13: 232, 14: 430, 16: 275,
    17: 716, 19: 258, 20: 394, 21: 720, 22: 462, 23: 696, 24: 320, 25: 611, 26: 1444, 27: 1690, 28: 34208,
    29: 120, 30: 1170, 31: 366, 32: 600, 33: 443, 34: 100, 35: 480, 36: 539, 37: 468, 38: 280, 39: 400, 40: 296,
    41: 1689,
}  # fmt: skip
#: As long as a run looks at most: attack 28 lasted 9.5 h.
LOOK = 2240.0
FAST = ("swat-34",)


def attacked(name: str) -> tuple[RunRecord, Trace]:
    scenario = load_scenario(name)
    lasting = min(PUBLISHED[int(name[-2:])], LOOK)
    return run(Experiment("swat", (), "test", name, 1, scenario.start + lasting + 60.0))


def test_the_36_published_attacks_are_there_with_their_published_lengths() -> None:
    found = {int(name[-2:]): load_scenario(name).steps for name in ATTACKS}
    assert {number: [step.lasting for step in steps] for number, steps in found.items()} == {  # type: ignore[union-attr]
        number: [seconds] for number, seconds in PUBLISHED.items()
    }


@pytest.mark.parametrize(
    "name", [one if one in FAST else pytest.param(one, marks=pytest.mark.slow) for one in ATTACKS]
)
def test_an_attack_has_its_effect(name: str) -> None:
    record, _ = attacked(name)
    assert record.goals
    assert [title for title, met in record.goals if met is None] == []


@pytest.mark.slow
def test_two_hours_without_an_attacker_are_quiet_and_hold_their_bands() -> None:
    record, trace = run(Experiment("swat", (), "test", None, 1, 7200.0))
    assert [one.data for one in trace.events if one.kind in ("alarm", "trip")] == []
    assert sum(end - begin for spans in record.unsafe.values() for begin, end in spans) == 0
    for tank, low, high in (("T101", 0.48, 0.82), ("T301", 0.78, 1.005), ("T401", 0.78, 1.005)):
        assert low < min(trace.columns[f"{tank}.level"]) <= max(trace.columns[f"{tank}.level"]) < high


@pytest.mark.slow
def test_without_its_attack_no_effect_comes_about() -> None:
    watches: dict[str, GoalWatch] = {}

    def look(world: World) -> None:
        for name in ATTACKS:
            scenario = load_scenario(name)
            goals = tuple(goal for goal in scenario.goals if goal.signal or goal.blind)
            watches[name] = GoalWatch(world, goals, {})
            watches[name].start(scenario.start)

    run(Experiment("swat", (), "test", None, 1, 3300.0), observe=look)
    for name, watch in watches.items():
        scenario = load_scenario(name)
        end = scenario.start + min(PUBLISHED[int(name[-2:])], LOOK) + 60.0
        assert [number for number, met in watch.met.items() if met <= end] == [], name


def test_what_is_held_stays_until_let_go_and_a_trip_still_acts() -> None:
    plant = plant_named("swat", stream=Randomness(0).stream("plant"))
    wiring = Wiring(plant, {})
    wiring.hold("P101", 1.0)
    wiring.command("P101", 0.0)
    assert plant.commands["P101"] == 1.0
    wiring.command("TRIP_P101", 1.0)
    assert plant.commands["P101"] == 0.0
    wiring.command("TRIP_P101", 0.0)
    assert plant.commands["P101"] == 1.0
    wiring.hold("P101", None)
    assert plant.commands["P101"] == 0.0
    with pytest.raises(UnknownNameError):
        wiring.hold("P999", 1.0)


def test_a_step_that_names_what_is_not_there_or_nothing_is_refused() -> None:
    site = site_of("swat")
    step = ActuatorAttack(action="actuator_attack", technique="T0855", forces={"P999": 1.0}, lasting=1.0)
    assert list(step.lacks(site)) == ["site 'swat' has no actuator 'P999'"]
    step = ActuatorAttack(action="actuator_attack", technique="T0856", shows={"LIT999": 1.0}, lasting=1.0)
    assert list(step.lacks(site)) == ["site 'swat' has no sensor 'LIT999'"]
    with pytest.raises(ValueError, match="give forces or shows"):
        ActuatorAttack(action="actuator_attack", technique="T0855", lasting=1.0)


@pytest.mark.parametrize("shape", ["bias", "ramp", "surge", "geometric", "replay"])
def test_stealthy_attacks_by_role_find_an_instrument_here(shape: str) -> None:
    site = site_of("swat")
    scenario = load_scenario(f"stealth-{shape}", site)
    check_against(site, scenario)
    assert {step.sensor for step in scenario.steps} == {"LIT101"}  # type: ignore[union-attr]


@pytest.mark.slow
def test_salt_for_half_an_hour_shuts_the_membranes_down() -> None:
    """What attacks 19 and 20 aim at, and are too short for."""
    world, _ = prepare(Experiment("swat", (), "test", None, 1, 2000.0))
    world.start()
    world.loop.run_to(20.0)
    world.wiring.sensors["AIT504"].fault = lambda _: 0.0255
    world.loop.run_to(1800.0)
    assert world.plant.value("P501.running") == 1.0
    world.loop.run_to(1860.0)
    assert world.plant.value("P501.running") == 0.0
    world.close()
