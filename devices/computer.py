"""The general-purpose operating system of an asset: its files, what it runs, and every way that something gets in.

A program is real bytes: it is copied, scanned and signed as bytes, and a computer finds out by their digest what they
do when they run (``Software``). A running program acts through its ``Process`` only, as on a real machine everything
goes through system calls; what a process may reach is decided there. The seams say which media are taken, which files
are let in, what may run, and which application is kept apart from which; their defaults are those of an old machine
that opens whatever it is given.

The file service (``PORT``) is the way from machine to machine. A request is one line of JSON, and of a file that is put
its bytes follow: ``{"do": "put", "name": ..., "size": n, "run": true}``, ``{"do": "get", "name": ...}`` or
``{"do": "digests"}``. The answer is one line, ``{"refused": null}`` or the reason, with ``size`` and the bytes of what
was asked for. ``run`` starts what was put, as remote administration does; digests are those of installed files, now.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import errno
import hashlib
import json
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from devices.audit import Audit
from devices.modbus import ModbusClient
from testbed.network import Host, Packet, Verdict, Zone

#: The port of Windows file sharing; the protocol here is this project's own.
PORT: Final = 445
#: Largest file (bytes) and longest request line that the service takes, and its patience with either (s); assumptions.
LARGEST: Final = 1 << 20
LONGEST_LINE: Final = 1 << 12
PATIENCE: Final = 10.0
#: How a file gets in: from media in a port, by mail, over the file service, or made here.
Way = Literal["media", "mail", "share", "local"]
#: How the name of mobile code ends.
MOBILE: Final = (".js", ".vbs", ".ps1", ".xlsm", ".docm")
#: What a file may be called that comes over the network, and how long its name may be (assumption).
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")
LONGEST_NAME: Final = 200
_SIGNATURE: Final = b"\n# SIGNED "


#: What a program does when it runs.
Run = Callable[["Process"], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Program:
    """Bytes under a name and what they do; ``run`` None is a file that nothing comes of."""

    name: str
    content: bytes
    run: Run | None = None

    @property
    def mobile(self) -> bool:
        """Whether it is mobile code: a script, or a document that has macros inside; the end of its name says so."""
        return self.name.endswith(MOBILE)

    @property
    def digest(self) -> str:
        """SHA-256 in hexadecimal."""
        return digest_of(self.content)


def digest_of(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def sign(content: bytes, key: Ed25519PrivateKey) -> bytes:
    """``content`` with a signature in its last line, as signed scripts carry theirs."""
    return content + _SIGNATURE + base64.b64encode(key.sign(content))


def signature_fits(content: bytes, key: Ed25519PublicKey) -> bool:
    """Whether the last line is a signature by ``key`` of all before it."""
    body, mark, encoded = content.rpartition(_SIGNATURE)
    if not mark:
        return False
    try:
        key.verify(base64.b64decode(encoded, validate=True), body)
    except (InvalidSignature, binascii.Error):
        return False
    return True


def signature_body(content: bytes) -> bytes:
    """What was signed; ``content`` as it is if it carries no signature."""
    body, mark, _ = content.rpartition(_SIGNATURE)
    return body if mark else content


class Software:
    """What bytes do when they run, by their digest: one for all computers, as machine code means the same on each."""

    def __init__(self) -> None:
        self._known: dict[str, Program] = {}

    def add(self, program: Program) -> Program:
        """Make the bytes of ``program`` do what it does wherever they turn up."""
        self._known[program.digest] = program
        return program

    def under(self, name: str, content: bytes) -> Program:
        """The program that ``content`` is, under the name it has here."""
        known = self._known.get(digest_of(content))
        return Program(name, content) if known is None else replace(known, name=name)


@dataclass(frozen=True, slots=True)
class Application:
    """Installed software: its files, and the programs of the host (by the start of their names) that are it.

    ``critical`` is what an essential function needs.
    """

    name: str
    files: dict[str, bytes]
    tasks: tuple[str, ...] = ()
    critical: bool = False


@dataclass(frozen=True, slots=True)
class Media:
    """Something for a USB port: its serial number, what is on it, and the file that asks to be started by itself."""

    label: str
    serial: str
    files: dict[str, bytes]
    autorun: str | None = None
    #: what a media station says of the contents, if they have been there
    seal: bytes = b""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A file that wants in: by which way and from whom (an address, a mailbox, a serial number)."""

    name: str
    content: bytes
    way: Way
    source: str


