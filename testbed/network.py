"""The in-memory network: hosts with addresses in zones, joined only by conduits.

Zones and conduits are IEC 62443's words. A zone is one local network; traffic between zones passes each conduit on
the way, where the policies of a firewall decide and taps look on. Protocols see ordinary asyncio transports: TCP with
its handshake, order, flow control, retransmission, resets and time-outs, and UDP.

The unit of work is one write, not one frame: a write of 20 kB crosses as one event and is shown to taps as the frames
that a 1,460-byte segment size makes of it. Acknowledgments cost no time; they are shown to taps, because real
captures have them.

The order of this file is the order of dependence: packets, links (zones and conduits), hosts, transports, network.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import ipaddress
import ssl as tls
from asyncio import sslproto
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

from testbed.clock import SimLoop
from testbed.errors import NetworkError, UnknownNameError
from testbed.randomness import Randomness

#: Largest TCP payload of one Ethernet frame, and what Ethernet, IP and TCP (UDP) headers add to each (bytes).
SEGMENT = 1460
TCP_OVERHEAD = 54
UDP_OVERHEAD = 42
#: Bytes a sender may have under way before the receiver has taken them (a receive window without scaling).
WINDOW = 65_535
#: Linux's defaults: waits after each unanswered SYN (tcp_syn_retries = 6), and retransmissions of data
#: (tcp_retries2 = 15) that start at 200 ms and double up to 120 s.
SYN_WAITS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
RETRANSMIT_FIRST = 0.2
RETRANSMIT_MOST = 120.0
RETRANSMIT_TRIES = 15
#: A switch or firewall port holds this much traffic (s) before it drops more.
QUEUE_TIME = 0.2
#: Resolving an address that nobody has takes three ARP requests, one a second.
ARP_TIME = 3.0

SYN, ACK, PSH, FIN, RST = 0x02, 0x10, 0x08, 0x01, 0x04

#: The host on whose behalf the running code acts; set by ``Host.spawn`` and inherited by every task and callback.
CURRENT_HOST: contextvars.ContextVar[Host] = contextvars.ContextVar("current_host")


class Verdict(Enum):
    """What a policy does with a packet."""

    ACCEPT = "accept"
    DROP = "drop"  # silently: the sender waits and retries
    REJECT = "reject"  # with a reset to both sides


@dataclass(frozen=True, slots=True)
class Flow:
    """Who opened a connection to whom; the same for packets of both directions."""

    protocol: str  # "tcp" or "udp"
    source: str
    target: str
    source_port: int
    target_port: int
    source_name: str
    target_name: str
    source_zone: str
    target_zone: str


class Packet:
    """What policies and taps see of a write: addresses, flags and payload, nothing about who means well.

    ``source`` and ``target`` are those of this packet; ``flow`` is the connection's, seen from its initiator;
    ``reply`` is true for packets towards the initiator. ``sender_mac`` shows an interposed host.
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


