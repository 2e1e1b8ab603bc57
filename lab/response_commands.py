"""``otlab playbooks``: what is done about incidents."""

from __future__ import annotations

from pathlib import Path

import click

from lab.groups import Group


@click.group(cls=Group)
def playbooks() -> None:
    """What is done about incidents, by people or at once (`--response` of run and compare)."""


@playbooks.command("list")
def list_() -> None:
    """List the shipped playbooks in the order in which they are looked through."""
    from devices.response import shipped

    for one in shipped():
        click.echo(f"{one.name:16} {one.title}")
        click.echo(
            f"{'':16} do: {', '.join(one.do)}; for: {', '.join(one.rules) or f'{one.tactics} tactics'}"
        )


@playbooks.command("check")
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    """Check a file of playbooks; every mistake is told at once."""
    from devices.response import load_playbooks

    click.echo(f"{file}: {len(load_playbooks(file))} playbooks, in order")
