"""The SIEM: it collects syslog, and some of what it collects becomes an alert.

It knows only what reaches its port. Its rules are Sigma files (``devices/data/sigma``, and a site's own): which events
alert at once, and which only when several come within a time span, or in an order.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from devices.audit import Audit
from devices.auditlog import AuditLog
from devices.sigma import Engine, Rule, flatten, shipped
from devices.syslog import MARK, PORT, Message, decode
from testbed.network import Host


@dataclass(frozen=True, slots=True)
class SecurityAlert:
    """What an analyst sees."""

    time: float
    rule: str
    severity: int
    source: str
    subject: str
    #: of ATT&CK for ICS, as the rule's author tagged it
    techniques: tuple[str, ...] = ()
    tactics: tuple[str, ...] = ()
    #: what else the event said that raised it
    data: Mapping[str, str] = field(default_factory=dict, hash=False, compare=False)


@dataclass(slots=True)
class Siem:
    """A collector on UDP ``port`` of ``host``.

    ``on_alert`` is called once per alert, and again for the same rule, source and subject only after ``quiet`` s.
    """

    host: Host
    name: str
    quiet: float = 300.0
    rules: tuple[Rule, ...] = field(default_factory=shipped)
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
    _engine: Engine | None = None
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
        if self._engine is None or self._engine.rules is not self.rules:
            self._engine = Engine(self.rules)
        now = self.host.network.loop.time()
        event = flatten(message.kind, message.source, message.severity, message.data)
        for rule, subject in self._engine.take(event, now):
            self._raise(rule, subject, message, now)

    def _raise(self, rule: Rule, subject: str, message: Message, now: float) -> None:
        name = message.data.get(rule.title_from, rule.title) if rule.title_from is not None else rule.title
        key = (name, message.source, subject)
        if now - self._last.get(key, -math.inf) < self.quiet:
            return
        self._last[key] = now
        alert = SecurityAlert(
            now, name, rule.severity, message.source, subject, rule.techniques, rule.tactics, message.data
        )
        for told in self.on_alert:
            told(alert)
