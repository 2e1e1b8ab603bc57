"""The Modbus/TCP protocol of the devices: memory, server and client.

The server is fed bytes over a recording transport: no socket, no loop. Tests marked ``realtime`` use loopback.
"""

from __future__ import annotations

import asyncio
import datetime
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from pymodbus.pdu import FileRecord
from pymodbus.pdu.bit_message import WriteMultipleCoilsRequest
from pymodbus.pdu.diag_message import ReturnQueryDataRequest
from pymodbus.pdu.file_message import ReadFileRecordRequest, WriteFileRecordRequest
from pymodbus.pdu.mei_message import ReadDeviceInformationRequest
from pymodbus.pdu.other_message import ReportDeviceIdRequest
from pymodbus.pdu.register_message import (
    MaskWriteRegisterRequest,
    ReadWriteMultipleRegistersRequest,
    WriteMultipleRegistersRequest,
)

from devices.modbus import (
    DEVICE_BUSY,
    GATEWAY_NO_RESPONSE,
    ILLEGAL_ADDRESS,
    ILLEGAL_FUNCTION,
    ILLEGAL_VALUE,
    Access,
    DeviceIdentity,
    ExceptionResponse,
    FrameSplitter,
    MalformedRequest,
    ModbusClient,
    ModbusPDU,
    ModbusService,
    OpenDevice,
    Peer,
    Refusal,
    UnknownRequest,
    describe,
    exception,
    execute,
    parse_request,
    parse_response,
    read_request,
    server_protocol,
    write_request,
)
from devices.registers import AddressError, MemoryFiles, RegisterBank, Table

IDENTITY = DeviceIdentity("Example Works", "PLC-7", "2.4", model="seven", private=((0x80, "rack 2"),))
PROGRAM_FILE = 1


def memory() -> RegisterBank:
    bank = RegisterBank()
    bank.define(Table.COIL, 0, 16)
    bank.define(Table.DISCRETE, 0, values=[1, 0, 1])
    bank.define(Table.INPUT, 0, values=[7, 8, 9])
    bank.define(Table.HOLDING, 0, values=[10, 11, 12, 13])
    bank.define(Table.HOLDING, 4, values=[99], writable=False)
    bank.define(Table.HOLDING, 1000, 125)
    return bank


@dataclass
class Device(OpenDevice):
    """An open device that notes what its service is told, and may keep its replies."""

    bank: RegisterBank = field(default_factory=memory)
    identity: DeviceIdentity = IDENTITY
    welcome: bool = True
    slow: bool = False
    held: list[Callable[[], None]] = field(default_factory=list)
    peers: list[Peer] = field(default_factory=list)
    gone: list[Peer] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    refused: list[bytes] = field(default_factory=list)
    requests: list[ModbusPDU] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def admit(self, peer: Peer) -> bool:
        self.peers.append(peer)
        return self.welcome

    def submit(self, peer: Peer, request: ModbusPDU, reply: Callable[[ModbusPDU], None]) -> None:
        self.requests.append(request)
        response = execute(self.bank, self.identity, self.files, request)
        if self.slow:
            self.held.append(lambda: reply(response))
        else:
            reply(response)
        self.arrived.set()

    def departed(self, peer: Peer) -> None:
        self.gone.append(peer)

    def malformed(self, peer: Peer, data: bytes, reason: str) -> None:
        self.refused.append(data)
        self.reasons.append(reason)


class Wire(asyncio.Transport):
    """The server's end of a connection: what it writes stays in ``sent``."""

    def __init__(self, service: ModbusService, *, unknown_unit: int | None = None) -> None:
        super().__init__({"peername": ("192.0.2.9", 40000)})
        self.sent = b""
        self.closed = False
        self.reading = True
        self.server = server_protocol(service, unknown_unit=unknown_unit)()
        self.server.connection_made(self)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def feed(self, data: bytes) -> list[tuple[int, int, str]]:
        """Deliver bytes to the server; return what it answered as (transaction, unit, PDU in hex)."""
        self.server.data_received(data)
        sent, self.sent = self.sent, b""
        splitter = FrameSplitter()
        frames = splitter.feed(sent)
        assert splitter.lost is None
        assert all(protocol == 0 for _, protocol, _, _ in frames)
        return [(transaction, unit, pdu.hex()) for transaction, _, unit, pdu in frames]

    def ask(self, pdu: str) -> str:
        """Return the answer to one PDU, both in hex."""
        ((_, _, answer),) = self.feed(frame(pdu))
        return answer


def frame(
    pdu: str, transaction: int = 1, unit: int = 1, protocol: int = 0, length: int | None = None
) -> bytes:
    body = bytes((unit,)) + bytes.fromhex(pdu)
    return struct.pack(">HHH", transaction, protocol, len(body) if length is None else length) + body


# ---------------------------------------------------------------------------------------------------------
# Memory


def test_a_read_outside_every_definition_is_an_address_error() -> None:
    bank = memory()
    for table, address, count in [
        (Table.HOLDING, 5, 1),
        (Table.HOLDING, 4, 2),
        (Table.HOLDING, 999, 2),
        (Table.HOLDING, 1124, 2),
        (Table.HOLDING, 65535, 2),
        (Table.HOLDING, -1, 1),
        (Table.HOLDING, 0, 0),
        (Table.DISCRETE, 3, 1),
    ]:
        with pytest.raises(AddressError):
            bank.read(table, address, count)
        assert not bank.writable(table, address, count)


def test_an_empty_table_has_no_address() -> None:
    with pytest.raises(AddressError, match=r"coil 0\.\.2 is not defined"):
        RegisterBank().read(Table.COIL, 0, 3)


def test_a_read_may_span_neighboring_definitions_made_in_any_order() -> None:
    bank = RegisterBank()
    bank.define(Table.INPUT, 2, values=[3, 4])
    bank.define(Table.INPUT, 6, values=[7])
    bank.define(Table.INPUT, 0, values=[1, 2])
    bank.define(Table.INPUT, 4, values=[5, 6])
    assert bank.read(Table.INPUT, 0, 7) == [1, 2, 3, 4, 5, 6, 7]


