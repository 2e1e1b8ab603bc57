"""FR 7, resource availability: does it keep working?"""

from __future__ import annotations

from collections.abc import Callable

from controls.shapes import Check, Control, Needs, by_zone
from controls.verification import STRANGER, every_controller
from devices.inventory import Component
from devices.modbus import Access, Peer
from devices.plc import ILLEGAL_FUNCTION, Plc
from devices.recovery import Protection
from devices.world import World
from testbed.firewall import PortLimit, RateLimit

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


def contained_load(world: World) -> None:
    """SR 7.1 RE 2: a switch port takes so many bytes a second from one host, so that no host floods other networks."""
    rate, burst = world.figures["ra.egress_rate"], world.figures["ra.egress_burst"]
    for zone in world.network.zones.values():
        zone.add_policy("SR 7.1 RE 2", PortLimit(zone.subnet, rate, burst))


def _ports_limited(world: World) -> dict[str, bool]:
    return {
        name: any(policy == "SR 7.1 RE 2" for policy, _ in zone.policies)
        for name, zone in world.network.zones.items()
    }


def bounded_security(world: World) -> None:
    """SR 7.2: the handshakes of secured connections get a bounded share of a PLC's processor."""
    share, burst = world.figures["plc.handshake_share"], world.figures["plc.handshake_burst"]
    for plc in world.plcs.values():
        plc.seams.handshake_share = share
        plc.seams.handshake_burst = burst


def _load_managed(world: World) -> dict[str, bool]:
    limited = {
        link.name: any(policy == "SR 7.1 RE 1" for policy, _ in link.policies)
        for link in world.network.zones.values()
    }
    fair = every_controller(lambda plc: plc.seams.fair)(world)
    return {zone: on and fair.get(zone, True) for zone, on in limited.items()}


def _no_diagnostics(plc: Plc) -> bool:
    """Ask as a stranger for a function that no task needs; only the answer of the seams counts, nothing is done."""
    access = Access(8, "diagnose")
    return any(authorize(STRANGER, access) is not None for authorize in plc.seams.authorize)


def least_functionality(world: World) -> None:
    """SR 7.7: a PLC answers no function that its task does not need."""
    for name, plc in world.plcs.items():
        plc.seams.authorize.append(_needed(world, name))


def backup(world: World) -> None:
    """SR 7.3: the backup server has copies of every program and station configuration, taken by hand now and then."""
    age = world.stream("age of backups").expovariate(1 / world.figures["backup.age"])
    _stock(world, -age)
    for name, keeper in world.keepers.items():
        keeper.habits.by_hand = _by_hand(world, name)


def _stock(world: World, taken: float) -> None:
    """Put the copies of before the run on the servers; they came there as later ones do."""
    for keeper in world.keepers.values():
        for server in (world.backup_servers[name] for name in keeper.servers if name in world.backup_servers):
            for plc, source in keeper.released.items():
                server.keep(f"{plc}/program", taken, source.encode())
                keeper.taken[plc] = taken
            for hmi in world.hmis.values():
                server.keep(f"{hmi.name}/configuration", taken, hmi.asset.model_dump_json().encode())


def _by_hand(world: World, keeper: str) -> Callable[[], float | None]:
    stream = world.stream(f"backups by hand:{keeper}")
    forgotten, delay = world.figures["backup.forgotten"], world.figures.lognormal("backup.by_hand")
    return lambda: None if stream.random() < forgotten else stream.lognormvariate(*delay)


def _copies_there(world: World) -> dict[str, bool]:
    return {
        world.site.assets[name].zone: world.backup_servers[name].host.up
        and all(f"{plc}/program" in world.backup_servers[name].copies for plc in keeper.released)
        for keeper in world.keepers.values()
        for name in keeper.servers
    }


def backup_verification(world: World) -> None:
    """SR 7.3 RE 1: every copy is read back, compared and test-restored at times; one that fails is taken afresh."""
    for keeper in world.keepers.values():
        keeper.habits.verify_every = world.figures["backup.verify_every"]


def _copies_trusted(world: World) -> dict[str, bool]:
    return {
        world.site.assets[name].zone: all(keeper.trusted.values()) for name, keeper in world.keepers.items()
    }


def backup_automation(world: World) -> None:
    """SR 7.3 RE 2: copies are uploaded from the PLCs and stored at a set frequency, without anybody."""
    every = world.figures["backup.every"]
    _stock(world, -world.stream("phase of backups").uniform(0, every))
    for keeper in world.keepers.values():
        keeper.habits.every = every


