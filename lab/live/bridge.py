"""An attachment point's far side: a laptop in a zone of the in-memory network, and the connections that it opens.

``zone:asset:port=host:port`` puts a laptop into the zone and has whatever connects to the loopback address reach the
asset's port from there. Its bytes cross the same conduits, firewalls and monitors as everybody's.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from devices.world import World
from testbed.errors import OtlabError, UnknownNameError
from testbed.network import Host

_SYNTAX: Final = re.compile(r"([^:=\s]+):([^:=\s]+):(\d{1,5})=(\[::1\]|[^:=\s\[\]]+):(\d{1,5})", re.ASCII)
#: Bytes that may wait for the connection inside before a tool that sends on is cut off.
MOST_WAITING: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Attachment:
    """From a laptop in ``zone`` to ``port`` of ``target`` (an asset or an address), entered at a loopback address."""

    zone: str
    target: str
    port: int
    host: str = "127.0.0.1"
    listens: int = 0

    @classmethod
    def parse(cls, text: str) -> Attachment:
        """Read ``dmz:plc1:502=127.0.0.1:15020``; OtlabError that says what is wrong."""
        found = _SYNTAX.fullmatch(text)
        if found is None:
            raise OtlabError(f"{text!r} is no attachment; write ZONE:ASSET:PORT=127.0.0.1:PORT")
        zone, target, port, host, listens = found.groups()
        for number in (port, listens):
            if int(number) > 65_535:
                raise OtlabError(f"{text!r}: there is no port {number}")
        return cls(zone, target, int(port), host.strip("[]"), int(listens))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.zone}:{self.target}:{self.port}={host}:{self.listens}"

    @property
    def laptop(self) -> str:
        """Name of the laptop; attachments of one zone share it."""
        return f"laptop-{self.zone}"


def plug_in(world: World, attachments: tuple[Attachment, ...]) -> None:
    """Put the laptops into their zones; OtlabError for a zone or target that the site lacks."""
    for one in attachments:
        if one.zone not in world.network.zones:
            raise UnknownNameError("zone", one.zone, world.network.zones)
        address_of(world, one)
        if one.laptop not in world.network.hosts:
            world.network.host(one.laptop, one.zone, world.network.zones[one.zone].free_address())


def address_of(world: World, attachment: Attachment) -> str:
    """The simulated address behind an attachment; OtlabError for neither an asset nor an address."""
    host = world.network.hosts.get(attachment.target)
    if host is not None:
        return host.address
    try:
        return str(IPv4Address(attachment.target))
    except ValueError:
        raise UnknownNameError("asset", attachment.target, world.site.assets) from None


class Bridge(asyncio.Protocol):
    """One connection of the laptop's; ``outlet`` gets what comes back, and None when that is all."""

    def __init__(self, outlet: Callable[[bytes | None], None]) -> None:
        self.outlet = outlet
        self.transport: asyncio.Transport | None = None
        self.over = False
        self.sent = self.received = 0
        self._early: list[bytes] = []
        self._ended = False

    async def open(self, host: Host, address: str, port: int) -> str | None:
        """Connect, as a program of ``host``; None, or why it came to nothing."""
        try:
            await host.network.loop.create_connection(lambda: self, address, port)
        except OSError as error:
            self._close()
            return error.strerror or str(error)
        return None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self.over:  # the tool has left meanwhile
            transport.abort()
            return
        for data in self._early:
            transport.write(data)
        self._early.clear()
        if self._ended:
            transport.write_eof()

    def send(self, data: bytes) -> None:
        """Bytes from outside."""
        if self.over or self._ended:
            return
        self.sent += len(data)
        if self.transport is not None:
            self.transport.write(data)
        elif sum(map(len, self._early)) + len(data) <= MOST_WAITING:
            self._early.append(data)
        else:
            self.leave()

    def end(self) -> None:
        """Nothing more comes from outside."""
        if not self._ended and not self.over:
            self._ended = True
            if self.transport is not None:
                self.transport.write_eof()

    def leave(self) -> None:
        """The tool is gone."""
        if self.transport is not None:
            self.transport.abort()
        self._close()

    @property
    def waiting(self) -> int:
        """Bytes that the network inside has not taken yet."""
        return self.transport.get_write_buffer_size() if self.transport is not None else 0

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if not self.over:
            self.outlet(data)

    def eof_received(self) -> bool:
        return False  # no tool of the field goes on sending to a device that has closed

    def connection_lost(self, exc: Exception | None) -> None:
        self._close()

    def _close(self) -> None:
        if not self.over:
            self.over = True
            self._early.clear()
            self.outlet(None)
