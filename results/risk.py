"""Risk from runs: how bad an attack turned out, how often that would be in a year, and what a matrix says of both.

IEC 62443-3-2 (ZCR 5.3 to 5.5) combines consequence and likelihood and prescribes no matrix; this one is the user's own
file. Consequence is measured: a run is in the gravest severity class of which it reaches any mark, net of the quiet run
with the same controls and seed. Likelihood is the share of runs that got there, with Wilson's interval, times the
attempts in a year, which no simulation can know and the user states.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from results.rows import Row
from results.statistics import Estimate, mean_interval, paired_difference, wilson
from testbed.document import Document, Route

Text = Annotated[str, StringConstraints(min_length=1)]
ClassName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]*$")]
Mark = Annotated[float, Field(gt=0)]
#: (asked-for function, mark's field) of the essential functions whose lost seconds have marks
_LOST = (("view", "view_lost"), ("control", "control_lost"), ("safety", "safety_lost"))


class Severity(Document):
    """A severity class: the marks of which a run must reach any, and what one such event counts in points.

    ``unsafe_seconds`` outside the safe envelope; ``view_lost``, ``control_lost``, ``safety_lost`` in s;
    ``production_lost`` a share of what would have been made; ``trips`` in number; ``goal`` the attacker's goals.
    """

    name: ClassName
    title: Text
    weight: Mark
    unsafe_seconds: Mark | None = None
    production_lost: Annotated[float, Field(gt=0, le=1)] | None = None
    view_lost: Mark | None = None
    control_lost: Mark | None = None
    safety_lost: Mark | None = None
    trips: Annotated[int, Field(ge=1)] | None = None
    goal: bool = False


class Likelihood(Document):
    """A likelihood class: more than ``above`` times a year."""

    name: ClassName
    title: Text
    above: Annotated[float, Field(ge=0)]


class Matrix(Document):
    """Severity classes from the mildest, likelihood classes from the rarest, and the rank of each pair.

    A risk is tolerable up to rank ``tolerable``. ``decide_by`` is the end of the interval that is compared with it.
    """

    severities: Annotated[tuple[Severity, ...], Field(min_length=1)]
    likelihoods: Annotated[tuple[Likelihood, ...], Field(min_length=1)]
    ranks: dict[ClassName, tuple[Annotated[int, Field(ge=1)], ...]]
    tolerable: Annotated[int, Field(ge=0)]
    decide_by: Literal["point", "upper"] = "point"

    def problems(self) -> Iterator[tuple[Route, str]]:
        names = [one.name for one in self.severities]
        for number, name in enumerate(names):
            if name in names[:number]:
                yield ("severities", number, "name"), f"{name!r} is already a class"
            if name not in self.ranks:
                yield ("ranks",), f"no row for severity {name!r}"
        for name, row in self.ranks.items():
            if name not in names:
                yield ("ranks", name), f"no severity class has that name; there are {', '.join(names)}"
            if len(row) != len(self.likelihoods):
                yield ("ranks", name), f"{len(row)} ranks for {len(self.likelihoods)} likelihood classes"
            elif list(row) != sorted(row):
                yield ("ranks", name), "a rank falls where the likelihood grows"
        for number in range(1, len(names)):
            graver, milder = self.ranks.get(names[number], ()), self.ranks.get(names[number - 1], ())
            if any(one < other for one, other in zip(graver, milder, strict=False)):
                yield ("ranks", names[number]), f"below the ranks of the milder class {names[number - 1]!r}"
            if self.severities[number].weight < self.severities[number - 1].weight:
                yield ("severities", number, "weight"), "weighs less than the milder class before it"
        for number in range(1, len(self.likelihoods)):
            if self.likelihoods[number].above <= self.likelihoods[number - 1].above:
                yield ("likelihoods", number, "above"), "likelihood classes go from the rarest up"
        if self.likelihoods[0].above:
            yield ("likelihoods", 0, "above"), "the rarest class begins at 0"

    @property
    def highest(self) -> int:
        """The highest rank of the matrix."""
        return max(max(row) for row in self.ranks.values())

    def likelihood(self, rate: float) -> Likelihood:
        """The class of ``rate`` (a year)."""
        return [one for one in self.likelihoods if rate > one.above or one.above == 0][-1]

    def rank(self, severity: str, rate: float) -> int:
        """The rank of an event of a severity class at ``rate`` a year; 0 where it never happens."""
        return self.ranks[severity][self.likelihoods.index(self.likelihood(rate))] if rate > 0 else 0


def class_of(row: Row, quiet: Row, matrix: Matrix) -> int:
    """Severity class of an attacked run, 1 for the mildest, 0 for no effect; ``quiet`` is the run without attack."""
    found = 0
    for number, one in enumerate(matrix.severities, 1):
        if _reaches(row, quiet, one):
            found = number
    return found


def _reaches(row: Row, quiet: Row, marks: Severity) -> bool:
    def lost(function: str) -> float:
        share = quiet.availability.get(function, 1.0) - row.availability.get(function, 1.0)
        return max(0.0, share)

    reached = [marks.goal and row.goal_time is not None]
    reached += [
        mark is not None and lost(function) * row.observed >= mark
        for function, mark in ((name, getattr(marks, key)) for name, key in _LOST)
    ]
    if marks.production_lost is not None:
        reached.append(lost("production") >= marks.production_lost)
    if marks.unsafe_seconds is not None:
        reached.append(row.unsafe_seconds - quiet.unsafe_seconds >= marks.unsafe_seconds)
    if marks.trips is not None:
        reached.append(row.trips_true >= marks.trips)
    return any(reached)


@dataclass(frozen=True, slots=True)
class Risk:
    """What the runs of one attack say under a matrix.

    ``counts`` are the runs of each severity class, no effect first. ``rate`` is of events of ``severity`` or worse in a
    year, the class at which the rank arises; both are None where nothing was seen. ``rank_high`` is the rank at the
    upper ends of all intervals. ``loss`` is expected points a year.
    """

    trials: int
    counts: tuple[int, ...]
    attempts: float
    severity: str | None
    likelihood: str | None
    rate: Estimate
    rank: int
    rank_low: int
    rank_high: int
    loss: Estimate

    def decided(self, matrix: Matrix) -> int:
        """The rank that is compared with what is tolerable."""
        return self.rank if matrix.decide_by == "point" else self.rank_high

    def as_data(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def risk_of(
    outcomes: Sequence[int],
    attempts: float,
    matrix: Matrix,
    between: tuple[float, float] | None = None,
    seed: int = 0,
) -> Risk:
    """The risk of an attack of which each run ended in a severity class of ``outcomes`` (0: no effect).

    ``attempts`` are how often in a year it is begun, ``between`` the bounds of that. Raises ValueError without runs.
    """
    if not outcomes:
        raise ValueError("no runs, no risk")
    low, high = between or (attempts, attempts)
    counts = tuple(outcomes.count(number) for number in range(len(matrix.severities) + 1))
    best: tuple[int, int, Estimate] = (0, 0, Estimate(0.0, 0.0, None))
    lows, highs = [0], [0]
    for number, one in enumerate(matrix.severities, 1):
        share = wilson(sum(outcome >= number for outcome in outcomes), len(outcomes))
        rate = _rate(share, attempts, low, high)
        rank = matrix.rank(one.name, rate.value or 0.0)
        if rank and rank >= best[0]:
            best = (rank, number, rate)
        lows.append(matrix.rank(one.name, rate.low or 0.0))
        highs.append(matrix.rank(one.name, rate.high or 0.0))
    rank, number, rate = best
    if not number:  # nothing was seen: what the gravest class may be after so few runs
        rate = _rate(wilson(0, len(outcomes)), attempts, low, high)
    weights = (0.0, *(one.weight for one in matrix.severities))
    loss = mean_interval([attempts * weights[outcome] for outcome in outcomes], seed)
    return Risk(
        len(outcomes),
        counts,
        attempts,
        matrix.severities[number - 1].name if number else None,
        matrix.likelihood(rate.value or 0.0).name if number else None,
        rate,
        rank,
        max(lows),
        max(highs),
        loss,
    )


def _rate(share: Estimate, attempts: float, low: float, high: float) -> Estimate:
    return Estimate((share.value or 0.0) * attempts, (share.low or 0.0) * low, (share.high or 0.0) * high)


def loss_of(outcomes: Sequence[int], attempts: float, matrix: Matrix) -> list[float]:
    """Points a year that each run stands for."""
    weights = (0.0, *(one.weight for one in matrix.severities))
    return [attempts * weights[outcome] for outcome in outcomes]


def removed(before: Mapping[int, float], after: Mapping[int, float]) -> Estimate:
    """Points a year less, paired on the seeds that both have, with its interval."""
    return paired_difference(before, after)


def default_matrix() -> str:
    """The text of a matrix to start from; its numbers are this project's assumptions, to be replaced by the site's."""
    return _DEFAULT


_DEFAULT = """\
# The risk matrix (IEC 62443-3-2 prescribes none). Every number here is an assumption to be replaced by the site's own.
# A run is in the gravest class of which it reaches any mark, net of the quiet run with the same controls and seed:
#   unsafe_seconds outside the safe envelope; view_lost, control_lost, safety_lost in seconds;
#   production_lost as a share; trips in number; goal: the attacker's goals were reached.
# weight: what one such event counts, in points; expected loss is points a year.
severities: # from the mildest
  - name: slight
    title: Noticed, made good in the shift
    weight: 1
    goal: true
    trips: 1
    view_lost: 60
    control_lost: 60
    production_lost: 0.02
  - name: serious
    title: A shift's product, or the process unseen
    weight: 10
    view_lost: 300
    safety_lost: 30
    production_lost: 0.25
  - {name: grave, title: "Outside the safe envelope", weight: 100, unsafe_seconds: 10}
likelihoods: # from the rarest, times a year
  - {name: remote, title: "Not in the life of many plants", above: 0}
  - {name: unlikely, title: "Up to once in 1,000 years", above: 1.0e-4}
  - {name: possible, title: "Up to once in 100 years", above: 1.0e-3}
  - {name: likely, title: "Up to once in 10 years", above: 1.0e-2}
  - {name: certain, title: "More often than once in 10 years", above: 1.0e-1}
ranks: # by severity, over the likelihood classes
  slight: [1, 1, 1, 2, 3]
  serious: [1, 2, 2, 3, 4]
  grave: [2, 2, 3, 4, 5]
tolerable: 2 # ranks up to this one
decide_by: point # or upper: the upper end of every interval, which few runs cannot bring down
"""
