"""What wrecks controllers and what brings them back: wipers, failed disks and power, settings that drift, advisories.

ATT&CK for ICS T0809, T0812, T0814, T0816, T0858 and T0866; what has no technique happens without an attacker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from devices.backup import ProgramKeeper, fetch
from devices.inventory import SHIPPED, allow_list, ask
from devices.modbus import ModbusClient, Refusal, UnknownRequest, exception
from devices.plc import Mode
from devices.recovery import Protection
from devices.registers import Table
from devices.staff import request_to_change
from devices.workstation import EngineeringError, change_mode, download, upload
from devices.world import World
from scenarios.attack import Attack, Seconds, Step
from scenarios.steps.commands import lacks_tags
from testbed import site as sites
from testbed.firewall import Rule
from testbed.site import Name, Site

#: Who does the site's engineering in these scenarios.
ENGINEER = "engineer1"
#: What an advisory's workaround leaves behind a firmware's version.
FIXED = "+fix"


def keeper_of(world: World, plc: str) -> ProgramKeeper | None:
    """Who keeps the program of ``plc``."""
    return next((keeper for keeper in world.keepers.values() if plc in keeper.released), None)


def client_of(attack: Attack, plc: str, machine: str | None = None) -> ModbusClient:
    """A Modbus client as the attacker has it: an asset's own, keys and all, or one of a stranger's machine."""
    world, at = attack.world, machine or attack.host.name
    if at in world.site.assets:
        return world.connector(at)(plc)
    asset = world.site.controllers()[plc]
    return ModbusClient(asset.address, asset.port, unit=asset.unit_id)


def meanwhile(world: World, work: Coroutine[Any, Any, None]) -> None:
    """Let people work while the scenario goes on; what goes wrong in it ends the run."""
    task = world.loop.create_task(work)

    def ended(task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            world.loop.fail(error)

    task.add_done_callback(ended)


def _lacks_plcs(site: Site, plcs: tuple[str, ...]) -> Iterator[str]:
    for plc in plcs:
        yield from lacks_tags(site, plc, ())


# ------------------------------------------------------------------------------------------------------- engineering


class ChangeLogic(Step):
    """An engineer replaces text in a PLC's program, loads it and releases it: ordinary work."""

    hostile = False

    action: Literal["change_logic"]
    plc: Name
    replace: Annotated[dict[str, str], Field(min_length=1)]

    def lacks(self, site: Site) -> Iterator[str]:
        wrong = list(lacks_tags(site, self.plc, ()))
        yield from wrong
        if not wrong:
            for old in self.replace:
                if old not in site.logic(self.plc):
                    yield f"the program of {self.plc} has no text {old!r}"

    async def carry_out(self, attack: Attack) -> None:
        keeper = keeper_of(attack.world, self.plc)
        if keeper is None:
            attack.note(self, "failed", target=self.plc, reason="no workstation keeps its program")
            return
        await keeper.workstation.host.spawn(_change_logic(attack, self, keeper), "engineering")


async def _change_logic(attack: Attack, step: ChangeLogic, keeper: ProgramKeeper) -> None:
    source = keeper.released[step.plc]
    for old, new in step.replace.items():
        source = source.replace(old, new)
    attack.world.staff.announce(request_to_change(step.plc, "program"))
    try:
        taken = await keeper.workstation.download(step.plc, source)
    except (OSError, EngineeringError) as error:
        attack.note(step, "failed", target=step.plc, reason=str(error))
        return
    if taken:
        keeper.changed(step.plc, source)
    attack.note(step, "done" if taken else "refused", target=step.plc)


class BackupDecays(Step):
    """The medium of a backup server fails without a word: the copies of these PLCs' programs change."""

    hostile = False

    action: Literal["backup_decays"]
    server: Name
    plcs: Annotated[tuple[Name, ...], Field(min_length=1)]

    def lacks(self, site: Site) -> Iterator[str]:
        if not isinstance(site.assets.get(self.server), sites.BackupServer):
            yield f"site {site.name!r} has no backup server {self.server!r}"
        yield from _lacks_plcs(site, self.plcs)

    async def carry_out(self, attack: Attack) -> None:
        stream = attack.world.stream("decay of backups")
        server = attack.world.backup_servers[self.server]
        hit = sum(server.damage(f"{plc}/program", stream) for plc in self.plcs)
        attack.note(self, "done", target=self.server, versions=hit)


