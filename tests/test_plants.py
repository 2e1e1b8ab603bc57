"""The physical processes against their published or independently computed figures, and against their own physics."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Sequence

import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed import quadruple_tank, water
from testbed.errors import OtlabError, UnknownNameError
from testbed.plant import (
    Actuator,
    PlantModel,
    Sensor,
    SensorSpec,
    bias,
    dead,
    drift,
    run_plant,
    stuck_at,
)
from testbed.plants import PLANTS, plant_named
from testbed.quadruple_tank import QUADRUPLE_TANK_SENSORS, QuadrupleTank, equilibrium, linearize, point_named
from testbed.water import WATER_SENSORS, WaterPlant

#: One train of everything running: raw water in, transfer with duty dosing, filtration to product.
PRODUCTION = dict.fromkeys(("MV101", "P101", "MV201", "P201", "P203", "P205", "P301", "MV302"), 1.0)
TRANSFER = dict.fromkeys(("P101", "MV201"), 1.0)
FILTRATION = dict.fromkeys(("P301", "MV302"), 1.0)


def water_plant(initial: dict[str, float] | None = None, *, seed: object = "test") -> WaterPlant:
    return WaterPlant(stream=random.Random(f"{seed}"), initial=initial)


def quadruple(name: str, initial: dict[str, float] | None = None) -> QuadrupleTank:
    return QuadrupleTank(stream=random.Random(0), initial=initial, operating_point=name)


def run(plant: PlantModel, seconds: float) -> None:
    for _ in range(round(seconds / plant.step)):
        plant.advance()


def time_until(plant: PlantModel, reached: Callable[[], bool], limit: float) -> float:
    """Seconds until ``reached``; fails if it has not happened after ``limit``."""
    start = plant.value("elapsed")
    while not reached():
        assert plant.value("elapsed") - start < limit
        plant.advance()
    return plant.value("elapsed") - start


def levels(plant: PlantModel) -> list[float]:
    """The four levels in cm."""
    return [plant.value(f"T{i}.level") * 100.0 for i in range(1, 5)]


# -- both models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLANTS)
class TestEveryPlant:
    """What a controller, a sensor and the safety metric rely on, whichever plant it is."""

    def test_the_table_builds_the_plant_of_that_name(self, name: str) -> None:
        plant = plant_named(name, stream=random.Random(1))
        assert plant.name == name
        assert plant.step > 0.0

    def test_all_published_signals_are_finite_numbers_before_and_after_a_step(self, name: str) -> None:
        plant = plant_named(name, stream=random.Random(1))
        assert len(plant.signals) == len(set(plant.signals))
        for _ in range(2):
            assert all(math.isfinite(plant.value(signal)) for signal in plant.signals)
            plant.advance()
        assert plant.value("elapsed") == pytest.approx(2 * plant.step)

    def test_the_envelope_bounds_published_signals_and_the_plant_starts_within_it(self, name: str) -> None:
        plant = plant_named(name, stream=random.Random(1))
        for signal, (low, high) in plant.envelope.items():
            assert low <= plant.value(signal) <= high

    def test_every_command_has_its_actuator_and_commands_are_read_only(self, name: str) -> None:
        plant = plant_named(name, stream=random.Random(1))
        assert list(plant.commands) == list(plant.actuators)
        with pytest.raises(TypeError):
            plant.commands["anything"] = 1.0  # type: ignore[index]

    def test_names_that_do_not_exist_are_errors_that_say_what_does(self, name: str) -> None:
        plant = plant_named(name, stream=random.Random(1))
        with pytest.raises(UnknownNameError, match="unknown actuator command 'P999'"):
            plant.command("P999", 1.0)
        with pytest.raises(UnknownNameError, match=r"unknown plant signal 'T999\.level'"):
            plant.value("T999.level")
        with pytest.raises(UnknownNameError, match=r"unknown initial value 'T999\.level'"):
            plant_named(name, stream=random.Random(1), initial={"T999.level": 0.1})

    def test_a_copy_goes_on_alone(self, name: str) -> None:
        """A warm world is copied per run: the copy must share no state, its stream included."""
        plant = plant_named(name, stream=random.Random(1))
        twin = copy.deepcopy(plant)
        for command in plant.commands:
            twin.command(command, 1.0)
        run(twin, 60.0)
        assert plant.value("elapsed") == 0.0
        assert plant.commands != twin.commands

    def test_the_same_stream_and_commands_give_the_same_trace(self, name: str) -> None:
        def trace() -> list[float]:
            plant = plant_named(name, stream=random.Random("same"))
            for command in plant.commands:
                plant.command(command, 1.0)
            run(plant, 300.0)
            return [plant.value(signal) for signal in plant.signals]

        assert trace() == trace()


def test_an_unknown_plant_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'water'"):
        plant_named("watr", stream=random.Random(1))


@pytest.mark.parametrize(
    ("name", "initial"),
    [
        ("water", {"T101.level": 1.7}),
        ("water", {"T301.level": -0.1}),
        ("water", {"MV101": 2.0}),
        ("water", {"T301.ph": math.nan}),
        ("quadruple_tank", {"T1.level": 0.3}),
        ("quadruple_tank", {"v1": -1.0}),
    ],
)
def test_an_initial_value_out_of_range_is_refused_in_a_sentence(name: str, initial: dict[str, float]) -> None:
    with pytest.raises(OtlabError, match=f"initial {next(iter(initial))} is"):
        plant_named(name, stream=random.Random(1), initial=initial)


def test_the_plant_process_keeps_to_whole_multiples_of_the_step_for_a_day() -> None:
    env = simpy.Environment()
    plant = water_plant()
    env.process(run_plant(env, plant))
    while env.peek() < 86_400.1:
        env.step()
    # Adding 0.2 to itself 432,000 times is already off by more than this.
    assert plant.value("elapsed") == pytest.approx(86_400.0, abs=1e-9)
    assert env.peek() == pytest.approx(86_400.2, abs=1e-9)


# -- instruments -----------------------------------------------------------------------------------------------------


def sensor_of(plant: PlantModel, *, lag: float = 0.0, noise_sd: float = 0.0) -> Sensor:
    return Sensor(SensorSpec("LIT101", "T101.level", noise_sd, 0.0, 1.6, lag), plant, random.Random("sensor"))


def test_a_noiseless_sensor_reads_the_true_value() -> None:
    assert sensor_of(water_plant({"T101.level": 0.7})).read() == 0.7


def test_noise_has_the_specified_mean_and_spread() -> None:
    sensor = sensor_of(water_plant({"T101.level": 0.7}), noise_sd=0.001)
    readings = [sensor.read() for _ in range(4000)]
    mean = sum(readings) / len(readings)
    spread = math.sqrt(sum((r - mean) ** 2 for r in readings) / len(readings))
    assert mean == pytest.approx(0.7, abs=4 * 0.001 / math.sqrt(4000))
    assert spread == pytest.approx(0.001, rel=0.05)


def test_a_read_takes_one_draw_whatever_the_noise_or_fault() -> None:
    """Two arms of a comparison that differ in one sensor's fault share the luck of all others."""
    plant = water_plant()
    streams = [random.Random(7) for _ in range(3)]
    sound, silent, broken = (
        Sensor(SensorSpec("LIT101", "T101.level", sd, 0.0, 1.6), plant, stream)
        for sd, stream in zip((0.001, 0.0, 0.001), streams, strict=True)
    )
    broken.fault = dead()
    for sensor in (sound, silent, broken):
        sensor.read()
    reference = random.Random(7)
    reference.gauss(0.0, 1.0)
    assert [stream.gauss(0.0, 1.0) for stream in streams] == [reference.gauss(0.0, 1.0)] * 3


