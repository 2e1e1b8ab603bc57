"""The in-memory network: what TCP and UDP do, what zones and conduits stop, and what taps see."""

from __future__ import annotations

import ast
import asyncio
import contextvars
import datetime
import errno
import math
import random
import socket
import ssl
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed import network as net
from testbed.clock import SimLoop
from testbed.errors import NetworkError, UnknownNameError
from testbed.network import (
    ACK,
    CURRENT_HOST,
    FIN,
    PSH,
    RST,
    SYN,
    ArpReply,
    Conduit,
    Host,
    Link,
    Network,
    Packet,
    Transport,
    Verdict,
    Zone,
    networked_loop,
)
from testbed.randomness import Randomness

ROOT = Path(__file__).parent.parent


class World:
    """Office - DMZ - control: three zones in a row, PLC and HMI in the last one, a client in each."""

    def __init__(self, seed: int = 1) -> None:
        self.loop = SimLoop()
        self.network = Network(self.loop, Randomness(seed))
        self.office = self.network.zone("office", "10.0.1.0/24", trusted=False)
        self.dmz = self.network.zone("dmz", "10.0.2.0/24")
        self.control = self.network.zone("control", "10.0.3.0/24")
        self.office_dmz = self.network.conduit("office-dmz", "office", "dmz")
        self.dmz_control = self.network.conduit("dmz-control", "dmz", "control")
        self.laptop = self.network.host("laptop", "office", "10.0.1.10")
        self.server = self.network.host("server", "dmz", "10.0.2.10")
        self.plc = self.network.host("plc", "control", "10.0.3.10")
        self.hmi = self.network.host("hmi", "control", "10.0.3.20")
        self.evil = self.network.host("evil", "control", "10.0.3.66")

    def run(self, host: Host, main: Callable[[], Awaitable[Any]], until: float = 10_000) -> Any:
        """What ``main`` returns or raises as a program of ``host``."""

        async def whole() -> None:
            try:
                outcome.append((await main(), None))
            except (OSError, EOFError, asyncio.CancelledError) as error:
                outcome.append((None, error))

        outcome: list[tuple[Any, BaseException | None]] = []
        host.spawn(whole())
        self.loop.run_to(until)
        assert outcome, "the program has not ended"
        if outcome[0][1] is not None:
            raise outcome[0][1]
        return outcome[0][0]

    def do(self, host: Host, action: Callable[..., object], *args: Any) -> None:
        """Have ``host`` call ``action`` now."""
        self.loop.call_soon(action, *args, context=host.context)
        self.loop.run_to(math.nextafter(self.loop.time(), math.inf))

    def serve(self, host: Host, port: int, factory: Callable[[], asyncio.Protocol], **options: Any) -> None:
        async def start() -> None:
            await self.loop.create_server(factory, None, port, **options)

        host.spawn(start())
        self.loop.run_to(math.nextafter(self.loop.time(), math.inf))


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.loop.close()


