"""The command line: ``otlab``."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import wraps
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lab import (
    assess_commands,
    campaign_commands,
    detector_commands,
    exercise_commands,
    response_commands,
    scenario_commands,
    siem_commands,
    site_commands,
    study_commands,
    tradeoff_commands,
)
from lab.groups import Group
from lab.options import cores, people, set_figures
from lab.progress import progress
from testbed.errors import OtlabError

if TYPE_CHECKING:
    from controls.selection import Selection
    from devices.crew import Method
    from devices.reliability import HumanModel
    from devices.response import Mode

#: How long a run is unless told otherwise: five quiet minutes, then thirty-five for the attack to show.
DURATION = 2400.0
#: What `compare` runs unless told otherwise: one attack on each of commands, parameters, readings and load.
STANDARD = ("opcua-setpoint", "plc-flood", "unauthorized-write", "wire-spoof")
#: Runs of a cell: below six, the median detection time has no upper end of its interval.
SEEDS = 6
#: Pairs of a trial: eight that all go one way have p = 0.008 in the sign test.
PAIRS = 8


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("otlab"), prog_name="otlab")
def main() -> None:
    """Measure what IEC 62443 security levels buy and cost, on simulated plants with real protocols."""


_site = click.option(
    "--site", default="water", show_default=True, help="A shipped site's name, or a site's file or folder."
)
_duration = click.option(
    "--duration",
    type=click.FloatRange(min=60),
    default=DURATION,
    show_default=True,
    help="Simulated seconds of a run.",
)


_workers = click.option(
    "--workers", type=click.IntRange(min=1), default=None, help="Processes; one per core if not given."
)
_response = click.option(
    "--response",
    type=click.Choice(["none", "analyst", "automatic"]),
    default="none",
    show_default=True,
    help="What is done about incidents: nothing, what people decide, or playbooks at once.",
)
_attacker = "Who attacks: casual, generic, specialist, state (who SL 1 to 4 are meant for), insider, malware."
_compensate = click.option(
    "--compensate", "compensating", multiple=True, metavar="NAME", help="A compensating countermeasure."
)


def _choices(
    levels: tuple[int, ...], files: tuple[str, ...], compensating: tuple[str, ...], usual: Iterable[int]
) -> list[Selection]:
    """What levels and files put in force, with the countermeasures; ``usual`` levels if neither is given."""
    from controls.catalogue import SecurityLevels
    from controls.selection import load_selection, select

    uniform = sorted(set(levels)) or (() if files else usual)
    chosen = [
        *(select(SecurityLevels.uniform(level)) for level in uniform),
        *(load_selection(file) for file in files),
    ]
    return [replace(one, compensating=(*one.compensating, *compensating)) for one in chosen]


def _selected(command: Callable[..., None]) -> Callable[..., None]:
    """Options that say what is in force; the command gets them as ``selection``, to be called for the Selection."""

    @click.option(
        "--sl", "--sl-vector", "sl", default=None, help="Security level 0-4, or IAC=3,UC=2,... [default: 0]"
    )
    @click.option(
        "--with", "added", multiple=True, metavar="SR|FR", help="Add a requirement, or a whole FR as in IAC."
    )
    @click.option(
        "--without", "removed", multiple=True, metavar="SR|FR", help="Take one away, or a whole FR."
    )
    @click.option(
        "--controls", "file", default=None, metavar="FILE", help="A file that says all this; instead of --sl."
    )
    @_compensate
    @click.option(
        "--maturity", type=click.IntRange(1, 4), default=None, help="Maturity level of the practices."
    )
    @wraps(command)
    def selected(
        sl: str | None,
        added: tuple[str, ...],
        removed: tuple[str, ...],
        file: str | None,
        compensating: tuple[str, ...],
        maturity: int | None,
        **rest: Any,
    ) -> None:
        def selection() -> Selection:
            from controls.catalogue import SecurityLevels
            from controls.selection import load_selection, select

            if file is None:
                return select(
                    SecurityLevels.parse(sl or "0"),
                    added,
                    removed,
                    compensating=compensating,
                    maturity=maturity,
                )
            if sl is not None or added or removed:
                raise OtlabError("--controls says what is in force; leave out --sl, --with and --without")
            found = load_selection(file)
            return replace(
                found,
                compensating=(*found.compensating, *compensating),
                maturity=maturity if maturity is not None else found.maturity,
            )

        command(selection=selection, **rest)

    return selected


@main.command()
@_site
@click.option(
    "--scenario",
    "scenarios",
    multiple=True,
    help=f"A scenario's name or file; {', '.join(STANDARD)} if not given.",
)
@click.option(
    "--level",
    "levels",
    multiple=True,
    type=click.IntRange(0, 4),
    help="A security level; 0 to 4 if not given.",
)
@click.option(
    "--controls", "files", multiple=True, metavar="FILE", help="Also compare what this file puts in force."
)
@click.option(
    "--maturity",
    "maturities",
    multiple=True,
    type=click.IntRange(1, 4),
    help="Maturity levels of the practices, each with each level; none (perfect practice) if not given.",
)
@_compensate
@click.option(
    "--seeds", type=click.IntRange(min=1), default=SEEDS, show_default=True, help="Runs of each cell."
)
@_duration
@_workers
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs/compare"),
    show_default=True,
    help="Folder of results.",
)
@click.option("--attacker", "attackers", multiple=True, metavar="WHO", help=_attacker + " Repeatable.")
@_response
@people("simple")
@click.option("--pdf", is_flag=True, help="Also write report.pdf (extra: otlab[pdf]).")
@set_figures
def compare(
    site: str,
    scenarios: tuple[str, ...],
    levels: tuple[int, ...],
    files: tuple[str, ...],
    maturities: tuple[int, ...],
    compensating: tuple[str, ...],
    seeds: int,
    duration: float,
    workers: int | None,
    out: Path,
    overrides: tuple[tuple[str, float], ...],
    attackers: tuple[str, ...],
    response: Mode,
    human: HumanModel,
    mfa: Method,
    pdf: bool,
) -> None:
    """Run attacks against security levels and report detection time and availability."""
    from rich.console import Console

    from lab.campaign import Campaign, perform
    from results import figures, look, report, statistics
    from results.store import RowStore, save_bytes, save_text
    from scenarios.actions import check_against
    from scenarios.attackers import profile_of
    from scenarios.experiment import site_of
    from scenarios.model import load_scenario
    from testbed.figures import load_figures

    names = scenarios or STANDARD
    described = site_of(site)
    for name in names:
        check_against(described, load_scenario(name, described))
    for attacker in attackers:
        profile_of(attacker, load_figures())
    load_figures().with_overrides(dict(overrides))
    chosen = _choices(levels, files, compensating, range(5))
    campaign = Campaign(
        site,
        tuple(names),
        tuple(
            replace(one, maturity=maturity)
            for one in chosen
            for maturity in (sorted(set(maturities)) or (one.maturity,))
        ),
        tuple(range(1, seeds + 1)),
        duration,
        overrides,
        tuple(dict.fromkeys(attackers)) or (None,),
        response,
        human,
        mfa,
    )
    # A file or pipe has no width of its own; there the whole table is worth more than short lines.
    console = Console() if sys.stdout.isatty() else Console(width=120)
    who = f" x {len(attackers)} attackers" if attackers else ""
    title = f"{len(names)} attacks{who} x {len(campaign.profiles)} levels x {seeds} seeds"
    with progress(title) as (advance, total):
        total(campaign.runs)
        rows = perform(campaign, RowStore(out / "rows"), workers or cores(), advance)
    cells = statistics.summarize(rows)
    drawn = figures.standard(rows)
    for name, figure in drawn.items():
        save_bytes(out / f"{name}.png", look.png(figure))
    save_text(out / "rows.jsonl", "".join(json.dumps(row.to_dict(), sort_keys=True) + "\n" for row in rows))
    titles = {name: load_scenario(name, described).title for name in names}
    titles |= {
        f"{name} by {who}": f"{title}, by {who}" for name, title in titles.items() for who in attackers
    }
    command = shlex.join(["otlab", *sys.argv[1:]])
    page = report.write_report(
        out / "report.html",
        rows,
        cells,
        {name: look.svg(figure) for name, figure in drawn.items()},
        {
            "site": described.title,
            "command": command,
            "titles": titles,
            "Operators": f"{human}, log in with {mfa}",
        },
    )
    if pdf:
        from results.pdf import write_pdf

        write_pdf(out / "report.pdf", page)
    console.print(report.table(cells, console.width))
    console.print(f"report: {out / 'report.html'}", highlight=False)


@main.command()
@_site
@click.option("--scenario", default=None, help="A scenario's name or file; none if not given.")
@_selected
@click.option("--seed", type=int, default=1, show_default=True)
@_duration
@click.option(
    "--pcap",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Write all traffic as pcapng.",
)
@click.option(
    "--trace",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Write every event, one JSON a line; samples go beside it as CSV.",
)
@click.option(
    "--timeline",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Draw the run as PNG or SVG.",
)
@click.option("--attacker", default=None, metavar="WHO", help=_attacker)
@_response
@people("simple")
@set_figures
def run(
    site: str,
    scenario: str | None,
    selection: Callable[[], Selection],
    seed: int,
    duration: float,
    pcap: Path | None,
    trace: Path | None,
    timeline: Path | None,
    overrides: tuple[tuple[str, float], ...],
    attacker: str | None,
    response: Mode,
    human: HumanModel,
    mfa: Method,
) -> None:
    """Run one experiment and say what happened."""
    from time import perf_counter

    from lab.summary import draw, tell, tell_levels
    from results.store import save_bytes, save_text
    from scenarios.experiment import Experiment
    from scenarios.experiment import run as perform

    experiment = Experiment.of(
        site, selection(), scenario, seed, duration, overrides, attacker, response, human, mfa
    )
    begun = perf_counter()
    record, events = perform(experiment, capture=pcap)
    took = perf_counter() - begun
    if trace is not None:
        save_text(trace, "\n".join(events.lines()) + "\n")
        save_text(trace.with_suffix(".csv"), "\n".join(events.table()) + "\n")
    if timeline is not None:
        save_bytes(timeline, draw(record, events, timeline.suffix))
    tell(record, events)
    tell_levels(record)
    click.echo(f"{duration:g} simulated s in {took:.2f} s: {duration / took:,.0f} times real time")


@main.command()
@_site
@click.option(
    "--scenario", default=None, help="A scenario's name or file that is part of the run from its start."
)
@_selected
@click.option("--seed", type=int, default=1, show_default=True)
@click.option(
    "--speed",
    type=click.FloatRange(0.1, 1000),
    default=1.0,
    show_default=True,
    help="Virtual seconds a second.",
)
@click.option("--paused", is_flag=True, help="Let time stand until somebody lets it go on.")
@click.option(
    "--attach",
    "attach",
    multiple=True,
    metavar="ZONE:ASSET:PORT=127.0.0.1:PORT",
    help="Let outside tools reach a port of an asset from a laptop in a zone. Repeatable.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="127.0.0.1 or ::1, nothing else.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 for a free one."
)
@click.option(
    "--duration",
    type=click.FloatRange(min=60),
    default=86400.0,
    show_default=True,
    help="Virtual seconds after which the run ends.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder of inputs, trace and record. [default: the next free runs/live/NUMBER]",
)
@click.option("--pcap", is_flag=True, help="Also keep all traffic, as capture.pcapng in the folder.")
@click.option("--terminal", is_flag=True, help="Also work the station here, by lines: without a browser.")
@click.option(
    "--replay",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Bring the run of an inputs.jsonl back in virtual time, and stop; it says what is in force.",
)
@click.option("--attacker", default=None, metavar="WHO", help=_attacker)
@_response
@people("simple")
@set_figures
def live(
    site: str,
    scenario: str | None,
    selection: Callable[[], Selection],
    seed: int,
    speed: float,
    paused: bool,
    attach: tuple[str, ...],
    host: str,
    port: int,
    duration: float,
    out: Path | None,
    pcap: bool,
    terminal: bool,
    replay: Path | None,
    attacker: str | None,
    response: Mode,
    human: HumanModel,
    mfa: Method,
    overrides: tuple[tuple[str, float], ...],
) -> None:
    """Run a site at the pace of the wall clock, with an operator's station and a console in the browser."""
    from lab import live_commands

    folder = out if out is not None else live_commands.next_folder(Path("runs/live"))
    if replay is not None:
        live_commands.bring_back(replay, folder, pcap)
        return
    from scenarios.experiment import Experiment

    experiment = Experiment.of(
        site, selection(), scenario, seed, duration, overrides, attacker, response, human, mfa
    )
    live_commands.host_lab(
        experiment,
        attach,
        folder,
        pcap,
        speed=speed,
        paused=paused,
        host=host,
        port=port,
        terminal=terminal,
    )


