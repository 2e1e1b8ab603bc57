"""What a user puts in force, by level, vector, requirement, foundational requirement or file."""

from __future__ import annotations

from pathlib import Path

import pytest

from controls.catalogue import SecurityLevels, catalogue, requirement_id
from controls.profiles import CONTROLS, NEEDS, dependents, enforced, with_needs
from controls.selection import load_selection, select, spread
from testbed.errors import DocumentError, OtlabError, UnknownNameError


@pytest.mark.parametrize("text", ["SR 1.1 RE 2", "sr1.1re2", " 1.1 re 2 ", "SR 1.1RE2"])
def test_a_requirement_is_named_as_people_write_it(text: str) -> None:
    assert requirement_id(text) == "SR 1.1 RE 2"


@pytest.mark.parametrize("text", ["SR 9.9", "1.1 RE 7", "MFA", ""])
def test_a_requirement_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(UnknownNameError):
        requirement_id(text)


def test_a_level_can_be_changed_by_single_requirements_and_whole_frs() -> None:
    chosen = select(SecurityLevels.parse("2"), added=("SR 1.1 RE 2",), removed=("RDF",))
    assert chosen.name == "SL 2 + SR 1.1 RE 2 - RDF"
    expected = {*enforced(SecurityLevels.parse("2")), "SR 1.1 RE 2"}
    expected -= {item.id for item in catalogue().values() if item.fr == "RDF"}
    assert set(chosen.requirements) == expected
    assert list(chosen.requirements) == [name for name in catalogue() if name in expected]


def test_taking_away_what_others_need_is_refused_and_says_who() -> None:
    with pytest.raises(OtlabError, match=r"needs SR 1\.1"):
        select(SecurityLevels.parse("1"), removed=("SR 1.1",))


def test_needs_are_followed_to_their_end() -> None:
    for name in CONTROLS:
        closed = with_needs((name,))
        assert name in closed
        assert all(set(NEEDS.get(one, ())) <= set(closed) for one in closed), name
        assert all(name in with_needs((other,)) for other in dependents(name))


def test_needs_name_requirements_that_act_and_go_round_in_no_circle() -> None:
    for name, needs in NEEDS.items():
        assert name in CONTROLS
        assert set(needs) <= set(CONTROLS), name
        assert name not in {one for need in needs for one in with_needs((need,))}, name


def test_no_enhancement_of_a_level_needs_a_requirement_of_a_higher_one() -> None:
    for name, needs in NEEDS.items():
        for need in needs:
            same = catalogue()[need].fr == catalogue()[name].fr
            assert not same or catalogue()[need].min_sl <= catalogue()[name].min_sl, (name, need)


def test_an_fr_stands_for_all_of_its_requirements() -> None:
    assert spread(("tre",)) == ("SR 6.1", "SR 6.1 RE 1", "SR 6.2")


def test_a_file_says_levels_changes_and_a_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("title: Mine\nlevels: {IAC: 1, SI: 2}\nadd: [SR 5.2]\nremove: [SR 1.11]\nmaturity: 3\n")
    found = load_selection(file)
    assert found.name == "Mine"
    assert found.maturity == 3
    assert "SR 5.2" in found.requirements
    assert "SR 1.1" in found.requirements
    assert "SR 1.11" not in found.requirements
    assert (
        found.requirements
        == select(SecurityLevels.parse("IAC=1,SI=2"), ("SR 5.2",), ("SR 1.11",)).requirements
    )


def test_every_mistake_in_a_file_is_told_at_once_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("title: Mine\nlevels: {IAX: 1}\nadd: [SR 5.22, TREE]\nmaturity: 2\n")
    with pytest.raises(DocumentError) as caught:
        load_selection(file)
    places = {(problem.line, problem.key) for problem in caught.value.problems}
    assert places == {(2, "levels.IAX"), (3, "add[0]"), (3, "add[1]")}
