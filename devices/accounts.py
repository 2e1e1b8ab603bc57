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

#: A deliberately small work factor: the testbed measures behavior, and a run must not spend its time hashing.
ITERATIONS = 20
#: RFC 6238, 5.2: a code lasts 30 s, and one step of clock skew is accepted either side.
TOTP_STEP = 30
TOTP_SKEW = 1

# Why a log-in failed, for the log.
NO_ACCOUNT = "no such account"
LOCKED = "account locked"
#: the failure that would have locked the account, had an essential function not needed it
SPARED = "essential account not locked"
WRONG_PASSWORD = "wrong password"
NO_TOKEN = "no token enrolled"
WRONG_CODE = "wrong code"
USED_CODE = "code used before"


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
    failures: list[float] = field(default_factory=list)
    locked_until: float = 0.0
    #: time step of the last code that logged in: neither it nor an older one does so again
    last_step: int = -1


@dataclass(slots=True)
class LoginRules:
    """What controls demand of a login; the defaults demand nothing beyond the password."""

    #: failures within the window that lock the account, or None
    lockout_attempts: int | None = None
    lockout_window: float = 900.0
    lockout_duration: float = 900.0
    #: spare essential accounts from lock-out and give SPARED as the reason instead (IEC 62443-3-3, 4.2)
    spare_essential: bool = True
    #: whether this login, from this address, needs a one-time code
    needs_code: Callable[[str], bool] = lambda _address: False


class Accounts:
    """The account store of one device. ``epoch`` (s since 1970) anchors one-time codes in virtual time."""

    def __init__(self, clock: Callable[[], float], epoch: float, stream: random.Random) -> None:
        self._clock, self._epoch, self._stream = clock, epoch, stream
        self.accounts: dict[str, Account] = {}
        self.rules = LoginRules()

    def add(self, name: str, role: str, password: str, *, essential: bool = False) -> Account:
        """Create or replace an account."""
        salt = self._stream.randbytes(8)
        account = Account(name, role, salt, _digest(password, salt), essential=essential)
        self.accounts[name] = account
        return account

    def enroll_token(self, name: str) -> str:
        """Give an account a token; returns the secret that the token holds."""
        # 160 bits, RFC 4226's recommendation; base32 as authenticator apps take it.
        secret = base64.b32encode(self._stream.randbytes(20)).decode()
        self.accounts[name].totp_secret = secret
        return secret

    def check(self, name: str, password: str, code: str | None, address: str) -> tuple[User | None, str]:
        """Try to log in from ``address``: the user, or None and the reason for the log (not for the screen)."""
        account = self.accounts.get(name)
        now = self._clock()
        if account is None or not account.enabled:
            return None, NO_ACCOUNT
        if now < account.locked_until:
            return None, LOCKED
        reason = self._refuse(account, password, code, address)
        if reason is None:
            account.failures.clear()
            return User(account.name, account.role), ""
        limit, window = self.rules.lockout_attempts, self.rules.lockout_window
        account.failures = [*(time for time in account.failures if now - time < window), now]
        if limit is None or len(account.failures) < limit:
            return None, reason
        if account.essential and self.rules.spare_essential:
            return None, SPARED
        account.locked_until = now + self.rules.lockout_duration
        account.failures.clear()
        return None, LOCKED

    def _refuse(self, account: Account, password: str, code: str | None, address: str) -> str | None:
        if not hmac.compare_digest(_digest(password, account.salt), account.digest):
            return WRONG_PASSWORD
        if not self.rules.needs_code(address):
            return None
        if account.totp_secret is None:
            return NO_TOKEN
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


def time_step(moment: float) -> int:
    """Number of the time step that ``moment`` (s since 1970) is in: a token shows one code throughout each."""
    return int(moment) // TOTP_STEP


def one_time_code(secret: str, moment: float) -> str:
    """What a token shows at ``moment`` (s since 1970)."""
    return pyotp.TOTP(secret).at(int(moment))


def _digest(password: str, salt: bytes) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", password.encode(), salt, ITERATIONS)
