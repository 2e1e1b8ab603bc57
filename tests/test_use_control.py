"""Use control by people: what each requirement changes for whoever stands at the station, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from controls import profiles
from controls.rights import kinds_of, rights_of, use_control
from devices.accounts import User
from devices.hmi import Alarm
from devices.opcua import UaClient
from devices.plc import Mode
from devices.staff import request_to_change, request_to_lift, request_to_write
from devices.world import World
from results.outcomes import OUTCOMES
from scenarios.attack import Attack
from scenarios.experiment import run, site_of
from scenarios.model import load_scenario
from scenarios.steps.people import LeaveStation, OperatorTask, StuckSwitch, WalkUp
from scenarios.trials import trials
from testbed.figures import load_figures
from testbed.site import Response

NO_MISTAKES = {"approval.unexpected_granted": 0.0}
LIMIT, PUMP = "DPIT301_H_SP", "P301_AUTO"


def water(*requirements: str, **overrides: float) -> World:
    figures = load_figures().with_overrides({**NO_MISTAKES, **overrides})
    world = World(site_of("water"), 1, figures)
    profiles.apply(world, profiles.with_needs(requirements))
    return world


def at_station(
    world: World, deed: Callable[[World], Awaitable[Any]], until: float = 900.0
) -> tuple[Any, float]:
    """What ``deed`` returned as a program of the station from 30 s on, and how long it took (s)."""
    found: list[tuple[Any, float]] = []

    async def program() -> None:
        begun = world.loop.time()
        found.append((await deed(world), world.loop.time() - begun))

    host = world.network.hosts["hmi1"]
    world.start()
    world.loop.call_at(30.0, lambda: host.spawn(program(), "deed"))
    while not found and world.loop.time() < until:
        world.loop.run_to(world.loop.time() + 10.0)
    world.close()
    assert found, "the deed did not end in time"
    return found[0]


def writes(tag: str, value: float, *, role: str = "operator") -> Callable[[World], Awaitable[str | None]]:
    async def deed(world: World) -> str | None:
        return await world.hmis["hmi1"].command(User(f"{role}1", role), tag, value)

    return deed


# -- each requirement against its trial ---------------------------------------------------------------------------


@pytest.mark.parametrize("requirement", ["SR 2.1", "SR 2.1 RE 2", "SR 2.1 RE 3", "SR 2.1 RE 4", "SR 2.5"])
def test_the_trial_shows_what_the_requirement_is_for(requirement: str) -> None:
    trial = trials()[requirement]
    outcome = OUTCOMES[trial.shows]
    off, on = (run(trial.arm(requirement, 11, on=here))[0] for here in (False, True))
    assert outcome.gain(outcome.measure(on, on), outcome.measure(off, off)) >= outcome.least


# -- SR 2.1 RE 2, permission mapping to roles ---------------------------------------------------------------------


def test_every_tag_that_the_wire_may_write_is_of_a_kind_and_every_right_is_used_by_some_role() -> None:
    site = site_of("water")
    kinds = kinds_of(site)
    assert {
        tag for plc in site.controllers().values() for tag, what in plc.tags.items() if what.writable
    } == set(kinds)
    assert {"commands", "setpoints", "safety"} == set(kinds.values())
    given = {right for rights in use_control().rights.values() for right in rights}
    assert set(kinds.values()) <= given


def test_an_operator_may_do_everything_that_the_procedures_say() -> None:
    site = site_of("water")
    world = water("SR 2.1 RE 2")
    assert world.permissions is not None
    for responses in site.assets["hmi1"].responses.values():  # type: ignore[union-attr]
        assert all(world.permissions.allows(User("operator", "operator"), step.tag) for step in responses)
    assert rights_of(site)["maintenance"] == frozenset()
    world.close()


@pytest.mark.parametrize(
    ("role", "tag", "value", "written"),
    [
        ("operator", PUMP, 1, True),
        ("operator", LIMIT, 40, False),
        ("operator", "RESET", 1, False),
        ("engineer", LIMIT, 40, True),
        ("engineer", PUMP, 1, False),
        ("supervisor", "RESET", 1, True),
        ("admin", PUMP, 1, False),
    ],
)
def test_a_role_reaches_what_its_task_needs(role: str, tag: str, value: float, written: bool) -> None:
    refused, _ = at_station(water("SR 2.1 RE 2"), writes(tag, value, role=role), until=60)
    assert (refused is None) is written
    if role != "operator":
        return
    before, _ = at_station(water("SR 2.1"), writes(tag, value, role=role), until=60)
    assert before is None


@pytest.mark.parametrize(("user", "status"), [("operator1", "BadUserAccessDenied"), ("supervisor1", None)])
def test_the_table_holds_at_the_opc_ua_server_too(user: str, status: str | None) -> None:
    async def write(world: World) -> str | None:
        client = UaClient(f"opc.tcp://{world.network.hosts['opcua1'].address}:4840", user, user)
        assert await client.connect() is None
        refused = await client.write("LIT101_H_SP", 900)
        await client.disconnect()
        return None if refused is None else refused.status

    assert at_station(water("SR 1.1 RE 1", "SR 2.1 RE 2"), write, until=60)[0] == status


# -- SR 2.1 RE 3, supervisor override -----------------------------------------------------------------------------


def test_an_override_that_the_supervisor_expects_is_given_recorded_and_over_after_a_time() -> None:
    world = water("SR 2.1 RE 3", "SR 2.8")

    async def thrice(world: World) -> list[str | None]:
        world.staff.announce(request_to_lift("operator1", "RESET"))
        first = await writes("RESET", 1)(world)
        second = await writes("RESET", 1)(world)  # within the time nobody has to be asked again
        lifted.append(world.loop.time())
        await world.loop.until(world.loop.time() + world.figures["override.duration"])
        return [first, second, await writes("RESET", 1)(world)]

    lifted: list[float] = []
    (first, second, third), _ = at_station(world, thrice, until=2400)
    assert (first, second) == (None, None)
    assert third == "role operator has no right to RESET"
    (granted,) = world.trace.of_kind("log.override.granted")
    assert granted.data["by"] == "supervisor1"
    assert granted.data["user"] == "operator1"
    assert list(world.trace.of_kind("log.override.refused"))


def test_an_override_that_nobody_expects_is_refused() -> None:
    refused, seconds = at_station(water("SR 2.1 RE 3"), writes("RESET", 1))
    assert refused is not None
    assert seconds > 5


def test_who_may_write_nothing_at_all_is_not_offered_an_override() -> None:
    refused, seconds = at_station(water("SR 2.1 RE 3"), writes("RESET", 1, role="viewer"), until=60)
    assert refused is not None
    assert seconds == 0


# -- SR 2.1 RE 4, dual approval -----------------------------------------------------------------------------------


def test_a_change_with_serious_effect_waits_for_a_second_person_who_knows_of_it() -> None:
    async def announced(world: World) -> str | None:
        world.staff.announce(request_to_write(LIMIT, 39.0))
        return await writes(LIMIT, 39.0)(world)

    refused, seconds = at_station(water("SR 2.1 RE 4"), announced)
    assert refused is None
    assert seconds > 5
    assert at_station(water("SR 2.1 RE 4"), writes(LIMIT, 39.0))[0] == "not approved"
    assert at_station(water("SR 2.1"), writes(LIMIT, 39.0))[1] < 1


def test_what_must_be_done_at_once_asks_nobody() -> None:
    refused, seconds = at_station(water("SR 2.1 RE 4"), writes(PUMP, 0), until=60)
    assert refused is None
    assert seconds < 1


def test_what_the_procedure_of_a_standing_alarm_says_asks_nobody_even_if_it_is_a_setpoint() -> None:
    async def in_alarm(world: World) -> str | None:
        hmi = world.hmis["hmi1"]
        procedure = {"LIT301:HH": (Response(plc="plc3", tag=LIMIT, value=39.0),)}
        hmi.asset = hmi.asset.model_copy(update={"responses": procedure})
        hmi.alarms["LIT301:HH"] = Alarm("LIT301", "HH", world.loop.time(), 1200.0)
        return await writes(LIMIT, 39.0)(world)

    refused, seconds = at_station(water("SR 2.1 RE 4"), in_alarm, until=60)
    assert refused is None
    assert seconds < 1


def test_a_controller_is_stopped_or_loaded_only_with_a_second_person() -> None:
    async def change(world: World) -> tuple[bool, bool]:
        workstation = world.workstations["ews1"]
        world.staff.announce(request_to_change("plc2", "mode"))
        return await workstation.set_mode("plc2", Mode.RUN), await workstation.set_mode("plc3", Mode.PROGRAM)

    async def from_workstation(world: World) -> tuple[bool, bool]:
        found: tuple[bool, bool] = await world.network.hosts["ews1"].spawn(change(world), "change")
        return found

    world = water("SR 2.1 RE 4", "SR 2.8")
    assert at_station(world, from_workstation)[0] == (True, False)
    assert world.plcs["plc3"].mode is Mode.RUN
    assert list(world.trace.of_kind("log.change.denied"))
    world = water("SR 2.1")
    assert at_station(world, from_workstation)[0] == (True, True)


@pytest.mark.parametrize("requirement", ["SR 2.1 RE 3", "SR 2.1 RE 4"])
def test_where_no_supervisor_can_be_reached_the_check_finds_it(requirement: str) -> None:
    world = water(requirement)
    assert profiles.working(world, requirement)["operations"]
    for person in world.staff.people:
        person.place = "away"
    assert not profiles.working(world, requirement)["operations"]
    assert profiles.working(world, requirement)["control"]
    world.close()


# -- the steps ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "lack"),
    [
        (LeaveStation(action="leave_station", hmi="hmi9", lasting=5), "no HMI 'hmi9'"),
        (
            OperatorTask(action="operator_task", hmi="hmi1", task="t", values={"NO_TAG": 1}),
            "shows no tag 'NO_TAG'",
        ),
        (StuckSwitch(action="stuck_switch", plc="sis1", tag="RESET", lasting=5), "no switch 'RESET'"),
        (
            WalkUp(action="walk_up", technique="T0823", hmi="opcua1", person="visitor", values={PUMP: 0}),
            "no HMI 'opcua1'",
        ),
    ],
)
def test_a_step_says_what_the_site_lacks(step: Any, lack: str) -> None:
    (sentence,) = step.lacks(site_of("water"))
    assert lack in sentence


def test_a_stranger_does_not_get_to_a_station_where_somebody_sits() -> None:
    (step,) = (one for one in load_scenario("unattended-station").steps if isinstance(one, WalkUp))

    async def walk_up(world: World) -> list[str]:
        attack = Attack(world, world.network.hosts["hmi1"])
        await step.carry_out(attack)
        await LeaveStation(action="leave_station", hmi="hmi1", lasting=100).carry_out(attack)
        gone = [person.name for person in world.staff.in_room()]
        await step.carry_out(attack)
        await world.loop.until(150.0)
        return gone

    world = water()
    assert at_station(world, walk_up, until=300)[0] == ["supervisor1"]
    outcomes = [event.data["outcome"] for event in world.trace.of_kind("attack.step")]
    assert outcomes == ["refused", "done"]
    assert [person.name for person in world.staff.in_room()] == ["operator1", "supervisor1"]
