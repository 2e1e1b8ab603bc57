"""The operator station: values, alarms and writes, all over the wire."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import pytest
from small_worlds import TAGS, SmallWorld, controller, one_zone

from devices.accounts import Accounts, User
from devices.hmi import Alarm, Hmi
from devices.modbus import Access, Peer
from devices.plc import ILLEGAL_VALUE, MODE
from devices.registers import Table
from testbed.errors import UnknownNameError
from testbed.plant import stuck_at


@pytest.fixture
def world() -> Iterator[SmallWorld]:
    with one_zone() as found:
        yield found


def started(world: SmallWorld, **fields: Any) -> Hmi:
    """An HMI that watches the tank's PLC, both started."""
    world.plc().start()
    hmi = world.hmi(**fields)
    hmi.start()
    return hmi


def heard(world: SmallWorld, hmi: Hmi) -> list[tuple[float, str, bool]]:
    """Alarms as they come and go: (time, key, raised)."""
    found: list[tuple[float, str, bool]] = []

    def hear(alarm: Alarm, raised: bool) -> None:
        found.append((world.now, alarm.key, raised))

    hmi.on_alarm.append(hear)
    return found


def show(world: SmallWorld, millimetres: float) -> None:
    """Let the level transmitter show this from now on."""
    world.wiring.sensors["LEVEL"].fault = stuck_at(millimetres / 1000)


# -------------------------------------------------------------------------------------------------------- view


def test_the_screen_shows_every_tag_no_older_than_two_polls(world: SmallWorld) -> None:
    hmi = started(world)
    world.run(20)
    assert set(hmi.values) == set(TAGS)
    # 20 mm/s, and a value is at most a scan and a poll old.
    assert hmi.values["LEVEL"] == pytest.approx(world.tank.level * 1000, abs=20 * 1.5)
    assert world.now - hmi.fresh["plc1"] <= 1.0
    assert not hmi.stale("LEVEL")


def test_each_plc_is_polled_at_a_period_of_its_own(world: SmallWorld) -> None:
    asked: dict[str, int] = {"plc1": 0, "plc2": 0}

    def note(name: str) -> Any:
        def authorize(_peer: Peer, _access: Access) -> None:
            asked[name] += 1

        return authorize

    for number in (1, 2):
        tags = {f"LEVEL{number}": TAGS["LEVEL"]}
        logic = f"PROGRAM p VAR LEVEL{number} : REAL; END_VAR ; END_PROGRAM"
        plc = world.plc(f"plc{number}", controller(f"10.0.1.1{number}", tags=tags), logic)
        plc.seams.authorize.append(note(plc.name))
        plc.start()
    hmi = world.hmi(polls={"plc1": 1, "plc2": 2})
    hmi.start()
    world.run(9.5)
    assert asked == {"plc1": 10, "plc2": 5}
    assert set(hmi.values) == {"LEVEL1", "LEVEL2"}


# ------------------------------------------------------------------------------------------------------ alarms


@pytest.mark.parametrize(
    ("shown", "raised"),
    [
        (500, []),
        (799, []),
        (800, ["LEVEL:H"]),
        (900, ["LEVEL:H", "LEVEL:HH"]),
        (201, []),
        (200, ["LEVEL:L"]),
        (100, ["LEVEL:L", "LEVEL:LL"]),
    ],
)
def test_each_limit_has_its_alarm_and_a_value_at_the_limit_is_beyond_it(
    world: SmallWorld, shown: float, raised: list[str]
) -> None:
    hmi = started(world)
    show(world, shown)
    world.run(10)
    assert sorted(hmi.alarms) == raised


def test_an_alarm_waits_for_its_delay_and_ends_inside_its_deadband(world: SmallWorld) -> None:
    hmi = started(world)
    show(world, 500)
    world.run(5)
    found = heard(world, hmi)
    show(world, 850)
    world.run(5)
    show(world, 790)  # inside the limit, not yet inside the deadband of 20 mm
    world.run(5)
    assert "LEVEL:H" in hmi.alarms
    show(world, 779)
    world.run(5)
    assert [(key, raised) for _, key, raised in found] == [("LEVEL:H", True), ("LEVEL:H", False)]
    # The delay of 2 s counts from the first poll that saw it; a poll a second, a scan each 0.4 s.
    assert 5 + 2 <= found[0][0] <= 5 + 2 + 1.5
    assert 15 <= found[1][0] <= 16.5
    assert not hmi.alarms


