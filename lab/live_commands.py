"""``otlab live``: what its options come to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import click

from testbed.errors import OtlabError

if TYPE_CHECKING:
    from lab.live.serve import Place
    from lab.live.session import Setup
    from scenarios.experiment import Experiment

#: What of a run's folder is compared: the same run again has the same.
TRACE = "trace.jsonl"


def next_folder(parent: Path) -> Path:
    """The first of ``parent``/1, /2, ... that is not there yet: no run is written over another."""
    return next(folder for folder in (parent / str(number) for number in count(1)) if not folder.exists())


def host_lab(
    experiment: Experiment,
    attach: tuple[str, ...],
    folder: Path,
    pcap: bool,
    *,
    speed: float,
    paused: bool,
    host: str,
    port: int,
    terminal: bool = False,
) -> None:
    """Run a lab until Ctrl-C, and say where it is and what it leaves."""
    from lab.live.bridge import Attachment
    from lab.live.session import Setup

    attachments = tuple(Attachment.parse(one) for one in attach)
    setup = Setup(experiment, attachments, folder / "capture.pcapng" if pcap else None)

    def say(place: Place) -> None:
        click.echo(
            f"{experiment.site}, {experiment.profile}, seed {experiment.seed}, at {speed:g} times real time"
        )
        click.echo(f"instructor  {place.login(place.tokens.instructor)}")
        click.echo(f"student     {place.login(place.tokens.student)}")
        for one, (address, number) in zip(attachments, place.attachments, strict=True):
            shown = f"[{address}]" if ":" in address else address
            click.echo(
                f"attached    {shown}:{number} reaches {one.target}:{one.port} from a laptop in {one.zone}"
            )
        click.echo(f"Ctrl-C ends it; what it leaves is in {folder}")

    hold(setup, folder, say, terminal, speed=speed, paused=paused, host=host, port=port)


def need_extra() -> None:
    """Raises OtlabError where what serves pages is not installed."""
    try:
        import lab.live.serve  # noqa: F401
    except ModuleNotFoundError as error:
        raise OtlabError(
            f"the live lab needs {error.name}; install it with: pip install 'otlab[live]'"
        ) from None


def hold(
    setup: Setup,
    folder: Path,
    say: Callable[[Place], None],
    terminal: bool,
    *,
    speed: float,
    paused: bool,
    host: str,
    port: int,
) -> None:
    """Serve a run until Ctrl-C or its end; raises OtlabError without the extra, or where it ended with an error."""
    need_extra()
    from lab.live.serve import serve
    from lab.live.terminal import attend

    beside = attend if terminal else None
    engine = serve(setup, folder, say, beside, speed=speed, paused=paused, host=host, port=port)
    click.echo(f"{engine.session.now:g} s, {len(engine.session.inputs)} inputs: {folder}")
    if engine.failure is not None:
        raise OtlabError(f"the run ended with an error: {engine.failure}")


def bring_back(recording: Path, folder: Path, pcap: bool) -> None:
    """Run a recording again in virtual time, keep what it leaves, and compare it with what lies beside it."""
    from dataclasses import replace

    from lab.live.engine import keep
    from lab.live.recording import follow, read_recording
    from lab.live.session import Session

    recorded = read_recording(recording)
    setup = replace(recorded.setup, capture=folder / "capture.pcapng" if pcap else None)
    session = Session(setup)
    try:
        follow(session, recorded.inputs, recorded.end)
        keep(folder, session)
    finally:
        session.close()
    if not recorded.whole:
        click.echo("the recording was cut off; the run ends with its last input", err=True)
    beside = recording.parent / TRACE
    click.echo(f"{recorded.end:g} s, {len(recorded.inputs)} inputs: {folder}")
    if beside.exists() and recorded.whole and beside.resolve() != (folder / TRACE).resolve():
        same = _digest(beside) == _digest(folder / TRACE)
        click.echo(f"the trace is {'the same as' if same else 'NOT the same as'} {beside}")
        if not same:
            raise click.exceptions.Exit(1)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
