"""A PLC in a small world: what its logic does to a tank, and what the wire can make it do."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from small_worlds import LOGIC, TAGS, SmallWorld, attempt, controller, one_zone

from devices.logic import compile_program
from devices.modbus import Access, ModbusClient, Peer, Refusal, read_request
from devices.plc import (
    DEVICE_FAILURE,
    ILLEGAL_ADDRESS,
    ILLEGAL_FUNCTION,
    ILLEGAL_VALUE,
    MODE,
    SYSTEM,
    Mode,
    Plc,
    PlcTimes,
)
from devices.poller import TagPoller, checksum
from devices.registers import AddressError, Table
from devices.wiring import Wiring
from testbed.errors import UnknownNameError
from testbed.plant import Sensor, SensorSpec

SLOW = PlcTimes(request_cost=0.02, watchdog=1.5)  # 50 requests a second are all it can do


@pytest.fixture
def world() -> Iterator[SmallWorld]:
    with one_zone() as found:
        yield found


def program(variables: str, statements: str) -> str:
    """The tank's program with ``variables`` more, and ``statements`` before its end."""
    return LOGIC.replace("END_VAR", f"{variables} END_VAR").replace(
        "END_PROGRAM", f"{statements} END_PROGRAM"
    )


# ------------------------------------------------------------------------------------------------- control


def test_logic_alone_keeps_the_tank_between_its_setpoints(world: SmallWorld) -> None:
    plc = world.plc()
    plc.start()
    world.run(60)
    levels = world.sample(120, lambda: world.tank.level)
    # One scan and one step of the plant past a setpoint: 0.4 s at 10 or 20 mm/s.
    assert 0.39 < min(levels) < 0.401
    assert 0.599 < max(levels) < 0.61
    assert plc.value("FILLS") >= 4


def test_scans_come_every_scan_time_from_the_plcs_own_phase(world: SmallWorld) -> None:
    plc = world.plc(phase=0.25)
    plc.start()
    times = world.sample(8.05, lambda: plc.last_scan, every=0.05)
    scanned = sorted(set(times[4:]))
    assert scanned[0] == 0.25
    assert all(later - earlier == pytest.approx(0.4) for earlier, later in pairwise(scanned))
    assert plc.scans == len(scanned) == 20
    assert plc.late_scans == 0


def test_two_plcs_keep_their_phases_apart(world: SmallWorld) -> None:
    first = world.plc("plc1", phase=0.05)
    second = world.plc("plc2", controller("10.0.1.12"), phase=0.3)
    first.start()
    second.start()
    world.run(100)
    assert (second.last_scan - first.last_scan) % 0.4 == pytest.approx(0.25)


def test_by_hand_the_operator_opens_and_shuts_and_auto_takes_over_again(world: SmallWorld) -> None:
    world.plc().start()
    client = world.client()
    world.ask(client.write(Table.COIL, 2, [0]))
    world.ask(client.write(Table.COIL, 3, [1]))
    assert max(world.sample(30, lambda: world.tank.level)) > 0.75  # far above H_SP, and nothing stops it
    world.ask(client.write(Table.COIL, 3, [0]))
    world.run(10)
    assert world.tank.commands["INLET"] == 0.0
    world.ask(client.write(Table.COIL, 2, [1]))
    world.run(80)
    assert 0.39 < world.tank.level < 0.61


def test_a_setpoint_written_on_the_wire_is_in_force_at_the_next_scan(world: SmallWorld) -> None:
    world.plc().start()
    world.ask(world.client().write(Table.HOLDING, 1, [7000]))
    world.run(100)
    assert max(world.sample(60, lambda: world.tank.level)) == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize(("table", "address"), [(Table.COIL, 0), (Table.COIL, 1)])
def test_outputs_are_read_only_from_the_wire(world: SmallWorld, table: Table, address: int) -> None:
    plc = world.plc()
    plc.start()
    world.run(1)
    before = plc.value("INLET"), plc.value("OUTLET")
    answer = world.ask(world.client().write(table, address, [1 - int(before[address])]))
    assert answer == Refusal(5, ILLEGAL_ADDRESS)
    world.run(1)
    assert (plc.value("INLET"), plc.value("OUTLET")) == before


def test_a_program_output_in_an_input_register_is_there_when_the_scan_ends(world: SmallWorld) -> None:
    plc = world.plc(logic=program("", "FILLS := UINT#7;"))
    plc.start()
    world.run(0.11)
    assert plc.scans == 1
    assert plc.value("FILLS") == 7.0


def test_what_the_program_clears_is_cleared_on_the_wire_and_happens_once(world: SmallWorld) -> None:
    plc = world.plc()
    plc.start()
    client = world.client()
    world.ask(client.write(Table.COIL, 4, [1]))
    world.run(1)
    assert plc.value("ACK") == 0.0
    world.ask(client.write(Table.HOLDING, 0, [4100]))  # another write must not repeat the acknowledgment
    world.run(1)
    assert plc.instance.memory["ACKS"] == 1
    world.ask(client.write(Table.COIL, 4, [1]))
    world.run(1)
    assert plc.instance.memory["ACKS"] == 2


