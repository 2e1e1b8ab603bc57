"""FR 3, system integrity: is it what it was?"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from controls.iac import device_certificates
from controls.shapes import Check, Control, Needs, by_zone
from controls.uc import audit_stores
from controls.verification import Verifier, every_controller
from devices.audit import Audit, Sink
from devices.computer import PORT as FILE_PORT
from devices.computer import Computer, Media
from devices.credentials import UaCredentials
from devices.mail import MailServer, Submission, attachments
from devices.modbus import Access, Peer
from devices.opcua import make_certificate
from devices.opcua_model import SIGN, UaTag
from devices.plc import ILLEGAL_VALUE, Plc
from devices.portal import Mishap
from devices.protection import (
    Console,
    Guard,
    IntegrityWatch,
    MediaStation,
    Scanner,
    StreamScanner,
    contents_of,
)
from devices.registers import Table
from devices.syslog import SyslogSender
from devices.world import World
from testbed.network import Conduit, Packet

#: What protection on computers has to say to those who manage it.
PROTECTION_EVENTS = frozenset({"malware.found", "signatures.behind", "signatures.pushed"})


def checksums(world: World) -> None:
    """SR 3.1: readers check a checksum that each PLC publishes: careless changes on the way are noticed."""
    for plc in world.plcs.values():
        plc.seams.publish_checksum = True
    world.seams.verify_checksums = frozenset(world.plcs)


def cryptographic_integrity(world: World) -> None:
    """SR 3.1 RE 1: changes in transit are detected by cryptographic means (Modbus/TLS, OPC UA Sign)."""
    if world.seams.modbus_tls is None:
        device_certificates(world)
    secure_opcua(world, SIGN)


def secure_opcua(world: World, policy: str) -> None:
    """Let OPC UA servers offer ``policy`` only, and give their clients certificates for it."""

    def papers(name: str) -> tuple[bytes, bytes]:
        uri = f"urn:{name}:opcua"
        if world.seams.ua_papers is not None:
            return world.seams.ua_papers(name, uri)
        return make_certificate(name, uri, world.stream(f"certificate:{name}"))

    for name, gateway in world.gateways.items():
        gateway.server.security = (policy,)
        gateway.server.certificate, gateway.server.key = papers(name)
    for name in (*world.historians, *world.remote_gateways):  # the jump host's people read by OPC UA as well
        credentials = world.seams.ua_credentials.setdefault(name, UaCredentials())
        credentials.security = policy
        credentials.certificate, credentials.key = papers(name)


def malware_protection(world: World) -> None:
    """SR 3.2: every computer scans what comes in and what starts, with signatures that somebody brought a while ago."""
    database = world.vendor.database(-world.figures["malware.manual_update_age"])
    for name, computer in world.computers.items():
        world.guards[name] = Guard(computer, world.vendor.public)
        world.guards[name].update(database)


def entry_points(world: World) -> None:
    """SR 3.2 RE 1: mail, media and files between zones are scanned on the way, where signatures are of today."""
    database = world.vendor.database(-world.figures["malware.entry_update_age"])

    def scanner() -> Scanner:
        made = Scanner(world.vendor.public)
        made.update(database)
        return made

    for server in world.mail_servers.values():
        server.seams.messages.append(_clean_mail(server, scanner()))
    key = Ed25519PrivateKey.from_private_bytes(world.stream("media station").randbytes(32))
    audit = Audit("media-station")
    world.boundary_audits[audit.source] = audit
    world.media_station = MediaStation(scanner(), key, world.figures["media.station_scan"], audit)
    for computer in world.computers.values():
        computer.seams.media.append(_sealed(key.public_key()))
    for conduit in world.network.conduits.values():
        conduit.add_policy("SR 3.2 RE 1", StreamScanner(scanner(), [FILE_PORT], _found_at(world, conduit)))


def _clean_mail(server: MailServer, scanner: Scanner) -> Callable[[Submission], str | None]:
    def check(submission: Submission) -> str | None:
        for name, content in attachments(submission.content).items():
            family = scanner.scan(content)
            if family is not None:
                server.audit("malware.found", file=name, reason=family, way="mail", peer=submission.peer)
                return f"malware {family}"
        return None

    return check


def _sealed(key: Ed25519PublicKey) -> Callable[[Computer, Media], str | None]:
    def check(_computer: Computer, media: Media) -> str | None:
        try:
            key.verify(media.seal, contents_of(media))
        except InvalidSignature:
            return "not scanned at the media station"
        return None

    return check


def _found_at(world: World, conduit: Conduit) -> Callable[[Packet, str], None]:
    audit = world.boundary_audits.setdefault(conduit.name, Audit(conduit.name))

    def found(packet: Packet, family: str) -> None:
        audit("malware.found", peer=packet.source, target=packet.target, reason=family, way="share")

    return found


def central_protection(world: World) -> None:
    """SR 3.2 RE 2: a console gives hosts of its zone each new signature at once; what they find goes to the SIEM."""
    current = world.vendor.database(0.0)
    for guard in world.guards.values():
        guard.update(current)  # elsewhere another department's console does the same
    for name, siem in world.siems.items():
        if name not in world.computers:
            continue
        zone = siem.host.zone
        mine = {one: guard for one, guard in world.guards.items() if guard.computer.host.zone is zone}
        console = Console(world.computers[name], world.vendor, mine, world.figures["malware.push_retry"])
        world.consoles[name] = console
        for audit in (console.audit, *(guard.computer.audit for guard in mine.values())):
            audit.sinks.append(_reports(world.sender(audit.source), audit))


def _reports(sender: SyslogSender, audit: Audit) -> Sink:
    def sink(source: str, kind: str, data: dict[str, Any]) -> None:
        if kind in PROTECTION_EVENTS and sender not in audit.sinks:  # once is enough where everything is sent
            sender(source, kind, data)

    return sink


def _hosts_current(world: World) -> dict[str, bool]:
    """Central management works in a zone while no host there has signatures older than the vendor's newest."""
    behind = {name for console in world.consoles.values() for name in console.behind()}
    return by_zone(
        (guard.computer.host.zone.name, name not in behind)
        for console in world.consoles.values()
        for name, guard in console.guards.items()
    )


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


