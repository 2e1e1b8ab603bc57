"""Security levels of zones: what the devices could reach (SL-C), what they have reached (SL-A), what is wanted (SL-T).

A zone has a level in a foundational requirement when every requirement up to that level is met there. For SL-C a
requirement is met when the testbed enforces it and no asset of the zone is one that cannot; for SL-A when it is in
force and its check finds it at work, or when a compensating countermeasure stands in for it. A compensating
countermeasure never raises SL-C (docs/explanation/people-and-compensating.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from controls.catalogue import FOUNDATIONAL, SecurityLevels, catalogue
from controls.profiles import CONTROLS, working
from devices.world import World
from testbed.site import Site

Vector = tuple[int, int, int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class ZoneLevels:
    """Levels of one zone, each a vector over the seven FRs; ``missing`` are the requirements that keep SL-A low.

    ``stood_for`` are requirements that count as met because a countermeasure, named, stands in for them.
    """

    zone: str
    target: Vector
    capability: Vector
    achieved: Vector
    missing: tuple[str, ...]
    stood_for: Mapping[str, str] = field(default_factory=dict)

    @property
    def gap(self) -> Vector:
        """SL-T less SL-A where that is short, 0 where it is not."""
        pairs = zip(self.target, self.achieved, strict=True)
        return _vector([max(0, target - achieved) for target, achieved in pairs])


def level_where(met: Callable[[str], bool]) -> Vector:
    """For each FR the highest level up to which every requirement is met."""
    levels = []
    for fr in FOUNDATIONAL:
        items = [item for item in catalogue().values() if item.fr == fr]
        lowest = min((item.min_sl for item in items if not met(item.id)), default=5)
        levels.append(lowest - 1)
    return _vector(levels)


def capability(site: Site, zone: str) -> Vector:
    """SL-C of a zone: what its assets could be brought to."""
    cannot = _without_means(site, zone)
    return level_where(lambda name: name in CONTROLS and name not in cannot)


def _without_means(site: Site, zone: str) -> set[str]:
    """Requirements that some asset of the zone has no means for."""
    return {one for asset in site.assets.values() if asset.zone == zone for one in asset.cannot}


def measure(world: World, stood_for: Mapping[str, str]) -> dict[str, ZoneLevels]:
    """Levels of every zone as they are in ``world`` now; ``stood_for`` maps requirements to countermeasures."""
    found = {name: working(world, name) for name in world.requirements}
    return {zone: _zone(world.site, zone, found, stood_for) for zone in world.site.zones}


def _zone(
    site: Site, zone: str, found: Mapping[str, Mapping[str, bool]], stood_for: Mapping[str, str]
) -> ZoneLevels:
    target = site.zones[zone].sl_t.as_tuple()
    can = capability(site, zone)
    cannot = _without_means(site, zone)

    def really(name: str) -> bool:
        return name not in cannot and found.get(name, {}).get(zone, False)

    achieved = level_where(lambda name: really(name) or name in stood_for)
    wanted = SecurityLevels(target)
    missing = tuple(
        name
        for name, item in catalogue().items()
        if wanted.requires(item) and not really(name) and name not in stood_for
    )
    standing = {name: by for name, by in stood_for.items() if not really(name)}
    return ZoneLevels(zone, target, can, achieved, missing, standing)


def lowest(before: Mapping[str, ZoneLevels], now: Mapping[str, ZoneLevels]) -> dict[str, ZoneLevels]:
    """Of two looks at the same zones, the lower achieved level in each FR, and all that was missing in either."""
    merged = {}
    for zone, one in before.items():
        other = now[zone]
        achieved = _vector([min(pair) for pair in zip(one.achieved, other.achieved, strict=True)])
        missing = tuple(name for name in catalogue() if name in one.missing or name in other.missing)
        merged[zone] = ZoneLevels(zone, one.target, one.capability, achieved, missing, one.stood_for)
    return merged


def _vector(levels: list[int]) -> Vector:
    first, second, third, fourth, fifth, sixth, seventh = levels
    return first, second, third, fourth, fifth, sixth, seventh