#: Kind of asset -> what is installed there: name, starts of the names of its programs, and whether an essential
#: function needs it.
INSTALLED: Final[dict[str, tuple[tuple[str, tuple[str, ...], bool], ...]]] = {
    "hmi": (("view", ("poll", "heartbeat"), True),),
    "workstation": (("engineering", (), True),),
    "opcua_server": (("gateway", ("opc ua server", "poll"), True),),
    "historian": (("archive", ("collector",), False),),
    "siem": (("collector", ("collector",), False),),
    "jump_host": (("sessions", (), False),),
    "office_pc": (("office", (), False),),
    "mail_server": (("mail", (), False),),
}
#: Kind of asset -> what it holds for others to open: an overview display whose script every station runs.
DOCUMENTS: Final = {
    "historian": {
        "displays/overview.js": b"// overview of the water line, revision 7\nshow(LIT101, LIT301, FIT301);\n"
    }
}


def installed_on(kind: str, product: str, version: str) -> list[Application]:
    """The applications of an asset of ``kind``, each a program and its settings; the bytes say what they are."""
    found = []
    for name, tasks, critical in INSTALLED.get(kind, ()):
        about = f"{product} {version} {name}".encode()
        files = {f"{name}.exe": b"MZ" + about, f"{name}.cfg": b"[settings]\n# of " + about}
        found.append(Application(name, files, tasks, critical))
    if kind in DOCUMENTS:
        found.append(Application("documents", dict(DOCUMENTS[kind])))
    return found


@dataclass(slots=True)
class ComputerSeams:
    """What controls may fill in; lists are asked in order, and the first reason refuses."""

    #: reason not to take media, or None
    media: list[Callable[[Computer, Media], str | None]] = field(default_factory=list)
    #: reason not to let a file in, or None
    receive: list[Callable[[Computer, Arrival], str | None]] = field(default_factory=list)
    #: reason not to run a program, or None
    execute: list[Callable[[Computer, Program], str | None]] = field(default_factory=list)
    #: start by itself what media ask to have started
    autorun: bool = True
    #: application or way in -> compartment that its processes and files are in; empty: one compartment for all
    compartments: dict[str, str] = field(default_factory=dict)
    #: whether processes of a compartment may open a connection to an address
    reaches: Callable[[str, str], bool] | None = None


