"""What an assessment hands over: the report (ZCR 5.13), the requirements specification (ZCR 6), approval (ZCR 7).

Both documents are data first (JSON) and pages second. Every measured number carries the arm that it rests on; an arm
lists its runs with their keys in the store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from controls.catalogue import SecurityLevels, catalogue
from controls.compensating import compensating
from controls.profiles import CONTROLS
from lab.assess.model import FILES, Assessment
from lab.assess.steps import STEPS, arms_of, results_of, state_of
from results import pdf
from results.assessment import render_report, render_specification
from results.store import canonical, save_text
from scenarios.model import load_scenario
from testbed.errors import OtlabError
from testbed.site import Site

FORMAT = "otlab-assessment-1"
CRS_FORMAT = "otlab-crs-1"
REPORT, SPECIFICATION, APPROVAL, TRAIL = "assessment.json", "crs.json", "approval.json", "audit.jsonl"


def report(assessment: Assessment) -> dict[str, Any]:
    """The whole assessment as data. Raises OtlabError where a step is missing."""
    results = results_of(assessment)
    missing = [step.title for step in STEPS if step.name not in results]
    if missing:
        raise OtlabError(f"not done yet: {', '.join(missing)}; otlab assess next {assessment.folder} --all")
    head = assessment.head
    states = {step.name: state_of(assessment, step) for step in STEPS}
    return {
        "format": FORMAT,
        "title": head.title,
        "date": head.date,
        "organization": head.organization,
        "responsible": head.responsible,
        "site": {"name": assessment.site.name, "title": assessment.site.title},
        "measured": {"seeds": head.seeds, "duration": head.duration, "response": head.response},
        "matrix": assessment.matrix.model_dump(mode="json"),
        "steps": {
            step.name: {
                "zcr": step.zcr,
                "title": step.title,
                "state": states[step.name][0],
                "open": states[step.name][1],
                "result": results[step.name],
            }
            for step in STEPS
        },
        "judgements": assessment.judgements.model_dump(mode="json"),
        "scenarios": {
            name: load_scenario(threat.scenario, assessment.site).title
            for name, threat in assessment.threats.items()
        },
        "arms": arms_of(assessment),
    }


def specification(assessment: Assessment) -> dict[str, Any]:
    """The cybersecurity requirements specification with the contents of ZCR 6.2 to 6.9."""
    found = report(assessment)
    site, suc = assessment.site, assessment.consideration
    steps = {name: one["result"] for name, one in found["steps"].items()}
    return {
        "format": CRS_FORMAT,
        "title": f"Cybersecurity requirements specification: {suc.name}",
        "date": found["date"],
        "organization": found["organization"],
        "responsible": found["responsible"],
        "6.2": {
            "name": suc.name,
            "function": suc.function,
            "intended_use": suc.intended_use,
            "equipment_under_control": suc.equipment_under_control,
            "accountable": suc.accountable,
            "boundary": suc.boundary,
        },
        "6.3": {
            "zones": {
                zone: [name for name, asset in site.assets.items() if asset.zone == zone]
                for zone in site.zones
            },
            "conduits": {name: list(conduit.between) for name, conduit in site.conduits.items()},
        },
        "6.4": {place: _characteristics(assessment, place, steps) for place in (*site.zones, *site.conduits)},
        "6.5": suc.environment.model_dump(),
        "6.6": {
            "environment": suc.threat_environment,
            "sources": list(suc.threat_sources),
            "threats": {
                name: {
                    "title": found["scenarios"][name],
                    "attacker": threat.attacker or "able to do all that the scenario says",
                    "attempts": threat.attempts,
                    "basis": threat.basis,
                    "hits": list(threat.hits or ()),
                }
                for name, threat in assessment.threats.items()
            },
        },
        "6.7": list(suc.policies),
        "6.8": {
            "tolerable": assessment.matrix.tolerable,
            "matrix": found["matrix"],
            "residual": {
                name: {
                    "rank": one["decided"],
                    "rank_high": one["rank_high"],
                    "arm": one["arm"],
                    "judged": one["judged"],
                    "decision": steps["residual"]["decisions"][name],
                }
                for name, one in steps["residual"]["threats"].items()
            },
        },
        "6.9": list(suc.regulation),
        "maturity": {
            key: steps["countermeasures"][key] for key in ("maturity", "maturity_target", "maturity_gap")
        },
        "open": [text for one in found["steps"].values() for text in one["open"]],
        "stale": [one["title"] for one in found["steps"].values() if one["state"] == "stale"],
        "arms": found["arms"],
    }


def _characteristics(assessment: Assessment, place: str, steps: Mapping[str, Any]) -> dict[str, Any]:
    """ZCR 6.4, items a to n, of a zone or conduit."""
    site, suc = assessment.site, assessment.consideration
    about = assessment.places.places.get(place)
    zone, conduit = site.zones.get(place), site.conduits.get(place)
    members = {name: asset for name, asset in site.assets.items() if asset.zone == place}
    levels = steps["countermeasures"]["zones" if zone is not None else "conduits"][place]
    border = (
        str(zone.network) if zone is not None else " to ".join(conduit.between) if conduit is not None else ""
    )
    return {
        "a_name": place,
        "title": zone.title if zone is not None else conduit.purpose if conduit is not None else "",
        "b_accountable": about.accountable if about else "",
        "c_logical_border": border,
        "d_physical_border": about.physical_border if about else "",
        "e_safety": _safety(site, place),
        "f_logical_access": [
            f"{name} ({point.kind})"
            for name, point in suc.access_points.items()
            if point.at == place and point.kind != "physical"
        ],
        "g_physical_access": [
            about.physical_access if about else "",
            *(
                name
                for name, point in suc.access_points.items()
                if point.at == place and point.kind == "physical"
            ),
        ],
        "h_flows": _flows(site, place),
        "i_connected": [
            other
            for name, one in site.conduits.items()
            if place in (name, *one.between)
            for other in ((*one.between,) if place == name else (name,))
        ],
        "j_assets": {
            name: {
                "kind": asset.kind,
                "criticality": asset.criticality,
                "product": " ".join(filter(None, (asset.vendor, asset.product, asset.firmware))),
                "cannot": list(asset.cannot),
            }
            for name, asset in members.items()
        },
        "k_sl_t": levels["sl_t"],
        "k_vector": f"SL-T({place}) = {{{' '.join(map(str, levels['sl_t']))}}}",
        "sl_c": levels.get("sl_c"),
        "sl_a": levels["sl_a"],
        "gap": levels["gap"],
        "l_requirements": _required(assessment, levels),
        "m_policies": [*suc.policies, *(about.policies if about else ())],
        "n_assumptions": about.assumptions if about else "",
    }


def _safety(site: Site, place: str) -> bool:
    if place in site.zones:
        return site.zones[place].safety
    return any(site.zones[zone].safety for zone in site.conduits[place].between)


def _flows(site: Site, place: str) -> list[dict[str, Any]]:
    names = [place] if place in site.conduits else [n for n, c in site.conduits.items() if place in c.between]
    return [
        {"conduit": name, **flow.model_dump(mode="json", exclude_none=True)}
        for name in names
        for flow in site.conduits[name].flows
    ]


def _required(assessment: Assessment, levels: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The requirements of the target vector, and how each stands."""
    target = SecurityLevels(tuple(levels["sl_t"]))
    missing, stood = set(levels.get("missing", ())), dict(levels.get("stood_for", {}))
    cannot = {one["requirement"] for one in levels.get("cannot", ())}
    in_force = set(assessment.in_place.requirements)
    found = []
    for name, item in catalogue().items():
        if not target.requires(item):
            continue
        state = (
            f"stood for by {stood[name]}"
            if name in stood
            else "devices cannot"
            if name in cannot
            else "missing"
            if name in missing or name not in in_force
            else "met"
        )
        found.append(
            {"id": name, "title": item.title, "fr": item.fr, "acts": name in CONTROLS, "state": state}
        )
    return found


