"""How devices are set and what is installed: SR 7.6, its enhancement, SR 7.7 and SR 7.8."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_site import after, water
from reference_site import ask as answer
from small_worlds import one_zone

from controls import profiles
from devices.audit import Audit
from devices.inventory import PORT, SettingsAgent, allow_list, ask, export_rules
from devices.modbus import ModbusClient, UnknownRequest
from devices.plc import Mode
from devices.registers import Table
from devices.world import World
from testbed.firewall import Rule


def findings(world: World) -> list[str]:
    return [e.data["what"] for e in world.trace.events if e.kind == "finding"]


# -- the settings agent ------------------------------------------------------------------------------------------


def test_anybody_can_read_a_devices_settings_as_json_over_the_wire() -> None:
    with water() as world:
        address = world.network.hosts["plc1"].address
        told = answer(world, ask(address, {"get": True}))
        assert told == {
            "product": "NA-300",
            "firmware": "3.11.2",
            "settings": {"community": "shipped", "service": "on"},
        }


def test_settings_change_only_for_whoever_knows_the_word() -> None:
    with water() as world:
        agent, address = world.settings_agents["plc1"], world.network.hosts["plc1"].address
        refused = answer(world, ask(address, {"set": {"service": "off"}, "community": "guess"}))
        assert (refused, agent.service) == ({"refused": "community"}, "on")
        assert answer(world, ask(address, {"set": {"service": "off"}, "community": "private"})) == {
            "done": True
        }
        assert agent.service == "off"


def test_maintenance_commands_need_the_service_to_be_on() -> None:
    with water() as world:
        address = world.network.hosts["plc1"].address
        stop = {"set": {"mode": "stop"}, "community": "private"}
        answer(world, ask(address, {"set": {"service": "off"}, "community": "private"}))
        assert answer(world, ask(address, stop)) == {"refused": "service is off"}
        assert world.plcs["plc1"].mode is Mode.RUN
        answer(world, ask(address, {"set": {"service": "on"}, "community": "private"}))
        assert answer(world, ask(address, stop)) == {"done": True}
        assert world.plcs["plc1"].mode is Mode.PROGRAM


def agent_in(world: Any) -> SettingsAgent:
    return SettingsAgent(world.network.hosts["attacker"], Audit("plc1"), "P", "1", lambda _mode: None)


@given(st.binary(max_size=300))
def test_no_bytes_break_an_agent_or_change_its_settings(line: bytes) -> None:
    with one_zone() as world:
        agent = agent_in(world)
        json.dumps(agent.answer(line, "10.0.1.99"))
        assert agent.settings() == {"community": "shipped", "service": "on"}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["get", "set", "community", "service", "x"]), inner, max_size=3)
        ),
        max_leaves=6,
    )
)
def test_no_json_without_the_word_changes_settings(document: Any) -> None:
    with one_zone() as world:
        agent = agent_in(world)
        agent.community = "0123456789"
        agent.answer(json.dumps(document).encode(), "10.0.1.99")
        assert agent.settings() == {"community": "own", "service": "on"}


def test_a_settings_agent_that_is_switched_off_is_an_error_to_whoever_asks() -> None:
    with water() as world:
        world.plcs["plc1"].host.power_off()
        assert isinstance(answer(world, ask(world.network.hosts["plc1"].address, {"get": True})), OSError)
    assert PORT != 502


# -- SR 7.6 ------------------------------------------------------------------------------------------------------


def test_a_controller_as_shipped_obeys_the_word_from_its_manual_and_a_well_set_one_does_not() -> None:
    shipped, well_set = (
        after("shipped-settings", duration=200),
        after("shipped-settings", "SR 7.6", duration=200),
    )
    assert shipped.lost["control"]
    assert not well_set.lost["control"]
    assert well_set.refused == 2


def test_a_person_who_looks_finds_a_drifted_setting_and_puts_it_right() -> None:
    with water("SR 7.6") as world:
        record = world.settings_records["ews1"]
        world.settings_agents["plc2"].factory_reset()
        assert not profiles.working(world, "SR 7.6")["control"]
        assert answer(world, record.look_at("plc2")) is False
        assert findings(world) == ["plc2: community is shipped, service is on"]
        assert profiles.working(world, "SR 7.6")["control"]
        assert answer(world, record.look_at("plc2")) is True


def test_reviews_by_hand_come_round() -> None:
    with water("SR 7.6", settings__review__mean=0.002, settings__review__sd=0.0001) as world:
        world.settings_agents["sis1"].factory_reset()
        world.loop.run_to(3600.0)
        assert findings(world) == ["sis1: community is shipped, service is on"]


# -- SR 7.6 RE 1 -------------------------------------------------------------------------------------------------


def test_a_tool_finds_drift_before_it_is_used() -> None:
    by_hand = after("drifted-settings", "SR 7.6", duration=400)
    by_tool = after("drifted-settings", "SR 7.6", "SR 7.6 RE 1", duration=400, settings__compare_every=2)
    assert by_hand.lost["control"]
    assert not by_tool.lost["control"]
    assert [kind for _, kind, _, _ in by_tool.marks] == ["finding", "response"]


def test_the_tool_also_sees_a_firewall_rule_that_is_too_wide() -> None:
    with water("SR 5.2 RE 1", "SR 7.6", "SR 7.6 RE 1", settings__compare_every=1) as world:
        conduit = world.network.conduits["operations_control"]
        allowed = allow_list(conduit)
        assert allowed is not None
        right = allowed.rules
        allowed.rules = (*right, Rule(None, None, None, None))
        exported = json.loads(export_rules(conduit))
        assert {"source": None, "target": None, "protocol": None, "port": None} in exported["rules"]
        world.loop.run_to(90.0)
        assert findings(world) == ["operations_control: rules differ from the recorded ones"]
        assert allowed.rules == right


@pytest.mark.parametrize("boundary", [(), ("SR 5.1", "SR 5.2", "SR 5.2 RE 1")])
def test_the_tool_reaches_every_controller_through_the_documented_boundaries(
    boundary: tuple[str, ...],
) -> None:
    with water(*boundary, "SR 7.6", "SR 7.6 RE 1", settings__compare_every=1) as world:
        for agent in world.settings_agents.values():
            agent.service = "on"
        world.loop.run_to(90.0)
        assert [agent.service for agent in world.settings_agents.values()] == ["off"] * 4


def test_without_drift_the_tool_finds_nothing_and_nobody_is_alarmed() -> None:
    quiet = after(None, "SR 6.2", "SR 7.6", "SR 7.6 RE 1", "SR 7.8", duration=400, settings__compare_every=1)
    assert quiet.marks == []
    assert quiet.alerts == []


# -- SR 7.7 ------------------------------------------------------------------------------------------------------


def test_force_listen_only_silences_a_controller_that_answers_functions_nobody_needs() -> None:
    silenced, spared = after("forced-silence", duration=200), after("forced-silence", "SR 7.7", duration=200)
    assert silenced.lost["view"][0][1] == 200
    assert not spared.lost["view"]
    assert spared.refused == 2


def test_a_silenced_controller_hears_restart_communications_and_nothing_else() -> None:
    with water() as world:
        plc = world.plcs["plc1"]

        async def talk() -> list[object]:
            client = ModbusClient(plc.host.address, timeout=1.0)
            heard: list[object] = []
            for request in (b"\0\4\0\0", b"\0\1\0\0"):
                try:
                    await client.request(UnknownRequest(8, request))
                    heard.append("answered")
                except TimeoutError:
                    heard.append(plc.listen_only)
                    try:
                        heard.append(await client.write(Table.HOLDING, 100, [4000]))
                    except TimeoutError:
                        heard.append("deaf")
            client.close()
            return heard

        assert answer(world, talk()) == [True, "deaf", "answered"]
        assert not plc.listen_only
        assert plc.value("LIT101_L_SP") == 500


# -- SR 7.8 ------------------------------------------------------------------------------------------------------


def test_with_a_list_the_devices_of_an_advisory_are_fixed_before_the_flaw_is_used() -> None:
    walked, looked_up = after("advisory", duration=700), after("advisory", "SR 7.8", duration=700)
    assert walked.lost["control"]
    assert not looked_up.lost["control"]
    fixed = [data["what"] for _, kind, _, data in looked_up.marks if kind == "response"]
    assert fixed == ["plc1 fixed", "plc2 fixed", "plc3 fixed"]
    found = [data["what"] for _, kind, _, data in looked_up.marks if kind == "finding"]
    assert not any("firmware" in what for what in found)  # the list knows what was fixed


def test_a_device_that_is_on_no_list_is_seen_once() -> None:
    with water("SR 6.2", "SR 7.8", inventory__compare_every=1) as world:
        world.network.host("rogue1", "operations", "10.0.3.250")
        alerts: list[str] = []
        world.siems["siem1"].on_alert.append(lambda alert: alerts.append(alert.rule))
        assert not profiles.working(world, "SR 7.8")["operations"]
        world.loop.run_to(200.0)
        assert findings(world) == ["10.0.3.250: rogue1 in operations is on no list"]
        assert alerts == ["unknown device"]


def test_a_firmware_that_changed_without_the_list_is_seen() -> None:
    with water("SR 7.8", inventory__compare_every=1) as world:
        world.settings_agents["plc3"].firmware = "3.11.2-evil"
        world.loop.run_to(130.0)
        assert findings(world) == ["plc3: firmware is 3.11.2-evil, 3.11.2 on the list"]


def test_without_a_list_nobody_can_look_anything_up() -> None:
    with water() as world:
        assert world.inventories["ews1"].with_firmware("NA-300", "3.11.2") is None
    with water("SR 7.8") as world:
        assert world.inventories["ews1"].with_firmware("NA-300", "3.11.2") == ["plc1", "plc2", "plc3"]
