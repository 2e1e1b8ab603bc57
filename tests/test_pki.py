"""Certificates that expire and get revoked, where keys lie, and what disks keep: each on a small network."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from small_worlds import SmallWorld, attempt, one_zone

from devices.audit import Audit
from devices.certificates import borrowed_context
from devices.disk import BLOCK, Disk, DiskFull, carve
from devices.keystore import KeyStore
from devices.modbus import ModbusClient, Peer
from devices.pki import LIST, Authority, RelyingParty, load_list, subject_of
from devices.plc import Plc
from devices.registers import Table
from devices.web import fetch

EPOCH = datetime(2026, 3, 2, 6, tzinfo=UTC)
SECURE = 802


@pytest.fixture
def world() -> Iterator[SmallWorld]:
    with one_zone() as found:
        found.network.host("hmi1", "control", "10.0.1.20")
        found.network.host("ews1", "control", "10.0.1.21")
        found.network.host("pki1", "control", "10.0.1.22")
        yield found


def authority(world: SmallWorld, *, validity: float = 3600.0, list_life: float = 600.0) -> Authority:
    found = Authority(
        world.network.hosts["pki1"], "pki1", "tank", EPOCH, 80, validity, list_life, world.randomness
    )
    world.listen(found.audit)
    found.start()
    return found


def party(world: SmallWorld, issuer: Authority, plc: Plc, every: float = 60.0) -> RelyingParty:
    found = RelyingParty(
        plc.host,
        plc.audit,
        issuer.certificate,
        EPOCH,
        "10.0.1.22",
        80,
        every,
        load_list(issuer.revocations()),
    )
    found.start(5.0)
    return found


def secure_plc(world: SmallWorld, issuer: Authority) -> tuple[Plc, RelyingParty]:
    plc = world.plc()
    plc.seams.tls, plc.seams.port = issuer.server_context("plc1"), SECURE
    relying = party(world, issuer, plc)
    plc.seams.admit.append(lambda peer: relying.flaw(peer.certificate) is None)
    plc.start()
    world.run(1)
    return plc, relying


def reads(world: SmallWorld, issuer: Authority, name: str = "ews1", role: str = "workstation") -> bool:
    client = ModbusClient(
        "10.0.1.11", SECURE, ssl=issuer.client_context(name, role), server_hostname="plc1", timeout=2.0
    )
    answer = world.ask(attempt(client.read(Table.INPUT, 0, 2)), by="ews1")
    client.close()
    return isinstance(answer, list)


# -- the authority -----------------------------------------------------------------------------------------------


def test_a_certificate_is_good_until_it_expires_by_the_runs_time_and_not_the_machines(
    world: SmallWorld,
) -> None:
    issuer = authority(world, validity=300.0)
    _plc, relying = secure_plc(world, issuer)
    assert reads(world, issuer)
    world.run(310)
    assert relying.flaw(certificate(issuer, "ews1")) == "expired"
    assert not reads(world, issuer)


def certificate(issuer: Authority, name: str, role: str = "workstation") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return x509.load_pem_x509_certificate(issuer.papers(name, role)).public_bytes(Encoding.DER)


def test_a_revoked_certificate_opens_nothing_once_the_device_has_the_list(world: SmallWorld) -> None:
    issuer = authority(world)
    _plc, relying = secure_plc(world, issuer)
    news: list[int] = []
    relying.on_news.append(news.append)
    assert reads(world, issuer, "laptop1")
    assert issuer.revoke("laptop1")
    assert reads(world, issuer, "laptop1")  # the device has not heard of it
    world.run(70)
    assert not reads(world, issuer, "laptop1")
    assert reads(world, issuer)
    assert news == [1]
    assert world.kinds("certificate.revoked") == ["certificate.revoked"]
    assert not issuer.revoke("laptop1")  # nothing is left to revoke
    assert not issuer.revoke("nobody")


def test_a_silent_authority_leaves_the_last_list_good_until_it_is_out_of_date(world: SmallWorld) -> None:
    issuer = authority(world, list_life=200.0)
    _plc, relying = secure_plc(world, issuer)
    reads(world, issuer, "laptop1")
    issuer.revoke("laptop1")
    world.run(70)
    world.network.hosts["pki1"].power_off()
    world.run(100)
    assert not reads(world, issuer, "laptop1")
    assert reads(world, issuer)
    assert world.kinds("crl.missing")
    world.run(150)
    assert relying.flaw(certificate(issuer, "ews1")) == "list out of date"
    assert relying.flaw(certificate(issuer, "laptop1")) == "revoked"
    world.network.hosts["pki1"].power_on()
    issuer.start()
    world.run(70)
    assert reads(world, issuer)


def test_only_newer_lists_of_the_authority_itself_are_taken(world: SmallWorld) -> None:
    issuer = authority(world)
    plc = world.plc()
    relying = party(world, issuer, plc)
    old = issuer.revocations()
    issuer.papers("laptop1", "workstation")
    issuer.revoke("laptop1")
    world.run(10)
    assert relying.take(issuer.revocations())
    assert not relying.take(old)
    forged = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(EPOCH + timedelta(days=1))
        .next_update(EPOCH + timedelta(days=900))
        .sign(Ed25519PrivateKey.generate(), None)
    )
    from cryptography.hazmat.primitives.serialization import Encoding

    assert not relying.take(forged.public_bytes(Encoding.DER))
    assert relying.flaw(certificate(issuer, "laptop1")) == "revoked"


@given(st.binary(max_size=400))
def test_no_bytes_pass_for_a_list_or_a_certificate(data: bytes) -> None:
    with one_zone() as world:
        world.network.host("pki1", "control", "10.0.1.22")
        issuer = authority(world)
        relying = party(world, issuer, world.plc())
        assert not relying.take(data)
        assert relying.flaw(data) == "unreadable"
        assert subject_of(data) is None
        assert relying.flaw(None) == "no certificate"


def test_a_certificate_of_another_authority_has_a_flaw(world: SmallWorld) -> None:
    issuer = authority(world)
    relying = party(world, issuer, world.plc())
    other = Authority(world.network.hosts["pki1"], "x", "elsewhere", EPOCH, 81, 60.0, 60.0, world.randomness)
    assert relying.flaw(certificate(other, "ews1")) == "not of this authority"
    assert relying.flaw(certificate(issuer, "ews1")) is None
    assert relying.flaw(issuer.ua_papers("hist1", "urn:hist1")[0]) is None
    assert relying.flaw(other.ua_papers("hist1", "urn:hist1")[0]) == "not of this authority"


def test_the_list_is_served_by_http_and_nothing_else_is(world: SmallWorld) -> None:
    issuer = authority(world)
    world.run(1)
    answer = world.ask(fetch("10.0.1.22", 80, LIST))
    assert (answer.status, load_list(answer.body).issuer) == (200, issuer.certificate.subject)
    assert world.ask(fetch("10.0.1.22", 80, "/authority.key")).status == 404


def test_lists_are_the_same_bytes_in_every_run(world: SmallWorld) -> None:
    issuer = authority(world)
    issuer.papers("laptop1", "workstation")
    issuer.revoke("laptop1")
    with one_zone() as again:
        again.network.host("pki1", "control", "10.0.1.22")
        other = authority(again)
        other.papers("laptop1", "workstation")
        other.revoke("laptop1")
        assert issuer.revocations() == other.revocations()


def test_a_peer_carries_its_certificate_beside_what_it_is_compared_by() -> None:
    assert Peer("10.0.1.20", 1, "hmi1", "hmi", b"der") == Peer("10.0.1.20", 1, "hmi1", "hmi")


# -- key stores --------------------------------------------------------------------------------------------------


def test_from_a_file_one_copies_and_from_hardware_only_its_own_machine_uses(world: SmallWorld) -> None:
    owner, other = world.network.hosts["ews1"], world.network.hosts["attacker"]
    store = KeyStore(owner)
    store.keep("password", lambda: b"s3cret")
    store.keep("none", lambda: None)
    assert store.names == ("password",)
    assert store.export("password") == b"s3cret"
    store.hardware.add("password")
    assert store.export("password") is None
    assert store.use("password", owner) == b"s3cret"
    assert store.use("password", other) is None
    assert store.export("unheard of") is None


def test_a_copied_key_opens_a_controller_and_a_certificate_without_its_key_opens_nothing(
    world: SmallWorld,
) -> None:
    issuer = authority(world)
    secure_plc(world, issuer)
    papers = issuer.papers("ews1", "workstation")
    context = borrowed_context(papers)
    thief = ModbusClient("10.0.1.11", SECURE, ssl=context, server_hostname="plc1", timeout=2.0)
    assert isinstance(world.ask(thief.read(Table.INPUT, 0, 2)), list)
    assert borrowed_context(papers[papers.index(b"-----BEGIN CERTIFICATE") :]) is None
    assert borrowed_context(b"nothing of the kind") is None


# -- disks -------------------------------------------------------------------------------------------------------

PROGRAM = b"PROGRAM plc1\nVAR\nEND_VAR\nEND_PROGRAM\n"


def test_a_deleted_file_is_carved_out_of_the_blocks_and_a_purged_disk_is_empty() -> None:
    disk = Disk(64)
    disk.write("plc1.st", PROGRAM * 30)
    disk.write("settings", b"user=service password=s3cret\n")
    for name in disk.files:
        disk.delete(name)
    assert disk.files == ()
    found = carve(disk.raw)
    assert len(found["program"]) == 30
    assert found["password"] == [b"password=s3cret"]
    disk.purge()
    assert not any(carve(disk.raw).values())
    assert not any(disk.raw)


def test_a_disk_has_an_end(world: SmallWorld) -> None:
    disk = Disk(4)
    disk.write("a", bytes(2 * BLOCK))
    with pytest.raises(DiskFull, match="'b': 3 blocks wanted, 2 free"):
        disk.write("b", bytes(2 * BLOCK + 1))
    assert disk.read("b") is None


@given(st.dictionaries(st.sampled_from("abcdef"), st.binary(max_size=3 * BLOCK)), st.data())
def test_files_come_back_as_they_were_written_whatever_else_was_deleted(
    files: dict[str, bytes], data: st.DataObject
) -> None:
    disk = Disk(64)
    for name, content in files.items():
        disk.write(name, b"older" * 100)
        disk.write(name, content)
    gone = data.draw(st.sets(st.sampled_from("abcdef")))
    for name in sorted(gone):
        disk.delete(name)
    for name, content in files.items():
        assert disk.read(name) == (None if name in gone else content)


def test_an_audit_is_what_a_relying_party_reports_to(world: SmallWorld) -> None:
    issuer = authority(world)
    plc = world.plc()
    relying = party(world, issuer, plc, every=30.0)
    assert isinstance(relying.audit, Audit)
    world.network.hosts["pki1"].power_off()
    world.run(10)
    assert world.last("crl.missing")["reason"] in ("TimeoutError", "OSError", "ConnectionRefusedError")
