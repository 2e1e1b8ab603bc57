"""Modbus/TCP of the simulated devices: server and client over pymodbus's own PDU and framer classes.

Why a server of our own: pymodbus's answers only the first of several requests in one segment, mixes up
transaction ids, goes deaf at a foreign protocol id and shares one identity per process, and an attack lab would
measure just that. So the stream is split and a request's shape is checked here, against the specification;
what is decoded and encoded, byte for byte, stays pymodbus's. Three of its decoders are not used, each for a
reason given where it is replaced.

References
    [AP]  Modbus Application Protocol Specification V1.1b3: function codes, quantities, exception codes
    [IG]  Modbus Messaging on TCP/IP Implementation Guide V1.0b: MBAP header, unit identifier
    [SEC] Modbus/TCP Security Protocol Specification v21: role in a client's certificate

Nothing here awaits but the client's calls, and nothing reads a clock but ``loop.time()``: it runs the same on
the ordinary loop and on a virtual one.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Final, Literal, Protocol, TypeAlias, cast

from cryptography import x509
from pymodbus.exceptions import ModbusException
from pymodbus.framer import FramerSocket
from pymodbus.pdu import DecodePDU, ExceptionResponse, FileRecord, ModbusPDU
from pymodbus.pdu.bit_message import (
    ReadCoilsRequest,
    ReadCoilsResponse,
    ReadDiscreteInputsRequest,
    ReadDiscreteInputsResponse,
    WriteMultipleCoilsRequest,
    WriteMultipleCoilsResponse,
    WriteSingleCoilRequest,
    WriteSingleCoilResponse,
)
from pymodbus.pdu.diag_message import ReturnQueryDataRequest, ReturnQueryDataResponse
from pymodbus.pdu.file_message import (
    ReadFileRecordRequest,
    ReadFileRecordResponse,
    WriteFileRecordRequest,
    WriteFileRecordResponse,
)
from pymodbus.pdu.mei_message import ReadDeviceInformationRequest, ReadDeviceInformationResponse
from pymodbus.pdu.other_message import ReportDeviceIdRequest, ReportDeviceIdResponse
from pymodbus.pdu.register_message import (
    MaskWriteRegisterRequest,
    MaskWriteRegisterResponse,
    ReadHoldingRegistersRequest,
    ReadHoldingRegistersResponse,
    ReadInputRegistersRequest,
    ReadInputRegistersResponse,
    ReadWriteMultipleRegistersRequest,
    ReadWriteMultipleRegistersResponse,
    WriteMultipleRegistersRequest,
    WriteMultipleRegistersResponse,
    WriteSingleRegisterRequest,
    WriteSingleRegisterResponse,
)

from devices.registers import FILE_RECORDS, AddressError, FileStore, MemoryFiles, RegisterBank, Table

__all__ = [
    "ACKNOWLEDGE",
    "DEVICE_BUSY",
    "DEVICE_FAILURE",
    "EXCEPTIONS",
    "GATEWAY_NO_RESPONSE",
    "GATEWAY_PATH_UNAVAILABLE",
    "ILLEGAL_ADDRESS",
    "ILLEGAL_FUNCTION",
    "ILLEGAL_VALUE",
    "MEMORY_PARITY_ERROR",
    "Access",
    "AddressError",
    "DeviceIdentity",
    "ExceptionResponse",
    "FileStore",
    "FrameSplitter",
    "MalformedRequest",
    "MemoryFiles",
    "ModbusClient",
    "ModbusPDU",
    "ModbusService",
    "OpenDevice",
    "Peer",
    "Refusal",
    "RegisterBank",
    "Table",
    "UnknownRequest",
    "describe",
    "exception",
    "execute",
    "parse_request",
    "parse_response",
    "read_request",
    "server_protocol",
    "write_request",
]

# Exception codes, [AP] 7.
ILLEGAL_FUNCTION: Final = 0x01
ILLEGAL_ADDRESS: Final = 0x02
ILLEGAL_VALUE: Final = 0x03
DEVICE_FAILURE: Final = 0x04
ACKNOWLEDGE: Final = 0x05
DEVICE_BUSY: Final = 0x06
MEMORY_PARITY_ERROR: Final = 0x08
GATEWAY_PATH_UNAVAILABLE: Final = 0x0A
GATEWAY_NO_RESPONSE: Final = 0x0B

EXCEPTIONS: Final = {
    ILLEGAL_FUNCTION: "illegal function",
    ILLEGAL_ADDRESS: "illegal data address",
    ILLEGAL_VALUE: "illegal data value",
    DEVICE_FAILURE: "server device failure",
    ACKNOWLEDGE: "acknowledge",
    DEVICE_BUSY: "server device busy",
    MEMORY_PARITY_ERROR: "memory parity error",
    GATEWAY_PATH_UNAVAILABLE: "gateway path unavailable",
    GATEWAY_NO_RESPONSE: "gateway target device failed to respond",
}

# Quantities, [AP] 6.1-6.4, 6.11, 6.12, 6.17.
_MOST_READ_BITS: Final = 2000
_MOST_READ_REGISTERS: Final = 125
_MOST_WRITTEN_BITS: Final = 0x7B0
_MOST_WRITTEN_REGISTERS: Final = 123
_MOST_WRITTEN_WITH_READ: Final = 121
# File records, [AP] 6.14 and 6.15: reference type, and the largest byte counts.
_FILE_REFERENCE: Final = 6
_MOST_READ_FILE_BYTES: Final = 0xF5
_MOST_WRITTEN_FILE_BYTES: Final = 0xFB

_COIL_VALUES: Final = (0x0000, 0xFF00)
_MEI_IDENTIFICATION: Final = 0x0E
_INDIVIDUAL: Final = 4

_HEADER: Final = struct.Struct(">HHH")
_SHORTEST, _LONGEST = 2, 254
"""Values that the MBAP length may have: unit and function code up to a unit and a PDU of 253 bytes, [AP] 4.1."""


# ---------------------------------------------------------------------------------------------------------
# Stream and requests


Frame: TypeAlias = tuple[int, int, int, bytes]
"""Transaction id, protocol id, unit, PDU (at least its function code)."""


class FrameSplitter:
    """Cuts a byte stream, in pieces of any size, into Modbus/TCP frames.

    pymodbus's framer is not used for this: it stops for good at a protocol id other than 0, and takes a byte
    of the next frame when a frame of length 2 is followed by just one byte.
    """

    __slots__ = ("_rest", "lost")

    def __init__(self) -> None:
        self._rest = b""
        self.lost: bytes | None = None
        """From a length that no frame can have on, the bytes that nothing can be made of; None while in step."""

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that ``data`` completes, those before a loss of step included."""
        frames: list[Frame] = []
        if self.lost is not None:
            return frames
        if self._rest:
            data = self._rest + data
        at, size = 0, len(data)
        while size - at >= 6:
            transaction, protocol, length = _HEADER.unpack_from(data, at)
            if not _SHORTEST <= length <= _LONGEST:
                self.lost = data[at:]
                return frames
            end = at + 6 + length
            if end > size:
                break
            frames.append((transaction, protocol, data[at + 6], data[at + 7 : end]))
            at = end
        self._rest = data[at:] if at else data
        return frames


