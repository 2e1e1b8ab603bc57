"""The shapes that every module of a foundational requirement gives its tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from devices.world import World

#: Puts one requirement in force in a world that has not started.
Control: TypeAlias = Callable[[World], None]
#: Requirement -> requirements without which it means nothing.
Needs: TypeAlias = dict[str, tuple[str, ...]]
#: Looks at devices' seams and state, as an acceptance test would: zone -> whether the control does its work there
#: now. A zone that is left out has nothing for the control to work on and counts as working.
Check: TypeAlias = Callable[[World], Mapping[str, bool]]


def by_zone(found: Iterable[tuple[str, bool]]) -> dict[str, bool]:
    """Zone -> whether all that was found there is good; a zone that does not come up is left out."""
    good: dict[str, bool] = {}
    for zone, fine in found:
        good[zone] = good.get(zone, True) and fine
    return good
