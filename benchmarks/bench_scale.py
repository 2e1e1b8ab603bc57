"""Cost of a Modbus transaction through the whole network as the site grows from 1 to 1,000 PLCs.

python benchmarks/bench_scale.py
"""

from __future__ import annotations

import gc
from time import process_time

from devices.modbus import DeviceIdentity, ModbusClient, OpenDevice, server_protocol
from devices.registers import RegisterBank, Table
from testbed.clock import SimLoop
from testbed.network import Network

TRANSACTIONS = 20_000


def cost(plcs: int) -> float:
    """Microseconds of processor time per read of 20 registers, one station polling ``plcs`` PLCs."""
    loop = SimLoop()
    network = Network(loop)
    network.zone("operations", "10.1.0.0/16")
    network.zone("control", "10.2.0.0/16")
    network.conduit("between", "operations", "control")
    station = network.host("hmi", "operations", "10.1.0.5")
    identity = DeviceIdentity("OT Lab", "bench", "1")

    async def serve() -> None:
        bank = RegisterBank()
        bank.define(Table.INPUT, 0, 20)
        await loop.create_server(server_protocol(OpenDevice(bank, identity)), None, 502)

    async def poll(address: str, times: int) -> None:
        client = ModbusClient(address)
        for _ in range(times):
            await client.read(Table.INPUT, 0, 20)

    for number in range(plcs):
        host = network.host(f"plc{number}", "control", f"10.2.{number // 200}.{number % 200 + 10}")
        host.spawn(serve())
    loop.run_to(0.5)
    each = TRANSACTIONS // plcs
    for number in range(plcs):
        station.spawn(poll(network.hosts[f"plc{number}"].address, each))
    gc.collect()
    gc.disable()  # as every run does
    begun = process_time()
    loop.run_to(3600.0)
    took = process_time() - begun
    gc.enable()
    loop.close()
    return took / (each * plcs) * 1e6


if __name__ == "__main__":
    cost(1)
    base = cost(1)
    for plcs in (1, 10, 100, 1000):
        found = cost(plcs)
        print(f"{plcs:5} PLCs: {found:6.1f} us per transaction, {found / base:4.2f} of one PLC's")
