"""Assessments by IEC 62443-3-2: their files, what is stale when, judgement, documents, review and gate."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from lab.assess import measure
from lab.assess.documents import approve, approved, note, report, specification, trail_breaks, write
from lab.assess.measure import Measuring
from lab.assess.model import Assessment, assessment_at, findings, start
from lab.assess.review import Limits, load_report, passed_limits, review
from lab.assess.steps import BY_NAME, STEPS, due, perform, state_of
from lab.cli import main
from results.risk import Matrix, default_matrix, risk_of
from results.store import RowStore
from testbed.document import parse
from testbed.errors import DocumentError, OtlabError
from testbed.site import load_site


def matrix() -> Matrix:
    return parse(default_matrix().encode(), "matrix.yaml", Matrix)


@contextmanager
def quiet(_: str, __: int) -> Iterator[Callable[[], None]]:
    yield lambda: None


def begun(folder: Path, **more: Any) -> Assessment:
    """A small assessment: one threat, one run of each arm less than that would be too few for an interval."""
    start(folder, "water", date="2026-03-02", seeds=2, duration=120.0, quick=True, **more)
    text = (folder / "assessment.yaml").read_text()
    text = text.replace("  - requirements\n", "").replace("improve_with:\n", "improve_with: []\n")
    text = text.replace("  - 1\n  - 4\n", "").replace("maturity_levels:\n", "maturity_levels: []\n")
    text = "\n".join(line for line in text.splitlines() if not line.startswith("probe:")) + "\n"
    (folder / "assessment.yaml").write_text(text)
    (folder / "threats.yaml").write_text(
        "threats:\n  stranger: {scenario: stranger-commands, attempts: 0.3, between: [0.03, 3], basis: a test}\n"
    )
    return assessment_at(folder)


def done(folder: Path, rows: Path, *names: str) -> int:
    """Do the steps that are due, or those named, in this process; how many runs that took."""
    ran = 0
    while True:
        assessment = assessment_at(folder)
        step = due(assessment)
        if step is None or (names and step.name not in names):
            return ran
        measuring = Measuring(assessment, RowStore(rows), 1, quiet)
        perform(measuring, step)
        ran += measuring.ran


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# -- the matrix and the risk of runs -----------------------------------------------------------------------------


def test_the_matrix_to_start_from_is_in_order() -> None:
    assert matrix().tolerable < matrix().highest


def test_more_attempts_never_lower_a_risk() -> None:
    ranks = [risk_of([2, 2, 0], attempts, matrix()).rank for attempts in (1e-6, 1e-3, 0.1, 10)]
    assert ranks == sorted(ranks)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.floats(0, 1e4))
def test_a_rank_lies_between_its_ends(outcomes: list[int], attempts: float) -> None:
    found = risk_of(outcomes, attempts, matrix())
    assert found.rank_low <= found.rank <= found.rank_high
    assert sum(found.counts) == found.trials == len(outcomes)


def test_nothing_seen_is_not_never() -> None:
    found = risk_of([0] * 6, 1.0, matrix())
    assert found.rank == 0
    assert found.rank_high > matrix().tolerable


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("serious: [1, 2, 2, 3, 4]", "serious: [1, 2, 2, 3]", "4 ranks for 5"),
        ("serious: [1, 2, 2, 3, 4]", "serious: [3, 2, 2, 3, 4]", "a rank falls"),
        ("grave: [2, 2, 3, 4, 5]", "grave: [1, 1, 1, 1, 1]", "below the ranks of the milder"),
        ("above: 1.0e-4", "above: 0.5", "from the rarest"),
        ("tolerable: 2", "tolerabel: 2", "tolerabel"),
    ],
)
def test_a_matrix_that_makes_no_sense_is_refused_with_its_place(old: str, new: str, says: str) -> None:
    text = default_matrix()
    assert old in text
    with pytest.raises(DocumentError, match=says):
        parse(text.replace(old, new).encode(), "matrix.yaml", Matrix)


# -- files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["water", "legacy", *(pytest.param(name, marks=pytest.mark.slow) for name in ("boiler", "reactor"))],
)
def test_a_draft_for_every_site_is_in_order(name: str, tmp_path: Path) -> None:
    start(tmp_path, name, date="2026-03-02")
    found = assessment_at(tmp_path)
    assert found.threats
    assert found.consideration.access_points
    assert found.in_place.requirements == ()
    assert all(threat.hits for threat in found.threats.values())


def test_the_flat_site_mixes_what_should_be_apart() -> None:
    assert {one.zcr for one in findings(load_site("legacy")).values()} >= {"3.2", "3.3", "3.6"}
    assert not {one for one in findings(load_site("water")) if one.startswith("safety")}


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(OtlabError, match="holds no assessment"):
        assessment_at(tmp_path)
    begun(tmp_path / "a")
    with pytest.raises(OtlabError, match="holds an assessment already"):
        start(tmp_path / "a", "water", date="2026-03-02")


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("threats.yaml", "threats: {x: {scenario: nothing-such, attempts: 1, basis: b}}", "nothing-such"),
        ("threats.yaml", "threats: {x: {scenario: wiper, attempts: -1, basis: b}}", "attempts"),
        (
            "threats.yaml",
            "threats: {x: {scenario: wiper, attempts: 1, basis: b, hits: [cellar]}}",
            "neither a zone nor a conduit",
        ),
        (
            "threats.yaml",
            "threats: {x: {scenario: wiper, attempts: 1, between: [2, 3], basis: b}}",
            "lie outside",
        ),
    ],
)
def test_wrong_threats_are_told(file: str, text: str, says: str, tmp_path: Path) -> None:
    begun(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(OtlabError, match=says):
        _ = assessment_at(tmp_path).threats


def test_judgement_takes_a_threat_that_is_assessed_and_a_reason(tmp_path: Path) -> None:
    begun(tmp_path)
    (tmp_path / "judgements.yaml").write_text(
        "risks: [{threat: other, likelihood: remote, reason: r, by: me}]"
    )
    with pytest.raises(OtlabError, match="no threat 'other'"):
        _ = assessment_at(tmp_path).judgements
    (tmp_path / "judgements.yaml").write_text("risks: [{threat: stranger, likelihood: remote, by: me}]")
    with pytest.raises(DocumentError, match="reason"):
        _ = assessment_at(tmp_path).judgements


def test_accepting_a_risk_takes_a_reason_and_a_name(tmp_path: Path) -> None:
    begun(tmp_path)
    (tmp_path / "decisions.yaml").write_text("residual: {stranger: {do: accept}}")
    with pytest.raises(DocumentError, match="a reason and a name"):
        _ = assessment_at(tmp_path).decisions


# -- the trail ---------------------------------------------------------------------------------------------------


def test_a_line_taken_from_or_changed_in_the_trail_is_found(tmp_path: Path) -> None:
    found = begun(tmp_path)
    for what in ("one", "two", "three"):
        note(found, lambda: "2026-03-02T06:00:00+00:00", what)
    assert trail_breaks(tmp_path) == []
    lines = (tmp_path / "audit.jsonl").read_text().splitlines()
    (tmp_path / "audit.jsonl").write_text("\n".join([lines[0], lines[2]]) + "\n")
    assert trail_breaks(tmp_path) == [2]
    (tmp_path / "audit.jsonl").write_text("\n".join([lines[0].replace("one", "own"), *lines[1:]]) + "\n")
    assert trail_breaks(tmp_path) == [2]


# -- from end to end ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An assessment with every step done, and where its runs are."""
    folder, rows = tmp_path_factory.mktemp("assessment"), tmp_path_factory.mktemp("rows")
    begun(folder, level="1")
    assert done(folder, rows) > 0
    write(assessment_at(folder))
    return folder, rows


