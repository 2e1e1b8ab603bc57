"""Every mistake in a user's file is told once, with its place; nothing in a file can do worse than that."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AwareDatetime, Field

from testbed.document import MAX_BYTES, MAX_DEPTH, Document, Route, json_schema, load, parse
from testbed.errors import DocumentError


class Pump(Document):
    kind: Literal["pump"]
    flow: Annotated[float, Field(gt=0)]
    spare: bool = False


class Tank(Document):
    kind: Literal["tank"]
    level: float
    limits: tuple[float, float] | None = None
    tank: str = ""  # named as its own variant, to tempt the one that maps problems to places


class Works(Document):
    name: str
    start: AwareDatetime | None = None
    shifts: tuple[int, ...] = ()
    machines: dict[str, Annotated[Pump | Tank, Field(discriminator="kind")]]

    def problems(self) -> Iterator[tuple[Route, str]]:
        for name, machine in self.machines.items():
            if isinstance(machine, Tank) and machine.level > 2:
                yield ("machines", name, "level"), "overflows"
            if name == "ghost":
                yield ("machines", name), "does not exist"
                yield ("machines", name, "spare", "deeper"), "is not written"


GOOD = """\
name: Works
start: 2026-03-02T06:00:00Z
shifts: [1, 2]
machines:
  p1: {kind: pump, flow: 1, spare: true}
  t1:
    kind: tank
    level: 1.5
    limits: [0, 2]
