"""FR 5, restricted data flow: may it pass?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from controls.shapes import Check, Control, Needs, by_zone
from controls.verification import STRANGER
from devices.audit import Audit
from devices.mail import MESSAGE_PORTS, MailServer, Submission
from devices.siem import SecurityAlert, Siem
from devices.status_link import StatusReceiver, StatusSender
from devices.world import World
from testbed import site as sites
from testbed.firewall import AllowList, ModbusInspection, OneWay, Rule
from testbed.network import (
    SYN,
    Conduit,
    Flow,
    Link,
    Observer,
    Packet,
    Policy,
    Switch,
    Verdict,
    Zone,
)

#: Protocols that go over UDP.
DATAGRAMS = frozenset({"syslog", "auth", "ntp", "dns", "status"})
#: A port that nobody serves (RFC 863, discard): what acceptance tests knock at.
DOOR = 9
#: What somebody in charge is asked for.
ISLAND_REQUEST = "island mode"
#: An alert that a test of the site's own gave: a matter for maintenance.
TEST_FAILED = "security function failed"


def documented_rules(world: World) -> list[Rule]:
    """The site's legitimate flows as firewall rules, each once."""
    rules: dict[Rule, None] = {}
    for flow in world.legitimate_flows():
        protocol: Literal["tcp", "udp"] = "udp" if flow.protocol in DATAGRAMS else "tcp"
        functions = frozenset(flow.functions) if flow.functions is not None else None
        rules[Rule(flow.source, flow.target, protocol, flow.port, functions, flow.registers)] = None
    return list(rules)


def segmentation(world: World) -> None:
    """SR 5.1: a conduit carries traffic of the two zones it joins; nothing passes through a zone to a third."""
    names = {(rule.source, rule.target) for rule in documented_rules(world)}
    for conduit in world.network.conduits.values():
        world.boundaries[conduit.name].arm()
        conduit.add_policy("SR 5.1", _between(conduit, names))


def _between(conduit: Conduit, documented: set[tuple[str | None, str | None]]) -> Policy:
    ends = {zone.name for zone in conduit.zones}

    def policy(packet: Packet) -> Verdict:
        flow = packet.flow
        if (flow.source_name, flow.target_name) in documented or {flow.source_zone, flow.target_zone} <= ends:
            return Verdict.ACCEPT
        return Verdict.DROP

    return policy


def boundary_protection(world: World) -> None:
    """SR 5.2: traffic at boundaries is watched, and an untrusted zone opens nothing into a trusted one undocumented."""
    names = {(rule.source, rule.target) for rule in documented_rules(world)}
    for conduit in world.network.conduits.values():
        world.boundaries[conduit.name].arm()
        conduit.add_policy("SR 5.2", _inbound(world, names))
        conduit.observers.append(_denials(world, conduit))


def _inbound(world: World, documented: set[tuple[str | None, str | None]]) -> Policy:
    trusted = {name for name, zone in world.network.zones.items() if zone.trusted}

    def policy(packet: Packet) -> Verdict:
        flow = packet.flow
        if flow.source_zone in trusted or flow.target_zone not in trusted:
            return Verdict.ACCEPT
        return Verdict.ACCEPT if (flow.source_name, flow.target_name) in documented else Verdict.DROP

    return policy


def _denials(world: World, conduit: Conduit) -> Observer:
    audit = world.boundary_audits.setdefault(conduit.name, Audit(conduit.name))

    def observe(_link: Link, packet: Packet, policy: str, _verdict: Verdict) -> None:
        audit(
            "boundary.denied",
            peer=packet.source,
            target=packet.target,
            port=packet.target_port,
            policy=policy,
        )

    return observe


def deny_by_default(world: World) -> None:
    """SR 5.2 RE 1: only documented flows pass, and of Modbus only the documented functions and registers."""
    rules = documented_rules(world)
    for conduit in world.network.conduits.values():
        world.boundaries[conduit.name].arm()
        conduit.add_policy("SR 5.2 RE 1", AllowList(rules))
        conduit.add_policy("SR 5.2 RE 1 inspection", ModbusInspection(rules))


def physical_segmentation(world: World) -> None:
    """SR 5.1 RE 1: each zone has a switch of its own: what fills, fails or is talked over in one stays in it."""
    for switch in list(world.switches.values()):
        for zone in list(switch.zones.values())[1:]:
            _own_switch(world, switch, zone)


def _own_switch(world: World, shared: Switch, zone: Zone) -> None:
    name = f"{shared.name}_{zone.name}"
    world.switches[name] = Switch(name, 8 / shared.byte_time)
    world.switches[name].attach(zone)


def independence(world: World) -> None:
    """SR 5.1 RE 2: stations ask name servers of the control system itself, never those of another network."""
    own = {
        name: server for name, server in world.name_servers.items() if world.own(world.site.assets[name].zone)
    }
    for station, resolver in world.resolvers.items():
        resolver.servers = [(server.host.address, server.port) for server in own.values()]
        for name, server in own.items():
            world.added_flows.append(
                sites.Flow(source=station, target=name, port=server.port, protocol="dns", purpose="names")
            )