def test_a_definition_over_another_one_is_an_address_error() -> None:
    bank = memory()
    for address, count in [(3, 1), (4, 1), (990, 11), (1124, 5), (0, 5)]:
        with pytest.raises(AddressError, match="already defined"):
            bank.define(Table.HOLDING, address, count)
    with pytest.raises(AddressError, match="outside the table"):
        bank.define(Table.HOLDING, 65530, 7)


def test_a_definition_has_as_many_addresses_as_it_says_and_no_more() -> None:
    """pymodbus applies the count twice for some types (18 registers where 6 were meant)."""
    bank = RegisterBank()
    bank.define(Table.HOLDING, 10, 3)
    bank.define(Table.HOLDING, 20, 2, values=[1, 2])
    assert bank.read(Table.HOLDING, 10, 3) == [0, 0, 0]
    assert bank.read(Table.HOLDING, 20, 2) == [1, 2]
    for address, count in [(10, 4), (20, 3)]:
        with pytest.raises(AddressError):
            bank.read(Table.HOLDING, address, count)
    with pytest.raises(ValueError, match="2 values for 3 addresses"):
        bank.define(Table.HOLDING, 30, 3, values=[1, 2])


def test_values_outside_what_a_table_holds_are_refused_and_nothing_is_stored() -> None:
    bank = memory()
    for table, values in [(Table.HOLDING, [1, 65536]), (Table.HOLDING, [-1, 1]), (Table.COIL, [1, 2])]:
        before = bank.read(table, 0, 2)
        with pytest.raises(ValueError, match="values must be"):
            bank.write(table, 0, values)
        assert bank.read(table, 0, 2) == before


def test_the_device_itself_may_write_what_a_client_may_not() -> None:
    bank = memory()
    assert not bank.writable(Table.HOLDING, 3, 2)
    assert bank.writable(Table.HOLDING, 0, 4)
    bank.write(Table.HOLDING, 4, [98])
    assert bank.read(Table.HOLDING, 4, 1) == [98]


blocks = st.lists(
    st.tuples(st.integers(0, 40), st.lists(st.integers(0, 65535), min_size=1, max_size=6), st.booleans()),
    max_size=12,
)


@given(
    blocks, st.integers(-2, 48), st.integers(1, 12), st.lists(st.integers(0, 65535), min_size=1, max_size=5)
)
def test_a_bank_behaves_as_a_dictionary_of_addresses(
    definitions: list[tuple[int, list[int], bool]], address: int, count: int, written: list[int]
) -> None:
    bank, values, writable = RegisterBank(), dict[int, int](), dict[int, bool]()
    for start, given_values, may_write in definitions:
        span = range(start, start + len(given_values))
        if any(at in values for at in span):
            with pytest.raises(AddressError):
                bank.define(Table.HOLDING, start, values=given_values, writable=may_write)
            continue
        bank.define(Table.HOLDING, start, values=given_values, writable=may_write)
        values |= dict(zip(span, given_values, strict=True))
        writable |= dict.fromkeys(span, may_write)
    span = range(address, address + len(written))
    if all(at in values for at in span):
        bank.write(Table.HOLDING, address, written)
        values |= dict(zip(span, written, strict=True))
    else:
        with pytest.raises(AddressError):
            bank.write(Table.HOLDING, address, written)
    span = range(address, address + count)
    assert bank.writable(Table.HOLDING, address, count) == all(writable.get(at, False) for at in span)
    if all(at in values for at in span):
        assert bank.read(Table.HOLDING, address, count) == [values[at] for at in span]
    else:
        with pytest.raises(AddressError):
            bank.read(Table.HOLDING, address, count)


def test_a_file_holds_its_records_and_no_others() -> None:
    files = MemoryFiles({1: 10})
    files.write(1, 8, [5, 6])
    assert files.read(1, 7, 3) == [0, 5, 6]
    for file, record, count in [(2, 0, 1), (1, 9, 2), (1, -1, 2), (1, 0, 0)]:
        with pytest.raises(AddressError):
            files.read(file, record, count)
    with pytest.raises(AddressError):
        files.write(1, 9, [1, 2])
    with pytest.raises(AddressError, match="outside what Modbus can address"):
        MemoryFiles({1: 10_001})


# ---------------------------------------------------------------------------------------------------------
# The nine ways in which pymodbus's server departs from the specification (the eighth is above, the ninth below)


def test_every_request_of_one_segment_is_answered() -> None:
    wire = Wire(Device())
    answers = wire.feed(frame("0300000001", 1) + frame("0300010001", 2) + frame("0400020001", 3))
    assert answers == [(1, 1, "0302000a"), (2, 1, "0302000b"), (3, 1, "04020009")]


def test_late_replies_carry_the_transaction_of_their_own_request() -> None:
    device = Device(slow=True)
    wire = Wire(device)
    assert wire.feed(frame("0300000001", 0x11, unit=5) + frame("0300010001", 0x22, unit=6)) == []
    device.held[1]()
    device.held[0]()
    assert wire.feed(b"") == [(0x22, 6, "0302000b"), (0x11, 5, "0302000a")]


def test_a_foreign_protocol_id_costs_its_own_frame_only() -> None:
    device = Device()
    wire = Wire(device)
    foreign = frame("0300000001", 1, protocol=7)
    assert wire.feed(foreign + frame("0300000001", 2)) == [(2, 1, "0302000a")]
    assert device.refused == [foreign]
    assert device.reasons == ["protocol id 7"]


