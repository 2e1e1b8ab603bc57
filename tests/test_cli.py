"""The command line as a user meets it: what works, and what a mistake is answered with."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from controls.catalogue import SecurityLevels
from controls.selection import select
from lab.campaign import Campaign, perform
from results.store import RowStore

ROOT = Path(__file__).parent.parent
QUICK = """
name: quick
title: A quick one
summary: Writes once.
start: 40
attacker: {zone: operations}
steps:
  - {action: modbus_write, technique: T0855, plc: plc1, values: {MV101_AUTO: 0}}
"""


def otlab(*arguments: str, cwd: Path, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    def full_disk() -> None:
        if limit is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writes past the limit then fail as on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [sys.executable, "-m", "lab.cli", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        preexec_fn=full_disk,
    )


def one_sentence(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("otlab: ")]
    assert len(told) == 1, done.stderr
    for part in parts:
        assert part in told[0]


def test_list_names_sites_scenarios_and_what_acts(tmp_path: Path) -> None:
    done = otlab("list", cwd=tmp_path)
    assert done.returncode == 0
    for part in ("water", "plc-flood", "(T0814)", "SR 5.2 RE 1 (SL 2)"):
        assert part in done.stdout


def test_controls_tells_the_whole_catalogue_and_what_a_level_needs(tmp_path: Path) -> None:
    assert len(otlab("controls", "list", cwd=tmp_path).stdout.splitlines()) == 100
    lines = otlab("controls", "list", "--sl", "TRE=2", cwd=tmp_path).stdout.splitlines()
    assert [line.split("  ")[0].strip() for line in lines] == ["SR 6.1", "SR 6.2"]


def test_figures_can_be_looked_up_and_changed(tmp_path: Path) -> None:
    assert "plc.request_cost = 0.002 s  [assumption]" in otlab("figures", "request_cost", cwd=tmp_path).stdout
    one_sentence(otlab("run", "--set", "plc.request_csot=1", cwd=tmp_path), "plc.request_cost")
    done = otlab("run", "--set", "plc.request_cost", cwd=tmp_path)
    assert done.returncode == 2
    assert "KEY=NUMBER" in done.stderr


def test_run_tells_and_keeps_what_happened(tmp_path: Path) -> None:
    (tmp_path / "quick.yaml").write_text(QUICK, encoding="utf-8")
    done = otlab(
        "run", "--scenario", "quick.yaml", "--duration", "90",
        "--trace", "out/t.jsonl", "--timeline", "out/t.svg", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "attack.step rogue1 T0855 done" in done.stdout
    events = [
        json.loads(line) for line in (tmp_path / "out" / "t.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert {"t", "kind", "source"} <= set(events[0])
    assert (tmp_path / "out" / "t.csv").read_text(encoding="utf-8").startswith("time,T101.level,")
    assert (tmp_path / "out" / "t.svg").read_bytes().startswith(b"<?xml")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("run", "--scenario", "plc-flod"), ("did you mean 'plc-flood'",)),
        (("run", "--site", "wather"), ("did you mean 'water'",)),
        (("run", "--site", "missing/site.yaml"), ("missing/site.yaml",)),
        (("run", "--sl", "7"), ("security level is 0 to 4",)),
        (("run", "--scenario", "plc-flood", "--duration", "200"), ("after the run's end",)),
        (("compare", "--scenario", "nothing"), ("unknown scenario 'nothing'",)),
    ],
)
def test_a_mistake_is_answered_in_one_sentence(
    arguments: tuple[str, ...], parts: tuple[str, ...], tmp_path: Path
) -> None:
    one_sentence(otlab(*arguments, cwd=tmp_path), *parts)
    assert not list(tmp_path.rglob("*.html"))


def test_every_mistake_in_a_site_is_told_with_its_place(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    source = ROOT / "testbed" / "sites" / "water"
    for path in source.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    text = (folder / "site.yaml").read_text(encoding="utf-8")
    assert otlab("site", "check", "mine", cwd=tmp_path).returncode == 0
    # The historian moves to the OPC UA server's address: no two assets share one.
    (folder / "site.yaml").write_text(
        text.replace("10.0.3.30", "10.0.3.20").replace("zone: dmz", "zone: dzm"), encoding="utf-8"
    )
    done = otlab("site", "check", "mine", cwd=tmp_path)
    assert done.returncode == 2
    assert "address" in done.stderr
    assert "dzm" in done.stderr
    assert all(
        line.startswith(("otlab: mine/site.yaml:", "mine/site.yaml:")) for line in done.stderr.splitlines()
    )


def test_logic_that_does_not_compile_is_told_with_file_line_and_column(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for path in (ROOT / "testbed" / "sites" / "water").iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    program = folder / "plc3.st"
    program.write_text(program.read_text(encoding="utf-8").replace("END_VAR", "END_VRA", 1), encoding="utf-8")
    one_sentence(otlab("site", "check", "mine", cwd=tmp_path), "plc3.st:")


def test_a_full_disk_is_told_and_leaves_no_half_report(tmp_path: Path) -> None:
    done = otlab("run", "--duration", "60", "--pcap", "a.pcapng", cwd=tmp_path, limit=4096)
    one_sentence(done, "a.pcapng", "File too large")
    done = otlab(
        "compare", "--scenario", "plc-flood", "--level", "0", "--seeds", "1", "--duration", "320",
        "--workers", "1", cwd=tmp_path, limit=512,
    )  # fmt: skip
    one_sentence(done, "could not write")
    assert not list(tmp_path.rglob("report.html"))
    assert not list(tmp_path.rglob("*.part"))


def test_compare_writes_a_report_of_its_own_and_runs_nothing_twice(tmp_path: Path) -> None:
    (tmp_path / "quick.yaml").write_text(QUICK, encoding="utf-8")
    command = (
        "compare",
        "--scenario",
        "quick.yaml",
        "--level",
        "0",
        "--level",
        "2",
        "--seeds",
        "2",
        "--duration",
        "90",
    )
    done = otlab(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = (tmp_path / "runs" / "compare" / "report.html").read_text(encoding="utf-8")
    assert "<svg" in report
    assert "http://" not in report.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    rows = (tmp_path / "runs" / "compare" / "rows.jsonl").read_bytes()
    assert len(rows.splitlines()) == 2 * 2 * 2
    again = otlab(*command, "--workers", "1", cwd=tmp_path)
    assert again.returncode == 0
    assert (tmp_path / "runs" / "compare" / "rows.jsonl").read_bytes() == rows
    assert (tmp_path / "runs" / "compare" / "report.html").read_text(encoding="utf-8").split("otlab compare")[
        0
    ] == report.split("otlab compare")[0]


def campaign(scenario: str, seeds: int = 1) -> Campaign:
    return Campaign(
        "water", (scenario,), (select(SecurityLevels.uniform(0)),), tuple(range(1, seeds + 1)), 90.0
    )


def test_workers_and_one_process_give_the_same_rows(tmp_path: Path) -> None:
    (tmp_path / "quick.yaml").write_text(QUICK, encoding="utf-8")
    plan = campaign(str(tmp_path / "quick.yaml"), seeds=2)
    alone = perform(plan, RowStore(tmp_path / "one"), 1)
    assert perform(plan, RowStore(tmp_path / "two"), 2) == alone


KILLED = """
import os, signal
from pathlib import Path

from controls.catalogue import SecurityLevels
from controls.selection import select
from lab.campaign import Campaign, perform
from results.store import RowStore
from testbed.errors import RunError

plan = Campaign("water", ("quick.yaml",), (select(SecurityLevels.uniform(0)),), (1, 2, 3), 90.0)
killed = []

def kill_the_workers():
    if not killed:
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        killed.extend(pid for pid in children if b"popen_loky" in Path(f"/proc/{pid}/cmdline").read_bytes())
        for pid in killed:
            os.kill(int(pid), signal.SIGKILL)

try:
    perform(plan, RowStore("rows"), 2, kill_the_workers)
except RunError as error:
    print(len(killed), error)
print(len(perform(plan, RowStore("rows"), 2)))
"""


def test_a_killed_worker_is_told_and_the_same_command_goes_on(tmp_path: Path) -> None:
    # In a process of its own: what the killed workers leave behind is this process's to clean up.
    (tmp_path / "quick.yaml").write_text(QUICK, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", KILLED],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told, rows = done.stdout.splitlines()
    assert "a worker process died" in told
    assert rows == "6"
