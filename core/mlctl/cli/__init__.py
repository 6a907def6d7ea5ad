"""The command line. Each group of commands is a module, imported when one of its commands runs; `mlctl --help` imports
none.

What answers a question goes to stdout, everything else to stderr. An error is one line and an exit code; errors.py has
the table.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

import click

from mlctl import __version__, plugins
from mlctl.errors import MlctlError, did_you_mean, kind_of

__all__ = ["main"]

COMMANDS: Mapping[str, tuple[str, str]] = {
    "init": ("project", "Start a project, or a job file for code that is there."),
    "validate": ("validate", "Check job files."),
    "plan": ("jobs", "Show what would be sent, and what would not be honoured."),
    "run": ("jobs", "Run a job and wait for its end."),
    "submit": ("jobs", "Start a job, and return."),
    "status": ("runs", "Show the state of runs."),
    "describe": ("runs", "Show all that is known of a run."),
    "wait": ("runs", "Wait for the end of a run."),
    "logs": ("runs", "Print a run's log."),
    "metrics": ("runs", "Show a run's metrics."),
    "outputs": ("runs", "Show where a run's outputs are."),
    "cancel": ("runs", "End runs."),
    "list": ("runs", "List the runs submitted from this machine."),
    "image": ("images", "Build and push images with what a job needs."),
    "targets": ("project", "List the targets."),
    "schema": ("project", "Print the schema of the job file, or of the configuration."),
    "config": ("project", "Show the configuration, and where each value came from."),
    "doctor": ("project", "Check that this machine and a target work."),
    "gc": ("project", "Remove old runs, and what nothing uses any more."),
    "completion": ("project", "Print the script that completes mlctl in a shell."),
}
_FUNCTIONS = {"list": "list_", "config": "config_"}  # a command's name is not always free in Python


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *plugins.names(plugins.COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return self._brought(cmd_name)
        found: click.Command = getattr(
            import_module(f".{COMMANDS[cmd_name][0]}", __name__), _FUNCTIONS.get(cmd_name, cmd_name)
        )
        return found

    def _brought(self, name: str) -> click.Command | None:
        if not plugins.known(plugins.COMMANDS, name):
            return None
        try:
            brought: click.Command = plugins.load(plugins.COMMANDS, name)
        except ImportError as reason:
            raise click.UsageError(f"'{name}' needs {reason.name}; install mlctl with the extra [{name}]") from None
        return brought

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])
        with formatter.section("Orchestrators"):
            formatter.write_dl([(name, f"mlctl {name} --help") for name in plugins.names(plugins.COMMANDS)])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        asked = args[0] if args else "-"
        if not (asked.startswith("-") or asked in COMMANDS or plugins.known(plugins.COMMANDS, asked)):
            near = did_you_mean(asked, self.list_commands(ctx)) or "; mlctl --help lists them"
            raise click.UsageError(f"no command '{asked}'{near}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # these two here, because click has its own way with them
            return complain("interrupted", 130)
        except BrokenPipeError:
            mute(sys.stdout)
            return 0


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, message="mlctl %(version)s")
@click.option("-v", "--verbose", count=True, help="Say more of what is done; twice: libraries, too.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but answers and errors.")
@click.pass_context
def cli(ctx: click.Context, verbose: int, quiet: bool) -> None:
    """One job file. Any platform. Any orchestrator.

    \b
    mlctl run jobs/train.yaml --param lr=0.1
    mlctl logs -f churn-train

    A run is named by its URL, its name, its key, or its job's name for the newest one.

    \b
    Exit codes: 0 success, 1 the job failed, 2 bad input, 70 internal or not found,
    75 try again, 77 denied, 124 the job's timeout, 130 cancelled or interrupted.
    """
    ctx.color = colour()
    logging.basicConfig(level=logging.ERROR, format="mlctl: %(message)s", stream=sys.stderr)
    logging.getLogger("mlctl").setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)
    if verbose > 1:
        logging.getLogger().setLevel(logging.DEBUG)
    if ctx.invoked_subcommand is None:  # what click does here differs between its versions
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


def main(args: list[str] | None = None) -> None:
    """The entry point: runs a command and ends the process with its exit code."""
    for name in ("stdout", "stderr"):  # closed by whoever called
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - for the life of the process
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path may hold what the terminal's encoding doesn't
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(run(args))


def run(args: list[str] | None = None) -> int:
    """Runs a command; its exit code. Errors are printed, one line each."""
    try:
        code: Any = cli.main(args, prog_name="mlctl", standalone_mode=False)
        sys.stdout.flush()
        return int(code or 0)
    except click.ClickException as error:
        text = error.format_message().strip()
        return complain(text[0].lower() + text[1:] if text[:1].isupper() and text[1:2].islower() else text, 2)
    except MlctlError as error:
        return complain(str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return complain("interrupted", 130)
    except BrokenPipeError:
        mute(sys.stdout)
        return 0
    except OSError as error:
        if os.environ.get("MLCTL_DEBUG"):
            raise
        gone = isinstance(error, FileNotFoundError)  # what has no name and isn't there is the working folder
        where = f"{error.filename}: " if error.filename else "the working folder: " if gone else ""
        return complain(f"{where}{error.strerror or error}", kind_of(error).exit_code)
    except Exception as error:
        if os.environ.get("MLCTL_DEBUG"):
            raise
        return complain(
            f"internal error, please report it: {type(error).__name__}: {error} (MLCTL_DEBUG=1 shows where)", 70
        )


def mute(stream: TextIO) -> None:
    """Lets what is still to be printed go nowhere: the reader of our output went away, as `head` does."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextlib.contextmanager
def unread() -> Iterator[None]:
    """Around the printing of what is not all that a command does: where nobody reads any more, it goes on, and its exit
    code is still its outcome."""
    try:
        yield
    except BrokenPipeError:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except BrokenPipeError:
                mute(stream)


def complain(text: str, code: int) -> int:
    """Prints an error as one line; gives its exit code back."""
    line = " ".join(part.strip() for part in text.splitlines() if part.strip())
    with unread():
        click.echo(f"{click.style('mlctl:', fg='red', bold=True)} {line}", err=True, color=colour())
    return code


def colour() -> bool | None:
    """False where NO_COLOR (no-color.org) asks for none; None leaves it to whether there is a terminal."""
    return False if os.environ.get("NO_COLOR") else None