def test_an_excursion_shorter_than_the_delay_raises_nothing(world: SmallWorld) -> None:
    hmi = started(world)
    show(world, 500)
    found = heard(world, hmi)
    for _ in range(10):
        show(world, 850)
        world.run(1.5)
        show(world, 500)
        world.run(1.5)
    assert found == []


def test_chatter_about_the_limit_is_one_alarm(world: SmallWorld) -> None:
    hmi = started(world)
    found = heard(world, hmi)
    stream = random.Random(3)
    for _ in range(60):
        show(world, 805 + stream.uniform(-15, 15))
        world.run(1)
    assert [(key, raised) for _, key, raised in found] == [("LEVEL:H", True)]


def test_an_alarm_remembers_its_value_and_when_it_came(world: SmallWorld) -> None:
    hmi = started(world)
    show(world, 930)
    world.run(10)
    alarm = hmi.alarms["LEVEL:HH"]
    assert (alarm.tag, alarm.level) == ("LEVEL", "HH")
    assert alarm.value == pytest.approx(930)
    # Seen first by the poll at 1 s, and still there 2 s later: delays do not depend on how long answers take.
    assert alarm.raised == pytest.approx(3.0, abs=0.01)


def test_a_silent_plc_makes_values_stale_and_raises_a_comm_alarm_that_its_return_clears(
    world: SmallWorld,
) -> None:
    hmi = started(world)
    found = heard(world, hmi)
    world.run(10)
    assert not hmi.stale("LEVEL")
    world.network.hosts["plc1"].power_off()
    world.run(4)
    assert not hmi.stale("LEVEL")
    world.run(2)
    assert hmi.stale("LEVEL")  # 5 s
    world.run(5)
    assert [(key, raised) for _, key, raised in found] == [("plc1:COMM", True)]
    assert found[0][0] >= 10 + 5 - 1  # the last answer came within a second of the power's end
    world.network.hosts["plc1"].power_on()
    world.plcs["plc1"].start()
    world.run(10)
    assert [(key, raised) for _, key, raised in found] == [("plc1:COMM", True), ("plc1:COMM", False)]
    assert not hmi.stale("LEVEL")


def test_nothing_is_stale_when_a_station_has_just_started(world: SmallWorld) -> None:
    plc = world.plc()
    world.run(100)
    hmi = world.hmi()
    plc.start()
    hmi.start()
    found = heard(world, hmi)
    assert not hmi.stale("LEVEL")
    world.run(20)
    assert found == []


def test_readings_whose_checksum_does_not_fit_are_not_shown_and_end_as_a_comm_alarm(
    world: SmallWorld,
) -> None:
    plc = world.plc()
    plc.seams.publish_checksum = True
    plc.start()
    hmi = world.hmi()
    hmi.verify_checksums = frozenset({"plc1"})
    hmi.start()
    world.run(5)
    attacker = world.network.hosts["attacker"]

    def change(packet: Any) -> bytes:
        payload = bytearray(packet.payload)
        if packet.reply and payload[7:9] == b"\x04\x06":
            payload[9:11] = b"\x00\x00"
        return bytes(payload)

    assert attacker.interpose("10.0.1.20", "10.0.1.11", change)
    world.run(10)
    assert hmi.values["LEVEL"] > 300  # the forged zero was never shown
    assert list(hmi.alarms) == ["plc1:COMM"]


# --------------------------------------------------------------------------------------------------- heartbeat


def test_the_heartbeat_counts_and_its_acknowledgment_is_noted(world: SmallWorld) -> None:
    hmi = started(world, heartbeat={"plc": "plc1", "tag": "BEAT", "every": 2.0})
    beats = world.sample(20, lambda: world.plcs["plc1"].value("BEAT"), every=2.0)
    assert beats == sorted(set(beats))
    assert beats[-1] - beats[0] == 9.0
    assert world.now - hmi.beat_acknowledged <= 2.0
    world.network.hosts["plc1"].power_off()
    world.run(20)
    assert world.now - hmi.beat_acknowledged > 18.0
    world.network.hosts["plc1"].power_on()
    world.plcs["plc1"].start()
    world.run(20)
    assert world.now - hmi.beat_acknowledged <= 2.0


