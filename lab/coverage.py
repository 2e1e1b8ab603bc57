"""What of ATT&CK for ICS the library shows: every scenario run without controls, and the matrix of what happened."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lab.campaign import run_all
from scenarios.experiment import Experiment, run
from scenarios.model import load_scenario, scenario_names
from scenarios.techniques import TACTICS, VERSION, shown, techniques

#: technique -> scenarios that show it
Coverage = dict[str, list[str]]


def shows(name: str, duration: float) -> tuple[str, tuple[str, ...]]:
    """Techniques that a run of scenario ``name`` without controls shows."""
    scenario = load_scenario(name)
    length = max(duration, scenario.start + duration)
    experiment = Experiment(scenario.site or "water", (), "SL 0", name, 1, length)
    _, trace = run(experiment)
    return name, shown(trace.events)


def measure(
    names: Iterable[str], duration: float, workers: int | None, tell: Callable[[str], None]
) -> Coverage:
    """Run the scenarios in worker processes and gather what they show."""
    wanted = [(name, duration) for name in tuple(names) or scenario_names()]
    found: dict[str, tuple[str, ...]] = {}
    for _, (name, ids) in run_all(shows, wanted, workers or os.cpu_count() or 1, lambda: None):
        found[name] = ids
        tell(f"{len(found)}/{len(wanted)} {name}: {', '.join(ids) or 'nothing'}")
    coverage: Coverage = {}
    for name in sorted(found):
        for technique in found[name]:
            coverage.setdefault(technique, []).append(name)
    return coverage


def matrix(coverage: Mapping[str, list[str]]) -> str:
    """The matrix as Markdown: a list a tactic, each technique with the scenarios that show it."""
    count = sum(1 for name in techniques() if name in coverage)
    lines = [
        f"{count} of {len(techniques())} techniques of ATT&CK for ICS v{VERSION} happen in a run of the library",
        "without controls: a step that names it reached what it wanted, or an effect that names it came about.",
    ]
    for tactic in TACTICS:
        members = [one for one in techniques().values() if tactic in one.tactics]
        covered = sum(1 for one in members if one.id in coverage)
        lines += ["", f"## {tactic.replace('-', ' ').capitalize()} ({covered} of {len(members)})", ""]
        lines += ["| technique | | shown by |", "|---|---|---|"]
        for one in members:
            by = ", ".join(f"`{name}`" for name in coverage.get(one.id, [])[:4])
            more = len(coverage.get(one.id, [])) - 4
            lines.append(
                f"| {one.id} | {one.name} | {by + (f' and {more} more' if more > 0 else '') or '-'} |"
            )
    return "\n".join(lines)


def navigator_layer(coverage: Mapping[str, list[str]]) -> dict[str, Any]:
    """A layer (format 4.5) that the ATT&CK Navigator opens; the score is how many scenarios show the technique."""
    return {
        "name": "OT Lab scenario library",
        "versions": {"attack": VERSION.partition(".")[0], "navigator": "5.0.0", "layer": "4.5"},
        "domain": "ics-attack",
        "description": "Techniques that happen in a run of the library without controls.",
        "gradient": {"colors": ["#ffffff", "#66b1ff"], "minValue": 0, "maxValue": 5},
        "techniques": [
            {
                "techniqueID": one.id,
                "score": len(coverage.get(one.id, [])),
                "enabled": True,
                "comment": ", ".join(coverage.get(one.id, [])),
            }
            for one in techniques().values()
        ],
    }
