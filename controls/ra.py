"""FR 7, resource availability: does it keep working?"""

from __future__ import annotations

from collections.abc import Callable

from controls.shapes import Check, Control, Needs
from devices.modbus import Access, Peer
from devices.plc import ILLEGAL_FUNCTION
from devices.world import World
from testbed.firewall import RateLimit

#: What monitoring and control need; programs move by 20 and 21 from the workstation only.
NEEDED = frozenset({1, 2, 3, 4, 5, 6, 15, 16, 17, 43})


def bounded_communication(world: World) -> None:
    """SR 7.1: a PLC serves a bounded number of requests a scan, so that a flood cannot take the scan's time."""
    share = world.figures["plc.communication_share"]
    cost = world.figures["plc.request_cost"]
    for plc in world.plcs.values():
        plc.seams.requests_per_scan = max(1, int(share * plc.scan_time / cost))
        plc.seams.max_connections = int(world.figures["plc.max_connections"])


def managed_load(world: World) -> None:
    """SR 7.1 RE 1: peers are served in turn, and each conduit limits the rate of every source."""
    rate, burst = world.figures["ra.source_rate"], world.figures["ra.source_burst"]
    for plc in world.plcs.values():
        plc.seams.fair = True
    for link in world.network.links():
        link.add_policy("SR 7.1 RE 1", RateLimit(rate, burst, per_source=True))


def least_functionality(world: World) -> None:
    """SR 7.7: a PLC answers no function that its task does not need."""
    for name, plc in world.plcs.items():
        plc.seams.authorize.append(_needed(world, name))


def _needed(world: World, plc: str) -> Callable[[Peer, Access], int | None]:
    engineers = world.programmers(plc)

    def authorize(peer: Peer, access: Access) -> int | None:
        if access.function in NEEDED or (access.function in (20, 21) and peer.address in engineers):
            return None
        return ILLEGAL_FUNCTION

    return authorize


CONTROLS: dict[str, Control] = {
    "SR 7.1": bounded_communication,
    "SR 7.1 RE 1": managed_load,
    "SR 7.7": least_functionality,
}

#: What must be in force for a requirement to mean anything.
NEEDS: Needs = {"SR 7.1 RE 1": ("SR 7.1",)}

#: Whether a requirement that is in force does its work, zone by zone; one without a check does while it is on.
CHECKS: dict[str, Check] = {}
