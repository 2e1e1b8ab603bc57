"""The operator station: it polls tags, raises alarms, and writes setpoints and commands, all over the wire.

Its seams say who may log in and who may write; their defaults are a panel that anybody in the room can use.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from devices.accounts import LOCKED, SPARED, Accounts, User
from devices.audit import Audit
from devices.modbus import ModbusClient, Refusal
from devices.poller import StationPoller, checksum_address
from devices.registers import Table
from testbed.errors import UnknownNameError
from testbed.network import Host
from testbed.site import Controller, Tag
from testbed.site import Hmi as HmiAsset


@dataclass(frozen=True, slots=True)
class Alarm:
    """One alarm: ``tag`` crossed ``level`` (LL, L, H, HH) or a PLC's data went stale (COMM)."""

    tag: str
    level: str
    raised: float
    value: float

    @property
    def key(self) -> str:
        return f"{self.tag}:{self.level}"


@dataclass(slots=True)
class Session:
    """Somebody at the screen."""

    user: User
    opened: float
    last_action: float
    locked: bool = False


@dataclass(slots=True)
class HmiSeams:
    """What controls may fill in."""

    #: None: no login, whoever stands there is the operator
    accounts: Accounts | None = None
    #: reason to refuse a write, or None
    authorize: list[Callable[[User, str, float], str | None]] = field(default_factory=list)
    #: seconds without action after which the session locks
    lock_after: float | None = None
    #: asks a second person about a write (tag, value), or None
    second_approval: Callable[[str, float], bool] | None = None


@dataclass(slots=True)
class _Limits:
    tag: str
    levels: tuple[tuple[str, float, bool], ...]  # level, limit, is a high limit
    deadband: float
    delay: float
    pending: dict[str, float] = field(default_factory=dict)


ANYONE = User("anyone", "operator")
#: Audit event of a failed log-in, where the reason calls for one of its own.
_LOGIN_EVENTS = {LOCKED: "login.locked", SPARED: "login.spared"}


