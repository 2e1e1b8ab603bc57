"""Writes what crosses the network as pcapng, for Wireshark and every tool that reads it.

Frames carry real Ethernet, ARP, IPv4, TCP and UDP headers with lengths and checksums; a write larger than a segment
becomes the frames that it stands for. Each frame is written once, where it first passes a captured link. The same run
gives the same file byte for byte, unless it is encrypted.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from datetime import datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import IO

from testbed.errors import RunError
from testbed.network import ACK, PSH, SEGMENT, SYN, ArpReply, Link, Network, Packet, Zone

#: pcapng block types and options (draft-ietf-opsawg-pcapng), link type Ethernet
_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_IF_NAME, _IF_TSRESOL, _SHB_APPLICATION = 2, 9, 4
_ETHERNET = 1
_NANOSECONDS = 9
#: time to live of a host that has sent it through no router; each conduit on the way would take one off
_TTL = 64
_WINDOW = 0xFFFF


class Capture:
    """A pcapng file of traffic on some links; ``epoch`` is the civil time of virtual second 0."""

    def __init__(self, path: Path | str, epoch: datetime) -> None:
        self.path = Path(path)
        self._epoch = round(epoch.timestamp() * 1e9)
        self._interfaces: dict[Link, int] = {}
        self._ids: dict[str, int] = {}
        self._latest: Packet | None = None
        self.frames = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = self.path.open("wb")
        except OSError as error:
            raise RunError(f"could not write {self.path}: {error.strerror or error}") from error
        body = struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1) + _options((_SHB_APPLICATION, b"OT Lab"))
        self._block(_SECTION, body)

    def attach(self, network: Network, links: Iterable[Link] | None = None) -> None:
        """Capture on ``links``, or on every zone and conduit."""
        for link in network.links() if links is None else links:
            self._interfaces[link] = len(self._interfaces)
            kind = "zone" if isinstance(link, Zone) else "conduit"
            name = f"{kind}:{link.name}".encode()
            options = _options((_IF_NAME, name), (_IF_TSRESOL, bytes([_NANOSECONDS])))
            self._block(_INTERFACE, struct.pack("<HHI", _ETHERNET, 0, 0) + options)
            link.add_tap(self._see, self._see_arp)

    def close(self) -> None:
        """Write what is buffered and close. Raises RunError naming the file if the disk will not take it."""
        try:
            self._file.close()
        except OSError as error:
            raise RunError(f"could not write {self.path}: {error.strerror or error}") from error

    # -- frames ------------------------------------------------------------------------------------------------

    def _see(self, link: Link, packet: Packet) -> None:
        # A packet is shown to every link on its way; the first that is captured writes it.
        if packet is self._latest:
            return
        self._latest = packet
        interface = self._interfaces[link]
        if packet.protocol == "udp":
            datagram = struct.pack(
                "!HHHH", packet.source_port, packet.target_port, 8 + len(packet.payload), 0
            )
            self._ip(interface, packet, 17, datagram + packet.payload, 6)
            return
        payload, seq = packet.payload, packet.seq
        options = struct.pack("!BBH", 2, 4, SEGMENT) if packet.flags & SYN else b""
        pieces = [payload[at : at + SEGMENT] for at in range(0, len(payload), SEGMENT)] or [b""]
        for number, piece in enumerate(pieces):
            flags = packet.flags
            if number < len(pieces) - 1:
                flags &= ~PSH
            ack = packet.ack if flags & ACK else 0
            offset = (20 + len(options)) // 4 << 12
            header = struct.pack(
                "!HHIIHHHH", packet.source_port, packet.target_port, seq, ack, offset | flags, _WINDOW, 0, 0
            )
            self._ip(interface, packet, 6, header + options + piece, 16)
            seq = (seq + len(piece)) & 0xFFFFFFFF

    def _ip(self, interface: int, packet: Packet, protocol: int, segment: bytes, checksum_at: int) -> None:
        source, target = IPv4Address(packet.source).packed, IPv4Address(packet.target).packed
        pseudo = source + target + struct.pack("!BBH", 0, protocol, len(segment))
        checksum = _checksum(pseudo + segment)
        if protocol == 17 and not checksum:
            checksum = 0xFFFF  # a UDP checksum of 0 would mean that there is none (RFC 768)
        segment = segment[:checksum_at] + checksum.to_bytes(2, "big") + segment[checksum_at + 2 :]
        identifier = self._ids[packet.source] = (self._ids.get(packet.source, 0) + 1) & 0xFFFF
        # version 4, five words; don't fragment
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), identifier, 0x4000, _TTL, protocol, 0)
        header += source + target
        header = header[:10] + _checksum(header).to_bytes(2, "big") + header[12:]
        frame = _mac(packet.target_mac) + _mac(packet.sender_mac) + b"\x08\x00" + header + segment
        self._frame(interface, packet.time, frame)

    def _see_arp(self, link: Link, reply: ArpReply) -> None:
        sender, target = _mac(reply.mac), _mac(reply.target_mac)
        body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + sender + IPv4Address(reply.address).packed
        body += target + IPv4Address(reply.target).packed
        self._frame(self._interfaces[link], reply.time, target + sender + b"\x08\x06" + body)

    def _frame(self, interface: int, time: float, frame: bytes) -> None:
        frame = frame.ljust(60, b"\0")  # Ethernet's shortest frame without its checksum
        stamp = self._epoch + round(time * 1e9)
        head = struct.pack("<IIIII", interface, stamp >> 32, stamp & 0xFFFFFFFF, len(frame), len(frame))
        self.frames += 1
        self._block(_PACKET, head + frame + b"\0" * (-len(frame) % 4))

    def _block(self, kind: int, body: bytes) -> None:
        size = struct.pack("<I", 12 + len(body))
        try:
            self._file.write(struct.pack("<I", kind) + size + body + size)
        except OSError as error:
            raise RunError(f"could not write {self.path}: {error.strerror or error}") from error


def _options(*options: tuple[int, bytes]) -> bytes:
    packed = b"".join(
        struct.pack("<HH", code, len(value)) + value + b"\0" * (-len(value) % 4) for code, value in options
    )
    return packed + struct.pack("<HH", 0, 0)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF ^ ((total + (total >> 16)) & 0xFFFF)
