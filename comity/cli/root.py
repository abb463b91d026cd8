"""The command tree, and what every command shares: lazy loading, exit codes, one-line errors."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click
import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from privacy.errors import ComityError

__all__ = ["app", "exit_code", "main"]

# Name → module under comity.cli and its one line in `comity --help`. A module has `app: typer.Typer`; one
# command of the group's own name makes it a plain command, anything else a group.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo", "Two partners on loopback, end to end, on real data."),
    "init": ("init", "Make a new node in a directory."),
    "serve": ("serve", "Run a node until stopped."),
    "doctor": ("doctor", "Check a node: keys, database, log, engine, partners, clock, port."),
    "mask": ("mask", "Mask a table by a policy."),
    "consent": ("consent", "Record and look up consents; receipts and proofs of absence."),
    "log": ("log", "Verify, show and prove the transparency log."),
    "audit": ("audit", "Report on the consent ledger, check a report, scan the datasets."),
    "collab": ("collab", "Agree with a partner what may be asked."),
    "overlap": ("overlap", "Ask how many people two partners share."),
    "train": ("train", "Train a joint model with a partner."),
    "budget": ("budget", "Show the privacy budget spent and left."),
    "keys": ("keys", "Show and rotate the node's key ring."),
    "access": ("access", "Make, list and revoke API keys."),
}


class LazyGroup(TyperGroup):
    """Knows its commands by name, and imports a command's module only to run it or to show its own help."""

    _listing = False

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return [name for name, (module, _) in COMMANDS.items() if _exists(module)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS or not _exists(COMMANDS[cmd_name][0]):
            return None
        module, summary = COMMANDS[cmd_name]
        if self._listing:
            return click.Command(cmd_name, help=summary)
        command = typer.main.get_command(importlib.import_module(f"comity.cli.{module}").app)
        command.name = cmd_name
        if not command.help:
            command.help = summary
        return command

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self._listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._listing = False

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> NoReturn:
        """Run, and leave with an exit code: every error becomes one clear line on standard error."""
        options["standalone_mode"] = False
        try:
            result = super().main(args, *rest, **options)
        except click.exceptions.Exit as e:
            sys.exit(e.exit_code)
        except (click.exceptions.Abort, KeyboardInterrupt):
            typer.echo("Stopped; nothing half-done was left behind.", err=True)
            sys.exit(130)
        except click.ClickException as e:
            e.show()
            sys.exit(2)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        except Exception as e:
            from privacy.errors import ComityError

            if isinstance(e, ComityError):
                _complain(e.detail, e.advice)
                sys.exit(exit_code(e))
            if os.environ.get("COMITY_DEBUG"):
                traceback.print_exc()
            _complain(
                f"Unexpected error ({type(e).__name__}).",
                "Run again with COMITY_DEBUG=1 to see where, and report it.",
            )
            sys.exit(3)
        sys.exit(result if isinstance(result, int) else 0)


def _exists(module: str) -> bool:
    return importlib.util.find_spec(f"comity.cli.{module}") is not None


def _complain(what: str, advice: str) -> None:
    typer.echo(f"comity: {what}", err=True)
    if advice:
        typer.echo(f"        {advice}", err=True)


def exit_code(error: ComityError) -> int:
    """1 refused, 2 usage, 3 the partner or a dependency failed, 4 tampering found."""
    from privacy.errors import Misuse, Refused, Tampered

    if isinstance(error, Tampered):
        return 4
    if isinstance(error, Refused):
        return 1
    if isinstance(error, Misuse):
        return 2
    return 3


app = typer.Typer(
    cls=LazyGroup, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"comity {version('comity')}")
        raise typer.Exit


@app.callback()
def comity(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version."
    ),
) -> None:
    """Learn together from data about the same people, without handing it over, and let them say no.

    A partner runs a node: [bold]comity init DIR[/bold], then [bold]comity serve DIR[/bold].
    Try it all at once with [bold]comity demo[/bold].

    Exit codes: 0 done, 1 refused by a rule or a failed check, 2 usage,
    3 the partner or a dependency failed, 4 tampering found.
    """


def main() -> None:
    """Entry point of the `comity` command."""
    app(prog_name="comity")
