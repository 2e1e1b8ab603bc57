"""Remote access: a gateway on a jump host, the session service of an engineering station, and a client of both.

One small framed protocol over TCP serves between client and gateway and between gateway and service: log in, open a
session to a target, give commands, say one is still there, close. What a session does is engineering: it reads, writes
and programs controllers through the workstation's own software. Who may do what is a seam; by default the gateway asks
nobody anything, forgets no session and serves whoever reaches it, as remote-control tools do when they are set up.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from devices.audit import Audit
from devices.connection import Connection
from devices.modbus import Refusal
from devices.plc import Mode
from devices.registers import Table
from devices.workstation import EngineeringError, Workstation
from testbed.errors import OtlabError
from testbed.network import Conduit, Host, Policy
from testbed.site import Controller, Tag

#: The port of remote desktops.
PORT: Final = 3389
#: Seconds that a gateway gives a target to answer (assumption).
PATIENCE: Final = 10.0

# ------------------------------------------------------------------------------------------------------- framing

_HEADER = struct.Struct(">2sBH")
_FIELD = struct.Struct(">H")
MAGIC: Final = b"RA"
#: Bytes of fields in one frame, at most.
MOST: Final = 0xFFFF


class Kind(IntEnum):
    """What a frame says; the fields that it carries."""

    LOGIN = 1  # user, password, one-time code or nothing
    OPEN = 2  # target; from a gateway also the user
    COMMAND = 3  # words
    BEAT = 4
    CLOSE = 5
    OK = 6  # text
    REFUSED = 7  # reason
    END = 8  # reason; the session is over


class FrameError(OtlabError):
    """The peer sent what is no frame of this protocol, or one is asked for that would not fit."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message."""

    kind: Kind
    fields: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """The frame's bytes; FrameError if it would be too long."""
        body = b""
        for text in self.fields:
            raw = text.encode()
            if len(body) + _FIELD.size + len(raw) > MOST:
                raise FrameError(f"a {self.kind.name} frame holds at most {MOST} bytes")
            body += _FIELD.pack(len(raw)) + raw
        return _HEADER.pack(MAGIC, self.kind, len(body)) + body


def take_frames(buffer: bytearray) -> Iterator[Frame]:
    """Take whole frames off the front of ``buffer``; FrameError where it cannot be this protocol."""
    while len(buffer) >= _HEADER.size:
        magic, kind, length = _HEADER.unpack_from(buffer)
        if magic != MAGIC or kind not in Kind.__members__.values():
            raise FrameError("not a remote access frame")
        if len(buffer) < _HEADER.size + length:
            return
        body = bytes(buffer[_HEADER.size : _HEADER.size + length])
        del buffer[: _HEADER.size + length]
        yield Frame(Kind(kind), tuple(_fields(body)))


def _fields(body: bytes) -> Iterator[str]:
    at = 0
    while at < len(body):
        if at + _FIELD.size > len(body):
            raise FrameError("a field is cut short")
        (length,) = _FIELD.unpack_from(body, at)
        at += _FIELD.size
        if at + length > len(body):
            raise FrameError("a field is cut short")
        try:
            yield body[at : at + length].decode()
        except UnicodeDecodeError:
            raise FrameError("a field is no text") from None
        at += length


class Line(Connection[Frame]):
    """One end of a connection that carries frames."""

    def __init__(self, begun: Callable[[Line], None] | None = None) -> None:
        super().__init__(begun)
        self._buffer = bytearray()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            for frame in take_frames(self._buffer):
                self.put(frame)
        except FrameError:
            self.close()

    def send(self, kind: Kind, *fields: str) -> None:
        """Send a frame; nothing happens if the connection is gone."""
        self.write(Frame(kind, fields).encode())


async def connect(address: str, port: int = PORT) -> Line:
    """Open a connection that carries frames. Raises OSError as the network does."""
    _, line = await asyncio.get_running_loop().create_connection(Line, address, port)
    assert isinstance(line, Line)
    return line


# --------------------------------------------------------------------------------------------- service of a target


