"""The program of a PLC as text that runs: IEC 61131-3 Structured Text, one scan at a time.

`compile_program` checks a text and keeps the result by its content; an instance holds the memory of one running
copy. The language, its limits and its choices are in `devices.structured_text`; this module is what happens at
run time. A program cannot reach anything but its own memory: its Python runs without builtins, over the tables
below, and a scan ends within `WATCHDOG_OPERATIONS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import sha256
from types import MappingProxyType, TracebackType
from typing import Any, NoReturn

from devices.structured_text import (
    ELEMENTARY,
    MATH,
    Symbol,
    Unit,
    Value,
    translate,
)
from testbed.errors import DocumentError, OtlabError, UnknownNameError

# Operations (expression nodes and statements) that loops and calls may run in one scan; an assumption. At about
# 30 ns each on a 2020s core it stops a scan within some tens of milliseconds, the order of a real PLC's watchdog.
WATCHDOG_OPERATIONS = 1_000_000

# The standard function blocks, in the language itself. NOW is the time of the scan in seconds, and only these
# blocks can name it. A time of a scan is a sum of floats: a nanosecond, the resolution of an IEC LTIME, keeps a
# timer from missing the scan it is due in.
#
# PID is the ISA standard form with the derivative on the measurement, filtered with the time constant TD / N where
# N = 10 is an assumption:
#
#     OUT = KP * (E + 1/TI * integral of E dt + TD * d(-PV)/dt),  E = SP - PV, limited to OUT_MIN .. OUT_MAX
#
# Anti-windup is by clamping: the integral stands still while the output is at a limit and the error drives it
# further. TI = 0 switches the integral off, TD = 0 the derivative; a negative KP makes a direct-acting loop.
# Both changes of mode are bumpless: in manual the integral follows the output, and after a change to manual the
# output holds until MANUAL is next changed.
STANDARD_BLOCKS = """
FUNCTION_BLOCK TON
VAR_INPUT IN : BOOL; PT : TIME; END_VAR
VAR_OUTPUT Q : BOOL; ET : TIME; END_VAR
VAR RUNNING : BOOL; START : TIME; END_VAR
IF NOT IN THEN
  RUNNING := FALSE; Q := FALSE; ET := T#0s;
ELSIF NOT Q THEN
  IF NOT RUNNING THEN RUNNING := TRUE; START := NOW; END_IF;
  ET := NOW - START;
  IF ET >= PT - T#1ns THEN Q := TRUE; ET := PT; END_IF;
END_IF;
END_FUNCTION_BLOCK

FUNCTION_BLOCK TOF
VAR_INPUT IN : BOOL; PT : TIME; END_VAR
VAR_OUTPUT Q : BOOL; ET : TIME; END_VAR
VAR RUNNING : BOOL; START : TIME; END_VAR
IF IN THEN
  RUNNING := FALSE; Q := TRUE; ET := T#0s;
ELSIF Q THEN
  IF NOT RUNNING THEN RUNNING := TRUE; START := NOW; END_IF;
  ET := NOW - START;
  IF ET >= PT - T#1ns THEN Q := FALSE; ET := PT; END_IF;
END_IF;
END_FUNCTION_BLOCK

FUNCTION_BLOCK TP
VAR_INPUT IN : BOOL; PT : TIME; END_VAR
VAR_OUTPUT Q : BOOL; ET : TIME; END_VAR
VAR BEFORE : BOOL; START : TIME; END_VAR
IF IN AND NOT BEFORE AND NOT Q THEN Q := TRUE; START := NOW; END_IF;
BEFORE := IN;
IF Q THEN
  ET := NOW - START;
  IF ET >= PT - T#1ns THEN Q := FALSE; ET := PT; END_IF;
END_IF;
IF NOT Q AND NOT IN THEN ET := T#0s; END_IF;
END_FUNCTION_BLOCK

