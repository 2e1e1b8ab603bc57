"""Detectors of the process on a small plant of known physics: quiet on what is normal, each at what it is made for."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.process_detectors import DETECTORS, Record, learn, trained

Sample = dict[str, float]
PERIOD = 400  # s of one filling and emptying


def tank(seed: int, seconds: int = 4000) -> list[Sample]:
    """A tank that fills with a valve open and empties with it shut, and what its level and inflow sensors say."""
    noise = np.random.default_rng(seed)
    level, open_, rows = 50.0, True, []
    for _ in range(seconds):
        open_ = level < 80 if open_ else level < 20
        level += 60 / PERIOD * 2 * (1 if open_ else -1)
        rows.append(
            {
                "LEVEL": level + noise.normal(0, 0.2),
                "FLOW": (10.0 if open_ else 0.0) + noise.normal(0, 0.1),
                "VALVE": float(open_),
            }
        )
    return rows


def record(*runs: list[Sample]) -> Record:
    rows = [row for run in runs for row in run]
    series = {tag: np.array([row[tag] for row in rows]) for tag in rows[0]}
    starts = tuple(np.cumsum([0, *map(len, runs[:-1])]).tolist())
    return Record({tag: series[tag] for tag in ("LEVEL", "FLOW")}, {"VALVE": series["VALVE"]}, starts)


LEARNED = json.loads(json.dumps(learn(record(tank(1), tank(2), tank(3)))))


def found_in(rows: list[Sample]) -> dict[str, int]:
    """Rule -> the sample at which it fired first."""
    first: dict[str, int] = {}
    for rule, learned in LEARNED.items():
        [detector] = trained({rule: learned})
        for at, row in enumerate(rows):
            if any(True for _ in detector.update(row)):
                first.setdefault(rule, at)
                break
    return first


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_normal_days_are_quiet(seed: int) -> None:
    assert found_in(tank(seed)) == {}


def attacked(change: Callable[[int, Sample, list[Sample]], Sample], start: int = 1000) -> dict[str, int]:
    rows = tank(21)
    return found_in([change(at, row, rows) if at >= start else row for at, row in enumerate(rows)])


def test_a_value_out_of_what_was_seen_is_found_at_once_by_limits() -> None:
    found = attacked(lambda _at, row, _rows: {**row, "LEVEL": 200.0})
    assert found["limits"] == found["rate"] == 1000


def test_a_frozen_value_is_found_by_steady_when_it_has_stood_still_too_long() -> None:
    found = attacked(lambda _at, row, rows: {**row, "LEVEL": rows[999]["LEVEL"]})
    assert 1000 < found["steady"] < 1100
    assert "limits" not in found


def test_a_flow_that_does_not_fit_the_valve_is_found_by_invariants_only_among_the_simple() -> None:
    found = attacked(lambda _at, row, _rows: {**row, "FLOW": 5.0 + (row["FLOW"] - 10 * row["VALVE"])})
    assert found["invariant"] <= 1000 + PERIOD
    assert "limits" not in found


def test_a_forged_slope_within_all_limits_is_found_by_invariants() -> None:
    found = attacked(lambda at, row, _rows: {**row, "LEVEL": 50 + 20 * np.sin(at / 15) + row["LEVEL"] % 0.3})
    assert found["invariant"] < 1100


def test_a_recording_that_does_not_match_the_actuators_is_found_by_tags_together() -> None:
    found = attacked(lambda at, row, rows: {**row, "LEVEL": rows[at - PERIOD // 2]["LEVEL"]})
    assert "limits" not in found
    assert "steady" not in found
    assert "invariant" in found


def test_noise_that_grows_is_found_by_what_sums_up_residuals() -> None:
    noise = np.random.default_rng(5)
    found = attacked(lambda _at, row, _rows: {**row, "LEVEL": row["LEVEL"] + noise.normal(0, 1.0)})
    assert found["cusum"] < 1100


def test_a_signal_that_moves_differently_is_found_by_pasad() -> None:
    found = attacked(lambda at, row, _rows: {**row, "LEVEL": 50 + 30 * np.sign(np.sin(at / 150))})
    assert "pasad" in found


def test_too_short_a_record_is_refused() -> None:
    with pytest.raises(ValueError, match="600"):
        learn(record(tank(1, 599)))


def test_what_is_learned_is_the_same_every_time() -> None:
    assert json.loads(json.dumps(learn(record(tank(1), tank(2), tank(3))))) == LEARNED


@settings(max_examples=30)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["LEVEL", "FLOW", "VALVE", "OTHER"]),
            st.floats(-1e12, 1e12, allow_nan=False),
        ),
        max_size=80,
    )
)
def test_no_values_and_no_gaps_break_a_detector(rows: list[Sample]) -> None:
    for detector in trained(LEARNED):
        for row in rows:
            for finding in detector.update(row):
                assert finding.rule in DETECTORS
