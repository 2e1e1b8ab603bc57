"""Instruments and machinery that break by themselves: no attack, and every detector and control has to live with it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from scenarios.attack import Attack, Seconds, Step
from testbed.plant import bias, dead, drift, stuck_at
from testbed.plants import plant_named
from testbed.randomness import Randomness
from testbed.site import Site, TagName
from testbed.units import difference_to_si


class SensorFails(Step):
    """A transmitter fails for ``lasting`` s.

    ``stuck`` at what it shows, ``bias`` off by ``amount`` (in its unit), ``drift`` by ``amount`` a minute, or ``dead``.
    """

    hostile = False

    action: Literal["sensor_fails"]
    sensor: TagName
    how: Literal["stuck", "bias", "drift", "dead"]
    amount: float = 0.0
    lasting: Seconds

    def lacks(self, site: Site) -> Iterator[str]:
        if self.sensor not in site.plant.sensors:
            yield f"site {site.name!r} has no sensor {self.sensor!r}"

    async def carry_out(self, attack: Attack) -> None:
        world = attack.world
        sensor = world.wiring.sensors[self.sensor]
        amount = difference_to_si(self.amount, world.site.plant.sensors[self.sensor].unit)
        match self.how:
            case "stuck":
                sensor.fault = stuck_at(world.plant.value(sensor.spec.signal))
            case "bias":
                sensor.fault = bias(amount)
            case "drift":
                sensor.fault = drift(amount / 60.0, world.loop.time)
            case "dead":
                sensor.fault = dead()
        attack.note(self, "done", target=self.sensor, how=self.how)
        try:
            await asyncio.sleep(self.lasting)
        finally:  # also where an instructor ends it
            sensor.fault = None
        attack.note(self, "repaired", target=self.sensor)


class ActuatorFails(Step):
    """A pump, valve or motor jams for ``lasting`` s where it is, or ``at`` a share of its travel (0: a pump stands)."""

    hostile = False

    action: Literal["actuator_fails"]
    actuator: str
    at: Annotated[float, Field(ge=0, le=1)] | None = None
    lasting: Seconds

    def lacks(self, site: Site) -> Iterator[str]:
        plant = plant_named(site.plant.model, stream=Randomness(0).stream("plant"))
        if self.actuator not in plant.actuators:
            yield f"site {site.name!r} has no actuator {self.actuator!r}"

    async def carry_out(self, attack: Attack) -> None:
        machine = attack.world.plant.actuators[self.actuator]
        machine.stick(self.at)
        attack.note(self, "done", target=self.actuator)
        try:
            await asyncio.sleep(self.lasting)
        finally:
            machine.release()
        attack.note(self, "repaired", target=self.actuator)
