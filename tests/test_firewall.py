"""Firewall policies: on packets by themselves, and on a conduit of a small world."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.clock import SimLoop
from testbed.errors import NetworkError
from testbed.firewall import (
    AllowList,
    ConnectionLimit,
    ModbusInspection,
    ModbusRequest,
    OneWay,
    RateLimit,
    Rule,
    parse_modbus,
)
from testbed.network import ACK, FIN, PSH, RST, SYN, Flow, Network, Packet, Verdict

ACCEPT, DROP, REJECT = Verdict.ACCEPT, Verdict.DROP, Verdict.REJECT
HOSTS = {"hmi": ("10.0.2.10", "operations"), "plc": ("10.0.3.10", "control"), "pc": ("10.0.1.10", "office")}


def flow(
    source: str = "hmi",
    target: str = "plc",
    port: int = 502,
    protocol: Literal["tcp", "udp"] = "tcp",
    source_port: int = 50_000,
) -> Flow:
    (mine, my_zone), (theirs, their_zone) = HOSTS[source], HOSTS[target]
    return Flow(protocol, mine, theirs, source_port, port, source, target, my_zone, their_zone)


def packet(
    payload: bytes = b"",
    of: Flow | None = None,
    *,
    reply: bool = False,
    flags: int = ACK | PSH,
    seq: int = 1,
    time: float = 0.0,
) -> Packet:
    return Packet(time, of or flow(), reply, flags, payload, seq, 1, ("", ""))


def frame(pdu: bytes, transaction: int = 1, unit: int = 1, protocol: int = 0) -> bytes:
    return struct.pack(">HHHB", transaction, protocol, 1 + len(pdu), unit) + pdu


def read(function: int, address: int, count: int) -> bytes:
    return frame(struct.pack(">BHH", function, address, count))


def write_many(address: int, values: Iterable[int]) -> bytes:
    words = list(values)
    return frame(struct.pack(f">BHHB{len(words)}H", 16, address, len(words), 2 * len(words), *words))


def read_write(read_from: int, read_count: int, address: int, values: Iterable[int]) -> bytes:
    words = list(values)
    size = len(words)
    return frame(struct.pack(f">BHHHHB{size}H", 23, read_from, read_count, address, size, 2 * size, *words))


# -- allow-list ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "passes"),
    [
        (Rule("hmi", "plc", "tcp", 502), True),
        (Rule(None, None, None, None), True),
        (Rule("zone:operations", "zone:control", "tcp", 502), True),
        (Rule("zone:office", "plc", "tcp", 502), False),
        (Rule("hmi", "zone:office", "tcp", 502), False),
        (Rule("pc", "plc", "tcp", 502), False),
        (Rule("hmi", "pc", "tcp", 502), False),
        (Rule("hmi", "plc", "udp", 502), False),
        (Rule("hmi", "plc", "tcp", 503), False),
        (Rule("plc", "hmi", "tcp", 502), False),
    ],
)
def test_an_allow_list_passes_the_flows_that_a_rule_names(rule: Rule, passes: bool) -> None:
    allow = AllowList([rule])
    assert allow(packet(flags=SYN)) is (ACCEPT if passes else DROP)
    assert allow(packet(b"answer", reply=True)) is (ACCEPT if passes else DROP)


def test_an_empty_allow_list_gives_its_default() -> None:
    assert AllowList([])(packet()) is DROP
    assert AllowList([], REJECT)(packet()) is REJECT


def test_a_removed_rule_stops_running_flows() -> None:
    allow = AllowList([Rule("hmi", "plc", "tcp", 502)])
    assert allow(packet(b"x")) is ACCEPT
    allow.rules = ()
    assert allow(packet(b"x")) is DROP
    assert allow(packet(b"x", reply=True)) is DROP


def test_an_allow_list_does_not_grow_with_connections() -> None:
    allow = AllowList([Rule("hmi", "plc", "tcp", 502)])
    for port in range(1000):
        allow(packet(of=flow(source_port=port)))
    assert len(allow._known) == 1


# -- Modbus -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "request_read"),
    [
        (read(3, 10, 4), ModbusRequest(1, 1, 3, 10, 4)),
        (read(1, 0, 16), ModbusRequest(1, 1, 1, 0, 16)),
        (frame(struct.pack(">BHH", 6, 7, 99), 5, 2), ModbusRequest(5, 2, 6, 7, 1, (99,))),
        (frame(struct.pack(">BHH", 5, 7, 0xFF00)), ModbusRequest(1, 1, 5, 7, 1, (0xFF00,))),
        (write_many(100, [1, 2, 3]), ModbusRequest(1, 1, 16, 100, 3, (1, 2, 3))),
        (
            frame(b"\x0f\x00\x04\x00\x0a\x02\x05\x03"),
            ModbusRequest(1, 1, 15, 4, 10, (1, 0, 1, 0, 0, 0, 0, 0, 1, 1)),
        ),
        (frame(struct.pack(">BHHH", 22, 4, 0xF2, 0x25)), ModbusRequest(1, 1, 22, 4, 1)),
        (read_write(3, 6, 14, [255, 7]), ModbusRequest(1, 1, 23, 14, 2, (255, 7), (3, 6))),
        (frame(struct.pack(">BH", 24, 0x4DE)), ModbusRequest(1, 1, 24, 0x4DE, 1)),
        (frame(b"\x2b\x0e\x01\x00"), ModbusRequest(1, 1, 43)),
        (frame(b"\x08\x00\x01\xff\x00"), ModbusRequest(1, 1, 8)),
        (frame(b"\x5a\x00\x40"), ModbusRequest(1, 1, 90)),
        (frame(b"\x14\x07\x06\x00\x04\x00\x01\x00\x02"), ModbusRequest(1, 1, 20)),
        (frame(b"\x03\x00"), ModbusRequest(1, 1, 3, sound=False)),
        (read(3, 0, 1)[:-1] + b"", None),
        (write_many(0, [1, 2])[:-2] + b"", None),
        (frame(struct.pack(">BHHB", 16, 0, 2, 2) + b"\0\1"), ModbusRequest(1, 1, 16, sound=False)),
        (frame(b"\x03\0\0\0\1", protocol=7), None),
        (b"", None),
    ],
)
def test_requests_are_read_as_the_specification_writes_them(
    payload: bytes, request_read: ModbusRequest | None
) -> None:
    assert parse_modbus(payload) == ([request_read] if request_read else [])


def test_pipelined_requests_are_all_read() -> None:
    payload = read(3, 0, 1) + write_many(5, [9]) + read(4, 2, 2) + b"\0\1"
    assert [request.function for request in parse_modbus(payload)] == [3, 16, 4]


RULES = (
    Rule("hmi", "plc", "tcp", 502, frozenset({3, 4}), ((0, 99),)),
    Rule("hmi", "plc", "tcp", 502, frozenset({6, 16, 23}), ((10, 19), (20, 29))),
    Rule("hmi", "plc", "tcp", 502, frozenset({43}), ((0, 0),)),
    Rule("hmi", "plc", "tcp", 4840),
)


@pytest.mark.parametrize(
    ("payload", "passes"),
    [
        (read(3, 0, 100), True),
        (read(3, 0, 101), False),
        (read(3, 99, 1), True),
        (read(3, 100, 1), False),
        (read(3, 65_535, 2), False),
        (read(1, 0, 1), False),
        (write_many(10, [0] * 10), True),
        (write_many(15, [0] * 10), True),  # from one documented span into the next
        (write_many(25, [0] * 6), False),
        (write_many(9, [0]), False),
        (read_write(10, 4, 15, [1, 2]), True),
        (read_write(0, 4, 15, [1, 2]), False),  # its reading part is outside
        (read_write(10, 4, 40, [1, 2]), False),  # its writing part is outside
        (frame(b"\x2b\x0e\x01\x00"), True),  # no address: by function only
        (frame(b"\x08\x00\x01\x00\x00"), False),
        (frame(b"\x5a\x00\x40"), False),
        (frame(b"\x03\x00\x00"), False),  # too short for what it claims
        (frame(b"\x03\0\0\0\1", protocol=1), False),
        (b"\0\1\0\0\0\1\1", False),  # a length that cannot be
        (b"GET / HTTP/1.1\r\n\r\n", False),
    ],
)
def test_inspection_judges_function_and_registers(payload: bytes, passes: bool) -> None:
    assert ModbusInspection(RULES)(packet(payload)) is (ACCEPT if passes else REJECT)


def test_inspection_keeps_out_of_what_is_not_its_business() -> None:
    inspect = ModbusInspection(RULES)
    garbage = b"\xff" * 40
    assert inspect(packet(garbage, flow(port=802))) is ACCEPT  # Modbus/TLS: nothing to read
    assert inspect(packet(garbage, flow(port=4840))) is ACCEPT
    assert inspect(packet(garbage, flow(protocol="udp"))) is ACCEPT
    assert inspect(packet(garbage, flow(source="pc"))) is ACCEPT  # no rule names it: other policies decide
    assert inspect(packet(flags=SYN)) is ACCEPT
    assert ModbusInspection(RULES, port=1502)(packet(garbage, flow(port=1502))) is ACCEPT


def test_answers_are_judged_by_their_framing_only() -> None:
    inspect = ModbusInspection(RULES)
    assert inspect(packet(frame(b"\x83\x02"), reply=True)) is ACCEPT
    assert inspect(packet(frame(b"\x01\x01\x00"), reply=True, seq=10)) is ACCEPT
    assert inspect(packet(b"\xff" * 9, reply=True, seq=21)) is REJECT


def test_a_rule_without_functions_lets_any_sound_modbus_pass() -> None:
    inspect = ModbusInspection([Rule("hmi", "plc", "tcp", 502)])
    assert inspect(packet(frame(b"\x5a\x00"))) is ACCEPT
    assert inspect(packet(b"not modbus", seq=10)) is REJECT


def judge_all(inspect: ModbusInspection, pieces: Iterable[bytes], seq: int = 1) -> Verdict:
    """ACCEPT, or the first other verdict, of one stream's segments."""
    for piece in pieces:
        verdict = inspect(packet(piece, seq=seq))
        if verdict is not ACCEPT:
            return verdict
        seq = (seq + len(piece)) & 0xFFFFFFFF
    return ACCEPT


