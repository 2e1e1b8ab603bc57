"""The steps of IEC 62443-3-2 (ZCR 1 to 7) as a table: what each reads, what it needs before, and what it does.

A step's result is kept with a digest of all that it was made from. Where that no longer matches, the step is stale and
is done again, which costs only the runs that changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from controls.catalogue import FOUNDATIONAL, SecurityLevels, catalogue
from controls.compensating import compensating
from controls.levels import Vector
from controls.profiles import CONTROLS, enforced, with_needs
from controls.selection import Selection, select
from lab.assess.measure import (
    Measuring,
    Situation,
    burden,
    capabilities,
    less,
    posture,
    shown,
    unable,
)
from lab.assess.model import (
    CONTROLS_FILE,
    Assessment,
    Judgement,
    Threat,
    findings,
)
from lab.campaign import code_digest
from results.risk import Risk
from results.statistics import mean_interval
from results.store import canonical, save_text
from testbed.errors import OtlabError

Result = dict[str, Any]
#: done; open: something is for people to fill in or decide; stale: made from what has changed since
State = Literal["to do", "open", "stale", "done"]


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its requirements, the files and earlier steps that it is made from, and its work."""

    name: str
    zcr: str
    title: str
    files: tuple[str, ...]
    after: tuple[str, ...]
    work: Callable[[Measuring, Mapping[str, Result]], Result]
    measures: bool = False


# -- 1 to 4 ------------------------------------------------------------------------------------------------------


def _suc(measuring: Measuring, _: Mapping[str, Result]) -> Result:
    """ZCR 1.1: the border of the system, what is in it, and the ways in."""
    a = measuring.assessment
    site, suc = a.site, a.consideration
    empty = [
        f"suc.yaml: {key} is empty"
        for key in ("function", "intended_use", "accountable", "threat_environment")
        if not getattr(suc, key)
    ]
    empty += [
        f"suc.yaml: environment.{key} is empty"
        for key in ("physical", "logical")
        if not getattr(suc.environment, key)
    ]
    for name, point in suc.access_points.items():
        if point.at not in site.zones and point.at not in site.conduits:
            raise OtlabError(
                f"{a.folder / 'suc.yaml'}: access point {name}: the site has no zone or conduit {point.at!r}"
            )
    return {
        "open": empty,
        "assets": {
            name: {
                "zone": asset.zone,
                "kind": asset.kind,
                "address": asset.address,
                "product": " ".join(part for part in (asset.vendor, asset.product, asset.firmware) if part),
                "criticality": asset.criticality,
                "cannot": list(asset.cannot),
            }
            for name, asset in site.assets.items()
        },
        "access_points": {name: point.model_dump() for name, point in suc.access_points.items()},
    }


def _initial(measuring: Measuring, _: Mapping[str, Result]) -> Result:
    """ZCR 2.1: the worst that was seen with nothing in force, taken as certain to be tried."""
    a = measuring.assessment
    (situation,) = measuring.situations([select(SecurityLevels.uniform(0))])
    worst: dict[str, int] = dict.fromkeys(a.threats, 0)
    for name in worst:
        worst[name] = max(situation.outcomes(name, a.matrix))
    most = a.matrix.likelihoods[-1].name
    ranks = {
        name: a.matrix.ranks[a.matrix.severities[number - 1].name][-1] if number else 0
        for name, number in worst.items()
    }
    zones = {
        place: max(
            (ranks[name] for name, threat in a.threats.items() if place in (threat.hits or ())), default=0
        )
        for place in (*a.site.zones, *a.site.conduits)
    }
    return {
        "likelihood": most,
        "worst": {n: a.matrix.severities[k - 1].name if k else None for n, k in worst.items()},
        "threats": ranks,
        "places": zones,
        "rank": max(ranks.values()),
        "arms": situation.arms,
    }


