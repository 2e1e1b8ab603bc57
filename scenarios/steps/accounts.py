"""Log-ins by people who should not be let in, or not any more, and what becomes of accounts and their server.

ATT&CK for ICS T0859 (valid accounts), T0812 (default credentials), T0855 (commands that nobody asked for), T0811 (data
from information repositories) and T0830 (adversary in the middle).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from devices.accounts import one_time_code, with_code
from devices.auth_server import ACCEPT, FACTORY_SECRET, read_packet
from devices.crew import CrewOperator
from devices.opcua import UaClient
from devices.passwords import guesses, words
from devices.terminal import ACKNOWLEDGE, LOGIN, WELCOME, Line, connect
from devices.world import World
from scenarios.attack import Attack, Seconds, Step
from testbed import site as sites
from testbed.network import Packet
from testbed.site import Name, Site

#: s that somebody waits for a machine to answer (assumption)
PATIENCE = 10.0
#: What equipment is delivered with: user and password.
DEFAULTS = (("operator", "operator"), ("admin", "admin"), ("service", "service"))

Commands = tuple[tuple[str, ...], ...]


def identifier_of(world: World, person: str) -> str:
    """The name of the account that ``person`` logs in with: an own one, one handed on, or the one that all share."""
    open_ = {
        name
        for store in world.account_stores.values()
        for name, account in store.accounts.items()
        if account.enabled
    }
    if person in open_:
        return person
    for asset in world.site.assets.values():
        for one in asset.operators if isinstance(asset, sites.Hmi) else ():
            if one.name == person and one.took_over in open_:
                return str(one.took_over)
    return "operator"


def token_of(world: World, account: str) -> str | None:
    """The secret in the token of the account's holder; None without a token."""
    for store in world.account_stores.values():
        secret = store.accounts[account].totp_secret if account in store.accounts else None
        if secret is not None:
            return secret
    return None


def code_of(world: World, account: str) -> str | None:
    """What the token of the account's holder shows now; None without a token."""
    secret = token_of(world, account)
    return (
        one_time_code(secret, world.site.epoch.timestamp() + world.loop.time())
        if secret is not None
        else None
    )


def _lacks_terminal(site: Site, station: str) -> Iterator[str]:
    asset = site.assets.get(station)
    if not isinstance(asset, sites.Hmi) or asset.terminal is None:
        yield f"site {site.name!r} has no operator station {station!r} with a terminal"


