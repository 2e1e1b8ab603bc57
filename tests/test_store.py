"""Rows on disk: whole or absent, never in between."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from results.rows import FUNCTIONS, Row
from results.store import RowStore, canonical, content_key, save_bytes, save_text
from testbed.errors import RunError

ROW = Row(
    site="waterworks",
    scenario="unauthorized-setpoint",
    profile="SL 2",
    level=2,
    seed=7,
    duration=3600.0,
    attack_start=1860.0,
    detected=True,
    detection_time=12.25,
    detected_by="write-from-unknown",
    observed=1740.0,
    impact_time=80.5,
    contained_time=None,
    availability={"view": 1.0, "control": 0.75, "safety": 1.0, "production": 0.875},
    unsafe_seconds=3.5,
    trips_true=1,
    trips_spurious=0,
    production_lost=-0.125,
    logins=4,
    failed_logins=1,
    lockouts=0,
    operator_delay=31.0,
    missed_deadlines=0,
    false_alarms=2.0,
    attack_blocked=False,
)
KEY = content_key({"site": "waterworks", "seed": 7})

amounts = st.floats(0, 1e9)
maybe_amounts = st.none() | amounts


@st.composite
def rows(draw: st.DrawFn) -> Row:
    time = draw(maybe_amounts)
    return replace(
        ROW,
        scenario=draw(st.text()),
        profile=draw(st.text()),
        level=draw(st.none() | st.integers(0, 4)),
        seed=draw(st.integers()),
        detected=time is not None,
        detection_time=time,
        detected_by=draw(st.none() | st.text()),
        availability=draw(st.dictionaries(st.sampled_from(FUNCTIONS), st.floats(0, 1))),
        production_lost=draw(st.floats(-1e9, 1e9)),
        operator_delay=draw(maybe_amounts),
        attack_blocked=draw(st.booleans()),
    )


@contextmanager
def disk_that_takes(limit: int) -> Iterator[None]:
    """No file may grow beyond ``limit`` bytes: the system call fails as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def files_under(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


# --- rows -------------------------------------------------------------------------------------------------------


@given(rows())
def test_a_row_comes_back_equal_from_json(row: Row) -> None:
    assert Row.from_dict(json.loads(canonical(row.to_dict()))) == row


def test_every_field_is_written() -> None:
    assert list(ROW.to_dict()) == [field.name for field in fields(Row)]


@pytest.mark.parametrize("name", [field.name for field in fields(Row)])
def test_a_row_without_a_key_is_refused_by_the_name_of_the_key(name: str) -> None:
    document = ROW.to_dict()
    del document[name]
    with pytest.raises(RunError, match=f"missing key '{name}'"):
        Row.from_dict(document)


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(RunError, match="unknown key 'wall_seconds'"):
        Row.from_dict({**ROW.to_dict(), "wall_seconds": 1.0})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("site", 3),
        ("level", True),
        ("level", 2.0),
        ("seed", "7"),
        ("duration", float("nan")),
        ("duration", float("inf")),
        ("duration", -1.0),
        ("observed", None),
        ("detected", 1),
        ("detected", False),
        ("detection_time", None),
        ("availability", {"view": 1.5}),
        ("availability", {"heating": 1.0}),
        ("availability", {"view": None}),
        ("availability", [1.0]),
        ("trips_true", 1.0),
        ("trips_true", -1),
        ("production_lost", "0"),
        ("production_lost", 10**400),
        ("attack_blocked", None),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(name: str, value: object) -> None:
    with pytest.raises(RunError, match="not a run's row"):
        Row.from_dict({**ROW.to_dict(), name: value})


def test_a_site_may_lack_an_essential_function() -> None:
    assert Row.from_dict({**ROW.to_dict(), "availability": {"view": 1.0}}).availability == {"view": 1.0}


def test_whole_numbers_are_written_as_the_floats_they_stand_for() -> None:
    """Else a row from memory and the same row from the store would spell differently."""
    assert canonical(replace(ROW, duration=3600).to_dict()) == canonical(ROW.to_dict())


def test_only_a_run_in_which_an_attacker_acted_counts_as_attacked() -> None:
    assert ROW.attacked
    assert not replace(ROW, scenario="none").attacked
    assert not replace(ROW, attack_start=None).attacked


# --- keys -------------------------------------------------------------------------------------------------------


def test_a_key_does_not_depend_on_the_order_of_the_description() -> None:
    assert content_key({"a": 1, "b": {"c": 2, "d": 3}}) == content_key({"b": {"d": 3, "c": 2}, "a": 1})


def test_a_key_is_that_of_the_documented_spelling() -> None:
    import hashlib

    assert content_key({"b": [1, 2.5, None], "a": "µ"}) == (
        hashlib.sha256(b'{"a":"\\u00b5","b":[1,2.5,null]}').hexdigest()
    )


@pytest.mark.parametrize("other", [{"seed": 8}, {"seed": 7.0}, {"seed": "7"}, {"seed": 7, "x": None}, {}])
def test_different_descriptions_have_different_keys(other: dict[str, object]) -> None:
    assert content_key(other) != content_key({"seed": 7})


@pytest.mark.parametrize(
    ("description", "error"),
    [
        ({"a": {1: "x"}}, TypeError),
        ({"a": [{2: 1}]}, TypeError),
        ({"a": {1, 2}}, TypeError),
        ({"a": float("nan")}, ValueError),
    ],
)
def test_a_description_that_could_collide_or_vary_is_refused(
    description: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        content_key(description)


# --- the store --------------------------------------------------------------------------------------------------


def test_a_row_is_found_by_its_key_and_no_other(tmp_path: Path) -> None:
    store = RowStore(tmp_path / "runs")
    store.put(KEY, ROW)
    assert store.get(KEY) == ROW
    assert store.get(content_key({"seed": 8})) is None


def test_an_empty_or_missing_folder_holds_nothing(tmp_path: Path) -> None:
    assert RowStore(tmp_path / "none").get(KEY) is None


def test_putting_again_replaces_the_row(tmp_path: Path) -> None:
    store = RowStore(tmp_path)
    store.put(KEY, ROW)
    store.put(KEY, replace(ROW, logins=9))
    assert store.get(KEY) == replace(ROW, logins=9)
    assert files_under(tmp_path) == [f"{KEY}.jsonl"]


def test_equal_rows_give_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        RowStore(tmp_path / name).put(KEY, ROW)
    assert RowStore(tmp_path / "a").path(KEY).read_bytes() == RowStore(tmp_path / "b").path(KEY).read_bytes()


def test_a_kept_file_is_readable_by_others_as_any_file_is(tmp_path: Path) -> None:
    RowStore(tmp_path).put(KEY, ROW)
    plain = tmp_path / "plain"
    plain.write_text("")
    assert RowStore(tmp_path).path(KEY).stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("key", ["", "ab", "../../etc/passwd", KEY.upper(), KEY + "\n", KEY[:-1] + "/"])
def test_what_is_not_a_key_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="content key"):
        RowStore(tmp_path).get(key)


def test_a_file_cut_at_any_byte_is_not_a_result(tmp_path: Path) -> None:
    store = RowStore(tmp_path)
    store.put(KEY, ROW)
    path = store.path(KEY)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert store.get(KEY) is None, length
    path.write_bytes(whole)
    assert store.get(KEY) == ROW


def test_a_file_changed_at_any_byte_is_not_a_result(tmp_path: Path) -> None:
    store = RowStore(tmp_path)
    store.put(KEY, ROW)
    path = store.path(KEY)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert store.get(KEY) is None, place


@given(data=st.data(), row=rows())
def test_torn_or_overwritten_files_are_never_read_as_a_result(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, row: Row
) -> None:
    store = RowStore(tmp_path_factory.mktemp("runs"))
    store.put(KEY, row)
    whole = store.path(KEY).read_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1))
    tail = data.draw(st.binary(max_size=40).filter(lambda tail: whole[:cut] + tail != whole))
    store.path(KEY).write_bytes(whole[:cut] + tail)
    assert store.get(KEY) is None


