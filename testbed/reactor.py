"""Ricker's simplified Tennessee Eastman reactor: A + C -> D in one vessel with two phases, isothermal.

N. L. Ricker, "Model predictive control of a continuous, nonlinear, two-phase reactor", J. Process Control 3 (1993)
109-123; the plant of Cardenas et al., "Attacks against process control systems", AsiaCCS 2011. Gas: A, B (inert), C;
liquid: D alone. Feed 1 is A + B + C, feed 2 pure A, the purge takes gas, the product liquid:

    VL = ND/rhoL    P = (NA + NB + NC) R T/(V - VL)    F1, F2 ~ valve    F3, F4 ~ valve * sqrt(P - 100 kPa)
    r = k0 (yA P)^1.2 (yC P)^0.4
    NA' = yA1 F1 + F2 - yA F3 - r    NB' = yB1 F1 - yB F3    NC' = yC1 F1 - yC F3 - r    ND' = r - F4

The constants reproduce the published base case to four digits (tests). It is slow: a false pressure reading takes half
a day to become dangerous. Two valves are not in the paper and belong to the safety system: a shut-off valve of both
feeds, and a vent that springs open when it is de-energized; both an assumption.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from operator import attrgetter
from types import MappingProxyType

from testbed.errors import UnknownNameError
from testbed.plant import Actuator, SensorSpec, initial_value

HOUR = 3600.0
STEP = 1.0  # s; the fastest part is a valve's 10 s
R, T, V = 8.314, 373.0, 122.0  # kJ/(kmol K), K, m3; Ricker 1993
LIQUID_VOLUME = 30.0  # m3, full; Ricker 1993
LIQUID_DENSITY = 8.3  # kmol/m3; Ricker 1993
K0 = 0.00117  # rate constant, kmol/h and kPa; Ricker 1993
FEED = (0.485, 0.005, 0.510)  # mole fractions of A, B, C in feed 1; Ricker 1993
MOST_FEED_1, MOST_FEED_2 = 330.46, 22.46  # kmol/h; Ricker 1993
PURGE_CV, PRODUCT_CV = 0.00352, 0.0417  # kmol/(h % kPa^0.5); Ricker 1993
VALVE_LAG = 10.0  # s; Ricker 1993
BACK_PRESSURE = 100.0  # kPa, downstream of purge and product
SHUT_OFF_TRAVEL = 2.0  # s of the safety system's valves; assumption
PRESSURE_LIMIT = 3000.0  # kPa; Ricker 1993, as the shutdown limit of Downs and Vogel 1993

#: The published base case: moles (kmol) of A, B, C, D, and valve positions (fractions).
BASE_MOLES = (44.5, 13.53, 36.64, 110.0)
BASE_VALVES = (0.6095, 0.2502, 0.3926, 0.4703)

VALVES = ("FV1", "FV2", "FV3", "FV4")
COMMANDS = (*VALVES, "FEED_OPEN", "VENT_SHUT")
INITIAL: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "moles.a": (BASE_MOLES[0], 0.1, 500.0),
        "moles.b": (BASE_MOLES[1], 0.0, 500.0),
        "moles.c": (BASE_MOLES[2], 0.1, 500.0),
        "moles.d": (BASE_MOLES[3], 0.0, 240.0),
    }
)
#: Pressure: the published limit. Level: what keeps gas out of the product line and liquid out of the purge, assumed.
ENVELOPE: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"reactor.pressure": (0.0, PRESSURE_LIMIT * 1000.0), "reactor.level": (0.05, 0.95)}
)

#: Default instruments; the noise is an assumption.
REACTOR_SENSORS: tuple[SensorSpec, ...] = (
    SensorSpec("PT1", "reactor.pressure", 2000.0, 0.0, 4.0e6),
    SensorSpec("LT1", "reactor.level", 0.003, 0.0, 1.0),
    SensorSpec("AT1", "reactor.a", 0.003, 0.0, 1.0),
    SensorSpec("FT1", "feed1.flow", 0.14, 0.0, 100.0),
    SensorSpec("FT2", "feed2.flow", 0.01, 0.0, 10.0),
    SensorSpec("FT3", "purge.flow", 0.02, 0.0, 50.0),
    SensorSpec("FT4", "product.flow", 0.14, 0.0, 100.0),
)


class _LaggedValve(Actuator):
    """A valve with a positioner: first order, and no farther than its stem goes."""

    __slots__ = ()

    def advance(self, seconds: float) -> None:
        self.position += (self.target - self.position) * -math.expm1(-seconds / VALVE_LAG)


class Reactor:
    """The model; ``PlantModel`` states what each member means.

    Commands ``FV1`` (feed 1), ``FV2`` (feed 2, pure A), ``FV3`` (purge) and ``FV4`` (product) are valve openings 0..1;
    ``FEED_OPEN`` and ``VENT_SHUT`` (0 or 1) hold the safety system's valves in their working position. Signals:
    ``reactor.pressure`` (Pa), ``reactor.level`` (share of 30 m3), mole fractions ``reactor.a``, ``.b``, ``.c``, flows
    (mol/s), ``reaction.rate`` (mol/s), valve positions, the pressure and level switches of the safety system (0/1), and
    totals (mol).
    """

    __slots__ = (
        "_a",
        "_actuators",
        "_b",
        "_c",
        "_commands",
        "_d",
        "_fed",
        "_feed1",
        "_feed2",
        "_level",
        "_made",
        "_pressure",
        "_product",
        "_purge",
        "_purged",
        "_rate",
        "_steps",
        "_valves",
        "_vent",
    )

    name = "reactor"
    step = STEP
    envelope = ENVELOPE

    def __init__(self, *, stream: random.Random, initial: Mapping[str, float] | None = None) -> None:
        """Start at the published base case, but for ``initial`` (keys: ``INITIAL`` and the commands).

        ``stream`` is not drawn from: the published process has no disturbance. Raises UnknownNameError for another
        key, OtlabError for a value out of range.
        """
        initial = {} if initial is None else initial
        for key in initial:
            if key not in INITIAL and key not in COMMANDS:
                raise UnknownNameError("initial value", key, (*INITIAL, *COMMANDS))
        self._a, self._b, self._c, self._d = (
            initial_value(initial, key, *limits) for key, limits in INITIAL.items()
        )
        usual = (*BASE_VALVES, 1.0, 1.0)
        self._commands = {
            key: initial_value(initial, key, value, 0.0, 1.0)
            for key, value in zip(COMMANDS, usual, strict=True)
        }
        self._actuators: dict[str, Actuator] = {
            key: _LaggedValve(0.0, value) if key in VALVES else Actuator(SHUT_OFF_TRAVEL, value)
            for key, value in self._commands.items()
        }
        self._valves = tuple(self._actuators.values())
        self._steps = 0
        self._fed = self._made = self._purged = 0.0
        self._flows()

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
        for valve in self._valves:
            if valve.position != valve.target:
                valve.advance(STEP)
        hours = STEP / HOUR
        gas = self._a + self._b + self._c
        rate = min(self._rate, self._a / hours, self._c / hours)
        out = self._purge + self._vent
        self._a += (FEED[0] * self._feed1 + self._feed2 - self._a / gas * out - rate) * hours
        self._b += (FEED[1] * self._feed1 - self._b / gas * out) * hours
        self._c += (FEED[2] * self._feed1 - self._c / gas * out - rate) * hours
        self._d += (rate - self._product) * hours
        self._fed += (self._feed1 + self._feed2) * hours
        self._made += self._product * hours
        self._purged += out * hours
        # An empty or a full vessel stays one: what the model is not made for must not become negative or infinite.
        self._a, self._b, self._c = max(self._a, 1e-6), max(self._b, 0.0), max(self._c, 1e-6)
        self._d = min(max(self._d, 0.0), LIQUID_DENSITY * V * 0.95)
        self._flows()

    def _flows(self) -> None:
        """Pressure, flows (kmol/h) and rate from the moles and positions as they are."""
        one, two, three, four, feed_open, vent_shut = (valve.position for valve in self._valves)
        gas = self._a + self._b + self._c
        volume = self._d / LIQUID_DENSITY
        self._level = volume / LIQUID_VOLUME
        self._pressure = gas * R * T / (V - volume)
        head = math.sqrt(max(self._pressure - BACK_PRESSURE, 0.0))
        self._feed1 = MOST_FEED_1 * one * feed_open
        self._feed2 = MOST_FEED_2 * two * feed_open
        self._purge = PURGE_CV * 100.0 * three * head
        self._vent = PURGE_CV * 100.0 * (1.0 - vent_shut) * head
        # The product valve passes no more than there is.
        self._product = min(PRODUCT_CV * 100.0 * four * head, self._d * HOUR / STEP)
        partial_a, partial_c = self._a / gas * self._pressure, self._c / gas * self._pressure
        self._rate = K0 * partial_a**1.2 * partial_c**0.4


_KMOL_PER_HOUR = 1000.0 / HOUR  # mol/s


def _scaled(attribute: str, factor: float) -> Callable[[Reactor], float]:
    read = attrgetter(attribute)
    return lambda plant: read(plant) * factor


def _share(attribute: str) -> Callable[[Reactor], float]:
    read = attrgetter(attribute)
    return lambda plant: read(plant) / (plant._a + plant._b + plant._c)


def _position(name: str) -> Callable[[Reactor], float]:
    return lambda plant: plant._actuators[name].position


_SIGNALS: Mapping[str, Callable[[Reactor], float]] = {
    "elapsed": lambda plant: plant._steps * STEP,
    "reactor.pressure": _scaled("_pressure", 1000.0),
    "reactor.level": attrgetter("_level"),
    "reactor.a": _share("_a"),
    "reactor.b": _share("_b"),
    "reactor.c": _share("_c"),
    "feed1.flow": _scaled("_feed1", _KMOL_PER_HOUR),
    "feed2.flow": _scaled("_feed2", _KMOL_PER_HOUR),
    "purge.flow": _scaled("_purge", _KMOL_PER_HOUR),
    "vent.flow": _scaled("_vent", _KMOL_PER_HOUR),
    "product.flow": _scaled("_product", _KMOL_PER_HOUR),
    "reaction.rate": _scaled("_rate", _KMOL_PER_HOUR),
    **{f"{name}.position": _position(name) for name in COMMANDS},
    # The safety system's own switches, apart from the transmitters; settings are an assumption (calibration, A.2).
    "PSHH1": lambda plant: float(plant._pressure >= 2950.0),
    "LSHH1": lambda plant: float(plant._level >= 0.90),
    "LSLL1": lambda plant: float(plant._level <= 0.10),
    "fed.total": _scaled("_fed", 1000.0),
    "made.total": _scaled("_made", 1000.0),
    "purged.total": _scaled("_purged", 1000.0),
}