def integrity_notification(world: World) -> None:
    """SR 3.4 RE 1: a station compares programs of PLCs and files of computers with what was released, and tells."""
    for name, hmi in world.hmis.items():
        programs = {plc: world.site.logic(plc) for plc in hmi.asset.polls}
        computers = {
            computer.host.address: computer.inventory()
            for computer in world.computers.values()
            if computer.host.zone is hmi.host.zone
        }
        watch = IntegrityWatch(
            hmi.host, world.connector(name), programs, computers, world.figures["integrity.every"]
        )
        if world.siems:
            watch.audit.sinks.append(world.sender(name))
        for workstation in world.workstations.values():
            workstation.on_loaded.append(watch.released)
        world.integrity_watches[name] = watch
        return  # one station is enough


def _watched(world: World) -> dict[str, bool]:
    """Nobody is notified while the station that compares is off."""
    up = any(watch.host.up for watch in world.integrity_watches.values())
    return dict.fromkeys(world.site.zones, up)


def security_tests(world: World) -> None:
    """SR 3.3: in each maintenance window somebody tries the security functions by a list, and puts right what fails."""
    verifier = Verifier(world, _testable, _at_work)
    world.verifiers.append(verifier)
    # Once everything else is in force, which is when the run begins.
    world.loop.wake(0.0, verifier.begin, None)


def _testable(world: World) -> list[str]:
    from controls import profiles  # it imports this module

    return [name for name in world.requirements if name in profiles.CHECKS and name not in SELF_TESTS]


def _at_work(world: World, name: str) -> dict[str, bool]:
    from controls import profiles

    return profiles.working(world, name)


def _verifiers(world: World) -> list[Verifier]:
    return [one for one in world.verifiers if isinstance(one, Verifier)]


def automated_tests(world: World) -> None:
    """SR 3.3 RE 1: a script runs all tests as soon as a window opens, in seconds, and tells the SIEM what failed."""
    for verifier in _verifiers(world):
        verifier.automated = world.figures["verification.automated"]


def online_tests(world: World) -> None:
    """SR 3.3 RE 2: the tests run every so often while the plant operates, and disturb nothing."""
    for verifier in _verifiers(world):
        verifier.online_every = world.figures["verification.online_every"]


def _tests_planned(world: World) -> dict[str, bool]:
    return dict.fromkeys(world.site.zones, bool(_verifiers(world)))


