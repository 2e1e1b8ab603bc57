"""Many runs on all cores: what to run, where, and keeping what is done.

The base (no attack, no controls) and each profile's twin (no attack) come first, because every attacked run is
measured against them. Rows are kept under the content of their experiment, so what was measured once is not run again
and a campaign that was stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

from controls.selection import Selection
from devices.crew import Method
from devices.reliability import HumanModel
from devices.response import Mode
from results.metrics import measure
from results.rows import Row
from results.store import RowStore, content_key
from scenarios.experiment import Experiment, RunRecord, run
from testbed.errors import RunError
from testbed.plants import brought

PACKAGES = ("testbed", "devices", "controls", "scenarios", "results")


@dataclass(frozen=True, slots=True)
class Campaign:
    """Scenarios x profiles x seeds on one site."""

    site: str
    scenarios: tuple[str, ...]
    profiles: tuple[Selection, ...]
    seeds: tuple[int, ...]
    duration: float
    overrides: tuple[tuple[str, float], ...] = ()
    #: who attacks; None is who each scenario says, able to do all of it
    attackers: tuple[str | None, ...] = (None,)
    #: what is done about incidents
    response: Mode = "none"
    #: how operators are modeled and with what they log in
    human: HumanModel = "simple"
    mfa: Method = "totp"

    def experiment(
        self, selection: Selection, scenario: str | None, seed: int, attacker: str | None = None
    ) -> Experiment:
        """One cell of the campaign."""
        return Experiment.of(
            self.site,
            selection,
            scenario,
            seed,
            self.duration,
            self.overrides,
            attacker,
            self.response,
            self.human,
            self.mfa,
        )

    def experiments(self) -> Iterator[Experiment]:
        """Every row-giving experiment: the attack-free run of each profile, then the attacks."""
        for selection in self.profiles:
            for seed in self.seeds:
                yield self.experiment(selection, None, seed)
                for scenario in self.scenarios:
                    for attacker in self.attackers:
                        yield self.experiment(selection, scenario, seed, attacker)

    @property
    def runs(self) -> int:
        """Runs that a complete campaign takes."""
        return runs_of(list(self.experiments()))


def twins_of(experiments: Iterable[Experiment]) -> list[Experiment]:
    """The attack-free runs that rows of ``experiments`` are measured against, those without controls first."""
    every = list(experiments)
    return list(
        dict.fromkeys([*(one.without_controls() for one in every), *(one.without_attack() for one in every)])
    )


def runs_of(experiments: Sequence[Experiment]) -> int:
    """Runs that it takes to measure ``experiments``, those that they are measured against included."""
    return len(twins_of(experiments)) + sum(1 for one in experiments if one.scenario is not None)


@cache
def code_digest() -> str:
    """Digest of the program text and data that decide a run: a row of other code is not this code's row."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        root = Path(str(files(package)))
        for path in sorted(root.rglob("*")):
            if path.suffix in (".py", ".yaml", ".csv", ".st", ".lark"):
                digest.update(f"{package}/{path.relative_to(root).as_posix()}\0".encode())
                digest.update(path.read_bytes())
    for library in ("asyncua", "pymodbus", "simpy"):
        digest.update(f"{library} {version(library)}\0".encode())
    for plant in brought().values():  # by their version: whoever changes a plant of theirs has to raise it
        about = f"{plant.dist.name} {plant.dist.version}" if plant.dist is not None else ""
        digest.update(f"plant {plant.name} {plant.value} {about}\0".encode())
    return digest.hexdigest()


def key_of(experiment: Experiment) -> str:
    """Where the row of ``experiment`` is kept."""
    description: dict[str, Any] = {**experiment.key(), "code": code_digest()}
    site = Path(experiment.site)
    if site.exists():  # a site of the user's own: its text decides too
        root = site if site.is_dir() else site.parent
        texts = [path.read_bytes() for path in sorted(root.glob("*")) if path.suffix in (".yaml", ".st")]
        description["site_text"] = hashlib.sha256(b"\0".join(texts)).hexdigest()
    scenario = Path(experiment.scenario or "")
    if experiment.scenario and scenario.is_file():
        description["scenario_text"] = hashlib.sha256(scenario.read_bytes()).hexdigest()
    description["requirements"] = list(experiment.requirements)
    description["compensating"] = list(experiment.compensating)
    description["overrides"] = [list(pair) for pair in experiment.overrides]
    return content_key(description)


