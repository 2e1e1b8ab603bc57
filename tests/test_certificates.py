"""Modbus/TCP Security over the in-memory network: who gets in with which certificate, and what tampering does."""

from __future__ import annotations

import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID
from small_worlds import SmallWorld, attempt, controller, one_zone

from devices.certificates import _issue, client_context, server_context
from devices.modbus import ROLE_OID, Access, ModbusClient, Peer
from devices.plc import ILLEGAL_FUNCTION, Plc
from devices.registers import Table
from testbed.network import Packet

SECURE = 802


@pytest.fixture
def world() -> Iterator[SmallWorld]:
    with one_zone() as found:
        found.network.host("hmi1", "control", "10.0.1.20")
        yield found


@dataclass(slots=True)
class Secured:
    plc: Plc
    peers: list[Peer]


def secure_plc(world: SmallWorld, name: str = "plc1") -> Secured:
    """The tank's PLC under Modbus/TLS, and the peers that have asked it for something."""
    plc = world.plc(name, controller() if name == "plc1" else controller("10.0.1.12"))
    plc.seams.tls, plc.seams.port = server_context(name), SECURE
    peers: list[Peer] = []

    def note(peer: Peer, _access: Access) -> None:
        peers.append(peer)

    plc.seams.authorize.append(note)
    plc.start()
    world.run(1)
    return Secured(plc, peers)


def client(context: ssl.SSLContext | None, hostname: str | None = "plc1", port: int = SECURE) -> ModbusClient:
    return ModbusClient(
        "10.0.1.11", port, ssl=context, server_hostname=hostname if context else None, timeout=2.0
    )


def test_both_sides_prove_themselves_and_the_plc_learns_name_and_role(world: SmallWorld) -> None:
    secured = secure_plc(world)
    hmi = client(client_context("hmi1", "hmi"))
    assert isinstance(world.ask(hmi.read(Table.INPUT, 0, 2), by="hmi1"), list)
    assert world.ask(hmi.write(Table.HOLDING, 1, [7000]), by="hmi1") is None
    world.run(1)
    assert secured.plc.value("H_SP") == 700.0
    assert {(peer.address, peer.identity, peer.role) for peer in secured.peers} == {
        ("10.0.1.20", "hmi1", "hmi")
    }


def test_a_role_can_decide_what_a_client_may_do(world: SmallWorld) -> None:
    secured = secure_plc(world)
    secured.plc.seams.authorize.append(
        lambda peer, access: None if access.kind == "read" or peer.role == "workstation" else ILLEGAL_FUNCTION
    )
    hmi, engineer = client(client_context("hmi1", "hmi")), client(client_context("ews1", "workstation"))
    assert isinstance(world.ask(hmi.read(Table.INPUT, 0, 2), by="hmi1"), list)
    assert world.ask(hmi.write(Table.HOLDING, 1, [7000]), by="hmi1") is not None
    assert world.ask(engineer.write(Table.HOLDING, 1, [7000]), by="hmi1") is None


def no_certificate() -> ssl.SSLContext:
    """A client that believes everything and has nothing to show."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@pytest.mark.parametrize("plain", [True, False], ids=["plain Modbus", "TLS without a certificate"])
def test_a_client_without_a_certificate_gets_nothing(world: SmallWorld, plain: bool) -> None:
    secured = secure_plc(world)
    intruder = client(None if plain else no_certificate())
    assert isinstance(world.ask(attempt(intruder.read(Table.INPUT, 0, 2))), OSError)
    assert isinstance(world.ask(attempt(intruder.write(Table.HOLDING, 1, [7000]))), OSError)
    assert secured.peers == []
    assert secured.plc.value("H_SP") == 600.0
    # and the plain port is not served beside the secure one
    assert isinstance(
        world.ask(attempt(client(None, port=502).read(Table.INPUT, 0, 2))), ConnectionRefusedError
    )


def test_a_client_of_another_authority_gets_nothing(world: SmallWorld, tmp_path: Path) -> None:
    secured = secure_plc(world)
    context = no_certificate()
    context.load_cert_chain(foreign(tmp_path / "hmi1.pem"))
    assert isinstance(world.ask(attempt(client(context).read(Table.INPUT, 0, 2))), OSError)
    assert secured.peers == []


def foreign(path: Path) -> Path:
    """A certificate with the HMI's name and role that its holder has signed with a key of its own."""
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hmi1")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "OT Lab site authority")]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2000, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2100, 1, 1, tzinfo=UTC))
        .add_extension(x509.UnrecognizedExtension(ROLE_OID, b"\x0c\x03hmi"), critical=False)
        .sign(key, None)
    )
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


