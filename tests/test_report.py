"""Figures, the terminal table and the report: readable, complete in themselves, and equal for equal rows."""

from __future__ import annotations

import math
import os
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from results import figures, look, report
from results.report import amount, inline_svg, number, percent, render, table, write_report
from results.rows import Row
from results.statistics import Estimate, summarize
from testbed.errors import RunError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
SCENARIOS = (
    "none",
    "unauthorized-setpoint",
    "spoofed-reporting",
    "plc-program-download",
    "flood-of-requests",
)
LEVELS: tuple[tuple[str, int | None], ...] = tuple((f"SL {n}", n) for n in range(5))


def campaign(
    scenarios: Sequence[str] = SCENARIOS,
    profiles: Sequence[tuple[str, int | None]] = LEVELS,
    seeds: int = 4,
    *,
    site: str = "waterworks",
    detectable: bool = True,
) -> list[Row]:
    """A made-up campaign in which higher levels detect sooner and lose less."""
    rows = []
    for scenario in scenarios:
        for profile, level in profiles:
            for seed in range(1, seeds + 1):
                luck = random.Random(f"{scenario} {profile} {seed}")
                attacked = scenario != "none"
                strength = 2 if level is None else level
                time = luck.expovariate(1 / (6000, 2500, 400, 60, 8)[strength])
                found = attacked and detectable and time < 1740
                damage = luck.random() * (0.3, 0.2, 0.1, 0.03, 0.01)[strength] if attacked else 0.0
                row = Row(
                    site=site,
                    scenario=scenario,
                    profile=profile,
                    level=level,
                    seed=seed,
                    duration=3600.0 if attacked else 86_400.0,
                    attack_start=1860.0 if attacked else None,
                    detected=found,
                    detection_time=time if found else None,
                    detected_by=luck.choice(["write-from-unknown", "baseline"]) if found else None,
                    observed=1740.0 if attacked else 86_400.0,
                    impact_time=luck.uniform(30, 900) if attacked and strength < 4 else None,
                    contained_time=None,
                    availability={
                        "view": 1 - damage / 2,
                        "control": 1 - damage,
                        "safety": 1.0,
                        "production": 1 - damage - 0.002 * strength,
                    },
                    unsafe_seconds=damage * 900,
                    trips_true=int(damage > 0.1),
                    trips_spurious=0,
                    production_lost=damage * 400 + 0.4 * strength,
                    logins=4,
                    failed_logins=strength // 2,
                    lockouts=0,
                    operator_delay=luck.uniform(20, 90),
                    missed_deadlines=int(damage * 20),
                    false_alarms=float(luck.choice([0, 0, 1, 2])),
                    attack_blocked=attacked and strength == 4,
                )
                rows.append(row)
    return rows


def small(seeds: int = 2, *, detectable: bool = True) -> list[Row]:
    """Two scenarios and two levels: enough for every part of a page, and quick to draw."""
    return campaign(("none", "raid"), (("SL 0", 0), ("SL 3", 3)), seeds, detectable=detectable)


def page_of(rows: Sequence[Row], **meta: object) -> str:
    drawn = {name: look.svg(figure) for name, figure in figures.standard(rows).items()}
    return render(rows, summarize(rows), drawn, meta)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return campaign()


@pytest.fixture(scope="module")
def page(rows: list[Row]) -> str:
    return page_of(rows, title="A campaign", command="otlab compare --seeds 4", site="Waterworks of the lab")


# --- numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (-0.0, "0"),
        (1e-9, "0"),
        (0.0002, "<0.001"),
        (0.01234, "0.012"),
        (0.35, "0.35"),
        (0.9996, "1"),
        (-0.0001, "0"),
        (12.3456, "12.3"),
        (999.7, "1000"),
        (123456.7, "123457"),
        (-54.66, "−54.7"),
    ],
)
def test_a_number_has_three_digits_and_no_exponent(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (1.0, "100"),
        (0.99999, ">99.9"),
        (0.0001, "<0.1"),
        (0.9, "90.0"),
        (0.1234, "12.3"),
    ],
)
def test_only_all_is_told_as_100_percent_and_only_none_as_0(share: float | None, text: str) -> None:
    assert percent(share) == text


