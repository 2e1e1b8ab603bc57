"""No security measure may stop an essential function: what the checks find under every profile."""

from __future__ import annotations

import pytest

from controls.catalogue import SecurityLevels
from controls.selection import Selection, select
from devices.world import World
from lab.essential import page, tell
from scenarios import essential
from scenarios.essential import CONSTRAINTS, Finding
from scenarios.experiment import site_of
from testbed.figures import load_figures

#: What is known to be broken, by profile: findings are told in docs/reference/essential-functions.md, not hidden.
KNOWN: dict[str, set[str]] = {"SL 4": {"EF-0", "EF-1"}}


def test_without_controls_every_constraint_on_the_safety_function_holds() -> None:
    site, figures = site_of("water"), load_figures()
    nothing = Selection("nothing", ())
    assert essential.demand(site, nothing, figures, essential.nothing_happens) == []
    assert essential.demand(site, nothing, figures, essential.boundaries_closed) == []


def test_a_safety_system_that_does_not_trip_is_a_finding() -> None:
    def stop(world: World) -> None:
        world.plcs["sis1"].host.power_off()

    sentences = essential.demand(site_of("water"), Selection("nothing", ()), load_figures(), stop)
    assert any("did not trip" in sentence for sentence in sentences)


def test_an_operator_who_is_locked_out_is_a_finding() -> None:
    def lock_out(world: World) -> None:
        for store in world.account_stores.values():
            for account in store.accounts.values():
                account.enabled = False
        for hmi in world.hmis.values():
            hmi.session = None

    sentences = essential.slowed(
        site_of("water"), select(SecurityLevels.uniform(1)), load_figures(), lock_out
    )
    assert sentences == ["the operator could not act in 3 of 3 runs"]


def test_a_profile_is_told_in_one_line_or_one_for_each_finding() -> None:
    assert "every one of" in tell("SL 1", [])
    assert tell("SL 4", [Finding("EF-1", "SL 4", "slow")]) == "SL 4: FINDING EF-1: slow"
    text = page({"SL 1": [], "SL 4": [Finding("EF-1", "SL 4", "the operator is late")]})
    assert "| EF-1 |" in text
    assert "- SL 4, EF-1: the operator is late." in text


@pytest.mark.slow
@pytest.mark.parametrize("constraint", list(CONSTRAINTS))
@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_every_profile_breaks_only_what_is_known(level: int, constraint: str) -> None:
    selection = select(SecurityLevels.uniform(level))
    sentences = CONSTRAINTS[constraint].check(site_of("water"), selection, load_figures())
    broken = constraint in KNOWN.get(selection.name, set())
    assert bool(sentences) is broken, sentences
