"""Writes the generated pages of docs/reference from the product's own tables; ``--check`` only compares.

Run with the project's environment: python docs/generate.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click

from controls.catalogue import FOUNDATIONAL, FR_TITLES, catalogue
from controls.profiles import CONTROLS, NEEDS
from lab.cli import main as command
from scenarios.model import load_scenario, scenario_names
from testbed.figures import load_figures

REFERENCE = Path(__file__).parent / "reference"


def requirements() -> str:
    """The catalogue, and what each acting requirement does."""
    lines = [
        "# Requirements",
        "",
        f"IEC 62443-3-3 has {len(catalogue())} requirements; {len(CONTROLS)} act in this version. A profile is the",
        "set that the table requires for its levels; what does not act yet is never counted as met. `?` marks a level",
        "on which the secondary sources differ.",
    ]
    for fr in FOUNDATIONAL:
        lines += [
            "",
            f"## {fr}: {FR_TITLES[fr]}",
            "",
            "| id | SL | title | in the testbed | needs |",
            "|---|---|---|---|---|",
        ]
        for item in catalogue().values():
            if item.fr == fr:
                act = CONTROLS.get(item.id)
                text = (
                    (act.__doc__ or "").partition(": ")[2].strip() if act is not None else "does not act yet"
                )
                needs = ", ".join(NEEDS.get(item.id, ()))
                doubt = "?" if item.doubtful else ""
                lines.append(f"| {item.id} | {item.min_sl}{doubt} | {item.title} | {text} | {needs} |")
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
    lines = ["# Scenarios", "", "Technique ids are ATT&CK for ICS v18.1's; see NOTICE."]
    for name in scenario_names():
        found = load_scenario(name)
        where = (
            f"a host of the attacker's own in zone `{found.attacker.zone}`"
            if found.attacker.zone
            else f"asset `{found.attacker.at}`"
        )
        lines += [
            "",
            f"## {name}",
            "",
            f"{found.title}. {found.summary.strip()}",
            "",
            f"Starts at {found.start:g} s from {where}.",
            "",
        ]
        lines += [f"1. {step.technique} `{step.action}`" for step in found.steps]
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


PAGES: dict[str, Callable[[], str]] = {
    "requirements.md": requirements,
    "figures.md": figures,
    "scenarios.md": scenarios,
    "command-line.md": commands,
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
