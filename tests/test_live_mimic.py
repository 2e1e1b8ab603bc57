"""The picture of a process: drawn for any site, moved by its tags, and harmless whatever a site's file says."""

from __future__ import annotations

import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lab.live.mimic import FILE, draw, mimic_of, range_of
from scenarios.experiment import site_of
from testbed.errors import DocumentError
from testbed.site import Hmi, Site, site_names

SVG = "{http://www.w3.org/2000/svg}"


def station(site: Site) -> str:
    return next(name for name, asset in site.assets.items() if isinstance(asset, Hmi))


def copied(name: str, folder: Path, **changes: str) -> Site:
    """A shipped site of one's own, with other files in its folder; None takes one away."""
    shutil.copytree(site_of(name).folder, folder / name)
    for file, text in changes.items():
        (folder / name / file.replace("_yaml", ".yaml")).write_text(text, encoding="utf-8")
    return site_of(str(folder / name))


@pytest.mark.parametrize("name", site_names())
@pytest.mark.parametrize("own", [True, False])
def test_every_site_has_a_picture_with_or_without_a_file(tmp_path: Path, name: str, own: bool) -> None:
    site = copied(name, tmp_path)
    if not own:
        (site.folder / FILE).unlink()
    screen = station(site)
    root = ElementTree.fromstring(draw(site, screen))
    controllers = site.controllers()
    asset = site.assets[screen]
    assert isinstance(asset, Hmi)
    known = {tag for plc in asset.polls for tag in controllers[plc].tags}
    shown = {element.get("data-tag") for element in root.iter() if element.get("data-tag")}
    assert shown <= known
    measured = {
        tag for plc in asset.polls for tag, one in controllers[plc].tags.items() if one.signal and one.alarms
    }
    assert measured <= shown, "what can alarm is in the picture"
    for element in root.iter():
        assert element.tag.removeprefix(SVG) in {"svg", "g", "rect", "path", "circle", "text", "title"}
        assert not {
            name for name in element.attrib if name == "style" or name.startswith("on") or "href" in name
        }
    for element in root.iter(f"{SVG}g"):
        if "choice" in (element.get("class") or "").split():
            assert (element.get("tabindex"), element.get("role")) == ("0", "button")
            assert element.get("aria-label")


def test_words_of_a_site_are_words_in_its_picture(tmp_path: Path) -> None:
    hostile = '<script>alert(1)</script>\\" onload=x'
    text = f'rows: [{{title: "{hostile}", items: [{{kind: vessel, level: LIT101, text: "{hostile}"}}]}}]'
    site = copied("water", tmp_path, mimic_yaml=text)
    picture = draw(site, station(site))
    assert "<script" not in picture
    root = ElementTree.fromstring(picture)
    assert [one.text for one in root.iter(f"{SVG}text") if one.get("class") == "row-title"] == [
        hostile.replace("\\", "")
    ]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("rows: []", "rows"),
        ("rows: [{title: A, items: [{kind: valve, tag: NOSUCH}]}]", "NOSUCH.*shows no such tag"),
        ("rows: [{title: A, items: [{kind: piano, tag: LIT101}]}]", "kind"),
        ("rows: [{title: A, items: [{kind: valve}]}]", "tag"),
    ],
)
def test_a_file_that_is_wrong_is_told(tmp_path: Path, text: str, part: str) -> None:
    site = copied("water", tmp_path, mimic_yaml=text)
    with pytest.raises(DocumentError, match=part):
        mimic_of(site, station(site))


def test_scales_reach_as_far_as_limits_need() -> None:
    site = site_of("boiler")
    low, high = range_of(site, dict(site.controllers()["plc1"].tags), "LT1")
    assert (low, high) == (-330.0, 330.0)
