"""The summary as a terminal table, and the whole campaign as one HTML file.

The file is complete in itself: style and figures are inlined, it needs no script, and its content security policy
forbids every request. It holds no date and no path, so equal rows give equal bytes.
"""

from __future__ import annotations

import hashlib
import platform
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from rich import box
from rich.table import Table
from rich.text import Text

from results import figures
from results import look as palette
from results.rows import FUNCTIONS, NO_ATTACK, Row
from results.statistics import Cell, Comparison, Estimate, compare, distinct
from results.store import canonical, save_text

# --- numbers as text --------------------------------------------------------------------------------------------

NOTHING: Final = "–"


def number(value: float | None) -> str:
    """Return three significant digits, at most three of them decimals, no exponent; a dash for nothing."""
    if value is None:
        return NOTHING
    if 1e-6 < value < 0.0005:  # an alert within a millisecond is not one at once; below is rounding
        return "<0.001"
    digits = (
        f"{value:.0f}"
        if abs(value) >= 999.5
        else f"{value:.3g}"
        if abs(value) >= 1
        else f"{round(value, 3):g}"
    )
    return "0" if digits == "-0" else digits.replace("-", "−")


def amount(value: float | None) -> str:
    """As ``number``, with an exponent from a million on: products of some sites are counted in joules."""
    if value is None or abs(value) < 1e6:
        return number(value)
    return f"{value:.2e}".replace("e+0", "e").replace("e+", "e").replace("-", "−")


def percent(share: float | None) -> str:
    """Return a share in percent; 100 and 0 only for exactly all and none."""
    if share is None:
        return NOTHING
    if 0.9995 <= share < 1:
        return ">99.9"
    if 0 < share < 0.0005:
        return "<0.1"
    return "0" if share == 0 else "100" if share == 1 else f"{100 * share:.1f}"


def interval(estimate: Estimate, show: str = "number") -> str:
    """Return 'low to high' or nothing; ``show`` is a key of ``_SHOW``."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{_SHOW[show](estimate.low)} to {_SHOW[show](estimate.high)}"


def signed(value: float | None) -> str:
    """Return a difference with its sign."""
    text = number(value)
    return f"+{text}" if value is not None and value > 0 and text != "0" else text


def points(value: float | None) -> str:
    """Return a difference of shares in percentage points with its sign."""
    return signed(None if value is None else 100 * value)


def change(value: float | None) -> str:
    """Return a difference of amounts with its sign."""
    text = amount(value)
    return f"+{text}" if value is not None and value > 0 and text != "0" else text


_SHOW: Final = {
    "number": number,
    "amount": amount,
    "change": change,
    "percent": percent,
    "signed": signed,
    "points": points,
}


def survival(estimate: Estimate, horizon: float, population: int) -> str:
    """Return a median time in seconds, or what it surely exceeds; a dash without anyone at risk."""
    if population == 0:
        return NOTHING
    return f">{number(horizon)} s" if estimate.value is None else f"{number(estimate.value)} s"


def survival_interval(estimate: Estimate) -> str:
    """Return the interval of a median time; one that the runs do not bound above is open."""
    if estimate.low is None:
        return ""
    if estimate.high is None:
        return f"{number(estimate.low)} or more"
    return f"{number(estimate.low)} to {number(estimate.high)}"


def p_value(p: float | None) -> str:
    """Return a p-value to two digits."""
    if p is None:
        return NOTHING
    return "<0.001" if p < 0.001 else f"{p:.2g}"


# --- the terminal -----------------------------------------------------------------------------------------------


def table(cells: Sequence[Cell], width: int = 120) -> Table:
    """Return the summary for a terminal of ``width`` columns: all of it from 110, the essentials below.

    A table of the essentials fits 80 columns. Names fold; numbers never do.
    """
    wide = width >= 110
    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, width=min(width, 120), title=None)
    grid.add_column("Scenario", overflow="fold", min_width=10, ratio=1)
    grid.add_column("Profile", overflow="fold", min_width=6, max_width=14)
    for name in _COLUMNS[wide]:
        grid.add_column(name, justify="right", no_wrap=True)
    previous = None
    several = len({cell.site for cell in cells}) > 1
    for cell in cells:
        name = _scenario_name(cell.site, cell.scenario, several)
        if previous is not None and name != previous:
            grid.add_section()
        # Long names break at their hyphens, where a bare fold would cut a word.
        shown = "\n".join(textwrap.wrap(name, 24 if wide else 18))
        texts = [shown if name != previous else "", cell.profile, *_summary(cell, wide)]
        grid.add_row(*(Text(text) for text in texts))  # Text: a name in brackets is not markup
        previous = name
    return grid


_COLUMNS: Final = {
    True: (
        "Detected",
        "Median s\n(95 %)",
        "View\n%",
        "Control\n%",
        "Safety\n%",
        "Product\n%",
        "Unsafe\ns",
        "Lost\nproduct",
        "False\na day",
    ),
    False: ("Detected", "Median\ns", "View\n%", "Contr\n%", "Safe\n%", "Prod\n%", "Unsafe\ns"),
}


def _summary(cell: Cell, wide: bool) -> list[str]:
    detected = f"{cell.detected}/{cell.attacked}" if cell.attacked else NOTHING
    median = survival(cell.detection_time, cell.horizon, cell.attacked).removesuffix(" s")
    span = survival_interval(cell.detection_time).replace(" to ", "–")
    if span.endswith(" or more"):
        span = "≥" + span.removesuffix(" or more").replace("<0.001", "0")
    shares = [percent(cell.availability[name].value) for name in FUNCTIONS]
    unsafe = number(cell.unsafe_seconds.value)
    if not wide:
        return [detected, median, *shares, unsafe]
    lost, false = amount(cell.production_lost.value), number(cell.false_alarms_per_day.value)
    return [detected, f"{median} ({span})" if span else median, *shares, unsafe, lost, false]


# --- the page ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Section:
    """One scenario's part of the page."""

    anchor: str
    name: str
    about: str
    cells: list[Cell]
    comparisons: list[Comparison]
    rows: list[Row]

    @property
    def attacked(self) -> bool:
        return any(cell.attacked for cell in self.cells)


