"""Captures: what Wireshark's dissectors make of them, and that they are whole, equal and harmless."""

from __future__ import annotations

import asyncio
import shutil
import struct
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.capture import Capture, _checksum
from testbed.clock import SimLoop
from testbed.errors import RunError
from testbed.network import Network, Packet
from testbed.randomness import Randomness

TSHARK = shutil.which("tshark")
needs_tshark = pytest.mark.skipif(TSHARK is None, reason="tshark is not installed")
EPOCH = datetime(2026, 1, 5, 6, 0, tzinfo=UTC)


async def read(reader: asyncio.StreamReader, size: int) -> bytes:
    """What comes next, nothing at the end, however the connection ended."""
    try:
        return await reader.read(size)
    except ConnectionResetError:
        return b""


class World:
    """An HMI in operations polls a PLC in control by hand-made Modbus, and says so to a log server."""

    def __init__(
        self, path: Path, *, loss: float = 0.0, links: Callable[[Network], Any] = lambda _: None
    ) -> None:
        self.loop = SimLoop()
        self.network = Network(self.loop, Randomness(9))
        self.network.zone("operations", "10.0.2.0/24")
        self.network.zone("control", "10.0.3.0/24")
        self.conduit = self.network.conduit("operations-control", "operations", "control", loss=loss)
        self.hmi = self.network.host("hmi", "operations", "10.0.2.10")
        self.log = self.network.host("log", "operations", "10.0.2.20")
        self.plc = self.network.host("plc", "control", "10.0.3.10")
        self.evil = self.network.host("evil", "control", "10.0.3.66")
        self.capture = Capture(path, EPOCH)
        self.capture.attach(self.network, links(self.network))
        self.outcome: list[str] = []
        self.plc.spawn(self.serve())
        self.log.spawn(self.listen())

    async def serve(self) -> None:
        async def modbus(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while head := await read(reader, 8):
                head += await reader.readexactly(8 - len(head))
                transaction, _, length, unit, function = struct.unpack(">HHHBB", head)
                body = await reader.readexactly(length - 2)
                answer = {3: b"\x04\0\1\0\2", 16: body[:4], 43: b"\x02"}[function]
                function |= 0x80 if function == 43 else 0
                writer.write(struct.pack(">HHHBB", transaction, 0, 2 + len(answer), unit, function) + answer)
            writer.close()

        async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read(reader, -1)
            writer.close()

        await asyncio.start_server(modbus, None, 502)
        await asyncio.start_server(sink, None, 9)

    async def listen(self) -> None:
        await self.loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("0.0.0.0", 514))

    async def day(self) -> None:
        reader, writer = await asyncio.open_connection("plc", 502)
        requests = [b"\x03\0\0\0\2", b"\x10\0\5\0\1\2\0\7", b"\x2b\x0e\1\0"]
        for number in range(30):
            pdu = requests[number % 3]
            writer.write(struct.pack(">HHHB", number, 0, 1 + len(pdu), 1) + pdu)
            head = await reader.readexactly(6)
            await reader.readexactly(head[5])
            await asyncio.sleep(1)
        writer.close()
        await writer.wait_closed()
        reader, writer = await asyncio.open_connection("plc", 9)
        for size in (100_000, 1, 1460, 1461, 2920):
            writer.write(b"x" * size)
            await writer.drain()
            await asyncio.sleep(1)
        writer.close()
        await writer.wait_closed()
        try:
            await asyncio.open_connection("plc", 81)
        except ConnectionRefusedError:
            self.outcome.append("refused")
        datagrams, _ = await self.loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=("log", 514)
        )
        assert isinstance(datagrams, asyncio.DatagramTransport)
        for message in (b"<14>1 - hmi lab - - - polled", b"", b"x" * 4001):
            datagrams.sendto(message)
        reader, writer = await asyncio.open_connection("plc", 502)
        writer.transport.abort()
        self.outcome.append("done")

    def run(self) -> World:
        self.hmi.spawn(self.day())
        self.loop.run_to(500)
        self.loop.close()
        self.capture.close()
        assert self.outcome == ["refused", "done"]
        return self