# -- writing, approving, the trail -------------------------------------------------------------------------------


def write(assessment: Assessment) -> list[Path]:
    """Write report and specification, each as JSON and as a page, and as PDF where the extra is installed."""
    folder = assessment.folder
    whole, crs = report(assessment), specification(assessment)
    pages = {
        "assessment": render_report(whole),
        "crs": render_specification(crs, approved(assessment)),
    }
    texts = {
        REPORT: json.dumps(whole, indent=1, sort_keys=True) + "\n",
        SPECIFICATION: json.dumps(crs, indent=1, sort_keys=True) + "\n",
        **{f"{name}.html": page for name, page in pages.items()},
    }
    for name, text in texts.items():
        save_text(folder / name, text)
    printed = {f"{name}.pdf": page for name, page in pages.items()} if pdf.available() else {}
    for name, page in printed.items():
        pdf.write_pdf(folder / name, page)
    return [folder / name for name in (*texts, *printed)]


def crs_digest(assessment: Assessment) -> str:
    """SHA-256 of the specification's data: what an approval is of."""
    return hashlib.sha256(canonical(specification(assessment)).encode()).hexdigest()


def approved(assessment: Assessment) -> dict[str, Any] | None:
    """Who approved the specification (ZCR 7.1), with ``valid``: whether it is still the one that was approved."""
    try:
        found = json.loads((assessment.folder / APPROVAL).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return {**found, "valid": found.get("specification") == crs_digest(assessment)}


def approve(assessment: Assessment, by: str, role: str, date: str) -> dict[str, Any]:
    """Put an approval on record. Raises OtlabError while steps are open or stale."""
    undone = [step.title for step in STEPS if state_of(assessment, step)[0] in ("to do", "stale", "open")]
    if undone:
        raise OtlabError(f"not to be approved yet; open or stale: {', '.join(undone)}")
    found = {"by": by, "role": role, "date": date, "specification": crs_digest(assessment)}
    save_text(assessment.folder / APPROVAL, json.dumps(found, indent=1, sort_keys=True) + "\n")
    return found


def note(assessment: Assessment, clock: Callable[[], str], what: str, **about: Any) -> None:
    """Add a line to the audit trail; each carries the digest of the one before, so that none goes missing unseen."""
    path = assessment.folder / TRAIL
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    before = hashlib.sha256(lines[-1].encode()).hexdigest() if lines else ""
    files = {name: assessment.digest(name)[:16] for name in (*FILES, "controls.yaml")}
    entry = {"number": len(lines) + 1, "at": clock(), "what": what, **about, "files": files, "before": before}
    save_text(path, "".join(f"{line}\n" for line in (*lines, json.dumps(entry, sort_keys=True))))


def trail_breaks(folder: Path) -> list[int]:
    """Numbers of the audit trail's lines that do not follow from the line before; [] for a whole trail."""
    path = folder / TRAIL
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    broken, before = [], ""
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            good = entry["before"] == before and entry["number"] == number
        except (ValueError, KeyError, TypeError):
            good = False
        if not good:
            broken.append(number)
        before = hashlib.sha256(line.encode()).hexdigest()
    return broken


def shipped_countermeasures() -> dict[str, str]:
    """Name and title of every compensating countermeasure."""
    return {name: one.entry.title for name, one in compensating().items()}