def test_readings_clip_at_the_ends_of_the_range() -> None:
    sensor = sensor_of(water_plant({"T101.level": 0.7}))
    sensor.fault = bias(5.0)
    assert sensor.read() == 1.6
    sensor.fault = bias(-5.0)
    assert sensor.read() == 0.0


def test_faults_act_until_they_are_cleared() -> None:
    now = 100.0
    sensor = sensor_of(water_plant({"T101.level": 0.7}))
    sensor.fault = stuck_at(0.4)
    assert sensor.read() == 0.4
    sensor.fault = dead()
    assert sensor.read() == 0.0
    sensor.fault = bias(0.1)
    assert sensor.read() == pytest.approx(0.8)
    sensor.fault = drift(0.001, lambda: now)
    assert sensor.read() == 0.7
    now = 160.0
    assert sensor.read() == pytest.approx(0.76)
    sensor.fault = None
    assert sensor.read() == 0.7


def test_a_lagging_sensor_has_covered_63_percent_of_a_step_after_its_time_constant() -> None:
    plant = quadruple("P-")
    lagging = Sensor(SensorSpec("V1", "v1.position", 0.0, 0.0, 10.0, 10.0), plant, random.Random(1))
    plant.command("v1", 4.0)
    for _ in range(round(10.0 / plant.step)):
        plant.advance()
        lagging.read()
    assert lagging.read() == pytest.approx(3.0 + (1.0 - math.exp(-1.0)), rel=1e-6)
    again = lagging.read()
    assert again == lagging.read()  # no physics passed in between, so nothing to catch up with


