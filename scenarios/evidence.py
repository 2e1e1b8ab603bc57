"""What could be proved afterwards: acts of a run against the records of them that are left at its end.

An act counts as proved when a record in any store names who did it, near enough to when it was, and nobody can say of
that record that somebody else may have made or changed it.
"""

from __future__ import annotations

from collections.abc import Iterator

from devices.auditlog import AuditRecord
from devices.hmi import ANYONE
from devices.world import World
from testbed.trace import Event

#: Audit event of somebody who took note of the notice before a log-in, and what marks a name as that of such a person.
ACKNOWLEDGED = "notice.acknowledged"
AWARE = " (aware)"


def evidence_of(world: World) -> tuple[int, int]:
    """Acts of the run, and how many of them records prove.

    Acts are what an attacker reached or was refused, and what people did that a step recorded as ``deed``. The one
    who acted is the ``user`` of the event if it has one, else its ``peer``, else the address of the machine that it
    came from. A record without a time stamp can be placed nowhere and proves nothing. Where it matters that the person
    knew the rules (``told``), only a record that the notice was acknowledged proves it.
    """
    deeds = [event for event in world.trace.events if _is_deed(event)]
    near = world.figures["evidence.tolerance"]
    epoch = world.site.epoch.timestamp()
    told: dict[str, list[float]] = {}
    if deeds:
        for record in _credible(world):
            times = [time - epoch for time in (record.time, record.received) if time is not None]
            for key in ("user", "peer"):
                name = record.data.get(key)
                if name is not None:
                    told.setdefault(str(name), []).extend(times)
                    if record.kind == ACKNOWLEDGED:
                        told.setdefault(f"{name}{AWARE}", []).extend(times)
    told.pop(ANYONE.name, None)  # a record of that user names nobody
    proven = sum(
        any(abs(time - deed.time) <= near for time in told.get(_actor(world, deed), ())) for deed in deeds
    )
    return len(deeds), proven


def _is_deed(event: Event) -> bool:
    if event.kind == "attack.step":
        return event.data["outcome"] in ("done", "refused")
    return event.kind == "deed"


def _actor(world: World, deed: Event) -> str:
    for key in ("user", "peer"):
        if deed.data.get(key) is not None:
            return f"{deed.data[key]}{AWARE if deed.data.get('told') else ''}"
    host = world.network.hosts.get(deed.source)
    return host.address if host is not None else deed.source


def _credible(world: World) -> Iterator[AuditRecord]:
    """Records that nobody could have made or changed unnoticed, or that carry the right signature."""
    for log in (*world.logs.values(), *world.archives.values()):
        intact = {record.seq for record in log.intact()}
        for record in log.records:
            if record.seq in intact or _signed(world, record):
                yield record


def _signed(world: World, record: AuditRecord) -> bool:
    """Whether the person or the device that the record is of has signed it."""
    if not record.signature:
        return False
    owners = [str(record.data["user"])] if record.data.get("user") is not None else []
    owners.append(record.source)
    text = record.content()
    return any(world.keyring.verify(owner, text, record.signature) for owner in owners)