@main.command("list")
def list_() -> None:
    """List what is shipped: sites, scenarios, requirements that act."""
    from controls.catalogue import FOUNDATIONAL, catalogue
    from controls.profiles import CONTROLS
    from scenarios.model import load_scenario, scenario_names
    from testbed.site import load_site, site_names

    click.echo("Sites")
    for name in site_names():
        click.echo(f"  {name:22} {load_site(name).title}")
    click.echo("Scenarios")
    for name in scenario_names():
        found = load_scenario(name)
        techniques = ", ".join(found.techniques())
        click.echo(f"  {name:22} {found.title} ({techniques or 'no attacker'})")
    requirements = catalogue()
    click.echo(
        f"Requirements that act ({len(CONTROLS)} of {len(requirements)}), with the lowest level that needs them"
    )
    for fr in FOUNDATIONAL:
        acting = [r for r in requirements.values() if r.fr == fr and r.id in CONTROLS]
        click.echo(f"  {fr:4} " + ", ".join(f"{r.id} (SL {r.min_sl})" for r in acting))


@main.command()
@_site
@click.option("--scenario", "scenarios", multiple=True, help="An attack to record; repeatable.")
@_selected
@click.option(
    "--seeds-train", default="1:2", show_default=True, help="Seeds of the training part, as 1:4 or 1,5."
)
@click.option("--seeds-test", default="101:102", show_default=True, help="Seeds of the test part.")
@_duration
@click.option("--format", "form", type=click.Choice(["csv", "parquet"]), default="csv", show_default=True)
@click.option("--pcap/--no-pcap", default=True, show_default=True, help="Also keep all traffic.")
@_workers
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/dataset"), show_default=True)
def dataset(
    site: str,
    scenarios: tuple[str, ...],
    selection: Callable[[], Selection],
    seeds_train: str,
    seeds_test: str,
    duration: float,
    form: str,
    pcap: bool,
    workers: int | None,
    out: Path,
) -> None:
    """Write labelled traffic, process data and events: quiet runs and attacks, split by seed.

    Every run of an attack has it at a moment of its own. With --format parquet, tables are there in both forms.
    """
    from lab.dataset_commands import seeds_of, write_dataset

    splits = {"train": seeds_of(seeds_train), "test": seeds_of(seeds_test)}
    count = sum(map(len, splits.values())) * (1 + len(scenarios))
    with progress(f"{count} runs of {duration:g} s") as (advance, total):
        total(count)
        runs = write_dataset(
            out,
            site,
            selection(),
            scenarios,
            splits,
            duration,
            parquet=form == "parquet",
            pcap=pcap,
            workers=workers or cores(),
            progress=advance,
        )
    click.echo(f"{len(runs)} runs in {out}, described in {out / 'README.md'}")


