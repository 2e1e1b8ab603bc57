"""What there is to say about a requirement: its card, and how many act and are tried."""

from __future__ import annotations

from controls.catalogue import FOUNDATIONAL, FR_TITLES, catalogue
from controls.profiles import CHECKS, CONTROLS, NEEDS, dependents
from scenarios.model import load_scenario
from scenarios.trials import trials


def what_it_does(name: str) -> str:
    """How the testbed enforces a requirement, from its control's docstring."""
    act = CONTROLS.get(name)
    if act is None:
        return "does not act yet"
    return " ".join((act.__doc__ or "").partition(": ")[2].split())


def card(name: str) -> str:
    """Everything about one requirement, as text."""
    item = catalogue()[name]
    lines = [
        f"{name}  {item.title}",
        f"  foundational requirement: {item.fr}, {FR_TITLES[item.fr]}",
        f"  lowest level: SL {item.min_sl}" + (" (sources differ)" if item.doubtful else ""),
        f"  asks: {item.paraphrase}",
        f"  here: {what_it_does(name)}",
    ]
    if name in NEEDS:
        lines.append(f"  needs: {', '.join(NEEDS[name])}")
    if others := sorted(dependents(name), key=list(catalogue()).index):
        lines.append(f"  needed by: {', '.join(others)}")
    lines.append(f"  state looked at in the run: {'yes' if name in CHECKS else 'only whether it is on'}")
    trial = trials().get(name)
    if trial is None:
        lines.append("  trial: none")
    else:
        scenario = load_scenario(trial.scenario)
        techniques = dict.fromkeys(step.technique for step in scenario.steps if step.technique)
        lines += [
            f"  trial: {trial.scenario} ({scenario.title}; {', '.join(techniques) or 'no attacker'})",
            f"    in force on both sides: {', '.join(trial.context) or 'nothing else'}",
            f"    shows {trial.shows}: {trial.says}",
        ]
    return "\n".join(lines)


def coverage() -> str:
    """Acting and tried of all, by foundational requirement and lowest level."""
    lines = [f"{'':4}" + "".join(f"{f'SL {level}':>12}" for level in range(1, 5)) + f"{'all':>12}"]
    for fr in (*FOUNDATIONAL, "all"):
        cells = []
        for level in (1, 2, 3, 4, None):
            items = [
                item
                for item in catalogue().values()
                if fr in (item.fr, "all") and level in (item.min_sl, None)
            ]
            acting = sum(item.id in CONTROLS for item in items)
            tried = sum(item.id in trials() for item in items)
            cells.append(f"{acting}/{tried}/{len(items)}")
        lines.append(f"{fr:4}" + "".join(f"{cell:>12}" for cell in cells))
    lines.append("each cell: requirements that act / have a trial / exist")
    return "\n".join(lines)
