"""Suricata reads the same traffic and sees the same attacks at the same time as the site's own monitor."""

from __future__ import annotations

import json
import shutil
import subprocess
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from controls import profiles
from lab.cli import main
from scenarios.experiment import Experiment, run, site_of

pytestmark = pytest.mark.skipif(
    shutil.which("suricata") is None, reason="suricata is not installed: it judges the monitor from outside"
)

#: Seconds that the two may differ: a monitor's report also has to reach the SIEM.
NEAR = 3.0


def both(scenario: str | None, folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """First time (s) of every alert of Suricata by what it says, and of our monitor by rule."""
    written = CliRunner().invoke(main, ["site", "suricata", "water", "--out", str(folder)])
    assert written.exit_code == 0, written.output
    capture = folder / "run.pcapng"
    experiment = Experiment("water", profiles.check(("SR 6.2",)), "test", scenario, 1, 240.0)
    record, _ = run(experiment, capture=capture)
    options = ["-c", folder / "suricata.yaml", "-S", folder / "otlab.rules", "-l", folder, "-r", capture]
    judged = subprocess.run(
        ["suricata", *map(str, options), "-k", "none", "--runmode", "single"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert judged.returncode == 0, judged.stderr
    assert "Error" not in judged.stderr
    theirs: dict[str, float] = {}
    begin = site_of("water").epoch.timestamp()
    for line in (folder / "eve.json").read_text().splitlines():
        event = json.loads(line)
        name = event["alert"]["signature"].removeprefix("OTLAB ")
        theirs.setdefault(name, datetime.fromisoformat(event["timestamp"]).timestamp() - begin)
    ours: dict[str, float] = {}
    for time, _, what in record.alerts:
        ours.setdefault(what.partition(":")[0], time)
    return theirs, ours


@pytest.mark.parametrize(
    ("scenario", "pairs"),
    [
        (
            "stranger-commands",
            {
                "new flow to plc3": "new flow",
                "write to plc3 by somebody who only reads": "Modbus function",
            },
        ),
        ("setpoint-out-of-range", {"value out of range at plc3": "value out of range"}),
        ("recon-sweep", {"new flow to plc1": "new flow", "scan": "scan"}),
        (
            "tampered-logic",
            {"new flow to plc3": "new flow", "program transfer with plc3": "Modbus function"},
        ),
    ],
)
def test_it_alerts_when_our_monitor_does(scenario: str, pairs: dict[str, str], tmp_path: Path) -> None:
    theirs, ours = both(scenario, tmp_path)
    for name, rule in pairs.items():
        assert theirs[name] == pytest.approx(ours[rule], abs=NEAR), (theirs, ours)


def test_a_quiet_run_is_quiet_for_both(tmp_path: Path) -> None:
    assert both(None, tmp_path) == ({}, {})
