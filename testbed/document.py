"""Read a user's YAML file into a model, and tell every mistake in it with file, line, column and key.

A file is read in three steps, each of which collects problems instead of stopping at the first:

    text ──▶ tree of values that know their place ──▶ pydantic model ──▶ the model's own cross-checks
          syntax, duplicate keys, alias bombs    unknown, missing, wrong type     Document.problems

The tree is built from ruamel.yaml's events rather than by its round-trip loader: nesting is bounded before
Python's stack is, an alias is weighed before it is expanded, and reading takes a third less time. Plain values
follow the YAML 1.2 core schema: ``no`` is text, ``22:30`` is text and ``014`` is 14.

A problem with a single value points at the value, one with a mapping or list (a missing key, say) at the key or
dash that opens it, and one with a key at the key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from testbed.errors import DocumentError, Problem

# What a stranger's file may cost. Assumptions, each far above any file written by hand.
MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 64
MAX_VALUES = 100_000  # with aliases expanded; about 5 s of reading
MAX_CHARACTERS = 2 * MAX_BYTES  # with aliases expanded

At = tuple[int, int]  # line and column, from 1
Route = tuple[str | int, ...]  # keys and list indexes that lead to a value
M = TypeVar("M", bound=BaseModel)


class Document(BaseModel):
    """Base of every model that is read from a file: frozen, and a key it does not know is a mistake.

    Tell the variants of a union apart with ``Field(discriminator=...)``; a plain ``X | Y`` reports each mistake
    once per variant. What a "before" validator returns is checked as Python, where strict means that a list fills
    no tuple and text no date: prefer a default factory or an "after" validator.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def problems(self) -> Iterable[tuple[Route, str]]:
        """Yield the mistakes that only the whole file shows, each as (keys and list indexes, message).

        Asked of a file's outermost model only, once every type is right. A route that leads past what is
        written (to a default) is told at the deepest key that is.
        """
        return ()


#: Fills in what a file leaves to be filled in: its root value -> the value in its place, and mistakes by route.
Filler = Callable[[Any], tuple[Any, list[tuple[Route, str]]]]


