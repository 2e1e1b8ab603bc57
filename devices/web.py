"""HTTP/1.1 over the in-memory network: one request to a connection, which the server then closes.

The protocol is h11's; this module moves the bytes. ``h11`` is imported here only.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, urlsplit

import h11

from testbed.network import Host

#: Largest body (bytes) of a request that a server takes, and its patience with a client (s); assumptions.
LARGEST: Final = 1 << 16
PATIENCE: Final = 10.0
#: Reason phrases of the status codes that are used here (RFC 9110, 15).
REASONS: Final[Mapping[int, str]] = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
}
#: What reading from a connection gives at most at once (bytes).
_CHUNK: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class WebRequest:
    """What a client asks; ``query`` are the fields of the target, ``form`` those of a body that is a form."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    form: Mapping[str, str]
    peer: str


@dataclass(frozen=True, slots=True)
class WebAnswer:
    """What a server answers; header names are lower-case."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


#: What a service does with a request.
Serve = Callable[[WebRequest], Awaitable[WebAnswer]]


class WebServer:
    """Serves ``answer`` at ``port`` of ``host``; ``tls``, read by ``start``, wraps every connection.

    A request that is no HTTP, or too large, is answered as h11 says it should be, and nobody is asked about it.
    """

    def __init__(self, host: Host, port: int, answer: Serve) -> None:
        self.host, self.port, self.answer = host, port, answer
        self.tls: ssl.SSLContext | None = None

    def start(self) -> None:
        """Begin to listen."""
        self.host.spawn(self._listen(), f"web server {self.port}")

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_server(
            lambda: _Channel(h11.SERVER, self._begin), "0.0.0.0", self.port, ssl=self.tls
        )

    def _begin(self, channel: _Channel) -> None:
        self.host.spawn(self._serve(channel), "web request")

    async def _serve(self, channel: _Channel) -> None:
        try:
            request = await asyncio.wait_for(_take_request(channel), PATIENCE)
            if request is not None:
                channel.answer(await self.answer(request))
        except h11.RemoteProtocolError as error:
            if channel.state.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                channel.answer(WebAnswer(error.error_status_hint))
        except TimeoutError:
            pass  # a client that never ends its request
        finally:
            channel.close()


async def fetch(
    address: str,
    port: int,
    target: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    form: bytes = b"",
    tls: ssl.SSLContext | None = None,
    name: str | None = None,
    within: float = PATIENCE,
) -> WebAnswer:
    """Ask ``target`` (path and query) of a server; ``name`` is whom its certificate must name under ``tls``.

    Raises TimeoutError or ConnectionError when there is no answer, or none that is HTTP.
    """
    loop = asyncio.get_running_loop()

    def begin(channel: _Channel) -> None:
        sent = {"Host": address, "Connection": "close", **(headers or {})}
        if form:
            sent |= {
                "Content-Type": "application/x-www-form-urlencoded",
                "Content-Length": str(len(form)),
            }
        request = h11.Request(method=method, target=target, headers=list(sent.items()))
        channel.send(request, h11.Data(data=form), h11.EndOfMessage())

    try:
        _, channel = await asyncio.wait_for(
            loop.create_connection(
                lambda: _Channel(h11.CLIENT, begin), address, port, ssl=tls, server_hostname=name
            ),
            within,
        )
        try:
            return await asyncio.wait_for(_take_answer(channel), within)
        finally:
            channel.close()
    except h11.ProtocolError as error:
        raise ConnectionError(f"{address}:{port} does not speak HTTP: {error}") from error
    except TimeoutError:
        raise TimeoutError(f"{address}:{port} does not answer within {within:g} s") from None


class _Channel(asyncio.Protocol):
    """One connection: bytes that came wake whoever waits for the next event of the protocol."""

    def __init__(self, role: type[h11.CLIENT] | type[h11.SERVER], begun: Callable[[_Channel], None]) -> None:
        self.state = h11.Connection(role, max_incomplete_event_size=_CHUNK)
        self._begun = begun
        self._transport: asyncio.Transport | None = None
        self._came = asyncio.Event()
        self.peer = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.peer = str(transport.get_extra_info("peername")[0])
        self._begun(self)

    def data_received(self, data: bytes) -> None:
        self.state.receive_data(data)
        self._came.set()

    def eof_received(self) -> None:
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._end()

    def _end(self) -> None:
        if self.state.their_state is not h11.ERROR:
            self.state.receive_data(b"")
        self._came.set()

    async def event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """The protocol's next event. Raises h11.RemoteProtocolError for what is no HTTP."""
        while (event := self.state.next_event()) is h11.NEED_DATA:
            self._came.clear()
            await self._came.wait()
        return event

    def send(self, *events: h11.Event) -> None:
        for event in events:
            data = self.state.send(event)
            if data and self._transport is not None:
                self._transport.write(data)

    def answer(self, answer: WebAnswer) -> None:
        headers = {"Content-Length": str(len(answer.body)), "Connection": "close", **answer.headers}
        reason = REASONS.get(answer.status, "").encode()
        self.send(
            h11.Response(status_code=answer.status, reason=reason, headers=list(headers.items())),
            h11.Data(data=answer.body),
            h11.EndOfMessage(),
        )

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def _take_request(channel: _Channel) -> WebRequest | None:
    """The request of a connection; None if the client went away first. Raises h11.RemoteProtocolError."""
    head = await channel.event()
    if not isinstance(head, h11.Request):
        return None
    body = bytearray()
    while isinstance(event := await channel.event(), h11.Data):
        body += event.data
        if len(body) > LARGEST:
            raise h11.RemoteProtocolError("the body is too large", error_status_hint=413)
    if not isinstance(event, h11.EndOfMessage):
        return None
    try:
        target = urlsplit(head.target.decode("latin-1"))
        query, form = dict(parse_qsl(target.query)), dict(parse_qsl(body.decode("latin-1")))
    except ValueError:
        raise h11.RemoteProtocolError("the target or the form cannot be read") from None
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
    return WebRequest(head.method.decode("latin-1"), target.path, query, headers, form, channel.peer)


async def _take_answer(channel: _Channel) -> WebAnswer:
    head = await channel.event()
    while isinstance(head, h11.InformationalResponse):
        head = await channel.event()
    if not isinstance(head, h11.Response):
        raise ConnectionError("the server closed the connection without an answer")
    body = bytearray()
    while isinstance(event := await channel.event(), h11.Data):
        body += event.data
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
    return WebAnswer(head.status_code, bytes(body), headers)