class Recorder(asyncio.Protocol):
    """Notes what its transport tells it, and when; answers data with ``answer``."""

    def __init__(self, answer: Callable[[bytes], bytes] = lambda _: b"") -> None:
        self.answer = answer
        self.events: list[tuple[str, float]] = []
        self.data = b""
        self.chunks: list[tuple[float, int]] = []
        self.lost: list[Exception | None] = []
        self.keep_open = False
        self.transport: Transport

    def note(self, what: str) -> None:
        self.events.append((what, asyncio.get_running_loop().time()))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport  # type: ignore[assignment]
        self.note("made")

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.chunks.append((asyncio.get_running_loop().time(), len(data)))
        answer = self.answer(data)
        if answer:
            self.transport.write(answer)

    def eof_received(self) -> bool | None:
        self.note("eof")
        return self.keep_open

    def pause_writing(self) -> None:
        self.note("pause")

    def resume_writing(self) -> None:
        self.note("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)
        self.note("lost")

    def told(self) -> list[str]:
        return [what for what, _ in self.events]


def echo() -> Recorder:
    return Recorder(lambda data: data)


async def connect(loop: SimLoop, host: str, port: int, **options: Any) -> Recorder:
    _, protocol = await loop.create_connection(Recorder, host, port, **options)
    assert isinstance(protocol, Recorder)
    return protocol


def pair(
    world: World, source: Host, target: Host, port: int = 502, within: float = 1
) -> tuple[Recorder, Recorder]:
    """A connection from ``source`` to ``target`` that comes about ``within`` so many seconds: both ends."""
    ends: list[Recorder] = []

    def far_end() -> Recorder:
        ends.append(Recorder())
        return ends[-1]

    world.serve(target, port, far_end)
    near = world.run(source, lambda: connect(world.loop, target.name, port), world.loop.time() + within)
    return near, ends[0]


Seen = tuple[str, int, bytes]


def watch(link: Link) -> list[Packet]:
    seen: list[Packet] = []
    link.add_tap(lambda _, packet: seen.append(packet))
    return seen


def shape(packets: list[Packet]) -> list[str]:
    names = ((SYN, "S"), (FIN, "F"), (RST, "R"), (PSH, "P"), (ACK, "."))
    return [
        ("<" if packet.reply else ">") + "".join(name for bit, name in names if packet.flags & bit)
        for packet in packets
    ]


# -- building -----------------------------------------------------------------------------------------------------


def test_a_network_that_cannot_be_is_refused_in_the_user_s_words(world: World) -> None:
    network = world.network
    mistakes: list[tuple[Callable[[], object], str]] = [
        (lambda: network.zone("office", "10.9.0.0/24"), "'office' exists"),
        (lambda: network.zone("twin", "10.0.1.128/25"), "overlaps 10.0.1.0/24 of 'office'"),
        (lambda: network.zone("tiny", "10.9.0.0/31"), "no room"),
        (lambda: network.zone("odd", "10.9.0.0/33"), "odd"),
        (lambda: network.zone("host bits", "10.9.0.1/24"), "host bits"),
        (lambda: network.zone("z", "10.9.0.0/24", loss=1.5), "loss cannot be 1.5"),
        (lambda: network.zone("z", "10.9.0.0/24", latency=-1), "latency cannot be -1 s"),
        (lambda: network.zone("z", "10.9.0.0/24", bandwidth=0), "bandwidth cannot be 0 bit/s"),
        (lambda: network.conduit("loop", "dmz", "dmz"), "with itself"),
        (lambda: network.conduit("office-dmz", "dmz", "control"), "exists"),
        (lambda: network.host("plc", "dmz", "10.0.2.77"), "'plc' exists"),
        (lambda: network.host("new", "dmz", "10.0.2.10"), "belongs to 'server'"),
        (lambda: network.host("new", "dmz", "10.0.3.77"), "outside zone 'dmz'"),
        (lambda: network.host("new", "dmz", "10.0.2.1"), "gateway"),
        (lambda: network.host("new", "dmz", "10.0.2.255"), "no host in it"),
        (lambda: network.host("new", "dmz", "ten"), "new"),
        (lambda: world.dmz.remove_tap(lambda link, packet: None), "no such tap"),
    ]
    for mistake, words in mistakes:
        with pytest.raises(NetworkError, match=words):
            mistake()
    with pytest.raises(UnknownNameError, match="did you mean 'office'"):
        network.conduit("c", "ofice", "dmz")
    with pytest.raises(UnknownNameError, match="policy of dmz"):
        world.dmz.remove_policy("absent")


def test_the_way_between_zones_is_every_conduit_between_them_and_back_the_same(world: World) -> None:
    names = [link.name for link in world.network.path(world.laptop, world.plc) or ()]
    assert names == ["office", "office-dmz", "dmz", "dmz-control", "control"]
    assert world.network.path(world.plc, world.hmi) == (world.control,)
    assert world.network.path(world.plc, world.plc) == ()
    world.network.zone("island", "10.0.9.0/24")
    lonely = world.network.host("lonely", "island", "10.0.9.9")
    assert world.network.path(world.plc, lonely) is None
    with pytest.raises(OSError, match="no conduit leads from zone control to zone island") as caught:
        world.run(world.plc, lambda: connect(world.loop, "lonely", 502))
    assert caught.value.errno == errno.ENETUNREACH


def test_a_reply_takes_the_way_of_its_request_also_where_another_is_as_short() -> None:
    network = Network(SimLoop())
    for number, name in enumerate("abcd"):
        network.zone(name, f"10.0.{number}.0/24")
    for name in ("ab", "ac", "cd", "bd"):  # from d's side, c comes first
        network.conduit(name, *name)
    here, there = network.host("here", "a", "10.0.0.9"), network.host("there", "d", "10.0.3.9")
    way = [hop.link.name for hop in network.hops(here, "10.0.3.9")]
    back = [hop.link.name for hop in network.hops(there, "10.0.0.9", reply=True)]
    assert way == ["a", "ab", "b", "bd", "d"]
    assert back == way[::-1]


# -- connecting ---------------------------------------------------------------------------------------------------


def test_a_connection_takes_its_handshake_and_data_the_sum_of_latencies(world: World) -> None:
    near, far = pair(world, world.laptop, world.plc)
    one_way = 3 * 0.0002 + 2 * 0.0001 + 5 * 54 * 8 / 100e6
    assert near.events[0][1] == pytest.approx(2 * one_way, abs=1e-8)
    assert far.events[0][1] == pytest.approx(3 * one_way, abs=1e-8)
    start = world.loop.time()
    world.do(world.laptop, near.transport.write, b"12 bytes    ")
    world.loop.run_to(start + 1)
    assert far.data == b"12 bytes    "
    assert far.chunks[0][0] - start == pytest.approx(0.0008 + 5 * 66 * 8 / 100e6, abs=1e-9)
    assert near.transport.get_extra_info("peername") == ("10.0.3.10", 502)
    assert far.transport.get_extra_info("peername") == near.transport.get_extra_info("sockname")


def test_a_closed_port_refuses_at_once(world: World) -> None:
    with pytest.raises(ConnectionRefusedError):
        world.run(world.laptop, lambda: connect(world.loop, "plc", 502), until=0.01)
    assert not world.laptop.connections
    assert not world.laptop.ports


def test_an_address_that_nobody_has_is_unreachable_after_three_arp_requests(world: World) -> None:
    for address in ("10.0.1.77", "10.0.3.77"):
        start = world.loop.time()
        ended: list[float] = []

        async def knock(address: str = address, ended: list[float] = ended) -> None:
            try:
                await connect(world.loop, address, 502)
            finally:
                ended.append(world.loop.time())

        with pytest.raises(OSError, match="nobody answers") as caught:
            world.run(world.laptop, knock, start + 10)
        assert caught.value.errno == errno.EHOSTUNREACH
        assert ended[0] - start == pytest.approx(3, abs=0.01)
    with pytest.raises(OSError, match="in no zone"):
        world.run(world.laptop, lambda: connect(world.loop, "192.0.2.1", 502), 50)


def test_a_scan_of_empty_addresses_is_seen_on_the_way_and_stopped_by_policies(world: World) -> None:
    seen = watch(world.dmz_control)
    with pytest.raises(OSError, match="nobody"):
        world.run(world.laptop, lambda: connect(world.loop, "10.0.3.77", 502), 10)
    assert shape(seen) == [">S"]
    assert (seen[0].flow.target_name, seen[0].flow.target_zone) == ("", "control")
    world.dmz_control.add_policy("none", lambda packet: Verdict.DROP)
    with pytest.raises(TimeoutError):
        world.run(world.laptop, lambda: connect(world.loop, "10.0.3.78", 502), 200)


def test_a_host_that_is_off_is_like_no_host(world: World) -> None:
    world.plc.power_off()
    with pytest.raises(OSError, match="nobody answers"):
        world.run(world.hmi, lambda: connect(world.loop, "plc", 502), 10)
    with pytest.raises(NetworkError, match="plc is off"):
        world.plc.spawn(asyncio.sleep(1))


def test_a_name_that_no_host_has_does_not_resolve(world: World) -> None:
    with pytest.raises(socket.gaierror):
        world.run(world.hmi, lambda: connect(world.loop, "plv", 502))


def test_dropped_syns_are_repeated_with_doubling_waits_until_127_seconds(world: World) -> None:
    seen = watch(world.office)
    world.office_dmz.add_policy("none", lambda packet: Verdict.DROP)
    with pytest.raises(TimeoutError):
        world.run(world.laptop, lambda: connect(world.loop, "plc", 502), 1000)
    assert [packet.time for packet in seen] == [0, 1, 3, 7, 15, 31, 63]
    assert len({packet.seq for packet in seen}) == 1
    assert not world.laptop.ports


def test_a_connection_comes_about_when_the_third_syn_gets_through(world: World) -> None:
    world.office_dmz.add_policy("early", lambda packet: Verdict.DROP if packet.time < 2 else Verdict.ACCEPT)
    near, far = pair(world, world.laptop, world.plc, within=5)
    assert near.events[0][1] == pytest.approx(3, abs=0.01)
    assert far.told() == ["made"]


def test_a_lost_syn_ack_is_fetched_by_the_next_syn(world: World) -> None:
    seen = watch(world.office)
    lost: list[Packet] = []

    def lose_first_answer(packet: Packet) -> Verdict:
        if packet.reply and not lost:
            lost.append(packet)
            return Verdict.DROP
        return Verdict.ACCEPT

    world.office_dmz.add_policy("lossy", lose_first_answer)
    near, _ = pair(world, world.laptop, world.plc, within=5)
    assert near.events[0][1] == pytest.approx(1, abs=0.01)
    assert shape(seen) == [">S", ">S", "<S.", ">."]


def test_a_rejected_syn_is_refused_by_the_firewall_without_reaching_the_target(world: World) -> None:
    world.serve(world.plc, 502, echo)
    seen = watch(world.control)
    world.dmz_control.add_policy("fw", lambda packet: Verdict.REJECT)
    with pytest.raises(ConnectionRefusedError, match="on the way"):
        world.run(world.laptop, lambda: connect(world.loop, "plc", 502), 1)
    assert seen == []


def test_canceling_a_connection_attempt_leaves_nothing_behind(world: World) -> None:
    world.office_dmz.cut = True

    async def attempt() -> None:
        await asyncio.wait_for(connect(world.loop, "plc", 502), 2.5)

    with pytest.raises(TimeoutError):
        world.run(world.laptop, attempt, 5)
    assert not world.laptop.ports
    assert not world.laptop.connections


def test_ports_clash_and_are_free_again_once_closed(world: World) -> None:
    async def listen_twice() -> None:
        first = await world.loop.create_server(echo, "10.0.3.10", 502)
        with pytest.raises(OSError, match="taken") as caught:
            await world.loop.create_server(echo, "", 502)
        assert caught.value.errno == errno.EADDRINUSE
        with pytest.raises(OSError, match="does not have address"):
            await world.loop.create_server(echo, "10.0.3.20", 503)
        first.close()
        assert not first.is_serving()
        second = await world.loop.create_server(echo, ["10.0.3.10", "localhost"], 502)
        assert second.is_serving()
        free = await world.loop.create_server(echo)
        assert free.sockets[0].getsockname() == ("10.0.3.10", 49152)  # type: ignore[attr-defined]
        await connect(world.loop, "localhost", 502, local_addr=("10.0.3.10", 6000))
        with pytest.raises(OSError, match="taken"):
            await connect(world.loop, "localhost", 502, local_addr=("10.0.3.10", 6000))

    world.run(world.plc, listen_twice)


def test_a_server_can_wait_to_be_started_and_serve_until_canceled(world: World) -> None:
    async def main() -> None:
        server = await world.loop.create_server(echo, None, 502, start_serving=False)
        with pytest.raises(ConnectionRefusedError):
            await connect(world.loop, "plc", 502)
        forever = asyncio.create_task(server.serve_forever())
        await asyncio.sleep(1)
        await connect(world.loop, "plc", 502)
        with pytest.raises(RuntimeError, match="awaited already"):
            await server.serve_forever()
        server.close()
        await server.wait_closed()
        with pytest.raises(asyncio.CancelledError):
            await forever
        with pytest.raises(RuntimeError, match="closed"):
            await server.serve_forever()

    world.run(world.plc, main)


def test_closing_a_server_closes_the_listener_and_no_connection(world: World) -> None:
    servers: list[asyncio.AbstractServer] = []

    async def start() -> None:
        servers.append(await world.loop.create_server(echo, None, 502))

    async def use() -> bytes:
        client = await connect(world.loop, "plc", 502)
        await asyncio.sleep(1)
        servers[0].close()
        with pytest.raises(ConnectionRefusedError):
            await connect(world.loop, "plc", 502)
        client.transport.write(b"still here")
        await asyncio.sleep(1)
        return client.data

    world.plc.spawn(start())
    assert world.run(world.hmi, use) == b"still here"


def test_a_listener_closed_during_the_handshake_resets_the_connection(world: World) -> None:
    servers: list[asyncio.AbstractServer] = []

    async def start() -> None:
        servers.append(await world.loop.create_server(echo, None, 502))

    async def use() -> list[Exception | None]:
        client = await connect(world.loop, "plc", 502)
        servers[0].close()  # the last packet of the handshake is still on its way
        await asyncio.sleep(1)
        return client.lost

    world.plc.spawn(start())
    lost = world.run(world.hmi, use)
    assert isinstance(lost[0], ConnectionResetError)


# -- hosts --------------------------------------------------------------------------------------------------------


def test_what_a_server_s_callback_starts_acts_for_the_server_s_host(world: World) -> None:
    seen: list[tuple[str, str]] = []

    class Relay(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            seen.append(("callback", CURRENT_HOST.get().name))
            self.task = asyncio.create_task(self.pass_on())
            asyncio.get_running_loop().call_later(1, lambda: seen.append(("timer", CURRENT_HOST.get().name)))

        async def pass_on(self) -> None:
            await connect(world.loop, "plc", 502)

    class Far(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            seen.append((transport.get_extra_info("peername")[0], CURRENT_HOST.get().name))

    world.serve(world.server, 80, Relay)
    world.serve(world.plc, 502, Far)

    async def main() -> None:
        client = await connect(world.loop, "server", 80)
        client.transport.write(b"go")
        await asyncio.sleep(3)

    world.run(world.laptop, main)
    assert seen == [("callback", "server"), ("10.0.2.10", "plc"), ("timer", "server")]


def test_programs_of_one_host_do_not_see_each_other_s_context_variables(world: World) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    seen: list[str] = []

    async def sets() -> None:
        variable.set("set")

    async def reads() -> None:
        seen.append(variable.get())

    world.plc.spawn(sets())
    world.plc.spawn(reads())
    world.loop.run_to(1)
    assert seen == ["unset"]


def test_code_that_runs_on_no_host_cannot_use_the_network(world: World) -> None:
    with pytest.raises(OSError, match="runs on no simulated host"):
        world.loop.run_until_complete(world.loop.create_connection(Recorder, "plc", 502))


def test_an_error_of_a_program_ends_the_run(world: World) -> None:
    async def breaks() -> None:
        await asyncio.sleep(1)
        raise LookupError("broken program")

    world.plc.spawn(breaks())
    with pytest.raises(LookupError, match="broken program"):
        world.loop.run_to(2)


def test_power_off_silences_a_host_and_power_on_brings_it_back_empty(world: World) -> None:
    told: list[str] = []

    async def program() -> None:
        world.loop.call_later(5, told.append, "timer of the first life")
        try:
            await asyncio.sleep(100)
        finally:
            with pytest.raises(OSError, match="plc is off"):
                await connect(world.loop, "hmi", 502)
            told.append("canceled")

    near, far = pair(world, world.hmi, world.plc)
    world.plc.spawn(program())
    world.loop.run_to(3)
    world.plc.power_off()
    world.plc.power_off()
    assert not world.plc.up
    world.do(world.hmi, near.transport.write, b"anybody there?")
    world.loop.run_to(60)
    assert told == ["canceled"]
    assert far.told() == ["made"]
    assert near.told() == ["made"]  # silence: TCP keeps trying
    world.plc.power_on()
    with pytest.raises(ConnectionRefusedError):
        world.run(world.hmi, lambda: connect(world.loop, "plc", 502), 61)
    world.loop.run_to(200)
    assert isinstance(
        near.lost[0], ConnectionResetError
    )  # the next retransmission met a machine that knows nothing
    world.serve(world.plc, 502, echo)
    assert world.run(world.hmi, lambda: connect(world.loop, "plc", 502), 300).told() == ["made"]


def test_what_is_on_its_way_to_a_machine_that_loses_power_is_sent_again_in_order(world: World) -> None:
    near, _ = pair(world, world.laptop, world.plc)
    seen = watch(world.office)
    start = world.loop.time()

    def write() -> None:
        near.transport.write(b"one")
        near.transport.write(b"two")

    world.do(world.laptop, write)
    world.loop.call_at(start + 0.0005, world.plc.power_off)
    world.loop.run_to(start + 1)
    data = [(packet.payload, packet.seq) for packet in seen if packet.payload]
    assert [payload for payload, _ in data[:6]] == [b"one", b"two"] * 3
    assert data[0][1] == data[2][1] == data[4][1]
    world.loop.run_to(start + 2000)
    assert isinstance(near.lost[0], TimeoutError)
    # 15 retransmissions that start at 200 ms and double to 120 s: 924.6 s (Linux, tcp_retries2 = 15)
    assert near.events[-1][1] - start == pytest.approx(924.6, abs=0.1)
    assert not world.laptop.connections
    assert not world.laptop.ports


# -- closing ------------------------------------------------------------------------------------------------------


def test_close_delivers_what_was_written_and_then_the_end_of_stream(world: World) -> None:
    near, far = pair(world, world.hmi, world.plc)

    def write() -> None:
        near.transport.write(b"x" * 200_000)
        near.transport.close()
        near.transport.write(b"discarded")

    world.do(world.hmi, write)
    assert near.transport.is_closing()
    world.loop.run_to(5)
    assert far.data == b"x" * 200_000
    assert far.told() == ["made", "eof", "lost"]
    assert near.told()[-1] == "lost"
    assert near.lost == far.lost == [None]
    assert not world.hmi.connections
    assert not world.plc.connections
    assert not world.hmi.ports


def test_half_close_still_lets_the_other_side_answer(world: World) -> None:
    class Patient(Recorder):
        def eof_received(self) -> bool:
            self.note("eof")
            asyncio.get_running_loop().call_later(5, self.finish)
            return True

        def finish(self) -> None:
            self.transport.write(b"sum of " + self.data)
            self.transport.close()

    world.serve(world.plc, 502, Patient)

    async def main() -> tuple[bytes, float]:
        client = await connect(world.loop, "plc", 502)
        assert client.transport.can_write_eof()
        client.transport.write(b"1, 2")
        client.transport.write_eof()
        with pytest.raises(RuntimeError, match="write_eof"):
            client.transport.write(b"3")
        await asyncio.sleep(10)
        assert client.lost == [None]
        return client.data, client.chunks[0][0]

    data, when = world.run(world.hmi, main)
    assert data == b"sum of 1, 2"
    assert 5 < when < 5.01


def test_abort_resets_the_peer_and_drops_what_was_not_sent(world: World) -> None:
    near, far = pair(world, world.hmi, world.plc)

    def write() -> None:
        near.transport.write(b"x" * 300_000)
        near.transport.abort()

    world.do(world.hmi, write)
    world.loop.run_to(5)
    assert near.lost == [None]
    assert isinstance(far.lost[0], ConnectionResetError)
    assert len(far.data) < 300_000


def test_data_that_meets_a_closed_program_is_answered_with_a_reset(world: World) -> None:
    near, far = pair(world, world.hmi, world.plc)
    far.keep_open = True
    world.do(world.plc, far.transport.write, b"too late")
    world.do(world.hmi, near.transport.close)
    world.loop.run_to(5)
    assert near.data == b""
    assert near.lost == [None]
    assert isinstance(far.lost[0], ConnectionResetError)


def test_closing_with_unread_data_resets_the_peer(world: World) -> None:
    near, far = pair(world, world.hmi, world.plc)
    near.transport.pause_reading()
    world.do(world.plc, far.transport.write, b"never read")
    world.loop.run_to(2)
    world.do(world.hmi, near.transport.close)
    world.loop.run_to(5)
    assert isinstance(far.lost[0], ConnectionResetError)


def test_a_program_that_closes_is_done_though_its_peer_is_silent(world: World) -> None:
    near, far = pair(world, world.hmi, world.plc)
    seen = watch(world.control)
    world.control.cut = True

    def say_goodbye() -> None:
        near.transport.write(b"last words")
        near.transport.close()

    world.do(world.hmi, say_goodbye)
    world.loop.run_to(2)
    assert near.lost == [None]  # the operating system carries on alone
    world.control.cut = False
    world.loop.run_to(10)
    assert far.data == b"last words"
    assert far.lost == [None]
    assert shape(seen).count(">F.") == 1
    assert not world.hmi.connections


def test_a_lost_fin_is_sent_again(world: World) -> None:
    near, far = pair(world, world.hmi, world.plc)
    start = world.loop.time()
    world.control.cut = True
    world.do(world.hmi, near.transport.close)
    world.loop.call_at(start + 0.5, setattr, world.control, "cut", False)
    world.loop.run_to(start + 10)
    # tries at 0, 0.2 and 0.6 s
    assert far.told() == ["made", "eof", "lost"]
    assert far.events[-1][1] == pytest.approx(start + 0.6, abs=0.01)


def test_bytes_of_any_kind_are_written_and_nothing_else(world: World) -> None:
    near, far = pair(world, world.hmi, world.plc)

    def write() -> None:
        buffer = bytearray(b"bytearray ")
        near.transport.write(buffer)
        buffer[:] = b"changed!!!"
        near.transport.write(memoryview(b"memoryview "))
        near.transport.writelines([b"lines ", b"joined"])
        near.transport.write(b"")
        for wrong in ("text", 7):
            with pytest.raises(TypeError):
                near.transport.write(wrong)  # type: ignore[arg-type]

    world.do(world.hmi, write)
    world.loop.run_to(2)
    assert far.data == b"bytearray memoryview lines joined"


# -- flow control -------------------------------------------------------------------------------------------------


def test_a_reader_that_pauses_stops_the_writer_and_resuming_lets_all_arrive_in_order(world: World) -> None:
    near, far = pair(world, world.hmi, world.plc)
    sent = random.Random(1).randbytes(1_000_000)
    far.transport.pause_reading()
    assert not far.transport.is_reading()

    async def write() -> None:
        for at in range(0, len(sent), 10_000):
            near.transport.write(sent[at : at + 10_000])

    world.hmi.spawn(write())
    world.loop.run_to(10)
    assert near.told() == ["made", "pause"]
    assert far.data == b""
    assert near.transport.get_write_buffer_size() == 1_000_000 - 65_535 - 65_536
    world.do(world.plc, far.transport.resume_reading)
    world.loop.run_to(20)
    assert far.data == sent
    assert near.told() == ["made", "pause", "resume"]
    assert near.transport.get_write_buffer_size() == 0


def test_drain_waits_for_a_slow_reader(world: World) -> None:
    written: list[float] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not reader.at_eof():
            await reader.read(10_000)
            await asyncio.sleep(1)
        writer.close()

    async def start() -> None:
        await asyncio.start_server(serve, None, 502, limit=20_000)

    async def main() -> None:
        _, writer = await asyncio.open_connection("plc", 502)
        for _ in range(50):
            writer.write(b"x" * 10_000)
            await writer.drain()
            written.append(world.loop.time())
        writer.close()
        await writer.wait_closed()

    world.plc.spawn(start())
    world.run(world.hmi, main)
    assert written[10] < 1
    assert written[-1] > 20


def test_water_marks_are_as_asyncio_has_them(world: World) -> None:
    near, _ = pair(world, world.hmi, world.plc)
    transport = near.transport
    assert transport.get_write_buffer_limits() == (16_384, 65_536)
    transport.set_write_buffer_limits(high=1000)
    assert transport.get_write_buffer_limits() == (250, 1000)
    transport.set_write_buffer_limits(low=100)
    assert transport.get_write_buffer_limits() == (100, 400)
    with pytest.raises(ValueError, match="must be >="):
        transport.set_write_buffer_limits(high=1, low=2)


def test_bandwidth_makes_segments_queue_and_a_full_queue_drops(world: World) -> None:
    world.dmz_control.bandwidth = 1e6
    seconds = 50_000 * 8 / 1e6
    near, far = pair(world, world.server, world.plc)
    start = world.loop.time()
    world.do(world.server, near.transport.write, b"x" * 50_000)
    world.loop.run_to(start + 5)
    assert far.chunks[0][0] - start == pytest.approx(seconds, rel=0.1)
    # 60 kB more at once wait 0.4 s at the bottleneck, more than a port's 0.2 s: others' segments are dropped meanwhile
    other, _ = pair(world, world.server, world.hmi, 503)
    start = world.loop.time()

    def write() -> None:
        near.transport.write(b"y" * 60_000)
        other.transport.write(b"z")

    dropped = world.dmz_control.dropped
    world.do(world.server, write)
    world.loop.run_to(start + 10)
    assert world.dmz_control.dropped > dropped
    assert len(far.data) == 110_000


def test_directions_do_not_share_bandwidth(world: World) -> None:
    world.dmz_control.bandwidth = 1e6
    near, far = pair(world, world.server, world.plc)
    start = world.loop.time()
    world.do(world.server, near.transport.write, b"x" * 12_500)
    world.do(world.plc, far.transport.write, b"y" * 12_500)
    world.loop.run_to(start + 5)
    assert far.chunks[0][0] - start == pytest.approx(0.1, rel=0.1)
    assert near.chunks[0][0] - start == pytest.approx(0.1, rel=0.1)


def test_links_count_what_crosses_them(world: World) -> None:
    near, _ = pair(world, world.server, world.plc)
    packets, octets = world.dmz_control.packets, world.dmz_control.bytes
    assert (packets, octets) == (3, 3 * 54)
    world.do(world.server, near.transport.write, b"x" * 3000)
    world.loop.run_to(world.loop.time() + 1)
    assert world.dmz_control.packets == packets + 1
    assert world.dmz_control.bytes == octets + 3000 + 3 * 54


# -- loss ---------------------------------------------------------------------------------------------------------


def test_a_lost_segment_holds_back_those_behind_it_until_it_is_sent_again(world: World) -> None:
    near, far = pair(world, world.server, world.plc)
    start = world.loop.time()
    drops = iter([True, True, False])

    def lossy(packet: Packet) -> Verdict:
        return Verdict.DROP if packet.payload and next(drops, False) else Verdict.ACCEPT

    world.dmz_control.add_policy("lossy", lossy)

    def write() -> None:
        near.transport.write(b"first ")
        near.transport.write(b"second ")

    world.do(world.server, write)
    world.loop.call_at(start + 0.3, near.transport.write, b"third")
    world.loop.run_to(start + 5)
    assert far.data == b"first second third"
    # lost at 0 and at 0.2 s, through at 0.6 s, the rest right behind it
    assert [when - start for when, _ in far.chunks] == [pytest.approx(0.6, abs=0.01)] * 3


@pytest.mark.parametrize("loss", [0.01, 0.3])
def test_a_lossy_link_delays_data_and_loses_none_of_it(world: World, loss: float) -> None:
    world.dmz_control.loss = loss
    world.serve(world.plc, 502, echo)
    sent = random.Random(2).randbytes(50_000)

    async def main() -> bytes:
        client = await connect(world.loop, "plc", 502)
        for at in range(0, len(sent), 500):
            client.transport.write(sent[at : at + 500])
            await asyncio.sleep(0.1)
        await asyncio.sleep(1000)
        return client.data

    assert world.run(world.server, main) == sent
    assert world.dmz_control.dropped > 0


def test_a_cut_conduit_stalls_connections_and_they_go_on_when_it_is_back(world: World) -> None:
    near, far = pair(world, world.server, world.plc)
    reasons: list[str] = []
    world.dmz_control.observers.append(lambda link, packet, reason, verdict: reasons.append(reason))
    world.dmz_control.cut = True
    start = world.loop.time()
    world.do(world.server, near.transport.write, b"patience")
    world.loop.run_to(start + 20)
    assert far.data == b""
    assert set(reasons) == {"island mode"}
    world.dmz_control.cut = False
    world.loop.run_to(start + 60)
    assert far.data == b"patience"
    assert near.lost == far.lost == []


@pytest.mark.parametrize(("fail_closed", "arrives"), [(True, False), (False, True)])
def test_a_failed_firewall_stops_all_or_lets_all_pass(world: World, fail_closed: bool, arrives: bool) -> None:
    near, far = pair(world, world.server, world.plc)
    world.dmz_control.add_policy("none", lambda packet: Verdict.DROP)
    world.dmz_control.fail_closed = fail_closed
    world.dmz_control.guard_up = False
    world.do(world.server, near.transport.write, b"x")
    world.loop.run_to(world.loop.time() + 0.1)
    assert (far.data == b"x") is arrives


def test_a_dropped_flood_still_loads_the_links_before_the_firewall(world: World) -> None:
    near, _ = pair(world, world.server, world.plc)
    world.dmz_control.add_policy("none", lambda packet: Verdict.DROP)
    before, beyond = world.dmz.bytes, world.control.bytes
    world.do(world.server, near.transport.write, b"x" * 1000)
    world.loop.run_to(world.loop.time() + 0.1)
    assert world.dmz.bytes == before + 1054
    assert world.control.bytes == beyond


def test_a_rejected_segment_resets_both_ends(world: World) -> None:
    near, far = pair(world, world.laptop, world.plc)
    seen_near, seen_far = watch(world.office), watch(world.control)
    denied: list[Packet] = []
    world.dmz_control.observers.append(lambda link, packet, reason, verdict: denied.append(packet))
    world.dmz_control.add_policy("fw", lambda p: Verdict.REJECT if p.payload else Verdict.ACCEPT)

    def write() -> None:
        near.transport.write(b"forbidden")
        near.transport.write(b"never sent")

    world.do(world.laptop, write)
    world.loop.run_to(world.loop.time() + 5)
    assert isinstance(near.lost[0], ConnectionResetError)
    assert isinstance(far.lost[0], ConnectionResetError)
    assert far.data == b""
    assert [packet.payload for packet in denied] == [b"forbidden"]
    assert shape(seen_near) == [">P.", "<R."]
    assert shape(seen_far) == [">R."]
    assert seen_near[1].seq == seen_near[0].ack
    assert not world.laptop.connections
    assert not world.plc.connections


# -- what taps see ------------------------------------------------------------------------------------------------


def conversation(world: World) -> None:
    near, far = pair(world, world.hmi, world.plc)
    far.answer = lambda data: data.upper()
    world.do(world.hmi, near.transport.write, b"hello")
    world.loop.run_to(world.loop.time() + 1)
    world.do(world.hmi, near.transport.close)
    world.loop.run_to(world.loop.time() + 1)


def test_taps_see_handshake_data_acknowledgments_and_farewell_with_right_numbers(world: World) -> None:
    seen = watch(world.control)
    conversation(world)
    assert shape(seen) == [">S", "<S.", ">.", ">P.", "<.", "<P.", ">.", ">F.", "<.", "<F.", ">."]
    mine, theirs = seen[0].seq, seen[1].seq
    relative = [
        (p.seq - (theirs if p.reply else mine), p.ack - (mine if p.reply else theirs) if p.flags & ACK else 0)
        for p in seen
    ]
    assert relative == [
        (0, 0),
        (0, 1),
        (1, 1),
        (1, 1),
        (1, 6),
        (1, 6),
        (6, 6),
        (6, 6),
        (6, 7),
        (6, 7),
        (7, 7),
    ]
    assert [packet.time for packet in seen] == sorted(packet.time for packet in seen)


def test_sequence_numbers_wrap_around(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Host, "next_sequence", lambda self: 0xFFFFFFFE)
    seen = watch(world.control)
    conversation(world)
    assert [p.seq for p in seen if p.payload] == [0xFFFFFFFF, 0xFFFFFFFF]
    assert max(p.ack for p in seen) <= 0xFFFFFFFF
    assert seen[-1].ack == 5


def test_each_zone_sees_the_macs_of_its_own_stations(world: World) -> None:
    seen = {link.name: watch(link) for link in world.network.links()}
    packets: dict[str, tuple[str, str]] = {}

    def note(link: Link, packet: Packet) -> None:
        packets.setdefault(link.name, (packet.sender_mac, packet.target_mac))

    for link in world.network.links():
        link.add_tap(note)
    pair(world, world.laptop, world.plc)
    gateway = {zone.name: zone.gateway.mac for zone in world.network.zones.values()}
    assert packets == {
        "office": (world.laptop.mac, gateway["office"]),
        "office-dmz": (gateway["office"], gateway["dmz"]),
        "dmz": (gateway["dmz"], gateway["dmz"]),
        "dmz-control": (gateway["dmz"], gateway["control"]),
        "control": (gateway["control"], world.plc.mac),
    }
    assert {len(packets) for packets in seen.values()} == {3}


def test_a_host_s_talk_to_itself_is_on_no_wire(world: World) -> None:
    seen = watch(world.control)
    world.serve(world.plc, 502, echo)
    client = world.run(world.plc, lambda: connect(world.loop, "127.0.0.1", 502), 1)
    world.do(world.plc, client.transport.write, b"myself")
    world.loop.run_to(2)
    assert client.data == b"myself"
    assert seen == []


def test_a_removed_tap_sees_nothing_more(world: World) -> None:
    seen: list[Packet] = []
    arp: list[ArpReply] = []

    def tap(link: Link, packet: Packet) -> None:
        seen.append(packet)

    world.control.add_tap(tap, lambda link, reply: arp.append(reply))
    world.control.remove_tap(tap)
    pair(world, world.hmi, world.plc)
    world.evil.interpose("10.0.3.10", "10.0.3.20", lambda packet: packet.payload)
    assert seen == []
    assert arp == []
    assert world.network.watchers == 0
    assert world.control.plain


def busy_day(tapped: bool, seed: int = 3) -> list[object]:
    """What a lossy, filtered world's programs experienced."""
    world = World(seed)
    world.dmz_control.loss = 0.05
    world.dmz_control.bandwidth = 2e6
    world.office_dmz.add_policy("picky", lambda p: Verdict.DROP if len(p.payload) == 301 else Verdict.ACCEPT)
    if tapped:
        for link in world.network.links():
            link.add_tap(lambda link, packet: None, lambda link, reply: None)
    world.serve(world.plc, 502, echo)
    story: list[object] = []

    async def client(host: Host) -> None:
        draw = world.network.randomness.stream(f"client:{host.name}")
        for _ in range(10):
            try:
                peer = await asyncio.wait_for(connect(world.loop, "plc", 502), 5)
            except OSError as error:
                story.append((host.name, world.loop.time(), repr(error)))
                continue
            for _ in range(10):
                peer.transport.write(b"x" * draw.randrange(1, 400))
                await asyncio.sleep(draw.random())
            story.append((host.name, world.loop.time(), len(peer.data), peer.chunks))
            peer.transport.close()

    for host in (world.laptop, world.server, world.hmi):
        host.spawn(client(host))
    world.loop.call_at(20, world.plc.power_off)
    world.loop.call_at(25, world.plc.power_on)
    world.loop.run_to(500)
    story.append([(link.name, link.packets, link.bytes, link.dropped) for link in world.network.links()])
    world.loop.close()
    return story


def test_taps_change_nothing() -> None:
    plain = busy_day(False)
    assert plain == busy_day(True)
    assert plain != busy_day(False, seed=4)


def test_one_more_host_changes_nobody_s_sequence_numbers(world: World) -> None:
    def numbers(extra: bool) -> list[int]:
        world = World()
        seen = watch(world.control)
        if extra:
            pair(world, world.evil, world.plc, 1502)
            seen.clear()
        pair(world, world.hmi, world.plc)
        world.loop.close()
        return [packet.seq for packet in seen if not packet.reply]

    assert numbers(False) == numbers(True)


# -- interposition ------------------------------------------------------------------------------------------------


def test_an_interposed_host_reads_and_changes_what_passes_and_shows_by_its_mac(world: World) -> None:
    near, far = pair(world, world.hmi, world.plc)
    far.answer = lambda data: b"level=50"
    seen = watch(world.control)
    passed: list[bytes] = []

    def forge(packet: Packet) -> bytes:
        passed.append(packet.payload)
        return packet.payload.replace(b"50", b"99")

    assert world.evil.interpose("10.0.3.10", "10.0.3.20", forge)
    world.do(world.hmi, near.transport.write, b"level?")
    world.loop.run_to(2)
    assert near.data == b"level=99"
    assert [data for data in passed if data] == [b"level?", b"level=50"]
    frames = [(p.sender_mac, p.target_mac, p.payload) for p in seen if p.payload and p.reply]
    assert frames == [
        (world.plc.mac, world.evil.mac, b"level=50"),
        (world.evil.mac, world.hmi.mac, b"level=99"),
    ]
    world.evil.withdraw("10.0.3.20", "10.0.3.10")
    world.do(world.hmi, near.transport.write, b"level?")
    world.loop.run_to(3)
    assert near.data == b"level=99level=50"
    assert world.network.interposers == 0
    assert not world.plc.arp_cache
    assert not world.hmi.arp_cache


def test_an_interposed_host_that_swallows_packets_makes_the_sender_repeat_them(world: World) -> None:
    near, far = pair(world, world.hmi, world.plc)
    swallowed: list[float] = []

    def swallow(packet: Packet) -> bytes | None:
        if packet.payload and len(swallowed) < 2:
            swallowed.append(packet.time)
            return None
        return packet.payload

    world.evil.interpose("10.0.3.10", "10.0.3.20", swallow)
    start = world.loop.time()
    world.do(world.hmi, near.transport.write, b"x")
    world.loop.run_to(start + 5)
    assert far.data == b"x"
    assert [when - start for when in swallowed] == [pytest.approx(0), pytest.approx(0.2)]


def test_a_guard_against_forged_arp_keeps_the_attacker_out_and_the_taps_informed(world: World) -> None:
    heard: list[ArpReply] = []
    world.control.add_tap(lambda link, packet: None, lambda link, reply: heard.append(reply))
    world.control.arp_guard = lambda reply: reply.sender == world.network.by_address[reply.address].name
    assert not world.evil.interpose("10.0.3.10", "10.0.3.20", lambda packet: b"")
    assert {reply.address for reply in heard} == {"10.0.3.10", "10.0.3.20"}
    assert {reply.mac for reply in heard} == {world.evil.mac}
    assert world.network.interposers == 0
    near, far = pair(world, world.hmi, world.plc)
    world.do(world.hmi, near.transport.write, b"untouched")
    world.loop.run_to(5)
    assert far.data == b"untouched"


def test_traffic_of_other_zones_is_caught_at_the_gateway_and_others_pass_unchanged(world: World) -> None:
    near, far = pair(world, world.laptop, world.plc)
    other, other_far = pair(world, world.server, world.plc, 503)
    conduit = watch(world.dmz_control)
    world.evil.interpose("10.0.3.10", "10.0.1.10", lambda packet: packet.payload.upper())
    world.do(world.laptop, near.transport.write, b"to the plc")
    world.do(world.server, other.transport.write, b"bystander")
    world.do(world.plc, far.transport.write, b"from the plc")
    world.loop.run_to(5)
    assert far.data == b"TO THE PLC"
    assert near.data == b"FROM THE PLC"
    assert other_far.data == b"bystander"
    # The attacker sits beyond the conduit: inbound passes it before the change, outbound after it.
    assert [p.payload for p in conduit if p.payload and p.flow.source_name == "laptop"] == [
        b"to the plc",
        b"FROM THE PLC",
    ]


def test_an_attacker_that_loses_power_is_out_of_the_way(world: World) -> None:
    near, far = pair(world, world.hmi, world.plc)
    world.evil.interpose("10.0.3.10", "10.0.3.20", lambda packet: None)
    world.evil.power_off()
    world.do(world.hmi, near.transport.write, b"x")
    world.loop.run_to(world.loop.time() + 0.1)
    assert far.data == b"x"


def test_two_interpositions_are_undone_one_by_one(world: World) -> None:
    world.evil.interpose("10.0.3.10", "10.0.1.10", lambda packet: packet.payload)
    world.evil.interpose("10.0.3.10", "10.0.2.10", lambda packet: packet.payload)
    world.evil.withdraw("10.0.3.10", "10.0.1.10")
    assert world.network.interposers == 1
    assert world.plc.arp_cache  # both stood for the same gateway
    world.evil.withdraw("10.0.3.10", "10.0.2.10")
    assert not world.plc.arp_cache
    assert not world.control.gateway.arp_cache
    world.evil.withdraw("10.0.3.10", "10.0.2.10")
    assert world.network.interposers == 0


def test_an_interposition_that_makes_no_sense_is_refused(world: World) -> None:
    with pytest.raises(NetworkError, match="cannot insert itself"):
        world.evil.interpose("10.0.1.10", "10.0.2.10", lambda packet: None)  # both beyond the gateway
    with pytest.raises(NetworkError, match="cannot insert itself"):
        world.evil.interpose("10.0.3.66", "10.0.3.10", lambda packet: None)


def test_a_tcp_payload_must_keep_its_length(world: World) -> None:
    near, _ = pair(world, world.hmi, world.plc)
    world.evil.interpose(
        "10.0.3.10", "10.0.3.20", lambda packet: packet.payload + b"!" * bool(packet.payload)
    )
    with pytest.raises(NetworkError, match="from 1 to 2 bytes"):
        world.do(world.hmi, near.transport.write, b"x")


# -- TLS ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def contexts(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[ssl.SSLContext, ssl.SSLContext, ssl.SSLContext]:
    """A server that demands client certificates, a client with one, a client without."""
    folder = tmp_path_factory.mktemp("pki")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "plc")])
    begin = datetime.datetime(2020, 1, 1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=36_500))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("plc")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "plc.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    server.load_verify_locations(file)
    server.verify_mode = ssl.CERT_REQUIRED
    client, anonymous = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for context in (client, anonymous):
        context.load_verify_locations(file)
    client.load_cert_chain(file)
    return server, client, anonymous


