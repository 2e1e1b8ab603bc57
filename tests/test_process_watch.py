"""The monitor reads the process off the traffic, finds what does not fit, and is told to do so by a file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from reference_site import after, water

from devices.process_watch import LEARNED, learned_of
from devices.world import World
from lab.cli import main
from scenarios.experiment import site_of
from testbed.errors import OtlabError
from testbed.figures import load_figures

RULES = {"limits", "rate", "steady", "invariant", "cusum", "pca", "pasad"}


def findings(scenario: str | None, *more: str, duration: float = 900.0) -> dict[str, float]:
    """What the process side of the monitor found, and when first (s)."""
    record = after(scenario, "SR 6.2", *more, duration=duration)
    first: dict[str, float] = {}
    for time, _, what in record.alerts:
        if what.partition(":")[0] in RULES:
            first.setdefault(what, time)
    return first


def test_it_reads_what_the_stations_read() -> None:
    with water("SR 6.2") as world:
        world.loop.run_to(60.0)
        watch = world.monitors["mon1"].process
        assert watch is not None
        values = watch.values(world.loop.time())
        hmi = world.hmis["hmi1"]
        for tag in ("LIT101", "LIT301", "FIT101", "AIT201"):
            assert values[tag] == pytest.approx(hmi.values[tag], rel=0.05)
        assert set(values) >= {"MV101", "P101"}


def test_a_stuck_level_sensor_is_found_although_no_alarm_limit_is_passed() -> None:
    found = findings("sensor-stuck", duration=300.0)
    assert found["steady:LIT101"] < 300


def test_a_pump_that_stops_is_found_by_its_flow() -> None:
    assert any("FIT201" in what for what in findings("pump-fails", duration=400.0))


def test_forged_readings_beyond_the_tap_are_not_seen_but_what_they_cause_is() -> None:
    """The wire between firewall and station lies: the tap at the controllers shows the tank that runs over."""
    found = findings("wire-spoof", duration=1000.0)
    assert any(what.endswith("LIT301") for what in found)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_quiet_hour_has_hardly_a_finding(seed: int) -> None:
    assert len(findings(None, duration=3600.0)) <= 1


def test_under_tls_it_sees_nothing_and_says_nothing() -> None:
    assert findings("sensor-stuck", "SR 1.2 RE 1", duration=300.0) == {}


def copied(tmp_path: Path) -> Path:
    folder = tmp_path / "works"
    shutil.copytree(site_of("water").folder, folder)
    return folder


def test_a_site_that_was_not_trained_has_no_detectors(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    (folder / LEARNED).unlink()
    world = World(site_of(str(folder)), 1, load_figures())
    assert world.monitors["mon1"].process is None
    world.close()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "not what `otlab site train` writes"),
        ('{"detectors": {}}', "not what `otlab site train` writes"),
        ('{"detectors": {"limits": {"NO_SUCH": [0, 1]}}}', "no tag 'NO_SUCH'"),
    ],
)
def test_a_file_that_does_not_fit_is_told(text: str, sentence: str, tmp_path: Path) -> None:
    folder = copied(tmp_path)
    (folder / LEARNED).write_text(text)
    with pytest.raises(OtlabError, match=sentence):
        learned_of(site_of(str(folder)))


def test_training_writes_the_same_file_twice(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        result = CliRunner().invoke(
            main,
            ["site", "train", "boiler", "--runs", "1", "--seconds", "760", "--out", str(tmp_path / name)],
        )
        assert result.exit_code == 0, result.output
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert set(json.loads((tmp_path / "a.json").read_text())["detectors"]) == RULES


def test_detectors_are_scored_over_attacks_and_quiet_runs(tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    options = [
        "--scenario",
        "sensor-stuck",
        "--scenario",
        "stranger-commands",
        "--seeds",
        "1",
        "--duration",
        "400",
    ]
    result = CliRunner().invoke(main, ["detectors", "score", *options, "--out", str(out)])
    assert result.exit_code == 0, result.output
    scores = json.loads(out.read_text())
    assert scores["any"]["attacks"] >= 1
    assert scores["siem"]["detected"] >= 1
    assert scores["any"]["s"] >= 0.5
