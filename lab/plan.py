"""A campaign as its file describes it: axes, and a design that says which points of them are run.

    name: what-mfa-costs
    scenarios: [unauthorized-write, none]
    levels: [0, 2, "IAC=4,UC=2", ours.yaml]
    figures: {login.totp.mean: [8, 13, 30]}
    seeds: 20
    design: {kind: factorial}

Every arm runs every seed, so that arms share their luck and differ by what they are about.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from controls.catalogue import FOUNDATIONAL, SecurityLevels
from controls.profiles import dependents, with_needs
from controls.selection import Selection, load_selection, select, spread
from devices.crew import Method
from devices.reliability import HumanModel
from results.rows import NO_ATTACK
from results.sensitivity import SobolDesign, sobol_design, subsets
from scenarios.actions import check_against
from scenarios.attackers import profile_of
from scenarios.experiment import Experiment, site_of
from scenarios.model import load_scenario
from testbed.document import Document, Route, load
from testbed.errors import OtlabError
from testbed.figures import load_figures
from testbed.site import Name, Text


class Range(Document):
    """A number of the table of figures, from ``low`` to ``high`` in its unit."""

    low: float
    high: float


class Factorial(Document):
    """Every combination of the axes' values."""

    kind: Literal["factorial"]


class OneAtATime(Document):
    """The first value of every axis together, and then each other value alone; ranges at both their ends."""

    kind: Literal["one_at_a_time"]


class LatinHypercube(Document):
    """``points`` combinations that spread evenly over all axes at once; ``seed`` chooses which."""

    kind: Literal["latin_hypercube"]
    points: Annotated[int, Field(ge=2, le=100_000)]
    seed: int = 0


class Sobol(Document):
    """Saltelli's scheme over the ranges of figures, for sensitivity indices; other axes have one value each."""

    kind: Literal["sobol"]
    points: Annotated[int, Field(ge=2, le=65_536)]
    seed: int = 0


class Paired(Document):
    """Each of ``toggles`` (requirements or whole FRs) on and off, the rest as in the first of ``levels``."""

    kind: Literal["paired"]
    toggles: Annotated[tuple[str, ...], Field(min_length=1)]


class Shapley(Document):
    """Every subset of ``parts`` (FRs unless told otherwise) at security level ``level``: 2 to the power of parts."""

    kind: Literal["shapley"]
    level: Annotated[int, Field(ge=1, le=4)]
    parts: tuple[str, ...] = FOUNDATIONAL


Design = Annotated[
    Factorial | OneAtATime | LatinHypercube | Sobol | Paired | Shapley, Field(discriminator="kind")
]


class Plan(Document):
    """A campaign's file. ``seeds`` is how many, or which; ``duration`` in s; ``none`` is a scenario: no attack."""

    name: Name
    title: str = ""
    sites: Annotated[tuple[Text, ...], Field(min_length=1)] = ("water",)
    scenarios: Annotated[tuple[Text, ...], Field(min_length=1)]
    attackers: tuple[Name | None, ...] = (None,)
    levels: tuple[int | Text, ...] = (0,)
    compensating: tuple[tuple[Text, ...], ...] = ((),)
    maturity: tuple[Annotated[int, Field(ge=1, le=4)] | None, ...] = (None,)
    #: how operators are modeled and with what they log in
    human: tuple[HumanModel, ...] = ("simple",)
    mfa: tuple[Method, ...] = ("totp",)
    figures: dict[Text, Annotated[tuple[float, ...], Field(min_length=1)] | Range] = Field(
        default_factory=dict
    )
    seeds: Annotated[int, Field(ge=1)] | Annotated[tuple[int, ...], Field(min_length=1)] = 6
    duration: Annotated[float, Field(ge=60)] = 2400.0
    design: Design = Factorial(kind="factorial")

    def problems(self) -> Iterator[tuple[Route, str]]:
        table = load_figures()
        for key, values in self.figures.items():
            ends = (values.low, values.high) if isinstance(values, Range) else values
            for value in ends:
                try:
                    table.with_overrides({key: value})
                except OtlabError as error:
                    yield ("figures", key), str(error)
            ranged = isinstance(values, Range)
            if ranged and self.design.kind in ("factorial", "paired", "shapley"):
                yield ("figures", key), f"a range has no values for a {self.design.kind} design: list some"
        if isinstance(self.design, Sobol):
            yield from self._sobol_problems()
        if isinstance(self.design, Paired | Shapley):
            key = "toggles" if isinstance(self.design, Paired) else "parts"
            for number, part in enumerate(getattr(self.design, key)):
                try:
                    spread((part,))
                except OtlabError as error:
                    yield ("design", key, number), str(error)
        for number, attacker in enumerate(self.attackers):
            try:
                if attacker is not None:
                    profile_of(attacker, table)
            except OtlabError as error:
                yield ("attackers", number), str(error)

    def _sobol_problems(self) -> Iterator[tuple[Route, str]]:
        assert isinstance(self.design, Sobol)
        if self.design.points & (self.design.points - 1):
            yield ("design", "points"), "a power of two, which a Sobol sequence is balanced for"
        if not any(isinstance(one, Range) for one in self.figures.values()):
            yield ("figures",), "a sobol design samples ranges, as in {low: 5, high: 30}; there is none"
        axes = ("sites", "scenarios", "attackers", "levels", "compensating", "maturity", "human", "mfa")
        for axis in axes:
            if len(getattr(self, axis)) > 1:
                yield (axis,), "a sobol design varies figures only: one value here"

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The run seeds: 1 to n where a number is given."""
        return tuple(range(1, self.seeds + 1)) if isinstance(self.seeds, int) else self.seeds


@dataclass(frozen=True, slots=True)
class Arm:
    """One point of the design: what is in force and who attacks where; ``marks`` say which part of the design."""

    site: str
    scenario: str | None
    attacker: str | None
    selection: Selection
    overrides: tuple[tuple[str, float], ...]
    marks: tuple[str, ...] = ()
    human: HumanModel = "simple"
    mfa: Method = "totp"

    def experiment(self, seed: int, duration: float) -> Experiment:
        """The arm's run with ``seed``."""
        return Experiment.of(
            self.site,
            self.selection,
            self.scenario,
            seed,
            duration,
            self.overrides,
            self.attacker,
            human=self.human,
            mfa=self.mfa,
        )


