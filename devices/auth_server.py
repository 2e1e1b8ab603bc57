"""The central authentication server and its clients: RADIUS (RFC 2865) over UDP, with pyrad's packets.

A request hides the password under the secret that server and device share, and both request and answer carry a
Message-Authenticator (RFC 3579, 3.2), without which neither is taken: an answer that somebody on the way has altered
is dropped (CVE-2024-3596). A device that gets no answer falls back on accounts of its own, so that a dead, distant or
flooded server keeps nobody from an essential function (IEC 62443-3-3, 4.2).
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from io import StringIO
from typing import Any, Final

from pyrad.dictionary import Dictionary
from pyrad.packet import AccessAccept, AccessReject, AccessRequest, AuthPacket, PacketError

from devices.accounts import NO_ACCOUNT, WRONG_PASSWORD, Accounts, User, with_code, without_code
from devices.audit import Audit
from testbed.network import Host

PORT: Final = 1812
#: Octets that User-Password (RFC 2865, 5.2) and User-Name (5.1) carry at most.
MOST_PASSWORD: Final = 128
MOST_NAME: Final = 253
#: s for which an answer is kept for a request that is sent again (RFC 5080, 2.2.2: 5 to 30 s)
REMEMBERED: Final = 10.0
#: secret that equipment is delivered with; the manuals of several vendors print it
FACTORY_SECRET: Final = b"testing123"
#: s between two reports of requests from the same address that were dropped: a flood of them must not become another
REPORT_EVERY: Final = 60.0
#: Code of an Access-Accept.
ACCEPT: Final[int] = AccessAccept

# RFC 2865, 5; Service-Type 1 is Login (somebody types commands), 8 Authenticate-Only.
ATTRIBUTES: Final = Dictionary(
    StringIO(
        "ATTRIBUTE User-Name 1 string\n"
        "ATTRIBUTE User-Password 2 octets\n"
        "ATTRIBUTE NAS-IP-Address 4 ipaddr\n"
        "ATTRIBUTE Service-Type 6 integer\n"
        "ATTRIBUTE Filter-Id 11 string\n"
        "ATTRIBUTE Reply-Message 18 string\n"
        "ATTRIBUTE Calling-Station-Id 31 string\n"
        "ATTRIBUTE Message-Authenticator 80 octets\n"
    )
)
LOGIN: Final = 1
AUTHENTICATE_ONLY: Final = 8


def read_packet(raw: bytes, secret: bytes) -> AuthPacket | None:
    """The packet in ``raw``, or None for what is none."""
    try:
        packet = AuthPacket(packet=raw, secret=secret, dict=ATTRIBUTES)
    except PacketError:
        return None
    return packet


def text_of(packet: AuthPacket, attribute: str) -> str | None:
    """The first value of a text attribute; None if there is none or it is no text."""
    values = packet.get(attribute)
    return values[0] if values and isinstance(values[0], str) else None


@dataclass(slots=True)
class AuthServer:
    """A RADIUS server on ``host``, over the store ``accounts``.

    ``secrets`` maps the address of each client to the secret shared with it; others are not answered. A request takes
    ``cost`` s of the server's time, and what finds more than ``backlog`` s of work before it is dropped.
    """

    host: Host
    name: str
    accounts: Accounts
    port: int = PORT
    cost: float = 0.0
    backlog: float = 1.0
    secrets: dict[str, bytes] = field(default_factory=dict)
    answered: int = 0
    dropped: int = 0
    audit: Audit = field(init=False)
    _busy_until: float = 0.0
    _reported: dict[str, float] = field(default_factory=dict)
    _answers: dict[tuple[tuple[str, int], bytes], tuple[float, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.audit = Audit(self.name)

    def start(self) -> None:
        """Begin to serve; also what brings the server back after its host lost power."""
        self._busy_until = 0.0
        self._answers.clear()
        self.host.spawn(self._listen(), "authentication server")

    @property
    def serving(self) -> bool:
        """Whether requests reach a program here."""
        return self.host.up and self.port in self.host.datagrams

    async def _listen(self) -> None:
        server = self

        class Requests(asyncio.DatagramProtocol):
            transport: asyncio.DatagramTransport

            def connection_made(self, transport: Any) -> None:
                self.transport = transport

            def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
                server._take(data, addr, self.transport)

        await self.host.network.loop.create_datagram_endpoint(Requests, local_addr=("0.0.0.0", self.port))

    def _take(self, raw: bytes, sender: tuple[str, int], transport: asyncio.DatagramTransport) -> None:
        loop = self.host.network.loop
        now = loop.time()
        if self._busy_until - now > self.backlog:
            self.dropped += 1
            return
        self._busy_until = max(self._busy_until, now) + self.cost

        def send() -> None:
            answer = self.answer(raw, sender)
            if answer is not None and self.host.up:
                transport.sendto(answer, sender)

        loop.call_at(self._busy_until, send)

    def answer(self, raw: bytes, sender: tuple[str, int]) -> bytes | None:
        """The answer to one datagram; None for what a server says nothing to (RFC 2865, 3)."""
        now = self.host.network.loop.time()
        secret = self.secrets.get(sender[0])
        request = read_packet(raw, secret) if secret is not None else None
        if (
            secret is None
            or request is None
            or request.code != AccessRequest
            or not request.message_authenticator
            or not request.verify_message_authenticator()
        ):
            self.dropped += 1
            if now - self._reported.get(sender[0], -math.inf) >= REPORT_EVERY:
                self._reported[sender[0]] = now
                self.audit("auth.dropped", peer=sender[0])
            return None
        key = (sender, bytes([request.id]) + request.authenticator)
        self._answers = {one: kept for one, kept in self._answers.items() if now - kept[0] < REMEMBERED}
        if key not in self._answers:
            self._answers[key] = (now, self._judge(request))
            self.answered += 1
        return self._answers[key][1]

    def _judge(self, request: AuthPacket) -> bytes:
        name, place = text_of(request, "User-Name"), text_of(request, "Calling-Station-Id")
        hidden = request.get("User-Password", [b""])[0]
        user, reason = None, NO_ACCOUNT
        if name is not None and len(hidden) % 16 == 0 and hidden:
            password, code = without_code(request.PwDecrypt(hidden))
            service = request.get(6, [b""])[0]
            interactive = int.from_bytes(service, "big") == LOGIN
            user, reason = self.accounts.check(name, password, code, place or "", interactive=interactive)
        reply = request.CreateReply()
        reply.code = AccessAccept if user is not None else AccessReject
        reply.add_message_authenticator()
        if user is not None:
            reply.AddAttribute("Filter-Id", user.role)
        else:
            reply.AddAttribute("Reply-Message", reason)
        # Which device asked is the peer here; from where somebody came is that device's to say.
        self.audit("auth.accepted" if user is not None else "auth.rejected", user=name or "", reason=reason)
        raw: bytes = reply.ReplyPacket()
        return raw


@dataclass(slots=True)
class AuthClient:
    """A device's way to ask the server at ``server``; ``stream`` gives the Request Authenticators.

    A request is sent ``tries`` times, ``timeout`` s apart (RFC 5080, 2.2.1). After that the server counts as silent
    and is not asked for ``dead_time`` s. ``audit`` hears of that, and of answers that are forged.
    """

    host: Host
    server: str
    secret: bytes
    stream: random.Random
    port: int = PORT
    timeout: float = 1.0
    tries: int = 2
    dead_time: float = 60.0
    audit: Callable[..., None] = lambda _kind, **_data: None
    #: answers that were dropped because nobody who knows the secret can have made them
    forged: int = 0
    silent_since: float | None = None
    _next: int = 0

    @property
    def silent(self) -> bool:
        """Whether the server counts as silent, and is not even asked."""
        now = self.host.network.loop.time()
        return self.silent_since is not None and now - self.silent_since < self.dead_time

    def wait(self) -> float:
        """How long (s) a log-in is expected to wait for the server."""
        return self.timeout * self.tries if self.silent_since is not None and not self.silent else 0.0

    async def ask(
        self, name: str, password: str, code: str | None, address: str, *, interactive: bool
    ) -> tuple[User | None, str] | None:
        """What the server says to a log-in from ``address``: the user, or None and the reason; None if it is silent."""
        field_ = with_code(password, code)
        if len(field_.encode()) > MOST_PASSWORD:
            return None, WRONG_PASSWORD
        if not 0 < len(name.encode()) <= MOST_NAME:
            return None, NO_ACCOUNT
        if self.silent:
            return None
        self._next = (self._next + 1) % 256
        request = AuthPacket(
            id=self._next, secret=self.secret, authenticator=self.stream.randbytes(16), dict=ATTRIBUTES
        )
        request.add_message_authenticator()
        request.AddAttribute("User-Name", name)
        request.AddAttribute("User-Password", request.PwCrypt(field_))
        request.AddAttribute("NAS-IP-Address", self.host.address)
        request.AddAttribute("Service-Type", LOGIN if interactive else AUTHENTICATE_ONLY)
        request.AddAttribute("Calling-Station-Id", address)
        reply = await self._exchange(request)
        if reply is None:
            self.silent_since = self.host.network.loop.time()
            self.audit("auth.unreachable", peer=self.server)
            return None
        self.silent_since = None
        if reply.code == AccessAccept:
            return User(name, text_of(reply, "Filter-Id") or ""), ""
        return None, text_of(reply, "Reply-Message") or WRONG_PASSWORD

    async def _exchange(self, request: AuthPacket) -> AuthPacket | None:
        loop = self.host.network.loop
        raw = request.RequestPacket()
        answer: asyncio.Future[AuthPacket] = loop.create_future()
        client = self

        class Answers(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
                reply = read_packet(data, request.secret)
                if reply is None or not request.VerifyReply(reply, data, enforce_ma=True):
                    client.forged += 1
                    client.audit("auth.forged", peer=addr[0])
                elif reply.code in (AccessAccept, AccessReject) and not answer.done():
                    answer.set_result(reply)

        transport, _ = await loop.create_datagram_endpoint(Answers, remote_addr=(self.server, self.port))
        assert isinstance(transport, asyncio.DatagramTransport)
        try:
            for _ in range(self.tries):
                transport.sendto(raw)
                done, _ = await asyncio.wait([answer], timeout=self.timeout)
                if done:
                    return answer.result()
        finally:
            transport.close()
        return None


async def log_in_at(
    local: Accounts,
    client: AuthClient | None,
    name: str,
    password: str,
    code: str | None,
    address: str,
    *,
    interactive: bool = False,
) -> tuple[User | None, str]:
    """Ask the server if there is a client of it, the local accounts only if there is none or it is silent."""
    if client is not None:
        answer = await client.ask(name, password, code, address, interactive=interactive)
        if answer is not None:
            return answer
    return local.check(name, password, code, address, interactive=interactive)
