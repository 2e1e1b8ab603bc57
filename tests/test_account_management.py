"""Accounts, passwords and log-ins: each requirement by the difference it makes on the reference site."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controls import profiles
from devices.accounts import (
    BLOCKED,
    EXPIRED,
    NOT_INTERACTIVE,
    REMEMBERED,
    SPARED,
    TOO_YOUNG,
    WRONG_PASSWORD,
    Accounts,
    with_code,
    without_code,
)
from devices.opcua import UaClient
from devices.passwords import PasswordRule, cheap, choose, common, guesses
from devices.terminal import ACKNOWLEDGE, GOODBYE, LOGIN, MOST, PASSWORD, OperatorTerminal, connect
from devices.world import World
from scenarios.actions import check_against, place_attacker
from scenarios.attack import Step
from scenarios.evidence import evidence_of
from scenarios.experiment import site_of
from scenarios.model import Attacker, Scenario, load_scenario
from scenarios.steps.accounts import identifier_of
from testbed.errors import DocumentError, OtlabError
from testbed.figures import load_figures
from tests.small_worlds import SmallWorld, one_zone

#: What it takes for records to prove anything.
RECORDS = ("SR 2.8", "SR 2.11")
#: A guesser in a hurry, so that a test of the whole list is short.
FAST = {"accounts__guess_every": 0.01, "accounts__verify_time": 0.01}


def water(*requirements: str, **figures: float) -> World:
    table = load_figures().with_overrides({key.replace("__", "."): value for key, value in figures.items()})
    world = World(site_of("water"), 1, table)
    profiles.apply(world, profiles.with_needs(requirements))
    return world


def play(world: World, name: str, until: float = 30.0) -> list[str]:
    """Run a shipped scenario's steps from 5 s on; what became of each deed."""
    scenario = load_scenario(name)
    check_against(world.site, scenario)
    attack = place_attacker(world, scenario)

    async def steps() -> None:
        for step in scenario.steps:
            await step.carry_out(attack)

    world.start()
    starter = attack.attacker
    if starter is not None:
        world.loop.call_at(5.0, lambda: starter.spawn(steps(), "attack"))
    else:
        world.loop.call_at(5.0, lambda: world.loop.create_task(steps()))
    world.loop.run_to(until)
    world.close()
    return outcomes(world)


def outcomes(world: World) -> list[str]:
    return [str(event.data["outcome"]) for event in world.trace.events if event.kind == "attack.step"]


def during(world: World, deed: Callable[[], Awaitable[Any]], *, at: str = "hmi1", until: float = 60.0) -> Any:
    """What ``deed`` returns, run as a program of host ``at`` from 5 s on."""
    found: list[Any] = []

    async def program() -> None:
        found.append(await deed())

    world.start()
    world.loop.call_at(5.0, lambda: world.network.hosts[at].spawn(program(), "deed"))
    world.loop.run_to(until)
    assert found, "the deed did not end in time"
    return found[0]


def ua(world: World, user: str, password: str) -> UaClient:
    return UaClient(f"opc.tcp://{world.network.hosts['opcua1'].address}:4840", user, password)


async def ua_opens(world: World, user: str, password: str) -> bool:
    client = ua(world, user, password)
    refusal = await client.connect()
    await client.disconnect()
    return refusal is None


# -- who is it? --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scenario", "requirement", "context"),
    [
        ("account-open-terminal", "SR 1.1", ()),
        ("account-phished-outside", "SR 1.1 RE 2", ("SR 1.1 RE 1",)),
        ("account-stolen-inside", "SR 1.1 RE 3", ("SR 1.1 RE 1", "SR 1.1 RE 2")),
        ("account-of-leaver", "SR 1.3", ("SR 1.1",)),
        ("account-handed-on", "SR 1.4", ("SR 1.1 RE 1", "SR 2.1")),
        ("account-default-password", "SR 1.5", ("SR 1.1",)),
        ("account-old-leak", "SR 1.7 RE 1", ("SR 1.1 RE 1", "SR 1.7")),
        ("account-program-leak", "SR 1.7 RE 2", ("SR 1.7",)),
        ("account-enumeration", "SR 1.10", ("SR 1.1 RE 1",)),
    ],
)
def test_the_deed_succeeds_without_the_requirement_and_not_with_it(
    scenario: str, requirement: str, context: tuple[str, ...]
) -> None:
    assert "done" in play(water(*context), scenario)
    assert "done" not in play(water(*context, requirement), scenario)