def _zones(measuring: Measuring, _: Mapping[str, Result]) -> Result:
    """ZCR 3.1 to 3.6: zones and conduits, and what is not kept apart."""
    a = measuring.assessment
    found = findings(a.site)
    decided = a.places.findings
    result: Result = {"findings": {}, "open": []}
    for name, one in found.items():
        decision = decided.get(name)
        result["findings"][name] = {
            "zcr": one.zcr,
            "text": one.text,
            "decision": decision.decision if decision else None,
            "reason": decision.reason if decision else "",
        }
        if decision is None or decision.decision is None:
            result["open"].append(f"zones.yaml: findings.{name}: {one.text}; decide accept or change")
        elif decision.decision == "accept" and not decision.reason:
            result["open"].append(f"zones.yaml: findings.{name}: accepted without a reason")
        elif decision.decision == "change":
            result["open"].append(f"{name}: to be changed in the site's file, and still there: {one.text}")
    for name in (*a.site.zones, *a.site.conduits):
        place = a.places.places.get(name)
        if place is None or not place.accountable:
            result["open"].append(f"zones.yaml: places.{name}: nobody is accountable")
    for name in a.places.places:
        if name not in a.site.zones and name not in a.site.conduits:
            raise OtlabError(f"{a.folder / 'zones.yaml'}: the site has no zone or conduit {name!r}")
    return result


def _compare(measuring: Measuring, results: Mapping[str, Result]) -> Result:
    """ZCR 4.1: which zones and conduits go on to step 5."""
    tolerable = measuring.assessment.matrix.tolerable
    places = results["initial"]["places"]
    return {
        "tolerable": tolerable,
        "go_on": [name for name, rank in places.items() if rank > tolerable],
        "leave": [name for name, rank in places.items() if rank <= tolerable],
    }


# -- 5 -----------------------------------------------------------------------------------------------------------


def _threats(measuring: Measuring, _: Mapping[str, Result]) -> Result:
    """ZCR 5.1: the threats of each zone and conduit."""
    a = measuring.assessment
    places: dict[str, list[str]] = {
        place: [name for name, threat in a.threats.items() if place in (threat.hits or ())]
        for place in (*a.site.zones, *a.site.conduits)
    }
    open_ = [
        f"threats.yaml: no threat hits {place}; add one (otlab scenarios list), or say in zones.yaml, places.{place}."
        "assumptions, why there is none"
        for place, names in places.items()
        if not names and not (a.places.places.get(place) and a.places.places[place].assumptions)
    ]
    return {
        "open": open_,
        "threats": {name: threat.model_dump(mode="json") for name, threat in a.threats.items()},
        "places": places,
    }


def _vulnerabilities(measuring: Measuring, _: Mapping[str, Result]) -> Result:
    """ZCR 5.2."""
    a = measuring.assessment
    known = {*a.site.zones, *a.site.conduits, *a.site.assets}
    for one in a.vulnerabilities.vulnerabilities:
        if one.where not in known:
            raise OtlabError(f"{a.folder / 'vulnerabilities.yaml'}: the site has no {one.where!r}")
        for name in one.requirements:
            if name not in catalogue():
                raise OtlabError(f"{a.folder / 'vulnerabilities.yaml'}: {one.where}: no requirement {name!r}")
    return {"vulnerabilities": [one.model_dump(mode="json") for one in a.vulnerabilities.vulnerabilities]}


def _unmitigated(measuring: Measuring, _: Mapping[str, Result]) -> Result:
    """ZCR 5.3 to 5.5: consequence, likelihood and risk with no countermeasure counted."""
    (situation,) = measuring.situations([select(SecurityLevels.uniform(0))])
    return {**_risks(measuring.assessment, situation, "unmitigated"), "arms": situation.arms}


