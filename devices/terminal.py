"""The text terminal of an operator station: log in from another desk, look at tags and give commands.

A plain line protocol over TCP, as Telnet terminals of panels and gateways still are: the station says one line, the
person answers one. What the station says about a failed log-in, and how long it takes to say so, is a seam; as
delivered it is helpful to everybody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from devices.accounts import NO_ACCOUNT, User, without_code
from devices.connection import Connection
from devices.hmi import ANYONE, Hmi
from testbed.errors import UnknownNameError

#: Longest line (bytes) that is taken; a peer that sends more is cut off.
MOST: Final = 512
#: Failed log-ins after which the station hangs up, and s that it waits for a line (assumptions).
TRIES: Final = 3
PATIENCE: Final = 600.0

ACKNOWLEDGE: Final = "type yes to go on"
LOGIN: Final = "login:"
PASSWORD: Final = "password:"
WELCOME: Final = "welcome "
GOODBYE: Final = "goodbye"


def plain(reason: str) -> str:
    """Tell whoever asks why the log-in failed."""
    return f"log-in failed: {reason}"


@dataclass(slots=True)
class TerminalSeams:
    """What controls may fill in."""

    #: what is shown of the reason of a failed log-in
    feedback: Callable[[str], str] = plain
    #: an unknown name takes as long to refuse as a wrong password
    even: bool = False
    #: commands are taken here, and not at the screen only
    commands: bool = True


class Line(Connection[str]):
    """One end of a connection that carries lines."""

    def __init__(self, begun: Callable[[Line], None] | None = None) -> None:
        super().__init__(begun)
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        *whole, self._buffer = (self._buffer + data).split(b"\n")
        if any(len(line) > MOST for line in (*whole, self._buffer)):
            self.close()
            return
        for line in whole:
            self.put(line.decode("utf-8", "replace").rstrip("\r"))

    def say(self, text: str) -> None:
        """Send one line; nothing happens if the connection is gone."""
        self.write(text.encode() + b"\n")

    async def hear(self, within: float = PATIENCE) -> str | None:
        """The next line; None once the connection is gone or ``within`` s are over."""
        try:
            async with asyncio.timeout(within):
                return await self.receive()
        except TimeoutError:
            return None


async def connect(address: str, port: int) -> Line:
    """Open a connection that carries lines. Raises OSError as the network does."""
    _, line = await asyncio.get_running_loop().create_connection(Line, address, port)
    assert isinstance(line, Line)
    return line


class OperatorTerminal:
    """The terminal of ``hmi`` on TCP ``port``; checking a password takes ``verify_time`` s.

    Commands: ``read TAG``, ``write TAG VALUE`` (engineering units), ``quit``.
    """

    def __init__(self, hmi: Hmi, port: int, verify_time: float = 0.0) -> None:
        self.hmi, self.port, self.verify_time = hmi, port, verify_time
        self.host = hmi.host
        self.seams = TerminalSeams()

    def start(self) -> None:
        """Begin to listen."""
        self.host.spawn(self._listen(), "terminal")

    async def _listen(self) -> None:
        def begun(line: Line) -> None:
            self.host.spawn(self._serve(line), f"terminal of {line.peer}")

        await self.host.network.loop.create_server(lambda: Line(begun), "0.0.0.0", self.port)

    async def _serve(self, line: Line) -> None:
        user = await self._admit(line)
        if user is not None:
            line.say(f"{WELCOME}{user.name}")
            while (text := await line.hear()) is not None and text != "quit":
                line.say(await self._obey(user, text))
        line.say(GOODBYE)
        line.close()

    async def _admit(self, line: Line) -> User | None:
        noted = self.hmi.seams.notice is not None
        if noted:
            line.say(f"{self.hmi.seams.notice}; {ACKNOWLEDGE}")
            if await line.hear() != "yes":
                return None
        if self.hmi.seams.accounts is None:
            if noted:
                self.hmi.acknowledge(ANYONE.name, line.peer)
            return ANYONE
        for _ in range(TRIES):
            line.say(LOGIN)
            name = await line.hear()
            line.say(PASSWORD)
            typed = await line.hear()
            if name is None or typed is None:
                return None
            if noted:
                self.hmi.acknowledge(name, line.peer)
            user, reason = await self.hmi.identify(name, *without_code(typed), line.peer)
            if reason != NO_ACCOUNT or self.seams.even:
                await asyncio.sleep(self.verify_time)
            if user is not None:
                return user
            line.say(self.seams.feedback(reason))
        return None

    async def _obey(self, user: User, text: str) -> str:
        match text.split():
            case ["read", tag]:
                value = self.hmi.values.get(tag)
                return f"{tag} {value:g}" if value is not None else f"no value of {tag}"
            case ["write", _, _] if not self.seams.commands:
                return "commands are given at the screen"
            case ["write", tag, number]:
                try:
                    refused = await self.hmi.command(user, tag, float(number))
                except UnknownNameError as error:
                    return str(error)
                except (ValueError, OverflowError):
                    return f"{number} is no value of {tag}"
                return "done" if refused is None else refused
            case _:
                return "read TAG, write TAG VALUE, or quit"