STREAMS = st.lists(
    st.sampled_from(
        [read(3, 0, 10), read(4, 90, 10), write_many(10, [1, 2]), read_write(10, 1, 20, [5]), read(3, 95, 9)]
    ),
    min_size=1,
    max_size=5,
)


@given(STREAMS, st.lists(st.integers(0, 150), max_size=12), st.integers(0, 0xFFFFFFFF))
def test_where_a_stream_is_cut_into_segments_does_not_change_the_verdict(
    requests: list[bytes], cuts: list[int], seq: int
) -> None:
    stream = b"".join(requests)
    places = sorted({cut for cut in cuts if 0 < cut < len(stream)})
    pieces = [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]
    whole = judge_all(ModbusInspection(RULES), [stream], seq)
    assert judge_all(ModbusInspection(RULES), pieces, seq) is whole
    assert whole is (REJECT if read(3, 95, 9) in requests else ACCEPT)


@given(STREAMS, st.integers(1, 40), st.data())
def test_segments_sent_again_do_not_change_the_verdict(requests: list[bytes], size: int, data: Any) -> None:
    stream = b"".join(requests)
    inspect, verdict, at = ModbusInspection(RULES), ACCEPT, 0
    while at < len(stream) and verdict is ACCEPT:
        piece = stream[at : at + size]
        for _ in range(data.draw(st.integers(1, 3))):
            verdict = inspect(packet(piece, seq=1 + at))
        at += size
    assert verdict is (REJECT if read(3, 95, 9) in requests else ACCEPT)


