"""What is installed and how it is set: the settings agent of each device, and a site's records of both.

A device's settings agent speaks one line of JSON a request over TCP. It shows the device's identity and settings to
whoever asks, and changes them for whoever knows its community word, which is shipped as ``private``:

    {"get": true}                                  ->  {"product", "firmware", "settings": {...}}
    {"set": {"service": "on"}, "community": "..."}  ->  {"done": true} or {"refused": "..."}

Besides settings it takes the maintenance command ``mode`` while ``service`` is on, as it is when a device is shipped.
Nothing here is a control: who compares settings with what, how often and how fast is decided by the seams of
``SettingsRecord`` and ``Inventory``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from devices import exchange
from devices.audit import Audit
from devices.exchange import serve
from testbed.firewall import AllowList, Rule
from testbed.network import Conduit, Host

#: Where the settings agents listen: no standard knows them (assumption).
PORT: Final = 8161
SHIPPED: Final = "private"
#: Seconds that either side waits for the other (assumption).
PATIENCE: Final = 5.0
_LONGEST: Final = 2048


class SettingsAgent:
    """The settings agent of one device on ``host``; ``set_mode`` carries out "run" and "stop" on the device.

    ``flawed`` is a firmware whose agent takes an empty community word for the right one.
    """

    def __init__(
        self, host: Host, audit: Audit, product: str, firmware: str, set_mode: Callable[[str], object]
    ) -> None:
        self.host, self.audit = host, audit
        self.product, self.firmware = product, firmware
        self.community = SHIPPED
        self.service = "on"
        self.flawed = False
        self._set_mode = set_mode

    def start(self) -> None:
        """Begin to serve; again after the host has lost and regained power."""
        self.host.spawn(self._listen(), "settings agent")

    async def _listen(self) -> None:
        await serve(self.host, PORT, self._answer, _no_body, longest_line=_LONGEST, patience=PATIENCE)

    def _answer(self, line: bytes, _body: bytes, address: str) -> bytes:
        return json.dumps(self.answer(line, address)).encode() + b"\n"

    def factory_reset(self) -> tuple[str, str]:
        """Set back to what is shipped; returns the community word and the service setting until now."""
        lost = self.community, self.service
        self.community, self.service = SHIPPED, "on"
        return lost

    def settings(self) -> dict[str, str]:
        """The settings that can be seen; of the community word only whether it is the shipped one."""
        return {"community": "shipped" if self.community == SHIPPED else "own", "service": self.service}

    def answer(self, line: bytes, address: str) -> dict[str, Any]:
        """Carry out one request."""
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return {"refused": "not JSON"}
        if not isinstance(request, dict):
            return {"refused": "not a request"}
        if request.get("get") is True:
            return {"product": self.product, "firmware": self.firmware, "settings": self.settings()}
        changes = request.get("set")
        if not isinstance(changes, dict) or not all(isinstance(value, str) for value in changes.values()):
            return {"refused": "not a request"}
        word = request.get("community")
        if word != self.community and not (self.flawed and word == ""):
            self.audit("settings.refused", peer=address)
            return {"refused": "community"}
        if unknown := changes.keys() - {"community", "service", "mode"}:
            return {"refused": f"no setting {sorted(unknown)[0]!r}"}
        self.community = changes.get("community", self.community)
        self.service = changes.get("service", self.service)
        if "mode" in changes:
            if self.service != "on":
                return {"refused": "service is off"}
            self._set_mode(changes["mode"])
        self.audit("settings.changed", peer=address, settings=",".join(sorted(changes)))
        return {"done": True}


async def ask(address: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """One request to the agent at ``address``; OSError if it does not answer, or not in its language."""
    question = json.dumps(request).encode() + b"\n"
    line, _ = await exchange.ask(address, PORT, question, _no_body, longest_line=_LONGEST, patience=PATIENCE)
    try:
        answer = json.loads(line)
    except ValueError as error:
        raise ConnectionResetError("the settings agent did not answer in JSON") from error
    if not isinstance(answer, dict):
        raise ConnectionResetError("the settings agent did not answer with an object")
    return answer


def _no_body(_line: bytes) -> int:
    return 0


# -------------------------------------------------------------------------------------------------------- settings


@dataclass(slots=True)
class SettingsRecord:
    """The settings that each device should have, and who compares them.

    ``devices`` are addresses of settings agents, ``community`` the word that the site has given them. By default there
    is no baseline and nobody looks. ``view`` are the seconds in which a person looks at one device, ``next_review``
    draws those to the next round; ``every`` is the period of the tool that does it alone.
    """

    host: Host
    devices: Mapping[str, str]
    conduits: Mapping[str, Conduit]
    baseline: dict[str, dict[str, str]] = field(default_factory=dict)
    community: str = SHIPPED
    view: Callable[[], float] | None = None
    next_review: Callable[[], float] | None = None
    every: float | None = None
    rules: dict[str, tuple[Rule, ...]] = field(default_factory=dict)
    on_finding: list[Callable[[str, str], object]] = field(default_factory=list)
    on_corrected: list[Callable[[str], object]] = field(default_factory=list)

    def record(self, settings: Mapping[str, str]) -> None:
        """Take ``settings`` as what every device should have, and firewalls' rules as they are at the start."""
        self.baseline = {device: dict(settings) for device in self.devices}

    def start(self) -> None:
        """Remember the rules that firewalls start with, and begin to look, if anybody does."""
        if not self.baseline:
            return
        for name, conduit in self.conduits.items():
            allowed = allow_list(conduit)
            if allowed is not None:
                self.rules[name] = allowed.rules
        if self.every is not None:
            self.host.spawn(self._compare(self.every), "comparison of settings")
        elif self.next_review is not None:
            self.host.spawn(self._review(self.next_review), "review of settings")

    async def _compare(self, every: float) -> None:
        while True:
            await asyncio.sleep(every)
            for device in self.devices:
                await self.look_at(device)
            self._look_at_rules()

    async def _review(self, pause: Callable[[], float]) -> None:
        while True:
            await asyncio.sleep(pause())
            for device in self.devices:
                await asyncio.sleep(self.view() if self.view is not None else 0.0)
                await self.look_at(device)
            self._look_at_rules()

    async def look_at(self, device: str) -> bool:
        """Read the settings of one device and put right what differs; whether they were right."""
        address = self.devices[device]
        try:
            seen = (await ask(address, {"get": True})).get("settings")
            if not isinstance(seen, dict):
                return False
            wrong = [key for key, value in self.baseline[device].items() if seen.get(key) != value]
            if not wrong:
                return True
            for told in self.on_finding:
                told(device, ", ".join(f"{key} is {seen.get(key)}" for key in wrong))
            word = SHIPPED if seen.get("community") == "shipped" else self.community
            right = {**self.baseline[device], "community": self.community}
            done = await ask(address, {"set": right, "community": word})
        except OSError:
            return False
        if done.get("done") is True:
            for changed in self.on_corrected:
                changed(device)
        return False

    def _look_at_rules(self) -> None:
        for name, wanted in self.rules.items():
            allowed = allow_list(self.conduits[name])
            if allowed is not None and allowed.rules != wanted:
                for told in self.on_finding:
                    told(name, "rules differ from the recorded ones")
                allowed.rules = wanted
                for changed in self.on_corrected:
                    changed(name)


