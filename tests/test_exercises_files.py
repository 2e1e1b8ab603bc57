"""Exercises that hand in a file: the model solution meets every task, nothing and a typical wrong one do not."""

from __future__ import annotations

from pathlib import Path

import pytest
from exercise_desk import KEY, handed_in, met, tasks

from lab.exercises import packs
from lab.exercises.model import load_exercise
from scenarios.experiment import site_of
from testbed.errors import OtlabError

pytestmark = pytest.mark.slow

READS = "functions: [1, 2, 3, 4], purpose: view"
RULES = f"""
conduits:
  operations_control:
    - {{source: hmi1, target: plc1, port: 502, protocol: modbus, {READS}}}
    - {{source: hmi1, target: plc1, port: 502, protocol: modbus, functions: [5, 6, 15, 16],
       registers: [[3, 6], [100, 107]]}}
    - {{source: hmi1, target: sis1, port: 502, protocol: modbus, {READS}}}
    - {{source: opcua1, target: plc1, port: 502, protocol: modbus, {READS}}}
    - {{source: ews1, target: plc1, port: 502, protocol: modbus, functions: [1, 2, 3, 4, 20, 21, 43]}}
    - {{source: ews1, target: sis1, port: 502, protocol: modbus, functions: [1, 2, 3, 4, 20, 21, 43]}}
    - {{source: plc1, target: siem1, port: 514, protocol: syslog}}
    - {{source: sis1, target: siem1, port: 514, protocol: syslog}}
    - {{source: siem1, target: plc1, port: 5514, protocol: logs}}
    - {{source: siem1, target: sis1, port: 5514, protocol: logs}}
"""
ONLY_READS = f"""
conduits:
  operations_control:
    - {{source: hmi1, target: plc1, port: 502, protocol: modbus, {READS}}}
    - {{source: hmi1, target: sis1, port: 502, protocol: modbus, {READS}}}
"""
ROOM = ", ".join(name for name, one in site_of("water").assets.items() if one.zone == "operations")
ZONES = f"""
zones:
  office: {{title: Office, assets: [corp1, dns1], sl_t: 1, trusted: false}}
  dmz: {{title: DMZ, assets: [jump1, mail1], sl_t: 2}}
  room: {{title: Control room, assets: [{ROOM}], sl_t: 2}}
  control: {{title: Controllers, assets: [plc1, plc2, plc3], sl_t: 2}}
  safety: {{title: Safety system, assets: [sis1], sl_t: 3, safety: true}}
  radio: {{title: Radio, assets: [ap1, tablet1], sl_t: 2, trusted: false}}
conduits: [[office, dmz], [dmz, room], [room, control], [control, safety], [radio, control]]
"""
#: the controllers are apart, and nothing leads to them
CUT_OFF = ZONES.replace("[room, control], ", "")
HEAD = "name: attack\ntitle: mine\nsummary: mine\nstart: 60\nattacker: {zone: control}\nsteps:\n"
SPOOF = "  - {action: spoof, technique: T0856, plc: plc1, reader: hmi1, values: {LIT101: %s}, lasting: 520}\n"
LOOP = (
    "  - {action: record_and_loop, technique: T0856, plc: plc1, reader: hmi1, recording: 60, lasting: 600,"
    " meanwhile: true}\n"
)
SHUT = (
    "  - {action: modbus_write, technique: T0855, after: %s, plc: plc1,"
    " values: {FEEDWATER_AUTO: 0, FEEDWATER_CMD: 0}, every: 10, lasting: 300}\n"
)
LEVEL = "title: mine\nlevels: {IAC: %s, UC: %s, SI: %s, DC: %s, RDF: %s, TRE: %s, RA: %s}\n"


def at(level: int, rest: str = "") -> str:
    return LEVEL % ((level,) * 7) + rest


SOLUTIONS = {
    "man-in-the-middle": HEAD + SPOOF % 800,
    "deceive-the-operator": HEAD + LOOP + SHUT % 70,
    "stop-stuxnet": "title: mine\nadd: [SR 2.3, SR 3.4]\n",
    "choose-compensating": at(
        3, "remove: [SR 2.5, SR 1.1 RE 2]\ncompensating: [enhanced_physical_security]\n"
    ),
    "mfa-lock-out": at(4, "remove: [SR 1.1 RE 3]\ncompensating: [enhanced_physical_security]\n"),
    "keep-running-with-sl3": at(3),
    "write-the-conduit-rules": RULES,
    "zoning": ZONES,
}
WRONG = {
    "man-in-the-middle": (HEAD + SPOOF % 1000, {"unseen"}),
    "deceive-the-operator": (HEAD + LOOP + SHUT % 5, {"unheard"}),
    "stop-stuxnet": ("title: mine\nadd: [SR 2.3, SR 3.1]\n", {"logic", "goals", "view", "frugal"}),
    "choose-compensating": (at(3), {"without", "intruder", "at-once"}),
    "mfa-lock-out": (at(3), {"level"}),
    "keep-running-with-sl3": (at(4), {"running", "emergency"}),
    "write-the-conduit-rules": (ONLY_READS, {"control"}),
    "zoning": (CUT_OFF, {"works", "holds"}),
}


@pytest.mark.parametrize("name", SOLUTIONS)
def test_the_model_solution_meets_every_task(name: str, tmp_path: Path) -> None:
    result = handed_in(name, tmp_path / "x", SOLUTIONS[name])
    assert met(result) == tasks(name), [one.found for one in result.judged]


@pytest.mark.parametrize("name", SOLUTIONS)
def test_what_was_handed_out_meets_no_task(name: str, tmp_path: Path) -> None:
    exercise = load_exercise(name)
    packs.start(exercise, tmp_path / "x", "anna", KEY)
    try:
        result = packs.check(tmp_path / "x")
    except OtlabError:
        return  # a scenario without a step is no scenario
    assert met(result) == set(), [one.found for one in result.judged]


@pytest.mark.parametrize("name", WRONG)
def test_a_typical_wrong_one_fails(name: str, tmp_path: Path) -> None:
    text, left = WRONG[name]
    result = handed_in(name, tmp_path / "x", text)
    assert tasks(name) - met(result) == left, [one.found for one in result.judged]


def test_another_way_out_of_the_lock_out_is_accepted(tmp_path: Path) -> None:
    text = at(4, "remove: [SR 1.1 RE 3]\ncompensating: [enhanced_physical_security, break_glass]\n")
    assert met(handed_in("mfa-lock-out", tmp_path / "x", text)) == tasks("mfa-lock-out")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + SHUT % 5, "modbus_write is not allowed here"),
        (HEAD.replace("control", "operations") + SPOOF % 800, "zone control"),
        (HEAD.replace("zone: control", "at: hmi1") + SPOOF % 800, "zone control"),
    ],
)
def test_a_scenario_keeps_to_what_is_allowed(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(OtlabError, match=said):
        handed_in("man-in-the-middle", tmp_path / "x", text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ZONES.replace("ap1, tablet1", "ap1"), "in no zone: tablet1"),
        (ZONES.replace("ap1, tablet1", "ap1, tablet9"), "no asset 'tablet9'"),
        (ZONES.replace("ap1, tablet1", "ap1, tablet1, plc1"), "stands in two zones"),
        (ZONES.replace("[radio, control]", "[radio, moon]"), "there is no zone 'moon'"),
    ],
)
def test_zones_that_cannot_be_are_told(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(OtlabError, match=said):
        handed_in("zoning", tmp_path / "x", text)