@pytest.mark.slow
def test_every_step_is_done_or_says_what_is_for_people(whole: tuple[Path, Path]) -> None:
    found = assessment_at(whole[0])
    for step in STEPS:
        state, texts = state_of(found, step)
        assert (state == "open") == bool(texts), step.name
        assert state in ("open", "done"), step.name


@pytest.mark.slow
def test_every_number_of_the_report_leads_to_its_runs(whole: tuple[Path, Path]) -> None:
    whole_report = report(assessment_at(whole[0]))
    store = RowStore(whole[1])
    threats = whole_report["steps"]["residual"]["result"]["threats"]
    assert threats
    for risk in threats.values():
        arm = whole_report["arms"][risk["arm"]]
        assert len(arm["runs"]) == risk["trials"] == 2
        assert all(store.get(one["key"]) is not None for one in arm["runs"])
    for name in ("assessment.pdf", "crs.pdf"):
        assert (whole[0] / name).read_bytes().startswith(b"%PDF")
    for name in ("assessment.html", "crs.html"):
        page = (whole[0] / name).read_text()
        assert "<script" not in page
        for arm in {risk["arm"] for risk in threats.values()}:
            assert f'href="#arm-{arm}"' in page
            assert f'id="arm-{arm}"' in page


@pytest.mark.slow
def test_the_specification_has_every_asset_once_and_all_contents(whole: tuple[Path, Path]) -> None:
    crs = specification(assessment_at(whole[0]))
    assert [f"6.{number}" in crs for number in range(2, 10)] == [True] * 8
    placed = [asset for assets in crs["6.3"]["zones"].values() for asset in assets]
    assert sorted(placed) == sorted(load_site("water").assets)
    letters = {key[0] for key in crs["6.4"]["control"] if key[1] == "_"}
    assert letters == set("abcdefghijklmn")


