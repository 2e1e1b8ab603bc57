"""All six stages of a SWaT-like water treatment plant: those of ``testbed.water``, and what comes after them.

    UF -> T401 -> P401|P402 -> UV401 -> bisulfite P403 P404 -> P501|P502 -> reverse osmosis (RO)
                                                    RO permeate -> MV501 -> T601 -> the consumer (over its rim)
                                                                   MV503 -> drain
                                                    RO reject   -> MV502 -> T602    MV504 -> drain
    T602 -> P602 -> backwash of the UF       T601 -> P601 -> T101       T601 -> P603 -> flushes the RO into T602

Source letters are those of ``testbed.water`` (S, C, A). Stages 4 to 6 are published as a drawing, a list of tags and
a few figures only: the pressures, flows and qualities below are A unless they say otherwise, chosen near what the plant
is reported to make. Which line MV501 to MV504 stand in is A too. Chemicals are never used up, so the level switches of
their tanks do not exist here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from operator import attrgetter
from types import MappingProxyType

from testbed import water
from testbed.errors import UnknownNameError
from testbed.plant import Actuator, SensorSpec, initial_value, switched
from testbed.water import DRY_LEVEL, HOUR, SHUT, STEP, TANK_AREA, TANK_HEIGHT, VALVE_TRAVEL, WaterPlant

RO_FEED_FLOW = 1.7 / HOUR  # m3/s of one of P401, P402; A
RECOVERY = 0.60  # permeate over what enters the membranes; C
RECIRCULATION = 0.42  # share of the reject that goes back before P501; A
BOOST_PRESSURE = 250_000.0  # Pa before the membranes with P501 or P502 on and the reject line open; A
FEED_PRESSURE = 40_000.0  # Pa with the feed pump alone; A
BLOCKED_RISE = 1.6  # times the pressure with the reject line shut: the relief valve holds it there; A
PRESSURE_LAG = 5.0  # s; A
REJECT_PRESSURE = 0.76  # of the feed's, behind the membranes; A
PERMEATE_PRESSURE = 1_500.0  # Pa at the nominal permeate flow; A
PRESSURE_LIMIT = 350_000.0  # Pa, PSHH501; A
SALT_PASSAGE = 0.046  # share of the conductivity that passes the membranes at BOOST_PRESSURE; A
GOOD_PERMEATE = 0.0020  # S/m, the most that is delivered as good; A

DECHLORINATED_ORP = 0.155  # V after UV and bisulfite at duty; A
UV_DROP = 0.050  # V that UV401 takes off the ORP; A
ORP_LIMIT = 0.250  # V before the membranes: above it, free chlorine wears them; A
RAW_HARDNESS = 0.148  # kg/m3 as calcium carbonate; A
LINE_VOLUME = RO_FEED_FLOW * 30.0  # m3 between T401 and the analyzers; A

RETURN_FLOW = 2.0 / HOUR  # m3/s of P601; C gives its pumps as this
FLUSH_FLOW = 1.0 / HOUR  # m3/s of P603; A
LOW_SWITCH = 0.10  # m, LS601 and LS602; A

MORE_PUMPS = (
    "P202", "P204", "P206", "P401", "P402", "P403", "P404", "P501", "P502", "P601", "P602", "P603",
)  # fmt: skip
DRAWING = ("P401", "P402", "P501", "P502", "P601", "P602", "P603")  # pumps that can run dry
MORE_VALVES = ("MV501", "MV502", "MV503", "MV504")
LAMP = "UV401"
MORE_COMMANDS = (*MORE_PUMPS, *MORE_VALVES, LAMP)
COMMANDS = (*water.COMMANDS, *MORE_COMMANDS)

_MORE_INITIAL: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "T401.level": (0.900, 0.0, TANK_HEIGHT),  # C
        "T601.level": (0.200, 0.0, TANK_HEIGHT),  # C
        "T602.level": (0.200, 0.0, TANK_HEIGHT),  # C
    }
)
#: What ``initial`` may override besides a command: name -> (default, low, high).
INITIAL: Mapping[str, tuple[float, float, float]] = MappingProxyType({**water.INITIAL, **_MORE_INITIAL})

#: The safe envelope: that of stages 1 to 3, and tank, pressure and chlorine of 4 and 5.
ENVELOPE: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        **water.ENVELOPE,
        "T401.level": (0.25, 1.20),  # as LIT301
        "RO.feed_pressure": (0.0, PRESSURE_LIMIT),
        "RO.orp": (0.0, ORP_LIMIT),
    }
)

#: Default instruments of stages 4 to 6; those of 1 to 3 are ``WATER_SENSORS``. Noise and lag are A.
MORE_SENSORS: tuple[SensorSpec, ...] = (
    SensorSpec("LIT401", "T401.level", 0.001, 0.0, TANK_HEIGHT),
    SensorSpec("FIT401", "RO.feed_flow", 0.0085 / HOUR, 0.0, 5.0 / HOUR),
    SensorSpec("AIT401", "T401.hardness", 0.0002, 0.0, 0.5, lag=5.0),
    SensorSpec("AIT402", "RO.orp", 0.001, 0.0, 1.0, lag=5.0),
    SensorSpec("AIT501", "T401.ph", 0.005, 0.0, 14.0, lag=5.0),
    SensorSpec("AIT502", "RO.orp", 0.001, 0.0, 1.0, lag=10.0),
    SensorSpec("AIT503", "T401.conductivity", 0.00003, 0.0, 0.2, lag=5.0),
    SensorSpec("AIT504", "RO.permeate_conductivity", 0.00001, 0.0, 0.05, lag=5.0),
    SensorSpec("FIT501", "RO.feed_flow", 0.0085 / HOUR, 0.0, 5.0 / HOUR),
    SensorSpec("FIT502", "RO.permeate_flow", 0.0065 / HOUR, 0.0, 5.0 / HOUR),
    SensorSpec("FIT503", "RO.reject_flow", 0.004 / HOUR, 0.0, 5.0 / HOUR),
    SensorSpec("FIT504", "RO.recirculation_flow", 0.002 / HOUR, 0.0, 5.0 / HOUR),
    SensorSpec("PIT501", "RO.feed_pressure", 500.0, 0.0, 600_000.0),
    SensorSpec("PIT502", "RO.permeate_pressure", 50.0, 0.0, 600_000.0),
    SensorSpec("PIT503", "RO.reject_pressure", 500.0, 0.0, 600_000.0),
    SensorSpec("FIT601", "UF.backwash_flow", 0.0085 / HOUR, 0.0, 5.0 / HOUR),
)

_INLET = 1.0 / (1.0 - RECIRCULATION * (1.0 - RECOVERY))  # what enters the membranes, of the feed
_PERMEATE = RO_FEED_FLOW * _INLET * RECOVERY  # m3/s at BOOST_PRESSURE
_DOSE = (
    (water.DOSED_ORP - UV_DROP - DECHLORINATED_ORP) * RO_FEED_FLOW / LINE_VOLUME
)  # V/s of one of P403, P404


class SwatPlant(WaterPlant):
    """The model; ``PlantModel`` states what each member means.

    Commands are 0 or 1. Signals are those of ``WaterPlant``, and of stages 4 to 6 the levels (m), flows (m3/s),
    pressures (Pa) and qualities (S/m, pH, V, kg/m3), positions and speeds, ``permeate_volume`` (m3 made),
    ``good_permeate_volume``, and ``RO.chlorine_time`` (s that the membranes stood in water above ``ORP_LIMIT``).
    """

    __slots__ = (
        "_chlorine_time",
        "_drained_volume",
        "_feed_flow",
        "_good_permeate_volume",
        "_more",
        "_permeate_conductivity",
        "_permeate_flow",
        "_permeate_volume",
        "_pressure",
        "_recirculation_flow",
        "_reject_flow",
        "_ro_orp",
        "_t401_conductivity",
        "_t401_level",
        "_t401_orp",
        "_t401_overflow",
        "_t401_ph",
        "_t601_level",
        "_t601_overflow",
        "_t602_level",
        "_t602_overflow",
    )

    name = "swat"
    envelope = ENVELOPE

    def __init__(self, *, stream: random.Random, initial: Mapping[str, float] | None = None) -> None:
        """Start at rest, but for ``initial`` (keys: ``INITIAL`` and the commands).

        Raises UnknownNameError for another key, OtlabError for a value out of range.
        """
        initial = {} if initial is None else initial
        for key in initial:
            if key not in INITIAL and key not in COMMANDS:
                raise UnknownNameError("initial value", key, (*INITIAL, *COMMANDS))
        super().__init__(
            stream=stream,
            initial={k: v for k, v in initial.items() if k in water.INITIAL or k in water.COMMANDS},
        )
        start = {key: initial_value(initial, key, *limits) for key, limits in _MORE_INITIAL.items()}
        for key in MORE_COMMANDS:
            self._commands[key] = switched(initial_value(initial, key, 0.0, 0.0, 1.0))
        self._more: dict[str, Actuator] = {key: water.Pump(self._commands[key]) for key in MORE_PUMPS}
        self._more |= {key: Actuator(VALVE_TRAVEL, self._commands[key]) for key in MORE_VALVES}
        self._more[LAMP] = Actuator(0.0, self._commands[LAMP])
        self._actuators |= self._more
        self._machines = tuple(self._actuators.values())

        self._t401_level, self._t601_level, self._t602_level = start.values()
        self._t401_conductivity, self._t401_ph, self._t401_orp = (
            self._t301_conductivity,
            self._t301_ph,
            self._t301_orp,
        )
        self._ro_orp = DECHLORINATED_ORP
        self._permeate_conductivity = self._t401_conductivity * SALT_PASSAGE
        self._pressure = self._feed_flow = self._permeate_flow = 0.0
        self._reject_flow = self._recirculation_flow = self._chlorine_time = 0.0
        self._permeate_volume = self._good_permeate_volume = self._drained_volume = 0.0
        self._t401_overflow = self._t601_overflow = self._t602_overflow = 0.0

    @property
    def signals(self) -> tuple[str, ...]:
        return (*super().signals, *_MORE_SIGNALS)

    def value(self, name: str) -> float:
        read = _MORE_SIGNALS.get(name)
        if read is not None:
            return read(self)
        try:
            return super().value(name)
        except UnknownNameError:
            raise UnknownNameError("plant signal", name, self.signals) from None

    def advance(self) -> None:
        more = self._more
        self._offer_backwash()
        returned = RETURN_FLOW * self._pumped("P601", self._t601_level)
        self._return_flow = returned
        super().advance()
        self._dose_from_standby()

        # Stage 4: T401 and the line to the membranes.
        product, level = self._product_flow, self._t401_level
        if product > 0.0:
            share = product * STEP / (product * STEP + level * TANK_AREA)
            self._t401_conductivity += share * (self._t301_conductivity - self._t401_conductivity)
            self._t401_ph += share * (self._t301_ph - self._t401_ph)
            self._t401_orp += share * (self._t301_orp - self._t401_orp)
        feed = self._feed()
        self._treat(feed)

        # Stage 5: pressure drives water through the membranes, the rest leaves as reject.
        boosted = self._boost(feed)
        to_tank, to_drain = more["MV501"].position, more["MV503"].position
        to_backwash, to_waste = more["MV502"].position, more["MV504"].position
        aim = (BOOST_PRESSURE if boosted else FEED_PRESSURE) if feed > 0.0 else 0.0
        if to_backwash + to_waste <= SHUT or to_tank + to_drain <= SHUT:
            aim *= BLOCKED_RISE
        self._pressure += (aim - self._pressure) * STEP / PRESSURE_LAG
        permeate = min(feed, _PERMEATE * self._pressure / BOOST_PRESSURE * min(1.0, to_tank + to_drain))
        if to_backwash + to_waste <= SHUT:
            feed = permeate  # with the reject shut, only what passes the membranes can enter
        discharge = feed - permeate
        passage = SALT_PASSAGE * BOOST_PRESSURE / max(self._pressure, FEED_PRESSURE)
        if permeate > 0.0:
            self._permeate_conductivity = self._t401_conductivity * min(1.0, passage)
            self._permeate_volume += permeate * STEP
            if self._permeate_conductivity <= GOOD_PERMEATE:
                self._good_permeate_volume += permeate * STEP
        recirculation = RECIRCULATION * discharge / (1.0 - RECIRCULATION)
        if feed > 0.0 and self._ro_orp > ORP_LIMIT:
            self._chlorine_time += STEP

        # Stage 6, and every tank's balance.
        flush = FLUSH_FLOW * self._pumped("P603", self._t601_level)
        made = permeate * to_tank / (to_tank + to_drain) if permeate > 0.0 else 0.0
        kept = discharge * to_backwash / (to_backwash + to_waste) if discharge > 0.0 else 0.0
        self._drained_volume += (permeate - made + discharge - kept) * STEP
        self._t401_level, spilled = _filled(level, product - feed)
        self._t401_overflow += spilled
        self._t601_level, spilled = _filled(self._t601_level, made - returned - flush)
        self._t601_overflow += spilled
        self._t602_level, spilled = _filled(self._t602_level, kept + flush - self._backwash_flow)
        self._t602_overflow += spilled
        self._feed_flow, self._permeate_flow = feed, permeate
        self._reject_flow, self._recirculation_flow = discharge + recirculation, recirculation

    def _pumped(self, name: str, level: float) -> float:
        """Speed of a pump that takes from a tank at ``level``: 0 when it draws air."""
        pump = self._more[name]
        if level < DRY_LEVEL:
            _ran_dry(pump)
            return 0.0
        return pump.position

    def _offer_backwash(self) -> None:
        pump = self._more["P602"]
        self._backwash_supply = self._pumped("P602", self._t602_level)
        if pump.position >= 0.5 and min(self._mv301.position, self._mv303.position) <= SHUT:
            _ran_against_closed_line(pump)

    def _dose_from_standby(self) -> None:
        """What P202, P204 and P206 add: the same as P201, P203 and P205."""
        salt, acid, chlorine = (self._more[name].position for name in ("P202", "P204", "P206"))
        if salt > 0.0 or acid > 0.0 or chlorine > 0.0:
            self._dose(salt, acid, chlorine)

    def _feed(self) -> float:
        """What P401 and P402 push toward the membranes, m3/s."""
        more = self._more
        duty, standby = more["P401"], more["P402"]
        if duty.position <= 0.0 and standby.position <= 0.0:
            return 0.0
        opening = sum(more[name].position for name in MORE_VALVES)
        if self._t401_level < DRY_LEVEL:
            _ran_dry(duty, standby)
        elif opening <= SHUT:
            _ran_against_closed_line(duty, standby)
        else:
            return RO_FEED_FLOW * min(1.0, opening) * water.header(duty.position, standby.position)
        return 0.0

    def _treat(self, feed: float) -> None:
        """UV light and bisulfite on the way to the membranes; bisulfite is added whether water flows or not."""
        if feed > 0.0:
            arriving = self._t401_orp - UV_DROP * self._more[LAMP].position
            self._ro_orp += min(1.0, feed * STEP / LINE_VOLUME) * (arriving - self._ro_orp)
        dosing = self._more["P403"].position + self._more["P404"].position
        self._ro_orp = max(self._ro_orp - _DOSE * dosing * STEP, 0.0)

    def _boost(self, feed: float) -> bool:
        """Whether P501 or P502 raises the pressure; without feed it runs dry."""
        pumps = self._more["P501"], self._more["P502"]
        if feed <= 0.0:
            _ran_dry(*pumps)
            return False
        return any(pump.position >= 0.5 for pump in pumps)


def _filled(level: float, flow: float) -> tuple[float, float]:
    """A tank's level (m) one step on, and what spilled (m3)."""
    level += flow * (STEP / TANK_AREA)
    if level > TANK_HEIGHT:
        return TANK_HEIGHT, (level - TANK_HEIGHT) * TANK_AREA
    return level, 0.0


