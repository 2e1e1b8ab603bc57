"""Plants that an installed distribution brings: found by name, run with a site, told when they are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.site_new import new_site
from scenarios.experiment import Experiment, run
from testbed.errors import OtlabError, UnknownNameError
from testbed.plants import brought, plant_named
from testbed.randomness import Randomness

MODULE = """
from testbed.water import WaterPlant

class Mine(WaterPlant):
    name = "mine"

class Nothing:
    def __init__(self, *, stream, initial=None):
        self.name = "nothing"
"""
ENTRIES = """[otlab.plants]
mine = brought_plants:Mine
nothing = brought_plants:Nothing
broken = brought_plants:Missing
water = brought_plants:Nothing
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution as pip leaves it."""
    folder = tmp_path / "packages"
    about = folder / "brought_plants-1.0.dist-info"
    about.mkdir(parents=True)
    (folder / "brought_plants.py").write_text(MODULE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: brought-plants\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.usefixtures("installed")
def test_a_site_runs_on_a_plant_that_was_brought(tmp_path: Path) -> None:
    new_site("own", tmp_path / "own")
    path = tmp_path / "own" / "site.yaml"
    path.write_text(path.read_text().replace("model: water", "model: mine"))
    record, _ = run(Experiment(str(tmp_path / "own"), (), "test", None, 1, 60.0))
    assert record.product[-1] > 0


@pytest.mark.usefixtures("installed")
def test_none_replaces_a_plant_of_the_library() -> None:
    assert "water" in brought()
    assert plant_named("water", stream=Randomness(0).stream("plant")).signals


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("name", "says"), [("nothing", "lacks step"), ("broken", "cannot be loaded")])
def test_what_is_no_plant_is_told(name: str, says: str) -> None:
    with pytest.raises(OtlabError, match=says):
        plant_named(name, stream=Randomness(0).stream("plant"))


def test_a_name_that_nobody_brings() -> None:
    with pytest.raises(UnknownNameError):
        plant_named("mine", stream=Randomness(0).stream("plant"))
