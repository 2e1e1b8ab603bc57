"""The in-memory network: hosts with addresses in zones, joined only by conduits.

Zones and conduits are IEC 62443's words. A zone is one local network; traffic between zones passes each conduit on
the way, where the policies of a firewall decide and taps look on. Protocols see ordinary asyncio transports: TCP with
its handshake, order, flow control, retransmission, resets and time-outs, and UDP.

The unit of work is one write, not one frame: a write of 20 kB crosses as one event and is shown to taps as one
packet, which a capture splits into the frames that a 1,460-byte segment size makes of it. All that decides about a
packet (policies, loss, full queues) is asked when it is sent. Acknowledgments cost no time; they are shown to taps,
because real captures have them.

The order of this file is the order of dependence: packets, links (zones and conduits), hosts, transports, network.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import ipaddress
import random
import ssl as tls
from asyncio import sslproto
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from enum import Enum
from socket import AF_INET, EAI_NONAME, gaierror
from typing import Any, cast

from testbed.clock import LIFE, Life, SimLoop
from testbed.errors import NetworkError, UnknownNameError
from testbed.randomness import Randomness

#: Largest TCP payload of one Ethernet frame, and what Ethernet, IP and TCP (UDP) headers add to each (bytes).
SEGMENT = 1460
TCP_OVERHEAD = 54
UDP_OVERHEAD = 42
#: Largest UDP payload of one frame, and of one datagram (65,535 less the IPv4 and UDP headers).
DATAGRAM_FRAME = 1472
DATAGRAM_MOST = 65_507
#: Bytes a sender may have under way before the receiver has taken them (a receive window without scaling).
WINDOW = 65_535
#: Bytes that the operating system takes from a program before the program's own buffer fills. Assumption: Linux lets
#: it grow between 16 kB and 4 MB (tcp_wmem).
SEND_BUFFER = 65_536
#: Linux's defaults: waits after each unanswered SYN (tcp_syn_retries = 6), and retransmissions of data
#: (tcp_retries2 = 15) that start at 200 ms and double up to 120 s.
SYN_WAITS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
RETRANSMIT_FIRST = 0.2
RETRANSMIT_MOST = 120.0
RETRANSMIT_TRIES = 15
#: A switch or firewall port holds this much traffic (s) before it drops more. Assumption.
QUEUE_TIME = 0.2
#: Resolving an address that nobody has takes three ARP requests, one a second (Linux's mcast_solicit, retrans_time).
ARP_TIME = 3.0

SYN, ACK, PSH, FIN, RST = 0x02, 0x10, 0x08, 0x01, 0x04
#: TCP's sequence numbers count modulo 2**32.
SEQUENCE = 0xFFFFFFFF

#: The host on whose behalf the running code acts; set by ``Host.spawn`` and inherited by every task and callback.
CURRENT_HOST: contextvars.ContextVar[Host] = contextvars.ContextVar("current_host")


class Verdict(Enum):
    """What a policy does with a packet."""

    ACCEPT = "accept"
    DROP = "drop"  # silently: the sender waits and retries
    REJECT = "reject"  # with a reset to both sides


@dataclass(frozen=True, slots=True)
class Flow:
    """Who opened a connection to whom; the same for packets of both directions.

    ``target_name`` is empty if no host has the target address: scans knock at such doors. The zones are those of
    the two addresses.
    """

    protocol: str  # "tcp" or "udp"
    source: str
    target: str
    source_port: int
    target_port: int
    source_name: str
    target_name: str
    source_zone: str = ""
    target_zone: str = ""


class Packet:
    """What policies and taps see of a write: addresses, flags and payload, nothing about who means well.

    ``source`` and ``target`` are those of this packet; ``flow`` is the connection's, seen from its initiator;
    ``reply`` is true for packets towards the initiator. ``time`` is when it was sent. ``sender_mac`` and
    ``target_mac`` are those of the link where it is being looked at: beyond the first zone the sender's is a
    gateway's, and an interposed host shows by its own. All else stays as it is once the packet is made.
    """

    __slots__ = (
        "ack",
        "flags",
        "flow",
        "payload",
        "protocol",
        "reply",
        "sender_mac",
        "seq",
        "source",
        "source_port",
        "target",
        "target_mac",
        "target_port",
        "time",
    )

    def __init__(
        self,
        time: float,
        flow: Flow,
        reply: bool,
        flags: int,
        payload: bytes,
        seq: int,
        ack: int,
        macs: tuple[str, str],
    ) -> None:
        self.time = time
        self.flow = flow
        self.reply = reply
        self.protocol = flow.protocol
        if reply:
            self.source, self.source_port = flow.target, flow.target_port
            self.target, self.target_port = flow.source, flow.source_port
        else:
            self.source, self.source_port = flow.source, flow.source_port
            self.target, self.target_port = flow.target, flow.target_port
        self.flags = flags
        self.payload = payload
        self.seq = seq
        self.ack = ack
        self.sender_mac, self.target_mac = macs

    @property
    def opening(self) -> bool:
        """True for the packet that asks for a new TCP connection."""
        return self.flags & (SYN | ACK) == SYN and self.protocol == "tcp"

    def __repr__(self) -> str:
        return (
            f"<{self.protocol} {self.source}:{self.source_port} > {self.target}:{self.target_port}"
            f" flags={self.flags:#04x} {len(self.payload)} bytes>"
        )


@dataclass(frozen=True, slots=True)
class ArpReply:
    """'``address`` is at ``mac``', as sent to ``target``: also the way to insert oneself between two hosts."""

    time: float
    address: str
    mac: str
    target: str
    target_mac: str
    sender: str


Policy = Callable[[Packet], Verdict]
Tap = Callable[["Link", Packet], None]
ArpTap = Callable[["Link", ArpReply], None]
Observer = Callable[["Link", Packet, str, Verdict], None]
Interceptor = Callable[[Packet], bytes | None]


class Lane:
    """One direction of a link: a transmitter that is busy until ``free`` and a queue before it."""

    __slots__ = ("byte_time", "bytes", "free", "latency", "link", "packets")

    def __init__(self, link: Link) -> None:
        self.link = link
        self.free = 0.0
        self.packets = 0
        self.bytes = 0
        self.byte_time = 0.0
        self.latency = 0.0

    def carry(self, start: float, size: int) -> float | None:
        """Time at which ``size`` bytes that arrive at ``start`` have crossed; None if the queue is full."""
        begin = self.free
        if begin < start:
            begin = start
        elif begin - start > QUEUE_TIME:
            self.link.dropped += 1
            return None
        self.packets += 1
        self.bytes += size
        self.free = end = begin + size * self.byte_time
        return end + self.latency


class Link:
    """A zone's local network or a conduit: latency (s), bandwidth (bit/s), loss (0..1), policies and taps.

    Policies are asked in order and the first that does not accept decides. ``fail_closed`` says what happens while
    ``guard_up`` is false (the firewall has failed): False lets everything pass, as an unpowered bypass does.
    ``cut`` stops all traffic at once (island mode).
    """

    __slots__ = (
        "_arp_of_tap",
        "_bandwidth",
        "_cut",
        "_fail_closed",
        "_guard_up",
        "_latency",
        "_loss",
        "arp_taps",
        "dropped",
        "lanes",
        "name",
        "network",
        "observers",
        "plain",
        "policies",
        "stream",
        "taps",
    )

    def __init__(self, network: Network, name: str, latency: float, bandwidth: float, loss: float) -> None:
        self.network = network
        self.name = name
        self.lanes = (Lane(self), Lane(self))
        self.policies: list[tuple[str, Policy]] = []
        self.taps: list[Tap] = []
        self.arp_taps: list[ArpTap] = []
        self._arp_of_tap: list[tuple[Tap, ArpTap]] = []
        self.observers: list[Observer] = []
        self._cut = False
        self._guard_up = True
        self._fail_closed = False
        self._loss = 0.0
        self.latency = latency
        self.bandwidth = bandwidth
        self.loss = loss
        self.dropped = 0
        self.stream = network.randomness.stream(f"link:{name}")

    def _refresh(self) -> None:
        #: nothing to decide, show or lose: the segment only takes its time
        self.plain = not (self.policies or self.taps or self._loss or self._cut or not self._guard_up)
        self.network.version += 1

    def _range(self, what: str, value: float, fits: bool, unit: str) -> None:
        if not fits:
            raise NetworkError(f"link {self.name!r}: {what} cannot be {value:g}{unit}")

    @property
    def latency(self) -> float:
        return self._latency

    @latency.setter
    def latency(self, value: float) -> None:
        self._range("latency", value, 0 <= value < float("inf"), " s")
        self._latency = value
        for lane in self.lanes:
            lane.latency = value

    @property
    def bandwidth(self) -> float:
        return self._bandwidth

    @bandwidth.setter
    def bandwidth(self, value: float) -> None:
        self._range("bandwidth", value, value > 0, " bit/s")
        self._bandwidth = value
        for lane in self.lanes:
            lane.byte_time = 8 / value

    @property
    def loss(self) -> float:
        return self._loss

    @loss.setter
    def loss(self, value: float) -> None:
        self._range("loss", value, 0 <= value <= 1, "")
        self._loss = value
        self._refresh()

    @property
    def cut(self) -> bool:
        return self._cut

    @cut.setter
    def cut(self, value: bool) -> None:
        self._cut = value
        self._refresh()

    @property
    def guard_up(self) -> bool:
        return self._guard_up

    @guard_up.setter
    def guard_up(self, value: bool) -> None:
        self._guard_up = value
        self._refresh()

    @property
    def fail_closed(self) -> bool:
        return self._fail_closed

    @fail_closed.setter
    def fail_closed(self, value: bool) -> None:
        self._fail_closed = value
        self._refresh()

    @property
    def packets(self) -> int:
        """Writes, bare control segments and datagrams that crossed, both directions."""
        return self.lanes[0].packets + self.lanes[1].packets

    @property
    def bytes(self) -> int:
        """Bytes of all frames that crossed, headers included, both directions."""
        return self.lanes[0].bytes + self.lanes[1].bytes

    def add_policy(self, name: str, policy: Policy) -> None:
        """Ask ``policy`` too about each packet; ``name`` is what observers and logs show."""
        self.policies.append((name, policy))
        self._refresh()

    def remove_policy(self, name: str) -> None:
        """Ask the policy called ``name`` no longer; unknown names are an UnknownNameError."""
        kept = [entry for entry in self.policies if entry[0] != name]
        if len(kept) == len(self.policies):
            raise UnknownNameError(f"policy of {self.name}", name, (entry[0] for entry in self.policies))
        self.policies[:] = kept
        self._refresh()

    def add_tap(self, tap: Tap, arp: ArpTap | None = None) -> None:
        """Show ``tap`` every packet that enters this link, also those that a policy then stops."""
        self.taps.append(tap)
        self.network.watchers += 1
        if arp is not None:
            self.arp_taps.append(arp)
            self._arp_of_tap.append((tap, arp))
        self._refresh()

    def remove_tap(self, tap: Tap) -> None:
        """Show ``tap``, and the ARP tap added with it, nothing more; NetworkError if it was not added."""
        if tap not in self.taps:
            raise NetworkError(f"link {self.name!r} has no such tap")
        self.taps.remove(tap)
        self.network.watchers -= 1
        for pair in self._arp_of_tap:
            if pair[0] == tap:
                self._arp_of_tap.remove(pair)
                self.arp_taps.remove(pair[1])
                break
        self._refresh()

    def judge(self, packet: Packet) -> Verdict:
        """Show the packet to the taps, then ask the policies."""
        for tap in self.taps:
            tap(self, packet)
        if self._cut:
            return self._deny(packet, "island mode", Verdict.DROP)
        if self._guard_up:
            for name, policy in self.policies:
                verdict = policy(packet)
                if verdict is not Verdict.ACCEPT:
                    return self._deny(packet, name, verdict)
        elif self._fail_closed:
            return self._deny(packet, "fail close", Verdict.DROP)
        if self._loss and self.stream.random() < self._loss:
            self.dropped += 1
            return Verdict.DROP
        return Verdict.ACCEPT

    def _deny(self, packet: Packet, reason: str, verdict: Verdict) -> Verdict:
        self.dropped += 1
        for observer in self.observers:
            observer(self, packet, reason, verdict)
        return verdict

    def __repr__(self) -> str:
        return f"<link {self.name}>"


class Zone(Link):
    """One local network. ``arp_guard`` is the seam of a switch that refuses forged ARP replies."""

    __slots__ = ("arp_guard", "gateway", "hosts", "subnet", "trusted")

    def __init__(
        self,
        network: Network,
        name: str,
        subnet: ipaddress.IPv4Network,
        latency: float,
        bandwidth: float,
        loss: float,
        trusted: bool,
    ) -> None:
        super().__init__(network, name, latency, bandwidth, loss)
        self.subnet = subnet
        self.trusted = trusted
        self.hosts: list[Host] = []
        self.arp_guard: Callable[[ArpReply], bool] | None = None
        #: the router interface of this zone; it has no host of its own but an ARP cache like any other
        self.gateway = Neighbor(str(subnet[1]), _mac(int(subnet[1])))


class Conduit(Link):
    """The only way between two zones."""

    __slots__ = ("zones",)

    def __init__(
        self,
        network: Network,
        name: str,
        zones: tuple[Zone, Zone],
        latency: float,
        bandwidth: float,
        loss: float,
    ) -> None:
        super().__init__(network, name, latency, bandwidth, loss)
        self.zones = zones


class Neighbor:
    """A station on a local network: an address, a MAC and what it believes about others' MACs."""

    __slots__ = ("address", "arp_cache", "mac")

    def __init__(self, address: str, mac: str) -> None:
        self.address = address
        self.mac = mac
        #: address -> host that claimed it by ARP; empty unless somebody interposes
        self.arp_cache: dict[str, Host] = {}


