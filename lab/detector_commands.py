"""``otlab detectors``: how soon and how reliably each detector sees attacks."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lab.groups import Group

if TYPE_CHECKING:
    from scenarios.experiment import RunRecord

#: An alert stands for as long as its source is quiet about the same thing afterwards (s).
HOLD = 300.0
#: Rules of the SIEM that are the process detectors' own names.
PROCESS = ("limits", "rate", "steady", "invariant", "cusum", "pca", "pasad")


@click.group(cls=Group)
def detectors() -> None:
    """Score what detects attacks."""


@detectors.command("score")
@click.option("--site", "site_name", default="water", show_default=True)
@click.option("--scenario", "names", multiple=True, required=True, help="Attack to run; give several.")
@click.option("--seeds", type=click.IntRange(1), default=2, show_default=True)
@click.option(
    "--duration", type=click.FloatRange(300), default=1800.0, show_default=True, help="Simulated seconds."
)
@click.option("--with", "added", multiple=True, default=("SR 6.2",), show_default=True, metavar="SR")
@click.option("--out", type=click.Path(path_type=Path), help="Also write the scores as JSON.")
def detectors_score(
    site_name: str,
    names: tuple[str, ...],
    seeds: int,
    duration: float,
    added: tuple[str, ...],
    out: Path | None,
) -> None:
    """Run attacks, and a quiet run for each seed, and score every detector over all of them in a row."""
    from controls import profiles
    from scenarios.experiment import Experiment, run

    requirements = profiles.check(added)
    records = [
        run(Experiment(site_name, requirements, "detectors", name, seed, duration))[0]
        for seed in range(1, seeds + 1)
        for name in (None, *names)
    ]
    table = scored(records, duration)
    click.echo(
        f"{'detector':<12}{'attacks':>8}{'median TTD':>12}{'S':>7}{'S_TTD':>7}{'S_CLF':>7}{'false/day':>11}"
    )
    for name, row in table.items():
        median = f"{row['median_ttd']:.0f} s" if row["median_ttd"] is not None else "-"
        click.echo(
            f"{name:<12}{row['detected']:>5}/{row['attacks']:<2}{median:>12}{row['s']:>7.3f}{row['s_ttd']:>7.3f}"
            f"{row['s_clf']:>7.3f}{row['false_per_day']:>11.1f}"
        )
    if out is not None:
        out.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


def scored(records: Iterable[RunRecord], duration: float) -> dict[str, dict[str, Any]]:
    """Scores by detector over runs of ``duration`` (s) laid end to end; an attack lasts to the end of its run."""
    from statistics import median

    from results.detection import score

    runs = list(records)
    attacks: list[tuple[float, float]] = []
    alarms: dict[str, list[tuple[float, float]]] = {
        name: [] for name in ("siem", *PROCESS, "operator", "any")
    }
    for number, record in enumerate(runs):
        offset, end = number * duration, (number + 1) * duration
        start = record.attack_start
        if record.experiment.scenario is not None and start is not None:
            attacks.append((offset + start, end))
        for time, kind, what in record.alerts:
            rule = what.partition(":")[0]
            name = kind if kind != "siem" else rule if rule in PROCESS else "siem"
            interval = (offset + time, min(end, offset + time + HOLD))
            alarms.setdefault(name, []).append(interval)
            alarms["any"].append(interval)
    found = {}
    for name, intervals in alarms.items():
        each = score(attacks, intervals, len(runs) * duration)
        seen = [delay for delay in each.time_to_detect if delay is not None]
        quiet = len(runs) * duration - sum(end - start for start, end in attacks)
        found[name] = {
            "attacks": len(attacks),
            "detected": each.detected,
            "median_ttd": median(seen) if seen else None,
            "time_to_detect": list(each.time_to_detect),
            "s": each.s,
            "s_ttd": each.s_ttd,
            "s_clf": each.s_clf,
            "false_per_day": each.false_alarms * 86400 / quiet if quiet else 0.0,
            "penalty": each.penalty,
        }
    return found
