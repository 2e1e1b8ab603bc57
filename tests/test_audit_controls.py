"""Requirements about records, clocks, evidence and monitoring, each shown by the difference that it makes."""

from __future__ import annotations

from functools import cache

import pytest

from controls import profiles
from controls.catalogue import SecurityLevels
from devices.auditlog import ask
from devices.world import World
from scenarios.evidence import evidence_of
from scenarios.experiment import Experiment, RunRecord, prepare, run, site_of
from scenarios.trials import trials
from testbed.figures import load_figures
from testbed.trace import Trace
from tests.small_worlds import attempt

SEED = 5


@cache
def side(requirement: str, on: bool) -> tuple[RunRecord, Trace]:
    """One side of a requirement's trial."""
    return run(trials()[requirement].arm(requirement, SEED, on=on))


def made(requirements: tuple[str, ...], scenario: str | None, duration: float) -> tuple[RunRecord, Trace]:
    names = profiles.with_needs(requirements)
    return run(Experiment("water", names, "test", scenario, SEED, duration))


def water(*requirements: str) -> World:
    world = World(site_of("water"), SEED, load_figures())
    profiles.apply(world, profiles.with_needs(requirements))
    return world


def kinds(trace: Trace, kind: str) -> list[str]:
    return [event.source for event in trace.events if event.kind == kind]


@pytest.mark.parametrize(
    "requirement",
    [
        "SR 2.8",
        "SR 2.8 RE 1",
        "SR 2.9",
        "SR 2.11",
        "SR 2.11 RE 1",
        "SR 2.11 RE 2",
        "SR 2.12",
        "SR 2.12 RE 1",
        "SR 3.9",
        "SR 3.9 RE 1",
    ],
)
def test_an_act_that_could_not_be_proved_can_be_with_the_requirement(requirement: str) -> None:
    (on, _), (off, _) = side(requirement, True), side(requirement, False)
    assert on.deeds == off.deeds > 0
    assert off.proven == 0
    assert on.proven > 0


# -- capacity and failures ---------------------------------------------------------------------------------------


def test_sr_2_9_re_1_warns_before_a_record_is_lost() -> None:
    (on, trace), (off, _) = side("SR 2.9 RE 1", True), side("SR 2.9 RE 1", False)
    assert [key for _, kind, key in off.alerts if kind == "siem"] == []
    [(when, _, key)] = [alert for alert in on.alerts if alert[1] == "siem"]
    assert key == "audit storage nearly full:plc3"
    assert when < 60 + 2 + 150
    assert kinds(trace, "log.audit.nearly_full") == ["plc3"]


def test_sr_2_10_keeps_a_station_going_that_shuts_down_by_itself_and_has_it_mended() -> None:
    off, trace = side("SR 2.10", False)
    assert kinds(trace, "audit.halted") == ["hmi1"]
    assert off.lost["view"]
    record, trace = made(("SR 2.8", "SR 2.10", "SR 6.2"), "station-log-full", 1500)
    assert record.lost["view"] == []
    assert [key for _, _, key in record.alerts if key.startswith("audit")] == ["audit processing failed:hmi1"]
    assert [source for _, kind, source, _ in record.marks if kind == "response"] == ["hmi1"]


def test_sr_2_10_notices_a_device_whose_messages_do_not_arrive_any_more() -> None:
    names = profiles.with_needs(("SR 2.10", "SR 6.2"))
    quiet = Experiment("water", names, "test", None, SEED, 200, (("audit.mark_every", 0.5),))
    record, _ = run(quiet)
    assert record.alerts == []
    world, _ = prepare(quiet)
    alerts: list[str] = []
    world.siems["siem1"].on_alert.append(lambda alert: alerts.append(f"{alert.rule}:{alert.subject}"))
    world.start()
    world.loop.run_to(40)
    world.network.hosts["hist1"].power_off()
    world.loop.run_to(200)
    world.close()
    assert alerts == ["audit source silent:hist1"]


