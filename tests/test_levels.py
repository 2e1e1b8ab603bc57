"""SL-C, SL-A and the gap to SL-T, zone by zone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controls import profiles
from controls.catalogue import FOUNDATIONAL, SecurityLevels, catalogue
from controls.levels import ZoneLevels, capability, level_where, lowest, measure
from devices.world import World
from scenarios.experiment import Experiment, run, site_of
from testbed.figures import load_figures
from testbed.site import Site


def a_site(**cannot: tuple[str, ...]) -> Site:
    """The reference site with assets that have no means for some requirements."""
    site = site_of("water")
    assets = {
        name: asset.model_copy(update={"cannot": cannot[name]}) if name in cannot else asset
        for name, asset in site.assets.items()
    }
    return site.model_copy(update={"assets": assets})


def a_world(site: Site, *requirements: str) -> World:
    world = World(site, 1, load_figures())
    profiles.apply(world, requirements)
    return world


@given(st.sets(st.sampled_from(list(catalogue()))))
def test_a_level_is_reached_when_everything_up_to_it_is_met_and_not_before(met: set[str]) -> None:
    vector = level_where(met.__contains__)
    for fr, level in zip(FOUNDATIONAL, vector, strict=True):
        items = [item for item in catalogue().values() if item.fr == fr]
        assert all(item.id in met for item in items if item.min_sl <= level)
        assert level == 4 or any(item.id not in met and item.min_sl == level + 1 for item in items)


def test_all_met_is_level_four_everywhere_and_nothing_met_is_zero() -> None:
    assert level_where(lambda _: True) == (4,) * 7
    assert level_where(lambda _: False) == (0,) * 7


def test_an_asset_that_cannot_lowers_what_its_zone_could_reach_and_no_other_zone() -> None:
    site = a_site(plc2=("SR 7.7",))
    assert capability(site, "control")[6] == 0
    assert capability(site, "safety") == capability(a_site(), "safety")


def test_a_control_reaches_only_devices_that_have_means_for_it() -> None:
    world = a_world(a_site(plc2=("SR 1.2 RE 1",)), "SR 1.2 RE 1")
    try:
        assert world.plcs["plc1"].seams.tls is not None
        assert world.plcs["plc2"].seams.tls is None
        assert world.plcs["plc2"].seams.port == 502
    finally:
        world.close()


def test_a_station_still_talks_to_a_plc_that_has_no_tls() -> None:
    world = a_world(a_site(plc2=("SR 1.2 RE 1",)), "SR 1.2 RE 1")
    world.start()
    world.loop.run_to(20)
    fresh = dict(world.hmis["hmi1"].fresh)
    world.close()
    assert all(time > 15 for time in fresh.values()), fresh


def test_what_is_in_force_but_not_at_work_counts_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(profiles.CHECKS, "SR 7.7", lambda world: {"control": False})
    world = a_world(a_site(), "SR 7.7")
    found = measure(world, {})
    world.close()
    assert "SR 7.7" in found["control"].missing
    assert "SR 7.7" not in found["safety"].missing


def test_a_countermeasure_closes_a_gap_of_sl_a_and_never_raises_sl_c() -> None:
    site = a_site(plc2=("SR 7.7",))
    world = a_world(site)
    found = measure(world, {"SR 7.7": "local_only"})["control"]
    world.close()
    assert "SR 7.7" not in found.missing
    assert found.stood_for == {"SR 7.7": "local_only"}
    assert found.capability == capability(site, "control")


def test_the_gap_is_what_is_missing_to_the_target_and_never_negative() -> None:
    levels = ZoneLevels("z", (1, 2, 3, 4, 0, 2, 1), (4,) * 7, (2, 2, 1, 0, 4, 1, 1), ())
    assert levels.gap == (0, 0, 2, 4, 0, 1, 0)


def test_of_two_looks_the_lower_counts() -> None:
    first = {"z": ZoneLevels("z", (2,) * 7, (4,) * 7, (2, 2, 2, 2, 2, 2, 2), ("SR 1.1",))}
    second = {"z": ZoneLevels("z", (2,) * 7, (4,) * 7, (2, 0, 2, 4, 2, 2, 2), ("SR 2.1",))}
    merged = lowest(first, second)["z"]
    assert merged.achieved == (2, 0, 2, 2, 2, 2, 2)
    assert merged.missing == ("SR 1.1", "SR 2.1")


def test_a_run_keeps_the_levels_of_every_zone() -> None:
    record, _ = run(Experiment.at_level("water", SecurityLevels.uniform(2), None, 1, 60))
    assert list(record.levels) == list(site_of("water").zones)
    for zone in record.levels.values():
        assert all(a <= c for a, c in zip(zone.achieved, zone.capability, strict=True)), zone


def test_readings_of_a_plc_that_publishes_no_checksum_are_taken_without() -> None:
    world = a_world(a_site(plc2=("SR 3.1",)), "SR 3.1")
    world.start()
    world.loop.run_to(20)
    fresh, stations = dict(world.hmis["hmi1"].fresh), world.hmis["hmi1"].verify_checksums
    world.close()
    assert "plc1" in stations
    assert "plc2" not in stations
    assert all(time > 15 for time in fresh.values()), fresh
