"""The person at the screen: notices, logs in, answers alarms by the procedure, and gets locked out like anybody."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean

import pytest
from small_worlds import SmallWorld, one_zone

from devices.accounts import Accounts
from devices.operator import ATTEMPTS, Action, Operator
from devices.plc import ILLEGAL_VALUE
from testbed.figures import load_figures
from testbed.plant import stuck_at

EPOCH = 1_772_431_200.0
SHUT = (Action("INLET_AUTO", 0.0), Action("INLET_CMD", 0.0))
PROCEDURE: Mapping[str, Sequence[Action]] = {"LEVEL:HH": SHUT}


@pytest.fixture
def world() -> Iterator[SmallWorld]:
    with one_zone() as found:
        yield found


def on_shift(
    world: SmallWorld,
    responses: Mapping[str, Sequence[Action]] = PROCEDURE,
    *,
    accounts: Accounts | None = None,
    seed: int = 1,
    **overrides: float,
) -> Operator:
    """An operator at an HMI of the tank's PLC, everything started; ``overrides`` of figures with _ for the dots."""
    world.plc().start()
    hmi = world.hmi()
    hmi.seams.accounts = accounts
    figures = load_figures().with_overrides(
        {key.replace("__", "."): value for key, value in overrides.items()}
    )
    operator = Operator(hmi, "anna", figures, random.Random(seed), world.trace, responses, EPOCH)
    operator.password = "sesame"
    hmi.start()
    operator.start()
    return operator


def store(world: SmallWorld, *, essential: bool = False) -> Accounts:
    accounts = Accounts(world.loop.time, EPOCH, random.Random(1))
    accounts.add("anna", "operator", "sesame", essential=essential)
    return accounts


def overfill(world: SmallWorld) -> None:
    """Blind the logic, so that only a person can keep the tank from running over."""
    world.wiring.sensors["LEVEL"].fault = stuck_at(0.95)


def told(world: SmallWorld, kind: str) -> list[dict[str, object]]:
    return [dict(event.data) for event in world.trace.of_kind(kind)]


def test_an_alarm_is_noticed_and_answered_by_the_procedure(world: SmallWorld) -> None:
    operator = on_shift(world)
    world.run(5)
    overfill(world)
    world.run(600)
    assert world.plcs["plc1"].value("INLET_AUTO") == 0.0
    assert told(world, "alarm")[:2] == [{"tag": "LEVEL", "level": "H"}, {"tag": "LEVEL", "level": "HH"}]
    assert {"tag": "LEVEL", "level": "HH"} in told(world, "operator.noticed")
    (acted,) = told(world, "operator.acted")
    ((raised, done),) = operator.completed
    assert acted == {"alarm": "LEVEL:HH", "seconds": round(done - raised, 3)}
    # Noticing, deciding and two actions have mean times of 20, 60 and 10 s each.
    assert 10 < done - raised < 600
    assert operator.missed == 0


def test_the_time_to_answer_is_what_the_figures_say_on_average() -> None:
    delays = []
    for seed in range(12):
        with one_zone() as world:
            operator = on_shift(world, {"LEVEL:HH": SHUT[:1]}, seed=seed)
            overfill(world)
            world.run(400)
            delays += [done - raised for raised, done in operator.completed]
    assert len(delays) >= 11
    assert min(delays) > 12
    # The alarm of H is noticed first, 20 s on average; then HH: 20 + 60 + 10 s, with a deviation near 45 s.
    assert 80 < mean(delays) < 140


def test_an_alarm_without_a_procedure_is_noticed_and_that_is_all(world: SmallWorld) -> None:
    operator = on_shift(world, {})
    overfill(world)
    world.run(300)
    assert {"tag": "LEVEL", "level": "HH"} in told(world, "operator.noticed")
    assert operator.completed == []
    assert world.kinds("operator.write") == []


def test_an_alarm_that_went_away_by_itself_is_not_answered(world: SmallWorld) -> None:
    operator = on_shift(world)
    overfill(world)
    world.run(7)
    world.wiring.sensors["LEVEL"].fault = None
    world.run(300)
    assert {"tag": "LEVEL", "level": "HH"} in told(world, "alarm.cleared")
    assert {"tag": "LEVEL", "level": "HH"} in told(world, "operator.noticed")
    assert world.kinds("operator.write") == []
    assert operator.completed == []


def test_one_alarm_is_answered_at_a_time(world: SmallWorld) -> None:
    operator = on_shift(world, {"LEVEL:HH": SHUT, "LEVEL:H": (Action("H_SP", 500.0),)})
    overfill(world)
    world.run(900)
    (first_raised, first_done), (second_raised, second_done) = operator.completed
    assert first_raised <= second_raised  # H and HH come with the same poll
    assert second_done - first_done > 10  # and the second answer is not begun before the first is done


def test_a_refused_write_ends_the_answer_and_counts_as_missed(world: SmallWorld) -> None:
    operator = on_shift(world)
    world.plcs["plc1"].seams.validate.append(lambda _access: ILLEGAL_VALUE)
    overfill(world)
    world.run(600)
    assert operator.missed == 1
    assert told(world, "operator.missed") == [
        {"alarm": "LEVEL:HH", "reason": "refused: function 5: illegal data value"}
    ]


# ---------------------------------------------------------------------------------------------------- log-ins