def test_sr_1_1_re_1_lets_records_say_which_person_it_was() -> None:
    for requirements, share in ((("SR 1.1", *RECORDS), 0), (("SR 1.1 RE 1", *RECORDS), 3)):
        world = water(*requirements)
        assert play(world, "account-insider") == ["done"] * 3
        assert evidence_of(world) == (3, share)


def test_sr_1_12_lets_nobody_say_that_he_had_not_been_told() -> None:
    base = ("SR 1.1 RE 1", *RECORDS)
    for requirements, share in ((base, 0), ((*base, "SR 1.12"), 2)):
        world = water(*requirements, notice__deterred=0)
        assert play(world, "account-insider-unwarned") == ["done"] * 2
        assert evidence_of(world) == (2, share)


def test_a_notice_keeps_some_people_from_going_on() -> None:
    world = water("SR 1.1 RE 1", "SR 1.12", notice__deterred=1)
    assert play(world, "account-insider-unwarned") == ["deterred"]


def test_a_notice_costs_the_operator_the_time_to_read_it_and_is_on_record() -> None:
    plain, noted = water("SR 1.1"), water("SR 1.1", "SR 1.12", *RECORDS)
    seconds = [next(iter(world.operators.values())).seconds_to_log_in() for world in (plain, noted)]
    assert seconds[1] - seconds[0] == 2.0
    noted.start()
    noted.loop.run_to(60)
    kinds = [event.kind for event in noted.trace.events]
    assert kinds.index("log.notice.acknowledged") < kinds.index("log.login")


# -- accounts and people -----------------------------------------------------------------------------------------


def test_a_review_in_the_run_closes_the_account_of_whoever_has_left_since_the_last_one() -> None:
    world = water("SR 1.3")
    office = world.account_office
    assert office is not None
    store = world.account_store("hmi1")
    store.accounts["operator2"].enabled = True
    store.accounts["service"].role = "admin"
    assert profiles.working(world, "SR 1.3")["operations"] is False
    assert sorted(office.review()) == ["operator2", "service"]
    assert not store.accounts["operator2"].enabled
    assert store.accounts["service"].role == "viewer"
    assert profiles.working(world, "SR 1.3")["operations"] is True
    assert {event.kind for event in world.trace.events} == {"finding"}


def test_reviews_come_periodically() -> None:
    world = water("SR 1.3", accounts__review_every=0.0005)  # 43 s
    world.start()
    world.loop.run_to(130)
    office = world.account_office
    assert office is not None
    assert office.reviews == 3


def test_sr_1_3_closes_an_account_device_by_device_and_re_1_everywhere_at_once() -> None:
    for requirement, within in (("SR 1.3", 900.0), ("SR 1.3 RE 1", 120.0)):
        world = water("SR 1.1 RE 1", requirement)
        office = world.account_office
        assert office is not None

        async def leave(world: World = world) -> float:
            office = world.account_office
            assert office is not None
            await office.close("engineer1")
            closed = world.loop.time()
            assert not await ua_opens(world, "engineer1", "engineer1")
            user, _ = await world.hmis["hmi1"].identify("engineer1", "engineer1", None, "10.0.3.40")
            assert user is None
            return closed

        assert during(world, leave, until=1200.0) < within
        responses = [event for event in world.trace.events if event.kind == "response"]
        assert len(responses) == 1
        world.close()


def test_sr_1_3_re_1_makes_stations_ask_the_server_for_all_but_essential_accounts() -> None:
    world = water("SR 1.1 RE 1", "SR 1.3 RE 1")
    assert set(world.account_store("hmi1").accounts) == {"operator", "operator1"}

    async def log_ins() -> tuple[bool, bool]:
        return await world.hmis["hmi1"].log_in("supervisor1", "supervisor1"), await ua_opens(
            world, "engineer1", "engineer1"
        )

    assert during(world, log_ins) == (True, True)
    assert world.auth_servers["auth1"].answered >= 2
    assert world.historians["hist1"].connected
    assert profiles.working(world, "SR 1.3 RE 1")["operations"] is True


