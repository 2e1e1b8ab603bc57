"""Compensating countermeasures: each by the difference it makes, what it may stand in for, and what it costs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from click.testing import CliRunner

from controls import compensating, profiles
from controls.catalogue import SecurityLevels, catalogue
from controls.levels import measure
from controls.selection import select
from devices.accounts import User
from devices.modbus import ModbusClient, Refusal
from devices.opcua import UaClient
from devices.operator import Operator
from devices.plc import Mode
from devices.premises import ENVELOPE
from devices.registers import Table
from devices.staff import request_to_write
from devices.terminal import OperatorTerminal
from devices.world import World
from lab.cli import main
from results.outcomes import OUTCOMES
from scenarios.experiment import Experiment, RunRecord, run, site_of
from testbed.errors import UnknownNameError
from testbed.figures import load_figures
from testbed.plant import stuck_at
from testbed.trace import Trace

LIMIT = "DPIT301_H_SP"


def performed(
    scenario: str, level: str, *names: str, seed: int = 1, duration: float = 600.0
) -> tuple[RunRecord, Trace]:
    selection = replace(select(SecurityLevels.parse(level)), compensating=names)
    overrides = (("approval.unexpected_granted", 0.0), ("session.lock_after", 100.0))
    return run(Experiment.of("water", selection, scenario, seed, duration, overrides))


def sooner(folder: Path, name: str) -> str:
    """The scenario with the contractor coming after 150 s instead of 1,200; stations lock after 100 s here."""
    text = (Path(str(files("scenarios"))) / "library" / f"{name}.yaml").read_text(encoding="utf-8")
    assert "after: 1200" in text
    path = folder / f"{name}.yaml"
    path.write_text(text.replace("after: 1200", "after: 150"), encoding="utf-8")
    return str(path)


def product(record: RunRecord) -> float:
    return OUTCOMES["availability.production"].measure(record, record)


def task_time(record: RunRecord) -> float:
    (seconds,) = (
        float(data["seconds"])
        for _, kind, _, data in record.marks
        if kind == "task" and data["task"] != "approval"
    )
    return seconds


def water(requirements: tuple[str, ...], *names: str, seed: int = 1) -> World:
    figures = load_figures().with_overrides({"approval.unexpected_granted": 0.0})
    world = World(site_of("water"), seed, figures)
    profiles.apply(world, profiles.with_needs(requirements))
    compensating.apply(world, names)
    return world


def ask(
    world: World, deed: Callable[[World], Awaitable[Any]], *, at: str = "hmi1", until: float = 900.0
) -> Any:
    """What ``deed`` returned, run as a program of host ``at`` from 30 s on; the world goes on existing."""
    found: list[Any] = []

    async def program() -> None:
        try:
            found.append(await deed(world))
        except OSError as error:
            found.append(error)

    host = world.network.hosts[at]
    world.start()
    world.loop.call_at(30.0, lambda: host.spawn(program(), "deed"))
    while not found and world.loop.time() < until:
        world.loop.run_to(world.loop.time() + 10.0)
    assert found, "the deed did not end in time"
    return found[0]


# -- the table ----------------------------------------------------------------------------------------------------


def test_every_countermeasure_acts_says_why_and_stands_only_for_requirements_that_exist() -> None:
    table = compensating.compensating()
    assert set(table) == set(compensating.COMPENSATING)
    assert len(table) >= 6
    for one in table.values():
        assert one.act.__doc__
        assert set(one.entry.stands_for) <= set(catalogue())
        assert len(one.entry.residual_risk) > 20


def test_a_name_that_does_not_exist_is_refused_with_the_one_that_was_meant() -> None:
    world = water(())
    with pytest.raises(UnknownNameError, match="break_glass"):
        compensating.apply(world, ["brake_glass"])
    with pytest.raises(UnknownNameError, match="compensating countermeasure"):
        compensating.stood_for(["nothing"])
    world.close()


def test_the_first_that_may_stand_in_for_a_requirement_is_named_whatever_order_they_are_given_in() -> None:
    found = compensating.stood_for(["break_glass", "supervisor_override", "break_glass"])
    assert found == {"SR 2.1 RE 3": "supervisor_override"}
    assert compensating.stood_for(["background_checks"]) == {}


def test_a_countermeasure_closes_a_gap_of_what_is_achieved_and_leaves_what_could_be() -> None:
    selection = select(SecurityLevels.parse("UC=3,IAC=3"), removed=("SR 2.1 RE 3",))
    world = water(selection.requirements)
    alone = measure(world, {})["operations"]
    helped = measure(world, compensating.stood_for(["supervisor_override"]))["operations"]
    assert alone.capability == helped.capability
    assert alone.achieved[1] == 2
    assert helped.achieved[1] >= 3 or "SR 2.1 RE 3" not in helped.missing
    assert helped.stood_for == {"SR 2.1 RE 3": "supervisor_override"}
    world.close()


# -- people -------------------------------------------------------------------------------------------------------


def test_enhanced_physical_security_keeps_a_contractor_from_the_open_session(tmp_path: Path) -> None:
    """It stands in for SR 2.5: nothing locks here, and the plant goes on all the same."""
    scenario = sooner(tmp_path, "unattended-station")
    open_door, _ = performed(scenario, "IAC=1", duration=400)
    guarded, trace = performed(scenario, "IAC=1", "enhanced_physical_security", duration=400)
    assert product(guarded) > product(open_door) + 0.02
    assert next(trace.of_kind("door")).data == {"person": "contractor", "admitted": False}


def test_background_checks_keep_most_who_mean_harm_from_the_job_and_no_visitor() -> None:
    hired = []
    for seed in range(20):
        world = water((), "background_checks", seed=seed)
        assert world.staff.means_harm("insider") == world.staff.means_harm("insider")
        assert world.staff.means_harm("visitor")
        hired.append(world.staff.means_harm("insider"))
        world.close()
    assert 1 <= sum(hired) <= 12  # of 20, at a share of 0.3
    world = water(())
    assert world.staff.means_harm("insider")
    world.close()


def test_a_second_operator_undoes_what_nobody_ordered() -> None:
    alone, _ = performed("engineer-changes-limits", "IAC=2")
    both, _ = performed("engineer-changes-limits", "IAC=2", "dual_operators")
    assert product(both) > product(alone) + 0.05
    assert [data["what"] for _, kind, _, data in both.marks if kind == "response"] == [
        "UF_FILTER_SP set back to 30"
    ]


def test_a_second_operator_leaves_what_was_ordered() -> None:
    async def ordered(world: World) -> tuple[str | None, float]:
        world.staff.announce(request_to_write(LIMIT, 39.0))
        refused = await world.hmis["hmi1"].write(LIMIT, 39.0)
        await world.loop.until(world.loop.time() + 300.0)
        return refused, world.hmis["hmi1"].values[LIMIT]

    world = water((), "dual_operators")
    assert ask(world, ordered) == (None, 39.0)
    world.close()


def answered(*names: str, seed: int) -> list[float]:
    """Times to answer two alarms that come at once."""
    world = water((), *names, seed=seed)

    async def two_alarms(world: World) -> list[float]:
        operator = world.operators["hmi1"]
        for sensor in ("LIT101", "LIT301"):
            world.wiring.sensors[sensor].fault = stuck_at(1.25)  # m: above HH
        people = [operator, *([operator.colleague] if operator.colleague is not None else [])]
        while sum(len(one.completed) for one in people) < 2:
            await world.loop.until(world.loop.time() + 1.0)
        return [done - raised for one in people for raised, done in one.completed]

    found: list[float] = ask(world, two_alarms)
    world.close()
    return found


def test_two_operators_answer_two_alarms_at_once() -> None:
    alone = [max(answered(seed=seed)) for seed in range(1, 5)]
    both = [max(answered("dual_operators", seed=seed)) for seed in range(1, 5)]
    assert median(both) < median(alone)


def test_a_second_operator_can_give_the_second_approval_when_no_supervisor_can() -> None:
    async def change(world: World) -> str | None:
        next(one for one in world.staff.people if one.role == "supervisor").place = "away"
        world.staff.announce(request_to_write(LIMIT, 39.0))
        return await world.hmis["hmi1"].command(User("operator1", "operator"), LIMIT, 39.0)

    found = []
    for names in ((), ("dual_operators",)):
        world = water(("SR 2.1 RE 4",), *names)
        found.append(ask(world, change))
        world.close()
    assert found == ["not approved", None]


# -- an emergency -------------------------------------------------------------------------------------------------


def test_level_4_holds_up_an_operator_without_a_token_and_break_glass_repairs_it() -> None:
    hindered = [
        task_time(performed("emergency-without-token", "4", seed=s, duration=1500)[0]) for s in (1, 2)
    ]
    repaired = [
        task_time(performed("emergency-without-token", "4", "break_glass", seed=s, duration=400)[0])
        for s in (1, 2)
    ]
    at_level_1 = task_time(performed("emergency-without-token", "1", duration=400)[0])
    assert min(hindered) > 300
    assert max(repaired) < 150
    assert at_level_1 < 100


def test_break_glass_costs_what_a_stolen_envelope_opens_and_a_guarded_room_takes_it_back(
    tmp_path: Path,
) -> None:
    level, scenario = "IAC=1,UC=1", sooner(tmp_path, "stolen-envelope")
    made = {
        names: product(performed(scenario, level, *names, duration=450)[0])
        for names in ((), ("break_glass",), ("break_glass", "enhanced_physical_security"))
    }
    locked, with_envelope, guarded = made.values()
    assert with_envelope < locked - 0.03
    assert guarded > with_envelope + 0.03


def test_the_use_of_break_glass_alerts_and_is_reviewed_and_its_credential_opens_nothing_again() -> None:
    async def use(world: World) -> tuple[bool, bool, str]:
        hmi = world.hmis["hmi1"]
        hmi.session = None
        name, _, secret = world.physical.kept[ENVELOPE].partition(":")
        first = await hmi.log_in(name, secret)
        role = hmi.session.user.role if hmi.session is not None else ""
        while world.physical.kept[ENVELOPE].endswith(secret):
            await world.loop.until(world.loop.time() + 60.0)
        ended = hmi.who() is None or hmi.who() == User("operator", "operator")  # who may have sat down since
        return first, await hmi.log_in(name, secret) or not ended, role

    world = water(("SR 1.1", "SR 6.2"), "break_glass")
    alerts: list[str] = []
    world.siems["siem1"].on_alert.append(lambda alert: alerts.append(alert.rule))
    assert ask(world, use, until=9000.0) == (True, False, "supervisor")
    world.close()
    assert "break-glass account used" in alerts
    assert any("credential changed" in event.data["what"] for event in world.trace.of_kind("response"))


def test_the_envelope_opens_the_screen_only() -> None:
    async def over_the_network(world: World) -> str | None:
        name, _, secret = world.physical.kept[ENVELOPE].partition(":")
        client = UaClient(f"opc.tcp://{world.network.hosts['opcua1'].address}:4840", name, secret)
        refusal = await client.connect()
        await client.disconnect()
        return None if refusal is None else refusal.status

    world = water(("SR 1.1",), "break_glass")
    assert ask(world, over_the_network, at="jump1") == "BadUserAccessDenied"
    world.close()


@pytest.mark.parametrize("name", ["supervisor_override", "break_glass"])
def test_a_reset_that_is_not_an_operators_right_is_done_by_procedure(name: str) -> None:
    refused, _ = performed("spurious-trip", "IAC=2,UC=2")
    done, _ = performed("spurious-trip", "IAC=2,UC=2", name)
    assert OUTCOMES["operability.refused"].measure(refused, refused) == 1
    assert OUTCOMES["operability.refused"].measure(done, done) == 0
    assert product(done) > product(refused) + 0.05


def test_the_supervisor_narrows_the_rights_again() -> None:
    _, trace = performed("spurious-trip", "IAC=2,UC=2", "supervisor_override", duration=900)
    changes = [event.data["rights"] for event in trace.of_kind("log.rights.changed")]
    assert len(changes) == 2
    assert "RESET" in changes[0]
    assert "RESET" not in changes[1]


def test_without_limits_of_roles_there_is_nothing_to_override_and_without_log_in_no_glass_to_break() -> None:
    world = water((), "supervisor_override", "break_glass")
    hmi = world.hmis["hmi1"]
    assert hmi.seams.override is None
    assert hmi.seams.emergency is None
    assert world.physical.kept == {}
    world.close()


# -- the network --------------------------------------------------------------------------------------------------


async def _remote_commands(world: World) -> list[bool]:
    """Whether commands over the network took effect: Modbus and a change of mode from ews1, OPC UA."""
    tag = world.site.tag("plc1", "MV101_AUTO")
    client = ModbusClient(world.network.hosts["plc1"].address, 502)
    written = await client.write(Table.COIL, tag.address, [1])
    stopped = await world.workstations["ews1"].set_mode("plc2", Mode.PROGRAM)
    opcua = UaClient(f"opc.tcp://{world.network.hosts['opcua1'].address}:4840")
    assert await opcua.connect() is None
    refused = await opcua.write("LIT101_H_SP", 900)
    await opcua.disconnect()
    return [not isinstance(written, Refusal), stopped, refused is None]


def test_local_only_takes_commands_from_the_control_room_and_from_nowhere_else() -> None:
    found = []
    for names in ((), ("local_only",)):
        world = water((), *names)
        found.append(ask(world, _remote_commands, at="ews1"))
        world.close()
    assert found == [[True] * 3, [False] * 3]

    async def at_the_screen(world: World) -> str | None:
        return await world.hmis["hmi1"].write("MV101_AUTO", 1)

    world = water((), "local_only")
    assert ask(world, at_the_screen) is None
    terminal: OperatorTerminal = world.terminals["hmi1"]
    assert not terminal.seams.commands
    world.close()


def test_an_unattacked_plant_stays_as_it_is_with_every_countermeasure_in_force() -> None:
    selection = replace(select(SecurityLevels.uniform(2)), compensating=tuple(compensating.COMPENSATING))
    record, trace = run(Experiment.of("water", selection, None, 1, 300.0))
    assert all(not record.lost[name] for name in ("view", "control", "safety"))
    assert not record.alerts
    assert not list(trace.of_kind("response"))


def test_a_colleague_uses_the_account_of_whose_screen_it_is() -> None:
    world = water(("SR 1.1 RE 1",), "dual_operators")
    first = world.operators["hmi1"]
    assert isinstance(first.colleague, Operator)
    assert first.colleague.holder is first
    world.close()


def test_the_command_line_lists_them_and_a_run_takes_them() -> None:
    listed = CliRunner().invoke(main, ["controls", "compensating"])
    assert listed.exit_code == 0
    assert all(f"{name}:" in listed.output for name in compensating.COMPENSATING)
    ran = CliRunner().invoke(main, ["run", "--duration", "60", "--compensate", "local_only"])
    assert ran.exit_code == 0
    refused = CliRunner().invoke(main, ["run", "--duration", "60", "--compensate", "nonsense"])
    assert refused.exit_code != 0
    assert "Traceback" not in refused.output