def test_a_segment_sent_again_with_other_content_is_judged_again() -> None:
    inspect = ModbusInspection(RULES)
    assert inspect(packet(read(3, 0, 1))) is ACCEPT
    assert inspect(packet(read(3, 500, 1))) is REJECT


def test_nothing_more_of_a_rejected_stream_passes_until_a_new_connection() -> None:
    inspect = ModbusInspection(RULES)
    assert inspect(packet(read(3, 500, 1))) is REJECT
    assert inspect(packet(read(3, 0, 1), seq=13)) is REJECT
    assert inspect(packet(flags=SYN, seq=0)) is ACCEPT
    assert inspect(packet(read(3, 0, 1))) is ACCEPT


def test_after_a_gap_inspection_begins_afresh() -> None:
    inspect = ModbusInspection(RULES)
    assert inspect(packet(read(3, 0, 1)[:5])) is ACCEPT
    assert inspect(packet(read(3, 0, 1), seq=1000)) is ACCEPT


@given(st.lists(st.binary(max_size=300), max_size=6), st.booleans())
def test_random_bytes_are_judged_and_never_raise(pieces: list[bytes], reply: bool) -> None:
    inspect, seq = ModbusInspection(RULES), 1
    for piece in pieces:
        assert inspect(packet(piece, reply=reply, seq=seq)) in (ACCEPT, REJECT)
        seq += len(piece)
    for request in parse_modbus(b"".join(pieces)):
        assert 0 <= request.function < 256