# --------------------------------------------------------------------------------------------------------- destruction


class WipeLogic(Step):
    """T0809: replace PLCs' programs by ones that do nothing, stop the PLCs, and empty the project folder at hand.

    The folder can be emptied only from the workstation that it is on.
    """

    action: Literal["wipe_logic"]
    plcs: Annotated[tuple[Name, ...], Field(min_length=1)]
    projects: bool = True

    def lacks(self, site: Site) -> Iterator[str]:
        yield from _lacks_plcs(site, self.plcs)

    async def carry_out(self, attack: Attack) -> None:
        world, here = attack.world, attack.host.name
        for plc in self.plcs:
            client = client_of(attack, plc)
            try:
                empty = emptied(await upload(client))
                sign = world.workstations[here].sign if here in world.workstations else lambda _: b""
                taken = await download(client, empty, sign(empty))
                stopped = await change_mode(client, Mode.PROGRAM)
            except (OSError, EngineeringError) as error:
                attack.note(self, "failed", target=plc, reason=type(error).__name__)
                continue
            if taken or stopped:
                attack.found.setdefault(f"lost:{plc}", world.loop.time())
            attack.note(self, "done" if taken else "refused", target=plc)
        if self.projects and here in world.keepers:
            gone = world.keepers[here].lose(self.plcs)
            attack.note(self, "wiped", target=here, files=gone)


def emptied(source: str) -> str:
    """The program with all of its variables and none of its statements: what a wiper leaves that still loads."""
    end = source.rindex("END_PROGRAM")
    return source[: source.rindex("END_VAR", 0, end) + len("END_VAR")] + "\n;\n" + source[end:]


class StationFails(Step):
    """The disk of an operator station dies: it is off until it has been set up anew."""

    hostile = False

    action: Literal["station_fails"]
    station: Name

    def lacks(self, site: Site) -> Iterator[str]:
        if not isinstance(site.assets.get(self.station), sites.Hmi):
            yield f"site {site.name!r} has no HMI {self.station!r}"

    async def carry_out(self, attack: Attack) -> None:
        attack.world.switch_off(self.station)
        attack.found.setdefault(f"lost:{self.station}", attack.world.loop.time())
        attack.note(self, "done", target=self.station)


class StopController(Step):
    """T0858: put a PLC into program mode, trying again every ``every`` s for ``lasting`` s until it is.

    ``machine`` is another asset that the attacker also holds.
    """

    action: Literal["stop_controller"]
    plc: Name
    every: Seconds = 5.0
    lasting: Annotated[float, Field(ge=0)] = 0.0
    machine: Name | None = None

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_tags(site, self.plc, ())
        if self.machine is not None and self.machine not in site.assets:
            yield f"site {site.name!r} has no asset {self.machine!r}"

    async def carry_out(self, attack: Attack) -> None:
        host = attack.world.network.hosts[self.machine] if self.machine is not None else attack.host
        await host.spawn(_stop_controller(attack, self), "stop controller")


async def _stop_controller(attack: Attack, step: StopController) -> None:
    loop = attack.world.loop
    end = loop.time() + step.lasting
    client = client_of(attack, step.plc, step.machine)
    while True:
        reason = "refused"
        try:
            if await change_mode(client, Mode.PROGRAM):
                attack.note(step, "done", target=step.plc)
                break
        except (OSError, EngineeringError) as error:
            reason = type(error).__name__
        if loop.time() + step.every > end:
            attack.note(step, "refused", target=step.plc, reason=reason)
            break
        await asyncio.sleep(step.every)


class ForceListenOnly(Step):
    """T0814: tell a PLC by Modbus diagnostics (function 8, sub-function 4) to answer nobody from now on."""

    action: Literal["force_listen_only"]
    plc: Name

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_tags(site, self.plc, ())

    async def carry_out(self, attack: Attack) -> None:
        client = client_of(attack, self.plc)
        request = UnknownRequest(8, b"\0\x04\0\0")
        outcome = "refused"
        try:
            answer = await client.request(request)
            assert isinstance(answer, type(exception(request, 1)))
        except TimeoutError:  # no answer to this one, as the specification has it: is it silent now?
            try:
                still = await client.read(Table.INPUT, 0, 1)
                outcome = "refused" if isinstance(still, list | Refusal) else "failed"
            except OSError:
                outcome = "done"
        except OSError:
            outcome = "failed"
        attack.note(self, outcome, target=self.plc)


