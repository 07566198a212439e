"""`perdure list`, `show`, `watch`, `events` and `result`: reading runs, changing nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import click

from runtime.commands.following import Follower, conclude, exit_code, follow
from runtime.commands.hosting import carried
from runtime.commands.options import (
    COMPLETED,
    INTERRUPTED,
    NOT_COMPLETED,
    Common,
    run_argument,
    shared,
    workflows_option,
)
from runtime.commands.session import Session, execute, interruption, print_json, tell
from runtime.endings import GRAPH_WORKFLOWS, closing_line, ending_lines, graph_results
from runtime.listing import STATUS_NAMES, list_runs
from runtime.report import View, event_line, progress_lines, run_line
from runtime.standing import Ending, RunInfo
from runtime.watching import NoAnswer, RunReader

DEFAULT_LIMIT = 20
# What fits a screen.


@click.command("list")
@click.option("--status", type=click.Choice(tuple(STATUS_NAMES)), help="Only runs of this status.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=DEFAULT_LIMIT, show_default=True, help="How many runs at most."
)
@click.option("--task-queue", metavar="NAME", help="The task queue whose runs to list (PERDURE_TASK_QUEUE).")
@shared
def list_command(common: Common, status: str | None, limit: int, task_queue: str | None) -> int:
    """List runs: open ones first, then the latest closed."""

    async def body(session: Session) -> int:
        runs = await list_runs(session.client, session.settings.task_queue, status, limit)
        if common.is_json:
            print_json([info.to_json() for info in runs])
            return COMPLETED
        for info in runs:
            click.echo(run_line(info, datetime.now(UTC)))
        if not runs:
            tell(f"No run was found on task queue {session.settings.task_queue!r}.")
        elif len(runs) == limit:
            tell(f"These are the first {limit}; --limit shows more.")
        return COMPLETED

    return execute(common, body, task_queue=task_queue)


@click.command("show")
@run_argument
@workflows_option
@shared
def show(common: Common, run: str, workflows: tuple[str, ...]) -> int:
    """Show a run: its progress and budget, and its result or failure.

    A run that has ended is read from its history where no worker answers; --workflows names the module of a workflow
    of your own for that.
    """

    async def body(session: Session) -> int:
        reader = await session.reader(run)
        view = await _view(reader, session.place)
        ending = None if reader.info.is_open else await reader.ending()
        if common.is_json:
            told = {
                "progress": view.progress_json(),
                "budget": view.budget,
                "approvals": view.approvals,
                "notice": view.notice,
            }
            print_json({**reader.info.to_json(), **told, **(ending.to_json() if ending else {})})
        else:
            _show(view, ending)
        return COMPLETED

    return execute(common, body, workflows=workflows)


async def _view(reader: RunReader, place: str) -> View:
    """What the run itself tells, or why it tells nothing."""
    view = View(reader.info, place=place)
    try:
        if reader.info.is_open or reader.info.type in GRAPH_WORKFLOWS:
            for envelope in (await reader.all_events())["events"]:
                view.note(envelope)
        view.progress, view.budget = await reader.progress(), await reader.budget()
        if reader.info.is_open:
            view.approvals = await reader.approvals()
            view.pending = await reader.pending()
    except NoAnswer as silent:
        view.notice = str(silent)
    return view


def _show(view: View, ending: Ending | None) -> None:
    now = datetime.now(UTC)
    click.echo(run_line(view.info, now))
    for line in progress_lines(view, now):
        click.echo(line)
    if view.notice is not None:
        tell(view.notice)
    for line in ending_lines(view.info, ending) if ending else ():
        click.echo(line)


@click.command("watch")
@run_argument
@workflows_option
@shared
def watch(common: Common, run: str, workflows: tuple[str, ...]) -> int:
    """Watch a run until it ends; the exit code is that of the run.

    --json prints one line for each event. With --local the run goes on in this process.
    """

    async def body(session: Session) -> int:
        reader = await session.reader(run)
        with interruption() as interrupted:
            async with carried(session, reader):
                ending = await follow(session, reader, interrupted, is_lined=True)
                return await conclude(session, reader, ending)

    return execute(common, body, workflows=workflows)


@click.command("events")
@run_argument
@click.option("--after", type=click.IntRange(min=-1), default=-1, metavar="N", help="Only events after this offset.")
@click.option("--follow", "is_following", is_flag=True, help="Go on until the run ends.")
@workflows_option
@shared
def events(common: Common, run: str, after: int, is_following: bool, workflows: tuple[str, ...]) -> int:
    """Print the events of a run."""

    async def body(session: Session) -> int:
        reader = await session.reader(run)
        if is_following:
            show_event = print_json if common.is_json else (lambda envelope: click.echo(event_line(envelope)))
            with interruption() as interrupted:
                ended = await Follower(reader, show_event, after).follow(interrupted)
            return INTERRUPTED if ended is None else COMPLETED
        page = await reader.all_events(after)
        if common.is_json:
            print_json(page)
            return COMPLETED
        if page["dropped"]:
            tell(f"{page['dropped']:,} earlier events are no longer held by the run.")
        for envelope in page["events"]:
            click.echo(event_line(envelope))
        return COMPLETED

    return execute(common, body, workflows=workflows)


@click.command("result")
@run_argument
@click.option("--wait", "is_waiting", is_flag=True, help="Wait until the run has ended.")
@workflows_option
@shared
def result(common: Common, run: str, is_waiting: bool, workflows: tuple[str, ...]) -> int:
    """Print the result of a run that has ended, as JSON.

    A run of stage graphs has a result however it ended; on stderr it is told stage by stage.
    """

    async def body(session: Session) -> int:
        reader = await session.reader(run)
        if reader.info.is_open and not is_waiting:
            return _no_result_yet(session, reader.info)
        if reader.info.is_open:
            async with carried(session, reader):
                ending = await reader.ending()
        else:
            ending = await reader.ending()
        info = await reader.refresh()
        if common.is_json:
            print_json({**info.to_json(), **ending.to_json()})
            return exit_code(ending)
        if ending.status == "completed" or ending.result is not None:
            click.echo(json.dumps(ending.result, ensure_ascii=False, indent=2))
        if graph_results(ending):
            for line in ending_lines(info, ending):
                tell(line)
        elif not ending.is_success:
            tell(closing_line(info, ending))
        return exit_code(ending)

    return execute(common, body, workflows=workflows)


def _no_result_yet(session: Session, info: RunInfo) -> int:
    if session.common.is_json:
        print_json({**info.to_json(), "result": None, "failure": None})
    else:
        tell(f"Run {info.id!r} is {info.status}. Wait for its result with `{session.again('result', info.id)} --wait`.")
    return NOT_COMPLETED