class _Dialogue:
    """Somebody at the other end of a terminal; every answer is a value."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.noted = False
        self.prompt: str | None = None

    async def listen(self) -> str | None:
        """The next thing that the station says."""
        self.prompt = await self.line.hear(PATIENCE)
        return self.prompt

    def wants_notice(self) -> bool:
        return self.prompt is not None and self.prompt.endswith(ACKNOWLEDGE)

    async def accept(self) -> None:
        """Go on past the notice."""
        self.noted = True
        self.line.say("yes")
        await self.listen()

    async def log_in(self, name: str, password: str) -> str | None:
        """None if the station lets one in, else what it says."""
        if self.prompt == LOGIN:
            self.line.say(name)
            await self.listen()
            self.line.say(password)
            await self.listen()
        if self.prompt is not None and self.prompt.startswith(WELCOME):
            return None
        return self.prompt if self.prompt is not None else "no answer"


async def _reach(world: World, station: str) -> _Dialogue | str:
    """A dialogue with the terminal of ``station`` up to its first word, or why there is none."""
    terminal = world.terminals[station]
    try:
        async with asyncio.timeout(PATIENCE):
            line = await connect(terminal.host.address, terminal.port)
    except OSError as error:
        return type(error).__name__
    dialogue = _Dialogue(line)
    await dialogue.listen()
    return dialogue


class TerminalCommand(Step):
    """Log in at the terminal of ``station`` and give ``commands``.

    ``credentials``: ``none`` (no password at all), ``default`` (as delivered), ``stolen`` (the password of account
    ``user`` as it is now, without a token), ``leaked`` (as it was in a list that leaked), ``phished`` (stolen, and the
    second factor is asked of the person at the station over a false page, up to ``requests`` times), ``own`` (what
    ``person`` has, token included). ``told``: it matters afterwards whether the person knew that use is restricted and
    recorded; such a person may leave it at that when told.
    """

    action: Literal["terminal_command"]
    station: Name
    credentials: Literal["none", "default", "stolen", "leaked", "phished", "own"]
    user: Name | None = None
    requests: Annotated[int, Field(ge=1, le=100)] = 1
    person: Name | None = None
    told: bool = False
    commands: Commands = ()

    @model_validator(mode="after")
    def _somebody(self) -> TerminalCommand:
        if self.credentials in ("stolen", "leaked", "phished") and self.user is None:
            raise ValueError(f"{self.credentials} credentials are some user's")
        if self.credentials == "own" and self.person is None:
            raise ValueError("own credentials are some person's")
        return self

    def lacks(self, site: Site) -> Iterator[str]:
        yield from _lacks_terminal(site, self.station)

    async def carry_out(self, attack: Attack) -> None:
        await terminal_command(attack, self)


async def terminal_command(attack: Attack, step: TerminalCommand) -> None:
    """T0855 through T0859 or T0812: what the station lets somebody do who logs in so."""
    world = attack.world
    facts: dict[str, object] = {"target": step.station}
    if step.person is not None:
        facts["user"] = step.person  # whom a record has to name, whatever account was used
    if step.told:
        facts["told"] = True
    reason: str | None = None
    async for name, password in _credentials(world, step):
        dialogue = await _reach(world, step.station)
        if isinstance(dialogue, str):
            attack.note(step, "failed", reason=dialogue, **facts)
            return
        if dialogue.wants_notice():
            if step.told and world.stream("deterred").random() < world.figures["notice.deterred"]:
                dialogue.line.close()
                attack.note(step, "deterred", target=step.station)
                return
            await dialogue.accept()
        reason = await dialogue.log_in(name, password)
        if reason is None:
            await _give_commands(attack, step, dialogue, facts)
            return
        dialogue.line.close()
        attack.note(step, "refused", reason=reason, **{"user": name, **facts})
        await asyncio.sleep(1.0)


async def _credentials(world: World, step: TerminalCommand) -> AsyncIterator[tuple[str, str]]:
    if step.credentials == "default":
        for one in DEFAULTS:
            yield one
    elif step.credentials == "own":
        name = identifier_of(world, str(step.person))
        yield name, with_code(world.passwords.get(name, ""), code_of(world, name))
    elif step.credentials == "none":
        yield "guest", ""
    else:
        # Whoever works with the account that all share has no other password that could be stolen.
        user = str(step.user)
        name = identifier_of(world, user) if user in _at_stations(world) else user
        now = world.passwords.get(name, name)
        if step.credentials == "phished":
            for _ in range(step.requests):
                yield name, with_code(now, await _phished(world, step.station, name))
        else:
            yield name, now if step.credentials == "stolen" else world.leaked.get(name, now)


async def _phished(world: World, station: str, account: str) -> str | None:
    """What the person at the station gives away of a second factor; None for nothing, or where none is asked for.

    A one-time code can be read out to a false page and a request on a phone can be approved, each as often as was
    found for targeted attempts. A badge or a security key answers to the station only: there is nothing to give.
    """
    operator = world.operators.get(station)
    token = token_of(world, account)
    if token is None or operator is None or not operator.present.is_set():
        return None
    method = operator.method if isinstance(operator, CrewOperator) else "totp"
    if method not in ("totp", "push"):
        return None
    stream, figures = world.stream("phished"), world.figures
    await asyncio.sleep(stream.lognormvariate(*figures.lognormal(f"login.{method}")))
    share = figures["phish.code_given" if method == "totp" else "phish.push_approved"]
    given = stream.random() < share
    world.trace.record("operator.phished", station, user=account, method=method, given=given)
    if not given:
        return None
    if method == "totp":
        return code_of(world, account)
    assert isinstance(operator, CrewOperator)
    return operator.prove(token)


def _at_stations(world: World) -> frozenset[str]:
    return frozenset(
        one.name
        for asset in world.site.assets.values()
        if isinstance(asset, sites.Hmi)
        for one in asset.operators
    )


async def _give_commands(
    attack: Attack, step: TerminalCommand | GuessPasswords, dialogue: _Dialogue, facts: dict[str, object]
) -> None:
    for words_ in step.commands:
        dialogue.line.say(" ".join(words_))
        answer = await dialogue.listen()
        good = answer == "done" or (words_[0] == "read" and answer is not None)
        attack.note(
            step,
            "done" if good else "refused",
            command=" ".join(words_),
            reason=answer or "no answer",
            **facts,
        )
    dialogue.line.say("quit")
    dialogue.line.close()


class GuessPasswords(Step):
    """Try the guesser's list at the terminal of ``station``, each word on each of ``users``, then give ``commands``."""

    action: Literal["guess_passwords"]
    station: Name
    users: Annotated[tuple[Name, ...], Field(min_length=1)]
    commands: Commands = ()
    lasting: Seconds = 600.0

    def lacks(self, site: Site) -> Iterator[str]:
        yield from _lacks_terminal(site, self.station)

    async def carry_out(self, attack: Attack) -> None:
        await guess_passwords(attack, self)


