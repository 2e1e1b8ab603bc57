"""Attack-free runs for detectors to learn from: what a monitor's taps show of the process, and nothing more."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from devices.process_detectors import Record, learn
from devices.process_watch import SETTLED, ProcessWatch, judged, measured
from devices.world import World
from testbed.errors import OtlabError
from testbed.figures import load_figures
from testbed.site import Site

#: Seeds that training uses; campaigns begin at 1 and stay below.
FIRST_SEED = 900_001
SECONDS = 7200.0
RUNS = 6


def record_of(site: Site, seeds: Iterable[int], seconds: float = SECONDS) -> Record:
    """What the taps of the first monitor of ``site`` show in runs of ``seconds`` without controls and attacks.

    Raises OtlabError if the site has no monitor, or its taps show no values.
    """
    rows: list[dict[str, float]] = []
    starts = []
    for seed in seeds:
        starts.append(len(rows))
        rows += _samples(site, seed, seconds)
    tags = {
        name: tag for each in site.controllers().values() for name, tag in each.tags.items() if judged(tag)
    }
    seen = sorted(set.intersection(*(set(row) for row in rows))) if rows else []
    if not seen:
        raise OtlabError(f"site {site.name!r}: the monitor's taps show no values of the process")
    series = {tag: np.array([row[tag] for row in rows]) for tag in seen}
    return Record(
        {tag: each for tag, each in series.items() if measured(tags[tag])},
        {tag: each for tag, each in series.items() if not measured(tags[tag])},
        tuple(starts),
    )


def train(site: Site, runs: int = RUNS, seconds: float = SECONDS) -> dict[str, Any]:
    """What the detectors of ``site`` learn, ready to be written beside its file; raises OtlabError as ``record_of``."""
    record = record_of(site, range(FIRST_SEED, FIRST_SEED + runs), seconds)
    try:
        return {"runs": runs, "seconds": seconds, "first_seed": FIRST_SEED, "detectors": learn(record)}
    except ValueError as error:
        raise OtlabError(f"site {site.name!r}: {error}") from None


def _samples(site: Site, seed: int, seconds: float) -> list[dict[str, float]]:
    world = World(site, seed, load_figures())
    try:
        if not world.monitors:
            raise OtlabError(f"site {site.name!r} has no network monitor that could watch its process")
        monitor = next(iter(world.monitors.values()))
        controllers = {site.assets[name].address: each for name, each in site.controllers().items()}
        rows: list[dict[str, float]] = []
        watch = monitor.process = ProcessWatch(monitor.host, controllers)
        watch.on_sample.append(lambda time, values: rows.append(values) if time >= SETTLED else None)
        monitor.start()
        world.start()
        world.loop.run_to(seconds)
    finally:
        world.close()
    whole: dict[str, float] = {}
    for index, row in enumerate(rows):  # a value that came late once was the one before
        whole.update(row)
        rows[index] = dict(whole)
    return rows
