"""What goes wrong without an attacker: failed hardware, loops of cables, controls that somebody left off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Literal

from devices.world import World
from scenarios.attack import Attack, Seconds, Step
from scenarios.steps.boundary import lacks_conduit
from testbed import site as sites
from testbed.site import Name, Site


class FirewallFails(Step):
    """The firewall of a conduit breaks down for ``lasting`` s."""

    hostile = False

    action: Literal["firewall_fails"]
    conduit: Name
    lasting: Seconds

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_conduit(site, self.conduit)

    async def carry_out(self, attack: Attack) -> None:
        attack.world.boundaries[self.conduit].fail(self.lasting, "hardware")
        attack.note(self, "done", target=self.conduit)


class CablingLoop(Step):
    """Somebody plugs both ends of a cable into the switch of ``zone``: broadcasts circle in it for ``lasting`` s."""

    hostile = False

    action: Literal["cabling_loop"]
    zone: Name
    lasting: Seconds

    def lacks(self, site: Site) -> Iterator[str]:
        if self.zone not in site.zones:
            yield f"site {site.name!r} has no zone {self.zone!r}"

    async def carry_out(self, attack: Attack) -> None:
        struck = [one for one in attack.world.switches.values() if self.zone in one.zones]
        for switch in struck:
            switch.looped = True
        attack.note(self, "done", target=self.zone, zones=",".join(z for one in struck for z in one.zones))
        try:
            await asyncio.sleep(self.lasting)
        finally:  # also where an instructor ends it
            for switch in struck:
                switch.looped = False


class NetworkOutage(Step):
    """A conduit carries nothing for ``lasting`` s: its line is cut, or the network behind it is down."""

    hostile = False

    action: Literal["network_outage"]
    conduit: Name
    lasting: Seconds

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_conduit(site, self.conduit)

    async def carry_out(self, attack: Attack) -> None:
        conduit = attack.world.network.conduits[self.conduit]
        conduit.cut = True
        attack.note(self, "done", target=self.conduit)
        attack.world.loop.wake(attack.world.loop.time() + self.lasting, _join, (attack.world, self.conduit))


def _join(what: tuple[World, str]) -> None:
    world, conduit = what
    island = world.island
    # Whoever has cut the site off in the meantime wants it to stay so.
    if island.since is None or world.boundaries[conduit] not in island.boundaries:
        world.network.conduits[conduit].cut = False


class RestartStation(Step):
    """A station is started again, as after an update: off for ``lasting`` s."""

    hostile = False

    action: Literal["restart_station"]
    station: Name
    lasting: Seconds = 30.0

    def lacks(self, site: Site) -> Iterator[str]:
        if not isinstance(site.assets.get(self.station), sites.Hmi):
            yield f"site {site.name!r} has no HMI {self.station!r}"

    async def carry_out(self, attack: Attack) -> None:
        attack.world.switch_off(self.station)
        attack.note(self, "done", target=self.station)
        await asyncio.sleep(self.lasting)
        attack.world.switch_on(self.station)


class MaintenanceWindow(Step):
    """The plant goes into its scheduled maintenance for ``lasting`` s; the scenario goes on beside it."""

    hostile = False

    action: Literal["maintenance_window"]
    lasting: Seconds

    async def carry_out(self, attack: Attack) -> None:
        attack.world.maintenance.begin(self.lasting)
        attack.note(self, "done")


class IslandMode(Step):
    """Somebody in charge wants the site cut off from other networks, where it has the switch for it."""

    hostile = False

    action: Literal["island_mode"]

    async def carry_out(self, attack: Attack) -> None:
        done = attack.world.island.enter("on demand")
        attack.note(self, "done" if done else "refused", target="island")


def _bypass_firewalls(world: World) -> None:
    for boundary in world.boundaries.values():
        boundary.conduit.bypassed = True


def _drop_command_rights(world: World) -> None:
    for plc in world.plcs.values():
        plc.seams.authorize.clear()


def _drop_program_checks(world: World) -> None:
    for plc in world.plcs.values():
        plc.seams.accept_program.clear()


def _drop_value_checks(world: World) -> None:
    for plc in world.plcs.values():
        plc.seams.validate.clear()


def _stop_lock_out(world: World) -> None:
    if world.accounts is not None:
        world.accounts.rules.lockout_attempts = None


def _unplug_monitors(world: World) -> None:
    for monitor in world.monitors.values():
        for link in monitor.links:
            if monitor.see in link.taps:
                link.remove_tap(monitor.see)


#: What people switch off to find a fault, and forget: name -> how.
LEFT_OFF: dict[str, Callable[[World], None]] = {
    "firewalls": _bypass_firewalls,
    "command_rights": _drop_command_rights,
    "program_checks": _drop_program_checks,
    "value_checks": _drop_value_checks,
    "lock_out": _stop_lock_out,
    "monitor_taps": _unplug_monitors,
}


class DisableControl(Step):
    """Somebody who looks for a fault switches a control off, where the site has it, and does not put it back."""

    hostile = False

    action: Literal["disable_control"]
    what: Literal["firewalls", "command_rights", "program_checks", "value_checks", "lock_out", "monitor_taps"]

    async def carry_out(self, attack: Attack) -> None:
        LEFT_OFF[self.what](attack.world)
        attack.note(self, "done", target=self.what)
