"""Remote access: its frames, gateway, sessions and what becomes of the ways past it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_worlds import SmallWorld, attempt

from controls import profiles
from controls.catalogue import SecurityLevels
from devices.remote import (
    MAGIC,
    Frame,
    FrameError,
    Kind,
    RemoteClient,
    RemoteGateway,
    SessionService,
    connect,
    request_for,
    take_frames,
)
from devices.workstation import Workstation
from devices.world import World
from scenarios.actions import carry_out, place_attacker
from scenarios.experiment import site_of
from scenarios.model import Scenario, load_scenario
from scenarios.trials import trials
from testbed.figures import load_figures

# -- frames ------------------------------------------------------------------------------------------------------

messages = st.builds(Frame, st.sampled_from(Kind), st.lists(st.text(max_size=20), max_size=5).map(tuple))


@given(st.lists(messages, max_size=6), st.lists(st.integers(1, 40), max_size=20))
def test_frames_come_back_however_the_stream_is_cut(sent: list[Frame], cuts: list[int]) -> None:
    stream = b"".join(frame.encode() for frame in sent)
    buffer, got, at = bytearray(), [], 0
    for size in [*cuts, len(stream)]:
        buffer += stream[at : at + size]
        at += size
        got += list(take_frames(buffer))
    assert got == sent
    assert not buffer


@given(st.binary(max_size=80))
def test_any_bytes_are_frames_or_an_error_in_a_sentence(raw: bytes) -> None:
    for start in (b"", MAGIC, MAGIC + bytes((Kind.COMMAND,))):
        with suppress(FrameError):
            for frame in take_frames(bytearray(start + raw)):
                assert frame.encode()[:2] == MAGIC


def test_a_frame_that_would_be_too_long_is_refused() -> None:
    with pytest.raises(FrameError, match="65535 bytes"):
        Frame(Kind.OK, ("x" * 40_000, "y" * 40_000)).encode()


# -- a gateway and a workstation ---------------------------------------------------------------------------------


class Site:
    """An office with a technician, a gateway between, and a workstation beside a PLC."""

    def __init__(self) -> None:
        self.world = SmallWorld()
        network = self.world.network
        network.zone("control", "10.0.1.0/24")
        network.zone("office", "10.0.2.0/24", trusted=False)
        network.conduit("boundary", "office", "control")
        self.plc = self.world.plc("plc1")
        workstation = Workstation(
            network.host("ews1", "control", "10.0.1.40"), "ews1", self.world.connector("ews1")
        )
        self.service = SessionService(workstation, dict(self.world.controllers))
        self.gateway = RemoteGateway(
            network.host("jump1", "control", "10.0.1.30"), "jump1", {"ews1": "10.0.1.40"}, capacity=3
        )
        network.host("office1", "office", "10.0.2.10")
        network.host("office2", "office", "10.0.2.11")
        self.world.listen(self.gateway.audit)
        self.world.listen(self.service.audit)
        self.plc.start()
        self.service.start()
        self.gateway.start()
        self.world.run(1.0)

    def ask(self, question: Callable[[], Awaitable[Any]], by: str = "office1", within: float = 60.0) -> Any:
        async def program() -> Any:
            return await question()

        return self.world.ask(program(), by, within)

    def session(self, user: str = "vendor1", by: str = "office1") -> tuple[RemoteClient, str | None]:
        async def begin() -> tuple[RemoteClient, str | None]:
            client = RemoteClient(await connect("10.0.1.30"))
            return client, await client.log_in(user, "secret") or await client.open("ews1")

        found: tuple[RemoteClient, str | None] = self.ask(begin, by)
        return found

    def command(self, client: RemoteClient, *words: str) -> tuple[bool, str]:
        found: tuple[bool, str] = self.ask(lambda: client.command(*words))
        return found


@contextmanager
def small_site() -> Iterator[Site]:
    found = Site()
    try:
        yield found
    finally:
        found.world.close()


def test_a_session_reads_writes_and_shows_the_program_of_a_plc() -> None:
    with small_site() as site:
        client, reason = site.session()
        assert reason is None
        assert site.command(client, "read", "plc1", "H_SP") == (True, "600")
        assert site.command(client, "write", "plc1", "H_SP", "650") == (True, "written")
        assert site.command(client, "read", "plc1", "H_SP") == (True, "650")
        assert site.command(client, "mode", "plc1") == (True, "run")
        done, program = site.command(client, "program", "plc1")
        assert done
        assert program.strip().startswith("PROGRAM tank")
        assert site.command(client, "mode", "plc1", "program") == (True, "program")
        assert site.world.last("remote.command")["user"] == "vendor1"


@pytest.mark.parametrize(
    "words",
    [
        ("read", "plc9", "H_SP"),
        ("read", "plc1", "NOTHING"),
        ("write", "plc1", "H_SP", "much"),
        ("write", "plc1", "LEVEL", "1"),
        ("mode", "plc1", "fly"),
        ("format",),
    ],
)
def test_a_command_that_makes_no_sense_is_answered_and_the_session_goes_on(words: tuple[str, ...]) -> None:
    with small_site() as site:
        client, _ = site.session()
        assert site.command(client, *words)[0] is False
        assert site.command(client, "mode", "plc1") == (True, "run")


def test_a_session_ends_when_its_client_closes_or_is_gone_and_when_somebody_of_the_site_ends_it() -> None:
    with small_site() as site:
        reasons: list[str] = []
        for _ in range(3):
            client, reason = site.session()
            assert reason is None
            if not reasons:
                client.close()
            elif len(reasons) == 1:
                site.world.network.hosts["office1"].power_off()
                site.world.network.hosts["office1"].power_on()
                site.gateway.end(site.gateway.sessions[0], "ended by the site")
            else:
                site.gateway.end(site.gateway.sessions[0], "ended by the site")
                assert site.command(client, "mode", "plc1") == (
                    False,
                    "the session was ended: ended by the site",
                )
            site.world.run(1.0)
            assert not site.gateway.sessions
            reasons.append(site.world.last("remote.ended")["reason"])
        assert reasons == ["closed", "ended by the site", "ended by the site"]


def test_bytes_that_are_no_frames_end_the_connection_and_nothing_else() -> None:
    async def garbage() -> bytes:
        import asyncio

        reader, writer = await asyncio.open_connection("10.0.1.30", 3389)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return answer

    with small_site() as site:
        assert site.ask(garbage) == b""
        assert site.session()[1] is None


def test_without_a_log_in_or_to_an_unknown_target_no_session_opens() -> None:
    async def tries() -> list[str | None]:
        client = RemoteClient(await connect("10.0.1.30"))
        before = await client.open("ews1")
        await client.log_in("vendor1", "secret")
        return [before, await client.open("hmi9")]

    with small_site() as site:
        assert site.ask(tries) == ["log in first", "no such target"]


def test_the_gateway_says_so_when_its_target_is_off() -> None:
    with small_site() as site:
        site.service.host.power_off()
        assert site.session()[1] == "the target does not answer"
        assert site.world.last("remote.refused")["reason"] == "the target does not answer"


def test_an_idle_session_lives_for_ever_unless_an_end_is_set_and_heartbeats_do_not_count() -> None:
    for limit, expected in ((None, True), (300.0, False)):
        with small_site() as site:
            site.gateway.seams.idle_end = limit
            client, _ = site.session()
            site.world.run(250.0)
            assert site.command(client, "mode", "plc1")[0]
            site.world.run(250.0)
            assert len(site.gateway.sessions) == 1  # the command began the time anew
            site.world.run(100.0)
            assert site.command(client, "mode", "plc1")[0] is expected
            if limit is not None:
                assert site.world.last("remote.ended")["reason"] == "idle"


def test_sessions_of_one_user_and_of_all_are_counted_and_a_closed_one_makes_room() -> None:
    with small_site() as site:
        site.gateway.seams.sessions_per_user = 1
        site.gateway.seams.sessions_in_all = 2
        first, reason = site.session("vendor1")
        assert reason is None
        assert site.session("vendor1", "office2")[1] == "too many sessions of this user"
        assert site.session("vendor2", "office2")[1] is None
        assert site.session("vendor3", "office2")[1] == "too many sessions"
        first.close()
        site.world.run(1.0)
        assert site.session("vendor1")[1] is None


def test_without_a_cap_one_user_may_take_all_that_the_software_can_carry() -> None:
    with small_site() as site:
        assert [site.session("vendor2", "office2")[1] for _ in range(3)] == [None] * 3
        assert site.session("vendor1")[1] == "too many sessions"


def test_two_who_are_approved_at_once_do_not_both_get_the_last_session() -> None:
    async def slowly(_user: str, _target: str) -> bool:
        import asyncio

        await asyncio.sleep(20.0)
        return True

    async def both() -> list[str | None]:
        import asyncio

        async def one() -> str | None:
            client = RemoteClient(await connect("10.0.1.30"))
            return await client.log_in("vendor1", "secret") or await client.open("ews1")

        return list(await asyncio.gather(one(), one()))

    with small_site() as site:
        site.gateway.seams.approve = slowly
        site.gateway.seams.sessions_per_user = 1
        assert sorted(map(str, site.ask(both))) == ["None", "too many sessions of this user"]


# -- the reference site ------------------------------------------------------------------------------------------


def water(*requirements: str, seed: int = 1) -> World:
    world = World(site_of("water"), seed, load_figures())
    profiles.apply(world, profiles.with_needs(requirements))
    return world


def outcomes(
    name: str | Scenario, *requirements: str, until: float = 200.0, seed: int = 1
) -> dict[str, list[str]]:
    """Action -> outcomes of its steps (and ``task``), in a run of a scenario with these requirements."""
    world = water(*requirements, seed=seed)
    scenario = load_scenario(name) if isinstance(name, str) else name
    attack = place_attacker(world, scenario)
    world.start()
    begin = attack.attacker.spawn if attack.attacker is not None else world.loop.create_task
    task = begin(carry_out(attack, scenario))
    while not task.done() and world.loop.time() < until:
        world.loop.run_to(world.loop.time() + 10.0)
    found: dict[str, list[str]] = {}
    for event in world.trace.events:
        if event.kind in ("attack.step", "event.step"):
            found.setdefault(str(event.data["action"]), []).append(str(event.data["outcome"]))
        elif event.kind == "task" and event.data["task"] == "remote maintenance":
            found.setdefault("task", []).append(str(event.data["outcome"]))
    world.close()
    return found


def maintenance(announced: bool = True) -> Scenario:
    return Scenario.model_validate(
        {
            "name": "maintenance",
            "title": "Planned maintenance",
            "summary": "Nobody attacks.",
            "start": 40.0,
            "steps": [
                {
                    "action": "remote_maintenance",
                    "user": "vendor1",
                    "at": "corp1",
                    "gateway": "jump1",
                    "target": "ews1",
                    "commands": (("read", "plc3", "LIT301"), ("mode", "plc1"), ("program", "plc3")),
                    "announced": announced,
                }
            ],
        }
    )


@pytest.mark.parametrize("level", [0, 1, 2, 3, 4])
def test_announced_maintenance_can_be_done_at_every_level(level: int) -> None:
    names = profiles.enforced(SecurityLevels.uniform(level))
    assert outcomes(maintenance(), *names, until=1800.0)["task"] == ["done"]


def test_sr_1_13_shuts_the_forgotten_way_and_says_who_knocked() -> None:
    assert outcomes("remote-forgotten-router")["remote_session"] == ["done"] * 3
    assert outcomes("remote-forgotten-router", "SR 1.13")["remote_session"] == ["failed"]

    world = water("SR 1.13")
    said: list[tuple[str, str]] = []
    router = world.cellular_routers["modem1"]
    router.audit.sinks.append(lambda _source, kind, data: said.append((kind, data["peer"])))
    stranger = world.network.host("stranger", "cellular", "10.0.9.99")
    world.start()
    stranger.spawn(attempt(connect("10.0.3.40")), "knock")
    world.loop.run_to(10.0)
    world.close()
    assert said[0] == ("remote.denied", "10.0.9.99")


def test_sr_1_13_lets_nobody_past_the_gateway_from_outside_or_inside() -> None:
    for name, reached in ((None, (True, True)), ("SR 1.13", (False, False))):
        world = water(*([name] if name is not None else []))

        async def session(world: World = world) -> str | None:
            return await RemoteClient(await connect(world.network.hosts["ews1"].address)).open("ews1", "me")

        world.start()
        tasks = [world.network.hosts[at].spawn(attempt(session()), "try") for at in ("corp1", "hmi1")]
        world.loop.run_to(200.0)
        world.close()
        assert tuple(task.result() is None for task in tasks) == reached


def test_sr_1_13_asks_at_the_gateway_who_it_is() -> None:
    wrong = Scenario.model_validate(
        {
            **load_scenario("remote-stolen-credentials").model_dump(),
            "steps": [
                {
                    "action": "remote_session",
                    "technique": "T0822",
                    "gateway": "jump1",
                    "target": "ews1",
                    "credentials": "none",
                }
            ],
        }
    )
    assert outcomes(wrong)["remote_session"] == ["done"]
    assert outcomes(wrong, "SR 1.13")["remote_session"] == ["refused"]
    assert outcomes("remote-stolen-credentials", "SR 1.13")["remote_session"] == ["done"] * 3


def test_a_token_is_asked_for_at_the_gateway_where_the_site_asks_for_one() -> None:
    assert outcomes("remote-stolen-credentials", "SR 1.13", "SR 1.1 RE 2")["remote_session"] == ["refused"]
    assert outcomes(maintenance(), "SR 1.13", "SR 1.1 RE 2")["task"] == ["done"]


def test_sr_1_13_re_1_refuses_a_session_that_nobody_expects_and_takes_time_for_one_that_is_announced() -> (
    None
):
    refused = sum(
        outcomes("remote-stolen-credentials", "SR 1.13 RE 1", until=1800.0, seed=seed).get("remote_session")
        == ["refused"]
        for seed in range(1, 6)
    )
    assert refused >= 4  # a person may be taken in now and then
    seconds = []
    for name in ("SR 1.13", "SR 1.13 RE 1"):
        world = water(name)
        attack = place_attacker(world, maintenance())
        world.start()
        work = world.loop.create_task(carry_out(attack, maintenance()))
        while not work.done():
            world.loop.run_to(world.loop.time() + 10.0)
        task = next(e for e in world.trace.events if e.data.get("task") == "remote maintenance")
        world.close()
        assert task.data["outcome"] == "done"
        seconds.append(float(str(task.data["seconds"])))
    assert seconds[1] > seconds[0] + 5.0


def test_a_request_names_who_and_where_to() -> None:
    assert request_for("vendor1", "ews1") == "remote session of vendor1 to ews1"


def test_sr_2_6_ends_a_forgotten_session_before_somebody_else_goes_on_in_it() -> None:
    assert outcomes("remote-session-left-open", until=560.0)["take_over_session"] == ["done"]
    ended = outcomes("remote-session-left-open", "SR 2.6", until=560.0)
    assert ended["task"] == ["done"]
    assert ended["take_over_session"] == ["refused"]


def test_sr_2_7_refuses_a_second_session_under_a_name_that_is_at_work() -> None:
    assert outcomes("remote-second-session", "SR 1.13")["remote_session"] == ["done", "done"]
    assert outcomes("remote-second-session", "SR 1.13", "SR 2.7")["remote_session"] == ["refused"]


def test_sr_2_7_leaves_room_for_others_when_one_account_takes_all_it_can() -> None:
    assert outcomes("remote-session-exhaustion", "SR 1.13")["task"] == ["refused"]
    assert outcomes("remote-session-exhaustion", "SR 1.13", "SR 2.7")["task"] == ["done"]


@pytest.mark.parametrize("name", ["SR 1.13", "SR 1.13 RE 1", "SR 2.6", "SR 2.7"])
def test_each_requirement_has_a_trial_of_a_remote_situation(name: str) -> None:
    assert name in trials()


def test_steps_that_name_what_the_site_lacks_are_told_so() -> None:
    site = site_of("water")
    maintained, second = load_scenario("remote-second-session").steps
    for step, change, sentence in (
        (second, {"target": "hmi1"}, "site 'water' has no workstation 'hmi1'"),
        (second, {"gateway": "ews1"}, "site 'water' has no jump host 'ews1'"),
        (second, {"user": "nobody"}, "jump1 has no user 'nobody'"),
        (maintained, {"at": "corp9"}, "site 'water' has no asset 'corp9'"),
    ):
        assert list(step.model_copy(update=change).lacks(site)) == [sentence]
