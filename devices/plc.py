"""A programmable logic controller: a scan cycle over an input and output image, and a Modbus server beside it.

Everything a security control may want to decide is a seam of ``PlcSeams`` whose default is what a factory-new
controller does: it trusts whoever reaches its port. Nothing here knows which controls exist.

Communication and logic share one processor. While ``requests_per_scan`` is unbounded, every request is served at once
and its processing time is taken from the scan, which is how old controllers stop controlling under a flood.

System registers, beyond the tags of a site (all 16 bit):

    input    0xF000 mode (0 program, 1 run, 2 fault), 0xF001 last scan time (ms), 0xF002 scans late,
             0xF003-4 first four bytes of the program's SHA-256, 0xF005 program length (bytes), 0xF006 downloads
    holding  0xF000 mode request (0 program, 1 run), 0xF001 activate the downloaded program of so many bytes,
             0xF002-11 signature of the download (32 bytes), zero if none
    file 1   the program's source, two bytes a record (function codes 20 and 21)
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from devices.audit import Audit
from devices.logic import LogicFault, Program, ProgramInstance, compile_program
from devices.modbus import (
    Access,
    DeviceIdentity,
    ModbusClient,
    ModbusPDU,
    Peer,
    describe,
    exception,
    execute,
    server_protocol,
)
from devices.poller import TagPoller, checksum, checksum_address
from devices.registers import FILE_RECORDS, MemoryFiles, RegisterBank, Table
from devices.wiring import Wiring
from testbed.errors import DocumentError
from testbed.network import Host
from testbed.site import Controller, Tag
from testbed.units import from_si

SYSTEM = 0xF000
MODE, ACTIVATE, SIGNATURE = SYSTEM, SYSTEM + 1, SYSTEM + 2
SIGNATURE_REGISTERS = 16
PROGRAM_FILE = 1
#: exception codes of Modbus Application Protocol V1.1b3, 7
ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE, DEVICE_FAILURE, DEVICE_BUSY = 1, 2, 3, 4, 6


#: What a value from the wire becomes in the program's memory; every other type is a whole number.
_AS_TYPE: dict[str, Callable[[float], float]] = {"BOOL": bool, "REAL": float, "LREAL": float, "TIME": float}


class Mode(IntEnum):
    """What the logic engine does."""

    PROGRAM = 0
    RUN = 1
    FAULT = 2


@dataclass(slots=True)
class PlcSeams:
    """What controls may fill in; lists are asked in order and the first refusal decides."""

    admit: list[Callable[[Peer], bool]] = field(default_factory=list)
    #: exception code to answer with, or None to allow
    authorize: list[Callable[[Peer, Access], int | None]] = field(default_factory=list)
    validate: list[Callable[[Access], int | None]] = field(default_factory=list)
    #: reason to refuse a downloaded program, or None
    accept_program: list[Callable[[Peer | None, str, bytes], str | None]] = field(default_factory=list)
    #: the key switch: only "remote" lets the network change mode or program
    key_switch: str = "remote"
    #: outputs when the logic stops: None holds the last ones
    safe_outputs: Mapping[str, float] | None = None
    #: requests served per scan; None serves all at once, at the scan's expense
    requests_per_scan: int | None = None
    #: serve waiting peers in turn instead of in order of arrival
    fair: bool = False
    max_connections: int | None = None
    #: publish a checksum behind the input registers
    publish_checksum: bool = False
    tls: ssl.SSLContext | None = None
    port: int = 502


@dataclass(frozen=True, slots=True)
class PlcTimes:
    """Figures of the processor (s): processing of one request, watchdog of the scan."""

    request_cost: float
    watchdog: float


@dataclass(frozen=True, slots=True)
class PeerTags:
    """What a PLC reads from one peer: tags, period (s), and where the peer publishes its checksum."""

    tags: Mapping[str, Tag]
    every: float
    checksum_at: int | None


class Plc:
    """One controller on ``host``, connected to the plant through ``wiring``.

    ``connect`` makes a Modbus client to another PLC by name, for the tags this one takes from its peers.
    """

    def __init__(
        self,
        host: Host,
        name: str,
        asset: Controller,
        program: Program,
        wiring: Wiring,
        times: PlcTimes,
        connect: Callable[[str], ModbusClient],
        peers: Mapping[str, PeerTags],
        phase: float = 0.0,
    ) -> None:
        self.host, self.name, self.asset = host, name, asset
        self.loop = host.network.loop
        self.seams = PlcSeams(port=asset.port)
        self.audit = Audit(name)
        self.times = times
        self.wiring = wiring
        self.mode = Mode.RUN
        self.bank = RegisterBank()
        self.files = MemoryFiles({PROGRAM_FILE: FILE_RECORDS})
        self._identity = DeviceIdentity(
            asset.identity.vendor,
            asset.identity.product,
            asset.identity.revision,
            product_name=asset.identity.product,
        )
        self._connect = connect
        self._peers_read = peers
        self.verify_checksums = False
        self._phase = phase
        self.scan_time = asset.scan
        self.last_scan = 0.0
        self.scans = 0
        self.late_scans = 0
        self.downloads = 0
        self.peer_good: dict[str, bool] = dict.fromkeys(peers, True)
        self.on_mode: list[Callable[[Mode], None]] = []
        self._busy_until = 0.0
        self._scan_due = 0.0
        self._served = 0
        self._waiting: deque[tuple[Peer, ModbusPDU, Callable[[ModbusPDU], None]]] = deque()
        self._peers: dict[tuple[str, int], Peer] = {}
        self._touched = True
        self._server: asyncio.AbstractServer | None = None
        self._load(program)
        self._wire()
        self.pollers: dict[str, TagPoller] = {}

    # -- memory and wiring -------------------------------------------------------------------------------------

    def _load(self, program: Program) -> None:
        self.program = program
        self.instance: ProgramInstance = program.instantiate()
        #: tag or variable in any spelling -> the program's spelling
        self._names = {variable.upper(): variable for variable in program.variables}
        self._names |= {
            tag: self._names[tag.upper()] for tag in self.asset.tags if tag.upper() in self._names
        }

    def _wire(self) -> None:
        bank, tags = self.bank, self.asset.tags
        #: name, variable's address, reader (SI), and counts = reading * gain + zero
        self._inputs: list[tuple[str, int, Callable[[], float], float, float, float]] = []
        self._wide_inputs: list[tuple[str, Tag, Callable[[], float]]] = []
        self._switches: list[tuple[str, int, Callable[[], float]]] = []
        self._outputs: list[tuple[str, Tag, str | None]] = []
        self._settings: list[tuple[str, Tag]] = []
        #: address of the checksum behind the input registers, None without any
        self.checksum_at = checksum_address(tags.values())
        inputs = self.checksum_at or 0
        self._image = [0] * (inputs + 1)
        if inputs:
            bank.define(Table.INPUT, 0, inputs + 1, writable=False)
        for name, tag in tags.items():
            table = Table(tag.table)
            if table is not Table.INPUT:
                bank.define(table, tag.address, tag.words, tag.encode(tag.initial), writable=tag.writable)
            if tag.signal is None:
                if tag.writable:
                    self._settings.append((name, tag))
                else:
                    self._outputs.append((name, tag, tag.command))
            elif table is Table.DISCRETE:
                self._switches.append((name, tag.address, self.wiring.reader(tag.signal)))
            elif tag.format == "uint16":
                zero = from_si(0.0, tag.unit)
                gain = from_si(1.0, tag.unit) - zero
                read = self.wiring.reader(tag.signal)
                self._inputs.append(
                    (name, tag.address, read, gain / tag.scale, zero / tag.scale + 0.5, tag.scale)
                )
            else:
                self._wide_inputs.append((name, tag, self.wiring.reader(tag.signal)))
        self._sent: dict[str, float] = {}
        bank.define(Table.INPUT, SYSTEM, 7, writable=False)
        bank.define(Table.HOLDING, SYSTEM, 2 + SIGNATURE_REGISTERS, [1, *[0] * (1 + SIGNATURE_REGISTERS)])
        bank.write(Table.INPUT, SYSTEM, (int(self.mode),))
        self._store_source()

    def _store_source(self) -> None:
        source = self.program.source.encode()
        self._write_file(source)
        digest = bytes.fromhex(self.program.digest)
        words = [int.from_bytes(digest[i : i + 2], "big") for i in (0, 2)]
        self.bank.write(Table.INPUT, SYSTEM + 3, [*words, len(source) & 0xFFFF, self.downloads & 0xFFFF])

    def _write_file(self, source: bytes) -> None:
        padded = source + b"\0" * (len(source) % 2)
        records = [int.from_bytes(padded[i : i + 2], "big") for i in range(0, len(padded), 2)]
        self.files.write(PROGRAM_FILE, 0, records)

    def value(self, tag: str) -> float:
        """The tag's present value as the wire would give it, engineering units."""
        description = self.asset.tags[tag]
        return description.decode(
            self.bank.read(Table(description.table), description.address, description.words)
        )

    def unbound(self, program: Program) -> list[str]:
        """Tags wired to the plant that ``program`` has no variable for."""
        known = {variable.upper() for variable in program.variables}
        wired = [name for name, tag in self.asset.tags.items() if tag.signal is not None or not tag.writable]
        return [name for name in wired if name.upper() not in known]

    # -- running -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to scan and to serve."""
        self._scan_due = self._phase
        self.last_scan = self._phase
        if self.checksum_at is not None and self.seams.publish_checksum:
            self._image[-1] = checksum(self._image[:-1])
            self.bank.write(Table.INPUT, 0, self._image)
        self.loop.wake(self._phase, self._scan)
        self.host.spawn(self._serve(), "modbus server")
        for peer, wanted in self._peers_read.items():
            self.host.spawn(self._follow(peer, wanted), f"tags of {peer}")

    async def _serve(self) -> None:
        self._server = await self.loop.create_server(
            server_protocol(self), None, self.seams.port, ssl=self.seams.tls
        )

    async def _follow(self, peer: str, wanted: PeerTags) -> None:
        tags, every = wanted.tags, wanted.every
        poller = TagPoller(
            self._connect(peer), tags, checksum_at=wanted.checksum_at, verify=self.verify_checksums
        )
        self.pollers[peer] = poller
        # A PLC's own reads follow its scan, so two PLCs never ask in step for long.
        due = self.loop.time() + self._phase
        await asyncio.sleep(self._phase)
        while True:
            try:
                values = await poller.poll()
            except (TimeoutError, ConnectionError):
                values = None
            memory = self.instance.memory
            good = values is not None
            for tag in tags:
                if values is not None:
                    self._put(memory, tag, values[tag])
                self._put(memory, f"{tag}_OK", good)
            if good is not self.peer_good[peer]:
                self.peer_good[peer] = good
                self.audit("peer.good" if good else "peer.bad", peer=peer)
            due = max(due + every, self.loop.time())
            await asyncio.sleep(due - self.loop.time())

    def _put(self, memory: dict[str, Any], name: str, value: float) -> None:
        declared = self._names.get(name.upper())
        if declared is not None:
            memory[declared] = _AS_TYPE.get(self.program.variables[declared].type, int)(value)

    def _scan(self, _: object) -> None:
        loop = self.loop
        now = loop.env.now
        if not self.host.up:
            return
        gap = now - self.last_scan
        self.last_scan = now
        self.scans += 1
        if gap > self.scan_time * 1.5:
            self.late_scans += 1
        image = self._image
        memory = self.instance.memory
        names = self._names
        for name, address, read, gain, zero, scale in self._inputs:
            count = int(read() * gain + zero)
            count = 0 if count < 0 else 65_535 if count > 65_535 else count
            image[address] = count
            memory[names[name]] = count * scale
        for name, tag, read in self._wide_inputs:
            words = tag.encode(from_si(read(), tag.unit))
            image[tag.address : tag.address + tag.words] = words
            memory[names[name]] = tag.decode(words)
        if self.checksum_at is not None:
            if self.seams.publish_checksum:
                image[-1] = checksum(image[:-1])
            self.bank.write(Table.INPUT, 0, image)
        for name, address, read in self._switches:
            state = read() > 0.5
            if memory[names[name]] is not state:
                memory[names[name]] = state
                self.bank.write(Table.DISCRETE, address, (int(state),))
        if self.mode is Mode.RUN:
            if gap > self.times.watchdog:
                self._fault("watchdog", f"{gap:.2f} s between scans")
            else:
                self._execute(memory, now)
        self._served = 0
        if self._waiting:
            self._serve_waiting()
        self._scan_due += self.scan_time
        if self._scan_due < now:  # overrun: skip what was missed, keep the phase
            missed = int((now - self._scan_due) / self.scan_time) + 1
            self._scan_due += missed * self.scan_time
        # The processor is busy with requests until then; the scan waits for it.
        loop.wake(self._scan_due if self._busy_until <= self._scan_due else self._busy_until, self._scan)

    def _execute(self, memory: dict[str, Any], now: float) -> None:
        if self._touched:
            self._take_settings(memory)
        try:
            self.instance.scan(now)
        except LogicFault as fault:
            self._fault("logic", str(fault))
            return
        sent, names = self._sent, self._names
        for name, tag, command in self._outputs:
            value = memory[names[name]]
            if sent.get(name) != value:
                sent[name] = value
                self._show(tag, float(value))
                if command is not None:
                    self.wiring.command(command, float(value))

    def _show(self, tag: Tag, value: float) -> None:
        words = tag.encode(value)
        if Table(tag.table) is Table.INPUT:
            self._image[tag.address : tag.address + tag.words] = words
        else:
            self.bank.write(Table(tag.table), tag.address, words)

    def _take_settings(self, memory: dict[str, Any]) -> None:
        self._touched = False
        for name, tag in self._settings:
            self._put(memory, name, tag.decode(self.bank.read(Table(tag.table), tag.address, tag.words)))

    def _fault(self, kind: str, reason: str) -> None:
        self.audit("plc.fault", fault=kind, reason=reason)
        self._change_mode(Mode.FAULT)

    def _change_mode(self, mode: Mode) -> None:
        if mode is self.mode:
            return
        self.mode = mode
        self.bank.write(Table.INPUT, SYSTEM, (int(mode),))
        if mode is Mode.RUN:
            self.last_scan = self.loop.env.now
            self._touched = True
            self._sent.clear()
        elif self.seams.safe_outputs is not None:
            for name, tag, command in self._outputs:
                if name in self.seams.safe_outputs:
                    value = self.seams.safe_outputs[name]
                    self._sent.pop(name, None)
                    self._show(tag, value)
                    if command is not None:
                        self.wiring.command(command, value)
        self.audit("plc.mode", mode=mode.name.lower())
        for told in self.on_mode:
            told(mode)

    # -- the Modbus side ---------------------------------------------------------------------------------------

    @property
    def identity(self) -> DeviceIdentity:
        return self._identity

    @property
    def unit_ids(self) -> frozenset[int] | None:
        return None

    def admit(self, peer: Peer) -> bool:
        """Decide about a new connection."""
        limit = self.seams.max_connections
        if limit is not None and len(self._peers) >= limit:
            self.audit("connection.refused", peer=peer.address, reason="too many connections")
            return False
        for check in self.seams.admit:
            if not check(peer):
                self.audit("connection.refused", peer=peer.address, reason="not admitted")
                return False
        self._peers[(peer.address, peer.port)] = peer
        return True

    def departed(self, peer: Peer) -> None:
        self._peers.pop((peer.address, peer.port), None)

    def malformed(self, peer: Peer, data: bytes, reason: str) -> None:
        self.audit("modbus.malformed", peer=peer.address, reason=reason)

    def submit(self, peer: Peer, request: ModbusPDU, reply: Callable[[ModbusPDU], None]) -> None:
        """Serve now, or when the processor gets to it."""
        budget = self.seams.requests_per_scan
        now = self.loop.env.now
        cost = self.times.request_cost
        if budget is None:
            if self._busy_until <= now:
                self._busy_until = now + cost
                reply(self._answer(peer, request))
            elif self._busy_until - now < self.times.watchdog * 2:
                self._busy_until += cost
                self.loop.wake(self._busy_until, self._answer_late, (peer, request, reply))
            # else: the receive buffer is full and the request is lost
        elif self._served < budget and not self._waiting:
            self._served += 1
            reply(self._answer(peer, request))
        elif len(self._waiting) < 4 * budget:
            self._waiting.append((peer, request, reply))

    def _answer_late(self, late: tuple[Peer, ModbusPDU, Callable[[ModbusPDU], None]]) -> None:
        peer, request, reply = late
        if self.host.up and (peer.address, peer.port) in self._peers:
            reply(self._answer(peer, request))

    def _serve_waiting(self) -> None:
        budget = self.seams.requests_per_scan or len(self._waiting)
        if self.seams.fair:
            self._take_turns()
        while self._waiting and self._served < budget:
            self._served += 1
            self._answer_late(self._waiting.popleft())

    def _take_turns(self) -> None:
        """Order the waiting requests so that each peer address gets its share before any gets a second."""
        turn: dict[str, int] = {}
        ranked = []
        for place, entry in enumerate(self._waiting):
            address = entry[0].address
            turn[address] = turn.get(address, -1) + 1
            ranked.append((turn[address], place, entry))
        ranked.sort(key=lambda item: item[:2])
        self._waiting = deque(entry for _, _, entry in ranked)

    def _answer(self, peer: Peer, request: ModbusPDU) -> ModbusPDU:
        if request.function_code in (3, 4, 1, 2) and not self.seams.authorize:
            return execute(self.bank, self._identity, self.files, request)
        access = describe(request, self.bank)
        writes = access.kind == "write" or access.function == 21
        for authorize in self.seams.authorize:
            code = authorize(peer, access)
            if code is not None:
                self.audit(
                    "access.denied", peer=peer.address, function=access.function, address=access.address
                )
                return exception(request, code)
        if writes:
            for validate in self.seams.validate:
                code = validate(access)
                if code is not None:
                    self.audit(
                        "value.refused",
                        peer=peer.address,
                        address=access.address,
                        values=list(access.values[:8]),
                    )
                    return exception(request, code)
            if access.function == 21 and self.mode is Mode.RUN:
                return exception(request, DEVICE_BUSY)  # a program is loaded while the logic stands still
        answer = execute(self.bank, self._identity, self.files, request)
        if writes and answer.function_code < 0x80:
            self._touched = True
            self._wrote(peer, access)
        return answer

    def _wrote(self, peer: Peer, access: Access) -> None:
        if (
            access.table is Table.HOLDING
            and access.address < SYSTEM + 2
            and access.address + access.count > SYSTEM
        ):
            for offset, value in enumerate(access.values):
                self._command(peer, access.address + offset, value)
        else:
            self.audit(
                "write",
                peer=peer.address,
                function=access.function,
                table=access.table.value if access.table else "file",
                address=access.address,
                values=list(access.values[:8]),
            )

    def _command(self, peer: Peer, address: int, value: int) -> None:
        if self.seams.key_switch != "remote":
            self.audit("mode.refused", peer=peer.address, key_switch=self.seams.key_switch)
        elif address == MODE and value in (Mode.PROGRAM, Mode.RUN):
            self.audit("mode.request", peer=peer.address, mode=Mode(value).name.lower())
            self._change_mode(Mode(value))
        elif address == ACTIVATE and value:
            self._activate(peer, value)

    def _activate(self, peer: Peer, length: int) -> None:
        if self.mode is Mode.RUN:
            self.audit("program.refused", peer=peer.address, reason="the controller is running")
            return
        records = self.files.read(PROGRAM_FILE, 0, min((length + 1) // 2, FILE_RECORDS))
        raw = b"".join(record.to_bytes(2, "big") for record in records)[:length]
        signature = b"".join(
            word.to_bytes(2, "big") for word in self.bank.read(Table.HOLDING, SIGNATURE, SIGNATURE_REGISTERS)
        )
        text = raw.decode("utf-8", "replace")
        for check in self.seams.accept_program:
            reason = check(peer, text, signature)
            if reason is not None:
                self._refuse_program(peer, reason)
                return
        try:
            program = compile_program(text, f"{self.name} (downloaded)")
        except DocumentError as error:
            self._refuse_program(peer, str(error.problems[0]))
            return
        missing = [
            name for name in self.asset.tags if name.upper() not in {v.upper() for v in program.variables}
        ]
        wired = {name for name, *_ in self._inputs} | {name for name, *_ in self._switches}
        wired |= {name for name, *_ in self._outputs}
        if any(name in wired for name in missing):
            self._refuse_program(peer, f"the program lacks {', '.join(n for n in missing if n in wired)}")
            return
        self.downloads += 1
        self._load(program)
        self._store_source()
        self._touched = True
        self._sent.clear()
        self.audit("program.loaded", peer=peer.address, digest=program.digest[:16])

    def _refuse_program(self, peer: Peer, reason: str) -> None:
        self._store_source()
        self.audit("program.refused", peer=peer.address, reason=reason)
