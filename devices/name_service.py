"""Names of devices: a name server, and a station's resolver, in the bytes of the Domain Name System (RFC 1035).

A station finds its controllers by name. Where the name server stands is the site's choice; as so often, that is the
office network, whose administrators run one already.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Final

from testbed.clock import Life
from testbed.network import Host

PORT: Final = 53
#: RFC 1035, 4.1.1: a response, authoritative, and its code for a name that does not exist.
_RESPONSE, _NO_SUCH_NAME = 0x8400, 3
_HEADER = struct.Struct(">HHHHHH")
_QUESTION = struct.Struct(">HH")
#: name (a pointer to the question's, offset 12), type A, class IN, time to live, four bytes of data
_ANSWER = struct.Struct(">HHHIH")
_A, _IN = 1, 1
_LABEL: Final = 63


class NameNotFound(OSError):
    """No name server told the address of a name."""


def query(number: int, name: str) -> bytes:
    """A question for the address of ``name``; ValueError for a name that is none."""
    labels = name.encode("ascii").split(b".")
    if not all(0 < len(label) <= _LABEL for label in labels):
        raise ValueError(f"{name!r} is no name")
    wire = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    return _HEADER.pack(number, 0x0100, 1, 0, 0, 0) + wire + _QUESTION.pack(_A, _IN)


def question(data: bytes) -> tuple[int, str, bytes]:
    """Number, name and the whole question part of a query; ValueError for what is none."""
    if len(data) < _HEADER.size:
        raise ValueError("shorter than a header")
    number, flags, questions, *_ = _HEADER.unpack_from(data)
    if flags & 0x8000 or questions != 1:
        raise ValueError("not one question")
    name, end = _name(data, _HEADER.size)
    if len(data) < end + _QUESTION.size or _QUESTION.unpack_from(data, end) != (_A, _IN):
        raise ValueError("not about an address")
    return number, name, data[_HEADER.size : end + _QUESTION.size]


def _name(data: bytes, at: int) -> tuple[str, int]:
    labels: list[str] = []
    while at < len(data) and data[at]:
        size = data[at]
        if size > _LABEL or at + 1 + size > len(data):
            raise ValueError("a label that does not fit")
        labels.append(data[at + 1 : at + 1 + size].decode("ascii", "replace"))
        at += 1 + size
    if at >= len(data) or not labels:
        raise ValueError("a name without an end")
    return ".".join(labels).lower(), at + 1


def answer(data: bytes, names: Mapping[str, str], lifetime: int) -> bytes | None:
    """The response to a query: the address of a known name, "no such name" for others, None for what is no query."""
    try:
        number, name, asked = question(data)
    except ValueError:
        return None
    address = names.get(name)
    if address is None:
        return _HEADER.pack(number, _RESPONSE | _NO_SUCH_NAME, 1, 0, 0, 0) + asked
    record = _ANSWER.pack(0xC00C, _A, _IN, lifetime, 4) + IPv4Address(address).packed
    return _HEADER.pack(number, _RESPONSE, 1, 1, 0, 0) + asked + record


def reading(data: bytes, number: int) -> tuple[str, int] | None:
    """Address and lifetime (s) in a response to query ``number``; None for any other response. ValueError for noise."""
    if len(data) < _HEADER.size:
        raise ValueError("shorter than a header")
    got, flags, questions, answers, *_ = _HEADER.unpack_from(data)
    if got != number or not flags & 0x8000 or questions != 1:
        raise ValueError("not an answer to this")
    _, end = _name(data, _HEADER.size)
    at = end + _QUESTION.size
    if flags & 0xF or not answers:
        return None
    if len(data) < at + _ANSWER.size + 4:
        raise ValueError("an answer cut off")
    _, kind, family, lifetime, size = _ANSWER.unpack_from(data, at)
    if (kind, family, size) != (_A, _IN, 4):
        return None
    return str(IPv4Address(data[at + _ANSWER.size : at + _ANSWER.size + 4])), lifetime


class NameServer(asyncio.DatagramProtocol):
    """Knows ``names``; answers stay good for ``lifetime`` s."""

    def __init__(
        self, host: Host, name: str, names: Mapping[str, str], lifetime: float, port: int = PORT
    ) -> None:
        self.host, self.name, self.names, self.port = host, name, names, port
        self.lifetime = int(lifetime)
        self.answered = 0
        self._transport: asyncio.DatagramTransport | None = None

    def start(self) -> None:
        """Begin to answer; again after the host has lost and regained power."""
        self.host.spawn(self._listen(), "name server")

    async def _listen(self) -> None:
        await self.host.network.loop.create_datagram_endpoint(
            lambda: self, local_addr=(self.host.address, self.port)
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.DatagramTransport)
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        response = answer(data, self.names, self.lifetime)
        if response is not None and self._transport is not None:
            self.answered += 1
            self._transport.sendto(response, addr)


@dataclass(slots=True)
class Resolver:
    """How one station finds devices: it asks ``servers`` in turn, and remembers answers for their lifetime.

    Each is asked ``tries`` times, ``timeout`` s apart. What a station knew it forgets when it is switched off.
    """

    host: Host
    servers: Sequence[tuple[str, int]]
    stream: random.Random
    timeout: float = 1.0
    tries: int = 2
    _known: dict[str, tuple[str, float]] = field(default_factory=dict)
    _life: Life | None = None

    async def lookup(self, name: str) -> str:
        """Address of ``name``; an OSError if nobody tells it."""
        loop = self.host.network.loop
        if self._life is not self.host.life:
            self._life = self.host.life
            self._known.clear()
        known = self._known.get(name)
        if known is not None and loop.time() < known[1]:
            return known[0]
        for server in self.servers:
            for _ in range(self.tries):
                found = await self._ask(server, name)
                if found is not None:
                    self._known[name] = (found[0], loop.time() + found[1])
                    return found[0]
        raise NameNotFound(f"no name server tells the address of {name!r}")

    async def _ask(self, server: tuple[str, int], name: str) -> tuple[str, int] | None:
        loop = self.host.network.loop
        number = self.stream.getrandbits(16)
        reply: asyncio.Future[tuple[str, int] | None] = loop.create_future()

        class Asking(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
                try:
                    found = reading(data, number)
                except ValueError:
                    return
                if not reply.done():
                    reply.set_result(found)

        transport, _ = await loop.create_datagram_endpoint(Asking, remote_addr=server)
        assert isinstance(transport, asyncio.DatagramTransport)
        try:
            transport.sendto(query(number, name))
            async with asyncio.timeout(self.timeout):
                return await reply
        except TimeoutError:
            return None
        finally:
            transport.close()
