"""Maturity levels: practices that fail, what that does to the controls they keep up, and how results show it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from controls import maturity, profiles
from controls.catalogue import SecurityLevels
from controls.maturity import EFFECTS, apply, load_maturity, maturity_table
from controls.selection import select
from devices.inventory import allow_list
from devices.world import World
from results import figures, look, statistics
from results.metrics import measure
from results.rows import Row
from scenarios.experiment import Experiment, run, site_of
from testbed.errors import DocumentError, OtlabError
from testbed.figures import load_figures
from testbed.firewall import Rule

ANYTHING = Rule(None, None, None, None)


def water(*requirements: str, seed: int = 1) -> World:
    world = World(site_of("water"), seed, load_figures())
    profiles.apply(world, requirements)
    return world


def failing(practice: str, *requirements: str) -> World:
    """A world in which just this practice has failed."""
    world = water(*requirements)
    assert EFFECTS[practice](world, world.stream("test")) is not None
    return world


# -- the table ---------------------------------------------------------------------------------------------------


def test_every_practice_of_the_table_acts_and_none_gets_worse_with_the_level() -> None:
    table = maturity_table()
    assert set(table.practices) == set(EFFECTS)
    assert {level.name for level in table.levels.values()} == {"Initial", "Managed", "Defined", "Improving"}
    for practice in table.practices.values():
        assert list(practice.fails) == sorted(practice.fails, reverse=True)
        assert practice.source


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("fails: [0.5, 0.25, 0.1, 0.03]", "fails: [0.1, 0.25, 0.1, 0.03]", "may not rise"),
        ("  leavers:", "  joiners:", "no such practice"),
        ("fails: [0.5, 0.25, 0.1, 0.03]", "fails: [1.5, 0.25, 0.1, 0.03]", "1"),
        ("needs: [SR 1.5]", "needs: [SR 9.9]", "there is no SR 9.9"),
        ('  4: {name: Improving, meaning: "its effect is measured and it is improved"}\n', "", "level 4"),
    ],
)
def test_a_mistake_in_a_table_is_told_with_its_place(
    tmp_path: Path, old: str, new: str, complaint: str
) -> None:
    text = (Path(maturity.__file__).parent / "data" / "maturity.yaml").read_text()
    assert old in text
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(DocumentError, match=complaint):
        load_maturity(path)


# -- which practices fail ----------------------------------------------------------------------------------------


def test_of_two_sites_with_one_seed_the_more_mature_has_no_failure_that_the_other_lacks() -> None:
    needs = sorted({need for practice in maturity_table().practices.values() for need in practice.needs})
    in_force = profiles.with_needs(name for name in needs if name in profiles.CONTROLS)
    for seed in (1, 2, 3):
        failed = [set(apply(water(*in_force, seed=seed), level, in_force)) for level in (1, 2, 3, 4)]
        for worse, better in pairwise(failed):
            assert better <= worse
        assert failed[0] > failed[3]


def test_what_is_not_in_force_cannot_be_degraded() -> None:
    world = water()
    assert apply(world, 1, ()) == ()
    assert not [event for event in world.trace.events if event.kind == "practice.failed"]
    world.close()


def test_perfect_practice_is_none_and_other_levels_are_an_error() -> None:
    world = water("SR 7.5")
    assert apply(world, None, ("SR 7.5",)) == ()
    with pytest.raises(OtlabError, match="1 to 4"):
        apply(world, 5, ("SR 7.5",))
    world.close()


def test_each_failure_is_recorded() -> None:
    in_force = profiles.check(("SR 7.3", "SR 7.4", "SR 7.5", "SR 7.6"))
    for seed in range(1, 20):
        world = water(*in_force, seed=seed)
        failed = apply(world, 1, in_force)
        told = [event.data["practice"] for event in world.trace.events if event.kind == "practice.failed"]
        world.close()
        assert tuple(told) == failed
        if failed:
            return
    pytest.fail("no practice failed at ML 1 with any of 19 seeds")


# -- what failing does to the control itself ---------------------------------------------------------------------


def _account_open(world: World) -> bool:
    former = ("engineer2", "operator2")
    return any(store.accounts[name].enabled for store in world.account_stores.values() for name in former)


def _default_password(world: World) -> bool:
    return any(
        store.check("operator", "operator", None, "10.0.3.99")[0] is not None
        for name, store in world.account_stores.items()
        if name not in world.hmis
    )


def _no_lock_out(world: World) -> bool:
    return any(store.rules.lockout_attempts is None for store in world.account_stores.values())


def _wide_rule(world: World) -> bool:
    lists = [allow_list(conduit) for conduit in world.network.conduits.values()]
    return any(allowed is not None and ANYTHING in allowed.rules for allowed in lists)


def _unreadable(world: World) -> bool:
    return any(
        not copy.sound
        for server in world.backup_servers.values()
        for versions in server.copies.values()
        for copy in versions
    )


@pytest.mark.parametrize(
    ("practice", "requirements", "bad"),
    [
        ("default_passwords", ("SR 1.1", "SR 1.5"), _default_password),
        ("lock_out", ("SR 1.1", "SR 1.11"), _no_lock_out),
        ("firewall_rules", ("SR 5.2 RE 1",), _wide_rule),
        ("patches", ("SR 7.6",), lambda world: any(a.flawed for a in world.settings_agents.values())),
        (
            "malware_updates",
            ("SR 3.2",),
            lambda world: any(not g.scanner.patterns for g in world.guards.values()),
        ),
        ("backups_tested", ("SR 7.3",), _unreadable),
        ("alerts_read", ("SR 6.2",), lambda world: not world.siems["siem1"].rules),
        (
            "monitor_connected",
            ("SR 6.2",),
            lambda world: not all(link.taps for link in world.monitors["mon1"].links),
        ),
        ("logs_reviewed", ("SR 2.8",), lambda world: any(not plc.audit.sinks for plc in _audited(world))),
        (
            "approvals_meant",
            ("SR 1.13", "SR 1.13 RE 1"),
            lambda world: world.staff.figures["approval.unexpected_granted"] == 1.0,
        ),
        ("supply_on_line", ("SR 7.5",), lambda world: not world.upses["ups1"].seams.on_line),
        ("recovery_exercised", ("SR 7.4",), lambda world: not world.recovery.reinstate),
    ],
)
def test_a_practice_that_fails_degrades_the_real_control(
    practice: str, requirements: tuple[str, ...], bad: Callable[[World], bool]
) -> None:
    kept = water(*requirements)
    assert not bad(kept)
    kept.close()
    world = failing(practice, *requirements)
    assert bad(world)
    world.close()


def _audited(world: World) -> list[object]:
    from controls.uc import devices_with_audit

    class One:
        def __init__(self, audit: object) -> None:
            self.audit = audit

    return [One(audit) for audit in devices_with_audit(world)]


def test_the_account_of_somebody_who_left_is_open_again() -> None:
    in_force = ("SR 1.1", "SR 1.3")
    world = water(*in_force)
    before = _account_open(world)
    told = EFFECTS["leavers"](world, world.stream("test"))
    assert told is None or (_account_open(world) and "is still open" in told)
    assert told is not None or before  # nothing to open: the last review has left some open anyway
    world.close()


def test_whoever_has_an_expired_certificate_is_refused_but_for_the_operators() -> None:
    refused = {}
    for late in ("opcua1", "hmi1"):
        world = water("SR 1.2 RE 1", "SR 1.8")
        stream = world.stream("test")
        stream.choice = lambda _openers, late=late: late  # type: ignore[assignment, misc]
        assert EFFECTS["certificates_renewed"](world, stream) == f"the certificate of {late} has expired"
        said: list[str] = []
        world.plcs["plc1"].audit.sinks.append(lambda _source, kind, _data, said=said: said.append(kind))
        world.start()
        world.loop.run_to(20.0)
        refused[late] = "certificate.refused" in said
        assert ("certificate.tolerated" in said) is (late == "hmi1")
        assert world.hmis["hmi1"].fresh["plc1"] > 15.0
        world.close()
    assert refused == {"opcua1": True, "hmi1": False}


def test_a_supply_left_in_bypass_is_a_control_that_does_not_work() -> None:
    world = failing("supply_on_line", "SR 7.5")
    world.start()
    assert not profiles.working(world, "SR 7.5")["control"]
    world.close()


# -- in results --------------------------------------------------------------------------------------------------


def row(profile: str, level: int | None, ml: int | None, seed: int, unsafe: float = 10.0) -> Row:
    return Row(
        site="water",
        scenario="unauthorized-write",
        profile=profile if ml is None else f"{profile}, ML {ml}",
        level=level,
        seed=seed,
        duration=100.0,
        attack_start=10.0,
        detected=False,
        detection_time=None,
        detected_by=None,
        observed=90.0,
        impact_time=None,
        contained_time=None,
        availability={"view": 1.0, "control": 1.0, "safety": 1.0, "production": 1.0},
        unsafe_seconds=unsafe,
        trips_true=0,
        trips_spurious=0,
        production_lost=0.0,
        logins=0,
        failed_logins=0,
        lockouts=0,
        operator_delay=None,
        missed_deadlines=0,
        false_alarms=0.0,
        attack_blocked=False,
        maturity=ml,
    )


def test_an_experiment_of_a_maturity_level_gives_a_row_and_cells_of_its_own() -> None:
    perfect = Experiment("water", profiles.check(("SR 7.5",)), "SL 2", "power-failure", 3, 200.0)
    rows = []
    for experiment in (perfect, replace(perfect, maturity=1)):
        record, _ = run(experiment)
        rows.append(measure(record, record, record))
    assert [(one.profile, one.level, one.maturity) for one in rows] == [
        ("SL 2", 2, None),
        ("SL 2, ML 1", 2, 1),
    ]
    assert len(statistics.summarize(rows)) == 2


def test_rows_come_back_with_their_maturity() -> None:
    plain, mature = row("SL 1", 1, None, 1), row("SL 1", 1, 3, 1)
    assert Row.from_dict(json.loads(json.dumps(plain.to_dict()))) == plain
    assert Row.from_dict(json.loads(json.dumps(mature.to_dict()))) == mature


def test_the_heat_map_is_drawn_where_maturities_differ_and_shows_each_mean() -> None:
    rows = [
        row(f"SL {level}", level, ml, seed, unsafe=100.0 * (5 - (ml or 5)) + level)
        for level in (1, 2)
        for ml in (1, 4, None)
        for seed in (1, 2)
    ]
    drawn = figures.standard(rows)
    assert {"levels-by-maturity", "control-by-maturity"} <= set(drawn)
    [ax] = drawn["levels-by-maturity"].axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["perfect", "ML 4", "ML 1"]
    assert sorted(text.get_text() for text in ax.texts) == sorted(["1", "2", "101", "102", "401", "402"])
    assert look.svg(drawn["levels-by-maturity"]) == look.svg(figures.standard(rows)["levels-by-maturity"])
    assert "levels-by-maturity" not in figures.standard([one for one in rows if one.maturity is None])


def test_a_heat_map_of_nothing_but_zeros_divides_by_nothing() -> None:
    rows = [row("SL 1", 1, ml, 1, unsafe=0.0) for ml in (1, 2)]
    [ax] = figures.levels_by_maturity(rows).axes
    assert [text.get_text() for text in ax.texts] == ["0", "0"]


def test_a_selection_carries_its_maturity_into_the_experiment() -> None:
    chosen = select(SecurityLevels.uniform(1), maturity=2)
    assert Experiment.of("water", chosen, None, 1, 100.0).maturity == 2
