"""The person at the operator station: notices alarms, logs in, and acts through the HMI and nothing else.

A deliberately small model: one person, one alarm at a time, a response table from the site, and times drawn from
distributions in the table of figures. Routine work keeps the session in use, so that a session lock costs what it
costs on a real shift.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from devices.accounts import TOTP_STEP, one_time_code, time_step
from devices.hmi import Alarm, Hmi
from testbed.figures import Figures
from testbed.trace import Trace

#: Tries in a row before an operator gives up on a log-in (assumption).
ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to write in answer to an alarm."""

    tag: str
    value: float


class Operator:
    """One operator named ``name`` at ``hmi``; ``responses`` maps an alarm key ("LIT101:HH") to what is done."""

    def __init__(
        self,
        hmi: Hmi,
        name: str,
        figures: Figures,
        stream: random.Random,
        trace: Trace,
        responses: Mapping[str, Sequence[Action]],
        epoch: float,
    ) -> None:
        self.hmi, self.name = hmi, name
        self.figures, self.stream, self.trace = figures, stream, trace
        self.responses = responses
        self.epoch = epoch
        self.password = ""
        #: secret of the token that the operator carries, or None
        self.token: str | None = None
        self.completed: list[tuple[float, float]] = []  # (alarm raised, action completed), s
        self.missed = 0
        self._used_step = -1
        self._alarms: asyncio.Queue[Alarm] = asyncio.Queue()
        self._busy = asyncio.Lock()

    def start(self) -> None:
        """Begin the shift."""
        self.hmi.on_alarm.append(self._hear)
        self.hmi.host.spawn(self._attend(), f"operator {self.name}")
        self.hmi.host.spawn(self._routine(), f"operator {self.name} routine")

    def _hear(self, alarm: Alarm, raised: bool) -> None:
        self.trace.record(
            "alarm" if raised else "alarm.cleared", self.hmi.name, tag=alarm.tag, level=alarm.level
        )
        if raised:
            self._alarms.put_nowait(alarm)

    def _lognormal(self, key: str) -> float:
        return self.stream.lognormvariate(*self.figures.lognormal(key))

    def seconds_to_log_in(self) -> float:
        """Expected time of a log-in with the credentials in force (s), for judging whether control is at hand."""
        accounts = self.hmi.seams.accounts
        if accounts is None:
            return 0.0
        if accounts.locked(self.name):
            return float("inf")
        seconds = self.figures["login.password.mean"]
        if accounts.rules.needs_code(self.hmi.host.address):
            seconds += self.figures["login.totp.mean"]
        return seconds

    async def _log_in(self) -> bool:
        """Type the password, and the code if one is asked for, until it works or the account locks."""
        hmi = self.hmi
        accounts = hmi.seams.accounts
        assert accounts is not None  # without accounts nobody is ever logged out
        for _ in range(ATTEMPTS):
            await asyncio.sleep(self._lognormal("login.password"))
            typed = self.password
            if self.stream.random() < self.figures["login.password_failure"]:
                typed += "x"  # a slip of the finger
            code = None
            if accounts.rules.needs_code(hmi.host.address) and self.token is not None:
                await asyncio.sleep(self._lognormal("login.totp"))
                code = await self._read_token(self.token)
            if hmi.log_in(self.name, typed, code):
                if code is not None:
                    self._used_step = time_step(self._civil_time())
                self.trace.record("operator.login", hmi.name, user=self.name)
                return True
            if accounts.locked(self.name):
                self.trace.record("operator.locked_out", hmi.name, user=self.name)
                return False
        return False

    def _civil_time(self) -> float:
        return self.epoch + self.hmi.loop.time()

    async def _read_token(self, token: str) -> str:
        """The code shown now; whoever has just logged in with it waits for the next one."""
        if time_step(self._civil_time()) <= self._used_step:
            # A second more (assumption), in which the eye sees that the code has changed.
            await asyncio.sleep((self._used_step + 1) * TOTP_STEP - self._civil_time() + 1.0)
        return one_time_code(token, self._civil_time())

    async def _attend(self) -> None:
        while True:
            alarm = await self._alarms.get()
            await asyncio.sleep(self._lognormal("hmi.alarm_notice"))
            self.trace.record("operator.noticed", self.hmi.name, tag=alarm.tag, level=alarm.level)
            actions = self.responses.get(alarm.key, ())
            if not actions:
                continue
            await asyncio.sleep(self._lognormal("operator.diagnose"))
            if alarm.key in self.hmi.alarms:  # gone by itself in the meantime
                async with self._busy:
                    await self._respond(alarm, actions)

    async def _respond(self, alarm: Alarm, actions: Sequence[Action]) -> None:
        for action in actions:
            if self.hmi.who() is None and not await self._log_in():
                self.missed += 1
                self.trace.record("operator.missed", self.hmi.name, alarm=alarm.key, reason="no log-in")
                return
            await asyncio.sleep(self._lognormal("hmi.action"))
            refused = await self.hmi.write(action.tag, action.value)
            if refused is not None:
                self.missed += 1
                self.trace.record("operator.missed", self.hmi.name, alarm=alarm.key, reason=refused)
                return
        now = self.hmi.loop.time()
        self.completed.append((alarm.raised, now))
        self.trace.record(
            "operator.acted", self.hmi.name, alarm=alarm.key, seconds=round(now - alarm.raised, 3)
        )

    async def _routine(self) -> None:
        """Look at a display now and then, which takes an unlocked session."""
        while True:
            async with self._busy:
                if self.hmi.who() is None:
                    await self._log_in()
                self.hmi.touch()
            await asyncio.sleep(self.stream.expovariate(1 / self.figures["operator.routine"]))
