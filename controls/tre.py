"""FR 6, timely response to events: is anybody told?"""

from __future__ import annotations

from typing import Any

from controls.shapes import Check, Control, Needs
from controls.uc import devices_with_audit
from devices.audit import Sink
from devices.syslog import SyslogSender
from devices.world import World

#: What security mechanisms have to say; the rest of the audit trail is SR 2.8 RE 1's.
MECHANISMS = frozenset(
    {
        "access.denied",
        "boundary.denied",
        "connection.refused",
        "ids.alert",
        "login.failed",
        "login.locked",
        "login.spared",
        "modbus.malformed",
        "mode.refused",
        "mode.request",
        "peer.bad",
        "plc.fault",
        "program.loaded",
        "program.refused",
        "session.refused",
        "value.refused",
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


CONTROLS: dict[str, Control] = {"SR 6.2": continuous_monitoring}

#: What must be in force for a requirement to mean anything.
NEEDS: Needs = {}

#: Whether a requirement that is in force does its work, zone by zone; one without a check does while it is on.
CHECKS: dict[str, Check] = {}
