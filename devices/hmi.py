"""The operator station: it polls tags, raises alarms, and writes setpoints and commands, all over the wire.

Its seams say who may log in and who may write; their defaults are a panel that anybody in the room can use.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from devices.accounts import LOCKED, SPARED, Accounts, User
from devices.audit import Audit
from devices.auth_server import AuthClient, log_in_at
from devices.modbus import ModbusClient, Refusal
from devices.poller import StationPoller, checksum_address
from devices.registers import Table
from devices.status_link import StatusReceiver
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
    #: sealed accounts for an emergency, which the screen takes whatever else is asked of a log-in
    emergency: Accounts | None = None
    #: the server that is asked before ``accounts``, which then serve only while it is silent
    server: AuthClient | None = None
    #: what whoever logs in has to take note of first, or None
    notice: str | None = None
    #: reason to refuse a write, or None
    authorize: list[Callable[[User, str, float], str | None]] = field(default_factory=list)
    #: seconds without action after which the session locks
    lock_after: float | None = None
    #: asked when a write is refused for want of rights: whether somebody lifts the limit now, or None
    override: Callable[[User, str, float], Awaitable[bool]] | None = None
    #: where the values of a PLC come from that is not polled: it tells them by itself
    told_by: dict[str, StatusReceiver] = field(default_factory=dict)
    #: asks a second person about a write, or None
    second_approval: Callable[[User, str, float], Awaitable[bool]] | None = None


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
        #: PLCs that publish a checksum, which is then checked
        self.verify_checksums: frozenset[str] = frozenset()
        self.values: dict[str, float] = {}
        #: when each PLC last answered; a station that has just started has nothing stale yet
        self.fresh: dict[str, float] = dict.fromkeys(asset.polls, self.loop.time())
        self.alarms: dict[str, Alarm] = {}
        self.on_alarm: list[Callable[[Alarm, bool], None]] = []
        #: told of every write that took effect: who, tag, the value shown until then if any, value
        self.on_write: list[Callable[[User, str, float | None, float], None]] = []
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
            poller = self.seams.told_by.get(plc) or StationPoller(
                client, tags, checksum_at=checksum_address(tags.values()), verify=plc in self.verify_checksums
            )
            self.host.spawn(self._watch(plc, period, poller), f"poll {plc}")
        if self.asset.heartbeat is not None:
            self.host.spawn(self._beat(), "heartbeat")

    async def _watch(self, plc: str, period: float, poller: StationPoller | StatusReceiver) -> None:
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

    def tags(self) -> dict[str, Tag]:
        """The tags that the station shows, in the order of its PLCs, and what each is."""
        return {name: tag for name, (_plc, tag) in self._tags.items()}

    async def log_in(self, name: str, password: str, code: str | None = None) -> bool:
        """Open or unlock the session of the screen; always true where no accounts are in force.

        It takes as long as an authentication server takes to answer, or to be given up. A notice stands before the
        log-in, so whoever logs in has taken note of it.
        """
        if self.seams.notice is not None:
            self.acknowledge(name, self.host.address)
        if self.seams.accounts is None:
            now = self.loop.time()
            self.session = Session(ANYONE, now, now)
            return True
        emergency = self.seams.emergency
        if emergency is not None and name in emergency.accounts:
            user, reason = emergency.check(name, password, None, self.host.address, interactive=True)
            self.audit("breakglass.failed" if user is None else "breakglass.used", user=name, reason=reason)
        else:
            user, reason = await self.identify(name, password, code, self.host.address)
        self.logins += 1
        if user is None:
            self.failed_logins += 1
            return False
        now = self.loop.time()
        self.session = Session(user, now, now)
        return True

    async def identify(
        self, name: str, password: str, code: str | None, address: str
    ) -> tuple[User | None, str]:
        """Who logs in from ``address`` (the station's own is its screen): the user, or None and why not."""
        accounts = self.seams.accounts
        if accounts is None:
            return ANYONE, ""
        user, reason = await log_in_at(
            accounts, self.seams.server, name, password, code, address, interactive=True
        )
        if user is None:
            self.audit(_LOGIN_EVENTS.get(reason, "login.failed"), user=name, peer=address, reason=reason)
        else:
            self.audit("login", user=name, peer=address)
        return user, reason

    def acknowledge(self, name: str, address: str) -> None:
        """Keep on record that somebody took note of the notice before going on."""
        self.audit("notice.acknowledged", user=name, peer=address)

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
        self._owner(tag)
        user = self.who()
        if user is None:
            return "session locked" if self.session is not None else "nobody is logged in"
        self.touch()
        return await self.command(user, tag, value)

    async def command(self, user: User, tag: str, value: float) -> str | None:
        """Write a tag for ``user``, wherever that person sits; None if it took effect, else why not."""
        plc, description = self._owner(tag)
        if not description.writable:
            return f"{tag} is read-only"
        reason = await self._refusal(user, tag, value)
        if reason is not None:
            self.audit("write.denied", user=user.name, tag=tag, value=value, reason=reason)
            return reason
        before = self.values.get(tag)
        try:
            answer = await self.clients[plc].write(
                Table(description.table), description.address, description.encode(value)
            )
        except (TimeoutError, ConnectionError) as error:
            return f"no answer: {error}"
        if isinstance(answer, Refusal):
            return f"refused: {answer}"
        self.audit("operator.write", user=user.name, tag=tag, value=value)
        for told in self.on_write:
            told(user, tag, before, value)
        return None

    async def _refusal(self, user: User, tag: str, value: float) -> str | None:
        reason, override = self.unauthorized(user, tag, value), self.seams.override
        if reason is not None and override is not None and await override(user, tag, value):
            reason = self.unauthorized(user, tag, value)
        if reason is not None:
            return reason
        approve = self.seams.second_approval
        return None if approve is None or await approve(user, tag, value) else "not approved"

    def unauthorized(self, user: User, tag: str, value: float) -> str | None:
        """Why ``user`` has no right to write ``tag`` now, or None."""
        for authorize in self.seams.authorize:
            reason = authorize(user, tag, value)
            if reason is not None:
                return reason
        return None


def _limits(tag: str, description: Tag) -> _Limits:
    alarms = description.alarms
    assert alarms is not None
    levels = tuple((level, limit, level in ("H", "HH")) for level, limit in alarms.limits.items())
    return _Limits(tag, levels, alarms.deadband, alarms.delay)
