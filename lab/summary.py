"""One run told in a few lines, and drawn as a timeline."""

from __future__ import annotations

import sys
from collections import Counter

from rich.console import Console
from rich.table import Table

from controls.catalogue import FOUNDATIONAL
from scenarios.experiment import RunRecord, site_of
from testbed.trace import Trace
from testbed.units import from_si

#: Event kinds that the timeline shows, with the lane they go in and the fields that name them.
LANES = {
    "attack.step": ("attack", ("technique", "outcome")),
    "alert": ("alert", ("rule",)),
    "operator.noticed": ("operator", ("tag", "level")),
    "operator.acted": ("operator", ("alarm",)),
    "operator.missed": ("operator", ("alarm",)),
    "trip": ("trip", ("target",)),
}


def tell(record: RunRecord, trace: Trace) -> None:
    """Print what happened: attack steps, alerts, lost functions, trips."""
    console = Console()
    experiment = record.experiment
    console.print(
        f"{experiment.site}, {experiment.profile}, scenario {experiment.scenario or 'none'}"
        + (f" by {experiment.attacker}" if experiment.attacker is not None else "")
        + f", seed {experiment.seed}",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False)
    for column in ("what", "first at (s)", "times"):
        table.add_column(column, justify="left" if column == "what" else "right")
    first: dict[str, float] = {}
    count: Counter[str] = Counter()
    for event in trace.of_kind(*LANES, "function.lost", "envelope.lost"):
        name = f"{event.kind} {event.source} " + " ".join(
            str(event.data[key]) for key in _names(event.kind) if event.data.get(key) is not None
        )
        first.setdefault(name.strip(), event.time)
        count[name.strip()] += 1
    for name, time in first.items():
        table.add_row(name, f"{time:.1f}", str(count[name]))
    if first:
        console.print(table, highlight=False)
    lost = {name: sum(end - start for start, end in spans) for name, spans in record.lost.items()}
    unsafe = sum(end - start for spans in record.unsafe.values() for start, end in spans)
    parts = [f"{name} lost {seconds:.0f} s" for name, seconds in lost.items()]
    console.print("; ".join([*parts, f"outside the safe envelope {unsafe:.0f} s"]), highlight=False)
    if record.incidents:
        real = sum(1 for *_, verdict in record.incidents if verdict)
        console.print(
            f"{len(record.incidents)} incidents, {real} taken for real; an analyst worked"
            f" {record.analyst_seconds / 60:.0f} min on them",
            highlight=False,
        )
    for goal, met in record.goals:
        console.print(f"goal: {goal}: {'not reached' if met is None else f'at {met:.0f} s'}", highlight=False)
    if record.gave_up is not None:
        console.print(f"the attacker gave up: {record.gave_up}", highlight=False)


def tell_levels(record: RunRecord) -> None:
    """Print, for each zone, the levels wanted, possible and reached in the run, and what is missing."""
    console = Console() if sys.stdout.isatty() else Console(width=120)
    table = Table(box=None, pad_edge=False)
    for column in ("zone", "SL-T", "SL-C", "SL-A", "gap", "missing for SL-T"):
        table.add_column(column)
    for zone, found in record.levels.items():
        missing = list(found.missing)
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        table.add_row(
            zone,
            *(" ".join(map(str, one)) for one in (found.target, found.capability, found.achieved, found.gap)),
            ", ".join(missing[:3]) + more or "nothing",
        )
    console.print(table, highlight=False)
    console.print(
        f"levels in the order {' '.join(FOUNDATIONAL)}; SL-A is the lowest found in the run", highlight=False
    )
    standing = {name: by for found in record.levels.values() for name, by in found.stood_for.items()}
    if standing:
        names = ", ".join(f"{name} ({by})" for name, by in standing.items())
        console.print(f"met by compensating countermeasures only: {names}", highlight=False)


def _names(kind: str) -> tuple[str, ...]:
    return LANES[kind][1] if kind in LANES else ()


def draw(record: RunRecord, trace: Trace, suffix: str) -> bytes:
    """The run as a picture: what the view's tags showed, then attack, alerts, people and lost functions."""
    from results import figures, look

    experiment = record.experiment
    site = site_of(experiment.site)
    view = site.essential_functions.view
    series, units, limits = {}, {}, {}
    for plc, tags in view.tags.items():
        for name in tags:
            tag = site.tag(plc, name)
            if tag.alarms is None:
                continue
            series[name] = list(trace.columns[f"{view.asset}.{name}"])
            units[name] = tag.unit
            limits[name] = {
                level: limit for level, limit in tag.alarms.limits.items() if level in ("LL", "HH")
            }
            instrument = site.plant.sensors.get(tag.signal or "")
            if instrument is not None and instrument.signal in trace.columns:
                # What the plant really does beside what the screen shows: under a forged reading the two part.
                series[f"{name} (true)"] = [
                    from_si(value, tag.unit) for value in trace.columns[instrument.signal]
                ]
                units[f"{name} (true)"] = tag.unit
    events = []
    for event in trace.of_kind(*LANES):
        lane, names = LANES[event.kind]
        if event.kind == "trip" and not event.data["on"]:
            continue
        label = " ".join(str(event.data[key]) for key in names if event.data.get(key) is not None)
        events.append((event.time, lane, label))
    bands = {**record.lost, "safe limits": [span for spans in record.unsafe.values() for span in spans]}
    figure = figures.timeline(
        list(trace.times),
        series,
        units=units,
        limits=limits,
        events=events,
        bands=bands,
        title=f"{experiment.scenario or 'no attack'}, {experiment.profile}, seed {experiment.seed}",
    )
    return look.svg(figure).encode() if suffix.lower() == ".svg" else look.png(figure)