Contexts = tuple[ssl.SSLContext, ssl.SSLContext, ssl.SSLContext]


def test_tls_with_certificates_of_both_sides_carries_data_both_ways(world: World, contexts: Contexts) -> None:
    served: list[Recorder] = []

    def far_end() -> Recorder:
        served.append(echo())
        return served[-1]

    world.serve(world.plc, 802, far_end, ssl=contexts[0])
    seen = watch(world.control)

    async def main() -> bytes:
        client = await connect(world.loop, "plc", 802, ssl=contexts[1])
        client.transport.write(b"secret" * 5000)
        await asyncio.sleep(1)
        assert client.transport.get_extra_info("peercert")["subject"]
        assert served[0].transport.get_extra_info("peercert")["subject"]
        client.transport.close()
        await asyncio.sleep(1)
        assert client.lost == served[0].lost == [None]
        return client.data

    assert world.run(world.hmi, main) == b"secret" * 5000
    assert not any(b"secret" in packet.payload for packet in seen)
    assert not world.hmi.connections
    assert not world.plc.connections


def test_a_client_without_a_certificate_is_shown_the_door(world: World, contexts: Contexts) -> None:
    world.serve(world.plc, 802, echo, ssl=contexts[0])

    async def main() -> Recorder:
        client = await connect(world.loop, "plc", 802, ssl=contexts[2])
        client.transport.write(b"let me in")
        await asyncio.sleep(5)
        return client

    # TLS 1.3: the client has finished its part before the server says no.
    client = world.run(world.hmi, main)
    assert client.data == b""
    assert client.told()[-1] == "lost"


