"""Does a requirement matter? Pairs of runs with and without it, on the same seeds, judged outcome by outcome.

The outcome that must change is stated in the trial before anything is run, and it alone decides whether the
requirement is proved; whatever else changed, for better or worse, is reported beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from controls.catalogue import FOUNDATIONAL, catalogue
from controls.profiles import CONTROLS
from results.outcomes import OUTCOMES
from results.statistics import Estimate, mean_interval
from scenarios.trials import Trial

#: Level of the two-sided sign test: six pairs that all go one way reach it, five do not.
SIGNIFICANCE: Final = 0.05


@dataclass(frozen=True, slots=True)
class Arm:
    """Outcomes of one side of one pair: of the run with the scenario, and of the same run without it."""

    struck: Mapping[str, float]
    quiet: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Change:
    """One outcome over all pairs: means without and with the requirement, and the mean gain with its interval.

    ``p`` is of the exact two-sided sign test on the pairs that differ by at least the outcome's least difference.
    """

    outcome: str
    off: float
    on: float
    gain: Estimate
    p: float

    @property
    def proved(self) -> bool:
        value = self.gain.value
        return value is not None and value >= OUTCOMES[self.outcome].least and self.p <= SIGNIFICANCE

    @property
    def worse(self) -> bool:
        value = self.gain.value
        return value is not None and -value >= OUTCOMES[self.outcome].least and self.p <= SIGNIFICANCE


@dataclass(frozen=True, slots=True)
class Proof:
    """The verdict on one requirement: what its trial was to show, what else changed, and what it costs unattacked."""

    requirement: str
    trial: Trial | None
    pairs: int
    changes: tuple[Change, ...]  # with the scenario
    costs: tuple[Change, ...]  # without it

    @property
    def proved(self) -> bool:
        return self.shown is not None and self.shown.proved

    @property
    def shown(self) -> Change | None:
        """The change that the trial was to show."""
        if self.trial is None:
            return None
        return next((change for change in self.changes if change.outcome == self.trial.shows), None)


def sign_test(gains: Sequence[float], least: float) -> float:
    """Two-sided p-value of the exact sign test; differences below ``least`` are ties and are left out."""
    up = sum(gain >= least for gain in gains)
    down = sum(gain <= -least for gain in gains)
    n = up + down
    if n == 0:
        return 1.0
    tail = float(sum(math.comb(n, k) for k in range(max(up, down), n + 1)))
    return min(1.0, 2 * tail / 2.0**n)


def judge(requirement: str, trial: Trial | None, on: Sequence[Arm], off: Sequence[Arm]) -> Proof:
    """Compare pairs; ``on[i]`` and ``off[i]`` share their seed. A requirement without a trial is unproved."""
    return Proof(
        requirement,
        trial,
        len(on),
        tuple(_changes([arm.struck for arm in on], [arm.struck for arm in off])),
        tuple(_changes([arm.quiet for arm in on], [arm.quiet for arm in off])),
    )


def _changes(on: Sequence[Mapping[str, float]], off: Sequence[Mapping[str, float]]) -> list[Change]:
    if not on:
        return []
    found = []
    for name, outcome in OUTCOMES.items():
        with_it, without = [run[name] for run in on], [run[name] for run in off]
        gains = [outcome.gain(ours, theirs) for ours, theirs in zip(with_it, without, strict=True)]
        found.append(
            Change(
                name,
                math.fsum(without) / len(without),
                math.fsum(with_it) / len(with_it),
                mean_interval(gains),
                sign_test(gains, outcome.least),
            )
        )
    return found


def table(proofs: Sequence[Proof]) -> str:
    """The published table as Markdown: every requirement of the catalogue, the unproved ones said so first."""
    by_name = {proof.requirement: proof for proof in proofs}
    unproved = [name for name in catalogue() if name in by_name and not by_name[name].proved]
    untried = [name for name in catalogue() if name not in by_name]
    proved = len(by_name) - len(unproved)
    lines = [f"{proved} of {len(catalogue())} requirements are proved.", ""]
    if unproved:
        lines += ["**UNPROVED** (their trial shows no difference): " + ", ".join(unproved) + ".", ""]
    if untried:
        lines += ["**NOT TRIED**: " + ", ".join(untried) + ".", ""]
    for fr in FOUNDATIONAL:
        rows = [by_name[name] for name, item in catalogue().items() if item.fr == fr and name in by_name]
        if not rows:
            continue
        lines += [
            f"### {fr}",
            "",
            "| requirement | scenario | outcome | without | with | gain (95 %) | other gains | costs | |",
            "|---|---|---|---:|---:|---:|---|---|---|",
            *(_row(proof) for proof in rows),
            "",
        ]
    return "\n".join(lines)


def as_data(proofs: Sequence[Proof]) -> dict[str, dict[str, object]]:
    """The verdicts as JSON-ready data, for pages that are generated from them."""
    return {
        proof.requirement: {
            "proved": proof.proved,
            "pairs": proof.pairs,
            "scenario": proof.trial.scenario if proof.trial else None,
            "shown": _says(proof.shown) if proof.shown else None,
            "gains": [_signed(change) for change in proof.changes if change.proved],
            "costs": costs_of(proof),
        }
        for proof in proofs
    }


def _says(change: Change) -> str:
    outcome = OUTCOMES[change.outcome]
    unit = "" if outcome.unit == "1" else f" {outcome.unit}"
    return f"{outcome.title} {change.off:.4g} to {change.on:.4g}{unit}"


def costs_of(proof: Proof) -> list[str]:
    """What got worse with the requirement, attacked and in quiet operation."""
    return [
        *(f"{_signed(change)} (attacked)" for change in proof.changes if change.worse),
        *(f"{_signed(change)} (quiet)" for change in proof.costs if change.worse),
    ]


def _row(proof: Proof) -> str:
    title = f"{proof.requirement} {catalogue()[proof.requirement].title}"
    if proof.trial is None or proof.shown is None:
        reason = "no trial" if proof.requirement in CONTROLS else "does not act"
        return f"| {title} | | {reason} | | | | | | **UNPROVED** |"
    shown = proof.shown
    outcome = OUTCOMES[shown.outcome]
    unit = "" if outcome.unit == "1" else f" {outcome.unit}"
    others = [change for change in proof.changes if change.proved and change.outcome != shown.outcome]
    costs = costs_of(proof)
    return (
        f"| {title} | {proof.trial.scenario} | {outcome.title} | {shown.off:.4g}{unit} | {shown.on:.4g}{unit} "
        f"| {interval(shown)} | {', '.join(map(_signed, others))} | {', '.join(costs)} "
        f"| {'proved' if proof.proved else '**UNPROVED**'} |"
    )


def interval(change: Change) -> str:
    """The mean gain and its interval; pairs that are all alike have none."""
    gain = change.gain
    if gain.value is None:
        return ""
    if gain.low is None or gain.high is None:
        return f"{gain.value:.3g} (every pair)"
    return f"{gain.value:.3g} ({gain.low:.3g} to {gain.high:.3g})"


def _signed(change: Change) -> str:
    outcome = OUTCOMES[change.outcome]
    difference = change.on - change.off
    unit = "" if outcome.unit == "1" else f" {outcome.unit}"
    return f"{outcome.title} {difference:+.3g}{unit}"