Row = dict[str, str]
FIELDS = (
    "frame.number", "frame.time_epoch", "frame.interface_name", "frame.protocols", "frame.len", "eth.src", "eth.dst",
    "ip.src", "ip.id", "ip.checksum.status", "tcp.checksum.status", "udp.checksum.status", "tcp.srcport",
    "tcp.dstport", "tcp.flags.str", "tcp.stream", "tcp.seq", "tcp.ack", "tcp.len", "tcp.options.mss_val",
    "tcp.analysis.retransmission", "tcp.analysis.out_of_order", "tcp.analysis.ack_lost_segment",
    "tcp.analysis.lost_segment", "tcp.analysis.duplicate_ack", "tcp.analysis.keep_alive", "udp.length",
    "modbus.func_code", "mbtcp.trans_id", "modbus.exception_code", "arp.src.hw_mac", "arp.opcode", "syslog.level",
    "_ws.malformed", "_ws.expert.severity", "_ws.expert.message", "data.len",
)  # fmt: skip
CHECKS = ("ip.check_checksum:TRUE", "tcp.check_checksum:TRUE", "udp.check_checksum:TRUE")


def dissect(path: Path) -> list[Row]:
    assert TSHARK is not None
    command = [TSHARK, "-r", str(path), "-n", "-T", "fields", "-E", "separator=\t"]
    for check in CHECKS:
        command += ["-o", check]
    for name in FIELDS:
        command += ["-e", name]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "damaged" not in told.stderr
    assert "cut short" not in told.stderr
    return [dict(zip(FIELDS, line.split("\t"), strict=True)) for line in told.stdout.splitlines()]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("capture") / "new folder" / "calm.pcapng"
    World(path).run()
    return path


@pytest.fixture(scope="module")
def rows(calm: Path) -> list[Row]:
    if TSHARK is None:
        pytest.skip("tshark is not installed")
    return dissect(calm)


def test_every_frame_dissects_with_good_checksums(rows: list[Row]) -> None:
    assert len(rows) > 200
    for row in rows:
        assert row["_ws.malformed"] == "", row
        good = set(row["ip.checksum.status"].split(","))
        assert good == {"1"}, row
        assert row["tcp.checksum.status"] in ("", "1"), row
        assert row["udp.checksum.status"] in ("", "1"), row
    # Wireshark's own severity of errors (0x800000); warnings and notes are looked at below
    assert not [row for row in rows if "8388608" in row["_ws.expert.severity"].split(",")]


def test_tcp_analysis_finds_nothing_wrong_in_a_lossless_run(rows: list[Row]) -> None:
    analyses = [name for name in FIELDS if name.startswith("tcp.analysis.")]
    assert not [row for row in rows if any(row[name] for name in analyses)]


def test_handshake_and_farewell_are_in_order(rows: list[Row]) -> None:
    first = [row for row in rows if row["tcp.stream"] == "0"]

    def said(some: list[Row]) -> list[tuple[str, str, str, str]]:
        return [
            (
                ">" if row["tcp.dstport"] == "502" else "<",
                row["tcp.flags.str"].replace("·", ""),
                row["tcp.seq"],
                row["tcp.ack"],
            )
            for row in some
        ]

    assert said(first[:4]) == [
        (">", "S", "0", "0"),
        ("<", "AS", "0", "1"),
        (">", "A", "1", "1"),
        (">", "AP", "1", "1"),
    ]
    assert [row["tcp.options.mss_val"] for row in first[:3]] == ["1460", "1460", ""]
    end, answer = int(first[-4]["tcp.seq"]), int(first[-2]["tcp.seq"])
    assert said(first[-4:]) == [
        (">", "AF", str(end), str(answer)),
        ("<", "A", str(answer), str(end + 1)),
        ("<", "AF", str(answer), str(end + 1)),
        (">", "A", str(end + 1), str(answer + 1)),
    ]


def test_modbus_is_recognized_with_its_functions_and_exceptions(rows: list[Row]) -> None:
    modbus = [row for row in rows if row["modbus.func_code"]]
    assert len(modbus) == 60
    assert [row["modbus.func_code"] for row in modbus[:6]] == ["3", "3", "16", "16", "43", "43"]
    assert [row["mbtcp.trans_id"] for row in modbus[:6]] == ["0", "0", "1", "1", "2", "2"]
    assert {row["modbus.exception_code"] for row in modbus} == {"", "2"}


def test_a_large_write_is_cut_into_segments_and_only_the_last_pushes(rows: list[Row]) -> None:
    bulk = [row for row in rows if row["tcp.dstport"] == "9" and int(row["tcp.len"] or 0)]
    sizes = [int(row["tcp.len"]) for row in bulk]
    assert sum(sizes) == 100_000 + 1 + 1460 + 1461 + 2920
    assert max(sizes) == 1460
    assert sizes[-6:] == [1, 1460, 1460, 1, 1460, 1460]
    assert ["P" in row["tcp.flags.str"] for row in bulk[-6:]] == [True, True, False, True, False, True]
    ends = [int(row["tcp.seq"]) + int(row["tcp.len"]) for row in bulk]
    assert [int(row["tcp.seq"]) for row in bulk] == [1, *ends[:-1]]