def test_a_server_with_another_name_is_not_trusted(world: World, contexts: Contexts) -> None:
    world.serve(world.plc, 802, echo, ssl=contexts[0])
    with pytest.raises(ssl.SSLCertVerificationError):
        world.run(world.hmi, lambda: connect(world.loop, "10.0.3.10", 802, ssl=contexts[1]), 50)
    with pytest.raises(ValueError, match="only meaningful"):
        world.loop.run_until_complete(
            world.hmi.spawn(world.loop.create_connection(Recorder, "plc", 802, server_hostname="plc"))
        )


def test_tampering_with_tls_breaks_the_session_and_changes_nothing_in_it(
    world: World, contexts: Contexts
) -> None:
    world.serve(world.plc, 802, echo, ssl=contexts[0])

    def flip(packet: Packet) -> bytes:
        payload = bytearray(packet.payload)
        if payload:
            payload[-1] ^= 1
        return bytes(payload)

    async def main() -> Recorder:
        client = await connect(world.loop, "plc", 802, ssl=contexts[1])
        await asyncio.sleep(1)
        world.evil.interpose("10.0.3.10", "10.0.3.20", flip)
        client.transport.write(b"open the valve")
        await asyncio.sleep(60)
        return client

    client = world.run(world.hmi, main)
    assert client.data == b""
    assert client.told()[-1] == "lost"


