"""The network monitor: it looks at what taps show it and reports what does not belong.

It sees packets, never who sent them with what intent. Its baseline is what the site documents as legitimate flows,
and whatever else it sees during ``learning`` seconds. Reports leave as syslog, over the wire like any other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from devices.audit import Audit
from testbed.firewall import parse_modbus
from testbed.network import ArpReply, Host, Link, Packet

#: Under TLS (port 802) there is nothing for a monitor to read.
MODBUS_PORT = 502
#: Modbus functions that change something, or read and write programs
WRITES = frozenset({5, 6, 15, 16, 21, 22, 23})
#: An alert about the same thing is repeated only after so long (s; assumption).
QUIET = 300.0


@dataclass(frozen=True, slots=True)
class KnownFlow:
    """A legitimate flow: who opens which port of whom, and the Modbus functions that belong in it (None: any)."""

    source: str
    target: str
    port: int
    functions: frozenset[int] | None = None


@dataclass(slots=True)
class _Seen:
    """What is known of one flow; the counter serves the rate rule."""

    functions: frozenset[int] | None
    modbus: bool
    reported: set[int] = field(default_factory=set)
    second: int = -1
    count: int = 0


class Monitor:
    """One monitor on ``host`` that watches ``links``.

    Rules: new host or flow; Modbus function that does not belong in its flow; value outside the engineering range;
    packet rate of one source above ``rate`` per second; a second MAC for an address.
    """

    def __init__(
        self,
        host: Host,
        name: str,
        links: Iterable[Link],
        baseline: Iterable[KnownFlow],
        *,
        rate: float = 100.0,
        learning: float = 0.0,
        ranges: dict[tuple[str, int], tuple[int, int]] | None = None,
    ) -> None:
        self.host, self.name = host, name
        self.audit = Audit(name)
        self.rate, self.learning = rate, learning
        #: (address of the device, holding register) -> allowed counts
        self.ranges = ranges or {}
        self.links = tuple(links)
        self._flows: dict[tuple[str, str, int], _Seen] = {}
        self.expect(baseline)
        self._macs: dict[str, str] = {}
        self._last: dict[tuple[str, str], float] = {}
        self.packets = 0

    def expect(self, baseline: Iterable[KnownFlow]) -> None:
        """Add legitimate flows; several for one pair of hosts and port allow the functions of all."""
        for flow in baseline:
            key = (flow.source, flow.target, flow.port)
            known = self._flows.get(key)
            functions = flow.functions
            if known is not None:
                functions = None if functions is None or known.functions is None else functions | known.functions
            self._flows[key] = _Seen(functions, flow.port == MODBUS_PORT)

    def start(self) -> None:
        """Attach to the links."""
        for link in self.links:
            link.add_tap(self.see, self.see_arp)
        for host in self.host.network.hosts.values():
            self._macs[host.address] = host.mac

    def see(self, link: Link, packet: Packet) -> None:
        """Judge one packet."""
        if packet.reply or (not packet.payload and not packet.opening):
            return
        self.packets += 1
        flow = packet.flow
        key = (flow.source, flow.target, flow.target_port)
        seen = self._flows.get(key)
        if seen is None:
            seen = self._flows[key] = _Seen(None, flow.target_port == MODBUS_PORT)
            if packet.time >= self.learning:
                self._report("new flow", flow.source, target=flow.target, port=flow.target_port)
                # Whatever an unknown flow writes is reported too.
                seen.functions = frozenset(range(128)) - WRITES
        second = int(packet.time)
        if second != seen.second:
            seen.second, seen.count = second, 0
        seen.count += 1
        if seen.count > self.rate:
            self._report("packet rate", flow.source, target=flow.target)
            return
        if seen.modbus and packet.payload:
            self._inspect(packet, seen)

    def _inspect(self, packet: Packet, seen: _Seen) -> None:
        function = packet.payload[7] if len(packet.payload) > 7 else 0
        if seen.functions is not None and function not in seen.functions:
            self._report("Modbus function", packet.source, target=packet.target, function=function)
        if function in WRITES and self.ranges:
            for request in parse_modbus(packet.payload):
                for offset, value in enumerate(request.values or ()):
                    limits = self.ranges.get((packet.target, (request.address or 0) + offset))
                    if (
                        request.function in (6, 16, 23)
                        and limits is not None
                        and not limits[0] <= value <= limits[1]
                    ):
                        self._report("value out of range", packet.source, target=packet.target, value=value)

    def see_arp(self, link: Link, reply: ArpReply) -> None:
        """Judge one ARP reply."""
        if self._macs.get(reply.address, reply.mac) != reply.mac:
            self._report("address claimed twice", reply.address, target=reply.target, mac=reply.mac)

    def _report(self, rule: str, subject: str, **data: object) -> None:
        now = self.host.network.loop.time()
        if now - self._last.get((rule, subject), -QUIET) < QUIET:
            return
        self._last[(rule, subject)] = now
        self.audit("ids.alert", rule=rule, subject=subject, **data)
