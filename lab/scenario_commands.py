"""``otlab scenarios``: write, check, list and explain scenarios, and what of ATT&CK for ICS the library shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab.groups import Group
from testbed.errors import OtlabError, UnknownNameError

if TYPE_CHECKING:
    from scenarios.model import Scenario
    from testbed.site import Site

#: What ``new`` writes: complete, and true on the reference site.
TEMPLATE = """\
name: {name}
title: What happens, in one line
summary: >
  Who does what from where, and why it matters.
start: 300 # virtual second of the first step
targets: # found by role, so that the scenario runs on any site that has the like
  controller: {{kind: plc, has: {{use: setpoint}}}}
  limit: {{of: controller, use: setpoint}}
attacker: {{zone: operations}} # a host of the attacker's own; or {{at: ASSET}}, a compromised one
goals: # effects that the run looks for; the attacker does not know of them
  - {{technique: T0829, lost: view, lasting: 10}}
steps:
  - action: modbus_write
    technique: T0836 # ATT&CK for ICS
    label: raise
    plc: $controller
    values: {{$limit: $limit.high}}
    every: 30
    lasting: 600
  - action: flood
    technique: T0814
    only_if: {{raise: done}} # a branch: only if that step reached what it wanted
    after: 60
    plc: $controller
    rate: 300
    lasting: 120
"""


@click.group(cls=Group)
def scenarios() -> None:
    """Attacks and situations: write, check, list, explain them, and see what of ATT&CK for ICS they show."""


def _site(name: str | None) -> Site | None:
    from scenarios.experiment import site_of

    return site_of(name) if name is not None else None


@scenarios.command("new")
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
def new(path: Path) -> None:
    """Write a scenario to start from to PATH, which must not exist yet."""
    if path.exists():
        raise OtlabError(f"{path} exists already")
    stem = "".join(letter if letter.isalnum() else "-" for letter in path.stem.lower()).strip("-")
    name = stem if stem[:1].isalpha() else f"scenario-{stem}"
    try:
        path.write_text(TEMPLATE.format(name=name), encoding="utf-8")
    except OSError as error:
        raise OtlabError(f"could not write {path}: {error.strerror or error}") from error
    click.echo(f"{path}: edit it, then: otlab scenarios check {path}")


@scenarios.command("check")
@click.argument("names", nargs=-1, required=True)
@click.option("--site", default=None, help="The site to check it against; its own, or the reference site.")
def check(names: tuple[str, ...], site: str | None) -> None:
    """Check scenarios, by name or file, against a site; every mistake of a file is told at once."""
    from scenarios.actions import check_against
    from scenarios.model import load_scenario

    chosen = _site(site)
    for name in names:
        found = load_scenario(name, chosen)
        on = chosen if chosen is not None else _site(found.site or "water")
        assert on is not None
        check_against(on, found)
        click.echo(f"{found.name}: {len(found.steps)} steps, in order on site {on.name}")


@scenarios.command("list")
@click.option("--site", default=None, help="Only those that this site has all targets for.")
@click.option("--family", default=None, help="Only those of one family.")
@click.option("--technique", default=None, metavar="T0xxx", help="Only those that name a technique.")
@click.option("--incident", is_flag=True, help="Only those that follow a real incident.")
def list_(site: str | None, family: str | None, technique: str | None, incident: bool) -> None:
    """List the shipped scenarios with their techniques."""
    from scenarios.actions import check_against
    from scenarios.model import load_scenario, scenario_names
    from scenarios.techniques import techniques

    if technique is not None and technique not in techniques():
        raise UnknownNameError("technique of ATT&CK for ICS", technique, techniques())
    chosen = _site(site)
    count = 0
    for name in scenario_names():
        try:
            found = load_scenario(name, chosen)
            if chosen is not None:
                check_against(chosen, found)
        except OtlabError:
            if chosen is None:
                raise
            continue
        if family is not None and found.family != family:
            continue
        if (technique is not None and technique not in found.techniques()) or (
            incident and not found.incident
        ):
            continue
        count += 1
        told = ", ".join(found.techniques()) or "no attacker"
        click.echo(f"{name:30} {found.title} ({told})")
    click.echo(f"{count} scenarios", err=True)


@scenarios.command("explain")
@click.argument("name")
@click.option("--site", default=None, help="The site to explain it on; its own, or the reference site.")
def explain(name: str, site: str | None) -> None:
    """Tell what a scenario does step by step, with its techniques, branches, goals and sources."""
    from scenarios.model import load_scenario

    found = load_scenario(name, _site(site))
    for line in explanation(found):
        click.echo(line)


def explanation(found: Scenario) -> list[str]:
    """The scenario in words, a line each."""
    from scenarios.techniques import techniques

    lines = [f"{found.name}: {found.title}", "", found.summary.strip(), ""]
    if found.incident:
        lines.append(f"Follows: {found.incident}")
        lines += [f"  disputed: {one}" for one in found.disputed]
        lines += [f"  source: {one}" for one in found.sources]
    where = "nobody attacks"
    if found.attacker is not None:
        zone, at = found.attacker.zone, found.attacker.at
        where = f"a host of the attacker's own in zone {zone}" if zone else f"the compromised asset {at}"
    lines.append(
        f"From {found.start:g} s, from {where}" if found.attacker else f"From {found.start:g} s; {where}"
    )
    if found.attacker is not None and found.attacker.has:
        lines.append(f"  has from the start: {', '.join(found.attacker.has)}")
    for number, step in enumerate(found.steps, 1):
        name = techniques()[step.technique].name if step.technique is not None else "no attack"
        lines.append(f"{number:3}. {step.action}  {step.technique or ''} {name}".rstrip())
        said = step.model_dump(exclude_defaults=True, exclude={"action", "technique"}, mode="json")
        lines += [f"       {key}: {value}" for key, value in said.items()]
        if step.hostile and step.__doc__:
            lines.append(f"       ({' '.join(step.__doc__.split()).partition('. ')[0]})")
    for goal in found.goals:
        named = f" ({goal.technique} {techniques()[goal.technique].name})" if goal.technique else ""
        lines.append(f"Goal: {goal.title()}{named}")
    return lines


@scenarios.command("schema")
def schema() -> None:
    """Print the JSON Schema of a scenario's file, for editors."""
    from scenarios.model import Scenario
    from testbed.document import json_schema

    click.echo(json.dumps(json_schema(Scenario), indent=2))


