"""A site of one's own from a shipped one: renamed, renumbered, and without what the plant does not have.

What is left out takes with it what cannot be without it: a zone its assets, an asset its flows, a historian its server.
Controllers, operator station and safety system stay: they are what the essential functions need.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedBase

from results.store import save_bytes, save_text
from testbed.errors import OtlabError, UnknownNameError
from testbed.site import Site, load_site

KEPT = ("plc", "safety_plc", "hmi")
#: kind -> the field that names an asset without which it has no use
STANDS_ON = {"historian": "server", "backup_server": "station"}
#: fields of assets that hold names of other assets, zones or conduits, to be thinned out
NAMES = (
    "polls",
    "exposes",
    "writable",
    "programs",
    "taps",
    "feeds",
    "targets",
    "serves",
    "mailboxes",
    "reads",
)


def new_site(
    name: str,
    folder: Path,
    like: str = "water",
    *,
    title: str | None = None,
    network: str | None = None,
    level: int | None = None,
    without: Collection[str] = (),
) -> list[str]:
    """Write a site's folder and return what was left out besides ``without``.

    ``network`` is a /16 in which zones keep their third number; ``level`` is SL-T of every zone. Raises OtlabError
    where the folder has a site or something cannot be left out, UnknownNameError for a name that ``like`` lacks.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
        raise OtlabError(f"{name!r}: a site's name is small letters, digits, - and _, a letter first")
    if (folder / "site.yaml").exists():
        raise OtlabError(f"{folder} holds a site already")
    model = load_site(like)
    tree = _read(model.folder / "site.yaml")
    gone, taken = _leave_out(tree, model, without)
    tree["name"], tree["title"] = name, title or f"{model.title} ({name})"
    if network is not None:
        _renumber(tree, network)
    if level is not None:
        for zone in tree["zones"].values():
            zone["sl_t"] = level
    head = (
        f"# Made from the shipped site {model.name!r}. Its people, products, flows and target levels are examples:\n"
        "# replace them by yours. Keys: docs/how-to/describe-a-site.md\n\n"
    )
    for path in sorted(model.folder.iterdir()):
        if path.name != "site.yaml" and path.suffix in (".st", ".yaml", ".json"):
            save_bytes(folder / path.name, path.read_bytes())
    save_text(folder / "site.yaml", head + _written(tree))
    return [one for one in gone if one not in taken]


def _read(path: Path) -> Any:
    """The file as it is laid out, without its comments: they speak of the shipped site."""
    tree = YAML().load(path.read_text("utf-8"))
    _strip(tree)
    return tree


def _strip(node: Any) -> None:
    if isinstance(node, CommentedBase) and hasattr(node, "_yaml_comment"):
        delattr(node, "_yaml_comment")
    for one in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _strip(one)


def _written(tree: Any) -> str:
    from io import StringIO

    yaml = YAML()
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    stream = StringIO()
    yaml.dump(tree, stream)
    return re.sub(
        r"(?m)^(zones|conduits|switches|assets|essential_functions|plant|safe_state):",
        r"\n\1:",
        stream.getvalue(),
    )


def _leave_out(tree: Any, model: Site, without: Collection[str]) -> tuple[list[str], set[str]]:
    """Take names, and what hangs on them, out of ``tree``; all that went, and what was asked for."""
    zones, assets = tree["zones"], tree["assets"]
    wanted = set(without)
    for one in without:
        if one in {asset["kind"] for asset in assets.values()}:
            wanted |= {name for name, asset in assets.items() if asset["kind"] == one}
        elif one not in zones and one not in assets:
            raise UnknownNameError("zone, asset or kind of asset", one, [*zones, *assets])
    gone = {one for one in wanted if one in zones or one in assets}
    while True:
        more = {name for name, asset in assets.items() if asset["zone"] in gone}
        for name, asset in assets.items():
            needed = STANDS_ON.get(asset["kind"])
            if needed is not None and asset[needed] in gone:
                more.add(name)
        more |= _cut_off(tree, gone)
        if more <= gone:
            break
        gone |= more
    for name in gone:
        if name in assets and assets[name]["kind"] in KEPT:
            raise OtlabError(
                f"{name} ({assets[name]['kind']}) cannot be left out: the essential functions need it; edit the file by"
                " hand instead"
            )
    _take(tree, gone)
    order = [*model.zones, *model.assets]
    return [one for one in order if one in gone], wanted


def _cut_off(tree: Any, gone: set[str]) -> set[str]:
    """Zones that no conduit leads to any more from where the operator station is."""
    station = tree["essential_functions"]["view"]["asset"]
    reached = {tree["assets"][station]["zone"]}
    joined = [one["between"] for one in tree["conduits"].values() if not gone & set(one["between"])]
    while True:
        more = {zone for pair in joined if reached & set(pair) for zone in pair}
        if more <= reached:
            break
        reached |= more
    return set(tree["zones"]) - reached


def _take(tree: Any, gone: set[str]) -> None:
    conduits = {name for name, one in tree["conduits"].items() if gone & set(one["between"])}
    every = gone | conduits
    for kind in ("zones", "conduits", "assets"):
        for name in [one for one in tree[kind] if one in every]:
            del tree[kind][name]
    for conduit in tree["conduits"].values():
        flows = conduit.get("flows", [])
        conduit["flows"] = [
            flow for flow in flows if flow["source"] not in every and flow["target"] not in every
        ]
    for name, switch in list(tree.get("switches", {}).items()):
        switch["zones"] = [zone for zone in switch["zones"] if zone not in every]
        if not switch["zones"]:
            del tree["switches"][name]
    for asset in tree["assets"].values():
        if asset.get("siem") in every:
            del asset["siem"]
        for key in NAMES:
            _thin(asset, key, every)
    # A monitor that sees nothing and a supply that feeds nothing are no use, and no sound entry.
    for name in [
        one
        for one, asset in tree["assets"].items()
        if (asset["kind"] == "monitor" and not asset["taps"])
        or (asset["kind"] == "ups" and not asset["feeds"])
    ]:
        _take(tree, {name})


def _thin(asset: Any, key: str, gone: set[str]) -> None:
    value = asset.get(key)
    if isinstance(value, dict):
        for name in [
            one
            for one, target in value.items()
            if one in gone or (isinstance(target, str) and target in gone)
        ]:
            del value[name]
    elif isinstance(value, list):
        asset[key] = [one for one in value if one not in gone]


def _renumber(tree: Any, network: str) -> None:
    """Move every address into ``network``, its third and fourth numbers kept."""
    try:
        base = ipaddress.IPv4Network(network)
    except ValueError:
        base = ipaddress.IPv4Network("0.0.0.0/0")
    if base.prefixlen != 16:
        raise OtlabError(f"{network!r}: give a network of length 16, as 10.20.0.0/16")
    first = ".".join(str(base.network_address).split(".")[:2])

    def moved(text: str) -> str:
        return first + "." + text.split(".", 2)[2]

    for zone in tree["zones"].values():
        zone["network"] = moved(zone["network"])
    for asset in tree["assets"].values():
        asset["address"] = moved(asset["address"])
        if asset["kind"] == "cellular_router":
            asset["network"] = moved(asset["network"])
