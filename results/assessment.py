"""The pages of a risk assessment: its report and its requirements specification, from their data.

Both are complete in themselves as ``results.report``'s page is: no script, no request, and equal data give equal
bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from markupsafe import Markup, escape

from controls.catalogue import FOUNDATIONAL
from results.report import NOTHING, number, page


def render_report(report: Mapping[str, Any]) -> str:
    """The assessment as a page: risks, levels, gaps, what to improve, and the runs behind every number."""
    return page(
        "assessment.html.j2",
        _FILTERS,
        report=report,
        steps={name: step["result"] for name, step in report["steps"].items()},
        matrix=report["matrix"],
        arms=report["arms"],
        frs=FOUNDATIONAL,
    )


def render_specification(crs: Mapping[str, Any], approval: Mapping[str, Any] | None) -> str:
    """The cybersecurity requirements specification as a page, with its approval where there is one."""
    return page("crs.html.j2", _FILTERS, crs=crs, approval=approval, arms=crs["arms"], frs=FOUNDATIONAL)


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


_FILTERS: Final[Mapping[str, Callable[..., object]]] = {
    "small": small,
    "quantity": quantity,
    "vector": vector,
    "arm": arm,
    "said": said,
}
