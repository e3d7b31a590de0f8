"""Groups of commands, whose help cuts nothing off."""

from __future__ import annotations

import click

__all__ = ["Group"]

_LONGEST = 1000


class Group(click.Group):
    """Its help shows the first sentence of each command whole, wrapped to the terminal; Click would end it in dots."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.get_short_help_str(_LONGEST)) for name, one in found if one is not None])