def test_the_shift_begins_with_a_log_in_that_takes_its_time(world: SmallWorld) -> None:
    operator = on_shift(world, accounts=store(world), login__password_failure=0.0)
    assert operator.seconds_to_log_in() == 7.0
    world.run(0.5)
    assert operator.hmi.who() is None
    world.run(60)
    assert operator.hmi.who() is not None
    assert told(world, "operator.login") == [{"user": "anna"}]


def test_a_panel_without_accounts_costs_no_time(world: SmallWorld) -> None:
    assert on_shift(world).seconds_to_log_in() == 0.0


def test_a_slip_of_the_finger_fails_and_is_typed_again(world: SmallWorld) -> None:
    operator = on_shift(world, accounts=store(world), login__password_failure=0.6, seed=4)
    world.run(200)
    assert operator.hmi.failed_logins >= 1
    assert operator.hmi.logins == operator.hmi.failed_logins + 1
    assert operator.hmi.who() is not None


def test_one_in_ten_passwords_is_mistyped() -> None:
    failed = total = 0
    for seed in range(4):
        with one_zone() as world:
            operator = on_shift(world, accounts=store(world), operator__routine=20.0, seed=seed)
            operator.hmi.seams.lock_after = 5.0
            world.run(800)
            failed += operator.hmi.failed_logins
            total += operator.hmi.logins
    assert total > 60
    assert 0.03 < failed / total < 0.2


def test_an_operator_who_cannot_type_is_locked_out_and_the_alarm_goes_unanswered(world: SmallWorld) -> None:
    accounts = store(world)
    accounts.rules.lockout_attempts = 3
    operator = on_shift(world, accounts=accounts, login__password_failure=1.0)
    world.run(120)
    assert accounts.locked("anna")
    assert operator.seconds_to_log_in() == float("inf")
    overfill(world)
    world.run(600)
    assert world.plcs["plc1"].value("INLET_AUTO") == 1.0
    assert operator.missed == 1
    assert told(world, "operator.missed") == [{"alarm": "LEVEL:HH", "reason": "no log-in"}]
    assert {"user": "anna"} in told(world, "operator.locked_out")
    assert "login.locked" in world.kinds()


def test_an_essential_account_is_not_locked_and_its_operator_gives_up_in_the_end(world: SmallWorld) -> None:
    accounts = store(world, essential=True)
    accounts.rules.lockout_attempts = 3
    operator = on_shift(world, accounts=accounts, login__password_failure=1.0, operator__routine=100_000.0)
    world.run(400)
    assert not accounts.locked("anna")
    assert operator.hmi.failed_logins == ATTEMPTS
    assert world.kinds("login.spared") == ["login.spared"] * (ATTEMPTS - 2)
    assert told(world, "operator.locked_out") == []
    assert accounts.check("anna", "sesame", None, "10.0.1.20")[0] is not None


def test_an_operator_answers_an_alarm_through_a_locked_session(world: SmallWorld) -> None:
    operator = on_shift(
        world, accounts=store(world), login__password_failure=0.0, operator__routine=100_000.0
    )
    operator.hmi.seams.lock_after = 60.0
    world.run(200)
    assert operator.hmi.who() is None
    overfill(world)
    world.run(600)
    assert world.plcs["plc1"].value("INLET_AUTO") == 0.0
    assert len(told(world, "operator.login")) >= 2
    assert operator.missed == 0


def test_routine_work_keeps_the_session_from_locking(world: SmallWorld) -> None:
    operator = on_shift(world, accounts=store(world), login__password_failure=0.0, operator__routine=5.0)
    operator.hmi.seams.lock_after = 60.0
    world.run(900)
    assert operator.hmi.logins == 1
    assert operator.hmi.who() is not None


def test_codes_that_work_once_stop_no_operator_who_has_the_token(world: SmallWorld) -> None:
    """The session locks so often that several log-ins fall into one time step of the token."""
    accounts = store(world)
    accounts.rules.needs_code = lambda _address: True
    accounts.rules.lockout_attempts = 2
    operator = on_shift(
        world,
        accounts=accounts,
        login__password_failure=0.0,
        login__password__mean=1.0,
        login__password__sd=0.1,
        login__totp__mean=2.0,
        login__totp__sd=0.1,
        operator__routine=4.0,
    )
    operator.token = accounts.enroll_token("anna")
    operator.hmi.seams.lock_after = 1.0
    world.run(1800)
    assert operator.seconds_to_log_in() == 3.0
    assert operator.hmi.failed_logins == 0
    # Nearly every step of 30 s sees a log-in, and none sees two.
    assert 50 <= operator.hmi.logins <= 60


def test_an_operator_without_a_token_cannot_log_in_where_one_is_needed(world: SmallWorld) -> None:
    accounts = store(world)
    accounts.rules.needs_code = lambda _address: True
    operator = on_shift(world, accounts=accounts, login__password_failure=0.0)
    world.run(300)
    assert operator.hmi.who() is None
    assert operator.hmi.failed_logins == operator.hmi.logins > 0


def test_the_same_seed_is_the_same_shift() -> None:
    def shift() -> list[str]:
        with one_zone() as world:
            accounts = store(world)
            on_shift(world, accounts=accounts, seed=7)
            overfill(world)
            world.run(300)
            return list(world.trace.lines())

    first = shift()
    assert len(first) > 4
    assert shift() == first
