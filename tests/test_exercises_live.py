"""Live exercises: the model solution meets every task, doing nothing meets none, a typical wrong one fails."""

from __future__ import annotations

from pathlib import Path

import pytest
from exercise_desk import Desk, met, solved, tasks

pytestmark = pytest.mark.slow


def look(desk: Desk) -> None:
    desk.until(40.0)
    line = desk.connect()
    assert desk.ask(line, 43, 14, 1, 0)[0] == 43
    for function in (1, 2, 3, 4):
        assert desk.read(line, function, 100 if function == 3 else 0, 2)[0] == function


def stop_the_pump(desk: Desk) -> None:
    desk.until(40.0)
    line = desk.connect()
    desk.read(line, 1, 0, 9)
    assert desk.coil(line, 4, False)[0] == 5
    assert desk.coil(line, 7, False)[0] == 5


def try_in_vain(desk: Desk) -> None:
    desk.until(40.0)
    for pdu in ((1, 0, 0, 0, 9), (5, 0, 4, 0, 0)):
        assert desk.ask(desk.connect(), *pdu) == b""


def read_the_process(desk: Desk) -> None:
    desk.until(40.0)
    line = desk.connect()
    assert desk.read(line, 3, 100, 4)[0] == 3
    for _ in range(12):
        assert desk.read(line, 4, 0, 6)[0] == 4
        desk.wait(1.0)


def past_the_conduit(desk: Desk) -> None:
    desk.until(40.0)
    assert desk.register(desk.connect(0), 101, 9500) == b""
    line = desk.connect(1)
    assert desk.register(line, 101, 9500)[0] == 6
    assert desk.read(line, 3, 101, 1)[2:] == b"\x25\x1c"


def through_the_flood(desk: Desk) -> None:
    desk.until(35.0)
    desk.give("seat", hmi="hmi1", taken=True)
    taken_back = False
    while desk.session.now < 600.0:
        desk.wait(10.0)
        hmi = desk.session.world.hmis["hmi1"]
        if hmi.alarms:
            desk.give("acknowledge", hmi="hmi1")
            if not taken_back:
                taken_back = desk.give("write", hmi="hmi1", tag="FUEL_AUTO", value=1) == {"done": True}


def only_acknowledges(desk: Desk) -> None:
    desk.until(35.0)
    desk.give("seat", hmi="hmi1", taken=True)
    while desk.session.now < 600.0:
        desk.wait(10.0)
        if desk.session.world.hmis["hmi1"].alarms:
            desk.give("acknowledge", hmi="hmi1")


def only_from_the_dmz(desk: Desk) -> None:
    desk.until(40.0)
    desk.register(desk.connect(0), 101, 9500)


def reads_once(desk: Desk) -> None:
    desk.until(40.0)
    desk.read(desk.connect(), 4, 0, 6)


def half_way(desk: Desk) -> None:
    """By hand is not asked for: the controller goes on by itself."""
    desk.until(40.0)
    line = desk.connect()
    desk.read(line, 1, 0, 9)
    desk.coil(line, 7, False)


def only_reads(desk: Desk) -> None:
    desk.until(40.0)
    line = desk.connect()
    desk.read(line, 3, 100, 2)


def only_reads_in_vain(desk: Desk) -> None:
    desk.until(40.0)
    desk.ask(desk.connect(), 1, 0, 0, 0, 9)


@pytest.mark.parametrize(
    ("name", "work"),
    [
        ("find-the-plc", look),
        ("stop-a-pump", stop_the_pump),
        ("against-sl2", try_in_vain),
        ("read-the-process", read_the_process),
        ("past-the-conduit", past_the_conduit),
        ("alarm-flood", through_the_flood),
    ],
)
def test_the_model_solution_meets_every_task(name: str, work: object, tmp_path: Path) -> None:
    result = solved(name, tmp_path / "x", work)  # type: ignore[arg-type]
    assert met(result) == tasks(name), result.judged
    assert result.points == result.exercise.points


@pytest.mark.parametrize(
    "name",
    ["find-the-plc", "stop-a-pump", "against-sl2", "read-the-process", "past-the-conduit", "alarm-flood"],
)
def test_doing_nothing_meets_no_task(name: str, tmp_path: Path) -> None:
    assert met(solved(name, tmp_path / "x")) == set()


@pytest.mark.parametrize(
    ("name", "work", "left"),
    [
        ("find-the-plc", only_reads, {"identity", "map"}),
        ("stop-a-pump", half_way, {"stopped", "clean"}),
        ("against-sl2", only_reads_in_vain, {"try", "heard", "runs"}),
        ("read-the-process", reads_once, {"wanted", "watch"}),
        ("past-the-conduit", only_from_the_dmz, {"past", "seen", "clean"}),
        ("alarm-flood", only_acknowledges, {"act", "no-trip", "back"}),
    ],
)
def test_a_typical_wrong_one_fails(name: str, work: object, left: set[str], tmp_path: Path) -> None:
    assert tasks(name) - met(solved(name, tmp_path / "x", work)) == left  # type: ignore[arg-type]