def test_a_tls_handshake_that_nobody_answers_times_out(world: World, contexts: Contexts) -> None:
    world.serve(world.plc, 802, Recorder)  # listens, and does not know what TLS is

    with pytest.raises(ConnectionError, match="SSL handshake is taking longer than 5"):
        world.run(
            world.hmi,
            lambda: connect(world.loop, "plc", 802, ssl=contexts[1], ssl_handshake_timeout=5),
            20,
        )
    assert not world.hmi.connections


def test_a_plain_connection_can_turn_to_tls(world: World, contexts: Contexts) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        writer.write(b"go ahead")
        await writer.drain()
        await writer.start_tls(contexts[0])
        writer.write(await reader.readexactly(4))

    async def start() -> None:
        await asyncio.start_server(serve, None, 25)

    async def main() -> bytes:
        reader, writer = await asyncio.open_connection("plc", 25)
        writer.write(b"STARTTLS")
        await reader.readexactly(8)
        await writer.start_tls(contexts[1], server_hostname="plc")
        writer.write(b"ping")
        return await reader.readexactly(4)

    world.plc.spawn(start())
    assert world.run(world.hmi, main) == b"ping"


# -- UDP ----------------------------------------------------------------------------------------------------------


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, answer: bool = False) -> None:
        self.got: list[tuple[bytes, tuple[str, int]]] = []
        self.errors: list[Exception] = []
        self.hosts: list[str] = []
        self.closed = False
        self.answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.DatagramTransport)
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.got.append((data, addr))
        self.hosts.append(CURRENT_HOST.get().name)
        if self.answer:
            self.transport.sendto(b"re: " + data, addr)

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True


