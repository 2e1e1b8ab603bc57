"""Stages 1 to 3 of a SWaT-like water treatment plant: raw water tank, dosing, ultrafiltration (UF).

    MV101 -> T101 -> P101|P102 -> MV201 -> dosing P201 P203 P205 -> T301 -> P301|P302 -> UF -> MV302 -> product
                                                                     UF feed side -> MV304 (drain) -> waste
                                     stage 6 -> MV301 (backwash inlet) -> UF -> MV303 (backwash drain)

Sources, by the letters used on the constants below:

S  MiniCPS example ``swat-s1`` (MIT, written at the university that runs SWaT): tank size, flows, alarm levels, the
   0.2 s process step.
C  Chen, Poskitt and Sun, SWaT simulator ("Learning from Mutants", IEEE S&P 2018, supplementary material): initial
   levels, UF flow and cycle, chemistry limits.
A  assumption: a plausible value that no published source fixes. Do not read results off an A number.

The sequence (when to filter, flush or backwash) is controller logic and deliberately not here: any valve and pump can
be driven into any combination, which is the point of an attack.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from operator import attrgetter
from types import MappingProxyType

from testbed.errors import UnknownNameError
from testbed.plant import Actuator, SensorSpec, initial_value, switched

HOUR = 3600.0

STEP = 0.2  # s; S
TANK_AREA = 1.5  # m2, T101 and T301; S
TANK_HEIGHT = 1.6  # m, what rises above spills; S
RAW_FLOW = 2.55 / HOUR  # m3/s through a fully open MV101; S
TRANSFER_FLOW = 2.45 / HOUR  # m3/s of one of P101, P102; S
UF_FLOW = 2.0 / HOUR  # m3/s of one of P301, P302; C
SECOND_PUMP = 0.3  # what a second running pump adds to the header, of one pump's flow; A
DRY_LEVEL = 0.05  # m, below it a pump draws air; A
SHUT = 0.02  # valve opening at and below which a running pump is dead-headed; A
VALVE_TRAVEL = 8.0  # s of a motorized valve's full stroke; A
PUMP_SPIN_UP = 1.0  # s; A

HIGH_HIGH_SWITCH = 1.30  # m, LSHH101 and LSHH301: above the HH alarm at 1.20 m (S), below the rim; A
LOW_LOW_SWITCH = 0.20  # m, LSLL101 and LSLL301: below the LL alarm at 0.25 m (S); A

# Chemistry: linear mixing of conductivity, pH and ORP about their working points. That is sound for conductivity
# and only a local approximation for the two others.
LINE_VOLUME = TRANSFER_FLOW * 30.0  # m3 of the static mixer: 30 s at one pump's flow; A
RAW_CONDUCTIVITY = 0.0200  # S/m; A
RAW_PH = 7.6  # A
RAW_ORP = 0.300  # V; A
DOSED_CONDUCTIVITY = 0.0255  # S/m with P201 on at one pump's flow: the middle of the limits below; A
DOSED_PH = 7.0  # with P203 on; A
DOSED_ORP = 0.460  # V with P205 on; A
GOOD_CONDUCTIVITY = (0.0250, 0.0260)  # S/m; C
GOOD_PH = (6.95, 7.05)  # C
GOOD_ORP = (0.420, 0.500)  # V; C
MOST_CONDUCTIVITY = 0.2  # S/m, top of the analyzer's range; dosing a standing line saturates here; A
LEAST_PH = 2.0  # A
MOST_ORP = 0.9  # V; A
DISTURBANCE_PERIOD = 300  # steps between changes of the raw water (60 s); A
DISTURBANCE_MEMORY = 7200.0  # s, correlation time of the raw water's composition; A
DISTURBANCE_SD = (0.00012, 0.012, 0.008)  # S/m, pH, V; A, small enough that duty dosing holds the limits

# Ultrafiltration: Darcy's law with a resistance that grows with the volume filtered.
CLEAN_PRESSURE = 15_000.0  # Pa across a clean membrane at UF_FLOW; A
FOULING = (10_000.0 / CLEAN_PRESSURE) / (UF_FLOW * 1800.0)  # 1/m3: +10 kPa in one 30 min filtration (C); A
SHUT_OFF_PRESSURE = 100_000.0  # Pa, head of P301 at which a clogged membrane chokes the flow; A
BACKWASH_FLOW = 3.0 / HOUR  # m3/s from stage 6, taken as always available; A
BACKWASH_TIME = 12.0  # s, decay of the fouling at BACKWASH_FLOW: the 45 s backwash (C) clears 97 %; A
PRESSURE_LIMIT = 40_000.0  # Pa, the value SWaT's attacks 8 and 23 (dataset's attack list) take DPIT301 past

PUMPS = ("P101", "P102", "P201", "P203", "P205", "P301", "P302")
VALVES = ("MV101", "MV201", "MV301", "MV302", "MV303", "MV304")
COMMANDS = (
    "MV101", "P101", "P102", "MV201", "P201", "P203", "P205", "P301", "P302", "MV301", "MV302", "MV303", "MV304",
)  # fmt: skip

#: What ``initial`` may override besides a command (0 or 1: closed/off or open/on): name -> (default, low, high).
INITIAL: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "T101.level": (0.505, 0.0, TANK_HEIGHT),  # C
        "T301.level": (0.890, 0.0, TANK_HEIGHT),  # C
        "T301.conductivity": (DOSED_CONDUCTIVITY, 0.0, MOST_CONDUCTIVITY),
        "T301.ph": (DOSED_PH, LEAST_PH, 14.0),
        "T301.orp": (DOSED_ORP, 0.0, MOST_ORP),
        "UF.resistance": (1.0, 1.0, 100.0),
    }
)

#: The safe envelope. Levels: LL and HH alarms (S). pH: secondary drinking-water standard, 40 CFR 143.3.
ENVELOPE: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "T101.level": (0.25, 1.20),
        "T301.level": (0.25, 1.20),
        "UF.differential_pressure": (0.0, PRESSURE_LIMIT),
        "T301.ph": (6.5, 8.5),
    }
)

#: Default instruments. Tags are SWaT's; noise, ranges and lags are assumptions (1 mm on level, 0.5 % of duty on flow).
WATER_SENSORS: tuple[SensorSpec, ...] = (
    SensorSpec("FIT101", "T101.inflow", 0.0125 / HOUR, 0.0, 5.0 / HOUR),
    SensorSpec("LIT101", "T101.level", 0.001, 0.0, TANK_HEIGHT),
    SensorSpec("FIT201", "T101.outflow", 0.0125 / HOUR, 0.0, 5.0 / HOUR),
    SensorSpec("AIT201", "line.conductivity", 0.00003, 0.0, MOST_CONDUCTIVITY, lag=5.0),
    SensorSpec("AIT202", "line.ph", 0.005, 0.0, 14.0, lag=5.0),
    SensorSpec("AIT203", "line.orp", 0.001, 0.0, 1.0, lag=5.0),
    SensorSpec("FIT301", "T301.outflow", 0.0100 / HOUR, 0.0, 5.0 / HOUR),
    SensorSpec("LIT301", "T301.level", 0.001, 0.0, TANK_HEIGHT),
    SensorSpec("DPIT301", "UF.differential_pressure", 100.0, 0.0, SHUT_OFF_PRESSURE),
)

_DOSE_CONDUCTIVITY = (DOSED_CONDUCTIVITY - RAW_CONDUCTIVITY) * TRANSFER_FLOW / LINE_VOLUME  # S/m per second
_DOSE_PH = (DOSED_PH - RAW_PH) * TRANSFER_FLOW / LINE_VOLUME  # 1/s
_DOSE_ORP = (DOSED_ORP - RAW_ORP) * TRANSFER_FLOW / LINE_VOLUME  # V/s
_PERSISTENCE = math.exp(-DISTURBANCE_PERIOD * STEP / DISTURBANCE_MEMORY)
_INNOVATION = math.sqrt(1.0 - _PERSISTENCE**2)


class Pump(Actuator):
    """A pump that remembers how long it ran without water and how long against a closed line (s)."""

    __slots__ = ("deadhead_time", "dry_time")

    def __init__(self, speed: float) -> None:
        super().__init__(PUMP_SPIN_UP, speed)
        self.dry_time = 0.0
        self.deadhead_time = 0.0


class WaterPlant:
    """The model; ``PlantModel`` states what each member means.

    Commands are 0 or 1. Signals: ``NAME.position`` of every valve (0..1), ``NAME.speed`` (0..1) and ``NAME.running``
    (0/1) of every pump, ``dry_time`` and ``deadhead_time`` (s) of the process pumps, levels (m), flows (m3/s) of the
    last step, chemistry (S/m, pH, V) in the ``line`` after dosing and in T301, the membrane's pressure (Pa), the
    level switches (0/1: 1 means the LSHH is wetted, or the level is below the LSLL), and running totals in m3.
    """

    __slots__ = (
        "_actuators",
        "_backwash_flow",
        "_backwash_supply",
        "_backwash_volume",
        "_commands",
        "_differential_pressure",
        "_good_product_volume",
        "_inflow_volume",
        "_line_conductivity",
        "_line_orp",
        "_line_ph",
        "_machines",
        "_mv101",
        "_mv201",
        "_mv301",
        "_mv302",
        "_mv303",
        "_mv304",
        "_p101",
        "_p102",
        "_p201",
        "_p203",
        "_p205",
        "_p301",
        "_p302",
        "_product_flow",
        "_product_volume",
        "_raw_conductivity",
        "_raw_orp",
        "_raw_ph",
        "_resistance",
        "_return_flow",
        "_steps",
        "_stream",
        "_t101_inflow",
        "_t101_level",
        "_t101_outflow",
        "_t101_overflow",
        "_t301_conductivity",
        "_t301_level",
        "_t301_orp",
        "_t301_outflow",
        "_t301_overflow",
        "_t301_ph",
        "_to_disturbance",
        "_waste_flow",
        "_waste_volume",
    )

    name = "water"
    step = STEP
    envelope = ENVELOPE

    def __init__(self, *, stream: random.Random, initial: Mapping[str, float] | None = None) -> None:
        """Start at rest, but for ``initial`` (keys: ``INITIAL`` and the commands).

        Raises UnknownNameError for another key, OtlabError for a value out of range.
        """
        initial = {} if initial is None else initial
        for key in initial:
            if key not in INITIAL and key not in COMMANDS:
                raise UnknownNameError("initial value", key, (*INITIAL, *COMMANDS))
        start = {key: initial_value(initial, key, *limits) for key, limits in INITIAL.items()}
        self._commands = {key: switched(initial_value(initial, key, 0.0, 0.0, 1.0)) for key in COMMANDS}

        self._mv101, self._mv201, self._mv301, self._mv302, self._mv303, self._mv304 = (
            Actuator(VALVE_TRAVEL, self._commands[key]) for key in VALVES
        )
        self._p101, self._p102, self._p201, self._p203, self._p205, self._p301, self._p302 = (
            Pump(self._commands[key]) for key in PUMPS
        )
        self._actuators: dict[str, Actuator] = {key: getattr(self, f"_{key.lower()}") for key in COMMANDS}
        self._machines = tuple(self._actuators.values())

        self._stream = stream
        self._steps = 0
        self._to_disturbance = DISTURBANCE_PERIOD
        self._raw_conductivity = RAW_CONDUCTIVITY + stream.gauss(0.0, DISTURBANCE_SD[0])
        self._raw_ph = RAW_PH + stream.gauss(0.0, DISTURBANCE_SD[1])
        self._raw_orp = RAW_ORP + stream.gauss(0.0, DISTURBANCE_SD[2])

        self._t101_level = start["T101.level"]
        self._t301_level = start["T301.level"]
        self._line_conductivity = self._t301_conductivity = start["T301.conductivity"]
        self._line_ph = self._t301_ph = start["T301.ph"]
        self._line_orp = self._t301_orp = start["T301.orp"]
        self._resistance = start["UF.resistance"]

        # What later stages give back to these, for a model that has them: the share of BACKWASH_FLOW that is to be
        # had, and m3/s pumped into T101.
        self._backwash_supply = 1.0
        self._return_flow = 0.0

        self._t101_inflow = self._t101_outflow = self._t301_outflow = 0.0
        self._product_flow = self._waste_flow = self._backwash_flow = self._differential_pressure = 0.0
        self._inflow_volume = self._product_volume = self._good_product_volume = 0.0
        self._waste_volume = self._backwash_volume = self._t101_overflow = self._t301_overflow = 0.0

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
        self._commands[name] = command = switched(value)
        self._actuators[name].drive(command)

    def value(self, name: str) -> float:
        read = _SIGNALS.get(name)
        if read is None:
            raise UnknownNameError("plant signal", name, _SIGNALS)
        return read(self)

    def advance(self) -> None:
        # One long function on purpose: it runs five times per simulated second for days, and every call costs.
        for machine in self._machines:
            if machine.position != machine.target:
                machine.advance(STEP)
        self._steps += 1
        self._to_disturbance -= 1
        if self._to_disturbance == 0:
            self._disturb()

        # Stage 1: what enters T101 and what P101 and P102 take out of it.
        inflow = RAW_FLOW * self._mv101.position
        transfer = 0.0
        duty = self._p101.position
        standby = self._p102.position
        if duty > 0.0 or standby > 0.0:
            opening = self._mv201.position
            if self._t101_level < DRY_LEVEL:
                _ran_dry(self._p101, self._p102)
            elif opening <= SHUT:
                _ran_against_closed_line(self._p101, self._p102)
            else:
                transfer = TRANSFER_FLOW * opening * header(duty, standby)

        # Stage 2: raw water displaces what stands in the mixer, dosing pumps add to it.
        dosing = self._p201.position + self._p203.position + self._p205.position
        if transfer > 0.0:
            share = transfer * STEP / LINE_VOLUME
            self._line_conductivity += share * (self._raw_conductivity - self._line_conductivity)
            self._line_ph += share * (self._raw_ph - self._line_ph)
            self._line_orp += share * (self._raw_orp - self._line_orp)
        if dosing > 0.0:
            self._dose(self._p201.position, self._p203.position, self._p205.position)

        # Stage 3: what P301 and P302 take out of T301 goes through the membrane or, on its feed side, to a drain.
        feed = product = waste = 0.0
        duty = self._p301.position
        standby = self._p302.position
        if duty > 0.0 or standby > 0.0:
            to_product = self._mv302.position
            opening = to_product + self._mv303.position + self._mv304.position
            if self._t301_level < DRY_LEVEL:
                _ran_dry(self._p301, self._p302)
            elif opening <= SHUT:
                _ran_against_closed_line(self._p301, self._p302)
            else:
                feed = UF_FLOW * header(duty, standby)
                if opening < 1.0:
                    feed *= opening
                product = feed * to_product / opening
                waste = feed * (opening - to_product) / opening
                most = UF_FLOW * SHUT_OFF_PRESSURE / (CLEAN_PRESSURE * self._resistance)
                if product > most:
                    product = most
                feed = product + waste
        self._differential_pressure = CLEAN_PRESSURE * self._resistance * product / UF_FLOW
        self._resistance += FOULING * product * STEP

        backwash = BACKWASH_FLOW * min(self._mv301.position, self._mv303.position, self._backwash_supply)
        if backwash > 0.0:
            self._backwash_volume += backwash * STEP
            if product == 0.0:  # a membrane that filters forward is not being washed
                self._resistance -= (
                    (self._resistance - 1.0) * STEP / BACKWASH_TIME * (backwash / BACKWASH_FLOW)
                )

        # Product is judged by the water that leaves T301, before this step's inflow mixes in.
        if feed > 0.0:
            self._product_volume += product * STEP
            self._waste_volume += waste * STEP
            if (
                GOOD_CONDUCTIVITY[0] <= self._t301_conductivity <= GOOD_CONDUCTIVITY[1]
                and GOOD_PH[0] <= self._t301_ph <= GOOD_PH[1]
                and GOOD_ORP[0] <= self._t301_orp <= GOOD_ORP[1]
            ):
                self._good_product_volume += product * STEP
        if transfer > 0.0:
            share = transfer * STEP / (transfer * STEP + self._t301_level * TANK_AREA)
            self._t301_conductivity += share * (self._line_conductivity - self._t301_conductivity)
            self._t301_ph += share * (self._line_ph - self._t301_ph)
            self._t301_orp += share * (self._line_orp - self._t301_orp)

        # Mass balances: dh/dt = (q_in - q_out) / A, and what rises above the rim spills.
        self._inflow_volume += inflow * STEP
        level = self._t101_level + (inflow + self._return_flow - transfer) * (STEP / TANK_AREA)
        if level > TANK_HEIGHT:
            self._t101_overflow += (level - TANK_HEIGHT) * TANK_AREA
            level = TANK_HEIGHT
        self._t101_level = level
        level = self._t301_level + (transfer - feed) * (STEP / TANK_AREA)
        if level > TANK_HEIGHT:
            self._t301_overflow += (level - TANK_HEIGHT) * TANK_AREA
            level = TANK_HEIGHT
        self._t301_level = level

        self._t101_inflow = inflow
        self._t101_outflow = transfer
        self._t301_outflow = feed
        self._product_flow = product
        self._waste_flow = waste
        self._backwash_flow = backwash

    def _dose(self, salt: float, acid: float, chlorine: float) -> None:
        """Add one step of dosing pumps at these speeds to the mixer, flow or no flow."""
        conductivity = self._line_conductivity + _DOSE_CONDUCTIVITY * STEP * salt
        self._line_conductivity = min(conductivity, MOST_CONDUCTIVITY)
        self._line_ph = max(self._line_ph + _DOSE_PH * STEP * acid, LEAST_PH)
        self._line_orp = min(self._line_orp + _DOSE_ORP * STEP * chlorine, MOST_ORP)

    def _disturb(self) -> None:
        """Let the raw water's composition wander: an Ornstein-Uhlenbeck process, exact at its period."""
        gauss = self._stream.gauss
        self._to_disturbance = DISTURBANCE_PERIOD
        self._raw_conductivity = (
            RAW_CONDUCTIVITY
            + (self._raw_conductivity - RAW_CONDUCTIVITY) * _PERSISTENCE
            + gauss(0.0, DISTURBANCE_SD[0]) * _INNOVATION
        )
        self._raw_ph = (
            RAW_PH + (self._raw_ph - RAW_PH) * _PERSISTENCE + gauss(0.0, DISTURBANCE_SD[1]) * _INNOVATION
        )
        self._raw_orp = (
            RAW_ORP + (self._raw_orp - RAW_ORP) * _PERSISTENCE + gauss(0.0, DISTURBANCE_SD[2]) * _INNOVATION
        )


