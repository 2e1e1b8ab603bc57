"""One run as one row of numbers: the only thing statistics, figures and reports ever see of a run.

A row holds nothing that depends on the machine (no wall-clock time, no paths), so equal experiments give equal
rows and equal rows give equal reports, byte for byte.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from testbed.errors import RunError

FUNCTIONS: Final = ("view", "control", "safety", "production")
"""The essential functions (IEC 62443-1-1), in the order of every table and figure."""

NO_ATTACK: Final = "none"
"""The scenario name of a run without an attack."""

_ROUNDING: Final = 1e-9  # a share computed as a quotient of sums may miss 0 or 1 by an ulp or two


def _is_number(value: object) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, int):
        return abs(value) <= 2**53  # larger integers are not exact as a JSON number in most readers
    return isinstance(value, float) and math.isfinite(value)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_availability(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        name in FUNCTIONS and _is_number(share) and -_ROUNDING <= share <= 1 + _ROUNDING
        for name, share in value.items()
    )


_KINDS: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "str": (lambda v: isinstance(v, str), "text"),
    "str | None": (lambda v: v is None or isinstance(v, str), "text or null"),
    "int": (_is_integer, "a whole number"),
    "int | None": (lambda v: v is None or _is_integer(v), "a whole number or null"),
    "float": (_is_number, "a finite number"),
    "float | None": (lambda v: v is None or _is_number(v), "a finite number or null"),
    "bool": (lambda v: isinstance(v, bool), "true or false"),
    "dict[str, float]": (_is_availability, f"shares from 0 to 1 under some of {', '.join(FUNCTIONS)}"),
}

_MAY_BE_NEGATIVE: Final = frozenset({"seed", "production_lost"})


@dataclass(frozen=True, slots=True)
class Row:
    """One run. Times in seconds, volumes in m3, shares from 0 to 1.

    ``detection_time``, ``impact_time`` and ``contained_time`` count from the attack's first action and are
    ``None`` when the thing did not happen within ``observed`` seconds of it (right-censored). ``availability``
    may lack an essential function that the site does not have. ``production_lost`` is good product against the
    reference run and may be negative. Raises ValueError for a value of the wrong kind, a number that is not
    finite, a negative duration or count, or ``detected`` that contradicts ``detection_time``.
    """

    site: str
    scenario: str
    profile: str
    level: int | None
    seed: int
    duration: float
    attack_start: float | None
    detected: bool
    detection_time: float | None
    detected_by: str | None
    observed: float
    impact_time: float | None
    contained_time: float | None
    availability: dict[str, float]
    unsafe_seconds: float
    trips_true: int
    trips_spurious: int
    production_lost: float
    logins: int
    failed_logins: int
    lockouts: int
    operator_delay: float | None
    missed_deadlines: int
    false_alarms: float
    attack_blocked: bool
    #: maturity level 1 to 4 of the practices, None where every one was perfect; ``profile`` says it too
    maturity: int | None = None
    #: incidents that alerts made, and minutes that analysts worked on them
    incidents: int = 0
    analyst_minutes: float = 0.0
    #: when an analyst first took an incident that the twin does not have for real
    acknowledged_time: float | None = None
    #: when the last of the attacker's goals was reached, None for never or without goals
    goal_time: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            fits, wanted = _KINDS[str(field.type)]
            if not fits(value):
                raise ValueError(f"{field.name}: expected {wanted}, got {value!r}")
            if _is_number(value) and value < 0 and field.name not in _MAY_BE_NEGATIVE:
                raise ValueError(f"{field.name}: may not be negative, got {value!r}")
        if self.detected != (self.detection_time is not None):
            raise ValueError(
                f"detected is {self.detected} but detection_time is {self.detection_time}: they must agree"
            )

    @property
    def attacked(self) -> bool:
        """Whether an attacker acted in this run; only such a run can be detected or missed."""
        return self.scenario != NO_ATTACK and self.attack_start is not None

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON values, one key a field; ``from_dict`` gives the equal row back."""
        document: dict[str, object] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "availability":
                value = {name: float(value[name]) for name in FUNCTIONS if name in value}
            elif str(field.type).startswith("float") and value is not None:
                value = float(value)
            document[field.name] = value
        return document

    @classmethod
    def from_dict(cls, document: Mapping[str, object]) -> Row:
        """Read what ``to_dict`` wrote. Raises RunError for an unknown or missing key or a wrong value."""
        names = [field.name for field in fields(cls)]
        unknown = sorted(set(document) - set(names))
        missing = [name for name in names if name not in document]
        if unknown or missing:
            faults = [f"unknown key {name!r}" for name in unknown] + [f"missing key {n!r}" for n in missing]
            raise RunError(f"not a run's row: {', '.join(faults)}")
        values: dict[str, Any] = dict(document)
        try:
            if isinstance(values["availability"], Mapping):
                values["availability"] = dict(values["availability"])
            return cls(**values)
        except ValueError as error:
            raise RunError(f"not a run's row: {error}") from error
