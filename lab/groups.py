"""A group of commands that tells a user's mistakes in a sentence."""

from __future__ import annotations

import click

from testbed.errors import OtlabError


class Group(click.Group):
    """Says what a user did wrong in one sentence and exits with 2; anything else keeps its traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except OtlabError as error:
            click.echo(f"otlab: {error}", err=True)
            raise click.exceptions.Exit(2) from None
