"""`perdure run`: start a run and wait for it in sight.

Law: a mistake in the input is told before anything is started.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from temporalio.client import WorkflowHandle
from temporalio.common import Priority
from temporalio.exceptions import WorkflowAlreadyStartedError

from runtime.commands.following import conclude, exit_code, follow
from runtime.commands.graphs import served_by
from runtime.commands.inputs import read_input, read_state
from runtime.commands.options import COMPLETED, Common, Fault, shared, workflows_option
from runtime.commands.session import Session, execute, faults, interruption, print_json, tell
from runtime.commands.targets import Asked, Target, is_document, resolve
from runtime.plugin import load_workflows, workflow_name
from runtime.settings import Settings
from workflows import ALL_WORKFLOWS
from workflows.errors import OptionsRejected, cut
from workflows.graph.step_checks import Served
from workflows.parsing import parse
from workflows.steps import RunOptions
from workflows.wire import OPTIONS_MEMO

RANDOM_BYTES = 2
# Tells runs apart that start within one second.

SUMMARY_LENGTH = 200
# A line of the UI. Temporal's own limit is 400 bytes, to which its server (1.32) holds no run yet.


@click.command("run")
@click.argument("target", metavar="FILE|TYPE|MODULE:CLASS")
@click.argument("more", nargs=-1, metavar="[FILE...|INPUT]")
@click.option("--input", "input_text", metavar="JSON", help="The run's input; the same as INPUT.")
@click.option("--input-file", metavar="FILE", help="A file that holds the input as JSON; `-` is stdin.")
@click.option("--state", metavar="JSON", help="State for a stage graph, laid over its `initial_state`.")
@click.option("--state-file", metavar="FILE", help="The same from a JSON or YAML file; `-` is stdin.")
@click.option("--lenient", is_flag=True, help="Start a graph in spite of doubts about it.")
@click.option("--id", "workflow_id", metavar="ID", help="The workflow id. Default: type, time and four random digits.")
@click.option("--detach", is_flag=True, help="Start only; print the id.")
@click.option("--summary", metavar="TEXT", help="One line about the run for the Temporal UI.")
@click.option("--budget-tokens", type=click.IntRange(min=0), metavar="N", help="What the run may spend, in tokens.")
@click.option("--budget-usd", type=click.FloatRange(min=0), metavar="X", help="What the run may spend, in dollars.")
@click.option(
    "--on-exhausted", type=click.Choice(["deny", "wait"]), help="Deny steps past the budget, or wait for a raise."
)
@click.option("--max-concurrency", type=click.IntRange(min=0), metavar="N", help="Steps in flight at once. Default: 8.")
@click.option(
    "--step-timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Limit on each step's time, where the step sets none.",
)
@click.option(
    "--max-attempts", type=click.IntRange(min=1), metavar="N", help="Attempts of each step, where it sets none."
)
@click.option("--priority", type=click.IntRange(1, 5), metavar="N", help="1 goes first, 5 last. Default: 3.")
@click.option("--fairness-key", metavar="KEY", help="Whose run this is: keys take turns where work has to wait.")
@click.option(
    "--fairness-weight", type=click.FloatRange(0.001, 1000), metavar="X", help="How many turns KEY takes. Default: 1."
)
@click.option("--task-queue", metavar="NAME", help="The task queue that the run goes to (PERDURE_TASK_QUEUE).")
@click.option(
    "--agents",
    metavar="FILE",
    help="The agents.toml that --local serves, and that a graph is checked against (PERDURE_AGENTS).",
)
@workflows_option
@shared
def command(
    common: Common,
    target: str,
    more: tuple[str, ...],
    input_text: str | None,
    input_file: str | None,
    state: str | None,
    state_file: str | None,
    lenient: bool,
    workflow_id: str | None,
    detach: bool,
    summary: str | None,
    task_queue: str | None,
    agents: str | None,
    workflows: tuple[str, ...],
    **options: Any,
) -> int:
    """Start a run and wait for it.

    FILE is JSON or YAML (`-` is stdin): a stage graph, which is checked first as `perdure verify` does, or a list of
    phases, [{"name": …, "steps": […]}]. Several graphs run one after the other, each on the state that the one before
    it left. TYPE is a workflow type that a worker serves, for example Steps. MODULE:CLASS is a workflow of your own;
    --local serves it.

    Ctrl-C stops waiting, and the run goes on; with --local it goes on at the next --local.
    """
    with faults():
        _check_agents(agents)
        files, argument = divided(target, more)
        asked = Asked(read_state(state, state_file), lenient, lambda: _served(common, agents))
        chosen = resolve(target, read_input(argument, input_text, input_file), files, asked)
        memo = run_options(options)
        named = [*workflows, *([chosen.module] if chosen.module else [])]
        if common.is_local:
            _refuse_unserved(chosen.workflow_type, named)
    for notice in chosen.notices:
        tell(notice)

    async def body(session: Session) -> int:
        return await _run(session, chosen, memo, workflow_id or default_id(chosen.workflow_type), summary, detach)

    return execute(common, body, workflows=named, task_queue=task_queue, agents=agents)


async def _run(
    session: Session, target: Target, memo: dict[str, Any], workflow_id: str, summary: str | None, detach: bool
) -> int:
    with interruption() as interrupted:
        if detach:
            await _start(session, target, memo, workflow_id, summary)
            return _detached(session, workflow_id)
        await session.tell_open_runs()
        async with session.worker():
            await _start(session, target, memo, workflow_id, summary)
            reader = await session.reader(workflow_id)
            if not session.common.is_json:
                tell(f"Run {workflow_id!r} has started.")
            ending = await follow(session, reader, interrupted, is_lined=False)
            if ending is not None and session.common.is_json:
                print_json({**reader.info.to_json(), **ending.to_json()})
                return exit_code(ending)
            return await conclude(session, reader, ending)


async def _start(
    session: Session, target: Target, memo: dict[str, Any], workflow_id: str, summary: str | None
) -> WorkflowHandle[Any, Any]:
    try:
        return await session.client.start_workflow(
            target.workflow_type,
            args=target.arguments,
            id=workflow_id,
            task_queue=session.settings.task_queue,
            memo={OPTIONS_MEMO: memo} if memo else None,
            static_summary=cut(summary or target.summary, SUMMARY_LENGTH),
            # The memo's are for the run's steps; with these its own tasks stand in line as they do.
            priority=Priority(memo.get("priority"), memo.get("fairness_key"), memo.get("fairness_weight")),
        )
    except WorkflowAlreadyStartedError as error:
        raise Fault(
            f"Run {workflow_id!r} is running already. "
            f"Watch it with `{session.again('watch', workflow_id)}`, or give the new one another --id."
        ) from error


def _detached(session: Session, workflow_id: str) -> int:
    if session.common.is_json:
        print_json({"id": workflow_id, "task_queue": session.settings.task_queue})
        return COMPLETED
    click.echo(workflow_id)
    watching = session.again("watch", workflow_id)
    if session.common.is_local:
        tell(f"It has no worker once this command has ended. `{watching}` brings one and watches it.")
    else:
        tell(f"Watch it with `{watching}`.")
    return COMPLETED


def divided(target: str, more: Sequence[str]) -> tuple[tuple[str, ...], str | None]:
    """What stands behind the target: more files behind a file, else the INPUT."""
    if not is_document(target):
        if len(more) > 1:
            raise Fault(
                f"{target!r} takes one INPUT, and {len(more)} were given. Write it as one JSON value in quotes."
            )
        return (), next(iter(more), None)
    for name in more:
        if not is_document(name):
            raise Fault(
                f"{name!r} stands behind the file {target!r}, and is no .json, .yaml or .yml file. The file is the "
                "run's input itself; a graph's state is given with --state."
            )
    return tuple(more), None


def default_id(workflow_type: str) -> str:
    """`<type>-<date>-<time>-<4 hex digits>`."""
    return f"{workflow_type.lower()}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(RANDOM_BYTES)}"


def run_options(options: dict[str, Any]) -> dict[str, Any]:
    """The run options that were given, as the memo `perdure_options` holds them. Raises `OptionsRejected`."""
    names = {"step_timeout": "step_timeout_seconds"}
    given = {names.get(name, name): value for name, value in options.items() if value is not None}
    parse(RunOptions, given, "the run options", OptionsRejected)
    return given


def _refuse_unserved(workflow_type: str, modules: Sequence[str]) -> None:
    """With `--local` nobody else serves the run, so a type that is not here would wait for ever."""
    classes = load_workflows([*Settings.load().workflows, *modules])
    names = {workflow_name(served) for served in (*ALL_WORKFLOWS, *classes)}
    if workflow_type in names or None in names:
        return
    known = ", ".join(repr(name) for name in sorted(filter(None, names)))
    raise Fault(
        f"The workflow type {workflow_type!r} is not known here. The types are {known}. "
        "Name your own as MODULE:CLASS, or its module with --workflows."
    )


def _served(common: Common, agents: str | None) -> Served:
    """What will run a graph's agents: known where an agents.toml is named, or where --local serves the one here."""
    return served_by(agents) if agents is not None or common.is_local else Served()


def _check_agents(agents: str | None) -> None:
    if agents is not None and not Path(agents).is_file():
        raise Fault(f"--agents is {agents!r}, and there is no such file.")
