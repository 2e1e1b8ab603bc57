"""Whether each essential function is there, judged once a second from what devices really do.

IEC 62443-3-3 clause 4.2: a control that takes an essential function away has failed, whatever its level. The
definitions here are the ones in docs/reference/metrics.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from devices.plc import Mode
from devices.world import World

#: Seconds between judgments: finer than any deadline of the reference site, coarse enough to cost nothing.
PERIOD = 1.0


@dataclass(slots=True)
class Watch:
    """One function's history: intervals (s) in which it was not available."""

    available: Callable[[], bool]
    lost: list[tuple[float, float]] = field(default_factory=list)
    since: float | None = None


class FunctionWatch:
    """Judges view, control and safety of one world, and the plant's safe envelope; records every change."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.watches = {
            "view": Watch(self._view()),
            "control": Watch(self._control()),
            "safety": Watch(self._safety()),
        }
        self.unsafe: dict[str, Watch] = {}
        self.product: list[float] = []
        self._made = 0.0
        for signal, (low, high) in world.site.essential_functions.safety.envelope.items():
            self.unsafe[signal] = Watch(self._inside(signal, low, high))
        for name in self.samples():
            world.trace.watch(name, self._probe(name))
        for hmi_name, tags in self._shown().items():
            for tag in tags:
                world.trace.watch(f"{hmi_name}.{tag}", self._display(hmi_name, tag))

    def samples(self) -> list[str]:
        """Plant signals worth a column: the envelope's, the product's, and every actuator's state."""
        plant = self.world.plant
        wanted = dict.fromkeys(self.world.site.essential_functions.safety.envelope)
        wanted[self.world.site.essential_functions.production.signal] = None
        for signal in plant.signals:
            if signal.endswith((".position", ".running")):
                wanted[signal] = None
        return list(wanted)

    def _shown(self) -> dict[str, list[str]]:
        view = self.world.site.essential_functions.view
        return {view.asset: [tag for tags in view.tags.values() for tag in tags]}

    def _display(self, hmi: str, tag: str) -> Callable[[], float]:
        values = self.world.hmis[hmi].values
        return lambda: values.get(tag, float("nan"))

    def _probe(self, signal: str) -> Callable[[], float]:
        value = self.world.plant.value
        return lambda: value(signal)

    def _view(self) -> Callable[[], bool]:
        view = self.world.site.essential_functions.view
        hmi, clock = self.world.hmis[view.asset], self.world.loop.time
        plcs = [plc for plc, tags in view.tags.items() if tags]

        def available() -> bool:
            now = clock()
            return hmi.host.up and all(now - hmi.fresh[plc] <= view.deadline for plc in plcs)

        return available

    def _control(self) -> Callable[[], bool]:
        control = self.world.site.essential_functions.control
        hmi, clock = self.world.hmis[control.asset], self.world.loop.time
        operator, plc = self.world.operators.get(control.asset), self.world.plcs[control.plc]
        every = hmi.asset.heartbeat.every if hmi.asset.heartbeat is not None else 0.0

        def available() -> bool:
            if not hmi.host.up or clock() - hmi.beat_acknowledged > control.deadline + every:
                return False
            if plc.mode is not Mode.RUN:  # it acknowledges commands and carries none out
                return False
            if hmi.who() is not None or operator is None:
                return True
            return operator.seconds_to_log_in() <= control.deadline

        return available

    def _safety(self) -> Callable[[], bool]:
        safety = self.world.site.essential_functions.safety
        plc, clock = self.world.plcs[safety.asset], self.world.loop.time
        return lambda: plc.host.up and plc.mode is Mode.RUN and clock() - plc.last_scan <= safety.deadline

    def _inside(self, signal: str, low: float, high: float) -> Callable[[], bool]:
        value = self.world.plant.value
        return lambda: low <= value(signal) <= high

    def start(self, first: float) -> None:
        """Judge every second from ``first`` on: before it, devices are still starting."""
        self.world.loop.wake(first, self._judge, first)

    def _judge(self, due: float) -> None:
        trace = self.world.trace
        trace.sample()
        self._made += self.world.plant.value(self.world.site.essential_functions.production.signal) * PERIOD
        self.product.append(self._made)
        for group, kind in ((self.watches, "function"), (self.unsafe, "envelope")):
            for name, watch in group.items():
                if watch.available():
                    if watch.since is not None:
                        watch.lost.append((watch.since, due))
                        watch.since = None
                        trace.record(f"{kind}.restored", name)
                elif watch.since is None:
                    watch.since = due
                    trace.record(f"{kind}.lost", name)
        self.world.loop.wake(due + PERIOD, self._judge, due + PERIOD)

    def finish(self, end: float) -> None:
        """Close what is still open at the run's end."""
        for watch in (*self.watches.values(), *self.unsafe.values()):
            if watch.since is not None:
                watch.lost.append((watch.since, end))
                watch.since = None
