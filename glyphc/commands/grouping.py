"""The commands by who uses them, as ``glyphc --help`` lists them."""

from __future__ import annotations

import click

GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Compile and look", ("compile", "inspect", "run", "compare", "strategies", "opt", "export")),
    ("Client, who owns the data and the secret key", ("spec", "keygen", "encrypt", "refresh", "decrypt", "submit")),
    ("Server, which owns the model or the machine", ("split", "plan", "eval", "serve", "token")),
    ("Training on encrypted data", ("train", "training")),
    ("This machine", ("doctor", "engines", "measure")),
)


class RoleGroup(click.Group):
    """A group of commands whose help is one list for each role; what belongs to none comes last."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        known = {name for _, names in GROUPS for name in names}
        others = tuple(name for name in self.list_commands(ctx) if name not in known)
        column = max(map(len, self.commands))
        for title, names in (*GROUPS, ("Others", others)):
            rows = [
                (name.ljust(column), self.commands[name].get_short_help_str(formatter.width - 6 - column))
                for name in names
                if name in self.commands
            ]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)
