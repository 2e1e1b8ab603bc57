"""What a campaign says about its parts: Shapley shares, Sobol indices, paired differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lab.plan import Paired, Plan, Shapley, Sobol, arms, sobol_of
from results.query import values_of
from results.rows import Row
from results.sensitivity import shapley_intervals, sobol_indices
from results.statistics import Estimate, mean_interval
from testbed.errors import OtlabError


@dataclass(frozen=True, slots=True)
class Attribution:
    """How much each part does to a metric; ``beside`` is a second number of each, where the design gives one."""

    title: str
    parts: Mapping[str, Estimate]
    beside: Mapping[str, Estimate] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """As text, what matters most first."""
        yield self.title
        width = max((len(name) for name in self.parts), default=0)
        order = sorted(self.parts.items(), key=lambda item: -abs(item[1].value or 0))
        for name, one in order:
            more = f"   {_told(self.beside[name])}" if name in self.beside else ""
            yield f"  {name:{width}} {_told(one)}{more}"


def attributed(plan: Plan, rows: Sequence[Row], metric: str) -> list[Attribution]:
    """How much each part of the plan's design does to ``metric``; rows in the plan's order.

    Raises OtlabError for a design without parts, or where a run has no value of the metric.
    """
    values = values_of(rows, metric)
    if any(value is None for value in values):
        raise OtlabError(f"{metric} has no value in some runs (censored or absent): choose another")
    numbers = [value for value in values if value is not None]
    seeds = plan.seed_list
    by_arm = [numbers[at : at + len(seeds)] for at in range(0, len(numbers), len(seeds))]
    match plan.design:
        case Shapley():
            return list(_shapley(plan, plan.design, by_arm, metric))
        case Sobol():
            return [_sobol(plan, by_arm, metric)]
        case Paired():
            return [_paired(plan, plan.design, by_arm, metric)]
        case _:
            raise OtlabError(
                f"a {plan.design.kind} design has no parts to attribute to: use shapley, sobol or paired"
            )


def _shapley(
    plan: Plan, design: Shapley, by_arm: Sequence[Sequence[float]], metric: str
) -> Iterator[Attribution]:
    groups: dict[tuple[object, ...], dict[frozenset[str], dict[int, float]]] = {}
    for arm, numbers in zip(arms(plan), by_arm, strict=True):
        key = (arm.site, arm.scenario, arm.attacker)
        groups.setdefault(key, {})[frozenset(arm.marks)] = dict(zip(plan.seed_list, numbers, strict=True))
    for (site, scenario, attacker), outcomes in groups.items():
        who = f" by {attacker}" if attacker else ""
        title = (
            f"{site}, {scenario or 'no attack'}{who}: share of the change of {metric} by SL {design.level}"
        )
        yield Attribution(title, shapley_intervals(outcomes, design.parts))


def _sobol(plan: Plan, by_arm: Sequence[Sequence[float]], metric: str) -> Attribution:
    means = [sum(numbers) / len(numbers) for numbers in by_arm]
    points = sobol_of(plan)
    if len(means) != len(points.points):
        raise OtlabError("two points of the design are the same run: widen the ranges")
    found = sobol_indices(points, means)
    return Attribution(
        f"share of the variance of {metric}: with all that it does together with others, and alone",
        {name: total for name, (_, total) in found.items()},
        {name: first for name, (first, _) in found.items()},
    )


def _paired(plan: Plan, design: Paired, by_arm: Sequence[Sequence[float]], metric: str) -> Attribution:
    pairs: dict[str, dict[str, list[float]]] = {toggle: {"off": [], "on": []} for toggle in design.toggles}
    for arm, numbers in zip(arms(plan), by_arm, strict=True):
        toggle, state = arm.marks
        pairs[toggle][state] += numbers
    return Attribution(
        f"{metric}: change by each, paired by seed",
        {
            toggle: mean_interval([on - off for on, off in zip(both["on"], both["off"], strict=True)])
            for toggle, both in pairs.items()
        },
    )


def _told(one: Estimate) -> str:
    if one.value is None:
        return "not known"
    interval = "" if one.low is None or one.high is None else f" [{one.low:+.4g}, {one.high:+.4g}]"
    return f"{one.value:+.4g}{interval}"
