"""What is done to records and clocks, by attackers and by chance, and people who look for who it was.

ATT&CK for ICS T0872 (Indicator Removal on Host), T0830 (Adversary-in-the-Middle) and T0856.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from devices.auditlog import AuditLog, AuditRecord, ask, search
from devices.modbus import ModbusClient
from devices.registers import Table
from devices.syslog import encode, to_datetime
from devices.timekeeping import HEADER, PORT, STAMPS
from devices.world import World
from scenarios.attack import Attack, Seconds, Step
from scenarios.steps.commands import lacks_assets, lacks_tags
from testbed import site as sites
from testbed.network import Packet
from testbed.site import Name, Site, Tag, TagName


class AuditNoise(Step):
    """Write ``tag`` of a PLC ``rate`` times a second for ``lasting`` s, each value of ``values`` in turn.

    Every write leaves a record, so that older records have to go where there is no room.
    """

    action: Literal["audit_noise"]
    plc: Name
    tag: TagName
    values: Annotated[tuple[float, ...], Field(min_length=1)]
    rate: Annotated[float, Field(gt=0, le=200)]
    lasting: Seconds

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_tags(site, self.plc, (self.tag,))

    async def carry_out(self, attack: Attack) -> None:
        asset, loop = attack.world.site.controllers()[self.plc], attack.world.loop
        tag = asset.tags[self.tag]
        client = ModbusClient(asset.address, asset.port, unit=asset.unit_id)
        begin, sent = loop.time(), 0
        while loop.time() - begin < self.lasting:
            value = self.values[sent % len(self.values)]
            try:
                await client.write(Table(tag.table), tag.address, tag.encode(value))
            except (TimeoutError, ConnectionError) as error:
                attack.note(self, "failed", target=self.plc, reason=type(error).__name__)
                break
            sent += 1
            await asyncio.sleep(max(0.0, begin + sent / self.rate - loop.time()))
        client.close()
        attack.note(self, "finished", target=self.plc, sent=sent)


class EraseRecords(Step):
    """On the machine ``store``: delete every record that names the account in use there or the machine itself.

    ``right`` is what the attacker acts with: rights on the machine, or a stolen account of the audit role.
    """

    action: Literal["erase_records"]
    store: Name
    right: Literal["machine", "audit"] = "machine"

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_assets(site, self.store)

    async def carry_out(self, attack: Attack) -> None:
        world = attack.world
        log, user = _at(world, self.store)
        if log is None:
            attack.note(self, "finished", target=self.store, reason="no records are kept")
            return
        mine = (user, world.network.hosts[self.store].address)
        result = log.erase(
            lambda record: record.data.get("user") in mine or record.data.get("peer") in mine,
            user,
            self.right,
        )
        if isinstance(result, str):
            attack.note(self, "refused", target=self.store, user=user, reason=result)
        else:
            attack.note(self, "done", target=self.store, user=user, erased=result)


def _at(world: World, asset: str) -> tuple[AuditLog | None, str]:
    """The store of ``asset``, None if it keeps nothing, and what records call whoever acts there.

    That is the account in use at a station, else the machine's address.
    """
    log, hmi = world.logs.get(asset), world.hmis.get(asset)
    session = hmi.session if hmi is not None else None
    name = session.user.name if session is not None else world.network.hosts[asset].address
    return (log if log is not None and log.seams.keeps else None), name


class PlantRecords(Step):
    """On the station ``store``: beside each record of the account in use there, write one that blames ``blame``."""

    action: Literal["plant_records"]
    store: Name
    blame: Name

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_assets(site, self.store)

    async def carry_out(self, attack: Attack) -> None:
        world = attack.world
        log, user = _at(world, self.store)
        if log is None:
            attack.note(self, "finished", target=self.store, reason="no records are kept")
            return
        for record in [one for one in log.records if one.data.get("user") == user]:
            reason = log.plant(record.kind, {**record.data, "user": self.blame}, record.time, user)
            if reason is not None:
                attack.note(self, "refused", target=self.store, user=user, reason=reason)
                return
        attack.note(self, "done", target=self.store, user=user, blamed=self.blame)


class ForgeMessages(Step):
    """Send the SIEM what ``source`` would say if ``blame`` had written ``tag``, with the attacker's own hand.

    The messages tell of the last ``back`` s, one every 5 s, so that true ones stand among false ones.
    """

    action: Literal["forge_messages"]
    siem: Name
    source: Name
    tag: TagName
    blame: Name
    back: Seconds = 60.0

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_assets(site, self.blame)
        yield from lacks_tags(site, self.source, (self.tag,))
        if not isinstance(site.assets.get(self.siem), sites.Siem):
            yield f"site {site.name!r} has no SIEM {self.siem!r}"

    async def carry_out(self, attack: Attack) -> None:
        world, siem = attack.world, attack.world.siems[self.siem]
        tag = world.site.tag(self.source, self.tag)
        address = world.network.hosts[self.blame].address
        data = {"peer": address, "function": 6, "table": tag.table, "address": tag.address}
        transport, _ = await world.loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=(siem.host.address, siem.port)
        )
        assert isinstance(transport, asyncio.DatagramTransport)
        before, now = siem.messages, world.site.epoch.timestamp() + world.loop.time()
        for number in range(int(self.back / 5.0)):
            transport.sendto(encode(self.source, "write", data, to_datetime(now - 5.0 * number)))
        await asyncio.sleep(1.0)
        transport.close()
        forged = [one for one in world.archives[self.siem].records if self._is_forged(one, address)]
        if forged:
            world.archives[self.siem].contested = True
        attack.note(self, "finished", target=self.siem, taken=siem.messages > before)

    def _is_forged(self, record: AuditRecord, address: str) -> bool:
        return record.source == self.source and record.data.get("peer") == address and not record.signature


class FalseTime(Step):
    """Stand between the time server and ``victims`` and shift what it tells them by ``shift`` s, for ``lasting`` s."""

    action: Literal["false_time"]
    server: Name
    victims: Annotated[tuple[Name, ...], Field(min_length=1)]
    shift: float
    lasting: Seconds

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_assets(site, *self.victims)
        if not isinstance(site.assets.get(self.server), sites.TimeServer):
            yield f"site {site.name!r} has no time server {self.server!r}"

    async def carry_out(self, attack: Attack) -> None:
        hosts = attack.world.network.hosts
        server = hosts[self.server].address
        forged = 0

        def shifted(packet: Packet) -> bytes:
            nonlocal forged
            raw = packet.payload
            if packet.source != server or packet.source_port != PORT or len(raw) < HEADER:
                return raw
            forged += 1
            return shift_times(raw, self.shift)

        stood = [name for name in self.victims if attack.host.interpose(server, hosts[name].address, shifted)]
        if not stood:
            attack.note(self, "refused", target=self.server, reason="the switch refused forged ARP replies")
            return
        attack.note(self, "started", target=self.server)

        async def withdraw() -> None:
            await asyncio.sleep(self.lasting)
            for name in stood:
                attack.host.withdraw(server, hosts[name].address)
            attack.note(self, "finished", target=self.server, forged=forged)

        # What comes next in the scenario is done while the clocks go wrong.
        attack.host.spawn(withdraw(), "false time")


def shift_times(raw: bytes, seconds: float) -> bytes:
    """An NTP packet whose server's times are ``seconds`` later; what it repeats of the question stays."""
    changed = bytearray(raw)
    for at in STAMPS:
        stamp = int.from_bytes(raw[at : at + 8], "big") + int(seconds * 2**32)
        changed[at : at + 8] = (stamp & 0xFFFF_FFFF_FFFF_FFFF).to_bytes(8, "big")
    return bytes(changed)