def endpoint(world: World, host: Host, answer: bool = False, **where: Any) -> Datagrams:
    made: list[Datagrams] = []

    async def main() -> None:
        _, protocol = await world.loop.create_datagram_endpoint(lambda: Datagrams(answer), **where)
        assert isinstance(protocol, Datagrams)
        made.append(protocol)

    host.spawn(main())
    world.loop.run_to(math.nextafter(world.loop.time(), math.inf))
    return made[0]


def test_datagrams_arrive_whole_and_are_answered(world: World) -> None:
    server = endpoint(world, world.plc, answer=True, local_addr=("0.0.0.0", 514))
    client = endpoint(world, world.laptop, remote_addr=("plc", 514))
    seen = watch(world.dmz)
    world.do(world.laptop, client.transport.sendto, b"x" * 3000)
    world.loop.run_to(1)
    assert server.got == [(b"x" * 3000, ("10.0.1.10", 49152))]
    assert client.got == [(b"re: " + b"x" * 3000, ("10.0.3.10", 514))]
    assert server.hosts == ["plc"]
    assert client.hosts == ["laptop"]
    assert [(p.reply, p.flow.source_name, p.flow.target_port) for p in seen] == [
        (False, "laptop", 514),
        (True, "laptop", 514),
    ]
    client.transport.close()
    client.transport.sendto(b"too late")
    world.loop.run_to(2)
    assert client.closed
    assert len(server.got) == 1