class Hop:
    """One link on the way of a packet: who sends on it to whom."""

    __slots__ = ("lane", "link", "macs", "receiver", "sender")

    def __init__(self, link: Link, side: bool, sender: Neighbor, receiver: Neighbor) -> None:
        self.link = link
        self.lane = link.lanes[side]
        self.sender = sender
        self.receiver = receiver
        self.macs = (sender.mac, receiver.mac)


@dataclass(frozen=True, slots=True)
class _Forgery:
    """Where a host has inserted itself, and what it does with the packets that pass it there."""

    first: str
    second: str
    interceptor: Interceptor


class Host(Neighbor):
    """A machine in a zone. Whatever it does runs through ``spawn``, so that libraries need not know of it."""

    __slots__ = (
        "_forgeries",
        "_next_port",
        "_sequence",
        "_up",
        "connections",
        "context",
        "datagrams",
        "life",
        "listeners",
        "name",
        "network",
        "ports",
        "tasks",
        "zone",
    )

    def __init__(self, network: Network, name: str, zone: Zone, address: str) -> None:
        super().__init__(address, _mac(int(ipaddress.IPv4Address(address))))
        self.network = network
        self.name = name
        self.zone = zone
        self._up = True
        self.listeners: dict[int, Server] = {}
        self.datagrams: dict[int, DatagramTransport] = {}
        self.connections: dict[Transport, None] = {}  # insertion-ordered, unlike a set
        self.ports: dict[int, None] = {}  # local ports of the connections this host opened
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self._forgeries: list[_Forgery] = []
        self._next_port = 49152
        self._sequence: random.Random | None = None
        self._begin_life()

    def _begin_life(self) -> None:
        self.life = Life()
        self.context = contextvars.copy_context()
        self.context.run(CURRENT_HOST.set, self)
        self.context.run(LIFE.set, self.life)

    @property
    def up(self) -> bool:
        return self._up

    def spawn(self, coroutine: Coroutine[Any, Any, Any], name: str = "program") -> asyncio.Task[Any]:
        """Run ``coroutine`` as a program of this host; what it raises ends the run.

        Raises NetworkError if the host is off.
        """
        if not self._up:
            coroutine.close()
            raise NetworkError(f"{self.name} is off and cannot run {name!r}")
        loop = self.network.loop
        # Programs get a copy: a variable one of them sets is not seen by its neighbors.
        task = loop.create_task(coroutine, name=f"{self.name}:{name}", context=self.context.copy())
        self.tasks[task] = None
        task.add_done_callback(self._ended, context=self.context)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.pop(task, None)
        if not task.cancelled():
            error = task.exception()
            if error is not None and not LIFE.get().over:
                self.network.loop.fail(error)

    def power_off(self) -> None:
        """Lose power: programs end, timers are forgotten, listeners and connections vanish without a word to peers."""
        if not self._up:
            return
        self._up = False
        self.unplug()
        for forgery in list(self._forgeries):
            self.withdraw(forgery.first, forgery.second)
        self.network.version += 1
        self.network.loop.end_life(self.life)

    def unplug(self) -> None:
        """Forget listeners, connections and datagram endpoints; nobody is told, here or at the other end."""
        for transport in list(self.connections):
            transport._vanish()
        for endpoint in self.datagrams.values():
            endpoint._closing = True
        self.listeners.clear()
        self.datagrams.clear()
        self.ports.clear()

    def power_on(self) -> None:
        """Be reachable again, with nothing running."""
        if not self._up:
            self._up = True
            self._begin_life()
            self.network.version += 1

    def interpose(self, first: str, second: str, interceptor: Interceptor) -> bool:
        """Insert this host between two addresses by forged ARP replies in its own zone.

        ``interceptor`` is called with each packet between them and returns the payload to send on (of equal length)
        or None to swallow it. An address outside the zone stands for the zone's gateway; traffic with others beyond
        the gateway then passes this host too, and is sent on as it is. Returns False if a guard of the zone refused
        the replies. ATT&CK for ICS T0830.
        """
        pair = self.zone_station(first), self.zone_station(second)
        if pair[0] is pair[1] or self in pair:
            raise NetworkError(f"{self.name} cannot insert itself between {first} and {second}")
        taken = True
        for station, believed in (pair, pair[::-1]):
            reply = ArpReply(
                self.network.loop.time(), believed.address, self.mac, station.address, station.mac, self.name
            )
            for tap in self.zone.arp_taps:
                tap(self.zone, reply)
            if self.zone.arp_guard is not None and not self.zone.arp_guard(reply):
                taken = False
        if not taken:
            return False
        for station, believed in (pair, pair[::-1]):
            station.arp_cache[believed.address] = self
        self._forgeries.append(_Forgery(first, second, interceptor))
        self.network.interposers += 1
        self.network.version += 1
        return True

    def withdraw(self, first: str, second: str) -> None:
        """Undo ``interpose``: the true owners' replies repair both caches. Nothing if there is nothing to undo."""
        gone = [forgery for forgery in self._forgeries if {forgery.first, forgery.second} == {first, second}]
        for forgery in gone:
            self._forgeries.remove(forgery)
            self.network.interposers -= 1
        kept = {
            frozenset((self.zone_station(forgery.first), self.zone_station(forgery.second)))
            for forgery in self._forgeries
        }
        pair = self.zone_station(first), self.zone_station(second)
        if frozenset(pair) not in kept:
            for station, believed in (pair, pair[::-1]):
                if station.arp_cache.get(believed.address) is self:
                    del station.arp_cache[believed.address]
        self.network.version += 1

    def forge(self, packet: Packet) -> bytes | None:
        """What this interposed host sends on in place of the payload of ``packet``; None swallows the packet."""
        for forgery in self._forgeries:
            ends = (forgery.first, forgery.second)
            if self._stands_for(packet.source, ends) and self._stands_for(packet.target, ends):
                return forgery.interceptor(packet)
        return packet.payload

    def _stands_for(self, address: str, ends: tuple[str, str]) -> bool:
        if address in ends:
            return True
        return self.zone.gateway.address in ends and self.zone_station(address) is self.zone.gateway

    def zone_station(self, address: str) -> Neighbor:
        """The station that answers for ``address`` in this host's zone: the host itself or the gateway."""
        host = self.network.by_address.get(address)
        return host if host is not None and host.zone is self.zone else self.zone.gateway

    def free_port(self) -> int:
        """A port from the range that RFC 6335 leaves to clients; OSError if all are taken."""
        for _ in range(16_384):
            port = self._next_port
            self._next_port = port + 1 if port < 65_535 else 49_152
            if port not in self.listeners and port not in self.datagrams and port not in self.ports:
                return port
        raise OSError(errno.EADDRNOTAVAIL, f"{self.name} has no free port left")

    def next_sequence(self) -> int:
        """An initial sequence number; each host draws its own, so that one more host changes nobody's capture."""
        if self._sequence is None:
            self._sequence = self.network.randomness.stream(f"sequence:{self.name}")
        return self._sequence.getrandbits(32)

    def __repr__(self) -> str:
        return f"<host {self.name} {self.address}>"


