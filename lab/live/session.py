"""One live run: its world, the inputs that have reached it, and what a person at it needs to know.

It has no clock of its own: whoever drives it says how far virtual time goes. Inputs take effect at the instant at
which virtual time stands, after everything before it and before everything at it, so that the same inputs at the same
times give the same trace, however the time between them was cut into slices.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from pydantic import TypeAdapter, ValidationError

from devices.hmi import Hmi
from lab.live.alarms import AlarmList
from lab.live.bridge import Attachment, Bridge, address_of, plug_in
from lab.live.inputs import (
    Acknowledge,
    Bytes,
    Ended,
    Fault,
    Input,
    Launch,
    LogIn,
    LogOut,
    Lost,
    Opened,
    Seat,
    Shelve,
    Stop,
    Touch,
    Write,
)
from scenarios.actions import check_against
from scenarios.attack import Attack, Step
from scenarios.experiment import Course, Experiment, RunRecord, prepare
from scenarios.model import AnyStep, Scenario, load_scenario, scenario_names
from testbed.capture import Capture
from testbed.errors import OtlabError, UnknownNameError
from testbed.network import Link, Packet, Verdict
from testbed.trace import Trace

#: Gets what became of an input, once it is known: a dictionary that JSON can hold.
Reply: TypeAlias = Callable[[Mapping[str, Any]], None]
#: Gets what a connection's far side sends to an outside tool; None when that is all.
Outlet: TypeAlias = Callable[[int, bytes | None], None]

#: How far back trends go, and how often they look (s, virtual).
HISTORY: Final = 3600
EVERY: Final = 1.0
#: Blocked packets that are remembered.
MOST_BLOCKED: Final = 500
#: Connections of outside tools that may be open at once, and launches of one run.
MOST_CONNECTIONS: Final = 256
MOST_LAUNCHES: Final = 200
#: Faults that are put right when they are ended before their time.
REPAIRED: Final = frozenset({"sensor_fails", "actuator_fails", "cabling_loop"})
_STEP: TypeAdapter[Step] = TypeAdapter(AnyStep)


@dataclass(frozen=True, slots=True)
class Setup:
    """What a live run is made of, its inputs apart. ``experiment.duration`` is when it ends at the latest (s)."""

    experiment: Experiment
    attachments: tuple[Attachment, ...] = ()
    capture: Path | None = None


@dataclass(frozen=True, slots=True)
class Blocked:
    """A packet that a conduit or zone did not let pass."""

    time: float
    link: str
    source: str
    target: str
    port: int
    protocol: str
    reason: str
    verdict: str


@dataclass(slots=True)
class Launched:
    """A scenario or fault that was launched while the run went on."""

    number: int
    name: str
    title: str
    time: float
    attack: Attack
    #: it can be ended; faults that repair themselves and nothing else cannot
    stoppable: bool = True
    stopped: bool = False

    @property
    def running(self) -> bool:
        return not self.stopped and any(not task.done() for task in self.attack.tasks)


def _nobody(_connection: int, _data: bytes | None) -> None:
    """Where a replay sends what outside tools would have got."""


def _ignored(_answer: Mapping[str, Any]) -> None:
    """A reply that nobody waits for."""


class Session:
    """A run that takes inputs. ``advance`` it, ``take`` inputs, ``finish`` and ``close`` it."""

    def __init__(self, setup: Setup, outlet: Outlet = _nobody) -> None:
        self.setup, self.outlet = setup, outlet
        self.inputs: list[Input] = []
        self.launched: list[Launched] = []
        self.blocked: deque[Blocked] = deque(maxlen=MOST_BLOCKED)
        self.blocked_count = 0
        self.bridges: dict[int, Bridge] = {}
        #: seconds and, for each station and tag, values of the last hour; NaN where a value was stale
        self.times: deque[float] = deque(maxlen=HISTORY)
        self.history: dict[str, dict[str, deque[float]]] = {}
        self._capture: Capture | None = None
        self.world, scenario = prepare(setup.experiment)
        try:
            if setup.capture is not None:
                self._capture = Capture(setup.capture, self.world.site.epoch)
                self._capture.attach(self.world.network)
            plug_in(self.world, setup.attachments)
            for link in self.world.network.links():
                link.observers.append(self._see_blocked)
            self.alarms = {name: AlarmList(hmi) for name, hmi in self.world.hmis.items()}
            self.history = {
                name: {tag: deque(maxlen=HISTORY) for tag in hmi.tags()}
                for name, hmi in self.world.hmis.items()
            }
            self.course = Course(self.world, setup.experiment)
            self.course.start(scenario)
        except BaseException:
            self.close()
            raise

    # -- time ------------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Where virtual time stands (s)."""
        return self.world.loop.time()

    @property
    def trace(self) -> Trace:
        return self.world.trace

    def advance(self, until: float) -> None:
        """Let everything before virtual second ``until`` happen; whatever goes wrong inside is raised."""
        loop = self.world.loop
        while self.now < until:
            # Trends look at whole seconds, which cuts the time into slices and changes nothing in the run.
            look = (self.now // EVERY + 1) * EVERY
            loop.run_to(min(look, until))
            if self.now == look:
                self._sample()

    def _sample(self) -> None:
        self.times.append(self.now)
        for name, hmi in self.world.hmis.items():
            for tag, values in self.history[name].items():
                values.append(float("nan") if hmi.stale(tag) else hmi.values.get(tag, float("nan")))

    def finish(self) -> RunRecord:
        """End the run here; its record, as of any run of ``otlab run``, with the time it really took."""
        self.course.record.experiment = replace(self.setup.experiment, duration=self.now)
        return self.course.finish(self.now)

    def close(self) -> None:
        """Free the world; closing again does nothing."""
        self.world.close()
        if self._capture is not None:
            self._capture.close()

    # -- inputs ----------------------------------------------------------------------------------------------

    def take(self, one: Input, reply: Reply = _ignored) -> None:
        """Let an input take effect now, which is its ``t``; ``reply`` gets what became of it, perhaps later.

        What the input asks wrongly is told in the reply (``refused``) and is no error.
        """
        if one.t != self.now:
            raise ValueError(f"an input of t={one.t!r} cannot take effect at t={self.now!r}")
        self.inputs.append(one)
        try:
            self._act(one, reply)
        except OtlabError as error:
            reply({"refused": str(error)})

    def _act(self, one: Input, reply: Reply) -> None:
        match one:
            case Seat() | LogIn() | LogOut() | Touch() | Write() | Acknowledge() | Shelve():
                self._at_station(one, self._station(one.hmi), reply)
            case Launch():
                reply({"launch": self._launch(one)})
            case Fault():
                reply({"launch": self._break(one)})
            case Stop():
                self._stop(one)
                reply({"done": True})
            case Opened():
                self._open(one)
                reply({"done": True})
            case Bytes() | Ended() | Lost():
                self._outside(one)
                reply({"done": True})

    def _station(self, name: str) -> Hmi:
        hmi = self.world.hmis.get(name)
        if hmi is None:
            raise UnknownNameError("station", name, self.world.hmis)
        if not hmi.host.up:
            raise OtlabError(f"{name} is off")
        return hmi

    def _at_station(
        self, one: Seat | LogIn | LogOut | Touch | Write | Acknowledge | Shelve, hmi: Hmi, reply: Reply
    ) -> None:
        record, name = self.trace.record, hmi.name
        match one:
            case Seat():
                self._take_seat(name, one.taken)
                record("console.seat", name, taken=one.taken)
            case LogIn():
                self._spawn(hmi, self._log_in(hmi, one), reply)
                return
            case LogOut():
                hmi.session = None
                record("console.logout", name)
            case Touch():
                hmi.touch()
            case Write():
                if one.tag not in hmi.tags():
                    raise UnknownNameError("tag", one.tag, hmi.tags())
                self._spawn(hmi, self._write(hmi, one), reply)
                return
            case Acknowledge() | Shelve():
                who = hmi.who()
                if who is None:
                    raise OtlabError("session locked" if hmi.session is not None else "nobody is logged in")
                hmi.touch()
                if isinstance(one, Shelve):
                    if not self.alarms[name].shelve(one.alarm, one.seconds):
                        raise OtlabError("there is no such alarm")
                    record("console.shelved", name, user=who.name, alarm=one.alarm, seconds=one.seconds)
                else:
                    for key in self.alarms[name].acknowledge(one.alarm):
                        record("console.acknowledged", name, user=who.name, alarm=key)
        reply({"done": True})

    def _spawn(self, hmi: Hmi, work: Coroutine[Any, Any, Mapping[str, Any]], reply: Reply) -> None:
        """Do something at a station that takes time, as a program of it."""

        def ended(task: asyncio.Task[Any]) -> None:
            if task.cancelled():
                reply({"refused": f"{hmi.name} went off"})
            elif task.exception() is None:
                reply(task.result())

        hmi.host.spawn(work, "console").add_done_callback(ended)

    async def _log_in(self, hmi: Hmi, one: LogIn) -> Mapping[str, Any]:
        good = await hmi.log_in(one.user, one.password, one.code)
        self.trace.record("console.login", hmi.name, user=one.user, outcome="done" if good else "refused")
        return {"done": True} if good else {"refused": "log-in failed"}

    async def _write(self, hmi: Hmi, one: Write) -> Mapping[str, Any]:
        who = hmi.who()
        reason = await hmi.write(one.tag, one.value)
        self.trace.record(
            "console.write",
            hmi.name,
            user=who.name if who is not None else None,
            tag=one.tag,
            value=one.value,
            outcome="done" if reason is None else "refused",
            **({} if reason is None else {"reason": reason}),
        )
        return {"done": True} if reason is None else {"refused": reason}

    def _take_seat(self, station: str, taken: bool) -> None:
        operator = self.world.operators.get(station)
        if operator is None or operator.present.is_set() is not taken:
            return
        if taken:
            operator.step_aside()
        else:
            operator.come_back()

    # -- scenarios and faults ----------------------------------------------------------------------------------

    def _launch(self, one: Launch) -> int:
        if one.scenario not in scenario_names():  # a name from the network is never a path
            raise UnknownNameError("scenario", one.scenario, scenario_names())
        scenario = load_scenario(one.scenario, self.world.site)
        return self._begin(scenario, one.attacker)

    def _break(self, one: Fault) -> int:
        try:
            step = _STEP.validate_python(one.step)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise OtlabError(f"no such fault: {where}: {first['msg']}") from None
        if step.hostile:
            raise OtlabError(f"{step.action} is an attacker's step; launch a scenario")
        about = [str(value) for key, value in step if isinstance(value, str) and key != "action"]
        title = " ".join((step.action.replace("_", " "), *about))
        scenario = Scenario.model_construct(name="fault", title=title, summary="", steps=(step,))
        return self._begin(scenario, None, step.action in REPAIRED)

    def _begin(self, scenario: Scenario, attacker: str | None, stoppable: bool = True) -> int:
        if len(self.launched) >= MOST_LAUNCHES:
            raise OtlabError(f"{MOST_LAUNCHES} launches are the most of one run")
        check_against(self.world.site, scenario)
        attack = self.course.launch(scenario, attacker)
        number = len(self.launched)
        self.launched.append(Launched(number, scenario.name, scenario.title, self.now, attack, stoppable))
        self.trace.record("lab.launched", "instructor", scenario=scenario.name, title=scenario.title)
        return number

    def _stop(self, one: Stop) -> None:
        if one.launch >= len(self.launched):
            raise OtlabError(f"nothing was launched under number {one.launch}")
        launched = self.launched[one.launch]
        if not launched.stoppable:
            raise OtlabError(f"{launched.title} ends by itself")
        if launched.running:
            launched.stopped = True
            launched.attack.stop()
            self.trace.record("lab.stopped", "instructor", scenario=launched.name)

    # -- outside tools -----------------------------------------------------------------------------------------

    def _open(self, one: Opened) -> None:
        if one.attachment >= len(self.setup.attachments):
            raise OtlabError(f"there is no attachment {one.attachment}")
        if one.connection in self.bridges or len(self.bridges) >= MOST_CONNECTIONS:
            raise OtlabError("that connection is open already, or too many are")
        attachment = self.setup.attachments[one.attachment]
        host, record = self.world.network.hosts[attachment.laptop], self.trace.record
        about = {"target": attachment.target, "port": attachment.port, "connection": one.connection}

        def out(data: bytes | None) -> None:
            if data is None:
                self.bridges.pop(one.connection, None)
                record("outside.closed", host.name, **about, sent=bridge.sent, received=bridge.received)
            self.outlet(one.connection, data)

        bridge = self.bridges[one.connection] = Bridge(out)
        record("outside.opened", host.name, **about)

        async def connect() -> None:
            refused = await bridge.open(host, address_of(self.world, attachment), attachment.port)
            if refused is not None:
                record("outside.refused", host.name, **about, reason=refused)

        host.spawn(connect(), "outside tool")

    def _outside(self, one: Bytes | Ended | Lost) -> None:
        bridge = self.bridges.get(one.connection)
        if bridge is None:  # closed from inside meanwhile
            return
        match one:
            case Bytes():
                bridge.send(bytes.fromhex(one.hex))
            case Ended():
                bridge.end()
            case Lost():
                bridge.leave()

    def _see_blocked(self, link: Link, packet: Packet, reason: str, verdict: Verdict) -> None:
        flow = packet.flow
        self.blocked_count += 1
        self.blocked.append(
            Blocked(
                packet.time,
                link.name,
                flow.source_name or flow.source,
                flow.target_name or flow.target,
                flow.target_port,
                flow.protocol,
                reason,
                verdict.value,
            )
        )