def test_a_sensor_on_a_signal_that_does_not_exist_is_refused_at_once() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean 'T101\.level'"):
        Sensor(SensorSpec("LIT101", "T101.levl", 0.0, 0.0, 1.0), water_plant(), random.Random(1))


@pytest.mark.parametrize(
    ("name", "specs"), [("water", WATER_SENSORS), ("quadruple_tank", QUADRUPLE_TANK_SENSORS)]
)
def test_default_sensors_fit_their_plant(name: str, specs: Sequence[SensorSpec]) -> None:
    plant = plant_named(name, stream=random.Random(1))
    for spec in specs:
        reading = Sensor(spec, plant, random.Random(spec.name)).read()
        assert abs(reading - plant.value(spec.signal)) <= 5 * spec.noise_sd
        assert spec.low <= plant.value(spec.signal) <= spec.high
    assert len({spec.name for spec in specs}) == len(specs)


def test_an_actuator_travels_at_a_constant_rate_and_reverses_midway() -> None:
    valve = Actuator(travel=8.0)
    valve.drive(1.0)
    valve.advance(2.0)
    assert valve.position == pytest.approx(0.25)
    valve.drive(0.0)
    valve.advance(1.0)
    assert valve.position == pytest.approx(0.125)
    valve.advance(60.0)
    assert valve.position == 0.0


def test_a_stuck_actuator_ignores_commands_and_obeys_the_last_one_when_freed() -> None:
    valve = Actuator(travel=8.0)
    valve.drive(1.0)
    valve.advance(4.0)
    valve.stick()
    valve.drive(0.0)
    valve.advance(60.0)
    assert valve.position == 0.5
    assert valve.command == 0.0
    valve.release()
    valve.advance(60.0)
    assert valve.position == 0.0


# -- water treatment: calibration table A.4 --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end", "running", "seconds"),
    [
        (0.500, 0.800, {"MV101": 1.0}, 635.0),
        (0.800, 1.200, {"MV101": 1.0}, 847.0),
        (0.800, 0.500, TRANSFER, 661.0),
        (0.500, 0.250, TRANSFER, 551.0),
        (0.500, 0.800, {"MV101": 1.0, **TRANSFER}, 16_200.0),
    ],
)
def test_t101_fills_and_drains_in_the_computed_times(
    start: float, end: float, running: dict[str, float], seconds: float
) -> None:
    plant = water_plant({"T101.level": start, **running})
    rising = end > start

    def reached() -> bool:
        return (plant.value("T101.level") >= end) is rising

    assert time_until(plant, reached, 20_000.0) == pytest.approx(seconds, rel=0.01)


@pytest.mark.parametrize(
    ("running", "signal", "rate"),
    [
        ({"MV101": 1.0}, "T101.level", 0.472e-3),
        (TRANSFER, "T101.level", -0.454e-3),
        (TRANSFER, "T301.level", 0.454e-3),
        (FILTRATION, "T301.level", -0.370e-3),
        ({"MV101": 1.0, **TRANSFER}, "T101.level", 0.0185e-3),
    ],
)
def test_levels_move_at_the_computed_rates(running: dict[str, float], signal: str, rate: float) -> None:
    plant = water_plant(running)
    before = plant.value(signal)
    run(plant, 100.0)
    assert (plant.value(signal) - before) / 100.0 == pytest.approx(rate, rel=0.01)


def test_the_longest_open_mv101_attack_of_the_dataset_reaches_the_overflow_alarm() -> None:
    """SWaT attack 1 held MV101 open for 939 s; from the H alarm this plant needs 847 s to HH."""
    plant = water_plant({"T101.level": 0.800, "MV101": 1.0})
    run(plant, 939.0)
    assert 1.200 < plant.value("T101.level") < water.HIGH_HIGH_SWITCH


def test_default_levels_are_those_of_the_published_simulator() -> None:
    plant = water_plant()
    assert plant.value("T101.level") == 0.505
    assert plant.value("T301.level") == 0.890


# -- water treatment: machinery --------------------------------------------------------------------------------------


def test_a_motorized_valve_passes_flow_in_proportion_while_it_travels() -> None:
    plant = water_plant()
    plant.command("MV101", 1.0)
    run(plant, water.VALVE_TRAVEL / 2)
    assert plant.value("MV101.position") == pytest.approx(0.5)
    assert plant.value("T101.inflow") == pytest.approx(water.RAW_FLOW / 2)
    run(plant, water.VALVE_TRAVEL / 2)
    assert plant.value("T101.inflow") == pytest.approx(water.RAW_FLOW)


def test_a_pump_reports_running_about_a_second_after_its_command() -> None:
    plant = water_plant({"MV201": 1.0})
    plant.command("P101", 1.0)
    plant.advance()
    assert plant.commands["P101"] == 1.0
    assert plant.value("P101.running") == 0.0
    run(plant, 1.0)
    assert plant.value("P101.running") == 1.0
    assert plant.value("P101.speed") == 1.0


