"""A live run's inputs on disk: enough to bring the whole run back, byte for byte.

One JSON object a line: first the experiment and its attachment points, then each input as it reached the run, last the
moment at which the run ended. Lines are written as they happen, so that a run that was cut off is a run as well.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final

from pydantic import TypeAdapter, ValidationError

from lab.live.bridge import Attachment
from lab.live.inputs import INPUT, Input
from lab.live.session import Session, Setup
from scenarios.experiment import Experiment
from testbed.errors import DocumentError, Problem, RunError

FORMAT: Final = "otlab-live-1"
#: Longest line: an input's greatest piece of a stream, as hexadecimal digits, and its frame.
LONGEST: Final = 1 << 18
_EXPERIMENT: TypeAdapter[Experiment] = TypeAdapter(Experiment)


def _nothing() -> None:
    """What is done at each second where nobody looks on."""


class Recording:
    """The file at ``path``, readable by its owner only: it holds what was typed. Raises RunError naming the file."""

    def __init__(self, path: Path, setup: Setup) -> None:
        self.path, self.setup = path, setup
        self._file: IO[str] | None = None
        self.rewrite(())

    def rewrite(self, inputs: Iterable[Input]) -> None:
        """Begin anew with ``inputs``: the run has gone back to an earlier moment, or to other controls."""
        self.close()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            self._file = os.fdopen(descriptor, "w", encoding="utf-8")
            self._line(_head(self.setup))
            for one in inputs:
                self._line(one.model_dump())
            self._file.flush()
        except OSError as error:
            raise self._unwritable(error) from error

    def add(self, one: Input) -> None:
        """Keep an input."""
        try:
            self._line(one.model_dump())
            assert self._file is not None
            self._file.flush()
        except OSError as error:
            raise self._unwritable(error) from error

    def finish(self, end: float) -> None:
        """The run has ended at virtual second ``end``."""
        if self._file is None:
            return
        try:
            self._line({"end": end})
            self._file.flush()
        except OSError as error:
            raise self._unwritable(error) from error
        finally:
            self.close()

    def _line(self, what: dict[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(what, separators=(",", ":"), allow_nan=False) + "\n")

    def close(self) -> None:
        """Keep what is there and add nothing more; closing again does nothing."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _unwritable(self, error: OSError) -> RunError:
        return RunError(f"could not write {self.path}: {error.strerror or error}")


def _head(setup: Setup) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "experiment": asdict(setup.experiment),
        "attachments": [str(one) for one in setup.attachments],
    }


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recording as read: ``end`` is when the run ended, that of its last input if it was cut off."""

    setup: Setup
    inputs: tuple[Input, ...]
    end: float
    whole: bool


def read_recording(path: Path | str) -> Recorded:
    """Read a recording. Raises DocumentError that names the line of the first mistake."""
    setup: Setup | None = None
    inputs: list[Input] = []
    end: float | None = None
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST + 1), b""), 1):
                what = _parsed(path, number, line)
                if end is not None:
                    raise _mistake(path, number, "something follows the end of the run")
                if setup is None:
                    setup = _setup(path, what)
                elif what.keys() == {"end"}:
                    end = _moment(path, number, what["end"], inputs)
                else:
                    inputs.append(_input(path, number, what, inputs))
    except OSError as error:
        raise _mistake(path, 1, f"cannot be read: {(error.strerror or str(error)).lower()}") from None
    except ValueError:
        raise _mistake(path, 1, "cannot be read: not a file name") from None
    if setup is None:
        raise _mistake(path, 1, "this is no recording of a live run")
    last = inputs[-1].t if inputs else 0.0
    return Recorded(setup, tuple(inputs), last if end is None else end, end is not None)


def _parsed(path: Path | str, number: int, line: bytes) -> dict[str, Any]:
    if len(line) > LONGEST:
        raise _mistake(path, number, "the line is too long for a recording")
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise _mistake(path, number, "this is no JSON") from None
    if not isinstance(found, dict):
        raise _mistake(path, number, "this is no JSON object")
    return found


def _setup(path: Path | str, what: dict[str, Any]) -> Setup:
    if what.get("format") != FORMAT:
        raise _mistake(path, 1, f"this is no recording of a live run ({FORMAT})")
    places = what.get("attachments")
    if not isinstance(places, list) or not all(isinstance(one, str) for one in places):
        raise _mistake(path, 1, "attachments: a list of ZONE:ASSET:PORT=HOST:PORT is wanted")
    try:
        experiment = _EXPERIMENT.validate_python(what.get("experiment"))
    except ValidationError as error:
        raise _mistake(path, 1, f"experiment: {_first(error)}") from None
    return Setup(experiment, tuple(Attachment.parse(one) for one in places))


def _input(path: Path | str, number: int, what: dict[str, Any], before: list[Input]) -> Input:
    try:
        one = INPUT.validate_python(what)
    except ValidationError as error:
        raise _mistake(path, number, _first(error)) from None
    if before and one.t < before[-1].t:
        raise _mistake(path, number, f"t={one.t:g} s is before the input above it")
    return one


def _moment(path: Path | str, number: int, end: object, before: list[Input]) -> float:
    if not isinstance(end, int | float) or isinstance(end, bool) or not 0 <= end < float("inf"):
        raise _mistake(path, number, "end: a virtual second is wanted")
    if before and end < before[-1].t:
        raise _mistake(path, number, "the run ends before its last input")
    return float(end)


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg'].lower()}" if where else first["msg"].lower()


def _mistake(path: Path | str, number: int, message: str) -> DocumentError:
    return DocumentError([Problem(str(path), number, 1, "", message)])


def follow(
    session: Session, inputs: Iterable[Input], until: float, each: Callable[[], None] = _nothing
) -> None:
    """Bring ``session`` to virtual second ``until`` with the inputs of another run that lie before or at it.

    ``each`` is called every second of virtual time, for whoever shows how far it is.
    """
    for one in inputs:
        if one.t > until:
            break
        _go(session, one.t, each)
        session.take(one)
    _go(session, until, each)


def _go(session: Session, until: float, each: Callable[[], None]) -> None:
    while session.now < until:
        session.advance(min(session.now + 1.0, until))
        each()