def test_a_failed_store_takes_the_level_of_its_zone_down_until_it_is_mended() -> None:
    world = water("SR 2.8")
    assert profiles.working(world, "SR 2.8")["operations"]
    world.logs["hist1"].fail("disk full")
    assert not profiles.working(world, "SR 2.8")["operations"]
    assert profiles.working(world, "SR 2.8")["control"]
    world.close()


def test_an_unattacked_day_at_a_station_does_not_fill_a_controllers_store_with_heartbeats() -> None:
    world = water("SR 2.8")
    world.start()
    world.loop.run_to(60)
    assert len([event for event in world.trace.of_kind("log.write") if event.source == "plc1"]) > 20
    assert not [record for record in world.logs["plc1"].records if record.kind == "write"]
    world.close()


# -- time --------------------------------------------------------------------------------------------------------


def test_sr_2_11_re_1_brings_every_clock_together_and_its_check_sees_a_silent_server() -> None:
    apart = water("SR 2.8", "SR 2.11")
    together = water("SR 2.8", "SR 2.11 RE 1")
    for world, most in ((apart, None), (together, 0.1)):
        world.start()
        world.loop.run_to(30)
        right = world.site.epoch.timestamp() + world.loop.time()
        errors = [abs(world.clocks[name]() - right) for name in world.plcs]
        assert min(errors) > 8 if most is None else max(errors) < most
        world.close()


def test_sr_2_11_re_1_does_not_count_while_the_time_server_is_dead() -> None:
    world = water("SR 2.11 RE 1")
    world.network.hosts["time1"].power_off()
    world.time_servers.clear()
    world.start()
    world.loop.run_to(30)
    assert not any(
        profiles.working(world, "SR 2.11 RE 1")[zone] for zone in ("control", "operations", "safety")
    )
    world.close()


def test_ef_7_an_hour_of_false_time_harms_no_essential_function() -> None:
    false, _ = side("SR 2.11 RE 2", False)
    assert false.proven == 0
    for name in ("view", "control", "safety"):
        assert false.lost[name] == []
    assert all(spans == [] for spans in false.unsafe.values())


def test_sr_2_11_re_2_reports_the_false_server() -> None:
    _, trace = side("SR 2.11 RE 2", True)
    assert "plc3" in kinds(trace, "log.time.refused")
    record, _ = made(("SR 2.8", "SR 2.11 RE 2", "SR 6.2"), "false-time", 260)
    assert "false time:10.0.3.65" in [key for _, _, key in record.alerts]


# -- who it was --------------------------------------------------------------------------------------------------


def test_sr_2_12_re_1_keeps_forged_messages_out_of_the_siem_and_alerts() -> None:
    record, _ = side("SR 2.12 RE 1", True)
    assert "audit records attacked:plc3" in [key for _, _, key in record.alerts]


@pytest.mark.parametrize(
    ("requirements", "proven"), [(("SR 2.8", "SR 2.11"), 0), (("SR 1.1 RE 1", "SR 2.8", "SR 2.11"), 1)]
)
def test_a_record_of_anyone_proves_nothing_about_a_person(requirements: tuple[str, ...], proven: int) -> None:
    world = water(*requirements)
    world.start()
    world.loop.run_to(60)
    hmi = world.hmis["hmi1"]
    task = hmi.host.spawn(hmi.write("UF_FILTER_SP", 40), "command")
    world.loop.run_to(61)
    assert task.result() is None
    user = hmi.who()
    assert user is not None
    world.trace.record("deed", "hmi1", user=user.name, act="changes a setting")
    assert evidence_of(world) == (1, proven)
    world.close()


def test_an_act_is_proved_only_by_a_record_near_enough_in_time() -> None:
    world = water("SR 2.8", "SR 2.11")
    world.start()
    world.loop.run_to(5)
    world.plcs["plc1"].audit("modbus.malformed", peer="10.0.9.9", reason="x")
    world.trace.record("deed", "site", peer="10.0.9.9")
    world.loop.run_to(200)
    world.trace.record("deed", "site", peer="10.0.9.9")
    assert evidence_of(world) == (2, 1)
    world.close()


