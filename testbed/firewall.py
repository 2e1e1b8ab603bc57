"""What a firewall at a conduit can decide: allow-lists, Modbus inspection, one-way flow, rate and connection limits.

Each class is a policy for ``Link.add_policy``: called with a packet, it returns a verdict. They know addresses, ports
and payload, as a firewall does, and nothing about who means well. IEC 62443-3-3 SR 5.2, SR 7.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from struct import Struct
from typing import Literal

from testbed.errors import NetworkError
from testbed.network import FIN, RST, SEQUENCE, SYN, Flow, Packet, Verdict

#: Modbus/TCP and nothing else is inspected: under TLS (802) there is nothing to read.
MODBUS_PORT = 502
#: Length field of the MBAP header: unit and at least a function, at most 254 (Modbus TCP Implementation Guide, 3.1.3).
MBAP_LEAST, MBAP_MOST = 2, 254
#: How many half-connections an inspection remembers before it forgets the one silent for longest. Assumption; each
#: takes less than 1 kB.
MOST_STREAMS = 10_000
#: A firewall forgets a connection whose handshake does not end (Linux nf_conntrack, SYN_SENT), and one that is silent
#: for an hour (the established time-out common among firewalls; RFC 5382 asks for 2 h 4 min at least). Seconds.
OPENING_TIME = 120.0
IDLE_TIME = 3600.0

_MBAP = Struct(">HHHBB")  # transaction, protocol, length, unit, and the function that follows
_PAIR = Struct(">HH")
_READ_WRITE = Struct(">HHHHB")


@dataclass(frozen=True, slots=True)
class Rule:
    """One documented flow: host names, or ``zone:NAME`` for any host there; None is any.

    ``functions`` and ``registers`` (spans of addresses, both ends included) narrow a Modbus flow.
    """

    source: str | None
    target: str | None
    protocol: Literal["tcp", "udp"] | None
    port: int | None
    functions: frozenset[int] | None = None
    registers: tuple[tuple[int, int], ...] | None = None

    def matches(self, flow: Flow) -> bool:
        """Whether the rule is about this flow; functions and registers are not looked at."""
        return (
            self.protocol in (None, flow.protocol)
            and self.port in (None, flow.target_port)
            and self.source in (None, flow.source_name, f"zone:{flow.source_zone}")
            and self.target in (None, flow.target_name, f"zone:{flow.target_zone}")
        )


class AllowList:
    """Passes flows that some rule allows, in both directions; everything else gets ``default``.

    A flow is judged by who opened it, so answers of an allowed flow pass and nothing else does. ``rules`` may be
    replaced at any time; running flows are judged by the new ones from the next packet on.
    """

    def __init__(self, rules: Iterable[Rule], default: Verdict = Verdict.DROP) -> None:
        self.default = default
        self._rules = tuple(rules)
        self._known: dict[tuple[str, str, str, int], bool] = {}

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules in force."""
        return self._rules

    @rules.setter
    def rules(self, rules: Iterable[Rule]) -> None:
        self._rules = tuple(rules)
        self._known.clear()

    def __call__(self, packet: Packet) -> Verdict:
        flow = packet.flow
        # Without the source's port, which no rule names: or every connection would leave an entry behind.
        key = (flow.source, flow.target, flow.protocol, flow.target_port)
        allowed = self._known.get(key)
        if allowed is None:
            allowed = self._known[key] = any(rule.matches(flow) for rule in self._rules)
        return Verdict.ACCEPT if allowed else self.default


# -- Modbus -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModbusRequest:
    """One Modbus/TCP frame as a passer-by reads it; fields that its function does not have are None.

    ``address`` and ``count`` are what function 23 writes, ``read`` what it reads (address, count). ``sound`` is false
    for a frame whose length does not fit its function.
    """

    transaction: int
    unit: int
    function: int
    address: int | None = None
    count: int | None = None
    values: tuple[int, ...] | None = None
    read: tuple[int, int] | None = None
    sound: bool = True


def frames(buffer: bytearray) -> Iterator[bytes]:
    """Take whole MBAP frames off the front of ``buffer``; ValueError where it cannot be Modbus/TCP."""
    while len(buffer) >= 6:
        length = int.from_bytes(buffer[4:6], "big")
        if buffer[2] or buffer[3] or not MBAP_LEAST <= length <= MBAP_MOST:
            raise ValueError("not Modbus/TCP")
        if len(buffer) < 6 + length:
            return
        frame = bytes(buffer[: 6 + length])
        del buffer[: 6 + length]
        yield frame


