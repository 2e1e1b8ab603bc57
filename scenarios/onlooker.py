"""What a passive recorder on a site's taps writes down: flows, and the values of the process that answers carry."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from devices.monitor import Monitor
from devices.process_watch import ProcessWatch
from devices.world import World
from testbed.errors import OtlabError
from testbed.network import Link, Packet


@dataclass(slots=True)
class FlowSeen:
    """One connection, or one exchange of datagrams, seen from who opened it; times in s, payload in bytes."""

    protocol: str
    source: str
    source_port: int
    target: str
    target_port: int
    source_name: str
    target_name: str
    first: float
    last: float
    packets_out: int = 0
    packets_back: int = 0
    bytes_out: int = 0
    bytes_back: int = 0


class Onlooker:
    """Records a world without touching it; call ``attach`` before the world starts.

    ``samples`` has (time in s, value by tag) each second, as the first monitor's taps show them; ``flows`` every flow
    on any link.
    """

    def __init__(self) -> None:
        self.samples: list[tuple[float, dict[str, float]]] = []
        self.flows: list[FlowSeen] = []
        self.units: dict[str, str] = {}
        self._open: dict[int, tuple[object, FlowSeen]] = {}
        self._latest: Packet | None = None

    def attach(self, world: World) -> None:
        """Look on from now; OtlabError if the site has no network monitor on whose taps to look."""
        if not world.monitors:
            raise OtlabError(f"site {world.site.name!r} has no network monitor whose taps could be recorded")
        place = next(iter(world.monitors.values()))
        controllers = {
            world.site.assets[name].address: each for name, each in world.site.controllers().items()
        }
        self.units = {name: tag.unit for each in controllers.values() for name, tag in each.tags.items()}
        recorder = Monitor(place.host, "recorder", place.links, ())
        recorder.process = ProcessWatch(place.host, controllers)
        recorder.process.on_sample.append(lambda time, values: self.samples.append((time, values)))
        recorder.start()
        for link in (*world.network.zones.values(), *world.network.conduits.values()):
            link.add_tap(self._see)

    def _see(self, link: Link, packet: Packet) -> None:
        if packet is self._latest:
            return
        self._latest = packet
        flow = packet.flow
        known = self._open.get(id(flow))
        if known is None:
            seen = FlowSeen(
                flow.protocol,
                flow.source,
                flow.source_port,
                flow.target,
                flow.target_port,
                flow.source_name,
                flow.target_name,
                packet.time,
                packet.time,
            )
            self._open[id(flow)] = (flow, seen)  # the flow is kept, so that its id stays its own
            self.flows.append(seen)
        else:
            seen = known[1]
        seen.last = packet.time
        if packet.reply:
            seen.packets_back += 1
            seen.bytes_back += len(packet.payload)
        else:
            seen.packets_out += 1
            seen.bytes_out += len(packet.payload)

    def tags(self) -> list[str]:
        """Every tag that was seen, in order of name."""
        return sorted({tag for _, values in self.samples for tag in values})

    def rows(self) -> Iterator[tuple[float, list[float | None]]]:
        """Time and the value of every tag of ``tags``; None where none was seen lately."""
        names = self.tags()
        for time, values in self.samples:
            yield time, [values.get(name) for name in names]
