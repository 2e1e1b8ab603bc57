"""The audit store: what it keeps, what it does when it cannot, who may change it, and how it is read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.auditlog import (
    MOST,
    OVERHEAD,
    AuditLog,
    AuditRecord,
    Keyring,
    LogMender,
    LogService,
    Query,
    ask,
    content,
    search,
    signed_by,
)
from devices.syslog import Message, decode, encode, to_datetime
from tests.small_worlds import SmallWorld, attempt, one_zone

READER = "10.0.1.50"


def store(capacity: float = 10_000, **options: Any) -> AuditLog:
    log = AuditLog("plc1", lambda: 1000.5, capacity, **options)
    log.seams.keeps = log.seams.stamps = True
    return log


def fill(log: AuditLog, count: int, **data: Any) -> AuditLog:
    for number in range(count):
        log("plc1", "write", {"peer": "10.0.1.9", "address": number, **data})
    return log


def everything(_record: AuditRecord) -> bool:
    return True


# -- keeping -----------------------------------------------------------------------------------------------------


def test_a_store_keeps_nothing_until_it_is_told_to() -> None:
    log = AuditLog("plc1", lambda: 0.0, 1000)
    log("plc1", "write", {})
    assert not log.records


def test_a_record_has_its_number_the_devices_time_and_what_happened() -> None:
    log = fill(store(), 2)
    assert [(record.seq, record.time, record.kind, record.data["address"]) for record in log.records] == [
        (1, 1000.5, "write", 0),
        (2, 1000.5, "write", 1),
    ]


def test_without_time_stamps_only_the_order_is_left() -> None:
    log = store()
    log.seams.stamps = False
    fill(log, 2)
    assert [(record.seq, record.time) for record in log.records] == [(1, None), (2, None)]


def test_a_full_store_drops_its_oldest_records_and_counts_them() -> None:
    log = fill(store(1000), 50)
    assert log.used <= 1000
    assert log.records[-1].data["address"] == 49
    assert log.overwritten == 50 - len(log.records) > 0
    assert log.lost == 0


def test_a_store_that_stops_when_full_keeps_the_oldest() -> None:
    log = fill(store(1000, when_full="stop"), 50)
    assert log.records[0].data["address"] == 0
    assert log.lost == 50 - len(log.records) > 0


def test_reserved_storage_counts_where_it_is_more() -> None:
    log = store(1000)
    log.seams.reserved = 100_000
    assert len(fill(log, 50).records) == 50


@given(st.lists(st.text(max_size=300), max_size=60), st.integers(0, 5000))
def test_a_store_never_holds_more_than_it_has_room_for(texts: list[str], capacity: int) -> None:
    log = store(capacity)
    for text in texts:
        log("plc1", "login.failed", {"user": text})
    assert log.used == sum(record.size for record in log.records) <= capacity
    assert len(log.records) + log.overwritten + log.lost == len(texts)
    assert all(record.size > OVERHEAD for record in log.records)


def test_a_warning_goes_out_once_when_the_store_fills_and_is_itself_recorded() -> None:
    said: list[tuple[str, dict[str, Any]]] = []
    log = store(2000)

    def say(kind: str, **data: Any) -> None:
        said.append((kind, data))
        log("plc1", kind, data)

    log.say = say
    log.seams.warn_at = 0.5
    fill(log, 40)
    assert [kind for kind, _ in said] == ["audit.nearly_full"]
    assert said[0][1]["filled"] > 0.5


def test_what_is_no_audit_matter_is_left_out() -> None:
    log = store()
    log.seams.routine.append(lambda kind, data: kind == "write" and data["address"] == 1)
    fill(log, 3)
    assert [record.data["address"] for record in log.records] == [0, 2]


# -- when it cannot write ----------------------------------------------------------------------------------------


def test_a_station_that_cannot_audit_halts_and_one_that_reports_does_not() -> None:
    halted: list[str] = []
    said: list[str] = []
    for reports in (False, True):
        log = store(when_full="halt", halt=lambda: halted.append("halt"))
        log.say = lambda kind, **_data: said.append(kind)
        log.seams.reports_failure = reports
        log.fail("disk full")
        fill(log, 3)
        assert log.lost >= 3
        assert not log.records
    assert set(halted) == {"halt"}
    assert said == ["audit.failed"]


def test_an_ordinary_store_fails_in_silence() -> None:
    said: list[str] = []
    log = store(say=lambda kind, **_data: said.append(kind))
    log.fail("disk full")
    fill(log, 3)
    assert said == []


def test_a_failure_that_is_reported_is_mended_and_what_came_between_is_lost() -> None:
    later: list[tuple[float, Any]] = []
    mended: list[tuple[str, float]] = []
    log = store()
    log.seams.reports_failure = True
    LogMender(
        lambda seconds, then: later.append((seconds, then)),
        lambda: 600.0,
        lambda source, seconds: mended.append((source, seconds)),
    ).look_after(log)
    log.fail("disk full")
    log.fail("disk full")
    fill(log, 2)
    [(seconds, then)] = later
    then()
    fill(log, 1)
    assert (seconds, len(log.records), log.lost) == (600.0, 1, 2)
    assert mended == [("plc1", 600.0)]


# -- changing what is there --------------------------------------------------------------------------------------


def test_whoever_is_on_the_machine_changes_an_unprotected_store_and_nothing_in_it_counts_any_more() -> None:
    log = fill(store(), 5)
    assert log.intact() == list(log.records)
    assert log.erase(lambda record: record.data["address"] == 2, "somebody") == 1
    assert len(log.records) == 4
    assert log.intact() == []


def test_a_protected_store_refuses_all_but_the_audit_role_and_says_who_tried() -> None:
    said: list[dict[str, Any]] = []
    log = store(say=lambda _kind, **data: said.append(data))
    log.seams.chain_key = bytes(32)
    fill(log, 5)
    change = replace
    assert log.erase(everything, "operator") == "audit role only"
    assert log.alter(everything, lambda one: change(one, kind="login"), "operator") == "audit role only"
    assert log.plant("write", {}, None, "operator") == "audit role only"
    assert [data["user"] for data in said] == ["operator"] * 3
    assert log.intact() == list(log.records)


@pytest.mark.parametrize("deed", ["erase", "alter", "plant"])
def test_a_chain_shows_where_an_audit_administrator_changed_something(deed: str) -> None:
    log = store()
    log.seams.chain_key = bytes(32)
    fill(log, 5)
    third = log.records[2].seq
    if deed == "erase":
        log.erase(lambda record: record.seq == third, "auditor", "audit")
    elif deed == "alter":
        log.alter(lambda one: one.seq == third, lambda one: replace(one, kind="x"), "auditor", "audit")
    else:
        assert log.plant("write", {}, None, "auditor", "audit") is None
    sound = log.intact()
    assert [record.seq for record in sound] == ([1, 2, 3, 4, 5] if deed == "plant" else [1, 2])


def test_a_chain_still_holds_after_old_records_were_overwritten_in_good_order() -> None:
    log = store(1000)
    log.seams.chain_key = bytes(32)
    fill(log, 50)
    assert log.erase(lambda _record: False, "auditor", "audit") == 0
    assert log.intact() == list(log.records)


def test_nobody_changes_a_write_once_medium() -> None:
    log = fill(store(), 3)
    log.seams.write_once = True
    assert log.erase(everything, "auditor", "audit") == "write-once medium"
    assert len(log.intact()) == 3


# -- signatures --------------------------------------------------------------------------------------------------


def keys() -> Keyring:
    return Keyring(lambda owner: owner.encode().ljust(32, b"."))


def test_a_signature_is_its_owners_and_of_its_content_only() -> None:
    ring = keys()
    text = content("hmi1", "operator.write", {"user": "a", "value": 1.5, "reason": None}, 12.0004)
    signature = ring.sign("a", text)
    assert ring.verify("a", text, signature)
    assert not ring.verify("b", text, signature)
    assert not ring.verify("a", text + b" ", signature)
    assert not ring.verify("a", text, b"short")


@given(
    st.dictionaries(
        st.sampled_from(["user", "peer", "value", "reason"]),
        st.one_of(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), st.integers(), st.floats()),
    ),
    st.floats(0, 4e9),
)
def test_a_signature_holds_after_the_way_through_syslog(data: dict[str, Any], time: float) -> None:
    ring = keys()
    signature = ring.sign("hmi1", content("hmi1", "operator.write", data, time))
    raw = encode("hmi1", "operator.write", {**data, "sig": signature.hex()}, to_datetime(time))
    message = decode(raw)
    assert message is not None
    assert signed_by(ring, "hmi1", message)
    assert not signed_by(ring, "hmi2", message)


@given(st.text(max_size=20))
def test_any_text_in_place_of_a_signature_is_no_signature(text: str) -> None:
    assert not signed_by(keys(), "hmi1", Message(6, "-", "hmi1", "write", {"sig": text}))


def test_an_archive_keeps_both_the_senders_time_and_that_of_arrival() -> None:
    log = store()
    message = decode(encode("hmi1", "login", {"user": "a"}, to_datetime(900.25)))
    assert message is not None
    log.take(message)
    [record] = log.records
    assert (record.source, record.time, record.received, record.data) == (
        "hmi1",
        900.25,
        1000.5,
        {"user": "a"},
    )


# -- reading over the network ------------------------------------------------------------------------------------


def service(world: SmallWorld, log: AuditLog, *, queries: bool = False) -> LogService:
    host = world.network.host("plc1", "control", "10.0.1.11")
    world.network.host("reader", "control", READER)
    found = LogService(host, log, frozenset({READER}), queries=queries)
    found.start()
    return found


@pytest.fixture
def world() -> Iterator[SmallWorld]:
    with one_zone() as made:
        yield made


def answer_to(world: SmallWorld, asked: Mapping[str, Any], by: str = "reader") -> Any:
    return world.ask(attempt(ask("10.0.1.11", asked)), by=by)


def test_a_reader_pages_back_through_the_records(world: SmallWorld) -> None:
    service(world, fill(store(10**6), MOST + 5))
    newest = answer_to(world, {"do": "read"})["records"]
    assert len(newest) == MOST
    older = answer_to(world, {"do": "read", "before": newest[0]["seq"]})["records"]
    assert [record["seq"] for record in older] == [1, 2, 3, 4, 5]
    assert older[0]["time"] == "1970-01-01T00:16:40.500000+00:00"


def test_a_stranger_reads_nothing_and_a_reader_changes_nothing_and_both_are_reported(
    world: SmallWorld,
) -> None:
    said: list[dict[str, Any]] = []
    log = fill(store(say=lambda kind, **data: said.append({"kind": kind, **data})), 3)
    service(world, log)
    assert answer_to(world, {"do": "read"}, by="attacker") == {"error": "not a reader"}
    assert answer_to(world, {"do": "erase"}) == {"error": "read-only"}
    assert [one["kind"] for one in said] == ["audit.refused"] * 2
    assert len(log.records) == 3


def test_queries_are_answered_where_they_are_offered(world: SmallWorld) -> None:
    found = service(world, fill(store(), 5))
    wanted = {"do": "query", "kind": "write", "match": {"address": 3}}
    assert answer_to(world, wanted) == {"error": "no queries here"}
    found.queries = True
    assert [record["seq"] for record in answer_to(world, wanted)["records"]] == [4]
    assert answer_to(world, {**wanted, "from": 2000})["records"] == []


def test_a_search_asks_every_device_and_leaves_out_those_that_do_not_answer(world: SmallWorld) -> None:
    service(world, fill(store(), 2), queries=True)
    found = world.ask(search(["10.0.1.11", "10.0.1.99"], {"kind": "write"}), by="reader")
    assert [record["seq"] for record in found] == [1, 2]


def test_a_machine_without_the_service_refuses_the_connection(world: SmallWorld) -> None:
    world.network.host("reader", "control", READER)
    assert isinstance(world.ask(attempt(ask("10.0.1.99", {"do": "read"})), by="reader"), OSError)


@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
            lambda inner: st.one_of(
                st.lists(inner, max_size=3),
                st.dictionaries(
                    st.sampled_from(["do", "before", "from", "to", "match", "kind"]), inner, max_size=4
                ),
                st.fixed_dictionaries(
                    {"do": st.sampled_from(["read", "query"]), "before": inner, "from": inner, "match": inner}
                ),
            ),
            max_leaves=8,
        ),
    )
)
def test_any_line_gets_an_answer_that_is_json_and_changes_no_record(line: Any) -> None:
    log = fill(store(), 3)
    with one_zone() as world:
        found = LogService(world.network.hosts["attacker"], log, frozenset({READER}), queries=True)
        raw = line if isinstance(line, bytes) else json.dumps(line).encode()
        answer = found.answer(READER, raw)
    assert answer.keys() <= {"error", "records"}
    json.dumps(answer)
    assert len(log.records) == 3


def test_a_query_that_is_none_is_told_so() -> None:
    wrongs: list[dict[str, Any]] = [
        {"kind": 3},
        {"match": []},
        {"from": "yesterday"},
        {"to": True},
        {"from": 10**400},
    ]
    for wrong in wrongs:
        assert Query.of(wrong) is None