@pytest.mark.slow
def test_one_more_threat_costs_its_own_runs_only_and_review_and_gate_see_it(
    whole: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, rows = whole
    before = load_report(folder)
    assert review(before, before) == []
    for path in folder.glob("*.yaml"):
        (tmp_path / path.name).write_text(path.read_text())
    with (tmp_path / "threats.yaml").open("a") as file:
        file.write("  wiper: {scenario: wiper, attempts: 0.3, basis: a test}\n")
    choices = 6  # five levels, of which one is in place, and all up to SL-T
    kept = {path for path in rows.rglob("*") if path.is_file()}
    assert done(tmp_path, rows) > 0
    assert len({path for path in rows.rglob("*") if path.is_file()} - kept) == 2 * choices
    change(tmp_path / "controls.yaml", "RA: 1", "RA: 0")
    assert done(tmp_path, rows) > 0
    write(assessment_at(tmp_path))
    changes = review(before, load_report(tmp_path))
    assert "new threat" in {one.what for one in changes if one.where == "wiper"}
    lost = [one for one in changes if one.what == "control lost"]
    assert lost
    assert all(one.worse for one in lost)
    assert any(one.what == "SL-A RA" and one.worse for one in changes)
    assert json.dumps([asdict(one) for one in changes])
    found = passed_limits(assessment_at(tmp_path), Limits(gap=0))
    assert any("below SL-T in RA" in text for text in found)
    assert any("residual risk" in text for text in passed_limits(assessment_at(tmp_path), Limits(risk=0)))
    change(tmp_path / "matrix.yaml", "tolerable: 2", "tolerable: 1")
    stale = passed_limits(assessment_at(tmp_path), Limits())
    assert any("is stale" in text for text in stale)


@pytest.mark.slow
def test_what_is_open_cannot_be_approved_and_the_commands_say_so(whole: tuple[Path, Path]) -> None:
    folder, _ = whole
    with pytest.raises(OtlabError, match="not to be approved yet"):
        approve(assessment_at(folder), "A. Person", "plant manager", "2026-03-02")
    assert approved(assessment_at(folder)) is None
    told = CliRunner().invoke(main, ["gate", str(folder), "--complete", "--approved"])
    assert told.exit_code == 1
    assert "not approved" in told.output
    same = CliRunner().invoke(main, ["review", str(folder), str(folder)])
    assert (same.exit_code, "0 changes" in same.output) == (0, True)
    assert CliRunner().invoke(main, ["assess", "status", str(folder)]).exit_code == 0
    assert CliRunner().invoke(main, ["assess", "runs", str(folder)]).exit_code == 0


def test_only_what_a_step_is_made_from_makes_it_stale(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    begun(folder)
    measuring = Measuring(assessment_at(folder), RowStore(tmp_path / "rows"), 1, quiet)
    for name in ("suc", "zones", "threats", "vulnerabilities"):
        perform(measuring, BY_NAME[name])
    change(folder / "vulnerabilities.yaml", "source:", "source: my own")  # a comment would do as well
    states = {name: state_of(assessment_at(folder), BY_NAME[name])[0] for name in ("suc", "vulnerabilities")}
    assert states == {"suc": "open", "vulnerabilities": "stale"}
    assert measuring.ran == 0


def test_gate_and_review_without_an_assessment_are_told_in_a_sentence(tmp_path: Path) -> None:
    for command in (["gate", str(tmp_path)], ["review", str(tmp_path), str(tmp_path)]):
        told = CliRunner().invoke(main, command)
        assert isinstance(told.exception, OtlabError | SystemExit)


def test_equal_choices_of_controls_share_their_runs_whatever_they_are_called() -> None:
    from controls.catalogue import SecurityLevels
    from controls.selection import select

    names: Sequence[str] = [measure.canonical(select(SecurityLevels.uniform(level))).name for level in (0, 2)]
    assert names == ["SL 0", "SL 2"]


# -- trend -------------------------------------------------------------------------------------------------------


def test_a_trend_of_two_assessments_is_drawn() -> None:
    from results.assessment_figures import trend
    from results.look import svg

    text = svg(trend([("2025-11-20", 1.2, 0.4, 2.5, 3, 1), ("2026-03-02", 3.0, None, None, 4, 3)]))
    assert "<svg" in text


def test_a_report_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"format": "other"}')
    with pytest.raises(OtlabError, match="no report of an assessment"):
        load_report(tmp_path / "x.json")
