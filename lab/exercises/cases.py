"""What a student is given to investigate: a run of his own, and the truth about it, which stays here.

Attack, its zone and its moment are drawn from the student's number. The truth is read from the bytes of the run and
from its trace, never typed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from controls.catalogue import SecurityLevels
from devices.world import World
from lab.exercises.model import Case, Exercise, Truth
from results.store import save_text
from scenarios.experiment import Course, Experiment, prepare, site_of
from scenarios.model import Scenario, load_scenario
from testbed.capture import Capture
from testbed.errors import OtlabError
from testbed.network import Link, Packet
from testbed.randomness import Randomness
from testbed.trace import Event, Trace

_WRITES: Final = frozenset({5, 6, 15, 16})
#: Kinds of events that a collector of records gets; what an attacker did is not among them.
_COLLECTED: Final = ("log", "alert", "incident")
#: Names of the files that are handed out.
FILES: Final[Mapping[str, str]] = {"pcap": "capture.pcapng", "alerts": "siem.jsonl"}


@dataclass(slots=True)
class _Seen:
    """Writes of the attacker's machine to controllers, as they first cross a link: (time, target, function)."""

    port: int
    writes: list[tuple[float, str, int]] = field(default_factory=list)
    latest: Packet | None = None

    def look(self, _link: Link, packet: Packet) -> None:
        flow = packet.flow
        if packet is self.latest or packet.reply or flow.target_port != self.port:
            return
        if not flow.source_name.startswith("rogue"):
            return
        self.latest = packet
        if len(packet.payload) > 7 and packet.payload[7] in _WRITES:
            self.writes.append((packet.time, flow.target_name or flow.target, packet.payload[7]))


def draw(exercise: Exercise, seed: int) -> tuple[Scenario, float]:
    """The attack of this student's case, and the virtual second of its first step."""
    case = _case(exercise)
    stream = Randomness(seed).stream("case")
    name = stream.choice(case.scenarios)
    zone = stream.choice(case.zones)
    begin = round(stream.uniform(*case.begin), 1)
    scenario = load_scenario(name, site_of(exercise.site))
    if scenario.attacker is None or scenario.attacker.zone is None:
        raise OtlabError(f"{exercise.name}: {name} has no attacker with a machine of its own")
    return (
        scenario.model_copy(
            update={"start": begin, "attacker": scenario.attacker.model_copy(update={"zone": zone})}
        ),
        begin,
    )


def investigate(exercise: Exercise, seed: int, folder: Path | None = None) -> dict[Truth, Any]:
    """Run the case; write what is handed out into ``folder``, if given, and return the truth that is asked for."""
    case = _case(exercise)
    scenario, _ = draw(exercise, seed)
    experiment = Experiment.at_level(
        exercise.site, SecurityLevels.uniform(case.level), None, seed, case.duration
    )
    world, _none = prepare(experiment)
    capture = None
    seen = _Seen(port=502)
    try:
        if folder is not None and "pcap" in case.hands_out:
            capture = Capture(folder / FILES["pcap"], world.site.epoch)
            capture.attach(world.network)
        for link in world.network.links():
            link.add_tap(seen.look)
        course = Course(world, experiment)
        course.start(scenario)
        world.loop.run_to(case.duration)
        asked = {check.truth for task in exercise.tasks for check in task.checks if check.check == "answer"}
        try:
            truths = {name: _TRUTHS[name](world, seen) for name in sorted(asked)}
        except (StopIteration, IndexError):
            raise OtlabError(
                f"{exercise.name}: {scenario.name} leaves nothing to find in this case"
            ) from None
        if folder is not None and "alerts" in case.hands_out:
            save_text(folder / FILES["alerts"], "".join(f"{line}\n" for line in _collected(world.trace)))
    finally:
        world.close()
        if capture is not None:
            capture.close()
    return truths


def _case(exercise: Exercise) -> Case:
    if exercise.case is None:
        raise OtlabError(f"{exercise.name} hands out nothing to investigate")
    return exercise.case


def _collected(trace: Trace) -> list[str]:
    return [event.to_json() for event in trace.of_kind(*_COLLECTED)]


# -- the truth -----------------------------------------------------------------------------------------------------


def _attacker(world: World, _seen: _Seen) -> str:
    return next(host.address for name, host in world.network.hosts.items() if name.startswith("rogue"))


def _target(world: World, _seen: _Seen) -> str:
    return next(str(event.data["target"]) for event in world.trace.of_kind("attack.step"))


def _first(world: World, seen: _Seen) -> float:
    return seen.writes[0][0]


def _count(_world: World, seen: _Seen) -> int:
    return len(seen.writes)


def _function(_world: World, seen: _Seen) -> int:
    return seen.writes[0][2]


def _about(world: World, seen: _Seen) -> Event:
    """The first alert about the attacker's address."""
    address = _attacker(world, seen)
    return next(event for event in world.trace.of_kind("alert") if event.data.get("subject") == address)


_TRUTHS: Final[Mapping[Truth, Callable[[World, _Seen], Any]]] = {
    "attacker_address": _attacker,
    "target": _target,
    "first_write": _first,
    "writes": _count,
    "written_function": _function,
    "first_alert": lambda world, seen: _about(world, seen).time,
    "alerted_subject": lambda world, seen: str(_about(world, seen).data["subject"]),
}