@main.group(cls=Group)
def site() -> None:
    """Look at sites."""


@site.command("check")
@click.argument("path")
def site_check(path: str) -> None:
    """Check a site's file and its logic; every mistake is told at once."""
    from devices.world import World
    from scenarios.experiment import site_of
    from testbed.figures import load_figures

    found = site_of(path)
    for warning in found.warnings:
        click.echo(f"warning: {warning}", err=True)
    World(found, 1, load_figures()).close()
    click.echo(
        f"{found.name}: {len(found.zones)} zones, {len(found.conduits)} conduits, {len(found.assets)} assets: in order"
    )


@site.command("schema")
def site_schema() -> None:
    """Print the JSON Schema of a site's file, for editors."""
    from testbed.site import site_schema as schema

    click.echo(json.dumps(schema(), indent=2))


@site.command("train")
@click.argument("path")
@click.option(
    "--runs", type=click.IntRange(1), default=6, show_default=True, help="Attack-free runs to learn from."
)
@click.option(
    "--seconds", type=click.FloatRange(700), default=7200.0, show_default=True, help="Length of each."
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="File to write. [default: process.json beside the site]"
)
def site_train(path: str, runs: int, seconds: float, out: Path | None) -> None:
    """Let the detectors of a site's process learn from attack-free runs."""
    from devices.process_watch import LEARNED
    from scenarios.experiment import site_of
    from scenarios.training import train

    found = site_of(path)
    learned = train(found, runs, seconds)
    target = out if out is not None else found.folder / LEARNED
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(learned, separators=(",", ":"), sort_keys=True) + "\n", encoding="utf-8")
    click.echo(f"{target}: {len(learned['detectors']['limits'])} measurements, {runs} runs of {seconds:g} s")