class LogFails(Step):
    """The audit store of ``asset`` can write no more, for ``reason``."""

    hostile = False

    action: Literal["log_fails"]
    asset: Name
    reason: str = "disk full"

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_assets(site, self.asset)

    async def carry_out(self, attack: Attack) -> None:
        log = attack.world.logs.get(self.asset)
        if log is not None:
            log.fail(self.reason)
        attack.note(self, "finished", target=self.asset)


class Investigate(Step):
    """``person`` at ``station`` looks through ``stores`` for who wrote ``tag`` of ``plc``.

    With a tool, by one query of all; by reading over the network, one after another; else by walking to each.
    """

    hostile = False

    action: Literal["investigate"]
    person: Name
    station: Name
    stores: Annotated[tuple[Name, ...], Field(min_length=1)]
    plc: Name
    tag: TagName

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_assets(site, self.station, *self.stores)
        yield from lacks_tags(site, self.plc, (self.tag,))

    async def carry_out(self, attack: Attack) -> None:
        host = attack.world.network.hosts[self.station]
        await host.spawn(investigate(attack, self), "investigation")


async def investigate(attack: Attack, step: Investigate) -> None:
    """Runs at the analyst's station; a finding is the first record that says who it was."""
    world = attack.world
    began, tag = world.loop.time(), world.site.tag(step.plc, step.tag)
    stream = world.stream(f"investigation:{step.person}")

    async def takes(what: str) -> None:
        await asyncio.sleep(stream.lognormvariate(*world.figures.lognormal(what)))

    addresses = {name: world.network.hosts[name].address for name in step.stores}
    wanted = {"kind": "write", "match": {"table": tag.table, "address": tag.address}}
    who = None
    answers = await search(addresses.values(), wanted)
    if answers:
        await takes("audit.query")
        who = _writer(answers, step.plc, tag)
    if who is None:
        for name, address in addresses.items():
            records = await _read(address)
            if records is None:
                await takes("audit.walk")
                records = _at_the_device(world.logs.get(name))
            await takes("audit.read")
            who = _writer(records, step.plc, tag)
            if who is not None:
                break
    if who is not None:
        world.trace.record("finding", step.person, what=f"{who} wrote {step.tag} of {step.plc}")
    world.trace.record(
        "task",
        step.person,
        task="investigation",
        outcome="done" if who is not None else "refused",
        seconds=round(world.loop.time() - began, 3),
    )
    attack.note(step, "finished", target=step.plc, found=who)


async def _read(address: str) -> list[dict[str, Any]] | None:
    """A device's latest records over the network; None where no service hands them out."""
    try:
        answer = await ask(address, {"do": "read"})
    except OSError:
        return None
    records: list[dict[str, Any]] | None = answer.get("records")
    return records


def _at_the_device(log: AuditLog | None) -> list[dict[str, Any]]:
    if log is None:
        return []
    return [{"source": one.source, "kind": one.kind, "data": dict(one.data)} for one in log.records]


def _writer(records: list[dict[str, Any]], plc: str, tag: Tag) -> str | None:
    """Whom the latest record of a write to the tag names."""
    for record in reversed(records):
        data = record["data"]
        if (
            record["source"] == plc
            and record["kind"] == "write"
            and data.get("table") == tag.table
            and str(data.get("address")) == str(tag.address)
        ):
            return str(data.get("peer"))
    return None