@pytest.mark.parametrize(
    ("value", "command"), [(0.4, 0), (0.5, 1), (7, 1), (-3, 0), (math.nan, 0), (math.inf, 1)]
)
def test_an_on_off_command_takes_any_number(value: float, command: float) -> None:
    plant = water_plant()
    plant.command("P101", value)
    assert plant.commands["P101"] == command


def test_a_second_pump_adds_less_than_a_pump() -> None:
    plant = water_plant({**TRANSFER, "P102": 1.0})
    plant.advance()
    assert plant.value("T101.outflow") == pytest.approx(1.3 * water.TRANSFER_FLOW)


def test_the_standby_pump_alone_delivers_like_the_duty_pump() -> None:
    plant = water_plant({"P102": 1.0, "MV201": 1.0})
    plant.advance()
    assert plant.value("T101.outflow") == pytest.approx(water.TRANSFER_FLOW)


def test_a_pump_against_a_closed_valve_moves_nothing_and_counts_deadheading() -> None:
    plant = water_plant({"P101": 1.0})
    run(plant, 60.0)
    assert plant.value("T101.level") == 0.505
    assert plant.value("P101.deadhead_time") == pytest.approx(60.0)
    assert plant.value("P101.dry_time") == 0.0
    assert plant.value("P102.deadhead_time") == 0.0


def test_a_feed_pump_without_product_or_drain_open_is_dead_headed() -> None:
    plant = water_plant({"P301": 1.0})
    run(plant, 60.0)
    assert plant.value("P301.deadhead_time") == pytest.approx(60.0)
    assert plant.value("T301.outflow") == 0.0


def test_an_empty_tank_leaves_its_pump_running_dry() -> None:
    plant = water_plant({"T101.level": 0.06, **TRANSFER})
    run(plant, 120.0)
    assert plant.value("T101.level") == pytest.approx(water.DRY_LEVEL, abs=0.0005)
    assert plant.value("T101.outflow") == 0.0
    assert 90.0 < plant.value("P101.dry_time") < 100.0  # 10 mm take 22 s
    assert plant.value("dry_run_time") == plant.value("P101.dry_time")


def test_a_tank_that_is_full_spills_what_comes_in() -> None:
    plant = water_plant({"T101.level": 1.6, "MV101": 1.0})
    run(plant, 600.0)
    assert plant.value("T101.level") == 1.6
    assert plant.value("overflow_volume") == pytest.approx(2.55 / 6, rel=1e-6)
    assert plant.value("T101.overflow_volume") == plant.value("overflow_volume")


def test_a_jammed_valve_keeps_passing_water_although_it_is_told_to_close() -> None:
    plant = water_plant({"MV101": 1.0})
    plant.actuators["MV101"].stick()
    plant.command("MV101", 0.0)
    run(plant, 60.0)
    assert plant.value("T101.inflow") == pytest.approx(water.RAW_FLOW)


@pytest.mark.parametrize(
    ("level", "high_high", "low_low"),
    [(1.29, 0, 0), (1.30, 1, 0), (0.20, 0, 0), (0.19, 0, 1), (0.0, 0, 1), (1.6, 1, 0)],
)
def test_level_switches_see_the_water_itself(level: float, high_high: float, low_low: float) -> None:
    plant = water_plant({"T101.level": level, "T301.level": level})
    assert (plant.value("LSHH101"), plant.value("LSLL101")) == (high_high, low_low)
    assert (plant.value("LSHH301"), plant.value("LSLL301")) == (high_high, low_low)


def test_a_lying_level_transmitter_does_not_fool_the_level_switch() -> None:
    plant = water_plant({"T101.level": 1.25, "MV101": 1.0})
    transmitter = sensor_of(plant)
    transmitter.fault = stuck_at(0.7)
    run(plant, 200.0)
    assert transmitter.read() == 0.7
    assert plant.value("LSHH101") == 1.0


# -- water treatment: chemistry and membrane -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_duty_dosing_keeps_half_a_day_of_product_within_the_published_limits(seed: int) -> None:
    plant = water_plant(PRODUCTION, seed=seed)
    for _ in range(12 * 60):
        run(plant, 60.0)
        # Hold the levels as a controller would; the chemistry is what is tested.
        plant.command("P101", plant.value("T301.level") < 1.0)
        for pump in ("P201", "P203", "P205"):
            plant.command(pump, plant.commands["P101"])
    assert plant.value("product_volume") > 10.0
    assert plant.value("good_product_volume") == pytest.approx(plant.value("product_volume"), rel=0.01)


