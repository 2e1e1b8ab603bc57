"""The engineering workstation against a PLC: programs and modes over the wire, and what stops them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator

import pytest
from small_worlds import BAD_LOGIC, LOGIC, SmallWorld, one_zone

from devices.modbus import ModbusClient, Peer, Refusal
from devices.plc import ACTIVATE, DEVICE_BUSY, ILLEGAL_FUNCTION, MODE, PROGRAM_FILE, SYSTEM, Mode, Plc
from devices.registers import FILE_RECORDS, Table
from devices.workstation import CHUNK, EngineeringError, Workstation, change_mode, read_mode, upload


@pytest.fixture
def world() -> Iterator[SmallWorld]:
    with one_zone() as found:
        yield found


def plc_and_workstation(world: SmallWorld) -> tuple[Plc, Workstation]:
    plc = world.plc()
    plc.start()
    host = world.network.host("ews1", "control", "10.0.1.40")
    workstation = Workstation(host, "ews1", world.connector("ews1"))
    world.listen(workstation.audit)
    world.run(2)
    return plc, workstation


async def stage(client: ModbusClient, raw: bytes) -> None:
    """Write a program file, whatever is in it."""
    padded = raw + b"\0" * (len(raw) % 2)
    records = [int.from_bytes(padded[at : at + 2], "big") for at in range(0, len(padded), 2)]
    for start in range(0, len(records), CHUNK):
        assert await client.write_file(PROGRAM_FILE, start, records[start : start + CHUNK]) is None


async def load(client: ModbusClient, raw: bytes) -> None:
    """What an attacker's tool does: stop, write, activate, start; it takes no notice of answers."""
    await change_mode(client, Mode.PROGRAM)
    await stage(client, raw)
    await client.write(Table.HOLDING, ACTIVATE, [min(len(raw), 0xFFFF)])
    await change_mode(client, Mode.RUN)


def test_an_upload_is_the_source_of_the_program_that_runs(world: SmallWorld) -> None:
    _, workstation = plc_and_workstation(world)
    assert world.ask(workstation.read_program("plc1"), by="ews1") == LOGIC


def test_a_program_of_odd_length_and_any_letters_comes_back_as_it_went(world: SmallWorld) -> None:
    plc, workstation = plc_and_workstation(world)
    for comment in ("(* µ *)", "(* µm *)"):
        source = comment + LOGIC
        assert world.ask(workstation.download("plc1", source), by="ews1")
        assert plc.program.source == source
        assert world.ask(workstation.read_program("plc1"), by="ews1") == source


def test_the_workstation_reads_and_sets_the_mode(world: SmallWorld) -> None:
    plc, workstation = plc_and_workstation(world)
    assert world.ask(workstation.mode("plc1"), by="ews1") is Mode.RUN
    assert world.ask(workstation.set_mode("plc1", Mode.PROGRAM), by="ews1") is True
    assert plc.mode is Mode.PROGRAM
    plc.seams.key_switch = "program"
    assert world.ask(workstation.set_mode("plc1", Mode.RUN), by="ews1") is False
    assert plc.mode is Mode.PROGRAM


def test_a_downloaded_program_changes_what_the_plant_does(world: SmallWorld) -> None:
    plc, workstation = plc_and_workstation(world)
    assert world.ask(workstation.download("plc1", BAD_LOGIC), by="ews1") is True
    assert plc.mode is Mode.RUN
    world.run(60)
    assert world.tank.level > 0.9
    assert world.last("program.loaded") == {"peer": "10.0.1.40", "digest": plc.program.digest[:16]}
    assert world.last("program.download") == {"plc": "plc1", "taken": True}
    downloads = world.ask(world.client().read(Table.INPUT, SYSTEM + 6, 1))
    assert downloads == [1]


def test_setpoints_from_the_wire_outlive_a_download(world: SmallWorld) -> None:
    plc, workstation = plc_and_workstation(world)
    world.ask(world.client().write(Table.HOLDING, 1, [7000]))
    world.run(1)
    assert world.ask(workstation.download("plc1", f"(* newer *){LOGIC}"), by="ews1") is True
    world.run(1)
    assert plc.instance.memory["H_SP"] == 700.0


def test_a_broken_program_is_refused_and_the_old_one_runs_on(world: SmallWorld) -> None:
    plc, workstation = plc_and_workstation(world)
    before = plc.program
    broken = LOGIC.replace("OUTLET := TRUE;", "OUTLET := 5;")
    assert world.ask(workstation.download("plc1", broken), by="ews1") is False
    assert plc.program is before
    assert plc.mode is Mode.RUN
    refused = world.last("program.refused")
    assert refused["peer"] == "10.0.1.40"
    assert "plc1 (downloaded):" in refused["reason"]
    assert world.ask(workstation.read_program("plc1"), by="ews1") == LOGIC
    world.run(60)
    assert 0.39 < world.tank.level < 0.61
    assert world.last("program.download") == {"plc": "plc1", "taken": False}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (LOGIC.replace("LEVEL", "HEIGHT").encode(), "the program lacks LEVEL"),
        (LOGIC.replace("HIGH : BOOL", "HIGH : TON").encode(), "the program lacks HIGH"),
        (b"(* \xff *)" + LOGIC.encode(), "the program is not UTF-8 text"),
    ],
    ids=["no variable for an input", "a block for an input", "no text"],
)
def test_a_program_that_cannot_run_on_this_plc_is_refused(world: SmallWorld, raw: bytes, reason: str) -> None:
    plc, _ = plc_and_workstation(world)
    world.ask(load(world.client(), raw))
    assert world.last("program.refused") == {"peer": "10.0.1.99", "reason": reason}
    assert plc.program.source == LOGIC
    assert plc.downloads == 0
    world.run(60)
    assert 0.39 < world.tank.level < 0.61


