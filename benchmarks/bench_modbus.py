"""Cost of one Modbus/TCP transaction: a client's read of 20 registers answered by a device's memory.

Client and server protocol face each other over a pair of in-memory transports on one asyncio loop, so that what
is measured is the protocol and not the kernel. The floor is what pymodbus's framer and PDU classes alone take
for the same transaction, both sides, measured in the same run: the ratio is what carries to other machines.

    python benchmarks/bench_modbus.py [transactions] [--profile]
"""

from __future__ import annotations

import asyncio
import cProfile
import pstats
import sys
import time
from collections.abc import Callable

from pymodbus.framer import FramerSocket
from pymodbus.pdu import DecodePDU
from pymodbus.pdu.register_message import ReadHoldingRegistersRequest, ReadHoldingRegistersResponse

from devices.modbus import DeviceIdentity, ModbusClient, OpenDevice, RegisterBank, Table, server_protocol

REGISTERS = 20
ROUNDS = 5


class Cable(asyncio.Transport):
    """One end of a pair: what is written arrives at the other end in the loop's next turn."""

    other: Cable

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self._loop, self._protocol = loop, protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._loop.call_soon(self.other._protocol.data_received, bytes(data))

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        self._loop.call_soon(self._protocol.connection_lost, None)


class CableLoop(asyncio.SelectorEventLoop):
    """The ordinary loop, whose every connection is a cable to one server."""

    serve: Callable[[], asyncio.Protocol]

    async def create_connection(  # type: ignore[override]
        self, factory: Callable[[], asyncio.Protocol], *_: object, **__: object
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        client, server = factory(), self.serve()
        near, far = Cable(self, client), Cable(self, server)
        near.other, far.other = far, near
        server.connection_made(far)
        client.connection_made(near)
        return near, client


def floor(transactions: int) -> float:
    """Return seconds that pymodbus's codec takes for ``transactions``."""
    server, client = FramerSocket(DecodePDU(is_server=True)), FramerSocket(DecodePDU(is_server=False))
    values = list(range(REGISTERS))
    start = time.perf_counter()
    for number in range(transactions):
        tid = number & 0xFFFF
        request = ReadHoldingRegistersRequest(address=0, count=REGISTERS, dev_id=1, transaction_id=tid)
        server.handleFrame(client.buildFrame(request), 0, 0)
        response = ReadHoldingRegistersResponse(registers=values, dev_id=1, transaction_id=tid)
        client.handleFrame(server.buildFrame(response), 0, 0)
    return time.perf_counter() - start


async def poll(client: ModbusClient, transactions: int) -> float:
    """Return seconds of ``transactions`` reads, each awaited before the next."""
    start = time.perf_counter()
    for _ in range(transactions):
        await client.read(Table.HOLDING, 0, REGISTERS)
    return time.perf_counter() - start


async def flood(client: ModbusClient, transactions: int) -> float:
    """Return seconds of ``transactions`` reads, 50 in flight at a time."""
    start = time.perf_counter()
    for _ in range(transactions // 50):
        await asyncio.gather(*(client.read(Table.HOLDING, 0, REGISTERS) for _ in range(50)))
    return time.perf_counter() - start


def main() -> None:
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    transactions = numbers[0] if numbers else 10_000
    bank = RegisterBank()
    bank.define(Table.HOLDING, 0, values=list(range(1000, 1000 + REGISTERS)))
    loop = CableLoop()
    loop.serve = server_protocol(OpenDevice(bank, DeviceIdentity("Example", "PLC", "1.0")))
    client = ModbusClient("plc")
    loop.run_until_complete(client.connect())
    rows: dict[str, list[float]] = {"codec floor": [], "one by one": [], "50 in flight": []}
    for _ in range(ROUNDS):  # interleaved, so that a busy moment of the machine meets all three
        rows["codec floor"].append(floor(transactions))
        rows["one by one"].append(loop.run_until_complete(poll(client, transactions)))
        rows["50 in flight"].append(loop.run_until_complete(flood(client, transactions)))
    base = min(rows["codec floor"])
    print(f"read of {REGISTERS} registers, best of {ROUNDS} rounds of {transactions} transactions")
    for name, seconds in rows.items():
        best = min(seconds)
        print(f"{name:>14} {best / transactions * 1e6:7.1f} us/transaction {best / base:6.2f} x floor")
    if "--profile" in sys.argv:
        profile = cProfile.Profile()
        profile.enable()
        loop.run_until_complete(poll(client, transactions))
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(22)
    client.close()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


if __name__ == "__main__":
    main()
