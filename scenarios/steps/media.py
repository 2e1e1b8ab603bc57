"""What is carried in and what runs on the site's computers: sticks, laptops, scripts and worms; and changed logic.

ATT&CK for ICS T0847, T0864, T0853, T0866, T0867, T0843 and T0889. All malware here is invented; it consists of a few
bytes that a scanner may know, and of what a run does with them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from devices.computer import Arrival, Computer, Media, Posture, Process, Program, get, put
from devices.modbus import ModbusClient, Refusal
from devices.protection import DAY, pattern_of
from devices.registers import Table
from devices.workstation import EngineeringError, download, upload
from scenarios.attack import Attack, Step
from scenarios.steps.commands import lacks_tags
from testbed.document import Document
from testbed.site import Name, Site, TagName

#: What encrypted files begin with, for whoever looks at them afterwards.
RANSOM = b"ENCRYPTED\0"
FilePath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$")]


class Malware(Document):
    """What runs: of which ``family`` it is, and what it ``does`` ``dwell`` s after it has got onto a computer.

    ``encrypt`` overwrites every file that it can reach, ``command`` writes ``values`` (engineering units) to ``plc``
    by Modbus each 10 s, ``nothing`` only spreads. With ``spreads`` it goes to the site's other computers by their file
    services. ``reads`` is a file that it needs first.
    """

    family: Name
    does: Literal["encrypt", "command", "nothing"] = "encrypt"
    dwell: Annotated[float, Field(ge=0)] = 0.0
    spreads: bool = False
    reads: FilePath | None = None
    plc: Name | None = None
    values: dict[TagName, float] = Field(default_factory=dict)

    def lacks(self, site: Site) -> Iterator[str]:
        """Sentences about what it names and ``site`` does not have."""
        if self.does == "command":
            yield from lacks_tags(site, self.plc or "", self.values)


def program_of(attack: Attack, step: Step, malware: Malware, name: str) -> Program:
    """The malware as bytes under a name; from now on the world's computers do with these bytes what it says."""
    head = b"Sub AutoOpen() " if name.endswith((".xlsm", ".docm")) else b"MZ"
    content = head + pattern_of(malware.family) + malware.model_dump_json().encode()

    async def run(process: Process) -> None:
        await _run(attack, step, malware, process)

    return attack.world.software.add(Program(name, content, run))


async def _run(attack: Attack, step: Step, malware: Malware, process: Process) -> None:
    infected = attack.found.setdefault("infected", {})
    assert isinstance(infected, dict)
    here = process.computer.name
    if here in infected:
        return  # one copy is enough, as real worms see to
    infected[here] = process.program.name
    attack = replace(attack, attacker=process.computer.host)  # from now on it is this machine that acts
    attack.gain(f"host:{here}")
    attack.note(step, "done", target=here, what="runs")
    parts = [_act(attack, step, malware, process)]
    if malware.spreads:
        parts.append(_spread(attack, step, process, infected))
    await asyncio.gather(*parts)


async def _spread(attack: Attack, step: Step, process: Process, infected: Mapping[str, str]) -> None:
    """T0867: copy itself to one computer after another and start it there."""
    world, program = attack.world, process.program
    stream = world.stream(f"malware:{process.computer.name}")
    targets = [name for name in world.computers if name != process.computer.name]
    stream.shuffle(targets)
    for target in targets:
        await asyncio.sleep(stream.lognormvariate(*world.figures.lognormal("malware.spread")))
        if target in infected:
            continue
        try:
            reason = await process.put(
                world.network.hosts[target].address, program.name, program.content, run=True
            )
        except OSError as error:
            reason = type(error).__name__
        if reason is not None:
            attack.note(step, "refused", target=target, reason=reason)


async def _act(attack: Attack, step: Step, malware: Malware, process: Process) -> None:
    await asyncio.sleep(malware.dwell)
    here = process.computer.name
    try:
        if malware.reads is not None:
            process.read(malware.reads)
        if malware.does == "encrypt":
            _encrypt(attack, step, process)
        elif malware.does == "command":
            await _command(attack, step, malware, process)
    except OSError as error:
        attack.note(step, "refused", target=here, reason=error.strerror or type(error).__name__)


def _encrypt(attack: Attack, step: Step, process: Process) -> None:
    """T0809 and so T0829: what the station needs to show anything is gone."""
    stream = attack.world.stream(f"key:{process.computer.name}")
    names = [name for name in process.names() if name != process.program.name]
    for name in names:
        process.write(name, RANSOM + stream.randbytes(len(process.read(name))))
    attack.note(step, "done", target=process.computer.name, what="encrypted", files=len(names))


