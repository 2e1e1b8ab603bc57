"""The files of a risk assessment by IEC 62443-3-2: what the user edits, and how each is drafted from the site.

An assessment is a folder. Every file in it but ``steps/``, ``rows/``, ``audit.jsonl`` and the documents is the user's:
drafted once, never written again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints
from ruamel.yaml import YAML

from controls.catalogue import FOUNDATIONAL, requirement_id
from controls.compensating import compensating
from controls.profiles import CONTROLS
from controls.selection import Selection, load_selection, spread
from devices.response import Mode
from results.risk import Matrix, default_matrix
from results.store import save_text
from scenarios.actions import check_against
from scenarios.attackers import ADVERSARIES
from scenarios.experiment import site_of
from scenarios.model import Scenario, load_scenario, scenario_names
from testbed.document import Document, Route, load
from testbed.errors import OtlabError
from testbed.figures import Figures, load_figures
from testbed.site import Name, Site, SLVector, site_names

Text = Annotated[str, StringConstraints(min_length=1)]
#: What a text reads that nobody has written yet.
TODO = ""
DATE = r"^\d{4}-\d{2}-\d{2}$"


class Head(Document):
    """``assessment.yaml``: what is assessed, by whom, and how well it is measured.

    ``targets`` says what SL-T is: what was measured, what the site's file states, or the higher of both in each FR.
    ``probe`` is an operational scenario without an attacker, by which operators' delays are measured. ``improve_with``
    is what improvements are looked for among, ``maturity_levels`` those at which both axes are shown: with the seeds,
    they decide how many runs an assessment takes.
    """

    title: Text
    date: Annotated[str, StringConstraints(pattern=DATE)]
    site: Text
    organization: str = TODO
    responsible: str = TODO
    seeds: Annotated[int, Field(ge=2)] = 6
    duration: Annotated[float, Field(ge=60)] = 2400.0
    response: Mode = "none"
    probe: str | None = None
    targets: Literal["measured", "site", "higher"] = "higher"
    maturity_target: Annotated[int, Field(ge=1, le=4)] | None = None
    improve_by: Literal["fr", "requirement"] = "fr"
    improve_with: tuple[Literal["requirements", "compensating", "maturity"], ...] = (
        "requirements",
        "compensating",
        "maturity",
    )
    maturity_levels: tuple[Annotated[int, Field(ge=1, le=4)], ...] = (1, 2, 3, 4)


class AccessPoint(Document):
    """A way in: where it is, of what kind, and what is done about it."""

    at: Name
    kind: Literal["network", "remote", "wireless", "portable", "physical", "external network", "mail"]
    note: str = TODO


class Environment(Document):
    """Assumptions about where the system stands, ZCR 6.5."""

    physical: str = TODO
    logical: str = TODO


class Consideration(Document):
    """``suc.yaml``: the system under consideration (ZCR 1.1, 6.2) and what the specification says around it."""

    name: Text
    function: str = TODO
    intended_use: str = TODO
    equipment_under_control: str = TODO
    boundary: str = TODO
    accountable: str = TODO
    access_points: dict[Name, AccessPoint] = Field(default_factory=dict)
    environment: Environment = Environment()
    threat_environment: str = TODO
    threat_sources: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    regulation: tuple[str, ...] = ()


class Threat(Document):
    """A scenario, who carries it out, and how often that is begun in a year (``between``: bounds of that).

    ``hits`` are the zones and conduits that are attacked or passed; left out, they are read from the scenario.
    ``basis`` says where the number of attempts is from.
    """

    scenario: Text
    attacker: str | None = None
    attempts: Annotated[float, Field(ge=0)]
    between: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]] | None = None
    basis: Text
    hits: tuple[Name, ...] | None = None

    def problems(self) -> Iterator[tuple[Route, str]]:
        if self.attacker is not None and self.attacker not in ADVERSARIES:
            yield ("attacker",), f"no such attacker; there are {', '.join(ADVERSARIES)}"
        if self.between is not None and not self.between[0] <= self.attempts <= self.between[1]:
            yield ("between",), f"{self.attempts:g} attempts a year lie outside it"


class Threats(Document):
    """``threats.yaml`` (ZCR 5.1)."""

    threats: Annotated[dict[Name, Threat], Field(min_length=1)]

    def problems(self) -> Iterator[tuple[Route, str]]:
        for name, threat in self.threats.items():
            for route, message in threat.problems():
                yield ("threats", name, *route), message


class Vulnerability(Document):
    """A weakness of an asset, zone or conduit, and the requirements that would meet it (ZCR 5.2)."""

    where: Name
    what: Text
    source: Text
    requirements: tuple[str, ...] = ()


class Vulnerabilities(Document):
    """``vulnerabilities.yaml`` (ZCR 5.2)."""

    vulnerabilities: tuple[Vulnerability, ...] = ()


class Place(Document):
    """What the specification says of a zone or conduit and no tool can know (ZCR 6.4)."""

    accountable: str = TODO
    physical_border: str = TODO
    physical_access: str = TODO
    policies: tuple[str, ...] = ()
    assumptions: str = TODO


class Finding(Document):
    """What is to be done about a finding of step 3: ``accept`` it for a reason, or ``change`` the site."""

    decision: Literal["accept", "change"] | None = None
    reason: str = TODO


class Places(Document):
    """``zones.yaml``: zones and conduits (ZCR 3, 6.4), and decisions on findings by their names."""

    places: dict[Name, Place] = Field(default_factory=dict)
    findings: dict[str, Finding] = Field(default_factory=dict)


class Judgement(Document):
    """Somebody's word instead of what was measured: likelihood or severity class of a threat, with the reason."""

    threat: Name
    situation: Literal["unmitigated", "residual", "both"] = "both"
    likelihood: str | None = None
    severity: str | None = None
    reason: Text
    by: Text


