"""Protection against malicious code: a vendor's signatures, scanners that know some, and who keeps them current.

A signature is a run of bytes that a family of malware has in it; a scanner finds what its database knows and nothing
else. Databases are files that the vendor has signed, and age: that is what central management is about.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from devices.audit import Audit
from devices.computer import (
    Arrival,
    Computer,
    Media,
    Program,
    digest_of,
    digests,
    put,
    sign,
    signature_body,
    signature_fits,
)
from devices.modbus import ModbusClient, Refusal
from devices.plc import SYSTEM
from devices.registers import Table
from testbed.network import FIN, RST, Host, Packet, Verdict

#: What a database is called when it is sent to a computer.
DATABASE: Final = "signatures.db"
DAY: Final = 86_400.0
#: Families that the vendor knows when a run begins, and for how long (days). Invented, as every name here.
FAMILIES: Final = {"grindel": 730.0, "rustworm": 400.0, "tollgate": 10.0}
#: Longest signature (bytes): what a scanner of a stream keeps of what has passed.
LONGEST: Final = 64


def pattern_of(family: str) -> bytes:
    """The bytes that every sample of a family has in it."""
    return b"\xeb\xfe" + hashlib.sha256(f"family {family}".encode()).digest()[:16]


@dataclass(frozen=True, slots=True)
class Signature:
    """``published`` is the virtual time (s) at which the vendor had it, negative for before the run."""

    family: str
    pattern: bytes
    published: float


class Vendor:
    """What the vendor of the protection knows, and whom it tells; ``stream`` makes its signing key."""

    def __init__(self, seed: bytes, clock: Callable[[], float]) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self._clock = clock
        self.public: Ed25519PublicKey = self._key.public_key()
        self.signatures = [
            Signature(family, pattern_of(family), -days * DAY) for family, days in FAMILIES.items()
        ]
        self.on_published: list[Callable[[], None]] = []

    def publish(self, family: str) -> None:
        """A signature of a new family is out."""
        self.signatures.append(Signature(family, pattern_of(family), self._clock()))
        for told in self.on_published:
            told()

    def database(self, as_of: float) -> bytes:
        """The signed database as it was at a time (s)."""
        known = {
            one.family: base64.b64encode(one.pattern).decode()
            for one in self.signatures
            if one.published <= as_of
        }
        return sign(json.dumps({"as_of": as_of, "signatures": known}).encode(), self._key)


class Scanner:
    """Looks for what its database knows; it takes databases that the vendor signed and that are newer than its own."""

    def __init__(self, vendor: Ed25519PublicKey) -> None:
        self.vendor = vendor
        self.patterns: dict[str, bytes] = {}
        self.as_of = float("-inf")

    def update(self, database: bytes) -> str | None:
        """Take a database; the reason if it is none, or an old one."""
        if not signature_fits(database, self.vendor):
            return "not the vendor's"
        try:
            said = json.loads(signature_body(database))
            as_of = float(said["as_of"])
            patterns = {str(name): base64.b64decode(code) for name, code in said["signatures"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
            return "no database"
        if as_of < self.as_of:
            return "older than what is here"
        self.patterns, self.as_of = patterns, as_of
        return None

    def scan(self, content: bytes) -> str | None:
        """The family that the bytes are of, as far as is known."""
        return next((name for name, pattern in self.patterns.items() if pattern in content), None)


class Guard:
    """Protection on one computer: what comes in and what starts is scanned, and everything again at an update."""

    def __init__(self, computer: Computer, vendor: Ed25519PublicKey) -> None:
        self.computer = computer
        self.scanner = Scanner(vendor)
        computer.seams.receive.append(self._arrives)
        computer.seams.execute.append(self._starts)
        computer.services[DATABASE] = self.update

    def update(self, database: bytes) -> str | None:
        """Take a database and look through what is here; the reason if it was not taken."""
        reason = self.scanner.update(database)
        if reason is None:
            for name, content in list(self.computer.files.items()):
                family = self.scanner.scan(content)
                if family is not None:
                    self.computer.quarantine(name, family)
        return reason

    def _arrives(self, computer: Computer, arrival: Arrival) -> str | None:
        family = self.scanner.scan(arrival.content)
        if family is None:
            return None
        digest = digest_of(arrival.content)[:16]
        computer.audit("malware.found", file=arrival.name, reason=family, digest=digest, way=arrival.way)
        return f"malware {family}"

    def _starts(self, computer: Computer, program: Program) -> str | None:
        family = self.scanner.scan(program.content)
        if family is None:
            return None
        computer.quarantine(program.name, family)
        return f"malware {family}"


@dataclass(slots=True)
class Console:
    """Central management on a host: it sends each new database to every guard at once, and again until it is taken.

    Audits ``signatures.pushed`` and ``signatures.behind`` (peer: who did not take it).
    """

    computer: Computer
    vendor: Vendor
    guards: dict[str, Guard]
    retry: float
    audit: Audit = field(init=False)
    _pushing: bool = False

    def __post_init__(self) -> None:
        self.audit = Audit(self.computer.name)
        self.vendor.on_published.append(self.published)

    def behind(self) -> list[str]:
        """Computers whose database is older than the vendor's newest signature."""
        newest = max(one.published for one in self.vendor.signatures)
        return [name for name, guard in self.guards.items() if guard.scanner.as_of < newest]

    def published(self) -> None:
        """The vendor has something new."""
        if not self._pushing and self.computer.host.up:
            self._pushing = True
            self.computer.host.spawn(self._push(), "signature console")

    async def _push(self) -> None:
        while waiting := self.behind():
            database = self.vendor.database(self.computer.loop.time())
            for name in waiting:
                address = self.guards[name].computer.host.address
                try:
                    reason = await put(address, DATABASE, database)
                except OSError as error:
                    reason = type(error).__name__
                if reason is None:
                    self.audit("signatures.pushed", peer=address)
                else:
                    self.audit("signatures.behind", peer=address, reason=reason)
            if self.behind():
                await asyncio.sleep(self.retry)
        self._pushing = False


