"""The engine: virtual time at a pace, orders between slices, going back, and nothing lost at the end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from test_live import setup, text

from controls.catalogue import SecurityLevels
from controls.selection import select
from lab.live.engine import MOST_WAITING, BusyError, Engine, Pace
from lab.live.recording import follow, read_recording
from lab.live.session import Session
from scenarios.experiment import Experiment
from testbed.errors import OtlabError, RunError


class Wall:
    """A wall clock that tests move."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def engine(
    wall: Wall, folder: Path | None = None, level: int = 0, duration: float = 4000.0, **options: Any
) -> Iterator[Engine]:
    made = Engine(setup(level, None, duration), folder, clock=wall, **options)
    try:
        yield made
    finally:
        made.stop()


def pass_(made: Engine, wall: Wall, seconds: float, every: float = 0.01) -> None:
    """Let real time pass, as a thread would see it."""
    for _ in range(round(seconds / every)):
        wall.now += every
        made.turn()


def done(made: Engine, wall: Wall, answer: Future[Any]) -> Any:
    for _ in range(500):
        if answer.done():
            return answer.result()
        wall.now += 0.01
        made.turn()
    raise AssertionError("no answer")


def test_virtual_time_follows_the_wall_clock_at_the_speed_asked_for() -> None:
    wall = Wall()
    with engine(wall) as made:
        pass_(made, wall, 2.0)
        assert made.session.now == pytest.approx(2.0)
        made.set_speed(10)
        pass_(made, wall, 2.0)
        assert made.session.now == pytest.approx(22.0, abs=0.2)
        assert made.pace.reached == pytest.approx(10.0, rel=0.02)


def test_it_stands_steps_and_goes_on() -> None:
    wall = Wall()
    with engine(wall) as made:
        pass_(made, wall, 1.0)
        made.pause()
        pass_(made, wall, 5.0)
        assert made.session.now == pytest.approx(1.0, abs=0.02)
        begun = made.session.now
        made.step(30)
        pass_(made, wall, 0.5)
        assert made.session.now == begun + 30
        assert made.state == "paused"
        made.pause(False)
        pass_(made, wall, 1.0)
        assert made.session.now == pytest.approx(begun + 31, abs=0.02)


def test_a_lag_is_let_go_and_not_made_up_for() -> None:
    pace = Pace(10.0, virtual=50.0, wall=100.0)
    assert pace.target(50.0, 100.1) == pytest.approx(51.0)
    assert pace.target(51.0, 130.0) == pytest.approx(51.1)  # the machine slept for half a minute
    assert pace.target(51.1, 130.05) == pytest.approx(51.6)


@pytest.mark.parametrize("speed", [0, -1, 1e9, float("nan")])
def test_a_speed_that_cannot_be_is_told(speed: float) -> None:
    wall = Wall()
    with engine(wall) as made, pytest.raises(OtlabError, match="a speed is between"):
        made.set_speed(speed)


def test_a_run_ends_at_its_duration() -> None:
    wall = Wall()
    with engine(wall, duration=60.0, speed=100) as made:
        pass_(made, wall, 2.0)
        assert made.session.now == 60.0
        assert made.state == "ended"
        with pytest.raises(OtlabError, match="over"):
            done(made, wall, made.put("seat", hmi="hmi1", taken=True))


def test_inputs_are_answered_and_those_that_cannot_be_are_refused_at_once() -> None:
    wall = Wall()
    with engine(wall) as made:
        made.set_speed(100)
        pass_(made, wall, 0.4)
        assert done(made, wall, made.put("write", hmi="hmi1", tag="MV101_AUTO", value=0.0)) == {"done": True}
        for kind, data in (
            ("nosuch", {}),
            ("write", {"hmi": "../etc", "tag": "A", "value": 1}),
            ("write", {"hmi": "hmi1", "tag": "A", "value": float("inf")}),
            ("log_in", {"hmi": "hmi1", "user": "x" * 999, "password": "y"}),
            ("seat", {"hmi": "hmi1", "taken": True, "more": 1}),
        ):
            with pytest.raises(OtlabError):
                made.put(kind, **data)


def test_orders_that_nobody_carries_out_are_bounded() -> None:
    wall = Wall()
    with engine(wall) as made:
        for _ in range(MOST_WAITING):
            made.pause()
        with pytest.raises(BusyError):
            made.pause()


def test_going_back_gives_the_same_run_again_up_to_there(tmp_path: Path) -> None:
    wall = Wall()
    with engine(wall, tmp_path) as made:
        made.step(60)
        pass_(made, wall, 0.5)
        done(
            made,
            wall,
            made.put(
                "fault", step={"action": "sensor_fails", "sensor": "LIT101", "how": "dead", "lasting": 30}
            ),
        )
        made.step(60)
        pass_(made, wall, 0.6)
        before = [event.to_json() for event in made.session.trace.events if event.time < 90.0]
        at = made.session.now
        done(
            made,
            wall,
            made.put(
                "fault", step={"action": "sensor_fails", "sensor": "LIT301", "how": "dead", "lasting": 30}
            ),
        )
        made.step(30)
        pass_(made, wall, 0.5)
        answer = made.rewind(90.0)
        made.turn()
        assert answer.result() is None
        assert (made.session.now, made.state) == (90.0, "paused")
        assert [event.to_json() for event in made.session.trace.events] == before
        assert len(made.session.inputs) == 1
        with pytest.raises(OtlabError, match="has been through"):
            done(made, wall, made.rewind(at + 999))
    recorded = read_recording(tmp_path / "inputs.jsonl")
    assert (len(recorded.inputs), recorded.end) == (1, 90.0)