class TargetJudgement(Document):
    """The target level of a zone as somebody sets it, with the reason."""

    sl_t: SLVector
    reason: Text
    by: Text


class Judgements(Document):
    """``judgements.yaml``: what overrides measured values (ZCR 5.3 to 5.6)."""

    risks: tuple[Judgement, ...] = ()
    targets: dict[Name, TargetJudgement] = Field(default_factory=dict)


class Decision(Document):
    """What is done about a risk (ZCR 5.7, 5.11): by whom decided, and why unless it is mitigated."""

    do: Literal["mitigate", "accept", "transfer"]
    reason: str = TODO
    by: str = TODO


class Decisions(Document):
    """``decisions.yaml``; a threat that is not named is to be mitigated while its risk is above what is tolerable."""

    unmitigated: dict[Name, Decision] = Field(default_factory=dict)
    residual: dict[Name, Decision] = Field(default_factory=dict)

    def problems(self) -> Iterator[tuple[Route, str]]:
        for key in ("unmitigated", "residual"):
            for name, one in getattr(self, key).items():
                if one.do != "mitigate" and not (one.reason and one.by):
                    yield (key, name), f"to {one.do} a risk takes a reason and a name"


class Costs(Document):
    """``costs.yaml``: what improvements cost, and the price of availability and of operators' time, in one unit."""

    unit: Text
    requirement: Annotated[float, Field(ge=0)]
    compensating: Annotated[float, Field(ge=0)]
    maturity_step: Annotated[float, Field(ge=0)]
    availability_point: Annotated[float, Field(ge=0)]
    operator_second: Annotated[float, Field(ge=0)]
    own: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)

    def of_requirement(self, name: str) -> float:
        return self.own.get(name, self.requirement)

    def of_compensating(self, name: str) -> float:
        return self.own.get(name, self.compensating)

    def problems(self) -> Iterator[tuple[Route, str]]:
        for name in self.own:
            if name in compensating():
                continue
            try:
                known = requirement_id(name) == name
            except OtlabError:
                known = False
            if not known:
                yield ("own", name), "neither a requirement nor a compensating countermeasure"


#: file -> what it holds
FILES: dict[str, type[Document]] = {
    "assessment.yaml": Head,
    "suc.yaml": Consideration,
    "zones.yaml": Places,
    "matrix.yaml": Matrix,
    "threats.yaml": Threats,
    "vulnerabilities.yaml": Vulnerabilities,
    "judgements.yaml": Judgements,
    "decisions.yaml": Decisions,
    "costs.yaml": Costs,
}
CONTROLS_FILE = "controls.yaml"


