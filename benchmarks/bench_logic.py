"""Time a scan and a compilation of PLC programs: ``python -m benchmarks.bench_logic``.

The statement measured is an assignment with a comparison and an AND; its cost includes the call of the scan,
shared out over the program's 60 statements. Each figure is the best of several repeats, so that other work on
the machine shows least.
"""

from __future__ import annotations

import sys
from time import perf_counter

from devices import logic
from devices.structured_text import _parser

STATEMENTS = 60
REPEATS = 7
TARGET = 2.0  # us a simple statement, at most

SIMPLE = "\n".join(
    [
        "PROGRAM Simple",
        "VAR_INPUT level : REAL := 600.0; auto : BOOL := TRUE; END_VAR",
        "VAR "
        + ", ".join(f"out{n}" for n in range(STATEMENTS))
        + " : BOOL; limit_sp : REAL := 500.0; END_VAR",
        *(f"out{n} := level > limit_sp AND auto;" for n in range(STATEMENTS)),
        "END_PROGRAM",
    ]
)
MIXED = "\n".join(
    [
        "PROGRAM Mixed",
        "VAR_INPUT level, flow : REAL := 600.0; auto : BOOL := TRUE; END_VAR",
        "VAR open, run : BOOL; n : INT; sum : REAL; a : ARRAY[1..10] OF REAL; i : INT; END_VAR",
        "VAR t : TON; edge : R_TRIG; count : CTU; fill : RS; loop : PID; END_VAR",
        *(
            "t(IN := auto, PT := T#5s); edge(CLK := t.Q);\n"
            "count(CU := edge.Q, PV := 10);\n"
            "fill(S := level < 500.0, R1 := level > 800.0);\n"
            "IF auto THEN open := fill.Q1; ELSE open := FALSE; END_IF;\n"
            "run := open AND NOT (flow > 900.0);\n"
            "n := n + count.CV; sum := 0.0;\n"
            "FOR i := 1 TO 10 DO a[i] := a[i] * 0.9 + level * 0.1; sum := sum + a[i]; END_FOR;\n"
            for _ in range(6)
        ),
        "loop(PV := sum / 10.0, SP := 600.0, KP := 2.0, TI := T#20s);",
        "END_PROGRAM",
    ]
)


def scan_time(text: str) -> float:
    """Seconds a scan, from the fastest of some batches."""
    instance, batch = logic.compile_program(text).instantiate(), 2_000
    best = float("inf")
    for _ in range(REPEATS):
        start = perf_counter()
        for scan in range(batch):
            instance.scan(scan * 0.4)
        best = min(best, (perf_counter() - start) / batch)
    return best


def compile_time(text: str) -> float:
    """Seconds to compile ``text`` when the parser is built and the text is new."""
    best = float("inf")
    for _ in range(REPEATS):
        logic._compiled.cache_clear()
        start = perf_counter()
        logic.compile_program(text)
        best = min(best, perf_counter() - start)
    return best


def main() -> int:
    """Print the figures; 1 when a simple statement takes longer than it should."""
    start = perf_counter()
    _parser()
    print(f"build the parser, once a process     {(perf_counter() - start) * 1e3:8.1f} ms")
    start = perf_counter()
    logic._standard()
    print(f"standard blocks, once a process      {(perf_counter() - start) * 1e3:8.1f} ms")
    for name, text in (("simple", SIMPLE), ("mixed", MIXED)):
        lines = text.count("\n") + 1
        print(f"compile '{name}' of {lines} lines           {compile_time(text) * 1e3:8.2f} ms")
        start = perf_counter()
        logic.compile_program(text)
        print(f"compile '{name}' again                {(perf_counter() - start) * 1e6:8.2f} us")
    print(f"scan 'mixed'                         {scan_time(MIXED) * 1e6:8.2f} us")
    statement = scan_time(SIMPLE) / STATEMENTS * 1e6
    print(f"simple statement                     {statement:8.3f} us (at most {TARGET})")
    return int(statement > TARGET)


if __name__ == "__main__":
    sys.exit(main())
