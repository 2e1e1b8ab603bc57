"""Whole runs: the same experiment gives the same bytes, attacks do what they say, metrics mean what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from controls.catalogue import SecurityLevels
from lab.cli import STANDARD
from results.metrics import available_share, first_impact, first_true_alert, measure
from scenarios.experiment import Experiment, RunRecord, run
from scenarios.model import load_scenario, scenario_names
from scenarios.trials import trials
from testbed.errors import DocumentError, OtlabError, UnknownNameError

ROOT = Path(__file__).parent.parent


def at(level: int, scenario: str | None = None, seed: int = 1, duration: float = 120.0) -> Experiment:
    return Experiment.at_level("water", SecurityLevels.uniform(level), scenario, seed, duration)


def otlab(*arguments: str, hash_seed: str = "0", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, "-m", "lab.cli", *arguments],
        cwd=cwd or ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def short_scenario(folder: Path, name: str) -> Path:
    """A shipped scenario that starts after a minute, to keep tests short."""
    text = (ROOT / "scenarios" / "library" / f"{name}.yaml").read_text(encoding="utf-8")
    path = folder / f"{name}.yaml"
    path.write_text(
        text.replace("start: 300", "start: 60").replace("lasting: 2100", "lasting: 60"), encoding="utf-8"
    )
    return path


# -- repeatable to the byte --------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0, 3])
def test_the_same_seed_gives_the_same_trace_in_any_process(level: int, tmp_path: Path) -> None:
    scenario = short_scenario(tmp_path, "wire-spoof")
    for number in ("1", "2"):
        done = otlab(
            "run", "--sl", str(level), "--scenario", str(scenario), "--duration", "150",
            "--trace", str(tmp_path / f"{number}.jsonl"), "--pcap", str(tmp_path / f"{number}.pcapng"),
            hash_seed=number,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "2.jsonl").read_bytes()
    assert (tmp_path / "1.csv").read_bytes() == (tmp_path / "2.csv").read_bytes()
    same_capture = (tmp_path / "1.pcapng").read_bytes() == (tmp_path / "2.pcapng").read_bytes()
    assert same_capture is (level == 0)  # keys differ from process to process, sizes and times do not
    assert (tmp_path / "1.pcapng").stat().st_size == (tmp_path / "2.pcapng").stat().st_size


def test_a_run_is_the_same_whatever_ran_before_it_in_the_process() -> None:
    first = list(run(at(2))[1].lines())
    run(at(4, seed=9))
    assert list(run(at(2))[1].lines()) == first


def test_a_capture_changes_nothing_that_it_captures(tmp_path: Path) -> None:
    without = run(at(1))[1]
    captured = run(at(1), capture=tmp_path / "a.pcapng")[1]
    assert list(captured.lines()) == list(without.lines())
    assert list(captured.table()) == list(without.table())


def test_another_seed_gives_another_run() -> None:
    assert list(run(at(0, seed=1))[1].table()) != list(run(at(0, seed=2))[1].table())


# -- scenarios ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STANDARD)
def test_every_standard_attack_succeeds_where_nothing_defends(tmp_path: Path, name: str) -> None:
    record, trace = run(at(0, str(short_scenario(tmp_path, name)), duration=150))
    assert record.attack_start == 60
    assert record.succeeded > 0
    steps = [event for event in trace.events if event.kind == "attack.step"]
    assert all(event.data["technique"].startswith("T0") for event in steps)


#: Scenarios beside the trials: an external component fails or is attacked, a countermeasure, another way in. Each has a
#: test of its own.
OTHERS = {
    "auth-forged-accept",
    "auth-server-flooded",
    "auth-server-lost",
    "emergency-without-token",
    "remote-session-exhaustion",
    "station-failure",
    "stolen-envelope",
    "vlan-hop",
    "wireless-cracked-handshake",
}


def test_every_shipped_scenario_is_a_standard_attack_or_tries_something() -> None:
    tried = {trial.scenario for trial in trials().values()}
    published = json.loads((ROOT / "docs" / "reference" / "attack-coverage.json").read_text(encoding="utf-8"))
    showing = {name for names in published.values() for name in names}
    quiet = {name for name in scenario_names() if load_scenario(name).attacker is None}
    assert set(scenario_names()) - tried - set(STANDARD) - showing - quiet <= OTHERS


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({trial.scenario for trial in trials().values()}))
def test_what_a_trial_brings_gets_somewhere_without_the_requirement(name: str) -> None:
    requirement, trial = next((key, one) for key, one in trials().items() if one.scenario == name)
    record, trace = run(trial.arm(requirement, 1, on=False))
    hostile = [event for event in trace.events if event.kind == "attack.step"]
    assert all(event.data["technique"].startswith("T0") for event in hostile)
    if load_scenario(name).attacker is not None and hostile:
        assert record.succeeded > 0 or any(record.lost.values())
    else:
        assert trace.of_kind("event.step")


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("start: 300", "start: soon", "start"),
        ("action: modbus_write", "action: modbus_wriet", "action"),
        ("technique: T0855", "technique: T99", "technique"),
        ("attacker: {zone: $operations}", "attacker: {}", "attacker"),
        ("plc: $level_plc", "plcs: $level_plc", "plcs"),
    ],
)
def test_a_mistake_in_a_scenario_names_file_line_and_key(
    text: str, where: str, what: str, tmp_path: Path
) -> None:
    path = short_scenario(tmp_path, "unauthorized-write")
    source = (ROOT / "scenarios" / "library" / "unauthorized-write.yaml").read_text(encoding="utf-8")
    assert text in source
    path.write_text(source.replace(text, where), encoding="utf-8")
    with pytest.raises(DocumentError) as caught:
        load_scenario(path)
    assert any(problem.file == str(path) and what in problem.key for problem in caught.value.problems)


def test_a_scenario_that_does_not_exist_is_told_with_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'plc-flood'"):
        load_scenario("plc-flod")


def test_a_scenario_must_fit_the_site_and_the_run(tmp_path: Path) -> None:
    path = short_scenario(tmp_path, "unauthorized-write")
    with pytest.raises(OtlabError, match="after the run's end"):
        run(at(0, str(path), duration=60))
    path.write_text(
        path.read_text(encoding="utf-8").replace("plc: $level_plc", "plc: plc9"), encoding="utf-8"
    )
    with pytest.raises(OtlabError, match="no PLC 'plc9'"):
        run(at(0, str(path)))
    path.write_text(
        path.read_text(encoding="utf-8").replace("zone: $operations", "zone: moon"), encoding="utf-8"
    )
    with pytest.raises(OtlabError, match="nothing refers to this target"):
        run(at(0, str(path)))


# -- metrics -----------------------------------------------------------------------------------------------------


def record(**changes: object) -> RunRecord:
    base = RunRecord(
        at(0, "plc-flood", duration=1000), 30.0, attack_start=600.0, product=[float(i) for i in range(970)]
    )
    base.lost = {"view": [], "control": [], "safety": []}
    base.unsafe = {"T101.level": []}
    return replace(base, **changes)  # type: ignore[arg-type]


def test_an_alert_that_comes_without_the_attack_too_detects_nothing() -> None:
    twin = record(alerts=[(650.0, "siem", "rate:a")])
    attacked = record(alerts=[(640.0, "siem", "rate:a"), (700.0, "operator", "LIT101:HH")])
    assert first_true_alert(attacked, twin) == (700.0, "LIT101:HH")
    assert first_true_alert(record(alerts=[(599.0, "siem", "x:")]), twin) is None


def test_impact_is_the_first_loss_that_the_twin_does_not_have() -> None:
    twin = record(lost={"view": [(700.0, 720.0)]})
    attacked = record(lost={"view": [(705.0, 720.0), (800.0, 900.0)]}, trips=[(850.0, "P101")])
    assert first_impact(attacked, twin) == 800
    assert first_impact(record(trips=[(850.0, "P101")]), twin) == 850


def test_availability_counts_only_the_time_that_is_judged() -> None:
    assert available_share([(0.0, 50.0), (90.0, 110.0)], 40.0, 140.0) == pytest.approx(0.7)
    assert available_share([(0.0, 500.0)], 40.0, 140.0) == 0.0


def test_a_row_measures_an_attack_against_its_twin_and_the_base() -> None:
    attacked = record(
        alerts=[(660.0, "siem", "new flow:10.0.3.254")],
        lost={"view": [(700.0, 900.0)], "control": [], "safety": []},
        unsafe={"T101.level": [(800.0, 810.0)]},
        product=[min(float(i), 670.0) for i in range(970)],
        trips=[(850.0, "P101")],
        succeeded=3,
    )
    row = measure(attacked, record(), record())
    assert (row.detection_time, row.detected_by, row.impact_time) == (60, "new flow", 100)
    assert row.availability == pytest.approx(
        {"view": 0.5, "control": 1, "safety": 1, "production": 100 / 399}
    )
    assert (row.unsafe_seconds, row.trips_true, row.trips_spurious, row.attack_blocked) == (10, 1, 0, False)
    assert row.production_lost == pytest.approx(299)


def test_a_higher_level_blocks_or_shows_what_a_lower_one_lets_through(tmp_path: Path) -> None:
    scenario = str(short_scenario(tmp_path, "unauthorized-write"))
    low, high = (run(at(level, scenario, duration=150))[0] for level in (1, 2))
    assert low.succeeded > 0 == high.succeeded
    quiet = run(at(2, duration=150))[0]
    alert = first_true_alert(high, quiet)
    assert alert is not None
    assert alert[0] - 60 < 10


def test_a_one_time_code_on_every_network_costs_control_when_nobody_attacks() -> None:
    # At SL 4 the operator first logs in with password and code: longer than the control function's deadline.
    slow = run(at(4, duration=120))[0]
    assert run(at(0, duration=120))[0].lost["control"] == []
    assert slow.logins >= 1
