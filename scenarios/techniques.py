"""The techniques of ATT&CK for ICS v18.1, and which of them a run has shown.

A technique counts as shown when a step that names it reached what it wanted, or a goal that names it was met: naming
alone shows nothing. ATT&CK is a registered trademark of The MITRE Corporation; see NOTICE.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from testbed.trace import Event

VERSION = "18.1"
#: The tactics in the matrix's own order.
TACTICS = (
    "initial-access",
    "execution",
    "persistence",
    "privilege-escalation",
    "evasion",
    "discovery",
    "lateral-movement",
    "collection",
    "command-and-control",
    "inhibit-response-function",
    "impair-process-control",
    "impact",
)


@dataclass(frozen=True, slots=True)
class Technique:
    """One technique; ``later`` is its id in v19, where nine became sub-techniques."""

    id: str
    name: str
    tactics: tuple[str, ...]
    later: str


@dataclass(frozen=True, slots=True)
class IncidentStep:
    """One link in the chain of an incident; ``inferred``: this project's reading, not ATT&CK's mapping."""

    incident: str
    number: int
    technique: str
    inferred: bool


@cache
def techniques() -> dict[str, Technique]:
    """The catalogue by id."""
    return {
        row["id"]: Technique(row["id"], row["name"], tuple(row["tactics"].split(";")), row["v19_id"])
        for row in _rows("attack_ics.csv")
    }


@cache
def incidents() -> dict[str, tuple[IncidentStep, ...]]:
    """The chains of real incidents by name, in their order."""
    found: dict[str, list[IncidentStep]] = {}
    for row in _rows("incident_steps.csv"):
        step = IncidentStep(
            row["incident"], int(row["step"]), row["technique_id"], row["basis"] == "inferred"
        )
        found.setdefault(step.incident, []).append(step)
    return {name: tuple(steps) for name, steps in found.items()}


def shown(events: Iterable[Event]) -> tuple[str, ...]:
    """Ids of the techniques that a run's trace shows, each once, in the order of the run."""
    seen: dict[str, None] = {}
    for event in events:
        if event.kind == "attack.step" and event.data["outcome"] == "done":
            seen[str(event.data["technique"])] = None
            seen.update(dict.fromkeys(str(event.data.get("also") or "").split(",")))
        elif event.kind == "goal" and event.data["technique"] is not None:
            seen[str(event.data["technique"])] = None
    seen.pop("", None)
    return tuple(seen)


def _rows(name: str) -> list[dict[str, str]]:
    text = (files("scenarios") / "data" / name).read_text(encoding="utf-8")
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))