class Server(asyncio.AbstractServer):
    """A listening port."""

    def __init__(
        self,
        host: Host,
        port: int,
        factory: Callable[[], asyncio.BaseProtocol],
        context: contextvars.Context,
        wrap: Callable[[asyncio.BaseProtocol], asyncio.BaseProtocol] | None,
    ) -> None:
        self.host, self.port = host, port
        self.factory = factory
        self.context = context
        self.wrap = wrap
        self.sockets: tuple[Any, ...] = ()
        self._closed = False
        self._forever: asyncio.Future[None] | None = None

    def accept(self) -> asyncio.BaseProtocol:
        """The protocol of a new connection."""
        protocol = self.factory()
        return self.wrap(protocol) if self.wrap is not None else protocol

    def close(self) -> None:
        """Listen no longer; connections that exist go on."""
        if self.is_serving():
            del self.host.listeners[self.port]
        self._closed = True
        self.sockets = ()
        if self._forever is not None and not self._forever.done():
            self._forever.cancel()

    def is_serving(self) -> bool:
        return self.host.listeners.get(self.port) is self

    async def start_serving(self) -> None:
        if not self._closed and not self.is_serving():
            if self.port in self.host.listeners:
                raise OSError(errno.EADDRINUSE, f"port {self.port} of {self.host.name} is taken already")
            self.sockets = (_Listening((self.host.address, self.port)),)
            self.host.listeners[self.port] = self

    async def serve_forever(self) -> None:
        if self._forever is not None or self._closed:
            raise RuntimeError(f"server {self!r} is {'closed' if self._closed else 'being awaited already'}")
        await self.start_serving()
        self._forever = self.get_loop().create_future()
        try:
            await self._forever
        finally:
            self._forever = None
            self.close()

    async def wait_closed(self) -> None:
        """Nothing is left to wait for once closed."""

    def get_loop(self) -> SimLoop:
        return self.host.network.loop

    def __repr__(self) -> str:
        return f"<server {self.host.name}:{self.port}>"


class _Listening:
    """What ``server.sockets[0]`` must answer."""

    family = AF_INET

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address

    def getsockname(self) -> tuple[str, int]:
        return self._address


