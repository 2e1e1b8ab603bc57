"""Alerts that belong together make an incident, and incidents wait for an analyst.

Two alerts belong together when they are about the same subject, or one is about the source of the other, and come
within a time of each other. An incident is as severe as its worst alert, and one step worse when it goes through
several tactics: one thing after another is what an attack looks like.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from devices.siem import SecurityAlert

#: How many tactics of ATT&CK for ICS make an incident one step worse (assumption).
SEVERAL = 3
CRITICAL = 4


@dataclass(slots=True)
class Incident:
    """One incident; ``opened`` in s. ``verdict`` is an analyst's: None while nobody has looked."""

    id: int
    opened: float
    alerts: list[SecurityAlert] = field(default_factory=list)
    verdict: bool | None = None
    triaged: float | None = None

    @property
    def severity(self) -> int:
        """1 low to 4 critical."""
        worst = max(alert.severity for alert in self.alerts)
        return min(CRITICAL, worst + 1) if len(self.tactics) >= SEVERAL else worst

    @property
    def rules(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(alert.rule for alert in self.alerts))

    @property
    def subjects(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(alert.subject for alert in self.alerts if alert.subject))

    @property
    def sources(self) -> tuple[str, ...]:
        """Who reported."""
        return tuple(dict.fromkeys(alert.source for alert in self.alerts))

    @property
    def techniques(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one for alert in self.alerts for one in alert.techniques))

    @property
    def tactics(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one for alert in self.alerts for one in alert.tactics))


@dataclass(slots=True)
class IncidentDesk:
    """Makes incidents of alerts; ``window`` s is how far apart two alerts of one incident may be.

    ``names`` tells by which other names a subject goes (a host's for its address), so that alerts of different sources
    find each other.
    """

    window: float
    names: Callable[[str], str] = str
    incidents: list[Incident] = field(default_factory=list)
    on_opened: list[Callable[[Incident], None]] = field(default_factory=list)
    on_grown: list[Callable[[Incident], None]] = field(default_factory=list)

    def take(self, alert: SecurityAlert) -> None:
        """Put an alert into the incident that it belongs to, or open one."""
        for incident in reversed(self.incidents):
            if alert.time - incident.alerts[-1].time <= self.window and self._related(incident, alert):
                incident.alerts.append(alert)
                for told in self.on_grown:
                    told(incident)
                return
        incident = Incident(len(self.incidents) + 1, alert.time, [alert])
        self.incidents.append(incident)
        for told in self.on_opened:
            told(incident)

    def _related(self, incident: Incident, alert: SecurityAlert) -> bool:
        subjects = {self.names(one) for one in incident.subjects}
        if alert.subject and self.names(alert.subject) in subjects:
            return True
        # A device that one alert is about and that reports another of its own, or the other way round.
        sources = {self.names(one) for one in incident.sources}
        return self.names(alert.source) in subjects or (
            bool(alert.subject) and self.names(alert.subject) in sources
        )