async def guess_passwords(attack: Attack, step: GuessPasswords) -> None:
    """T0859 by trying: one word at a time on everybody, which stays below most thresholds for longest."""
    world = attack.world
    end = world.loop.time() + step.lasting
    dialogue: _Dialogue | str = "not tried"
    tried = 0
    for password in guesses():
        for user in step.users:
            if world.loop.time() >= end:
                attack.note(
                    step, "refused", target=step.station, tried=tried, reason="no password found in time"
                )
                return
            if isinstance(dialogue, str) or dialogue.prompt != LOGIN:
                dialogue = await _reach(world, step.station)
                if isinstance(dialogue, str):
                    attack.note(step, "failed", target=step.station, tried=tried, reason=dialogue)
                    return
                if dialogue.wants_notice():
                    await dialogue.accept()
            tried += 1
            if await dialogue.log_in(user, password) is None:
                attack.note(step, "session", target=step.station, user=user, tried=tried)
                await _give_commands(attack, step, dialogue, {"target": step.station, "user": user})
                return
            await dialogue.listen()  # whether it asks again or says goodbye
            await asyncio.sleep(world.figures["accounts.guess_every"] / attack.strength)
    attack.note(step, "refused", target=step.station, tried=tried, reason="no password of the list is in use")


class EnumerateAccounts(Step):
    """Find out at the terminal of ``station`` which likely names are accounts, from words and times of answers."""

    action: Literal["enumerate_accounts"]
    station: Name
    names: Annotated[tuple[Name, ...], Field(min_length=1)]

    def lacks(self, site: Site) -> Iterator[str]:
        yield from _lacks_terminal(site, self.station)

    async def carry_out(self, attack: Attack) -> None:
        await enumerate_accounts(attack, self)


async def enumerate_accounts(attack: Attack, step: EnumerateAccounts) -> None:
    """Ask for each name, and for one that cannot be: what is answered differently is an account."""
    world = attack.world
    answers: dict[str, tuple[str | None, float]] = {}
    for name in ("xq" + words()[0][::-1], *step.names):
        dialogue = await _reach(world, step.station)
        if isinstance(dialogue, str):
            attack.note(step, "failed", target=step.station, reason=dialogue)
            return
        if dialogue.wants_notice():
            await dialogue.accept()
        began = world.loop.time()
        said = await dialogue.log_in(name, "x")
        answers[name] = (said, round(world.loop.time() - began, 2))
        dialogue.line.close()
        await asyncio.sleep(world.figures["accounts.guess_every"] / attack.strength)
    nobody, *_ = answers.values()
    found = [name for name, answer in answers.items() if answer != nobody]
    if found:
        world.trace.record(
            "disclosed", attack.host.name, what="names of accounts", amount=len(found), names=found
        )
    attack.note(step, "done" if found else "refused", target=step.station, found=len(found))


class LeakedLogin(Step):
    """Log in to an OPC UA server as ``user`` with the password that leaked, and read all that it shows."""

    action: Literal["leaked_login"]
    server: Name
    user: Name

    def lacks(self, site: Site) -> Iterator[str]:
        if not isinstance(site.assets.get(self.server), sites.OpcUaServer):
            yield f"site {site.name!r} has no OPC UA server {self.server!r}"

    async def carry_out(self, attack: Attack) -> None:
        await leaked_login(attack, self)


async def leaked_login(attack: Attack, step: LeakedLogin) -> None:
    """T0811: read what is restricted to those who have an account."""
    world = attack.world
    asset = world.site.assets[step.server]
    assert isinstance(asset, sites.OpcUaServer)
    password = world.leaked.get(step.user, world.passwords.get(step.user, step.user))
    client = UaClient(f"opc.tcp://{asset.address}:{asset.port}", step.user, password)
    try:
        refusal = await client.connect()
        if refusal is not None:
            attack.note(step, "refused", target=step.server, user=step.user, reason=refusal.status)
            return
        values = await client.read_many(tag for tags in asset.exposes.values() for tag in tags)
    except OSError as error:
        attack.note(step, "failed", target=step.server, reason=type(error).__name__)
        return
    await client.disconnect()
    world.trace.record("disclosed", attack.host.name, what="process values", amount=len(values))
    attack.note(step, "done", target=step.server, user=step.user)


class PersonLeaves(Step):
    """``person`` is dismissed, and whoever manages accounts, if anybody does, is told at once."""

    hostile = False

    action: Literal["person_leaves"]
    person: Name

    async def carry_out(self, attack: Attack) -> None:
        office = attack.world.account_office
        attack.note(self, "told" if office is not None else "nobody to tell", person=self.person)
        if office is not None:
            closing = attack.world.loop.create_task(office.close(self.person))
            closing.add_done_callback(lambda task: task.result() if not task.cancelled() else None)


