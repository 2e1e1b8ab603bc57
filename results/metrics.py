"""From run records to a row: one definition of each metric, the ones that docs/reference/metrics.md prints.

An attacked run is read beside two others with the same seed: its *twin*, the same controls without the attack, which
tells what would have happened anyway, and the *base*, no attack and no controls, which tells what the controls
themselves cost.
"""

from __future__ import annotations

import re
from collections import Counter
from statistics import median

from results.rows import NO_ATTACK, Row
from scenarios.experiment import Experiment, RunRecord
from scenarios.functions import PERIOD

#: Alerts and trips of attack and twin within so many seconds of each other are the same event.
SAME = 60.0


def first_true_alert(record: RunRecord, twin: RunRecord) -> tuple[float, str] | None:
    """Time and key of the first alert or noticed alarm after the attack's first action that the twin lacks."""
    if record.attack_start is None:
        return None
    ordinary: dict[str, list[float]] = {}
    for time, _, key in twin.alerts:
        ordinary.setdefault(key, []).append(time)
    for time, _, key in record.alerts:
        if time >= record.attack_start and not any(
            abs(time - other) <= SAME for other in ordinary.get(key, ())
        ):
            return time, key
    return None


def first_impact(record: RunRecord, twin: RunRecord) -> float | None:
    """When the first essential function or safe limit was lost, or a trip came, that the twin did not have."""
    if record.attack_start is None:
        return None
    times: list[float] = []
    for mine, theirs in ((record.lost, twin.lost), (record.unsafe, twin.unsafe)):
        for name, intervals in mine.items():
            others = [start for start, _ in theirs.get(name, ())]
            times += [
                start for start, _ in intervals if not any(abs(start - other) <= SAME for other in others)
            ]
    ordinary = [(time, target) for time, target in twin.trips]
    times += [
        time
        for time, target in record.trips
        if not any(target == other and abs(time - when) <= SAME for when, other in ordinary)
    ]
    return min((time for time in times if time >= record.attack_start), default=None)


def acknowledged(record: RunRecord, twin: RunRecord) -> float | None:
    """Seconds from the attack's first action until an analyst took an incident for real that the twin does not have."""
    if record.attack_start is None:
        return None
    ordinary = [opened for opened, *_ in twin.incidents]
    times = [
        triaged
        for opened, _, _, triaged, verdict in record.incidents
        if verdict and triaged is not None and opened >= record.attack_start
        if not any(abs(opened - other) <= SAME for other in ordinary)
    ]
    return min(times) - record.attack_start if times else None


def contained(record: RunRecord) -> float | None:
    """Seconds from the attack's first action to the response after which the attacker reached nothing more.

    Only where the attacker still tried: who has ended by themselves was not contained by anybody.
    """
    start, last_done, last_try = record.attack_start, record.last_done, record.last_try
    if start is None or last_try is None:
        return None
    beyond = last_done if last_done is not None else start
    responses = [time for time, kind, _, _ in record.marks if kind == "response" and time >= beyond]
    first = min(responses, default=None)
    return first - start if first is not None and last_try > first else None


def _profile(experiment: Experiment) -> str:
    """Cells of tables and figures are told apart by what is in force, how well it is kept up, and who responds."""
    mature = "" if experiment.maturity is None else f", ML {experiment.maturity}"
    answer = "" if experiment.response == "none" else f", {experiment.response} response"
    return f"{experiment.profile}{mature}{answer}"


def _goal_time(record: RunRecord) -> float | None:
    times = [met for _, met in record.goals]
    if record.attack_start is None or not times or None in times:
        return None
    return max(time for time in times if time is not None) - record.attack_start


def available_share(intervals: list[tuple[float, float]], start: float, end: float) -> float:
    """Share of [start, end] that lies outside ``intervals``."""
    lost = sum(max(0.0, min(stop, end) - max(begin, start)) for begin, stop in intervals)
    return max(0.0, 1.0 - lost / (end - start))


def produced(record: RunRecord, start: float, end: float) -> float:
    """Product made from ``start`` to ``end`` (s), in the production signal's unit times s."""
    first = max(0, int((start - record.judged_from) / PERIOD))
    last = min(len(record.product) - 1, int((end - record.judged_from) / PERIOD))
    return record.product[last] - record.product[first]


def measure(record: RunRecord, twin: RunRecord, base: RunRecord) -> Row:
    """The row of ``record``; for an attack-free run it is its own twin."""
    experiment = record.experiment
    attacked = experiment.scenario is not None
    end = experiment.duration
    start = record.attack_start
    begin = start if start is not None else record.judged_from
    alert = first_true_alert(record, twin)
    impact = first_impact(record, twin)
    made, could = produced(record, begin, end), produced(base, begin, end)
    availability = {name: available_share(intervals, begin, end) for name, intervals in record.lost.items()}
    availability["production"] = min(1.0, made / could) if could > 0 else 1.0
    trips = Counter(target for _, target in record.trips)
    ordinary = Counter(target for _, target in twin.trips)
    extra = sum((trips - ordinary).values()) if attacked else 0
    unsafe = sum(stop - begun for intervals in record.unsafe.values() for begun, stop in intervals)
    return Row(
        site=experiment.site,
        scenario=_attack(experiment),
        profile=_profile(experiment),
        level=_level(experiment.profile),
        seed=experiment.seed,
        duration=end,
        attack_start=start,
        detected=alert is not None,
        detection_time=None if alert is None or start is None else alert[0] - start,
        detected_by=None if alert is None else alert[1].partition(":")[0],
        observed=0.0 if start is None else end - start,
        impact_time=None if impact is None or start is None else impact - start,
        contained_time=contained(record),
        availability=availability,
        unsafe_seconds=unsafe,
        trips_true=extra,
        trips_spurious=sum(trips.values()) - extra,
        production_lost=could - made,
        logins=record.logins,
        failed_logins=record.failed_logins,
        lockouts=record.lockouts,
        operator_delay=median(record.operator_delays) if record.operator_delays else None,
        missed_deadlines=record.missed,
        false_alarms=0.0 if attacked else float(sum(1 for _, kind, _ in record.alerts if kind == "siem")),
        attack_blocked=attacked and record.succeeded == 0,
        maturity=experiment.maturity,
        incidents=len(record.incidents),
        analyst_minutes=record.analyst_seconds / 60.0,
        acknowledged_time=acknowledged(record, twin),
        goal_time=_goal_time(record),
    )


def _attack(experiment: Experiment) -> str:
    """The scenario, and who carries it out where that is an axis."""
    if experiment.scenario is None:
        return NO_ATTACK
    return experiment.scenario + (f" by {experiment.attacker}" if experiment.attacker is not None else "")


def _level(profile: str) -> int | None:
    found = re.fullmatch(r"SL (\d)", profile)
    return int(found[1]) if found else None
