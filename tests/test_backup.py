"""Copies of programs, and what they are worth when a controller has been wrecked: SR 7.3 and SR 7.4."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_site import after, ask, water
from small_worlds import one_zone

from controls import profiles
from devices.backup import KEPT, MOST, PORT, BackupServer, digest, fetch, parse_request, store
from devices.exchange import ask as ask_raw
from devices.plc import Mode
from devices.recovery import Protection
from scenarios.actions import carry_out, place_attacker
from scenarios.experiment import Experiment, RunRecord, prepare, run
from scenarios.steps.recovery import emptied

WIPER = ("SR 7.4",)


def marks(record: RunRecord, kind: str) -> list[tuple[float, str, dict[str, Any]]]:
    return [(time, source, data) for time, what, source, data in record.marks if what == kind]


# -- the server --------------------------------------------------------------------------------------------------


def test_what_is_stored_comes_back_byte_for_byte_over_the_wire() -> None:
    with water() as world:
        address, data = world.network.hosts["backup1"].address, bytes(range(256)) * 20
        assert ask(world, store(address, "plc1/program", 3.5, data)) is True
        copy = ask(world, fetch(address, "plc1/program"))
        assert (copy.data, copy.taken, copy.sound) == (data, 3.5, True)
        assert world.network.zones["operations"].bytes > 2 * len(data)


def test_an_item_that_nobody_stored_is_none_and_a_dead_server_an_error() -> None:
    with water() as world:
        host = world.network.hosts["backup1"]
        assert ask(world, fetch(host.address, "plc9/program")) is None
        host.power_off()
        assert isinstance(ask(world, fetch(host.address, "plc9/program")), OSError)


def test_a_server_that_admits_nobody_answers_nobody() -> None:
    with water() as world:
        server = world.backup_servers["backup1"]
        server.admits = lambda _address: False
        assert isinstance(ask(world, store(server.host.address, "a", 0.0, b"x")), OSError)
        assert not server.copies


def test_versions_are_kept_and_the_newest_before_an_incident_is_found() -> None:
    with water() as world:
        server = world.backup_servers["backup1"]
        for day in range(KEPT + 3):
            server.keep("plc1/program", float(day), str(day).encode())
        assert len(server.copies["plc1/program"]) == KEPT
        address = server.host.address
        assert ask(world, fetch(address, "plc1/program")).data == str(KEPT + 2).encode()
        assert ask(world, fetch(address, "plc1/program", before=6.5)).data == b"6"
        assert ask(world, fetch(address, "plc1/program", before=0.5)) is None


@given(data=st.binary(min_size=1, max_size=200), seed=st.integers(0, 1000))
def test_a_failing_medium_changes_every_version_and_the_digest_shows_it(data: bytes, seed: int) -> None:
    with one_zone() as world:
        server = BackupServer(world.network.hosts["attacker"], "backup1")
    server.keep("item", 0.0, data)
    server.keep("item", 1.0, data)
    assert server.damage("item", random.Random(seed)) == 2
    assert all(not copy.sound and copy.digest == digest(data) for copy in server.copies["item"])


@given(st.binary(max_size=400))
def test_no_line_of_bytes_breaks_the_server(line: bytes) -> None:
    found = parse_request(line)
    if not isinstance(found, str):
        verb, _, _, length = found
        assert verb in ("PUT", "GET", "LIST")
        assert 0 <= length <= MOST


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"DELETE plc1/program",
        b"PUT a 1",
        b"PUT ../x 1 1",
        b"PUT a nan 1",
        b"PUT a 1 99999999",
        b"GET a b c",
    ],
)
def test_what_is_no_request_is_told_so(line: bytes) -> None:
    assert isinstance(parse_request(line + b"\n"), str)


def test_a_client_that_never_ends_its_request_is_hung_up_on_and_leaves_nothing_behind() -> None:
    with water() as world:
        server = world.backup_servers["backup1"]
        question = ask_raw(
            server.host.address,
            PORT,
            b"PUT plc1/program 1.0 100\nonly this much",
            lambda _line: 0,
            longest_line=80,
            patience=60.0,
        )
        assert isinstance(ask(world, question), ConnectionResetError)
        assert world.loop.time() <= 20
        assert not server.copies


# -- SR 7.3 ------------------------------------------------------------------------------------------------------


def test_without_copies_a_wiped_controller_has_to_be_programmed_anew() -> None:
    without, copied = after("wiper", *WIPER), after("wiper", *WIPER, "SR 7.3")
    assert not marks(without, "recovered")
    [(_, who, data)] = marks(copied, "recovered")
    assert who == "plc1"
    assert data["seconds"] < 300


def test_a_recovered_controller_runs_the_released_program() -> None:
    experiment = Experiment("water", profiles.check(("SR 7.3", "SR 7.4")), "test", "wiper", 1, 600.0)
    world, scenario = prepare(experiment)
    assert scenario is not None
    attack = place_attacker(world, scenario)
    world.start()
    attack.host.spawn(carry_out(attack, scenario), "attack")
    world.loop.run_to(90.0)
    assert world.plcs["plc1"].program.source == emptied(world.site.logic("plc1"))
    assert world.plcs["plc1"].mode is Mode.PROGRAM
    assert "plc1" not in world.keepers["ews1"].projects
    world.loop.run_to(600.0)
    assert world.plcs["plc1"].program.source == world.site.logic("plc1")
    assert world.plcs["plc1"].mode is Mode.RUN
    world.close()


def test_copies_are_of_every_program_and_every_station() -> None:
    with water("SR 7.3") as world:
        items = set(world.backup_servers["backup1"].copies)
        assert items == {f"{plc}/program" for plc in world.plcs} | {"hmi1/configuration"}
        assert profiles.working(world, "SR 7.3")["operations"]
        world.backup_servers["backup1"].host.power_off()
        assert not profiles.working(world, "SR 7.3")["operations"]


def test_a_station_is_set_up_anew_from_the_copy_of_its_configuration() -> None:
    without, copied = after("station-failure", *WIPER), after("station-failure", *WIPER, "SR 7.3")
    assert not marks(without, "recovered")
    [(time, who, _)] = marks(copied, "recovered")
    assert who == "hmi1"
    assert copied.lost["view"][-1][1] <= time + 30  # and it shows the plant again
    assert without.lost["view"][-1][1] == 600


def test_taking_copies_does_not_disturb_operation() -> None:
    quiet = after_quiet(())
    copying = after_quiet(("SR 7.3", "SR 7.3 RE 2"), backup__every=0.02)
    assert not any(copying.lost.values())
    assert copying.lost == quiet.lost
    assert [alert for alert in copying.alerts if alert[1] == "siem"] == []


def after_quiet(requirements: tuple[str, ...], **figures: float) -> RunRecord:
    changed = tuple((key.replace("__", "."), value) for key, value in figures.items())
    return run(Experiment("water", profiles.check(requirements), "test", None, 1, 400.0, changed))[0]


# -- SR 7.3 RE 1 and RE 2 ----------------------------------------------------------------------------------------


def test_a_decayed_copy_is_found_and_taken_afresh_before_it_is_needed() -> None:
    with water("SR 7.3", "SR 7.3 RE 1", backup__verify_every=0.02) as world:
        server, keeper = world.backup_servers["backup1"], world.keepers["ews1"]
        server.damage("plc2/program", random.Random(1))
        world.loop.run_to(100.0)
        assert [e.data["what"] for e in world.trace.events if e.kind == "finding"] == [
            "plc2: the copy is not what was stored"
        ]
        assert server.copies["plc2/program"][-1].data.decode() == world.site.logic("plc2")
        assert keeper.trusted["plc2"]


def test_a_decayed_copy_that_cannot_be_renewed_is_an_enhancement_that_does_not_work() -> None:
    with water("SR 7.3", "SR 7.3 RE 1", backup__verify_every=0.02) as world:
        world.backup_servers["backup1"].damage("plc2/program", random.Random(1))
        world.plcs["plc2"].host.power_off()
        world.loop.run_to(120.0)
        assert not profiles.working(world, "SR 7.3 RE 1")["operations"]


def test_a_copy_that_would_not_load_is_distrusted_although_its_digest_fits() -> None:
    with water("SR 7.3") as world:
        keeper = world.keepers["ews1"]
        world.backup_servers["backup1"].keep("plc1/program", 0.0, b"PROGRAM p END_PROGRAM")
        assert ask(world, keeper.reason_to_distrust("plc1")) is not None
        assert ask(world, keeper.reason_to_distrust("plc2")) is None


def test_only_an_automatic_copy_has_the_last_change() -> None:
    by_hand = after("wiper-after-change", *WIPER, "SR 7.3")
    automatic = after("wiper-after-change", *WIPER, "SR 7.3", "SR 7.3 RE 2", backup__every=0.03)
    assert not marks(by_hand, "recovered")  # it runs, without the change, which has to be made again
    assert marks(automatic, "recovered")[0][2]["seconds"] < 300


def test_automatic_copies_that_no_longer_come_show() -> None:
    with water("SR 7.3", "SR 7.3 RE 2", backup__every=0.02) as world:
        world.loop.run_to(160.0)
        assert profiles.working(world, "SR 7.3 RE 2")["operations"]
        world.backup_servers["backup1"].host.power_off()
        world.loop.run_to(400.0)
        assert not profiles.working(world, "SR 7.3 RE 2")["operations"]


def test_a_person_takes_a_copy_after_a_change_unless_it_is_forgotten() -> None:
    with water("SR 7.3") as world:
        keeper, server = world.keepers["ews1"], world.backup_servers["backup1"]
        before = len(server.copies["plc1/program"])
        keeper.habits.by_hand = lambda: None
        keeper.changed("plc1", keeper.released["plc1"])
        world.loop.run_to(100.0)
        assert len(server.copies["plc1/program"]) == before
        keeper.habits.by_hand = lambda: 30.0
        keeper.changed("plc1", keeper.released["plc1"])
        world.loop.run_to(200.0)
        assert len(server.copies["plc1/program"]) == before + 1
        assert keeper.taken["plc1"] == pytest.approx(130.0, abs=1.0)


# -- SR 7.4 ------------------------------------------------------------------------------------------------------


def test_an_improvised_recovery_leaves_the_controller_open_to_the_next_attack() -> None:
    protected = ("SR 2.1 RE 1", "SR 7.3")
    improvised = after("wiper-returns", *protected, duration=900)
    prepared = after("wiper-returns", *protected, "SR 7.4", duration=900)
    assert improvised.lost["control"][-1][1] == 900  # stopped again, and nobody left to help
    assert prepared.lost["control"][-1][1] < 300
    assert marks(prepared, "recovered")[0][2]["seconds"] < marks(improvised, "recovered")[0][2]["seconds"]


def test_the_procedure_puts_the_settings_agent_back_too() -> None:
    with water("SR 7.4", "SR 7.6") as world:
        agent = world.settings_agents["plc1"]
        word = agent.community
        lost = Protection(world.plcs["plc1"].factory_reset(), *agent.factory_reset())
        assert agent.settings() == {"community": "shipped", "service": "on"}
        for put_back in world.recovery.reinstate:
            put_back("plc1", lost)
        assert agent.community == word
