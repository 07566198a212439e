"""`perdure prune`: removing from the blob store what no run needs any more."""

from __future__ import annotations

import re
from datetime import timedelta

import click

from runtime.commands.options import COMPLETED, Common, Fault, shared
from runtime.commands.session import Session, execute, print_json
from runtime.plugin import check_folders
from runtime.pruning import Count, Pruned, prune
from runtime.texts import counted

DEFAULT_AGE = "7d"
# A week to show, record or reset a run that has ended.

SHORTEST_AGE = timedelta(hours=1)
# A piece is stored before the run that needs it exists, and clocks differ.

UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
AGE = re.compile(r"(\d{1,5})([mhdw])")


class Age(click.ParamType[timedelta]):
    """A span of time as people write it: 90m, 12h, 7d, 4w."""

    name = "age"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """See base class."""
        found = AGE.fullmatch(value)
        if found is None:
            self.fail(f"{value!r} is no span of time. Write it as 90m, 12h, 7d or 4w.", param, ctx)
        age = timedelta(**{UNITS[found[2]]: int(found[1])})
        if age < SHORTEST_AGE:
            self.fail(
                f"{value!r} is too short: what a run is about to need may be an hour old. The least is 1h.", param, ctx
            )
        return age


@click.command("prune")
@click.option(
    "--older-than", type=Age(), default=DEFAULT_AGE, show_default=True, help="Leave what is younger: 90m, 12h, 7d, 4w."
)
@click.option("--dry-run", is_flag=True, help="Remove nothing; say what would be removed.")
@shared
def command(common: Common, older_than: timedelta, dry_run: bool) -> int:
    """Remove from the blob store what no run needs any more.

    These are checkpoints and payloads of runs that closed before the given time, or that Temporal has forgotten. What
    an open run needs stays, however old; so does what belongs to another namespace. Safe beside live workers, and safe
    to repeat. A run whose payloads are gone can no longer be shown, recorded, replayed or reset.
    """

    async def body(session: Session) -> int:
        store = check_folders(session.settings)
        if store is None:
            raise Fault("There is no blob store to prune. Name the one of the workers with PERDURE_BLOBS.")
        pruned = await prune(session.client, store, older_than, dry_run=dry_run)
        if common.is_json:
            print_json({"dry_run": dry_run, "older_than_seconds": older_than.total_seconds(), **pruned.to_json()})
        else:
            click.echo("\n".join(_lines(pruned, dry_run)))
        return COMPLETED

    return execute(common, body)


def _lines(pruned: Pruned, dry_run: bool) -> list[str]:
    done = "Would remove" if dry_run else "Removed"
    lines = [
        f"{done} {_told(pruned.payloads, 'payload')} and {_told(pruned.checkpoints, 'checkpoint')}.",
        f"Kept {_told(pruned.kept, 'piece')} that are young or needed.",
    ]
    if pruned.unknown.pieces:
        lines.append(f"Kept {_told(pruned.unknown, 'piece')} whose run cannot be told; delete them by hand.")
    return lines


def _told(count: Count, noun: str) -> str:
    return f"{counted(count.pieces, noun)} ({count.bytes / 1e6:,.1f} MB)"