class SessionService:
    """What a remote session at a workstation can do; ``admits``, a seam, says from which address one may come.

    Commands: ``read PLC TAG``, ``write PLC TAG VALUE`` (engineering units), ``mode PLC [program|run]``, ``program PLC``
    (its source).
    """

    def __init__(self, workstation: Workstation, plcs: dict[str, Controller], port: int = PORT) -> None:
        self.workstation, self.plcs, self.port = workstation, plcs, port
        self.host: Host = workstation.host
        self.audit = workstation.audit
        self.admits: Callable[[str], bool] = lambda _address: True

    def start(self) -> None:
        """Begin to listen."""
        self.host.spawn(self._listen(), "remote sessions")

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_server(lambda: Line(self._begin), "0.0.0.0", self.port)

    def _begin(self, line: Line) -> None:
        if self.admits(line.peer):
            self.host.spawn(self._serve(line), "remote session")
        else:
            self.audit("session.refused", peer=line.peer, reason="not from the gateway")
            line.close()

    async def _serve(self, line: Line) -> None:
        user = ""
        while (frame := await line.receive()) is not None:
            match frame.kind, frame.fields:
                case Kind.OPEN, (_, user):
                    self.audit("remote.session", peer=line.peer, user=user)
                    line.send(Kind.OK, "open")
                case Kind.COMMAND, words if user:
                    done, text = await self._carry_out(words)
                    self.audit(
                        "remote.command", peer=line.peer, user=user, command=" ".join(words), done=done
                    )
                    line.send(Kind.OK if done else Kind.REFUSED, text)
                case Kind.BEAT, _:
                    pass
                case Kind.CLOSE, _:
                    break
                case _:
                    line.send(Kind.REFUSED, "not understood")
        line.close()

    async def _carry_out(self, words: tuple[str, ...]) -> tuple[bool, str]:
        try:
            match words:
                case "read", plc, name if (tag := self._tag(plc, name)) is not None:
                    client = self.workstation.connect(plc)
                    answer = await client.read(Table(tag.table), tag.address, tag.words)
                    if isinstance(answer, Refusal):
                        return False, str(answer)
                    return True, f"{tag.decode(answer):g}"
                case "write", plc, name, value if (tag := self._tag(plc, name)) is not None:
                    client = self.workstation.connect(plc)
                    refused = await client.write(Table(tag.table), tag.address, tag.encode(float(value)))
                    return refused is None, "written" if refused is None else str(refused)
                case "mode", plc if plc in self.plcs:
                    return True, (await self.workstation.mode(plc)).name.lower()
                case "mode", plc, ("program" | "run") as mode if plc in self.plcs:
                    changed = await self.workstation.set_mode(plc, Mode[mode.upper()])
                    return changed, mode if changed else "the PLC did not change its mode"
                case "program", plc if plc in self.plcs:
                    return True, await self.workstation.read_program(plc)
        except (EngineeringError, ValueError, OSError) as error:
            return False, str(error)
        return False, "not understood"

    def _tag(self, plc: str, name: str) -> Tag | None:
        controller = self.plcs.get(plc)
        return controller.tags.get(name) if controller is not None else None


# ------------------------------------------------------------------------------------------------------- gateway


@dataclass(slots=True)
class RemoteSeams:
    """What controls may decide for a gateway; the default lets everybody do everything for ever."""

    #: (user, password, code or None, address) -> why not, or None
    authenticate: Callable[[str, str, str | None, str], str | None] | None = None
    #: (user, target) -> whether somebody of the site lets this session be opened now
    approve: Callable[[str, str], Awaitable[bool]] | None = None
    #: seconds without a command after which a session is ended
    idle_end: float | None = None
    #: sessions at once of one user, and of the gateway's interface
    sessions_per_user: int | None = None
    sessions_in_all: int | None = None


@dataclass(slots=True)
class Session:
    """An open session at the gateway."""

    user: str
    peer: str
    target: str
    client: Line
    service: Line
    last_command: float
    ended: bool = False


