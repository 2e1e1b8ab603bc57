"""The historian: an OPC UA client that subscribes to every tag and keeps what it is told."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from devices.audit import Audit
from devices.opcua import UaClient
from testbed.network import Host

#: Seconds between tries to reach a server that cannot be reached (assumption).
RETRY = 10.0


@dataclass(slots=True)
class Series:
    """Values of one tag as they arrived: virtual time (s), engineering value, and whether the quality was good."""

    times: array[float] = field(default_factory=lambda: array("d"))
    values: array[float] = field(default_factory=lambda: array("d"))
    good: bytearray = field(default_factory=bytearray)

    def between(self, start: float, end: float) -> list[tuple[float, float, bool]]:
        """Stored points with ``start <= time <= end``."""
        rows = zip(self.times, self.values, self.good, strict=True)
        return [(time, value, bool(good)) for time, value, good in rows if start <= time <= end]


class Historian:
    """One historian on ``host``; ``connect`` makes its OPC UA client with whatever credentials are in force."""

    def __init__(
        self, host: Host, name: str, tags: Sequence[str], period: float, connect: Callable[[], UaClient]
    ) -> None:
        self.host, self.name, self.tags, self.period = host, name, tuple(tags), period
        self.connect = connect
        self.audit = Audit(name)
        self.series = {tag: Series() for tag in tags}
        self.connected = False

    def start(self) -> None:
        """Begin to collect; a lost server is tried again for ever."""
        self.host.spawn(self._collect(), "collector")

    async def _collect(self) -> None:
        while True:
            client = self.connect()
            try:
                refusal = await client.connect()
                if refusal is None:
                    await client.subscribe(self.tags, self.period, self._store)
                    self.connected = True
                    await client.lost()
                else:
                    self.audit("historian.refused", reason=refusal.status)
            except OSError as error:  # TimeoutError and ConnectionError are OSErrors
                self.audit("historian.failed", reason=str(error))
            if self.connected:
                self.audit("historian.disconnected")
            self.connected = False
            await client.disconnect()
            await asyncio.sleep(RETRY)

    def _store(self, tag: str, value: float, good: bool, time: float) -> None:
        series = self.series[tag]
        series.times.append(time)
        series.values.append(float(value))
        series.good.append(good)
