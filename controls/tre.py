"""FR 6, timely response to events: is anybody told?"""

from __future__ import annotations

from typing import Any

from controls.shapes import Check, Control, Needs, by_zone
from controls.uc import devices_with_audit
from devices.audit import Sink
from devices.auditlog import PORT as LOG_PORT
from devices.auditlog import LogService
from devices.syslog import SyslogSender
from devices.world import World
from testbed.network import Conduit

#: What security mechanisms have to say; the rest of the audit trail is SR 2.8 RE 1's.
MECHANISMS = frozenset(
    {
        "access.denied",
        "audit.failed",
        "audit.nearly_full",
        "audit.refused",
        "audit.silent",
        "auth.dropped",
        "auth.forged",
        "auth.unreachable",
        "boundary.denied",
        "boundary.failed",
        "boundary.set",
        "control.failed",
        "handshake.dropped",
        "breakglass.failed",
        "breakglass.used",
        "connection.refused",
        "device.unknown",
        "dock.refused",
        "execution.refused",
        "file.refused",
        "mail.refused",
        "media.refused",
        "ids.alert",
        "login.failed",
        "login.locked",
        "login.spared",
        "modbus.diagnostics",
        "modbus.malformed",
        "mode.refused",
        "mode.request",
        "peer.bad",
        "plc.fault",
        "program.loaded",
        "program.refused",
        "radio.unknown",
        "remote.denied",
        "remote.refused",
        "certificate.refused",
        "certificate.tolerated",
        "portal.session_refused",
        "process.alert",
        "session.refused",
        "time.refused",
        "settings.changed",
        "settings.refused",
        "value.refused",
        "wireless.denied",
        "wireless.refused",
        "write.denied",
    }
)


def continuous_monitoring(world: World) -> None:
    """SR 6.2: network monitors watch their taps, and what security mechanisms report reaches the SIEM at once."""
    for monitor in world.monitors.values():
        monitor.expect(world.baseline())
        monitor.start()
    for audit in devices_with_audit(world):
        sender = world.sender(audit.source)
        if sender not in audit.sinks:  # SR 2.8 RE 1 sends these events too, and once is enough
            audit.sinks.append(_only_mechanisms(sender))
    if world.monitors:
        # A firewall reports through the management interface of the monitor's host.
        manager = world.sender(next(iter(world.monitors)))
        for audit in world.boundary_audits.values():
            audit.sinks.append(_only_mechanisms(manager))


def _only_mechanisms(sender: SyslogSender) -> Sink:
    def sink(source: str, kind: str, data: dict[str, Any]) -> None:
        if kind in MECHANISMS:
            sender(source, kind, data)

    return sink


def readable_logs(world: World) -> None:
    """SR 6.1: those at the SIEM's console read every device's records over the network, and change none of them."""
    readers = frozenset(siem.host.address for siem in world.siems.values())
    for audit in devices_with_audit(world):
        name = audit.source
        if name in world.site.assets and name not in world.siems:
            world.log_services[name] = LogService(world.network.hosts[name], world.log_of(audit), readers)


def _logs_served(world: World) -> dict[str, bool]:
    """Records can be read where the log service of every device of the zone that is up listens."""
    return by_zone(
        (service.host.zone.name, LOG_PORT in service.host.listeners or not service.host.up)
        for service in world.log_services.values()
    )


def queried_logs(world: World) -> None:
    """SR 6.1 RE 1: log services answer a tool's queries too, so that a search of every device takes seconds."""
    for service in world.log_services.values():
        service.queries = True


def _watching(world: World) -> dict[str, bool]:
    """Every monitor is up and attached to all its links, and there is a collector for what it reports."""
    collected = any(siem.host.up for siem in world.siems.values())
    found = dict.fromkeys(world.site.zones, collected)
    for monitor in world.monitors.values():
        for link in monitor.links:
            watched = monitor.host.up and monitor.see in link.taps
            for zone in link.zones if isinstance(link, Conduit) else (link,):
                found[zone.name] = found.get(zone.name, True) and watched
    return found


CONTROLS: dict[str, Control] = {
    "SR 6.1": readable_logs,
    "SR 6.1 RE 1": queried_logs,
    "SR 6.2": continuous_monitoring,
}

#: What must be in force for a requirement to mean anything.
NEEDS: Needs = {"SR 6.1": ("SR 2.8",), "SR 6.1 RE 1": ("SR 6.1",)}

#: Whether a requirement that is in force does its work, zone by zone; one without a check does while it is on.
CHECKS: dict[str, Check] = {"SR 6.1": _logs_served, "SR 6.1 RE 1": _logs_served, "SR 6.2": _watching}
