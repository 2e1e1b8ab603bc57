"""``otlab study``: studies that ship with the testbed, each one command."""

from __future__ import annotations

from pathlib import Path

import click

from lab.groups import Group


@click.group(cls=Group)
def study() -> None:
    """Run a shipped study: runs, tables and figures in one command."""


@study.command("mfa")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder to write to."
)
@click.option("--seeds", type=click.IntRange(1), default=40, show_default=True, help="Emergencies per arm.")
@click.option(
    "--intrusion-seeds", type=click.IntRange(1), default=1, show_default=True, help="Runs of each intrusion."
)
@click.option(
    "--human",
    type=click.Choice(["lognormal", "hcr", "spar-h", "heart"]),
    default="spar-h",
    show_default=True,
    help="Model of the operator.",
)
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Processes.")
def mfa(out: Path, seeds: int, intrusion_seeds: int, human: str, workers: int) -> None:
    """MFA against operability: risk reduced against deadlines missed, by process safety time."""
    from lab.mfa_study import ARMS, page, write
    from lab.mfa_study import study as perform
    from scenarios.emergencies import EMERGENCIES, leeway

    results = perform(ARMS, seeds, intrusion_seeds, human, out / "runs", workers)  # type: ignore[arg-type]
    leeways = [leeway(one) for one in EMERGENCIES]
    write(results, leeways, out)
    click.echo(page(results, leeways), nl=False)
