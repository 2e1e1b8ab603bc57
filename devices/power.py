"""Electric power of the control cabinets: a feeder, an uninterruptible supply (UPS), and what hangs on them.

As delivered a UPS stands in bypass: its loads hang on the feeder and go down with it. A load that has lost power comes
back by itself some time after the power does, in the state that it has when it is switched on: with its sessions
forgotten, and a firewall for a while without the rules that it has yet to load. That is the security state which
IEC 62443-3-3 SR 7.5 wants kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from devices.audit import Audit
from testbed.clock import SimLoop
from testbed.network import Conduit


@dataclass(slots=True)
class Load:
    """What hangs on a supply: what losing power does to it, and what it does ``restart`` s after power is back."""

    name: str
    lose: Callable[[], object]
    regain: Callable[[], object]
    restart: float
    powered: bool = True


@dataclass(slots=True)
class UpsSeams:
    """What controls may decide: ``on_line`` puts the inverter between feeder and loads."""

    on_line: bool = False


@dataclass(slots=True)
class Ups:
    """One supply with ``minutes`` of battery for its loads; it recharges at the tenth of the rate (assumption).

    Switching over takes no time that a load would notice (double conversion, IEC 62040-3 class VFI).
    """

    name: str
    loop: SimLoop
    minutes: float
    loads: list[Load] = field(default_factory=list)
    seams: UpsSeams = field(default_factory=UpsSeams)
    audit: Audit = field(init=False)
    #: whether the feeder has voltage, and the seconds of battery that are left
    feeder: bool = True
    charge: float = field(init=False)
    _since: float = field(init=False, default=0.0)
    _change: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.audit = Audit(self.name)
        self.charge = self.minutes * 60.0

    @property
    def ready(self) -> bool:
        """Whether it would carry its loads now for half of its time at least."""
        return self.seams.on_line and self.left() >= self.minutes * 30.0

    def left(self) -> float:
        """Seconds of battery that are left now."""
        passed = self.loop.time() - self._since
        if self.feeder:
            return min(self.minutes * 60.0, self.charge + passed / 10)
        return max(0.0, self.charge - passed) if self.seams.on_line else self.charge

    def fail(self) -> None:
        """The feeder goes dead."""
        if not self.feeder:
            return
        self._note(feeder=False)
        if self.seams.on_line and self.charge > 0:
            self.audit("power.on_battery", minutes=round(self.charge / 60, 1))
            self.loop.wake(self.loop.time() + self.charge, self._exhausted, self._change)
        else:
            self._drop()

    def restore(self) -> None:
        """The feeder is back."""
        if self.feeder:
            return
        self._note(feeder=True)
        self.audit("power.restored")
        for load in self.loads:
            if not load.powered:
                self.loop.wake(self.loop.time() + load.restart, self._regain, (load, self._change))

    def _note(self, *, feeder: bool) -> None:
        self.charge, self._since = self.left(), self.loop.time()
        self.feeder = feeder
        self._change += 1

    def _exhausted(self, change: int) -> None:
        if change == self._change:
            self.audit("power.exhausted")
            self._drop()

    def _drop(self) -> None:
        for load in self.loads:
            if load.powered:
                load.powered = False
                load.lose()

    def _regain(self, what: tuple[Load, int]) -> None:
        load, change = what
        if change == self._change and not load.powered:
            load.powered = True
            load.regain()


def firewall_load(conduit: Conduit, boot: float, rules: float) -> Load:
    """The firewall of ``conduit``: dark while it boots, then forwarding, and judging ``rules`` s later.

    What it does in between is its fail seam (``fail_closed``): open by default, as a router's that comes up before its
    filter. Its bypass relay is no part of the model: without power nothing passes.
    """
    loop = conduit.network.loop

    island, powered = False, True

    def lose() -> None:
        nonlocal island, powered
        island, powered = conduit.cut, False  # an island that was ordered outlives the failure
        conduit.cut = True
        conduit.guard_up = False

    def regain() -> None:
        nonlocal powered
        conduit.cut, powered = island, True
        loop.wake(loop.time() + rules, judge, None)

    def judge(_: None) -> None:
        if powered:  # not lost again meanwhile
            conduit.guard_up = True

    return Load(conduit.name, lose, regain, boot)
