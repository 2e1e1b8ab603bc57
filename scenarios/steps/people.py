"""People at work and people who should not be there: at the operator station, away from it, and with an envelope.

ATT&CK for ICS T0823 (graphical user interface), T0859 (valid accounts), T0831 and T0836 for what is done there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

from pydantic import Field

from devices.operator import Action
from devices.premises import ENVELOPE
from devices.staff import request_to_lift, request_to_write
from devices.world import World
from scenarios.attack import Attack, Seconds, Step
from scenarios.steps.accounts import code_of
from testbed import site as sites
from testbed.site import Name, Number, Site, TagName

Values = Annotated[dict[TagName, Number], Field(min_length=1)]


def _lacks(site: Site, hmi: str, tags: Iterable[str] = ()) -> Iterator[str]:
    asset = site.assets.get(hmi)
    if not isinstance(asset, sites.Hmi):
        yield f"site {site.name!r} has no HMI {hmi!r}"
        return
    shown = {tag for plc in asset.polls for tag in site.controllers()[plc].tags}
    for tag in tags:
        if tag not in shown:
            yield f"{hmi} shows no tag {tag!r}"


# -- people of the site -------------------------------------------------------------------------------------------


class LeaveStation(Step):
    """The operator leaves the station for ``lasting`` s without logging out, as people do; the scenario goes on."""

    hostile = False

    action: Literal["leave_station"]
    hmi: Name
    lasting: Seconds

    def lacks(self, site: Site) -> Iterator[str]:
        yield from _lacks(site, self.hmi)

    async def carry_out(self, attack: Attack) -> None:
        world = attack.world
        operator = world.operators.get(self.hmi)
        if operator is None:
            attack.note(self, "nobody", target=self.hmi)
            return
        gone = [one for one in world.staff.people if one.name == self._person(world)]

        def back(_: object) -> None:
            operator.present.set()
            for person in gone:
                person.place = "control room"

        operator.present.clear()
        for person in gone:
            person.place = "on call"
        world.loop.wake(world.loop.time() + self.lasting, back, None)
        attack.note(self, "left", target=self.hmi)

    def _person(self, world: World) -> str:
        asset = world.site.assets[self.hmi]
        assert isinstance(asset, sites.Hmi)
        return next((person.name for person in asset.operators if person.role == "operator"), "")


class LeaveToken(Step):
    """The operator's token lies in the shift office; whoever is at the station logs out, as at a change of shift."""

    hostile = False

    action: Literal["leave_token"]
    hmi: Name

    def lacks(self, site: Site) -> Iterator[str]:
        yield from _lacks(site, self.hmi)

    async def carry_out(self, attack: Attack) -> None:
        operator = attack.world.operators.get(self.hmi)
        if operator is not None:
            operator.token_left = True
            operator.hmi.session = None
        attack.note(self, "left", target=self.hmi)


class OperatorTask(Step):
    """The operator has to write ``values``, and says so beforehand to whoever will be asked about it."""

    hostile = False

    action: Literal["operator_task"]
    hmi: Name
    task: Annotated[str, Field(min_length=1)]
    values: Values
    announced: bool = True

    def lacks(self, site: Site) -> Iterator[str]:
        yield from _lacks(site, self.hmi, self.values)

    async def carry_out(self, attack: Attack) -> None:
        world, began = attack.world, attack.world.loop.time()
        operator = world.operators.get(self.hmi)
        if operator is None:
            attack.note(self, "nobody", target=self.hmi)
            return
        if self.announced:
            for tag, value in self.values.items():
                world.staff.announce(request_to_write(tag, value))
                world.staff.announce(request_to_lift(operator.name, tag))
        actions = [Action(tag, value) for tag, value in self.values.items()]
        reason = await operator.hmi.host.spawn(operator.work(actions), self.task)
        world.trace.record(
            "task",
            operator.name,
            task=self.task,
            outcome="done" if reason is None else "refused",
            seconds=round(world.loop.time() - began, 3),
        )
        attack.note(self, "finished" if reason is None else "hindered", target=self.hmi, reason=reason)


class StuckSwitch(Step):
    """A switch of the plant's sticks at ``value`` for ``lasting`` s, whatever the process does."""

    hostile = False

    action: Literal["stuck_switch"]
    plc: Name
    tag: TagName
    value: Number = 1.0
    lasting: Seconds

    def lacks(self, site: Site) -> Iterator[str]:
        controller = site.controllers().get(self.plc)
        tag = controller.tags.get(self.tag) if controller is not None else None
        if tag is None or tag.signal is None or tag.table != "discrete":
            yield f"{self.plc} has no switch {self.tag!r}"

    async def carry_out(self, attack: Attack) -> None:
        world = attack.world
        signal = world.site.controllers()[self.plc].tags[self.tag].signal
        assert signal is not None
        world.wiring.force(signal, self.value)
        world.loop.wake(world.loop.time() + self.lasting, lambda _: world.wiring.force(signal, None), None)
        attack.note(self, "stuck", target=self.tag)