async def _command(attack: Attack, step: Step, malware: Malware, process: Process) -> None:
    """T0855, from a computer that PLCs know."""
    assert malware.plc is not None
    asset = attack.world.site.controllers()[malware.plc]
    client = process.modbus(asset.address, asset.port, asset.unit_id)
    while True:
        for name, value in malware.values.items():
            tag = asset.tags[name]
            answer = await client.write(Table(tag.table), tag.address, tag.encode(value))
            outcome = "refused" if isinstance(answer, Refusal) else "done"
            attack.note(step, outcome, target=malware.plc, tag=name, reason=str(answer) if answer else None)
        await asyncio.sleep(10.0)


def lacks_computers(site: Site, *names: str) -> Iterator[str]:
    """Sentences about assets that ``site`` does not have."""
    for name in names:
        if name not in site.assets:
            yield f"site {site.name!r} has no asset {name!r}"


# -- media -----------------------------------------------------------------------------------------------------------


async def bring(
    attack: Attack, step: Step, computer: Computer, media: Media, person: str, file: str
) -> str | None:
    """Somebody brings files: through the media station, if the site has one, into a port, and opens ``file``.

    The reason if that did not work; the work is marked as a task.
    """
    world, began = attack.world, attack.world.loop.time()
    stream = world.stream(f"media:{person}")
    station, reason = world.media_station, None
    if station is not None:
        await asyncio.sleep(station.seconds)
        seal = station.seal(media)
        if seal is None:
            reason = "found at the media station"
        else:
            media = replace(media, seal=seal)
    await asyncio.sleep(stream.lognormvariate(*world.figures.lognormal("media.handling")))
    if reason is None:
        reason = computer.insert(media, person)
    outcome = "done" if reason is None else "refused"
    if reason is None and file not in computer.running:
        reason = computer.open_from_media(file)
    seconds = round(world.loop.time() - began, 3)
    world.trace.record("task", person, task="bring files", outcome=outcome, seconds=seconds)
    computer.eject()
    return reason


class CarryMedia(Step):
    """``person`` brings a stick that has malware on it beside what is wanted, and puts it into ``computer``."""

    action: Literal["carry_media"]
    computer: Name
    serial: Annotated[str, StringConstraints(min_length=1)]
    person: Name = "contractor1"
    malware: Malware

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_computers(site, self.computer)
        yield from self.malware.lacks(site)

    async def carry_out(self, attack: Attack) -> None:
        await carry_media(attack, self)


async def carry_media(attack: Attack, step: CarryMedia) -> None:
    """T0847: whoever brings it knows of nothing."""
    program = program_of(attack, step, step.malware, "setup.exe")
    files = {program.name: program.content, "manual.pdf": b"%PDF-1.7 manual of the pumps"}
    media = Media("PUMPS", step.serial, files, program.name)
    if not attack.world.physical.admit("contractor", step.computer):
        attack.note(step, "refused", target=step.computer, reason="not let in")
        return
    computer = attack.world.computers[step.computer]
    reason = await bring(attack, step, computer, media, step.person, program.name)
    if reason is not None:
        attack.note(step, "refused", target=step.computer, reason=reason)


class BringFiles(Step):
    """``person`` brings clean files on a stick to ``computer``: ordinary work."""

    hostile = False

    action: Literal["bring_files"]
    computer: Name
    serial: Annotated[str, StringConstraints(min_length=1)]
    person: Name = "engineer1"

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_computers(site, self.computer)

    async def carry_out(self, attack: Attack) -> None:
        media = Media("FILES", self.serial, {"recipe.csv": b"LIT101_L_SP;500\r\n"})
        computer = attack.world.computers[self.computer]
        reason = await bring(attack, self, computer, media, self.person, "recipe.csv")
        attack.note(self, "finished" if reason is None else "hindered", target=self.computer, reason=reason)


class DockLaptop(Step):
    """The attacker's machine is a laptop for maintenance, plugged into the maintenance port of its zone by ``owner``.

    It is infected; ``patches_age`` and ``signatures_age`` (days) are what its agent truthfully says of it.
    """

    action: Literal["dock_laptop"]
    owner: Name
    patches_age: Annotated[float, Field(ge=0)]
    signatures_age: Annotated[float, Field(ge=0)]
    malware: Malware

    def lacks(self, site: Site) -> Iterator[str]:
        yield from self.malware.lacks(site)

    async def carry_out(self, attack: Attack) -> None:
        dock_laptop(attack, self)


