"""Writes the generated pages of docs/reference from the product's own tables; ``--check`` only compares.

Run with the project's environment: python docs/generate.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import click

from controls.catalogue import FOUNDATIONAL, FR_TITLES, catalogue
from controls.profiles import CHECKS, CONTROLS, NEEDS
from devices.sigma import shipped
from lab.cli import main as command
from lab.coverage import matrix, navigator_layer
from lab.exercises.model import exercise_names, load_exercise
from lab.requirements import attacks_met, seams_of, what_it_does
from scenarios.model import load_scenario, scenario_names
from testbed.figures import load_figures

REFERENCE = Path(__file__).parent / "reference"
#: what `otlab ablate` last published; see reference/proof.md
PROOF = REFERENCE / "proof.json"
#: what `otlab scenarios coverage` last published
COVERAGE = REFERENCE / "attack-coverage.json"


def requirements() -> str:
    """The catalogue: how each requirement is enforced, by which seams, what it meets, costs, and is proved by."""
    proof = json.loads(PROOF.read_text(encoding="utf-8")) if PROOF.exists() else {}
    proved = sum(one["proved"] for one in proof.values())
    lines = [
        "# Requirements",
        "",
        f"IEC 62443-3-3 has {len(catalogue())} requirements; {len(CONTROLS)} act in this version and {proved} are",
        "proved to make a difference ([proof.md](proof.md)). A profile is the set that the table requires.",
        "`?` marks a level on which the secondary sources differ. Paraphrases are this project's, not the standard's",
        "text.",
        "",
        "*Seams* are what the control fills in devices and network, read from its source. *Met* is the scenario that",
        "tries it, with its ATT&CK for ICS techniques. *Costs* are outcomes that got worse with it in those runs.",
    ]
    for fr in FOUNDATIONAL:
        lines += ["", f"## {fr}: {FR_TITLES[fr]}"]
        for item in catalogue().values():
            if item.fr != fr:
                continue
            found = proof.get(item.id, {})
            met = attacks_met(item.id)
            level = f"SL {item.min_sl}{'?' if item.doubtful else ''}"
            lines += ["", f"### {item.id} {item.title} ({level})", "", f"- asks: {item.paraphrase}."]
            lines.append(f"- here: {what_it_does(item.id)}")
            if item.id in NEEDS:
                lines.append(f"- needs: {', '.join(NEEDS[item.id])}")
            if seams := seams_of(item.id):
                lines.append(f"- seams: {', '.join(f'`{seam}`' for seam in seams)}")
            if item.id in CHECKS:
                lines.append("- looked at in the run: whether it is at work, zone by zone")
            if met is not None:
                lines.append(f"- met: `{met[0]}` ({', '.join(met[1]) or 'no attacker'})")
            if found.get("shown"):
                verdict = "proved" if found["proved"] else "**UNPROVED**"
                lines.append(f"- evidence: {found['shown']} in {found['pairs']} pairs: {verdict}")
            if found.get("costs"):
                lines.append(f"- costs: {', '.join(found['costs'])}")
    return "\n".join(lines) + "\n"


def figures() -> str:
    """Every figure with its origin."""
    table = load_figures()
    lines = [
        "# Figures",
        "",
        "Every number that a run assumes or takes from a source, in one table. Change one with `--set KEY=NUMBER`.",
        "",
        "| key | value | unit | status | source | note |",
        "|---|---|---|---|---|---|",
    ]
    for key in table:
        entry = table.entry(key)
        lines.append(
            f"| `{key}` | {entry.value:g} | {entry.unit} | {entry.status} | {entry.source} | {entry.note} |"
        )
    return "\n".join(lines) + "\n"


def scenarios() -> str:
    """The shipped scenarios."""
    lines = [
        "# Scenarios",
        "",
        f"{len(scenario_names())} scenarios are shipped. Technique ids are ATT&CK for ICS v18.1's; see NOTICE. Names",
        "of assets are those of the site that a scenario is written for, or of the reference site.",
    ]
    for name in scenario_names():
        found = load_scenario(name)
        where = "without an attacker"
        if found.attacker is not None:
            where = (
                f"from a host of the attacker's own in zone `{found.attacker.zone}`"
                if found.attacker.zone
                else f"from asset `{found.attacker.at}`"
            )
        lines += [
            "",
            f"## {name}",
            "",
            f"{found.title}. {found.summary.strip()}",
            "",
            f"Starts at {found.start:g} s {where}.",
            "",
        ]
        if found.incident:
            lines += [f"Follows {found.incident}.", ""]
            lines += [f"- in dispute: {one}" for one in found.disputed]
            lines += ([""] if found.disputed else []) + [f"Read in: {'; '.join(found.sources)}.", ""]
        for step in found.steps:
            also = f" ({', '.join(step.also)})" if step.also else ""
            lines.append(f"1. {step.technique or 'event'}{also} `{step.action}`")
        if found.goals:
            lines.append("")
        lines += [f"- goal: {goal.title()} ({goal.technique or 'no technique'})" for goal in found.goals]
    return "\n".join(lines) + "\n"


def coverage() -> str:
    """What of ATT&CK for ICS the library shows, as `otlab scenarios coverage` last published it."""
    found = json.loads(COVERAGE.read_text(encoding="utf-8"))
    return f"""# ATT&CK for ICS

