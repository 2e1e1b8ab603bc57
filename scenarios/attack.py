"""What a step of a scenario is, and what it acts with.

A step knows what somebody who has studied the site would know (addresses, tags, scales) and nothing about which
controls are in force; it finds out by trying. Steps of one kind live together in a module of ``scenarios.steps``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from devices.world import World
from testbed.document import Document
from testbed.errors import OtlabError
from testbed.network import Host
from testbed.site import Site

Technique = Annotated[str, StringConstraints(pattern=r"^T\d{4}$")]
Seconds = Annotated[float, Field(gt=0)]


@dataclass(slots=True)
class AttackState:
    """How far the attack has come; what was reached and what was refused."""

    first_action: float | None = None
    succeeded: int = 0
    refused: int = 0


@dataclass(slots=True)
class Attack:
    """One scenario running in one world.

    ``attacker`` is the machine that the attacker acts from, None in a scenario of faults and people only. ``found``
    is what earlier steps got hold of and later steps may use: credentials, sessions, addresses.
    """

    world: World
    attacker: Host | None
    state: AttackState = field(default_factory=AttackState)
    found: dict[str, object] = field(default_factory=dict)

    @property
    def host(self) -> Host:
        """The attacker's machine; OtlabError if the scenario has none."""
        if self.attacker is None:
            raise OtlabError(
                "this scenario has no attacker, and one of its steps needs a machine to act from"
            )
        return self.attacker

    def note(self, step: Step, outcome: str, **data: object) -> None:
        """Record what a step did: "done" reached what it wanted, "refused" and "failed" did not; others only tell."""
        if outcome == "done":
            self.state.succeeded += 1
        elif outcome in ("refused", "failed"):
            self.state.refused += 1
        source = self.attacker.name if self.attacker is not None else "site"
        self.world.trace.record(
            "attack.step" if step.hostile else "event.step",
            source,
            technique=step.technique,
            action=step.action,
            outcome=outcome,
            **data,
        )


class Step(Document):
    """What every step says: its action, technique, and when it starts, in seconds after the step before it ended.

    A subclass adds its own fields, ``action`` as a Literal, and says in ``carry_out`` what it does; ``hostile`` is
    False for what happens without an attacker (faults, people at work), which has no technique and needs no machine.
    """

    hostile: ClassVar[bool] = True

    action: str
    technique: Technique | None = None
    after: Annotated[float, Field(ge=0)] = 0.0

    def lacks(self, site: Site) -> Iterator[str]:
        """Sentences about what the step names and ``site`` does not have."""
        yield from ()

    async def carry_out(self, attack: Attack) -> None:
        """Do it. What the network and devices answer is a value or an OSError, and is noted; nothing is raised."""
        raise NotImplementedError(self.action)