def _targets(measuring: Measuring, _: Mapping[str, Result]) -> Result:
    """ZCR 5.6: for each zone and conduit the lowest level with which every threat that hits it is tolerable."""
    a = measuring.assessment
    levels = [select(SecurityLevels.uniform(level)) for level in range(5)]
    situations = measuring.situations(levels, probe=True)
    found = [_risks(a, situation, "residual") for situation in situations]
    places: dict[str, Any] = {}
    for place in (*a.site.zones, *a.site.conduits):
        by_level = [one["places"][place] for one in found]
        good = [level for level, one in enumerate(by_level) if one["decided"] <= a.matrix.tolerable]
        proposed = good[0] if good else 4
        stated = a.site.zones[place].sl_t.as_tuple() if place in a.site.zones else None
        judged = a.judgements.targets.get(place)
        measured = (proposed,) * 7
        target: tuple[int, ...] = measured
        if judged is not None:
            target = judged.sl_t.as_tuple()
        elif stated is not None and a.head.targets != "measured":
            pairs = zip(measured, stated, strict=True)
            target = stated if a.head.targets == "site" else tuple(max(pair) for pair in pairs)
        places[place] = {
            "proposed": proposed,
            "reaches": bool(good),
            "not_monotonic": [level for level in range(proposed, 5) if good and level not in good],
            "by_level": by_level,
            "site": stated,
            "judged": judged.model_dump(mode="json") if judged is not None else None,
            "sl_t": target,
        }
    costs = a.costs
    higher = []
    for level, situation in enumerate(situations):
        cost = sum(costs.of_requirement(name) for name in situation.selection.requirements)
        total = situation.losses(a.threats, a.matrix)
        weight = burden(situation, situations[0], cost)
        higher.append(
            {
                "level": level,
                "requirements": len(situation.selection.requirements),
                "loss": asdict(mean_interval(list(total.values()))),
                "burden": weight.as_data(),
                "units": weight.units(costs.availability_point, costs.operator_second),
                "arms": situation.arms,
            }
        )
    return {"places": places, "levels": higher}


def _decide(measuring: Measuring, results: Mapping[str, Result]) -> Result:
    """ZCR 5.7: accept, transfer or mitigate what is above tolerable."""
    return _decided(measuring.assessment, results["unmitigated"], "unmitigated")


def _countermeasures(measuring: Measuring, results: Mapping[str, Result]) -> Result:
    """ZCR 5.8: what is in force, and the levels that it reaches; gaps of SL-T, SL-C and SL-A, and of maturity."""
    a = measuring.assessment
    selection = a.in_place
    found, can = posture(measuring, selection), capabilities(a.site)
    zones = {}
    for zone in a.site.zones:
        target = _vector(results["targets"]["places"][zone]["sl_t"])
        achieved, missing = found.achieved(zone), found.missing(zone, target)
        cannot = unable(a.site, zone)
        zones[zone] = {
            "sl_t": target,
            "sl_c": can[zone],
            "sl_a": achieved,
            "gap": [max(0, t - one) for t, one in zip(target, achieved, strict=True)],
            "gap_c": [max(0, t - one) for t, one in zip(target, can[zone], strict=True)],
            "missing": missing,
            "stood_for": {
                name: by for name, by in found.stands_in.items() if name not in found.at_work[zone]
            },
            "cannot": [_compensation(a, zone, name, selection) for name in missing if name in cannot],
        }
    conduits = {}
    for name, conduit in a.site.conduits.items():
        ends = [zones[zone]["sl_a"] for zone in conduit.between]
        target = _vector(results["targets"]["places"][name]["sl_t"])
        lower = [min(pair) for pair in zip(*ends, strict=True)]
        gap = [max(0, t - one) for t, one in zip(target, lower, strict=True)]
        conduits[name] = {"sl_t": target, "sl_a": lower, "gap": gap}
    wanted = a.head.maturity_target
    return {
        "selection": _selection(selection),
        "zones": zones,
        "conduits": conduits,
        "maturity": selection.maturity,
        "maturity_target": wanted,
        "maturity_gap": max(0, wanted - selection.maturity) if wanted and selection.maturity else 0,
    }


