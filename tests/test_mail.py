"""Mail: messages go in by SMTP and come out by POP3 as the same bytes, and who may send to whom is a seam."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devices.mail import (
    POP_PORT,
    SMTP_PORT,
    MailServer,
    Submission,
    attachments,
    compose,
    fetch,
    send,
)
from tests.small_worlds import SmallWorld, attempt, one_zone

SERVER = "10.0.1.25"
NOW = datetime(2026, 3, 2, 6, tzinfo=UTC)
FROM, TO = "a@other.example", "operator1@plant.example"


@pytest.fixture
def world() -> Iterator[SmallWorld]:
    with one_zone() as small:
        yield small


def server(world: SmallWorld) -> MailServer:
    made = MailServer(
        world.network.host("mail", "control", SERVER), "mail", "plant.example", ["operator1", "engineer1"]
    )
    world.listen(made.audit)
    made.start()
    world.run(0.1)
    return made


def message(text: str = "hello", **files: bytes) -> bytes:
    return compose(
        FROM, [TO], "Subject", text, {name + ".bin": content for name, content in files.items()}, NOW
    )


def test_a_message_arrives_with_what_is_attached_to_it_and_is_gone_once_fetched(world: SmallWorld) -> None:
    server(world)
    sent = message(a=b"\0\r\n.\r\n\xff" * 50)
    assert world.ask(send(SERVER, FROM, [TO], sent)) == [TO]
    assert world.ask(fetch(SERVER, "engineer1")) == []
    [found] = world.ask(fetch(SERVER, "operator1"))
    assert attachments(found) == {"a.bin": b"\0\r\n.\r\n\xff" * 50}
    assert world.ask(fetch(SERVER, "operator1")) == []
    assert world.last("mail.taken") == {"peer": "10.0.1.99", "user": FROM, "recipient": TO}


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(
        st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=60), max_size=6
    )
)
def test_lines_of_dots_and_all_else_come_through_as_they_were(lines: list[str]) -> None:
    body = "\r\n".join(["Subject: x", "", *lines]).encode() + b"\r\n"
    with one_zone() as world:
        server(world)
        assert world.ask(send(SERVER, FROM, [TO], body)) == [TO]
        assert world.ask(fetch(SERVER, "operator1")) == [body]


def test_the_same_message_is_the_same_bytes(world: SmallWorld) -> None:
    assert message(a=b"1", b=b"2") == message(a=b"1", b=b"2")
    assert message(a=b"1") != message(a=b"2")


def test_mail_for_elsewhere_is_passed_on_and_mail_for_nobody_is_refused(world: SmallWorld) -> None:
    made = server(world)
    taken = world.ask(send(SERVER, TO, ["x@else.example", "nobody@plant.example"], message()))
    assert taken == ["x@else.example"]
    assert [submission.recipient for submission in made.sent] == ["x@else.example"]
    assert made.mailboxes == {"operator1": [], "engineer1": []}


def test_a_seam_refuses_a_recipient_before_anything_is_sent(world: SmallWorld) -> None:
    made = server(world)

    def not_operators(submission: Submission) -> str | None:
        return "not for operators" if submission.recipient == TO else None

    made.seams.recipients.append(not_operators)
    other = "engineer1@plant.example"
    assert world.ask(send(SERVER, FROM, [TO, other], message())) == [other]
    assert world.ask(send(SERVER, FROM, [TO], message())) == []
    assert made.mailboxes["operator1"] == []
    assert world.last("mail.refused")["reason"] == "not for operators"


def test_a_seam_refuses_a_message_by_what_is_in_it(world: SmallWorld) -> None:
    made = server(world)
    made.seams.messages.append(
        lambda submission: "no" if b"\xeb" in b"".join(attachments(submission.content).values()) else None
    )
    assert world.ask(send(SERVER, FROM, [TO], message(a=b"\xeb\xfe"))) == []
    assert world.ask(send(SERVER, FROM, [TO], message(a=b"fine"))) == [TO]
    assert len(made.mailboxes["operator1"]) == 1


def test_only_a_mailbox_and_its_password_open_it(world: SmallWorld) -> None:
    server(world)
    assert world.ask(fetch(SERVER, "visitor")) == []
    said = world.ask(talk(POP_PORT, b"STAT\r\nUSER operator1\r\nPASS wrong\r\nRETR 1\r\nQUIT\r\n"))
    assert [line[:4] for line in said.split(b"\r\n")[:-1]] == [
        b"+OK ",
        b"-ERR",
        b"+OK",
        b"-ERR",
        b"-ERR",
        b"+OK",
    ]


def test_a_message_is_deleted_only_when_the_session_ends_well(world: SmallWorld) -> None:
    made = server(world)
    world.ask(send(SERVER, FROM, [TO], message()))
    world.ask(talk(POP_PORT, b"USER operator1\r\nPASS operator1\r\nDELE 1\r\nRETR 1\r\n"))
    assert len(made.mailboxes["operator1"]) == 1
    world.ask(talk(POP_PORT, b"USER operator1\r\nPASS operator1\r\nDELE 1\r\nDELE 1\r\nDELE x\r\nQUIT\r\n"))
    assert made.mailboxes["operator1"] == []


async def talk(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(SERVER, port)
    writer.write(data)
    writer.write_eof()
    said = await reader.read()
    writer.close()
    return said


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(port=st.sampled_from([SMTP_PORT, POP_PORT]), data=st.binary(max_size=200), line=st.booleans())
def test_no_bytes_end_the_mail_server(port: int, data: bytes, line: bool) -> None:
    with one_zone() as world:
        server(world)
        world.ask(attempt(talk(port, data + b"\r\n" * line)))
        assert world.ask(send(SERVER, FROM, [TO], message())) == [TO]
        assert len(world.ask(fetch(SERVER, "operator1"))) == 1


@given(content=st.binary(max_size=300))
def test_attachments_of_what_is_no_message_are_none_or_bytes(content: bytes) -> None:
    assert all(isinstance(part, bytes) for part in attachments(content).values())


@given(name=st.binary(max_size=40), body=st.binary(max_size=80))
def test_attachments_bear_headers_of_any_kind(name: bytes, body: bytes) -> None:
    raw = b'Content-Type: application/x; name="' + name + b'"\r\nContent-Disposition: attachment;'
    raw += b" filename=" + name + b"\r\nContent-Transfer-Encoding: base64\r\n\r\n" + body
    assert all(isinstance(part, bytes) for part in attachments(raw).values())


@pytest.mark.parametrize(
    "banner", [b"", b"+OK\r\n+OK\r\n+OK\r\n+OK nothing\r\n", b"+OK\r\n+OK\r\n+OK\r\n+OK 1 5\r\n+OK\r\nx"]
)
def test_a_server_that_is_none_is_a_connection_error(world: SmallWorld, banner: bytes) -> None:
    host = world.network.host("liar", "control", SERVER)

    async def lie(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(banner)
        writer.close()

    async def serve() -> None:
        await asyncio.start_server(lie, SERVER, POP_PORT)
        await asyncio.start_server(lie, SERVER, SMTP_PORT)

    host.spawn(serve())
    world.run(0.1)
    assert isinstance(world.ask(attempt(fetch(SERVER, "operator1"))), ConnectionError)
    sent = world.ask(attempt(send(SERVER, FROM, [TO], message())))
    assert sent == [] or isinstance(sent, ConnectionError)
