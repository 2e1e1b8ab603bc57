"""The bar that long commands show on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(title: str) -> Iterator[tuple[Callable[[], None], Callable[[int], None]]]:
    """A bar with the time left: what advances it by one, and what sets its length."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task(title, total=None)
        yield lambda: bar.advance(task), lambda total: bar.update(task, total=total)


@contextmanager
def counted(title: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar of a length that is known: what advances it by one."""
    with progress(title) as (advance, length):
        length(total)
        yield advance
