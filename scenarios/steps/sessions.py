"""Web sessions and what crosses boundaries: people who read reports, and who listens, guesses and steps in.

ATT&CK for ICS T0842, T0859, T0819, T0882, T0801 and T0811.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Annotated, Final, Literal

from pydantic import Field

from controls.iac import SHARED
from devices.accounts import one_time_code
from devices.ciphers import break_repeating_key
from devices.credentials import UaCredentials
from devices.opcua import UaClient, make_certificate
from devices.opcua_model import SIGN_AND_ENCRYPT
from devices.portal import COOKIE, HEADER, Browser, page_of, rows_in
from devices.world import World
from scenarios.attack import Attack, Seconds, Step
from testbed import site as sites
from testbed.network import Host, Link, Packet
from testbed.site import Name, Site, TagName


def portal_browser(world: World, historian: str, host: Host) -> Browser:
    """A browser on ``host`` for the portal, set up as the site sets browsers up."""
    asset = world.site.assets[historian]
    assert isinstance(asset, sites.Historian)
    assert asset.portal is not None
    tls = world.seams.browser_tls() if world.seams.browser_tls is not None else None
    return Browser(host, asset.address, asset.portal, historian, tls)


def lacks_portal(site: Site, historian: str) -> Iterator[str]:
    """A sentence if ``historian`` is none that has a portal."""
    asset = site.assets.get(historian)
    if not isinstance(asset, sites.Historian) or asset.portal is None:
        yield f"site {site.name!r} has no report portal at {historian!r}"


def disclose(attack: Attack, step: Step, what: str, amount: int, target: str) -> None:
    """Record what the attacker has got to read, or that it got nothing."""
    if amount:
        source = attack.attacker.name if attack.attacker is not None else "outsider"
        attack.world.trace.record("disclosed", source, what=what, amount=amount)
    attack.note(step, "done" if amount else "refused", target=target, what=what, amount=amount)


# ------------------------------------------------------------------------------------------------ people at work


class ReadReports(Step):
    """Somebody at ``at`` logs in to the portal of ``historian``, reads ``tags`` page by page, and logs out or forgets.

    The next step begins at once unless ``waits``; a person who cannot log in or read has a task refused.
    """

    hostile = False

    action: Literal["read_reports"]
    user: Name
    at: Name
    historian: Name
    tags: Annotated[tuple[TagName, ...], Field(min_length=1)]
    pages: Annotated[int, Field(ge=1, le=1000)] = 10
    export: bool = False
    logs_out: bool = True
    waits: bool = False

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_portal(site, self.historian)
        if self.at not in site.assets:
            yield f"site {site.name!r} has no asset {self.at!r}"

    async def carry_out(self, attack: Attack) -> None:
        host = attack.world.network.hosts[self.at]
        browser = attack.found.get(f"browser of {self.at}")
        if not isinstance(browser, Browser):  # a page that was opened before left its cookie here
            browser = portal_browser(attack.world, self.historian, host)
        attack.found[f"browser of {self.at}"] = browser
        task = host.spawn(read_reports(attack, self, browser), "browser")
        if self.waits:
            await task


async def read_reports(attack: Attack, step: ReadReports, browser: Browser) -> None:
    """Runs on the reader's machine."""
    world, began = attack.world, attack.world.loop.time()
    stream = world.stream(f"reader:{step.user}")
    skim = world.figures.lognormal("portal.read")
    refused = await _reads(attack, step, browser, lambda: stream.lognormvariate(*skim))
    world.trace.record(
        "task",
        step.user,
        task="read reports",
        outcome="done" if refused is None else "refused",
        seconds=round(world.loop.time() - began, 3),
    )
    attack.note(
        step,
        "finished" if refused is None else "hindered",
        target=step.historian,
        reason=refused,
        user=step.user,
    )


def typed_by(world: World, person: str) -> tuple[str, str]:
    """User and password, with the token's code, that ``person`` types into a log-in.

    Without an account of one's own one uses the control room's.
    """
    user = person if person in world.passwords else SHARED
    password = world.passwords.get(user, "")
    account = world.accounts.accounts.get(user) if world.accounts is not None else None
    if account is not None and account.totp_secret is not None:
        now = world.site.epoch.timestamp() + world.loop.time()
        password += f"#{one_time_code(account.totp_secret, now)}"
    return user, password


async def _reads(
    attack: Attack, step: ReadReports, browser: Browser, think: Callable[[], float]
) -> str | None:
    """Why the reader could not do it, or None."""
    user, password = typed_by(attack.world, step.user)
    try:
        answer = await browser.post("/login", user=user, password=password)
        if answer.status != 200:
            return f"log-in: {answer.status}"
        for page in range(step.pages):
            answer = await browser.get("/reports", tag=step.tags[page % len(step.tags)])
            if answer.status != 200:
                return f"page: {answer.status}"
            await asyncio.sleep(think())
        if step.export:
            await browser.get("/archive")
        if step.logs_out:
            await browser.post("/logout")
    except OSError as error:
        return type(error).__name__
    return None


