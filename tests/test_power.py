"""What an outage does to controllers, stations and firewalls, and what a supply keeps of it: SR 7.5."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from small_worlds import one_zone, two_zones

from controls import profiles
from devices.plc import Mode
from devices.power import Load, Ups, firewall_load
from devices.wiring import TRIP
from devices.world import World
from scenarios.experiment import Experiment, RunRecord, run, site_of
from testbed.figures import load_figures


@contextmanager
def water(*requirements: str) -> Iterator[World]:
    world = World(site_of("water"), 1, load_figures())
    profiles.apply(world, requirements)
    world.start()
    try:
        yield world
    finally:
        world.close()


@contextmanager
def supply(minutes: float = 1.0, restart: float = 5.0) -> Iterator[tuple[Ups, list[tuple[float, str]]]]:
    """A supply with one load, and what happened to the load when (s)."""
    with one_zone() as world:
        told: list[tuple[float, str]] = []
        ups = Ups("ups1", world.loop, minutes)
        ups.loads.append(
            Load(
                "lamp",
                lambda: told.append((world.now, "off")),
                lambda: told.append((world.now, "on")),
                restart,
            )
        )
        world.loop.wake(10.0, lambda _: ups.fail())
        yield ups, told


def run_to(ups: Ups, when: float) -> None:
    ups.loop.run_to(when)


def test_in_bypass_a_load_goes_down_with_its_feeder_and_restarts_after_it() -> None:
    with supply() as (ups, told):
        run_to(ups, 40)
        ups.restore()
        run_to(ups, 60)
        assert told == [(10.0, "off"), (45.0, "on")]


def test_on_line_a_load_does_not_notice_an_outage_that_the_battery_outlasts() -> None:
    with supply() as (ups, told):
        ups.seams.on_line = True
        run_to(ups, 40)
        assert ups.left() == pytest.approx(30)
        ups.restore()
        run_to(ups, 140)
        assert ups.left() == pytest.approx(40)  # it recharges at a tenth of the rate
        assert told == []


def test_an_outage_that_outlasts_the_battery_takes_the_load_in_the_end() -> None:
    with supply() as (ups, told):
        ups.seams.on_line = True
        run_to(ups, 100)
        assert told == [(70.0, "off")]
        assert not ups.ready


def test_a_second_outage_finds_the_battery_as_the_first_left_it() -> None:
    with supply() as (ups, told):
        ups.seams.on_line = True
        run_to(ups, 60)
        ups.restore()
        run_to(ups, 70)
        ups.fail()  # 10 s were left, and 1 s has been recharged
        run_to(ups, 100)
        assert told == [(81.0, "off")]


def test_power_that_fails_again_before_the_restart_is_no_restart() -> None:
    with supply(restart=20.0) as (ups, told):
        run_to(ups, 30)
        ups.restore()
        run_to(ups, 40)
        ups.fail()
        run_to(ups, 100)
        assert told == [(10.0, "off")]


def test_failing_twice_and_returning_twice_is_failing_and_returning_once() -> None:
    with supply() as (ups, told):
        run_to(ups, 20)
        ups.fail()
        ups.restore()
        ups.restore()
        run_to(ups, 60)
        assert [what for _, what in told] == ["off", "on"]


def test_a_firewall_forwards_before_it_filters_unless_it_fails_closed() -> None:
    for closed in (False, True):
        with two_zones() as world:
            conduit = world.network.conduits["boundary"]
            conduit.fail_closed = closed
            load = firewall_load(conduit, boot=20.0, rules=40.0)
            load.lose()
            assert conduit.cut
            load.regain()
            assert not conduit.cut
            assert not conduit.guard_up
            world.run(39.0)
            assert not conduit.guard_up
            world.run(2.0)
            assert conduit.guard_up


def test_without_power_every_output_is_de_energized_and_the_safety_system_trips() -> None:
    with water() as world:
        world.loop.run_to(60.0)
        assert any(world.plant.commands.values())
        world.upses["ups1"].fail()
        assert not any(world.plant.commands.values())
        trips = {e.data["target"] for e in world.trace.events if e.kind == "trip" and e.data["on"]}
        wired = {
            tag.command.removeprefix(TRIP)
            for tag in world.site.assets["sis1"].tags.values()  # type: ignore[union-attr]
            if tag.command is not None
        }
        assert trips == wired


def test_after_an_outage_the_whole_site_works_again_by_itself() -> None:
    with water() as world:
        ups, hmi = world.upses["ups1"], world.hmis["hmi1"]
        world.loop.run_to(60.0)
        ups.fail()
        world.loop.run_to(100.0)
        ups.restore()
        world.loop.run_to(400.0)
        assert all(plc.mode is Mode.RUN and 400 - plc.last_scan < 1 for plc in world.plcs.values())
        assert all(400 - fresh < 5 for fresh in hmi.fresh.values())
        assert 400 - hmi.beat_acknowledged < 5
        assert all(good for plc in world.plcs.values() for good in plc.peer_good.values())


def test_a_session_does_not_survive_an_outage() -> None:
    with water("SR 1.1") as world:
        world.loop.run_to(60.0)
        hmi = world.hmis["hmi1"]
        assert hmi.session is not None
        world.switch_off("hmi1")
        world.switch_on("hmi1")
        assert hmi.session is None


def outage(*requirements: str) -> RunRecord:
    names = profiles.check(("SR 5.2 RE 1", *requirements))
    return run(Experiment("water", names, "test", "power-failure", 1, 400.0))[0]


def test_an_outage_opens_a_way_in_that_emergency_power_keeps_shut() -> None:
    bypass, carried = outage(), outage("SR 7.5")
    assert bypass.succeeded == 2  # the outage itself, and the controller that was stopped
    assert carried.succeeded == 1
    assert bypass.lost["control"][-1][1] == 400
    assert not any(carried.lost.values())
    assert not carried.trips


def test_a_supply_whose_battery_is_worn_does_not_do_its_work() -> None:
    with water("SR 7.5") as world:
        assert profiles.working(world, "SR 7.5")["control"]
        world.upses["ups1"].charge = 0.0
        assert not profiles.working(world, "SR 7.5")["control"]
