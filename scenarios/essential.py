"""Do security measures ever stop an essential function? The constraints of IEC 62443-3-3 clause 4.2, as runs.

Each check puts a set of requirements in force, makes one situation without an attacker's success in mind (a locked
session, a dead server, a closed boundary), and looks whether the operator can still act and the safety system still
trips. What it sees is a finding, not a failure of the run: a finding counts as a defect of the design, whatever its
level. Identifiers EF-0 to EF-9 are this project's own.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from controls import compensating, profiles
from controls.selection import Selection
from devices.hmi import Alarm
from devices.opcua import UaClient
from devices.plc import Mode
from devices.world import World
from scenarios.attack import Attack
from scenarios.experiment import WARM_UP, Experiment, run, site_of
from scenarios.steps.wire import Flood
from testbed import site as sites
from testbed.figures import Figures, load_figures
from testbed.site import Site

#: When the situation is made and when the demand comes (s); between them it has time to bite.
SITUATION, DEMAND = 60.0, 120.0
#: How long a demand is watched (s): longer than any allowed time.
WATCHED = 60.0
#: How long an operator has at most before a check gives up (s).
PATIENCE = 1500.0
#: How often it is looked whether the operator is done (s).
STRIDE = 20.0
SEEDS = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class Finding:
    """A constraint that a set of requirements breaks: which, under what profile, and what was seen."""

    constraint: str
    profile: str
    says: str


@dataclass(frozen=True, slots=True)
class Constraint:
    """One constraint: what must hold, the requirements it is about, and the check: sentences about what broke it."""

    id: str
    says: str
    about: str
    check: Callable[[Site, Selection, Figures], list[str]]


# -- the situation, then a demand on the safety function -------------------------------------------------------------


def built(site: Site, selection: Selection, seed: int, figures: Figures) -> World:
    """A world with what ``selection`` puts in force, not started."""
    world = World(site, seed, figures)
    profiles.apply(world, selection.requirements)
    compensating.apply(world, selection.compensating)
    return world


def demand(
    site: Site, selection: Selection, figures: Figures, situation: Callable[[World], None]
) -> list[str]:
    """Make the situation, then close each trip switch of the safety PLC: sentences about what did not trip in time."""
    safety = site.essential_functions.safety
    asset = site.assets[safety.asset]
    assert isinstance(asset, sites.Controller)
    switches = [
        tag.signal for tag in asset.tags.values() if tag.table == "discrete" and tag.signal is not None
    ]
    allowed = figures["essential.trip_within"]
    sentences = []
    world = built(site, selection, 1, figures)
    try:
        trips: list[float] = []
        world.wiring.on_trip.append(lambda _target, on: trips.append(world.loop.time()) if on else None)
        world.start()
        world.loop.wake(SITUATION, lambda _: situation(world), None)
        world.loop.run_to(DEMAND)
        for number, switch in enumerate(switches):
            asked = DEMAND + number * WATCHED
            before = len(trips)
            world.wiring.force(switch, 1.0)
            world.loop.run_to(asked + WATCHED)
            world.wiring.force(switch, None)
            took = trips[before] - asked if len(trips) > before else None
            if took is None and not _tripped_already(world, before, trips):
                sentences.append(f"{safety.asset} did not trip on {switch}")
            elif took is not None and took > allowed:
                sentences.append(
                    f"{safety.asset} took {took:.1f} s to trip on {switch}, allowed {allowed:g} s"
                )
        if world.plcs[safety.asset].mode is not Mode.RUN:
            sentences.append(f"{safety.asset} no longer runs its program")
    finally:
        world.close()
    return sentences


def _tripped_already(world: World, before: int, trips: list[float]) -> bool:
    # Two switches may trip the same actuators, and a trip latches: the later demand then has nothing left to do.
    return before > 0 and len(trips) == before


# -- the situation, then an alarm that the operator must answer -----------------------------------------------------


def seconds_to_act(
    site: Site, selection: Selection, seed: int, figures: Figures, situation: Callable[[World], None]
) -> float | None:
    """From an alarm to the operator's completed action (s); None if it was not done."""
    world = built(site, selection, seed, figures)
    try:
        operator = next(iter(world.operators.values()))
        hmi = operator.hmi
        # A drill with the site's first response: the station knows no such tag and so never clears the alarm.
        drill = Alarm("DRILL", "HH", DEMAND, 0.0)
        operator.responses = {**operator.responses, drill.key: next(iter(operator.responses.values()))}

        def alarm(_: object) -> None:
            hmi.alarms[drill.key] = drill
            for told in hmi.on_alarm:
                told(drill, True)

        world.start()
        world.loop.wake(SITUATION, lambda _: situation(world), None)
        world.loop.wake(DEMAND, alarm, None)
        missed = operator.missed
        until = DEMAND
        while until < DEMAND + PATIENCE:
            until += STRIDE
            world.loop.run_to(until)
            times = [done - raised for raised, done in operator.completed if raised >= DEMAND]
            if times or operator.missed > missed:
                return times[0] if times else None
        return None
    finally:
        world.close()