# ---------------------------------------------------------------------------------------------------- modes


def test_in_program_mode_outputs_hold_inputs_go_on_and_run_mode_resumes(world: SmallWorld) -> None:
    plc = world.plc()
    plc.start()
    world.run(12)
    modes: list[Mode] = []
    plc.on_mode.append(modes.append)
    inlet = world.tank.commands["INLET"]
    client = world.client()
    assert world.ask(client.write(Table.HOLDING, MODE, [0])) is None
    level = plc.value("LEVEL")
    world.run(60)
    assert world.tank.commands["INLET"] == inlet
    assert plc.value("LEVEL") != level
    assert world.ask(client.read(Table.INPUT, SYSTEM, 1)) == [0]
    world.ask(client.write(Table.HOLDING, MODE, [1]))
    world.run(120)
    assert 0.39 < world.tank.level < 0.61
    assert modes == [Mode.PROGRAM, Mode.RUN]
    assert world.kinds("mode.request", "plc.mode") == ["mode.request", "plc.mode"] * 2


def test_a_write_in_program_mode_counts_once_the_plc_runs(world: SmallWorld) -> None:
    plc = world.plc()
    plc.start()
    world.run(1)
    client = world.client()
    world.ask(client.write(Table.HOLDING, MODE, [0]))
    world.ask(client.write(Table.HOLDING, 1, [7000]))
    assert plc.instance.memory["H_SP"] == 600.0
    world.ask(client.write(Table.HOLDING, MODE, [1]))
    world.run(1)
    assert plc.instance.memory["H_SP"] == 700.0


def test_with_the_key_switch_out_of_remote_the_wire_changes_neither_mode_nor_program(
    world: SmallWorld,
) -> None:
    plc = world.plc()
    plc.seams.key_switch = "run"
    plc.start()
    client = world.client()
    assert world.ask(client.write(Table.HOLDING, MODE, [0])) == Refusal(6, ILLEGAL_FUNCTION)
    assert world.ask(client.write_file(1, 0, [0])) == Refusal(21, ILLEGAL_FUNCTION)
    assert plc.mode is Mode.RUN
    assert world.last("mode.refused") == {"peer": "10.0.1.99", "key_switch": "run"}
    assert world.ask(client.write(Table.HOLDING, 0, [4100])) is None  # the process is not locked


def test_a_mode_that_does_not_exist_is_an_illegal_value(world: SmallWorld) -> None:
    plc = world.plc()
    plc.start()
    assert world.ask(world.client().write(Table.HOLDING, MODE, [2])) == Refusal(6, ILLEGAL_VALUE)
    assert plc.mode is Mode.RUN


@pytest.mark.parametrize(
    "pdu",
    [
        struct.pack(">BHHH", 22, MODE, 0x0000, 0x0000),
        struct.pack(">BHHHHBH", 23, MODE, 1, MODE, 1, 2, 0),
        struct.pack(">BHHBH", 16, MODE, 1, 2, 0),
    ],
    ids=["mask write", "read and write", "write of several"],
)
def test_every_function_that_writes_the_mode_changes_it(world: SmallWorld, pdu: bytes) -> None:
    plc = world.plc()
    plc.start()

    async def send() -> bytes:
        reader, writer = await asyncio.open_connection("10.0.1.11", 502)
        writer.write(struct.pack(">HHHB", 1, 0, len(pdu) + 1, 1) + pdu)
        answer = await reader.read(300)
        writer.close()
        return answer

    assert world.ask(send())[7] == pdu[0]
    assert plc.mode is Mode.PROGRAM
    plc.seams.key_switch = "program"
    assert world.ask(send())[7:9] == bytes((pdu[0] | 0x80, ILLEGAL_FUNCTION))


@pytest.mark.parametrize(
    ("safe", "expected"),
    [(None, (1.0, 1.0)), ({"INLET": 0.0, "OUTLET": 0.0}, (0.0, 0.0)), ({"INLET": 0.0}, (0.0, 1.0))],
    ids=["hold", "all safe", "one safe"],
)
def test_when_the_logic_stops_outputs_hold_or_go_where_they_are_safe(
    world: SmallWorld, safe: dict[str, float] | None, expected: tuple[float, float]
) -> None:
    world.tank.level = 0.3
    plc = world.plc()
    plc.seams.safe_outputs = safe
    plc.start()
    world.run(2)
    client = world.client()
    world.ask(client.write(Table.HOLDING, MODE, [0]))
    world.run(1)
    assert (world.tank.commands["INLET"], world.tank.commands["OUTLET"]) == expected
    assert (plc.value("INLET"), plc.value("OUTLET")) == expected
    world.ask(client.write(Table.HOLDING, MODE, [1]))
    world.run(1)
    assert (world.tank.commands["INLET"], world.tank.commands["OUTLET"]) == (1.0, 1.0)


