"""Operators with attention, error and a second factor of their own: what ``devices.operator`` leaves out.

Alarms wait in a queue and are read one by one; in a flood some are read past and come up again later. Log-ins fail by
what was mistyped, a token that is elsewhere is fetched, and whoever cannot get in breaks the glass, calls a second
person, or waits for the help desk. All of it happens at the HMI: wrong passwords and codes go to the real store.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Literal, TypeAlias

from devices.accounts import Accounts, counted_proof, time_step
from devices.hmi import Alarm, Hmi
from devices.operator import ATTEMPTS, Action, Operator
from devices.reliability import HumanModel, Reliability
from devices.staff import APPROVER, request_to_lift, request_to_write
from devices.world import World
from testbed.site import Hmi as HmiAsset

#: What people log in with beside the password, where a second factor is asked for.
Method: TypeAlias = Literal["totp", "push", "badge", "fido"]
METHODS: Final[tuple[Method, ...]] = ("totp", "push", "badge", "fido")
#: Method -> the figures of its time and of its failures.
_FIGURES: Final = {
    "totp": ("login.totp", "login.totp_failure"),
    "push": ("login.push", "login.push_failure"),
    "badge": ("login.badge", "login.smart_card_failure"),
    "fido": ("login.security_key", "login.security_key_failure"),
}
#: Seconds over which alarms count as load (ISA-18.2).
WINDOW: Final = 600.0
_TYPED: Final = frozenset({"login.password", "login.totp"})


class CrewOperator(Operator):
    """An operator with a model of reliability and a method of authentication."""

    def __init__(self, *args: Any, human: HumanModel = "simple", method: Method = "totp") -> None:
        super().__init__(*args)
        self.human, self.method = human, method
        self.reliability = Reliability(human, self.figures)
        #: gets somebody else to log in, or None where there is nobody
        self.call_second: Callable[[], Awaitable[bool]] | None = None
        #: tells whoever may be asked about a write why it is coming, or None
        self.announce: Callable[[Action], None] | None = None
        # A stream apart for what goes on in the head, so that arms with other log-ins share this luck.
        self._mind = random.Random(self.stream.getrandbits(64))
        self._heard: list[float] = []
        self._proofs = 0

    def another(self, stream: Any) -> Operator:
        found = CrewOperator(
            self.hmi,
            self.name,
            self.figures,
            stream,
            self.trace,
            self.responses,
            self.epoch,
            human=self.human,
            method=self.method,
        )
        found._heard, found.call_second = self._heard, self.call_second
        found.announce = self.announce
        return found

    def resume(self) -> None:
        super().resume()
        if self.human != "simple":
            self.hmi.host.spawn(self._shifts(), f"operator {self.name} shifts")

    # -- attention -----------------------------------------------------------------------------------------------

    def load(self) -> int:
        """Alarms of the last ten minutes."""
        since = self.hmi.loop.time() - WINDOW
        return sum(1 for moment in self._heard if moment > since)

    def _hear(self, alarm: Alarm, raised: bool) -> None:
        if raised:
            self._heard.append(self.hmi.loop.time())
        super()._hear(alarm, raised)

    async def _attend(self) -> None:
        if self.human == "simple":
            await super()._attend()
            return
        while True:
            await self.present.wait()
            idle = self._alarms.empty()
            alarm = await self._alarms.get()
            if not self.present.is_set():
                self._alarms.put_nowait(alarm)
                continue
            if idle:  # whoever is at the list already reads on, and need not be drawn to it
                await asyncio.sleep(self._mind.lognormvariate(*self.figures.lognormal("hmi.alarm_notice")))
            await asyncio.sleep(self.figures["hmi.alarm_read"])
            if self._mind.random() < self.reliability.overlooked(self.load()):
                self._later(alarm, "operator.overlooked")
                continue
            self.trace.record("operator.noticed", self.hmi.name, tag=alarm.tag, level=alarm.level)
            actions = self.responses.get(alarm.key, ())
            if actions:
                await self._judge(alarm)

    async def _judge(self, alarm: Alarm) -> None:
        await asyncio.sleep(self.reliability.diagnosis(self._mind))
        if self._mind.random() < self.reliability.error(self.load()):
            self._later(alarm, "operator.misjudged")
        elif alarm.key in self.hmi.alarms:
            async with self._busy:
                await self._respond(alarm, self.responses[alarm.key])

    async def _carry_out(self, actions: Sequence[Action]) -> str | None:
        if self.announce is not None:
            for action in actions:
                self.announce(action)
        return await super()._carry_out(actions)

    def _later(self, alarm: Alarm, kind: str) -> None:
        """Not dealt with: the alarm stands, and a later look at the list finds it."""
        self.trace.record(kind, self.hmi.name, alarm=alarm.key)
        loop = self.hmi.loop
        loop.wake(loop.time() + self.figures["operators.recheck"], self._again, alarm)

    def _again(self, alarm: Alarm) -> None:
        if alarm.key in self.hmi.alarms:
            self._alarms.put_nowait(alarm)

    async def _shifts(self) -> None:
        """At each change of shift the screen is left logged out, and the next one may have no token along."""
        while True:
            await asyncio.sleep(self.figures["operators.shift"])
            self.hand_over()

    def hand_over(self) -> None:
        """Change the shift now."""
        if self.hmi.seams.accounts is not None:
            self.hmi.session = None
        self.token_left = self.stream.random() < self.figures["login.token_missing"]
        self.trace.record("operator.shift", self.hmi.name, token_left=self.token_left)

    # -- logging in ----------------------------------------------------------------------------------------------

    def _lognormal(self, key: str) -> float:
        factor = self.figures["login.gloves_factor"] if self.figures["operators.gloves"] else 1.0
        return super()._lognormal(key) * (factor if key in _TYPED else 1.0)

    def _tell(self, kind: str, **data: Any) -> None:
        self.trace.record(kind, self.hmi.name, user=self.holder.name, **data)

    async def _log_in(self, *, urgent: bool = False) -> bool:
        hmi, holder = self.hmi, self.holder
        accounts = hmi.seams.accounts
        assert accounts is not None
        if hmi.seams.notice is not None:
            await asyncio.sleep(self._lognormal("notice.read"))
        begun, slipped = hmi.loop.time(), False
        for _ in range(ATTEMPTS):
            asked = accounts.rules.needs_code(hmi.host.address)
            away = holder.token_left and asked
            slow = away or hmi.loop.time() - begun > self.figures["break_glass.patience"]
            if urgent and slow and await self._break_glass():
                return True
            if away and not urgent:
                return False
            await asyncio.sleep(self._lognormal("login.password"))
            share = self.figures["login.repeat_failure" if slipped else "login.password_failure"]
            slipped = self.stream.random() < share
            if slipped:
                self._tell("operator.mistyped")
            code = await self._second_factor(holder) if asked and holder.token is not None else None
            since = hmi.loop.time()
            good = await hmi.log_in(holder.name, holder.password + "x" * slipped, code)
            if hmi.loop.time() - since > 1.0:
                self._tell("operator.waited", seconds=round(hmi.loop.time() - since, 3))
            if good:
                if code is not None and self.method == "totp":
                    holder._used_step = time_step(self._civil_time())
                self._tell("operator.login")
                return True
            if accounts.locked(holder.name):
                self._tell("operator.locked_out")
                break
        return urgent and await self._otherwise(accounts)

    async def _otherwise(self, accounts: Accounts) -> bool:
        """The ordinary log-in does not work, and it is urgent."""
        if await self._break_glass():
            return True
        if self.call_second is not None:
            self._tell("operator.called")
            if await self.call_second():
                return True
        if not accounts.locked(self.holder.name):
            return False
        await asyncio.sleep(self._lognormal("lockout.help_desk"))
        accounts.accounts[self.holder.name].locked_until = 0.0
        self._tell("operator.unlocked")
        return await self._log_in(urgent=False)

    async def _break_glass(self) -> bool:
        if self.break_glass is None or not await self.break_glass():
            return False
        self._tell("operator.broke_glass")
        return True

    async def _second_factor(self, holder: Operator) -> str | None:
        """What the token gives, by method; None where it gives nothing."""
        assert holder.token is not None
        if holder.token_left:
            self._tell("operator.fetched_token")
            await asyncio.sleep(self._lognormal("login.token_fetch"))
            holder.token_left = False
        time, failure = _FIGURES[self.method]
        await asyncio.sleep(self._lognormal(time))
        failed = self.stream.random() < self.figures[failure]
        if self.method == "totp":
            code = await holder._read_token(holder.token)
            return f"{(int(code) + 1) % 1_000_000:06d}" if failed else code
        server = self.hmi.seams.server
        if self.method == "push" and (failed or (server is not None and server.silent)):
            await asyncio.sleep(self.figures["operators.push_wait"])
            return None
        if failed:
            return None
        assert isinstance(holder, CrewOperator)
        return holder.prove(holder.token)

    def prove(self, token: str) -> str:
        """What an authenticator that counts answers with, whoever's request it was."""
        self._proofs += 1
        return counted_proof(token, self._proofs)


