"""Tests of security functions: is what is in force still at work, and who puts it right?

The tests are those of ``profiles.CHECKS``: they look at the state of devices, as an acceptance test does, and put no
load on what they test. Who runs them when is decided by the controls of SR 3.3. What a test finds is put right by a
person, from the record that was made when the site was commissioned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, fields
from typing import Any

from controls.shapes import Check, by_zone
from devices.audit import Audit
from devices.modbus import Peer
from devices.plc import Plc
from devices.world import World
from testbed.firewall import AllowList, Rule
from testbed.network import Link, Policy

#: Whoever knocks in a test: an address that no site has (RFC 5737).
STRANGER = Peer("203.0.113.7", 9)
#: What a person of this role does: the tests by hand, and repairs.
TESTER = "engineer"


@dataclass(slots=True)
class _LinkSettings:
    policies: list[tuple[str, Policy]]
    rules: dict[int, tuple[Rule, ...]]
    fail_closed: bool


@dataclass(slots=True)
class AsBuilt:
    """The settings of firewalls, switches, controllers, stations and monitors when the site was commissioned."""

    links: dict[str, _LinkSettings] = field(default_factory=dict)
    #: name of a device -> field of its seams -> value; lists are copies
    seams: dict[str, dict[str, Any]] = field(default_factory=dict)
    rules: dict[str, Any] = field(default_factory=dict)
    watched: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, world: World) -> AsBuilt:
        """The record of ``world`` as it is now."""
        found = cls()
        for link in world.network.links():
            lists = {
                number: policy.rules
                for number, (_, policy) in enumerate(link.policies)
                if isinstance(policy, AllowList)
            }
            found.links[link.name] = _LinkSettings(list(link.policies), lists, link.fail_closed)
        for name, seams in _seams(world).items():
            found.seams[name] = _values(seams)
        if world.accounts is not None:
            found.rules = _values(world.accounts.rules)
        for name, monitor in world.monitors.items():
            found.watched[name] = tuple(link.name for link in monitor.links if monitor.see in link.taps)
        return found

    def put_back(self, world: World) -> None:
        """Set everything as recorded; what has failed is switched on again."""
        links: dict[str, Link] = {link.name: link for link in world.network.links()}
        for name, settings in self.links.items():
            link = links[name]
            if [one for one, _ in link.policies] != [one for one, _ in settings.policies]:
                for one, _ in list(link.policies):
                    link.remove_policy(one)
                for one, policy in settings.policies:
                    link.add_policy(one, policy)
            for number, rules in settings.rules.items():
                allowed = settings.policies[number][1]
                if isinstance(allowed, AllowList) and allowed.rules != rules:
                    allowed.rules = rules
            if link.bypassed:
                link.bypassed = False
            if link.fail_closed != settings.fail_closed:
                link.fail_closed = settings.fail_closed
        for name, seams in _seams(world).items():
            _set(seams, self.seams.get(name, {}))
        if world.accounts is not None:
            _set(world.accounts.rules, self.rules)
        for name, taps in self.watched.items():
            monitor = world.monitors[name]
            for link in monitor.links:
                if link.name in taps and monitor.see not in link.taps:
                    link.add_tap(monitor.see, monitor.see_arp)


def _seams(world: World) -> dict[str, Any]:
    return {name: device.seams for group in (world.plcs, world.hmis) for name, device in group.items()}


def _values(seams: Any) -> dict[str, Any]:
    return {
        one.name: list(value) if isinstance(value := getattr(seams, one.name), list) else value
        for one in fields(seams)
    }


def _set(seams: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(seams, name, list(value) if isinstance(value, list) else value)


def every_controller(sound: Callable[[Plc], bool]) -> Check:
    """A test that is passed in a zone where ``sound`` holds for every controller."""

    def check(world: World) -> dict[str, bool]:
        return by_zone((plc.host.zone.name, sound(plc)) for plc in world.plcs.values())

    return check


class Verifier:
    """Runs tests of the requirements in force in ``world``, tells what it finds and has it put right.

    ``tests`` names the requirements that have a test, ``working`` runs one: zone -> at work. ``audit`` is how an
    automatic test tells the SIEM; a person who tests needs no machine to know.
    """

    def __init__(
        self,
        world: World,
        tests: Callable[[World], list[str]],
        working: Callable[[World, str], dict[str, bool]],
    ) -> None:
        self.world, self.tests, self.working = world, tests, working
        stations = list(world.workstations.values())
        self.audit = stations[0].audit if stations else Audit("verification")
        self.record: AsBuilt | None = None
        #: seconds that all tests take by machine, None where people run them
        self.automated: float | None = None
        #: seconds between tests while the plant operates, None where they wait for a maintenance window
        self.online_every: float | None = None
        self.runs = 0
        self._open: set[str] = set()
        self._stream = world.stream("verification")

    def begin(self, _: None = None) -> None:
        """The site has been commissioned: its settings go on record, and tests begin as planned."""
        self.record = AsBuilt.of(self.world)
        self.world.maintenance.on_begin.append(self._window)
        every = self.world.figures["verification.maintenance_every"]
        self._next_window(self._stream.uniform(0, every))
        if self.online_every is not None:
            self._wait(self.online_every)

    def _next_window(self, due: float) -> None:
        self.world.loop.wake(due, self._plan, due)

    def _plan(self, due: float) -> None:
        self.world.maintenance.begin(self.world.figures["verification.window"])
        self._next_window(due + self.world.figures["verification.maintenance_every"])

    def _wait(self, every: float) -> None:
        self.world.loop.wake(self.world.loop.time() + every, self._online, every)

    def _online(self, every: float) -> None:
        self.test_all()
        self._wait(every)

    def _window(self) -> None:
        if self.automated is None:
            self._spawn(self._by_hand())
        else:
            self.world.loop.wake(self.world.loop.time() + self.automated, self._scripted, None)

    def _scripted(self, _: None) -> None:
        self.test_all()

    async def _by_hand(self) -> None:
        """One person goes through the list, one function after another, for as long as the window is open."""
        loop, begun = self.world.loop, self.world.loop.time()
        seconds = self.world.figures.lognormal("verification.by_hand")
        done = True
        for name in self.tests(self.world):
            await asyncio.sleep(self._stream.lognormvariate(*seconds))
            if not self.world.maintenance.open:
                done = False
                break
            self.test(name)
        self.world.trace.record(
            "task",
            self._person(),
            task="security tests",
            outcome="done" if done else "refused",
            seconds=round(loop.time() - begun, 3),
        )

    def _person(self) -> str:
        return next((one.name for one in self.world.staff.people if one.role == TESTER), TESTER)

    def test_all(self) -> list[str]:
        """Run every test at once, as a machine does; the requirements that are not at work."""
        self.runs += 1
        return [name for name in self.tests(self.world) if not self.test(name, by_machine=True)]

    def test(self, name: str, *, by_machine: bool = False) -> bool:
        """Run the test of one requirement; a failure that is new is told and somebody sets about repairing it."""
        failed = [zone for zone, good in self.working(self.world, name).items() if not good]
        if not failed:
            self._open.discard(name)
            return True
        if name not in self._open:
            self._open.add(name)
            where = ", ".join(failed)
            source = self.audit.source if by_machine else self._person()
            self.world.trace.record("finding", source, what=f"{name} does not work in {where}")
            if by_machine:
                self.audit("control.failed", requirement=name, zones=where)
            self._spawn(self._repair(name))
        return False

    async def _repair(self, name: str) -> None:
        await asyncio.sleep(self._stream.lognormvariate(*self.world.figures.lognormal("verification.repair")))
        if self.record is None:
            return
        self.record.put_back(self.world)
        if all(self.working(self.world, name).values()):
            self._open.discard(name)
            self.world.trace.record("response", self._person(), what=f"{name} put right")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.world.loop.create_task(work)

        def ended(one: Any) -> None:
            error = None if one.cancelled() else one.exception()
            if error is not None:
                self.world.loop.fail(error)

        task.add_done_callback(ended)
