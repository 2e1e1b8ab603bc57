"""Emergencies: a loop goes wrong and stays wrong until a person puts it right, at the screen or at a panel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from devices.operator import Action
from scenarios.attack import Attack, Step
from testbed import site as sites
from testbed.site import Name, Number, Site, TagName, Text

Values = Annotated[dict[TagName, Number], Field(min_length=1)]


class LoopFails(Step):
    """A controller of ``plc`` fails to manual with ``sets`` in force, as after a fault of its positioner.

    Nothing but a person ends it: the operator at ``hmi`` knows that ``alarm`` (TAG:LEVEL) means to write ``answer``.
    """

    hostile = False

    action: Literal["loop_fails"]
    plc: Name
    sets: Values
    hmi: Name
    alarm: Text
    answer: Values

    def lacks(self, site: Site) -> Iterator[str]:
        controllers = site.controllers()
        if self.plc not in controllers:
            yield f"site {site.name!r} has no controller {self.plc!r}"
            return
        tags = controllers[self.plc].tags
        for tag in (*self.sets, *self.answer):
            if tag not in tags or not tags[tag].writable:
                yield f"{self.plc} has no tag {tag!r} that can be written"
        name, _, level = self.alarm.partition(":")
        alarms = tags[name].alarms if name in tags else None
        if alarms is None or level not in alarms.limits:
            yield f"{self.plc} has no alarm {self.alarm!r}"
        if not isinstance(site.assets.get(self.hmi), sites.Hmi):
            yield f"site {site.name!r} has no HMI {self.hmi!r}"

    async def carry_out(self, attack: Attack) -> None:
        world = attack.world
        actions = [Action(tag, float(value)) for tag, value in self.answer.items()]
        operator = world.operators.get(self.hmi)
        if operator is not None:
            for one in (operator, *(() if operator.colleague is None else (operator.colleague,))):
                one.responses = {**one.responses, self.alarm: actions}
        for tag, value in self.sets.items():
            world.plcs[self.plc].set_at_panel(tag, float(value))
        attack.note(self, "done", target=self.plc)
