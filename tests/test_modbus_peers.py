"""Our Modbus/TCP server and client against implementations that others wrote.

pymodbus's client and stock server share the codec with ours, not the protocol logic; the other programs share
nothing. Each of those is skipped where it is not installed. All on loopback.
"""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from pymodbus.client import AsyncModbusTcpClient
from pymodbus.pdu.diag_message import ReturnQueryDataResponse
from pymodbus.pdu.file_message import FileRecord, ReadFileRecordResponse
from pymodbus.pdu.mei_message import ReadDeviceInformationResponse
from pymodbus.pdu.other_message import ReportDeviceIdResponse
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from devices.modbus import (
    GATEWAY_NO_RESPONSE,
    ILLEGAL_ADDRESS,
    ILLEGAL_FUNCTION,
    DeviceIdentity,
    ModbusClient,
    OpenDevice,
    Refusal,
    UnknownRequest,
    exception,
    server_protocol,
)
from devices.registers import MemoryFiles, RegisterBank, Table

pytestmark = pytest.mark.realtime

IDENTITY = DeviceIdentity("Example Works", "PLC-7", "2.4")


@dataclass(frozen=True)
class Bench:
    """A device being served on loopback."""

    device: OpenDevice
    port: int


@asynccontextmanager
async def bench(
    unit_ids: frozenset[int] | None = None, unknown_unit: int | None = None
) -> AsyncIterator[Bench]:
    bank = RegisterBank()
    bank.define(Table.COIL, 0, 16)
    bank.define(Table.DISCRETE, 0, values=[1, 0, 1])
    bank.define(Table.INPUT, 0, values=[7, 8, 9])
    bank.define(Table.HOLDING, 0, values=[10, 11, 12, 13])
    device = OpenDevice(bank, IDENTITY, MemoryFiles({1: 100}), unit_ids)
    factory = server_protocol(device, unknown_unit=unknown_unit)
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
    try:
        yield Bench(device, server.sockets[0].getsockname()[1])
    finally:
        server.close()
        await server.wait_closed()


# ---------------------------------------------------------------------------------------------------------
# pymodbus


@asynccontextmanager
async def pymodbus_client(port: int) -> AsyncIterator[AsyncModbusTcpClient]:
    client = AsyncModbusTcpClient("127.0.0.1", port=port, retries=0)
    assert await client.connect()
    try:
        yield client
    finally:
        client.close()


async def test_pymodbus_client_reads_and_writes_our_device() -> None:
    async with bench() as ours, pymodbus_client(ours.port) as client:
        assert (await client.read_holding_registers(0, count=4)).registers == [10, 11, 12, 13]
        assert (await client.read_input_registers(0, count=3)).registers == [7, 8, 9]
        assert (await client.read_discrete_inputs(0, count=3)).bits[:3] == [True, False, True]
        await client.write_coil(3, True)
        await client.write_coils(4, [False, True, True])
        assert (await client.read_coils(3, count=4)).bits[:4] == [True, False, True, True]
        await client.write_register(0, 100)
        await client.write_registers(1, [101, 102])
        await client.mask_write_register(address=3, and_mask=0xFFF0, or_mask=0x0005)
        assert ours.device.bank.read(Table.HOLDING, 0, 4) == [100, 101, 102, 5]
        both = await client.readwrite_registers(read_address=0, read_count=2, write_address=1, values=[7])
        assert both.registers == [100, 7]


async def test_pymodbus_client_identifies_our_device() -> None:
    async with bench() as ours, pymodbus_client(ours.port) as client:
        described = await client.read_device_information(read_code=1, object_id=0)
        assert isinstance(described, ReadDeviceInformationResponse)
        assert described.information == {0: b"Example Works", 1: b"PLC-7", 2: b"2.4"}
        reported = await client.report_device_id()
        assert isinstance(reported, ReportDeviceIdResponse)
        assert (reported.identifier, reported.status) == (b"Example Works PLC-7 2.4", True)
        echoed = await client.diag_query_data(b"\x12\x34")
        assert isinstance(echoed, ReturnQueryDataResponse)
        assert echoed.message == b"\x12\x34"


