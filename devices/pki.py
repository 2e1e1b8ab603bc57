"""A site's public key infrastructure: an authority whose certificates expire and can be revoked, and its lists.

The authority serves its revocation list (RFC 5280, DER) by HTTP; a device that checks certificates fetches it now and
then and keeps the last one. If the authority falls silent, what is revoked stays revoked and everybody else stays
admitted until the list itself is out of date, and whom an essential function needs even then.

TLS compares dates with the wall clock of the machine that runs the testbed, so the contexts here leave dates to the
device (OpenSSL's X509_V_FLAG_NO_CHECK_TIME), which compares them with the run's time.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from hashlib import sha256
from typing import Final, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from devices.audit import Audit
from devices.certificates import VALID, load_papers
from devices.modbus import ROLE_OID
from devices.opcua import make_certificate
from devices.web import WebAnswer, WebRequest, WebServer, fetch
from testbed.network import Host
from testbed.randomness import Randomness

#: Where the list is.
LIST: Final = "/site.crl"
#: OpenSSL's flag, which the ssl module has no name for.
_NO_CHECK_TIME: Final = ssl.VerifyFlags(0x200000)
#: Certificates are dated back so far, as authorities do against clocks that are slow (assumption).
_BACK: Final = timedelta(days=1)

#: Why a certificate is not good.
Flaw = Literal[
    "no certificate", "unreadable", "not of this authority", "expired", "revoked", "list out of date"
]


@cache
def _key(name: str) -> Ed25519PrivateKey:
    # Lists cross the wire in the clear, so a run whose keys came from the operating system would not repeat. The
    # keys protect nothing outside a simulated world.
    return Ed25519PrivateKey.from_private_bytes(sha256(f"site key:{name}".encode()).digest())


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _serial(name: str, role: str) -> int:
    """Eight bytes that do not begin with zeros, the same for one name and role in every run."""
    return int.from_bytes(sha256(f"{name}|{role}".encode()).digest()[:8], "big") >> 2 | 1 << 62


@cache
def _root(site: str) -> x509.Certificate:
    key, name = _key(site), _name(f"{site} authority")
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(_serial(site, "authority"))
        .not_valid_before(VALID[0])
        .not_valid_after(VALID[1])
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, None)
    )


@cache
def _issue(site: str, name: str, role: str, begin: datetime, end: datetime) -> bytes:
    key = _key(f"{site}/{name}/{role}")
    encoded_role = bytes([0x0C, len(role.encode())]) + role.encode()  # Modbus/TCP Security 8.4: a UTF8String
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_root(site).subject)
        .public_key(key.public_key())
        .serial_number(_serial(name, role))
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.UnrecognizedExtension(ROLE_OID, encoded_role), critical=False)
        .sign(_key(site), None)
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)


@cache
def _context(site: str, pem: bytes, server: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if server:
        context.num_tickets = 0  # sessions are long-lived; tickets would only add bytes
        context.verify_mode = ssl.CERT_REQUIRED
    load_papers(context, pem)
    context.load_verify_locations(cadata=_root(site).public_bytes(serialization.Encoding.PEM).decode())
    context.verify_flags |= _NO_CHECK_TIME
    return context


class Authority:
    """The site's authority on ``host``: certificates last ``validity`` s from ``epoch``, lists ``list_life`` s."""

    def __init__(
        self,
        host: Host,
        name: str,
        site: str,
        epoch: datetime,
        port: int,
        validity: float,
        list_life: float,
        randomness: Randomness,
    ) -> None:
        self.host, self.name, self.site, self.epoch = host, name, site, epoch
        self.audit = Audit(name)
        self.list_life = timedelta(seconds=list_life)
        self.valid = (epoch - _BACK, epoch + timedelta(seconds=validity))
        self.server = WebServer(host, port, self._answer)
        #: serial numbers of certificates that are not good any more, and since when (s)
        self.revoked: dict[int, float] = {}
        self._issued: dict[str, list[int]] = {}
        self._randomness = randomness

    def start(self) -> None:
        """Begin to serve the list."""
        self.server.start()

    @property
    def certificate(self) -> x509.Certificate:
        """The authority's own, which devices are given when they are set up."""
        return _root(self.site)

    # -- issuing -----------------------------------------------------------------------------------------------

    def papers(self, name: str, role: str) -> bytes:
        """Private key and certificate of the device, PEM."""
        self._note(name, _serial(name, role))
        return _issue(self.site, name, role, *self.valid)

    def server_context(self, name: str) -> ssl.SSLContext:
        """TLS context of a device that demands a certificate of this authority from each client."""
        return _context(self.site, self.papers(name, "device"), True)

    def client_context(self, name: str, role: str) -> ssl.SSLContext:
        """TLS context of the asset ``name``, whose certificate carries ``role``."""
        return _context(self.site, self.papers(name, role), False)

    def ua_papers(self, name: str, uri: str) -> tuple[bytes, bytes]:
        """Certificate and key (DER) of an OPC UA application."""
        papers = make_certificate(
            name,
            uri,
            self._randomness.stream(f"certificate:{name}"),
            issuer=(self.certificate.subject, _key(self.site)),
            valid=self.valid,
        )
        self._note(name, x509.load_der_x509_certificate(papers[0]).serial_number)
        return papers

    def _note(self, name: str, serial: int) -> None:
        serials = self._issued.setdefault(name, [])
        if serial not in serials:
            serials.append(serial)

    # -- revoking ----------------------------------------------------------------------------------------------

    def revoke(self, name: str) -> bool:
        """Put every certificate of ``name`` on the list; False if it has none, or none that is good."""
        now = self.host.network.loop.time()
        fresh = [serial for serial in self._issued.get(name, ()) if serial not in self.revoked]
        self.revoked.update(dict.fromkeys(fresh, now))
        if fresh:
            self.audit("certificate.revoked", subject=name)
        return bool(fresh)

    def revocations(self) -> bytes:
        """The signed list as of now (DER)."""
        now = self.epoch + timedelta(seconds=self.host.network.loop.time())
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now)
            .next_update(now + self.list_life)
        )
        for serial, since in self.revoked.items():
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(serial)
                .revocation_date(self.epoch + timedelta(seconds=since))
                .build()
            )
        return builder.sign(_key(self.site), None).public_bytes(serialization.Encoding.DER)

    async def _answer(self, request: WebRequest) -> WebAnswer:
        if (request.method, request.path) != ("GET", LIST):
            return WebAnswer(404)
        return WebAnswer(200, self.revocations(), {"Content-Type": "application/pkix-crl"})