def test_refusals_and_resets_are_there(rows: list[Row]) -> None:
    refused = [
        row["tcp.flags.str"].replace("·", "")
        for row in rows
        if "81" in (row["tcp.srcport"], row["tcp.dstport"])
    ]
    assert refused == ["S", "AR"]
    last = [row for row in rows if row["tcp.stream"]][-1]
    assert "R" in last["tcp.flags.str"]


def test_datagrams_are_whole_also_when_they_take_several_frames(rows: list[Row]) -> None:
    datagrams = [row for row in rows if row["udp.length"]]
    assert [int(row["udp.length"]) for row in datagrams] == [8 + 28, 8, 8 + 4001]
    assert datagrams[0]["syslog.level"] == "6"
    number = int(datagrams[-1]["frame.number"])
    fragments = [rows[at - 1] for at in (number - 2, number - 1, number)]
    assert [int(row["frame.len"]) for row in fragments] == [1514, 1514, 34 + 4009 - 2 * 1480]


def test_frames_are_written_once_where_they_first_pass_with_the_macs_of_that_link(rows: list[Row]) -> None:
    tcp = [row for row in rows if row["tcp.stream"]]
    assert {row["frame.interface_name"] for row in tcp if row["ip.src"] == "10.0.2.10"} == {"zone:operations"}
    assert {row["frame.interface_name"] for row in tcp if row["ip.src"] == "10.0.3.10"} == {"zone:control"}
    assert {(row["eth.src"], row["eth.dst"]) for row in tcp if row["ip.src"] == "10.0.2.10"} == {
        ("02:00:0a:00:02:0a", "02:00:0a:00:02:01")
    }
    assert all(int(row["frame.len"]) >= 60 for row in rows)


def test_time_stamps_are_dates_of_the_run_and_never_go_back(rows: list[Row]) -> None:
    times = [row["frame.time_epoch"] for row in rows]
    assert times == sorted(times)
    assert times[0].startswith(str(int(EPOCH.timestamp())) + ".")
    handshake = round((float("0." + times[2].split(".")[1])) * 1e9)
    assert 900_000 < handshake < 1_200_000  # two crossings of three links


def test_identifiers_of_one_host_count_up(rows: list[Row]) -> None:
    mine = [int(row["ip.id"].split(",")[0], 16) for row in rows if row["ip.src"].split(",")[0] == "10.0.2.10"]
    assert all(b - a in (0, 1) for a, b in pairwise(mine))


@needs_tshark
def test_losses_show_as_retransmissions(tmp_path: Path) -> None:
    path = tmp_path / "lossy.pcapng"
    World(path, loss=0.1).run()
    rows = dissect(path)
    assert [row for row in rows if row["tcp.analysis.retransmission"]]
    assert not [row for row in rows if row["_ws.malformed"] or row["tcp.analysis.ack_lost_segment"]]
    assert {row["tcp.checksum.status"] for row in rows} <= {"", "1"}


@needs_tshark
def test_forged_arp_replies_and_both_frames_of_a_tampered_packet_are_there(tmp_path: Path) -> None:
    path = tmp_path / "arp.pcapng"
    world = World(path, links=lambda network: [network.zones["control"]])
    world.loop.call_at(
        3.5,
        world.evil.interpose,
        "10.0.3.10",
        "10.0.2.10",
        lambda p: p.payload.replace(b"\0\1\0\2", b"\0\1\0\3"),
    )
    world.loop.call_at(6.5, world.evil.withdraw, "10.0.3.10", "10.0.2.10")
    world.run()
    rows = dissect(path)
    assert [(row["arp.opcode"], row["arp.src.hw_mac"]) for row in rows if row["arp.opcode"]] == [
        ("2", world.evil.mac)
    ] * 2
    # Requests and answers at 4, 5 and 6 s: each once to the attacker and once from it.
    forwarded = [row for row in rows if row["eth.src"] == world.evil.mac and int(row["tcp.len"] or 0)]
    assert [row["ip.src"] for row in forwarded] == ["10.0.2.10", "10.0.3.10"] * 3
    for row in forwarded:
        before = rows[int(row["frame.number"]) - 2]
        assert (before["eth.dst"], before["tcp.seq"]) == (world.evil.mac, row["tcp.seq"])
    assert {row["frame.interface_name"] for row in rows} == {"zone:control"}


