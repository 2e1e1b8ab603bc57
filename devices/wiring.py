"""The cabinet between controllers and plant: instruments, commands, and hard-wired trip relays.

A safety PLC acts through relays that de-energize an actuator whatever its controller commands. For every plant
command ``X`` there is a relay command ``TRIP_X``; while it is on, ``X`` is held at 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from testbed.errors import UnknownNameError
from testbed.plant import PlantModel, Sensor

TRIP = "TRIP_"


class Wiring:
    """Access of controllers to one plant."""

    def __init__(self, plant: PlantModel, sensors: Mapping[str, Sensor]) -> None:
        self._plant = plant
        self.sensors = dict(sensors)
        self._wanted: dict[str, float] = dict(plant.commands)
        self._tripped: set[str] = set()
        self._forced: dict[str, float] = {}
        self._held: dict[str, float] = {}
        self.on_trip: list[Callable[[str, bool], object]] = []

    @property
    def commands(self) -> tuple[str, ...]:
        """Every command a tag may drive."""
        return (*self._wanted, *(TRIP + name for name in self._wanted))

    def command(self, name: str, value: float) -> None:
        """Drive an actuator or a trip relay (from a half up it is on); UnknownNameError for what is not there."""
        if not name.startswith(TRIP):
            if name not in self._wanted:
                raise UnknownNameError("plant command", name, self._wanted)
            self._wanted[name] = value
            if name not in self._tripped:
                self._plant.command(name, self._held.get(name, value))
            return
        target = name[len(TRIP) :]
        if target not in self._wanted:
            raise UnknownNameError("trip relay of", target, self._wanted)
        on = value >= 0.5
        if on is (target in self._tripped):
            return
        if on:
            self._tripped.add(target)
            self._plant.command(target, 0.0)
        else:
            self._tripped.discard(target)
            self._plant.command(target, self._held.get(target, self._wanted[target]))
        for told in self.on_trip:
            told(target, on)

    def hold(self, name: str, value: float | None) -> None:
        """Hold what reaches an actuator whatever its controller commands; None lets go.

        It sits before the trip relay: a trip still takes the power away. Raises UnknownNameError for what is not there.
        """
        if name not in self._wanted:
            raise UnknownNameError("plant command", name, self._wanted)
        if value is None:
            self._held.pop(name, None)
        else:
            self._held[name] = value
        if name not in self._tripped:
            self._plant.command(name, self._held.get(name, self._wanted[name]))

    def reader(self, signal: str) -> Callable[[], float]:
        """What an input card reads of ``signal``: an instrument, or a switch that the plant itself has; SI."""
        sensor = self.sensors.get(signal)
        if sensor is not None:
            return sensor.read
        value, forced = self._plant.value, self._forced
        return lambda: forced[signal] if signal in forced else value(signal)

    def force(self, switch: str, value: float | None) -> None:
        """Hold what an input card reads of one of the plant's own switches, as a proof test does; None lets go."""
        if switch in self.sensors or switch not in self._plant.signals:
            raise UnknownNameError(
                "switch", switch, (s for s in self._plant.signals if s not in self.sensors)
            )
        if value is None:
            self._forced.pop(switch, None)
        else:
            self._forced[switch] = value
