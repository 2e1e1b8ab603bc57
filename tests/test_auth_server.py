"""The RADIUS server and its clients: packets as the RFCs have them, forged answers, silent servers, and fallback."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyrad.packet import AccessReject, AccessRequest, AuthPacket

from devices.accounts import LOCKED, NO_ACCOUNT, WRONG_PASSWORD, Accounts, User
from devices.auth_server import ACCEPT, ATTRIBUTES, AuthClient, AuthServer, log_in_at, read_packet
from scenarios.steps.accounts import forged
from testbed.network import Link, Packet
from tests.small_worlds import SmallWorld, one_zone

SECRET = b"a secret of this device's"


class Site:
    """A server, one client device, and an attacker in one zone."""

    def __init__(self, world: SmallWorld) -> None:
        self.world = world
        clock = world.loop.time
        self.accounts = Accounts(clock, 1_772_431_200.0, random.Random(1))
        self.accounts.add("anna", "engineer", "sesame")
        self.server = AuthServer(world.network.host("auth1", "control", "10.0.1.50"), "auth1", self.accounts)
        self.device = world.network.host("device", "control", "10.0.1.60")
        self.client = AuthClient(self.device, "10.0.1.50", SECRET, random.Random(2))
        self.server.secrets[self.device.address] = SECRET
        self.local = Accounts(clock, 1_772_431_200.0, random.Random(3))
        self.local.add("desk", "operator", "spare", essential=True)
        self.told: list[str] = []
        self.client.audit = lambda kind, **_data: self.told.append(kind)
        self.server.start()
        world.run(0.1)

    def ask(self, name: str, password: str, code: str | None = None) -> tuple[User | None, str] | None:
        return self.world.ask(
            self.client.ask(name, password, code, "10.0.1.99", interactive=True), by="device"
        )

    def log_in(self, name: str, password: str) -> tuple[User | None, str]:
        return self.world.ask(
            log_in_at(self.local, self.client, name, password, None, "10.0.1.60"), by="device"
        )


@pytest.fixture
def site() -> Iterator[Site]:
    with one_zone() as world:
        yield Site(world)


def request(secret: bytes = SECRET, *, sealed: bool = True, password: str = "sesame") -> AuthPacket:
    packet = AuthPacket(id=7, secret=secret, authenticator=bytes(range(16)), dict=ATTRIBUTES)
    if sealed:
        packet.add_message_authenticator()
    packet.AddAttribute("User-Name", "anna")
    packet.AddAttribute("User-Password", packet.PwCrypt(password))
    return packet


def test_the_server_says_who_somebody_is_and_in_which_role(site: Site) -> None:
    assert site.ask("anna", "sesame") == (User("anna", "engineer"), "")
    assert site.ask("anna", "sesamE") == (None, WRONG_PASSWORD)
    assert site.ask("berta", "sesame") == (None, NO_ACCOUNT)
    assert site.server.answered == 3
    assert site.told == []


def test_rules_of_the_server_count_for_every_device(site: Site) -> None:
    site.accounts.rules.lockout_attempts = 2
    site.ask("anna", "x")
    assert site.ask("anna", "y") == (None, LOCKED)
    assert site.ask("anna", "sesame") == (None, LOCKED)


def test_the_address_that_a_person_comes_from_reaches_the_rules(site: Site) -> None:
    seen: list[str] = []

    def needs_code(address: str) -> bool:
        seen.append(address)
        return False

    site.accounts.rules.needs_code = needs_code
    site.ask("anna", "sesame")
    assert seen == ["10.0.1.99"]


def test_no_password_is_readable_on_the_wire_and_none_is_hidden_the_same_twice(site: Site) -> None:
    seen: list[bytes] = []

    def watch(_link: Link, packet: Packet) -> None:
        if packet.target_port == 1812:
            seen.append(packet.payload)

    site.world.network.zones["control"].add_tap(watch)
    site.ask("anna", "sesame")
    site.ask("anna", "sesame")
    assert len(seen) >= 2
    assert all(b"sesame" not in raw for raw in seen)
    assert len({raw[4:20] for raw in seen}) == 2


def test_a_request_is_answered_only_with_its_seal_and_the_right_secret(site: Site) -> None:
    sender = (site.device.address, 50_000)
    good = request().RequestPacket()
    answer = site.server.answer(good, sender)
    assert answer is not None
    assert answer[0] == ACCEPT
    assert site.server.answer(request(sealed=False).RequestPacket(), sender) is None
    assert site.server.answer(request(b"another").RequestPacket(), sender) is None
    assert site.server.answer(good, ("10.0.1.99", 50_000)) is None
    assert site.server.answer(bytes([ACCEPT]) + good[1:], sender) is None
    assert site.server.dropped == 4


def test_a_request_that_is_sent_again_is_answered_again_and_counted_once(site: Site) -> None:
    site.accounts.rules.lockout_attempts = 2
    sender = (site.device.address, 50_000)
    wrong = request(password="wrong").RequestPacket()
    first = site.server.answer(wrong, sender)
    assert site.server.answer(wrong, sender) == first
    assert len(site.accounts.accounts["anna"].failures) == 1
    assert first is not None
    assert first[0] == AccessReject


def test_the_answer_carries_a_seal_that_pyrad_accepts(site: Site) -> None:
    asked = request()
    raw = site.server.answer(asked.RequestPacket(), (site.device.address, 50_000))
    assert raw is not None
    assert asked.VerifyReply(read_packet(raw, SECRET), raw, enforce_ma=True)


def test_no_datagram_upsets_the_server(site: Site) -> None:
    @given(st.binary(max_size=200))
    @settings(max_examples=200, deadline=None)
    def check(raw: bytes) -> None:
        assert site.server.answer(raw, (site.device.address, 1)) is None

    check()
    assert site.ask("anna", "sesame") == (User("anna", "engineer"), "")


def test_no_altered_answer_is_taken(site: Site) -> None:
    asked = request()
    raw = site.server.answer(asked.RequestPacket(), (site.device.address, 1))
    assert raw is not None

    @given(st.binary(max_size=64), st.integers(0, 120))
    @settings(max_examples=200, deadline=None)
    def check(noise: bytes, at: int) -> None:
        altered = raw[:at] + noise + raw[at + len(noise) :]
        if altered[: len(raw)] != raw:
            reply = read_packet(altered, SECRET)
            assert reply is None or not asked.VerifyReply(reply, altered, enforce_ma=True)

    check()


def test_no_name_or_password_upsets_client_or_server(site: Site) -> None:
    @given(st.text(max_size=300), st.text(max_size=150))
    @settings(max_examples=50, deadline=None)
    def check(name: str, password: str) -> None:
        found = site.ask(name, password)
        assert found is not None
        assert found[0] is None or (name, password) == ("anna", "sesame")

    check()


# -- forged answers ----------------------------------------------------------------------------------------------


def interposed(site: Site, secret: bytes) -> None:
    """The attacker turns every answer into an admission, signed with ``secret``."""
    asked: list[bytes] = []

    def intercept(packet: Packet) -> bytes | None:
        if packet.target == "10.0.1.50":
            asked.append(packet.payload)
            return packet.payload
        return forged(asked[-1], packet.payload, secret)

    assert site.world.network.hosts["attacker"].interpose("10.0.1.60", "10.0.1.50", intercept)


def test_a_forged_admission_is_dropped_and_the_local_accounts_decide(site: Site) -> None:
    interposed(site, b"testing123")
    assert site.log_in("anna", "made up") == (None, NO_ACCOUNT)  # which the device itself does not have
    assert site.client.forged == site.client.tries
    assert site.told == ["auth.forged", "auth.forged", "auth.unreachable"]


def test_who_knows_the_shared_secret_admits_whom_he_likes(site: Site) -> None:
    interposed(site, SECRET)
    user, _ = site.log_in("anna", "made up")
    assert user is not None
    assert user.name == "anna"


def test_an_answer_without_a_seal_is_dropped_however_well_it_is_signed(site: Site) -> None:
    """What CVE-2024-3596 needs: a Response Authenticator that is right, and no Message-Authenticator."""

    def intercept(packet: Packet) -> bytes | None:
        if packet.target == "10.0.1.50":
            asked.append(packet.payload)
            return packet.payload
        parsed = read_packet(asked[-1], SECRET)
        assert parsed is not None
        reply = AuthPacket(ACCEPT, 0, SECRET, parsed.authenticator, dict=ATTRIBUTES)
        reply.id = parsed.id
        reply.AddAttribute("Filter-Id", "x" * (len(packet.payload) - 22))
        raw: bytes = reply.ReplyPacket()
        return raw

    asked: list[bytes] = []
    site.world.network.hosts["attacker"].interpose("10.0.1.60", "10.0.1.50", intercept)
    assert site.ask("anna", "made up") is None
    assert site.client.forged == site.client.tries


# -- silent servers ----------------------------------------------------------------------------------------------


def test_a_silent_server_is_asked_twice_and_then_left_alone_for_a_while(site: Site) -> None:
    site.server.host.power_off()
    before = site.world.now
    assert site.ask("anna", "sesame") is None
    assert 2.0 <= site.world.now - before < 2.2
    assert site.client.silent
    before = site.world.now
    assert site.ask("anna", "sesame") is None
    assert site.world.now - before < 0.1
    assert site.told == ["auth.unreachable"]
    site.server.host.power_on()
    site.server.start()
    site.world.run(60)
    assert not site.client.silent
    assert site.ask("anna", "sesame") == (User("anna", "engineer"), "")


def test_local_accounts_open_only_while_the_server_is_silent(site: Site) -> None:
    assert site.log_in("desk", "spare") == (None, NO_ACCOUNT)
    site.server.host.power_off()
    assert site.log_in("desk", "spare") == (User("desk", "operator"), "")
    assert site.log_in("anna", "sesame") == (None, NO_ACCOUNT)


def test_a_server_that_has_more_work_than_it_can_wait_for_drops_requests(site: Site) -> None:
    assert site.ask("anna", "sesame") == (User("anna", "engineer"), "")
    site.server.cost, site.server.backlog = 0.5, 5.0

    async def flood() -> None:
        transport, _ = await site.world.loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=("10.0.1.50", 1812)
        )
        assert isinstance(transport, asyncio.DatagramTransport)
        for _ in range(60):
            transport.sendto(b"nonsense")
            await asyncio.sleep(0.1)

    site.world.network.hosts["attacker"].spawn(flood(), "flood")
    site.world.run(3)
    assert site.ask("anna", "sesame") is None
    assert site.server.dropped > 10
    assert site.log_in("desk", "spare") == (User("desk", "operator"), "")


def test_the_same_stream_makes_the_same_bytes() -> None:
    def packets() -> list[bytes]:
        with one_zone() as world:
            site = Site(world)
            seen: list[bytes] = []
            world.network.zones["control"].add_tap(lambda _link, packet: seen.append(packet.payload))
            site.ask("anna", "sesame")
            return [raw for raw in seen if raw]

    first = packets()
    assert len(first) == 2
    assert packets() == first


def test_a_packet_is_an_access_request_of_rfc_2865() -> None:
    raw = request().RequestPacket()
    assert raw[0] == AccessRequest
    assert int.from_bytes(raw[2:4], "big") == len(raw)
    assert raw[20:22] == b"\x50\x12"  # the Message-Authenticator stands first
