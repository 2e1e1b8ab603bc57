"""What the network monitor learns of hosts, and its rules for anomalies, scans and OPC UA."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_site import after, ask, water
from small_worlds import SmallWorld, attempt, two_zones
from test_monitor import ATTACKER, BASELINE, HMI, PLC, alerts, in_pieces, monitor_of, watched

from devices.modbus_wire import Stream
from devices.monitor import KnownFlow, Monitor
from devices.registers import Table


@pytest.fixture
def world() -> Iterator[SmallWorld]:
    with two_zones() as found:
        yield found


def test_who_was_not_there_when_it_started_is_a_new_host_and_once(world: SmallWorld) -> None:
    watched(world)
    world.run(5)
    world.network.host("laptop", "operations", "10.0.2.77")
    for port in (22, 23):
        world.ask(attempt(asyncio.open_connection(PLC, port)), by="laptop")
    assert alerts(world) == [("new host", "10.0.2.77"), ("new flow", "10.0.2.77")]


def test_a_documented_host_that_comes_later_is_not_new(world: SmallWorld) -> None:
    watched(world, baseline=[*BASELINE, KnownFlow("10.0.2.77", PLC, 22)])
    world.network.host("laptop", "operations", "10.0.2.77")
    world.ask(attempt(asyncio.open_connection(PLC, 22)), by="laptop")
    assert alerts(world) == []


def test_five_doors_within_a_minute_are_a_scan_and_four_are_not(world: SmallWorld) -> None:
    watched(world)
    for port in range(20, 24):
        world.ask(attempt(asyncio.open_connection(PLC, port)))
    assert ("scan", ATTACKER) not in alerts(world)
    world.ask(attempt(asyncio.open_connection(PLC, 24)))
    assert alerts(world).count(("scan", ATTACKER)) == 1


def test_a_slow_scan_is_a_row_of_new_flows_only(world: SmallWorld) -> None:
    watched(world)
    for port in range(20, 26):
        world.ask(attempt(asyncio.open_connection(PLC, port)))
        world.run(30)
    assert {rule for rule, _ in alerts(world)} == {"new flow"}


def frame(transaction: int, body: bytes) -> bytes:
    return struct.pack(">HHHB", transaction, 0, len(body) + 1, 1) + body


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (b"\x08\x00\x01\x00\x00", "Modbus off line"),
        (b"\x08\x00\x04\x00\x00", "Modbus off line"),
        (b"\x08\x00\x00\x12\x34", None),
        (b"\x5a\x00\x01", "Modbus anomaly"),
        (b"\x03\x00\x00\x00\x01\x00", "Modbus anomaly"),
        (b"\x03\x00\x00\x00\x01", None),
    ],
)
def test_anomalies_of_requests(world: SmallWorld, body: bytes, rule: str | None) -> None:
    watched(world, baseline=[*BASELINE, KnownFlow(ATTACKER, PLC, 502)])
    world.ask(in_pieces(world, frame(1, body)))
    assert [found for found, _ in alerts(world)] == ([rule] if rule is not None else [])


def test_a_row_of_refused_requests_is_somebody_trying_things_out(world: SmallWorld) -> None:
    watched(world, baseline=[*BASELINE, KnownFlow(ATTACKER, PLC, 502)])
    client = world.client()
    for address in range(9):
        world.ask(client.read(Table.INPUT, 5000 + address, 1))
    assert alerts(world) == []
    world.ask(client.read(Table.INPUT, 5009, 1))
    assert alerts(world) == [("many refusals", ATTACKER)]


def test_an_answer_that_nobody_asked_for_is_reported(world: SmallWorld) -> None:
    host = world.network.host("odd", "control", "10.0.1.66")
    monitor_of(world, baseline=[KnownFlow(ATTACKER, "10.0.1.66", 502)])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(frame(1, b"\x03\x02\x00\x07") + frame(2, b"\x03\x02\x00\x08"))
        await reader.read(100)

    async def listen() -> None:
        await asyncio.start_server(serve, "10.0.1.66", 502)

    host.spawn(listen(), "server")
    world.run(1)

    async def question() -> None:
        _, writer = await asyncio.open_connection("10.0.1.66", 502)
        writer.write(frame(1, b"\x03\x00\x00\x00\x01"))
        await asyncio.sleep(1)
        writer.close()

    world.ask(question())
    assert alerts(world) == [("answer to nothing", "10.0.1.66")]


def test_connections_leave_nothing_behind_when_they_end(world: SmallWorld) -> None:
    _, monitor = watched(world)
    world.run(5)
    before = len(monitor._connections)
    for _ in range(5):
        world.ask(in_pieces(world, b"\x00\x01\x00"))  # half a frame, then the end
    world.run(5)
    assert len(monitor._connections) == before


def test_the_inventory_says_who_serves_and_uses_what_and_what_devices_say_of_themselves(
    world: SmallWorld,
) -> None:
    _, monitor = watched(world)
    world.run(10)
    world.ask(in_pieces(world, frame(1, b"\x2b\x0e\x01\x00")))
    rows = {row["address"]: row for row in monitor.inventory.table()}
    assert rows[HMI]["uses"] == [f"{PLC}:502"]
    assert rows[PLC]["serves"] == ["tcp/502"]
    assert rows[PLC]["mac"] == world.network.hosts["plc1"].mac
    assert rows[PLC]["vendor"]
    assert rows[PLC]["last"] == pytest.approx(world.now, abs=2)


@given(st.lists(st.binary(min_size=1, max_size=12), max_size=8), st.data())
def test_a_stream_that_is_sent_again_in_any_pieces_is_read_once(
    bodies: list[bytes], data: st.DataObject
) -> None:
    whole = [frame(number, body) for number, body in enumerate(bodies)]
    octets = b"".join(whole)
    stream, found, sent, opened = Stream(), [], 0, False
    while sent < len(octets) or not opened:
        opened = True
        start = data.draw(st.integers(0, sent)) if sent else 0
        end = data.draw(st.integers(sent, len(octets)))
        found += list(stream.frames(1000 + start, octets[start:end]))
        sent = max(sent, end)
        if sent < len(octets) and data.draw(st.booleans()):
            found += list(stream.frames(1000 + sent, octets[sent:]))
            sent = len(octets)
    assert found == whole


# ------------------------------------------------------------------------------------------------------- OPC UA


def test_a_historian_that_writes_is_reported_and_one_that_reads_is_not() -> None:
    with water("SR 6.2") as world:
        world.loop.run_to(60.0)
        found: list[dict[str, object]] = []
        monitor = Monitor(
            world.network.hosts["mon1"],
            "mon2",
            [world.network.zones["operations"]],
            world.baseline(),
            node_ranges=world.node_ranges(),
        )
        monitor.audit.sinks.append(lambda _source, _kind, data: found.append(dict(data)))
        monitor.start()
        world.loop.run_to(90.0)
        assert found == []
        client = world.ua_connector("hist1", "opcua1")()

        async def write(tag: str, value: float) -> None:
            await client.connect()
            await client.write(tag, value)
            await client.disconnect()

        server = world.gateways["opcua1"]
        writable = next(tag for tags in server.asset.writable.values() for tag in tags)
        ask(world, write(writable, 1e6), by="hist1")
        rules = {(entry["rule"], entry["subject"]) for entry in found}
        address = world.network.hosts["hist1"].address
        assert ("OPC UA service", address) in rules
        assert ("value out of range", address) in rules
        seen = {row["address"]: row for row in monitor.inventory.table()}
        assert "application" in seen[address]


@pytest.mark.slow
@pytest.mark.parametrize("level", ["SR 6.2", "SR 4.1"])
def test_a_quiet_day_at_the_works_is_no_alert(level: str) -> None:
    record = after(None, "SR 6.2", *([level] if level != "SR 6.2" else []), duration=2400.0)
    assert [alert for alert in record.alerts if "network monitor" in alert[2]] == []