def test_a_fault_of_the_logic_stops_it_and_says_where(world: SmallWorld) -> None:
    plc = world.plc(logic=program("", "FILLS := 100 / BEAT;"))
    plc.start()
    world.run(1)
    assert plc.mode.name == "FAULT"  # BEAT is 0 until somebody writes it
    fault = world.last("plc.fault")
    assert fault["fault"] == "logic"
    assert "division by zero" in fault["reason"]
    client = world.client()
    assert world.ask(client.read(Table.INPUT, SYSTEM, 1)) == [2]
    world.ask(client.write(Table.HOLDING, 2, [1]))
    world.ask(client.write(Table.HOLDING, MODE, [1]))
    world.run(2)
    assert plc.mode.name == "RUN"
    assert plc.value("FILLS") == 100.0


def test_an_output_that_is_no_number_is_a_fault_of_the_logic(world: SmallWorld) -> None:
    endless = program("X : REAL := 1.0E300;", "X := X * X; X := X - X; H_SP := X;")
    plc = world.plc(logic=endless)
    plc.start()
    world.run(1)
    assert plc.mode is Mode.FAULT
    assert "H_SP is nan" in world.last("plc.fault")["reason"]


# ------------------------------------------------------------------------------------------ system registers


def test_the_system_registers_tell_mode_scan_time_program_and_downloads(world: SmallWorld) -> None:
    plc = world.plc()
    plc.start()
    world.run(2)
    found = world.ask(world.client().read(Table.INPUT, SYSTEM, 7))
    digest = [int(plc.program.digest[i : i + 4], 16) for i in (0, 4)]
    assert found == [1, 400, 0, *digest, len(LOGIC.encode()), 0]


def test_the_plc_identifies_itself_and_function_17_tells_whether_it_runs(world: SmallWorld) -> None:
    plc = world.plc()
    plc.start()
    client = world.client()
    assert world.ask(client.identify()) == {
        "VendorName": "Example",
        "ProductCode": "P1",
        "MajorMinorRevision": "1.0",
        "ProductName": "P1",
    }

    async def status() -> Any:
        # Function 17 by hand: run indicator FF or 00 is the last byte (Application Protocol V1.1b3, 6.13).
        reader, writer = await asyncio.open_connection("10.0.1.11", 502)
        writer.write(struct.pack(">HHHBB", 1, 0, 2, 1, 17))
        answer = await reader.read(300)
        writer.close()
        return answer[-1]

    assert world.ask(status()) == 0xFF
    world.ask(client.write(Table.HOLDING, MODE, [0]))
    assert world.ask(status()) == 0x00


# --------------------------------------------------------------------------------------------- communication


async def flood(client: ModbusClient, rate: float, seconds: float) -> int:
    """Send ``rate`` reads a second whether or not they are answered; returns how many were."""
    loop = asyncio.get_running_loop()
    await client.connect()
    answered = 0

    async def one() -> None:
        nonlocal answered
        try:
            await client.request(read_request(Table.INPUT, 0, 1))
            answered += 1
        except (TimeoutError, ConnectionError):
            pass

    tasks = []
    end = loop.time() + seconds
    while loop.time() < end:
        tasks.append(loop.create_task(one()))
        await asyncio.sleep(1 / rate)
    await asyncio.gather(*tasks)
    return answered


def test_a_request_is_served_at_once_while_nothing_is_going_on(world: SmallWorld) -> None:
    world.plc().start()
    world.run(1)
    client = world.client()
    world.ask(client.connect())

    async def timed() -> float:
        start = world.now
        await client.read(Table.INPUT, 0, 1)
        return world.now - start

    assert world.ask(timed()) < 0.002


def test_requests_beyond_what_the_processor_can_do_wait_for_it(world: SmallWorld) -> None:
    world.plc(times=SLOW).start()
    world.run(1)
    client = world.client()
    world.ask(client.connect())

    async def five() -> list[float]:
        start = world.now

        async def one() -> float:
            await client.read(Table.INPUT, 0, 1)
            return world.now - start

        return await asyncio.gather(*(one() for _ in range(5)))

    assert world.ask(five()) == pytest.approx([0.0, 0.04, 0.06, 0.08, 0.1], abs=0.002)


def test_a_request_takes_its_time_from_the_scan_that_is_due(world: SmallWorld) -> None:
    plc = world.plc(times=SLOW, phase=0.1)
    plc.start()
    client = world.client()
    world.ask(client.connect())
    world.run(2.09 - world.now)  # scans are due at 2.1 and 2.5

    async def three() -> None:
        await asyncio.gather(*(client.read(Table.INPUT, 0, 1) for _ in range(3)))

    world.network.hosts["attacker"].spawn(three())
    world.run(0.07)
    assert plc.last_scan == pytest.approx(2.09 + 0.06, abs=0.001)
    world.run(0.5)
    assert plc.last_scan == pytest.approx(2.5)  # and the phase is kept
    assert plc.late_scans == 0