def test_only_a_signed_program_is_taken_where_signatures_are_asked_for(world: SmallWorld) -> None:
    plc, workstation = plc_and_workstation(world)
    key = b"k" * 32

    def sign(source: str) -> bytes:
        return hmac.new(key, source.encode(), hashlib.sha256).digest()

    def check(_peer: Peer | None, source: str, signature: bytes) -> str | None:
        return None if signature == sign(source) else "signature does not fit"

    plc.seams.accept_program.append(check)
    assert world.ask(workstation.download("plc1", BAD_LOGIC), by="ews1") is False
    assert world.last("program.refused") == {"peer": "10.0.1.40", "reason": "signature does not fit"}
    workstation.sign = sign
    newer = f"(* newer *){LOGIC}"
    assert world.ask(workstation.download("plc1", newer), by="ews1") is True
    assert plc.program.source == newer
    # The signature stays in its registers, and fits no other program.
    world.ask(load(world.client(), BAD_LOGIC.encode()))
    assert plc.program.source == newer


def test_a_running_plc_takes_no_program(world: SmallWorld) -> None:
    plc, _ = plc_and_workstation(world)
    client = world.client()
    assert world.ask(client.write_file(PROGRAM_FILE, 0, [0])) == Refusal(21, DEVICE_BUSY)
    world.ask(client.write(Table.HOLDING, ACTIVATE, [10]))
    assert world.kinds("program.refused") == ["program.refused"] * 2
    assert plc.downloads == 0
    assert world.ask(upload(client)) == LOGIC


def test_what_was_written_and_never_activated_is_not_shown_as_the_running_program(world: SmallWorld) -> None:
    plc, workstation = plc_and_workstation(world)
    client = world.client()
    world.ask(change_mode(client, Mode.PROGRAM))
    world.ask(stage(client, b"PROGRAM harmless"))
    assert world.ask(workstation.read_program("plc1"), by="ews1").startswith("PROGRAM harmless")
    world.ask(change_mode(client, Mode.RUN))
    assert world.ask(workstation.read_program("plc1"), by="ews1") == LOGIC
    assert plc.program.source == LOGIC


def test_a_program_longer_than_the_file_is_not_taken(world: SmallWorld) -> None:
    plc, workstation = plc_and_workstation(world)
    long = LOGIC + " " * (2 * FILE_RECORDS)
    assert world.ask(workstation.download("plc1", long), by="ews1") is False
    assert plc.mode is Mode.RUN
    assert plc.program.source == LOGIC
    longest = LOGIC + " " * (2 * FILE_RECORDS - len(LOGIC))
    assert world.ask(workstation.download("plc1", longest), by="ews1") is True
    assert world.ask(workstation.read_program("plc1"), by="ews1") == longest


def test_one_request_can_stop_and_activate(world: SmallWorld) -> None:
    plc, _ = plc_and_workstation(world)
    client = world.client()
    world.ask(change_mode(client, Mode.PROGRAM))
    world.ask(stage(client, BAD_LOGIC.encode()))
    assert world.ask(client.write(Table.HOLDING, MODE, [0, len(BAD_LOGIC)])) is None
    assert plc.program.source == BAD_LOGIC
    assert plc.mode is Mode.PROGRAM


def test_the_workstation_gives_up_where_the_plc_will_not_stop(world: SmallWorld) -> None:
    plc, workstation = plc_and_workstation(world)
    plc.seams.key_switch = "run"
    assert world.ask(workstation.download("plc1", BAD_LOGIC), by="ews1") is False
    assert plc.program.source == LOGIC


def test_a_plc_that_will_not_be_read_is_an_engineering_error(world: SmallWorld) -> None:
    plc, workstation = plc_and_workstation(world)

    async def reason() -> str:
        try:
            await workstation.read_program("plc1")
        except EngineeringError as error:
            return str(error)
        return ""

    plc.seams.authorize.append(lambda _peer, access: ILLEGAL_FUNCTION if access.function == 20 else None)
    assert world.ask(reason(), by="ews1") == "the PLC refused: function 20: illegal function"


def test_a_mode_that_does_not_exist_is_an_engineering_error(world: SmallWorld) -> None:
    plc, _ = plc_and_workstation(world)
    plc.bank.write(Table.INPUT, SYSTEM, [9])

    async def reason() -> str:
        try:
            await read_mode(world.client())
        except EngineeringError as error:
            return str(error)
        return ""

    assert world.ask(reason()) == "the PLC reports a mode that does not exist: 9"


def test_an_engineer_who_downloads_while_writes_are_refused_leaves_the_plc_running(
    world: SmallWorld,
) -> None:
    plc, workstation = plc_and_workstation(world)
    plc.seams.authorize.append(lambda _peer, access: ILLEGAL_FUNCTION if access.function == 21 else None)
    assert world.ask(workstation.download("plc1", BAD_LOGIC), by="ews1") is False
    assert plc.mode is Mode.RUN