def load_plan(path: Path | str) -> Plan:
    """Read a campaign's file and check that its sites, scenarios and selections exist.

    Raises DocumentError with every mistake in the file, OtlabError for what the file names and is not there.
    """
    plan = load(path, Plan)
    for name in plan.sites:
        site = site_of(name)
        for scenario in plan.scenarios:
            if scenario != NO_ATTACK:
                check_against(site, load_scenario(scenario, site))
    for level in plan.levels:
        _selection(level)
    return plan


def arms(plan: Plan) -> list[Arm]:
    """The points of the design, each once, in a fixed order."""
    match plan.design:
        case Factorial():
            found = [_arm(plan, *point) for point in product(*_axes(plan))]
        case OneAtATime():
            found = _one_at_a_time(plan)
        case LatinHypercube():
            found = _latin_hypercube(plan, plan.design)
        case Sobol():
            found = _sobol(plan, plan.design)
        case Paired():
            found = _paired(plan, plan.design)
        case Shapley():
            found = _subsets(plan, plan.design)
    # A scenario that nobody carries out is the same whoever attacks.
    return list(dict.fromkeys(found))


def experiments(plan: Plan) -> list[Experiment]:
    """Every run of the plan: arms, and for each the seeds."""
    return [arm.experiment(seed, plan.duration) for arm in arms(plan) for seed in plan.seed_list]


def sobol_of(plan: Plan) -> SobolDesign:
    """The points in the unit cube of a plan with a sobol design, over its ranges in the file's order."""
    assert isinstance(plan.design, Sobol)
    names = [key for key, values in plan.figures.items() if isinstance(values, Range)]
    return sobol_design(names, plan.design.points, plan.design.seed)


# -- axes --------------------------------------------------------------------------------------------------------


def _axes(plan: Plan) -> list[tuple[Any, ...]]:
    """The values of each axis in the order of ``_arm``'s arguments."""
    figures = [
        tuple((key, value) for value in ((values.low, values.high) if isinstance(values, Range) else values))
        for key, values in plan.figures.items()
    ]
    return [
        plan.sites,
        plan.scenarios,
        plan.attackers,
        plan.levels,
        plan.compensating,
        plan.maturity,
        plan.human,
        plan.mfa,
        *figures,
    ]


def _selection(level: int | str) -> Selection:
    if isinstance(level, int):
        return select(SecurityLevels.uniform(level))
    return select(SecurityLevels.parse(level)) if "=" in level else load_selection(level)


