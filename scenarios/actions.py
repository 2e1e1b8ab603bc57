"""Scenarios in a world: is everything there that they name, where is the attacker, and the steps in order.

An attacker works only from what it has reached, tries again what was refused, and may give up; how much of each is the
profile's (``scenarios.attackers``).
"""

from __future__ import annotations

import asyncio
import math
from itertools import count

from devices.world import World
from scenarios.attack import Attack, Outcome, Spread, Step
from scenarios.attackers import profile_of
from scenarios.model import Scenario
from testbed.errors import OtlabError
from testbed.network import Host
from testbed.site import Site


def place_attacker(world: World, scenario: Scenario, profile: str | None = None) -> Attack:
    """Put the attacker's host into the world; OtlabError if the site has no such zone or asset.

    ``profile`` is who attacks, instead of who the scenario says.
    """
    attacker = scenario.attacker
    if attacker is None:
        return Attack(world, None)
    name = profile if profile is not None else attacker.profile
    who = profile_of(name, world.figures) if name is not None else None
    if attacker.at is not None:
        if attacker.at not in world.network.hosts:
            raise OtlabError(
                f"scenario {scenario.name!r} starts at asset {attacker.at!r}, which the site lacks"
            )
        attack = Attack(world, world.network.hosts[attacker.at], profile=who)
    else:
        zone = world.network.zones.get(attacker.zone or "")
        if zone is None:
            raise OtlabError(
                f"scenario {scenario.name!r} starts in zone {attacker.zone!r}, which the site lacks"
            )
        # The first of them is rogue1; a live lab may launch several.
        name = next(one for one in (f"rogue{n}" for n in count(1)) if one not in world.network.hosts)
        attack = Attack(world, world.network.host(name, zone.name, zone.free_address()), profile=who)
    attack.facts = dict.fromkeys((*attacker.has, *(who.adversary.starts_with if who is not None else ())))
    return attack


def check_against(site: Site, scenario: Scenario) -> None:
    """Raise OtlabError if the scenario is for another site, or the site lacks something that a step names."""
    if scenario.site is not None and scenario.site != site.name:
        raise OtlabError(
            f"scenario {scenario.name!r} is written for site {scenario.site!r}, not {site.name!r}"
        )
    for number, step in enumerate(scenario.steps, 1):
        sentences = list(step.lacks(site))
        if step.by is not None and step.by not in site.assets:
            sentences.append(f"site {site.name!r} has no asset {step.by!r}")
        for sentence in sentences:
            raise OtlabError(f"scenario {scenario.name!r}, step {number}: {sentence}")
    for number, goal in enumerate(scenario.goals, 1):
        if (lack := goal.lacks(site)) is not None:
            raise OtlabError(f"scenario {scenario.name!r}, goal {number}: {lack}")


async def carry_out(attack: Attack, scenario: Scenario) -> None:
    """Run the scenario's steps one after another, as far as the attacker goes."""
    await asyncio.sleep(scenario.start)
    attack.state.first_action = attack.world.loop.time()
    meanwhile: list[asyncio.Task[None]] = []
    in_a_row = 0
    for step in scenario.steps:
        pause = _pause(attack, step)
        await asyncio.sleep(pause)
        reason = _held_back(attack, step)
        if reason is not None:
            if step.label is not None:
                attack.ended[step.label] = "skipped"
            attack.note(step, "skipped", reason=reason)
            continue
        if step.meanwhile:
            meanwhile.append(_start(attack, step, _machine(attack, step)))
            continue
        outcome = await _attempt(attack, step)
        if step.label is not None:
            attack.ended[step.label] = outcome
        in_a_row = in_a_row + 1 if outcome in ("refused", "failed") else 0
        if step.hostile and attack.profile is not None and in_a_row >= attack.profile.patience:
            attack.state.gave_up = f"{in_a_row} steps in a row came to nothing"
            attack.world.trace.record("attack.gave_up", attack.host.name, reason=attack.state.gave_up)
            break
    if meanwhile:
        await asyncio.wait(meanwhile)


def _pause(attack: Attack, step: Step) -> float:
    if isinstance(step.after, Spread):
        variance = math.log(1 + (step.after.sd / step.after.mean) ** 2)
        seconds = attack.stream.lognormvariate(math.log(step.after.mean) - variance / 2, math.sqrt(variance))
    else:
        seconds = step.after
    return seconds * attack.profile.pace if attack.profile is not None and step.hostile else seconds


def _held_back(attack: Attack, step: Step) -> str | None:
    """Why the step is not tried at all, None if it is."""
    for label, wanted in step.only_if.items():
        ended = attack.ended.get(label, "skipped")
        if ended != wanted and not (wanted == "not done" and ended != "done"):
            return f"{label} ended {ended}"
    for fact in step.needs:
        if not attack.has(fact):
            return f"no {fact}"
    if step.by is not None and not attack.holds(step.by):
        return f"{step.by} is not reached"
    return None


def _beyond(attack: Attack, step: Step) -> str | None:
    """Why the attacker is not able to do this, None if they are."""
    who = attack.profile
    if who is None or not step.hostile:
        return None
    figures = attack.world.figures
    needed = figures[f"skill.{step.action}"]
    if who.skill < needed:
        return f"needs skill {needed:g}, has {who.skill}"
    if step.exploit:
        days = who.time_of_exploit(
            attack.stream, figures["attacker.vulnerabilities"], figures["attacker.exploit_sigma"]
        )
        if days > who.preparation:
            return f"an exploit takes {days:.0f} d, and there were {who.preparation:.0f}"
    return None


async def _attempt(attack: Attack, step: Step) -> Outcome:
    """Try the step, and again where it is refused."""
    who = attack.profile
    tries = step.retries + 1
    pause = step.pause
    if who is not None and step.hostile:
        if (reason := _beyond(attack, step)) is not None:
            attack.note(step, "failed", reason=reason)
            return "failed"
        if not step.retries:
            tries, pause = who.tries, who.pause
    for number in range(tries):
        if number:
            await asyncio.sleep(pause)
        attack.begin(step)
        machine = _machine(attack, step)
        if machine is None:
            await step.carry_out(attack)
        else:
            await asyncio.wait([_start(attack, step, machine)])
        outcome = attack.outcome(step)
        if outcome not in ("refused", "failed"):
            break
    return outcome


def _machine(attack: Attack, step: Step) -> Host | None:
    return attack.world.network.hosts[step.by] if step.by is not None else None


def _start(attack: Attack, step: Step, machine: Host | None) -> asyncio.Task[None]:
    """Run a step beside others: on ``machine``, or where the attacker is."""
    if machine is None:
        machine = attack.attacker
    if machine is None:  # a situation without an attacker is nobody's program
        task = attack.world.loop.create_task(step.carry_out(attack))
        attack.tasks.append(task)
        return task
    acting = attack.from_host(machine)

    async def program() -> None:
        await step.carry_out(acting)

    if not machine.up:
        attack.note(step, "failed", reason=f"{machine.name} is off")
        return attack.world.loop.create_task(asyncio.sleep(0))
    task = machine.spawn(program(), f"attack {step.action}")
    attack.tasks.append(task)
    return task