def allow_list(conduit: Conduit) -> AllowList | None:
    """The list of allowed flows of the firewall at ``conduit``, None where there is none."""
    return next((policy for _, policy in conduit.policies if isinstance(policy, AllowList)), None)


def export_rules(conduit: Conduit) -> str:
    """What a firewall exports of its settings: policies by name, and its list of allowed flows, as JSON."""
    allowed = allow_list(conduit)
    rules = [
        {"source": rule.source, "target": rule.target, "protocol": rule.protocol, "port": rule.port}
        for rule in (allowed.rules if allowed is not None else ())
    ]
    return json.dumps({"policies": [name for name, _ in conduit.policies], "rules": rules}, sort_keys=True)


# ------------------------------------------------------------------------------------------------------- inventory


@dataclass(frozen=True, slots=True)
class Component:
    """One installed component and its properties."""

    name: str
    zone: str
    address: str
    vendor: str
    product: str
    firmware: str


@dataclass(slots=True)
class Inventory:
    """The list of installed components; empty where nobody keeps one.

    ``switches`` reads who is plugged in now, as (name, zone, address); ``devices`` are the addresses of the settings
    agents that tell their firmware. ``every`` is how often both are compared with the list; each stranger and each
    changed firmware is told once.
    """

    host: Host
    switches: Callable[[], Iterable[tuple[str, str, str]]]
    devices: Mapping[str, str]
    components: dict[str, Component] = field(default_factory=dict)
    every: float | None = None
    on_finding: list[Callable[[str, str], object]] = field(default_factory=list)
    _told: dict[tuple[str, str], None] = field(default_factory=dict)

    def start(self) -> None:
        """Begin to compare, if there is a list."""
        if self.components and self.every is not None:
            self.host.spawn(self._compare(self.every), "comparison of the inventory")

    async def _compare(self, every: float) -> None:
        while True:
            await asyncio.sleep(every)
            for name, zone, address in self.strangers():
                self._tell(address, f"{name} in {zone} is on no list")
            for name, address in self.devices.items():
                await self._look_at(name, address)

    async def _look_at(self, name: str, address: str) -> None:
        listed = self.components.get(name)
        try:
            firmware = (await ask(address, {"get": True})).get("firmware")
        except OSError:
            return
        if listed is not None and firmware != listed.firmware:
            self._tell(name, f"firmware is {firmware}, {listed.firmware} on the list")

    def _tell(self, about: str, what: str) -> None:
        if (about, what) not in self._told:
            self._told[about, what] = None
            for told in self.on_finding:
                told(about, what)

    def strangers(self) -> list[tuple[str, str, str]]:
        """Who is plugged in and not on the list."""
        known = {component.address for component in self.components.values()}
        return [found for found in self.switches() if found[2] not in known]

    def update(self, name: str, firmware: str) -> None:
        """A component on the list has another firmware now."""
        if name in self.components:
            self.components[name] = replace(self.components[name], firmware=firmware)

    def with_firmware(self, product: str, firmware: str) -> list[str] | None:
        """Names of the components of this product and firmware; None where there is no list to look in."""
        if not self.components:
            return None
        return [
            component.name
            for component in self.components.values()
            if (component.product, component.firmware) == (product, firmware)
        ]
