"""The network monitor: what it reports of traffic that it only sees, and that normal traffic is nothing to it."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from copy import copy
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_worlds import SmallWorld, attempt, one_zone, two_zones

from devices.hmi import Hmi
from devices.modbus import ModbusClient, read_request, write_request
from devices.modbus_wire import Conversation
from devices.monitor import QUIET, KnownFlow, Monitor
from devices.plc import PROGRAM_FILE
from devices.registers import Table
from devices.siem import SecurityAlert, Siem
from devices.syslog import SyslogSender
from testbed.network import Packet, Verdict

HMI, PLC, ATTACKER = "10.0.2.20", "10.0.1.11", "10.0.2.99"
VIEW = frozenset({1, 2, 3, 4})
CONTROL = frozenset({5, 6, 15, 16})
BASELINE = (KnownFlow(HMI, PLC, 502, VIEW), KnownFlow(HMI, PLC, 502, CONTROL))
EPOCH = datetime(2026, 3, 2, 6, tzinfo=UTC)
RANGES = {(PLC, 0): (3000, 7000), (PLC, 1): (3000, 7000)}


@pytest.fixture
def world() -> Iterator[SmallWorld]:
    with two_zones() as found:
        yield found


def watched(world: SmallWorld, **options: Any) -> tuple[Hmi, Monitor]:
    """PLC and HMI at work, and a monitor at the PLC's zone and at the boundary; everything started."""
    world.plc().start()
    hmi = world.hmi(zone="operations", address=HMI, heartbeat={"plc": "plc1", "tag": "BEAT", "every": 2.0})
    hmi.start()
    return hmi, monitor_of(world, **options)


def monitor_of(world: SmallWorld, **options: Any) -> Monitor:
    host = world.network.host("mon1", "operations", "10.0.2.50")
    links = (world.network.zones["control"], world.network.conduits["boundary"])
    fields = {"baseline": BASELINE, "ranges": RANGES, **options}
    monitor = Monitor(host, "mon1", links, **fields)
    world.listen(monitor.audit)
    monitor.start()
    return monitor


def alerts(world: SmallWorld) -> list[tuple[str, str]]:
    return [(data["rule"], data["subject"]) for _, _, kind, data in world.events if kind == "ids.alert"]


def test_normal_traffic_is_no_alert(world: SmallWorld) -> None:
    hmi, monitor = watched(world)
    world.run(60)
    for value in (3000.0, 5500.0, 7000.0):
        assert world.ask(hmi.write("H_SP", value / 10), by="hmi1") is None
    world.run(540)
    assert monitor.packets > 1000
    assert alerts(world) == []


def test_a_packet_that_crosses_two_watched_links_counts_once(world: SmallWorld) -> None:
    _, monitor = watched(world)
    crossed = []
    world.network.conduits["boundary"].add_tap(lambda _link, packet: crossed.append(packet))
    world.run(30)
    sent = [p for p in crossed if not p.reply and (p.payload or p.opening)]
    assert monitor.packets == len(sent) > 30


def test_a_flow_that_nobody_documented_is_reported_with_who_where_and_what(world: SmallWorld) -> None:
    watched(world)
    world.run(10)
    world.ask(world.client().read(Table.INPUT, 0, 2))
    assert alerts(world) == [("new flow", ATTACKER)]
    assert world.last("ids.alert") == {"rule": "new flow", "subject": ATTACKER, "target": PLC, "port": 502}
    world.ask(world.client().read(Table.INPUT, 0, 2))
    assert len(alerts(world)) == 1  # it is known now


def test_knocking_at_a_closed_port_is_a_new_flow(world: SmallWorld) -> None:
    watched(world)
    assert isinstance(world.ask(attempt(asyncio.open_connection(PLC, 22))), OSError)
    assert world.last("ids.alert")["port"] == 22


def test_a_documented_flow_to_another_port_or_the_other_way_round_is_new(world: SmallWorld) -> None:
    watched(world, baseline=[*BASELINE, KnownFlow(PLC, HMI, 9999)])
    world.ask(attempt(asyncio.open_connection(PLC, 503)), by="hmi1")
    world.ask(attempt(asyncio.open_connection(HMI, 502)), by="plc1")
    assert alerts(world) == [("new flow", HMI), ("new flow", PLC)]


def test_what_is_seen_while_learning_counts_as_known(world: SmallWorld) -> None:
    watched(world, learning=60.0)
    world.ask(world.client().write(Table.HOLDING, 2, [1]))
    world.run(60)
    world.ask(world.client().write(Table.HOLDING, 2, [1]))
    assert alerts(world) == []
    world.ask(attempt(asyncio.open_connection(PLC, 22)))
    assert alerts(world) == [("new flow", ATTACKER)]