def test_a_heartbeat_that_is_refused_is_not_acknowledged(world: SmallWorld) -> None:
    hmi = started(world, heartbeat={"plc": "plc1", "tag": "BEAT", "every": 1.0})
    world.plcs["plc1"].seams.validate.append(lambda _access: ILLEGAL_VALUE)
    world.run(10)
    assert hmi.beat_acknowledged < 0


def test_a_heartbeat_in_a_coil_toggles(world: SmallWorld) -> None:
    tags = {**TAGS, "BEAT": {"table": "coil", "address": 9, "writable": True}}
    world.plc(asset=controller(tags=tags)).start()
    world.hmi(heartbeat={"plc": "plc1", "tag": "BEAT", "every": 1.0}).start()
    world.run(0.5)
    assert world.sample(6, lambda: world.plcs["plc1"].value("BEAT"), every=1.0) == [0.0, 1.0] * 3


# ------------------------------------------------------------------------------------------------------ acting


def test_without_accounts_whoever_stands_there_writes(world: SmallWorld) -> None:
    hmi = started(world)
    world.run(1)
    assert hmi.who() == User("anyone", "operator")
    assert world.ask(hmi.write("H_SP", 700.0), by="hmi1") is None
    assert world.ask(hmi.log_in("anyone", ""), by="hmi1") is True
    world.run(1)
    assert world.plcs["plc1"].value("H_SP") == 700.0
    assert world.last("operator.write") == {"user": "anyone", "tag": "H_SP", "value": 700.0}


def test_writes_that_cannot_be_are_told_why(world: SmallWorld) -> None:
    hmi = started(world)
    world.run(1)
    assert world.ask(hmi.write("INLET", 1.0), by="hmi1") == "INLET is read-only"
    assert world.ask(hmi.write("LEVEL", 1.0), by="hmi1") == "LEVEL is read-only"
    world.plcs["plc1"].seams.validate.append(lambda _access: ILLEGAL_VALUE)
    assert world.ask(hmi.write("H_SP", 1.0), by="hmi1") == "refused: function 6: illegal data value"
    world.network.hosts["plc1"].power_off()
    answer = world.ask(hmi.write("H_SP", 700.0), by="hmi1")
    assert answer is not None
    assert answer.startswith("no answer: ")
    with pytest.raises(UnknownNameError):
        hmi.stale("LEVLE")


def with_accounts(world: SmallWorld) -> tuple[Hmi, Accounts]:
    hmi = started(world)
    accounts = Accounts(world.loop.time, 1_772_431_200.0, random.Random(1))
    accounts.add("anna", "operator", "sesame")
    accounts.add("carl", "viewer", "look")
    hmi.seams.accounts = accounts
    world.run(1)
    return hmi, accounts


def test_with_accounts_nobody_writes_before_logging_in(world: SmallWorld) -> None:
    hmi, _ = with_accounts(world)
    assert hmi.who() is None
    assert world.ask(hmi.write("H_SP", 700.0), by="hmi1") == "nobody is logged in"
    assert world.ask(hmi.log_in("anna", "sesamE"), by="hmi1") is False
    assert world.ask(hmi.write("H_SP", 700.0), by="hmi1") == "nobody is logged in"
    assert world.ask(hmi.log_in("anna", "sesame"), by="hmi1") is True
    assert world.ask(hmi.write("H_SP", 700.0), by="hmi1") is None
    assert (hmi.logins, hmi.failed_logins) == (2, 1)
    failed = {"user": "anna", "peer": "10.0.1.20", "reason": "wrong password"}
    assert world.last("login.failed") == failed
    assert world.last("login") == {"user": "anna", "peer": "10.0.1.20"}
    assert world.last("operator.write")["user"] == "anna"


def test_view_needs_no_session(world: SmallWorld) -> None:
    hmi, _ = with_accounts(world)
    show(world, 950)
    world.run(10)
    assert hmi.values["LEVEL"] == pytest.approx(950)
    assert "LEVEL:HH" in hmi.alarms


