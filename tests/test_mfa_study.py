"""The study of MFA against operability on a small scale: directions, tables, and the same bytes again."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from devices.crew import Method
from lab.mfa_study import ARMS, answer, intruded, page, study, table
from results.look import png
from results.mfa import ArmResult, slower, worse_from
from results.trade_figures import missed_deadlines

BY_NAME = {one.name: one for one in ARMS}


def test_shares_totals_and_where_the_total_is_worse() -> None:
    low = ArmResult("low", (50.0, 80.0, 100.0, 110.0), 4, 4)
    high = ArmResult("high", (90.0, 130.0, 150.0, None), 0, 4)
    assert low.missed(90.0).value == 0.5
    assert high.missed(1e9).value == 0.25
    assert low.total(90.0, 1.0, 2.0).value == 2.0
    # At 60 s: 1 + 1.5 against 2; at 120 s: 1 against 1.5; at 600 s: 1 against 0.5.
    assert worse_from(low, high, 1.0, 2.0, (60.0, 120.0, 600.0)) == [120.0]
    assert low.intruded.value == 1.0


def test_the_totals_band_holds_the_truth_as_often_as_it_says() -> None:
    # 30 emergencies of which 0.4 are missed, 8 intrusions of which 0.6 act, at 2 and 0.5 a year: 1.1 bad ends.
    luck, hits = random.Random(7), 0
    for _ in range(1000):
        answers = tuple(200.0 if luck.random() < 0.4 else 50.0 for _ in range(30))
        found = ArmResult("one", answers, sum(luck.random() < 0.6 for _ in range(8)), 8).total(
            100.0, 0.5, 2.0
        )
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 1.1 <= found.high
    assert 0.93 <= hits / 1000 <= 0.98


def test_few_intrusions_widen_the_total_and_none_tried_add_nothing() -> None:
    answers = (50.0, 80.0, 100.0, 110.0)
    few, many, untried = (ArmResult("one", answers, n // 2, n) for n in (2, 200, 0))
    wide, narrow, without = (one.total(90.0, 1.0, 2.0) for one in (few, many, untried))
    assert None not in (wide.high, wide.low, narrow.high, narrow.low)
    assert wide.high - wide.low > narrow.high - narrow.low  # type: ignore[operator]
    assert without.value == 1.0


def test_answers_are_compared_seed_by_seed_and_what_one_lacks_counts_for_neither() -> None:
    low = ArmResult("low", (50.0, 80.0, None, 110.0), 0, 1)
    high = ArmResult("high", (60.0, 100.0, 150.0, 140.0), 0, 1)
    found = slower(high, low)
    assert found.value == pytest.approx(20.0)
    assert found.low is not None
    assert found.high is not None
    assert 10.0 <= found.low < 20.0 < found.high <= 30.0
    assert slower(low, low).value == 0.0


@pytest.mark.parametrize(
    ("method", "gives", "acts"),
    [("totp", 1.0, True), ("totp", 0.0, False), ("push", 1.0, True), ("fido", 1.0, False)],
)
def test_a_false_page_gets_what_can_be_given_away_and_no_security_key(
    method: Method, gives: float, acts: bool
) -> None:
    arm = replace(
        BY_NAME["SL 4"], mfa=method, overrides=(("phish.code_given", gives), ("phish.push_approved", gives))
    )
    experiment = arm.experiment("water", "account-phished-code", 3, 200.0, "spar-h")
    assert intruded(experiment) is acts


@pytest.mark.slow
def test_mfa_misses_more_short_deadlines_and_the_compensating_set_fewer(tmp_path: Path) -> None:
    arms = [BY_NAME[name] for name in ("SL 0", "SL 4", "SL 4, compensating set")]
    none, strict, restored = found = study(arms, 12, 0, "spar-h", tmp_path, 1)
    within = 100.0
    shares = [one.missed(within).value or 0.0 for one in (none, strict, restored)]
    assert shares[0] < shares[1]
    assert shares[2] < shares[1]
    assert study(arms, 12, 0, "spar-h", tmp_path, 1) == found  # from the store
    assert table(found).count("\n") == 1 + 3 * 19


def test_the_same_results_are_the_same_figure_and_page() -> None:
    found = [ArmResult(name, (60.0, 90.0, 200.0, None), 1, 2) for name in ("SL 0", "SL 4")]
    drawn = [png(missed_deadlines(found, [("one", 90.0)], (0.5, 2.0)), dpi=60) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert "| SL 4 |" in page(found, [])


def test_a_session_that_locks_under_the_hand_is_opened_again() -> None:
    # Seed 12 has the screen untouched for nearly 15 minutes when the alarm comes: it locks before the write.
    arm = BY_NAME["SL 4, lock 15 min"]
    taken = answer(arm.experiment("boiler", None, 12, 1000.0, "spar-h"), outage=False)
    assert taken is not None
    assert 60.0 < taken < 180.0
