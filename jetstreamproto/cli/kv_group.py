"""How `jetstream kv HOST:PORT COMMAND` is read: the server comes before the command."""

from __future__ import annotations

import click

_TARGET = "HOST:PORT"


class KeyGroup(click.Group):
    """Takes HOST:PORT before the name of a command, and gives it to the command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            target, *rest = args
            if not rest:
                names = ", ".join(self.commands)
                raise click.UsageError(f"what is to be done there? {names}", ctx)
            args = [rest[0], target, *rest[1:]] if not rest[0].startswith("-") else rest
        return super().parse_args(ctx, args)


class KeyCommand(click.Command):
    """A command of such a group, which shows where HOST:PORT belongs."""

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        pieces = [piece for piece in self.collect_usage_pieces(ctx) if piece != _TARGET]
        group = ctx.parent.command_path if ctx.parent is not None else ""
        formatter.write_usage(f"{group} {_TARGET} {self.name}", " ".join(pieces))
