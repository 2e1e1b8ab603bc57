"""Cost of OPC UA on the virtual loop: setting a server up, connecting, reading, writing, subscribing.

Everything crosses the in-memory network, so the numbers are what a run pays: client, network and server together.
Processor time, because campaigns keep every core busy.

    python benchmarks/bench_opcua.py [simulated seconds] [--profile]
"""

from __future__ import annotations

import cProfile
import pstats
import random
import sys
import time
from collections.abc import Coroutine
from typing import Any

from devices.opcua import SECURITY, PlantServer, UaClient, UaTag, make_certificate
from testbed.clock import SimLoop
from testbed.network import Host, Network

TAGS = tuple(
    UaTag(f"LIT{number}", f"plc{number % 3}", "float", "m", number % 3 == 0, 0.0, 10.0, "level")
    for number in range(30)
)
CHANGING = 10
READ = tuple(tag.name for tag in TAGS[:20])


async def accept(_tag: UaTag, _value: float) -> bool:
    return True


class World:
    """One server and one client host; ``do`` runs a program of the client to its end."""

    def __init__(self, security: tuple[str, ...] = ("None",)) -> None:
        start = time.process_time()
        self.loop = SimLoop()
        network = Network(self.loop)
        network.zone("dmz", "10.0.0.0/24")
        self.server_host: Host = network.host("server", "dmz", "10.0.0.2")
        self.client_host: Host = network.host("client", "dmz", "10.0.0.3")
        self.server = PlantServer(self.server_host, TAGS, accept, security=security)
        self.server_host.spawn(self.server.start())
        for tag in TAGS:
            self.server.update(tag.name, 5.0)
        self.loop.run_to(0.001)
        self.setup = time.process_time() - start

    def do(self, program: Coroutine[Any, Any, Any], most: float = 1e6) -> float:
        """Return the seconds it took."""
        task = self.client_host.spawn(program)
        start = time.process_time()
        while not task.done() and self.loop.env.peek() <= most:
            self.loop.env.step()
        return time.process_time() - start

    def feed(self, seconds: int) -> float:
        """Let ``CHANGING`` tags change each second; return what a simulated second took in the best round of 20."""
        rounds = []
        for _ in range(seconds // 20):
            begin = self.loop.time()
            start = time.process_time()
            for second in range(20):
                for number in range(CHANGING):
                    self.server.update(TAGS[(second + number) % len(TAGS)].name, 5.0 + second % 7 * 0.1)
                self.loop.run_to(begin + second + 1)
            rounds.append((time.process_time() - start) / 20)
        return min(rounds)


def client_of(security: str | None) -> UaClient:
    if security is None:
        return UaClient("opc.tcp://10.0.0.2:4840")
    certificate, key = make_certificate("client", "urn:client:opcua", random.Random(0))
    return UaClient("opc.tcp://10.0.0.2:4840", security=security, certificate=certificate, key=key)


def measure(security: str | None, seconds: int, profile: cProfile.Profile | None) -> None:
    name = security or "None"
    world = World((name,))
    client = client_of(security)

    async def many(count: int) -> None:
        for _ in range(count):
            await client.read_many(READ)

    async def writes(count: int) -> None:
        for number in range(count):
            await client.write("LIT0", float(number))

    async def subscribe(target: UaClient) -> None:
        await target.connect()
        await target.subscribe([tag.name for tag in TAGS], 1.0, lambda *_: None)

    print(f"{name}")
    print(f"  connect                    {world.do(client.connect()) * 1e3:8.2f} ms")
    world.do(many(50))
    print(f"  read of {len(READ)} nodes           {world.do(many(500)) / 500 * 1e3:8.3f} ms")
    print(f"  write                      {world.do(writes(500)) / 500 * 1e3:8.3f} ms")
    world.do(client.disconnect())
    silent = world.feed(seconds)
    readers = [client_of(security) for _ in range(3)]
    world.do(subscribe(readers[0]))
    if profile is not None:
        profile.enable()
    one = world.feed(seconds)
    if profile is not None:
        profile.disable()
    for reader in readers[1:]:
        world.do(subscribe(reader))
    three = world.feed(seconds)
    print(f"  per simulated second, {CHANGING} of {len(TAGS)} tags changing")
    print(f"    nobody subscribed        {silent * 1e3:8.3f} ms")
    print(f"    first subscriber adds    {(one - silent) * 1e3:8.3f} ms")
    print(f"    each further one         {(three - one) / 2 * 1e3:8.3f} ms")


def main() -> None:
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    seconds = numbers[0] if numbers else 500
    profile = cProfile.Profile() if "--profile" in sys.argv else None
    print(f"set-up, first in the process {World().setup * 1e3:8.1f} ms")
    print(f"set-up, later                {min(World().setup for _ in range(5)) * 1e3:8.1f} ms")
    world = World()
    server, names = world.server, [tag.name for tag in TAGS]
    start = time.process_time()
    for number in range(300_000 // len(names)):
        for name in names:
            server.update(name, 5.0 + number % 2)
    changed = time.process_time() - start
    start = time.process_time()
    for _ in range(300_000 // len(names)):
        for name in names:
            server.update(name, 5.0)
    same = time.process_time() - start
    print(f"update, nobody subscribed    {changed / 0.3:8.2f} us  (unchanged value {same / 0.3:.2f} us)")
    measure(None, seconds, profile)
    measure(SECURITY[-1], seconds, None)
    if profile is not None:
        pstats.Stats(profile).sort_stats("tottime").print_stats(40)


if __name__ == "__main__":
    main()
