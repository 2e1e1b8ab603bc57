"""Detection rules in Sigma, as the field writes and shares them, applied to events one after another.

pySigma reads and checks the rules; it has no evaluator of its own. Here a rule's condition becomes a function of one
event, and a correlation (event_count, value_count, temporal, temporal_ordered) a small memory of events in its time
span. What a rule asks for and this cannot do is an error that names the rule, never ignored.

An event is flat: ``event.action`` (the kind), ``host.name`` (the source), and its data by name, of which ``peer`` also
answers to ``source.ip`` and ``user`` to ``user.name``. The first of a rule's ``fields`` is whom an alert is about; one
with ``otlab: {title_from: FIELD}`` takes its name from the event, as for what a monitor found.
"""

from __future__ import annotations

import ipaddress
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from testbed.errors import OtlabError

Event = Mapping[str, str]
Predicate = Callable[[Event], bool]

#: Names by which rules may ask for what the events carry under another.
ALIASES = {"source.ip": "peer", "user.name": "user"}
_LEVELS = {"INFORMATIONAL": 1, "LOW": 1, "MEDIUM": 2, "HIGH": 3, "CRITICAL": 4}
_TECHNIQUE = re.compile(r"t\d{4}")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule that raises alerts.

    ``matches`` are conditions of the events that it is about; with one and no ``correlation``, each such event is an
    alert. ``severity`` 1 low to 4 critical.
    """

    title: str
    severity: int
    subject: str
    matches: tuple[Predicate, ...]
    correlation: Correlation | None = None
    title_from: str | None = None
    techniques: tuple[str, ...] = ()
    tactics: tuple[str, ...] = ()
    #: kinds of event that it can be about, None if its conditions do not say
    kinds: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Correlation:
    """What several events have to be to each other: ``kind`` of pySigma, ``span`` s, groups by these fields."""

    kind: str
    span: float
    group_by: tuple[str, ...]
    #: compares a count with what the rule asks for
    enough: Callable[[int], bool]
    #: distinct values of this field are counted, for value_count
    counted: str | None = None
    #: field of an alias for each of the rules' matches, in their order
    aliases: tuple[Mapping[str, str], ...] = ()
    #: events at most that a count needs to look back at, None without a bound
    most: int | None = None


@dataclass(slots=True)
class Engine:
    """The rules of one collector and what they remember."""

    rules: tuple[Rule, ...]
    _seen: dict[tuple[int, tuple[str, ...]], deque[tuple[float, str]]] = field(default_factory=dict)
    _stages: dict[tuple[int, tuple[str, ...]], list[float | None]] = field(default_factory=dict)

    def take(self, event: Event, now: float) -> list[tuple[Rule, str]]:
        """The rules that ``event`` at ``now`` (s) makes true, each with whom it is about."""
        kind = event.get("event.action", "")
        found = []
        for number, rule in enumerate(self.rules):
            if rule.kinds is not None and kind not in rule.kinds:
                continue
            hits = [at for at, fits in enumerate(rule.matches) if fits(event)]
            if not hits:
                continue
            if rule.correlation is None:
                found.append((rule, value_of(event, rule.subject)))
            else:
                subject = self._correlated(number, rule, rule.correlation, hits, event, now)
                if subject is not None:
                    found.append((rule, subject))
        return found

    def _correlated(
        self, number: int, rule: Rule, asked: Correlation, hits: list[int], event: Event, now: float
    ) -> str | None:
        for at in hits:
            names = asked.aliases[at] if asked.aliases else {}
            group = tuple(value_of(event, names.get(name, name)) for name in asked.group_by)
            if asked.kind in ("TEMPORAL", "TEMPORAL_ORDERED"):
                if self._sequence(number, rule, asked, at, group, now):
                    return group[0] if group else value_of(event, rule.subject)
                continue
            times = self._seen.setdefault((number, group), deque(maxlen=asked.most))
            times.append((now, value_of(event, asked.counted) if asked.counted is not None else ""))
            while now - times[0][0] > asked.span:
                times.popleft()
            count = len({value for _, value in times}) if asked.counted is not None else len(times)
            if asked.enough(count):
                return value_of(event, rule.subject)
        return None

    def _sequence(
        self, number: int, rule: Rule, asked: Correlation, at: int, group: tuple[str, ...], now: float
    ) -> bool:
        """Whether each of the rules has an event within the span, in their order if that is asked."""
        stages = self._stages.setdefault((number, group), [None] * len(rule.matches))
        if asked.kind == "TEMPORAL_ORDERED":
            # stages[n]: when the latest chain of the first n + 1 rules began
            before = now if at == 0 else stages[at - 1]
            if before is None or now - before > asked.span:
                return False
            stages[at] = before
            whole = at == len(stages) - 1
        else:
            stages[at] = now
            whole = all(one is not None and now - one <= asked.span for one in stages)
        if whole:
            self._stages[(number, group)] = [None] * len(rule.matches)
        return whole


def value_of(event: Event, name: str) -> str:
    """The event's value of a field, empty where it has none."""
    found = event.get(name)
    return found if found is not None else event.get(ALIASES.get(name, name), "")


