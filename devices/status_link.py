"""One-way status: a safety PLC tells its values through a data diode, and a station shows what it is told.

Through a diode nobody can ask. The sender pushes all tags of its PLC, engineering units, in one datagram:

    "OTST", sequence (32 bit), number of values (16 bit), the values as doubles in the order of the site's file, and
    the CRC-32 of all that; big-endian
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from typing import Final
from zlib import crc32

from devices.plc import Plc
from testbed.clock import Life
from testbed.network import Host

PORT: Final = 5020
_MAGIC: Final = b"OTST"
_HEAD = struct.Struct(">4sIH")


def pack(sequence: int, values: Sequence[float]) -> bytes:
    """The datagram of these values."""
    body = _HEAD.pack(_MAGIC, sequence & 0xFFFFFFFF, len(values)) + struct.pack(f">{len(values)}d", *values)
    return body + crc32(body).to_bytes(4, "big")


def unpack(data: bytes) -> tuple[int, tuple[float, ...]]:
    """Sequence and values of a datagram; ValueError for one that is damaged or none."""
    if len(data) < _HEAD.size + 4:
        raise ValueError("too short")
    magic, sequence, count = _HEAD.unpack_from(data)
    if magic != _MAGIC or len(data) != _HEAD.size + 8 * count + 4:
        raise ValueError("not a status")
    if crc32(data[:-4]) != int.from_bytes(data[-4:], "big"):
        raise ValueError("damaged")
    return sequence, struct.unpack_from(f">{count}d", data, _HEAD.size)


class StatusSender:
    """Pushes the tags of ``plc`` to ``target`` every ``every`` s while it has power."""

    def __init__(self, plc: Plc, target: str, every: float, port: int = PORT) -> None:
        self.plc, self.target, self.every, self.port = plc, target, every, port
        self.sequence = 0

    def start(self, due: float) -> None:
        """Begin at ``due`` (s)."""
        self.plc.loop.wake(due, self._tick, due)

    def _tick(self, due: float) -> None:
        if self.plc.host.up:
            self.plc.host.spawn(self._send(), "status")
        self.plc.loop.wake(due + self.every, self._tick, due + self.every)

    async def _send(self) -> None:
        transport, _ = await self.plc.loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=(self.target, self.port)
        )
        assert isinstance(transport, asyncio.DatagramTransport)
        self.sequence += 1
        transport.sendto(pack(self.sequence, [self.plc.value(tag) for tag in self.plc.asset.tags]))
        transport.close()


class StatusReceiver(asyncio.DatagramProtocol):
    """What a station on ``host`` was told last of ``tags``; stands in for a poller of that PLC.

    Datagrams from another address than ``source``, older ones and damaged ones are not taken.
    """

    def __init__(self, host: Host, source: str, tags: Sequence[str], port: int = PORT) -> None:
        self.host, self.source, self.tags, self.port = host, source, tuple(tags), port
        self.refused = 0
        self._sequence = 0
        self._news: dict[str, float] | None = None
        self._life: Life | None = None

    async def poll(self) -> dict[str, float] | None:
        """Values by tag if any came since the last time, else None."""
        if self._life is not self.host.life:
            self._life = self.host.life
            await self.host.network.loop.create_datagram_endpoint(
                lambda: self, local_addr=(self.host.address, self.port)
            )
        news, self._news = self._news, None
        return news

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        try:
            sequence, values = unpack(data)
        except ValueError:
            self.refused += 1
            return
        if addr[0] != self.source or sequence <= self._sequence or len(values) != len(self.tags):
            self.refused += 1
            return
        self._sequence = sequence
        self._news = dict(zip(self.tags, values, strict=True))
