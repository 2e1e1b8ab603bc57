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