def test_unbounded_communication_lets_a_flood_stop_the_scan(world: SmallWorld) -> None:
    plc = world.plc(times=SLOW)
    plc.seams.safe_outputs = {"INLET": 0.0, "OUTLET": 0.0}
    plc.start()
    world.run(1)
    world.network.hosts["attacker"].spawn(flood(world.client(timeout=30.0), 100, 20))
    faulted = world.sample(20, lambda: plc.mode is Mode.FAULT)
    assert any(faulted)
    assert world.last("plc.fault") == {"fault": "watchdog", "reason": "1.50 s between scans"}
    assert plc.late_scans > 0
    assert world.tank.commands == {"INLET": 0.0, "OUTLET": 0.0}
    # The wire tells too, once it is answered again.
    world.run(20)
    found = world.ask(world.client().read(Table.INPUT, SYSTEM, 3))
    assert isinstance(found, list)
    assert found[0] == Mode.FAULT
    assert found[2] == plc.late_scans


def test_a_load_that_the_processor_can_carry_faults_nothing(world: SmallWorld) -> None:
    plc = world.plc(times=SLOW)
    plc.start()
    answered = world.ask(flood(world.client(), 40, 20))
    assert 800 <= answered <= 801
    assert plc.mode is Mode.RUN
    assert plc.late_scans == 0


def test_a_bounded_number_of_requests_a_scan_keeps_the_scan_in_a_flood(world: SmallWorld) -> None:
    plc = world.plc(times=SLOW)
    plc.seams.requests_per_scan = 4
    plc.start()
    answered = world.ask(flood(world.client(timeout=5.0), 100, 20))
    assert plc.mode is Mode.RUN
    assert plc.late_scans == 0
    # 4 in 0.4 s for 20 s, and the 16 that wait at the end; the rest are lost.
    assert 195 <= answered <= 220


async def polled(world: SmallWorld, client: ModbusClient, seconds: float) -> tuple[int, int]:
    """Reads sent once a second, and how many of them were answered."""
    answered = sent = 0
    end = world.now + seconds
    while world.now < end:
        sent += 1
        try:
            await client.read(Table.INPUT, 0, 1)
            answered += 1
        except TimeoutError:
            pass
        await asyncio.sleep(1.0)
    return sent, answered


@pytest.mark.parametrize("fair", [False, True], ids=["in order of arrival", "in turn"])
def test_serving_peers_in_turn_keeps_a_flood_from_crowding_out_the_others(
    world: SmallWorld, fair: bool
) -> None:
    plc = world.plc(times=SLOW)
    plc.seams.requests_per_scan, plc.seams.fair = 4, fair
    plc.start()
    world.network.host("hmi", "control", "10.0.1.20")
    world.network.hosts["attacker"].spawn(flood(world.client(timeout=5.0), 200, 30))
    world.run(2)
    sent, answered = world.ask(polled(world, world.client(timeout=1.0), 20), by="hmi")
    assert (answered == sent) is fair
    assert fair or answered < sent / 2


def test_what_waits_for_a_peer_that_has_gone_is_dropped(world: SmallWorld) -> None:
    plc = world.plc()
    plc.seams.requests_per_scan = 1
    plc.start()
    world.run(1)
    gone, there = Peer("10.0.1.98", 1), Peer("10.0.1.99", 2)
    answers: list[Peer] = []

    def answer(peer: Peer, _response: object) -> None:
        answers.append(peer)

    for peer in (gone, there):
        assert plc.admit(peer)
        for _ in range(2):
            plc.submit(peer, read_request(Table.INPUT, 0, 1), partial(answer, peer))
    plc.departed(gone)
    world.run(0.8)  # two scans
    # One of the gone peer's was served before it went; its other one takes no scan's turn.
    assert answers == [gone, there, there]


def test_no_more_connections_than_the_controller_has_room_for(world: SmallWorld) -> None:
    plc = world.plc()
    plc.seams.max_connections = 2
    plc.start()
    clients = [world.client() for _ in range(3)]
    for client in clients[:2]:
        assert isinstance(world.ask(client.read(Table.INPUT, 0, 1)), list)
    assert isinstance(world.ask(attempt(clients[2].read(Table.INPUT, 0, 1))), ConnectionError)
    assert world.last("connection.refused") == {"peer": "10.0.1.99", "reason": "too many connections"}
    clients[0].close()
    world.run(1)
    assert isinstance(world.ask(clients[2].read(Table.INPUT, 0, 1)), list)