@dataclass(frozen=True)
class Assessment:
    """An assessment folder, its files read on demand. Each raises DocumentError with every mistake in a file."""

    folder: Path

    def _load(self, name: str) -> Any:
        return load(self.folder / name, FILES[name])

    @cached_property
    def head(self) -> Head:
        return self._load("assessment.yaml")  # type: ignore[no-any-return]

    @cached_property
    def consideration(self) -> Consideration:
        return self._load("suc.yaml")  # type: ignore[no-any-return]

    @cached_property
    def places(self) -> Places:
        return self._load("zones.yaml")  # type: ignore[no-any-return]

    @cached_property
    def matrix(self) -> Matrix:
        return self._load("matrix.yaml")  # type: ignore[no-any-return]

    @cached_property
    def vulnerabilities(self) -> Vulnerabilities:
        return self._load("vulnerabilities.yaml")  # type: ignore[no-any-return]

    @cached_property
    def decisions(self) -> Decisions:
        return self._load("decisions.yaml")  # type: ignore[no-any-return]

    @cached_property
    def costs(self) -> Costs:
        return self._load("costs.yaml")  # type: ignore[no-any-return]

    @cached_property
    def judgements(self) -> Judgements:
        found: Judgements = self._load("judgements.yaml")
        places = self._load("threats.yaml").threats
        matrix = self.matrix
        for one in found.risks:
            if one.threat not in places:
                raise OtlabError(
                    f"{self.folder / 'judgements.yaml'}: no threat {one.threat!r} in threats.yaml"
                )
            if one.likelihood is not None and one.likelihood not in [x.name for x in matrix.likelihoods]:
                raise OtlabError(
                    f"{self.folder / 'judgements.yaml'}: no likelihood class {one.likelihood!r} in matrix.yaml"
                )
            if one.severity is not None and one.severity not in [x.name for x in matrix.severities]:
                raise OtlabError(
                    f"{self.folder / 'judgements.yaml'}: no severity class {one.severity!r} in matrix.yaml"
                )
        for zone in found.targets:
            if zone not in self.site.zones:
                raise OtlabError(f"{self.folder / 'judgements.yaml'}: the site has no zone {zone!r}")
        return found

    @cached_property
    def in_place(self) -> Selection:
        """The controls in force today, ``controls.yaml``."""
        return load_selection(self.folder / CONTROLS_FILE)

    @cached_property
    def site_name(self) -> str:
        return self.found(self.head.site, site_names())

    @cached_property
    def site(self) -> Site:
        return site_of(self.site_name)

    def found(self, name: str, shipped: tuple[str, ...]) -> str:
        """A shipped name as it is, a path beside the assessment's files, or one from the current folder."""
        if name in shipped:
            return name
        beside = self.folder / name
        return str(beside) if beside.exists() else name

    @cached_property
    def threats(self) -> dict[str, Threat]:
        """The threats, each with a scenario that runs on the site and with what it hits."""
        site, found = self.site, {}
        for name, threat in self._load("threats.yaml").threats.items():
            path = self.found(threat.scenario, scenario_names())
            scenario = load_scenario(path, site)
            check_against(site, scenario)
            if scenario.start >= self.head.duration:
                raise OtlabError(
                    f"{self.folder / 'threats.yaml'}: {name}: the scenario starts at {scenario.start:g} s, a run ends"
                    f" at {self.head.duration:g} s (assessment.yaml, duration)"
                )
            hits = threat.hits if threat.hits is not None else hit(site, scenario)
            for one in hits:
                if one not in site.zones and one not in site.conduits:
                    raise OtlabError(
                        f"{self.folder / 'threats.yaml'}: {name}: hits {one!r}, neither a zone nor a conduit"
                    )
            found[name] = threat.model_copy(update={"scenario": path, "hits": tuple(hits)})
        return found

    def digest(self, name: str) -> str:
        """SHA-256 of a file's bytes; of the empty text where it is missing."""
        path = self.folder / name
        return hashlib.sha256(path.read_bytes() if path.exists() else b"").hexdigest()

    def site_digest(self) -> str:
        """SHA-256 of what describes the site where it is the user's own, its name where it is shipped."""
        path = Path(self.site_name)
        if not path.exists():
            return self.site_name
        root = path if path.is_dir() else path.parent
        texts = [one.read_bytes() for one in sorted(root.glob("*")) if one.is_file()]
        return hashlib.sha256(b"\0".join(texts)).hexdigest()


def assessment_at(folder: Path) -> Assessment:
    """The assessment in ``folder``. Raises OtlabError where there is none."""
    if not (folder / "assessment.yaml").is_file():
        raise OtlabError(f"{folder} holds no assessment; begin one: otlab assess start {folder} --site SITE")
    return Assessment(folder)


# -- what an attack touches --------------------------------------------------------------------------------------