class Transport(asyncio.Transport):
    """One end of a TCP connection: what the program sees of it, and what the operating system does with it.

    ``_closing`` and ``_lost`` are the program's side (it closed; it has been told that it is over). ``_dead`` is the
    operating system's: nothing is sent or received any more. After ``close`` a connection lives on until what was
    written, and the FIN, have been delivered.
    """

    _start_tls_compatible = True  # as asyncio's own socket transport says of itself

    def __init__(
        self,
        host: Host,
        flow: Flow,
        reply: bool,
        hops: tuple[Hop, ...],
        context: contextvars.Context,
        isn: int,
    ) -> None:
        address = (flow.target, flow.target_port) if reply else (flow.source, flow.source_port)
        far = (flow.source, flow.source_port) if reply else (flow.target, flow.target_port)
        super().__init__({"sockname": address, "peername": far, "socket": None})
        self._host = host
        self._network = host.network
        self._loop = host.network.loop
        self._flow = flow
        self._reply = reply
        self._hops = hops
        self._lanes = tuple(hop.lane for hop in hops)
        self._context = context
        self._protocol = asyncio.BaseProtocol()
        self._receive: Callable[[bytes], None] = _ignore
        self._peer: Transport
        self._plain = False  # nothing on the way decides, shows or loses; as of network version _version
        self._watched = False
        self._version = -1
        self._seq = isn  # of the next byte to send
        self._arrived = 0.0  # when the latest segment this side sent reaches the peer: segments stay in order
        self._in_flight = 0
        self._backlog: deque[bytes] = deque()
        self._backlog_size = 0
        self._high, self._low = 65_536, 16_384
        self._writing_paused = False
        self._reading_paused = False
        #: arrived while reading was paused; None is the end of stream
        self._waiting: deque[bytes | None] = deque()
        self._waiting_size = 0
        self._stalled = False  # the oldest segment was lost: everything waits for its retransmission
        self._attempts = 0
        self._bounced = 0  # segments at the head of the backlog that have been on their way already
        self._eof = False
        self._fin_sent = False
        self._fin_arrived = False
        self._closing = False
        self._ending = False
        self._lost = False
        self._doomed = False  # a guard's reset is on its way here: nothing more leaves
        self._dead = False

    # -- asyncio.Transport -------------------------------------------------------------------------------------

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol
        if isinstance(protocol, asyncio.BufferedProtocol):
            self._receive = self._receive_buffered
        else:
            self._receive = cast(asyncio.Protocol, protocol).data_received

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def _receive_buffered(self, data: bytes) -> None:
        view = memoryview(data)
        while view and not self._closing:
            # Asked anew for each piece: the protocol may have handed over to another one (as start_tls does).
            protocol = cast(asyncio.BufferedProtocol, self._protocol)
            buffer = cast(Any, protocol.get_buffer(len(view)))
            n = min(len(buffer), len(view))
            if not n:
                raise RuntimeError("get_buffer() returned an empty buffer")
            buffer[:n] = view[:n]
            protocol.buffer_updated(n)
            view = view[n:]

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return not self._reading_paused and not self._closing

    def pause_reading(self) -> None:
        self._reading_paused = True

    def resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            if self._waiting:
                self._loop.call_soon(self._take_waiting, context=self._context)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = 65_536 if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high}) must be >= low ({low}) must be >= 0")
        self._high, self._low = high, low
        self._maybe_pause()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        """Bytes that the operating system has not taken yet."""
        return max(0, self._backlog_size - SEND_BUFFER)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if type(data) is not bytes:
            if not isinstance(data, bytes | bytearray | memoryview):
                raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
            data = bytes(data)
        if self._eof:
            if self._closing:
                return  # as asyncio does: writes after close are discarded
            raise RuntimeError("cannot write after write_eof()")
        size = len(data)
        if not size:
            return
        if self._stalled or self._backlog or self._in_flight + size > WINDOW:
            self._backlog.append(data)
            self._backlog_size += size
            self._flush()
            self._maybe_pause()
        else:
            self._send(data)

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._eof:
            self._eof = True
            self._flush()

    def close(self) -> None:
        if self._closing:
            return
        self._closing = self._eof = True
        if self._waiting_size:
            # Linux answers unread data with a reset: the peer must not believe that it was taken.
            self._die(None, tell_peer=True)
            return
        self._waiting.clear()
        self._flush()

    def abort(self) -> None:
        if not self._dead:
            self._die(None, tell_peer=True)

    def _force_close(self, error: Exception | None) -> None:
        """Close at once with ``error``; ``asyncio.sslproto`` asks its transport for this."""
        if self._lost or self._dead:
            return
        self._closing = self._eof = True
        self._waiting.clear()
        self._backlog.clear()
        self._backlog_size = 0
        self._end_soon(error)
        self._flush()

    # -- the program's side ------------------------------------------------------------------------------------

    def _maybe_pause(self) -> None:
        # Called by whoever writes, which runs in this host's context already.
        if not self._writing_paused and self._backlog_size - SEND_BUFFER > self._high and not self._closing:
            self._writing_paused = True
            self._protocol.pause_writing()

    def _resume_writing(self) -> None:
        if self._writing_paused and self.get_write_buffer_size() <= self._low and not self._lost:
            self._writing_paused = False
            self._protocol.resume_writing()

    def _end_soon(self, error: Exception | None) -> None:
        if not self._ending:
            self._ending = True
            self._loop.call_soon(self._end, error, context=self._context)

    def _end(self, error: Exception | None) -> None:
        """Tell the protocol that the connection is over; runs in this host's context."""
        if self._lost:
            return
        self._lost = self._closing = self._eof = True
        self._waiting.clear()
        if self._fin_sent or self._dead:
            self._leave()
        self._protocol.connection_lost(error)

    def _leave(self) -> None:
        if self._host.connections.pop(self, 0) is None and not self._reply:
            self._host.ports.pop(self._flow.source_port, None)

    def _vanish(self) -> None:
        """The machine lost power: its programs are not told anything any more."""
        self._dead = self._lost = self._closing = self._eof = True
        self._backlog.clear()
        self._waiting.clear()
        self._host.connections.pop(self, None)
        secure = self._protocol
        if isinstance(secure, sslproto.SSLProtocol) and secure._app_transport is not None:
            secure._app_transport._closed = True  # or it would complain that nobody closed it

    def _die(self, error: Exception | None, *, tell_peer: bool = False) -> None:
        """End both sides' state at once; the program is told with ``error``, the peer by a reset."""
        if self._dead:
            return
        if tell_peer:
            when = self._control(RST | ACK)
            if when is not None:
                self._loop.wake(when, self._peer._arrive_reset)
        self._dead = self._closing = self._eof = True
        self._backlog.clear()
        self._backlog_size = 0
        self._waiting.clear()
        if self._lost:
            self._leave()
        self._end_soon(error)

    # -- sending -----------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        network = self._network
        self._version = network.version
        self._plain = not network.interposers and all(hop.link.plain for hop in self._hops)
        self._watched = any(hop.link.taps for hop in self._hops)

    def _packet(self, flags: int, payload: bytes = b"", *, received: int = 0) -> Packet:
        """A packet of this end; ``received`` are bytes that have arrived but still count as under way."""
        peer = self._peer
        expected = peer._seq - peer._in_flight + self._waiting_size + received
        if peer._fin_sent and not self._fin_arrived:
            expected -= 1
        return Packet(
            self._loop.env._now,
            self._flow,
            self._reply,
            flags,
            payload,
            self._seq & SEQUENCE,
            expected & SEQUENCE if flags & ACK else 0,
            self._hops[0].macs if self._hops else (self._host.mac, self._host.mac),
        )

    def _send(self, data: bytes) -> None:
        """Put one write on its way; whether it will arrive is decided now."""
        size = len(data)
        frame = size + TCP_OVERHEAD * (1 + (size - 1) // SEGMENT)
        if self._version != self._network.version:
            self._refresh()
        sent = data
        time: float | None
        if self._plain:
            time = self._loop.env._now
            for lane in self._lanes:
                # Lane.carry, written out: this loop is the hottest of the network.
                begin = lane.free
                if begin < time:
                    begin = time
                elif begin - time > QUEUE_TIME:
                    lane.link.dropped += 1
                    time = None
                    break
                lane.packets += 1
                lane.bytes += frame
                lane.free = time = begin + frame * lane.byte_time
                time += lane.latency
        else:
            time, sent = self._pass(self._packet(ACK | PSH, data), frame)
        if time is None:
            if not self._doomed:
                self._stall(data)
            return
        self._in_flight += size
        self._seq += size
        if time < self._arrived:
            time = self._arrived
        else:
            self._arrived = time
        self._loop.wake(time, self._peer._arrive, sent)

    def _pass(self, packet: Packet, size: int) -> tuple[float | None, bytes]:
        """When the packet arrives (None: it does not) and what; a guard that rejects it resets both ends."""
        verdict, time, place, arrived = self._network.carry(packet, self._hops, size)
        if verdict is Verdict.REJECT:
            self._network.reject(packet, self._hops, time, place, self, self._peer)
        if verdict is not Verdict.ACCEPT:
            return None, b""
        if len(arrived.payload) != len(packet.payload):
            raise NetworkError(
                "an interposed host changed a TCP payload"
                f" from {len(packet.payload)} to {len(arrived.payload)} bytes"
            )
        return time, arrived.payload

    def _control(self, flags: int) -> float | None:
        """Send a segment without payload; returns when it arrives, or None if it does not."""
        if self._version != self._network.version:
            self._refresh()
        if self._plain:
            time: float | None = self._loop.env._now
            for lane in self._lanes:
                time = lane.carry(cast(float, time), TCP_OVERHEAD)
                if time is None:
                    return None
        else:
            time, _ = self._pass(self._packet(flags), TCP_OVERHEAD)
            if time is None:
                return None
        self._arrived = max(cast(float, time), self._arrived)
        return self._arrived

    def _flush(self) -> None:
        """Send what may be sent, then what follows from having sent it."""
        backlog = self._backlog
        while backlog and not self._stalled and not self._dead:
            room = WINDOW - self._in_flight
            if room <= 0:
                break
            data = backlog.popleft()
            if len(data) > room:
                backlog.appendleft(data[room:])
                data = data[:room]
            self._backlog_size -= len(data)
            self._send(data)
        if self._writing_paused and self._backlog_size - SEND_BUFFER <= self._low:
            self._loop.call_soon(self._resume_writing, context=self._context)
        if self._eof:
            if not (backlog or self._fin_sent or self._stalled or self._dead):
                self._send_fin()
            if self._closing and self._backlog_size <= SEND_BUFFER:
                self._end_soon(None)

    def _send_fin(self) -> None:
        when = self._control(FIN | ACK)
        if when is not None:
            self._fin_sent = True
            self._seq += 1
            self._loop.wake(when, self._peer._arrive_fin)
            if self._lost:
                self._leave()
        elif not self._doomed:
            self._retry_later()

    def _stall(self, data: bytes) -> None:
        """Keep a lost segment, and all that follows it, for later."""
        self._backlog.appendleft(data)
        self._backlog_size += len(data)
        self._bounced = 1
        self._retry_later()

    def _bounce(self, data: bytes | None) -> None:
        """A segment (None: the FIN) reached a machine without power: it stays unacknowledged and is sent again."""
        if self._dead:
            return
        if data is None:
            self._fin_sent = False
            self._seq -= 1
        else:
            self._in_flight -= len(data)
            self._seq -= len(data)
            self._backlog.insert(self._bounced, data)
            self._backlog_size += len(data)
            self._bounced += 1
        if not self._stalled:
            self._retry_later()

    def _retry_later(self) -> None:
        """Wait for the retransmission timer, which doubles each time, as TCP does."""
        self._stalled = True
        wait = min(RETRANSMIT_FIRST * 2**self._attempts, RETRANSMIT_MOST)
        self._attempts += 1
        self._loop.wake(self._loop.env._now + wait, self._retry)

    def _retry(self, _: object) -> None:
        if self._dead:
            return
        self._stalled = False
        self._bounced = 0
        if self._attempts > RETRANSMIT_TRIES:
            self._die(TimeoutError(errno.ETIMEDOUT, "the peer acknowledges nothing"))
        else:
            self._flush()

    # -- arriving ----------------------------------------------------------------------------------------------

    def _arrive(self, data: bytes) -> None:
        sender = self._peer
        if self._closing:
            self._refuse(data)
            return
        if self._network.watchers:
            self._acknowledge(len(data))
        if self._reading_paused or self._waiting:
            sender._attempts = 0
            self._waiting.append(data)
            self._waiting_size += len(data)
            return
        sender._in_flight -= len(data)
        sender._attempts = 0
        self._context.run(self._receive, data)
        if sender._backlog or sender._eof:
            sender._flush()

    def _refuse(self, data: bytes | None) -> None:
        """Nobody here takes this segment (None: the FIN): without power it is lost, else answered with a reset."""
        sender = self._peer
        if not self._host._up:
            sender._bounce(data)
        elif not sender._dead:
            when = self._control(RST)
            if when is not None:
                self._loop.wake(when, sender._arrive_reset)
            if not self._dead:
                self._die(None)

    def _take_waiting(self) -> None:
        while self._waiting and not self._reading_paused and not self._closing:
            data = self._waiting.popleft()
            if data is None:
                self._take_fin()
                return
            self._waiting_size -= len(data)
            self._peer._in_flight -= len(data)
            self._receive(data)
        self._peer._flush()

    def _acknowledge(self, received: int) -> None:
        if self._version != self._network.version:
            self._refresh()
        if self._watched:
            self._network.show(self._packet(ACK, received=received), self._hops)

    def _arrive_fin(self, _: object) -> None:
        if self._dead:
            self._refuse(None)
            return
        self._fin_arrived = True
        if self._network.watchers:
            self._acknowledge(0)
        if self._closing:
            return
        if self._waiting or self._reading_paused:
            self._waiting.append(None)
        else:
            self._context.run(self._take_fin)

    def _take_fin(self) -> None:
        if not cast(asyncio.Protocol, self._protocol).eof_received():
            self.close()

    def _arrive_reset(self, _: object) -> None:
        if not self._dead:
            self._die(ConnectionResetError(errno.ECONNRESET, "connection reset by peer"))

    def __repr__(self) -> str:
        name, port = self.get_extra_info("peername")
        return f"<transport {self._host.name} to {name}:{port}{' closed' if self._lost else ''}>"


class DatagramTransport(asyncio.DatagramTransport):
    """A UDP endpoint."""

    def __init__(
        self,
        host: Host,
        port: int,
        protocol: asyncio.DatagramProtocol,
        remote: tuple[str, int] | None,
        context: contextvars.Context,
    ) -> None:
        super().__init__({"sockname": (host.address, port), "peername": remote, "socket": None})
        self._host = host
        self._port = port
        self._protocol = protocol
        self._remote = remote
        self._context = context
        self._closing = False
        #: by the other end: the flow and whether what is sent from here answers it
        self._flows: dict[tuple[str, int], tuple[Flow, bool]] = {}

    def sendto(self, data: Any, addr: Any = None) -> None:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        to: tuple[str, int] | None = addr or self._remote
        if to is None:
            raise ValueError("no address to send to")
        if self._closing:
            return
        network = self._host.network
        payload = bytes(data)
        if len(payload) > DATAGRAM_MOST:
            self._protocol.error_received(OSError(errno.EMSGSIZE, f"{len(payload)} bytes in one datagram"))
            return
        address, port = network.resolve(to[0]), to[1]
        target = network.by_address.get(address)
        flow, reply = self._flows.get((address, port), (None, False))
        try:
            hops = network.hops(self._host, address, reply)
        except OSError as error:
            self._protocol.error_received(error)
            return
        if flow is None:
            flow = network.flow("udp", self._host, self._port, address, port)
            self._flows[address, port] = (flow, False)
        macs = hops[0].macs if hops else (self._host.mac, self._host.mac)
        packet = Packet(network.loop.time(), flow, reply, 0, payload, 0, 0, macs)
        size = len(payload) + UDP_OVERHEAD * (1 + max(0, len(payload) - 1) // DATAGRAM_FRAME)
        verdict, time, place, packet = network.carry(packet, hops, size)
        if verdict is Verdict.ACCEPT:
            network.loop.wake(time, self._deliver, (target, packet))
        elif verdict is Verdict.REJECT:
            time += sum(hop.lane.latency for hop in hops[:place])
            network.loop.wake(time, self._unreachable, packet)

    def _deliver(self, arrival: tuple[Host | None, Packet]) -> None:
        """Hand a datagram to whoever has its port; a closed port says so, a machine that is off nothing."""
        target, packet = arrival
        if target is None or not target._up:
            return
        endpoint = target.datagrams.get(packet.target_port)
        if endpoint is not None:
            endpoint._arrive(packet)
        else:
            network = self._host.network
            back = sum(hop.lane.latency for hop in network.hops(target, packet.source, not packet.reply))
            network.loop.wake(network.loop.time() + back, self._unreachable, packet)

    def _unreachable(self, packet: Packet) -> None:
        # As with sockets, only an endpoint with one fixed peer is told of ICMP's "port unreachable".
        if self._remote == (packet.target, packet.target_port) and not self._closing:
            error = ConnectionRefusedError(errno.ECONNREFUSED, f"UDP port {packet.target_port} is closed")
            self._context.run(self._protocol.error_received, error)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._host.datagrams.pop(self._port, None)
            self._host.network.loop.call_soon(self._protocol.connection_lost, None, context=self._context)

    def abort(self) -> None:
        self.close()

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def _arrive(self, packet: Packet) -> None:
        source = (packet.source, packet.source_port)
        if self._remote is None or self._remote == source:
            self._flows.setdefault(source, (packet.flow, not packet.reply))
            self._context.run(self._protocol.datagram_received, packet.payload, source)


class Network:
    """Zones, conduits and hosts on one loop."""

    def __init__(self, loop: SimLoop, randomness: Randomness | None = None) -> None:
        self.loop = loop
        self.randomness = randomness or Randomness(0)
        self.zones: dict[str, Zone] = {}
        self.conduits: dict[str, Conduit] = {}
        self.hosts: dict[str, Host] = {}
        self.by_address: dict[str, Host] = {}
        self.version = 0  # rises whenever a link or host changes; transports then look at their path anew
        self.interposers = 0
        self.watchers = 0  # taps in all
        self._routes: dict[tuple[str, str], tuple[Link, ...] | None] = {}
        self._hops: dict[tuple[str, str, bool], tuple[Hop, ...]] = {}
        loop.stack = self

    def links(self) -> Iterable[Link]:
        yield from self.zones.values()
        yield from self.conduits.values()

    def close(self) -> None:
        """End every connection without a word on the wire; closing the loop does it too."""
        for host in self.hosts.values():
            host.unplug()

    # -- building ----------------------------------------------------------------------------------------------

    def zone(
        self,
        name: str,
        subnet: str,
        *,
        latency: float = 0.0002,
        bandwidth: float = 100e6,
        loss: float = 0.0,
        trusted: bool = True,
    ) -> Zone:
        """Add a zone: one local network with addresses in ``subnet`` (CIDR), s, bit/s, 0..1.

        The first address of the subnet is the zone's gateway.
        """
        if name in self.zones:
            raise NetworkError(f"zone {name!r} exists already")
        try:
            network = ipaddress.IPv4Network(subnet)
        except ValueError as error:
            raise NetworkError(f"zone {name!r}: {error}") from None
        if network.prefixlen > 30:
            raise NetworkError(f"zone {name!r}: {network} has no room for a gateway and a host")
        for other in self.zones.values():
            if network.overlaps(other.subnet):
                raise NetworkError(f"zone {name!r}: {network} overlaps {other.subnet} of {other.name!r}")
        zone = Zone(self, name, network, latency, bandwidth, loss, trusted)
        self.zones[name] = zone
        return zone

    def conduit(
        self,
        name: str,
        first: str,
        second: str,
        *,
        latency: float = 0.0001,
        bandwidth: float = 100e6,
        loss: float = 0.0,
    ) -> Conduit:
        """Join two zones; nothing else lets traffic from one into the other."""
        if first == second:
            raise NetworkError(f"conduit {name!r} joins zone {first!r} with itself")
        if name in self.conduits:
            raise NetworkError(f"conduit {name!r} exists already")
        conduit = Conduit(self, name, (self._zone(first), self._zone(second)), latency, bandwidth, loss)
        self.conduits[name] = conduit
        self._routes.clear()
        self._hops.clear()
        return conduit

    def host(self, name: str, zone: str, address: str) -> Host:
        """Add a host to a zone."""
        home = self._zone(zone)
        if name in self.hosts:
            raise NetworkError(f"host {name!r} exists already")
        try:
            number = ipaddress.IPv4Address(address)
        except ValueError as error:
            raise NetworkError(f"host {name!r}: {error}") from None
        if address in self.by_address:
            raise NetworkError(
                f"host {name!r}: address {address} belongs to {self.by_address[address].name!r}"
            )
        if number not in home.subnet:
            raise NetworkError(f"host {name!r}: address {address} is outside zone {zone!r} ({home.subnet})")
        if address == home.gateway.address:
            raise NetworkError(f"host {name!r}: address {address} belongs to the gateway of zone {zone!r}")
        if number in (home.subnet.network_address, home.subnet.broadcast_address):
            raise NetworkError(f"host {name!r}: address {address} names all of zone {zone!r}, no host in it")
        host = Host(self, name, home, address)
        self.hosts[name] = self.by_address[address] = host
        home.hosts.append(host)
        self._hops.clear()
        return host

    def _zone(self, name: str) -> Zone:
        if name not in self.zones:
            raise UnknownNameError("zone", name, self.zones)
        return self.zones[name]

    # -- finding -----------------------------------------------------------------------------------------------

    def resolve(self, name: str) -> str:
        """Address of a host name or address; ``localhost`` is the host that asks.

        Raises socket.gaierror (an OSError) for a name that no host has.
        """
        if name in self.hosts:
            return self.hosts[name].address
        if name in self.by_address:
            return name
        if name in ("localhost", "127.0.0.1"):
            return self.here().address
        try:
            return str(ipaddress.IPv4Address(name))
        except ValueError:
            raise gaierror(EAI_NONAME, f"no simulated host is called {name!r}") from None

    def here(self) -> Host:
        """The host that the running code acts for."""
        host = CURRENT_HOST.get(None)
        if host is not None and host.network is self:
            return host
        if len(self.hosts) == 1:
            return next(iter(self.hosts.values()))
        raise OSError(errno.EADDRNOTAVAIL, "this code runs on no simulated host; start it with Host.spawn")

    def _check_alive(self, host: Host) -> None:
        """OSError (network is down) for a host that is off, and for what is left of programs from before that."""
        life = LIFE.get(None)
        if not host._up or (life is not None and life.over):
            raise OSError(errno.ENETDOWN, f"{host.name} is off")

    def path(self, source: Host, target: Host) -> tuple[Link, ...] | None:
        """Links from ``source`` to ``target``, or None if no chain of conduits joins their zones."""
        return () if source is target else self._route(source.zone, target.zone)

    def _route(self, first: Zone, last: Zone) -> tuple[Link, ...] | None:
        key = (first.name, last.name)
        if key not in self._routes:
            self._routes[key] = self._find_route(first, last)
        return self._routes[key]

    def _find_route(self, first: Zone, last: Zone) -> tuple[Link, ...] | None:
        came: dict[str, tuple[Link, ...]] = {first.name: (first,)}
        queue = deque([first])
        while queue:
            zone = queue.popleft()
            if zone is last:
                return came[zone.name]
            for conduit in self.conduits.values():
                if zone in conduit.zones:
                    other = conduit.zones[1] if conduit.zones[0] is zone else conduit.zones[0]
                    if other.name not in came:
                        came[other.name] = (*came[zone.name], conduit, other)
                        queue.append(other)
        return None

    def hops(self, source: Host, address: str, reply: bool = False) -> tuple[Hop, ...]:
        """The way of a packet from ``source``, link by link; OSError (network unreachable) if there is none.

        To an address that no host has, the way ends where somebody would have to answer for it. A ``reply`` goes back
        the way that the request came, also where another one is as short.
        """
        key = (source.name, address, reply)
        found = self._hops.get(key)
        if found is None:
            found = self._hops[key] = self._find_hops(source, address, reply)
        return found

    def _find_hops(self, source: Host, address: str, reply: bool) -> tuple[Hop, ...]:
        if address == source.address:
            return ()
        target = self.by_address.get(address)
        last = self.zone_of(address)
        links = None
        if last is not None:
            links = self._route(last, source.zone) if reply else self._route(source.zone, last)
        if links is None or last is None:
            where = f"{address}, which is in no zone" if last is None else f"zone {last.name}"
            raise OSError(errno.ENETUNREACH, f"no conduit leads from zone {source.zone.name} to {where}")
        if reply:
            links = links[::-1]
        if target is None:
            links = links[:-1]
        hops: list[Hop] = []
        for i, link in enumerate(links):
            if isinstance(link, Conduit):
                near, far = cast(Zone, links[i - 1]).gateway, _across(link, cast(Zone, links[i - 1])).gateway
                hops.append(Hop(link, link.zones[1] is links[i - 1], near, far))
                continue
            zone = cast(Zone, link)
            sender: Neighbor = source if i == 0 else zone.gateway
            receiver: Neighbor = target if i == len(links) - 1 and target is not None else zone.gateway
            # A zone has one lane out and one in; between two of its own hosts any fixed rule does.
            side = address < source.address if len(links) == 1 else i > 0
            hops.append(Hop(zone, side, sender, receiver))
        return tuple(hops)

    def zone_of(self, address: str) -> Zone | None:
        """The zone whose subnet has this address, whether or not a host has it."""
        host = self.by_address.get(address)
        if host is not None:
            return host.zone
        number = ipaddress.IPv4Address(address)
        return next((zone for zone in self.zones.values() if number in zone.subnet), None)

    def flow(self, protocol: str, source: Host, source_port: int, address: str, port: int) -> Flow:
        """The flow of a connection that ``source`` opens to ``port`` of ``address``."""
        target, zone = self.by_address.get(address), self.zone_of(address)
        return Flow(
            protocol,
            source.address,
            address,
            source_port,
            port,
            source.name,
            target.name if target is not None else "",
            source.zone.name,
            zone.name if zone is not None else "",
        )

    # -- carrying ----------------------------------------------------------------------------------------------

    def carry(self, packet: Packet, hops: tuple[Hop, ...], size: int) -> tuple[Verdict, float, int, Packet]:
        """Send ``size`` bytes along ``hops``: the verdict, when and at which hop it fell, and the packet at the end.

        That is another packet if an interposed host has changed it on the way.
        """
        time = packet.time
        for place, hop in enumerate(hops):
            link = hop.link
            packet.sender_mac, packet.target_mac = hop.macs
            if self.interposers:
                attacker = hop.sender.arp_cache.get(hop.receiver.address)
                if attacker is not None:
                    forged = self._detour(packet, hop, attacker)
                    if forged is None:
                        return Verdict.DROP, time, place, packet
                    packet = forged
            if not link.plain:
                verdict = link.judge(packet)
                if verdict is not Verdict.ACCEPT:
                    return verdict, time, place, packet
            arrival = hop.lane.carry(time, size)
            if arrival is None:
                return Verdict.DROP, time, place, packet
            time = arrival
        return Verdict.ACCEPT, time, len(hops), packet

    def _detour(self, packet: Packet, hop: Hop, attacker: Host) -> Packet | None:
        """What an interposed host sends on in place of a packet, if anything; taps see both frames."""
        packet.target_mac = attacker.mac
        for tap in hop.link.taps:
            tap(hop.link, packet)
        payload = attacker.forge(packet)
        if payload is None:
            return None
        macs = (attacker.mac, hop.receiver.mac)
        return Packet(
            packet.time, packet.flow, packet.reply, packet.flags, payload, packet.seq, packet.ack, macs
        )

    def show(self, packet: Packet, hops: Iterable[Hop]) -> None:
        """Show taps a packet that costs nothing and asks nobody."""
        for hop in hops:
            if hop.link.taps:
                packet.sender_mac, packet.target_mac = hop.macs
                for tap in hop.link.taps:
                    tap(hop.link, packet)

    def reject(
        self,
        packet: Packet,
        hops: tuple[Hop, ...],
        time: float,
        place: int,
        sender: Transport,
        receiver: Transport,
    ) -> None:
        """The guard at hop ``place`` resets both ends, in the name of the respective other one."""
        onward = hops[place:]
        back = receiver._hops[len(hops) - place :]
        payload, now = len(packet.payload), packet.time
        resets = (
            (receiver, onward, packet.reply, packet.seq, packet.ack),
            (sender, back, not packet.reply, packet.ack, (packet.seq + payload) & SEQUENCE),
        )
        for end, way, reply, seq, ack in resets:
            if self.watchers:
                self.show(Packet(now, packet.flow, reply, RST | ACK, b"", seq, ack, ("", "")), way)
            arrival = time + sum(hop.lane.latency for hop in way)
            self.loop.wake(max(arrival, end._peer._arrived), end._arrive_reset)
        sender._doomed = sender._stalled = True

    # -- the loop's stack --------------------------------------------------------------------------------------

    async def open_server(
        self, factory: Callable[[], asyncio.BaseProtocol], host: Any, port: int, **options: Any
    ) -> Server:
        """``loop.create_server``: listen on the current host."""
        here = self.here()
        self._check_alive(here)
        for name in [host] if host is None or isinstance(host, str) else host:
            if name not in (None, "", "0.0.0.0", "::", "localhost", "127.0.0.1"):
                address = self.resolve(name)
                if address != here.address:
                    raise OSError(
                        errno.EADDRNOTAVAIL, f"{here.name} ({here.address}) does not have address {address}"
                    )
        if port == 0:
            port = here.free_port()
        if port in here.listeners:
            raise OSError(errno.EADDRINUSE, f"port {port} of {here.name} is taken already")
        wrap = None
        context = options.get("ssl")
        if context is not None:
            if not isinstance(context, tls.SSLContext):
                raise TypeError("ssl argument must be an SSLContext or None")
            wrap = _server_wrapper(self.loop, context, options)
        server = Server(here, port, factory, _context_of(here), wrap)
        if options.get("start_serving", True):
            await server.start_serving()
        return server

    async def open_connection(
        self, factory: Callable[[], asyncio.BaseProtocol], host: str, port: int, **options: Any
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        """``loop.create_connection``: three-way handshake, then TLS if ``ssl`` is given.

        Raises ConnectionRefusedError (closed port, or a policy that rejects), TimeoutError (nothing answers for
        127 s), or OSError: no such name; no route; nobody has the address, or its host is off (after 3 s).
        """
        here = self.here()
        self._check_alive(here)
        context = options.get("ssl")
        hostname = options.get("server_hostname")
        if hostname is not None and not context:
            raise ValueError("server_hostname is only meaningful with ssl")
        transport = await self._handshake(here, self.resolve(host), port, options.get("local_addr"))
        protocol = factory()
        if not context:
            transport.set_protocol(protocol)
            protocol.connection_made(transport)
            return transport, protocol
        waiter: asyncio.Future[None] = self.loop.create_future()
        secure = sslproto.SSLProtocol(
            self.loop,
            protocol,
            tls.create_default_context() if context is True else context,
            waiter,
            False,
            host if hostname is None else hostname,
            ssl_handshake_timeout=options.get("ssl_handshake_timeout"),
            ssl_shutdown_timeout=options.get("ssl_shutdown_timeout"),
        )
        transport.set_protocol(secure)
        secure.connection_made(transport)
        try:
            await waiter
        except BaseException:
            transport.abort()
            raise
        return cast(asyncio.BaseTransport, secure._app_transport), protocol

    async def _handshake(
        self, here: Host, address: str, port: int, local: tuple[str, int] | None
    ) -> Transport:
        hops = self.hops(here, address)
        source_port = here.free_port()
        if local is not None and local[1]:
            source_port = local[1]
            if source_port in here.ports or source_port in here.listeners:
                raise OSError(errno.EADDRINUSE, f"port {source_port} of {here.name} is taken already")
        flow = self.flow("tcp", here, source_port, address, port)
        here.ports[source_port] = None
        try:
            return await self._knock(here, self.by_address.get(address), flow, hops)
        except BaseException:
            here.ports.pop(source_port, None)
            raise

    async def _knock(self, here: Host, target: Host | None, flow: Flow, hops: tuple[Hop, ...]) -> Transport:
        """The handshake of a new connection, with its retries."""
        loop = self.loop
        where = f"{flow.target}:{flow.target_port}"
        isn = here.next_sequence()
        client = Transport(here, flow, False, hops, _context_of(here), isn + 1)
        macs = hops[0].macs if hops else (here.mac, here.mac)
        for wait in SYN_WAITS:
            begun = loop.env._now
            syn = Packet(begun, flow, False, SYN, b"", isn, 0, macs)
            verdict, arrival, place, _ = self.carry(syn, hops, TCP_OVERHEAD)
            if verdict is Verdict.REJECT:
                await _until(loop, arrival + sum(hop.lane.latency for hop in hops[:place]))
                raise ConnectionRefusedError(errno.ECONNREFUSED, f"{where} is refused on the way")
            if verdict is Verdict.ACCEPT:
                await _until(loop, arrival)
                if target is None or not target._up:
                    await _until(loop, loop.env._now + ARP_TIME)
                    raise OSError(errno.EHOSTUNREACH, f"nobody answers for address {flow.target}")
                listener = target.listeners.get(flow.target_port)
                way_back = self.hops(target, flow.source, reply=True)
                server = Transport(target, flow, True, way_back, contextvars.Context(), 0)
                client._peer, server._peer = server, client
                if listener is not None:
                    server._seq = target.next_sequence()
                back = server._control(RST | ACK if listener is None else SYN | ACK)
                server._seq += 1
                if back is not None:
                    await _until(loop, back)
                    if listener is None:
                        raise ConnectionRefusedError(errno.ECONNREFUSED, f"{where} refused the connection")
                    break
                if server._doomed:
                    await _until(loop, loop.env._now + sum(lane.latency for lane in server._lanes))
                    raise ConnectionRefusedError(errno.ECONNREFUSED, f"{where} is refused on the way")
            await _until(loop, begun + wait)
        else:
            raise TimeoutError(errno.ETIMEDOUT, f"{where} does not answer")
        here.connections[client] = None
        accepted = client._control(ACK)
        if client._doomed:
            here.connections.pop(client)
            raise ConnectionResetError(errno.ECONNRESET, f"{where} is reset on the way")
        # The first data carries the acknowledgment too, so losing this one changes nothing.
        if accepted is None:
            accepted = loop.env._now + sum(lane.latency for lane in client._lanes)
            client._arrived = max(client._arrived, accepted)
        loop.wake(accepted, _accept, (listener, server))
        return client

    async def open_datagrams(
        self,
        factory: Callable[[], asyncio.BaseProtocol],
        local: tuple[str, int] | None,
        remote: tuple[str, int] | None,
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        """``loop.create_datagram_endpoint`` on the current host."""
        here = self.here()
        self._check_alive(here)
        port = local[1] if local and local[1] else here.free_port()
        if port in here.datagrams:
            raise OSError(errno.EADDRINUSE, f"UDP port {port} of {here.name} is taken already")
        protocol = cast(asyncio.DatagramProtocol, factory())
        resolved = (self.resolve(remote[0]), remote[1]) if remote else None
        transport = DatagramTransport(here, port, protocol, resolved, _context_of(here))
        here.datagrams[port] = transport
        protocol.connection_made(transport)
        return transport, protocol


def _accept(pair: tuple[Server, Transport]) -> None:
    """The last packet of the handshake has arrived: give the connection to the listener, if it still listens."""
    listener, transport = pair
    host = transport._host
    if not host._up or transport._dead:
        transport._vanish()
    elif not listener.is_serving():
        transport._die(None, tell_peer=True)
    else:
        host.connections[transport] = None
        # A context can be entered once at a time; each connection gets its own copy of the listener's.
        transport._context = listener.context.copy()
        transport._context.run(_begin, listener, transport)


def _begin(listener: Server, transport: Transport) -> None:
    protocol = listener.accept()
    transport.set_protocol(protocol)
    protocol.connection_made(transport)


def _context_of(host: Host) -> contextvars.Context:
    """The running code's context, made to act for ``host`` also where the network found it by itself."""
    context = contextvars.copy_context()
    context.run(CURRENT_HOST.set, host)
    context.run(LIFE.set, host.life)
    return context


def _across(conduit: Conduit, zone: Zone) -> Zone:
    return conduit.zones[1] if conduit.zones[0] is zone else conduit.zones[0]


async def _until(loop: SimLoop, when: float) -> None:
    if when > loop.env._now:
        done: asyncio.Future[None] = loop.create_future()
        timer = loop.call_at(when, _set, done)
        try:
            await done
        finally:
            timer.cancel()


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _ignore(_: object) -> None:
    """What a transport without a protocol does with data."""


def _server_wrapper(
    loop: SimLoop, context: tls.SSLContext, options: dict[str, Any]
) -> Callable[[asyncio.BaseProtocol], asyncio.BaseProtocol]:
    nobody = cast(
        "asyncio.Future[Any]", None
    )  # none waits for the handshake; the class takes None, its stub does not

    def wrap(protocol: asyncio.BaseProtocol) -> asyncio.BaseProtocol:
        return sslproto.SSLProtocol(
            loop,
            protocol,
            context,
            nobody,
            True,
            ssl_handshake_timeout=options.get("ssl_handshake_timeout"),
            ssl_shutdown_timeout=options.get("ssl_shutdown_timeout"),
        )

    return wrap


def _mac(number: int) -> str:
    """A locally administered MAC made from an IPv4 address, so that it never depends on the order of building."""
    return ":".join(f"{byte:02x}" for byte in (0x02, 0x00, *number.to_bytes(4, "big")))


def networked_loop() -> SimLoop:
    """A loop with one zone and one host, ``localhost``: enough for a program that talks to itself."""
    loop = SimLoop()
    network = Network(loop)
    network.zone("local", "10.0.0.0/24")
    network.host("localhost", "local", "10.0.0.2")
    return loop