"""


def told(text: str | bytes, model: type[Document] = Works) -> list[str]:
    """The problems of a text as ``line:column: key: message``."""
    with pytest.raises(DocumentError) as caught:
        parse(text, "f.yaml", model)
    return [str(problem).removeprefix("f.yaml:") for problem in caught.value.problems]


def test_a_sound_file_becomes_a_frozen_model() -> None:
    works = parse(GOOD, "f.yaml", Works)
    assert works.start == datetime.fromisoformat("2026-03-02T06:00:00+00:00")
    assert works.shifts == (1, 2)
    assert works.machines["t1"] == Tank(kind="tank", level=1.5, limits=(0, 2))
    with pytest.raises(ValueError, match="frozen"):
        works.name = "other"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("name: Works", "nmae: Works", "1:1: nmae: unknown key; did you mean 'name'?"),
        ("name: Works", "name: 5", "1:7: name: expected text, got 5"),
        ("name: Works", "name:", "1:1: name: expected text, got nothing"),
        ("name: Works\n", "", "1:1: name: missing key"),
        ("2026-03-02T06", "2026-33-02T06", "2:8: start: input should be a valid datetime"),
        ("[1, 2]", "[1, two]", "3:13: shifts[1]: expected a whole number, got 'two'"),
        ("[1, 2]", "[1, 2.5]", "3:13: shifts[1]: expected a whole number, got 2.5"),
        ("[1, 2]", "7", "3:9: shifts: expected a list, got 7"),
        ("flow: 1", "flow: '1'", "5:26: machines.p1.flow: expected a number, got '1'"),
        ("flow: 1", "flow: 0", "5:26: machines.p1.flow: must be above 0, got 0"),
        ("flow: 1", "flow: .inf", "5:26: machines.p1.flow: expected a finite number, got Infinity"),
        ("flow: 1", "flow: {a: 1}", "5:20: machines.p1.flow: expected a number, got a mapping"),
        ("spare: true", "spare: yes", "5:36: machines.p1.spare: expected true or false, got 'yes'"),
        ("spare: true", "spare: 1", "5:36: machines.p1.spare: expected true or false, got 1"),
        ("spare: true", "Spare: true", "5:29: machines.p1.Spare: unknown key; did you mean 'spare'?"),
        (", flow: 1", "", "5:3: machines.p1.flow: missing key"),
        ("kind: tank", "kind: tnak", "7:11: machines.t1.kind: expected 'pump', 'tank', got 'tnak'"),
        ("kind: tank", "knid: tank", "7:5: machines.t1.knid: unknown key; did you mean 'kind'?"),
        ("    kind: tank\n", "", "6:3: machines.t1.kind: missing key"),
        ("level: 1.5", "levle: 1.5", "8:5: machines.t1.levle: unknown key; did you mean 'level'?"),
        ("level: 1.5", "level: 1.5\n    tank: a\n    size: 1", "10:5: machines.t1.size: unknown key"),
        ("[0, 2]", "[0, 2, 3]", "9:5: machines.t1.limits: tuple should have at most 2 items"),
        ("level: 1.5", "level: 2.5", "8:12: machines.t1.level: overflows"),
        ("level: 1.5", "level: 1.5\n    level: 9", "9:5: machines.t1.level: duplicate key; first given at line 8"),
        ("level: 1.5", "level: !!float 1", "8:12: machines.t1.level: tag tag:yaml.org,2002:float"),
        ("[0, 2]", "[0, 2", "10:1: machines.t1.limits[2]: not YAML: expected ',' or ']'"),
        ("level: 1.5", "level: 1.5: 2", "8:15: machines.t1: not YAML: mapping values are not allowed here"),
        ("[0, 2]", "*there", "9:13: machines.t1.limits: alias *there stands for nothing"),
        ("[0, 2]", "&a [*a]", "9:17: machines.t1.limits[0]: alias *a stands for nothing"),
        ("[1, 2]", "[1, 2]\n? [a]\n: 1", "4:3: a key must be plain text"),
        ("p1:", '"":', "5:3: machines: a key must be plain text"),
        ("Works", '"\\ud800"', "1:7: name: half of a surrogate pair"),
        ("Works", "W\x07", "1:8: character U+0007 is not allowed"),
        ("1.5", "9" * 401, "8:12: machines.t1.level: a number of more than 400 digits"),
        ("    limits: [0, 2]\n", "---\nname: x\n", "9:1: a second document starts here"),
    ],
)  # fmt: skip
def test_a_single_mistake_is_told_once_at_its_place(old: str, new: str, expected: str) -> None:
    assert old in GOOD
    [problem] = told(GOOD.replace(old, new, 1))
    assert problem.startswith(expected)


def test_all_mistakes_are_told_at_once_and_in_file_order() -> None:
    text = GOOD.replace("name: Works", "name: 5").replace("flow: 1", "flow: -1").replace("level", "lvel")
    assert [problem.split(": ")[1] for problem in told(text)] == [
        "name",
        "machines.p1.flow",
        "machines.t1.lvel",
    ]


def test_a_duplicate_key_does_not_hide_other_mistakes() -> None:
    assert len(told(GOOD.replace("name: Works", "name: 5\nname: [a, {b: c}]"))) == 2


def test_a_cross_check_on_what_is_not_written_is_told_at_the_deepest_key_that_is() -> None:
    text = GOOD.replace("p1:", "ghost:").replace(", spare: true", "")
    assert told(text) == [
        "5:3: machines.ghost: does not exist",
        "5:3: machines.ghost: is not written",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1:1: the file is empty"),
        ("# nothing\n", "1:1: the file is empty"),
        ("- 1\n", "1:1: expected a mapping, got a list"),
        ("5", "1:1: expected a mapping, got 5"),
        (b"name: caf\xc3\xa9\nshifts: [\xff]\n", "2:10: not UTF-8 (byte 0xff)"),
        (b"\xff\xfen\x00", "1:1: not UTF-8 (byte 0xff)"),
        ("[" * (MAX_DEPTH + 1), f"1:{MAX_DEPTH + 1}: {'[0]' * MAX_DEPTH}: nested more than {MAX_DEPTH} deep"),
    ],
)
def test_what_is_no_document_is_told_in_one_problem(text: str | bytes, expected: str) -> None:
    assert told(text) == [expected]


def test_a_bomb_of_aliases_is_weighed_and_never_built() -> None:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    [problem] = told("\n".join(lines))
    assert "aliases counted in full" in problem


def test_a_long_text_repeated_by_aliases_is_weighed_too() -> None:
    text = f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 200)}]\n"
    [problem] = told(text)
    assert problem.startswith("2:")
    assert "aliases counted in full" in problem


def test_an_honest_alias_stands_for_its_value() -> None:
    works = parse("name: w\nmachines:\n  a: &a {kind: pump, flow: 2}\n  b: *a\n", "f.yaml", Works)
    assert works.machines["a"] == works.machines["b"]


def test_plain_values_follow_yaml_1_2_and_not_1_1() -> None:
    class Values(Document):
        values: dict[str, str | float | bool | None]

    text = (
        "values: {a: no, b: 014, c: 22:30, d: 1e3, e: 0x1f, f: ~, g: 'true', h: true, i: 0o17, j: .5, k: 1_0}"
    )
    assert parse(text, "f.yaml", Values).values == {
        "a": "no", "b": 14, "c": "22:30", "d": 1000.0, "e": 31, "f": None, "g": "true", "h": True, "i": 15,
        "j": 0.5, "k": "1_0",
    }  # fmt: skip


def test_what_cannot_be_read_is_one_problem_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "big.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    for name, reason in (
        ("none.yaml", "no such file"),
        ("", "is a directory"),
        ("big.yaml", "larger than 4 MiB"),
        ("a\0b", "not a file name"),
    ):
        path = tmp_path / name
        with pytest.raises(DocumentError) as caught:
            load(path, Works)
        [problem] = caught.value.problems
        assert (problem.file, problem.line, problem.column) == (str(path), 1, 1)
        assert reason in problem.message


def test_a_byte_order_mark_is_not_part_of_the_first_key(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load(tmp_path / "f.yaml", Works) == parse("\ufeff" + GOOD, "f.yaml", Works)


def test_the_schema_for_editors_knows_keys_and_variants() -> None:
    schema = json_schema(Works)
    assert schema["$schema"].endswith("2020-12/schema")
    assert schema["required"] == ["name", "machines"]
    assert schema["$defs"]["Pump"]["additionalProperties"] is False


def check_any(text: str | bytes) -> None:
    try:
        parse(text, "f.yaml", Works)
    except DocumentError as error:
        problems = error.problems
    else:
        return
    assert problems
    lines = len(text.splitlines()) + 2
    assert all(1 <= problem.line <= lines and problem.column >= 1 for problem in problems)


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_do_no_worse_than_a_document_error(data: bytes) -> None:
    check_any(data)


# Letters that mean something to YAML come often enough to reach every branch of it.
yaml_text = st.text(
    st.one_of(st.sampled_from("{}[],:-?&*!|>'\"%@`#~ \n\t0.eax"), st.characters()), max_size=80
)


@given(yaml_text)
def test_text_of_any_kind_does_no_worse_than_a_document_error(text: str) -> None:
    check_any(text)


@given(st.integers(0, len(GOOD)), st.integers(0, 12), yaml_text)
def test_a_sound_file_with_any_hole_and_any_filling_does_no_worse_than_a_document_error(
    start: int, length: int, filling: str
) -> None:
    check_any(GOOD[:start] + filling + GOOD[start + length :])


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["kind", "flow", "a"]), inner)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["name", "start", "shifts", "machines", "other"]), values))
def test_values_of_any_shape_do_no_worse_than_a_document_error(document: dict[str, Any]) -> None:
    check_any("\n".join(f"{key}: {flow(value)}" for key, value in document.items()))


def flow(value: Any) -> str:
    """Write a value in YAML's flow style, scalars as Python shows them."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    return str(value) if not isinstance(value, str) else repr(value)
