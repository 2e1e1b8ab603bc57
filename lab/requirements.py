"""What there is to say about a requirement: its card, and how many act and are tried."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator

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


def seams_of(name: str) -> list[str]:
    """The seams that a requirement's control fills, read from its source: what it assigns to, appends to or adds."""
    act = CONTROLS.get(name)
    if act is None:
        return []
    found: dict[str, None] = {}
    seen: set[Callable[..., object]] = set()
    queue: list[Callable[..., object]] = [act]
    while queue:
        function = queue.pop()
        if function in seen:
            continue
        seen.add(function)
        for node in ast.walk(ast.parse(inspect.getsource(function))):
            found.update(dict.fromkeys(_filled(node)))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                called = inspect.unwrap(function).__globals__.get(node.func.id)
                if inspect.isfunction(called) and called.__module__.startswith("controls."):
                    queue.append(called)
    return sorted(found)


_FILLING = frozenset({"add", "add_policy", "add_tap", "append", "extend", "insert", "setdefault", "update"})


def _filled(node: ast.AST) -> Iterator[str]:
    """Attributes that a statement or call fills, as the last two names of the way to them."""
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = [
            t for target in node.targets for t in (target.elts if isinstance(target, ast.Tuple) else [target])
        ]
    elif isinstance(node, ast.AnnAssign | ast.AugAssign):
        targets = [node.target]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _FILLING:
        targets = [node.func if node.func.attr.startswith("add_") else node.func.value]
    for target in targets:
        while isinstance(target, ast.Subscript):
            target = target.value
        if isinstance(target, ast.Attribute):
            owner = target.value
            while isinstance(owner, ast.Subscript | ast.Call):
                owner = owner.value if isinstance(owner, ast.Subscript) else owner.func
            before = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            if before == "seams" and isinstance(owner, ast.Attribute):
                inner = owner.value
                before = f"{getattr(inner, 'id', getattr(inner, 'attr', ''))}.seams"
            yield f"{before}.{target.attr}"


def attacks_met(name: str) -> tuple[str, list[str]] | None:
    """The scenario of a requirement's trial and its techniques; None without a trial."""
    trial = trials().get(name)
    if trial is None:
        return None
    steps = load_scenario(trial.scenario).steps
    return trial.scenario, list(dict.fromkeys(step.technique for step in steps if step.technique))


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
    lines.append(f"  seams: {', '.join(seams_of(name)) or 'none'}")
    trial, met = trials().get(name), attacks_met(name)
    if trial is None or met is None:
        lines.append("  trial: none")
    else:
        title = load_scenario(trial.scenario).title
        lines += [
            f"  trial: {trial.scenario} ({title}; {', '.join(met[1]) or 'no attacker'})",
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