# -- people who mean harm -----------------------------------------------------------------------------------------


class WalkUp(Step):
    """Somebody of the kind ``person`` goes to the station in the control room and writes ``values`` there.

    Only staff get to the keyboard while somebody sits there. ``account`` None uses the session that is open. Otherwise
    the person logs in first: ``operator``, ``engineer`` and ``supervisor`` with an account of their own, ``service``
    with what stands in the historian's settings, and ``envelope`` with what ``steal_envelope`` got.
    """

    action: Literal["walk_up"]
    hmi: Name
    person: Literal["staff", "insider", "contractor", "visitor", "stranger"]
    account: Literal["service", "operator", "engineer", "supervisor", "envelope"] | None = None
    values: Values

    def lacks(self, site: Site) -> Iterator[str]:
        yield from _lacks(site, self.hmi, self.values)
        if self.account in ("engineer", "supervisor"):
            asset = site.assets.get(self.hmi)
            people = asset.operators if isinstance(asset, sites.Hmi) else ()
            if all(person.role != self.account for person in people):
                yield f"{self.hmi} has no {self.account} among its people"

    async def carry_out(self, attack: Attack) -> None:
        if await _gets_in(attack, self, self.person):
            hmi = attack.world.hmis[self.hmi]
            await hmi.host.spawn(self._at_the_screen(attack), "somebody at the station")

    async def _at_the_screen(self, attack: Attack) -> None:
        world, hmi = attack.world, attack.world.hmis[self.hmi]
        if self.person != "staff" and _attended(world, self.hmi):
            attack.note(self, "refused", target=self.hmi, reason="somebody sits there")
            return
        if self.account is not None and not await self._log_in(attack):
            return
        session = hmi.session
        user = session.user.name if session is not None else "anyone"
        stream = world.stream("walk up")
        for tag, value in self.values.items():
            await asyncio.sleep(stream.lognormvariate(*world.figures.lognormal("hmi.action")))
            reason = await hmi.write(tag, value)
            if reason is not None:
                attack.note(self, "refused", target=self.hmi, tag=tag, user=user, reason=reason)
                return
        attack.note(self, "done", target=self.hmi, user=user)

    async def _log_in(self, attack: Attack) -> bool:
        world, hmi = attack.world, attack.world.hmis[self.hmi]
        stream = world.stream("walk up")
        if hmi.seams.accounts is None:
            return True  # nobody asks
        name, password, code = _credentials(attack, self.hmi, self.account or "")
        await asyncio.sleep(stream.lognormvariate(*world.figures.lognormal("login.password")))
        if await hmi.log_in(name, password, code):
            attack.note(self, "session", target=self.hmi, user=name)
            return True
        attack.note(self, "refused", target=self.hmi, user=name, reason="log-in failed")
        return False


class StealEnvelope(Step):
    """Somebody of the kind ``person`` takes the sealed credential for emergencies, if one lies in the control room."""

    action: Literal["steal_envelope"]
    person: Literal["staff", "insider", "contractor", "visitor", "stranger"]

    async def carry_out(self, attack: Attack) -> None:
        if not await _gets_in(attack, self, self.person):
            return
        sealed = attack.world.physical.kept.get(ENVELOPE)
        if sealed is None:
            attack.note(self, "failed", target=ENVELOPE, reason="there is none")
            return
        attack.found[ENVELOPE] = sealed
        attack.note(self, "done", target=ENVELOPE)


async def _gets_in(attack: Attack, step: Step, person: str) -> bool:
    """Whether there is somebody who means harm, and whether the doors let them into the control room."""
    world = attack.world
    if not world.staff.means_harm(person):
        attack.note(step, "nobody", target="control room", reason="did not get the job")
        return False
    if not world.physical.admit(person, "control room"):
        attack.note(step, "refused", target="control room", reason="stopped at the door")
        return False
    await asyncio.sleep(world.stream("walk up").lognormvariate(*world.figures.lognormal("people.walk_up")))
    return True


def _attended(world: World, hmi: str) -> bool:
    operator = world.operators.get(hmi)
    return operator is not None and (operator.present.is_set() or operator.colleague is not None)


def _credentials(attack: Attack, hmi: str, account: str) -> tuple[str, str, str | None]:
    """User, password and one-time code of whoever has this account; a person's own token is in their pocket."""
    world = attack.world
    if account == "envelope":
        found = attack.found.get(ENVELOPE)
        name, _, password = found.partition(":") if isinstance(found, str) else ("", "", "")
        return name, password, None
    if account == "service":
        for credentials in world.seams.ua_credentials.values():
            if credentials.user is not None and credentials.password is not None:
                return credentials.user, credentials.password, None
        return "service", "service", None
    operator = world.operators.get(hmi)
    name = operator.name if operator is not None else "operator"
    if account != "operator":
        # Where all share one account, that is what engineers and supervisors use too.
        own = [person.name for person in world.staff.people if person.role == account]
        name = next((one for one in own if one in world.passwords), name)
    return name, world.passwords.get(name, ""), code_of(world, name)
