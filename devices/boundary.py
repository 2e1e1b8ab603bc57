"""Firewalls at conduits as machines of their own: they fail, are overloaded, are administered, and cut a site off.

What a firewall lets pass are the policies of its ``Conduit``; here is what can happen to the box that asks them. It
judges so many packets a second and restarts when more come, denied ones included (as "BlackNurse" did to several
makes in 2016). While it restarts, the conduit does what its fail seam says: as shipped, it forwards.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from devices.audit import Audit
from testbed.clock import SimLoop
from testbed.network import Conduit, Host, Packet, Verdict

#: Seconds that either side of the management interface waits for the other (assumption).
PATIENCE: Final = 5.0
_LONGEST: Final = 1024
#: As shipped, on so much equipment.
SHIPPED: Final = "admin"


class Boundary:
    """The firewall of ``conduit``: ``capacity`` packets a second, ``restart`` s without judgment when it fails.

    A conduit without policies has no firewall that could fail: ``arm`` makes it one.
    """

    def __init__(self, conduit: Conduit, capacity: float, restart: float) -> None:
        self.conduit, self.capacity, self.restart = conduit, capacity, restart
        self.audit = Audit(conduit.name)
        self.armed = False
        self.failures = 0
        self._second = -1
        self._judged = 0
        self._restarts = 0

    @property
    def loop(self) -> SimLoop:
        return self.conduit.network.loop

    @property
    def up(self) -> bool:
        """Whether it judges."""
        return self.conduit.guard_up

    def arm(self) -> None:
        """The conduit has a firewall: from now on judging takes its processor's time."""
        if not self.armed:
            self.armed = True
            self.conduit.add_policy("load", self._count, first=True)

    def _count(self, packet: Packet) -> Verdict:
        second = int(packet.time)
        if second != self._second:
            self._second, self._judged = second, 0
        self._judged += 1
        if self._judged > self.capacity:
            self.fail(self.restart, "overload")
        return Verdict.ACCEPT

    def fail(self, lasting: float | None, reason: str) -> None:
        """Judge nothing for ``lasting`` s, None for good; what passes meanwhile is up to the conduit's fail seam."""
        if not self.armed:
            return
        if self.conduit.guard_up:
            self.failures += 1
            self.audit("boundary.failed", reason=reason, closed=self.conduit.fail_closed)
        self.conduit.guard_up = False
        self._restarts += 1
        if lasting is not None:
            self.loop.wake(self.loop.time() + lasting, self._restarted, self._restarts)

    def _restarted(self, number: int) -> None:
        if number == self._restarts:
            self.conduit.guard_up = True
            self.audit("boundary.restored")

    def set(self, what: str, user: str, peer: str) -> None:
        """Do what an administrator says: "bypass" (let everything pass) or "enforce"."""
        self.conduit.bypassed = what == "bypass"
        self.audit("boundary.set", user=user, peer=peer, what=what)


@dataclass(slots=True)
class ManagerSeams:
    """What controls may decide about the management of firewalls."""

    #: addresses from which the interface takes commands
    admits: Callable[[str], bool] = lambda _address: True


class FirewallManager:
    """The management interface of the site's firewalls on ``host``: one line of JSON a request over TCP.

    ``{"user", "password", "conduit", "do": "status" | "bypass" | "enforce"}`` gets ``{"done": true, "state": ...}``
    or ``{"refused": reason}``.
    """

    def __init__(self, host: Host, name: str, boundaries: Mapping[str, Boundary], port: int) -> None:
        self.host, self.name, self.boundaries, self.port = host, name, boundaries, port
        self.audit = Audit(name)
        self.seams = ManagerSeams()
        self.passwords = {SHIPPED: SHIPPED}

    def start(self) -> None:
        """Begin to serve; again after the host has lost and regained power."""
        self.host.spawn(self._listen(), "firewall manager")

    async def _listen(self) -> None:
        await asyncio.start_server(self._serve, self.host.address, self.port, limit=_LONGEST)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = str(writer.get_extra_info("peername")[0])
        try:
            async with asyncio.timeout(PATIENCE):
                line = await reader.readuntil(b"\n")
                writer.write(json.dumps(self.answer(line, address)).encode() + b"\n")
                await writer.drain()
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass  # no request came of it
        finally:
            writer.close()

    def answer(self, line: bytes, address: str) -> dict[str, Any]:
        """Carry out one request."""
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return {"refused": "not JSON"}
        if not isinstance(request, dict):
            return {"refused": "not a request"}
        user, password = request.get("user"), request.get("password")
        known = self.passwords.get(user) if isinstance(user, str) else None
        if not self.seams.admits(address) or known is None or known != password:
            self.audit("login.failed", user=str(user), peer=address, reason="firewall manager")
            return {"refused": "log-in"}
        name = request.get("conduit")
        boundary = self.boundaries.get(name) if isinstance(name, str) else None
        if boundary is None:
            return {"refused": "no such conduit"}
        match request.get("do"):
            case "status":
                pass
            case "bypass" | "enforce" as what:
                boundary.set(what, str(user), address)
            case _:
                return {"refused": "no such command"}
        state = "bypass" if boundary.conduit.bypassed else "enforce" if boundary.up else "failed"
        return {"done": True, "state": state}


async def manage(address: str, port: int, request: Mapping[str, str]) -> dict[str, Any]:
    """One request to a firewall manager; OSError if it does not answer, or not in its language."""
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(address, port)
            try:
                writer.write(json.dumps(dict(request)).encode() + b"\n")
                answer = json.loads(await reader.readline())
            finally:
                writer.close()
    except ValueError as error:
        raise ConnectionResetError("the firewall manager did not answer in JSON") from error
    if not isinstance(answer, dict):
        raise ConnectionResetError("the firewall manager did not answer with an object")
    return answer


@dataclass(slots=True)
class Island:
    """The switch that cuts a site off: all ``boundaries`` between its own networks and others, at once.

    ``wired`` says whether there is such a switch: without it nobody can go into island mode.
    """

    boundaries: tuple[Boundary, ...]
    wired: bool = False
    since: float | None = None
    #: told of every change: whether the site is an island now, and why
    on_change: list[Callable[[bool, str], object]] = field(default_factory=list)

    def enter(self, why: str) -> bool:
        """Cut the site off; False where there is no switch, or it is an island already."""
        if not self.wired or self.since is not None:
            return False
        for boundary in self.boundaries:
            boundary.conduit.cut = True
            self.since = boundary.loop.time()
            boundary.audit("boundary.island", why=why)
        return self._changed(True, why)

    def leave(self, why: str) -> bool:
        """Join the site to the others again; False if it was no island."""
        if self.since is None:
            return False
        self.since = None
        for boundary in self.boundaries:
            boundary.conduit.cut = False
        return self._changed(False, why)

    def _changed(self, island: bool, why: str) -> bool:
        for told in self.on_change:
            told(island, why)
        return True


def outer(conduits: Iterable[Conduit], own: Callable[[str], bool]) -> list[str]:
    """Names of the conduits that join a zone of the site's ``own`` with one that is not."""
    return [
        conduit.name
        for conduit in conduits
        if any(own(zone.name) for zone in conduit.zones) and not all(own(zone.name) for zone in conduit.zones)
    ]
