"""The Structured Text engine: what programs mean, what is refused, and that nothing gets out."""

from __future__ import annotations

import ast
import copy
import ctypes
import math
import pickle
import random
import re
import string
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from devices import logic, structured_text
from devices.logic import LogicFault, Program, ProgramInstance, compile_program
from testbed.errors import DocumentError, OtlabError, UnknownNameError


def program(declarations: str, body: str, units: str = "") -> str:
    return f"{units}\nPROGRAM Main\n{declarations}\n{body}\nEND_PROGRAM\n"


def after_scan(declarations: str, body: str, units: str = "", **inputs: bool | int | float) -> dict[str, Any]:
    instance = compile_program(program(declarations, body, units)).instantiate()
    instance.memory.update(inputs)
    instance.scan(0.0)
    return instance.memory


def value(expression: str, of: str, declarations: str = "", units: str = "", **inputs: Any) -> Any:
    memory = after_scan(
        f"{declarations} VAR result : {of}; END_VAR", f"result := {expression};", units, **inputs
    )
    return memory["result"]


def problems(text: str) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        compile_program(text, "main.st")
    return [str(problem) for problem in caught.value.problems]


def only_problem(declarations: str, body: str, units: str = "") -> str:
    found = problems(program(declarations, body, units))
    assert len(found) == 1, found
    return found[0]


# ------------------------------------------------------------------------------------------- the worked example

# SWaT stage 1; the setpoints are those of the MiniCPS swat-s1 example, in mm.
STAGE_1 = """
(* Raw water: MV101 fills tank T101, P101 moves it on to T301 in stage 3. *)
PROGRAM Stage1
VAR_INPUT
  LIT101, LIT301 : REAL;                    // mm
  MV101_AUTO, P101_AUTO : BOOL := TRUE;
  MV101_MANUAL, P101_MANUAL : BOOL;
END_VAR
VAR_OUTPUT
  MV101, P101 : BOOL;                       // TRUE: open, running
  P101_INTERLOCK : BOOL;
  LIT101_AH, LIT101_AHH, LIT101_AL, LIT101_ALL : BOOL;
END_VAR
VAR RETAIN
  LIT101_LL_SP : REAL := 250.0;  LIT101_L_SP : REAL := 500.0;
  LIT101_H_SP : REAL := 800.0;   LIT101_HH_SP : REAL := 1200.0;
  LIT301_L_SP : REAL := 800.0;   LIT301_H_SP : REAL := 1000.0;
END_VAR
VAR
  FILL, FEED : RS;
  HH_DELAY : TON := (PT := T#2s);
  HH_COUNT : CTU := (PV := 3);
  SCANS : UDINT;
END_VAR

SCANS := SCANS + 1;

FILL(S := LIT101 < LIT101_L_SP, R1 := LIT101 > LIT101_H_SP);
IF MV101_AUTO THEN
  MV101 := FILL.Q1;
ELSE
  MV101 := MV101_MANUAL;
END_IF;

FEED(S := LIT301 < LIT301_L_SP, R1 := LIT301 > LIT301_H_SP);
P101_INTERLOCK := LIT101 <= LIT101_LL_SP;
P101 := SEL(P101_AUTO, P101_MANUAL, FEED.Q1) AND NOT P101_INTERLOCK;

LIT101_AHH := LIT101 >= LIT101_HH_SP;
LIT101_AH := LIT101 >= LIT101_H_SP;
LIT101_AL := LIT101 <= LIT101_L_SP;
LIT101_ALL := LIT101 <= LIT101_LL_SP;

HH_DELAY(IN := LIT101_AHH);
HH_COUNT(CU := HH_DELAY.Q);
END_PROGRAM
"""
SCAN = 0.4  # s, the PLC scan of the same example


class Stage:
    """Stage 1 under scan, with a clock that counts its scans."""

    def __init__(self) -> None:
        self.instance = compile_program(STAGE_1, "stage1.st").instantiate()
        self.scans = 0

    def scan(self, **inputs: bool | float) -> dict[str, Any]:
        self.instance.memory.update(inputs)
        self.instance.scan(self.scans * SCAN)
        self.scans += 1
        return self.instance.memory


def test_mv101_opens_below_l_and_stays_open_until_above_h() -> None:
    stage = Stage()
    levels = [600.0, 500.0, 499.9, 650.0, 800.0, 800.1, 650.0, 500.0, 499.0]
    assert [stage.scan(LIT101=level)["MV101"] for level in levels] == [
        *(False, False, True, True, True, False, False, False, True)
    ]


def test_p101_runs_below_the_l_of_the_next_tank_until_above_its_h() -> None:
    stage = Stage()
    levels = [900.0, 799.0, 900.0, 1000.0, 1000.5, 900.0, 790.0]
    assert [stage.scan(LIT101=600.0, LIT301=level)["P101"] for level in levels] == [
        *(False, True, True, True, False, False, True)
    ]


def test_p101_interlock_stops_the_pump_in_automatic_and_in_manual() -> None:
    stage = Stage()
    assert stage.scan(LIT101=250.1, LIT301=700.0)["P101"] is True
    assert stage.scan(LIT101=250.0)["P101"] is False
    assert stage.scan(P101_AUTO=False, P101_MANUAL=True)["P101"] is False
    memory = stage.scan(LIT101=251.0)
    assert memory["P101"] is True
    assert memory["P101_INTERLOCK"] is False


def test_manual_mode_takes_the_valve_from_the_level_and_gives_it_back() -> None:
    stage = Stage()
    assert stage.scan(LIT101=900.0, MV101_AUTO=False, MV101_MANUAL=True)["MV101"] is True
    assert stage.scan(MV101_MANUAL=False, LIT101=400.0)["MV101"] is False
    assert stage.scan(MV101_AUTO=True)["MV101"] is True


def test_a_changed_setpoint_moves_the_band_the_valve_works_in() -> None:
    stage = Stage()
    assert stage.scan(LIT101=810.0)["MV101"] is False
    stage.instance.write("lit101_l_sp", 820)
    assert stage.instance.memory["LIT101_L_SP"] == 820.0
    # Reset dominates: at 810 mm the level is both below the new L and above H.
    assert stage.scan()["MV101"] is False
    stage.instance.write("LIT101_H_SP", 1100)
    assert stage.scan()["MV101"] is True


def test_alarms_follow_the_level_and_the_delayed_hh_counts_once_an_excursion() -> None:
    stage = Stage()
    memory = stage.scan(LIT101=1200.0)
    assert [memory[f"LIT101_{a}"] for a in ("AHH", "AH", "AL", "ALL")] == [True, True, False, False]
    for _ in range(20):
        memory = stage.scan()
    assert stage.instance.block("HH_COUNT")["CV"] == 1
    for level in (1000.0, 1300.0):
        for _ in range(10):
            memory = stage.scan(LIT101=level)
    assert stage.instance.block("hh_count")["CV"] == 2
    assert memory["SCANS"] == 41


def test_the_program_lists_its_variables_in_order_with_type_section_and_initial_value() -> None:
    stage_1 = compile_program(STAGE_1)
    assert stage_1.name == "Stage1"
    assert stage_1.source == STAGE_1
    assert stage_1.digest == sha256(STAGE_1.encode()).hexdigest()
    variables = stage_1.variables
    assert list(variables)[:3] == ["LIT101", "LIT301", "MV101_AUTO"]
    assert variables["MV101_AUTO"] == logic.Variable("MV101_AUTO", "BOOL", "input", True)
    assert variables["LIT101_L_SP"] == logic.Variable("LIT101_L_SP", "REAL", "retain", 500.0)
    assert (variables["MV101"].section, variables["SCANS"].section) == ("output", "local")
    assert (variables["HH_DELAY"].type, variables["HH_DELAY"].initial) == ("TON", 0)
    assert set(stage_1.instantiate().memory) == set(variables) - {"FILL", "FEED", "HH_DELAY", "HH_COUNT"}


# --------------------------------------------------------------------------------------- programs as documents


def test_the_same_text_is_compiled_once_whatever_its_file() -> None:
    assert compile_program(STAGE_1, "a.st") is compile_program(STAGE_1, "b.st")


def test_instances_share_nothing() -> None:
    declarations = "VAR n : INT; a : ARRAY[0..1] OF INT; c : CTU; END_VAR"
    compiled = compile_program(
        program(declarations, "n := n + 1; a[0] := a[0] + 1; c(CU := TRUE); n := a[0] + c.CV;")
    )
    first, second = compiled.instantiate(), compiled.instantiate()
    first.scan(0.0)
    first.scan(1.0)
    second.scan(0.0)
    assert (first.memory["n"], second.memory["n"]) == (3, 2)


def test_a_copy_of_an_instance_goes_on_from_where_the_original_stood() -> None:
    first = compile_program(STAGE_1).instantiate()
    first.memory["LIT101"] = 400.0
    first.scan(0.0)
    second = copy.deepcopy(first)
    first.memory["LIT101"], second.memory["LIT101"] = 900.0, 600.0
    first.scan(SCAN)
    second.scan(SCAN)
    assert (first.memory["MV101"], second.memory["MV101"]) == (False, True)
    assert second.program is first.program


def test_a_program_travels_to_another_process_as_its_text() -> None:
    compiled = compile_program(STAGE_1)
    assert pickle.loads(pickle.dumps(compiled)) is compiled


def test_importing_the_module_does_not_import_the_parser() -> None:
    code = "import sys, devices.logic; sys.exit('lark' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_keywords_names_types_and_functions_ignore_case_and_memory_keeps_the_declared_spelling() -> None:
    memory = after_scan(
        "var LeVel : Real := 2.0; hit : bool; end_var", "IF LEVEL >= Sqrt(level) then HIT := true; end_IF;"
    )
    assert memory == {"LeVel": 2.0, "hit": True}


def test_comments_of_both_kinds_are_skipped_over_lines() -> None:
    text = program("VAR a : INT; END_VAR", "(* a := 1; \n ** *) a := 2; // a := 3;\n (* // *) a := a + 1;")
    instance = compile_program(text).instantiate()
    instance.scan(0.0)
    assert instance.memory["a"] == 3


def test_write_converts_to_the_type_of_the_variable() -> None:
    instance = compile_program(
        program("VAR i : INT; w : WORD; r : REAL; b : BOOL; t : TIME; x : TON; END_VAR", "")
    ).instantiate()
    for name, given_value in (("I", 65_535), ("w", -1), ("R", 3), ("b", 2), ("T", 1)):
        instance.write(name, given_value)
    assert instance.memory == {"i": -1, "w": 65_535, "r": 3.0, "b": True, "t": 1.0}
    assert [type(cell) for cell in instance.memory.values()] == [int, int, float, bool, float]
    with pytest.raises(UnknownNameError, match="did you mean 'i'"):
        instance.write("ii", 1)
    with pytest.raises(UnknownNameError):
        instance.write("x", 1)