@pytest.mark.parametrize(
    ("request_pdu", "answer"),
    [
        pytest.param("63", "e301", id="function 0x63 does not exist"),
        pytest.param("00", "8001", id="function 0"),
        pytest.param("07", "8701", id="read exception status: serial line only"),
        pytest.param("180000", "9801", id="FIFO queue: not served"),
        pytest.param("5a00010203", "da01", id="a vendor's function"),
        pytest.param("99aa", "9901", id="a function above 0x80"),
        pytest.param("0800010000", "8801", id="diagnostics other than echo"),
        pytest.param("2b0d0000", "ab01", id="CANopen over MEI"),
        pytest.param("0300000000", "8303", id="read of no register"),
        pytest.param("030000007e", "8303", id="read of 126 registers"),
        pytest.param("040000007e", "8403", id="read of 126 input registers"),
        pytest.param("0100000000", "8103", id="read of no coil"),
        pytest.param("01000007d1", "8103", id="read of 2001 coils"),
        pytest.param("02000007d1", "8203", id="read of 2001 discrete inputs"),
        pytest.param("03000000", "8303", id="read cut short"),
        pytest.param("030000000100", "8303", id="read with a byte too many"),
        pytest.param("0500001234", "8503", id="coil value that is neither on nor off"),
        pytest.param("050000ff01", "8503", id="coil value nearly on"),
        pytest.param("060000", "8603", id="register write cut short"),
        pytest.param("0f0000000000", "8f03", id="write of no coil"),
        pytest.param("0f000007b1f7" + "00" * 247, "8f03", id="write of 1969 coils"),
        pytest.param("0f0000000902ff", "8f03", id="coil bytes missing"),
        pytest.param("0f0000000901ff", "8f03", id="coil byte count too small"),
        pytest.param("100000000000", "9003", id="write of no register"),
        pytest.param("100000000102000100", "9003", id="register byte too many"),
        pytest.param("100000000104000a", "9003", id="register byte count too large"),
        pytest.param("100000000201000a", "9003", id="register byte count odd"),
        pytest.param("1000", "9003", id="register write without a head"),
        pytest.param("1700000001000000000000", "9703", id="read and write with nothing to write"),
        pytest.param("170000007e0000000102000a", "9703", id="read and write of 126 and 1"),
        pytest.param("17000000010000007af4" + "00" * 242, "9703", id="read and write of 1 and 122"),
        pytest.param("16000000ff", "9603", id="mask write cut short"),
        pytest.param("1100", "9103", id="server id with a byte too many"),
        pytest.param("08", "8803", id="diagnostics without a sub-function"),
        pytest.param("2b", "ab03", id="MEI without a type"),
        pytest.param("2b0e01", "ab03", id="identification cut short"),
        pytest.param("2b0e0000", "ab03", id="identification level 0"),
        pytest.param("2b0e0500", "ab03", id="identification level 5"),
        pytest.param("2b0e0403", "ab02", id="identification object that does not exist"),
        pytest.param("1400", "9403", id="file read of nothing"),
        pytest.param("140606000100000001", "9403", id="file read with a wrong byte count"),
        pytest.param("140705000100000001", "9402", id="file reference type 5"),
        pytest.param("140706000100000079", "9402", id="file that does not exist"),
        pytest.param("140706000000000001", "9402", id="file number 0"),
        pytest.param("140706000127100001", "9402", id="record 10000"),
        pytest.param("14070600010000007a", "9403", id="file read longer than an answer"),
        pytest.param("1507060001000000000000", "9503", id="file write of nothing"),
        pytest.param("150906000100000002000a", "9503", id="file write with a record missing"),
        pytest.param("150905000100000001000a", "9502", id="file write with reference type 5"),
        pytest.param("150906000100000001000a", "9502", id="file write to a file that does not exist"),
        pytest.param("0300050001", "8302", id="register that is not defined"),
        pytest.param("03ffff0002", "8302", id="read past the last address"),
        pytest.param("0600040001", "8602", id="register that a client may not write"),
        pytest.param("160004ffff0000", "9602", id="mask write of such a register"),
        pytest.param("10000300020400010002", "9002", id="write of which one register is read-only"),
        pytest.param("0500100000", "8502", id="coil that is not defined"),
        pytest.param("0f000f00020103", "8f02", id="coils of which one is not defined"),
    ],
)
def test_a_request_that_cannot_be_served_gets_the_exception_of_its_own_function(
    request_pdu: str, answer: str
) -> None:
    device = Device()
    wire = Wire(device)
    before = device.bank.read(Table.HOLDING, 0, 5)
    assert wire.ask(request_pdu) == answer
    assert device.bank.read(Table.HOLDING, 0, 5) == before
    assert wire.ask("0300000001") == "0302000a"


def test_a_unit_that_is_not_served_gets_silence_or_the_gateway_exception() -> None:
    device = Device(unit_ids=frozenset({1, 255}))
    silent, gateway = Wire(device), Wire(device, unknown_unit=GATEWAY_NO_RESPONSE)
    stream = frame("0300000001", 1, unit=9) + frame("0300000001", 2, unit=255)
    assert silent.feed(stream) == [(2, 255, "0302000a")]
    assert gateway.feed(stream) == [(1, 9, "830b"), (2, 255, "0302000a")]
    assert len(device.requests) == 2


def test_two_devices_of_one_process_each_keep_their_identity() -> None:
    pump = Wire(Device(identity=DeviceIdentity("Pump Maker", "P1", "1.0")))
    valve = Wire(Device(identity=DeviceIdentity("Valve Maker", "V2", "3.0")))
    vendor = "2b0e0400"
    assert bytes.fromhex(pump.ask(vendor)).endswith(b"Pump Maker")
    assert bytes.fromhex(valve.ask(vendor)).endswith(b"Valve Maker")
    assert bytes.fromhex(pump.ask("11"))[2:] == b"Pump Maker P1 1.0\xff"


# ---------------------------------------------------------------------------------------------------------
# Framing and connections


@given(st.data())
def test_a_stream_cut_anywhere_gets_the_answers_of_the_whole(data: st.DataObject) -> None:
    # 11 has the shortest frame there is, which pymodbus's framer confuses with the start of the next.
    pdus = ["0300000004", "11", "11", "0500000000", "63", "1000000002040001" + "0002", "0100000010"]
    stream = b"".join(frame(pdu, number) for number, pdu in enumerate(pdus))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=12)) | {0, len(stream)})
    wire = Wire(Device())
    pieces = [stream[start:stop] for start, stop in pairwise(cuts)]
    answers = [answer for piece in pieces for answer in wire.feed(piece)]
    assert answers == Wire(Device()).feed(stream)
    assert [transaction for transaction, _, _ in answers] == list(range(len(pdus)))


