"""The backup server, and what an engineering station does with it: take copies, check them, get them back.

The server keeps the last versions of each item (a PLC's program, a station's configuration) on a medium that may fail
without a word. Nobody can delete over its protocol, only add; that is all that stands between it and a wiper.

The protocol is one exchange a connection over TCP, a line of ASCII and then bytes:

    PUT <item> <taken> <length>\\n<bytes>   ->  KEPT <sha256>\\n
    GET <item> [<before>]\\n                ->  COPY <taken> <sha256> <length>\\n<bytes>, or NONE\\n
    LIST\\n                                 ->  ITEMS <count> <length>\\n, then a line <item> <taken> <length> for each
    anything else                          ->  WRONG <reason>\\n

``taken`` is the virtual second at which the copy was taken, below zero for one from before the run, and the digest is
that of the bytes as they came in: what the medium has made of them since shows only to whoever checks.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from devices.audit import Audit
from devices.exchange import ask, serve
from devices.logic import compile_program
from devices.workstation import EngineeringError, Workstation
from testbed.errors import DocumentError
from testbed.network import Host

#: The port that IANA registered for a storage daemon of a backup program (Bacula).
PORT: Final = 9103
#: Versions of an item that are kept (assumption).
KEPT: Final = 10
#: The longest item (bytes): many times the longest program of a PLC.
MOST: Final = 1 << 20
#: Seconds that a client waits for an exchange, and the server for the rest of a request (assumption).
PATIENCE: Final = 10.0

_ITEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}(?:/[A-Za-z0-9][A-Za-z0-9_.-]{0,63})?")
_LONGEST_LINE: Final = 256
_WORDS: Final = {"PUT": (4,), "GET": (2, 3)}


@dataclass(frozen=True, slots=True)
class Copy:
    """One version of an item as it was sent; ``data`` is what the medium gives back."""

    item: str
    taken: float
    digest: str
    data: bytes

    @property
    def sound(self) -> bool:
        """Whether the bytes are still those that were sent."""
        return digest(self.data) == self.digest


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


class BackupServer:
    """A server on TCP ``port`` of ``host``. ``admits``, a seam, says whom it talks to; by default anybody."""

    def __init__(self, host: Host, name: str, port: int = PORT) -> None:
        self.host, self.name, self.port = host, name, port
        self.audit = Audit(name)
        self.admits: Callable[[str], bool] = lambda _address: True
        self.copies: dict[str, list[Copy]] = {}

    def start(self) -> None:
        """Begin to serve; again after the host has lost and regained power."""
        self.host.spawn(self._listen(), "backup server")

    def keep(self, item: str, taken: float, data: bytes) -> Copy:
        """Put a version of ``item`` beside the earlier ones; the oldest goes when there are too many."""
        copy = Copy(item, taken, digest(data), data)
        versions = self.copies.setdefault(item, [])
        versions.append(copy)
        del versions[:-KEPT]
        return copy

    def damage(self, item: str, stream: random.Random, times: int = 3) -> int:
        """The medium fails: ``times`` bytes of every version of ``item`` change. Returns how many versions that hit."""
        versions = self.copies.get(item, [])
        for at, copy in enumerate(versions):
            data = bytearray(copy.data)
            for _ in range(min(times, len(data))):
                place = stream.randrange(len(data))
                data[place] ^= 1 << stream.randrange(7)
            if bytes(data) == copy.data and data:  # bits that changed twice are as they were
                data[0] ^= 1
            versions[at] = Copy(item, copy.taken, copy.digest, bytes(data))
        return len(versions)

    async def _listen(self) -> None:
        await serve(
            self.host,
            self.port,
            self._answer,
            _body_of_request,
            longest_line=_LONGEST_LINE,
            patience=PATIENCE,
        )

    def _answer(self, line: bytes, body: bytes, address: str) -> bytes | None:
        if not self.admits(address):
            self.audit("access.denied", peer=address, function="backup")
            return None
        request = parse_request(line)
        if isinstance(request, str):
            return f"WRONG {request}\n".encode()
        verb, item, time, _ = request
        if verb == "PUT":
            copy = self.keep(item, time, body)
            self.audit("backup.kept", peer=address, item=item, digest=copy.digest[:16])
            return f"KEPT {copy.digest}\n".encode()
        if verb == "GET":
            versions = [copy for copy in self.copies.get(item, ()) if copy.taken <= time]
            if not versions:
                return b"NONE\n"
            copy = versions[-1]
            return f"COPY {copy.taken!r} {copy.digest} {len(copy.data)}\n".encode() + copy.data
        last = [versions[-1] for versions in self.copies.values()]
        listed = "".join(f"{one.item} {one.taken!r} {len(one.data)}\n" for one in last).encode()
        return f"ITEMS {len(last)} {len(listed)}\n".encode() + listed


def _body_of_request(line: bytes) -> int | None:
    request = parse_request(line)
    return 0 if isinstance(request, str) else request[3]


def _body_of_answer(line: bytes) -> int | None:
    """The length stands last in the lines that have bytes behind them."""
    words = line.split()
    if words and words[0] in (b"COPY", b"ITEMS"):
        return int(words[-1]) if words[-1].isdigit() and int(words[-1]) <= MOST else None
    return 0


def parse_request(line: bytes) -> tuple[str, str, float, int] | str:
    """Verb, item, time and length of a request's line (those that it has), or what is wrong with it.

    The time of a GET without one is infinite: any version will do.
    """
    if len(line) > _LONGEST_LINE or not line.isascii():
        return "not a line of this protocol"
    words = line.decode("ascii").split()
    if words == ["LIST"]:
        return "LIST", "", 0.0, 0
    if not words or len(words) not in _WORDS.get(words[0], ()):
        return "PUT item taken length, GET item before, or LIST"
    if _ITEM.fullmatch(words[1]) is None:
        return "not the name of an item"
    if len(words) > 2 and re.fullmatch(r"-?\d{1,12}(\.\d{1,20})?", words[2]) is None:
        return "not a time"
    if words[0] == "GET":
        return "GET", words[1], float(words[2]) if len(words) == 3 else math.inf, 0
    if re.fullmatch(r"\d{1,8}", words[3]) is None or int(words[3]) > MOST:
        return f"a length is 0 to {MOST}"
    return "PUT", words[1], float(words[2]), int(words[3])


# ------------------------------------------------------------------------------------------------------ the client


async def store(address: str, item: str, taken: float, data: bytes, port: int = PORT) -> bool:
    """Send a copy; whether the server confirms the same bytes. OSError if it cannot be reached."""
    answer, _ = await _exchange(address, port, f"PUT {item} {round(taken, 6)} {len(data)}\n".encode() + data)
    return answer == ["KEPT", digest(data)]


async def fetch(address: str, item: str, port: int = PORT, *, before: float | None = None) -> Copy | None:
    """The newest version of ``item``, of those taken ``before`` a second of the run if one is given; None for none.

    OSError if the server cannot be reached.
    """
    request = f"GET {item}\n" if before is None else f"GET {item} {before:.6f}\n"
    answer, data = await _exchange(address, port, request.encode())
    if len(answer) != 4 or answer[0] != "COPY":
        return None
    return Copy(item, float(answer[1]), answer[2], data)


async def _exchange(address: str, port: int, request: bytes) -> tuple[list[str], bytes]:
    line, body = await ask(
        address, port, request, _body_of_answer, longest_line=_LONGEST_LINE, patience=PATIENCE
    )
    return line.decode("ascii", "replace").split(), body


# ------------------------------------------------------------------------------------------------- the programs' keeper


@dataclass(slots=True)
class BackupHabits:
    """What controls may decide about copies; by default nobody takes any.

    ``by_hand`` draws the seconds after a change at which a person takes a copy, None when it is forgotten.
    """

    by_hand: Callable[[], float | None] | None = None
    #: seconds between copies that are taken without anybody, or None
    every: float | None = None
    #: seconds between two test restores of each copy, or None
    verify_every: float | None = None


class ProgramKeeper:
    """Keeps the programs of PLCs at ``workstation`` and, where it is a habit, copies of them on a backup server.

    ``projects`` are the project files on the station's own disk, ``released`` the change register on paper: what each
    PLC ought to run. ``servers`` are addresses of backup servers by name; ``check`` finds fault with a program for a
    PLC that compiles. ``on_finding`` is told of each copy that turns out to be worthless.
    """

    def __init__(
        self,
        workstation: Workstation,
        programs: Mapping[str, str],
        servers: Mapping[str, str],
        check: Callable[[str, str], str | None],
    ) -> None:
        self.workstation = workstation
        self.projects = dict(programs)
        self.released = dict(programs)
        self.servers = dict(servers)
        self.check = check
        self.habits = BackupHabits()
        self.on_finding: list[Callable[[str, str], object]] = []
        #: PLC -> when the last copy was confirmed, and whether the last look at it was satisfied
        self.taken: dict[str, float] = {}
        self.trusted: dict[str, bool] = {}
        self._loop = workstation.host.network.loop

    def start(self) -> None:
        """Begin with what goes on without anybody."""
        host = self.workstation.host
        if self.habits.every is not None:
            host.spawn(self._periodically(self.habits.every, self.take), "backups")
        if self.habits.verify_every is not None:
            host.spawn(self._periodically(self.habits.verify_every, self.verify), "test restores")

    async def _periodically(self, every: float, act: Callable[[str], object]) -> None:
        while True:
            await asyncio.sleep(every)
            for plc in self.released:
                result = act(plc)
                assert asyncio.iscoroutine(result)
                await result

    def changed(self, plc: str, source: str) -> None:
        """A change of a program was released: it goes into the register and the project, and by habit into a copy."""
        self.released[plc] = self.projects[plc] = source
        if self.habits.by_hand is not None and self.habits.every is None:
            after = self.habits.by_hand()
            if after is not None:
                self.workstation.host.spawn(self._later(plc, after), "backup by hand")

    async def _later(self, plc: str, after: float) -> None:
        await asyncio.sleep(after)
        await self.take(plc)

    async def take(self, plc: str) -> bool:
        """Upload the program of ``plc`` over the wire and store it; only a program that could be restored is kept."""
        try:
            source = await self.workstation.read_program(plc)
            if self.fault(plc, source) is not None:
                return False
            for address in self.servers.values():
                if await store(address, f"{plc}/program", self._loop.time(), source.encode()):
                    self.taken[plc] = self._loop.time()
                    return True
        except (OSError, EngineeringError):
            pass  # the next time will do; that copies grow old shows in ``taken``
        return False

    def fault(self, plc: str, source: str) -> str | None:
        """Why ``source`` could not be restored to ``plc``, or None: a test restore without the controller."""
        try:
            compile_program(source, f"copy of {plc}")
        except DocumentError as error:
            return str(error.problems[0])
        return self.check(plc, source)

    async def verify(self, plc: str) -> bool:
        """Get the copy of ``plc`` back, compare and compile it; one that fails is told, and taken afresh."""
        reason = await self.reason_to_distrust(plc)
        self.trusted[plc] = reason is None
        if reason is None:
            return True
        for told in self.on_finding:
            told(plc, reason)
        self.trusted[plc] = await self.take(plc)
        return False

    async def reason_to_distrust(self, plc: str) -> str | None:
        """What is wrong with the newest copy of ``plc``; None if it would restore."""
        try:
            copy = await self.fetch(plc)
        except OSError:
            return "the backup server does not answer"
        if copy is None:
            return "there is no copy"
        if not copy.sound:
            return "the copy is not what was stored"
        return self.fault(plc, copy.data.decode("utf-8", "replace"))

    async def fetch(self, plc: str, before: float | None = None) -> Copy | None:
        """The newest copy of the program of ``plc``, as ``fetch``, on the first server that has one."""
        for address in self.servers.values():
            copy = await fetch(address, f"{plc}/program", before=before)
            if copy is not None:
                return copy
        return None

    def lose(self, plcs: Iterable[str]) -> int:
        """The project files of ``plcs`` are gone from the station's disk; how many there were."""
        return sum(self.projects.pop(plc, None) is not None for plc in plcs)
