"""Playbooks: what an action stops, what it costs, and that people take longer than machines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from reference_site import water

from devices.response import Mode, Playbook, Responder, load_playbooks, shipped
from devices.siem import SecurityAlert
from devices.world import World
from results.metrics import contained
from scenarios.experiment import Experiment, RunRecord, run
from testbed.errors import DocumentError
from testbed.trace import Trace

QUICK = (("response.decide.mean", 30.0), ("response.decide.sd", 5.0), ("siem.analyst_notice.mean", 20.0),
         ("siem.analyst_notice.sd", 5.0), ("siem.analyst_diagnose.mean", 30.0), ("siem.analyst_diagnose.sd", 5.0),
         ("soc.missed", 0.0))  # fmt: skip


def attacked(mode: Mode, scenario: str = "stranger-commands", *requirements: str) -> tuple[RunRecord, Trace]:
    wanted = requirements or ("SR 6.2",)
    return run(Experiment("water", wanted, "test", scenario, 1, 900.0, QUICK, response=mode))


@contextmanager
def responding(act: str, rule: str = "test", *requirements: str) -> Iterator[tuple[World, Responder]]:
    """The reference site with one automatic playbook for ``rule``."""
    with water(*requirements) as world:
        playbook = Playbook.model_validate({"name": "mine", "title": "Mine", "rules": (rule,), "do": (act,)})
        responder = Responder(world, "automatic", (playbook,))
        responder.start()
        world.loop.run_to(40.0)
        yield world, responder


def alarm(world: World, subject: str, source: str = "mon1") -> None:
    """Tell the SIEM's listeners of an alert, true or not, and give the site half a minute."""
    one = SecurityAlert(world.loop.time(), "test", 3, source, subject)
    for told in world.siems["siem1"].on_alert:
        told(one)
    world.loop.run_to(world.loop.time() + 30.0)


# -- what it stops ---------------------------------------------------------------------------------------------


@pytest.fixture
def writes(tmp_path: Path) -> str:
    path = tmp_path / "writes.yaml"
    path.write_text(
        "name: writes\ntitle: Writes\nsummary: Writes.\nstart: 60\nattacker: {zone: operations}\nsteps:\n"
        "  - {action: modbus_write, technique: T0855, plc: plc1, values: {MV101_AUTO: 0, MV101_CMD: 1},"
        " every: 10, lasting: 800}\n"
    )
    return str(path)


def test_nobody_contains_an_attack_that_nobody_answers(writes: str) -> None:
    record, _ = attacked("none", writes)
    assert contained(record) is None
    assert record.last_done == record.last_try


def test_a_machine_contains_it_at_once_and_people_later(writes: str) -> None:
    automatic, analyst = (contained(attacked(mode, writes)[0]) for mode in ("automatic", "analyst"))  # type: ignore[arg-type]
    assert automatic is not None
    assert analyst is not None
    assert automatic < 15.0
    assert analyst > automatic + 30.0


def test_logic_that_was_changed_is_put_back(tmp_path: Path) -> None:
    _, trace = attacked("automatic", "tampered-logic")
    done = [str(one.data["what"]) for one in trace.events if one.kind == "response"]
    assert "restore_logic plc3" in done
    _, quiet = attacked("none", "tampered-logic")
    assert not [one for one in quiet.events if one.kind == "response"]


def test_nothing_is_done_where_nobody_attacks() -> None:
    record, trace = run(Experiment("water", ("SR 6.2",), "test", None, 1, 900.0, response="automatic"))
    assert record.incidents == []
    assert not [one for one in trace.events if one.kind == "response"]


# -- what it does ----------------------------------------------------------------------------------------------


def test_a_shut_port_takes_its_machine_off_the_network_and_costs_what_that_machine_did() -> None:
    with responding("shut_port") as (world, responder):
        alarm(world, "10.0.3.10")  # the operator station, by a false alarm
        assert [(act, target) for _, act, target in responder.done] == [("shut_port", "hmi1")]
        assert world.loop.time() - world.hmis["hmi1"].fresh["plc1"] > 10.0


def test_controllers_are_victims_and_keep_their_ports() -> None:
    with responding("shut_port") as (world, responder):
        alarm(world, "10.0.4.11")
        assert responder.done == []


def test_isolating_a_zone_on_a_false_alarm_costs_the_view() -> None:
    with responding("isolate_zone") as (world, _):
        alarm(world, "ews1")
        assert world.network.conduits["operations_control"].cut
        assert world.loop.time() - world.hmis["hmi1"].fresh["plc1"] > 10.0


def test_a_blocked_source_is_turned_away_at_every_firewall() -> None:
    with responding("block_source") as (world, responder):
        alarm(world, "10.0.3.40")
        assert {target for _, _, target in responder.done} >= {"10.0.3.40 at operations_control"}


def test_a_locked_account_logs_in_no_more() -> None:
    with responding("lock_account", "test", "SR 1.1", "SR 1.1 RE 1") as (world, responder):
        stores = [store for store in world.account_stores.values() if "engineer1" in store.accounts]
        assert stores
        alarm(world, "engineer1")
        assert responder.done
        assert not any(store.accounts["engineer1"].enabled for store in stores)


def test_the_operator_takes_the_process_to_its_safe_state_by_hand() -> None:
    with responding("manual") as (world, responder):
        alarm(world, "ews1")
        world.loop.run_to(world.loop.time() + 200.0)
        assert [act for _, act, _ in responder.done] == ["manual"]
        assert not world.plcs["plc1"].instance.memory["MV101_AUTO"]


def test_an_island_needs_its_switch() -> None:
    with responding("island") as (world, responder):
        alarm(world, "corp1")
        assert responder.done == []


# -- playbooks -------------------------------------------------------------------------------------------------


def test_shipped_playbooks_are_for_rules_that_exist() -> None:
    from devices.sigma import shipped as rules

    # What monitors find keeps its own name.
    found = {"new flow", "new host", "Modbus function", "value out of range", "packet rate", "scan",
             "address claimed twice", "repeated denials"}  # fmt: skip
    known = found | {one.title for one in rules()}
    assert [name for one in shipped() for name in one.rules if name not in known] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {name: a, title: A, do: [shut_port]}\n", "for which rules"),
        ("- {name: a, title: A, rules: [x], do: [shoot]}\n", "shoot"),
        ("- {name: a, title: A, rules: [x], do: []}\n", "do"),
    ],
)
def test_mistakes_in_playbooks_are_told(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(DocumentError, match=message):
        load_playbooks(path)


def test_the_first_playbook_that_fits_is_taken() -> None:
    assert next(one for one in shipped() if "logic changed" in one.rules).name == "logic"


def test_a_response_is_part_of_what_a_run_is(tmp_path: Path) -> None:
    modes: tuple[Mode, ...] = ("none", "analyst")
    keys = [Experiment("water", (), "t", None, 1, 60.0, response=mode).key() for mode in modes]
    assert keys[0] != keys[1]