# ------------------------------------------------------------------------------------------------------------ recovery


class Recover(Step):
    """People bring back what earlier steps wrecked, one device after another, with what there is.

    A PLC is set back as shipped and gets its program over the wire: from the newest copy, from the workstation's own
    files, or written anew. It is recovered when it runs the program that was released last.
    """

    hostile = False

    action: Literal["recover"]
    devices: Annotated[tuple[Name, ...], Field(min_length=1)]

    def lacks(self, site: Site) -> Iterator[str]:
        for name in self.devices:
            if not isinstance(site.assets.get(name), sites.Controller | sites.Hmi):
                yield f"site {site.name!r} has no controller or HMI {name!r}"

    async def carry_out(self, attack: Attack) -> None:
        world = attack.world
        team = _Team(attack, self)
        await team.takes("recovery.notice")
        for name in self.devices:
            if f"lost:{name}" not in attack.found:
                continue
            keeper = keeper_of(world, name) or next(iter(world.keepers.values()), None)
            if keeper is None:
                attack.note(self, "failed", target=name, reason="no workstation to recover it from")
                continue
            act = team.controller(name, keeper) if name in world.plcs else team.station(name, keeper)
            await keeper.workstation.host.spawn(act, "recovery")


class _Team:
    """Those who recover, with the times that it takes them."""

    def __init__(self, attack: Attack, step: Recover) -> None:
        self.attack, self.step = attack, step
        self.world = attack.world
        self.stream = attack.world.stream("recovery")

    async def takes(self, figure: str) -> None:
        await asyncio.sleep(self.stream.lognormvariate(*self.world.figures.lognormal(figure)))

    async def controller(self, plc: str, keeper: ProgramKeeper) -> None:
        world = self.world
        await self.takes(world.recovery.pace)
        source = await self._program(plc, keeper)
        device = world.plcs[plc]
        lost = Protection(device.factory_reset(), *world.settings_agents[plc].factory_reset())
        if not await self._load(plc, keeper, source):
            return
        if source != keeper.released[plc]:
            self.attack.note(self.step, "running an older program", target=plc)
            await self.takes("recovery.redo_change")
            if not await self._load(plc, keeper, keeper.released[plc]):
                return
        for put_back in world.recovery.reinstate:
            put_back(plc, lost)
        if not world.recovery.reinstate:
            world.recovery.bare[plc] = None
        self._recovered(plc)

    async def _program(self, plc: str, keeper: ProgramKeeper) -> str:
        try:
            # Later copies are of what was destroyed.
            copy = await keeper.fetch(plc, self._lost_at(plc))
        except OSError:
            copy = None
        if copy is not None:
            source = copy.data.decode("utf-8", "replace")
            if keeper.fault(plc, source) is None:
                return source
            self.attack.note(self.step, "copy is worthless", target=plc)
        if plc in keeper.projects:
            return keeper.projects[plc]
        await self.takes("recovery.reengineer")
        return keeper.released[plc]

    async def _load(self, plc: str, keeper: ProgramKeeper, source: str) -> bool:
        self.world.staff.announce(request_to_change(plc, "program"))
        try:
            loaded = await keeper.workstation.download(plc, source)
        except (OSError, EngineeringError):
            loaded = False
        if not loaded:
            self.attack.note(self.step, "failed", target=plc, reason="the program was not taken")
        return loaded

    async def station(self, name: str, keeper: ProgramKeeper) -> None:
        world = self.world
        await self.takes(world.recovery.pace)
        await self.takes("recovery.reinstall")
        wanted = world.hmis[name].asset.model_dump_json().encode()
        copies = []
        for address in keeper.servers.values():
            try:
                copies.append(await fetch(address, f"{name}/configuration"))
            except OSError:
                continue
        if not any(copy is not None and copy.data == wanted for copy in copies):
            await self.takes("recovery.reengineer")
        world.switch_on(name)
        self._recovered(name)

    def _lost_at(self, name: str) -> float:
        since = self.attack.found[f"lost:{name}"]
        assert isinstance(since, float)
        return since

    def _recovered(self, name: str) -> None:
        since = self._lost_at(name)
        del self.attack.found[f"lost:{name}"]
        seconds = round(self.world.loop.time() - since, 3)
        self.world.trace.record("recovered", name, seconds=seconds)
        self.world.trace.record("response", ENGINEER, what=f"{name} restored")
        self.attack.note(self.step, "recovered", target=name, seconds=seconds)


