"""Sigma rules: what they mean event by event, that another implementation agrees, and how mistakes are told."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.events import COOKIE, from_json, to_json
from devices.sigma import Engine, Rule, flatten, parse, shipped
from testbed.errors import OtlabError

HEAD = "logsource: {product: otlab, service: audit}\nfields: [peer]\nlevel: high\n"


def rule(detection: str, more: str = "", title: str = "mine") -> Rule:
    (found,) = parse([("mine.yml", f"title: {title}\n{HEAD}{more}detection:\n{detection}")])
    return found


def fires(one: Rule, kind: str = "x", **data: str) -> bool:
    return bool(Engine((one,)).take(flatten(kind, "dev1", 4, data), 0.0))


# -- one event -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selection", "data", "hit"),
    [
        ("{peer: 10.0.0.1}", {"peer": "10.0.0.1"}, True),
        ("{peer: 10.0.0.1}", {"peer": "10.0.0.2"}, False),
        ("{source.ip: 10.0.0.1}", {"peer": "10.0.0.1"}, True),
        ("{user.name: ANNA}", {"user": "anna"}, True),
        ("{user|cased: ANNA}", {"user": "anna"}, False),
        ("{file|endswith: .exe}", {"file": "displays/a.EXE"}, True),
        ("{file|startswith: projects/}", {"file": "displays/a"}, False),
        ("{file|contains: play}", {"file": "displays/a"}, True),
        ("{file|re: '^d.*a$'}", {"file": "displays/a"}, True),
        ("{file: 'dis*/?'}", {"file": "displays/a"}, True),
        ("{peer|cidr: 10.0.3.0/24}", {"peer": "10.0.3.77"}, True),
        ("{peer|cidr: 10.0.3.0/24}", {"peer": "rogue"}, False),
        ("{value|gt: 5}", {"value": "5.5"}, True),
        ("{value|lte: 5}", {"value": "5.5"}, False),
        ("{value|gt: 5}", {"value": "many"}, False),
        ("{value: 5}", {"value": "5.0"}, True),
        ("{user: null}", {}, True),
        ("{user: null}", {"user": "anna"}, False),
        ("{user|exists: true}", {"user": "anna"}, True),
        ("{user: [anna, bert]}", {"user": "bert"}, True),
        ("{file|contains|all: [dis, play]}", {"file": "displays"}, True),
        ("{file|contains|all: [dis, work]}", {"file": "displays"}, False),
        ("{user|fieldref: peer}", {"user": "a", "peer": "a"}, True),
    ],
)
def test_a_selection_means_what_sigma_says(selection: str, data: dict[str, str], hit: bool) -> None:
    assert fires(rule(f"  s: {selection}\n  condition: s\n"), **data) is hit


def test_conditions_combine() -> None:
    one = rule("  a: {user: anna}\n  b: {peer: p}\n  c: {peer: q}\n  condition: a and (b or not c)\n")
    assert fires(one, user="anna", peer="p")
    assert fires(one, user="anna", peer="r")
    assert not fires(one, user="anna", peer="q")
    assert not fires(one, user="bert", peer="p")


def test_words_anywhere_and_one_of() -> None:
    assert fires(rule("  words: ['*secret*']\n  condition: words\n"), note="a secret thing")
    many = rule("  s_a: {user: anna}\n  s_b: {user: bert}\n  condition: 1 of s_*\n")
    assert fires(many, user="bert")
    assert not fires(many, user="cleo")


# -- several events --------------------------------------------------------------------------------------------


SEQUENCE = """\
title: first
name: first
logsource: {product: otlab}
level: low
fields: [peer]
detection: {s: {event.action: a}, condition: s}
---
title: second
name: second
logsource: {product: otlab}
level: low
fields: [peer]
detection: {s: {event.action: b}, condition: s}
---
title: both
level: critical
correlation:
  type: TYPE
  rules: [first, second]
  group-by: [peer]
  timespan: 60s
