"""The SIEM: it collects syslog, and some of what it collects becomes an alert.

It knows only what reaches its port. Its rules are a table: which events alert at once, and which only when several
come within a window.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from devices.audit import Audit
from devices.auditlog import AuditLog
from devices.syslog import MARK, PORT, Message, decode
from testbed.network import Host


@dataclass(frozen=True, slots=True)
class Rule:
    """Alert when ``count`` events of ``kind`` about one subject arrive within ``window`` s."""

    name: str
    kind: str
    count: int
    window: float
    severity: int  # 1 low .. 4 critical
    subject: str  # the event field that says whom it is about


#: Assumptions of the testbed; thresholds of the repeated events are round numbers in common use.
RULES = (
    Rule("logic changed", "program.loaded", 1, 0, 4, "peer"),
    Rule("logic change refused", "program.refused", 1, 0, 3, "peer"),
    Rule("controller mode changed", "mode.request", 1, 0, 3, "peer"),
    Rule("controller mode change refused", "mode.refused", 1, 0, 3, "peer"),
    Rule("controller fault", "plc.fault", 1, 0, 4, "fault"),
    Rule("peer data lost", "peer.bad", 1, 0, 3, "peer"),
    Rule("account locked", "login.locked", 1, 0, 3, "user"),
    Rule("essential account not locked", "login.spared", 1, 0, 3, "user"),
    Rule("repeated failed log-ins", "login.failed", 4, 300, 3, "peer"),
    Rule("refused connections", "connection.refused", 3, 60, 3, "peer"),
    Rule("refused commands", "access.denied", 3, 60, 3, "peer"),
    Rule("refused values", "value.refused", 1, 0, 3, "peer"),
    Rule("refused write", "write.denied", 1, 0, 2, "user"),
    Rule("authentication server silent", "auth.unreachable", 1, 0, 3, "peer"),
    Rule("forged authentication answer", "auth.forged", 1, 0, 4, "peer"),
    Rule("strange authentication requests", "auth.dropped", 1, 0, 3, "peer"),
    Rule("refused certificate", "certificate.refused", 1, 0, 3, "peer"),
    Rule("invalid web session", "portal.session_refused", 3, 60, 3, "peer"),
    Rule("refused sessions", "session.refused", 4, 300, 3, "peer"),
    Rule("audit storage nearly full", "audit.nearly_full", 1, 0, 3, "store"),
    Rule("audit processing failed", "audit.failed", 1, 0, 4, "store"),
    Rule("audit records attacked", "audit.refused", 1, 0, 4, "store"),
    Rule("audit source silent", "audit.silent", 1, 0, 3, "store"),
    Rule("false time", "time.refused", 1, 0, 3, "peer"),
    Rule("malformed Modbus", "modbus.malformed", 3, 60, 3, "peer"),
    Rule("firewall failed", "boundary.failed", 1, 0, 4, "reason"),
    Rule("firewall bypassed", "boundary.set", 1, 0, 4, "user"),
    Rule("security function failed", "control.failed", 1, 0, 4, "requirement"),
    Rule("handshakes beyond their share", "handshake.dropped", 5, 60, 3, "reason"),
    Rule("boundary denials", "boundary.denied", 5, 60, 2, "peer"),
    Rule("break-glass account used", "breakglass.used", 1, 0, 4, "user"),
    Rule("unknown radio transmitter", "radio.unknown", 1, 0, 3, "mac"),
    Rule("refused wireless station", "wireless.refused", 3, 300, 2, "peer"),
    Rule("refused wireless traffic", "wireless.denied", 3, 60, 3, "peer"),
    Rule("undocumented way in", "remote.denied", 1, 0, 3, "peer"),
    Rule("remote session refused", "remote.refused", 1, 0, 3, "user"),
    Rule("unknown device", "device.unknown", 1, 0, 3, "peer"),
    Rule("controller silenced", "modbus.diagnostics", 1, 0, 4, "peer"),
    Rule("settings changed", "settings.changed", 1, 0, 2, "peer"),
    Rule("refused change of settings", "settings.refused", 2, 300, 3, "peer"),
    Rule("refused media", "media.refused", 1, 0, 2, "serial"),
    Rule("refused portable computer", "dock.refused", 1, 0, 3, "peer"),
    Rule("refused program", "execution.refused", 1, 0, 3, "file"),
    Rule("refused file", "file.refused", 1, 0, 2, "peer"),
    Rule("refused mail", "mail.refused", 3, 300, 2, "peer"),
    Rule("malware found", "malware.found", 1, 0, 3, "reason"),
    Rule("host with old signatures", "signatures.behind", 1, 0, 2, "peer"),
    Rule("integrity violated", "integrity.violated", 1, 0, 4, "target"),
    Rule("network monitor", "ids.alert", 1, 0, 3, "subject"),
)


@dataclass(frozen=True, slots=True)
class SecurityAlert:
    """What an analyst sees."""

    time: float
    rule: str
    severity: int
    source: str
    subject: str


@dataclass(slots=True)
class Siem:
    """A collector on UDP ``port`` of ``host``.

    ``on_alert`` is called once per alert, and again for the same rule, source and subject only after ``quiet`` s.
    """

    host: Host
    name: str
    quiet: float = 300.0
    rules: tuple[Rule, ...] = RULES
    port: int = PORT
    on_alert: list[Callable[[SecurityAlert], None]] = field(default_factory=list)
    #: where all that arrives is kept, None: nothing is
    archive: AuditLog | None = None
    #: whether a message is who it says it is from; None: whoever sends one is believed
    genuine: Callable[[Message], bool] | None = None
    #: takes the wrapping off what arrives, None if there is none; None where it does not come off
    unseal: Callable[[bytes], bytes | None] | None = None
    #: sources that send marks, and how long (s) one may be silent before that is an event of its own
    expected: tuple[str, ...] = ()
    silent_after: float = math.inf
    messages: int = 0
    unparsed: int = 0
    audit: Audit = field(init=False)
    _recent: dict[tuple[str, str, str], deque[float]] = field(default_factory=dict)
    _last: dict[tuple[str, str, str], float] = field(default_factory=dict)
    _heard: dict[str, float] = field(default_factory=dict)
    _silent: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.audit = Audit(self.name)

    def start(self) -> None:
        """Begin to collect."""
        self.host.spawn(self._listen(), "collector")
        if self.expected:
            now = self.host.network.loop.time()
            self._heard = dict.fromkeys(self.expected, now)
            self.host.network.loop.wake(now + self.silent_after, self._look_around, now + self.silent_after)

    def _look_around(self, due: float) -> None:
        loop = self.host.network.loop
        for source in self.expected:
            if loop.time() - self._heard[source] > self.silent_after and source not in self._silent:
                self._silent[source] = None
                self.audit("audit.silent", store=source, seconds=round(loop.time() - self._heard[source]))
        loop.wake(due + self.silent_after / 2, self._look_around, due + self.silent_after / 2)

    async def _listen(self) -> None:
        siem = self

        class Collector(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
                siem.take(data, addr[0])

        await self.host.network.loop.create_datagram_endpoint(Collector, local_addr=("0.0.0.0", self.port))

    def take(self, raw: bytes, sender: str = "") -> None:
        """Judge one datagram from address ``sender``."""
        opened = self.unseal(raw) if self.unseal is not None else raw
        message = decode(opened) if opened is not None else None
        if message is None:
            self.unparsed += 1
            return
        if self.genuine is not None and not self.genuine(message):
            self.audit("audit.refused", store=message.source, peer=sender, reason="not signed by its source")
            return
        self._heard[message.source] = self.host.network.loop.time()
        self._silent.pop(message.source, None)
        if message.kind == MARK:
            return
        self.messages += 1
        if self.archive is not None:
            self.archive.take(message)
        for rule in self.rules:
            if rule.kind == message.kind:
                self._count(rule, message)

    def _count(self, rule: Rule, message: Message) -> None:
        now = self.host.network.loop.time()
        subject = message.data.get(rule.subject, "")
        name = message.data.get("rule", rule.name) if rule.kind == "ids.alert" else rule.name
        key = (name, message.source, subject)
        if rule.count > 1:
            times = self._recent.setdefault(key, deque(maxlen=rule.count))
            times.append(now)
            if len(times) < rule.count or now - times[0] > rule.window:
                return
        if now - self._last.get(key, -math.inf) < self.quiet:
            return
        self._last[key] = now
        alert = SecurityAlert(now, name, rule.severity, message.source, subject)
        for told in self.on_alert:
            told(alert)
