"""Reading a PLC's tags over the wire: which requests it takes, and what the answers mean in engineering units."""

from __future__ import annotations

import struct
from binascii import crc_hqx
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from devices.modbus import ModbusClient, Refusal
from devices.registers import Table
from testbed.errors import OtlabError
from testbed.site import Tag

#: Most addresses one read may carry (Modbus Application Protocol V1.1b3, 6.1 and 6.3).
MOST_BITS, MOST_REGISTERS = 2000, 125
#: Reading up to this many unused addresses costs less than a second request.
GAP = 8


def checksum(registers: Sequence[int]) -> int:
    """CRC-16/CCITT of registers in wire order: finds accidents and careless changes, stops nobody who recomputes it."""
    return crc_hqx(struct.pack(f">{len(registers)}H", *registers), 0xFFFF)


def unused(tags: Iterable[Tag]) -> list[tuple[Table, int, int]]:
    """Table, first address and count of the small gaps between tags that readers read along with them.

    Input registers have none: a controller's are whole, for the checksum behind them.
    """
    gaps: list[tuple[Table, int, int]] = []
    ends: dict[Table, int] = {}
    for tag in sorted(tags, key=lambda tag: tag.address):
        table = Table(tag.table)
        end = ends.get(table, tag.address)
        if table is not Table.INPUT and 0 < tag.address - end <= GAP:
            gaps.append((table, end, tag.address - end))
        ends[table] = tag.address + tag.words
    return gaps


@dataclass(frozen=True, slots=True)
class _Read:
    table: Table
    address: int
    count: int
    places: tuple[tuple[int, str, float], ...]  # offset, name, scale: tags of one unsigned register or bit
    others: tuple[tuple[int, str, Tag], ...]  # offset, name, tag: those that need decoding
    verified: bool = False  # the last register is the checksum of all before it


def plan_reads(tags: Mapping[str, Tag]) -> tuple[_Read, ...]:
    """The fewest reads that cover ``tags`` when gaps of up to GAP addresses are read along."""
    reads: list[_Read] = []
    for table in Table:
        wanted = sorted((tag.address, name, tag) for name, tag in tags.items() if Table(tag.table) is table)
        most = MOST_BITS if table in (Table.COIL, Table.DISCRETE) else MOST_REGISTERS
        group: list[tuple[str, Tag]] = []
        end = 0
        for address, name, tag in wanted:
            if group and (address - end > GAP or address + tag.words - group[0][1].address > most):
                reads.append(_read(table, group))
                group = []
            group.append((name, tag))
            end = address + tag.words
        if group:
            reads.append(_read(table, group))
    return tuple(reads)


def _read(table: Table, group: list[tuple[str, Tag]]) -> _Read:
    start = group[0][1].address
    last = group[-1][1]
    simple, others = [], []
    for name, tag in group:
        if tag.format in ("bool", "uint16"):
            simple.append((tag.address - start, name, tag.scale if tag.format == "uint16" else 1.0))
        else:
            others.append((tag.address - start, name, tag))
    return _Read(table, start, last.address + last.words - start, tuple(simple), tuple(others))


def _verified_read(tags: Mapping[str, Tag], checksum_at: int) -> _Read:
    """One read of all input registers and the checksum behind them."""
    if checksum_at >= MOST_REGISTERS:
        raise OtlabError(
            f"the checksum behind {checksum_at} input registers cannot be verified:"
            f" one Modbus request reads at most {MOST_REGISTERS}"
        )
    read = _read(Table.INPUT, sorted(tags.items(), key=lambda item: item[1].address))
    return _Read(
        Table.INPUT,
        0,
        checksum_at + 1,
        tuple((read.address + offset, name, scale) for offset, name, scale in read.places),
        tuple((read.address + offset, name, tag) for offset, name, tag in read.others),
        verified=True,
    )


class TagPoller:
    """Polls some tags of one PLC.

    ``verify``, the seam of a communication-integrity control, asks the PLC for the checksum it publishes behind its
    input registers as well and takes the answer only if they agree; ``mismatches`` counts those that did not.
    Raises OtlabError if one request cannot carry the checksum and everything before it.
    """

    def __init__(
        self,
        client: ModbusClient,
        tags: Mapping[str, Tag],
        *,
        checksum_at: int | None = None,
        verify: bool = False,
    ) -> None:
        self.client = client
        self.tags = dict(tags)
        self.reads = plan_reads(tags)
        inputs = {name: tag for name, tag in tags.items() if Table(tag.table) is Table.INPUT}
        if verify and checksum_at is not None and inputs:
            others = (read for read in self.reads if read.table is not Table.INPUT)
            self.reads = (_verified_read(inputs, checksum_at), *others)
        self.mismatches = 0

    async def poll(self) -> dict[str, float] | None:
        """Values in engineering units by tag, or None if the PLC refused or the checksum did not fit.

        Raises TimeoutError or ConnectionError as the client does.
        """
        values: dict[str, float] = {}
        for read in self.reads:
            answer = await self.client.read(read.table, read.address, read.count)
            if isinstance(answer, Refusal):
                return None
            if read.verified and checksum(answer[:-1]) != answer[-1]:
                self.mismatches += 1
                return None
            for offset, name, scale in read.places:
                values[name] = answer[offset] * scale
            for offset, name, tag in read.others:
                values[name] = tag.decode(answer[offset : offset + tag.words])
        return values


#: Polls between two reads of a table: measurements at every poll, commands at every second, states at every fifth,
#: settings at every tenth; such scan classes are what stations that watch a plant use (assumption).
SCAN_CLASSES = ((1, (Table.INPUT,)), (2, (Table.COIL,)), (5, (Table.DISCRETE,)), (10, (Table.HOLDING,)))


class StationPoller:
    """Polls every tag that a station watches on one PLC, each table in its scan class."""

    def __init__(
        self,
        client: ModbusClient,
        tags: Mapping[str, Tag],
        *,
        checksum_at: int | None = None,
        verify: bool = False,
    ) -> None:
        self.pollers = [
            (every, TagPoller(client, chosen, checksum_at=checksum_at, verify=verify))
            for every, tables in SCAN_CLASSES
            if (chosen := {name: tag for name, tag in tags.items() if tag.table in tables})
        ]
        self._turn = 0

    async def poll(self) -> dict[str, float] | None:
        """Values (engineering units) of what was due by tag, or None if something due could not be read."""
        turn, self._turn = self._turn, self._turn + 1
        values: dict[str, float] = {}
        for every, poller in self.pollers:
            if turn % every == 0:
                try:
                    found = await poller.poll()
                except (TimeoutError, ConnectionError):
                    found = None
                if found is None:
                    self._turn = 0  # whatever was missed is due again
                    return None
                values.update(found)
        return values


def checksum_address(tags: Iterable[Tag]) -> int | None:
    """Where a PLC with these tags publishes its checksum: right behind its input registers; None without any."""
    ends = [tag.address + tag.words for tag in tags if Table(tag.table) is Table.INPUT]
    return max(ends, default=None)