"""


def tell(engine: Engine, *events: tuple[float, str, str]) -> list[float]:
    """Times at which the engine's rules fired."""
    return [
        time
        for time, kind, peer in events
        for _ in engine.take(flatten(kind, "dev1", 4, {"peer": peer}), time)
    ]


def test_an_order_matters_only_where_it_is_asked() -> None:
    ordered = parse([("a.yml", SEQUENCE.replace("TYPE", "temporal_ordered"))])
    any_order = parse([("a.yml", SEQUENCE.replace("TYPE", "temporal"))])
    assert [one.title for one in ordered] == ["both"]  # what a correlation refers to raises nothing by itself
    assert tell(Engine(ordered), (0, "a", "p"), (10, "b", "p")) == [10]
    assert tell(Engine(ordered), (0, "b", "p"), (10, "a", "p")) == []
    assert tell(Engine(any_order), (0, "b", "p"), (10, "a", "p")) == [10]


@pytest.mark.parametrize("kind", ["temporal", "temporal_ordered"])
def test_a_sequence_is_of_one_subject_and_within_its_time(kind: str) -> None:
    rules = parse([("a.yml", SEQUENCE.replace("TYPE", kind))])
    assert tell(Engine(rules), (0, "a", "p"), (10, "b", "q")) == []
    assert tell(Engine(rules), (0, "a", "p"), (61, "b", "p")) == []
    # The latest beginning counts, and one sequence is told once.
    assert tell(Engine(rules), (0, "a", "p"), (50, "a", "p"), (70, "b", "p"), (71, "b", "p")) == [70]


def test_distinct_values_are_counted() -> None:
    text = SEQUENCE.partition("---")[0] + (
        "---\ntitle: many\nlevel: high\nfields: [peer]\ncorrelation:\n  type: value_count\n  rules: [first]\n"
        "  group-by: [peer]\n  timespan: 60s\n  condition: {field: plc, gte: 3}\n"
    )
    engine = Engine(parse([("a.yml", text)]))
    hits = [
        time
        for time, plc in ((0, "plc1"), (1, "plc1"), (2, "plc2"), (3, "plc3"), (64, "plc4"))
        for _ in engine.take(flatten("a", "dev1", 4, {"peer": "p", "plc": plc}), time)
    ]
    assert hits == [3]


# -- mistakes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: x\n", "mine.yml"),
        ("title: [\n", "mine.yml"),
        (
            f"title: x\n{HEAD.replace('level: high', '')}detection: {{s: {{a: b}}, condition: s}}\n",
            "has no level",
        ),
        (
            f"title: x\n{HEAD.replace('fields: [peer]', '')}detection: {{s: {{a: b}}, condition: s}}\n",
            "has no fields",
        ),
        (f"title: x\n{HEAD}detection: {{s: {{a: b}}, condition: t}}\n", "mine.yml"),
        (f"title: x\n{HEAD}detection: {{s: {{a|nonsense: b}}, condition: s}}\n", "mine.yml"),
    ],
)
def test_a_rule_that_is_wrong_is_told_with_its_file(text: str, message: str) -> None:
    with pytest.raises(OtlabError, match=message):
        parse([("mine.yml", text)])


# -- the judge -------------------------------------------------------------------------------------------------

_WORDS = st.sampled_from(["anna", "bert", "10.0.3.10", "10.0.4.11", "displays/a.exe", "5", "7.5", ""])
_EVENTS = st.fixed_dictionaries(
    {
        "event.action": st.sampled_from(["login", "write", "mode"]),
        "peer": _WORDS,
        "user": _WORDS,
        "value": _WORDS,
    }
)
_RULES = [
    "  s: {user: anna}\n  condition: s\n",
    "  s: {user: [anna, bert], event.action: login}\n  condition: s\n",
    "  s: {peer|startswith: '10.0.3'}\n  t: {user|contains: a}\n  condition: s or t\n",
    "  s: {peer|endswith: '.exe'}\n  condition: not s\n",
    "  s: {user|contains|all: [a, n]}\n  t: {event.action: mode}\n  condition: s and not t\n",
]


