"""Reading tags: which requests cover them, what the answers mean, and what a checksum notices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_worlds import TAGS, SmallWorld, attempt, controller, one_zone

from devices.modbus import Access, Peer
from devices.plc import ILLEGAL_FUNCTION
from devices.poller import (
    GAP,
    MOST_BITS,
    MOST_REGISTERS,
    StationPoller,
    TagPoller,
    checksum,
    checksum_address,
    plan_reads,
)
from devices.registers import Table
from testbed.errors import OtlabError
from testbed.network import Packet
from testbed.site import Tag


@pytest.fixture
def world() -> Iterator[SmallWorld]:
    with one_zone() as found:
        yield found


def start_plc(world: SmallWorld, *, publish: bool = False) -> dict[str, Tag]:
    plc = world.plc()
    plc.seams.publish_checksum = publish
    plc.start()
    world.network.host("hmi1", "control", "10.0.1.20")
    world.run(1)
    return dict(plc.asset.tags)


# ---------------------------------------------------------------------------------------------------- planning


@st.composite
def tag_tables(draw: st.DrawFn) -> dict[str, Tag]:
    """Tags at distinct places of all four tables, dense in some parts and sparse in others."""
    tags: dict[str, Tag] = {}
    for table in ("coil", "discrete", "input", "holding"):
        address = draw(st.integers(0, 50))
        for _ in range(draw(st.integers(0, 12))):
            formats = ("bool",) if table in ("coil", "discrete") else ("uint16", "int16", "uint32", "float32")
            tag = Tag.model_validate(
                {"table": table, "address": address, "format": draw(st.sampled_from(formats))}
            )
            tags[f"{table}{address}"] = tag
            address += tag.words + draw(st.one_of(st.just(0), st.integers(0, 20), st.integers(0, 3000)))
    return tags


@settings(max_examples=30, deadline=None)  # a loaded machine is no defect
@given(tag_tables())
def test_the_reads_cover_every_tag_once_within_what_one_request_may_carry(tags: dict[str, Tag]) -> None:
    reads = plan_reads(tags)
    found = {name for read in reads for _, name, _ in (*read.places, *read.others)}
    assert found == set(tags)
    assert sum(len(read.places) + len(read.others) for read in reads) == len(tags)
    for read in reads:
        most = MOST_BITS if read.table in (Table.COIL, Table.DISCRETE) else MOST_REGISTERS
        assert 1 <= read.count <= most
        for offset, name, _ in (*read.places, *read.others):
            assert read.table == tags[name].table
            assert read.address + offset == tags[name].address
            assert offset + tags[name].words <= read.count


@settings(max_examples=30, deadline=None)  # a loaded machine is no defect
@given(tag_tables())
def test_two_neighboring_reads_could_not_have_been_one(tags: dict[str, Tag]) -> None:
    reads = plan_reads(tags)
    for first, second in pairwise(reads):
        if first.table is second.table:
            most = MOST_BITS if first.table in (Table.COIL, Table.DISCRETE) else MOST_REGISTERS
            end = first.address + first.count
            assert second.address - end > GAP or second.address - first.address >= most - 1


def test_tags_with_small_gaps_are_one_request() -> None:
    tags = {f"R{n}": Tag(table="holding", address=n * (GAP + 1)) for n in range(5)}
    assert [(read.address, read.count) for read in plan_reads(tags)] == [(0, 4 * (GAP + 1) + 1)]


# ----------------------------------------------------------------------------------------------------- polling


def test_a_poll_gives_every_tag_in_engineering_units(world: SmallWorld) -> None:
    tags = start_plc(world)
    values = world.ask(TagPoller(world.client(), tags).poll())
    assert values is not None
    assert set(values) == set(TAGS)
    assert values["L_SP"] == pytest.approx(400.0)
    assert values["OUTLET"] == 1.0
    assert values["LEVEL"] == pytest.approx(world.tank.level * 1000, abs=10)


def test_a_refused_poll_gives_nothing(world: SmallWorld) -> None:
    tags = start_plc(world)
    world.plcs["plc1"].seams.authorize.append(
        lambda _peer, access: ILLEGAL_FUNCTION if access.function == 3 else None
    )
    assert world.ask(TagPoller(world.client(), tags).poll()) is None
    inputs = {"LEVEL": tags["LEVEL"]}
    assert world.ask(TagPoller(world.client(), inputs).poll()) is not None


def test_a_plc_that_is_off_is_an_error_of_the_network(world: SmallWorld) -> None:
    tags = start_plc(world)
    world.network.hosts["plc1"].power_off()
    assert isinstance(world.ask(attempt(TagPoller(world.client(), tags).poll())), OSError)


def functions_asked(world: SmallWorld) -> list[int]:
    """Function codes as they reach the PLC from now on."""
    asked: list[int] = []

    def note(_peer: Peer, access: Access) -> None:
        asked.append(access.function)

    world.plcs["plc1"].seams.authorize.append(note)
    return asked


def test_a_station_reads_each_table_in_its_scan_class(
    world: SmallWorld,
) -> None:
    tags = start_plc(world)
    asked = functions_asked(world)
    poller = StationPoller(world.client(), tags)
    for _ in range(20):
        assert world.ask(poller.poll()) is not None
    assert {function: asked.count(function) for function in (1, 2, 3, 4)} == {1: 10, 2: 4, 3: 2, 4: 20}


def test_what_a_station_missed_is_due_again_at_once(world: SmallWorld) -> None:
    tags = start_plc(world)
    poller = StationPoller(world.client(timeout=0.5), tags)
    first = world.ask(poller.poll())
    assert first is not None
    assert set(first) == set(tags)
    world.network.hosts["plc1"].power_off()
    assert world.ask(poller.poll()) is None
    world.network.hosts["plc1"].power_on()
    world.plcs["plc1"].start()
    world.run(1)
    again = None
    for _ in range(5):  # until the broken connection has been given up
        again = again or world.ask(poller.poll())
    assert again is not None
    assert set(again) == set(tags)


def test_a_station_takes_a_refusal_for_a_missed_poll(world: SmallWorld) -> None:
    tags = start_plc(world)
    world.plcs["plc1"].seams.authorize.append(lambda _peer, _access: ILLEGAL_FUNCTION)
    assert world.ask(StationPoller(world.client(), tags).poll()) is None


# ---------------------------------------------------------------------------------------------------- checksum

REGISTERS = st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=125)


def test_the_checksum_is_the_crc_that_its_name_says() -> None:
    # CRC-16/CCITT-FALSE's published check value is of the nine bytes "123456789"; registers hold eight of them.
    def crc(data: bytes) -> int:
        value = 0xFFFF
        for byte in data:
            value ^= byte << 8
            for _ in range(8):
                value = (value << 1 ^ 0x1021 if value & 0x8000 else value << 1) & 0xFFFF
        return value

    assert crc(b"123456789") == 0x29B1
    assert checksum([0x3132, 0x3334, 0x3536, 0x3738]) == crc(b"12345678")


@settings(deadline=None)
@given(REGISTERS, st.data())
def test_the_checksum_notices_every_change_of_one_register(registers: list[int], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(registers) - 1))
    other = data.draw(st.integers(0, 0xFFFF).filter(lambda value: value != registers[place]))
    changed = [*registers[:place], other, *registers[place + 1 :]]
    assert checksum(changed) != checksum(registers)


def test_the_checksum_stands_behind_the_last_input_register() -> None:
    tags = controller().tags
    assert checksum_address(tags.values()) == 2
    wide = Tag(table="input", address=7, format="float32")
    assert checksum_address([*tags.values(), wide]) == 9
    assert checksum_address([tags["L_SP"]]) is None


def forge(level: int, *, recompute: bool) -> tuple[list[int], Callable[[Packet], bytes]]:
    """What somebody in between does to answers of the three input registers; and how often it did."""
    forged: list[int] = []

    def change(packet: Packet) -> bytes:
        payload = bytearray(packet.payload)
        if packet.reply and len(payload) == 15 and payload[7:9] == b"\x04\x06":
            payload[9:11] = level.to_bytes(2, "big")
            if recompute:
                registers = [int.from_bytes(payload[at : at + 2], "big") for at in (9, 11)]
                payload[13:15] = checksum(registers).to_bytes(2, "big")
            forged.append(level)
        return bytes(payload)

    return forged, change


@pytest.mark.parametrize(
    ("publish", "recompute", "believed"),
    [(False, False, True), (True, False, False), (True, True, True)],
    ids=["no checksum", "careless", "recomputing"],
)
def test_a_checksum_catches_a_careless_forger_and_not_one_who_recomputes_it(
    world: SmallWorld, publish: bool, recompute: bool, believed: bool
) -> None:
    tags = start_plc(world, publish=publish)
    # Without verification too, all three registers are read, so that the forger has the same work.
    wanted = tags if publish else {**tags, "SPARE": Tag(table="input", address=2)}
    poller = TagPoller(world.client(), wanted, checksum_at=2, verify=publish)
    assert world.ask(poller.poll(), by="hmi1") is not None
    forged, change = forge(1234, recompute=recompute)
    attacker = world.network.hosts["attacker"]
    assert attacker.interpose("10.0.1.20", "10.0.1.11", change)
    values = world.ask(poller.poll(), by="hmi1")
    assert forged
    assert (values is not None) is believed
    assert poller.mismatches == (0 if believed else 1)
    if values is not None:
        assert values["LEVEL"] == pytest.approx(123.4)
    attacker.withdraw("10.0.1.20", "10.0.1.11")
    after = world.ask(poller.poll(), by="hmi1")
    assert after is not None
    assert after["LEVEL"] == pytest.approx(world.tank.level * 1000, abs=10)


def test_a_verified_poll_gives_the_same_values(world: SmallWorld) -> None:
    tags = start_plc(world, publish=True)

    async def both() -> tuple[object, object]:
        plain = await TagPoller(world.client(), tags).poll()
        return plain, await TagPoller(world.client(), tags, checksum_at=2, verify=True).poll()

    plain, verified = world.ask(both())
    assert plain == verified


def test_a_checksum_that_one_request_cannot_reach_is_an_error_when_it_is_asked_for() -> None:
    with one_zone() as world:
        world.plc(asset=controller(tags={**TAGS, "FAR": {"table": "input", "address": 124}}))
        tags = world.controllers["plc1"].tags
        assert checksum_address(tags.values()) == 125
        TagPoller(world.client(), tags, checksum_at=125)
        with pytest.raises(OtlabError, match="at most 125"):
            TagPoller(world.client(), tags, checksum_at=125, verify=True)
