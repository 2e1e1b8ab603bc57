"""Structured Text (IEC 61131-3, third edition, clause 7.3): from the text of a program to Python source.

A program may arrive over the network from an attacker, so the translation is the boundary: the Python it
writes holds no text of the user's. Every variable is a string key or a numbered local, every literal is
written again from its parsed value, every call goes to a name in this module's own tables. What could exhaust
the interpreter (size, depth, cells, calls) has a limit with a sentence; loops are charged to a budget that the
run-time holds.

Semantics that the standard leaves to the implementer, chosen here:

- integers wrap at the width of their type after each operation; division and MOD truncate toward zero and fault
  on a zero divisor; REAL and LREAL are both a Python float (IEEE 754 double);
- unary operators bind tighter than ``**`` (the standard's grammar), ``**`` gives a REAL;
- AND and OR of BOOL evaluate their right side only when it can matter;
- after a FOR that ran to its end the control variable is one step past the last value, and the body may not
  assign it;
- TIME is a float in seconds, and ``TIME_TO_x`` / ``x_TO_TIME`` count seconds (as the matiec compiler does); a
  real to an integer rounds half to even, ``TRUNC`` gives a DINT; a bit string converts by its value;
- a function has one result and no other output; inputs and outputs are elementary; an array passes as VAR_IN_OUT.

Not in the language here: strings, dates, enumerations, structures, arrays of more than one dimension or of
blocks, located variables (``AT %IX0.0``), global variables, tasks, methods, pointers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fractions import Fraction
from functools import lru_cache
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from testbed.errors import DocumentError, Problem

if TYPE_CHECKING:
    from lark import Lark, Token

# The limits are assumptions: far above what a process program needs, far below what would hurt the interpreter.
MAX_BYTES = 64 * 1024  # UTF-8 bytes of one text
MAX_NAME = 64  # characters of an identifier
MAX_EXPRESSION_DEPTH = 64  # operators between the root of an expression and its deepest operand
MAX_NESTING = 32  # statements inside statements; Python allows 100 levels of indentation
MAX_LOOP_NESTING = 16  # Python allows 20 nested blocks
MAX_BRANCHES = 400  # ELSIF and CASE branches on one path; Python nests each inside the one before
MAX_CALL_DEPTH = 32  # blocks and functions inside one another
MAX_PARAMETERS = (
    100  # inputs, outputs and VAR_IN_OUT of a block or function; a call writes out all that it omits
)
MAX_CELLS = 65_536  # elementary values held by one program, arrays and blocks included
MAX_PROBLEMS = 100  # mistakes reported for one text
MAX_HINTS = 10  # of them that say what may have been meant
MAX_HINT_NAMES = 200  # names that are searched for it
LARGEST_INTEGER = 2**64 - 1  # ULINT
WIDEST_PRODUCT = 2**128  # an integer expression is wrapped before it can grow past this

Value: TypeAlias = bool | int | float
Position: TypeAlias = tuple[int, int]

# --------------------------------------------------------------------------------------------------- types


@dataclass(frozen=True, slots=True)
class Elementary:
    """A type of one cell; ``low`` and ``high`` bound whole numbers and are 0 for REAL and TIME."""

    name: str
    kind: str  # bool, int, bits, real, time, error
    low: int = 0
    high: int = 0

    @property
    def zero(self) -> Value:
        return {"bool": False, "real": 0.0, "time": 0.0}.get(self.kind, 0)


@dataclass(frozen=True, slots=True)
class Array:
    low: int
    high: int
    element: Elementary
    kind: str = "array"

    @property
    def name(self) -> str:
        return f"ARRAY[{self.low}..{self.high}] OF {self.element.name}"


@dataclass(frozen=True, slots=True)
class Block:
    """An instance of the function block ``name`` (declared spelling)."""

    name: str
    kind: str = "block"


Type: TypeAlias = Elementary | Array | Block

# Smallest first: the common type of two operands is the first in this order that both fit.
ELEMENTARY: Mapping[str, Elementary] = {
    t.name: t
    for t in (
        Elementary("SINT", "int", -(2**7), 2**7 - 1),
        Elementary("USINT", "int", 0, 2**8 - 1),
        Elementary("INT", "int", -(2**15), 2**15 - 1),
        Elementary("UINT", "int", 0, 2**16 - 1),
        Elementary("DINT", "int", -(2**31), 2**31 - 1),
        Elementary("UDINT", "int", 0, 2**32 - 1),
        Elementary("LINT", "int", -(2**63), 2**63 - 1),
        Elementary("ULINT", "int", 0, 2**64 - 1),
        Elementary("REAL", "real"),
        Elementary("LREAL", "real"),
        Elementary("BOOL", "bool", 0, 1),
        Elementary("BYTE", "bits", 0, 2**8 - 1),
        Elementary("WORD", "bits", 0, 2**16 - 1),
        Elementary("DWORD", "bits", 0, 2**32 - 1),
        Elementary("LWORD", "bits", 0, 2**64 - 1),
        Elementary("TIME", "time"),
    )
}
BOOL, DINT, REAL, LREAL, TIME = (ELEMENTARY[name] for name in ("BOOL", "DINT", "REAL", "LREAL", "TIME"))
# An untyped literal takes the type of its surroundings.
ANY_INT = Elementary("ANY_INT", "int", -LARGEST_INTEGER, LARGEST_INTEGER)
ANY_REAL = Elementary("ANY_REAL", "real")
UNKNOWN = Elementary("unknown", "error")  # already reported: silences what follows from it


def _widens(source: Elementary, target: Elementary) -> bool:
    if source.kind == target.kind:
        return target.name != "REAL" if source.kind == "real" else _within(source, target)
    # Every whole number of 32 bits is exact in a double.
    return source.kind == "int" and target.kind == "real" and source.high < 2**32


def _within(inner: Elementary | Code, outer: Elementary) -> bool:
    return outer.low <= inner.low and inner.high <= outer.high


WIDENS: Mapping[str, frozenset[str]] = {
    source.name: frozenset(
        target.name for target in ELEMENTARY.values() if target is source or _widens(source, target)
    )
    for source in ELEMENTARY.values()
}

# ------------------------------------------------------------------------------------------- syntax tree

# Named tuples: as frozen dataclasses with slots these classes took 40 of the 60 ms that the import took.


class Literal(NamedTuple):
    at: Position
    type: Elementary
    value: Value
    depth: int = 1


class Name(NamedTuple):
    at: Position
    name: str
    depth: int = 1


class Index(NamedTuple):
    at: Position
    name: str
    place: Expression
    depth: int


class Member(NamedTuple):
    at: Position
    name: str
    member: str
    depth: int = 1


class Unary(NamedTuple):
    at: Position
    operator: str
    operand: Expression
    depth: int


class Chain(NamedTuple):
    """Operands joined by operators of one precedence, evaluated from the left."""

    at: Position
    operands: tuple[Expression, ...]
    operators: tuple[tuple[str, Position], ...]
    depth: int


class Argument(NamedTuple):
    at: Position
    name: str  # empty for a positional argument
    value: Expression
    output: bool = False


class Call(NamedTuple):
    at: Position
    name: str
    arguments: tuple[Argument, ...]
    depth: int


Expression: TypeAlias = Literal | Name | Index | Member | Unary | Chain | Call


class Assign(NamedTuple):
    at: Position
    target: Name | Index | Member
    value: Expression


class Invoke(NamedTuple):
    at: Position
    name: str
    arguments: tuple[Argument, ...]


class Branch(NamedTuple):
    at: Position
    condition: Expression
    body: Body


class If(NamedTuple):
    at: Position
    branches: tuple[Branch, ...]
    otherwise: Body


class Choice(NamedTuple):
    """One branch of a CASE; a single label is a range of one."""

    at: Position
    labels: tuple[tuple[Literal | Name, Literal | Name], ...]
    body: Body


class Case(NamedTuple):
    at: Position
    selector: Expression
    choices: tuple[Choice, ...]
    otherwise: Body


class For(NamedTuple):
    at: Position
    variable: str
    first: Expression
    last: Expression
    step: Expression | None
    body: Body


class While(NamedTuple):
    at: Position
    condition: Expression
    body: Body


class Repeat(NamedTuple):
    at: Position
    body: Body
    until: Expression


class Jump(NamedTuple):
    at: Position
    word: str  # EXIT, CONTINUE, RETURN


Statement: TypeAlias = Assign | Invoke | If | Case | For | While | Repeat | Jump
Body: TypeAlias = tuple[Statement, ...]


class TypeName(NamedTuple):
    at: Position
    name: str
    bounds: tuple[Literal | Name, Literal | Name] | None = None


class Declaration(NamedTuple):
    at: Position
    section: str
    name: str
    type: TypeName
    initial: Initial


class Repeated(NamedTuple):
    times: int
    value: Literal | Name


Presets: TypeAlias = dict[str, tuple[Position, Literal | Name]]  # of a block's inputs, by upper-case name
Initial: TypeAlias = Literal | Name | list[Repeated] | Presets | None


class Declared(NamedTuple):
    """One PROGRAM, FUNCTION_BLOCK or FUNCTION as written."""

    at: Position
    kind: str
    name: str
    result: TypeName | None
    declarations: tuple[Declaration, ...]
    body: Body


# ------------------------------------------------------------------------------------------------ grammar

# Classes are spelled out because [a-z] with IGNORECASE, and \d, also match letters and digits outside ASCII.
GRAMMAR = r"""
start: unit*
unit: PROGRAM NAME var_block* block _END_PROGRAM                  -> program
    | FUNCTION_BLOCK NAME var_block* block _END_FUNCTION_BLOCK    -> function_block
    | FUNCTION NAME ":" NAME var_block* block _END_FUNCTION       -> function

var_block: (VAR | VAR_INPUT | VAR_OUTPUT | VAR_IN_OUT) [qualifier] declaration* _END_VAR
!qualifier: CONSTANT | RETAIN
declaration: names ":" type_name [_ASSIGN initial] ";"
names: NAME ("," NAME)*
type_name: NAME                                                   -> plain_type
         | ARRAY "[" constant _RANGE constant "]" _OF NAME        -> array_type
