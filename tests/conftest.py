"""Async tests run on the virtual loop unless they are marked ``realtime``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

from testbed.network import networked_loop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """One factory per test, so that no test runs twice: the loop of ``testbed.clock`` or asyncio's own.

    The virtual loop comes with one host, ``localhost``; a test that needs zones builds its own ``Network`` on it.
    """
    if item.get_closest_marker("realtime") is not None:
        return {"realtime": asyncio.new_event_loop}
    return {"virtual": networked_loop}
