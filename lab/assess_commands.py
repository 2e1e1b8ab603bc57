"""``otlab assess``, ``otlab review``, ``otlab gate``: risk assessments by IEC 62443-3-2, compared, held to limits."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lab.groups import Group
from lab.options import cores
from lab.progress import counted

if TYPE_CHECKING:
    from lab.assess.steps import Step

_folder = click.argument("folder", type=click.Path(path_type=Path, file_okay=False))


def _now() -> str:
    """When somebody did something: an assessment is of a day, as a run is not."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@click.group(cls=Group)
def assess() -> None:
    """Assess a site's risk by the steps of IEC 62443-3-2, with likelihood and consequence from runs."""


@assess.command("start")
@_folder
@click.option("--site", required=True, help="A shipped site's name, or a site's file or folder.")
@click.option("--title", default=None, help="What the assessment is called.")
@click.option("--date", default=None, metavar="YYYY-MM-DD", help="Its date; today if not given.")
@click.option(
    "--sl", "level", default="0", show_default=True, help="What is in force today: 0-4, or IAC=1,UC=2,..."
)
@click.option("--seeds", type=click.IntRange(min=2), default=None, help="Runs of each arm. [default: 6]")
@click.option(
    "--duration", type=click.FloatRange(min=60), default=None, help="Seconds of a run. [default: 2400]"
)
@click.option(
    "--quick",
    is_flag=True,
    help="Two threats, two seeds of 1200 s, fewer improvements: minutes, to learn on.",
)
def start_(
    folder: Path,
    site: str,
    title: str | None,
    date: str | None,
    level: str,
    seeds: int | None,
    duration: float | None,
    quick: bool,
) -> None:
    """Draft the files of an assessment in FOLDER from a site's file."""
    from lab.assess.documents import note
    from lab.assess.model import assessment_at, start

    written = start(
        folder,
        site,
        title=title,
        date=date or _now()[:10],
        level=level,
        seeds=seeds or (2 if quick else 6),
        duration=duration or (1200.0 if quick else 2400.0),
        quick=quick,
    )
    note(assessment_at(folder), _now, "started", site=site)
    click.echo(f"{len(written)} files in {folder}: edit them, then: otlab assess next {folder}")


@assess.command("status")
@_folder
def status(folder: Path) -> None:
    """Say how far an assessment is, and what is for people to fill in or decide."""
    from lab.assess.documents import approved
    from lab.assess.model import assessment_at
    from lab.assess.steps import STEPS, state_of

    assessment = assessment_at(folder)
    states = [(step, *state_of(assessment, step)) for step in STEPS]
    for step, state, texts in states:
        click.echo(f"ZCR {step.zcr:13} {state:6} {step.title}")
        for text in texts:
            click.echo(f"    {text}")
    written = (folder / "crs.json").exists()
    click.echo(f"ZCR {'6':13} {'done' if written else 'to do':6} Cybersecurity requirements specification")
    found = approved(assessment) if all(state not in ("to do", "stale") for _, state, _ in states) else None
    approval = "to do" if found is None else "done" if found["valid"] else "stale"
    click.echo(f"ZCR {'7.1':13} {approval:6} Approval")


@assess.command("next")
@_folder
@click.option("--all", "every", is_flag=True, help="Every step that is to do or stale, and the documents.")
@click.option(
    "--workers", type=click.IntRange(min=1), default=None, help="Processes; one per core if not given."
)
@click.option(
    "--rows",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Where runs are kept; FOLDER/rows if not given. Assessments may share one.",
)
def next_(folder: Path, every: bool, workers: int | None, rows: Path | None) -> None:
    """Do the next step; what was measured before is not run again."""
    from lab.assess.documents import note, write
    from lab.assess.measure import Measuring
    from lab.assess.model import assessment_at
    from lab.assess.steps import due, perform, state_of
    from results.store import RowStore

    while True:
        assessment = assessment_at(folder)
        step = due(assessment)
        if step is None:
            for path in write(assessment):
                click.echo(f"written: {path}")
            note(assessment, _now, "documents written")
            return
        count = workers or cores()
        measuring = Measuring(assessment, RowStore(rows or folder / "rows"), count, counted)
        perform(measuring, step)
        _, open_ = state_of(assessment, step)
        note(assessment, _now, "step done", step=step.name, runs=measuring.ran, open=len(open_))
        _told(step, measuring.ran, open_)
        if not every:
            return


def _told(step: Step, ran: int, open_: list[str]) -> None:
    runs = f", {ran} new runs" if step.measures else ""
    click.echo(f"ZCR {step.zcr} {step.title}: {'open' if open_ else 'done'}{runs}")
    for text in open_:
        click.echo(f"    {text}")


@assess.command("document")
@_folder
def document(folder: Path) -> None:
    """Write the report and the requirements specification again, as pages and as JSON."""
    from lab.assess.documents import note, write
    from lab.assess.model import assessment_at

    assessment = assessment_at(folder)
    for path in write(assessment):
        click.echo(f"written: {path}")
    note(assessment, _now, "documents written")


