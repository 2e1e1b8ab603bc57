"""The operating system of an asset: what gets in, what runs, and what a running program may reach."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devices.computer import (
    PORT,
    Application,
    Arrival,
    Computer,
    Dock,
    Media,
    Posture,
    Process,
    Program,
    Software,
    digest_of,
    digests,
    get,
    installed_on,
    put,
    sign,
    signature_body,
    signature_fits,
)
from tests.small_worlds import SmallWorld, attempt, one_zone

SERVER = "10.0.1.50"


@pytest.fixture
def world() -> Iterator[SmallWorld]:
    with one_zone() as small:
        yield small


def computer(world: SmallWorld, name: str = "server", address: str = SERVER) -> Computer:
    made = Computer(world.network.host(name, "control", address), name)
    world.listen(made.audit)
    return made


def serving(world: SmallWorld) -> Computer:
    made = computer(world)
    made.start()
    world.run(0.1)
    return made


def noting(made: Computer, content: bytes = b"MZ notes") -> list[Process]:
    """Teach the computer's software that ``content`` is a program; the processes that it becomes."""
    ran: list[Process] = []

    async def run(process: Process) -> None:
        ran.append(process)
        await asyncio.sleep(1000)

    made.software.add(Program("any", content, run))
    return ran


# -- programs --------------------------------------------------------------------------------------------------------


def test_bytes_do_the_same_under_any_name_and_other_bytes_do_nothing(world: SmallWorld) -> None:
    made = computer(world)
    ran = noting(made)
    for name, content in (("first.exe", b"MZ notes"), ("second.exe", b"MZ notes"), ("other.exe", b"MZ note")):
        made.store(name, content, "local")
        assert made.execute(name) is None
    world.run(1)
    assert [process.program.name for process in ran] == ["first.exe", "second.exe"]
    assert world.kinds() == ["execution.started"] * 3


def test_a_policy_refuses_a_program_and_says_why(world: SmallWorld) -> None:
    made = computer(world)
    ran = noting(made)
    made.seams.execute.append(lambda _computer, program: "scripts do not run" if program.mobile else None)
    made.store("a.js", b"MZ notes", "local")
    assert made.execute("a.js") == "scripts do not run"
    assert made.execute("nothing.exe") == "no such file"
    world.run(1)
    assert ran == []
    assert world.last("execution.refused")["reason"] == "scripts do not run"


def test_a_program_in_quarantine_ends_and_its_file_is_gone(world: SmallWorld) -> None:
    made = computer(world)
    noting(made)
    removed: list[str] = []
    made.on_removed.append(removed.append)
    made.store("a.exe", b"MZ notes", "share")
    made.execute("a.exe")
    world.run(1)
    task = made.running["a.exe"]
    made.quarantine("a.exe", "grindel")
    world.run(1)
    assert task.cancelled()
    assert "a.exe" not in made.files
    assert removed == ["a.exe"]
    assert world.last("malware.found")["digest"] == digest_of(b"MZ notes")[:16]


def test_an_application_ends_with_its_files_and_comes_back_from_its_image(world: SmallWorld) -> None:
    made = computer(world)
    made.install(Application("view", {"view.exe": b"MZ view"}, ("poll",)))

    async def poll() -> None:
        await asyncio.sleep(1000)

    polling = made.host.spawn(poll(), "poll plc1")
    other = made.host.spawn(poll(), "other")
    made.store("view.exe", b"MZ view", "share")  # the same again is no change
    world.run(1)
    assert not polling.done()
    made.store("view.exe", b"garbage", "share")
    world.run(1)
    assert polling.cancelled()
    assert not other.done()
    assert made.altered() == ["view.exe"]
    assert made.ended == {"view"}
    made.set_up_anew()
    assert made.altered() == []
    assert made.ended == set()


@pytest.mark.parametrize("kind", ["hmi", "workstation", "opcua_server", "historian", "siem", "jump_host"])
def test_what_is_installed_differs_by_product_and_version(kind: str) -> None:
    first, second = installed_on(kind, "View", "1.0")[0], installed_on(kind, "View", "1.1")[0]
    assert first.name == second.name
    assert first.files != second.files
    assert installed_on("plc", "NA-300", "1") == []


# -- signatures ------------------------------------------------------------------------------------------------------


@given(content=st.binary(max_size=200), flipped=st.integers(0, 10_000))
def test_a_signature_fits_what_was_signed_and_nothing_else(content: bytes, flipped: int) -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    other = Ed25519PrivateKey.from_private_bytes(b"\1" * 32).public_key()
    signed = sign(content, key)
    assert signature_fits(signed, key.public_key())
    assert signature_body(signed) == content
    assert not signature_fits(signed, other)
    if content:
        position = flipped % len(content)
        changed = bytearray(signed)
        changed[position] ^= 1
        assert not signature_fits(bytes(changed), key.public_key())


