"""A device's Modbus memory: four sparse tables of bits and registers, and the records of its files.

Nothing here knows the wire. Addresses are those of the protocol data unit (from 0), not the 1-based or
40001-style numbers of a data sheet.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from testbed.errors import OtlabError

ADDRESSES = 0x10000
"""Addresses of one table (Modbus Application Protocol V1.1b3, 4.3)."""

FILE_RECORDS = 10_000
"""Records of one file, numbered 0 to 0x270F (Modbus Application Protocol V1.1b3, 6.14)."""


class Table(StrEnum):
    """The four primary tables of Modbus Application Protocol V1.1b3, 4.3."""

    COIL = "coil"
    DISCRETE = "discrete"
    INPUT = "input"
    HOLDING = "holding"


class AddressError(OtlabError):
    """An address that the device does not have: on the wire, exception 2 (ILLEGAL DATA ADDRESS)."""

    def __init__(self, area: str, address: int, count: int, reason: str = "is not defined") -> None:
        last = address + count - 1
        super().__init__(f"{area} {address}{f'..{last}' if last > address else ''} {reason}")
        self.area, self.address, self.count = area, address, count


@dataclass(slots=True)
class _Block:
    start: int
    values: list[int]
    writable: bytearray


class RegisterBank:
    """Four sparse tables. Registers are 0..65535, bits 0 or 1; a read may span neighboring definitions."""

    def __init__(self) -> None:
        # The empty block before address 0 lets every look-up land on some block, so none tests for emptiness.
        self._tables = {table: ([-2], [_Block(-2, [], bytearray())]) for table in Table}

    def define(
        self,
        table: Table,
        address: int,
        count: int = 1,
        values: Sequence[int] | None = None,
        writable: bool = True,
    ) -> None:
        """Give the device ``count`` addresses, holding ``values`` or zeros.

        ``values`` says the count by itself; a ``count`` other than 1 must agree with it. ``writable`` is what
        a client may do: the device's own side always may.

        Raises AddressError outside 0..65535 or over an earlier definition, ValueError for values out of range.
        """
        given = [0] * count if values is None else list(values)
        if count not in (1, len(given)):
            raise ValueError(f"{len(given)} values for {count} addresses")
        end = address + len(given)
        if not 0 <= address < end <= ADDRESSES:
            raise AddressError(table, address, len(given), "is outside the table")
        _check_range(table, given)
        starts, blocks = self._tables[table]
        index = bisect_right(starts, address)
        before = blocks[index - 1]
        after = blocks[index] if index < len(blocks) else None
        if before.start + len(before.values) > address or (after is not None and after.start < end):
            raise AddressError(table, address, len(given), "is already defined")
        flags = bytearray([writable]) * len(given)
        # Neighbors become one block, so that reading across them stays one slice.
        if before.start + len(before.values) == address:
            before.values += given
            before.writable += flags
        else:
            before = _Block(address, given, flags)
            starts.insert(index, address)
            blocks.insert(index, before)
            index += 1
        if after is not None and after.start == end:
            before.values += after.values
            before.writable += after.writable
            del starts[index], blocks[index]

    def read(self, table: Table, address: int, count: int) -> list[int]:
        """Return ``count`` values; AddressError where any address is not defined."""
        starts, blocks = self._tables[table]
        block = blocks[bisect_right(starts, address) - 1]
        offset = address - block.start
        stop = offset + count
        if not 0 <= offset < stop <= len(block.values):
            raise AddressError(table, address, count)
        return block.values[offset:stop]

    def write(self, table: Table, address: int, values: Sequence[int]) -> None:
        """Store ``values`` from the device's own side, which ``writable`` does not bind.

        Raises AddressError where any address is not defined and ValueError for values out of range; then
        nothing is stored.
        """
        starts, blocks = self._tables[table]
        block = blocks[bisect_right(starts, address) - 1]
        offset = address - block.start
        stop = offset + len(values)
        if not 0 <= offset < stop <= len(block.values):
            raise AddressError(table, address, len(values))
        _check_range(table, values)
        block.values[offset:stop] = values

    def writable(self, table: Table, address: int, count: int) -> bool:
        """Whether a client may write all of these addresses; an undefined one it may not."""
        starts, blocks = self._tables[table]
        block = blocks[bisect_right(starts, address) - 1]
        offset = address - block.start
        stop = offset + count
        return 0 <= offset < stop <= len(block.values) and block.writable.find(0, offset, stop) < 0


def _check_range(table: Table, values: Sequence[int]) -> None:
    top = 0xFFFF if table in (Table.INPUT, Table.HOLDING) else 1
    if min(values) < 0 or max(values) > top:
        raise ValueError(f"{table} values must be 0..{top}")


class FileStore(Protocol):
    """The files that function codes 20 and 21 reach: numbered files of 16-bit records."""

    def read(self, file: int, record: int, count: int) -> list[int]:
        """Return ``count`` records from ``record`` on; AddressError for one that is not there."""

    def write(self, file: int, record: int, values: Sequence[int]) -> None:
        """Store ``values`` from ``record`` on; AddressError for one that is not there."""


class MemoryFiles:
    """Files of fixed length, zero at first: ``{file number: records}``, at most 10,000 records each."""

    def __init__(self, lengths: Mapping[int, int] | None = None) -> None:
        self._files: dict[int, list[int]] = {}
        for file, records in (lengths or {}).items():
            if not (1 <= file <= 0xFFFF and 1 <= records <= FILE_RECORDS):
                raise AddressError(f"file {file} record", 0, records, "is outside what Modbus can address")
            self._files[file] = [0] * records

    def read(self, file: int, record: int, count: int) -> list[int]:
        return self._span(file, record, count)[record : record + count]

    def write(self, file: int, record: int, values: Sequence[int]) -> None:
        span = self._span(file, record, len(values))
        _check_range(Table.HOLDING, values)
        span[record : record + len(values)] = values

    def _span(self, file: int, record: int, count: int) -> list[int]:
        records = self._files.get(file, [])
        if not 0 <= record < record + count <= len(records):
            raise AddressError(f"file {file} record", record, count)
        return records
