"""``otlab site new, draw, import``: describe a site of one's own."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from testbed.errors import OtlabError

#: what the guided questions ask about: what it is called there, and what is then left out
PARTS = (
    ("an office network", ("enterprise",)),
    ("remote access through a DMZ", ("dmz",)),
    ("wireless", ("wireless",)),
    ("a historian", ("historian",)),
    ("a passive network monitor", ("monitor",)),
    ("a forgotten cellular router", ("cellular_router",)),
)


@click.command("new")
@click.argument("name")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Its folder; ./NAME if not given.",
)
@click.option("--like", default=None, help="The shipped site to begin with; water if not given.")
@click.option("--title", default=None, help="What it is, in one line.")
@click.option("--network", default=None, metavar="A.B.0.0/16", help="Where its addresses lie.")
@click.option("--sl-t", "level", type=click.IntRange(0, 4), default=None, help="Target level of every zone.")
@click.option(
    "--without", multiple=True, metavar="NAME|KIND", help="Leave out a zone, an asset or a kind. Repeatable."
)
@click.option(
    "--guided/--no-guided", default=None, help="Ask; by default where nothing is said and a person is there."
)
def new(
    name: str,
    out: Path | None,
    like: str | None,
    title: str | None,
    network: str | None,
    level: int | None,
    without: tuple[str, ...],
    guided: bool | None,
) -> None:
    """Write the folder of a site of your own, made from a shipped one, and check it."""
    from devices.world import World
    from lab.site_new import new_site
    from scenarios.experiment import site_of
    from testbed.figures import load_figures
    from testbed.site import load_site, site_names

    silent = like is None and title is None and network is None and level is None and not without
    if guided or (guided is None and silent and sys.stdin.isatty()):
        like = click.prompt("Which plant is nearest", type=click.Choice(list(site_names())), default="water")
        title = click.prompt("What is it called, in one line", default=load_site(like).title)
        network = click.prompt("In which network (/16)", default="10.0.0.0/16")
        level = click.prompt("Target level of every zone to begin with", type=click.IntRange(0, 4), default=2)
        without = tuple(_asked(load_site(like)))
    folder = out if out is not None else Path(name)
    more = new_site(name, folder, like or "water", title=title, network=network, level=level, without=without)
    if more:
        click.echo(f"left out with it: {', '.join(more)}")
    site = site_of(str(folder))
    World(site, 1, load_figures()).close()
    for warning in site.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"{folder}: {len(site.zones)} zones, {len(site.assets)} assets, in order")
    click.echo(f"next: otlab site draw {folder}; otlab assess start assessment --site {folder}")


def _asked(site: object) -> list[str]:
    from testbed.site import Site

    assert isinstance(site, Site)
    there = {*site.zones, *(asset.kind for asset in site.assets.values())}
    gone: list[str] = []
    for words, names in PARTS:
        if set(names) <= there and not click.confirm(f"Does it have {words}?", default=True):
            gone += names
    return gone


@click.command("draw")
@click.argument("path")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="An SVG file; NAME.svg if not given.",
)
def draw(path: str, out: Path | None) -> None:
    """Draw a site's zones and conduits as SVG."""
    from lab.site_drawing import draw as drawing
    from results.store import save_text
    from testbed.site import load_site

    site = load_site(path)
    target = out if out is not None else Path(f"{site.name}.svg")
    save_text(target, drawing(site))
    click.echo(f"drawing: {target}")


@click.command("import")
@click.option(
    "--assets", type=click.Path(path_type=Path, dir_okay=False), default=None, help="A list of assets (CSV)."
)
@click.option(
    "--pcap",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Captured traffic (pcap, pcapng).",
)
@click.option(
    "--prefix", type=click.IntRange(8, 30), default=24, show_default=True, help="Length of a zone's network."
)
@click.option(
    "--beside",
    default=None,
    metavar="SITE",
    help="Only say what the capture shows and this site's file does not.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("draft.yaml"),
    show_default=True,
    help="The draft.",
)
def import_(assets: Path | None, pcap: Path | None, prefix: int, beside: str | None, out: Path) -> None:
    """Draft zones, conduits and assets from a list and from traffic; or hold a capture against a site.

    With --beside the exit code is 1 where the site's file lacks anything.
    """
    from lab.assess.model import as_yaml
    from lab.site_import import assets_of, traffic_of, unknown_to
    from lab.site_import import draft as drafted
    from results.store import save_text
    from testbed.site import load_site

    if assets is None and pcap is None:
        raise OtlabError("give --assets FILE, --pcap FILE, or both")
    traffic = traffic_of(pcap) if pcap is not None else None
    if beside is not None:
        if traffic is None:
            raise OtlabError("--beside compares a capture: give --pcap FILE")
        lines = unknown_to(load_site(beside), traffic)
        for line in lines:
            click.echo(line)
        if lines:
            raise click.exceptions.Exit(1)
        click.echo("the site's file knows all of it")
        return
    found = drafted(traffic, assets_of(assets) if assets is not None else (), prefix)
    save_text(
        out,
        "# A draft: what was seen and guessed, with the evidence. Copy what is right into a site.yaml.\n"
        + as_yaml(found),
    )
    about = found["about"]
    click.echo(
        f"{len(found['assets'])} assets, {len(found['zones'])} zones, {len(found['conduits'])} conduits: {out}"
    )
    if about["frames"]:
        cut = "; the file breaks off" if about["file_breaks_off"] else ""
        click.echo(f"{about['frames']} frames, {about['unreadable']} of them unreadable{cut}")
    for question in found["questions"]:
        click.echo(f"  {question}")
