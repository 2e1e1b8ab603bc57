"""Finding out what there is: sweeps of addresses, identities, modes, I/O images, and tags by reading.

ATT&CK for ICS T0846, T0888, T0868, T0877, T0861, T0801 and T0802.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from devices.modbus import ModbusClient, Refusal
from devices.registers import Table
from devices.workstation import EngineeringError, read_mode
from scenarios.attack import Attack, Seconds, Step
from scenarios.steps.commands import lacks_tags
from scenarios.steps.recovery import client_of
from testbed.site import Name, Port, Site

#: Seconds that a sweep waits for an answer, and how many addresses it tries at once (assumptions: usual tool settings).
PATIENCE = 1.0
AT_ONCE = 16


class Sweep(Step):
    """T0846: try to connect to ``ports`` of the first ``addresses`` addresses of ``zones``, and keep what answers."""

    action: Literal["sweep"]
    zones: Annotated[tuple[Name, ...], Field(min_length=1)]
    ports: Annotated[tuple[Port, ...], Field(min_length=1)] = (502,)
    addresses: Annotated[int, Field(ge=1, le=254)] = 100

    def lacks(self, site: Site) -> Iterator[str]:
        for zone in self.zones:
            if zone not in site.zones:
                yield f"site {site.name!r} has no zone {zone!r}"

    async def carry_out(self, attack: Attack) -> None:
        for zone in self.zones:
            subnet = attack.world.network.zones[zone].subnet
            last = min(self.addresses, subnet.num_addresses - 2)
            tried = [(str(subnet[number]), port) for number in range(1, last + 1) for port in self.ports]
            open_: list[str] = []
            for at in range(0, len(tried), AT_ONCE):
                answers = await asyncio.gather(*(_answers(*one) for one in tried[at : at + AT_ONCE]))
                open_ += [
                    f"{one[0]}:{one[1]}"
                    for one, answer in zip(tried[at : at + AT_ONCE], answers, strict=True)
                    if answer
                ]
            attack.found.setdefault("services", [])
            known = attack.found["services"]
            assert isinstance(known, list)
            known += open_
            attack.note(self, "done" if open_ else "refused", target=zone, found=len(open_), tried=len(tried))


class ListConnections(Step):
    """T0840: list the connections of the machine that the attacker acts from: nothing is sent, nothing can be seen."""

    action: Literal["list_connections"]

    async def carry_out(self, attack: Attack) -> None:
        peers = sorted({str(one.get_extra_info("peername")) for one in attack.host.connections})
        attack.found["connections"] = peers
        attack.note(self, "done" if peers else "refused", target=attack.host.name, found=len(peers))


async def _answers(address: str, port: int) -> bool:
    try:
        async with asyncio.timeout(PATIENCE):
            _, writer = await asyncio.open_connection(address, port)
    except OSError:
        return False
    writer.close()
    return True


class LookAtController(Step):
    """Ask a PLC over Modbus for its ``what``, from every ``every`` s for ``lasting`` s.

    ``identity`` (T0888), ``mode`` (T0868), ``image``: the states of inputs and outputs (T0877), ``tags``: which
    registers hold something, and what moves (T0861; over time T0801 and T0802).
    """

    action: Literal["look_at_controller"]
    plc: Name
    what: Literal["identity", "mode", "image", "tags"]
    every: Seconds = 10.0
    lasting: Annotated[float, Field(ge=0)] = 0.0

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_tags(site, self.plc, ())

    async def carry_out(self, attack: Attack) -> None:
        client = client_of(attack, self.plc)
        loop = attack.world.loop
        end = loop.time() + self.lasting
        seen: list[object] = []
        while True:
            try:
                answer = await self._ask(client)
            except (TimeoutError, ConnectionError, EngineeringError, ValueError) as error:
                attack.note(self, "failed", target=self.plc, what=self.what, reason=type(error).__name__)
                return
            if not answer:
                attack.note(self, "refused", target=self.plc, what=self.what)
                return
            seen.append(answer)
            if loop.time() + self.every > end:
                break
            await asyncio.sleep(self.every)
        attack.found[f"{self.what}:{self.plc}"] = seen[-1]
        attack.note(self, "done", target=self.plc, what=self.what, times=len(seen), items=_size(seen[-1]))

    async def _ask(self, client: ModbusClient) -> object:
        match self.what:
            case "identity":
                return await client.identify()
            case "mode":
                return (await read_mode(client)).name
            case "image":
                return await _read_on(client, (Table.COIL, Table.DISCRETE))
            case _:
                return await _read_on(client, (Table.INPUT, Table.HOLDING))


async def _read_on(client: ModbusClient, tables: tuple[Table, ...]) -> dict[str, int]:
    """What can be read from address 0 and 100 on, in steps of one, until the PLC says that there is nothing."""
    found: dict[str, int] = {}
    for table in tables:
        for start in (0, 100):
            for address in range(start, start + 32):
                answer = await client.read(table, address, 1)
                if isinstance(answer, Refusal):
                    break
                found[f"{table.value} {address}"] = answer[0]
    return found


def _size(answer: object) -> int:
    return len(answer) if isinstance(answer, dict) else 1