@given(content=st.binary(max_size=200))
def test_what_was_never_signed_has_no_signature_that_fits(content: bytes) -> None:
    public = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
    assert not signature_fits(content, public)
    assert not signature_fits(content + b"\n# SIGNED " + content, public)


# -- media -----------------------------------------------------------------------------------------------------------


def test_media_start_by_themselves_what_they_ask_for_unless_that_is_off(world: SmallWorld) -> None:
    media = Media("STICK", "s1", {"a.exe": b"MZ notes", "b.txt": b"text"}, "a.exe")
    for autorun, started in ((True, 1), (False, 0)):
        made = computer(world, f"pc{started}", f"10.0.1.6{started}")
        ran = noting(made)
        made.seams.autorun = autorun
        assert made.insert(media, "visitor") is None
        world.run(1)
        assert len(ran) == started
        assert made.open_from_media("a.exe") is None
        world.run(1)
        assert len(ran) == started + 1
        assert made.open_from_media("missing") == "no such file"
        made.eject()
        assert made.open_from_media("a.exe") == "no such file"


def test_refused_media_are_not_there(world: SmallWorld) -> None:
    made = computer(world)
    made.seams.media.append(lambda _computer, media: "not registered" if media.serial != "s1" else None)
    assert made.insert(Media("X", "s2", {"a.exe": b""}), "visitor") == "not registered"
    assert made.open_from_media("a.exe") == "no such file"
    assert world.last("media.refused") == {
        "serial": "s2",
        "label": "X",
        "user": "visitor",
        "reason": "not registered",
    }
    assert made.insert(Media("X", "s1", {}), "visitor") is None


# -- the file service ------------------------------------------------------------------------------------------------


def test_a_file_is_put_fetched_and_started_over_the_network(world: SmallWorld) -> None:
    made = serving(world)
    ran = noting(made)
    assert world.ask(put(SERVER, "docs/a.exe", b"MZ notes")) is None
    assert ran == []
    assert world.ask(get(SERVER, "docs/a.exe")) == b"MZ notes"
    assert world.ask(get(SERVER, "docs/b.exe")) is None
    assert world.ask(put(SERVER, "docs/a.exe", b"MZ notes", run=True)) is None
    world.run(1)
    assert len(ran) == 1
    assert world.last("file.received") == {"file": "docs/a.exe", "way": "share", "peer": "10.0.1.99"}


def test_a_refused_file_is_not_stored_and_the_sender_is_told_why(world: SmallWorld) -> None:
    made = serving(world)
    made.seams.receive.append(lambda _computer, arrival: f"nothing from {arrival.source}")
    assert world.ask(put(SERVER, "a.exe", b"MZ", run=True)) == "nothing from 10.0.1.99"
    assert made.files == {}


def test_digests_are_those_of_installed_files_now(world: SmallWorld) -> None:
    made = serving(world)
    made.install(Application("view", {"view.exe": b"MZ", "view.cfg": b"x"}))
    assert world.ask(digests(SERVER)) == {"view.exe": digest_of(b"MZ"), "view.cfg": digest_of(b"x")}
    made.store("view.cfg", b"y", "local")
    assert world.ask(digests(SERVER))["view.cfg"] == digest_of(b"y")


@pytest.mark.parametrize(
    ("request_line", "reason"),
    [
        (b"hello", "no request"),
        (b"[]", "no request"),
        (b'{"name": "a"}', "no request"),
        (b'{"do": "put", "name": "a", "size": -1}', "too large"),
        (b'{"do": "put", "name": "a", "size": 99999999}', "too large"),
        (b'{"do": "put", "name": "a", "size": 1e999}', "no request"),
        (b'{"do": "put", "name": "../../etc/x y"}', "no such name"),
        (b'{"do": "get", "name": "\\ud800"}', "no such name"),
        (b'{"do": "erase", "name": "a"}', "no such request"),
        (b"[" * 4000, "no request"),
        (b"x" * 5000, "no request"),
    ],
)
def test_a_request_that_is_none_is_answered_with_a_reason(
    world: SmallWorld, request_line: bytes, reason: str
) -> None:
    serving(world)
    assert json.loads(world.ask(raw(request_line + b"\n"))) == {"refused": reason}


async def raw(data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(SERVER, PORT)
    writer.write(data)
    writer.write_eof()
    line = await reader.readline()
    writer.close()
    return line


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300))
def test_no_bytes_end_the_file_service(data: bytes) -> None:
    with one_zone() as world:
        made = serving(world)
        world.ask(attempt(raw(data)))
        assert world.ask(put(SERVER, "a.txt", b"after")) is None
        assert made.files["a.txt"] == b"after"