def test_going_back_with_other_controls_is_another_run_with_the_same_inputs() -> None:
    wall = Wall()
    with engine(wall) as made:
        made.step(60)
        pass_(made, wall, 0.5)
        made.put("seat", hmi="hmi1", taken=True)
        made.put("log_out", hmi="hmi1")
        answer = made.put("write", hmi="hmi1", tag="MV101_AUTO", value=0)
        made.step(20)
        assert done(made, wall, answer) == {"done": True}
        other = Experiment.of("water", select(SecurityLevels.uniform(2)), None, 1, 60.0)
        done(made, wall, made.rewind(made.session.now, other))
        assert made.session.world.requirements
        assert made.session.setup.experiment.duration == 4000.0
        assert [event.data["outcome"] for event in made.session.trace.of_kind("console.write")] == ["refused"]


def test_going_back_to_controls_that_cannot_be_leaves_the_run_as_it_was() -> None:
    wall = Wall()
    with engine(wall) as made:
        made.step(40)
        pass_(made, wall, 0.5)
        kept = made.session
        bad = Experiment("water", (), "SL 0", None, 1, 60.0, overrides=(("no.such.figure", 1.0),))
        with pytest.raises(OtlabError):
            done(made, wall, made.rewind(10.0, bad))
        assert made.session is kept
        assert made.state == "paused"


def test_a_run_that_fails_says_why_and_can_be_taken_back(capsys: pytest.CaptureFixture[str]) -> None:
    wall = Wall()
    with engine(wall) as made:
        made.step(40)
        pass_(made, wall, 0.5)

        def broken(_: object) -> None:
            raise ZeroDivisionError("a device broke")

        made.session.world.loop.wake(50.0, broken)
        made.step(20)
        pass_(made, wall, 0.2)
        assert (made.state, made.failure) == ("failed", "ZeroDivisionError: a device broke")
        assert "a device broke" in capsys.readouterr().err
        done(made, wall, made.rewind(45.0))
        assert (made.state, made.failure, made.session.now) == ("paused", None, 45.0)


def test_what_is_kept_at_the_end_is_the_whole_run_and_replays(tmp_path: Path) -> None:
    wall = Wall()
    with engine(wall, tmp_path, level=1) as made:
        pass_(made, wall, 0.5)
        made.set_speed(100)
        pass_(made, wall, 0.7)
        made.put("seat", hmi="hmi1", taken=True)
        made.put("launch", scenario="unauthorized-write")
        pass_(made, wall, 0.4)
        end = made.session.now
    recorded = read_recording(tmp_path / "inputs.jsonl")
    assert recorded.end == end
    again = Session(recorded.setup)
    try:
        follow(again, recorded.inputs, recorded.end)
        again.finish()
        kept = (tmp_path / "trace.jsonl").read_text() + (tmp_path / "trace.csv").read_text()
        assert kept == "".join(line + "\n" for line in [*again.trace.lines(), *again.trace.table()])
        assert text(again.trace)
    finally:
        again.close()
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["experiment"]["duration"] == end
    assert record["attack_start"] is not None


def test_a_thread_of_its_own_drives_it_and_stops_when_told(tmp_path: Path) -> None:
    made = Engine(setup(), tmp_path, speed=1000)
    made.start()
    try:
        assert made.ask(lambda session: session.now).result(30) >= 0
        assert made.put("seat", hmi="hmi1", taken=True).result(30) == {"done": True}
    finally:
        made.stop()
    assert (tmp_path / "trace.jsonl").exists()
    assert read_recording(tmp_path / "inputs.jsonl").whole


def test_a_stop_on_the_way_back_leaves_a_recording_that_can_be_read(tmp_path: Path) -> None:
    wall = Wall()
    with engine(wall, tmp_path) as made:
        made.step(60)
        pass_(made, wall, 0.5)
        done(made, wall, made.put("seat", hmi="hmi1", taken=True))
        made.step(60)
        pass_(made, wall, 0.6)
        followed = made._followed

        def stopped() -> None:
            made._stopping = made.session.now > 30
            followed()

        made._followed = stopped  # type: ignore[method-assign]
        made.rewind(100.0)
        made.turn()
        assert made.failure is None
    recorded = read_recording(tmp_path / "inputs.jsonl")
    assert (recorded.whole, recorded.inputs) == (True, ())
    assert 30 < recorded.end < 60


def test_a_folder_that_cannot_be_written_is_told_at_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    made = Engine(setup(), folder, speed=1000)
    made.start()
    assert made.ask(lambda session: session.now).result(30) >= 0
    (folder / "trace.jsonl").mkdir()
    (folder / "trace.jsonl" / "in the way").touch()
    with pytest.raises(RunError, match=r"trace\.jsonl"):
        made.stop()


def test_a_defect_of_the_lab_keeps_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(_engine: Engine) -> dict[str, bytes]:
        raise KeyError("a view broke")

    made = Engine(setup(), tmp_path, view=broken)
    made.start()
    made.stop()
    assert (tmp_path / "record.json").exists()
    assert made.failure is not None
    assert "a view broke" in capsys.readouterr().err
    with pytest.raises(BusyError):
        made.pause()


def test_an_input_that_cannot_be_kept_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wall = Wall()
    with engine(wall, tmp_path) as made:
        assert made.recording is not None

        def full(_one: object) -> None:
            raise RunError("could not write inputs.jsonl: no space left")

        monkeypatch.setattr(made.recording, "add", full)
        with pytest.raises(RunError, match="no space"):
            done(made, wall, made.put("seat", hmi="hmi1", taken=True))
        assert made.session.inputs == []
