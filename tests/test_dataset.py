"""Datasets: whole, labelled as the trace has it, the same every time, and resumed where they were left."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from lab.cli import main
from results.dataset import digest

OPTIONS = ["--scenario", "stranger-commands", "--seeds-train", "1", "--seeds-test", "101", "--workers", "1"]


def written(out: Path, *more: str, duration: int = 240) -> dict[str, object]:
    result = CliRunner().invoke(
        main, ["dataset", *OPTIONS, "--duration", str(duration), "--out", str(out), *more]
    )
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads((out / "manifest.json").read_text())
    return found


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dataset")
    written(out)
    return out


def test_quiet_runs_and_attacks_are_in_both_parts(whole: Path) -> None:
    found = sorted(str(path.relative_to(whole)) for path in whole.glob("*/*") if path.is_dir())
    assert found == [
        "test/quiet-101",
        "test/stranger-commands-101",
        "train/quiet-1",
        "train/stranger-commands-1",
    ]
    manifest = json.loads((whole / "manifest.json").read_text())
    starts = [run["attack_start"] for run in manifest["runs"] if run["scenario"]]
    assert len(set(starts)) == 2  # each at a moment of its own
    assert all(0.2 * 240 <= start <= 0.7 * 240 + 5 for start in starts)


def test_labels_are_those_of_the_trace(whole: Path) -> None:
    folder = whole / "train" / "stranger-commands-1"
    steps = [row for row in rows(folder / "events.csv") if row["kind"] == "attack.step"]
    labels = rows(folder / "labels.csv")
    assert [row["technique"] for row in labels if row["label"] == "step"] == ["T0855"] * len(steps)
    [attack] = [row for row in labels if row["label"] == "attack"]
    assert float(attack["end"]) == pytest.approx(float(steps[-1]["time"]), abs=1e-5)
    after = [row for row in rows(folder / "tags.csv") if row["after"] == "true"]
    assert float(after[0]["time"]) == pytest.approx(float(attack["start"]), abs=1.0)
    quiet = rows(whole / "train" / "quiet-1" / "tags.csv")
    assert {row["after"] for row in quiet} == {"false"}


def test_tags_are_what_the_taps_show_and_truth_is_apart(whole: Path) -> None:
    folder = whole / "train" / "quiet-1"
    tags, truth = rows(folder / "tags.csv"), rows(folder / "truth.csv")
    assert len(tags) == 239  # one a second, and none at the very end
    late = tags[200]
    assert 0 < float(late["LIT101"]) < 1300
    assert "LIT101" not in COMMON
    assert len(truth) > 200


COMMON = {"time", "attack", "after", "impact"}


def test_only_the_attackers_flows_are_marked(whole: Path) -> None:
    flows = rows(whole / "train" / "stranger-commands-1" / "flows.csv")
    marked = {row["source_name"] for row in flows if row["attack"] == "true"}
    assert marked == {"rogue1"}
    assert not [row for row in rows(whole / "train" / "quiet-1" / "flows.csv") if row["attack"] == "true"]
    assert all(int(row["packets_out"]) >= 1 for row in flows)


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_tshark_reads_the_capture_and_finds_the_write(whole: Path) -> None:
    capture = whole / "train" / "stranger-commands-1" / "capture.pcapng"
    found = subprocess.run(
        ["tshark", "-r", str(capture), "-Y", "modbus.func_code == 5", "-T", "fields", "-e", "ip.src"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    [rogue] = {
        row["source"]
        for row in rows(whole / "train" / "stranger-commands-1" / "flows.csv")
        if row["attack"] == "true" and row["target_port"] == "502"
    }
    assert rogue in found


def test_every_file_has_the_sum_that_is_written_of_it(whole: Path) -> None:
    for folder in whole.glob("*/*/"):
        files = json.loads((folder / "run.json").read_text())["files"]
        assert {name: digest(folder / name) for name in files} == files


def sums(out: Path) -> dict[str, str]:
    return {str(path.relative_to(out)): digest(path) for path in sorted(out.rglob("*")) if path.is_file()}


def test_the_same_command_writes_the_same_bytes_and_a_damaged_run_is_written_again(
    whole: Path, tmp_path: Path
) -> None:
    pytest.importorskip("duckdb")
    written(tmp_path / "one", "--format", "parquet", duration=120)
    written(tmp_path / "two", "--format", "parquet", duration=120)
    before = sums(tmp_path / "one")
    assert sums(tmp_path / "two") == before
    kept = tmp_path / "two" / "test" / "quiet-101" / "truth.csv"
    untouched = tmp_path / "two" / "train" / "quiet-1" / "truth.csv"
    age = untouched.stat().st_mtime_ns
    kept.write_text("torn")
    (tmp_path / "two" / "test" / ".quiet-101.part").mkdir()  # what a killed run leaves
    written(tmp_path / "two", "--format", "parquet", duration=120)
    assert sums(tmp_path / "two") == before
    assert untouched.stat().st_mtime_ns == age


def test_parquet_has_types(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    written(tmp_path, "--format", "parquet", "--no-pcap", duration=120)
    folder = tmp_path / "train" / "stranger-commands-1"
    assert not (folder / "capture.pcapng").exists()
    kinds = dict(
        duckdb.sql(
            f"SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM '{folder}/tags.parquet')"
        ).fetchall()
    )
    assert kinds["after"] == "BOOLEAN"
    assert kinds["LIT101"] == "DOUBLE"
    assert duckdb.sql(f"SELECT count(*) FROM '{folder}/tags.parquet'").fetchall() == [(119,)]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--seeds-train", "1:3", "--seeds-test", "3"], "both train and test"),
        (["--seeds-train", "x"], "is not a seed"),
        (["--scenario", "no-such"], "no-such"),
        (["--site", "no-such"], "no-such"),
    ],
)
def test_mistakes_are_told_in_a_sentence(options: list[str], sentence: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["dataset", *options, "--out", str(tmp_path), "--workers", "1"])
    assert result.exit_code == 2
    assert sentence in result.output
    assert not list(tmp_path.rglob("run.json"))
