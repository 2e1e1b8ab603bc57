"""What the published page says of ATT&CK for ICS is what runs show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.coverage import matrix, navigator_layer, shows
from scenarios.model import load_scenario, scenario_names
from scenarios.techniques import TACTICS, incidents, techniques

PUBLISHED: dict[str, list[str]] = json.loads(
    (Path(__file__).parent.parent / "docs" / "reference" / "attack-coverage.json").read_text(encoding="utf-8")
)
#: Simulated seconds after a scenario's start that the published runs had at most.
LENGTH = 2300.0


def _few() -> dict[str, list[str]]:
    """Few scenarios that show all published techniques between them, with what each is wanted for."""
    left, chosen = dict(PUBLISHED), {}
    while left:
        names = sorted({name for some in left.values() for name in some})
        best = max(names, key=lambda name: sum(name in some for some in left.values()))
        chosen[best] = [technique for technique, some in left.items() if best in some]
        left = {technique: some for technique, some in left.items() if best not in some}
    return chosen


def test_the_catalogue_is_that_of_the_version() -> None:
    assert len(techniques()) == 83
    assert {tactic for one in techniques().values() for tactic in one.tactics} == set(TACTICS)
    assert all(step.technique in techniques() for steps in incidents().values() for step in steps)


def test_at_least_sixty_techniques_are_published_and_each_by_a_scenario_that_names_it() -> None:
    assert len(PUBLISHED) >= 60
    for technique, names in PUBLISHED.items():
        assert technique in techniques()
        for name in names:
            assert name in scenario_names()
            assert technique in load_scenario(name).techniques()


@pytest.mark.slow
@pytest.mark.parametrize("name", _few())
def test_a_run_shows_what_is_published_of_it(name: str) -> None:
    _, found = shows(name, LENGTH)
    assert set(_few()[name]) <= set(found)


def test_the_matrix_has_every_technique_and_the_layer_is_one() -> None:
    page = matrix(PUBLISHED)
    assert all(one.id in page for one in techniques().values())
    layer = navigator_layer(PUBLISHED)
    assert layer["domain"] == "ics-attack"
    assert {one["techniqueID"] for one in layer["techniques"]} == set(techniques())


@pytest.mark.parametrize("incident", incidents())
def test_every_incident_of_the_catalogue_is_in_the_library(incident: str) -> None:
    stems = {name.removeprefix("incident-").replace("-", "_") for name in scenario_names()}
    assert incident in stems | {one.rpartition("_")[0] for one in stems}