@site.command("suricata")
@click.argument("path")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the two files.")
def site_suricata(path: str, out: Path) -> None:
    """Write a configuration and rules for Suricata from a site's documented flows."""
    from devices.world import World
    from lab import suricata
    from scenarios.experiment import site_of
    from testbed.figures import load_figures

    world = World(site_of(path), 1, load_figures())
    try:
        config, rules = suricata.write(world, out)
    finally:
        world.close()
    click.echo(f"suricata -c {config} -S {rules} -k none --runmode single -l {out} -r CAPTURE")


@main.command()
@click.argument("pattern", default="")
def figures(pattern: str) -> None:
    """List the figures that runs use, where each is from, and which are assumptions."""
    from testbed.figures import load_figures

    table = load_figures()
    for key in table:
        if pattern in key:
            entry = table.entry(key)
            click.echo(f"{key} = {entry.value:g} {entry.unit}  [{entry.status}] {entry.source}")


@main.group(cls=Group)
def controls() -> None:
    """IEC 62443-3-3's requirements: what they are, how the testbed enforces them, what is proved."""


@controls.command("list")
@click.option("--sl", default=None, help="Only what this level, or vector IAC=3,UC=2,..., requires.")
def controls_list(sl: str | None) -> None:
    """List the requirements: lowest level, and whether they act."""
    from controls.catalogue import SecurityLevels, catalogue
    from controls.profiles import CONTROLS, required

    wanted = required(SecurityLevels.parse(sl)) if sl is not None else tuple(catalogue())
    for name in wanted:
        requirement = catalogue()[name]
        acts = "acts" if name in CONTROLS else "does not act yet"
        doubt = " (sources differ on the level)" if requirement.doubtful else ""
        click.echo(
            f"{name:13} {requirement.fr:4} SL {requirement.min_sl}  {requirement.title}: {acts}{doubt}"
        )


