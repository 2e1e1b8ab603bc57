"""The metrics of detectors: known reference points, bounds, and what each of them counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from results.detection import Interval, merged, score

ATTACKS = [(100.0, 200.0), (500.0, 600.0)]


def test_who_never_alarms_gets_a_quarter_and_who_always_does_three_quarters() -> None:
    never = score(ATTACKS, [], 1000.0)
    assert (never.s, never.s_ttd, never.s_clf, never.detected) == (0.25, 0.0, 0.5, 0)
    always = score(ATTACKS, [(0.0, 1000.0)], 1000.0)
    assert (always.s, always.s_ttd, always.s_clf, always.detected) == (0.75, 1.0, 0.5, 2)
    assert always.penalty == 800.0


def test_a_perfect_detector_gets_one() -> None:
    perfect = score(ATTACKS, ATTACKS, 1000.0)
    assert (perfect.s, perfect.false_alarms, perfect.true_alarms, perfect.between_false) == (1.0, 0, 2, None)


def test_a_late_alarm_costs_its_share_of_the_attack() -> None:
    late = score(ATTACKS, [(150.0, 200.0)], 1000.0)
    assert late.time_to_detect == (50.0, None)
    assert late.s_ttd == pytest.approx(0.25)
    assert late.sensitivity == pytest.approx(0.25)


def test_an_alarm_soon_after_an_attack_is_no_false_one_with_grace() -> None:
    after = [(205.0, 300.0), (700.0, 710.0)]
    assert score(ATTACKS, after, 1000.0).false_alarms == 2
    graced = score(ATTACKS, after, 1000.0, grace=10.0)
    assert (graced.true_alarms, graced.false_alarms, graced.between_false) == (1, 1, 800.0)


@pytest.mark.parametrize(
    "attacks", [[(10.0, 10.0)], [(-1.0, 5.0)], [(5.0, 2000.0)], [(1.0, 5.0), (4.0, 8.0)]]
)
def test_attacks_that_cannot_be_are_refused(attacks: list[Interval]) -> None:
    with pytest.raises(ValueError, match="attack"):
        score(attacks, [], 1000.0)


intervals = st.lists(st.tuples(st.floats(0, 1000), st.floats(0, 1000)), max_size=12)


@given(intervals)
def test_scores_stay_within_their_bounds_and_order_does_not_matter(alarms: list[Interval]) -> None:
    found = score(ATTACKS, alarms, 1000.0)
    for number in (found.s, found.s_ttd, found.s_clf, found.sensitivity, found.specificity):
        assert -1e-9 <= number <= 1 + 1e-9
    assert found == score(ATTACKS, reversed(alarms), 1000.0)
    assert found.true_alarms + found.false_alarms == len(merged((s, min(e, 1000.0)) for s, e in alarms))


@given(intervals, st.tuples(st.floats(0, 1000), st.floats(0, 1000)))
def test_one_more_alarm_never_makes_detection_later(alarms: list[Interval], more: Interval) -> None:
    assert score(ATTACKS, [*alarms, more], 1000.0).s_ttd >= score(ATTACKS, alarms, 1000.0).s_ttd - 1e-9
