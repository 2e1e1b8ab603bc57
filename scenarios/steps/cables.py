"""Attacks at the cables of the field: what an actuator is told, and what an instrument seems to say, are held.

This is how the published attacks on SWaT were made: values between a controller and its field devices were replaced.
ATT&CK for ICS T0855 (unauthorized command message), T0856 (spoofed reporting message), T0835 (manipulated I/O image).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from scenarios.attack import Attack, Seconds, Step
from testbed.plant import stuck_at
from testbed.plants import plant_named
from testbed.randomness import Randomness
from testbed.site import Site, TagName
from testbed.units import to_si


class ActuatorAttack(Step):
    """Hold actuators and instruments for ``lasting`` s, whatever controllers command and the plant does.

    ``forces`` maps an actuator to what it is told (0 off or shut, 1 on or open, or the range that its plant documents);
    ``shows`` maps a sensor to what its controller reads of it, in its unit. A hard-wired trip still acts.
    """

    action: Literal["actuator_attack"]
    forces: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)
    shows: dict[TagName, float] = Field(default_factory=dict)
    lasting: Seconds

    @model_validator(mode="after")
    def _acts(self) -> ActuatorAttack:
        if not self.forces and not self.shows:
            raise ValueError("give forces or shows: what shall be held")
        return self

    def lacks(self, site: Site) -> Iterator[str]:
        plant = plant_named(site.plant.model, stream=Randomness(0).stream("plant"))
        for name in self.forces:
            if name not in plant.commands:
                yield f"site {site.name!r} has no actuator {name!r}"
        for name in self.shows:
            if name not in site.plant.sensors:
                yield f"site {site.name!r} has no sensor {name!r}"

    async def carry_out(self, attack: Attack) -> None:
        world = attack.world
        sensors = world.wiring.sensors
        for name, value in self.forces.items():
            world.wiring.hold(name, value)
        for name, value in self.shows.items():
            sensors[name].fault = stuck_at(to_si(value, world.site.plant.sensors[name].unit))
        attack.note(self, "done", target=",".join((*self.forces, *self.shows)))
        try:
            await asyncio.sleep(self.lasting)
        finally:  # also where an instructor ends it
            for name in self.forces:
                world.wiring.hold(name, None)
            for name in self.shows:
                sensors[name].fault = None
        attack.note(self, "withdrawn", target=",".join((*self.forces, *self.shows)))
