"""One question and one answer over a TCP connection of their own: a line of text, and bytes behind it if it says so.

What backup servers and settings agents speak. The connection ends with the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from testbed.network import Host

#: Bytes behind a line: their number, of which 0 is none; None if the line is none of this protocol.
Length = Callable[[bytes], int | None]
#: ``answer(line, body, address of the peer)``; None to hang up.
Answer = Callable[[bytes, bytes, str], bytes | None]


class _Message:
    """Bytes that come in until the message is whole."""

    def __init__(self, longest_line: int, length: Length) -> None:
        self._buffer = bytearray()
        self._longest, self._length = longest_line, length
        self.wrong = False

    def feed(self, data: bytes) -> tuple[bytes, bytes] | None:
        """The line without its end and the body, once they are there; what comes after them is not looked at."""
        self._buffer += data
        end = self._buffer.find(b"\n")
        if end < 0 or end > self._longest:
            self.wrong = len(self._buffer) > self._longest
            return None
        line = bytes(self._buffer[:end])
        size = self._length(line)
        if size is None:
            self.wrong = True
            return None
        body = bytes(self._buffer[end + 1 : end + 1 + size])
        return (line, body) if len(body) == size else None


class _Served(asyncio.Protocol):
    def __init__(
        self, loop: asyncio.AbstractEventLoop, message: _Message, answer: Answer, patience: float
    ) -> None:
        self._message, self._answer = message, answer
        self._transport: asyncio.Transport | None = None
        self._timer = loop.call_later(patience, self._hang_up)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        whole = self._message.feed(data)
        if whole is not None:
            reply = self._answer(*whole, str(self._transport.get_extra_info("peername")[0]))
            if reply is not None:
                self._transport.write(reply)
            self._hang_up()
        elif self._message.wrong:
            self._hang_up()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._timer.cancel()

    def _hang_up(self) -> None:
        self._timer.cancel()
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()


class _Asking(asyncio.Protocol):
    def __init__(
        self, question: bytes, message: _Message, result: asyncio.Future[tuple[bytes, bytes]]
    ) -> None:
        self._question, self._message, self._result = question, message, result

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._question)

    def data_received(self, data: bytes) -> None:
        whole = self._message.feed(data)
        if whole is not None and not self._result.done():
            self._result.set_result(whole)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._result.done():
            self._result.set_exception(ConnectionResetError("the peer hung up without an answer"))


async def serve(
    host: Host, port: int, answer: Answer, length: Length, *, longest_line: int, patience: float
) -> None:
    """Answer whoever connects to ``port`` of ``host``, one question each; ``patience`` is what a question may take."""
    loop = asyncio.get_running_loop()
    await loop.create_server(
        lambda: _Served(loop, _Message(longest_line, length), answer, patience), host.address, port
    )


async def ask(
    address: str, port: int, question: bytes, length: Length, *, longest_line: int, patience: float
) -> tuple[bytes, bytes]:
    """The answer's line and body. OSError (TimeoutError included) if none comes within ``patience`` s."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[tuple[bytes, bytes]] = loop.create_future()
    async with asyncio.timeout(patience):
        transport, _ = await loop.create_connection(
            lambda: _Asking(question, _Message(longest_line, length), result), address, port
        )
        try:
            return await result
        finally:
            transport.close()