@pytest.mark.parametrize(
    ("pump", "signal", "limits"),
    [
        ("P201", "line.conductivity", water.GOOD_CONDUCTIVITY),
        ("P203", "line.ph", water.GOOD_PH),
        ("P205", "line.orp", water.GOOD_ORP),
    ],
)
def test_a_dosing_pump_that_stops_takes_only_its_own_analyzer_out_of_limits(
    pump: str, signal: str, limits: tuple[float, float]
) -> None:
    plant = water_plant(PRODUCTION)
    run(plant, 600.0)
    others = {"line.conductivity", "line.ph", "line.orp"} - {signal}
    before = {name: plant.value(name) for name in others}
    assert limits[0] <= plant.value(signal) <= limits[1]
    plant.command(pump, 0.0)
    run(plant, 300.0)
    assert not limits[0] <= plant.value(signal) <= limits[1]
    for name in others:
        assert plant.value(name) == pytest.approx(before[name], rel=0.02)


def test_product_turns_bad_only_after_the_tank_has_taken_up_the_undosed_water() -> None:
    plant = water_plant(PRODUCTION)
    run(plant, 60.0)
    for pump in ("P203", "P205"):  # SWaT attack 24
        plant.command(pump, 0.0)
    run(plant, 60.0)
    assert plant.value("good_product_volume") == plant.value("product_volume")
    run(plant, 1800.0)
    good = plant.value("good_product_volume")
    assert 0.0 < good < plant.value("product_volume")
    run(plant, 600.0)
    assert plant.value("good_product_volume") == good


def test_dosing_a_standing_line_overdoses_and_saturates() -> None:
    plant = water_plant({"P201": 1.0, "P203": 1.0, "P205": 1.0})
    run(plant, 120.0)  # SWaT attack 29
    assert plant.value("line.ph") < 6.0
    assert plant.value("line.conductivity") > 0.035
    run(plant, 3600.0)
    assert plant.value("line.ph") == water.LEAST_PH
    assert plant.value("line.conductivity") == water.MOST_CONDUCTIVITY
    assert plant.value("line.orp") == water.MOST_ORP


def test_two_transfer_pumps_outrun_the_dosing() -> None:
    plant = water_plant({**PRODUCTION, "P102": 1.0})
    run(plant, 300.0)
    assert plant.value("line.conductivity") < water.GOOD_CONDUCTIVITY[0]
    assert plant.value("line.ph") > water.GOOD_PH[1]


def test_raw_water_wanders_slowly_and_by_its_stream_alone() -> None:
    undosed = dict.fromkeys(("MV101", "P101", "MV201", "P301", "MV302"), 1.0)
    traces: list[list[float]] = []
    for seed in (1, 1, 2):
        plant = water_plant(undosed, seed=seed)
        run(plant, 600.0)
        trace = []
        for _ in range(120):
            run(plant, 60.0)
            trace.append(plant.value("line.ph"))
        traces.append(trace)
    assert traces[0] == traces[1]
    assert traces[0] != traces[2]
    changes = [b - a for a, b in zip(traces[0], traces[0][1:], strict=False)]
    assert -0.01 < min(changes) < 0.0 < max(changes) < 0.01  # a tenth of the width of the limits, in a minute


def test_filtering_raises_the_membrane_pressure_and_a_backwash_clears_it() -> None:
    plant = water_plant({"T301.level": 1.2, **FILTRATION})
    plant.advance()
    clean = plant.value("UF.differential_pressure")
    run(plant, 1800.0)  # one filtration of the published cycle
    assert plant.value("UF.differential_pressure") == pytest.approx(clean + 10_000.0, rel=0.01)
    for name, value in (("P301", 0), ("MV302", 0), ("MV301", 1), ("MV303", 1)):
        plant.command(name, value)
    run(plant, water.VALVE_TRAVEL)
    run(plant, 45.0)  # the published backwash
    assert plant.value("UF.differential_pressure") == 0.0
    for name, value in (("P301", 1), ("MV302", 1), ("MV301", 0), ("MV303", 0)):
        plant.command(name, value)
    run(plant, 10.0)
    assert plant.value("UF.differential_pressure") == pytest.approx(clean, rel=0.03)
    assert plant.value("backwash_volume") > 0.0


def test_a_backwash_whose_drain_stays_shut_cleans_nothing() -> None:
    """SWaT attacks 14 and 17 keep MV303 from opening."""
    plant = water_plant({"MV301": 1.0, "UF.resistance": 1.6})
    run(plant, 45.0)
    assert plant.value("UF.resistance") == 1.6
    assert plant.value("backwash_volume") == 0.0


