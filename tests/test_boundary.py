"""Boundaries: shared switches, firewalls that fail, names, diodes, island mode; each requirement by its difference."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controls import profiles
from devices.boundary import Boundary, FirewallManager, manage
from devices.modbus import ModbusClient
from devices.name_service import NameNotFound, answer, query, question, reading
from devices.plc import Mode
from devices.registers import Table
from devices.siem import SecurityAlert
from devices.status_link import StatusReceiver, pack, unpack
from devices.workstation import change_mode
from devices.world import World
from scenarios.experiment import Experiment, run, site_of
from testbed.clock import SimLoop
from testbed.document import DocumentError
from testbed.errors import NetworkError
from testbed.figures import load_figures
from testbed.firewall import AllowList
from testbed.network import Network, Packet, Switch, Verdict
from testbed.site import load_site

Deed = Callable[[World], Awaitable[Any]]


def water(*requirements: str, **overrides: float) -> World:
    figures = load_figures().with_overrides(
        {key.replace("__", "."): value for key, value in overrides.items()}
    )
    world = World(site_of("water"), 1, figures)
    profiles.apply(world, requirements)
    return world


def outcome(world: World, deed: Deed, *, at: str, start: float = 5.0, until: float = 40.0) -> Any:
    """Run ``deed`` as a program of host ``at``; what it returned, or the OSError it raised."""
    found: list[Any] = []

    async def program() -> None:
        try:
            found.append(await deed(world))
        except OSError as error:
            found.append(error)

    world.start()
    world.loop.call_at(start, lambda: world.network.hosts[at].spawn(program(), "deed"))
    world.loop.run_to(until)
    world.close()
    assert found, "the deed did not end in time"
    return found[0]


def struck(scenario: str, *requirements: str, duration: float = 200.0, seed: int = 1) -> Any:
    """The record of a run with ``scenario``."""
    names = profiles.with_needs(requirements)
    return run(Experiment("water", names, "test", scenario, seed, duration))[0]


def lost(record: Any, function: str) -> float:
    return sum(end - start for start, end in record.lost[function])


# -- switches -----------------------------------------------------------------------------------------------------


def two_zones_on(switch: Switch) -> Network:
    network = Network(SimLoop())
    for name, subnet in (("office", "10.0.1.0/24"), ("control", "10.0.2.0/24")):
        network.zone(name, subnet)
        network.host(f"{name}1", name, subnet.replace("0/24", "10"))
        network.host(f"{name}2", name, subnet.replace("0/24", "11"))
        switch.attach(network.zones[name])
    network.conduit("between", "office", "control")
    return network


def crossing(network: Network, zone: str) -> float | None:
    hop = network.hops(network.hosts[f"{zone}1"], network.hosts[f"{zone}2"].address)[0]
    return hop.lane.carry(0.0, 100)


def test_a_shared_switch_changes_no_timing_while_nothing_floods() -> None:
    shared = two_zones_on(Switch("core", 1e9))
    alone = Network(SimLoop())
    alone.zone("office", "10.0.1.0/24")
    for number in (1, 2):
        alone.host(f"office{number}", "office", f"10.0.1.{9 + number}")
    assert crossing(shared, "office") == crossing(alone, "office")


def test_what_fills_a_shared_switch_in_one_zone_is_lost_in_the_other() -> None:
    switch = Switch("core", 1e9)
    network = two_zones_on(switch)
    while switch.forward(0.0, 60_000) is not None:
        pass
    assert crossing(network, "control") is None
    own = Switch("own", 1e9)
    own.attach(network.zones["control"])
    assert crossing(network, "control") is not None
    assert list(switch.zones) == ["office"]


def test_a_loop_of_cables_stops_every_zone_on_the_switch() -> None:
    switch = Switch("core", 1e9)
    network = two_zones_on(switch)
    switch.looped = True
    assert crossing(network, "control") is None
    assert network.zones["control"].dropped == 1


def test_a_connection_notices_a_crowded_switch_and_a_calm_one() -> None:
    switch = Switch("core", 1e9)
    network = two_zones_on(switch)
    zone = network.zones["control"]
    assert zone.plain
    for _ in range(10):
        switch.forward(0.0, 60_000)
    assert not zone.plain
    switch.forward(2.0, 100)
    assert zone.plain


def test_a_port_becomes_a_trunk_only_to_zones_of_its_own_switch() -> None:
    switch = Switch("core", 1e9)
    network = two_zones_on(switch)
    assert switch.trunk(network.hosts["office1"], "control")
    switch.negotiates = False
    assert not switch.trunk(network.hosts["office1"], "control")
    switch.negotiates = True
    Switch("own", 1e9).attach(network.zones["control"])
    assert not switch.trunk(network.hosts["office1"], "control")


def test_a_switch_without_bandwidth_cannot_be() -> None:
    with pytest.raises(NetworkError, match="bandwidth"):
        Switch("core", 0)


def test_a_zone_is_on_one_switch_of_the_sites_file(tmp_path: Any) -> None:
    folder = site_of("water").folder
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    text = (tmp_path / "site.yaml").read_text()
    (tmp_path / "site.yaml").write_text(
        text.replace("\nassets:\n", "  second: {zones: [control, nowhere], bandwidth: 1.0e9}\n\nassets:\n", 1)
    )
    with pytest.raises(DocumentError) as caught:
        load_site(tmp_path)
    told = [problem.message for problem in caught.value.problems]
    assert any("'control' is on switch 'core1'" in message for message in told)
    assert any("nowhere" in message for message in told)


def test_sr_5_1_re_1_keeps_a_loop_in_the_office_in_the_office() -> None:
    assert lost(struck("office-cabling-loop"), "view") > 60
    assert lost(struck("office-cabling-loop", "SR 5.1 RE 1"), "view") == 0


def test_sr_5_1_re_1_leaves_nothing_to_hop_into() -> None:
    assert struck("vlan-hop", "SR 5.1", duration=130).succeeded > 0
    assert struck("vlan-hop", "SR 5.1 RE 1", duration=130).succeeded == 0


# -- firewalls ----------------------------------------------------------------------------------------------------


def guarded() -> Boundary:
    network = two_zones_on(Switch("core", 1e9))
    conduit = network.conduits["between"]
    conduit.add_policy("nothing", AllowList(()))
    boundary = Boundary(conduit, capacity=10, restart=30)
    boundary.arm()
    return boundary


def knock(boundary: Boundary) -> Verdict:
    network = boundary.conduit.network
    host = network.hosts["office1"]
    flow = network.flow("udp", host, 1, network.hosts["control1"].address, 9)
    return boundary.conduit.judge(Packet(network.loop.time(), flow, False, 0, b"", 0, 0, ("", "")))


def test_a_firewall_restarts_when_it_has_too_much_to_judge_and_forwards_meanwhile() -> None:
    boundary = guarded()
    told: list[str] = []
    boundary.audit.sinks.append(lambda _source, kind, _data: told.append(kind))
    assert [knock(boundary) for _ in range(11)] == [Verdict.DROP] * 11
    assert not boundary.up
    assert knock(boundary) is Verdict.ACCEPT
    boundary.loop.run_to(31)
    assert knock(boundary) is Verdict.DROP
    assert told == ["boundary.failed", "boundary.restored"]


def test_a_firewall_that_fails_closed_lets_nothing_pass_meanwhile() -> None:
    boundary = guarded()
    boundary.conduit.fail_closed = True
    boundary.fail(None, "hardware")
    assert knock(boundary) is Verdict.DROP
    boundary.loop.run_to(100)
    assert not boundary.up


def test_a_conduit_without_a_firewall_has_none_that_fails() -> None:
    network = two_zones_on(Switch("core", 1e9))
    boundary = Boundary(network.conduits["between"], 10, 30)
    boundary.fail(30, "hardware")
    assert boundary.up
    assert network.conduits["between"].plain


def test_a_bypassed_firewall_forwards_and_a_diode_beside_it_does_not() -> None:
    boundary = guarded()
    boundary.conduit.bypassed = True
    assert knock(boundary) is Verdict.ACCEPT
    assert not boundary.conduit.guarded
    boundary.conduit.diode = lambda _packet: Verdict.DROP
    assert knock(boundary) is Verdict.DROP


def test_an_administrator_switches_a_firewall_over_the_network_and_a_stranger_does_not() -> None:
    async def switch(world: World) -> list[Any]:
        manager = world.firewall_managers["fwm1"]
        request = {"user": "admin", "password": "wrong", "conduit": "operations_control", "do": "bypass"}
        answers = [await manage(manager.host.address, manager.port, request)]
        request["password"] = "admin"
        answers.append(await manage(manager.host.address, manager.port, request))
        answers.append(await manage(manager.host.address, manager.port, {**request, "do": "status"}))
        answers.append(await manage(manager.host.address, manager.port, {**request, "do": "enforce"}))
        return answers

    wrong, right, state, back = outcome(water("SR 5.2"), switch, at="ews1")
    assert wrong == {"refused": "log-in"}
    assert right == state == {"done": True, "state": "bypass"}
    assert back["state"] == "enforce"


@given(st.binary(max_size=200))
def test_the_management_of_firewalls_survives_any_bytes(line: bytes) -> None:
    assert "refused" in _manager().answer(line, "10.0.3.9")


@given(
    st.dictionaries(st.text(), st.recursive(st.none() | st.text() | st.integers(), st.lists, max_leaves=5))
)
def test_the_management_of_firewalls_refuses_any_other_object(request: dict[str, Any]) -> None:
    request.pop("password", None)
    assert "refused" in _manager().answer(json.dumps(request).encode(), "10.0.3.9")


def _manager() -> FirewallManager:
    network = Network(SimLoop())
    network.zone("office", "10.0.1.0/24")
    network.zone("dmz", "10.0.2.0/24")
    boundary = Boundary(network.conduit("office_dmz", "office", "dmz"), 10, 30)
    return FirewallManager(
        network.host("fwm1", "office", "10.0.1.10"), "fwm1", {"office_dmz": boundary}, 8443
    )


def test_the_management_of_firewalls_names_what_it_does_not_know() -> None:
    base = {"user": "admin", "password": "admin"}
    for request, reason in (
        ({**base, "conduit": "nowhere", "do": "status"}, "no such conduit"),
        ({**base, "conduit": ["x"], "do": "status"}, "no such conduit"),
        ({**base, "conduit": "office_dmz", "do": "burn"}, "no such command"),
    ):
        assert _manager().answer(json.dumps(request).encode(), "") == {"refused": reason}


def test_sr_5_2_re_3_lets_no_command_through_an_overloaded_firewall() -> None:
    assert struck("firewall-overload", "SR 5.2 RE 1", "SR 5.2", duration=130).succeeded > 0
    record = struck("firewall-overload", "SR 5.2 RE 1", "SR 5.2 RE 3", duration=130)
    assert record.succeeded == 0
    assert lost(record, "safety") == 0


@pytest.mark.parametrize("zone", ["enterprise", "operations"])
def test_boundaries_keep_a_stranger_from_the_filtration(zone: str) -> None:
    scenario = {"enterprise": "office-stops-filtration", "operations": "operations-stops-filtration"}[zone]
    wanted = {"enterprise": "SR 5.1", "operations": "SR 5.2 RE 1"}[zone]
    assert struck(scenario, duration=130).succeeded > 0
    assert struck(scenario, wanted, duration=130).succeeded == 0


# -- island mode --------------------------------------------------------------------------------------------------


def test_sr_5_2_re_2_cuts_off_other_networks_and_nothing_inside() -> None:
    world = water("SR 5.2 RE 2", "SR 5.2")
    world.start()
    world.loop.run_to(40)
    assert world.island.enter("on demand")
    assert not world.island.enter("twice")
    world.loop.run_to(100)
    cut = {name for name, conduit in world.network.conduits.items() if conduit.cut}
    assert cut == {"dmz_operations", "wireless_control"}
    assert 100 - world.hmis["hmi1"].fresh["plc1"] < 3
    assert world.island.leave("over")
    assert not any(conduit.cut for conduit in world.network.conduits.values())
    assert not world.island.leave("twice")
    world.close()


def test_without_its_switch_a_site_cannot_become_an_island() -> None:
    world = water("SR 5.2")
    assert not world.island.enter("on demand")
    assert not any(conduit.cut for conduit in world.network.conduits.values())


def alerted(severity: int, rule: str = "network monitor") -> tuple[bool, list[str]]:
    """Whether a site with the switch is an island two thousand seconds after an alert, and what was recorded."""
    world = water("SR 5.2 RE 2", "SR 5.2")
    world.start()
    world.loop.run_to(40)
    for told in world.siems["siem1"].on_alert:
        told(SecurityAlert(40.0, rule, severity, "mon1", "10.0.2.10"))
    world.loop.run_to(600)
    kinds = [event.kind for event in world.trace.events if event.kind in ("response", "task")]
    world.close()
    return world.island.since is not None, kinds


def test_a_grave_alert_has_somebody_in_charge_cut_the_site_off() -> None:
    assert alerted(3) == (True, ["task", "response"])


def test_a_slight_alert_or_a_failed_test_does_not() -> None:
    assert alerted(2) == (False, [])
    assert alerted(4, "security function failed") == (False, [])


# -- names --------------------------------------------------------------------------------------------------------


def test_a_name_server_tells_known_addresses_and_says_so_of_others() -> None:
    names = {"plc1": "10.0.4.11"}
    known, unknown = answer(query(7, "plc1"), names, 60), answer(query(8, "plc9"), names, 60)
    assert known is not None
    assert unknown is not None
    assert reading(known, 7) == ("10.0.4.11", 60)
    assert reading(unknown, 8) is None
    with pytest.raises(ValueError, match="not an answer"):
        reading(known, 8)


@given(st.binary(max_size=100))
def test_neither_side_of_the_name_service_falls_over_noise(data: bytes) -> None:
    assert answer(data, {}, 60) is None or question(data)
    with suppress(ValueError):
        reading(data, 1)


@given(st.binary(min_size=1, max_size=40), st.integers(0, 60))
def test_an_answer_cut_off_or_changed_is_no_crash(noise: bytes, at: int) -> None:
    good = answer(query(1, "plc1"), {"plc1": "10.0.4.11"}, 60)
    assert good is not None
    for data in (good[:at], good[:at] + noise + good[at + len(noise) :]):
        try:
            found = reading(data, 1)
        except ValueError:
            continue
        assert found is None or len(found) == 2


@pytest.mark.parametrize("name", ["", "a..b", "x" * 64])
def test_what_is_no_name_is_not_asked_for(name: str) -> None:
    with pytest.raises(ValueError, match="no name"):
        query(1, name)


def test_a_station_remembers_an_address_and_forgets_it_when_it_is_switched_off() -> None:
    world = water()
    server, resolver = world.name_servers["dns1"], world.resolvers["hmi1"]

    async def ask_twice(_world: World) -> list[Any]:
        before = server.answered
        return [await resolver.lookup("plc1"), await resolver.lookup("plc1"), server.answered - before]

    assert outcome(world, ask_twice, at="hmi1") == ["10.0.4.11", "10.0.4.11", 0]
    world = water()

    async def ask_later(_world: World) -> int:
        return world.name_servers["dns1"].answered

    world.loop.call_at(10, lambda: world.switch_off("hmi1"))
    world.loop.call_at(20, lambda: world.switch_on("hmi1"))
    assert outcome(world, ask_later, at="ews1", start=30) == 8


def test_a_station_whose_name_servers_are_silent_is_told_in_seconds() -> None:
    world = water()

    async def ask(_world: World) -> float:
        world.network.hosts["dns1"].power_off()
        begun = world.loop.time()
        with pytest.raises(NameNotFound):
            await world.resolvers["hmi1"].lookup("nobody")
        return world.loop.time() - begun

    assert outcome(world, ask, at="hmi1") == pytest.approx(2.0, abs=0.1)


def test_sr_5_1_re_2_finds_controllers_without_the_office() -> None:
    assert lost(struck("office-outage"), "view") > 100
    assert lost(struck("office-outage", "SR 5.1 RE 2"), "view") < 60


# -- critical networks --------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.lists(st.floats(allow_nan=False), max_size=20))
def test_a_status_is_read_as_it_was_packed(sequence: int, values: list[float]) -> None:
    assert unpack(pack(sequence, values)) == (sequence, tuple(values))


@given(st.binary(max_size=80))
def test_what_is_no_status_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"too short|not a status|damaged"):
        unpack(data)


def test_a_station_takes_new_statuses_of_its_own_source_only() -> None:
    network = two_zones_on(Switch("core", 1e9))
    receiver = StatusReceiver(network.hosts["control1"], "10.0.2.11", ["A"])
    for data, source in (
        (pack(2, [1.0]), "10.0.2.11"),
        (pack(1, [2.0]), "10.0.2.11"),
        (pack(3, [2.0]), "10.0.2.99"),
    ):
        receiver.datagram_received(data, (source, 1))
    receiver.datagram_received(b"noise", ("10.0.2.11", 1))
    assert receiver.refused == 3
    assert receiver._news == {"A": 1.0}


def test_sr_5_1_re_3_keeps_everybody_from_the_safety_controller_and_shows_its_values() -> None:
    async def stop(world: World) -> bool:
        plc = world.plcs["sis1"]
        return await change_mode(ModbusClient(plc.host.address, plc.seams.port), Mode.PROGRAM)

    assert outcome(water(), stop, at="ews1") is True
    world = water("SR 5.1 RE 3")
    assert isinstance(outcome(world, stop, at="ews1"), OSError)
    assert world.plcs["sis1"].mode is Mode.RUN
    hmi = world.hmis["hmi1"]
    assert hmi.values["LSHH101"] == 0
    assert 40 - hmi.fresh["sis1"] <= 4
    assert not any(alarm.tag == "sis1" for alarm in hmi.alarms.values())


def test_an_isolated_safety_controller_still_trips() -> None:
    world = water("SR 5.1 RE 3")
    world.start()
    world.loop.run_to(40)
    world.wiring.force("LSHH101", 1.0)
    world.loop.run_to(50)
    assert world.hmis["hmi1"].values["TRIPPED"] == 1
    world.close()


# -- tests of what is in force ------------------------------------------------------------------------------------

BOUNDARIES = (
    "SR 5.1", "SR 5.1 RE 1", "SR 5.1 RE 2", "SR 5.1 RE 3", "SR 5.2", "SR 5.2 RE 1", "SR 5.2 RE 2", "SR 5.2 RE 3",
)  # fmt: skip


def _fails(name: str) -> Callable[[World], None]:
    def bypass(world: World) -> None:
        world.network.conduits["operations_control"].bypassed = True

    def merge(world: World) -> None:
        world.switches["core1"].attach(world.network.zones["control"])

    def silence(world: World) -> None:
        world.network.hosts["dns2"].power_off()

    def unscrew(world: World) -> None:
        world.network.conduits["control_safety"].diode = None

    def unwire(world: World) -> None:
        world.island.wired = False

    def open_up(world: World) -> None:
        world.network.conduits["operations_control"].fail_closed = False

    return {
        "SR 5.1 RE 1": merge,
        "SR 5.1 RE 2": silence,
        "SR 5.1 RE 3": unscrew,
        "SR 5.2 RE 2": unwire,
        "SR 5.2 RE 3": open_up,
    }.get(name, bypass)


@pytest.mark.parametrize("name", BOUNDARIES)
def test_a_boundary_that_no_longer_works_fails_its_test(name: str) -> None:
    world = water(*BOUNDARIES)
    assert all(profiles.working(world, name).values())
    _fails(name)(world)
    assert not all(profiles.working(world, name).values())


def test_sr_3_5_refuses_malware_at_the_station_a_setpoint_out_of_range() -> None:
    assert struck("setpoint-out-of-range", duration=130).succeeded > 0
    assert struck("setpoint-out-of-range", "SR 3.5", duration=130).succeeded == 0


def test_a_write_to_a_name_that_moved_goes_where_the_name_server_says() -> None:
    world = water()
    client = ModbusClient("192.0.2.1", 502, timeout=3)

    async def elsewhere() -> str:
        return world.network.hosts["plc1"].address

    client.resolve = elsewhere

    async def read(_world: World) -> Any:
        return await client.read(Table.COIL, 0, 1)

    assert outcome(world, read, at="hmi1") in ([0], [1])