async def test_pymodbus_client_moves_file_records_to_and_from_our_device() -> None:
    async with bench() as ours, pymodbus_client(ours.port) as client:
        record = FileRecord(file_number=1, record_number=5, record_data=b"\x00\x01\x00\x02\x00\x03")
        assert not (await client.write_file_record([record])).isError()
        assert ours.device.files.read(1, 5, 3) == [1, 2, 3]
        wanted = FileRecord(file_number=1, record_number=6, record_length=4)
        answer = await client.read_file_record([wanted])
        assert isinstance(answer, ReadFileRecordResponse)
        assert [part.record_data for part in answer.records] == [b"\x00\x02\x00\x03"]


async def test_pymodbus_client_gets_the_exceptions_of_our_device() -> None:
    async with bench() as ours, pymodbus_client(ours.port) as client:
        assert (await client.read_holding_registers(3, count=2)).exception_code == ILLEGAL_ADDRESS
        assert (await client.read_exception_status()).exception_code == ILLEGAL_FUNCTION
        assert (await client.read_holding_registers(0, count=1)).registers == [10]


@asynccontextmanager
async def pymodbus_server() -> AsyncIterator[ModbusClient]:
    """Our client, connected to pymodbus's stock server."""
    device = SimDevice(
        1,
        simdata=(
            [SimData(0, values=[False] * 16, datatype=DataType.BITS)],
            [SimData(0, values=[True, False] * 8, datatype=DataType.BITS)],
            [SimData(0, values=[10, 11, 12, 13], datatype=DataType.REGISTERS)],
            [SimData(0, values=[7, 8, 9], datatype=DataType.REGISTERS)],
        ),
    )
    server = ModbusTcpServer(device, address=("127.0.0.1", 0))
    await server.serve_forever(background=True)
    listening = server.transport
    assert isinstance(listening, asyncio.Server)
    client = ModbusClient("127.0.0.1", listening.sockets[0].getsockname()[1])
    try:
        yield client
    finally:
        client.close()
        await server.shutdown()  # type: ignore[no-untyped-call]  # pymodbus leaves it bare


async def test_our_client_reads_and_writes_pymodbus_server() -> None:
    async with pymodbus_server() as client:
        assert await client.read(Table.HOLDING, 0, 4) == [10, 11, 12, 13]
        assert await client.read(Table.INPUT, 0, 3) == [7, 8, 9]
        assert await client.read(Table.DISCRETE, 0, 5) == [1, 0, 1, 0, 1]
        assert await client.write(Table.COIL, 2, [1]) is None
        assert await client.write(Table.COIL, 4, [1, 1]) is None
        assert await client.read(Table.COIL, 0, 7) == [0, 0, 1, 0, 1, 1, 0]
        assert await client.write(Table.HOLDING, 0, [1]) is None
        assert await client.write(Table.HOLDING, 1, [2, 3]) is None
        assert await client.read(Table.HOLDING, 0, 4) == [1, 2, 3, 13]
        assert await client.read(Table.HOLDING, 200, 1) == Refusal(3, ILLEGAL_ADDRESS)


async def test_our_client_takes_a_wrong_function_in_pymodbus_answer_for_an_error() -> None:
    """To a function it does not know, pymodbus's server sends an exception of function 0."""
    async with pymodbus_server() as client:
        with pytest.raises(ConnectionError, match="makes no sense: 8001"):
            await client.request(UnknownRequest(99, b""))
    async with bench() as ours:
        client = ModbusClient("127.0.0.1", ours.port)
        answer = await client.request(UnknownRequest(99, b""))
        assert answer.encode() == exception(UnknownRequest(99, b""), ILLEGAL_FUNCTION).encode()
        client.close()


# ---------------------------------------------------------------------------------------------------------
# Programs that share no code with pymodbus


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


