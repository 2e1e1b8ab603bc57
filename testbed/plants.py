"""Every plant model that a site can name: the library's, and those that installed distributions bring.

A distribution brings one as an entry point of group ``otlab.plants``: a class that is called as ``PlantFactory`` says
and is a ``PlantModel``. It is looked for only under a name that the library does not have, so that none is replaced.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Final, Protocol

from testbed.boiler import Boiler
from testbed.errors import OtlabError, UnknownNameError
from testbed.plant import PlantModel
from testbed.quadruple_tank import QuadrupleTank
from testbed.reactor import Reactor
from testbed.swat import SwatPlant
from testbed.water import WaterPlant


class PlantFactory(Protocol):
    """How every model is built; ``initial`` overrides names that the model documents, SI."""

    def __call__(
        self, *, stream: random.Random, initial: Mapping[str, float] | None = None
    ) -> PlantModel: ...


PLANTS: Mapping[str, PlantFactory] = {
    "boiler": Boiler,
    "reactor": Reactor,
    "swat": SwatPlant,
    "water": WaterPlant,
    "quadruple_tank": QuadrupleTank,
}


def plant_named(
    name: str, *, stream: random.Random, initial: Mapping[str, float] | None = None
) -> PlantModel:
    """Build the model called ``name``; ``stream`` drives its disturbances, ``initial`` overrides its start.

    Raises UnknownNameError for a model or an initial value that does not exist, OtlabError for one out of range.
    """
    factory = PLANTS.get(name)
    if factory is not None:
        return factory(stream=stream, initial=initial)
    others = brought()
    if name not in others:
        raise UnknownNameError("plant", name, [*PLANTS, *others])
    return _brought(others[name], stream, initial)


#: Group of entry points by which a distribution brings plants, and what each must answer to.
GROUP: Final = "otlab.plants"
_MUST: Final = (
    "name",
    "step",
    "commands",
    "actuators",
    "signals",
    "envelope",
    "command",
    "advance",
    "value",
)


def brought() -> dict[str, EntryPoint]:
    """Plants of installed distributions, by name."""
    return {one.name: one for one in sorted(entry_points(group=GROUP), key=lambda one: (one.name, one.value))}


def _brought(entry: EntryPoint, stream: random.Random, initial: Mapping[str, float] | None) -> PlantModel:
    try:
        factory = entry.load()
    except (ImportError, AttributeError) as error:
        raise OtlabError(f"plant {entry.name!r} ({entry.value}) cannot be loaded: {error}") from None
    plant: PlantModel = factory(stream=stream, initial=initial)
    missing = [one for one in _MUST if not hasattr(plant, one)]
    if missing:
        raise OtlabError(f"plant {entry.name!r} ({entry.value}) lacks {', '.join(missing)}")
    return plant
