"""A site's zones and conduits as a drawing (IEC 62443-3-2, ZCR 6.3), in SVG.

Zones are boxes, highest Purdue level on top; conduits run in lanes right of them, and each has its label in a gap
between two zones. Lanes are as wide as a label and a lane has one conduit at a height, so that no label can lie on
another or on a zone. Widths of text are taken from the widest of common sans-serif fonts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.sax.saxutils import escape, quoteattr

from testbed.site import Asset, Conduit, Site, Zone

#: Width of a character in its font size: Verdana's letters mean, the widest that a viewer may substitute.
WIDE = 0.66
BIG, SMALL, LINE = 14, 11, 15
ASSET_HEIGHT, ASSET_GAP, PAD = 36, 10, 14
COLUMNS = 5
LABEL_WIDTH = 210
LANE_GAP = 24
HEAD = 44

#: kind of asset -> in words
WORDS: Mapping[str, str] = {
    "plc": "PLC",
    "safety_plc": "safety PLC",
    "hmi": "HMI",
    "opcua_server": "OPC UA server",
    "siem": "SIEM",
    "ups": "UPS",
    "office_pc": "office PC",
}


def width_of(text: str, size: float) -> float:
    """Pixels that ``text`` takes at most."""
    return len(text) * size * WIDE


def wrapped(text: str, width: float, size: float, most: int) -> list[str]:
    """``text`` in lines of at most ``width``, at most ``most`` of them; what is left over ends in an ellipsis."""
    room = max(4, int(width / (size * WIDE)))
    lines: list[str] = []
    line = ""
    for word in text.split():
        while len(word) > room:
            if line:
                lines.append(line)
                line = ""
            lines.append(word[: room - 1] + "-")
            word = word[room - 1 :]
        joined = f"{line} {word}".strip()
        if len(joined) <= room:
            line = joined
        else:
            lines.append(line)
            line = word
    if line:
        lines.append(line)
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1][: room - 1].rstrip() + "…"]
    return lines


@dataclass(slots=True)
class Box:
    """Where something is drawn."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height

    def meets(self, other: Box) -> bool:
        """Whether the two share any area."""
        return (
            self.x < other.right and other.x < self.right and self.y < other.bottom and other.y < self.bottom
        )


@dataclass(slots=True)
class Layout:
    """Where zones, assets and conduits' labels are, and the lane (x) and ends (y) of each conduit."""

    zones: dict[str, Box] = field(default_factory=dict)
    assets: dict[str, Box] = field(default_factory=dict)
    labels: dict[str, Box] = field(default_factory=dict)
    lines: dict[str, tuple[float, float, float, float, float]] = field(default_factory=dict)
    width: float = 0.0
    height: float = 0.0