#: What tests the others.
SELF_TESTS = frozenset({"SR 3.3", "SR 3.3 RE 1", "SR 3.3 RE 2"})


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


def protected_records(world: World) -> None:
    """SR 3.9: only the audit role changes records, and a keyed hash chain shows where anybody did."""
    stream = world.stream("audit chain keys")
    for log in audit_stores(world):
        log.seams.chain_key = stream.randbytes(32)


def write_once(world: World) -> None:
    """SR 3.9 RE 1: records go to a medium that takes each once: not even an audit administrator changes them."""
    for log in audit_stores(world):
        log.seams.write_once = True


def error_handling(world: World) -> None:
    """SR 3.7: whoever causes an error is told a number to quote, and what happened stands in the log under it."""
    for portal in world.portals.values():
        portal.seams.explain = _quoting_numbers()


def _quoting_numbers() -> Callable[[Mishap, Mapping[str, str]], str]:
    numbers = count(1)
    return lambda _mishap, _settings: f"the request could not be carried out; error {next(numbers)}\n"


def session_integrity(world: World) -> None:
    """SR 3.8: a web session is good from where it was opened and for a time; any other use of its id is refused."""
    life = world.figures["portal.session_life"]
    for portal in world.portals.values():
        portal.seams.good = lambda session, address, now: (
            session.address == address and now - session.begun <= life
        )


def ended_sessions(world: World) -> None:
    """SR 3.8 RE 1: logging out ends the session at the server, and its id is void."""
    for portal in world.portals.values():
        portal.seams.ends = True


def unique_sessions(world: World) -> None:
    """SR 3.8 RE 2: each log-in gets an id of the server's own making; one that a browser brings along is not taken."""
    for portal in world.portals.values():
        portal.seams.adopts = False


def random_sessions(world: World) -> None:
    """SR 3.8 RE 3: ids of sessions are 128 random bits, so that no id tells another."""
    for name, portal in world.portals.items():
        stream = world.stream(f"session ids:{name}")
        portal.seams.new_id = lambda _number, stream=stream: stream.randbytes(16).hex()  # type: ignore[misc]


CONTROLS: dict[str, Control] = {
    "SR 3.1": checksums,
    "SR 3.1 RE 1": cryptographic_integrity,
    "SR 3.2": malware_protection,
    "SR 3.2 RE 1": entry_points,
    "SR 3.2 RE 2": central_protection,
    "SR 3.4": signed_logic,
    "SR 3.4 RE 1": integrity_notification,
    "SR 3.3": security_tests,
    "SR 3.3 RE 1": automated_tests,
    "SR 3.3 RE 2": online_tests,
    "SR 3.5": input_validation,
    "SR 3.6": deterministic_output,
    "SR 3.7": error_handling,
    "SR 3.8": session_integrity,
    "SR 3.8 RE 1": ended_sessions,
    "SR 3.8 RE 2": unique_sessions,
    "SR 3.8 RE 3": random_sessions,
    "SR 3.9": protected_records,
    "SR 3.9 RE 1": write_once,
}

#: What must be in force for a requirement to mean anything.
NEEDS: Needs = {
    "SR 3.3 RE 1": ("SR 3.3",),
    "SR 3.3 RE 2": ("SR 3.3 RE 1",),
    "SR 3.2 RE 1": ("SR 3.2",),
    "SR 3.2 RE 2": ("SR 3.2",),
    "SR 3.4 RE 1": ("SR 3.4",),
    "SR 3.9 RE 1": ("SR 3.9",),
    "SR 3.8 RE 1": ("SR 3.8",),
    "SR 3.8 RE 2": ("SR 3.8",),
    "SR 3.8 RE 3": ("SR 3.8 RE 2",),
}

#: Whether a requirement that is in force does its work, zone by zone; one without a check does while it is on.
CHECKS: dict[str, Check] = {
    "SR 3.2 RE 2": _hosts_current,
    "SR 3.3": _tests_planned,
    "SR 3.4": every_controller(lambda plc: bool(plc.seams.accept_program)),
    "SR 3.4 RE 1": _watched,
    "SR 3.5": every_controller(lambda plc: bool(plc.seams.validate)),
    "SR 3.6": every_controller(lambda plc: plc.seams.safe_outputs is not None),
}