@pytest.mark.parametrize("trouble", ["down", "cut off", "flooded"])
def test_an_operator_gets_in_within_the_deadline_of_control_when_the_server_does_not_answer(
    trouble: str,
) -> None:
    world = water("SR 1.1 RE 1", "SR 1.3 RE 1", login__password_failure=0)
    server = world.auth_servers["auth1"]
    world.start()
    if trouble == "down":
        server.host.power_off()
    elif trouble == "cut off":
        world.network.by_address.pop(server.host.address)
    else:
        server._busy_until = 1e6
    hmi = world.hmis["hmi1"]

    async def log_ins() -> tuple[float, bool, bool]:
        began = world.loop.time()
        supervisor = await hmi.log_in("supervisor1", "supervisor1")
        operator = await hmi.log_in("operator1", "operator1")
        return world.loop.time() - began, supervisor, operator

    hmi.session = None
    found: list[tuple[float, bool, bool]] = []

    async def program() -> None:
        found.append(await log_ins())

    world.loop.call_at(40.0, lambda: hmi.host.spawn(program(), "deed"))
    world.loop.run_to(60.0)
    seconds, supervisor, operator = found[0]
    assert seconds <= 2 * 2.1
    assert (supervisor, operator) == (False, True)
    assert profiles.working(world, "SR 1.3 RE 1")["operations"] is False
    world.close()


def test_a_silent_server_is_an_alert() -> None:
    world = water("SR 1.1 RE 1", "SR 1.3 RE 1", "SR 6.2")
    alerts: list[str] = []
    world.siems["siem1"].on_alert.append(lambda alert: alerts.append(alert.rule))
    world.start()
    world.auth_servers["auth1"].host.power_off()
    world.loop.run_to(60)
    world.close()
    assert "authentication server silent" in alerts


def test_forged_admissions_open_a_station_whose_secret_is_the_delivered_one_only() -> None:
    assert play(water("SR 1.1 RE 1", "SR 1.3 RE 1"), "auth-forged-accept") == ["done"]
    world = water("SR 1.1 RE 1", "SR 1.3 RE 1", "SR 1.5")
    assert play(world, "auth-forged-accept") == ["refused"]
    assert world.auth_clients["hmi1"].forged > 0


@pytest.mark.parametrize("name", ["auth-server-lost", "auth-server-flooded"])
def test_the_plant_keeps_its_operator_while_the_server_is_attacked(name: str) -> None:
    world = water("SR 1.1 RE 1", "SR 1.3 RE 1")
    play(world, name, until=70.0)
    assert world.hmis["hmi1"].who() is not None


def test_an_identifier_of_ones_own_is_what_a_newcomer_logs_in_with() -> None:
    world = water("SR 1.1 RE 1")
    assert identifier_of(world, "trainee1") == "engineer2"
    assert identifier_of(world, "engineer1") == "engineer1"
    world = water("SR 1.1 RE 1", "SR 1.4", "SR 1.1 RE 3")
    assert identifier_of(world, "trainee1") == "trainee1"
    accounts = world.account_store("hmi1").accounts
    assert not accounts["engineer2"].enabled
    assert accounts["trainee1"].totp_secret is not None  # a newcomer gets a token as well
    assert identifier_of(water("SR 1.1"), "engineer1") == "operator"


# -- passwords ---------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 4), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_what_people_choose_under_a_rule_satisfies_it(
    seed: int, length: int, kinds: int, common_share: float, cheap_share: float
) -> None:
    rule = PasswordRule(length, kinds)
    assert rule.weakness(choose(random.Random(seed), common_share, cheap_share, rule)) is None


def test_the_guessers_list_holds_what_people_choose_without_a_rule_and_little_of_the_rest() -> None:
    stream, rule = random.Random(1), PasswordRule(12, 3)
    free = [choose(stream, 0.75, 0.02, None) for _ in range(400)]
    ruled = [choose(stream, 0.75, 0.02, rule) for _ in range(400)]
    known = set(guesses())
    assert 0.65 < sum(one in known for one in free) / 400 < 0.85
    assert sum(one in known for one in ruled) / 400 < 0.05
    assert len(set(common())) == len(common())
    assert any(rule.weakness(one) is None for one in cheap())


