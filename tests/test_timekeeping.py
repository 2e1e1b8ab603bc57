"""Clocks drift, a time server keeps them together, and whoever forges its answers needs its key."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.audit import Audit
from devices.timekeeping import (
    HEADER,
    SHORTEST_POLL,
    Clock,
    TimeClient,
    TimeServer,
    answer,
    drawn_clock,
    from_ntp,
    parse,
    request,
    seal,
    sealed,
    to_ntp,
)
from scenarios.steps.audit import shift_times
from testbed.network import Packet
from tests.small_worlds import SmallWorld, one_zone

EPOCH = 1_772_431_200.0  # 2026-03-02T06:00:00Z
KEY = bytes(range(16))


# -- clocks ------------------------------------------------------------------------------------------------------


def test_a_clock_gains_by_its_rate_and_keeps_what_it_was_set_to() -> None:
    now = [0.0]
    clock = Clock(lambda: now[0], EPOCH, rate=1e-4, offset=5.0)
    assert clock() == EPOCH + 5.0
    now[0] = 10_000.0
    assert clock() == pytest.approx(EPOCH + 10_000.0 + 5.0 + 1.0, abs=1e-6)
    clock.adjust(-6.0)
    assert clock() == pytest.approx(EPOCH + 10_000.0, abs=1e-6)
    now[0] = 20_000.0
    assert clock() == pytest.approx(EPOCH + 20_000.0 + 1.0, abs=1e-6)


@given(st.integers(0, 1000))
def test_a_drawn_clock_is_off_by_what_it_drifted_since_it_was_set(seed: int) -> None:
    clock = drawn_clock(lambda: 0.0, EPOCH, random.Random(seed), (20e-6, 100e-6), 432_000.0)
    assert 432_000 * 20e-6 <= abs(clock() - EPOCH) <= 432_000 * 100e-6 + 1e-6


# -- packets -----------------------------------------------------------------------------------------------------


@given(st.floats(0, 2_085_978_495.0))
def test_a_time_stamp_of_this_era_comes_back_to_the_microsecond(seconds: float) -> None:
    assert from_ntp(to_ntp(seconds)) == pytest.approx(seconds, abs=1e-6)


def test_a_question_and_its_answer_have_the_layout_of_rfc_5905() -> None:
    asked = request(0x1122334455667788)
    assert len(asked) == HEADER
    assert asked[0] == 0x23  # no leap warning, version 4, client
    told = answer(asked, EPOCH, EPOCH + 0.001)
    assert told is not None
    assert len(told) == HEADER
    assert told[0] == 0x24  # version 4, server
    assert told[1] == 1  # stratum
    assert told[12:16] == b"GPS\0"
    assert told[24:32] == bytes.fromhex("1122334455667788")  # the question's number as origin time stamp
    packet = parse(told)
    assert packet is not None
    assert packet.received == pytest.approx(EPOCH, abs=1e-6)
    assert packet.sent == pytest.approx(EPOCH + 0.001, abs=1e-6)


def test_an_answer_to_an_answer_is_none() -> None:
    told = answer(request(1), EPOCH, EPOCH)
    assert told is not None
    assert answer(told, EPOCH, EPOCH) is None


def test_the_code_is_aes_cmac_over_the_header() -> None:
    # The code of an empty message and of 16 bytes under the key of RFC 4493, section 4.
    from devices.timekeeping import _code

    key = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
    assert _code(b"", key).hex() == "bb1d6929e95937287fa37d129b756746"
    assert (
        _code(bytes.fromhex("6bc1bee22e409f96e93d7e117393172a"), key).hex()
        == "070a16b46b4d4144f79bdd9dd04a287c"
    )


@given(st.integers(0, 67), st.integers(1, 255))
def test_one_changed_byte_breaks_the_seal_unless_it_is_in_the_keys_number(at: int, change: int) -> None:
    raw = bytearray(seal(request(7), KEY))
    assert sealed(bytes(raw), KEY)
    raw[at] ^= change
    assert sealed(bytes(raw), KEY) is (HEADER <= at < HEADER + 4)


@given(st.binary(max_size=100))
def test_any_datagram_is_judged_without_an_error(raw: bytes) -> None:
    packet = parse(raw)
    assert packet is None or len(raw) >= HEADER
    with one_zone() as world:
        server = TimeServer(world.network.hosts["attacker"], "time1", lambda: EPOCH)
        reply = server.reply(raw)
        assert reply is None or (packet is not None and packet.mode == 3)
        client = TimeClient(
            world.network.hosts["attacker"],
            Clock(lambda: 0.0, EPOCH),
            "10.0.1.5",
            64,
            random.Random(1),
            Audit("x"),
        )
        assert client.take(raw) is False


# -- a server and a client ---------------------------------------------------------------------------------------


class Pair:
    """A time server and a device whose clock is 40 s ahead and gains 100 ppm, in one zone with an attacker."""

    def __init__(self, world: SmallWorld, key: bytes | None = None) -> None:
        self.world = world
        network = world.network
        self.server = TimeServer(network.host("time1", "control", "10.0.1.5"), "time1", self.true)
        self.device = network.host("device", "control", "10.0.1.6")
        self.clock = Clock(world.loop.time, EPOCH, rate=1e-4, offset=40.0)
        self.said: list[tuple[str, dict[str, Any]]] = []
        audit = Audit("device", [lambda _source, kind, data: self.said.append((kind, data))])
        self.client = TimeClient(self.device, self.clock, "10.0.1.5", 16.0, random.Random(1), audit)
        self.server.key = self.client.seams.key = key
        self.client.seams.report = key is not None

    def true(self) -> float:
        return EPOCH + self.world.now

    @property
    def error(self) -> float:
        return self.clock() - self.true()

    def start(self) -> None:
        self.server.start()
        self.client.start()

    def forge(self, seconds: float) -> None:
        """The attacker stands between and shifts what the server tells."""

        def shifted(packet: Packet) -> bytes:
            return shift_times(packet.payload, seconds) if packet.source == "10.0.1.5" else packet.payload

        self.world.network.hosts["attacker"].interpose("10.0.1.5", "10.0.1.6", shifted)


@pytest.mark.parametrize("key", [None, KEY])
def test_a_client_is_within_milliseconds_from_its_first_answer_on(key: bytes | None) -> None:
    with one_zone() as world:
        pair = Pair(world, key)
        pair.start()
        assert pair.error == pytest.approx(40.0)
        world.run(11.0)
        assert abs(pair.error) < 0.005
        world.run(600.0)
        assert abs(pair.error) <= 1e-4 * SHORTEST_POLL + 0.001
        assert pair.client.refused == 0


def test_a_client_asks_no_oftener_than_once_a_minute() -> None:
    with one_zone() as world:
        pair = Pair(world)
        pair.start()
        world.run(640.0)
        assert 9 <= pair.server.served <= 11


def test_a_client_whose_host_was_off_asks_again_when_it_is_back() -> None:
    with one_zone() as world:
        pair = Pair(world)
        pair.start()
        world.run(20.0)
        pair.device.power_off()
        world.run(100.0)
        before = pair.server.served
        pair.device.power_on()
        world.run(100.0)
        assert pair.server.served > before
        assert abs(pair.error) < 0.01


def test_forged_answers_move_a_clock_by_an_hour_and_a_key_stops_it_and_says_so() -> None:
    for key, moved in ((None, True), (KEY, False)):
        with one_zone() as world:
            pair = Pair(world, key)
            pair.start()
            world.run(20.0)
            pair.forge(3600.0)
            world.run(100.0)
            assert (abs(pair.error - 3600.0) < 0.1) is moved
            assert (abs(pair.error) < 0.1) is not moved
            refused = [data["peer"] for kind, data in pair.said if kind == "time.refused"]
            assert bool(refused) is not moved


def test_an_answer_that_nobody_asked_for_sets_no_clock() -> None:
    with one_zone() as world:
        pair = Pair(world)
        told = answer(request(1), EPOCH, EPOCH)
        assert told is not None
        assert not pair.client.take(told)
        pair.start()
        world.run(20.0)
        assert not pair.client.take(told)


def test_a_server_with_a_key_answers_plain_questions_plainly_and_forged_ones_not_at_all() -> None:
    with one_zone() as world:
        server = TimeServer(world.network.hosts["attacker"], "time1", lambda: EPOCH)
        assert server.reply(seal(request(1), KEY)) is None  # it has no key to check it with
        server.key = KEY
        sealed_reply = server.reply(seal(request(1), KEY))
        assert sealed_reply is not None
        assert sealed(sealed_reply, KEY)
        assert server.reply(seal(request(1), bytes(16))) is None
        plain = server.reply(request(1))
        assert plain is not None
        assert len(plain) == HEADER
