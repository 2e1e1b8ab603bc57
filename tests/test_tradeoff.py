"""Trade-offs: which sets none beats, what a step is worth, and the search from the command line to the report."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from lab.cli import main
from lab.tradeoff import Choice, Problem
from results.look import svg
from results.pdf import to_pdf
from results.report import inline_svg
from results.rows import Row
from results.statistics import Estimate
from results.trade_figures import importance, pareto
from results.tradeoff import OBJECTIVES, Point, balanced, change, delay, dominates, front, harm
from testbed.errors import OtlabError

QUIET = Row(
    "water", "none", "SL 0", 0, 1, 1000.0, None, False, None, None, 0.0, None, None,
    {"view": 1.0, "control": 0.9, "safety": 1.0, "production": 1.0},
    0.0, 0, 0, 0.0, 0, 0, 0, 30.0, 0, 0.0, False,
)  # fmt: skip


def point(key: str, *means: float, spread: float = 0.0) -> Point:
    """A set with these means, over four seeds."""
    names = list(OBJECTIVES)[: len(means)]
    luck = (-spread, -spread / 3, spread / 3, spread)
    return Point(
        key,
        {n: {s: m + luck[s] for s in range(4)} for n, m in zip(names, means, strict=True)},
        {"a": means[0]},
    )


def test_harm_is_what_an_attack_took_beyond_what_the_controls_cost_themselves() -> None:
    attacked = replace(QUIET, scenario="x", attack_start=100.0, observed=900.0)
    assert harm(attacked, QUIET) == 0.0
    assert harm(
        replace(attacked, availability={**QUIET.availability, "control": 0.4}), QUIET
    ) == pytest.approx(50)
    assert harm(replace(attacked, unsafe_seconds=90.0), QUIET) == pytest.approx(10)
    assert harm(replace(attacked, attack_start=None, unsafe_seconds=90.0), QUIET) == 0.0


def test_an_emergency_that_nobody_answers_lasts_as_long_as_the_run() -> None:
    assert delay(QUIET) == 30.0
    assert delay(replace(QUIET, operator_delay=None)) == 1000.0


means = st.lists(st.tuples(*[st.integers(0, 4).map(float)] * 3), min_size=1, max_size=20)


@given(means)
def test_the_front_is_what_none_beats_and_all_else_is_beaten(
    values: list[tuple[float, float, float]],
) -> None:
    points = [point(f"p{number}", *one) for number, one in enumerate(values)]
    best = front(points)
    assert best
    assert not any(dominates(one, other) for one in points for other in best)
    kept = {tuple(one.mean(name) for name in one.values) for one in best}
    for one in points:
        beaten = any(dominates(other, one) for other in points)
        assert beaten != (tuple(one.mean(name) for name in one.values) in kept)
    assert balanced(best) in best


def test_the_balanced_set_keeps_the_limits_or_there_is_none() -> None:
    points = [point("safe", 0.0, 9.0), point("middle", 3.0, 3.0), point("cheap", 9.0, 0.0)]
    assert balanced(points).key == "middle"  # type: ignore[union-attr]
    assert balanced(points, {"risk": 1.0}).key == "safe"  # type: ignore[union-attr]
    assert balanced(points, {"risk": -1.0}) is None


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        (point("b", 1.0, 5.0), "take it"),
        (point("b", 5.0, 9.0), "leave it"),
        (point("b", 1.0, 9.0), "a trade"),
        (point("b", 5.0, 5.0), "no difference seen"),
    ],
)
def test_a_step_is_judged_by_what_surely_changes(after: Point, verdict: str) -> None:
    assert change("step", after, point("a", 5.0, 5.0), ["SR 1.1"]).verdict == verdict


def test_a_difference_that_luck_explains_is_none() -> None:
    # Every seed moves by another amount, on both sides of zero.
    assert (
        change("step", point("b", 5.1, 5.0, spread=3.0), point("a", 5.0, 5.0), []).verdict
        == "no difference seen"
    )


def test_every_neighbor_is_one_step_away_and_can_be_put_in_force() -> None:
    middle = Choice((2, 0, 4, 1, 1, 1, 1), ("break_glass",))
    steps = dict(middle.neighbors())
    assert "drop UC 0 to -1" not in steps
    assert "add SI 4 to 5" not in steps
    assert steps["drop break_glass"].compensating == ()
    assert steps["add UC 0 to 1"].levels == (2, 1, 4, 1, 1, 1, 1)
    for one in steps.values():
        one.selection()  # a requirement without what it needs is left out, and nothing is refused
    assert len(set(steps.values())) == len(steps)


def test_without_an_emergency_operators_are_not_judged() -> None:
    assert "operators' delay" not in Problem("water", ("a",), (), (1,), 600.0).objectives


def test_figures_are_the_same_bytes_again_and_hold_drawing_only() -> None:
    points = [
        point("SL 0", 9.0, 0.0, 10.0, 0.0),
        point("SL 4", 0.0, 2.0, 60.0, 90.0),
        point("x", 1.0, 1.0, 1.0, 1.0),
    ]
    units = dict(OBJECTIVES)
    drawn = [svg(pareto(points, front(points), "x", units)) for _ in range(2)]
    assert drawn[0] == drawn[1]
    inline_svg(drawn[0], "p-", "Pareto")
    bars = {"IAC": Estimate(-3.0, -4.0, -2.0), "UC": Estimate(1.0, None, None), "SI": Estimate()}
    assert svg(importance(bars, "x")) == svg(importance(bars, "x"))


def test_a_page_becomes_a_pdf_the_same_bytes_again_and_refers_to_nothing() -> None:
    page = "<style>:root { --ink: #123456; }</style><p style='color: var(--ink)'>text</p>"
    assert to_pdf(page).startswith(b"%PDF-")
    assert to_pdf(page) == to_pdf(page)
    with pytest.raises(OtlabError, match="refers to"):
        to_pdf('<img src="file:///etc/hostname">')


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--at-most", "risk"], "write a name and a number"),
        (["--at-most", "speed=1"], "no objective 'speed'"),
        (["--scenario", "nothing-like-it"], "nothing-like-it"),
        (["--set", "burden.nothing=1"], "burden.nothing"),
    ],
)
def test_bad_options_are_told_before_anything_runs(options: list[str], says: str, tmp_path: Path) -> None:
    found = CliRunner().invoke(main, ["tradeoff", *options, "--out", str(tmp_path / "out")])
    assert found.exit_code != 0
    assert says in found.output + str(found.exception or "")
    assert not (tmp_path / "out" / "rows").exists()


@pytest.mark.slow
def test_the_search_finds_a_cheaper_set_than_sl_4_and_repeats_to_the_byte(tmp_path: Path) -> None:
    options = [
        "tradeoff", "--trials", "2", "--batch", "4", "--seeds", "2", "--duration", "300", "--human", "simple",
        "--scenario", "account-phished-outside", "--workers", "2", "--pdf",
    ]  # fmt: skip
    texts = []
    for _ in range(2):  # the second time from the rows of the first
        found = CliRunner().invoke(main, [*options, "--out", str(tmp_path)])
        assert found.exit_code == 0, found.output
        texts.append(((tmp_path / "tradeoff.json").read_bytes(), (tmp_path / "report.pdf").read_bytes()))
    assert texts[0] == texts[1]
    document = json.loads(texts[0][0])
    by_name = {one["name"]: one["values"] for one in document["points"]}
    # RDF at 1 stops who comes from the office: no risk is left at a fraction of SL 4's cost.
    riskless = [one["cost"]["1"] for one in by_name.values() if not any(one["risk"].values())]
    assert min(riskless) < by_name["SL 4"]["cost"]["1"] / 4
    assert document["chosen"] in document["front"] or len(document["front"]) > 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=\"http", page)
    assert {step["verdict"] for step in document["steps"]} <= {
        "take it",
        "leave it",
        "a trade",
        "no difference seen",
    }