class ReadValues(Step):
    """Somebody at ``at`` reads ``tags`` of OPC UA ``server`` every ``every`` s for ``lasting`` s; others go on then."""

    hostile = False

    action: Literal["read_values"]
    user: Name
    at: Name
    server: Name
    tags: Annotated[tuple[TagName, ...], Field(min_length=1)]
    every: Seconds = 10.0
    lasting: Seconds

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_server(site, self.server)
        if self.at not in site.assets:
            yield f"site {site.name!r} has no asset {self.at!r}"

    async def carry_out(self, attack: Attack) -> None:
        attack.world.network.hosts[self.at].spawn(read_values(attack, self), "opc ua client")


async def read_values(attack: Attack, step: ReadValues) -> None:
    """Runs on the reader's machine."""
    world, began = attack.world, attack.world.loop.time()
    client = world.ua_connector(step.at, step.server)()
    if world.accounts is not None:
        client.user, client.password = typed_by(world, step.user)
    outcome = "refused"
    try:
        refusal = await client.connect()
        if refusal is None:
            outcome = "done"
            while world.loop.time() + step.every <= began + step.lasting:
                await client.read_many(step.tags)
                await asyncio.sleep(step.every)
    except OSError:
        outcome = "refused"
    await client.disconnect()
    seconds = round(world.loop.time() - began, 3)
    world.trace.record("task", step.user, task="read values", outcome=outcome, seconds=seconds)
    attack.note(step, "finished" if outcome == "done" else "hindered", target=step.server)


def lacks_server(site: Site, server: str) -> Iterator[str]:
    """A sentence if ``server`` is no OPC UA server of the site."""
    if not isinstance(site.assets.get(server), sites.OpcUaServer):
        yield f"site {site.name!r} has no OPC UA server {server!r}"


# ------------------------------------------------------------------------------------------------------ listening

#: A log message (RFC 5424), as it begins.
_LOG: Final = re.compile(rb"<\d{1,3}>1 \S+ \S+ otlab - \S+ \[[^\]]*\]")
_COOKIE: Final = re.compile(
    rb"(?:set-cookie|cookie): " + COOKIE.encode() + rb"=([0-9A-Za-z]+)", re.IGNORECASE
)
#: ReadResponse in the clear: its type's node id in four-byte form (OPC 10000-6, 5.2.2.9), 634 as asyncua has it.
_READ: Final = b"\x01\x00" + (634).to_bytes(2, "little")
#: Where it stands in an unencrypted message: behind header, channel and token (16) and sequence (8); its values follow
#: a response header of 24 bytes that has no diagnostics.
_BODY, _RESULTS = 24, 24 + 4 + 24


def values_read(payload: bytes) -> int:
    """How many values an OPC UA read answer in the clear carries; 0 for anything else."""
    if not payload.startswith(b"MSGF") or payload[_BODY : _BODY + 4] != _READ:
        return 0
    return max(0, int.from_bytes(payload[_RESULTS : _RESULTS + 4], "little", signed=True))


def registers_read(payload: bytes) -> int:
    """How many registers a Modbus answer in the clear carries; 0 for anything else."""
    if len(payload) < 9 or payload[2:4] != b"\0\0" or int.from_bytes(payload[4:6], "big") + 6 != len(payload):
        return 0
    return payload[8] // 2 if payload[7] in (3, 4) and len(payload) == 9 + payload[8] else 0


class Eavesdrop(Step):
    """Listen at zones or conduits for ``lasting`` s and keep what can be read of ``wanted``.

    ``reports`` are rows of the portal, ``logs`` messages to the SIEM, ``registers`` of Modbus and ``values`` of OPC UA
    read answers; ``sessions`` is the cookie of a web session, which a later step may use; ``exports`` are export files
    under a cipher that gives way to its known beginning.
    """

    action: Literal["eavesdrop"]
    links: Annotated[tuple[Name, ...], Field(min_length=1)]
    wanted: Annotated[
        tuple[Literal["reports", "logs", "registers", "values", "sessions", "exports"], ...],
        Field(min_length=1),
    ]
    lasting: Seconds

    def lacks(self, site: Site) -> Iterator[str]:
        for link in self.links:
            if link not in site.zones and link not in site.conduits:
                yield f"site {site.name!r} has no zone or conduit {link!r}"

    async def carry_out(self, attack: Attack) -> None:
        await eavesdrop(attack, self)


