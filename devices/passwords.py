"""Passwords: what a rule demands of one, what people choose without a rule, and what guessers therefore try.

How people choose is an assumption throughout (figures ``passwords.*``); that they choose from a small stock of words
around them, with a digit or a year behind, is what every published list of leaked passwords shows.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

#: What people put behind a word, in a guesser's order.
TAILS = ("", "1", "123", "2026")
#: What people put behind a word to satisfy a rule with the least effort; guessers know these too.
CHEAP_TAILS = ("123!", "2026!")


@dataclass(frozen=True, slots=True)
class PasswordRule:
    """A password has at least ``length`` characters, of ``kinds`` kinds: small, capital, digit, other."""

    length: int
    kinds: int

    def weakness(self, password: str) -> str | None:
        """Why the password is refused, or None."""
        if len(password) < self.length:
            return f"shorter than {self.length} characters"
        kinds = (str.islower, str.isupper, str.isdigit, lambda one: not one.isalnum())
        if sum(any(kind(one) for one in password) for kind in kinds) < self.kinds:
            return f"fewer than {self.kinds} kinds of characters"
        return None


@cache
def words() -> tuple[str, ...]:
    """The shipped stock of words, those in most common use first; made for the testbed, from no leaked list."""
    text = (files("devices") / "data" / "words.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.split() if line)


@cache
def common() -> tuple[str, ...]:
    """What people choose without a rule, in the order in which a guesser tries it."""
    return tuple(word + tail for tail in TAILS for word in words())


@cache
def cheap() -> tuple[str, ...]:
    """What people choose who satisfy a rule with the least effort."""
    return tuple(word.capitalize() + tail for tail in CHEAP_TAILS for word in words())


def guesses() -> tuple[str, ...]:
    """A guesser's list."""
    return (*common(), *cheap())


def choose(stream: random.Random, common_share: float, cheap_share: float, rule: PasswordRule | None) -> str:
    """A password of somebody's choice: common with probability ``common_share``, else two words and some digits.

    Under a rule that refuses the first idea it becomes the least that satisfies it with probability ``cheap_share``.
    """
    first = stream.choice(common()) if stream.random() < common_share else _own(stream)
    if rule is None or rule.weakness(first) is None:
        return first
    if stream.random() < cheap_share:
        second = stream.choice(cheap())
        if rule.weakness(second) is None:
            return second
    own = _own(stream)
    while rule.weakness(own) is not None:
        own += stream.choice(words()).capitalize()
    return own


def _own(stream: random.Random) -> str:
    first, second = stream.sample(words(), 2)
    return f"{first.capitalize()}{stream.choice('-.+!')}{second}{stream.randrange(100, 1000)}"
