"""``otlab dataset``: labelled traffic and process data of many runs."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from controls.selection import Selection
    from scenarios.experiment import Experiment, RunRecord
    from scenarios.onlooker import FlowSeen, Onlooker
    from testbed.trace import Trace

#: An attack begins somewhere within this part of its run.
WITHIN = (0.2, 0.7)


def seeds_of(text: str) -> tuple[int, ...]:
    """``3``, ``1:4`` (both ends) or ``1,5,9`` as seeds; click.BadParameter for anything else."""
    try:
        first, colon, last = text.partition(":")
        found = (
            tuple(range(int(first), int(last) + 1)) if colon else tuple(int(each) for each in text.split(","))
        )
    except ValueError:
        found = ()
    if not found or min(found) < 0:
        raise click.BadParameter(f"{text!r} is not a seed, FIRST:LAST or a list with commas")
    return found


def write_dataset(
    out: Path,
    site: str,
    selection: Selection,
    scenarios: tuple[str, ...],
    splits: Mapping[str, tuple[int, ...]],
    duration: float,
    *,
    parquet: bool,
    pcap: bool,
    workers: int = 1,
    progress: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """Write every run that is not there yet, then the card and the manifest; returns what the runs were."""
    from lab.campaign import run_all
    from results.dataset import SCHEMA, card, duckdb_or_sentence
    from results.store import save_text

    if parquet:
        duckdb_or_sentence()
    if set(splits["train"]) & set(splits["test"]):
        raise click.UsageError("a seed is in both train and test: what is learned would be tested on itself")
    from scenarios.actions import check_against
    from scenarios.experiment import site_of
    from scenarios.model import load_scenario

    described = site_of(site)
    for name in scenarios:
        check_against(described, load_scenario(name, described))
    work = [
        (out / split, split, _experiment(site, selection, name, seed, duration), parquet, pcap)
        for split, seeds in splits.items()
        for seed in seeds
        for name in (None, *scenarios)
    ]
    runs = [found for _, found in run_all(write_run, work, workers, progress)]
    runs.sort(key=lambda run: (run["split"] != "train", run["name"]))
    units: dict[str, str] = {}
    for run in runs:
        units |= run.pop("units")
    about = {
        "site": site,
        "in force": selection.name,
        "seconds a run": duration,
        "scenarios": ", ".join(scenarios) or "none",
    }
    save_text(out / "README.md", card(f"OT Lab dataset of site {site}", about, runs, units))
    manifest = {"schema": SCHEMA, "about": about, "runs": runs}
    save_text(out / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return runs


def _experiment(
    site: str, selection: Selection, scenario: str | None, seed: int, duration: float
) -> Experiment:
    from scenarios.experiment import Experiment

    return Experiment.of(site, selection, scenario, seed, duration)


def write_run(folder: Path, split: str, experiment: Experiment, parquet: bool, pcap: bool) -> dict[str, Any]:
    """Write one run into its folder under ``folder``, unless it is there; returns what it was."""
    from results.dataset import COLUMNS, RunFolder, is_whole
    from scenarios.experiment import run
    from scenarios.onlooker import Onlooker

    name = f"{Path(experiment.scenario).stem if experiment.scenario else 'quiet'}-{experiment.seed}"
    begin = _moment(experiment)
    about: dict[str, Any] = {
        "experiment": {key: value for key, value in asdict(experiment).items() if value is not None},
        "begin": begin,
        "formats": ["csv", "parquet"] if parquet else ["csv"],
        "pcap": pcap,
    }
    target = folder / name
    summary = {"split": split, "name": name, "seed": experiment.seed, "scenario": experiment.scenario}
    kept = target / "run.json"
    if kept.is_file():
        stored = json.loads(kept.read_text("utf-8"))
        extra = {key: stored.get(key) for key in ("attack_start", "attack_end", "units")}
        if is_whole(target, {**about, **extra}):
            return {**summary, **extra}
    place, onlooker = RunFolder(target), Onlooker()
    capture = place.path / "capture.pcapng" if pcap else None
    record, trace = run(experiment, capture=capture, begin=begin, observe=onlooker.attach)
    acts = [event.time for event in trace.events if event.kind == "attack.step"]
    start = record.attack_start
    end = max(acts, default=start) if start is not None else None
    _tables(place, record, trace, onlooker, start, end)
    if parquet:
        place.parquet(COLUMNS)
    extra = {
        "attack_start": start,
        "attack_end": end,
        "units": {tag: onlooker.units[tag] for tag in onlooker.tags()},
    }
    place.done({**about, **extra})
    return {**summary, **extra}


def _moment(experiment: Experiment) -> float | None:
    """When the attack of a run begins: by its seed, the same for every level and scenario."""
    if experiment.scenario is None:
        return None
    share = random.Random(f"dataset:{experiment.seed}").uniform(*WITHIN)
    return round(share * experiment.duration, 1)


def _tables(
    place: Any, record: RunRecord, trace: Trace, onlooker: Onlooker, start: float | None, end: float | None
) -> None:
    from results.dataset import COLUMNS

    impact = sorted(
        (max(begin, start), stop)
        for intervals in (*record.lost.values(), *record.unsafe.values())
        for begin, stop in intervals
        if start is not None and stop > start
    )

    def labels(time: float) -> list[bool]:
        if start is None or end is None:
            return [False, False, False]
        return [start <= time <= end, time >= start, any(begin <= time < stop for begin, stop in impact)]

    tags = onlooker.tags()
    place.table(
        "tags",
        [*COLUMNS["tags"], *tags],
        ([time, *labels(time), *values] for time, values in onlooker.rows()),
    )
    lines = trace.table()
    place.table("truth", next(lines).split(","), (line.split(",") for line in lines))
    place.table(
        "events",
        list(COLUMNS["events"]),
        (
            [event.time, event.kind, event.source, json.dumps(event.data, sort_keys=True, default=str)]
            for event in trace.events
        ),
    )
    scenario = record.experiment.scenario
    rows: list[list[Any]] = []
    if start is not None and end is not None:
        rows.append([start, end, "attack", scenario, None, None, None, None])
    rows += [[begin, stop, "impact", scenario, None, None, None, None] for begin, stop in impact]
    for event in trace.events:
        if event.kind == "attack.step":
            data = event.data
            rows.append(
                [
                    event.time,
                    event.time,
                    "step",
                    scenario,
                    data["action"],
                    data["technique"],
                    data["outcome"],
                    event.source,
                ]
            )
    place.table("labels", list(COLUMNS["labels"]), rows)
    place.table("flows", list(COLUMNS["flows"]), _flows(record, trace, onlooker, start, end))


def _flows(
    record: RunRecord, trace: Trace, onlooker: Onlooker, start: float | None, end: float | None
) -> Iterator[list[Any]]:
    from scenarios.experiment import site_of
    from scenarios.onlooker import FlowSeen

    site = site_of(record.experiment.site)
    machines = {event.source for event in trace.events if event.kind == "attack.step"}
    documented = {
        (flow.source, flow.target, flow.port) for conduit in site.conduits.values() for flow in conduit.flows
    }

    def hostile(flow: FlowSeen) -> bool:
        if start is None or end is None or flow.source_name not in machines:
            return False
        strange = flow.source_name not in site.assets
        known = (flow.source_name, flow.target_name, flow.target_port) in documented
        return strange or (start <= flow.first <= end and not known)

    names = [each.name for each in fields(FlowSeen)]
    for flow in onlooker.flows:
        yield [*(getattr(flow, name) for name in names), hostile(flow)]
