"""What a run leaves behind: an append-only list of events, and tags sampled at a fixed interval.

Everything that is measured later is in here; nothing else flows out of a run. The text form is the same byte for
byte for the same experiment and seed, so two runs are compared by comparing files.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

#: Events print times to the microsecond: finer than any device's clock, coarser than floating-point noise.
TIME_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at ``time`` (s): ``kind`` is a dotted word, ``source`` the asset that saw or did it."""

    time: float
    kind: str
    source: str
    data: Mapping[str, Any]

    def to_json(self) -> str:
        record = {"t": round(self.time, TIME_DIGITS), "kind": self.kind, "source": self.source, **self.data}
        return json.dumps(record, ensure_ascii=False, separators=(",", ":"), default=str)


class Trace:
    """Events in the order they happened, and columns of sampled tags."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.events: list[Event] = []
        self.times = array("d")
        self.columns: dict[str, array[float]] = {}
        self._probes: list[tuple[array[float], Callable[[], float]]] = []

    def record(self, event_kind: str, source: str, /, **data: Any) -> Event:
        """Append an event that happens now."""
        event = Event(self._clock(), event_kind, source, data)
        self.events.append(event)
        return event

    def watch(self, name: str, probe: Callable[[], float]) -> None:
        """Sample ``probe()`` under ``name`` at every later call of ``sample``."""
        if self.times:
            raise ValueError(f"{name}: probes are added before the first sample")
        column = self.columns[name] = array("d")
        self._probes.append((column, probe))

    def sample(self) -> None:
        """Take one row of samples now."""
        self.times.append(self._clock())
        for column, probe in self._probes:
            column.append(probe())

    def of_kind(self, *kinds: str) -> Iterator[Event]:
        """Events of these kinds, and of those below them: ``alert`` also finds ``alert.network``."""
        for event in self.events:
            if any(event.kind == kind or event.kind.startswith(f"{kind}.") for kind in kinds):
                yield event

    def lines(self) -> Iterator[str]:
        """The events as JSON, one a line."""
        for event in self.events:
            yield event.to_json()

    def table(self) -> Iterator[str]:
        """The samples as CSV: a header, then a line for each time."""
        yield ",".join(["time", *self.columns])
        columns: Iterable[array[float]] = [self.times, *self.columns.values()]
        for row in zip(*columns, strict=True):
            yield ",".join(f"{value:.6g}" if i else f"{value:.3f}" for i, value in enumerate(row))