class Link:
    """A zone's local network or a conduit: latency (s), bandwidth (bit/s), loss (0..1), policies and taps.

    Policies are asked in order and the first that does not accept decides. ``fail_closed`` says what happens while
    ``guard_up`` is false (the firewall has failed): False lets everything pass, as an unpowered bypass does.
    ``cut`` stops all traffic at once (island mode).
    """

    __slots__ = (
        "_cut",
        "_fail_closed",
        "_guard_up",
        "_loss",
        "arp_taps",
        "bandwidth",
        "bytes",
        "dropped",
        "free",
        "latency",
        "name",
        "network",
        "observers",
        "packets",
        "plain",
        "policies",
        "stream",
        "taps",
    )

    def __init__(self, network: Network, name: str, latency: float, bandwidth: float, loss: float) -> None:
        if latency < 0 or bandwidth <= 0 or not 0 <= loss <= 1:
            raise NetworkError(
                f"link {name!r}: latency {latency} s, bandwidth {bandwidth} bit/s, loss {loss} cannot be"
            )
        self.network = network
        self.name = name
        self.latency = latency
        self.bandwidth = bandwidth
        self._loss = loss
        self.policies: list[tuple[str, Policy]] = []
        self.taps: list[Tap] = []
        self.arp_taps: list[ArpTap] = []
        self.observers: list[Observer] = []
        self._cut = False
        self._guard_up = True
        self._fail_closed = False
        self.free = [0.0, 0.0]  # when each direction's transmitter is idle again
        self.packets = 0
        self.bytes = 0
        self.dropped = 0
        self.stream = network.randomness.stream(f"link:{name}")
        self._refresh()

    def _refresh(self) -> None:
        #: nothing to decide, show or lose: the segment only takes its time
        self.plain = not (self.policies or self.taps or self._loss or self._cut or not self._guard_up)
        self.network.version += 1

    @property
    def loss(self) -> float:
        return self._loss

    @loss.setter
    def loss(self, value: float) -> None:
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
        self._refresh()

    def remove_tap(self, tap: Tap) -> None:
        self.taps.remove(tap)
        self.network.watchers -= 1
        self._refresh()

    def occupy(self, start: float, size: int, backward: bool) -> float | None:
        """Time at which ``size`` bytes that arrive at ``start`` have crossed; None if the queue is full."""
        free = self.free
        begin = free[backward]
        if begin < start:
            begin = start
        elif begin - start > QUEUE_TIME:
            self.dropped += 1
            return None
        self.packets += 1
        self.bytes += size
        end = begin + size * 8 / self.bandwidth
        free[backward] = end
        return end + self.latency

    def judge(self, packet: Packet) -> Verdict:
        """Show the packet to the taps, then ask the policies."""
        for tap in self.taps:
            tap(self, packet)
        if self._cut:
            return self._deny(packet, "island mode", Verdict.DROP)
        if not self._guard_up:
            return self._deny(packet, "fail close", Verdict.DROP) if self._fail_closed else Verdict.ACCEPT
        for name, policy in self.policies:
            verdict = policy(packet)
            if verdict is not Verdict.ACCEPT:
                return self._deny(packet, name, verdict)
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