class MalformedRequest(ValueError):
    """A request that is answered with an exception before any device looks at it."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class UnknownRequest(ModbusPDU):
    """A request of a function (or sub-function) that nothing here implements; ``data`` follows the code."""

    def __init__(self, function: int, data: bytes) -> None:
        super().__init__()
        self.function_code = function
        self.data = data

    def encode(self) -> bytes:
        return self.data


class _ReadFileRequest(ReadFileRecordRequest):
    """pymodbus halves the record length of each request it decodes, and rejects odd ones."""

    def decode(self, data: bytes) -> None:
        self.records = []
        for at in range(1, len(data), 7):
            _, file, record, count = struct.unpack_from(">BHHH", data, at)
            entry = FileRecord(file_number=file, record_number=record)
            entry.record_length = count
            self.records.append(entry)


def _check_coil(pdu: bytes) -> None:
    value = int.from_bytes(pdu[3:5], "big")
    if value not in _COIL_VALUES:
        raise MalformedRequest(ILLEGAL_VALUE, f"coil value 0x{value:04X}")


def _check_quantity(pdu: bytes, at: int, most: int, bits: bool = False) -> None:
    """Check the quantity at ``at``, the byte count after it and the number of bytes after that."""
    if len(pdu) < at + 3:
        raise MalformedRequest(ILLEGAL_VALUE, f"{len(pdu)} bytes are too few")
    quantity = int.from_bytes(pdu[at : at + 2], "big")
    if not 1 <= quantity <= most:
        raise MalformedRequest(ILLEGAL_VALUE, f"quantity {quantity} is outside 1..{most}")
    size = (quantity + 7) // 8 if bits else 2 * quantity
    if pdu[at + 2] != size or len(pdu) != at + 3 + size:
        raise MalformedRequest(
            ILLEGAL_VALUE, f"byte count {pdu[at + 2]} and {len(pdu) - at - 3} bytes for quantity {quantity}"
        )


def _check_write_bits(pdu: bytes) -> None:
    _check_quantity(pdu, 3, _MOST_WRITTEN_BITS, bits=True)


def _check_write_registers(pdu: bytes) -> None:
    _check_quantity(pdu, 3, _MOST_WRITTEN_REGISTERS)


def _check_read_write(pdu: bytes) -> None:
    _check_quantity(pdu, 7, _MOST_WRITTEN_WITH_READ)
    quantity = int.from_bytes(pdu[3:5], "big")
    if not 1 <= quantity <= _MOST_READ_REGISTERS:
        raise MalformedRequest(ILLEGAL_VALUE, f"quantity {quantity} is outside 1..{_MOST_READ_REGISTERS}")


def _check_read_file(pdu: bytes) -> None:
    size = len(pdu) - 2
    if size < 7 or size % 7 or size > _MOST_READ_FILE_BYTES or pdu[1] != size:
        raise MalformedRequest(ILLEGAL_VALUE, f"byte count of a file read over {size} bytes")
    if any(pdu[at] != _FILE_REFERENCE for at in range(2, len(pdu), 7)):
        raise MalformedRequest(ILLEGAL_ADDRESS, "file reference type is not 6")


def _check_write_file(pdu: bytes) -> None:
    size = len(pdu) - 2
    if not 9 <= size <= _MOST_WRITTEN_FILE_BYTES or pdu[1] != size:
        raise MalformedRequest(ILLEGAL_VALUE, f"byte count of a file write over {size} bytes")
    at = 2
    while at < len(pdu):
        if pdu[at] != _FILE_REFERENCE:
            raise MalformedRequest(ILLEGAL_ADDRESS, "file reference type is not 6")
        count = int.from_bytes(pdu[at + 5 : at + 7], "big")
        at += 7 + 2 * count
        if not count or at > len(pdu):
            raise MalformedRequest(ILLEGAL_VALUE, f"{count} records do not fit the file write")


@dataclass(frozen=True, slots=True)
class _Shape:
    """How a request of one function must look: PDU length in bytes (0: varies) and what else to check."""

    make: Callable[[], ModbusPDU]
    length: int = 0
    check: Callable[[bytes], None] | None = None


_SHAPES: Final[dict[int, _Shape]] = {
    1: _Shape(ReadCoilsRequest, 5),
    2: _Shape(ReadDiscreteInputsRequest, 5),
    3: _Shape(ReadHoldingRegistersRequest, 5),
    4: _Shape(ReadInputRegistersRequest, 5),
    5: _Shape(WriteSingleCoilRequest, 5, _check_coil),
    6: _Shape(WriteSingleRegisterRequest, 5),
    15: _Shape(WriteMultipleCoilsRequest, 0, _check_write_bits),
    16: _Shape(WriteMultipleRegistersRequest, 0, _check_write_registers),
    17: _Shape(ReportDeviceIdRequest, 1),
    20: _Shape(_ReadFileRequest, 0, _check_read_file),
    21: _Shape(WriteFileRecordRequest, 0, _check_write_file),
    22: _Shape(MaskWriteRegisterRequest, 7),
    23: _Shape(ReadWriteMultipleRegistersRequest, 0, _check_read_write),
}
_SUBSHAPES: Final[dict[int, tuple[int, dict[int, _Shape]]]] = {
    8: (2, {0: _Shape(ReturnQueryDataRequest)}),
    43: (1, {_MEI_IDENTIFICATION: _Shape(ReadDeviceInformationRequest, 4)}),
}
"""Functions with a sub-function: its width in bytes, and the shape of each one served."""


def _shape(pdu: bytes) -> _Shape | None:
    width, shapes = _SUBSHAPES.get(pdu[0], (0, {}))
    if not width:
        return None
    if len(pdu) <= width:
        raise MalformedRequest(ILLEGAL_VALUE, "no sub-function")
    return shapes.get(int.from_bytes(pdu[1 : 1 + width], "big"))


def parse_request(pdu: bytes) -> ModbusPDU:
    """Decode a request's PDU (function code first), for a server or for whoever looks on.

    Checks in the order of [AP] 6: function, then quantities and lengths (a wrong one is exception 3); addresses
    are the device's to judge. Raises MalformedRequest.
    """
    shape = _SHAPES.get(pdu[0]) or _shape(pdu)
    if shape is None:
        return UnknownRequest(pdu[0], pdu[1:])
    if shape.length and len(pdu) != shape.length:
        raise MalformedRequest(ILLEGAL_VALUE, f"{len(pdu)} bytes where {shape.length} are due")
    if shape.check is not None:
        shape.check(pdu)
    request = shape.make()
    try:
        request.decode(pdu[1:])
    except ValueError as wrong:  # the quantity of functions 1 to 4, which pymodbus judges as [AP] does
        raise MalformedRequest(ILLEGAL_VALUE, f"quantity: {wrong}") from None
    return request


_RESPONSES: Final = {function: response for function, (_, response) in DecodePDU.pdu_table.items()}
_RESPONSE_DECODER: Final = DecodePDU(is_server=False)
# What pymodbus's decoders raise on bytes that make no sense.
_UNDECODABLE: Final = (ModbusException, ValueError, IndexError, struct.error)


def parse_response(unit: int, pdu: bytes) -> ModbusPDU | None:
    """Decode a response's PDU (function code first); None if nothing can be made of it.

    pymodbus's ``DecodePDU.decode`` is not used, since it writes every PDU out as text for its log.
    """
    function = pdu[0]
    try:
        if function & 0x80:
            response: ModbusPDU = ExceptionResponse(function & 0x7F)
        else:
            kind = _RESPONSES.get(function)
            if kind is None or function in _SUBSHAPES:
                kind = _RESPONSE_DECODER.lookupPduClass(bytes((unit,)) + pdu)
            if kind is None:
                return None
            response = kind()
        response.decode(pdu[1:])
    except _UNDECODABLE:
        return None
    return response


_FRAMER: Final = FramerSocket(_RESPONSE_DECODER)


# ---------------------------------------------------------------------------------------------------------
# What a device does with a request


_OBJECTS: Final = (
    "VendorName",
    "ProductCode",
    "MajorMinorRevision",
    "VendorUrl",
    "ProductName",
    "ModelName",
    "UserApplicationName",
)
"""Names of the identification objects 0 to 6, [AP] 6.21."""

_LONGEST_OBJECT: Final = 244
"""Bytes of one object that a response PDU of 253 bytes can carry: less 7 of its head, and 2 of the object's."""


