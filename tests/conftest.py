"""Async tests run on the virtual loop unless they are marked ``realtime``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
from hypothesis import settings

from testbed.network import networked_loop

# No test is judged by how long it took: a machine that is busy with something else must not fail it.
settings.register_profile("otlab", deadline=None)
settings.load_profile("otlab")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """One factory per test, so that no test runs twice: the loop of ``testbed.clock`` or asyncio's own.

    The virtual loop comes with one host, ``localhost``; a test that needs zones builds its own ``Network`` on it.
    """
    if item.get_closest_marker("realtime") is not None:
        return {"realtime": asyncio.new_event_loop}
    return {"virtual": networked_loop}
