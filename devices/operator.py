"""The person at the operator station: notices alarms, logs in, and acts through the HMI and nothing else.

A deliberately small model: one person, one alarm at a time, a response table from the site, and times drawn from
distributions in the table of figures. Routine work keeps the session in use, so that a session lock costs what it
costs on a real shift.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from devices.accounts import TOTP_STEP, one_time_code, time_step
from devices.hmi import Alarm, Hmi
from testbed.figures import Figures
from testbed.trace import Trace

#: Tries in a row before an operator gives up on a log-in (assumption).
ATTEMPTS = 10
#: Why something was not done where nobody got in.
NO_LOG_IN = "no log-in"


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
        #: cleared while nobody sits there
        self.present = asyncio.Event()
        self.present.set()
        #: the token is where the operator is not, and has to be fetched
        self.token_left = False
        #: gets into the station in an emergency when the ordinary log-in does not, or None
        self.break_glass: Callable[[], Awaitable[bool]] | None = None
        #: goes to a panel beside the machine and does it there, where that can be done, or None
        self.panel: Callable[[Sequence[Action]], Awaitable[None]] | None = None
        #: a second operator at the same station: takes the alarms that this one hears as they come
        self.colleague: Operator | None = None
        #: whose account this operator uses: their own, but for a colleague at somebody else's screen
        self.holder = self
        self._used_step = -1
        self._alarms: asyncio.Queue[Alarm] = asyncio.Queue()
        self._busy = asyncio.Lock()

    def another(self, stream: random.Random) -> Operator:
        """Somebody of the same kind, at the same screen and under the same name, who draws from ``stream``."""
        return Operator(self.hmi, self.name, self.figures, stream, self.trace, self.responses, self.epoch)

    def start(self) -> None:
        """Begin the shift."""
        self.hmi.on_alarm.append(self._hear)
        self.resume()

    def resume(self) -> None:
        """Sit down at a station that has just been switched on again."""
        # Those from before may have been taken by what ended with the station.
        self._busy, self._alarms = asyncio.Lock(), asyncio.Queue()
        self.hmi.host.spawn(self._attend(), f"operator {self.name}")
        if self.colleague is not None:
            self.colleague._alarms = self._alarms
            self.hmi.host.spawn(self.colleague._attend(), f"operator {self.colleague.name}")
        self.hmi.host.spawn(self._routine(), f"operator {self.name} routine")

    def step_aside(self) -> None:
        """Somebody else takes the chair: what was begun is left, and alarms are theirs."""
        host = self.hmi.host
        for one in (self, *(() if self.colleague is None else (self.colleague,))):
            one.present.clear()
        for task in list(host.tasks):
            if task.get_name().startswith(f"{host.name}:operator "):
                task.cancel()

    def come_back(self) -> None:
        """Take the chair again, and look at what stands."""
        for one in (self, *(() if self.colleague is None else (self.colleague,))):
            one.present.set()
        self.resume()
        for alarm in self.hmi.alarms.values():
            self._alarms.put_nowait(alarm)

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
        if self.hmi.seams.server is not None:
            seconds += self.hmi.seams.server.wait()
        if self.hmi.seams.notice is not None:
            seconds += self.figures["notice.read.mean"]
        if accounts.rules.needs_code(self.hmi.host.address):
            seconds += self.figures["login.totp.mean"]
        return seconds

    async def _log_in(self, *, urgent: bool = False) -> bool:
        """Type the password, and the code if one is asked for, until it works or the account locks."""
        hmi, holder = self.hmi, self.holder
        accounts = hmi.seams.accounts
        assert accounts is not None  # without accounts nobody is ever logged out
        if hmi.seams.notice is not None:
            await asyncio.sleep(self._lognormal("notice.read"))
        begun = hmi.loop.time()
        for _ in range(ATTEMPTS):
            away = holder.token_left and accounts.rules.needs_code(hmi.host.address)
            slow = away or hmi.loop.time() - begun > self.figures["break_glass.patience"]
            if urgent and slow and self.break_glass is not None:
                return await self.break_glass()
            if away and not urgent:
                return False  # nobody walks to the office for a look at a display
            await asyncio.sleep(self._lognormal("login.password"))
            typed = holder.password
            if self.stream.random() < self.figures["login.password_failure"]:
                typed += "x"  # a slip of the finger
            code = None
            if accounts.rules.needs_code(hmi.host.address) and holder.token is not None:
                if holder.token_left:
                    await asyncio.sleep(self._lognormal("login.token_fetch"))
                    holder.token_left = False
                await asyncio.sleep(self._lognormal("login.totp"))
                code = await holder._read_token(holder.token)
            if await hmi.log_in(holder.name, typed, code):
                if code is not None:
                    holder._used_step = time_step(self._civil_time())
                self.trace.record("operator.login", hmi.name, user=holder.name)
                return True
            if accounts.locked(holder.name):
                self.trace.record("operator.locked_out", hmi.name, user=holder.name)
                break
        return await self.break_glass() if urgent and self.break_glass is not None else False

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
            await self.present.wait()
            alarm = await self._alarms.get()
            if not self.present.is_set():  # left since: for whoever is there, or for later
                self._alarms.put_nowait(alarm)
                continue
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
        refused = await self._carry_out(actions)
        if refused is not None:
            self.missed += 1
            self.trace.record("operator.missed", self.hmi.name, alarm=alarm.key, reason=refused)
            return
        now = self.hmi.loop.time()
        self.completed.append((alarm.raised, now))
        self.trace.record(
            "operator.acted", self.hmi.name, alarm=alarm.key, seconds=round(now - alarm.raised, 3)
        )

    async def work(self, actions: Sequence[Action]) -> str | None:
        """Do what is asked of the operator in an emergency; None if all of it was done, else why not."""
        await self.present.wait()
        async with self._busy:
            return await self._carry_out(actions)

    async def _carry_out(self, actions: Sequence[Action]) -> str | None:
        for action in actions:
            refused = await self._act(action)
            if refused is not None and self.hmi.who() is None and refused != NO_LOG_IN:
                refused = await self._act(action)  # the session locked under the hand
            if refused == NO_LOG_IN and self.panel is not None:
                await self.panel(actions)
                return None
            if refused is not None:
                return refused
        return None

    async def _act(self, action: Action) -> str | None:
        """One write at the screen, with a log-in before it where that is needed; None, or why not."""
        if self.hmi.who() is None and not await self._log_in(urgent=True):
            return NO_LOG_IN
        await asyncio.sleep(self._lognormal("hmi.action"))
        refused = await self.hmi.write(action.tag, action.value)
        user = self.hmi.who()
        barred = user is not None and self.hmi.unauthorized(user, action.tag, action.value) is not None
        if refused is not None and barred and self.break_glass is not None and await self.break_glass():
            refused = await self.hmi.write(action.tag, action.value)
        return refused

    async def _routine(self) -> None:
        """Look at a display now and then, which takes an unlocked session."""
        while True:
            await self.present.wait()
            async with self._busy:
                if self.hmi.who() is None:
                    await self._log_in()
                self.hmi.touch()
            await asyncio.sleep(self.stream.expovariate(1 / self.figures["operator.routine"]))