@scenarios.command("coverage")
@click.option("--scenario", "names", multiple=True, help="Only these; all that are shipped if not given.")
@click.option("--duration", type=click.FloatRange(min=60), default=1800.0, show_default=True)
@click.option(
    "--workers", type=click.IntRange(min=1), default=None, help="Processes; one per core if not given."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Write which scenario shows which technique as JSON; else print the matrix.",
)
def coverage(names: tuple[str, ...], duration: float, workers: int | None, out: Path | None) -> None:
    """Run the library without controls and say which techniques of ATT&CK for ICS really happen in it."""
    from lab.coverage import matrix, measure
    from results.store import save_text

    found = measure(names, duration, workers, lambda line: click.echo(line, err=True))
    if out is not None:
        save_text(out, json.dumps(found, indent=1, sort_keys=True) + "\n")
    else:
        click.echo(matrix(found))


@scenarios.command("layer")
@click.argument("source", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def layer(source: Path) -> None:
    """Print what `coverage --out` wrote as a layer for the ATT&CK Navigator."""
    from lab.coverage import navigator_layer

    try:
        found = json.loads(source.read_text(encoding="utf-8"))
        text = json.dumps(navigator_layer(found), indent=1)
    except (ValueError, AttributeError, TypeError) as error:
        raise OtlabError(f"{source}: not what `otlab scenarios coverage --out` writes: {error}") from error
    click.echo(text)