def test_a_median_beyond_observation_is_told_as_longer_than_it() -> None:
    assert report.survival(Estimate(None, 735.0, None), 1740.0, 8) == ">1740 s"
    assert report.survival_interval(Estimate(None, 735.0, None)) == "735 or more"
    assert report.survival(Estimate(12.34, 5.0, 80.0), 1740.0, 8) == "12.3 s"
    assert report.survival_interval(Estimate(12.34, 5.0, 80.0)) == "5 to 80"
    assert report.survival(Estimate(), 0.0, 0) == "–"


# --- the terminal -----------------------------------------------------------------------------------------------


def printed(rows: Sequence[Row], width: int) -> str:
    console = Console(width=width, file=None, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(table(summarize(rows), width))
    return capture.get()


def extreme() -> list[Row]:
    rows = campaign(
        ("none", "a-scenario-with-a-name-of-no-mean-length-at-all-indeed", "x" * 60),
        (("SL 0", 0), ("SL 4 without remote access", None)),
    )
    return [
        replace(row, unsafe_seconds=123456.0, production_lost=-98765.4, false_alarms=999.0) for row in rows
    ]


@pytest.mark.parametrize("width", [80, 100, 120, 200])
@pytest.mark.parametrize("make", [campaign, extreme])
def test_the_table_fits_its_terminal_and_cuts_no_number(width: int, make: Any) -> None:
    rows = make()
    text = printed(rows, width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    for cell in summarize(rows):
        if cell.attacked:
            assert f"{cell.detected}/{cell.attacked}" in text


def test_the_narrow_table_keeps_detection_and_availability(rows: list[Row]) -> None:
    text = printed(rows, 80)
    for word in ("Detected", "Median", "View", "Contr", "Safe", "Prod", "Unsafe"):
        assert word in text
    assert "False" not in text
    assert "False" in printed(rows, 120)


def test_undetected_scenarios_print_what_the_median_exceeds() -> None:
    assert ">1740" in printed(campaign(detectable=False), 80)


def test_a_name_in_brackets_is_not_markup() -> None:
    rows = campaign(("[bold]raid[/bold]",), (("[red]", None),), 2)
    assert "[bold]raid[/bold]" in printed(rows, 120)
    assert "[red]" in printed(rows, 120)


def test_two_sites_are_told_apart() -> None:
    text = printed(campaign(("none",)) + campaign(("none",), site="refinery"), 120)
    assert "waterworks: no attack" in text
    assert "refinery: no attack" in text


def test_a_table_of_nothing_is_an_empty_table() -> None:
    assert table([]).row_count == 0


# --- the page ---------------------------------------------------------------------------------------------------

VOID = {"meta", "br"}


class Outline(HTMLParser):
    """Ids, links and nesting of a page; raises on a tag that closes out of turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.tags: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def test_the_page_asks_for_nothing_outside_itself(page: str) -> None:
    outline = Outline(page)
    assert {link[:1] for link in outline.links} == {"#"}
    assert not {"script", "link", "iframe", "img", "object", "base"} & set(outline.tags)
    assert not [name for name, _ in outline.attributes if name.startswith("on")]
    assert set(re.findall(r"url\([^)]{5}", page)) <= {"url(#figu"}
    assert not re.search(r"https?:|@import|//[a-z]", page)
    assert "default-src 'none'" in page


def test_every_tag_is_closed_every_id_is_single_and_every_link_leads_somewhere(page: str) -> None:
    outline = Outline(page)
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    assert {link[1:] for link in outline.links} <= set(outline.ids)


def test_the_page_holds_what_a_reader_needs_to_judge_it(page: str, rows: list[Row]) -> None:
    text = re.sub(r"<style>.*?</style>|<svg.*?</svg>|<[^>]+>", " ", page, flags=re.DOTALL)
    for section in ("What was run", "Summary", "Figures", "Definitions", "Limitations", "How to reproduce"):
        assert section in text
    for scenario in SCENARIOS[1:]:
        assert scenario in text
    for fact in (
        "1 to 4",
        "SL 0, SL 1, SL 2, SL 3, SL 4",
        "otlab compare --seeds 4",
        "Waterworks of the lab",
    ):
        assert fact in text
    assert "pymodbus" in text
    assert report.fingerprint(rows) in text
    assert page.count("<svg") == 3


def test_each_number_of_a_cell_is_on_the_page(page: str, rows: list[Row]) -> None:
    for cell in summarize(rows):
        assert f">{percent(cell.availability['production'].value)}<" in page
        if cell.attacked:
            assert f">{cell.detected}/{cell.attacked}<" in page


def test_every_run_can_be_looked_up(page: str, rows: list[Row]) -> None:
    assert page.count("Every run (20)") == 5
    for row in rows:
        if row.detection_time is not None:
            assert f"<td>{number(row.detection_time)}</td>" in page


def test_containment_is_shown_only_where_it_was_measured(page: str) -> None:
    assert "containment" not in page
    measured = [replace(row, contained_time=5.0) if row.attacked else row for row in small()]
    assert "Median time to<br>containment" in page_of(measured)


def test_names_from_a_users_file_are_text_not_tags() -> None:
    evil = "<script>alert(1)</script>\"'&"
    rows = campaign(("none", evil), ((evil, None), ("SL 1", 1)), 2, site=evil)
    page = page_of(rows, title=evil, command=evil, titles={evil: evil}, profiles={evil: evil}, note=evil)
    outline = Outline(page)
    assert "script" not in outline.tags
    assert outline.open == []
    assert "&lt;script&gt;" in page


def test_the_page_follows_light_and_dark_with_its_figures(page: str) -> None:
    assert "prefers-color-scheme: dark" in page
    drawings = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert "var(--ink)" in drawings
    assert "var(--level-4)" in drawings
    assert not re.search(r"(fill|stroke): ?#", drawings), "a color that would not change with the theme"
    for variable in set(re.findall(r"var\((--[a-z0-9-]+)\)", page)):
        assert page.count(f"{variable}: #") >= 2, variable


@pytest.mark.parametrize("dark", [False, True])
def test_text_and_marks_keep_their_contrast_on_both_papers(dark: bool) -> None:
    """WCAG 2.2: 4.5:1 for text (1.4.3), 3:1 for marks (1.4.11)."""

    def luminance(color: str) -> float:
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(a: str, b: str) -> float:
        low, high = sorted([luminance(a), luminance(b)])
        return (high + 0.05) / (low + 0.05)

    colors = {name: triple[2 if dark else 1] for name, triple in report._COLORS.items()}
    for name in ("ink", "muted", "alarm", "warning"):
        assert contrast(colors[name], colors["paper"]) >= 4.5, name
    levels = [colors[f"level {level}"] for level in range(5)]
    for color in (*levels, colors["unleveled"]):
        assert contrast(color, colors["paper"]) >= 3.0, color
    for lower, higher in pairwise(levels):
        assert contrast(lower, higher) >= 1.35, "levels must differ in lightness, not in hue alone"


def test_rows_in_any_order_give_the_same_page() -> None:
    shuffled = small()
    random.Random(1).shuffle(shuffled)
    assert shuffled != small()
    assert page_of(shuffled) == page_of(small())


def test_another_process_with_another_hash_seed_gives_the_same_bytes() -> None:
    program = (
        "import hashlib, sys; sys.path.insert(0, 'tests')\n"
        "from test_report import page_of, small\n"
        "print(hashlib.sha256(page_of(small()).encode()).hexdigest())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-B", "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_a_changed_row_changes_the_fingerprint(rows: list[Row]) -> None:
    assert report.fingerprint(rows) == report.fingerprint(list(reversed(rows)))
    assert report.fingerprint(rows) != report.fingerprint([replace(rows[0], logins=99), *rows[1:]])


def test_a_report_is_written_whole_or_refused_by_name(tmp_path: Path, rows: list[Row]) -> None:
    write_report(tmp_path / "out" / "report.html", rows, summarize(rows), {}, {})
    assert (tmp_path / "out" / "report.html").read_text(encoding="utf-8").endswith("</html>\n")
    with pytest.raises(RunError, match="out"):
        write_report(tmp_path / "out", rows, summarize(rows), {}, {})


@pytest.mark.parametrize(
    "rows",
    [
        [],
        campaign(("none",), seeds=1),
        small(seeds=1),
        campaign(("raid",), seeds=1),
        small(detectable=False),
        [replace(row, attack_start=None, detected=False, detection_time=None) for row in small()],
        [replace(row, availability={}) for row in small()],
    ],
    ids=["nothing", "quiet", "one seed", "no quiet runs", "undetected", "never acted", "no functions"],
)
def test_poor_campaigns_still_make_a_sound_page(rows: list[Row]) -> None:
    outline = Outline(page_of(rows))
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))


@pytest.mark.parametrize(
    "meta",
    [
        {"note": {1, 2}},
        {"note": [object()]},
        {"versions": ["1"]},
        {"limitations": "text"},
        {"titles": "text"},
    ],
)
def test_facts_that_cannot_be_told_in_one_way_are_refused(meta: dict[str, object]) -> None:
    with pytest.raises(TypeError, match="meta"):
        render([], [], {}, meta)


def test_any_other_fact_is_shown_as_given() -> None:
    page = render([], [], {}, {"note": ["a", 2, 2.5, True, {"k": "v"}], "limitations": ["No sleep."]})
    assert "<dt>note</dt><dd>a, 2, 2.5, yes, k: v</dd>" in page
    assert "<li>No sleep.</li>" in page


def test_a_figure_of_ones_own_is_shown_under_its_caption() -> None:
    page = render([], [], {"Run 3 in full.": '<svg xmlns="http://www.w3.org/2000/svg"><g id="a"/></svg>'}, {})
    assert "<figcaption>Run 3 in full.</figcaption>" in page
    assert 'id="figure1-a"' in page


@pytest.mark.parametrize(
    "inside",
    [
        "<script>1</script>",
        "<foreignObject/>",
        "<image href='x.png'/>",
        "<g onclick='1'/>",
        "<use href='other.svg#a'/>",
        "<g style='fill: url(http://example.org)'/>",
        "<g>",
    ],
)
def test_a_figure_with_more_than_drawing_is_refused(inside: str) -> None:
    with pytest.raises(ValueError, match="figure"):
        inline_svg(f'<svg xmlns="http://www.w3.org/2000/svg">{inside}</svg>', "p-", "")


# --- figures ----------------------------------------------------------------------------------------------------


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of drawn texts whose boxes intersect by more than a hair, and texts that leave the sheet."""
    from matplotlib.text import Text

    drawn: list[Text] = []
    draw = Text.draw

    def recorded(text: Text, renderer: Any) -> None:
        if text.get_visible() and text.get_text().strip():
            drawn.append(text)
        draw(text, renderer)

    # Asking the figure for its texts would also give the labels of ticks out of sight.
    with look.style(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", recorded)
        figure.draw_without_rendering()
        boxes = [(text.get_text(), text.get_window_extent()) for text in drawn]
    width, height = figure.bbox.width, figure.bbox.height
    faults = [
        (name, "the edge")
        for name, box in boxes
        if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1
    ]
    for (a, one), (b, two) in combinations(boxes, 2):
        wide = min(one.x1, two.x1) - max(one.x0, two.x0)
        high = min(one.y1, two.y1) - max(one.y0, two.y0)
        if wide > 1 and high > 1:
            faults.append((a, b))
    return faults


MANY = (
    *LEVELS,
    ("SL 3 + allow-list", 3),
    ("no remote access", None),
    ("a profile with quite a long name", None),
)


@pytest.mark.parametrize(
    "rows",
    [
        campaign(seeds=10),
        campaign(SCENARIOS[:3], seeds=1),
        campaign(SCENARIOS[:3], detectable=False),
        campaign(("raid",)),
        campaign(SCENARIOS[:3], profiles=MANY),
        campaign(("none", "a scenario whose title was written by someone with time on their hands", "b")),
        campaign(("raid",)) + campaign(("raid",), site="refinery"),
    ],
    ids=["10 seeds", "1 seed", "undetected", "1 scenario", "8 profiles", "long names", "2 sites"],
)
def test_no_two_labels_of_a_standard_figure_touch_and_none_leaves_the_sheet(rows: list[Row]) -> None:
    for name, figure in figures.standard(rows).items():
        assert overlaps(figure) == [], name
        assert figure.get_size_inches()[0] <= 178 / 25.4, "wider than A4 within 16 mm margins"
        assert figure.get_size_inches()[1] <= 265 / 25.4, "taller than A4 within 16 mm margins"


def test_many_scenarios_go_on_several_sheets() -> None:
    names = [f"s{i:02}" for i in range(17)]
    drawn = figures.standard(campaign(names, (("SL 1", 1),), seeds=1))
    assert [name for name in drawn if name.startswith("availability")] == [
        "availability",
        "availability-2",
        "availability-3",
    ]
    assert "Page 2." in render([], [], {"availability-2": "<svg/>"}, {})


def test_a_figure_without_runs_for_it_is_left_out() -> None:
    assert list(figures.standard(campaign(("none",)))) == ["availability"]
    assert figures.standard([]) == {}


def test_drawing_again_gives_the_same_bytes() -> None:
    first, second = figures.standard(small()), figures.standard(small())
    for name in first:
        text = look.svg(first[name])
        look.png(first[name])  # drawing it in another format in between must not move anything
        assert look.svg(first[name]) == text == look.svg(second[name])
        assert look.png(first[name]) == look.png(second[name])


def test_a_png_is_a_png_of_the_asked_resolution() -> None:
    [figure] = figures.standard(campaign(("none",), seeds=1)).values()
    data = look.png(figure, dpi=100)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert int.from_bytes(data[16:20], "big") == 700


def test_an_svg_names_no_date_and_no_program() -> None:
    [figure] = figures.standard(campaign(("none",), seeds=1)).values()
    assert not re.search(r"dc:date|Matplotlib v|20\d\d-\d\d", look.svg(figure))


def test_a_level_looks_the_same_in_every_campaign() -> None:
    alone = figures._looks(campaign(profiles=(("SL 3", 3),), seeds=1))
    among = figures._looks(campaign(profiles=MANY, seeds=1))
    assert alone["SL 3"] == among["SL 3"]
    assert len({look.marker for look in among.values()}) == len(MANY)


def test_importing_the_package_does_not_import_matplotlib() -> None:
    program = (
        "import sys, results.figures, results.report, results.statistics, results.store\n"
        "sys.exit('matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_drawing_looks_for_no_window_system(tmp_path: Path) -> None:
    """A backend named by the environment that does not even exist does no harm, and pyplot stays away."""
    program = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from test_report import campaign\n"
        "from results import figures, look\n"
        "[look.png(f) for f in figures.standard(campaign(('none',), seeds=1)).values()]\n"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "DISPLAY"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-B", "-c", program], cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0


# --- one run's time line ----------------------------------------------------------------------------------------

TIMES = [float(t) for t in range(0, 3600, 10)]
LEVEL = [2 + 0.4 * math.sin(t / 500) + max(0.0, t - 1860) * 0.001 for t in TIMES]
EVENTS = [
    (1860.0, "attack", "T0846 scan the control zone"),
    (1925.0, "attack", "T0836 write setpoint 4.5 m"),
    (2600.0, "attack", "T0816 stop pump 2"),
    *((1862.0 + 3 * i, "alert", "new talker 10.0.3.66") for i in range(12)),
    (1930.0, "alert", "write-from-unknown"),
    (3500.0, "alert", "an alert whose text goes on and on for as long as there is paper"),
    (2040.0, "operator", "acknowledge LAH-101"),
    (2110.0, "operator", "setpoint back to 2.0 m"),
]


def drawn_run(events: Sequence[figures.Event] = tuple(EVENTS)) -> Figure:
    return figures.timeline(
        TIMES,
        {"LT-101": LEVEL, "LT-102": [1.5] * len(TIMES), "FT-101": [0.05 + t / 1e6 for t in TIMES]},
        units={"LT-101": "m", "LT-102": "m", "FT-101": "m³/s"},
        limits={"LT-101": {"HH": 3.5, "H": 3.45, "L": 1.0, "LL": 0.98}, "LT-102": {"H": 3.45}},
        events=events,
        bands={
            "view": [(1990.0, 2300.0)],
            "control": [(1925.0, 2115.0), (2600.0, 2710.0)],
            "safety": [],
            "safe limits": [(2000.0, 2100.0)],
        },
        title="unauthorized-setpoint, SL 2, seed 4",
    )


def texts(figure: Figure) -> set[str]:
    from matplotlib.text import Text

    return {text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)}


def test_a_time_line_labels_limits_events_and_bands_without_a_touch() -> None:
    figure = drawn_run()
    assert overlaps(figure) == []
    told = texts(figure)
    assert {"LT-101 HH", "LT-101 H, LT-102 H", "LT-101 L", "LT-101 LL"} <= told
    assert {"attack", "alert", "operator", "no view", "no control", "no safety", "safe limits"} <= told
    assert {"T0836 write setpoint 4.5 m", "new talker 10.0.3.66 ×12", "m³/s"} <= told


def test_a_time_line_gives_the_same_bytes_twice() -> None:
    assert look.svg(drawn_run()) == look.svg(drawn_run())


def test_labels_that_find_no_room_are_counted() -> None:
    events = [(1800.0 + i, "alert", f"rule {i} found something odd") for i in range(20)]
    figure = drawn_run(events)
    assert overlaps(figure) == []
    assert "alert\n(+14 more)" in texts(figure)


@settings(max_examples=20, deadline=None)  # measuring text is slow
@given(
    st.lists(
        st.tuples(st.floats(0, 3600), st.sampled_from(["attack", "alert"]), st.text(max_size=30)), max_size=25
    )
)
def test_no_event_is_lost_from_a_lane(events: list[figures.Event]) -> None:
    lane = figures._placed(sorted(events), 0.0, 3600.0)
    assert len(lane.marks) == len(events)
    changes = sum(a[2] != b[2] for a, b in pairwise(sorted(events))) + bool(events)
    assert len(lane.labels) + lane.unsaid == changes


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"events": [(5.0, "attack", "x" * 200)]},
        {"events": [(0.0, "a", "")], "bands": {"view": [(0.0, 0.0)]}},
        {"times": [0.0, 1.0], "series": {"a": [math.nan, math.nan]}},
        {"times": [0.0, 1.0], "series": {"a $x$": [1.0, 1.0]}, "limits": {"a $x$": {"HH": 1.0}}},
        {"times": [0.0, 1.0], "series": {"水位": [1.0, 2.0]}, "title": "水"},
        {"times": [0.0, 2_592_000.0], "series": {"a": [1.0, 2.0]}},
    ],
    ids=["empty", "one event", "blank", "no values", "dollar signs", "no glyphs", "a month"],
)
def test_a_poor_run_is_drawn_all_the_same(given: dict[str, Any]) -> None:
    arguments = {"units": {}, "limits": {}, "events": [], "bands": {}, **given}
    figure = figures.timeline(arguments.pop("times", []), arguments.pop("series", {}), **arguments)
    assert look.svg(figure).startswith("<?xml")
    assert overlaps(figure) == []


def test_a_series_of_another_length_than_the_times_is_refused() -> None:
    with pytest.raises(ValueError, match="LT-101: 1 values for 2 times"):
        figures.timeline([0.0, 1.0], {"LT-101": [1.0]}, units={}, limits={}, events=[], bands={})


@pytest.mark.parametrize(
    ("value", "told"),
    [(None, "–"), (0.25, "0.25"), (999_999.0, "999999"), (-245_844_450.0, "−2.46e8"), (3e10, "3.00e10")],
)
def test_products_counted_in_joules_keep_a_column_narrow(value: float | None, told: str) -> None:
    assert amount(value) == told
