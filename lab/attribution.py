"""What a campaign says about its parts: Shapley shares, Sobol indices, paired differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lab.plan import Paired, Plan, Shapley, Sobol, arms, sobol_of
from results.query import values_of
from results.rows import Row
from results.sensitivity import shapley_intervals, sobol_indices
from results.statistics import Estimate, mean_interval
from testbed.errors import OtlabError


def attributed(plan: Plan, rows: Sequence[Row], metric: str) -> Iterator[str]:
    """Lines that say how much each part of the plan's design does to ``metric``; rows in the plan's order.

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
            yield from _shapley(plan, plan.design, by_arm, metric)
        case Sobol():
            yield from _sobol(plan, by_arm, metric)
        case Paired():
            yield from _paired(plan, plan.design, by_arm, metric)
        case _:
            raise OtlabError(
                f"a {plan.design.kind} design has no parts to attribute to: use shapley, sobol or paired"
            )


def _shapley(plan: Plan, design: Shapley, by_arm: Sequence[Sequence[float]], metric: str) -> Iterator[str]:
    groups: dict[tuple[object, ...], dict[frozenset[str], dict[int, float]]] = {}
    for arm, numbers in zip(arms(plan), by_arm, strict=True):
        key = (arm.site, arm.scenario, arm.attacker)
        groups.setdefault(key, {})[frozenset(arm.marks)] = dict(zip(plan.seed_list, numbers, strict=True))
    for (site, scenario, attacker), outcomes in groups.items():
        who = f" by {attacker}" if attacker else ""
        yield f"{site}, {scenario or 'no attack'}{who}: share of the change of {metric} by SL {design.level}"
        shares = shapley_intervals(outcomes, design.parts)
        for part, share in sorted(shares.items(), key=lambda item: -abs(item[1].value or 0)):
            yield f"  {part:6} {_told(share)}"


def _sobol(plan: Plan, by_arm: Sequence[Sequence[float]], metric: str) -> Iterator[str]:
    means = [sum(numbers) / len(numbers) for numbers in by_arm]
    points = sobol_of(plan)
    if len(means) != len(points.points):
        raise OtlabError("two points of the design are the same run: widen the ranges")
    yield f"share of the variance of {metric}: alone, and with all that it does together with others"
    found = sobol_indices(points, means)
    for name, (first, total) in sorted(found.items(), key=lambda item: -(item[1][1].value or 0)):
        yield f"  {name:32} {_told(first)}   {_told(total)}"


def _paired(plan: Plan, design: Paired, by_arm: Sequence[Sequence[float]], metric: str) -> Iterator[str]:
    pairs: dict[str, dict[str, list[float]]] = {toggle: {"off": [], "on": []} for toggle in design.toggles}
    for arm, numbers in zip(arms(plan), by_arm, strict=True):
        toggle, state = arm.marks
        pairs[toggle][state] += numbers
    yield f"{metric}: change by each, paired by seed"
    for toggle, both in pairs.items():
        changes = [on - off for on, off in zip(both["on"], both["off"], strict=True)]
        yield f"  {toggle:16} {_told(mean_interval(changes))}"


def _told(one: Estimate) -> str:
    if one.value is None:
        return "not known"
    interval = "" if one.low is None or one.high is None else f" [{one.low:+.4g}, {one.high:+.4g}]"
    return f"{one.value:+.4g}{interval}"