# --------------------------------------------------------------------------------------------------------------- power


class PowerFails(Step):
    """The feeder of a supply goes dead for ``lasting`` s; the scenario goes on meanwhile."""

    hostile = False

    action: Literal["power_fails"]
    supply: Name
    lasting: Seconds

    def lacks(self, site: Site) -> Iterator[str]:
        if not isinstance(site.assets.get(self.supply), sites.Ups):
            yield f"site {site.name!r} has no supply {self.supply!r}"

    async def carry_out(self, attack: Attack) -> None:
        ups = attack.world.upses[self.supply]
        ups.fail()
        attack.note(self, "done", target=self.supply)
        meanwhile(attack.world, self._returns(attack))

    async def _returns(self, attack: Attack) -> None:
        await asyncio.sleep(self.lasting)
        attack.world.upses[self.supply].restore()


# ------------------------------------------------------------------------------------------------------------ settings


class SettingsDrift(Step):
    """Somebody who worked on a device leaves it as it is shipped, or a firewall with a rule that lets all pass."""

    hostile = False

    action: Literal["settings_drift"]
    at: Name

    def lacks(self, site: Site) -> Iterator[str]:
        if self.at not in site.controllers() and self.at not in site.conduits:
            yield f"site {site.name!r} has no controller or conduit {self.at!r}"

    async def carry_out(self, attack: Attack) -> None:
        world = attack.world
        if self.at in world.settings_agents:
            world.settings_agents[self.at].factory_reset()
        else:
            allowed = allow_list(world.network.conduits[self.at])
            if allowed is not None:
                allowed.rules = (*allowed.rules, Rule(None, None, None, None))
        attack.note(self, "done", target=self.at)


class CommandSettings(Step):
    """T0812 or T0866: command a controller through its settings agent, with the word it is shipped with or none."""

    action: Literal["command_settings"]
    plc: Name
    settings: dict[Literal["community", "service", "mode"], str]
    community: str = SHIPPED

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_tags(site, self.plc, ())

    async def carry_out(self, attack: Attack) -> None:
        request = {"set": self.settings, "community": self.community}
        try:
            answer = await ask(attack.world.network.hosts[self.plc].address, request)
        except OSError as error:
            attack.note(self, "failed", target=self.plc, reason=type(error).__name__)
            return
        if answer.get("done") is True:
            attack.note(self, "done", target=self.plc)
        else:
            attack.note(self, "refused", target=self.plc, reason=str(answer.get("refused")))


class Advisory(Step):
    """A supplier warns: a firmware takes an empty community word. People look for affected devices and fix them.

    The scenario goes on meanwhile. Without a list of what is installed they walk from device to device.
    """

    hostile = False

    action: Literal["advisory"]
    product: str
    firmware: str

    def lacks(self, site: Site) -> Iterator[str]:
        if not any(
            (asset.product, asset.firmware) == (self.product, self.firmware)
            for asset in site.controllers().values()
        ):
            yield f"site {site.name!r} has no controller {self.product!r} with firmware {self.firmware!r}"

    async def carry_out(self, attack: Attack) -> None:
        for agent in attack.world.settings_agents.values():
            if (agent.product, agent.firmware) == (self.product, self.firmware):
                agent.flawed = True
        attack.note(self, "published", target=self.product)
        meanwhile(attack.world, self._fix(attack.world))

    async def _fix(self, world: World) -> None:
        stream, began = world.stream("advisory"), world.loop.time()

        async def takes(figure: str) -> None:
            await asyncio.sleep(stream.lognormvariate(*world.figures.lognormal(figure)))

        await takes("inventory.look_up")
        lists = (kept.with_firmware(self.product, self.firmware) for kept in world.inventories.values())
        affected = next((found for found in lists if found is not None), None)
        for name in affected if affected is not None else world.site.assets:
            if affected is None:
                await takes("inventory.walk")
            agent = world.settings_agents.get(name)
            if agent is None or (agent.product, agent.firmware) != (self.product, self.firmware):
                continue
            await takes("inventory.patch")
            agent.flawed, agent.firmware = False, agent.firmware + FIXED
            for kept in world.inventories.values():
                kept.update(name, agent.firmware)
            world.trace.record("response", ENGINEER, what=f"{name} fixed")
        seconds = round(world.loop.time() - began, 3)
        world.trace.record("task", ENGINEER, task="advisory", outcome="done", seconds=seconds)