def test_a_function_that_does_not_belong_in_its_flow_is_reported(world: SmallWorld) -> None:
    watched(world)
    world.run(5)
    client = world.client()
    world.ask(client.read_file(PROGRAM_FILE, 0, 10), by="hmi1")
    assert alerts(world) == [("Modbus function", HMI)]
    assert world.last("ids.alert") == {
        "rule": "Modbus function",
        "subject": HMI,
        "target": PLC,
        "function": 20,
    }


def test_an_unknown_flow_may_go_on_reading_but_its_writes_are_reported_too(world: SmallWorld) -> None:
    watched(world)
    client = world.client()
    world.ask(client.read(Table.INPUT, 0, 2))
    world.ask(client.write(Table.HOLDING, 1, [6500]))
    assert alerts(world) == [("new flow", ATTACKER), ("Modbus function", ATTACKER)]


def test_a_flow_without_functions_takes_any(world: SmallWorld) -> None:
    _, monitor = watched(world)
    monitor.expect([KnownFlow(HMI, PLC, 502)])
    world.ask(world.client().read_file(PROGRAM_FILE, 0, 10), by="hmi1")
    assert alerts(world) == []


@pytest.mark.parametrize(
    ("address", "values", "reported"),
    [
        (1, [7000], []),
        (1, [7001], [7001]),
        (1, [2999], [2999]),
        (0, [5000, 9000], [9000]),
        (0, [9000, 5000], [9000]),
        (2, [9000], []),
    ],
)
def test_a_value_outside_its_engineering_range_is_reported_wherever_it_stands(
    world: SmallWorld, address: int, values: list[int], reported: list[int]
) -> None:
    watched(world)
    world.run(5)
    world.ask(world.client().write(Table.HOLDING, address, values), by="hmi1")
    found = [data for _, _, kind, data in world.events if kind == "ids.alert"]
    assert found == [
        {"rule": "value out of range", "subject": HMI, "target": PLC, "value": value} for value in reported
    ]


def test_coils_with_the_number_of_a_register_have_no_range(world: SmallWorld) -> None:
    watched(world)
    world.ask(world.client().write(Table.COIL, 2, [1]), by="hmi1")
    world.ask(world.client().write(Table.COIL, 0, [1, 1, 1, 1]), by="hmi1")
    assert alerts(world) == []


def test_a_source_that_sends_more_than_the_rate_is_reported(world: SmallWorld) -> None:
    watched(world, rate=50.0, baseline=[*BASELINE, KnownFlow(ATTACKER, PLC, 502)])
    client = world.client(timeout=1.0)

    async def burst(count: int) -> None:
        await client.connect()
        await asyncio.gather(*(client.request(read_request(Table.INPUT, 0, 1)) for _ in range(count)))

    world.run(10.1 - world.now)
    world.ask(burst(40))
    assert alerts(world) == []
    world.run(20.1 - world.now)
    world.ask(burst(60))
    assert alerts(world) == [("packet rate", ATTACKER)]


def test_a_flood_hides_no_write(world: SmallWorld) -> None:
    watched(world, rate=10.0)

    async def all_at_once() -> None:
        client = ModbusClient(PLC)
        await client.connect()
        reads = [client.request(read_request(Table.INPUT, 0, 1)) for _ in range(30)]
        await asyncio.gather(*reads, client.request(write_request(Table.HOLDING, 1, [9000])))

    world.ask(all_at_once())
    assert set(alerts(world)) == {
        ("new flow", ATTACKER),
        ("packet rate", ATTACKER),
        ("Modbus function", ATTACKER),
        ("value out of range", ATTACKER),
    }


# ----------------------------------------------------------------------------------------------- pieces of frames

READ = struct.pack(">HHHBBHH", 1, 0, 6, 1, 4, 0, 1)
WRITE = struct.pack(">HHHBBHH", 2, 0, 6, 1, 6, 1, 9000)
BOTH = [("Modbus function", ATTACKER), ("value out of range", ATTACKER)]


async def in_pieces(world: SmallWorld, *pieces: bytes) -> None:
    """Send bytes as they are, each piece in a segment of its own."""
    _, writer = await asyncio.open_connection(PLC, 502)
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(0.05)
    writer.close()


@pytest.mark.parametrize(
    "pieces",
    [
        (READ, WRITE),
        (READ + WRITE,),
        (WRITE[:3], WRITE[3:]),
        (READ + WRITE[:9], WRITE[9:]),
        (READ[:1], READ[1:] + WRITE[:7], WRITE[7:11], WRITE[11:] + READ),
    ],
    ids=["apart", "together", "cut in the header", "cut after another", "cut in pieces"],
)
def test_a_write_is_seen_however_the_stream_is_cut(world: SmallWorld, pieces: tuple[bytes, ...]) -> None:
    watched(world)
    world.ask(in_pieces(world, *pieces))
    assert alerts(world)[1:] == BOTH
    assert world.plcs["plc1"].value("H_SP") == 900.0


