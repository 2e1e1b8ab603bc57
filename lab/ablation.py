"""Each requirement on against off: which runs that takes, and keeping what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lab.campaign import key_of, run_all
from results.ablation import Arm, Proof, judge
from results.outcomes import OUTCOMES, outcomes_of
from results.store import save_text
from scenarios.experiment import Experiment, run
from scenarios.trials import Trial, trials
from testbed.errors import OtlabError


def measure_arm(struck: Experiment, quiet: Experiment) -> Arm:
    """Run one side of a pair, with its scenario and without."""
    twin = run(quiet)[0]
    record = run(struck)[0]
    return Arm(outcomes_of(record, twin), outcomes_of(twin, twin))


def ablate(
    requirements: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    workers: int,
    progress: Callable[[], None] = lambda: None,
    table: Mapping[str, Trial] | None = None,
) -> list[Proof]:
    """Try each requirement; runs that ``out`` already has are not run again.

    Raises OtlabError for a trial that states an outcome which does not exist, RunError when a worker dies or the disk
    is full; what was finished by then is kept.
    """
    known = trials() if table is None else table
    wanted: dict[tuple[str, int, bool], tuple[Experiment, Experiment]] = {}
    for name in requirements:
        trial = known.get(name)
        if trial is None:
            continue
        if trial.shows not in OUTCOMES:
            raise OtlabError(
                f"trial of {name}: unknown outcome {trial.shows!r}; there are {', '.join(OUTCOMES)}"
            )
        for seed in seeds:
            for on in (True, False):
                wanted[name, seed, on] = (
                    trial.arm(name, seed, on=on),
                    trial.arm(name, seed, on=on, attack=False),
                )
    arms: dict[tuple[Experiment, ...], Arm] = {}
    paths = {pair: out / "arms" / f"{key_of(pair[0])}.json" for pair in wanted.values()}
    for pair, path in paths.items():
        arm = _kept(path)
        if arm is not None:
            arms[pair] = arm
            progress()
    missing = [pair for pair in paths if pair not in arms]
    for done, arm in run_all(measure_arm, missing, workers, progress):
        arms[done] = arm
        save_text(paths[done], json.dumps({"struck": dict(arm.struck), "quiet": dict(arm.quiet)}))
    proofs = []
    for name in requirements:
        pairs = [
            [arms[wanted[name, seed, on]] for seed in seeds if (name, seed, on) in wanted]
            for on in (True, False)
        ]
        proofs.append(judge(name, known.get(name), pairs[0], pairs[1]))
    return proofs


def _kept(path: Path) -> Arm | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return Arm(found["struck"], found["quiet"]) if found["struck"].keys() == OUTCOMES.keys() else None
