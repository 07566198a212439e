"""The `perdure` command: one subcommand for each thing a person does.

Law: `perdure --help` loads no SDK, and the exit status is always the one that was meant.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from runtime.commands.options import INTERRUPTED, TRACEBACK_VARIABLE, UNEXPECTED, Hosting

if TYPE_CHECKING:
    from temporalio.worker import Worker

SUBCOMMANDS = {
    "run": ("run:command", "Start a run and wait for it."),
    "verify": ("graphs:verify", "Check stage graphs without running them."),
    "graph": ("graphs:graph", "Draw a stage graph as Mermaid, or as SVG with Graphviz."),
    "list": ("reading:list_command", "List runs: open ones first, then the latest closed."),
    "show": ("reading:show", "Show a run: its progress and budget, and its result or failure."),
    "watch": ("reading:watch", "Watch a run until it ends; the exit code is that of the run."),
    "events": ("reading:events", "Print the events of a run."),
    "result": ("reading:result", "Print the result of a run that has ended, as JSON."),
    "budget": ("steering:budget", "Show the budget of a run, or change it while the run goes on."),
    "approvals": ("approving:approvals", "List what waits for a person's answer."),
    "approve": ("approving:approve", "Answer what a run waits for a person to decide."),
    "cancel": ("steering:cancel", "Cancel a run and wait until it has ended."),
    "record": ("histories:record", "Store the history of a run as JSON, for replay tests."),
    "replay": ("histories:replay", "Replay histories with the code that is here."),
    "prune": ("pruning:command", "Remove from the blob store what no run needs any more."),
    "doctor": ("doctor:command", "Check what perdure needs here."),
}
"""Where each subcommand lives, and what it does. It stands here, so that the help loads none of them."""

NOT_TRACED = ("", "0", "false", "f", "no", "n", "off")
"""Every way to say no that the settings know."""


class Subcommands(click.Group):
    """A group that loads a subcommand when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """See base class: in the order of a run's life."""
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See base class."""
        if cmd_name not in SUBCOMMANDS:
            return None
        module, _, attribute = SUBCOMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(f"runtime.commands.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See base class."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in SUBCOMMANDS.items()])


@click.group(cls=Subcommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="perdure", prog_name="perdure")
@click.pass_context
def command(context: click.Context) -> None:
    """Start and watch durable runs of agents on Temporal.

    RUN is a workflow id; `-` or nothing is the latest run. --local brings a server and a worker of its own, kept in
    ./.perdure. TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE and temporal.toml name a service.

    \b
    Exit codes:
      0    the run completed
      1    it did not: it failed, was stopped, or a step of `Steps` failed
      2    wrong usage or input; nothing was started
      3    Temporal cannot be reached
      70   a fault of perdure's own; PERDURE_TRACEBACK=1 shows where
      130  interrupted; the run goes on
    """
    context.obj = Hosting(_build_worker)


def _build_worker(*args: Any, **options: Any) -> Worker:
    from worker import build_worker  # serves agents, which only --local does here

    return build_worker(*args, **options)


def invoke(arguments: Sequence[str]) -> int:
    """Run the command, tell what went wrong, and give the exit code."""
    try:
        code = command.main(args=list(arguments), prog_name="perdure", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.UsageError as error:
        named = error.ctx.command_path if error.ctx else "perdure"
        click.echo(f"{error.format_message()} See `{named} --help`.", err=True)
        return _traced(error.exit_code)
    except click.ClickException as error:
        error.show()
        return _traced(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the one place where a fault of ours meets a person
        click.echo(f"{type(error).__name__}: {error}", err=True)
        if not _is_traced():
            click.echo(f"This is a fault of perdure's own. {TRACEBACK_VARIABLE}=1 shows where.", err=True)
        return _traced(UNEXPECTED)


def _traced(code: int) -> int:
    if _is_traced():
        traceback.print_exc()
    return code


def _is_traced() -> bool:
    """The setting `traceback`, read without the settings: they may be what is wrong."""
    return os.environ.get(TRACEBACK_VARIABLE, "").lower() not in NOT_TRACED


def main() -> NoReturn:
    """Run the `perdure` command."""
    _leave(invoke(sys.argv[1:]))


def _leave(code: int) -> NoReturn:
    """End the process with this status: the interpreter's own exit sometimes aborts in the SDK (its issue 300)."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:  # whoever read the output has seen enough
            continue
    os._exit(code)


if __name__ == "__main__":
    main()