def test_a_session_locks_when_nobody_touches_it_and_logging_in_unlocks_it(world: SmallWorld) -> None:
    hmi, _ = with_accounts(world)
    hmi.seams.lock_after = 90.0
    assert world.ask(hmi.log_in("anna", "sesame"), by="hmi1")
    for _ in range(3):
        world.run(80)
        hmi.touch()
    assert hmi.who() == User("anna", "operator")
    world.run(91)
    assert hmi.who() is None
    assert world.last("session.locked") == {"user": "anna"}
    hmi.touch()  # too late
    assert hmi.who() is None
    assert world.ask(hmi.write("H_SP", 700.0), by="hmi1") == "session locked"
    assert world.ask(hmi.log_in("anna", "sesame"), by="hmi1")
    assert world.ask(hmi.write("H_SP", 700.0), by="hmi1") is None
    assert world.kinds("session.locked") == ["session.locked"]


def test_a_write_keeps_the_session_open(world: SmallWorld) -> None:
    hmi, _ = with_accounts(world)
    hmi.seams.lock_after = 90.0
    assert world.ask(hmi.log_in("anna", "sesame"), by="hmi1")
    for _ in range(3):
        world.run(80)
        assert world.ask(hmi.write("H_SP", 650.0), by="hmi1") is None


def test_who_may_write_what_is_up_to_the_control_and_a_denial_is_told(world: SmallWorld) -> None:
    hmi, _ = with_accounts(world)
    hmi.seams.authorize.append(
        lambda user, tag, _value: None if user.role == "operator" else f"role {user.role} may not write {tag}"
    )
    assert world.ask(hmi.log_in("carl", "look"), by="hmi1")
    assert world.ask(hmi.write("H_SP", 700.0), by="hmi1") == "role viewer may not write H_SP"
    assert world.last("write.denied") == {
        "user": "carl",
        "tag": "H_SP",
        "value": 700.0,
        "reason": "role viewer may not write H_SP",
    }
    assert world.ask(hmi.log_in("anna", "sesame"), by="hmi1")
    assert world.ask(hmi.write("H_SP", 700.0), by="hmi1") is None


def test_a_write_that_a_second_person_must_approve_waits_on_the_answer(world: SmallWorld) -> None:
    hmi = started(world)
    world.run(1)

    async def approve(user: User, tag: str, value: float) -> bool:
        await asyncio.sleep(30.0)
        return user.name == "anyone" and (tag != "H_SP" or value <= 700.0)

    hmi.seams.second_approval = approve
    assert world.ask(hmi.write("H_SP", 900.0), by="hmi1") == "not approved"
    assert world.last("write.denied")["reason"] == "not approved"
    assert world.loop.time() >= 31.0
    assert world.ask(hmi.write("H_SP", 700.0), by="hmi1") is None
    assert world.ask(hmi.write("L_SP", 300.0), by="hmi1") is None


@pytest.mark.parametrize(("essential", "kind"), [(False, "login.locked"), (True, "login.spared")])
def test_too_many_failures_are_an_event_of_their_own(world: SmallWorld, essential: bool, kind: str) -> None:
    hmi, accounts = with_accounts(world)
    accounts.add("desk", "operator", "sesame", essential=essential)
    accounts.rules.lockout_attempts = 3
    for _ in range(3):
        world.ask(hmi.log_in("desk", "guess"), by="hmi1")
    assert world.kinds("login.failed", "login.locked", "login.spared") == [
        "login.failed",
        "login.failed",
        kind,
    ]
    assert world.last(kind)["user"] == "desk"
    assert world.ask(hmi.log_in("desk", "sesame"), by="hmi1") is essential


def test_every_sink_hears_every_event_in_order(world: SmallWorld) -> None:
    hmi, _ = with_accounts(world)
    first: list[str] = []
    second: list[str] = []
    hmi.audit.sinks.append(lambda _source, kind, _data: first.append(kind))
    hmi.audit.sinks.append(lambda source, kind, _data: second.append(f"{source} {kind}"))
    world.ask(hmi.log_in("anna", "guess"), by="hmi1")
    world.ask(hmi.log_in("anna", "sesame"), by="hmi1")
    world.ask(hmi.write("H_SP", 700.0), by="hmi1")
    assert first == ["login.failed", "login", "operator.write"]
    assert second == [f"hmi1 {kind}" for kind in first]


def test_the_station_sees_what_the_plc_does_in_program_mode(world: SmallWorld) -> None:
    hmi = started(world)
    world.run(1)
    world.ask(world.client().write(Table.HOLDING, MODE, [0]))
    before = hmi.values["LEVEL"]
    world.run(10)
    assert hmi.values["LEVEL"] != before
    assert not hmi.stale("LEVEL")
