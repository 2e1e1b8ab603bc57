"""What a step of a scenario is, and what it acts with.

A step knows what somebody who has studied the site would know (addresses, tags, scales) and nothing about which
controls are in force; it finds out by trying. Steps of one kind live together in a module of ``scenarios.steps``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from devices.world import World
from scenarios.attackers import Profile
from testbed.document import Document
from testbed.errors import OtlabError
from testbed.network import Host
from testbed.site import Name, Site

Technique = Annotated[str, StringConstraints(pattern=r"^T\d{4}$")]
Seconds = Annotated[float, Field(gt=0)]
#: How a step ended: it reached what it wanted, was kept from it, was not tried, or only went by (nothing to reach).
Outcome = Literal["done", "refused", "failed", "skipped", "over"]
#: What a step needs or leaves: "host:ews1", "account:operator1", "presence:control room", or a key of ``found``.
Fact = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z ]*(:.+)?$")]


class Spread(Document):
    """A time that is never twice the same: log-normal, ``mean`` and ``sd`` in s."""

    mean: Seconds
    sd: Seconds


@dataclass(slots=True)
class AttackState:
    """How far the attack has come; what was reached and what was refused."""

    first_action: float | None = None
    succeeded: int = 0
    refused: int = 0
    #: why the attacker stopped before the last step, None if it did not
    gave_up: str | None = None


@dataclass(slots=True)
class Attack:
    """One scenario running in one world.

    ``attacker`` is the machine that the attacker acts from, None in a scenario of faults and people only. ``found``
    is what earlier steps got hold of and later steps may use: credentials, sessions, addresses. ``profile`` is who
    the attacker is, None for one who can do all that the scenario says.
    """

    world: World
    attacker: Host | None
    state: AttackState = field(default_factory=AttackState)
    found: dict[str, object] = field(default_factory=dict)
    profile: Profile | None = None
    #: what the attacker has reached, as facts in the order of reaching
    facts: dict[str, None] = field(default_factory=dict)
    #: how each labeled step ended
    ended: dict[str, Outcome] = field(default_factory=dict)
    #: its programs, for whoever stops it
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    #: the best that each step has come to so far, by its identity
    _best: dict[int, Outcome] = field(default_factory=dict)

    @property
    def host(self) -> Host:
        """The machine that the attacker acts from; OtlabError if the scenario has none."""
        if self.attacker is None:
            raise OtlabError(
                "this scenario has no attacker, and one of its steps needs a machine to act from"
            )
        return self.attacker

    @property
    def stream(self) -> random.Random:
        """Draws of this attacker's: times, and whether an exploit is ready."""
        return self.world.stream("attacker")

    @property
    def strength(self) -> float:
        """How many times the connections, rates and tries of a scenario as written are brought to bear."""
        return self.profile.strength if self.profile is not None else 1.0

    def gain(self, fact: str) -> None:
        """The attacker has reached something: ``host:ews1``, ``account:operator1``, ``presence:control room``."""
        if fact not in self.facts:
            self.facts[fact] = None
            self.world.trace.record("attack.gained", self._source(), what=fact)

    def has(self, fact: str) -> bool:
        """Whether the attacker has reached something, or found it."""
        return fact in self.facts or fact in self.found

    def holds(self, asset: str) -> bool:
        """Whether the attacker can run programs on ``asset``."""
        return f"host:{asset}" in self.facts or (self.attacker is not None and self.attacker.name == asset)

    def from_host(self, host: Host) -> Attack:
        """The same attack, acting from ``host``."""
        return replace(self, attacker=host)

    def stop(self) -> None:
        """End its programs and stand between nobody any more; what it has done stays done."""
        for task in self.tasks:
            task.cancel()
        if self.attacker is not None:
            self.attacker.withdraw_all()

    def outcome(self, step: Step) -> Outcome:
        """How ``step`` has gone since it was last begun."""
        return self._best.get(id(step), "over")

    def begin(self, step: Step) -> None:
        """Forget how ``step`` went before."""
        self._best.pop(id(step), None)

    def note(self, step: Step, outcome: str, **data: object) -> None:
        """Record what a step did: "done" reached what it wanted, "refused" and "failed" did not; others only tell."""
        if outcome == "done":
            self.state.succeeded += 1
            self._best[id(step)] = "done"
        elif outcome in ("refused", "failed"):
            self.state.refused += 1
            if self._best.get(id(step)) != "done":
                self._best[id(step)] = "refused" if outcome == "refused" else "failed"
        if step.also:
            data = {**data, "also": ",".join(step.also)}
        self.world.trace.record(
            "attack.step" if step.hostile else "event.step",
            self._source(),
            technique=step.technique,
            action=step.action,
            outcome=outcome,
            **data,
        )

    def _source(self) -> str:
        return self.attacker.name if self.attacker is not None else "site"


class Step(Document):
    """What every step says: its action, its ATT&CK for ICS technique, and when and whether it is done.

    ``after`` is when it starts, in s after the step before it ended. ``by`` is the asset that it acts from: one that
    the attacker has reached by then. ``needs`` are facts without which it is not tried; ``only_if`` maps the ``label``
    of an earlier step to how that must have ended. A step that is refused is tried again ``retries`` times, ``pause`` s
    apart. With ``meanwhile``, later steps do not wait for it. ``also`` are further techniques that it shows.

    A subclass adds its own fields, ``action`` as a Literal, and says in ``carry_out`` what it does; ``hostile`` is
    False for what happens without an attacker (faults, people at work), which has no technique and needs no machine.
    ``exploit`` is True for one that takes a vulnerability which the attacker has to have worked out beforehand.
    """

    hostile: ClassVar[bool] = True
    exploit: ClassVar[bool] = False

    action: str
    technique: Technique | None = None
    also: tuple[Technique, ...] = ()
    after: Annotated[float, Field(ge=0)] | Spread = 0.0
    label: Name | None = None
    by: Name | None = None
    needs: tuple[Fact, ...] = ()
    only_if: dict[Name, Outcome | Literal["not done"]] = Field(default_factory=dict)
    retries: Annotated[int, Field(ge=0, le=1000)] = 0
    pause: Seconds = 60.0
    meanwhile: bool = False

    def lacks(self, site: Site) -> Iterator[str]:
        """Sentences about what the step names and ``site`` does not have."""
        yield from ()

    async def carry_out(self, attack: Attack) -> None:
        """Do it. What the network and devices answer is a value or an OSError, and is noted; nothing is raised."""
        raise NotImplementedError(self.action)
