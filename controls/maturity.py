"""The second axis: how well the site keeps up what was once set up (maturity levels 1 to 4).

A security level says which controls are there, a maturity level how likely the practices fail that keep them at work.
A practice that fails degrades the real control through the seam that holds it: an account stays open, a rule stays too
wide, a copy decays. The chances stand in ``data/maturity.yaml``. Each practice draws one number from a stream of its
own and fails if that lies below the chance of the level, so that of two sites with one seed the more mature one has no
failure that the other lacks.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field

from controls.catalogue import catalogue
from controls.iac import SERVICE, SHARED
from controls.uc import devices_with_audit
from devices.inventory import allow_list
from devices.protection import DATABASE
from devices.recovery import RecoveryPlan
from devices.world import World
from testbed import site as sites
from testbed.document import Document, Route, load
from testbed.errors import OtlabError
from testbed.firewall import Rule
from testbed.site import RequirementId

#: Degrades what the practice keeps up; tells what became of it, or None where there was nothing to degrade.
Effect: TypeAlias = Callable[[World, random.Random], str | None]

Chance = Annotated[float, Field(ge=0, le=1)]


class MaturityLevel(Document):
    """One level: its name in the standard, and what it means in own words."""

    name: str
    meaning: str


class Practice(Document):
    """One practice; ``fails`` are the chances at ML 1 to 4 that it has failed at a given time.

    It keeps the requirements in ``needs`` at work, and nothing is degraded where none of them is in force.
    """

    title: str
    needs: Annotated[tuple[RequirementId, ...], Field(min_length=1)]
    fails: tuple[Chance, Chance, Chance, Chance]
    status: Literal["published", "computed", "assumption"]
    source: Annotated[str, Field(min_length=1)]


class MaturityTable(Document):
    """The shape of the table."""

    levels: dict[Literal["1", "2", "3", "4"], MaturityLevel]
    practices: dict[str, Practice]

    def problems(self) -> Iterator[tuple[Route, str]]:
        for level in ("1", "2", "3", "4"):
            if level not in self.levels:
                yield ("levels",), f"level {level} is missing"
        for name in EFFECTS.keys() - self.practices.keys():
            yield ("practices",), f"practice {name!r} is missing"
        for name, practice in self.practices.items():
            if name not in EFFECTS:
                yield ("practices", name), f"no such practice; there are {', '.join(EFFECTS)}"
            if list(practice.fails) != sorted(practice.fails, reverse=True):
                yield ("practices", name, "fails"), "chances may not rise with the level"
            for number, requirement in enumerate(practice.needs):
                if requirement not in catalogue():
                    yield ("practices", name, "needs", number), f"there is no {requirement}"


def load_maturity(path: str | Path) -> MaturityTable:
    """Read a table of maturity. Raises DocumentError with every mistake in it."""
    return load(path, MaturityTable)


@cache
def maturity_table() -> MaturityTable:
    """The table that is shipped."""
    with as_file(files("controls") / "data" / "maturity.yaml") as path:
        return load_maturity(path)


def apply(world: World, ml: int | None, requirements: Iterable[str]) -> tuple[str, ...]:
    """Let the practices of a site of maturity level ``ml`` fail as drawn; call after controls and before ``start``.

    None is perfect practice. Each failure is recorded as ``practice.failed`` (practice, what). Returns the practices
    that failed and degraded something. Raises OtlabError for a level that does not exist.
    """
    if ml is None:
        return ()
    if ml not in (1, 2, 3, 4):
        raise OtlabError(f"a maturity level is 1 to 4, not {ml}")
    in_force = set(requirements)
    failed = []
    for name, practice in maturity_table().practices.items():
        stream = world.stream(f"maturity:{name}")
        if stream.random() >= practice.fails[ml - 1] or not in_force.intersection(practice.needs):
            continue
        what = EFFECTS[name](world, stream)
        if what is not None:
            failed.append(name)
            world.trace.record("practice.failed", "site", practice=name, what=what)
    return tuple(failed)


# ----------------------------------------------------------------------------------------- what failing practices do


def _leavers(world: World, stream: random.Random) -> str | None:
    former = [
        person.name
        for asset in world.site.assets.values()
        if isinstance(asset, sites.Hmi)
        for person in asset.former
    ]
    open_again = [
        (device, name)
        for device, store in sorted(world.account_stores.items())
        for name in former
        if name in store.accounts and not store.accounts[name].enabled
    ]
    if not open_again:
        return None
    device, name = stream.choice(open_again)
    world.account_stores[device].accounts[name].enabled = True
    return f"account {name} is still open at {device}"


def _default_passwords(world: World, stream: random.Random) -> str | None:
    """The one device is no operator station: people there would notice at the next log-in."""
    stores = [device for device in sorted(world.account_stores) if device not in world.hmis]
    if not stores:
        return None
    device = stream.choice(stores)
    accounts = world.account_stores[device].accounts
    # What programs log in with is changed on both sides or on none.
    name = next((name for name in accounts if name == SHARED), None)
    if name is None or name == SERVICE:
        return None
    known = accounts[name]
    world.account_stores[device].add(name, known.role, name, essential=known.essential, default=True)
    return f"account {name} at {device} has its default password"


def _lock_out(world: World, stream: random.Random) -> str | None:
    stores = [device for device in sorted(world.account_stores) if device not in world.hmis]
    if not stores:
        return None
    device = stream.choice(stores)
    store = world.account_stores[device]
    if store.rules.lockout_attempts is None:
        return None
    store.rules = replace(store.rules, lockout_attempts=None)
    return f"no lock-out at {device}"


def _firewall_rules(world: World, stream: random.Random) -> str | None:
    filtering = [name for name, conduit in world.network.conduits.items() if allow_list(conduit) is not None]
    if not filtering:
        return None
    name = stream.choice(filtering)
    allowed = allow_list(world.network.conduits[name])
    assert allowed is not None
    allowed.rules = (*allowed.rules, Rule(None, None, None, None))
    return f"a rule at {name} lets everything pass"


def _patches(world: World, stream: random.Random) -> str | None:
    versions = sorted({(agent.product, agent.firmware) for agent in world.settings_agents.values()})
    if not versions:
        return None
    product, firmware = stream.choice(versions)
    for agent in world.settings_agents.values():
        if (agent.product, agent.firmware) == (product, firmware):
            agent.flawed = True
    return f"{product} {firmware} has a known flaw"


def _malware_updates(world: World, stream: random.Random) -> str | None:
    guarded = sorted(world.guards)
    if not guarded:
        return None
    name = stream.choice(guarded)
    # The scanner knows nothing, and whoever brings a database is told that it was not taken.
    world.guards[name].scanner.patterns, world.guards[name].scanner.as_of = {}, float("-inf")
    world.computers[name].services.pop(DATABASE, None)
    return f"signatures of {name} are older than anything that is about"


def _backups_tested(world: World, stream: random.Random) -> str | None:
    hit = sum(
        server.damage(item, stream)
        for server in world.backup_servers.values()
        for item in list(server.copies)
        if item.endswith("/program")
    )
    return f"{hit} copies cannot be read back" if hit else None


def _alerts_read(world: World, _stream: random.Random) -> str | None:
    for siem in world.siems.values():
        siem.rules = ()
    return "nobody reads what the SIEM shows" if world.siems else None


def _monitor_connected(world: World, stream: random.Random) -> str | None:
    tapped = [(name, link) for name, monitor in world.monitors.items() for link in monitor.links if link.taps]
    if not tapped:
        return None
    name, link = stream.choice(tapped)
    monitor = world.monitors[name]
    if monitor.see not in link.taps:
        return None
    link.remove_tap(monitor.see)
    return f"{name} sees nothing of {link.name}"


def _logs_reviewed(world: World, stream: random.Random) -> str | None:
    recording = [audit for audit in devices_with_audit(world) if audit.sinks]
    if not recording:
        return None
    audit = stream.choice(recording)
    audit.sinks.clear()
    return f"{audit.source} records nothing"


def _approvals_meant(world: World, _stream: random.Random) -> str | None:
    world.staff.figures = world.staff.figures.with_overrides({"approval.unexpected_granted": 1.0})
    return "whatever is asked is approved"


def _certificates_renewed(world: World, stream: random.Random) -> str | None:
    connect = world.seams.modbus_tls
    openers = [*world.hmis, *world.gateways, *world.workstations]
    if not world.relying_parties or connect is None or not openers:
        return None
    authority = next(iter(world.authorities.values()))
    late = stream.choice(openers)

    def expired(source: str, plc: str) -> ssl.SSLContext | None:
        if source != late:
            return connect(source, plc)
        valid = authority.valid
        authority.valid = (valid[0] - (valid[1] - valid[0]), valid[0])
        try:
            return connect(source, plc)
        finally:
            authority.valid = valid

    world.seams.modbus_tls = expired
    return f"the certificate of {late} has expired"


def _supply_on_line(world: World, stream: random.Random) -> str | None:
    on_line = [name for name, ups in world.upses.items() if ups.seams.on_line]
    if not on_line:
        return None
    name = stream.choice(on_line)
    world.upses[name].seams.on_line = False
    return f"{name} was left in bypass"


def _recovery_exercised(world: World, _stream: random.Random) -> str | None:
    if not world.recovery.reinstate:
        return None
    world.recovery = RecoveryPlan()
    return "the recovery procedure was never tried"


#: Practice -> what its failure does.
EFFECTS: Final[dict[str, Effect]] = {
    "leavers": _leavers,
    "default_passwords": _default_passwords,
    "lock_out": _lock_out,
    "firewall_rules": _firewall_rules,
    "patches": _patches,
    "malware_updates": _malware_updates,
    "backups_tested": _backups_tested,
    "alerts_read": _alerts_read,
    "monitor_connected": _monitor_connected,
    "logs_reviewed": _logs_reviewed,
    "approvals_meant": _approvals_meant,
    "certificates_renewed": _certificates_renewed,
    "supply_on_line": _supply_on_line,
    "recovery_exercised": _recovery_exercised,
}
