"""What an assessment measures: its threats under a choice of controls, and which requirements are at work where.

Runs go through the campaign's store, so that what was measured once is not run again: a new scenario file, or one
threat changed, costs its own runs only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from controls.catalogue import SecurityLevels, catalogue
from controls.compensating import stood_for
from controls.levels import Vector, capability, level_where
from controls.profiles import enforced, working
from controls.selection import Selection
from devices.world import World
from lab.assess.model import Assessment, Threat
from lab.campaign import Processes, complete, key_of, runs_of
from results.ablation import sign_test
from results.risk import Matrix, Risk, class_of, loss_of, removed, risk_of
from results.rows import FUNCTIONS, Row
from results.statistics import Estimate, paired_difference
from results.store import RowStore
from scenarios.experiment import LEVELS_EVERY, Experiment, run
from testbed.site import Site

#: Given a title and a number of runs: a bar, and what advances it by one.
Progress = Callable[[str, int], AbstractContextManager[Callable[[], None]]]
QUIET, PROBE = "quiet", "probe"


@dataclass(slots=True)
class Measuring:
    """Where an assessment's runs are done and kept; ``arms`` are those of the step that is under way."""

    assessment: Assessment
    store: RowStore
    workers: int
    progress: Progress
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: runs that were not in the store, in all
    ran: int = 0

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(range(1, self.assessment.head.seeds + 1))

    def _experiment(self, selection: Selection, threat: Threat | None, seed: int) -> Experiment:
        head = self.assessment.head
        scenario = threat.scenario if threat is not None else None
        return Experiment.of(
            self.assessment.site_name,
            selection,
            scenario,
            seed,
            head.duration,
            (),
            threat.attacker if threat is not None else None,
            head.response,
        )

    def situations(self, selections: Sequence[Selection], *, probe: bool = False) -> list[Situation]:
        """Every threat of the assessment under each of ``selections``; with ``probe``, the operators' task too."""
        wanted = dict(self.assessment.threats)
        quiet: dict[str, Threat | None] = {QUIET: None}
        if probe and self.assessment.head.probe is not None:
            path = self.assessment.found(self.assessment.head.probe, ())
            quiet[PROBE] = Threat(scenario=path, attempts=0, basis="probe")
        cells: dict[tuple[int, str], list[Experiment]] = {
            (number, name): [self._experiment(canonical(selection), threat, seed) for seed in self.seeds]
            for number, selection in enumerate(selections)
            for name, threat in {**quiet, **wanted}.items()
        }
        every = list(dict.fromkeys(one for cell in cells.values() for one in cell))
        missing = [one for one in every if self.store.get(key_of(one)) is None]
        self.ran += runs_of(missing)
        with self.progress(f"{len(selections)} choices of controls", runs_of(every)) as advance:
            rows = dict(
                zip(every, complete(every, self.store, Processes(self.workers), advance), strict=True)
            )
        return [
            Situation(
                selection,
                {name: [rows[one] for one in cells[number, name]] for name in {**quiet, **wanted}},
                {name: self._arm(cells[number, name]) for name in {**quiet, **wanted}},
            )
            for number, selection in enumerate(selections)
        ]

    def _arm(self, experiments: Sequence[Experiment]) -> str:
        """Put an arm on record and return its id, which its runs decide."""
        keys = [key_of(one) for one in experiments]
        name = hashlib.sha256("".join(keys).encode()).hexdigest()[:12]
        first = experiments[0].key()
        del first["seed"]
        self.arms[name] = {
            "experiment": first,
            "runs": [{"seed": one.seed, "key": key} for one, key in zip(experiments, keys, strict=True)],
        }
        return name


@dataclass(frozen=True, slots=True)
class Situation:
    """The rows of every threat, of the quiet runs and of the probe under one choice of controls, seed by seed."""

    selection: Selection
    rows: Mapping[str, list[Row]]
    arms: Mapping[str, str]

    def outcomes(self, threat: str, matrix: Matrix) -> list[int]:
        """Severity class of each run of ``threat``."""
        pairs = zip(self.rows[threat], self.rows[QUIET], strict=True)
        return [class_of(row, quiet, matrix) for row, quiet in pairs]

    def risk(self, name: str, threat: Threat, matrix: Matrix) -> Risk:
        """The risk of ``threat``."""
        return risk_of(self.outcomes(name, matrix), threat.attempts, matrix, threat.between)

    def losses(self, threats: Mapping[str, Threat], matrix: Matrix) -> dict[int, float]:
        """Points a year of all threats together, by seed."""
        total = {row.seed: 0.0 for row in self.rows[QUIET]}
        for name, threat in threats.items():
            found = loss_of(self.outcomes(name, matrix), threat.attempts, matrix)
            for row, loss in zip(self.rows[QUIET], found, strict=True):
                total[row.seed] += loss
        return total

    def availability(self, function: str) -> dict[int, float]:
        """Share of the quiet runs that an essential function was there, by seed."""
        return {
            row.seed: row.availability[function] for row in self.rows[QUIET] if function in row.availability
        }

    def delays(self) -> dict[int, float]:
        """Seconds from alarm to action in the probe, by seed; {} without a probe or where nobody acted."""
        rows = self.rows.get(PROBE, ())
        return {row.seed: row.operator_delay for row in rows if row.operator_delay is not None}