def test_a_closed_udp_port_tells_only_an_endpoint_that_is_bound_to_it(world: World) -> None:
    bound = endpoint(world, world.hmi, remote_addr=("10.0.3.10", 514))
    free = endpoint(world, world.hmi)
    bound.transport.sendto(b"x")
    free.transport.sendto(b"x", ("10.0.3.10", 514))
    world.loop.run_to(1)
    assert isinstance(bound.errors[0], ConnectionRefusedError)
    assert free.errors == []
    with pytest.raises(ValueError, match="no address"):
        free.transport.sendto(b"x")
    with pytest.raises(TypeError):
        free.transport.sendto("x", ("10.0.3.10", 514))  # type: ignore[arg-type]


def test_datagrams_that_cannot_be_delivered_are_gone(world: World) -> None:
    server = endpoint(world, world.plc, local_addr=("0.0.0.0", 514))
    client = endpoint(world, world.laptop)
    client.transport.sendto(b"x" * 65_508, ("plc", 514))
    assert [error.errno for error in client.errors if isinstance(error, OSError)] == [errno.EMSGSIZE]
    client.transport.sendto(b"nobody", ("10.0.3.77", 514))
    world.office_dmz.add_policy("none", lambda packet: Verdict.DROP)
    client.transport.sendto(b"dropped", ("plc", 514))
    world.office_dmz.remove_policy("none")
    world.loop.run_to(1)
    world.plc.power_off()
    client.transport.sendto(b"off", ("plc", 514))
    world.loop.run_to(2)
    assert server.got == []


