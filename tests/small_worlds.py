"""Small worlds for tests of devices: one tank, a PLC that fills it, and whoever else a test needs, on one loop.

``one_zone`` has PLC, HMI and attacker side by side; ``two_zones`` puts a conduit between the PLC's zone and the
control room. Nothing in them is mocked: requests and alarms are bytes on the in-memory network.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from devices.hmi import Hmi
from devices.logic import compile_program
from devices.modbus import ModbusClient
from devices.plc import PeerTags, Plc, PlcTimes
from devices.poller import checksum_address
from devices.wiring import Wiring
from testbed import site as sites
from testbed.clock import SimLoop
from testbed.errors import UnknownNameError
from testbed.network import Network
from testbed.plant import Actuator, Sensor, SensorSpec
from testbed.randomness import Randomness
from testbed.trace import Trace

T = TypeVar("T")

LIMITS = {"LL": 100, "L": 200, "H": 800, "HH": 900, "deadband": 20, "delay": 2}
TAGS: dict[str, Any] = {
    "INLET": {"table": "coil", "address": 0, "command": "INLET"},
    "OUTLET": {"table": "coil", "address": 1, "command": "OUTLET"},
    "INLET_AUTO": {"table": "coil", "address": 2, "initial": True, "writable": True},
    "INLET_CMD": {"table": "coil", "address": 3, "writable": True},
    "ACK": {"table": "coil", "address": 4, "writable": True},
    "HIGH": {"table": "discrete", "address": 0, "signal": "high"},
    "LEVEL": {
        "table": "input",
        "address": 0,
        "signal": "LEVEL",
        "unit": "mm",
        "scale": 0.1,
        "alarms": LIMITS,
    },
    "FILLS": {"table": "input", "address": 1},
    "L_SP": {"table": "holding", "address": 0, "unit": "mm", "scale": 0.1, "initial": 400, "writable": True},
    "H_SP": {"table": "holding", "address": 1, "unit": "mm", "scale": 0.1, "initial": 600, "writable": True},
    "BEAT": {"table": "holding", "address": 2, "writable": True},
}

#: Fills the tank between L_SP and H_SP; by hand INLET follows INLET_CMD. ACK is taken and cleared.
LOGIC = """
PROGRAM tank
VAR
  LEVEL : REAL; HIGH : BOOL;
  L_SP, H_SP : REAL;
  INLET_AUTO : BOOL := TRUE; INLET_CMD, ACK : BOOL;
  BEAT : UINT;
  INLET, OUTLET : BOOL;
  FILLS, ACKS : UINT;
  BEFORE : BOOL;
END_VAR
OUTLET := TRUE;
IF INLET_AUTO THEN
  IF LEVEL <= L_SP THEN INLET := TRUE; ELSIF LEVEL >= H_SP THEN INLET := FALSE; END_IF;
ELSE
  INLET := INLET_CMD;
END_IF;
IF INLET AND NOT BEFORE THEN FILLS := FILLS + 1; END_IF;
BEFORE := INLET;
IF ACK THEN ACKS := ACKS + 1; END_IF;
ACK := FALSE;
END_PROGRAM
"""

#: The same with the tank's inlet always open: what an attacker would load.
BAD_LOGIC = LOGIC.replace("OUTLET := TRUE;", "OUTLET := TRUE; L_SP := 2000.0; H_SP := 3000.0;")


class Tank:
    """A ``PlantModel``: 1 m deep, INLET raises the level by 20 mm/s, OUTLET lowers it by 10 mm/s."""

    name = "tank"
    step = 0.1
    signals = ("level", "high", "elapsed")
    envelope: Mapping[str, tuple[float, float]] = {"level": (0.1, 0.9)}

    def __init__(self, level: float = 0.5) -> None:
        self.level = level
        self.elapsed = 0.0
        self.actuators = {"INLET": Actuator(0.0), "OUTLET": Actuator(0.0)}

    @property
    def commands(self) -> Mapping[str, float]:
        return {name: actuator.command for name, actuator in self.actuators.items()}

    def command(self, name: str, value: float) -> None:
        if name not in self.actuators:
            raise UnknownNameError("plant command", name, self.actuators)
        self.actuators[name].drive(min(max(value, 0.0), 1.0))

    def advance(self) -> None:
        for actuator in self.actuators.values():
            actuator.advance(self.step)
        flow = 0.02 * self.actuators["INLET"].position - 0.01 * self.actuators["OUTLET"].position
        self.level = min(max(self.level + flow * self.step, 0.0), 1.0)
        self.elapsed += self.step

    def value(self, name: str) -> float:
        return {"level": self.level, "high": float(self.level > 0.85), "elapsed": self.elapsed}[name]


def controller(address: str = "10.0.1.11", zone: str = "control", **changes: Any) -> sites.Plc:
    """The description of the tank's PLC; ``changes`` replace or add fields."""
    fields: dict[str, Any] = {
        "kind": "plc",
        "zone": zone,
        "address": address,
        "logic": "tank.st",
        "scan": 0.4,
        "identity": {"vendor": "Example", "product": "P1", "revision": "1.0"},
        "tags": TAGS,
    }
    return sites.Plc(**{**fields, **changes})


