"""What rights there are on a site, which role has which, and what takes two people: the data of SR 2.1 RE 2 to RE 4."""

from __future__ import annotations

from functools import cache
from importlib.resources import as_file, files
from typing import Literal, TypeAlias

from testbed import site as sites
from testbed.document import Document, load
from testbed.site import Site

Kind: TypeAlias = Literal["commands", "setpoints", "safety", "programs", "modes"]


class UseControl(Document):
    """The file ``use_control.yaml``: role -> rights, and the kinds of action that take a second person."""

    rights: dict[str, tuple[Kind, ...]]
    serious: tuple[Kind, ...]


@cache
def use_control() -> UseControl:
    """The shipped table."""
    with as_file(files("controls") / "data" / "use_control.yaml") as path:
        return load(path, UseControl)


def kinds_of(site: Site) -> dict[str, str]:
    """Tag that the wire may write -> the kind of action that writing it is."""
    kinds: dict[str, str] = {}
    for controller in site.controllers().values():
        for name, tag in controller.tags.items():
            if tag.writable:
                kinds[name] = _kind(controller, tag)
    return kinds


def _kind(controller: sites.Controller, tag: sites.Tag) -> Kind:
    if isinstance(controller, sites.SafetyPlc):
        return "safety"
    return "commands" if tag.table == "coil" else "setpoints"


def procedure_tags(site: Site) -> frozenset[str]:
    """Tags that the site's procedures have an operator write in answer to an alarm."""
    return frozenset(
        step.tag
        for asset in site.assets.values()
        if isinstance(asset, sites.Hmi)
        for steps in asset.responses.values()
        for step in steps
    )


def rights_of(site: Site) -> dict[str, frozenset[str]]:
    """Role -> rights on ``site``."""
    table = {role: frozenset[str](rights) for role, rights in use_control().rights.items()}
    table["operator"] = table.get("operator", frozenset()) | procedure_tags(site)
    return table
