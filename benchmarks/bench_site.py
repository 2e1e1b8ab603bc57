"""The whole reference site: simulated seconds per second of processor time, and what setting up a run costs.

    python benchmarks/bench_site.py

Processor time, not wall time, so that a busy machine changes the figures less; one process, one core. The floor is
what SimPy alone takes for as many events, and what pymodbus's codec alone takes for as many transactions, in the same
process: what is above both is this project's devices, network, plant and OPC UA.
"""

from __future__ import annotations

import gc
from time import process_time

import simpy

from controls.catalogue import SecurityLevels
from devices import modbus
from scenarios.experiment import Experiment, prepare, run

SECONDS = 1200.0


def site() -> None:
    first = process_time()
    prepare(Experiment.at_level("water", SecurityLevels.uniform(4), None, 1, 60))[0].close()
    first = process_time() - first
    run(
        Experiment.at_level("water", SecurityLevels.uniform(4), None, 1, 60)
    )  # certificates, address space, programs
    print(f"set-up of the first run in a process       {first * 1e3:8.1f} ms")
    for level in range(5):
        experiment = Experiment.at_level("water", SecurityLevels.uniform(level), None, 1, SECONDS)
        begun = process_time()
        world, _ = prepare(experiment)
        world.close()
        set_up = process_time() - begun
        gc.collect()
        begun = process_time()
        run(experiment)
        took = process_time() - begun
        print(
            f"SL {level}: {SECONDS / took:7.0f} simulated s per s; set-up of a further run {set_up * 1e3:6.1f} ms"
        )


def counted() -> tuple[int, int]:
    """Events and Modbus transactions of one run at SL 0."""
    experiment = Experiment.at_level("water", SecurityLevels.uniform(0), None, 1, SECONDS)
    transactions = 0
    plain = modbus.parse_request

    def counting(pdu: bytes) -> object:
        nonlocal transactions
        transactions += 1
        return plain(pdu)

    world, _ = prepare(experiment)
    modbus.parse_request = counting  # type: ignore[assignment]
    try:
        world.start()
        world.loop.run_to(SECONDS)
    finally:
        modbus.parse_request = plain
    events = next(world.loop.env._eid)
    world.close()
    return events, transactions


def floor(events: int, transactions: int) -> None:
    environment = simpy.Environment()

    def ticking():  # type: ignore[no-untyped-def]
        while True:
            yield environment.timeout(1.0)

    for _ in range(50):
        environment.process(ticking())
    begun = process_time()
    environment.run(until=events / 50)
    simpy_time = process_time() - begun
    begun = process_time()
    codec(transactions)
    codec_time = process_time() - begun
    total = simpy_time + codec_time
    rates = f"{events / SECONDS:.0f} events and {transactions / SECONDS:.1f} transactions a simulated second"
    print(f"floor at SL 0 ({rates}): SimPy {simpy_time:.2f} s + codec {codec_time:.2f} s")
    print(f"floor: {SECONDS / total:6.0f} simulated s per s")


def codec(transactions: int) -> None:
    """Encode and decode a read of four registers and its answer, as often as asked, with pymodbus alone."""
    from pymodbus.framer import FRAMER_NAME_TO_CLASS, FramerType
    from pymodbus.pdu import DecodePDU
    from pymodbus.pdu.register_message import ReadInputRegistersRequest, ReadInputRegistersResponse

    server = FRAMER_NAME_TO_CLASS[FramerType.SOCKET](DecodePDU(True))
    client = FRAMER_NAME_TO_CLASS[FramerType.SOCKET](DecodePDU(False))
    for number in range(transactions):
        request = ReadInputRegistersRequest(address=0, count=4, dev_id=1, transaction_id=number & 0xFFFF)
        server.handleFrame(client.buildFrame(request), 0, 0)
        answer = ReadInputRegistersResponse(registers=[1, 2, 3, 4], dev_id=1, transaction_id=number & 0xFFFF)
        client.handleFrame(server.buildFrame(answer), 0, 0)


if __name__ == "__main__":
    site()
    floor(*counted())
