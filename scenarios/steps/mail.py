"""Mail into the control system and out of it: messages with attachments, the people who read them, and what is sent.

ATT&CK for ICS T0865 and T0882.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from devices.computer import Arrival, Computer
from devices.mail import attachments, compose, fetch, send
from devices.workstation import EngineeringError, upload
from scenarios.attack import Attack, Seconds, Step
from scenarios.steps.commands import lacks_tags
from scenarios.steps.media import Malware, program_of
from testbed import site as sites
from testbed.site import Name, Site

MailAddress = Annotated[str, StringConstraints(pattern=r"^[a-z0-9._-]+@[a-z0-9.-]+$")]


def lacks_mail(site: Site, server: str) -> Iterator[str]:
    """A sentence if ``site`` has no such mail server."""
    if not isinstance(site.assets.get(server), sites.MailServer):
        yield f"site {site.name!r} has no mail server {server!r}"


class SendMail(Step):
    """Send ``messages`` mails with malware attached from ``sender`` to each of ``recipients``, one each ``every`` s."""

    action: Literal["send_mail"]
    server: Name
    sender: MailAddress
    recipients: Annotated[tuple[MailAddress, ...], Field(min_length=1)]
    malware: Malware
    messages: Annotated[int, Field(ge=1, le=100)] = 1
    every: Seconds = 10.0

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_mail(site, self.server)
        yield from self.malware.lacks(site)

    async def carry_out(self, attack: Attack) -> None:
        await send_mail(attack, self)


async def send_mail(attack: Attack, step: SendMail) -> None:
    """T0865: the same invoice under several subjects."""
    world = attack.world
    program = program_of(attack, step, step.malware, "invoice.exe")
    for number in range(1, step.messages + 1):
        now = world.site.epoch + timedelta(seconds=world.loop.time())
        files = {program.name: program.content}
        message = compose(
            step.sender, step.recipients, f"Invoice {number}", "Please look at this.", files, now
        )
        try:
            taken = await send(world.site.assets[step.server].address, step.sender, step.recipients, message)
        except OSError as error:
            attack.note(step, "failed", target=step.server, reason=type(error).__name__)
            return
        outcome = "sent" if taken else "refused"
        attack.note(step, outcome, target=step.server, recipients=len(taken))
        if number < step.messages:
            await asyncio.sleep(step.every)


class ReadMail(Step):
    """People of the mailboxes of ``server`` read their mail at their stations for ``lasting`` s, from now on."""

    hostile = False

    action: Literal["read_mail"]
    server: Name
    lasting: Seconds

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_mail(site, self.server)

    async def carry_out(self, attack: Attack) -> None:
        server = attack.world.site.assets[self.server]
        assert isinstance(server, sites.MailServer)
        for mailbox, place in server.mailboxes.items():
            computer = attack.world.computers[place]
            computer.host.spawn(read_mail(attack, self, computer, mailbox, server.address), "mail program")


async def read_mail(attack: Attack, step: ReadMail, computer: Computer, mailbox: str, server: str) -> None:
    """Runs at a station: look now and then, read what came, and sometimes open what is attached."""
    world, figures = attack.world, attack.world.figures
    stream = world.stream(f"mail:{mailbox}")
    end = world.loop.time() + step.lasting
    while world.loop.time() < end:
        await asyncio.sleep(stream.lognormvariate(*figures.lognormal("mail.check")))
        try:
            messages = await fetch(server, mailbox)
        except OSError:
            continue
        for message in messages:
            await asyncio.sleep(stream.lognormvariate(*figures.lognormal("mail.read")))
            opens = stream.random() < figures["mail.opens_attachment"]
            for name, content in attachments(message).items() if opens else ():
                if computer.take(Arrival(name, content, "mail", mailbox)) is None:
                    computer.execute(name)


class MailPrograms(Step):
    """Upload the programs of ``plcs`` and mail them to ``recipient`` outside."""

    action: Literal["mail_programs"]
    server: Name
    sender: MailAddress
    recipient: MailAddress
    plcs: Annotated[tuple[Name, ...], Field(min_length=1)]

    def lacks(self, site: Site) -> Iterator[str]:
        yield from lacks_mail(site, self.server)
        for plc in self.plcs:
            yield from lacks_tags(site, plc, ())

    async def carry_out(self, attack: Attack) -> None:
        await mail_programs(attack, self)


async def mail_programs(attack: Attack, step: MailPrograms) -> None:
    """T0882: what is read-restricted leaves as an attachment."""
    world = attack.world
    connect = world.connector(attack.host.name)
    files = {}
    for plc in step.plcs:
        try:
            files[f"{plc}.st"] = (await upload(connect(plc))).encode()
        except (OSError, EngineeringError) as error:
            attack.note(step, "refused", target=plc, reason=str(error))
    now = world.site.epoch + timedelta(seconds=world.loop.time())
    message = compose(step.sender, [step.recipient], "As discussed", "", files, now)
    try:
        taken = await send(world.site.assets[step.server].address, step.sender, [step.recipient], message)
    except OSError as error:
        attack.note(step, "failed", target=step.server, reason=type(error).__name__)
        return
    if taken:
        world.trace.record("disclosed", step.recipient, what="programs by mail", amount=len(files))
    attack.note(step, "done" if taken else "refused", target=step.server, files=len(files))