class AuthServerFails(Step):
    """The authentication server ``server`` loses power for ``lasting`` s."""

    hostile = False

    action: Literal["auth_server_fails"]
    server: Name
    lasting: Seconds

    def lacks(self, site: Site) -> Iterator[str]:
        yield from _lacks_server(site, self.server)

    async def carry_out(self, attack: Attack) -> None:
        world = attack.world
        server = world.auth_servers[self.server]
        server.host.power_off()
        attack.note(self, "down", target=self.server)
        await asyncio.sleep(self.lasting)
        server.host.power_on()
        server.start()
        world.trace.record("recovered", self.server, seconds=self.lasting)


def _lacks_server(site: Site, server: str) -> Iterator[str]:
    if not isinstance(site.assets.get(server), sites.AuthServer):
        yield f"site {site.name!r} has no authentication server {server!r}"


class FloodAuthServer(Step):
    """Send ``rate`` requests a second, of no client's, to the authentication server for ``lasting`` s."""

    action: Literal["flood_auth_server"]
    server: Name
    rate: Annotated[float, Field(gt=0)] = 2000.0
    lasting: Seconds = 60.0

    def lacks(self, site: Site) -> Iterator[str]:
        yield from _lacks_server(site, self.server)

    async def carry_out(self, attack: Attack) -> None:
        world = attack.world
        server = world.auth_servers[self.server]
        transport, _ = await world.loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=(server.host.address, server.port)
        )
        assert isinstance(transport, asyncio.DatagramTransport)
        stream, end = world.stream("flood of requests"), world.loop.time() + self.lasting
        while world.loop.time() < end:
            transport.sendto(b"\x01\x01\x00\x14" + stream.randbytes(16))
            await asyncio.sleep(1 / (self.rate * attack.strength))
        transport.close()
        attack.note(self, "sent", target=self.server, dropped=server.dropped)


class ForgeAccept(Step):
    """Stand between ``station`` and the authentication server, and turn refusals into admissions.

    The forger knows the secret that equipment is delivered with, and no other. Then log in as ``user`` at the station's
    terminal with a made-up password, and give ``commands``.
    """

    action: Literal["forge_accept"]
    station: Name
    server: Name
    user: Name
    commands: Commands = ()

    def lacks(self, site: Site) -> Iterator[str]:
        yield from _lacks_terminal(site, self.station)
        yield from _lacks_server(site, self.server)

    async def carry_out(self, attack: Attack) -> None:
        await forge_accept(attack, self)


def forged(request: bytes, answer: bytes, secret: bytes = FACTORY_SECRET) -> bytes:
    """``answer`` as an Access-Accept of the same length, signed with what somebody takes for the shared secret."""
    room = len(answer) - 20 - 18  # a header, a Message-Authenticator, and the rest is one attribute
    if len(request) < 20 or room < 3:
        return answer
    role = b"engineer"[: room - 2].ljust(room - 2, b"\x00")
    head = bytes([ACCEPT, answer[1]]) + answer[2:4]
    filter_id = bytes([11, room]) + role
    sealed = hmac.new(
        secret, head + request[4:20] + b"\x50\x12" + bytes(16) + filter_id, hashlib.md5
    ).digest()
    attributes = b"\x50\x12" + sealed + filter_id
    return head + hashlib.md5(head + request[4:20] + attributes + secret).digest() + attributes


async def forge_accept(attack: Attack, step: ForgeAccept) -> None:
    """T0830: alter the answers on their way, then T0855."""
    world = attack.world
    server = world.auth_servers[step.server]
    requests: dict[int, bytes] = {}

    def intercept(packet: Packet) -> bytes | None:
        raw = packet.payload
        if packet.target == server.host.address and packet.target_port == server.port and len(raw) >= 20:
            requests[raw[1]] = raw
        elif packet.source == server.host.address and packet.source_port == server.port:
            reply = read_packet(raw, b"")
            if reply is not None and reply.id in requests:
                return forged(requests[reply.id], raw)
        return raw

    station = world.network.hosts[step.station]
    if not attack.host.interpose(station.address, server.host.address, intercept):
        attack.note(step, "refused", target=step.station, reason="forged ARP replies were refused")
        return
    dialogue = await _reach(world, step.station)
    if isinstance(dialogue, str):
        attack.note(step, "failed", target=step.station, reason=dialogue)
        return
    if dialogue.wants_notice():
        await dialogue.accept()
    reason = await dialogue.log_in(step.user, "made up")
    if reason is not None:
        attack.note(step, "refused", target=step.station, user=step.user, reason=reason)
        return
    for command in step.commands:
        dialogue.line.say(" ".join(command))
        answer = await dialogue.listen()
        good = answer == "done"
        attack.note(step, "done" if good else "refused", target=step.station, reason=answer or "no answer")