class SmallWorld:
    """A loop, a network, a tank and its wiring; tests add the devices."""

    def __init__(self, level: float = 0.5) -> None:
        self.randomness = Randomness(1)
        self.loop = SimLoop()
        self.network = Network(self.loop, self.randomness)
        self.tank = Tank(level)
        sensor = Sensor(SensorSpec("LEVEL", "level", 0.0, 0.0, 1.0), self.tank, random.Random(1))
        self.wiring = Wiring(self.tank, {"LEVEL": sensor})
        self.trace = Trace(self.loop.time)
        self.controllers: dict[str, sites.Controller] = {}
        self.plcs: dict[str, Plc] = {}
        self.clients: dict[tuple[str, str], ModbusClient] = {}
        #: events of every device's audit, as (time, source, kind, data)
        self.events: list[tuple[float, str, str, dict[str, Any]]] = []
        self.loop.wake(0.0, self._advance, 1)

    def _advance(self, step: int) -> None:
        self.tank.advance()
        self.loop.wake(step * self.tank.step, self._advance, step + 1)

    # -- building ----------------------------------------------------------------------------------------------

    def listen(self, audit: Any) -> None:
        """Keep what a device has to say in ``events``."""
        audit.sinks.append(lambda source, kind, data: self.events.append((self.now, source, kind, data)))

    def plc(
        self,
        name: str = "plc1",
        asset: sites.Controller | None = None,
        logic: str = LOGIC,
        *,
        peers: Mapping[str, tuple[str, ...]] | None = None,
        phase: float = 0.1,
        times: PlcTimes | None = None,
    ) -> Plc:
        """Add a PLC, not started; ``peers`` are the tags it reads from other PLCs once a second."""
        asset = asset or controller()
        self.controllers[name] = asset
        host = self.network.host(name, asset.zone, asset.address)
        wanted = {
            peer: PeerTags(
                {tag: self.controllers[peer].tags[tag] for tag in tags},
                1.0,
                checksum_address(self.controllers[peer].tags.values()),
            )
            for peer, tags in (peers or {}).items()
        }
        times = times or PlcTimes(request_cost=0.002, watchdog=1.5)
        program = compile_program(logic, f"{name}.st")
        plc = Plc(host, name, asset, program, self.wiring, times, self.connector(name), wanted, phase)
        self.listen(plc.audit)
        self.plcs[name] = plc
        return plc

    def hmi(
        self, name: str = "hmi1", zone: str = "control", address: str = "10.0.1.20", **fields: Any
    ) -> Hmi:
        """Add an HMI that polls every PLC built so far once a second, not started."""
        polls = fields.pop("polls", dict.fromkeys(self.controllers, 1.0))
        asset = sites.Hmi(kind="hmi", zone=zone, address=address, polls=polls, stale_after=5.0, **fields)
        host = self.network.host(name, zone, address)
        hmi = Hmi(host, name, asset, self.controllers, self.connector(name), asset.stale_after)
        self.listen(hmi.audit)
        return hmi

    def connector(self, source: str) -> Callable[[str], ModbusClient]:
        """Makes (once) the client of ``source`` to a PLC."""

        def connect(plc: str) -> ModbusClient:
            if (source, plc) not in self.clients:
                self.clients[source, plc] = ModbusClient(self.controllers[plc].address)
            return self.clients[source, plc]

        return connect

    # -- running -----------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        return self.loop.time()

    def run(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        self.loop.run_to(self.now + seconds)

    def sample(self, seconds: float, probe: Callable[[], T], every: float = 0.1) -> list[T]:
        """Let ``seconds`` pass and return ``probe()`` at each ``every`` of them."""
        found = []
        for _ in range(round(seconds / every)):
            self.run(every)
            found.append(probe())
        return found

    def ask(self, coroutine: Coroutine[Any, Any, T], by: str = "attacker", within: float = 60.0) -> T:
        """Run ``coroutine`` as a program of host ``by`` to its end, and return what it returns."""
        task = self.network.hosts[by].spawn(coroutine, "question")
        end = self.now + within
        while not task.done() and self.now < end:
            self.run(0.05)
        assert task.done(), f"no end within {within} s"
        result: T = task.result()
        return result

    def client(self, plc: str = "plc1", **options: Any) -> ModbusClient:
        """A client of its own to a PLC."""
        return ModbusClient(self.controllers[plc].address, **options)

    def kinds(self, *wanted: str) -> list[str]:
        """Kinds of the audited events so far, all or those wanted, in order."""
        return [kind for _, _, kind, _ in self.events if not wanted or kind in wanted]

    def last(self, kind: str) -> dict[str, Any]:
        """Data of the latest audited event of ``kind``."""
        return next(data for _, _, found, data in reversed(self.events) if found == kind)

    def close(self) -> None:
        for host in self.network.hosts.values():
            for task in list(host.tasks):
                task.cancel()
        self.run(0.001)
        self.loop.close()


async def attempt(coroutine: Coroutine[Any, Any, T]) -> T | OSError:
    """What ``coroutine`` returns, or the error of the network that it met; as a host's program it would end the run."""
    try:
        return await coroutine
    except OSError as error:
        return error


@contextmanager
def one_zone(level: float = 0.5) -> Iterator[SmallWorld]:
    """Zone ``control`` with an attacker's host in it; ``plc`` and ``hmi`` join it."""
    world = SmallWorld(level)
    world.network.zone("control", "10.0.1.0/24")
    world.network.host("attacker", "control", "10.0.1.99")
    try:
        yield world
    finally:
        world.close()


@contextmanager
def two_zones(level: float = 0.5) -> Iterator[SmallWorld]:
    """Zones ``control`` and ``operations`` with a conduit between, and the attacker in operations."""
    world = SmallWorld(level)
    world.network.zone("control", "10.0.1.0/24")
    world.network.zone("operations", "10.0.2.0/24")
    world.network.conduit("boundary", "control", "operations")
    world.network.host("attacker", "operations", "10.0.2.99")
    try:
        yield world
    finally:
        world.close()
