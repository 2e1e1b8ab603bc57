"""Tests of security functions (SR 3.3): when they run, what they find, and that what they find is put right."""

from __future__ import annotations

from typing import Any

import pytest

from controls import profiles
from controls.verification import AsBuilt
from devices.world import World
from scenarios.experiment import Experiment, run, site_of
from scenarios.steps.faults import LEFT_OFF
from testbed.figures import load_figures

#: What must be in force for each thing that people leave off to be something.
GUARDED = {
    "firewalls": "SR 5.2 RE 1",
    "command_rights": "SR 2.1 RE 1",
    "program_checks": "SR 3.4",
    "value_checks": "SR 3.5",
    "lock_out": "SR 1.11",
    "monitor_taps": "SR 6.2",
}


def water(*requirements: str) -> World:
    world = World(site_of("water"), 1, load_figures())
    profiles.apply(world, profiles.with_needs(requirements))
    return world


def marks(world: World, kind: str) -> list[tuple[float, dict[str, Any]]]:
    return [(event.time, dict(event.data)) for event in world.trace.events if event.kind == kind]


def after_leaving_off(what: str, *requirements: str, window: float | None, until: float) -> World:
    """A world in which ``what`` was left off at 20 s, with a maintenance window from 30 s on."""
    world = water(GUARDED[what], *requirements)
    world.loop.wake(20.0, LEFT_OFF[what], world)
    if window is not None:
        world.loop.wake(30.0, world.maintenance.begin, window)
    world.start()
    world.loop.run_to(until)
    world.close()
    return world


@pytest.mark.parametrize("what", GUARDED)
def test_what_somebody_left_off_fails_its_test_until_it_is_put_back_as_recorded(what: str) -> None:
    world, name = water(GUARDED[what]), GUARDED[what]
    record = AsBuilt.of(world)
    assert all(profiles.working(world, name).values())
    LEFT_OFF[what](world)
    assert not all(profiles.working(world, name).values())
    record.put_back(world)
    assert all(profiles.working(world, name).values())


def test_sr_3_3_finds_in_a_maintenance_window_what_was_left_off_and_has_it_repaired() -> None:
    assert marks(after_leaving_off("firewalls", window=600, until=400), "finding") == []
    world = after_leaving_off("firewalls", "SR 3.3", window=600, until=400)
    ((found, data),) = marks(world, "finding")
    assert data["what"].startswith("SR 5.2 RE 1 does not work")
    ((repaired, _),) = marks(world, "response")
    assert 30 < found < repaired
    assert not any(conduit.bypassed for conduit in world.network.conduits.values())


def test_tests_by_hand_end_with_the_window_and_are_then_not_done() -> None:
    world = after_leaving_off("firewalls", "SR 3.3", window=1, until=400)
    assert marks(world, "finding") == []
    ((_, task),) = marks(world, "task")
    assert task["outcome"] == "refused"


def test_sr_3_3_re_1_finds_it_in_seconds_without_anybody() -> None:
    world = after_leaving_off("firewalls", "SR 3.3 RE 1", window=10, until=400)
    ((found, _),) = marks(world, "finding")
    assert found == pytest.approx(35, abs=0.1)
    assert marks(world, "task") == []


def test_sr_3_3_re_2_needs_no_window_and_disturbs_nothing() -> None:
    assert marks(after_leaving_off("firewalls", "SR 3.3 RE 1", window=None, until=200), "finding") == []
    world = after_leaving_off("firewalls", "SR 3.3 RE 2", window=None, until=200)
    ((found, _),) = marks(world, "finding")
    assert found == pytest.approx(60, abs=0.1)
    assert 200 - world.hmis["hmi1"].fresh["plc1"] < 3


def test_an_automatic_test_tells_the_siem_and_says_a_thing_once() -> None:
    world = water("SR 5.2 RE 1", "SR 6.2", "SR 3.3 RE 2")
    alerts: list[str] = []
    world.siems["siem1"].on_alert.append(lambda alert: alerts.append(f"{alert.rule}: {alert.subject}"))
    # A monitor that is off is no matter of settings, and is not put right by them.
    world.loop.call_at(10.0, world.network.hosts["mon1"].power_off)
    world.start()
    world.loop.run_to(250)
    world.close()
    assert alerts.count("security function failed: SR 6.2") == 1
    assert len(marks(world, "finding")) == 1
    assert marks(world, "response") == []


def test_a_sound_site_has_no_findings() -> None:
    names = profiles.with_needs((*GUARDED.values(), "SR 3.3 RE 2"))
    record, trace = run(Experiment("water", names, "sound", None, 2, 300))
    assert not [event for event in trace.events if event.kind == "finding"]
    assert record.lost["view"] == []
    assert record.lost["safety"] == []


def test_maintenance_windows_come_as_planned_and_do_not_begin_twice() -> None:
    world = water("SR 3.3")
    begun: list[float] = []
    world.maintenance.on_begin.append(lambda: begun.append(world.loop.time()))
    world.start()
    world.loop.run_to(10)
    world.maintenance.begin(5)
    world.maintenance.begin(20)
    assert world.maintenance.open
    world.loop.run_to(31)
    assert not world.maintenance.open
    assert begun == [10]
    world.close()