def layout(site: Site) -> Layout:
    """Place everything."""
    found = Layout()
    order = sorted(site.zones, key=lambda name: (-site.zones[name].level, list(site.zones).index(name)))
    members = {zone: [n for n, a in site.assets.items() if a.zone == zone] for zone in order}
    cell = max(
        [100.0]
        + [max(width_of(n, SMALL), width_of(_kind(a), SMALL - 1)) + 16 for n, a in site.assets.items()]
    )
    heads = [
        max(width_of(_title(zone), BIG), width_of(_facts(zone), SMALL)) + 2 * PAD
        for zone in site.zones.values()
    ]
    most = max([1, *(min(COLUMNS, len(names)) for names in members.values())])
    width = max([2 * PAD + most * cell + (most - 1) * ASSET_GAP, *heads])
    lanes = _lanes(site, order)
    gap = _gap_height(site)
    ends = _ports(site, order, lanes)
    y: float = HEAD + PAD
    for zone in order:
        rows = max(1, -(-len(members[zone]) // most))
        height = max(
            HEAD + rows * (ASSET_HEIGHT + ASSET_GAP) + PAD - ASSET_GAP, (len(ends[zone]) + 1) * 12 + HEAD / 2
        )
        found.zones[zone] = Box(PAD, y, width, height)
        for number, name in enumerate(members[zone]):
            found.assets[name] = Box(
                2 * PAD + number % most * (cell + ASSET_GAP),
                y + HEAD + number // most * (ASSET_HEIGHT + ASSET_GAP),
                cell,
                ASSET_HEIGHT,
            )
        y += height + gap
    first = PAD + width + LANE_GAP
    for name, (lane, above) in lanes.items():
        x = first + lane * (LABEL_WIDTH + LANE_GAP)
        bottom = found.zones[order[above]].bottom
        lines = _label(name, site.conduits[name])
        height = len(lines) * LINE + 8
        found.labels[name] = Box(x, bottom + (gap - height) / 2, LABEL_WIDTH, height)
        one, other = sorted(site.conduits[name].between, key=order.index)
        middle = x + LABEL_WIDTH / 2
        found.lines[name] = (
            found.zones[one].right,
            _port(found.zones[one], ends[one], name),
            middle,
            _port(found.zones[other], ends[other], name),
            middle,
        )
    count = 1 + max((lane for lane, _ in lanes.values()), default=-1)
    found.width = max(first + count * (LABEL_WIDTH + LANE_GAP), width_of(site.title, BIG + 4) + 2 * PAD)
    found.height = y - gap + PAD + 2 * LINE
    return found


def _lanes(site: Site, order: list[str]) -> dict[str, tuple[int, int]]:
    """Conduit -> lane, and the zone (by its place in ``order``) under which its label stands.

    The shortest come first and nearest; two conduits share a lane where their spans meet nowhere.
    """
    spans = {}
    for name, conduit in site.conduits.items():
        ends = sorted(order.index(zone) for zone in conduit.between)
        spans[name] = (ends[0], ends[1])
    taken: list[list[tuple[int, int]]] = []
    found = {}
    for name in sorted(spans, key=lambda one: (spans[one][1] - spans[one][0], spans[one][0])):
        low, high = spans[name]
        lane = next(
            (
                number
                for number, there in enumerate(taken)
                if all(high <= start or end <= low for start, end in there)
            ),
            len(taken),
        )
        if lane == len(taken):
            taken.append([])
        taken[lane].append((low, high))
        found[name] = (lane, (low + high - 1) // 2)
    return found


def _ports(site: Site, order: list[str], lanes: Mapping[str, tuple[int, int]]) -> dict[str, list[str]]:
    """Zone -> its conduits from the top: those that go up before those that go down, so that none runs over another."""
    found: dict[str, list[str]] = {}
    for zone in order:
        up: list[tuple[int, str]] = []
        down: list[tuple[int, str]] = []
        for name, (lane, _) in lanes.items():
            between = site.conduits[name].between
            if zone in between:
                other = between[1] if between[0] == zone else between[0]
                (up if order.index(other) < order.index(zone) else down).append((lane, name))
        found[zone] = [name for _, name in [*sorted(up), *sorted(down, reverse=True)]]
    return found


def _port(zone: Box, names: list[str], name: str) -> float:
    """The height at which a conduit leaves a zone: each its own."""
    return zone.y + zone.height * (names.index(name) + 1) / (len(names) + 1)


def _gap_height(site: Site) -> float:
    return max([2, *(len(_label(name, one)) for name, one in site.conduits.items())]) * LINE + 24


def _label(name: str, conduit: Conduit) -> list[str]:
    flows = f"{len(conduit.flows)} flow{'' if len(conduit.flows) == 1 else 's'}"
    return [
        *wrapped(name, LABEL_WIDTH - 12, SMALL, 1),
        *wrapped(conduit.purpose, LABEL_WIDTH - 12, SMALL, 3),
        flows,
    ]


def _title(zone: Zone) -> str:
    return zone.title


def _facts(zone: Zone) -> str:
    marks = [word for word, said in (("safety", zone.safety), ("untrusted", not zone.trusted)) if said]
    levels = " ".join(map(str, zone.sl_t.as_tuple()))
    return ", ".join([f"level {zone.level:g}", str(zone.network), f"SL-T {{{levels}}}", *marks])


def _kind(asset: Asset) -> str:
    words = WORDS.get(asset.kind, asset.kind.replace("_", " "))
    return f"{words} †" if asset.cannot else words


def draw(site: Site) -> str:
    """The drawing as one SVG document, complete in itself. The same site gives the same bytes."""
    place = layout(site)
    width, height = round(place.width), round(place.height)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        f' role="img" aria-label={quoteattr(f"Zones and conduits of {site.title}")}'
        ' font-family="Verdana, DejaVu Sans, Arial, sans-serif">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        _text(PAD, HEAD - 14, site.title, BIG + 4, bold=True),
    ]
    for name in place.labels:
        start, first, lane, last, _ = place.lines[name]
        parts.append(
            f'<path d="M {start:.1f} {first:.1f} H {lane:.1f} V {last:.1f} H {start:.1f}" fill="none"'
            ' stroke="#3b5168" stroke-width="2"/>'
        )
        parts += [f'<circle cx="{start:.1f}" cy="{y:.1f}" r="4" fill="#3b5168"/>' for y in (first, last)]
    for name, box in place.zones.items():
        zone = site.zones[name]
        fill, edge = ("#fdeeee", "#a12622") if zone.safety else ("#eef3f8", "#3b5168")
        dash = "" if zone.trusted else ' stroke-dasharray="7 4"'
        parts += [
            f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="6"'
            f' fill="{fill}" stroke="{edge}" stroke-width="1.5"{dash}/>',
            _text(box.x + PAD, box.y + 18, _title(zone), BIG, bold=True),
            _text(box.x + PAD, box.y + 34, _facts(zone), SMALL, color="#4d5b69"),
        ]
    for name, box in place.assets.items():
        asset = site.assets[name]
        bold = asset.criticality == "high"
        thick = ' stroke-width="2"' if bold else ""
        parts += [
            f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="3"'
            f' fill="#ffffff" stroke="#8a97a5"{thick}/>',
            _text(box.x + 8, box.y + 15, name, SMALL, bold=bold),
            _text(box.x + 8, box.y + 29, _kind(asset), SMALL - 1, color="#4d5b69"),
        ]
    for name, box in place.labels.items():
        parts.append(
            f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="3"'
            ' fill="#fff9e6" stroke="#b08a2e"/>'
        )
        for number, line in enumerate(_label(name, site.conduits[name])):
            parts.append(_text(box.x + 6, box.y + 15 + number * LINE, line, SMALL, bold=number == 0))
    legend = "Dashed: untrusted. Red: safety. Thick: high criticality. † cannot meet every requirement."
    parts += [_text(PAD, height - 12, legend, SMALL, color="#4d5b69"), "</svg>"]
    return "\n".join(parts) + "\n"


def _text(x: float, y: float, text: str, size: float, *, bold: bool = False, color: str = "#14202c") -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{color}"{weight}>{escape(text)}</text>'