class RemoteGateway:
    """The only documented way in for maintenance from outside: sessions from clients to ``targets`` by name.

    ``capacity`` is how many sessions the software can carry. Audits ``login.failed``, ``remote.login``,
    ``remote.opened``, ``remote.refused`` and ``remote.ended`` (peer, user, target, reason).
    """

    def __init__(
        self, host: Host, name: str, targets: dict[str, str], capacity: int, port: int = PORT
    ) -> None:
        self.host, self.name, self.targets, self.capacity, self.port = host, name, targets, capacity, port
        self.loop = host.network.loop
        self.audit = Audit(name)
        self.seams = RemoteSeams()
        self.sessions: list[Session] = []

    def start(self) -> None:
        """Begin to listen."""
        self.host.spawn(self._listen(), "remote access gateway")

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_server(lambda: Line(self._begin), "0.0.0.0", self.port)

    def _begin(self, line: Line) -> None:
        self.host.spawn(self._serve(line), "remote access")

    # -- one client --------------------------------------------------------------------------------------------

    async def _serve(self, line: Line) -> None:
        user: str | None = None
        while (frame := await line.receive()) is not None:
            match frame.kind, frame.fields:
                case Kind.LOGIN, (name, password, *code):
                    reason = self._authenticate(name, password, code[0] if code else None, line.peer)
                    user = name if reason is None else None
                    line.send(Kind.OK if reason is None else Kind.REFUSED, "" if reason is None else "log-in")
                case Kind.OPEN, (target,) if user is not None:
                    session = await self._open(line, user, target)
                    if session is not None:
                        await self._carry(session)
                        break
                case Kind.BEAT, _:
                    pass
                case Kind.CLOSE, _:
                    break
                case _:
                    line.send(Kind.REFUSED, "log in first" if user is None else "open a session first")
        line.close()

    def _authenticate(self, user: str, password: str, code: str | None, peer: str) -> str | None:
        reason = None
        if self.seams.authenticate is not None:
            reason = self.seams.authenticate(user, password, code or None, peer)
        if reason is None:
            self.audit("remote.login", peer=peer, user=user)
        else:
            self.audit("login.failed", peer=peer, user=user, reason=reason)
        return reason

    def _full(self, user: str) -> str | None:
        """Why this user may open no further session now."""
        seams = self.seams
        mine = sum(session.user == user for session in self.sessions)
        if seams.sessions_per_user is not None and mine >= seams.sessions_per_user:
            return "too many sessions of this user"
        most = self.capacity if seams.sessions_in_all is None else min(self.capacity, seams.sessions_in_all)
        return "too many sessions" if len(self.sessions) >= most else None

    async def _open(self, line: Line, user: str, target: str) -> Session | None:
        reason = "no such target" if target not in self.targets else self._full(user)
        if reason is None and self.seams.approve is not None and not await self.seams.approve(user, target):
            reason = "not approved"
        service: Line | None = None
        if reason is None:
            try:
                async with asyncio.timeout(PATIENCE):
                    service = await connect(self.targets[target])
                    service.send(Kind.OPEN, target, user)
                    if await service.receive() is None:
                        reason = "the target closed the connection"
            except OSError:
                reason = "the target does not answer"
        # An approval takes its time, in which others may have come: counted again.
        reason = reason or self._full(user)
        if service is None or reason is not None:
            if service is not None:
                service.close()
            self.audit("remote.refused", peer=line.peer, user=user, target=target, reason=reason)
            line.send(Kind.REFUSED, reason or "")
            return None
        session = Session(user, line.peer, target, line, service, self.loop.time())
        self.sessions.append(session)
        self.audit("remote.opened", peer=line.peer, user=user, target=target)
        line.send(Kind.OK, "open")
        return session

    async def _carry(self, session: Session) -> None:
        """Pass commands on and answers back until one side goes, the user closes, or the time is over."""
        reason = "closed"
        while not session.ended:
            try:
                async with asyncio.timeout_at(self._due(session)):
                    frame = await session.client.receive()
            except TimeoutError:
                reason = "idle"
                break
            if frame is None:
                reason = "connection lost"
                break
            if frame.kind is Kind.CLOSE:
                break
            if frame.kind is Kind.COMMAND:
                session.last_command = self.loop.time()
                session.service.send(Kind.COMMAND, *frame.fields)
                answer = await session.service.receive()
                if answer is None:
                    reason = "target lost"
                    break
                session.client.send(answer.kind, *answer.fields)
        self.end(session, reason)

    def _due(self, session: Session) -> float | None:
        idle = self.seams.idle_end
        return None if idle is None else session.last_command + idle

    def end(self, session: Session, reason: str) -> None:
        """End a session at once, as a user of the site may."""
        if session.ended:
            return
        session.ended = True
        self.sessions.remove(session)
        session.client.send(Kind.END, reason)
        session.client.close()
        session.service.close()
        self.audit("remote.ended", peer=session.peer, user=session.user, target=session.target, reason=reason)