def critical_isolation(world: World) -> None:
    """SR 5.1 RE 3: safety zones have hardware of their own and a diode: they tell their values, and take nothing."""
    critical = [world.network.zones[name] for name, zone in world.site.zones.items() if zone.safety]
    for zone in critical:
        for switch in list(world.switches.values()):
            if zone.name in switch.zones and len(switch.zones) > 1:
                _own_switch(world, switch, zone)
    names = [zone.name for zone in critical]
    for conduit in world.network.conduits.values():
        if any(zone.name in names for zone in conduit.zones):
            conduit.diode = OneWay(*names, strict=True)
    for name, plc in world.plcs.items():
        if world.site.assets[name].zone in names:
            _serviced_locally(world, name)
            for station, hmi in world.hmis.items():
                if name in hmi.asset.polls:
                    receiver = StatusReceiver(hmi.host, plc.host.address, list(plc.asset.tags))
                    hmi.seams.told_by[name] = receiver
                    every = world.figures["diode.every"]
                    StatusSender(plc, hmi.host.address, every).start(every / 2)
                    world.added_flows.append(
                        sites.Flow(source=name, target=station, port=receiver.port, protocol="status")
                    )


def _serviced_locally(world: World, plc: str) -> None:
    """Nobody reaches this PLC over the network any more, so no tool of the site looks for it there."""
    world.time_clients.pop(plc, None)  # nor does it hear a time server: its clock runs by itself
    for watch in world.integrity_watches.values():
        watch.programs.pop(plc, None)
    for record in world.settings_records.values():
        record.devices = {name: address for name, address in record.devices.items() if name != plc}
    for listed in world.inventories.values():
        listed.devices = {name: address for name, address in listed.devices.items() if name != plc}


def island_mode(world: World) -> None:
    """SR 5.2 RE 2: whoever is in charge can cut all traffic to other networks, and is asked when an alert says so."""
    world.island.wired = True

    async def consider(why: str) -> None:
        world.staff.announce(ISLAND_REQUEST)
        if await world.staff.approve("supervisor", ISLAND_REQUEST) and world.island.enter(why):
            end = world.loop.time() + world.figures["boundary.island_lasting"]
            world.loop.wake(end, world.island.leave, "time is over")

    asked: list[float] = []

    def asks(siem: Siem) -> Callable[[SecurityAlert], None]:
        def alerted(alert: SecurityAlert) -> None:
            if alert.severity < world.figures["boundary.island_severity"] or alert.rule == TEST_FAILED:
                return
            if asked and alert.time - asked[-1] < world.figures["boundary.island_lasting"]:
                return  # the question has been asked
            asked.append(alert.time)
            siem.host.spawn(consider(alert.rule), "island mode")

        return alerted

    for siem in world.siems.values():
        siem.on_alert.append(asks(siem))


def fail_close(world: World) -> None:
    """SR 5.2 RE 3: a firewall that does not judge lets nothing pass; safety systems need nothing that it carries."""
    for conduit in world.network.conduits.values():
        conduit.fail_closed = True


def _guards(policy: str) -> Check:
    """Zones whose every conduit has ``policy`` in force, in a guard that is not bypassed and has not failed open."""

    def check(world: World) -> dict[str, bool]:
        return _at_conduits(
            world, lambda conduit: conduit.guarded and any(name == policy for name, _ in conduit.policies)
        )

    return check


def _at_conduits(world: World, sound: Callable[[Conduit], bool]) -> dict[str, bool]:
    """Ask about each conduit that the site documents; a way that nobody knows of is no part of a test."""
    judged = [(boundary.conduit, sound(boundary.conduit)) for boundary in world.boundaries.values()]
    return by_zone((zone.name, good) for conduit, good in judged for zone in conduit.zones)


def _denies_strangers(world: World) -> dict[str, bool]:
    """Knock from an address that no site documents at a port that nobody serves: it must not pass."""

    def sound(conduit: Conduit) -> bool:
        lists = [policy for name, policy in conduit.policies if name == "SR 5.2 RE 1"]
        near, far = conduit.zones
        flow = Flow("tcp", STRANGER.address, far.gateway.address, DOOR, DOOR, "", "", near.name, far.name)
        knock = Packet(world.loop.time(), flow, False, SYN, b"", 0, 0, ("", ""))
        return conduit.guarded and any(policy(knock) is not Verdict.ACCEPT for policy in lists)

    return _at_conduits(world, sound)


def _closes(world: World) -> dict[str, bool]:
    return _at_conduits(world, lambda conduit: conduit.fail_closed and not conduit.bypassed)


def _can_island(world: World) -> dict[str, bool]:
    ready = world.island.wired
    return {
        zone.name: ready
        for one in world.island.boundaries
        for zone in one.conduit.zones
        if world.own(zone.name)
    }


def _own_hardware(world: World) -> dict[str, bool]:
    return {zone: len(switch.zones) == 1 for switch in world.switches.values() for zone in switch.zones}


