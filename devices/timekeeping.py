"""Clocks of devices, which drift, and how they are kept together: a time server and its clients (RFC 5905).

A device reads its clock and nothing else; what it shows is local civil time in seconds since 1970 (UTC), right only
as far as somebody set it. On the wire are the 48 bytes of NTP version 4, in the simple client's way of RFC 5905
section 14, with the AES-CMAC code of RFC 8573 behind them where a key is set.
"""

from __future__ import annotations

import asyncio
import hmac
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

from devices.audit import Audit
from testbed.network import Host

#: UDP port of NTP (RFC 5905).
PORT = 123
#: Seconds from NTP's epoch, 1900, to 1970 (RFC 5905, figure 4).
SINCE_1900 = 2_208_988_800
#: Bytes of a header, and of a key's number with its code behind it (RFC 5905 section 7.3, RFC 8573 section 3).
HEADER, CODE = 48, 16
#: A change larger than this is a step and not an adjustment (s; STEPT of RFC 5905).
STEP = 0.128
#: Where a header has the server's reference, receive and transmit times (bytes from its start).
STAMPS = (16, 32, 40)
_HEADER = struct.Struct(">BBbb3I4Q")
_KEY_ID = struct.Struct(">I")
_CLIENT, _SERVER = 3, 4
#: Version 4, no warning of a leap second.
_VERSION = 4 << 3
#: The shortest poll interval that a client keeps to once it runs (s; MINPOLL of RFC 5905 is 16 s, the usual 64 s).
SHORTEST_POLL = 64.0


class Clock:
    """A device's clock: ``clock()`` is the local civil time that it shows, in s since 1970.

    It runs at ``1 + rate`` times the right speed and was ``offset`` s ahead when the run began.
    """

    __slots__ = ("_ahead", "_epoch", "_now", "_since", "rate")

    def __init__(
        self, now: Callable[[], float], epoch: float, rate: float = 0.0, offset: float = 0.0
    ) -> None:
        self._now, self._epoch, self.rate = now, epoch, rate
        self._ahead, self._since = offset, now()

    def __call__(self) -> float:
        now = self._now()
        return self._epoch + now + self._ahead + self.rate * (now - self._since)

    def adjust(self, seconds: float) -> None:
        """Set the clock forward by ``seconds``."""
        now = self._now()
        self._ahead += self.rate * (now - self._since) + seconds
        self._since = now


def drawn_clock(
    now: Callable[[], float], epoch: float, stream: random.Random, rate: tuple[float, float], since_set: float
) -> Clock:
    """A clock that was right ``since_set`` s ago and has drifted since, fast or slow, by a rate within ``rate``."""
    drift = stream.choice((-1.0, 1.0)) * stream.uniform(*rate)
    return Clock(now, epoch, drift, drift * since_set)


# -- the protocol ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TimePacket:
    """What a server's packet says: ``origin`` is the client's own number again, times in s since 1970."""

    mode: int
    stratum: int
    origin: int
    received: float
    sent: float
    transmit: int


def to_ntp(seconds: float) -> int:
    """64-bit NTP time stamp of a time in s since 1970; it wraps in 2036, as RFC 5905 has it."""
    return int((seconds + SINCE_1900) * 2**32) & 0xFFFF_FFFF_FFFF_FFFF


def from_ntp(stamp: int) -> float:
    """Seconds since 1970 of a 64-bit NTP time stamp of the era until 2036."""
    return stamp / 2**32 - SINCE_1900


def request(transmit: int) -> bytes:
    """A client's packet; ``transmit`` is a number that an answer has to repeat."""
    return _HEADER.pack(_VERSION | _CLIENT, 0, 6, 0, 0, 0, 0, 0, 0, 0, transmit)


def answer(asked: bytes, received: float, sent: float) -> bytes | None:
    """A server's answer to the packet ``asked``; None for what is no client's packet."""
    packet = parse(asked)
    if packet is None or packet.mode != _CLIENT:
        return None
    reference = int.from_bytes(b"GPS\0", "big")
    return _HEADER.pack(
        _VERSION | _SERVER,
        1,
        6,
        -20,
        0,
        0,
        reference,
        to_ntp(received),
        packet.transmit,
        to_ntp(received),
        to_ntp(sent),
    )


def parse(raw: bytes) -> TimePacket | None:
    """Read a packet's header; None for what is too short or of no version 3 or 4."""
    if len(raw) < HEADER:
        return None
    first, stratum, _, _, _, _, _, _, origin, received, transmit = _HEADER.unpack(raw[:HEADER])
    if first >> 3 & 7 not in (3, 4):
        return None
    return TimePacket(first & 7, stratum, origin, from_ntp(received), from_ntp(transmit), transmit)


