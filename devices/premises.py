"""The doors: who gets to a place of the site where something can be touched.

Steps that need somebody to stand at a station, a cabinet or a socket ask here. A site's ordinary doors stop few: staff
go everywhere, and a visitor who behaves as one of them is mostly let along.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from testbed.figures import Figures

#: The sealed credential for emergencies, which lies in the control room: "user:password".
ENVELOPE: Final = "break-glass envelope"
#: Kinds of people who belong on the site and have its ordinary key.
INSIDERS = frozenset({"staff", "insider", "contractor"})


@dataclass(slots=True)
class Premises:
    """The site's doors. ``guard`` is what controls may put at them: (person, place) -> let through."""

    figures: Figures
    stream: random.Random
    guard: Callable[[str, str], bool] | None = None
    #: things that lie about behind the doors and what stands in them, as the envelope
    kept: dict[str, str] = field(default_factory=dict)
    #: told of every attempt: person, place, whether they got in
    on_attempt: Callable[[str, str, bool], object] | None = None

    def admit(self, person: str, place: str) -> bool:
        """Whether ``person`` gets to ``place`` this time.

        ``person`` is a kind: staff, insider, contractor, visitor, stranger; ``place`` is what they go to: control
        room, cabinet, server room, engineering office, pump hall. Both are free text to the doors.
        """
        if self.guard is not None:
            admitted = self.guard(person, place)
        else:
            admitted = person in INSIDERS or self.stream.random() < self.figures["physical.ordinary_entry"]
        if self.on_attempt is not None:
            self.on_attempt(person, place, admitted)
        return admitted