def parse_frame(frame: bytes) -> ModbusRequest:
    """Read one whole request frame, as ``frames`` yields it."""
    transaction, _, _, unit, function = _MBAP.unpack_from(frame)
    size = len(frame)
    match function:
        case 1 | 2 | 3 | 4 if size == 12:
            return ModbusRequest(transaction, unit, function, *_PAIR.unpack_from(frame, 8))
        case 5 | 6 if size == 12:
            address, value = _PAIR.unpack_from(frame, 8)
            return ModbusRequest(transaction, unit, function, address, 1, (value,))
        case 15 | 16 if size >= 13 and size == 13 + frame[12]:
            address, count = _PAIR.unpack_from(frame, 8)
            if function == 16 and frame[12] == 2 * count:
                return ModbusRequest(transaction, unit, function, address, count, _words(frame[13:]))
            if function == 15 and frame[12] == (count + 7) // 8:
                bits = tuple(frame[13 + i // 8] >> i % 8 & 1 for i in range(count))
                return ModbusRequest(transaction, unit, function, address, count, bits)
        case 22 if size == 14:
            return ModbusRequest(transaction, unit, function, int.from_bytes(frame[8:10], "big"), 1)
        case 23 if size >= 17:
            read_from, read_count, address, count, octets = _READ_WRITE.unpack_from(frame, 8)
            if octets == 2 * count and size == 17 + octets:
                read = (read_from, read_count)
                return ModbusRequest(transaction, unit, function, address, count, _words(frame[17:]), read)
        case 24 if size == 10:
            return ModbusRequest(transaction, unit, function, int.from_bytes(frame[8:10], "big"), 1)
        case _ if function not in _SHAPED:
            return ModbusRequest(transaction, unit, function)
    return ModbusRequest(transaction, unit, function, sound=False)


#: Functions whose requests have the one shape that ``parse_frame`` reads (Modbus Application Protocol 1.1b3, 6).
_SHAPED = frozenset({1, 2, 3, 4, 5, 6, 15, 16, 22, 23, 24})


def _words(data: bytes) -> tuple[int, ...]:
    return tuple(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))


def parse_modbus(payload: bytes) -> list[ModbusRequest]:
    """The requests that start and end within ``payload``; what is not Modbus/TCP ends the list."""
    found: list[ModbusRequest] = []
    with suppress(ValueError):
        for frame in frames(bytearray(payload)):
            found.append(parse_frame(frame))
    return found


class _Stream:
    """One direction of a connection: bytes of a frame that is not whole yet, and what was judged last."""

    __slots__ = ("buffer", "condemned", "due", "rules", "since", "start")

    def __init__(self, due: int, rules: tuple[Rule, ...]) -> None:
        self.condemned = False  # something in it was rejected: nothing more of it passes
        self.buffer = bytearray()
        self.due = due  # sequence number of the next byte to judge
        self.start = due  # and of the first byte of the segment judged last
        self.since = b""  # what was in the buffer before that segment
        self.rules = rules

    def take(self, seq: int, payload: bytes) -> None:
        """Append what this segment has that has not been judged."""
        if seq == self.start != self.due:
            # Sent again, perhaps with other content: judged again, in place of the first copy.
            self.buffer[:] = self.since
        elif seq != self.due:
            judged = (self.due - seq) & SEQUENCE
            if judged > SEQUENCE // 2:
                self.buffer.clear()  # bytes went by unseen (the firewall was bypassed): begin afresh here
                judged = 0
            payload, seq = payload[judged:], (seq + min(judged, len(payload))) & SEQUENCE
        self.since, self.start = bytes(self.buffer), seq
        self.due = (seq + len(payload)) & SEQUENCE
        self.buffer += payload


class ModbusInspection:
    """Reads every Modbus/TCP request of flows to port 502 and rejects what its flow's rules do not name.

    Both directions are put together by sequence number, so that frames cut over several segments, several in one
    segment, and segments sent again are judged whole and once. Of answers only the framing is judged. A flow that no
    rule names is left to other policies; what is not Modbus/TCP in a flow that is named is rejected.
    """

    def __init__(self, rules: Iterable[Rule], port: int = MODBUS_PORT) -> None:
        self.port = port
        self._rules = tuple(rule for rule in rules if rule.port in (None, port))
        self._spans = {rule: _joined(rule.registers or ()) for rule in self._rules}
        self._streams: dict[tuple[Flow, bool], _Stream] = {}

    def __call__(self, packet: Packet) -> Verdict:
        flow = packet.flow
        if flow.target_port != self.port or flow.protocol != "tcp":
            return Verdict.ACCEPT
        key = (flow, packet.reply)
        if not packet.payload:
            if packet.flags & (SYN | FIN | RST):
                self._streams.pop(key, None)
            return Verdict.ACCEPT
        stream = self._streams.pop(key, None) or _Stream(
            packet.seq, tuple(rule for rule in self._rules if rule.matches(flow))
        )
        if not stream.rules:
            return Verdict.ACCEPT
        self._streams[key] = stream  # last again in the order of silence
        if len(self._streams) > MOST_STREAMS:
            del self._streams[next(iter(self._streams))]
        stream.take(packet.seq, packet.payload)
        try:
            for frame in frames(stream.buffer):
                if not packet.reply and not self._allowed(frame, stream.rules):
                    stream.condemned = True
        except ValueError:
            stream.condemned = True
        return Verdict.REJECT if stream.condemned else Verdict.ACCEPT

    def _allowed(self, frame: bytes, rules: tuple[Rule, ...]) -> bool:
        request = parse_frame(frame)
        if not request.sound:
            return False
        spans = [] if request.address is None else [(request.address, request.count or 1)]
        if request.read is not None:
            spans.append(request.read)
        return any(
            (rule.functions is None or request.function in rule.functions)
            and (rule.registers is None or all(_within(*span, self._spans[rule]) for span in spans))
            for rule in rules
        )


def _joined(spans: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The same addresses in spans that do not touch: a request may cross from one documented span into the next."""
    joined: list[tuple[int, int]] = []
    for low, high in sorted(spans):
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return tuple(joined)


def _within(start: int, count: int, spans: tuple[tuple[int, int], ...]) -> bool:
    return any(low <= start and start + max(1, count) - 1 <= high for low, high in spans)


# -- direction and amount -----------------------------------------------------------------------------------------


class OneWay:
    """Passes only flows opened from ``zones``; ``strict`` also stops every payload on the way back, as a diode does."""

    def __init__(self, *zones: str, strict: bool = False) -> None:
        self.zones, self.strict = zones, strict

    def __call__(self, packet: Packet) -> Verdict:
        if packet.flow.source_zone not in self.zones:
            return Verdict.DROP
        return Verdict.DROP if self.strict and packet.reply and packet.payload else Verdict.ACCEPT


class RateLimit:
    """A token bucket in virtual time: so many packets a second, at most ``burst`` at once; replies are free.

    ``per_source`` gives each address a bucket of its own; otherwise all share one.
    """

    def __init__(self, packets_per_second: float, burst: float, *, per_source: bool = True) -> None:
        if packets_per_second < 0 or burst < 1:
            raise NetworkError(
                f"a rate limit of {packets_per_second:g} packets/s with a burst of {burst:g} cannot be"
            )
        self.rate, self.burst, self.per_source = packets_per_second, burst, per_source
        self._buckets: dict[str, tuple[float, float]] = {}

    def __call__(self, packet: Packet) -> Verdict:
        if packet.reply:
            return Verdict.ACCEPT
        key = packet.source if self.per_source else ""
        tokens, last = self._buckets.get(key, (self.burst, packet.time))
        tokens = min(self.burst, tokens + (packet.time - last) * self.rate)
        passes = tokens >= 1.0
        self._buckets[key] = (tokens - passes, packet.time)
        return Verdict.ACCEPT if passes else Verdict.DROP


class ConnectionLimit:
    """At most ``most`` TCP connections at once from one source; the next SYN is rejected.

    A connection counts from its SYN until a reset, the FINs of both sides, or its time-out.
    """

    def __init__(self, most: int) -> None:
        if most < 1:
            raise NetworkError(f"a limit of {most} connections cannot be")
        self.most = most
        #: source -> flow -> (when last seen, whether it was answered, whose FIN was seen)
        self._open: dict[str, dict[Flow, tuple[float, bool, frozenset[bool]]]] = {}

    def __call__(self, packet: Packet) -> Verdict:
        flow, now = packet.flow, packet.time
        if flow.protocol != "tcp":
            return Verdict.ACCEPT
        mine = self._open.setdefault(flow.source, {})
        if packet.opening and flow not in mine:
            if len(mine) >= self.most:
                for known, (seen, answered, _) in list(mine.items()):
                    if now - seen > (IDLE_TIME if answered else OPENING_TIME):
                        del mine[known]
                if len(mine) >= self.most:
                    return Verdict.REJECT
            mine[flow] = (now, False, frozenset())
        elif flow in mine:
            _, answered, ended = mine[flow]
            if packet.flags & FIN:
                ended |= {packet.reply}
            if packet.flags & RST or len(ended) == 2:
                del mine[flow]
            else:
                mine[flow] = (now, answered or packet.reply, ended)
        return Verdict.ACCEPT


#: Bytes that a packet counts as at least where bytes are limited (assumption: the middle of usual frame sizes).
LEAST = 500


class PortLimit:
    """A token bucket in bytes at the switch port of each host of ``subnet``: what a host sends beyond it is dropped.

    Unlike ``RateLimit`` it counts answers too, and nothing that comes from other networks. A packet counts as
    ``LEAST`` bytes at least, or a flood of small ones would wear out who has to look at each.
    """

    def __init__(self, subnet: IPv4Network, bytes_per_second: float, burst: float) -> None:
        if bytes_per_second <= 0 or burst <= 0:
            raise NetworkError(f"a limit of {bytes_per_second:g} bytes/s with {burst:g} at once cannot be")
        self.subnet, self.rate, self.burst = subnet, bytes_per_second, burst
        #: address -> bytes left, and when that was counted; None for an address of another network
        self._buckets: dict[str, tuple[float, float] | None] = {}

    def __call__(self, packet: Packet) -> Verdict:
        source, size = packet.source, max(len(packet.payload), LEAST)
        known = source in self._buckets
        bucket = self._buckets[source] if known else (self.burst, packet.time)
        if not known and IPv4Address(source) not in self.subnet:
            bucket = self._buckets[source] = None
        if bucket is None:
            return Verdict.ACCEPT
        left, last = bucket
        left = min(self.burst, left + (packet.time - last) * self.rate)
        passes = left >= size
        self._buckets[source] = (left - size if passes else left, packet.time)
        return Verdict.ACCEPT if passes else Verdict.DROP