def test_a_device_does_not_pass_for_another(world: SmallWorld) -> None:
    """The client checks whom it has reached: plc2's certificate does not make it plc1."""
    secure_plc(world, "plc2")
    hmi = ModbusClient(
        "10.0.1.12", SECURE, ssl=client_context("hmi1", "hmi"), server_hostname="plc1", timeout=2.0
    )
    assert isinstance(world.ask(attempt(hmi.read(Table.INPUT, 0, 2)), by="hmi1"), OSError)
    right = ModbusClient(
        "10.0.1.12", SECURE, ssl=client_context("hmi1", "hmi"), server_hostname="plc2", timeout=2.0
    )
    assert isinstance(world.ask(attempt(right.read(Table.INPUT, 0, 2)), by="hmi1"), list)


def test_who_reads_along_sees_nothing_of_a_session(world: SmallWorld) -> None:
    secure_plc(world)
    seen: list[bytes] = []
    world.network.zones["control"].add_tap(lambda _link, packet: seen.append(packet.payload))
    hmi = client(client_context("hmi1", "hmi"))
    values = [0x5A5A, 0xA5A5, 0x5A5A]
    world.ask(hmi.write(Table.HOLDING, 0, values), by="hmi1")
    traffic = b"".join(seen)
    assert len(traffic) > 500
    assert b"\x5a\x5a\xa5\xa5\x5a\x5a" not in traffic
    assert b"hmi1" not in traffic  # TLS 1.3 encrypts certificates too
    seen.clear()
    plain = world.plc("plc2", controller("10.0.1.12"))
    plain.start()
    world.run(1)
    world.ask(ModbusClient("10.0.1.12").write(Table.HOLDING, 0, values), by="hmi1")
    assert b"\x5a\x5a\xa5\xa5\x5a\x5a" in b"".join(seen)


@pytest.mark.parametrize("answers", [True, False], ids=["answers", "requests"])
def test_one_bit_changed_on_the_way_breaks_the_session_and_changes_nothing(
    world: SmallWorld, answers: bool
) -> None:
    secured = secure_plc(world)
    hmi = client(client_context("hmi1", "hmi"))
    assert isinstance(world.ask(hmi.read(Table.INPUT, 0, 2), by="hmi1"), list)
    asked = len(secured.peers)
    tampered: list[bytes] = []

    def change(packet: Packet) -> bytes:
        if packet.payload and packet.reply is answers and not tampered:
            payload = bytearray(packet.payload)
            payload[-20] ^= 0x01  # within the encrypted record
            tampered.append(bytes(payload))
            return bytes(payload)
        return packet.payload

    attacker = world.network.hosts["attacker"]
    assert attacker.interpose("10.0.1.20", "10.0.1.11", change)
    assert isinstance(world.ask(attempt(hmi.write(Table.HOLDING, 1, [7000])), by="hmi1"), OSError)
    assert tampered
    assert not hmi.connected
    if not answers:  # the request was never taken for one
        assert len(secured.peers) == asked
        assert secured.plc.value("H_SP") == 600.0
    # A new session, which nobody tampers with, goes on.
    assert isinstance(world.ask(attempt(hmi.read(Table.INPUT, 0, 2)), by="hmi1"), list)


def test_certificates_are_made_once_and_carry_name_role_and_a_serial_of_their_own() -> None:
    assert client_context("hmi1", "hmi") is client_context("hmi1", "hmi")
    certificates = [read(*who) for who in (("hmi1", "hmi"), ("hmi1", "workstation"), ("ews1", "workstation"))]
    assert len({certificate.serial_number for certificate in certificates}) == 3
    assert (
        len({len(certificate.serial_number.to_bytes(9, "big").lstrip(b"\0")) for certificate in certificates})
        == 1
    )
    roles = [
        certificate.extensions.get_extension_for_oid(ROLE_OID).value.public_bytes()
        for certificate in certificates
    ]
    assert roles == [b"\x0c\x03hmi", b"\x0c\x0bworkstation", b"\x0c\x0bworkstation"]


def read(name: str, role: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(_issue(name, role).read_bytes())


def test_no_key_is_readable_by_others_or_outlives_the_process() -> None:
    script = (
        "from devices.certificates import _folder, _issue, client_context\n"
        "client_context('hmi1', 'hmi')\n"
        "key = _issue('hmi1', 'hmi')\n"
        "assert key.stat().st_mode & 0o077 == 0\n"
        "assert _folder().stat().st_mode & 0o077 == 0\n"
        "print(_folder())\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    folder = Path(found.stdout.strip())
    assert folder.name.startswith("otlab-keys-")
    assert not folder.exists()
