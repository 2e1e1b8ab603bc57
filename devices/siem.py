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
from devices.syslog import PORT, Message, decode
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
    Rule("refused sessions", "session.refused", 4, 300, 3, "peer"),
    Rule("malformed Modbus", "modbus.malformed", 3, 60, 3, "peer"),
    Rule("boundary denials", "boundary.denied", 5, 60, 2, "peer"),
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
    messages: int = 0
    unparsed: int = 0
    audit: Audit = field(init=False)
    _recent: dict[tuple[str, str, str], deque[float]] = field(default_factory=dict)
    _last: dict[tuple[str, str, str], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.audit = Audit(self.name)

    def start(self) -> None:
        """Begin to collect."""
        self.host.spawn(self._listen(), "collector")

    async def _listen(self) -> None:
        siem = self

        class Collector(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
                siem.take(data)

        await self.host.network.loop.create_datagram_endpoint(Collector, local_addr=("0.0.0.0", self.port))

    def take(self, raw: bytes) -> None:
        """Judge one datagram."""
        message = decode(raw)
        if message is None:
            self.unparsed += 1
            return
        self.messages += 1
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
