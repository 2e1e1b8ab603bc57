"""The people of the site and its doors: who answers, how long it takes, what is granted, who gets in."""

from __future__ import annotations

import asyncio
import random
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.accounts import User
from devices.permissions import Permissions
from devices.premises import Premises
from devices.staff import APPROVER, Answer, Person, Staff
from testbed.errors import UnknownNameError
from testbed.figures import load_figures

SUPERVISOR = Person("berta", "supervisor", "control room", frozenset({APPROVER}))


def staff(*people: Person, seed: int = 1, mistakes: float = 0.0) -> tuple[Staff, list[Answer]]:
    """Staff whose answers are kept in the list."""
    answers: list[Answer] = []
    figures = load_figures().with_overrides({"approval.unexpected_granted": mistakes})
    return Staff(figures, random.Random(seed), list(people), on_answer=[answers.append]), answers


# -- approvals ----------------------------------------------------------------------------------------------------


async def test_what_was_announced_is_granted_once_and_what_was_not_is_refused() -> None:
    people, answers = staff(SUPERVISOR)
    people.announce("open the gate")
    assert await people.approve("supervisor", "open the gate")
    assert not await people.approve("supervisor", "open the gate")
    assert not await people.approve("supervisor", "shut the gate")
    assert [(one.person, one.granted) for one in answers] == [
        ("berta", True),
        ("berta", False),
        ("berta", False),
    ]


async def test_an_answer_takes_time_and_a_person_who_has_to_be_called_takes_longer() -> None:
    loop = asyncio.get_running_loop()
    seconds = {}
    for place in ("control room", "on call"):
        people, answers = staff(Person("berta", "supervisor", place))
        begun = loop.time()
        for _ in range(60):
            await people.approve("supervisor", "anything")
        seconds[place] = mean(one.seconds for one in answers)
        assert loop.time() - begun == pytest.approx(sum(one.seconds for one in answers), abs=0.1)
    # Means of 60 and 600 s in the figures.
    assert 40 < seconds["control room"] < 90
    assert 400 < seconds["on call"] < 900


async def test_people_make_mistakes_as_often_as_the_figure_says() -> None:
    people, _ = staff(SUPERVISOR, mistakes=0.3)
    granted = sum([await people.approve("supervisor", "unheard of") for _ in range(300)])
    assert 60 < granted < 120


async def test_nobody_answers_for_somebody_who_is_away_or_for_themselves() -> None:
    people, answers = staff(Person("berta", "supervisor", "away"), Person("anna", "operator"))
    people.announce("a")
    assert not await people.approve("supervisor", "a")
    assert not await people.approve("operator", "a", by="anna")
    assert answers == []
    assert await people.approve("operator", "a", by="berta")


async def test_whoever_may_stand_in_for_a_role_can_answer_and_the_first_to_answer_decides() -> None:
    people, answers = staff(SUPERVISOR, Person("carl", "operator", "control room", frozenset({APPROVER})))
    for number in range(40):
        people.announce(f"{number}")
        assert await people.approve(APPROVER, f"{number}")
    assert {one.person for one in answers} == {"berta", "carl"}
    alone, slower = staff(SUPERVISOR)
    for number in range(40):
        await alone.approve(APPROVER, f"{number}")
    assert mean(one.seconds for one in answers) < mean(one.seconds for one in slower)


async def test_the_same_seed_gives_the_same_answers() -> None:
    found = []
    for _ in range(2):
        people, answers = staff(SUPERVISOR, seed=7, mistakes=0.5)
        for number in range(10):
            await people.approve("supervisor", f"{number}")
        found.append(answers)
    assert found[0] == found[1]


def test_one_who_is_hired_twice_is_moved() -> None:
    people, _ = staff(SUPERVISOR)
    people.hire([Person("berta", "supervisor", "away"), Person("dora", "operator")])
    assert [(one.name, one.place) for one in people.people] == [("berta", "away"), ("dora", "control room")]
    assert [one.name for one in people.in_room()] == ["dora"]