@dataclass(frozen=True)  # no slots: the encoded objects are cached in the instance
class DeviceIdentity:
    """What one device says it is (functions 43/14 and 17); ASCII text, empty: the object does not exist.

    ``private`` holds vendor-specific objects as (id from 0x80 to 0xFF, text). ValueError for anything else.
    """

    vendor: str
    product: str
    revision: str
    url: str = ""
    product_name: str = ""
    model: str = ""
    application: str = ""
    private: tuple[tuple[int, str], ...] = ()

    def __post_init__(self) -> None:
        for number, text in self.objects.items():
            if len(text) > _LONGEST_OBJECT:
                raise ValueError(f"identification object {number} is longer than {_LONGEST_OBJECT} bytes")
        if any(not 0x80 <= number <= 0xFF for number, _ in self.private):
            raise ValueError("private identification objects have ids from 0x80 to 0xFF")

    @cached_property
    def objects(self) -> dict[int, bytes]:
        """Bytes of each identification object by id, ascending; the three basic ones always exist."""
        regular = (
            self.vendor,
            self.product,
            self.revision,
            self.url,
            self.product_name,
            self.model,
            self.application,
        )
        named = {number: text for number, text in enumerate(regular) if text or number <= 2}
        return {number: text.encode("ascii") for number, text in (named | dict(sorted(self.private))).items()}

    @property
    def server_id(self) -> bytes:
        """Vendor, product and revision, as function 17 reports them."""
        return b" ".join(self.objects[number] for number in range(3))[:_LONGEST_OBJECT]


