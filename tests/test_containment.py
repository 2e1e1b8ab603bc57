"""No scenario, whatever it aims at, opens a real socket or starts a real program: attacks stay in memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import testbed
from scenarios.experiment import Experiment, run
from scenarios.model import load_scenario, scenario_names
from testbed.errors import OtlabError

#: What CPython tells its audit hooks when a program reaches for the world outside (docs.python.org, audit events).
OUTSIDE = ("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "ctypes.dlopen")
_seen: list[str] = []
_looking = False


def _hook(event: str, _arguments: tuple[Any, ...]) -> None:
    if _looking and event.startswith(OUTSIDE):
        _seen.append(event)


sys.addaudithook(_hook)  # for good: a hook cannot be taken away, so it is told when to look


@contextmanager
def looking() -> Iterator[list[str]]:
    """What reached for the outside meanwhile."""
    global _looking
    _seen.clear()
    _looking = True
    try:
        yield _seen
    finally:
        _looking = False


WATER = Path(testbed.__file__).parent / "sites" / "water"
#: Networks that a site may say it has: this machine, others' addresses, documentation, broadcast-like ends.
PREFIXES = ("127.0", "8.8", "192.0", "169.254", "198.51", "203.0", "172.16", "10.255", "1.1")


def _moved(folder: Path, prefix: str) -> str:
    """The reference site with its networks elsewhere, as a file."""
    folder.mkdir(exist_ok=True)
    for path in WATER.iterdir():
        text = path.read_text(encoding="utf-8")
        (folder / path.name).write_text(text.replace("10.0.", f"{prefix}."), encoding="utf-8")
    return str(folder / "site.yaml")


def test_the_hook_sees_a_real_socket() -> None:
    import socket

    with looking() as seen, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.connect(("127.0.0.1", 9))
    assert {"socket.__new__", "socket.connect"} <= set(seen)


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(scenario_names()), prefix=st.sampled_from(PREFIXES), level=st.sampled_from((0, 4))
)
@example(name="unauthorized-write", prefix="8.8", level=0)
@example(name="remote-stolen-credentials", prefix="127.0", level=0)
def test_no_scenario_reaches_outside(tmp_path: Path, name: str, prefix: str, level: int) -> None:
    _stays_inside(tmp_path, name, prefix, level)


@pytest.mark.slow
@pytest.mark.parametrize("name", scenario_names())
def test_no_shipped_scenario_reaches_outside(tmp_path: Path, name: str) -> None:
    _stays_inside(tmp_path, name, "127.0", 0)


def _stays_inside(folder: Path, name: str, prefix: str, level: int) -> None:
    from controls.catalogue import SecurityLevels

    scenario = load_scenario(name)
    site = (
        _moved(folder / prefix.replace(".", "-"), prefix)
        if scenario.site in (None, "water")
        else scenario.site
    )
    experiment = Experiment.at_level(str(site), SecurityLevels.uniform(level), name, 1, scenario.start + 60.0)
    try:
        with looking() as seen:
            run(experiment)
    except OtlabError:
        pass  # a network that cannot be the site's is told as such
    assert seen == []


def test_a_live_session_reaches_nothing_whatever_comes_into_it() -> None:
    from lab.live.bridge import Attachment
    from lab.live.inputs import INPUT
    from lab.live.session import Session, Setup

    attachments = (Attachment("operations", "plc1", 502), Attachment("enterprise", "8.8.8.8", 53))
    experiment = Experiment("water", (), "SL 0", None, 1, 600.0)
    with looking() as seen:
        session = Session(Setup(experiment, attachments))
        try:
            session.advance(40.0)
            for what in (
                {"kind": "launch", "scenario": "unauthorized-write"},
                {"kind": "opened", "attachment": 0, "connection": 1},
                {"kind": "opened", "attachment": 1, "connection": 2},
                {"kind": "bytes", "connection": 1, "hex": "000100000006010300640001"},
                {"kind": "write", "hmi": "hmi1", "tag": "MV101_AUTO", "value": 0},
            ):
                session.take(INPUT.validate_python({"t": session.now, **what}))
            session.advance(120.0)
        finally:
            session.close()
    assert seen == []