def test_a_peer_that_is_not_admitted_gets_nothing(world: SmallWorld) -> None:
    plc = world.plc()
    plc.seams.admit.append(lambda peer: peer.address == "10.0.1.20")
    plc.start()
    world.network.host("hmi", "control", "10.0.1.20")
    assert isinstance(world.ask(world.client().read(Table.INPUT, 0, 1), by="hmi"), list)
    assert world.kinds("connection.refused") == []
    assert isinstance(world.ask(attempt(world.client().read(Table.INPUT, 0, 1))), ConnectionError)
    assert world.last("connection.refused") == {"peer": "10.0.1.99", "reason": "not admitted"}


def test_an_access_that_is_not_authorized_gets_the_code_of_the_control_and_is_told(world: SmallWorld) -> None:
    plc = world.plc()
    asked: list[tuple[str, str, int]] = []

    def only_reads(peer: Peer, access: Access) -> int | None:
        asked.append((peer.address, access.kind, access.address))
        return None if access.kind == "read" else ILLEGAL_FUNCTION

    plc.seams.authorize.append(only_reads)
    plc.start()
    client = world.client()
    assert isinstance(world.ask(client.read(Table.INPUT, 0, 1)), list)
    assert world.ask(client.write(Table.HOLDING, 1, [7000])) == Refusal(6, ILLEGAL_FUNCTION)
    assert asked == [("10.0.1.99", "read", 0), ("10.0.1.99", "write", 1)]
    assert world.last("access.denied") == {"peer": "10.0.1.99", "function": 6, "address": 1}
    assert plc.value("H_SP") == 600.0
    assert world.kinds("write") == []


def test_a_value_that_is_not_valid_gets_the_code_of_the_control_and_is_told(world: SmallWorld) -> None:
    plc = world.plc()

    def low_enough(access: Access) -> int | None:
        return ILLEGAL_VALUE if max(access.values) > 7000 else None

    plc.seams.validate.append(low_enough)
    plc.start()
    client = world.client()
    assert world.ask(client.write(Table.HOLDING, 0, [5000, 9000])) == Refusal(16, ILLEGAL_VALUE)
    refused = {"peer": "10.0.1.99", "address": 0, "values": [5000, 9000]}
    assert world.last("value.refused") == refused
    assert (plc.value("L_SP"), plc.value("H_SP")) == (400.0, 600.0)
    assert isinstance(world.ask(client.read(Table.HOLDING, 0, 2)), list)  # reads carry no values
    assert world.ask(client.write(Table.HOLDING, 0, [5000, 7000])) is None


def test_the_first_refusal_decides(world: SmallWorld) -> None:
    plc = world.plc()
    plc.seams.authorize += [lambda _peer, _access: DEVICE_FAILURE, lambda _peer, _access: ILLEGAL_FUNCTION]
    plc.start()
    assert world.ask(world.client().read(Table.INPUT, 0, 1)) == Refusal(4, DEVICE_FAILURE)
    assert world.kinds("access.denied") == ["access.denied"]


def test_a_write_is_audited_with_who_what_and_where(world: SmallWorld) -> None:
    world.plc().start()
    client = world.client()
    world.ask(client.write(Table.HOLDING, 0, [4100, 6100]))
    assert world.last("write") == {
        "peer": "10.0.1.99",
        "function": 16,
        "table": "holding",
        "address": 0,
        "values": [4100, 6100],
    }
    world.ask(client.write(Table.HOLDING, 300, [1]))
    assert world.kinds("write") == ["write"]  # what is refused has not been written


def test_what_is_not_modbus_is_told_and_answered_as_the_specification_says(world: SmallWorld) -> None:
    world.plc().start()

    async def odd() -> bytes:
        reader, writer = await asyncio.open_connection("10.0.1.11", 502)
        writer.write(struct.pack(">HHHBBHH", 9, 0, 6, 1, 3, 0, 0))  # a read of no registers
        answer = await reader.read(300)
        writer.close()
        return answer

    assert world.ask(odd()) == struct.pack(">HHHBBB", 9, 0, 3, 1, 0x83, ILLEGAL_VALUE)
    told = world.last("modbus.malformed")
    assert told["peer"] == "10.0.1.99"
    assert told["reason"].startswith("quantity")


# ----------------------------------------------------------------------------------------------------- peers

READER = """
PROGRAM reader
VAR LEVEL, SEEN : REAL; LEVEL_OK : BOOL; INLET : BOOL; INLET_OK : BOOL; END_VAR
SEEN := LEVEL;
END_PROGRAM
"""


def reader(world: SmallWorld, times: PlcTimes | None = None) -> Plc:
    """A second PLC that reads the level and the inlet of the first."""
    asset = controller(
        "10.0.1.12", tags={"SEEN": {"table": "input", "address": 0, "unit": "mm", "scale": 0.1}}
    )
    return world.plc("plc2", asset, READER, peers={"plc1": ("LEVEL", "INLET")}, phase=0.2, times=times)


