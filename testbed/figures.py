"""Every assumed or sourced number that a user may want to change, in one table with its origin.

The table is the files of ``data/figures``, one a topic; to add a figure, add its entry there and read it as
``figures["its.key"]``.
A number that belongs to one site (a zone's latency, a tank's size) stands in the site's file instead, and one that
follows from a standard or from physics stands in the code beside its citation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, RootModel, StringConstraints, model_validator

from testbed.document import Document, load
from testbed.errors import OtlabError, UnknownNameError
from testbed.units import Unit, to_si


class Figure(Document):
    """One number: ``value`` and ``range`` are in ``unit``; an override must lie in ``range`` (if none, be >= 0).

    ``status`` says how far to trust it: published (``source`` names the publication), computed (``source`` says
    from what) or assumption (``source`` gives the reason).
    """

    value: float
    unit: Unit
    source: Annotated[str, Field(min_length=1)]
    status: Literal["published", "computed", "assumption"]
    range: tuple[float, float] | None = None
    note: str = ""

    @model_validator(mode="after")
    def _check_value(self) -> Figure:
        if not self.allows(self.value):
            raise ValueError(f"value {self.value:g} is not {self.allowed}")
        return self

    def allows(self, value: float) -> bool:
        low, high = self.range or (0.0, math.inf)
        return low <= value <= high and math.isfinite(value)

    @property
    def allowed(self) -> str:
        """The range as a phrase that follows 'is not'."""
        return f"from {self.range[0]:g} to {self.range[1]:g}" if self.range else "zero or more"


FigureKey = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*(\.[a-z0-9_]+)+$")]


class FigureTable(RootModel[dict[FigureKey, Figure]]):
    """The shape of a file of figures: dotted keys, each with a figure."""


class Figures(Mapping[str, float]):
    """Immutable mapping from key to value in SI units; a key that is not in the table is a KeyError."""

    __slots__ = ("_entries", "_overrides", "_values")

    def __init__(self, entries: Mapping[str, Figure], overrides: Mapping[str, float] | None = None) -> None:
        """Take values from ``entries``, replaced where ``overrides`` has one (in the entry's own unit).

        Raises UnknownNameError for an override of nothing, OtlabError for one outside the entry's range.
        """
        self._entries = dict(sorted(entries.items()))
        self._overrides = dict(sorted((overrides or {}).items()))
        for key, value in self._overrides.items():
            _check_override(self._entries, key, value)
        self._values = {
            key: to_si(self._overrides.get(key, entry.value), entry.unit)
            for key, entry in self._entries.items()
        }

    def __getitem__(self, key: str) -> float:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<{len(self)} figures, overridden: {self._overrides or 'none'}>"

    @property
    def overrides(self) -> dict[str, float]:
        """What a user changed, by key, in the figure's own unit."""
        return dict(self._overrides)

    def entry(self, key: str) -> Figure:
        """The table's entry, with unit and source. Raises UnknownNameError."""
        if key not in self._entries:
            raise UnknownNameError("figure", key, self._entries)
        return self._entries[key]

    def with_overrides(self, overrides: Mapping[str, float]) -> Figures:
        """Return the same figures with some values changed, each given in the figure's own unit.

        Raises UnknownNameError for a key that is not in the table, OtlabError for a value outside its range.
        """
        return Figures(self._entries, {**self._overrides, **overrides})

    def lognormal(self, name: str) -> tuple[float, float]:
        """Return (mu, sigma) for ``random.Random.lognormvariate`` from the figures ``name.mean`` and ``name.sd``.

        Mean and standard deviation are what people state and change; mu and sigma are of the logarithm of the
        value in SI units.
        """
        mean, sd = self[f"{name}.mean"], self[f"{name}.sd"]
        sigma = math.sqrt(math.log1p((sd / mean) ** 2))
        return math.log(mean) - sigma**2 / 2, sigma


def _check_override(entries: Mapping[str, Figure], key: str, value: float) -> None:
    if key not in entries:
        raise UnknownNameError("figure", key, entries)
    if not entries[key].allows(value):
        raise OtlabError(f"figure {key!r}: {value:g} (in {entries[key].unit}) is not {entries[key].allowed}")


def load_figures(path: str | Path | None = None) -> Figures:
    """Read the shipped table, or the one at ``path``. Raises DocumentError with every mistake in it."""
    return _shipped() if path is None else Figures(load(path, FigureTable).root)


@cache
def _shipped() -> Figures:
    entries: dict[str, Figure] = {}
    with as_file(files("testbed") / "data" / "figures") as folder:
        for path in sorted(Path(folder).glob("*.yaml")):
            found = load(path, FigureTable).root
            if twice := sorted(entries.keys() & found.keys()):
                raise OtlabError(f"{path.name}: {', '.join(twice)} stands in another file of figures already")
            entries.update(found)
    return Figures(entries)