def _arm(
    plan: Plan,
    site: str,
    scenario: str,
    attacker: str | None,
    level: int | str | Selection,
    compensating: tuple[str, ...],
    maturity: int | None,
    human: HumanModel,
    mfa: Method,
    *figures: tuple[str, float],
    marks: tuple[str, ...] = (),
) -> Arm:
    chosen = level if isinstance(level, Selection) else _selection(level)
    several = [key for key, values in plan.figures.items() if isinstance(values, Range) or len(values) > 1]
    # Rows are told apart by the profile's name, so that it says what figures it stands for.
    told = "".join(f", {key}={value:g}" for key, value in figures if key in several)
    if len(plan.compensating) > 1 and compensating:
        told = f", {' + '.join(compensating)}{told}"
    # Likewise for how people are and what they carry.
    told += f", {human}" * (len(plan.human) > 1) + f", {mfa}" * (len(plan.mfa) > 1)
    selection = replace(
        chosen,
        name=chosen.name + told,
        compensating=(*chosen.compensating, *compensating),
        maturity=maturity if maturity is not None else chosen.maturity,
    )
    nobody = scenario == NO_ATTACK
    return Arm(
        site,
        None if nobody else scenario,
        None if nobody else attacker,
        selection,
        tuple(sorted(figures)),
        marks,
        human,
        mfa,
    )


def _one_at_a_time(plan: Plan) -> list[Arm]:
    axes = _axes(plan)
    base = [axis[0] for axis in axes]
    found = [_arm(plan, *base, marks=("base",))]
    for number, axis in enumerate(axes):
        for value in axis[1:]:
            found.append(_arm(plan, *base[:number], value, *base[number + 1 :], marks=(str(number),)))
    return found


def _latin_hypercube(plan: Plan, design: LatinHypercube) -> list[Arm]:
    import numpy as np
    from scipy.stats import qmc

    axes, ranges = _axes(plan), list(plan.figures.items())
    fixed = len(axes) - len(ranges)
    points = qmc.LatinHypercube(len(axes), rng=np.random.default_rng(design.seed)).random(design.points)
    found = []
    for point in points:
        values: list[Any] = []
        for number, (share, axis) in enumerate(zip(point, axes, strict=True)):
            spec = ranges[number - fixed][1] if number >= fixed else None
            if isinstance(spec, Range):
                key = ranges[number - fixed][0]
                values.append((key, spec.low + float(share) * (spec.high - spec.low)))
            else:
                values.append(axis[min(int(share * len(axis)), len(axis) - 1)])
        found.append(_arm(plan, *values))
    return found


def _sobol(plan: Plan, design: Sobol) -> list[Arm]:
    points = sobol_of(plan)
    base = [axis[0] for axis in _axes(plan)[: -len(plan.figures)]]
    found = []
    for number, point in enumerate(points.points):
        share = dict(zip(points.names, point, strict=True))
        figures = [
            (key, values.low + float(share[key]) * (values.high - values.low))
            if isinstance(values, Range)
            else (key, values[0])
            for key, values in plan.figures.items()
        ]
        found.append(_arm(plan, *base, *figures, marks=(str(number),)))
    return found


def _paired(plan: Plan, design: Paired) -> list[Arm]:
    start = _selection(plan.levels[0])
    found = []
    for toggle in design.toggles:
        # What the toggle needs is there in both arms, and what needs the toggle in neither.
        ids = spread((toggle,))
        without = {one for toggled in ids for one in (toggled, *dependents(toggled))}
        others = [one for one in with_needs((*start.requirements, *ids)) if one not in without]
        off = select(SecurityLevels.uniform(0), others, name=f"{start.name} without {toggle}")
        on = select(SecurityLevels.uniform(0), [*others, *ids], name=f"{start.name} with {toggle}")
        for state, selection in (("off", off), ("on", on)):
            for site, scenario, attacker, compensating, maturity, human, mfa, *figures in product(
                *_axes(plan)[:3], *_axes(plan)[4:]
            ):
                found.append(
                    _arm(
                        plan,
                        site,
                        scenario,
                        attacker,
                        selection,
                        compensating,
                        maturity,
                        human,
                        mfa,
                        *figures,
                        marks=(toggle, state),
                    )
                )
    return found


def _subsets(plan: Plan, design: Shapley) -> list[Arm]:
    whole = _selection(design.level)
    found = []
    for members in subsets(design.parts):
        ids = set(spread(sorted(members))) & set(whole.requirements)
        # A control that stands on one of another part does nothing without it.
        chosen = [one for one in whole.requirements if one in ids and set(with_needs((one,))) <= ids]
        named = "+".join(part for part in design.parts if part in members) or "none"
        selection = select(SecurityLevels.uniform(0), chosen, name=f"SL {design.level} {named}")
        for point in product(*_axes(plan)[:3], *_axes(plan)[4:]):
            site, scenario, attacker, compensating, maturity, human, mfa, *figures = point
            found.append(
                _arm(
                    plan,
                    site,
                    scenario,
                    attacker,
                    selection,
                    compensating,
                    maturity,
                    human,
                    mfa,
                    *figures,
                    marks=tuple(sorted(members)),
                )
            )
    return found