def header(duty: float, standby: float) -> float:
    """Flow of two parallel pumps at these speeds, in units of one: the common header limits the second."""
    return duty + SECOND_PUMP * standby if duty >= standby else standby + SECOND_PUMP * duty


def _ran_dry(*pumps: Pump) -> None:
    for pump in pumps:
        if pump.position >= 0.5:
            pump.dry_time += STEP


def _ran_against_closed_line(*pumps: Pump) -> None:
    for pump in pumps:
        if pump.position >= 0.5:
            pump.deadhead_time += STEP


def _running(pump: str) -> Callable[[WaterPlant], float]:
    speed = attrgetter(f"_{pump.lower()}.position")
    return lambda plant: 1.0 if speed(plant) >= 0.5 else 0.0


_SIGNALS: dict[str, Callable[[WaterPlant], float]] = {
    "elapsed": lambda plant: plant._steps * STEP,
    "T101.level": attrgetter("_t101_level"),
    "T101.inflow": attrgetter("_t101_inflow"),
    "T101.outflow": attrgetter("_t101_outflow"),
    "T101.overflow_volume": attrgetter("_t101_overflow"),
    "LSHH101": lambda plant: 1.0 if plant._t101_level >= HIGH_HIGH_SWITCH else 0.0,
    "LSLL101": lambda plant: 1.0 if plant._t101_level < LOW_LOW_SWITCH else 0.0,
    "line.conductivity": attrgetter("_line_conductivity"),
    "line.ph": attrgetter("_line_ph"),
    "line.orp": attrgetter("_line_orp"),
    "T301.level": attrgetter("_t301_level"),
    "T301.outflow": attrgetter("_t301_outflow"),
    "T301.overflow_volume": attrgetter("_t301_overflow"),
    "T301.conductivity": attrgetter("_t301_conductivity"),
    "T301.ph": attrgetter("_t301_ph"),
    "T301.orp": attrgetter("_t301_orp"),
    "LSHH301": lambda plant: 1.0 if plant._t301_level >= HIGH_HIGH_SWITCH else 0.0,
    "LSLL301": lambda plant: 1.0 if plant._t301_level < LOW_LOW_SWITCH else 0.0,
    "UF.differential_pressure": attrgetter("_differential_pressure"),
    "UF.resistance": attrgetter("_resistance"),
    "UF.product_flow": attrgetter("_product_flow"),
    "UF.waste_flow": attrgetter("_waste_flow"),
    "UF.backwash_flow": attrgetter("_backwash_flow"),
    "inflow_volume": attrgetter("_inflow_volume"),
    "product_volume": attrgetter("_product_volume"),
    "good_product_volume": attrgetter("_good_product_volume"),
    "waste_volume": attrgetter("_waste_volume"),
    "backwash_volume": attrgetter("_backwash_volume"),
    "overflow_volume": lambda plant: plant._t101_overflow + plant._t301_overflow,
    "dry_run_time": lambda plant: (
        plant._p101.dry_time + plant._p102.dry_time + plant._p301.dry_time + plant._p302.dry_time
    ),
    **{f"{valve}.position": attrgetter(f"_{valve.lower()}.position") for valve in VALVES},
    **{f"{pump}.speed": attrgetter(f"_{pump.lower()}.position") for pump in PUMPS},
    **{f"{pump}.running": _running(pump) for pump in PUMPS},
    **{
        f"{pump}.{total}": attrgetter(f"_{pump.lower()}.{total}")
        for pump in ("P101", "P102", "P301", "P302")
        for total in ("dry_time", "deadhead_time")
    },
}
