"""Cost of the in-memory network: one request and its response between two hosts in two zones, over three links.

Client and server are bare protocols that answer 12 bytes with 29 (a Modbus read of ten registers), so that what is
measured is the network and the loop. ``asyncio`` is the floor: the same two protocols on the ordinary event loop, over
a loopback socket of the operating system; the ratio is what carries to other machines.

    python benchmarks/bench_network.py [exchanges] [--profile]
"""

from __future__ import annotations

import asyncio
import cProfile
import pstats
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from testbed.capture import Capture
from testbed.clock import SimLoop
from testbed.firewall import AllowList, Rule
from testbed.network import Network

ROUNDS = 5
REQUEST, RESPONSE = bytes(12), bytes(29)
PORT = 502


class Server(asyncio.Protocol):
    """Answers whatever comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(RESPONSE)


class Client(asyncio.Protocol):
    """Asks again as soon as it has its answer, so many times."""

    def __init__(self, exchanges: int, done: asyncio.Future[None]) -> None:
        self.left, self.done = exchanges, done

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        self.left -= 1
        if self.left:
            self.transport.write(REQUEST)
        else:
            self.done.set_result(None)


async def exchange(host: str, port: int, exchanges: int) -> float:
    """Return seconds of ``exchanges``, each begun when the last has ended."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    transport, _ = await loop.create_connection(lambda: Client(exchanges, done), host, port)
    start = time.perf_counter()
    await done
    seconds = time.perf_counter() - start
    transport.close()
    return seconds


def simulated(exchanges: int, equip: Callable[[Network], Callable[[], None] | None]) -> float:
    loop = SimLoop()
    network = Network(loop)
    network.zone("operations", "10.0.2.0/24")
    network.zone("control", "10.0.3.0/24")
    network.conduit("operations-control", "operations", "control")
    hmi = network.host("hmi", "operations", "10.0.2.10")
    plc = network.host("plc", "control", "10.0.3.10")
    finish = equip(network)

    async def serve() -> None:
        await loop.create_server(Server, None, PORT)

    plc.spawn(serve())
    task = hmi.spawn(exchange("plc", PORT, exchanges))
    loop.run_to(1e9)
    loop.close()
    if finish is not None:
        finish()
    return float(task.result())


def loopback(exchanges: int) -> float:
    async def both() -> float:
        server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
        async with server:
            return await exchange("127.0.0.1", server.sockets[0].getsockname()[1], exchanges)

    return asyncio.run(both())


def plain(_: Network) -> None:
    """No policies, no taps."""


def policed(network: Network) -> None:
    """An allow-list on the conduit."""
    allow = AllowList([Rule("hmi", "plc", "tcp", PORT)])
    network.conduits["operations-control"].add_policy("allow", allow)


def tapped(network: Network) -> None:
    """A tap on one zone that does nothing; acknowledgments are then shown, so it sees four packets an exchange."""
    network.zones["control"].add_tap(lambda link, packet: None)


def captured(network: Network) -> Callable[[], None]:
    """Everything written to a file."""
    folder = tempfile.TemporaryDirectory()
    capture = Capture(Path(folder.name) / "bench.pcapng", network.loop.epoch)
    capture.attach(network)

    def finish() -> None:
        capture.close()
        folder.cleanup()

    return finish


def main() -> None:
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    exchanges = numbers[0] if numbers else 20_000
    kinds: dict[str, Callable[[int], float]] = {
        "loopback sockets": loopback,
        "plain": lambda n: simulated(n, plain),
        "with a policy": lambda n: simulated(n, policed),
        "with a tap": lambda n: simulated(n, tapped),
        "with a capture": lambda n: simulated(n, captured),
    }
    best = dict.fromkeys(kinds, float("inf"))
    for _ in range(ROUNDS):  # interleaved, so that a busy moment of the machine meets all of them
        for name, run in kinds.items():
            best[name] = min(best[name], run(exchanges))
    print(f"request and response over three links, best of {ROUNDS} rounds of {exchanges}")
    base = best["loopback sockets"]
    for name, seconds in best.items():
        each = seconds / exchanges * 1e6
        print(
            f"{name:>17} {each:7.2f} us/exchange {each / 2:7.2f} us/segment {seconds / base:6.2f} x sockets"
        )
    if "--profile" in sys.argv:
        profile = cProfile.Profile()
        profile.enable()
        simulated(exchanges, plain)
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(18)


if __name__ == "__main__":
    main()
