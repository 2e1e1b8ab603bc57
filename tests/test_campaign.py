"""Campaigns from a file: what a design runs, that runs are kept, and that other machines give the same rows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from click.testing import CliRunner

from lab.campaign import Processes, complete, runs_of
from lab.cli import main
from lab.plan import arms, experiments, load_plan
from results.query import ask, columns, values_of, write_table
from results.rows import Row
from results.store import RowStore
from testbed.errors import DocumentError, OtlabError, UnknownNameError

ROOT = Path(__file__).parent.parent
QUICK = """\
name: quick
title: A quick one
summary: Writes once.
start: 40
attacker: {zone: operations}
steps:
  - {action: modbus_write, technique: T0855, plc: plc1, values: {MV101_AUTO: 0, MV101_CMD: 1}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "quick.yaml").write_text(QUICK)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan_of(folder: Path, text: str) -> Path:
    path = folder / "plan.yaml"
    path.write_text("name: mine\nscenarios: [quick.yaml]\nduration: 60\nseeds: 1\n" + textwrap.dedent(text))
    return path


# -- designs -----------------------------------------------------------------------------------------------------


def test_a_factorial_runs_every_combination_and_names_what_varies(folder: Path) -> None:
    plan = load_plan(
        plan_of(folder, "levels: [0, 2]\nattackers: [null, state]\nfigures: {login.totp.mean: [8, 30]}\n")
    )
    found = arms(plan)
    assert len(found) == 8
    assert {arm.selection.name for arm in found} == {
        f"SL {level}, login.totp.mean={seconds}" for level in (0, 2) for seconds in (8, 30)
    }
    assert {arm.attacker for arm in found} == {None, "state"}


def test_one_at_a_time_moves_one_thing_from_the_base(folder: Path) -> None:
    plan = load_plan(
        plan_of(folder, "levels: [1, 2, 3]\nmaturity: [null, 2]\ndesign: {kind: one_at_a_time}\n")
    )
    assert [(arm.selection.name, arm.selection.maturity) for arm in arms(plan)] == [
        ("SL 1", None),
        ("SL 2", None),
        ("SL 3", None),
        ("SL 1", 2),
    ]


def test_a_latin_hypercube_meets_every_stratum_of_every_axis(folder: Path) -> None:
    plan = load_plan(
        plan_of(
            folder,
            """\
            levels: [0, 1, 2, 3]
            figures: {login.totp.mean: {low: 0, high: 8}}
            design: {kind: latin_hypercube, points: 8}
            """,
        )
    )
    found = arms(plan)
    assert sorted(arm.selection.name.partition(",")[0] for arm in found) == [
        f"SL {level}" for level in range(4) for _ in range(2)
    ]
    assert sorted(int(dict(arm.overrides)["login.totp.mean"]) for arm in found) == list(range(8))


def test_paired_arms_differ_by_the_toggle_alone(folder: Path) -> None:
    plan = load_plan(plan_of(folder, "levels: [1]\ndesign: {kind: paired, toggles: [SR 6.2, IAC]}\n"))
    off, on, without_iac, with_iac = (set(arm.selection.requirements) for arm in arms(plan))
    assert on - off == {"SR 6.2"}
    assert off < on
    assert all(name.startswith("SR 1.") for name in with_iac - without_iac)
    assert without_iac < with_iac


def test_shapley_runs_every_subset_of_its_parts(folder: Path) -> None:
    plan = load_plan(plan_of(folder, "design: {kind: shapley, level: 2, parts: [IAC, UC, RDF]}\n"))
    assert len(arms(plan)) == 8
    assert arms(plan)[0].selection.requirements == ()


def test_arms_share_seeds_and_what_they_are_measured_against(folder: Path) -> None:
    plan = load_plan(plan_of(folder, "levels: [0, 2]\n"))
    wanted = experiments(plan)
    # Two attacked runs, the quiet run of each level; that of level 0 is the base too.
    assert runs_of(wanted) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("figures: {login.totp.meen: [8]}\n", "login.totp.meen"),
        ("figures: {login.totp.mean: {low: 1, high: 2}}\n", "a range has no values for a factorial design"),
        ("attackers: [martian]\n", "martian"),
        ("design: {kind: sobol, points: 8}\n", "there is none"),
        ("design: {kind: sobol, points: 7}\nfigures: {login.totp.mean: {low: 1, high: 2}}\n", "power of two"),
        ("design: {kind: paired, toggles: [SR 9.9]}\n", "SR 9.9"),
        ("levels: [7]\n", "7"),
        ("sites: [mars]\n", "mars"),
    ],
)
def test_mistakes_in_a_plan_are_sentences(folder: Path, text: str, message: str) -> None:
    with pytest.raises((DocumentError, OtlabError), match=message):
        load_plan(plan_of(folder, text))


