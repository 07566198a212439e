"""`perdure approvals` and `approve`: what waits for a person, and their answer.

Law: the run decides whether an answer is taken, and a refusal is told in its own words; it then keeps waiting.
"""

from __future__ import annotations

import asyncio
import getpass
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import click
from temporalio.client import (
    WorkflowQueryFailedError,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.exceptions import FailureError
from temporalio.service import RPCError, RPCStatusCode

from runtime.commands.answers import given_answer
from runtime.commands.hosting import answering
from runtime.commands.options import COMPLETED, Common, Fault, run_argument, shared, workflows_option
from runtime.commands.session import WAITS_FOR_ITS_WORKFLOW, Session, execute, faults, print_json, tell
from runtime.listing import list_runs
from runtime.questions import question_lines
from runtime.standing import Json
from runtime.texts import full_stop, one_line
from runtime.watching import NoAnswer, NotBegun, RunReader, has_worker, no_worker
from workflows.approvals import ApprovalRequest, refuse_oversized
from workflows.errors import ApprovalRejected
from workflows.wire import RESOLVE_APPROVAL_UPDATE, SEEN_STORE_WORKFLOW

ANSWER_LIMIT = timedelta(seconds=10)
# A live worker takes an answer in milliseconds, and right after a restart it replays the run first.

BEGIN_LIMIT = timedelta(seconds=2)
PAUSE = timedelta(milliseconds=100)
# A worker that is there begins a run within milliseconds; where it does not, waiting longer would not help.

MOST_RUNS = 1_000
ASKED_AT_ONCE = 8
# Each run is asked for itself; more at once would only wait for each other in the worker.


@click.command("approvals")
@click.argument("run", required=False, metavar="[RUN]")
@click.option("--task-queue", metavar="NAME", help="The task queue whose runs to ask (PERDURE_TASK_QUEUE).")
@workflows_option
@shared
def approvals(common: Common, run: str | None, task_queue: str | None, workflows: tuple[str, ...]) -> int:
    """List what waits for a person's answer, in RUN or in every open run."""

    async def body(session: Session) -> int:
        readers = [await session.reader(run)] if run else await _open_runs(session)
        readers = [reader for reader in readers if reader.info.is_open]
        async with answering(session, readers) as is_brought:
            asked = _served(session, readers) if is_brought else readers
            found = await _waiting_in(asked, is_one=run is not None)
        if common.is_json:
            print_json([waiting.to_json() for waiting in found])
            return COMPLETED
        for waiting in found:
            click.echo("\n".join(question_lines(waiting.run, waiting.asked, session.place)))
        if not found:
            tell("Nothing waits for an answer.")
        return COMPLETED

    return execute(common, body, workflows=workflows, task_queue=task_queue)


async def _open_runs(session: Session) -> list[RunReader]:
    """The open runs that may ask a person."""
    queue = session.settings.task_queue
    runs = await list_runs(session.client, queue, "running", MOST_RUNS)
    if len(runs) == MOST_RUNS:
        tell(f"Task queue {queue!r} has more open runs than the {MOST_RUNS:,} asked here; name the run you mean.")
    if runs and not session.common.is_local and not await has_worker(session.client, queue):
        raise NoAnswer(no_worker(queue))
    return [
        RunReader(session.client, info, session.settings, session.workflows)
        for info in runs
        if info.type != SEEN_STORE_WORKFLOW
    ]


def _served(session: Session, readers: Sequence[RunReader]) -> list[RunReader]:
    """The runs that a worker of this call's can answer for; the others are named."""
    for info in (reader.info for reader in readers if not session.serves(reader.info.type)):
        tell(f"Run {info.id!r} ({info.type}) {WAITS_FOR_ITS_WORKFLOW}")
    return [reader for reader in readers if session.serves(reader.info.type)]


@dataclass(frozen=True)
class Waiting:
    """A question, and who takes its answer."""

    run: str
    """The run that a person knows."""
    asked: ApprovalRequest
    taker: RunReader
    """That run, or the child which carries the step that asks."""

    def to_json(self) -> Json:
        """The question for programs."""
        carried_by = {} if self.taker.info.id == self.run else {"slice": self.taker.info.id}
        return {"run": self.run, **carried_by, **self.asked.model_dump(mode="json")}


async def _waiting_in(readers: Sequence[RunReader], *, is_one: bool) -> list[Waiting]:
    """Everything that waits, the oldest first. A run that cannot be read is told."""
    free = asyncio.Semaphore(ASKED_AT_ONCE)

    async def ask(reader: RunReader) -> list[Waiting]:
        async with free:
            try:
                return await _waiting(reader)
            except NotBegun:
                return []
            except NoAnswer as silent:
                if is_one:
                    raise
                if not isinstance(silent.__cause__, WorkflowQueryFailedError):  # else it has nothing to ask with
                    tell(str(silent))
                return []

    found = await asyncio.gather(*(ask(reader) for reader in readers))
    return sorted((each for of_run in found for each in of_run), key=lambda each: each.asked.asked)


async def _waiting(reader: RunReader) -> list[Waiting]:
    """What waits in a run and in the children that carry steps of it, once it has begun."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while True:
        try:
            found = await reader.questions()
            return [Waiting(reader.info.id, ApprovalRequest.model_validate(asked), taker) for taker, asked in found]
        except NotBegun:
            if loop.time() - begun > BEGIN_LIMIT.total_seconds():
                raise
        await asyncio.sleep(PAUSE.total_seconds())


@click.command("approve")
@run_argument
@click.argument("approval", required=False, metavar="[ID]")
@click.option(
    "--field", "fields", multiple=True, metavar="NAME=VALUE", help="The value of a field; may be given again."
)
@click.option("--response", metavar="JSON", help="The whole answer, instead of --field.")
@click.option("--deny", is_flag=True, help="Say no, where one field or none decides.")
@click.option("--message", metavar="TEXT", help="With a field 'message', what it says: --field message=TEXT.")
@click.option("--by", metavar="NAME", help="Who answers. Default: your login name.")
@workflows_option
@shared
def approve(
    common: Common,
    run: str,
    approval: str | None,
    fields: tuple[str, ...],
    response: str | None,
    deny: bool,
    message: str | None,
    by: str | None,
    workflows: tuple[str, ...],
) -> int:
    """Answer what a run waits for a person to decide. The first answer counts.

    ID is an approval, its stage or its step; it can be left out where one approval waits. On a terminal the fields
    are asked for where none are given. An approval without fields is answered with {"approved": true}, or false with
    --deny.

    \b
    An agent that asks to call a tool:
      perdure approve RUN ID --field decision=approve
      perdure approve RUN ID --field decision=edit --field 'arguments={"to": "bob"}'
      perdure approve RUN ID --deny --message 'not on a Friday'
    """
    with faults():
        who = by or _login_name()
    if message is not None:
        fields = (*fields, f"message={message}")

    async def body(session: Session) -> int:
        reader = await session.reader(run)
        if not reader.info.is_open:
            raise Fault(await _told_of_ended(reader, approval))
        async with answering(session, [reader]) as is_brought:
            waiting = await _chosen(reader, approval)
            asked = waiting.asked
            answer = given_answer(reader.info.id, asked, fields, response, is_denied=deny)
            taken = await _send(session, waiting.taker, {"id": asked.id, "response": answer, "answered_by": who})
        if common.is_json:
            print_json({"run": reader.info.id, **taken})
            return COMPLETED
        told = one_line(json.dumps(taken["response"], ensure_ascii=False))
        click.echo(f"Approval {asked.id!r} of run {reader.info.id!r} was answered by {who!r}: {told}")
        if is_brought:
            tell(f"The run goes on at the next --local: `{session.again('watch', reader.info.id)}`.")
        return COMPLETED

    return execute(common, body, workflows=workflows)


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError) as error:  # no variable names a user, and the system knows none of this number
        raise Fault("Your login name is not known. Say who answers with --by NAME.") from error


async def _chosen(reader: RunReader, name: str | None) -> Waiting:
    """The approval of an id, a stage or a step; without a name the only one that waits."""
    waiting = await _waiting(reader)
    fitting = [each for each in waiting if name in (None, each.asked.id)] or [
        each for each in waiting if name in (each.asked.stage, each.asked.step)
    ]
    if len(fitting) == 1:
        return fitting[0]
    known = ", ".join(repr(each.asked.id) for each in waiting)
    if fitting:
        raise Fault(f"Run {reader.info.id!r} waits for {len(fitting)} approvals: {known}. Name the one you answer.")
    told = None if name is None else await _how_answered(reader, name)
    if told is not None:
        raise Fault(told)
    found = f"Run {reader.info.id!r} waits for no approval" + ("" if name is None else f" {name!r}")
    raise Fault(f"{found}. {f'It waits for {known}.' if waiting else 'Nothing waits in it.'}")


async def _told_of_ended(reader: RunReader, name: str | None) -> str:
    """Why nothing can be answered in a run that has ended."""
    told = None
    if name is not None:
        with suppress(NoAnswer):  # its end says enough
            told = await _how_answered(reader, name)
    ended = f"Run {reader.info.id!r} has ended ({reader.info.status})"
    return f"{told} {ended}." if told else f"{ended}, and nothing waits in it."


async def _how_answered(reader: RunReader, name: str) -> str | None:
    """By whom an approval was answered, as the events tell; None where they do not."""
    told = [await each.all_events() for each in (reader, *await reader.slices())]
    events = [envelope["event"] for page in told for envelope in page["events"]]
    ids = {event["id"] for event in events if event["type"] == "approval_asked" and event["stage"] == name} | {name}
    for event in reversed(events):
        if event["type"] == "approval_resolved" and event["id"] in ids:
            approval = f"Approval {event['id']!r} of run {reader.info.id!r}"
            if event.get("by_deadline"):
                return f"{approval} was decided by its deadline."
            by = f" by {event['answered_by']!r}" if event.get("answered_by") else ""
            return f"{approval} was answered already{by}. The first answer counts."
    return None


async def _send(session: Session, reader: RunReader, answer: Json) -> Json:
    """What the run has taken down."""
    try:
        refuse_oversized(answer["response"])
        async with asyncio.timeout(ANSWER_LIMIT.total_seconds()):
            taken: Json = await reader.handle.execute_update(RESOLVE_APPROVAL_UPDATE, answer)
            return taken
    except ApprovalRejected as error:
        raise Fault(f"The answer was refused: {error.message}") from error
    except WorkflowUpdateFailedError as error:
        raise Fault(f"The answer was refused: {_message(error.cause)}") from error
    except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError) as error:
        queue = reader.info.task_queue
        why = f"no worker of task queue {queue!r} has taken it for {ANSWER_LIMIT.total_seconds():g} s"
        looking = session.again("approvals", reader.info.id)
        raise NoAnswer(f"The answer was sent, and {why}. It may still be taken: look with `{looking}`.") from error
    except RPCError as error:
        if error.status is RPCStatusCode.UNAVAILABLE:
            raise
        if not (await reader.refresh()).is_open:
            raise Fault(await _told_of_ended(reader, answer["id"])) from error
        raise Fault(full_stop(f"Temporal did not pass the answer on: {error.message}")) from error


def _message(cause: Any) -> str:
    return cause.message if isinstance(cause, FailureError) else str(cause)