?initial: constant
        | "[" repeated ("," repeated)* "]"                        -> array_initial
        | "(" preset ("," preset)* ")"                            -> block_initial
repeated: constant                                                -> once
        | INTEGER "(" constant ")"                                -> times
preset: NAME _ASSIGN constant
constant: [SUM] literal                                           -> signed
        | NAME                                                    -> name

block: statement*
?statement: ";"                                                   -> empty
          | variable _ASSIGN expression ";"                       -> assign
          | NAME "(" [arguments] ")" ";"                          -> invoke
          | IF expression _THEN block elsif* [_ELSE block] _END_IF ";"                    -> if_
          | CASE expression _OF (labels | statement)* [_ELSE block] _END_CASE ";"         -> case
          | FOR NAME _ASSIGN expression _TO expression [_BY expression] _DO block _END_FOR ";" -> for_
          | WHILE expression _DO block _END_WHILE ";"             -> while_
          | REPEAT block _UNTIL expression _END_REPEAT ";"        -> repeat
          | (EXIT | CONTINUE | RETURN) ";"                        -> jump
elsif: ELSIF expression _THEN block
labels: label ("," label)* ":"
label: constant [_RANGE constant]

expression: unary ((OPERATOR | SUM | OR | XOR | AND | MOD) unary)*
?unary: (SUM | NOT) unary                                         -> prefixed
      | primary
?primary: literal
        | variable
        | NAME "(" [arguments] ")"                                -> call
        | "(" expression ")"
arguments: argument ("," argument)*
argument: expression                                              -> positional
        | NAME _ASSIGN expression                                 -> named
        | NAME _ARROW variable                                    -> output
variable: NAME                                                    -> name
        | NAME "[" expression "]"                                 -> index
        | NAME "." NAME                                           -> member
literal: INTEGER                                                  -> integer
       | DECIMAL                                                  -> decimal
       | DURATION                                                 -> duration
       | (TRUE | FALSE)                                           -> truth
       | PREFIX [SUM] (INTEGER | DECIMAL | TRUE | FALSE)          -> typed

