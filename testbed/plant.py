"""The seam between physics and instruments.

A plant is differential equations and nothing else: it knows no clock, no tags and no controller. A controller sees it
only through ``Sensor`` (noise, range, lag, faults) and moves it only through named commands, which ``Actuator`` turns
into positions at the pace of the machinery. Attacks on measurements belong in a device or on the wire; attacks on the
hardware itself (a shifted transmitter, a jammed valve) belong in the fault seams here.

All quantities are SI.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import simpy

from testbed.errors import OtlabError, UnknownNameError

#: What turns a sound reading into a faulty one; both in the SI unit of the sensor.
Fault = Callable[[float], float]


class PlantModel(Protocol):
    """Pure physics of one process; deterministic, but for a disturbance stream passed to its constructor."""

    @property
    def name(self) -> str:
        """The key of this model in ``PLANTS``."""

    @property
    def step(self) -> float:
        """Seconds that one ``advance()`` covers, and that the model is validated for."""

    @property
    def commands(self) -> Mapping[str, float]:
        """Actuator command name -> command in force, in a fixed order."""

    @property
    def actuators(self) -> Mapping[str, Actuator]:
        """The machinery behind each command, under the same names: the seam for jammed valves and dead pumps."""

    @property
    def signals(self) -> tuple[str, ...]:
        """Every name that ``value`` answers to; ``elapsed`` (seconds of physics so far) is always one of them."""

    @property
    def envelope(self) -> Mapping[str, tuple[float, float]]:
        """Signal -> (low, high), SI, both still safe: the bounds that the safety metric counts seconds outside of."""

    def command(self, name: str, value: float) -> None:
        """Set one actuator's command: 0 or 1 for pumps and on/off valves, else the range the model documents.

        A value outside the range is clipped and NaN counts as 0, as an output card would have it.
        Raises UnknownNameError for a name not in ``commands``.
        """

    def advance(self) -> None:
        """Advance the physics by ``step`` seconds."""

    def value(self, name: str) -> float:
        """Return the true value of a signal, SI. Raises UnknownNameError for a name not in ``signals``."""


class Actuator:
    """A command and the position that follows it at a constant rate; positions are fractions of full travel.

    ``position`` moves toward ``target``; ``target`` is the command, unless the mechanism is stuck.
    """

    __slots__ = ("command", "position", "rate", "stuck", "target")

    def __init__(self, travel: float, position: float = 0.0) -> None:
        """Start at rest at ``position``; ``travel`` is the seconds of a full stroke (0: at once)."""
        self.rate = 1.0 / travel if travel > 0.0 else math.inf
        self.command = self.target = self.position = position
        self.stuck = False

    def drive(self, command: float) -> None:
        """Take a new command; a stuck mechanism remembers it and does not move."""
        self.command = command
        if not self.stuck:
            self.target = command

    def advance(self, seconds: float) -> None:
        """Travel toward the target for ``seconds``."""
        gap = self.target - self.position
        reach = self.rate * seconds
        self.position = self.target if abs(gap) <= reach else self.position + math.copysign(reach, gap)

    def stick(self, at: float | None = None) -> None:
        """Jam at the present position, or at ``at``; commands have no effect until ``release``."""
        if at is not None:
            self.position = at
        self.target = self.position
        self.stuck = True

    def release(self) -> None:
        """Free the mechanism: it travels to the command in force."""
        self.stuck = False
        self.target = self.command


@dataclass(frozen=True, slots=True)
class SensorSpec:
    """One instrument: ``name`` is its tag, ``signal`` what it measures; the rest is in the signal's SI unit.

    ``noise_sd`` is the standard deviation of white Gaussian noise, ``low`` and ``high`` the ends of the range at
    which readings clip, ``lag`` a first-order time constant in seconds (0: none).
    """

    name: str
    signal: str
    noise_sd: float
    low: float
    high: float
    lag: float = 0.0


class Sensor:
    """Reads one signal of one plant as ``spec`` says.

    ``fault`` may be set and cleared at any time; it is applied after noise and before clipping, so a stuck sensor
    is perfectly still and no fault leaves the range.
    """

    __slots__ = ("_filtered", "_plant", "_read_at", "_stream", "fault", "spec")

    def __init__(self, spec: SensorSpec, plant: PlantModel, stream: random.Random) -> None:
        """Raises UnknownNameError if the plant does not publish ``spec.signal``."""
        if spec.signal not in plant.signals:
            raise UnknownNameError("plant signal", spec.signal, plant.signals)
        self.spec = spec
        self.fault: Fault | None = None
        self._plant = plant
        self._stream = stream
        self._filtered = plant.value(spec.signal)
        self._read_at = plant.value("elapsed") if spec.lag > 0.0 else 0.0

    def read(self) -> float:
        """Return the reading now, SI, within the range; takes exactly one draw from the stream."""
        spec = self.spec
        reading = self._plant.value(spec.signal)
        if spec.lag > 0.0:
            reading = self._lagged(reading)
        # Drawn even without noise, so that changing one sensor's noise leaves a shared stream in step.
        reading += self._stream.gauss(0.0, 1.0) * spec.noise_sd
        if self.fault is not None:
            reading = self.fault(reading)
        return min(max(reading, spec.low), spec.high)

    def _lagged(self, true: float) -> float:
        """First-order response since the last read, taking the signal as constant over that interval."""
        now = self._plant.value("elapsed")
        self._filtered += (true - self._filtered) * -math.expm1((self._read_at - now) / self.spec.lag)
        self._read_at = now
        return self._filtered


def stuck_at(value: float) -> Fault:
    """A transmitter that shows ``value`` whatever happens."""
    return lambda _: value


def bias(offset: float) -> Fault:
    """A constant error of ``offset``."""
    return lambda reading: reading + offset


def drift(rate: float, clock: Callable[[], float]) -> Fault:
    """An error that grows by ``rate`` per second of ``clock`` from the moment this is called."""
    start = clock()
    return lambda reading: reading + rate * (clock() - start)


def dead() -> Fault:
    """No signal: the reading falls to the low end of the range, as a lost 4-20 mA loop does."""
    return lambda _: -math.inf


def switched(value: float) -> float:
    """Return 1.0 or 0.0 for an on/off command; anything from a half up is on, NaN is off."""
    return 1.0 if value >= 0.5 else 0.0


def initial_value(initial: Mapping[str, float], name: str, default: float, low: float, high: float) -> float:
    """Return ``initial[name]`` or ``default``. Raises OtlabError unless it lies within ``low``..``high``."""
    value = initial.get(name, default)
    if not low <= value <= high:
        raise OtlabError(f"initial {name} is {value:g}; it must be within {low:g} and {high:g}")
    return value


def run_plant(env: simpy.Environment, plant: PlantModel) -> Generator[simpy.Event, Any, None]:
    """Advance ``plant`` in step with ``env``, for ever: a SimPy process."""
    start = env.now
    steps = 0
    while True:
        steps += 1
        # From the step count, not from the last wake-up: adding step to step would drift by rounding.
        yield env.timeout(start + steps * plant.step - env.now)
        plant.advance()