@assess.command("approve")
@_folder
@click.option("--by", required=True, help="Name of who approves.")
@click.option("--role", required=True, help="Their role: answerable for safety, integrity, reliability.")
@click.option("--date", default=None, metavar="YYYY-MM-DD", help="Today if not given.")
def approve_(folder: Path, by: str, role: str, date: str | None) -> None:
    """Put the approval of the specification on record (ZCR 7.1); a later change makes it invalid."""
    from lab.assess.documents import approve, note, write
    from lab.assess.model import assessment_at

    assessment = assessment_at(folder)
    found = approve(assessment, by, role, date or _now()[:10])
    note(assessment, _now, "approved", by=by, role=role, specification=found["specification"])
    write(assessment)
    click.echo(f"approved by {by}: specification {found['specification'][:12]}")


@assess.command("runs")
@_folder
@click.argument("arm", required=False)
def runs(folder: Path, arm: str | None) -> None:
    """List the arms behind the numbers, or the runs of one with their keys in the store."""
    from lab.assess.model import assessment_at
    from lab.assess.steps import arms_of
    from testbed.errors import UnknownNameError

    arms = arms_of(assessment_at(folder))
    if arm is not None and arm not in arms:
        raise UnknownNameError("arm", arm, arms)
    for name, one in arms.items():
        if arm not in (None, name):
            continue
        about = one["experiment"]
        who = f" by {about['attacker']}" if about["attacker"] else ""
        click.echo(
            f"{name}  {about['scenario'] or 'no attack'}{who}, {about['profile']}, {len(one['runs'])} runs"
        )
        if arm == name:
            _spelled(about)
            for run in one["runs"]:
                click.echo(f"  seed {run['seed']}: {run['key']}")


def _spelled(about: dict[str, Any]) -> None:
    click.echo(f"  site {about['site']}, {about['duration']:g} s, maturity {about['maturity'] or 'perfect'}")
    click.echo(f"  requirements: {', '.join(about['requirements']) or 'none'}")
    if about["compensating"]:
        click.echo(f"  compensating: {', '.join(about['compensating'])}")


@click.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option(
    "--trend",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Draw loss, rank and gap by date to this SVG.",
)
@click.option(
    "--with", "more", type=click.Path(path_type=Path), multiple=True, help="An assessment more in the trend."
)
def review(old: Path, new: Path, as_json: bool, trend: Path | None, more: tuple[Path, ...]) -> None:
    """Compare two assessments (folders or reports): drift of SL-A, controls lost, new threats, risks.

    The exit code is 1 where anything has become worse.
    """
    import json
    from dataclasses import asdict

    from lab.assess.review import load_report
    from lab.assess.review import review as compare

    before, now = load_report(old), load_report(new)
    changes = compare(before, now)
    if trend is not None:
        from lab.assess.review import point
        from results import assessment_figures as figures
        from results.look import svg
        from results.store import save_text

        points = sorted(point(one) for one in (before, now, *map(load_report, more)))
        save_text(trend, svg(figures.trend(points)))
    if as_json:
        click.echo(json.dumps([asdict(one) for one in changes], indent=1))
    else:
        click.echo(f"{before['date']} to {now['date']}: {len(changes)} changes")
        for one in changes:
            mark = {True: "worse ", False: "better", None: "      "}[one.worse]
            click.echo(f"  {mark} {one.what}, {one.where}: {one.before} -> {one.now}")
    if any(one.worse for one in changes):
        raise click.exceptions.Exit(1)


@click.command()
@_folder
@click.option(
    "--max-risk",
    type=click.IntRange(min=0),
    default=None,
    help="Highest rank; the tolerable one if not given.",
)
@click.option("--max-gap", type=click.IntRange(0, 4), default=None, help="Most that SL-A may be below SL-T.")
@click.option("--max-maturity-gap", type=click.IntRange(0, 3), default=None, help="The same of maturity.")
@click.option("--max-loss", type=click.FloatRange(min=0), default=None, help="Most expected points a year.")
@click.option("--complete", is_flag=True, help="Nothing may be left to fill in or decide.")
@click.option("--approved", "approval", is_flag=True, help="The specification must be approved as it is.")
def gate(
    folder: Path,
    max_risk: int | None,
    max_gap: int | None,
    max_maturity_gap: int | None,
    max_loss: float | None,
    complete: bool,
    approval: bool,
) -> None:
    """Hold an assessment against limits, for pipelines: exit code 1 where one is passed or a step is stale."""
    from lab.assess.model import assessment_at
    from lab.assess.review import Limits, passed_limits

    limits = Limits(max_risk, max_gap, max_maturity_gap, max_loss, complete, approval)
    found = passed_limits(assessment_at(folder), limits)
    for text in found:
        click.echo(text)
    if found:
        raise click.exceptions.Exit(1)
    click.echo("within all limits")