class Computer:
    """The operating system on ``host``. ``software`` tells what bytes do; ``kind`` is the asset's.

    Audits ``media.inserted``, ``media.refused``, ``file.received``, ``file.refused``, ``execution.started``,
    ``execution.refused``, ``malware.found`` and ``application.ended``.
    """

    def __init__(self, host: Host, name: str, software: Software | None = None) -> None:
        self.host, self.name = host, name
        self.loop = host.network.loop
        self.software = software if software is not None else Software()
        self.seams = ComputerSeams()
        self.audit = Audit(name)
        self.files: dict[str, bytes] = {}
        #: file -> application that it is of, or way that it came by
        self.owners: dict[str, str] = {}
        self.applications: dict[str, Application] = {}
        self.ended: set[str] = set()
        #: programs now running, by name
        self.running: dict[str, asyncio.Task[None]] = {}
        #: names of files that were put away, with the reason
        self.quarantined: dict[str, str] = {}
        self.media: Media | None = None
        #: names that are no files but go to a service of this computer, which answers with a reason not to take them
        self.services: dict[str, Callable[[bytes], str | None]] = {}
        #: called with the name of a running program that was ended because it was malware
        self.on_removed: list[Callable[[str], object]] = []

    def start(self) -> None:
        """Begin to serve files to other machines."""
        self.host.spawn(self._serve(), "file service")

    def set_up_anew(self) -> None:
        """Start from an image of what was installed: whatever else was here is gone."""
        self.files.clear()
        self.owners.clear()
        self.ended.clear()
        self.running.clear()
        self.media = None
        for application in self.applications.values():
            self.install(application)
        self.start()

    # -- software and files --------------------------------------------------------------------------------------

    def install(self, application: Application) -> None:
        """Put an application and its files here; what was ended runs again only when somebody starts it."""
        self.applications[application.name] = application
        for name, content in application.files.items():
            self.files[name] = content
            self.owners[name] = application.name

    def inventory(self) -> dict[str, str]:
        """Digest of every installed file by name, as it should be."""
        return {
            name: digest_of(content)
            for application in self.applications.values()
            for name, content in application.files.items()
        }

    def altered(self) -> list[str]:
        """Installed files that are not what was installed, or gone."""
        return [
            name
            for name, digest in self.inventory().items()
            if name not in self.files or digest_of(self.files[name]) != digest
        ]

    def compartment(self, of: str) -> str:
        """Where processes and files of an application, or of what came by a way, are."""
        return self.seams.compartments.get(of, "")

    def take(self, arrival: Arrival) -> str | None:
        """Let a file in and store it; the reason if that is refused."""
        if arrival.name in self.services:
            return self.services[arrival.name](arrival.content)
        for check in self.seams.receive:
            reason = check(self, arrival)
            if reason is not None:
                self.audit(
                    "file.refused", file=arrival.name, way=arrival.way, peer=arrival.source, reason=reason
                )
                return reason
        owner = self.owners.get(arrival.name)
        if owner is not None and self.compartment(owner) != self.compartment(arrival.way):
            self.audit(
                "file.refused", file=arrival.name, way=arrival.way, peer=arrival.source, reason="partition"
            )
            return f"{arrival.name} is in another partition"
        self.store(arrival.name, arrival.content, arrival.way)
        self.audit("file.received", file=arrival.name, way=arrival.way, peer=arrival.source)
        return None

    def store(self, name: str, content: bytes, owner: str) -> None:
        """Write a file. An application whose files are no longer what they were ends."""
        self.files[name] = content
        application = self.applications.get(self.owners.setdefault(name, owner))
        if application is not None and application.files[name] != content:
            self.end(application.name)

    def quarantine(self, name: str, reason: str) -> None:
        """Put a file away and end the program that it is, if it runs."""
        content, owner = self.files.get(name, b""), self.owners.get(name, "local")
        if owner not in self.applications:
            self.files.pop(name, None)
            self.owners.pop(name, None)
        self.quarantined[name] = reason
        self.audit("malware.found", file=name, reason=reason, digest=digest_of(content)[:16], way=owner)
        task = self.running.pop(name, None)
        if task is not None:
            task.cancel()
            for told in self.on_removed:
                told(name)

    def end(self, application: str) -> None:
        """End the host's programs that are the application."""
        starts = tuple(f"{self.host.name}:{start}" for start in self.applications[application].tasks)
        self.ended.add(application)
        for task in list(self.host.tasks):
            if starts and task.get_name().startswith(starts):
                task.cancel()
        self.audit("application.ended", application=application)

    # -- ways in ---------------------------------------------------------------------------------------------------

    def insert(self, media: Media, user: str) -> str | None:
        """Somebody puts media into a port; the reason if they are refused."""
        for check in self.seams.media:
            reason = check(self, media)
            if reason is not None:
                self.audit("media.refused", serial=media.serial, label=media.label, user=user, reason=reason)
                return reason
        self.media = media
        self.audit("media.inserted", serial=media.serial, label=media.label, user=user)
        if self.seams.autorun and media.autorun is not None:
            self.open_from_media(media.autorun)
        return None

    def eject(self) -> None:
        """Take the media out again."""
        self.media = None

    def open_from_media(self, name: str) -> str | None:
        """Copy a file from the media and open it; the reason if either is refused."""
        if self.media is None or name not in self.media.files:
            return "no such file"
        reason = self.take(Arrival(name, self.media.files[name], "media", self.media.serial))
        return reason if reason is not None else self.execute(name)

    # -- running -----------------------------------------------------------------------------------------------------

    def execute(self, name: str) -> str | None:
        """Run the stored file ``name``, in the compartment of the way it came by; the reason if it does not run."""
        if name not in self.files:
            return "no such file"
        program = self.software.under(name, self.files[name])
        for check in self.seams.execute:
            reason = check(self, program)
            if reason is not None:
                self.audit("execution.refused", file=name, digest=program.digest[:16], reason=reason)
                return reason
        self.audit("execution.started", file=name, digest=program.digest[:16])
        if program.run is None:
            return None
        process = Process(self, program, self.owners[name])
        task = self.host.spawn(program.run(process), f"run {name}")
        self.running[name] = task
        task.add_done_callback(lambda done: self._done(name, done))
        return None

    def _done(self, name: str, task: asyncio.Task[None]) -> None:
        if self.running.get(name) is task:
            del self.running[name]

    # -- the file service ----------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._attend, self.host.address, PORT, limit=LONGEST_LINE)
        await server.serve_forever()

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = str(writer.get_extra_info("peername")[0])
        try:
            async with asyncio.timeout(PATIENCE):
                answer, content = await self._request(reader, peer)
            writer.write(json.dumps(answer).encode() + b"\n" + content)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # whoever asked has gone, or says nothing more
        finally:
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, peer: str) -> tuple[dict[str, Any], bytes]:
        try:
            asked = json.loads(await reader.readuntil())
            do, name = str(asked["do"]), str(asked.get("name", ""))
            size = int(asked.get("size", 0))
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            OverflowError,
            RecursionError,
            asyncio.LimitOverrunError,
        ):
            return {"refused": "no request"}, b""
        if not 0 <= size <= LARGEST:
            return {"refused": "too large"}, b""
        if do in ("put", "get") and (len(name) > LONGEST_NAME or _NAME.fullmatch(name) is None):
            return {"refused": "no such name"}, b""
        if do == "put":
            content = await reader.readexactly(size)
            reason = self.take(Arrival(name, content, "share", peer))
            if reason is None and asked.get("run"):
                reason = self.execute(name)
            return {"refused": reason}, b""
        if do == "get":
            return self._give(name)
        if do == "digests":
            now = {name: digest_of(self.files.get(name, b"")) for name in self.inventory()}
            listed = json.dumps(now).encode()
            return {"refused": None, "size": len(listed)}, listed
        return {"refused": "no such request"}, b""

    def _give(self, name: str) -> tuple[dict[str, Any], bytes]:
        content = self.files.get(name)
        if content is None or self.compartment(self.owners[name]) != self.compartment("share"):
            return {"refused": "no such file"}, b""
        return {"refused": None, "size": len(content)}, content