@given(st.binary(min_size=1, max_size=253))
def test_every_whole_frame_is_read_and_never_raises(pdu: bytes) -> None:
    (request,) = parse_modbus(frame(pdu))
    assert request.function == pdu[0]
    assert request.sound or request.address is None


def test_inspection_forgets_connections() -> None:
    inspect = ModbusInspection(RULES)
    half = read(3, 0, 1)[:8]
    assert inspect(packet(half)) is ACCEPT
    assert len(inspect._streams) == 1
    inspect(packet(flags=FIN | ACK, seq=9))
    assert not inspect._streams
    inspect(packet(half))
    inspect(packet(flags=RST))
    assert not inspect._streams


def test_inspection_remembers_only_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("testbed.firewall.MOST_STREAMS", 10)
    inspect = ModbusInspection(RULES)
    for port in range(30):
        inspect(packet(read(3, 0, 1)[:8], flow(source_port=port)))
    assert [flow.source_port for flow, _ in inspect._streams] == list(range(20, 30))


# -- direction and amount -----------------------------------------------------------------------------------------


def test_one_way_passes_what_was_opened_from_its_side() -> None:
    up, down = flow("plc", "hmi"), flow("hmi", "plc")
    policy = OneWay("control")
    assert policy(packet(of=up, flags=SYN)) is ACCEPT
    assert policy(packet(b"answer", of=up, reply=True)) is ACCEPT
    assert policy(packet(of=down, flags=SYN)) is DROP
    assert policy(packet(b"answer", of=down, reply=True)) is DROP
    assert OneWay("office", "operations")(packet(of=down)) is ACCEPT


def test_a_diode_lets_no_payload_back() -> None:
    up, policy = flow("plc", "hmi"), OneWay("control", strict=True)
    assert policy(packet(b"measured", of=up)) is ACCEPT
    assert policy(packet(of=up, reply=True, flags=SYN | ACK)) is ACCEPT
    assert policy(packet(b"command", of=up, reply=True)) is DROP


def test_a_rate_limit_passes_its_burst_and_then_its_rate() -> None:
    limit = RateLimit(10, 5)
    at_once = [limit(packet(b"x", time=100.0)) for _ in range(8)]
    assert at_once.count(ACCEPT) == 5
    over_time = [limit(packet(b"x", time=100 + n / 100)) for n in range(1, 1001)]
    assert over_time.count(ACCEPT) == pytest.approx(100, abs=1)
    assert limit(packet(b"x", reply=True, time=110.0)) is ACCEPT
    rested = [limit(packet(b"x", time=500.0)) for _ in range(8)]
    assert rested.count(ACCEPT) == 5


@given(st.lists(st.floats(0, 0.5), max_size=60), st.floats(0.1, 100), st.integers(1, 20))
def test_a_rate_limit_never_passes_more_than_burst_and_rate_allow(
    gaps: list[float], rate: float, burst: int
) -> None:
    limit, now, passed = RateLimit(rate, burst), 0.0, 0
    for gap in gaps:
        now += gap
        passed += limit(packet(b"x", time=now)) is ACCEPT
        assert passed <= burst + rate * now + 1e-6


def test_sources_have_buckets_of_their_own_unless_they_share_one() -> None:
    hmi, pc = flow("hmi"), flow("pc")
    own, shared = RateLimit(1, 1), RateLimit(1, 1, per_source=False)
    assert [own(packet(of=of)) for of in (hmi, pc, hmi)] == [ACCEPT, ACCEPT, DROP]
    assert [shared(packet(of=of)) for of in (hmi, pc, hmi)] == [ACCEPT, DROP, DROP]


def test_limits_that_cannot_be_are_refused() -> None:
    for mistake in (lambda: RateLimit(-1, 5), lambda: RateLimit(1, 0), lambda: ConnectionLimit(0)):
        with pytest.raises(NetworkError, match="cannot be"):
            mistake()


def test_a_connection_limit_counts_until_both_have_said_goodbye() -> None:
    limit = ConnectionLimit(2)

    def syn(port: int, time: float = 0, source: str = "hmi") -> Verdict:
        return limit(packet(of=flow(source, source_port=port), flags=SYN, time=time))

    assert [syn(1), syn(2), syn(3)] == [ACCEPT, ACCEPT, REJECT]
    assert syn(1) is ACCEPT  # its SYN again, no new connection
    assert syn(1, source="pc") is ACCEPT
    one = flow(source_port=1)
    limit(packet(of=one, flags=SYN | ACK, reply=True))
    limit(packet(of=one, flags=FIN | ACK))
    assert syn(3) is REJECT  # half closed is open
    limit(packet(of=one, flags=FIN | ACK, reply=True))
    assert syn(3) is ACCEPT
    limit(packet(of=flow(source_port=3), flags=RST, reply=True))
    assert syn(4) is ACCEPT
    assert syn(5, time=100) is REJECT
    assert syn(5, time=121) is ACCEPT  # what never was answered has timed out
    assert limit(packet(of=flow(protocol="udp"))) is ACCEPT