def exception(request: ModbusPDU, code: int) -> ModbusPDU:
    """Return the exception response of ``request``."""
    return ExceptionResponse(request.function_code, code)


def _refuse_unless_writable(bank: RegisterBank, table: Table, address: int, count: int) -> None:
    # [AP] 7 has no code for "read only". 2 is chosen: to a client that may not write it, the address does not
    # exist as a target of a write; so do most PLCs with a protected area.
    if not bank.writable(table, address, count):
        raise AddressError(table, address, count, "cannot be written")


def _read_bits(table: Table, response: type[ModbusPDU]) -> _Handler:
    def handle(job: _Job, request: ModbusPDU) -> ModbusPDU:
        if not 1 <= request.count <= _MOST_READ_BITS:
            return exception(request, ILLEGAL_VALUE)
        return response(bits=cast(list[bool], job.bank.read(table, request.address, request.count)))

    return handle


def _read_registers(table: Table, response: type[ModbusPDU]) -> _Handler:
    def handle(job: _Job, request: ModbusPDU) -> ModbusPDU:
        if not 1 <= request.count <= _MOST_READ_REGISTERS:
            return exception(request, ILLEGAL_VALUE)
        return response(registers=job.bank.read(table, request.address, request.count))

    return handle


def _write_coil(job: _Job, request: ModbusPDU) -> ModbusPDU:
    _refuse_unless_writable(job.bank, Table.COIL, request.address, 1)
    job.bank.write(Table.COIL, request.address, [int(request.bits[0])])
    return WriteSingleCoilResponse(address=request.address, bits=request.bits)


def _write_register(job: _Job, request: ModbusPDU) -> ModbusPDU:
    _refuse_unless_writable(job.bank, Table.HOLDING, request.address, 1)
    job.bank.write(Table.HOLDING, request.address, request.registers)
    return WriteSingleRegisterResponse(address=request.address, registers=request.registers)


def _write_coils(job: _Job, request: ModbusPDU) -> ModbusPDU:
    if not 1 <= len(request.bits) <= _MOST_WRITTEN_BITS:
        return exception(request, ILLEGAL_VALUE)
    _refuse_unless_writable(job.bank, Table.COIL, request.address, len(request.bits))
    job.bank.write(Table.COIL, request.address, [int(bit) for bit in request.bits])
    return WriteMultipleCoilsResponse(address=request.address, count=len(request.bits))


def _write_registers(job: _Job, request: ModbusPDU) -> ModbusPDU:
    if not 1 <= len(request.registers) <= _MOST_WRITTEN_REGISTERS:
        return exception(request, ILLEGAL_VALUE)
    _refuse_unless_writable(job.bank, Table.HOLDING, request.address, len(request.registers))
    job.bank.write(Table.HOLDING, request.address, request.registers)
    return WriteMultipleRegistersResponse(address=request.address, count=len(request.registers))


def _masked(bank: RegisterBank, request: MaskWriteRegisterRequest) -> int:
    (value,) = bank.read(Table.HOLDING, request.address, 1)
    return int((value & request.and_mask) | (request.or_mask & ~request.and_mask))  # [AP] 6.16


def _mask_write(job: _Job, request: MaskWriteRegisterRequest) -> ModbusPDU:
    _refuse_unless_writable(job.bank, Table.HOLDING, request.address, 1)
    job.bank.write(Table.HOLDING, request.address, [_masked(job.bank, request)])
    return MaskWriteRegisterResponse(
        address=request.address, and_mask=request.and_mask, or_mask=request.or_mask
    )


def _read_write(job: _Job, request: ReadWriteMultipleRegistersRequest) -> ModbusPDU:
    values = request.write_registers
    if not (1 <= len(values) <= _MOST_WRITTEN_WITH_READ and 1 <= request.read_count <= _MOST_READ_REGISTERS):
        return exception(request, ILLEGAL_VALUE)
    # [AP] 6.17 judges both addresses before it does anything, then writes before it reads.
    job.bank.read(Table.HOLDING, request.read_address, request.read_count)
    _refuse_unless_writable(job.bank, Table.HOLDING, request.write_address, len(values))
    job.bank.write(Table.HOLDING, request.write_address, values)
    registers = job.bank.read(Table.HOLDING, request.read_address, request.read_count)
    return ReadWriteMultipleRegistersResponse(registers=registers)


def _read_file(job: _Job, request: ReadFileRecordRequest) -> ModbusPDU:
    # Each answer carries its length, its reference type and two bytes a record.
    if sum(2 + 2 * entry.record_length for entry in request.records) > _MOST_READ_FILE_BYTES:
        return exception(request, ILLEGAL_VALUE)
    answers = []
    for entry in request.records:
        _check_records(entry)
        values = job.files.read(entry.file_number, entry.record_number, entry.record_length)
        answers.append(FileRecord(record_data=_packed(values)))
    return ReadFileRecordResponse(records=answers)


def _write_file(job: _Job, request: WriteFileRecordRequest) -> ModbusPDU:
    # All or nothing: a program half written by one request would be no behavior of a device but of ours.
    for entry in request.records:
        _check_records(entry)
        job.files.read(entry.file_number, entry.record_number, entry.record_length)
    for entry in request.records:
        job.files.write(entry.file_number, entry.record_number, _unpacked(entry.record_data))
    return WriteFileRecordResponse(records=request.records)


def _check_records(entry: FileRecord) -> None:
    if not (entry.file_number and entry.record_length) or entry.record_number >= FILE_RECORDS:
        raise AddressError(f"file {entry.file_number} record", entry.record_number, entry.record_length)