@needs_tshark
def test_a_conduit_alone_is_captured_under_its_name(tmp_path: Path) -> None:
    path = tmp_path / "conduit.pcapng"
    World(path, links=lambda network: [network.conduits["operations-control"]]).run()
    rows = dissect(path)
    assert {row["frame.interface_name"] for row in rows} == {"conduit:operations-control"}
    assert not [row for row in rows if row["udp.length"]]  # the log server is in the HMI's own zone


# -- without a judge ----------------------------------------------------------------------------------------------


def blocks(data: bytes) -> list[tuple[int, bytes]]:
    """Type and body of every block of a pcapng file; fails if the file is not whole."""
    found, at = [], 0
    while at < len(data):
        kind, size = struct.unpack_from("<II", data, at)
        assert size % 4 == 0
        assert struct.unpack_from("<I", data, at + size - 4) == (size,)
        found.append((kind, data[at + 8 : at + size - 4]))
        at += size
    return found


def test_the_file_is_made_of_whole_blocks_with_exact_nanoseconds(calm: Path) -> None:
    found = blocks(calm.read_bytes())
    kinds = [kind for kind, _ in found]
    assert kinds[:4] == [0x0A0D0D0A, 1, 1, 1]
    assert set(kinds[4:]) == {6}
    interface, high, low = struct.unpack_from("<III", found[4][1])
    assert interface == 0
    assert (high << 32 | low) == int(EPOCH.timestamp()) * 10**9


def test_the_same_run_gives_the_same_file_and_a_zone_of_time_changes_nothing(
    calm: Path, tmp_path: Path
) -> None:
    again = World(tmp_path / "again.pcapng").run()
    assert again.capture.path.read_bytes() == calm.read_bytes()
    local = EPOCH.astimezone(timezone(timedelta(hours=2)))
    capture = Capture(tmp_path / "local.pcapng", local)
    assert capture._epoch == int(EPOCH.timestamp()) * 10**9
    capture.close()


def test_capturing_changes_nothing_in_the_run(tmp_path: Path) -> None:
    def story(captured: bool) -> list[tuple[str, int, int, int]]:
        world = World(tmp_path / "any.pcapng", loss=0.1, links=lambda n: None if captured else [])
        world.run()
        return [(link.name, link.packets, link.bytes, link.dropped) for link in world.network.links()]

    assert story(True) == story(False)


def test_a_closed_capture_looks_no_longer_and_is_whole(tmp_path: Path) -> None:
    world = World(tmp_path / "short.pcapng")
    world.hmi.spawn(world.day())
    world.loop.run_to(5)
    world.capture.close()
    world.capture.close()
    frames = world.capture.frames
    world.loop.run_to(10)
    world.loop.close()
    assert world.network.watchers == 0
    assert [kind for kind, _ in blocks(world.capture.path.read_bytes())].count(6) == frames > 0


def test_links_may_be_attached_twice_and_are_captured_once(tmp_path: Path) -> None:
    world = World(tmp_path / "twice.pcapng")
    world.capture.attach(world.network)
    world.run()
    assert [kind for kind, _ in blocks(world.capture.path.read_bytes())].count(1) == 3


def test_a_file_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"could not write .*file/run\.pcapng"):
        Capture(tmp_path / "file" / "run.pcapng", EPOCH)
    with pytest.raises(RunError, match="could not write"):
        Capture(tmp_path, EPOCH)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_an_error_that_names_the_file() -> None:
    capture = Capture("/dev/full", EPOCH)
    with pytest.raises(RunError, match="could not write /dev/full: No space left"):
        capture.close()
    world = World(Path("/dev/full"))
    world.hmi.spawn(world.day())
    with pytest.raises(RunError, match="/dev/full"):
        world.loop.run_to(500)  # ends where the buffer is written, not at the end
    world.loop.close()
    with pytest.raises(RunError, match="/dev/full"):
        world.capture.close()


@given(st.binary(min_size=1, max_size=1500))
def test_the_checksum_is_the_one_of_rfc_1071(data: bytes) -> None:
    padded = data + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    expected = 0xFFFF ^ total
    assert _checksum(data) == (expected if any(data) else 0)


def test_a_packet_is_recorded_once_though_it_passes_three_links(tmp_path: Path) -> None:
    world = World(tmp_path / "once.pcapng")
    seen: list[Packet] = []
    for link in world.network.links():
        link.add_tap(lambda _, packet: seen.append(packet) if packet not in seen else None)
    world.hmi.spawn(world.day())
    world.loop.run_to(20)
    world.loop.close()
    world.capture.close()
    assert world.capture.frames == len(seen) > 60