def test_a_backwash_against_the_running_filtration_cleans_nothing() -> None:
    plant = water_plant({**FILTRATION, "MV301": 1.0, "MV303": 1.0, "UF.resistance": 1.6})
    run(plant, 45.0)
    assert plant.value("backwash_volume") > 0.0
    assert plant.value("UF.resistance") > 1.6


def test_the_feed_tank_loses_only_what_a_clogged_membrane_lets_through() -> None:
    plant = water_plant({**FILTRATION, "UF.resistance": 20.0})
    run(plant, 600.0)
    assert plant.value("UF.product_flow") == pytest.approx(water.UF_FLOW / 3, rel=0.02)  # 100 kPa of 300 kPa
    assert (0.890 - plant.value("T301.level")) * water.TANK_AREA == pytest.approx(
        plant.value("product_volume")
    )


def test_a_product_valve_halfway_open_lets_half_the_flow_through() -> None:
    plant = water_plant({"P301": 1.0})
    plant.command("MV302", 1.0)
    run(plant, water.VALVE_TRAVEL / 2)
    assert plant.value("UF.product_flow") == pytest.approx(water.UF_FLOW / 2)


def test_dosed_water_fills_an_empty_tank_with_its_own_quality() -> None:
    plant = water_plant({"T301.level": 0.0, "T301.conductivity": 0.1, **TRANSFER})
    line = plant.value("line.conductivity")
    plant.advance()
    assert plant.value("line.conductivity") < line
    assert plant.value("T301.conductivity") == pytest.approx(plant.value("line.conductivity"), rel=1e-12)


def test_without_backwash_the_pressure_leaves_the_envelope_and_then_chokes_the_flow() -> None:
    plant = water_plant({"T301.level": 1.2, **PRODUCTION})
    _, limit = plant.envelope["UF.differential_pressure"]
    clogged = time_until(plant, lambda: plant.value("UF.differential_pressure") > limit, 20_000.0)
    assert clogged == pytest.approx(75 * 60.0, rel=0.01)  # 25 kPa of headroom at 10 kPa per half hour
    run(plant, 8 * 3600.0)
    assert plant.value("UF.differential_pressure") <= water.SHUT_OFF_PRESSURE * (1 + 1e-9)
    assert plant.value("UF.product_flow") < 0.9 * water.UF_FLOW


def test_opening_the_drain_while_filtering_halves_the_product() -> None:
    plant = water_plant({**FILTRATION, "MV304": 1.0})
    run(plant, 100.0)
    assert plant.value("UF.product_flow") == pytest.approx(water.UF_FLOW / 2)
    assert plant.value("waste_volume") == pytest.approx(plant.value("product_volume"))


# -- water treatment: properties -------------------------------------------------------------------------------------

#: What a compromised controller could write, bit patterns that are no numbers included.
ANY_VALUE = st.one_of(st.sampled_from((0.0, 1.0)), st.floats())
LEVEL = st.floats(0.0, water.TANK_HEIGHT)


def water_held(plant: WaterPlant) -> float:
    return (plant.value("T101.level") + plant.value("T301.level")) * water.TANK_AREA


@settings(max_examples=60, deadline=None)
@given(
    t101=LEVEL,
    t301=LEVEL,
    orders=st.lists(st.tuples(st.sampled_from(water.COMMANDS), ANY_VALUE, st.integers(1, 1500)), max_size=30),
    jammed=st.sampled_from((None, *water.COMMANDS)),
)
def test_no_sequence_of_commands_breaks_the_water_plant(
    t101: float, t301: float, orders: list[tuple[str, float, int]], jammed: str | None
) -> None:
    """Water is conserved, levels stay in their tanks, totals never run backward, every signal stays a number."""
    plant = water_plant({"T101.level": t101, "T301.level": t301, **PRODUCTION})
    held = water_held(plant)
    if jammed is not None:
        plant.actuators[jammed].stick()
    totals = [name for name in plant.signals if name.endswith(("_volume", "_time"))]
    before = dict.fromkeys(totals, 0.0)
    for name, value, steps in orders:
        plant.command(name, value)
        for _ in range(steps):
            plant.advance()
        assert all(math.isfinite(plant.value(signal)) for signal in plant.signals)
        assert 0.0 <= plant.value("T101.level") <= water.TANK_HEIGHT
        assert 0.0 <= plant.value("T301.level") <= water.TANK_HEIGHT
        assert plant.value("UF.resistance") >= 1.0
        after = {total: plant.value(total) for total in totals}
        assert all(after[total] >= before[total] for total in totals)
        before = after
        assert after["good_product_volume"] <= after["product_volume"]
        came_in = plant.value("inflow_volume")
        went_out = sum(plant.value(f"{way}_volume") for way in ("product", "waste", "overflow"))
        assert came_in - went_out == pytest.approx(water_held(plant) - held, abs=1e-9)