def slowed(
    site: Site, selection: Selection, figures: Figures, situation: Callable[[World], None]
) -> list[str]:
    """Sentences about operators who cannot act, or act later than without controls by more than is allowed.

    Everybody takes the mean time for everything, so that what is left of a difference is the controls'.
    """
    nothing = Selection("nothing", ())
    figures = figures.with_overrides({key: 0.0 for key in figures if key.endswith(".sd")})
    base = [seconds_to_act(site, nothing, seed, figures, situation) for seed in SEEDS]
    mine = [seconds_to_act(site, selection, seed, figures, situation) for seed in SEEDS]
    failed = sum(one is None for one in mine)
    if failed:
        return [f"the operator could not act in {failed} of {len(SEEDS)} runs"]
    added = statistics.median(
        ours - theirs
        for ours, theirs in zip(mine, base, strict=True)
        if ours is not None and theirs is not None
    )
    allowed = site.essential_functions.control.deadline
    if added > allowed:
        return [f"the operator acts {added:.0f} s later than without controls, allowed {allowed:g} s"]
    return []


def seconds_to_write(site: Site, selection: Selection, figures: Figures) -> float | None:
    """How long the operator station takes to carry out a command that it accepts (s); None if it accepts none."""
    world = built(site, selection, 1, figures)
    try:
        operator = next(iter(world.operators.values()))
        hmi = operator.hmi
        action = next(iter(operator.responses.values()))[0]
        took: list[float] = []

        async def command() -> None:
            begun = world.loop.time()
            if await hmi.write(action.tag, action.value) is None:
                took.append(world.loop.time() - begun)

        world.start()
        world.loop.wake(DEMAND, lambda _: hmi.host.spawn(command(), "command"), None)
        world.loop.run_to(DEMAND + WATCHED)
        return took[0] if took else None
    finally:
        world.close()


# -- situations ------------------------------------------------------------------------------------------------------


def nothing_happens(_world: World) -> None:
    """An ordinary shift."""


def session_locked(world: World) -> None:
    """Nobody has used the operator station for long."""
    for hmi in world.hmis.values():
        if hmi.session is not None:
            hmi.session.locked = True


def nobody_logged_in(world: World) -> None:
    """The shift changes: the session is closed."""
    for hmi in world.hmis.values():
        hmi.session = None


def password_guessed_at(world: World) -> None:
    """Somebody tries wrong passwords on the operator's account, at the OPC UA server and as fast as it answers."""
    operator = next(iter(world.operators.values()))

    async def guess() -> None:
        for gateway in world.gateways.values():
            for attempt in range(12):
                client = UaClient(
                    f"opc.tcp://{gateway.host.address}:{gateway.asset.port}", operator.name, f"wrong{attempt}"
                )
                with suppress(OSError):  # refused before it was asked: nothing guessed, nothing locked
                    await client.connect()
                await client.disconnect()

    operator.hmi.host.spawn(guess(), "guesses")


def boundaries_closed(world: World) -> None:
    """Every conduit is cut at once, as in island mode or when each firewall fails closed."""
    for conduit in world.network.conduits.values():
        conduit.cut = True


def no_rights_left(world: World) -> None:
    """Every account has lost its rights."""
    if world.accounts is not None:
        for account in world.accounts.accounts.values():
            account.role = "none"


def identity_servers_dead(world: World) -> None:
    """Every central authentication server loses power."""
    for server in world.auth_servers.values():
        server.host.power_off()


def authorities_dead(world: World) -> None:
    """The certificate authority is off, and with it the list of revoked certificates; devices connect anew."""
    for authority in world.authorities.values():
        authority.host.power_off()
    for client in world.hmis[world.site.essential_functions.control.asset].clients.values():
        client.close()


def clocks_wrong(world: World) -> None:
    """Every device's clock jumps by a quarter of an hour more than an hour."""
    for clock in world.clocks.values():
        clock.adjust(4500.0)


def safety_flooded(world: World) -> None:
    """A host beside the safety PLC asks it more than it can answer."""
    name = world.site.essential_functions.safety.asset
    zone = world.network.hosts[name].zone
    host = world.network.host("flooder", zone.name, zone.free_address())
    step = Flood(action="flood", technique="T0814", plc=name, rate=600, connections=4, lasting=600)
    host.spawn(step.carry_out(Attack(world, host)), "flood")


