"""The process side of a network monitor: it reads tag values off the Modbus traffic that its taps show, each second.

What it knows of the plant is the site's tag table and what it learned from an attack-free record. Under Modbus/TLS it
sees nothing and says nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from devices.modbus_wire import ModbusAnswer
from devices.process_detectors import EVERY, Detector, Finding
from testbed.errors import OtlabError
from testbed.network import Host
from testbed.site import Controller, Site, Tag

#: The file beside a site's own with what its detectors learned.
LEARNED = "process.json"

#: A value that nobody asked for during so many seconds is not judged (s).
STALE = 15.0
_TABLES = {1: "coil", 2: "discrete", 3: "holding", 4: "input"}
#: Seconds that a plant and its stations need to come up before anything is judged.
SETTLED = 120.0


class ProcessWatch:
    """Values of the tags of some controllers, as their answers to whoever asks show them.

    ``on_sample`` gets every sample (time in s, values in engineering units by tag), ``report`` every finding.
    """

    def __init__(
        self,
        host: Host,
        controllers: Mapping[str, Controller],
        detectors: Iterable[Detector] = (),
        report: Callable[[Finding], None] = lambda finding: None,
    ) -> None:
        """``controllers`` by address; of tags with the same name the first controller's is watched."""
        self.host = host
        self.detectors = tuple(detectors)
        self.report = report
        self.on_sample: list[Callable[[float, dict[str, float]], None]] = []
        self._tags: dict[str, dict[str, list[tuple[str, Tag]]]] = {}
        taken: set[str] = set()
        for address, controller in controllers.items():
            tables = self._tags.setdefault(address, {})
            for name, tag in controller.tags.items():
                if name not in taken and judged(tag):
                    taken.add(name)
                    tables.setdefault(tag.table, []).append((name, tag))
        #: (address, function, first, count) -> when it was answered last, and the answer's data
        self._answers: dict[tuple[str, int, int, int], tuple[float, bytes]] = {}
        self._plans: dict[tuple[str, int, int, int], list[tuple[str, Tag, int]]] = {}

    def start(self) -> None:
        """Sample from now on."""
        due = self.host.network.loop.time() + EVERY
        self.host.network.loop.wake(due, self._look, due)

    def take(self, address: str, answer: ModbusAnswer, now: float) -> None:
        """Keep what a controller answered."""
        request = answer.request
        if (
            request is None
            or answer.function not in _TABLES
            or request.address is None
            or request.count is None
        ):
            return
        self._answers[(address, answer.function, request.address, request.count)] = (now, answer.data)

    def values(self, now: float) -> dict[str, float]:
        """The latest value of every tag that was answered lately."""
        found: dict[str, tuple[float, float]] = {}
        for key, (time, data) in self._answers.items():
            if now - time > STALE:
                continue
            bits = key[1] <= 2
            for name, tag, offset in self._plan(key):
                if name in found and found[name][0] >= time:
                    continue
                if bits:
                    at = 1 + offset // 8
                    if at < len(data):
                        found[name] = (time, float(data[at] >> offset % 8 & 1))
                elif 1 + 2 * (offset + tag.words) <= len(data):
                    at = 1 + 2 * offset
                    words = [data[i] << 8 | data[i + 1] for i in range(at, at + 2 * tag.words, 2)]
                    found[name] = (time, tag.decode(words))
        return {name: value for name, (_, value) in found.items()}

    def _plan(self, key: tuple[str, int, int, int]) -> list[tuple[str, Tag, int]]:
        plan = self._plans.get(key)
        if plan is None:
            address, function, first, count = key
            plan = self._plans[key] = [
                (name, tag, tag.address - first)
                for name, tag in self._tags.get(address, {}).get(_TABLES[function], ())
                if first <= tag.address and tag.address + tag.words <= first + count
            ]
        return plan

    def _look(self, due: float) -> None:
        loop = self.host.network.loop
        loop.wake(due + EVERY, self._look, due + EVERY)
        if not self.host.up:
            return
        values = self.values(due)
        for listener in self.on_sample:
            listener(due, values)
        if due < SETTLED or not values:
            return
        for detector in self.detectors:
            for finding in detector.update(values):
                self.report(finding)


def judged(tag: Tag) -> bool:
    """Whether a tag says something of the process: a measurement, a state, or what is commanded."""
    return tag.table in ("input", "discrete") or (tag.table == "coil" and tag.command is not None)


def measured(tag: Tag) -> bool:
    """Whether a tag is a number and not a state."""
    return tag.format != "bool"


def learned_of(site: Site) -> dict[str, Any] | None:
    """What the detectors of a site learned: ``process.json`` beside its file; None without one.

    Raises OtlabError if it is not what ``otlab site train`` writes, or of another site.
    """
    path = site.folder / LEARNED
    try:
        learned: dict[str, Any] = json.loads(path.read_text("utf-8"))["detectors"]
        tags = set(learned["limits"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OtlabError(f"{path}: not what `otlab site train` writes ({error})") from None
    known = {tag for controller in site.controllers().values() for tag in controller.tags}
    if tags - known:
        raise OtlabError(
            f"{path}: the site has no tag {min(tags - known)!r}; train it again with `otlab site train`"
        )
    return learned