def test_bytes_that_are_not_modbus_on_its_port_are_reported(world: SmallWorld) -> None:
    watched(world)
    world.ask(in_pieces(world, READ + b"GET / HTTP/1.1\r\n\r\n"))
    assert alerts(world) == [("new flow", ATTACKER), ("not Modbus", ATTACKER)]


def test_a_segment_that_is_sent_again_is_not_taken_for_more(world: SmallWorld) -> None:
    watched(world)
    dropped: list[Packet] = []

    def lose_once(packet: Packet) -> Verdict:
        if not packet.reply and packet.payload == WRITE[:9] and not dropped:
            dropped.append(packet)
            return Verdict.DROP
        return Verdict.ACCEPT

    world.network.conduits["boundary"].add_policy("lossy", lose_once)
    world.ask(in_pieces(world, WRITE[:9], WRITE[9:], READ))
    world.run(2)
    assert dropped
    assert alerts(world)[1:] == BOTH


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from([READ, WRITE]), min_size=1, max_size=5), st.data())
def test_every_request_is_found_in_any_cutting_of_the_stream(
    frames: list[bytes], data: st.DataObject
) -> None:
    with two_zones() as world:
        world.network.host("plc1", "control", PLC)
        seen: list[Packet] = []
        world.network.conduits["boundary"].add_tap(lambda _link, packet: seen.append(packet))
        world.ask(attempt(asyncio.open_connection(PLC, 502)))
        stream = b"".join(frames)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
        functions, conversation = [], Conversation()
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            packet = copy(seen[0])
            packet.payload, packet.seq = stream[start:end], start
            asked = conversation.asked(packet.seq, packet.payload)
            functions += [request.function for request, _ in asked]
        assert functions == [frame[7] for frame in frames]


# ---------------------------------------------------------------------------------------------------------- ARP


def test_an_address_that_is_claimed_twice_is_reported_and_its_owner_is_not() -> None:
    with one_zone() as world:
        world.plc().start()
        hmi = world.hmi()
        hmi.start()
        monitor = Monitor(
            world.network.host("mon1", "control", "10.0.1.50"),
            "mon1",
            [world.network.zones["control"]],
            [KnownFlow("10.0.1.20", PLC, 502)],
        )
        world.listen(monitor.audit)
        monitor.start()
        world.run(10)
        attacker = world.network.hosts["attacker"]
        assert attacker.interpose("10.0.1.20", PLC, lambda packet: packet.payload)
        assert alerts(world) == [("address claimed twice", PLC), ("address claimed twice", "10.0.1.20")]
        assert world.last("ids.alert")["mac"] == attacker.mac
        attacker.withdraw("10.0.1.20", PLC)
        world.run(10)
        assert len(alerts(world)) == 2


def test_a_claim_of_the_gateways_address_is_reported(world: SmallWorld) -> None:
    watched(world)
    insider = world.network.host("insider", "control", "10.0.1.98")
    world.run(5)
    assert insider.interpose(PLC, HMI, lambda packet: packet.payload)  # the HMI is behind the gateway
    assert ("address claimed twice", "10.0.1.1") in alerts(world)


# ------------------------------------------------------------------------------------------------------- reports


def test_the_same_report_is_quiet_for_its_time(world: SmallWorld) -> None:
    watched(world)
    client = world.client()
    for _ in range(10):
        world.ask(client.write(Table.HOLDING, 1, [9000]))
        world.run(QUIET / 10 - 1)
    assert alerts(world).count(("value out of range", ATTACKER)) == 1
    world.run(QUIET / 10)
    world.ask(client.write(Table.HOLDING, 1, [9000]))
    assert alerts(world).count(("value out of range", ATTACKER)) == 2


def test_a_report_goes_over_the_wire_and_becomes_an_alert(world: SmallWorld) -> None:
    _, monitor = watched(world)
    siem = Siem(world.network.host("siem1", "operations", "10.0.2.60"), "siem1")
    raised: list[SecurityAlert] = []
    siem.on_alert.append(raised.append)
    siem.start()
    sender = SyslogSender(monitor.host, "10.0.2.60", EPOCH)
    sender.start()
    monitor.audit.sinks.append(sender)
    world.run(1)
    world.ask(world.client().read(Table.INPUT, 0, 1))
    world.run(1)
    assert [(alert.rule, alert.source, alert.subject) for alert in raised] == [("new flow", "mon1", ATTACKER)]
