"""The ways of the network: zones, conduits, and what each does to a packet that passes it."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Network
from typing import TYPE_CHECKING

from testbed.errors import NetworkError, UnknownNameError
from testbed.packets import ArpReply, Packet, Verdict

if TYPE_CHECKING:
    from testbed.hosts import Host
    from testbed.network import Network

#: A switch or firewall port holds this much traffic (s) before it drops more. Assumption.
QUEUE_TIME = 0.2

#: A switch whose queue is longer than this (s) is asked about every packet, until it has had nothing to do for so long.
CROWDED, CALM = 0.001, 1.0

Policy = Callable[[Packet], Verdict]
Tap = Callable[["Link", Packet], None]
ArpTap = Callable[["Link", ArpReply], None]
Observer = Callable[["Link", Packet, str, Verdict], None]


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


class SharedLane(Lane):
    """A lane of a zone that is a virtual LAN of a switch: every frame takes its part of the switch's engine too."""

    __slots__ = ("switch",)

    def __init__(self, link: Link, switch: Switch) -> None:
        super().__init__(link)
        self.switch = switch

    def carry(self, start: float, size: int) -> float | None:
        done = self.switch.forward(start, size)
        if done is None:
            self.link.dropped += 1
            return None
        arrival = super().carry(start, size)
        # Forwarding and sending go on at once: whichever ends last decides.
        return arrival if arrival is None or arrival >= done + self.latency else done + self.latency


class Switch:
    """One physical switch, whose forwarding engine (``bandwidth``, bit/s) is one for all the zones that are on it.

    ``looped`` is a loop of cables: broadcast frames circulate until nothing else gets through, in every zone on the
    switch. ``negotiates`` is how switches are shipped: a port becomes a trunk, a member of every zone on the switch,
    for whoever speaks the protocol for it, which is how attackers hop from one virtual LAN to another.
    """

    __slots__ = ("_crowded", "_looped", "byte_time", "dropped", "free", "name", "negotiates", "zones")

    def __init__(self, name: str, bandwidth: float) -> None:
        if not bandwidth > 0:
            raise NetworkError(f"switch {name!r}: bandwidth cannot be {bandwidth:g} bit/s")
        self.name = name
        self.byte_time = 8 / bandwidth
        self.free = 0.0
        self.dropped = 0
        self._looped = False
        self._crowded = False
        self.negotiates = True
        self.zones: dict[str, Zone] = {}

    @property
    def looped(self) -> bool:
        return self._looped

    @looped.setter
    def looped(self, value: bool) -> None:
        self._looped = value
        self._crowd(value)

    def _crowd(self, crowded: bool) -> None:
        """While the engine has room, no packet needs to ask for it: its zones' traffic takes the short way."""
        self._crowded = crowded
        for zone in self.zones.values():
            zone.crowded = crowded

    def attach(self, zone: Zone) -> None:
        """Take ``zone`` on, off whatever switch it was on."""
        if isinstance(zone.lanes[0], SharedLane):
            del zone.lanes[0].switch.zones[zone.name]
        self.zones[zone.name] = zone
        zone.set_lanes((SharedLane(zone, self), SharedLane(zone, self)))

    def forward(self, start: float, size: int) -> float | None:
        """When ``size`` bytes that come at ``start`` are through the engine; None if they are lost before it."""
        begin = self.free
        if begin < start:
            if self._crowded and not self._looped and start - begin > CALM:
                self._crowd(False)
            begin = start
        elif begin - start > CROWDED and not self._crowded:
            self._crowd(True)
        if self._looped or begin - start > QUEUE_TIME:
            self.dropped += 1
            return None
        self.free = end = begin + size * self.byte_time
        return end

    def trunk(self, host: Host, into: str) -> bool:
        """Whether ``host`` makes itself a member of zone ``into`` by asking its port of this switch to be a trunk."""
        return self.negotiates and host.zone.name in self.zones and into in self.zones

    def __repr__(self) -> str:
        return f"<switch {self.name}: {', '.join(self.zones)}>"


class Link:
    """A zone's local network or a conduit: latency (s), bandwidth (bit/s), loss (0..1), policies and taps.

    Policies are asked in order and the first that does not accept decides. ``fail_closed`` says what happens while
    ``guard_up`` is false (the firewall has failed): False lets everything pass, as an unpowered bypass does.
    ``bypassed`` is a guard that its administrator has told to let everything pass. ``cut`` stops all traffic at once
    (island mode). ``diode`` is hardware that decides beside the guard, whatever state that is in.
    """

    __slots__ = (
        "_arp_of_tap",
        "_bandwidth",
        "_bypassed",
        "_crowded",
        "_cut",
        "_diode",
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
        self.lanes: tuple[Lane, Lane] = (Lane(self), Lane(self))
        self.policies: list[tuple[str, Policy]] = []
        self.taps: list[Tap] = []
        self.arp_taps: list[ArpTap] = []
        self._arp_of_tap: list[tuple[Tap, ArpTap]] = []
        self.observers: list[Observer] = []
        self._cut = False
        self._bypassed = False
        self._crowded = False
        self._diode: Policy | None = None
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
        self.plain = not (
            self.policies
            or self.taps
            or self._loss
            or self._cut
            or self._diode
            or self._crowded
            or not self._guard_up
        )
        self.network.version += 1

    def set_lanes(self, lanes: tuple[Lane, Lane]) -> None:
        """Send through ``lanes`` from now on; call before anything is sent."""
        self.lanes = lanes
        self.latency, self.bandwidth = self._latency, self._bandwidth
        self.network.forget_ways()

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
    def crowded(self) -> bool:
        """Whether the hardware below has so little room that every packet must ask for it."""
        return self._crowded

    @crowded.setter
    def crowded(self, value: bool) -> None:
        self._crowded = value
        self._refresh()

    @property
    def bypassed(self) -> bool:
        return self._bypassed

    @bypassed.setter
    def bypassed(self, value: bool) -> None:
        self._bypassed = value
        self._refresh()

    @property
    def diode(self) -> Policy | None:
        return self._diode

    @diode.setter
    def diode(self, value: Policy | None) -> None:
        self._diode = value
        self._refresh()

    @property
    def guarded(self) -> bool:
        """Whether nothing passes that the policies, the cut or the failed guard's closed state would not let pass."""
        return self._cut or (not self._bypassed and (self._guard_up or self._fail_closed))

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

    def add_policy(self, name: str, policy: Policy, *, first: bool = False) -> None:
        """Ask ``policy`` too about each packet, last or ``first``; ``name`` is what observers and logs show."""
        self.policies.insert(0 if first else len(self.policies), (name, policy))
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
        if self._diode is not None and self._diode(packet) is not Verdict.ACCEPT:
            self.dropped += 1  # a diode has nothing that could tell anybody
            return Verdict.DROP
        if self._bypassed:
            pass
        elif self._guard_up:
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
        subnet: IPv4Network,
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
        self.gateway = Neighbor(str(subnet[1]), mac_of(int(subnet[1])))

    def free_address(self) -> str:
        """The last address of the subnet that nobody has; NetworkError if there is none."""
        taken = {host.address for host in self.hosts} | {self.gateway.address}
        for address in reversed(list(self.subnet.hosts())):
            if str(address) not in taken:
                return str(address)
        raise NetworkError(f"zone {self.name!r} has no free address left")


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


def mac_of(number: int) -> str:
    """A locally administered MAC made from an IPv4 address, so that it never depends on the order of building."""
    return ":".join(f"{byte:02x}" for byte in (0x02, 0x00, *number.to_bytes(4, "big")))
