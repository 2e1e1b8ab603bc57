"""Runs on the workers of a Dask scheduler: more machines, the same rows."""

# distributed has no type annotations.
# mypy: disallow-untyped-calls=False
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lab.campaign import experiments_among
from testbed.errors import OtlabError, RunError


@dataclass(frozen=True, slots=True)
class Cluster:
    """Workers of a Dask scheduler at ``address`` (tcp://...), each with this version of the program installed."""

    address: str

    def run(
        self,
        function: Callable[..., Any],
        arguments: Sequence[tuple[Any, ...]],
        progress: Callable[[], None],
    ) -> Iterator[tuple[Any, Any]]:
        try:
            from distributed import Client, KilledWorker, as_completed
        except ImportError:
            raise OtlabError("a cluster needs the extra: pip install 'otlab[cluster]'") from None
        try:
            client = Client(self.address, timeout="10s")
        except (OSError, ValueError) as error:
            raise OtlabError(f"no scheduler at {self.address}: {error}") from None
        with client:
            # Not pure: equal arguments are equal runs, and the store already keeps those from being run twice.
            sent = {client.submit(function, *one, pure=False): one for one in arguments}
            try:
                for future in as_completed(list(sent)):
                    yield experiments_among(sent[future]), future.result()
                    progress()
            except KilledWorker as error:
                raise RunError(
                    f"workers of {self.address} died again and again on one run; finished runs are kept, and the same"
                    " command goes on from there"
                ) from error
