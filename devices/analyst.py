"""The person at the SIEM: takes incidents by severity and age, looks into each, and decides whether it is one.

An analyst knows what the alerts carry and what the site has announced, never the truth. Looking takes time whether or
not there is anything to be found, and that time is what false alarms cost.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from devices.incidents import CRITICAL, Incident, IncidentDesk
from testbed.figures import Figures
from testbed.network import Host
from testbed.trace import Trace


@dataclass(slots=True)
class Analyst:
    """One analyst at ``host``; ``excused`` says of an incident that the site's own announced work explains it."""

    host: Host
    desk: IncidentDesk
    figures: Figures
    stream: random.Random
    trace: Trace
    excused: Callable[[Incident], bool] = lambda _incident: False
    on_escalated: list[Callable[[Incident], None]] = field(default_factory=list)
    #: seconds of work so far, and the longest that the queue has been
    worked: float = 0.0
    longest: int = 0
    _waiting: list[Incident] = field(default_factory=list)
    _something: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self) -> None:
        """Begin the shift."""
        self.desk.on_opened.append(self._opened)
        self.host.spawn(self._work(), "analyst")

    def _opened(self, incident: Incident) -> None:
        self.trace.record("incident", self.host.name, id=incident.id, rule=incident.rules[0])
        self._waiting.append(incident)
        self.longest = max(self.longest, len(self._waiting))
        self._something.set()

    async def _work(self) -> None:
        loop = self.host.network.loop
        while True:
            while not self._waiting:
                self._something.clear()
                await self._something.wait()
            # The first look at the screen after a quiet time; what has come by then is sorted.
            await asyncio.sleep(self._time("siem.analyst_notice"))
            while self._waiting:
                incident = min(self._waiting, key=lambda one: (-one.severity, one.opened, one.id))
                self._waiting.remove(incident)
                begun = loop.time()
                await asyncio.sleep(self._time("siem.analyst_diagnose"))
                self.worked += loop.time() - begun
                self._decide(incident)

    def _time(self, key: str) -> float:
        return self.stream.lognormvariate(*self.figures.lognormal(key))

    def _decide(self, incident: Incident) -> None:
        real = self._looks_real(incident)
        slip = self.figures["soc.missed" if real else "soc.believed"]
        if self.stream.random() < slip:
            real = not real
        incident.verdict, incident.triaged = real, self.host.network.loop.time()
        self.trace.record(
            "incident.triaged",
            self.host.name,
            id=incident.id,
            verdict="real" if real else "false",
            severity=incident.severity,
            alerts=len(incident.alerts),
        )
        if real:
            for told in self.on_escalated:
                told(incident)

    def _looks_real(self, incident: Incident) -> bool:
        """Corroborated by a second rule or source, or grave; and not explained by what the site has announced."""
        if self.excused(incident):
            return False
        corroborated = len(incident.rules) > 1 or len(incident.sources) > 1
        return corroborated or incident.severity >= CRITICAL
