"""Bell and Astrom's 160 MW drum boiler and turbine: seconds to a trip instead of hours.

R. D. Bell and K. J. Astrom, "Dynamic models for boiler-turbine-alternator units", report LUTFD2/TFRT-3192, Lund 1987.
Drum pressure p (kgf/cm2), electrical output P (MW), fluid density rho (kg/m3); inputs fuel u1, steam valve u2 and
feedwater u3, each 0..1:

    p'   = -0.0018 u2 p^(9/8) + 0.9 u1 - 0.15 u3
    P'   = ((0.73 u2 - 0.16) p^(9/8) - P)/10
    rho' = (141 u3 - (1.1 u2 - 0.19) p)/85
    level = 0.05 (0.13073 rho + 100 acs + qe/9 - 67.975)

with steam quality acs and evaporation rate qe. Six of the seven published operating points are equilibria of these
equations to the last digit (tests); the first one's output is not, and is not used. Level answers the steam valve at
once (shrink and swell), so a level transmitter needs a lag of some seconds. A shut-off valve of the fuel, which the
paper has not, belongs to the burner management: an assumption.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType

from testbed.errors import UnknownNameError
from testbed.plant import Actuator, SensorSpec, initial_value

STEP = 0.2  # s; the fastest part is a rate limit of 20 s a stroke
KGF_PER_CM2 = 98_066.5  # Pa
#: Seconds of a full stroke, from the published rate limits 0.007/s, 0.02/s, 0.05/s; the shut-off's is an assumption.
FUEL_TRAVEL, STEAM_TRAVEL, FEEDWATER_TRAVEL, SHUT_OFF_TRAVEL = 1 / 0.007, 1 / 0.02, 1 / 0.05, 1.0
#: Where the equations stop to mean anything; what is beyond is held there.
LEAST_PRESSURE, MOST_PRESSURE = 20.0, 200.0
LEAST_DENSITY, MOST_DENSITY = 200.0, 800.0
LEVEL_TRIP = 0.25  # m from the normal level, high and low; assumption
PRESSURE_TRIP = 130.0  # kgf/cm2; assumption: between the sixth and the seventh operating point


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """One row of the published table: pressure, output, density, inputs, level (m)."""

    pressure: float
    output: float
    density: float
    inputs: tuple[float, float, float]
    level: float


#: Bell and Astrom 1987, by number; point 4 is the usual one. Point 1 is left out: its output contradicts the equations.
OPERATING_POINTS: Mapping[int, OperatingPoint] = MappingProxyType(
    {
        2: OperatingPoint(86.4, 36.65, 342.4, (0.209, 0.552, 0.256), -0.65),
        3: OperatingPoint(97.2, 50.52, 385.2, (0.271, 0.621, 0.340), -0.32),
        4: OperatingPoint(108.0, 66.65, 428.0, (0.340, 0.690, 0.433), 0.0),
        5: OperatingPoint(118.8, 85.06, 470.8, (0.418, 0.759, 0.543), 0.32),
        6: OperatingPoint(129.6, 105.8, 513.6, (0.505, 0.828, 0.663), 0.64),
        7: OperatingPoint(140.4, 128.9, 556.4, (0.600, 0.897, 0.793), 0.98),
    }
)
USUAL = OPERATING_POINTS[4]
COMMANDS = ("FUEL", "STEAM", "FEEDWATER", "FUEL_OPEN")
INITIAL: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "drum.pressure": (
            USUAL.pressure * KGF_PER_CM2,
            LEAST_PRESSURE * KGF_PER_CM2,
            MOST_PRESSURE * KGF_PER_CM2,
        ),
        "drum.density": (USUAL.density, LEAST_DENSITY, MOST_DENSITY),
        "output": (USUAL.output * 1e6, 0.0, 300e6),
    }
)
ENVELOPE: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"drum.pressure": (0.0, PRESSURE_TRIP * KGF_PER_CM2), "drum.level": (-LEVEL_TRIP, LEVEL_TRIP)}
)

#: Default instruments; noise and the level's lag are an assumption.
BOILER_SENSORS: tuple[SensorSpec, ...] = (
    SensorSpec("PT1", "drum.pressure", 0.05 * KGF_PER_CM2, 0.0, 200.0 * KGF_PER_CM2),
    SensorSpec("LT1", "drum.level", 0.002, -1.0, 1.0, lag=5.0),
    SensorSpec("JT1", "output", 0.1e6, 0.0, 200e6),
    SensorSpec("FT1", "steam.flow", 0.2, 0.0, 300.0),
    SensorSpec("FT2", "feedwater.flow", 0.2, 0.0, 300.0),
)


def rates(
    p: float, output: float, density: float, u1: float, u2: float, u3: float
) -> tuple[float, float, float]:
    """Rates of change of pressure (kgf/cm2 a second), output (MW/s) and density (kg/m3 a second)."""
    power = p**1.125
    return (
        -0.0018 * u2 * power + 0.9 * u1 - 0.15 * u3,
        ((0.73 * u2 - 0.16) * power - output) / 10.0,
        (141.0 * u3 - (1.1 * u2 - 0.19) * p) / 85.0,
    )


def level_of(p: float, density: float, u1: float, u2: float, u3: float) -> float:
    """Drum level (m from normal)."""
    quality = (1.0 - 0.001538 * density) * (0.8 * p - 25.6) / (density * (1.0394 - 0.0012304 * p))
    evaporation = (0.854 * u2 - 0.147) * p + 45.59 * u1 - 2.514 * u3 - 2.096
    return 0.05 * (0.13073 * density + 100.0 * quality + evaporation / 9.0 - 67.975)


class Boiler:
    """The model; ``PlantModel`` states what each member means.

    Commands ``FUEL``, ``STEAM`` and ``FEEDWATER`` are openings 0..1 at the published rates; ``FUEL_OPEN`` (0 or 1)
    holds the fuel's shut-off valve open. Signals: ``drum.pressure`` (Pa), ``drum.level`` (m from normal),
    ``drum.density`` (kg/m3), ``output`` (W), steam and feedwater flow (kg/s), valve positions, ``flame`` (0/1), the
    switches of the burner management (0/1), and the total ``energy`` (J).
    """

    __slots__ = (
        "_actuators",
        "_commands",
        "_density",
        "_energy",
        "_feedwater",
        "_fuel",
        "_level",
        "_output",
        "_pressure",
        "_shut_off",
        "_steam",
        "_steps",
    )

    name = "boiler"
    step = STEP
    envelope = ENVELOPE

    def __init__(self, *, stream: random.Random, initial: Mapping[str, float] | None = None) -> None:
        """Start at the published operating point 4, but for ``initial`` (keys: ``INITIAL`` and the commands).

        ``stream`` is not drawn from: the published process has no disturbance. Raises UnknownNameError for another
        key, OtlabError for a value out of range.
        """
        initial = {} if initial is None else initial
        for key in initial:
            if key not in INITIAL and key not in COMMANDS:
                raise UnknownNameError("initial value", key, (*INITIAL, *COMMANDS))
        start = {key: initial_value(initial, key, *limits) for key, limits in INITIAL.items()}
        self._pressure = start["drum.pressure"] / KGF_PER_CM2
        self._density = start["drum.density"]
        self._output = start["output"] / 1e6
        self._commands = {
            key: initial_value(initial, key, value, 0.0, 1.0)
            for key, value in zip(COMMANDS, (*USUAL.inputs, 1.0), strict=True)
        }
        travels = (FUEL_TRAVEL, STEAM_TRAVEL, FEEDWATER_TRAVEL, SHUT_OFF_TRAVEL)
        self._fuel, self._steam, self._feedwater, self._shut_off = (
            Actuator(travel, value) for travel, value in zip(travels, self._commands.values(), strict=True)
        )
        machines = (self._fuel, self._steam, self._feedwater, self._shut_off)
        self._actuators: dict[str, Actuator] = dict(zip(COMMANDS, machines, strict=True))
        self._steps = 0
        self._energy = 0.0
        self._level = self._level_now()

    @property
    def commands(self) -> Mapping[str, float]:
        return MappingProxyType(self._commands)

    @property
    def actuators(self) -> Mapping[str, Actuator]:
        return MappingProxyType(self._actuators)

    @property
    def signals(self) -> tuple[str, ...]:
        return tuple(_SIGNALS)

    def command(self, name: str, value: float) -> None:
        if name not in self._commands:
            raise UnknownNameError("actuator command", name, self._commands)
        # Not min/max: their result for NaN depends on the order of arguments.
        command = 0.0 if not value > 0.0 else min(value, 1.0)
        self._commands[name] = command
        self._actuators[name].drive(command)

    def value(self, name: str) -> float:
        read = _SIGNALS.get(name)
        if read is None:
            raise UnknownNameError("plant signal", name, _SIGNALS)
        return read(self)

    def advance(self) -> None:
        self._steps += 1
        for machine in (self._fuel, self._steam, self._feedwater, self._shut_off):
            if machine.position != machine.target:
                machine.advance(STEP)
        fuel, steam, feedwater = self._inputs()
        dp, doutput, ddensity = rates(self._pressure, self._output, self._density, fuel, steam, feedwater)
        self._pressure = min(max(self._pressure + dp * STEP, LEAST_PRESSURE), MOST_PRESSURE)
        self._output = max(self._output + doutput * STEP, 0.0)
        self._density = min(max(self._density + ddensity * STEP, LEAST_DENSITY), MOST_DENSITY)
        self._energy += self._output * 1e6 * STEP
        self._level = self._level_now()

    def _inputs(self) -> tuple[float, float, float]:
        return self._fuel.position * self._shut_off.position, self._steam.position, self._feedwater.position

    def _level_now(self) -> float:
        return level_of(self._pressure, self._density, *self._inputs())


def _position(name: str) -> Callable[[Boiler], float]:
    return lambda plant: plant._actuators[name].position


_SIGNALS: Mapping[str, Callable[[Boiler], float]] = {
    "elapsed": lambda plant: plant._steps * STEP,
    "drum.pressure": lambda plant: plant._pressure * KGF_PER_CM2,
    "drum.level": attrgetter("_level"),
    "drum.density": attrgetter("_density"),
    "output": lambda plant: plant._output * 1e6,
    # The two mass flows of the density's balance, in the paper's own scale taken as kg/s.
    "steam.flow": lambda plant: max((1.1 * plant._steam.position - 0.19) * plant._pressure, 0.0),
    "feedwater.flow": lambda plant: 141.0 * plant._feedwater.position,
    **{f"{name}.position": _position(name) for name in COMMANDS},
    "flame": lambda plant: float(plant._fuel.position * plant._shut_off.position > 0.02),
    # The burner management's own switches, apart from the transmitters; settings are an assumption.
    "PSHH1": lambda plant: float(plant._pressure >= PRESSURE_TRIP),
    "LSHH1": lambda plant: float(plant._level >= LEVEL_TRIP),
    "LSLL1": lambda plant: float(plant._level <= -LEVEL_TRIP),
    "energy": attrgetter("_energy"),
}
