"""Who attacks: the adversaries that define security levels 1 to 4, an insider, and malware on its own.

IEC 62443-3-3 tells its security levels apart by the violation that they withstand: its means, resources, skills and
motivation. A profile turns these four words into what acts in a run, each a figure that a user can change:

skill        which actions are within reach (figures ``skill.ACTION``), and how long an exploit takes to work out
preparation  days that there were for it before the run
strength     how many times the connections and tries of a scenario as written can be brought to bear
pace         how long is waited between steps, as a multiple of what the scenario says
tries        how often a step that was refused is tried
patience     how many refusals in a row make the attacker give up

Without a profile an attacker does what the scenario says and is able to do it.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from testbed.errors import UnknownNameError
from testbed.figures import Figures

DAY = 86400.0
#: McQueen et al. 2006 as used by Leversage and Byres: constants of the time-to-compromise model, skills 1 to 4
#: (novice, beginner, intermediate, expert): exploits that each can use, and share of vulnerabilities it can exploit.
_ALL_VULNERABILITIES = 9447
_EXPLOITS = (150, 250, 350, 450)
_SHARE = (0.15, 0.30, 0.55, 1.0)
_READY_DAYS, _WRITE_DAYS, _CYCLE_DAYS = 1.0, 5.8, 30.42


@dataclass(frozen=True, slots=True)
class Adversary:
    """One kind of attacker in words; what it can do is in figures ``attacker.NAME.*``."""

    name: str
    title: str
    level: int | None  # the security level that is defined by withstanding it
    means: str
    resources: str
    skills: str
    motivation: str
    #: facts that it starts with
    starts_with: tuple[str, ...] = ()


ADVERSARIES: dict[str, Adversary] = {
    one.name: one
    for one in (
        Adversary(
            "casual", "Casual or coincidental", 1, "none chosen", "own time", "none", "none in particular"
        ),
        Adversary("generic", "Intruder with simple means", 2, "simple", "low", "generic", "low"),
        Adversary(
            "specialist",
            "Intruder who knows control systems",
            3,
            "sophisticated",
            "moderate",
            "IACS",
            "moderate",
        ),
        Adversary("state", "Well-funded team", 4, "sophisticated", "extended", "IACS", "high"),
        Adversary(
            "insider",
            "Somebody of the site",
            None,
            "own rights and tools of the site",
            "own time",
            "IACS, and this site's",
            "high, until in danger of being found out",
            ("presence:control room", "account:own"),
        ),
        Adversary(
            "malware",
            "A program on its own",
            None,
            "what was built in",
            "none",
            "what was built in",
            "none: it does not tire",
        ),
    )
}
"""Levels 1 to 4 follow the definitions of security levels in IEC 62443-3-3, paraphrased."""


@dataclass(frozen=True, slots=True)
class Profile:
    """An adversary with its figures, drawn for one run."""

    adversary: Adversary
    skill: int
    preparation: float  # d
    strength: float
    pace: float
    tries: int
    pause: float  # s
    patience: int

    def time_of_exploit(self, stream: random.Random, vulnerabilities: float, sigma: float) -> float:
        """Draw how long (d) a working exploit takes: log-normal (Holm 2014) about McQueen's mean."""
        mean = time_to_compromise(self.skill, vulnerabilities)
        return stream.lognormvariate(math.log(mean) - sigma * sigma / 2, sigma)


def profile_of(name: str, figures: Figures) -> Profile:
    """The profile of adversary ``name``. Raises UnknownNameError."""
    if name not in ADVERSARIES:
        raise UnknownNameError("attacker", name, ADVERSARIES)
    key = f"attacker.{name}."
    return Profile(
        ADVERSARIES[name],
        round(figures[key + "skill"]),
        figures[key + "preparation"] / DAY,
        figures[key + "strength"],
        figures[key + "pace"],
        max(1, round(figures[key + "tries"])),
        figures[key + "pause"],
        max(1, round(figures[key + "patience"])),
    )


def time_to_compromise(skill: int, vulnerabilities: float) -> float:
    """Mean days until somebody of ``skill`` (1 novice to 4 expert) has compromised a component.

    McQueen, Boyer, Flynn, Beitel, "Time-to-compromise model for cyber risk reduction estimation", 2006, with the
    skill values of Leversage and Byres: either an exploit for one of the component's vulnerabilities is at hand, or one
    is written for a known vulnerability, or one waits for a new vulnerability.
    """
    count = max(vulnerabilities, 1e-9)
    share = _SHARE[skill - 1]
    ready = 1.0 - math.exp(-count * _EXPLOITS[skill - 1] / _ALL_VULNERABILITIES)
    usable = share * count
    tries, product = 1.0, 1.0
    for t in range(2, int(count - usable + 1) + 1):
        product *= (count - usable - t + 2) / (count - t + 1)
        tries += t * product
    writing = _WRITE_DAYS * usable / count * tries
    waiting = (1.0 / share - 0.5) * _CYCLE_DAYS + _WRITE_DAYS
    unable: float = (1.0 - share) ** count
    return _READY_DAYS * ready + writing * (1 - ready) * (1 - unable) + waiting * unable * (1 - ready)
