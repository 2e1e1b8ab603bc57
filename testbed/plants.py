"""Every plant model that a site can name."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Protocol

from testbed.boiler import Boiler
from testbed.errors import UnknownNameError
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
    if factory is None:
        raise UnknownNameError("plant", name, PLANTS)
    return factory(stream=stream, initial=initial)
