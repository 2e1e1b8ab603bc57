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
from datetime import UTC, datetime

import pyotp

#: A deliberately small work factor: the testbed measures behavior, and a run must not spend its time hashing.
ITERATIONS = 20
#: RFC 6238: a code lasts 30 s, and one step of clock skew is accepted either side.
TOTP_SKEW = 1


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


@dataclass(slots=True)
class LoginRules:
    """What controls demand of a login; the defaults demand nothing beyond the password."""

    #: failures within the window that lock the account, or None
    lockout_attempts: int | None = None
    lockout_window: float = 900.0
    lockout_duration: float = 900.0
    #: spare essential accounts from lock-out and raise an event instead (IEC 62443-3-3, 4.2)
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
            return None, "no such account"
        if now < account.locked_until:
            return None, "account locked"
        reason = self._refuse(account, password, code, address)
        if reason is None:
            account.failures.clear()
            return User(account.name, account.role), ""
        account.failures = [time for time in account.failures if now - time < self.rules.lockout_window] + [
            now
        ]
        limit = self.rules.lockout_attempts
        if (
            limit is not None
            and len(account.failures) >= limit
            and not (account.essential and self.rules.spare_essential)
        ):
            account.locked_until = now + self.rules.lockout_duration
            account.failures.clear()
            return None, "account locked"
        return None, reason

    def _refuse(self, account: Account, password: str, code: str | None, address: str) -> str | None:
        if not hmac.compare_digest(_digest(password, account.salt), account.digest):
            return "wrong password"
        if self.rules.needs_code(address):
            if account.totp_secret is None:
                return "no token enrolled"
            moment = int(self._epoch + self._clock())
            if code is None or not pyotp.TOTP(account.totp_secret).verify(
                code, for_time=moment, valid_window=TOTP_SKEW
            ):
                return "wrong code"
        return None

    def locked(self, name: str) -> bool:
        """Whether the account is locked out now."""
        account = self.accounts.get(name)
        return account is not None and self._clock() < account.locked_until


def one_time_code(secret: str, moment: float) -> str:
    """What a token shows at ``moment`` (s since 1970)."""
    return pyotp.TOTP(secret).at(int(moment))


def _digest(password: str, salt: bytes) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", password.encode(), salt, ITERATIONS)