@dataclass(slots=True)
class MediaStation:
    """The machine by the gate where media are scanned before they go anywhere; what it finds clean it seals.

    ``seconds`` is what a scan takes. A seal is a signature of everything on the media.
    """

    scanner: Scanner
    key: Ed25519PrivateKey
    seconds: float
    audit: Callable[..., None]

    def seal(self, media: Media) -> bytes | None:
        """Scan; the seal, or None if something was found."""
        for name, content in media.files.items():
            family = self.scanner.scan(content)
            if family is not None:
                self.audit("malware.found", file=name, reason=family, way="media station")
                return None
        return self.key.sign(contents_of(media))


def contents_of(media: Media) -> bytes:
    """What a seal is about: names and digests of all files."""
    listed = {name: hashlib.sha256(content).hexdigest() for name, content in media.files.items()}
    return json.dumps({"serial": media.serial, "files": listed}, sort_keys=True).encode()


class StreamScanner:
    """A conduit's policy: what passes on some ports is scanned, across packets, and what is found goes no further."""

    def __init__(self, scanner: Scanner, ports: Iterable[int], found: Callable[[Packet, str], Any]) -> None:
        self.scanner, self.ports, self.found = scanner, frozenset(ports), found
        self._tails: dict[tuple[str, int, str, int], bytes] = {}
        self._bad: set[tuple[str, int, str, int]] = set()

    def __call__(self, packet: Packet) -> Verdict:
        if packet.flow.target_port not in self.ports:
            return Verdict.ACCEPT
        key = (packet.source, packet.source_port, packet.target, packet.target_port)
        if packet.flags & (FIN | RST):
            self._tails.pop(key, None)
        if not packet.payload:
            return Verdict.ACCEPT
        if key in self._bad:
            return Verdict.DROP
        seen = self._tails.get(key, b"") + packet.payload
        family = self.scanner.scan(seen)
        if family is not None:
            self._bad.add(key)
            self._tails.pop(key, None)
            self.found(packet, family)
            return Verdict.DROP
        self._tails[key] = seen[-LONGEST:]
        return Verdict.ACCEPT


class IntegrityWatch:
    """A task on a station that compares programs of PLCs and files of computers with what they should be.

    ``programs`` are the released sources by PLC, ``computers`` the installed digests by address. Audits
    ``integrity.violated`` (target, what) once for each difference; who does not answer is asked again next time.
    """

    def __init__(
        self,
        host: Host,
        connect: Callable[[str], ModbusClient],
        programs: dict[str, str],
        computers: dict[str, dict[str, str]],
        every: float,
    ) -> None:
        self.host, self.connect, self.every = host, connect, every
        self.audit = Audit(host.name)
        self.programs = {plc: _registers(source) for plc, source in programs.items()}
        self.computers = computers
        self._told: set[tuple[str, str]] = set()

    def start(self) -> None:
        """Begin to compare."""
        self.host.spawn(self._watch(), "integrity watch")

    def released(self, plc: str, source: str) -> None:
        """The program of a PLC was changed on purpose."""
        self.programs[plc] = _registers(source)
        self._told.discard((plc, "program"))

    async def _watch(self) -> None:
        while True:
            for plc, expected in self.programs.items():
                try:
                    found = await self.connect(plc).read(Table.INPUT, SYSTEM + 3, 2)
                except OSError:
                    continue
                if not isinstance(found, Refusal):
                    self._judge(plc, "program", found == expected)
            for address, installed in self.computers.items():
                try:
                    now = await digests(address)
                except OSError:
                    continue
                for name, digest in installed.items():
                    self._judge(address, name, now.get(name) == digest)
            await asyncio.sleep(self.every)

    def _judge(self, target: str, what: str, sound: bool) -> None:
        if sound:
            self._told.discard((target, what))
        elif (target, what) not in self._told:
            self._told.add((target, what))
            self.audit("integrity.violated", target=target, file=what)


def _registers(source: str) -> list[int]:
    """What a PLC shows of the digest of its program."""
    raw = hashlib.sha256(source.encode()).digest()
    return [int.from_bytes(raw[:2], "big"), int.from_bytes(raw[2:4], "big")]