def _packed(values: Sequence[int]) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


def _unpacked(data: bytes) -> list[int]:
    return list(struct.unpack(f">{len(data) // 2}H", data))


def _identify(job: _Job, request: ReadDeviceInformationRequest) -> ModbusPDU:
    objects, first = job.identity.objects, request.object_id
    last = {1: 0x02, 2: 0x7F, 3: 0xFF, _INDIVIDUAL: 0xFF}.get(request.read_code)
    if last is None:
        return exception(request, ILLEGAL_VALUE)
    if request.read_code == _INDIVIDUAL:
        if first not in objects:
            return exception(request, ILLEGAL_ADDRESS)
        last = first
    elif first not in objects or first > last:
        first = 0  # [AP] 6.21: a stream from an object that does not exist starts at the beginning
    response = ReadDeviceInformationResponse(
        read_code=request.read_code,
        information={number: text for number, text in objects.items() if first <= number <= last},
    )
    # Stream and individual access (0x80) to what there is: basic, regular or extended objects.
    response.conformity = 0x81 + (max(objects) > 0x02) + (max(objects) >= 0x80)
    return response


def _report_server_id(job: _Job, request: ReportDeviceIdRequest) -> ModbusPDU:
    return ReportDeviceIdResponse(identifier=job.identity.server_id, status=job.running)


def _echo(job: _Job, request: ReturnQueryDataRequest) -> ModbusPDU:
    return ReturnQueryDataResponse(message=request.message)


@dataclass(slots=True)
class _Job:
    bank: RegisterBank
    identity: DeviceIdentity
    files: FileStore
    running: bool


_Handler: TypeAlias = Callable[[_Job, Any], ModbusPDU]

_HANDLERS: Final[dict[type[ModbusPDU], _Handler]] = {
    ReadCoilsRequest: _read_bits(Table.COIL, ReadCoilsResponse),
    ReadDiscreteInputsRequest: _read_bits(Table.DISCRETE, ReadDiscreteInputsResponse),
    ReadHoldingRegistersRequest: _read_registers(Table.HOLDING, ReadHoldingRegistersResponse),
    ReadInputRegistersRequest: _read_registers(Table.INPUT, ReadInputRegistersResponse),
    WriteSingleCoilRequest: _write_coil,
    WriteSingleRegisterRequest: _write_register,
    WriteMultipleCoilsRequest: _write_coils,
    WriteMultipleRegistersRequest: _write_registers,
    MaskWriteRegisterRequest: _mask_write,
    ReadWriteMultipleRegistersRequest: _read_write,
    _ReadFileRequest: _read_file,
    ReadFileRecordRequest: _read_file,
    WriteFileRecordRequest: _write_file,
    ReadDeviceInformationRequest: _identify,
    ReportDeviceIdRequest: _report_server_id,
    ReturnQueryDataRequest: _echo,
}


def execute(
    bank: RegisterBank,
    identity: DeviceIdentity,
    files: FileStore,
    request: ModbusPDU,
    *,
    running: bool = True,
) -> ModbusPDU:
    """Carry out a request on a device's memory and return its response.

    Functions 1-6, 8/0, 15, 16, 17, 20-23 and 43/14; exception 1 for any other, 2 for an address that is not
    there or that a client may not write, 3 for a quantity out of bounds. A request refused changes nothing.
    ``running`` is the run indicator that function 17 reports.
    """
    handler = _HANDLERS.get(type(request))
    if handler is None:
        return exception(request, ILLEGAL_FUNCTION)
    try:
        return handler(_Job(bank, identity, files, running), request)
    except AddressError:
        return exception(request, ILLEGAL_ADDRESS)


Kind: TypeAlias = Literal["read", "write", "diagnose", "identify", "file"]


@dataclass(frozen=True, slots=True)
class Access:
    """What a request would do: what policies and detectors look at.

    ``values`` are registers or bits to be written. Where they depend on the device's memory (function 22)
    they are empty unless `describe` is given that memory: a policy on values must then refuse, not allow.
    ``read`` is the part of function 23 that reads. For files (20 and 21), ``address`` and ``count`` are the
    first record and the sum of the records, and ``files`` the number of every file touched.
    """

    function: int
    kind: Kind
    table: Table | None = None
    address: int = 0
    count: int = 0
    values: tuple[int, ...] = ()
    read: Access | None = None
    files: tuple[int, ...] = ()


_TABLES: Final[dict[int, tuple[Kind, Table]]] = {
    1: ("read", Table.COIL),
    2: ("read", Table.DISCRETE),
    3: ("read", Table.HOLDING),
    4: ("read", Table.INPUT),
    5: ("write", Table.COIL),
    6: ("write", Table.HOLDING),
    15: ("write", Table.COIL),
    16: ("write", Table.HOLDING),
}


def describe(request: ModbusPDU, bank: RegisterBank | None = None) -> Access:
    """Say what ``request`` would do; ``bank`` resolves what function 22 would write."""
    function = request.function_code
    values: tuple[int, ...]
    match request:
        case UnknownRequest():
            return Access(function, "diagnose")
        case MaskWriteRegisterRequest():
            known = bank is not None and bank.writable(Table.HOLDING, request.address, 1)
            values = (_masked(bank, request),) if bank is not None and known else ()
            return Access(function, "write", Table.HOLDING, request.address, 1, values)
        case ReadWriteMultipleRegistersRequest():
            values = tuple(request.write_registers)
            read = Access(function, "read", Table.HOLDING, request.read_address, request.read_count)
            return Access(function, "write", Table.HOLDING, request.write_address, len(values), values, read)
        case ReadFileRecordRequest() | WriteFileRecordRequest():
            entries = request.records
            return Access(
                function,
                "file",
                address=entries[0].record_number if entries else 0,
                count=sum(entry.record_length for entry in entries),
                values=tuple(value for entry in entries for value in _unpacked(entry.record_data)),
                files=tuple(entry.file_number for entry in entries),
            )
        case ReadDeviceInformationRequest() | ReportDeviceIdRequest():
            return Access(function, "identify")
    kind, table = _TABLES.get(function, (None, None))
    if kind is None:
        return Access(function, "diagnose")
    if kind == "read":
        return Access(function, kind, table, request.address, request.count)
    values = tuple(request.registers or map(int, request.bits))
    return Access(function, kind, table, request.address, len(values), values)


