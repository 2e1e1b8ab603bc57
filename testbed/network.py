"""The in-memory network: hosts with addresses in zones, joined only by conduits.

Zones and conduits are IEC 62443's words. A zone is one local network; traffic between zones passes each conduit on
the way, where the policies of a firewall decide and taps look on. Protocols see ordinary asyncio transports: TCP with
its handshake, order, flow control, retransmission, resets and time-outs, and UDP.

The unit of work is one write, not one frame: a write of 20 kB crosses as one event and is shown to taps as one
packet, which a capture splits into the frames that a 1,460-byte segment size makes of it. All that decides about a
packet (policies, loss, full queues) is asked when it is sent. Acknowledgments cost no time; they are shown to taps,
because real captures have them.

Below this module, in the order of dependence: packets, links (zones and conduits), hosts, transports. Import their
names from here.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import ssl as tls
from asyncio import sslproto
from collections import deque
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network
from socket import EAI_NONAME, gaierror
from typing import Any, cast

from testbed.clock import LIFE, SimLoop
from testbed.errors import NetworkError, UnknownNameError
from testbed.hosts import CURRENT_HOST, Host, Interceptor, Server
from testbed.links import ArpTap, Conduit, Hop, Link, Neighbor, Observer, Policy, Switch, Tap, Zone
from testbed.packets import (
    ACK,
    FIN,
    PSH,
    RST,
    SEGMENT,
    SEQUENCE,
    SYN,
    TCP_OVERHEAD,
    ArpReply,
    Flow,
    Packet,
    Verdict,
)
from testbed.randomness import Randomness
from testbed.transports import WINDOW, DatagramTransport, Transport

__all__ = [
    "ACK",
    "CURRENT_HOST",
    "FIN",
    "PSH",
    "RST",
    "SEGMENT",
    "SEQUENCE",
    "SYN",
    "WINDOW",
    "ArpReply",
    "ArpTap",
    "Conduit",
    "DatagramTransport",
    "Flow",
    "Hop",
    "Host",
    "Interceptor",
    "Link",
    "Neighbor",
    "Network",
    "Observer",
    "Packet",
    "Policy",
    "Server",
    "Switch",
    "Tap",
    "Transport",
    "Verdict",
    "Zone",
    "networked_loop",
]

#: Linux's waits after each unanswered SYN (tcp_syn_retries = 6), seconds.
SYN_WAITS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
#: Resolving an address that nobody has takes three ARP requests, one a second (Linux's mcast_solicit, retrans_time).
ARP_TIME = 3.0


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

    def forget_ways(self) -> None:
        """Find every way anew: lanes have been replaced."""
        self._hops.clear()
        self.version += 1

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
            network = IPv4Network(subnet)
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
            number = IPv4Address(address)
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
            return str(IPv4Address(name))
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
        number = IPv4Address(address)
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
            if self.interposers or not link.plain:
                packet.sender_mac, packet.target_mac = hop.macs
                attacker = hop.sender.arp_cache.get(hop.receiver.address)
                if attacker is not None:
                    forged = self._detour(packet, hop, attacker)
                    if forged is None:
                        return Verdict.DROP, time, place, packet
                    packet = forged
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


def networked_loop() -> SimLoop:
    """A loop with one zone and one host, ``localhost``: enough for a program that talks to itself."""
    loop = SimLoop()
    network = Network(loop)
    network.zone("local", "10.0.0.0/24")
    network.host("localhost", "local", "10.0.0.2")
    return loop
