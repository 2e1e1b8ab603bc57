"""Describing a site of one's own: made from a shipped one, drawn, drafted from a list of assets and from captures."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devices.world import World
from lab.cli import main
from lab.site_drawing import draw, layout
from lab.site_import import draft, parse_assets, traffic_from, traffic_of, unknown_to
from lab.site_new import new_site
from scenarios.experiment import Experiment, run, site_of
from testbed.errors import DocumentError, OtlabError, UnknownNameError
from testbed.figures import load_figures
from testbed.pcap import Reading, Seen, packets, read
from testbed.site import load_site, site_names

LIST = "Asset Name;IP Address;Device Type;Manufacturer;Segment\n"


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What twenty seconds of the unattacked reference site looks like on the wire."""
    path = tmp_path_factory.mktemp("capture") / "quiet.pcapng"
    run(Experiment("water", (), "test", None, 1, 20.0), capture=path)
    return path


# -- drawing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", site_names())
def test_a_drawing_shows_every_zone_asset_and_conduit(name: str) -> None:
    site = load_site(name)
    root = ElementTree.fromstring(draw(site))
    texts = {one.text for one in root.iter() if one.tag.endswith("text")}
    assert {zone.title for zone in site.zones.values()} <= texts
    assert {*site.assets, *site.conduits} <= texts


@pytest.mark.parametrize("name", site_names())
def test_nothing_in_a_drawing_lies_on_anything_else(name: str) -> None:
    found = layout(load_site(name))
    for boxes in (found.zones, found.assets, found.labels):
        assert not [(a, b) for a, b in combinations(boxes, 2) if boxes[a].meets(boxes[b])]
    for label in found.labels.values():
        assert not any(label.meets(zone) for zone in found.zones.values())
        assert label.right <= found.width
        assert label.bottom <= found.height


@pytest.mark.parametrize("name", site_names())
def test_no_two_conduits_run_over_each_other(name: str) -> None:
    lines = layout(load_site(name)).lines
    for one, other in combinations(lines.values(), 2):
        assert one[1] not in (other[1], other[3])
        assert one[3] not in (other[1], other[3])
        if one[2] == other[2]:
            spans = sorted([sorted((one[1], one[3])), sorted((other[1], other[3]))])
            assert spans[0][1] < spans[1][0]


def test_the_same_site_gives_the_same_drawing() -> None:
    assert draw(load_site("water")) == draw(load_site("water"))


def test_titles_cannot_break_the_drawing(tmp_path: Path) -> None:
    new_site("odd", tmp_path, title='<script>alert("x")</script> & co')
    text = draw(load_site(tmp_path))
    ElementTree.fromstring(text)
    assert "<script>" not in text


# -- a site of one's own -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["water", *(pytest.param(one, marks=pytest.mark.slow) for one in site_names() if one != "water")]
)
def test_a_site_made_from_a_shipped_one_comes_to_life(name: str, tmp_path: Path) -> None:
    new_site("mine", tmp_path / "mine", name)
    site = site_of(str(tmp_path / "mine"))
    assert site.name == "mine"
    World(site, 1, load_figures()).close()


def test_what_is_left_out_takes_with_it_what_needs_it(tmp_path: Path) -> None:
    more = new_site("mine", tmp_path / "mine", without=["dmz", "opcua_server"])
    site = load_site(tmp_path / "mine")
    assert {"jump1", "mail1", "hist1", "enterprise"} <= set(more)
    assert not {"dmz", "enterprise"} & set(site.zones)
    named = {flow.source for one in site.conduits.values() for flow in one.flows}
    assert named <= set(site.assets)


@pytest.mark.slow
def test_a_small_site_runs_quietly(tmp_path: Path) -> None:
    new_site(
        "small", tmp_path / "s", without=["enterprise", "dmz", "wireless", "historian", "monitor", "siem"]
    )
    record, trace = run(Experiment(str(tmp_path / "s"), (), "test", None, 1, 300.0))
    assert not [one for one in trace.events if one.kind in ("trip", "alarm")]
    assert not record.lost["view"]


