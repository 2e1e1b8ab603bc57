"""``otlab tradeoff``: which sets of controls no other beats, and what one step more or less would change."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab.options import cores, people, set_figures
from lab.progress import progress
from testbed.errors import OtlabError

if TYPE_CHECKING:
    from devices.crew import Method
    from devices.reliability import HumanModel
    from lab.tradeoff import Found, Problem


@click.command("tradeoff")
@click.option(
    "--site", default="water", show_default=True, help="A shipped site's name, or a folder or file."
)
@click.option(
    "--scenario",
    "attacks",
    multiple=True,
    help="An attack that sets are judged by; repeatable. [default: four]",
)
@click.option(
    "--emergency",
    "emergencies",
    multiple=True,
    help="An emergency that operators are timed in; repeatable. [default: the site's]",
)
@click.option(
    "--trials", type=click.IntRange(0), default=30, show_default=True, help="Sets to try beside SL 0 to 4."
)
@click.option(
    "--batch",
    type=click.IntRange(2),
    default=10,
    show_default=True,
    help="Sets of one generation of the search.",
)
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Runs of each cell.")
@click.option(
    "--duration", type=click.FloatRange(min=60), default=1800.0, show_default=True, help="Seconds of a run."
)
@people("spar-h")
@click.option(
    "--at-most",
    "limits",
    multiple=True,
    metavar="OBJECTIVE=NUMBER",
    help="Choose only among sets that keep this, e.g. risk=5. Repeatable.",
)
@set_figures
@click.option("--search-seed", type=int, default=0, show_default=True, help="Luck of the search itself.")
@click.option("--workers", type=click.IntRange(1), default=None, help="Processes; one per core if not given.")
@click.option("--pdf", is_flag=True, help="Also write report.pdf (extra: otlab[pdf]).")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/tradeoff"),
    show_default=True,
)
def tradeoff(
    site: str,
    attacks: tuple[str, ...],
    emergencies: tuple[str, ...],
    trials: int,
    batch: int,
    seeds: int,
    duration: float,
    human: HumanModel,
    mfa: Method,
    limits: tuple[str, ...],
    overrides: tuple[tuple[str, float], ...],
    search_seed: int,
    workers: int | None,
    pdf: bool,
    out: Path,
) -> None:
    """Search for sets of controls that none beats in risk, availability, operability and cost.

    Levels of each FR and compensating countermeasures are chosen by NSGA-II; every number comes from runs. Says for the
    balanced set which control to drop or add, and why. Stop it at any time and call it again: finished runs are kept.
    """
    from lab.campaign import Processes
    from lab.tradeoff import Problem, Search, as_data, emergencies_of
    from lab.tradeoff import search as perform
    from results.store import RowStore, save_text
    from scenarios.actions import check_against
    from scenarios.experiment import site_of
    from scenarios.model import load_scenario
    from testbed.figures import load_figures

    described = site_of(site)
    problem = Problem(
        site,
        attacks or STANDARD_ATTACKS,
        emergencies or emergencies_of(site),
        tuple(range(1, seeds + 1)),
        duration,
        human,
        mfa,
        overrides,
    )
    for name in (*problem.attacks, *problem.emergencies):
        check_against(described, load_scenario(name, described))
    load_figures().with_overrides(dict(problem.overrides))
    with progress("runs") as (advance, length):
        expected = 0

        def more(runs: int) -> Callable[[], None]:
            nonlocal expected
            expected += runs
            length(expected)
            return advance

        made = Search(problem, RowStore(out / "rows"), Processes(workers or cores()), more, {})
        found = perform(made, trials, batch, search_seed, _limits(limits))
    save_text(out / "tradeoff.json", as_data(problem, found))
    _write(problem, found, described.title, out, pdf)
    for line in told(problem, found):
        click.echo(line)
    click.echo(f"report: {out / 'report.html'}")


#: An attack from the office, one on the wire, one by an account, one on availability.
STANDARD_ATTACKS = ("unauthorized-write", "wire-spoof", "account-phished-outside", "plc-flood")


def _limits(texts: Sequence[str]) -> dict[str, float]:
    found = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise OtlabError(f"--at-most {text!r}: write a name and a number, as in risk=5") from None
    return found


def told(problem: Problem, found: Found) -> Iterator[str]:
    """The front, the choice and its steps as lines of text."""
    from results.tradeoff import OBJECTIVES

    names = problem.objectives
    yield f"{len(found.points)} sets measured; no other beats these:"
    width = max(len(point.key) for point in found.front)
    yield "  " + "set".ljust(width) + "".join(f"  {name:>17}" for name in names)
    for point in found.front:
        mark = "*" if found.chosen is not None and point.key == found.chosen.name else " "
        yield f"{mark} {point.key.ljust(width)}" + "".join(f"  {point.mean(name):17.2f}" for name in names)
    yield "  " + ", ".join(f"{name}: {OBJECTIVES[name]}" for name in names)
    if found.chosen is None:
        yield "no set keeps what --at-most asks"
        return
    yield f"* balanced; one step from {found.chosen.name}, paired by seed:"
    for one in found.changes:
        changes = ", ".join(
            f"{name} {estimate.value:+.2f}"
            for name, estimate in one.differences.items()
            if estimate.value is not None and abs(estimate.value) >= 0.005
        )
        yield f"  {one.step}: {one.verdict} ({changes or 'nothing changes'})"


def _write(problem: Problem, found: Found, title: str, out: Path, pdf: bool) -> None:
    from controls.catalogue import FOUNDATIONAL
    from results.look import png, svg
    from results.pdf import write_pdf
    from results.report import inline_svg, installed_versions, page, ranges
    from results.store import save_bytes, save_text
    from results.trade_figures import pareto
    from results.tradeoff import OBJECTIVES

    points = [point for _, point in found.points]
    chosen = None if found.chosen is None else found.chosen.name
    units = {name: OBJECTIVES[name] for name in problem.objectives}
    picture = pareto(points, found.front, chosen, units)
    save_bytes(out / "pareto.png", png(picture))
    facts: Mapping[str, str] = {
        "Site": f"{problem.site} ({title})",
        "Attacks": ", ".join(problem.attacks),
        "Emergencies": ", ".join(problem.emergencies) or "none: operators' delay is not judged",
        "Seeds": ranges(problem.seeds),
        "Length of a run": f"{problem.duration:g} s",
        "Operators": f"{problem.human}, log in with {problem.mfa}",
        "Figures": ", ".join(f"{key} = {value:g}" for key, value in problem.overrides) or "as shipped",
    }
    text = page(
        "tradeoff.html.j2",
        title="Trade-offs of controls",
        points=points,
        front=found.front,
        seeds=problem.seeds,
        facts=list(facts.items()),
        picture=inline_svg(svg(picture), "pareto-", "Risk against each other objective"),
        frs=", ".join(FOUNDATIONAL),
        chosen=chosen,
        objectives=list(units.items()),
        steps=found.changes,
        command=shlex.join(["otlab", *sys.argv[1:]]),
        versions=installed_versions(),
    )
    save_text(out / "report.html", text)
    if pdf:
        write_pdf(out / "report.pdf", text)
