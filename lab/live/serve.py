"""A whole live lab: engine, web pages and attachment points, from the start to what is kept at the end."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from lab.live import views
from lab.live.engine import Engine
from lab.live.loopback import listen, port_of
from lab.live.outside import Doors
from lab.live.session import Setup
from lab.live.web import Tokens, Web

#: Seconds that a client has for the lines of its request, and to make room for more of an answer.
HEAD_TIME: Final = 10.0
READ_TIME: Final = 30.0
#: Connections at once, streams included.
MOST_CONNECTIONS: Final = 128


class Impatient(H11Protocol):
    """HTTP/1.1 for one request a connection, which has to be there soon, and whose answer has to be read.

    Who only connects, or trickles, or does not read, is not kept.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HEAD_TIME, self._too_late)

    def _too_late(self) -> None:
        if not self.cycle:  # no request has begun
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._deadline.cancel()
        self._deadline = self.loop.call_later(READ_TIME, self.transport.abort)

    def resume_writing(self) -> None:
        self._deadline.cancel()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        super().connection_lost(exc)


class _Server(uvicorn.Server):
    """Leaves signals to whoever runs it: a lab ends in an order of its own."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass(frozen=True, slots=True)
class Place:
    """Where a lab is reached, and by what tokens; ``attachments`` are (host, port) in the order asked for."""

    url: str
    tokens: Tokens
    attachments: tuple[tuple[str, int], ...]

    def login(self, token: str) -> str:
        """An address that logs in: the token is behind the #, which browsers do not send."""
        return f"{self.url}/login#{token}"


class LiveLab:
    """One lab, from ``open`` to ``close``, on the running asyncio loop."""

    def __init__(
        self,
        setup: Setup,
        folder: Path | None,
        *,
        speed: float = 1.0,
        host: str = "127.0.0.1",
        port: int = 0,
        paused: bool = False,
    ) -> None:
        # All that listens is made first: what cannot be listened on is told before anything else is done.
        self._socket = listen(host, port)
        self._doors: list[socket] = []
        self.doors: Doors | None = None
        try:
            self._doors += (listen(one.host, one.listens) for one in setup.attachments)
            self.engine = Engine(setup, folder, speed=speed, view=views.published, outlet=self._outlet)
            self.engine.on_cut.append(self._cut)
            if paused:
                self.engine.pause()
            self.web = Web(self.engine, Tokens())
        except BaseException:
            for made in (self._socket, *self._doors):
                made.close()
            raise
        self.web.ports.add(port_of(self._socket))
        config = uvicorn.Config(
            self.web.app,
            http=Impatient,
            ws="none",
            lifespan="off",
            loop="none",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            limit_concurrency=MOST_CONNECTIONS,
            h11_max_incomplete_event_size=16_384,
            timeout_graceful_shutdown=2,
        )
        self._server = _Server(config)
        self._serving: asyncio.Task[None] | None = None
        address = f"[{host}]" if ":" in host else "127.0.0.1"
        self._url = f"http://{address}:{port_of(self._socket)}"

    async def open(self) -> Place:
        """Begin: the engine's thread, the attachment points, the pages."""
        self.doors = Doors(self.engine, self._doors)
        await self.doors.open()
        self.engine.start()
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        # The socket listens already: who comes early waits in its queue, and uvicorn tells nobody when it is ready.
        attached = zip(self.engine.session.setup.attachments, self._doors, strict=True)
        return Place(self._url, self.web.tokens, tuple((one.host, port_of(made)) for one, made in attached))

    async def wait(self) -> None:
        """Until somebody ends it."""
        assert self._serving is not None
        await self._serving

    def end(self) -> None:
        """Let ``wait`` return."""
        self.web.streams.end()
        self._server.should_exit = True

    async def close(self) -> None:
        """End everything and keep what the run leaves; RunError names a file that cannot be written."""
        self.end()
        try:
            if self._serving is not None:
                await self._serving
            if self.doors is not None:
                self.doors.close()
        finally:
            for made in (self._socket, *self._doors):
                made.close()
            await asyncio.to_thread(self.engine.stop)

    def _outlet(self, connection: int, data: bytes | None) -> None:
        if self.doors is not None:
            self.doors.outlet(connection, data)

    def _cut(self) -> None:
        if self.doors is not None:
            self.doors.cut()


def serve(
    setup: Setup,
    folder: Path | None,
    say: Callable[[Place], None],
    attend: Callable[[Engine], None] | None = None,
    **options: Any,
) -> Engine:
    """Run a lab until Ctrl-C or a request to terminate; ``say`` is told where it is. The engine, at its end.

    ``attend`` is run in a thread beside it, and the lab ends when that returns.
    """

    async def run() -> Engine:
        lab = LiveLab(setup, folder, **options)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, lab.end)
        try:
            say(await lab.open())
            if attend is not None:

                def beside() -> None:
                    try:
                        attend(lab.engine)
                    finally:
                        with suppress(RuntimeError):  # the lab has ended meanwhile
                            loop.call_soon_threadsafe(lab.end)

                # A daemon, because nothing can take a thread back from reading the standard input.
                threading.Thread(target=beside, name="otlab-terminal", daemon=True).start()
            await lab.wait()
        finally:
            await lab.close()
        return lab.engine

    return asyncio.run(run())
