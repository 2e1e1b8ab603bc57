"""One end of a connection that carries messages: what arrives is cut into messages and waits to be received."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Connection(asyncio.Protocol, Generic[T]):
    """``begun`` is called when it is open; a subclass cuts what arrives in ``data_received`` and ``put``s it."""

    def __init__(self, begun: Callable[[Any], None] | None = None) -> None:
        self._begun = begun
        self._messages: asyncio.Queue[T | None] = asyncio.Queue()
        self._transport: asyncio.Transport | None = None
        self.peer = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.peer = str(transport.get_extra_info("peername")[0])
        if self._begun is not None:
            self._begun(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._messages.put_nowait(None)

    @property
    def open(self) -> bool:
        return self._transport is not None

    def put(self, message: T) -> None:
        """A message has arrived whole."""
        self._messages.put_nowait(message)

    def write(self, data: bytes) -> None:
        """Send bytes; nothing happens if the connection is gone."""
        if self._transport is not None:
            self._transport.write(data)

    async def receive(self) -> T | None:
        """The next message; None once the connection is gone."""
        if self._transport is None and self._messages.empty():
            return None
        return await self._messages.get()

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()