def test_a_rule_says_what_a_password_lacks() -> None:
    rule = PasswordRule(12, 3)
    assert rule.weakness("short1A") == "shorter than 12 characters"
    assert rule.weakness("alllettersandlong") == "fewer than 3 kinds of characters"
    assert rule.weakness("Long.enough.now") is None


def test_guessing_ends_in_a_session_without_the_rule_and_not_with_it() -> None:
    base = ("SR 1.1 RE 1", "SR 1.5")
    assert play(water(*base, **FAST), "account-guessed", until=100.0) == ["session", "done"]
    assert play(water(*base, "SR 1.7", **FAST), "account-guessed", until=100.0) == ["refused"]


def store(**rules: Any) -> tuple[Accounts, list[float]]:
    now = [0.0]
    accounts = Accounts(lambda: now[0], 1_772_431_200.0, random.Random(1))
    for key, value in rules.items():
        setattr(accounts.rules, key, value)
    accounts.add("anna", "engineer", "sesame")
    accounts.add("desk", "operator", "sesame", essential=True)
    accounts.add("archive", "viewer", "sesame", program=True)
    return accounts, now


def test_an_expired_password_opens_nothing_but_what_an_essential_function_needs() -> None:
    accounts, now = store(lifetime=100.0, program_lifetime=50.0)
    now[0] = 60.0
    assert accounts.check("anna", "sesame", None, "a")[0] is not None
    assert accounts.check("archive", "sesame", None, "a") == (None, EXPIRED)
    now[0] = 101.0
    assert accounts.check("anna", "sesame", None, "a") == (None, EXPIRED)
    assert accounts.check("anna", "wrong", None, "a") == (None, WRONG_PASSWORD)
    assert accounts.check("desk", "sesame", None, "a")[0] is not None


def test_an_earlier_password_is_not_taken_again_and_a_new_one_is_kept_for_a_while() -> None:
    accounts, now = store(remembered=2, least_age=10.0, password=PasswordRule(5, 1))
    assert accounts.change("anna", "sesame") == TOO_YOUNG
    now[0] = 20.0
    assert accounts.change("anna", "sesame") == REMEMBERED
    assert accounts.change("anna", "abc") == "shorter than 5 characters"
    for number, password in enumerate(("first", "second", "third"), 2):
        now[0] = 20.0 * number
        assert accounts.change("anna", password) is None
    now[0] = 100.0
    assert accounts.change("anna", "second") == REMEMBERED
    assert accounts.change("anna", "sesame") is None  # only two are remembered
    assert accounts.check("anna", "sesame", None, "a")[0] is not None


def test_every_password_of_a_person_is_within_its_lifetime_when_the_run_starts() -> None:
    world = water("SR 1.1 RE 1", "SR 1.7 RE 1")
    for name in ("operator1", "supervisor1", "engineer1"):
        account = world.account_store("hmi1").accounts[name]
        assert -90 * 86_400 <= account.changed <= 0
        assert world.leaked[name] != world.passwords[name]
        user, _ = world.account_store("opcua1").check(name, world.passwords[name], None, "a")
        assert user is not None
    assert profiles.working(world, "SR 1.7 RE 1")["operations"] is True


def test_a_program_changes_its_password_in_the_run_and_goes_on_working() -> None:
    world = water("SR 1.7 RE 2", password__program_lifetime=0.001)  # 86 s
    before = world.passwords["service"]
    world.start()
    world.loop.run_to(200)
    assert world.passwords["service"] != before
    assert world.seams.ua_credentials["hist1"].password == world.passwords["service"]
    assert world.historians["hist1"].connected
    assert profiles.working(world, "SR 1.7 RE 2")["operations"] is True
    user, _ = world.account_store("opcua1").check("service", world.passwords["service"], None, "a")
    assert user is not None
    world.close()


# -- failed log-ins ----------------------------------------------------------------------------------------------


