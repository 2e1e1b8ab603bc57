"""FR 4, data confidentiality: who can read it?"""

from __future__ import annotations

from collections.abc import Callable

from controls.shapes import Check, Control, Needs
from controls.si import secure_opcua
from devices.modbus import Access, Peer
from devices.opcua_model import SIGN_AND_ENCRYPT
from devices.plc import ILLEGAL_FUNCTION
from devices.world import World


def restricted_programs(world: World) -> None:
    """SR 4.1: a PLC's program is read-restricted: only the engineering workstation may upload it."""
    for name, plc in world.plcs.items():
        plc.seams.authorize.append(_uploads_from(world, name))


def _uploads_from(world: World, plc: str) -> Callable[[Peer, Access], int | None]:
    engineers = world.programmers(plc)

    def authorize(peer: Peer, access: Access) -> int | None:
        return ILLEGAL_FUNCTION if access.function == 20 and peer.address not in engineers else None

    return authorize


def encrypted_sessions(world: World) -> None:
    """SR 4.1 RE 1: OPC UA sessions, which may come over untrusted networks, are encrypted."""
    secure_opcua(world, SIGN_AND_ENCRYPT)


CONTROLS: dict[str, Control] = {"SR 4.1": restricted_programs, "SR 4.1 RE 1": encrypted_sessions}

#: What must be in force for a requirement to mean anything.
NEEDS: Needs = {}

#: Whether a requirement that is in force does its work, zone by zone; one without a check does while it is on.
CHECKS: dict[str, Check] = {}
