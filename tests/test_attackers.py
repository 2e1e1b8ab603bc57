"""Who attacks: time to compromise as published, and what skill, tries and patience do in a run."""

from __future__ import annotations

import random

import pytest

from scenarios.attackers import ADVERSARIES, profile_of, time_to_compromise
from scenarios.experiment import Experiment, run
from scenarios.model import AnyStep
from testbed.errors import UnknownNameError
from testbed.figures import load_figures

#: Days by number of vulnerabilities for skills 1 to 4: the table that the published formulas give.
PUBLISHED = {
    1: (161.9, 63.2, 21.6, 5.6),
    2: (136.4, 46.0, 11.1, 5.4),
    5: (88.2, 22.7, 8.2, 4.8),
    10: (49.4, 14.1, 7.1, 4.0),
    50: (16.3, 5.7, 2.5, 1.4),
}


@pytest.mark.parametrize(("vulnerabilities", "days"), PUBLISHED.items())
def test_time_to_compromise_is_the_published_one(vulnerabilities: int, days: tuple[float, ...]) -> None:
    assert [round(time_to_compromise(skill, vulnerabilities), 1) for skill in (1, 2, 3, 4)] == list(days)


def test_every_action_of_an_attacker_has_a_skill() -> None:
    from typing import get_args

    figures = load_figures()
    actions = [
        get_args(kind.model_fields["action"].annotation)[0]
        for kind in get_args(get_args(AnyStep)[0])
        if kind.hostile
    ]
    assert [action for action in actions if f"skill.{action}" not in figures] == []


def test_drawn_times_of_exploits_have_the_mean_of_the_model() -> None:
    who, stream = profile_of("state", load_figures()), random.Random(1)
    times = [who.time_of_exploit(stream, 10, 0.5) for _ in range(4000)]
    assert sum(times) / len(times) == pytest.approx(time_to_compromise(4, 10), rel=0.05)


def test_stronger_adversaries_are_stronger_in_everything() -> None:
    ranks = [profile_of(name, load_figures()) for name in ("casual", "generic", "specialist", "state")]
    for quality in ("skill", "preparation", "strength", "tries", "patience"):
        values = [getattr(one, quality) for one in ranks]
        assert values == sorted(values), quality


def test_an_unknown_attacker_is_one_sentence() -> None:
    with pytest.raises(UnknownNameError, match="martian"):
        profile_of("martian", load_figures())


def _run(scenario: str, attacker: str | None, **figures: float) -> list[dict[str, object]]:
    changed = tuple((key.replace("__", "."), value) for key, value in figures.items())
    experiment = Experiment("water", (), "test", scenario, 1, 400.0, changed, attacker=attacker)
    record, trace = run(experiment)
    del record
    return [dict(one.data) for one in trace.events if one.kind == "attack.step"]


def test_a_beginner_cannot_forge_modbus_and_a_specialist_can() -> None:
    casual = _run("wire-spoof", "casual")
    assert [(one["outcome"], one["reason"]) for one in casual] == [("failed", "needs skill 3, has 1")]
    assert "done" in [one["outcome"] for one in _run("wire-spoof", "specialist")]


def test_without_a_profile_an_attacker_does_what_the_scenario_says() -> None:
    assert "done" in [one["outcome"] for one in _run("wire-spoof", None)]


def test_a_profile_is_known_before_the_run() -> None:
    with pytest.raises(UnknownNameError):
        run(Experiment("water", (), "test", "wire-spoof", 1, 400.0, attacker="martian"))


def test_adversaries_of_the_four_levels_are_there() -> None:
    assert sorted(one.level for one in ADVERSARIES.values() if one.level) == [1, 2, 3, 4]
