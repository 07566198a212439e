"""`perdure run`: start a run and wait for it in sight.

Law: a mistake in the input is told before anything is started.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from temporalio.client import WorkflowHandle
from temporalio.exceptions import WorkflowAlreadyStartedError

from runtime.commands.following import conclude, exit_code, follow
from runtime.commands.options import COMPLETED, Common, Fault, shared, workflows_option
from runtime.commands.session import Session, execute, faults, interruption, print_json, tell
from runtime.plugin import load_workflows, workflow_name
from runtime.settings import Settings
from workflows import ALL_WORKFLOWS, parse_phases
from workflows.errors import cut
from workflows.steps import RunOptions
from workflows.wire import OPTIONS_MEMO, STEPS_WORKFLOW

STDIN = "-"

YAML_SUFFIXES = (".yaml", ".yml")

RANDOM_BYTES = 2
# Tells runs apart that start within one second.

SUMMARY_LENGTH = 200
# Temporal takes 400 bytes; a character may be two of them.


@dataclass(frozen=True)
class Target:
    """What is to be started."""

    workflow_type: str
    arguments: list[Any]
    summary: str
    module: str | None = None
    """`module:Class` of a workflow of the user's own."""


@click.command("run")
@click.argument("target", metavar="FILE|TYPE|MODULE:CLASS")
@click.argument("argument", required=False, metavar="[INPUT]")
@click.option("--input", "input_text", metavar="JSON", help="The run's input; the same as INPUT.")
@click.option("--input-file", metavar="FILE", help="A file that holds the input as JSON; `-` is stdin.")
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
@click.option("--task-queue", metavar="NAME", help="The task queue that the run goes to (PERDURE_TASK_QUEUE).")
@click.option("--agents", metavar="FILE", help="The agents.toml that --local serves (PERDURE_AGENTS).")
@workflows_option
@shared
def command(
    common: Common,
    target: str,
    argument: str | None,
    input_text: str | None,
    input_file: str | None,
    workflow_id: str | None,
    detach: bool,
    summary: str | None,
    task_queue: str | None,
    agents: str | None,
    workflows: tuple[str, ...],
    **options: Any,
) -> int:
    """Start a run and wait for it.

    FILE is a .json file with a list of phases, [{"name": …, "steps": […]}]. TYPE is a workflow type that a worker
    serves, for example Steps. MODULE:CLASS is a workflow of your own; --local serves it.

    Ctrl-C stops waiting, and the run goes on; with --local it goes on at the next --local.
    """
    with faults():
        chosen = resolve(target, read_input(argument, input_text, input_file))
        memo = run_options(options)
        named = [*workflows, *([chosen.module] if chosen.module else [])]
        if common.is_local:
            _refuse_unserved(chosen.workflow_type, named)
    _check_agents(agents)

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
        )
    except WorkflowAlreadyStartedError as error:
        raise Fault(
            f"Run {workflow_id!r} is running already. "
            f"Watch it with `perdure watch {workflow_id}{session.common.place}`, or give the new one another --id."
        ) from error


def _detached(session: Session, workflow_id: str) -> int:
    if session.common.is_json:
        print_json({"id": workflow_id, "task_queue": session.settings.task_queue})
        return COMPLETED
    click.echo(workflow_id)
    tell(f"Watch it with `perdure watch {workflow_id}{session.common.place}`.")
    return COMPLETED


def default_id(workflow_type: str) -> str:
    """`<type>-<date>-<time>-<4 hex digits>`."""
    return f"{workflow_type.lower()}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(RANDOM_BYTES)}"


def run_options(options: dict[str, Any]) -> dict[str, Any]:
    """The run options that were given, as the memo `perdure_options` holds them."""
    names = {"step_timeout": "step_timeout_seconds"}
    given = {names.get(name, name): value for name, value in options.items() if value is not None}
    RunOptions.model_validate(given)
    return given


def resolve(target: str, arguments: list[Any]) -> Target:
    """What a target stands for; `Steps` input is checked here, before anything starts."""
    path = Path(target)
    if path.suffix.lower() in YAML_SUFFIXES:
        raise Fault(f"{target!r} is a YAML file; this version of perdure reads JSON. Write it as a .json file.")
    if path.suffix.lower() == ".json":
        if arguments:
            raise Fault(f"{target!r} is the run's input itself. Leave INPUT, --input and --input-file out.")
        return _steps(read_json_file(target), path.name)
    if ":" in target:
        (found,) = load_workflows([target])
        name = workflow_name(found)
        if name is None:
            raise Fault(f"{target!r} is a dynamic workflow. Give the workflow type to start, and --workflows {target}.")
        return Target(name, arguments, f"{name} by perdure run", target)
    if path.is_file():
        raise Fault(f"{target!r} is a file, and perdure run reads .json files. Rename it, or name a workflow type.")
    if target == STEPS_WORKFLOW:
        if not arguments:
            raise Fault("Steps takes a list of phases. Give it as INPUT, with --input-file, or name a .json file.")
        return _steps(arguments[0], STEPS_WORKFLOW)
    return Target(target, arguments, f"{target} by perdure run")


def _steps(value: Any, source: str) -> Target:
    phases = parse_phases(value)
    named = ", ".join(phase.name for phase in phases)
    return Target(STEPS_WORKFLOW, [value], f"{source}: {named}" if named else f"{source}: no phases")


def read_input(argument: str | None, text: str | None, file: str | None) -> list[Any]:
    """The arguments of the run: one JSON value, or none."""
    given = [
        (source, value) for source, value in (("INPUT", argument), ("--input", text), ("--input-file", file)) if value
    ]
    if len(given) > 1:
        raise Fault(f"The input is given by {' and by '.join(source for source, _ in given)}. Give it once.")
    if not given:
        return []
    source, value = given[0]
    if source == "--input-file":
        return [read_json_file(value)]
    return [parse_json(value, source)]


def read_json_file(name: str) -> Any:
    """The JSON value of a file; `-` is stdin."""
    with _readable(name):
        text = sys.stdin.read() if name == STDIN else Path(name).read_text(encoding="utf-8")
    return parse_json(text, "stdin" if name == STDIN else name)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Fault(f"{name!r} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise Fault(f"{name!r} is no UTF-8 text (byte {error.start}).") from error


def parse_json(text: str, source: str) -> Any:
    """A JSON value, or where it stops being one."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        hint = "" if text.lstrip()[:1] in ("{", "[", '"') else """ A text is written in double quotes: '"text"'."""
        raise Fault(f"{source}:{error.lineno}:{error.colno}: this is no JSON ({error.msg}).{hint}") from error
    except ValueError as error:
        raise Fault(f"{source}: this is no JSON ({error}).") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"JSON has no {name}")


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


def _check_agents(agents: str | None) -> None:
    if agents is not None and not Path(agents).is_file():
        raise Fault(f"--agents is {agents!r}, and there is no such file.")
