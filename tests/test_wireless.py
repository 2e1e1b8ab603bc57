"""The wireless cell: who joins it, what stations may do then, and transmitters that nobody knows."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_worlds import SmallWorld, attempt, controller

from controls import profiles
from controls.catalogue import SecurityLevels
from devices.modbus import ModbusClient, Refusal
from devices.registers import Table
from devices.wireless import (
    ACK,
    EAP_REQUEST,
    EAP_RESPONSE,
    MESSAGE_1,
    MESSAGE_2,
    USUAL_PASSPHRASES,
    AccessPoint,
    Air,
    Frame,
    Identity,
    KeyFrame,
    Kind,
    Sniffer,
    Station,
    confirmation_key,
    crack,
    decode_identity,
    decode_key,
    encode_identity,
    passphrase_key,
)
from devices.world import World
from scenarios.actions import carry_out, place_attacker
from scenarios.experiment import Experiment, run, site_of
from scenarios.model import Scenario, load_scenario
from scenarios.trials import trials
from testbed.figures import load_figures
from testbed.network import Host

# -- frames ------------------------------------------------------------------------------------------------------

frames = st.builds(
    KeyFrame,
    st.integers(0, 0xFFFF),
    st.integers(0, 2**64 - 1),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=16, max_size=16),
)


@given(frames)
def test_a_key_frame_comes_back_from_its_bytes(frame: KeyFrame) -> None:
    raw = frame.encode()
    assert len(raw) == 99  # IEEE 802.11i: 4 bytes of EAPOL header and 95 of an EAPOL-Key without data
    assert decode_key(raw) == frame


@given(st.binary(max_size=120))
def test_any_bytes_are_a_frame_or_nothing(raw: bytes) -> None:
    key, identity = decode_key(raw), decode_identity(raw)
    assert key is None or key.encode()[:17] == raw[:17]
    assert identity is None or identity[0] in (EAP_REQUEST, EAP_RESPONSE)


@given(st.text(max_size=60))
def test_an_identity_comes_back_from_its_eap_packet(name: str) -> None:
    assert decode_identity(encode_identity(EAP_RESPONSE, name)) == (EAP_RESPONSE, name)
    assert decode_identity(encode_identity(EAP_RESPONSE, name)[:-1]) is None


@given(frames, st.binary(min_size=16, max_size=16), st.integers(0, 98), st.integers(1, 255))
def test_a_changed_message_no_longer_fits_its_code(frame: KeyFrame, key: bytes, at: int, flip: int) -> None:
    raw = bytearray(frame.signed(key).encode())
    raw[at] ^= flip
    changed = decode_key(bytes(raw))
    told = changed is None or not changed.verified(key) or changed == frame.signed(key)
    assert told


def test_both_ends_derive_the_same_key_and_another_passphrase_another() -> None:
    one, other = bytes(32), bytes(range(32))
    macs = ("02:00:0a:00:06:0a", "02:00:0a:00:06:14")
    master = passphrase_key("pumphall2020", "pumphall")
    kck = confirmation_key(master, *macs, one, other)
    assert kck == confirmation_key(master, *macs[::-1], other, one)
    assert kck != confirmation_key(passphrase_key("pumphall2021", "pumphall"), *macs, one, other)
    assert passphrase_key("pumphall2020", "office") != master


# -- a small cell ------------------------------------------------------------------------------------------------


class Cell:
    """A zone with an access point, a tablet and a stranger, joined to the zone of a PLC."""

    def __init__(self) -> None:
        self.world = SmallWorld()
        network = self.world.network
        network.zone("control", "10.0.1.0/24")
        network.zone("wireless", "10.0.6.0/24", trusted=False)
        network.conduit("between", "wireless", "control")
        self.plc = self.world.plc("plc1", controller())
        self.air = Air(self.world.loop)
        self.point = AccessPoint(
            network.host("ap1", "wireless", "10.0.6.10"), "ap1", "hall", self.air, random.Random(1)
        )
        self.world.listen(self.point.audit)
        self.tablet = Station(network.host("tablet1", "wireless", "10.0.6.20"), self.air, random.Random(2))
        self.stranger = Station(network.host("attacker", "wireless", "10.0.6.99"), self.air, random.Random(3))

    def start(self) -> None:
        self.plc.start()
        self.point.start()
        self.world.run(1.0)

    def join(self, station: Station, network: str = "hall") -> str | None:
        return self.world.ask(station.join(self.point.host.mac, network), station.host.name)

    def reads(self, host: Host) -> bool:
        client = ModbusClient("10.0.1.11", 502, timeout=2.0)
        answer = self.world.ask(attempt(client.read(Table.INPUT, 0, 1)), host.name)
        client.close()
        return isinstance(answer, list)


@contextmanager
def cell() -> Iterator[Cell]:
    found = Cell()
    try:
        yield found
    finally:
        found.world.close()


def test_packets_of_a_station_pass_once_it_has_joined_and_until_it_leaves() -> None:
    with cell() as it:
        it.start()
        assert not it.reads(it.stranger.host)
        assert it.join(it.stranger) is None
        assert it.reads(it.stranger.host)
        it.stranger.leave(it.point.host.mac)
        it.world.run(1.0)
        assert not it.reads(it.stranger.host)


def test_the_common_passphrase_lets_in_whoever_knows_it_and_tells_nobody_apart() -> None:
    with cell() as it:
        it.point.seams.passphrase = it.tablet.passphrase = "pumphall2020"
        it.start()
        assert it.join(it.tablet) is None
        assert it.join(it.stranger) == "a key is asked for"
        it.stranger.passphrase = "pumphall2021"
        assert it.join(it.stranger) == "wrong key"
        assert not it.reads(it.stranger.host)
        it.stranger.passphrase = "pumphall2020"
        assert it.join(it.stranger) is None
        assert it.reads(it.stranger.host)
        joined = [data["user"] for _, _, kind, data in it.world.events if kind == "wireless.joined"]
        assert joined == [None, None]


def test_an_identity_of_ones_own_is_told_in_the_record_and_ends_when_it_is_revoked() -> None:
    with cell() as it:
        key = random.Random(9).randbytes(32)
        it.point.seams.identities = {"tablet1": Identity("tablet1", key)}
        it.tablet.identity = Identity("tablet1", key)
        it.start()
        assert it.join(it.tablet) is None
        assert it.world.last("wireless.joined")["user"] == "tablet1"
        assert it.reads(it.tablet.host)
        it.point.revoke("tablet1")
        assert not it.reads(it.tablet.host)
        assert it.join(it.tablet) == "identity revoked"
        assert it.world.last("wireless.refused")["user"] == "tablet1"


def test_a_name_without_its_key_opens_nothing() -> None:
    with cell() as it:
        it.point.seams.identities = {"tablet1": Identity("tablet1", bytes(32))}
        it.start()
        assert it.join(it.stranger) == "an identity is asked for"
        it.stranger.identity = Identity("tablet1", bytes(31) + b"x")
        assert it.join(it.stranger) == "wrong key"
        it.stranger.identity = Identity("nobody", bytes(32))
        assert it.join(it.stranger) == "identity unknown"


def test_a_station_does_not_join_an_access_point_that_does_not_know_the_key() -> None:
    with cell() as it:
        it.tablet.passphrase = "pumphall2020"
        impostor = it.stranger.host.mac

        def answer(frame: Frame) -> None:
            if frame.kind is Kind.ASSOCIATE:
                it.air.send(Frame(impostor, frame.sender, Kind.KEY, KeyFrame(MESSAGE_1, 1).encode()))
            elif (key := decode_key(frame.body)) is not None and key.information == MESSAGE_2:
                forged = KeyFrame(0x03CA, 2, key.nonce, bytes(16)).encode()
                it.air.send(Frame(impostor, frame.sender, Kind.KEY, forged))

        it.air.tune(impostor, answer)
        told = it.world.ask(it.tablet.join(impostor, "hall"), "tablet1")
        assert told == "the access point does not know the key"


def test_what_is_no_handshake_is_ignored_and_another_networks_name_is_not_answered() -> None:
    with cell() as it:
        it.point.seams.passphrase = "pumphall2020"
        it.start()
        mine = it.stranger.host.mac
        for kind, body in (
            (Kind.KEY, b"nonsense"),
            (Kind.KEY, KeyFrame(MESSAGE_2, 1).encode()),
            (Kind.EAP, b"\x02"),
            (Kind.ASSOCIATE, b"\xff\xfe"),
            (Kind.KEY, KeyFrame(ACK, 1).encode()),
            (Kind.LEAVE, b""),
        ):
            it.air.send(Frame(mine, it.point.host.mac, kind, body))
        it.world.run(1.0)
        assert not it.point.members
        assert it.join(it.stranger, "office") == "no answer"


def test_out_of_range_nobody_joins_hears_or_is_heard() -> None:
    with cell() as it:
        it.start()
        it.air.out_of_range.add(it.stranger.host.mac)
        sniffer = Sniffer(it.stranger.host.mac, it.air)
        it.point.seams.passphrase = it.tablet.passphrase = "pumphall2020"
        assert it.join(it.stranger) == "no answer"
        assert it.join(it.tablet) is None
        assert not sniffer.handshakes
        it.air.announce(it.stranger.host.mac, "setup")
        assert it.stranger.host.mac not in dict(it.air.heard())


def test_nothing_passes_and_nobody_joins_while_the_access_point_has_no_power() -> None:
    with cell() as it:
        it.start()
        assert it.join(it.tablet) is None
        it.point.host.power_off()
        assert not it.reads(it.tablet.host)
        assert it.join(it.tablet) == "no answer"


def test_a_captured_handshake_gives_a_usual_passphrase_away_and_no_other() -> None:
    for passphrase, expected in (("drinkwater2024", "drinkwater2024"), ("kTr7-vq02-Lmx9", None)):
        with cell() as it:
            sniffer = Sniffer(it.stranger.host.mac, it.air)
            it.point.seams.passphrase = it.tablet.passphrase = passphrase
            it.start()
            assert it.join(it.tablet) is None
            found, tried = crack(sniffer.handshakes[0], "hall", USUAL_PASSPHRASES)
            assert found == expected
            assert 1 <= tried <= len(USUAL_PASSPHRASES)


def test_a_scan_reports_each_transmitter_that_is_not_in_the_inventory_once() -> None:
    with cell() as it:
        it.point.seams.scan_every = 30.0
        it.point.seams.known = frozenset({it.point.host.mac, it.tablet.host.mac})
        it.start()
        assert it.join(it.tablet) is None
        it.world.run(100.0)
        assert not it.world.kinds("radio.unknown")
        it.air.announce(it.stranger.host.mac, "setup")
        it.world.run(31.0)
        assert it.world.last("radio.unknown") == {"mac": it.stranger.host.mac, "network": "setup"}
        it.world.run(100.0)
        assert it.world.kinds("radio.unknown") == ["radio.unknown"]


# -- the reference site ------------------------------------------------------------------------------------------


def water(*requirements: str) -> World:
    world = World(site_of("water"), 1, load_figures())
    profiles.apply(world, profiles.with_needs(requirements))
    return world


def outcomes(name: str | Scenario, *requirements: str, until: float = 150.0) -> dict[str, list[str]]:
    """Action -> outcomes of its steps, in a run of the shipped scenario ``name`` with these requirements."""
    world = water(*requirements)
    scenario = load_scenario(name) if isinstance(name, str) else name
    attack = place_attacker(world, scenario)
    world.start()
    begin = attack.attacker.spawn if attack.attacker is not None else world.loop.create_task
    task = begin(carry_out(attack, scenario))
    while not task.done() and world.loop.time() < until:
        world.loop.run_to(world.loop.time() + 10.0)
    found: dict[str, list[str]] = {}
    for event in world.trace.events:
        if event.kind in ("attack.step", "event.step"):
            found.setdefault(str(event.data["action"]), []).append(str(event.data["outcome"]))
        elif event.kind == "task" and event.data["task"] == "operator's round":
            found.setdefault("task", []).append(str(event.data["outcome"]))
    world.close()
    return found


def test_sr_1_6_keeps_out_who_does_not_know_the_passphrase() -> None:
    assert outcomes("wireless-open-network")["join_wireless"] == ["done"]
    closed = outcomes("wireless-open-network", "SR 1.6")
    assert closed["join_wireless"] == ["refused"]
    assert set(closed["modbus_write"]) == {"failed"}


@pytest.mark.parametrize("name", ["wireless-leaked-passphrase", "wireless-cracked-handshake"])
def test_sr_1_6_re_1_keeps_out_who_knows_a_passphrase_that_leaked_or_was_cracked(name: str) -> None:
    known = outcomes(name, "SR 1.6", until=240.0)
    assert known["join_wireless"] == ["done"]
    assert "done" in known["modbus_write"]
    individual = outcomes(name, "SR 1.6 RE 1", until=240.0)
    assert individual["join_wireless"] == ["refused"]
    assert "done" not in individual["modbus_write"]


def test_sr_2_2_lets_the_tablet_read_and_nothing_else_and_says_so() -> None:
    assert "done" in outcomes("wireless-infected-tablet")["modbus_write"]
    assert "done" not in outcomes("wireless-infected-tablet", "SR 2.2")["modbus_write"]

    async def tries(world: World) -> list[Any]:
        point, station = world.access_points["ap1"], world.stations["tablet1"]
        said: list[str] = []
        point.audit.sinks.append(lambda _source, kind, _data: said.append(kind))
        assert await station.join(point.host.mac, point.network) is None
        client = ModbusClient(world.network.hosts["plc3"].address)
        read = await attempt(client.read(Table.INPUT, 0, 1))
        written = await attempt(client.write(Table.COIL, 18, [0]))
        other = await attempt(ModbusClient(world.network.hosts["sis1"].address).read(Table.DISCRETE, 0, 1))
        return [isinstance(read, list), written is None or isinstance(written, Refusal), type(other), said]

    world = water("SR 2.2")
    world.start()
    task = world.network.hosts["tablet1"].spawn(tries(world), "tries")
    world.loop.run_to(30.0)
    world.close()
    assert task.result()[:3] == [True, False, TimeoutError]
    assert {"wireless.joined", "wireless.denied"} == set(task.result()[3])


def test_sr_2_2_re_1_reports_a_planted_access_point_before_it_is_used() -> None:
    times = []
    for requirement in ("SR 2.2", "SR 2.2 RE 1"):
        names = profiles.with_needs((requirement, "SR 6.2"))
        record, _ = run(
            Experiment("water", profiles.check(names), requirement, "rogue-access-point", 3, 320.0)
        )
        times.append(min(time for time, kind, _ in record.alerts if kind == "siem"))
    assert times[0] >= 300.0
    assert 60.0 < times[1] <= 60.0 + load_figures()["wireless.scan_every"] + 5.0


ROUND = Scenario.model_validate(
    {
        "name": "round",
        "title": "An operator's round",
        "summary": "Nobody attacks.",
        "start": 40.0,
        "steps": [{"action": "operator_round", "tablet": "tablet1"}],
    }
)


@pytest.mark.parametrize("level", [0, 1, 2, 3, 4])
def test_an_operators_round_can_be_made_at_every_level(level: int) -> None:
    names = profiles.enforced(SecurityLevels.uniform(level))
    assert outcomes(ROUND, *names, until=300.0)["task"] == ["done"]


def test_a_round_whose_tablet_is_not_let_in_is_a_task_that_could_not_be_done() -> None:
    world = water("SR 1.6")
    world.stations["tablet1"].passphrase = "pumphall0000"
    attack = place_attacker(world, ROUND)
    world.start()
    world.loop.create_task(carry_out(attack, ROUND))
    world.loop.run_to(120.0)
    told = [event.data["outcome"] for event in world.trace.events if event.kind == "task"]
    world.close()
    assert told == ["refused"]


def test_the_checks_see_an_open_network_and_an_access_point_without_power() -> None:
    names = ("SR 1.6 RE 1", "SR 2.2 RE 1")
    world = water(*names)
    assert all(profiles.working(world, name)["wireless"] for name in names)
    point = world.access_points["ap1"]
    assert point.seams.identities is not None
    point.seams.identities["contractor1"].enabled = True
    point.host.power_off()
    assert not any(profiles.working(world, name)["wireless"] for name in names)
    point.seams.passphrase = point.seams.identities = None
    assert not profiles.working(world, "SR 1.6")["wireless"]
    world.close()


def test_an_idle_cell_sends_nothing() -> None:
    world = water()
    world.start()
    world.loop.run_to(120.0)
    lanes = [lane.packets for name in ("wireless", "cellular") for lane in world.network.zones[name].lanes]
    world.close()
    assert lanes == [0, 0, 0, 0]


@pytest.mark.parametrize("name", ["SR 1.6", "SR 1.6 RE 1", "SR 2.2", "SR 2.2 RE 1"])
def test_each_requirement_has_a_trial_of_a_wireless_situation(name: str) -> None:
    assert name in trials()


def test_a_step_that_names_no_access_point_of_the_site_is_told_so() -> None:
    step = load_scenario("wireless-open-network").steps[0].model_copy(update={"access_point": "ap9"})
    assert list(step.lacks(site_of("water"))) == ["site 'water' has no access point 'ap9'"]