def hit(site: Site, scenario: Scenario) -> tuple[str, ...]:
    """Zones and conduits that a scenario attacks or passes: its entry, where its targets are, and the way between."""
    named = _strings(scenario.model_dump(mode="python", exclude={"name", "title", "summary", "targets"}))
    places = [name for name in site.zones if name in named]
    zones = dict.fromkeys(
        [*places, *(asset.zone for name, asset in site.assets.items() if name in named)], None
    )
    entry = _entry(site, scenario)
    for person in scenario.steps:
        if person.by is not None and person.by in site.assets:
            zones.setdefault(site.assets[person.by].zone, None)
    found = dict.fromkeys([*([entry] if entry else []), *zones])
    for zone in zones:
        for conduit in site.route(entry, zone) or () if entry else ():
            found.setdefault(conduit, None)
            for end in site.conduits[conduit].between:
                found.setdefault(end, None)
    known = [*site.zones, *site.conduits]
    return tuple(name for name in known if name in found)


def _entry(site: Site, scenario: Scenario) -> str | None:
    if scenario.attacker is None:
        return None
    if scenario.attacker.at is not None and scenario.attacker.at in site.assets:
        return site.assets[scenario.attacker.at].zone
    zone = scenario.attacker.zone
    return zone if zone in site.zones else None


def _strings(value: object) -> set[str]:
    if isinstance(value, str):
        return {value}
    if isinstance(value, Mapping):
        return {one for pair in value.items() for part in pair for one in _strings(part)}
    if isinstance(value, list | tuple | set | frozenset):
        return {one for part in value for one in _strings(part)}
    return set()


# -- drafting ----------------------------------------------------------------------------------------------------

#: (threat, scenario, attacker) to begin with, of which those are taken that run on the site.
USUAL = (
    ("stranger_commands", "stranger-commands", "generic"),
    ("unauthorized_write", "unauthorized-write", "specialist"),
    ("false_readings", "wire-spoof", "specialist"),
    ("flood", "plc-flood", "casual"),
    ("wiper", "wiper", "malware"),
    ("ransomware", "ransomware-stations", "malware"),
    ("vendor_access", "remote-stolen-credentials", "generic"),
    ("safety_stopped", "safety-stopped-from-workstation", "specialist"),
)
QUICK_THREATS = 2
#: kinds of asset that are ways in, and of which kind
WAYS_IN = {
    "jump_host": "remote",
    "cellular_router": "external network",
    "access_point": "wireless",
    "mobile_device": "portable",
    "workstation": "portable",
    "mail_server": "mail",
    "hmi": "physical",
}
#: what a file begins with
HEADERS = {
    "assessment.yaml": """\
# What is assessed, by whom, and how well it is measured: seeds are runs of each arm, duration is s of each.
""",
    "suc.yaml": """\
# The system under consideration (ZCR 1.1, 6.2, 6.5 to 6.7, 6.9). Fill in what is empty.
""",
    "zones.yaml": """\
# Zones and conduits (ZCR 3, 6.4). Fill in what is empty.
# Findings are decided here: accept (with a reason) or change.
""",
    "threats.yaml": """\
# Threats (ZCR 5.1). attempts: times a year that the scenario is begun from where it starts; no run can tell.
""",
    "vulnerabilities.yaml": """\
# Known vulnerabilities (ZCR 5.2), drafted from the site's file; add those of advisories and scans.
""",
    "judgements.yaml": """\
# What somebody's judgement overrides, with the reason. For example:
#   risks: [{threat: wiper, situation: residual, likelihood: remote, reason: ..., by: ...}]
#   targets: {safety: {sl_t: 3, reason: ..., by: ...}}
""",
    "decisions.yaml": """\
# Risks that are accepted or transferred (ZCR 5.7, 5.11). For example:
#   residual: {flood: {do: accept, reason: ..., by: ...}}
""",
    "costs.yaml": """\
# What improvements cost, in one unit of yours; own: costs of single requirements or countermeasures.
# These are assumptions, from `otlab figures burden`.
""",
    "controls.yaml": """\
# The controls in force today; see how-to/put-controls-in-force.md.
# maturity (1 to 4) says how well they are kept up; left out, perfectly.
""",
}


