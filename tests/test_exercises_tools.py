"""Live exercises solved by real tools over loopback, and checked from what the run leaves."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from exercise_desk import KEY, met, tasks

from lab.exercises import packs
from lab.exercises.evidence import live_setup
from lab.exercises.model import load_exercise
from lab.live.serve import LiveLab

pytestmark = [pytest.mark.realtime, pytest.mark.slow]


def worked(name: str, folder: Path, work: Callable[[int], None], until: float) -> packs.Result:
    """Run the exercise's lab at a pace of 10, let ``work`` use the port of its first socket, and check."""
    exercise = load_exercise(name)
    packs.start(exercise, folder, "anna", KEY)
    setup = live_setup(exercise, packs.live_seed(folder))
    ready, found, stop = threading.Event(), list[Any](), list[Any]()

    async def run() -> None:
        live = LiveLab(setup, folder / packs.LIVE, speed=10.0)
        stopped = asyncio.Event()
        stop.extend((asyncio.get_running_loop(), stopped))
        try:
            found.extend((await live.open(), live.engine))
            ready.set()
            await stopped.wait()
        finally:
            ready.set()
            await live.close()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    try:
        assert ready.wait(60.0)
        place, engine = found
        engine.step(40.0).result(60.0)
        engine.pause(False).result(60.0)
        work(place.attachments[0][1])
        engine.step(until).result(60.0)
        while engine.ask(lambda session: session.now).result(60.0) < until:
            threading.Event().wait(0.05)
    finally:
        stop[0].call_soon_threadsafe(stop[1].set)
        thread.join(60.0)
    return packs.check(folder)


@pytest.mark.skipif(shutil.which("mbpoll") is None, reason="mbpoll is not installed")
def test_mbpoll_stops_the_pump(tmp_path: Path) -> None:
    def work(port: int) -> None:
        for words in (("-r", "1", "-c", "9"), ("-r", "5", "0"), ("-r", "8", "0")):
            rest = (*words[:2], "127.0.0.1", words[2]) if len(words) == 3 else (*words, "127.0.0.1")
            done = subprocess.run(
                ("mbpoll", "-m", "tcp", "-p", str(port), "-a", "1", "-t", "0", "-1", "-q", *rest),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr

    result = worked("stop-a-pump", tmp_path / "x", work, 400.0)
    assert met(result) == tasks("stop-a-pump"), [one.found for one in result.judged]


@pytest.mark.skipif(importlib.util.find_spec("pyModbusTCP") is None, reason="pyModbusTCP is not installed")
def test_pymodbustcp_reads_the_process(tmp_path: Path) -> None:
    from pyModbusTCP.client import ModbusClient

    def work(port: int) -> None:
        client = ModbusClient(host="127.0.0.1", port=port, timeout=30.0)
        assert client.read_holding_registers(100, 4) is not None
        for _ in range(12):
            assert client.read_input_registers(0, 6) is not None
        client.close()

    result = worked("read-the-process", tmp_path / "x", work, 300.0)
    assert met(result) == tasks("read-the-process"), [one.found for one in result.judged]
