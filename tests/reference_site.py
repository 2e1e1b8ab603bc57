"""The reference site for tests: started with some requirements in force, asked something, or run through a scenario."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from controls import profiles
from devices.world import World
from scenarios.experiment import Experiment, RunRecord, run, site_of
from testbed.figures import load_figures


@contextmanager
def water(*requirements: str, **figures: float) -> Iterator[World]:
    """The reference site, started, with these requirements in force and some figures changed."""
    changed = {key.replace("__", "."): value for key, value in figures.items()}
    world = World(site_of("water"), 1, load_figures().with_overrides(changed))
    profiles.apply(world, requirements)
    world.start()
    try:
        yield world
    finally:
        world.close()


def ask(world: World, question: Coroutine[Any, Any, Any], by: str = "ews1", within: float = 20.0) -> Any:
    """Run ``question`` as a program of host ``by``; what it returns, or the network's error that it met."""
    found: list[Any] = []

    async def program() -> None:
        try:
            found.append(await question)
        except OSError as error:
            found.append(error)

    world.network.hosts[by].spawn(program(), "question")
    world.loop.run_to(world.loop.time() + within)
    assert found, "no end in time"
    return found[0]


def after(scenario: str | None, *requirements: str, duration: float = 600.0, **figures: float) -> RunRecord:
    """The record of a run of ``scenario``, or of a quiet one."""
    changed = tuple((key.replace("__", "."), value) for key, value in figures.items())
    return run(Experiment("water", profiles.check(requirements), "test", scenario, 1, duration, changed))[0]