@controls.command("show")
@click.argument("requirement")
def controls_show(requirement: str) -> None:
    """Show one requirement, as in "SR 1.1 RE 2" (sr1.1re2 will do): what it does here, its trial, its needs."""
    from controls.catalogue import requirement_id
    from lab.requirements import card

    click.echo(card(requirement_id(requirement)))


@controls.command("coverage")
def controls_coverage() -> None:
    """Count, for each foundational requirement and level, what acts and what has a trial."""
    from lab.requirements import coverage

    click.echo(coverage())


@controls.command("compensating")
def controls_compensating() -> None:
    """List the compensating countermeasures: what each acts on, stands in for, and leaves as risk."""
    from controls.compensating import compensating

    for name, one in compensating().items():
        entry = one.entry
        click.echo(f"{name}: {entry.title} [{entry.grade}]")
        click.echo(f"  acts on     {entry.acts_on}")
        click.echo(f"  stands for  {', '.join(entry.stands_for) or 'no requirement'}")
        click.echo(f"  reason      {entry.reason}")
        click.echo(f"  leaves      {entry.residual_risk}")
        click.echo(f"  approver    {entry.approver}; source: {entry.source}")


@main.command()
@click.argument("requirements", nargs=-1)
@click.option("--fr", default=None, help="Only those of one foundational requirement, as in IAC.")
@click.option(
    "--pairs", type=click.IntRange(min=1), default=PAIRS, show_default=True, help="Pairs of runs of each."
)
@_workers
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs/ablate"),
    show_default=True,
    help="Folder of results.",
)
def ablate(requirements: tuple[str, ...], fr: str | None, pairs: int, workers: int | None, out: Path) -> None:
    """Run requirements on against off, paired on the same seeds, and show which outcome changes.

    Without arguments every requirement is tried. What shows no difference is listed as unproved, and the exit code is
    then 1.
    """
    from controls.catalogue import FOUNDATIONAL, catalogue, requirement_id
    from lab.ablation import ablate as perform
    from results.ablation import as_data, interval, table
    from results.store import save_text
    from testbed.errors import UnknownNameError

    if fr is not None and fr.upper() not in FOUNDATIONAL:
        raise UnknownNameError("foundational requirement", fr, FOUNDATIONAL)
    names = [requirement_id(one) for one in requirements] or list(catalogue())
    names = [name for name in names if fr is None or catalogue()[name].fr == fr.upper()]
    with progress(f"{len(names)} requirements x {pairs} pairs") as (advance, total):
        from scenarios.trials import trials

        total(2 * pairs * sum(name in trials() for name in names))
        proofs = perform(names, tuple(range(1, pairs + 1)), out, workers or cores(), advance)
    for proof in proofs:
        shown = proof.shown
        what = (
            "no trial"
            if shown is None
            else f"{shown.outcome}: {shown.off:.4g} -> {shown.on:.4g}, gain {interval(shown)}"
        )
        click.echo(f"{proof.requirement:13} {'proved  ' if proof.proved else 'UNPROVED'} {what}")
    save_text(out / "table.md", table(proofs))
    save_text(out / "proof.json", json.dumps(as_data(proofs), indent=1, sort_keys=True) + "\n")
    unproved = [proof.requirement for proof in proofs if not proof.proved]
    click.echo(f"{len(proofs) - len(unproved)} of {len(proofs)} proved; table: {out / 'table.md'}")
    if unproved:
        click.echo(f"UNPROVED: {', '.join(unproved)}")
        raise click.exceptions.Exit(1)


