"""Who may log in to a device, and what a login needs.

The store only knows accounts and rules; which rules are in force is decided by controls, which fill in
``LoginRules``. Secrets are kept as salted digests, so that a read of the store is not a read of the passwords.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pyotp
from pyotp.exceptions import OTPVerificationError

from devices.passwords import PasswordRule

#: A deliberately small work factor: the testbed measures behavior, and a run must not spend its time hashing.
ITERATIONS = 20
#: RFC 6238, 5.2: a code lasts 30 s, and one step of clock skew is accepted either side.
TOTP_STEP = 30
TOTP_SKEW = 1
#: Digits of a counted proof, beside the count before them.
PROOF_DIGITS = 8

# Why a log-in failed, for the log.
NO_ACCOUNT = "no such account"
LOCKED = "account locked"
#: the failure that would have locked the account, had an essential function not needed it
SPARED = "essential account not locked"
WRONG_PASSWORD = "wrong password"
NO_TOKEN = "no token enrolled"
WRONG_CODE = "wrong code"
USED_CODE = "code used before"
BLOCKED = "address blocked for this account"
EXPIRED = "password expired"
NOT_INTERACTIVE = "account of a program"

# Why a new password was not taken.
TOO_YOUNG = "password changed too recently"
REMEMBERED = "password used before"


@dataclass(frozen=True, slots=True)
class User:
    """A person or program that has logged in."""

    name: str
    role: str  # viewer, operator, engineer, supervisor, admin


@dataclass(slots=True)
class Account:
    """One account; ``essential`` marks one that an essential function needs and that may never be locked out."""

    name: str
    role: str
    salt: bytes
    digest: bytes
    totp_secret: str | None = None
    essential: bool = False
    enabled: bool = True
    #: belongs to a program or device and to no person
    program: bool = False
    #: still has the password that it was delivered with
    default: bool = False
    #: failed log-ins of late: time (s) and the address that they came from
    failures: list[tuple[float, str]] = field(default_factory=list)
    locked_until: float = 0.0
    #: address -> time (s) until which the account takes no log-in from it
    blocked: dict[str, float] = field(default_factory=dict)
    #: when the password was set (s; negative: before the run), and salts and digests of those before it
    changed: float = 0.0
    former: tuple[tuple[bytes, bytes], ...] = ()
    #: time step of the last code that logged in: neither it nor an older one does so again
    last_step: int = -1
    #: number of the last proof that an authenticator which counts has given
    last_counter: int = 0


@dataclass(slots=True)
class LoginRules:
    """What controls demand of a login; the defaults demand nothing beyond the password."""

    #: failures within the window that lock the account, or None
    lockout_attempts: int | None = None
    lockout_window: float = 900.0
    lockout_duration: float = 900.0
    #: spare essential accounts from lock-out and give SPARED as the reason instead (IEC 62443-3-3, 4.2)
    spare_essential: bool = True
    #: addresses from which a spared account is always let in; from others its failures block their address
    stations: Callable[[str], bool] = lambda _address: True
    #: whether this login, from this address, needs a one-time code
    needs_code: Callable[[str], bool] = lambda _address: False
    #: second factors that answer by themselves (push, badge, security key) count their proofs instead of telling time
    counted: bool = False
    #: programs' accounts may be used by people at a screen
    interactive_programs: bool = True
    #: what a new password must be like, or None
    password: PasswordRule | None = None
    #: s after which a password of a person, or of a program, is no longer taken, or None
    lifetime: float | None = None
    program_lifetime: float | None = None
    #: s for which a person keeps a password at least, and how many earlier ones may not be used again
    least_age: float = 0.0
    remembered: int = 0


class Accounts:
    """The account store of one device. ``epoch`` (s since 1970) anchors one-time codes in virtual time."""

    def __init__(self, clock: Callable[[], float], epoch: float, stream: random.Random) -> None:
        self._clock, self._epoch, self._stream = clock, epoch, stream
        self.accounts: dict[str, Account] = {}
        self.rules = LoginRules()

    def add(
        self,
        name: str,
        role: str,
        password: str,
        *,
        essential: bool = False,
        program: bool = False,
        default: bool = False,
    ) -> Account:
        """Create or replace an account."""
        salt = self._stream.randbytes(8)
        account = Account(
            name,
            role,
            salt,
            _digest(password, salt),
            essential=essential,
            program=program,
            default=default,
            changed=self._clock(),
        )
        self.accounts[name] = account
        return account

    def change(self, name: str, password: str, *, moment: float | None = None) -> str | None:
        """Set a new password at ``moment`` (s, now if None); None, or why the rules in force do not take it."""
        account, rules = self.accounts[name], self.rules
        moment = self._clock() if moment is None else moment
        if rules.password is not None:
            weakness = rules.password.weakness(password)
            if weakness is not None:
                return weakness
        if not account.program and not account.default and moment - account.changed < rules.least_age:
            return TOO_YOUNG
        past = ((account.salt, account.digest), *account.former)
        if rules.remembered and any(
            hmac.compare_digest(_digest(password, salt), digest) for salt, digest in past[: rules.remembered]
        ):
            return REMEMBERED
        account.former = past[: rules.remembered]
        account.salt = self._stream.randbytes(8)
        account.digest = _digest(password, account.salt)
        account.changed, account.default = moment, False
        return None

    def expired(self, account: Account) -> bool:
        """Whether the password is older than the rules allow; one that an essential function needs never is."""
        limit = self.rules.program_lifetime if account.program else self.rules.lifetime
        spared = account.essential and self.rules.spare_essential
        return limit is not None and not spared and self._clock() - account.changed > limit

    def enroll_token(self, name: str) -> str:
        """Give an account a token; returns the secret that the token holds."""
        # 160 bits, RFC 4226's recommendation; base32 as authenticator apps take it.
        secret = base64.b32encode(self._stream.randbytes(20)).decode()
        self.accounts[name].totp_secret = secret
        return secret

    def check(
        self, name: str, password: str, code: str | None, address: str, *, interactive: bool = False
    ) -> tuple[User | None, str]:
        """Try to log in from ``address``: the user, or None and the reason for the log (not for the screen).

        ``interactive`` is a log-in at something that people type commands into.
        """
        account = self.accounts.get(name)
        now = self._clock()
        if account is None or not account.enabled:
            return None, NO_ACCOUNT
        if account.program and interactive and not self.rules.interactive_programs:
            return None, NOT_INTERACTIVE
        if now < account.locked_until:
            return None, LOCKED
        if now < account.blocked.get(address, 0.0):
            return None, BLOCKED
        reason = self._refuse(account, password, code, address)
        if reason is None:
            account.failures.clear()
            return User(account.name, account.role), ""
        limit, window = self.rules.lockout_attempts, self.rules.lockout_window
        account.failures = [*(one for one in account.failures if now - one[0] < window), (now, address)]
        if account.essential and self.rules.spare_essential:
            count = sum(1 for _, place in account.failures if place == address)
            if limit is None or count < limit:
                return None, reason
            if not self.rules.stations(address):
                account.blocked[address] = now + self.rules.lockout_duration
            return None, SPARED
        if limit is None or len(account.failures) < limit:
            return None, reason
        account.locked_until = now + self.rules.lockout_duration
        account.failures.clear()
        return None, LOCKED

    def _refuse(self, account: Account, password: str, code: str | None, address: str) -> str | None:
        if not hmac.compare_digest(_digest(password, account.salt), account.digest):
            return WRONG_PASSWORD
        if self.expired(account):
            return EXPIRED
        if not self.rules.needs_code(address):
            return None
        if account.totp_secret is None:
            return NO_TOKEN
        if self.rules.counted and code is not None and len(code) > PROOF_DIGITS:
            return _refuse_proof(account, code)
        moment = int(self._epoch + self._clock())
        try:
            step = pyotp.TOTP(account.totp_secret).verify_and_get_timecode(
                code or "", for_time=moment, valid_window=TOTP_SKEW
            )
        except OTPVerificationError:
            return WRONG_CODE
        if step <= account.last_step:
            return USED_CODE  # RFC 6238, 5.2: whoever has watched a code must not get in with it too
        account.last_step = step
        return None

    def locked(self, name: str) -> bool:
        """Whether the account is locked out now."""
        account = self.accounts.get(name)
        return account is not None and self._clock() < account.locked_until


def counted_proof(secret: str, counter: int) -> str:
    """What an authenticator that counts answers with: its count, and a proof of it (HOTP, RFC 4226)."""
    return f"{counter:06d}{pyotp.HOTP(secret, digits=PROOF_DIGITS).at(counter)}"


def _refuse_proof(account: Account, code: str) -> str | None:
    """As ``_refuse``, for a proof: right for its count, and the count above all before."""
    counter = int(code[:-PROOF_DIGITS]) if code.isascii() and code.isdecimal() else 0
    assert account.totp_secret is not None
    if counter <= account.last_counter:
        return USED_CODE
    if not hmac.compare_digest(counted_proof(account.totp_secret, counter), code):
        return WRONG_CODE
    account.last_counter = counter
    return None


def with_code(password: str, code: str | None) -> str:
    """Password and one-time code in one field, as RADIUS sites send them."""
    return password if code is None else f"{password}#{code}"


def without_code(field: str) -> tuple[str, str | None]:
    """The password and, if one follows it, the one-time code of a field."""
    secret, mark, code = field.rpartition("#")
    return (secret, code) if mark and code.isdecimal() else (field, None)


def time_step(moment: float) -> int:
    """Number of the time step that ``moment`` (s since 1970) is in: a token shows one code throughout each."""
    return int(moment) // TOTP_STEP


def one_time_code(secret: str, moment: float) -> str:
    """What a token shows at ``moment`` (s since 1970)."""
    return pyotp.TOTP(secret).at(int(moment))


def _digest(password: str, salt: bytes) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", password.encode(), salt, ITERATIONS)
