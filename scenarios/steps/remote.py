"""Coming in from outside: a technician's maintenance, sessions of somebody else, and sessions that were left open.

ATT&CK for ICS T0822, T0886, T0823 and T0852.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from devices.accounts import one_time_code
from devices.remote import PORT, RemoteClient, connect, request_for
from scenarios.attack import Attack, Step
from testbed import site as sites
from testbed.site import Name, Site

Command = Annotated[tuple[str, ...], Field(min_length=2)]

#: Seconds that an attacker's tool waits for a connection (assumption).
PATIENCE = 10.0


class RemoteMaintenance(Step):
    """A technician works on ``target`` through ``gateway`` from machine ``at``, and closes the session or forgets it.

    ``announced`` is whether the site was told beforehand, as its procedure asks.
    """

    hostile = False

    action: Literal["remote_maintenance"]
    user: Name
    at: Name
    gateway: Name
    target: Name
    commands: Annotated[tuple[Command, ...], Field(min_length=1)]
    announced: bool = True
    leaves_open: bool = False

    def lacks(self, site: Site) -> Iterator[str]:
        yield from _lacks(site, self.gateway, self.target, self.user)
        if self.at not in site.assets:
            yield f"site {site.name!r} has no asset {self.at!r}"

    async def carry_out(self, attack: Attack) -> None:
        host = attack.world.network.hosts[self.at]
        await host.spawn(remote_maintenance(attack, self), "remote maintenance")


async def remote_maintenance(attack: Attack, step: RemoteMaintenance) -> None:
    """Runs on the technician's machine; the task is done if every command was."""
    world, began = attack.world, attack.world.loop.time()
    user, stream = world.remote_users[step.user], world.stream(f"remote:{step.user}")
    think = world.figures.lognormal("remote.task_step")
    if step.announced:
        world.staff.announce(request_for(step.user, step.target))
    code = None
    if user.token is not None:
        code = one_time_code(user.token, world.site.epoch.timestamp() + world.loop.time())
    client: RemoteClient | None = None
    try:
        line = await connect(world.network.hosts[step.gateway].address)
        client = RemoteClient(line, world.figures["remote.beat"])
        reason = await client.log_in(user.name, user.password, code) or await client.open(step.target)
    except OSError as error:
        reason = type(error).__name__
    if client is not None and reason is None:
        for command in step.commands:
            await asyncio.sleep(stream.lognormvariate(*think))
            done, answer = await client.command(*command)
            if not done:
                reason = answer
                break
    if client is not None:
        if step.leaves_open and reason is None:
            attack.found["session"] = client
        else:
            client.close()
    world.trace.record(
        "task",
        step.user,
        task="remote maintenance",
        outcome="done" if reason is None else "refused",
        seconds=round(world.loop.time() - began, 3),
    )
    attack.note(step, "finished" if reason is None else "hindered", target=step.target, reason=reason)


class RemoteSession(Step):
    """Open a session to ``target`` and give ``commands``.

    Through ``gateway`` with ``credentials`` (``none``: a made-up name; ``stolen``: the password that ``user`` types,
    and nothing that a token shows), or, without a gateway, at the target's own service.
    """

    action: Literal["remote_session"]
    target: Name
    gateway: Name | None = None
    user: Name = "vendor1"
    credentials: Literal["none", "stolen"] = "stolen"
    commands: tuple[Command, ...] = ()
    #: sessions to open one after another, all kept: to use up what the gateway can carry
    sessions: Annotated[int, Field(ge=1, le=100)] = 1

    def lacks(self, site: Site) -> Iterator[str]:
        yield from _lacks(site, self.gateway, self.target, self.user)

    async def carry_out(self, attack: Attack) -> None:
        for _ in range(self.sessions):
            client = await remote_session(attack, self)
            if client is not None:
                await _command(attack, self, client, self.commands)


async def remote_session(attack: Attack, step: RemoteSession) -> RemoteClient | None:
    """T0822 or T0886: a session of somebody who should have none."""
    world = attack.world
    place = step.gateway or step.target
    try:
        async with asyncio.timeout(PATIENCE):
            line = await connect(world.network.hosts[place].address, PORT)
    except OSError as error:
        attack.note(step, "failed", target=place, reason=type(error).__name__)
        return None
    client = RemoteClient(line, world.figures["remote.beat"])
    if step.gateway is None:
        reason = await client.open(step.target, step.user)
    else:
        user = world.remote_users[step.user]
        stolen = step.credentials == "stolen"
        reason = await client.log_in(user.name if stolen else "guest", user.password if stolen else "guest")
        reason = reason or await client.open(step.target)
    if reason is not None:
        attack.note(step, "refused", target=place, reason=reason)
        client.close()
        return None
    attack.note(step, "done", target=place)
    return client


async def _command(attack: Attack, step: Step, client: RemoteClient, commands: tuple[Command, ...]) -> None:
    for command in commands:
        done, answer = await client.command(*command)
        said = " ".join(command)
        if done:
            attack.note(step, "done", target=said)
        else:
            attack.note(step, "refused", target=said, reason=answer)


class WatchScreen(Step):
    """On the machine that a technician's session was left open on: look at what it shows."""

    action: Literal["watch_screen"]

    async def carry_out(self, attack: Attack) -> None:
        client = attack.found.get("session")
        seen = isinstance(client, RemoteClient) and client.line.open
        attack.note(
            self, "done" if seen else "refused", target="session", reason=None if seen else "none open"
        )


class TakeOverSession(Step):
    """Give ``commands`` in the session that a technician left open."""

    action: Literal["take_over_session"]
    commands: Annotated[tuple[Command, ...], Field(min_length=1)]

    async def carry_out(self, attack: Attack) -> None:
        client = attack.found.get("session")
        if isinstance(client, RemoteClient):
            await _command(attack, self, client, self.commands)
        else:
            attack.note(self, "failed", target="session", reason="no session was left open")


def _lacks(site: Site, gateway: str | None, target: str, user: str) -> Iterator[str]:
    if not isinstance(site.assets.get(target), sites.Workstation):
        yield f"site {site.name!r} has no workstation {target!r}"
    asset = site.assets.get(gateway) if gateway is not None else None
    if gateway is not None and not isinstance(asset, sites.JumpHost):
        yield f"site {site.name!r} has no jump host {gateway!r}"
    elif isinstance(asset, sites.JumpHost) and user not in asset.users:
        yield f"{gateway} has no user {user!r}"
