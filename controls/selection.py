"""What a user puts in force: a level or vector, with single requirements or whole FRs added and taken away.

The same can stand in a file, so that a choice can be named, kept and compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints

from controls import profiles
from controls.catalogue import FOUNDATIONAL, SecurityLevels, catalogue, requirement_id
from testbed.document import Document, Route, load
from testbed.errors import OtlabError


@dataclass(frozen=True, slots=True)
class Selection:
    """A named set of requirements in the standard's order, with what compensates and how mature the site is."""

    name: str
    requirements: tuple[str, ...]
    compensating: tuple[str, ...] = ()
    maturity: int | None = None


class SelectionFile(Document):
    """A file of controls: ``levels`` by foundational requirement (left out: 0), then what is added and taken away.

    ``add`` and ``remove`` take requirement ids and names of foundational requirements.
    """

    title: Annotated[str, StringConstraints(min_length=1)]
    levels: dict[str, Annotated[int, Field(ge=0, le=4)]] = Field(default_factory=dict)
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    compensating: tuple[str, ...] = ()
    maturity: Annotated[int, Field(ge=1, le=4)] | None = None

    def problems(self) -> Iterator[tuple[Route, str]]:
        for fr in self.levels:
            if fr not in FOUNDATIONAL:
                yield ("levels", fr), f"no foundational requirement; there are {', '.join(FOUNDATIONAL)}"
        for key, names in (("add", self.add), ("remove", self.remove)):
            for number, name in enumerate(names):
                try:
                    spread((name,))
                except OtlabError as error:
                    yield (key, number), str(error)


def spread(names: Iterable[str]) -> tuple[str, ...]:
    """Requirement ids for ``names``, of which an FR's name stands for all of its requirements.

    Raises UnknownNameError for a name that is neither.
    """
    found: dict[str, None] = {}
    for name in names:
        if name.strip().upper() in FOUNDATIONAL:
            found.update(
                dict.fromkeys(item.id for item in catalogue().values() if item.fr == name.strip().upper())
            )
        else:
            found[requirement_id(name)] = None
    return tuple(found)


def select(
    levels: SecurityLevels,
    added: Iterable[str] = (),
    removed: Iterable[str] = (),
    *,
    name: str | None = None,
    compensating: tuple[str, ...] = (),
    maturity: int | None = None,
) -> Selection:
    """The requirements of ``levels`` that act, with ``added`` and without ``removed``.

    Raises UnknownNameError for a name that does not exist, OtlabError for one that does not act or lacks what it needs.
    """
    plus, minus = spread(added), spread(removed)
    chosen = {*profiles.enforced(levels), *plus} - set(minus)
    if name is None:
        parts = [str(levels), *(f"+ {one}" for one in added), *(f"- {one}" for one in removed)]
        name = " ".join(parts)
    return Selection(name, profiles.check(chosen), compensating, maturity)


def load_selection(path: str | Path) -> Selection:
    """Read a file of controls. Raises DocumentError with every mistake in it, and as ``select`` does."""
    found = load(path, SelectionFile)
    levels = SecurityLevels.parse(",".join(f"{fr}={level}" for fr, level in found.levels.items()) or "0")
    return select(
        levels,
        found.add,
        found.remove,
        name=found.title,
        compensating=found.compensating,
        maturity=found.maturity,
    )