def quality(plc: Plc) -> tuple[Any, Any]:
    return plc.instance.memory["LEVEL_OK"], plc.instance.memory["INLET_OK"]


def test_tags_of_a_peer_arrive_with_good_quality(world: SmallWorld) -> None:
    first = world.plc()
    second = reader(world)
    first.start()
    second.start()
    assert quality(second) == (False, False)  # nothing is known before the first answer
    asked: list[int] = []
    first.seams.authorize.append(lambda _peer, access: asked.append(access.function))
    world.run(10)
    assert (asked.count(1), asked.count(4)) == (10, 10)  # INLET is a coil, LEVEL an input register
    assert quality(second) == (True, True)
    assert second.value("SEEN") == pytest.approx(first.value("LEVEL"), abs=31)  # a read and a scan old
    assert second.instance.memory["INLET"] is bool(first.value("INLET"))
    assert world.kinds("peer.bad", "peer.good") == []


def test_a_silent_peer_makes_the_quality_bad_and_its_return_makes_it_good(world: SmallWorld) -> None:
    first = world.plc()
    second = reader(world)
    first.start()
    second.start()
    world.run(10)
    seen = second.instance.memory["LEVEL"]
    world.network.hosts["plc1"].power_off()
    world.run(2)
    assert quality(second) == (True, True)  # one missed read is no reason yet
    world.run(5)
    assert quality(second) == (False, False)
    assert second.instance.memory["LEVEL"] == pytest.approx(seen, abs=20)  # the last value stays
    assert world.last("peer.bad") == {"peer": "plc1"}
    world.network.hosts["plc1"].power_on()
    first.start()
    world.run(10)
    assert quality(second) == (True, True)
    assert world.kinds("peer.bad", "peer.good") == ["peer.bad", "peer.good"]


def test_a_peer_that_refuses_to_be_read_is_bad_after_the_same_time(world: SmallWorld) -> None:
    first = world.plc()
    second = reader(world)
    first.start()
    second.start()
    world.run(10)
    first.seams.authorize.append(lambda _peer, _access: ILLEGAL_FUNCTION)
    good = world.sample(6, lambda: quality(second)[0], every=0.5)
    assert good[:4] == [True] * 4
    assert good[-1] is False


def test_a_peers_tag_that_the_program_lacks_is_left_out(world: SmallWorld) -> None:
    first = world.plc()
    asset = controller("10.0.1.12", tags={"SEEN": {"table": "input", "address": 0}})
    second = world.plc("plc2", asset, READER, peers={"plc1": ("LEVEL", "FILLS")}, phase=0.2)
    first.start()
    second.start()
    world.run(5)
    assert second.instance.memory["LEVEL_OK"] is True
    assert "FILLS" not in second.instance.memory


# ------------------------------------------------------------------------------------- tags of every format

#: One tag of each kind that the tank's PLC has none of.
ODD_TAGS: dict[str, Any] = {
    "T1": {"table": "input", "address": 0, "format": "int16", "signal": "T1", "unit": "degC", "scale": 0.1},
    "T2": {"table": "input", "address": 1, "format": "float32", "signal": "T2", "unit": "degC"},
    "RAW": {"table": "input", "address": 3, "signal": "LEVEL", "unit": "mm"},
    "COPY": {
        "table": "holding",
        "address": 0,
        "format": "int32",
        "signal": "LEVEL",
        "unit": "mm",
        "scale": 0.01,
    },
    "SWITCH": {"table": "coil", "address": 0, "signal": "high"},
    "SPEED": {"table": "holding", "address": 2, "unit": "%", "scale": 0.1, "command": "OUTLET"},
    "VALVE": {
        "table": "holding",
        "address": 3,
        "unit": "%",
        "scale": 1,
        "command": "INLET",
        "writable": True,
    },
    "COUNT": {"table": "input", "address": 4, "format": "int32"},
    "TRIM": {"table": "holding", "address": 4, "format": "int16", "initial": -5, "writable": True},
    "RATIO": {"table": "holding", "address": 5, "format": "float32", "initial": 0.5, "writable": True},
    "PRESET": {"table": "holding", "address": 7, "format": "uint32", "initial": 70_000, "writable": True},
}
ODD_LOGIC = """
PROGRAM odd
VAR
  T1 : REAL; T2 : LREAL; RAW : INT; COPY : DINT; SWITCH : BOOL;
  SPEED : REAL := 25.0; VALVE : REAL;
  COUNT : DINT := -70000;
  TRIM : INT; RATIO : REAL; PRESET : UDINT;
END_VAR
COUNT := COUNT - 1;
END_PROGRAM
"""