# -- doors --------------------------------------------------------------------------------------------------------


def test_ordinary_doors_let_insiders_in_and_most_strangers_too() -> None:
    doors = Premises(load_figures(), random.Random(1))
    assert all(doors.admit("contractor", "control room") for _ in range(50))
    let_in = sum(doors.admit("stranger", "control room") for _ in range(200))
    assert 150 < let_in < 200


def test_a_guard_decides_for_everybody_and_every_attempt_is_told() -> None:
    told: list[tuple[str, str, bool]] = []
    doors = Premises(
        load_figures(),
        random.Random(1),
        guard=lambda person, _place: person == "staff",
        on_attempt=lambda *one: told.append(one),
    )
    assert doors.admit("staff", "cabinet")
    assert not doors.admit("insider", "cabinet")
    assert told == [("staff", "cabinet", True), ("insider", "cabinet", False)]


# -- rights -------------------------------------------------------------------------------------------------------

KINDS = {"PUMP": "commands", "VALVE": "commands", "LIMIT": "setpoints", "RESET": "safety"}
OPERATOR, SUPER = User("anna", "operator"), User("berta", "supervisor")


def permissions(now: list[float] | None = None) -> Permissions:
    clock = now if now is not None else [0.0]
    table = {
        "operator": frozenset({"commands"}),
        "supervisor": frozenset({"commands", "setpoints", "safety"}),
    }
    return Permissions(table, KINDS, lambda: clock[0])


def test_a_role_may_do_what_the_table_says_and_no_more() -> None:
    rights = permissions()
    assert [rights.allows(OPERATOR, tag) for tag in KINDS] == [True, True, False, False]
    assert all(rights.allows(SUPER, tag) for tag in KINDS)
    assert not rights.allows(User("x", "unknown role"), "PUMP")


def test_an_authorized_person_can_give_a_role_one_single_tag_and_others_cannot_change_the_table() -> None:
    rights = permissions()
    assert not rights.define(OPERATOR, "operator", ["commands", "LIMIT"])
    assert not rights.allows(OPERATOR, "LIMIT")
    assert rights.define(SUPER, "operator", ["PUMP", "LIMIT"])
    assert [rights.allows(OPERATOR, tag) for tag in KINDS] == [True, False, True, False]
    with pytest.raises(UnknownNameError, match="VALV"):
        rights.define(SUPER, "operator", ["VALV"])


def test_a_limit_is_lifted_for_one_person_one_kind_of_action_and_a_time() -> None:
    now = [0.0]
    rights = permissions(now)
    assert rights.lift(SUPER, "anna", "RESET", 600.0)
    assert rights.allows(OPERATOR, "RESET")
    assert not rights.allows(OPERATOR, "LIMIT")
    assert not rights.allows(User("carl", "operator"), "RESET")
    now[0] = 600.0
    assert not rights.allows(OPERATOR, "RESET")


def test_only_a_supervisor_lifts_a_limit_and_never_their_own() -> None:
    rights = permissions()
    assert not rights.lift(OPERATOR, "carl", "RESET", 600.0)
    assert not rights.lift(SUPER, "berta", "RESET", 600.0)


@given(
    st.dictionaries(
        st.sampled_from(["operator", "viewer"]),
        st.frozensets(st.sampled_from(sorted({*KINDS, *KINDS.values()}))),
    ),
    st.sampled_from(sorted(KINDS)),
)
def test_whatever_the_table_a_right_is_there_only_if_the_table_names_it(
    table: dict[str, frozenset[str]], tag: str
) -> None:
    rights = Permissions(dict(table), KINDS, lambda: 0.0)
    for role in ("operator", "viewer", "nobody"):
        named = table.get(role, frozenset())
        assert rights.allows(User("x", role), tag) == (tag in named or KINDS[tag] in named)