def staff_with(world: World, human: HumanModel, method: Method) -> None:
    """Put crew operators at the stations, before controls and before ``world.start()``; the defaults change nothing."""
    if human == "simple" and method == "totp":
        return
    for name, first in list(world.operators.items()):
        world.operators[name] = CrewOperator(
            first.hmi,
            first.name,
            first.figures,
            first.stream,
            first.trace,
            first.responses,
            first.epoch,
            human=human,
            method=method,
        )


def equip(world: World) -> None:
    """After the controls: stores take proofs of the method in use, and each operator knows whom to call."""
    for name, operator in world.operators.items():
        if not isinstance(operator, CrewOperator) or operator.hmi.seams.accounts is None:
            continue
        if world.figures["operators.panel"]:
            operator.panel = _panel(world, operator)
        rules = operator.hmi.seams.accounts.rules
        rules.counted = operator.method != "totp"
        if not world.figures["operators.spare_essential"]:
            rules.spare_essential = False
        if operator.human == "simple":
            continue
        for one in (operator, operator.colleague):
            if isinstance(one, CrewOperator):
                one.announce = _announcer(world, operator)
        asset = world.site.assets[name]
        assert isinstance(asset, HmiAsset)
        other = next((one.name for one in asset.operators if one.role == "supervisor"), None)
        if other is not None and other in world.passwords:
            operator.call_second = _caller(world, operator.hmi, operator, other)
            if isinstance(operator.colleague, CrewOperator):
                operator.colleague.call_second = operator.call_second