def _compensation(a: Assessment, zone: str, requirement: str, selection: Selection) -> Result:
    """A requirement that devices of a zone cannot meet: which they are, and what may stand in."""
    options = [
        {
            "name": name,
            "in_force": name in selection.compensating,
            "residual_risk": one.entry.residual_risk,
            "approver": one.entry.approver,
        }
        for name, one in compensating().items()
        if requirement in one.entry.stands_for
    ]
    around = [
        name
        for name in ("SR 5.1", "SR 5.2", "SR 5.2 RE 1", "SR 6.2", "SR 2.1 RE 1", "SR 3.4")
        if name != requirement and name not in selection.requirements
    ]
    return {
        "requirement": requirement,
        "title": catalogue()[requirement].title,
        "devices": [
            name
            for name, asset in a.site.assets.items()
            if asset.zone == zone and requirement in asset.cannot
        ],
        "options": options,
        "otherwise": []
        if options
        else ["move the device to a zone of its own (ZCR 5.12)", "accept the risk, with a reason"],
        "around": around,
    }


def _residual(measuring: Measuring, _: Mapping[str, Result]) -> Result:
    """ZCR 5.9 to 5.11: risk with what is in force, and the comparison with what is tolerable."""
    a = measuring.assessment
    (situation,) = measuring.situations([a.in_place], probe=True)
    found = {**_risks(a, situation, "residual"), "arms": situation.arms}
    total = situation.losses(a.threats, a.matrix)
    found["loss"] = asdict(mean_interval(list(total.values())))
    return {**found, **_decided(a, found, "residual")}


def _improve(measuring: Measuring, results: Mapping[str, Result]) -> Result:
    """ZCR 5.12: what could be added, by risk removed for what it costs in money, availability and operability."""
    a = measuring.assessment
    wanted = _site_target(results)
    choices = list(_candidates(a, wanted))
    before, *others = measuring.situations([a.in_place, *(one.selection for one in choices)], probe=True)
    found = []
    for choice, after in zip(choices, others, strict=True):
        gain = less(before, after, a.threats, a.matrix)
        weight = burden(after, before, choice.cost)
        units = weight.units(a.costs.availability_point, a.costs.operator_second)
        risks = _risks(a, after, "residual")
        found.append(
            {
                "name": choice.name,
                "kind": choice.kind,
                "adds": choice.adds,
                "removed": asdict(gain),
                "shown": shown(before, after, a.threats, a.matrix),
                "burden": weight.as_data(),
                "units": units,
                "per_unit": (gain.value or 0.0) / units if units > 0 else None,
                "per_cost": (gain.value or 0.0) / choice.cost if choice.cost else None,
                "per_point": (gain.value or 0.0) / weight.points if weight.points > 0 else None,
                "per_second": (gain.value or 0.0) / weight.delay.value
                if weight.delay.value is not None and weight.delay.value > 0
                else None,
                "rank": risks["rank"],
                "places": {name: one["decided"] for name, one in risks["places"].items()},
                "arms": after.arms,
            }
        )
    found.sort(key=lambda one: (one["kind"] == "target", -(one["per_unit"] or 0.0), one["name"]))
    return {"target": wanted, "candidates": found, "unit": a.costs.unit, "arms": before.arms}


def _axes(measuring: Measuring, results: Mapping[str, Result]) -> Result:
    """Both axes: what is in force, and what SL-T asks for, each at the maturity levels that are asked for."""
    a = measuring.assessment
    target = _up_to(a, _site_target(results))
    choices = [
        (label, level, replace(selection, maturity=level))
        for label, selection in (("in place", a.in_place), ("SL-T", target))
        for level in a.head.maturity_levels
    ]
    situations = measuring.situations([one for _, _, one in choices])
    cells = []
    for (label, level, _), situation in zip(choices, situations, strict=True):
        risks = _risks(a, situation, "residual")
        total = situation.losses(a.threats, a.matrix)
        cells.append(
            {
                "controls": label,
                "maturity": level,
                "loss": asdict(mean_interval(list(total.values()))),
                "rank": risks["rank"],
                "rank_high": risks["rank_high"],
                "arms": situation.arms,
            }
        )
    return {"cells": cells, "levels": list(a.head.maturity_levels)}


