"""An experiment is site + controls + scenario + seed, frozen; running it yields a record and nothing else."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from controls import compensating, levels, maturity, profiles
from controls.catalogue import SecurityLevels
from controls.levels import ZoneLevels
from controls.selection import Selection, select
from devices import crew
from devices.crew import METHODS, Method
from devices.reliability import HUMAN_MODELS, HumanModel
from devices.response import Mode, Responder
from devices.siem import SecurityAlert
from devices.wiring import TRIP
from devices.world import World
from scenarios.actions import carry_out, check_against, place_attacker
from scenarios.attack import Attack, AttackState
from scenarios.evidence import evidence_of
from scenarios.functions import FunctionWatch
from scenarios.goals import GoalWatch
from scenarios.model import Scenario, load_scenario
from testbed.capture import Capture
from testbed.errors import OtlabError, UnknownNameError
from testbed.figures import load_figures
from testbed.plants import plant_named
from testbed.randomness import Randomness
from testbed.site import Site, load_site
from testbed.trace import Trace

#: What devices, people and steps record in the trace for outcomes to be measured by:
#:
#: - ``disclosed`` (source: who got it; ``what``, ``amount`` in items): read-restricted information reached somebody
#:   whom it is not for
#: - ``task`` (source: the person; ``task``, ``outcome`` done or refused, ``seconds`` it took): work that somebody of
#:   the site had to do and did or could not do
#: - ``response`` (source: who or what acted; ``what``): a defensive action took effect: access withdrawn, malware
#:   removed, zone cut off, clean program restored
#: - ``recovered`` (source: the asset; ``seconds`` since it was lost): it does its work again, in its known state
#: - ``finding`` (source: who found it; ``what``): a review, test or scan showed a weakness before anybody used it
MARKS = frozenset({"disclosed", "task", "response", "recovered", "finding"})
#: The profile's name where nothing is in force.
NOTHING = "SL 0"
#: Seconds between two looks at whether controls are at work, finer than any repair and cheap.
LEVELS_EVERY = 60.0
#: Seconds that devices get to connect before anything is judged.
WARM_UP = 30.0


@dataclass(frozen=True, slots=True)
class Experiment:
    """Everything that decides a run. ``scenario`` None is the attack-free run; ``duration`` in s."""

    site: str
    requirements: tuple[str, ...]
    profile: str
    scenario: str | None
    seed: int
    duration: float
    overrides: tuple[tuple[str, float], ...] = ()
    #: compensating countermeasures that are in force, by name
    compensating: tuple[str, ...] = ()
    #: maturity level 1 to 4 of the site's practices; None: every control is exactly as it was set up
    maturity: int | None = None
    #: who attacks, a name of ``scenarios.attackers``; None: who the scenario says, able to do all of it
    attacker: str | None = None
    #: what is done about incidents: "none", "analyst" or "automatic", see ``devices.response``
    response: Mode = "none"
    #: how operators are modeled, see ``devices.reliability``
    human: HumanModel = "simple"
    #: with what they log in where a second factor is asked for
    mfa: Method = "totp"

    @classmethod
    def of(
        cls,
        site: str,
        selection: Selection,
        scenario: str | None,
        seed: int,
        duration: float,
        overrides: tuple[tuple[str, float], ...] = (),
        attacker: str | None = None,
        response: Mode = "none",
        human: HumanModel = "simple",
        mfa: Method = "totp",
    ) -> Experiment:
        """The experiment with what ``selection`` puts in force."""
        return cls(
            site,
            selection.requirements,
            selection.name,
            scenario,
            seed,
            duration,
            overrides,
            selection.compensating,
            selection.maturity,
            attacker,
            response,
            human,
            mfa,
        )

    @classmethod
    def at_level(
        cls,
        site: str,
        levels: SecurityLevels,
        scenario: str | None,
        seed: int,
        duration: float,
        overrides: tuple[tuple[str, float], ...] = (),
    ) -> Experiment:
        """The experiment with every requirement of ``levels`` that acts."""
        return cls.of(site, select(levels), scenario, seed, duration, overrides)

    def without_attack(self) -> Experiment:
        """The twin: the same in every other respect."""
        return replace(self, scenario=None, attacker=None)

    def without_controls(self) -> Experiment:
        """What every run of its site and seed is measured against: no attack, and nothing in force."""
        return replace(
            self.without_attack(),
            requirements=(),
            profile=NOTHING,
            compensating=(),
            maturity=None,
            response="none",
        )

    def key(self) -> dict[str, Any]:
        """What the run depends on, as plain data."""
        return asdict(self)


@dataclass(slots=True)
class RunRecord:
    """What a run left, as plain data: times in s, intervals as (start, end)."""

    experiment: Experiment
    judged_from: float
    attack_start: float | None = None
    succeeded: int = 0
    refused: int = 0
    #: (time, kind of source, key): every alert that the SIEM raised and every alarm that the operator noticed
    alerts: list[tuple[float, str, str]] = field(default_factory=list)
    lost: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    unsafe: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    trips: list[tuple[float, str]] = field(default_factory=list)
    #: what the production signal (SI, per s) has summed up to by each judgment, one a second from ``judged_from`` on
    product: list[float] = field(default_factory=list)
    logins: int = 0
    failed_logins: int = 0
    lockouts: int = 0
    operator_delays: list[float] = field(default_factory=list)
    missed: int = 0
    #: trace events of the kinds in ``MARKS``, as (time, kind, source, data)
    marks: list[tuple[float, str, str, dict[str, Any]]] = field(default_factory=list)
    #: acts that somebody should be able to prove afterwards, and those that a trustworthy record does prove
    deeds: int = 0
    proven: int = 0
    #: by zone, the lowest levels that were found in the run, looked at every ``LEVELS_EVERY`` s
    levels: dict[str, ZoneLevels] = field(default_factory=dict)
    #: the attacker's goals in words, and when each was reached, None for never
    goals: list[tuple[str, float | None]] = field(default_factory=list)
    #: why the attacker stopped before the last step, None if it did not
    gave_up: str | None = None
    #: when the attacker last reached something, and last tried; None for never
    last_done: float | None = None
    last_try: float | None = None
    #: incidents as (opened, severity, alerts, triaged, verdict); times in s, the last two None while nobody has looked
    incidents: list[tuple[float, int, int, float | None, bool | None]] = field(default_factory=list)
    #: seconds that analysts worked on incidents, and the longest that their queue was
    analyst_seconds: float = 0.0
    analyst_queue: int = 0


def site_of(name: str) -> Site:
    """Load a site and check it against the plant it names, trip relays included."""
    site = load_site(name)
    plant = plant_named(site.plant.model, stream=Randomness(0).stream("plant"), initial=site.plant.initial)
    commands = [*plant.commands, *(TRIP + command for command in plant.commands)]
    return load_site(name, signals=plant.signals, commands=commands)


_site = cache(site_of)


def prepare(experiment: Experiment) -> tuple[World, Scenario | None]:
    """Build the world of an experiment with its controls in force, not yet started."""
    site = _site(experiment.site)
    scenario = load_scenario(experiment.scenario, site) if experiment.scenario is not None else None
    figures = load_figures()
    if experiment.overrides:
        figures = figures.with_overrides(dict(experiment.overrides))
    if scenario is not None:
        check_against(site, scenario)
        if scenario.start >= experiment.duration:
            raise OtlabError(
                f"scenario {scenario.name!r} starts at {scenario.start:g} s, after the run's end at"
                f" {experiment.duration:g} s"
            )
    if experiment.human not in HUMAN_MODELS:
        raise UnknownNameError("model of the operator", experiment.human, HUMAN_MODELS)
    if experiment.mfa not in METHODS:
        raise UnknownNameError("method of authentication", experiment.mfa, METHODS)
    world = World(site, experiment.seed, figures)
    crew.staff_with(world, experiment.human, experiment.mfa)
    profiles.apply(world, experiment.requirements)
    compensating.apply(world, experiment.compensating)
    maturity.apply(world, experiment.maturity, experiment.requirements)
    crew.equip(world)
    return world, scenario


def run(
    experiment: Experiment,
    *,
    capture: Path | None = None,
    begin: float | None = None,
    observe: Callable[[World], None] = lambda world: None,
) -> tuple[RunRecord, Trace]:
    """Run one experiment; ``capture`` is where to write a pcapng of all traffic.

    ``begin`` (s) is when the scenario starts, instead of when its file says; ``observe`` gets the world before it
    starts, for onlookers that change nothing.

    Raises OtlabError for what the user asked wrongly, RunError if the capture cannot be written; anything else that
    goes wrong inside ends the run with its own traceback.
    """
    world, scenario = prepare(experiment)
    if scenario is not None and begin is not None:
        scenario = scenario.model_copy(update={"start": begin})
    writer = None
    if capture is not None:
        writer = Capture(capture, world.site.epoch)
        writer.attach(world.network)
    try:
        observe(world)
        return _run(world, scenario, experiment), world.trace
    finally:
        world.close()
        if writer is not None:
            writer.close()


class Course:
    """A run under way: all of it but the passing of time, which is up to whoever drives the world's loop.

    ``start`` it at virtual second 0, ``launch`` further scenarios at any time, ``finish`` it once.
    """

    def __init__(self, world: World, experiment: Experiment) -> None:
        self.world, self.experiment = world, experiment
        self.watch = FunctionWatch(world)
        self.record = RunRecord(experiment, WARM_UP)
        self.attacks: list[Attack] = []
        self._goals: list[GoalWatch] = []
        self._stood_for = compensating.stood_for(experiment.compensating)

    def start(self, scenario: Scenario | None) -> None:
        """Start the world, who watches it, and ``scenario`` if there is one."""
        world = self.world
        attack = place_attacker(world, scenario, self.experiment.attacker) if scenario is not None else None
        for siem in world.siems.values():
            siem.on_alert.append(self._alerted)
        world.start()
        Responder(world, self.experiment.response).start()
        self.watch.start(WARM_UP)
        world.loop.wake(WARM_UP, self._look, WARM_UP)
        if attack is not None and scenario is not None:
            self._begin(attack, scenario, max(WARM_UP, scenario.start))

    def launch(self, scenario: Scenario, attacker: str | None = None, after: float = 1.0) -> Attack:
        """Let ``scenario`` begin ``after`` s from now, beside what runs already; OtlabError for what the site lacks."""
        check_against(self.world.site, scenario)
        attack = place_attacker(self.world, scenario, attacker)
        begin = self.world.loop.time() + after
        self._begin(attack, scenario.model_copy(update={"start": after}), max(WARM_UP, begin))
        return attack

    def finish(self, end: float) -> RunRecord:
        """What the run has left by ``end`` (s), which is now."""
        self.watch.finish(end)
        self._look(end)
        self.record.goals = [
            (goal.title(), watch.met.get(number))
            for watch in self._goals
            for number, goal in enumerate(watch.goals)
        ]
        return _fill(self.record, self.world, self.watch, [attack.state for attack in self.attacks])

    def _begin(self, attack: Attack, scenario: Scenario, look_from: float) -> None:
        goals = _watch_goals(self.world, self.watch, scenario, look_from)
        if goals is not None:
            self._goals.append(goals)
        _set_off(self.world, attack, scenario)
        self.attacks.append(attack)

    def _alerted(self, alert: SecurityAlert) -> None:
        self.record.alerts.append((alert.time, "siem", f"{alert.rule}:{alert.subject}"))
        self.world.trace.record(
            "alert", alert.source, rule=alert.rule, subject=alert.subject, severity=alert.severity
        )

    def _look(self, due: float) -> None:
        found = levels.measure(self.world, self._stood_for)
        record = self.record
        record.levels = levels.lowest(record.levels, found) if record.levels else found
        self.world.loop.wake(due + LEVELS_EVERY, self._look, due + LEVELS_EVERY)


def _run(world: World, scenario: Scenario | None, experiment: Experiment) -> RunRecord:
    course = Course(world, experiment)
    course.start(scenario)
    # Reference counting frees nearly everything; the collector's passes over a live world only cost time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        world.loop.run_to(experiment.duration)
    finally:
        if collecting:
            gc.enable()
    return course.finish(experiment.duration)


def _watch_goals(world: World, watch: FunctionWatch, scenario: Scenario, begin: float) -> GoalWatch | None:
    if not scenario.goals:
        return None
    missing = {name: _not(one.available) for name, one in watch.watches.items()}
    inside = [one.available for one in watch.unsafe.values()]
    missing["envelope"] = lambda: not all(look() for look in inside)
    made = world.site.essential_functions.production
    missing["production"] = lambda: world.plant.value(made.signal) < made.expected / 2
    goals = GoalWatch(world, scenario.goals, missing)
    goals.start(begin)
    return goals


def _not(there: Callable[[], bool]) -> Callable[[], bool]:
    return lambda: not there()


def _set_off(world: World, attack: Attack, scenario: Scenario) -> None:
    """Run the scenario as a program of the attacker's machine, or of no machine where nobody attacks."""
    if attack.attacker is not None:
        attack.tasks.append(attack.attacker.spawn(carry_out(attack, scenario), "attack"))
        return
    task = world.loop.create_task(carry_out(attack, scenario))
    attack.tasks.append(task)

    def ended(task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            world.loop.fail(error)

    task.add_done_callback(ended)


def _fill(record: RunRecord, world: World, watch: FunctionWatch, states: Sequence[AttackState]) -> RunRecord:
    begun = [state.first_action for state in states if state.first_action is not None]
    record.attack_start = min(begun, default=None)
    record.succeeded = sum(state.succeeded for state in states)
    record.refused = sum(state.refused for state in states)
    record.gave_up = next((state.gave_up for state in states if state.gave_up is not None), None)
    record.lost = {name: list(one.lost) for name, one in watch.watches.items()}
    record.unsafe = {name: list(one.lost) for name, one in watch.unsafe.items()}
    record.product = watch.product
    events = world.trace.events
    record.trips = [
        (event.time, str(event.data["target"]))
        for event in events
        if event.kind == "trip" and event.data["on"]
    ]
    record.marks = [
        (event.time, event.kind, event.source, dict(event.data)) for event in events if event.kind in MARKS
    ]
    record.deeds, record.proven = evidence_of(world)
    acts = [event for event in events if event.kind == "attack.step"]
    record.last_done = max((one.time for one in acts if one.data["outcome"] == "done"), default=None)
    tried = ("done", "refused", "failed")
    record.last_try = max((one.time for one in acts if one.data["outcome"] in tried), default=None)
    for desk in world.desks.values():
        record.incidents += [
            (one.opened, one.severity, len(one.alerts), one.triaged, one.verdict) for one in desk.incidents
        ]
    for analyst in world.analysts.values():
        record.analyst_seconds += analyst.worked
        record.analyst_queue = max(record.analyst_queue, analyst.longest)
    noticed = [
        (event.time, "operator", f"{event.data['tag']}:{event.data['level']}")
        for event in events
        if event.kind == "operator.noticed"
    ]
    record.alerts = sorted([*record.alerts, *noticed])
    for hmi in world.hmis.values():
        record.logins += hmi.logins
        record.failed_logins += hmi.failed_logins
    record.lockouts = sum(1 for event in events if event.kind == "operator.locked_out")
    for first in world.operators.values():
        for operator in (first, *(() if first.colleague is None else (first.colleague,))):
            record.operator_delays += [done - raised for raised, done in operator.completed]
            record.missed += operator.missed
    return record


def as_data(record: RunRecord) -> Mapping[str, Any]:
    """The record as JSON-ready data."""
    return asdict(record)