def write_report(
    path: Path | str,
    rows: Sequence[Row],
    cells: Sequence[Cell],
    figures: Mapping[str, str],
    meta: Mapping[str, object],
) -> str:
    """Write ``render``'s page whole or not at all, and return it. Raises RunError naming the file where that fails."""
    written = render(rows, cells, figures, meta)
    save_text(path, written)
    return written


def render(
    rows: Sequence[Row], cells: Sequence[Cell], figures: Mapping[str, str], meta: Mapping[str, object]
) -> str:
    """Return the page.

    ``figures`` gives SVG documents under the names of ``results.figures.standard`` or under captions of your own,
    shown in that order. Of ``meta``, all optional: ``title``; ``site`` (what the site is called in full);
    ``command`` (the command line that repeats the campaign); ``versions`` (name to version; otherwise those
    installed); ``titles`` (scenario to one sentence); ``profiles`` (likewise); ``limitations`` (sentences added to
    the standing ones). Any other key is shown under "What was run" with its value: text, a number, or a list or
    mapping of those. Raises TypeError for another kind of value, ValueError for a figure with content other than
    drawing.
    """
    runs = distinct(rows)
    known = {key: meta.get(key) for key in _KNOWN}
    template = _environment().get_template("report.html.j2")
    return template.render(
        title=str(known["title"] or "Campaign report"),
        command=str(known["command"] or ""),
        versions=_pairs(known["versions"], "versions") or installed_versions(),
        profiles_about=dict(_pairs(known["profiles"], "profiles")),
        limitations=_sentences(known["limitations"]),
        facts=[(key, _told(value, key)) for key, value in meta.items() if key not in _KNOWN],
        runs=runs,
        scope=_scope(runs, str(known["site"] or "")),
        cells=list(cells),
        several_sites=len({cell.site for cell in cells}) > 1,
        sections=_sections(runs, cells, dict(_pairs(known["titles"], "titles"))),
        contained=any(row.contained_time is not None for row in runs),
        figures=[
            (_caption(name), inline_svg(svg, f"figure{place}-", _caption(name)))
            for place, (name, svg) in enumerate(figures.items(), 1)
        ],
        functions=FUNCTIONS,
        colors=_COLORS,
        fingerprint=fingerprint(runs),
    )


