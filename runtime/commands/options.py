"""What every subcommand takes and how it ends: the shared options, the exit codes, a mistake of the caller.

Law: an exit code means one thing. Loads no SDK, so that the help is there at once.
"""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from temporalio.worker import Worker

COMPLETED = 0
NOT_COMPLETED = 1
WRONG_USAGE = 2
UNREACHABLE = 3
UNEXPECTED = 70
# EX_SOFTWARE of sysexits.h: a fault of perdure's own must not look like the end of a run.
INTERRUPTED = 130
# What shells report for a command that Ctrl-C ended.

SHOWN_CHARACTERS = 200
# Of an argument, in a message.

TRACEBACK_VARIABLE = "PERDURE_TRACEBACK"


class Fault(click.ClickException):
    """What keeps the command from doing what it was asked, told in whole sentences."""

    def __init__(self, message: str, exit_code: int = WRONG_USAGE) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click declares it for the class, and reads the instance's

    def show(self, file: Any = None) -> None:
        """Print the message alone: it names what was found and what to do."""
        click.echo(self.message, file=file or sys.stderr)


@dataclass(frozen=True)
class Hosting:
    """What the entry point lends the subcommands: how `--local` builds its worker."""

    build_worker: Callable[..., Worker]


@dataclass(frozen=True)
class Common:
    """The shared options of one call."""

    address: str | None = None
    namespace: str | None = None
    is_local: bool = False
    is_json: bool = False
    hosting: Hosting | None = None

    @property
    def place(self) -> str:
        """The options that lead another call to the same Temporal, each after a space."""
        given = (("--address", self.address), ("--namespace", self.namespace))
        options = [f" {option} {shlex.quote(value)}" for option, value in given if value]
        return "".join([" --local"] if self.is_local else options)


def shared(command: Callable[..., int]) -> Callable[..., int]:
    """Add the options that every subcommand takes; they arrive as `common`."""

    @functools.wraps(command)
    def with_common(
        *args: Any, address: str | None, namespace: str | None, local: bool, as_json: bool, **options: Any
    ) -> int:
        if local and (address or namespace):
            raise Fault("--local brings a server of its own. Leave --address and --namespace out, or --local.")
        _refuse_bytes(click.get_current_context().params.values())
        hosting = click.get_current_context().find_object(Hosting)
        common = Common(address, namespace, local, as_json, hosting)
        try:
            return command(*args, common=common, **options)
        except BrokenPipeError:
            return COMPLETED  # whoever read the output has seen enough

    for option in reversed(_SHARED):
        with_common = option(with_common)
    return with_common


def _refuse_bytes(values: Iterable[object]) -> None:
    """Refuse arguments that are no UTF-8: no payload takes them, and no terminal shows them."""
    for text in [part for value in values for part in (value if isinstance(value, tuple) else (value,))]:
        if isinstance(text, str) and not _is_text(text):
            raise Fault(f"The argument {text[:SHOWN_CHARACTERS]!r} is no UTF-8 text.")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_SHARED = (
    click.option("--address", metavar="HOST:PORT", help="Temporal's address, instead of TEMPORAL_ADDRESS."),
    click.option("--namespace", metavar="NAME", help="The namespace, instead of TEMPORAL_NAMESPACE."),
    click.option("--local", is_flag=True, help="Use the embedded server of ./.perdure; start it if need be."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON for programs."),
)

run_argument = click.argument("run", default="-", metavar="[RUN]")
"""A workflow id; `-` or nothing is the latest run."""

workflows_option = click.option(
    "--workflows", multiple=True, metavar="MODULE[:CLASS]", help="Workflows of your own; may be given again."
)
