"""The network monitor: it looks at what taps show it and reports what does not belong.

It sees packets, never who sent them with what intent. Its baseline is what the site documents as legitimate flows,
and whatever else it sees during ``learning`` seconds. Reports leave as syslog, over the wire like any other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from devices.audit import Audit
from testbed.firewall import (
    MODBUS_PORT as MODBUS_PORT,
)  # under TLS (802) there is nothing for a monitor to read
from testbed.firewall import ModbusRequest, frames, parse_frame
from testbed.network import ArpReply, Flow, Host, Link, Packet

#: Modbus functions that change something, or read and write programs
WRITES = frozenset({5, 6, 15, 16, 21, 22, 23})
#: Those whose values are holding registers and stand in the request.
_REGISTER_WRITES = frozenset({6, 16, 23})
#: An alert about the same thing is repeated only after so long (s; assumption).
QUIET = 300.0


@dataclass(frozen=True, slots=True)
class KnownFlow:
    """A legitimate flow: who opens which port of whom, and the Modbus functions that belong in it (None: any)."""

    source: str
    target: str
    port: int
    functions: frozenset[int] | None = None


class Monitor:
    """One monitor on ``host`` that watches ``links``.

    Rules: new flow; Modbus function that does not belong in its flow, or bytes on its port that are not Modbus; value
    outside the engineering range; packet rate of one source above ``rate`` per second; a second MAC for an address.
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
        #: (source, target, port) -> functions that belong in the flow, None for any
        self._flows: dict[tuple[str, str, int], frozenset[int] | None] = {}
        self.expect(baseline)
        self._macs: dict[str, str] = {}
        self._last: dict[tuple[str, str], float] = {}
        self._latest: Packet | None = None
        #: source -> second of the clock, packets seen in it
        self._rates: dict[str, tuple[int, int]] = {}
        #: connection -> sequence number that comes next, and the part of a frame seen so far
        self._partial: dict[Flow, tuple[int, bytearray]] = {}
        self.packets = 0

    def expect(self, baseline: Iterable[KnownFlow]) -> None:
        """Add legitimate flows; several for one pair of hosts and port allow the functions of all."""
        for flow in baseline:
            key = (flow.source, flow.target, flow.port)
            functions = flow.functions
            if key in self._flows:
                known = self._flows[key]
                functions = None if functions is None or known is None else functions | known
            self._flows[key] = functions

    def start(self) -> None:
        """Attach to the links; who has which MAC by now counts as known."""
        for link in self.links:
            link.add_tap(self.see, self.see_arp)
        network = self.host.network
        for station in (*network.hosts.values(), *(zone.gateway for zone in network.zones.values())):
            self._macs[station.address] = station.mac

    def see(self, link: Link, packet: Packet) -> None:
        """Judge one packet; one that crosses several links on its way counts once."""
        if packet.reply or packet is self._latest or (not packet.payload and not packet.opening):
            return
        self._latest = packet
        self.packets += 1
        flow = packet.flow
        key = (flow.source, flow.target, flow.target_port)
        if key in self._flows:
            functions = self._flows[key]
        elif packet.time < self.learning:
            functions = self._flows[key] = None
        else:
            # Once reported, an unknown flow may go on reading; whatever it writes is reported too.
            functions = self._flows[key] = frozenset(range(128)) - WRITES
            self._report("new flow", flow.source, target=flow.target, port=flow.target_port)
        self._count(flow, int(packet.time))
        if flow.target_port == MODBUS_PORT and flow.protocol == "tcp" and packet.payload:
            for request in self._requests(packet):
                if functions is not None and request.function not in functions:
                    self._report(
                        "Modbus function", flow.source, target=flow.target, function=request.function
                    )
                if request.function in _REGISTER_WRITES:
                    self._check_values(flow, request)

    def _count(self, flow: Flow, second: int) -> None:
        before, count = self._rates.get(flow.source, (second, 0))
        count = count + 1 if before == second else 1
        self._rates[flow.source] = (second, count)
        if count > self.rate:
            self._report("packet rate", flow.source, target=flow.target)

    def _requests(self, packet: Packet) -> list[ModbusRequest]:
        """The requests that ``packet`` completes, whether it holds several or the last piece of one."""
        payload, flow = packet.payload, packet.flow
        whole = 8 <= len(payload) <= 260 and len(payload) == 6 + int.from_bytes(payload[4:6], "big")
        if whole and payload[2:4] == b"\0\0" and flow not in self._partial:
            return [parse_frame(payload)]
        follows, buffer = self._partial.pop(flow, (packet.seq, bytearray()))
        if follows != packet.seq:
            buffer.clear()  # sent again: what had come of it before is part of it
        buffer += payload
        found: list[ModbusRequest] = []
        try:
            for frame in frames(buffer):
                found.append(parse_frame(frame))
        except ValueError:
            self._report("not Modbus", packet.source, target=packet.target)
            return found
        if buffer:
            self._partial[flow] = ((packet.seq + len(payload)) & 0xFFFFFFFF, buffer)
        return found

    def _check_values(self, flow: Flow, request: ModbusRequest) -> None:
        for address, value in enumerate(request.values or (), request.address or 0):
            limits = self.ranges.get((flow.target, address))
            if limits is not None and not limits[0] <= value <= limits[1]:
                self._report("value out of range", flow.source, target=flow.target, value=value)

    def see_arp(self, link: Link, reply: ArpReply) -> None:
        """Judge one ARP reply."""
        if self._macs.setdefault(reply.address, reply.mac) != reply.mac:
            self._report("address claimed twice", reply.address, target=reply.target, mac=reply.mac)

    def _report(self, rule: str, subject: str, **data: object) -> None:
        now = self.host.network.loop.time()
        if now - self._last.get((rule, subject), -QUIET) < QUIET:
            return
        self._last[(rule, subject)] = now
        self.audit("ids.alert", rule=rule, subject=subject, **data)
