"""Johansson's quadruple-tank process, and the analysis that its published figures are checked with.

K. H. Johansson, "The quadruple-tank process: a multivariable laboratory process with an adjustable zero", IEEE Trans.
Control Systems Technology 8(3), 456-465, 2000. Two pumps, each split by a valve between one lower tank and the upper
tank across:

    A1 h1' = -a1 sqrt(2 g h1) + a3 sqrt(2 g h3) + g1 k1 v1        A3 h3' = -a3 sqrt(2 g h3) + (1 - g2) k2 v2
    A2 h2' = -a2 sqrt(2 g h2) + a4 sqrt(2 g h4) + g2 k2 v2        A4 h4' = -a4 sqrt(2 g h4) + (1 - g1) k1 v1

Where the two valves send the water decides whether the process has a zero in the right half plane. The outputs are
the sensor voltages y1 = kc h1 and y2 = kc h2. The published levels are measured ones; the model's own equilibrium
differs from them by up to 0.17 cm.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt
from operator import attrgetter
from types import MappingProxyType

from testbed.errors import UnknownNameError
from testbed.plant import Actuator, SensorSpec, initial_value

Levels = tuple[float, float, float, float]

STEP = 0.2  # s; the fastest time constant is 23 s, and RK4 at this step is exact to far below sensor noise
AREA = (28e-4, 32e-4, 28e-4, 32e-4)  # m2, A1..A4; Johansson 2000
OUTLET = (0.071e-4, 0.057e-4, 0.071e-4, 0.057e-4)  # m2, a1..a4; Johansson 2000
GRAVITY = 9.81  # m/s2; Johansson 2000
SENSOR_GAIN = 50.0  # V/m, kc; Johansson 2000
TANK_HEIGHT = 0.20  # m, what rises above spills; assumption
MOST_VOLTAGE = 10.0  # V; assumption, the published closed loops stay within it


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Pump gains (m3/s per V), valve splits (fraction to the lower tank), and the published voltages and levels."""

    name: str
    pump_gains: tuple[float, float]
    splits: tuple[float, float]
    voltages: tuple[float, float]
    published_levels: Levels


#: Johansson 2000, table of operating points: minimum phase and non-minimum phase.
OPERATING_POINTS: Mapping[str, OperatingPoint] = MappingProxyType(
    {
        "P-": OperatingPoint(
            "P-", (3.33e-6, 3.35e-6), (0.70, 0.60), (3.00, 3.00), (0.124, 0.127, 0.018, 0.014)
        ),
        "P+": OperatingPoint(
            "P+", (3.14e-6, 3.29e-6), (0.43, 0.34), (3.15, 3.15), (0.126, 0.130, 0.048, 0.049)
        ),
    }
)


@dataclass(frozen=True, slots=True)
class Linearization:
    """The process about an equilibrium, voltages in, sensor voltages out."""

    time_constants: Levels  # s, T1..T4
    gain: tuple[tuple[float, float], tuple[float, float]]  # V/V at zero frequency, [output][input]
    zeros: tuple[float, float]  # 1/s, ascending
    rga: float  # the relative gain of v1 on y1


def point_named(name: str) -> OperatingPoint:
    """Return ``P-`` or ``P+``. Raises UnknownNameError for another name."""
    found = OPERATING_POINTS.get(name)
    if found is None:
        raise UnknownNameError("operating point", name, OPERATING_POINTS)
    return found


def equilibrium(point: OperatingPoint, voltages: tuple[float, float] | None = None) -> Levels:
    """Levels (m) at which nothing changes under ``voltages`` (V; the operating point's own if omitted)."""
    v1, v2 = point.voltages if voltages is None else voltages
    flow1, flow2 = point.pump_gains[0] * v1, point.pump_gains[1] * v2
    into3 = (1.0 - point.splits[1]) * flow2
    into4 = (1.0 - point.splits[0]) * flow1
    through = (point.splits[0] * flow1 + into3, point.splits[1] * flow2 + into4, into3, into4)
    h1, h2, h3, h4 = ((q / a) ** 2 / (2.0 * GRAVITY) for q, a in zip(through, OUTLET, strict=True))
    return h1, h2, h3, h4


def linearize(point: OperatingPoint, levels: Levels | None = None) -> Linearization:
    """Linearize about ``levels`` (m, all above zero; the equilibrium if omitted).

    T_i = A_i/a_i sqrt(2 h_i/g). The zeros solve (1 + s T3)(1 + s T4) = (1 - g1)(1 - g2)/(g1 g2), which has a root in
    the right half plane exactly when g1 + g2 < 1. The relative gain is g1 g2/(g1 + g2 - 1).
    """
    levels = equilibrium(point) if levels is None else levels
    t1, t2, t3, t4 = (a / o * sqrt(2.0 * h / GRAVITY) for a, o, h in zip(AREA, OUTLET, levels, strict=True))
    (k1, k2), (g1, g2) = point.pump_gains, point.splits
    c1, c2 = t1 * SENSOR_GAIN / AREA[0], t2 * SENSOR_GAIN / AREA[1]
    gain = ((g1 * k1 * c1, (1.0 - g2) * k2 * c1), ((1.0 - g1) * k1 * c2, g2 * k2 * c2))
    half_sum = (t3 + t4) / 2.0
    product = t3 * t4
    root = sqrt(half_sum**2 - product * (1.0 - (1.0 - g1) * (1.0 - g2) / (g1 * g2)))
    zeros = ((-half_sum - root) / product, (-half_sum + root) / product)
    return Linearization((t1, t2, t3, t4), gain, zeros, g1 * g2 / (g1 + g2 - 1.0))


