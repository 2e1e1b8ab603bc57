"""FR 4, data confidentiality: who can read it?"""

from __future__ import annotations

from collections.abc import Callable

from controls.iac import device_certificates
from controls.shapes import Check, Control, Needs
from controls.si import secure_opcua
from devices.certificates import browser_context, web_server_context
from devices.ciphers import AesGcm
from devices.disk import Disk
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


def encrypted_boundaries(world: World) -> None:
    """SR 4.1 RE 2: what crosses a boundary is encrypted: reports, log messages, and all Modbus and OPC UA."""
    if world.seams.modbus_tls is None:
        device_certificates(world)
    secure_opcua(world, SIGN_AND_ENCRYPT)
    for name, portal in world.portals.items():
        portal.seams.tls = web_server_context(name)
    world.seams.browser_tls = browser_context
    if not world.siems:
        return
    # Stands for syslog over DTLS (RFC 6012), with the session's key already agreed.
    cipher = AesGcm(world.stream("log key").randbytes(32), world.stream("log nonces"))
    for siem in world.siems.values():
        siem.unseal = cipher.open
    world.seams.log_seal = cipher.seal


def purged_disks(world: World) -> None:
    """SR 4.2: a disk that leaves the site is written over first, not only emptied."""
    world.seams.dispose = Disk.purge


def cleared_buffers(world: World) -> None:
    """SR 4.2 RE 1: memory that pages are made in is cleared before the next person's page is made there."""
    for portal in world.portals.values():
        portal.seams.clears = True


def accepted_cryptography(world: World) -> None:
    """SR 4.3: export files are under AES-256-GCM with a key and nonces from a random source, not the product's XOR."""
    for name, portal in world.portals.items():
        portal.seams.cipher = AesGcm(
            world.stream(f"archive key:{name}").randbytes(32), world.stream(f"archive nonces:{name}")
        )


CONTROLS: dict[str, Control] = {
    "SR 4.1": restricted_programs,
    "SR 4.1 RE 1": encrypted_sessions,
    "SR 4.1 RE 2": encrypted_boundaries,
    "SR 4.2": purged_disks,
    "SR 4.2 RE 1": cleared_buffers,
    "SR 4.3": accepted_cryptography,
}

#: What must be in force for a requirement to mean anything.
NEEDS: Needs = {"SR 4.1 RE 2": ("SR 4.1 RE 1",)}

#: Whether a requirement that is in force does its work, zone by zone; one without a check does while it is on.
CHECKS: dict[str, Check] = {}
