"""Keys and what is left on devices: stolen papers, secrets copied from machines, disks, programs of controllers.

ATT&CK for ICS T0893, T0848, T0855, T0845 and T0882.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from controls.iac import PAPERS, PASSWORD
from devices.certificates import borrowed_context
from devices.disk import carve
from devices.modbus import ModbusClient, Refusal
from devices.registers import Table
from devices.workstation import EngineeringError, upload
from scenarios.attack import Attack, Step
from scenarios.steps.commands import lacks_tags
from scenarios.steps.sessions import disclose
from testbed import site as sites
from testbed.site import Name, Site, TagName


def lacks_predecessor(site: Site, device: str) -> Iterator[str]:
    """A sentence if ``device`` is no workstation's predecessor."""
    known = [
        old
        for asset in site.assets.values()
        if isinstance(asset, sites.Workstation)
        for old in asset.predecessors
    ]
    if device not in known:
        yield f"site {site.name!r} has no old device {device!r}"


class ReportLost(Step):
    """Somebody reports that ``device`` is gone; what comes of it is up to the site."""

    hostile = False

    action: Literal["report_lost"]
    device: Name

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_predecessor(site, self.device)

    async def carry_out(self, attack: Attack) -> None:
        for told in attack.world.on_device_lost:
            told(self.device)
        attack.note(self, "reported", target=self.device)


class RetireDevice(Step):
    """Somebody takes ``device`` out of service: deletes its files, and does with the disk what the site's rule is."""

    hostile = False

    action: Literal["retire_device"]
    device: Name
    person: Name

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_predecessor(site, self.device)

    async def carry_out(self, attack: Attack) -> None:
        world = attack.world
        disk, stream, began = world.old_disks[self.device], world.stream("disposal"), world.loop.time()
        for name in disk.files:
            disk.delete(name)
        await world.loop.until(began + stream.lognormvariate(*world.figures.lognormal("disposal.delete")))
        before = disk.raw
        world.seams.dispose(disk)
        if disk.raw != before:
            seconds = stream.lognormvariate(*world.figures.lognormal("disposal.purge"))
            await world.loop.until(world.loop.time() + seconds)
        seconds = round(world.loop.time() - began, 3)
        world.trace.record("task", self.person, task="retire a device", outcome="done", seconds=seconds)
        attack.note(self, "retired", target=self.device)


class ReadDisk(Step):
    """Read the disk of ``device``, bought second-hand or stolen, for whatever its blocks still hold."""

    action: Literal["read_disk"]
    device: Name

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_predecessor(site, self.device)

    async def carry_out(self, attack: Attack) -> None:
        found = carve(attack.world.old_disks[self.device].raw)
        if found["private key"]:
            attack.found["papers"] = found["private key"][0]
        lines = sum(program.count(b"\n") for program in found["program"])
        disclose(
            attack, self, "disk", lines + len(found["private key"]) + len(found["password"]), self.device
        )


class StealSecrets(Step):
    """Copy the ``what`` of machine ``of``, which stands open to the attacker for a moment.

    ``password``: what its program logs in with, under the name ``user``; ``papers``: its key and certificate.
    """

    action: Literal["steal_secrets"]
    of: Name
    what: Literal["password", "papers"]
    user: str = "service"

    def lacks(self, site: Site) -> Iterator[str]:
        if self.of not in site.assets:
            yield f"site {site.name!r} has no asset {self.of!r}"

    async def carry_out(self, attack: Attack) -> None:
        copied = attack.world.keystores[self.of].export(PASSWORD if self.what == "password" else PAPERS)
        if copied is None:
            attack.note(self, "refused", target=self.of, what=self.what)
            return
        if self.what == "password":
            attack.found["credentials"] = (self.user, copied.decode())
        else:
            attack.found["papers"] = copied
        disclose(attack, self, self.what, 1, self.of)


class Impersonate(Step):
    """Connect to ``plc`` from the attacker's machine with the papers of another device, and write ``values``.

    They are those of ``device``, which the attacker has in hand, those that an earlier step found, or those of the
    machine that the attacker is at and can use while there.
    """

    action: Literal["impersonate"]
    plc: Name
    values: dict[TagName, float]
    device: Name | None = None

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_tags(site, self.plc, self.values)
        if self.device is not None:
            yield from lacks_predecessor(site, self.device)

    async def carry_out(self, attack: Attack) -> None:
        await impersonate(attack, self)


async def impersonate(attack: Attack, step: Impersonate) -> None:
    """T0848: be the device whose key one holds."""
    world = attack.world
    store = world.keystores.get(attack.host.name)
    papers = attack.found.get("papers")
    if step.device is not None:
        papers = world.seams.issuer.papers(step.device, "workstation")
    elif papers is None and store is not None:
        papers = store.use(PAPERS, attack.host)
    context = borrowed_context(papers) if isinstance(papers, bytes) else None
    if context is None:
        attack.note(step, "refused", target=step.plc, reason="no key")
        return
    asset = world.site.controllers()[step.plc]
    client = ModbusClient(
        asset.address, world.service_port(step.plc, asset.port), ssl=context, server_hostname=step.plc
    )
    for name, value in step.values.items():
        tag = asset.tags[name]
        try:
            answer = await client.write(Table(tag.table), tag.address, tag.encode(value))
        except OSError as error:
            attack.note(step, "refused", target=step.plc, tag=name, reason=type(error).__name__)
            break
        refused = isinstance(answer, Refusal)
        attack.note(step, "refused" if refused else "done", target=step.plc, tag=name)
    client.close()


class StealProgram(Step):
    """Read the program out of ``plc`` by Modbus."""

    action: Literal["steal_program"]
    plc: Name

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_tags(site, self.plc, ())

    async def carry_out(self, attack: Attack) -> None:
        asset = attack.world.site.controllers()[self.plc]
        client = ModbusClient(asset.address, asset.port, unit=asset.unit_id)
        try:
            source = await upload(client)
        except (OSError, EngineeringError) as error:
            attack.note(self, "refused", target=self.plc, reason=str(error))
            return
        finally:
            client.close()
        disclose(attack, self, "program", source.count("\n"), self.plc)
