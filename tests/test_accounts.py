"""Who may log in: passwords, lock-out and one-time codes in virtual time."""

from __future__ import annotations

import base64
import hashlib
import hmac
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.accounts import (
    LOCKED,
    NO_ACCOUNT,
    NO_TOKEN,
    SPARED,
    TOTP_STEP,
    USED_CODE,
    WRONG_CODE,
    WRONG_PASSWORD,
    Accounts,
    User,
    one_time_code,
    time_step,
)

#: 2026-03-02T06:00:00Z, which is a multiple of 30 s
EPOCH = 1_772_431_200.0
HERE = "10.0.1.20"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def accounts(clock: Clock) -> Accounts:
    found = Accounts(clock, EPOCH, random.Random(1))
    found.add("anna", "operator", "sesame")
    return found


def reason(accounts: Accounts, password: str, code: str | None = None, name: str = "anna") -> str:
    """Why a log-in failed, "" if it did not."""
    return accounts.check(name, password, code, HERE)[1]


# ---------------------------------------------------------------------------------------------------- passwords


def test_the_right_password_logs_in_and_tells_the_role(accounts: Accounts) -> None:
    assert accounts.check("anna", "sesame", None, HERE) == (User("anna", "operator"), "")


def test_a_wrong_password_an_unknown_name_and_a_disabled_account_get_nobody_in(accounts: Accounts) -> None:
    assert accounts.check("anna", "sesamE", None, HERE) == (None, WRONG_PASSWORD)
    assert accounts.check("bert", "sesame", None, HERE) == (None, NO_ACCOUNT)
    accounts.accounts["anna"].enabled = False
    assert accounts.check("anna", "sesame", None, HERE) == (None, NO_ACCOUNT)


def test_an_account_that_is_added_again_has_the_new_password_only(accounts: Accounts) -> None:
    accounts.add("anna", "engineer", "other")
    assert reason(accounts, "sesame") == WRONG_PASSWORD
    assert accounts.check("anna", "other", None, HERE)[0] == User("anna", "engineer")


def test_the_store_holds_no_password_and_no_two_equal_digests(accounts: Accounts) -> None:
    accounts.add("bert", "operator", "sesame")
    anna, bert = accounts.accounts["anna"], accounts.accounts["bert"]
    assert "sesame" not in repr(anna)
    assert anna.digest != bert.digest


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=20), st.text(max_size=20))
def test_only_the_very_password_logs_in(password: str, typed: str) -> None:
    accounts = Accounts(Clock(), EPOCH, random.Random(1))
    accounts.add("anna", "operator", password)
    assert accounts.check("anna", password, None, HERE)[0] is not None
    assert (accounts.check("anna", typed, None, HERE)[0] is not None) is (typed == password)


# ----------------------------------------------------------------------------------------------------- lock-out


def test_without_the_control_nobody_is_ever_locked_out(accounts: Accounts) -> None:
    for _ in range(1000):
        assert reason(accounts, "guess") == WRONG_PASSWORD
    assert reason(accounts, "sesame") == ""


def test_failures_within_the_window_lock_the_account_for_its_time(accounts: Accounts, clock: Clock) -> None:
    accounts.rules.lockout_attempts = 3
    assert [reason(accounts, "guess") for _ in range(3)] == [WRONG_PASSWORD, WRONG_PASSWORD, LOCKED]
    assert accounts.locked("anna")
    clock.now = 899.0
    assert reason(accounts, "sesame") == LOCKED
    clock.now = 900.0
    assert not accounts.locked("anna")
    assert reason(accounts, "sesame") == ""


def test_what_is_tried_while_locked_does_not_prolong_the_lock(accounts: Accounts, clock: Clock) -> None:
    accounts.rules.lockout_attempts = 3
    for second in range(899):
        clock.now = float(second)
        accounts.check("anna", "guess", None, HERE)
    clock.now = 902.0
    assert reason(accounts, "sesame") == ""


def test_a_lock_that_is_over_has_forgiven_the_failures_before_it(accounts: Accounts, clock: Clock) -> None:
    accounts.rules.lockout_attempts, accounts.rules.lockout_duration = 3, 60.0
    assert [reason(accounts, "guess") for _ in range(3)][-1] == LOCKED
    clock.now = 60.0  # well within the window of the failures
    assert reason(accounts, "guess") == WRONG_PASSWORD


def test_failures_that_are_further_apart_than_the_window_lock_nothing(
    accounts: Accounts, clock: Clock
) -> None:
    accounts.rules.lockout_attempts = 3
    for hour in range(20):
        clock.now = hour * 450.0  # never three within 900 s
        assert reason(accounts, "guess") == WRONG_PASSWORD
    clock.now += 449.0
    assert reason(accounts, "guess") == LOCKED


def test_a_log_in_forgives_the_failures_before_it(accounts: Accounts) -> None:
    accounts.rules.lockout_attempts = 3
    for _ in range(5):
        assert [reason(accounts, typed) for typed in ("guess", "guess", "sesame")][-1] == ""


def test_one_account_locked_leaves_the_others_open(accounts: Accounts) -> None:
    accounts.rules.lockout_attempts = 1
    accounts.add("bert", "operator", "open")
    assert reason(accounts, "guess") == LOCKED
    assert reason(accounts, "open", name="bert") == ""
    assert not accounts.locked("nobody")


