"""Alerts become incidents, incidents wait for an analyst, and looking costs time whether or not there is anything."""

from __future__ import annotations

import random
from typing import Any

import pytest
from small_worlds import two_zones

from devices.analyst import Analyst
from devices.incidents import Incident, IncidentDesk
from devices.siem import SecurityAlert
from results.metrics import acknowledged
from scenarios.experiment import Experiment, RunRecord
from testbed.figures import load_figures
from testbed.trace import Trace


def alert(
    time: float, rule: str, subject: str, source: str = "mon1", severity: int = 3, *tactics: str
) -> SecurityAlert:
    return SecurityAlert(time, rule, severity, source, subject, (), tactics)


def incidents(*alerts: SecurityAlert, names: dict[str, str] | None = None) -> list[Incident]:
    desk = IncidentDesk(1800.0, lambda name: (names or {}).get(name, name))
    for one in alerts:
        desk.take(one)
    return desk.incidents


def test_alerts_about_one_subject_are_one_incident_and_others_are_not() -> None:
    found = incidents(alert(0, "a", "p"), alert(10, "b", "p", "plc1"), alert(20, "a", "q"))
    assert [(one.rules, one.subjects) for one in found] == [(("a", "b"), ("p",)), (("a",), ("q",))]


def test_what_is_long_past_is_another_incident() -> None:
    assert len(incidents(alert(0, "a", "p"), alert(1801, "a", "p"))) == 2
    assert len(incidents(alert(0, "a", "p"), alert(1700, "a", "p"), alert(3400, "a", "p"))) == 1


def test_a_host_is_known_by_its_name_and_its_address() -> None:
    found = incidents(alert(0, "a", "10.0.3.40"), alert(10, "b", "ews1", "plc1"), names={"10.0.3.40": "ews1"})
    assert len(found) == 1


def test_several_tactics_make_it_worse() -> None:
    found = incidents(
        alert(0, "a", "p", "m", 3, "discovery"),
        alert(1, "b", "p", "m", 2, "execution"),
        alert(2, "c", "p", "m", 2, "impact"),
    )
    assert [one.severity for one in found] == [4]


# -- the analyst -----------------------------------------------------------------------------------------------


def work(
    alerts: list[SecurityAlert], until: float = 40_000.0, excused: bool = False, **figures: float
) -> Any:
    """What an analyst made of alerts that came at their times."""
    with two_zones() as world:
        changed = {
            "soc.missed": 0.0,
            "soc.believed": 0.0,
            **{k.replace("__", "."): v for k, v in figures.items()},
        }
        host = world.network.host("soc", "control", world.network.zones["control"].free_address())
        desk = IncidentDesk(1800.0)
        trace = Trace(world.loop.time)
        analyst = Analyst(
            host, desk, load_figures().with_overrides(changed), random.Random(1), trace, lambda _one: excused
        )
        escalated: list[int] = []
        analyst.on_escalated.append(lambda one: escalated.append(one.id))
        analyst.start()
        for one in alerts:
            world.loop.wake(one.time, lambda due, one=one: desk.take(one), one.time)  # type: ignore[misc]
        world.run(until)
        return analyst, escalated, [(e.kind, e.data.get("id"), e.data.get("verdict")) for e in trace.events]


def test_what_two_sources_say_is_taken_for_real_and_what_one_says_is_not() -> None:
    _, escalated, events = work([alert(10, "a", "p"), alert(11, "b", "p", "plc1"), alert(20, "a", "q")])
    assert escalated == [1]
    assert ("incident.triaged", 2, "false") in events


def test_a_grave_alert_is_enough_by_itself_unless_work_was_announced() -> None:
    grave = [alert(10, "logic changed", "p", "plc1", 4)]
    assert work(grave)[1] == [1]
    assert work(grave, excused=True)[1] == []


def test_the_worst_is_looked_at_first() -> None:
    waiting = [alert(10, "a", f"s{number}", severity=2) for number in range(5)]
    _, _, events = work([*waiting, alert(11, "bad", "x", severity=4)])
    order = [number for kind, number, _ in events if kind == "incident.triaged"]
    assert order[0] == 6


def test_false_incidents_cost_as_much_time_as_real_ones() -> None:
    analyst, escalated, _ = work([alert(10, "a", "p"), alert(20, "a", "q")])
    assert escalated == []
    assert analyst.worked > 60.0
    assert analyst.longest == 2


def test_an_analyst_errs_as_often_as_the_figure_says() -> None:
    assert work([alert(10, "a", "p")], soc__believed=1.0)[1] == [1]
    assert work([alert(10, "x", "p", "plc1", 4)], soc__missed=1.0)[1] == []


def test_an_incident_that_the_twin_has_too_acknowledges_nothing() -> None:
    experiment = Experiment("water", (), "test", "x", 1, 600.0)
    attacked = RunRecord(experiment, 30.0, attack_start=100.0)
    attacked.incidents = [(150.0, 3, 1, 400.0, True), (300.0, 3, 2, 900.0, True), (310.0, 3, 2, 800.0, False)]
    twin = RunRecord(experiment.without_attack(), 30.0)
    twin.incidents = [(140.0, 3, 1, 390.0, True)]
    assert acknowledged(attacked, twin) == pytest.approx(800.0)