class _Ear:
    """What was heard, by kind; packets seen on several links count once."""

    def __init__(self, wanted: tuple[str, ...]) -> None:
        self.wanted = wanted
        self.rows: dict[bytes, None] = {}
        self.logs: dict[bytes, None] = {}
        self.registers = self.values = 0
        self.cookie: str | None = None
        self.streams: dict[tuple[str, int, str, int], bytearray] = {}
        self._last: Packet | None = None

    def __call__(self, _link: Link, packet: Packet) -> None:
        payload = packet.payload
        if not payload or packet is self._last:
            return
        self._last = packet
        if "values" in self.wanted:
            self.values += values_read(payload)
        if "registers" in self.wanted and packet.reply:
            self.registers += registers_read(payload)
        if "logs" in self.wanted:
            self.logs.update(dict.fromkeys(_LOG.findall(payload)))
        if "reports" in self.wanted:
            self.rows.update(dict.fromkeys(rows_in(payload)))
        if "sessions" in self.wanted and (found := _COOKIE.search(payload)) is not None:
            self.cookie = found[1].decode()
        if "exports" in self.wanted and packet.reply:
            end = (packet.source, packet.source_port, packet.target, packet.target_port)
            self.streams.setdefault(end, bytearray()).extend(payload)

    def exported(self) -> dict[bytes, None]:
        """Rows of export files that could be opened."""
        found: dict[bytes, None] = {}
        for stream in self.streams.values():
            head, mark, body = bytes(stream).partition(b"\r\n\r\n")
            opened = break_repeating_key(body, HEADER) if mark and head.startswith(b"HTTP/1.1 200") else None
            if opened is not None:
                found.update(dict.fromkeys(rows_in(opened)))
        return found


async def eavesdrop(attack: Attack, step: Eavesdrop) -> None:
    """T0842: read along where a mirror port or a tap gives what passes."""
    network = attack.world.network
    ear = _Ear(step.wanted)
    links: list[Link] = [network.zones[n] if n in network.zones else network.conduits[n] for n in step.links]
    for link in links:
        link.add_tap(ear)
    await asyncio.sleep(step.lasting)
    for link in links:
        link.remove_tap(ear)
    where = ",".join(step.links)
    heard = {
        "reports": len(ear.rows),
        "logs": len(ear.logs),
        "registers": ear.registers,
        "values": ear.values,
        "exports": len(ear.exported()) if "exports" in step.wanted else 0,
    }
    for kind in step.wanted:
        if kind != "sessions":
            disclose(attack, step, kind, heard[kind], where)
    if "sessions" in step.wanted:
        attack.found["session id"] = ear.cookie
        attack.note(step, "heard" if ear.cookie is not None else "refused", target=where, what="session id")


# -------------------------------------------------------------------------------------------- other people's sessions


class TakeCookie(Step):
    """Copy the cookie of a web session from the browser of ``at``, the machine that the attacker is at."""

    action: Literal["take_cookie"]
    at: Name

    async def carry_out(self, attack: Attack) -> None:
        browser = attack.found.get(f"browser of {self.at}")
        cookie = browser.cookie if isinstance(browser, Browser) and browser.host is attack.host else None
        attack.found["session id"] = cookie
        attack.note(self, "taken" if cookie is not None else "refused", target=self.at)


class PlantCookie(Step):
    """Give the browser of ``at`` a session id of the attacker's choice before its owner logs in, as a link can."""

    action: Literal["plant_cookie"]
    at: Name
    historian: Name
    id: Annotated[str, Field(pattern=r"^[0-9A-Za-z]{1,64}$")]

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_portal(site, self.historian)

    async def carry_out(self, attack: Attack) -> None:
        browser = portal_browser(attack.world, self.historian, attack.world.network.hosts[self.at])
        browser.cookie = self.id
        attack.found[f"browser of {self.at}"] = browser
        attack.found["session id"] = self.id
        attack.note(self, "planted", target=self.at)


class UseSession(Step):
    """Go on in somebody's session from the attacker's machine: read ``tags``, and ask for setpoints.

    The id is the one that an earlier step found, or the first that ``guesses`` hits: numbers counted up from 1.
    """

    action: Literal["use_session"]
    historian: Name
    tags: Annotated[tuple[TagName, ...], Field(min_length=1)]
    setpoints: dict[TagName, float] = Field(default_factory=dict)
    guesses: bool = False

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_portal(site, self.historian)

    async def carry_out(self, attack: Attack) -> None:
        await use_session(attack, self)


