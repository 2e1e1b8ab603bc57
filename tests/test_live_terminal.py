"""The live lab in a terminal: what it shows of the station, and that its lines are inputs of the run."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from test_live import setup

from lab.live import views
from lab.live.engine import Engine
from lab.live.terminal import Terminal, sparkline


@pytest.mark.parametrize(
    ("values", "bars"),
    [([], ""), ([None], ""), ([1.0, 1.0], "▁▁"), ([0.0, None, 7.0], "▁ █"), ([0.0, 3.5, 7.0], "▁▅█")],
)
def test_a_trend_is_drawn_with_bars(values: list[float | None], bars: str) -> None:
    assert sparkline(values) == bars


@pytest.mark.realtime
def test_lines_work_the_station_and_are_on_record() -> None:
    engine = Engine(setup(duration=4000.0), view=views.published)
    engine.session.advance(40.0)
    engine._restart()  # it has come this far without a clock
    engine.start()
    out = io.StringIO()
    try:
        terminal = Terminal(engine, Console(file=out, width=100))
        for line in (
            "seat",
            "set MV101_AUTO 0",
            "set NOSUCH 1",
            "set MV101_AUTO x",
            "ack",
            "trend LIT101",
            "dance [red]",
            "'",
            "",
        ):
            assert terminal.obey(line)
        assert not terminal.obey("quit")
    finally:
        engine.stop()
    said = out.getvalue()
    for shown in (
        "done",
        "unknown tag 'NOSUCH'",
        "could not convert",
        "LIT101",
        "in the seat",
        "no alarms",
        "login USER",
    ):
        assert shown in said, said
    assert [one.kind for one in engine.session.inputs] == ["seat", "write", "write", "acknowledge"]
