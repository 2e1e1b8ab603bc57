"""What a scenario's file can say: targets by role, footholds, branches, tries, goals; and how mistakes are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lab.cli import main
from scenarios.actions import check_against
from scenarios.experiment import Experiment, RunRecord, run, site_of
from scenarios.model import load_scenario
from scenarios.targets import use_of
from testbed.errors import DocumentError, OtlabError
from testbed.trace import Event

HEAD = """\
name: mine
title: Mine
summary: Mine.
start: 40
"""
WRITE = "{action: modbus_write, technique: T0855, plc: plc1, values: {LIT101_H_SP: 900}"


@pytest.fixture
def play(tmp_path: Path) -> Any:
    def played(
        text: str, *, attacker: str | None = None, duration: float = 120.0, requirements: tuple[str, ...] = ()
    ) -> Any:
        path = tmp_path / "mine.yaml"
        path.write_text(HEAD + text)
        record, trace = run(
            Experiment("water", requirements, "test", str(path), 1, duration, attacker=attacker)
        )
        steps = [one for one in trace.events if one.kind in ("attack.step", "event.step")]
        return record, steps, trace

    return played


def _load(tmp_path: Path, text: str) -> Any:
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + text)
    return load_scenario(path)


def _outcomes(steps: list[Event]) -> list[str]:
    return [str(one.data["outcome"]) for one in steps]


# -- targets ---------------------------------------------------------------------------------------------------


def test_targets_are_found_by_what_they_do(tmp_path: Path) -> None:
    found = _load(
        tmp_path,
        """\
targets:
  controller: {kind: plc, has: {use: setpoint, unit: pH}}
  limit: {of: controller, use: setpoint, unit: pH}
  all: {kind: plc, pick: all}
  station: {function: control}
  boss: {at: station, role: supervisor}
  wire: {between: [station, controller]}
attacker: {zone: operations}
steps:
  - {action: modbus_write, technique: T0836, plc: $controller, values: {$limit: $limit.low}}
  - {action: wipe_logic, technique: T0809, plcs: [$all]}
  - {action: network_outage, conduit: $wire, lasting: 10}
  - {action: terminal_command, technique: T0859, station: $station, credentials: own, person: $boss, after: 1}
""",
    )
    write, wipe, outage, command = found.steps
    assert (write.plc, write.values) == ("plc2", {"AIT202_L_SP": 6.0})
    assert wipe.plcs == ("plc1", "plc2", "plc3")
    assert outage.conduit == "operations_control"
    assert (command.station, command.person) == ("hmi1", "supervisor1")


def test_what_the_site_lacks_is_told_at_its_place(tmp_path: Path) -> None:
    with pytest.raises(DocumentError) as told:
        _load(
            tmp_path,
            """\
targets:
  robot: {kind: plc, has: {use: setpoint, unit: bar}}
attacker: {zone: operations}
steps:
  - {action: modbus_write, technique: T0836, plc: $robot, values: {X: 1}}
""",
        )
    (problem,) = told.value.problems
    assert (problem.line, problem.key) == (6, "targets.robot")
    assert "unit 'bar'" in problem.message


@pytest.mark.parametrize(
    ("targets", "steps", "message"),
    [
        ("a: {kind: plc}", "plc: $b, values: {X: 1}", "no target 'b'"),
        ("a: {kind: plc}", "plc: plc1, values: {MV101_CMD: 1}", "nothing refers to this target"),
        ("a: {kind: plc}", "plc: $a.color, values: {X: 1}", "of 'a' one can ask zone, address"),
        ("a: {}", "plc: $a, values: {X: 1}", "say what it is"),
        ("a: {kind: plc, pick: 9}", "plc: $a, values: {X: 1}", "number 9 of an asset"),
        ("a: {zone_of: hmi1, level: 3}", "plc: $a, values: {X: 1}", "find different things"),
        ("a: {of: hmi1}", "plc: $a, values: {X: 1}", "no controller"),
    ],
)
def test_mistakes_with_targets_are_sentences(tmp_path: Path, targets: str, steps: str, message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        _load(
            tmp_path,
            f"targets:\n  {targets}\nattacker: {{zone: operations}}\n"
            f"steps:\n  - {{action: modbus_write, technique: T0836, {steps}}}\n",
        )


def test_what_tags_are_for_is_read_from_the_site() -> None:
    plc = site_of("water").controllers()["plc1"]
    uses = {
        name: use_of(plc, name)
        for name in ("MV101", "MV101_AUTO", "MV101_CMD", "LIT101", "LIT101_H_SP", "HMI_BEAT")
    }
    assert list(uses.values()) == ["actuator", "automatic", "by hand", "measurement", "setpoint", "other"]


def test_a_scenario_for_one_site_is_refused_on_another(tmp_path: Path) -> None:
    found = _load(tmp_path, f"site: elsewhere\nattacker: {{zone: operations}}\nsteps: [{WRITE}}}]\n")
    with pytest.raises(OtlabError, match="written for site 'elsewhere'"):
        check_against(site_of("water"), found)


# -- mistakes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (
            f"attacker: {{zone: operations}}\nsteps:\n  - {WRITE}, only_if: {{a: done}}}}\n",
            7,
            "no step before this one",
        ),
        (
            f"attacker: {{zone: operations}}\nsteps:\n  - {WRITE}, label: a}}\n  - {WRITE}, label: a}}\n",
            8,
            "another step has this label",
        ),
        (
            "attacker: {zone: operations}\nsteps:\n  - {action: report_lost, technique: T0999, device: plc1}\n",
            7,
            "no technique T0999",
        ),
        (f"attacker: {{zone: operations, profile: martian}}\nsteps:\n  - {WRITE}}}\n", 5, "no such attacker"),
        (
            f"attacker: {{zone: operations}}\ngoals:\n  - {{lost: view, trip: any}}\nsteps:\n  - {WRITE}}}\n",
            7,
            "give one of",
        ),
    ],
)
def test_mistakes_are_told_with_their_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    with pytest.raises(DocumentError) as told:
        _load(tmp_path, text)
    assert [(one.line, message in one.message) for one in told.value.problems] == [(line, True)]


# -- order -----------------------------------------------------------------------------------------------------


def test_a_branch_follows_what_came_of_a_step(play: Any) -> None:
    text = f"""\