# -- what steps have in common -----------------------------------------------------------------------------------


def _risks(a: Assessment, situation: Situation, when: Literal["unmitigated", "residual"]) -> Result:
    """The risk of each threat, judgements in, and of each zone and conduit: the highest of the threats that hit it."""
    judged = {one.threat: one for one in a.judgements.risks if one.situation in (when, "both")}
    threats: dict[str, Result] = {}
    for name, threat in a.threats.items():
        risk = situation.risk(name, threat, a.matrix)
        threats[name] = _with_judgement(a, name, threat, risk, judged.get(name), situation.arms[name])
    places: dict[str, Result] = {}
    for place in (*a.site.zones, *a.site.conduits):
        there = [name for name, threat in a.threats.items() if place in (threat.hits or ())]
        places[place] = {
            "decided": max((threats[name]["decided"] for name in there), default=0),
            "rank": max((threats[name]["rank"] for name in there), default=0),
            "rank_high": max((threats[name]["rank_high"] for name in there), default=0),
            "loss": sum(threats[name]["loss"]["value"] or 0.0 for name in there),
            "threats": there,
        }
    return {
        "threats": threats,
        "places": places,
        "rank": max(one["decided"] for one in threats.values()),
        "rank_high": max(one["rank_high"] for one in threats.values()),
    }


def _with_judgement(
    a: Assessment, name: str, threat: Threat, risk: Risk, judged: Judgement | None, arm: str
) -> Result:
    found: Result = {
        **risk.as_data(),
        "decided": risk.decided(a.matrix),
        "arm": arm,
        "attempts_basis": threat.basis,
    }
    if judged is None:
        return {**found, "judged": None}
    severity, likelihood = judged.severity or risk.severity, judged.likelihood or risk.likelihood
    if severity is None or likelihood is None:
        raise OtlabError(
            f"{a.folder / 'judgements.yaml'}: {name}: its runs showed no effect; judge both severity and likelihood"
        )
    column = [one.name for one in a.matrix.likelihoods].index(likelihood)
    rank = a.matrix.ranks[severity][column]
    about = {**judged.model_dump(mode="json"), "rank": rank, "severity": severity, "likelihood": likelihood}
    return {**found, "judged": about, "decided": rank}


def _decided(a: Assessment, risks: Result, when: Literal["unmitigated", "residual"]) -> Result:
    decisions, found, open_ = getattr(a.decisions, when), {}, []
    for name in decisions:
        if name not in risks["threats"]:
            raise OtlabError(f"{a.folder / 'decisions.yaml'}: {when}: no threat {name!r}")
    for name, risk in risks["threats"].items():
        above = risk["decided"] > a.matrix.tolerable
        one = decisions.get(name)
        found[name] = {
            "rank": risk["decided"],
            "above": above,
            "do": one.do if one is not None else "mitigate" if above else "tolerable",
            "reason": one.reason if one is not None else "",
            "by": one.by if one is not None else "",
        }
        if when == "residual" and above and found[name]["do"] == "mitigate":
            open_.append(
                f"{name}: residual risk {risk['decided']} is above {a.matrix.tolerable}; add controls (controls.yaml),"
                " or accept or transfer it (decisions.yaml)"
            )
    return {"decisions": found, "tolerable": a.matrix.tolerable, "open": open_}


@dataclass(frozen=True, slots=True)
class _Choice:
    name: str
    kind: str
    selection: Selection
    adds: list[str]
    cost: float


