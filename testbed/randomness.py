"""One generator per named thing, all from one seed.

Adding a host, a sensor or an attacker never shifts another's draws, so two arms of a comparison share their
luck (common random numbers). Nothing here uses ``hash()``, the global generator or the operating system.
"""

from __future__ import annotations

import random


class Randomness:
    """Named random streams of one run."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._streams: dict[str, random.Random] = {}

    def stream(self, name: str) -> random.Random:
        """Return the generator called ``name``; the same object at every call within a run."""
        found = self._streams.get(name)
        if found is None:
            # random.Random seeds a str through SHA-512: stable in every process and Python version since 3.2.
            found = self._streams[name] = random.Random(f"{self.seed}:{name}")
        return found
