"""Scheduled maintenance: windows in which the plant may be worked on, and security functions tested."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from testbed.clock import SimLoop


@dataclass(slots=True)
class Maintenance:
    """The site's maintenance windows; ``until`` is when the present one ends (s), 0 before any."""

    loop: SimLoop
    until: float = 0.0
    #: told when a window begins
    on_begin: list[Callable[[], object]] = field(default_factory=list)
    #: begin and end of every window so far (s)
    windows: list[tuple[float, float]] = field(default_factory=list)

    @property
    def open(self) -> bool:
        return self.loop.time() < self.until

    def open_at(self, time: float) -> bool:
        """Whether a window was open at ``time`` (s)."""
        return any(begin <= time < end for begin, end in self.windows)

    def begin(self, lasting: float) -> None:
        """Open a window of ``lasting`` s, or make the present one last as long."""
        was = self.open
        self.until = max(self.until, self.loop.time() + lasting)
        begun = self.windows.pop()[0] if was else self.loop.time()
        self.windows.append((begun, self.until))
        if not was:
            for told in self.on_begin:
                told()