FUNCTION_BLOCK CTU
VAR_INPUT CU, R : BOOL; PV : INT; END_VAR
VAR_OUTPUT Q : BOOL; CV : INT; END_VAR
VAR BEFORE : BOOL; END_VAR
IF R THEN CV := 0; ELSIF CU AND NOT BEFORE AND CV < 32767 THEN CV := CV + 1; END_IF;
BEFORE := CU;
Q := CV >= PV;
END_FUNCTION_BLOCK

FUNCTION_BLOCK CTD
VAR_INPUT CD, LD : BOOL; PV : INT; END_VAR
VAR_OUTPUT Q : BOOL; CV : INT; END_VAR
VAR BEFORE : BOOL; END_VAR
IF LD THEN CV := PV; ELSIF CD AND NOT BEFORE AND CV > -32768 THEN CV := CV - 1; END_IF;
BEFORE := CD;
Q := CV <= 0;
END_FUNCTION_BLOCK

FUNCTION_BLOCK CTUD
VAR_INPUT CU, CD, R, LD : BOOL; PV : INT; END_VAR
VAR_OUTPUT QU, QD : BOOL; CV : INT; END_VAR
VAR UP, DOWN, UP_BEFORE, DOWN_BEFORE : BOOL; END_VAR
UP := CU AND NOT UP_BEFORE; UP_BEFORE := CU;
DOWN := CD AND NOT DOWN_BEFORE; DOWN_BEFORE := CD;
IF R THEN CV := 0;
ELSIF LD THEN CV := PV;
ELSIF UP AND NOT DOWN AND CV < 32767 THEN CV := CV + 1;
ELSIF DOWN AND NOT UP AND CV > -32768 THEN CV := CV - 1;
END_IF;
QU := CV >= PV;
QD := CV <= 0;
END_FUNCTION_BLOCK

FUNCTION_BLOCK R_TRIG
VAR_INPUT CLK : BOOL; END_VAR
VAR_OUTPUT Q : BOOL; END_VAR
VAR M : BOOL; END_VAR
Q := CLK AND NOT M;
M := CLK;
END_FUNCTION_BLOCK

FUNCTION_BLOCK F_TRIG
VAR_INPUT CLK : BOOL; END_VAR
VAR_OUTPUT Q : BOOL; END_VAR
VAR M : BOOL := TRUE; END_VAR (* so that a CLK that starts FALSE is no edge *)
Q := NOT CLK AND NOT M;
M := NOT CLK;
END_FUNCTION_BLOCK

FUNCTION_BLOCK SR
VAR_INPUT S1, R : BOOL; END_VAR
VAR_OUTPUT Q1 : BOOL; END_VAR
Q1 := S1 OR (NOT R AND Q1);
END_FUNCTION_BLOCK

FUNCTION_BLOCK RS
VAR_INPUT S, R1 : BOOL; END_VAR
VAR_OUTPUT Q1 : BOOL; END_VAR
Q1 := NOT R1 AND (S OR Q1);
END_FUNCTION_BLOCK

FUNCTION_BLOCK PID
VAR_INPUT
  AUTO : BOOL := TRUE; PV, SP, MANUAL : REAL; KP : REAL := 1.0; TI, TD : TIME;
  OUT_MIN : REAL; OUT_MAX : REAL := 100.0;
END_VAR
VAR_OUTPUT OUT, E : REAL; END_VAR
VAR
  STARTED : BOOL; LAST : TIME; DT, LAST_PV, LAST_MANUAL, INTEGRAL, DERIVATIVE, GROWN, WANTED, FILTER : REAL;
END_VAR
VAR CONSTANT N : REAL := 10.0; END_VAR
E := SP - PV;
IF NOT STARTED THEN
  DT := 0.0; LAST_PV := PV;
  IF NOT AUTO THEN OUT := MANUAL; END_IF;
  LAST_MANUAL := MANUAL;
  STARTED := TRUE;
ELSE
  DT := TIME_TO_REAL(NOW - LAST);