def test_addresses_move_to_the_network_that_is_given(tmp_path: Path) -> None:
    new_site("mine", tmp_path, network="172.20.0.0/16")
    assert all(asset.address.startswith("172.20.") for asset in load_site(tmp_path).assets.values())


def test_the_picture_of_the_process_goes_along(tmp_path: Path) -> None:
    new_site("mine", tmp_path)
    assert (tmp_path / "mimic.yaml").is_file()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"name": "Mine"}, "small letters"),
        ({"without": ["plc1"]}, "cannot be left out"),
        ({"network": "10.0.0.0/8"}, "length 16"),
        ({"network": "nonsense"}, "length 16"),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(
    arguments: dict[str, object], says: str, tmp_path: Path
) -> None:
    with pytest.raises(OtlabError, match=says):
        new_site(**{"name": "mine", "folder": tmp_path, **arguments})  # type: ignore[arg-type]


def test_a_name_that_the_model_lacks_and_a_folder_in_use(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError):
        new_site("mine", tmp_path, without=["cellar"])
    new_site("mine", tmp_path)
    with pytest.raises(OtlabError, match="holds a site already"):
        new_site("mine", tmp_path)


def test_the_guided_way_asks_and_writes(tmp_path: Path) -> None:
    answers = "water\nMy plant\n10.9.0.0/16\n1\n" + "n\n" * 6
    found = CliRunner().invoke(
        main, ["site", "new", "mine", "--out", str(tmp_path / "m"), "--guided"], input=answers
    )
    assert found.exit_code == 0, found.output
    site = load_site(tmp_path / "m")
    assert site.title == "My plant"
    assert set(site.zones) == {"operations", "control", "safety"}


# -- import of a list of assets ----------------------------------------------------------------------------------


def test_a_list_becomes_zones_and_assets_whatever_its_columns_are_called() -> None:
    rows = parse_assets(
        LIST + "Boiler PLC;10.1.1.5;PLC;Acme;Cell 1\nPanel;10.1.2.9;HMI;Acme;Ops\n", "list.csv"
    )
    found = draft(None, rows)
    assert found["assets"]["boiler-plc"]["kind"] == "plc"
    assert found["assets"]["panel"]["kind"] == "hmi"
    assert set(found["zones"]) == {"cell-1", "ops"}


def test_every_bad_row_is_told_with_its_line() -> None:
    with pytest.raises(DocumentError) as told:
        parse_assets(LIST + "a;300.1.1.1;;;\nb;10.0.0.1;;;\nc;10.0.0.1;;;\n", "list.csv")
    text = str(told.value)
    assert "list.csv:2" in text
    assert "list.csv:4" in text
    assert "stands in line 3 already" in text


def test_a_list_without_addresses_says_what_to_call_them() -> None:
    with pytest.raises(DocumentError, match="no column of addresses"):
        parse_assets("name,kind\nx,plc\n", "list.csv")


def _is_told(make: Callable[[], object]) -> None:
    with suppress(OtlabError):
        make()


@given(st.text(max_size=400))
def test_no_text_breaks_the_reading_of_a_list(text: str) -> None:
    _is_told(lambda: draft(None, parse_assets(text, "list.csv")))


CELLS = st.sampled_from(["", "plc", "10.0.0.1", "10.0.0.2", '"', "SR 1.1", "Ä", "\x00", "-", "_"])


@given(st.lists(st.lists(CELLS, max_size=6), max_size=8))
def test_no_row_breaks_a_draft(rows: list[list[str]]) -> None:
    text = "name,ip,zone,type,vendor,cannot\n" + "\n".join(",".join(row) for row in rows)
    _is_told(lambda: draft(None, parse_assets(text, "list.csv")))


# -- import of captures ------------------------------------------------------------------------------------------


def test_a_capture_shows_the_site_that_it_was_taken_at(capture: Path) -> None:
    traffic = traffic_of(capture)
    site = load_site("water")
    found = draft(traffic)
    by_address = {one["address"]: one for one in found["assets"].values()}
    for name in ("plc1", "plc2", "plc3"):
        assert by_address[site.assets[name].address]["kind"] == "plc"
    assert by_address[site.assets["hmi1"].address]["kind"] == "hmi"
    assert traffic.reading.unreadable == 0
    asked = traffic.flows[site.assets["hmi1"].address, site.assets["plc1"].address, 502, "tcp"].functions
    assert set(asked) & {1, 2, 3, 4}
    assert set(asked) & {6, 16}  # its heartbeat