def _announcer(world: World, operator: CrewOperator) -> Callable[[Action], None]:
    def announce(action: Action) -> None:
        world.staff.announce(request_to_write(action.tag, action.value))
        world.staff.announce(request_to_lift(operator.name, action.tag))

    return announce


def _panel(world: World, operator: CrewOperator) -> Callable[[Sequence[Action]], Awaitable[None]]:
    async def act(actions: Sequence[Action]) -> None:
        await asyncio.sleep(operator._lognormal("operators.panel_walk"))
        for action in actions:
            for plc in operator.hmi.asset.polls:
                if action.tag in world.site.controllers()[plc].tags:
                    world.plcs[plc].set_at_panel(action.tag, action.value)
        operator._tell("operator.at_panel", tags=[action.tag for action in actions])

    return act


def _caller(world: World, hmi: Hmi, operator: CrewOperator, other: str) -> Callable[[], Awaitable[bool]]:
    request = f"log in at {hmi.name} for {operator.name}"

    async def call() -> bool:
        world.staff.announce(request)
        if not await world.staff.approve(APPROVER, request, by=operator.name):
            return False
        # A person with an own account and an own token, who types as the operator does.
        second = CrewOperator(
            hmi,
            other,
            operator.figures,
            operator.stream,
            operator.trace,
            {},
            operator.epoch,
            human=operator.human,
            method=operator.method,
        )
        second.password = world.passwords[other]
        store = hmi.seams.accounts
        found = store.accounts.get(other) if store is not None else None
        second.token = found.totp_secret if found is not None else None
        second._proofs = found.last_counter if found is not None else 0
        return await second._log_in(urgent=False)

    return call
