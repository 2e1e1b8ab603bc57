"""The pages of a risk assessment: its report and its requirements specification, from their data.

Both are complete in themselves as ``results.report``'s page is: no script, no request, and equal data give equal
bytes. A browser prints them to PDF; the style has a sheet for paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from results.report import _COLORS, NOTHING, number

FOUNDATIONAL = ("IAC", "UC", "SI", "DC", "RDF", "TRE", "RA")


def render_report(report: Mapping[str, Any]) -> str:
    """The assessment as a page: risks, levels, gaps, what to improve, and the runs behind every number."""
    return (
        _environment()
        .get_template("assessment.html.j2")
        .render(
            report=report,
            steps={name: step["result"] for name, step in report["steps"].items()},
            matrix=report["matrix"],
            arms=report["arms"],
            frs=FOUNDATIONAL,
            colors=_COLORS,
        )
    )


def render_specification(
    crs: Mapping[str, Any], approval: Mapping[str, Any] | None, frs: Sequence[str] = FOUNDATIONAL
) -> str:
    """The cybersecurity requirements specification as a page, with its approval where there is one."""
    return (
        _environment()
        .get_template("crs.html.j2")
        .render(crs=crs, approval=approval, arms=crs["arms"], frs=frs, colors=_COLORS)
    )


def quantity(estimate: Mapping[str, Any] | None) -> Markup:
    """A number with its interval in small print."""
    if estimate is None or estimate["value"] is None:
        return Markup(NOTHING)
    low, high = estimate["low"], estimate["high"]
    span = "" if low is None or high is None else f"{small(low)} to {small(high)}"
    return Markup("{}{}").format(
        small(estimate["value"]), Markup('<span class="span">{}</span>').format(span) if span else ""
    )


def small(value: float | None) -> str:
    """A number that may be far below one: three digits, with an exponent under a thousandth."""
    if value is not None and 0 < abs(value) < 0.001:
        return f"{value:.1e}"
    return number(value)


def vector(levels: Sequence[int] | None) -> str:
    """Seven levels in the standard's form."""
    return NOTHING if levels is None else "{" + " ".join(map(str, levels)) + "}"


def arm(name: str | None) -> Markup:
    """A link to the runs behind a number."""
    return Markup("") if not name else Markup('<a href="#arm-{0}">{0}</a>').format(name)


def said(value: Any) -> Markup:
    """A text of the user's, or that there is none yet."""
    return escape(value) if value not in (None, "", [], ()) else Markup('<em class="note">not stated</em>')


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("results", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        number=number, small=small, quantity=quantity, vector=vector, arm=arm, said=said
    )
    return environment


def specification_lines(crs: Mapping[str, Any], approval: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """The specification for print: (style, text) lines of ``results.assessment_figures.print_pages``."""
    found = [
        ("title", crs["title"]),
        ("text", f"{crs['date']} {crs['organization']} {crs['responsible']}".strip()),
    ]
    if approval is None:
        found.append(("text", "Not approved (ZCR 7.1)."))
    else:
        state = "Approved" if approval["valid"] else "Approval no longer valid"
        found.append(
            ("text", f"{state}: {approval['by']}, {approval['role']}, {approval['date']} (ZCR 7.1).")
        )
    if crs["open"] or crs["stale"]:
        found.append(("head", "Not settled"))
        found += [("item", f"- {text}") for text in (*crs["stale"], *crs["open"])]
    found.append(("head", "6.2 System under consideration"))
    found += [
        ("text", f"{key.replace('_', ' ')}: {value or 'not stated'}") for key, value in crs["6.2"].items()
    ]
    found.append(("head", "6.3 Zones and conduits"))
    found += [("text", f"{zone}: {', '.join(names)}") for zone, names in crs["6.3"]["zones"].items()]
    found += [("text", f"{name}: {' to '.join(ends)}") for name, ends in crs["6.3"]["conduits"].items()]
    found.append(("head", "6.4 Characteristics of zones and conduits"))
    for place, one in crs["6.4"].items():
        found += _place_lines(place, one)
    found.append(("head", "6.5 Operating environment"))
    found += [("text", f"{key}: {value or 'not stated'}") for key, value in crs["6.5"].items()]
    found += [("head", "6.6 Threat environment"), ("text", crs["6.6"]["environment"] or "not stated")]
    found += [
        (
            "item",
            f"- {name} ({one['title']}): {one['attacker']}; {small(one['attempts'])} attempts a year, {one['basis']}",
        )
        for name, one in crs["6.6"]["threats"].items()
    ]
    found += [
        ("head", "6.7 Security policies"),
        *(("item", f"- {text}") for text in crs["6.7"] or ["not stated"]),
    ]
    found.append(("head", "6.8 Tolerable risk"))
    found.append(
        ("text", f"Ranks up to {crs['6.8']['tolerable']} are tolerable. Arms name the runs in crs.json.")
    )
    found += [
        (
            "item",
            f"- {name}: residual rank {one['rank']} (up to {one['rank_high']}),"
            f" {one['decision']['do']}; arm {one['arm']}",
        )
        for name, one in crs["6.8"]["residual"].items()
    ]
    found += [("head", "6.9 Regulation"), *(("item", f"- {text}") for text in crs["6.9"] or ["not stated"])]
    return found


def _place_lines(place: str, one: Mapping[str, Any]) -> list[tuple[str, str]]:
    todo = [f"{item['id']} ({item['state']})" for item in one["l_requirements"] if item["state"] != "met"]
    access = [text for text in (*one["f_logical_access"], *one["g_physical_access"]) if text]
    assets = [f"{name} ({about['criticality']})" for name, about in one["j_assets"].items()]
    return [
        ("sub", f"{place}: {one['title']}"),
        ("item", f"b accountable: {one['b_accountable'] or 'not stated'}"),
        (
            "item",
            f"c, d borders: {one['c_logical_border']}; {one['d_physical_border'] or 'physical not stated'}",
        ),
        ("item", f"e safety designation: {'safety related' if one['e_safety'] else 'none'}"),
        ("item", f"f, g access points: {', '.join(access) or 'none'}"),
        (
            "item",
            f"h data flows: {len(one['h_flows'])} documented; i connected to: {', '.join(one['i_connected'])}",
        ),
        ("item", f"j assets: {', '.join(assets) or 'none'}"),
        ("item", f"k {one['k_vector']}; SL-A {vector(one['sl_a'])}; gap {vector(one['gap'])}"),
        ("item", f"l requirements: {len(one['l_requirements'])}; not met: {', '.join(todo) or 'none'}"),
        ("item", f"m policies: {'; '.join(one['m_policies']) or 'not stated'}"),
        ("item", f"n assumptions: {one['n_assumptions'] or 'not stated'}"),
    ]
