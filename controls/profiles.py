"""Which requirements are in force in a run, and putting them there.

A profile is exactly the set that the catalogue requires for a vector of security levels. Requirements that the
testbed does not enforce are listed by ``unenforced`` so that no table claims them.
"""

from __future__ import annotations

from collections.abc import Iterable

from controls import dc, iac, ra, rdf, si, tre, uc
from controls.catalogue import SecurityLevels, catalogue
from controls.shapes import Check, Control, Needs
from devices.world import World
from testbed.errors import OtlabError, UnknownNameError

_MODULES = (iac, uc, si, dc, rdf, tre, ra)

#: Requirement id -> what puts it in force.
CONTROLS: dict[str, Control] = {name: act for module in _MODULES for name, act in module.CONTROLS.items()}

#: What must be in force for a requirement to mean anything.
NEEDS: Needs = {name: needs for module in _MODULES for name, needs in module.NEEDS.items()}

#: Requirement id -> whether it does its work, zone by zone.
CHECKS: dict[str, Check] = {name: check for module in _MODULES for name, check in module.CHECKS.items()}

#: Order of application where the catalogue's does not do: ports move before rules name them, and observers exist
#: before what they report to is connected.
_LATE = (
    "SR 1.1 RE 2",
    "SR 1.1 RE 3",
    "SR 1.5",
    "SR 1.7 RE 1",
    "SR 1.7 RE 2",
    "SR 1.3",
    "SR 1.3 RE 1",
    "SR 1.9",
    "SR 2.2",
    "SR 5.1",
    "SR 5.2",
    "SR 5.2 RE 1",
    "SR 5.2 RE 3",
    "SR 2.8",
    "SR 2.8 RE 1",
    "SR 6.2",
)


def required(levels: SecurityLevels) -> tuple[str, ...]:
    """Ids of every requirement that ``levels`` needs, in the standard's order, enforced by the testbed or not."""
    return tuple(name for name, requirement in catalogue().items() if levels.requires(requirement))


def enforced(levels: SecurityLevels) -> tuple[str, ...]:
    """Those of ``required`` that act in a run."""
    return tuple(name for name in required(levels) if name in CONTROLS)


def unenforced(levels: SecurityLevels) -> tuple[str, ...]:
    """Those of ``required`` that do not act yet."""
    return tuple(name for name in required(levels) if name not in CONTROLS)


def with_needs(names: Iterable[str]) -> tuple[str, ...]:
    """``names`` and all that they need, directly or not, in the standard's order."""
    found: dict[str, None] = {}
    queue = list(names)
    while queue:
        name = queue.pop()
        if name not in found:
            found[name] = None
            queue.extend(NEEDS.get(name, ()))
    return tuple(name for name in catalogue() if name in found)


def dependents(name: str) -> frozenset[str]:
    """Every requirement that means nothing without ``name``."""
    return frozenset(other for other in CONTROLS if other != name and name in with_needs((other,)))


def check(names: Iterable[str]) -> tuple[str, ...]:
    """``names`` in the standard's order; raises for one that does not exist, does not act, or lacks what it needs."""
    wanted = set(names)
    for name in sorted(wanted):
        if name not in catalogue():
            raise UnknownNameError("requirement", name, catalogue())
        if name not in CONTROLS:
            raise OtlabError(f"{name} ({catalogue()[name].title}) does not act in this version")
        missing = [need for need in NEEDS.get(name, ()) if need not in wanted]
        if missing:
            raise OtlabError(f"{name} needs {', '.join(missing)}")
    return tuple(name for name in catalogue() if name in wanted)


def apply(world: World, names: Iterable[str]) -> None:
    """Put the requirements in force; call before ``world.start()``."""
    ordered = check(names)
    world.requirements = ordered
    for name in (*(n for n in ordered if n not in _LATE), *(n for n in _LATE if n in ordered)):
        with world.reach(name):
            CONTROLS[name](world)


def working(world: World, name: str) -> dict[str, bool]:
    """Zone -> whether requirement ``name``, which is in force, does its work there now."""
    found = CHECKS[name](world) if name in CHECKS else {}
    return {zone: bool(found.get(zone, True)) for zone in world.site.zones}