async def use_session(attack: Attack, step: UseSession) -> None:
    """T0859: the portal takes whoever has the id for the person who logged in."""
    browser = portal_browser(attack.world, step.historian, attack.host)
    found = attack.found.get("session id")
    try:
        if step.guesses:
            found = await _guess(attack, browser, step.tags[0])
        if not isinstance(found, str):
            attack.note(step, "refused", target=step.historian, reason="no session id")
            return
        browser.cookie = found
        rows = 0
        for tag in step.tags:
            rows += len(rows_in(page_of(await browser.get("/reports", tag=tag))))
        disclose(attack, step, "reports", rows, step.historian)
        for tag, value in step.setpoints.items():
            answer = await browser.post("/setpoint", tag=tag, value=f"{value:g}")
            attack.note(step, "done" if answer.status == 200 else "refused", target=step.historian, tag=tag)
    except OSError as error:
        attack.note(step, "failed", target=step.historian, reason=type(error).__name__)


async def _guess(attack: Attack, browser: Browser, tag: str) -> str | None:
    for number in range(1, int(attack.world.figures["portal.guesses"]) + 1):
        browser.cookie = f"{number:08d}"
        if (await browser.get("/reports", tag=tag)).status == 200:
            return browser.cookie
        await asyncio.sleep(attack.world.figures["portal.guess_every"])
    return None


# ------------------------------------------------------------------------------------------------ what pages give away


class ProvokeError(Step):
    """Send the portal a log-in form without its fields, and read its error page for secrets."""

    action: Literal["provoke_error"]
    historian: Name

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_portal(site, self.historian)

    async def carry_out(self, attack: Attack) -> None:
        await provoke_error(attack, self)


_SETTINGS: Final = re.compile(r"user=(\S+) password=(\S+)")


async def provoke_error(attack: Attack, step: ProvokeError) -> None:
    """T0819: an error page that shows the application's settings shows its password."""
    browser = portal_browser(attack.world, step.historian, attack.host)
    try:
        answer = await browser.post("/login")
    except OSError as error:
        attack.note(step, "failed", target=step.historian, reason=type(error).__name__)
        return
    shown = _SETTINGS.search(page_of(answer).decode("latin-1"))
    if answer.status == 500 and shown is not None and shown[2] not in ("None", "(in"):
        attack.found["credentials"] = (shown[1], shown[2])
        disclose(attack, step, "password", 1, step.historian)
    else:
        disclose(attack, step, "password", 0, step.historian)


class ScrapePages(Step):
    """Ask for the portal's public page ``times`` times and read what fills up its last block."""

    action: Literal["scrape_pages"]
    historian: Name
    times: Annotated[int, Field(ge=1, le=1000)] = 10
    every: Seconds = 10.0

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_portal(site, self.historian)

    async def carry_out(self, attack: Attack) -> None:
        browser = portal_browser(attack.world, self.historian, attack.host)
        rows: dict[bytes, None] = {}
        for turn in range(self.times):
            if turn:
                await asyncio.sleep(self.every)
            try:
                rows.update(dict.fromkeys(rows_in((await browser.get("/")).body)))
            except OSError as error:
                attack.note(self, "failed", target=self.historian, reason=type(error).__name__)
                return
        disclose(attack, self, "reports", len(rows), self.historian)


class OpcUaRead(Step):
    """Log in to OPC UA ``server`` and read all that it shows.

    ``credentials``: ``anonymous``, ``found`` (what an earlier step got hold of). Where the server wants a secured
    channel, it is tried with a certificate of the attacker's own making.
    """

    action: Literal["opcua_read"]
    server: Name
    credentials: Literal["anonymous", "found"] = "anonymous"

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_server(site, self.server)

    async def carry_out(self, attack: Attack) -> None:
        await opcua_read(attack, self)


async def opcua_read(attack: Attack, step: OpcUaRead) -> None:
    """T0801: watch the process through somebody else's account."""
    server = attack.world.site.assets[step.server]
    assert isinstance(server, sites.OpcUaServer)
    mine = UaCredentials()
    if step.credentials == "found":
        found = attack.found.get("credentials")
        if not isinstance(found, tuple):
            attack.note(step, "refused", target=step.server, reason="no credentials")
            return
        mine.user, mine.password = (str(one) for one in found)
    papers = make_certificate("visitor", "urn:visitor", attack.world.stream("attacker's certificate"))
    tags = [tag for exposed in server.exposes.values() for tag in exposed]
    values, reason = 0, ""
    for security in (None, SIGN_AND_ENCRYPT):
        client = UaClient(
            f"opc.tcp://{server.address}:{server.port}",
            mine.user,
            mine.password,
            security,
            *(papers if security is not None else (None, None)),
        )
        try:
            refusal = await client.connect()
            if refusal is None:
                values = len(await client.read_many(tags))
            else:
                reason = refusal.status
        except OSError as error:
            reason = type(error).__name__
        await client.disconnect()
        if values or not reason.startswith("BadSecurity"):
            break
    if not values:
        attack.note(step, "refused", target=step.server, reason=reason)
        return
    disclose(attack, step, "values", values, step.server)
