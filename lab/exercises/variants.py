"""A shipped site with a student's zones and conduits in place of its own, written where a run can read it."""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from ruamel.yaml import YAML

from scenarios.experiment import site_of
from testbed.document import Document, Route
from testbed.errors import DocumentError, OtlabError
from testbed.site import Flow, Name, Site, Text


class ConduitRules(Document):
    """What a student writes of conduits: the flows of each that is named; the others keep theirs."""

    conduits: Annotated[dict[Name, tuple[Flow, ...]], Field(min_length=1)]


class StudentZone(Document):
    """A zone of the student's: what stands in it, how safe it has to be (SL-T in every FR), whether it is trusted."""

    title: Text
    assets: Annotated[tuple[Name, ...], Field(min_length=1)]
    sl_t: Annotated[int, Field(ge=0, le=4)]
    trusted: bool = True
    safety: bool = False


class Zoning(Document):
    """Zones, and the pairs of zones that a conduit joins. Flows are those that the site documents."""

    zones: Annotated[dict[Name, StudentZone], Field(min_length=2, max_length=12)]
    conduits: tuple[tuple[Name, Name], ...]

    def problems(self) -> Iterator[tuple[Route, str]]:
        placed: set[str] = set()
        for name, zone in self.zones.items():
            for number, asset in enumerate(zone.assets):
                if asset in placed:
                    yield ("zones", name, "assets", number), f"{asset} stands in two zones"
                placed.add(asset)
        pairs: set[frozenset[str]] = set()
        for number, pair in enumerate(self.conduits):
            for end, zone_name in enumerate(pair):
                if zone_name not in self.zones:
                    yield ("conduits", number, end), f"there is no zone {zone_name!r}"
            if len(set(pair)) == 1 or frozenset(pair) in pairs:
                yield ("conduits", number), "a conduit joins two zones, and each pair once"
            pairs.add(frozenset(pair))


def with_rules(base: str, rules: ConduitRules, folder: Path) -> Site:
    """Write site ``base`` with the student's flows into ``folder``. OtlabError for what cannot be."""
    tree = _tree(base)
    for name, flows in rules.conduits.items():
        if name not in tree["conduits"]:
            raise OtlabError(f"there is no conduit {name!r}; there are {', '.join(tree['conduits'])}")
        tree["conduits"][name]["flows"] = [flow.model_dump(exclude_none=True) for flow in flows]
    return _written(base, tree, folder)


def with_zones(base: str, zoning: Zoning, folder: Path) -> Site:
    """Write site ``base`` in the student's zones into ``folder``. OtlabError for what cannot be."""
    tree = _tree(base)
    assets: dict[str, Any] = tree["assets"]
    zone_of = {asset: name for name, zone in zoning.zones.items() for asset in zone.assets}
    for name in zone_of:
        if name not in assets:
            raise OtlabError(f"the site has no asset {name!r}")
    if left := [name for name in assets if name not in zone_of]:
        raise OtlabError(f"in no zone: {', '.join(left)}")
    needed = _flows(tree)
    tree["zones"] = {
        name: {
            "title": zone.title,
            "level": 2,
            "network": f"10.0.{100 + number}.0/24",
            "latency": 0.0002,
            "bandwidth": 1.0e8,
            "trusted": zone.trusted,
            "safety": zone.safety,
            "sl_t": zone.sl_t,
        }
        for number, (name, zone) in enumerate(zoning.zones.items())
    }
    for number, name in enumerate(zoning.zones):
        for place, asset in enumerate(zoning.zones[name].assets):
            assets[asset]["zone"] = name
            assets[asset]["address"] = f"10.0.{100 + number}.{10 + place}"
    names = {frozenset(pair): f"{pair[0]}_{pair[1]}" for pair in zoning.conduits}
    tree["conduits"] = {
        names[frozenset(pair)]: {
            "between": list(pair),
            "latency": 0.0001,
            "bandwidth": 1.0e8,
            "purpose": "drawn by the student",
            "flows": [],
        }
        for pair in zoning.conduits
    }
    for flow in needed:
        way = _way(names, zone_of[flow["source"]], zone_of[flow["target"]])
        for name in way:
            tree["conduits"][name]["flows"].append(flow)
    _settle(tree, zone_of, names)
    return _written(base, tree, folder)


def _flows(tree: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The documented flows, each once though it may be listed in several conduits."""
    found: dict[str, dict[str, Any]] = {}
    for conduit in tree["conduits"].values():
        for flow in conduit.get("flows", ()):
            found.setdefault(json.dumps(flow, sort_keys=True), flow)
    return list(found.values())


def _way(names: Mapping[frozenset[str], str], start: str, end: str) -> list[str]:
    """Names of the conduits on the shortest way from one zone to another; none where there is no way."""
    come: dict[str, list[str]] = {start: []}
    waiting = deque([start])
    while waiting:
        zone = waiting.popleft()
        if zone == end:
            return come[zone]
        for pair, name in names.items():
            if zone in pair:
                (other,) = pair - {zone}
                if other not in come:
                    come[other] = [*come[zone], name]
                    waiting.append(other)
    return []


def _settle(tree: dict[str, Any], zone_of: Mapping[str, str], names: Mapping[frozenset[str], str]) -> None:
    """What refers to zones and conduits refers to the new ones."""
    control = [name for name, asset in tree["assets"].items() if asset["kind"] == "plc"]
    zones = list(dict.fromkeys(zone_of[name] for name in control))
    joined = [name for pair, name in names.items() if pair & set(zones)]
    for asset in tree["assets"].values():
        if asset["kind"] == "monitor":
            asset["taps"] = [*zones, *joined]
        if asset["kind"] == "ups":
            asset["feeds"] = [one for one in asset["feeds"] if one in tree["assets"]] + joined
    for switch in tree.get("switches", {}).values():
        switch["zones"] = list(tree["zones"])


def _tree(base: str) -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe", pure=True).load((_folder(base) / "site.yaml").read_text("utf-8"))
    found["epoch"] = found["epoch"].isoformat().replace("+00:00", "Z")
    if not found["epoch"].endswith("Z"):
        found["epoch"] += "Z"
    return found


def _folder(base: str) -> Path:
    return Path(str(files("testbed"))) / "sites" / base


def _written(base: str, tree: Mapping[str, Any], folder: Path) -> Site:
    shutil.copytree(_folder(base), folder, dirs_exist_ok=True)
    (folder / "site.yaml").write_text(json.dumps(tree, indent=1), encoding="utf-8")
    try:
        return site_of(str(folder))
    except DocumentError as error:
        # The lines are those of a file that the student has never seen; the keys are what helps.
        told = "; ".join(f"{one.key}: {one.message}" for one in error.problems[:5])
        raise OtlabError(f"the site cannot be built so: {told}") from None