@pytest.mark.parametrize("answer", [b"no\n", b"[]\n", b'{"size": 5}\nab', b'{"size": 1e999}\n', b""])
def test_an_answer_that_is_none_is_a_connection_error(world: SmallWorld, answer: bytes) -> None:
    host = world.network.host("liar", "control", SERVER)

    async def lie(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    async def serve() -> None:
        await asyncio.start_server(lie, SERVER, PORT)

    host.spawn(serve())
    world.run(0.1)
    assert isinstance(world.ask(attempt(get(SERVER, "a"))), ConnectionError)


def test_nobody_at_the_address_is_a_timeout_or_a_refusal(world: SmallWorld) -> None:
    assert isinstance(world.ask(attempt(put("10.0.1.77", "a", b""))), OSError)


# -- partitions ------------------------------------------------------------------------------------------------------


def partitioned(world: SmallWorld) -> tuple[Computer, list[Process]]:
    made = serving(world)
    made.install(Application("gateway", {"gateway.cfg": b"key=42"}, critical=True))
    ran = noting(made)
    made.seams.compartments["gateway"] = "essential"
    made.seams.reaches = lambda compartment, address: compartment == "essential" or address != "10.0.1.11"
    world.ask(put(SERVER, "a.exe", b"MZ notes", run=True))
    world.run(1)
    return made, ran


def test_a_process_sees_and_reaches_only_what_its_partition_may(world: SmallWorld) -> None:
    made, ran = partitioned(world)
    process = ran[0]
    assert process.names() == ["a.exe"]
    with pytest.raises(PermissionError, match="another partition"):
        process.read("gateway.cfg")
    with pytest.raises(PermissionError, match="another partition"):
        process.write("gateway.cfg", b"")
    with pytest.raises(PermissionError, match="may not reach"):
        process.modbus("10.0.1.11", 502)
    assert process.modbus("10.0.1.12", 502).host == "10.0.1.12"
    process.write("b.txt", b"mine")
    assert process.read("b.txt") == b"mine"
    with pytest.raises(FileNotFoundError):
        process.read("c.txt")
    assert made.files["gateway.cfg"] == b"key=42"


def test_the_file_service_gives_and_takes_no_file_of_another_partition(world: SmallWorld) -> None:
    made, _ = partitioned(world)
    assert world.ask(get(SERVER, "gateway.cfg")) is None
    assert world.ask(put(SERVER, "gateway.cfg", b"changed")) == "gateway.cfg is in another partition"
    assert made.files["gateway.cfg"] == b"key=42"


def test_without_partitions_everything_is_open_to_whatever_runs(world: SmallWorld) -> None:
    made = serving(world)
    made.install(Application("gateway", {"gateway.cfg": b"key=42"}))
    ran = noting(made)
    world.ask(put(SERVER, "a.exe", b"MZ notes", run=True))
    world.run(1)
    assert ran[0].read("gateway.cfg") == b"key=42"
    assert ran[0].modbus("10.0.1.11", 502).host == "10.0.1.11"
    assert world.ask(get(SERVER, "gateway.cfg")) == b"key=42"


def test_a_file_cannot_take_the_place_of_one_in_another_partition_from_media_either(
    world: SmallWorld,
) -> None:
    made, _ = partitioned(world)
    assert made.take(Arrival("gateway.cfg", b"x", "media", "s1")) == "gateway.cfg is in another partition"


# -- the maintenance port --------------------------------------------------------------------------------------------


def test_a_laptop_has_no_link_until_the_port_admits_it(world: SmallWorld) -> None:
    made = serving(world)
    laptop = Computer(world.network.hosts["attacker"], "laptop", Software())
    dock = Dock(world.network.zones["control"])
    world.listen(dock.audit)
    assert dock.connect(laptop, Posture("x", 0.0, 0.0)) is None
    assert world.ask(put(SERVER, "a.txt", b"1")) is None
    dock.inspect.append(lambda _computer, posture: "patches too old" if posture.patches_age > 10 else None)
    assert dock.connect(laptop, Posture("x", 11.0, 0.0)) == "patches too old"
    assert isinstance(world.ask(attempt(put(SERVER, "b.txt", b"2"))), OSError)
    assert list(made.files) == ["a.txt"]
    assert world.last("dock.refused")["peer"] == "10.0.1.99"
    assert dock.connect(laptop, Posture("x", 9.0, 0.0)) is None
    assert world.ask(put(SERVER, "b.txt", b"2")) is None
