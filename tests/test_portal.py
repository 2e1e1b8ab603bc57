"""The report portal on a small network: who gets a session, what pages give away, and what bad input does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_worlds import SmallWorld, attempt, one_zone

from devices.ciphers import AesGcm, XorScheme, break_repeating_key
from devices.historian import Historian
from devices.opcua import UaClient
from devices.portal import BLOCK, HEADER, Browser, Portal, page_of, rows_in
from devices.web import WebAnswer, WebRequest, WebServer, fetch
from testbed.randomness import Randomness

ADDRESS = "10.0.1.30"


def no_server() -> UaClient:
    raise AssertionError("the historian does not collect here")


@dataclass(slots=True)
class Site:
    world: SmallWorld
    portal: Portal
    wanted: list[tuple[str, float]] = field(default_factory=list)

    def browser(self, at: str = "reader") -> Browser:
        return Browser(self.world.network.hosts[at], ADDRESS, 443, "hist1")

    def get(self, browser: Browser, path: str, **query: str) -> WebAnswer:
        return self.world.ask(browser.get(path, **query), by=browser.host.name)

    def post(self, browser: Browser, path: str, **form: str) -> WebAnswer:
        return self.world.ask(browser.post(path, **form), by=browser.host.name)

    def logged_in(self, at: str = "reader", cookie: str | None = None) -> Browser:
        browser = self.browser(at)
        browser.cookie = cookie
        assert self.post(browser, "/login", user="supervisor1", password="secret").status == 200
        return browser

    def reads(self, browser: Browser) -> int:
        return len(rows_in(page_of(self.get(browser, "/reports", tag="LEVEL"))))


@pytest.fixture
def site() -> Iterator[Site]:
    with one_zone() as world:
        world.network.host("reader", "control", "10.0.1.40")
        host = world.network.host("hist1", "control", ADDRESS)
        historian = Historian(host, "hist1", ["LEVEL", "FLOW"], 5.0, no_server)
        for at in range(60):
            historian._store("LEVEL", 500 + at / 7, at % 9 > 0, at / 100)
        found: list[Site] = []

        async def command(tag: str, value: float) -> str | None:
            found[0].wanted.append((tag, value))
            return None if tag == "LEVEL" else "BadNodeIdUnknown"

        portal = Portal(
            historian, 443, b"0123456789abcdef", command, lambda: {"user": "service", "password": "s3cret"}
        )
        world.listen(portal.audit)
        found.append(Site(world, portal))
        portal.start()
        world.run(1)
        yield found[0]


# -- sessions ----------------------------------------------------------------------------------------------------


def test_reports_want_a_log_in_and_the_status_page_does_not(site: Site) -> None:
    browser = site.browser()
    assert page_of(site.get(browser, "/")).startswith(b"Archive: 2 tags")
    assert site.get(browser, "/reports", tag="LEVEL").status == 401
    assert site.get(browser, "/archive").status == 401
    assert site.reads(site.logged_in()) == 60


def test_whom_the_seam_refuses_gets_no_session_and_is_put_on_record(site: Site) -> None:
    site.portal.seams.authenticate = lambda _user, password, _address: (
        "viewer" if password == "right" else None
    )
    browser = site.browser()
    assert site.post(browser, "/login", user="supervisor1", password="wrong").status == 403
    assert browser.cookie is None
    assert site.world.last("login.failed")["user"] == "supervisor1"
    assert site.post(browser, "/login", user="supervisor1", password="right").status == 200


def test_a_session_is_good_from_anywhere_unless_it_is_bound(site: Site) -> None:
    owner, thief = site.logged_in(), site.browser("attacker")
    thief.cookie = owner.cookie
    assert site.reads(thief) == 60
    site.portal.seams.good = lambda session, address, _now: session.address == address
    assert site.reads(thief) == 0
    assert site.reads(owner) == 60
    assert site.world.last("portal.session_refused") == {"peer": "10.0.1.99", "known": True}


def test_logging_out_ends_the_session_at_the_browser_only_unless_the_server_ends_it_too(site: Site) -> None:
    for ends in (False, True):
        site.portal.seams.ends = ends
        owner = site.logged_in()
        cookie = owner.cookie
        site.post(owner, "/logout")
        assert owner.cookie is None
        owner.cookie = cookie
        assert site.reads(owner) == (0 if ends else 60)


def test_an_id_that_a_browser_brings_becomes_its_sessions_unless_ids_are_the_servers_own(site: Site) -> None:
    thief = site.browser("attacker")
    thief.cookie = "planted"
    assert site.logged_in(cookie="planted").cookie == "planted"
    assert site.reads(thief) == 60
    site.portal.sessions.clear()
    site.portal.seams.adopts = False
    assert site.logged_in(cookie="planted").cookie != "planted"
    assert site.reads(thief) == 0


def test_ids_count_up_as_the_product_comes(site: Site) -> None:
    assert [site.logged_in().cookie for _ in range(3)] == ["00000001", "00000002", "00000003"]


# -- what pages give away ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "broken",
    [
        lambda site, browser: site.post(browser, "/login"),
        lambda site, browser: site.get(browser, "/reports", tag="NOTHING"),
        lambda site, browser: site.get(browser, "/reports", **{"tag": "LEVEL", "from": "yesterday"}),
        lambda site, browser: site.post(browser, "/setpoint", tag="LEVEL", value="high"),
    ],
)
def test_an_error_page_tells_what_the_seam_lets_it(
    site: Site, broken: Callable[[Site, Browser], WebAnswer]
) -> None:
    browser = site.logged_in()
    answer = broken(site, browser)
    assert answer.status == 500
    assert b"password=s3cret" in page_of(answer)
    site.portal.seams.explain = lambda _mishap, _settings: "error 1\n"
    assert page_of(broken(site, browser)) == b"error 1\n"
    assert "Error" in site.world.last("portal.error")["message"]  # the log has it all the same


def test_a_page_carries_what_the_page_before_left_in_the_buffer_unless_that_is_cleared(site: Site) -> None:
    for clears, left in ((False, True), (True, False)):
        site.portal.seams.clears = clears
        assert site.reads(site.logged_in()) == 60
        answer = site.get(site.browser("attacker"), "/")
        assert len(answer.body) % BLOCK == 0
        assert bool(rows_in(answer.body)) is left
        assert not rows_in(page_of(answer))


def test_an_export_under_the_products_scheme_opens_to_whoever_knows_how_it_begins(site: Site) -> None:
    browser = site.logged_in()
    opened = break_repeating_key(page_of(site.get(browser, "/archive")), HEADER)
    assert opened is not None
    assert len(rows_in(opened)) == 60
    stream = Randomness(1).stream("nonces")
    site.portal.seams.cipher = cipher = AesGcm(bytes(range(32)), stream)
    sealed = page_of(site.get(browser, "/archive"))
    assert break_repeating_key(sealed, HEADER) is None
    assert cipher.open(sealed) == opened


# -- setpoints ---------------------------------------------------------------------------------------------------


def test_a_setpoint_is_passed_on_with_its_answer_and_a_viewer_may_ask_for_none(site: Site) -> None:
    browser = site.logged_in()
    assert site.post(browser, "/setpoint", tag="LEVEL", value="750").status == 200
    refused = site.post(browser, "/setpoint", tag="OTHER", value="1")
    assert (refused.status, page_of(refused)) == (409, b"refused: BadNodeIdUnknown\n")
    site.portal.seams.authenticate = lambda *_: "viewer"
    assert site.post(site.logged_in(), "/setpoint", tag="LEVEL", value="1").status == 403
    assert site.wanted == [("LEVEL", 750.0), ("OTHER", 1.0)]


# -- the web server ----------------------------------------------------------------------------------------------


def raw(world: SmallWorld, sent: bytes, port: int = 443) -> bytes:
    """What the server answers to these bytes, until it closes or 15 s are over."""
    received = bytearray()

    async def talk() -> None:
        import asyncio

        class Line(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                received.extend(data)

        transport, _ = await world.loop.create_connection(Line, ADDRESS, port)
        transport.write(sent)
        await asyncio.sleep(15)
        transport.close()

    world.ask(talk())
    return bytes(received)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),  # HTTP/1.1 wants a Host
        (b"GET http://[bad HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n" + b"a" * 70_000, b"413"),
        (b"GET /" + b"a" * 70_000, b"431"),
        (b"DELETE / HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
    ],
)
def test_what_is_no_request_is_answered_with_its_status_and_asks_nobody(
    site: Site, sent: bytes, status: bytes
) -> None:
    assert raw(site.world, sent).split(b" ")[1] == status
    assert site.reads(site.logged_in()) == 60


def test_a_request_that_never_ends_is_given_up(site: Site) -> None:
    assert raw(site.world, b"GET / HTTP/1.1\r\nHost:") == b""
    assert site.portal.host.connections == {}


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_bring_the_server_down(data: bytes) -> None:
    with one_zone() as world:
        host = world.network.host("web", "control", ADDRESS)

        async def answer(request: WebRequest) -> WebAnswer:
            return WebAnswer(200, request.path.encode())

        WebServer(host, 443, answer).start()
        world.run(0.1)
        raw(world, data)
        asked: Awaitable[WebAnswer] = fetch(ADDRESS, 443, "/still")
        found = world.ask(asked)  # type: ignore[arg-type]
        assert found.body == b"/still"


def test_a_client_says_in_one_kind_of_error_that_there_is_no_answer(site: Site) -> None:
    assert isinstance(site.world.ask(attempt(fetch(ADDRESS, 80, "/"))), ConnectionRefusedError)
    assert isinstance(site.world.ask(attempt(fetch("10.0.1.77", 443, "/"))), OSError)


# -- ciphers -----------------------------------------------------------------------------------------------------


@given(st.binary(min_size=1, max_size=18), st.binary(max_size=200))
def test_a_repeated_key_is_found_from_a_known_beginning_that_is_longer(key: bytes, rest: bytes) -> None:
    plain = HEADER + rest
    assert break_repeating_key(XorScheme(key).seal(plain), HEADER) == plain


@given(st.binary(max_size=300), st.integers(0, 10_000), st.integers(1, 255))
def test_a_message_under_aes_opens_unchanged_only(plain: bytes, at: int, flip: int) -> None:
    cipher = AesGcm(bytes(32), Randomness(3).stream("nonces"))
    sealed = bytearray(cipher.seal(plain))
    assert cipher.open(bytes(sealed)) == plain
    sealed[at % len(sealed)] ^= flip
    assert cipher.open(bytes(sealed)) is None
    assert cipher.open(bytes(sealed[:10])) is None


def test_no_two_messages_are_sealed_alike() -> None:
    cipher = AesGcm(bytes(32), Randomness(3).stream("nonces"))
    assert len({cipher.seal(b"the same") for _ in range(50)}) == 50