#: Default instruments, as voltages of the published sensors; the noise (0.1 mm of level) is an assumption.
QUADRUPLE_TANK_SENSORS: tuple[SensorSpec, ...] = (
    SensorSpec("LT1", "y1", 0.005, 0.0, SENSOR_GAIN * TANK_HEIGHT),
    SensorSpec("LT2", "y2", 0.005, 0.0, SENSOR_GAIN * TANK_HEIGHT),
)

#: The safe envelope: no tank runs over, no lower tank runs empty (assumption: 1 cm of margin).
ENVELOPE: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "T1.level": (0.01, 0.19),
        "T2.level": (0.01, 0.19),
        "T3.level": (0.0, 0.19),
        "T4.level": (0.0, 0.19),
    }
)

_HEIGHT = (0.0, TANK_HEIGHT)
#: What ``initial`` may override: name -> (low, high). A negative operating_point means P-, another P+.
INITIAL: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "operating_point": (-1.0, 1.0),
        "T1.level": _HEIGHT,
        "T2.level": _HEIGHT,
        "T3.level": _HEIGHT,
        "T4.level": _HEIGHT,
        "v1": (0.0, MOST_VOLTAGE),
        "v2": (0.0, MOST_VOLTAGE),
    }
)

# a_i sqrt(2 g): outflow is this times sqrt(h).
_DRAIN1, _DRAIN2, _DRAIN3, _DRAIN4 = (outlet * sqrt(2.0 * GRAVITY) for outlet in OUTLET)
_A1, _A2, _A3, _A4 = AREA