def test_ef_3_signing_records_delays_no_command() -> None:
    times = []
    for requirements in (("SR 2.8", "SR 1.1"), ("SR 2.8", "SR 2.12", "SR 2.12 RE 1")):
        world = water(*requirements)
        world.start()
        world.loop.run_to(60)
        hmi = world.hmis["hmi1"]
        begin = world.loop.time()
        task = hmi.host.spawn(hmi.write("UF_FILTER_SP", 40), "command")
        while not task.done():
            world.loop.run_to(world.loop.time() + 0.001)
        times.append(world.loop.time() - begin)
        assert task.result() is None
        world.close()
    assert times[1] == pytest.approx(times[0], abs=0.01)


# -- reading -----------------------------------------------------------------------------------------------------


def test_sr_6_1_and_its_enhancement_shorten_the_search_for_who_it_was() -> None:
    seconds = {}
    for requirement, on in (("SR 6.1", False), ("SR 6.1", True), ("SR 6.1 RE 1", True)):
        record, _ = side(requirement, on)
        found = [time for time, kind, _, data in record.marks if kind == "finding"]
        seconds[requirement, on] = min(found, default=600.0) - 60
        if on:
            what = next(data["what"] for _, kind, _, data in record.marks if kind == "finding")
            assert what == "10.0.3.254 wrote DPIT301_H_SP of plc3"
    assert seconds["SR 6.1", False] - 100 > seconds["SR 6.1", True] > seconds["SR 6.1 RE 1", True] + 100


def test_sr_6_1_hands_records_to_the_siems_console_and_to_nobody_else() -> None:
    for station, allowed in (("siem1", True), ("hist1", False)):
        world = water("SR 6.1")
        world.start()
        world.loop.run_to(20)
        address = world.network.hosts["hmi1"].address
        task = world.network.hosts[station].spawn(attempt(ask(address, {"do": "read"})), "reader")
        world.loop.run_to(22)
        assert ("records" in task.result()) is allowed
        world.close()


def test_sr_6_1_does_not_count_where_a_log_service_has_gone() -> None:
    world = water("SR 6.1")
    world.start()
    world.loop.run_to(20)
    assert profiles.working(world, "SR 6.1")["operations"]
    host = world.network.hosts["hist1"]
    host.power_off()
    host.power_on()
    assert not profiles.working(world, "SR 6.1")["operations"]
    world.close()


# -- monitoring --------------------------------------------------------------------------------------------------


def test_sr_6_2_reports_a_strangers_single_write() -> None:
    (on, _), (off, _) = side("SR 6.2", True), side("SR 6.2", False)
    assert [alert for alert in off.alerts if alert[1] == "siem"] == []
    first = min(time for time, kind, _ in on.alerts if kind == "siem")
    assert 60 <= first < 65


def test_a_device_that_was_off_goes_on_sending_its_messages() -> None:
    world = water("SR 2.8", "SR 2.8 RE 1")
    world.start()
    world.loop.run_to(10)
    plc = world.plcs["plc3"]
    plc.lose_power()
    world.loop.run_to(20)
    plc.regain_power()
    world.loop.run_to(25)
    plc.audit("modbus.malformed", peer="10.0.3.99", reason="test")
    world.loop.run_to(30)
    assert [
        record.source for record in world.archives["siem1"].records if record.kind == "modbus.malformed"
    ] == ["plc3"]
    world.close()


@pytest.mark.parametrize("level", [1, 4])
def test_every_scenario_of_records_and_clocks_can_be_prepared_at_any_level(level: int) -> None:
    for name in sorted(
        {trial.scenario for key, trial in trials().items() if key.startswith(("SR 2.1", "SR 3.9", "SR 6"))}
    ):
        experiment = Experiment.at_level("water", SecurityLevels.uniform(level), name, SEED, 600)
        world, scenario = prepare(experiment)
        assert scenario is not None
        world.close()