class Host(Neighbor):
    """A machine in a zone. Whatever it does runs through ``spawn``, so that libraries need not know of it."""

    __slots__ = (
        "_next_port",
        "_up",
        "connections",
        "context",
        "datagrams",
        "interceptor",
        "listeners",
        "name",
        "network",
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
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.interceptor: Interceptor | None = None
        self._next_port = 49152
        context = contextvars.copy_context()
        context.run(CURRENT_HOST.set, self)
        self.context = context

    @property
    def up(self) -> bool:
        return self._up

    def spawn(self, coroutine: Coroutine[Any, Any, Any], name: str = "program") -> asyncio.Task[Any]:
        """Run ``coroutine`` as a program of this host; what it raises ends the run."""
        loop = self.network.loop
        # Programs get a copy: a variable one of them sets is not seen by its neighbors.
        task = loop.create_task(coroutine, name=f"{self.name}:{name}", context=self.context.copy())
        self.tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.pop(task, None)
        if not task.cancelled():
            error = task.exception()
            if error is not None:
                self.network.loop.fail(error)

    def power_off(self) -> None:
        """Lose power: programs end, listeners and connections vanish without a word to their peers."""
        self._up = False
        for task in list(self.tasks):
            task.cancel()
        for transport in list(self.connections):
            transport._vanish()
        self.listeners.clear()
        self.datagrams.clear()
        self.network.version += 1

    def power_on(self) -> None:
        """Be reachable again, with nothing running."""
        self._up = True
        self.network.version += 1

    def interpose(self, first: str, second: str, interceptor: Interceptor) -> bool:
        """Insert this host between two addresses by forged ARP replies in its own zone.

        ``interceptor`` is called with each packet between them and returns the payload to send on (of equal length)
        or None to swallow it. An address outside the zone stands for the zone's gateway. Returns False if a guard of
        the zone refused the replies. ATT&CK for ICS T0830.
        """
        taken = True
        for victim, claimed in ((first, second), (second, first)):
            station = self.zone_station(victim)
            believed = self.zone_station(claimed)
            reply = ArpReply(
                self.network.loop.time(), believed.address, self.mac, station.address, station.mac, self.name
            )
            for tap in self.zone.arp_taps:
                tap(self.zone, reply)
            if self.zone.arp_guard is not None and not self.zone.arp_guard(reply):
                taken = False
                continue
            station.arp_cache[believed.address] = self
        if not taken:
            self.withdraw(first, second)
            return False
        self.interceptor = interceptor
        self.network.interposers += 1
        self.network.version += 1
        return True

    def withdraw(self, first: str, second: str) -> None:
        """Undo ``interpose``: the true owners' replies repair both caches."""
        for victim, claimed in ((first, second), (second, first)):
            cache = self.zone_station(victim).arp_cache
            if cache.get(self.zone_station(claimed).address) is self:
                del cache[self.zone_station(claimed).address]
        if self.interceptor is not None:
            self.interceptor = None
            self.network.interposers -= 1
        self.network.version += 1

    def zone_station(self, address: str) -> Neighbor:
        """The station that answers for ``address`` in this host's zone: the host itself or the gateway."""
        for host in self.zone.hosts:
            if host.address == address:
                return host
        return self.zone.gateway

    def free_port(self) -> int:
        for _ in range(16_384):
            port = self._next_port
            self._next_port = port + 1 if port < 65_535 else 49_152
            if port not in self.listeners and port not in self.datagrams:
                return port
        raise OSError(errno.EADDRNOTAVAIL, f"{self.name} has no free port left")

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
        self.sockets: list[Any] = []
        self._closed: asyncio.Future[None] | None = None

    def accept(self) -> asyncio.BaseProtocol:
        protocol = self.factory()
        return self.wrap(protocol) if self.wrap is not None else protocol

    def close(self) -> None:
        if self.host.listeners.get(self.port) is self:
            del self.host.listeners[self.port]
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)

    def is_serving(self) -> bool:
        return self.host.listeners.get(self.port) is self

    async def start_serving(self) -> None:
        """Serving starts when the server is made."""

    async def serve_forever(self) -> None:
        self._closed = self._closed or self.get_loop().create_future()
        if self.is_serving():
            try:
                await self._closed
            finally:
                self.close()

    async def wait_closed(self) -> None:
        """Nothing is left to wait for once closed."""

    def get_loop(self) -> SimLoop:
        return self.host.network.loop