def test_interleaved_clients_do_not_mix() -> None:
    device = Device()
    first, second = Wire(device), Wire(device)
    one, two = frame("0300000001", 1), frame("0300010001", 2)
    assert first.feed(one[:5]) == []
    assert second.feed(two[:9]) == []
    assert first.feed(one[5:]) == [(1, 1, "0302000a")]
    assert second.feed(two[9:]) == [(2, 1, "0302000b")]


@pytest.mark.parametrize("length", [0, 1, 255, 65535])
def test_a_length_that_no_frame_can_have_closes_the_connection_after_what_came_before(length: int) -> None:
    device = Device()
    wire = Wire(device)
    bad = frame("0300000001", 2, length=length)
    assert wire.feed(frame("0300000001", 1) + bad) == [(1, 1, "0302000a")]
    assert wire.closed
    assert device.refused == [bad]
    assert wire.feed(frame("0300000001", 3)) == []


def test_a_wrong_length_is_seen_before_the_frame_is_complete() -> None:
    wire = Wire(Device())
    wire.feed(bytes.fromhex("000100000000"))
    assert wire.closed


def test_a_stream_out_of_step_stays_so() -> None:
    splitter = FrameSplitter()
    assert splitter.feed(frame("11") + b"\0\1\0\0\0\0") == [(1, 0, 1, b"\x11")]
    assert splitter.lost == b"\0\1\0\0\0\0"
    assert splitter.feed(frame("11")) == []


def test_a_peer_that_is_not_admitted_is_disconnected_and_never_served() -> None:
    device = Device(welcome=False)
    wire = Wire(device)
    assert wire.closed
    assert wire.feed(frame("0300000001")) == []
    wire.server.connection_lost(None)
    assert device.requests == []
    assert device.gone == []


def test_an_admitted_peer_departs_once_and_late_replies_to_it_go_nowhere() -> None:
    device = Device(slow=True)
    wire = Wire(device)
    wire.feed(frame("0300000001"))
    wire.server.connection_lost(None)
    device.held[0]()
    assert wire.sent == b""
    assert device.gone == device.peers == [Peer("192.0.2.9", 40000)]


def test_a_peer_that_does_not_read_its_answers_is_not_read_from() -> None:
    wire = Wire(Device())
    wire.server.pause_writing()
    assert not wire.reading
    wire.server.resume_writing()
    assert wire.reading


pdus = st.one_of(
    st.binary(min_size=1, max_size=253),
    st.builds(
        lambda function, body: bytes((function,)) + body,
        st.sampled_from([1, 2, 3, 4, 5, 6, 8, 15, 16, 17, 20, 21, 22, 23, 43]),
        st.binary(max_size=40),
    ),
)


@given(st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 255), pdus), max_size=8))
def test_every_frame_of_any_content_gets_one_answer_with_its_transaction_unit_and_function(
    requests: list[tuple[int, int, bytes]],
) -> None:
    wire = Wire(Device(files=MemoryFiles({1: 100})))
    stream = b"".join(frame(pdu.hex(), transaction, unit) for transaction, unit, pdu in requests)
    answers = wire.feed(stream)
    assert len(answers) == len(requests)
    for (transaction, unit, pdu), answer in zip(requests, answers, strict=True):
        assert answer[:2] == (transaction, unit)
        assert bytes.fromhex(answer[2])[0] in (pdu[0], pdu[0] | 0x80)
        assert 2 <= len(bytes.fromhex(answer[2])) <= 253


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_no_bytes_whatever_stop_the_server_or_the_next_connection(pieces: list[bytes]) -> None:
    device = Device()
    wire = Wire(device)
    for piece in pieces:
        wire.server.data_received(piece)
    assert Wire(device).feed(frame("0400000001"))[0][2] == "04020007"


@given(pdus)
def test_a_request_that_is_not_refused_is_described_and_encodes_to_the_bytes_it_came_from(pdu: bytes) -> None:
    try:
        request = parse_request(pdu)
    except MalformedRequest:
        return
    assert describe(request).function == pdu[0]
    if pdu[0] == 15:  # padding bits of the last byte are not kept
        assert len(request.encode()) == len(pdu) - 1
    else:
        assert bytes((pdu[0],)) + request.encode() == pdu


@given(st.integers(0, 255), pdus)
def test_a_response_of_any_bytes_is_decoded_or_none(unit: int, pdu: bytes) -> None:
    response = parse_response(unit, pdu)
    assert response is None or response.function_code == pdu[0]


# ---------------------------------------------------------------------------------------------------------
# Functions


@pytest.mark.parametrize(
    ("request_pdu", "answer"),
    [
        pytest.param("0100000010", "01020000", id="coils"),
        pytest.param("0200000003", "020105", id="discrete inputs"),
        pytest.param("0300020003", "0306000c000d0063", id="holding registers up to a read-only one"),
        pytest.param("0400000003", "0406000700080009", id="input registers"),
        pytest.param("050001ff00", "050001ff00", id="coil on"),
        pytest.param("0600011234", "0600011234", id="one register"),
        pytest.param("0f0000000a02ff03", "0f0000000a", id="ten coils"),
        pytest.param("100000000204000a0102", "1000000002", id="two registers"),
        pytest.param("0800000badcafe", "0800000badcafe", id="echo"),
        pytest.param("16000000f200250025"[:14], "16000000f20025", id="mask write"),
    ],
)
def test_a_request_gets_the_answer_of_the_specification(request_pdu: str, answer: str) -> None:
    assert Wire(Device()).ask(request_pdu) == answer


def test_written_coils_and_registers_read_back() -> None:
    wire = Wire(Device())
    wire.ask("0f0003000a02cd01")  # the example of V1.1b3, 6.11, at another address
    assert wire.ask("010003000a") == "0102cd01"
    wire.ask("050003ff00")
    wire.ask("0500050000")
    assert wire.ask("010003000a") == "0102c901"
    wire.ask("100000000204000a0102")
    assert wire.ask("0300000002") == "0304000a0102"