# -- quadruple tank: calibration table A.1 ---------------------------------------------------------------------------

#: Figures computed independently from the published equations: levels cm, T s, zeros 1/s, RGA, DC gain V/V.
OWN_MODEL = {
    "P-": (
        (12.263, 12.783, 1.634, 1.409),
        (62.4, 90.6, 22.8, 30.1),
        (-0.0597, -0.0175),
        1.40,
        (2.60, 1.49, 1.41, 2.85),
    ),
    "P+": (
        (12.442, 13.167, 4.730, 4.986),
        (62.8, 92.0, 38.7, 56.6),
        (-0.0562, 0.0128),
        -0.636,
        (1.51, 2.44, 2.57, 1.61),
    ),
}
PUBLISHED_TIME_CONSTANTS = {"P-": (62.0, 90.0, 23.0, 30.0), "P+": (63.0, 91.0, 39.0, 56.0)}


@pytest.mark.parametrize("name", OWN_MODEL)
class TestOperatingPoint:
    """Johansson's two operating points."""

    def test_equilibrium_levels_are_those_computed_and_close_to_those_measured(self, name: str) -> None:
        point = point_named(name)
        found = [h * 100.0 for h in equilibrium(point)]
        assert found == pytest.approx(OWN_MODEL[name][0], rel=0.01)
        published = [h * 100.0 for h in point.published_levels]
        assert found[:2] == pytest.approx(published[:2], rel=0.02)
        assert found[2:] == pytest.approx(published[2:], rel=0.10)

    def test_the_linearization_has_the_known_time_constants_zeros_gains_and_rga(self, name: str) -> None:
        found = linearize(point_named(name))
        _, time_constants, zeros, rga, gain = OWN_MODEL[name]
        assert found.time_constants == pytest.approx(time_constants, rel=0.01)
        assert found.zeros == pytest.approx(zeros, rel=0.01)
        assert found.rga == pytest.approx(rga, rel=0.01)
        assert [*found.gain[0], *found.gain[1]] == pytest.approx(gain, rel=0.01)

    def test_the_time_constants_are_the_published_ones(self, name: str) -> None:
        found = linearize(point_named(name)).time_constants
        assert found == pytest.approx(PUBLISHED_TIME_CONSTANTS[name], rel=0.02)

    def test_the_rga_follows_from_the_gain_matrix(self, name: str) -> None:
        found = linearize(point_named(name))
        (g11, g12), (g21, g22) = found.gain
        assert found.rga == pytest.approx(g11 * g22 / (g11 * g22 - g12 * g21))

    def test_the_plant_stays_at_its_equilibrium(self, name: str) -> None:
        plant = quadruple(name)
        start = levels(plant)
        run(plant, 3600.0)
        assert levels(plant) == pytest.approx(start, rel=1e-9)

    def test_the_nonlinear_plant_answers_a_small_step_as_its_linearization_says(self, name: str) -> None:
        plant = quadruple(name)
        y1, y2 = plant.value("y1"), plant.value("y2")
        plant.command("v1", plant.commands["v1"] + 0.001)
        run(plant, 3600.0)
        gain = linearize(plant.point).gain
        assert (plant.value("y1") - y1) / 0.001 == pytest.approx(gain[0][0], rel=0.005)
        assert (plant.value("y2") - y2) / 0.001 == pytest.approx(gain[1][0], rel=0.005)


def test_only_the_second_operating_point_has_a_zero_in_the_right_half_plane() -> None:
    assert max(linearize(point_named("P-")).zeros) < 0.0 < max(linearize(point_named("P+")).zeros)
    assert linearize(point_named("P-")).rga > 0.0 > linearize(point_named("P+")).rga


def test_filling_from_empty_follows_the_reference_transient() -> None:
    plant = quadruple("P-", dict.fromkeys(("T1.level", "T2.level", "T3.level", "T4.level"), 0.0))
    reference = {
        60: (7.97, 6.76, 1.55, 1.26),
        120: (10.68, 9.80, 1.63, 1.39),
        300: (12.18, 12.39, 1.63, 1.41),
    }
    for second in range(1, 301):
        run(plant, 1.0)
        if second in reference:
            assert levels(plant) == pytest.approx(reference[second], abs=0.006)


def test_ten_percent_more_on_pump_1_follows_the_reference_transient() -> None:
    plant = quadruple("P-")
    plant.command("v1", 3.3)
    for seconds, reference in (
        (60.0, (13.231, 13.029, 1.634, 1.658)),
        (240.0, (13.853, 13.594, 1.634, 1.705)),
        (3000.0, (13.870, 13.646, 1.634, 1.705)),
    ):
        run(plant, seconds)
        assert levels(plant) == pytest.approx(reference, abs=0.0006)