# -- the constraints -------------------------------------------------------------------------------------------------


def _ordinary_shift(site: Site, selection: Selection, _figures: Figures) -> list[str]:
    lost = {}
    for chosen in (Selection("nothing", ()), selection):
        experiment = Experiment.of(str(site.folder), chosen, None, 1, 2400.0)
        record, _ = run(experiment)
        lost[chosen.name] = {
            name: sum(end - start for start, end in spans) for name, spans in record.lost.items()
        }
    base, mine = lost["nothing"], lost[selection.name]
    seconds = 2400.0 - WARM_UP
    return [
        f"{name} is lost for {(mine[name] - base[name]) / seconds:.1%} of an ordinary shift"
        for name in base
        if mine[name] > base[name] + 1.0
    ]


def _every_log_in_state(site: Site, selection: Selection, figures: Figures) -> list[str]:
    states = (("locked session", session_locked), ("nobody logged in", nobody_logged_in))
    return [
        f"{name}: {sentence}"
        for name, situation in states
        for sentence in slowed(site, selection, figures, situation)
    ]


def _records_in_time(site: Site, selection: Selection, figures: Figures) -> list[str]:
    about = {"SR 2.12", "SR 2.12 RE 1"}
    if not about & set(selection.requirements):
        return []
    without = replace(selection, requirements=tuple(n for n in selection.requirements if n not in about))
    on, off = seconds_to_write(site, selection, figures), seconds_to_write(site, without, figures)
    if on is None or off is None:
        return [] if off is None else ["a command is no longer carried out"]
    allowed = figures["essential.record_delay"]
    return [f"a command takes {on - off:.2f} s longer, allowed {allowed:g} s"] if on - off > allowed else []


def _trips_and_acts_in(
    situation: Callable[[World], None],
) -> Callable[[Site, Selection, Figures], list[str]]:
    return lambda site, selection, figures: [
        *demand(site, selection, figures, situation),
        *slowed(site, selection, figures, situation),
    ]


def _slowed_by(situation: Callable[[World], None]) -> Callable[[Site, Selection, Figures], list[str]]:
    return lambda site, selection, figures: slowed(site, selection, figures, situation)


def _trips_in(situation: Callable[[World], None]) -> Callable[[Site, Selection, Figures], list[str]]:
    return lambda site, selection, figures: demand(site, selection, figures, situation)


CONSTRAINTS: dict[str, Constraint] = {
    one.id: one
    for one in (
        Constraint(
            "EF-0",
            "security measures take no essential function from an unattacked plant",
            "all",
            _ordinary_shift,
        ),
        Constraint(
            "EF-1",
            "access control does not keep the operator from acting",
            "SR 1.x, SR 2.x",
            _every_log_in_state,
        ),
        Constraint(
            "EF-2",
            "an account that an essential function needs is never locked out",
            "SR 1.11",
            _slowed_by(password_guessed_at),
        ),
        Constraint(
            "EF-3",
            "recording who did what does not slow what they do",
            "SR 2.12",
            _records_in_time,
        ),
        Constraint(
            "EF-4",
            "a dead certificate authority keeps neither the safety function nor the operator from acting",
            "SR 1.8",
            _trips_and_acts_in(authorities_dead),
        ),
        Constraint(
            "EF-5",
            "identification keeps neither the safety function nor the operator from acting when its servers are dead",
            "SR 1.1, SR 1.2, SR 1.3 RE 1",
            _trips_and_acts_in(identity_servers_dead),
        ),
        Constraint(
            "EF-6",
            "authorization does not keep the safety function from acting",
            "SR 2.1",
            _trips_in(no_rights_left),
        ),
        Constraint(
            "EF-7",
            "wrong clocks keep neither the safety function nor the operator from acting",
            "SR 2.8, SR 2.11",
            _trips_and_acts_in(clocks_wrong),
        ),
        Constraint(
            "EF-8",
            "essential functions go on while the zone boundary is closed",
            "SR 5.2 RE 2, SR 5.2 RE 3",
            _trips_in(boundaries_closed),
        ),
        Constraint(
            "EF-9",
            "a flood does not keep the safety function from acting",
            "SR 7.1",
            _trips_in(safety_flooded),
        ),
    )
}


def findings(site_name: str, selection: Selection, figures: Figures | None = None) -> list[Finding]:
    """Check every constraint for ``selection`` on a site; an empty list is what one wants."""
    site, table = site_of(site_name), figures or load_figures()
    return [
        Finding(constraint.id, selection.name, sentence)
        for constraint in CONSTRAINTS.values()
        for sentence in constraint.check(site, selection, table)
    ]