def page(
    template: str, filters: Mapping[str, Callable[..., object]] | None = None, /, **values: object
) -> str:
    """A page of ``results/templates`` in the style of all reports, with ``filters`` beside the common ones."""
    environment = _environment()
    environment.filters.update(filters or {})
    return environment.get_template(template).render(colors=_COLORS, **values)


def fingerprint(rows: Iterable[Row]) -> str:
    """Return the SHA-256 of all rows in table order: two reports with the same one tell of the same results."""
    digest = hashlib.sha256()
    for row in distinct(rows):
        digest.update(canonical(row.to_dict()).encode() + b"\n")
    return digest.hexdigest()


def installed_versions() -> list[tuple[str, str]]:
    """Return name and version of this program and of the libraries that decide a run or a number."""
    found = [("Python", platform.python_version())]
    for name in ("otlab", "asyncua", "pymodbus", "simpy", "numpy", "scipy", "matplotlib"):
        with suppress(metadata.PackageNotFoundError):  # run from a checkout that is not installed
            found.append((name, metadata.version(name)))
    return found


_KNOWN: Final = ("title", "site", "command", "versions", "titles", "profiles", "limitations")


def _caption(name: str) -> str:
    stem, _, page = name.rpartition("-")
    if page.isdigit() and stem in figures.CAPTIONS:
        return f"{figures.CAPTIONS[stem]} Page {page}."
    return figures.CAPTIONS.get(name, name)


def _scope(runs: Sequence[Row], site_title: str) -> list[tuple[str, str]]:
    seeds = sorted({row.seed for row in runs})
    attacks = list(dict.fromkeys(row.scenario for row in runs if row.scenario != NO_ATTACK))
    sites = ", ".join(dict.fromkeys(row.site for row in runs))
    quiet = "yes" if any(row.scenario == NO_ATTACK for row in runs) else "none"
    return [
        ("Runs", str(len(runs))),
        ("Site", f"{sites} ({site_title})" if site_title else sites),
        ("Scenarios", ", ".join(attacks) or "none"),
        ("Attack-free runs", quiet),
        ("Profiles", ", ".join(dict.fromkeys(row.profile for row in sorted(runs, key=_by_level)))),
        ("Seeds", ranges(seeds)),
        ("Length of a run", _spans(sorted({row.duration for row in runs}))),
    ]


def _by_level(row: Row) -> tuple[bool, int, str]:
    return (row.level is None, row.level or 0, row.profile)


def ranges(seeds: Sequence[int]) -> str:
    """Return whole numbers with runs of neighbors drawn together: '1 to 10, 20'."""
    spans: list[list[int]] = []
    for seed in seeds:
        if spans and seed == spans[-1][-1] + 1:
            spans[-1].append(seed)
        else:
            spans.append([seed])
    return ", ".join(str(s[0]) if len(s) == 1 else f"{s[0]} to {s[-1]}" for s in spans)


def _spans(durations: Sequence[float]) -> str:
    if not durations:
        return NOTHING
    if len(durations) == 1:
        return f"{number(durations[0])} s"
    return f"{number(durations[0])} to {number(durations[-1])} s"


def _sections(runs: Sequence[Row], cells: Sequence[Cell], about: Mapping[str, str]) -> list[Section]:
    several = len({cell.site for cell in cells}) > 1
    comparisons = compare(runs)
    names = dict.fromkeys((cell.site, cell.scenario) for cell in cells)
    return [
        Section(
            anchor=f"scenario-{place}",
            name=_scenario_name(site, scenario, several),
            about=about.get(scenario, ""),
            cells=[c for c in cells if (c.site, c.scenario) == (site, scenario)],
            comparisons=[c for c in comparisons if (c.site, c.scenario) == (site, scenario)],
            rows=[r for r in runs if (r.site, r.scenario) == (site, scenario)],
        )
        for place, (site, scenario) in enumerate(names, 1)
    ]


def _scenario_name(site: str, scenario: str, several_sites: bool) -> str:
    name = "no attack" if scenario == NO_ATTACK else scenario
    return f"{site}: {name}" if several_sites else name


def _pairs(value: object, key: str) -> list[tuple[str, str]]:
    if value is None:
        return []
    if not isinstance(value, Mapping):
        raise TypeError(f"meta[{key!r}] must be a mapping, not {type(value).__name__}")
    return [(str(name), _told(member, key)) for name, member in value.items()]


