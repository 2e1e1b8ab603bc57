"""Each requirement that acts, shown by the difference it makes: the same deed with it off, then on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from controls import profiles
from controls.catalogue import FOUNDATIONAL, SecurityLevels, catalogue
from devices.accounts import one_time_code
from devices.hmi import Hmi
from devices.modbus import ModbusClient, Refusal
from devices.opcua import UaClient
from devices.plc import Mode
from devices.registers import Table
from devices.workstation import EngineeringError, download, upload
from devices.world import World
from scenarios.actions import carry_out, place_attacker
from scenarios.experiment import Experiment, run, site_of
from scenarios.model import Attacker, Scenario
from scenarios.steps.wire import Flood, Spoof
from testbed.errors import OtlabError, UnknownNameError
from testbed.figures import load_figures

Deed = Callable[[World], Awaitable[Any]]


def water(*requirements: str) -> World:
    world = World(site_of("water"), 1, load_figures())
    profiles.apply(world, requirements)
    return world


def outcome(world: World, deed: Deed, *, at: str = "hmi1", start: float = 5.0, until: float = 40.0) -> Any:
    """Run ``deed`` as a program of host ``at`` from ``start`` on; what it returned, or the exception it raised."""
    found: list[Any] = []

    async def program() -> None:
        try:
            found.append(await deed(world))
        except (OSError, EngineeringError) as error:
            found.append(error)

    host = world.network.hosts[at]
    world.start()
    world.loop.call_at(start, lambda: host.spawn(program(), "deed"))
    world.loop.run_to(until)
    world.close()
    assert found, "the deed did not end in time"
    return found[0]


def rogue(world: World, zone: str = "operations") -> str:
    subnet = world.network.zones[zone].subnet
    return world.network.host("rogue1", zone, str(subnet[-2])).name


def plc_client(world: World, plc: str = "plc1", timeout: float = 3.0) -> ModbusClient:
    return ModbusClient(world.network.hosts[plc].address, 502, timeout=timeout)


async def force_valve(world: World) -> Refusal | None:
    tag = world.site.tag("plc1", "MV101_AUTO")
    return await plc_client(world).write(Table.COIL, tag.address, [0])


def log_in(user: str | None, password: str | None, *, security: str | None = None) -> Deed:
    async def deed(world: World) -> str:
        certificate = key = None
        if security is not None:
            from devices.opcua import make_certificate

            certificate, key = make_certificate("visitor", "urn:visitor", world.stream("visitor"))
        client = UaClient(
            f"opc.tcp://{world.network.hosts['opcua1'].address}:4840",
            user,
            password,
            security,
            certificate,
            key,
        )
        refusal = await client.connect()
        await client.disconnect()
        return "open" if refusal is None else refusal.status

    return deed


# -- the catalogue and its profiles ------------------------------------------------------------------------------


def test_the_catalogue_has_51_requirements_and_49_enhancements() -> None:
    assert len(catalogue()) == 100
    assert sum(" RE " in name for name in catalogue()) == 49
    by_level = [sum(item.min_sl == level for item in catalogue().values()) for level in (1, 2, 3, 4)]
    assert by_level == [37, 23, 30, 10]


def test_every_foundational_requirement_has_a_control_that_acts() -> None:
    assert {catalogue()[name].fr for name in profiles.CONTROLS} == set(FOUNDATIONAL)


def test_a_profile_is_exactly_what_the_catalogue_requires() -> None:
    for level in range(5):
        required = profiles.required(SecurityLevels.uniform(level))
        assert set(required) == {n for n, r in catalogue().items() if r.min_sl <= level}
        acting, missing = (
            profiles.enforced(SecurityLevels.uniform(level)),
            profiles.unenforced(SecurityLevels.uniform(level)),
        )
        assert sorted((*acting, *missing)) == sorted(required)


def test_a_vector_takes_each_foundational_requirement_at_its_own_level() -> None:
    levels = SecurityLevels.parse("IAC=3, uc=1")
    assert {catalogue()[name].fr for name in profiles.required(levels)} == {"IAC", "UC"}
    assert str(levels) == "SL {3 1 0 0 0 0 0}"
    assert str(SecurityLevels.parse("2")) == "SL 2"


@pytest.mark.parametrize("text", ["5", "IAC", "IAC=x", "ABC=1", "IAC=5", ""])
def test_a_level_that_cannot_be_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(OtlabError, match="security level"):
        SecurityLevels.parse(text)


def test_every_uniform_profile_holds_what_its_requirements_need() -> None:
    for level in range(5):
        profiles.check(profiles.enforced(SecurityLevels.uniform(level)))


def test_a_requirement_without_what_it_needs_is_refused() -> None:
    with pytest.raises(OtlabError, match=r"SR 1\.1 RE 1 needs SR 1\.1"):
        profiles.check(["SR 1.1 RE 1"])
    with pytest.raises(UnknownNameError, match=r"SR 9\.9"):
        profiles.check(["SR 9.9"])


def test_every_control_says_which_requirement_it_is() -> None:
    for name, control in profiles.CONTROLS.items():
        assert (control.__doc__ or "").startswith(f"{name}: ")


# -- FR 1, identification and authentication ---------------------------------------------------------------------


def test_sr_1_1_asks_people_at_the_opc_ua_server_who_they_are() -> None:
    assert outcome(water(), log_in(None, None)) == "open"
    assert outcome(water("SR 1.1"), log_in(None, None)) != "open"
    assert outcome(water("SR 1.1"), log_in("operator", "operator")) == "open"


def test_sr_1_1_takes_no_command_at_the_hmi_before_a_log_in() -> None:
    async def command(world: World) -> tuple[str | None, bool, str | None]:
        hmi = world.hmis["hmi1"]
        hmi.session = None
        before = await hmi.write("MV101_AUTO", 1)
        return before, await hmi.log_in("operator", "operator"), await hmi.write("MV101_AUTO", 1)

    assert outcome(water("SR 1.1"), command) == ("nobody is logged in", True, None)


def test_sr_1_1_re_1_ends_the_shared_account() -> None:
    assert outcome(water("SR 1.1", "SR 1.1 RE 1"), log_in("operator", "operator")) != "open"
    assert outcome(water("SR 1.1", "SR 1.1 RE 1"), log_in("operator1", "operator1")) == "open"


@pytest.mark.parametrize(
    ("requirement", "at", "result"),
    [
        (None, "corp1", True),
        ("SR 1.1 RE 2", "corp1", False),
        ("SR 1.1 RE 2", "jump1", True),
        ("SR 1.1 RE 3", "jump1", False),
    ],
)
def test_sr_1_1_re_2_and_3_make_a_stolen_password_useless_from_untrusted_and_from_all_networks(
    requirement: str | None, at: str, result: bool
) -> None:
    world = water("SR 1.1", *([requirement] if requirement else []))
    assert (outcome(world, log_in("operator", "operator"), at=at) == "open") is result


def test_the_operators_own_token_opens_what_a_stolen_password_does_not() -> None:
    world = water("SR 1.1", "SR 1.1 RE 3")

    async def with_code(world: World) -> str:
        token = world.operators["hmi1"].token
        assert token is not None
        code = one_time_code(token, world.site.epoch.timestamp() + world.loop.time())
        return await log_in("operator", f"operator#{code}")(world)

    # After the operator's own log-in at the HMI, so that this code has not been used yet.
    assert outcome(world, with_code, start=200, until=220) == "open"


def test_sr_1_2_lets_only_devices_of_the_inventory_connect() -> None:
    for requirements, expected in (((), True), (("SR 1.2",), False)):
        world = water(*requirements)
        at = rogue(world)
        assert (outcome(world, force_valve, at=at) is None) is expected
    assert outcome(water("SR 1.2"), force_valve, at="hmi1") is None


def test_sr_1_2_re_1_demands_a_certificate_and_the_station_goes_on() -> None:
    world = water("SR 1.2 RE 1")
    assert isinstance(outcome(world, force_valve, at=rogue(world)), OSError)
    assert world.loop.time() - world.hmis["hmi1"].fresh["plc1"] < 2


def test_sr_1_5_replaces_default_passwords_and_programs_know_theirs() -> None:
    assert outcome(water("SR 1.1", "SR 1.5"), log_in("operator", "operator")) != "open"
    world = water("SR 1.1", "SR 1.5")
    outcome(world, log_in(None, None))
    assert world.historians["hist1"].connected


def test_sr_1_11_locks_an_account_that_is_guessed_at_but_never_an_operators() -> None:
    async def guess(world: World) -> tuple[str, str]:
        for user in ("service", "operator"):
            for attempt in range(6):
                await log_in(user, f"wrong{attempt}")(world)
        return await log_in("service", "service")(world), await log_in("operator", "operator")(world)

    assert outcome(water("SR 1.1"), guess) == ("open", "open")
    service, operator = outcome(water("SR 1.1", "SR 1.11"), guess)
    assert service != "open"
    assert operator == "open"


# -- FR 2, use control -------------------------------------------------------------------------------------------


def test_sr_2_1_lets_a_viewer_look_and_not_write() -> None:
    async def write(world: World) -> str:
        client = UaClient(f"opc.tcp://{world.network.hosts['opcua1'].address}:4840", "service", "service")
        await client.connect()
        refused = await client.write("LIT101_H_SP", 900)
        await client.disconnect()
        return "written" if refused is None else refused.status

    assert outcome(water("SR 1.1"), write) == "written"
    assert outcome(water("SR 1.1", "SR 2.1"), write) == "BadUserAccessDenied"


def test_sr_2_1_re_1_takes_commands_only_from_devices_whose_task_it_is() -> None:
    world = water()
    assert outcome(world, force_valve, at=rogue(world)) is None
    world = water("SR 2.1 RE 1")
    assert isinstance(outcome(world, force_valve, at=rogue(world)), Refusal)
    assert outcome(water("SR 2.1 RE 1"), force_valve, at="hmi1") is None


def test_sr_2_5_locks_a_session_that_nobody_uses() -> None:
    async def later(world: World) -> bool:
        hmi: Hmi = world.hmis["hmi1"]
        await hmi.log_in("operator", "operator")
        return hmi.who() is not None

    world = water("SR 1.1", "SR 2.5")
    assert outcome(world, later) is True
    hmi = world.hmis["hmi1"]
    assert hmi.session is not None
    assert hmi.seams.lock_after == 900
    hmi.session.last_action = world.loop.time() - 901
    assert hmi.who() is None


def test_sr_2_8_keeps_a_record_of_what_devices_did() -> None:
    for requirements, expected in (((), False), (("SR 2.8",), True)):
        world = water(*requirements)
        outcome(world, force_valve)
        logged = [event for event in world.trace.events if event.kind == "log.write"]
        assert bool(logged) is expected


def test_sr_2_8_re_1_brings_the_whole_trail_to_the_siem() -> None:
    world = water("SR 2.8", "SR 2.8 RE 1")
    outcome(world, force_valve)
    with_trail = world.siems["siem1"].messages
    world = water("SR 2.8")
    outcome(world, force_valve)
    assert with_trail > 0 == world.siems["siem1"].messages


# -- FR 3, system integrity --------------------------------------------------------------------------------------


def forge(*, fix_checksum: bool) -> Scenario:
    step = Spoof(
        technique="T0856",
        action="spoof",
        reader="plc1",
        plc="plc3",
        values={"LIT301": 1050},
        lasting=20,
        fix_checksum=fix_checksum,
    )
    return Scenario(
        name="forge", title="", summary="", start=5, attacker=Attacker(zone="control"), steps=(step,)
    )


def forged_level(world: World, *, fix_checksum: bool) -> tuple[float, bool]:
    """What plc1 believes of LIT301 while somebody forges it, and whether it believes it is good."""
    scenario = forge(fix_checksum=fix_checksum)
    attack = place_attacker(world, scenario)
    world.start()
    attack.host.spawn(carry_out(attack, scenario))
    world.loop.run_to(20)
    memory = world.plcs["plc1"].instance.memory
    world.close()
    return float(memory["LIT301"]), bool(memory["LIT301_OK"])


def test_sr_3_1_notices_a_careless_change_on_the_wire_and_not_a_careful_one() -> None:
    assert forged_level(water(), fix_checksum=False) == (1050, True)
    level, good = forged_level(water("SR 3.1"), fix_checksum=False)
    assert level < 1000
    assert not good
    assert forged_level(water("SR 3.1"), fix_checksum=True) == (1050, True)


def test_sr_3_1_re_1_defeats_a_careful_change_too() -> None:
    level, good = forged_level(water("SR 3.1", "SR 3.1 RE 1"), fix_checksum=True)
    assert level < 1000
    assert good


def test_sr_3_4_loads_only_logic_that_the_workstation_signed() -> None:
    changed = "(* changed *)\n"

    async def rogue_download(world: World) -> bool:
        client = plc_client(world)
        return await download(client, changed + await upload(client))

    async def proper_download(world: World) -> bool:
        workstation = world.workstations["ews1"]
        return await workstation.download("plc1", changed + await workstation.read_program("plc1"))

    world = water()
    assert outcome(world, rogue_download, at=rogue(world)) is True
    world = water("SR 3.4")
    assert outcome(world, rogue_download, at=rogue(world)) is False
    assert outcome(water("SR 3.4"), proper_download, at="ews1") is True


def test_sr_3_5_refuses_a_setpoint_outside_its_engineering_range() -> None:
    async def write(world: World) -> Refusal | None:
        tag = world.site.tag("plc1", "LIT101_H_SP")
        return await plc_client(world).write(Table.HOLDING, tag.address, tag.encode(1500))

    assert outcome(water(), write) is None
    assert outcome(water("SR 3.5"), write) == Refusal(6, 3)


def test_sr_3_6_puts_outputs_to_their_safe_state_when_the_logic_stops() -> None:
    async def stop(world: World) -> float:
        await world.workstations["ews1"].set_mode("plc3", Mode.PROGRAM)
        return world.plant.commands["P301"]

    assert outcome(water(), stop, at="ews1") == 1
    assert outcome(water("SR 3.6"), stop, at="ews1") == 0


# -- FR 4, data confidentiality ----------------------------------------------------------------------------------


def test_sr_4_1_keeps_a_plcs_program_from_strangers() -> None:
    async def steal(world: World) -> str:
        return await upload(plc_client(world))

    world = water()
    assert "PROGRAM plc1" in outcome(world, steal, at=rogue(world))
    world = water("SR 4.1")
    assert isinstance(outcome(world, steal, at=rogue(world)), EngineeringError)
    assert "PROGRAM plc1" in outcome(water("SR 4.1"), steal, at="ews1")


def test_sr_4_1_re_1_lets_nobody_read_tags_on_the_wire() -> None:
    for requirements, readable in (((), True), (("SR 4.1 RE 1",), False)):
        world = water(*requirements)
        seen = bytearray()
        world.network.zones["operations"].add_tap(
            lambda _link, packet, seen=seen: (
                seen.extend(packet.payload) if packet.flow.target_port == 4840 else None
            )
        )
        outcome(world, log_in(None, None))
        assert world.historians["hist1"].connected
        assert (b"LIT101" in seen) is readable


# -- FR 5, restricted data flow ----------------------------------------------------------------------------------


async def reach_plc(world: World) -> str:
    client = plc_client(world, timeout=20)
    await client.connect()
    return "reached"


def test_sr_5_1_lets_the_office_reach_no_controller_through_other_zones() -> None:
    assert outcome(water(), reach_plc, at="corp1") == "reached"
    assert isinstance(outcome(water("SR 5.1"), reach_plc, at="corp1"), TimeoutError)


def test_sr_5_2_stops_what_an_untrusted_zone_opens_and_nobody_documented() -> None:
    assert outcome(water(), log_in(None, None), at="corp1") == "open"
    assert isinstance(outcome(water("SR 5.2"), log_in(None, None), at="corp1"), TimeoutError)


def test_sr_5_2_re_1_passes_documented_flows_only() -> None:
    world = water()
    assert outcome(world, reach_plc, at=rogue(world)) == "reached"
    world = water("SR 5.2 RE 1")
    assert isinstance(outcome(world, reach_plc, at=rogue(world)), TimeoutError)
    assert world.loop.time() - world.hmis["hmi1"].fresh["plc1"] < 2


def test_sr_5_2_re_1_reads_the_modbus_inside_a_documented_flow() -> None:
    async def diagnose(world: World) -> Any:
        return await plc_client(world).identify()  # the station has no documented need of function 43

    assert outcome(water(), diagnose)
    assert isinstance(outcome(water("SR 5.2 RE 1"), diagnose), OSError)


# -- FR 6, timely response ---------------------------------------------------------------------------------------


def test_sr_6_2_raises_an_alert_when_a_stranger_commands_a_plc() -> None:
    for requirements, expected in (((), False), (("SR 6.2",), True)):
        world = water(*requirements)
        alerts: list[str] = []
        world.siems["siem1"].on_alert.append(
            lambda alert, alerts=alerts: alerts.append(f"{alert.rule} {alert.subject}")
        )
        at = rogue(world)
        outcome(world, force_valve, at=at)
        address = world.network.hosts[at].address
        assert (f"new flow {address}" in alerts) is expected
        assert (f"Modbus function {address}" in alerts) is expected


@pytest.mark.parametrize("level", [2, 3, 4])
def test_nothing_alerts_while_nothing_happens(level: int) -> None:
    record, _ = run(Experiment.at_level("water", SecurityLevels.uniform(level), None, 3, 400))
    assert [alert for alert in record.alerts if alert[1] == "siem"] == []


# -- FR 7, resource availability ---------------------------------------------------------------------------------


def flooded(world: World) -> World:
    step = Flood(technique="T0814", action="flood", plc="plc1", rate=600, connections=4, lasting=40)
    scenario = Scenario(
        name="f", title="", summary="", start=5, attacker=Attacker(zone="operations"), steps=(step,)
    )
    attack = place_attacker(world, scenario)
    world.start()
    attack.host.spawn(carry_out(attack, scenario))
    world.loop.run_to(40)
    world.close()
    return world


def test_sr_7_1_keeps_the_scan_under_a_flood() -> None:
    assert flooded(water()).plcs["plc1"].mode is Mode.FAULT
    world = flooded(water("SR 7.1"))
    assert world.plcs["plc1"].mode is Mode.RUN
    assert world.plcs["plc1"].late_scans == 0


def test_sr_7_1_re_1_keeps_the_operators_view_under_a_flood() -> None:
    assert 40 - flooded(water("SR 7.1")).hmis["hmi1"].fresh["plc1"] > 10
    assert 40 - flooded(water("SR 7.1", "SR 7.1 RE 1")).hmis["hmi1"].fresh["plc1"] < 5


def test_sr_7_7_answers_no_function_that_the_task_does_not_need() -> None:
    from pymodbus.pdu.diag_message import ReturnQueryDataRequest

    async def echo(world: World) -> int:
        answer = await plc_client(world).request(ReturnQueryDataRequest(message=b"\x12\x34"))
        return int(answer.function_code)

    assert outcome(water(), echo) == 8
    assert outcome(water("SR 7.7"), echo) == 0x88


# -- essential functions under controls --------------------------------------------------------------------------


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_no_profile_takes_view_or_safety_from_an_unattacked_plant(level: int) -> None:
    record, _ = run(Experiment.at_level("water", SecurityLevels.uniform(level), None, 1, 300))
    assert record.lost["view"] == []
    assert record.lost["safety"] == []
    assert record.trips == []