class Transport(asyncio.Transport):
    """One end of a TCP connection."""

    def __init__(
        self,
        host: Host,
        flow: Flow,
        reply: bool,
        path: tuple[Link, ...],
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
        self._links = tuple(reversed(path)) if reply else path
        self._side = False  # which transmitter of each link; set with the peer
        self._context = context
        self._protocol: asyncio.BaseProtocol
        self._receive: Callable[[bytes], None]
        self._peer: Transport
        self._next_hop: tuple[Neighbor, str] | None = None
        self._last_hop: tuple[Neighbor, str] | None = None
        self._plain = False
        self._version = -1
        self._seq = isn
        self._expects = 0  # sequence number of the next byte from the peer: what this side acknowledges
        self._arrived = 0.0  # when the latest segment this side sent reaches the peer: segments stay in order
        self._in_flight = 0
        self._backlog: deque[bytes] = deque()
        self._backlog_size = 0
        self._high, self._low = 65_536, 16_384
        self._writing_paused = False
        self._reading_paused = False
        self._waiting: deque[bytes | None] = (
            deque()
        )  # arrived while reading was paused; None is the end of stream
        self._attempts = 0
        self._stalled = False
        self._closing = False
        self._fin_queued = False
        self._fin_sent = False
        self._fin_received = False
        self._lost = False

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
        protocol = cast(asyncio.BufferedProtocol, self._protocol)
        view = memoryview(data)
        while view and not self._lost:
            buffer = cast(Any, protocol.get_buffer(len(view)))
            n = min(len(buffer), len(view))
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
        return self._backlog_size

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._fin_queued:
            if self._lost or self._closing:
                return  # as asyncio does: writes after close are discarded
            raise RuntimeError("cannot write after write_eof()")
        if self._lost:
            return
        size = len(data)
        if not size:
            return
        if type(data) is not bytes:
            data = bytes(data)
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
        if not self._fin_queued:
            self._fin_queued = True
            self._flush()

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._fin_queued = True
        self._waiting.clear()
        self._flush()

    def abort(self) -> None:
        self._reset(None)

    # -- sending -----------------------------------------------------------------------------------------------

    def _maybe_pause(self) -> None:
        if not self._writing_paused and self._backlog_size > self._high:
            self._writing_paused = True
            self._protocol.pause_writing()  # whoever writes runs in this host's context already

    def _maybe_resume(self) -> None:
        if self._writing_paused and self._backlog_size <= self._low and not self._lost:
            self._writing_paused = False
            self._context.run(self._protocol.resume_writing)

    def _flush(self) -> None:
        backlog = self._backlog
        while backlog and not self._stalled and not self._lost:
            room = WINDOW - self._in_flight
            if room <= 0:
                return
            data = backlog.popleft()
            if len(data) > room:
                backlog.appendleft(data[room:])
                data = data[:room]
            self._backlog_size -= len(data)
            self._send(data)
        self._maybe_resume()
        if self._fin_queued and not self._fin_sent and not backlog and not self._stalled and not self._lost:
            self._fin_sent = True
            self._send_fin()

    def _refresh(self) -> None:
        network = self._network
        self._version = network.version
        self._plain = (
            not network.interposers
            and self._host._up
            and self._peer._host._up
            and all(link.plain for link in self._links)
        )

    def _send(self, data: bytes) -> None:
        if self._version != self._network.version:
            self._refresh()
        size = len(data)
        self._in_flight += size
        now = self._loop.env.now
        if not self._plain:
            changed = self._pass_guards(now, ACK | PSH, data)
            if not isinstance(changed, bytes):
                if changed is Verdict.REJECT:
                    self._reset(
                        ConnectionResetError(errno.ECONNRESET, "reset by the network"), tell_peer=True
                    )
                else:
                    self._stall(data)
                return
            sent = changed
        else:
            sent = data
        time = now
        frame = size + TCP_OVERHEAD * (1 + (size - 1) // SEGMENT)
        backward = self._side
        for link in self._links:
            # The queue of Link.occupy, written out: this loop is the hottest of the network.
            free = link.free
            begin = free[backward]
            if begin < time:
                begin = time
            elif begin - time > QUEUE_TIME:
                link.dropped += 1
                self._stall(data)
                return
            link.packets += 1
            link.bytes += frame
            end = begin + frame * 8 / link.bandwidth
            free[backward] = end
            time = end + link.latency
        self._attempts = 0
        self._seq = (self._seq + size) & 0xFFFFFFFF
        if time < self._arrived:
            time = self._arrived
        self._arrived = time
        self._loop.wake(time, self._peer._arrive, sent)

    def _pass_guards(self, now: float, flags: int, data: bytes) -> bytes | Verdict:
        """Ask every guard on the way; returns the payload as it arrives, or why it does not."""
        if not self._host._up or not self._peer._host._up:
            return Verdict.DROP
        packet = Packet(now, self._flow, self._reply, flags, data, self._seq, self._expects, self._macs())
        if self._network.interposers:
            hop = self._interposer()
            if hop is not None and hop.interceptor is not None:
                packet.target_mac = hop.mac
                changed = hop.interceptor(packet)
                if changed is None:
                    return Verdict.DROP
                if len(changed) != len(data):
                    raise NetworkError(
                        f"{hop.name} changed the length of a TCP payload from {len(data)} to {len(changed)} bytes"
                    )
                data = packet.payload = changed
                packet.sender_mac, packet.target_mac = hop.mac, self._peer._host.mac
        for link in self._links:
            if not link.plain:
                verdict = link.judge(packet)
                if verdict is not Verdict.ACCEPT:
                    return verdict
        return data

    def _macs(self) -> tuple[str, str]:
        return self._host.mac, self._peer._host.mac

    def _interposer(self) -> Host | None:
        mine, theirs = self._host, self._peer._host
        if mine.zone is theirs.zone:
            return mine.arp_cache.get(theirs.address)
        found = mine.arp_cache.get(mine.zone.gateway.address)
        return found if found is not None else theirs.zone.gateway.arp_cache.get(theirs.address)

    def _stall(self, data: bytes) -> None:
        """Keep an undelivered segment and try again later, as TCP does, doubling the wait each time."""
        self._in_flight -= len(data)
        self._backlog.appendleft(data)
        self._backlog_size += len(data)
        self._stalled = True
        self._attempts += 1
        if self._attempts > RETRANSMIT_TRIES:
            error = TimeoutError(errno.ETIMEDOUT, "the peer acknowledges nothing")
            self._loop.call_soon(self._end, error, context=self._context)
            return
        wait = min(RETRANSMIT_FIRST * 2 ** (self._attempts - 1), RETRANSMIT_MOST)
        self._loop.wake(self._loop.env.now + wait, self._retry)
        self._maybe_pause()

    def _retry(self, _: object) -> None:
        if not self._lost:
            self._stalled = False
            self._flush()

    def _control(self, flags: int, size: int = 0) -> float | None:
        """Send a bare FIN, RST or ACK; returns when it arrives, or None if a guard or queue stopped it."""
        if self._version != self._network.version:
            self._refresh()
        now = self._loop.env.now
        if not self._plain:
            passed = self._pass_guards(now, flags, b"")
            if not isinstance(passed, bytes):
                return None
        time: float | None = now
        for link in self._links:
            time = link.occupy(cast(float, time), TCP_OVERHEAD, self._side)
            if time is None:
                return None
        self._seq = (self._seq + size) & 0xFFFFFFFF
        time = max(cast(float, time), self._arrived)
        self._arrived = time
        return time

    def _send_fin(self) -> None:
        when = self._control(FIN | ACK, 1)
        if when is not None:
            self._loop.wake(when, self._peer._arrive_fin)
        if self._closing:
            self._loop.call_soon(self._end, None, context=self._context)

    def _reset(self, error: OSError | None, *, tell_peer: bool = True) -> None:
        if self._lost:
            return
        self._closing = self._fin_queued = True
        if tell_peer:
            when = self._control(RST | ACK)
            if when is None and error is not None:
                when = self._loop.env.now  # the guard that rejected the segment resets both sides itself
            if when is not None:
                self._loop.wake(when, self._peer._arrive_reset)
        self._backlog.clear()
        self._backlog_size = 0
        self._loop.call_soon(self._end, error, context=self._context)

    def _end(self, error: Exception | None) -> None:
        """Tell the protocol that the connection is over; runs in this host's context."""
        if self._lost:
            return
        self._lost = self._closing = self._fin_queued = True
        self._backlog.clear()
        self._waiting.clear()
        self._host.connections.pop(self, None)
        self._protocol.connection_lost(error)

    def _vanish(self) -> None:
        """The machine lost power: its programs are not told anything any more."""
        self._lost = self._closing = self._fin_queued = True
        self._backlog.clear()
        self._waiting.clear()
        self._host.connections.pop(self, None)

    # -- arriving ----------------------------------------------------------------------------------------------

    def _arrive(self, data: bytes) -> None:
        sender = self._peer
        if self._lost:
            if self._host._up and not sender._lost:
                # The program closed this end: the operating system answers with a reset.
                when = self._control(RST)
                if when is not None:
                    self._loop.wake(when, sender._arrive_reset)
            return
        self._expects = (self._expects + len(data)) & 0xFFFFFFFF
        if self._network.watchers:
            self._show_ack()
        if self._reading_paused or self._waiting:
            self._waiting.append(data)
            return
        self._context.run(self._receive, data)
        sender._in_flight -= len(data)
        if sender._backlog or sender._fin_queued:
            sender._flush()

    def _take_waiting(self) -> None:
        while self._waiting and not self._reading_paused and not self._lost:
            data = self._waiting.popleft()
            if data is None:
                self._take_fin()
                return
            self._receive(data)
            self._peer._in_flight -= len(data)
        if not self._peer._lost:
            self._peer._flush()

    def _show_ack(self) -> None:
        packet = Packet(
            self._loop.env.now, self._flow, self._reply, ACK, b"", self._seq, self._expects, self._macs()
        )
        for link in self._links:
            for tap in link.taps:
                tap(link, packet)

    def _arrive_fin(self, _: object) -> None:
        if self._lost or self._fin_received:
            return
        self._expects = (self._expects + 1) & 0xFFFFFFFF
        if self._network.watchers:
            self._show_ack()
        if self._waiting or self._reading_paused:
            self._waiting.append(None)
        else:
            self._context.run(self._take_fin)

    def _take_fin(self) -> None:
        self._fin_received = True
        keep_open = cast(asyncio.Protocol, self._protocol).eof_received()
        if not keep_open:
            self.close()

    def _arrive_reset(self, _: object) -> None:
        self._context.run(self._end, ConnectionResetError(errno.ECONNRESET, "connection reset by peer"))

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

    def sendto(self, data: Any, addr: Any = None) -> None:
        to: tuple[str, int] | None = addr or self._remote
        if to is None:
            raise ValueError("no address to send to")
        if self._closing:
            return
        network = self._host.network
        address = network.resolve(to[0])
        target = network.by_address.get(address)
        path = network.path(self._host, target) if target is not None else None
        if target is None or path is None or not self._host._up:
            return  # nobody there: UDP says nothing
        flow = Flow(
            "udp",
            self._host.address,
            address,
            self._port,
            to[1],
            self._host.name,
            target.name,
            self._host.zone.name,
            target.zone.name,
        )
        payload = bytes(data)
        macs = (self._host.mac, target.mac)
        time: float | None = network.loop.env.now
        packet = Packet(cast(float, time), flow, False, 0, payload, 0, 0, macs)
        backward = network.backward(self._host, target)
        for link in path:
            if not link.plain and link.judge(packet) is not Verdict.ACCEPT:
                return
            time = link.occupy(cast(float, time), len(payload) + UDP_OVERHEAD, backward)
            if time is None:
                return
        network.loop.wake(
            cast(float, time), target_arrival, (target, to[1], payload, (self._host.address, self._port))
        )

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

    def _arrive(self, payload: bytes, source: tuple[str, int]) -> None:
        self._context.run(self._protocol.datagram_received, payload, source)


def target_arrival(arrival: tuple[Host, int, bytes, tuple[str, int]]) -> None:
    """Hand a datagram to whoever has its port; to nobody if none has."""
    target, port, payload, source = arrival
    endpoint = target.datagrams.get(port)
    if endpoint is not None and target._up:
        endpoint._arrive(payload, source)


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
        self._sequence = self.randomness.stream("network:initial sequence numbers")
        loop.stack = self

    def links(self) -> Iterable[Link]:
        yield from self.zones.values()
        yield from self.conduits.values()

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
        """Add a zone: one local network with addresses in ``subnet`` (CIDR), s, bit/s, 0..1."""
        if name in self.zones:
            raise NetworkError(f"zone {name!r} exists already")
        zone = Zone(self, name, ipaddress.IPv4Network(subnet), latency, bandwidth, loss, trusted)
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
        return conduit

    def host(self, name: str, zone: str, address: str) -> Host:
        """Add a host to a zone."""
        home = self._zone(zone)
        if name in self.hosts:
            raise NetworkError(f"host {name!r} exists already")
        if address in self.by_address:
            raise NetworkError(
                f"host {name!r}: address {address} belongs to {self.by_address[address].name!r}"
            )
        if ipaddress.IPv4Address(address) not in home.subnet:
            raise NetworkError(f"host {name!r}: address {address} is outside zone {zone!r} ({home.subnet})")
        host = Host(self, name, home, address)
        self.hosts[name] = self.by_address[address] = host
        home.hosts.append(host)
        return host

    def _zone(self, name: str) -> Zone:
        if name not in self.zones:
            raise UnknownNameError("zone", name, self.zones)
        return self.zones[name]

    # -- finding -----------------------------------------------------------------------------------------------

    def resolve(self, name: str) -> str:
        """Address of a host name or address; ``localhost`` is the host that asks."""
        if name in self.hosts:
            return self.hosts[name].address
        if name in self.by_address:
            return name
        if name in ("localhost", "127.0.0.1"):
            return self.here().address
        try:
            return str(ipaddress.IPv4Address(name))
        except ValueError:
            raise OSError(errno.ENOENT, f"no simulated host is called {name!r}") from None

    def here(self) -> Host:
        """The host that the running code acts for."""
        host = CURRENT_HOST.get(None)
        if host is not None and host.network is self:
            return host
        if len(self.hosts) == 1:
            return next(iter(self.hosts.values()))
        raise OSError(errno.EADDRNOTAVAIL, "this code runs on no simulated host; start it with Host.spawn")

    def path(self, source: Host, target: Host) -> tuple[Link, ...] | None:
        """Links from ``source`` to ``target``, or None if no chain of conduits joins their zones."""
        if source is target:
            return ()
        first, last = source.zone, target.zone
        key = (first.name, last.name)
        if key not in self._routes:
            self._routes[key] = self._find_route(first, last)
        return self._routes[key]

    def backward(self, source: Host, target: Host) -> bool:
        """Which transmitter of each link this direction uses; any fixed rule does."""
        return source.address > target.address

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

    # -- the loop's stack --------------------------------------------------------------------------------------

    async def open_server(
        self, factory: Callable[[], asyncio.BaseProtocol], host: Any, port: int, **options: Any
    ) -> Server:
        """``loop.create_server``: listen on the current host."""
        here = self.here()
        if host not in (None, "", "0.0.0.0", "::", "localhost", "127.0.0.1"):
            address = self.resolve(host)
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
            wrap = _server_wrapper(self.loop, context, options.get("ssl_handshake_timeout"))
        server = Server(here, port, factory, contextvars.copy_context(), wrap)
        server.sockets = [_Listening((here.address, port))]
        here.listeners[port] = server
        return server

    async def open_connection(
        self, factory: Callable[[], asyncio.BaseProtocol], host: str, port: int, **options: Any
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        """``loop.create_connection``: three-way handshake, then TLS if ``ssl`` is given.

        Raises ConnectionRefusedError (closed port, or a policy that rejects), TimeoutError (nothing answers for 127 s)
        or OSError (no such address, no route).
        """
        here = self.here()
        transport = await self._handshake(here, self.resolve(host), port, options.get("local_addr"))
        context = options.get("ssl")
        if context is None:
            protocol = factory()
            transport.set_protocol(protocol)
            protocol.connection_made(transport)
            return transport, protocol
        if context is True:
            context = tls.create_default_context()
        protocol = factory()
        waiter: asyncio.Future[None] = self.loop.create_future()
        secure = sslproto.SSLProtocol(
            self.loop,
            protocol,
            context,
            waiter,
            False,
            options.get("server_hostname") or host,
            ssl_handshake_timeout=options.get("ssl_handshake_timeout"),
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
        loop = self.loop
        target = self.by_address.get(address)
        if target is None:
            await asyncio.sleep(ARP_TIME)
            raise OSError(errno.EHOSTUNREACH, f"no host has address {address}")
        path = self.path(here, target)
        if path is None:
            raise OSError(errno.ENETUNREACH, f"no conduit leads from {here.zone.name} to {target.zone.name}")
        source_port = local[1] if local and local[1] else here.free_port()
        flow = Flow(
            "tcp",
            here.address,
            address,
            source_port,
            port,
            here.name,
            target.name,
            here.zone.name,
            target.zone.name,
        )
        context = contextvars.copy_context()
        isn = self._sequence.getrandbits(32)
        client = Transport(here, flow, False, path, context, isn)
        server = Transport(target, flow, True, path, context, self._sequence.getrandbits(32))
        client._peer, server._peer = server, client
        client._side = self.backward(here, target)
        server._side = not client._side
        for wait in SYN_WAITS:
            if not here._up:
                raise OSError(errno.ENETDOWN, f"{here.name} is off")
            verdict, arrival = self._send_syn(client, loop.env.now)
            if verdict is Verdict.REJECT:
                await asyncio.sleep(max(0.0, arrival - loop.env.now) or path[0].latency * 2)
                raise ConnectionRefusedError(errno.ECONNREFUSED, f"{address}:{port} is refused on the way")
            if verdict is Verdict.ACCEPT and target._up:
                break
            await asyncio.sleep(wait)
        else:
            raise TimeoutError(errno.ETIMEDOUT, f"{address}:{port} does not answer")
        client._seq = (client._seq + 1) & 0xFFFFFFFF
        server._expects = client._seq
        await _until(loop, arrival)
        listener = target.listeners.get(port) if target._up else None
        if listener is None:
            back = server._control(RST | ACK)
            await _until(loop, back if back is not None else loop.env.now)
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"{address}:{port} refused the connection")
        back = server._control(SYN | ACK, 1)
        if back is None:
            # One lost SYN-ACK: the client's next SYN fetches another; the wait is what the user sees of it.
            await asyncio.sleep(SYN_WAITS[0])
            back = server._control(SYN | ACK, 1)
            if back is None:
                await asyncio.sleep(sum(SYN_WAITS[1:]))
                raise TimeoutError(errno.ETIMEDOUT, f"{address}:{port} does not answer")
        client._expects = server._seq
        await _until(loop, back)
        server._context = listener.context
        here.connections[client] = None
        arrival_of_ack = client._control(ACK)
        loop.wake(arrival_of_ack if arrival_of_ack is not None else loop.env.now, _accept, (listener, server))
        return client

    def _send_syn(self, client: Transport, now: float) -> tuple[Verdict, float]:
        passed = Verdict.ACCEPT
        if client._version != self.version:
            client._refresh()
        if not client._plain:
            checked = client._pass_guards(now, SYN, b"")
            if not isinstance(checked, bytes):
                passed = checked
        time: float | None = now
        for link in client._links:
            time = link.occupy(cast(float, time), TCP_OVERHEAD, client._side)
            if time is None:
                return Verdict.DROP, now
        return passed, cast(float, time)

    async def open_datagrams(
        self,
        factory: Callable[[], asyncio.BaseProtocol],
        local: tuple[str, int] | None,
        remote: tuple[str, int] | None,
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        """``loop.create_datagram_endpoint`` on the current host."""
        here = self.here()
        port = local[1] if local and local[1] else here.free_port()
        if port in here.datagrams:
            raise OSError(errno.EADDRINUSE, f"UDP port {port} of {here.name} is taken already")
        protocol = cast(asyncio.DatagramProtocol, factory())
        resolved = (self.resolve(remote[0]), remote[1]) if remote else None
        transport = DatagramTransport(here, port, protocol, resolved, contextvars.copy_context())
        here.datagrams[port] = transport
        protocol.connection_made(transport)
        return transport, protocol


class _Listening:
    """What ``server.sockets[0]`` must answer."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address

    def getsockname(self) -> tuple[str, int]:
        return self._address


def _accept(pair: tuple[Server, Transport]) -> None:
    listener, transport = pair
    peer = transport._peer
    if not transport._host._up or listener.host.listeners.get(listener.port) is not listener:
        peer._arrive_reset(None)
        transport._vanish()
        return
    transport._host.connections[transport] = None

    def begin() -> None:
        protocol = listener.accept()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)

    # A context can be entered once at a time; each connection gets its own copy of the listener's.
    transport._context = listener.context.copy()
    transport._context.run(begin)


async def _until(loop: SimLoop, when: float) -> None:
    if when > loop.env.now:
        done: asyncio.Future[None] = loop.create_future()
        loop.call_at(when, _set, done)
        await done


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _server_wrapper(
    loop: SimLoop, context: tls.SSLContext, handshake_timeout: Any
) -> Callable[[asyncio.BaseProtocol], asyncio.BaseProtocol]:
    #: none waits for the handshake: the class takes None, its stub does not say so
    nobody = cast("asyncio.Future[Any]", None)

    def wrap(protocol: asyncio.BaseProtocol) -> asyncio.BaseProtocol:
        return sslproto.SSLProtocol(
            loop,
            protocol,
            context,
            nobody,
            True,
            ssl_handshake_timeout=handshake_timeout,
            call_connection_made=True,
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