def seal(raw: bytes, key: bytes, number: int = 1) -> bytes:
    """``raw`` with the key's number and AES-CMAC behind it (RFC 8573); ``key`` has 16 bytes."""
    return raw + _KEY_ID.pack(number) + _code(raw, key)


def sealed(raw: bytes, key: bytes) -> bool:
    """Whether ``raw`` carries the code that ``key`` makes."""
    if len(raw) != HEADER + _KEY_ID.size + CODE:
        return False
    return hmac.compare_digest(raw[-CODE:], _code(raw[:HEADER], key))


def _code(raw: bytes, key: bytes) -> bytes:
    code = CMAC(AES(key))
    code.update(raw)
    return code.finalize()


# -- who speaks it -----------------------------------------------------------------------------------------------


class TimeServer:
    """Tells the time of ``clock`` on UDP 123 of ``host``; with ``key``, to those who use it, under its code."""

    def __init__(self, host: Host, name: str, clock: Callable[[], float]) -> None:
        self.host, self.name, self.clock = host, name, clock
        self.key: bytes | None = None
        self.served = 0

    def start(self) -> None:
        """Begin to answer."""
        self.host.spawn(self._listen(), "time server")

    async def _listen(self) -> None:
        server = self

        class Listener(asyncio.DatagramProtocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                assert isinstance(transport, asyncio.DatagramTransport)
                self.transport = transport

            def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
                reply = server.reply(data)
                if reply is not None:
                    self.transport.sendto(reply, addr)

        await self.host.network.loop.create_datagram_endpoint(Listener, local_addr=("0.0.0.0", PORT))

    def reply(self, data: bytes) -> bytes | None:
        """The answer to one datagram; None for one that gets none."""
        now = self.clock()
        reply = answer(data, now, now)
        if reply is None:
            return None
        if len(data) > HEADER:
            if self.key is None or not sealed(data, self.key):
                return None
            reply = seal(reply, self.key)
        self.served += 1
        return reply


@dataclass(slots=True)
class TimeClientSeams:
    """What controls may fill in."""

    #: key under which answers are taken; None: any answer to one's own question will do
    key: bytes | None = None
    #: report answers that were not taken, and steps of the clock
    report: bool = False


class TimeClient:
    """Keeps ``clock`` of ``host`` to the server at ``address``: asks at once and then every ``poll`` s."""

    def __init__(
        self, host: Host, clock: Clock, address: str, poll: float, stream: random.Random, audit: Audit
    ) -> None:
        self.host, self.clock, self.address = host, clock, address
        self.poll = max(poll, SHORTEST_POLL)
        self.stream, self.audit = stream, audit
        self.seams = TimeClientSeams()
        #: when (s of the run) an answer was last taken; None before the first
        self.synchronized: float | None = None
        self.refused = 0
        self._transport: asyncio.DatagramTransport | None = None
        self._asked: tuple[int, float] | None = None

    def start(self) -> None:
        """Begin to ask; clients do not ask in step."""
        loop = self.host.network.loop
        first = loop.time() + self.stream.uniform(1.0, 10.0)
        loop.wake(first, self._due, first)

    def _due(self, due: float) -> None:
        # A timer of the run and not of the host, so that a host that was off asks again when it is back.
        if self.host.up:
            self.host.spawn(self._ask(), "time client")
        else:
            self._transport = None
        self.host.network.loop.wake(due + self.poll, self._due, due + self.poll)

    async def _ask(self) -> None:
        if self._transport is None or self._transport.is_closing():
            client = self

            class Asker(asyncio.DatagramProtocol):
                def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
                    client.take(data)

            transport, _ = await self.host.network.loop.create_datagram_endpoint(
                Asker, remote_addr=(self.address, PORT)
            )
            assert isinstance(transport, asyncio.DatagramTransport)
            self._transport = transport
        # A number that only this client knows: whoever does not see the question cannot answer it.
        number = self.stream.getrandbits(64)
        self._asked = (number, self.clock())
        raw = request(number)
        self._transport.sendto(raw if self.seams.key is None else seal(raw, self.seams.key))

    def take(self, data: bytes) -> bool:
        """Judge one datagram; whether the clock was set by it."""
        packet = parse(data)
        asked = self._asked
        if packet is None or asked is None or packet.mode != _SERVER or packet.origin != asked[0]:
            return False
        if not 1 <= packet.stratum <= 15:
            return False
        if self.seams.key is not None and not sealed(data, self.seams.key):
            self.refused += 1
            if self.seams.report:
                self.audit("time.refused", peer=self.address, reason="code does not fit")
            return False
        self._asked = None
        now = self.clock()
        offset = ((packet.received - asked[1]) + (packet.sent - now)) / 2
        self.clock.adjust(offset)
        self.synchronized = self.host.network.loop.time()
        if self.seams.report and abs(offset) > STEP:
            self.audit("time.stepped", peer=self.address, seconds=round(offset, 3))
        return True