def _copies_fresh(world: World) -> dict[str, bool]:
    """The last copies are younger than two periods: one may fail."""
    now = world.loop.time()
    return {
        world.site.assets[name].zone: keeper.habits.every is None
        or all(now - taken <= 2 * keeper.habits.every for taken in keeper.taken.values())
        for name, keeper in world.keepers.items()
    }


def recovery(world: World) -> None:
    """SR 7.4: a tried procedure brings a wrecked device back, with the security settings that it had."""
    world.recovery.pace = "recovery.prepared"

    def put_back(name: str, lost: Protection) -> None:
        world.plcs[name].seams = lost.seams
        agent = world.settings_agents[name]
        agent.community, agent.service = lost.community, lost.service

    world.recovery.reinstate.append(put_back)


def _recovered_whole(world: World) -> dict[str, bool]:
    return {world.site.assets[name].zone: False for name in world.recovery.bare}


def emergency_power(world: World) -> None:
    """SR 7.5: the supply carries controllers, station and firewalls through an outage, security state and all."""
    for ups in world.upses.values():
        ups.seams.on_line = True


def _supply_ready(world: World) -> dict[str, bool]:
    return {
        world.site.assets[load.name].zone: ups.ready
        for ups in world.upses.values()
        for load in ups.loads
        if load.name in world.site.assets
    }


def settings(world: World) -> None:
    """SR 7.6: devices are set as their supplier recommends, and people view the settings at times and correct them."""
    stream = world.stream("settings")
    community = f"{stream.getrandbits(80):020x}"
    review, view = (world.figures.lognormal(f"settings.{what}") for what in ("review", "view"))
    for agent in world.settings_agents.values():
        agent.community, agent.service = community, "off"
    for record in world.settings_records.values():
        record.community = community
        record.record({"community": "own", "service": "off"})
        record.next_review = lambda: stream.lognormvariate(*review)
        record.view = lambda: stream.lognormvariate(*view)


def _as_recorded(world: World) -> dict[str, bool]:
    return by_zone(
        (world.site.assets[name].zone, world.settings_agents[name].settings() == wanted)
        for record in world.settings_records.values()
        for name, wanted in record.baseline.items()
    )


def settings_reporting(world: World) -> None:
    """SR 7.6 RE 1: a tool reads every device's settings as JSON, compares them with the record and corrects them."""
    for record in world.settings_records.values():
        record.every = world.figures["settings.compare_every"]


def inventory(world: World) -> None:
    """SR 7.8: components and their versions are listed, and who is plugged in is compared with the list."""
    for kept in world.inventories.values():
        kept.every = world.figures["inventory.compare_every"]
        kept.components = {
            name: Component(name, asset.zone, asset.address, asset.vendor, asset.product, asset.firmware)
            for name, asset in world.site.assets.items()
        }


def _all_listed(world: World) -> dict[str, bool]:
    return {zone: False for kept in world.inventories.values() for _, zone, _ in kept.strangers()}


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
    "SR 7.1 RE 2": contained_load,
    "SR 7.2": bounded_security,
    "SR 7.3": backup,
    "SR 7.3 RE 1": backup_verification,
    "SR 7.3 RE 2": backup_automation,
    "SR 7.4": recovery,
    "SR 7.5": emergency_power,
    "SR 7.6": settings,
    "SR 7.6 RE 1": settings_reporting,
    "SR 7.7": least_functionality,
    "SR 7.8": inventory,
}

#: What must be in force for a requirement to mean anything.
NEEDS: Needs = {
    "SR 7.1 RE 1": ("SR 7.1",),
    "SR 7.3 RE 1": ("SR 7.3",),
    "SR 7.3 RE 2": ("SR 7.3",),
    "SR 7.6 RE 1": ("SR 7.6",),
}

#: Whether a requirement that is in force does its work, zone by zone; one without a check does while it is on.
CHECKS: dict[str, Check] = {
    "SR 7.1": every_controller(lambda plc: plc.seams.requests_per_scan is not None),
    "SR 7.1 RE 1": _load_managed,
    "SR 7.1 RE 2": _ports_limited,
    "SR 7.2": every_controller(lambda plc: plc.seams.handshake_share is not None),
    "SR 7.7": every_controller(_no_diagnostics),
    "SR 7.3": _copies_there,
    "SR 7.3 RE 1": _copies_trusted,
    "SR 7.3 RE 2": _copies_fresh,
    "SR 7.4": _recovered_whole,
    "SR 7.5": _supply_ready,
    "SR 7.6": _as_recorded,
    "SR 7.6 RE 1": _as_recorded,
    "SR 7.8": _all_listed,
}
