"""Attacks on measurements: their shapes, what stealth means, and that they act on the plant and on detectors."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_site import after

from devices.process_detectors import Cusum, Record
from scenarios.experiment import Experiment, run, site_of
from scenarios.model import load_scenario
from scenarios.steps.process import Departure
from testbed.errors import DocumentError

SHAPES = ("constant", "bias", "ramp", "surge", "geometric")


def shown(
    shape: str, stealth: float, amount: float = 100.0, noise: float = 1.0, seconds: int = 1000
) -> list[float]:
    """Departures from a noisy reading of 500, one a second."""
    now, luck = [0.0], random.Random(7)
    departure = Departure(shape, amount, float(seconds), stealth, noise, lambda: now[0])  # type: ignore[arg-type]
    found = []
    for second in range(seconds):
        now[0] = float(second)
        found.append(departure(500.0 + luck.gauss(0, noise)))
    return found


def test_without_stealth_shapes_are_what_they_are_called() -> None:
    bias, ramp, surge, geometric, constant = (
        shown(shape, 0.0) for shape in ("bias", "ramp", "surge", "geometric", "constant")
    )
    assert bias[0] == pytest.approx(600, abs=4)
    assert ramp[500] == pytest.approx(550, abs=4)
    assert (surge[10], surge[900]) == (pytest.approx(600, abs=4), pytest.approx(550, abs=4))
    assert geometric[500] == pytest.approx(503, abs=5)
    assert geometric[-1] == pytest.approx(600, abs=5)
    assert len(set(constant)) == 1


@given(
    st.sampled_from(SHAPES),
    st.floats(0.05, 1.0),
    st.floats(-1000, 1000).filter(lambda amount: abs(amount) > 1),
)
def test_no_step_of_a_stealthy_departure_is_larger_than_allowed(
    shape: str, stealth: float, amount: float
) -> None:
    now = [0.0]
    departure = Departure(shape, amount, 300.0, stealth, 2.0, lambda: now[0])  # type: ignore[arg-type]
    before = departure(500.0) - 500.0
    for second in range(1, 200):
        now[0] = float(second)
        after_ = departure(500.0) - 500.0
        assert abs(after_ - before) <= 2.0 / stealth + 1e-6
        before = after_


@pytest.mark.parametrize("shape", ["bias", "ramp", "surge"])
def test_a_sum_of_residuals_finds_the_sudden_one_and_not_the_stealthy_one(shape: str) -> None:
    import numpy as np

    luck = random.Random(1)
    quiet = np.array([500.0 + luck.gauss(0, 1.0) for _ in range(4000)])
    learned = Cusum.learn(Record({"L": quiet}, {}))

    def found(stealth: float) -> bool:
        detector = Cusum(learned)
        return any(True for value in shown(shape, stealth, amount=8.0) for _ in detector.update({"L": value}))

    assert found(0.0) or shape == "ramp"  # eight deviations over a thousand seconds are slow by themselves
    limited = [abs(b - a) for a, b in zip(shown(shape, 1.0), shown(shape, 1.0)[1:], strict=False)]
    assert max(limited) < 8  # noise and a step of its size, never the jump


def test_a_replay_shows_the_tape_again_and_again() -> None:
    departure = Departure("replay", 0.0, 100.0, 0.0, 1.0, lambda: 0.0)
    departure.tape = [1.0, 2.0, 3.0]
    assert [departure(9.0) for _ in range(5)] == [1.0, 2.0, 3.0, 1.0, 2.0]


def test_a_forged_instrument_deceives_the_controller_itself() -> None:
    """plc1 takes T101 for empty and goes on filling: the true level leaves the band that the controller holds."""
    _, trace = run(Experiment("water", (), "test", "stealth-surge", 1, 1300.0))
    level = trace.columns["T101.level"]
    assert max(level[:290]) < 0.85
    assert max(level) > 0.95  # and rises on


def test_on_the_wire_the_station_is_deceived_and_the_controller_is_not(tmp_path: Path) -> None:
    path = tmp_path / "wire.yaml"
    path.write_text(
        "name: wire\ntitle: A level on the wire\nsummary: The station sees less than there is.\nstart: 60\n"
        "attacker: {zone: control}\nsteps:\n"
        "  - {action: sensor_attack, technique: T0856, sensor: LIT101, plc: plc1, reader: hmi1, shape: bias,"
        " amount: -300, lasting: 200}\n"
    )
    found = []

    def look(world: object) -> None:
        loop = world.loop  # type: ignore[attr-defined]
        loop.wake(
            200.0,
            lambda _: found.append(
                (
                    world.hmis["hmi1"].values["LIT101"],  # type: ignore[attr-defined]
                    1000 * world.plant.value("T101.level"),  # type: ignore[attr-defined]
                )
            ),
            None,
        )

    run(Experiment("water", (), "test", str(path), 1, 300.0), observe=look)
    [(seen, true)] = found
    assert seen == pytest.approx(true - 300, abs=15)


@pytest.mark.parametrize(
    ("more", "sentence"), [("plc: plc1, amount: 5,", "between plc and reader"), ("", "give amount")]
)
def test_what_cannot_be_meant_is_told(more: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(
        "name: odd\ntitle: Odd\nsummary: Odd.\nattacker: {zone: control}\nsteps:\n"
        f"  - {{action: sensor_attack, technique: T0856, sensor: LIT101, shape: bias, {more} lasting: 20}}\n"
    )
    with pytest.raises(DocumentError, match=sentence):
        load_scenario(str(path), site_of("water"))


@pytest.mark.slow
def test_a_slow_ramp_passes_the_sum_of_residuals_and_not_the_physics() -> None:
    record = after("stealth-ramp", "SR 6.2", duration=1500.0)
    found = {what for _, _, what in record.alerts}
    assert "cusum:LIT101" not in found
    assert "invariant:LIT101" in found