# ---------------------------------------------------------------------------------------------------------
# Server


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end.

    ``identity`` is the subject's common name of a verified client certificate, ``role`` the role it carries
    ([SEC]: extension 1.3.6.1.4.1.50316.802.1); both None without TLS or without a certificate.
    """

    address: str
    port: int
    identity: str | None = None
    role: str | None = None
    #: the certificate itself (DER)
    certificate: bytes | None = field(default=None, repr=False, compare=False)


ROLE_OID: Final = x509.ObjectIdentifier("1.3.6.1.4.1.50316.802.1")


def _peer(transport: asyncio.BaseTransport) -> Peer:
    address, port = (transport.get_extra_info("peername") or ("", 0))[:2]
    certificate = transport.get_extra_info("peercert")
    if not certificate:
        return Peer(address, port)
    names = [value for part in certificate["subject"] for key, value in part if key == "commonName"]
    der = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return Peer(address, port, names[0] if names else None, _role(der), der)


def _role(der: bytes) -> str | None:
    try:
        value = x509.load_der_x509_certificate(der).extensions.get_extension_for_oid(ROLE_OID).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return None
    text = value.public_bytes()
    # [SEC] wants an ASN.1 UTF8String (tag 12). Up to 127 bytes its length is one byte, ample for a role.
    if len(text) < 2 or text[0] != 0x0C or text[1] != len(text) - 2 or text[1] > 0x7F:
        return None
    try:
        return text[2:].decode()
    except UnicodeDecodeError:
        return None


class ModbusService(Protocol):
    """A device, seen from the wire."""

    @property
    def identity(self) -> DeviceIdentity: ...

    @property
    def unit_ids(self) -> frozenset[int] | None:
        """Units that are served; None serves every one."""

    def admit(self, peer: Peer) -> bool:
        """Whether ``peer`` may stay connected; False closes the connection at once."""

    def submit(self, peer: Peer, request: ModbusPDU, reply: Callable[[ModbusPDU], None]) -> None:
        """Take a well-formed request. Call ``reply`` once, now or later, in any order, or never."""

    def departed(self, peer: Peer) -> None:
        """An admitted peer's connection has ended."""

    def malformed(self, peer: Peer, data: bytes, reason: str) -> None:
        """A frame (whole, or what is left of the stream) was discarded or answered with an exception."""


@dataclass(slots=True)
class OpenDevice:
    """A device without any policy: admits everyone and at once does whatever is asked.

    Most fielded Modbus devices are like this, as the protocol itself knows no peer ([AP] has no authentication).
    """

    bank: RegisterBank
    identity: DeviceIdentity
    files: FileStore = field(default_factory=MemoryFiles)
    unit_ids: frozenset[int] | None = None

    def admit(self, peer: Peer) -> bool:
        return True

    def submit(self, peer: Peer, request: ModbusPDU, reply: Callable[[ModbusPDU], None]) -> None:
        reply(execute(self.bank, self.identity, self.files, request))

    def departed(self, peer: Peer) -> None:
        pass

    def malformed(self, peer: Peer, data: bytes, reason: str) -> None:
        pass