@given(st.binary(max_size=300))
def test_any_foreign_bytes_are_not_a_result(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    store = RowStore(tmp_path_factory.mktemp("runs"))
    store.path(KEY).parent.mkdir(parents=True)
    store.path(KEY).write_bytes(data)
    assert store.get(KEY) is None


def test_the_file_of_another_run_is_not_a_result(tmp_path: Path) -> None:
    store = RowStore(tmp_path)
    other = content_key({"seed": 8})
    store.put(other, ROW)
    save_bytes(store.path(KEY), store.path(other).read_bytes())
    assert store.get(KEY) is None


def test_a_whole_file_with_other_columns_is_not_a_result(tmp_path: Path) -> None:
    """A later version's rows carry a right check line; they are still not this version's."""
    import hashlib

    document = ROW.to_dict()
    document["approvals"] = 3
    head = canonical({"format": "otlab-row-1", "key": KEY})
    body = f"{head}\n{canonical(document)}\n".encode()
    check = canonical({"sha256": hashlib.sha256(body).hexdigest()}).encode() + b"\n"
    store = RowStore(tmp_path)
    save_bytes(store.path(KEY), body + check)
    assert store.get(KEY) is None


def test_a_folder_in_the_place_of_a_row_is_told_by_name(tmp_path: Path) -> None:
    store = RowStore(tmp_path)
    store.path(KEY).mkdir(parents=True)
    with pytest.raises(RunError, match=KEY):
        store.get(KEY)
    with pytest.raises(RunError, match=KEY):
        store.put(KEY, ROW)
    assert files_under(tmp_path) == []


# --- full disks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 1])
def test_a_full_disk_names_the_file_and_leaves_nothing_behind(tmp_path: Path, share: float) -> None:
    store = RowStore(tmp_path / "full")
    RowStore(tmp_path / "spare").put(KEY, ROW)
    room = int(share * (RowStore(tmp_path / "spare").path(KEY).stat().st_size - 1))
    with disk_that_takes(room), pytest.raises(RunError, match=f"could not write .*{KEY}"):
        store.put(KEY, ROW)
    assert files_under(tmp_path / "full") == []
    assert store.get(KEY) is None


def test_a_full_disk_leaves_the_earlier_row_whole(tmp_path: Path) -> None:
    store = RowStore(tmp_path)
    store.put(KEY, ROW)
    with disk_that_takes(100), pytest.raises(RunError):
        store.put(KEY, replace(ROW, logins=9))
    assert store.get(KEY) == ROW
    assert files_under(tmp_path) == [f"{KEY}.jsonl"]


def test_a_row_fits_once_there_is_room_again(tmp_path: Path) -> None:
    store = RowStore(tmp_path)
    with disk_that_takes(100), pytest.raises(RunError):
        store.put(KEY, ROW)
    store.put(KEY, ROW)
    assert store.get(KEY) == ROW


def test_a_file_where_a_folder_is_needed_is_told(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("not a folder")
    with pytest.raises(RunError, match="could not write"):
        RowStore(tmp_path / "runs").put(KEY, ROW)


def test_text_is_kept_byte_for_byte(tmp_path: Path) -> None:
    save_text(tmp_path / "deep" / "er" / "a.txt", "m³\r\nm\n")
    assert (tmp_path / "deep" / "er" / "a.txt").read_bytes() == "m³\r\nm\n".encode()


def test_a_leftover_of_a_killed_writer_hinders_no_one(tmp_path: Path) -> None:
    (tmp_path / f".a.txt.{os.getpid()}.0.part").write_text("half of some")
    save_text(tmp_path / "a.txt", "all")
    assert (tmp_path / "a.txt").read_text() == "all"


def test_writers_of_one_row_at_once_leave_one_whole_row(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from results.store import save_bytes\n"
        "for n in range(100): save_bytes(Path(sys.argv[1]), sys.argv[2].encode() * 20000)"
    )
    target = tmp_path / "row"
    writers = [
        subprocess.Popen([sys.executable, "-c", program, str(target), letter], cwd=Path(__file__).parents[1])
        for letter in "ab"
    ]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if target.exists():
            seen.add(target.read_bytes())
    assert [writer.returncode for writer in writers] == [0, 0]
    seen.add(target.read_bytes())
    assert seen <= {b"a" * 20000, b"b" * 20000}
    assert files_under(tmp_path) == ["row"]
