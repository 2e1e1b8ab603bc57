"""What people see of a session, as JSON: at a station, at the instructor's console.

Looking changes nothing. In particular nothing here calls ``Hmi.who``, which locks a session that has been idle: the
run would then depend on who looked at it when.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import cache
from typing import Any, Final

from controls.catalogue import catalogue
from controls.profiles import CONTROLS
from devices.accounts import User, counted_proof, one_time_code
from devices.hmi import ANYONE, Hmi
from lab.live.engine import Engine
from lab.live.mimic import is_actuator, is_measurement, range_of, sort_of, written
from lab.live.session import EVERY, Session
from scenarios.attackers import ADVERSARIES
from scenarios.model import load_scenario, scenario_names
from testbed import site as sites
from testbed.trace import Event

#: Lines of incidents, blocked packets and launches in one view, and of events in one answer.
MOST_LINES: Final = 40
MOST_EVENTS: Final = 500
#: Points of a trend that are worth sending.
MOST_POINTS: Final = 600
#: Kinds of events that the timeline shows, by lane.
LANES: Final = {
    "attack": ("attack", "goal"),
    "alert": ("alert",),
    "alarm": ("alarm", "trip"),
    "operator": ("operator", "console"),
    "plant": ("function", "envelope", "plc"),
    "outside": ("outside",),
    "lab": ("lab", "event", "response"),
}
_LANE_OF: Final = {kind: lane for lane, kinds in LANES.items() for kind in kinds}


def published(engine: Engine) -> Mapping[str, bytes]:
    """All views of this moment by name: a station's under its own name, the console's under "console"."""
    clock = _clock(engine)
    session = engine.session
    found = {name: _json({**clock, **_station(session, name)}) for name in session.world.hmis}
    found["console"] = _json({**clock, **_console(session)})
    return found


def _json(what: Mapping[str, Any]) -> bytes:
    return json.dumps(what, separators=(",", ":"), allow_nan=False).encode()


def _clock(engine: Engine) -> dict[str, Any]:
    session = engine.session
    return {
        "t": round(session.now, 3),
        "civil": (session.world.site.epoch + timedelta(seconds=session.now)).strftime("%Y-%m-%d %H:%M:%S"),
        "state": engine.state,
        "speed": engine.pace.speed,
        "reached": round(engine.pace.reached, 2),
        "rewinding": engine.rewinding,
        "failure": engine.failure,
        "end": session.setup.experiment.duration,
        "sl": session.setup.experiment.profile,
    }


# -- a station -----------------------------------------------------------------------------------------------------


def at_screen(hmi: Hmi) -> tuple[User | None, bool]:
    """Who is logged in at the screen now, and whether their session is locked; it stays as it is."""
    session = hmi.session
    if hmi.seams.accounts is None:
        return ANYONE, False
    if session is None:
        return None, False
    idle = hmi.loop.time() - session.last_action
    locked = session.locked or (hmi.seams.lock_after is not None and idle >= hmi.seams.lock_after)
    return session.user, locked


def _station(session: Session, name: str) -> dict[str, Any]:
    hmi = session.world.hmis[name]
    user, locked = at_screen(hmi)
    accounts = hmi.seams.accounts
    operator = session.world.operators.get(name)
    values = {tag: _number(hmi.values.get(tag)) for tag in hmi.tags()}
    lock = hmi.seams.lock_after
    return {
        "up": hmi.host.up,
        "user": {"name": user.name, "role": user.role} if user is not None else None,
        "locked": locked,
        "locks_in": (
            round(max(0.0, lock - (session.now - hmi.session.last_action)))
            if lock is not None and hmi.session is not None and not locked
            else None
        ),
        "asks": accounts is not None,
        "code": accounts is not None and accounts.rules.needs_code(hmi.host.address),
        "notice": hmi.seams.notice,
        "seat": operator is None or not operator.present.is_set(),
        "values": values,
        "stale": [plc for plc in hmi.asset.polls if session.now - hmi.fresh[plc] > hmi.stale_after],
        "alarms": [
            {
                "key": entry.alarm.key,
                "tag": entry.alarm.tag,
                "level": entry.alarm.level,
                "priority": entry.priority,
                "state": state,
                "standing": entry.standing,
                "raised": round(entry.alarm.raised, 1),
                "value": _number(entry.alarm.value),
                "until": round(entry.shelved_until, 1) if state == "shelved" else None,
            }
            for entry, state in session.alarms[name].shown()
        ],
    }


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 6)


def described(session: Session, name: str) -> dict[str, Any]:
    """What a page needs to know of a station once: its tags, what they are, and which are worth a trend."""
    world = session.world
    hmi = world.hmis[name]
    tags = hmi.tags()
    owner = {tag: plc for plc in hmi.asset.polls for tag in world.site.controllers()[plc].tags}
    view = world.site.essential_functions.view
    wanted = (
        [tag for plc in view.tags.values() for tag in plc if is_measurement(tags[tag])]
        if view.asset == name
        else []
    )
    return {
        "station": name,
        "title": world.site.title,
        "tags": {tag: _described(session, tags, tag, owner[tag]) for tag in tags},
        "trends": (wanted or [tag for tag in tags if is_measurement(tags[tag])])[:4],
        "responses": {
            key: [f"{step.tag} := {step.value:g}" for step in steps]
            for key, steps in hmi.asset.responses.items()
        },
    }


def _described(session: Session, tags: dict[str, sites.Tag], name: str, plc: str) -> dict[str, Any]:
    tag = tags[name]
    kind = (
        sort_of(name, tag)
        if is_actuator(name, tag)
        else "measurement"
        if is_measurement(tag)
        else "switch"
        if tag.format == "bool"
        else "number"
    )
    return {
        "plc": plc,
        "kind": kind,
        "unit": written(tag.unit),
        "about": tag.description,
        "states": _states(tag.description),
        "bool": tag.format == "bool",
        "digits": max(0, min(3, round(-math.log10(tag.scale)))) if tag.format != "bool" else 0,
        "writable": tag.writable,
        "range": list(tag.range) if tag.range is not None else None,
        "scale": [round(end, 6) for end in range_of(session.world.site, tags, name)]
        if is_measurement(tag)
        else None,
        "limits": dict(tag.alarms.limits) if tag.alarms is not None else {},
        "auto": f"{name}_AUTO" if f"{name}_AUTO" in tags else None,
        "command": f"{name}_CMD" if f"{name}_CMD" in tags else None,
        "setpoints": _setpoints(session, name, plc) if is_measurement(tag) else [],
    }


def _setpoints(session: Session, name: str, plc: str) -> list[str]:
    """Setpoints of a measurement: named after it, else those of its controller in the same unit that fit no other."""
    tags = session.world.site.controllers()[plc].tags
    ending = [one for one in tags if one.endswith("_SP") and tags[one].writable]
    mine = [one for one in ending if one.startswith(f"{name}_")]
    unit = tags[name].unit
    alike = [one for one, tag in tags.items() if is_measurement(tag) and tag.unit == unit]
    return mine or [
        one
        for one in ending
        if tags[one].unit == unit
        and not any(one.startswith(f"{other}_") for other in tags)
        and (len(alike) == 1 or one[0] == name[0])
    ]


def _states(description: str) -> dict[str, str]:
    """What the numbers of a tag mean, where it is described so: "0 off, 1 filtration, 2 backwash"."""
    parts = [re.fullmatch(r"(\d+) ([a-z][a-z ]*)", part) for part in description.split(", ")]
    return {part[1]: part[2] for part in parts if part is not None} if all(parts) else {}


def trend(session: Session, name: str, tags: list[str], seconds: float) -> dict[str, Any]:
    """Values of the last ``seconds`` of tags at a station, thinned to what a screen shows; null where stale."""
    times = list(session.times)
    first = next((at for at, t in enumerate(times) if t >= session.now - seconds), len(times))
    every = max(1, math.ceil((len(times) - first) / MOST_POINTS))
    known = session.history[name]
    return {
        "every": every * EVERY,
        "t": times[first::every],
        "values": {
            tag: [_number(one) for one in list(known[tag])[first::every]] for tag in tags if tag in known
        },
    }


def card(session: Session, name: str) -> dict[str, Any]:
    """What the person on shift carries: name, password, and what their token gives now, where any is asked for."""
    world = session.world
    hmi = world.hmis[name]
    accounts, operator = hmi.seams.accounts, world.operators.get(name)
    if accounts is None or operator is None:
        return {"user": "", "password": "", "code": None, "lasts": None}
    return {"user": operator.name, "password": operator.password, **_token(session, hmi, operator.name)}


def _token(session: Session, hmi: Hmi, user: str) -> dict[str, Any]:
    accounts = hmi.seams.accounts
    account = accounts.accounts.get(user) if accounts is not None else None
    if accounts is None or account is None or account.totp_secret is None:
        return {"code": None, "lasts": None}
    if accounts.rules.counted:
        return {"code": counted_proof(account.totp_secret, account.last_counter + 1), "lasts": None}
    moment = session.world.site.epoch.timestamp() + session.now
    return {"code": one_time_code(account.totp_secret, moment), "lasts": round(30 - moment % 30)}


# -- the console ---------------------------------------------------------------------------------------------------


def _console(session: Session) -> dict[str, Any]:
    world, watch = session.world, session.course.watch
    incidents = [one for desk in world.desks.values() for one in desk.incidents]
    return {
        "functions": {name: one.since is None for name, one in watch.watches.items()},
        "envelope": {name: one.since is None for name, one in watch.unsafe.items()},
        "launched": [
            {
                "number": one.number,
                "name": one.name,
                "title": one.title,
                "time": round(one.time, 1),
                "running": one.running,
                "stoppable": one.running and one.stoppable,
                "stopped": one.stopped,
                "done": one.attack.state.succeeded,
                "refused": one.attack.state.refused,
            }
            for one in session.launched[-MOST_LINES:]
        ],
        "incidents": [
            {
                "id": one.id,
                "opened": round(one.opened, 1),
                "severity": one.severity,
                "alerts": len(one.alerts),
                "rules": list(one.rules)[:4],
                "subjects": [world.name_of(subject) for subject in one.subjects[:4]],
                "techniques": list(one.techniques)[:6],
                "verdict": one.verdict,
            }
            for one in incidents[-MOST_LINES:]
        ],
        "blocked": [
            {
                "t": round(one.time, 2),
                "link": one.link,
                "flow": f"{one.source} → {one.target}:{one.port}/{one.protocol}",
                "why": f"{one.reason} ({one.verdict})",
            }
            for one in list(session.blocked)[-MOST_LINES:]
        ],
        "blocked_count": session.blocked_count,
        "connections": [
            {"number": number, "sent": one.sent, "received": one.received}
            for number, one in sorted(session.bridges.items())
        ],
        "events": len(session.trace.events),
        "stations": {
            name: {
                "user": user.name if (user := at_screen(hmi)[0]) is not None else None,
                "locked": at_screen(hmi)[1],
                "alarms": len(hmi.alarms),
                "up": hmi.host.up,
            }
            for name, hmi in world.hmis.items()
        },
    }


@cache
def offered(site: str) -> tuple[dict[str, Any], ...]:
    """Shipped scenarios that a site of that name can have; reading them all takes a second, so it is done once."""
    return tuple(
        {"name": one.name, "title": one.title, "attacker": one.attacker is not None, "summary": one.summary}
        for one in map(load_scenario, scenario_names())
        if one.site in (None, site)
    )


def catalogue_of(session: Session) -> dict[str, Any]:
    """What the console offers: scenarios that this site can have, faults, requirements, and what stands open."""
    world, experiment = session.world, session.setup.experiment
    return {
        "title": world.site.title,
        "stations": list(world.hmis),
        "scenarios": list(offered(world.site.name)),
        "attackers": list(ADVERSARIES),
        "faults": list(faults(session)),
        "in_force": list(world.requirements),
        "requirements": [
            {"id": one.id, "title": one.title, "sl": one.min_sl, "fr": one.fr}
            for one in catalogue().values()
            if one.id in CONTROLS
        ],
        "profile": experiment.profile,
        "seed": experiment.seed,
        "attachments": [str(one) for one in session.setup.attachments],
        "lanes": list(LANES),
    }


def faults(session: Session) -> Iterator[dict[str, Any]]:
    """What may break at this site, each as the step that breaks it."""
    site = session.world.site
    for sensor, instrument in site.plant.sensors.items():
        span = instrument.high - instrument.low
        for how, amount, text in (
            ("stuck", 0.0, "sticks at its value"),
            ("bias", round(span / 10, 4), f"reads {span / 10:g} {instrument.unit} too much"),
            ("dead", 0.0, "gives no signal"),
        ):
            step = {"action": "sensor_fails", "sensor": sensor, "how": how, "amount": amount, "lasting": 300}
            yield {"group": "Instruments", "text": f"{sensor} {text}", "step": step}
    for conduit in site.conduits:
        step = {"action": "network_outage", "conduit": conduit, "lasting": 120}
        yield {"group": "Network", "text": f"{conduit} is cut", "step": step}
        if session.world.boundaries[conduit].armed:
            step = {"action": "firewall_fails", "conduit": conduit, "lasting": 120}
            yield {"group": "Network", "text": f"firewall of {conduit} fails", "step": step}
    for switch in site.switches.values():
        step = {"action": "cabling_loop", "zone": switch.zones[0], "lasting": 60}
        yield {"group": "Network", "text": f"loop of cables in {switch.zones[0]}", "step": step}
    for name, asset in site.assets.items():
        if isinstance(asset, sites.Hmi):
            step = {"action": "restart_station", "station": name, "lasting": 30}
            yield {"group": "Stations", "text": f"{name} restarts", "step": step}


def people(session: Session) -> list[dict[str, Any]]:
    """Everybody's account and password, for the instructor, with what each token gives now."""
    world = session.world
    hmi = next(iter(world.hmis.values()), None)
    store = hmi.seams.accounts if hmi is not None else None
    if hmi is None or store is None:
        return []
    return [
        {"user": name, "role": one.role, "password": world.passwords.get(name), **_token(session, hmi, name)}
        for name, one in store.accounts.items()
        if not one.program
    ]


def events(session: Session, begin: int, most: int = MOST_EVENTS) -> dict[str, Any]:
    """Events of the timeline from number ``begin`` on, and the number to go on from."""
    every = session.trace.events
    found: list[dict[str, Any]] = []
    at = max(0, begin)
    while at < len(every) and len(found) < most:
        event = every[at]
        lane = _LANE_OF.get(event.kind.partition(".")[0])
        if lane is not None:
            found.append(_told(event, lane))
        at += 1
    return {"next": at, "events": found}


def _told(event: Event, lane: str) -> dict[str, Any]:
    data = {key: value for key, value in event.data.items() if value not in (None, "", ())}
    text = ", ".join(f"{key} {_short(value)}" for key, value in data.items())
    return {
        "t": round(event.time, 2),
        "lane": lane,
        "kind": event.kind,
        "source": event.source,
        "text": text[:240],
        "bad": data.get("outcome") == "done" and event.kind == "attack.step",
    }


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
