"""Reads what others captured: pcap and pcapng, down to the payloads of TCP and UDP over IPv4 and IPv6.

A capture is a stranger's file. Lengths are checked before anything is read, a frame that cannot be read is counted and
left out, and a file that breaks off gives what it held until there. Formats: draft-ietf-opsawg-pcap, -pcapng.

Not read, because a list of hosts and flows does without: fragments after the first, tunnels, IPv6 extension headers
but the common ones.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from struct import unpack_from
from typing import IO, Final, Literal

from testbed.errors import OtlabError

#: Longest frame and longest block that are read (bytes); tcpdump's own limit of a snapshot is 262,144.
FRAME_MOST: Final = 1 << 18
BLOCK_MOST: Final = 1 << 20
#: Most interfaces of a section: a file of nothing else must not fill the memory.
INTERFACES_MOST: Final = 4096

_PCAP: Final = {
    b"\xd4\xc3\xb2\xa1": ("<", 1e-6),
    b"\xa1\xb2\xc3\xd4": (">", 1e-6),
    b"\x4d\x3c\xb2\xa1": ("<", 1e-9),
    b"\xa1\xb2\x3c\x4d": (">", 1e-9),
}
_SECTION: Final = b"\x0a\x0d\x0d\x0a"
_INTERFACE, _OLD_PACKET, _SIMPLE, _ENHANCED = 1, 2, 3, 6
_TSRESOL: Final = 9
_ETHERNET, _RAW, _COOKED, _COOKED2, _LOOPBACK, _LOOP = (
    (1,),
    (12, 14, 101, 228, 229),
    (113,),
    (276,),
    (0,),
    (108,),
)
_VLAN: Final = frozenset({0x8100, 0x88A8, 0x9100})
_IPV4, _IPV6, _ARP = 0x0800, 0x86DD, 0x0806
_TCP, _UDP = 6, 17
_EXTENSIONS: Final = frozenset({0, 43, 60})
SYN, ACK, FIN, RST = 2, 16, 1, 4


@dataclass(frozen=True, slots=True)
class Seen:
    """One packet: time (s since 1970), addresses, MACs, ports, and payload; ``seq`` and ``flags`` are of TCP."""

    time: float
    source: str
    target: str
    protocol: Literal["tcp", "udp", "other"]
    source_port: int = 0
    target_port: int = 0
    seq: int = 0
    flags: int = 0
    payload: bytes = b""
    source_mac: str = ""
    target_mac: str = ""
    vlan: int | None = None


@dataclass(slots=True)
class Reading:
    """What came of reading a file: frames in all, those that could not be read, and whether it broke off."""

    frames: int = 0
    unreadable: int = 0
    cut: bool = False
    #: MAC -> IPv4 address, from ARP
    arp: dict[str, str] = field(default_factory=dict)


def packets(path: Path | str, reading: Reading | None = None) -> Iterator[Seen]:
    """Yield the packets of a capture in its order; ``reading`` is filled meanwhile.

    Raises OtlabError that names the file when it cannot be opened or is no capture.
    """
    counts = reading if reading is not None else Reading()
    try:
        with open(path, "rb") as file:
            yield from read(file, str(path), counts)
    except OSError as error:
        raise OtlabError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from None


def read(file: IO[bytes], name: str, reading: Reading) -> Iterator[Seen]:
    """``packets`` of an open file. Raises OtlabError when it is no capture."""
    magic = file.read(4)
    if magic in _PCAP:
        frames = _pcap(file, *_PCAP[magic], reading)
    elif magic == _SECTION:
        frames = _pcapng(file, reading)
    else:
        raise OtlabError(f"{name}: neither pcap nor pcapng")
    for time, link, frame in frames:
        reading.frames += 1
        found = _frame(time, link, frame, reading)
        if found is None:
            reading.unreadable += 1
        else:
            yield found


# -- the two formats ---------------------------------------------------------------------------------------------

_Frames = Iterator[tuple[float, int, bytes]]


def _pcap(file: IO[bytes], order: str, unit: float, reading: Reading) -> _Frames:
    head = file.read(20)
    if len(head) < 20:
        reading.cut = True
        return
    link = unpack_from(order + "I", head, 16)[0] & 0x0FFFFFFF  # the top bits tell of a checksum's length
    while True:
        head = file.read(16)
        if len(head) < 16:
            reading.cut |= bool(head)
            return
        seconds, part, size, _ = unpack_from(order + "IIII", head)
        if size > FRAME_MOST:
            reading.cut = True
            return
        frame = file.read(size)
        if len(frame) < size:
            reading.cut = True
            return
        yield seconds + part * unit, link, frame


def _pcapng(file: IO[bytes], reading: Reading) -> _Frames:
    order = "<"
    interfaces: list[tuple[int, float]] = []
    kind_bytes: bytes | None = _SECTION
    while kind_bytes is not None:
        size_bytes = file.read(4)
        if len(size_bytes) < 4:
            reading.cut = True
            return
        if kind_bytes == _SECTION:
            mark = file.read(4)
            if mark not in (b"\x4d\x3c\x2b\x1a", b"\x1a\x2b\x3c\x4d"):
                reading.cut = True
                return
            order, interfaces = ("<" if mark == b"\x4d\x3c\x2b\x1a" else ">"), []
            had = 12
        else:
            had = 8
        size = unpack_from(order + "I", size_bytes)[0]
        if size < had + 4 or size > BLOCK_MOST or size % 4:
            reading.cut = True
            return
        body = file.read(size - had)
        if len(body) < size - had:
            reading.cut = True
            return
        body = body[:-4]
        if kind_bytes != _SECTION:
            kind = unpack_from(order + "I", kind_bytes)[0]
            if kind == _INTERFACE:
                if len(interfaces) >= INTERFACES_MOST:
                    reading.cut = True
                    return
                interfaces.append(_interface(body, order))
            else:
                found = _packet_block(kind, body, order, interfaces)
                if found is not None:
                    yield found
                elif kind in (_OLD_PACKET, _SIMPLE, _ENHANCED):
                    reading.frames += 1
                    reading.unreadable += 1
        kind_bytes = file.read(4)
        if len(kind_bytes) < 4:
            reading.cut |= bool(kind_bytes)
            kind_bytes = None


def _interface(body: bytes, order: str) -> tuple[int, float]:
    """Link type and seconds of a tick."""
    if len(body) < 8:
        return -1, 1e-6
    link, at, tick = unpack_from(order + "H", body)[0], 8, 1e-6
    while at + 4 <= len(body):
        code, size = unpack_from(order + "HH", body, at)
        if code == 0:
            break
        if code == _TSRESOL and size >= 1 and at + 4 < len(body):
            value = body[at + 4]
            tick = 2.0 ** -(value & 0x7F) if value & 0x80 else 10.0 ** -(value & 0x7F)
        at += 4 + size + -size % 4
    return link, tick


def _packet_block(
    kind: int, body: bytes, order: str, interfaces: list[tuple[int, float]]
) -> tuple[float, int, bytes] | None:
    if kind == _ENHANCED and len(body) >= 20:
        number, high, low, size = unpack_from(order + "IIII", body)
        start = 20
    elif kind == _OLD_PACKET and len(body) >= 20:
        number, _, high, low, size = unpack_from(order + "HHIII", body)
        start = 20
    elif kind == _SIMPLE and len(body) >= 4:
        number, high, low, start = 0, 0, 0, 4
        size = min(unpack_from(order + "I", body)[0], len(body) - 4)
    else:
        return None
    if number >= len(interfaces) or size > FRAME_MOST or start + size > len(body):
        return None
    link, tick = interfaces[number]
    return (high << 32 | low) * tick, link, body[start : start + size]


# -- from the frame up -------------------------------------------------------------------------------------------


def _frame(time: float, link: int, frame: bytes, reading: Reading) -> Seen | None:
    source_mac = target_mac = ""
    vlan: int | None = None
    if link in _ETHERNET:
        if len(frame) < 14:
            return None
        target_mac, source_mac = _mac(frame[:6]), _mac(frame[6:12])
        kind, at = frame[12] << 8 | frame[13], 14
    elif link in _COOKED and len(frame) >= 16:
        kind, at = frame[14] << 8 | frame[15], 16
    elif link in _COOKED2 and len(frame) >= 20:
        kind, at = frame[0] << 8 | frame[1], 20
    elif link in _RAW and frame:
        kind, at = (_IPV6 if frame[0] >> 4 == 6 else _IPV4), 0
    elif (link in _LOOPBACK or link in _LOOP) and len(frame) >= 4:
        kind, at = (_IPV4 if 2 in (frame[0], frame[3]) else _IPV6), 4
    else:
        return None
    for _ in range(4):
        if kind not in _VLAN or len(frame) < at + 4:
            break
        vlan = (frame[at] << 8 | frame[at + 1]) & 0x0FFF
        kind, at = frame[at + 2] << 8 | frame[at + 3], at + 4
    if kind == _ARP:
        return _arp(time, frame[at:], reading)
    layer = {_IPV4: _ipv4, _IPV6: _ipv6}.get(kind)
    found = layer(frame[at:]) if layer is not None else None
    if found is None:
        return None
    source, target, protocol, segment = found
    return _transport(time, source, target, protocol, segment, source_mac, target_mac, vlan)


def _arp(time: float, body: bytes, reading: Reading) -> Seen | None:
    if len(body) < 28 or body[:6] != b"\0\x01\x08\0\x06\x04":
        return None
    source, mac = str(ipaddress.IPv4Address(body[14:18])), _mac(body[8:14])
    if source != "0.0.0.0" and (mac in reading.arp or len(reading.arp) < 65536):
        reading.arp[mac] = source
    return Seen(time, source, str(ipaddress.IPv4Address(body[24:28])), "other", source_mac=mac)


def _ipv4(data: bytes) -> tuple[str, str, int, bytes] | None:
    if len(data) < 20 or data[0] >> 4 != 4:
        return None
    head, total = (data[0] & 15) * 4, data[2] << 8 | data[3]
    if head < 20 or len(data) < head:
        return None
    # Offloading writes 0; then the frame's end is all that is known.
    end = min(len(data), total) if total >= head else len(data)
    later = (data[6] << 8 | data[7]) & 0x1FFF
    source, target = ipaddress.IPv4Address(data[12:16]), ipaddress.IPv4Address(data[16:20])
    return str(source), str(target), 0 if later else data[9], data[head:end]


def _ipv6(data: bytes) -> tuple[str, str, int, bytes] | None:
    if len(data) < 40 or data[0] >> 4 != 6:
        return None
    end = min(len(data), 40 + (data[4] << 8 | data[5])) or len(data)
    following, at = data[6], 40
    for _ in range(8):
        if following not in _EXTENSIONS or at + 8 > end:
            break
        following, at = data[at], at + 8 + data[at + 1] * 8
    source, target = ipaddress.IPv6Address(data[8:24]), ipaddress.IPv6Address(data[24:40])
    return str(source), str(target), following, data[at:end]


def _transport(
    time: float,
    source: str,
    target: str,
    protocol: int,
    segment: bytes,
    source_mac: str,
    target_mac: str,
    vlan: int | None,
) -> Seen:
    if protocol == _TCP and len(segment) >= 20:
        first, second, seq = unpack_from("!HHI", segment)
        head = (segment[12] >> 4) * 4
        payload = segment[head:] if 20 <= head <= len(segment) else b""
        return Seen(
            time,
            source,
            target,
            "tcp",
            first,
            second,
            seq,
            segment[13] & 0x3F,
            payload,
            source_mac,
            target_mac,
            vlan,
        )
    if protocol == _UDP and len(segment) >= 8:
        first, second = unpack_from("!HH", segment)
        return Seen(
            time, source, target, "udp", first, second, 0, 0, segment[8:], source_mac, target_mac, vlan
        )
    return Seen(time, source, target, "other", source_mac=source_mac, target_mac=target_mac, vlan=vlan)


def _mac(raw: bytes) -> str:
    return raw.hex(":")
