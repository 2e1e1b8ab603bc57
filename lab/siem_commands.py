"""``otlab siem``: the detection rules, and a user's own checked."""

from __future__ import annotations

from pathlib import Path

import click

from lab.groups import Group


@click.group(cls=Group)
def siem() -> None:
    """What the SIEM looks for: Sigma rules."""


@siem.command("rules")
@click.argument("pattern", default="")
def rules(pattern: str) -> None:
    """List the shipped rules: severity, title, what they are about, and their technique."""
    from devices.sigma import shipped

    for one in shipped():
        if pattern in one.title:
            how = one.correlation.kind.lower() if one.correlation is not None else "one event"
            about = ", ".join(sorted(one.kinds or ()))
            click.echo(f"{one.severity} {one.title:42} {how:17} {about} {' '.join(one.techniques)}".rstrip())


@siem.command("check")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
def check(files: tuple[Path, ...]) -> None:
    """Check Sigma files: that they can be read, and that all that they ask for is supported."""
    from devices.sigma import load

    for one in load(files):
        click.echo(f"{one.title}: in order")
