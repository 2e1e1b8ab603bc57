"""A student at work in virtual time: a live exercise solved by inputs, without a clock, a browser or a tool."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from struct import pack
from typing import Any

from lab.exercises import packs
from lab.exercises.evidence import live_setup
from lab.exercises.model import load_exercise
from lab.exercises.packs import Result
from lab.live.inputs import INPUT
from lab.live.recording import Recording
from lab.live.session import Session

KEY = "11" * 32


class Desk:
    """The student's laptop and the station, on a session whose inputs are recorded."""

    def __init__(self, session: Session, recording: Recording) -> None:
        self.session, self.recording = session, recording
        self.heard: dict[int, bytes] = {}
        session.outlet = self._hear
        self._connections = 0
        self._transactions = 0

    def _hear(self, connection: int, data: bytes | None) -> None:
        if data is not None:
            self.heard[connection] = self.heard.get(connection, b"") + data

    def give(self, kind: str, **data: Any) -> dict[str, Any]:
        """Let an input take effect now, and wait for what becomes of it."""
        answers: list[Any] = []
        one = INPUT.validate_python({"t": self.session.now, "kind": kind, **data})
        self.recording.add(one)
        self.session.take(one, answers.append)
        for _ in range(600):
            if answers:
                break
            self.wait(0.1)
        return dict(answers[0])

    def wait(self, seconds: float) -> None:
        self.session.advance(self.session.now + seconds)

    def until(self, time: float) -> None:
        self.session.advance(time)

    def connect(self, attachment: int = 0) -> int:
        self._connections += 1
        self.give("opened", attachment=attachment, connection=self._connections)
        return self._connections

    def ask(self, connection: int, *pdu: int, seconds: float = 5.0) -> bytes:
        """Send a request; the PDU that comes back, or nothing."""
        self._transactions += 1
        self.heard.pop(connection, None)
        frame = pack(">HHHB", self._transactions, 0, len(pdu) + 1, 1) + bytes(pdu)
        self.give("bytes", connection=connection, hex=frame.hex())
        end = self.session.now + seconds
        while self.session.now < end and connection not in self.heard:
            self.wait(0.05)
        return self.heard.get(connection, b"")[7:]

    def coil(self, connection: int, address: int, on: bool) -> bytes:
        return self.ask(connection, 5, *pack(">H", address), 0xFF if on else 0, 0)

    def register(self, connection: int, address: int, value: int) -> bytes:
        return self.ask(connection, 6, *pack(">HH", address, value))

    def read(self, connection: int, function: int, address: int, count: int) -> bytes:
        return self.ask(connection, function, *pack(">HH", address, count))


def solved(
    name: str, folder: Path, work: Callable[[Desk], None] = lambda _desk: None, until: float | None = None
) -> Result:
    """Start a live exercise in ``folder``, let ``work`` happen in its run, and check it."""
    exercise = load_exercise(name)
    packs.start(exercise, folder, "anna", KEY)
    setup = live_setup(exercise, packs.live_seed(folder))
    assert exercise.live is not None
    session = Session(setup)
    recording = Recording(folder / packs.LIVE / "inputs.jsonl", setup)
    try:
        work(Desk(session, recording))
        session.advance(max(session.now, exercise.live.lasts if until is None else until))
        recording.finish(session.now)
    finally:
        recording.close()
        session.close()
    return packs.check(folder)


def met(result: Result) -> set[str]:
    """Names of the tasks that are met."""
    return {one.task.name for one in result.judged if one.met}


def tasks(name: str) -> set[str]:
    return {task.name for task in load_exercise(name).tasks}


def handed_in(name: str, folder: Path, text: str) -> Result:
    """Start a file exercise in ``folder``, hand in ``text``, and check it."""
    exercise = load_exercise(name)
    packs.start(exercise, folder, "anna", KEY)
    assert exercise.hand_in is not None
    (folder / exercise.hand_in.file).write_text(text, encoding="utf-8")
    return packs.check(folder)