def test_an_operators_account_waits_for_the_guessers_address_and_never_at_its_own_screen() -> None:
    accounts, now = store(lockout_attempts=3, lockout_duration=900.0, stations={"screen"}.__contains__)
    reasons = [accounts.check("desk", "x", None, "jump")[1] for _ in range(4)]
    assert reasons == [WRONG_PASSWORD, WRONG_PASSWORD, SPARED, BLOCKED]
    assert accounts.check("desk", "sesame", None, "jump") == (None, BLOCKED)
    for _ in range(5):
        accounts.check("desk", "x", None, "screen")
    assert accounts.check("desk", "sesame", None, "screen")[0] is not None
    assert not accounts.locked("desk")
    now[0] = 901.0
    assert accounts.check("desk", "sesame", None, "jump")[0] is not None


def test_nobody_uses_a_programs_account_at_a_screen_under_sr_1_11() -> None:
    accounts, _ = store(interactive_programs=False)
    assert accounts.check("archive", "sesame", None, "a", interactive=True) == (None, NOT_INTERACTIVE)
    assert accounts.check("archive", "sesame", None, "a")[0] is not None


def test_sr_1_11_ends_guessing_and_the_operator_works_on() -> None:
    world = water("SR 1.1 RE 1", "SR 1.5", "SR 1.11", **FAST)
    assert play(world, "account-guessed", until=100.0) == ["refused"]
    assert world.hmis["hmi1"].who() is not None
    assert not any(event.kind == "operator.locked_out" for event in world.trace.events)


@given(st.text(), st.one_of(st.none(), st.from_regex(r"\A[0-9]{6}\Z")))
def test_a_code_behind_a_password_is_found_again(password: str, code: str | None) -> None:
    if code is not None or not password.rpartition("#")[2].isdecimal():
        assert without_code(with_code(password, code)) == (password, code)


# -- the terminal ------------------------------------------------------------------------------------------------


@pytest.fixture
def desk() -> Iterator[tuple[SmallWorld, OperatorTerminal]]:
    with one_zone() as world:
        world.plc().start()
        hmi = world.hmi()
        hmi.start()
        terminal = OperatorTerminal(hmi, 23, 0.1)
        terminal.start()
        world.run(2)
        yield world, terminal


def talk(world: SmallWorld, *said: str) -> list[str]:
    """What the terminal answers to lines that are typed one after another."""

    async def dialogue() -> list[str]:
        line = await connect("10.0.1.20", 23)
        heard = []
        for text in said:
            heard.append(await line.hear(5.0))
            line.say(text)
        while (text_ := await line.hear(5.0)) is not None:
            heard.append(text_)
        line.close()
        return [str(one) for one in heard]

    return world.ask(dialogue())


def with_accounts(terminal: OperatorTerminal) -> Accounts:
    accounts, _ = store()
    terminal.hmi.seams.accounts = accounts
    return accounts


def test_a_terminal_as_delivered_serves_whoever_connects(desk: tuple[SmallWorld, OperatorTerminal]) -> None:
    world, _ = desk
    writes = ("write H_SP 700", "write LEVEL 1", "write NONE 1", "write H_SP x")
    heard = talk(world, "read LEVEL", *writes, "dance", "quit")
    assert heard[0] == "welcome anyone"
    assert heard[1].startswith("LEVEL ")
    assert heard[2:4] == ["done", "LEVEL is read-only"]
    assert "NONE" in heard[4]
    assert heard[5:] == ["x is no value of H_SP", "read TAG, write TAG VALUE, or quit", GOODBYE]
    world.run(1)
    assert world.plcs["plc1"].value("H_SP") == 700.0


@pytest.mark.parametrize("number", ["nan", "inf", "1e400"])
def test_a_terminal_writes_no_number_that_is_none(
    desk: tuple[SmallWorld, OperatorTerminal], number: str
) -> None:
    world, _ = desk
    assert "done" not in talk(world, f"write H_SP {number}", "quit")


