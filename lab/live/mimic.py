"""The picture of a process at a station: drawn from the site's tags, or as a file of the site's says.

``mimic.yaml`` beside a site puts what it names into rows; without it each controller gets a row of its own, from what
its tags measure and drive. Either way the picture is SVG whose elements carry the tags that move them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field

from testbed.document import Document, load
from testbed.errors import DocumentError, Problem
from testbed.site import Hmi, Site, Tag, TagName, Text

FILE: Final = "mimic.yaml"
#: Geometry (px of the picture): a row, the line of its pipe, its margins, and where the first item begins.
ROW: Final = 268
AXIS: Final = 150
MARGIN: Final = 26
TOP: Final = 24


class Source(Document):
    """Where something comes from."""

    kind: Literal["from"] = "from"
    text: Text


class Sink(Document):
    """Where something goes."""

    kind: Literal["to"] = "to"
    text: Text


class Meter(Document):
    """An instrument on the pipe."""

    kind: Literal["meter"] = "meter"
    tag: TagName


class Meters(Document):
    """Instruments above one another, with what doses into the pipe there."""

    kind: Literal["analysis"] = "analysis"
    tags: Annotated[tuple[TagName, ...], Field(min_length=1, max_length=4)]
    doses: Annotated[tuple[TagName, ...], Field(max_length=4)] = ()


class Valve(Document):
    """A valve in the pipe; ``text`` is what it lets through where its name does not say."""

    kind: Literal["valve"] = "valve"
    tag: TagName
    text: str = ""


class Pumps(Document):
    """Pumps side by side."""

    kind: Literal["pumps"] = "pumps"
    tags: Annotated[tuple[TagName, ...], Field(min_length=1, max_length=3)]


class Vessel(Document):
    """A vessel with its level; ``shows`` are further tags written into it."""

    kind: Literal["vessel"] = "vessel"
    level: TagName
    text: Text
    shows: Annotated[tuple[TagName, ...], Field(max_length=4)] = ()


class Unit(Document):
    """A machine or column that is neither, with the tags that tell of it and the valves around it."""

    kind: Literal["unit"] = "unit"
    text: Text
    shows: Annotated[tuple[TagName, ...], Field(min_length=1, max_length=6)]
    valves: Annotated[tuple[TagName, ...], Field(max_length=4)] = ()


Item: TypeAlias = Annotated[
    Source | Sink | Meter | Meters | Valve | Pumps | Vessel | Unit, Field(discriminator="kind")
]


class Row(Document):
    """Items from left to right along one pipe."""

    title: Text
    items: Annotated[tuple[Item, ...], Field(min_length=1, max_length=16)]


class Mimic(Document):
    """A whole picture."""

    rows: Annotated[tuple[Row, ...], Field(min_length=1, max_length=6)]

    def tags(self) -> Iterator[tuple[int, int, str]]:
        """Every tag that it names, with its row and item."""
        for number, row in enumerate(self.rows):
            for place, item in enumerate(row.items):
                for tag in _tags_of(item):
                    yield number, place, tag


def _tags_of(item: object) -> tuple[str, ...]:
    match item:
        case Meter() | Valve():
            return (item.tag,)
        case Meters():
            return (*item.tags, *item.doses)
        case Pumps():
            return item.tags
        case Vessel():
            return (item.level, *item.shows)
        case Unit():
            return (*item.shows, *item.valves)
        case _:
            return ()


def mimic_of(site: Site, station: str) -> Mimic:
    """The picture for a station: the file's, if the site has one, else one made of the tags.

    Raises DocumentError for a file that is wrong or names a tag that the station does not show.
    """
    shown = _shown(site, station)
    path = site.folder / FILE
    if not path.exists():
        return _made(site, station)
    found = load(path, Mimic)
    unknown = sorted({tag for _, _, tag in found.tags() if tag not in shown})
    if unknown:
        raise DocumentError(
            [Problem(str(path), 1, 1, tag, f"station {station!r} shows no such tag") for tag in unknown]
        )
    return found


def _shown(site: Site, station: str) -> dict[str, Tag]:
    asset = site.assets[station]
    assert isinstance(asset, Hmi)
    controllers = site.controllers()
    return {name: tag for plc in asset.polls for name, tag in controllers[plc].tags.items()}


# -- made of the tags ----------------------------------------------------------------------------------------------


def is_actuator(name: str, tag: Tag) -> bool:
    """Whether a tag drives something of the plant that a person would want to see; trips are not that."""
    return tag.command is not None and not name.startswith("TRIP")


def is_measurement(tag: Tag) -> bool:
    return tag.signal is not None and tag.format != "bool"


def written(unit: str) -> str:
    """A unit as people write it; nothing for a number without one."""
    return "" if unit == "1" else unit.replace("m3", "m³").replace("m2", "m²").replace("uS", "µS")


def sort_of(name: str, tag: Tag) -> Literal["pump", "valve"]:
    """What an actuator is, by its name or by what is said of it."""
    return "pump" if re.match(r"P\d", name) or "pump" in tag.description else "valve"


def _number(name: str) -> int:
    found = re.search(r"\d+", name)
    return int(found.group()) if found is not None else 0


def _made(site: Site, station: str) -> Mimic:
    asset = site.assets[station]
    assert isinstance(asset, Hmi)
    controllers = site.controllers()
    rows = []
    for plc in asset.polls:
        tags = controllers[plc].tags
        items = _items(tags)
        if items:
            rows.append(Row(title=plc, items=items))
    if not rows:
        rows.append(Row(title=station, items=(Source(text="no measurements"),)))
    return Mimic(rows=tuple(rows[:6]))


def _items(tags: dict[str, Tag]) -> tuple[Item, ...]:
    """Levels become vessels, flows and what drives them stand between, all else is told of one unit."""
    levels = [name for name, tag in tags.items() if is_measurement(tag) and name.startswith("L")]
    flows = [name for name, tag in tags.items() if is_measurement(tag) and name.startswith("F")]
    others = [
        name for name, tag in tags.items() if is_measurement(tag) and name not in levels and name not in flows
    ]
    moving = [name for name, tag in tags.items() if is_actuator(name, tag)]
    pumps = [name for name in moving if sort_of(name, tags[name]) == "pump"]
    valves = [name for name in moving if name not in pumps]
    items: list[Item] = []
    half = (len(valves) + 1) // 2
    items += [Valve(tag=name) for name in valves[:half][:4]]
    items += [Meter(tag=name) for name in flows[:2]]
    items += [Vessel(level=name, text=f"{_number(name) or ''}".strip() or name) for name in levels[:2]]
    for at in range(0, min(len(pumps), 6), 3):
        items.append(Pumps(tags=tuple(pumps[at : at + 3])))
    if others:
        items.append(Unit(text="Process", shows=tuple(others[:6])))
    items += [Meter(tag=name) for name in flows[2:4]]
    items += [Valve(tag=name) for name in valves[half:][:4]]
    return tuple(items[:16])


# -- drawing -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Pen:
    """Collects the picture; ``x`` is where the next item begins."""

    site: Site
    tags: dict[str, Tag]
    parts: list[str]
    x: float = MARGIN
    y: float = 0.0

    def add(self, text: str) -> None:
        self.parts.append(text)


def draw(site: Site, station: str) -> str:
    """The picture as SVG: no style, script or address in it; classes and ``data-`` attributes are what moves it."""
    mimic = mimic_of(site, station)
    pen = _Pen(site, _shown(site, station), [])
    width = 0.0
    for number, row in enumerate(mimic.rows):
        pen.x, pen.y = MARGIN, TOP + number * ROW
        pen.add(f'<text class="row-title" x="{MARGIN}" y="{pen.y + 4:g}">{escape(row.title)}</text>')
        pipe = len(pen.parts)
        pen.add("")
        segments, begin = [], pen.x
        for place, item in enumerate(row.items):
            if place:
                pen.x += 14
            if isinstance(item, Source) and place:
                begin = pen.x + 14
            _draw(pen, item)
            if isinstance(item, Sink):
                segments.append((begin, pen.x))
                begin = pen.x + 14
        if not isinstance(row.items[-1], Sink):
            segments.append((begin, pen.x))
        axis = pen.y + AXIS
        pen.parts[pipe] = "".join(
            f'<path class="pipe" d="M{left:g} {axis:g}H{right:g}"/>' for left, right in segments
        )
        width = max(width, pen.x)
    height = TOP + len(mimic.rows) * ROW
    title = escape(f"{site.title} at {station}")
    return (
        f'<svg id="mimic" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + MARGIN:g} {height:g}"'
        f' role="group" aria-label="{title}" preserveAspectRatio="xMidYMid meet">'
        + "".join(pen.parts)
        + "</svg>"
    )


def _draw(pen: _Pen, item: Item) -> None:
    match item:
        case Source():
            _arrow(pen, item.text, "start")
        case Sink():
            _arrow(pen, item.text, "end")
        case Meter():
            _meter(pen, item.tag)
        case Meters():
            _analysis(pen, item)
        case Valve():
            _valve(pen, item)
        case Pumps():
            _pumps(pen, item)
        case Vessel():
            _vessel(pen, item)
        case Unit():
            _unit(pen, item)


def _group(pen: _Pen, kind: str, tag: str, more: str = "") -> str:
    """The opening of an element that belongs to a tag and can be chosen by mouse and keyboard."""
    about = pen.tags[tag].description
    label = escape(f"{tag}, {about}" if about else tag, quote=True)
    return (
        f'<g class="{kind} choice" data-tag="{tag}"{more} tabindex="0" role="button" aria-label="{label}">'
        f"<title>{label}</title>"
    )


def _flag(tag: str, x: float, y: float) -> str:
    """Where the alarm of a tag shows: a shape and its priority, so that color is not all that tells."""
    return (
        f'<g class="flag" data-flag="{tag}"><rect x="{x:g}" y="{y:g}" width="17" height="17" rx="2"/>'
        f'<text x="{x + 8.5:g}" y="{y + 13:g}"></text></g>'
    )


def _value(pen: _Pen, tag: str, x: float, y: float, width: float = 92, flag: bool = True) -> None:
    """A number in its box, with the tag's name and unit above it."""
    shown = escape(written(pen.tags[tag].unit))
    pen.add(_group(pen, "value", tag))
    pen.add(f'<rect class="box" x="{x:g}" y="{y:g}" width="{width:g}" height="40" rx="2"/>')
    pen.add(f'<text class="name" x="{x + 6:g}" y="{y + 13:g}">{tag}</text>')
    pen.add(f'<text class="number" data-value="{tag}" x="{x + 6:g}" y="{y + 33:g}">–</text>')
    pen.add(f'<text class="unit" x="{x + width - 6:g}" y="{y + 13:g}">{shown}</text>')
    pen.add((_flag(tag, x + width - 9, y - 9) if flag else "") + "</g>")


