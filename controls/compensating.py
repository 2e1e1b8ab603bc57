"""Compensating countermeasures: what a site does instead, where a requirement cannot be met or would do harm.

Each acts in the run like a requirement's control. It never raises SL-C; it may close a gap of SL-A in the requirements
that its entry in the data says it stands for (IEC 62443-3-3, 4.3), with the reason, what risk is left, and who has to
approve of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from typing import Annotated, Any, Final, Literal

from pydantic import Field, RootModel

from controls.uc import WRITERS
from devices.accounts import Accounts, User
from devices.hmi import Hmi
from devices.modbus import Access, Peer
from devices.operator import Operator
from devices.permissions import Permissions
from devices.plc import ILLEGAL_FUNCTION
from devices.premises import ENVELOPE, INSIDERS
from devices.staff import APPROVER, Person, request_to_lift, request_to_write
from devices.world import World
from testbed.document import Document, load
from testbed.errors import UnknownNameError
from testbed.site import RequirementId

#: The account of the break-glass envelope, and the role it has: all that an emergency may need.
FIRECALL: Final = "firecall"
FIRECALL_ROLE: Final = "supervisor"

Text = Annotated[str, Field(min_length=1)]


class Entry(Document):
    """What the data say of one countermeasure; ``stands_for`` are requirements that it may replace in SL-A."""

    title: Text
    acts_on: Text
    stands_for: tuple[RequirementId, ...]
    reason: Text
    residual_risk: Text
    approver: Text
    grade: Literal["normative", "documented", "practice"]
    source: Text


class _Table(RootModel[dict[str, Entry]]):
    """The shape of the file: name -> entry."""


@dataclass(frozen=True, slots=True)
class Countermeasure:
    """One countermeasure: its entry, and what puts it in force in a world that has not started."""

    name: str
    entry: Entry
    act: Callable[[World], None]


# -- people who go somewhere, and people who are hired ------------------------------------------------------------


def enhanced_physical_security(world: World) -> None:
    """Badge, escort and an attended control room: people without a task in a place do not get there."""
    premises, share = world.physical, world.figures["physical.enhanced_entry"]
    premises.guard = lambda person, _place: person == "staff" or premises.stream.random() < share


def background_checks(world: World) -> None:
    """Of people who mean harm and want the job, a share does not get it; visitors and strangers are not asked."""
    stream, share = world.stream("background checks"), world.figures["people.screened_out"]
    found: dict[str, bool] = {}

    def screening(person: str) -> bool:
        if person not in INSIDERS:
            return True
        if person not in found:  # a person is hired or not once in a run
            found[person] = stream.random() >= share
        return found[person]

    world.staff.seams.screening = screening


# -- a second operator --------------------------------------------------------------------------------------------


def dual_operators(world: World) -> None:
    """Two at the station: both answer alarms, each sees what is done there and undoes what nobody ordered."""
    for name, first in world.operators.items():
        second = first.another(world.stream(f"second operator:{name}"))
        # The same account: it is one session, at one screen, that both stand in front of.
        second.holder, second.break_glass = first, first.break_glass
        first.colleague = second
        person = Person(f"second operator at {name}", "operator", "control room", frozenset({APPROVER}))
        world.staff.hire((person,))
        first.hmi.on_write.append(_watches(world, first.hmi, second, person.name))


def _watches(
    world: World, hmi: Hmi, second: Operator, name: str
) -> Callable[[User, str, float | None, float], None]:
    """What the second operator does about a write that neither a standing alarm nor a work order explains."""
    notice = world.figures.lognormal("hmi.alarm_notice")
    act = world.figures.lognormal("hmi.action")
    undoing: set[tuple[str, float]] = set()

    async def undo(user: User, tag: str, before: float) -> None:
        await asyncio.sleep(second.stream.lognormvariate(*notice))
        await asyncio.sleep(second.stream.lognormvariate(*act))
        undoing.add((tag, before))
        world.staff.announce(request_to_write(tag, before))  # the other one hears why
        if await hmi.command(user, tag, before) is None:
            world.trace.record("response", name, what=f"{tag} set back to {before:g}")
        undoing.discard((tag, before))

    def see(user: User, tag: str, before: float | None, value: float) -> None:
        if before is None or before == value or (tag, value) in undoing or ordered(tag, value):
            return
        hmi.host.spawn(undo(user, tag, before), "second operator")

    def ordered(tag: str, value: float) -> bool:
        in_procedure = any(
            action.tag == tag and action.value == value
            for alarm in hmi.alarms
            for action in second.responses.get(alarm, ())
        )
        return in_procedure or world.staff.was_announced(request_to_write(tag, value))

    return see


# -- ways around limits -------------------------------------------------------------------------------------------


def supervisor_override(world: World) -> None:
    """In an emergency the supervisor widens the role's rights by hand, and narrows them again when it is over."""
    permissions = world.permissions
    if permissions is None:
        return  # without limits of roles there is nothing to lift
    for hmi in world.hmis.values():
        if hmi.seams.override is None:  # SR 2.1 RE 3 has a function for it
            hmi.seams.override = _widens(world, hmi, permissions)


