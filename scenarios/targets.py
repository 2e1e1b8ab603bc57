"""Targets by role: what a scenario aims at, said in a way that fits any site that has such a thing.

A scenario's ``targets`` names things by what they do ("the controller with a setpoint in mm", "the station that gives
control"), and its steps write ``$name`` for what was found. Filling in happens before the steps are checked, so that
they see plain names of the site:

    targets:
      controller: {kind: plc, has: {use: setpoint, unit: mm}}
      limit: {of: controller, use: setpoint, unit: mm}
    steps:
      - {action: modbus_write, technique: T0836, plc: $controller, values: {$limit: $limit.high}}

``$name`` is the asset, tag, zone, conduit, switch or person; ``$tag.low``, ``$tag.high`` and ``$tag.initial`` are
numbers of a tag, ``$asset.zone`` and ``$asset.address`` (of a mail server, ``.domain``) are texts; ``${name}`` stands
inside a longer text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from testbed import site as sites
from testbed.document import Document, Route
from testbed.site import Name, Site, Use

Pick = Literal["first", "last", "all"] | Annotated[int, Field(ge=1)]

_REFERENCE = re.compile(
    r"\$(?:\{(?P<braced>[a-z][a-z0-9_-]*(?:\.[a-z]+)?)\}|(?P<bare>[a-z][a-z0-9_-]*(?:\.[a-z]+)?))"
)


class TagKind(Document):
    """Tags of a controller by what they are for (``use``), their unit, and a pattern of their names."""

    use: Use | None = None
    unit: str | None = None
    like: str | None = None

    def fits(self, controller: sites.Controller, name: str) -> bool:
        tag = controller.tags[name]
        return (
            (self.use is None or use_of(controller, name) == self.use)
            and (self.unit is None or tag.unit == self.unit)
            and (self.like is None or fnmatchcase(name, self.like))
        )


class Target(TagKind):
    """One thing of a site.

    An asset by ``kind``, ``role``, ``zone`` (of a name or of another target), what it ``has`` (a tag), what it
    ``programs`` or ``polls`` (another target), or the essential ``function`` that it carries; a tag ``of`` another
    target; the ``zone_of`` one; the zone of a Purdue ``level``; the conduit ``between`` two; the person of ``role``
    ``at`` a station or jump host (``former``: who has left); the switch that is ``under`` a zone. ``pick`` says which
    of several: in the file's order.
    """

    kind: str | None = None
    role: str | None = None
    zone: str | None = None
    function: Literal["view", "control", "control plc", "safety"] | None = None
    has: TagKind | None = None
    programs: Name | None = None
    polls: Name | None = None
    of: Name | None = None
    zone_of: Name | None = None
    level: Annotated[float, Field(ge=0, le=5)] | None = None
    trusted: bool | None = None
    between: tuple[Name, Name] | None = None
    at: Name | None = None
    former: bool = False
    under: Name | None = None
    pick: Pick = "first"

    @model_validator(mode="after")
    def _one_sort(self) -> Target:
        ways = [
            name
            for name, said in (
                ("of", self.of),
                ("zone_of", self.zone_of),
                ("level", self.level),
                ("between", self.between),
                ("at", self.at),
                ("under", self.under),
            )
            if said is not None
        ]
        assets = (self.kind, self.function, self.has, self.programs, self.polls)
        if not ways and self.role is None and all(said is None for said in assets):
            raise ValueError("say what it is: a kind, a role, a function, what it has, or where it is")
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} find different things: give one of them")
        return self


@dataclass(frozen=True, slots=True)
class Found:
    """What a target is on one site: names (several only for ``pick: all``), and what more can be asked of each."""

    names: tuple[str, ...]
    several: bool
    more: Mapping[str, Any]
    #: the asset that tags and people are of
    owner: str | None = None


def use_of(controller: sites.Controller, name: str) -> Use:
    """What a tag is for; ``NAME_AUTO`` and ``NAME_CMD`` beside an actuator NAME are its mode and command by hand."""
    tag = controller.tags[name]
    if tag.use is not None:
        return tag.use
    stem, _, ending = name.rpartition("_")
    if ending in ("AUTO", "CMD") and tag.writable and stem in controller.tags:
        return "automatic" if ending == "AUTO" else "by hand"
    if tag.command is not None:
        return "actuator"
    if tag.signal is not None:
        return "state" if tag.format == "bool" else "measurement"
    if tag.writable and tag.range is not None:
        return "setpoint"
    return "other"


class Binding:
    """The targets of one scenario on one site. ``problems`` are what the site lacks, by route in the file."""

    def __init__(self, site: Site, targets: Any) -> None:
        self.site = site
        self.problems: list[tuple[Route, str]] = []
        self.found: dict[str, Found] = {}
        self._given = set(targets) if isinstance(targets, dict) else set()
        if not isinstance(targets, dict):
            return
        for name, raw in targets.items():
            try:
                target = _TARGET.validate_python(raw)
            except ValidationError:
                continue  # the scenario's own check tells it, in its place
            try:
                self.found[name] = self._find(target)
            except _Lacking as lack:
                self.problems.append((("targets", name), f"site {site.name!r} has no such thing: {lack}"))

    def fill(self, value: Any, route: Route = ()) -> Any:
        """``value`` with every reference replaced; one that stands alone may become a number or a list."""
        if isinstance(value, dict):
            return {
                self._key(key, (*route, key)): self.fill(inner, (*route, key)) for key, inner in value.items()
            }
        if isinstance(value, list):
            filled: list[Any] = []
            for number, inner in enumerate(value):
                new = self.fill(inner, (*route, number))
                # "[$controllers]" is a list of all of them
                filled.extend(new) if isinstance(inner, str) and isinstance(new, list) else filled.append(new)
            return filled
        if not isinstance(value, str) or "$" not in value:
            return value
        whole = _REFERENCE.fullmatch(value)
        if whole is not None:
            found = self._value(whole["braced"] or whole["bare"], route)
            # In braces it is text, whatever it is.
            return f"{found:g}" if whole["braced"] and isinstance(found, float) else found
        return _REFERENCE.sub(lambda one: str(self._value(one["braced"] or one["bare"], route)), value)

    def _key(self, key: str, route: Route) -> str:
        return str(self.fill(key, route)) if key.startswith("$") else key

    def _value(self, reference: str, route: Route) -> Any:
        name, _, part = reference.partition(".")
        if name not in self.found:
            if name not in self._given:
                self.problems.append((route, f"no target {name!r} is given"))
            return name
        found = self.found[name]
        if not part:
            return list(found.names) if found.several else found.names[0]
        if part not in found.more:
            told = ", ".join(found.more) or "nothing more"
            self.problems.append((route, f"of {name!r} one can ask {told}, not {part!r}"))
            return name
        return found.more[part]

    # -- finding -----------------------------------------------------------------------------------------------

    def _find(self, target: Target) -> Found:
        if target.of is not None:
            return self._tags(target, self._named(target.of))
        if target.at is not None:
            return self._people(target, self._named(target.at))
        if target.zone_of is not None:
            zone = self.site.assets[self._named(target.zone_of)].zone
            return self._zones([zone], target)
        if target.level is not None:
            zones = [
                name
                for name, zone in self.site.zones.items()
                if zone.level == target.level and (target.trusted is None or zone.trusted == target.trusted)
            ]
            return self._zones(zones, target)
        if target.between is not None:
            ends = {self._zone(end) for end in target.between}
            return _picked(
                [name for name, one in self.site.conduits.items() if set(one.between) == ends],
                target.pick,
                f"a conduit between {' and '.join(sorted(ends))}",
            )
        if target.under is not None:
            zone = self._zone(target.under)
            fitting = [name for name, one in self.site.switches.items() if zone in one.zones]
            return _picked(fitting, target.pick, f"a switch under zone {zone!r}")
        return self._assets(target)

    def _named(self, name: str) -> str:
        """The asset that another target found, or that is named itself."""
        if name in self.found:
            return self.found[name].names[0]
        if name in self.site.assets:
            return name
        raise _Lacking(f"neither a target above nor an asset {name!r}")

    def _zone(self, name: str) -> str:
        if name in self.site.zones:
            return name
        if name in self.found and self.found[name].names[0] in self.site.zones:
            return self.found[name].names[0]
        return self.site.assets[self._named(name)].zone

    def _assets(self, target: Target) -> Found:
        functions = self.site.essential_functions
        carriers = {
            "view": functions.view.asset,
            "control": functions.control.asset,
            "control plc": functions.control.plc,
            "safety": functions.safety.asset,
        }
        wanted: list[tuple[str, Callable[[str, Any], bool]]] = []
        if target.function is not None:
            carrier = carriers[target.function]
            wanted.append((f"carries {target.function}", lambda name, _: name == carrier))
        if target.kind is not None:
            kind = target.kind
            wanted.append((f"of kind {kind!r}", lambda _, asset: asset.kind == kind))
        if target.role is not None:
            role = target.role
            wanted.append((f"with role {role!r}", lambda _, asset: role in asset.roles))
        if target.zone is not None:
            zone = self._zone(target.zone.removeprefix("$"))
            wanted.append((f"in zone {zone!r}", lambda _, asset: asset.zone == zone))
        if target.has is not None:
            has = target.has
            wanted.append(
                (
                    f"with a tag of {_said(has)}",
                    lambda _, asset: (
                        isinstance(asset, sites.Controller)
                        and any(has.fits(asset, tag) for tag in asset.tags)
                    ),
                )
            )
        for relation, other in (("programs", target.programs), ("polls", target.polls)):
            if other is not None:
                named = self._named(other)
                wanted.append(
                    (
                        f"that {relation} {named!r}",
                        lambda _, asset, relation=relation, named=named: (
                            named in getattr(asset, relation, ())
                        ),  # type: ignore[misc]
                    )
                )
        names = [
            name for name, asset in self.site.assets.items() if all(fits(name, asset) for _, fits in wanted)
        ]
        found = _picked(names, target.pick, "an asset " + ", ".join(text for text, _ in wanted))
        asset = self.site.assets[found.names[0]]
        more = {"zone": asset.zone, "address": str(asset.address)}
        if isinstance(asset, sites.MailServer):
            more["domain"] = asset.domain
        return Found(found.names, found.several, more)

    def _tags(self, target: Target, asset: str) -> Found:
        controller = self.site.controllers().get(asset)
        if controller is None:
            raise _Lacking(f"{asset} is no controller and has no tags")
        names = [name for name in controller.tags if target.fits(controller, name)]
        found = _picked(names, target.pick, f"a tag of {asset} of {_said(target)}")
        tag = controller.tags[found.names[0]]
        more: dict[str, Any] = {"initial": tag.initial}
        if tag.range is not None:
            more |= {"low": tag.range[0], "high": tag.range[1]}
        return Found(found.names, found.several, more, asset)

    def _people(self, target: Target, station: str) -> Found:
        asset = self.site.assets[station]
        people: Iterable[sites.Operator | sites.FormerPerson] = ()
        if isinstance(asset, sites.Hmi):
            people = asset.former if target.former else asset.operators
        names = [one.name for one in people if target.role is None or one.role == target.role]
        if isinstance(asset, sites.JumpHost):
            names = list(asset.users)
        return _picked(names, target.pick, f"a person of role {target.role!r} at {station}")

    def _zones(self, names: list[str], target: Target) -> Found:
        return _picked(names, target.pick, f"a zone of level {target.level}")


class _Lacking(Exception):
    """What the site does not have."""


def _said(kind: TagKind) -> str:
    said = [f"use {kind.use!r}" if kind.use else "", f"unit {kind.unit!r}" if kind.unit else ""]
    said.append(f"a name like {kind.like!r}" if kind.like else "")
    return ", ".join(one for one in said if one) or "any kind"


def _picked(names: list[str], pick: Pick, what: str) -> Found:
    if not names or (isinstance(pick, int) and pick > len(names)):
        raise _Lacking(what if not isinstance(pick, int) or pick == 1 else f"number {pick} of {what}")
    if pick == "all":
        return Found(tuple(names), True, {})
    one = names[0] if pick == "first" else names[-1] if pick == "last" else names[pick - 1]
    return Found((one,), False, {})


def references(value: Any) -> Iterator[str]:
    """Names of the targets that ``value`` refers to, in their order."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from references(key)
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)
    elif isinstance(value, str):
        for one in _REFERENCE.finditer(value):
            yield (one["braced"] or one["bare"]).partition(".")[0]


def filler(site: Site) -> Callable[[Any], tuple[Any, list[tuple[Route, str]]]]:
    """Fills a scenario's file in for ``site``; an unused target is a mistake too."""

    def fill(root: Any) -> tuple[Any, list[tuple[Route, str]]]:
        if not isinstance(root, dict) or "targets" not in root:
            return root, []
        binding = Binding(site, root["targets"])
        rest = {key: value for key, value in root.items() if key != "targets"}
        filled = binding.fill(rest)
        used = set(references(rest))
        for raw in root["targets"].values() if isinstance(root["targets"], dict) else ():
            if isinstance(raw, dict):
                used |= {
                    str(raw.get(key)).removeprefix("$") for key in ("of", "at", "zone_of", "zone", "under")
                }
                used |= {str(raw.get(key)) for key in ("programs", "polls")}
                used |= {str(end) for end in raw.get("between") or ()}
        problems = list(binding.problems)
        if isinstance(root["targets"], dict):
            problems += [
                (("targets", name), "nothing refers to this target")
                for name in root["targets"]
                if name not in used
            ]
        return {**filled, "targets": root["targets"]}, problems

    return fill


_TARGET: TypeAdapter[Target] = TypeAdapter(Target)
