"""Requirements on against off: the verdict, its table, and that it comes from runs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controls import profiles
from controls.catalogue import SecurityLevels, catalogue
from lab.ablation import ablate
from results.ablation import Arm, judge, sign_test, table
from results.outcomes import FAMILIES, OUTCOMES, outcomes_of
from scenarios.experiment import Experiment, RunRecord
from scenarios.model import load_scenario
from scenarios.trials import Trial, trials
from testbed.errors import OtlabError

TRIAL = Trial(
    scenario="unauthorized-write",
    duration=330,
    shows="safety.unsafe",
    says="a sentence that is long enough to stand",
)


def arm(**values: float) -> Arm:
    numbers = dict.fromkeys(OUTCOMES, 0.0)
    return Arm({**numbers, **{name.replace("__", "."): value for name, value in values.items()}}, numbers)


def record(**fields: object) -> RunRecord:
    experiment = Experiment.at_level("water", SecurityLevels.uniform(0), "unauthorized-write", 1, 1000)
    found = RunRecord(experiment, 30.0, attack_start=300.0, product=[float(i) for i in range(1001)])
    for name, value in fields.items():
        setattr(found, name, value)
    return found


# -- the verdict ---------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1e6, 1e6), max_size=20))
def test_the_sign_test_gives_a_probability_and_knows_no_sides(gains: list[float]) -> None:
    p = sign_test(gains, 1.0)
    assert 0 <= p <= 1
    assert p == sign_test([-gain for gain in gains], 1.0)


def test_the_sign_test_is_binomial() -> None:
    assert sign_test([5.0] * 8, 1.0) == 2 / 2**8
    assert sign_test([5.0] * 7 + [-5.0], 1.0) == 2 * 9 / 2**8
    assert sign_test([0.5, -0.5, 0.0], 1.0) == 1.0  # ties are no pairs


def test_a_requirement_is_proved_by_the_outcome_that_its_trial_stated() -> None:
    on, off = [arm(safety__unsafe=0.0)] * 8, [arm(safety__unsafe=100.0 + i) for i in range(8)]
    proof = judge("SR 7.7", TRIAL, on, off)
    assert proof.proved
    assert proof.shown is not None
    assert proof.shown.gain.value == pytest.approx(103.5)


def test_a_change_in_another_outcome_proves_nothing() -> None:
    on, off = [arm(availability__view=0.0)] * 8, [arm(availability__view=100.0)] * 8
    proof = judge("SR 7.7", TRIAL, on, off)
    assert not proof.proved
    assert [change.outcome for change in proof.changes if change.proved] == ["availability.view"]


def test_too_few_pairs_and_too_small_a_difference_prove_nothing() -> None:
    assert not judge("SR 7.7", TRIAL, [arm(safety__unsafe=0.0)] * 5, [arm(safety__unsafe=100.0)] * 5).proved
    assert not judge("SR 7.7", TRIAL, [arm(safety__unsafe=0.0)] * 8, [arm(safety__unsafe=4.0)] * 8).proved


def test_a_requirement_that_makes_it_worse_is_unproved_and_says_so() -> None:
    on, off = [arm(safety__unsafe=100.0)] * 8, [arm(safety__unsafe=0.0)] * 8
    proof = judge("SR 7.7", TRIAL, on, off)
    assert not proof.proved
    assert any(change.worse for change in proof.changes)


def test_more_is_better_where_the_outcome_says_so() -> None:
    trial = TRIAL.model_copy(update={"shows": "evidence.share"})
    on, off = [arm(evidence__share=1.0)] * 8, [arm(evidence__share=0.25)] * 8
    assert judge("SR 2.8", trial, on, off).proved
    assert not judge("SR 2.8", trial, off, on).proved


def test_the_table_names_what_is_unproved_and_what_was_not_tried() -> None:
    good = judge("SR 7.7", TRIAL, [arm()] * 8, [arm(safety__unsafe=9.0)] * 8)
    bad = judge("SR 7.8", TRIAL, [arm()] * 8, [arm()] * 8)
    text = table([good, bad])
    assert "1 of 100 requirements are proved" in text
    assert "**UNPROVED** (their trial shows no difference): SR 7.8." in text
    assert "**NOT TRIED**: SR 1.1, " in text
    assert "9 s" in text


def test_a_requirement_without_a_trial_is_unproved() -> None:
    proof = judge("SR 7.8", None, [], [])
    assert not proof.proved
    assert "no trial" in table([proof]) or "does not act" in table([proof])


# -- outcomes ------------------------------------------------------------------------------------------------------


def test_every_outcome_belongs_to_a_family_and_equal_runs_give_equal_numbers() -> None:
    assert {outcome.family for outcome in OUTCOMES.values()} == {*FAMILIES, "reach"}
    one = outcomes_of(record(), record())
    assert one == outcomes_of(record(), record())
    assert all(math.isfinite(value) for value in one.values())


def test_what_did_not_come_counts_as_the_time_observed() -> None:
    numbers = outcomes_of(record(), record())
    assert numbers["detection.time"] == numbers["response.time"] == numbers["response.recovery"] == 700.0


def test_outcomes_count_from_the_attack_on() -> None:
    numbers = outcomes_of(
        record(
            lost={"view": [(100.0, 200.0), (250.0, 310.0), (400.0, 405.0)]},
            unsafe={"a": [(290.0, 302.0)], "b": [(500.0, 501.0)]},
            trips=[(100.0, "P"), (400.0, "P")],
            alerts=[(350.0, "siem", "x:y")],
            marks=[
                (320.0, "disclosed", "rogue1", {"what": "recipes", "amount": 3}),
                (330.0, "disclosed", "rogue1", {"what": "program", "amount": 1}),
                (340.0, "response", "soc", {"what": "cut"}),
                (360.0, "task", "op", {"task": "t", "outcome": "done", "seconds": 20.0}),
                (370.0, "task", "op", {"task": "t", "outcome": "refused", "seconds": 2.0}),
                (900.0, "recovered", "plc1", {"seconds": 500.0}),
            ],
            deeds=4,
            proven=3,
            succeeded=2,
        ),
        record(),
    )
    assert numbers["availability.view"] == 15.0
    assert numbers["safety.unsafe"] == 3.0
    assert numbers["safety.trips"] == 1.0
    assert numbers["detection.time"] == 50.0
    assert numbers["confidentiality.disclosed"] == 4.0
    assert numbers["response.time"] == 40.0
    assert numbers["response.recovery"] == 500.0
    assert numbers["operability.task_time"] == (20.0 + 700.0) / 2
    assert numbers["operability.refused"] == 1.0
    assert numbers["evidence.share"] == 0.75
    assert numbers["reach.steps"] == 2.0


# -- trials --------------------------------------------------------------------------------------------------------


def test_the_two_sides_of_a_trial_differ_in_the_requirement_and_nothing_else() -> None:
    trial = TRIAL.model_copy(update={"context": ("SR 2.8",)})
    on, off = trial.arm("SR 1.11", 1, on=True), trial.arm("SR 1.11", 1, on=False)
    assert set(on.requirements) - set(off.requirements) == {"SR 1.11"}
    assert set(off.requirements) == {"SR 1.1", "SR 2.8"}
    assert (on.seed, on.scenario, on.duration, on.overrides) == (
        off.seed,
        off.scenario,
        off.duration,
        off.overrides,
    )


def test_a_context_that_needs_the_requirement_is_refused() -> None:
    with pytest.raises(OtlabError, match=r"SR 1\.11 in its context needs it"):
        TRIAL.model_copy(update={"context": ("SR 1.11",)}).arm("SR 1.1", 1, on=False)


@pytest.mark.parametrize("name", list(trials()))
def test_every_trial_states_a_known_outcome_and_can_be_set_up(name: str) -> None:
    trial = trials()[name]
    assert trial.shows in OUTCOMES
    assert OUTCOMES[trial.shows].family in FAMILIES, "how far an attacker came is no outcome for the plant"
    assert name in profiles.CONTROLS
    assert load_scenario(trial.scenario).start < trial.duration
    for on in (True, False):
        assert profiles.check(trial.arm(name, 1, on=on).requirements) is not None


def test_trials_stand_in_the_order_of_the_catalogue() -> None:
    assert list(trials()) == [name for name in catalogue() if name in trials()]


def test_an_ablation_runs_both_sides_and_keeps_what_it_measured(tmp_path: Path) -> None:
    trial = TRIAL.model_copy(update={"duration": 120.0, "scenario": "quick", "site": "water"})
    (tmp_path / "quick.yaml").write_text(
        "name: quick\ntitle: Quick\nsummary: Quick\nstart: 40\nattacker: {zone: operations}\n"
        "steps: [{action: modbus_write, technique: T0855, plc: plc1, values: {MV101_AUTO: 0}}]\n"
    )
    table_of = {"SR 2.1 RE 1": trial.model_copy(update={"scenario": str(tmp_path / "quick.yaml")})}
    first = ablate(["SR 2.1 RE 1"], (1, 2), tmp_path, 1, table=table_of)
    reach = next(change for change in first[0].changes if change.outcome == "reach.steps")
    assert (reach.off, reach.on) == (1.0, 0.0)
    counted = []
    again = ablate(["SR 2.1 RE 1"], (1, 2), tmp_path, 1, lambda: counted.append(1), table=table_of)
    assert again == first
    assert len(list((tmp_path / "arms").iterdir())) == 4


def test_a_trial_that_states_an_outcome_which_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OtlabError, match=r"unknown outcome 'safety\.happiness'"):
        ablate(
            ["SR 7.7"],
            (1,),
            tmp_path,
            1,
            table={"SR 7.7": TRIAL.model_copy(update={"shows": "safety.happiness"})},
        )
