"""What a check looks at: the runs that were made, what the student's laptop said, and what was handed in.

A live run is never taken at its word: its inputs are played again, and the trace is the one that comes of them. What a
student could write into a trace or record beside them counts for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from controls.selection import Selection
from lab.exercises.model import Exercise, Truth
from lab.live.bridge import Attachment
from lab.live.inputs import Bytes, Opened
from lab.live.recording import Recorded, follow, read_recording
from lab.live.session import Session, Setup
from scenarios.experiment import Experiment, RunRecord
from testbed.errors import OtlabError
from testbed.site import Site
from testbed.trace import Trace

#: Bytes before a PDU in Modbus/TCP, without and with the unit id (Modbus Messaging on TCP/IP, 3.1.3).
_HEAD: Final = 7


@dataclass(frozen=True, slots=True)
class Asked:
    """One Modbus request of a laptop's: ``answer`` is the function code of the answer, None for none."""

    time: float
    zone: str
    target: str
    function: int
    first: int | None
    count: int
    answer: int | None

    @property
    def granted(self) -> bool:
        """It was answered, and not by an exception."""
        return self.answer == self.function


@dataclass(frozen=True, slots=True)
class Ran:
    """One run: what it left, and when it ended (s)."""

    record: RunRecord
    trace: Trace
    end: float
    asked: tuple[Asked, ...] = ()


@dataclass(slots=True)
class Evidence:
    """All that the checks of one exercise see. ``runs`` has "" for the only run of a live exercise."""

    runs: dict[str, Ran] = field(default_factory=dict)
    selection: Selection | None = None
    site: Site | None = None
    answers: Mapping[Truth, Any] = field(default_factory=dict)
    truths: Mapping[Truth, Any] = field(default_factory=dict)


def live_setup(exercise: Exercise, seed: int, ports: tuple[int, ...] = ()) -> Setup:
    """The live run of an exercise; ``ports`` are where its attachments listen on 127.0.0.1, 0 for any."""
    from controls.catalogue import SecurityLevels

    live = exercise.live
    if live is None:
        raise OtlabError(f"{exercise.name} is no live exercise")
    experiment = Experiment.at_level(
        exercise.site, SecurityLevels.uniform(live.level), live.scenario, seed, live.longest
    )
    listens = (*ports, *([0] * len(live.attach)))
    places = (f"{one}=127.0.0.1:{port}" for one, port in zip(live.attach, listens, strict=False))
    return Setup(experiment, tuple(Attachment.parse(one) for one in places))


def play(exercise: Exercise, path: Path, seed: int) -> Evidence:
    """Play the recording of a live exercise again. OtlabError where it is none of this exercise and student."""
    recorded = read_recording(path)
    wanted = live_setup(exercise, seed)
    if not _same(recorded.setup, wanted):
        raise OtlabError(f"{path} is a run of something else, not of {exercise.name} as it was handed out")
    assert exercise.live is not None
    if recorded.end < exercise.live.lasts:
        raise OtlabError(
            f"the run ended at {recorded.end:g} s; {exercise.name} lasts {exercise.live.lasts:g} s at least"
        )
    if recorded.end > exercise.live.longest:
        raise OtlabError(f"the run goes on after {exercise.live.longest:g} s, which is the end of it")
    return Evidence({"": replay(recorded)})


def _same(one: Setup, other: Setup) -> bool:
    places = [[(at.zone, at.target, at.port) for at in each.attachments] for each in (one, other)]
    return one.experiment == other.experiment and places[0] == places[1]


def replay(recorded: Recorded) -> Ran:
    """The run that a recording's inputs make, with what the laptop asked and was told."""
    heard: dict[int, list[tuple[float, bytes]]] = {}

    def outlet(connection: int, data: bytes | None) -> None:
        if data is not None:
            heard.setdefault(connection, []).append((session.now, data))

    session = Session(replace(recorded.setup, capture=None), outlet)
    try:
        follow(session, recorded.inputs, recorded.end)
        record = session.finish()
        asked = _asked(session, heard)
    finally:
        session.close()
    return Ran(record, session.trace, recorded.end, asked)


def _asked(session: Session, heard: Mapping[int, list[tuple[float, bytes]]]) -> tuple[Asked, ...]:
    """Requests in the laptop's streams, each with the answer of the same transaction on the same connection."""
    places: dict[int, Attachment] = {}
    sent: dict[int, list[tuple[float, bytes]]] = {}
    for one in session.inputs:
        if isinstance(one, Opened) and one.attachment < len(session.setup.attachments):
            places.setdefault(one.connection, session.setup.attachments[one.attachment])
        elif isinstance(one, Bytes):
            sent.setdefault(one.connection, []).append((one.t, bytes.fromhex(one.hex)))
    found: list[Asked] = []
    for connection, at in places.items():
        answers: dict[int, list[bytes]] = {}
        for _, transaction, pdu in _frames(heard.get(connection, [])):
            answers.setdefault(transaction, []).append(pdu)
        for time, transaction, pdu in _frames(sent.get(connection, [])):
            back = answers.get(transaction)
            answer = back.pop(0)[0] if back else None
            found.append(Asked(time, at.zone, at.target, pdu[0], *_span(pdu), answer))
    return tuple(sorted(found, key=lambda one: one.time))


def _frames(pieces: list[tuple[float, bytes]]) -> list[tuple[float, int, bytes]]:
    """(time of the last byte, transaction, PDU) of the Modbus/TCP frames in a stream; it ends at what is none."""
    found: list[tuple[float, int, bytes]] = []
    rest = b""
    for time, data in pieces:
        rest += data
        while len(rest) >= _HEAD:
            length = int.from_bytes(rest[4:6], "big")
            if rest[2:4] != b"\0\0" or not 2 <= length <= 254:
                return found
            if len(rest) < 6 + length:
                break
            found.append((time, int.from_bytes(rest[:2], "big"), rest[_HEAD : 6 + length]))
            rest = rest[6 + length :]
    return found


def _span(pdu: bytes) -> tuple[int | None, int]:
    """First address and number of values that a read or write names."""
    if pdu[0] not in (1, 2, 3, 4, 5, 6, 15, 16) or len(pdu) < 5:
        return None, 0
    count = 1 if pdu[0] in (5, 6) else int.from_bytes(pdu[3:5], "big")
    return int.from_bytes(pdu[1:3], "big"), count