def _widens(
    world: World, hmi: Hmi, permissions: Permissions
) -> Callable[[User, str, float], Awaitable[bool]]:
    stream = world.stream("supervisor at the table")

    async def override(user: User, tag: str, _value: float) -> bool:
        if user.role not in WRITERS or permissions.allows(user, tag):
            return False
        answer = await world.staff.ask("supervisor", request_to_lift(user.name, tag), by=user.name)
        if answer is None or not answer.granted:
            return False
        # The supervisor logs in at the table of rights and changes it.
        for key in ("login.password", "hmi.action"):
            await asyncio.sleep(stream.lognormvariate(*world.figures.lognormal(key)))
        by = User(answer.person, "supervisor")
        usual = permissions.table.get(user.role, frozenset())
        permissions.define(by, user.role, {*usual, tag})
        hmi.loop.wake(
            hmi.loop.time() + world.figures["override.duration"],
            lambda _: permissions.define(by, user.role, permissions.table[user.role] - {tag}),
            None,
        )
        return True

    return override


def break_glass(world: World) -> None:
    """A sealed account opens the station in an emergency; its use raises an alarm, is reviewed, and changes it."""
    stream = world.stream("break-glass")
    for name, hmi in world.hmis.items():
        if hmi.seams.accounts is None:
            continue  # nothing asks who it is
        store = Accounts(world.loop.time, world.site.epoch.timestamp(), stream)
        hmi.seams.emergency = store
        _seal(world, store)
        hmi.audit.sinks.append(_reviews(world, hmi, store))
        if name in world.operators:
            operator = world.operators[name]
            operator.break_glass = _breaks(world, operator)
            if operator.colleague is not None:
                operator.colleague.break_glass = operator.break_glass


def _seal(world: World, store: Accounts) -> None:
    """Put a new credential into the envelope."""
    secret = f"{world.stream('break-glass').getrandbits(80):020x}"
    store.add(FIRECALL, FIRECALL_ROLE, secret, essential=True)
    world.physical.kept[ENVELOPE] = f"{FIRECALL}:{secret}"


def _breaks(world: World, operator: Operator) -> Callable[[], Awaitable[bool]]:
    """The operator opens the envelope and logs in with what is in it; false while it is open already."""

    async def act() -> bool:
        session = operator.hmi.session
        if session is not None and session.user.name == FIRECALL and not session.locked:
            return False  # the account is in use, and gives no more than it does
        await asyncio.sleep(operator.stream.lognormvariate(*world.figures.lognormal("login.break_glass")))
        name, _, secret = world.physical.kept.get(ENVELOPE, "").partition(":")
        return await operator.hmi.log_in(name, secret)

    return act


def _reviews(world: World, hmi: Hmi, store: Accounts) -> Callable[[str, str, dict[str, Any]], None]:
    """Every use is looked at: the session ends and the credential changes, so that it opens nothing twice."""

    async def review() -> None:
        seconds = world.stream("break-glass review").lognormvariate(
            *world.figures.lognormal("break_glass.review")
        )
        await asyncio.sleep(seconds)
        if hmi.session is not None and hmi.session.user.name == FIRECALL:
            hmi.session = None
        _seal(world, store)
        supervisor = next((one.name for one in world.staff.people if one.role == "supervisor"), "supervisor")
        world.trace.record("response", supervisor, what="break-glass credential changed")

    def sink(_source: str, kind: str, _data: dict[str, Any]) -> None:
        if kind == "breakglass.used":
            hmi.host.spawn(review(), "review of break-glass")

    return sink


def local_only(world: World) -> None:
    """Nothing but the operator station may write over the network, and every controller's key switch is in place."""
    stations = {hmi.host.address for hmi in world.hmis.values()}

    def from_a_station(peer: Peer, access: Access) -> int | None:
        return ILLEGAL_FUNCTION if access.kind == "write" and peer.address not in stations else None

    for plc in world.plcs.values():
        plc.seams.key_switch = "run"
        plc.seams.authorize.append(from_a_station)
    for gateway in world.gateways.values():
        gateway.server.authorize_write = lambda _user, _tag, _value: False
    for terminal in world.terminals.values():
        terminal.seams.commands = False


#: Name -> what puts it in force.
COMPENSATING: dict[str, Callable[[World], None]] = {
    "enhanced_physical_security": enhanced_physical_security,
    "background_checks": background_checks,
    "dual_operators": dual_operators,
    "supervisor_override": supervisor_override,
    "break_glass": break_glass,
    "local_only": local_only,
}


@cache
def compensating() -> dict[str, Countermeasure]:
    """Every countermeasure by name. Raises DocumentError for a mistake in the data."""
    with as_file(files("controls") / "data" / "compensating.yaml") as path:
        entries = load(path, _Table).root
    return {name: Countermeasure(name, entries[name], act) for name, act in COMPENSATING.items()}


def apply(world: World, names: Iterable[str]) -> None:
    """Put the countermeasures in force, after the requirements and before ``world.start()``.

    Raises UnknownNameError for one that does not exist.
    """
    for one in _known(names):
        one.act(world)


def stood_for(names: Iterable[str]) -> dict[str, str]:
    """Requirement -> the first of ``names`` that may stand in for it in SL-A. Raises UnknownNameError."""
    found: dict[str, str] = {}
    for one in _known(names):
        for requirement in one.entry.stands_for:
            found.setdefault(requirement, one.name)
    return found


def _known(names: Iterable[str]) -> Iterator[Countermeasure]:
    """In the order of the table, whatever order they are named in."""
    wanted = dict.fromkeys(names)
    for name in wanted:
        if name not in COMPENSATING:
            raise UnknownNameError("compensating countermeasure", name, COMPENSATING)
    return (one for name, one in compensating().items() if name in wanted)