def load(
    path: str | Path,
    model: type[M],
    *,
    context: Mapping[str, Any] | None = None,
    fill: Filler | None = None,
) -> M:
    """Read the file at ``path`` into ``model``; ``context`` is handed to the model's validators.

    ``fill`` sees the values before they are checked. Raises DocumentError with every mistake found; a file that
    cannot be read is one problem at line 1.
    """
    file = str(path)
    try:
        with open(path, "rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise DocumentError([Problem(file, 1, 1, "", f"cannot be read: {reason}")]) from None
    except ValueError:  # a zero byte in the name
        raise DocumentError([Problem(file, 1, 1, "", "cannot be read: not a file name")]) from None
    return parse(raw, file, model, context=context, fill=fill)


def parse(
    text: str | bytes,
    file: str,
    model: type[M],
    *,
    context: Mapping[str, Any] | None = None,
    fill: Filler | None = None,
) -> M:
    """Read ``text`` into ``model``; ``file`` is the name that problems carry.

    Types are held as strictly as in JSON: the text ``"5"`` is no number and 1 is no ``true``, but text may
    fill a date and a list a tuple. Raises DocumentError with every mistake found.
    """
    tree = _Tree(file)
    root = tree.read(text)
    if root is None:
        raise DocumentError(tree.problems)
    found = list(tree.problems)
    value = root.value
    if fill is not None:
        value, mistakes = fill(value)
        for route, message in mistakes:
            spot = _find(root, {}, route)
            found.append(Problem(file, *spot.at, spot.key, message))
    try:
        document = model.model_validate_json(json.dumps(value), strict=True, context=context)
    except ValidationError as error:
        raise DocumentError(
            found + _told(file, root, json_schema(model), error.errors(include_url=False))
        ) from None
    if isinstance(document, Document):
        for route, message in document.problems():
            spot = _find(root, {}, route)
            found.append(Problem(file, *spot.at, spot.key, message))
    if found:
        raise DocumentError(found)
    return document


def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of ``model``, for editors that complete and check YAML."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}


# --- from text to a tree -------------------------------------------------------------------------------


@dataclass(slots=True)
class _Node:
    """A value, where it is told, and what it weighs with aliases expanded."""

    value: Any
    at: At
    children: dict[str | int, _Node] = field(default_factory=dict)
    keys: dict[str, At] = field(default_factory=dict)
    values: int = 1
    characters: int = 0


@dataclass(slots=True)
class _Open:
    """A mapping or list whose end is still to come."""

    node: _Node
    anchor: str | None
    key: str | None = None  # read, while its value is still to come
    dropping: bool = False  # the key is a duplicate, so its value is read and not kept


class _StopReading(Exception):
    """What follows cannot be understood; the reason is among the problems."""


class _Tree:
    """One reading of one text."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self._root: _Node | None = None
        self._open: list[_Open] = []
        self._anchors: dict[str, _Node] = {}
        self._values = 0
        self._characters = 0

    def read(self, text: str | bytes) -> _Node | None:
        """Return the root value, or None when there is none to be had; ``problems`` then says why."""
        try:
            for event in self._events(self._decode(text)):
                self._take(event)
            if self._root is None:
                self._stop((1, 1), "the file is empty")
        except _StopReading:
            return None
        return self._root

    def _note(self, at: At, message: str) -> None:
        route: list[str | int] = []
        for level in self._open:
            if level.key is not None:
                route.append(level.key)
            elif isinstance(level.node.value, list):
                route.append(len(level.node.value))
        self.problems.append(Problem(self.file, *at, _dotted(route), message))

    def _stop(self, at: At, message: str) -> NoReturn:
        self._note(at, message)
        raise _StopReading

    def _decode(self, text: str | bytes) -> str:
        if len(text) > MAX_BYTES:
            self._stop((1, 1), f"larger than {MAX_BYTES // 1024**2} MiB")
        if isinstance(text, str):
            return text.removeprefix("\ufeff")
        try:
            return text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            before = text[: error.start].decode("utf-8-sig", "replace")
            self._stop(_end_of(before), f"not UTF-8 (byte 0x{text[error.start]:02x})")

    def _events(self, text: str) -> Iterator[Any]:
        try:
            yield from YAML(typ="safe", pure=True).parse(text)
        except ReaderError as error:
            self._stop(_end_of(text[: error.position]), f"character U+{error.character:04X} is not allowed")
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            at = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            self._stop(at, f"not YAML: {error.problem or error.context}")
        except YAMLError as error:
            self._stop((1, 1), f"not YAML: {error}")

    def _take(self, event: Any) -> None:
        at = (event.start_mark.line + 1, event.start_mark.column + 1)
        if self._wants_key() and isinstance(
            event, (ScalarEvent, AliasEvent, MappingStartEvent, SequenceStartEvent)
        ):
            self._take_key(event, at)
            return
        match event:
            case ScalarEvent():
                top = self._open[-1] if self._open else None
                if not event.value and not event.style and top is not None and top.key is not None:
                    at = top.node.keys[top.key]  # the parser sees nothing only when the next line begins
                self._spend(at, 1, len(event.value))
                self._put(_Node(self._scalar(event, at), at, characters=len(event.value)), event.anchor)
            case MappingStartEvent() | SequenceStartEvent():
                self._spend(at, 1, 0)
                self._begin(event, at)
            case MappingEndEvent() | SequenceEndEvent():
                done = self._open.pop()
                self._put(done.node, done.anchor)
            case AliasEvent():
                node = self._anchors.get(event.anchor)
                if node is None:
                    self._stop(at, f"alias *{event.anchor} stands for nothing that ended before it")
                self._spend(at, node.values, node.characters)
                self._put(node, None)
            case DocumentStartEvent() if self._root is not None:
                self._stop(at, "a second document starts here; a file holds one")

    def _wants_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1].node.value, dict) and self._open[-1].key is None

    def _take_key(self, event: Any, at: At) -> None:
        if not isinstance(event, ScalarEvent) or not event.value or not event.value.isprintable():
            self._stop(at, "a key must be plain text")
        self._spend(at, 0, len(event.value))
        top = self._open[-1]
        top.key = event.value
        first = top.node.keys.setdefault(event.value, at)
        if first != at:
            self._note(at, f"duplicate key; first given at line {first[0]}")
            top.dropping = True

    def _begin(self, event: Any, at: At) -> None:
        if len(self._open) >= MAX_DEPTH:
            self._stop(at, f"nested more than {MAX_DEPTH} deep")
        empty: Any = {} if isinstance(event, MappingStartEvent) else []
        if event.ctag is not None:
            self._note(at, f"tag {event.ctag} is not understood here")
        top = self._open[-1] if self._open else None
        opened_at = top.node.keys[top.key] if top and top.key is not None else at
        self._open.append(_Open(_Node(empty, opened_at), event.anchor))

    def _put(self, node: _Node, anchor: str | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = node
        if not self._open:
            self._root = node
            return
        top = self._open[-1]
        if top.dropping:
            top.key, top.dropping = None, False
            return
        parent = top.node
        parent.values += node.values
        parent.characters += node.characters
        if top.key is None:
            parent.children[len(parent.value)] = node
            parent.value.append(node.value)
        else:
            parent.children[top.key] = node
            parent.value[top.key] = node.value
            top.key = None

    def _spend(self, at: At, values: int, characters: int) -> None:
        self._values += values
        self._characters += characters
        if self._values > MAX_VALUES or self._characters > MAX_CHARACTERS:
            self._stop(
                at, f"more than {MAX_VALUES} values or {MAX_CHARACTERS} characters, aliases counted in full"
            )

    def _scalar(self, event: Any, at: At) -> Any:
        text: str = event.value
        if event.ctag is not None and str(event.ctag) != _TEXT_TAG:
            self._note(at, f"tag {event.ctag} is not understood here")
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            self._stop(at, "half of a surrogate pair is no character")
        if event.style or str(event.ctag) == _TEXT_TAG:
            return text
        for pattern, convert in _PLAIN:
            if pattern.fullmatch(text):
                if len(text) > 400:  # longer than the longest double and near Python's own limit for integers
                    self._stop(at, "a number of more than 400 digits")
                return convert(text)
        return text


_TEXT_TAG = "tag:yaml.org,2002:str"

# https://yaml.org/spec/1.2.2/#1032-tag-resolution
_PLAIN: tuple[tuple[re.Pattern[str], Callable[[str], Any]], ...] = (
    (re.compile(r"null|Null|NULL|~|"), lambda _: None),
    (re.compile(r"true|True|TRUE"), lambda _: True),
    (re.compile(r"false|False|FALSE"), lambda _: False),
    (re.compile(r"[-+]?[0-9]+"), int),
    (re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+"), lambda text: int(text, 0)),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"), lambda text: float(text.replace(".", ""))),
)


def _end_of(text: str) -> At:
    """Return the line and column that follow ``text``."""
    lines = text.split("\n")
    return len(lines), len(lines[-1]) + 1


# --- from a route to a place ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Spot:
    """Where a route leads: the value, its key's place, the route taken, and the schema the value must meet."""

    node: _Node
    key_at: At
    route: Route
    schema: Mapping[str, Any]

    @property
    def at(self) -> At:
        return self.node.at

    @property
    def key(self) -> str:
        return _dotted(self.route)


def _find(root: _Node, schema: Mapping[str, Any], route: Iterable[str | int]) -> _Spot:
    """Follow ``route`` as far as the file goes.

    The schema is walked along because pydantic puts the name of a union's variant into a route, and only the
    schema tells such a name from a key.
    """
    definitions = schema.get("$defs", {})
    schema = _plain(schema, definitions)
    node, key_at = root, root.at
    taken: list[str | int] = []
    for step in route:
        variants = schema.get("discriminator", {}).get("mapping", {})
        if step in variants:
            schema = _plain({"$ref": variants[step]}, definitions)
        elif step in node.children:
            key_at = node.keys.get(str(step), node.children[step].at)
            node = node.children[step]
            taken.append(step)
            schema = _plain(_inside(schema, step), definitions)
    return _Spot(node, key_at, tuple(taken), schema)


_SCALARS = ("null", "boolean", "integer", "number", "string")


def _plain(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """Resolve references, and a choice to the one alternative that has keys or items."""
    while True:
        if "$ref" in schema:
            schema = definitions.get(schema["$ref"].rpartition("/")[2], {})
        elif "anyOf" in schema:
            inner = [option for option in schema["anyOf"] if option.get("type") not in _SCALARS]
            schema = inner[0] if len(inner) == 1 else {}
        else:
            return schema


def _inside(schema: Mapping[str, Any], step: str | int) -> Mapping[str, Any]:
    """Return the schema of one key or index of a value that meets ``schema``; empty when it is not known."""
    if isinstance(step, int):
        positional = schema.get("prefixItems", [])
        found = positional[step] if step < len(positional) else schema.get("items", {})
    else:
        patterns = list(schema.get("patternProperties", {}).values())
        found = schema.get("properties", {}).get(step, schema.get("additionalProperties") or patterns[:1])
        found = found[0] if isinstance(found, list) and found else found
    return found if isinstance(found, dict) else {}


def _dotted(route: Iterable[str | int]) -> str:
    """Write a route as ``conduits.office.flows[0].port``."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in route).removeprefix(".")


# --- from pydantic's errors to sentences ---------------------------------------------------------------

# By pydantic's error type. One that is not listed keeps pydantic's own sentence.
_SENTENCES = {
    "bool_type": "expected true or false",
    "dict_type": "expected a mapping",
    "enum": "expected {expected}",
    "finite_number": "expected a finite number",
    "float_type": "expected a number",
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "int_type": "expected a whole number",
    "less_than": "must be below {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "list_type": "expected a list",
    "literal_error": "expected {expected}",
    "model_type": "expected a mapping",
    "string_type": "expected text",
    "tuple_type": "expected a list",
    "union_tag_invalid": "expected {expected_tags}",
}


def _told(file: str, root: _Node, schema: Mapping[str, Any], errors: Iterable[ErrorDetails]) -> list[Problem]:
    """Say each of pydantic's errors in a sentence, at its place.

    A misspelled key that must be given is both unknown and missing to pydantic; it is one mistake, told once.
    """
    found: list[Problem] = []
    meant: set[str] = set()
    for error in errors:
        kind, route, facts = error["type"], error["loc"], error.get("ctx", {})
        if kind == "default_factory_not_called":
            continue  # a default that another value decides, and that value's own mistake is told
        spot = _find(root, schema, route)
        if kind == "missing":
            found.append(Problem(file, *spot.at, _dotted((*spot.route, route[-1])), _MISSING))
        elif kind == "extra_forbidden":
            holder = _find(root, schema, route[:-1])
            near = _nearest(str(route[-1]), set(holder.schema.get("properties", ())) - set(holder.node.keys))
            meant.update(_dotted((*holder.route, name)) for name in near)
            found.append(Problem(file, *spot.key_at, spot.key, "unknown key" + _hint(near)))
        elif kind == "union_tag_not_found":
            found.append(_untold_variant(file, spot, facts["discriminator"].strip("'")))
        elif kind == "union_tag_invalid":
            tag = facts["discriminator"].strip("'")
            inner = _find(root, schema, (*route, tag))
            message = _sentence(kind, facts, inner.node.value, error["msg"])
            found.append(Problem(file, *inner.at, inner.key, message))
        else:
            at = spot.key_at if route and route[-1] == "[key]" else spot.at
            found.append(Problem(file, *at, spot.key, _sentence(kind, facts, error["input"], error["msg"])))
    return [problem for problem in found if problem.message != _MISSING or problem.key not in meant]


_MISSING = "missing key"


def _untold_variant(file: str, spot: _Spot, tag: str) -> Problem:
    """Say that the key which names a union's variant is missing, or which key was probably meant as it."""
    for key in spot.node.keys:
        if _nearest(key, [tag]):
            return Problem(
                file, *spot.node.keys[key], _dotted((*spot.route, key)), "unknown key" + _hint([tag])
            )
    return Problem(file, *spot.at, _dotted((*spot.route, tag)), _MISSING)


def _sentence(kind: str, facts: Mapping[str, Any], value: Any, default: str) -> str:
    if kind in ("value_error", "assertion_error"):
        return default.partition(", ")[2]
    said = _SENTENCES.get(kind)
    message = said.format(**facts) if said else default[:1].lower() + default[1:]
    options = re.findall(r"'([^']*)'", str(facts.get("expected", facts.get("expected_tags", ""))))
    return f"{message}, got {_shown(value)}" + _hint(_nearest(str(value), options))


def _shown(value: Any) -> str:
    """Name a value the way its file does."""
    match value:
        case None:
            return "nothing"
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case str():
            return repr(_cut(value))
        case _:
            return _cut(json.dumps(value, default=str))


def _cut(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


def _nearest(name: str, options: Iterable[str]) -> list[str]:
    """Return the option that ``name`` was probably meant to be, or nothing; letter case does not count."""
    folded = {option.casefold(): option for option in sorted(options)}
    return [folded[near] for near in get_close_matches(name.casefold(), folded, n=1)]


def _hint(near: list[str]) -> str:
    return f"; did you mean {near[0]!r}?" if near else ""
