"""How long a plant leaves its operators: the process safety time, found by running it with nobody at the screen."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from devices.world import World
from scenarios.attack import Attack
from scenarios.experiment import site_of
from scenarios.model import load_scenario
from scenarios.steps.emergencies import LoopFails
from testbed.errors import OtlabError
from testbed.figures import load_figures

#: The shipped emergencies, shortest process safety time first.
EMERGENCIES = (
    "emergency-feedwater-lost",
    "emergency-burner-upset",
    "emergency-inlet-open",
    "emergency-product-blocked",
    "emergency-purge-blocked",
)
#: Simulated seconds before the fault, between two looks at the plant, and after which nothing counts as unsafe.
SETTLED, LOOK, LONGEST = 60.0, 1.0, 21_600.0


@dataclass(frozen=True, slots=True)
class Leeway:
    """Times in s from the fault: the alarm, and a signal out of its envelope or the safety system's trip before it."""

    scenario: str
    site: str
    alarm: float
    unsafe: float
    signal: str

    @property
    def answer_within(self) -> float:
        """What is left from alarm to limit."""
        return self.unsafe - self.alarm


@cache
def leeway(scenario: str, seed: int = 1) -> Leeway:
    """Run an emergency without an operator until the plant leaves its envelope.

    Raises OtlabError where it is no emergency of one loop, gives no alarm first, or does no harm in six hours.
    """
    loaded = load_scenario(scenario)
    if loaded.site is None:
        raise OtlabError(f"scenario {scenario!r}: an emergency is written for one site")
    site = site_of(loaded.site)
    loaded = load_scenario(scenario, site)
    step = next((one for one in loaded.steps if isinstance(one, LoopFails)), None)
    if step is None:
        raise OtlabError(f"scenario {scenario!r} has no step loop_fails")
    world = World(site, seed, load_figures())
    world.operators.clear()
    alarms: list[float] = []
    hmi = world.hmis[step.hmi]
    hmi.on_alarm.append(
        lambda alarm, raised: alarms.append(alarm.raised) if raised and alarm.key == step.alarm else None
    )
    trips: list[str] = []
    world.wiring.on_trip.append(lambda target, on: trips.append(f"trip of {target}") if on else None)
    try:
        world.start()
        world.loop.run_to(SETTLED)
        world.loop.create_task(step.carry_out(Attack(world, None)))
        now = SETTLED
        while now < SETTLED + LONGEST:
            now += LOOK
            world.loop.run_to(now)
            reached = next(iter((*_outside(world), *trips)), None)
            if reached is not None:
                if not alarms:
                    raise OtlabError(f"scenario {scenario!r}: {reached} comes before {step.alarm}")
                return Leeway(scenario, site.name, alarms[0] - SETTLED, now - SETTLED, reached)
    finally:
        world.close()
    raise OtlabError(f"scenario {scenario!r} does no harm within {LONGEST:g} s")


def _outside(world: World) -> list[str]:
    envelope = world.plant.envelope.items()
    return [name for name, (low, high) in envelope if not low <= world.plant.value(name) <= high]