def test_a_mask_write_follows_the_formula_of_the_specification() -> None:
    wire = Wire(Device())
    wire.ask("0600000012")
    wire.ask("16000000f20025")
    assert wire.ask("0300000001") == "03020017"  # V1.1b3, 6.16: 0x12, AND 0xF2, OR 0x25 gives 0x17


def test_reading_and_writing_in_one_request_writes_first() -> None:
    wire = Wire(Device())
    assert wire.ask("1700000003000100010207d0") == "1706000a07d0000c"


@pytest.mark.parametrize(
    "request_pdu",
    [
        pytest.param("170005000100000001020001", id="the read part is not defined"),
        pytest.param("170000000100040001020001", id="the write part is read-only"),
    ],
)
def test_reading_and_writing_changes_nothing_when_either_part_is_refused(request_pdu: str) -> None:
    device = Device()
    before = device.bank.read(Table.HOLDING, 0, 5)
    assert Wire(device).ask(request_pdu) == "9702"
    assert device.bank.read(Table.HOLDING, 0, 5) == before


def test_the_largest_reads_fit() -> None:
    device = Device()
    device.bank.define(Table.COIL, 100, 2000)
    wire = Wire(device)
    assert wire.ask("0303e8007d") == "03fa" + "0000" * 125
    assert wire.ask("01006407d0") == "01fa" + "00" * 250


def test_file_records_of_several_files_are_written_and_read_in_one_request() -> None:
    device = Device(files=MemoryFiles({1: 10, 2: 10}))
    wire = Wire(device)
    write = "1514" + "06000100030002aaaabbbb" + "06000200000001cccc"
    assert wire.ask(write) == write
    assert wire.ask("140e" + "06000100030002" + "06000200000001") == "140a" + "0506aaaabbbb" + "0306cccc"


def test_a_file_write_of_which_one_part_is_refused_writes_nothing() -> None:
    device = Device(files=MemoryFiles({1: 10}))
    assert Wire(device).ask("1512" + "06000100000001aaaa" + "060009000000" + "01cccc") == "9502"
    assert device.files.read(1, 0, 1) == [0]


FULL = DeviceIdentity("V", "P", "R", "U", "N", "M", "A", private=((0x81, "late"), (0x80, "early")))


@pytest.mark.parametrize(
    ("identity", "request_pdu", "conformity", "objects"),
    [
        pytest.param(FULL, "2b0e0100", 0x83, [0, 1, 2], id="basic"),
        pytest.param(FULL, "2b0e0200", 0x83, [0, 1, 2, 3, 4, 5, 6], id="regular"),
        pytest.param(FULL, "2b0e0300", 0x83, [0, 1, 2, 3, 4, 5, 6, 0x80, 0x81], id="extended"),
        pytest.param(FULL, "2b0e0305", 0x83, [5, 6, 0x80, 0x81], id="extended, from an object on"),
        pytest.param(FULL, "2b0e0142", 0x83, [0, 1, 2], id="basic, from an object that does not exist"),
        pytest.param(FULL, "2b0e0105", 0x83, [0, 1, 2], id="basic, from an object of a higher level"),
        pytest.param(FULL, "2b0e0481", 0x83, [0x81], id="one object"),
        pytest.param(IDENTITY, "2b0e0200", 0x83, [0, 1, 2, 5], id="only the objects there are"),
        pytest.param(DeviceIdentity("V", "P", "R", "U"), "2b0e0300", 0x82, [0, 1, 2, 3], id="regular device"),
        pytest.param(DeviceIdentity("V", "P", "R"), "2b0e0300", 0x81, [0, 1, 2], id="basic device"),
    ],
)
def test_identification_lists_the_objects_of_the_level_asked_for(
    identity: DeviceIdentity, request_pdu: str, conformity: int, objects: list[int]
) -> None:
    answer = bytes.fromhex(Wire(Device(identity=identity)).ask(request_pdu))
    assert answer[3] == conformity
    assert answer[4:7] == bytes((0, 0, len(objects)))
    found, at = [], 7
    while at < len(answer):
        found.append(answer[at])
        at += 2 + answer[at + 1]
    assert found == objects


def test_identification_that_does_not_fit_says_where_to_go_on() -> None:
    answer = bytes.fromhex(Wire(Device(identity=LONG)).ask("2b0e0200"))
    assert answer[4:7] == bytes((0xFF, 3, 3))
    assert len(answer) <= 253


LONG = DeviceIdentity("v" * 100, "p" * 100, "1", "u" * 244, "n" * 100)


def test_an_identity_that_no_response_can_carry_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than 244"):
        DeviceIdentity("v" * 245, "p", "1")
    with pytest.raises(ValueError, match="from 0x80"):
        DeviceIdentity("v", "p", "1", private=((7, "seven"),))
    with pytest.raises(ValueError, match="ascii"):
        DeviceIdentity("Größe", "p", "1")


def test_the_server_id_tells_whether_the_device_runs() -> None:
    for running, status in [(True, 0xFF), (False, 0x00)]:
        response = execute(memory(), IDENTITY, MemoryFiles(), ReportDeviceIdRequest(), running=running)
        assert response.encode() == b"\x18Example Works PLC-7 2.4" + bytes((status,))


@pytest.mark.parametrize(
    "request_",
    [
        read_request(Table.HOLDING, 0, 0),
        read_request(Table.HOLDING, 0, 126),
        read_request(Table.COIL, 0, 2001),
        ReadWriteMultipleRegistersRequest(read_address=0, read_count=1, write_address=0, write_registers=[]),
        ReadWriteMultipleRegistersRequest(
            read_address=0, read_count=1, write_address=1000, write_registers=[0] * 122
        ),
        WriteMultipleCoilsRequest(bits=[True] * 1969),
        WriteMultipleRegistersRequest(registers=[0] * 124),
        ReadFileRecordRequest(records=[FileRecord(1, 0, b"", 244), FileRecord(1, 0, b"", 2)]),
    ],
    ids=lambda request: type(request).__name__,
)
def test_a_quantity_out_of_bounds_is_refused_even_when_it_never_was_on_the_wire(request_: ModbusPDU) -> None:
    response = execute(memory(), IDENTITY, MemoryFiles({1: 200}), request_)
    assert (response.function_code & 0x7F, response.exception_code) == (
        request_.function_code,
        ILLEGAL_VALUE,
    )


