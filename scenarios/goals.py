"""What an attacker wants, and when it was so: goals are looked at by the run, never told to the attacker.

The impact techniques of ATT&CK for ICS (loss of view, of control, of safety, damage) are no acts but effects: a goal
names one, and reaching it is what shows that technique.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from devices.plc import Mode
from devices.world import World
from scenarios.attack import Technique
from testbed import site as sites
from testbed.document import Document
from testbed.site import Name, Site, Text
from testbed.units import from_si

#: Seconds between two looks.
PERIOD = 1.0


class Goal(Document):
    """One effect: exactly one of the ways below to say it, held for ``lasting`` s together.

    ``lost``: an essential function is not there (production: less than half of what is expected); ``unsafe``: any
    signal of the safe envelope is outside it; ``signal`` of the plant ``above`` or ``below`` a value (SI);
    ``trip``: the safety system tripped a target, or any; ``off``: an asset has no power or has shut down;
    ``stopped``: a controller does not run its logic; ``disclosed``: so many items reached somebody whom they are not
    for; ``blind``: the display of a tag at a station is off from what the plant really does by more than ``above``.
    """

    technique: Technique | None = None
    lost: Literal["view", "control", "safety", "production"] | None = None
    unsafe: Literal["any"] | None = None
    signal: Text | None = None
    above: float | None = None
    below: float | None = None
    trip: str | None = None
    off: Name | None = None
    stopped: Name | None = None
    disclosed: Annotated[int, Field(ge=1)] | None = None
    blind: Name | None = None
    tag: str | None = None
    lasting: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _one_way(self) -> Goal:
        ways = {
            "lost": self.lost,
            "unsafe": self.unsafe,
            "signal": self.signal,
            "trip": self.trip,
            "off": self.off,
            "stopped": self.stopped,
            "disclosed": self.disclosed,
            "blind": self.blind,
        }
        said = [name for name, value in ways.items() if value is not None]
        if len(said) != 1:
            raise ValueError(f"give one of {', '.join(ways)}")
        if self.signal is not None and (self.above is None) == (self.below is None):
            raise ValueError("a signal is above or below a value")
        if self.blind is not None and (self.tag is None or self.above is None):
            raise ValueError("a blind station is off at a tag by above some amount")
        return self

    def title(self) -> str:
        """The goal in a few words."""
        if self.lost is not None:
            return f"{self.lost} lost for {self.lasting:g} s"
        if self.unsafe is not None:
            return f"outside the safe envelope for {self.lasting:g} s"
        if self.signal is not None:
            side = f"above {self.above:g}" if self.above is not None else f"below {self.below:g}"
            return f"{self.signal} {side}" + (f" for {self.lasting:g} s" if self.lasting else "")
        if self.trip is not None:
            return "a trip" if self.trip == "any" else f"{self.trip} tripped"
        if self.off is not None:
            return f"{self.off} off"
        if self.stopped is not None:
            return f"{self.stopped} does not run"
        if self.disclosed is not None:
            return f"{self.disclosed} items disclosed"
        return f"{self.blind} shows a false {self.tag}"

    def lacks(self, site: Site) -> str | None:
        """What ``site`` does not have of it."""
        for name in (self.off, self.stopped, self.blind):
            if name is not None and name not in site.assets:
                return f"site {site.name!r} has no asset {name!r}"
        if self.stopped is not None and self.stopped not in site.controllers():
            return f"{self.stopped} is no controller"
        if self.blind is not None:
            if not isinstance(site.assets[self.blind], sites.Hmi):
                return f"{self.blind} is no operator station"
            if self.tag not in site.plant.sensors or not any(
                self.tag in one.tags for one in site.controllers().values()
            ):
                return f"site {site.name!r} has no measured tag {self.tag!r}"
        return None


class GoalWatch:
    """Looks once a second which goals are met; ``met`` is when each first was, by its number."""

    def __init__(self, world: World, goals: tuple[Goal, ...], lost: Mapping[str, Callable[[], bool]]) -> None:
        self.world, self.goals = world, goals
        self.met: dict[int, float] = {}
        self._since: dict[int, float] = {}
        self._lost = lost
        self._looks = [self._look(goal) for goal in goals]

    def start(self, begin: float) -> None:
        """Look from second ``begin`` on."""
        self.world.loop.wake(begin, self._tick, begin)

    def _tick(self, due: float) -> None:
        for number, (goal, look) in enumerate(zip(self.goals, self._looks, strict=True)):
            if number in self.met:
                continue
            if not look():
                self._since.pop(number, None)
                continue
            since = self._since.setdefault(number, due)
            if due - since >= goal.lasting:
                self.met[number] = since if not goal.lasting else due
                self.world.trace.record("goal", "attack", what=goal.title(), technique=goal.technique)
        if len(self.met) < len(self.goals):
            self.world.loop.wake(due + PERIOD, self._tick, due + PERIOD)

    def _look(self, goal: Goal) -> Callable[[], bool]:
        world = self.world
        if goal.lost is not None:
            return self._lost[goal.lost]
        if goal.unsafe is not None:
            return self._lost["envelope"]
        if goal.signal is not None:
            value, signal = world.plant.value, goal.signal
            if goal.above is not None:
                limit = goal.above
                return lambda: value(signal) > limit
            assert goal.below is not None
            floor = goal.below
            return lambda: value(signal) < floor
        if goal.off is not None:
            host = world.network.hosts[goal.off]
            return lambda: not host.up
        if goal.stopped is not None:
            plc = world.plcs[goal.stopped]
            return lambda: not plc.host.up or plc.mode is not Mode.RUN
        if goal.blind is not None:
            return self._blind(goal)
        return self._counted(goal)

    def _blind(self, goal: Goal) -> Callable[[], bool]:
        """The station shows the tag fresh, and it is not what the plant's own signal is."""
        assert goal.blind is not None
        assert goal.tag is not None
        assert goal.above is not None
        world, limit, name = self.world, goal.above, goal.tag
        shown, value = world.hmis[goal.blind].values, world.plant.value
        tag = next(one.tags[name] for one in world.site.controllers().values() if name in one.tags)
        signal, unit = world.wiring.sensors[name].spec.signal, tag.unit
        return lambda: name in shown and abs(shown[name] - from_si(value(signal), unit)) > limit

    def _counted(self, goal: Goal) -> Callable[[], bool]:
        """Trips and disclosures, as the trace has them; read on from where the last look ended."""
        events = self.world.trace.events
        place, amount = 0, 0

        def look() -> bool:
            nonlocal place, amount
            for event in events[place:]:
                if goal.trip is not None:
                    if (
                        event.kind == "trip"
                        and event.data["on"]
                        and goal.trip in ("any", event.data["target"])
                    ):
                        amount += 1
                elif event.kind == "disclosed":
                    amount += int(event.data["amount"])
            place = len(events)
            return amount >= (goal.disclosed or 1)

        return look