class Hmi:
    """One operator station on ``host``."""

    def __init__(
        self,
        host: Host,
        name: str,
        asset: HmiAsset,
        plcs: Mapping[str, Controller],
        connect: Callable[[str], ModbusClient],
        stale_after: float,
    ) -> None:
        self.host, self.name, self.asset = host, name, asset
        self.loop = host.network.loop
        self.connect = connect
        self.stale_after = stale_after
        self.seams = HmiSeams()
        self.audit = Audit(name)
        self.verify_checksums = False
        self.values: dict[str, float] = {}
        #: when each PLC last answered; a station that has just started has nothing stale yet
        self.fresh: dict[str, float] = dict.fromkeys(asset.polls, self.loop.time())
        self.alarms: dict[str, Alarm] = {}
        self.on_alarm: list[Callable[[Alarm, bool], None]] = []
        self.session: Session | None = None
        self.beat_acknowledged = -math.inf
        self.logins = self.failed_logins = 0
        self.clients: dict[str, ModbusClient] = {}
        self._tags: dict[str, tuple[str, Tag]] = {}
        self._limits: dict[str, list[_Limits]] = {}
        for plc in asset.polls:
            for tag, description in plcs[plc].tags.items():
                self._tags[tag] = (plc, description)
            self._limits[plc] = [
                _limits(tag, description) for tag, description in plcs[plc].tags.items() if description.alarms
            ]
        self._plcs = plcs

    # -- watching ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to poll and to send the heartbeat."""
        self.fresh = dict.fromkeys(self.asset.polls, self.loop.time())
        for plc, period in self.asset.polls.items():
            client = self.clients[plc] = self.connect(plc)
            tags = self._plcs[plc].tags
            poller = StationPoller(
                client, tags, checksum_at=checksum_address(tags.values()), verify=self.verify_checksums
            )
            self.host.spawn(self._watch(plc, period, poller), f"poll {plc}")
        if self.asset.heartbeat is not None:
            self.host.spawn(self._beat(), "heartbeat")

    async def _watch(self, plc: str, period: float, poller: StationPoller) -> None:
        limits = self._limits[plc]
        due = self.loop.time()
        while True:
            values = await poller.poll()
            now = self.loop.time()
            if values is not None:
                self.values.update(values)
                self.fresh[plc] = now
                self._clear(f"{plc}:COMM")
                for limit in limits:
                    value = values.get(limit.tag)
                    if value is not None:
                        self._judge(limit, value, due, now)
            elif now - self.fresh[plc] > self.stale_after:
                self._raise(Alarm(plc, "COMM", now, 0.0))
            due = max(due + period, now)
            await self.loop.until(due)

    def _judge(self, limits: _Limits, value: float, due: float, now: float) -> None:
        """Judge a value that was ``due`` then; delays count from poll to poll, however long the answers took."""
        for level, limit, high in limits.levels:
            beyond = value >= limit if high else value <= limit
            key = f"{limits.tag}:{level}"
            if beyond:
                if key not in self.alarms:
                    since = limits.pending.setdefault(level, due)
                    if due - since >= limits.delay - 1e-9:
                        self._raise(Alarm(limits.tag, level, now, value))
            else:
                limits.pending.pop(level, None)
                back = value < limit - limits.deadband if high else value > limit + limits.deadband
                if back:
                    self._clear(key)

    def _raise(self, alarm: Alarm) -> None:
        if alarm.key not in self.alarms:
            self.alarms[alarm.key] = alarm
            for told in self.on_alarm:
                told(alarm, True)

    def _clear(self, key: str) -> None:
        alarm = self.alarms.pop(key, None)
        if alarm is not None:
            for told in self.on_alarm:
                told(alarm, False)

    def stale(self, tag: str) -> bool:
        """Whether the value shown for ``tag`` is too old to act on."""
        plc = self._owner(tag)[0]
        return self.loop.time() - self.fresh[plc] > self.stale_after

    async def _beat(self) -> None:
        beat = self.asset.heartbeat
        assert beat is not None
        plc, tag = beat.plc, self._plcs[beat.plc].tags[beat.tag]
        client = self.connect(plc)
        count = 0
        most = 1 if tag.format == "bool" else 0x7FFF  # what every other format of a tag can count to
        while True:
            count = (count + 1) & most
            try:
                refused = await client.write(Table(tag.table), tag.address, tag.encode(count * tag.scale))
                if refused is None:
                    self.beat_acknowledged = self.loop.time()
            except (TimeoutError, ConnectionError):
                pass
            await asyncio.sleep(beat.every)

    # -- acting ------------------------------------------------------------------------------------------------

    def _owner(self, tag: str) -> tuple[str, Tag]:
        if tag not in self._tags:
            raise UnknownNameError("tag", tag, self._tags)
        return self._tags[tag]

    def log_in(self, name: str, password: str, code: str | None = None) -> bool:
        """Open or unlock a session; always true where no accounts are in force."""
        accounts = self.seams.accounts
        now = self.loop.time()
        if accounts is None:
            self.session = Session(ANYONE, now, now)
            return True
        user, reason = accounts.check(name, password, code, self.host.address)
        self.logins += 1
        if user is None:
            self.failed_logins += 1
            kind = _LOGIN_EVENTS.get(reason, "login.failed")
            self.audit(kind, user=name, peer=self.host.address, reason=reason)
            return False
        self.session = Session(user, now, now)
        self.audit("login", user=name, peer=self.host.address)
        return True

    def who(self) -> User | None:
        """Whose actions the screen takes now; None while locked or logged out."""
        if self.seams.accounts is None:
            return ANYONE
        session = self.session
        if session is None or session.locked:
            return None
        if (
            self.seams.lock_after is not None
            and self.loop.time() - session.last_action >= self.seams.lock_after
        ):
            session.locked = True
            self.audit("session.locked", user=session.user.name)
            return None
        return session.user

    def touch(self) -> None:
        """Note that somebody uses the screen: the session does not lock for being idle."""
        if self.who() is not None and self.session is not None:
            self.session.last_action = self.loop.time()

    async def write(self, tag: str, value: float) -> str | None:
        """Write a tag (engineering units) through its PLC; None if it took effect, else why not."""
        plc, description = self._owner(tag)
        user = self.who()
        if user is None:
            return "session locked" if self.session is not None else "nobody is logged in"
        self.touch()
        if not description.writable:
            return f"{tag} is read-only"
        reason = self._refusal(user, tag, value)
        if reason is not None:
            self.audit("write.denied", user=user.name, tag=tag, value=value, reason=reason)
            return reason
        try:
            answer = await self.clients[plc].write(
                Table(description.table), description.address, description.encode(value)
            )
        except (TimeoutError, ConnectionError) as error:
            return f"no answer: {error}"
        if isinstance(answer, Refusal):
            return f"refused: {answer}"
        self.audit("operator.write", user=user.name, tag=tag, value=value)
        return None

    def _refusal(self, user: User, tag: str, value: float) -> str | None:
        for authorize in self.seams.authorize:
            reason = authorize(user, tag, value)
            if reason is not None:
                return reason
        approve = self.seams.second_approval
        return None if approve is None or approve(tag, value) else "not approved"


def _limits(tag: str, description: Tag) -> _Limits:
    alarms = description.alarms
    assert alarms is not None
    levels = tuple((level, limit, level in ("H", "HH")) for level, limit in alarms.limits.items())
    return _Limits(tag, levels, alarms.deadband, alarms.delay)
