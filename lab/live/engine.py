"""The thread that drives a session at a pace: so many virtual seconds a second, in short slices.

The web side never touches a world. It posts inputs and orders, which take effect between two slices, and gets futures;
it reads the latest published view. A slow run makes virtual time lag behind what was asked for and blocks nobody.
"""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypeVar

from pydantic import ValidationError

from lab.live.inputs import INPUT
from lab.live.recording import Recording, follow
from lab.live.session import Outlet, Session, Setup
from results.store import save_text
from scenarios.experiment import Experiment, as_data
from testbed.errors import OtlabError, RunError

T = TypeVar("T")
State: TypeAlias = Literal["running", "paused", "rewinding", "ended", "failed"]

#: Speeds that may be asked for (virtual s a s).
SLOWEST, FASTEST = 0.1, 1000.0
#: Seconds (real) between two slices, between two views, and that virtual time may lag before it is let go.
SLICE: Final = 0.01
VIEW_EVERY: Final = 0.25
MOST_LAG: Final = 0.5
#: Longest slice (s, virtual): what an order has to wait for at most, some milliseconds of computing.
LONGEST: Final = 2.0
#: Orders that may wait; more are refused.
MOST_WAITING: Final = 1024
#: Longest single step (s).
LONGEST_STEP: Final = 3600.0


class BusyError(OtlabError):
    """More orders wait than the engine takes."""


@dataclass(slots=True)
class Pace:
    """How virtual time follows the wall clock: ``speed`` times as fast, from an anchor on."""

    speed: float = 1.0
    virtual: float = 0.0
    wall: float = 0.0
    #: speed that was really reached of late
    reached: float = 0.0

    def anchor(self, virtual: float, wall: float) -> None:
        """From here on."""
        self.virtual, self.wall = virtual, wall

    def target(self, now: float, wall: float) -> float:
        """How far virtual time goes next, from ``now``; a lag that cannot be made good is let go."""
        wanted = self.virtual + self.speed * (wall - self.wall)
        if wanted - now > self.speed * MOST_LAG:
            self.anchor(now, wall - SLICE)
            wanted = now + self.speed * SLICE
        return min(max(wanted, now), now + LONGEST)


@dataclass(frozen=True, slots=True)
class _Order:
    """What somebody wants of the engine's thread; ``answer`` gets what comes of it."""

    act: Callable[[Future[Any]], None]
    answer: Future[Any] = field(default_factory=Future)


