"""What a campaign makes of the cores: efficiency against one process, runs an hour, memory, and a store of many runs.

python benchmarks/bench_campaign.py [WORKERS]
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import duckdb

from controls.catalogue import SecurityLevels
from lab.campaign import run_all
from results.metrics import measure
from results.query import ask, write_table
from scenarios.experiment import Experiment, run

EACH, SECONDS, ROWS = 12, 600.0, 1_000_000


def work(experiment: Experiment) -> float:
    """One run; the most memory that this process has had so far (MB)."""
    run(experiment)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def campaign(workers: int) -> tuple[float, float]:
    """Runs a second with so many processes, each of them warm, and the largest of them in MB."""

    def experiments(count: int, first: int) -> list[tuple[Experiment]]:
        levels = SecurityLevels.uniform(2)
        return [
            (Experiment.at_level("water", levels, "unauthorized-write", first + seed, SECONDS),)
            for seed in range(count)
        ]

    list(run_all(work, experiments(2 * workers, 1000), workers, lambda: None))
    begun = perf_counter()
    memory = [mb for _, mb in run_all(work, experiments(EACH * workers, 1), workers, lambda: None)]
    return EACH * workers / (perf_counter() - begun), max(memory)


def store() -> tuple[float, float]:
    """Seconds of a grouped query over a million runs, and the file's MB."""
    record, _ = run(Experiment.at_level("water", SecurityLevels.uniform(0), None, 1, 60.0))
    with tempfile.TemporaryDirectory() as folder:
        one, many = Path(folder) / "one.parquet", Path(folder) / "many.parquet"
        write_table([measure(record, record, record)], one)
        # The same columns, with seeds, levels and shares that vary.
        duckdb.sql(
            f"COPY (SELECT rows.* REPLACE (i AS seed, i % 5 AS level, 'SL ' || (i % 5) AS profile,"
            f' 0.9 + (hash(i) % 1000) / 10000 AS "availability.control")'
            f" FROM read_parquet('{one}') AS rows, range({ROWS}) AS numbers(i)) TO '{many}' (FORMAT parquet)"
        )
        query = (
            'SELECT profile, count(*), avg("availability.control"), quantile_cont("availability.control", 0.05)'
            " FROM rows GROUP BY ALL ORDER BY ALL"
        )
        begun = perf_counter()
        _, found = ask(query, [many])
        took = perf_counter() - begun
        assert sum(row[1] for row in found) == ROWS
        return took, many.stat().st_size / 1e6


if __name__ == "__main__":
    workers = int(sys.argv[1]) if len(sys.argv) > 1 else os.cpu_count() or 1
    alone, mb = campaign(1)
    together, each_mb = campaign(workers)
    print(
        f"one process: {alone:.2f} runs/s of {SECONDS:g} s, {alone * SECONDS:.0f} simulated s/s, {mb:.0f} MB"
    )
    print(
        f"{workers} processes: {together:.2f} runs/s ({3600 * together:,.0f} an hour),"
        f" efficiency {together / (workers * alone):.2f}, {each_mb:.0f} MB each at most"
    )
    took, size = store()
    print(f"{ROWS:,} runs in Parquet ({size:.0f} MB): grouped query in {took:.2f} s")
