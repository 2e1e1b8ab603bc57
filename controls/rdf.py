"""FR 5, restricted data flow: may it pass?"""

from __future__ import annotations

from typing import Literal

from controls.shapes import Check, Control, Needs
from devices.audit import Audit
from devices.world import World
from testbed.firewall import AllowList, ModbusInspection, Rule
from testbed.network import Conduit, Link, Observer, Packet, Policy, Verdict


def documented_rules(world: World) -> list[Rule]:
    """The site's legitimate flows as firewall rules, each once."""
    rules: dict[Rule, None] = {}
    for flow in world.legitimate_flows():
        protocol: Literal["tcp", "udp"] = "udp" if flow.protocol == "syslog" else "tcp"
        functions = frozenset(flow.functions) if flow.functions is not None else None
        rules[Rule(flow.source, flow.target, protocol, flow.port, functions, flow.registers)] = None
    return list(rules)


def segmentation(world: World) -> None:
    """SR 5.1: a conduit carries traffic of the two zones it joins; nothing passes through a zone to a third."""
    names = {(rule.source, rule.target) for rule in documented_rules(world)}
    for conduit in world.network.conduits.values():
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
        conduit.add_policy("SR 5.2 RE 1", AllowList(rules))
        conduit.add_policy("SR 5.2 RE 1 inspection", ModbusInspection(rules))


CONTROLS: dict[str, Control] = {
    "SR 5.1": segmentation,
    "SR 5.2": boundary_protection,
    "SR 5.2 RE 1": deny_by_default,
}

#: What must be in force for a requirement to mean anything.
NEEDS: Needs = {}

#: Whether a requirement that is in force does its work, zone by zone; one without a check does while it is on.
CHECKS: dict[str, Check] = {}