@pytest.mark.parametrize(
    ("name", "loops", "overshoot", "settling"),
    [
        ("P-", ((3.0, 30.0), (2.7, 40.0)), 0.045, 52.0),
        ("P+", ((1.5, 110.0), (-0.12, 220.0)), 0.094, 1147.0),
    ],
)
def test_the_published_pi_loops_answer_a_one_volt_step_as_computed(
    name: str, loops: tuple[tuple[float, float], ...], overshoot: float, settling: float
) -> None:
    plant = quadruple(name)
    start = (plant.value("y1"), plant.value("y2"))
    reference = (start[0] + 1.0, start[1])
    feed = tuple(plant.commands.values())
    integrals = [0.0, 0.0]
    response = []
    for _ in range(round(3 * settling / plant.step)):
        for i, (gain, integral_time) in enumerate(loops):
            error = reference[i] - plant.value(f"y{i + 1}")
            integrals[i] += error * plant.step
            plant.command(f"v{i + 1}", feed[i] + gain * (error + integrals[i] / integral_time))
        plant.advance()
        response.append(plant.value("y1") - start[0])
    settled = max(k for k, y in enumerate(response) if abs(y - 1.0) > 0.02)
    assert max(response) - 1.0 == pytest.approx(overshoot, abs=0.002)
    assert (settled + 1) * plant.step == pytest.approx(settling, rel=0.02)


def test_the_operating_point_can_be_chosen_where_only_numbers_can_be_given() -> None:
    minimum, other = (
        plant_named("quadruple_tank", stream=random.Random(1), initial={"operating_point": sign})
        for sign in (-1.0, 1.0)
    )
    assert minimum.commands == {"v1": 3.00, "v2": 3.00}
    assert other.commands == {"v1": 3.15, "v2": 3.15}
    with pytest.raises(UnknownNameError, match=r"unknown operating point 'P0'"):
        quadruple("P0")


def test_a_stuck_pump_voltage_holds_the_plant_where_it_is() -> None:
    plant = quadruple("P-")
    plant.actuators["v1"].stick()
    plant.command("v1", 9.0)
    start = levels(plant)
    run(plant, 300.0)
    assert levels(plant) == pytest.approx(start, rel=1e-9)


TANK = st.floats(0.0, quadruple_tank.TANK_HEIGHT)


@settings(max_examples=60, deadline=None)
@given(
    start=st.tuples(TANK, TANK, TANK, TANK),
    name=st.sampled_from(("P-", "P+")),
    orders=st.lists(st.tuples(st.sampled_from(("v1", "v2")), st.floats(), st.integers(1, 500)), max_size=20),
)
def test_no_sequence_of_voltages_breaks_the_quadruple_tank(
    start: tuple[float, float, float, float], name: str, orders: list[tuple[str, float, int]]
) -> None:
    """Water is conserved, levels stay in their tanks, every signal stays a number."""
    plant = quadruple(name, {f"T{i}.level": level for i, level in enumerate(start, start=1)})

    def held() -> float:
        return sum(plant.value(f"T{i}.level") * a for i, a in enumerate(quadruple_tank.AREA, start=1))

    before = held()
    for command, value, steps in orders:
        plant.command(command, value)
        assert 0.0 <= plant.commands[command] <= quadruple_tank.MOST_VOLTAGE
        for _ in range(steps):
            plant.advance()
        assert all(math.isfinite(plant.value(signal)) for signal in plant.signals)
        assert all(0.0 <= level <= quadruple_tank.TANK_HEIGHT * 100.0 for level in levels(plant))
        gained = plant.value("pumped_volume") - plant.value("drained_volume") - plant.value("overflow_volume")
        assert gained == pytest.approx(held() - before, abs=1e-12)


@pytest.mark.parametrize(
    ("value", "command"), [(math.nan, 0.0), (-1.0, 0.0), (math.inf, 10.0), (11.0, 10.0), (4.5, 4.5)]
)
def test_a_voltage_command_takes_any_number(value: float, command: float) -> None:
    plant = quadruple("P-")
    plant.command("v1", value)
    assert plant.commands["v1"] == command


def test_pumps_at_full_voltage_run_the_tanks_over() -> None:
    plant = quadruple("P-")
    for command in plant.commands:
        plant.command(command, 10.0)
    run(plant, 600.0)
    assert plant.value("T1.level") == quadruple_tank.TANK_HEIGHT
    assert plant.value("overflow_volume") > 0.0


def test_tanks_without_inflow_run_empty_and_stay_so() -> None:
    plant = quadruple("P-", {"v1": 0.0, "v2": 0.0})
    run(plant, 1200.0)
    assert levels(plant) == [0.0, 0.0, 0.0, 0.0]