NAME: /[A-Za-z_][A-Za-z0-9_]*/
PREFIX.2: /[A-Za-z_][A-Za-z0-9_]*#/
DURATION.3: /[Tt]([Ii][Mm][Ee])?#-?[0-9][0-9A-Za-z_.]*[A-Za-z]/
INTEGER.2: /(2|8|16)#[0-9A-Fa-f][0-9A-Fa-f_]*|[0-9][0-9_]*/
DECIMAL.3: /[0-9][0-9_]*\.[0-9][0-9_]*([Ee][+-]?[0-9]+)?/
SUM: /[+-]/
OPERATOR: /<>|<=|>=|<|>|=(?!>)|\*\*?|\/|&/
_ASSIGN: ":="
_ARROW: "=>"
_RANGE: ".."
COMMENT.5: /\(\*[\s\S]*?\*\)|\/\/[^\n]*/
OPEN_COMMENT.4: /\(\*/
%ignore COMMENT
%ignore OPEN_COMMENT
%ignore /[ \t\r\n\f]+/
"""

_KEPT = (
    "PROGRAM FUNCTION_BLOCK FUNCTION VAR VAR_INPUT VAR_OUTPUT VAR_IN_OUT CONSTANT RETAIN ARRAY IF ELSIF CASE FOR WHILE "
    "REPEAT EXIT CONTINUE RETURN OR XOR AND MOD NOT TRUE FALSE"
)
_DROPPED = (
    "END_PROGRAM END_FUNCTION_BLOCK END_FUNCTION END_VAR OF THEN ELSE END_IF END_CASE TO BY DO END_FOR "
    "END_WHILE UNTIL END_REPEAT"
)
# Lark drops a terminal whose name starts with an underscore from the children of its rule.
KEYWORDS: Mapping[str, str] = {word: word for word in _KEPT.split()} | {
    word: f"_{word}" for word in _DROPPED.split()
}

# Tightest first. The grammar has one flat rule for all of them: a rule a level would cost every operand eight
# reductions, and those were most of the time to parse a program.
PRECEDENCE = tuple(
    frozenset(level.split()) for level in ("**", "* / MOD", "+ -", "< > <= >=", "= <>", "AND", "XOR", "OR")
)

_DURATION_PART = re.compile(
    r"([0-9][0-9_]*(?:\.[0-9][0-9_]*)?)(d|h|ms|m|s|us|ns)_?", re.IGNORECASE | re.ASCII
)
_NANOSECONDS = {
    "d": 86_400 * 10**9,
    "h": 3_600 * 10**9,
    "m": 60 * 10**9,
    "s": 10**9,
    "ms": 10**6,
    "us": 10**3,
    "ns": 1,
}
_LONGEST_NUMBER = 40  # digits; more than any type holds, few enough for int() to be quick


class _Mistake(Exception):
    """The text cannot be parsed any further."""

    def __init__(self, at: Position, message: str) -> None:
        super().__init__(message)
        self.at, self.message = at, message


def _at(token: Token) -> Position:
    return (token.line or 1, token.column or 1)


def _keyword(token: Token) -> Token:
    found = KEYWORDS.get(token.upper())
    if found is not None:
        token.type = found
    elif len(token) > MAX_NAME:
        raise _Mistake(_at(token), f"a name has at most {MAX_NAME} characters, this one {len(token)}")
    return token


def _never_closed(token: Token) -> Token:
    raise _Mistake(_at(token), "the comment (* is never closed")


def _deeper(at: Position, levels: int, operands: Iterable[Expression]) -> int:
    depth = levels + max((operand.depth for operand in operands), default=0)
    if depth > MAX_EXPRESSION_DEPTH:
        raise _Mistake(at, f"the expression nests deeper than {MAX_EXPRESSION_DEPTH} operators; split it")
    return depth


def _bind(
    operands: list[Expression], operators: list[tuple[str, Position]], level: frozenset[str]
) -> tuple[list[Expression], list[tuple[str, Position]]]:
    """Join each run of ``operators`` of one precedence ``level`` into a Chain; the others stay."""
    joined, left = [operands[0]], []
    for is_bound, group in groupby(zip(operators, operands[1:], strict=True), lambda p: p[0][0] in level):
        run = list(group)
        if not is_bound:
            left += [operator for operator, _ in run]
            joined += [operand for _, operand in run]
            continue
        of_run = (joined[-1], *(operand for _, operand in run))
        words, at = tuple(operator for operator, _ in run), run[0][0][1]
        # Python's "and" takes any number of operands at one level; its "+" nests.
        levels = 1 if words[0][0] in ("AND", "OR") else len(words)
        joined[-1] = Chain(at, of_run, words, _deeper(at, levels, of_run))
    return joined, left


def _whole(token: Token) -> int:
    base, _, digits = token.replace("_", "").rpartition("#")
    if len(digits) > _LONGEST_NUMBER:
        raise _Mistake(_at(token), "the number is out of range")
    try:
        value = int(digits, int(base or 10))
    except ValueError:
        raise _Mistake(_at(token), f"{str(token)!r} has a digit outside its base") from None
    if value > LARGEST_INTEGER:
        raise _Mistake(_at(token), "the number is out of range")
    return value


def _decimal(token: Token) -> float:
    value = float(token.replace("_", ""))
    if value == float("inf"):
        raise _Mistake(_at(token), "the number is out of range")
    return value


def _seconds(token: Token) -> float:
    text = token.partition("#")[2]
    negative = text.startswith("-")
    parts, end = [], int(negative)
    while (found := _DURATION_PART.match(text, end)) is not None:
        parts.append((found[1].replace("_", ""), found[2].lower()))
        end = found.end()
    order = [list(_NANOSECONDS).index(unit) for _, unit in parts]
    if (
        end != len(text)
        or text.endswith("_")
        or any(later <= earlier for earlier, later in pairwise(order))
        or any("." in number for number, _ in parts[:-1])
        or any(len(number) > _LONGEST_NUMBER for number, _ in parts)
    ):
        raise _Mistake(_at(token), f"{str(token)[:MAX_NAME]!r} is not a duration like T#1h30m or T#1.5s")
    total = sum((Fraction(number) * _NANOSECONDS[unit] for number, unit in parts), Fraction(0))
    return float(-total if negative else total) / 1e9


class _TreeBuilder:
    """Lark calls the method named after a rule with the rule's children, bottom up: no recursion."""

    def start(self, units: list[Declared]) -> list[Declared]:
        return units

    def program(self, children: list[Any]) -> Declared:
        word, name, *blocks, body = children
        return self._declared(word, name, None, blocks, body)

    function_block = program

    def function(self, children: list[Any]) -> Declared:
        word, name, result, *blocks, body = children
        return self._declared(word, name, TypeName(_at(result), str(result)), blocks, body)

    def _declared(
        self, word: Token, name: Token, result: TypeName | None, blocks: list[list[Declaration]], body: Body
    ) -> Declared:
        every = tuple(declaration for block in blocks for declaration in block)
        return Declared(_at(name), str(word.type), str(name), result, every, body)

    def var_block(self, children: list[Any]) -> list[Declaration]:
        word, qualifier, *groups = children
        section = _SECTIONS.get((word.type, qualifier and qualifier.type))
        if section is None:
            raise _Mistake(_at(qualifier), f"{qualifier.type} goes with VAR, not with {word.type}")
        return [
            Declaration(_at(name), section, str(name), type_name, initial)
            for names, type_name, initial in groups
            for name in names
        ]

    def qualifier(self, children: list[Token]) -> Token:
        return children[0]

    def declaration(self, children: list[Any]) -> list[Any]:
        return children

    def names(self, children: list[Token]) -> list[Token]:
        return children

    def plain_type(self, children: list[Token]) -> TypeName:
        return TypeName(_at(children[0]), str(children[0]))

    def array_type(self, children: list[Any]) -> TypeName:
        word, low, high, element = children
        return TypeName(_at(word), str(element), (low, high))

    def array_initial(self, children: list[Repeated]) -> list[Repeated]:
        return children

    def once(self, children: list[Literal | Name]) -> Repeated:
        return Repeated(1, children[0])

    def times(self, children: list[Any]) -> Repeated:
        return Repeated(_whole(children[0]), children[1])

    def block_initial(self, children: list[list[Any]]) -> Presets:
        return {str(name).upper(): (_at(name), value) for name, value in children}

    def preset(self, children: list[Any]) -> list[Any]:
        return children

    def signed(self, children: list[Any]) -> Literal:
        sign: Token | None = children[0]
        literal: Literal = children[1]
        if sign is None or sign == "+":
            return literal
        if literal.type not in (ANY_INT, ANY_REAL):
            raise _Mistake(_at(sign), f"a sign cannot stand before a {literal.type.name} literal")
        return literal._replace(at=_at(sign), value=-literal.value)

    def integer(self, children: list[Token]) -> Literal:
        return Literal(_at(children[0]), ANY_INT, _whole(children[0]))

    def decimal(self, children: list[Token]) -> Literal:
        return Literal(_at(children[0]), ANY_REAL, _decimal(children[0]))

    def duration(self, children: list[Token]) -> Literal:
        return Literal(_at(children[0]), TIME, _seconds(children[0]))

    def truth(self, children: list[Token]) -> Literal:
        return Literal(_at(children[0]), BOOL, children[0].type == "TRUE")

    def typed(self, children: list[Any]) -> Literal:
        prefix, sign, token = children
        at, name = _at(prefix), str(prefix)[:-1].upper()
        target = ELEMENTARY.get(name)
        if name in ("T", "TIME"):
            raise _Mistake(at, "a duration needs a unit, as in T#500ms")
        if target is None:
            raise _Mistake(at, f"{str(prefix)[:MAX_NAME]!r} is not an elementary type")
        value: Value
        if token.type in ("TRUE", "FALSE"):
            value, fits = token.type == "TRUE", target is BOOL and sign is None
        elif token.type == "DECIMAL":
            value, fits = _decimal(token), target.kind == "real"
        else:
            whole = -_whole(token) if sign == "-" else _whole(token)
            value, fits = whole, target.kind == "real" or target.low <= whole <= target.high
        if not fits:
            raise _Mistake(at, f"the literal is not a {target.name}")
        if target.kind == "real":
            value = -float(value) if sign == "-" and token.type == "DECIMAL" else float(value)
        return Literal(at, target, bool(value) if target is BOOL else value)

    def name(self, children: list[Token]) -> Name:
        return Name(_at(children[0]), str(children[0]))

    def index(self, children: list[Any]) -> Index:
        name, index = children
        return Index(_at(name), str(name), index, _deeper(_at(name), 1, (index,)))

    def member(self, children: list[Token]) -> Member:
        return Member(_at(children[0]), str(children[0]), str(children[1]))

    def prefixed(self, children: list[Any]) -> Unary:
        operator, operand = children
        at = _at(operator)
        return Unary(at, operator.upper(), operand, _deeper(at, 1, (operand,)))

    def expression(self, children: list[Any]) -> Expression:
        operands = children[::2]
        operators = [("AND" if t == "&" else t.upper(), _at(t)) for t in children[1::2]]
        for level in PRECEDENCE:
            if not operators:
                break
            if any(word in level for word, _ in operators):
                operands, operators = _bind(operands, operators, level)
        return operands[0]  # type: ignore[no-any-return]

    def arguments(self, children: list[Argument]) -> tuple[Argument, ...]:
        return tuple(children)

    def positional(self, children: list[Expression]) -> Argument:
        return Argument(children[0].at, "", children[0])

    def named(self, children: list[Any]) -> Argument:
        return Argument(_at(children[0]), str(children[0]), children[1])

    def output(self, children: list[Any]) -> Argument:
        return Argument(_at(children[0]), str(children[0]), children[1], output=True)

    def call(self, children: list[Any]) -> Call:
        name, arguments = children
        depth = _deeper(_at(name), 1, (argument.value for argument in arguments or ()))
        return Call(_at(name), str(name), arguments or (), depth)

    def block(self, children: list[Statement | None]) -> Body:
        return tuple(statement for statement in children if statement is not None)

    def empty(self, children: list[Any]) -> None:
        return None

    def assign(self, children: list[Any]) -> Assign:
        target, value = children
        return Assign(target.at, target, value)

    def invoke(self, children: list[Any]) -> Invoke:
        name, arguments = children
        return Invoke(_at(name), str(name), arguments or ())

    def elsif(self, children: list[Any]) -> Branch:
        word, condition, body = children
        return Branch(_at(word), condition, body)

    def if_(self, children: list[Any]) -> If:
        word, condition, body, *others, otherwise = children
        return If(_at(word), (Branch(_at(word), condition, body), *others), otherwise or ())

    def label(self, children: list[Any]) -> tuple[Literal | Name, Literal | Name]:
        low, high = children
        return (low, low if high is None else high)

    def labels(self, children: list[tuple[Literal | Name, Literal | Name]]) -> list[Any]:
        return children

    def case(self, children: list[Any]) -> Case:
        word, selector, *items, otherwise = children
        choices: list[tuple[list[Any], list[Statement]]] = []
        # Labels and statements come in one flat list: after a name, only what follows tells them apart.
        for item in items:
            if isinstance(item, list):
                choices.append((item, []))
            elif item is None:
                continue
            elif not choices:
                raise _Mistake(item.at, "a CASE starts with a label, as in 1:")
            else:
                choices[-1][1].append(item)
        made = tuple(Choice(labels[0][0].at, tuple(labels), tuple(body)) for labels, body in choices)
        return Case(_at(word), selector, made, otherwise or ())

    def for_(self, children: list[Any]) -> For:
        word, name, first, last, step, body = children
        return For(_at(word), str(name), first, last, step, body)

    def while_(self, children: list[Any]) -> While:
        word, condition, body = children
        return While(_at(word), condition, body)

    def repeat(self, children: list[Any]) -> Repeat:
        word, body, until = children
        return Repeat(_at(word), body, until)

    def jump(self, children: list[Token]) -> Jump:
        return Jump(_at(children[0]), children[0].type)


_SECTIONS: Mapping[tuple[str, str | None], str] = {
    ("VAR", None): "local",
    ("VAR", "RETAIN"): "retain",
    ("VAR", "CONSTANT"): "constant",
    ("VAR_INPUT", None): "input",
    ("VAR_OUTPUT", None): "output",
    ("VAR_IN_OUT", None): "inout",
}


@lru_cache(maxsize=1)
def _parser() -> Lark:
    from lark import Lark  # costs more than everything else here, and only a program's first text needs it

    words = " ".join(KEYWORDS.values())
    return Lark(
        f"{GRAMMAR}\n%declare {words}\n",
        parser="lalr",
        lexer="basic",
        lexer_callbacks={"NAME": _keyword, "OPEN_COMMENT": _never_closed},
        transformer=_TreeBuilder(),  # lark looks its methods up by the names of the rules
        maybe_placeholders=True,
    )


def parse(text: str) -> tuple[Declared, ...]:
    """Return the units of ``text`` in order.

    Raises `_Mistake` at the first place where the text cannot be Structured Text.
    """
    from lark.exceptions import UnexpectedCharacters, UnexpectedToken

    try:
        units: Any = _parser().parse(text)
        return tuple(units)
    except UnexpectedCharacters as error:
        raise _Mistake((error.line, error.column), f"unexpected character {error.char!r}") from None
    except UnexpectedToken as error:
        raise _Mistake(_at(error.token), _unexpected(error.token, error.expected)) from None


def _unexpected(token: Token, expected: Iterable[str]) -> str:
    found = "end of text" if token.type == "$END" else repr(str(token)[:MAX_NAME])
    words = sorted({_SPELLING.get(name, name.lstrip("_")) for name in expected})
    wanted = f"expected {' or '.join(words)}" if len(words) <= 6 else "it cannot stand here"
    hint = "; is a ';' missing before it?" if "';'" in words and "IF" not in words else ""
    return f"unexpected {found}: {wanted}{hint}"


_SPELLING: Mapping[str, str] = {
    "NAME": "a name",
    "INTEGER": "a number",
    "DECIMAL": "a number",
    "DURATION": "a duration",
    "PREFIX": "a typed literal",
    "OPERATOR": "an operator",
    "SUM": "an operator",
    "OR": "an operator",
    "XOR": "an operator",
    "AND": "an operator",
    "MOD": "an operator",
    "_ASSIGN": "':='",
    "_ARROW": "'=>'",
    "_RANGE": "'..'",
    "SEMICOLON": "';'",
    "COLON": "':'",
    "COMMA": "','",
    "DOT": "'.'",
    "LPAR": "'('",
    "RPAR": "')'",
    "LSQB": "'['",
    "RSQB": "']'",
    "$END": "the end of the text",
}

# -------------------------------------------------------------------------------------------- declarations


@dataclass(frozen=True, slots=True)
class Symbol:
    """A variable of a unit; ``access`` is the Python that reads it, or a constant's literal.

    ``initial`` is a value, a list of values for an array, or the preset inputs of a block by upper-case name.
    """

    name: str
    type: Type
    section: str
    initial: Value | tuple[Value, ...] | Mapping[str, Value]
    access: str


@dataclass(slots=True)
class Unit:
    """A PROGRAM, FUNCTION_BLOCK or FUNCTION that calls can name; complete once its text is translated."""

    kind: str
    name: str
    python: str
    standard: bool = False
    result: Elementary | None = None
    symbols: dict[str, Symbol] = field(default_factory=dict)
    calls: dict[str, Position] = field(default_factory=dict)  # upper-case names of units inside it
    cells: int = 0
    depth: int = 0
    _found: dict[tuple[str, ...], tuple[int, list[Symbol]]] = field(default_factory=dict)

    def of(self, *sections: str) -> list[Symbol]:
        size, found = self._found.get(sections, (-1, []))
        if size != len(self.symbols):  # symbols are only ever added
            found = [symbol for symbol in self.symbols.values() if symbol.section in sections]
            self._found[sections] = (len(self.symbols), found)
        return found


@dataclass(frozen=True, slots=True)
class Translation:
    """``lines[n]`` is the line of the text that line ``n + 1`` of ``python`` came from."""

    program: Unit | None
    units: Mapping[str, Unit]
    python: str
    lines: tuple[int, ...]


# ---------------------------------------------------------------------------------------------- expressions

# How tightly Python binds, loosest first; an operand is put in parentheses when it binds looser than its place.
(
    TERNARY,
    OR,
    AND,
    NOT,
    COMPARISON,
    BIT_OR,
    BIT_XOR,
    BIT_AND,
    SHIFT,
    SUM,
    PRODUCT,
    SIGN,
    ATOM,
) = range(13)


@dataclass(frozen=True, slots=True)
class Code:
    """Python for an expression: its type, and for whole numbers the bounds of what it can be before wrapping."""

    text: str
    type: Type
    rank: int = ATOM
    low: int = 0
    high: int = 0

    def at(self, rank: int) -> str:
        return self.text if self.rank >= rank else f"({self.text})"


_NOTHING = Code("None", UNKNOWN)


def _typed(text: str, of: Type, rank: int = ATOM) -> Code:
    return Code(text, of, rank, of.low, of.high) if isinstance(of, Elementary) else Code(text, of, rank)


def _literal(value: Value, of: Elementary) -> Code:
    whole = int(value) if of.kind in ("bool", "int", "bits") else 0
    return Code(repr(value), of, SIGN if value < 0 else ATOM, whole, whole)


def _settled(code: Code) -> Code:
    """Wrap a whole number that may have left the range of its type."""
    of = code.type
    if not isinstance(of, Elementary) or of.kind not in ("int", "bits") or of is ANY_INT or _within(code, of):
        return code
    span = of.high - of.low
    if of.low:
        return _typed(f"({code.at(SUM)} + {-of.low} & {span}) - {-of.low}", of, SUM)
    return _typed(f"{code.at(BIT_AND)} & {span}", of, BIT_AND)


def _fits(code: Code, target: Type) -> bool:
    """Whether ``code`` may stand where ``target`` is wanted without a conversion call."""
    source = code.type
    if source is UNKNOWN or target is UNKNOWN:
        return True
    if not isinstance(source, Elementary) or not isinstance(target, Elementary):
        return source == target
    if source is ANY_INT:
        if target.kind in ("int", "bits"):
            return _within(code, target)
        return target.kind == "real" or (target is BOOL and code.low == code.high in (0, 1))
    if source is ANY_REAL:
        return target.kind == "real"
    return target.name in WIDENS[source.name]


def _as(code: Code, target: Type) -> str:
    """The Python of ``code`` as a value of ``target``, which it fits."""
    code = _settled(code)
    if isinstance(code.type, Elementary) and code.type is not target:
        if target.kind == "real" and code.type.kind == "int":
            return repr(float(code.low)) if code.low == code.high else f"float({code.text})"
        if target is BOOL and code.type is ANY_INT:
            return repr(bool(code.low))
    return code.text


def _common(codes: Sequence[Code]) -> Elementary | None:
    """The smallest type that every one of ``codes`` fits; None when there is none."""
    types = [code.type for code in codes]
    if any(of is UNKNOWN for of in types):
        return UNKNOWN
    if all(of is types[0] for of in types):
        return types[0] if isinstance(types[0], Elementary) else None
    if all(of is ANY_INT or of is ANY_REAL for of in types):
        return ANY_REAL
    return next((t for t in ELEMENTARY.values() if all(_fits(code, t) for code in codes)), None)


def _whole_bounds(operator: str, a: Code, b: Code) -> tuple[int, int]:
    if operator == "+":
        return a.low + b.low, a.high + b.high
    if operator == "-":
        return a.low - b.high, a.high - b.low
    if operator == "*":
        corners = (a.low * b.low, a.low * b.high, a.high * b.low, a.high * b.high)
        return min(corners), max(corners)
    if a.low == a.high and b.low == b.high != 0:
        quotient = abs(a.low) // abs(b.low) * (1 if (a.low < 0) == (b.low < 0) else -1)
        exact = quotient if operator == "/" else a.low - b.low * quotient
        return exact, exact
    if operator == "/":
        most = max(abs(a.low), abs(a.high))
        return (0 if a.low >= 0 and b.low >= 0 else -most), most
    most = max(abs(b.low), abs(b.high), 1) - 1
    return (0 if a.low >= 0 else -most), most


_PLAIN = {"+": SUM, "-": SUM, "*": PRODUCT}
_COMPARE = {"=": "==", "<>": "!=", "<": "<", ">": ">", "<=": "<=", ">=": ">="}

# Standard function -> name of the run-time function, for those of one REAL and a REAL result.
MATH: Mapping[str, str] = {
    "SQRT": "sqrt",
    "LN": "log",
    "LOG": "log10",
    "EXP": "exp",
    "SIN": "sin",
    "COS": "cos",
    "TAN": "tan",
    "ASIN": "asin",
    "ACOS": "acos",
    "ATAN": "atan",
}
# Every global name that translated code can use, besides the functions it defines itself.
RUNTIME_NAMES = (
    *MATH.values(),
    *("abs", "float", "int", "max", "min", "round"),
    *(
        "after",
        "divide",
        "limit",
        "offset",
        "overrun",
        "pick",
        "power",
        "remainder",
        "shift_left",
        "shift_right",
        "steps",
    ),
)
_EXTREME = {"MIN": "min", "MAX": "max"}
_SHIFT = {"SHL": "shift_left", "SHR": "shift_right"}
_CONVERSION = re.compile(rf"(?:({'|'.join(ELEMENTARY)})_)?(TO|TRUNC)_({'|'.join(ELEMENTARY)})")


class _Translator:
    """Checks the bodies of units and writes their Python, one unit at a time."""

    def __init__(self, standard: Mapping[str, Unit], is_standard: bool) -> None:
        self.problems: list[Problem] = []
        self.units: dict[str, Unit] = dict(standard)
        self.is_standard = is_standard
        self.presets: list[tuple[Unit, Block, dict[str, Value], Presets]] = []
        self.python: list[str] = []
        self.lines: list[int] = []
        self.unit = Unit("", "", "")  # the one being worked on
        self.level = 1  # indentation of the next line
        self.branches = 0
        self.loops: list[str] = []  # upper-case control variables; empty for WHILE and REPEAT
        self.cost = 0
        self.numbered = 0
        self.elements = 0  # of all arrays

    # ---- reporting

    def report(self, at: Position, message: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem("", *at, self.unit.name, message))

    def unknown(self, at: Position, kind: str, name: str, known: Iterable[str]) -> None:
        hint = ""
        # Looking for a close match takes up to half a millisecond a name: an attacker chooses how many there are.
        if len(self.problems) < MAX_HINTS:
            names = sorted({k.upper() for k in known})
            close = get_close_matches(name.upper(), names, n=1) if len(names) <= MAX_HINT_NAMES else []
            hint = f"; did you mean {close[0]}?" if close else ""
        self.report(at, f"unknown {kind} {name!r}{hint}")

    def mismatch(self, at: Position, what: str, code: Code, target: Type) -> None:
        hint = ""
        if isinstance(code.type, Elementary) and isinstance(target, Elementary):
            if code.type.name in ELEMENTARY:
                hint = f"; convert it with {code.type.name}_TO_{target.name}"
            elif code.type is ANY_INT and target.kind in ("int", "bits"):
                hint = f", which holds {target.low} to {target.high}"
        self.report(at, f"{what} is {code.type.name}, not {target.name}{hint}")

    # ---- declarations

    def declare_units(self, declared: Sequence[Declared]) -> list[tuple[Declared, Unit]]:
        made = []
        for number, written in enumerate(declared):
            prefix = "standard" if self.is_standard else "unit"
            unit = Unit(written.kind, written.name, f"{prefix}{number}", self.is_standard)
            self.unit = unit
            key = written.name.upper()
            if key in self.units:
                owner = "a standard block" if self.units[key].standard else "already declared"
                self.report(written.at, f"{written.name!r} is {owner}")
            elif key in ELEMENTARY or _standard_function(key):
                self.report(written.at, f"{written.name!r} is a name of the language")
            else:
                self.units[key] = unit
            made.append((written, unit))
        for written, unit in made:
            self.unit = unit
            self.declare(written)
        for unit, block, presets, given in self.presets:  # only now is every block's input known
            self.unit = unit
            self.preset(block, presets, given)
        return made

    def declare(self, written: Declared) -> None:
        unit = self.unit
        if written.result is not None:
            result = ELEMENTARY.get(written.result.name.upper())
            if result is None:
                self.unknown(written.result.at, "type", written.result.name, ELEMENTARY)
            unit.result = result or UNKNOWN
            unit.symbols[unit.name.upper()] = Symbol(
                unit.name, unit.result, "result", unit.result.zero, self.local()
            )
        if self.is_standard:
            unit.symbols["NOW"] = Symbol("NOW", TIME, "clock", 0.0, "s.now")
        for declaration in written.declarations:
            symbol = self.symbol(declaration)
            key = declaration.name.upper()
            if key in unit.symbols:
                self.report(declaration.at, f"{declaration.name!r} is already declared")
            elif key in ELEMENTARY:
                self.report(declaration.at, f"{declaration.name!r} is a type of the language")
            else:
                unit.symbols[key] = symbol
        parameters = len(unit.of("input", "output", "inout"))
        if unit.kind != "PROGRAM" and parameters > MAX_PARAMETERS:
            self.report(written.at, f"{unit.name} has {parameters} parameters, at most {MAX_PARAMETERS} fit")

    def symbol(self, declaration: Declaration) -> Symbol:
        unit, section, name = self.unit, declaration.section, declaration.name
        of = self.type_of(declaration.type)
        simple = isinstance(of, Elementary)
        if not simple and section in ("input", "output", "constant"):
            self.report(
                declaration.at, f"{name!r} is {of.name}: inputs, outputs and constants are elementary"
            )
        if unit.kind == "FUNCTION":
            if section in ("output", "retain") or (section == "inout" and simple):
                self.report(declaration.at, "a FUNCTION has one result and no memory; use a FUNCTION_BLOCK")
            if isinstance(of, Block):
                self.report(declaration.at, "a FUNCTION cannot hold a block; use a FUNCTION_BLOCK")
        if unit.kind == "PROGRAM" and section == "inout" and not simple:
            self.report(declaration.at, "a VAR_IN_OUT of a PROGRAM is elementary")
        if section == "inout" and declaration.initial is not None:
            self.report(declaration.at, "a VAR_IN_OUT has no initial value")
        initial = self.initial(declaration, of)
        if section == "constant":
            access = "None"  # its value is written out wherever it is named
        elif unit.kind == "FUNCTION":
            access = self.local()
        else:
            place, key = (
                ("m", name.upper()) if unit.kind == "FUNCTION_BLOCK" else ("m" if simple else "b", name)
            )
            access = f"{place}[{key!r}]"
        return Symbol(name, of, section, initial, access)

    def type_of(self, written: TypeName) -> Type:
        key = written.name.upper()
        element = ELEMENTARY.get(key)
        if written.bounds is None:
            if element is not None:
                return element
            unit = self.units.get(key)
            if unit is not None and unit.kind == "FUNCTION_BLOCK":
                self.unit.calls.setdefault(key, written.at)
                return Block(unit.name)
        known = [*ELEMENTARY, *(u.name for u in self.units.values() if u.kind == "FUNCTION_BLOCK")]
        if element is None:
            self.unknown(written.at, "type", written.name, known if written.bounds is None else ELEMENTARY)
            return UNKNOWN
        low, high = (self.whole_constant(bound) for bound in written.bounds or ())
        if low is None or high is None:
            return UNKNOWN
        if not 0 <= high - low < MAX_CELLS:
            self.report(written.at, f"an array has 1 to {MAX_CELLS} elements, not {high - low + 1}")
            return UNKNOWN
        self.elements += high - low + 1
        if self.elements > MAX_CELLS:  # before their initial values are made
            self.report(written.at, f"the arrays of one text have at most {MAX_CELLS} elements together")
            return UNKNOWN
        return Array(low, high, element)

    def whole_constant(self, written: Literal | Name) -> int | None:
        code = self.constant(written)
        if isinstance(code.type, Elementary) and code.type.kind == "int":
            return code.low
        if code.type is not UNKNOWN:
            self.report(written.at, f"a whole number is needed here, not {code.type.name}")
        return None

    def constant(self, written: Literal | Name) -> Code:
        if isinstance(written, Literal):
            return _literal(written.value, written.type)
        found = self.unit.symbols.get(written.name.upper())
        if found is not None and found.section == "constant" and isinstance(found.type, Elementary):
            if isinstance(found.initial, (bool, int, float)):
                return _literal(found.initial, found.type)
        elif found is not None:
            self.report(written.at, f"{written.name!r} is not a constant")
        else:
            constants = (s.name for s in self.unit.symbols.values() if s.section == "constant")
            self.unknown(written.at, "constant", written.name, constants)
        return _NOTHING

    def constant_value(self, written: Literal | Name, of: Elementary) -> Value:
        code = self.constant(written)
        if not _fits(code, of):
            self.mismatch(written.at, "the initial value", code, of)
        elif code.type is not UNKNOWN:
            value = (
                written.value
                if isinstance(written, Literal)
                else self.unit.symbols[written.name.upper()].initial
            )
            if isinstance(value, (bool, int, float)):
                return bool(value) if of is BOOL else float(value) if of.kind == "real" else value
        return of.zero

    def initial(self, declaration: Declaration, of: Type) -> Value | tuple[Value, ...] | Mapping[str, Value]:
        written = declaration.initial
        if isinstance(of, Elementary):
            if written is None:
                if declaration.section == "constant":
                    self.report(declaration.at, f"the constant {declaration.name!r} needs a value")
                return of.zero
            if isinstance(written, (Literal, Name)):
                return self.constant_value(written, of)
        if isinstance(of, Array):
            size, values = of.high - of.low + 1, list[Value]()
            for group in written if isinstance(written, list) else ():
                if len(values) + group.times > size:
                    self.report(declaration.at, f"more than {size} initial values for {of.name}")
                    break
                values += [self.constant_value(group.value, of.element)] * group.times
            if written is None or isinstance(written, list):
                return (*values, *[of.element.zero] * (size - len(values)))
        if isinstance(of, Block) and (written is None or isinstance(written, dict)):
            presets = dict[str, Value]()
            self.presets.append((self.unit, of, presets, written or {}))
            return presets
        if of is not UNKNOWN:
            self.report(declaration.at, f"the initial value of {declaration.name!r} is not one of {of.name}")
        return False

    def preset(self, block: Block, presets: dict[str, Value], given: Presets) -> None:
        unit = self.units[block.name.upper()]
        for key, (at, value) in given.items():
            symbol = unit.symbols.get(key)
            if symbol is None or symbol.section != "input" or not isinstance(symbol.type, Elementary):
                self.unknown(at, f"input of {block.name}", key, (s.name for s in unit.of("input")))
            else:
                presets[key] = self.constant_value(value, symbol.type)

    def local(self) -> str:
        self.numbered += 1
        return f"v{self.numbered}"

    # ---- the shape of a unit

    def measure(self, unit: Unit, outer: tuple[str, ...] = ()) -> None:
        """Set the cells and depth of ``unit`` and of all it contains; report what contains itself."""
        key = unit.name.upper()
        for inner_key, at in unit.calls.items():
            inner = self.units[inner_key]
            if inner_key == key or inner_key in outer:
                self.unit = unit
                self.report(at, f"{inner.name} would contain or call itself")
            elif not inner.depth and len(outer) < MAX_CALL_DEPTH:
                self.measure(inner, (*outer, key))
        self.unit = unit
        unit.depth = 1 + max((self.units[key].depth for key in unit.calls), default=0)
        if unit.depth > MAX_CALL_DEPTH:
            self.report(next(iter(unit.calls.values())), f"calls go deeper than {MAX_CALL_DEPTH} units")
        for symbol in unit.of("input", "output", "local", "retain", "result"):
            if isinstance(symbol.type, Array):
                unit.cells += symbol.type.high - symbol.type.low + 1
            else:
                unit.cells += (
                    self.units[symbol.type.name.upper()].cells if isinstance(symbol.type, Block) else 1
                )

    def emit(self, line: int, text: str) -> None:
        self.python.append(" " * self.level + text)
        self.lines.append(line)

    def charge(self, line: int) -> Callable[[], None]:
        """Reserve the lines that charge the budget; the call returned fills in what was emitted since."""
        place, before = len(self.python), self.cost
        self.emit(line, "")
        self.emit(line, "if s.budget < 0: overrun()")
        indent = " " * self.level

        def fill() -> None:
            self.python[place] = f"{indent}s.budget -= {self.cost - before + 1}"

        return fill

    def translate(self, written: Declared, unit: Unit) -> None:
        self.unit, self.level, self.branches, self.cost = unit, 0, 0, 0
        line = written.at[0]
        parameters = {"PROGRAM": ["m", "b"], "FUNCTION_BLOCK": ["m"]}.get(
            unit.kind, [symbol.access for symbol in unit.of("input", "inout")]
        )
        self.emit(line, f"def {unit.python}({', '.join(['s', *parameters])}):")
        self.level = 1
        fill = None if unit.standard or unit.kind == "PROGRAM" else self.charge(line)
        if unit.kind == "FUNCTION":
            for symbol in unit.of("local", "result"):
                self.emit(line, f"{symbol.access} = {_initial_text(symbol)}")
                self.cost += len(symbol.initial) if isinstance(symbol.initial, tuple) else 1
        self.body(written.body)
        if unit.kind == "FUNCTION":
            self.emit(line, self.return_())
        if fill is not None:
            fill()

    def return_(self) -> str:
        result = self.unit.of("result")
        return f"return {result[0].access}" if result else "return"

    def body(self, statements: Body) -> None:
        if self.level > MAX_NESTING and statements:
            self.report(statements[0].at, f"statements nest deeper than {MAX_NESTING}; use a FUNCTION_BLOCK")
            return
        if not statements:
            self.emit(self.lines[-1], "pass")
        for statement in statements:
            self.cost += 1
            _STATEMENTS[type(statement)](self, statement)

    def nested(self, statements: Body) -> None:
        self.level += 1
        self.body(statements)
        self.level -= 1

    # ---- statements

    def assign(self, statement: Assign) -> None:
        target = self.target(statement.target)
        value = self.expression(statement.value)
        if not _fits(value, target.type):
            self.mismatch(statement.value.at, "the value", value, target.type)
        self.emit(statement.at[0], f"{target.text} = {_as(value, target.type)}")

    def target(self, written: Expression) -> Code:
        """A variable that may be assigned here; an unknown type once reported."""
        if not isinstance(written, (Name, Index, Member)):
            self.report(written.at, "only a variable can take this value")
            return _NOTHING
        symbol = self.lookup(written)
        if symbol is None:
            return _NOTHING
        if isinstance(written, Member):
            member = self.member(written, symbol)
            if member is not None and member.section != "input":
                self.report(written.at, f"{written.member!r} is an output of {symbol.name!r}")
            return self.of_member(symbol, member)
        if symbol.section in ("constant", "input", "clock"):
            self.report(written.at, f"{symbol.name!r} is declared as {symbol.section}: it cannot be assigned")
        elif written.name.upper() in self.loops:
            self.report(written.at, f"{symbol.name!r} controls a FOR around this: it cannot be assigned")
        return (
            self.of_index(written, symbol) if isinstance(written, Index) else self.whole_of(written, symbol)
        )

    def whole_of(self, written: Name, symbol: Symbol) -> Code:
        if isinstance(symbol.type, Elementary):
            return _typed(symbol.access, symbol.type)
        self.report(written.at, f"{symbol.name!r} is {symbol.type.name}: name one value of it")
        return _NOTHING

    def lookup(self, written: Name | Index | Member) -> Symbol | None:
        found = self.unit.symbols.get(written.name.upper())
        if found is None:
            self.unknown(written.at, "variable", written.name, (s.name for s in self.unit.symbols.values()))
        return found

    def invoke(self, statement: Invoke) -> None:
        key = statement.name.upper()
        symbol = self.unit.symbols.get(key)
        if symbol is None:
            called = self.units.get(key)
            if _standard_function(key) or (called is not None and called.kind == "FUNCTION"):
                self.report(statement.at, f"the result of {statement.name} is not used")
            elif called is not None:
                self.report(statement.at, f"{statement.name} is a type: declare an instance and call that")
            else:
                blocks = (s.name for s in self.unit.symbols.values() if isinstance(s.type, Block))
                self.unknown(statement.at, "block", statement.name, blocks)
            return
        if not isinstance(symbol.type, Block):
            if symbol.type is not UNKNOWN:
                self.report(statement.at, f"{symbol.name!r} is {symbol.type.name}, not a block")
            return
        block = self.units[symbol.type.name.upper()]
        line, outputs = statement.at[0], list[str]()
        self.emit(line, f"d = {symbol.access}")
        bound = self.bind(statement.at, block, statement.arguments)
        for parameter, argument in bound:
            cell = f"d[{parameter.name.upper()!r}]"
            if argument.output:
                target = self.target(argument.value)
                if not _fits(_typed("", parameter.type), target.type):
                    self.mismatch(
                        argument.at, f"output {parameter.name}", _typed("", parameter.type), target.type
                    )
                outputs.append(f"{target.text} = {_as(_typed(cell, parameter.type), target.type)}")
            elif parameter.section == "inout":
                passed = self.reference(argument, parameter)
                self.emit(line, f"{cell} = {passed.text}")
                if isinstance(parameter.type, Elementary):
                    outputs.append(f"{passed.text} = {cell}")
            else:
                self.emit(line, f"{cell} = {self.argument(argument, parameter)}")
        self.emit(line, f"{block.python}(s, d)")
        for output in outputs:
            self.emit(line, output)

    def bind(self, at: Position, unit: Unit, arguments: Sequence[Argument]) -> list[tuple[Symbol, Argument]]:
        """Pair the arguments of a call with the parameters of ``unit``; report what does not pair."""
        bound: list[tuple[Symbol, Argument]] = []
        positional = [a for a in arguments if not a.name]
        passed = unit.of("input", "inout")
        if positional and len(positional) != len(arguments):
            self.report(at, "name all arguments of a call or none")
        elif positional:
            if len(positional) != len(passed):
                self.report(at, f"{unit.name} takes {len(passed)} arguments, not {len(positional)}")
            bound = list(zip(passed, positional, strict=False))
        for argument in arguments if not positional else ():
            symbol = unit.symbols.get(argument.name.upper())
            known = unit.of("output") if argument.output else passed
            if symbol is None or symbol not in known:
                kind = "output" if argument.output else "input"
                self.unknown(argument.at, f"{kind} of {unit.name}", argument.name, (s.name for s in known))
            elif any(symbol is other for other, _ in bound):
                self.report(argument.at, f"{symbol.name} is given twice")
            else:
                bound.append((symbol, argument))
        for symbol in unit.of("inout"):
            if not any(symbol is other for other, _ in bound):
                self.report(at, f"{unit.name} needs its VAR_IN_OUT {symbol.name}")
        return bound

    def argument(self, argument: Argument, parameter: Symbol) -> str:
        value = self.expression(argument.value)
        if not _fits(value, parameter.type):
            self.mismatch(argument.at, f"input {parameter.name}", value, parameter.type)
        return _as(value, parameter.type)

    def reference(self, argument: Argument, parameter: Symbol) -> Code:
        """A variable passed by reference: exactly the parameter's type."""
        if isinstance(parameter.type, Elementary):
            passed = self.target(argument.value)
        elif isinstance(argument.value, Name):
            symbol = self.lookup(argument.value)
            passed = _NOTHING if symbol is None else Code(symbol.access, symbol.type)
        else:
            self.report(argument.at, f"{parameter.name} needs a variable of type {parameter.type.name}")
            return _NOTHING
        if passed.type != parameter.type and UNKNOWN not in (passed.type, parameter.type):
            self.mismatch(argument.at, f"VAR_IN_OUT {parameter.name}", passed, parameter.type)
        return passed

    def condition(self, written: Expression) -> str:
        code = self.expression(written)
        if not _fits(code, BOOL):
            self.mismatch(written.at, "the condition", code, BOOL)
        return _as(code, BOOL)

    def branch(self, at: Position, word: str) -> None:
        """Emit the head of a branch, or report that one more would nest too deep for Python."""
        self.branches += word != "if"
        if self.branches == MAX_BRANCHES:
            self.report(at, f"more than {MAX_BRANCHES} branches on one path; split the statement")

    def if_(self, statement: If) -> None:
        before = self.branches
        for number, branch in enumerate(statement.branches):
            word = "elif" if number else "if"
            self.branch(branch.at, word)
            self.emit(branch.at[0], f"{word} {self.condition(branch.condition)}:")
            self.nested(branch.body)
        if statement.otherwise:
            self.emit(self.lines[-1], "else:")
            self.nested(statement.otherwise)
        self.branches = before

    def case(self, statement: Case) -> None:
        before, selector, chosen = self.branches, self.expression(statement.selector), self.local()
        if selector.type.kind not in ("int", "bits", "error"):
            self.report(
                statement.selector.at, f"a CASE selects by a whole number, not by {selector.type.name}"
            )
            selector = _NOTHING
        self.emit(statement.at[0], f"{chosen} = {_settled(selector).text}")
        for number, choice in enumerate(statement.choices):
            word = "elif" if number else "if"
            self.branch(choice.at, word)
            tests = [self.label_test(chosen, selector, label) for label in choice.labels]
            self.cost += len(tests)
            self.emit(choice.at[0], f"{word} {' or '.join(tests)}:")
            self.nested(choice.body)
        if statement.otherwise:
            self.emit(self.lines[-1], "else:" if statement.choices else "if True:")
            self.nested(statement.otherwise)
        self.branches = before

    def label_test(self, chosen: str, selector: Code, label: tuple[Literal | Name, Literal | Name]) -> str:
        ends = label[:1] if label[0] is label[1] else label
        codes = [self.constant(end) for end in ends]
        for code, end in zip(codes, ends, strict=True):
            if code.type.kind not in ("int", "bits", "error") or not _fits(code, selector.type):
                self.mismatch(end.at, "the label", code, selector.type)
                return "False"
        if len(codes) == 1:
            return f"{chosen} == {codes[0].text}"
        if codes[0].low > codes[1].low:
            self.report(label[0].at, "the range of this label is empty")
        return f"{codes[0].text} <= {chosen} <= {codes[1].text}"

    def enter_loop(self, at: Position, variable: str = "") -> None:
        self.loops.append(variable)
        if len(self.loops) > MAX_LOOP_NESTING:
            self.report(at, f"loops nest deeper than {MAX_LOOP_NESTING}; use a FUNCTION")

    def for_(self, statement: For) -> None:
        line, name = statement.at[0], Name(statement.at, statement.variable)
        target = self.target(name)
        if target.type.kind not in ("int", "error"):
            self.report(statement.at, f"a FOR counts with a whole number, not with {target.type.name}")
            target = _NOTHING
        bounds = [statement.first, statement.last, statement.step or Literal(statement.at, ANY_INT, 1)]
        texts = []
        for written in bounds:
            code = self.expression(written)
            if not _fits(code, target.type):
                self.mismatch(written.at, "the bound of the FOR", code, target.type)
            texts.append(_as(code, target.type))
        values, value = self.local(), self.local()
        self.emit(line, f"{values} = steps({', '.join(texts)})")
        self.emit(line, f"for {value} in {values}:")
        self.enter_loop(statement.at, statement.variable.upper())
        self.level += 1
        fill = self.charge(line)
        self.emit(line, f"{target.text} = {value}")
        self.body(statement.body)
        fill()
        self.level -= 1
        self.loops.pop()
        self.emit(line, "else:")
        past = Code(f"after({values})", target.type, ATOM, -LARGEST_INTEGER, LARGEST_INTEGER)
        self.emit(line, f" {target.text} = {_settled(past).text}")

    def while_(self, statement: While) -> None:
        before = self.cost
        self.emit(statement.at[0], f"while {self.condition(statement.condition)}:")
        self.loop(statement.at, statement.body, self.cost - before)

    def repeat(self, statement: Repeat) -> None:
        line, first = statement.at[0], self.local()
        before = self.cost
        until = self.condition(statement.until)
        self.emit(line, f"{first} = True")
        # The condition stands at the head so that CONTINUE reaches it.
        self.emit(statement.until.at[0], f"while {first} or not ({until}):")
        self.loop(statement.at, statement.body, self.cost - before, f"{first} = False")

    def loop(self, at: Position, statements: Body, condition_cost: int, opening: str = "") -> None:
        self.enter_loop(at)
        self.level += 1
        fill = self.charge(at[0])
        self.cost += condition_cost
        if opening:
            self.emit(at[0], opening)
        self.body(statements)
        fill()
        self.level -= 1
        self.loops.pop()

    def jump(self, statement: Jump) -> None:
        if statement.word != "RETURN" and not self.loops:
            self.report(statement.at, f"{statement.word} stands outside a loop")
        text = {"EXIT": "break", "CONTINUE": "continue"}.get(statement.word)
        self.emit(statement.at[0], text or self.return_())

    # ---- expressions

    def expression(self, written: Expression) -> Code:
        self.cost += 1
        return _EXPRESSIONS[type(written)](self, written)

    def literal(self, written: Literal) -> Code:
        return _literal(written.value, written.type)

    def name(self, written: Name) -> Code:
        symbol = self.lookup(written)
        if symbol is None:
            return _NOTHING
        if symbol.section == "constant":
            return self.constant(written)
        return self.whole_of(written, symbol)

    def index(self, written: Index) -> Code:
        symbol = self.lookup(written)
        return _NOTHING if symbol is None else self.of_index(written, symbol)

    def of_index(self, written: Index, symbol: Symbol) -> Code:
        index, array = self.expression(written.place), symbol.type
        if not isinstance(array, Array):
            if array is not UNKNOWN:
                self.report(written.at, f"{symbol.name!r} is {array.name}, not an array")
            return _NOTHING
        if index.type.kind not in ("int", "error"):
            self.report(written.place.at, f"an array index is a whole number, not {index.type.name}")
            return _NOTHING
        if index.low == index.high and array.low <= index.low <= array.high:
            place = str(index.low - array.low)
        else:
            place = f"offset({_settled(index).text}, {array.low}, {array.high})"
        return _typed(f"{symbol.access}[{place}]", array.element)

    def member_of(self, written: Member) -> Code:
        symbol = self.lookup(written)
        return _NOTHING if symbol is None else self.of_member(symbol, self.member(written, symbol))

    def member(self, written: Member, symbol: Symbol) -> Symbol | None:
        if not isinstance(symbol.type, Block):
            if symbol.type is not UNKNOWN:
                self.report(written.at, f"{symbol.name!r} is {symbol.type.name}, not a block")
            return None
        visible = self.units[symbol.type.name.upper()].of("input", "output")
        found = next((s for s in visible if s.name.upper() == written.member.upper()), None)
        if found is None:
            kind = f"input or output of {symbol.type.name}"
            self.unknown(written.at, kind, written.member, (s.name for s in visible))
        return found

    def of_member(self, symbol: Symbol, member: Symbol | None) -> Code:
        if member is None:
            return _NOTHING
        return _typed(f"{symbol.access}[{member.name.upper()!r}]", member.type)

    def unary(self, written: Unary) -> Code:
        operand = self.expression(written.operand)
        of = operand.type
        if of is UNKNOWN or not isinstance(of, Elementary):
            return _NOTHING
        if written.operator == "NOT":
            if of.kind == "bits":
                return _typed(f"{operand.at(BIT_XOR)} ^ {of.high}", of, BIT_XOR)
            if _fits(operand, BOOL):
                return _typed(f"not {operand.at(NOT)}", BOOL, NOT)
            self.report(written.at, f"NOT needs BOOL, BYTE, WORD or DWORD, not {of.name}")
        elif of.kind in ("int", "real", "time"):
            if written.operator == "+":
                return operand
            return Code(f"-{operand.at(SIGN)}", of, SIGN, -operand.high, -operand.low)
        else:
            self.report(written.at, f"a sign needs a number or a TIME, not {of.name}")
        return _NOTHING

    def chain(self, written: Chain) -> Code:
        operands = [self.expression(operand) for operand in written.operands]
        word = written.operators[0][0]
        if word in _LOGIC:
            return self.logic(written, word, operands)
        code = operands[0]
        for (operator, at), operand in zip(written.operators, operands[1:], strict=True):
            if code.type is UNKNOWN or operand.type is UNKNOWN:
                code = _NOTHING
            elif operator in _COMPARE:
                code = self.comparison(operator, at, code, operand)
            else:
                code = self.arithmetic(operator, at, code, operand)
        return code

    def logic(self, written: Chain, word: str, operands: list[Code]) -> Code:
        common = _common(operands)
        symbol, python, rank, bit_rank = _LOGIC[word]
        if common is UNKNOWN:
            return _NOTHING
        if common is not None and common.kind == "bits":
            if len(operands) > MAX_EXPRESSION_DEPTH:
                self.report(written.at, f"more than {MAX_EXPRESSION_DEPTH} operands; split the expression")
            return _typed(f" {symbol} ".join(code.at(bit_rank + 1) for code in operands), common, bit_rank)
        if common is BOOL:
            return _typed(f" {python} ".join(_bool_at(code, rank + 1) for code in operands), BOOL, rank)
        names = " and ".join(dict.fromkeys(code.type.name for code in operands))
        self.report(written.at, f"{word} needs BOOL, or BYTE, WORD or DWORD, on every side, not {names}")
        return _NOTHING

    def comparison(self, operator: str, at: Position, left: Code, right: Code) -> Code:
        common = _common([left, right])
        if common is None:
            self.report(at, f"{left.type.name} and {right.type.name} cannot be compared")
            return _NOTHING
        if common is BOOL and operator not in ("=", "<>"):
            self.report(at, f"BOOL has no order: {operator} needs numbers")
            return _NOTHING
        sides = [
            _settled(side).at(BIT_OR) if common is not BOOL else _bool_at(side, BIT_OR)
            for side in (left, right)
        ]
        return _typed(f" {_COMPARE[operator]} ".join(sides), BOOL, COMPARISON)

    def arithmetic(self, operator: str, at: Position, left: Code, right: Code) -> Code:
        if TIME in (left.type, right.type):
            return self.time_arithmetic(operator, at, left, right)
        common = _common([left, right])
        if common is None or common.kind not in ("int", "real"):
            self.report(
                at, f"{operator} needs numbers of a common type, not {left.type.name} and {right.type.name}"
            )
            return _NOTHING
        if operator == "**":
            of = common if common.kind == "real" else ANY_REAL if common is ANY_INT else REAL
            return Code(f"power({_settled(left).text}, {_settled(right).text})", of)
        if common.kind == "real":
            if operator == "MOD":
                self.report(at, f"MOD needs whole numbers, not {common.name}")
                return _NOTHING
            return self.real_arithmetic(operator, common, left, right)
        return self.whole_arithmetic(operator, at, common, left, right)

    def real_arithmetic(self, operator: str, of: Elementary, left: Code, right: Code) -> Code:
        rank = _PLAIN.get(operator, PRODUCT)
        return Code(f"{_settled(left).at(rank)} {operator} {_settled(right).at(rank + 1)}", of, rank)

    def whole_arithmetic(self, operator: str, at: Position, of: Elementary, left: Code, right: Code) -> Code:
        rank = _PLAIN.get(operator)
        # Sums and products of one type are exact until they must be: wrapping once at the end is the same.
        if rank is None or left.type is not of:
            left = _settled(left)
        if rank is None or right.type is not of:
            right = _settled(right)
        low, high = _whole_bounds(operator, left, right)
        if of is ANY_INT and max(abs(low), abs(high)) > LARGEST_INTEGER:
            self.report(at, "the number is out of range")
            return _NOTHING
        if rank is not None:
            code = Code(f"{left.at(rank)} {operator} {right.at(rank + 1)}", of, rank, low, high)
            return _settled(code) if max(abs(low), abs(high)) > WIDEST_PRODUCT else code
        if left.low >= 0 and right.low > 0:
            python = "//" if operator == "/" else "%"
            return Code(f"{left.at(PRODUCT)} {python} {right.at(SIGN)}", of, PRODUCT, low, high)
        python = "divide" if operator == "/" else "remainder"
        return Code(f"{python}({left.text}, {right.text})", of, ATOM, low, high)

    def time_arithmetic(self, operator: str, at: Position, left: Code, right: Code) -> Code:
        numbers = [side.type.kind in ("int", "real") for side in (left, right)]
        both = left.type is TIME and right.type is TIME
        if (
            (operator in ("+", "-") and both)
            or (operator == "*" and any(numbers))
            or (operator == "/" and numbers[1])
        ):
            return self.real_arithmetic(operator, TIME, left, right)
        self.report(at, f"{left.type.name} {operator} {right.type.name} has no meaning")
        return _NOTHING

    # ---- calls in expressions

    def call(self, written: Call) -> Code:
        key = written.name.upper()
        unit = self.units.get(key)
        if unit is not None and unit.kind == "FUNCTION":
            return self.user_function(written, unit)
        if key in self.unit.symbols:
            self.report(
                written.at,
                f"{written.name!r} has no value to call for: call a block in a statement of its own",
            )
            return _NOTHING
        found = _standard_function(key)
        if found is None:
            functions = [u.name for u in self.units.values() if u.kind == "FUNCTION"]
            self.unknown(written.at, "function", written.name, [*functions, *FUNCTIONS])
            return _NOTHING
        codes = self.standard_arguments(written, found)
        if codes is None or any(code.type is UNKNOWN for code in codes):
            return _NOTHING
        return found.write(self, written, codes)

    def user_function(self, written: Call, unit: Unit) -> Code:
        self.unit.calls.setdefault(unit.name.upper(), written.at)
        bound = self.bind(written.at, unit, written.arguments)
        texts = []
        for parameter in unit.of("input", "inout"):
            given = next((argument for symbol, argument in bound if symbol is parameter), None)
            if given is None:
                texts.append(_initial_text(parameter))
            elif given.output:
                self.report(given.at, "a FUNCTION has no outputs")
            elif parameter.section == "inout":
                texts.append(self.reference(given, parameter).text)
            else:
                texts.append(self.argument(given, parameter))
        return _typed(f"{unit.python}({', '.join(['s', *texts])})", unit.result or UNKNOWN)

    def standard_arguments(self, written: Call, function: Function) -> list[Code] | None:
        names, given = list(function.parameters), written.arguments
        if function.more:  # IN1, IN2, ... without end
            first = int(names[-1][2:]) + 1
            names += [f"IN{number}" for number in range(first, first + len(given) - len(names))]
        if any(argument.output for argument in given):
            self.report(written.at, f"{written.name} has no outputs")
            return None
        wanted = f"{len(function.parameters)}{' or more' if function.more else ''}"
        if len(given) != len(names):
            self.report(written.at, f"{written.name} takes {wanted} arguments, not {len(given)}")
            return None
        by_name = {argument.name.upper(): argument for argument in given if argument.name}
        if not by_name:
            return [self.expression(argument.value) for argument in given]
        if sorted(by_name) != sorted(names):
            self.report(written.at, f"the arguments of {written.name} are {', '.join(names)}")
            return None
        return [self.expression(by_name[name].value) for name in names]

    def math(self, written: Call, codes: list[Code]) -> Code:
        of = self.real_of(written, codes[0])
        return Code(f"{MATH[written.name.upper()]}({_settled(codes[0]).text})", of) if of else _NOTHING

    def real_of(self, written: Call, code: Code) -> Elementary | None:
        if isinstance(code.type, Elementary):
            if code.type.kind == "real":
                return code.type
            if _fits(code, REAL):
                return ANY_REAL if code.type is ANY_INT else REAL
        self.mismatch(written.at, f"the argument of {written.name}", code, REAL)
        return None

    def absolute(self, written: Call, codes: list[Code]) -> Code:
        code = _settled(codes[0])
        if not isinstance(code.type, Elementary) or code.type.kind not in ("int", "real", "time"):
            self.report(written.at, f"ABS needs a number, not {code.type.name}")
            return _NOTHING
        low, high = sorted((abs(code.low), abs(code.high)))
        return Code(f"abs({code.text})", code.type, ATOM, low if code.low > 0 or code.high < 0 else 0, high)

    def truncate(self, written: Call, codes: list[Code]) -> Code:
        return self.conversion(written, codes) if self.real_of(written, codes[0]) else _NOTHING

    def same(self, written: Call, codes: list[Code], ordered: bool) -> Elementary | None:
        common = _common(codes)
        if common is None or (ordered and common.kind not in ("int", "real", "time")):
            names = ", ".join(code.type.name for code in codes)
            self.report(written.at, f"the values of {written.name} need a common type, not {names}")
            return None
        return common

    def among(self, of: Elementary, text: str, codes: list[Code], rank: int = ATOM) -> Code:
        """Python that gives one of ``codes``."""
        return Code(text, of, rank, min(code.low for code in codes), max(code.high for code in codes))

    def extreme(self, written: Call, codes: list[Code]) -> Code:
        of, codes = self.same(written, codes, ordered=True), [_settled(code) for code in codes]
        texts = ", ".join(self.as_common(code, of) for code in codes)
        return self.among(of, f"{_EXTREME[written.name.upper()]}({texts})", codes) if of else _NOTHING

    def as_common(self, code: Code, of: Elementary | None) -> str:
        return _as(code, of) if of is not None and of not in (ANY_INT, ANY_REAL) else _settled(code).text

    def limit(self, written: Call, codes: list[Code]) -> Code:
        of, codes = self.same(written, codes, ordered=True), [_settled(code) for code in codes]
        texts = ", ".join(self.as_common(code, of) for code in codes)
        return self.among(of, f"limit({texts})", codes) if of else _NOTHING

    def select(self, written: Call, codes: list[Code]) -> Code:
        gate, *values = [_settled(code) for code in codes]
        of = self.same(written, values, ordered=False)
        if not _fits(gate, BOOL):
            self.mismatch(written.at, "the first argument of SEL", gate, BOOL)
            return _NOTHING
        if of is None:
            return _NOTHING
        low, high = (self.as_common(code, of) for code in values)
        return self.among(of, f"({high}) if {_bool_at(gate, OR)} else ({low})", values, TERNARY)

    def multiplex(self, written: Call, codes: list[Code]) -> Code:
        selector, *values = [_settled(code) for code in codes]
        of = self.same(written, values, ordered=False)
        if selector.type.kind != "int":
            self.report(written.at, f"MUX selects by a whole number, not by {selector.type.name}")
            return _NOTHING
        texts = ", ".join([selector.text, *(self.as_common(code, of) for code in values)])
        return self.among(of, f"pick({texts})", values) if of else _NOTHING

    def shift(self, written: Call, codes: list[Code]) -> Code:
        value, count = (_settled(code) for code in codes)
        if value.type.kind != "bits" or count.type.kind != "int" or not isinstance(value.type, Elementary):
            names = f"{value.type.name} and {count.type.name}"
            self.report(
                written.at, f"{written.name} shifts a BYTE, WORD or DWORD by a whole number, not {names}"
            )
            return _NOTHING
        python = _SHIFT[written.name.upper()]
        return _typed(f"{python}({value.text}, {count.text}, {value.type.high})", value.type)

    def conversion(self, written: Call, codes: list[Code]) -> Code:
        found = _CONVERSION.fullmatch(written.name.upper())
        source, word, target = found.groups() if found else (None, "TRUNC", "DINT")
        code, of = _settled(codes[0]), ELEMENTARY[target]
        if not isinstance(code.type, Elementary):
            self.report(written.at, f"{written.name} converts one value, not {code.type.name}")
            return _NOTHING
        if source is not None and not _fits(code, ELEMENTARY[source]):
            self.mismatch(written.at, f"the argument of {written.name}", code, ELEMENTARY[source])
            return _NOTHING
        kind = code.type.kind
        if word == "TRUNC" and (kind != "real" or of.kind != "int"):
            self.report(written.at, f"{written.name} cuts a REAL to a whole number, not {code.type.name}")
            return _NOTHING
        if of.kind == "bool":
            return code if kind == "bool" else _typed(f"{code.at(BIT_OR)} != 0", BOOL, COMPARISON)
        if of.kind in ("real", "time"):
            return Code(f"float({code.text})", of)
        if kind == "bool":
            return Code(f"int({code.text})", of, ATOM, 0, 1)
        if kind in ("real", "time"):
            python = "int" if word == "TRUNC" else "round"
            return _settled(Code(f"{python}({code.text})", of, ATOM, -WIDEST_PRODUCT, WIDEST_PRODUCT))
        return _settled(Code(code.text, of, code.rank, code.low, code.high))


def _bool_at(code: Code, rank: int) -> str:
    return code.at(rank) if code.type is BOOL else repr(bool(code.low))


def _initial_text(symbol: Symbol) -> str:
    initial = symbol.initial
    if isinstance(initial, tuple):
        runs = [(repr(value), len(list(run))) for value, run in groupby(initial)]
        return f"[{', '.join(text if count == 1 else f'*[{text}] * {count}' for text, count in runs)}]"
    return repr(initial) if isinstance(initial, (bool, int, float)) else "None"


_LOGIC: Mapping[str, tuple[str, str, int, int]] = {
    "AND": ("&", "and", AND, BIT_AND),
    "OR": ("|", "or", OR, BIT_OR),
    "XOR": ("^", "^", BIT_XOR, BIT_XOR),
}
_EXPRESSIONS: Mapping[type, Callable[[_Translator, Any], Code]] = {
    Literal: _Translator.literal,
    Name: _Translator.name,
    Index: _Translator.index,
    Member: _Translator.member_of,
    Unary: _Translator.unary,
    Chain: _Translator.chain,
    Call: _Translator.call,
}
_STATEMENTS: Mapping[type, Callable[[_Translator, Any], None]] = {
    Assign: _Translator.assign,
    Invoke: _Translator.invoke,
    If: _Translator.if_,
    Case: _Translator.case,
    For: _Translator.for_,
    While: _Translator.while_,
    Repeat: _Translator.repeat,
    Jump: _Translator.jump,
}


@dataclass(frozen=True, slots=True)
class Function:
    """A standard function: its parameters, whether INn go on, and what writes its Python."""

    parameters: tuple[str, ...]
    write: Callable[[_Translator, Call, list[Code]], Code]
    more: bool = False


FUNCTIONS: Mapping[str, Function] = {
    "ABS": Function(("IN",), _Translator.absolute),
    **{name: Function(("IN",), _Translator.math) for name in MATH},
    "MIN": Function(("IN1", "IN2"), _Translator.extreme, more=True),
    "MAX": Function(("IN1", "IN2"), _Translator.extreme, more=True),
    "LIMIT": Function(("MN", "IN", "MX"), _Translator.limit),
    "SEL": Function(("G", "IN0", "IN1"), _Translator.select),
    "MUX": Function(("K", "IN0", "IN1"), _Translator.multiplex, more=True),
    "SHL": Function(("IN", "N"), _Translator.shift),
    "SHR": Function(("IN", "N"), _Translator.shift),
    "TRUNC": Function(("IN",), _Translator.truncate),
}
_CONVERT = Function(("IN",), _Translator.conversion)


def _standard_function(key: str) -> Function | None:
    return FUNCTIONS.get(key) or (_CONVERT if _CONVERSION.fullmatch(key) else None)


def translate(text: str, standard: Mapping[str, Unit] | None) -> Translation:
    """Check the program in ``text`` and write its Python.

    ``standard`` holds the standard blocks by upper-case name; None says that ``text`` is their own source. The
    Python defines one function a unit, called with the run-time state ``s`` and the unit's cells, and uses no
    other names than `RUNTIME_NAMES` and the functions of ``standard``.

    Raises `DocumentError`, its problems without a file name: the first syntax error, or everything else wrong.
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise DocumentError([Problem("", line, 1, "", "the text is not valid Unicode")]) from None
    if size > MAX_BYTES:
        raise DocumentError(
            [Problem("", 1, 1, "", f"a program has at most {MAX_BYTES} bytes, this one {size}")]
        )
    try:
        declared = parse(text)
    except _Mistake as mistake:
        raise DocumentError([Problem("", *mistake.at, "", mistake.message)]) from None
    translator = _Translator(standard or {}, standard is None)
    programs = [written for written in declared if written.kind == "PROGRAM"]
    if standard is not None and len(programs) != 1:
        at = programs[1].at if programs else (1, 1)
        translator.report(at, f"a text holds one PROGRAM, not {len(programs)}")
    made = translator.declare_units(declared)
    for written, unit in made:
        translator.translate(written, unit)
    for written, unit in made:
        if not unit.depth:
            translator.measure(unit)
        if unit.cells > MAX_CELLS:
            translator.unit = unit
            translator.report(written.at, f"{unit.name} holds {unit.cells} values, at most {MAX_CELLS} fit")
    if translator.problems:
        raise DocumentError(translator.problems)
    program = next((unit for _, unit in made if unit.kind == "PROGRAM"), None)
    source = "\n".join(translator.python) + "\n"
    return Translation(program, translator.units, source, tuple(translator.lines))
