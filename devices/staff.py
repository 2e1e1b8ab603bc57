"""The people of the site: who is where, what they have been told to expect, and what they answer when asked.

A request that was announced (a work order, a call from the person in charge) is granted; one that nobody announced is
refused, but for the share of mistakes that people make. Answers take a drawn time, which depends on whether the person
asked is in the control room or has to be reached.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from testbed.figures import Figures

#: How a request reaches a person: across the room, or by telephone.
Way: TypeAlias = Literal["same_room", "on_call"]
Place: TypeAlias = Literal["control room", "on call", "away"]
#: The role of whoever may be the second person of a dual approval.
APPROVER: Final = "approver"


def request_to_write(tag: str, value: float) -> str:
    """What a second person is asked before a tag is written."""
    return f"write {value:g} to {tag}"


def request_to_lift(user: str, tag: str) -> str:
    """What a supervisor is asked when a person's rights do not reach."""
    return f"let {user} write {tag}"


def request_to_change(plc: str, what: str) -> str:
    """What a second person is asked before an engineering station changes a controller."""
    return f"{what} of {plc}"


@dataclass(slots=True)
class Person:
    """One of the staff; ``deputy_for`` are roles, beside their own, that they may answer for."""

    name: str
    role: str
    place: Place = "control room"
    deputy_for: frozenset[str] = frozenset()

    def answers_for(self, role: str) -> bool:
        """Whether a request to ``role`` may be decided by this person."""
        return role == self.role or role in self.deputy_for


@dataclass(frozen=True, slots=True)
class Answer:
    """What somebody said to a request, and how long (s) it took from asking."""

    person: str
    request: str
    granted: bool
    seconds: float


@dataclass(slots=True)
class StaffSeams:
    """What controls may decide about people."""

    #: whether a person of whom a scenario says that they mean harm is there at all; None: whoever is hired is there
    screening: Callable[[str], bool] | None = None


@dataclass(slots=True)
class Staff:
    """The people of one site. Times and mistakes are drawn from ``stream`` by ``figures``."""

    figures: Figures
    stream: random.Random
    people: list[Person] = field(default_factory=list)
    seams: StaffSeams = field(default_factory=StaffSeams)
    #: told of every answer that somebody gave
    on_answer: list[Callable[[Answer], None]] = field(default_factory=list)
    _expected: dict[str, int] = field(default_factory=dict)
    _announced: set[str] = field(default_factory=set)

    def announce(self, request: str) -> None:
        """Tell the staff to expect ``request`` once (a work order covers one grant)."""
        self._expected[request] = self._expected.get(request, 0) + 1
        self._announced.add(request)

    def expects(self, request: str) -> bool:
        """Whether ``request`` was announced and has not been granted since."""
        return self._expected.get(request, 0) > 0

    def was_announced(self, request: str) -> bool:
        """Whether ``request`` was ever announced, granted since or not."""
        return request in self._announced

    def in_room(self) -> list[Person]:
        """Whoever is in the control room now."""
        return [person for person in self.people if person.place == "control room"]

    def hire(self, people: Iterable[Person]) -> None:
        """More people; one of a name that is known already is moved instead."""
        known = {person.name: number for number, person in enumerate(self.people)}
        for person in people:
            if person.name in known:
                self.people[known[person.name]] = person
            else:
                self.people.append(person)

    def means_harm(self, person: str) -> bool:
        """Whether ``person``, of whom a scenario says that they mean harm, got the job."""
        return self.seams.screening is None or self.seams.screening(person)

    async def approve(
        self, role: str, request: str, *, place: Way = "same_room", by: str | None = None
    ) -> bool:
        """As ``ask``; whether it was granted. False at once if nobody can be asked."""
        answer = await self.ask(role, request, place=place, by=by)
        return answer is not None and answer.granted

    async def ask(
        self, role: str, request: str, *, place: Way = "same_room", by: str | None = None
    ) -> Answer | None:
        """Ask whoever may decide for ``role``, other than ``by`` who asks; None if there is nobody.

        ``place`` is how the question reaches them: across the room where they are in it, else by telephone. The
        first to answer decides.
        """
        asked: list[tuple[float, Person]] = []
        for person in self.people:
            if person.place == "away" or person.name == by or not person.answers_for(role):
                continue
            near = place == "same_room" and person.place == "control room"
            key = "approval.same_room" if near else "approval.on_call"
            asked.append((self.stream.lognormvariate(*self.figures.lognormal(key)), person))
        if not asked:
            return None
        seconds, person = min(asked, key=lambda one: one[0])
        await asyncio.sleep(seconds)
        expected = self.expects(request)
        granted = expected or self.stream.random() < self.figures["approval.unexpected_granted"]
        if expected:
            self._expected[request] -= 1
        answer = Answer(person.name, request, granted, round(seconds, 3))
        for told in self.on_answer:
            told(answer)
        return answer
