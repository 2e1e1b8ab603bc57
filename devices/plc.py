"""A programmable logic controller: a scan cycle over an input and output image, and a Modbus server beside it.

Everything a security control may want to decide is a seam of ``PlcSeams`` whose default is what a factory-new
controller does: it trusts whoever reaches its port. Nothing here knows which controls exist.

Communication and logic share one processor. While ``requests_per_scan`` is unbounded, requests and scans are taken
first come, first served, and the processing time of a request is taken from the scan: so old controllers stop
controlling under a flood.

A tag and the program's variable of its name are one memory: what the program assigns to a writable tag is read from
the wire afterwards, and what the wire writes is there at the next scan.

System registers, beyond the tags of a site (all 16 bit):

    input    0xF000 mode (0 program, 1 run, 2 fault), 0xF001 time between the last two scans (ms), 0xF002 scans late,
             0xF003-4 first four bytes of the program's SHA-256, 0xF005 program length (bytes), 0xF006 downloads
    holding  0xF000 mode request (0 program, 1 run), 0xF001 activate the downloaded program of so many bytes,
             0xF002-0xF011 signature of the download (32 bytes), zero if none
    file 1   the program's source, two bytes a record (function codes 20 and 21); in run mode always of what runs
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from operator import itemgetter
from typing import Any, Final, TypeAlias

from devices.audit import Audit
from devices.logic import LogicFault, Program, ProgramInstance, compile_program
from devices.modbus import DEVICE_BUSY as DEVICE_BUSY
from devices.modbus import DEVICE_FAILURE as DEVICE_FAILURE
from devices.modbus import ILLEGAL_ADDRESS as ILLEGAL_ADDRESS
from devices.modbus import ILLEGAL_FUNCTION as ILLEGAL_FUNCTION
from devices.modbus import ILLEGAL_VALUE as ILLEGAL_VALUE
from devices.modbus import (
    Access,
    DeviceIdentity,
    ModbusClient,
    ModbusPDU,
    Peer,
    UnknownRequest,
    describe,
    exception,
    execute,
    server_protocol,
)
from devices.poller import TagPoller, checksum, checksum_address, unused
from devices.registers import FILE_RECORDS, MemoryFiles, RegisterBank, Table
from devices.wiring import TRIP, Wiring
from testbed.errors import DocumentError, UnknownNameError
from testbed.network import Host, Server
from testbed.site import Controller, Tag
from testbed.units import from_si, to_si

SYSTEM = 0xF000
MODE, ACTIVATE, SIGNATURE = SYSTEM, SYSTEM + 1, SYSTEM + 2
SIGNATURE_REGISTERS = 16
PROGRAM_FILE = 1
#: Requests that wait for later scans, in scans' worth, before more are lost as in a full receive buffer (assumption).
BACKLOG = 4
#: A request waits at most so many watchdog times for the processor before it is lost (assumption).
LONGEST_WAIT = 2.0
#: Why a program is not taken, whoever brings it.
RUNNING = "the controller is running"
_READS = frozenset({1, 2, 3, 4})
_WRITE_FILE = 21
_DIAGNOSTICS = 8
#: Sub-functions of the diagnostics that change what the device does.
_RESTART_COMMUNICATIONS, _FORCE_LISTEN_ONLY = b"\x00\x01", b"\x00\x04"


class Mode(IntEnum):
    """What the logic engine does."""

    PROGRAM = 0
    RUN = 1
    FAULT = 2


# A scan reads these many times a second; looking a member up in its Enum costs more than the rest of a comparison.
_RUN: Final = Mode.RUN
_INPUT: Final = Table.INPUT
_DISCRETE: Final = Table.DISCRETE

_MAINTENANCE = {"run": Mode.RUN, "stop": Mode.PROGRAM}
_FLOATS = frozenset({"REAL", "LREAL", "TIME"})

_Reader: TypeAlias = Callable[[], float]
_Waiting: TypeAlias = tuple[Peer, ModbusPDU, Callable[[ModbusPDU], None]]


@dataclass(slots=True)
class PlcSeams:
    """What controls may fill in; lists are asked in order and the first refusal decides."""

    admit: list[Callable[[Peer], bool]] = field(default_factory=list)
    #: exception code to answer with, or None to allow
    authorize: list[Callable[[Peer, Access], int | None]] = field(default_factory=list)
    validate: list[Callable[[Access], int | None]] = field(default_factory=list)
    #: reason to refuse a downloaded program, or None
    accept_program: list[Callable[[Peer | None, str, bytes], str | None]] = field(default_factory=list)
    #: the key switch: in any position but "remote" the network can change neither mode nor program
    key_switch: str = "remote"
    #: outputs when the logic stops: None holds the last ones
    safe_outputs: Mapping[str, float] | None = None
    #: requests served per scan; None serves all at once, at the scan's expense
    requests_per_scan: int | None = None
    #: serve waiting peers in turn instead of in order of arrival
    fair: bool = False
    max_connections: int | None = None
    #: share of the processor that TLS handshakes may take, and how many at once; None: whatever they ask for
    handshake_share: float | None = None
    handshake_burst: float = 1.0
    #: publish a checksum behind the input registers
    publish_checksum: bool = False
    tls: ssl.SSLContext | None = None
    port: int = 502


@dataclass(frozen=True, slots=True)
class PlcTimes:
    """Figures of the processor (s).

    ``request_cost`` is the processing of one request, ``watchdog`` the longest time between two scans, and
    ``peer_stale_after`` how long a peer's last values stay good without an answer.
    """

    request_cost: float
    watchdog: float
    peer_stale_after: float = (
        3.0  # figure plc.peer_stale_after: three missed reads at the usual 1 s; assumption
    )
    #: processing of one TLS handshake
    handshake_cost: float = 0.0


@dataclass(frozen=True, slots=True)
class PeerTags:
    """What a PLC reads from one peer: tags, period (s), and where the peer publishes its checksum."""

    tags: Mapping[str, Tag]
    every: float
    checksum_at: int | None


class _Dropped(asyncio.Protocol):
    """A connection that nobody has time for."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


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
        #: PLCs that publish a checksum, which is then checked
        self.verify_checksums: frozenset[str] = frozenset()
        self._phase = phase
        self.scan_time = asset.scan
        self.last_scan = 0.0
        self.scans = 0
        self.late_scans = 0
        self.downloads = 0
        self.peer_good: dict[str, bool] = dict.fromkeys(peers, True)
        self.on_mode: list[Callable[[Mode], object]] = []
        #: whether diagnostics have silenced the Modbus side ([AP] 6.8.4, force listen only mode)
        self.listen_only = False
        self.pollers: dict[str, TagPoller] = {}
        self._starts = 0
        self._busy_until = 0.0
        #: handshakes in hand under ``handshake_share``, and when that was counted
        self._handshakes = (math.inf, 0.0)
        self._scan_due = 0.0
        self._scan_in_line = False
        self._shown_times = (0, 0)
        self._served = 0
        #: requests that wait for their scan: one line for all, or under ``fair`` one for each address
        self._waiting: dict[str, deque[_Waiting]] = {}
        self._peers: dict[tuple[str, int], Peer] = {}
        self._touched = True
        self._staged = False
        self._server: asyncio.AbstractServer | None = None
        self._wire()
        self._load(program)
        self._store_source()

    # -- memory and wiring -------------------------------------------------------------------------------------

    def _wire(self) -> None:
        """Lay out the registers, and sort the tags by what a scan does with them."""
        bank, tags = self.bank, self.asset.tags
        self._readers: list[tuple[str, Tag, _Reader]] = []
        self._driven: list[str] = []
        self._settable: list[str] = []
        #: address of the checksum behind the input registers, None without any
        self.checksum_at = checksum_address(tags.values())
        self._image = [0] * ((self.checksum_at or 0) + 1)
        if self.checksum_at is not None:
            bank.define(Table.INPUT, 0, len(self._image), writable=False)
        for name, tag in tags.items():
            table = Table(tag.table)
            if table is not Table.INPUT:
                bank.define(table, tag.address, tag.words, tag.encode(tag.initial), writable=tag.writable)
            if tag.signal is not None:
                self._readers.append((name, tag, self.wiring.reader(tag.signal)))
                continue
            if tag.writable:
                self._settable.append(name)
            if not tag.writable or tag.command is not None:
                self._driven.append(name)
        for table, start, count in unused(tags.values()):
            bank.define(table, start, count, writable=False)
        bank.define(Table.INPUT, SYSTEM, 7, writable=False)
        bank.define(Table.HOLDING, SYSTEM, 2 + SIGNATURE_REGISTERS, [1, *[0] * (1 + SIGNATURE_REGISTERS)])
        bank.write(Table.INPUT, SYSTEM, (int(self.mode),))

    def _load(self, program: Program) -> None:
        """Take ``program`` and tie its variables to the tags of the same name, in any spelling."""
        self.program = program
        self.instance: ProgramInstance = program.instantiate()
        self._names = names = {variable.upper(): variable for variable in self.instance.memory}
        #: variable, address, reader (SI), and counts = reading * gain + zero: the usual analog input
        self._inputs: list[tuple[str, int, _Reader, float, float, float]] = []
        #: variable, address, reader, state shown last
        self._switches: list[tuple[str, int, _Reader, list[bool | None]]] = []
        self._other_inputs: list[tuple[str, Tag, _Reader]] = []
        for name, tag, read in self._readers:
            variable = names.get(name.upper())
            if variable is None:
                continue
            kind = program.variables[variable].type
            if tag.table == "input" and tag.format == "uint16" and kind in ("REAL", "LREAL"):
                zero = from_si(0.0, tag.unit)
                gain = from_si(1.0, tag.unit) - zero
                self._inputs.append(
                    (variable, tag.address, read, gain / tag.scale, zero / tag.scale + 0.5, tag.scale)
                )
            elif tag.table == "discrete" and kind == "BOOL":
                self._switches.append((variable, tag.address, read, [None]))
            else:
                self._other_inputs.append((variable, tag, read))
        outputs, settings = (
            [(names[name.upper()], self.asset.tags[name]) for name in wanted if name.upper() in names]
            for wanted in (self._driven, self._settable)
        )
        self._outputs, self._settings = outputs, settings
        self._read_outputs = _values_of([variable for variable, _ in outputs])
        self._read_settings = _values_of([variable for variable, _ in settings])
        #: values of the outputs as driven last, None before any
        self._sent: tuple[Any, ...] | None = None
        #: values of the settings when wire and program last agreed, and the words that the wire shows for each
        self._agreed: tuple[Any, ...] = ()
        self._words: dict[str, list[int]] = {}
        self._touched = True

    def _store_source(self) -> None:
        source = self.program.source.encode()
        padded = source + b"\0" * (len(source) % 2)
        records = [int.from_bytes(padded[i : i + 2], "big") for i in range(0, len(padded), 2)]
        self.files.write(PROGRAM_FILE, 0, records)
        digest = bytes.fromhex(self.program.digest)
        words = [int.from_bytes(digest[i : i + 2], "big") for i in (0, 2)]
        self.bank.write(Table.INPUT, SYSTEM + 3, [*words, len(source) & 0xFFFF, self.downloads & 0xFFFF])
        self._staged = False

    def value(self, tag: str) -> float:
        """The tag's present value as the wire would give it, engineering units."""
        description = self.asset.tags[tag]
        return description.decode(
            self.bank.read(Table(description.table), description.address, description.words)
        )

    def unbound(self, program: Program) -> list[str]:
        """Tags wired to the plant that ``program`` has no variable for; an array or a block is none."""
        known = {variable.upper() for variable in program.instantiate().memory}
        wired = [name for name, tag in self.asset.tags.items() if tag.signal is not None or not tag.writable]
        return [name for name in wired if name.upper() not in known]

    # -- running -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to scan and to serve; again after the host has lost and regained power."""
        self._starts += 1
        self._peers.clear()
        self._waiting.clear()
        self._busy_until = self.loop.env.now
        self._scan_due = self.last_scan = self.loop.env.now + self._phase
        self._scan_in_line = False
        self.listen_only = False
        if self.checksum_at is not None and self.seams.publish_checksum:
            self._image[-1] = checksum(self._image[:-1])
            self.bank.write(Table.INPUT, 0, self._image)
        self.loop.wake(self._scan_due, self._scan, self._starts)
        self.host.spawn(self._serve(), "modbus server")
        for peer, wanted in self._peers_read.items():
            self.host.spawn(self._follow(peer, wanted), f"tags of {peer}")

    def lose_power(self) -> None:
        """The host goes dark and outputs fall to their de-energized state, which of a trip relay is its trip."""
        self.host.power_off()
        self._sent = None
        for name in self._driven:
            command = self.asset.tags[name].command
            if command is not None:
                self.wiring.command(command, float(command.startswith(TRIP)))

    def regain_power(self) -> None:
        """Come back as after any power cycle: program and settings are kept, sessions are not."""
        self.host.power_on()
        self.start()

    def maintain(self, command: str) -> None:
        """A maintenance command that does not come over Modbus: "run" or "stop"; others do nothing."""
        if command in _MAINTENANCE:
            self._change_mode(_MAINTENANCE[command])

    def misfit(self, source: str) -> str | None:
        """Why this controller would not take ``source``, were nobody to ask for more; None if it would."""
        try:
            missing = self.unbound(compile_program(source, f"{self.name} (tried)"))
        except DocumentError as error:
            return str(error.problems[0])
        return f"the program lacks {', '.join(missing)}" if missing else None

    def factory_reset(self) -> PlcSeams:
        """Set back what protects the controller, as it was shipped; returns what was in force until now.

        How it is found on the network stays (port, TLS, checksum), since without that nobody could go on.
        """
        lost = self.seams
        self.seams = PlcSeams(publish_checksum=lost.publish_checksum, tls=lost.tls, port=lost.port)
        return lost

    async def _serve(self) -> None:
        server = await self.loop.create_server(
            server_protocol(self), None, self.seams.port, ssl=self.seams.tls
        )
        if isinstance(server, Server) and server.wrap is not None:
            server.wrap = self._metered(server.wrap)
        self._server = server

    def _metered(
        self, wrap: Callable[[asyncio.BaseProtocol], asyncio.BaseProtocol]
    ) -> Callable[[asyncio.BaseProtocol], asyncio.BaseProtocol]:
        """Charge the processor for the handshake of each connection, and drop what it has no time for."""

        def metered(protocol: asyncio.BaseProtocol) -> asyncio.BaseProtocol:
            return wrap(protocol) if self._spare_handshake() else _Dropped()

        return metered

    def _spare_handshake(self) -> bool:
        now, cost, share = self.loop.env.now, self.times.handshake_cost, self.seams.handshake_share
        if share is not None and cost > 0:
            left, since = self._handshakes
            left = min(self.seams.handshake_burst, left + (now - since) * share / cost)
            self._handshakes = (left, now)
            if left < 1.0:
                self.audit("handshake.dropped", reason="no time left")
                return False
            self._handshakes = (left - 1.0, now)
        elif self._busy_until - now >= self.times.watchdog * LONGEST_WAIT:
            return False
        self._busy_until = max(self._busy_until, now) + cost
        return True

    async def _follow(self, peer: str, wanted: PeerTags) -> None:
        tags, every = wanted.tags, wanted.every
        poller = TagPoller(
            self._connect(peer), tags, checksum_at=wanted.checksum_at, verify=peer in self.verify_checksums
        )
        self.pollers[peer] = poller
        # A PLC's own reads follow its scan, so two PLCs never ask in step for long.
        due = self.loop.time() + self._phase
        await asyncio.sleep(self._phase)
        answered = -math.inf
        while True:
            try:
                values = await poller.poll()
            except (TimeoutError, ConnectionError):
                values = None
            if values is not None:
                answered = self.loop.time()
                for tag, value in values.items():
                    self._put(tag, value)
            good = self.loop.time() - answered < self.times.peer_stale_after
            for tag in tags:
                self._put(f"{tag}_OK", good)
            if good is not self.peer_good[peer]:
                self.peer_good[peer] = good
                self.audit("peer.good" if good else "peer.bad", peer=peer)
            due = max(due + every, self.loop.time())
            await self.loop.until(due)

    def _put(self, name: str, value: float) -> None:
        """Give a variable a value from outside; what its type cannot hold (a NaN for a whole number) it never gets."""
        variable = self._names.get(name.upper())
        if variable is not None and (
            math.isfinite(value) or self.program.variables[variable].type in _FLOATS
        ):
            self.instance.write(variable, value)

    def _scan(self, start: int) -> None:
        if start != self._starts or not self.host.up:
            return
        loop = self.loop
        now = loop.env.now
        if self._busy_until > now and not self._scan_in_line:
            # The processor has requests to serve; the scan comes behind those that were there before it, and the
            # watchdog waits for nobody.
            self._scan_in_line = True
            loop.wake(min(self._busy_until, self.last_scan + self.times.watchdog), self._scan, start)
            return
        self._scan_in_line = False
        gap = now - self.last_scan
        self.last_scan = now
        self.scans += 1
        if gap > self.scan_time * 1.5:
            self.late_scans += 1
        image = self._image
        memory = self.instance.memory
        for variable, address, read, gain, zero, scale in self._inputs:
            count = int(read() * gain + zero)
            count = 0 if count < 0 else 65_535 if count > 65_535 else count
            image[address] = count
            memory[variable] = count * scale
        for variable, address, read, shown in self._switches:
            memory[variable] = state = read() > 0.5
            if state is not shown[0]:
                shown[0] = state
                self.bank.write(_DISCRETE, address, (int(state),))
        if self._other_inputs:
            self._read_others()
        if self.mode is _RUN:
            # Nanoseconds: two instants that are a watchdog apart may differ by a rounding less.
            if gap > self.times.watchdog - 1e-9:
                self._fault("watchdog", f"{gap:.2f} s between scans")
            else:
                self._execute(memory, now)
        if self.checksum_at is not None:
            if self.seams.publish_checksum:
                image[-1] = checksum(image[:-1])
            self.bank.write(_INPUT, 0, image)
        times = (int(gap * 1000 + 0.5), self.late_scans)
        if times != self._shown_times:
            self._shown_times = times
            self.bank.write(_INPUT, SYSTEM + 1, (min(times[0], 0xFFFF), times[1] & 0xFFFF))
        self._served = 0
        if self._waiting:
            self._serve_waiting()
        due = self._scan_due + self.scan_time
        if due < now:  # overrun: skip what was missed, keep the phase
            due += (int((now - due) / self.scan_time) + 1) * self.scan_time
        self._scan_due = due
        loop.wake(due, self._scan, start)

    def _read_others(self) -> None:
        for variable, tag, read in self._other_inputs:
            words = tag.encode(from_si(read(), tag.unit))
            self._show(tag, words)
            self.instance.write(variable, tag.decode(words))

    def _execute(self, memory: dict[str, Any], now: float) -> None:
        if self._touched:
            self._take_settings(memory)
        try:
            self.instance.scan(now)
            values = self._read_outputs(memory)
            if values != self._sent:
                self._drive(values)
            if self._read_settings(memory) != self._agreed:
                self._return_settings(memory)
        except LogicFault as fault:
            self._fault("logic", str(fault))

    def _drive(self, values: tuple[Any, ...]) -> None:
        sent, self._sent = self._sent, values
        for index, (variable, tag) in enumerate(self._outputs):
            value = values[index]
            if sent is None or sent[index] != value:
                self._show(tag, self._words_for(variable, tag, value))
                if tag.command is not None:
                    self.wiring.command(tag.command, to_si(float(value), tag.unit))

    def _take_settings(self, memory: dict[str, Any]) -> None:
        """Take over what the wire has written since the last scan."""
        self._touched = False
        for variable, tag in self._settings:
            words = self.bank.read(Table(tag.table), tag.address, tag.words)
            if words != self._words.get(variable):
                self._words[variable] = words
                self._put(variable, tag.decode(words))
        self._agreed = self._read_settings(memory)

    def set_at_panel(self, tag: str, value: float) -> None:
        """Set a tag (engineering units) where the machine stands, past the network and whatever guards it.

        Raises UnknownNameError for what is no setting of this PLC.
        """
        found = next((one for one in self._settings if one[0].upper() == tag.upper()), None)
        if found is None:
            raise UnknownNameError("setting", tag, [variable for variable, _ in self._settings])
        described = found[1]
        self.bank.write(Table(described.table), described.address, described.encode(value))
        self._touched = True

    def _return_settings(self, memory: dict[str, Any]) -> None:
        """Show the wire what the program has made of its settings."""
        values = self._read_settings(memory)
        for (variable, tag), value, before in zip(self._settings, values, self._agreed, strict=True):
            if value != before:
                self._words[variable] = words = self._words_for(variable, tag, value)
                self._show(tag, words)
        self._agreed = values

    def _words_for(self, variable: str, tag: Tag, value: float) -> list[int]:
        """Raises LogicFault for what is no number: a register has no way to say so."""
        if tag.format != "float32" and not math.isfinite(value):
            raise LogicFault(self.program.name, 0, f"{variable} is {value:g}")
        return tag.encode(float(value))

    def _show(self, tag: Tag, words: list[int]) -> None:
        if tag.table == "input":
            self._image[tag.address : tag.address + tag.words] = words
        else:
            self.bank.write(Table(tag.table), tag.address, words)

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
            self._sent = None
            if self._staged:
                self._store_source()
        elif self.seams.safe_outputs is not None:
            for name in self._driven:
                if name in self.seams.safe_outputs:
                    tag, value = self.asset.tags[name], self.seams.safe_outputs[name]
                    if not tag.writable:  # else its register is a setting, which outlives the stop
                        self._show(tag, tag.encode(value))
                    if tag.command is not None:
                        self.wiring.command(tag.command, to_si(value, tag.unit))
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
        if self.listen_only and request.function_code != _DIAGNOSTICS:
            return
        budget = self.seams.requests_per_scan
        if budget is None:
            now = self.loop.env.now
            if self._busy_until <= now:
                self._busy_until = now + self.times.request_cost
                answer = self._answer(peer, request)
                if not self.listen_only:
                    reply(answer)
            elif self._busy_until - now < self.times.watchdog * LONGEST_WAIT:
                self._busy_until += self.times.request_cost
                self.loop.wake(self._busy_until, self._answer_late, (peer, request, reply))
            # else: the receive buffer is full and the request is lost
        elif self._served < budget:  # then nobody waits: a scan serves those first
            self._served += 1
            answer = self._answer(peer, request)
            if not self.listen_only:
                reply(answer)
        else:
            place = peer.address if self.seams.fair else ""
            line = self._waiting.get(place)
            if line is None:
                self._waiting[place] = deque([(peer, request, reply)])
            elif len(line) < BACKLOG * budget:
                line.append((peer, request, reply))

    def _answer_late(self, late: _Waiting) -> bool:
        peer, request, reply = late
        there = self.host.up and (peer.address, peer.port) in self._peers
        if there:
            answer = self._answer(peer, request)
            if not self.listen_only:
                reply(answer)
        return there

    def _serve_waiting(self) -> None:
        """Serve one request of each line in turn, up to the scan's budget."""
        waiting, budget = self._waiting, self.seams.requests_per_scan
        while waiting and (budget is None or self._served < budget):
            place = next(iter(waiting))
            line = waiting.pop(place)
            self._served += self._answer_late(line.popleft())
            if line:
                waiting[place] = line

    def _answer(self, peer: Peer, request: ModbusPDU) -> ModbusPDU:
        seams = self.seams
        if request.function_code in _READS and not seams.authorize:
            return execute(self.bank, self._identity, self.files, request)
        access = describe(request, self.bank)
        for authorize in seams.authorize:
            code = authorize(peer, access)
            if code is not None:
                self.audit(
                    "access.denied", peer=peer.address, function=access.function, address=access.address
                )
                return exception(request, code)
        if access.function == _DIAGNOSTICS:
            return self._diagnose(peer, request)
        writes = access.kind == "write" or access.function == _WRITE_FILE
        if writes:
            for validate in seams.validate:
                code = validate(access)
                if code is not None:
                    self.audit(
                        "value.refused",
                        peer=peer.address,
                        address=access.address,
                        values=list(access.values[:8]),
                    )
                    return exception(request, code)
            code = self._not_now(peer, access)
            if code is not None:
                return exception(request, code)
        answer = execute(self.bank, self._identity, self.files, request, running=self.mode is _RUN)
        if writes and answer.function_code < 0x80:
            self._touched = True
            self._wrote(peer, access)
        return answer

    def _diagnose(self, peer: Peer, request: ModbusPDU) -> ModbusPDU:
        """Function 8: restart communications (1) and force listen only (4) beside the echo; else as any device."""
        data = request.data if isinstance(request, UnknownRequest) else b""
        if data[:2] in (_RESTART_COMMUNICATIONS, _FORCE_LISTEN_ONLY):
            self.listen_only = data[:2] == _FORCE_LISTEN_ONLY
            self.audit("modbus.diagnostics", peer=peer.address, silent=self.listen_only)
            return UnknownRequest(request.function_code, data)
        return execute(self.bank, self._identity, self.files, request, running=self.mode is _RUN)

    def _not_now(self, peer: Peer, access: Access) -> int | None:
        """Exception code for an engineering command that the key switch or the mode forbids, else None."""
        file = access.function == _WRITE_FILE
        if not file and (access.table is not Table.HOLDING or access.address + access.count <= SYSTEM):
            return None
        if self.seams.key_switch != "remote":
            self.audit("mode.refused", peer=peer.address, key_switch=self.seams.key_switch)
            # The specification's code 1 also means: "in the wrong state to process a request of this type".
            return ILLEGAL_FUNCTION
        if file:
            if self.mode is _RUN:  # a program is loaded while the logic stands still
                self.audit("program.refused", peer=peer.address, reason=RUNNING)
                return DEVICE_BUSY
            self._staged = True
        elif access.address <= MODE and access.values[MODE - access.address] not in (Mode.PROGRAM, Mode.RUN):
            return ILLEGAL_VALUE
        return None

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
        if address == MODE:
            self.audit("mode.request", peer=peer.address, mode=Mode(value).name.lower())
            self._change_mode(Mode(value))
        elif address == ACTIVATE and value:
            self._activate(peer, value)

    def _activate(self, peer: Peer, length: int) -> None:
        if self.mode is _RUN:
            self.audit("program.refused", peer=peer.address, reason=RUNNING)
            return
        records = self.files.read(PROGRAM_FILE, 0, min((length + 1) // 2, FILE_RECORDS))
        raw = b"".join(record.to_bytes(2, "big") for record in records)[:length]
        signature = b"".join(
            word.to_bytes(2, "big") for word in self.bank.read(Table.HOLDING, SIGNATURE, SIGNATURE_REGISTERS)
        )
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            self._refuse_program(peer, "the program is not UTF-8 text")
            return
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
        missing = self.unbound(program)
        if missing:
            self._refuse_program(peer, f"the program lacks {', '.join(missing)}")
            return
        self.downloads += 1
        self._load(program)
        self._store_source()
        self.audit("program.loaded", peer=peer.address, digest=program.digest[:16])

    def _refuse_program(self, peer: Peer, reason: str) -> None:
        self._store_source()
        self.audit("program.refused", peer=peer.address, reason=reason)


def _values_of(variables: Sequence[str]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """A function that takes the values of ``variables`` out of a memory, as one tuple that is compared at once."""
    if len(variables) > 1:
        return itemgetter(*variables)
    return lambda memory: tuple(memory[variable] for variable in variables)