def _candidates(a: Assessment, wanted: Vector) -> Iterator[_Choice]:
    """What could be added to what is in place: requirements up to SL-T, countermeasures, maturity, and all together."""
    now, kinds = a.in_place, a.head.improve_with
    lacking = [name for name in enforced(SecurityLevels(wanted)) if name not in now.requirements]
    groups: dict[str, list[str]] = {}
    for name in lacking:
        item = catalogue()[name]
        label = (
            name
            if a.head.improve_by == "requirement"
            else f"{item.fr} to SL {wanted[FOUNDATIONAL.index(item.fr)]}"
        )
        groups.setdefault(label, []).append(name)
    for label, names in groups.items():
        if "requirements" in kinds:
            yield _adding(a, label, "requirements", names)
    for name in compensating():
        if "compensating" in kinds and name not in now.compensating:
            extended = replace(now, compensating=(*now.compensating, name))
            yield _Choice(name, "compensating", extended, [name], a.costs.of_compensating(name))
    if "maturity" in kinds and now.maturity is not None and now.maturity < 4:
        higher = replace(now, maturity=now.maturity + 1)
        yield _Choice(f"ML {now.maturity + 1}", "maturity", higher, [], a.costs.maturity_step)
    if lacking:
        yield _adding(a, "all up to SL-T", "target", lacking)


def _adding(a: Assessment, label: str, kind: str, names: Sequence[str]) -> _Choice:
    now = a.in_place
    every = [name for name in with_needs((*now.requirements, *names)) if name in CONTROLS]
    added = [name for name in every if name not in now.requirements]
    selection = replace(now, name=label, requirements=tuple(every))
    return _Choice(label, kind, selection, added, sum(a.costs.of_requirement(name) for name in added))


def _up_to(a: Assessment, wanted: Vector) -> Selection:
    """What is in place, with every requirement of ``wanted``."""
    return _adding(a, "SL-T", "target", enforced(SecurityLevels(wanted))).selection


def _site_target(results: Mapping[str, Result]) -> Vector:
    """The highest target of any zone in each FR: requirements are put in force for the whole site."""
    zones = results["countermeasures"]["zones"].values()
    return _vector([max(levels) for levels in zip(*(zone["sl_t"] for zone in zones), strict=True)])


def _selection(selection: Selection) -> Result:
    return {
        "title": selection.name,
        "requirements": list(selection.requirements),
        "compensating": list(selection.compensating),
        "maturity": selection.maturity,
    }


def _vector(levels: Sequence[int]) -> Vector:
    first, second, third, fourth, fifth, sixth, seventh = levels
    return first, second, third, fourth, fifth, sixth, seventh


_MEASURED = ("assessment.yaml", "matrix.yaml", "threats.yaml")

STEPS: tuple[Step, ...] = (
    Step("suc", "1.1", "System under consideration", ("assessment.yaml", "suc.yaml"), (), _suc),
    Step("initial", "2.1", "Initial risk", _MEASURED, (), _initial, True),
    Step("zones", "3.1 to 3.6", "Zones and conduits", ("assessment.yaml", "zones.yaml"), ("suc",), _zones),
    Step("compare", "4.1", "Initial risk against tolerable", ("matrix.yaml",), ("initial",), _compare),
    Step("threats", "5.1", "Threats", ("assessment.yaml", "threats.yaml", "zones.yaml"), (), _threats),
    Step(
        "vulnerabilities",
        "5.2",
        "Vulnerabilities",
        ("assessment.yaml", "vulnerabilities.yaml"),
        (),
        _vulnerabilities,
    ),
    Step(
        "unmitigated",
        "5.3 to 5.5",
        "Unmitigated consequence, likelihood, risk",
        (*_MEASURED, "judgements.yaml"),
        ("threats",),
        _unmitigated,
        True,
    ),
    Step(
        "targets",
        "5.6",
        "Target levels SL-T",
        (*_MEASURED, "judgements.yaml", "costs.yaml"),
        ("threats",),
        _targets,
        True,
    ),
    Step(
        "decide",
        "5.7",
        "Decision on unmitigated risk",
        ("decisions.yaml", "matrix.yaml"),
        ("unmitigated",),
        _decide,
    ),
    Step(
        "countermeasures",
        "5.8",
        "Countermeasures in force, gaps",
        ("assessment.yaml", CONTROLS_FILE),
        ("targets",),
        _countermeasures,
        True,
    ),
    Step(
        "residual",
        "5.9 to 5.11",
        "Residual risk",
        (*_MEASURED, "judgements.yaml", "decisions.yaml", CONTROLS_FILE),
        ("threats",),
        _residual,
        True,
    ),
    Step(
        "improve",
        "5.12",
        "Improvements, ranked",
        (*_MEASURED, "judgements.yaml", "costs.yaml", CONTROLS_FILE),
        ("countermeasures", "residual"),
        _improve,
        True,
    ),
    Step(
        "axes",
        "5.12",
        "Security level and maturity level together",
        (*_MEASURED, "judgements.yaml", CONTROLS_FILE),
        ("countermeasures", "residual"),
        _axes,
        True,
    ),
)
BY_NAME = {step.name: step for step in STEPS}


