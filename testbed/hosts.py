"""The machines of the network, the programs they run and the ports they listen on."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from ipaddress import IPv4Address
from socket import AF_INET
from typing import TYPE_CHECKING, Any

from testbed.clock import LIFE, Life, SimLoop
from testbed.errors import NetworkError
from testbed.links import Neighbor, Zone, mac_of
from testbed.packets import ArpReply, Packet

if TYPE_CHECKING:
    from testbed.network import Network
    from testbed.transports import DatagramTransport, Transport

#: What an interposed host does with a packet: the payload to send on, or None to swallow it.
Interceptor = Callable[[Packet], bytes | None]
#: The host on whose behalf the running code acts; set by ``Host.spawn`` and inherited by every task and callback.
CURRENT_HOST: contextvars.ContextVar[Host] = contextvars.ContextVar("current_host")


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
        super().__init__(address, mac_of(int(IPv4Address(address))))
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
        self.withdraw_all()
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

    def withdraw_all(self) -> None:
        """Stand between nobody any more."""
        for forgery in list(self._forgeries):
            self.withdraw(forgery.first, forgery.second)

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