@pytest.mark.parametrize("detection", _RULES)
@settings(max_examples=40)
@given(events=st.lists(_EVENTS, min_size=1, max_size=8))
def test_an_sql_backend_finds_the_same_events(detection: str, events: list[dict[str, str]]) -> None:
    sqlite = pytest.importorskip("sigma.backends.sqlite", reason="the extra 'peers' is not installed")
    from sigma.collection import SigmaCollection

    text = f"title: mine\n{HEAD}detection:\n{detection}"
    (query,) = sqlite.sqliteBackend().convert(SigmaCollection.from_yaml(text))
    database = sqlite3.connect(":memory:")
    names = list(events[0])
    columns = ", ".join(f'"{name}"' for name in names)
    database.execute(f"CREATE TABLE logs (number, {columns})")
    for number, event in enumerate(events):
        database.execute(
            f"INSERT INTO logs VALUES ({', '.join('?' * (len(names) + 1))})",
            [number, *(event[name] for name in names)],
        )
    query = query.replace("<TABLE_NAME>", "logs")
    theirs = {row[0] for row in database.execute(query)}
    database.close()
    (mine,) = parse([("mine.yml", text)])
    ours = {number for number, event in enumerate(events) if Engine((mine,)).take(event, 0.0)}
    assert ours == theirs


# -- shapes ----------------------------------------------------------------------------------------------------

_DATA = st.dictionaries(
    st.sampled_from(["peer", "user", "rule", "subject", "tag", "value", "reason"]),
    st.text(max_size=40),
    max_size=6,
)


@given(data=_DATA, kind=st.sampled_from(["login.failed", "ids.alert", "write", "process.alert"]))
@pytest.mark.parametrize("shape", ["ecs", "ocsf"])
def test_an_event_comes_back_as_it_was(shape: str, data: dict[str, str], kind: str) -> None:
    raw = to_json(shape, "hmi1", kind, data, "2026-03-02T06:00:00Z", 4)  # type: ignore[arg-type]
    assert from_json(raw) == (kind, data)
    json.loads(raw[len(COOKIE) :])


@given(st.binary(max_size=200))
def test_hostile_text_is_no_event(raw: bytes) -> None:
    from_json(raw)
    from_json(COOKIE + raw)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["event", "otlab", "class_uid", "metadata", "unmapped", "source", "action", "x"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_is_an_event_of_text_or_none(value: object) -> None:
    found = from_json(COOKIE + json.dumps(value).encode())
    assert found is None or all(isinstance(one, str) for one in (found[0], *found[1].values()))


# -- what is shipped -------------------------------------------------------------------------------------------


def test_shipped_rules_are_told_apart_by_title_and_say_their_kind() -> None:
    titles = [one.title for one in shipped()]
    assert len(titles) == len(set(titles))
    assert all(one.kinds for one in shipped())


def test_techniques_of_shipped_rules_exist() -> None:
    from scenarios.techniques import TACTICS, techniques

    for one in shipped():
        assert set(one.techniques) <= set(techniques()), one.title
        assert set(one.tactics) <= set(TACTICS), one.title


def test_a_site_brings_its_own_rules(tmp_path: Path) -> None:
    from devices.world import World
    from scenarios.experiment import site_of
    from testbed.figures import load_figures

    source = Path(site_of("water").folder)
    for path in source.iterdir():
        text = path.read_text(encoding="utf-8")
        text = text.replace("{kind: siem, ", "{kind: siem, rules: [own.yml], ")
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    own = tmp_path / "own.yml"
    own.write_text(f"title: our own\n{HEAD}detection: {{s: {{event.action: login}}, condition: s}}\n")
    world = World(site_of(str(tmp_path)), 1, load_figures())
    assert [one.title for one in world.siems["siem1"].rules][-1] == "our own"
    world.close()