class Engine:
    """Drives one session after another of one lab; ``turn`` by ``turn``, as a rule in a thread of its own.

    ``view`` makes what is published of a session: it is called in the engine's thread. ``outlet`` gets what comes back
    for outside tools. ``folder`` is where the inputs are kept as they come, and all else at the end; None: nowhere.
    """

    def __init__(
        self,
        setup: Setup,
        folder: Path | None = None,
        *,
        speed: float = 1.0,
        view: Callable[[Engine], Mapping[str, bytes]] = lambda _engine: {},
        outlet: Outlet = lambda _connection, _data: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self.view, self.clock = folder, view, clock
        self.outlet = outlet
        self.pace = Pace(_checked(speed))
        self.state: State = "running"
        #: why the run failed, None while it has not
        self.failure: str | None = None
        self.session = Session(setup, outlet)
        self.recording = Recording(folder / "inputs.jsonl", setup) if folder is not None else None
        #: virtual second that a rewind is going to, and has reached
        self.rewinding: tuple[float, float] | None = None
        self.published: Mapping[str, bytes] = {}
        self.sequence = 0
        self.on_publish: list[Callable[[], None]] = []
        #: told when connections of outside tools are cut because the run is another one now
        self.on_cut: list[Callable[[], None]] = []
        self._orders: deque[_Order] = deque()
        self._wake = threading.Event()
        self._step_to: float | None = None
        self._stopping = False
        self._closed = False
        self._unkept: OtlabError | None = None
        self._last_view = -1.0
        self._measured = (0.0, 0.0)
        self._thread: threading.Thread | None = None
        self._restart()

    # -- for any thread --------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether it has been told to stop."""
        return self._stopping

    def start(self) -> None:
        """Drive it in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="otlab-world", daemon=True)
        self._thread.start()

    def put(self, kind: str, **data: Any) -> Future[Mapping[str, Any]]:
        """Let an input reach the run at once: a future of what became of it.

        Raises OtlabError for an input that cannot be, BusyError when too many wait.
        """
        try:
            INPUT.validate_python({"t": 0.0, "kind": kind, **data})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"][1:])
            raise OtlabError(f"{where or kind}: {first['msg'].lower()}") from None

        def act(answer: Future[Any]) -> None:
            self._take(kind, data, answer)

        return self._order(act)

    def ask(self, question: Callable[[Session], T]) -> Future[T]:
        """What ``question`` returns of the session, asked between two slices; it must change nothing."""
        return self._order(lambda answer: answer.set_result(question(self.session)))

    def set_speed(self, speed: float) -> Future[None]:
        """Go on at another speed."""
        wanted = _checked(speed)

        def act(answer: Future[Any]) -> None:
            self.pace.speed = wanted
            self._restart()
            answer.set_result(None)

        return self._order(act)

    def pause(self, paused: bool = True) -> Future[None]:
        """Let virtual time stand, or go on."""

        def act(answer: Future[Any]) -> None:
            if self.state in ("running", "paused"):
                self.state = "paused" if paused else "running"
                self._step_to = None
                self._restart()
            answer.set_result(None)

        return self._order(act)

    def step(self, seconds: float) -> Future[None]:
        """Let so many virtual seconds pass as fast as they can, then stand."""
        if not 0 < seconds <= LONGEST_STEP:
            raise OtlabError(f"a step is between 0 and {LONGEST_STEP:g} s")

        def act(answer: Future[Any]) -> None:
            if self.state in ("running", "paused"):
                self.state = "paused"
                self._step_to = min(self.session.now + seconds, self._end)
            answer.set_result(None)

        return self._order(act)

    def rewind(self, to: float, experiment: Experiment | None = None) -> Future[None]:
        """Go back to virtual second ``to``: a new run with the same inputs up to there, then stand.

        With another ``experiment`` it is what would have come of the same inputs under other controls. Later inputs are
        forgotten, and connections of outside tools are cut. OtlabError in the future for a moment that has not been, or
        an experiment that cannot be; the run then goes on as it was.
        """
        return self._order(lambda answer: self._rewind(to, experiment, answer))

    def stop(self) -> None:
        """End the run, keep what it leaves, and wait for all that; RunError names a file that cannot be written."""
        self._stopping = True
        self._wake.set()
        if self._thread is None:
            self._finish()
        else:
            self._thread.join()
        if self._unkept is not None:
            raise self._unkept

    # -- for the driving thread --------------------------------------------------------------------------------

    def turn(self) -> float:
        """Carry out what was ordered, let one slice pass; seconds (real) until the next turn is due."""
        while self._orders and not self._stopping:
            self._carry_out(self._orders.popleft())
        if self._step_to is not None:
            self._advance(min(self._step_to, self.session.now + LONGEST))
            if self._step_to is not None and self.session.now >= self._step_to:
                self._step_to = None
                self._publish()
            wait = 0.0
        elif self.state == "running":
            begun = self.clock()
            self._advance(min(self.pace.target(self.session.now, begun), self._end))
            wait = max(0.0, SLICE - (self.clock() - begun))
            if self.state == "running" and self.session.now >= self._end:
                self.state = "ended"
                self._publish()
        else:
            wait = VIEW_EVERY
        self._measure()
        if self.clock() - self._last_view >= VIEW_EVERY:
            self._publish()
        return wait

    def _run(self) -> None:
        try:
            while not self._stopping:
                wait = self.turn()
                if wait and not self._orders:
                    self._wake.wait(wait)
                self._wake.clear()
        except Exception as error:  # noqa: BLE001 - a defect of the lab's own must not cost the run that it drives
            self._stopping = True
            self.failure = f"{type(error).__name__}: {error}"
            traceback.print_exception(error)
        finally:
            self._finish()

    @property
    def _end(self) -> float:
        return self.session.setup.experiment.duration

    def _restart(self) -> None:
        self.pace.anchor(self.session.now, self.clock())
        self._measured = (self.session.now, self.clock())

    def _measure(self) -> None:
        virtual, wall = self._measured
        passed = self.clock() - wall
        if passed >= 1.0:
            self.pace.reached = (self.session.now - virtual) / passed
            self._measured = (self.session.now, self.clock())

    def _advance(self, until: float) -> None:
        try:
            self.session.advance(until)
        except Exception as error:  # noqa: BLE001 - whatever a world ends with, people at the console have to see it
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.state, self._step_to = "failed", None
        self.failure = f"{type(error).__name__}: {error}"
        traceback.print_exception(error)
        self._publish()

    def _order(self, act: Callable[[Future[Any]], None]) -> Future[Any]:
        if len(self._orders) >= MOST_WAITING or self._stopping:
            raise BusyError("the lab is busy; try again")
        order = _Order(act)
        self._orders.append(order)
        self._wake.set()
        return order.answer

    def _carry_out(self, order: _Order) -> None:
        if not order.answer.set_running_or_notify_cancel():
            return
        try:
            order.act(order.answer)
        except OtlabError as error:
            if not order.answer.done():
                order.answer.set_exception(error)
        self._last_view = -1.0  # whoever ordered something wants to see it

    def _take(self, kind: str, data: Mapping[str, Any], answer: Future[Any]) -> None:
        if self.state in ("ended", "failed"):
            raise OtlabError("the run is over")

        def reply(what: Mapping[str, Any]) -> None:
            if not answer.done():
                answer.set_result(what)

        one = INPUT.validate_python({"t": self.session.now, "kind": kind, **data})
        if self.recording is not None:
            self.recording.add(one)
        try:
            self.session.take(one, reply)
        except Exception as error:  # noqa: BLE001 - as in _advance
            self._fail(error)
            reply({"refused": "the run has failed"})

    def _rewind(self, to: float, experiment: Experiment | None, answer: Future[Any]) -> None:
        old = self.session
        if not 0 <= to <= old.now:
            raise OtlabError(f"the run has been through 0 to {old.now:g} s")
        setup = old.setup
        if experiment is not None:
            setup = replace(setup, experiment=replace(experiment, duration=setup.experiment.duration))
        for cut in self.on_cut:
            cut()
        state, self.state, self.rewinding = self.state, "rewinding", (to, 0.0)
        self._publish()
        # One capture file cannot be written by two runs; the new one gets it once it is sure to be.
        try:
            new = Session(replace(setup, capture=None) if setup.capture is not None else setup)
        except OtlabError:
            self.state, self.rewinding = state, None
            raise
        if setup.capture is not None:
            new.close()
            old.close()
            new = Session(setup)
        self.session = new
        old.close()
        try:
            follow(new, [one for one in old.inputs if one.t <= to], to, self._followed)
        except Exception as error:  # noqa: BLE001 - as in _advance
            if not self._stopping:
                self._fail(error)
        else:
            self.state, self.failure = "paused", None
        self.rewinding = None
        new.outlet = self.outlet
        if self.recording is not None:
            self.recording.setup = setup
            self.recording.rewrite(new.inputs)
        if self.state == "paused":
            self._cut_off(new)
        self._restart()
        answer.set_result(None)

    def _followed(self) -> None:
        assert self.rewinding is not None
        self.rewinding = (self.rewinding[0], self.session.now)
        if self.clock() - self._last_view >= VIEW_EVERY:
            self._publish()
        if self._stopping:
            raise RunError("stopped while going back")

    def _cut_off(self, session: Session) -> None:
        """Connections that stood at that moment have nobody outside any more."""
        for connection in list(session.bridges):
            self._take("lost", {"connection": connection}, Future())

    def _publish(self) -> None:
        self._last_view = self.clock()
        self.published = self.view(self)
        self.sequence += 1
        for told in self.on_publish:
            told()

    def _finish(self) -> None:
        if self._closed:
            return
        self._closed = True
        while self._orders:
            self._orders.popleft().answer.cancel()
        session = self.session
        try:
            if self.recording is not None:
                self.recording.finish(session.now)
            if self.folder is not None:
                keep(self.folder, session)
        except OtlabError as error:
            self._unkept = error
        finally:
            session.close()


def keep(folder: Path, session: Session) -> None:
    """End a session and write its trace, samples and record; RunError names a file that cannot be written."""
    try:
        record = session.finish()
    finally:  # a world that has failed may not be able to tell its record
        save_text(folder / "trace.jsonl", "".join(line + "\n" for line in session.trace.lines()))
        save_text(folder / "trace.csv", "".join(line + "\n" for line in session.trace.table()))
    save_text(folder / "record.json", json.dumps(as_data(record), indent=1, default=str) + "\n")


def _checked(speed: float) -> float:
    if not SLOWEST <= speed <= FASTEST:
        raise OtlabError(f"a speed is between {SLOWEST:g} and {FASTEST:g} times real time")
    return float(speed)