def odd_plc(world: SmallWorld) -> Plc:
    def sensor(name: str, celsius: float) -> Sensor:
        found = Sensor(SensorSpec(name, "level", 0.0, 0.0, 1000.0), world.tank, random.Random(1))
        found.fault = lambda _: celsius + 273.15
        return found

    sensors = {"T1": sensor("T1", -12.3), "T2": sensor("T2", 21.7), "LEVEL": world.wiring.sensors["LEVEL"]}
    world.wiring = Wiring(world.tank, sensors)
    return world.plc(asset=controller(tags=ODD_TAGS), logic=ODD_LOGIC)


def test_every_format_goes_from_signal_to_memory_and_to_the_wire_and_back(world: SmallWorld) -> None:
    plc = odd_plc(world)
    plc.start()
    world.run(1)
    memory = plc.instance.memory
    assert memory["T1"] == pytest.approx(-12.3)
    assert memory["T2"] == pytest.approx(21.7, abs=1e-5)
    assert memory["RAW"] == round(world.tank.level * 1000)
    assert memory["COPY"] == round(world.tank.level * 1000)
    assert (memory["TRIM"], memory["RATIO"], memory["PRESET"]) == (-5, 0.5, 70_000)
    assert isinstance(memory["RAW"], int)
    poller = TagPoller(world.client(), plc.asset.tags)
    values = world.ask(poller.poll())
    assert values is not None
    assert values["T1"] == pytest.approx(-12.3)
    assert values["T2"] == pytest.approx(21.7, abs=1e-5)
    assert values["COPY"] == pytest.approx(world.tank.level * 1000, abs=10)
    assert values["COUNT"] < -70_000
    assert (values["TRIM"], values["RATIO"], values["PRESET"]) == (-5, 0.5, 70_000)
    assert values == {name: pytest.approx(plc.value(name), abs=10) for name in ODD_TAGS}


def test_a_reading_that_its_register_cannot_hold_shows_the_registers_end(world: SmallWorld) -> None:
    asset = controller(tags={**TAGS, "LEVEL": {**TAGS["LEVEL"], "scale": 0.01}})
    plc = world.plc(asset=asset)
    plc.start()
    world.tank.level = 0.9
    world.run(1)
    assert plc.value("LEVEL") == pytest.approx(655.35)
    assert plc.instance.memory["LEVEL"] == pytest.approx(655.35)


def test_a_switch_in_a_coil_follows_the_plant(world: SmallWorld) -> None:
    plc = odd_plc(world)
    plc.start()
    world.run(1)
    assert plc.value("SWITCH") == 0.0
    world.tank.level = 0.95
    world.run(1)
    assert plc.value("SWITCH") == 1.0
    assert plc.instance.memory["SWITCH"] is True


def test_an_analog_output_reaches_the_plant_in_its_own_unit(world: SmallWorld) -> None:
    plc = odd_plc(world)
    plc.seams.safe_outputs = {"SPEED": 10.0}
    plc.start()
    world.run(1)
    assert world.tank.commands["OUTLET"] == pytest.approx(0.25)  # 25 %
    assert plc.value("SPEED") == pytest.approx(25.0)
    world.ask(world.client().write(Table.HOLDING, MODE, [0]))
    assert world.tank.commands["OUTLET"] == pytest.approx(0.1)


def test_an_output_that_the_wire_may_write_drives_the_plant(world: SmallWorld) -> None:
    plc = odd_plc(world)
    plc.start()
    world.ask(world.client().write(Table.HOLDING, 3, [40]))
    world.run(1)
    assert world.tank.commands["INLET"] == pytest.approx(0.4)
    assert plc.value("VALVE") == 40.0


def test_where_outputs_go_when_the_logic_stops_is_no_setting(world: SmallWorld) -> None:
    plc = odd_plc(world)
    plc.seams.safe_outputs = {"VALVE": 0.0}
    plc.start()
    client = world.client()
    world.ask(client.write(Table.HOLDING, 3, [40]))
    world.run(1)
    world.ask(client.write(Table.HOLDING, MODE, [0]))
    assert world.tank.commands["INLET"] == 0.0
    world.ask(client.write(Table.HOLDING, MODE, [1]))
    world.run(1)
    assert world.tank.commands["INLET"] == pytest.approx(0.4)


def test_a_number_from_the_wire_that_its_variable_cannot_hold_changes_nothing(world: SmallWorld) -> None:
    asset = controller(tags={**TAGS, "L_SP": {**TAGS["L_SP"], "format": "float32", "address": 10}})
    plc = world.plc(asset=asset, logic=LOGIC.replace("L_SP, H_SP : REAL;", "L_SP : INT; H_SP : REAL;"))
    plc.start()
    world.run(1)
    nan = list(struct.unpack(">2H", struct.pack(">f", float("nan"))))
    world.ask(world.client().write(Table.HOLDING, 10, nan))
    world.run(1)
    assert plc.mode is Mode.RUN
    assert plc.instance.memory["L_SP"] == 400