def flatten(kind: str, source: str, severity: int, data: Mapping[str, str]) -> dict[str, str]:
    """An event as rules read it."""
    return {**data, "event.action": kind, "host.name": source, "event.severity": str(severity)}


@cache
def shipped() -> tuple[Rule, ...]:
    """The rules that come with the testbed."""
    folder = Path(str(files("devices"))) / "data" / "sigma"
    return load(sorted(folder.glob("*.yml")))


def load(paths: Iterable[Path]) -> tuple[Rule, ...]:
    """Read rule files. Raises OtlabError that names file and rule for what is wrong with it or not supported."""
    return parse([(str(path), _text(path)) for path in paths])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OtlabError(f"{path}: cannot be read: {error}") from None


def parse(documents: Sequence[tuple[str, str]]) -> tuple[Rule, ...]:
    """Rules of (file name, text); a correlation may refer to a rule in another of them."""
    # Imported here: reading rules is for worlds with a SIEM, and the import takes its time.
    from sigma.collection import SigmaCollection
    from sigma.exceptions import SigmaError

    parts = []
    for name, text in documents:
        try:
            parts.append(SigmaCollection.from_yaml(text))
        except (SigmaError, ValueError, TypeError, AttributeError) as error:
            raise OtlabError(f"{name}: not a Sigma rule: {error}") from None
        except Exception as error:  # PyYAML's own errors have no common root with ValueError
            if type(error).__module__.startswith("yaml"):
                raise OtlabError(f"{name}: not YAML: {' '.join(str(error).split())}") from None
            raise
        for rule in parts[-1].rules:
            if rule.errors:
                raise OtlabError(f"{name}: rule {rule.title!r}: {rule.errors[0]}")
    try:
        together = SigmaCollection.merge(parts)
        together.resolve_rule_references()
    except SigmaError as error:
        raise OtlabError(f"{', '.join(name for name, _ in documents)}: {error}") from None
    where = {id(rule): name for (name, _), part in zip(documents, parts, strict=True) for rule in part.rules}
    return tuple(
        _rule(rule, where.get(id(rule), documents[0][0]))
        for rule in together.rules
        if getattr(rule, "_output", True)
    )