@main.command()
@_site
@click.option(
    "--level",
    "levels",
    multiple=True,
    type=click.IntRange(0, 4),
    help="A security level; 1 to 4 if not given.",
)
@click.option(
    "--controls", "files", multiple=True, metavar="FILE", help="Also check what this file puts in force."
)
@_compensate
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Also write a page (Markdown).",
)
@set_figures
def essential(
    site: str,
    levels: tuple[int, ...],
    files: tuple[str, ...],
    compensating: tuple[str, ...],
    out: Path | None,
    overrides: tuple[tuple[str, float], ...],
) -> None:
    """Check that no security measure stops an essential function (IEC 62443-3-3, 4.2); tell what does."""
    from lab.essential import page, tell
    from results.store import save_text
    from scenarios.essential import findings
    from testbed.figures import load_figures

    figures = load_figures().with_overrides(dict(overrides))
    found = {}
    for one in _choices(levels, files, compensating, range(1, 5)):
        found[one.name] = findings(site, one, figures)
        click.echo(tell(one.name, found[one.name]))
    if out is not None:
        save_text(out, page(found))


main.add_command(scenario_commands.scenarios)
main.add_command(detector_commands.detectors)
main.add_command(campaign_commands.campaign)
main.add_command(siem_commands.siem)
main.add_command(response_commands.playbooks)
main.add_command(study_commands.study)
site.add_command(site_commands.new)
site.add_command(site_commands.draw)
site.add_command(site_commands.import_)
main.add_command(assess_commands.assess)
main.add_command(assess_commands.review)
main.add_command(assess_commands.gate)
main.add_command(tradeoff_commands.tradeoff)
main.add_command(exercise_commands.exercise)

if __name__ == "__main__":
    main()
