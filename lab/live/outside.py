"""Attachment points' near side: loopback listeners, and the connections of real tools that come in by them.

A tool's bytes become inputs of the run, and what the run sends back is written to the tool. Neither side can fill the
other's memory: a tool is not read from while what it has sent waits, and one that does not read is cut off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from socket import socket
from typing import Any, Final

from lab.live.engine import Engine
from lab.live.inputs import PIECE
from lab.live.loopback import reset
from testbed.errors import OtlabError

#: Connections that may be open at once through one attachment point.
MOST_TOOLS: Final = 64
#: Bytes that may wait to enter the run before a tool is not read from, and to leave before it is cut off.
MOST_IN: Final = 4 * PIECE
MOST_OUT: Final = 1 << 20


class Doors:
    """The attachment points of one lab, on the running asyncio loop; ``sockets`` listen for one each, in order."""

    def __init__(self, engine: Engine, sockets: Sequence[socket]) -> None:
        self.engine, self._sockets = engine, sockets
        self.tools: dict[int, Tool] = {}
        self._servers: list[asyncio.Server] = []
        self._next = 0
        self._loop = asyncio.get_running_loop()

    async def open(self) -> None:
        """Let tools in."""
        for number, made in enumerate(self._sockets):
            self._servers.append(await self._loop.create_server(self._maker(number), sock=made))

    def _maker(self, number: int) -> Any:
        return lambda: Tool(self, number)

    def close(self) -> None:
        """Listen no longer and end every connection."""
        for server in self._servers:
            server.close()
        for tool in list(self.tools.values()):
            tool.cut()

    def enter(self, tool: Tool) -> int | None:
        """Number of a new connection; None where there are too many."""
        if sum(1 for one in self.tools.values() if one.attachment == tool.attachment) >= MOST_TOOLS:
            return None
        self._next += 1
        self.tools[self._next] = tool
        return self._next

    # The two below are called in the engine's thread.

    def outlet(self, connection: int, data: bytes | None) -> None:
        """What comes back for a tool; None when that is all."""
        self._call(self._write, connection, data)

    def cut(self) -> None:
        """The run is another one now: no connection goes on."""
        self._call(self._cut_all)

    def _call(self, act: Any, *what: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(act, *what)

    def _write(self, connection: int, data: bytes | None) -> None:
        tool = self.tools.get(connection)
        if tool is not None:
            tool.write(data)

    def _cut_all(self) -> None:
        for tool in list(self.tools.values()):
            tool.cut()


class Tool(asyncio.Protocol):
    """One connection of a real tool."""

    def __init__(self, doors: Doors, attachment: int) -> None:
        self.doors, self.attachment = doors, attachment
        self.number: int | None = None
        self._transport: asyncio.Transport | None = None
        self._waiting = 0
        self._answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.number = self.doors.enter(self)
        if self.number is None or not self._put("opened", attachment=self.attachment):
            self.cut()

    def data_received(self, data: bytes) -> None:
        for at in range(0, len(data), PIECE):
            piece = data[at : at + PIECE]
            self._waiting += len(piece)
            if not self._put("bytes", len(piece), hex=piece.hex()):
                self.cut()
                return
        if self._waiting > MOST_IN and self._transport is not None:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        return self._put("ended")  # answers may still come

    def connection_lost(self, exc: Exception | None) -> None:
        if self.number is not None and self.doors.tools.pop(self.number, None) is not None:
            self._put("lost")

    def write(self, data: bytes | None) -> None:
        """What the run answers; None when it has closed, with a reset if it never answered anything."""
        assert self._transport is not None
        if data is None:
            if self._answered:
                self._leave()
                self._transport.close()
            else:
                self.cut()
            return
        self._answered = True
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > MOST_OUT:
            self._put("lost")
            self.cut()

    def cut(self) -> None:
        """End it at once; the run is not told, because it knows or is gone."""
        self._leave()
        if self._transport is not None:
            reset(self._transport)

    def _leave(self) -> None:
        if self.number is not None:
            self.doors.tools.pop(self.number, None)

    def _put(self, kind: str, size: int = 0, **data: Any) -> bool:
        """Tell the run; False where it takes nothing."""
        try:
            answer = self.doors.engine.put(kind, connection=self.number, **data)
        except OtlabError:
            return False
        loop = asyncio.get_running_loop()

        def told(done: Future[Mapping[str, Any]]) -> None:
            taken = not done.cancelled() and done.exception() is None and "refused" not in done.result()
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._taken, size, taken)

        answer.add_done_callback(told)
        return True

    def _taken(self, size: int, taken: bool) -> None:
        self._waiting -= size
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if not taken:
            self.cut()
        elif self._waiting <= MOST_IN and not transport.is_reading():
            transport.resume_reading()