END_IF;
LAST := NOW;
IF TD > T#0s THEN
  FILTER := TIME_TO_REAL(TD) / (TIME_TO_REAL(TD) + N * DT);
  DERIVATIVE := FILTER * (DERIVATIVE - KP * N * (PV - LAST_PV));
ELSE
  DERIVATIVE := 0.0;
END_IF;
LAST_PV := PV;
IF NOT AUTO THEN
  IF MANUAL <> LAST_MANUAL THEN OUT := MANUAL; END_IF;
  OUT := LIMIT(OUT_MIN, OUT, OUT_MAX);
  INTEGRAL := OUT - KP * E - DERIVATIVE;
ELSE
  GROWN := INTEGRAL;
  IF TI > T#0s THEN GROWN := INTEGRAL + KP * E * DT / TIME_TO_REAL(TI); END_IF;
  WANTED := KP * E + GROWN + DERIVATIVE;
  IF NOT (WANTED > OUT_MAX AND GROWN > INTEGRAL) AND NOT (WANTED < OUT_MIN AND GROWN < INTEGRAL) THEN
    INTEGRAL := GROWN;
  END_IF;
  OUT := LIMIT(OUT_MIN, KP * E + INTEGRAL + DERIVATIVE, OUT_MAX);
END_IF;
LAST_MANUAL := MANUAL;
END_FUNCTION_BLOCK
"""


class LogicFault(OtlabError):
    """A program stopped in the middle of a scan; what it had assigned by then stays assigned."""

    def __init__(self, program: str, line: int, reason: str) -> None:
        super().__init__(f"program {program}, line {line}: {reason}")
        self.program, self.line, self.reason = program, line, reason

    def __reduce__(self) -> tuple[type[LogicFault], tuple[str, int, str]]:
        return LogicFault, (
            self.program,
            self.line,
            self.reason,
        )  # so that it survives the way out of a worker


class _Stop(Exception):
    """Raised by a run-time function; `ProgramInstance.scan` adds the program and the line."""


# ------------------------------------------------------------------------- what translated programs can call


def divide(a: int, b: int) -> int:
    quotient = a // b
    return quotient + 1 if quotient < 0 and quotient * b != a else quotient


def remainder(a: int, b: int) -> int:
    return a - b * divide(a, b)


def power(base: float, exponent: float) -> float:
    return math.pow(base, exponent)  # the operator would give a complex number for a negative base


def limit(low: float, value: float, high: float) -> float:
    return min(max(value, low), high)


def pick(selector: int, *values: float) -> float:
    if 0 <= selector < len(values):
        return values[selector]
    raise _Stop(f"MUX selects {selector} of 0 to {len(values) - 1}")


def _bits(count: int, span: int) -> int:
    if count < 0:
        raise _Stop(f"a shift by {count} bits")
    return min(count, span.bit_length())  # Python would build the shifted number, however long


def shift_left(value: int, count: int, span: int) -> int:
    return value << _bits(count, span) & span


def shift_right(value: int, count: int, span: int) -> int:
    return value >> _bits(count, span)


def offset(index: int, low: int, high: int) -> int:
    if low <= index <= high:
        return index - low
    raise _Stop(f"array index {index} is outside {low}..{high}")


def steps(first: int, last: int, step: int) -> range:
    if step == 0:
        raise _Stop("the step of a FOR is zero")
    return range(first, last + (1 if step > 0 else -1), step)


def after(values: range) -> int:
    return values.start + len(values) * values.step


def overrun() -> NoReturn:
    raise _Stop(f"watchdog: more than {WATCHDOG_OPERATIONS:,} operations in one scan")


_RUNTIME: Mapping[str, Callable[..., Any]] = {
    **{name: getattr(math, name) for name in MATH.values()},
    **{f.__name__: f for f in (abs, float, int, max, min, round)},
    **{f.__name__: f for f in (after, divide, limit, offset, overrun, pick, power, remainder)},
    **{f.__name__: f for f in (shift_left, shift_right, steps)},
}

_REASONS: Mapping[type[Exception], str] = {
    ZeroDivisionError: "division by zero",
    OverflowError: "a number is out of range",
    ValueError: "a function was given a value it has no result for",
}


@dataclass(slots=True)
class _State:
    """What a running program sees of the world."""

    now: float = 0.0
    budget: int = 0


# --------------------------------------------------------------------------------------- programs and instances


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable of a program.

    ``type`` is the name of an elementary type, of a function block, or ``ARRAY[a..b] OF t``; the ``initial`` of
    a block is 0 and of an array that of its first element.
    """

    name: str
    type: str
    section: str
    initial: Value


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A checked program; ``variables`` and ``constants`` are in the order and spelling of their declarations.

    ``python`` is the source that runs, for a reader who wants to audit it.
    """

    name: str
    source: str = field(repr=False)
    digest: str
    variables: Mapping[str, Variable] = field(repr=False)
    constants: Mapping[str, Value] = field(repr=False)
    python: str = field(repr=False)
    _lines: tuple[int, ...] = field(repr=False)
    _units: Mapping[str, Unit] = field(repr=False)
    _run: Callable[[_State, dict[str, Value], dict[str, Any]], None] = field(repr=False)

    def instantiate(self) -> ProgramInstance:
        """Return a copy with every variable at its initial value."""
        return ProgramInstance(self)

    def __reduce__(self) -> tuple[Callable[[str], Program], tuple[str]]:
        return compile_program, (self.source,)

    def _find(self, name: str) -> Variable:
        found = self.variables.get(name)
        if found is None:
            found = next((v for v in self.variables.values() if v.name.upper() == name.upper()), None)
        if found is None:
            raise UnknownNameError("variable", name, self.variables)
        return found


class ProgramInstance:
    """One running copy of a program.

    ``memory`` holds the elementary variables by declared name: BOOL as bool, whole numbers and bit strings as
    int within their type, REAL, LREAL and TIME (seconds) as float. Whoever writes it keeps to that; `write`
    converts. Arrays are private to the program.
    """

    __slots__ = ("_blocks", "_state", "memory", "program")

    def __init__(self, program: Program) -> None:
        cells = _fresh(program._units[program.name.upper()], program._units)
        plain = {v.name for v in program.variables.values() if v.type in ELEMENTARY}
        self.program = program
        self.memory: dict[str, Value] = {name: cell for name, cell in cells.items() if name in plain}
        self._blocks = {name: cell for name, cell in cells.items() if name not in plain}
        self._state = _State()

    def scan(self, now: float) -> None:
        """Run the program once; ``now`` is in seconds of the run and never goes back.

        Raises `LogicFault` on a run-time error.
        """
        state = self._state
        state.now, state.budget = now, WATCHDOG_OPERATIONS
        try:
            self.program._run(state, self.memory, self._blocks)
        except (_Stop, ArithmeticError, ValueError) as error:
            reason = next((text for kind, text in _REASONS.items() if isinstance(error, kind)), str(error))
            raise LogicFault(self.program.name, self._line(error.__traceback__), reason) from error

    def write(self, name: str, value: Value) -> None:
        """Set an elementary variable, whatever the case of its name, to ``value`` made to fit its type.

        A whole number wraps as an assignment in the program would; a float for one is rounded.

        Raises `UnknownNameError`, also for an array or block, and `ValueError` or `OverflowError` for a
        NaN or an infinite float where a whole number is needed.
        """
        variable = self.program._find(name)
        of = ELEMENTARY.get(variable.type)
        if of is None:
            raise UnknownNameError("elementary variable", name, self.memory)
        if of.kind == "bool":
            self.memory[variable.name] = bool(value)
        elif of.kind in ("real", "time"):
            self.memory[variable.name] = float(value)
        else:
            self.memory[variable.name] = (round(value) - of.low) % (of.high - of.low + 1) + of.low

    def block(self, name: str) -> dict[str, Any]:
        """Return the live cells of a block instance by upper-case name, for a faceplate that shows a PID.

        Raises `UnknownNameError`.
        """
        found = self._blocks.get(self.program._find(name).name)
        if not isinstance(found, dict):
            blocks = (key for key, cell in self._blocks.items() if isinstance(cell, dict))
            raise UnknownNameError("block", name, blocks)
        return found

    def _line(self, traceback: TracebackType | None) -> int:
        found = 0
        while traceback is not None:
            if traceback.tb_frame.f_code.co_filename == _file_of(self.program.digest):
                found = self.program._lines[traceback.tb_lineno - 1]
            traceback = traceback.tb_next
        return found


def _fresh(
    unit: Unit, units: Mapping[str, Unit], presets: Mapping[str, Value] | None = None
) -> dict[str, Any]:
    """The cells of a new instance of ``unit``, with the ``presets`` of a block's inputs."""
    cells: dict[str, Any] = {}
    for key, symbol in unit.symbols.items():
        name = symbol.name if unit.kind == "PROGRAM" else key
        if symbol.section in ("constant", "clock") or (symbol.section == "inout" and unit.kind != "PROGRAM"):
            continue  # what a block takes by reference is bound at each call
        if isinstance(symbol.initial, tuple):
            cells[name] = list(symbol.initial)
        elif isinstance(symbol.initial, Mapping):
            cells[name] = _fresh(units[symbol.type.name.upper()], units, symbol.initial)
        else:
            cells[name] = (presets or {}).get(key, symbol.initial)
    return cells


