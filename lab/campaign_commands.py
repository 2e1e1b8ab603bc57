"""``otlab campaign``: run what a file plans, see how far it is, ask what it says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab.groups import Group
from lab.options import cores
from lab.progress import counted
from testbed.errors import OtlabError

if TYPE_CHECKING:
    from lab.campaign import Pool
    from lab.plan import Plan
    from results.rows import Row
    from results.store import RowStore
    from scenarios.experiment import Experiment


@click.group(cls=Group)
def campaign() -> None:
    """Many runs as a file plans them: axes, a design, and what the numbers say together."""


_out = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder of results; runs/NAME of the plan if not given.",
)


def _folder(plan: Plan, out: Path | None) -> Path:
    return out if out is not None else Path("runs") / plan.name


@campaign.command("check")
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    """Check a plan and say how many runs it takes."""
    from lab.campaign import runs_of
    from lab.plan import arms, experiments, load_plan

    plan = load_plan(file)
    wanted = experiments(plan)
    click.echo(
        f"{plan.name}: {len(arms(plan))} arms x {len(plan.seed_list)} seeds, {runs_of(wanted)} runs of"
        f" {plan.duration:g} s with what they are measured against"
    )


@campaign.command("run")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--workers", type=click.IntRange(min=1), default=None, help="Processes; one per core if not given."
)
@click.option(
    "--cluster", default=None, metavar="tcp://HOST:PORT", help="A Dask scheduler to run on instead."
)
@click.option("--within", type=click.FloatRange(min=0, min_open=True), default=None, help="See --until.")
@click.option(
    "--until",
    "metric",
    default=None,
    metavar="METRIC",
    help="Add seeds until every arm's mean of this metric is known to --within, e.g. availability.control.",
)
@click.option(
    "--most", type=click.IntRange(min=1), default=200, show_default=True, help="Most seeds with --until."
)
@_out
def run(
    file: Path,
    workers: int | None,
    cluster: str | None,
    within: float | None,
    metric: str | None,
    most: int,
    out: Path | None,
) -> None:
    """Run a plan, or what is still missing of it; stop it at any time and call it again."""
    from lab.campaign import Processes
    from lab.cluster import Cluster
    from lab.plan import load_plan
    from results.store import RowStore, save_text

    if (metric is None) != (within is None):
        raise OtlabError("--until and --within go together: a metric, and how well it is to be known")
    plan = load_plan(file)
    folder = _folder(plan, out)
    pool: Pool = Cluster(cluster) if cluster is not None else Processes(workers or cores())
    store = RowStore(folder / "rows")
    save_text(folder / "plan.yaml", file.read_text(encoding="utf-8"))
    rows = _complete(plan, plan.seed_list, store, pool)
    if metric is not None and within is not None:
        rows = _until(plan, store, pool, rows, metric, within, most)
    save_text(
        folder / "rows.jsonl", "".join(json.dumps(row.to_dict(), sort_keys=True) + "\n" for row in rows)
    )
    _table(rows)
    click.echo(f"rows: {folder / 'rows.jsonl'}")


def _complete(plan: Plan, seeds: Sequence[int], store: RowStore, pool: Pool) -> list[Row]:
    from lab.campaign import complete, runs_of
    from lab.plan import arms

    wanted: list[Experiment] = [arm.experiment(seed, plan.duration) for arm in arms(plan) for seed in seeds]
    with counted(plan.name, runs_of(wanted)) as advance:
        return complete(wanted, store, pool, advance)


def _until(
    plan: Plan, store: RowStore, pool: Pool, rows: list[Row], metric: str, within: float, most: int
) -> list[Row]:
    """Seeds are added for all arms together, so that arms stay comparable."""
    from results.query import values_of
    from results.sampling import enough

    seeds = list(plan.seed_list)
    while True:
        cells: dict[tuple[str, str, str], list[float]] = {}
        for row, value in zip(rows, values_of(rows, metric), strict=True):
            if value is not None:
                cells.setdefault((row.site, row.scenario, row.profile), []).append(value)
        more = max((enough(values, within).more for values in cells.values()), default=0)
        if not more or len(seeds) >= most:
            break
        begin = max(seeds) + 1
        seeds += range(begin, begin + min(more, max(2, len(seeds) // 2), most - len(seeds)))
        rows = _complete(plan, seeds, store, pool)
    state = "known" if not more else f"still not known after {len(seeds)} seeds"
    click.echo(f"{metric} within {within:g}: {state} ({len(seeds)} seeds)")
    return rows


@campaign.command("show")
@click.argument("file", type=click.Path(path_type=Path))
@_out
def show(file: Path, out: Path | None) -> None:
    """Say how far a campaign is and what its finished runs say, also while it is running."""
    from lab.plan import load_plan

    plan = load_plan(file)
    rows, missing = _present(plan, _folder(plan, out))
    click.echo(f"{plan.name}: {len(rows)} of {len(rows) + missing} rows")
    _table(rows)


def _present(plan: Plan, folder: Path) -> tuple[list[Row], int]:
    from lab.campaign import key_of
    from lab.plan import experiments
    from results.store import RowStore

    store = RowStore(folder / "rows")
    found = [store.get(key_of(one)) for one in experiments(plan)]
    rows = [row for row in found if row is not None]
    return rows, len(found) - len(rows)


def _table(rows: Sequence[Row]) -> None:
    from rich.console import Console

    from results import report, statistics

    if rows:
        console = Console(width=120)
        console.print(report.table(statistics.summarize(rows), console.width))


@campaign.command("attribute")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--metric", required=True, help="E.g. availability.control, detection_time, unsafe_seconds.")
@_out
def attribute(file: Path, metric: str, out: Path | None) -> None:
    """Say which part of a shapley, sobol or paired design matters how much for a metric."""
    from lab.attribution import attributed
    from lab.plan import load_plan

    plan = load_plan(file)
    rows, missing = _present(plan, _folder(plan, out))
    if missing:
        raise OtlabError(f"{missing} of {len(rows) + missing} rows are missing: run the campaign first")
    for one in attributed(plan, rows, metric):
        for line in one.lines():
            click.echo(line)


@campaign.command("report")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    help="Also draw which part matters how much for this (shapley, sobol, paired). Repeatable.",
)
@click.option("--pdf", is_flag=True, help="Also write report.pdf (extra: otlab[pdf]).")
@_out
def report(file: Path, metrics: tuple[str, ...], pdf: bool, out: Path | None) -> None:
    """Write finished runs as a page with figures, each figure also as PNG."""
    import shlex
    import sys

    from lab.attribution import attributed
    from lab.plan import load_plan
    from results import figures, look, statistics
    from results.report import write_report
    from results.store import save_bytes
    from results.trade_figures import importance

    plan = load_plan(file)
    folder = _folder(plan, out)
    rows, missing = _present(plan, folder)
    if not rows or (metrics and missing):
        raise OtlabError(f"{missing} of {len(rows) + missing} rows are missing: run the campaign first")
    drawn = figures.standard(rows)
    for name, figure in drawn.items():
        save_bytes(folder / f"{name}.png", look.png(figure))
    for metric in metrics:
        for number, one in enumerate(attributed(plan, rows, metric), 1):
            drawn[f"{one.title}. Whiskers: 95 % interval."] = drawing = importance(one.parts, metric)
            save_bytes(folder / f"importance-{metric}-{number}.png", look.png(drawing))
    page = write_report(
        folder / "report.html",
        rows,
        statistics.summarize(rows),
        {name: look.svg(figure) for name, figure in drawn.items()},
        {
            "title": plan.title or f"Campaign {plan.name}",
            "command": shlex.join(["otlab", *sys.argv[1:]]),
            "Design": plan.design.kind,
            "Rows missing": missing,
        },
    )
    if pdf:
        from results.pdf import write_pdf

        write_pdf(folder / "report.pdf", page)
    click.echo(f"report: {folder / 'report.html'}")


@campaign.command("export")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "target",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="A .parquet or .csv file.",
)
@_out
def export(file: Path, target: Path, out: Path | None) -> None:
    """Write the finished rows as one table, for SQL and data frames."""
    from lab.plan import load_plan
    from results.query import write_table

    plan = load_plan(file)
    rows, _ = _present(plan, _folder(plan, out))
    write_table(rows, target)
    click.echo(f"{len(rows)} rows: {target}")


@campaign.command("sql")
@click.argument("query")
@click.argument(
    "tables", nargs=-1, type=click.Path(path_type=Path, exists=True, dir_okay=False), required=True
)
def sql(query: str, tables: tuple[Path, ...]) -> None:
    """Ask exported tables in SQL; they are one table named rows, with the columns of docs/reference/metrics.md."""
    from results.query import ask

    names, found = ask(query, tables)
    click.echo("\t".join(names))
    for row in found:
        click.echo("\t".join("" if value is None else str(value) for value in row))