def test_a_var_in_out_of_the_program_is_memory_that_both_sides_write() -> None:
    instance = compile_program(
        program("VAR_IN_OUT X, Reset : BOOL; END_VAR", "X := Reset; Reset := FALSE;")
    ).instantiate()
    instance.memory["Reset"] = True
    instance.scan(0.0)
    assert instance.memory == {"X": True, "Reset": False}
    assert instance.program.variables["X"].section == "inout"


def test_constants_are_not_in_memory() -> None:
    compiled = compile_program(
        program("VAR CONSTANT K : INT := 7; END_VAR VAR a : INT; END_VAR", "a := K * 2;")
    )
    instance = compiled.instantiate()
    instance.scan(0.0)
    assert instance.memory == {"a": 14}
    assert dict(compiled.constants) == {"K": 7}
    assert list(compiled.variables) == ["a"]


# ---------------------------------------------------------------------------------------------------- literals


@pytest.mark.parametrize(
    ("text", "of", "expected"),
    [
        ("1_000", "INT", 1000),
        ("16#7F_FF", "INT", 32767),
        ("2#1010_1010", "BYTE", 0xAA),
        ("8#17", "USINT", 15),
        ("WORD#16#FFFF", "WORD", 0xFFFF),
        ("INT#-5", "INT", -5),
        ("-32768", "INT", -32768),
        ("18446744073709551615", "ULINT", 2**64 - 1),
        ("1.5e-3", "REAL", 0.0015),
        ("REAL#2", "REAL", 2.0),
        ("LREAL#-2.5", "LREAL", -2.5),
        ("5", "REAL", 5.0),
        ("BOOL#1", "BOOL", True),
        ("0", "BOOL", False),
        ("T#1s500ms", "TIME", 1.5),
        ("TIME#1d_2h_3m_4s_5ms_6us_7ns", "TIME", 93784.005006007),
        ("t#1.5s", "TIME", 1.5),
        ("T#-250ms", "TIME", -0.25),
        ("T#90m", "TIME", 5400.0),
    ],
)
def test_a_literal_has_the_value_and_the_type_it_is_written_with(text: str, of: str, expected: Any) -> None:
    result = value(text, of)
    assert result == expected
    assert type(result) is type(expected)
    initial = compile_program(program(f"VAR x : {of} := {text}; END_VAR", "")).instantiate().memory["x"]
    assert (initial, type(initial)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("text", "of", "message"),
    [
        ("40000", "INT", "the value is ANY_INT, not INT, which holds -32768 to 32767"),
        ("-1", "UINT", "which holds 0 to 65535"),
        ("2", "BOOL", "the value is ANY_INT, not BOOL"),
        ("1.5", "INT", "the value is ANY_REAL, not INT"),
        ("18446744073709551616", "ULINT", "the number is out of range"),
        ("9" * 5000, "INT", "the number is out of range"),
        ("16#" + "F" * 5000, "INT", "the number is out of range"),
        ("1.0e999", "REAL", "the number is out of range"),
        ("2#12", "INT", "'2#12' has a digit outside its base"),
        ("SINT#200", "SINT", "the literal is not a SINT"),
        ("BOOL#2", "BOOL", "the literal is not a BOOL"),
        ("INT#TRUE", "INT", "the literal is not a INT"),
        ("INT#1.0", "INT", "the literal is not a INT"),
        ("FOO#1", "INT", "'FOO#' is not an elementary type"),
        ("T#5", "TIME", "a duration needs a unit"),
        ("T#5s1m", "TIME", "is not a duration"),
        ("T#1.5s1ms", "TIME", "is not a duration"),
        ("T#1x", "TIME", "is not a duration"),
        ("5", "TIME", "the value is ANY_INT, not TIME"),
    ],
)
def test_a_literal_that_does_not_fit_is_refused_in_words(text: str, of: str, message: str) -> None:
    assert message in only_problem(f"VAR x : {of}; END_VAR", f"x := {text};")


# -------------------------------------------------------------------------------------------- integer arithmetic


@pytest.mark.parametrize(
    ("of", "low", "high"),
    [
        ("SINT", -128, 127),
        ("INT", -32768, 32767),
        ("DINT", -(2**31), 2**31 - 1),
        ("LINT", -(2**63), 2**63 - 1),
        ("USINT", 0, 255),
        ("UINT", 0, 65535),
        ("UDINT", 0, 2**32 - 1),
        ("ULINT", 0, 2**64 - 1),
    ],
)
def test_each_integer_type_wraps_at_its_own_width(of: str, low: int, high: int) -> None:
    declarations = f"VAR low, high : {of}; END_VAR"
    assert value("high + 1", of, declarations, high=high) == low
    assert value("low - 1", of, declarations, low=low) == high
    assert value("-low", of, declarations, low=low) == (low if low else 0)


@pytest.mark.parametrize(
    ("a", "b", "quotient", "rest"),
    [(7, 2, 3, 1), (-7, 2, -3, -1), (7, -2, -3, 1), (-7, -2, 3, -1), (-32768, -1, -32768, 0)],
)
def test_division_truncates_toward_zero_and_mod_takes_the_sign_of_the_dividend(
    a: int, b: int, quotient: int, rest: int
) -> None:
    declarations = "VAR a, b : INT; END_VAR"
    assert value("a / b", "INT", declarations, a=a, b=b) == quotient
    assert value("a MOD b", "INT", declarations, a=a, b=b) == rest
    assert value(f"{a} / {b}", "DINT") == (quotient if a != -32768 else 32768)
    assert value(f"{a} MOD {b}", "DINT") == rest


def test_an_intermediate_result_wraps_before_it_is_divided_or_compared() -> None:
    declarations = "VAR a : INT := 32767; END_VAR"
    assert value("(a + 1) / 2", "INT", declarations) == -16384
    assert value("a + 1 > a", "BOOL", declarations) is False
    assert value("INT_TO_DINT(a + 1)", "DINT", declarations) == -32768
    assert value("a + a - a - 1 + a", "INT", declarations) == -3


def test_mixed_integers_meet_in_the_smallest_type_that_holds_both() -> None:
    declarations = "VAR i : INT := -1; u : UINT := 65535; END_VAR"
    assert value("i + u", "DINT", declarations) == 65534
    assert value("i < u", "BOOL", declarations) is True
    assert "the value is DINT, not INT; convert it with DINT_TO_INT" in only_problem(
        declarations, "i := i + u;"
    )


def test_a_long_product_stays_exact_modulo_its_width() -> None:
    declarations = "VAR a : LINT := 6364136223846793005; END_VAR"
    expected = ctypes.c_int64(6364136223846793005**40).value
    assert value(" * ".join(["a"] * 40), "LINT", declarations) == expected


# ----------------------------------------------------------------------- expressions against a reference in Python

CTYPES = {
    "SINT": ctypes.c_int8,
    "INT": ctypes.c_int16,
    "DINT": ctypes.c_int32,
    "LINT": ctypes.c_int64,
    "USINT": ctypes.c_uint8,
    "UINT": ctypes.c_uint16,
    "UDINT": ctypes.c_uint32,
    "BYTE": ctypes.c_uint8,
    "WORD": ctypes.c_uint16,
    "DWORD": ctypes.c_uint32,
}
Environment = dict[str, Any]
# Text, how tightly its outermost operator binds (0 loosest), and the same computed in Python.
Written = tuple[str, int, Callable[[Environment], Any]]
BINDING = {
    "OR": 1,
    "XOR": 2,
    "AND": 3,
    "=": 4,
    "<>": 4,
    "<": 5,
    ">": 5,
    "<=": 5,
    ">=": 5,
    "+": 6,
    "-": 6,
    "*": 7,
}
BINDING |= {"/": 7, "MOD": 7}
UNARY, PRIMARY = 9, 10


def truncated(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


WHOLE: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": truncated,
    "MOD": lambda a, b: a - b * truncated(a, b),
}
REALS: dict[str, Callable[[float, float], float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
}
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: a == b,
    "<>": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
    "<=": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b,
}


def inside(written: Written, binding: int) -> str:
    return written[0] if written[1] >= binding else f"({written[0]})"


def joined(operator: str, a: Written, b: Written, run: Callable[[Environment], Any]) -> Written:
    binding = BINDING[operator]
    return f"{inside(a, binding)} {operator} {inside(b, binding + 1)}", binding, run


@st.composite
def whole(draw: st.DrawFn, of: str, depth: int) -> Written:
    """An expression of integer type ``of`` over the variables a, b, c and p, q."""

    def wrap(number: int) -> int:
        return int(CTYPES[of](number).value)

    if depth == 0 or draw(st.integers(0, 4)) == 0:
        if draw(st.booleans()):
            name = draw(st.sampled_from("abc"))
            return name, PRIMARY, lambda env: env[name]
        number = wrap(draw(st.integers(-(2**63), 2**63) | st.integers(-3, 3)))
        return f"{of}#{number}", PRIMARY, lambda env: number
    kind = draw(st.sampled_from(["binary", "binary", "binary", "minus", "abs", "min", "limit", "sel"]))
    x = draw(whole(of, depth - 1))
    if kind == "minus":
        return f"-{inside(x, UNARY)}", UNARY, lambda env: wrap(-x[2](env))
    if kind == "abs":
        return f"ABS({x[0]})", PRIMARY, lambda env: wrap(abs(x[2](env)))
    y = draw(whole(of, depth - 1))
    if kind == "min":
        return f"MIN({x[0]}, {y[0]})", PRIMARY, lambda env: min(x[2](env), y[2](env))
    if kind == "limit":
        z = draw(whole(of, depth - 1))
        text = f"LIMIT(MX := {z[0]}, IN := {y[0]}, MN := {x[0]})"
        return text, PRIMARY, lambda env: min(max(y[2](env), x[2](env)), z[2](env))
    if kind == "sel":
        gate = draw(truth(of, depth - 1))
        text = f"SEL({gate[0]}, {x[0]}, {y[0]})"
        return text, PRIMARY, lambda env: y[2](env) if gate[2](env) else x[2](env)
    operator = draw(st.sampled_from(sorted(WHOLE)))
    return joined(operator, x, y, lambda env: wrap(WHOLE[operator](x[2](env), y[2](env))))