class Process:
    """A running program's view of its computer: the files of its compartment and the addresses that it may reach.

    Raises PermissionError for what is in another compartment, FileNotFoundError for what is not there.
    """

    def __init__(self, computer: Computer, program: Program, owner: str) -> None:
        self.computer, self.program, self.owner = computer, program, owner

    @property
    def compartment(self) -> str:
        """Where it runs: where the file was that it was started from."""
        return self.computer.compartment(self.owner)

    def names(self) -> list[str]:
        """Files that the process can see."""
        owners, where = self.computer.owners, self.computer.compartment
        return [name for name in self.computer.files if where(owners[name]) == self.compartment]

    def _check(self, name: str) -> None:
        owner = self.computer.owners.get(name)
        if owner is not None and self.computer.compartment(owner) != self.compartment:
            raise PermissionError(errno.EACCES, f"{name} is in another partition of {self.computer.name}")

    def read(self, name: str) -> bytes:
        """Content of a file."""
        self._check(name)
        if name not in self.computer.files:
            raise FileNotFoundError(errno.ENOENT, f"{self.computer.name} has no file {name}")
        return self.computer.files[name]

    def write(self, name: str, content: bytes) -> None:
        """Write a file, new or not."""
        self._check(name)
        self.computer.store(name, content, self.owner)

    def _reach(self, address: str) -> None:
        reaches = self.computer.seams.reaches
        if reaches is not None and not reaches(self.compartment, address):
            raise PermissionError(
                errno.EACCES, f"{self.compartment} of {self.computer.name} may not reach {address}"
            )

    def modbus(self, address: str, port: int, unit: int = 1) -> ModbusClient:
        """A client of a PLC, without credentials."""
        self._reach(address)
        return ModbusClient(address, port, unit=unit)

    async def put(self, address: str, name: str, content: bytes, *, run: bool = False) -> str | None:
        """Send a file to another computer and perhaps start it there; the reason if it did not take it. OSError."""
        self._reach(address)
        return await put(address, name, content, run=run)

    async def get(self, address: str, name: str) -> bytes | None:
        """Fetch a file from another computer; None if it does not give it. OSError if it does not answer."""
        self._reach(address)
        return await get(address, name)