def start(
    folder: Path,
    site: str,
    *,
    title: str | None = None,
    date: str,
    level: str = "0",
    seeds: int = 6,
    duration: float = 2400.0,
    quick: bool = False,
) -> list[Path]:
    """Draft an assessment's files in ``folder``; ``quick`` drafts one of minutes, to learn on.

    Raises OtlabError where one is there already.
    """
    if (folder / "assessment.yaml").exists():
        raise OtlabError(f"{folder} holds an assessment already; otlab assess status {folder}")
    described, figures = site_of(site), load_figures()
    drafts: dict[str, Any] = {
        "assessment.yaml": {
            "title": title or f"Risk assessment of {described.title}",
            "date": date,
            "site": _site_path(site, folder),
            "organization": TODO,
            "responsible": TODO,
            "seeds": seeds,
            "duration": duration,
            "probe": _probe(described, duration),
            "targets": "higher",
            "maturity_target": None,
            "improve_with": ["requirements"] if quick else ["requirements", "compensating", "maturity"],
            "maturity_levels": [1, 4] if quick else [1, 2, 3, 4],
        },
        "suc.yaml": _consideration(described),
        "zones.yaml": _places(described),
        "threats.yaml": {"threats": _threats(described, figures, duration, QUICK_THREATS if quick else None)},
        "vulnerabilities.yaml": {"vulnerabilities": _vulnerabilities(described)},
        "judgements.yaml": {"risks": [], "targets": {}},
        "decisions.yaml": {"unmitigated": {}, "residual": {}},
        "costs.yaml": {
            "unit": "requirement",
            "requirement": figures["burden.requirement"],
            "compensating": figures["burden.compensating"],
            "maturity_step": figures["burden.maturity_step"],
            "availability_point": figures["burden.availability_point"],
            "operator_second": figures["burden.operator_second"],
            "own": {},
        },
        CONTROLS_FILE: _controls(level),
    }
    written = []
    for name, draft in drafts.items():
        save_text(folder / name, HEADERS[name] + as_yaml(draft))
        written.append(folder / name)
    save_text(folder / "matrix.yaml", default_matrix())
    return [*written, folder / "matrix.yaml"]