@st.composite
def truth(draw: st.DrawFn, of: str, depth: int) -> Written:
    """A BOOL expression that compares expressions of type ``of``."""
    if depth == 0:
        name = draw(st.sampled_from("pq"))
        return name, PRIMARY, lambda env: env[name]
    kind = draw(st.sampled_from(["compare", "compare", "AND", "OR", "XOR", "=", "<>", "NOT"]))
    if kind == "compare":
        operator = draw(st.sampled_from(sorted(COMPARE)))
        a, b = draw(whole(of, depth - 1)), draw(whole(of, depth - 1))
        return joined(operator, a, b, lambda env: COMPARE[operator](a[2](env), b[2](env)))
    x = draw(truth(of, depth - 1))
    if kind == "NOT":
        return f"NOT {inside(x, UNARY)}", UNARY, lambda env: not x[2](env)
    y = draw(truth(of, depth - 1))
    run: dict[str, Callable[[Environment], bool]] = {
        "AND": lambda env: x[2](env) and y[2](env),
        "OR": lambda env: x[2](env) or y[2](env),
        "XOR": lambda env: x[2](env) != y[2](env),
        "=": lambda env: x[2](env) == y[2](env),
        "<>": lambda env: x[2](env) != y[2](env),
    }
    return joined(kind, x, y, run[kind])


@st.composite
def real(draw: st.DrawFn, depth: int) -> Written:
    if depth == 0 or draw(st.integers(0, 4)) == 0:
        if draw(st.booleans()):
            name = draw(st.sampled_from("xyi"))
            return name, PRIMARY, lambda env: env[name]
        number = draw(st.floats(0.0, 1e12))
        return f"REAL#{number:.17f}", PRIMARY, lambda env: float(f"{number:.17f}")
    x, y = draw(real(depth - 1)), draw(real(depth - 1))
    if draw(st.integers(0, 3)) == 0:
        return f"MAX({x[0]}, REAL#0, {y[0]})", PRIMARY, lambda env: max(x[2](env), 0.0, y[2](env))
    operator = draw(st.sampled_from(sorted(REALS)))
    # An INT divided by an INT would be a whole division; the reference has only floats.
    x = (f"INT_TO_REAL({x[0]})", PRIMARY, x[2]) if x[0] == "i" else x
    return joined(operator, x, y, lambda env: REALS[operator](float(x[2](env)), float(y[2](env))))


@st.composite
def bits(draw: st.DrawFn, of: str, depth: int) -> Written:
    width = ctypes.sizeof(CTYPES[of]) * 8
    if depth == 0 or draw(st.integers(0, 4)) == 0:
        name = draw(st.sampled_from("abc"))
        return name, PRIMARY, lambda env: env[name]
    x = draw(bits(of, depth - 1))
    kind = draw(st.sampled_from(["AND", "OR", "XOR", "NOT", "SHL", "SHR"]))
    if kind == "NOT":
        return f"NOT {inside(x, UNARY)}", UNARY, lambda env: ~x[2](env) % 2**width
    if kind in ("SHL", "SHR"):
        count = draw(st.integers(0, width + 3) | st.just(10**9))
        shifted: Callable[[int], int] = (
            (lambda n: n * 2 ** min(count, 64)) if kind == "SHL" else (lambda n: n // 2 ** min(count, 64))
        )
        return f"{kind}({x[0]}, {count})", PRIMARY, lambda env: shifted(x[2](env)) % 2**width
    y = draw(bits(of, depth - 1))
    run: dict[str, Callable[[Environment], int]] = {
        "AND": lambda env: x[2](env) & y[2](env),
        "OR": lambda env: x[2](env) | y[2](env),
        "XOR": lambda env: x[2](env) ^ y[2](env),
    }
    return joined(kind, x, y, run[kind])


def agree(written: Written, of: str, declarations: str, environment: Environment) -> None:
    """The program and the reference give the same value, or both divide by zero."""
    text = program(f"VAR {declarations} result : {of}; END_VAR", f"result := {written[0]};")
    instance = compile_program(text).instantiate()
    instance.memory.update(environment)
    try:
        expected = written[2](environment)
    except ZeroDivisionError:
        with pytest.raises(LogicFault, match="division by zero"):
            instance.scan(0.0)
        return
    instance.scan(0.0)
    result = instance.memory["result"]
    assert result == expected or (math.isnan(result) and math.isnan(expected))
    assert type(result) is type(float(expected) if of == "REAL" else expected)


def numbers(of: str) -> st.SearchStrategy[int]:
    return st.integers(-(2**63), 2**64).map(lambda n: int(CTYPES[of](n).value)) | st.just(0)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), of=st.sampled_from(["SINT", "INT", "DINT", "LINT", "USINT", "UINT", "UDINT"]))
def test_whole_and_bool_expressions_agree_with_python(data: st.DataObject, of: str) -> None:
    environment: Environment = {name: data.draw(numbers(of)) for name in "abc"}
    environment |= {name: data.draw(st.booleans()) for name in "pq"}
    declarations = f"a, b, c : {of}; p, q : BOOL;"
    agree(data.draw(whole(of, 4)), of, declarations, environment)
    agree(data.draw(truth(of, 3)), "BOOL", declarations, environment)


@settings(max_examples=100, deadline=None)
@given(written=real(4), x=st.floats(), y=st.floats(), i=st.integers(-32768, 32767))
def test_real_expressions_agree_with_python(written: Written, x: float, y: float, i: int) -> None:
    agree(written, "REAL", "x, y : REAL; i : INT;", {"x": x, "y": y, "i": i})


@settings(max_examples=100, deadline=None)
@given(data=st.data(), of=st.sampled_from(["BYTE", "WORD", "DWORD"]))
def test_bit_string_expressions_agree_with_python(data: st.DataObject, of: str) -> None:
    environment: Environment = {name: data.draw(numbers(of)) for name in "abc"}
    agree(data.draw(bits(of, 4)), of, f"a, b, c : {of};", environment)


# ----------------------------------------------------------------------------------- precedence, operators, types


@pytest.mark.parametrize(
    ("text", "of", "expected"),
    [
        ("2 + 3 * 4 ** 2", "REAL", 50.0),
        ("-2 ** 2", "REAL", 4.0),
        ("2 ** 3 ** 2", "REAL", 64.0),
        ("2 ** -1", "REAL", 0.5),
        ("10 - 4 - 3", "INT", 3),
        ("100 / 10 / 5", "INT", 2),
        ("7 - 10 / 3 MOD 2", "INT", 6),
        ("TRUE OR TRUE AND FALSE", "BOOL", True),
        ("TRUE XOR TRUE & FALSE", "BOOL", True),
        ("NOT TRUE OR TRUE", "BOOL", True),
        ("NOT (TRUE OR TRUE)", "BOOL", False),
        ("1 < 2 = TRUE", "BOOL", True),
        ("FALSE = FALSE = FALSE", "BOOL", False),
        ("1 + 1 = 2 AND 2 <> 3", "BOOL", True),
        ("T#1s + T#500ms * 3", "TIME", 2.5),
        ("T#10s / 4 - T#-1s", "TIME", 3.5),
        ("T#1s < T#1001ms", "BOOL", True),
        ("1 / 2 + 1 / 2.0", "REAL", 0.5),
    ],
)
def test_operators_bind_as_the_standard_says(text: str, of: str, expected: Any) -> None:
    assert value(text, of) == expected


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("i := r;", "the value is REAL, not INT; convert it with REAL_TO_INT"),
        ("r := l;", "the value is LREAL, not REAL; convert it with LREAL_TO_REAL"),
        ("w := i;", "the value is INT, not WORD; convert it with INT_TO_WORD"),
        ("p := i;", "the value is INT, not BOOL; convert it with INT_TO_BOOL"),
        ("i := p + 1;", "+ needs numbers of a common type, not BOOL and ANY_INT"),
        ("w := w + 1;", "+ needs numbers of a common type, not WORD and ANY_INT"),
        ("r := r MOD 2;", "MOD needs whole numbers, not REAL"),
        ("p := i AND i;", "AND needs BOOL, or BYTE, WORD or DWORD, on every side, not INT"),
        ("p := p OR w;", "OR needs BOOL, or BYTE, WORD or DWORD, on every side, not BOOL and WORD"),
        ("p := NOT i;", "NOT needs BOOL"),
        ("p := -p;", "a sign needs a number or a TIME, not BOOL"),
        ("p := p < p;", "BOOL has no order"),
        ("p := i = w;", "INT and WORD cannot be compared"),
        ("t := t * t;", "TIME * TIME has no meaning"),
        ("t := t + 1;", "TIME + ANY_INT has no meaning"),
        ("IF i THEN END_IF;", "the condition is INT, not BOOL"),
        ("WHILE r DO END_WHILE;", "the condition is REAL, not BOOL"),
        ("CASE r OF 1: ; END_CASE;", "a CASE selects by a whole number, not by REAL"),
        ("CASE i OF 40000: ; END_CASE;", "the label is ANY_INT, not INT"),
        ("CASE i OF 5..1: ; END_CASE;", "the range of this label is empty"),
        ("CASE i OF p: ; END_CASE;", "'p' is not a constant"),
        ("CASE i OF i := 1; END_CASE;", "a CASE starts with a label"),
        ("FOR r := 1 TO 2 DO END_FOR;", "a FOR counts with a whole number, not with REAL"),
        ("FOR i := 1 TO 40000 DO END_FOR;", "the bound of the FOR is ANY_INT, not INT"),
        ("FOR i := 1 TO 2 DO i := 1; END_FOR;", "'i' controls a FOR around this"),
        ("FOR i := 1 TO 2 DO FOR i := 1 TO 2 DO END_FOR; END_FOR;", "'i' controls a FOR around this"),
        ("EXIT;", "EXIT stands outside a loop"),
        ("CONTINUE;", "CONTINUE stands outside a loop"),
        ("x := 1;", "'x' is declared as input: it cannot be assigned"),
        ("K := 1;", "'K' is declared as constant: it cannot be assigned"),
        ("i := a;", "'a' is ARRAY[1..3] OF INT: name one value of it"),
        ("i := i[1];", "'i' is INT, not an array"),
        ("i := a[r];", "an array index is a whole number, not REAL"),
        ("i := i.Q;", "'i' is INT, not a block"),
        ("p := ton1.QQ;", "unknown input or output of TON 'QQ'; did you mean Q?"),
        ("ton1.Q := TRUE;", "'Q' is an output of 'ton1'"),
        ("p := ton1(IN := p);", "call a block in a statement of its own"),
        ("ton1(p);", "TON takes 2 arguments, not 1"),
        ("ton1(IN := p, T#1s);", "name all arguments of a call or none"),
        ("ton1(IN := p, IN := p);", "IN is given twice"),
        ("ton1(INN := p);", "unknown input of TON 'INN'; did you mean IN?"),
        ("ton1(Q := p);", "unknown input of TON 'Q'"),
        ("ton1(IN => p);", "unknown output of TON 'IN'"),
        ("ton1(ET => i);", "output ET is TIME, not INT"),
        ("ton1(PT := 5);", "input PT is ANY_INT, not TIME"),
        ("TON(IN := p);", "TON is a type: declare an instance"),
        ("SQRT(r);", "the result of SQRT is not used"),
        ("i();", "'i' is INT, not a block"),
        ("tonn1();", "unknown block 'tonn1'; did you mean TON1?"),
        ("r := SQRT(p);", "the argument of SQRT is BOOL, not REAL"),
        ("r := SQRT(r, r);", "SQRT takes 1 arguments, not 2"),
        ("r := SQRRT(r);", "unknown function 'SQRRT'; did you mean SQRT?"),
        ("i := MIN(i);", "MIN takes 2 or more arguments, not 1"),
        ("i := MIN(i, p);", "the values of MIN need a common type, not INT, BOOL"),
        ("i := LIMIT(MN := 1, IN := i, MAX := 3);", "the arguments of LIMIT are MN, IN, MX"),
        ("i := SEL(i, 1, 2);", "the first argument of SEL is INT, not BOOL"),
        ("i := MUX(r, 1, 2);", "MUX selects by a whole number, not by REAL"),
        ("w := SHL(i, 1);", "SHL shifts a BYTE, WORD or DWORD by a whole number"),
        ("i := TRUNC(p);", "the argument of TRUNC is BOOL, not REAL"),
        ("i := REAL_TO_INT(t);", "the argument of REAL_TO_INT is TIME, not REAL"),
        ("i := missing;", "unknown variable 'missing'"),
        ("LIT := 1;", "unknown variable 'LIT'"),
        ("i := 1 / (1;", "unexpected ';'"),
        ("i = 1;", "unexpected '='"),
        ("i := 1", "unexpected 'END_PROGRAM'"),
        ("i := 'a';", 'unexpected character "\'"'),
        ("i := 1; (* open", "the comment (* is never closed"),
        (f"{'x' * 65} := 1;", "a name has at most 64 characters, this one 65"),
        ("\u212a := 1;", "unexpected character"),
    ],
)
def test_a_wrong_statement_is_told_in_words(body: str, message: str) -> None:
    declarations = (
        "VAR_INPUT x : INT; END_VAR VAR CONSTANT K : INT := 1; END_VAR VAR i : INT; r : REAL; l : LREAL; "
        "w : WORD; p : BOOL; t : TIME; a : ARRAY[1..3] OF INT; ton1 : TON; END_VAR"
    )
    assert message in only_problem(declarations, body)


