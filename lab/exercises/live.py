"""The live run of an exercise, as the student sees it: the station's pages and the sockets, and nothing else.

The console's address is not told, because the console shows what happens in the run. Pages of the live lab know nothing
of exercises: no check, hint or answer is in that process's reach over its address.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab.exercises.evidence import live_setup
from lab.exercises.model import Exercise
from lab.live_commands import hold, need_extra
from testbed.errors import OtlabError

if TYPE_CHECKING:
    from lab.live.serve import Place


def host(
    exercise: Exercise,
    seed: int,
    folder: Path,
    *,
    speed: float = 1.0,
    port: int = 0,
    ports: tuple[int, ...] = (),
    again: bool = False,
    terminal: bool = False,
) -> None:
    """Run it until Ctrl-C or its end, and keep its inputs in ``folder``."""
    need_extra()  # before an earlier run is thrown away
    setup = live_setup(exercise, seed, ports)
    live = exercise.live
    assert live is not None
    if folder.exists():
        if not again:
            raise OtlabError(f"{folder} holds a run already; --again throws it away")
        shutil.rmtree(folder)

    def say(place: Place) -> None:
        click.echo(f"{exercise.title}: at least {live.lasts:g} s, at {speed:g} times real time")
        if live.station is not None:
            click.echo(f"station     {place.login(place.tokens.student)}")
        for one, (address, number) in zip(setup.attachments, place.attachments, strict=True):
            click.echo(f"socket      {address}:{number} reaches {one.target}:{one.port} from {one.zone}")
        click.echo("Ctrl-C ends the run; then: otlab exercise check FOLDER")

    hold(setup, folder, say, terminal, speed=speed, paused=False, host="127.0.0.1", port=port)
