"""What the site does about an incident: playbooks, carried out at once by a machine or later by people.

An action works through what the site has: switch ports, firewalls, the island switch, sessions, accounts, the
operators' own screen, the engineering workstation. It costs what it costs because it acts: a conduit that is cut
carries no view either, and a false alarm cuts it just as well.

    none        nobody responds
    analyst     an incident that an analyst takes for real is decided on and acted on by people, with their delays; what
                touches the process is asked of a supervisor first
    automatic   the playbook of an incident runs as soon as its alert is there, and nobody is asked
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, RootModel, model_validator

from devices.incidents import Incident
from devices.operator import Action
from devices.workstation import EngineeringError
from devices.world import World
from testbed.document import Document, load
from testbed.network import Conduit, Packet, Verdict, Zone
from testbed.site import Name

Mode = Literal["none", "analyst", "automatic"]
MODES: tuple[Mode, ...] = get_args(Mode)
Act = Literal[
    "shut_port",
    "block_source",
    "isolate_zone",
    "island",
    "end_sessions",
    "lock_account",
    "manual",
    "restore_logic",
]
#: Actions that touch the process or its view: people ask before they do them.
GRAVE = frozenset({"isolate_zone", "island", "manual", "restore_logic"})


class Playbook(Document):
    """What is done about incidents that contain an alert of one of ``rules``, or reach ``tactics`` different ones.

    ``severity`` is the least that the incident must have. The first playbook of the list that fits is taken.
    """

    name: Name
    title: str
    rules: tuple[str, ...] = ()
    tactics: Annotated[int, Field(ge=1)] | None = None
    severity: Annotated[int, Field(ge=1, le=4)] = 1
    do: Annotated[tuple[Act, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _for_something(self) -> Playbook:
        if not self.rules and self.tactics is None:
            raise ValueError("a playbook says for which rules or for how many tactics it is")
        return self

    def fits(self, incident: Incident) -> bool:
        """Whether this is the playbook for ``incident``."""
        if incident.severity < self.severity:
            return False
        return bool(set(self.rules) & set(incident.rules)) or (
            self.tactics is not None and len(incident.tactics) >= self.tactics
        )


class Playbooks(RootModel[tuple[Playbook, ...]]):
    """A file of playbooks, in the order in which they are looked through."""


@cache
def shipped() -> tuple[Playbook, ...]:
    """The playbooks that come with the testbed."""
    with as_file(files("devices") / "data" / "playbooks.yaml") as path:
        return load_playbooks(path)


def load_playbooks(path: Path) -> tuple[Playbook, ...]:
    """Read a file of playbooks. Raises DocumentError with every mistake in it."""
    return load(path, Playbooks).root


@dataclass(slots=True)
class Responder:
    """Carries out playbooks in one world; ``done`` are actions that took effect, as (s, action, target)."""

    world: World
    mode: Mode
    playbooks: tuple[Playbook, ...] = field(default_factory=shipped)
    done: list[tuple[float, Act, str]] = field(default_factory=list)
    _taken: set[tuple[int, str]] = field(default_factory=set)

    def start(self) -> None:
        """Listen to incidents from now on."""
        if self.mode == "automatic":
            for desk in self.world.desks.values():
                desk.on_opened.append(self._consider)
                desk.on_grown.append(self._consider)
        elif self.mode == "analyst":
            for analyst in self.world.analysts.values():
                analyst.on_escalated.append(self._consider)
            for desk in self.world.desks.values():
                # What is known to be real is acted on again when it goes on.
                desk.on_grown.append(lambda incident: self._consider(incident) if incident.verdict else None)

    def _consider(self, incident: Incident) -> None:
        playbook = next((one for one in self.playbooks if one.fits(incident)), None)
        if playbook is None or (incident.id, playbook.name) in self._taken:
            return
        self._taken.add((incident.id, playbook.name))
        desk = next(name for name, one in self.world.desks.items() if incident in one.incidents)
        self.world.siems[desk].host.spawn(self._carry_out(playbook, incident), f"playbook {playbook.name}")

    async def _carry_out(self, playbook: Playbook, incident: Incident) -> None:
        world = self.world
        world.trace.record("playbook", "responder", name=playbook.name, incident=incident.id)
        if self.mode == "analyst":
            await self._people("response.decide")
        for act in playbook.do:
            if self.mode == "analyst":
                if act in GRAVE and not await world.staff.approve("supervisor", f"response:{act}"):
                    world.trace.record("playbook.refused", "responder", name=playbook.name, action=act)
                    continue
                await self._people("response.act")
            else:
                await asyncio.sleep(world.figures["response.automatic"])
            for target in await _ACTIONS[act](world, incident):
                self.done.append((world.loop.time(), act, target))
                world.trace.record("response", "responder", what=f"{act} {target}", incident=incident.id)

    async def _people(self, key: str) -> None:
        stream = self.world.stream("responder")
        await asyncio.sleep(stream.lognormvariate(*self.world.figures.lognormal(key)))


# -- actions: each says what it did it to ------------------------------------------------------------------------


def _suspects(world: World, incident: Incident) -> list[str]:
    """Addresses of machines that the incident's alerts are about, controllers left out: they are its victims."""
    found: dict[str, None] = {}
    for subject in incident.subjects:
        host = world.network.hosts.get(world.name_of(subject)) or next(
            (one for one in world.network.hosts.values() if subject in (one.address, one.name)), None
        )
        if host is not None and host.name not in world.plcs:
            found[host.address] = None
    for alert in incident.alerts:
        mac = alert.data.get("mac")
        for host in world.network.hosts.values():
            if mac is not None and host.mac == mac:
                found[host.address] = None
    return list(found)