@pytest.mark.parametrize(
    ("declarations", "message"),
    [
        ("VAR a : INTT; END_VAR", "unknown type 'INTT'; did you mean INT?"),
        ("VAR a : STRING; END_VAR", "unknown type 'STRING'"),
        ("VAR a : INT; A : REAL; END_VAR", "'A' is already declared"),
        ("VAR INT : INT; END_VAR", "'INT' is a type of the language"),
        ("VAR a : INT := 1.5; END_VAR", "the initial value is ANY_REAL, not INT"),
        ("VAR a : INT := b; b : INT; END_VAR", "unknown constant 'b'"),
        ("VAR b : INT; a : INT := b; END_VAR", "'b' is not a constant"),
        ("VAR a : INT := [1]; END_VAR", "the initial value of 'a' is not one of INT"),
        ("VAR a : ARRAY[1..2] OF INT := [3(0)]; END_VAR", "more than 2 initial values"),
        (
            "VAR a : ARRAY[1..2] OF INT := 5; END_VAR",
            "the initial value of 'a' is not one of ARRAY[1..2] OF INT",
        ),
        ("VAR a : ARRAY[2..1] OF INT; END_VAR", "an array has 1 to 65536 elements, not 0"),
        ("VAR a : ARRAY[0..99999999999] OF INT; END_VAR", "an array has 1 to 65536 elements"),
        ("VAR a : ARRAY[0..1.5] OF INT; END_VAR", "a whole number is needed here, not ANY_REAL"),
        ("VAR a : ARRAY[0..1] OF TON; END_VAR", "unknown type 'TON'"),
        (
            "VAR a, b : ARRAY[1..40000] OF INT; END_VAR",
            "the arrays of one text have at most 65536 elements together",
        ),
        ("VAR CONSTANT K : INT; END_VAR", "the constant 'K' needs a value"),
        ("VAR CONSTANT K : TON; END_VAR", "inputs, outputs and constants are elementary"),
        ("VAR_INPUT a : ARRAY[1..2] OF INT; END_VAR", "inputs, outputs and constants are elementary"),
        ("VAR_IN_OUT a : TON; END_VAR", "a VAR_IN_OUT of a PROGRAM is elementary"),
        ("VAR_IN_OUT a : INT := 1; END_VAR", "a VAR_IN_OUT has no initial value"),
        ("VAR_INPUT RETAIN a : INT; END_VAR", "RETAIN goes with VAR, not with VAR_INPUT"),
        ("VAR t : TON := (PTT := T#1s); END_VAR", "unknown input of TON 'PTT'; did you mean PT?"),
        ("VAR t : TON := (PT := 1); END_VAR", "the initial value is ANY_INT, not TIME"),
        ("VAR t : MAIN; END_VAR", "unknown type 'MAIN'"),
        ("VAR a AT %IX0.0 : BOOL; END_VAR", "unexpected 'AT': expected ',' or ':'"),
    ],
)
def test_a_wrong_declaration_is_told_in_words(declarations: str, message: str) -> None:
    assert message in only_problem(declarations, "")


def test_every_mistake_is_reported_at_once_in_file_order_with_its_place() -> None:
    text = "PROGRAM Main\nVAR a : INT; b : BOOL := 5; END_VAR\na := b;\n  c := 1 + nope;\nEND_PROGRAM"
    assert problems(text) == [
        "main.st:2:26: Main: the initial value is ANY_INT, not BOOL",
        "main.st:3:6: Main: the value is BOOL, not INT; convert it with BOOL_TO_INT",
        "main.st:4:3: Main: unknown variable 'c'",
        "main.st:4:12: Main: unknown variable 'nope'",
    ]


def test_a_syntax_error_names_its_place_and_what_was_expected() -> None:
    assert problems("PROGRAM Main\nVAR a : BOOL END_VAR\nEND_PROGRAM") == [
        "main.st:2:14: unexpected 'END_VAR': expected ':=' or ';'; is a ';' missing before it?"
    ]
    assert problems("PROGRAM Main\nIF TRUE THEN") == [
        "main.st:2:9: unexpected end of text: it cannot stand here"
    ]
    assert problems("") == ["main.st:1:1: a text holds one PROGRAM, not 0"]
    assert "not 2" in problems("PROGRAM A END_PROGRAM PROGRAM B END_PROGRAM")[0]


# ---------------------------------------------------------------------------------------------------- statements


def test_if_takes_the_first_true_branch_only() -> None:
    declarations = "VAR a, out : INT; END_VAR"
    body = "IF a > 10 THEN out := 1; ELSIF a > 5 THEN out := 2; ELSIF a > 5 THEN out := 3; ELSE out := 4; END_IF;"
    assert [after_scan(declarations, body, a=a)["out"] for a in (11, 6, 5)] == [1, 2, 4]


def test_case_takes_values_ranges_constants_and_else() -> None:
    declarations = "VAR CONSTANT IDLE : INT := 7; END_VAR VAR a, out : INT; END_VAR"
    body = "CASE a OF -1, 1: out := 1; out := out * 10; 3..5, 9: out := 2; IDLE: out := 3; ELSE out := 4; END_CASE;"
    given_values = (-1, 1, 2, 3, 4, 5, 6, 7, 9)
    assert [after_scan(declarations, body, a=a)["out"] for a in given_values] == [10, 10, 4, 2, 2, 2, 4, 3, 2]
    assert after_scan(declarations, "CASE a OF ELSE out := 1; END_CASE;")["out"] == 1
    assert after_scan(declarations, "CASE a OF 1: out := 1; END_CASE;")["out"] == 0


def test_for_counts_both_ways_and_leaves_its_variable_one_step_past_the_end() -> None:
    declarations = "VAR i, n, sum : INT; END_VAR"
    assert after_scan(declarations, "FOR i := 1 TO 4 DO sum := sum * 10 + i; END_FOR;") == {
        "i": 5,
        "n": 0,
        "sum": 1234,
    }
    memory = after_scan(declarations, "FOR i := 9 TO 2 BY -3 DO sum := sum * 10 + i; END_FOR;")
    assert (memory["sum"], memory["i"]) == (963, 0)
    assert after_scan(declarations, "FOR i := 2 TO 1 DO sum := 1; END_FOR;")["i"] == 2
    memory = after_scan(declarations, "FOR i := 32766 TO 32767 DO n := n + 1; END_FOR;")
    assert (memory["n"], memory["i"]) == (2, -32768)


def test_for_evaluates_its_bounds_once() -> None:
    memory = after_scan("VAR i, n : INT; END_VAR", "n := 3; FOR i := 1 TO n DO n := n + 1; END_FOR;")
    assert memory["n"] == 6


def test_exit_continue_while_and_repeat() -> None:
    declarations = "VAR i, n : INT; END_VAR"
    body = "FOR i := 1 TO 10 DO IF i MOD 2 = 0 THEN CONTINUE; END_IF; IF i > 6 THEN EXIT; END_IF; n := n + i; END_FOR;"
    assert after_scan(declarations, body) == {"i": 7, "n": 9}
    assert after_scan(declarations, "WHILE n < 5 DO n := n + 2; END_WHILE;")["n"] == 6
    assert after_scan(declarations, "n := 9; REPEAT n := n + 1; UNTIL TRUE END_REPEAT;")["n"] == 10
    body = "REPEAT n := n + 1; IF n < 3 THEN CONTINUE; END_IF; i := 1; UNTIL n >= 3 END_REPEAT;"
    assert after_scan(declarations, body) == {"i": 1, "n": 3}


def test_exit_leaves_the_inner_loop_only() -> None:
    body = "FOR i := 1 TO 3 DO FOR j := 1 TO 3 DO IF j = 2 THEN EXIT; END_IF; n := n + 1; END_FOR; END_FOR;"
    assert after_scan("VAR i, j, n : INT; END_VAR", body)["n"] == 3