def test_the_site_knows_all_that_its_own_capture_shows(capture: Path) -> None:
    assert unknown_to(load_site("water"), traffic_of(capture)) == []


def test_another_site_does_not(capture: Path, tmp_path: Path) -> None:
    new_site("mine", tmp_path, without=["opcua_server"])
    told = unknown_to(load_site(tmp_path), traffic_of(capture))
    assert f"host {load_site('water').assets['opcua1'].address} is no asset of the site" in told


def test_a_stranger_who_commands_is_found(tmp_path: Path) -> None:
    path = tmp_path / "attack.pcapng"
    run(Experiment("water", (), "test", "stranger-commands", 1, 90.0), capture=path)
    told = "\n".join(unknown_to(load_site("water"), traffic_of(path)))
    assert "is no asset of the site" in told


def test_a_capture_that_breaks_off_gives_what_it_held(capture: Path, tmp_path: Path) -> None:
    raw = capture.read_bytes()
    (tmp_path / "cut.pcapng").write_bytes(raw[: len(raw) // 2 + 3])
    reading = Reading()
    assert list(packets(tmp_path / "cut.pcapng", reading))
    assert reading.cut


def test_what_is_no_capture_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.pcap").write_bytes(b"hello world")
    with pytest.raises(OtlabError, match="neither pcap nor pcapng"):
        traffic_of(tmp_path / "x.pcap")
    with pytest.raises(OtlabError, match="cannot be read"):
        traffic_of(tmp_path / "missing.pcap")


MAGICS = [b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4", b"\x4d\x3c\xb2\xa1", b"\x0a\x0d\x0d\x0a"]


@settings(max_examples=300)
@given(st.sampled_from(MAGICS), st.binary(max_size=400))
def test_no_bytes_break_the_reading_of_a_capture(magic: bytes, rest: bytes) -> None:
    _is_told(lambda: draft(traffic_from(read(io.BytesIO(magic + rest), "x", Reading()))))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_no_flipped_byte_breaks_it_either(capture: Path, data: st.DataObject) -> None:
    raw = bytearray(capture.read_bytes()[:6000])
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=12)):
        raw[at] = data.draw(st.integers(0, 255))
    _is_told(lambda: draft(traffic_from(read(io.BytesIO(bytes(raw)), "x", Reading()))))


PAYLOADS = st.one_of(
    st.binary(max_size=40),
    st.binary(max_size=30).map(lambda body: b"\0\1\0\0" + bytes([0, len(body) + 1]) + b"\1" + body),
    st.binary(max_size=30).map(lambda body: b"MSGF" + body),
)


@given(st.lists(st.tuples(PAYLOADS, st.booleans(), st.integers(0, 63)), max_size=12))
def test_no_payload_breaks_the_reading_of_a_conversation(pieces: list[tuple[bytes, bool, int]]) -> None:
    seen = [
        Seen(1.0, "10.0.0.1", "10.0.0.2", "tcp", 4000, 502, number, flags, payload)
        if asks
        else Seen(1.0, "10.0.0.2", "10.0.0.1", "tcp", 502, 4000, number, flags, payload)
        for number, (payload, asks, flags) in enumerate(pieces)
    ]
    draft(traffic_from(seen))


def test_the_command_writes_a_draft_and_says_what_it_does_not_know(capture: Path, tmp_path: Path) -> None:
    out = tmp_path / "draft.yaml"
    found = CliRunner().invoke(main, ["site", "import", "--pcap", str(capture), "--out", str(out)])
    assert found.exit_code == 0, found.output
    assert "zones:" in out.read_text()
    beside = CliRunner().invoke(main, ["site", "import", "--pcap", str(capture), "--beside", "water"])
    assert beside.exit_code == 0, beside.output