class QuadrupleTank:
    """The model; ``PlantModel`` states what each member means.

    Commands ``v1`` and ``v2`` are pump voltages, 0..10 V, and act at once. Signals: levels ``T1.level`` to
    ``T4.level`` (m), outputs ``y1`` and ``y2`` (V), pump voltages ``v1.position`` and ``v2.position`` (V), and the
    totals ``pumped_volume``, ``drained_volume`` and ``overflow_volume`` (m3).
    """

    __slots__ = (
        "_actuators",
        "_commands",
        "_drained",
        "_h1",
        "_h2",
        "_h3",
        "_h4",
        "_overflow",
        "_pump1",
        "_pump2",
        "_pumped",
        "_split1",
        "_split2",
        "_steps",
        "_v1",
        "_v2",
        "point",
    )

    name = "quadruple_tank"
    step = STEP
    envelope = ENVELOPE

    def __init__(
        self,
        *,
        stream: random.Random,
        initial: Mapping[str, float] | None = None,
        operating_point: str | None = None,
    ) -> None:
        """Start at the model's equilibrium at ``operating_point`` (default P-), but for ``initial``.

        ``stream`` is not drawn from: the published process has no disturbance. ``initial["operating_point"]`` does
        the same as the argument where only numbers can be given, and yields to it. Raises UnknownNameError for
        another operating point or another key, OtlabError for a value out of range.
        """
        initial = {} if initial is None else initial
        for key in initial:
            if key not in INITIAL:
                raise UnknownNameError("initial value", key, INITIAL)
        if operating_point is None:
            operating_point = (
                "P-"
                if initial_value(initial, "operating_point", -1.0, *INITIAL["operating_point"]) < 0.0
                else "P+"
            )
        point = point_named(operating_point)
        v1, v2 = (
            initial_value(initial, key, default, *INITIAL[key])
            for key, default in zip(("v1", "v2"), point.voltages, strict=True)
        )
        levels = [
            initial_value(initial, f"T{i}.level", level, *_HEIGHT)
            for i, level in enumerate(equilibrium(point), start=1)
        ]
        self._h1: float
        self._h2: float
        self._h3: float
        self._h4: float
        self._h1, self._h2, self._h3, self._h4 = levels
        self.point = point
        self._pump1, self._pump2 = point.pump_gains
        self._split1, self._split2 = point.splits
        self._commands = {"v1": v1, "v2": v2}
        self._v1, self._v2 = Actuator(0.0, v1), Actuator(0.0, v2)
        self._actuators = {"v1": self._v1, "v2": self._v2}
        self._steps: int = 0
        self._pumped: float = 0.0
        self._drained: float = 0.0
        self._overflow: float = 0.0

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
        command = 0.0 if not value > 0.0 else min(value, MOST_VOLTAGE)
        self._commands[name] = command
        self._actuators[name].drive(command)

    def value(self, name: str) -> float:
        read = _SIGNALS.get(name)
        if read is None:
            raise UnknownNameError("plant signal", name, _SIGNALS)
        return read(self)

    def advance(self) -> None:
        self._steps += 1
        self._v1.position = self._v1.target
        self._v2.position = self._v2.target
        flow1 = self._pump1 * self._v1.position
        flow2 = self._pump2 * self._v2.position
        into1, into4 = self._split1 * flow1, (1.0 - self._split1) * flow1
        into2, into3 = self._split2 * flow2, (1.0 - self._split2) * flow2

        # Fourth-order Runge-Kutta over the four outflows; integrating flows rather than levels keeps the water
        # balance exact whatever the step.
        h1, h2, h3, h4 = self._h1, self._h2, self._h3, self._h4
        p1, p2, p3, p4 = _outflows(h1, h2, h3, h4)
        half = STEP / 2.0
        q1, q2, q3, q4 = _outflows(
            h1 + half * (into1 + p3 - p1) / _A1,
            h2 + half * (into2 + p4 - p2) / _A2,
            h3 + half * (into3 - p3) / _A3,
            h4 + half * (into4 - p4) / _A4,
        )
        r1, r2, r3, r4 = _outflows(
            h1 + half * (into1 + q3 - q1) / _A1,
            h2 + half * (into2 + q4 - q2) / _A2,
            h3 + half * (into3 - q3) / _A3,
            h4 + half * (into4 - q4) / _A4,
        )
        s1, s2, s3, s4 = _outflows(
            h1 + STEP * (into1 + r3 - r1) / _A1,
            h2 + STEP * (into2 + r4 - r2) / _A2,
            h3 + STEP * (into3 - r3) / _A3,
            h4 + STEP * (into4 - r4) / _A4,
        )
        sixth = STEP / 6.0
        # No tank gives more than it holds: near empty, the square root is too steep for any fixed step.
        out3 = min(sixth * (p3 + 2.0 * (q3 + r3) + s3), into3 * STEP + h3 * _A3)
        out4 = min(sixth * (p4 + 2.0 * (q4 + r4) + s4), into4 * STEP + h4 * _A4)
        out1 = min(sixth * (p1 + 2.0 * (q1 + r1) + s1), into1 * STEP + out3 + h1 * _A1)
        out2 = min(sixth * (p2 + 2.0 * (q2 + r2) + s2), into2 * STEP + out4 + h2 * _A2)
        h1 = max(h1 + (into1 * STEP + out3 - out1) / _A1, 0.0)
        h2 = max(h2 + (into2 * STEP + out4 - out2) / _A2, 0.0)
        h3 = max(h3 + (into3 * STEP - out3) / _A3, 0.0)
        h4 = max(h4 + (into4 * STEP - out4) / _A4, 0.0)

        self._pumped += (flow1 + flow2) * STEP
        self._drained += out1 + out2
        if h1 > TANK_HEIGHT or h2 > TANK_HEIGHT or h3 > TANK_HEIGHT or h4 > TANK_HEIGHT:
            h1, h2, h3, h4 = self._spill((h1, h2, h3, h4))
        self._h1, self._h2, self._h3, self._h4 = h1, h2, h3, h4

    def _spill(self, levels: Levels) -> Levels:
        """Take what stands above the rims out of the tanks and into the overflow total."""
        self._overflow += sum(max(h - TANK_HEIGHT, 0.0) * a for h, a in zip(levels, AREA, strict=True))
        h1, h2, h3, h4 = (min(h, TANK_HEIGHT) for h in levels)
        return h1, h2, h3, h4


def _outflows(h1: float, h2: float, h3: float, h4: float) -> Levels:
    """Torricelli's law for each tank, m3/s; an empty tank gives nothing."""
    return (
        _DRAIN1 * sqrt(h1) if h1 > 0.0 else 0.0,
        _DRAIN2 * sqrt(h2) if h2 > 0.0 else 0.0,
        _DRAIN3 * sqrt(h3) if h3 > 0.0 else 0.0,
        _DRAIN4 * sqrt(h4) if h4 > 0.0 else 0.0,
    )


_SIGNALS: dict[str, Callable[[QuadrupleTank], float]] = {
    "elapsed": lambda plant: plant._steps * STEP,
    "T1.level": attrgetter("_h1"),
    "T2.level": attrgetter("_h2"),
    "T3.level": attrgetter("_h3"),
    "T4.level": attrgetter("_h4"),
    "y1": lambda plant: SENSOR_GAIN * plant._h1,
    "y2": lambda plant: SENSOR_GAIN * plant._h2,
    "v1.position": attrgetter("_v1.position"),
    "v2.position": attrgetter("_v2.position"),
    "pumped_volume": attrgetter("_pumped"),
    "drained_volume": attrgetter("_drained"),
    "overflow_volume": attrgetter("_overflow"),
}