def test_return_ends_the_scan_from_inside_a_loop() -> None:
    memory = after_scan(
        "VAR i, n : INT; END_VAR", "FOR i := 1 TO 9 DO IF i = 3 THEN RETURN; END_IF; END_FOR; n := 1;"
    )
    assert memory == {"i": 3, "n": 0}


def test_arrays_keep_their_own_bounds_and_initial_values() -> None:
    declarations = (
        "VAR CONSTANT TOP : INT := 2; END_VAR "
        "VAR a : ARRAY[-1..TOP] OF REAL := [1, 2(2.5)]; i : INT; x, y, z, s : REAL; END_VAR"
    )
    body = "x := a[-1]; y := a[1]; z := a[TOP]; a[2] := 4; FOR i := -1 TO TOP DO s := s + a[i]; END_FOR;"
    memory = after_scan(declarations, body)
    assert memory == {"i": 3, "x": 1.0, "y": 2.5, "z": 0.0, "s": 10.0}
    assert compile_program(program(declarations, body)).variables["a"].type == "ARRAY[-1..2] OF REAL"


# ---------------------------------------------------------------------------------------------- standard functions


@pytest.mark.parametrize(
    ("text", "of", "expected"),
    [
        ("ABS(-5)", "INT", 5),
        ("ABS(-2.5)", "REAL", 2.5),
        ("SQRT(16.0)", "REAL", 4.0),
        ("SQRT(16)", "REAL", 4.0),
        ("LN(EXP(2.0))", "REAL", 2.0),
        ("LOG(1000.0)", "LREAL", math.log10(1000.0)),
        ("SIN(0.5) + COS(0.5) + TAN(0.5)", "REAL", math.sin(0.5) + math.cos(0.5) + math.tan(0.5)),
        ("ASIN(0.5) + ACOS(0.5) + ATAN(0.5)", "REAL", math.asin(0.5) + math.acos(0.5) + math.atan(0.5)),
        ("MIN(3, 1, 2)", "INT", 1),
        ("MAX(IN1 := 3, IN3 := 9, IN2 := 2)", "INT", 9),
        ("MAX(1, 2.5)", "REAL", 2.5),
        ("MIN(T#1s, T#10ms)", "TIME", 0.01),
        ("LIMIT(0, 17, 10)", "INT", 10),
        ("LIMIT(MN := 0.0, IN := -1.0, MX := 1.0)", "REAL", 0.0),
        ("SEL(FALSE, 1, 2)", "INT", 1),
        ("SEL(G := TRUE, IN0 := T#1s, IN1 := T#2s)", "TIME", 2.0),
        ("MUX(2, 10, 20, 30)", "INT", 30),
        ("SHL(BYTE#16#81, 1)", "BYTE", 2),
        ("SHR(WORD#16#8000, 15)", "WORD", 1),
        ("TRUNC(-2.9)", "DINT", -2),
        ("REAL_TRUNC_INT(2.9)", "INT", 2),
        ("REAL_TO_INT(2.5)", "INT", 2),
        ("REAL_TO_INT(3.5)", "INT", 4),
        ("REAL_TO_INT(-32769.0)", "INT", 32767),
        ("LREAL_TO_UDINT(1.0e300)", "UDINT", int(1e300) % 2**32),
        ("DINT_TO_INT(DINT#65535)", "INT", -1),
        ("WORD_TO_INT(WORD#16#8000)", "INT", -32768),
        ("INT_TO_WORD(INT#-1)", "WORD", 65535),
        ("INT_TO_BOOL(4)", "BOOL", True),
        ("NOT INT_TO_BOOL(4)", "BOOL", False),
        ("REAL_TO_BOOL(0.0)", "BOOL", False),
        ("BOOL_TO_INT(TRUE) + 1", "INT", 2),
        ("BOOL_TO_REAL(TRUE)", "REAL", 1.0),
        ("INT_TO_REAL(7) / 2", "REAL", 3.5),
        ("TIME_TO_REAL(T#1500ms)", "REAL", 1.5),
        ("TIME_TO_DINT(T#2m)", "DINT", 120),
        ("REAL_TO_TIME(0.25)", "TIME", 0.25),
        ("INT_TO_TIME(3)", "TIME", 3.0),
        ("TO_INT(2.0) + TO_INT(TRUE)", "INT", 3),
    ],
)
def test_a_standard_function_gives_its_value_in_its_type(text: str, of: str, expected: Any) -> None:
    result = value(text, of)
    assert result == expected
    assert type(result) is type(expected)


# ------------------------------------------------------------------------------------------------- standard blocks


def trace(
    declarations: str, body: str, steps: list[tuple[float, dict[str, Any]]], *outputs: str
) -> list[Any]:
    """The outputs after each scan, at given times with given inputs."""
    instance = compile_program(program(declarations, body)).instantiate()
    rows = []
    for now, inputs in steps:
        instance.memory.update(inputs)
        instance.scan(now)
        rows.append(tuple(instance.memory[name] for name in outputs))
    return rows if len(outputs) > 1 else [row[0] for row in rows]


TIMER = "VAR x, q : BOOL; et : TIME; t : {0}; END_VAR"


def test_ton_waits_for_an_unbroken_input() -> None:
    steps = [
        (0.0, {"x": True}),
        (1.0, {}),
        (1.5, {"x": False}),
        (2.0, {"x": True}),
        (3.9, {}),
        (4.0, {}),
        (9.0, {}),
    ]
    assert trace(TIMER.format("TON"), "t(IN := x, PT := T#2s, Q => q, ET => et);", steps, "q", "et") == [
        *((False, 0.0), (False, 1.0), (False, 0.0), (False, 0.0)),
        *((False, 1.9), (True, 2.0), (True, 2.0)),
    ]


def test_a_timer_is_not_late_for_the_rounding_of_the_scan_clock() -> None:
    now, steps = 0.0, list[tuple[float, dict[str, Any]]]()
    for _ in range(32):
        steps.append((now, {"x": True}))
        now += 0.1  # the thirty-first sum is 3.0000000000000013, the tenth 0.9999999999999999
    assert trace(TIMER.format("TON"), "t(IN := x, PT := T#1s); q := t.Q;", steps, "q").index(True) == 10


def test_tof_holds_after_the_input_is_gone() -> None:
    steps = [
        (0.0, {}),
        (1.0, {"x": True}),
        (2.0, {"x": False}),
        (3.0, {}),
        (3.5, {"x": True}),
        (4.0, {"x": False}),
    ]
    steps += [(5.9, {}), (6.0, {}), (7.0, {})]
    assert trace(TIMER.format("TOF"), "t(IN := x, PT := T#2s); q := t.Q;", steps, "q") == [
        *(False, True, True, True, True, True, True, False, False)
    ]


def test_tp_gives_one_pulse_an_edge_that_cannot_be_extended() -> None:
    steps = [(0.0, {"x": True}), (1.0, {"x": False}), (1.5, {"x": True}), (2.0, {}), (3.0, {})]
    steps += [(4.0, {"x": False}), (5.0, {"x": True}), (7.0, {})]
    body = "t(IN := x, PT := T#2s); q := t.Q; et := t.ET;"
    assert trace(TIMER.format("TP"), body, steps, "q", "et") == [
        *((True, 0.0), (True, 1.0), (True, 1.5), (False, 2.0), (False, 2.0)),
        *((False, 0.0), (True, 0.0), (False, 2.0)),
    ]


def test_counters_count_edges_and_stop_at_the_ends_of_their_range() -> None:
    declarations = "VAR x, y, r, l, q, d : BOOL; n : INT; c : {0}; END_VAR"
    edges = [
        (0.0, {"x": True}),
        (1.0, {}),
        (2.0, {"x": False}),
        (3.0, {"x": True}),
        (4.0, {"r": True}),
        (5.0, {"r": False}),
    ]
    body = "c(CU := x, R := r, PV := 2); n := c.CV; q := c.Q;"
    assert trace(declarations.format("CTU"), body, edges, "n", "q") == [
        *((1, False), (1, False), (1, False), (2, True), (0, False), (0, False))
    ]
    edges = [(0.0, {"l": True}), (1.0, {"l": False, "x": True}), (2.0, {"x": False}), (3.0, {"x": True})]
    body = "c(CD := x, LD := l, PV := 2); n := c.CV; q := c.Q;"
    assert trace(declarations.format("CTD"), body, edges, "n", "q") == [
        (2, False),
        (1, False),
        (1, False),
        (0, True),
    ]
    body = "c(CU := x, PV := 32767, R := FALSE); c(CU := FALSE); n := c.CV;"
    compiled = compile_program(program(declarations.format("CTU"), body)).instantiate()
    compiled.block("c")["CV"] = 32766
    compiled.memory["x"] = True
    for _ in range(3):
        compiled.scan(0.0)
    assert compiled.memory["n"] == 32767


def test_ctud_counts_both_ways_and_ignores_two_edges_at_once() -> None:
    declarations = "VAR x, y, r, l, q, d : BOOL; n : INT; c : CTUD; END_VAR"
    body = "c(CU := x, CD := y, R := r, LD := l, PV := 3, QU => q, QD => d, CV => n);"
    steps: list[tuple[float, dict[str, Any]]] = [
        *((0.0, {"l": True}), (1.0, {"l": False, "x": True, "y": True}), (2.0, {"x": False, "y": False})),
        *((3.0, {"y": True}), (4.0, {"y": False, "x": True}), (5.0, {"r": True, "l": True})),
    ]
    assert trace(declarations, body, steps, "n", "q", "d") == [
        *((3, True, False), (3, True, False), (3, True, False)),
        *((2, False, False), (3, True, False), (0, False, True)),
    ]


def test_edges_last_one_scan_and_a_low_start_is_no_falling_edge() -> None:
    declarations = "VAR x, up, down : BOOL; r : R_TRIG; f : F_TRIG; END_VAR"
    steps = [(float(n), {"x": x}) for n, x in enumerate([False, True, True, False, False])]
    assert trace(declarations, "r(CLK := x, Q => up); f(CLK := x, Q => down);", steps, "up", "down") == [
        *((False, False), (True, False), (False, False), (False, True), (False, False))
    ]


def test_sr_is_set_dominant_and_rs_is_reset_dominant() -> None:
    declarations = "VAR s, r, a, b : BOOL; x : SR; y : RS; END_VAR"
    inputs = [(True, False), (False, False), (True, True), (False, True), (False, False)]
    steps = [(float(n), {"s": s, "r": r}) for n, (s, r) in enumerate(inputs)]
    assert trace(declarations, "x(s, r); y(S := s, R1 := r); a := x.Q1; b := y.Q1;", steps, "a", "b") == [
        *((True, True), (True, True), (True, False), (False, False), (False, False))
    ]


