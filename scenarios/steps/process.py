"""Attacks on measurements by somebody who knows the process: what is shown departs from the truth in a chosen shape.

Shapes after Cárdenas et al., "Attacks against process control systems: risk assessment, detection, and response"
(AsiaCCS 2011): surge reaches the largest departure at once, bias a constant one, geometric drifts slowly at first and
strikes at the end. ATT&CK for ICS T0856 (spoofed reporting) and T0835 (manipulated I/O image).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from scenarios.attack import Attack, Seconds, Step
from scenarios.steps.commands import lacks_assets, lacks_tags
from scenarios.steps.wire import Forger
from testbed.site import Name, Site, TagName
from testbed.units import difference_to_si

Shape = Literal["constant", "bias", "ramp", "surge", "geometric", "replay"]


class Departure:
    """Turns what a sensor reads into what it shall seem to read; ``amount`` and ``noise`` in the reading's unit.

    ``stealth`` 0 is as large and as sudden as the shape asks. Above 0 the departure never changes faster than
    ``noise / stealth`` a second, so that at 1 each step drowns in the sensor's own noise and a sum of residuals (CUSUM)
    that tolerates the noise tolerates the attack; a constant keeps the noise it would otherwise lack.
    """

    def __init__(
        self,
        shape: Shape,
        amount: float,
        lasting: float,
        stealth: float,
        noise: float,
        clock: Callable[[], float],
    ) -> None:
        self.shape, self.amount, self.lasting = shape, amount, lasting
        self.fastest = noise / stealth if stealth > 0 and noise > 0 else math.inf
        self.stealthy = stealth > 0
        self.clock, self.begin = clock, clock()
        self.departure = 0.0
        self._at = self.begin
        self._held: float | None = None
        #: readings to show again, recorded before
        self.tape: list[float] = []
        self._turn = 0

    def __call__(self, reading: float) -> float:
        now = self.clock()
        if self.shape == "replay":
            if not self.tape:
                return reading
            self._turn += 1
            return self.tape[(self._turn - 1) % len(self.tape)]
        if self.shape == "constant" and not self.stealthy:
            self._held = reading + self.amount if self._held is None else self._held
            return self._held
        if self.shape == "constant" and self._held is None:
            self._held = reading
        wanted = self._wanted(now - self.begin, reading)
        room = self.fastest * (now - self._at)
        self._at = now
        self.departure += min(max(wanted - self.departure, -room), room)
        return reading + self.departure

    def _wanted(self, passed: float, reading: float) -> float:
        share = min(1.0, passed / self.lasting)
        match self.shape:
            case "ramp":
                return self.amount * share
            case "geometric":
                # Doubles with every tenth of the attack, so that nine tenths of it come in the last third.
                return self.amount * math.pow(2.0, 10.0 * (share - 1.0))
            case "surge":
                # All of it at once, for as long as a sum of residuals takes to fill, then half of it held below.
                return self.amount if share < 0.2 else self.amount / 2.0
            case "constant":
                assert self._held is not None
                return self._held + self.amount - reading
            case _:
                return self.amount


class SensorAttack(Step):
    """Make ``sensor`` seem to read something else for ``lasting`` s, by ``amount`` in its unit at most.

    With ``reader`` and ``plc`` the answers between them are forged on the wire; without, the signal is forged at the
    instrument's cable, which deceives the controller itself and takes presence there. ``recording`` s of readings are
    taken before a replay begins. ``stealth`` from 0 to 1: see ``Departure``.
    """

    action: Literal["sensor_attack"]
    sensor: TagName
    shape: Shape
    amount: float = 0.0
    lasting: Seconds
    recording: Seconds = 120.0
    stealth: Annotated[float, Field(ge=0, le=1)] = 0.0
    plc: Name | None = None
    reader: Name | None = None

    @model_validator(mode="after")
    def _can_be(self) -> SensorAttack:
        if (self.plc is None) != (self.reader is None):
            raise ValueError("a reading is forged between plc and reader, or with neither at the instrument")
        if self.shape != "replay" and not self.amount:
            raise ValueError("give amount: how far the reading shall depart")
        return self

    def lacks(self, site: Site) -> Iterator[str]:
        if self.sensor not in site.plant.sensors:
            yield f"site {site.name!r} has no sensor {self.sensor!r}"
        if self.plc is not None and self.reader is not None:
            yield from lacks_tags(site, self.plc, (self.sensor,))
            yield from lacks_assets(site, self.reader)

    async def carry_out(self, attack: Attack) -> None:
        if self.plc is None or self.reader is None:
            await self._in_the_field(attack)
        else:
            await self._on_the_wire(attack, self.plc, self.reader)

    async def _in_the_field(self, attack: Attack) -> None:
        world = attack.world
        sensor, described = world.wiring.sensors[self.sensor], world.site.plant.sensors[self.sensor]
        tape: list[float] = []
        if self.shape == "replay":

            def record(reading: float) -> float:
                tape.append(reading)
                return reading

            sensor.fault = record
            await asyncio.sleep(self.recording)
        departure = Departure(
            self.shape,
            difference_to_si(self.amount, described.unit),
            self.lasting,
            self.stealth,
            difference_to_si(described.noise, described.unit),
            world.loop.time,
        )
        departure.tape = tape
        sensor.fault = departure
        attack.note(self, "done", target=self.sensor, shape=self.shape, stealth=self.stealth)
        await asyncio.sleep(self.lasting)
        sensor.fault = None
        attack.note(self, "withdrawn", target=self.sensor)

    async def _on_the_wire(self, attack: Attack, plc: str, reader: str) -> None:
        world = attack.world
        controller = world.site.controllers()[plc]
        hosts, described = world.network.hosts, world.site.plant.sensors[self.sensor]
        tape: list[float] = []
        departure: Departure | None = None

        def change(reading: float) -> float:
            if departure is not None:
                return min(max(departure(reading), described.low), described.high)
            tape.append(reading)
            return reading

        forger = Forger(controller, {self.sensor: change}, hosts[plc].address, fix_checksum=True)
        if not attack.host.interpose(hosts[reader].address, hosts[plc].address, forger):
            attack.note(self, "refused", target=reader, reason="ARP replies refused")
            return
        attack.note(self, "interposed", target=reader)
        if self.shape == "replay":
            await asyncio.sleep(self.recording)
        departure = Departure(
            self.shape, self.amount, self.lasting, self.stealth, described.noise, world.loop.time
        )
        departure.tape = tape if self.shape == "replay" else []
        before = forger.forged
        await asyncio.sleep(min(10.0, self.lasting))
        if forger.forged > before:
            attack.note(self, "done", target=reader, shape=self.shape, stealth=self.stealth)
            await asyncio.sleep(max(0.0, self.lasting - 10.0))
        else:
            attack.note(self, "refused", target=reader, reason="traffic cannot be read")
        attack.host.withdraw(hosts[reader].address, hosts[plc].address)
        attack.note(self, "withdrawn", target=reader)
