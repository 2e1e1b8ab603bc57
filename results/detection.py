"""How good a detector was: the metrics of BATADAL and its successors, from label and alarm intervals.

S, S_TTD and S_CLF are those of the BATtle of the Attack Detection ALgorithms (Taormina et al., J. Water Resour. Plann.
Manage. 144(8), 2018, eqs. 3 to 6); detected scenarios, false alarms and penalty as evaluations of process detectors
count them since. Times are in seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

Interval: TypeAlias = tuple[float, float]

#: Weight of the time to detection against the classification in S.
GAMMA = 0.5


@dataclass(frozen=True, slots=True)
class DetectionScore:
    """One detector over one record.

    ``time_to_detect`` has one entry an attack: seconds from its start to the first alarm within it, None if there was
    none. ``true_alarms`` and ``false_alarms`` are alarm episodes that touch an attack (with the grace time) or none.
    ``penalty`` is the length of alarms outside attacks. ``between_false`` is the mean time between false alarms, None
    without one.
    """

    s: float
    s_ttd: float
    s_clf: float
    sensitivity: float
    specificity: float
    time_to_detect: tuple[float | None, ...]
    true_alarms: int
    false_alarms: int
    penalty: float
    between_false: float | None

    @property
    def detected(self) -> int:
        return sum(each is not None for each in self.time_to_detect)


def merged(intervals: Iterable[Interval]) -> list[Interval]:
    """Intervals in order, those that touch made one; empty ones are dropped."""
    found: list[Interval] = []
    for start, end in sorted(intervals):
        if end <= start:
            continue
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def score(
    attacks: Sequence[Interval],
    alarms: Iterable[Interval],
    duration: float,
    *,
    grace: float = 0.0,
    gamma: float = GAMMA,
) -> DetectionScore:
    """Score alarms over a record that runs from 0 to ``duration``.

    ``grace`` is how long after an attack an alarm still belongs to it. Raises ValueError if the attacks overlap, are
    empty or lie outside the record.
    """
    ordered = sorted(attacks)
    if any(not 0 <= start < end <= duration for start, end in ordered):
        raise ValueError("an attack is empty or outside the record")
    if any(end > start for (_, end), (start, _) in pairwise(ordered)):
        raise ValueError("attacks overlap")
    episodes = merged((max(0.0, start), min(duration, end)) for start, end in alarms)
    delays = tuple(_delay(attack, episodes) for attack in attacks)
    attacked = sum(end - start for start, end in ordered)
    hit = sum(_overlap(attack, each) for attack in ordered for each in episodes)
    alarmed = sum(end - start for start, end in episodes)
    sensitivity = hit / attacked if attacked else 1.0
    quiet = duration - attacked
    specificity = 1.0 - (alarmed - hit) / quiet if quiet else 1.0
    lost = [
        (delay if delay is not None else end - start) / (end - start)
        for delay, (start, end) in zip(delays, attacks, strict=True)
    ]
    s_ttd = 1.0 - sum(lost) / len(lost) if lost else 1.0
    s_clf = (sensitivity + specificity) / 2
    true = sum(
        any(start < end_of + grace and begin < end for begin, end_of in ordered) for start, end in episodes
    )
    false = len(episodes) - true
    return DetectionScore(
        gamma * s_ttd + (1 - gamma) * s_clf,
        s_ttd,
        s_clf,
        sensitivity,
        specificity,
        delays,
        true,
        false,
        alarmed - hit,
        quiet / false if false else None,
    )


def _delay(attack: Interval, episodes: Iterable[Interval]) -> float | None:
    start, end = attack
    return next(
        (max(0.0, begin - start) for begin, stop in episodes if begin < end and stop > start),
        None,
    )


def _overlap(one: Interval, other: Interval) -> float:
    return max(0.0, min(one[1], other[1]) - max(one[0], other[0]))