def canonical(selection: Selection) -> Selection:
    """The same controls under a name that only they decide, so that equal choices share their runs."""
    for level in range(5):
        if not selection.compensating and selection.requirements == enforced(SecurityLevels.uniform(level)):
            return replace(selection, name=f"SL {level}")
    text = "\n".join((*selection.requirements, *selection.compensating))
    return replace(selection, name=f"controls {hashlib.sha256(text.encode()).hexdigest()[:10]}")


@dataclass(frozen=True, slots=True)
class Burden:
    """What controls cost beyond what was there: points (%) of availability, s of operators' delay, and units."""

    availability: dict[str, Estimate]
    delay: Estimate
    missed: float
    cost: float

    @property
    def points(self) -> float:
        """Points of the essential function that loses most, none where all gain."""
        return max(0.0, *(100 * -(one.value or 0.0) for one in self.availability.values()))

    def units(self, point: float, second: float) -> float:
        """All of it in the cost's unit, at the prices of a point of availability and of a second."""
        return self.cost + point * self.points + second * max(0.0, self.delay.value or 0.0)

    def as_data(self) -> dict[str, Any]:
        return {**asdict(self), "points": self.points}


def burden(after: Situation, before: Situation, cost: float) -> Burden:
    """What ``after`` costs beyond ``before``, paired by seed."""
    missed = [
        sum(row.missed_deadlines for row in one.rows.get(PROBE, ())) / max(1, len(one.rows.get(PROBE, ())))
        for one in (before, after)
    ]
    return Burden(
        {
            name: paired_difference(after.availability(name), before.availability(name))
            for name in FUNCTIONS
            if after.availability(name)
        },
        paired_difference(after.delays(), before.delays()),
        missed[1] - missed[0],
        cost,
    )


def less(before: Situation, after: Situation, threats: Mapping[str, Threat], matrix: Matrix) -> Estimate:
    """Points a year that ``after`` has less than ``before``."""
    return removed(before.losses(threats, matrix), after.losses(threats, matrix))


def shown(before: Situation, after: Situation, threats: Mapping[str, Threat], matrix: Matrix) -> bool:
    """Whether the seeds show a gain: the sign test over those that differ, at 5 %, which takes six or more."""
    first, second = before.losses(threats, matrix), after.losses(threats, matrix)
    gains = [first[seed] - second[seed] for seed in first]
    return sum(gains) > 0 and sign_test(gains, 1e-12) <= 0.05


# -- which requirements are at work ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Posture:
    """What was found at work in each zone of a quiet run, at every look; and what stands in for the rest."""

    at_work: dict[str, frozenset[str]]
    stands_in: dict[str, str]

    def achieved(self, zone: str) -> Vector:
        """SL-A of a zone."""
        return level_where(lambda name: name in self.at_work[zone] or name in self.stands_in)

    def missing(self, zone: str, target: Vector) -> tuple[str, ...]:
        """Requirements of ``target`` that keep the zone below it."""
        wanted = SecurityLevels(target)
        return tuple(
            name
            for name, item in catalogue().items()
            if wanted.requires(item) and name not in self.at_work[zone] and name not in self.stands_in
        )


def posture(measuring: Measuring, selection: Selection, *, duration: float = 300.0) -> Posture:
    """Run the site quietly with ``selection`` and look at which requirements are at work in each zone."""
    site = measuring.assessment.site
    head = measuring.assessment.head
    experiment = Experiment.of(
        measuring.assessment.site_name,
        selection,
        None,
        1,
        min(duration, head.duration),
        response=head.response,
    )
    found: dict[str, set[str]] = {
        zone: set(selection.requirements) - unable(site, zone) for zone in site.zones
    }

    def watch(world: World) -> None:
        def look(due: float) -> None:
            for name in selection.requirements:
                for zone, good in working(world, name).items():
                    if not good:
                        found[zone].discard(name)
            world.loop.wake(due + LEVELS_EVERY, look, due + LEVELS_EVERY)

        world.loop.wake(LEVELS_EVERY, look, LEVELS_EVERY)

    run(experiment, observe=watch)
    return Posture(
        {zone: frozenset(names) for zone, names in found.items()}, stood_for(selection.compensating)
    )


def unable(site: Site, zone: str) -> set[str]:
    """Requirements that some asset of the zone has no means for."""
    return {one for asset in site.assets.values() if asset.zone == zone for one in asset.cannot}


def capabilities(site: Site) -> dict[str, Vector]:
    """SL-C of every zone."""
    return {zone: capability(site, zone) for zone in site.zones}
