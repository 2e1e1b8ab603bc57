"""Options that several commands share, and what they come to."""

from __future__ import annotations

import os
from collections.abc import Callable

import click


def _overrides(
    _ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[str, float], ...]:
    pairs = []
    for value in values:
        key, sign, number = value.partition("=")
        try:
            if not sign:
                raise ValueError
            pairs.append((key.strip(), float(number)))
        except ValueError:
            raise click.BadParameter(f"{value!r} is not KEY=NUMBER") from None
    return tuple(sorted(pairs))


set_figures = click.option(
    "--set",
    "overrides",
    multiple=True,
    callback=_overrides,
    metavar="KEY=NUMBER",
    help="Change a figure; see `otlab figures`.",
)


def people(usual: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Options of how operators are modeled, ``usual`` if not given, and what they log in with."""

    def options(command: Callable[..., None]) -> Callable[..., None]:
        for option in (
            click.option(
                "--mfa",
                type=click.Choice(["totp", "push", "badge", "fido"]),
                default="totp",
                show_default=True,
                help="What operators log in with where a second factor is asked for.",
            ),
            click.option(
                "--human",
                type=click.Choice(["simple", "lognormal", "hcr", "spar-h", "heart"]),
                default=usual,
                show_default=True,
                help="Model of the operators.",
            ),
        ):
            command = option(command)
        return command

    return options


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
