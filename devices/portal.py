"""The historian's report portal: a web application that people read production reports with, and ask for setpoints.

Log in, and the browser gets a session identifier in a cookie; every page but the first asks for one. What makes a
session good is a seam, and the defaults are those of an application that nobody attacked while it was written: the
identifiers count up, a browser may bring one of its own, logging out deletes the cookie at the browser and nothing
here, and an error page explains itself to whoever caused it.

Pages: ``GET /`` (status, for everybody), ``POST /login`` (user, password), ``POST /logout``, ``GET /reports`` (tag,
from: rows as text, restricted), ``GET /archive`` (all rows as an export file under the product's cipher, restricted),
``POST /setpoint`` (tag, value). A page is made in one buffer that all share and is sent in whole blocks, as small
embedded web servers do; ``x-page-length`` says how much of it is the page.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from devices.audit import Audit
from devices.ciphers import Cipher, XorScheme
from devices.historian import Historian
from devices.web import WebAnswer, WebRequest, WebServer, fetch
from testbed.network import Host

#: Bytes of the page buffer, and of the blocks that pages are sent in.
BUFFER: Final = 1 << 16
BLOCK: Final = 2048
#: Rows of a report, and of an export file, at most.
ROWS: Final = 100
ARCHIVE_ROWS: Final = 1000
#: How an export file begins.
HEADER: Final = b"tag,time,value,quality\r\n"
#: A row of a report as it stands in a page.
ROW: Final = re.compile(rb"[A-Z][A-Z0-9_]{2,30},\d+\.\d,-?\d+\.\d{3},(?:good|bad)\r\n")
COOKIE: Final = "session"
LENGTH: Final = "x-page-length"


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody's log-in; ``begun`` in s."""

    id: str
    user: str
    role: str
    address: str
    begun: float


@dataclass(frozen=True, slots=True)
class Mishap:
    """What went wrong inside: where in the program, and the message of the error."""

    where: str
    line: int
    message: str


def explain_fully(mishap: Mishap, settings: Mapping[str, str]) -> str:
    """Everything that a developer wants to see."""
    return (
        f'Traceback (most recent call last):\n  File "/opt/archive/portal/{mishap.where}.py", line {mishap.line}\n'
        f"{mishap.message}\nsettings: "
        + " ".join(f"{name}={value}" for name, value in settings.items())
        + "\n"
    )


@dataclass(slots=True)
class PortalSeams:
    """What controls may fill in."""

    #: (user, password, address) -> role, None to refuse
    authenticate: Callable[[str, str, str], str | None] = lambda _user, _password, _address: "supervisor"
    #: identifier of the session of a number, counted from 1
    new_id: Callable[[int], str] = lambda number: f"{number:08d}"
    #: whether a session that exists is good for a request from an address now
    good: Callable[[Session, str, float], bool] = lambda _session, _address, _now: True
    #: a browser that brings an identifier along when it logs in goes on under it
    adopts: bool = True
    #: logging out ends the session here too, not only at the browser
    ends: bool = False
    #: what an error page says
    explain: Callable[[Mishap, Mapping[str, str]], str] = explain_fully
    #: the page buffer is cleared after each page
    clears: bool = False
    #: what export files are under; None: the product's own scheme
    cipher: Cipher | None = None
    tls: ssl.SSLContext | None = None


