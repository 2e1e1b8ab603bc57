"""Two assessments compared, and one held against limits: what a periodic review and a pipeline ask."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controls.catalogue import FOUNDATIONAL
from lab.assess.documents import FORMAT, REPORT, approved, trail_breaks
from lab.assess.model import Assessment
from lab.assess.steps import STEPS, state_of
from testbed.errors import OtlabError


def load_report(path: Path) -> dict[str, Any]:
    """The report of an assessment's folder, or a report's file. Raises OtlabError for anything else."""
    file = path / REPORT if path.is_dir() else path
    try:
        found = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise OtlabError(
            f"{file} cannot be read: {error.strerror or error}; otlab assess next {path} --all"
        ) from None
    except ValueError:
        raise OtlabError(f"{file} is no report of an assessment") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise OtlabError(f"{file} is no report of an assessment in format {FORMAT}")
    return found


@dataclass(frozen=True, slots=True)
class Change:
    """One difference; ``worse`` says whether it is for the worse, None where that cannot be told."""

    what: str
    where: str
    before: Any
    now: Any
    worse: bool | None


def review(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """What changed from one assessment to a later one, the bad first."""
    found = [
        *_levels(old, new),
        *_controls(old, new),
        *_threats(old, new),
        *_risks(old, new),
        *_places(old, new),
        *_vulnerabilities(old, new),
        *_decisions(old, new),
    ]
    return sorted(found, key=lambda one: {True: 0, None: 1, False: 2}[one.worse])


def _result(report: Mapping[str, Any], step: str) -> Mapping[str, Any]:
    result: Mapping[str, Any] = report["steps"][step]["result"]
    return result


def point(report: Mapping[str, Any]) -> tuple[str, float, float | None, float | None, int, int]:
    """What the trend shows of an assessment: date, points a year with their interval, highest rank, largest gap."""
    loss, measures = _result(report, "residual")["loss"], _result(report, "countermeasures")
    gaps = [gap for kind in ("zones", "conduits") for one in measures[kind].values() for gap in one["gap"]]
    rank = _result(report, "residual")["rank"]
    return report["date"], loss["value"] or 0.0, loss["low"], loss["high"], rank, max(gaps, default=0)


def _levels(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    before, now = _result(old, "countermeasures")["zones"], _result(new, "countermeasures")["zones"]
    for zone in [name for name in now if name in before]:
        for key, label in (("sl_a", "SL-A"), ("sl_t", "SL-T"), ("sl_c", "SL-C")):
            for fr, one, other in zip(FOUNDATIONAL, before[zone][key], now[zone][key], strict=True):
                if one != other:
                    worse = None if key == "sl_t" else other < one
                    yield Change(f"{label} {fr}", zone, one, other, worse)
    one, other = (_result(r, "countermeasures")["maturity"] for r in (old, new))
    if one != other:
        yield Change("maturity level", "site", one, other, None if None in (one, other) else other < one)


def _controls(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for key in ("requirements", "compensating"):
        before, now = (_result(r, "countermeasures")["selection"][key] for r in (old, new))
        for name in before:
            if name not in now:
                yield Change("control lost", name, "in force", "gone", True)
        for name in now:
            if name not in before:
                yield Change("control added", name, "not there", "in force", False)


def _threats(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    before, now = _result(old, "threats")["threats"], _result(new, "threats")["threats"]
    risks = _result(new, "residual")["threats"]
    tolerable = new["matrix"]["tolerable"]
    for name, one in now.items():
        if name not in before:
            rank = risks[name]["decided"]
            yield Change("new threat", name, "not assessed", f"risk {rank}", rank > tolerable)
        elif one["attempts"] != before[name]["attempts"]:
            more = one["attempts"] > before[name]["attempts"]
            yield Change("attempts a year", name, before[name]["attempts"], one["attempts"], more)
    for name in before:
        if name not in now:
            yield Change("threat no longer assessed", name, "assessed", "gone", None)


def _risks(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    before, now = _result(old, "residual")["threats"], _result(new, "residual")["threats"]
    for name in [one for one in now if one in before]:
        one, other = before[name]["decided"], now[name]["decided"]
        if one != other:
            yield Change("residual risk", name, one, other, other > one)
        elif _apart(before[name]["loss"], now[name]["loss"]):
            one, other = before[name]["loss"]["value"], now[name]["loss"]["value"]
            yield Change("expected loss (points a year)", name, round(one, 4), round(other, 4), other > one)


def _apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two intervals do not meet; a number without one is its own interval."""
    low = [(x["value"] if x["low"] is None else x["low"]) or 0.0 for x in (one, other)]
    high = [(x["value"] if x["high"] is None else x["high"]) or 0.0 for x in (one, other)]
    return high[0] < low[1] or high[1] < low[0]