def test_an_endpoint_with_one_peer_hears_nobody_else(world: World) -> None:
    bound = endpoint(world, world.hmi, local_addr=("0.0.0.0", 9), remote_addr=("10.0.3.10", 514))
    world.do(world.evil, endpoint(world, world.evil).transport.sendto, b"spoof", ("10.0.3.20", 9))
    world.loop.run_to(1)
    assert bound.got == []


def test_udp_ports_clash(world: World) -> None:
    endpoint(world, world.plc, local_addr=("0.0.0.0", 514))
    with pytest.raises(OSError, match="UDP port 514"):
        world.run(
            world.plc,
            lambda: world.loop.create_datagram_endpoint(Datagrams, local_addr=("0.0.0.0", 514)),
        )


# -- properties ---------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 70_000), min_size=1, max_size=12),
    st.floats(0, 0.4),
    st.sampled_from([0.0, 0.01]),
    st.sampled_from([1e5, 1e7, 1e9]),
    st.booleans(),
)
def test_tcp_delivers_every_byte_once_and_in_order_whatever_the_link(
    sizes: list[int], loss: float, latency: float, bandwidth: float, tapped: bool
) -> None:
    world = World()
    world.dmz_control.loss = loss
    world.dmz_control.latency = latency
    world.dmz_control.bandwidth = bandwidth
    if tapped:
        watch(world.control)
    got: list[Recorder] = []

    def far_end() -> Recorder:
        got.append(Recorder())
        return got[-1]

    world.serve(world.plc, 502, far_end)
    source = random.Random(5)
    sent = [source.randbytes(size) for size in sizes]

    async def main() -> None:
        client = await connect(world.loop, "plc", 502)
        for data in sent:
            client.transport.write(data)
            await asyncio.sleep(source.random())
        client.transport.close()

    task = world.server.spawn(main())
    world.loop.run_to(20_000)
    if task.cancelled() or not got:
        return  # seven SYNs in a row were lost
    assert got[-1].data == b"".join(sent)
    assert got[-1].told() == ["made", "eof", "lost"]
    world.loop.close()


# -- containment --------------------------------------------------------------------------------------------------

PACKAGES = ("testbed", "devices", "controls", "scenarios")
#: what could reach outside the process; ``socket`` itself is looked at name by name
OUTWARD = {
    "subprocess", "multiprocessing", "socketserver", "http", "urllib", "ftplib", "smtplib", "xmlrpc", "selectors",
    "requests", "httpx", "aiohttp", "paramiko", "select", "asyncio.subprocess",
}  # fmt: skip
#: takes text apart and puts it together, beside a module of the same package that fetches
TEXT_ONLY = "urllib.parse"
#: constants and exceptions of the socket module: names that open nothing
HARMLESS = {"AF_INET", "SOCK_STREAM", "SOCK_DGRAM", "gaierror", "EAI_NONAME"}


@pytest.mark.parametrize(
    "path",
    [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_no_module_of_the_simulated_world_names_anything_that_reaches_outside(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            if node.module == TEXT_ONLY:
                continue
            if node.module == "socket":
                assert {alias.name for alias in node.names} <= HARMLESS, path
        for name in names:
            assert name not in OUTWARD, path
            assert name.split(".")[0] not in OUTWARD, path
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "socket":
            assert node.attr in HARMLESS, f"{path}: socket.{node.attr}"


#: every way out is reported, and the one that Python code takes is closed as well
PRISON = textwrap.dedent(
    """
    import asyncio, random, socket, ssl, sys

    outward = []
    WATCHED = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto",
               "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.__new__")

    def audit(event, args):
        if event in WATCHED:
            outward.append((event, repr(args)))

    def no_socket(*args, **options):
        raise AssertionError("somebody wants a socket of the operating system")

    def lock():
        socket.socket = socket.create_connection = socket.socketpair = no_socket
        sys.addaudithook(audit)

    """
)
STREAMS_AND_DATAGRAMS = PRISON + textwrap.dedent(
    """
    from testbed.network import Network
    from testbed.clock import SimLoop
    lock()

    loop = SimLoop()
    network = Network(loop)
    network.zone("a", "10.0.0.0/24")
    network.zone("b", "10.0.1.0/24")
    network.conduit("ab", "a", "b", loss=0.05)
    near, far = network.host("near", "a", "10.0.0.9"), network.host("far", "b", "10.0.1.9")

    async def serve():
        async def echo(reader, writer):
            while data := await reader.read(100):
                writer.write(data)
            writer.close()
        await asyncio.start_server(echo, None, 7)
        await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("0.0.0.0", 7))

    async def talk():
        reader, writer = await asyncio.open_connection("far", 7)
        for number in range(100):
            writer.write(b"x" * 50)
            await reader.readexactly(50)
            await asyncio.to_thread(sum, range(10))
        writer.close()
        datagrams, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=("far", 7))
        datagrams.sendto(b"x")
        # public names and addresses are strangers here
        for host in ("example.org", "192.0.2.1", "10.0.1.77"):
            try:
                await asyncio.open_connection(host, 80)
            except OSError:
                continue
            raise AssertionError(host)
        return "done"

    far.spawn(serve())
    task = near.spawn(talk())
    loop.run_to(1000)
    loop.close()
    print(task.result(), outward)
    """
)
WHOLE_SITE = PRISON + textwrap.dedent(
    """
    from scenarios.experiment import Experiment, run
    lock()
    run(Experiment("water", (), "SL 0", None, 1, 60.0))
    print("done", outward)
    """
)


@pytest.mark.parametrize(
    "scene",
    [STREAMS_AND_DATAGRAMS, pytest.param(WHOLE_SITE, marks=pytest.mark.slow)],
    ids=["streams and datagrams", "whole site"],
)
def test_a_running_world_makes_no_system_call_that_reaches_outside(scene: str) -> None:
    told = subprocess.run(
        [sys.executable, "-c", scene], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert told.stderr == ""
    assert told.stdout.strip() == "done []"


def test_the_audit_hook_of_that_test_would_notice_a_socket() -> None:
    opens = PRISON + "import _socket\nlock()\n_socket.socket()\nprint(outward)\n"
    told = subprocess.run([sys.executable, "-c", opens], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "socket.__new__" in told.stdout


# -- small things -------------------------------------------------------------------------------------------------


def test_a_networked_loop_is_one_host_that_talks_to_itself() -> None:
    loop = networked_loop()

    async def main() -> bytes:
        await loop.create_server(echo, "127.0.0.1", 502)
        client = await connect(loop, "localhost", 502)
        client.transport.write(b"ping")
        await asyncio.sleep(1)
        return client.data

    assert loop.run_until_complete(main()) == b"ping"
    loop.close()


def test_things_describe_themselves(world: World) -> None:
    near, _ = pair(world, world.hmi, world.plc)
    seen = watch(world.control)
    world.do(world.hmi, near.transport.write, b"xyz")
    assert repr(world.plc) == "<host plc 10.0.3.10>"
    assert repr(world.control) == "<link control>"
    assert repr(near.transport) == "<transport hmi to 10.0.3.10:502>"
    assert repr(seen[0]) == "<tcp 10.0.3.20:49152 > 10.0.3.10:502 flags=0x18 3 bytes>"
    assert isinstance(world.dmz_control, Conduit)
    assert isinstance(world.control, Zone)
    assert net.SEGMENT == 1460


def test_a_host_with_every_port_in_use_says_so(world: World) -> None:
    world.hmi.ports.update(dict.fromkeys(range(49_152, 65_536)))
    with pytest.raises(OSError, match="no free port"):
        world.hmi.free_port()
    del world.hmi.ports[60_000]
    assert world.hmi.free_port() == 60_000
