"""`perdure record` and `replay`: proving that today's code still runs yesterday's histories."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import click
from google.protobuf.json_format import ParseError
from temporalio.client import WorkflowHistory

from runtime.commands.options import COMPLETED, NOT_COMPLETED, Common, Fault, run_argument, shared, workflows_option
from runtime.commands.session import Session, execute, faults, print_json, tell
from runtime.listing import list_runs
from runtime.plugin import load_workflows
from runtime.recording import inlined, recorded
from runtime.replaying import ReplayVerdict, replay_histories
from runtime.settings import Settings

HISTORIES = Path("tests/replay/histories")

STDOUT = Path("-")

UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
# In a file name: a workflow id may hold anything, slashes too.

MAX_NAME_LENGTH = 200
# Most file systems take 255 bytes.


@click.command("record")
@run_argument
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help=f"The file; `-` is stdout. Default: {HISTORIES}/TYPE-ID.json.",
)
@click.option("--force", is_flag=True, help="Overwrite the file if it exists.")
@shared
def record(common: Common, run: str, output: Path | None, force: bool) -> int:
    """Store the history of a run as JSON, for replay tests.

    The file holds every prompt, answer and result of the run as it is stored, so secrets in them too. Process ids,
    host names and stack traces are left out: a replay reads none of them.
    """

    async def body(session: Session) -> int:
        reader = await session.reader(run)
        info = reader.info
        path = output or default_path(info.type, info.id)
        if path != STDOUT:
            _refuse_existing(path, force)
        history = await reader.handle.fetch_history()
        missing = await inlined(history, reader.client.data_converter)
        _keep(path, recorded(history))
        if path != STDOUT and common.is_json:
            print_json({"id": info.id, "type": info.type, "file": str(path), "events": len(history.events)})
        elif path != STDOUT:
            click.echo(str(path))
        tell(f"{len(history.events):,} events. Prompts and results are in it: look for secrets before you commit it.")
        for one in missing:
            tell(f"Left as a reference: {one.message}")
        if info.is_open:
            tell(f"Run {info.id!r} has not ended; the file holds what has happened so far.")
        return COMPLETED

    return execute(common, body)


def default_path(workflow_type: str, workflow_id: str) -> Path:
    """Where the history of a run goes if nobody says otherwise."""
    return HISTORIES / f"{UNSAFE.sub('_', f'{workflow_type}-{workflow_id}')[:MAX_NAME_LENGTH]}.json"


def _refuse_existing(path: Path, force: bool) -> None:
    if path.exists() and not force:
        raise Fault(f"{str(path)!r} exists already. Overwrite it with --force, or name another with --output.")


def _keep(path: Path, text: str) -> None:
    if path == STDOUT:
        click.echo(text, nl=False)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Fault(f"{str(path)!r} cannot be written ({error.strerror}).") from error


@click.command("replay")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE]...")
@click.option("--recent", type=click.IntRange(min=1), metavar="N", help="The latest N runs of the task queue instead.")
@workflows_option
@shared
def replay(common: Common, files: tuple[Path, ...], recent: int | None, workflows: tuple[str, ...]) -> int:
    """Replay histories with the code that is here; exit 1 where one does not replay.

    Without FILE, every file of tests/replay/histories; needs no server then.
    """
    if recent is not None and files:
        raise Fault("--recent takes histories from Temporal, and files are named too. Leave one of them out.")
    if recent is not None:
        return execute(common, lambda session: _replay_recent(session, recent), workflows=workflows)
    with faults():
        settings = Settings.load(workflows=workflows or None)
        histories = [read_history(path) for path in files or _recorded()]
        return _replay_here(common, histories, settings)


async def _replay_recent(session: Session, recent: int) -> int:
    infos = await list_runs(session.client, session.settings.task_queue, None, recent)
    if not infos:
        raise Fault(f"No run was found on task queue {session.settings.task_queue!r}.")
    handles = [session.client.get_workflow_handle(info.id, run_id=info.run_id) for info in infos]
    histories = [await handle.fetch_history() for handle in handles]
    return _judge(session.common, await replay_histories(histories, session.workflows, session.settings))


def _replay_here(common: Common, histories: list[WorkflowHistory], settings: Settings) -> int:
    classes = load_workflows(settings.workflows)
    return _judge(common, asyncio.run(replay_histories(histories, classes, settings)))


def _recorded() -> list[Path]:
    found = sorted(HISTORIES.glob("*.json"))
    if not found:
        raise Fault(f"There is no history in {str(HISTORIES)!r}. Make one with `perdure record RUN`, or name files.")
    return found


def read_history(path: Path) -> WorkflowHistory:
    """A recorded history, named after its file."""
    try:
        return WorkflowHistory.from_json(path.stem, path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Fault(f"{str(path)!r} cannot be read ({error.strerror}).") from error
    except (ParseError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Fault(f"{str(path)!r} is no history as `perdure record` writes it ({type(error).__name__}).") from error


def _judge(common: Common, verdicts: list[ReplayVerdict]) -> int:
    """Say how each history replayed."""
    failed = [verdict for verdict in verdicts if verdict.failure is not None]
    if common.is_json:
        print_json([{"id": v.workflow_id, "type": v.workflow_type, "failure": v.failure} for v in verdicts])
    else:
        for verdict in verdicts:
            click.echo(f"{verdict.workflow_id} ({verdict.workflow_type}): {verdict.failure or 'ok'}")
    return NOT_COMPLETED if failed else COMPLETED
