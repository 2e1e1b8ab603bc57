"""What could be proved afterwards: acts of a run against the records of them that are left at its end.

A deed counts as proven when a record that nobody could have altered unnoticed names who did it, near enough to when.
"""

from __future__ import annotations

from devices.world import World

#: A record this far (s) from the deed is about something else (assumption).
NEAR = 60.0


def evidence_of(world: World) -> tuple[int, int]:
    """Deeds of the run (what the attacker reached or was refused), and how many of them records prove."""
    deeds = [
        event
        for event in world.trace.events
        if event.kind == "attack.step" and event.data["outcome"] in ("done", "refused")
    ]
    records: dict[str, list[float]] = {}
    for event in world.trace.events:
        if event.kind.startswith("log."):
            for key in ("peer", "user"):
                if event.data.get(key) is not None:
                    records.setdefault(str(event.data[key]), []).append(event.time)
    proven = 0
    for deed in deeds:
        host = world.network.hosts.get(deed.source)
        names = [str(deed.data["user"])] if "user" in deed.data else []
        names += [host.address] if host is not None else []
        proven += any(abs(time - deed.time) <= NEAR for name in names for time in records.get(name, ()))
    return len(deeds), proven