def test_an_input_not_named_in_a_call_keeps_its_value() -> None:
    steps: list[tuple[float, dict[str, Any]]] = [(0.0, {}), (1.0, {}), (2.0, {})]
    declarations = "VAR q : BOOL; t : TON := (IN := TRUE); END_VAR"
    assert trace(declarations, "t.PT := T#2s; t(); q := t.Q AND t.IN;", steps, "q") == [False, False, True]


PID = "VAR auto : BOOL := TRUE; pv, sp, man, out : REAL; p : PID := ({0}); END_VAR"
PID_CALL = "p(AUTO := auto, PV := pv, SP := sp, MANUAL := man, OUT => out);"


def seconds(count: int, start: int = 0, **inputs: Any) -> list[tuple[float, dict[str, Any]]]:
    return [(float(start + n), inputs) for n in range(count)]


def test_pid_proportional_part_is_the_gain_times_the_error_within_limits() -> None:
    outputs = trace(
        PID.format("KP := 2.0"),
        PID_CALL,
        [(0.0, {"sp": 10.0}), (1.0, {"sp": 80.0}), (2.0, {"sp": -1.0})],
        "out",
    )
    assert outputs == [20.0, 100.0, 0.0]


def test_pid_integral_adds_the_proportional_part_once_every_ti() -> None:
    outputs = trace(PID.format("KP := 2.0, TI := T#5s"), PID_CALL, seconds(11, sp=10.0), "out")
    assert outputs[0] == 20.0
    assert outputs[5] == pytest.approx(40.0)
    assert outputs[10] == pytest.approx(60.0)


def test_pid_does_not_wind_up_at_a_limit() -> None:
    """After any time at the limit the output leaves it as soon as the error changes sign."""
    steps = seconds(1000, sp=90.0) + seconds(2, start=1000, pv=91.0)
    outputs = trace(PID.format("KP := 2.0, TI := T#10s"), PID_CALL, steps, "out")
    assert outputs[999] == 100.0
    assert outputs[1000] < 100.0


def test_pid_derivative_sees_the_measurement_and_not_the_setpoint() -> None:
    settings_ = "TD := T#10s, OUT_MIN := -100.0"
    steps = [(0.0, {}), (1.0, {"sp": 5.0}), (2.0, {"pv": 1.0})]
    outputs = trace(PID.format(settings_), PID_CALL, steps, "out")
    assert outputs[1] == 5.0
    # TD/(TD + N dt) = 0.5, so one step of the measurement gives -0.5 * KP * N = -5.
    assert outputs[2] == pytest.approx(5.0 - 1.0 - 5.0)


def test_pid_changes_between_manual_and_automatic_without_a_bump() -> None:
    steps = seconds(20, sp=10.0) + seconds(5, start=20, auto=False, sp=10.0)
    steps += seconds(3, start=25, man=70.0, pv=8.0) + seconds(3, start=28, auto=True)
    outputs = trace(PID.format("KP := 2.0, TI := T#20s"), PID_CALL, steps, "out")
    assert outputs[20:25] == [outputs[19]] * 5
    assert outputs[25:28] == [70.0] * 3
    # One second of integral action on the error of 2 is all that moves it.
    assert outputs[28] == pytest.approx(70.0 + 2.0 * 2.0 / 20.0)


def test_pid_holds_a_first_order_plant_at_its_setpoint() -> None:
    instance = compile_program(
        program(PID.format("KP := 3.0, TI := T#8s, TD := T#1s"), PID_CALL)
    ).instantiate()
    level = 0.0
    for n in range(600):
        instance.memory.update(pv=level, sp=40.0)
        instance.scan(n * 0.5)
        level += 0.5 * (instance.memory["out"] - level) / 20.0
    assert level == pytest.approx(40.0, abs=0.01)


# ------------------------------------------------------------------------------------------------- user units


PULSES = """
FUNCTION_BLOCK Pulses
VAR_INPUT on : BOOL; every : TIME := T#1s; END_VAR
VAR_OUTPUT count : INT; END_VAR
VAR t : TON; history : ARRAY[0..3] OF INT; END_VAR
t(IN := on AND NOT t.Q, PT := every);
IF t.Q THEN count := count + 1; history[count MOD 4] := count; END_IF;
END_FUNCTION_BLOCK
"""


def test_a_user_block_holds_standard_blocks_and_keeps_its_state_apart() -> None:
    declarations = "VAR a : Pulses; b : PULSES := (every := T#2s); na, nb : INT; END_VAR"
    instance = compile_program(
        program(declarations, "a(on := TRUE, COUNT => na); b(TRUE, T#2s); nb := b.count;", PULSES)
    ).instantiate()
    for n in range(9):
        instance.scan(float(n))
    assert instance.memory == {"na": 3, "nb": 2}


def test_a_function_computes_from_its_inputs_and_forgets() -> None:
    units = """
    FUNCTION Scale : REAL
    VAR_INPUT raw : INT; low : REAL; high : REAL := 100.0; END_VAR
    VAR calls : INT; END_VAR
    calls := calls + 1;
    IF raw < 0 THEN Scale := low; RETURN; END_IF;
    Scale := low + INT_TO_REAL(raw) / 1000.0 * (high - low) + INT_TO_REAL(calls - 1);
    END_FUNCTION
    """
    assert value("Scale(500, 0.0, 10.0) + scale(raw := 250, low := 0)", "REAL", units=units) == 30.0
    assert value("Scale(-1, 7, 10)", "REAL", units=units) == 7.0
    assert "Scale takes 3 arguments, not 1" in only_problem("VAR r : REAL; END_VAR", "r := Scale(1);", units)


def test_a_function_takes_an_array_by_reference() -> None:
    units = """
    FUNCTION Total : INT
    VAR_IN_OUT cells : ARRAY[1..3] OF INT; END_VAR
    VAR i : INT; END_VAR
    FOR i := 1 TO 3 DO Total := Total + cells[i]; cells[i] := 0; END_FOR;
    END_FUNCTION
    """
    declarations = "VAR a : ARRAY[1..3] OF INT := [1, 2, 3]; n, m : INT; END_VAR"
    memory = after_scan(declarations, "n := Total(a); m := Total(cells := a);", units)
    assert (memory["n"], memory["m"]) == (6, 0)
    wrong = only_problem("VAR a : ARRAY[1..4] OF INT; n : INT; END_VAR", "n := Total(a);", units)
    assert "VAR_IN_OUT cells is ARRAY[1..4] OF INT, not ARRAY[1..3] OF INT" in wrong
    assert (
        "needs its VAR_IN_OUT cells" in problems(program("VAR n : INT; END_VAR", "n := Total();", units))[0]
    )


def test_a_block_changes_what_it_is_given_in_out() -> None:
    units = """
    FUNCTION_BLOCK Step
    VAR_IN_OUT n : INT; t : TON; END_VAR
    n := n + 1;
    t(IN := TRUE, PT := T#1s);
    END_FUNCTION_BLOCK
    """
    declarations = "VAR s : Step; timer : TON; a : INT; b : ARRAY[1..2] OF INT; c : INT; done : BOOL; END_VAR"
    body = "s(n := a, t := timer); s(n := b[2], t := timer); c := b[2]; done := timer.Q;"
    instance = compile_program(program(declarations, body, units)).instantiate()
    instance.scan(0.0)
    instance.scan(1.0)
    assert instance.memory == {"a": 2, "c": 2, "done": True}
    assert "Step needs its VAR_IN_OUT t" in only_problem(declarations, "s(n := a);", units)
    assert "VAR_IN_OUT n is REAL, not INT" in only_problem(
        "VAR s : Step; x : TON; r : REAL; END_VAR", "s(r, x);", units
    )
    assert "only a variable can take this value" in only_problem(
        declarations, "s(n := 1, t := timer);", units
    )


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ("FUNCTION F : INT F := F() + 1; END_FUNCTION", "F would contain or call itself"),
        (
            "FUNCTION F : INT F := G(); END_FUNCTION FUNCTION G : INT G := F(); END_FUNCTION",
            "would contain or call itself",
        ),
        (
            "FUNCTION_BLOCK A VAR b : B; END_VAR END_FUNCTION_BLOCK "
            "FUNCTION_BLOCK B VAR a : A; END_VAR END_FUNCTION_BLOCK",
            "itself",
        ),
        ("FUNCTION_BLOCK TON END_FUNCTION_BLOCK", "'TON' is a standard block"),
        ("FUNCTION Sqrt : REAL END_FUNCTION", "'Sqrt' is a name of the language"),
        ("FUNCTION int_to_real : REAL END_FUNCTION", "'int_to_real' is a name of the language"),
        ("FUNCTION Main : REAL END_FUNCTION", "'Main' is already declared"),
        ("FUNCTION F : REAL VAR_OUTPUT q : BOOL; END_VAR END_FUNCTION", "a FUNCTION has one result"),
        ("FUNCTION F : REAL VAR_IN_OUT q : BOOL; END_VAR END_FUNCTION", "a FUNCTION has one result"),
        ("FUNCTION F : REAL VAR t : TON; END_VAR END_FUNCTION", "a FUNCTION cannot hold a block"),
        ("FUNCTION F : TON END_FUNCTION", "unknown type 'TON'"),
        ("FUNCTION_BLOCK A VAR x : TIME; END_VAR x := NOW; END_FUNCTION_BLOCK", "unknown variable 'NOW'"),
    ],
)
def test_a_wrong_unit_is_told_in_words(units: str, message: str) -> None:
    assert message in problems(program("", "", units))[0]


