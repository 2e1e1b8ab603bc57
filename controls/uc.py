"""FR 2, use control: may they do that?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from controls.shapes import Check, Control, Needs
from devices.accounts import User
from devices.audit import Audit
from devices.modbus import Access, Peer
from devices.opcua_model import UaTag, UaUser
from devices.plc import ILLEGAL_FUNCTION, SYSTEM
from devices.registers import Table
from devices.world import World

WRITERS = frozenset({"operator", "engineer", "supervisor", "admin"})


def roles(world: World) -> None:
    """SR 2.1: only people whose role includes it may write."""

    def may_write(user: UaUser, _tag: UaTag, _value: float) -> bool:
        return user.role in WRITERS

    def may_command(user: User, tag: str, _value: float) -> str | None:
        return None if user.role in WRITERS else f"role {user.role} may not write {tag}"

    for gateway in world.gateways.values():
        gateway.server.authorize_write = may_write
    for hmi in world.hmis.values():
        hmi.seams.authorize.append(may_command)


def device_rights(world: World) -> None:
    """SR 2.1 RE 1: programs and devices too: a PLC takes writes only from assets whose documented task it is."""
    for name, plc in world.plcs.items():
        plc.seams.authorize.append(_writes_from(world, name))


def _writes_from(world: World, plc: str) -> Callable[[Peer, Access], int | None]:
    engineers = world.programmers(plc)
    writers = engineers | world.commanders(plc)

    def authorize(peer: Peer, access: Access) -> int | None:
        if access.function in (20, 21) or (
            access.kind == "write"
            and access.table is Table.HOLDING
            and access.address + access.count > SYSTEM
        ):
            return None if peer.address in engineers else ILLEGAL_FUNCTION
        if access.kind == "write":
            return None if peer.address in writers else ILLEGAL_FUNCTION
        return None

    return authorize


def session_lock(world: World) -> None:
    """SR 2.5: an idle session locks until its user authenticates again."""
    for hmi in world.hmis.values():
        if hmi.seams.accounts is not None:
            hmi.seams.lock_after = world.figures["session.lock_after"]


def devices_with_audit(world: World) -> list[Audit]:
    """The audit seam of every device."""
    groups: tuple[Any, ...] = (
        world.plcs,
        world.hmis,
        world.gateways,
        world.historians,
        world.workstations,
        world.monitors,
        world.siems,
    )
    return [device.audit for group in groups for device in group.values()]


def auditable_events(world: World) -> None:
    """SR 2.8: devices keep a record of security-relevant events: source, time, kind, result."""

    def keep(source: str, kind: str, data: dict[str, Any]) -> None:
        world.trace.record(f"log.{kind}", source, **data)

    for audit in devices_with_audit(world):
        audit.sinks.append(keep)


def central_audit(world: World) -> None:
    """SR 2.8 RE 1: every device sends its whole audit trail to the SIEM."""
    for audit in devices_with_audit(world):
        sender = world.sender(audit.source)
        if sender not in audit.sinks:
            audit.sinks.append(sender)


CONTROLS: dict[str, Control] = {
    "SR 2.1": roles,
    "SR 2.1 RE 1": device_rights,
    "SR 2.5": session_lock,
    "SR 2.8": auditable_events,
    "SR 2.8 RE 1": central_audit,
}

#: What must be in force for a requirement to mean anything.
NEEDS: Needs = {
    "SR 2.1": ("SR 1.1",),
    "SR 2.5": ("SR 1.1",),
}

#: Whether a requirement that is in force does its work, zone by zone; one without a check does while it is on.
CHECKS: dict[str, Check] = {}
