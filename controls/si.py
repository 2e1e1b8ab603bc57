"""FR 3, system integrity: is it what it was?"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from controls.iac import device_certificates
from controls.shapes import Check, Control, Needs
from devices.modbus import Access, Peer
from devices.opcua import make_certificate
from devices.opcua_model import SIGN, UaTag
from devices.plc import ILLEGAL_VALUE, Plc
from devices.registers import Table
from devices.world import UaCredentials, World


def checksums(world: World) -> None:
    """SR 3.1: readers check a checksum that each PLC publishes: careless changes on the way are noticed."""
    for plc in world.plcs.values():
        plc.seams.publish_checksum = True
    world.seams.verify_checksums = True


def cryptographic_integrity(world: World) -> None:
    """SR 3.1 RE 1: changes in transit are detected by cryptographic means (Modbus/TLS, OPC UA Sign)."""
    if world.seams.modbus_tls is None:
        device_certificates(world)
    secure_opcua(world, SIGN)


def secure_opcua(world: World, policy: str) -> None:
    """Let OPC UA servers offer ``policy`` only, and give their clients certificates for it."""

    def papers(name: str) -> tuple[bytes, bytes]:
        return make_certificate(name, f"urn:{name}:opcua", world.stream(f"certificate:{name}"))

    for name, gateway in world.gateways.items():
        gateway.server.security = (policy,)
        gateway.server.certificate, gateway.server.key = papers(name)
    for name in world.historians:
        credentials = world.seams.ua_credentials.setdefault(name, UaCredentials())
        credentials.security = policy
        credentials.certificate, credentials.key = papers(name)


def signed_logic(world: World) -> None:
    """SR 3.4: a PLC loads only programs that the engineering workstation signed."""
    key = world.stream("logic signing key").randbytes(32)

    def sign(source: str) -> bytes:
        return hmac.new(key, source.encode(), hashlib.sha256).digest()

    def check(_peer: Peer | None, source: str, signature: bytes) -> str | None:
        return None if hmac.compare_digest(sign(source), signature) else "signature does not fit the program"

    for workstation in world.workstations.values():
        workstation.sign = sign
    for plc in world.plcs.values():
        plc.seams.accept_program.append(check)


def input_validation(world: World) -> None:
    """SR 3.5: setpoints outside their engineering range are refused by PLC and OPC UA server."""

    def in_range(tag: UaTag, value: float) -> bool:
        return (tag.low is None or value >= tag.low) and (tag.high is None or value <= tag.high)

    for plc in world.plcs.values():
        plc.seams.validate.append(_ranges(plc))
    for gateway in world.gateways.values():
        gateway.server.validate_write = in_range


def _ranges(plc: Plc) -> Callable[[Access], int | None]:
    limits = {
        tag.address: tuple(tag.encode(end)[0] for end in tag.range)
        for tag in plc.asset.tags.values()
        if tag.table == "holding" and tag.range is not None and tag.format == "uint16"
    }

    def validate(access: Access) -> int | None:
        if access.table is Table.HOLDING:
            for offset, value in enumerate(access.values):
                span = limits.get(access.address + offset)
                if span is not None and not span[0] <= value <= span[1]:
                    return ILLEGAL_VALUE
        return None

    return validate


def deterministic_output(world: World) -> None:
    """SR 3.6: when the logic stops, outputs go to their de-energized state instead of holding the last one."""
    for plc in world.plcs.values():
        plc.seams.safe_outputs = {
            name: 0.0 for name, tag in plc.asset.tags.items() if tag.command is not None
        }


CONTROLS: dict[str, Control] = {
    "SR 3.1": checksums,
    "SR 3.1 RE 1": cryptographic_integrity,
    "SR 3.4": signed_logic,
    "SR 3.5": input_validation,
    "SR 3.6": deterministic_output,
}

#: What must be in force for a requirement to mean anything.
NEEDS: Needs = {}

#: Whether a requirement that is in force does its work, zone by zone; one without a check does while it is on.
CHECKS: dict[str, Check] = {}