# -- keeping and going on ----------------------------------------------------------------------------------------


def digest(assessment: Assessment, step: Step) -> str:
    """SHA-256 of all that a step is made from: files, the site, scenarios of one's own, earlier results, the code."""
    parts = [f"{name} {assessment.digest(name)}" for name in step.files]
    parts.append(f"site {assessment.site_digest()}")
    parts += [f"after {name} {_result_digest(assessment, name)}" for name in step.after]
    if step.measures or "threats.yaml" in step.files:
        parts += [f"scenario {text}" for text in _own_scenarios(assessment)]
    if step.measures:
        parts.append(f"code {code_digest()}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _own_scenarios(assessment: Assessment) -> Iterator[str]:
    for name, threat in assessment.threats.items():
        path = Path(threat.scenario)
        if path.is_file():
            yield f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}"


def _path(assessment: Assessment, name: str) -> Path:
    return assessment.folder / "steps" / f"{name}.json"


def read_result(assessment: Assessment, name: str) -> Result | None:
    """The kept result of a step with its ``inputs``, None where there is none that can be read."""
    try:
        found = json.loads(_path(assessment, name).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "inputs" in found and "result" in found else None


def _result_digest(assessment: Assessment, name: str) -> str:
    kept = read_result(assessment, name)
    return hashlib.sha256(canonical(kept["result"]).encode()).hexdigest() if kept else "none"


def state_of(assessment: Assessment, step: Step) -> tuple[State, list[str]]:
    """How far a step is, and what of it is for people to do."""
    kept = read_result(assessment, step.name)
    if kept is None:
        return "to do", []
    if kept["inputs"] != digest(assessment, step):
        return "stale", []
    open_ = list(kept["result"].get("open", ()))
    return ("open" if open_ else "done"), open_


def results_of(assessment: Assessment) -> dict[str, Result]:
    """Every kept result by step."""
    kept = {step.name: read_result(assessment, step.name) for step in STEPS}
    return {name: one["result"] for name, one in kept.items() if one is not None}


def arms_of(assessment: Assessment) -> dict[str, Result]:
    """Every arm that a kept result rests on, by its id."""
    found: dict[str, Result] = {}
    for step in STEPS:
        kept = read_result(assessment, step.name)
        found.update(kept.get("arms", {}) if kept else {})
    return dict(sorted(found.items()))


def due(assessment: Assessment) -> Step | None:
    """The first step that is to do or stale."""
    return next((step for step in STEPS if state_of(assessment, step)[0] in ("to do", "stale")), None)


def perform(measuring: Measuring, step: Step) -> Result:
    """Do a step and keep its result with what it was made from."""
    assessment = measuring.assessment
    results = results_of(assessment)
    measuring.arms.clear()
    inputs = digest(assessment, step)
    result = json.loads(json.dumps(step.work(measuring, results)))
    kept = {
        "step": step.name,
        "zcr": step.zcr,
        "inputs": inputs,
        "result": result,
        "arms": dict(measuring.arms),
    }
    save_text(_path(assessment, step.name), json.dumps(kept, indent=1, sort_keys=True) + "\n")
    return dict(result)
