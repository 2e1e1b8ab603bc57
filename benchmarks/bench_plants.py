"""Microseconds per ``advance()`` of each plant and per ``read()`` of a sensor, best of several rounds.

python benchmarks/bench_plants.py
"""

from __future__ import annotations

import random
from collections.abc import Callable
from time import perf_counter

from testbed.plant import PlantModel, Sensor
from testbed.plants import PLANTS, plant_named
from testbed.water import WATER_SENSORS

STEPS = 20_000
ROUNDS = 5

#: Every branch that normal production takes: all of the line runs, doses and filters.
PRODUCING = dict.fromkeys(("MV101", "P101", "MV201", "P201", "P203", "P205", "P301", "MV302"), 1.0)


def microseconds(work: Callable[[], object]) -> float:
    """Time one call of ``work``, the best of ``ROUNDS`` averages over ``STEPS`` calls."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = perf_counter()
        for _ in range(STEPS):
            work()
        best = min(best, perf_counter() - start)
    return best / STEPS * 1e6


def plant(name: str, initial: dict[str, float] | None = None) -> PlantModel:
    return plant_named(name, stream=random.Random("bench"), initial=initial)


def main() -> None:
    for name in PLANTS:
        model = plant(name, PRODUCING if name == "water" else None)
        cost = microseconds(model.advance)
        real_time = model.step / (cost * 1e-6)
        print(f"{name:16} {cost:6.2f} us per step of {model.step:g} s  ({real_time:,.0f} x real time)")
    print(f"{'water, at rest':16} {microseconds(plant('water').advance):6.2f} us per step")
    source = plant("water", PRODUCING)
    for spec in WATER_SENSORS[:4]:
        sensor = Sensor(spec, source, random.Random("bench"))
        print(f"{'read ' + spec.name:16} {microseconds(sensor.read):6.2f} us")


if __name__ == "__main__":
    main()
