"""What a control may change, as numbers of one run: the outcomes by which requirements are proved.

Each outcome is one function from a run's record, and the record of the same run without the attack, to a number. Times
that did not come within the run count as the time observed, so that a pair of runs always has a difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from results.metrics import first_true_alert, produced
from scenarios.experiment import RunRecord

#: What a requirement may be proved by. ``reach`` (how far the attacker came) is shown beside them: it is no outcome
#: for the plant yet.
FAMILIES: Final = (
    "detection",
    "response",
    "availability",
    "safety",
    "confidentiality",
    "operability",
    "evidence",
)

Measure = Callable[[RunRecord, RunRecord], float]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One number of a run. A pair of runs differs in it from ``least`` on; ``better`` is the side one wants."""

    name: str  # "family.what"
    title: str
    unit: str
    better: Literal["less", "more"]
    least: float
    measure: Measure

    @property
    def family(self) -> str:
        return self.name.partition(".")[0]

    def gain(self, on: float, off: float) -> float:
        """By how much ``on`` is better than ``off``; negative if worse."""
        return off - on if self.better == "less" else on - off


def _begin(record: RunRecord) -> float:
    return record.attack_start if record.attack_start is not None else record.judged_from


def _end(record: RunRecord) -> float:
    return record.experiment.duration


def _detected(record: RunRecord, twin: RunRecord) -> float:
    alert = first_true_alert(record, twin)
    return (alert[0] if alert is not None else _end(record)) - _begin(record)


def _first_mark(kind: str) -> Measure:
    def measure(record: RunRecord, _twin: RunRecord) -> float:
        times = [time for time, what, _, _ in record.marks if what == kind and time >= _begin(record)]
        return min(times, default=_end(record)) - _begin(record)

    return measure


def _recovery(record: RunRecord, _twin: RunRecord) -> float:
    """The slowest recovery; the whole time observed if nothing recovered."""
    times = [float(data["seconds"]) for _, kind, _, data in record.marks if kind == "recovered"]
    return max(times, default=_end(record) - _begin(record))


def _lost(name: str) -> Measure:
    def measure(record: RunRecord, _twin: RunRecord) -> float:
        begin = _begin(record)
        spans = record.lost.get(name, ())
        return sum(max(0.0, stop - max(start, begin)) for start, stop in spans)

    return measure


def _product(record: RunRecord, _twin: RunRecord) -> float:
    return produced(record, _begin(record), _end(record))


def _unsafe(record: RunRecord, _twin: RunRecord) -> float:
    begin = _begin(record)
    spans = [span for intervals in record.unsafe.values() for span in intervals]
    return sum(max(0.0, stop - max(start, begin)) for start, stop in spans)


def _trips(record: RunRecord, _twin: RunRecord) -> float:
    return float(sum(1 for time, _ in record.trips if time >= _begin(record)))


def _disclosed(record: RunRecord, _twin: RunRecord) -> float:
    return sum(float(data["amount"]) for _, kind, _, data in record.marks if kind == "disclosed")


def _task_seconds(record: RunRecord, _twin: RunRecord) -> float:
    """Mean time of what people had to do; a task that was refused counts as the time observed."""
    observed = _end(record) - _begin(record)
    times = [
        float(data["seconds"]) if data["outcome"] == "done" else observed
        for _, kind, _, data in record.marks
        if kind == "task"
    ]
    times += record.operator_delays
    return sum(times) / len(times) if times else 0.0


def _work_refused(record: RunRecord, _twin: RunRecord) -> float:
    refused = sum(1 for _, kind, _, data in record.marks if kind == "task" and data["outcome"] != "done")
    return float(refused + record.missed)


def _evidence(record: RunRecord, _twin: RunRecord) -> float:
    return record.proven / record.deeds if record.deeds else 1.0


def _reach(record: RunRecord, _twin: RunRecord) -> float:
    return float(record.succeeded)


#: The least differences are assumptions: below them nobody would act on it. A run judges functions once a second.
OUTCOMES: Final[dict[str, Outcome]] = {
    one.name: one
    for one in (
        Outcome("detection.time", "time to the first true alert", "s", "less", 5.0, _detected),
        Outcome("detection.finding", "time to the first finding", "s", "less", 5.0, _first_mark("finding")),
        Outcome(
            "response.time", "time to the first effective response", "s", "less", 5.0, _first_mark("response")
        ),
        Outcome("response.recovery", "slowest recovery", "s", "less", 5.0, _recovery),
        Outcome("availability.view", "view lost", "s", "less", 5.0, _lost("view")),
        Outcome("availability.control", "control lost", "s", "less", 5.0, _lost("control")),
        Outcome("availability.safety", "safety function lost", "s", "less", 5.0, _lost("safety")),
        Outcome("availability.production", "product made", "m3", "more", 0.01, _product),
        Outcome("safety.unsafe", "outside the safe envelope", "s", "less", 5.0, _unsafe),
        Outcome("safety.trips", "trips of the safety system", "1", "less", 1.0, _trips),
        Outcome("confidentiality.disclosed", "restricted items disclosed", "1", "less", 1.0, _disclosed),
        Outcome("operability.task_time", "mean time of people's tasks", "s", "less", 5.0, _task_seconds),
        Outcome("operability.refused", "tasks that could not be done", "1", "less", 1.0, _work_refused),
        Outcome("evidence.share", "share of deeds that can be proved", "1", "more", 0.05, _evidence),
        Outcome("reach.steps", "attack steps that got through", "1", "less", 1.0, _reach),
    )
}


def outcomes_of(record: RunRecord, twin: RunRecord) -> dict[str, float]:
    """Every outcome of ``record``; ``twin`` is the same run without the attack."""
    return {name: outcome.measure(record, twin) for name, outcome in OUTCOMES.items()}