def _without(address: str, mac: str) -> Callable[[Packet], Verdict]:
    """A port that is shut: nothing from or to it, also under another's address."""

    def judge(packet: Packet) -> Verdict:
        mine = address in (packet.source, packet.target) or mac in (packet.sender_mac, packet.target_mac)
        return Verdict.DROP if mine else Verdict.ACCEPT

    return judge


async def _shut_port(world: World, incident: Incident) -> list[str]:
    done = []
    for address in _suspects(world, incident):
        host = next(one for one in world.network.hosts.values() if one.address == address)
        name = f"port of {host.name} shut"
        zone = host.zone
        if any(policy == name for policy, _ in zone.policies):
            continue
        zone.add_policy(name, _without(address, host.mac), first=True)
        host.withdraw_all()
        done.append(host.name)
    return done


async def _block_source(world: World, incident: Incident) -> list[str]:
    done = []
    for address in _suspects(world, incident):
        name = f"source {address} blocked"
        for conduit in world.network.conduits.values():
            if all(policy != name for policy, _ in conduit.policies):
                conduit.add_policy(name, _without(address, ""), first=True)
                done.append(f"{address} at {conduit.name}")
    return done


def _conduits_of(world: World, zones: set[Zone]) -> list[Conduit]:
    return [one for one in world.network.conduits.values() if zones & set(one.zones)]


async def _isolate_zone(world: World, incident: Incident) -> list[str]:
    """Cut every conduit of the zones that the suspects stand in."""
    addresses = set(_suspects(world, incident))
    zones = {host.zone for host in world.network.hosts.values() if host.address in addresses}
    done = []
    for conduit in _conduits_of(world, zones):
        if not conduit.cut:
            conduit.cut = True
            done.append(conduit.name)
    return done


async def _island(world: World, incident: Incident) -> list[str]:
    return ["site"] if world.island.enter(f"incident {incident.id}") else []


async def _end_sessions(world: World, incident: Incident) -> list[str]:
    """Remote sessions and screen sessions of the users and machines that the incident names."""
    named = {*incident.subjects, *_suspects(world, incident)}
    done = []
    for gateway in world.remote_gateways.values():
        for session in list(gateway.sessions):
            if {session.user, session.peer, session.target} & named or gateway.name in incident.sources:
                session.service.close()
                session.client.close()
                done.append(f"{session.user} at {gateway.name}")
    for name, hmi in world.hmis.items():
        session_of = hmi.session
        if session_of is not None and session_of.user.name in named:
            hmi.session = None
            done.append(f"{session_of.user.name} at {name}")
    return done


async def _lock_account(world: World, incident: Incident) -> list[str]:
    done = []
    for asset, store in world.account_stores.items():
        for name, account in store.accounts.items():
            if name in incident.subjects and account.enabled:
                account.enabled = False
                done.append(f"{name} at {asset}")
    return done


async def _manual(world: World, incident: Incident) -> list[str]:
    """The operator takes the process by hand to the state that the site calls safe."""
    safe = [Action(step.tag, step.value) for step in world.site.safe_state]
    if not safe:
        return []
    done = []
    for name, operator in world.operators.items():
        if await operator.work(safe) is None:
            done.append(f"process by {name}")
    return done


async def _restore_logic(world: World, incident: Incident) -> list[str]:
    """Controllers that the incident's reports come from or are about get their released program back."""
    named = {*incident.sources, *(world.name_of(one) for one in incident.subjects)}
    done = []
    for station, keeper in world.keepers.items():
        for plc, source in keeper.released.items():
            if plc not in named or world.plcs[plc].program.source == source:
                continue
            loading = world.workstations[station].host.spawn(
                _loaded(keeper.workstation.download(plc, source))
            )
            if await loading:
                done.append(plc)
    return done


async def _loaded(download: Awaitable[bool]) -> bool:
    try:
        return await download
    except (OSError, EngineeringError):
        return False


_ACTIONS: dict[Act, Callable[[World, Incident], Awaitable[list[str]]]] = {
    "shut_port": _shut_port,
    "block_source": _block_source,
    "isolate_zone": _isolate_zone,
    "island": _island,
    "end_sessions": _end_sessions,
    "lock_account": _lock_account,
    "manual": _manual,
    "restore_logic": _restore_logic,
}