def _file_of(digest: str) -> str:
    return f"<program {digest}>"


def _functions(python: str, file: str, available: Mapping[str, Callable[..., Any]]) -> dict[str, Any]:
    """Run the definitions in ``python`` and return the namespace they are in."""
    namespace: dict[str, Any] = {"__builtins__": {}, **available}
    exec(compile(python, file, "exec", dont_inherit=True), namespace)
    return namespace


@lru_cache(maxsize=1)
def _standard() -> tuple[Mapping[str, Unit], Mapping[str, Callable[..., Any]]]:
    translation = translate(STANDARD_BLOCKS, None)
    namespace = _functions(translation.python, "<standard blocks>", _RUNTIME)
    return translation.units, {unit.python: namespace[unit.python] for unit in translation.units.values()}


def _variable(symbol: Symbol) -> Variable:
    first = symbol.initial[0] if isinstance(symbol.initial, tuple) else symbol.initial
    return Variable(symbol.name, symbol.type.name, symbol.section, 0 if isinstance(first, Mapping) else first)


@lru_cache(maxsize=64)  # a text of 64 KiB costs some megabytes, and an attacker can send many
def _compiled(text: str) -> Program:
    units, blocks = _standard()
    translation = translate(text, units)
    unit = translation.program
    assert unit is not None  # translate() refuses a text without one
    digest = sha256(text.encode()).hexdigest()
    functions = _functions(translation.python, _file_of(digest), {**_RUNTIME, **blocks})
    variables = [_variable(symbol) for symbol in unit.of("input", "output", "inout", "local", "retain")]
    return Program(
        name=unit.name,
        source=text,
        digest=digest,
        variables=MappingProxyType({variable.name: variable for variable in variables}),
        constants=MappingProxyType(
            {s.name: s.initial for s in unit.of("constant") if isinstance(s.initial, (bool, int, float))}
        ),
        python=translation.python,
        _lines=translation.lines,
        _units=translation.units,
        _run=functions[unit.python],
    )


def compile_program(text: str, file: str = "<program>") -> Program:
    """Return the program that ``text`` declares; the same object for the same text.

    Raises `DocumentError` with line and column for a syntax error, or for every unknown name, type error and
    limit exceeded, all at once; its problems name ``file``.
    """
    try:
        return _compiled(text)
    except DocumentError as error:
        raise DocumentError(replace(problem, file=file) for problem in error.problems) from None