async def put(
    address: str, name: str, content: bytes, *, run: bool = False, patience: float = 5.0
) -> str | None:
    """Send a file to the computer at ``address``; the reason if it was not taken.

    Raises TimeoutError after ``patience`` s, ConnectionError if there is no service or its answer is none.
    """
    request = {"do": "put", "name": name, "size": len(content), "run": run}
    answer, _ = await _ask(address, request, content, patience)
    reason = answer.get("refused")
    return None if reason is None else str(reason)


async def get(address: str, name: str, *, patience: float = 5.0) -> bytes | None:
    """Fetch a file from the computer at ``address``, None if it is not given; raises as ``put`` does."""
    answer, content = await _ask(address, {"do": "get", "name": name}, b"", patience)
    return content if answer.get("refused") is None else None


async def digests(address: str, *, patience: float = 5.0) -> dict[str, str]:
    """Digests of what is installed at ``address``, as its file service finds them now; raises as ``put`` does."""
    _, content = await _ask(address, {"do": "digests"}, b"", patience)
    try:
        return {str(name): str(digest) for name, digest in json.loads(content).items()}
    except (ValueError, AttributeError) as error:
        raise ConnectionError(f"no answer from {address}") from error


async def _ask(
    address: str, request: dict[str, Any], content: bytes, patience: float
) -> tuple[dict[str, Any], bytes]:
    async with asyncio.timeout(patience):
        reader, writer = await asyncio.open_connection(address, PORT, limit=LONGEST_LINE)
        try:
            writer.write(json.dumps(request).encode() + b"\n" + content)
            await writer.drain()
            answer = json.loads(await reader.readuntil())
            if not isinstance(answer, dict):
                raise ConnectionError(f"no answer from {address}")
            size = int(answer.get("size", 0))
            if size > LARGEST:
                raise ConnectionError(f"too large an answer from {address}")
            return answer, await reader.readexactly(size)
        except (
            ValueError,
            TypeError,
            OverflowError,
            RecursionError,
            asyncio.IncompleteReadError,
            asyncio.LimitOverrunError,
        ) as error:
            raise ConnectionError(f"no answer from {address}") from error
        finally:
            writer.close()


@dataclass(frozen=True, slots=True)
class Posture:
    """What the agent of a portable computer says of it: whose it is, and how old its patches and signatures are (s)."""

    owner: str
    patches_age: float
    signatures_age: float


class Dock:
    """The maintenance port of a zone's switch: a portable computer plugged in there has a link once it is admitted.

    ``inspect``, a seam, gives reasons to keep the link down; with none it comes up at once. Audits ``dock.admitted``
    and ``dock.refused``.
    """

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.audit = Audit(f"dock-{zone.name}")
        self.inspect: list[Callable[[Computer, Posture], str | None]] = []
        self._down: set[str] = set()

    def connect(self, computer: Computer, posture: Posture) -> str | None:
        """Plug a computer in; the reason if its link stays down."""
        address = computer.host.address
        for check in self.inspect:
            reason = check(computer, posture)
            if reason is not None:
                if not self._down:
                    self.zone.add_policy("maintenance port", self._judge)
                self._down.add(address)
                self.audit("dock.refused", peer=address, user=posture.owner, reason=reason)
                return reason
        self._down.discard(address)
        self.audit("dock.admitted", peer=address, user=posture.owner)
        return None

    def _judge(self, packet: Packet) -> Verdict:
        down = packet.source in self._down or packet.target in self._down
        return Verdict.DROP if down else Verdict.ACCEPT