def _rule(rule: Any, name: str) -> Rule:
    from sigma.correlations import SigmaCorrelationRule
    from sigma.exceptions import SigmaError

    def wrong(what: str) -> OtlabError:
        return OtlabError(f"{name}: rule {rule.title!r}: {what}")

    if rule.level is None:
        raise wrong("has no level")
    custom = rule.custom_attributes.get("otlab") or {}
    tags = [str(tag) for tag in rule.tags]
    correlated = isinstance(rule, SigmaCorrelationRule)
    members: list[Any] = [one.rule for one in rule.rules or ()] if correlated else [rule]
    if any(isinstance(one, SigmaCorrelationRule) for one in members):
        raise wrong("a correlation of correlations is not supported")
    matches, kinds = [], set()
    every = True
    for one in members:
        if len(one.detection.parsed_condition) != 1:
            raise wrong("several conditions in one rule are not supported")
        try:
            tree = one.detection.parsed_condition[0].parsed
        except SigmaError as error:
            raise wrong(str(error)) from None
        matches.append(_predicate(tree, wrong))
        named = _kinds(tree)
        every = every and named is not None
        kinds |= named or set()
    fields = list(rule.fields)
    correlation = _correlation(rule, members, wrong) if correlated else None
    if not fields and correlation is not None and correlation.group_by:
        fields = [correlation.group_by[-1]]
    if not fields:
        raise wrong("has no fields: the first says whom an alert is about")
    return Rule(
        rule.title,
        _LEVELS[rule.level.name],
        fields[0],
        tuple(matches),
        correlation,
        custom.get("title_from"),
        tuple(tag.partition(".")[2].upper() for tag in tags if _TECHNIQUE.fullmatch(tag.partition(".")[2])),
        tuple(
            tag.partition(".")[2]
            for tag in tags
            if tag.startswith("attack.") and not _TECHNIQUE.fullmatch(tag.partition(".")[2])
        ),
        frozenset(kinds) if every else None,
    )


# -- correlations ------------------------------------------------------------------------------------------------


def _correlation(rule: Any, members: list[Any], wrong: Callable[[str], OtlabError]) -> Correlation:
    kind = rule.type.name
    if kind not in ("EVENT_COUNT", "VALUE_COUNT", "TEMPORAL", "TEMPORAL_ORDERED"):
        raise wrong(f"correlation {kind.lower()} is not supported")
    aliases = []
    for member in members:
        names = {}
        for alias in rule.aliases.aliases.values():
            for reference, field_name in alias.mapping.items():
                if reference.rule is member:
                    names[alias.alias] = field_name
        aliases.append(names)
    condition, counted, most = getattr(rule.condition, "op", None), None, None
    if kind in ("EVENT_COUNT", "VALUE_COUNT"):
        if condition is None:
            raise wrong("only a simple condition is supported")
        enough = _comparison(condition.name, int(rule.condition.count), wrong)
        reference = rule.condition.fieldref
        counted = (
            (reference[0] if isinstance(reference, list) else reference) if kind == "VALUE_COUNT" else None
        )
        if kind == "EVENT_COUNT" and condition.name == "GTE":
            most = int(rule.condition.count)
    else:
        enough = bool
    return Correlation(
        kind,
        float(rule.timespan.seconds),
        tuple(rule.group_by or ()),
        enough,
        counted,
        tuple(aliases),
        most,
    )


def _comparison(name: str, count: int, wrong: Callable[[str], OtlabError]) -> Callable[[int], bool]:
    found: dict[str, Callable[[int], bool]] = {
        "GTE": lambda value: value >= count,
        "GT": lambda value: value > count,
        "EQ": lambda value: value == count,
        "LT": lambda value: value < count,
        "LTE": lambda value: value <= count,
        "NEQ": lambda value: value != count,
    }
    if name not in found:
        raise wrong(f"comparison {name.lower()} is not supported")
    return found[name]


# -- conditions --------------------------------------------------------------------------------------------------


def _kinds(tree: Any) -> set[str] | None:
    """Values of ``event.action`` that the condition needs one of; None if it can hold for others too."""
    from sigma.conditions import ConditionAND, ConditionFieldEqualsValueExpression, ConditionOR
    from sigma.types import SigmaString

    if isinstance(tree, ConditionAND):
        return next((found for arg in tree.args if (found := _kinds(arg)) is not None), None)
    if isinstance(tree, ConditionOR):
        parts = [_kinds(arg) for arg in tree.args]
        return None if any(one is None for one in parts) else set().union(*(one or set() for one in parts))
    if isinstance(tree, ConditionFieldEqualsValueExpression) and tree.field == "event.action":
        value = tree.value
        if isinstance(value, SigmaString) and not value.contains_special():
            return {str(value)}
    return None