def dock_laptop(attack: Attack, step: DockLaptop) -> None:
    """T0864: what the laptop caught elsewhere comes along."""
    host, world = attack.host, attack.world
    if not world.physical.admit("contractor", host.zone.name):
        attack.note(step, "refused", target=host.zone.name, reason="not let in")
        return
    computer = Computer(host, host.name, world.software)
    posture = Posture(step.owner, step.patches_age * DAY, step.signatures_age * DAY)
    reason = world.docks[host.zone.name].connect(computer, posture)
    world.trace.record(
        "task",
        step.owner,
        task="connect a laptop",
        outcome="done" if reason is None else "refused",
        seconds=0.0,
    )
    if reason is not None:
        attack.note(step, "refused", target=host.zone.name, reason=reason)
    program = program_of(attack, step, step.malware, "helper.exe")
    computer.store(program.name, program.content, "local")
    computer.execute(program.name)


class VendorPublishes(Step):
    """The vendor of the protection has seen a new ``family`` elsewhere and publishes a signature of it."""

    hostile = False

    action: Literal["vendor_publishes"]
    family: Name

    async def carry_out(self, attack: Attack) -> None:
        attack.world.vendor.publish(self.family)
        attack.note(self, "finished", family=self.family)


# -- documents and other machines ------------------------------------------------------------------------------------


class PlantFile(Step):
    """Put malware as ``file`` onto ``server`` by its file service, over what is there; with ``run`` start it there."""

    action: Literal["plant_file"]
    server: Name
    file: FilePath
    run: bool = False
    malware: Malware

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_computers(site, self.server)
        yield from self.malware.lacks(site)

    async def carry_out(self, attack: Attack) -> None:
        await plant_file(attack, self)


async def plant_file(attack: Attack, step: PlantFile) -> None:
    """T0866 where it is run at once; else a step of T0853, for whoever opens the file."""
    program = program_of(attack, step, step.malware, step.file)
    address = attack.world.network.hosts[step.server].address
    try:
        reason = await put(address, program.name, program.content, run=step.run)
    except OSError as error:
        attack.note(step, "failed", target=step.server, reason=type(error).__name__)
        return
    attack.note(step, "refused" if reason is not None else "done", target=step.server, reason=reason)


class OpenDocument(Step):
    """``person`` at ``computer`` opens ``file`` from ``server``, as on every shift."""

    hostile = False

    action: Literal["open_document"]
    computer: Name
    server: Name
    file: FilePath
    person: Name = "operator1"

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_computers(site, self.computer, self.server)

    async def carry_out(self, attack: Attack) -> None:
        computer = attack.world.computers[self.computer]
        await computer.host.spawn(open_document(attack, self, computer), "open document")


async def open_document(attack: Attack, step: OpenDocument, computer: Computer) -> None:
    """Runs at the computer. A document whose script is refused can still be read, and the work is done."""
    world, began = attack.world, attack.world.loop.time()
    stream = world.stream(f"documents:{step.person}")
    await asyncio.sleep(stream.lognormvariate(*world.figures.lognormal("media.open_display")))
    address = world.network.hosts[step.server].address
    try:
        content = await get(address, step.file)
        reason = "no such file" if content is None else None
    except OSError as error:
        content, reason = None, type(error).__name__
    if content is not None:
        reason = computer.take(Arrival(step.file, content, "share", address))
        if reason is None:
            reason = computer.execute(step.file)
    seconds = round(world.loop.time() - began, 3)
    outcome = "done" if content is not None else "refused"
    world.trace.record("task", step.person, task="open a document", outcome=outcome, seconds=seconds)
    attack.note(step, "finished" if reason is None else "hindered", target=step.computer, reason=reason)


# -- logic ------------------------------------------------------------------------------------------------------------


class LoadLogic(Step):
    """Load a program with ``statements`` at its end into ``plc``, ``signed`` by the workstation's own tool or not."""

    action: Literal["load_logic"]
    plc: Name
    statements: Annotated[str, StringConstraints(min_length=1)]
    signed: bool = False

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_tags(site, self.plc, ())

    async def carry_out(self, attack: Attack) -> None:
        await load_logic(attack, self)


async def load_logic(attack: Attack, step: LoadLogic) -> None:
    """T0843: upload what is there, change it, load it."""
    world, asset = attack.world, attack.world.site.controllers()[step.plc]
    mine = attack.host.name in world.site.assets
    client = (
        world.connector(attack.host.name)(step.plc)
        if mine
        else ModbusClient(asset.address, asset.port, unit=asset.unit_id)
    )
    station = world.workstations.get(attack.host.name) if step.signed else None
    try:
        source = await upload(client)
        body, end, rest = source.rpartition("END_PROGRAM")
        changed = f"{body}{step.statements}\n{end}{rest}"
        taken = await download(client, changed, station.sign(changed) if station is not None else b"")
    except EngineeringError as error:
        attack.note(step, "refused", target=step.plc, reason=str(error))
        return
    except OSError as error:
        attack.note(step, "failed", target=step.plc, reason=type(error).__name__)
        return
    attack.note(step, "done" if taken else "refused", target=step.plc)