def _ran_dry(*pumps: Actuator) -> None:
    for pump in pumps:
        assert isinstance(pump, water.Pump)
        if pump.position >= 0.5:
            pump.dry_time += STEP


def _ran_against_closed_line(*pumps: Actuator) -> None:
    for pump in pumps:
        assert isinstance(pump, water.Pump)
        if pump.position >= 0.5:
            pump.deadhead_time += STEP


def _position(name: str) -> Callable[[SwatPlant], float]:
    return lambda plant: plant._more[name].position


def _running(name: str) -> Callable[[SwatPlant], float]:
    return lambda plant: 1.0 if plant._more[name].position >= 0.5 else 0.0


def _total(name: str, total: str) -> Callable[[SwatPlant], float]:
    return lambda plant: float(getattr(plant._more[name], total))


def _below(tank: str, level: float) -> Callable[[SwatPlant], float]:
    read = attrgetter(f"_{tank.lower()}_level")
    return lambda plant: 1.0 if read(plant) < level else 0.0


_MORE_SIGNALS: dict[str, Callable[[SwatPlant], float]] = {
    "T401.level": attrgetter("_t401_level"),
    "T401.conductivity": attrgetter("_t401_conductivity"),
    "T401.ph": attrgetter("_t401_ph"),
    "T401.orp": attrgetter("_t401_orp"),
    # Hardness follows the raw water's minerals; nothing before the membranes takes it out.
    "T401.hardness": lambda plant: RAW_HARDNESS * plant._raw_conductivity / water.RAW_CONDUCTIVITY,
    "T401.overflow_volume": attrgetter("_t401_overflow"),
    "LSHH401": lambda plant: 1.0 if plant._t401_level >= water.HIGH_HIGH_SWITCH else 0.0,
    "LSLL401": _below("T401", water.LOW_LOW_SWITCH),
    "RO.feed_flow": attrgetter("_feed_flow"),
    "RO.permeate_flow": attrgetter("_permeate_flow"),
    "RO.reject_flow": attrgetter("_reject_flow"),
    "RO.recirculation_flow": attrgetter("_recirculation_flow"),
    "RO.feed_pressure": attrgetter("_pressure"),
    "RO.permeate_pressure": lambda plant: PERMEATE_PRESSURE * plant._permeate_flow / _PERMEATE,
    "RO.reject_pressure": lambda plant: REJECT_PRESSURE * plant._pressure,
    "RO.permeate_conductivity": attrgetter("_permeate_conductivity"),
    "RO.orp": attrgetter("_ro_orp"),
    "RO.chlorine_time": attrgetter("_chlorine_time"),
    "PSHH501": lambda plant: 1.0 if plant._pressure >= PRESSURE_LIMIT else 0.0,
    "T601.level": attrgetter("_t601_level"),
    "T601.overflow_volume": attrgetter("_t601_overflow"),
    "T602.level": attrgetter("_t602_level"),
    "T602.overflow_volume": attrgetter("_t602_overflow"),
    "LS601": _below("T601", LOW_SWITCH),
    "LS602": _below("T602", LOW_SWITCH),
    "permeate_volume": attrgetter("_permeate_volume"),
    "good_permeate_volume": attrgetter("_good_permeate_volume"),
    "RO.drained_volume": attrgetter("_drained_volume"),
    **{f"{valve}.position": _position(valve) for valve in MORE_VALVES},
    "UV401.position": _position(LAMP),
    **{f"{pump}.speed": _position(pump) for pump in MORE_PUMPS},
    **{f"{pump}.running": _running(pump) for pump in MORE_PUMPS},
    **{f"{pump}.{total}": _total(pump, total) for pump in DRAWING for total in ("dry_time", "deadhead_time")},
}