def _arrow(pen: _Pen, text: str, side: str) -> None:
    x, y = pen.x, pen.y + AXIS
    words = [text] if len(text) < 9 else text.split()
    lines = [" ".join(words[: (len(words) + 1) // 2]), " ".join(words[(len(words) + 1) // 2 :])]
    for number, line in enumerate(line for line in lines if line):
        pen.add(f'<text class="place" x="{x + 36:g}" y="{y + 26 + 14 * number:g}">{escape(line)}</text>')
    pen.add(f'<path class="arrow" d="M{x + 14:g} {y - 11:g}h30l14 11l-14 11h-30z"/>')
    pen.x += 76


def _meter(pen: _Pen, tag: str) -> None:
    x, y = pen.x, pen.y + AXIS
    pen.add(f'<path class="stem" d="M{x + 46:g} {y:g}V{y - 44:g}"/>')
    pen.add(f'<circle class="tap" cx="{x + 46:g}" cy="{y:g}" r="4"/>')
    _value(pen, tag, x, y - 84)
    pen.x += 94


def _analysis(pen: _Pen, item: Meters) -> None:
    x, y = pen.x, pen.y + AXIS
    width = max(len(item.tags), len(item.doses), 1) * 98.0
    for number, tag in enumerate(item.tags):
        at = x + number * 98
        pen.add(f'<path class="stem" d="M{at + 46:g} {y:g}V{y - 44:g}"/>')
        pen.add(f'<circle class="tap" cx="{at + 46:g}" cy="{y:g}" r="4"/>')
        _value(pen, tag, at, y - 84)
    for number, tag in enumerate(item.doses):
        at = x + number * 98 + 46
        pen.add(f'<path class="pipe thin" d="M{at:g} {y:g}V{y + 44:g}"/>')
        _actuator(pen, tag, at, y + 46, below=True)
    pen.x += width


def _actuator(pen: _Pen, tag: str, x: float, y: float, below: bool = False) -> None:
    """The symbol of a pump or valve at (x, y), its name, and whether it is in automatic."""
    kind = sort_of(tag, pen.tags[tag])
    amount = pen.tags[tag].format != "bool"
    pen.add(_group(pen, f"actuator {kind}", tag, ' data-amount="1"' if amount else ""))
    if kind == "pump":
        pen.add(f'<circle class="body" cx="{x:g}" cy="{y:g}" r="17"/>')
        pen.add(f'<path class="mark" d="M{x - 7:g} {y - 10:g}L{x + 13:g} {y:g}L{x - 7:g} {y + 10:g}z"/>')
    else:
        pen.add(
            f'<path class="body" d="M{x - 17:g} {y - 11:g}L{x + 17:g} {y + 11:g}V{y - 11:g}L{x - 17:g} {y + 11:g}z"/>'
        )
        pen.add(f'<path class="stem" d="M{x:g} {y:g}V{y - 17:g}"/>')
        pen.add(f'<path class="body" d="M{x - 9:g} {y - 17:g}a9 9 0 0 1 18 0z"/>')
    place = y + 35 if kind == "pump" else y + 29
    pen.add(f'<text class="name middle" x="{x:g}" y="{place:g}">{tag}</text>')
    if amount:
        pen.add(f'<text class="number middle small" data-value="{tag}" x="{x:g}" y="{place + 17:g}">–</text>')
    if f"{tag}_AUTO" in pen.tags:
        pen.add(
            f'<g class="mode" data-mode="{tag}_AUTO">'
            f'<rect x="{x + 19:g}" y="{y - 26:g}" width="15" height="15" rx="2"/>'
            f'<text x="{x + 26.5:g}" y="{y - 14.5:g}"></text></g>'
        )
    pen.add(_flag(tag, x - 35, y - 26) + "</g>")


def _valve(pen: _Pen, item: Valve) -> None:
    x, y = pen.x, pen.y + AXIS
    _actuator(pen, item.tag, x + 36, y)
    if item.text:
        pen.add(f'<text class="place" x="{x + 36:g}" y="{y + 46:g}">{escape(item.text)}</text>')
    pen.x += 74


def _pumps(pen: _Pen, item: Pumps) -> None:
    x, y = pen.x, pen.y + AXIS
    gap = 66.0
    top = y - gap * (len(item.tags) - 1) / 2
    if len(item.tags) > 1:
        last = top + gap * (len(item.tags) - 1)
        for side in (x + 6, x + 72):
            pen.add(f'<path class="pipe" d="M{side:g} {top:g}V{last:g}"/>')
        for number in range(len(item.tags)):
            pen.add(f'<path class="pipe" d="M{x + 6:g} {top + gap * number:g}H{x + 72:g}"/>')
        if len(item.tags) % 2 == 0:  # nothing runs through between them
            pen.add(f'<path class="gap" d="M{x + 10:g} {y:g}H{x + 68:g}"/>')
    for number, tag in enumerate(item.tags):
        _actuator(pen, tag, x + 39, top + gap * number)
    pen.x += 80


def _vessel(pen: _Pen, item: Vessel) -> None:
    x, top = pen.x, pen.y + 26
    width, height = 132.0, 186.0
    tag = pen.tags[item.level]
    low, high = _range(pen, item.level)
    pen.add(
        _group(
            pen,
            "vessel",
            item.level,
            f' data-low="{low:g}" data-high="{high:g}" data-top="{top:g}" data-height="{height:g}"',
        )
    )
    pen.add(f'<rect class="shell" x="{x:g}" y="{top:g}" width="{width:g}" height="{height:g}" rx="6"/>')
    pen.add(f'<rect class="fill" x="{x + 2:g}" y="{top + height:g}" width="{width - 34:g}" height="0"/>')
    pen.add(
        f'<rect class="scale" x="{x + width - 26:g}" y="{top + 6:g}" width="12" height="{height - 12:g}"/>'
    )

    def place(value: float) -> float:
        return top + height - 6 - (height - 12) * min(max((value - low) / (high - low), 0.0), 1.0)

    limits = dict(tag.alarms.limits) if tag.alarms is not None else {}
    normal = (limits.get("L", low), limits.get("H", high))
    pen.add(
        f'<rect class="normal" x="{x + width - 26:g}" y="{place(normal[1]):g}" width="12"'
        f' height="{max(0.0, place(normal[0]) - place(normal[1])):g}"/>'
    )
    for level, limit in limits.items():
        pen.add(f'<path class="limit" d="M{x + width - 28:g} {place(limit):g}h16"/>')
        pen.add(f'<text class="tick" x="{x + width + 3:g}" y="{place(limit) + 4:g}">{level}</text>')
    pen.add(f'<path class="pointer" data-pointer="{item.level}" data-x="{x + width - 28:g}" d=""/>')
    pen.add(f'<text class="title" x="{x + 8:g}" y="{top + 19:g}">{escape(item.text)}</text>')
    pen.add(_flag(item.level, x + width - 54, top + 6) + "</g>")
    _value(pen, item.level, x + 4, top + height + 6, 122, flag=False)
    for number, name in enumerate(item.shows):
        _value(pen, name, x + 5, top + 28 + number * 44, 92)
    pen.x += width + 22


def _unit(pen: _Pen, item: Unit) -> None:
    x, top = pen.x, pen.y + 26
    columns = (len(item.shows) + 2) // 3
    width, height = 16.0 + 98 * columns, 156.0 if item.valves else 186.0
    pen.add(f'<rect class="shell" x="{x:g}" y="{top:g}" width="{width:g}" height="{height:g}" rx="6"/>')
    pen.add(f'<text class="title" x="{x + 8:g}" y="{top + 19:g}">{escape(item.text)}</text>')
    for number, tag in enumerate(item.shows):
        _value(pen, tag, x + 8 + 98 * (number // 3), top + 30 + 48 * (number % 3), 92)
    span = max(len(item.valves), 1) * 74.0
    for number, tag in enumerate(item.valves):
        at = x + width / 2 - span / 2 + 74 * number + 37
        pen.add(f'<path class="pipe thin" d="M{at:g} {top + height:g}v22"/>')
        _actuator(pen, tag, at, top + height + 38)
    pen.x += max(width, span)


def _range(pen: _Pen, name: str) -> tuple[float, float]:
    """What the scale of a measurement runs over: its instrument's range, no wider than its alarm limits need."""
    tag = pen.tags[name]
    instrument = pen.site.plant.sensors.get(tag.signal or "")
    low, high = (instrument.low, instrument.high) if instrument is not None else (-math.inf, math.inf)
    if tag.alarms is not None:
        limits = list(tag.alarms.limits.values())
        room = (max(limits) - min(limits)) * 0.6 or abs(limits[0]) * 0.5 or 1.0
        low, high = max(low, min(limits) - room), min(high, max(limits) + room)
    return (low, high) if math.isfinite(low) and math.isfinite(high) else (0.0, 100.0)


def range_of(site: Site, tags: dict[str, Tag], name: str) -> tuple[float, float]:
    """What a trend's scale runs over."""
    return _range(_Pen(site, tags, []), name)
