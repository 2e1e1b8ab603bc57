"""Writes what crosses the network as pcapng, for Wireshark and every tool that reads it.

Frames carry real Ethernet, ARP, IPv4, TCP and UDP headers with lengths and checksums; a write larger than a segment
becomes the frames that it stands for. Each frame is written once, where it first passes a captured link. The same run
gives the same file byte for byte, unless it is encrypted.

Not written, because nothing depends on it: the time to live is 64 everywhere, also behind routers, the window is
65,535 throughout, and an interposed host's own acknowledgments are those of the host it stands for.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from ipaddress import IPv4Address
from pathlib import Path
from struct import Struct, pack
from typing import IO

from testbed.errors import RunError
from testbed.network import ACK, PSH, SEGMENT, SEQUENCE, SYN, WINDOW, ArpReply, Link, Network, Packet, Zone

#: pcapng block types and options (draft-ietf-opsawg-pcapng), link type Ethernet
_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_SHB_APPLICATION, _IF_NAME, _IF_TSRESOL = 4, 2, 9
_ETHERNET = 1
_NANOSECONDS = 9  # a negative power of ten
_UNIX = datetime(1970, 1, 1, tzinfo=UTC)
#: Linux's default time to live
_TTL = 64
#: Most bytes of an IPv4 packet after its header that fit one Ethernet frame; a multiple of 8, as fragments must be
_FRAGMENT = 1480
#: Ethernet's shortest frame without its checksum
_SHORTEST = 60
_TCP, _UDP = 6, 17
_DONT_FRAGMENT, _MORE_FRAGMENTS = 0x4000, 0x2000

_TCP_HEADER = Struct("!HHIIHHHH")
_UDP_HEADER = Struct("!HHHH")
_IP_HEADER = Struct("!BBHHHBBH4s4s")
_PSEUDO_HEADER = Struct("!4s4sBBH")
_EPB = Struct("<IIIIIII")


class Capture:
    """A pcapng file of traffic on some links; ``epoch`` (with time zone) is the civil time of virtual second 0.

    Raises RunError that names the file whenever it cannot be written: at the start, while frames are recorded (which
    ends the run), or when it is closed.
    """

    def __init__(self, path: Path | str, epoch: datetime) -> None:
        self.path = Path(path)
        # In whole numbers: a float of today's nanoseconds is exact to 256 ns only.
        self._epoch = (epoch - _UNIX) // timedelta(microseconds=1) * 1000
        self._interfaces: dict[Link, int] = {}
        self._ids: dict[str, int] = {}
        self._latest: Packet | None = None
        self.frames = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = self.path.open("wb", buffering=1 << 16)
        except OSError as error:
            raise self._unwritable(error) from error
        body = pack("<IHHq", 0x1A2B3C4D, 1, 0, -1) + _options((_SHB_APPLICATION, b"OT Lab"))
        self._block(_SECTION, body)

    def attach(self, network: Network, links: Iterable[Link] | None = None) -> None:
        """Capture on ``links`` too, or on every zone and conduit that there is now."""
        for link in network.links() if links is None else links:
            if link in self._interfaces:
                continue
            self._interfaces[link] = len(self._interfaces)
            kind = "zone" if isinstance(link, Zone) else "conduit"
            name = f"{kind}:{link.name}".encode()
            options = _options((_IF_NAME, name), (_IF_TSRESOL, bytes([_NANOSECONDS])))
            self._block(_INTERFACE, pack("<HHI", _ETHERNET, 0, 0) + options)
            link.add_tap(self._see, self._see_arp)

    def close(self) -> None:
        """Look no longer, write what is buffered, and close; closing again does nothing."""
        for link in self._interfaces:
            link.remove_tap(self._see)
        self._interfaces.clear()
        try:
            self._file.close()
        except OSError as error:
            raise self._unwritable(error) from error

    # -- frames ------------------------------------------------------------------------------------------------

    def _see(self, link: Link, packet: Packet) -> None:
        # A packet is shown to every link on its way; the first that is captured writes it.
        if packet is self._latest:
            return
        self._latest = packet
        interface = self._interfaces[link]
        if packet.protocol == "udp":
            size = _UDP_HEADER.size + len(packet.payload)
            header = _UDP_HEADER.pack(packet.source_port, packet.target_port, size, 0)
            self._ip(interface, packet, _UDP, header + packet.payload, 6)
            return
        payload, seq = packet.payload, packet.seq
        if len(payload) <= SEGMENT:
            self._tcp(interface, packet, packet.flags, seq, payload)
            return
        for at in range(0, len(payload), SEGMENT):
            # The last one pushes: with it, the write is whole.
            flags = packet.flags if at + SEGMENT >= len(payload) else packet.flags & ~PSH
            self._tcp(interface, packet, flags, (seq + at) & SEQUENCE, payload[at : at + SEGMENT])

    def _tcp(self, interface: int, packet: Packet, flags: int, seq: int, payload: bytes) -> None:
        options = pack("!BBH", 2, 4, SEGMENT) if flags & SYN else b""  # maximum segment size
        length = (_TCP_HEADER.size + len(options)) // 4 << 12
        ack = packet.ack if flags & ACK else 0
        header = _TCP_HEADER.pack(
            packet.source_port, packet.target_port, seq, ack, length | flags, WINDOW, 0, 0
        )
        self._ip(interface, packet, _TCP, header + options + payload, 16)

    def _ip(self, interface: int, packet: Packet, protocol: int, segment: bytes, checksum_at: int) -> None:
        """Write a segment whose checksum is still 0, in as many frames as it takes."""
        source, target = _address(packet.source), _address(packet.target)
        checksum = _checksum(_PSEUDO_HEADER.pack(source, target, 0, protocol, len(segment)) + segment)
        if protocol == _UDP and not checksum:
            checksum = 0xFFFF  # a UDP checksum of 0 would mean that there is none (RFC 768)
        segment = segment[:checksum_at] + checksum.to_bytes(2, "big") + segment[checksum_at + 2 :]
        identifier = self._ids[packet.source] = (self._ids.get(packet.source, 0) + 1) & 0xFFFF
        ethernet = _mac(packet.target_mac) + _mac(packet.sender_mac) + b"\x08\x00"
        fragmented = len(segment) > _FRAGMENT
        for at in range(0, len(segment), _FRAGMENT):
            piece = segment[at : at + _FRAGMENT] if fragmented else segment
            place = _DONT_FRAGMENT
            if fragmented:
                place = at // 8 | (_MORE_FRAGMENTS if at + _FRAGMENT < len(segment) else 0)
            fields = (0x45, 0, 20 + len(piece), identifier, place, _TTL, protocol)
            header = _IP_HEADER.pack(*fields, 0, source, target)
            header = _IP_HEADER.pack(*fields, _checksum(header), source, target)
            self._frame(interface, packet.time, ethernet + header + piece)

    def _see_arp(self, link: Link, reply: ArpReply) -> None:
        sender, target = _mac(reply.mac), _mac(reply.target_mac)
        body = pack("!HHBBH", 1, 0x0800, 6, 4, 2) + sender + _address(reply.address)
        body += target + _address(reply.target)
        self._frame(self._interfaces[link], reply.time, target + sender + b"\x08\x06" + body)

    def _frame(self, interface: int, time: float, frame: bytes) -> None:
        if len(frame) < _SHORTEST:
            frame = frame.ljust(_SHORTEST, b"\0")
        size = len(frame)
        padding = -size % 4
        stamp = self._epoch + round(time * 1e9)
        total = _EPB.size + size + padding + 4
        head = _EPB.pack(_PACKET, total, interface, stamp >> 32, stamp & 0xFFFFFFFF, size, size)
        self.frames += 1
        self._write(head + frame + b"\0" * padding + total.to_bytes(4, "little"))

    def _block(self, kind: int, body: bytes) -> None:
        size = pack("<I", 12 + len(body))
        self._write(pack("<I", kind) + size + body + size)

    def _write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> RunError:
        return RunError(f"could not write {self.path}: {error.strerror or error}")


def _options(*options: tuple[int, bytes]) -> bytes:
    packed = b"".join(
        pack("<HH", code, len(value)) + value + b"\0" * (-len(value) % 4) for code, value in options
    )
    return packed + pack("<HH", 0, 0)


@lru_cache(maxsize=4096)
def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", "")) if text else bytes(6)


@lru_cache(maxsize=4096)
def _address(text: str) -> bytes:
    return IPv4Address(text).packed


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071): the ones' complement sum of 16-bit words is the number modulo 2**16 - 1."""
    if len(data) % 2:
        data += b"\0"
    return (0xFFFF - int.from_bytes(data, "big") % 0xFFFF) % 0xFFFF
