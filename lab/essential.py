"""What the checks of essential functions found, as lines and as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scenarios.essential import CONSTRAINTS, Finding


def tell(profile: str, found: Sequence[Finding]) -> str:
    """One line for a profile that keeps every constraint, else one for each finding."""
    if not found:
        return f"{profile}: every one of {len(CONSTRAINTS)} constraints holds"
    return "\n".join(f"{profile}: FINDING {one.constraint}: {one.says}" for one in found)


def page(found: Mapping[str, Sequence[Finding]]) -> str:
    """A table of constraints against profiles, then every finding in a sentence."""
    lines = [
        "# Essential functions",
        "",
        "IEC 62443-3-3 clause 4.2: no security measure may stop an essential function. Each constraint is checked by",
        "a run of the reference site under each profile (`otlab essential`). A finding is a defect of that choice of",
        "controls, however high its level; what to do about it is in",
        "[people and compensating](../explanation/people-and-compensating.md).",
        "",
        "| | constraint | about | " + " | ".join(found) + " |",
        "|---|---|---|" + "---|" * len(found),
    ]
    for constraint in CONSTRAINTS.values():
        cells = [
            "**finding**" if any(one.constraint == constraint.id for one in ones) else "holds"
            for ones in found.values()
        ]
        lines.append(
            f"| {constraint.id} | {constraint.says} | {constraint.about} | " + " | ".join(cells) + " |"
        )
    findings = [one for ones in found.values() for one in ones]
    if findings:
        lines += ["", "## Findings", ""]
        lines += [f"- {one.profile}, {one.constraint}: {one.says}." for one in findings]
    return "\n".join(lines) + "\n"