@pytest.mark.parametrize("spare", [True, False])
def test_an_essential_account_is_spared_and_the_reason_says_so(accounts: Accounts, spare: bool) -> None:
    accounts.add("desk", "operator", "sesame", essential=True)
    accounts.rules.lockout_attempts, accounts.rules.spare_essential = 3, spare
    reasons = [reason(accounts, "guess", name="desk") for _ in range(4)]
    assert reasons[:2] == [WRONG_PASSWORD] * 2
    assert reasons[2:] == ([SPARED] * 2 if spare else [LOCKED] * 2)
    assert (reason(accounts, "sesame", name="desk") == "") is spare


# ---------------------------------------------------------------------------------------------- one-time codes


def hotp(secret: str, counter: int) -> str:
    """RFC 4226, 5.3, from its text."""
    digest = hmac.new(base64.b32decode(secret), counter.to_bytes(8, "big"), hashlib.sha1).digest()
    start = digest[19] & 0x0F
    return f"{(int.from_bytes(digest[start : start + 4], 'big') & 0x7FFFFFFF) % 1_000_000:06d}"


def test_codes_are_those_of_rfc_6238() -> None:
    # The RFC's appendix B gives eight digits for the secret "12345678901234567890"; six are its last ones.
    secret = base64.b32encode(b"12345678901234567890").decode()
    vectors = {59: "94287082", 1111111109: "07081804", 1234567890: "89005924", 20000000000: "65353130"}
    for moment, code in vectors.items():
        assert one_time_code(secret, moment) == code[2:] == hotp(secret, time_step(moment))


@pytest.fixture
def token(accounts: Accounts) -> str:
    accounts.rules.needs_code = lambda _address: True
    return accounts.enroll_token("anna")


def test_the_code_of_now_logs_in_with_the_password_and_not_without(accounts: Accounts, token: str) -> None:
    code = one_time_code(token, EPOCH)
    assert reason(accounts, "guess", code) == WRONG_PASSWORD
    assert reason(accounts, "sesame") == WRONG_CODE
    assert reason(accounts, "sesame", "") == WRONG_CODE
    assert reason(accounts, "sesame", "٣" * 6) == WRONG_CODE
    assert reason(accounts, "sesame", code) == ""


def test_only_addresses_that_need_a_code_are_asked_for_one(accounts: Accounts, token: str) -> None:
    accounts.rules.needs_code = lambda address: address != HERE
    assert accounts.check("anna", "sesame", None, HERE)[0] is not None
    assert accounts.check("anna", "sesame", None, "10.9.9.9") == (None, WRONG_CODE)


def test_an_account_without_a_token_cannot_come_where_a_code_is_needed(accounts: Accounts) -> None:
    accounts.rules.needs_code = lambda _address: True
    assert reason(accounts, "sesame", "123456") == NO_TOKEN


@pytest.mark.parametrize(
    ("steps", "expected"), [(-2, WRONG_CODE), (-1, ""), (0, ""), (1, ""), (2, WRONG_CODE)]
)
def test_a_token_may_be_one_step_slow_or_fast(
    accounts: Accounts, clock: Clock, token: str, steps: int, expected: str
) -> None:
    clock.now = 95.0
    code = one_time_code(token, EPOCH + clock.now + steps * TOTP_STEP)
    assert reason(accounts, "sesame", code) == expected


def test_a_code_logs_in_once(accounts: Accounts, clock: Clock, token: str) -> None:
    code = one_time_code(token, EPOCH)
    assert reason(accounts, "sesame", code) == ""
    for later in (0.0, 1.0, 29.0, 31.0):
        clock.now = later
        assert reason(accounts, "sesame", code) == USED_CODE
    clock.now = 61.0
    assert reason(accounts, "sesame", code) == WRONG_CODE


def test_after_a_code_no_older_one_logs_in_though_skew_would_let_it(
    accounts: Accounts, clock: Clock, token: str
) -> None:
    clock.now = 60.0
    older, newer = one_time_code(token, EPOCH + 30), one_time_code(token, EPOCH + 60)
    assert reason(accounts, "sesame", newer) == ""
    assert reason(accounts, "sesame", older) == USED_CODE
    clock.now = 90.0
    assert reason(accounts, "sesame", one_time_code(token, EPOCH + 90)) == ""


def test_a_code_that_came_with_a_wrong_password_is_not_used_up(accounts: Accounts, token: str) -> None:
    code = one_time_code(token, EPOCH)
    assert reason(accounts, "guess", code) == WRONG_PASSWORD
    assert reason(accounts, "sesame", code) == ""


def test_two_people_may_use_the_same_step(accounts: Accounts, token: str) -> None:
    accounts.add("bert", "operator", "open")
    other = accounts.enroll_token("bert")
    assert other != token
    assert reason(accounts, "sesame", one_time_code(token, EPOCH)) == ""
    assert reason(accounts, "open", one_time_code(other, EPOCH), name="bert") == ""


def test_wrong_codes_lock_the_account_too(accounts: Accounts, token: str) -> None:
    accounts.rules.lockout_attempts = 3
    wrong = f"{(int(one_time_code(token, EPOCH)) + 1) % 1_000_000:06d}"
    assert [reason(accounts, "sesame", wrong) for _ in range(3)] == [WRONG_CODE, WRONG_CODE, LOCKED]


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=12))
def test_whatever_is_typed_for_a_code_is_judged_and_never_an_error(typed: str) -> None:
    accounts = Accounts(Clock(), EPOCH, random.Random(1))
    accounts.add("anna", "operator", "sesame")
    secret = accounts.enroll_token("anna")
    accounts.rules.needs_code = lambda _address: True
    near = {one_time_code(secret, EPOCH + step * TOTP_STEP) for step in (-1, 0, 1)}
    assert (reason(accounts, "sesame", typed) == WRONG_CODE) is (typed not in near)
