"""``otlab campaign report``: finished runs as a page with figures, and what matters how much as a tornado."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from lab.cli import main

PLAN = """\
name: small
scenarios: [{scenario}]
seeds: 2
duration: 120
design: {{kind: paired, toggles: [IAC, RDF]}}
"""


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN.format(scenario="none"))
    return path


def call(*arguments: object) -> tuple[int, str]:
    found = CliRunner().invoke(main, ["campaign", *map(str, arguments)])
    return found.exit_code, found.output + str(found.exception or "")


def test_a_report_of_nothing_is_refused(plan: Path, tmp_path: Path) -> None:
    code, said = call("report", plan, "--out", tmp_path / "out")
    assert code != 0
    assert "run the campaign first" in said
    assert not (tmp_path / "out" / "report.html").exists()


def test_a_report_has_its_figures_and_says_what_matters(plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, said = call("run", plan, "--workers", 1, "--out", out)
    assert code == 0, said
    code, said = call("report", plan, "--metric", "availability.control", "--pdf", "--out", out)
    assert code == 0, said
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "availability.control: change by each, paired by seed" in page
    assert (out / "importance-availability.control-1.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "report.pdf").read_bytes().startswith(b"%PDF")
    assert call("attribute", plan, "--metric", "availability.control", "--out", out)[1].count("\n") == 3
    code, said = call("report", plan, "--metric", "beauty", "--out", out)
    assert code != 0
    assert "beauty" in said
