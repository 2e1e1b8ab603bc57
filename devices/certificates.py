"""A site's own certificate authority, for Modbus/TCP Security (Modbus over mutually authenticated TLS 1.3).

Keys are Ed25519: made in microseconds, and with signatures of one length, so that a handshake takes the same bytes
in every run. Certificates are made once per process; no key outlives it.
"""

from __future__ import annotations

import atexit
import shutil
import ssl
import tempfile
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from devices.modbus import ROLE_OID

#: Far enough either side of any simulated date.
VALID = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))


@cache
def _folder() -> Path:
    # The ssl module loads keys from files only; this folder is private to the user and goes with the process.
    folder = tempfile.mkdtemp(prefix="otlab-keys-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@cache
def _authority() -> tuple[Ed25519PrivateKey, x509.Certificate]:
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "OT Lab site authority")])
    certificate = (
        _builder(name, name, key, 1)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, None)
    )
    (_folder() / "authority.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return key, certificate


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Ed25519PrivateKey, serial: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        # The top bit set and the next cleared: every serial number takes the same number of bytes.
        .serial_number((1 << 62) + serial)
        .not_valid_before(VALID[0])
        .not_valid_after(VALID[1])
    )


@cache
def _issue(name: str, role: str) -> Path:
    authority_key, authority = _authority()
    key = Ed25519PrivateKey.generate()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    # Modbus/TCP Security 8.4: the role is a UTF8String (tag 12) in an extension of its own.
    encoded_role = bytes([0x0C, len(role.encode())]) + role.encode()
    certificate = (
        _builder(subject, authority.subject, key, 2 + len(list(_folder().iterdir())))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.UnrecognizedExtension(ROLE_OID, encoded_role), critical=False)
        .sign(authority_key, None)
    )
    path = _folder() / f"{name}.{role}.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    path.chmod(0o600)
    return path


@cache
def server_context(name: str) -> ssl.SSLContext:
    """TLS context of a device that demands a certificate of the site's authority from each client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # sessions are long-lived; tickets would only add bytes
    context.load_cert_chain(_issue(name, "device"))
    context.load_verify_locations(_folder() / "authority.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@cache
def client_context(name: str, role: str) -> ssl.SSLContext:
    """TLS context of the asset ``name``, whose certificate carries ``role``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    path = _issue(name, role)
    context.load_cert_chain(path)
    context.load_verify_locations(_folder() / "authority.pem")
    return context


def papers(name: str, role: str) -> bytes:
    """Private key and certificate of ``name`` with ``role``, PEM: what lies in a file on the device."""
    return _issue(name, role).read_bytes()


def authority_certificate() -> bytes:
    """PEM of the authority's certificate."""
    _authority()
    return (_folder() / "authority.pem").read_bytes()


def load_papers(context: ssl.SSLContext, pem: bytes) -> bool:
    """Have ``context`` show the certificate in ``pem``; False if the private key to it is not there."""
    # The ssl module loads from files only.
    path = _folder() / f"{sha256(pem).hexdigest()[:24]}.tmp"
    path.touch(0o600)
    path.write_bytes(pem)
    try:
        context.load_cert_chain(path)
    except ssl.SSLError:
        return False
    finally:
        path.unlink()
    return True


def borrowed_context(pem: bytes) -> ssl.SSLContext | None:
    """TLS context of whoever got hold of somebody's papers, and asks no server for any; None if the key is missing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context if load_papers(context, pem) else None


@cache
def web_server_context(name: str) -> ssl.SSLContext:
    """TLS context of a web server, which asks browsers for no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.load_cert_chain(_issue(name, "device"))
    return context


@cache
def browser_context() -> ssl.SSLContext:
    """TLS context of a browser that believes the site's authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    _authority()
    context.load_verify_locations(_folder() / "authority.pem")
    return context


class Issuer(Protocol):
    """Who gives devices their certificates."""

    def server_context(self, name: str) -> ssl.SSLContext:
        """TLS context of a device that demands a certificate of the issuer from each client."""

    def client_context(self, name: str, role: str) -> ssl.SSLContext:
        """TLS context of the asset ``name``, whose certificate carries ``role``."""

    def papers(self, name: str, role: str) -> bytes:
        """Private key and certificate of the device, PEM."""


class AdHoc:
    """Whoever set the devices up made certificates for them, which do not expire and which nobody can revoke."""

    server_context = staticmethod(server_context)
    client_context = staticmethod(client_context)
    papers = staticmethod(papers)