async def run(*command: str) -> tuple[int, str]:
    """Run a program to its end; return its exit status and all that it printed."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, output.decode()


async def mbpoll(port: int, *options: str, write: tuple[str, ...] = ()) -> tuple[int, str]:
    return await run(
        program("mbpoll"), "-m", "tcp", "-p", str(port), "-a", "1", "-0", "-1", *options, "127.0.0.1", *write
    )


async def test_mbpoll_reads_and_writes() -> None:
    async with bench() as ours:
        status, text = await mbpoll(ours.port, "-t", "4", "-r", "0", "-c", "4")
        assert status == 0
        assert [line.split()[-1] for line in text.splitlines() if line.startswith("[")] == [
            "10",
            "11",
            "12",
            "13",
        ]
        assert (await mbpoll(ours.port, "-t", "4", "-r", "1", write=("4321", "5")))[0] == 0
        assert (await mbpoll(ours.port, "-t", "4", "-r", "0", write=("77",)))[0] == 0
        assert ours.device.bank.read(Table.HOLDING, 0, 4) == [77, 4321, 5, 13]
        assert (await mbpoll(ours.port, "-t", "0", "-r", "0", write=("1", "0", "1")))[0] == 0
        assert (await mbpoll(ours.port, "-t", "0", "-r", "4", write=("1",)))[0] == 0
        assert ours.device.bank.read(Table.COIL, 0, 5) == [1, 0, 1, 0, 1]


async def test_mbpoll_names_the_exception() -> None:
    async with bench() as ours:
        status, text = await mbpoll(ours.port, "-t", "4", "-r", "9")
        assert status != 0
        assert "Illegal data address" in text


async def nmap_discover(port: int, *options: str) -> str:
    # The plus sign makes nmap run the script on a port other than 502.
    status, text = await run(
        program("nmap"), "-Pn", "-p", str(port), "--script", "+modbus-discover", *options, "127.0.0.1"
    )
    assert status == 0
    return text


async def test_nmap_discovers_the_device() -> None:
    async with bench() as ours:
        text = await nmap_discover(ours.port)
    assert "Slave ID data: Example Works PLC-7 2.4" in text
    assert "Device identification: Example Works PLC-7 2.4" in text


async def test_nmap_finds_the_units_behind_a_gateway_and_no_others() -> None:
    async with bench(frozenset({2, 40}), unknown_unit=GATEWAY_NO_RESPONSE) as ours:
        text = await nmap_discover(ours.port, "--script-args", "modbus-discover.aggressive=true")
    described = text.split("sid ")[1:]
    units = [int(part.split(":")[0], 16) for part in described if "Device identification: Example" in part]
    assert units == [2, 40]


async def test_modbus_cli_sends_all_its_requests_before_it_reads() -> None:
    if importlib.util.find_spec("modbus_cli") is None:
        pytest.skip("modbus-cli is not installed")
    start = "import sys; from modbus import main; sys.exit(main())"
    async with bench() as ours:
        status, text = await run(
            sys.executable, "-c", start, f"127.0.0.1:{ours.port}", "-s", "1", "h@0", "h@2/H", "i@0", "c@0"
        )
    assert status == 0, text
    assert sorted(line for line in text.splitlines() if line[0].isdigit()) == [
        "0: 0 0x0",
        "0: 10 0xa",
        "0: 7 0x7",
        "2: 12 0xc",
    ]


async def test_pymodbustcp_reads_writes_and_identifies() -> None:
    if importlib.util.find_spec("pyModbusTCP") is None:
        pytest.skip("pyModbusTCP is not installed")
    script = """
import sys
from pyModbusTCP.client import ModbusClient
client = ModbusClient("127.0.0.1", int(sys.argv[1]), unit_id=1)
print(client.read_holding_registers(0, 3))
print(client.write_multiple_registers(1, [5, 6]), client.write_single_coil(2, True))
print(client.read_coils(0, 4))
print(client.read_device_identification(1, 0).vendor_name)
print(client.read_holding_registers(9, 1), client.last_except)
client.close()
"""
    async with bench() as ours:
        status, text = await run(sys.executable, "-c", script, str(ours.port))
        assert ours.device.bank.read(Table.HOLDING, 0, 4) == [10, 5, 6, 13]
    assert status == 0, text
    assert text.splitlines() == [
        "[10, 11, 12]",
        "True True",
        "[False, False, True, False]",
        "b'Example Works'",
        "None 2",
    ]
