"""Electronic mail: a server that takes messages by SMTP (RFC 5321) and gives them out by POP3 (RFC 1939), and clients.

The SMTP side is aiosmtpd's; POP3 is as little of it as fetching mail takes. Whom the server takes mail from, and for
whom, is a seam; by default it passes everything on to everybody, to addresses outside as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import SMTP as WIRE
from email.utils import format_datetime
from hashlib import sha256
from typing import Final

from aiosmtpd.smtp import SMTP, Envelope, Session

from devices.audit import Audit
from testbed.network import Host

SMTP_PORT: Final = 25
POP_PORT: Final = 110
#: Ports of messages between people: mail (25, 465, 587; 110, 143, 993, 995) and chat (IRC 6667, XMPP 5222).
MESSAGE_PORTS: Final = frozenset({25, 110, 143, 465, 587, 993, 995, 5222, 6667})
#: Largest message (bytes) and how long a server waits for a command (s); RFC 1939 asks for 10 min, assumption.
LARGEST: Final = 1 << 20
PATIENCE: Final = 30.0


@dataclass(frozen=True, slots=True)
class Submission:
    """A message on its way in: from which address on the network, from and to which mailboxes, and the whole of it."""

    peer: str
    sender: str
    recipient: str
    content: bytes = b""


@dataclass(slots=True)
class MailSeams:
    """What controls may fill in; the first reason refuses."""

    #: asked about each recipient, before the message itself is sent (``content`` is empty then)
    recipients: list[Callable[[Submission], str | None]] = field(default_factory=list)
    #: asked about the whole message, once for each recipient
    messages: list[Callable[[Submission], str | None]] = field(default_factory=list)


class MailServer:
    """The mail server of ``domain`` on ``host``; a mailbox's password is its name.

    ``sent`` holds what was passed on to other domains. Audits ``mail.taken`` and ``mail.refused``.
    """

    def __init__(self, host: Host, name: str, domain: str, mailboxes: Sequence[str]) -> None:
        self.host, self.name, self.domain = host, name, domain
        self.seams = MailSeams()
        self.audit = Audit(name)
        self.mailboxes: dict[str, list[bytes]] = {mailbox: [] for mailbox in mailboxes}
        self.sent: list[Submission] = []

    def start(self) -> None:
        """Begin to serve."""
        self.host.spawn(self._serve(), "mail")

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        handler = _Handler(self)
        await loop.create_server(
            lambda: SMTP(handler, data_size_limit=LARGEST, hostname=self.name, ident="mail", loop=loop),
            self.host.address,
            SMTP_PORT,
        )
        await asyncio.start_server(self._give_out, self.host.address, POP_PORT)

    def mailbox(self, address: str) -> str | None:
        """The mailbox here that an address is of; None for one elsewhere. Raises KeyError for one that is nobody's."""
        name, _, domain = address.rpartition("@")
        if domain.lower() != self.domain:
            return None
        if name not in self.mailboxes:
            raise KeyError(name)
        return name

    def judge(self, submission: Submission) -> str | None:
        """The reason not to take a submission, or None."""
        checks = self.seams.messages if submission.content else self.seams.recipients
        for check in checks:
            reason = check(submission)
            if reason is not None:
                self.audit(
                    "mail.refused",
                    peer=submission.peer,
                    user=submission.sender,
                    recipient=submission.recipient,
                    reason=reason,
                )
                return reason
        return None

    def deliver(self, submission: Submission) -> None:
        """Put a message where it belongs."""
        mailbox = self.mailbox(submission.recipient)
        if mailbox is None:
            self.sent.append(submission)
        else:
            self.mailboxes[mailbox].append(submission.content)
        self.audit("mail.taken", peer=submission.peer, user=submission.sender, recipient=submission.recipient)

    # -- POP3 ----------------------------------------------------------------------------------------------------

    async def _give_out(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = _PopSession(self)
        writer.write(b"+OK mail\r\n")
        try:
            while not session.over:
                async with asyncio.timeout(PATIENCE):
                    line = await reader.readline()
                if not line:
                    break
                writer.write(session.answer(line))
                await writer.drain()
        except (OSError, ValueError):
            pass  # silent for too long, gone, or a line without end
        finally:
            writer.close()


class _Handler:
    """What aiosmtpd asks; names are its."""

    def __init__(self, server: MailServer) -> None:
        self.server = server

    async def handle_RCPT(
        self, _smtp: SMTP, session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        try:
            self.server.mailbox(address)
        except KeyError:
            return "550 no such mailbox"
        reason = self.server.judge(Submission(_peer(session), envelope.mail_from or "", address))
        if reason is not None:
            return f"550 {reason}"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _smtp: SMTP, session: Session, envelope: Envelope) -> str:
        raw = envelope.content or b""
        content = raw if isinstance(raw, bytes) else raw.encode()
        found = [
            Submission(_peer(session), envelope.mail_from or "", recipient, content or b"\r\n")
            for recipient in envelope.rcpt_tos
        ]
        for submission in found:
            reason = self.server.judge(submission)
            if reason is not None:
                return f"554 {reason}"
        for submission in found:
            self.server.deliver(submission)
        return "250 OK"


def _peer(session: Session) -> str:
    return str(session.peer[0]) if session.peer else ""


class _PopSession:
    """One POP3 session: the commands that fetching takes; RFC 1939's states are told by ``mailbox``."""

    def __init__(self, server: MailServer) -> None:
        self.server = server
        self.user = ""
        self.mailbox: str | None = None
        self.messages: list[bytes] = []
        self.deleted: list[int] = []
        self.over = False

    def answer(self, line: bytes) -> bytes:
        """The answer to a command line, line ends included."""
        command, _, argument = line.decode("ascii", "replace").strip().partition(" ")
        command = command.upper()
        if command == "QUIT":
            self._quit()
            return b"+OK\r\n"
        if command == "USER":
            self.user = argument
            return b"+OK\r\n"
        if command == "PASS":
            return self._log_in(argument)
        if self.mailbox is None:
            return b"-ERR log in first\r\n"
        if command == "STAT":
            size = sum(len(message) for message in self.messages)
            return f"+OK {len(self.messages)} {size}\r\n".encode()
        number = (
            int(argument) - 1 if argument.isascii() and argument.isdecimal() and len(argument) < 9 else -1
        )
        if not 0 <= number < len(self.messages) or number in self.deleted:
            return b"-ERR no such message\r\n" if command in ("RETR", "DELE") else b"-ERR no such command\r\n"
        if command == "DELE":
            self.deleted.append(number)
            return b"+OK\r\n"
        if command == "RETR":
            return b"+OK\r\n" + _stuffed(self.messages[number]) + b".\r\n"
        return b"-ERR no such command\r\n"

    def _log_in(self, password: str) -> bytes:
        if self.user not in self.server.mailboxes or password != self.user:
            return b"-ERR no such mailbox or wrong password\r\n"
        self.mailbox, self.messages = self.user, list(self.server.mailboxes[self.user])
        return b"+OK\r\n"

    def _quit(self) -> None:
        self.over = True
        if self.mailbox is not None:
            arrived = self.server.mailboxes[self.mailbox][len(self.messages) :]
            kept = [one for number, one in enumerate(self.messages) if number not in self.deleted]
            self.server.mailboxes[self.mailbox] = kept + arrived


def _stuffed(message: bytes) -> bytes:
    """A message as RFC 1939, 3 sends it: ended by a line break, and a dot more before each leading dot."""
    lines = message.split(b"\r\n")
    if lines[-1] == b"":
        lines.pop()
    return b"".join((b"." + line if line.startswith(b".") else line) + b"\r\n" for line in lines)


# -- clients -------------------------------------------------------------------------------------------------------


def compose(
    sender: str, recipients: Sequence[str], subject: str, text: str, files: dict[str, bytes], now: datetime
) -> bytes:
    """A message as bytes for the wire; the same arguments make the same bytes."""
    message = EmailMessage(policy=WIRE)
    message["From"], message["To"], message["Subject"] = sender, ", ".join(recipients), subject
    message["Date"] = format_datetime(now)
    message.set_content(text)
    for name, content in files.items():
        message.add_attachment(content, maintype="application", subtype="octet-stream", filename=name)
    if files:
        # Python would draw the boundary from its global generator, and no two runs would be the same.
        digest = sha256(b"".join((subject.encode(), *files.values()))).hexdigest()
        message.set_boundary(f"=_{digest[:24]}")
    return message.as_bytes()


def attachments(message: bytes) -> dict[str, bytes]:
    """Attached files of a message by name; what is no message has none."""
    parsed = BytesParser(policy=WIRE).parsebytes(message)
    found = {}
    for part in parsed.walk():
        name = part.get_filename()
        if name is not None:
            content = part.get_payload(decode=True)
            found[name] = content if isinstance(content, bytes) else b""
    return found


async def send(server: str, sender: str, recipients: Sequence[str], message: bytes) -> list[str]:
    """Send a message through the server at an address; the mailboxes that it was taken for.

    Raises TimeoutError after PATIENCE, ConnectionError if there is no server or it hangs up.
    """
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(server, SMTP_PORT)
        try:
            await _reply(reader)
            await _ask(reader, writer, b"EHLO client\r\n")
            await _ask(reader, writer, f"MAIL FROM:<{sender}>\r\n".encode())
            taken = [
                recipient
                for recipient in recipients
                if await _ask(reader, writer, f"RCPT TO:<{recipient}>\r\n".encode()) == 250
            ]
            if taken and await _ask(reader, writer, b"DATA\r\n") == 354:
                code = await _ask(reader, writer, _stuffed(message) + b".\r\n")
                taken = taken if code == 250 else []
            await _ask(reader, writer, b"QUIT\r\n")
            return taken
        finally:
            writer.close()


async def fetch(server: str, mailbox: str) -> list[bytes]:
    """Take all messages out of a mailbox on the server at an address; none if it lets nobody in.

    Raises as ``send`` does.
    """
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(server, POP_PORT)
        try:
            await _line(reader)
            found = []
            for command in (f"USER {mailbox}", f"PASS {mailbox}", "STAT"):
                writer.write(f"{command}\r\n".encode())
                said = await _line(reader)
                if not said.startswith(b"+OK"):
                    return []
            for number in range(1, int(said.split()[1]) + 1):
                writer.write(f"RETR {number}\r\n".encode())
                if (await _line(reader)).startswith(b"+OK"):
                    found.append(await _message(reader))
                    writer.write(f"DELE {number}\r\n".encode())
                    await _line(reader)
            writer.write(b"QUIT\r\n")
            await _line(reader)
            return found
        except (ValueError, IndexError) as error:
            raise ConnectionError(f"no mail server at {server}") from error
        finally:
            writer.close()


async def _line(reader: asyncio.StreamReader) -> bytes:
    line = await reader.readline()
    if not line:
        raise ConnectionError("the mail server hung up")
    return line


async def _message(reader: asyncio.StreamReader) -> bytes:
    lines = []
    while (line := await _line(reader)) != b".\r\n":
        lines.append(line[1:] if line.startswith(b".") else line)
    return b"".join(lines)


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, command: bytes) -> int:
    writer.write(command)
    await writer.drain()
    return await _reply(reader)


async def _reply(reader: asyncio.StreamReader) -> int:
    """Code of a reply of one or more lines (RFC 5321, 4.2.1)."""
    while True:
        line = await _line(reader)
        if line[3:4] != b"-":
            return int(line[:3]) if line[:3].isdigit() else 500
