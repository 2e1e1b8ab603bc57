"""Scenarios in a world: is everything there that they name, where is the attacker, and the steps in order."""

from __future__ import annotations

import asyncio

from devices.world import World
from scenarios.attack import Attack
from scenarios.model import Scenario
from testbed.errors import OtlabError
from testbed.site import Site


def place_attacker(world: World, scenario: Scenario) -> Attack:
    """Put the attacker's host into the world; OtlabError if the site has no such zone or asset."""
    attacker = scenario.attacker
    if attacker is None:
        return Attack(world, None)
    if attacker.at is not None:
        if attacker.at not in world.network.hosts:
            raise OtlabError(
                f"scenario {scenario.name!r} starts at asset {attacker.at!r}, which the site lacks"
            )
        return Attack(world, world.network.hosts[attacker.at])
    zone = world.network.zones.get(attacker.zone or "")
    if zone is None:
        raise OtlabError(f"scenario {scenario.name!r} starts in zone {attacker.zone!r}, which the site lacks")
    return Attack(world, world.network.host("rogue1", zone.name, zone.free_address()))


def check_against(site: Site, scenario: Scenario) -> None:
    """Raise OtlabError if the site lacks something that a step names."""
    for number, step in enumerate(scenario.steps, 1):
        for sentence in step.lacks(site):
            raise OtlabError(f"scenario {scenario.name!r}, step {number}: {sentence}")


async def carry_out(attack: Attack, scenario: Scenario) -> None:
    """Run the scenario's steps one after another."""
    await asyncio.sleep(scenario.start)
    attack.state.first_action = attack.world.loop.time()
    for step in scenario.steps:
        await asyncio.sleep(step.after)
        await step.carry_out(attack)