@pytest.mark.parametrize(
    ("request_", "access"),
    [
        (read_request(Table.INPUT, 3, 2), Access(4, "read", Table.INPUT, 3, 2)),
        (read_request(Table.COIL, 3, 2), Access(1, "read", Table.COIL, 3, 2)),
        (write_request(Table.COIL, 3, [1]), Access(5, "write", Table.COIL, 3, 1, (1,))),
        (write_request(Table.COIL, 3, [1, 0]), Access(15, "write", Table.COIL, 3, 2, (1, 0))),
        (write_request(Table.HOLDING, 3, [0]), Access(6, "write", Table.HOLDING, 3, 1, (0,))),
        (write_request(Table.HOLDING, 3, [7, 8]), Access(16, "write", Table.HOLDING, 3, 2, (7, 8))),
        (MaskWriteRegisterRequest(3, 0xF0, 1), Access(22, "write", Table.HOLDING, 3, 1)),
        (
            ReadWriteMultipleRegistersRequest(1, 2, 3, [4, 5]),
            Access(23, "write", Table.HOLDING, 3, 2, (4, 5), read=Access(23, "read", Table.HOLDING, 1, 2)),
        ),
        (
            WriteFileRecordRequest([FileRecord(1, 9, b"\0\1\0\2"), FileRecord(4, 0, b"\0\3")]),
            Access(21, "file", None, 9, 3, (1, 2, 3), files=(1, 4)),
        ),
        (ReadFileRecordRequest([FileRecord(1, 9, b"", 6)]), Access(20, "file", None, 9, 3, files=(1,))),
        (ReadDeviceInformationRequest(1, 0), Access(43, "identify")),
        (ReportDeviceIdRequest(), Access(17, "identify")),
        (ReturnQueryDataRequest(0), Access(8, "diagnose")),
        (UnknownRequest(90, b"\1"), Access(90, "diagnose")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_policy_sees_what_a_request_would_do(request_: ModbusPDU, access: Access) -> None:
    assert describe(request_) == access


def test_what_a_mask_write_would_store_is_told_to_a_policy_that_has_the_memory() -> None:
    assert describe(MaskWriteRegisterRequest(0, 0xFFF0, 0x5), memory()).values == (5,)
    assert describe(MaskWriteRegisterRequest(500, 0xFFF0, 0x5), memory()).values == ()


def test_writes_that_no_request_can_carry_are_refused_before_they_are_sent() -> None:
    for table, count in [(Table.INPUT, 1), (Table.HOLDING, 124), (Table.COIL, 1969), (Table.COIL, 0)]:
        with pytest.raises(ValueError, match="no request writes"):
            write_request(table, 0, [0] * count)


# ---------------------------------------------------------------------------------------------------------
# Client


@asynccontextmanager
async def serving(
    factory: Callable[[], asyncio.Protocol], context: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Serve on loopback; gives the port."""
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def connected(device: ModbusService, limit: float = 3.0) -> AsyncIterator[ModbusClient]:
    async with serving(server_protocol(device)) as port:
        client = ModbusClient("127.0.0.1", port, timeout=limit)
        try:
            yield client
        finally:
            client.close()


@pytest.mark.realtime
async def test_a_client_reads_and_writes_every_table() -> None:
    async with connected(Device()) as client:
        await client.connect()
        assert client.connected
        assert await client.read(Table.HOLDING, 0, 4) == [10, 11, 12, 13]
        assert await client.read(Table.INPUT, 0, 3) == [7, 8, 9]
        assert await client.read(Table.DISCRETE, 0, 3) == [1, 0, 1]
        assert await client.write(Table.COIL, 2, [1, 1, 0, 1]) is None
        assert await client.write(Table.COIL, 2, [0]) is None
        assert await client.read(Table.COIL, 1, 5) == [0, 0, 1, 0, 1]
        assert await client.write(Table.HOLDING, 0, [1]) is None
        assert await client.write(Table.HOLDING, 1, [2, 3]) is None
        assert await client.read(Table.HOLDING, 0, 4) == [1, 2, 3, 13]


@pytest.mark.realtime
async def test_a_refusal_is_a_value() -> None:
    async with connected(Device()) as client:
        assert await client.read(Table.HOLDING, 500, 1) == Refusal(3, ILLEGAL_ADDRESS)
        refused = await client.write(Table.HOLDING, 4, [1])
        assert refused == Refusal(6, ILLEGAL_ADDRESS)
        assert str(refused) == "function 6: illegal data address"
        assert await client.read_file(1, 0, 1) == Refusal(20, ILLEGAL_ADDRESS)
        assert await client.write_file(1, 0, [1]) == Refusal(21, ILLEGAL_ADDRESS)
        for function in (0, 7, 99, 0x99):
            response = await client.request(UnknownRequest(function, b"\1\2"))
            assert isinstance(response, ExceptionResponse)
            assert response.exception_code == ILLEGAL_FUNCTION


@pytest.mark.realtime
async def test_a_program_travels_through_file_records() -> None:
    device = Device(files=MemoryFiles({PROGRAM_FILE: 300}))
    program = list(range(1000, 1300))
    async with connected(device) as client:
        for start in range(0, 300, 122):
            assert await client.write_file(PROGRAM_FILE, start, program[start : start + 122]) is None
        read: list[int] = []
        while len(read) < 300:
            part = await client.read_file(PROGRAM_FILE, len(read), min(121, 300 - len(read)))
            assert isinstance(part, list)
            read += part
    assert read == program


@pytest.mark.realtime
async def test_identification_is_collected_over_as_many_requests_as_it_takes() -> None:
    async with connected(Device(identity=LONG)) as client:
        assert await client.identify() == {
            "VendorName": "v" * 100,
            "ProductCode": "p" * 100,
            "MajorMinorRevision": "1",
            "VendorUrl": "u" * 244,
            "ProductName": "n" * 100,
        }
    async with connected(Device()) as client:
        assert (await client.identify())["0x80"] == "rack 2"
        assert await client.server_id() == b"Example Works PLC-7 2.4"


@dataclass
class Mute(Device):
    """Refuses to say what it is."""

    def submit(self, peer: Peer, request: ModbusPDU, reply: Callable[[ModbusPDU], None]) -> None:
        reply(exception(request, DEVICE_BUSY))


@pytest.mark.realtime
async def test_a_device_that_refuses_identification_is_nobody() -> None:
    async with connected(Mute()) as client:
        assert await client.identify() == {}
        assert await client.server_id() == b""


@pytest.mark.realtime
async def test_requests_in_flight_get_their_own_answers_whatever_the_order() -> None:
    device = Device(slow=True)
    device.bank.define(Table.INPUT, 100, values=list(range(40)))
    async with connected(device) as client:
        reads = [asyncio.ensure_future(client.read(Table.INPUT, 100 + at, 1)) for at in range(40)]
        while len(device.held) < len(reads):
            device.arrived.clear()
            await device.arrived.wait()
        for release in reversed(device.held):
            release()
        assert await asyncio.gather(*reads) == [[at] for at in range(40)]
        assert len(device.peers) == 1


@pytest.mark.realtime
async def test_no_answer_in_time_is_a_timeout_and_a_late_one_disturbs_nothing() -> None:
    device = Device(slow=True)
    async with connected(device, limit=0.05) as client:
        with pytest.raises(TimeoutError, match=r"no answer to function 3 within 0\.05 s"):
            await client.read(Table.HOLDING, 0, 1)
        device.slow = False
        device.held[0]()
        assert await client.read(Table.HOLDING, 1, 1) == [11]
        assert client.connected
        device.slow = True
        results = await asyncio.gather(
            *(client.read(Table.HOLDING, 0, 1) for _ in range(3)), return_exceptions=True
        )
        assert [type(result) for result in results] == [TimeoutError] * 3


@pytest.mark.realtime
async def test_a_canceled_request_leaves_the_connection_usable() -> None:
    device = Device(slow=True)
    async with connected(device) as client:
        task = asyncio.ensure_future(client.read(Table.HOLDING, 0, 1))
        await device.arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        device.slow = False
        device.held[0]()
        assert await client.read(Table.HOLDING, 1, 1) == [11]


@pytest.mark.realtime
async def test_a_canceled_request_does_not_disturb_closing() -> None:
    device = Device(slow=True)
    async with connected(device) as client:
        task = asyncio.ensure_future(client.read(Table.HOLDING, 0, 1))
        await device.arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        client.close()
        device.slow = False
        assert await client.read(Table.HOLDING, 1, 1) == [11]


@pytest.mark.realtime
async def test_each_request_has_the_whole_time_limit_to_itself() -> None:
    device = Device()
    async with connected(device, limit=0.05) as client:
        for _ in range(20):
            await client.read(Table.HOLDING, 0, 1)
        device.slow = True
        loop = asyncio.get_running_loop()
        sent = loop.time()
        with pytest.raises(TimeoutError):
            await client.read(Table.HOLDING, 0, 1)
        assert loop.time() - sent >= 0.05


@pytest.mark.realtime
async def test_transaction_ids_wrap_around_those_still_in_flight() -> None:
    device = Device(slow=True)
    async with connected(device) as client:
        first = asyncio.ensure_future(client.read(Table.HOLDING, 0, 1))
        await device.arrived.wait()
        device.slow = False
        assert client._link is not None
        client._link._last = 0xFFFE
        assert [await client.read(Table.HOLDING, 1, 1) for _ in range(4)] == [[11]] * 4
        assert [request.transaction_id for request in device.requests] == [1, 0xFFFF, 0, 2, 3]
        device.held[0]()
        assert await first == [10]


class Scripted(asyncio.Protocol):
    """A peer that answers each segment with whatever the script says; None closes the connection."""

    def __init__(self, script: list[bytes | None]) -> None:
        self._script = script

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        answer = self._script.pop(0)
        if answer is None:
            self._transport.close()
        else:
            self._transport.write(answer)


@pytest.mark.realtime
async def test_a_lost_connection_fails_what_is_in_flight_and_the_next_request_makes_a_new_one() -> None:
    script: list[bytes | None] = [None, frame("03020005", 1)]
    async with serving(lambda: Scripted(script)) as port:
        client = ModbusClient("127.0.0.1", port)
        with pytest.raises(ConnectionError, match="closed by the peer"):
            await client.read(Table.HOLDING, 0, 1)
        assert not client.connected
        assert await client.read(Table.HOLDING, 0, 1) == [5]
        client.close()
        assert not client.connected


@pytest.mark.realtime
async def test_closing_fails_what_is_in_flight() -> None:
    device = Device(slow=True)
    async with connected(device) as client:
        task = asyncio.ensure_future(client.read(Table.HOLDING, 0, 1))
        await device.arrived.wait()
        client.close()
        with pytest.raises(ConnectionError, match="connection closed"):
            await task


@pytest.mark.realtime
async def test_requests_that_find_no_connection_open_one_together() -> None:
    device = Device()
    async with connected(device) as client:
        await asyncio.gather(*(client.read(Table.HOLDING, 0, 1) for _ in range(5)))
        assert len(device.peers) == 1


@pytest.mark.realtime
async def test_a_port_where_nobody_listens_is_a_connection_error() -> None:
    async with serving(server_protocol(Device())) as port:
        pass
    with pytest.raises(ConnectionError):
        await ModbusClient("127.0.0.1", port).connect()


@pytest.mark.realtime
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(frame("04020005", 1), "makes no sense", id="another function"),
        pytest.param(frame("0304", 1), "makes no sense", id="cut short"),
        pytest.param(frame("03040005", 1), "makes no sense", id="byte count too large"),
        pytest.param(frame("83", 1), "makes no sense", id="exception without a code"),
        pytest.param(frame("030400050006", 1), "2 values in the answer to a read of 1", id="too many"),
        pytest.param(frame("03020005", 1, length=0), "length that no frame can have", id="length 0"),
    ],
)
async def test_an_answer_that_is_none_to_the_request_is_a_connection_error(
    answer: bytes, reason: str
) -> None:
    async with serving(lambda: Scripted([answer])) as port:
        client = ModbusClient("127.0.0.1", port)
        with pytest.raises(ConnectionError, match=reason):
            await client.read(Table.HOLDING, 0, 1)
        client.close()


@pytest.mark.realtime
async def test_fewer_records_than_asked_for_are_a_connection_error() -> None:
    async with serving(lambda: Scripted([frame("140403060001", 1)])) as port:
        client = ModbusClient("127.0.0.1", port)
        with pytest.raises(ConnectionError, match="1 records in the answer to a read of 2"):
            await client.read_file(1, 0, 2)
        client.close()


@pytest.mark.realtime
async def test_answers_to_nobody_and_of_foreign_protocols_are_passed_over() -> None:
    stray = frame("03020001", 77) + frame("03020002", 1, protocol=5) + frame("03020003", 1)
    async with serving(lambda: Scripted([stray])) as port:
        client = ModbusClient("127.0.0.1", port)
        assert await client.read(Table.HOLDING, 0, 1) == [3]
        client.close()


@pytest.mark.realtime
async def test_a_device_that_points_backward_does_not_keep_its_client_for_good() -> None:
    loop_back = frame("2b0e0383ff0001" + "000141", 1)
    async with serving(lambda: Scripted([loop_back])) as port:
        client = ModbusClient("127.0.0.1", port)
        assert await client.identify() == {"VendorName": "A"}
        client.close()


@pytest.mark.realtime
async def test_one_request_may_go_to_another_unit() -> None:
    device = Device()
    async with connected(device) as client:
        await client.request(read_request(Table.HOLDING, 0, 1), unit=9)
        await client.read(Table.HOLDING, 0, 1)
        assert [request.dev_id for request in device.requests] == [9, 1]


# ---------------------------------------------------------------------------------------------------------
# TLS


@dataclass(frozen=True)
class Authority:
    """A certificate authority in a folder, and contexts made of what it issues."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def issue(self, name: str, *extensions: tuple[x509.ExtensionType, bool]) -> Path:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(name, key, self.certificate.subject, self.key, extensions)
        path = self.folder / f"{name}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        return path

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        names = x509.SubjectAlternativeName([x509.DNSName("plc.test")])
        context.load_cert_chain(self.issue("plc.test", (names, False)))
        context.load_verify_locations(self.folder / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client(self, certificate: Path | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        if certificate is not None:
            context.load_cert_chain(certificate)
        return context


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    extensions: Sequence[tuple[x509.ExtensionType, bool]],
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hashes.SHA256())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    folder = tmp_path_factory.mktemp("pki")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")])
    ca = (x509.BasicConstraints(ca=True, path_length=None), True)
    certificate = _certificate("Test CA", key, subject, key, [ca])
    (folder / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return Authority(folder, key, certificate)


def role_extension(value: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.50316.802.1"), value)


@pytest.mark.realtime
@pytest.mark.parametrize(
    ("extension", "role"),
    [
        pytest.param(b"\x0c\x08operator", "operator", id="UTF8String"),
        pytest.param(b"\x13\x08operator", None, id="another string type"),
        pytest.param(b"\x0c\x09operator", None, id="wrong length"),
        pytest.param(b"\x0c\x02\xff\xfe", None, id="not UTF-8"),
        pytest.param(b"", None, id="empty"),
        pytest.param(None, None, id="no role"),
    ],
)
async def test_a_client_certificate_gives_the_peer_a_name_and_a_role(
    authority: Authority, extension: bytes | None, role: str | None
) -> None:
    extensions = [] if extension is None else [(role_extension(extension), False)]
    mine = authority.issue("hmi-1", *extensions)
    device = Device()
    async with serving(server_protocol(device), authority.server()) as port:
        client = ModbusClient("127.0.0.1", port, ssl=authority.client(mine), server_hostname="plc.test")
        assert await client.read(Table.HOLDING, 0, 2) == [10, 11]
        client.close()
    (peer,) = device.peers
    assert (peer.identity, peer.role) == ("hmi-1", role)


@pytest.mark.realtime
async def test_a_client_without_a_certificate_is_turned_away_with_a_connection_error(
    authority: Authority,
) -> None:
    device = Device()
    async with serving(server_protocol(device), authority.server()) as port:
        client = ModbusClient("127.0.0.1", port, ssl=authority.client(None), server_hostname="plc.test")
        with pytest.raises(ConnectionError):
            await client.read(Table.HOLDING, 0, 2)
        client.close()
    assert device.peers == []


@pytest.mark.realtime
async def test_a_peer_that_never_finishes_the_handshake_is_a_timeout(authority: Authority) -> None:
    mine = authority.issue("hmi-4")
    async with serving(lambda: Scripted([b""])) as port:
        client = ModbusClient(
            "127.0.0.1", port, timeout=0.05, ssl=authority.client(mine), server_hostname="plc.test"
        )
        with pytest.raises(TimeoutError, match=rf"no connection to 127\.0\.0\.1:{port} within 0\.05 s"):
            await client.connect()


@pytest.mark.realtime
async def test_a_server_under_another_name_is_a_connection_error(authority: Authority) -> None:
    mine = authority.issue("hmi-2")
    async with serving(server_protocol(Device()), authority.server()) as port:
        client = ModbusClient("127.0.0.1", port, ssl=authority.client(mine), server_hostname="other.test")
        with pytest.raises(ConnectionError, match="certificate verify failed"):
            await client.connect()


@pytest.mark.realtime
async def test_a_frame_split_over_two_tls_records_is_one_request(authority: Authority) -> None:
    one, two = frame("0300000001", 1), frame("0300010001", 2)
    mine = authority.issue("hmi-3")
    async with serving(server_protocol(Device()), authority.server()) as port:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=authority.client(mine), server_hostname="plc.test"
        )
        writer.write(one + two[:9])
        # Its answer proves that the server has had the first record, and so half of the second frame.
        assert (await reader.readexactly(11)).hex() == "000100000005010302000a"
        writer.write(two[9:])
        assert (await reader.readexactly(11)).hex() == "000200000005010302000b"
        writer.close()
        await writer.wait_closed()
