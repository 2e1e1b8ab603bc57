"""Pages as PDF, by WeasyPrint from the same HTML; equal pages give equal bytes. It fetches nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from results.store import save_bytes
from testbed.errors import OtlabError

#: On paper nothing scrolls: texts in tables wrap, and tables of every run are set smaller.
_PAPER: Final = """
table { width: 100%; }
th[scope=row], td.text, td.words, td.rules, .span { min-width: 0 !important; white-space: normal !important; }
details table { font-size: 5pt; }
details th, details td { padding: .1rem .2rem; }
@page { @bottom-right { content: counter(page) " / " counter(pages); font: 7pt "DejaVu Sans", sans-serif; } }
"""


def available() -> bool:
    """Whether the extra and the libraries that it needs are there."""
    try:
        _weasyprint()
    except OtlabError:
        return False
    return True


def write_pdf(path: Path, page: str) -> None:
    """Write ``page`` (HTML) as PDF. Raises OtlabError without the extra, RunError if the file cannot be written."""
    save_bytes(path, to_pdf(page))


def to_pdf(page: str) -> bytes:
    """Return ``page`` (HTML) as PDF. Raises OtlabError without the extra, or for a page that refers to a file."""
    weasyprint = _weasyprint()
    urls = weasyprint.urls

    class Nothing(urls.URLFetcher):  # type: ignore[name-defined,misc]
        def fetch(self, url: str, headers: object = None) -> object:
            raise urls.FatalURLFetchingError(url)

    try:
        written = weasyprint.HTML(string=_plain_colors(page), url_fetcher=Nothing()).write_pdf(
            stylesheets=[weasyprint.CSS(string=_PAPER)]
        )
    except urls.FatalURLFetchingError as error:
        raise OtlabError(f"the page refers to {error}; a report refers to nothing outside itself") from None
    return bytes(written)


def _plain_colors(page: str) -> str:
    """``page`` with the style variables of its light colors in place: drawings in a PDF know none."""
    head, mark, rest = page.partition("@media")
    values = dict(re.findall(r"(--[\w-]+):\s*([^;{}]+);", head))
    return re.sub(r"var\((--[\w-]+)\)", lambda found: values.get(found[1], found[0]), head + mark + rest)


def _weasyprint() -> Any:
    try:
        import weasyprint
        import weasyprint.urls
    except (ImportError, OSError):  # without Pango it fails to load a library
        raise OtlabError(
            "PDF needs the extra, pip install 'otlab[pdf]', and Pango (Debian: libpango-1.0-0 libpangoft2-1.0-0)"
        ) from None
    return weasyprint