# ------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("i := 1 / i;", "division by zero"),
        ("i := 1 MOD i;", "division by zero"),
        ("r := 1.0 / r;", "division by zero"),
        ("t := t / i;", "division by zero"),
        ("i := a[i];", "array index 0 is outside 1..3"),
        ("a[i - 1] := 1;", "array index -1 is outside 1..3"),
        ("a[4] := 1;", "array index 4 is outside 1..3"),
        ("r := SQRT(r - 1);", "a function was given a value it has no result for"),
        ("r := (r - 8) ** 0.5;", "a function was given a value it has no result for"),
        ("r := LN(r);", "a function was given a value it has no result for"),
        ("r := EXP(r + 1000);", "a number is out of range"),
        ("r := 10.0 ** 400;", "a number is out of range"),
        ("i := REAL_TO_INT(1.0e308 * 10.0);", "a number is out of range"),
        ("i := MUX(i - 1, 1, 2);", "MUX selects -1 of 0 to 1"),
        ("w := SHL(w, i - 1);", "a shift by -1 bits"),
        ("FOR i := 1 TO 2 BY r2 DO END_FOR;", "the step of a FOR is zero"),
        ("WHILE TRUE DO END_WHILE;", "watchdog: more than 1,000,000 operations in one scan"),
        ("REPEAT CONTINUE; UNTIL FALSE END_REPEAT;", "watchdog"),
        ("FOR l := 1 TO 9223372036854775807 DO END_FOR;", "watchdog"),
        ("FOR l := 1 TO 2000 DO FOR k := 1 TO 2000 DO i := 1; END_FOR; END_FOR;", "watchdog"),
    ],
)
def test_a_fault_names_the_program_the_line_and_the_reason(body: str, reason: str) -> None:
    declarations = (
        "VAR i, r2 : INT; r : REAL; t : TIME; w : WORD; l, k : LINT; a : ARRAY[1..3] OF INT; END_VAR"
    )
    instance = compile_program(f"PROGRAM Main\n{declarations}\n\n\n{body}\nEND_PROGRAM").instantiate()
    with pytest.raises(LogicFault) as caught:
        instance.scan(0.0)
    assert str(caught.value).startswith("program Main, line 5: ")
    assert reason in caught.value.reason
    assert (caught.value.program, caught.value.line) == ("Main", 5)
    assert isinstance(caught.value, OtlabError)


def test_a_fault_keeps_its_parts_on_the_way_out_of_a_worker_process() -> None:
    fault = pickle.loads(pickle.dumps(LogicFault("Main", 5, "division by zero")))
    assert (str(fault), fault.program, fault.line) == ("program Main, line 5: division by zero", "Main", 5)


def test_a_fault_inside_a_block_names_the_line_in_the_block() -> None:
    units = "FUNCTION_BLOCK Divide\nVAR_INPUT d : INT; END_VAR VAR n : INT; END_VAR\n\nn := 1 / d;\nEND_FUNCTION_BLOCK"
    instance = compile_program(program("VAR d : Divide; END_VAR", "d();", units)).instantiate()
    with pytest.raises(LogicFault, match="line 4: division by zero"):
        instance.scan(0.0)


def test_a_fault_inside_a_standard_block_names_the_line_of_the_call() -> None:
    instance = compile_program(program("VAR p : PID; END_VAR", "\n\np(TD := T#1s);")).instantiate()
    instance.scan(0.0)
    with pytest.raises(LogicFault, match="line 6: division by zero"):
        instance.scan(-0.1)  # a clock that goes back cancels the time constant of the derivative's filter


def test_what_was_assigned_before_a_fault_stays_and_the_next_scan_starts_afresh() -> None:
    declarations = "VAR_INPUT d : INT; END_VAR VAR n, m : INT; END_VAR"
    instance = compile_program(program(declarations, "n := n + 1; m := 10 / d; n := n + 10;")).instantiate()
    with pytest.raises(LogicFault):
        instance.scan(0.0)
    assert instance.memory["n"] == 1
    instance.memory["d"] = 5
    instance.scan(1.0)
    assert (instance.memory["n"], instance.memory["m"]) == (12, 2)


def test_the_watchdog_is_wound_up_at_each_scan() -> None:
    body = "FOR i := 1 TO 30000 DO n := n + 1; END_FOR;"
    instance = compile_program(program("VAR i : INT; n : UDINT; END_VAR", body)).instantiate()
    for _ in range(10):
        instance.scan(0.0)
    assert instance.memory["n"] == 300_000


def test_the_watchdog_counts_calls_that_multiply_without_a_loop() -> None:
    units = "FUNCTION F0 : INT VAR_INPUT x : INT; END_VAR F0 := x; END_FUNCTION\n"
    for n in range(1, 30):
        units += f"FUNCTION F{n} : INT VAR_INPUT x : INT; END_VAR F{n} := F{n - 1}(x) + F{n - 1}(x); END_FUNCTION\n"
    with pytest.raises(LogicFault, match="watchdog"):
        after_scan("VAR n : INT; END_VAR", "n := F29(1);", units)


# ---------------------------------------------------------------------------------------------- limits and escape


def nested(opening: str, closing: str, depth: int, core: str = "") -> str:
    return opening * depth + core + closing * depth


def chain_of_functions(length: int) -> str:
    units = ["FUNCTION F0 : INT F0 := 1; END_FUNCTION"]
    units += [f"FUNCTION F{n} : INT F{n} := F{n - 1}(); END_FUNCTION" for n in range(1, length)]
    return "\n".join(reversed(units))


LIMITS = [
    ("i := " + nested("-(", ")", 65, "i") + ";", "the expression nests deeper than 64 operators"),
    ("i := " + "+".join(["i"] * 66) + ";", "the expression nests deeper than 64 operators"),
    ("i := " + nested("ABS(", ")", 65, "i") + ";", "the expression nests deeper than 64 operators"),
    ("i := " + nested("a[", "]", 65, "i") + ";", "the expression nests deeper than 64 operators"),
    ("i := " + nested("-(", ")", 10_000, "i") + ";", "the expression nests deeper than 64 operators"),
    ("w := " + " OR ".join(["w"] * 65) + ";", "more than 64 operands"),
    (nested("IF p THEN ", "END_IF; ", 33, "i := 1;"), "statements nest deeper than 32"),
    (nested("IF p THEN ", "END_IF; ", 3_000, "i := 1;"), "statements nest deeper than 32"),
    (nested("WHILE p DO ", "END_WHILE; ", 17), "loops nest deeper than 16"),
    ("IF p THEN " + "ELSIF p THEN " * 401 + "END_IF;", "more than 400 branches on one path"),
    (
        "CASE i OF " + "".join(f"{n}: ; " for n in range(402)) + "END_CASE;",
        "more than 400 branches on one path",
    ),
    ("i := 1; " * 9_000, "a program has at most 65536 bytes"),
]


@pytest.mark.parametrize(
    ("body", "message"), LIMITS, ids=[message + str(len(body)) for body, message in LIMITS]
)
def test_a_program_beyond_a_limit_is_refused_in_words(body: str, message: str) -> None:
    declarations = "VAR i : INT; w : WORD; p : BOOL; a : ARRAY[0..9] OF INT; END_VAR"
    assert message in problems(program(declarations, body))[0]


def test_calls_beyond_the_depth_limit_are_refused_in_either_order_of_declaration() -> None:
    for units in (chain_of_functions(900), "\n".join(reversed(chain_of_functions(900).split("\n")))):
        assert "calls go deeper than 32 units" in problems(program("", "", units))[0]
    assert value("F30()", "INT", units=chain_of_functions(31)) == 1


def test_blocks_that_multiply_their_cells_are_refused() -> None:
    units = "FUNCTION_BLOCK B0 VAR a : ARRAY[1..100] OF INT; END_VAR END_FUNCTION_BLOCK\n"
    for n in range(1, 25):
        units += f"FUNCTION_BLOCK B{n} VAR a, b : B{n - 1}; END_VAR END_FUNCTION_BLOCK\n"
    assert "values, at most 65536 fit" in problems(program("VAR b : B24; END_VAR", "", units))[0]


def test_a_unit_with_too_many_parameters_is_refused() -> None:
    inputs = ", ".join(f"a{n}" for n in range(101))
    units = f"FUNCTION F : INT VAR_INPUT {inputs} : INT; END_VAR END_FUNCTION"
    assert "F has 101 parameters, at most 100 fit" in problems(program("", "", units))[0]


def test_a_text_made_to_be_slow_to_check_gets_no_hints_and_no_room_for_its_arrays() -> None:
    long = [f"{'x' * 54}y{n}" for n in range(400)]
    declarations = f"VAR {', '.join(long)} : INT; END_VAR"
    found = problems(program(declarations, "".join(f"{'x' * 55}{n} := 1;" for n in range(400))))
    assert len(found) == 100
    assert not any("did you mean" in problem for problem in found)
    declarations = (
        "VAR " + "".join(f"a{n} : ARRAY[0..65000] OF INT := [65000(1)];" for n in range(1_300)) + " END_VAR"
    )
    assert "at most 65536 elements together" in problems(program(declarations, ""))[0]


def test_text_that_is_not_unicode_is_refused() -> None:
    assert problems("PROGRAM Main\n(* \ud800 *) END_PROGRAM") == [
        "main.st:2:1: the text is not valid Unicode"
    ]


def test_a_text_full_of_mistakes_reports_the_first_hundred() -> None:
    assert len(problems(program("", "\n".join(f"name_number_{n} := 1;" for n in range(2_000))))) == 100


DEEPEST = {
    "minus": "i := " + nested("-(", ")", 63, "i") + ";",
    "sum": "i := " + "+".join(["i"] * 64) + ";",
    "right sum": "i := " + nested("i-(", ")", 63, "i") + ";",
    "product": "i := " + nested("i*(", ")", 63, "i") + ";",
    "division": "i := " + nested("(", "/i)", 63, "i") + ";",
    "compare": "p := " + nested("p=(", ")", 63, "p") + ";",
    "xor": "p := " + nested("p XOR (", ")", 63, "p") + ";",
    "not": "p := " + nested("NOT (", ")", 63, "p") + ";",
    "or and": "p := " + nested("p OR (p AND (", "))", 31, "p") + ";",
    "power": "r := " + nested("r**(", ")", 63, "r") + ";",
    "bits": "w := " + nested("NOT (w OR (", "))", 31, "w") + ";",
    "sel": "i := " + nested("SEL(p, i, ", ")", 63, "i") + ";",
    "sel of sums": "i := " + nested("SEL(i+i > 1, i, 1 - ", ")", 31, "i") + ";",
    "index": "i := " + nested("a[i+", "]", 31, "i") + ";",
    "conversion": "i := " + nested("REAL_TO_INT(INT_TO_REAL(", "))", 31, "i") + ";",
    "wide": "l := " + nested("l*(l+", ")", 31, "l") + ";",
    "wide compare": "p := " + nested("(l*l*l*l", ")", 1, "") + " > l*l*l;",
    "if": nested("IF p THEN ", "END_IF; ", 31, "i := " + "+".join(["i"] * 64) + ";"),
    "while": nested("WHILE NOT p DO p := TRUE; ", "END_WHILE; ", 16, "i := 1;"),
    "for": nested("FOR j := 1 TO 1 DO ", "END_FOR; ", 1, "i := 1;"),
    "elsif": "IF p THEN " + "ELSIF p THEN i := 2; " * 398 + "ELSE i := " + "+".join(["i"] * 64) + "; END_IF;",
    "case": "CASE i OF " + "".join(f"{n}: i := 1; " for n in range(399)) + "END_CASE;",
    "elsif in elsif": "IF p THEN "
    + "ELSIF p THEN ; " * 199
    + "ELSE IF p THEN "
    + "ELSIF p THEN ; " * 199
    + "END_IF; END_IF;",
    "and chain": "p := " + " AND ".join(["p"] * 5_000) + ";",
}