class _Server(asyncio.Protocol):
    """One connection. Requests go to the service in order of arrival; nothing is kept of them here."""

    __slots__ = ("_frames", "_peer", "_service", "_transport", "_unknown_unit")

    def __init__(self, service: ModbusService, unknown_unit: int | None) -> None:
        self._service = service
        self._unknown_unit = unknown_unit
        self._frames = FrameSplitter()
        self._transport: asyncio.Transport | None = None
        self._peer: Peer | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = _peer(transport)
        if self._service.admit(peer):
            self._peer = peer
            self._transport = cast(asyncio.Transport, transport)
        else:
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._peer is not None:
            self._service.departed(self._peer)

    def data_received(self, data: bytes) -> None:
        peer, service = self._peer, self._service
        if peer is None or self._transport is None:
            return
        units = service.unit_ids
        for transaction, protocol, unit, pdu in self._frames.feed(data):
            if protocol:
                self._discard(peer, (transaction, protocol, unit, pdu), f"protocol id {protocol}")
                continue
            reply = partial(self._reply, transaction, unit)
            if units is not None and unit not in units:
                if self._unknown_unit is not None:
                    reply(ExceptionResponse(pdu[0], self._unknown_unit))
                continue
            try:
                request = parse_request(pdu)
            except MalformedRequest as wrong:
                self._discard(peer, (transaction, protocol, unit, pdu), wrong.reason)
                reply(ExceptionResponse(pdu[0], wrong.code))
                continue
            request.transaction_id, request.dev_id = transaction, unit
            service.submit(peer, request, reply)
        if self._frames.lost is not None and self._transport is not None:
            # Where the next frame starts can no longer be told.
            service.malformed(peer, self._frames.lost, "length that no frame can have")
            self._transport.close()
            self._transport = None

    def _discard(self, peer: Peer, frame: Frame, reason: str) -> None:
        transaction, protocol, unit, pdu = frame
        header = _HEADER.pack(transaction, protocol, len(pdu) + 1) + bytes((unit,))
        self._service.malformed(peer, header + pdu, reason)

    def _reply(self, transaction: int, unit: int, response: ModbusPDU) -> None:
        transport = self._transport
        if transport is None:
            return
        response.transaction_id, response.dev_id = transaction, unit
        transport.write(_FRAMER.buildFrame(response))

    # A peer that sends but does not read must not fill the memory with answers.
    def pause_writing(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()


def server_protocol(
    service: ModbusService, *, unknown_unit: int | None = None
) -> Callable[[], asyncio.Protocol]:
    """Return the protocol factory for ``loop.create_server``.

    ``unknown_unit`` is the exception code that answers a unit the service does not serve, as a gateway's 0x0B
    does; None is silence, as a device's own.
    """
    return partial(_Server, service, unknown_unit)


# ---------------------------------------------------------------------------------------------------------
# Client


@dataclass(frozen=True, slots=True)
class Refusal:
    """The device's answer was an exception: a value, not an error."""

    function: int
    code: int

    def __str__(self) -> str:
        return f"function {self.function}: {EXCEPTIONS.get(self.code, f'exception {self.code}')}"


_READ_REQUESTS: Final = {
    Table.COIL: ReadCoilsRequest,
    Table.DISCRETE: ReadDiscreteInputsRequest,
    Table.HOLDING: ReadHoldingRegistersRequest,
    Table.INPUT: ReadInputRegistersRequest,
}


def read_request(table: Table, address: int, count: int) -> ModbusPDU:
    """Return the request of function 1, 2, 3 or 4."""
    return _READ_REQUESTS[table](address=address, count=count)


def write_request(table: Table, address: int, values: Sequence[int]) -> ModbusPDU:
    """Return the request of function 5 or 6 for one value, 15 or 16 for more.

    Raises ValueError for a table that cannot be written and for more values than one request carries.
    """
    if table is Table.COIL and 1 <= len(values) <= _MOST_WRITTEN_BITS:
        bits = [bool(value) for value in values]
        if len(bits) == 1:
            return WriteSingleCoilRequest(address=address, bits=bits)
        return WriteMultipleCoilsRequest(address=address, bits=bits)
    if table is Table.HOLDING and 1 <= len(values) <= _MOST_WRITTEN_REGISTERS:
        if len(values) == 1:
            return WriteSingleRegisterRequest(address=address, registers=values)
        return WriteMultipleRegistersRequest(address=address, registers=values)
    raise ValueError(f"no request writes {len(values)} values of table {table}")


_Pending: TypeAlias = tuple[asyncio.Future[ModbusPDU], float, int]


class _Client(asyncio.Protocol):
    """One connection: requests in flight by transaction id, oldest first.

    All requests of a client have the same time limit, so the oldest is the first to run out, and one timer for
    the connection serves them all: a timer a request would leave a cancelled entry in the loop's queue for
    every poll.
    """

    __slots__ = ("_frames", "_last", "_loop", "_pending", "_timeout", "_timer", "_transport")

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        self._loop = loop
        self._timeout = timeout
        self._frames = FrameSplitter()
        self._transport: asyncio.Transport | None = None
        self._pending: dict[int, _Pending] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._last = 0

    @property
    def connected(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"connection lost: {exc}" if exc else "connection closed by the peer")

    def close(self, reason: str = "connection closed") -> None:
        transport = self._transport
        self._end(reason)
        if transport is not None:
            transport.close()

    def _end(self, reason: str) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        pending, self._pending = self._pending, {}
        for future, _, _ in pending.values():
            if not future.done():
                future.set_exception(ConnectionError(reason))

    def send(self, request: ModbusPDU) -> asyncio.Future[ModbusPDU]:
        """Put ``request`` on the wire under a transaction id of its own; its response comes to the future."""
        if self._transport is None:
            raise ConnectionError("not connected")
        pending = self._pending
        if len(pending) > 0xFFFF:
            raise ConnectionError("every transaction id is in flight")
        self._last = transaction = (self._last + 1) & 0xFFFF
        while transaction in pending:
            self._last = transaction = (transaction + 1) & 0xFFFF
        request.transaction_id = transaction
        self._transport.write(_FRAMER.buildFrame(request))
        future: asyncio.Future[ModbusPDU] = self._loop.create_future()
        deadline = self._loop.time() + self._timeout
        pending[transaction] = (future, deadline, request.function_code)
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._expire)
        return future

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._pending:
            transaction, (future, deadline, function) = next(iter(self._pending.items()))
            if deadline > now:
                self._timer = self._loop.call_at(deadline, self._expire)
                return
            del self._pending[transaction]
            if not future.done():
                future.set_exception(
                    TimeoutError(f"no answer to function {function} within {self._timeout} s")
                )

    def data_received(self, data: bytes) -> None:
        for transaction, protocol, unit, pdu in self._frames.feed(data):
            # An answer that comes after its time limit finds nobody waiting.
            if protocol or transaction not in self._pending:
                continue
            future, _, function = self._pending.pop(transaction)
            if future.done():
                continue
            response = parse_response(unit, pdu) if not (pdu[0] ^ function) & 0x7F else None
            if response is None:
                future.set_exception(
                    ConnectionError(f"answer to function {function} makes no sense: {pdu.hex()}")
                )
                continue
            response.transaction_id, response.dev_id = transaction, unit
            future.set_result(response)
        if self._frames.lost is not None:
            self.close("the peer sent a length that no frame can have")