{matrix(found)}

From a run of every scenario at SL 0 with seed 1 (`otlab scenarios coverage --out docs/reference/attack-coverage.json`);
`otlab scenarios layer docs/reference/attack-coverage.json` prints it as a layer for the ATT&CK Navigator, as in
[attack-layer.json](attack-layer.json). ATT&CK is a registered trademark of The MITRE Corporation; see NOTICE.
"""


def layer() -> str:
    """The same for the ATT&CK Navigator."""
    found = json.loads(COVERAGE.read_text(encoding="utf-8"))
    return json.dumps(navigator_layer(found), indent=1) + "\n"


def sigma_rules() -> str:
    """The SIEM's rules as a table."""
    lines = [
        "# Detection rules",
        "",
        f"{len(shipped())} rules raise alerts at the SIEM, as Sigma files in `devices/data/sigma`. Severity: 1 low",
        "to 4 critical. A site adds its own with `rules:` on its SIEM; `otlab siem check FILE` checks them.",
        "",
        "| rule | severity | when | event | technique |",
        "|---|---|---|---|---|",
    ]
    for one in shipped():
        when = "each event"
        if one.correlation is not None:
            kind = one.correlation.kind.lower().replace("_", " ")
            count = f", {one.correlation.most} of them" if one.correlation.most is not None else ""
            when = f"{kind}{count} within {one.correlation.span:g} s"
        about = ", ".join(f"`{kind}`" for kind in sorted(one.kinds or ()))
        lines.append(f"| {one.title} | {one.severity} | {when} | {about} | {' '.join(one.techniques)} |")
    return "\n".join(lines) + "\n"


def commands() -> str:
    """Help of every command."""
    lines = ["# Command line", ""]

    def tell(item: click.Command, path: str) -> None:
        context = click.Context(item, info_name=path, max_content_width=100, terminal_width=100)
        lines.extend([f"## {path}", "", "```text", item.get_help(context), "```", ""])
        if isinstance(item, click.Group):
            for name, child in item.commands.items():
                tell(child, f"{path} {name}")

    tell(command, "otlab")
    return "\n".join(lines)


def exercises() -> str:
    """The shipped exercises as students see them: no checks, no hints, no answers."""
    found = [load_exercise(name) for name in exercise_names()]
    lines = [
        "# Exercises",
        "",
        f"{len(found)} exercises are shipped; how they are done is in the",
        "[student's guide](../how-to/students-guide.md).",
        "",
        "| exercise | title | side | kind | site | points | minutes (estimated) | hints |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        lines.append(
            f"| `{one.name}` | {one.title} | {one.side} | {one.kind} | {one.site} | {one.points} | {one.minutes}"
            f" | {len(one.hints)} |"
        )
    for one in found:
        lines += ["", f"## {one.name}", "", one.story.strip(), ""]
        lines += [f"- {task.title} ({task.points} points)" for task in one.tasks]
    return "\n".join(lines) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "requirements.md": requirements,
    "figures.md": figures,
    "scenarios.md": scenarios,
    "attack-coverage.md": coverage,
    "attack-layer.json": layer,
    "sigma-rules.md": sigma_rules,
    "command-line.md": commands,
    "exercises.md": exercises,
}


def main() -> int:
    stale = []
    for name, make in PAGES.items():
        path, text = REFERENCE / name, make()
        if "--check" in sys.argv[1:]:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                stale.append(name)
        else:
            path.write_text(text, encoding="utf-8")
    if stale:
        print(f"docs/reference: {', '.join(stale)} not current; run python docs/generate.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