@pytest.mark.parametrize("body", DEEPEST.values(), ids=DEEPEST)
def test_the_deepest_programs_allowed_run(body: str) -> None:
    declarations = "VAR i, j : INT; r : REAL; w : WORD; p : BOOL; l : LINT; a : ARRAY[-9..9] OF INT; END_VAR"
    instance = compile_program(program(declarations, body)).instantiate()
    instance.memory["i"] = 0 if "a[" in body else 1
    instance.scan(0.0)


CORPUS = [
    STAGE_1,
    program(PID.format("KP := 2.0, TI := T#5s"), PID_CALL),
    program(
        "VAR a : Pulses; x : INT; END_VAR", "a(on := x > 3); x := x + a.count - SHOW(x, 3);", PULSES
    ).replace(
        "PROGRAM Main",
        "FUNCTION SHOW : INT VAR_INPUT a, b : INT; END_VAR SHOW := a MOD b; END_FUNCTION PROGRAM Main",
    ),
    program(
        "VAR CONSTANT K : INT := 3; END_VAR VAR i, j : INT; u : UDINT; r : REAL; l : LREAL; w : WORD; "
        "p : BOOL; t : TIME; a : ARRAY[1..5] OF INT := [1, 3(2)]; c : CTUD; END_VAR",
        "CASE i OF 1, 4..5: j := a[i]; K: j := 2; ELSE j := -i; END_CASE;\n"
        "FOR i := 1 TO 5 BY 2 DO a[i] := a[i] * j / 3 - K; IF i = j THEN EXIT; END_IF; END_FOR;\n"
        "WHILE u < 10 AND NOT p DO u := u + 1; END_WHILE; REPEAT j := j + 1; UNTIL j > 3 END_REPEAT;\n"
        "r := LIMIT(0, SQRT(ABS(r)) + LN(2.5) ** 2, 10); l := r * 2; w := SHL(w, 1) OR 16#1 XOR INT_TO_WORD(i);\n"
        "c(CU := p, PV := 3, QU => p); t := t + T#1s500ms * 2; p := r >= 2.0 XOR p; j := MUX(j MOD 2, a[1], a[2]);\n"
        "j := SEL(p, REAL_TO_INT(r), REAL_TRUNC_INT(2.5)); RETURN;",
    ),
]
TOKENS = sorted(
    {
        token
        for text in CORPUS
        for token in re.findall(r"[A-Za-z_#][A-Za-z0-9_#.]*|[0-9.]+|:=|=>|\*\*|<>|\(\*|\*\)|//|\S", text)
    }
    | {
        "VAR_IN_OUT",
        "FUNCTION_BLOCK",
        "TON",
        "PID",
        "__import__",
        "__class__",
        "eval",
        "exec",
        "lambda",
        "None",
    }
    | {
        "99999999999999999999",
        "1e5",
        "'",
        '"',
        "\\",
        "{",
        "}",
        "\n",
        "T#1h",
        "INT#5",
        "16#FF",
        "..",
        "import",
    }
)


def scan_twice(compiled: Program, seed: int) -> None:
    """Scan with inputs from all over the range of each type; only a `LogicFault` may come out."""
    draws = random.Random(seed)
    instance: ProgramInstance = compiled.instantiate()
    lines: list[int] = []
    for now in (0.0, 1.5):
        for name in instance.memory:
            of = structured_text.ELEMENTARY[compiled.variables[name].type]
            if of.kind in ("real", "time"):
                instance.memory[name] = draws.choice(
                    [0.0, -1.5, 1e308, math.inf, -math.inf, math.nan, draws.random()]
                )
            else:
                instance.memory[name] = draws.choice([of.low, of.high, 0, draws.randint(of.low, of.high)])
            if of.kind == "bool":
                instance.memory[name] = draws.random() < 0.5
        try:
            instance.scan(now)
        except LogicFault as caught:
            lines.append(caught.line)
        for name, cell in instance.memory.items():
            of = structured_text.ELEMENTARY[compiled.variables[name].type]
            assert type(cell) is {"bool": bool, "real": float, "time": float}.get(of.kind, int)
            assert isinstance(cell, float) or of.low <= cell <= of.high
    assert all(1 <= line <= compiled.source.count("\n") + 1 for line in lines)


ALLOWED_NODES = (
    *(
        ast.Module,
        ast.FunctionDef,
        ast.arguments,
        ast.arg,
        ast.Assign,
        ast.AugAssign,
        ast.Expr,
        ast.Return,
        ast.Pass,
    ),
    *(
        ast.If,
        ast.While,
        ast.For,
        ast.Break,
        ast.Continue,
        ast.IfExp,
        ast.BoolOp,
        ast.BinOp,
        ast.UnaryOp,
        ast.Compare,
    ),
    *(ast.Call, ast.Name, ast.Subscript, ast.Attribute, ast.Constant, ast.List, ast.Starred),
    *(ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop),
)
ALLOWED_NAME = re.compile(
    r"s|m|b|d|v[0-9]+|unit[0-9]+|standard[0-9]+|" + "|".join(structured_text.RUNTIME_NAMES)
)


def audit(python: str) -> None:
    """The Python of a program stays inside the few things that translated code may be made of."""
    for node in ast.walk(ast.parse(python)):
        assert isinstance(node, ALLOWED_NODES), node
        if isinstance(node, (ast.Name, ast.FunctionDef, ast.arg)):
            name = {ast.Name: "id", ast.FunctionDef: "name", ast.arg: "arg"}[type(node)]
            assert ALLOWED_NAME.fullmatch(getattr(node, name)), ast.dump(node)
        if isinstance(node, ast.Attribute):
            assert isinstance(node.value, ast.Name)
            assert (node.value.id, node.attr) in {("s", "now"), ("s", "budget")}
        if isinstance(node, ast.Call):
            assert isinstance(node.func, ast.Name)
        if isinstance(node, ast.Constant):
            assert node.value is not None
            assert not isinstance(node.value, str) or re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", node.value)


def survives(text: str, seed: int = 0) -> bool:
    """Compile and run ``text``; whether it compiled. Anything but the two documented errors fails the test."""
    try:
        compiled = logic._compiled.__wrapped__(text)
    except DocumentError as error:
        found = error.problems
    else:
        audit(compiled.python)
        scan_twice(compiled, seed)
        return True
    assert found
    assert all(problem.line >= 1 and problem.column >= 1 and problem.message for problem in found)
    return False


@pytest.mark.parametrize("text", CORPUS, ids=range(len(CORPUS)))
def test_the_programs_that_the_next_tests_start_from_run(text: str) -> None:
    assert survives(text)


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=200) | st.text(string.printable, max_size=200))
def test_arbitrary_text_is_at_most_a_wrong_document(text: str) -> None:
    survives(text)
    survives(program("VAR a : INT; b : BOOL; END_VAR", text))


@settings(max_examples=150, deadline=None)
@given(tokens=st.lists(st.sampled_from(TOKENS), max_size=40))
def test_any_order_of_words_is_at_most_a_wrong_document(tokens: list[str]) -> None:
    survives(" ".join(tokens))
    survives(program("VAR a, i : INT; r : REAL; t1 : TON; p : BOOL; END_VAR", " ".join(tokens)))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_mutated_program_is_a_wrong_document_or_runs_within_its_memory(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(CORPUS))
    pieces = re.findall(r"\s+|[A-Za-z_][A-Za-z0-9_]*|[0-9.]+|:=|\S", text)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(pieces) - 1))
        until = at + data.draw(st.integers(0, 3))
        replacement = data.draw(st.lists(st.sampled_from(TOKENS) | st.sampled_from(pieces), max_size=2))
        pieces[at:until] = [f" {piece} " for piece in replacement]
        assume(pieces)
    survives("".join(pieces), seed=data.draw(st.integers(0, 99)))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_program_with_one_name_or_number_changed_keeps_every_cell_in_its_type(data: st.DataObject) -> None:
    """Most of these still compile, so this is the test that reaches the run time."""
    text = data.draw(st.sampled_from(CORPUS))
    words = [match.span() for match in re.finditer(r"\b(?:[a-z]|[0-9]+)\b", text)]
    start, end = data.draw(st.sampled_from(words)) if words else (0, 0)
    with_ = data.draw(
        st.sampled_from(["i", "j", "r", "p", "x", "a[i]", "0", "1", "-1", "32767", "2.5", "(i + 1)", "K"])
    )
    survives(text[:start] + with_ + text[end:], seed=data.draw(st.integers(0, 99)))


@pytest.mark.parametrize(
    "hostile",
    [
        "__import__('os').system('true')",
        "().__class__.__bases__[0]",
        "m['a']",
        "s.budget",
        "eval(a)",
        "overrun()",
        "divide(1, 2)",
        "standard0(1)",
        "lambda: 0",
        "a if b else c",
        "[x for x in a]",
        'f"{a}"',
        "1); import os; (1",
        "a\n import os",
        "(* *) __builtins__",
        "$a",
        "`a`",
    ],
)
def test_python_in_a_program_is_not_run(hostile: str) -> None:
    assert problems(program("VAR a, b, c : INT; END_VAR", f"a := {hostile};"))
    assert problems(program("VAR a, b, c : INT; END_VAR", f"{hostile};"))


def test_names_of_python_are_ordinary_names_of_variables() -> None:
    names = [
        "None_",
        "True_",
        "lambda",
        "import",
        "class",
        "def",
        "__class__",
        "__builtins__",
        "s",
        "m",
        "b",
        "d",
        "v1",
        "unit0",
    ]
    names += ["divide", "overrun", "self", "del", "yield"]
    declarations = f"VAR {', '.join(names)} : INT; END_VAR"
    body = " ".join(f"{name} := {name} + {n};" for n, name in enumerate(names))
    compiled = compile_program(program(declarations, body))
    audit(compiled.python)
    instance = compiled.instantiate()
    instance.scan(0.0)
    assert list(instance.memory.values()) == list(range(len(names)))


def test_the_run_time_offers_exactly_the_names_that_translated_code_uses() -> None:
    assert set(logic._RUNTIME) == set(structured_text.RUNTIME_NAMES)