@dataclass(slots=True)
class RelyingParty:
    """What a device on ``host`` knows about certificates: the authority's own, and the last list that it got.

    It asks ``address`` for the list every ``every`` s and, told nothing, goes by the one it has. ``on_news`` is called
    with how many serial numbers a new list has added.
    """

    host: Host
    audit: Audit
    authority: x509.Certificate
    epoch: datetime
    address: str
    port: int
    every: float
    latest: x509.CertificateRevocationList
    on_news: list[Callable[[int], None]] = field(default_factory=list)

    def start(self, phase: float) -> None:
        """Begin to fetch, ``phase`` s from now; it goes on when the host has been off."""
        loop = self.host.network.loop
        loop.wake(loop.time() + phase, self._fetch, loop.time() + phase)

    def _fetch(self, due: float) -> None:
        if self.host.up:
            self.host.spawn(self._ask(), "revocation list")
        self.host.network.loop.wake(due + self.every, self._fetch, due + self.every)

    async def _ask(self) -> None:
        try:
            answer = await fetch(self.address, self.port, LIST)
        except OSError as error:
            self.audit("crl.missing", reason=type(error).__name__)
            return
        if not self.take(answer.body):
            self.audit("crl.refused", peer=self.address)

    def take(self, raw: bytes) -> bool:
        """Take a newer list of the authority (DER); False for anything else."""
        try:
            found = x509.load_der_x509_crl(raw)
            fits = found.issuer == self.authority.subject and found.is_signature_valid(
                self.authority.public_key()  # type: ignore[arg-type]
            )
        except (ValueError, TypeError):
            return False
        if not fits or found.last_update_utc < self.latest.last_update_utc:
            return False
        news = len(found) - len(self.latest)
        self.latest = found
        if news > 0:
            for told in self.on_news:
                told(news)
        return True

    @property
    def now(self) -> datetime:
        return self.epoch + timedelta(seconds=self.host.network.loop.time())

    @property
    def current(self) -> bool:
        """Whether the list is not out of date."""
        due = self.latest.next_update_utc
        return due is None or self.now <= due

    def flaw(self, certificate: bytes | None) -> Flaw | None:
        """What is wrong with a certificate (DER), the worst first; None if nothing is."""
        if certificate is None:
            return "no certificate"
        try:
            found = x509.load_der_x509_certificate(certificate)
        except ValueError:
            return "unreadable"
        try:
            found.verify_directly_issued_by(self.authority)
        except (InvalidSignature, ValueError, TypeError):
            return "not of this authority"
        if self.latest.get_revoked_certificate_by_serial_number(found.serial_number) is not None:
            return "revoked"
        if not found.not_valid_before_utc <= self.now <= found.not_valid_after_utc:
            return "expired"
        return None if self.current else "list out of date"


def load_list(raw: bytes) -> x509.CertificateRevocationList:
    """A revocation list (DER) that is known to be good, as one that a device is set up with."""
    return x509.load_der_x509_crl(raw)


#: What does not keep out whom an essential function needs: time has run out somewhere, and nobody said anything ill.
TOLERABLE: Final = frozenset[Flaw]({"expired", "list out of date"})


def subject_of(certificate: bytes) -> str | None:
    """The common name of a certificate (DER); None if it has none or cannot be read."""
    try:
        names = x509.load_der_x509_certificate(certificate).subject.get_attributes_for_oid(
            NameOID.COMMON_NAME
        )
    except ValueError:
        return None
    return str(names[0].value) if names else None