def test_a_terminal_hangs_up_after_three_failed_log_ins(desk: tuple[SmallWorld, OperatorTerminal]) -> None:
    world, terminal = desk
    with_accounts(terminal)
    heard = talk(world, "anna", "1", "", "2", "", "3")
    assert heard[:3] == [LOGIN, PASSWORD, "log-in failed: wrong password"]
    assert heard[-1] == GOODBYE
    assert world.kinds("login.failed") == ["login.failed"] * 3
    assert world.last("login.failed")["peer"] == "10.0.1.99"


def test_answers_differ_in_words_and_time_until_they_are_made_alike(
    desk: tuple[SmallWorld, OperatorTerminal],
) -> None:
    world, terminal = desk
    with_accounts(terminal)

    def refusal(name: str) -> tuple[str, float]:
        async def ask() -> tuple[str, float]:
            line = await connect("10.0.1.20", 23)
            for text in (name, "wrong"):
                await line.hear(5.0)
                line.say(text)
            began = world.now
            said = str(await line.hear(5.0))
            line.close()
            return said, round(world.now - began, 2)

        return world.ask(ask())

    known, unknown = refusal("anna"), refusal("berta")
    assert known[0] != unknown[0]
    assert known[1] - unknown[1] == pytest.approx(0.1)
    terminal.seams.feedback, terminal.seams.even = (lambda _reason: "no"), True
    assert refusal("anna") == refusal("berta") == ("no", known[1])


def test_nobody_gets_past_a_notice_without_a_yes(desk: tuple[SmallWorld, OperatorTerminal]) -> None:
    world, terminal = desk
    with_accounts(terminal)
    terminal.hmi.seams.notice = "recorded"
    assert talk(world, "no") == [f"recorded; {ACKNOWLEDGE}", GOODBYE]
    assert world.kinds("notice.acknowledged") == []
    assert talk(world, "yes", "anna", "sesame", "quit")[-2:] == ["welcome anna", GOODBYE]
    assert world.last("notice.acknowledged") == {"user": "anna", "peer": "10.0.1.99"}


def test_no_bytes_upset_a_terminal() -> None:
    with one_zone() as world:
        world.plc().start()
        hmi = world.hmi()
        hmi.start()
        terminal = OperatorTerminal(hmi, 23)
        with_accounts(terminal)
        terminal.start()
        world.run(1)

        @given(st.lists(st.binary(max_size=600), max_size=5))
        @settings(max_examples=60, deadline=None)
        def check(chunks: list[bytes]) -> None:
            async def send() -> None:
                line = await connect("10.0.1.20", 23)
                transport = line._transport
                for chunk in chunks:
                    if transport is not None and not transport.is_closing():
                        transport.write(chunk)
                line.close()

            world.ask(send())

        check()
        assert talk(world, "anna", "sesame", "quit")[-1] == GOODBYE
        too_long = talk(world, "x" * (MOST + 1))
        assert too_long == [LOGIN]


# -- what a scenario's file may say wrongly ----------------------------------------------------------------------


def step_of(text: dict[str, Any]) -> Step:
    scenario = Scenario.model_validate(
        {"name": "one", "title": "t", "summary": "s", "attacker": Attacker(zone="dmz"), "steps": [text]}
    )
    return scenario.steps[0]


def test_a_step_names_what_the_site_lacks() -> None:
    site = site_of("water")
    terminal = {"action": "terminal_command", "technique": "T0859", "station": "plc1", "credentials": "none"}
    assert list(step_of(terminal).lacks(site)) == [
        "site 'water' has no operator station 'plc1' with a terminal"
    ]
    lost = {"action": "auth_server_fails", "server": "hmi1", "lasting": 1}
    assert list(step_of(lost).lacks(site)) == ["site 'water' has no authentication server 'hmi1'"]
    read = {"action": "leaked_login", "technique": "T0811", "server": "hmi1", "user": "x"}
    assert list(step_of(read).lacks(site)) == ["site 'water' has no OPC UA server 'hmi1'"]


@pytest.mark.parametrize("credentials", ["stolen", "own"])
def test_credentials_are_somebodys(credentials: str) -> None:
    with pytest.raises((DocumentError, OtlabError, ValueError), match="credentials are some"):
        step_of(
            {
                "action": "terminal_command",
                "technique": "T0859",
                "station": "hmi1",
                "credentials": credentials,
            }
        )
