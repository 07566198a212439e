"""`perdure budget` and `cancel`: what a person may change in a run that goes on."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import click

from runtime.commands.following import Follower, conclude, exit_code
from runtime.commands.hosting import carried
from runtime.commands.options import COMPLETED, Common, Fault, run_argument, shared, workflows_option
from runtime.commands.session import Session, execute, interruption, print_json, tell
from runtime.endings import closing_line
from runtime.report import budget_line
from runtime.texts import full_stop
from runtime.watching import NoAnswer, RunReader
from workflows.wire import SET_BUDGET_SIGNAL

NO_LIMIT = "none"


def limit(number: type[int] | type[float]) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """Reads an option that takes a limit, or `none`; that stays a word, for an absent option is None already."""

    def read(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> Any:
        if text is None or text == NO_LIMIT:
            return text
        try:
            found = number(text)
        except ValueError:
            found = number(-1)
        if found < 0 or not math.isfinite(found):
            what = "a whole number" if number is int else "a number"
            raise click.BadParameter(f"{text!r} is no limit. It takes {what} of at least 0, or '{NO_LIMIT}'.")
        return found

    return read


@click.command("budget")
@run_argument
@click.option("--set", "tokens", callback=limit(int), metavar="TOKENS|none", help="The new limit in tokens.")
@click.option("--set-usd", "usd", callback=limit(float), metavar="X|none", help="The new limit in dollars.")
@workflows_option
@shared
def budget(
    common: Common, run: str, tokens: int | str | None, usd: float | str | None, workflows: tuple[str, ...]
) -> int:
    """Show the budget of a run, or change it while the run goes on."""
    change = budget_change(tokens, usd)

    async def body(session: Session) -> int:
        reader = await session.reader(run)
        if not change:
            _show_budget(common, await reader.budget())
            return COMPLETED
        if not reader.info.is_open:
            raise Fault(f"Run {reader.info.id!r} has ended ({reader.info.status}); its budget cannot change any more.")
        await reader.handle.signal(SET_BUDGET_SIGNAL, change)
        await _show_changed(common, reader)
        return COMPLETED

    return execute(common, body, workflows=workflows)


def budget_change(tokens: int | str | None, usd: float | str | None) -> dict[str, int | float | None]:
    """The payload of `set_budget`: only what was named, null for no limit."""
    named = {"limit_tokens": tokens, "limit_usd": usd}
    return {name: None if isinstance(value, str) else value for name, value in named.items() if value is not None}


async def _show_changed(common: Common, reader: RunReader) -> None:
    try:
        _show_budget(common, await reader.budget())
    except NoAnswer as silent:
        if common.is_json:
            print_json(None)
        tell(full_stop(f"The change was sent, and the run takes it when it goes on: {silent}"))


def _show_budget(common: Common, snapshot: dict[str, Any]) -> None:
    if common.is_json:
        print_json(snapshot)
    else:
        click.echo(budget_line(snapshot))


@click.command("cancel")
@run_argument
@click.option("--reason", default="cancelled with perdure cancel", show_default=True, help="Why, for the history.")
@click.option("--no-wait", is_flag=True, help="Do not wait until the run has ended.")
@workflows_option
@shared
def cancel(common: Common, run: str, reason: str, no_wait: bool, workflows: tuple[str, ...]) -> int:
    """Cancel a run and wait until it has ended: steps in flight are stopped and what is to be undone is undone."""

    async def body(session: Session) -> int:
        reader = await session.reader(run)
        if not reader.info.is_open:
            raise Fault(f"Run {reader.info.id!r} has ended already ({reader.info.status}).")
        if no_wait:
            await reader.handle.cancel(reason=reason)
            return _requested(common, reader)
        with interruption() as interrupted:
            async with carried(session, reader):
                await reader.handle.cancel(reason=reason)
                return await _await_end(session, reader, interrupted)

    return execute(common, body, workflows=workflows)


def _requested(common: Common, reader: RunReader) -> int:
    if common.is_json:
        print_json({**reader.info.to_json(), "cancel_requested": True})
    else:
        tell(f"Run {reader.info.id!r} was asked to end.")
    return COMPLETED


async def _await_end(session: Session, reader: RunReader, interrupted: asyncio.Event) -> int:
    """Wait for the end. The command did its part when the run ended, however it did."""
    ending = await Follower(reader, None).follow(interrupted)
    if ending is None:
        return await conclude(session, reader, None)
    if session.common.is_json:
        print_json({**reader.info.to_json(), **ending.to_json()})
    else:
        click.echo(closing_line(reader.info, ending))
    return COMPLETED if ending.status == "cancelled" else exit_code(ending)
