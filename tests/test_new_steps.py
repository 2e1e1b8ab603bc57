"""Steps of reconnaissance, interception, calling home and breakdowns: what they reach, and what keeps them from it."""

from __future__ import annotations

from collections import Counter

import pytest

from controls.catalogue import SecurityLevels
from scenarios.experiment import Experiment, RunRecord, run
from scenarios.model import load_scenario, scenario_names
from scenarios.techniques import shown
from testbed.trace import Trace

SITUATIONS = [name for name in scenario_names() if load_scenario(name).family == "situation"]


def played(
    name: str, *requirements: str, duration: float = 700.0, site: str = "water"
) -> tuple[RunRecord, Trace]:
    return run(Experiment(site, requirements, "test", name, 1, duration))


def outcomes(trace: Trace, action: str) -> Counter[str]:
    return Counter(
        str(one.data["outcome"])
        for one in trace.events
        if one.kind == "attack.step" and one.data["action"] == action
    )


def test_a_look_around_finds_what_there_is_and_a_firewall_hides_it() -> None:
    _, trace = played("recon-sweep", duration=250.0)
    assert {"T0846", "T0888", "T0868", "T0877", "T0861", "T0801", "T0802"} <= set(shown(trace.events))
    _, guarded = played("recon-sweep", "SR 5.1", "SR 5.2", "SR 5.2 RE 1", duration=250.0)
    assert outcomes(guarded, "look_at_controller")["done"] == 0


def test_a_recording_hides_what_is_done_and_encryption_stops_it() -> None:
    record, trace = played("replay-loop", duration=800.0)
    assert record.goals[0][1] is not None
    assert outcomes(trace, "record_and_loop")["done"] == 1
    stopped, guarded = run(Experiment.at_level("water", SecurityLevels.uniform(3), "replay-loop", 1, 400.0))
    assert stopped.goals[0][1] is None
    assert outcomes(guarded, "record_and_loop")["done"] == 0


@pytest.mark.parametrize(("name", "function"), [("block-commands", "control"), ("block-reporting", "view")])
def test_swallowed_messages_take_the_function_that_they_carry(name: str, function: str) -> None:
    record, _ = played(name, duration=300.0)
    lost = {one: sum(end - begin for begin, end in spans) for one, spans in record.lost.items()}
    assert lost[function] > 100.0
    assert lost["safety"] == 0.0


def test_a_program_calls_home_and_files_leave_unless_the_way_out_is_shut() -> None:
    record, trace = played("beacon-exfiltration", duration=300.0)
    assert record.goals[0][1] is not None
    assert outcomes(trace, "beacon")["done"] > 2
    _, guarded = played("beacon-exfiltration", "SR 5.1", "SR 5.2", duration=300.0)
    assert outcomes(guarded, "beacon")["done"] == 0


def test_a_stuck_transmitter_is_believed_and_a_dead_one_is_seen() -> None:
    _, stuck = played("sensor-stuck", duration=500.0)
    readings = {round(value, 3) for value in _column(stuck, "hmi1.LIT101", 200.0, 480.0)}
    assert len(readings) == 1
    _, dead = played("sensor-dead", duration=300.0)
    assert [one for one in dead.events if one.kind == "alarm" and one.data["level"] == "LL"]


def test_a_pump_that_stands_moves_nothing_until_it_is_repaired() -> None:
    _, trace = played("pump-fails", duration=800.0)
    assert max(_column(trace, "P101.running", 130.0, 700.0)) == 0.0
    notes = [one.data["outcome"] for one in trace.events if one.kind == "event.step"]
    assert notes == ["done", "repaired"]


def _column(trace: Trace, name: str, begin: float, end: float) -> list[float]:
    head, *rows = (line.split(",") for line in trace.table())
    at = head.index(name)
    return [float(row[at]) for row in rows if begin <= float(row[0]) <= end]


@pytest.mark.slow
@pytest.mark.parametrize("level", [0, 4])
@pytest.mark.parametrize("name", SITUATIONS)
@pytest.mark.parametrize("site", ["water", "boiler", "reactor"])
def test_every_control_and_detector_lives_through_every_situation(name: str, level: int, site: str) -> None:
    record, _ = run(Experiment.at_level(site, SecurityLevels.uniform(level), name, 1, 600.0))
    assert record.product