class Portal:
    """The portal of ``historian``, on its host.

    ``command(tag, value)`` takes a wanted setpoint (engineering units) to the process and returns why not, or None;
    ``settings`` are what the application is set up with, as its developers would want to see them beside an error.
    """

    def __init__(
        self,
        historian: Historian,
        port: int,
        key: bytes,
        command: Callable[[str, float], Awaitable[str | None]],
        settings: Callable[[], Mapping[str, str]],
    ) -> None:
        self.historian, self.host, self.name = historian, historian.host, historian.name
        self.audit: Audit = historian.audit
        self.seams = PortalSeams()
        self.sessions: dict[str, Session] = {}
        self.server = WebServer(self.host, port, self._answer)
        self._own: Cipher = XorScheme(key)
        self._command, self._settings = command, settings
        self._buffer = bytearray(BUFFER)
        self._opened = 0

    def start(self) -> None:
        """Begin to serve."""
        self.server.tls = self.seams.tls
        self.server.start()

    # -- pages -------------------------------------------------------------------------------------------------

    async def _answer(self, request: WebRequest) -> WebAnswer:
        match request.method, request.path:
            case "GET", "/":
                state = "collecting" if self.historian.connected else "not collecting"
                return self._page(f"Archive: {len(self.historian.tags)} tags, {state}\n".encode())
            case "POST", "/login":
                return self._log_in(request)
            case "POST", "/logout":
                return self._log_out(request)
            case "GET", "/reports":
                return self._restricted(request) or self._report(request)
            case "GET", "/archive":
                return self._restricted(request) or self._archive()
            case "POST", "/setpoint":
                return self._restricted(request) or await self._setpoint(request)
            case _:
                return self._page(b"no such page\n", 404)

    def _page(self, content: bytes, status: int = 200, **headers: str) -> WebAnswer:
        content = content[:BUFFER]
        self._buffer[: len(content)] = content
        blocks = -(-len(content) // BLOCK) * BLOCK
        body = bytes(self._buffer[:blocks])
        if self.seams.clears:
            self._buffer[:] = bytes(BUFFER)
            body = content.ljust(blocks, b"\0")
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return WebAnswer(status, body, {LENGTH: str(len(content)), **named})

    def _failed(self, mishap: Mishap, peer: str) -> WebAnswer:
        self.audit("portal.error", peer=peer, where=mishap.where, line=mishap.line, message=mishap.message)
        return self._page(self.seams.explain(mishap, self._settings()).encode(), 500)

    # -- sessions ----------------------------------------------------------------------------------------------

    def _session(self, request: WebRequest) -> Session | None:
        brought = _cookie(request)
        session = self.sessions.get(brought) if brought is not None else None
        if session is not None and self.seams.good(session, request.peer, self._now):
            return session
        if brought is not None:
            self.audit("portal.session_refused", peer=request.peer, known=session is not None)
        return None

    @property
    def _now(self) -> float:
        return self.host.network.loop.time()

    def _restricted(self, request: WebRequest) -> WebAnswer | None:
        return None if self._session(request) is not None else self._page(b"log in first\n", 401)

    def _log_in(self, request: WebRequest) -> WebAnswer:
        user = request.form.get("user")
        if user is None:
            return self._failed(Mishap("login", 41, "KeyError: 'user'"), request.peer)
        role = self.seams.authenticate(user, request.form.get("password", ""), request.peer)
        if role is None:
            self.audit("login.failed", peer=request.peer, user=user)
            return self._page(b"log-in incorrect\n", 403)
        self._opened += 1
        brought = _cookie(request) if self.seams.adopts else None
        session = Session(brought or self.seams.new_id(self._opened), user, role, request.peer, self._now)
        self.sessions[session.id] = session
        self.audit("portal.login", peer=request.peer, user=user)
        return self._page(b"welcome\n", set_cookie=f"{COOKIE}={session.id}; HttpOnly")

    def _log_out(self, request: WebRequest) -> WebAnswer:
        session = self._session(request)
        if session is not None:
            self.audit("portal.logout", peer=request.peer, user=session.user)
            if self.seams.ends:
                del self.sessions[session.id]
        return self._page(b"good-bye\n", set_cookie=f"{COOKIE}=; Max-Age=0")

    # -- what it is for ----------------------------------------------------------------------------------------

    def _report(self, request: WebRequest) -> WebAnswer:
        tag, since = request.query.get("tag", ""), request.query.get("from", "0")
        if tag not in self.historian.series:
            return self._failed(Mishap("reports", 118, f"KeyError: {tag!r}"), request.peer)
        try:
            start = float(since)
        except ValueError as error:
            return self._failed(Mishap("reports", 121, f"ValueError: {error}"), request.peer)
        return self._page(b"".join(self._rows(tag, start)[-ROWS:]))

    def _rows(self, tag: str, start: float = 0.0) -> list[bytes]:
        return [
            f"{tag},{time:.1f},{value:.3f},{'good' if good else 'bad'}\r\n".encode()
            for time, value, good in self.historian.series[tag].between(start, self._now)
        ]

    def _archive(self) -> WebAnswer:
        rows = [row for tag in self.historian.tags for row in self._rows(tag)][:ARCHIVE_ROWS]
        return self._page((self.seams.cipher or self._own).seal(HEADER + b"".join(rows)))

    async def _setpoint(self, request: WebRequest) -> WebAnswer:
        session = self._session(request)
        assert session is not None
        tag = request.form.get("tag", "")
        if session.role == "viewer":
            return self._page(b"your role reads only\n", 403)
        try:
            value = float(request.form.get("value", ""))
        except ValueError as error:
            return self._failed(Mishap("setpoints", 64, f"ValueError: {error}"), request.peer)
        refused = await self._command(tag, value)
        self.audit(
            "portal.setpoint", peer=request.peer, user=session.user, tag=tag, value=value, refused=refused
        )
        return self._page(b"done\n") if refused is None else self._page(f"refused: {refused}\n".encode(), 409)


def _cookie(request: WebRequest) -> str | None:
    for part in request.headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE and value:
            return value
    return None


class Browser:
    """A person's browser on ``host``: it keeps the cookie that the portal gave it, until the portal takes it away."""

    def __init__(
        self, host: Host, address: str, port: int, name: str, tls: ssl.SSLContext | None = None
    ) -> None:
        self.host, self.address, self.port, self.name, self.tls = host, address, port, name, tls
        self.cookie: str | None = None

    async def get(self, path: str, **query: str) -> WebAnswer:
        """Ask for a page. Raises TimeoutError or ConnectionError."""
        return await self._ask("GET", f"{path}?{urlencode(query)}" if query else path, b"")

    async def post(self, path: str, **form: str) -> WebAnswer:
        """Send a form. Raises TimeoutError or ConnectionError."""
        return await self._ask("POST", path, urlencode(form).encode() or b"=")

    async def _ask(self, method: str, target: str, form: bytes) -> WebAnswer:
        headers = {"Cookie": f"{COOKIE}={self.cookie}"} if self.cookie is not None else {}
        answer = await fetch(
            self.address,
            self.port,
            target,
            method=method,
            headers=headers,
            form=form,
            tls=self.tls,
            name=self.name if self.tls is not None else None,
        )
        given = answer.headers.get("set-cookie")
        if given is not None:
            self.cookie = given.partition("=")[2].partition(";")[0] or None
        return answer


def page_of(answer: WebAnswer) -> bytes:
    """The page itself, without what fills its last block."""
    length = answer.headers.get(LENGTH, "")
    return answer.body[: int(length)] if length.isdecimal() else answer.body


def rows_in(data: bytes) -> list[bytes]:
    """The rows of reports that stand readable in ``data``."""
    return ROW.findall(data)
