"""The search for sets of controls that no other beats: runs of what NSGA-II proposes, and of a choice's neighbors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from controls.catalogue import FOUNDATIONAL, SecurityLevels
from controls.compensating import compensating as countermeasures
from controls.profiles import enforced, with_needs
from controls.selection import Selection, select
from devices.crew import Method
from devices.reliability import HumanModel
from lab.campaign import Pool, complete, runs_of
from results.rows import Row
from results.store import RowStore
from results.tradeoff import (
    OBJECTIVES,
    Change,
    Point,
    availability_lost,
    balanced,
    change,
    delay,
    front,
    harm,
)
from scenarios.emergencies import EMERGENCIES
from scenarios.experiment import Experiment
from scenarios.model import load_scenario
from testbed.errors import OtlabError
from testbed.figures import load_figures

#: How often the choice may move to a better neighbor before it is left at that.
ROUNDS: Final = 3


@dataclass(frozen=True, slots=True)
class Choice:
    """One set: a level for each FR and compensating countermeasures."""

    levels: tuple[int, ...]
    compensating: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What tables call it."""
        return " + ".join([str(SecurityLevels(self.levels)), *self.compensating])  # type: ignore[arg-type]

    def selection(self) -> Selection:
        """What it puts in force; a requirement that stands on one that is not there is left out."""
        wanted = enforced(SecurityLevels(self.levels))  # type: ignore[arg-type]
        chosen = [one for one in wanted if set(with_needs((one,))) <= set(wanted)]
        return select(SecurityLevels.uniform(0), chosen, name=self.name, compensating=self.compensating)

    def cost(self, prices: Mapping[str, float]) -> float:
        """In the units of ``burden.requirement``."""
        return prices["burden.requirement"] * len(self.selection().requirements) + prices[
            "burden.compensating"
        ] * len(self.compensating)

    def neighbors(self) -> Iterator[tuple[str, Choice]]:
        """Every set that is one step away, and the step's name."""
        for at, fr in enumerate(FOUNDATIONAL):
            for level in (self.levels[at] - 1, self.levels[at] + 1):
                if 0 <= level <= 4:
                    moved = (*self.levels[:at], level, *self.levels[at + 1 :])
                    verb = "drop" if level < self.levels[at] else "add"
                    yield f"{verb} {fr} {self.levels[at]} to {level}", replace(self, levels=moved)
        for one in countermeasures():
            if one in self.compensating:
                rest = tuple(name for name in self.compensating if name != one)
                yield f"drop {one}", replace(self, compensating=rest)
            else:
                yield f"add {one}", replace(self, compensating=_ordered((*self.compensating, one)))