class ModbusClient:
    """A Modbus/TCP client that keeps one connection and opens it again when a request needs it.

    ``timeout`` (s) bounds connecting and each request. With ``ssl``, note that a server under TLS 1.3 rejects a
    client's certificate only after the client has connected: the first request then raises ConnectionError.
    """

    def __init__(
        self,
        host: str,
        port: int = 502,
        *,
        unit: int = 1,
        timeout: float = 3.0,
        ssl: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
    ) -> None:
        self.host, self.port, self.unit, self.timeout = host, port, unit, timeout
        self._ssl, self._server_hostname = ssl, server_hostname
        self._link: _Client | None = None
        self._connecting = asyncio.Lock()
        #: finds the address anew for each connection, or raises an OSError; None: ``host`` is the address
        self.resolve: Callable[[], Awaitable[str]] | None = None

    @property
    def connected(self) -> bool:
        return self._link is not None and self._link.connected

    async def connect(self) -> None:
        """Connect unless connected; TimeoutError or ConnectionError if that fails."""
        await self._connect()

    async def _connect(self) -> _Client:
        async with self._connecting:  # several requests may find the connection gone at once
            if self._link is not None and self._link.connected:
                return self._link
            loop = asyncio.get_running_loop()
            try:
                async with asyncio.timeout(self.timeout):
                    address = self.host if self.resolve is None else await self.resolve()
                    _, self._link = await loop.create_connection(
                        partial(_Client, loop, self.timeout),
                        address,
                        self.port,
                        ssl=self._ssl,
                        server_hostname=self._server_hostname,
                    )
            except TimeoutError:
                raise TimeoutError(
                    f"no connection to {self.host}:{self.port} within {self.timeout} s"
                ) from None
            except ConnectionError:
                raise
            except OSError as failure:  # name not found, no route, TLS refused
                raise ConnectionError(f"no connection to {self.host}:{self.port}: {failure}") from failure
            return self._link

    def close(self) -> None:
        """Close the connection, failing what is in flight with ConnectionError; a later request opens it again."""
        if self._link is not None:
            self._link.close()
            self._link = None

    async def request(self, pdu: ModbusPDU, *, unit: int | None = None) -> ModbusPDU:
        """Send a request to ``unit`` (default: the client's) and return its response, ExceptionResponse included.

        Many may be in flight. Raises TimeoutError when no answer comes in time, ConnectionError when the
        connection cannot be made, is lost, or the answer is none to this request; ValueError, before anything
        is sent, for a quantity that pymodbus will not encode.
        """
        link = self._link
        if link is None or not link.connected:
            link = await self._connect()
        pdu.dev_id = self.unit if unit is None else unit
        return await link.send(pdu)

    async def read(self, table: Table, address: int, count: int) -> list[int] | Refusal:
        """Read ``count`` bits (at most 2000) or registers (at most 125)."""
        response = await self.request(read_request(table, address, count))
        if isinstance(response, ExceptionResponse):
            return _refusal(response)
        if table is Table.HOLDING or table is Table.INPUT:
            values = cast(list[int], response.registers)  # a list of its own, fresh from the decoder
        else:
            values = [int(bit) for bit in response.bits[:count]]
        if len(values) != count:
            raise ConnectionError(f"{len(values)} values in the answer to a read of {count}")
        return values

    async def write(self, table: Table, address: int, values: Sequence[int]) -> Refusal | None:
        """Write coils or holding registers: function 5 or 6 for one value, 15 or 16 for more."""
        response = await self.request(write_request(table, address, values))
        return _refusal(response) if isinstance(response, ExceptionResponse) else None

    async def read_file(self, file: int, record: int, count: int) -> list[int] | Refusal:
        """Read ``count`` records (at most 121) of a file."""
        entry = FileRecord(file_number=file, record_number=record)
        entry.record_length = count
        response = await self.request(ReadFileRecordRequest(records=[entry]))
        if isinstance(response, ExceptionResponse):
            return _refusal(response)
        values = [
            value
            for answer in cast(ReadFileRecordResponse, response).records
            for value in _unpacked(answer.record_data)
        ]
        if len(values) != count:
            raise ConnectionError(f"{len(values)} records in the answer to a read of {count}")
        return values

    async def write_file(self, file: int, record: int, values: Sequence[int]) -> Refusal | None:
        """Write ``values`` (at most 122) into consecutive records of a file."""
        entry = FileRecord(file_number=file, record_number=record, record_data=_packed(values))
        response = await self.request(WriteFileRecordRequest(records=[entry]))
        return _refusal(response) if isinstance(response, ExceptionResponse) else None

    async def identify(self) -> dict[str, str]:
        """Return the identification objects by name ("VendorName", ...; "0x80" ... for private ones).

        Empty when the device refuses. Asks again while the device says that more follows.
        """
        found: dict[str, str] = {}
        following = 0
        while True:
            response = await self.request(ReadDeviceInformationRequest(read_code=3, object_id=following))
            if not isinstance(response, ReadDeviceInformationResponse):
                return found
            for number, data in response.information.items():
                name = _OBJECTS[number] if number < len(_OBJECTS) else f"0x{number:02X}"
                text = b"".join(data) if isinstance(data, list) else data
                found[name] = text.decode("ascii", "backslashreplace")
            # A device that points backward would keep its client here for good.
            if not response.more_follows or response.next_object_id <= following:
                return found
            following = response.next_object_id

    async def server_id(self) -> bytes:
        """Return what function 17 reports, without the run indicator; empty when the device refuses."""
        response = await self.request(ReportDeviceIdRequest())
        return response.identifier if isinstance(response, ReportDeviceIdResponse) else b""


def _refusal(response: ModbusPDU) -> Refusal:
    return Refusal(response.function_code & 0x7F, response.exception_code)
