"""The network monitor: it looks at what taps show it and reports what does not belong.

It sees packets, never who sent them with what intent. Its baseline is what the site documents as legitimate flows, who
was on the network when it started, and whatever it sees during ``learning`` seconds. Reports leave as syslog, over
the wire like any other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from devices.audit import Audit
from devices.modbus_wire import PUBLIC, Conversation, identity_of
from devices.process_detectors import Finding
from devices.process_watch import ProcessWatch
from devices.sightings import Sighting, Sightings
from devices.ua_wire import CHANGES, UaReader, UaSeen
from testbed.firewall import (
    MODBUS_PORT as MODBUS_PORT,
)  # under TLS (802) there is nothing for a monitor to read
from testbed.firewall import ModbusRequest
from testbed.network import ArpReply, Flow, Host, Link, Packet
from testbed.packets import FIN, RST

#: Modbus functions that change something, or read and write programs
WRITES = frozenset({5, 6, 15, 16, 21, 22, 23})
#: Those whose values are holding registers and stand in the request.
_REGISTER_WRITES = frozenset({6, 16, 23})
#: Port of OPC UA (IANA)
OPCUA_PORT = 4840
#: Diagnostics that put a device off the line: restart communications, and listen only (Modbus 1.1b3, 6.8).
_OFF_LINE = frozenset({1, 4})
#: An alert about the same thing is repeated only after so long (s; assumption).
QUIET = 300.0
#: So many undocumented doors knocked at within so many seconds are a scan; so many refused requests are trying
#: things out (assumptions: round numbers in common use).
SCAN, SCAN_WITHIN = 5, 60.0
REFUSED, REFUSED_WITHIN = 10, 60.0
#: Connections that are followed at a time; the one opened longest ago is forgotten first.
_FOLLOWED = 4096
_ENDS = FIN | RST


@dataclass(frozen=True, slots=True)
class KnownFlow:
    """A legitimate flow: who opens which port of whom, and the Modbus functions that belong in it (None: any).

    ``reads`` says that its OPC UA client has nothing to change.
    """

    source: str
    target: str
    port: int
    functions: frozenset[int] | None = None
    reads: bool = False


class _Connection:
    """What is kept of one connection while it lasts."""

    __slots__ = ("answered", "flow", "from_start", "key", "modbus", "source", "target", "ua")

    def __init__(self, flow: Flow, source: Sighting, target: Sighting | None, from_start: bool) -> None:
        self.flow = flow
        self.key = (flow.source, flow.target, flow.target_port)
        self.source, self.target = source, target
        self.from_start = from_start
        self.answered = False
        tcp = flow.protocol == "tcp"
        self.modbus = Conversation() if tcp and flow.target_port == MODBUS_PORT else None
        self.ua = UaReader() if tcp and flow.target_port == OPCUA_PORT else None


class Monitor:
    """One monitor on ``host`` that watches ``links``.

    Rules: new host; new flow; scan; Modbus function that does not belong in its flow, or bytes on its port that are
    not Modbus; malformed requests, functions outside the public catalogue, restarts and listen-only, answers that
    nobody asked for, many refusals; value outside the engineering range, by Modbus or OPC UA; OPC UA service or
    identity that does not belong in its flow, or bytes that are not OPC UA; packet rate of one source above ``rate``
    per second; a second MAC for an address. ``inventory`` is what it has learned of the hosts it saw.
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
        node_ranges: dict[tuple[str, str], tuple[float, float]] | None = None,
    ) -> None:
        self.host, self.name = host, name
        self.audit = Audit(name)
        self.rate, self.learning = rate, learning
        #: (address of the device, holding register) -> allowed counts
        self.ranges = ranges or {}
        #: (address of the OPC UA server, node) -> allowed values
        self.node_ranges = node_ranges or {}
        self.links = tuple(links)
        self.inventory = Sightings()
        #: (source, target, port) -> functions that belong in the flow, None for any
        self._flows: dict[tuple[str, str, int], frozenset[int] | None] = {}
        self._readers: set[tuple[str, str, int]] = set()
        self.expect(baseline)
        self._macs: dict[str, str] = {}
        self._last: dict[tuple[str, str], float] = {}
        self._latest: Packet | None = None
        #: source -> second of the clock, packets seen in it
        self._rates: dict[str, tuple[int, int]] = {}
        self._connections: dict[int, _Connection] = {}
        #: (rule, source) -> times of the latest things that count towards it
        self._counts: dict[tuple[str, str], deque[float]] = {}
        self._identities: dict[tuple[str, str, int], str] = {}
        self._zones = {id(link): link.name for link in self.links if link.name in host.network.zones}
        self.packets = 0
        #: what reads the process off the same traffic, where the monitor has been trained for it
        self.process: ProcessWatch | None = None

    def expect(self, baseline: Iterable[KnownFlow]) -> None:
        """Add legitimate flows; several for one pair of hosts and port allow the functions of all."""
        for flow in baseline:
            key = (flow.source, flow.target, flow.port)
            functions = flow.functions
            if key in self._flows:
                known = self._flows[key]
                functions = None if functions is None or known is None else functions | known
            self._flows[key] = functions
            if flow.reads:
                self._readers.add(key)

    def start(self) -> None:
        """Attach to the links; who is there, and has which MAC, by now counts as known."""
        for link in self.links:
            link.add_tap(self.see, self.see_arp)
        network, now = self.host.network, self.host.network.loop.time()
        for station in (*network.hosts.values(), *(zone.gateway for zone in network.zones.values())):
            self._macs[station.address] = station.mac
            self.inventory.of(station.address, now).mac = station.mac
        if self.process is not None:
            self.process.start()

    def abnormal(self, finding: Finding) -> None:
        """Report what the process should not do."""
        self._report(finding.rule, finding.tag, kind="process.alert", value=float(f"{finding.value:.6g}"))

    # ------------------------------------------------------------------------------------------------ packets

    def see(self, link: Link, packet: Packet) -> None:
        """Judge one packet; one that crosses several links on its way counts once."""
        flow = packet.flow
        zone = self._zones.get(id(link))
        if zone is not None and zone == (flow.target_zone if packet.reply else flow.source_zone):
            # Only in its own zone does a sender show by its own MAC.
            address = flow.target if packet.reply else flow.source
            if self._macs.setdefault(address, packet.sender_mac) != packet.sender_mac:
                self._report("address claimed twice", address, target=packet.target, mac=packet.sender_mac)
        if packet is self._latest:
            return
        connection = self._connections.get(id(flow))
        if packet.flags & _ENDS and connection is not None:
            del self._connections[id(flow)]
        if not packet.payload and not packet.opening:
            return
        self._latest = packet
        if connection is None:
            if packet.reply:
                return  # its beginning was not seen
            connection = self._met(packet)
        if packet.reply:
            self._answer(connection, packet)
            return
        self.packets += 1
        connection.source.last = packet.time
        functions = self._belongs(connection, packet.time)
        self._count(flow, int(packet.time))
        if not packet.payload:
            return
        if connection.modbus is not None:
            self._modbus(connection, packet, functions)
        elif connection.ua is not None:
            self._opcua(connection, connection.ua, packet)

    def _met(self, packet: Packet) -> _Connection:
        """Begin to follow a connection."""
        flow, now = packet.flow, packet.time
        known = flow.source in self.inventory.hosts or now < self.learning
        if not known and not any(source == flow.source for source, _, _ in self._flows):
            self._report("new host", flow.source, target=flow.target)
        source = self.inventory.of(flow.source, now)
        source.mac = source.mac or self._macs.get(flow.source, "")
        source.uses.add((flow.target, flow.target_port))
        connection = _Connection(flow, source, self.inventory.hosts.get(flow.target), packet.opening)
        if len(self._connections) >= _FOLLOWED:
            del self._connections[next(iter(self._connections))]
        self._connections[id(flow)] = connection
        return connection

    def _belongs(self, connection: _Connection, now: float) -> frozenset[int] | None:
        """The functions that belong in a connection's flow; a flow that nobody documented is reported."""
        key = connection.key
        if key in self._flows:
            return self._flows[key]
        if now < self.learning:
            self._flows[key] = None
            return None
        # Once reported, an unknown flow may go on reading; whatever it writes is reported too.
        functions = self._flows[key] = frozenset(range(128)) - WRITES
        self._readers.add(key)
        source, target, port = key
        self._report("new flow", source, target=target, port=port)
        if self._often("scan", source, now, SCAN, SCAN_WITHIN):
            self._report("scan", source, target=target, port=port)
        return functions

    def _often(self, rule: str, source: str, now: float, count: int, within: float) -> bool:
        """Note one more of something; true when there were ``count`` of it within ``within`` seconds."""
        times = self._counts.setdefault((rule, source), deque(maxlen=count))
        times.append(now)
        return len(times) == count and now - times[0] <= within

    def _count(self, flow: Flow, second: int) -> None:
        before, count = self._rates.get(flow.source, (second, 0))
        count = count + 1 if before == second else 1
        self._rates[flow.source] = (second, count)
        if count > self.rate:
            self._report("packet rate", flow.source, target=flow.target)

    # ------------------------------------------------------------------------------------------------- Modbus

    def _modbus(self, connection: _Connection, packet: Packet, functions: frozenset[int] | None) -> None:
        flow, conversation = connection.flow, connection.modbus
        assert conversation is not None
        try:
            for request, frame in conversation.asked(packet.seq, packet.payload):
                if functions is not None and request.function not in functions:
                    self._report(
                        "Modbus function", flow.source, target=flow.target, function=request.function
                    )
                if request.function in _REGISTER_WRITES:
                    self._check_values(flow, request)
                if request.function == 8 and int.from_bytes(frame[8:10], "big") in _OFF_LINE:
                    self._report("Modbus off line", flow.source, target=flow.target)
                elif not request.sound or request.function not in PUBLIC:
                    self._report("Modbus anomaly", flow.source, target=flow.target, function=request.function)
        except ValueError:
            connection.modbus = Conversation()
            self._report("not Modbus", flow.source, target=flow.target)

    def _check_values(self, flow: Flow, request: ModbusRequest) -> None:
        for address, value in enumerate(request.values or (), request.address or 0):
            limits = self.ranges.get((flow.target, address))
            if limits is not None and not limits[0] <= value <= limits[1]:
                self._report("value out of range", flow.source, target=flow.target, value=value)

    def _answer(self, connection: _Connection, packet: Packet) -> None:
        flow = connection.flow
        if not connection.answered:
            connection.answered = True
            target = self.inventory.of(flow.target, packet.time)
            target.mac = target.mac or self._macs.get(flow.target, "")
            target.serves.add((flow.protocol, flow.target_port))
            connection.target = target
        conversation, server = connection.modbus, connection.target
        assert server is not None
        server.last = packet.time
        if conversation is None or not packet.payload:
            return
        try:
            for answer in conversation.answered(packet.seq, packet.payload):
                if self.process is not None:
                    self.process.take(flow.target, answer, packet.time)
                if answer.request is None and connection.from_start:
                    self._report("answer to nothing", flow.target, target=flow.source)
                if answer.refused and self._often(
                    "refused", flow.source, packet.time, REFUSED, REFUSED_WITHIN
                ):
                    self._report("many refusals", flow.source, target=flow.target)
                if answer.function == 43:
                    server.identify(identity_of(answer))
        except ValueError:
            connection.modbus = Conversation()
            self._report("not Modbus", flow.target, target=flow.source)

    # ------------------------------------------------------------------------------------------------- OPC UA

    def _opcua(self, connection: _Connection, reader: UaReader, packet: Packet) -> None:
        flow = connection.flow
        try:
            for seen in reader.feed(packet.payload):
                self._judge(connection, seen, packet.time)
        except ValueError:
            connection.ua = None  # where its next message begins nobody can tell
            self._report("not OPC UA", flow.source, target=flow.target)

    def _judge(self, connection: _Connection, seen: UaSeen, now: float) -> None:
        flow, key = connection.flow, connection.key
        if seen.service in CHANGES and key in self._readers:
            self._report("OPC UA service", flow.source, target=flow.target, service=seen.service)
        for node, value in seen.written.items():
            limits = self.node_ranges.get((flow.target, node))
            if limits is not None and value is not None and not limits[0] <= value <= limits[1]:
                self._report("value out of range", flow.source, target=flow.target, value=value)
        identity = seen.about.get("identity")
        if identity is not None and self._identities.setdefault(key, identity) != identity:
            if now < self.learning:
                self._identities[key] = identity
            else:
                self._report("OPC UA identity", flow.source, target=flow.target, identity=identity)
        if "application" in seen.about:
            connection.source.about["application"] = seen.about["application"]
        if "endpoint" in seen.about:
            target = self.inventory.of(flow.target, now)
            target.about["endpoint"] = seen.about["endpoint"]

    # ---------------------------------------------------------------------------------------------------- ARP

    def see_arp(self, link: Link, reply: ArpReply) -> None:
        """Judge one ARP reply."""
        if self._macs.setdefault(reply.address, reply.mac) != reply.mac:
            self._report("address claimed twice", reply.address, target=reply.target, mac=reply.mac)

    def _report(self, rule: str, subject: str, *, kind: str = "ids.alert", **data: object) -> None:
        now = self.host.network.loop.time()
        if now - self._last.get((rule, subject), -QUIET) < QUIET:
            return
        self._last[(rule, subject)] = now
        self.audit(kind, rule=rule, subject=subject, **data)