def _sentences(value: object) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise TypeError(f"meta['limitations'] must be a list, not {type(value).__name__}")
    return [_told(sentence, "limitations") for sentence in value]


def _told(value: object, key: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return number(value)
    if isinstance(value, list | tuple):
        return ", ".join(_told(member, key) for member in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_told(member, key)}" for name, member in value.items())
    # A set would be told in another order in every process.
    raise TypeError(f"meta[{key!r}] holds a {type(value).__name__}, which the report cannot show")


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("results", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(number=number, signed=signed)
    environment.filters.update(
        number=number,
        amount=amount,
        change=change,
        percent=percent,
        signed=signed,
        points=points,
        interval=interval,
        survival=survival,
        survival_interval=survival_interval,
        p_value=p_value,
    )
    return environment


# --- figures in the page ----------------------------------------------------------------------------------------

_COLORS: Final[Mapping[str, tuple[str, str, str]]] = {
    # Name of the style variable, color on light paper (as drawn), color on dark paper (contrast 3:1 and more).
    "ink": ("--ink", palette.INK, "#e6e9ee"),
    "muted": ("--muted", palette.MUTED, "#a3adba"),
    "grid": ("--grid", palette.GRID, "#333c48"),
    "paper": ("--paper", palette.PAPER, "#14181d"),
    "alarm": ("--alarm", palette.ALARM, "#ff8a80"),
    "warning": ("--warning", palette.WARNING, "#e0a84f"),
    "unleveled": ("--unleveled", palette.UNLEVELED, "#8b94a3"),
    **{
        f"level {level}": (f"--level-{level}", light, dark)
        for level, (light, dark) in enumerate(
            zip(palette.LEVELS, ("#2f79c2", "#4793de", "#70b0f0", "#a3d0fd", "#e2effe"), strict=True)
        )
    },
}
_VARIABLE: Final = {light: f"var({name})" for name, light, _ in _COLORS.values()}
_HEX: Final = re.compile(r"#[0-9a-f]{6}\b")
_DRAWING: Final = frozenset({"svg", "g", "defs", "path", "use", "rect", "clipPath"})
_DROPPED: Final = frozenset({"metadata", "style", "title"})
_REFERENCE: Final = re.compile(r"url\(#")


def inline_svg(document: str, prefix: str, label: str) -> Markup:
    """Return an SVG document as an element for the page.

    Ids get ``prefix`` so that two figures do not share one, colors of the palette become style variables so that
    the figure follows light and dark, and namespaces, metadata and the size in points go. Raises ValueError for an
    element or reference other than plain drawing.
    """
    try:
        root = ElementTree.fromstring(document)
    except ElementTree.ParseError as error:
        raise ValueError(f"a figure is not an SVG document: {error}") from error
    element = _plain(root, prefix)
    for name in ("width", "height", "version"):
        element.attrib.pop(name, None)
    element.set("role", "img")
    element.set("aria-label", label)
    return Markup(ElementTree.tostring(element, encoding="unicode"))


def _plain(node: ElementTree.Element, prefix: str) -> ElementTree.Element:
    name = _local(node.tag)
    if name not in _DRAWING:
        raise ValueError(f"a figure may not hold the element {name!r}")
    plain = ElementTree.Element(name)
    for attribute, value in node.attrib.items():
        key = _local(attribute)
        if key.startswith("on"):
            raise ValueError(f"a figure may not hold the attribute {key!r}")
        if key == "id":
            value = prefix + value
        elif key == "href":
            if not value.startswith("#"):
                raise ValueError(f"a figure may not refer to {value!r}")
            value = f"#{prefix}{value[1:]}"
        elif "url(" in value:
            if len(_REFERENCE.findall(value)) != value.count("url("):
                raise ValueError(f"a figure may not refer to {value!r}")
            value = value.replace("url(#", f"url(#{prefix}")
        if key == "style":
            value = _HEX.sub(lambda match: _VARIABLE.get(match.group(), match.group()), value)
        plain.set(key, value)
    # Text between elements is the writer's indentation; drawing has none of its own.
    plain.extend([_plain(child, prefix) for child in node if _local(child.tag) not in _DROPPED])
    return plain


def _local(name: object) -> str:
    return str(name).rpartition("}")[2]
