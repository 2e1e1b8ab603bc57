"""The requirements of IEC 62443-3-3: which exist, and the lowest security level that needs each.

Identifiers, titles and levels are facts; the paraphrases are this project's own and never the standard's sentences.
Levels rest on secondary sources that were compared row by row; where they disagree, the row says so.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from testbed.errors import OtlabError, UnknownNameError

#: The seven foundational requirements in the standard's order.
FOUNDATIONAL = ("IAC", "UC", "SI", "DC", "RDF", "TRE", "RA")
FR_TITLES = {
    "IAC": "Identification and authentication control",
    "UC": "Use control",
    "SI": "System integrity",
    "DC": "Data confidentiality",
    "RDF": "Restricted data flow",
    "TRE": "Timely response to events",
    "RA": "Resource availability",
}


@dataclass(frozen=True, slots=True)
class Requirement:
    """One system requirement (SR) or requirement enhancement (RE); ``min_sl`` is the lowest level that needs it."""

    id: str  # "SR 1.1" or "SR 1.1 RE 2"
    fr: str
    title: str
    min_sl: int
    paraphrase: str
    source: str

    @property
    def doubtful(self) -> bool:
        """Whether the sources disagree on the level."""
        return "differs" in self.source or self.id == "SR 1.13 RE 1"


@cache
def catalogue() -> dict[str, Requirement]:
    """All requirements by id, in the standard's order."""
    text = (files("controls") / "data" / "iec62443_3_3.csv").read_text(encoding="utf-8")
    found = {}
    for row in csv.DictReader(text.splitlines()):
        name = row["sr"] if row["re"] == "0" else f"{row['sr']} RE {row['re']}"
        found[name] = Requirement(
            name, row["fr"], row["title"], int(row["min_sl"]), row["paraphrase"], row["source"]
        )
    return found


def requirement_id(text: str) -> str:
    """The requirement that a user means: "SR 1.1 RE 2", "sr1.1re2", "1.1 re2". Raises UnknownNameError."""
    found = re.fullmatch(r"(?i)\s*(?:SR)?\s*(\d\.\d{1,2})\s*(?:RE\s*(\d))?\s*", text)
    name = text.strip()
    if found is not None:
        name = f"SR {found[1]}" + (f" RE {found[2]}" if found[2] else "")
    if name not in catalogue():
        raise UnknownNameError("requirement", name, catalogue())
    return name


@dataclass(frozen=True, slots=True)
class SecurityLevels:
    """A vector of security levels 0-4 over the seven foundational requirements."""

    levels: tuple[int, int, int, int, int, int, int]

    def __post_init__(self) -> None:
        if len(self.levels) != len(FOUNDATIONAL) or any(not 0 <= level <= 4 for level in self.levels):
            raise OtlabError(
                f"a security level is 0 to 4 for each of {', '.join(FOUNDATIONAL)}; got {self.levels}"
            )

    @classmethod
    def uniform(cls, level: int) -> SecurityLevels:
        """The same level for every foundational requirement."""
        return cls((level,) * 7)

    @classmethod
    def parse(cls, text: str) -> SecurityLevels:
        """Read ``3`` or ``IAC=3,UC=2`` (what is not named is 0)."""
        if re.fullmatch(r"\s*\d+\s*", text):
            return cls.uniform(int(text))
        levels = dict.fromkeys(FOUNDATIONAL, 0)
        for part in text.split(","):
            name, sign, value = part.strip().partition("=")
            if name.strip().upper() not in levels or not sign or not value.strip().isdigit():
                raise OtlabError(
                    f"cannot read {part.strip()!r} as a security level; write 2 or IAC=3,UC=2,..."
                )
            levels[name.strip().upper()] = int(value)
        return cls(tuple(levels.values()))  # type: ignore[arg-type]  # seven by construction

    def __getitem__(self, fr: str) -> int:
        return self.levels[FOUNDATIONAL.index(fr)]

    def __str__(self) -> str:
        if len(set(self.levels)) == 1:
            return f"SL {self.levels[0]}"
        return "SL {" + " ".join(map(str, self.levels)) + "}"

    def requires(self, requirement: Requirement) -> bool:
        """Whether this vector needs ``requirement``."""
        return 1 <= requirement.min_sl <= self[requirement.fr]