# -------------------------------------------------------------------------------------------------------- client


@dataclass(slots=True)
class RemoteUser:
    """What somebody who maintains the site from outside carries: a password, and a token if one was handed out."""

    name: str
    password: str
    token: str | None = None


@dataclass(slots=True)
class RemoteClient:
    """A client of a gateway, or of a session service directly; answers are None where it went well, else the reason."""

    line: Line
    beats: float = 60.0
    _beating: asyncio.Task[None] | None = field(default=None, init=False)

    async def log_in(self, user: str, password: str, code: str | None = None) -> str | None:
        """Log in at a gateway."""
        self.line.send(Kind.LOGIN, user, password, *((code,) if code is not None else ()))
        return _reason(await self.line.receive())

    async def open(self, *words: str) -> str | None:
        """Open a session: to a target by a gateway, or at a service itself (target, user)."""
        self.line.send(Kind.OPEN, *words)
        reason = _reason(await self.line.receive())
        if reason is None:
            # The software says by itself that it is there; nobody at the keyboard is needed for that.
            self._beating = asyncio.get_running_loop().create_task(self._beat())
        return reason

    async def command(self, *words: str) -> tuple[bool, str]:
        """Give a command: whether it was done, and the answer."""
        self.line.send(Kind.COMMAND, *words)
        while (frame := await self.line.receive()) is not None:
            if frame.kind in (Kind.OK, Kind.REFUSED):
                return frame.kind is Kind.OK, frame.fields[0] if frame.fields else ""
            if frame.kind is Kind.END:
                return False, f"the session was ended: {', '.join(frame.fields)}"
        return False, "the session is gone"

    def close(self) -> None:
        """Close the session and the connection."""
        if self._beating is not None:
            self._beating.cancel()
        self.line.send(Kind.CLOSE)
        self.line.close()

    async def _beat(self) -> None:
        while self.line.open:
            await asyncio.sleep(self.beats)
            self.line.send(Kind.BEAT)


def _reason(frame: Frame | None) -> str | None:
    if frame is None:
        return "the connection is gone"
    return None if frame.kind is Kind.OK else ", ".join(frame.fields) or frame.kind.name.lower()


def request_for(user: str, target: str) -> str:
    """How a session is asked for and announced."""
    return f"remote session of {user} to {target}"


# ----------------------------------------------------------------------------------------------- the forgotten way


class CellularRouter:
    """A vendor's router, left since commissioning, that joins a carrier's network with the zone that ``host`` is in.

    No firewall stands there: the link is made when the router starts, past whatever stands at the documented conduits.
    ``policies``, a seam, are what the router itself then asks of each packet; what they stop is audited as
    ``remote.denied``.
    """

    def __init__(self, host: Host, name: str, carrier: str) -> None:
        self.host, self.name, self.carrier = host, name, carrier
        self.audit = Audit(name)
        self.policies: list[tuple[str, Policy]] = []

    def connect(self) -> Conduit:
        """The link; made at the first call. Whoever makes it before the run knows of it, and may guard it."""
        name = f"{self.name}-radio"
        network = self.host.network
        if name not in network.conduits:
            network.conduit(name, self.carrier, self.host.zone.name)
        return network.conduits[name]

    def start(self) -> None:
        """Join the two networks."""
        link = self.connect()
        for name, policy in self.policies:
            link.add_policy(name, policy)
        link.observers.append(
            lambda _link, packet, _policy, _verdict: self.audit(
                "remote.denied", peer=packet.source, target=packet.target, port=packet.target_port
            )
        )
