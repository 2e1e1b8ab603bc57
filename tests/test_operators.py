"""Operators with attention and error: log-ins that go wrong, alarm floods, second people, and published formulas."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from small_worlds import SmallWorld, one_zone

from controls.catalogue import SecurityLevels
from controls.selection import select
from devices.accounts import Accounts, counted_proof
from devices.crew import CrewOperator, Method
from devices.hmi import Alarm
from devices.operator import Action
from devices.reliability import Reliability, dependent, hcr_seconds, heart, no_response, spar_h
from devices.world import World
from scenarios.emergencies import leeway
from scenarios.experiment import Experiment, prepare, run
from testbed.errors import UnknownNameError
from testbed.figures import load_figures

EPOCH = 1_772_431_200.0
SET = (Action("H_SP", 500.0),)
CALM = {"login.password_failure": 0.0, "login.repeat_failure": 0.0, "login.totp_failure": 0.0}


@pytest.fixture
def world() -> Iterator[SmallWorld]:
    with one_zone() as found:
        yield found


def on_shift(
    world: SmallWorld, *, code: bool = False, method: Method = "totp", accounts: bool = True, **changes: float
) -> CrewOperator:
    world.plc().start()
    hmi = world.hmi()
    figures = load_figures().with_overrides(
        {"operator.routine": 100_000.0, **CALM, **{key.replace("__", "."): v for key, v in changes.items()}}
    )
    arguments: tuple[Any, ...] = (
        hmi,
        "anna",
        figures,
        random.Random(1),
        world.trace,
        {"DRILL:HH": SET},
        EPOCH,
    )
    operator = CrewOperator(*arguments, human="lognormal", method=method)
    operator.password = "sesame"
    if accounts:
        store = Accounts(world.loop.time, EPOCH, random.Random(1))
        store.add("anna", "operator", "sesame")
        hmi.seams.accounts = store
        if code:
            store.rules.needs_code = lambda _address: True
            store.rules.counted = method != "totp"
            operator.token = store.enroll_token("anna")
    hmi.start()
    operator.start()
    return operator


def drill(operator: CrewOperator) -> None:
    """An alarm that the station never clears, at a screen that nobody is logged in at."""
    hmi = operator.hmi
    hmi.session = None
    alarm = Alarm("DRILL", "HH", hmi.loop.time(), 0.0)
    hmi.alarms[alarm.key] = alarm
    for told in hmi.on_alarm:
        told(alarm, True)


def count(world: SmallWorld, kind: str) -> int:
    return len(list(world.trace.of_kind(kind)))


def took(operator: CrewOperator) -> float:
    ((raised, done),) = operator.completed
    return done - raised


def test_a_password_typed_wrong_is_refused_by_the_store_and_typed_again(world: SmallWorld) -> None:
    operator = on_shift(world, login__password_failure=0.999, login__repeat_failure=0.0)
    world.run(60)
    drill(operator)
    world.run(600)
    assert count(world, "operator.mistyped") == 2
    assert operator.hmi.failed_logins == 2
    assert count(world, "operator.acted") == 1


def test_a_token_that_is_elsewhere_is_fetched(world: SmallWorld) -> None:
    operator = on_shift(world, code=True, login__token_fetch__mean=400.0, login__token_fetch__sd=1.0)
    world.run(60)
    operator.token_left = True
    drill(operator)
    world.run(1200)
    assert count(world, "operator.fetched_token") == 1
    assert took(operator) > 400


def test_whoever_is_locked_out_waits_for_the_help_desk_and_is_late(world: SmallWorld) -> None:
    operator = on_shift(
        world,
        login__password_failure=0.9999,
        login__repeat_failure=0.9999,
        lockout__help_desk__mean=500.0,
        lockout__help_desk__sd=1.0,
        operator__routine=100_000.0,
    )
    assert operator.hmi.seams.accounts is not None
    operator.hmi.seams.accounts.rules.lockout_attempts = 3
    drill(operator)
    world.run(2000)
    assert count(world, "operator.locked_out") >= 1
    assert count(world, "operator.unlocked") >= 1


def test_break_glass_is_used_where_the_token_is_away(world: SmallWorld) -> None:
    operator = on_shift(world, code=True)
    hmi = operator.hmi
    emergency = Accounts(world.loop.time, EPOCH, random.Random(2))
    emergency.add("firecall", "supervisor", "sealed")
    hmi.seams.emergency = emergency

    async def envelope() -> bool:
        return await hmi.log_in("firecall", "sealed")

    operator.break_glass = envelope
    world.run(60)
    operator.token_left = True
    drill(operator)
    world.run(600)
    assert count(world, "operator.broke_glass") == 1
    assert count(world, "operator.fetched_token") == 0
    assert "breakglass.used" in world.kinds()
    assert took(operator) < 400


def test_a_second_person_is_called_when_the_first_cannot_get_in(world: SmallWorld) -> None:
    operator = on_shift(world, login__password_failure=0.9999, login__repeat_failure=0.9999)
    assert operator.hmi.seams.accounts is not None
    operator.hmi.seams.accounts.rules.lockout_attempts = 3
    operator.hmi.seams.accounts.add("berta", "supervisor", "second")

    async def call() -> bool:
        return await operator.hmi.log_in("berta", "second")

    operator.call_second = call
    drill(operator)
    world.run(900)
    assert count(world, "operator.called") == 1
    assert count(world, "operator.acted") == 1


@pytest.mark.parametrize("method", ["push", "badge", "fido"])
def test_other_second_factors_get_in_and_a_proof_works_once(world: SmallWorld, method: Method) -> None:
    operator = on_shift(
        world,
        code=True,
        method=method,
        login__push_failure=0.0,
        login__smart_card_failure=0.0,
        login__security_key_failure=0.0,
    )
    world.run(60)
    accounts = operator.hmi.seams.accounts
    assert operator.hmi.who() is not None
    assert accounts is not None
    assert operator.token is not None
    assert accounts.check("anna", "sesame", counted_proof(operator.token, 1), "10.0.1.20")[0] is None
    assert accounts.check("anna", "sesame", counted_proof(operator.token, 2), "10.0.1.20")[0] is not None
    assert accounts.check("anna", "sesame", f"{3:06d}00000000", "10.0.1.20")[0] is None


def test_a_flood_of_alarms_delays_the_answer() -> None:
    delays = []
    for others in (0, 40):
        with one_zone() as world:
            operator = on_shift(world, accounts=False)
            world.run(10)
            for number in range(others):
                for told in operator.hmi.on_alarm:
                    told(Alarm(f"X{number}", "H", world.loop.time(), 0.0), True)
            drill(operator)
            world.run(3000)
            delays.append(took(operator))
            if others:
                assert operator.load() == 0
                assert count(world, "operator.overlooked") >= 1
    assert delays[1] > delays[0] + 60


def test_at_a_change_of_shift_the_screen_is_left_logged_out(world: SmallWorld) -> None:
    operator = on_shift(world, operators__shift=600.0, login__token_missing=1.0)
    world.run(650)
    assert operator.token_left
    assert count(world, "operator.shift") == 1


def test_the_formulas_give_the_published_values() -> None:
    # HCR: half have responded at the median; at twice it 1.8, 11.8 and 18.9 % have not.
    for kind, twice in (("skill", 0.018), ("rule", 0.118), ("knowledge", 0.189)):
        assert no_response(60.0, 60.0, kind) == pytest.approx(0.5, abs=0.005)
        assert no_response(120.0, 60.0, kind) == pytest.approx(twice, abs=0.001)
        assert no_response(hcr_seconds(0.3, 60.0, kind), 60.0, kind) == pytest.approx(0.3)
    # SPAR-H: three negative factors are corrected, so that no probability passes 1.
    assert spar_h(0.01, [5.0, 2.0]) == pytest.approx(0.1)
    assert spar_h(0.01, [10.0, 5.0, 5.0]) == pytest.approx(2.5 / (0.01 * 249 + 1))
    # HEART: task F (0.003) with inexperience (3) at 0.4 and conflicting objectives (2.5) at 0.5.
    assert heart(0.003, [(3.0, 0.4), (2.5, 0.5)]) == pytest.approx(0.003 * 1.8 * 1.75)
    assert heart(0.55, [(17.0, 1.0)]) == 1.0
    assert [round(dependent(0.01, one), 4) for one in ("zero", "low", "moderate", "high", "complete")] == [
        0.01,
        0.0595,
        0.1514,
        0.505,
        1.0,
    ]


def test_a_flood_makes_errors_more_probable() -> None:
    figures = load_figures()
    for model in ("spar-h", "heart"):
        one = Reliability(model, figures)  # type: ignore[arg-type]
        assert 0 < one.error(0) < one.error(20) <= 1
    assert Reliability("hcr", figures).error(50) == 0.0


def experiment(**fields: Any) -> Experiment:
    selection = select(SecurityLevels.parse("IAC=4,UC=1"), compensating=fields.pop("compensating", ()))
    return Experiment.of("boiler", selection, fields.pop("scenario", None), 1, 400.0, **fields)


def test_the_authentication_server_is_waited_for() -> None:
    made, _ = prepare(experiment(human="spar-h", overrides=(("session.lock_after", 30.0),)))
    try:
        assert made.auth_servers
        made.start()
        made.loop.run_to(60.0)
        for server in made.auth_servers.values():
            server.host.power_off()
        operator = made.operators["hmi1"]
        operator.hmi.session = None
        operator.hmi.host.spawn(operator.work((Action("FEEDWATER_CMD", 50.0),)), "drill")
        made.loop.run_to(300.0)
        waited = [dict(one.data) for one in made.trace.of_kind("operator.waited")]
        assert waited
        assert float(str(waited[0]["seconds"])) >= 2.0
    finally:
        made.close()


def test_model_and_method_are_fields_of_an_experiment_and_wrong_ones_are_told() -> None:
    made, _ = prepare(experiment(human="hcr", mfa="fido", compensating=("dual_operators",)))
    try:
        first = made.operators["hmi1"]
        assert isinstance(first, CrewOperator)
        assert (first.human, first.method) == ("hcr", "fido")
        assert isinstance(first.colleague, CrewOperator)
    finally:
        made.close()
    with pytest.raises(UnknownNameError):
        prepare(experiment(human="superman"))
    with pytest.raises(UnknownNameError):
        prepare(experiment(mfa="palm"))


def test_an_emergency_is_answered_at_the_screen_and_the_plant_stays_safe() -> None:
    record, trace = run(
        Experiment.of(
            "boiler", select(SecurityLevels.uniform(0)), "emergency-burner-upset", 1, 600.0, human="lognormal"
        )
    )
    assert [one for one in trace.events if one.kind == "operator.acted"]
    assert record.trips == []


def test_process_safety_times_come_from_the_plant_and_span_the_sites() -> None:
    short, middle = leeway("emergency-feedwater-lost"), leeway("emergency-inlet-open")
    assert (short.site, middle.site) == ("boiler", "water")
    assert short.unsafe < 120 < 1200 < middle.unsafe
    assert 0 < short.answer_within < short.unsafe


def test_the_panel_sets_a_tag_past_the_network() -> None:
    made = World(prepare(experiment())[0].site, 1, load_figures())
    try:
        made.start()
        made.loop.run_to(5.0)
        made.plcs["plc1"].set_at_panel("FEEDWATER_CMD", 12.0)
        made.loop.run_to(7.0)
        assert made.plcs["plc1"].value("FEEDWATER_CMD") == 12.0
        with pytest.raises(UnknownNameError):
            made.plcs["plc1"].set_at_panel("NOTHING", 1.0)
    finally:
        made.close()