def test_a_switch_is_right_on_the_wire_whatever_the_program_does_to_it(world: SmallWorld) -> None:
    plc = world.plc(logic=program("", "HIGH := FALSE;"))
    plc.start()
    world.tank.level = 0.95
    world.run(1)
    assert plc.value("HIGH") == 1.0
    world.tank.level = 0.5
    world.run(1)
    assert plc.value("HIGH") == 0.0


def test_a_program_without_a_variable_for_a_wired_tag_is_found_out(world: SmallWorld) -> None:
    plc = world.plc()
    assert plc.unbound(compile_program(LOGIC)) == []
    unset = LOGIC.replace("BEAT : UINT;", "").replace("ACK", "DONE")
    assert plc.unbound(compile_program(unset)) == []  # a setting that no program reads does no harm
    lacking = LOGIC.replace("LEVEL", "HEIGHT").replace("INLET, OUTLET : BOOL;", "INLET : TON; OUTLET : BOOL;")
    lacking = lacking[: lacking.index("OUTLET := TRUE;")] + "END_PROGRAM"
    assert plc.unbound(compile_program(lacking)) == ["INLET", "LEVEL"]
    other = world.plc("plc2", controller("10.0.1.12"), lacking)
    other.start()
    world.run(1)
    assert other.mode is Mode.RUN  # and does what it can
    assert other.value("LEVEL") == 0.0


def test_the_programs_spelling_of_a_tag_is_free(world: SmallWorld) -> None:
    plc = world.plc(logic=LOGIC.lower().replace("true", "TRUE").replace("false", "FALSE"))
    plc.start()
    world.run(90)
    assert 0.39 < world.tank.level < 0.61


# -------------------------------------------------------------------------------------------------- checksum


def test_the_checksum_behind_the_input_registers_is_published_and_fits(world: SmallWorld) -> None:
    plc = world.plc()
    plc.seams.publish_checksum = True
    plc.start()
    assert plc.checksum_at == 2
    client = world.client()
    for _ in range(5):
        world.run(1)
        answer = world.ask(client.read(Table.INPUT, 0, 3))
        assert isinstance(answer, list)
        assert answer[2] == checksum(answer[:2])
        assert answer[2] != 0


def test_without_the_control_no_checksum_is_published(world: SmallWorld) -> None:
    world.plc().start()
    world.run(5)
    answer = world.ask(world.client().read(Table.INPUT, 0, 3))
    assert isinstance(answer, list)
    assert answer[2] == 0


# ----------------------------------------------------------------------------------------------------- power


def test_a_plc_without_power_stops_scanning_and_starts_again_with_it(world: SmallWorld) -> None:
    plc = world.plc()
    plc.start()
    client = world.client()
    world.ask(client.connect())
    world.run(10)
    world.network.hosts["plc1"].power_off()
    world.run(0.05)  # shorter than a scan: the old scans must not go on beside the new
    world.network.hosts["plc1"].power_on()
    plc.seams.max_connections = 1  # the connection that the power cut is not counted any more
    plc.start()
    scans = plc.scans
    world.run(40)
    assert plc.scans - scans == 100
    assert plc.mode is Mode.RUN
    assert isinstance(world.ask(world.client().read(Table.INPUT, 0, 1)), list)
    world.network.hosts["plc1"].power_off()
    world.run(1)
    scans = plc.scans
    world.run(10)
    assert plc.scans == scans


# ---------------------------------------------------------------------------------------------------- wiring


def test_a_trip_relay_holds_an_actuator_off_until_it_lets_go(world: SmallWorld) -> None:
    told: list[tuple[str, bool]] = []
    world.wiring.on_trip.append(lambda target, on: told.append((target, on)))
    world.wiring.command("INLET", 1.0)
    world.wiring.command("TRIP_INLET", 1.0)
    assert world.tank.commands["INLET"] == 0.0
    world.wiring.command("INLET", 0.0)
    world.wiring.command("INLET", 1.0)
    world.wiring.command("TRIP_INLET", 1.0)
    assert world.tank.commands["INLET"] == 0.0
    world.wiring.command("TRIP_INLET", 0.0)
    assert world.tank.commands["INLET"] == 1.0
    assert told == [("INLET", True), ("INLET", False)]
    assert world.wiring.commands == ("INLET", "OUTLET", "TRIP_INLET", "TRIP_OUTLET")


@pytest.mark.parametrize("name", ["PUMP", "TRIP_PUMP"])
def test_a_command_that_drives_nothing_is_an_error(world: SmallWorld, name: str) -> None:
    with pytest.raises(UnknownNameError, match="PUMP"):
        world.wiring.command(name, 1.0)


def test_a_plc_with_tags_on_system_registers_cannot_be_built(world: SmallWorld) -> None:
    with pytest.raises(AddressError):
        world.plc(asset=controller(tags={**TAGS, "MORE": {"table": "holding", "address": SYSTEM}}))