def _ordered(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(one for one in countermeasures() if one in names)


@dataclass(frozen=True, slots=True)
class Problem:
    """What sets are judged by: attacks, emergencies, seeds and the length of a run (s)."""

    site: str
    attacks: tuple[str, ...]
    emergencies: tuple[str, ...]
    seeds: tuple[int, ...]
    duration: float
    human: HumanModel = "spar-h"
    mfa: Method = "totp"
    overrides: tuple[tuple[str, float], ...] = ()

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of what is made small; without an emergency nothing tells of the operators' delay."""
        return tuple(name for name in OBJECTIVES if self.emergencies or name != "operators' delay")

    def experiments(self, choice: Choice) -> list[Experiment]:
        """The runs of one set: without an attack, each attack, each emergency, for every seed."""
        selection = choice.selection()
        return [
            Experiment.of(
                self.site,
                selection,
                scenario,
                seed,
                self.duration,
                self.overrides,
                human=self.human,
                mfa=self.mfa,
            )
            for scenario in (None, *self.attacks, *self.emergencies)
            for seed in self.seeds
        ]


def emergencies_of(site: str) -> tuple[str, ...]:
    """The shipped emergencies of a shipped site."""
    return tuple(name for name in EMERGENCIES if load_scenario(name).site == site)


@dataclass(slots=True)
class Search:
    """Measures sets, each once; ``progress(done, all)`` is told of runs."""

    problem: Problem
    store: RowStore
    pool: Pool
    progress: Callable[[int], Callable[[], None]]
    points: dict[Choice, Point]

    def measure(self, choices: Sequence[Choice]) -> list[Point]:
        """The points of ``choices``; all that is missing is run together, so that every core has something to do."""
        missing = [one for one in dict.fromkeys(choices) if one not in self.points]
        wanted = [run for one in missing for run in self.problem.experiments(one)]
        if wanted:
            rows = complete(wanted, self.store, self.pool, self.progress(runs_of(wanted)))
            size = len(wanted) // len(missing)
            for number, one in enumerate(missing):
                self.points[one] = self._point(one, rows[number * size : (number + 1) * size])
        return [self.points[one] for one in choices]

    def _point(self, choice: Choice, rows: Sequence[Row]) -> Point:
        seeds, prices = self.problem.seeds, load_figures().with_overrides(dict(self.problem.overrides))
        names = (None, *self.problem.attacks, *self.problem.emergencies)
        by_name = {
            name: dict(zip(seeds, rows[at * len(seeds) :], strict=False)) for at, name in enumerate(names)
        }
        quiet = by_name[None]
        harms = {
            name: {seed: harm(by_name[name][seed], quiet[seed]) for seed in seeds}
            for name in self.problem.attacks
        }
        delays = [by_name[name] for name in self.problem.emergencies]
        cost = choice.cost(prices)
        found = {
            "risk": {seed: _mean([one[seed] for one in harms.values()]) for seed in seeds},
            "availability lost": {seed: availability_lost(quiet[seed]) for seed in seeds},
            "operators' delay": {seed: _mean([delay(one[seed]) for one in delays]) for seed in seeds},
            "cost": dict.fromkeys(seeds, cost),
        }
        return Point(
            choice.name,
            {name: found[name] for name in self.problem.objectives},
            {name: _mean(list(one.values())) for name, one in harms.items()},
        )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


@dataclass(frozen=True, slots=True)
class Found:
    """What a search comes to: all points, those that none beats, the balanced one of them, and steps from it."""

    points: tuple[tuple[Choice, Point], ...]
    front: tuple[Point, ...]
    chosen: Choice | None
    changes: tuple[Change, ...]


def search(search: Search, trials: int, batch: int, seed: int, limits: Mapping[str, float]) -> Found:
    """Measure the five levels, ``trials`` sets of NSGA-II in generations of ``batch``, and the choice's neighbors.

    Raises OtlabError where optuna is not installed, or for a limit of something that is not an objective.
    """
    for name in limits:
        if name not in search.problem.objectives:
            raise OtlabError(f"no objective {name!r}; there are {', '.join(search.problem.objectives)}")
    _explore(search, trials, batch, seed)
    by_key = {point.key: choice for choice, point in search.points.items()}
    chosen: Choice | None = None
    for _ in range(ROUNDS):
        best = front(search.points.values())
        point = balanced(best, limits)
        if point is None or by_key[point.key] == chosen:
            break
        chosen = by_key[point.key]
        search.measure([one for _, one in chosen.neighbors()])
        by_key = {point.key: choice for choice, point in search.points.items()}
    best = front(search.points.values())
    changes = [] if chosen is None else [_step(search, chosen, step, one) for step, one in chosen.neighbors()]
    return Found(tuple(search.points.items()), tuple(best), chosen, tuple(changes))


def _step(search: Search, before: Choice, step: str, after: Choice) -> Change:
    ours, theirs = after.selection(), before.selection()
    names = [
        one
        for one in (*theirs.requirements, *ours.requirements)
        if (one in ours.requirements) != (one in theirs.requirements)
    ]
    return change(step, search.points[after], search.points[before], names)


def _explore(search: Search, trials: int, batch: int, seed: int) -> None:
    try:
        import optuna
    except ImportError:
        raise OtlabError("trade-offs need the extra: pip install 'otlab[tradeoff]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space: dict[str, Any] = {fr: optuna.distributions.IntDistribution(0, 4) for fr in FOUNDATIONAL}
    space |= {one: optuna.distributions.CategoricalDistribution((False, True)) for one in countermeasures()}
    study = optuna.create_study(
        directions=["minimize"] * len(search.problem.objectives),
        sampler=optuna.samplers.NSGAIISampler(population_size=batch, seed=seed),
    )
    for level in range(5):
        study.enqueue_trial(dict.fromkeys(FOUNDATIONAL, level) | dict.fromkeys(countermeasures(), False))
    left = 5 + trials
    while left > 0:
        asked = [study.ask(space) for _ in range(min(batch, left))]
        left -= len(asked)
        choices = [
            Choice(
                tuple(int(trial.params[fr]) for fr in FOUNDATIONAL),
                tuple(one for one in countermeasures() if trial.params[one]),
            )
            for trial in asked
        ]
        for trial, point in zip(asked, search.measure(choices), strict=True):
            study.tell(trial, [point.mean(name) for name in search.problem.objectives])


def as_data(problem: Problem, found: Found) -> str:
    """All of it as JSON: the problem, every point with its values by seed, the front, and the steps."""
    document = {
        "problem": asdict(problem),
        "objectives": {name: OBJECTIVES[name] for name in problem.objectives},
        "points": [
            {
                "name": point.key,
                "levels": dict(zip(FOUNDATIONAL, choice.levels, strict=True)),
                "compensating": list(choice.compensating),
                "requirements": list(choice.selection().requirements),
                "values": {
                    name: {str(seed): v for seed, v in by.items()} for name, by in point.values.items()
                },
                "harm": dict(point.harm),
            }
            for choice, point in found.points
        ],
        "front": [point.key for point in found.front],
        "chosen": None if found.chosen is None else found.chosen.name,
        "steps": [asdict(one) for one in found.changes],
    }
    return json.dumps(document, indent=1, sort_keys=True) + "\n"