# -- on a conduit -------------------------------------------------------------------------------------------------


class World:
    """An HMI in one zone, a PLC that answers whatever it hears in the other."""

    def __init__(self) -> None:
        self.loop = SimLoop()
        self.network = Network(self.loop)
        self.network.zone("operations", "10.0.2.0/24")
        self.network.zone("control", "10.0.3.0/24")
        self.conduit = self.network.conduit("operations-control", "operations", "control")
        self.hmi = self.network.host("hmi", "operations", "10.0.2.10")
        self.plc = self.network.host("plc", "control", "10.0.3.10")
        self.arrived = b""
        self.plc.spawn(self._serve())

    async def _serve(self) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while data := await reader.read(4096):
                    self.arrived += data
                    writer.write(frame(b"\x03\x02\0\0"))
            except ConnectionResetError:
                pass
            writer.close()

        await asyncio.start_server(serve, None, 502)

    def send(self, pieces: Iterable[bytes], gap: float = 0.01, within: float = 200) -> tuple[bytes, str]:
        """What came back on a new connection over which the HMI sends ``pieces``, and how it ended."""
        outcome: list[tuple[bytes, str]] = []

        async def talk() -> None:
            got = b""
            try:
                reader, writer = await asyncio.open_connection("plc", 502)
                for piece in pieces:
                    writer.write(piece)
                    await asyncio.sleep(gap)
                await asyncio.sleep(2)
                writer.write_eof()
                while data := await reader.read(4096):
                    got += data
                writer.close()
                outcome.append((got, "closed"))
            except OSError as error:
                outcome.append((got, type(error).__name__))

        self.hmi.spawn(talk())
        self.loop.run_to(self.loop.time() + within)
        return outcome[0]


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.loop.close()


def test_a_forbidden_write_resets_the_connection_before_it_reaches_the_plc(world: World) -> None:
    world.conduit.add_policy("inspection", ModbusInspection(RULES))
    assert world.send([read(3, 0, 2)]) == (frame(b"\x03\x02\0\0"), "closed")
    world.arrived = b""
    forbidden = write_many(50, [1])
    assert world.send([read(3, 0, 2), forbidden[:9], forbidden[9:]])[1] == "ConnectionResetError"
    assert world.arrived == read(3, 0, 2) + forbidden[:9]


def test_inspection_is_not_confused_by_segments_that_the_link_then_loses(world: World) -> None:
    world.conduit.loss = 0.3
    world.conduit.add_policy("inspection", ModbusInspection(RULES))
    stream = read(3, 0, 2) * 40
    pieces = [stream[at : at + 7] for at in range(0, len(stream), 7)]
    assert world.send(pieces)[1] == "closed"
    assert world.arrived == stream


def test_an_allow_list_on_a_conduit_stops_a_running_connection_when_its_rule_goes(world: World) -> None:
    allow = AllowList([Rule("hmi", "plc", "tcp", 502)])
    world.conduit.add_policy("allow", allow)
    assert world.send([read(3, 0, 2)])[1] == "closed"
    world.arrived = b""
    world.loop.call_at(world.loop.time() + 0.5, setattr, allow, "rules", ())
    # 924.6 s are what Linux's retransmissions take to give up
    assert world.send([read(3, 0, 2), read(3, 0, 2)], gap=1, within=1000)[1] == "TimeoutError"
    assert world.arrived == read(3, 0, 2)


def test_a_connection_limit_on_a_conduit_refuses_the_next_client(world: World) -> None:
    world.conduit.add_policy("limit", ConnectionLimit(1))
    kept: list[asyncio.StreamWriter] = []

    async def hold() -> None:
        _, writer = await asyncio.open_connection("plc", 502)
        kept.append(writer)

    world.hmi.spawn(hold())
    world.loop.run_to(1)
    assert world.send([])[1] == "ConnectionRefusedError"
    world.hmi.context.run(world.loop.call_soon, kept[0].close)
    world.loop.run_to(world.loop.time() + 1)
    assert world.send([])[1] == "closed"