def _places(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    before, now = _result(old, "suc")["assets"], _result(new, "suc")["assets"]
    for name, one in now.items():
        if name not in before:
            yield Change("new asset", name, "not there", one["zone"], None)
        elif one["zone"] != before[name]["zone"]:
            yield Change("asset moved", name, before[name]["zone"], one["zone"], None)
        elif one["product"] != before[name]["product"]:
            yield Change("asset changed", name, before[name]["product"], one["product"], None)
    for name, one in before.items():
        if name not in now:
            yield Change("asset gone", name, one["zone"], "not there", None)


def _vulnerabilities(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    before, now = (
        {f"{one['where']}: {one['what']}" for one in _result(r, "vulnerabilities")["vulnerabilities"]}
        for r in (old, new)
    )
    for text in sorted(now - before):
        yield Change("new vulnerability", text, "not known", "known", True)
    for text in sorted(before - now):
        yield Change("vulnerability gone", text, "known", "gone", False)


def _decisions(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    before, now = _result(old, "residual")["decisions"], _result(new, "residual")["decisions"]
    for name in [one for one in now if one in before]:
        if before[name]["do"] != now[name]["do"]:
            yield Change("decision", name, before[name]["do"], now[name]["do"], None)


# -- the gate ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limits:
    """What an assessment must keep: ranks, gaps by FR, points a year; and whether it must be whole and approved.

    ``risk`` None takes what the matrix calls tolerable.
    """

    risk: int | None = None
    gap: int | None = None
    maturity_gap: int | None = None
    loss: float | None = None
    complete: bool = False
    approval: bool = False


def passed_limits(assessment: Assessment, limits: Limits) -> list[str]:
    """What passes a limit, a sentence each; [] for nothing. A stale or missing step always does."""
    states = {step: state_of(assessment, step) for step in STEPS}
    found = [
        f"{step.title} (ZCR {step.zcr}) is {state}; otlab assess next {assessment.folder} --all"
        for step, (state, _) in states.items()
        if state in ("to do", "stale")
    ]
    if found:
        return found
    report = load_report(assessment.folder)
    tolerable = limits.risk if limits.risk is not None else report["matrix"]["tolerable"]
    residual, measures = _result(report, "residual"), _result(report, "countermeasures")
    for name, one in residual["decisions"].items():
        if one["rank"] > tolerable and one["do"] not in ("accept", "transfer"):
            found.append(f"residual risk of {name} is {one['rank']}, above {tolerable}")
    if limits.gap is not None:
        for kind in ("zones", "conduits"):
            for place, one in measures[kind].items():
                for fr, gap in zip(FOUNDATIONAL, one["gap"], strict=True):
                    if gap > limits.gap:
                        found.append(f"{place}: SL-A is {gap} below SL-T in {fr}, more than {limits.gap}")
    if limits.maturity_gap is not None and measures["maturity_gap"] > limits.maturity_gap:
        found.append(
            f"maturity is {measures['maturity_gap']} below its target, more than {limits.maturity_gap}"
        )
    if limits.loss is not None and (residual["loss"]["value"] or 0.0) > limits.loss:
        found.append(f"expected loss is {residual['loss']['value']:.4g} points a year, above {limits.loss:g}")
    if limits.complete:
        found += [text for _, texts in states.values() for text in texts if "residual risk" not in text]
    if limits.approval:
        approval = approved(assessment)
        if approval is None:
            found.append("the specification is not approved")
        elif not approval["valid"]:
            found.append(f"the specification has changed since {approval['by']} approved it")
    found += [
        f"audit.jsonl: line {number} does not follow from the one before"
        for number in trail_breaks(assessment.folder)
    ]
    return found
