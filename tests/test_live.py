"""The live lab's core: a paced run is the virtual run, and its inputs bring it back."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controls.catalogue import SecurityLevels
from lab.live.bridge import Attachment
from lab.live.inputs import INPUT, Input
from lab.live.recording import Recording, follow, read_recording
from lab.live.session import Session, Setup
from scenarios.experiment import Experiment, run
from testbed.errors import DocumentError, OtlabError
from testbed.trace import Trace

ROOT = Path(__file__).parent.parent


def setup(level: int = 0, scenario: str | None = None, duration: float = 600.0, *attach: str) -> Setup:
    return Setup(
        Experiment.at_level("water", SecurityLevels.uniform(level), scenario, 1, duration),
        tuple(Attachment.parse(one) for one in attach),
    )


def text(trace: Trace) -> str:
    return "\n".join([*trace.lines(), *trace.table()])


def give(session: Session, kind: str, **data: Any) -> dict[str, Any]:
    """Let an input take effect now, and wait for what became of it."""
    answers: list[Any] = []
    session.take(INPUT.validate_python({"t": session.now, "kind": kind, **data}), answers.append)
    for _ in range(600):
        if answers:
            break
        session.advance(session.now + 0.1)
    return dict(answers[0])


def kinds(session: Session, *wanted: str) -> list[tuple[str, dict[str, Any]]]:
    return [(event.kind, dict(event.data)) for event in session.trace.of_kind(*wanted)]


@pytest.mark.parametrize(
    ("level", "scenario"), [(0, None), pytest.param(2, "unauthorized-write", marks=pytest.mark.slow)]
)
def test_a_run_in_slices_is_the_run_in_one_go(level: int, scenario: str | None) -> None:
    wanted = setup(level, scenario, 330.0)
    record, trace = run(wanted.experiment)
    session = Session(wanted)
    try:
        at = 0.0
        while at < 330.0:  # uneven slices, as a wall clock makes them
            at = min(330.0, at + 0.0173 + (at * 7.919) % 1.3)
            session.advance(at)
        assert session.finish() == record
        assert text(session.trace) == text(trace)
    finally:
        session.close()


def test_the_seat_without_controls_is_anybodys() -> None:
    session = Session(setup())
    try:
        session.advance(40.0)
        assert give(session, "write", hmi="hmi1", tag="MV101_AUTO", value=0) == {"done": True}
        assert give(session, "write", hmi="hmi1", tag="LIT101", value=1) == {"refused": "LIT101 is read-only"}
        assert "unknown tag" in give(session, "write", hmi="hmi1", tag="NOSUCH", value=1)["refused"]
        assert "unknown station" in give(session, "write", hmi="hmi9", tag="MV101_AUTO", value=1)["refused"]
        session.advance(session.now + 3.0)
        assert session.world.hmis["hmi1"].values["MV101_AUTO"] == 0
        assert [data["outcome"] for _, data in kinds(session, "console.write")] == ["done", "refused"]
    finally:
        session.close()


def test_the_seat_under_controls_asks_for_password_and_code_and_locks() -> None:
    from devices.accounts import one_time_code

    session = Session(setup(2, duration=4000.0))
    try:
        world = session.world
        session.advance(40.0)
        give(session, "seat", hmi="hmi1", taken=True)
        give(session, "log_out", hmi="hmi1")
        assert give(session, "write", hmi="hmi1", tag="MV101_AUTO", value=0) == {
            "refused": "nobody is logged in"
        }
        assert give(session, "acknowledge", hmi="hmi1") == {"refused": "nobody is logged in"}
        operator = world.operators["hmi1"]
        typed = {"hmi": "hmi1", "user": operator.name, "password": operator.password}
        assert give(session, "log_in", **{**typed, "password": "wrong"}) == {"refused": "log-in failed"}
        account = world.hmis["hmi1"].seams.accounts
        assert account is not None
        code = None
        if account.rules.needs_code(world.hmis["hmi1"].host.address):
            assert operator.token is not None
            code = one_time_code(operator.token, world.site.epoch.timestamp() + session.now)
        assert give(session, "log_in", **typed, code=code) == {"done": True}
        assert give(session, "write", hmi="hmi1", tag="MV101_AUTO", value=0) == {"done": True}
        lock = world.hmis["hmi1"].seams.lock_after
        assert lock is not None
        session.advance(session.now + lock + 1.0)
        assert give(session, "write", hmi="hmi1", tag="MV101_AUTO", value=1) == {"refused": "session locked"}
    finally:
        session.close()


@pytest.mark.slow
def test_what_the_person_on_shift_carries_gets_in_where_a_code_is_asked_for() -> None:
    from lab.live.views import card

    session = Session(setup(4, duration=4000.0))
    try:
        session.advance(95.0)
        give(session, "seat", hmi="hmi1", taken=True)
        give(session, "log_out", hmi="hmi1")
        carried = card(session, "hmi1")
        typed = {"hmi": "hmi1", "user": carried["user"], "password": carried["password"]}
        assert give(session, "log_in", **typed) == {"refused": "log-in failed"}
        assert give(session, "log_in", **typed, code=carried["code"]) == {"done": True}
        give(session, "log_out", hmi="hmi1")
        assert give(session, "log_in", **typed, code=carried["code"]) == {"refused": "log-in failed"}  # used
    finally:
        session.close()


@pytest.mark.slow
def test_looking_changes_nothing() -> None:
    from lab.live.engine import Engine
    from lab.live.views import card, catalogue_of, described, events, people, published, trend

    def looked_at(looking: bool) -> str:
        engine = Engine(setup(2, None, 4000.0))
        try:
            for at in range(30, 1300, 10):  # past the moment at which an idle session would lock
                engine.session.advance(at)
                if looking:
                    published(engine)
                    session = engine.session
                    for look in (catalogue_of, people, lambda one: events(one, 0)):
                        look(session)
                    for look in (card, described, lambda one, name: trend(one, name, ["LIT101"], 600)):
                        look(session, "hmi1")
            return text(engine.session.trace)
        finally:
            engine.stop()

    assert looked_at(True) == looked_at(False)


def test_alarms_are_acknowledged_and_shelved() -> None:
    session = Session(setup(duration=4000.0))
    try:
        session.advance(40.0)
        give(session, "seat", hmi="hmi1", taken=True)
        give(
            session,
            "fault",
            step={"action": "sensor_fails", "sensor": "LIT101", "how": "bias", "amount": 800, "lasting": 60},
        )
        session.advance(60.0)
        alarms = session.alarms["hmi1"]
        assert {entry.alarm.key: state for entry, state in alarms.shown()} == {
            "LIT101:HH": "unacknowledged",
            "LIT101:H": "unacknowledged",
        }
        give(session, "acknowledge", hmi="hmi1", alarm="LIT101:HH")
        give(session, "shelve", hmi="hmi1", alarm="LIT101:H", seconds=600)
        assert [(e.alarm.level, state) for e, state in alarms.shown()] == [
            ("HH", "acknowledged"),
            ("H", "shelved"),
        ]
        session.advance(120.0)  # the transmitter is sound again: what was seen is gone, what was not stays
        assert [(e.alarm.level, state) for e, state in alarms.shown()] == [("H", "shelved")]
        assert "no such alarm" in give(session, "shelve", hmi="hmi1", alarm="LIT101:LL", seconds=5)["refused"]
        session.advance(720.0)
        assert [(e.alarm.level, state) for e, state in alarms.shown()] == [("H", "returned")]
        give(session, "acknowledge", hmi="hmi1")
        assert alarms.shown() == []
    finally:
        session.close()


def test_scenarios_are_launched_and_stopped_while_it_runs() -> None:
    session = Session(setup(duration=4000.0))
    try:
        session.advance(100.0)
        first = give(session, "launch", scenario="unauthorized-write")["launch"]
        second = give(session, "launch", scenario="unauthorized-write")["launch"]
        assert (first, second) == (0, 1)
        session.advance(120.0)
        sources = {event.source for event in session.trace.of_kind("attack.step")}
        assert {"rogue1", "rogue2"} <= sources
        give(session, "stop", launch=1)
        assert not session.launched[1].running
        session.advance(200.0)
        assert "unknown scenario" in give(session, "launch", scenario="nosuch")["refused"]
        assert "unknown scenario" in give(session, "launch", scenario="passwd")["refused"]
        assert (
            "attacker's step"
            in give(
                session,
                "fault",
                step={
                    "action": "modbus_write",
                    "technique": "T0855",
                    "plc": "plc1",
                    "values": {"MV101_AUTO": 0},
                },
            )["refused"]
        )
        assert "no such fault" in give(session, "fault", step={"action": "sensor_fails"})["refused"]
        assert (
            "no sensor"
            in give(
                session, "fault", step={"action": "sensor_fails", "sensor": "X1", "how": "dead", "lasting": 5}
            )["refused"]
        )
        record = session.finish()
        assert record.attack_start == 101.0
        assert record.experiment.duration == session.now
    finally:
        session.close()


def test_a_fault_that_is_ended_is_repaired() -> None:
    session = Session(setup(duration=4000.0))
    try:
        session.advance(40.0)
        bias = {"action": "sensor_fails", "sensor": "LIT101", "how": "bias", "amount": 200, "lasting": 3600}
        number = give(session, "fault", step=bias)["launch"]
        session.advance(45.0)
        shown = session.world.hmis["hmi1"].values
        assert shown["LIT101"] > 650
        give(session, "stop", launch=number)
        session.advance(50.0)
        assert shown["LIT101"] < 600
        number = give(session, "fault", step={"action": "restart_station", "station": "hmi1"})["launch"]
        session.advance(55.0)
        assert "ends by itself" in give(session, "stop", launch=number)["refused"]
        assert give(session, "seat", hmi="hmi1", taken=True) == {"refused": "hmi1 is off"}
    finally:
        session.close()


def _busy_run() -> Session:
    """A run with a bit of everything that can come from outside."""
    session = Session(
        setup(1, None, 4000.0, "operations:plc1:502=127.0.0.1:0", "enterprise:plc1:502=127.0.0.1:0")
    )
    session.advance(35.25)
    give(session, "seat", hmi="hmi1", taken=True)
    give(session, "log_in", hmi="hmi1", user="operator", password="operator")
    give(session, "write", hmi="hmi1", tag="LIT101_H_SP", value=900)
    give(session, "opened", attachment=0, connection=1)
    give(session, "bytes", connection=1, hex="000100000006010300640004")
    give(session, "opened", attachment=1, connection=2)
    give(session, "bytes", connection=2, hex="000100000006010300640004")
    session.advance(50.0)
    give(session, "bytes", connection=1, hex="0002000000060105")
    give(session, "bytes", connection=1, hex="0003ff00")
    give(session, "launch", scenario="wire-spoof")
    session.advance(90.5)
    give(session, "ended", connection=1)
    give(session, "lost", connection=2)
    give(session, "seat", hmi="hmi1", taken=False)
    session.advance(150.0)
    return session


def test_a_recording_brings_the_run_back(tmp_path: Path) -> None:
    session = _busy_run()
    file = tmp_path / "inputs.jsonl"
    try:
        recording = Recording(file, session.setup)
        for one in session.inputs:
            recording.add(one)
        recording.finish(session.now)
        record, events = session.finish(), text(session.trace)
    finally:
        session.close()
    assert file.stat().st_mode & 0o077 == 0
    recorded = read_recording(file)
    assert recorded.whole
    assert recorded.inputs == tuple(session.inputs)
    again = Session(recorded.setup)
    try:
        follow(again, recorded.inputs, recorded.end)
        assert again.finish() == record
        assert text(again.trace) == events
    finally:
        again.close()


def test_outside_bytes_reach_the_controller_and_its_answers_come_back() -> None:
    got: dict[int, list[bytes | None]] = {}
    session = Session(
        setup(0, None, 600.0, "operations:plc1:502=127.0.0.1:0"),
        lambda connection, data: got.setdefault(connection, []).append(data),
    )
    try:
        session.advance(40.0)
        give(session, "opened", attachment=0, connection=7)
        give(session, "bytes", connection=7, hex="000100000006010300640002")
        session.advance(41.0)
        assert got == {7: [bytes.fromhex("000100000007010304") + got[7][0][-4:]]}  # type: ignore[index]
        give(session, "ended", connection=7)
        session.advance(42.0)
        assert got[7][-1] is None
        assert session.bridges == {}
        assert [kind for kind, _ in kinds(session, "outside")] == ["outside.opened", "outside.closed"]
    finally:
        session.close()


def test_outside_bytes_meet_the_firewall() -> None:
    session = Session(setup(2, None, 600.0, "enterprise:plc1:502=127.0.0.1:0"))
    try:
        session.advance(40.0)
        give(session, "opened", attachment=0, connection=1)
        session.advance(200.0)
        assert [kind for kind, _ in kinds(session, "outside")][-1] == "outside.refused"
        assert any(one.source == "laptop-enterprise" and one.port == 502 for one in session.blocked)
    finally:
        session.close()


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("dmz:plc1:502", "no attachment"),
        ("dmz:plc1:99999=127.0.0.1:1", "no port 99999"),
        ("dmz:plc1:x=127.0.0.1:1", "no attachment"),
        ("", "no attachment"),
    ],
)
def test_an_attachment_that_cannot_be_read_is_told(line: str, part: str) -> None:
    with pytest.raises(OtlabError, match=part):
        Attachment.parse(line)


def test_an_attachment_reads_as_it_is_written() -> None:
    for text_ in ("dmz:plc1:502=127.0.0.1:15020", "dmz:10.0.4.11:502=[::1]:15020"):
        assert str(Attachment.parse(text_)) == text_


@pytest.mark.parametrize("attach", ["nowhere:plc1:502=127.0.0.1:0", "dmz:plc9:502=127.0.0.1:0"])
def test_an_attachment_that_the_site_lacks_is_told(attach: str) -> None:
    with pytest.raises(OtlabError, match="unknown"):
        Session(setup(0, None, 600.0, attach))


def _head() -> str:
    from lab.live.recording import _head as head

    return json.dumps(head(setup()))


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        ([], "no recording"),
        (["{"], ":1:1: this is no JSON"),
        (["[]"], "no JSON object"),
        (['{"format": "other"}'], "no recording of a live run"),
        (["HEAD", '{"t": 1, "kind": "nosuch"}'], ":2:1:"),
        (["HEAD", '{"t": -1, "kind": "seat", "hmi": "hmi1", "taken": true}'], "greater than or equal"),
        (["HEAD", '{"t": 1, "kind": "bytes", "connection": 1, "hex": "0"}'], "hex"),
        (
            [
                "HEAD",
                '{"t": 2, "kind": "lost", "connection": 1}',
                '{"t": 1, "kind": "lost", "connection": 1}',
            ],
            ":3:1: t=1 s is before",
        ),
        (["HEAD", '{"end": 1}', '{"end": 2}'], "something follows"),
        (["HEAD", '{"end": null}'], "a virtual second"),
        (["HEAD", '{"t": 2, "kind": "lost", "connection": 1}', '{"end": 1}'], "ends before"),
    ],
)
def test_a_damaged_recording_names_the_line(tmp_path: Path, lines: list[str], part: str) -> None:
    file = tmp_path / "inputs.jsonl"
    file.write_text("".join(line.replace("HEAD", _head()) + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(DocumentError, match=part):
        read_recording(file)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=400), with_head=st.booleans())
def test_no_bytes_crash_the_reading_of_recordings(tmp_path: Path, data: bytes, with_head: bool) -> None:
    file = tmp_path / "fuzz.jsonl"
    file.write_bytes((_head().encode() + b"\n" if with_head else b"") + data)
    with suppress(OtlabError):
        read_recording(file)


def test_a_recording_that_was_cut_off_is_read_to_its_last_input(tmp_path: Path) -> None:
    file = tmp_path / "inputs.jsonl"
    recording = Recording(file, setup())
    one: Input = INPUT.validate_python({"t": 12.5, "kind": "seat", "hmi": "hmi1", "taken": True})
    recording.add(one)
    recording.close()
    found = read_recording(file)
    assert (found.whole, found.end, found.inputs) == (False, 12.5, (one,))


# Bytes that a hostile or broken tool may send to a controller: none of them ends the run.
_PIECES = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.builds(
            lambda function, body: (
                b"\0\1\0\0" + (len(body) + 2).to_bytes(2, "big") + b"\1" + bytes([function]) + body
            ),
            st.integers(0, 255),
            st.binary(max_size=60),
        ),
    ),
    max_size=6,
)


@pytest.fixture(scope="module")
def fuzzed() -> Any:
    session = Session(
        setup(0, None, 1e6, "operations:plc1:502=127.0.0.1:0", "operations:hmi1:23=127.0.0.1:0")
    )
    session.advance(35.0)
    yield session
    session.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(attachment=st.integers(0, 1), pieces=_PIECES)
def test_no_outside_bytes_crash_the_run(fuzzed: Session, attachment: int, pieces: list[bytes]) -> None:
    number = len(fuzzed.inputs)
    give(fuzzed, "opened", attachment=attachment, connection=number)
    for piece in pieces:
        give(fuzzed, "bytes", connection=number, hex=piece.hex())
        fuzzed.advance(fuzzed.now + 0.01)
    give(fuzzed, "lost", connection=number)
    fuzzed.advance(fuzzed.now + 0.5)
    assert fuzzed.bridges == {}


_SOAK = """
import gc
from lab.live.session import Session, Setup
from scenarios.experiment import Experiment

def megabytes():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6

session = Session(Setup(Experiment("water", (), "SL 0", None, 1, 30000.0)))
session.advance(2 * 3600.0)
before = megabytes()
session.advance(8 * 3600.0)
print(len(session.trace.columns), megabytes() - before)
session.close()
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc to read memory from")
def test_eight_hours_take_no_more_memory_than_their_samples() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SOAK], capture_output=True, text=True, timeout=900, check=True, cwd=ROOT
    )
    columns, grown = map(float, done.stdout.split())
    # A sample a second of each column and the time; what a run is about. And a little for the allocator.
    assert grown < 6 * 3600 * 8 * (columns + 1) / 1e6 + 12
