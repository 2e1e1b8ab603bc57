"""What a firewall at a conduit can decide: allow-lists, Modbus inspection, one-way flow, rate limits.

Each class is a policy for ``Link.add_policy``: called with a packet, it returns a verdict. They know addresses, ports
and payload, as a firewall does, and nothing about who means well. IEC 62443-3-3 SR 5.2, SR 7.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from testbed.network import Packet, Verdict

#: Modbus/TCP and nothing else is inspected: under TLS (802) there is nothing to read.
MODBUS_PORT = 502
#: Length field of the MBAP header: unit and at least a function, at most 254 (Modbus TCP Implementation Guide, 3.1.3).
MBAP_LEAST, MBAP_MOST = 2, 254


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


@dataclass(frozen=True, slots=True)
class ModbusRequest:
    """One Modbus/TCP frame as a passer-by reads it; fields that its function does not have are None."""

    transaction: int
    unit: int
    function: int
    address: int | None = None
    count: int | None = None
    values: tuple[int, ...] | None = None
    #: the part that function 23 reads
    read: tuple[int, int] | None = None


def _names(rule: str | None, name: str, zone: str) -> bool:
    return rule is None or rule == name or rule == f"zone:{zone}"


def _matches(rule: Rule, packet: Packet) -> bool:
    flow = packet.flow
    return (
        (rule.protocol is None or rule.protocol == flow.protocol)
        and (rule.port is None or rule.port == flow.target_port)
        and _names(rule.source, flow.source_name, flow.source_zone)
        and _names(rule.target, flow.target_name, flow.target_zone)
    )


class AllowList:
    """Passes flows that some rule allows, in both directions; everything else gets ``default``."""

    def __init__(self, rules: Iterable[Rule], default: Verdict = Verdict.DROP) -> None:
        self.default = default
        self._rules = tuple(rules)
        self._known: dict[object, bool] = {}

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules in force; assigning others applies to running flows at once."""
        return self._rules

    @rules.setter
    def rules(self, rules: Iterable[Rule]) -> None:
        self._rules = tuple(rules)
        self._known.clear()

    def __call__(self, packet: Packet) -> Verdict:
        flow = packet.flow
        allowed = self._known.get(flow)
        if allowed is None:
            allowed = self._known[flow] = any(_matches(rule, packet) for rule in self._rules)
        return Verdict.ACCEPT if allowed else self.default


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
    """Read one whole request frame; fields that a short frame lacks stay None."""

    def word(at: int) -> int:
        return int.from_bytes(frame[at : at + 2], "big")

    transaction, unit, function = word(0), frame[6], frame[7]
    size = len(frame)
    if function in (1, 2, 3, 4) and size >= 12:
        return ModbusRequest(transaction, unit, function, word(8), word(10))
    if function in (5, 6) and size >= 12:
        return ModbusRequest(transaction, unit, function, word(8), 1, (word(10),))
    if function == 16 and size >= 13:
        values = tuple(word(at) for at in range(13, size - 1, 2))
        return ModbusRequest(transaction, unit, function, word(8), word(10), values)
    if function == 15 and size >= 13:
        bits = tuple(frame[13 + i // 8] >> i % 8 & 1 for i in range(min(word(10), 8 * (size - 13))))
        return ModbusRequest(transaction, unit, function, word(8), word(10), bits)
    if function == 22 and size >= 14:
        return ModbusRequest(transaction, unit, function, word(8), 1)
    if function == 23 and size >= 17:
        values = tuple(word(at) for at in range(17, size - 1, 2))
        return ModbusRequest(transaction, unit, function, word(12), word(14), values, (word(8), word(10)))
    return ModbusRequest(transaction, unit, function)


def parse_modbus(payload: bytes) -> list[ModbusRequest]:
    """The requests that start and end within ``payload``; what is not Modbus/TCP yields nothing."""
    found: list[ModbusRequest] = []
    with suppress(ValueError):
        found += map(parse_frame, frames(bytearray(payload)))
    return found


class ModbusInspection:
    """Reads every Modbus/TCP request of flows to port 502 and rejects what its flow's rules do not name.

    Frames are put together per connection, so that one cut over several segments, or several in one, is judged whole.
    A flow that no rule names is left to other policies.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = tuple(rule for rule in rules if rule.port in (None, MODBUS_PORT))
        self._flows: dict[object, tuple[bytearray, tuple[Rule, ...]]] = {}

    def __call__(self, packet: Packet) -> Verdict:
        flow = packet.flow
        if packet.reply or not packet.payload or flow.target_port != MODBUS_PORT or flow.protocol != "tcp":
            return Verdict.ACCEPT
        known = self._flows.get(flow)
        if known is None:
            rules = tuple(rule for rule in self._rules if _matches(rule, packet))
            known = self._flows[flow] = (bytearray(), rules)
        buffer, rules = known
        if not rules:
            return Verdict.ACCEPT
        before = bytes(buffer)
        buffer += packet.payload
        try:
            allowed = all(self._allowed(parse_frame(frame), rules) for frame in frames(buffer))
        except ValueError:
            allowed = False
        if allowed:
            return Verdict.ACCEPT
        buffer[:] = before
        return Verdict.REJECT

    @staticmethod
    def _allowed(request: ModbusRequest, rules: tuple[Rule, ...]) -> bool:
        for rule in rules:
            if rule.functions is not None and request.function not in rule.functions:
                continue
            if rule.registers is None or request.address is None:
                return True
            spans = [(request.address, request.count or 1)]
            if request.read is not None:
                spans.append(request.read)
            if all(
                any(low <= start and start + count - 1 <= high for low, high in rule.registers)
                for start, count in spans
            ):
                return True
        return False


class OneWay:
    """Passes only flows opened from ``zone``; ``strict`` also stops every payload on the way back, as a diode does."""

    def __init__(self, zone: str, *, strict: bool = False) -> None:
        self.zone, self.strict = zone, strict

    def __call__(self, packet: Packet) -> Verdict:
        if packet.flow.source_zone != self.zone:
            return Verdict.DROP
        return Verdict.DROP if self.strict and packet.reply and packet.payload else Verdict.ACCEPT


class RateLimit:
    """A token bucket in virtual time: ``rate`` packets a second, at most ``burst`` at once; replies are free."""

    def __init__(self, rate: float, burst: float, *, per_source: bool = True) -> None:
        self.rate, self.burst, self.per_source = rate, burst, per_source
        self._buckets: dict[str, tuple[float, float]] = {}

    def __call__(self, packet: Packet) -> Verdict:
        if packet.reply:
            return Verdict.ACCEPT
        key = packet.source if self.per_source else ""
        tokens, last = self._buckets.get(key, (self.burst, packet.time))
        tokens = min(self.burst, tokens + (packet.time - last) * self.rate)
        if tokens < 1.0:
            self._buckets[key] = (tokens, packet.time)
            return Verdict.DROP
        self._buckets[key] = (tokens - 1.0, packet.time)
        return Verdict.ACCEPT


class ConnectionLimit:
    """At most ``most`` connections at once from one source; the next SYN is rejected."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._open: dict[str, set[object]] = {}

    def __call__(self, packet: Packet) -> Verdict:
        flow = packet.flow
        mine = self._open.setdefault(flow.source, set())
        if packet.opening:
            if len(mine) >= self.most and flow not in mine:
                return Verdict.REJECT
            mine.add(flow)
        elif packet.flags & 0x05:  # FIN or RST
            mine.discard(flow)
        return Verdict.ACCEPT