# -- running -----------------------------------------------------------------------------------------------------


def test_what_was_run_is_not_run_again_and_what_was_killed_goes_on(folder: Path) -> None:
    path = plan_of(folder, "levels: [0, 1]\n")
    wanted = experiments(load_plan(path))
    store = RowStore(folder / "rows")
    first = complete(wanted, store, Processes(1))
    left = sorted((folder / "rows").rglob("*.jsonl"))
    left[0].write_bytes(left[0].read_bytes()[:40])  # torn
    calls: list[None] = []
    assert complete(wanted, store, Processes(1), lambda: calls.append(None)) == first
    assert len(calls) == runs_of(wanted)


@pytest.mark.slow
@pytest.mark.parametrize("after", [1.5, 4.0, 7.0])
def test_a_campaign_killed_at_any_moment_gives_the_same_rows_afterwards(folder: Path, after: float) -> None:
    path = plan_of(folder, "levels: [0, 1, 2]\n")
    command = [
        sys.executable,
        "-m",
        "lab.cli",
        "campaign",
        "run",
        str(path),
        "--workers",
        "2",
        "--out",
        "out",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        process.wait(timeout=after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = (folder / "out" / "rows.jsonl").read_text()
    whole = complete(experiments(load_plan(path)), RowStore(folder / "other"), Processes(1))
    assert [Row.from_dict(json.loads(line)) for line in rows.splitlines()] == whole


@pytest.mark.slow
@pytest.mark.realtime
def test_a_cluster_that_loses_a_worker_gives_the_same_rows(folder: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")
    from lab.cluster import Cluster

    wanted = experiments(load_plan(plan_of(folder, "levels: [0, 1]\n")))
    alone = complete(wanted, RowStore(folder / "alone"), Processes(1))
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, processes=True
    ) as cluster:
        killed: list[int] = []

        def kill_one() -> None:
            if not killed:
                worker = next(iter(cluster.workers.values()))
                killed.append(worker.pid)
                os.kill(worker.pid, signal.SIGKILL)

        rows = complete(wanted, RowStore(folder / "far"), Cluster(cluster.scheduler_address), kill_one)
    assert killed
    assert rows == alone


# -- tables ------------------------------------------------------------------------------------------------------


@pytest.fixture
def rows(folder: Path) -> list[Row]:
    return complete(experiments(load_plan(plan_of(folder, ""))), RowStore(folder / "rows"), Processes(1))


def test_rows_are_a_table_for_sql(rows: list[Row], folder: Path) -> None:
    pytest.importorskip("duckdb", reason="the extra 'analysis' is not installed")
    for name in ("rows.csv", "rows.parquet"):
        write_table(rows, folder / name)
        names, found = ask('SELECT scenario, "availability.view", detected FROM rows', [folder / name])
        assert names == ["scenario", "availability.view", "detected"]
        assert found == [("quick.yaml", rows[0].availability["view"], rows[0].detected)]
    with pytest.raises(OtlabError, match="the query"):
        ask("SELECT nothing FROM rows", [folder / "rows.csv"])


def test_metrics_are_columns_and_a_wrong_one_is_told(rows: list[Row]) -> None:
    assert values_of(rows, "availability.control") == [rows[0].availability["control"]]
    assert values_of(rows, "detected") == [float(rows[0].detected)]
    with pytest.raises(UnknownNameError):
        values_of(rows, "availability.coffee")
    with pytest.raises(OtlabError, match="text"):
        values_of(rows, "scenario")
    assert len(columns()) == len(set(columns()))


def test_a_table_of_another_kind_is_refused(rows: list[Row], folder: Path) -> None:
    with pytest.raises(OtlabError, match="ends in"):
        write_table(rows, folder / "rows.xls")


# -- the commands ------------------------------------------------------------------------------------------------


def test_check_run_show_and_attribute(folder: Path) -> None:
    path = plan_of(folder, "levels: [1]\ndesign: {kind: paired, toggles: [SR 6.2]}\n")
    runner = CliRunner()
    assert "2 arms x 1 seeds" in runner.invoke(main, ["campaign", "check", str(path)]).output
    before = runner.invoke(main, ["campaign", "show", str(path)])
    assert "0 of 2 rows" in before.output
    early = runner.invoke(main, ["campaign", "attribute", str(path), "--metric", "unsafe_seconds"])
    assert (early.exit_code, "run the campaign first" in early.output) == (2, True)
    done = runner.invoke(main, ["campaign", "run", str(path), "--workers", "1"])
    assert done.exit_code == 0, done.output
    told = runner.invoke(main, ["campaign", "attribute", str(path), "--metric", "availability.view"])
    assert "SR 6.2" in told.output
