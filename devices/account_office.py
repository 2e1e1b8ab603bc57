"""Who keeps accounts in line with people: closes those of people who leave, and looks through all from time to time.

By default nobody does. A control appoints the office and says at which places accounts are kept; going from one place
to the next takes an administrator's time, which is what one central directory saves.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from devices.accounts import Accounts


@dataclass(slots=True)
class Place:
    """One store that an administrator changes; ``copies`` are stores that follow it at once."""

    name: str
    accounts: Accounts
    copies: Sequence[Accounts] = ()

    def close(self, account: str) -> bool:
        """Disable an account here and in the copies; false if none was open."""
        found = False
        for store in (self.accounts, *self.copies):
            if account in store.accounts and store.accounts[account].enabled:
                store.accounts[account].enabled = False
                found = True
        return found

    def set_role(self, account: str, role: str) -> bool:
        """Give an account the role that its holder has now; false if it had it."""
        found = False
        for store in (self.accounts, *self.copies):
            if account in store.accounts and store.accounts[account].role != role:
                store.accounts[account].role = role
                found = True
        return found


@dataclass(slots=True)
class AccountOffice:
    """The administrator of accounts. ``roles`` maps each current holder of an account to the role it should have.

    ``walk`` gives the time (s) of a visit to a place; ``on_closed`` is told (account) when one of a person who
    left is closed everywhere, ``on_found`` (account) when a review finds one that nobody should have.
    """

    places: list[Place]
    roles: Mapping[str, str]
    stream: random.Random
    walk: Callable[[random.Random], float]
    on_closed: list[Callable[[str], None]] = field(default_factory=list)
    on_found: list[Callable[[str], None]] = field(default_factory=list)
    reviews: int = 0
    #: who has left since the list of people was written
    gone: set[str] = field(default_factory=set)

    async def close(self, account: str) -> None:
        """Close the account of somebody who leaves, place after place."""
        self.gone.add(account)
        for place in self.places:
            await asyncio.sleep(self.walk(self.stream))
            place.close(account)
        for told in self.on_closed:
            told(account)

    def strays(self) -> dict[str, list[str]]:
        """Place -> open accounts there that no current person or program should have, or not in that role."""
        found: dict[str, list[str]] = {}
        for place in self.places:
            for store in (place.accounts, *place.copies):
                for name, account in store.accounts.items():
                    wrong = name in self.gone or self.roles.get(name) != account.role
                    if account.enabled and wrong and name not in found.setdefault(place.name, []):
                        found[place.name].append(name)
        return {name: accounts for name, accounts in found.items() if accounts}

    def review(self) -> list[str]:
        """Compare every place with the list of people and put it right; the accounts that were wrong."""
        self.reviews += 1
        wrong: dict[str, None] = {}
        for place in self.places:
            for name in self.strays().get(place.name, ()):
                wrong[name] = None
                if name in self.roles and name not in self.gone:
                    place.set_role(name, self.roles[name])
                else:
                    place.close(name)
        for name in wrong:
            for told in self.on_found:
                told(name)
        return list(wrong)
