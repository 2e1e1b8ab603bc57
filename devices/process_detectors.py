"""Detectors of the physical process: each learns from an attack-free record what is normal, then judges every second.

They get tag values as somebody who listens has them, and nothing else. What they learn is plain data, so that it can be
kept beside a site's file. Forms and their limits: CUSUM after Cardenas et al. (AsiaCCS 2011), PASAD after Aoudi et al.
(CCS 2018; squared departure from the signal subspace, raw series), PCA with the squared prediction error, and the
simple ones that Wolsing et al. (ESORICS 2022) found on par with complex ones: limits, gradient, steady time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Vector: TypeAlias = NDArray[np.float64]

#: Seconds between two samples of everything here.
EVERY: Final = 1.0
#: How far beyond what was seen in training counts as abnormal, as a share of it (assumption; a wider one is blinder).
MARGIN: Final = 0.35


@dataclass(frozen=True, slots=True)
class Finding:
    """Something abnormal: which detector, about which tag ("" for the plant as a whole), and how far in its units."""

    rule: str
    tag: str
    value: float


@dataclass(frozen=True, slots=True)
class Record:
    """Attack-free values, one sample a second: ``measured`` tags are numbers, ``switched`` ones 0 or 1.

    Each array has one entry a sample; ``starts`` are the samples where a run of its own begins.
    """

    measured: Mapping[str, Vector]
    switched: Mapping[str, Vector]
    starts: tuple[int, ...] = (0,)

    @property
    def size(self) -> int:
        return len(next(iter(self.measured.values()), np.empty(0)))

    def episodes(self) -> Iterable[slice]:
        """The runs, one after another."""
        ends = (*self.starts[1:], self.size)
        return [slice(start, end) for start, end in zip(self.starts, ends, strict=True)]


class Detector(Protocol):
    """One trained detector."""

    def update(self, values: Mapping[str, float]) -> Iterable[Finding]:
        """Judge the next sample; a tag that is not there was not seen."""
        ...


# ------------------------------------------------------------------------------------------------ one tag alone


class Limits:
    """A value outside what was seen, by more than a share of its span."""

    name = "limits"

    def __init__(self, learned: Mapping[str, Sequence[float]]) -> None:
        self.bounds = {tag: (low, high) for tag, (low, high) in learned.items()}

    @staticmethod
    def learn(record: Record) -> dict[str, list[float]]:
        found = {}
        for tag, series in record.measured.items():
            low, high = float(series.min()), float(series.max())
            room = MARGIN * (high - low) or 0.02 * abs(high) or 1e-6
            found[tag] = [low - room, high + room]
        return found

    def update(self, values: Mapping[str, float]) -> Iterable[Finding]:
        for tag, (low, high) in self.bounds.items():
            value = values.get(tag)
            if value is not None and not low <= value <= high:
                yield Finding(self.name, tag, value)


class Rate:
    """A step from one sample to the next that is larger than any seen."""

    name = "rate"

    def __init__(self, learned: Mapping[str, float]) -> None:
        self.most = dict(learned)
        self._before: dict[str, float] = {}

    @staticmethod
    def learn(record: Record) -> dict[str, float]:
        found = {}
        for tag, series in record.measured.items():
            steps = [np.abs(np.diff(series[part])).max(initial=0.0) for part in record.episodes()]
            most = float(max(steps))
            if most > 0:
                found[tag] = most * (1 + MARGIN)
        return found

    def update(self, values: Mapping[str, float]) -> Iterable[Finding]:
        before = self._before
        for tag, most in self.most.items():
            value = values.get(tag)
            if value is None:
                continue
            step = abs(value - before.get(tag, value))
            before[tag] = value
            if step > most:
                yield Finding(self.name, tag, step)


class Steady:
    """A value that has stood still for longer than any did: a dead sensor, or a view that was frozen."""

    name = "steady"
    LEAST = 30

    def __init__(self, learned: Mapping[str, int]) -> None:
        self.most = dict(learned)
        self._still: dict[str, tuple[float, int]] = {}

    @staticmethod
    def learn(record: Record) -> dict[str, int]:
        found = {}
        for tag, series in record.measured.items():
            longest = max(_longest(series[part]) for part in record.episodes())
            if longest < 0.1 * record.size:
                found[tag] = max(Steady.LEAST, int(3 * longest))
        return found

    def update(self, values: Mapping[str, float]) -> Iterable[Finding]:
        for tag, most in self.most.items():
            value = values.get(tag)
            if value is None:
                continue
            before, count = self._still.get(tag, (value, 0))
            count = count + 1 if value == before else 0
            self._still[tag] = (value, count)
            if count > most:
                yield Finding(self.name, tag, count * EVERY)


def _longest(series: Vector) -> int:
    changes = np.flatnonzero(np.diff(series))
    edges = np.concatenate(([-1], changes, [len(series) - 1]))
    return int(np.diff(edges).max(initial=0))


class Cusum:
    """The sum of what an autoregression of order 2 does not explain, less what it usually does not."""

    name = "cusum"

    def __init__(self, learned: Mapping[str, Sequence[float]]) -> None:
        self.models = {tag: tuple(numbers) for tag, numbers in learned.items()}
        self._state: dict[str, list[float]] = {}

    @staticmethod
    def learn(record: Record) -> dict[str, list[float]]:
        found = {}
        for tag, series in record.measured.items():
            rows, targets = [], []
            for part in record.episodes():
                x = series[part]
                rows.append(np.stack((x[1:-1], x[:-2], np.ones(len(x) - 2)), axis=1))
                targets.append(x[2:])
            if sum(len(each) for each in targets) < 10 or float(series.std()) == 0:
                continue
            a, b, c = (
                float(v)
                for v in np.linalg.lstsq(np.concatenate(rows), np.concatenate(targets), rcond=None)[0]
            )
            most, allowed = 0.0, 0.0
            residuals = [np.abs(t - r @ np.array((a, b, c))) for r, t in zip(rows, targets, strict=True)]
            whole = np.concatenate(residuals)
            allowed = float(whole.mean() + 0.5 * whole.std())
            for residual in residuals:
                total = 0.0
                for each in residual:
                    total = max(0.0, total + float(each) - allowed)
                    most = max(most, total)
            found[tag] = [a, b, c, allowed, most * (1 + MARGIN) or allowed]
        return found

    def update(self, values: Mapping[str, float]) -> Iterable[Finding]:
        for tag, (a, b, c, allowed, most) in self.models.items():
            value = values.get(tag)
            if value is None:
                continue
            state = self._state.setdefault(tag, [value, value, 0.0])
            state[2] = max(0.0, state[2] + abs(value - (a * state[0] + b * state[1] + c)) - allowed)
            state[1], state[0] = state[0], value
            if state[2] > most:
                finding = Finding(self.name, tag, state[2])
                state[2] = 0.0
                yield finding


class Pasad:
    """Departure of the latest ``lag`` samples from the subspace in which the normal signal lives."""

    name = "pasad"
    #: Samples are every so many seconds, windows so many samples, subspaces at most of so many dimensions.
    THIN, LAG, MOST = 10, 60, 8

    def __init__(self, learned: Mapping[str, Mapping[str, Any]]) -> None:
        self.models = {
            tag: (np.array(each["basis"]), np.array(each["center"]), float(each["most"]))
            for tag, each in learned.items()
        }
        self._windows: dict[str, deque[float]] = {tag: deque(maxlen=self.LAG) for tag in self.models}
        self._turn = 0

    @classmethod
    def learn(cls, record: Record) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for tag, series in record.measured.items():
            windows = [
                np.lib.stride_tricks.sliding_window_view(series[part][:: cls.THIN], cls.LAG)
                for part in record.episodes()
                if (part.stop - part.start) // cls.THIN > cls.LAG
            ]
            if not windows or float(series.std()) == 0:
                continue
            every = np.concatenate(windows)
            left, size, _ = np.linalg.svd(every.T, full_matrices=False)
            share = np.cumsum(size**2) / np.sum(size**2)
            rank = min(cls.MOST, 1 + int(np.searchsorted(share, 0.99)))
            basis = left[:, :rank].T
            center = basis @ every.mean(axis=0)
            most = float(((every @ basis.T - center) ** 2).sum(axis=1).max()) * (1 + MARGIN)
            found[tag] = {"basis": _short(basis), "center": _short(center), "most": float(f"{most:.6g}")}
        return found

    def update(self, values: Mapping[str, float]) -> Iterable[Finding]:
        self._turn += 1
        if self._turn % self.THIN:
            return
        for tag, (basis, center, most) in self.models.items():
            value = values.get(tag)
            if value is None:
                continue
            window = self._windows[tag]
            window.append(value)
            if len(window) == self.LAG:
                departure = float(((basis @ np.array(window) - center) ** 2).sum())
                if departure > most:
                    yield Finding(self.name, tag, departure)


# ----------------------------------------------------------------------------------------------- tags together


class Invariants:
    """What measurements and their slopes are while actuators are in a state: physics, learned state by state.

    Every combination of the switched tags that lasted in training has a range for every measurement and for its slope
    over ``WINDOW`` seconds; being outside counts once it has lasted ``LASTING`` samples. A combination that never
    occurred and lasts is a finding of its own.
    """

    name = "invariant"
    SETTLE, WINDOW, NOVEL, LASTING = 40, 20, 60, 10
    #: samples of a state from which on its ranges are believed
    ENOUGH = 600

    def __init__(self, learned: Mapping[str, Any]) -> None:
        self.tags: tuple[str, ...] = tuple(learned["switched"])
        self.states: dict[str, dict[str, tuple[float, float, float, float]]] = {
            state: {tag: (a, b, c, d) for tag, (a, b, c, d) in ranges.items()}
            for state, ranges in learned["states"].items()
        }
        self._state, self._held = "", 0
        self._past: dict[str, deque[float]] = {}
        self._outside: dict[str, int] = {}

    @classmethod
    def learn(cls, record: Record) -> dict[str, Any]:
        tags = sorted(tag for tag, series in record.switched.items() if float(series.std()) > 0)
        columns = [record.switched[tag] for tag in tags]
        states: dict[str, dict[str, list[float]]] = {}
        seen: dict[str, int] = {}
        for part in record.episodes():
            keys = [
                "".join("1" if column[at] else "0" for column in columns)
                for at in range(part.start, part.stop)
            ]
            held = 0
            for offset, key in enumerate(keys):
                held = held + 1 if offset and keys[offset - 1] == key else 1
                entry = states.setdefault(key, {})
                if held <= cls.SETTLE:
                    continue
                at = part.start + offset
                seen[key] = seen.get(key, 0) + 1
                for tag, series in record.measured.items():
                    value = float(series[at])
                    slope = (value - float(series[at - cls.WINDOW])) / cls.WINDOW
                    ranges = entry.setdefault(tag, [value, value, slope, slope])
                    ranges[0], ranges[1] = min(ranges[0], value), max(ranges[1], value)
                    ranges[2], ranges[3] = min(ranges[2], slope), max(ranges[3], slope)
        spans = {tag: float(np.ptp(series)) for tag, series in record.measured.items()}
        slopes = {
            tag: max((each[tag][3] - each[tag][2] for each in states.values() if tag in each), default=0.0)
            for tag in record.measured
        }
        # A flow is what the state makes it; a level can be anything, and only how fast it moves is the state's.
        known = [states[key] for key, count in seen.items() if count >= cls.ENOUGH]
        free = {
            tag
            for tag in record.measured
            if any(each[tag][1] - each[tag][0] > 0.3 * spans[tag] for each in known if tag in each)
        }
        for key, entry in states.items():
            if seen.get(key, 0) < cls.ENOUGH:
                entry.clear()  # the state is known, and too little of it to judge by
            for tag, ranges in entry.items():
                room, steep = MARGIN * spans[tag], MARGIN * slopes[tag]
                if tag in free:
                    series = record.measured[tag]
                    ranges[0], ranges[1] = float(series.min()), float(series.max())
                entry[tag] = [
                    float(f"{number:.6g}")
                    for number in (ranges[0] - room, ranges[1] + room, ranges[2] - steep, ranges[3] + steep)
                ]
        return {"switched": tags, "states": states}

    def update(self, values: Mapping[str, float]) -> Iterable[Finding]:
        if any(tag not in values for tag in self.tags):
            return
        state = "".join("1" if values[tag] else "0" for tag in self.tags)
        self._held = self._held + 1 if state == self._state else 1
        self._state = state
        for tag, value in values.items():
            past = self._past.get(tag)
            if past is None:
                past = self._past[tag] = deque(maxlen=self.WINDOW + 1)
            past.append(value)
        entry = self.states.get(state)
        if entry is None:
            if self._held == self.NOVEL:
                yield Finding(self.name, "", self._held)
            return
        if self._held <= self.SETTLE:
            return
        for tag, (low, high, down, up) in entry.items():
            past = self._past.get(tag)
            if past is None or len(past) <= self.WINDOW:
                continue
            slope = (past[-1] - past[0]) / self.WINDOW
            outside = not low <= past[-1] <= high or not down <= slope <= up
            count = self._outside[tag] = self._outside.get(tag, 0) + 1 if outside else 0
            if count >= self.LASTING:
                yield Finding(self.name, tag, past[-1])


class Pca:
    """The squared distance of all tags together from the space of their usual combinations (SPE), averaged."""

    name = "pca"
    WINDOW = 60

    def __init__(self, learned: Mapping[str, Any]) -> None:
        self.tags: tuple[str, ...] = tuple(learned["tags"])
        self.mean, self.scale = np.array(learned["mean"]), np.array(learned["scale"])
        self.basis, self.most = np.array(learned["basis"]), float(learned["most"])
        self._window: deque[float] = deque(maxlen=self.WINDOW)

    @classmethod
    def learn(cls, record: Record) -> dict[str, Any]:
        series = {**record.measured, **record.switched}
        tags = sorted(tag for tag, each in series.items() if float(each.std()) > 0)
        table = np.stack([series[tag] for tag in tags], axis=1)
        mean, scale = table.mean(axis=0), table.std(axis=0)
        table = (table - mean) / scale
        _, size, right = np.linalg.svd(table[::5], full_matrices=False)
        share = np.cumsum(size**2) / np.sum(size**2)
        basis = right[: 1 + int(np.searchsorted(share, 0.95))]
        error = ((table - table @ basis.T @ basis) ** 2).sum(axis=1)
        kernel = np.ones(cls.WINDOW) / cls.WINDOW
        most = max(
            float(np.convolve(error[part], kernel, "valid").max(initial=0.0)) for part in record.episodes()
        )
        return {
            "tags": tags,
            "mean": _short(mean),
            "scale": _short(scale),
            "basis": _short(basis),
            "most": float(f"{most * (1 + MARGIN):.6g}"),
        }

    def update(self, values: Mapping[str, float]) -> Iterable[Finding]:
        if any(tag not in values for tag in self.tags):
            return
        point = (np.array([values[tag] for tag in self.tags]) - self.mean) / self.scale
        rest = point - self.basis.T @ (self.basis @ point)
        window = self._window
        window.append(float(rest @ rest))
        if len(window) == self.WINDOW:
            error = sum(window) / self.WINDOW
            if error > self.most:
                yield Finding(self.name, self.tags[int(np.argmax(rest * rest))], error)


def _short(array: Vector) -> list[Any]:
    """An array as nested lists of numbers with six digits: enough, and it stays readable."""
    return np.vectorize(lambda number: float(f"{number:.6g}"))(array).tolist()  # type: ignore[no-any-return]


#: Every detector by its rule's name: how it is built from what it learned, and how it learns.
DETECTORS: Final[Mapping[str, tuple[Callable[[Any], Detector], Callable[[Record], Any]]]] = {
    "limits": (Limits, Limits.learn),
    "rate": (Rate, Rate.learn),
    "steady": (Steady, Steady.learn),
    "invariant": (Invariants, Invariants.learn),
    "cusum": (Cusum, Cusum.learn),
    "pca": (Pca, Pca.learn),
    "pasad": (Pasad, Pasad.learn),
}


def learn(record: Record) -> dict[str, Any]:
    """What every detector learns from ``record``, as data for ``trained``; ValueError if it is shorter than 600 s."""
    if record.size < 600:
        raise ValueError(f"{record.size} samples are too few to learn from: 600 are the least")
    return {name: learner(record) for name, (_, learner) in DETECTORS.items()}


def trained(learned: Mapping[str, Any]) -> list[Detector]:
    """The detectors for which ``learned`` has something; KeyError for one that does not exist."""
    return [DETECTORS[name][0](each) for name, each in learned.items()]