def _record(experiment: Experiment) -> RunRecord:
    return run(experiment)[0]


def _row(experiment: Experiment, twin: RunRecord, base: RunRecord) -> Row:
    return measure(run(experiment)[0], twin, base)


def perform(
    campaign: Campaign,
    store: RowStore,
    workers: int,
    progress: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Run what ``store`` lacks of ``campaign`` and return every row, as ``complete`` does."""
    return complete(list(campaign.experiments()), store, Processes(workers), progress)


def complete(
    wanted: Sequence[Experiment],
    store: RowStore,
    pool: Pool,
    progress: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Run what ``store`` lacks and return the rows of ``wanted`` in its order.

    ``progress`` is called once for each of ``runs_of(wanted)``. Raises RunError when a worker process dies; what was
    finished by then is in the store.
    """
    keys = {experiment: key_of(experiment) for experiment in wanted}
    rows = {experiment: row for experiment in wanted if (row := store.get(keys[experiment])) is not None}
    missing = [experiment for experiment in wanted if experiment not in rows]
    needed = twins_of(missing)
    for _ in range(runs_of(wanted) - runs_of(missing)):
        progress()
    if missing:
        records: dict[Experiment, RunRecord] = {}
        quiet = [experiment for experiment in missing if experiment.scenario is None]
        try:
            for (twin,), record in pool.run(_record, [(one,) for one in needed], progress):
                records[twin] = record
        finally:  # whatever interrupts: what is measured is kept
            for experiment in quiet:
                base = experiment.without_controls()
                if experiment in records and base in records:
                    rows[experiment] = measure(records[experiment], records[experiment], records[base])
                    store.put(keys[experiment], rows[experiment])
        attacked = [
            (experiment, records[experiment.without_attack()], records[experiment.without_controls()])
            for experiment in missing
            if experiment.scenario is not None
        ]
        for (experiment,), row in pool.run(_row, attacked, progress):
            rows[experiment] = row
            store.put(keys[experiment], row)
    return [rows[experiment] for experiment in wanted]


class Pool(Protocol):
    """Where runs are computed."""

    def run(
        self,
        function: Callable[..., Any],
        arguments: Sequence[tuple[Any, ...]],
        progress: Callable[[], None],
    ) -> Iterator[tuple[Any, Any]]:
        """Yield (the experiments among the arguments, result) as results come in."""


@dataclass(frozen=True, slots=True)
class Processes:
    """Processes of this machine, as many as ``workers``; one is this process itself."""

    workers: int

    def run(
        self,
        function: Callable[..., Any],
        arguments: Sequence[tuple[Any, ...]],
        progress: Callable[[], None],
    ) -> Iterator[tuple[Any, Any]]:
        return run_all(function, arguments, self.workers, progress)


def run_all(
    function: Callable[..., Any],
    arguments: Sequence[tuple[Any, ...]],
    workers: int,
    progress: Callable[[], None],
) -> Iterator[tuple[Any, Any]]:
    """Yield (arguments, result) as results come in."""
    if workers == 1 or len(arguments) < 2:
        for one in arguments:
            yield experiments_among(one), function(*one)
            progress()
        return
    from loky import get_reusable_executor
    from loky.process_executor import BrokenProcessPool

    executor = get_reusable_executor(max_workers=min(workers, len(arguments)), timeout=60)
    running: dict[Future[Any], tuple[Any, ...]] = {}
    try:
        for one in arguments:
            running[executor.submit(function, *one)] = one
        for future in as_completed(running):
            yield experiments_among(running[future]), future.result()
            progress()
    except BrokenProcessPool as error:
        raise RunError(
            "a worker process died (killed, or out of memory); finished runs are kept, and the same command goes on"
            " from there"
        ) from error
    except BaseException:
        for future in running:
            future.cancel()
        raise


def experiments_among(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The hashable part of a call's arguments: experiments are, records are not."""
    return tuple(argument for argument in arguments if isinstance(argument, Experiment))