def as_yaml(value: Any) -> str:
    """``value`` as YAML for people to edit."""
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 110
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(
        type(None), lambda one, _: one.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    stream = StringIO()
    yaml.dump(json.loads(json.dumps(value)), stream)
    return stream.getvalue()


def _site_path(site: str, folder: Path) -> str:
    if site in site_names():
        return site
    try:  # a site that stands beside or below the assessment goes with it
        return Path(site).resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        return str(site)


def _controls(level: str) -> dict[str, Any]:
    from controls.catalogue import SecurityLevels

    levels = SecurityLevels.parse(level)
    return {
        "title": "in place",
        "levels": dict(zip(FOUNDATIONAL, levels.levels, strict=True)),
        "add": [],
        "remove": [],
        "compensating": [],
    }


def _probe(site: Site, duration: float) -> str | None:
    for name in scenario_names():
        if name.startswith("emergency-") and _runs(site, name, duration):
            return name
    return None


def _runs(site: Site, scenario: str, duration: float) -> bool:
    try:
        loaded = load_scenario(scenario, site)
        check_against(site, loaded)
    except OtlabError:
        return False
    return loaded.start < duration


def _consideration(site: Site) -> dict[str, Any]:
    points: dict[str, Any] = {
        name: {"at": asset.zone, "kind": WAYS_IN[asset.kind], "note": asset.product}
        for name, asset in site.assets.items()
        if asset.kind in WAYS_IN
    }
    for name, conduit in site.conduits.items():
        outside = [zone for zone in conduit.between if not site.zones[zone].trusted]
        if outside:
            points[name] = {"at": outside[0], "kind": "network", "note": conduit.purpose}
    return {
        "name": site.title,
        "function": TODO,
        "intended_use": TODO,
        "equipment_under_control": f"plant model {site.plant.model}",
        "boundary": f"every zone and conduit of {site.name}: {', '.join(site.zones)}",
        "accountable": TODO,
        "access_points": points,
        "environment": {"physical": TODO, "logical": TODO},
        "threat_environment": TODO,
        "threat_sources": [],
        "policies": [],
        "regulation": [],
    }


def _places(site: Site) -> dict[str, Any]:
    empty = {
        "accountable": TODO,
        "physical_border": TODO,
        "physical_access": TODO,
        "policies": [],
        "assumptions": TODO,
    }
    return {
        "places": {name: dict(empty) for name in (*site.zones, *site.conduits)},
        "findings": {name: {"decision": None, "reason": TODO} for name in findings(site)},
    }


def _threats(site: Site, figures: Figures, duration: float, most: int | None) -> dict[str, Any]:
    there = [one for one in USUAL if _runs(site, one[1], duration)][:most]
    found = {name: threat_of(scenario, attacker, figures) for name, scenario, attacker in there}
    if not found:
        raise OtlabError(f"none of the usual scenarios runs on {site.name!r} within {duration:g} s")
    return found


def threat_of(scenario: str, attacker: str | None, figures: Figures) -> dict[str, Any]:
    """The draft of one threat."""
    key = f"attempts.{attacker or 'unnamed'}"
    return {
        "scenario": scenario,
        "attacker": attacker,
        "attempts": figures[key],
        "between": [round(figures[key] / 10, 6), figures[key] * 10],
        "basis": f"assumption: figure {key}; a factor of ten either way",
    }


def _vulnerabilities(site: Site) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name, asset in site.assets.items():
        if asset.cannot:
            found.append(
                {
                    "where": name,
                    "what": f"has no means for {len(asset.cannot)} requirements",
                    "source": "site file, cannot",
                    "requirements": list(asset.cannot),
                }
            )
        if asset.kind == "cellular_router":
            found.append(
                {
                    "where": name,
                    "what": "a way in from a carrier's network, past every conduit",
                    "source": "site file",
                    "requirements": ["SR 1.13", "SR 5.2"],
                }
            )
        if asset.kind == "workstation" and asset.predecessors:
            found.append(
                {
                    "where": name,
                    "what": f"projects and papers are still on {', '.join(asset.predecessors)}",
                    "source": "site file, predecessors",
                    "requirements": ["SR 4.2"],
                }
            )
        if asset.kind == "hmi" and asset.former:
            found.append(
                {
                    "where": name,
                    "what": f"accounts of {len(asset.former)} people who left",
                    "source": "site file, former",
                    "requirements": ["SR 1.3"],
                }
            )
    for name, conduit in site.conduits.items():
        if any(flow.protocol in ("modbus", "opcua", "settings") for flow in conduit.flows):
            found.append(
                {
                    "where": name,
                    "what": "commands and programs pass unsigned and in plain text unless protected",
                    "source": "protocols of the documented flows",
                    "requirements": ["SR 3.1", "SR 4.1"],
                }
            )
    return found


# -- step 3: what is not kept apart ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mixed:
    """Something that IEC 62443-3-2 wants kept apart and is not: the requirement and a sentence."""

    zcr: str
    text: str


def findings(site: Site) -> dict[str, Mixed]:
    """Findings on zones and conduits by name (ZCR 3.2 to 3.6)."""
    found: dict[str, Mixed] = {}
    members = {
        zone: [name for name, asset in site.assets.items() if asset.zone == zone] for zone in site.zones
    }
    kinds = {zone: {site.assets[name].kind for name in names} for zone, names in members.items()}
    for zone, there in kinds.items():
        process = there & {"plc", "safety_plc", "hmi"}
        if process and there & {"office_pc", "mail_server"}:
            found[f"business-in-{zone}"] = Mixed(
                "3.2", f"business assets stand in zone {zone!r} with the control system's"
            )
        if "safety_plc" in there and (there != {"safety_plc"} or not site.zones[zone].safety):
            found[f"safety-in-{zone}"] = Mixed(
                "3.3", f"the safety system shares zone {zone!r} with other assets"
            )
        if process and "mobile_device" in there:
            found[f"portable-in-{zone}"] = Mixed("3.4", f"devices that come and go are in zone {zone!r}")
        if process and "access_point" in there:
            found[f"wireless-in-{zone}"] = Mixed("3.5", f"a wireless access point is in zone {zone!r}")
        if process and there & {"jump_host", "cellular_router"}:
            found[f"external-in-{zone}"] = Mixed(
                "3.6", f"devices that are reached from external networks are in zone {zone!r}"
            )
    for name, conduit in site.conduits.items():
        levels = sorted(site.zones[zone].level for zone in conduit.between)
        if levels[0] < 3.5 < levels[1]:
            found[f"no-dmz-at-{name}"] = Mixed(
                "3.2", f"conduit {name!r} joins a business zone with the control system without a DMZ between"
            )
    return found


def requirements_of(names: tuple[str, ...]) -> tuple[str, ...]:
    """Requirement ids that act, of ids and FRs. Raises UnknownNameError."""
    return tuple(name for name in spread(names) if name in CONTROLS)
