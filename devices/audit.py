"""The audit seam: what a device can say about what happened to it, and to whom it says it.

A device always knows its events; whether anyone records, keeps or forwards them is decided by controls, which append
a sink. With no sink the events are gone, as on most fielded controllers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

#: ``sink(source asset, event kind, data)``
Sink = Callable[[str, str, dict[str, Any]], None]


@dataclass(slots=True)
class Audit:
    """The events of one device, handed to every sink in order."""

    source: str
    sinks: list[Sink] = field(default_factory=list)

    def __call__(self, kind: str, /, **data: Any) -> None:
        for sink in self.sinks:
            sink(self.source, kind, data)