attacker: {{zone: operations}}
steps:
  - {WRITE}, label: write}}
  - {WRITE}, only_if: {{write: refused}}, label: never}}
  - {WRITE}, only_if: {{write: done}}}}
  - {WRITE}, only_if: {{never: skipped}}}}
  - {WRITE}, only_if: {{write: not done}}}}
"""
    _, steps, _ = play(text)
    assert _outcomes(steps) == ["done", "skipped", "done", "done", "skipped"]
    assert steps[1].data["reason"] == "write ended done"


def test_an_attacker_acts_only_from_what_it_has_reached(play: Any) -> None:
    text = f"""\
attacker: {{zone: operations, has: ["host:ews1"]}}
steps:
  - {WRITE}, by: hmi1}}
  - {WRITE}, by: ews1}}
  - {WRITE}, needs: ["account:operator1"]}}
"""
    _, steps, _ = play(text)
    assert [(one.source, one.data["outcome"]) for one in steps] == [
        ("rogue1", "skipped"),
        ("ews1", "done"),
        ("rogue1", "skipped"),
    ]
    assert steps[0].data["reason"] == "hmi1 is not reached"


def test_a_refused_step_is_tried_again_and_others_need_not_wait(play: Any) -> None:
    text = f"""\
attacker: {{at: jump1}}
steps:
  - {{action: flood, technique: T0814, plc: plc1, rate: 50, lasting: 30, meanwhile: true}}
  - {WRITE}, after: 1, retries: 2, pause: 5}}
"""
    _, steps, _ = play(text, requirements=("SR 5.1", "SR 5.2"))
    writes = [one for one in steps if one.data["action"] == "modbus_write"]
    assert [one.data["outcome"] for one in writes] == ["failed"] * 3
    assert writes[1].time - writes[0].time >= 5
    assert min(one.time for one in steps if one.data["action"] == "flood") < writes[0].time


def test_an_attacker_without_patience_gives_up(play: Any) -> None:
    text = "attacker: {zone: operations}\nsteps:\n" + f"  - {WRITE}}}\n" * 5
    record: RunRecord
    record, steps, trace = play(text, attacker="casual", duration=600.0)
    assert _outcomes(steps) == ["failed", "failed"]
    assert record.gave_up is not None
    assert [one.kind for one in trace.events if one.kind == "attack.gave_up"] == ["attack.gave_up"]


def test_goals_are_looked_at_and_told(play: Any) -> None:
    text = """\
attacker: {zone: operations}
goals:
  - {technique: T0829, lost: view, lasting: 5}
  - {technique: T0831, signal: T101.level, above: 9}
  - {stopped: plc1}
steps:
  - {action: stop_controller, technique: T0858, plc: plc1, every: 10, lasting: 60}
"""
    record, _, trace = play(text)
    assert [(title, met is not None) for title, met in record.goals] == [
        ("view lost for 5 s", False),
        ("T101.level above 9", False),
        ("plc1 does not run", True),
    ]
    assert [one.data["what"] for one in trace.events if one.kind == "goal"] == ["plc1 does not run"]


# -- the commands ----------------------------------------------------------------------------------------------


def test_new_check_explain_go_together(tmp_path: Path) -> None:
    path = tmp_path / "Night shift.yaml"
    runner = CliRunner()
    assert runner.invoke(main, ["scenarios", "new", str(path)]).exit_code == 0
    assert (
        "night-shift: 2 steps, in order on site water"
        in runner.invoke(main, ["scenarios", "check", str(path)]).output
    )
    told = runner.invoke(main, ["scenarios", "explain", str(path)]).output
    assert "T0836 Modify Parameter" in told
    assert "only_if: {'raise': 'done'}" in told
    again = runner.invoke(main, ["scenarios", "new", str(path)])
    assert (again.exit_code, "exists already" in again.output) == (2, True)


def test_list_chooses_by_technique_and_site() -> None:
    runner = CliRunner()
    some = runner.invoke(main, ["scenarios", "list", "--technique", "T0856"])
    assert "wire-spoof" in some.output
    assert "unauthorized-write" not in some.output
    assert runner.invoke(main, ["scenarios", "list", "--technique", "T0999"]).exit_code == 2


def test_a_mistake_in_a_file_names_file_line_and_key(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        HEAD + "steps:\n  - {action: modbus_write, technique: T0836, plc: plc1, valves: {X: 1}}\n"
    )
    told = CliRunner().invoke(main, ["scenarios", "check", str(path)])
    assert told.exit_code == 2
    assert "bad.yaml:6:" in told.output
    assert "did you mean 'values'" in told.output