def _own_services(world: World) -> dict[str, bool]:
    serving = {
        (server.host.address, server.port): server.host.up and world.own(world.site.assets[name].zone)
        for name, server in world.name_servers.items()
    }
    return {
        resolver.host.zone.name: bool(resolver.servers)
        and all(serving.get(server, False) for server in resolver.servers)
        for resolver in world.resolvers.values()
    }


def _isolated(world: World) -> dict[str, bool]:
    critical = {name for name, zone in world.site.zones.items() if zone.safety}
    hardware = _own_hardware(world)
    return {
        zone.name: conduit.diode is not None and hardware.get(zone.name, True)
        for conduit in world.network.conduits.values()
        for zone in conduit.zones
        if zone.name in critical
    }


#: Purdue's level up to which a zone is of the control system.
CONTROL_SYSTEM = 3
#: The compartment of what an essential function needs.
ESSENTIAL = "essential"


def _inside(world: World) -> frozenset[str]:
    """Names of the control system's zones."""
    return frozenset(name for name, zone in world.site.zones.items() if zone.level <= CONTROL_SYSTEM)


def no_outside_messages(world: World) -> None:
    """SR 5.3: no message from outside reaches a mailbox that is read in the control system."""
    inside = _inside(world)
    servers = {server.host.address for server in world.mail_servers.values()}
    for name, server in world.mail_servers.items():
        asset = world.site.assets[name]
        assert isinstance(asset, sites.MailServer)
        readers = {box for box, place in asset.mailboxes.items() if world.site.assets[place].zone in inside}
        server.seams.recipients.append(_not_from_outside(world, server, readers, inside))

    def policy(packet: Packet) -> Verdict:
        flow = packet.flow
        if flow.target_port not in MESSAGE_PORTS or flow.target in servers:
            return Verdict.ACCEPT
        crosses = (flow.source_zone in inside) != (flow.target_zone in inside)
        return Verdict.DROP if crosses else Verdict.ACCEPT

    for conduit in _edges(world, inside):
        conduit.add_policy("SR 5.3", policy)


def _not_from_outside(
    world: World, server: MailServer, readers: set[str], inside: frozenset[str]
) -> Callable[[Submission], str | None]:
    def check(submission: Submission) -> str | None:
        sender = world.network.zone_of(submission.peer)
        if sender is not None and sender.name in inside:
            return None
        return "not for the control system" if server.mailbox(submission.recipient) in readers else None

    return check


def _edges(world: World, inside: frozenset[str]) -> list[Conduit]:
    """The conduits that lead out of the control system."""
    return [
        conduit
        for conduit in world.network.conduits.values()
        if len({zone.name in inside for zone in conduit.zones}) > 1
    ]


def no_messages(world: World) -> None:
    """SR 5.3 RE 1: nothing in the control system sends or receives messages of people, inside or out."""
    inside = _inside(world)

    def policy(packet: Packet) -> Verdict:
        flow = packet.flow
        if flow.target_port not in MESSAGE_PORTS:
            return Verdict.ACCEPT
        return Verdict.DROP if flow.source_zone in inside or flow.target_zone in inside else Verdict.ACCEPT

    for link in (*(world.network.zones[name] for name in sorted(inside)), *_edges(world, inside)):
        link.add_policy("SR 5.3 RE 1", policy)


def partitioning(world: World) -> None:
    """SR 5.4: on each computer, what an essential function needs is apart, and only it reaches controllers."""
    controllers = frozenset(asset.address for asset in world.site.controllers().values())

    def reaches(compartment: str, address: str) -> bool:
        return compartment == ESSENTIAL or address not in controllers

    for computer in world.computers.values():
        critical = [name for name, application in computer.applications.items() if application.critical]
        computer.seams.compartments.update(dict.fromkeys(critical, ESSENTIAL))
        computer.seams.reaches = reaches


CONTROLS: dict[str, Control] = {
    "SR 5.1": segmentation,
    "SR 5.1 RE 1": physical_segmentation,
    "SR 5.1 RE 2": independence,
    "SR 5.1 RE 3": critical_isolation,
    "SR 5.2": boundary_protection,
    "SR 5.2 RE 1": deny_by_default,
    "SR 5.2 RE 2": island_mode,
    "SR 5.2 RE 3": fail_close,
    "SR 5.3": no_outside_messages,
    "SR 5.3 RE 1": no_messages,
    "SR 5.4": partitioning,
}

#: What must be in force for a requirement to mean anything.
NEEDS: Needs = {
    "SR 5.1 RE 1": ("SR 5.1",),
    "SR 5.2 RE 3": ("SR 5.2",),
    "SR 5.3 RE 1": ("SR 5.3",),
}

#: Whether a requirement that is in force does its work, zone by zone; one without a check does while it is on.
CHECKS: dict[str, Check] = {
    "SR 5.1": _guards("SR 5.1"),
    "SR 5.1 RE 1": _own_hardware,
    "SR 5.1 RE 2": _own_services,
    "SR 5.1 RE 3": _isolated,
    "SR 5.2": _guards("SR 5.2"),
    "SR 5.2 RE 1": _denies_strangers,
    "SR 5.2 RE 2": _can_island,
    "SR 5.2 RE 3": _closes,
}
