"""Real tools at attachment points, and that nothing else of a live lab reaches, or is reached from, outside."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from live_lab import Browser, Lab, lab
from test_live import text

from lab.cli import main
from lab.live.loopback import listen
from lab.live.outside import MOST_TOOLS
from lab.live.recording import follow, read_recording
from lab.live.session import Session
from testbed.errors import OtlabError

pytestmark = pytest.mark.realtime
ROOT = Path(__file__).parent.parent


def needs(tool: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed")


def run(*command: str, seconds: float = 60.0) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    return done.stdout + done.stderr


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "never"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    with lab(
        "operations:plc1:502=127.0.0.1:0",
        "operations:plc2:502=[::1]:0" if socket.has_ipv6 else "operations:plc2:502=127.0.0.1:0",
        "enterprise:plc1:502=127.0.0.1:0",
        "operations:plc1:9=127.0.0.1:0",
        folder=folder,
        pcap=folder / "capture.pcapng",
    ) as made:
        yield made


def port(here: Lab, attachment: int = 0) -> int:
    return here.place.attachments[attachment][1]


@needs("mbpoll")
def test_mbpoll_reads_and_writes_a_controller(here: Lab) -> None:
    common = ("mbpoll", "-m", "tcp", "-p", str(port(here)), "-a", "1", "-1", "-q")
    read = run(*common, "-r", "101", "-c", "4", "-t", "4", "127.0.0.1")
    assert "[101]: \t5000" in read, read
    assert "Written 1 references" in run(*common, "-r", "102", "-t", "4", "127.0.0.1", "8500")
    assert "[102]: \t8500" in run(*common, "-r", "101", "-c", "4", "-t", "4", "127.0.0.1")
    refused = run(*common, "-r", "9999", "-c", "1", "-t", "4", "127.0.0.1")
    assert "Illegal data address" in refused


@needs("nmap")
def test_nmap_discovers_the_controller_behind_the_attachment(here: Lab) -> None:
    found = run(
        "nmap",
        "-Pn",
        "-n",
        "-sT",
        "-p",
        str(port(here)),
        "--script",
        "+modbus-discover",
        "127.0.0.1",
        seconds=120,
    )
    assert "sid 0x1" in found, found
    assert "Norsk Automat NA-300" in found, found


@pytest.mark.skipif(importlib.util.find_spec("pyModbusTCP") is None, reason="pyModbusTCP is not installed")
def test_pymodbustcp_reads_through_it(here: Lab) -> None:
    from pyModbusTCP.client import ModbusClient

    client = ModbusClient("127.0.0.1", port(here), unit_id=1, timeout=10)
    try:
        assert client.read_holding_registers(103, 1) == [10000]
        assert client.read_coils(3, 3) == [True, True, True]
    finally:
        client.close()


def test_many_tools_at_once_each_get_their_own_answers(here: Lab) -> None:
    crowd = [socket.create_connection(("127.0.0.1", port(here)), timeout=30) for _ in range(8)]
    try:
        for number, one in enumerate(crowd):
            one.sendall(bytes.fromhex(f"00{number:02x}0000000601030064000{1 + number % 4}"))
        for number, one in enumerate(crowd):
            answer = one.recv(300)
            assert answer[:2] == bytes((0, number))
            assert answer[8] == 2 * (1 + number % 4)
    finally:
        for one in crowd:
            one.close()
    until(lambda: here.engine.ask(lambda session: not session.bridges).result())


def test_ipv6_loopback_is_loopback_too(here: Lab) -> None:
    host, number = here.place.attachments[1]
    with socket.create_connection((host, number), timeout=30) as one:
        one.sendall(bytes.fromhex("000100000006010300640001"))
        assert one.recv(300)[:4] == bytes.fromhex("00010000")


def test_a_port_that_refuses_inside_resets_outside(here: Lab) -> None:
    # The reset may come while the tool still connects, or right after.
    with (
        pytest.raises(ConnectionResetError),
        socket.create_connection(("127.0.0.1", port(here, 3)), timeout=30) as one,
    ):
        one.recv(10)


def test_a_tool_that_goes_is_gone_inside_as_well(here: Lab) -> None:
    one = socket.create_connection(("127.0.0.1", port(here)), timeout=30)
    until(lambda: here.engine.ask(lambda session: len(session.bridges)).result() == 1)
    one.close()
    until(lambda: here.engine.ask(lambda session: len(session.bridges)).result() == 0)


@pytest.mark.slow
def test_two_hundred_tools_are_held_at_once_and_answered_while_the_run_goes_on() -> None:
    names = ("plc1", "plc2", "plc3", "sis1")
    with lab(
        *(f"{'safety' if name == 'sis1' else 'control'}:{name}:502=127.0.0.1:0" for name in names)
    ) as made:
        crowd = []
        try:
            for _ in range(50):
                for number in range(len(names)):
                    crowd.append(socket.create_connection(("127.0.0.1", port(made, number)), timeout=60))
            until(lambda: made.engine.ask(lambda session: len(session.bridges)).result() == 200, 60)
            begun = made.engine.session.now
            for _ in range(3):
                for number, one in enumerate(crowd):
                    one.sendall(bytes.fromhex(f"00{number:02x}00000006010100000001"))
                answers = [one.recv(300) for one in crowd]
                assert [answer[1] for answer in answers] == list(range(200))
            until(lambda: made.engine.session.now > begun + 2.0, 60)
            assert made.engine.ask(lambda session: len(session.bridges)).result() == 200
        finally:
            for one in crowd:
                one.close()
        until(lambda: made.engine.ask(lambda session: not session.bridges).result(), 60)
        assert made.engine.failure is None


def test_a_flood_of_tools_is_bounded_and_the_run_goes_on(here: Lab) -> None:
    crowd = []
    try:
        for _ in range(MOST_TOOLS + 30):
            with suppress(ConnectionResetError):
                crowd.append(socket.create_connection(("127.0.0.1", port(here)), timeout=30))
        for one in crowd:
            one.setblocking(False)
        begun = here.engine.session.now
        until(lambda: here.engine.session.now > begun + 0.5)
        assert here.engine.ask(lambda session: len(session.bridges)).result() <= MOST_TOOLS
        for one in crowd:  # and now they all talk without listening
            with suppress(OSError):
                one.send(bytes.fromhex("000100000006010300640004") * 5000)
        begun = here.engine.session.now
        until(lambda: here.engine.session.now > begun + 0.5, 60)
    finally:
        for one in crowd:
            one.close()
    until(lambda: here.engine.ask(lambda session: not session.bridges).result(), 60)
    assert here.engine.failure is None


def test_a_rewind_cuts_tools_off() -> None:
    with lab("operations:plc1:502=127.0.0.1:0") as made:
        boss = Browser(made, made.place.tokens.instructor)
        with socket.create_connection(("127.0.0.1", port(made)), timeout=30) as one:
            one.sendall(bytes.fromhex("000100000006010300640001"))
            assert one.recv(300)
            at = made.engine.session.now
            assert boss.order("/api/console/rewind", to=at) == {"done": True}
            with pytest.raises(ConnectionResetError):
                one.recv(300)
        assert made.engine.session.inputs[-1].kind == "lost"
        boss.order("/api/console/clock", paused=False)
        with socket.create_connection(("127.0.0.1", port(made)), timeout=30) as one:
            one.sendall(bytes.fromhex("000100000006010300640001"))
            assert one.recv(300)


def test_outside_traffic_meets_firewalls_monitors_and_the_capture(tmp_path: Path) -> None:
    capture = tmp_path / "capture.pcapng"
    with lab(
        "operations:plc1:502=127.0.0.1:0",
        "enterprise:plc1:502=127.0.0.1:0",
        level=2,
        folder=tmp_path,
        pcap=capture,
    ) as made:
        for attachment in (0, 1):
            with socket.create_connection(("127.0.0.1", port(made, attachment)), timeout=5) as one:
                one.sendall(bytes.fromhex("000100000006010300640001"))
                one.settimeout(0.5)
                with pytest.raises(
                    (TimeoutError, ConnectionError)
                ):  # SL 2 names who may talk to it, and no laptop
                    one.recv(300)
        made.engine.step(60)
        until(lambda: made.engine.state == "paused" and made.engine._step_to is None)
        blocked = made.engine.ask(
            lambda session: {(one.source, one.link) for one in session.blocked}
        ).result()
    assert {source for source, _ in blocked} == {"laptop-operations", "laptop-enterprise"}
    told = (tmp_path / "trace.jsonl").read_text()
    assert '"kind":"alert"' in told
    if shutil.which("tshark") is not None:
        seen = run(
            "tshark",
            "-r",
            str(capture),
            "-Y",
            "tcp.flags.syn==1 && tcp.dstport==502",
            "-T",
            "fields",
            "-e",
            "ip.src",
        )
        assert "10.0.3.254" in seen
        assert "10.0.1.254" in seen


@needs("tshark")
def test_the_capture_of_a_live_run_shows_the_tools_requests(tmp_path: Path) -> None:
    capture = tmp_path / "capture.pcapng"
    with (
        lab("operations:plc1:502=127.0.0.1:0", folder=tmp_path, pcap=capture) as made,
        socket.create_connection(("127.0.0.1", port(made)), timeout=30) as one,
    ):
        one.sendall(bytes.fromhex("beef00000006010300640002"))
        assert one.recv(300)[:2] == b"\xbe\xef"
    seen = run(
        "tshark",
        "-r",
        str(capture),
        "-Y",
        "mbtcp.trans_id==48879",
        "-T",
        "fields",
        "-e",
        "ip.src",
        "-e",
        "modbus.func_code",
    )
    assert seen.count("\t3") == 2, seen


def test_a_live_run_with_real_tools_is_brought_back_from_its_recording(tmp_path: Path) -> None:
    with lab("operations:plc1:502=127.0.0.1:0", level=1, folder=tmp_path, speed=20) as made:
        boss = Browser(made, made.place.tokens.instructor)
        student = Browser(made, made.place.tokens.student)
        with socket.create_connection(("127.0.0.1", port(made)), timeout=30) as one:
            for number in range(5):
                one.sendall(bytes.fromhex(f"000{number}00000006010300640004"))
                time.sleep(0.05)
            boss.order("/api/console/input", kind="launch", scenario="unauthorized-write")
            student.order("/api/hmi/hmi1/input", kind="seat", taken=True)
            student.order("/api/hmi/hmi1/input", kind="write", tag="MV101_AUTO", value=0)
            boss.order("/api/console/clock", speed=200)
            time.sleep(0.5)
    recorded = read_recording(tmp_path / "inputs.jsonl")
    assert recorded.whole
    assert {"opened", "bytes", "launch", "seat", "write"} <= {one.kind for one in recorded.inputs}
    again = Session(recorded.setup)
    try:
        follow(again, recorded.inputs, recorded.end)
        again.finish()
        kept = (tmp_path / "trace.jsonl").read_text() + (tmp_path / "trace.csv").read_text()
        assert kept == text(again.trace) + "\n"
    finally:
        again.close()


# -- nothing else --------------------------------------------------------------------------------------------------

_seen: list[tuple[str, str, tuple[Any, ...]]] = []
_looking = False
OUTSIDE = ("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "ctypes.dlopen")


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _looking and event.startswith(OUTSIDE):
        _seen.append((threading.current_thread().name, event, arguments[1:]))


sys.addaudithook(_hook)


@contextmanager
def looking() -> Iterator[list[tuple[str, str, tuple[Any, ...]]]]:
    global _looking
    _seen.clear()
    _looking = True
    try:
        yield _seen
    finally:
        _looking = False


def test_a_live_lab_binds_loopback_and_connects_to_nothing() -> None:
    with (
        looking() as seen,
        lab("operations:plc1:502=127.0.0.1:0", "dmz:8.8.8.8:53=127.0.0.1:0", speed=100) as made,
    ):
        boss = Browser(made, made.place.tokens.instructor)
        for scenario in ("unauthorized-write", "plc-flood", "wire-spoof"):
            boss.order("/api/console/input", kind="launch", scenario=scenario)
        for attachment in (0, 1):
            with socket.create_connection(("127.0.0.1", port(made, attachment)), timeout=30) as one:
                one.sendall(bytes.fromhex("000100000006010300640001"))
        begun = made.engine.session.now
        until(lambda: made.engine.session.now > begun + 60)
        boss.order("/api/console/rewind", to=begun)
    mine = [one for one in seen if one[0] != threading.current_thread().name]
    assert {name for name, _, _ in mine} == {"test lab"}, "the thread of the world reaches nothing"
    binds = [arguments[0] for _, event, arguments in mine if event == "socket.bind"]
    assert len(binds) == 3
    assert {address[0] for address in binds} == {"127.0.0.1"}
    # asyncio's own wake-up pair and taking what is connected are all that is left
    assert {event for _, event, _ in mine} <= {"socket.__new__", "socket.bind"}


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "", "::", "192.168.1.1", "127.0.0.2", "127.1", "localhost.evil.example", "8.8.8.8"]
)
def test_nothing_but_loopback_can_be_listened_on(host: str) -> None:
    with pytest.raises(OtlabError, match=r"127\.0\.0\.1 or ::1 only"):
        listen(host, 0)


def test_a_port_that_is_taken_is_told() -> None:
    made = listen("127.0.0.1", 0)
    try:
        with pytest.raises(OtlabError, match="already in use"):
            listen("127.0.0.1", made.getsockname()[1])
    finally:
        made.close()


# -- the command ---------------------------------------------------------------------------------------------------


def otlab(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lab.cli", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--host", "0.0.0.0"), "127.0.0.1 or ::1 only"),
        (("--attach", "dmz:plc1:502=0.0.0.0:1502"), "127.0.0.1 or ::1 only"),
        (("--attach", "nonsense"), "is no attachment"),
        (("--attach", "moon:plc1:502=127.0.0.1:0"), "unknown zone 'moon'"),
        (("--site", "nosuch"), "nosuch"),
        (("--replay", "nosuch.jsonl"), "cannot be read"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], part: str
) -> None:
    with monkeypatch.context() as here:
        here.chdir(tmp_path)
        done = CliRunner().invoke(main, ["live", "--port", "0", *arguments])
    assert done.exit_code == 2, done.output
    assert part in done.output
    assert "instructor" not in done.output
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("signal", [2, 15])
def test_ctrl_c_loses_nothing_and_the_recording_replays(tmp_path: Path, signal: int) -> None:
    process = otlab("live", "--sl", "1", "--speed", "50", "--port", "0", "--pcap", cwd=tmp_path)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(4)]
    assert lines[1].startswith("instructor  http://127.0.0.1:"), lines
    time.sleep(1.5)
    process.send_signal(signal)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    assert error == ""
    folder = tmp_path / "runs" / "live" / "1"
    assert {path.name for path in folder.iterdir()} == {
        "inputs.jsonl",
        "trace.jsonl",
        "trace.csv",
        "record.json",
        "capture.pcapng",
    }, out
    again = otlab("live", "--replay", str(folder / "inputs.jsonl"), "--pcap", cwd=tmp_path)
    out, error = again.communicate(timeout=120)
    assert again.returncode == 0, error
    assert "the trace is the same as" in out
    assert (tmp_path / "runs/live/2/capture.pcapng").read_bytes() == (folder / "capture.pcapng").read_bytes()
