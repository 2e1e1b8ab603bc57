"""Each kind of check: whether it is met, and in words what was found. The words give no answer away."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from controls.catalogue import SecurityLevels
from controls.compensating import stood_for
from controls.profiles import enforced
from lab.exercises.evidence import Evidence, Ran
from lab.exercises.model import (
    Acknowledged,
    Answer,
    AnyCheck,
    Apart,
    Attack,
    Chosen,
    Differs,
    Events,
    Exercise,
    Function,
    Goals,
    Modbus,
    Rules,
    Safe,
    Signal,
    Target,
    Task,
    Work,
)
from results.metrics import available_share
from testbed.errors import OtlabError
from testbed.site import Site

#: Whether a check is met, and what was found.
Finding = tuple[bool, str]


@dataclass(frozen=True, slots=True)
class Judged:
    """A task, whether it is met, and what was found by each of its checks."""

    task: Task
    met: bool
    found: tuple[str, ...]

    @property
    def points(self) -> int:
        return self.task.points if self.met else 0


def judge(exercise: Exercise, evidence: Evidence) -> tuple[Judged, ...]:
    """Every task of the exercise, judged by what there is."""
    done: dict[str, Judged] = {}
    for task in exercise.tasks:
        findings = [_CHECKS[type(check)](check, evidence) for check in task.checks]
        lacking = [name for name in task.needs if not done[name].met]
        met = all(good for good, _ in findings) and not lacking
        told = [words for _, words in findings] + [f"needs {name!r} first" for name in lacking]
        done[task.name] = Judged(task, met, tuple(told))
    return tuple(done.values())


def _ran(check: AnyCheck, evidence: Evidence) -> tuple[Ran, float, float]:
    """The run that a check looks at, and from when to when."""
    ran = evidence.runs[check.run or ""]
    return ran, check.after, min(ran.end, check.before if check.before is not None else ran.end)


def _within(count: int, least: int, most: int | None) -> bool:
    return count >= least and (most is None or count <= most)


def _modbus(check: Modbus, evidence: Evidence) -> Finding:
    ran, start, end = _ran(check, evidence)
    low, high = check.registers if check.registers is not None else (0, 0xFFFF)
    found = [
        one
        for one in ran.asked
        if one.target == check.target and check.zone in (None, one.zone)
        if one.function in check.functions and start <= one.time <= end
        if check.registers is None
        or (one.first is not None and one.first <= high and one.first + one.count > low)
        if one.granted is check.answered
    ]
    how = "granted" if check.answered else "not granted"
    return len(found) >= check.at_least, f"{len(found)} such requests to {check.target} were {how}"


def _column(ran: Ran, name: str) -> Sequence[float]:
    column = ran.trace.columns.get(name)
    if column is None:
        raise OtlabError(f"the run samples no signal {name!r}")
    return column


def _signal(check: Signal, evidence: Evidence) -> Finding:
    ran, start, end = _ran(check, evidence)
    column = _column(ran, check.signal)
    rows = [
        (time, value) for time, value in zip(ran.trace.times, column, strict=True) if start <= time <= end
    ]
    good = [
        (time, (check.above is None or value > check.above) and (check.below is None or value < check.below))
        for time, value in rows
    ]
    if not good:
        return False, f"{check.signal} was not seen in that time"
    if check.when == "always":
        share = sum(fits for _, fits in good) / len(good)
        return share == 1, f"{check.signal} was where it should be {100 * share:.0f} % of the time"
    if check.when == "end":
        return good[-1][1], f"{check.signal} was {rows[-1][1]:.4g} at the end"
    longest = max(_stretches(good), default=None)
    if longest is None:
        return False, f"{check.signal} never came there"
    return longest >= check.lasting, f"{check.signal} was there for {longest:.0f} s"


def _differs(check: Differs, evidence: Evidence) -> Finding:
    ran, start, end = _ran(check, evidence)
    rows = [
        (time, abs(shown - (check.scale * true + check.offset)) > check.more_than)
        for time, shown, true in zip(
            ran.trace.times, _column(ran, check.shown), _column(ran, check.signal), strict=True
        )
        if start <= time <= end
    ]
    longest = max(_stretches(rows), default=None) if rows else None
    if longest is None:
        return False, f"{check.shown} showed what was true"
    return longest >= check.lasting, f"{check.shown} was false for {longest:.0f} s"


def _stretches(rows: list[tuple[float, bool]]) -> Iterator[float]:
    """How long each unbroken stretch lasts (s); one that is seen once lasts 0 s."""
    since: float | None = None
    for (time, fits), (later, goes_on) in pairwise([*rows, (rows[-1][0], False)]):
        if fits and since is None:
            since = time
        if since is not None and not goes_on:
            yield (later if later > time else time) - since
            since = None


def _events(check: Events, evidence: Evidence) -> Finding:
    ran, start, end = _ran(check, evidence)
    count = sum(
        1
        for event in ran.trace.of_kind(check.kind)
        if start <= event.time <= end
        if check.source is None or event.source == check.source
        if all(event.data.get(key) == value for key, value in check.data.items())
    )
    return _within(count, check.at_least, check.at_most), f"{check.kind}: {count} such events"


def _function(check: Function, evidence: Evidence) -> Finding:
    ran, start, end = _ran(check, evidence)
    begin = max(start, ran.record.judged_from)
    share = available_share(ran.record.lost[check.function], begin, end) if end > begin else 0.0
    return share >= check.share, f"{check.function} was there {100 * share:.1f} % of the time"


def _safe(check: Safe, evidence: Evidence) -> Finding:
    ran, start, end = _ran(check, evidence)
    seconds = sum(
        max(0.0, min(stop, end) - max(begin, start))
        for spans in ran.record.unsafe.values()
        for begin, stop in spans
    )
    return seconds <= check.seconds, f"{seconds:.0f} s outside the safe envelope"


def _goals(check: Goals, evidence: Evidence) -> Finding:
    ran, _, _ = _ran(check, evidence)
    reached = sum(met is not None for _, met in ran.record.goals)
    return (
        bool(ran.record.goals) and _within(reached, check.at_least, check.at_most),
        f"{reached} of the attacker's {len(ran.record.goals)} goals were reached",
    )


def _attack(check: Attack, evidence: Evidence) -> Finding:
    ran, _, _ = _ran(check, evidence)
    done = ran.record.succeeded
    acted = ran.record.attack_start is not None or done > 0
    return acted and _within(done, check.at_least, check.at_most), f"{done} of the attacker's acts succeeded"


def _acknowledged(check: Acknowledged, evidence: Evidence) -> Finding:
    ran, start, end = _ran(check, evidence)
    raised = [
        (event.time, f"{event.data['tag']}:{event.data['level']}")
        for event in ran.trace.of_kind("alarm")
        if event.source == check.hmi and start <= event.time and event.time + check.within <= end
        if event.kind == "alarm"
    ]
    seen = [
        (event.time, str(event.data["alarm"]))
        for event in ran.trace.of_kind("console.acknowledged")
        if event.source == check.hmi
    ]
    late = [
        key
        for time, key in raised
        if not any(key == other and 0 <= when - time <= check.within for when, other in seen)
    ]
    return (
        len(raised) >= check.at_least and not late,
        f"{len(raised) - len(late)} of {len(raised)} alarms were acknowledged within {check.within:g} s",
    )


def _work(check: Work, evidence: Evidence) -> Finding:
    ran, start, end = _ran(check, evidence)
    tasks = [
        event
        for event in ran.trace.of_kind("task")
        if event.data["task"] == check.task and start <= event.time <= end
    ]
    if not tasks:
        return False, f"{check.task!r} was not done in that time"
    taken = max(float(event.data["seconds"]) for event in tasks)
    done = all(event.data["outcome"] == "done" for event in tasks)
    return done and taken <= check.within, f"{check.task!r} took {taken:.0f} s"


def _chosen(check: Chosen, evidence: Evidence) -> Finding:
    chosen = evidence.selection
    if chosen is None:
        raise OtlabError("no controls were handed in")
    stands = stood_for(chosen.compensating) if check.compensated else {}
    wanted = enforced(SecurityLevels.uniform(check.level))
    missing = [name for name in wanted if name not in chosen.requirements and name not in stands]
    several = len(chosen.compensating)
    banned = [name for name in check.without if name in chosen.requirements]
    good = (
        len(missing) <= check.missing
        and _within(several, check.compensating, check.most_compensating)
        and _within(len(chosen.requirements), 0, check.most)
        and not banned
    )
    told = f"{len(chosen.requirements)} requirements chosen"
    if banned:
        told += f", of which this plant cannot have {', '.join(banned)}"
    if check.level:
        told += f"; {len(missing)} of those of SL {check.level} are missing, {several} measures compensate"
    return good, told


def _site(evidence: Evidence) -> Site:
    if evidence.site is None:
        raise OtlabError("no zones and conduits were handed in")
    return evidence.site


def _apart(check: Apart, evidence: Evidence) -> Finding:
    assets = _site(evidence).assets
    these = {assets[name].zone for name in check.these}
    those = {assets[name].zone for name in check.those}
    if check.together:
        return len(
            these | those
        ) == 1, f"{', '.join((*check.these, *check.those))}: {len(these | those)} zones"
    shared = len(these & those)
    return not shared, f"{shared} zones are shared by {', '.join(check.these)} and {', '.join(check.those)}"


def _target(check: Target, evidence: Evidence) -> Finding:
    site = _site(evidence)
    zone = site.assets[check.asset].zone
    lowest = min(site.zones[zone].sl_t.as_tuple())
    return lowest >= check.level, f"the target level of {check.asset}'s zone is {lowest} at least"


def _rules(check: Rules, evidence: Evidence) -> Finding:
    flows = [flow for conduit in _site(evidence).conduits.values() for flow in conduit.flows]
    wide = sum(flow.protocol == "modbus" and flow.functions is None for flow in flows)
    return len(
        flows
    ) <= check.at_most and not wide, f"{len(flows)} flows, {wide} of Modbus name no function codes"


def _answer(check: Answer, evidence: Evidence) -> Finding:
    given, truth = evidence.answers.get(check.truth), evidence.truths[check.truth]
    if given is None:
        return False, "no answer was given"
    return _equal(given, truth, check.tolerance), "answered"


def _equal(given: Any, truth: Any, tolerance: float) -> bool:
    if isinstance(truth, int | float):
        return (
            isinstance(given, int | float) and not isinstance(given, bool) and abs(given - truth) <= tolerance
        )
    return str(given).strip().casefold() == str(truth).casefold()


_CHECKS: Final[dict[type, Callable[[Any, Evidence], Finding]]] = {
    Modbus: _modbus,
    Signal: _signal,
    Differs: _differs,
    Events: _events,
    Function: _function,
    Safe: _safe,
    Goals: _goals,
    Attack: _attack,
    Acknowledged: _acknowledged,
    Work: _work,
    Chosen: _chosen,
    Apart: _apart,
    Target: _target,
    Rules: _rules,
    Answer: _answer,
}