def _predicate(tree: Any, wrong: Callable[[str], OtlabError]) -> Predicate:
    from sigma.conditions import (
        ConditionAND,
        ConditionFieldEqualsValueExpression,
        ConditionNOT,
        ConditionOR,
        ConditionValueExpression,
    )

    match tree:
        case ConditionAND():
            parts = [_predicate(arg, wrong) for arg in tree.args]
            return lambda event: all(part(event) for part in parts)
        case ConditionOR():
            parts = [_predicate(arg, wrong) for arg in tree.args]
            return lambda event: any(part(event) for part in parts)
        case ConditionNOT():
            inner = _predicate(tree.args[0], wrong)
            return lambda event: not inner(event)
        case ConditionFieldEqualsValueExpression():
            return _comparison_of(tree.field, tree.value, wrong)
        case ConditionValueExpression():
            fits = _text_test(tree.value, wrong)
            return lambda event: any(fits(value) for value in event.values())
    raise wrong(f"a condition of kind {type(tree).__name__} is not supported")


def _comparison_of(name: str, value: Any, wrong: Callable[[str], OtlabError]) -> Predicate:
    from sigma.types import (
        SigmaBool,
        SigmaCIDRExpression,
        SigmaCompareExpression,
        SigmaExists,
        SigmaFieldReference,
        SigmaNull,
        SigmaNumber,
    )

    match value:
        case SigmaNull():
            return lambda event: not value_of(event, name)
        case SigmaExists():
            wanted = bool(value.exists)
            return lambda event: bool(value_of(event, name)) == wanted
        case SigmaBool():
            text = str(bool(value.boolean))
            return lambda event: value_of(event, name) == text
        case SigmaNumber():
            number = float(value.number)
            return lambda event: _number(value_of(event, name)) == number
        case SigmaCompareExpression():
            limit, compare = float(value.number.number), value.op.name
            if compare not in ("GT", "GTE", "LT", "LTE"):
                raise wrong(f"comparison {compare.lower()} is not supported")
            return lambda event: _compared(_number(value_of(event, name)), compare, limit)
        case SigmaCIDRExpression():
            network = value.network
            return lambda event: _inside(value_of(event, name), network)
        case SigmaFieldReference():
            if value.starts_with or value.ends_with:
                raise wrong("part of another field is not supported")
            other = value.field
            return lambda event: value_of(event, name) == value_of(event, other) != ""
    fits = _text_test(value, wrong)
    return lambda event: fits(value_of(event, name))


def _text_test(value: Any, wrong: Callable[[str], OtlabError]) -> Callable[[str], bool]:
    """A test of text against a string with wildcards, or a regular expression."""
    from sigma.types import SigmaCasedString, SigmaRegularExpression, SigmaString, SpecialChars

    match value:
        case SigmaRegularExpression():
            flags = 0
            for flag in value.flags:
                flags |= {"IGNORECASE": re.I, "MULTILINE": re.M, "DOTALL": re.S}[flag.name]
            searched = re.compile(str(value.regexp), flags)
            return lambda text: searched.search(text) is not None
        case SigmaString():
            wild: dict[Any, str] = {SpecialChars.WILDCARD_MULTI: ".*", SpecialChars.WILDCARD_SINGLE: "."}
            pattern = "".join(
                re.escape(part) if isinstance(part, str) else wild.get(part, "") for part in value.s
            )
            # Sigma compares without regard to case unless told otherwise.
            cased = isinstance(value, SigmaCasedString)
            whole = re.compile(pattern, re.S if cased else re.S | re.I)
            return lambda text: whole.fullmatch(text) is not None
    raise wrong(f"a value of kind {type(value).__name__} is not supported")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _compared(value: float | None, compare: str, limit: float) -> bool:
    if value is None:
        return False
    return {"GT": value > limit, "GTE": value >= limit, "LT": value < limit, "LTE": value <= limit}[compare]


def _inside(text: str, network: Any) -> bool:
    try:
        return ipaddress.ip_address(text) in network
    except ValueError:
        return False
